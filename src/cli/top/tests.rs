//! The screens, as they are drawn: `THALWEG_BLESS=1 cargo test --lib top` writes the snapshots anew. Look at
//! what has changed before it is committed.

use std::fmt::Write;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::app::{App, Asked, View};
use super::draw::draw;
use super::show;
use crate::telemetry::event::{Event, FenceReason};
use crate::telemetry::histogram::{BUCKETS, bucket_of};
use crate::telemetry::reader::{Happened, Link, PathNow};
use crate::telemetry::schema::{LinkCounter, LinkGauge, PathCounter, PathGauge, PathHistogram};
use crate::telemetry::snapshot::Snapshot;
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
        let trainer = link(2, "10.0.0.2:40001", Role::Sender, second, paths);
        let mut trainer = made::watched(4711, "trainer", BEGIN, vec![trainer, waits]);
        trainer.events = events;
        let ended = link(2, "10.0.0.9:40001", Role::Sender, 1, vec![]);
        let mut old = made::watched(99, "old", BEGIN, vec![ended]);
        old.process.is_alive = false;
        made::snapshot(BEGIN + second * SECOND, vec![trainer, old])
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
