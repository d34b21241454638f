//! Simulated time: whole picoseconds, so that a byte at 800 Gb/s is a whole number and no sum
//! depends on the order of its parts or on the machine.

use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

use crate::clock::Timestamp;
use crate::units::{Nanos, Rate};

/// A moment since the start of a run, or a length of time, in picoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Picos(pub u64);

/// Where the hosts' clocks stand at the start of a run: far from 0, as on a real host, so that
/// "never" and "long ago" can be told apart.
const CLOCK_START: Nanos = Nanos(1_000_000_000_000);

impl Picos {
    /// The start of a run, or no time at all.
    pub const ZERO: Self = Self(0);
    /// Later than everything.
    pub const MAX: Self = Self(u64::MAX);

    /// So many nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos.saturating_mul(1_000))
    }

    /// So many microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000_000))
    }

    /// Whole nanoseconds, rounded down.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0 / 1_000
    }

    /// Microseconds with their fraction, for display and ratios.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure to show")]
    pub const fn as_micros_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// What a host's clock shows at this moment of the run.
    #[must_use]
    pub fn clock(self) -> Timestamp {
        Timestamp::ZERO + CLOCK_START + Nanos(self.as_nanos())
    }

    /// The moment of the run at which a host's clock shows `at`; a moment before the run is its start.
    #[must_use]
    pub fn at_clock(at: Timestamp) -> Self {
        Self::from_nanos(at.since(Timestamp::ZERO + CLOCK_START).0)
    }

    /// The time from `earlier` to this moment; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Picos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Picos {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Picos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Mul<u64> for Picos {
    type Output = Self;
    fn mul(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl Div<u64> for Picos {
    type Output = Self;
    fn div(self, divisor: u64) -> Self {
        Self(self.0.checked_div(divisor).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Picos {
    fn from(nanos: Nanos) -> Self {
        Self::from_nanos(nanos.0)
    }
}

impl fmt::Display for Picos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Nanos(self.as_nanos()))
    }
}

/// The time that bytes take on a wire: picoseconds a byte, with 16 bits of fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteTime(u64);

impl ByteTime {
    /// The byte time of a rate; of at least a byte a second.
    #[must_use]
    pub const fn of(rate: Rate) -> Self {
        let rate = if rate.0 == 0 { 1 } else { rate.0 };
        Self((1_000_000_000_000 << 16) / rate)
    }

    /// How long so many bytes take.
    #[must_use]
    pub const fn time(self, bytes: u64) -> Picos {
        Picos((bytes * self.0) >> 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_times_are_exact_at_the_usual_rates() {
        for (mbps, bytes, picos) in [
            (100_000, 4150, 332_000),
            (400_000, 4150, 83_000),
            (400_000, 64, 1_280),
            (800_000, 1, 10),
            (25_000, 4150, 1_328_000),
        ] {
            assert_eq!(
                ByteTime::of(Rate::from_mbps(mbps)).time(bytes),
                Picos(picos)
            );
        }
    }

    #[test]
    fn a_clock_reading_comes_back() {
        let moment = Picos::from_micros(17);
        assert_eq!(Picos::at_clock(moment.clock()), moment);
        assert_eq!(Picos::at_clock(Timestamp::ZERO), Picos::ZERO);
    }
}
