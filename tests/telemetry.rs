//! What a session records, seen from outside while it runs and after it has ended.

#![allow(unsafe_code, reason = "requests name memory by address")]
#![allow(clippy::unwrap_used, clippy::similar_names, reason = "a test")]

mod common;

use std::cell::Cell;
use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{connect, until};
use thalweg::clock::Timestamp;
use thalweg::config::Config;
use thalweg::session::{MemoryKeys, RecvBuffer, Session};
use thalweg::telemetry::event::{Event, FenceReason};
use thalweg::telemetry::reader::{self, Events, Happened, Messages, Process, Total, Watcher};
use thalweg::telemetry::schema::{
    LinkCounter, LinkGauge, MessageCounter, MessageHistogram, PathCounter, PathGauge,
};
use thalweg::telemetry::values::Values;
use thalweg::telemetry::verdict::{self, Cause, Finding, Subject};
use thalweg::telemetry::{Recorder, Role};
use thalweg::units::Nanos;

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("thalweg-test-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn processes(&self) -> Vec<Process> {
        self.watcher()
            .readers()
            .iter()
            .map(reader::Reader::read)
            .collect()
    }

    fn watcher(&self) -> Watcher {
        let mut watcher = Watcher::new(&self.0);
        assert_eq!(watcher.look().unwrap(), [""; 0]);
        watcher
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        entries.map(Result::unwrap).map(name).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn session(folder: &Path) -> Session {
    let settings = [
        ("THALWEG_IFNAME", "=lo"),
        ("THALWEG_FAMILY", "ipv4"),
        ("THALWEG_PATHS", "2"),
        ("THALWEG_PATH_SEARCH", "off"),
        ("THALWEG_TRANSPORT", "tcp"),
        ("THALWEG_SHM_DIR", folder.to_str().unwrap()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_sources(settings, None).unwrap();
    Session::open_with(config, Arc::new(|_, line: &str| println!("{line}"))).unwrap()
}

#[test]
fn links_and_paths_are_seen_while_they_are_there() {
    let folder = Folder::new();
    let (near, far) = (session(&folder.0), session(&folder.0));
    assert_eq!(folder.processes().len(), 2, "a segment for each session");
    let (listener, handle) = far.listen(0).unwrap();
    let (send, recv) = connect(&near, &listener, &handle);
    let (data, mut buffer) = (vec![7u8; 1 << 20], vec![0u8; 1 << 20]);
    let count = Cell::new(0u64);
    let mut transfer = || {
        count.set(count.get() + 1);
        let buffers = [RecvBuffer {
            data: buffer.as_mut_ptr(),
            len: buffer.len(),
            tag: 1,
            keys: MemoryKeys::default(),
        }];
        // SAFETY: both stay until the requests have ended.
        let (r, s) = unsafe {
            let r = recv.irecv(&buffers).unwrap().unwrap();
            (
                r,
                send.isend(data.as_ptr(), data.len(), 1, MemoryKeys::default())
                    .unwrap()
                    .unwrap(),
            )
        };
        // SAFETY: it is not asked again once it has ended.
        until("sent", || unsafe { s.test() }.unwrap());
        // SAFETY: as above.
        until("received", || unsafe { r.test() }.unwrap());
    };
    transfer();
    let link = until("both paths used", || {
        transfer();
        let links = folder
            .processes()
            .into_iter()
            .flat_map(|process| process.links);
        let sender = links.into_iter().find(|link| link.role == Role::Sender)?;
        let is_whole = sender.gauges[LinkGauge::ActivePaths] == 2
            && sender.counters[LinkCounter::Messages] >= 2;
        is_whole.then_some(sender)
    });
    assert!(link.peer.starts_with("127.0.0.1:"), "{}", link.peer);
    let messages = link.counters[LinkCounter::Messages];
    assert_eq!(link.counters[LinkCounter::MessageBytes], messages << 20);
    assert!(link.gauges[LinkGauge::Window] > 0);
    let numbers: Vec<_> = link.paths.iter().map(|path| path.number).collect();
    assert_eq!(numbers, [0, 1]);
    for path in &link.paths {
        assert_eq!(path.gauges[PathGauge::State], 3);
        assert_eq!(path.ends.matches("127.0.0.1:").count(), 2, "{}", path.ends);
    }
    let sent = |path: &reader::PathNow| path.counters[PathCounter::SentBytes];
    assert!(link.paths.iter().map(sent).sum::<u64>() >= messages << 20);
    until("the last word, while nobody drives", || {
        let links = folder
            .processes()
            .into_iter()
            .flat_map(|process| process.links);
        let sender = links.into_iter().find(|link| link.role == Role::Sender)?;
        let is_idle = sender.gauges[LinkGauge::InFlight] == 0;
        let messages = sender.counters[LinkCounter::Messages];
        (is_idle && messages == count.get()).then_some(())
    });
    let waits = [
        LinkCounter::IdleTime,
        LinkCounter::CreditTime,
        LinkCounter::GrantTime,
        LinkCounter::NetworkTime,
        LinkCounter::AckTime,
        LinkCounter::HostTime,
    ];
    let started = link.counters.clone();
    thread::sleep(Duration::from_millis(1500));
    let waited = folder.processes();
    let links = waited.into_iter().flat_map(|process| process.links);
    let sender = links.into_iter().find(|l| l.role == Role::Sender).unwrap();
    let of = |wait| sender.counters[wait] - started[wait];
    let all: u64 = waits.into_iter().map(of).sum();
    assert!(all >= 500_000_000, "{all} ns");
    assert!(of(LinkCounter::IdleTime) > all / 2);
    let mut watcher = folder.watcher();
    let readers = watcher.readers().iter_mut();
    let events: Vec<_> = readers.flat_map(|r| r.events().events).collect();
    for path in [0, 1] {
        for kind in ["path-up", "path-joined"] {
            let is_it = |e: &Happened| e.path == Some(path) && e.event.name() == kind;
            assert!(events.iter().any(is_it), "{kind} of {path}: {events:?}");
        }
    }
    assert!(events.iter().any(|e| e.event.name() == "chunk"));
    let links = folder.processes().into_iter().flat_map(|p| p.links);
    let receiver = links.into_iter().find(|l| l.role == Role::Receiver);
    let receiver = receiver.unwrap();
    assert_eq!(receiver.counters[LinkCounter::Messages], count.get());
    assert_eq!(
        receiver.counters[LinkCounter::MessageBytes],
        count.get() << 20
    );
    let received = |path: &reader::PathNow| path.counters[PathCounter::ReceivedBytes];
    let all: u64 = receiver.paths.iter().map(received).sum();
    assert_eq!(all, count.get() << 20);
    for path in &receiver.paths {
        assert_eq!(path.gauges[PathGauge::State], 3);
        assert_eq!(path.ends.matches("127.0.0.1:").count(), 2, "{}", path.ends);
    }
    for link in [&sender, &receiver] {
        has_counted(link, count.get());
    }
    // A total stays what it was when its connections are gone.
    drop((send, recv));
    let processes = until("connections gone", || {
        let processes = folder.processes();
        let mut links = processes.iter().flat_map(|process| &process.links);
        let is_gone = links.all(|link| link.connections.is_empty());
        is_gone.then_some(processes)
    });
    for role in [Role::Sender, Role::Receiver] {
        let of = |totals: fn(&Process) -> &Vec<Total>| {
            let mut all = processes.iter().flat_map(totals);
            let total = all.find(|total| total.role == role).unwrap();
            (total.name.clone(), told(&total.messages))
        };
        let counted = [count.get(), count.get(), count.get() << 20, 0];
        assert_eq!(of(|process| &process.devices), ("lo".into(), counted));
        let class = of(|process| &process.classes);
        assert_eq!(class, ("collective".into(), counted));
    }
    drop(listener);
    drop((near, far));
    assert_eq!(folder.files(), [""; 0], "nothing is left behind");
}

/// The one connection of a link has had so many messages, of 1 MiB each.
fn has_counted(link: &reader::Link, count: u64) {
    let [connection] = &link.connections[..] else {
        panic!("one is open: {:?}", link.connections);
    };
    assert_eq!(told(&connection.messages), [count, count, count << 20, 0]);
    let times = &connection.messages.histograms[MessageHistogram::Time];
    assert!(times.quantile(500) > Some(1000), "{link:?}");
}

/// How many messages were asked for, and ended well; their bytes; and how many failed.
fn told(messages: &Messages) -> [u64; 4] {
    let sizes = &messages.histograms[MessageHistogram::Size];
    let (count, bytes) = (sizes.count(), sizes.sum);
    let counter = |counter| messages.counters[counter];
    assert_eq!(counter(MessageCounter::Messages), count);
    assert_eq!(counter(MessageCounter::Bytes), bytes);
    let (requested, failed) = (MessageCounter::Requested, MessageCounter::Failures);
    [counter(requested), count, bytes, counter(failed)]
}

#[test]
fn a_receiver_that_posts_late_is_told_at_both_ends() {
    let folder = Folder::new();
    let (near, far) = (session(&folder.0), session(&folder.0));
    let (listener, handle) = far.listen(0).unwrap();
    let (send, recv) = connect(&near, &listener, &handle);
    let (data, mut buffer) = (vec![7u8; 1 << 18], vec![0u8; 1 << 18]);
    let mut watcher = folder.watcher();
    let (before, _) = watcher.snapshot().unwrap();
    for _ in 0..20 {
        // SAFETY: it stays until the request has ended.
        let s = unsafe { send.isend(data.as_ptr(), data.len(), 1, MemoryKeys::default()) };
        let s = s.unwrap().unwrap();
        let late = Instant::now() + Duration::from_millis(25);
        while Instant::now() < late {
            // SAFETY: it cannot have ended: nobody receives.
            assert_eq!(unsafe { s.test() }.unwrap(), None);
            thread::yield_now();
        }
        let buffers = [RecvBuffer {
            data: buffer.as_mut_ptr(),
            len: buffer.len(),
            tag: 1,
            keys: MemoryKeys::default(),
        }];
        // SAFETY: it stays until the request has ended.
        let r = unsafe { recv.irecv(&buffers).unwrap().unwrap() };
        // SAFETY: it is not asked again once it has ended.
        until("received", || unsafe { r.test() }.unwrap());
        // SAFETY: as above.
        until("sent", || unsafe { s.test() }.unwrap());
    }
    let (after, _) = watcher.snapshot().unwrap();
    let findings = verdict::explain(&after.since(&before)).findings;
    let told = |finding: &Finding| match finding.subject {
        Subject::Link { role, .. } => Some((role, finding.cause)),
        Subject::Port { .. } | Subject::Host { .. } => None,
    };
    let causes: Vec<_> = findings.iter().filter_map(told).collect();
    let late = Cause::ReceiverLate;
    assert_eq!(
        causes,
        [(Role::Sender, late), (Role::Receiver, late)],
        "{findings:?}"
    );
}

#[test]
fn a_place_is_used_again_and_tells_nothing_of_before() {
    let folder = Folder::new();
    let (recorder, line) = Recorder::open(&folder.0).unwrap();
    assert_eq!(line, None);
    let link = recorder.link(Role::Sender, "one", "eth0").unwrap();
    let path = link.path(3).unwrap();
    link.count(LinkCounter::Messages, 5);
    path.name("a b");
    path.count(PathCounter::SentBytes, 7);
    let before = &folder.processes()[0].links[0].clone();
    assert_eq!(
        (before.peer.as_str(), before.counters[LinkCounter::Messages]),
        ("one", 5)
    );
    assert_eq!(
        (before.paths[0].number, before.paths[0].ends.as_str()),
        (3, "a b")
    );
    drop((link, path));
    assert_eq!(folder.processes()[0].links, []);
    let link = recorder.link(Role::Receiver, "two", "eth0").unwrap();
    let _path = link.path(1).unwrap();
    let after = &folder.processes()[0].links[0].clone();
    assert_ne!(after.id, before.id);
    assert_eq!(
        (after.peer.as_str(), after.counters[LinkCounter::Messages]),
        ("two", 0)
    );
    let path = &after.paths[0];
    assert_eq!(
        (path.number, path.ends.as_str(), &path.counters),
        (1, "", &Values::default())
    );
}

#[test]
fn a_total_has_what_all_connections_had_and_stays() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let link = |peer, device| recorder.link(Role::Sender, peer, device).unwrap();
    let links = [link("a", "eth0"), link("b", "eth0"), link("c", "eth1")];
    let connections = links
        .each_ref()
        .map(|link| link.connection(7, "bulk").unwrap());
    thread::scope(|scope| {
        for connection in &connections {
            scope.spawn(|| {
                for bytes in 1..=1000 {
                    connection.requested();
                    connection.ended(bytes, Nanos(bytes * 10));
                }
                connection.requested();
                connection.failed();
            });
        }
    });
    let process = &folder.processes()[0];
    let one = [1001, 1000, 500_500, 1];
    let twice = one.map(|counted| counted * 2);
    for link in &process.links {
        assert_eq!(link.connections[0].number, 7);
        assert_eq!(told(&link.connections[0].messages), one);
    }
    let totals = |of: &[Total]| -> Vec<_> {
        let total = |total: &Total| (total.name.clone(), told(&total.messages));
        of.iter().map(total).collect()
    };
    let devices = [("eth0".to_owned(), twice), ("eth1".to_owned(), one)];
    assert_eq!(totals(&process.devices), devices);
    let thrice = one.map(|counted| counted * 3);
    assert_eq!(totals(&process.classes), [("bulk".to_owned(), thrice)]);
    drop((connections, links));
    let link = recorder.link(Role::Sender, "d", "eth0").unwrap();
    let connection = link.connection(1, "bulk").unwrap();
    let process = &folder.processes()[0];
    assert_eq!(told(&process.links[0].connections[0].messages), [0; 4]);
    assert_eq!(totals(&process.devices), devices, "places are kept");
    // More names than there are places: what has none is counted for the connection alone.
    let more: Vec<_> = (0..80)
        .map(|n| {
            recorder
                .link(Role::Receiver, "e", &format!("eth{n}"))
                .unwrap()
        })
        .collect();
    let last = more[79].connection(1, "bulk").unwrap();
    last.requested();
    let process = &folder.processes()[0];
    assert_eq!(process.devices.len() + process.classes.len(), 64);
    let asked = |link: &reader::Link| told(&link.connections[0].messages)[0];
    let with_one = process
        .links
        .iter()
        .filter(|link| !link.connections.is_empty());
    assert_eq!(with_one.map(asked).collect::<Vec<_>>(), [0, 1]);
    drop((connection, link));
}

#[test]
fn places_run_out_and_nothing_else_happens() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let links: Vec<_> = (0..2048)
        .filter_map(|_| recorder.link(Role::Sender, "x", "eth0"))
        .collect();
    assert_eq!(links.len(), 2048);
    assert_eq!(folder.processes()[0].links.len(), 2048);
    assert_eq!(recorder.shortage(), None);
    assert!(recorder.link(Role::Sender, "x", "eth0").is_none());
    assert!(recorder.shortage().unwrap().contains("2048 links"));
    drop(links);
    assert!(recorder.link(Role::Sender, "y", "eth0").is_some());
}

#[test]
fn files_that_are_no_segments_of_this_release_get_a_line_each() {
    let folder = Folder::new();
    let (_recorder, _) = Recorder::open(&folder.0).unwrap();
    let segment = fs::File::open(folder.0.join(&folder.files()[0])).unwrap();
    let whole = segment.metadata().unwrap().len();
    let mut head = Vec::new();
    segment.take(4096).read_to_end(&mut head).unwrap();
    // A file that begins so and is so long.
    let put = |name: &str, bytes: &[u8], len: u64| {
        let path = folder.0.join(name);
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(len).unwrap();
    };
    put("thalweg-1-short", b"words", 5);
    put("thalweg-2-words", &[b'x'; 4096], whole);
    let mut newer = head.clone();
    newer[8] = 99;
    put("thalweg-3-newer", &newer, whole);
    put("thalweg-4-cut", &head, whole / 2);
    put("another", b"not ours", 8);
    mkfifo(&folder.0.join("thalweg-5-0123456789abcdef"));
    std::os::unix::fs::symlink(
        "thalweg-1-short",
        folder.0.join("thalweg-6-0123456789abcdef"),
    )
    .unwrap();
    let mut watcher = Watcher::new(&folder.0);
    let lines = watcher.look().unwrap();
    assert_eq!(watcher.readers().len(), 1);
    for (name, says) in [
        ("thalweg-1-short", "too few"),
        ("thalweg-2-words", "no segment"),
        ("thalweg-3-newer", "another release"),
        ("thalweg-4-cut", "its end is missing"),
        ("thalweg-5-0123456789abcdef", "no plain file"),
        ("thalweg-6-0123456789abcdef", "symbolic link"),
    ] {
        let is_said = |line: &String| line.contains(name) && line.contains(says);
        assert!(lines.iter().any(is_said), "{name}: {lines:?}");
    }
    assert_eq!(lines.len(), 6);
    assert_eq!(watcher.look().unwrap(), [""; 0], "each is said once");
    put("thalweg-4-cut", &head, 8);
    let lines = watcher.look().unwrap();
    assert!(
        matches!(&lines[..], [line] if line.contains("too few")),
        "{lines:?}"
    );
    // One that is cut off under its reader's hands.
    let own = folder.files();
    let process = std::process::id().to_string();
    let own = own.iter().find(|name| name.contains(&process)).unwrap();
    let file = fs::File::options().write(true).open(folder.0.join(own));
    file.unwrap().set_len(4096).unwrap();
    let lines = watcher.look().unwrap();
    assert!(
        matches!(&lines[..], [line] if line.contains("its end is missing")),
        "{lines:?}"
    );
    assert!(watcher.readers().is_empty());
    // Whoever begins next waits for none of them, and removes none but segments.
    let before = folder.files().len();
    let _next = Recorder::open(&folder.0).unwrap();
    assert_eq!(folder.files().len(), before + 1);
}

fn mkfifo(path: &Path) {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path ends with 0.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o666) }, 0);
}

