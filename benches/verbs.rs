//! What our own code costs a message over verbs: one chunk of 64 KiB, from the moment it is submitted
//! until both ends have told that it is done. The adapter in its place completes everything at once
//! and copies nothing but control frames, so that nothing else is measured.

#![allow(
    unsafe_code,
    reason = "a queue pair in memory writes what it is told to"
)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use thalweg::clock::Timestamp;
use thalweg::control::{AnyController, Delay, DelayConfig};
use thalweg::driver::{rx_link, tx_link};
use thalweg::engine::wire::{Frame, Keys};
use thalweg::engine::{
    Completions, EngineConfig, MemRange, RxAction, RxEngine, Transmit, TxAction, TxEngine,
};
use thalweg::path::select::{Adaptive, AnySelector};
use thalweg::transport::Channel;
use thalweg::transport::verbs::channel::{Pair, Role, Slab, VerbsChannel};
use thalweg::transport::verbs::sys::{
    Completion, Done, Operation, Piece, REQUESTS_MAX, Refused, Request, SysError,
};
use thalweg::transport::verbs::{Part, RECEIVES_DATA};
use thalweg::units::{Bytes, Rate};

const CHUNK: u32 = 64 << 10;
const EAGER_BYTES: u32 = 4096;
/// Each message is tagged alike, as NCCL's are.
const TAG: i32 = 0;

/// One end's queues.
#[derive(Debug, Default)]
struct Queues {
    receives: VecDeque<(u64, Piece)>,
    completions: VecDeque<Completion>,
}

/// One end of a connection on which everything has arrived as soon as it is posted.
#[derive(Debug)]
struct InstantPair {
    own: Rc<RefCell<Queues>>,
    peer: Rc<RefCell<Queues>>,
    failed: bool,
}

fn completion(id: u64, done: Done) -> Completion {
    Completion {
        id,
        queue_pair: 1,
        done,
        stamp: None,
    }
}

impl Pair for InstantPair {
    unsafe fn post(&mut self, requests: &[Request]) -> Result<(), Refused> {
        let mut peer = self.peer.borrow_mut();
        let mut own = self.own.borrow_mut();
        for request in requests {
            let local = request.local;
            let (id, buffer) = peer.receives.pop_front().expect("its sender counts them");
            let done = match request.operation {
                Operation::Write { immediate, .. } => Done::Written(local.bytes, immediate),
                Operation::Send => {
                    // SAFETY: a control frame of the channel, into a receive of the other one.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            local.addr as *const u8,
                            buffer.addr as *mut u8,
                            local.bytes as usize,
                        );
                    }
                    Done::Received(local.bytes)
                }
                Operation::Put { .. } | Operation::Get { .. } => {
                    unreachable!("a path neither puts nor gets")
                }
            };
            peer.completions.push_back(completion(id, done));
            own.completions
                .push_back(completion(request.id, Done::Sent));
        }
        Ok(())
    }

    unsafe fn post_receive(&mut self, id: u64, buffer: Piece) -> Result<(), SysError> {
        self.own.borrow_mut().receives.push_back((id, buffer));
        Ok(())
    }

    fn poll(&mut self, taken: &mut Vec<Completion>) -> Result<(), SysError> {
        let mut own = self.own.borrow_mut();
        let count = own.completions.len().min(REQUESTS_MAX);
        taken.extend(own.completions.drain(..count));
        Ok(())
    }

    fn time(&mut self, _stamp: u64, _now: Timestamp) -> Option<Timestamp> {
        None
    }

    fn silence(&mut self) -> Result<(), SysError> {
        self.failed = true;
        let mut own = self.own.borrow_mut();
        while let Some((id, _)) = own.receives.pop_front() {
            own.completions.push_back(completion(id, Done::Failed(5)));
        }
        Ok(())
    }

    fn set_source_port(&mut self, _port: u16) -> Result<(), SysError> {
        Ok(())
    }

    fn has(&self, _part: Part) -> bool {
        false
    }

    fn arm(&mut self) -> Result<(), SysError> {
        Ok(())
    }

    fn fd(&self) -> RawFd {
        -1
    }

    fn inline(&self) -> u32 {
        128
    }
}

/// A link of one path, with one connection.
struct Link {
    tx: TxEngine,
    rx: RxEngine,
    sender: VerbsChannel<InstantPair>,
    receiver: VerbsChannel<InstantPair>,
    epoch: u16,
    conn: u32,
    keys: Keys,
    /// Messages that have ended at each end.
    sent: u64,
    received: u64,
}

impl Link {
    fn new() -> Self {
        let now = Timestamp::now();
        let config = EngineConfig {
            paths_max: 1,
            search: false,
            rehash: true,
            eager_bytes: EAGER_BYTES,
            chunk_bytes: Some(CHUNK),
            completions: Completions::Local,
            receive_depth: Some(RECEIVES_DATA),
            ..EngineConfig::default()
        };
        let delay = DelayConfig::for_rdma(Rate::from_mbps(400_000), Bytes(CHUNK.into()), 1);
        let controller = AnyController::Delay(Delay::new(delay));
        let mut tx = TxEngine::new(config, controller, AnySelector::Adaptive(Adaptive), now);
        let mut rx = RxEngine::new(config, now);
        let ends: [Rc<RefCell<Queues>>; 2] = std::array::from_fn(|_| Rc::default());
        let channel = |own: usize, role| {
            let pair = InstantPair {
                own: Rc::clone(&ends[own]),
                peer: Rc::clone(&ends[1 - own]),
                failed: false,
            };
            let memory = |bytes| Ok(Slab::new(bytes, 0).expect("memory"));
            VerbsChannel::new(pair, role, (0, 0), memory).expect("a channel")
        };
        let sender = channel(0, Role::Sender);
        let eager_bytes = EAGER_BYTES;
        let receiver = channel(1, Role::Receiver { eager_bytes });
        let conn = tx.open(1);
        tx.handle_timeout(now);
        let Some(TxAction::Dial { epoch, .. }) = tx.poll_action() else {
            panic!("the first path is dialled at once");
        };
        rx.handle_path_up(0, epoch, None);
        tx.handle_path_up(0, epoch, None, now);
        let mut link = Self {
            tx,
            rx,
            sender,
            receiver,
            epoch,
            conn,
            keys: Keys::new(&[1]).expect("one key"),
            sent: 0,
            received: 0,
        };
        for _ in 0..4 {
            link.drive_sender();
            link.drive_receiver();
        }
        assert_eq!(link.tx.opened(link.conn), Some(true));
        link
    }

