//! The reference's workload generators are Python scripts; this draws what they draw, so that the
//! same hosts send to the same hosts. Whose flows share a leaf switch decides whether a sprayed
//! permutation trims or not, and no average over other permutations says what theirs would do.
//!
//! The Mersenne Twister (Matsumoto and Nishimura 1998), seeded and cut to size as Python does.

const WORDS: usize = 624;
const PERIOD: usize = 397;

/// What Python's `random.seed(seed)` gives.
pub(super) struct Twister {
    state: [u32; WORDS],
    at: usize,
}

impl Twister {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [0u32; WORDS];
        state[0] = 19_650_218;
        for i in 1..WORDS {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(before ^ before >> 30)
                .wrapping_add(i as u32);
        }
        // The key is the seed alone; each round starts again at the second word.
        let mut i = 1;
        let mut mix = |factor: u32, key: Option<u32>| {
            let before = state[i - 1];
            let add = key.unwrap_or(0u32.wrapping_sub(i as u32));
            state[i] = (state[i] ^ (before ^ before >> 30).wrapping_mul(factor)).wrapping_add(add);
            if i + 1 == WORDS {
                state[0] = state[WORDS - 1];
                i = 1;
            } else {
                i += 1;
            }
        };
        for _ in 0..WORDS {
            mix(1_664_525, Some(seed));
        }
        for _ in 1..WORDS {
            mix(1_566_083_941, None);
        }
        state[0] = 1 << 31;
        Self { state, at: WORDS }
    }

    fn next(&mut self) -> u32 {
        if self.at == WORDS {
            self.turn();
        }
        let word = self.state[self.at];
        self.at += 1;
        let word = word ^ word >> 11;
        let word = word ^ word << 7 & 0x9d2c_5680;
        let word = word ^ word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    fn turn(&mut self) {
        for i in 0..WORDS {
            let both = self.state[i] & 1 << 31 | self.state[(i + 1) % WORDS] & !(1 << 31);
            let odd = if both & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + PERIOD) % WORDS] ^ both >> 1 ^ odd;
        }
        self.at = 0;
    }

    /// A number below `bound`, by as many bits as that has, until it is.
    fn below(&mut self, bound: u32) -> u32 {
        let unused = bound.leading_zeros();
        loop {
            let number = self.next() >> unused;
            if number < bound {
                return number;
            }
        }
    }

    /// What `random.shuffle` does.
    pub(super) fn shuffle(&mut self, items: &mut [u32]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_python() {
        // random.seed(1); [random.getrandbits(32) for _ in range(3)]
        let mut twister = Twister::new(1);
        let first = [(); 3].map(|()| twister.next());
        assert_eq!(first, [577_090_037, 2_444_712_010, 3_639_700_191]);
        // random.seed(1); x = list(range(1, 128)); random.shuffle(x); x[:6]
        let mut items: Vec<u32> = (1..128).collect();
        Twister::new(1).shuffle(&mut items);
        assert_eq!(items[..6], [127, 39, 86, 42, 51, 5]);
    }
}