/// What a process did just before it closed is read; then it is gone.
#[test]
fn the_last_events_of_a_process_that_closes_are_seen() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let mut watcher = folder.watcher();
    assert_eq!(watcher.readers().len(), 1);
    let link = recorder.link(Role::Sender, "10.0.0.1:7", "eth0").unwrap();
    link.event(None, Event::LinkFailed { sends: 2 }, Timestamp::now());
    drop((link, recorder));
    assert_eq!(watcher.look().unwrap(), [""; 0]);
    let [reader] = watcher.readers() else {
        panic!("once more")
    };
    assert!(!reader.read().is_alive);
    let events = reader.events().events;
    assert!(matches!(
        events[..],
        [Happened {
            event: Event::LinkFailed { sends: 2 },
            ..
        }]
    ));
    watcher.look().unwrap();
    assert!(watcher.readers().is_empty());
}

/// As loaders of data are forked, and may outlive a trainer that is killed.
#[test]
fn a_process_that_was_forked_does_not_keep_its_parent_alive() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let mut watcher = folder.watcher();
    let (mut told, tell) = std::io::pipe().unwrap();
    // SAFETY: the new process calls only what a signal handler may.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above; a pipe's end that is open, and one byte.
        unsafe {
            libc::write(tell.as_raw_fd(), [1u8].as_ptr().cast(), 1);
            libc::sleep(60);
            libc::_exit(0);
        }
    }
    told.read_exact(&mut [0]).unwrap();
    assert!(watcher.readers()[0].read().is_alive);
    drop(recorder);
    let is_alive = watcher.readers()[0].read().is_alive;
    // SAFETY: our child, that nobody has waited for.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    assert!(!is_alive);
}

