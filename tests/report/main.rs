//! `thalweg report`, from end to end: the page and its twin in JSON of a made recording, and what damaged ones
//! are answered; and, where there is one, what a real Chromium makes of the page.

#![allow(clippy::unwrap_used, reason = "a test")]

mod chromium;
/// The same as the library's own tests have: `crate::telemetry` is there and here.
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../../src/telemetry/made.rs"]
mod made;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use thalweg::clock::Timestamp;
use thalweg::telemetry;
use thalweg::telemetry::Role;
use thalweg::telemetry::event::{Event, FenceReason};
use thalweg::telemetry::histogram::{BUCKETS, bucket_of};
use thalweg::telemetry::reader::{Happened, Link, PathNow};
use thalweg::telemetry::schema::{
    LinkCounter, LinkGauge, PathCounter, PathGauge, PathHistogram, PortCounter, PortGauge,
};
use thalweg::telemetry::snapshot::{Snapshot, Watched};
use thalweg::telemetry::sources::{HostNow, PortNow, Source};

const MILLI: u64 = 1_000_000;
/// 2026-11-22, 13:05:00 UTC.
const BEGIN: u64 = 1_795_352_700_000 * MILLI;
/// Between two snapshots.
const INTERVAL: u64 = 250 * MILLI;
/// Snapshots.
const COUNT: u64 = 25;
/// Path 1 of the first link is cut after so many, and healed after so many.
const CUT: std::ops::Range<u64> = 8..16;

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("thalweg-report-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A path that has carried so much, in so many ticks that had so much delay each.
fn path(number: u32, megabytes: u64, ticks: u64, delay_us: fn(u64) -> u64) -> PathNow {
    let ends = format!("10.0.{number}.1:4791->10.0.{number}.2:4791");
    let mut path = made::path(number, &ends);
    path.counters[PathCounter::SentBytes] = megabytes * 1_000_000;
    path.gauges[PathGauge::State] = 3;
    let delay = &mut path.histograms[PathHistogram::Delay];
    delay.buckets = vec![0; BUCKETS];
    for delay_us in (0..ticks).map(delay_us) {
        delay.buckets[bucket_of(delay_us * 1000)] += 95;
        delay.buckets[bucket_of(delay_us * 6000)] += 5;
    }
    path
}

fn link(id: u64, peer: &str, role: Role, tick: u64, paths: Vec<PathNow>) -> Link {
    let mut link = made::link(id, role, peer, paths);
    link.counters[LinkCounter::Messages] = tick * 40;
    link.counters[LinkCounter::NetworkTime] = tick * INTERVAL * 6 / 10;
    link.counters[LinkCounter::CreditTime] = tick * INTERVAL * 15 / 100;
    link.counters[LinkCounter::HostTime] = tick * INTERVAL * 5 / 100;
    link.counters[LinkCounter::IdleTime] = tick * INTERVAL * 2 / 10;
    link.gauges[LinkGauge::ActivePaths] = link.paths.len() as u64;
    link
}

fn happened(millis: u64, link: u64, path: Option<u32>, event: Event) -> Happened {
    let wall_ns = BEGIN + millis * MILLI;
    made::happened(wall_ns, (link, "10.0.0.2:7000"), path, event)
}

fn watched(pid: u64, program: &str, links: Vec<Link>) -> Watched {
    made::watched(pid, program, BEGIN - 1500 * MILLI, links)
}

/// An RDMA port that is paused for a while, with a driver that is read every second; and an interface, whose name
/// would be markup, with a link that goes down.
fn host(tick: u64) -> HostNow {
    let mut rdma = PortNow {
        name: "mlx5_0:1".into(),
        interface: Some("eth0".into()),
        driver: Some("mlx5_core".into()),
        ..PortNow::default()
    };
    let read = tick - tick % 4;
    rdma.ages_ns[Source::Rdma] = Some(0);
    rdma.ages_ns[Source::Ethernet] = Some((tick - read) * INTERVAL);
    for (counter, value) in [
        (
            PortCounter::RdmaSentBytes,
            tick * 73_000_000 + tick % 3 * 4_000_000,
        ),
        (PortCounter::RdmaReceivedBytes, tick * 8_000_000),
        (PortCounter::RdmaSentPackets, tick * 20_000),
        (PortCounter::SequenceNaks, u64::from(tick > 9) * 3),
        (PortCounter::AckTimeouts, 0),
        (PortCounter::CnpsHandled, tick.saturating_sub(10) * 5),
        (PortCounter::PausesReceived, read.clamp(8, 16) * 40),
        (PortCounter::PausesSent, 0),
    ] {
        rdma.counters[counter] = Some(value);
    }
    rdma.gauges[PortGauge::RdmaState] = Some(4);
    rdma.gauges[PortGauge::RdmaSpeed] = Some(3_125_000_000);
    let mut other = PortNow {
        name: "eth<1>".into(),
        interface: Some("eth<1>".into()),
        ..PortNow::default()
    };
    let is_down = CUT.contains(&tick);
    other.ages_ns[Source::Interface] = Some(0);
    other.gauges[PortGauge::LinkUp] = Some(u64::from(!is_down));
    other.gauges[PortGauge::Speed] = Some(1_250_000_000);
    other.counters[PortCounter::SentBytes] = Some(tick * 2_000_000);
    other.counters[PortCounter::ReceivedBytes] = Some(tick * 40_000_000);
    HostNow {
        at: Timestamp::from_nanos((tick + 1) * INTERVAL),
        ports: vec![other, rdma],
        ..HostNow::default()
    }
}

/// Two processes: one with two links, of which one loses a path for a while, and one that ends early, with a
/// name that would be markup.
fn snapshot(tick: u64) -> Snapshot {
    let uncut = tick.min(CUT.start) + tick.saturating_sub(CUT.end);
    let mut cut = path(1, uncut * 30, uncut, |_| 900);
    cut.counters[PathCounter::Fences] = u64::from(tick > CUT.start);
    cut.counters[PathCounter::Replays] = u64::from(tick > CUT.start) * 3;
    let paths = vec![
        path(0, tick * 31 + tick % 3, tick, |tick| 1000 + tick % 4 * 150),
        cut,
        path(2, tick * 12, tick, |_| 4000),
    ];
    let mut to = link(2, "10.0.0.2:7000", Role::Sender, tick, paths);
    let large = || made::messages(tick * 15, 4 << 20, 2_300_000);
    let small = made::messages(tick * 25, 8 << 10, 90_000);
    to.connections = vec![made::connection(0, small), made::connection(7, large())];
    let mut from = link(
        3,
        "10.0.0.3:7000",
        Role::Receiver,
        tick,
        vec![path(0, 0, 0, |_| 0)],
    );
    from.paths[0].counters[PathCounter::ReceivedBytes] = tick * 8_000_000;
    let other = link(
        2,
        "10.0.0.3:7000",
        Role::Sender,
        tick,
        vec![path(0, tick * 5, tick, |_| 700)],
    );
    let mut train = watched(4711, "train", vec![to, from]);
    train.process.devices = vec![made::total("mlx5_0", large())];
    train.process.classes = vec![made::total("collective", large())];
    train.events_missed = u64::from(tick == 3) * 12;
    let up = Event::PathUp { epoch: 1 };
    let chunk = Event::Chunk {
        delay_ns: 1,
        queue_ns: 1,
        in_flight_bytes: 1,
        window_bytes: 1,
    };
    let fenced = Event::PathFenced {
        reason: FenceReason::Silent,
        silent_ns: 84 * MILLI,
        frames: 3,
    };
    let suspect = Event::PathSuspect {
        silent_ns: 40 * MILLI,
    };
    let failed = Event::MessageFailed { failures: 1 };
    let events = [
        (0, -1000, None, chunk),
        (0, -900, Some(0), up),
        (9, 2050, Some(1), suspect),
        (9, 2094, Some(1), fenced),
        (9, 2096, Some(1), Event::PathReplayed { frames: 3 }),
        (17, 4010, Some(1), up),
        (20, 4900, None, failed),
    ];
    for (_, millis, path, event) in events.into_iter().filter(|event| event.0 == tick) {
        let mut happened = happened(0, 2, path, event);
        happened.wall_ns = happened.wall_ns.saturating_add_signed(millis * 1_000_000);
        train.events.push(happened);
    }
    let strange = watched(4712, "<b>&\"serve", vec![other]);
    let mut processes = vec![train, strange];
    processes.truncate(if tick < 20 { 2 } else { 1 });
    Snapshot {
        host: Some(host(tick)),
        ..made::snapshot(BEGIN + tick * INTERVAL, processes)
    }
}

/// As `thalweg record` writes it.
fn recording() -> String {
    let head = r#"{"thalweg_recording":1,"version":"0.1.0","host":"node-<7>","interval_ms":250}"#;
    let snapshots = (0..COUNT).map(|tick| serde_json::to_string(&snapshot(tick)).unwrap());
    let lines: Vec<_> = std::iter::once(head.to_owned()).chain(snapshots).collect();
    lines.join("\n") + "\n"
}

fn report(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thalweg"));
    command.arg("report").arg(file).args(arguments);
    command.output().unwrap()
}

/// The page of a recording.
fn page_of(file: &Path) -> PathBuf {
    let output = report(&[], file);
    assert!(output.status.success(), "{output:?}");
    let page = file.with_extension("html");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("{}\n", page.display()));
    page
}

