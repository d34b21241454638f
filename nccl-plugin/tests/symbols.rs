//! What the shared library shows to a loader: the tables and nothing else, a name, and that it
//! stays mapped.

mod common;

use common::{have, library, run};
use std::process::Command;

/// Everything the library exports. A `no_mangle` item anywhere among the dependencies would
/// appear here too, and could take the place of somebody else's symbol in the host.
const SYMBOLS: &str = "\
ncclNetPlugin_v10
ncclNetPlugin_v11
ncclNetPlugin_v12
ncclNetPlugin_v6
ncclNetPlugin_v7
ncclNetPlugin_v8
ncclNetPlugin_v9
";

#[test]
fn only_the_tables_are_exported() {
    if !have("nm") {
        return;
    }
    let listed = run(Command::new("nm")
        .args(["--dynamic", "--defined-only", "--format=posix"])
        .arg(library()));
    let mut names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    names.sort_unstable();
    assert_eq!(names.join("\n") + "\n", SYMBOLS);
}

#[test]
fn it_stays_mapped_has_a_name_and_needs_no_verbs() {
    if !have("readelf") {
        return;
    }
    let dynamic = run(Command::new("readelf")
        .args(["--wide", "--dynamic"])
        .arg(library()));
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    assert!(
        dynamic.contains("soname: [libnccl-net-thalweg.so]"),
        "{dynamic}"
    );
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        // All that a Rust library needs is a part of the C library.
        let known = [
            "libc.so",
            "libgcc_s.so",
            "libm.so",
            "ld-linux",
            "libpthread.so",
            "libdl.so",
        ];
        assert!(known.iter().any(|name| line.contains(name)), "{line}");
    }
}