#[test]
fn what_happens_is_told_in_order_and_once_and_what_was_missed_is_counted() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let mut watcher = folder.watcher();
    let reader = &mut watcher.readers()[0];
    assert_eq!(reader.events(), Events::default());
    let link = recorder.link(Role::Sender, "10.0.0.1:7", "eth0").unwrap();
    let sample = Event::Chunk {
        delay_ns: 1,
        queue_ns: 0,
        in_flight_bytes: 2,
        window_bytes: 3,
    };
    let fenced = Event::PathFenced {
        reason: FenceReason::Silent,
        silent_ns: 84_000_000,
        frames: 3,
    };
    let before = Timestamp::now();
    link.event(Some(2), fenced, before + Nanos(2));
    link.event(Some(2), sample, before + Nanos(1));
    link.event(None, Event::LinkFailed { sends: 0 }, before + Nanos(3));
    drop(link);
    let found = reader.events();
    let told: Vec<_> = found.events.iter().map(|e| (e.path, e.event)).collect();
    let failed = (None, Event::LinkFailed { sends: 0 });
    assert_eq!(told, [(Some(2), sample), (Some(2), fenced), failed]);
    for event in &found.events {
        assert_eq!(event.role, Role::Sender);
        assert_eq!(event.peer, "10.0.0.1:7", "although the link has gone");
    }
    assert_eq!(
        fenced.to_string(),
        "fenced: nothing acknowledged for 84 ms while another path lived; 3 frames outstanding"
    );
    assert_eq!(reader.events(), Events::default());

    let link = recorder.link(Role::Receiver, "another", "eth0").unwrap();
    let count = 10_000;
    for sends in 0..count {
        link.event(None, Event::LinkFailed { sends }, before);
    }
    let found = reader.events();
    assert_eq!(found.events.len() as u64 + found.missed, count);
    assert!(found.missed > 0);
    let last = found.events.last().unwrap();
    assert_eq!(last.event, Event::LinkFailed { sends: count - 1 });
    assert_eq!((last.role, last.peer.as_str()), (Role::Receiver, "another"));
}

