//! The event queue: a calendar of narrow buckets for what is near, a heap for what is far.
//!
//! Nearly every event of a fabric lies within a few microseconds, and a heap over all of them is
//! a cache miss per level. Here an event goes into the bucket of its time, unsorted; a bucket is
//! sorted when its turn comes, and it is small. Buckets are chains of small blocks from a common
//! stock: what one bucket has emptied the next one fills while it is still in the cache, and the
//! memory is that of the events there are, not of the most that each bucket has ever held. Events
//! of the same moment come in the order in which they were scheduled, whatever way they took, so
//! a run is repeatable.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::packet::NONE;
use super::time::Picos;

/// Width of a bucket, as a power of two of picoseconds: 2 ns, in which the largest fabrics have
/// some hundreds of events.
const WIDTH_BITS: u32 = 11;
/// Buckets: the calendar reaches 67 us ahead.
const BUCKETS: u64 = 1 << 15;
const WORDS: usize = BUCKETS as usize / 64;
/// Events of a block, which with its header takes two cache lines.
const BLOCK: usize = 15;

/// An event of a bucket: when it is due, counted from the start of the bucket, in the upper half,
/// and what it is in the lower.
type Slot = u64;

/// An event that is not in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Picos,
    /// When it was scheduled, then what it is: the order among those of one moment.
    order: u32,
    event: u32,
}

/// Part of a bucket, or free.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Block {
    slots: [Slot; BLOCK],
    len: u32,
    /// The block filled before it, or the next free one.
    next: u32,
}

/// Events, to be taken out in the order of their time. An event is a number that its owner
/// understands.
#[derive(Debug)]
pub struct EventQueue {
    /// The bucket whose turn it is, in order, and how many of its events have been taken out.
    current: Vec<Slot>,
    taken: usize,
    /// How many of them [`EventQueue::glance`] has shown.
    shown: usize,
    /// Number of that bucket since the start of time.
    current_bucket: u64,
    /// The block of each bucket that is being filled.
    buckets: Box<[u32]>,
    blocks: Vec<Block>,
    free: u32,
    /// Which buckets hold anything.
    occupied: Box<[u64]>,
    /// What was scheduled for the current bucket after its turn had come: few, and the bucket of a
    /// fabric that goes in step may be large.
    late: BinaryHeap<Reverse<Entry>>,
    far: BinaryHeap<Reverse<Entry>>,
    scheduled: u32,
    len: usize,
}

impl Default for EventQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl EventQueue {
    /// An empty queue at the start of time.
    #[must_use]
    pub fn new() -> Self {
        Self {
            current: Vec::new(),
            taken: 0,
            shown: 0,
            current_bucket: 0,
            buckets: vec![NONE; BUCKETS as usize].into_boxed_slice(),
            blocks: Vec::new(),
            free: NONE,
            occupied: vec![0; WORDS].into_boxed_slice(),
            late: BinaryHeap::new(),
            far: BinaryHeap::new(),
            scheduled: 0,
            len: 0,
        }
    }

    /// Events in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an event; `at` is not before the last event taken out.
    #[inline]
    pub fn push(&mut self, at: Picos, event: u32) {
        self.len += 1;
        let bucket = at.0 >> WIDTH_BITS;
        if bucket > self.current_bucket && bucket - self.current_bucket < BUCKETS {
            self.fill(at, event);
            return;
        }
        let order = self.scheduled;
        self.scheduled = order.wrapping_add(1);
        let entry = Reverse(Entry { at, order, event });
        if bucket <= self.current_bucket {
            self.late.push(entry);
        } else {
            self.far.push(entry);
        }
    }

    /// Puts an event into its bucket.
    fn fill(&mut self, at: Picos, event: u32) {
        let bucket = (at.0 >> WIDTH_BITS) % BUCKETS;
        let index = bucket as usize;
        let within = at.0 % (1 << WIDTH_BITS);
        let slot = within << 32 | u64::from(event);
        let last = self.buckets[index];
        if last != NONE {
            let block = &mut self.blocks[last as usize];
            if let Some(place) = block.slots.get_mut(block.len as usize) {
                *place = slot;
                block.len += 1;
                return;
            }
        }
        let mut fresh = self.free;
        if fresh == NONE {
            fresh = self.blocks.len() as u32;
            self.blocks.push(Block {
                slots: [0; BLOCK],
                len: 0,
                next: NONE,
            });
        }
        let block = &mut self.blocks[fresh as usize];
        self.free = block.next;
        block.slots[0] = slot;
        block.len = 1;
        block.next = last;
        self.buckets[index] = fresh;
        self.occupied[index / 64] |= 1 << (index % 64);
    }

    /// Takes the next event out, with its time.
    #[inline]
    pub fn pop(&mut self) -> Option<(Picos, u32)> {
        loop {
            if let Some(next) = self.earliest() {
                self.len -= 1;
                return Some(next);
            }
            if self.len == 0 {
                return None;
            }
            self.turn();
        }
    }

