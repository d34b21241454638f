//! The scenarios that come with the program.

/// A scenario that is part of the program.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// By which `thalweg sim run` finds it.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(Shipped {
            name: $name,
            text: include_str!(concat!("../../../scenarios/", $name, ".toml")),
        }),*]
    };
}

/// All of them, in the order in which they are listed.
pub const SHIPPED: &[Shipped] = shipped![
    "hello",
    "permutation-2mb",
    "permutation-2mb-pfc",
    "permutation-16mb",
    "ecmp",
    "nccl-4-queue-pairs",
    "ncclx-16-queue-pairs",
    "uccl",
    "rings",
    "tree",
    "incast-32",
    "incast-32-pfc",
    "all-to-all",
    "kv-beside-ring",
    "pipeline-and-experts",
    "oversubscribed",
    "rails",
    "slow-spine-links",
    "link-cut",
    "flapping-link",
    "lossy-link",
    "plane-lost",
    "pause-storm",
    "sweep",
    "permutation-100k",
];
