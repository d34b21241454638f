//! The fuzzer's targets as ordinary tests: every input of the corpora in `fuzz/corpus`, and a few
//! thousand changes of each, the same ones in every run.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../fuzz/targets.rs"]
#[allow(
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    clippy::collapsible_if,
    missing_docs,
    reason = "programs of the fuzzer"
)]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

const CHANGES: usize = 2000;
const BYTES_MAX: usize = 4096;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

/// One to eight changes, of the kinds that fuzzers use.
fn change(data: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(8) {
        let at = random.below(data.len() + 1);
        let len = random.below(9).min(data.len() - at);
        let value = random.next().to_le_bytes();
        match random.below(8) {
            0 if at < data.len() => data[at] ^= 1 << (value[0] & 7),
            1 if at < data.len() => data[at] = value[0],
            2 if at < data.len() => {
                data[at] = [0, 1, 0x7f, 0x80, 0xff, 0xfe, 2, 0x40][usize::from(value[0] & 7)];
            }
            3 => {
                data.splice(at..at, value[..random.below(9)].iter().copied());
            }
            4 => drop(data.drain(at..at + len)),
            5 => {
                let copy = data[at..at + len].to_vec();
                let to = random.below(data.len() + 1);
                data.splice(to..to, copy);
            }
            6 => {
                // A piece of another input: operations of both, one after the other.
                let other = &others[random.below(others.len())];
                let from = random.below(other.len() + 1);
                let piece = other[from..(from + random.below(100)).min(other.len())].to_vec();
                data.splice(at..at, piece);
            }
            _ if at < data.len() => data[at] = data[at].wrapping_add(value[0] % 3).wrapping_sub(1),
            _ => {}
        }
    }
    data.truncate(BYTES_MAX);
}

fn run(name: &str) {
    let (_, target) = targets::TARGETS
        .into_iter()
        .find(|(n, _)| *n == name)
        .unwrap();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let inputs: Vec<Vec<u8>> = files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    assert!(
        inputs.len() >= 10,
        "{} inputs in {}",
        inputs.len(),
        directory.display()
    );
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (file, input) in files.iter().zip(&inputs) {
        let mut data = input.clone();
        for round in 0..=CHANGES {
            if round > 0 {
                data.clone_from(input);
                change(&mut data, &inputs, &mut random);
            }
            if catch_unwind(AssertUnwindSafe(|| target(&data))).is_err() {
                let hex = data
                    .iter()
                    .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
                panic!("{name}, change {round} of {}: {hex}", file.display());
            }
        }
    }
}

#[test]
fn frame() {
    run("frame");
}

#[test]
fn receiver() {
    run("receiver");
}

#[test]
fn sender() {
    run("sender");
}

#[test]
fn handshake() {
    run("handshake");
}

#[test]
fn handle() {
    run("handle");
}

#[test]
fn config() {
    run("config");
}

#[test]
fn request() {
    run("request");
}

#[test]
fn netlink() {
    run("netlink");
}

#[test]
fn transceiver() {
    run("transceiver");
}

#[test]
fn proc() {
    run("proc");
}

#[test]
fn otlp() {
    run("otlp");
}

#[test]
fn host() {
    run("host");
}
