//! Log-linear histograms: eight buckets for each doubling, so that a value is known to an eighth of itself
//! over the whole range, from nanoseconds to minutes, in a fixed number of counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Buckets for each doubling, as a power of two.
const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;
/// Values of this many bits and more are counted as the largest: 2^41 ns is more than half an hour.
const BITS: u32 = 41;
/// Number of buckets.
pub const BUCKETS: usize = SUB + (BITS - SUB_BITS) as usize * SUB;

/// The bucket of a value.
#[must_use]
pub fn bucket_of(value: u64) -> usize {
    let value = value.min((1 << BITS) - 1);
    let bits = u64::BITS - value.leading_zeros();
    if bits <= SUB_BITS {
        return usize::try_from(value).unwrap_or(0);
    }
    let doubling = (bits - SUB_BITS) as usize;
    let sub = usize::try_from(value >> (bits - 1 - SUB_BITS)).unwrap_or(0) & (SUB - 1);
    doubling * SUB + sub
}

/// The least value of a bucket.
#[must_use]
pub fn least_of(bucket: usize) -> u64 {
    let (doubling, sub) = (bucket / SUB, (bucket % SUB) as u64);
    match doubling {
        0 => sub,
        _ => (SUB as u64 + sub) << (doubling - 1),
    }
}

