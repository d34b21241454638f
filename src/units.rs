//! Quantities with their unit in the type, so that bytes are never added to nanoseconds and a
//! rate in bits is never taken for one in bytes. All arithmetic saturates: a controller that is
//! fed an absurd sample must clamp, not wrap around or panic in the middle of a collective.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub, SubAssign};
use std::time::Duration;

const NANOS_PER_SEC: u64 = 1_000_000_000;
/// One megabit per second in bytes per second.
const BYTES_PER_SEC_PER_MBPS: u64 = 1_000_000 / 8;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// A length of time in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

/// A rate in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rate(pub u64);

/// What the three quantities share: saturating sums, and multiples and fractions by plain numbers.
macro_rules! quantity {
    ($name:ident) => {
        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);
            /// The largest value; also what arithmetic that would exceed it yields.
            pub const MAX: Self = Self(u64::MAX);

            /// Whether this is nothing.
            #[must_use]
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }

            /// `self * numerator / denominator` without intermediate overflow, rounded down;
            /// [`Self::MAX`] where the result does not fit or the denominator is 0.
            #[must_use]
            pub const fn scale(self, numerator: u64, denominator: u64) -> Self {
                Self(mul_div(self.0, numerator, denominator))
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl SubAssign for $name {
            fn sub_assign(&mut self, other: Self) {
                *self = *self - other;
            }
        }

        impl Mul<u64> for $name {
            type Output = Self;
            fn mul(self, factor: u64) -> Self {
                Self(self.0.saturating_mul(factor))
            }
        }

        /// Division by 0 yields the maximum, in keeping with the rest of the arithmetic.
        impl Div<u64> for $name {
            type Output = Self;
            fn div(self, divisor: u64) -> Self {
                self.0.checked_div(divisor).map_or(Self::MAX, Self)
            }
        }

        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
                items.fold(Self::ZERO, Add::add)
            }
        }
    };
}

quantity!(Bytes);
quantity!(Nanos);
quantity!(Rate);

/// `value * numerator / denominator`, rounded down, saturating. The 64-bit way is tried first
/// because this is called for every chunk and a 128-bit division is a library routine, not an
/// instruction.
const fn mul_div(value: u64, numerator: u64, denominator: u64) -> u64 {
    if denominator == 0 {
        return u64::MAX;
    }
    if let Some(product) = value.checked_mul(numerator) {
        return product / denominator;
    }
    saturate(value as u128 * numerator as u128 / denominator as u128)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the branch has checked that it fits"
)]
const fn saturate(value: u128) -> u64 {
    if value > u64::MAX as u128 {
        u64::MAX
    } else {
        value as u64
    }
}

/// For display and for ratios only: above 2^53 the last digits are lost.
#[expect(
    clippy::cast_precision_loss,
    reason = "a figure to show or a ratio, not a count to keep"
)]
const fn approximate(value: u64) -> f64 {
    value as f64
}

impl Bytes {
    /// So many KiB.
    #[must_use]
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib.saturating_mul(1 << 10))
    }

    /// So many MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// The number as a float, for ratios.
    #[must_use]
    pub const fn as_f64(self) -> f64 {
        approximate(self.0)
    }
}

impl Nanos {
    /// So many microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// So many seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SEC))
    }

    /// Whole milliseconds, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Microseconds with their fraction, for display and ratios.
    #[must_use]
    pub const fn as_micros_f64(self) -> f64 {
        approximate(self.0) / 1e3
    }

    /// Seconds with their fraction, for display and ratios.
    #[must_use]
    pub const fn as_secs_f64(self) -> f64 {
        approximate(self.0) / 1e9
    }

    /// The same length of time for the standard library's functions.
    #[must_use]
    pub const fn to_std(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        Self(saturate(duration.as_nanos()))
    }
}

impl Rate {
    /// So many megabits per second (10^6 bits).
    #[must_use]
    pub const fn from_mbps(mbps: u64) -> Self {
        Self(mbps.saturating_mul(BYTES_PER_SEC_PER_MBPS))
    }

    /// Megabits per second with their fraction, for display and ratios.
    #[must_use]
    pub const fn as_mbps_f64(self) -> f64 {
        approximate(self.0) / 125e3
    }

    /// How long `bytes` take at this rate, rounded up, so that a pacer never runs ahead of its
    /// rate. [`Nanos::MAX`] for some bytes at rate 0.
    #[must_use]
    pub const fn time_for(self, bytes: Bytes) -> Nanos {
        if bytes.0 == 0 {
            return Nanos::ZERO;
        }
        if self.0 == 0 {
            return Nanos::MAX;
        }
        if let Some(product) = bytes.0.checked_mul(NANOS_PER_SEC) {
            return Nanos(product.div_ceil(self.0));
        }
        let product = bytes.0 as u128 * NANOS_PER_SEC as u128;
        Nanos(saturate(product.div_ceil(self.0 as u128)))
    }

    /// How many bytes this rate carries in `time`, rounded down.
    #[must_use]
    pub const fn bytes_in(self, time: Nanos) -> Bytes {
        Bytes(mul_div(self.0, time.0, NANOS_PER_SEC))
    }

    /// The rate at which `bytes` were carried in `time`, rounded down. No bytes are rate 0 in any
    /// time; some bytes in no time at all are [`Rate::MAX`].
    #[must_use]
    pub const fn of(bytes: Bytes, time: Nanos) -> Self {
        if bytes.0 == 0 {
            return Self::ZERO;
        }
        Self(mul_div(bytes.0, NANOS_PER_SEC, time.0))
    }
}