/// `THALWEG_BLESS=1 cargo test --test report` writes it anew: look at what has changed.
fn is_what_it_was(name: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/snapshots")
        .join(name);
    if std::env::var_os("THALWEG_BLESS").is_some() {
        fs::write(&path, now).unwrap();
        return;
    }
    let before = fs::read_to_string(&path).unwrap();
    let changed = |(before, now): &(&str, &str)| before != now;
    let first = before.lines().zip(now.lines()).find(changed);
    assert!(before == now, "{}: {first:?}", path.display());
}

#[test]
fn the_page_and_its_twin_are_what_they_were() {
    let folder = Folder::new("golden");
    // The last line is cut off.
    let text = recording() + "{\"wall_ns\":17";
    let file = folder.file("run.jsonl", &text);
    is_what_it_was("report.html", &fs::read_to_string(page_of(&file)).unwrap());
    let output = report(&["--json"], &file);
    is_what_it_was("report.json", &String::from_utf8(output.stdout).unwrap());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("thalweg: ") && said.contains("line 27 is cut off"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn a_page_stands_alone_and_what_is_told_is_no_markup() {
    let folder = Folder::new("alone");
    let page = page_of(&folder.file("run.jsonl", &recording()));
    let page = fs::read_to_string(page).unwrap();
    for part in [
        "<script",
        "src=",
        "url(",
        "@import",
        "<link",
        "href=\"http",
        "<b>",
        "node-<",
    ] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("&lt;b&gt;&amp;&quot;serve 4712") && page.contains("node-&lt;7&gt;"));
}

#[test]
fn what_cannot_be_read_or_written_is_said_in_a_line() {
    let folder = Folder::new("bad");
    let refused = |arguments: &[&str], file: &Path, says: &str| {
        let output = report(arguments, file);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.lines().count() == 1 && said.contains(says), "{said}");
    };
    refused(&[], &folder.0.join("none"), "No such file");
    refused(&[], &folder.0, "directory");
    refused(
        &[],
        &folder.file("words", "words\n"),
        "no recording of `thalweg record`",
    );
    let file = folder.file("run.jsonl", &recording());
    refused(
        &["-o", "/nowhere/at/all.html"],
        &file,
        "/nowhere/at/all.html: No such file",
    );
    let elsewhere = folder.0.join("elsewhere.html");
    let output = report(&["-o", elsewhere.to_str().unwrap(), "--links", "1"], &file);
    assert!(output.status.success() && elsewhere.exists());
}
