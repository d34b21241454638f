//! Paths over verbs without an adapter: the channel against queue pairs in memory that do what is
//! asked of them, one step at a time, and both engines over several such channels while everything
//! fails that can. Real queue pairs are `tests/roce`.

#![cfg(feature = "verbs")]
#![allow(
    unsafe_code,
    reason = "adapters read and write memory that is named by address"
)]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "sizes and numbers of a test are small"
)]

mod channel;
mod engines;
mod fabric;
#[path = "../common/property.rs"]
mod property;
mod within_host;
