//! What the messages contain, so that a byte that is wrong, missing, late or of another message is
//! seen: a pattern that depends on the message's number in every word.

/// Golden-ratio increment: neighbouring words differ in all bytes.
const STEP: u32 = 0x9e37_79b9;

/// Number of a message, mixed so that messages with similar numbers have unlike patterns.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a digest: the upper half of a 64-bit product"
)]
pub fn seed(from: usize, to: usize, channel: usize, message: u64) -> u32 {
    let mut h = message.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for n in [from, to, channel] {
        h = (h ^ n as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 32;
    }
    (h >> 32) as u32
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the pattern repeats after 16 GiB"
)]
fn word(seed: u32, index: usize) -> u32 {
    seed.wrapping_add((index as u32).wrapping_mul(STEP))
}

/// Writes a message.
pub fn fill(bytes: &mut [u8], seed: u32) {
    let (words, tail) = bytes.as_chunks_mut::<4>();
    let count = words.len();
    for (i, w) in words.iter_mut().enumerate() {
        *w = word(seed, i).to_le_bytes();
    }
    let last = word(seed, count).to_le_bytes();
    tail.copy_from_slice(&last[..tail.len()]);
}

/// Counts the bytes of a message that are not what they should be.
pub fn wrong_bytes(bytes: &[u8], seed: u32) -> u64 {
    let (words, tail) = bytes.as_chunks::<4>();
    let differs =
        |got: &[u8], want: [u8; 4]| got.iter().zip(&want).filter(|(a, b)| a != b).count() as u64;
    let bad = words.iter().enumerate().fold(0, |bad, (i, w)| {
        bad | (u32::from_le_bytes(*w) ^ word(seed, i))
    });
    let mut wrong = differs(tail, word(seed, words.len()).to_le_bytes());
    if bad != 0 {
        for (i, w) in words.iter().enumerate() {
            wrong += differs(w, word(seed, i).to_le_bytes());
        }
    }
    wrong
}

/// The part of an all-reduce's element that all ranks share: a whole number from 0 to 255, so that
/// float sums are exact. Rank r contributes this plus r.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a digest of the index; 8 bits fit a float"
)]
fn element(index: usize, iteration: u64) -> f32 {
    let h = (index as u32 ^ (iteration as u32).wrapping_mul(0x85eb_ca6b)).wrapping_mul(STEP);
    (h >> 24) as f32
}

/// Writes a rank's contribution to the elements from `first` on.
pub fn fill_floats(out: &mut [f32], first: usize, iteration: u64, rank: usize) {
    #[allow(clippy::cast_precision_loss, reason = "few ranks")]
    let rank = rank as f32;
    for (i, x) in out.iter_mut().enumerate() {
        *x = element(first + i, iteration) + rank;
    }
}

/// Counts the elements that are not the sum over all ranks.
pub fn wrong_sums(sums: &[f32], first: usize, iteration: u64, ranks: usize) -> u64 {
    #[allow(clippy::cast_precision_loss, reason = "few ranks")]
    let (n, of_ranks) = (ranks as f32, (ranks * (ranks - 1) / 2) as f32);
    #[allow(clippy::float_cmp, reason = "sums of small whole numbers are exact")]
    let wrong = sums
        .iter()
        .enumerate()
        .map(|(i, &x)| u64::from(x != element(first + i, iteration) * n + of_ranks))
        .sum();
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_byte_counts() {
        for len in [0, 1, 3, 4, 7, 64, 1001] {
            let mut bytes = vec![0; len];
            fill(&mut bytes, seed(0, 1, 0, 5));
            assert_eq!(wrong_bytes(&bytes, seed(0, 1, 0, 5)), 0);
            for at in 0..len {
                bytes[at] ^= 0x10;
                assert_eq!(wrong_bytes(&bytes, seed(0, 1, 0, 5)), 1, "{at} of {len}");
                bytes[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn another_message_is_wrong_nearly_everywhere() {
        let mut bytes = vec![0; 4096];
        fill(&mut bytes, seed(0, 1, 0, 5));
        for other in [seed(0, 1, 0, 6), seed(1, 0, 0, 5), seed(0, 1, 1, 5)] {
            assert!(wrong_bytes(&bytes, other) > 3000);
        }
    }

    #[test]
    fn sums() {
        let (mut a, mut b) = (vec![0.0; 300], vec![0.0; 300]);
        fill_floats(&mut a, 7, 3, 0);
        fill_floats(&mut b, 7, 3, 1);
        let mut sum: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
        assert_eq!(wrong_sums(&sum, 7, 3, 2), 0);
        assert!(
            wrong_sums(&sum, 7, 4, 2) > 250,
            "an earlier iteration's result"
        );
        sum[17] += 1.0;
        assert_eq!(wrong_sums(&sum, 7, 3, 2), 1);
    }
}
