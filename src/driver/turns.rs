//! Whose turn it is to drive a link.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Step;
use crate::clock::Timestamp;
use crate::sync::{Flag, TryLock};
use crate::transport::AnyChannel;

/// Fruitless looks in a row after which the caller's core is offered to others: where each asks the
/// kernel, and where it reads memory.
const IDLE_LOOKS: u32 = 24;
const IDLE_LOOKS_AT_MEMORY: u32 = 512;

/// A link, for whoever drives it.
pub trait Link {
    /// What those who take turns at it share.
    fn turns(&self) -> &Turns;
    /// Goes a step forward. Not while somebody drives it, and then the answer is no.
    fn try_step(&self, step: Step) -> bool;
    /// Lets its channels tell its poller of what comes next. Not while somebody drives it, and then the
    /// answer is no.
    fn try_arm(&self) -> bool;
    /// Publishes what it has counted, unless somebody drives it.
    fn publish(&self, now: Timestamp);
    /// When it should be driven; now, while somebody drives it, so that it is asked again soon.
    fn due(&self, now: Timestamp) -> Option<Timestamp>;

    /// Moves it forward unless somebody else is doing so.
    fn drive(&self, step: Step) {
        let mut step = step;
        for _ in 0..4 {
            if !self.try_step(step) || !self.turns().is_dirty() {
                return;
            }
            step = Step::Submit;
        }
    }

    /// For whoever held it without driving it: takes in what others have left meanwhile.
    fn catch_up(&self) {
        if self.turns().is_dirty() {
            self.drive(Step::Submit);
        }
    }

    /// Lets its poller tell of what comes next. Where that has to be asked for, what has come already
    /// is taken in. Not while somebody drives it, and then the answer is no.
    fn arm(&self) -> bool {
        if !self.turns().is_looked_at {
            return true;
        }
        let armed = self.try_arm();
        if armed {
            self.drive(Step::Sweep);
        }
        armed
    }
}

/// What only the holder of a link's lock touches.
pub trait Inner {
    /// The link.
    type Link;
    /// Goes a step forward; says whether anything moved.
    fn step(&mut self, link: &Self::Link, step: Step, now: Timestamp) -> bool;
    /// Its channels that are up.
    fn channels(&mut self) -> impl Iterator<Item = &mut AnyChannel>;
    /// Publishes what it has counted, if it is time.
    fn publish(&mut self, now: Timestamp);
    /// When somebody should drive it at the latest, if ever.
    fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp>;
}

/// A link of a kind.
pub trait OfKind: Sized {
    /// What its lock holds.
    type Inner: Inner<Link = Self>;
    /// That, and what is shared without it.
    fn parts(&self) -> (&TryLock<Self::Inner>, &Turns);
}

impl<L: OfKind> Link for L {
    fn turns(&self) -> &Turns {
        self.parts().1
    }

    fn try_step(&self, step: Step) -> bool {
        let (inner, turns) = self.parts();
        let Some(mut inner) = inner.try_lock() else {
            return false;
        };
        let now = Timestamp::now();
        let moved = inner.step(self, step, now);
        drop(inner);
        turns.after(step, moved, now);
        true
    }

    fn try_arm(&self) -> bool {
        let Some(mut inner) = self.parts().0.try_lock() else {
            return false;
        };
        inner.channels().for_each(AnyChannel::arm);
        true
    }

    fn publish(&self, now: Timestamp) {
        if let Some(mut inner) = self.parts().0.try_lock() {
            inner.publish(now);
        }
    }

    fn due(&self, now: Timestamp) -> Option<Timestamp> {
        match self.parts().0.try_lock() {
            Some(inner) => inner.poll_timeout(now),
            None => Some(now),
        }
    }
}

/// What those who take turns at a link share without its lock.
#[derive(Debug)]
pub struct Turns {
    /// Something was left for whoever drives it next.
    dirty: Flag,
    driven_at: AtomicU64,
    /// Fruitless looks. A caller that polls without end starves whatever shares its core, and that
    /// may be the kernel thread that carries its own packets.
    looks: AtomicU32,
    is_looked_at: bool,
    poll_fd: RawFd,
}

impl Turns {
    /// Of a link with this poller, whose channels may be looked at instead of waited for.
    pub(super) fn new(poll_fd: RawFd, is_looked_at: bool) -> Self {
        Self {
            dirty: Flag::new(),
            driven_at: AtomicU64::new(0),
            looks: AtomicU32::new(0),
            is_looked_at,
            poll_fd,
        }
    }

    /// Something has been left for whoever drives it next.
    pub(super) fn leave(&self) {
        self.dirty.raise();
    }

    /// Whether there is something to collect; who asks collects it.
    pub(super) fn take(&self) -> bool {
        self.dirty.take()
    }

    /// Somebody has driven it, and it is free again.
    pub(super) fn after(&self, step: Step, moved: bool, now: Timestamp) {
        self.driven_at.store(now.as_nanos(), Ordering::Relaxed);
        if moved {
            self.looks.store(0, Ordering::Relaxed);
        } else if step == Step::Progress {
            let max = if self.is_looked_at {
                IDLE_LOOKS_AT_MEMORY
            } else {
                IDLE_LOOKS
            };
            // Two callers may count at once and lose a count: it is only a habit.
            let looks = self.looks.load(Ordering::Relaxed) + 1;
            self.looks.store(looks % max, Ordering::Relaxed);
            if looks == max {
                std::thread::yield_now();
            }
        }
    }

    /// Whether somebody has left something for whoever drives it next.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty.is_raised()
    }

    /// When it was last driven.
    #[must_use]
    pub fn driven_at(&self) -> Timestamp {
        Timestamp::from_nanos(self.driven_at.load(Ordering::Relaxed))
    }

    /// The poller of its channels.
    #[must_use]
    pub fn poll_fd(&self) -> RawFd {
        self.poll_fd
    }
}
