//! The switch between the standard library and loom. loom's types have the same methods, except
//! that its cell hands out its pointer only for the length of a closure, which is how it notices
//! two accesses that nothing orders; the standard cell is given the same face here.

#[cfg(loom)]
pub(super) use loom::{
    cell::UnsafeCell,
    hint::spin_loop,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
    thread::yield_now,
};

#[cfg(not(loom))]
pub(super) use std::{
    hint::spin_loop,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
    thread::yield_now,
};

pub(super) use std::sync::atomic::Ordering;

/// The standard cell with loom's face; compiles to nothing.
#[cfg(not(loom))]
#[derive(Debug)]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline]
    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
