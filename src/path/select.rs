//! The choice of the path for the next chunk.

use crate::units::{Bytes, Nanos};

/// What a selector sees of a path.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// It may carry chunks now.
    pub usable: bool,
    /// Bytes given to it and not acknowledged.
    pub outstanding: Bytes,
    /// It takes no more than this (but always one chunk when it is empty).
    pub cap: Bytes,
    /// Time to move a byte at its measured rate, in units of 2^-16 ns.
    pub byte_time: u64,
    /// Smallest delay it has shown, ns.
    pub delay_ns: u64,
    /// Smoothed round trip: of its chunks where completions tell, else the transport's.
    pub rtt: Nanos,
}

impl View {
    /// Room for `bytes` more.
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        self.usable && (self.outstanding.0 == 0 || self.outstanding.0 + bytes <= self.cap.0)
    }

    /// When a chunk of `bytes` given to it now would have arrived, ns from now.
    #[must_use]
    pub fn completion_ns(&self, bytes: u64) -> u64 {
        let queued = u128::from(self.outstanding.0 + bytes) * u128::from(self.byte_time);
        self.delay_ns
            .saturating_add(u64::try_from(queued >> 16).unwrap_or(u64::MAX))
    }
}

/// Chooses the path of the next chunk.
pub trait Selector {
    /// The name users choose it by.
    fn name(&self) -> &'static str;
    /// The path for a chunk of `bytes` of connection `conn`; `None`: none has room.
    fn choose(&mut self, conn: u32, bytes: u64, paths: &[View]) -> Option<usize>;
}

/// The path on which the chunk is expected to arrive first: bytes outstanding over the measured
/// rate, even if it has to wait for room there. A slower path gets proportionally less, and a
/// path that has stopped gets nothing more once its cap is full.
#[derive(Debug, Clone, Copy, Default)]
pub struct Adaptive;

impl Selector for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn choose(&mut self, _conn: u32, bytes: u64, paths: &[View]) -> Option<usize> {
        let mut best = None;
        let mut soonest = u64::MAX;
        for (index, path) in paths.iter().enumerate().filter(|(_, p)| p.usable) {
            let completion = path.completion_ns(bytes);
            soonest = soonest.min(completion);
            if path.has_room(bytes) && best.is_none_or(|(least, _)| completion < least) {
                best = Some((completion, index));
            }
        }
        let (completion, index) = best?;
        // A chunk that would arrive sooner on a path that is full just now waits for that one: it
        // would be the straggler of its message. An empty path may always show what it can do.
        (completion <= soonest || paths[index].outstanding.0 == 0).then_some(index)
    }
}

/// The next path in turn that has room, whatever its speed: what NCCL does.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundRobin {
    next: usize,
}

impl Selector for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn choose(&mut self, _conn: u32, bytes: u64, paths: &[View]) -> Option<usize> {
        let found = in_turn(self.next, paths.len()).find(|&i| paths[i].has_room(bytes))?;
        self.next = found + 1;
        Some(found)
    }
}

/// All indices below `count`, once round from `first` on.
fn in_turn(first: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |k| (first + k) % count)
}

/// One path for each connection, fixed as long as the set of usable paths is: what ECMP does.
#[derive(Debug, Clone, Copy, Default)]
pub struct StaticHash;

impl Selector for StaticHash {
    fn name(&self) -> &'static str {
        "hash"
    }

    fn choose(&mut self, conn: u32, bytes: u64, paths: &[View]) -> Option<usize> {
        let usable = paths.iter().filter(|p| p.usable).count();
        // Fibonacci hashing: spreads consecutive numbers evenly.
        let hash = (u64::from(conn).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize;
        let (index, path) = paths
            .iter()
            .enumerate()
            .filter(|(_, p)| p.usable)
            .nth(hash.checked_rem(usable)?)?;
        path.has_room(bytes).then_some(index)
    }
}

/// The next path in turn, unless it is more than a chunk behind the one with the least bytes
/// outstanding.
///
/// Strict order of bytes outstanding would break the turns for the sake of a chunk whose
/// completion is a moment late; turns spread the load more evenly, and a path that really is
/// behind shows it by more than that.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeastOutstanding {
    next: usize,
}

