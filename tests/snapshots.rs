//! What every algorithm makes of a few small scenes, in whole nanoseconds: a change of an algorithm
//! shows as a change of this table, line by line, and nothing else may change it.
//!
//! `THALWEG_BLESS=1 cargo test --release --test snapshots` writes the table anew: look at what has
//! changed before it is committed.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write;
use std::path::Path;

use thalweg::sim::scenario::{Choices, Detail, Override, Scenario};

/// Four leaves of four hosts, two spines: half of the bandwidth between leaves.
const FABRIC: &str = r#"
[fabric]
kind = "leaf-spine"
leaves = 4
hosts_per_leaf = 4
spines = 2
rate = "100G"
delay = "1us"
"#;

const SCENES: [(&str, &str); 4] = [
    ("permutation", "kind = \"permutation\"\nsize = \"1MB\""),
    ("incast", "kind = \"incast\"\nto = 0\nsize = \"256K\""),
    (
        "ring",
        "kind = \"ring-all-reduce\"\nsize = \"128K\"\ngroup = 16",
    ),
    (
        "all-to-all",
        "kind = \"all-to-all\"\nsize = \"64K\"\ngroup = 16",
    ),
];

/// Everything that can be chosen, as sections `[hosts]` with a name for each.
fn hosts() -> Vec<(String, String)> {
    let choices = Choices::all();
    let mut all = Vec::new();
    for controller in &choices.controllers {
        for selector in &choices.selectors {
            all.push((
                format!("{controller:<16}{selector}"),
                format!("controller = \"{controller}\"\nselector = \"{selector}\""),
            ));
        }
    }
    for transport in &choices.transports {
        // DCQCN keeps each flow on one way.
        let balances = match *transport {
            "dcqcn" => &["single"][..],
            _ => &choices.balances,
        };
        for balance in balances {
            all.push((
                format!("{transport:<16}{balance}"),
                format!(
                    "kind = \"reference\"\ntransport = \"{transport}\"\nbalance = \"{balance}\""
                ),
            ));
        }
    }
    all
}

fn table() -> String {
    let mut table = String::from(
        "# Completion times and makespan in ns: `tests/snapshots.rs` says of what, and how to write\n\
         # this anew.\n",
    );
    let columns = ["mean", "p50", "p99", "max", "makespan"];
    for (scene, workload) in SCENES {
        write!(table, "\n{scene:<36}").unwrap();
        for column in columns {
            write!(table, "{column:>10}").unwrap();
        }
        table.push('\n');
        for (name, hosts) in hosts() {
            let text = format!("{FABRIC}\n[hosts]\n{hosts}\n\n[[workload]]\n{workload}\n");
            let none: [Override; 0] = [];
            let scenario = Scenario::parse(scene, &text, None, &none).unwrap();
            let run = scenario.play(1, Detail::Figures, &mut |_| ());
            assert!(run.is_finished(), "{scene}, {name}: {:?}", run.stuck);
            let total = run.total;
            write!(table, "  {name:<34}").unwrap();
            for ps in [
                total.mean_ps,
                total.p50_ps,
                total.p99_ps,
                total.max_ps,
                total.makespan_ps,
            ] {
                write!(table, "{:>10}", ps / 1000).unwrap();
            }
            table.push('\n');
        }
    }
    table
}

#[test]
#[cfg_attr(debug_assertions, ignore = "ten times slower without optimisation")]
fn completion_times_are_what_they_were() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/completion-times.txt");
    let now = table();
    if std::env::var_os("THALWEG_BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
        return;
    }
    let before = std::fs::read_to_string(&path).unwrap();
    let changed: Vec<String> = before
        .lines()
        .zip(now.lines())
        .filter(|(before, now)| before != now)
        .map(|(before, now)| format!("-{before}\n+{now}"))
        .collect();
    assert!(
        before == now,
        "{} lines of {} changed; THALWEG_BLESS=1 writes them:\n{}",
        changed.len(),
        path.display(),
        changed.join("\n")
    );
}
