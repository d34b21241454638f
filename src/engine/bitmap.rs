//! A sliding bitmap: which chunks of a message have arrived.
//!
//! Bytes are never counted alone, so a chunk that arrives twice cannot complete a message. The
//! window is bounded, so that a message of any length needs the same 40 bytes.

/// Chunks that may be in flight beyond the lowest missing one.
pub const WINDOW: u32 = 256;
const WORDS: usize = WINDOW as usize / 64;

/// A set of chunk numbers, all below `base` and some of the [`WINDOW`] from `base` on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlidingBitmap {
    base: u32,
    words: [u64; WORDS],
}

/// What [`SlidingBitmap::insert`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insert {
    /// It was missing and is there now.
    New,
    /// It was there.
    Duplicate,
    /// It lies beyond the window.
    Beyond,
}

impl SlidingBitmap {
    /// The lowest missing chunk number, or a little below: a multiple of 64.
    #[must_use]
    pub fn base(&self) -> u32 {
        self.base
    }

    /// Whether `index` could be inserted, now or before.
    #[must_use]
    pub fn admits(&self, index: u32) -> bool {
        index.checked_sub(self.base).is_none_or(|at| at < WINDOW)
    }

    /// Whether `index` is in the set.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        match index.checked_sub(self.base) {
            None => true,
            Some(at) if at < WINDOW => self.words[at as usize / 64] >> (at % 64) & 1 == 1,
            Some(_) => false,
        }
    }

    /// Adds `index` and slides past full words.
    pub fn insert(&mut self, index: u32) -> Insert {
        if self.contains(index) {
            return Insert::Duplicate;
        }
        if !self.admits(index) {
            return Insert::Beyond;
        }
        let at = index - self.base;
        self.words[at as usize / 64] |= 1 << (at % 64);
        while self.words[0] == u64::MAX && self.base <= u32::MAX - 2 * WINDOW {
            self.words.rotate_left(1);
            self.words[WORDS - 1] = 0;
            self.base += 64;
        }
        Insert::New
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec(0u32..40, 1..2000)) {
            let mut bitmap = SlidingBitmap::default();
            let mut model = BTreeSet::new();
            let mut lowest = 0;
            for step in steps {
                let index = lowest + step * step / 5;
                let expected = if model.contains(&index) {
                    Insert::Duplicate
                } else if bitmap.admits(index) {
                    model.insert(index);
                    Insert::New
                } else {
                    Insert::Beyond
                };
                prop_assert_eq!(bitmap.insert(index), expected);
                while model.contains(&lowest) {
                    lowest += 1;
                }
                prop_assert!(bitmap.base() <= lowest && lowest - bitmap.base() < 64);
            }
        }
    }
}
