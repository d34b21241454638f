//! Max-min fair shares: who gets how much of the pipes that all go through.
//!
//! Each pipe has a level, the most that a stream gets of it: the pipe is full when those that are
//! held back elsewhere have what they get there and all others have the level. A stream gets the
//! least level of its pipes, each times its weight there. A change at one pipe is carried on to
//! the others of its streams only as far as it changes something there, so a flow that starts or
//! ends costs what its neighbours cost, not what the network does. The levels settle from the
//! tightest pipe on, and where they settle is the max-min fair allocation (Charny, Clark and Jain
//! 1995).
//!
//! The sums are floating-point, of the four basic operations only, which give the same bits on
//! every machine.

use std::collections::VecDeque;

use crate::sim::time::Picos;

/// Classes of data, the urgent one first; each has what the ones before it leave.
pub(super) const CLASSES: usize = 2;

/// A level that changes by less than this share of itself is left as it is.
const TOLERANCE: f64 = 0.02;
/// Nor does it change again after so many times in a round: where streams have weights, levels may
/// go round in circles.
const VISITS_MAX: u32 = 64;

/// One pipe of a stream, and how much of the stream goes through it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    pub(super) pipe: u32,
    /// Of each byte of the stream, so much.
    pub(super) share: f64,
    /// Of the pipe's level it may have so many times.
    weight: f64,
    /// Its place among the members of the pipe.
    place: u32,
    /// What the pipe had carried when the stream began, in bytes.
    carried: f64,
}

impl Use {
    pub(super) const fn new(pipe: u32, share: f64, weight: f64) -> Self {
        Self {
            pipe,
            share,
            weight,
            place: 0,
            carried: 0.0,
        }
    }
}

/// Part of a flow: what goes one way, or is spread over all ways evenly.
#[derive(Debug, Default)]
struct Stream {
    /// Those of pipes that bind come first, so many of them.
    uses: Vec<Use>,
    binding: u32,
    owner: u32,
    class: u8,
    /// In bytes per picosecond, as of the last time that shares were settled.
    rate: f64,
    /// What it is going to be.
    next: f64,
    is_changed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    stream: u32,
    /// Which of the stream's uses this is.
    at: u32,
    /// Of each byte of the stream, so much.
    share: f64,
    weight: f64,
    /// The least that the stream's other pipes let through.
    limit: f64,
}

#[derive(Debug, Default)]
struct Pipe {
    /// Bytes per picosecond.
    capacity: f64,
    /// Whether it can ever hold anything back.
    binds: bool,
    levels: [f64; CLASSES],
    members: [Vec<Member>; CLASSES],
    is_dirty: bool,
    /// How often its level was found in the round of settling that is named.
    visits: (u32, u32),
    /// Sum of the rates through it, by class, as they are going to be.
    loads: [f64; CLASSES],
    /// Bytes carried up to a moment.
    carried: f64,
    carried_at: Picos,
}

/// All pipes and the streams through them.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pipes: Vec<Pipe>,
    streams: Vec<Stream>,
    free: Vec<u32>,
    dirty: VecDeque<u32>,
    changed: Vec<u32>,
    limits: Vec<(f64, f64)>,
    round: u32,
    now: Picos,
}

pub(super) fn picos(time: Picos) -> f64 {
    time.0 as f64
}

impl Shares {
    /// Pipes of these capacities, in bytes per picosecond, each with whether it can ever be the
    /// tightest of a stream.
    pub(super) fn new(pipes: impl Iterator<Item = (f64, bool)>, now: Picos) -> Self {
        let pipes = pipes.map(|(capacity, binds)| Pipe {
            capacity,
            binds,
            levels: [f64::INFINITY; CLASSES],
            carried_at: now,
            ..Pipe::default()
        });
        Self {
            pipes: pipes.collect(),
            now,
            ..Self::default()
        }
    }

