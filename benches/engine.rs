//! What the engine itself costs: one chunk chosen, given to a path and completed, eight paths.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use thalweg::clock::Timestamp;
use thalweg::control::{AnyController, Delay, DelayConfig, Fixed};
use thalweg::engine::wire::Ack;
use thalweg::engine::wire::{Credit, Frame, Keys, PathCount, encode_ack};
use thalweg::engine::{Completions, EngineConfig, MemRange, Transmit, TxAction, TxEngine};
use thalweg::path::select::{Adaptive, AnySelector, RoundRobin};
use thalweg::telemetry::{Recorder, Role};
use thalweg::units::{Bytes, Nanos};

const PATHS: u8 = 8;
const MESSAGE: u64 = 1 << 30;

struct Bench {
    tx: TxEngine,
    conn: u32,
    ordinal: u32,
    counts: [u32; PATHS as usize],
    epochs: [u16; PATHS as usize],
    now: Timestamp,
}

impl Bench {
    fn new(completions: Completions, selector: AnySelector, controller: AnyController) -> Self {
        let now = Timestamp::from_nanos(1);
        let config = EngineConfig {
            paths_max: PATHS,
            search: false,
            chunk_bytes: Some(32 << 10),
            completions,
            ..EngineConfig::default()
        };
        let mut tx = TxEngine::new(config, controller, selector, now);
        let conn = tx.open(1);
        let mut epochs = [0; PATHS as usize];
        for _ in 0..2 {
            tx.handle_timeout(now);
            while let Some(action) = tx.poll_action() {
                if let TxAction::Dial { path, epoch, .. } = action {
                    epochs[usize::from(path)] = epoch;
                    tx.handle_path_up(path, epoch, None, now);
                }
            }
        }
        let opened = Frame::Opened {
            conn,
            accepted: true,
        };
        tx.handle_frame(0, opened, opened.encode().as_bytes(), now)
            .expect("a valid frame");
        while let Some(transmit) = tx.poll_transmit(now) {
            black_box(transmit);
        }
        let mut bench = Self {
            tx,
            conn,
            ordinal: 0,
            counts: [0; PATHS as usize],
            epochs,
            now,
        };
        bench.message();
        bench
    }

    fn message(&mut self) {
        let ordinal = self.ordinal;
        self.ordinal += 1;
        self.tx.submit(
            self.conn,
            u64::from(ordinal),
            0,
            MemRange {
                addr: 1 << 40,
                len: MESSAGE,
            },
            Keys::default(),
        );
        let credit = Frame::Credit(Credit {
            conn: self.conn,
            tag: 0,
            ordinal,
            slot: 0,
            generation: ordinal,
            capacity: MESSAGE,
            addr: 1 << 41,
            rkeys: Keys::default(),
        });
        self.tx
            .handle_frame(0, credit, credit.encode().as_bytes(), self.now)
            .expect("a valid frame");
    }

    fn next(&mut self) -> u8 {
        loop {
            match self.tx.poll_transmit(self.now) {
                Some(Transmit::Data { path, .. }) => return path,
                Some(_) => {}
                None => {
                    while self.tx.poll_completion().is_some() {}
                    self.message();
                }
            }
        }
    }

    /// As over RoCE: each chunk has a work completion.
    fn by_completion(&mut self) {
        self.now += Nanos(1000);
        let path = self.next();
        let epoch = self.epochs[usize::from(path)];
        self.tx
            .handle_completions(path, epoch, 1, Some(self.now), self.now);
    }

    /// As over TCP: an acknowledgement frame for each chunk, decoded.
    fn by_acknowledgement(&mut self) {
        self.now += Nanos(1000);
        let path = self.next();
        let index = usize::from(path);
        self.counts[index] = self.counts[index].wrapping_add(1);
        let count = PathCount {
            path,
            epoch: self.epochs[index],
            count: self.counts[index],
        };
        let header = encode_ack(Ack { eager_consumed: 0 }, std::iter::once(count));
        let frame = Frame::decode(header.as_bytes()).expect("a valid frame");
        self.tx
            .handle_frame(0, frame, header.as_bytes(), self.now)
            .expect("a valid frame");
    }
}

fn chunk(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk");
    group.throughput(Throughput::Elements(1));
    let delay = || AnyController::Delay(Delay::new(DelayConfig::default()));
    let adaptive = || AnySelector::Adaptive(Adaptive);
    let mut bench = Bench::new(Completions::Local, adaptive(), delay());
    group.bench_function("completion, adaptive", |b| b.iter(|| bench.by_completion()));
    let folder = std::env::temp_dir().join(format!("thalweg-bench-{}", std::process::id()));
    let (recorder, _) = Recorder::open(&folder).expect("there is memory");
    let link = recorder.link(Role::Sender, "127.0.0.1:1", "lo");
    let mut bench = Bench::new(Completions::Local, adaptive(), delay());
    bench
        .tx
        .record(link.expect("there is room"), Timestamp::from_nanos(1));
    group.bench_function("completion, adaptive, recorded", |b| {
        b.iter(|| bench.by_completion());
    });
    drop((bench, recorder));
    let _ = std::fs::remove_dir_all(&folder);
    let mut bench = Bench::new(Completions::Peer, adaptive(), delay());
    group.bench_function("acknowledgement, adaptive", |b| {
        b.iter(|| bench.by_acknowledgement());
    });
    let fixed = AnyController::Fixed(Fixed::new(Bytes(4 << 20)));
    let mut bench = Bench::new(
        Completions::Local,
        AnySelector::RoundRobin(RoundRobin::default()),
        fixed,
    );
    group.bench_function("completion, round-robin", |b| {
        b.iter(|| bench.by_completion());
    });
    group.finish();
}

criterion_group!(benches, chunk);
criterion_main!(benches);
