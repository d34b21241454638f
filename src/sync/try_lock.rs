//! A lock nobody waits for: it is how a link is driven. Whoever gets it moves the link forward;
//! the others have nothing to add and pass by.
//!
//! # Why it is right
//! The value is reached only through a [`TryLockGuard`]. A guard exists only for the thread that
//! turned `owned` from false to true, and `owned` becomes false again only when that guard is
//! dropped; so there is one guard at a time, and its references borrow from it. The exchange that
//! takes the lock is Acquire and pairs with the Release of the store that gave it back: all that
//! the previous owner did to the value happens before all that the next one does.
//!
//! The lock is `Sync` if the value is `Send`: threads get the value one after the other, never
//! together. A *guard*, however, lends `&T`; it may be shared between threads only if `T` is
//! `Sync`, and sent only if `T` is `Send`. It therefore carries the auto traits of `&mut T`;
//! without that marker it would inherit those of `&TryLock<T>`, which are wider.
//!
//! # What it does not do
//! Passing by is only right if somebody looks again later. "Publish work, fail to get the lock,
//! leave" and "find no work, give the lock back, leave" can happen such that neither sees the
//! other (a store followed by a load of another variable is not ordered by Acquire and Release).
//! A caller that polls is safe, because it comes again. A thread that is going to sleep on it is
//! not: it needs a wake-up of its own (an eventfd, a timeout).
//!
//! A panic while the lock is held gives it back and leaves no mark: whoever catches the panic
//! must put the value out of use.

use super::primitives::{AtomicBool, Ordering, UnsafeCell, spin_loop, yield_now};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// How often [`TryLock::lock_spinning`] looks before it lets other threads run in between.
const SPINS_BEFORE_YIELD: u32 = if cfg!(loom) { 0 } else { 64 };

/// A value that one thread at a time may use, and for which nobody waits.
pub struct TryLock<T> {
    owned: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: a shared lock gives out the value to one thread at a time (see the head of the file),
// which is the same as sending it from thread to thread; hence `T: Send` and nothing more.
#[expect(unsafe_code, reason = "this is the lock")]
unsafe impl<T: Send> Sync for TryLock<T> {}

/// The right to use the value of a [`TryLock`]; gives it back when dropped.
///
/// It can't be shared between threads where the value can't:
///
/// ```compile_fail,E0277
/// fn share<T: Sync>(_: T) {}
/// let lock = thalweg::sync::TryLock::new(std::cell::Cell::new(0));
/// share(lock.try_lock());
/// ```
#[must_use = "the lock is given back as soon as the guard is dropped"]
pub struct TryLockGuard<'a, T> {
    lock: &'a TryLock<T>,
    /// The auto traits of `&mut T` instead of those of `&TryLock<T>`; see the head of the file.
    traits: PhantomData<&'a mut T>,
}

impl<T> TryLock<T> {
    /// A lock around `value`, free.
    pub fn new(value: T) -> Self {
        Self {
            owned: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, if nobody else is using it. Never waits. Fails after a single load where the
    /// lock is taken, so that passing by doesn't steal the cache line from the owner.
    #[inline]
    pub fn try_lock(&self) -> Option<TryLockGuard<'_, T>> {
        // Relaxed: only decides whether to try.
        if self.owned.load(Ordering::Relaxed) {
            return None;
        }
        // Acquire: pairs with the Release store in the guard's drop. Relaxed: who doesn't get the
        // lock touches nothing that it protects.
        self.owned
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        Some(TryLockGuard {
            lock: self,
            traits: PhantomData,
        })
    }

    /// The value, as soon as whoever uses it is done. For closing only: it spins for a moment and
    /// then yields the processor between looks, so it must not be called by the data path, nor
    /// while the caller holds a guard of this same lock (it would wait for itself), and its use is
    /// bounded by one turn of the owner, who moves a link forward once and lets go.
    pub fn lock_spinning(&self) -> TryLockGuard<'_, T> {
        let mut looks = 0;
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            if looks < SPINS_BEFORE_YIELD {
                looks += 1;
                spin_loop();
            } else {
                yield_now();
            }
        }
    }

    /// The value, for whom owns the lock as a whole; nothing to wait for.
    #[expect(unsafe_code, reason = "this is the lock")]
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: `&mut self` proves that no guard and no other reference to the lock exists.
        self.value.with_mut(|value| unsafe { &mut *value })
    }
}

impl<T> Deref for TryLockGuard<'_, T> {
    type Target = T;

    #[inline]
    #[expect(unsafe_code, reason = "this is the lock")]
    fn deref(&self) -> &T {
        // SAFETY: this is the only guard (see the head of the file), so nobody else reaches the
        // value; the reference borrows from the guard, hence no `&mut` exists beside it.
        self.lock.value.with(|value| unsafe { &*value })
    }
}

impl<T> DerefMut for TryLockGuard<'_, T> {
    #[inline]
    #[expect(unsafe_code, reason = "this is the lock")]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; the reference borrows the guard exclusively.
        self.lock.value.with_mut(|value| unsafe { &mut *value })
    }
}

impl<T> Drop for TryLockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the Acquire exchange in `try_lock`.
        self.lock.owned.store(false, Ordering::Release);
    }
}

impl<T> fmt::Debug for TryLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryLock")
            .field("owned", &self.owned)
            .finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for TryLockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TryLockGuard").field(&**self).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    #[test]
    fn only_one_has_it() {
        let mut lock = TryLock::new(1);
        {
            let mut guard = lock.try_lock().expect("the lock is free");
            assert!(lock.try_lock().is_none());
            *guard += 1;
        }
        assert_eq!(*lock.try_lock().expect("the guard is gone"), 2);
        *lock.get_mut() += 1;
        assert_eq!(*lock.lock_spinning(), 3);
    }

    #[test]
    fn a_panic_gives_it_back() {
        let lock = TryLock::new(());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = lock.try_lock().expect("the lock is free");
            panic!("expected by the test");
        }));
        assert!(panicked.is_err());
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn threads_exclude_each_other() {
        const TURNS: usize = 20_000;
        let lock = TryLock::new(0_usize);
        let passed_by = AtomicUsize::new(0);
        thread::scope(|scope| {
            for spinning in [false, true, false] {
                let (lock, passed_by) = (&lock, &passed_by);
                scope.spawn(move || {
                    for _ in 0..TURNS {
                        if spinning {
                            *lock.lock_spinning() += 1;
                        } else if let Some(mut value) = lock.try_lock() {
                            *value += 1;
                        } else {
                            passed_by.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(*lock.lock_spinning() + passed_by.into_inner(), 3 * TURNS);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn two_try_and_nothing_is_lost() {
        loom::model(|| {
            let lock = Arc::new(TryLock::new(0));
            let other = {
                let lock = Arc::clone(&lock);
                thread::spawn(move || lock.try_lock().map(|mut value| *value += 1).is_some())
            };
            let had_it = lock.try_lock().map(|mut value| *value += 1).is_some();
            let other_had_it = other.join().unwrap();
            assert!(had_it || other_had_it, "both passed by");
            assert_eq!(
                *lock.lock_spinning(),
                i32::from(had_it) + i32::from(other_had_it)
            );
        });
    }

    #[test]
    fn the_one_who_spins_gets_it() {
        loom::model(|| {
            let lock = Arc::new(TryLock::new(0));
            let other = {
                let lock = Arc::clone(&lock);
                thread::spawn(move || *lock.lock_spinning() += 1)
            };
            *lock.lock_spinning() += 1;
            other.join().unwrap();
            assert_eq!(*lock.lock_spinning(), 2);
        });
    }
}
