//! The real NCCL, whole, on CPUs: it finds the plugin by its name and drives it as in a job.

use std::process::Command;
use std::time::Duration;

use crate::{Running, lab_tool, nccl_library, plugin_folder, succeeded};

/// `nccl_cpu` with the plugin, found through `NCCL_NET_PLUGIN=thalweg`.
pub fn nccl_cpu() -> Option<Command> {
    let (tool, library) = (lab_tool("nccl_cpu")?, nccl_library()?);
    let mut command = Command::new(tool);
    command
        .env("NCCL_CPU_LIB", library)
        .env("NCCL_NET_PLUGIN", "thalweg")
        .env("LD_LIBRARY_PATH", plugin_folder())
        .env("NCCL_SOCKET_IFNAME", "lo");
    Some(command)
}

fn passes(arguments: &[&str], protocol: &str) {
    let Some(mut command) = nccl_cpu() else {
        return;
    };
    command
        .args(arguments)
        .env("NCCL_PROTO", protocol)
        .env("NCCL_DEBUG", "INFO");
    let text = succeeded(
        &command.output().unwrap(),
        &format!("{arguments:?} {protocol}"),
    );
    assert!(text.contains("0 wrong elements over all ranks"), "{text}");
    assert!(
        text.contains("NET/thalweg"),
        "NCCL did not take the plugin:\n{text}"
    );
}

#[test]
fn all_five_operations_are_right() {
    for operation in [
        "allreduce",
        "allgather",
        "reducescatter",
        "sendrecv",
        "alltoall",
    ] {
        for ranks in ["2", "3"] {
            passes(
                &[
                    "--op", operation, "--ranks", ranks, "-b", "1K", "-e", "1M", "-f", "32", "-n",
                    "3",
                ],
                "Simple",
            );
        }
    }
}

#[test]
fn all_reduce_is_right_from_4_bytes_to_64_mib() {
    passes(
        &["-b", "4", "-e", "64M", "-f", "16", "-n", "3", "--check-all"],
        "Simple",
    );
}

#[test]
fn ll_is_right() {
    passes(
        &["-b", "4", "-e", "1M", "-f", "16", "-n", "5", "--check-all"],
        "LL",
    );
}

#[test]
fn four_ranks_are_right() {
    passes(
        &[
            "--ranks", "4", "-b", "64K", "-e", "4M", "-f", "8", "-n", "3",
        ],
        "LL,Simple",
    );
}

#[test]
fn a_flipped_bit_would_be_seen() {
    let Some(mut command) = nccl_cpu() else {
        return;
    };
    command
        .args(["-b", "1M", "-e", "1M", "--check-all", "--trace"])
        .env("NCCL_CPU_CORRUPT", "5")
        // The tracer wraps a plugin that is given by its path.
        .env(
            "NCCL_NET_PLUGIN",
            plugin_folder().join("libnccl-net-thalweg.so"),
        );
    let output = command.output().unwrap();
    assert!(!output.status.success(), "the check checks nothing");
}

#[test]
fn a_killed_rank_is_a_remote_error_and_a_clean_abort() {
    let Some(_) = nccl_cpu() else { return };
    let id = std::env::temp_dir().join(format!("thalweg-killed-{}", std::process::id()));
    let _ = std::fs::remove_file(&id);
    // One collective at a time: with many queued, NCCL's own enqueue spins for ever on its full
    // pool of operations once its proxy has ended, and asks nobody. The step of the size is so
    // small that the run ends only by its error.
    let rank = |rank: &str| {
        let mut command = nccl_cpu().unwrap();
        command
            .args(["--rank", rank, "--ranks", "2", "--check-all", "-n", "20"])
            .args(["-b", "1M", "-e", "2M", "-f", "1.00001"])
            .arg("--id-file")
            .arg(&id);
        Running::start(&mut command)
    };
    let (mut survivor, victim) = (rank("0"), rank("1"));
    survivor.until(|line| line.trim_start().starts_with("1048576"));
    victim.signal("-KILL");
    let (status, text) = survivor.finish(Duration::from_secs(60));
    let _ = std::fs::remove_file(&id);
    assert!(text.contains("remote process exited"), "{text}");
    // 3: told asynchronously, and aborted; 1: told by the next call of the application.
    match status.code() {
        Some(3) => assert!(text.contains("ncclCommAbort: no error"), "{text}"),
        code => assert_eq!(code, Some(1), "{text}"),
    }
}
