//! The search for ways: paths that do not share a queue with those in use.
//!
//! A fabric with ECMP hashes each port pair on to one of several ways; two paths of a link may
//! collide on one and halve each other. Which way a port leads cannot be asked, but it can be
//! seen: while the active paths are full, each way they use has a queue. A probe on a fresh
//! path either waits in such a queue, and then the path collides, or arrives as fast as probes
//! ever do while others wait, and then it leads another way. Delays are compared one way, by the receiver's
//! clock, so that the other direction's queues do not blur them; the unknown offset between the
//! clocks is the same for all paths of a link and cancels. Paths that are admitted one at a time
//! in this manner never collide, and need no test against each other.

use crate::clock::Timestamp;
use crate::units::Nanos;

/// Probes before a candidate is judged: their median counts, so that neither one that was held
/// up on the host nor one that met a moment's gap in a queue decides.
pub const PROBES: u8 = 5;
/// Time between the probes of a candidate.
pub const PROBE_GAP: Nanos = Nanos(2_000_000);
/// The smallest difference of one-way delays that is taken for a queue. Default 150 µs: above
/// the jitter of timestamps taken in the kernel, below the queue of one large chunk at 1 Gb/s.
pub const QUEUE_MIN: Nanos = Nanos(150_000);

/// What the probes of one candidate showed so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Candidate {
    /// Probes sent.
    pub sent: u8,
    /// Probes answered.
    pub answered: u8,
    /// When the last was sent.
    pub sent_at: Timestamp,
    owds: [i64; PROBES as usize],
}

impl Candidate {
    /// Takes in the answer to a probe.
    pub fn answer(&mut self, owd: i64) {
        if let Some(slot) = self.owds.get_mut(usize::from(self.answered)) {
            *slot = owd;
            self.answered += 1;
        }
    }
}

impl Candidate {
    /// How long the median probe waited, compared with the fastest of the link.
    #[must_use]
    pub fn waited(&self, base: &Base) -> Nanos {
        let mut owds = self.owds;
        let owds = &mut owds[..usize::from(self.answered)];
        owds.sort_unstable();
        let median = owds.get(owds.len() / 2).copied().unwrap_or(0);
        let least = base.least().unwrap_or(median);
        Nanos(median.saturating_sub(least).max(0).unsigned_abs())
    }
}

/// Where a candidate leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Not known yet.
    Unknown,
    /// Into a queue that the active paths fill.
    Shared,
    /// Elsewhere.
    New,
}

/// The least one-way delay of a link, in the receiver's clock minus the sender's: forgets slowly,
/// so that drifting clocks do not fool it.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    current: (i64, Timestamp),
    previous: i64,
}

const BASE_WINDOW: Nanos = Nanos(10_000_000_000);

impl Default for Base {
    fn default() -> Self {
        Self {
            current: (i64::MAX, Timestamp::ZERO),
            previous: i64::MAX,
        }
    }
}

impl Base {
    /// Takes in any one-way delay of the link.
    pub fn observe(&mut self, now: Timestamp, owd: i64) {
        if now.since(self.current.1) > BASE_WINDOW {
            self.previous = self.current.0;
            self.current = (owd, now);
        }
        self.current.0 = self.current.0.min(owd);
    }

    /// The least of the last 10 to 20 s.
    #[must_use]
    pub fn least(&self) -> Option<i64> {
        let least = self.current.0.min(self.previous);
        (least != i64::MAX).then_some(least)
    }
}

/// What a round of probes, over the same few milliseconds on all candidates, says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Those that waited at least so long met a queue, the others did not.
    Telling(Nanos),
    /// None met a queue, so the ways in use may have been empty just then.
    Unsure,
}

impl Round {
    /// Where a candidate leads that waited so long.
    #[must_use]
    pub fn way(self, waited: Nanos) -> Way {
        match self {
            Self::Unsure => Way::Unknown,
            Self::Telling(queue) if waited < queue => Way::New,
            Self::Telling(_) => Way::Shared,
        }
    }
}

/// Rounds in which no candidate met a queue, before that is taken for the truth.
pub const UNSURE_ROUNDS: u32 = 3;

/// Judges a round. `queue`: the delay that our own bytes cause on the emptiest way in use, as
/// its round trips show; `unsure`: how many rounds in a row said nothing.
///
/// A round is telling if one candidate at least met a queue: then the ways in use were full
/// while the others found theirs empty. Where none does time after time, either no candidate
/// collides or the network makes no queue that could be seen; both times they may be used.
pub fn judge(waited: impl Iterator<Item = Nanos>, queue: Nanos, unsure: u32) -> Round {
    let threshold = QUEUE_MIN.max(queue / 4);
    let met_queue = waited.max().is_some_and(|longest| longest >= threshold);
    if met_queue || unsure + 1 >= UNSURE_ROUNDS {
        Round::Telling(threshold)
    } else {
        Round::Unsure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(20_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_queue_gives_a_shared_way_away() {
        let offset = -7_000_000_000; // the receiver's clock is 7 s behind
        let mut base = Base::default();
        base.observe(at(0), offset + 80_000);
        let probe = |owd: i64| {
            let mut candidate = Candidate::default();
            for k in 0..i64::from(PROBES) {
                candidate.answer(offset + owd + k * 10_000);
            }
            candidate
        };
        let queue = Nanos::from_millis(2);
        let (slow, fast) = (probe(2_100_000).waited(&base), probe(130_000).waited(&base));
        let round = judge([slow, fast].into_iter(), queue, 0);
        assert_eq!((round.way(slow), round.way(fast)), (Way::Shared, Way::New));
        // Without one that met a queue, a fast one proves nothing; not at first.
        assert_eq!(judge([fast].into_iter(), queue, 0).way(fast), Way::Unknown);
        assert_eq!(
            judge([fast].into_iter(), queue, UNSURE_ROUNDS - 1).way(fast),
            Way::New
        );
        assert_eq!(judge(std::iter::empty(), queue, 0), Round::Unsure);
    }

    #[test]
    fn the_base_follows_a_drifting_clock() {
        let mut base = Base::default();
        for second in 0..100 {
            base.observe(
                at(second * 1000),
                50_000 + 20_000 * i64::try_from(second).unwrap(),
            );
        }
        assert!(base.least().unwrap() > 50_000 + 20_000 * 75);
    }
}