impl Selector for LeastOutstanding {
    fn name(&self) -> &'static str {
        "least-outstanding"
    }

    fn choose(&mut self, _conn: u32, bytes: u64, paths: &[View]) -> Option<usize> {
        let with_room = paths.iter().filter(|p| p.has_room(bytes));
        let least = with_room.map(|p| p.outstanding.0).min()?;
        let found = in_turn(self.next, paths.len())
            .find(|&i| paths[i].has_room(bytes) && paths[i].outstanding.0 <= least + bytes)?;
        self.next = found + 1;
        Some(found)
    }
}

/// In turn, but a path whose round trip is longer than the shortest by more than an eighth has its
/// turn less often, in proportion (smooth weighted round robin); like [`LeastOutstanding`] it passes
/// over a path that is more than a chunk behind.
///
/// Where some ways are slower than others, links that can go around them load the rest unevenly,
/// and the turns have to give way to that. The eighth keeps the turns strict while all is well, for
/// those spread the load best.
#[derive(Debug, Clone, Default)]
pub struct Weighted {
    /// What each path has saved up, in parts of [`FULL_WEIGHT`] of a turn.
    credits: Vec<i64>,
}

/// Weight of a path with the shortest round trip.
const FULL_WEIGHT: u64 = 1024;

impl Selector for Weighted {
    fn name(&self) -> &'static str {
        "weighted"
    }

    fn choose(&mut self, _conn: u32, bytes: u64, paths: &[View]) -> Option<usize> {
        let with_room = paths.iter().filter(|p| p.has_room(bytes));
        let least = with_room.map(|p| p.outstanding.0).min()?;
        let measured = paths.iter().filter(|p| p.usable && !p.rtt.is_zero());
        let shortest = measured.map(|p| p.rtt.0).min().unwrap_or(1);
        let fair = shortest + shortest / 8;
        self.credits.resize(paths.len(), 0);
        let mut total = 0;
        let mut found: Option<usize> = None;
        for (index, path) in paths.iter().enumerate() {
            if !path.usable {
                self.credits[index] = 0;
                continue;
            }
            let weight = (fair * FULL_WEIGHT / path.rtt.0.max(fair)).cast_signed();
            total += weight;
            self.credits[index] += weight;
            if path.has_room(bytes)
                && path.outstanding.0 <= least + bytes
                && found.is_none_or(|best| self.credits[index] > self.credits[best])
            {
                found = Some(index);
            }
        }
        self.credits[found?] -= total;
        found
    }
}

/// Of two paths at random the one with the shorter round trip: what UCCL does.
#[derive(Debug, Clone, Copy, Default)]
pub struct PowerOfTwo {
    drawn: u64,
}

impl PowerOfTwo {
    /// A number below `bound`, by the finaliser of `SplitMix64`.
    fn draw(&mut self, bound: usize) -> usize {
        self.drawn = self.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.drawn ^ (self.drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 32) as usize * bound) >> 32
    }
}

impl Selector for PowerOfTwo {
    fn name(&self) -> &'static str {
        "power-of-two"
    }

    fn choose(&mut self, _conn: u32, bytes: u64, paths: &[View]) -> Option<usize> {
        let with_room = || (0..paths.len()).filter(|&i| paths[i].has_room(bytes));
        let count = with_room().count();
        if count == 0 {
            return None;
        }
        let (first, second) = (self.draw(count), self.draw(count));
        [first, second]
            .into_iter()
            .filter_map(|k| with_room().nth(k))
            .min_by_key(|&i| paths[i].rtt)
    }
}

/// The selectors, dispatched without a virtual call.
#[derive(Debug, Clone)]
pub enum AnySelector {
    /// Least outstanding.
    LeastOutstanding(LeastOutstanding),
    /// In turn by round trip.
    Weighted(Weighted),
    /// The better of two.
    PowerOfTwo(PowerOfTwo),
    /// Least expected completion.
    Adaptive(Adaptive),
    /// In turn.
    RoundRobin(RoundRobin),
    /// Fixed per connection.
    Hash(StaticHash),
}

