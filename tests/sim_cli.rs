//! The `thalweg sim` command, from end to end: what it prints, what it refuses, and that its
//! output depends on the scenario and the seed and on nothing else.

use std::path::PathBuf;
use std::process::{Command, Output};

fn thalweg(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thalweg"))
        .args(arguments)
        .output()
        .expect("the command is built beside the tests")
}

fn stdout(arguments: &[&str]) -> String {
    let output = thalweg(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("the output is text")
}

/// The one line on standard error of a command that is refused.
fn refused(arguments: &[&str]) -> String {
    let output = thalweg(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim().to_owned()
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("thalweg-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        Self(folder)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the file can be written");
        path.to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SMALL: &str = r#"about = "a small incast"

[fabric]
kind = "leaf-spine"
leaves = 2
hosts_per_leaf = 4
spines = 2
rate = "100G"
delay = "1us"

[hosts]
paths = 4

[[workload]]
kind = "permutation"
size = "256K"

[[workload]]
name = "burst"
kind = "incast"
class = "high"
senders = 3
size = "64K"
start = "10us"
"#;

#[test]
fn a_run_shows_its_parts() {
    let folder = Folder::new("run");
    let file = folder.file("small.toml", SMALL);
    let text = stdout(&["sim", "run", &file]);
    for part in [
        "small: a small incast",
        "8 hosts, seed 1",
        "permutation",
        "burst",
        "total",
        "fences 0",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let several = stdout(&[
        "sim",
        "run",
        &file,
        "--seeds",
        "3",
        "--set",
        "hosts.paths=2",
    ]);
    assert!(
        several.contains("mean of 3 runs, seeds 1 to 3"),
        "{several}"
    );
}

#[test]
fn the_output_is_the_same_whatever_the_threads() {
    let folder = Folder::new("threads");
    let file = folder.file("small.toml", SMALL);
    let run = |threads| {
        stdout(&[
            "sim",
            "run",
            &file,
            "--seeds",
            "5",
            "--json",
            "--threads",
            threads,
        ])
    };
    let one = run("1");
    assert_eq!(one, run("1"));
    assert_eq!(one, run("4"));
    let sweep = |threads| {
        stdout(&[
            "sim",
            "sweep",
            &file,
            "--axis",
            "hosts.paths=1,2,4",
            "--axis",
            "workload.permutation.size=64K,1M",
            "--seeds",
            "2",
            "--threads",
            threads,
        ])
    };
    let one = sweep("1");
    assert_eq!(one, sweep("3"));
    // A head, a line, and the grid.
    assert_eq!(one.lines().count(), 2 + 3 * 2, "{one}");
    assert!(
        one.lines().nth(3).unwrap().starts_with('1') && one.lines().nth(3).unwrap().contains("1M"),
        "{one}"
    );
}

#[test]
fn json_has_whole_numbers() {
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&["sim", "run", "hello", "--json"])).unwrap();
    let run = &json["runs"][0];
    assert_eq!(run["ended"], "finished");
    assert_eq!(run["total"]["finished"], 1);
    let (makespan, floor) = (&run["total"]["makespan_ps"], &run["total"]["floor_ps"]);
    assert!(makespan.as_u64().unwrap() >= floor.as_u64().unwrap());
    assert_eq!(run["hosts"]["fences"], 0);
}

#[test]
fn a_report_stands_alone() {
    let folder = Folder::new("report");
    let file = folder.file("small.toml", SMALL);
    let page = folder.0.join("out.html");
    stdout(&["sim", "run", &file, "--report", &page.to_string_lossy()]);
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<svg").count(), 4);
    for unwanted in ["<script", "src=", "href=", "NaN", "inf", "@import", "url("] {
        assert!(!page.contains(unwanted), "{unwanted}");
    }
}

#[test]
fn two_scenarios_stand_side_by_side() {
    let folder = Folder::new("compare");
    let a = folder.file("a.toml", SMALL);
    let b = folder.file("b.toml", &SMALL.replace("paths = 4", "paths = 1"));
    let text = stdout(&["sim", "compare", &a, &b]);
    assert!(
        text.lines().next().unwrap().trim_end().ends_with("B / A"),
        "{text}"
    );
    assert!(text.contains("makespan µs"), "{text}");
}

#[test]
fn shipped_scenarios_are_listed_and_printed() {
    let list = stdout(&["sim", "list"]);
    for name in [
        "hello",
        "permutation-2mb",
        "rings",
        "incast-32",
        "all-to-all",
        "kv-beside-ring",
        "link-cut",
    ] {
        assert!(
            list.lines()
                .any(|line| line.split(' ').next() == Some(name)),
            "{name}"
        );
    }
    assert!(stdout(&["sim", "list", "hello"]).contains("[fabric]"));
    assert!(refused(&["sim", "list", "hell"]).contains("not a shipped scenario"));
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let folder = Folder::new("wrong");
    let file = folder.file("small.toml", &SMALL.replace("senders = 3", "senders = 30"));
    assert_eq!(
        refused(&["sim", "run", &file]),
        format!(
            "thalweg: {file}:22: workload[1].senders is 30, but must be an integer from 1 to 7"
        )
    );
    let file = folder.file("good.toml", SMALL);
    assert_eq!(
        refused(&["sim", "run", &file, "--set", "hosts.selector=bets"]),
        format!(
            "thalweg: {file} as set on the command line: hosts.selector is \"bets\", which is no selector; known are least-outstanding, weighted, power-of-two, adaptive, round-robin, hash"
        )
    );
    assert!(
        refused(&["sim", "run", "no-such.toml"])
            .ends_with("`thalweg sim list` names the shipped scenarios")
    );
    assert!(
        refused(&["sim", "sweep", &file, "--axis", "hosts.paths"])
            .contains("write it as field=value")
    );
    assert!(
        refused(&["sim", "sweep", &file, "--axis", "hosts.paths=1,,2"])
            .contains("a value is empty")
    );
    let output = thalweg(&["sim", "run"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(thalweg(&["--help"]).status.success());
}

#[test]
fn what_does_not_finish_says_what_is_stuck_and_fails() {
    let folder = Folder::new("stuck");
    let fault = "[[fault]]\nkind = \"link-down\"\nlink = \"host 3 -> leaf 0\"\nat = \"5us\"\n[run]\ndeadline = \"1ms\"\n";
    let file = folder.file("stuck.toml", &format!("{SMALL}{fault}"));
    let output = thalweg(&["sim", "run", &file]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("flows have not ended:") && text.contains("host 3 -> host"),
        "{text}"
    );
}
