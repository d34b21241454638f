//! The screens, as they are drawn: `THALWEG_BLESS=1 cargo test --lib top` writes the snapshots anew. Look at
//! what has changed before it is committed.

use std::fmt::Write;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::app::{App, Asked, View};
use super::draw::draw;
use super::rows::{age, short};
use super::show;
use crate::clock::Timestamp;
use crate::telemetry::event::{Event, FenceReason};
use crate::telemetry::histogram::{BUCKETS, bucket_of};
use crate::telemetry::reader::{Happened, Link, PathNow};
use crate::telemetry::schema::{
    LaneGauge, LinkCounter, LinkGauge, PathCounter, PathGauge, PathHistogram, PortCounter,
    PortGauge, PriorityCounter,
};
use crate::telemetry::snapshot::Snapshot;
use crate::telemetry::sources::{HostNow, PortNow, Source, SourceTimes};
use crate::telemetry::values::Values;
use crate::telemetry::{Role, made};

/// 13:05:00 of some day.
const BEGIN: u64 = 1_795_266_300_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn path(number: u32, second: u64, megabytes: u64, delay_us: u64) -> PathNow {
    let ends = format!("10.0.{number}.1:4791->10.0.{number}.2:4791");
    let mut path = made::path(number, &ends);
    path.counters[PathCounter::SentBytes] = second * megabytes * 1_000_000;
    path.gauges[PathGauge::State] = 3;
    path.gauges[PathGauge::RoundTrip] = delay_us * 800;
    path.gauges[PathGauge::Outstanding] = megabytes << 10;
    let delay = &mut path.histograms[PathHistogram::Delay];
    delay.buckets = vec![0; BUCKETS];
    delay.buckets[bucket_of(delay_us * 1000)] = second * 95;
    delay.buckets[bucket_of(delay_us * 4000)] = second * 5;
    path
}

fn link(id: u64, peer: &str, role: Role, second: u64, paths: Vec<PathNow>) -> Link {
    let mut link = made::link(id, role, peer, paths);
    link.counters[LinkCounter::Messages] = second * 120;
    link.counters[LinkCounter::NetworkTime] = second * SECOND * 7 / 10;
    link.counters[LinkCounter::IdleTime] = second * SECOND * 3 / 10;
    link.gauges[LinkGauge::ActivePaths] = link.paths.len() as u64;
    link.gauges[LinkGauge::InFlight] = 3 << 20;
    link.gauges[LinkGauge::Window] = 4 << 20;
    link
}

fn happened(second: u64, link: u64, path: Option<u32>, event: Event) -> Happened {
    let wall_ns = BEGIN + second * SECOND;
    made::happened(wall_ns, (link, "10.0.0.2:40001"), path, event)
}

/// An RDMA port, whose driver is read every other second, and an interface that is down.
fn host(second: u64) -> HostNow {
    let mut rdma = PortNow {
        name: "mlx5_0:1".into(),
        interface: Some("eth0".into()),
        device: Some(("mlx5_0".into(), 1)),
        driver: Some("mlx5_core".into()),
        ..PortNow::default()
    };
    let read = second - second % 2;
    rdma.ages_ns = SourceTimes::new(|source| match source {
        Source::Rdma => Some(4_000_000),
        Source::Interface => Some(40_000_000),
        Source::Ethernet => Some((second - read) * SECOND),
        Source::Module => Some(second * SECOND + 61 * SECOND),
        Source::Pcie => None,
    });
    for (counter, value) in [
        (PortCounter::RdmaSentBytes, second * 1_350_000_000),
        (PortCounter::RdmaReceivedBytes, second * 100_000_000),
        (PortCounter::SentBytes, second * 5_000_000),
        (PortCounter::ReceivedBytes, second * 120_000_000),
        (PortCounter::SequenceNaks, second * 3),
        (PortCounter::AckTimeouts, 0),
        (PortCounter::CnpsHandled, second * 12_345),
        (PortCounter::EcnMarkedPackets, second),
        (PortCounter::PausesReceived, read * 20),
        (PortCounter::Paused, read * 1_500_000),
        (PortCounter::PausesSent, 7),
        (PortCounter::FecUncorrectableBlocks, read / 2),
    ] {
        rdma.counters[counter] = Some(value);
    }
    for (gauge, value) in [
        (PortGauge::LinkUp, 1),
        (PortGauge::Speed, 50_000_000_000),
        (PortGauge::RdmaState, 4),
        (PortGauge::Mtu, 9000),
        (PortGauge::PcieReadStalled, 12_345),
        (PortGauge::ModuleTemperature, 45_250),
        (PortGauge::ModuleVoltage, 3_312_000),
    ] {
        rdma.gauges[gauge] = Some(value);
    }
    rdma.priorities = vec![Values::default(); 8];
    rdma.priorities[3][PriorityCounter::PausesReceived] = Some(read * 20);
    rdma.lanes = vec![Values::default(); 2];
    rdma.lanes[1][LaneGauge::ReceivePower] = Some(981_200);
    rdma.lanes[1][LaneGauge::Bias] = Some(7_120);
    let mut down = PortNow {
        name: "eth1".into(),
        interface: Some("eth1".into()),
        ..PortNow::default()
    };
    down.gauges[PortGauge::LinkUp] = Some(0);
    down.counters[PortCounter::SentBytes] = Some(70);
    down.counters[PortCounter::CarrierDowns] = Some(1);
    down.ages_ns[Source::Interface] = Some(0);
    HostNow {
        at: Timestamp::from_nanos((second + 10) * SECOND),
        ports: vec![rdma, down],
        lines: vec!["eth1: its driver cannot be asked".into()],
        ..HostNow::default()
    }
}

