//! How property tests of the engines are run.

use proptest::test_runner::{Config, FileFailurePersistence, RngSeed};

/// The same cases every time, after those of this file, which once failed; `PROPTEST_RNG_SEED` and
/// `PROPTEST_CASES` explore further.
pub fn seeded(seeds: &'static str, seed: u64) -> Config {
    let explore = Config::default();
    Config {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() {
            explore.cases
        } else {
            200
        },
        rng_seed: match explore.rng_seed {
            RngSeed::Random => RngSeed::Fixed(seed),
            fixed @ RngSeed::Fixed(_) => fixed,
        },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        ..explore
    }
}

/// A byte of a message: every message has others.
pub fn byte_of(conn: u32, tag: u8, ordinal: u32, at: usize) -> u8 {
    let mixed = conn
        .wrapping_mul(31)
        .wrapping_add(u32::from(tag) * 7)
        .wrapping_add(ordinal.wrapping_mul(131))
        .wrapping_add((at as u32).wrapping_mul(13))
        .wrapping_add((at >> 8) as u32);
    mixed as u8
}
