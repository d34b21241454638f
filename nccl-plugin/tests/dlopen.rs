//! Runs `dlopen.c`, a C host of the plugin, alone and under valgrind.

mod common;

use common::{have, library, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The C program, compiled for a test of this name.
fn program(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder).expect("a folder for the test");
    let program = folder.join(name);
    run(Command::new("gcc")
        .args(["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dlopen.c"))
        .args(["-ldl", "-lpthread", "-o"])
        .arg(&program));
    program
}

#[test]
fn a_c_program_loads_drives_unloads_and_reloads_it() {
    if !have("gcc") {
        return;
    }
    let said = run(Command::new(program("dlopen"))
        .arg(library())
        .envs([("THALWEG_IFNAME", "=lo"), ("THALWEG_TRANSPORT", "tcp")]));
    assert_eq!(said, "ok\n");
}

#[test]
fn the_same_under_valgrind() {
    if !have("gcc") || !have("valgrind") {
        return;
    }
    // Valgrind runs one thread at a time. Without `fair-sched` the one that polls keeps its turn,
    // and the service may not get one within a handshake's deadline.
    let said = run(Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
        .arg("--fair-sched=yes")
        .args([
            "--errors-for-leak-kinds=definite",
            "--show-leak-kinds=definite",
        ])
        .arg(program("dlopen-valgrind"))
        .arg(library())
        .envs([("THALWEG_IFNAME", "=lo"), ("THALWEG_TRANSPORT", "tcp")]));
    assert_eq!(said, "ok\n");
}
