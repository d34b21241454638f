//! One figure under the names that different drivers have for it. A figure takes the first group of names of
//! which there is something: two names in one group are two kinds of the same event and are added; names in
//! different groups are the same counter in the words of different drivers, of which some have old and new
//! ones, and adding them would count twice.

/// A figure and its names.
#[derive(Debug)]
pub(super) struct Figure<C> {
    pub is: C,
    pub names: &'static [&'static [&'static str]],
}

impl<C> Figure<C> {
    /// What is found under the names of the first group of which there is something.
    pub fn choose<T, F: IntoIterator<Item = T>>(&self, find: impl Fn(&'static str) -> F) -> Vec<T> {
        let groups = self.names.iter();
        let mut found = groups.map(|group| group.iter().flat_map(|name| find(name)).collect());
        found
            .find(|found: &Vec<T>| !found.is_empty())
            .unwrap_or_default()
    }
}

/// None if there is nothing, or if one of them is not known: a part of the sum would look like a counter
/// that was reset.
pub(super) fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let add = |sum: Option<u64>, value: Option<u64>| Some(sum?.saturating_add(value?));
    values.reduce(add).flatten()
}

/// What a counter has counted between two readings. It may have begun again at zero after so many bits,
/// or been reset: an increase that would be more than a sixteenth of what it can hold is taken for a reset,
/// after which it is not known, as it is where one of the readings is missing.
#[must_use]
pub fn increase(before: Option<u64>, now: Option<u64>, bits: u32) -> Option<u64> {
    let (before, now) = (before?, now?);
    if now >= before {
        return Some(now - before);
    }
    let held = 1u64.checked_shl(bits)?;
    // A sum of several counters may be larger than each, and wraps by as much as one of them.
    let around = now.checked_add(held)?.checked_sub(before)?;
    (around <= held / 16).then_some(around)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_increase_is_never_a_huge_number() {
        let increase = |before, now| increase(Some(before), Some(now), 32);
        let full = u64::from(u32::MAX);
        assert_eq!(increase(5, 12), Some(7));
        assert_eq!(increase(5, 5), Some(0));
        // Around once, by one of one or of two that are added.
        assert_eq!(increase(full, 3), Some(4));
        assert_eq!(increase(full + 100, 200), Some(101));
        // Reset.
        assert_eq!(increase(1000, 3), None);
        assert_eq!(increase(full / 2, 0), None);
    }

    #[test]
    fn a_counter_of_64_bits_does_not_wrap() {
        assert_eq!(increase(Some(u64::MAX), Some(1), 64), None);
        assert_eq!(increase(Some(7), Some(u64::MAX), 64), Some(u64::MAX - 7));
    }

    #[test]
    fn without_both_readings_there_is_no_increase() {
        assert_eq!(increase(None, Some(5), 64), None);
        assert_eq!(increase(Some(5), None, 64), None);
    }

    proptest! {
        #[test]
        fn wrapping_is_undone(before: u32, by in 0..1u64 << 28) {
            let now = (u64::from(before) + by) & u64::from(u32::MAX);
            prop_assert_eq!(increase(Some(before.into()), Some(now), 32), Some(by));
        }

        #[test]
        fn any_readings_will_do(before: Option<u64>, now: Option<u64>, bits in 0u32..=128) {
            if let (Some(before), Some(now), Some(by)) = (before, now, increase(before, now, bits)) {
                prop_assert!(by == now.wrapping_sub(before) || now < before);
            }
        }
    }
}
