//! Channels: what a path is made of. A channel carries frames in order, reliably, until it
//! fails as a whole; what it had not delivered by then is the engine's business.

pub mod faulty;
pub mod framing;
pub mod loopback;
#[cfg(test)]
pub(crate) mod scripted;
pub mod tcp;
pub mod verbs;

use std::io;
use std::net::TcpStream;
use std::os::fd::RawFd;
use std::sync::Arc;

use thiserror::Error;

use self::faulty::{Faults, Faulty};
use self::tcp::TcpChannel;
use self::verbs::Part;
#[cfg(feature = "verbs")]
use self::verbs::channel::{Pair, VerbsChannel};
use crate::clock::Timestamp;
use crate::engine::wire::{Header, WireError};
use crate::engine::{MemRange, Sink, Violation, Write};
use crate::path::health::TransportStats;

/// Why a channel ended.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// The system failed it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came over it is not our protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The adapter failed it.
    #[error("the adapter gave up: {0}")]
    Adapter(String),
}

impl From<WireError> for ChannelError {
    fn from(error: WireError) -> Self {
        Self::Violation(error.into())
    }
}

/// Takes in what arrives on a channel.
pub trait Receiver {
    /// A whole header. For a data frame: where its payload goes. `arrived_ns` is the wall clock
    /// when it reached the host, as near as the channel knows.
    ///
    /// # Errors
    /// How the peer broke the protocol.
    fn frame(&mut self, header: &[u8], arrived_ns: u64) -> Result<Option<Sink>, Violation>;
    /// The payload of the last data frame is in its place.
    fn payload_done(&mut self);
    /// The peer has written so many bytes into our memory, and said this of them.
    ///
    /// # Errors
    /// How the peer broke the protocol.
    fn written(&mut self, _immediate: u32, _bytes: u32) -> Result<(), Violation> {
        Err(Violation::Protocol("a write on a path that only sends"))
    }
    /// The transport tells that something has reached the peer's host.
    fn sent(&mut self, _sent: Sent) {}
    /// The time, or when this look began: what polls has read the clock, and doing so costs as much as a
    /// look that finds nothing.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Something that has reached the peer's host.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// A data frame; all of them are told, in their order.
    pub is_data: bool,
    /// When it was given to the transport.
    pub given_at: Timestamp,
    /// When it was there; `None` if it may have been long before anybody looked.
    pub completed_at: Option<Timestamp>,
}

/// One established path.
pub trait Channel {
    /// Queues a frame. `payload` is read when it is sent, `owner` names the connection it
    /// belongs to (0: none).
    fn queue(&mut self, header: Header, payload: MemRange, owner: u32);

    /// Sends what is queued, as far as the channel takes it now.
    ///
    /// # Errors
    /// The channel has failed.
    fn flush(&mut self) -> Result<(), ChannelError>;

    /// Whether anything is queued.
    fn has_unsent(&self) -> bool;

    /// Whether a payload of this connection is queued: its memory is still going to be read.
    fn holds(&self, owner: u32) -> bool;

    /// Takes in what has arrived, within a bound; says how many bytes.
    ///
    /// # Errors
    /// The channel has failed, or the peer has broken the protocol.
    fn receive(
        &mut self,
        scratch: &mut [u8],
        receiver: &mut dyn Receiver,
    ) -> Result<usize, ChannelError>;

    /// Takes in all that has arrived; where the peer writes into our memory, it does so no more.
    fn silence(&mut self, scratch: &mut [u8], receiver: &mut dyn Receiver) {
        while self
            .receive(scratch, receiver)
            .is_ok_and(|received| received > 0)
        {}
    }

    /// Waits until what was queued has reached the peer's host, if it is lost with the channel
    /// otherwise. What arrives meanwhile is for the receiver; without one nobody wants it any more.
    fn settle(&mut self, _until: Timestamp, _receiver: Option<&mut dyn Receiver>) {}

    /// Skips the rest of the payload that is arriving: its memory is not written any more.
    fn discard_arriving(&mut self);

    /// What the transport knows of the path.
    fn stats(&mut self) -> TransportStats;

    /// Bytes that have not reached the peer's host, as far as is known here.
    fn backlog(&mut self) -> u64;
}

/// The channels, dispatched without a virtual call on the data path.
#[derive(Debug)]
pub enum AnyChannel {
    /// A socket.
    Tcp(TcpChannel),
    /// A socket with faults.
    Faulty(Box<Faulty<TcpChannel>>),
    /// A queue pair.
    #[cfg(feature = "verbs")]
    Verbs(Box<VerbsChannel>),
    /// What a test says.
    #[cfg(test)]
    #[allow(private_interfaces, reason = "tests of this crate alone have it")]
    Scripted(Box<scripted::Scripted>),
}

/// Does the same with whatever channel it is.
macro_rules! each {
    ($any:expr, $channel:ident => $done:expr) => {
        match $any {
            AnyChannel::Tcp($channel) => $done,
            AnyChannel::Faulty($channel) => $done,
            #[cfg(feature = "verbs")]
            AnyChannel::Verbs($channel) => $done,
            #[cfg(test)]
            AnyChannel::Scripted($channel) => $done,
        }
    };
}