#[test]
fn events_are_written_down_and_read_again_and_later_kinds_are_passed_over() {
    let text = r#"{"wall_ns":5,"link":2,"role":"sender","peer":"p","path":1,
        "event":"path-fenced","reason":"silent","silent_ns":7,"frames":3}"#;
    let event: Happened = serde_json::from_str(text).unwrap();
    let fenced = Event::PathFenced {
        reason: FenceReason::Silent,
        silent_ns: 7,
        frames: 3,
    };
    assert_eq!(event.event, fenced);
    let text = serde_json::to_string(&event).unwrap();
    assert_eq!(serde_json::from_str::<Happened>(&text).unwrap(), event);
    let later = text.replace("silent\"", "eclipse\"");
    let event: Happened = serde_json::from_str(&later).unwrap();
    let unknown = FenceReason::Unknown;
    assert!(matches!(event.event, Event::PathFenced { reason, .. } if reason == unknown));
    let later = text.replace("path-fenced", "path-painted");
    let event: Happened = serde_json::from_str(&later).unwrap();
    assert_eq!(event.event, Event::Unknown);
}

#[test]
fn a_folder_that_cannot_be_used_is_named_and_the_session_goes_on() {
    let folder = Folder::new();
    let file = folder.0.join("file");
    fs::write(&file, "").unwrap();
    let (recorder, line) = Recorder::open(&file).unwrap();
    let line = line.unwrap();
    assert!(
        line.contains("THALWEG_SHM_DIR") && line.contains("file"),
        "{line}"
    );
    let link = recorder.link(Role::Sender, "x", "eth0").unwrap();
    link.count(LinkCounter::Messages, 1);
    let made = folder.0.join("made");
    let (_recorder, line) = Recorder::open(&made).unwrap();
    assert_eq!(line, None);
    let mut watcher = Watcher::new(&made);
    assert_eq!(watcher.look().unwrap(), [""; 0]);
    assert_eq!(watcher.readers().len(), 1);
}

