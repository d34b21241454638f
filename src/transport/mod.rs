//! Channels: what a path is made of. A channel carries frames in order, reliably, until it
//! fails as a whole; what it had not delivered by then is the engine's business.

pub mod faulty;
pub mod framing;
pub mod loopback;
pub mod tcp;
pub mod verbs;

use std::io;
use std::sync::Arc;

use thiserror::Error;

use self::faulty::{Faults, Faulty};
use self::tcp::TcpChannel;
use crate::engine::wire::{Header, WireError};
use crate::engine::{MemRange, Sink, Violation};
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

    /// The descriptor to wait for.
    #[must_use]
    pub fn fd(&self) -> std::os::fd::RawFd {
        match self {
            Self::Tcp(c) => c.fd(),
            Self::Faulty(c) => c.inner().fd(),
        }
    }

    /// Writes the first bytes of a fresh channel past the queue: the handshake's last message.
    ///
    /// # Errors
    /// The channel has failed.
    pub fn write_first(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(c) => io::Write::write_all(&mut c.socket(), bytes),
            Self::Faulty(c) => io::Write::write_all(&mut c.inner().socket(), bytes),
        }
    }

    /// Closes at once, with whatever is queued or in flight.
    pub fn abort(self) {
        match self {
            Self::Tcp(c) => c.abort(),
            Self::Faulty(c) => c.abort(),
        }
    }
}

impl Channel for AnyChannel {
    fn queue(&mut self, header: Header, payload: MemRange, owner: u32) {
        match self {
            Self::Tcp(c) => c.queue(header, payload, owner),
            Self::Faulty(c) => c.queue(header, payload, owner),
        }
    }

    fn flush(&mut self) -> Result<(), ChannelError> {
        match self {
            Self::Tcp(c) => c.flush(),
            Self::Faulty(c) => c.flush(),
        }
    }

    fn has_unsent(&self) -> bool {
        match self {
            Self::Tcp(c) => c.has_unsent(),
            Self::Faulty(c) => c.has_unsent(),
        }
    }

    fn holds(&self, owner: u32) -> bool {
        match self {
            Self::Tcp(c) => c.holds(owner),
            Self::Faulty(c) => c.holds(owner),
        }
    }

    fn receive(
        &mut self,
        scratch: &mut [u8],
        receiver: &mut dyn Receiver,
    ) -> Result<usize, ChannelError> {
        match self {
            Self::Tcp(c) => c.receive(scratch, receiver),
            Self::Faulty(c) => c.receive(scratch, receiver),
        }
    }

    fn discard_arriving(&mut self) {
        match self {
            Self::Tcp(c) => c.discard_arriving(),
            Self::Faulty(c) => c.discard_arriving(),
        }
    }

    fn stats(&mut self) -> TransportStats {
        match self {
            Self::Tcp(c) => c.stats(),
            Self::Faulty(c) => c.stats(),
        }
    }

    fn backlog(&mut self) -> u64 {
        match self {
            Self::Tcp(c) => c.backlog(),
            Self::Faulty(c) => c.backlog(),
        }
    }
}