impl AnyChannel {
    /// A socket's channel as path number `path`; under the conditions of a table, if there is one.
    #[must_use]
    pub fn over_tcp(channel: TcpChannel, path: u8, faults: Option<&Arc<Faults>>) -> Self {
        match faults {
            None => Self::Tcp(channel),
            Some(faults) => Self::Faulty(Box::new(Faulty::over_tcp(
                channel,
                path,
                Arc::clone(faults),
            ))),
        }
    }

    /// The descriptors to wait for.
    #[must_use]
    pub fn fds(&self) -> [Option<RawFd>; 2] {
        match self {
            Self::Tcp(c) => [Some(c.fd()), None],
            Self::Faulty(c) => [Some(c.inner().fd()), None],
            #[cfg(feature = "verbs")]
            Self::Verbs(c) => c.fds(),
            #[cfg(test)]
            Self::Scripted(_) => [None, None],
        }
    }

    /// Lets the descriptors tell of what comes next, where they do not do so by themselves. What has
    /// come already is for [`Channel::receive`].
    pub fn arm(&mut self) {
        #[cfg(feature = "verbs")]
        if let Self::Verbs(c) = self {
            c.arm();
        }
    }

    /// Whether the other end has given the path up, where nothing that arrives says so.
    pub fn is_abandoned(&mut self) -> bool {
        #[cfg(feature = "verbs")]
        if let Self::Verbs(c) = self {
            return c.is_abandoned();
        }
        false
    }

    /// Keeps the socket over which the ends found each other, where the channel is not that socket.
    pub fn keep(&mut self, socket: TcpStream) {
        #[cfg(feature = "verbs")]
        if let Self::Verbs(c) = self {
            return c.keep(socket);
        }
        drop(socket);
    }

    /// Sends from another source port from now on, where that can be changed of a channel that is up.
    /// Says which it is.
    pub fn reroute(&mut self) -> Option<u16> {
        #[cfg(feature = "verbs")]
        if let Self::Verbs(c) = self {
            return c.reroute();
        }
        #[cfg(test)]
        if let Self::Scripted(c) = self {
            return c.reroutes_to;
        }
        None
    }

    /// Whether it stands and falls with this part of its adapter.
    #[must_use]
    pub fn has(&self, part: Part) -> bool {
        #[cfg(feature = "verbs")]
        if let Self::Verbs(c) = self {
            return c.pair().has(part);
        }
        #[cfg(test)]
        if let Self::Scripted(c) = self {
            return c.part == Some(part);
        }
        let _ = part; // a socket has none
        false
    }

    /// Queues a data frame: a chunk if there is something to write, else a small message.
    pub fn queue_data(
        &mut self,
        header: Header,
        write: Option<Write>,
        payload: MemRange,
        owner: u32,
    ) {
        #[cfg(feature = "verbs")]
        if let Self::Verbs(c) = self {
            match write {
                Some(write) => c.write(write, payload, owner),
                None => c.send(header, payload, true),
            }
            return;
        }
        // A small message is sent from the engine's own memory.
        let owner = if write.is_some() { owner } else { 0 };
        self.queue(header, payload, owner);
    }

    /// Closes at once, with whatever is queued or in flight.
    pub fn abort(self) {
        match self {
            Self::Tcp(c) => c.abort(),
            Self::Faulty(c) => c.abort(),
            #[cfg(feature = "verbs")]
            Self::Verbs(c) => drop(c),
            #[cfg(test)]
            Self::Scripted(c) => drop(c),
        }
    }
}

impl Channel for AnyChannel {
    fn queue(&mut self, header: Header, payload: MemRange, owner: u32) {
        each!(self, c => c.queue(header, payload, owner));
    }

    fn flush(&mut self) -> Result<(), ChannelError> {
        each!(self, c => c.flush())
    }

    fn has_unsent(&self) -> bool {
        each!(self, c => c.has_unsent())
    }

    fn holds(&self, owner: u32) -> bool {
        each!(self, c => c.holds(owner))
    }

    fn receive(
        &mut self,
        scratch: &mut [u8],
        receiver: &mut dyn Receiver,
    ) -> Result<usize, ChannelError> {
        each!(self, c => c.receive(scratch, receiver))
    }

    fn silence(&mut self, scratch: &mut [u8], receiver: &mut dyn Receiver) {
        each!(self, c => c.silence(scratch, receiver));
    }

    fn settle(&mut self, until: Timestamp, receiver: Option<&mut dyn Receiver>) {
        each!(self, c => c.settle(until, receiver));
    }

    fn discard_arriving(&mut self) {
        each!(self, c => c.discard_arriving());
    }

    fn stats(&mut self) -> TransportStats {
        each!(self, c => c.stats())
    }

    fn backlog(&mut self) -> u64 {
        each!(self, c => c.backlog())
    }
}
