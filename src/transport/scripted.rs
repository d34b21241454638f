//! A channel that does what a test of a driver tells it to: what a transport does rarely, it does at
//! once.

use super::verbs::Part;
use super::{Channel, ChannelError, Receiver};
use crate::clock::Timestamp;
use crate::engine::MemRange;
use crate::engine::wire::Header;
use crate::path::health::TransportStats;

/// What it does.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    /// Frames that arrive next, one at a time.
    pub(crate) arriving: Vec<Header>,
    /// Writes of the peer that are found when it is made silent: immediates and bytes.
    pub(crate) left: Vec<(u32, u32)>,
    /// And those that arrive while it sees to it that what was queued does.
    pub(crate) meanwhile: Vec<(u32, u32)>,
    /// Nothing can be sent.
    pub(crate) refuses: bool,
    /// A frame waits to be sent.
    pub(crate) unsent: bool,
    /// What it stands and falls with.
    pub(crate) part: Option<Part>,
    /// The port that it can be made to send from.
    pub(crate) reroutes_to: Option<u16>,
}

impl Channel for Scripted {
    fn queue(&mut self, _header: Header, _payload: MemRange, _owner: u32) {
        self.unsent = true;
    }

    fn flush(&mut self) -> Result<(), ChannelError> {
        if self.refuses {
            return Err(ChannelError::Adapter("refused".into()));
        }
        self.unsent = false;
        Ok(())
    }

    fn has_unsent(&self) -> bool {
        self.unsent
    }

    fn holds(&self, _owner: u32) -> bool {
        false
    }

    fn receive(
        &mut self,
        _scratch: &mut [u8],
        receiver: &mut dyn Receiver,
    ) -> Result<usize, ChannelError> {
        let Some(header) = self.arriving.pop() else {
            return Ok(0);
        };
        receiver.frame(header.as_bytes(), 1)?;
        Ok(1)
    }

    fn silence(&mut self, _scratch: &mut [u8], receiver: &mut dyn Receiver) {
        for (immediate, bytes) in self.left.drain(..) {
            let _ = receiver.written(immediate, bytes);
        }
    }

    fn settle(&mut self, _until: Timestamp, receiver: Option<&mut dyn Receiver>) {
        if let Some(receiver) = receiver {
            for (immediate, bytes) in self.meanwhile.drain(..) {
                let _ = receiver.written(immediate, bytes);
            }
        }
    }

    fn discard_arriving(&mut self) {}

    fn stats(&mut self) -> TransportStats {
        TransportStats::default()
    }

    fn backlog(&mut self) -> u64 {
        0
    }
}