    /// Adds a stream of `owner` through these pipes; it has a rate once [`Shares::settle`] is done.
    pub(super) fn add(&mut self, owner: u32, class: u8, uses: impl Iterator<Item = Use>) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.streams.push(Stream::default());
            self.streams.len() as u32 - 1
        });
        let mut stream = std::mem::take(&mut self.streams[index as usize]);
        stream.owner = owner;
        stream.class = class;
        stream.uses.clear();
        stream.uses.extend(uses);
        let binds = |one: &Use| self.pipes[one.pipe as usize].binds;
        stream.uses.sort_by_key(|one| !binds(one));
        stream.binding = stream.uses.iter().filter(|one| binds(one)).count() as u32;
        self.streams[index as usize] = stream;
        for at in 0..self.streams[index as usize].uses.len() {
            let Use {
                pipe,
                share,
                weight,
                ..
            } = self.streams[index as usize].uses[at];
            let limit = self.least_level(index, pipe);
            let one = &mut self.streams[index as usize].uses[at];
            let state = &mut self.pipes[pipe as usize];
            state.count(self.now);
            one.carried = state.carried;
            if state.binds {
                let members = &mut state.members[usize::from(class)];
                one.place = members.len() as u32;
                members.push(Member {
                    stream: index,
                    at: at as u32,
                    share,
                    weight,
                    limit,
                });
                mark(&mut self.dirty, state, pipe);
            }
        }
        self.streams[index as usize].is_changed = true;
        self.changed.push(index);
        index
    }

    /// Takes a stream out.
    pub(super) fn remove(&mut self, index: u32) {
        self.set_rate(index, 0.0);
        let class = usize::from(self.streams[index as usize].class);
        for at in 0..self.streams[index as usize].binding as usize {
            let Use { pipe, place, .. } = self.streams[index as usize].uses[at];
            let state = &mut self.pipes[pipe as usize];
            let members = &mut state.members[class];
            members.swap_remove(place as usize);
            if let Some(&moved) = members.get(place as usize) {
                self.streams[moved.stream as usize].uses[moved.at as usize].place = place;
            } else if members.is_empty() {
                state.loads[class] = 0.0;
            }
            mark(&mut self.dirty, state, pipe);
        }
        let stream = &mut self.streams[index as usize];
        stream.uses.clear();
        stream.rate = 0.0;
        self.free.push(index);
    }

    /// What a stream's pipes have been like since it began: each pipe, the stream's share of it,
    /// and the bytes that it has carried since then.
    pub(super) fn carried(&mut self, index: u32) -> impl Iterator<Item = (u32, f64, f64)> + '_ {
        let (pipes, now) = (&mut self.pipes, self.now);
        self.streams[index as usize].uses.iter().map(move |one| {
            let pipe = &mut pipes[one.pipe as usize];
            pipe.count(now);
            (one.pipe, one.share, pipe.carried - one.carried)
        })
    }

    /// Time has gone on.
    pub(super) fn advance(&mut self, now: Picos) {
        self.now = now;
    }

    /// Lets the levels settle. Calls `changed` for each stream whose rate is another now, with its
    /// owner and by how much it is.
    pub(super) fn settle(&mut self, mut changed: impl FnMut(u32, f64)) {
        self.round = self.round.wrapping_add(1);
        loop {
            while let Some(index) = self.dirty.pop_front() {
                self.pipes[index as usize].is_dirty = false;
                for class in 0..CLASSES {
                    if !self.pipes[index as usize].members[class].is_empty() {
                        self.level(index, class);
                    }
                }
            }
            // Those that have just been added and met nothing but slack have no rate yet.
            for at in 0..self.changed.len() {
                let index = self.changed[at];
                if !self.streams[index as usize].uses.is_empty() {
                    self.set_rate(index, self.least_level(index, u32::MAX));
                }
            }
            if self.dirty.is_empty() {
                break;
            }
        }
        for index in self.changed.drain(..) {
            let stream = &mut self.streams[index as usize];
            stream.is_changed = false;
            let by = stream.next - stream.rate;
            stream.rate = stream.next;
            // One that has been taken out has none, before and after.
            if by != 0.0 {
                changed(stream.owner, by);
            }
        }
    }

    /// The least level of a stream's pipes but for one.
    fn least_level(&self, index: u32, except: u32) -> f64 {
        let stream = &self.streams[index as usize];
        let class = usize::from(stream.class);
        let mut least = f64::INFINITY;
        for one in &stream.uses[..stream.binding as usize] {
            if one.pipe != except {
                least = least.min(one.weight * self.pipes[one.pipe as usize].levels[class]);
            }
        }
        least
    }

    /// Finds the level of a pipe anew, and carries on what it changes.
    fn level(&mut self, index: u32, class: usize) {
        let mut limits = std::mem::take(&mut self.limits);
        limits.clear();
        let pipe = &self.pipes[index as usize];
        let urgent: f64 = pipe.loads[..class].iter().sum();
        let members = pipe.members[class].iter();
        limits.extend(members.map(|one| (one.limit / one.weight, one.share * one.weight)));
        let level = fill((pipe.capacity - urgent).max(0.0), &mut limits);
        self.limits = limits;
        let pipe = &mut self.pipes[index as usize];
        let old = std::mem::replace(&mut pipe.levels[class], level);
        let before = if pipe.visits.0 == self.round {
            pipe.visits.1
        } else {
            0
        };
        pipe.visits = (self.round, before + 1);
        let same = if before >= VISITS_MAX {
            true
        } else if level.is_finite() && old.is_finite() {
            (level - old).abs() <= TOLERANCE * old.min(level)
        } else {
            level.is_infinite() && old.is_infinite()
        };
        if same {
            self.pipes[index as usize].levels[class] = old;
            return;
        }
        let low = old.min(level);
        for at in 0..self.pipes[index as usize].members[class].len() {
            let Member {
                stream,
                limit,
                weight,
                ..
            } = self.pipes[index as usize].members[class][at];
            let (low, level) = (weight * low, weight * level);
            if limit > low {
                self.set_rate(stream, level.min(limit));
            }
            for at in 0..self.streams[stream as usize].binding as usize {
                let Use {
                    pipe,
                    place,
                    weight,
                    ..
                } = self.streams[stream as usize].uses[at];
                if pipe == index {
                    continue;
                }
                let limit = self.least_level(stream, pipe);
                let other = &mut self.pipes[pipe as usize];
                other.members[class][place as usize].limit = limit;
                // A pipe that gives less than both levels does not notice.
                if weight * other.levels[class] > low {
                    mark(&mut self.dirty, other, pipe);
                }
            }
        }
    }

    fn set_rate(&mut self, index: u32, rate: f64) {
        let stream = &mut self.streams[index as usize];
        let by = rate - stream.next;
        if by == 0.0 {
            return;
        }
        stream.next = rate;
        if !stream.is_changed {
            stream.is_changed = true;
            self.changed.push(index);
        }
        let class = usize::from(stream.class);
        for one in &stream.uses {
            let pipe = &mut self.pipes[one.pipe as usize];
            pipe.count(self.now);
            pipe.loads[class] += by * one.share;
            // What the urgent class takes, the others do without.
            if pipe.binds
                && pipe.members[class + 1..]
                    .iter()
                    .any(|rest| !rest.is_empty())
            {
                mark(&mut self.dirty, pipe, one.pipe);
            }
        }
    }
}