impl Selector for AnySelector {
    fn name(&self) -> &'static str {
        match self {
            Self::LeastOutstanding(s) => s.name(),
            Self::Weighted(s) => s.name(),
            Self::PowerOfTwo(s) => s.name(),
            Self::Adaptive(s) => s.name(),
            Self::RoundRobin(s) => s.name(),
            Self::Hash(s) => s.name(),
        }
    }

    fn choose(&mut self, conn: u32, bytes: u64, paths: &[View]) -> Option<usize> {
        match self {
            Self::LeastOutstanding(s) => s.choose(conn, bytes, paths),
            Self::Weighted(s) => s.choose(conn, bytes, paths),
            Self::PowerOfTwo(s) => s.choose(conn, bytes, paths),
            Self::Adaptive(s) => s.choose(conn, bytes, paths),
            Self::RoundRobin(s) => s.choose(conn, bytes, paths),
            Self::Hash(s) => s.choose(conn, bytes, paths),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(rate_mbps: u64) -> View {
        View {
            usable: true,
            outstanding: Bytes(0),
            cap: Bytes(1 << 20),
            byte_time: (8000 << 16) / rate_mbps,
            delay_ns: 100_000,
            rtt: Nanos(10_000),
        }
    }

    #[test]
    fn slower_paths_get_proportionally_less() {
        let mut paths = [500, 500, 250, 100].map(path);
        let mut bytes = [0u64; 4];
        for _ in 0..54 {
            let i = Adaptive.choose(0, 16384, &paths).unwrap();
            paths[i].outstanding.0 += 16384;
            bytes[i] += 1;
        }
        assert_eq!(bytes, [20, 20, 10, 4]);
    }

    #[test]
    fn a_chunk_waits_for_the_path_on_which_it_arrives_first() {
        let mut paths = [500, 5].map(path);
        paths[0].outstanding = paths[0].cap;
        assert_eq!(Adaptive.choose(0, 16384, &paths), Some(1), "it is empty");
        paths[1].outstanding = Bytes(16384);
        assert_eq!(Adaptive.choose(0, 16384, &paths), None);
        paths[0].usable = false;
        assert_eq!(Adaptive.choose(0, 16384, &paths), Some(1));
    }

    #[test]
    fn dead_and_full_paths_get_nothing() {
        let mut paths = [500, 500, 500].map(path);
        paths[0].usable = false;
        paths[1].outstanding = paths[1].cap;
        let selectors = [
            AnySelector::Adaptive(Adaptive),
            AnySelector::RoundRobin(RoundRobin::default()),
            AnySelector::LeastOutstanding(LeastOutstanding::default()),
            AnySelector::PowerOfTwo(PowerOfTwo::default()),
        ];
        for mut selector in selectors {
            for _ in 0..10 {
                assert_eq!(
                    selector.choose(3, 1000, &paths),
                    Some(2),
                    "{}",
                    selector.name()
                );
            }
        }
        paths[2].usable = false;
        assert_eq!(Adaptive.choose(3, 1000, &paths), None);
        assert_eq!(StaticHash.choose(3, 1000, &[]), None);
    }

    #[test]
    fn turns_are_kept_until_a_path_is_behind() {
        let mut paths = [500; 4].map(path);
        let mut selector = LeastOutstanding::default();
        let mut next = |paths: &[View]| selector.choose(0, 1000, paths).unwrap();
        paths[1].outstanding = Bytes(1000);
        assert_eq!(
            [(); 4].map(|()| next(&paths)),
            [0, 1, 2, 3],
            "a chunk is nothing"
        );
        paths[1].outstanding = Bytes(1001);
        assert_eq!([(); 4].map(|()| next(&paths)), [0, 2, 3, 0]);
    }

    #[test]
    fn the_slowest_of_all_is_never_the_better_of_two() {
        let mut paths = [500; 8].map(path);
        paths[5].rtt = Nanos(90_000);
        let mut selector = PowerOfTwo::default();
        let mut hit = [0; 8];
        for _ in 0..8000 {
            hit[selector.choose(0, 1000, &paths).unwrap()] += 1;
        }
        // Only when it is drawn twice.
        assert!((60..200).contains(&hit[5]), "{hit:?}");
        hit[5] = 1000;
        assert!(hit.iter().all(|&n| n > 800), "{hit:?}");
    }

    #[test]
    fn a_hash_is_static_and_spreads() {
        let paths = [100; 4].map(path);
        let mut hit = [0; 4];
        for conn in 0..400 {
            let first = StaticHash.choose(conn, 1, &paths).unwrap();
            assert_eq!(StaticHash.choose(conn, 1, &paths), Some(first));
            hit[first] += 1;
        }
        assert!(hit.iter().all(|&n| n > 70), "{hit:?}");
    }
}
