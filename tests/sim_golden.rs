//! The simulator against the published results of the Ultra Ethernet one: within the bound of each
//! row, which is what two seeds of the same simulator may differ by; and `docs/twin.md` shows them
//! all (`THALWEG_BLESS=1 cargo test --release --test sim_golden -- --ignored` writes its table anew).

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write;
use std::path::Path;

use thalweg::sim::spray::golden::{Row, Subset, rows};

fn check(subset: Subset) -> Vec<Row> {
    let rows: Vec<Row> = rows(subset).collect();
    let mut failed = Vec::new();
    for row in &rows {
        if !row.holds {
            failed.push(format!(
                "{}: {} is {:.3}, the reference has {:.3}: {:+.2} % of at most {:.2} %",
                row.name,
                row.what,
                row.ours,
                row.theirs,
                row.error * 100.0,
                row.bound * 100.0,
            ));
        }
    }
    assert!(rows.len() > 20, "{} rows", rows.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    rows
}

/// The rows as they stand in the documentation, each case's name once.
fn table(rows: &[Row]) -> String {
    let mut text =
        "| case | figure | htsim | ours | error | bound |\n|---|---|---|---|---|---|\n".to_owned();
    let mut before = "";
    for row in rows {
        let name = if row.name == before { "" } else { &row.name };
        before = &row.name;
        let bound = match row.note {
            "" => format!("{} %", row.bound * 100.0),
            note => format!("{} %, {note}", row.bound * 100.0),
        };
        let (what, theirs, ours, error) = (row.what, row.theirs, row.ours, row.error * 100.0);
        writeln!(
            text,
            "| {name} | {what} | {theirs:.2} | {ours:.2} | {error:+.2} % | {bound} |"
        )
        .unwrap();
    }
    text
}

#[test]
fn single_flows_and_small_incasts_agree() {
    check(Subset::Smoke);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "ten times slower without optimisation")]
fn one_of_each_kind_agrees() {
    check(Subset::Fast);
}

#[test]
#[ignore = "takes minutes; thalweg sim suite golden shows the same rows"]
fn all_agree_and_are_documented() {
    let table = table(&check(Subset::Full));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/twin.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let from = text.find("| case | figure | htsim |").unwrap();
    let (before, after) = text.split_at(from);
    let after = after.split_once("\n\n").map_or("", |(_, after)| after);
    if std::env::var_os("THALWEG_BLESS").is_some() {
        std::fs::write(&file, format!("{before}{table}\n{after}")).unwrap();
    } else {
        assert!(
            text.contains(&table),
            "docs/twin.md has another table:\n{table}"
        );
    }
}
