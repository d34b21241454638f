//! What recording costs: a counter, a value of a histogram, an event, a message; and what readers pay for a process
//! with many paths. `engine` has a chunk's way, with and without a recorder.

use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, criterion_group, criterion_main};
use thalweg::clock::Timestamp;
use thalweg::telemetry::event::Event;
use thalweg::telemetry::reader::Watcher;
use thalweg::telemetry::schema::{PathCounter, PathHistogram};
use thalweg::telemetry::{LinkRecorder, PathRecorder, Recorder, Role};
use thalweg::units::Nanos;

/// A folder in memory that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("thalweg-bench-{}", std::process::id());
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        Self(parent.join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn link(recorder: &Recorder, paths: u8) -> (LinkRecorder, Vec<PathRecorder>) {
    let link = recorder
        .link(Role::Sender, "127.0.0.1:1", "lo")
        .expect("there is room");
    let path = |number| link.path(number).expect("there is room");
    let paths = (0..paths).map(path).collect();
    (link, paths)
}

fn recorder(c: &mut Criterion) {
    let folder = Folder::new();
    let (recorder, line) = Recorder::open(&folder.0).expect("there is memory");
    assert_eq!(line, None, "the segment is not in memory that is shared");
    let (one, paths) = link(&recorder, 1);
    let path = &paths[0];
    let mut group = c.benchmark_group("recorder");
    let mut value = 0u64;
    group.bench_function("counter", |b| {
        b.iter(|| {
            value = value.wrapping_add(1);
            path.count(PathCounter::SentBytes, black_box(value));
        });
    });
    group.bench_function("histogram value", |b| {
        b.iter(|| {
            value = value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            path.observe(PathHistogram::Delay, black_box(value >> 40));
        });
    });
    let mut now = Timestamp::now();
    group.bench_function("event", |b| {
        b.iter(|| {
            now += Nanos(1);
            let event = Event::Chunk {
                delay_ns: black_box(80_000),
                queue_ns: 1,
                in_flight_bytes: 2,
                window_bytes: 3,
            };
            one.event(Some(3), event, now);
        });
    });
    let connection = one.connection(1, "collective").expect("there is room");
    group.bench_function("message", |b| {
        b.iter(|| {
            value = value.wrapping_add(1);
            connection.requested();
            connection.ended(black_box(4096), Nanos(value & 0xffff));
        });
    });
    group.finish();

    let links: Vec<_> = (0..64).map(|_| link(&recorder, 8)).collect();
    let mut watcher = Watcher::new(&folder.0);
    watcher.look().expect("the folder is there");
    c.bench_function("reader/512 paths", |b| {
        b.iter(|| black_box(watcher.readers()[0].read()));
    });
    drop(links);
}

criterion_group!(benches, recorder);
criterion_main!(benches);
