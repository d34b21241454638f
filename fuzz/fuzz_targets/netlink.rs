//! Feeds `targets::netlink`: `cargo +nightly fuzz run netlink`.

#![no_main]

#[path = "../targets.rs"]
#[allow(dead_code, reason = "each program has one of the targets")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::netlink(data));