    fn range() -> MemRange {
        MemRange {
            addr: 1 << 40,
            len: CHUNK.into(),
        }
    }

    fn submit(&mut self, token: u64) {
        let submitted = self
            .tx
            .submit(self.conn, token, TAG, Self::range(), self.keys);
        black_box(submitted);
    }

    fn post(&mut self, token: u64) {
        self.rx
            .post(self.conn, token, TAG, Self::range(), self.keys);
    }

    /// As `TxInner::step`.
    fn drive_sender(&mut self) {
        let now = Timestamp::now();
        let mut inbound = tx_link::Inbound::new(&mut self.tx, 0, self.epoch, now);
        self.sender
            .receive(&mut [], &mut inbound)
            .expect("nothing fails");
        inbound.tell();
        let mut touched = false;
        while let Some(transmit) = self.tx.poll_transmit(now) {
            touched = true;
            match transmit {
                Transmit::Control { header, .. } => {
                    self.sender.queue(header, MemRange::default(), 0);
                }
                Transmit::Probe { id, .. } => {
                    let ping = Frame::Ping { id, sent_ns: 1 };
                    self.sender.queue(ping.encode(), MemRange::default(), 0);
                }
                Transmit::Data {
                    header,
                    write,
                    source,
                    conn,
                    ..
                } => {
                    match write {
                        Some(write) => self.sender.write(write, source, conn),
                        None => self.sender.send(header, source, true),
                    }
                    self.tx.handle_departure(0, now);
                }
            }
        }
        if touched || self.sender.has_unsent() {
            self.sender.flush().expect("nothing fails");
        }
        while self.tx.poll_action().is_some() {}
        while let Some(done) = self.tx.poll_completion() {
            assert!(done.result.is_ok());
            self.sent += 1;
        }
        while self.tx.poll_event().is_some() {}
    }

    /// As `RxInner::step`.
    fn drive_receiver(&mut self) {
        let mut inbound = rx_link::Inbound::new(&mut self.rx, 0, Timestamp::now());
        self.receiver
            .receive(&mut [], &mut inbound)
            .expect("nothing fails");
        while let Some(action) = self.rx.poll_action() {
            if let RxAction::Opened { conn, .. } = action {
                self.rx.answer_open(conn, true);
            }
        }
        let mut touched = false;
        while let Some(t) = self.rx.poll_ack(false).or_else(|| self.rx.poll_transmit()) {
            touched = true;
            self.receiver.queue(t.header, MemRange::default(), 0);
        }
        if touched || self.receiver.has_unsent() {
            self.receiver.flush().expect("nothing fails");
        }
        while let Some(done) = self.rx.poll_completion() {
            assert!(done.result.is_ok());
            self.received += 1;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Sender,
    Receiver,
}

/// What it costs to ask for the time once before something and once after it.
fn clock_cost() -> Duration {
    const TIMES: u32 = 10_000;
    let start = Instant::now();
    let mut sum = Duration::ZERO;
    for _ in 0..TIMES {
        sum += black_box(Instant::now()).elapsed();
    }
    black_box(sum);
    // Of each pair of readings, about one falls into the time between them.
    start.elapsed() / TIMES / 2
}

/// Messages until so many are done, `batch` at a time; the time that one end has spent on them.
fn messages(link: &mut Link, count: u64, batch: u64, end: End) -> Duration {
    let clock = clock_cost();
    let mut spent = Duration::ZERO;
    let (sent_before, received_before) = (link.sent, link.received);
    let mut timed = |of: End, act: &mut dyn FnMut()| {
        if of != end {
            return act();
        }
        let start = Instant::now();
        act();
        spent += start.elapsed().saturating_sub(clock);
    };
    let mut begun = 0;
    while begun < count {
        let now = batch.min(count - begun);
        begun += now;
        timed(End::Receiver, &mut || {
            (0..now).for_each(|token| link.post(token));
            link.drive_receiver();
        });
        timed(End::Sender, &mut || {
            (0..now).for_each(|token| link.submit(token));
            // It takes in the credits and sends; it learns that all has arrived.
            link.drive_sender();
            while link.sent < sent_before + begun {
                link.drive_sender();
            }
        });
        timed(End::Receiver, &mut || {
            while link.received < received_before + begun {
                link.drive_receiver();
            }
        });
    }
    spent
}

fn message(c: &mut Criterion) {
    let mut group = c.benchmark_group("message of 64 KiB over verbs");
    group.throughput(Throughput::Elements(1));
    for batch in [1, 16] {
        for (name, end) in [("sender", End::Sender), ("receiver", End::Receiver)] {
            let mut link = Link::new();
            group.bench_function(format!("{name}, {batch} at once"), |b| {
                b.iter_custom(|count| messages(&mut link, count, batch, end));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, message);
criterion_main!(benches);
