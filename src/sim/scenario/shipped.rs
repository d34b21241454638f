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
pub const SHIPPED: &[Shipped] = shipped!["hello", "permutation-2mb",];
