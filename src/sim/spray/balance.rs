//! Which path a packet takes, chosen by the sender: the load balancers that the Ultra Ethernet
//! simulator (uet-htsim) offers.
//!
//! A path is an entropy value, a number that the switches hash; what route it stands for nobody
//! knows. Every packet draws one, and every acknowledgement says how the one it answers has fared.

use std::collections::VecDeque;

use super::super::random::Stream;
use super::super::time::Picos;

/// How a sender chooses entropy values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// All paths in turn, in an order that changes with each round.
    Oblivious,
    /// In turn, but a path with a penalty is passed over, and its penalty falls.
    Bitmap,
    /// Paths that went well are used once more, oldest first; else a random one. Eight are
    /// remembered (REPS, `EuroSys` 2026).
    Reps,
    /// The same with a memory without limit, which the first window fills path by path.
    RepsLegacy,
    /// Paths that went well first, else like [`Balance::Bitmap`]: the simulator's default.
    Mixed,
}

/// How the packet of an entropy value has fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Marked,
    Trimmed,
    /// Which path that was is not known.
    TimedOut,
}

/// Penalties by verdict, and the most that a path can have (uet-htsim's `UecMpBitmap`).
const PENALTY_MARKED: u8 = 1;
const PENALTY_TRIMMED: u8 = 4;
const PENALTY_TIMED_OUT: u8 = 15;
const PENALTY_MAX: u8 = 15;
/// Paths that REPS remembers.
const RING: usize = 8;
/// After a timeout REPS keeps to the paths it has for so long.
const FROZEN: Picos = Picos::from_micros(10_000);
/// And then tries so many random ones.
const EXPLORE: u8 = 16;

/// The choice of paths of one flow.
#[derive(Debug)]
pub(super) enum Balancer {
    Oblivious(Walk),
    Bitmap(Bitmap),
    Reps(Reps),
    Legacy(Legacy),
    Mixed(Bitmap, VecDeque<u16>),
}

impl Balancer {
    /// For so many paths, a power of two.
    pub(super) fn new(balance: Balance, paths: u16, mut coin: Stream) -> Self {
        debug_assert!(paths.is_power_of_two());
        match balance {
            Balance::Oblivious => Self::Oblivious(Walk::new(paths, coin)),
            Balance::Bitmap => Self::Bitmap(Bitmap::new(paths, coin)),
            Balance::Mixed => Self::Mixed(Bitmap::new(paths, coin), VecDeque::new()),
            Balance::Reps => Self::Reps(Reps::new(paths, coin)),
            Balance::RepsLegacy => {
                coin.next();
                Self::Legacy(Legacy {
                    paths,
                    next: 0,
                    good: VecDeque::new(),
                    coin,
                })
            }
        }
    }

    /// The entropy of the next packet; `seq` and the window in packets say whether this is still
    /// the first window.
    pub(super) fn next(&mut self, seq: u32, window_packets: u64) -> u16 {
        match self {
            Self::Oblivious(walk) => {
                let entropy = walk.current();
                walk.step();
                entropy
            }
            Self::Bitmap(bitmap) => bitmap.next(),
            Self::Mixed(bitmap, good) => good.pop_front().unwrap_or_else(|| bitmap.next()),
            Self::Reps(reps) => reps.next(),
            Self::Legacy(legacy) => legacy.next(seq, window_packets),
        }
    }

    /// Gives its memory back.
    pub(super) fn retire(&mut self) {
        match self {
            Self::Oblivious(_) | Self::Reps(_) => {}
            Self::Bitmap(bitmap) => bitmap.penalties = Box::default(),
            Self::Mixed(bitmap, good) => {
                bitmap.penalties = Box::default();
                *good = VecDeque::new();
            }
            Self::Legacy(legacy) => legacy.good = VecDeque::new(),
        }
    }

