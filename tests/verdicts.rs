//! Verdicts on recorded runs: `lab/verdicts.py --keep tests/recordings` has made each kind of trouble on a
//! fabric of shaped paths. What is said of them stays what it was: `THALWEG_BLESS=1 cargo test --test
//! verdicts` writes that anew. Look at what has changed before it is committed.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Recordings; whose finding is looked for: a role's first link, one that sends to a host, a port, or the host
/// itself; what it is to be, and whether that is the network.
const RECORDED: &[(&str, &str, &str, bool)] = &[
    ("full", "sender", "shared", true),
    ("slow-path", "sender", "slow-path", true),
    ("collision", "sender", "path-collision", true),
    ("cut", "sender", "path-loss", true),
    ("receiver-stopped", "sender", "receiver-host", false),
    ("receiver-late", "sender", "receiver-late", false),
    ("receiver-late", "receiver", "receiver-late", false),
    ("sender-stopped", "sender", "software", false),
    ("sender-late", "receiver", "sender", false),
    ("starved", "sender", "software", false),
    ("small", "sender", "latency", false),
    ("incast", "sender", "shared", true),
    ("incast", "receiver", "receiver-shared", true),
    ("marked", "sender", "shared", true),
    ("marked-peer", "10.86.110.1", "shared", true),
    ("half-ecn", "10.86.110.1", "misconfigured", false),
    ("no-buffer", "host", "receiver-host", false),
    ("lossy-path", "sender", "path-loss", true),
    ("rdma-full", "sender", "shared", true),
    ("rdma-slow-rail", "sender", "slow-path", true),
    ("rdma-lossy-rail", "sender", "path-loss", true),
    ("rdma-lossy-rail", "rxea1:1", "path-loss", true),
    ("rdma-link-down", "sender", "path-loss", true),
    ("rdma-link-down", "rxea1:1", "worn-link", true),
    ("rdma-receiver-stopped", "sender", "receiver-late", false),
    ("rdma-receiver-late", "sender", "receiver-late", false),
    ("rdma-receiver-late", "receiver", "receiver-late", false),
    ("rdma-mtu", "sender", "shared", true),
    ("rdma-mtu", "rxea1:1", "misconfigured", false),
];

fn explain(name: &str, options: &[&str]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recordings/{name}.gz"));
    let output = Command::new(env!("CARGO_BIN_EXE_thalweg"))
        .arg("explain")
        .arg(file)
        .args(options)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_kind_of_trouble_is_named() {
    for &(name, whose, cause, is_network) in RECORDED {
        let told: Value = serde_json::from_str(&explain(name, &["--json"])).unwrap();
        let findings = told["findings"].as_array().unwrap();
        let is_to = |finding: &Value| {
            let peer = finding["peer"].as_str().unwrap_or_default();
            let is_host = peer.rsplit_once(':').is_some_and(|(host, _)| host == whose);
            is_host && finding["role"] == "sender" && finding["cause"] == cause
        };
        let is_whose = |finding: &&Value| {
            finding["role"] == whose
                || finding["port"] == whose
                || finding[whose] == true
                || is_to(finding)
        };
        let first = findings.iter().find(is_whose);
        let first = first.unwrap_or_else(|| panic!("{name}: nothing is said: {told}"));
        assert_eq!(first["cause"], cause, "{name}: {told}");
        assert_eq!(first["is_network"], is_network, "{name}");
        assert!(
            first["confidence_percent"].as_u64().unwrap() >= 40,
            "{name}"
        );
        assert!(!first["evidence"].as_array().unwrap().is_empty(), "{name}");
    }
}

#[test]
fn what_is_said_of_recordings_stays_the_same() {
    let mut text = String::new();
    let mut names: Vec<_> = RECORDED.iter().map(|(name, ..)| name).collect();
    names.dedup();
    for name in names {
        writeln!(text, "=== {name}\n{}", explain(name, &[])).unwrap();
    }
    text += &explain("cut", &["--json"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/explain.txt");
    if std::env::var_os("THALWEG_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "THALWEG_BLESS=1 cargo test --test verdicts writes it:\n{text}"
    );
}
