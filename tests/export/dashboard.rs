//! Grafana's dashboard, `lab/grafana/thalweg.json`, against what the exporter tells.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use thalweg::export;
use thalweg::telemetry::Recorder;

use super::{Folder, host, recorded};

pub fn load() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/grafana/thalweg.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// All panels, with those that rows hold.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let own = dashboard["panels"].as_array().unwrap();
    let within = |panel: &'static str| own.iter().filter_map(move |row| row[panel].as_array());
    own.iter().chain(within("panels").flatten()).collect()
}

/// What it asks of Prometheus, but for the queries of its variables.
pub fn expressions(dashboard: &Value) -> Vec<&str> {
    let targets = panels(dashboard)
        .into_iter()
        .filter_map(|panel| panel["targets"].as_array());
    targets
        .flatten()
        .map(|target| target["expr"].as_str().unwrap())
        .collect()
}

fn variables(dashboard: &Value) -> Vec<&Value> {
    dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .collect()
}

/// The words of an expression that begin so.
fn words(text: &str, beginning: char) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == beginning;
    let words = text
        .split(move |c| !is_part(c))
        .filter(|word| !word.is_empty());
    words.collect()
}

#[test]
fn it_asks_for_what_is_told() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let _kept = recorded(&recorder, "10.86.0.2:7000");
    let mut scrape = folder.scrape();
    scrape.host = Some(host());
    let text = export::prometheus::text(&scrape, true);
    let told: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard = load();
    let variables = variables(&dashboard);
    let queries = variables.iter().filter_map(|v| v["definition"].as_str());
    let mut asked = 0;
    for expression in expressions(&dashboard).into_iter().chain(queries) {
        let names = words(expression, '_');
        let names: Vec<_> = names
            .iter()
            .filter(|word| word.starts_with("thalweg_"))
            .collect();
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            assert!(told.contains(name), "{name} is not told, in {expression}");
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
}

#[test]
fn it_is_whole() {
    let dashboard = load();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    let panels = panels(&dashboard);
    let ids: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    let rows: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .collect();
    let titles: Vec<_> = rows
        .iter()
        .map(|row| row["title"].as_str().unwrap())
        .collect();
    assert_eq!(titles, ["Overview", "Paths", "Trouble", "Ports"]);
    let variables = variables(&dashboard);
    let mut known: BTreeSet<_> = variables
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect();
    known.insert("__rate_interval");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(
            panel["datasource"]["uid"], "${datasource}",
            "{}",
            panel["title"]
        );
        assert!(!panel["description"].as_str().unwrap().is_empty());
    }
    for expression in expressions(&dashboard) {
        for word in words(expression, '$')
            .iter()
            .filter_map(|word| word.strip_prefix('$'))
        {
            assert!(known.contains(word), "${word} in {expression}");
        }
    }
    // No two panels lie on each other.
    let place = |panel: &Value, side: &str| panel["gridPos"][side].as_u64().unwrap();
    for (number, a) in panels.iter().enumerate() {
        assert!(place(a, "x") + place(a, "w") <= 24);
        for b in &panels[number + 1..] {
            let apart = |at, size| {
                place(a, at) + place(a, size) <= place(b, at)
                    || place(b, at) + place(b, size) <= place(a, at)
            };
            assert!(
                apart("x", "w") || apart("y", "h"),
                "{} and {}",
                a["title"],
                b["title"]
            );
        }
    }
}
