//! How property tests are run.

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
