//! The ports that a link leaves the host by, and what their adapters count: the slow signals, beside
//! the completions' fast ones.

use super::{TxEngine, TxEvent};
use crate::clock::Timestamp;
use crate::control::Controller;
use crate::control::median::Median;
use crate::path::loss::Loss;
use crate::units::Nanos;

/// What an adapter has counted at a port since the last time, for all links of the host together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortSignals {
    /// Packets that left.
    pub sent: u64,
    /// Payload bytes of a full one.
    pub packet_bytes: u32,
    /// Packets that were lost on their way: others said so, or nothing came back.
    pub lost: u64,
    /// The network asked for less, and that holds for so long; zero if it did not.
    pub congested_for: Nanos,
}

#[derive(Debug, Default)]
pub(super) struct TxPort {
    loss: Loss,
    /// What the link itself had sent by it at the last reading, in bytes.
    own_bytes: u64,
    congested_until: Timestamp,
    /// Queues that its last chunks met, in ns.
    pub(super) recent_queues: Median,
}

impl TxEngine {
    /// What an adapter has counted at one of the link's ports.
    ///
    /// A port that loses packets is left, for a while, as long as another has paths. But the figures
    /// are those of all links: only where at least half of what the port sends is this link's own do
    /// they say that it is this link's way that is bad.
    ///
    /// That the network asks for less goes to the controller.
    pub fn handle_signals(&mut self, port: u8, signals: &PortSignals, now: Timestamp) {
        let paths = self.paths.iter().filter(|path| path.port == port);
        let own_bytes = paths.map(|path| path.bytes_total).sum::<u64>();
        let Some(p) = self.ports.get_mut(usize::from(port)) else {
            return;
        };
        let own = own_bytes - std::mem::replace(&mut p.own_bytes, own_bytes);
        let all = signals.sent.saturating_mul(signals.packet_bytes.into());
        if own.saturating_mul(2) >= all
            && let Some(found) = p.loss.observe(signals.sent, signals.lost, now)
        {
            self.tell(TxEvent::Lossy { port, found }, now);
        }
        if !signals.congested_for.is_zero() {
            self.ports[usize::from(port)].congested_until = now + signals.congested_for;
        }
        let congested = self.ports.iter().any(|p| p.is_congested(now));
        self.controller.on_notified(congested);
    }

    /// By which of the link's ports a path leaves.
    #[must_use]
    pub fn port_of(&self, path: u8) -> u8 {
        self.paths[usize::from(path)].port
    }
}

impl TxPort {
    /// Whether the network has asked it for less of late.
    pub(super) fn is_congested(&self, now: Timestamp) -> bool {
        now < self.congested_until
    }

    /// Whether the link does without it just now.
    pub(super) fn is_left(&self, now: Timestamp) -> bool {
        self.loss.is_away(now)
    }
}
