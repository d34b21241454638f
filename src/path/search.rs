//! The search for ways: paths that do not share a queue with those in use.
//!
//! A fabric with ECMP hashes each port pair on to one of several ways; two paths of a link may
//! collide on one and halve each other. Which way a port leads cannot be asked, but it can be
//! seen. Probes leave on a fresh path and on all those in use at the same moment. Where a path in
//! use shows a queue and the fresh one does not, the two do not share a way; where the fresh one
//! waits as well, it shares some way that is in use. Each moment speaks of one pair of paths, so
//! the evidence adds up under traffic that comes in bursts and never fills all ways at once.
//!
//! Delays are compared one way, by the receiver's clock, so that the other direction's queues do
//! not blur them; the unknown offset between the clocks is the same for all paths of a link and
//! cancels.

use crate::clock::Timestamp;
use crate::units::Nanos;

/// Time between two moments of probing.
pub const PROBE_GAP: Nanos = Nanos(2_000_000);
/// The smallest difference of one-way delays that is taken for a queue. 150 µs: above the jitter
/// of timestamps taken in the kernel, below the queue of one large chunk at 1 Gb/s.
pub const QUEUE_MIN: Nanos = Nanos(150_000);
/// A queue so long on a path in use cannot be overlooked by one that shares its way.
pub const QUEUE_CLEAR: Nanos = Nanos(600_000);
/// Moments that must tell two paths apart: some may have met a gap in the queue. Between paths
/// that do share a way one moment in five does, as measured under the real NCCL, so those that say
/// the opposite must be few.
const CLEAR_MIN: u32 = 4;
/// So many times fewer.
const CLEAR_RATIO: u32 = 4;
/// Moments in which a candidate must have met a queue to be taken for one that shares a way.
const SHARED_MIN: u32 = 3;
/// After so many moments in which nobody showed a queue, the network makes none that could be
/// seen, and nothing speaks against the candidate.
const BLIND_MAX: u32 = 32;
/// After so many the evidence is taken as it is: some path in use never fills its way, and need
/// not be told apart.
const MOMENTS_MAX: u32 = 200;
/// An answer may have come so much later than the look at the clock says, when whoever looked was held up
/// before it read. Under load 1.6 ms were seen; clocks are set by more than 100 ms, smaller steps are smoothed.
pub const LOOKED_LATE: Nanos = Nanos(10_000_000);
/// Moments whose answers may be under way at once.
const OPEN_MOMENTS: usize = 16;

/// Where a candidate leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Not known yet.
    Unknown,
    /// Into a queue that the paths in use fill.
    Shared,
    /// Elsewhere.
    New,
}

/// Whether a candidate shares the way of one path in use: the moments in which that path showed
/// a queue.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    /// The candidate found none.
    clear: u32,
    /// The candidate waited too.
    met: u32,
}

impl Pair {
    fn is_apart(self) -> bool {
        self.clear >= CLEAR_MIN.max(CLEAR_RATIO * self.met)
    }
}

/// The evidence on one candidate.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    /// Its trial began after this moment: what was asked before does not count.
    after: u32,
    pairs: Vec<Pair>,
    /// In how many moments it met a queue.
    shared: u32,
    /// In how many it was probed.
    moments: u32,
    /// Some path in use showed a queue.
    queue_shows: bool,
    waited_ns: u64,
    queue_ns: u64,
    compared: u32,
}

impl Candidate {
    /// Nothing known, of a link with so many paths.
    #[must_use]
    pub fn new(paths: usize) -> Self {
        Self {
            pairs: vec![Pair::default(); paths],
            ..Self::default()
        }
    }

    /// Forgets everything: the trial begins.
    pub fn reset(&mut self, moments: &Moments) {
        self.pairs.fill(Pair::default());
        *self = Self {
            after: moments.last_id,
            pairs: std::mem::take(&mut self.pairs),
            ..Self::default()
        };
    }

    /// Another path has taken this slot: what was known of it is no longer true.
    pub fn forget(&mut self, path: usize) {
        self.pairs[path] = Pair::default();
    }

    /// Whether this moment belongs to its trial.
    fn counts(&self, id: u32) -> bool {
        (1..=u32::MAX / 2).contains(&id.wrapping_sub(self.after))
    }

    /// It was probed, and its probe waited so long.
    fn observe(&mut self, waited: Nanos) {
        self.moments += 1;
        self.waited_ns += waited.0;
        if waited >= QUEUE_MIN * 2 {
            self.shared += 1;
        }
    }

    /// At the same moment a probe on a path in use waited in its queue.
    fn compare(&mut self, path: usize, waited: Nanos, queue: Nanos) {
        self.queue_ns += queue.0;
        self.compared += 1;
        if queue < QUEUE_CLEAR {
            return;
        }
        self.queue_shows = true;
        let pair = &mut self.pairs[path];
        if waited < QUEUE_MIN {
            pair.clear += 1;
        } else {
            pair.met += 1;
        }
    }