    /// What became of a packet of this entropy.
    pub(super) fn learn(&mut self, entropy: u16, verdict: Verdict, now: Picos) {
        match self {
            Self::Oblivious(_) => {}
            Self::Bitmap(bitmap) => bitmap.learn(entropy, verdict),
            Self::Mixed(bitmap, good) => {
                bitmap.learn(entropy, verdict);
                if verdict == Verdict::Good {
                    good.push_back(entropy);
                }
            }
            Self::Reps(reps) => reps.learn(entropy, verdict, now),
            Self::Legacy(legacy) => {
                if verdict == Verdict::Good {
                    legacy.good.push_back(entropy);
                }
            }
        }
    }
}

/// All paths in turn: each round visits all of them, in an order of its own.
#[derive(Debug)]
pub(super) struct Walk {
    base: u16,
    mask: u16,
    flip: u16,
    index: u16,
    coin: Stream,
}

impl Walk {
    fn new(paths: u16, mut coin: Stream) -> Self {
        let mask = paths - 1;
        Self {
            base: coin.below(1 << 16) as u16 & !mask,
            mask,
            flip: coin.below(1 << 16) as u16 & mask,
            index: 0,
            coin,
        }
    }

    fn current(&self) -> u16 {
        self.base | (self.index ^ self.flip)
    }

    fn step(&mut self) {
        if self.index == self.mask {
            self.index = 0;
            self.flip = self.coin.below(1 << 16) as u16 & self.mask;
        } else {
            self.index += 1;
        }
    }
}

/// A walk that passes over the paths with a penalty.
#[derive(Debug)]
pub(super) struct Bitmap {
    walk: Walk,
    penalties: Box<[u8]>,
}

impl Bitmap {
    fn new(paths: u16, coin: Stream) -> Self {
        Self {
            walk: Walk::new(paths, coin),
            penalties: vec![0; usize::from(paths)].into_boxed_slice(),
        }
    }

    fn penalty(&mut self, entropy: u16) -> &mut u8 {
        &mut self.penalties[usize::from(entropy & self.walk.mask)]
    }

    fn next(&mut self) -> u16 {
        let mut entropy = self.walk.current();
        // One penalty falls for each packet, that of the first path passed over: else a sender
        // would forgive all at once as soon as most paths have one.
        let first = self.penalty(entropy);
        if *first > 0 {
            *first -= 1;
            for _ in 0..=self.walk.mask {
                self.walk.step();
                entropy = self.walk.current();
                if *self.penalty(entropy) == 0 {
                    break;
                }
            }
        }
        self.walk.step();
        entropy
    }

    fn learn(&mut self, entropy: u16, verdict: Verdict) {
        let more = match verdict {
            Verdict::Good => return,
            Verdict::Marked => PENALTY_MARKED,
            Verdict::Trimmed => PENALTY_TRIMMED,
            Verdict::TimedOut => PENALTY_TIMED_OUT,
        };
        let penalty = self.penalty(entropy);
        *penalty = (*penalty + more).min(PENALTY_MAX);
    }
}

/// A ring of paths that went well.
#[derive(Debug)]
pub(super) struct Reps {
    paths: u16,
    ring: [u16; RING],
    /// Slots that have not been used again, by bit.
    fresh: u8,
    head: u8,
    /// Slots ever filled.
    filled: u8,
    /// The slot to use next while frozen.
    frozen_next: u8,
    explore: u8,
    frozen_until: Option<Picos>,
    coin: Stream,
}

impl Reps {
    fn new(paths: u16, coin: Stream) -> Self {
        Self {
            paths,
            ring: [0; RING],
            fresh: 0,
            head: 0,
            filled: 0,
            frozen_next: 0,
            explore: 0,
            frozen_until: None,
            coin,
        }
    }

    fn random(&mut self) -> u16 {
        self.coin.below(u32::from(self.paths)) as u16
    }

    fn next(&mut self) -> u16 {
        if self.explore > 0 {
            self.explore -= 1;
            return self.random();
        }
        if self.frozen_until.is_some() {
            if self.filled == 0 {
                return self.random();
            }
            let slot = self.frozen_next;
            self.frozen_next = (slot + 1) % self.filled;
            self.fresh &= !(1 << slot);
            return self.ring[usize::from(slot)];
        }
        let count = self.fresh.count_ones() as u8;
        if count == 0 {
            return self.random();
        }
        let slot = (self.head + RING as u8 - count) % RING as u8;
        self.fresh &= !(1 << slot);
        self.ring[usize::from(slot)]
    }

