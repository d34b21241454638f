//! A flag that any number of threads raise and one takes: "there is something for you".
//!
//! # Why it is right
//! What a thread wrote before [`Flag::raise`] is visible to the thread whose [`Flag::take`]
//! returned true. Two raises may come before one take, so raising is a read-modify-write and not a
//! plain store: a store would end the release sequence of the earlier raise, and the taker would
//! be synchronised with the last raiser only. For the same reason a raiser doesn't look first
//! whether the flag is up already: it would then publish nothing of its own.
//!
//! A taker does look first. A relaxed load that sees false decides nothing that a swap, performed
//! at the same moment, could not have decided as well; and the flag is down nearly always, so the
//! cache line stays shared instead of bouncing between the cores.

use super::primitives::{AtomicBool, Ordering};

/// A flag that any thread raises and one thread takes.
#[derive(Debug)]
pub struct Flag(AtomicBool);

impl Flag {
    /// A flag that is down.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// A flag that is down.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Raises the flag. What this thread wrote before is visible to whoever takes it.
    #[inline]
    pub fn raise(&self) {
        // Release: pairs with the Acquire of the swap in `take`. A swap, see above.
        self.0.swap(true, Ordering::Release);
    }

    /// Takes the flag down and says whether it was up. Costs one load while it is down.
    #[inline]
    pub fn take(&self) -> bool {
        // Relaxed: only decides whether to try; the swap synchronises.
        // Acquire: pairs with the Release in `raise`.
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Acquire)
    }

    /// Whether the flag is up, without taking it down. What the raisers wrote is visible if so.
    #[inline]
    pub fn is_raised(&self) -> bool {
        // Acquire: pairs with the Release in `raise`.
        self.0.load(Ordering::Acquire)
    }
}

impl Default for Flag {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn is_taken_once() {
        let flag = Flag::new();
        assert!(!flag.take());
        flag.raise();
        flag.raise();
        assert!(flag.is_raised());
        assert!(flag.take());
        assert!(!flag.take() && !flag.is_raised());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    /// Whoever takes the flag sees what every raiser up to then had written. With a plain store in
    /// `raise` this fails.
    #[test]
    fn the_taker_sees_what_all_raisers_wrote() {
        loom::model(|| {
            let flag = Arc::new(Flag::new());
            let written = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
            let raisers: Vec<_> = (0..2)
                .map(|i| {
                    let (flag, written) = (Arc::clone(&flag), Arc::clone(&written));
                    thread::spawn(move || {
                        written[i].store(1, Ordering::Relaxed);
                        flag.raise();
                    })
                })
                .collect();
            let mut seen = 0;
            if flag.take() {
                seen = written.iter().map(|one| one.load(Ordering::Relaxed)).sum();
                assert!(seen >= 1);
            }
            for raiser in raisers {
                raiser.join().unwrap();
            }
            // Nobody raises any more. If the flag is down, both were seen when it was taken.
            if !flag.take() {
                assert_eq!(seen, 2, "a raise was swallowed");
            }
        });
    }

    /// A raise counts although the flag is up already. If `raise` looks first, this fails.
    #[test]
    fn a_second_raise_publishes_too() {
        loom::model(|| {
            let flag = Arc::new(Flag::new());
            let written = Arc::new(AtomicUsize::new(0));
            flag.raise();
            let raiser = {
                let (flag, written) = (Arc::clone(&flag), Arc::clone(&written));
                thread::spawn(move || {
                    written.store(1, Ordering::Relaxed);
                    flag.raise();
                })
            };
            assert!(flag.take());
            let seen = written.load(Ordering::Relaxed);
            raiser.join().unwrap();
            if !flag.take() {
                assert_eq!(seen, 1, "the second raise was swallowed");
            }
        });
    }
}
