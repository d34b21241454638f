//! What threads share. Everything that relies on a memory ordering is in this folder, on top of
//! one switch between the standard library and loom, so that a model checker can walk through
//! every interleaving of exactly the code that ships:
//! `make loom`.

pub mod flag;
pub mod journal;
pub mod notice;
mod primitives;
pub mod spsc;
pub mod try_lock;

pub use flag::Flag;
pub use try_lock::{TryLock, TryLockGuard};