/// A histogram in memory that processes share. All zeros is an empty one.
#[repr(C)]
#[derive(Debug)]
pub struct Histogram {
    sum: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Histogram {
    /// Counts a value. One at a time: whoever holds the link; of two that count at once, one is lost.
    pub fn observe(&self, value: u64) {
        add(&self.sum, value);
        add(&self.buckets[bucket_of(value)], 1);
    }

    /// Holds what another does.
    pub(super) fn copy(&self, other: &Self) {
        let buckets = self.buckets.iter().zip(&other.buckets);
        for (place, value) in buckets.chain([(&self.sum, &other.sum)]) {
            place.store(value.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Forgets all values.
    pub(super) fn clear(&self) {
        self.sum.store(0, Ordering::Relaxed);
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    /// What it holds now.
    #[must_use]
    pub fn read(&self) -> Counts {
        Counts {
            sum: self.sum.load(Ordering::Relaxed),
            buckets: self
                .buckets
                .iter()
                .map(|bucket| bucket.load(Ordering::Relaxed))
                .collect(),
        }
    }
}

/// Adds to what only one thread writes at a time. Relaxed: readers are told no more than that each counter is
/// right.
pub(super) fn add(place: &AtomicU64, more: u64) {
    let so_far = place.load(Ordering::Relaxed);
    place.store(so_far.wrapping_add(more), Ordering::Relaxed);
}

/// What a histogram held at one time, or between two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sum of all values.
    pub sum: u64,
    /// How many values there were of each bucket; none where there were none at all.
    pub buckets: Vec<u64>,
}

impl Counts {
    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// What has come since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.buckets.iter().chain(std::iter::repeat(&0));
        Self {
            sum: self.sum.wrapping_sub(earlier.sum),
            buckets: self
                .buckets
                .iter()
                .zip(before)
                .map(|(now, before)| now.wrapping_sub(*before))
                .collect(),
        }
    }

    /// All of them together.
    #[must_use]
    pub fn sum_of<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        all.fold(Self::default(), |mut sum, counts| {
            sum.sum = sum.sum.wrapping_add(counts.sum);
            let buckets = sum.buckets.len().max(counts.buckets.len());
            sum.buckets.resize(buckets, 0);
            for (place, count) in sum.buckets.iter_mut().zip(&counts.buckets) {
                *place = place.wrapping_add(*count);
            }
            sum
        })
    }

    /// The value below which so many of a thousand lie: the middle of its bucket. None of nothing.
    #[must_use]
    pub fn quantile(&self, per_mille: u32) -> Option<u64> {
        let count = u128::from(self.count());
        let rank = (count * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (bucket, &here) in self.buckets.iter().enumerate() {
            seen += u128::from(here);
            if here > 0 && seen >= rank {
                return Some(u64::midpoint(
                    least_of(bucket),
                    least_of(bucket + 1).saturating_sub(1),
                ));
            }
        }
        None
    }
}

/// As it is written down: what there is none of is left out.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default)]
    count: u64,
    sum: u64,
    #[serde(default)]
    p50: Option<u64>,
    #[serde(default)]
    p99: Option<u64>,
    /// By the least value of each.
    #[serde(deserialize_with = "by_number")]
    buckets: BTreeMap<u64, u64>,
}

/// A map whose keys are numbers, which are text in JSON: serde takes them for numbers again only where no
/// structure around them is flattened.
fn by_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u64, u64>, D::Error> {
    let text = BTreeMap::<String, u64>::deserialize(deserializer)?;
    let number = |(key, value): (String, u64)| {
        let key = key.parse().map_err(D::Error::custom)?;
        Ok((key, value))
    };
    text.into_iter().map(number).collect()
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let buckets = self.buckets.iter().enumerate();
        let written = Written {
            count: self.count(),
            sum: self.sum,
            p50: self.quantile(500),
            p99: self.quantile(990),
            buckets: buckets
                .filter(|(_, count)| **count > 0)
                .map(|(bucket, count)| (least_of(bucket), *count))
                .collect(),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let mut counts = Self {
            sum: written.sum,
            buckets: vec![0; BUCKETS],
        };
        for (least, count) in written.buckets {
            let place = &mut counts.buckets[bucket_of(least)];
            *place = place.wrapping_add(count);
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn empty() -> Histogram {
        Histogram {
            sum: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }

    #[test]
    fn buckets_are_in_order_and_leave_no_gap() {
        for bucket in 0..BUCKETS {
            let least = least_of(bucket);
            assert_eq!(bucket_of(least), bucket, "{least}");
            if bucket > 0 {
                assert_eq!(bucket_of(least - 1), bucket - 1, "{least}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(least_of(BUCKETS), 1 << BITS);
    }

    #[test]
    fn of_nothing_there_is_no_quantile() {
        assert_eq!(empty().read().quantile(500), None);
        assert_eq!(Counts::default().quantile(500), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_right_to_an_eighth(
            mut values in prop::collection::vec(0u64..1 << 40, 1..200),
            per_mille in 1u32..=1000,
        ) {
            let histogram = empty();
            for &value in &values {
                histogram.observe(value);
            }
            let counts = histogram.read();
            prop_assert_eq!(counts.count(), values.len() as u64);
            prop_assert_eq!(counts.sum, values.iter().sum::<u64>());
            values.sort_unstable();
            let rank = (values.len() * per_mille as usize).div_ceil(1000).max(1);
            let exact = values[rank - 1];
            let told = counts.quantile(per_mille).unwrap();
            prop_assert!(told.abs_diff(exact) <= exact / 8, "{} for {}", told, exact);
        }

        #[cfg(feature = "cli")]
        #[test]
        fn what_was_written_down_is_read_again(
            values in prop::collection::vec(0u64..1 << 42, 0..50),
        ) {
            let histogram = empty();
            for &value in &values {
                histogram.observe(value);
            }
            let counts = histogram.read();
            let text = serde_json::to_string(&counts).unwrap();
            prop_assert_eq!(serde_json::from_str::<Counts>(&text).unwrap(), counts);
        }

        #[test]
        fn what_came_since_is_told_apart(
            before in prop::collection::vec(0u64..1 << 42, 0..50),
            after in prop::collection::vec(0u64..1 << 42, 0..50),
        ) {
            let (both, only) = (empty(), empty());
            for &value in &before {
                both.observe(value);
            }
            let earlier = both.read();
            for &value in &after {
                both.observe(value);
                only.observe(value);
            }
            prop_assert_eq!(both.read().since(&earlier), only.read());
            prop_assert_eq!(both.read().since(&Counts::default()), both.read());
        }
    }
}