/// Writes `value` in the largest of `units` in which it is at least 1, with as many decimals as
/// three digits allow. The units go from small to large, each with its size.
fn write_scaled(f: &mut fmt::Formatter<'_>, value: u64, units: &[(u64, &str)]) -> fmt::Result {
    let Some(&(size, unit)) = units
        .iter()
        .rev()
        .find(|(size, _)| value >= *size)
        .or(units.first())
    else {
        return write!(f, "{value}");
    };
    if value.is_multiple_of(size) {
        return write!(f, "{} {unit}", value / size);
    }
    let scaled = approximate(value) / approximate(size);
    let decimals = if scaled < 10.0 {
        2
    } else {
        usize::from(scaled < 100.0)
    };
    write!(f, "{scaled:.decimals$} {unit}")
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(
            f,
            self.0,
            &[
                (1, "B"),
                (1 << 10, "KiB"),
                (1 << 20, "MiB"),
                (1 << 30, "GiB"),
            ],
        )
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(
            f,
            self.0,
            &[
                (1, "ns"),
                (1_000, "µs"),
                (1_000_000, "ms"),
                (NANOS_PER_SEC, "s"),
            ],
        )
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.saturating_mul(8);
        write_scaled(
            f,
            bits,
            &[
                (1, "b/s"),
                (1_000, "kb/s"),
                (1_000_000, "Mb/s"),
                (1_000_000_000, "Gb/s"),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn displays_the_unit_that_fits() {
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes::from_kib(64).to_string(), "64 KiB");
        assert_eq!(Bytes(1536).to_string(), "1.50 KiB");
        assert_eq!(Bytes::from_mib(4).to_string(), "4 MiB");
        assert_eq!(Nanos(999).to_string(), "999 ns");
        assert_eq!(Nanos(12_340).to_string(), "12.3 µs");
        assert_eq!(Nanos::from_millis(30_000).to_string(), "30 s");
        assert_eq!(Rate::from_mbps(500).to_string(), "500 Mb/s");
        assert_eq!(Rate::from_mbps(1_850).to_string(), "1.85 Gb/s");
        assert_eq!(Rate::ZERO.to_string(), "0 b/s");
    }

    #[test]
    fn converts_between_units() {
        assert_eq!(Nanos::from_micros(7), Nanos(7_000));
        assert_eq!(Nanos::from_secs(2).to_std(), Duration::from_secs(2));
        assert_eq!(Nanos::from(Duration::from_micros(3)), Nanos(3_000));
        assert_eq!(Nanos::from(Duration::MAX), Nanos::MAX);
        assert_eq!(Nanos(1_999_999).as_millis(), 1);
        assert!((Nanos(1_500).as_micros_f64() - 1.5).abs() < 1e-12);
        assert!((Rate::from_mbps(500).as_mbps_f64() - 500.0).abs() < 1e-9);
    }

    #[test]
    fn a_rate_gives_times_and_sizes() {
        let rate = Rate::from_mbps(500);
        assert_eq!(rate.time_for(Bytes(62_500)), Nanos::from_millis(1));
        assert_eq!(rate.bytes_in(Nanos::from_millis(1)), Bytes(62_500));
        assert_eq!(Rate::of(Bytes(62_500), Nanos::from_millis(1)), rate);
        assert_eq!(Rate(3).time_for(Bytes(1)), Nanos(333_333_334), "rounds up");
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!(Bytes::MAX + Bytes(1), Bytes::MAX);
        assert_eq!(Bytes(1) - Bytes(2), Bytes::ZERO);
        assert_eq!(Nanos::MAX * 2, Nanos::MAX);
        assert_eq!(Nanos(5) / 0, Nanos::MAX);
        assert_eq!(Rate::ZERO.time_for(Bytes(1)), Nanos::MAX);
        assert_eq!(Rate::ZERO.time_for(Bytes::ZERO), Nanos::ZERO);
        assert_eq!(Rate::of(Bytes(1), Nanos::ZERO), Rate::MAX);
        assert_eq!(Rate::of(Bytes::ZERO, Nanos::ZERO), Rate::ZERO);
        assert_eq!(
            [Nanos::MAX, Nanos(1)].into_iter().sum::<Nanos>(),
            Nanos::MAX
        );
    }

    fn exact(value: u128) -> u64 {
        u64::try_from(value).unwrap_or(u64::MAX)
    }

    proptest! {
        #[test]
        fn agrees_with_wide_arithmetic(a: u64, b: u64, c in 1_u64..) {
            prop_assert_eq!(Bytes(a).scale(b, c).0, exact(u128::from(a) * u128::from(b) / u128::from(c)));
            prop_assert_eq!(
                Rate(c).time_for(Bytes(a)).0,
                exact((u128::from(a) * 1_000_000_000).div_ceil(u128::from(c)))
            );
            prop_assert_eq!(
                Rate(a).bytes_in(Nanos(b)).0,
                exact(u128::from(a) * u128::from(b) / 1_000_000_000)
            );
            prop_assert_eq!(
                Rate::of(Bytes(a), Nanos(c)).0,
                exact(u128::from(a) * 1_000_000_000 / u128::from(c))
            );
        }

        /// A pacer that waits as long as it is told never exceeds its rate, and loses at most the
        /// bytes of the last nanosecond.
        #[test]
        fn pacing_never_exceeds_the_rate(rate in 1_u64..1 << 40, bytes in 1_u64..1 << 40) {
            let time = Rate(rate).time_for(Bytes(bytes));
            prop_assert!(Rate(rate).bytes_in(time) >= Bytes(bytes));
            prop_assert!(Rate(rate).bytes_in(time - Nanos(1)) < Bytes(bytes));
        }
    }
}
