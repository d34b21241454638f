//! The sans-IO core of a link: messages become credits and chunks, chunks are given to paths,
//! failed paths are fenced and their chunks replayed.
//!
//! The engine never reads a clock, opens a socket, spawns a thread or allocates per chunk.
//! Inputs are `handle_*` calls that carry `now`, outputs are `poll_*` calls; buffers are
//! addresses that it passes on and never touches. So the simulator, the tests and the real
//! transports run the same code, and a run can be repeated from its inputs.
//!
//! A link carries data one way, from the side that dialled ([`TxEngine`]) to the side that
//! listens ([`RxEngine`]): the two directions of a port pair take unrelated ways through a
//! fabric, and a set of paths that does not collide one way collides the other way. Two
//! processes that send to each other have two links.

pub mod admission;
pub mod bitmap;
#[cfg(test)]
mod gpu_tests;
mod record;
mod rx;
mod tx;
pub mod wire;

pub use rx::{Landing, RecvDone, RecvError, RxAction, RxEngine, RxTransmit, Sink, Violation};
pub use tx::{
    FenceReason, PathInfo, PathState, PortSignals, Probes, SendDone, SendError, Submitted,
    Transmit, TxAction, TxEngine, TxEvent, Write,
};

use crate::path::health::HealthConfig;
use crate::units::Nanos;

/// A range of memory, by address: the engine computes with it and never reads or writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemRange {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
}

/// Who says that a chunk has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completions {
    /// The peer's acknowledgements (TCP).
    Peer,
    /// The transport's own work completions (RoCE).
    Local,
}

/// What a link needs to know of its settings and its transport.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Path slots of the link, 1 to 64.
    pub paths_max: u8,
    /// Ports of the host that the paths leave by, in turn.
    pub ports: u8,
    /// Look for paths that lead different ways; otherwise every path is used as it comes up.
    pub search: bool,
    /// Give a path up that stays slower than its siblings, and take another source port in its
    /// place: where nobody can tell which way a port leads. Needs [`Completions::Local`].
    pub rehash: bool,
    /// The transport may be able to change the source port of a channel that is up: it is asked, by
    /// [`TxEngine::poll_reroute`], before a path is given up for it.
    pub reroute: bool,
    /// Messages up to this size go without a credit.
    pub eager_bytes: u32,
    /// Chunk size, where it is not chosen from the measured rates.
    pub chunk_bytes: Option<u32>,
    /// Who completes chunks.
    pub completions: Completions,
    /// Receive work requests that the peer keeps posted on each path, where the transport needs them.
    pub receive_depth: Option<u32>,
    /// The receiver grants bytes: a sender goes beyond its first allowance only as it is told.
    /// The allowance at the start of a link; `None`: nothing is granted, a credit is enough.
    pub first_grant: Option<u64>,
    /// Silence timeouts.
    pub health: HealthConfig,
    /// All paths silent or gone for so long: the peer is dead.
    pub dead_peer: Nanos,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            paths_max: 8,
            ports: 1,
            search: true,
            rehash: false,
            reroute: false,
            eager_bytes: 8192,
            chunk_bytes: None,
            completions: Completions::Peer,
            receive_depth: None,
            first_grant: None,
            health: HealthConfig::default(),
            dead_peer: Nanos::from_secs(30),
        }
    }
}

/// Bytes of eager messages that may wait for their receive on a link: what a receiver grants at
/// hello. Each message costs [`EAGER_OVERHEAD`] on top of its length.
pub const EAGER_WINDOW: u64 = 64 << 10;
/// What an eager message costs beside its bytes, so that empty ones are bounded too.
pub const EAGER_OVERHEAD: u64 = 64;

/// Whoever waits for the other end asks after each path that it has not heard from for so long: a
/// peer that is gone, or that has lost the channel and whose word of that was lost too, is found
/// out so.
const UNHEARD: Nanos = Nanos(250_000_000);

/// Counts per tag: how many messages (or receives) with this tag came before. Both ends count
/// alike, so the pair (tag, ordinal) names a message without a word between them.
#[derive(Debug, Default)]
struct Ordinals(Vec<(i32, u32)>);

impl Ordinals {
    fn next(&mut self, tag: i32) -> u32 {
        if let Some((_, next)) = self.0.iter_mut().find(|(t, _)| *t == tag) {
            let ordinal = *next;
            *next = next.wrapping_add(1);
            return ordinal;
        }
        self.0.push((tag, 1));
        0
    }

    /// Whether this one has been given out.
    fn has_given(&self, tag: i32, ordinal: u32) -> bool {
        let next = self.0.iter().find(|(t, _)| *t == tag);
        // They wrap around; what is nearer behind than ahead was given.
        next.is_some_and(|(_, next)| next.wrapping_sub(ordinal).wrapping_sub(1) < 1 << 31)
    }
}
