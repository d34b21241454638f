//! RDMA: which ports a host has, what they count, and queue pairs between them.
//!
//! Without the feature `verbs` there are never any ports: the rest of the library need not ask.

#[cfg(feature = "verbs")]
pub mod adapters;
#[cfg(not(feature = "verbs"))]
#[path = "no_adapters.rs"]
pub mod adapters;
#[cfg(feature = "verbs")]
pub mod channel;
pub mod counters;
pub mod device;
pub mod readings;
#[cfg(feature = "verbs")]
pub mod stamps;
#[cfg(feature = "verbs")]
pub mod sys;
#[cfg(feature = "verbs")]
mod watch;
#[cfg(feature = "verbs")]
pub mod within_host;

use std::fmt;
use std::net::Ipv6Addr;
use std::os::fd::RawFd;
use std::sync::Arc;

use self::adapters::{Adapters, Registration};
use crate::auth;
use crate::engine::wire::Keys;

/// Receives that a receiver keeps posted on each path for data frames; its sender counts them.
pub const RECEIVES_DATA: u32 = 128;
/// The largest small message that goes without a credit: every one of those receives has room for it.
pub const EAGER_BYTES_MAX: u32 = 4096;

/// A source port for a path over `RoCE`: a way through the fabric. Adapters use those from here up.
#[must_use]
pub fn random_source_port() -> u16 {
    let [low, high, ..] = auth::nonce().unwrap_or_default();
    u16::from_le_bytes([low, high]) | 0xc000
}

/// One end of a queue pair, as the other end has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Number of the queue pair.
    pub number: u32,
    /// The packet that it begins with, 24 bits, at random: an older connection's packets must not
    /// pass for this one's.
    pub first_packet: u32,
    /// Address of its port.
    pub gid: Ipv6Addr,
    /// The same in an InfiniBand subnet.
    pub lid: u16,
    /// Bytes of payload that its port takes in a packet.
    pub mtu: u16,
}

/// The keys of registered memory, in the order of the ports it is registered for.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryKeys {
    /// By which our own requests name it.
    pub local: Keys,
    /// By which the peer's name it.
    pub remote: Keys,
}

/// Memory that another driver has exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaBuf {
    /// Its descriptor, of which nothing is needed once the memory is registered.
    pub fd: RawFd,
    /// Where in it the memory begins, in bytes.
    pub offset: u64,
}

/// What memory is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// The host's.
    Host,
    /// A GPU's, at an address of its driver's, where that driver and the adapter's know each other
    /// (peer memory).
    Gpu,
    /// A GPU's that its driver has exported.
    DmaBuf(DmaBuf),
}

impl MemoryKind {
    /// Whether the host's processors must leave it alone.
    #[must_use]
    pub fn is_gpu(self) -> bool {
        self != Self::Host
    }
}

/// By which ways adapters get to the memory of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuAccess {
    /// It is registered like the host's.
    pub peer_memory: bool,
    /// As DMABUF.
    pub dmabuf: bool,
}

/// Something that an adapter does within this host.
#[derive(Debug, Clone, Copy)]
pub enum Move<'a> {
    /// Reads a byte from memory of a GPU, and forgets it: whatever this adapter has written into that
    /// memory before is there for the GPU to see once the byte has come.
    Flush {
        /// Address of the byte.
        addr: u64,
        /// The memory's key for the peer.
        key: u32,
    },
    /// Brings a small message there.
    Bring {
        /// The message, of at most [`EAGER_BYTES_MAX`] bytes.
        data: &'a [u8],
        /// Where it goes.
        addr: u64,
        /// The memory's key for the peer.
        key: u32,
    },
}

/// A move that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Why, in words.
    pub reason: String,
    /// By itself, and not because one before it had.
    pub by_itself: bool,
}

/// Does moves at one port. They end in their order.
pub trait Mover: fmt::Debug + Send {
    /// Begins with one; `false`: there is no room for it now.
    ///
    /// # Errors
    /// The adapter refuses, and why; then none can be begun any more.
    fn begin(&mut self, step: Move<'_>) -> Result<bool, String>;
    /// How those that have ended since did so.
    fn poll(&mut self, ended: &mut Vec<Result<(), Failed>>);
    /// Gives up what is under way: it ends, and soon.
    fn silence(&mut self);
    /// The same, and waits for the end of it.
    fn end(&mut self);
}

/// A mover, or why there is none.
pub type Made = Result<Box<dyn Mover>, String>;

/// The ports of this host that a link uses, in the order of its keys.
#[derive(Debug, Clone)]
pub struct LinkPorts {
    /// All ports of the process.
    pub adapters: Arc<Adapters>,
    /// The link's, by their index.
    pub ports: Vec<usize>,
}

impl LinkPorts {
    /// Which of the link's own ports this one of the host's is.
    #[must_use]
    pub fn place_of(&self, port: usize) -> Option<usize> {
        self.ports.iter().position(|&own| own == port)
    }

    /// What the ports are called.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let all = self.adapters.ports();
        self.ports.iter().map(|&port| all[port].name()).collect()
    }

    /// Registers memory with them.
    ///
    /// # Errors
    /// It is not mapped, or cannot be pinned.
    ///
    /// # Safety
    /// The memory stays mapped until the registration is dropped.
    #[allow(unsafe_code, reason = "callers name their memory by address")]
    pub unsafe fn register(
        &self,
        addr: *mut u8,
        bytes: usize,
        kind: MemoryKind,
    ) -> Result<Registration, String> {
        // SAFETY: the caller's promise.
        unsafe { self.adapters.register(&self.ports, addr, bytes, kind) }
    }
}

/// Part of a device that may fail by itself, by its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A queue pair.
    QueuePair(u32),
    /// A completion queue.
    CompletionQueue(u32),
}

/// What the paths of a port have to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortEvent {
    /// Nothing gets through any more, or by another address than before.
    Down,
    /// It can be used.
    Up,
    /// One path may have failed, and its completions may not say so.
    Failed(Part),
}

/// How loud a line for the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A user should see to it.
    Bad,
    /// Something has changed.
    Good,
    /// For those who debug.
    Detail,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How loud.
    pub weight: Weight,
    /// What has happened, and where.
    pub text: String,
}

/// What has happened to a device that nobody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// For the paths of which ports, in this order.
    pub events: Vec<(usize, PortEvent)>,
    /// For the log.
    pub notices: Vec<Notice>,
    /// The device tells nothing more.
    pub is_over: bool,
}

/// How packets leave a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marking {
    /// The IP header's traffic class, DSCP and ECN, of data.
    pub data: u8,
    /// And of what a receiver sends back: credits and acknowledgements.
    pub control: u8,
    /// Service level: the priority on the wire, unless the adapter goes by the traffic class.
    pub service_level: u8,
}