impl Pipe {
    /// Counts what it has carried up to now.
    fn count(&mut self, now: Picos) {
        let load: f64 = self.loads.iter().sum();
        self.carried += load * picos(now.since(self.carried_at));
        self.carried_at = now;
    }
}

fn mark(dirty: &mut VecDeque<u32>, pipe: &mut Pipe, index: u32) {
    if !pipe.is_dirty {
        pipe.is_dirty = true;
        dirty.push_back(index);
    }
}

/// The level at which a pipe is full, given the limit that each member has elsewhere and its
/// share; infinite if it never is.
fn fill(capacity: f64, limits: &mut Vec<(f64, f64)>) -> f64 {
    let mut left = capacity;
    let mut shares: f64 = limits.iter().map(|&(_, share)| share).sum();
    loop {
        let level = left.max(0.0) / shares;
        let before = limits.len();
        limits.retain(|&(limit, share)| {
            let stays = limit > level;
            if !stays {
                left -= limit * share;
                shares -= share;
            }
            stays
        });
        if limits.is_empty() {
            return f64::INFINITY;
        }
        if limits.len() == before {
            return level;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(capacities: &[f64], streams: &[(u8, &[u32])]) -> Vec<f64> {
        let pipes = capacities.iter().map(|&capacity| (capacity, true));
        let mut shares = Shares::new(pipes, Picos::ZERO);
        let mut rates = vec![0.0; streams.len()];
        for (owner, (class, pipes)) in (0..).zip(streams) {
            let uses = pipes.iter().map(|&pipe| Use::new(pipe, 1.0, 1.0));
            shares.add(owner, *class, uses);
            // One after the other, or the order could not matter.
            shares.settle(|owner, by| rates[owner as usize] += by);
        }
        rates
    }

    fn assert_near(rates: &[f64], expected: &[f64]) {
        for (rate, expected) in rates.iter().zip(expected) {
            assert!(
                (rate / expected - 1.0).abs() < 0.005,
                "{rates:?}, {expected:?} expected"
            );
        }
    }

    #[test]
    fn shares_are_max_min_fair() {
        assert_near(&rates(&[1.0, 2.0], &[(1, &[0, 1])]), &[1.0]);
        // The textbook's: one through both pipes, one through each.
        let rates_of_three = rates(&[1.0, 2.0], &[(1, &[0, 1]), (1, &[0]), (1, &[1])]);
        assert_near(&rates_of_three, &[0.5, 0.5, 1.5]);
        // A chain of bottlenecks, each of which sets what the next has to give.
        let chain = rates(
            &[1.0, 2.0, 4.0],
            &[(1, &[0]), (1, &[0, 1]), (1, &[1, 2]), (1, &[2])],
        );
        assert_near(&chain, &[0.5, 0.5, 1.5, 2.5]);
    }

    /// Two flows of one sender, of which the second weighs half there; the first is held back by a
    /// receiver, where all weigh the same, and what it leaves is the second's.
    #[test]
    fn weights_count_where_they_are() {
        let mut shares = Shares::new([(3.0, true), (2.0, true)].into_iter(), Picos::ZERO);
        let mut rates = [0.0; 3];
        shares.add(
            0,
            1,
            [Use::new(0, 1.0, 1.0), Use::new(1, 1.0, 1.0)].into_iter(),
        );
        shares.add(1, 1, [Use::new(0, 1.0, 0.5)].into_iter());
        shares.settle(|owner, by| rates[owner as usize] += by);
        assert_near(&rates[..2], &[2.0, 1.0]);
        shares.add(2, 1, [Use::new(1, 1.0, 1.0)].into_iter());
        shares.settle(|owner, by| rates[owner as usize] += by);
        assert_near(&rates, &[1.0, 2.0, 1.0]);
    }

    #[test]
    fn the_urgent_class_goes_first() {
        let shared = rates(&[4.0, 1.0], &[(1, &[0]), (0, &[0, 1]), (1, &[0])]);
        assert_near(&shared, &[1.5, 1.0, 1.5]);
    }

    #[test]
    fn what_ends_makes_room() {
        let mut shares = Shares::new([(1.0, true), (3.0, true)].into_iter(), Picos::ZERO);
        let mut rates = [0.0; 3];
        let mut ids = Vec::new();
        for (owner, pipes) in (0..).zip([&[0u32][..], &[0, 1], &[1]]) {
            let uses = pipes.iter().map(|&pipe| Use::new(pipe, 1.0, 1.0));
            ids.push(shares.add(owner, 1, uses));
        }
        shares.settle(|owner, by| rates[owner as usize] += by);
        assert_near(&rates, &[0.5, 0.5, 2.5]);
        shares.remove(ids[0]);
        shares.settle(|owner, by| rates[owner as usize] += by);
        assert_near(&rates[1..], &[1.0, 2.0]);
        shares.advance(Picos(10));
        let carried: Vec<_> = shares.carried(ids[2]).collect();
        assert!((carried[0].2 - 30.0).abs() < 0.2, "{carried:?}");
    }
}
