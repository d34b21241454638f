//! A few words that one writes now and then and others read, in memory that processes may share. Nobody
//! waits, and readers write nothing.
//!
//! # Why it is right
//! The stamp is odd while the words are being written, and each writing leaves another even one.
//!
//! - The Release fence after the odd stamp and the reader's Acquire fence after the words see to it that
//!   a reader who has seen any word of a writing sees that writing's stamp, or a later one, when it looks
//!   at the stamp again. So a stamp that is the same before and after the words belongs to all of them, and
//!   so it is with whatever else is written and read in their company.
//! - It is loaded with Acquire and was stored with Release, so none of the words is from before it.
//!
//! Words are atomics, read and written relaxed: a reader that comes at the wrong time reads some that do
//! not belong together, but never undefined ones.

use super::primitives::{AtomicU64, Ordering, fence};

/// Times that a reader looks again while words are being written.
const LOOKS: usize = 4;

/// Some words, and the stamp that keeps them together. All zeros is one that was never written.
#[repr(C)]
#[derive(Debug)]
pub struct Notice<const WORDS: usize> {
    stamp: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Default for Notice<WORDS> {
    fn default() -> Self {
        Self {
            stamp: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl<const WORDS: usize> Notice<WORDS> {
    /// Writes it, and meanwhile does what readers are not to see half of. One at a time: of two that write
    /// at once, readers may take the words for one's.
    pub fn write(&self, words: &[u64; WORDS], meanwhile: impl FnOnce()) {
        // Even, also where a program ended while it wrote.
        let before = self.stamp.load(Ordering::Relaxed) & !1;
        self.stamp.store(before.wrapping_add(1), Ordering::Relaxed);
        self.fill(words, before.wrapping_add(2), meanwhile);
    }

    /// What is made of its words, and of atomics that are cleared or begun anew only while it is being
    /// written. None while it is.
    #[must_use]
    pub fn read<T>(&self, mut make: impl FnMut(&[u64; WORDS]) -> T) -> Option<T> {
        (0..LOOKS).find_map(|_| {
            let stamp = self.stamp();
            let is_whole = stamp.is_multiple_of(2);
            is_whole.then(|| self.at(stamp, &mut make)).flatten()
        })
    }

    /// Pairs with the store that ended the writing of this stamp.
    pub(super) fn stamp(&self) -> u64 {
        self.stamp.load(Ordering::Acquire)
    }

    /// Takes it for writing, if its stamp is still this one; `writing` is odd.
    pub(super) fn take(&self, before: u64, writing: u64) -> bool {
        // Acquire: pairs with the Release store of whoever wrote here before, so that its words do not
        // come after ours.
        self.stamp
            .compare_exchange(before, writing, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Writes the words, after the odd stamp.
    pub(super) fn fill(&self, words: &[u64; WORDS], whole: u64, meanwhile: impl FnOnce()) {
        // Pairs with the fence in `at`.
        fence(Ordering::Release);
        meanwhile();
        for (place, word) in self.words.iter().zip(words) {
            place.store(*word, Ordering::Relaxed);
        }
        // Pairs with the load in `stamp`.
        self.stamp.store(whole, Ordering::Release);
    }

    /// What is made of the words that belong to this stamp, which has been seen; None if another has come
    /// since.
    pub(super) fn at<T>(&self, stamp: u64, make: impl FnOnce(&[u64; WORDS]) -> T) -> Option<T> {
        let words = std::array::from_fn(|at| self.words[at].load(Ordering::Relaxed));
        let outcome = make(&words);
        // Pairs with the fence in `fill`.
        fence(Ordering::Acquire);
        (self.stamp.load(Ordering::Relaxed) == stamp).then_some(outcome)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn what_was_written_last_is_read() {
        let notice = Notice::<3>::default();
        assert_eq!(notice.read(|words| *words), Some([0; 3]));
        notice.write(&[1, 2, 3], || ());
        notice.write(&[4, 5, 6], || ());
        assert_eq!(notice.read(|words| *words), Some([4, 5, 6]));
    }

    #[test]
    fn a_writer_that_died_is_followed_by_another() {
        let notice = Notice::<2>::default();
        notice.write(&[1, 2], || ());
        notice.stamp.store(3, Ordering::Relaxed);
        assert_eq!(notice.read(|words| *words), None);
        notice.write(&[3, 4], || ());
        assert_eq!(notice.read(|words| *words), Some([3, 4]));
    }

    #[test]
    fn nothing_that_is_read_is_torn() {
        const TIMES: u64 = if cfg!(miri) { 100 } else { 100_000 };
        let notice = Notice::<7>::default();
        thread::scope(|scope| {
            scope.spawn(|| (1..=TIMES).for_each(|value| notice.write(&[value; 7], || ())));
            loop {
                if let Some(words) = notice.read(|words| *words) {
                    assert!(words == [words[0]; 7], "torn: {words:?}");
                    if words[0] == TIMES {
                        break;
                    }
                }
                thread::yield_now();
            }
        });
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::super::primitives::Arc;
    use super::*;
    use loom::thread;

    #[test]
    fn words_and_what_is_written_with_them_belong_together() {
        loom::model(|| {
            let shared = Arc::new((Notice::<2>::default(), AtomicU64::new(0)));
            let writer = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (notice, other) = &*shared;
                    for value in 1..=2 {
                        notice.write(&[value, value], || other.store(value, Ordering::Relaxed));
                    }
                })
            };
            let read = || {
                let (notice, other) = &*shared;
                notice.read(|words| (*words, other.load(Ordering::Relaxed)))
            };
            if let Some((words, other)) = read() {
                assert!(words == [other, other], "torn: {words:?} with {other}");
            }
            writer.join().unwrap();
            assert_eq!(read(), Some(([2, 2], 2)));
        });
    }
}
