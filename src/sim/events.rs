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
/// Events of a block, which with its header takes four cache lines.
const BLOCK: usize = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Picos,
    /// When it was scheduled, then what it is: the order among those of one moment.
    order: u32,
    event: u32,
}

const NOTHING: Entry = Entry {
    at: Picos::ZERO,
    order: 0,
    event: 0,
};

/// Part of a bucket, or free.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Block {
    entries: [Entry; BLOCK],
    len: u32,
    /// The block filled before it, or the next free one.
    next: u32,
}

/// Events, to be taken out in the order of their time. An event is a number that its owner
/// understands.
#[derive(Debug)]
pub struct EventQueue {
    /// The bucket whose turn it is, latest first.
    current: Vec<Entry>,
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
        let entry = Entry {
            at,
            order: self.scheduled,
            event,
        };
        self.scheduled = self.scheduled.wrapping_add(1);
        self.len += 1;
        self.place(entry);
    }

    fn place(&mut self, entry: Entry) {
        let bucket = entry.at.0 >> WIDTH_BITS;
        if bucket <= self.current_bucket {
            self.late.push(Reverse(entry));
        } else if bucket - self.current_bucket < BUCKETS {
            self.fill((bucket % BUCKETS) as usize, entry);
        } else {
            self.far.push(Reverse(entry));
        }
    }

    /// Puts an entry into a bucket.
    fn fill(&mut self, slot: usize, entry: Entry) {
        let last = self.buckets[slot];
        if last != NONE {
            let block = &mut self.blocks[last as usize];
            if let Some(place) = block.entries.get_mut(block.len as usize) {
                *place = entry;
                block.len += 1;
                return;
            }
        }
        let mut fresh = self.free;
        if fresh == NONE {
            fresh = self.blocks.len() as u32;
            self.blocks.push(Block {
                entries: [NOTHING; BLOCK],
                len: 0,
                next: NONE,
            });
        }
        let block = &mut self.blocks[fresh as usize];
        self.free = block.next;
        block.entries[0] = entry;
        block.len = 1;
        block.next = last;
        self.buckets[slot] = fresh;
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Takes the next event out, with its time.
    #[inline]
    pub fn pop(&mut self) -> Option<(Picos, u32)> {
        loop {
            if let Some(entry) = self.earliest() {
                self.len -= 1;
                return Some((entry.at, entry.event));
            }
            if self.len == 0 {
                return None;
            }
            self.turn();
        }
    }

    /// The event that is to come so many after the next one, if it is as near as that.
    pub(super) fn upcoming(&self, places: usize) -> Option<u32> {
        let place = self.current.len().checked_sub(places + 1)?;
        Some(self.current[place].event)
    }

    /// The next event of the current bucket.
    #[inline]
    fn earliest(&mut self) -> Option<Entry> {
        let Some(Reverse(late)) = self.late.peek() else {
            return self.current.pop();
        };
        match self.current.last() {
            Some(entry) if entry < late => self.current.pop(),
            _ => self.late.pop().map(|Reverse(late)| late),
        }
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
        let slot = (next % BUCKETS) as usize;
        self.occupied[slot / 64] &= !(1 << (slot % 64));
        self.empty(slot);
        self.current.sort_unstable_by(|a, b| b.cmp(a));
        while let Some(Reverse(entry)) = self.far.peek() {
            if (entry.at.0 >> WIDTH_BITS) - next >= BUCKETS {
                break;
            }
            let Some(Reverse(entry)) = self.far.pop() else {
                break;
            };
            self.place(entry);
        }
    }

    /// Takes all entries out of a bucket, unsorted.
    fn empty(&mut self, slot: usize) {
        let mut at = std::mem::replace(&mut self.buckets[slot], NONE);
        while at != NONE {
            let block = &mut self.blocks[at as usize];
            let entries = &block.entries[..block.len as usize];
            self.current.extend_from_slice(entries);
            let before = std::mem::replace(&mut block.next, self.free);
            self.free = at;
            at = before;
        }
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
            let mut next = 0;
            for (scale, distance, pops) in steps {
                // From the same bucket to far beyond the calendar.
                let at = now + (distance >> (20 - 5 * scale.min(3) - 5)) * if scale == 3 { 1 << 12 } else { 1 };
                queue.push(Picos(at), next);
                let place = model.partition_point(|&(time, _)| time <= at);
                model.insert(place, (at, next));
                next += 1;
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
