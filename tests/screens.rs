//! What the commands that look at processes print, as text and as JSON: `THALWEG_BLESS=1 cargo test --test
//! screens` writes it anew. `thalweg top`, reports, `doctor` and verdicts have snapshots beside their own tests.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use thalweg::clock::Timestamp;
use thalweg::telemetry::event::{Event, FenceReason, WindowReason};
use thalweg::telemetry::schema::{
    LinkCounter, LinkGauge, PathCounter, PathGauge, PathHistogram, Table,
};
use thalweg::telemetry::{ConnectionRecorder, LinkRecorder, PathRecorder, Recorder, Role};
use thalweg::units::Nanos;

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A link of two paths, of which one is up, and a connection; some things have happened to them.
fn recorded(recorder: &Recorder) -> (LinkRecorder, [PathRecorder; 2], ConnectionRecorder) {
    let link = recorder
        .link(Role::Sender, "10.86.0.2:7000", "eth0")
        .unwrap();
    for &counter in LinkCounter::ALL {
        link.count(counter, 1001 + counter.place() as u64);
    }
    for &gauge in LinkGauge::ALL {
        link.set(gauge, 2001 + gauge.place() as u64);
    }
    let paths = [0, 1].map(|number| link.path(number).unwrap());
    let up = &paths[1];
    up.name("10.86.0.1:40001->10.86.0.2:7000");
    for &counter in PathCounter::ALL {
        up.count(counter, 3_000_001 + counter.place() as u64);
    }
    for &gauge in PathGauge::ALL {
        up.set(gauge, 4_000_001 + gauge.place() as u64);
    }
    up.set(PathGauge::State, 3);
    for &histogram in PathHistogram::ALL {
        for nanos in [150_000, 160_000, 3_000_000_000] {
            up.observe(histogram, nanos);
        }
    }
    let connection = link.connection(5, "collective").unwrap();
    for (bytes, micros) in [(4096, 90), (1 << 20, 700)] {
        connection.requested();
        connection.ended(bytes, Nanos(micros * 1000));
    }
    let now = Timestamp::now();
    let fenced = Event::PathFenced {
        reason: FenceReason::Silent,
        silent_ns: 84_000_000,
        frames: 3,
    };
    let window = Event::Window {
        reason: WindowReason::Queue,
        before_bytes: 4 << 20,
        window_bytes: 2 << 20,
    };
    link.event(Some(1), Event::PathUp { epoch: 1 }, now);
    link.event(Some(1), fenced, now + Nanos(1_000_000));
    link.event(None, window, now + Nanos(2_000_000));
    let failed = Event::MessageFailed { failures: 1 };
    link.event(None, failed, now + Nanos(3_000_000));
    (link, paths, connection)
}

/// What a command prints, the same whoever runs it, and when.
fn told(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_thalweg"))
        .args(arguments)
        .arg("--folder")
        .arg(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let program = fs::read_to_string("/proc/self/comm").unwrap();
    let text = text.replace(program.trim_end(), "train");
    let pid = std::process::id().to_string();
    if !arguments.contains(&"--json") {
        let lines = text.lines().map(|line| {
            let is_time = line.get(2..3) == Some(":") && line.get(5..6) == Some(":");
            let line = if is_time { &line[15..] } else { line };
            line.replacen(&pid, "4711", 1) + "\n"
        });
        return lines.collect();
    }
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let steady = values.map(|value| {
        let mut value = value.unwrap();
        steady(&mut value);
        serde_json::to_string_pretty(&value).unwrap() + "\n"
    });
    steady.collect()
}

/// Numbers that differ from run to run are 1.
fn steady(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(steady),
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "pid" | "started_wall_ns" | "wall_ns" | "from_ns" | "to_ns" | "age_ns" => {
                        assert!(value.as_u64().is_some_and(|number| number > 0), "{name}");
                        *value = 1.into();
                    }
                    "segment" => *value = "1".into(),
                    _ => steady(value),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn commands_print_what_they_did() {
    let name = format!("thalweg-screens-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    let (recorder, line) = Recorder::open(&folder.0).unwrap();
    assert_eq!(line, None);
    let _kept = recorded(&recorder);
    let mut text = String::new();
    for arguments in [
        &["paths"][..],
        &["paths", "--json"],
        &["events", "--samples"],
        &["events", "--samples", "--json"],
        &["events", "--verdict", "lost"],
        &["export", "--no-host", "--json"],
    ] {
        writeln!(text, "=== thalweg {}", arguments.join(" ")).unwrap();
        text += &told(&folder.0, arguments);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/screens.txt");
    if std::env::var_os("THALWEG_BLESS").is_some() {
        fs::write(path, &text).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(
        text == expected,
        "THALWEG_BLESS=1 cargo test --test screens writes it:\n{text}"
    );
}

/// As `thalweg record` writes it, and as `thalweg replay --json` and so `thalweg top --json` tell it.
#[test]
fn a_recording_is_told_as_it_was() {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings/cut.gz");
    let output = Command::new(env!("CARGO_BIN_EXE_thalweg"))
        .args(["replay", "--json", recording])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    // The sender, and a few of its events: samples are many.
    let processes = last["processes"].as_array_mut().unwrap();
    processes.truncate(1);
    processes[0]["events"].as_array_mut().unwrap().truncate(4);
    let now = serde_json::to_string_pretty(&last).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/replay.json");
    if std::env::var_os("THALWEG_BLESS").is_some() {
        fs::write(path, &now).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(
        now == expected,
        "THALWEG_BLESS=1 cargo test --test screens writes it:\n{now}"
    );
}

#[test]
fn nobody_need_hear_what_is_said_on_standard_error() {
    let name = format!("thalweg-unheard-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    fs::create_dir(&folder.0).unwrap();
    let recording = fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/recordings/small.gz"
    ));
    let recording = recording.unwrap();
    let half = &recording[..recording.len() / 2];
    fs::write(folder.0.join("half.gz"), half).unwrap();
    let command = |arguments: &[&str], stderr: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_thalweg"))
            .args(arguments)
            .current_dir(&folder.0)
            .stderr(stderr)
            .output()
            .unwrap()
    };
    for (arguments, status) in [
        (&["paths", "--folder", "."][..], 0),
        (&["events", "--folder", "none"], 0),
        (&["explain", "half.gz"], 0),
        (&["replay", "--json", "half.gz"], 0),
        (&["report", "--json", "half.gz"], 0),
        (&["sim", "run", "hello", "--report", "page.html"], 0),
        (&["sim", "list", "none"], 2),
        (&["no-command"], 2),
    ] {
        let heard = command(arguments, Stdio::piped());
        assert!(!heard.stderr.is_empty(), "{arguments:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let unheard = command(arguments, writer.into());
        for output in [&heard, &unheard] {
            assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        }
        assert_eq!(unheard.stdout.is_empty(), heard.stdout.is_empty());
    }
}