/// Two processes, of which one has ended; one link's path has been fenced in the third second.
fn snapshots() -> Vec<Snapshot> {
    let snapshot = |second: u64| {
        let mut paths = vec![
            path(0, second, 900, 80),
            path(1, second, 450, 160),
            path(2, second, 0, 80),
        ];
        paths[2].gauges[PathGauge::State] = if second < 3 { 3 } else { 4 };
        paths[2].counters[PathCounter::Fences] = u64::from(second >= 3);
        paths[2].counters[PathCounter::Replays] = if second >= 3 { 12 } else { 0 };
        let mut waits = link(5, "10.0.0.3:40001", Role::Receiver, second, vec![]);
        waits.counters[LinkCounter::NetworkTime] = 0;
        waits.counters[LinkCounter::SenderTime] = second * SECOND * 2;
        let fenced = Event::PathFenced {
            reason: FenceReason::Silent,
            silent_ns: 84_000_000,
            frames: 12,
        };
        let events = if second == 3 {
            vec![
                happened(second, 2, Some(2), fenced),
                happened(second, 2, Some(2), Event::PathReplayed { frames: 12 }),
            ]
        } else {
            Vec::new()
        };
        let mut trainer = link(2, "10.0.0.2:40001", Role::Sender, second, paths);
        let large = || made::messages(second * 100, 4 << 20, 2_300_000);
        let small = made::messages(second * 20, 8 << 10, 90_000);
        trainer.connections = vec![made::connection(0, large()), made::connection(7, small)];
        let mut trainer = made::watched(4711, "trainer", BEGIN, vec![trainer, waits]);
        trainer.process.devices = vec![made::total("mlx5_0", large())];
        trainer.process.classes = vec![made::total("collective", large())];
        trainer.events = events;
        let ended = link(2, "10.0.0.9:40001", Role::Sender, 1, vec![]);
        let mut old = made::watched(99, "old", BEGIN, vec![ended]);
        old.process.is_alive = false;
        Snapshot {
            host: Some(host(second)),
            ..made::snapshot(BEGIN + second * SECOND, vec![trainer, old])
        }
    };
    (0..5).map(snapshot).collect()
}

fn screen(app: &App, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw(app, "thalweg top", frame))
        .unwrap();
    let text = terminal.backend().to_string();
    let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn press(app: &mut App, keys: &[KeyCode]) {
    for &key in keys {
        assert_eq!(app.key(KeyEvent::from(key)), Asked::Nothing);
    }
}

fn watched() -> App {
    let mut app = App::new();
    assert_eq!(show(&mut app, &snapshots(), None, 3), 3);
    app
}

