//! The clocks that `std` keeps to itself: `CLOCK_MONOTONIC` as a number, which is the same for all
//! processes of a host and therefore relates lines of different programs, and the processor time used.
#![allow(
    unsafe_code,
    reason = "two calls into libc, each filling one structure"
)]
#![allow(
    dead_code,
    reason = "shared by two programs, each of which needs another part"
)]

/// `CLOCK_MONOTONIC` in milliseconds.
#[allow(
    clippy::cast_precision_loss,
    reason = "milliseconds since boot fit 53 bits"
)]
pub fn monotonic_ms() -> f64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one valid out pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
    t.tv_sec as f64 * 1e3 + t.tv_nsec as f64 * 1e-6
}

/// Processor seconds that this process has used, all threads, user and system.
#[allow(
    clippy::cast_precision_loss,
    reason = "seconds of a process fit 53 bits"
)]
pub fn cpu_s() -> f64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one valid out pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}
