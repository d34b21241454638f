//! A constant window: the yardstick for the others, and the right choice where the network
//! itself does everything else.

use super::{Controller, Sample};
use crate::clock::Timestamp;
use crate::units::Bytes;

/// A constant window.
#[derive(Debug, Clone, Copy)]
pub struct Fixed {
    window: Bytes,
}

impl Fixed {
    /// Always `window`.
    #[must_use]
    pub fn new(window: Bytes) -> Self {
        Self { window }
    }
}

impl Controller for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }

    fn on_sample(&mut self, _sample: &Sample) {}

    fn on_path_lost(&mut self, _now: Timestamp) {}

    fn window(&self) -> Bytes {
        self.window
    }
}