#[test]
fn screens_look_as_they_did() {
    let mut text = String::new();
    let mut add = |name: &str, app: &App, size: (u16, u16)| {
        let screen = screen(app, size);
        writeln!(text, "=== {name}, {} x {}\n{screen}", size.0, size.1).unwrap();
    };
    let mut app = watched();
    for size in [(80, 24), (40, 12), (160, 20)] {
        add("links", &app, size);
    }
    press(&mut app, &[KeyCode::Enter]);
    assert!(matches!(app.view, View::Paths(_)));
    for size in [(80, 24), (40, 12)] {
        add("paths", &app, size);
    }
    press(&mut app, &[KeyCode::Enter]);
    assert!(matches!(app.view, View::Path(_, 0)));
    for size in [(80, 24), (40, 12)] {
        add("path", &app, size);
    }
    press(&mut app, &[KeyCode::Char('?')]);
    add("help", &app, (80, 24));
    press(&mut app, &[KeyCode::Char('x'), KeyCode::Char('m')]);
    assert!(matches!(app.view, View::Messages(Some(_))));
    for size in [(80, 12), (40, 12)] {
        add("connections", &app, size);
    }
    press(&mut app, &[KeyCode::Esc, KeyCode::Esc, KeyCode::Char('m')]);
    assert_eq!(app.view, View::Messages(None));
    for size in [(80, 12), (40, 12)] {
        add("messages", &app, size);
    }
    press(&mut app, &[KeyCode::Char('n')]);
    assert_eq!(app.view, View::Ports);
    for size in [(80, 24), (40, 12), (160, 20)] {
        add("ports", &app, size);
    }
    press(&mut app, &[KeyCode::Enter]);
    assert_eq!(app.view, View::Port);
    for size in [(80, 38), (40, 12)] {
        add("port", &app, size);
    }
    press(&mut app, &[KeyCode::Char('?')]);
    add("help of ports", &app, (80, 24));
    add("before the first look", &App::new(), (80, 6));

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/top.txt");
    if std::env::var_os("THALWEG_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        text == expected,
        "THALWEG_BLESS=1 cargo test --lib top writes it:\n{text}"
    );
}

#[test]
fn any_size_is_drawn() {
    let mut app = watched();
    for _ in 0..3 {
        for width in [1, 2, 7, 20, 39, 41, 300] {
            for height in [1, 2, 3, 5, 15, 16, 17, 60] {
                screen(&app, (width, height));
            }
        }
        press(&mut app, &[KeyCode::Enter]);
    }
    press(&mut app, &[KeyCode::Esc, KeyCode::Esc, KeyCode::Char('m')]);
    for _ in 0..2 {
        for width in [1, 2, 7, 20, 39, 41, 300] {
            for height in [1, 2, 3, 5, 15, 16, 17, 60] {
                screen(&app, (width, height));
            }
        }
        press(
            &mut app,
            &[KeyCode::Esc, KeyCode::Enter, KeyCode::Char('m')],
        );
    }
    press(&mut app, &[KeyCode::Char('n')]);
    for _ in 0..2 {
        for width in [1, 2, 7, 20, 39, 41, 300] {
            for height in [1, 2, 3, 5, 15, 16, 17, 60] {
                screen(&app, (width, height));
            }
        }
        press(&mut app, &[KeyCode::Enter]);
    }
}

#[test]
fn ports_are_found_sorted_and_looked_into() {
    let mut app = watched();
    assert!(!app.has_asked_for_ports);
    press(&mut app, &[KeyCode::Char('n')]);
    assert!(app.has_asked_for_ports);
    let names = |app: &App| -> Vec<String> {
        let ports = app.ports_shown();
        ports.iter().map(|port| port.now.name.clone()).collect()
    };
    assert_eq!(names(&app), ["mlx5_0:1", "eth1"]);
    press(&mut app, &[KeyCode::Char('r')]);
    assert_eq!(names(&app), ["eth1", "mlx5_0:1"]);
    let eth0 = ['/', 'e', 't', 'h', '0'].map(KeyCode::Char);
    press(&mut app, &eth0);
    assert_eq!(names(&app), ["mlx5_0:1"]);
    press(&mut app, &[KeyCode::Enter, KeyCode::Enter]);
    assert_eq!(app.port().unwrap().now.name, "mlx5_0:1");
    // Lines are gone through, and not beyond the last.
    press(&mut app, &[KeyCode::End]);
    let last = app.selected();
    assert_eq!(last + 1, app.port().unwrap().lines().len());
    press(&mut app, &[KeyCode::Down]);
    assert_eq!(app.selected(), last);
    press(&mut app, &[KeyCode::Esc]);
    assert_eq!(app.view, View::Ports);
    press(&mut app, &[KeyCode::Enter]);
    let mut without = snapshots()[4].clone();
    without.host = Some(HostNow::default());
    app.take(without.since(&without));
    assert_eq!(app.view, View::Ports, "the port has gone");
    press(&mut app, &[KeyCode::Char('n')]);
    assert_eq!(app.view, View::Links);
}

