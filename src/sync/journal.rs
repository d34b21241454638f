//! A journal that any number of threads write and any number read, in memory that processes may share:
//! the last so many entries, for whoever looks. Nobody waits, and readers write nothing.
//!
//! # Why it is right
//! `written` counts the entries ever begun. The n-th goes into slot `n` modulo their number, a
//! [`Notice`] whose stamp says what is in it: `2n + 1` while entry n is being written, `2n + 2` once it is
//! there whole, 0 before anything was. A notice wants one writer at a time: a writer takes its slot by
//! exchanging an even stamp of an earlier entry for its own odd one. If the stamp is odd, another writer
//! that fell a whole lap behind is still there; if it is later, this one has fallen behind itself. Either
//! way the entry is counted as dropped, and nothing is touched. A program that dies while it writes
//! blocks that one slot.

use super::notice::Notice;
use super::primitives::{AtomicU64, Ordering};

/// Words of an entry: with its stamp, a line of the cache. (Loom's tests have fewer to walk through.)
pub const WORDS: usize = 7;

/// What counts a journal's entries.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Head {
    written: AtomicU64,
    dropped: AtomicU64,
}

/// A slot of a journal. All zeros is an empty one.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Slot<const N: usize = WORDS>(Notice<N>);

/// What a reader finds of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<const N: usize = WORDS> {
    /// It is there.
    Entry([u64; N]),
    /// It has not been written, or not whole, or was dropped.
    Nothing,
    /// A later one is in its place.
    Overrun,
}

/// A journal.
#[derive(Debug, Clone, Copy)]
pub struct Journal<'a, const N: usize = WORDS> {
    head: &'a Head,
    slots: &'a [Slot<N>],
}

impl<'a, const N: usize> Journal<'a, N> {
    /// Over memory that all who write or read it share: none unless the number of slots is a power of
    /// two.
    #[must_use]
    pub fn new(head: &'a Head, slots: &'a [Slot<N>]) -> Option<Self> {
        slots
            .len()
            .is_power_of_two()
            .then_some(Self { head, slots })
    }

    /// How many of the last entries are kept.
    #[must_use]
    pub fn slots(&self) -> u64 {
        self.slots.len() as u64
    }