/// The process of the next test: it has memory for two sessions, and none for what they would record.
#[test]
#[ignore = "run by without_memory_to_record_in_a_session_works"]
fn transfer_without_memory_to_record_in() {
    let folder = PathBuf::from(std::env::var("THALWEG_TEST_FOLDER").unwrap());
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find(|line| line.starts_with("VmSize:"));
    let kib = size.unwrap().split_whitespace().nth(1).unwrap();
    let size = kib.parse::<u64>().unwrap() << 10;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is whole, and ours.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
    assert_eq!(asked, 0);
    // SAFETY: the structure is whole, and only this process is limited.
    let set = |limit: &libc::rlimit| unsafe { libc::setrlimit(libc::RLIMIT_AS, limit) };
    let before = limit.rlim_cur;
    // A session's thread has a stack of 2 MiB; a segment takes far more.
    limit.rlim_cur = size + (12 << 20);
    assert_eq!(set(&limit), 0);
    let sessions = (session(&folder), session(&folder));
    limit.rlim_cur = before;
    assert_eq!(set(&limit), 0);
    let (listener, handle) = sessions.1.listen(0).unwrap();
    let (send, recv) = connect(&sessions.0, &listener, &handle);
    let (data, mut buffer) = (vec![7u8; 1 << 18], vec![0u8; 1 << 18]);
    let buffers = [RecvBuffer {
        data: buffer.as_mut_ptr(),
        len: buffer.len(),
        tag: 1,
        keys: MemoryKeys::default(),
    }];
    // SAFETY: both stay until the requests have ended.
    let r = unsafe { recv.irecv(&buffers) }.unwrap().unwrap();
    // SAFETY: as above.
    let s = unsafe { send.isend(data.as_ptr(), data.len(), 1, MemoryKeys::default()) };
    let s = s.unwrap().unwrap();
    // SAFETY: they are not asked again once they have ended.
    until("sent", || unsafe { s.test() }.unwrap());
    // SAFETY: as above.
    until("received", || unsafe { r.test() }.unwrap());
    assert_eq!(data, buffer);
}