#[test]
fn what_was_not_read_again_is_told_again_and_counted_once() {
    let mut app = watched();
    press(&mut app, &[KeyCode::Char('n'), KeyCode::Enter]);
    let paused = |app: &App| {
        let port = app.port().unwrap();
        [&port.now, &port.all].map(|port| port.counters[PortCounter::PausesReceived])
    };
    // The driver was read in seconds 0, 2 and 4.
    assert_eq!(paused(&app), [Some(40), Some(40)]);
    assert_eq!(show(&mut app, &snapshots(), Some(3), 4), 4);
    assert_eq!(paused(&app), [Some(40), Some(80)]);
    let priority = &app.port().unwrap().now.priorities[3];
    assert_eq!(priority[PriorityCounter::PausesReceived], Some(40));
    assert_eq!(show(&mut app, &snapshots(), Some(4), 2), 2);
    assert_eq!(paused(&app), [Some(40), Some(40)]);
}

#[test]
fn what_is_not_read_yet_is_said() {
    let mut snapshots = snapshots();
    let mut app = App::new();
    press(&mut app, &[KeyCode::Char('n')]);
    assert!(screen(&app, (80, 24)).contains("looking"));
    for snapshot in &mut snapshots {
        snapshot.host = None;
    }
    show(&mut app, &snapshots, None, 1);
    assert!(screen(&app, (80, 24)).contains("nothing is known of this host's ports yet"));
    assert_eq!(app.view, View::Ports);
}

#[test]
fn numbers_fit_their_columns() {
    let counts = [
        None,
        Some(9999),
        Some(10_000),
        Some(999_999),
        Some(u64::MAX),
    ]
    .map(short);
    assert_eq!(counts, ["–", "9999", "10k", "999k", "18E"]);
    let second = SECOND;
    let times = [
        0,
        second,
        10 * second,
        600 * second,
        35_999 * second,
        36_000 * second,
    ];
    let told = times.map(age);
    assert_eq!(told, ["0ms", "1.0s", "10s", "10m", "599m", "10h"]);
}

#[test]
fn keys_sort_filter_and_hold() {
    let mut app = watched();
    let peers = |app: &App| -> Vec<String> {
        let links = app.links_shown();
        links.iter().map(|link| link.peer.clone()).collect()
    };
    let all = ["10.0.0.2:40001", "10.0.0.3:40001", "10.0.0.9:40001"];
    assert_eq!(peers(&app), all);
    press(&mut app, &[KeyCode::Char('s'); 3]);
    press(&mut app, &[KeyCode::Char('r')]);
    let reversed: Vec<_> = all.iter().rev().copied().collect();
    assert_eq!(peers(&app), reversed);
    press(
        &mut app,
        &[KeyCode::Char('/'), KeyCode::Char('.'), KeyCode::Char('9')],
    );
    assert_eq!(peers(&app), ["10.0.0.9:40001"]);
    press(&mut app, &[KeyCode::Esc]);
    assert_eq!(peers(&app).len(), 3);
    press(&mut app, &[KeyCode::Char('p')]);
    assert!(app.is_paused);
    assert_eq!(app.key(KeyEvent::from(KeyCode::Left)), Asked::Step(-1));
    assert_eq!(app.key(KeyEvent::from(KeyCode::Char('q'))), Asked::Quit);
}

#[test]
fn a_link_that_goes_away_is_left_and_a_step_back_shows_what_was() {
    let snapshots = snapshots();
    let mut app = watched();
    press(&mut app, &[KeyCode::Enter, KeyCode::Enter]);
    assert_eq!(app.points().unwrap().len(), 3);
    assert_eq!(show(&mut app, &snapshots, Some(3), 2), 2);
    assert_eq!(app.points().unwrap().len(), 2);
    assert!(app.events.is_empty(), "they come later");
    assert_eq!(show(&mut app, &snapshots, Some(2), 99), 4);
    assert_eq!(app.points().unwrap().len(), 4);
    assert_eq!(app.events.len(), 2);
    let mut without = snapshots[4].clone();
    without.processes.clear();
    app.take(without.since(&snapshots[4]));
    assert_eq!(app.view, View::Links);
    assert!(screen(&app, (80, 24)).contains("no process has a link"));
}
