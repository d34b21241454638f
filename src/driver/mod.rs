//! The progress loop: moves an engine's outputs into channels and what arrives back into it.
//!
//! A link is driven by whoever holds its lock; the others pass by and nobody waits. Submissions
//! reach the holder through a lock-free queue per connection, results go back through atomics,
//! and the control plane (new channels, failed dials) leaves notes in a mailbox. A flag says
//! that there is something to collect; it is looked at again after the lock is released, so that
//! nothing is left lying by a holder who was just leaving.

pub mod conn;
pub mod moves;
mod poller;
pub mod rx_link;
mod turns;
pub mod tx_link;

use std::io;
use std::net::SocketAddr;

pub use poller::Poller;
pub use rx_link::RxLink;
pub use turns::{Link, Turns};
pub use tx_link::TxLink;

use crate::clock::Timestamp;
use crate::engine::MemRange;
use crate::engine::wire::Frame;
use crate::transport::{AnyChannel, Channel};
use crate::units::{Bytes, Nanos, Rate};

/// What a step is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something was submitted: send what can be sent.
    Submit,
    /// The caller waits for something and will be back at once: look for arrivals too.
    Progress,
    /// Nobody will be back soon: look everywhere.
    Sweep,
}

/// How often a driven link looks at its timers and at what the kernel knows of its paths. It takes in
/// first what has arrived anywhere, whatever the step is for: what lies there would pass for silence.
/// A small message is done when it is submitted, so a caller who sends nothing else never asks for more.
const TIMER_GAP: Nanos = Nanos(1_000_000);
/// While there is more to send than the paths take, the kernel is asked this often what has gone.
const BACKLOG_GAP: Nanos = Nanos(50_000);
/// A path that nothing has come over lately is looked at this often, by one call for all.
const IDLE_POLL_GAP: Nanos = Nanos(10_000);
/// Bytes read at once ahead of a header.
const SCRATCH_BYTES: usize = 16 << 10;

/// Which of a link's channels to read.
#[derive(Debug)]
struct Arrivals {
    poller: Poller,
    /// The path that something came over last.
    hot: usize,
    /// The path that was looked at last beside it.
    turn: usize,
    polled_at: Timestamp,
}

impl Arrivals {
    /// Waits for a channel's arrivals under the number of its path.
    fn add(&self, channel: &AnyChannel, path: u8) -> io::Result<()> {
        let mut fds = channel.fds().into_iter().flatten();
        fds.try_for_each(|fd| self.poller.add(fd, u64::from(path)))
    }

    /// Waits for them no more.
    fn remove(&self, channel: &AnyChannel) {
        let fds = channel.fds().into_iter().flatten();
        fds.for_each(|fd| self.poller.remove(fd));
    }

    fn new() -> io::Result<Self> {
        Ok(Self {
            poller: Poller::new()?,
            hot: 0,
            turn: 0,
            polled_at: Timestamp::ZERO,
        })
    }

    /// The paths to look at, of so many, where a look costs next to nothing but adds up: the hot one
    /// and one other, or all.
    fn looks(&mut self, step: Step, paths: usize) -> impl Iterator<Item = usize> + use<> {
        let (hot, all) = (self.hot, step == Step::Sweep);
        self.turn = (self.turn + 1) % paths.max(1);
        let other = (!all && self.turn != hot).then_some(self.turn);
        let every = (0..paths).filter(move |&path| all || path == hot);
        every.chain(other)
    }

    /// The other paths to read after the hot one, which gave `got` bytes: one call asks about all
    /// of them, and not at every look while the hot one has enough.
    fn others(&mut self, got: usize, now: Timestamp) -> impl Iterator<Item = usize> + use<> {
        let mut ready = 0u64;
        if got == 0 || now.since(self.polled_at) >= IDLE_POLL_GAP {
            self.polled_at = now;
            self.poller.wait(0, |key| ready |= 1 << (key & 63));
        }
        if got > 0 {
            ready &= !(1 << self.hot);
        }
        std::iter::from_fn(move || {
            let path = (ready != 0).then(|| ready.trailing_zeros() as usize);
            ready &= ready.wrapping_sub(1);
            path
        })
    }
}

/// When an adapter's port will have sent all that this link gave it, at the port's rate: what waits
/// behind our own bytes is not the network's delay.
#[derive(Debug)]
struct Departures {
    rate: Rate,
    free_at: Timestamp,
}

impl Departures {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            free_at: Timestamp::ZERO,
        }
    }

    fn next(&mut self, now: Timestamp, bytes: u64) -> Timestamp {
        self.free_at = self.free_at.max(now) + self.rate.time_for(Bytes(bytes));
        self.free_at
    }
}

/// What last words may take before the channels are closed.
const GOODBYE_MAX: Nanos = Nanos(50_000_000);

/// Says good-bye on channels.
fn goodbye<'a>(channels: impl Iterator<Item = &'a mut AnyChannel>) {
    let mut channels: Vec<_> = channels.collect();
    for channel in &mut channels {
        channel.queue(Frame::Goodbye.encode(), MemRange::default(), 0);
        let _ = channel.flush();
    }
    let until = Timestamp::now() + GOODBYE_MAX;
    for channel in channels {
        channel.settle(until, None);
    }
}

/// Local and remote address, for people.
fn ends((local, remote): (SocketAddr, SocketAddr)) -> String {
    format!("{local}->{remote}")
}