#[test]
fn without_memory_to_record_in_a_session_works() {
    let folder = Folder::new();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("transfer_without_memory_to_record_in")
        .env("THALWEG_TEST_FOLDER", &folder.0)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let line = "nothing is recorded: no memory for telemetry: ";
    assert_eq!(said.matches(line).count(), 2, "{said}");
    assert_eq!(folder.files(), [""; 0]);
}

#[test]
fn a_folder_that_is_not_there_yet_is_an_empty_one() {
    let folder = Folder::new();
    let later = folder.0.join("later");
    let mut watcher = Watcher::new(&later);
    assert_eq!(watcher.look().unwrap(), [""; 0]);
    assert!(watcher.missing().unwrap().contains("later: there is no"));
    for arguments in [
        &["paths"][..],
        &["paths", "--json"],
        &["events"],
        &["top", "--json", "--count", "1", "--interval", "50ms"],
        &["record", "--no-host", "--for", "50ms", "run.jsonl"],
        &["explain", "--for", "50ms"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_thalweg"))
            .args(arguments)
            .args(["--folder", "later"])
            .current_dir(&folder.0)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let is_it = said.starts_with("thalweg: later: there is no such folder yet");
        assert!(is_it && said.lines().count() == 1, "{arguments:?}: {said}");
    }
    let recorder = Recorder::open(&later).unwrap();
    assert_eq!(watcher.look().unwrap(), [""; 0]);
    assert_eq!((watcher.readers().len(), watcher.missing()), (1, None));
    drop(recorder);
    fs::remove_dir(&later).unwrap();
    for readers in [1, 0] {
        assert_eq!(watcher.look().unwrap(), [""; 0]);
        assert_eq!(watcher.readers().len(), readers);
    }
    fs::write(&later, "a file").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_thalweg"))
        .args(["paths", "--folder"])
        .arg(&later)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_recording_that_is_interrupted_is_finished() {
    let folder = Folder::new();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // Where tests run in the background it may be ignored, and so it would be by the child.
        // SAFETY: no handler is set.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        let mut child = Command::new(env!("CARGO_BIN_EXE_thalweg"))
            .args(["record", "--no-host", "--interval", "1h", "run.gz"])
            .args(["--folder", "."])
            .current_dir(&folder.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let file = folder.0.join("run.gz");
        // Its head, and the first snapshot.
        until("it records", || {
            (fs::metadata(&file).ok()?.len() > 100).then_some(())
        });
        thread::sleep(Duration::from_millis(50));
        // SAFETY: a child that has not been waited for.
        unsafe { libc::kill(child.id().try_into().unwrap(), signal) };
        let ended = until("it ends", || child.try_wait().unwrap());
        assert!(ended.success(), "{signal}: {ended}");
        let mut said = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(said, "run.gz: 1 snapshots\n");
        // Whole for others too: the checksum is there.
        let test = Command::new("gzip").arg("-t").arg(&file).output().unwrap();
        assert!(test.status.success(), "{test:?}");
        fs::remove_file(&file).unwrap();
    }
}

/// The other process of the next test: records, says so, and waits to be killed.
#[test]
#[ignore = "run by a_process_that_was_killed_is_seen_as_ended_and_cleaned_up"]
fn record_and_wait() {
    let folder = std::env::var("THALWEG_TEST_FOLDER").unwrap();
    let (recorder, _) = Recorder::open(Path::new(&folder)).unwrap();
    let link = recorder.link(Role::Sender, "killed", "eth0").unwrap();
    link.count(LinkCounter::Messages, 3);
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_process_that_was_killed_is_seen_as_ended_and_cleaned_up() {
    let folder = Folder::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "record_and_wait"])
        .env("THALWEG_TEST_FOLDER", &folder.0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let seen = until("it records", || {
        let process = folder.processes().pop()?;
        (process.links.first()?.counters[LinkCounter::Messages] == 3).then_some(process)
    });
    assert!(seen.is_alive);
    assert_eq!(seen.pid, u64::from(child.id()));
    // Another process that begins leaves it alone.
    drop(Recorder::open(&folder.0).unwrap());
    assert_eq!(folder.processes().len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let seen = folder.processes().pop().unwrap();
    assert!(!seen.is_alive);
    assert_eq!(
        (
            seen.links[0].peer.as_str(),
            seen.links[0].counters[LinkCounter::Messages]
        ),
        ("killed", 3)
    );
    drop(Recorder::open(&folder.0).unwrap());
    assert_eq!(folder.files(), [""; 0]);
}