    /// Where it leads, as far as it is known. `used`: the paths in use.
    #[must_use]
    pub fn way(&self, mut used: impl Iterator<Item = usize>) -> Way {
        let believed = if self.queue_shows {
            MOMENTS_MAX
        } else {
            BLIND_MAX
        };
        let waits = self.shared * 4 > self.moments;
        if self.shared >= SHARED_MIN && self.shared * 2 > self.moments {
            Way::Shared
        } else if self.moments >= believed {
            if waits { Way::Shared } else { Way::New }
        } else if !waits && used.all(|path| self.pairs[path].is_apart()) {
            Way::New
        } else {
            Way::Unknown
        }
    }

    /// What was seen: how long its probes waited, and how long those on the paths in use, both
    /// on average.
    #[must_use]
    pub fn evidence(&self) -> (Nanos, Nanos) {
        let mean = |sum: u64, count: u32| Nanos(sum.checked_div(count.into()).unwrap_or(0));
        (
            mean(self.waited_ns, self.moments),
            mean(self.queue_ns, self.compared),
        )
    }
}

/// Probes that left together.
#[derive(Debug, Clone, Default)]
struct Moment {
    id: u32,
    at: Timestamp,
    waits: Vec<Option<Nanos>>,
}

/// The last few moments of probing of a link.
#[derive(Debug)]
pub struct Moments {
    ring: [Moment; OPEN_MOMENTS],
    last_id: u32,
    last_at: Timestamp,
}

impl Moments {
    /// None yet, of a link with so many paths.
    #[must_use]
    pub fn new(paths: usize) -> Self {
        Self {
            ring: std::array::from_fn(|_| Moment {
                id: 0,
                at: Timestamp::ZERO,
                waits: vec![None; paths],
            }),
            last_id: 0,
            last_at: Timestamp::ZERO,
        }
    }

    /// Begins a moment, unless the last was too recent; the answer names it.
    pub fn begin(&mut self, now: Timestamp) -> Option<u32> {
        if now.since(self.last_at) < PROBE_GAP {
            return None;
        }
        self.last_at = now;
        self.last_id = self.last_id.wrapping_add(1).max(1);
        let moment = &mut self.ring[self.last_id as usize % OPEN_MOMENTS];
        moment.id = self.last_id;
        moment.at = now;
        moment.waits.fill(None);
        Some(self.last_id)
    }

    /// When the probes of this moment were asked for, if it is one of the last few.
    #[must_use]
    pub fn begun_at(&self, id: u32) -> Option<Timestamp> {
        let moment = &self.ring[id as usize % OPEN_MOMENTS];
        (id != 0 && moment.id == id).then_some(moment.at)
    }

    /// The probe of moment `id` on `path` waited so long: adds that to the evidence.
    pub fn answer(&mut self, id: u32, path: usize, waited: Nanos, paths: &mut impl Roles) {
        let moment = &mut self.ring[id as usize % OPEN_MOMENTS];
        if id == 0 || moment.id != id || moment.waits[path].is_some() {
            return;
        }
        moment.waits[path] = Some(waited);
        match paths.role(path) {
            Role::Candidate(candidate) => {
                if !candidate.counts(id) {
                    return;
                }
                candidate.observe(waited);
                for (other, &queue) in moment.waits.iter().enumerate() {
                    let Some(queue) = queue else { continue };
                    if matches!(paths.role(other), Role::Used)
                        && let Role::Candidate(candidate) = paths.role(path)
                    {
                        candidate.compare(other, waited, queue);
                    }
                }
            }
            Role::Used => {
                for (other, &theirs) in moment.waits.iter().enumerate() {
                    if let (Some(theirs), Role::Candidate(candidate)) = (theirs, paths.role(other))
                        && candidate.counts(id)
                    {
                        candidate.compare(path, theirs, waited);
                    }
                }
            }
            Role::Neither => {}
        }
    }
}

/// The paths of a link, as the search sees them.
pub trait Roles {
    /// What this path is to the search.
    fn role(&mut self, path: usize) -> Role<'_>;
}

