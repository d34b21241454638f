//! The only place that reads a clock. Everything below the drivers is told the time instead of
//! asking for it, so that the simulator can run the same code at its own pace and a run can be
//! replayed.

use std::ops::{Add, AddAssign, Sub};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::units::Nanos;

/// The wall clock, in ns since 1970: for people, and to be compared with another host's. It may be set at any time.
#[must_use]
pub fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

/// A moment on the host's monotonic clock, in nanoseconds since an arbitrary start. The start is
/// the same for all processes of a host, so moments in shared memory can be compared; between
/// hosts only differences mean something.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[expect(
    clippy::unsafe_derive_deserialize,
    reason = "any number is a moment; unsafe is only the call that asks for it"
)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);
    /// A moment that never comes: the deadline of what has none.
    pub const MAX: Self = Self(u64::MAX);

    /// The present moment. Does not enter the kernel where that maps its clock into the process,
    /// as Linux does on the usual machines.
    #[must_use]
    pub fn now() -> Self {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is a valid timespec that the call may write, and it keeps no pointer.
        #[expect(unsafe_code, reason = "std's Instant doesn't show its value")]
        let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        // The call fails only for an unknown clock or a bad pointer, and this is neither.
        debug_assert_eq!(result, 0, "CLOCK_MONOTONIC exists on every Linux");
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// The moment `nanos` after the start of the clock.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start of the clock.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time that has passed since `earlier`; zero if that moment is still to come.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Nanos> for Timestamp {
    type Output = Self;
    fn add(self, time: Nanos) -> Self {
        Self(self.0.saturating_add(time.0))
    }
}

impl AddAssign<Nanos> for Timestamp {
    fn add_assign(&mut self, time: Nanos) {
        *self = *self + time;
    }
}

impl Sub<Nanos> for Timestamp {
    type Output = Self;
    fn sub(self, time: Nanos) -> Self {
        Self(self.0.saturating_sub(time.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn runs_as_fast_as_the_standard_clock() {
        let (start, start_std) = (Timestamp::now(), Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        // The second pair is read in the other order, so that its interval encloses ours.
        let (elapsed_std, elapsed) = (start_std.elapsed(), Timestamp::now().since(start));
        assert!(
            elapsed.to_std() >= elapsed_std,
            "{elapsed} < {elapsed_std:?}"
        );
        assert!(
            elapsed.to_std() < elapsed_std + Duration::from_secs(1),
            "{elapsed}"
        );
    }

    #[test]
    fn never_goes_back() {
        let mut last = Timestamp::ZERO;
        for _ in 0..1_000 {
            let now = Timestamp::now();
            assert!(now >= last && now > Timestamp::ZERO);
            last = now;
        }
    }

    /// What `/proc/uptime` says is counted by the kernel for everybody; the two differ by the time
    /// that the host was suspended, which doesn't change while the test runs.
    #[test]
    fn advances_with_the_uptime_of_the_host() {
        fn uptime_secs() -> Option<f64> {
            let text = std::fs::read_to_string("/proc/uptime").ok()?;
            text.split(' ').next()?.parse().ok()
        }
        let Some(uptime) = uptime_secs() else { return };
        let ours = Nanos(Timestamp::now().as_nanos()).as_secs_f64();
        assert!(
            ours < uptime + 1.0,
            "{ours} s since the start, but up for {uptime} s"
        );
    }

    #[test]
    fn arithmetic_saturates() {
        let moment = Timestamp::from_nanos(100);
        assert_eq!(moment + Nanos(5), Timestamp::from_nanos(105));
        assert_eq!(moment - Nanos(500), Timestamp::ZERO);
        assert_eq!(moment + Nanos::MAX, Timestamp::MAX);
        assert_eq!(moment.since(Timestamp::from_nanos(40)), Nanos(60));
        assert_eq!(moment.since(Timestamp::from_nanos(200)), Nanos::ZERO);
    }
}