    fn slot(&self, entry: u64) -> &'a Notice<N> {
        let mask = self.slots.len() as u64 - 1;
        // The mask is below the number of slots.
        &self.slots[usize::try_from(entry & mask).unwrap_or(0)].0
    }

    /// Writes an entry.
    pub fn write(&self, words: &[u64; N]) {
        // Relaxed: the stamps order everything.
        let entry = self.head.written.fetch_add(1, Ordering::Relaxed);
        let slot = self.slot(entry);
        let (writing, whole) = (entry.wrapping_mul(2) + 1, entry.wrapping_mul(2) + 2);
        let before = slot.stamp();
        if before.is_multiple_of(2) && before < writing && slot.take(before, writing) {
            slot.fill(words, whole, || ());
        } else {
            self.head.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many entries have been begun: the next one's number.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.head.written.load(Ordering::Relaxed)
    }

    /// How many of these have been dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.head.dropped.load(Ordering::Relaxed)
    }

    /// Looks for an entry by its number.
    #[must_use]
    pub fn read(&self, entry: u64) -> Found<N> {
        let slot = self.slot(entry);
        let whole = entry.wrapping_mul(2) + 2;
        let stamp = slot.stamp();
        if stamp < whole {
            return Found::Nothing;
        }
        let words = (stamp == whole).then(|| slot.at(whole, |words| *words));
        words.flatten().map_or(Found::Overrun, Found::Entry)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::thread;

    fn entry(value: u64) -> [u64; WORDS] {
        std::array::from_fn(|at| value.wrapping_mul(at as u64 + 1))
    }

    fn memory(slots: usize) -> (Head, Vec<Slot>) {
        (
            Head::default(),
            (0..slots).map(|_| Slot::default()).collect(),
        )
    }

    #[test]
    fn entries_are_found_until_later_ones_take_their_place() {
        let (head, slots) = memory(4);
        let journal = Journal::new(&head, &slots).unwrap();
        assert_eq!(journal.read(0), Found::Nothing);
        for value in 0..6 {
            journal.write(&entry(value));
        }
        assert_eq!((journal.written(), journal.dropped()), (6, 0));
        assert_eq!(journal.read(0), Found::Overrun);
        assert_eq!(journal.read(1), Found::Overrun);
        for value in 2..6 {
            assert_eq!(journal.read(value), Found::Entry(entry(value)));
        }
        assert_eq!(journal.read(6), Found::Nothing);
    }

    #[test]
    fn a_writer_that_died_blocks_one_slot_and_no_more() {
        let (head, slots) = memory(2);
        let journal = Journal::new(&head, &slots).unwrap();
        journal.write(&entry(7));
        // As it was when the program ended: entry 1 has been begun.
        head.written.store(2, Ordering::Relaxed);
        assert!(slots[1].0.take(0, 3));
        for value in 2..6 {
            journal.write(&entry(value));
        }
        assert_eq!((journal.written(), journal.dropped()), (6, 2));
        assert_eq!(journal.read(4), Found::Entry(entry(4)));
        assert_eq!(journal.read(5), Found::Nothing);
    }

    #[test]
    fn a_number_of_slots_that_is_no_power_of_two_is_refused() {
        for slots in [0, 3, 12] {
            let (head, slots) = memory(slots);
            assert!(Journal::new(&head, &slots).is_none());
        }
    }

    #[test]
    fn a_slot_is_a_line_of_the_cache() {
        assert_eq!((size_of::<Slot>(), align_of::<Slot>()), (64, 64));
        assert_eq!((size_of::<Head>(), align_of::<Head>()), (64, 64));
    }

    #[test]
    fn many_write_and_nothing_that_is_read_is_torn() {
        const EACH: u64 = if cfg!(miri) { 50 } else { 50_000 };
        let (head, slots) = memory(8);
        let journal = Journal::new(&head, &slots).unwrap();
        let is_whole = |words: [u64; WORDS]| words == entry(words[0]);
        thread::scope(|scope| {
            for writer in 0..3 {
                scope.spawn(move || {
                    for value in 0..EACH {
                        journal.write(&entry(writer * EACH + value + 1));
                    }
                });
            }
            let mut next = 0;
            while next < 3 * EACH {
                match journal.read(next) {
                    Found::Entry(words) => assert!(is_whole(words), "{words:?}"),
                    Found::Nothing if journal.written() < next + 8 => {
                        thread::yield_now();
                        // Whoever was to write it may have dropped it.
                        if journal.written() < 3 * EACH {
                            continue;
                        }
                    }
                    Found::Nothing | Found::Overrun => {}
                }
                next += 1;
            }
        });
        assert_eq!(journal.written(), 3 * EACH);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::super::primitives::Arc;
    use super::*;
    use loom::thread;

    /// Two writers that lap each other in so many slots, and a reader.
    fn race(slots: usize) {
        loom::model(move || {
            let head = Arc::new(Head::default());
            let slots: Arc<Vec<Slot<2>>> = Arc::new((0..slots).map(|_| Slot::default()).collect());
            let writer = |value: u64| {
                let (head, slots) = (Arc::clone(&head), Arc::clone(&slots));
                thread::spawn(move || {
                    let journal = Journal::new(&head, &slots).unwrap();
                    journal.write(&[value; 2]);
                })
            };
            let (one, two) = (writer(1), writer(2));
            let journal = Journal::new(&head, &slots).unwrap();
            for entry in 0..2 {
                if let Found::Entry(words) = journal.read(entry) {
                    assert!(words == [1; 2] || words == [2; 2], "torn: {words:?}");
                }
            }
            one.join().unwrap();
            two.join().unwrap();
            // Nobody writes any more: the last is there whole, unless it was dropped.
            let last = journal.read(1);
            let is_whole = last == Found::Entry([1; 2]) || last == Found::Entry([2; 2]);
            assert!(is_whole || journal.dropped() == 1, "{last:?}");
        });
    }

    #[test]
    fn one_slot_for_two_writers() {
        race(1);
    }

    #[test]
    fn a_slot_for_each_writer() {
        race(2);
    }
}
