//! Small files of the kernel: those that vanish or say nothing are not there.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

/// What is longer is none of these files: `/proc/stat` of a host with thousands of interrupts has some
/// ten thousand bytes.
const BYTES_MAX: u64 = 1 << 20;

/// Names in a folder, in order.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// What a file of one line says; nothing if it is empty.
pub(crate) fn word(file: &Path) -> Option<String> {
    let text = String::from_utf8(bytes(file)?).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The number that a file says.
pub(super) fn number(file: &Path) -> Option<u64> {
    word(file)?.parse().ok()
}

/// All of a file.
pub(super) fn bytes(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(file).ok()?;
    file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The lines of a file that are text.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| str::from_utf8(line).ok())
}
