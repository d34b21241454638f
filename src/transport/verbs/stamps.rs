//! An adapter's clock in terms of ours: what it stamps on completions says when a chunk arrived, however
//! late somebody looks.

use crate::clock::Timestamp;
use crate::units::Nanos;

/// The adapter's clock is read again after so long: two clocks that differ by 100 millionths are 1 µs
/// apart by then.
const READ_EVERY: Nanos = Nanos(10_000_000);
/// A reading that took longer was interrupted, and says less than the one before it.
const READING_MAX: Nanos = Nanos(20_000);
/// After so long without a reading that counts, stamps say nothing.
const GOOD_FOR: Nanos = Nanos(200_000_000);

/// What is known of an adapter's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// ns of a tick, times 2 to the power of 32.
    tick: u64,
    /// Bits of a stamp that count.
    mask: u64,
    /// When it was last read, and what it said.
    read: Option<(Timestamp, u64)>,
}

impl Clock {
    /// A clock of so many kHz whose stamps have these bits: none if it has no ticks or no bits.
    #[must_use]
    pub fn new(khz: u64, mask: u64) -> Option<Self> {
        let tick = (1_000_000_u64 << 32)
            .checked_div(khz)
            .filter(|&tick| tick > 0)?;
        (mask != 0).then_some(Self {
            tick,
            mask,
            read: None,
        })
    }

    /// It should be read again.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.read
            .is_none_or(|(read_at, _)| now.since(read_at) >= READ_EVERY)
    }

    /// It was read between these two moments, and said this.
    pub fn set(&mut self, before: Timestamp, ticks: u64, after: Timestamp) {
        let took = after.since(before);
        if took <= READING_MAX {
            self.read = Some((before + took / 2, ticks));
        }
    }

    /// When a stamp was made. None if the clock has not been read lately.
    #[must_use]
    pub fn time(&self, stamp: u64, now: Timestamp) -> Option<Timestamp> {
        let (read_at, ticks) = self.read?;
        if now.since(read_at) >= GOOD_FOR {
            return None;
        }
        let nanos = |ticks: u64| {
            let nanos = (u128::from(ticks) * u128::from(self.tick)) >> 32;
            Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        let later = stamp.wrapping_sub(ticks) & self.mask;
        let sooner = ticks.wrapping_sub(stamp) & self.mask;
        if later <= sooner {
            Some(read_at + nanos(later))
        } else {
            let at = read_at.as_nanos().checked_sub(nanos(sooner).0)?;
            Some(Timestamp::from_nanos(at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000_000 + micros * 1000)
    }

    /// A clock with a tick every 2 ns that said this in the middle of 100 µs to 102 µs.
    fn read(ticks: u64, mask: u64) -> Clock {
        let mut clock = Clock::new(500_000, mask).unwrap();
        clock.set(at(100), ticks, at(102));
        clock
    }

    #[test]
    fn stamps_are_told_from_either_side_of_the_reading() {
        let clock = read(5000, u64::MAX);
        let now = at(150);
        assert_eq!(clock.time(5000, now), Some(at(101)));
        assert_eq!(clock.time(5500, now), Some(at(102)));
        assert_eq!(clock.time(4500, now), Some(at(100)));
    }

    #[test]
    fn a_clock_that_begins_again_goes_on() {
        let clock = read(1000, 0xfff);
        let now = at(150);
        // Within half of its 4096 ticks on either side.
        assert_eq!(clock.time(3000, now), Some(at(105)));
        assert_eq!(
            clock.time(4000, now),
            Some(at(101) - Nanos(2192)),
            "1096 ago"
        );
    }

    #[test]
    fn what_was_interrupted_does_not_count_and_what_is_old_says_nothing() {
        let mut clock = read(5000, u64::MAX);
        assert!(!clock.is_due(at(10_000)));
        assert!(clock.is_due(at(10_101)));
        clock.set(at(10_101), 1, at(10_130));
        assert!(clock.is_due(at(10_130)), "nobody knows when that was");
        assert_eq!(clock.time(5000, at(150_000)), Some(at(101)));
        assert_eq!(clock.time(5000, at(200_101)), None);
    }

    #[test]
    fn a_clock_without_ticks_or_bits_is_none() {
        assert_eq!(Clock::new(0, u64::MAX), None);
        assert_eq!(Clock::new(1_000_000, 0), None);
        assert_eq!(Clock::new(u64::MAX, 1), None);
        let unread = Clock::new(1_000_000, u64::MAX).unwrap();
        assert!(unread.is_due(at(0)));
        assert_eq!(unread.time(1, at(0)), None);
    }
}