    fn learn(&mut self, entropy: u16, verdict: Verdict, now: Picos) {
        if self.frozen_until.is_some_and(|until| now >= until) {
            self.frozen_until = None;
            (self.fresh, self.head, self.filled) = (0, 0, 0);
            self.frozen_next = 0;
            self.explore = EXPLORE;
        }
        match verdict {
            Verdict::Good => {
                self.ring[usize::from(self.head)] = entropy;
                self.fresh |= 1 << self.head;
                self.head = (self.head + 1) % RING as u8;
                self.filled = (self.filled + 1).min(RING as u8);
            }
            Verdict::TimedOut if self.frozen_until.is_none() && self.explore == 0 => {
                self.frozen_until = Some(now + FROZEN);
            }
            Verdict::Marked | Verdict::Trimmed | Verdict::TimedOut => {}
        }
    }
}

/// A list of paths that went well, without limit.
#[derive(Debug)]
pub(super) struct Legacy {
    paths: u16,
    next: u16,
    good: VecDeque<u16>,
    coin: Stream,
}

impl Legacy {
    fn next(&mut self, seq: u32, window_packets: u64) -> u16 {
        if u64::from(seq) < window_packets.min(u64::from(self.paths)) {
            self.next = (self.next + 1) & (self.paths - 1);
            return self.next;
        }
        match self.good.pop_front() {
            Some(entropy) => entropy,
            None => self.coin.below(u32::from(self.paths)) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::random::Purpose;
    use super::*;

    fn balancer(balance: Balance) -> Balancer {
        Balancer::new(balance, 16, Stream::new(1, Purpose::Flow, 0))
    }

    #[test]
    fn a_walk_visits_each_path_once_a_round() {
        let mut walk = balancer(Balance::Oblivious);
        let mut orders = Vec::new();
        for _ in 0..4 {
            let round: Vec<u16> = (0..16).map(|_| walk.next(0, 1)).collect();
            let mut sorted = round.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 16);
            orders.push(round);
        }
        assert!(orders.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_penalty_is_paid_off_by_being_passed_over() {
        let mut bitmap = balancer(Balance::Bitmap);
        let bad = bitmap.next(0, 1);
        bitmap.learn(bad, Verdict::Trimmed, Picos::ZERO);
        // Passed over as often as its penalty says; each time the walk is at it.
        let uses = (0..16 * 6).filter(|_| bitmap.next(0, 1) == bad).count();
        assert!((1..=2).contains(&uses), "{uses}");
    }

    #[test]
    fn good_paths_are_used_again_in_order() {
        for balance in [Balance::Mixed, Balance::Reps, Balance::RepsLegacy] {
            let mut balancer = balancer(balance);
            for entropy in [3, 5, 7] {
                balancer.learn(entropy, Verdict::Good, Picos::ZERO);
            }
            balancer.learn(9, Verdict::Marked, Picos::ZERO);
            let next = [(); 3].map(|()| balancer.next(100, 10));
            assert_eq!(next, [3, 5, 7], "{balance:?}");
        }
    }

    #[test]
    fn reps_keeps_to_what_it_knows_after_a_timeout() {
        let mut reps = balancer(Balance::Reps);
        for entropy in [3, 5] {
            reps.learn(entropy, Verdict::Good, Picos::ZERO);
        }
        reps.learn(0, Verdict::TimedOut, Picos::ZERO);
        let next = [(); 4].map(|()| reps.next(100, 10));
        assert_eq!(next, [3, 5, 3, 5]);
        // Time passes; the next verdict thaws it, and it explores.
        reps.learn(11, Verdict::Marked, FROZEN);
        let explored: Vec<u16> = (0..16).map(|_| reps.next(100, 10)).collect();
        assert!(explored.iter().any(|&e| e != 3 && e != 5));
    }
}
