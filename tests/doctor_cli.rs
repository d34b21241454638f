//! The `thalweg doctor` command, from end to end: its exit status, its two forms, and what it
//! refuses. What the checks find is tested beside them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder with the files of a host, gone with it.
struct Host(PathBuf);

impl Host {
    fn new(name: &str) -> Self {
        let folder = format!("thalweg-doctor-{name}-{}", std::process::id());
        let host = Self(std::env::temp_dir().join(folder));
        host.file("proc/sys/kernel/hostname", "node-17\n");
        host.file("sys/class/net/eth0/mtu", "9000\n");
        host
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn doctor(&self, arguments: &[&str], env: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_thalweg"))
            .args(["doctor", "--root"])
            .arg(&self.0)
            .args(arguments)
            .env_clear()
            .envs(env.iter().copied())
            .output()
            .unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_status_says_whether_there_is_a_problem() {
    let host = Host::new("status");
    let well = host.doctor(&[], &[]);
    let text = String::from_utf8(well.stdout).unwrap();
    assert_eq!(well.status.code(), Some(0), "{text}");
    assert!(text.starts_with("node-17, kernel unknown\n"), "{text}");
    assert!(text.ends_with(" not checked\n"), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(well.stderr.is_empty());

    let ill = host.doctor(&[], &[("THALWEG_PATHS", "many")]);
    let text = String::from_utf8(ill.stdout).unwrap();
    assert_eq!(ill.status.code(), Some(1), "{text}");
    assert!(text.contains("PROBLEM settings"), "{text}");
    assert!(text.contains("THALWEG_PATHS is \"many\""), "{text}");
}

#[test]
fn json_says_the_same() {
    let host = Host::new("json");
    let output = host.doctor(&["--json"], &[("NCCL_SOCKET_IFNAME", "ib")]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["version"], &report["problems"]),
        (&1.into(), &1.into())
    );
    let finding = &report["findings"][0];
    assert_eq!(finding["check"], "interface-names");
    assert_eq!(finding["severity"], "problem");
    assert_eq!(finding["evidence"][0], "NCCL_SOCKET_IFNAME=ib");
}

#[test]
fn a_folder_without_a_host_is_refused() {
    let host = Host::new("none");
    fs::remove_dir_all(host.0.join("sys")).unwrap();
    let output = host.doctor(&[], &[]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("no folders sys and proc"), "{text}");
}
