//! θ-PowerTCP (Addanki, Michel, Schmid, NSDI 2022): reacts to the product of delay and its change,
//! which is the power that the network sees, from round trips alone.
//!
//! A queue that grows is answered before it is long, and one that shrinks is not punished for what
//! it was. The gradient of single samples means nothing when each comes from another path, so both
//! the delay and its change are taken from the median of recent ones.

use super::median::Median;
use super::{Controller, Sample};
use crate::clock::Timestamp;
use crate::units::{Bytes, Nanos};

/// What [`Power`] aims at.
#[derive(Debug, Clone, Copy)]
pub struct PowerConfig {
    /// Never less in flight.
    pub window_min: Bytes,
    /// Never more in flight.
    pub window_max: Bytes,
    /// Window at the start.
    pub window_start: Bytes,
    /// Added in each update: the paper's β, of which all senders of a bottleneck together make its
    /// standing queue.
    pub increase: Bytes,
}

/// A window that follows the network's power.
#[derive(Debug, Clone)]
pub struct Power {
    config: PowerConfig,
    window: f64,
    /// The window of a round trip ago, which the samples of now speak about.
    reference: f64,
    reference_at: Timestamp,
    smoothed: f64,
    median: Median,
    previous: Option<(Timestamp, Nanos)>,
}

/// Weight of a new window (the paper's γ).
const GAIN: f64 = 0.7;
/// So much longer than the least is a round trip without a queue.
const SLACK: f64 = 1.05;
/// A delay that falls faster than this counts no further.
const GRADIENT_MIN: f64 = 0.5;

impl Power {
    /// A window at its start.
    #[must_use]
    pub fn new(config: PowerConfig) -> Self {
        let window = config.window_start.as_f64();
        Self {
            config,
            window,
            reference: window,
            reference_at: Timestamp::ZERO,
            smoothed: 1.0,
            median: Median::default(),
            previous: None,
        }
    }
}

impl Controller for Power {
    fn name(&self) -> &'static str {
        "power"
    }

    #[expect(clippy::cast_precision_loss, reason = "times of a few round trips")]
    fn on_sample(&mut self, sample: &Sample) {
        self.median.push(sample.rtt.0);
        let rtt = Nanos(self.median.get());
        let Some((at, before)) = self.previous.replace((sample.now, rtt)) else {
            return;
        };
        let base = (sample.rtt_min.0 as f64).max(1.0);
        let elapsed = sample.now.since(at).0 as f64;
        if elapsed == 0.0 {
            self.previous = Some((at, before));
            return;
        }
        let change = (rtt.0 as f64 - before.0 as f64) / elapsed;
        let gradient = (change + 1.0).max(GRADIENT_MIN);
        let power = gradient * rtt.0 as f64 / (SLACK * base);
        let weight = (elapsed / base).min(1.0);
        self.smoothed = self.smoothed * (1.0 - weight) + power * weight;
        let target = self.reference / self.smoothed.max(0.01) + self.config.increase.as_f64();
        let (least, most) = (
            self.config.window_min.as_f64(),
            self.config.window_max.as_f64(),
        );
        self.window = (GAIN * target + (1.0 - GAIN) * self.reference).clamp(least, most);
        if sample.now.since(self.reference_at) >= rtt {
            self.reference_at = sample.now;
            // A window that isn't used says nothing about what the network would bear.
            let used = sample.in_flight.as_f64() >= self.window / 2.0;
            if used || self.window < self.reference {
                self.reference = self.window;
            }
        }
    }

    fn on_path_lost(&mut self, _now: Timestamp) {
        self.median = Median::default();
        self.previous = None;
        self.smoothed = 1.0;
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within its bounds"
    )]
    fn window(&self) -> Bytes {
        Bytes(self.window as u64).max(self.config.window_min)
    }
}