    /// Up to so many of the events that are to come, once those shown before have been taken out.
    /// What is scheduled later may still come before them.
    #[inline]
    pub(super) fn glance(&mut self, most: usize) -> Option<impl Iterator<Item = u32> + '_> {
        if self.shown > self.taken || self.taken == self.current.len() {
            return None;
        }
        self.shown = self.current.len().min(self.taken + most);
        let next = &self.current[self.taken..self.shown];
        Some(next.iter().map(|&slot| slot as u32))
    }

    /// The next event of the current bucket.
    #[inline]
    fn earliest(&mut self) -> Option<(Picos, u32)> {
        let next = self.current.get(self.taken).map(|&slot| {
            let at = (self.current_bucket << WIDTH_BITS) + (slot >> 32);
            (Picos(at), slot as u32)
        });
        // What is late was scheduled after everything in the bucket.
        if let Some(&Reverse(late)) = self.late.peek()
            && next.is_none_or(|(at, _)| late.at < at)
        {
            self.late.pop();
            return Some((late.at, late.event));
        }
        self.taken += usize::from(next.is_some());
        next
    }

    /// Goes on to the next bucket that holds anything.
    fn turn(&mut self) {
        let next = match self.next_occupied() {
            Some(bucket) => bucket,
            // The calendar is empty: it begins anew where the far events do.
            None => match self.far.peek() {
                Some(Reverse(entry)) => entry.at.0 >> WIDTH_BITS,
                None => return,
            },
        };
        self.current_bucket = next;
        // What was far is placed before anything is scheduled in its bucket: within a bucket the
        // order among those of one moment is that of their scheduling.
        while let Some(&Reverse(Entry { at, event, .. })) = self.far.peek() {
            if (at.0 >> WIDTH_BITS) - next >= BUCKETS {
                break;
            }
            self.far.pop();
            self.fill(at, event);
        }
        self.empty((next % BUCKETS) as usize);
    }

    /// Makes a bucket the current one, in order of time; what is due at the same moment stays in the
    /// order in which it came.
    fn empty(&mut self, index: usize) {
        self.occupied[index / 64] &= !(1 << (index % 64));
        self.current.clear();
        (self.taken, self.shown) = (0, 0);
        let mut at = std::mem::replace(&mut self.buckets[index], NONE);
        while at != NONE {
            let block = &mut self.blocks[at as usize];
            let slots = &block.slots[..block.len as usize];
            self.current.extend(slots.iter().rev());
            let before = std::mem::replace(&mut block.next, self.free);
            self.free = at;
            at = before;
        }
        // The blocks came last one first.
        self.current.reverse();
        self.current.sort_by_key(|slot| slot >> 32);
    }

    /// The next bucket after the current one, within the calendar, that holds anything.
    fn next_occupied(&self) -> Option<u64> {
        let start = self.current_bucket + 1;
        let slot = (start % BUCKETS) as usize;
        let (word, bit) = (slot / 64, slot % 64);
        let first = self.occupied[word] & (u64::MAX << bit);
        if first != 0 {
            return Some(start + u64::from(first.trailing_zeros()) - bit as u64);
        }
        let words = (1..=WORDS).map(|step| (step, (word + step) % WORDS));
        for (step, index) in words {
            let bits = self.occupied[index];
            if bits != 0 {
                let ahead = step as u64 * 64 + u64::from(bits.trailing_zeros());
                return Some(start + ahead - bit as u64);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Like a sorted list, with the order of scheduling among equals.
        #[test]
        fn events_come_in_order(steps in prop::collection::vec((0u64..4, 0u64..1 << 20, 0u32..3), 1..300)) {
            let mut queue = EventQueue::new();
            let mut model: Vec<(u64, u32)> = Vec::new();
            let mut now = 0;
            for (next, (scale, distance, pops)) in (0u32..).zip(steps) {
                // From the same bucket to far beyond the calendar.
                let at = now + (distance >> (20 - 5 * scale.min(3) - 5)) * if scale == 3 { 1 << 12 } else { 1 };
                queue.push(Picos(at), next);
                let place = model.partition_point(|&(time, _)| time <= at);
                model.insert(place, (at, next));
                for _ in 0..pops {
                    let expected = (!model.is_empty()).then(|| model.remove(0));
                    let got = queue.pop().map(|(at, event)| (at.0, event));
                    prop_assert_eq!(got, expected);
                    now = got.map_or(now, |(at, _)| at);
                }
                prop_assert_eq!(queue.len(), model.len());
            }
            while let Some((at, event)) = queue.pop() {
                prop_assert_eq!((at.0, event), model.remove(0));
            }
            prop_assert!(model.is_empty() && queue.is_empty());
            // What was emptied is filled again before there is more.
            prop_assert!(queue.blocks.len() <= 300);
        }
    }
}