/// What a path is to the search.
#[derive(Debug)]
pub enum Role<'a> {
    /// It carries chunks.
    Used,
    /// It is on trial.
    Candidate(&'a mut Candidate),
    /// It has no channel, or is suspect.
    Neither,
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
    /// Begins anew with this delay: all before were by a clock that has been set since.
    pub fn restart(&mut self, now: Timestamp, owd: i64) {
        *self = Self::default();
        self.observe(now, owd);
    }

    /// Takes in any one-way delay of the link; says by how much it exceeds the least.
    pub fn observe(&mut self, now: Timestamp, owd: i64) -> Nanos {
        if now.since(self.current.1) > BASE_WINDOW {
            self.previous = self.current.0;
            self.current = (owd, now);
        }
        self.current.0 = self.current.0.min(owd);
        self.excess(owd)
    }

    /// The least of late; `i64::MAX` before anything was seen.
    #[must_use]
    pub fn least(&self) -> i64 {
        self.current.0.min(self.previous)
    }

    /// By how much a delay exceeds the least; nothing if it is less.
    #[must_use]
    pub fn excess(&self, owd: i64) -> Nanos {
        let least = self.least();
        Nanos(owd.saturating_sub(least).max(0).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(20_000_000_000 + ms * 1_000_000)
    }

    /// The last path is on trial, the others are in use.
    struct Trial(usize, Candidate);

    impl Roles for Trial {
        fn role(&mut self, path: usize) -> Role<'_> {
            if path == self.0 {
                Role::Candidate(&mut self.1)
            } else {
                Role::Used
            }
        }
    }

    /// Paths 0 and 1 are in use, 2 is on trial: the waits of one moment after the other, µs.
    fn trial(moments: &[[u64; 3]]) -> Way {
        let mut ring = Moments::new(3);
        let mut paths = Trial(2, Candidate::new(3));
        for (k, waits) in moments.iter().enumerate() {
            let id = ring.begin(at(2 * k as u64)).unwrap();
            // Answers come in any order.
            for path in [k % 3, (k + 1) % 3, (k + 2) % 3] {
                ring.answer(id, path, Nanos::from_micros(waits[path]), &mut paths);
            }
        }
        paths.1.way([0, 1].into_iter())
    }

    #[test]
    fn a_queue_tells_two_paths_apart() {
        assert_eq!(trial(&[[2000, 2000, 10]; 3]), Way::Unknown);
        assert_eq!(trial(&[[2000, 2000, 10]; 4]), Way::New);
        assert_eq!(trial(&[[2000, 10, 2000]; 3]), Way::Shared);
        // One straggler of a probe is no queue.
        assert_eq!(
            trial(&[&[[2000; 3]][..], &[[2000, 900, 10]; 4]].concat()),
            Way::New
        );
        // A gap in the queue now and then is no way of its own, however long the trial.
        let gap = [
            [2000, 2000, 10],
            [2000, 10, 1000],
            [10, 2000, 10],
            [10; 3],
            [10; 3],
        ];
        assert_ne!(trial(&gap.repeat(30)), Way::New);
    }

    #[test]
    fn bursts_that_never_fill_all_ways_at_once_still_tell() {
        let bursts = [[3000, 5, 20], [10, 1500, 30]];
        assert_eq!(
            trial(&[bursts[0]; 50]),
            Way::Unknown,
            "nothing about path 1"
        );
        assert_eq!(
            trial(&bursts.repeat(4)),
            Way::New,
            "each was full while the candidate found nothing"
        );
    }

    #[test]
    fn a_network_without_queues_is_believed_in_the_end() {
        assert_eq!(trial(&[[20, 30, 10]; 31]), Way::Unknown);
        assert_eq!(trial(&[[20, 30, 10]; 32]), Way::New);
    }

    #[test]
    fn what_was_asked_before_a_trial_does_not_count() {
        let mut ring = Moments::new(2);
        let mut paths = Trial(1, Candidate::new(2));
        let id = ring.begin(at(0)).unwrap();
        paths.1.reset(&ring);
        ring.answer(id, 1, Nanos::from_millis(9), &mut paths);
        assert_eq!(paths.1.moments, 0);
        let id = ring.begin(at(2)).unwrap();
        ring.answer(id, 1, Nanos::from_millis(9), &mut paths);
        assert_eq!(paths.1.moments, 1);
    }

    #[test]
    fn what_belongs_to_no_open_moment_is_ignored() {
        let mut ring = Moments::new(2);
        let mut paths = Trial(1, Candidate::new(2));
        let first = ring.begin(at(0)).unwrap();
        assert_eq!(ring.begin(at(1)), None, "too soon");
        for k in 1..=16 {
            ring.begin(at(2 * k)).unwrap();
        }
        for id in [0, first, 999] {
            ring.answer(id, 1, Nanos::from_millis(9), &mut paths);
        }
        assert_eq!(paths.1.moments, 0);
    }

    #[test]
    fn the_base_follows_a_drifting_clock() {
        let mut base = Base::default();
        let offset = -7_000_000_000; // the receiver's clock is 7 s behind
        assert_eq!(base.observe(at(0), offset + 80_000), Nanos(0));
        assert_eq!(base.observe(at(0), offset + 90_000), Nanos(10_000));
        let mut waited = Nanos(0);
        for second in 0..100 {
            let drift = i64::try_from(second).unwrap() * 20_000;
            waited = base.observe(at(second * 1000), offset + 80_000 + drift);
        }
        assert!(waited < Nanos::from_micros(500), "{waited:?}");
    }
}
