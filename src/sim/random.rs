//! Random numbers for components: each has a stream of its own, derived from the seed of the run,
//! what it is and which one, so that a component more or less changes nothing for the others.
//!
//! `SplitMix64` (Steele, Lea, Flood 2014), written out here because a run must give the same bytes
//! on every machine and with every version of every library; the reference values are a test.

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Salts of switches' hashes.
    Salt = 1,
    /// A port's coin: trimming, marking, losses.
    Port = 2,
    /// Path choice of a flow.
    Flow = 3,
    /// The making of a workload.
    Workload = 4,
    /// Source ports and the like of a host.
    Host = 5,
    /// The order in which a host takes the ways through the fabric.
    Ways = 6,
    /// Queues that flows wait in, where there are no packets.
    Queue = 7,
}

/// One stream of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream(u64);

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes all bits of a number into all bits of another, one to one.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Stream {
    /// The stream of component number `index`.
    #[must_use]
    pub const fn new(seed: u64, purpose: Purpose, index: u64) -> Self {
        let purpose = mix((purpose as u64).wrapping_mul(GAMMA));
        Self(
            mix(mix(seed.wrapping_add(GAMMA)) ^ purpose)
                .wrapping_add(mix(index.wrapping_mul(GAMMA))),
        )
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A number below `bound`, which must not be 0. Its bias is below 2^-32 for any bound that
    /// counts components.
    pub const fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * bound as u64) >> 32) as u32
    }

    /// True once in `of` times on average, `share` of them.
    pub const fn chance(&mut self, share: u64, of: u64) -> bool {
        (self.next() >> 32) * of < share << 32
    }

    /// A number from 0 up to, not including, 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub const fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts the items in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let bound = u32::try_from(last + 1).unwrap_or(u32::MAX);
            items.swap(last, self.below(bound) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_reference() {
        // First outputs of the reference implementation for seed 1234567.
        let mut stream = Stream(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!([(); 5].map(|()| stream.next()), expected);
    }

    #[test]
    fn streams_differ_and_bounds_hold() {
        let mut a = Stream::new(1, Purpose::Port, 0);
        let mut b = Stream::new(1, Purpose::Port, 1);
        let mut c = Stream::new(1, Purpose::Flow, 0);
        let mut d = Stream::new(2, Purpose::Port, 0);
        let firsts = [a.next(), b.next(), c.next(), d.next()];
        for (i, x) in firsts.iter().enumerate() {
            assert!(!firsts[..i].contains(x));
        }
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[a.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
        let heads = (0..10_000).filter(|_| b.chance(1, 4)).count();
        assert!((2300..2700).contains(&heads), "{heads}");
        let mut order: Vec<u32> = (0..100).collect();
        d.shuffle(&mut order);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
