//! Feeds `targets::otlp`: `cargo +nightly fuzz run otlp`.

#![no_main]

#[path = "../targets.rs"]
#[allow(dead_code, reason = "each program has one of the targets")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::otlp(data));
