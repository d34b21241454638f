//! One suite over every channel: what the engines see must not depend on what carries their
//! frames. Each case runs over the channel inside the process, over the same with faults that
//! come and go by script, and over TCP on 127.0.0.1, with and without the fault wrapper; every
//! byte is checked.
//!
//! The pump drives both engines in one thread, as the two drivers do in two processes.

#![allow(unsafe_code, reason = "a transport moves bytes between addresses")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thalweg::clock::Timestamp;
use thalweg::config::Config;
use thalweg::control::{AnyController, Delay, DelayConfig};
use thalweg::driver::{rx_link, tx_link};
use thalweg::engine::wire::{Frame, Keys};
use thalweg::engine::{
    EngineConfig, FenceReason, MemRange, RecvError, RxAction, RxEngine, SendError, Submitted,
    Transmit, TxAction, TxEngine, TxEvent,
};
use thalweg::path::select::{Adaptive, AnySelector};
use thalweg::session::{MemoryKeys, RecvBuffer, Session};
use thalweg::transport::faulty::{Faults, Faulty};
use thalweg::transport::tcp::TcpChannel;
use thalweg::transport::{Channel, loopback};
use thalweg::units::{Nanos, Rate};

const PATHS: u8 = 3;
const RING_BYTES: usize = 64 << 10;
const EAGER_BYTES: u32 = 8192;
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Loopback,
    FaultyLoopback,
    Tcp,
    FaultyTcp,
}

const KINDS: [Kind; 4] = [
    Kind::Loopback,
    Kind::FaultyLoopback,
    Kind::Tcp,
    Kind::FaultyTcp,
];

impl Kind {
    fn has_faults(self) -> bool {
        matches!(self, Self::FaultyLoopback | Self::FaultyTcp)
    }

    fn connect(self, path: u8, tx: &Arc<Faults>, rx: &Arc<Faults>) -> (End, End) {
        match self {
            Self::Loopback => {
                let (a, b) = loopback::pair(RING_BYTES);
                (Box::new(a), Box::new(b))
            }
            Self::FaultyLoopback => {
                let (a, b) = loopback::pair(RING_BYTES);
                (
                    Box::new(Faulty::new(a, path, Arc::clone(tx))),
                    Box::new(Faulty::new(b, path, Arc::clone(rx))),
                )
            }
            Self::Tcp => {
                let (a, b) = sockets();
                (Box::new(a), Box::new(b))
            }
            Self::FaultyTcp => {
                let (a, b) = sockets();
                (
                    Box::new(Faulty::over_tcp(a, path, Arc::clone(tx))),
                    Box::new(Faulty::over_tcp(b, path, Arc::clone(rx))),
                )
            }
        }
    }
}

fn sockets() -> (TcpChannel, TcpChannel) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (
        TcpChannel::new(near, false).unwrap(),
        TcpChannel::new(far, true).unwrap(),
    )
}

type End = Box<dyn Channel>;

#[derive(Default)]
struct Slot {
    tx: Option<End>,
    rx: Option<End>,
    epoch: u16,
}

struct Posted {
    tag: i32,
    ordinal: u32,
    /// Longer than the receive by a guard that nothing may touch.
    buffer: Vec<u8>,
    capacity: usize,
    ended: Option<Result<u64, RecvError>>,
}

const GUARD: usize = 64;

/// A send's data, and how it ended.
type Sent = (Vec<u8>, Option<Result<u64, SendError>>);

struct Pump {
    kind: Kind,
    tx: TxEngine,
    rx: RxEngine,
    slots: Vec<Slot>,
    faults: [Arc<Faults>; 2],
    scratch: Vec<u8>,
    conn: u32,
    next_token: u64,
    sent: BTreeMap<u64, Sent>,
    received: BTreeMap<u64, Posted>,
    lengths: BTreeMap<(i32, u32), usize>,
    sends: BTreeMap<i32, u32>,
    receives: BTreeMap<i32, u32>,
    fences: Vec<(u8, FenceReason)>,
    stats_at: Timestamp,
    /// Bytes that have come over each path, to the receiver.
    arrived: [usize; PATHS as usize],
    deadline: Instant,
}

fn pattern(tag: i32, ordinal: u32, len: usize) -> Vec<u8> {
    // Not periodic in any size that frames have, and different for each message.
    let mut state = u64::from(tag.cast_unsigned()) << 32 | u64::from(ordinal) | 1 << 63;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Pump {
    fn new(kind: Kind) -> Self {
        let config = EngineConfig {
            paths_max: PATHS,
            search: false,
            eager_bytes: EAGER_BYTES,
            ..EngineConfig::default()
        };
        let now = Timestamp::now();
        let controller = AnyController::Delay(Delay::new(DelayConfig::default()));
        let mut tx = TxEngine::new(config, controller, AnySelector::Adaptive(Adaptive), now);
        let conn = tx.open(7);
        let mut pump = Self {
            kind,
            tx,
            rx: RxEngine::new(config, now),
            slots: (0..PATHS).map(|_| Slot::default()).collect(),
            faults: [Arc::default(), Arc::default()],
            scratch: vec![0; 16 << 10],
            conn,
            next_token: 1,
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            lengths: BTreeMap::new(),
            sends: BTreeMap::new(),
            receives: BTreeMap::new(),
            fences: Vec::new(),
            stats_at: Timestamp::ZERO,
            arrived: [0; PATHS as usize],
            deadline: Instant::now() + DEADLINE,
        };
        pump.until("the connection opens on all paths", |p| {
            p.tx.opened(p.conn) == Some(true) && p.slots.iter().all(|s| s.tx.is_some())
        });
        pump
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        while !done(self) {
            self.step();
            assert!(
                Instant::now() < self.deadline,
                "{:?}: {what}: never",
                self.kind
            );
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step();
        }
    }

    fn cut(&self, path: u8, cut: bool) {
        for faults in &self.faults {
            faults.set_cut(path, cut);
        }
    }

    fn send(&mut self, tag: i32, len: usize) -> u64 {
        let ordinal = self.sends.entry(tag).or_default();
        let data = pattern(tag, *ordinal, len);
        self.lengths.insert((tag, *ordinal), len);
        *ordinal += 1;
        let token = self.token();
        let range = MemRange {
            addr: data.as_ptr() as u64,
            len: len as u64,
        };
        match self
            .tx
            .submit(self.conn, token, tag, range, Keys::default())
        {
            Submitted::Copy(target) => {
                assert_eq!(target.len, range.len);
                // SAFETY: `target` is the engine's ring, as long as `data`.
                unsafe {
                    std::ptr::copy_nonoverlapping(data.as_ptr(), target.addr as *mut u8, len);
                }
            }
            Submitted::Queued => {
                self.sent.insert(token, (data, None));
            }
        }
        token
    }

    fn post(&mut self, tag: i32, capacity: usize) -> u64 {
        let ordinal = self.receives.entry(tag).or_default();
        let this = *ordinal;
        *ordinal += 1;
        let mut buffer = vec![0xaa; capacity + GUARD];
        let range = MemRange {
            addr: buffer.as_mut_ptr() as u64,
            len: capacity as u64,
        };
        let token = self.token();
        self.rx.post(self.conn, token, tag, range, Keys::default());
        self.received.insert(
            token,
            Posted {
                tag,
                ordinal: this,
                buffer,
                capacity,
                ended: None,
            },
        );
        token
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Everything that was started ends well, and nothing is written afterwards.
    fn all_ended(&self) -> bool {
        self.sent.values().all(|(_, ended)| ended.is_some())
            && self.received.values().all(|posted| posted.ended.is_some())
    }

    /// Sends until such a path is in the middle of a chunk. What the sockets take whole is never
    /// seen there, so there are more messages for as long as it takes.
    fn send_until_in_a_chunk(&mut self, wanted: impl Fn(u8) -> bool) {
        self.until("a path is in the middle of a chunk", |p| {
            if p.all_ended() {
                for k in 0..4 {
                    p.post(0, (4 << 20) + k);
                    p.send(0, (4 << 20) + k);
                }
            }
            p.rx.arriving_for(p.conn).any(&wanted)
        });
    }

    fn finish(&mut self) {
        self.until("all messages arrive", |p| p.all_ended());
        self.run_for(Duration::from_millis(20));
        for (data, ended) in self.sent.values() {
            assert_eq!(*ended, Some(Ok(data.len() as u64)), "{:?}", self.kind);
        }
        for posted in self.received.values() {
            assert!(
                matches!(posted.ended, Some(Ok(_))),
                "{:?}: {:?}",
                self.kind,
                posted.ended
            );
            assert!(
                posted.buffer[..posted.capacity].iter().all(|&b| b == 0xee),
                "{:?}: a buffer was written after its receive had been reported",
                self.kind
            );
            assert!(
                posted.buffer[posted.capacity..].iter().all(|&b| b == 0xaa),
                "the guard"
            );
        }
    }

    fn step(&mut self) {
        let now = Timestamp::now();
        self.receive(now);
        if now.since(self.stats_at) >= Nanos::from_millis(1) {
            self.stats_at = now;
            for path in 0..PATHS {
                if let Some(channel) = &mut self.slots[usize::from(path)].tx {
                    if self.tx.wants_stats(path) {
                        self.tx.handle_stats(path, channel.stats(), now);
                    }
                    if self.tx.wants_backlog(path) {
                        self.tx.handle_backlog(path, channel.backlog(), now);
                    }
                }
            }
            self.tx.handle_timeout(now);
            self.rx.handle_timeout(now);
        }
        self.drain_rx();
        self.drain_tx(now);
        for path in 0..PATHS {
            let slot = &mut self.slots[usize::from(path)];
            if slot.tx.as_mut().is_some_and(|c| c.flush().is_err()) {
                self.tx_lost(path, now);
            }
            let slot = &mut self.slots[usize::from(path)];
            if slot.rx.as_mut().is_some_and(|c| c.flush().is_err()) {
                self.rx_lost(path);
            }
        }
    }

    fn receive(&mut self, now: Timestamp) {
        for path in 0..PATHS {
            let index = usize::from(path);
            if let Some(channel) = &mut self.slots[index].rx {
                let mut inbound = rx_link::Inbound::new(&mut self.rx, path, now);
                match channel.receive(&mut self.scratch, &mut inbound) {
                    Ok(bytes) => self.arrived[index] += bytes,
                    Err(_) => self.rx_lost(path),
                }
            }
            let epoch = self.slots[index].epoch;
            if let Some(channel) = &mut self.slots[index].tx {
                let mut inbound = tx_link::Inbound::new(&mut self.tx, path, epoch, now);
                if channel.receive(&mut self.scratch, &mut inbound).is_err() {
                    self.tx_lost(path, now);
                }
            }
        }
    }

    fn tx_lost(&mut self, path: u8, now: Timestamp) {
        let epoch = self.slots[usize::from(path)].epoch;
        self.tx.handle_path_error(path, epoch, now);
    }

    fn rx_lost(&mut self, path: u8) {
        let slot = &mut self.slots[usize::from(path)];
        if slot.rx.take().is_some() {
            self.rx.handle_path_down(path, slot.epoch);
        }
    }

    fn drain_rx(&mut self) {
        while let Some(action) = self.rx.poll_action() {
            match action {
                RxAction::Silence { path, epoch } => {
                    let slot = &mut self.slots[usize::from(path)];
                    if slot.epoch == epoch {
                        slot.rx = None;
                    }
                    self.rx.handle_silenced(path, epoch);
                }
                RxAction::Opened { conn, listener } => {
                    assert_eq!(listener, 7);
                    self.rx.answer_open(conn, true);
                }
                RxAction::Goodbye => {}
            }
        }
        while let Some((data, target)) = self.rx.poll_copy() {
            assert!(data.len() as u64 <= target.len);
            // SAFETY: the engine made `target` a part of a posted buffer.
            unsafe {
                std::ptr::copy_nonoverlapping(data.as_ptr(), target.addr as *mut u8, data.len());
            }
        }
        while let Some(done) = self.rx.poll_completion() {
            let Some(posted) = self.received.get_mut(&done.token) else {
                continue;
            };
            assert!(posted.ended.is_none(), "a receive ended twice");
            posted.ended = Some(done.result);
            let Ok(len) = done.result else { continue };
            let len = usize::try_from(len).unwrap();
            assert_eq!(
                self.lengths.get(&(posted.tag, posted.ordinal)),
                Some(&len),
                "length"
            );
            let expected = pattern(posted.tag, posted.ordinal, len);
            let wrong = posted
                .buffer
                .iter()
                .zip(&expected)
                .position(|(a, b)| a != b);
            assert_eq!(
                wrong, None,
                "{:?}: first wrong byte of message {} with tag {}, {len} bytes",
                self.kind, posted.ordinal, posted.tag
            );
            assert!(
                posted.buffer[len..].iter().all(|&b| b == 0xaa),
                "{:?}: written behind the end of a message of {len} bytes",
                self.kind
            );
            // The receiver uses its buffer for something else at once.
            posted.buffer[..posted.capacity].fill(0xee);
        }
        while let Some(t) = self.rx.poll_ack(true).or_else(|| self.rx.poll_transmit()) {
            if let Some(channel) = &mut self.slots[usize::from(t.path)].rx {
                channel.queue(t.header, MemRange::default(), 0);
            }
        }
    }

    fn drain_tx(&mut self, now: Timestamp) {
        while let Some(transmit) = self.tx.poll_transmit(now) {
            let (path, header, payload, owner) = match transmit {
                Transmit::Control { path, header } => (path, header, MemRange::default(), 0),
                Transmit::Probe { path, id } => {
                    let ping = Frame::Ping { id, sent_ns: 1 };
                    (path, ping.encode(), MemRange::default(), 0)
                }
                Transmit::Data {
                    path,
                    header,
                    source,
                    conn,
                    write,
                } => (path, header, source, if write.is_some() { conn } else { 0 }),
            };
            if let Some(channel) = &mut self.slots[usize::from(path)].tx {
                channel.queue(header, payload, owner);
            }
        }
        while let Some(action) = self.tx.poll_action() {
            match action {
                TxAction::Dial {
                    path, epoch, fence, ..
                } => self.dial(path, epoch, fence, now),
                TxAction::Close { path, epoch } => {
                    let slot = &mut self.slots[usize::from(path)];
                    if slot.epoch == epoch {
                        slot.tx = None;
                    }
                }
            }
        }
        while let Some(done) = self.tx.poll_completion() {
            let Some((data, ended)) = self.sent.get_mut(&done.token) else {
                continue;
            };
            assert!(ended.is_none(), "a send ended twice");
            *ended = Some(done.result);
            // The sender uses its buffer for something else at once.
            data.fill(0xdd);
        }
        while let Some(event) = self.tx.poll_event() {
            match event {
                TxEvent::Fenced { path, reason, .. } => self.fences.push((path, reason)),
                TxEvent::Failed { reason, .. } => panic!("{:?}: {reason}", self.kind),
                _ => {}
            }
        }
    }

    fn dial(&mut self, path: u8, epoch: u16, fence: Option<u16>, now: Timestamp) {
        if self.faults.iter().any(|f| f.is_cut(path)) || !self.rx.admits_channel(path, epoch) {
            self.tx.handle_dial_failed(path, epoch, now);
            return;
        }
        self.slots[usize::from(path)] = Slot::default();
        let [near, far] = &self.faults;
        let (tx, rx) = self.kind.connect(path, near, far);
        let previous = self.rx.handle_path_up(path, epoch, fence);
        self.slots[usize::from(path)] = Slot {
            tx: Some(tx),
            rx: Some(rx),
            epoch,
        };
        self.tx.handle_path_up(path, epoch, previous, now);
    }
}

fn on_all(case: impl Fn(Kind)) {
    for kind in KINDS {
        case(kind);
    }
}

/// Sizes around everything that a frame, a read or a credit could trip over.
const SIZES: [usize; 18] = [
    0, 1, 2, 3, 7, 63, 64, 65, 255, 4095, 4097, 8191, 8192, 8193, 16_385, 65_535, 100_003,
    1_000_001,
];

#[test]
fn every_size_arrives_whichever_side_is_first() {
    on_all(|kind| {
        for receiver_first in [true, false] {
            let mut pump = Pump::new(kind);
            for size in SIZES {
                if receiver_first {
                    pump.post(1, size);
                    pump.run_for(Duration::from_micros(200));
                    pump.send(1, size);
                } else {
                    pump.send(1, size);
                    pump.run_for(Duration::from_micros(200));
                    pump.post(1, size);
                }
            }
            pump.finish();
            assert_eq!(pump.received.len(), SIZES.len());
        }
    });
}

#[test]
fn a_message_may_be_shorter_than_its_buffer() {
    on_all(|kind| {
        let mut pump = Pump::new(kind);
        for size in SIZES {
            pump.post(3, size + 5000);
            pump.send(3, size);
        }
        pump.finish();
    });
}

#[test]
fn tags_of_a_group_find_their_buffers_in_any_order() {
    on_all(|kind| {
        let mut pump = Pump::new(kind);
        for round in 0..6 {
            for tag in 0..8 {
                pump.post(tag, 40_000);
            }
            for tag in (0..8).rev() {
                let size = if tag % 2 == 0 { 100 } else { 30_000 };
                pump.send(tag, size + round);
            }
            pump.run_for(Duration::from_micros(300));
        }
        pump.finish();
        assert_eq!(pump.received.len(), 48);
    });
}

#[test]
fn eight_mebibytes_arrive_over_several_paths() {
    on_all(|kind| {
        let mut pump = Pump::new(kind);
        pump.arrived = [0; PATHS as usize];
        for _ in 0..2 {
            pump.post(0, 8 << 20);
            pump.send(0, 8 << 20);
        }
        pump.finish();
        let arrived: usize = pump.arrived.iter().sum();
        assert!(arrived >= 16 << 20, "{kind:?}: {arrived}");
    });
}

#[test]
fn many_messages_are_under_way_at_once() {
    on_all(|kind| {
        let mut pump = Pump::new(kind);
        for batch in 0..8 {
            for k in 0..32 {
                let size = (batch * 32 + k) * 739 % 50_000;
                pump.post(0, size);
                pump.send(0, size);
            }
            pump.step();
        }
        pump.finish();
        assert_eq!(pump.received.len(), 256);
    });
}

#[test]
fn a_sender_that_closes_in_the_middle_leaves_the_receiver_with_an_error() {
    on_all(|kind| {
        let mut pump = Pump::new(kind);
        let receive = pump.post(0, 8 << 20);
        pump.send(0, 8 << 20);
        let before: usize = pump.arrived.iter().sum();
        pump.until("some of it arrives", |p| {
            p.arrived.iter().sum::<usize>() > before + 100_000
        });
        // As the driver does: memory that a channel still reads is freed with the channel.
        let now = Timestamp::now();
        if pump.tx.close(pump.conn) {
            for path in 0..PATHS {
                let slot = &pump.slots[usize::from(path)];
                if slot.tx.as_ref().is_some_and(|c| c.holds(pump.conn)) {
                    pump.tx_lost(path, now);
                }
            }
        }
        pump.drain_tx(now);
        let held = pump
            .slots
            .iter()
            .flat_map(|s| &s.tx)
            .any(|c| c.holds(pump.conn));
        assert!(
            !held,
            "{kind:?}: a channel still reads memory of a closed connection"
        );
        pump.sent.clear();
        pump.until("the receive ends", |p| p.received[&receive].ended.is_some());
        assert_eq!(
            pump.received[&receive].ended,
            Some(Err(RecvError::PeerClosed)),
            "{kind:?}"
        );
    });
}

#[test]
fn a_receiver_that_closes_in_the_middle_is_written_to_no_more() {
    on_all(|kind| {
        let mut pump = Pump::new(kind);
        let receive = pump.post(0, 8 << 20);
        let send = pump.send(0, 8 << 20);
        let before: usize = pump.arrived.iter().sum();
        pump.until("some of it arrives", |p| {
            p.arrived.iter().sum::<usize>() > before + 100_000
        });
        let arriving: Vec<u8> = pump.rx.arriving_for(pump.conn).collect();
        for path in arriving {
            if let Some(channel) = &mut pump.slots[usize::from(path)].rx {
                channel.discard_arriving();
            }
        }
        pump.rx.close(pump.conn);
        pump.received.get_mut(&receive).unwrap().buffer.fill(0x55);
        pump.until("the send ends", |p| p.sent[&send].1.is_some());
        pump.run_for(Duration::from_millis(20));
        assert!(
            pump.received[&receive].buffer.iter().all(|&b| b == 0x55),
            "{kind:?}"
        );
    });
}

#[test]
fn a_path_that_breaks_in_the_middle_of_a_chunk_loses_nothing() {
    on_all(|kind| {
        for receiver_breaks in [true, false] {
            let mut pump = Pump::new(kind);
            for k in 0..6 {
                pump.post(0, (4 << 20) + k);
                pump.send(0, (4 << 20) + k);
            }
            for path in [1, 0, 2] {
                let index = usize::from(path);
                pump.until("a path is in the middle of a chunk", |p| {
                    p.rx.arriving_for(p.conn).any(|at| at == path)
                        || p.received.values().all(|posted| posted.ended.is_some())
                });
                let fences = pump.fences.len();
                let lost = if receiver_breaks {
                    pump.slots[index].rx.is_some()
                } else {
                    pump.slots[index].tx.is_some()
                };
                if receiver_breaks {
                    pump.rx_lost(path);
                } else {
                    // The other end finds out by itself.
                    pump.slots[index].tx = None;
                    pump.tx_lost(path, Timestamp::now());
                }
                if lost {
                    pump.until("the break is noticed", |p| p.fences.len() > fences);
                }
            }
            pump.finish();
            assert!(pump.fences.len() >= 3, "{kind:?}: {:?}", pump.fences);
        }
    });
}

#[test]
fn a_path_that_is_cut_silently_is_fenced_and_its_chunks_go_by_others() {
    for kind in KINDS.into_iter().filter(|k| k.has_faults()) {
        let mut pump = Pump::new(kind);
        for cut in [1, 2] {
            pump.send_until_in_a_chunk(|path| path == cut);
            pump.cut(cut, true);
            let at_cut = pump.arrived[usize::from(cut)];
            pump.until("the path is fenced", |p| {
                p.fences.iter().any(|f| f.0 == cut)
            });
            assert_eq!(
                pump.arrived[usize::from(cut)],
                at_cut,
                "{kind:?}: nothing passes a cut"
            );
            pump.finish();
            let silent = pump
                .fences
                .iter()
                .any(|f| f.0 == cut && matches!(f.1, FenceReason::Silent(_)));
            assert!(silent, "{kind:?}: {:?}", pump.fences);
            pump.cut(cut, false);
            pump.until("the path is back", |p| {
                p.slots[usize::from(cut)].tx.is_some()
            });
        }
        // And it carries again.
        for path in 0..PATHS {
            assert!(pump.slots[usize::from(path)].tx.is_some());
        }
        pump.post(0, 8 << 20);
        pump.send(0, 8 << 20);
        pump.finish();
    }
}

#[test]
fn a_cut_that_heals_soon_is_only_a_delay() {
    for kind in KINDS.into_iter().filter(|k| k.has_faults()) {
        let mut pump = Pump::new(kind);
        // All paths at once: nobody is left to be better, so nothing is fenced.
        pump.send_until_in_a_chunk(|_| true);
        for path in 0..PATHS {
            pump.cut(path, true);
        }
        let arrived = pump.arrived;
        pump.run_for(Duration::from_millis(150));
        assert_eq!(pump.arrived, arrived, "{kind:?}: nothing passes a cut");
        assert!(pump.received.values().any(|posted| posted.ended.is_none()));
        for path in 0..PATHS {
            pump.cut(path, false);
        }
        pump.finish();
    }
}

#[test]
fn a_rate_is_kept_and_what_waits_is_backlog() {
    for kind in KINDS.into_iter().filter(|k| k.has_faults()) {
        let mut pump = Pump::new(kind);
        pump.faults[0].set_rate(Some(Rate::from_mbps(80))); // 10 MB/s on each of three paths
        let begun = Instant::now();
        let total = 6 << 20;
        for k in 0..6 {
            pump.post(0, total / 6 + k);
            pump.send(0, total / 6 + k);
        }
        let mut backlog = 0;
        pump.until("all messages arrive", |p| {
            let now = p
                .slots
                .iter_mut()
                .flat_map(|s| &mut s.tx)
                .map(|c| c.backlog())
                .sum::<u64>();
            backlog = backlog.max(now);
            p.received.values().all(|posted| posted.ended.is_some())
        });
        let took = begun.elapsed();
        pump.finish();
        // 6 MiB at 30 MB/s take 210 ms, less what a burst and one frame in debt on each path save.
        assert!(took > Duration::from_millis(100), "{kind:?}: {took:?}");
        assert!(backlog > 10_000, "{kind:?}: {backlog}");
    }
}

/// What the whole library does with a fault file: the two sessions of one process read the same.
#[test]
fn sessions_survive_what_their_fault_file_does() {
    const LEN: usize = 1 << 20;
    let file = std::env::temp_dir().join(format!("thalweg-cut-{}", std::process::id()));
    let write = |text: &str| {
        let new = file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    write("rate 400 # so that all paths are busy\n");
    let lines = Arc::new(Mutex::new(Vec::<String>::new()));
    let open = || {
        let env = [
            ("THALWEG_IFNAME", "=lo"),
            ("THALWEG_FAMILY", "ipv4"),
            ("THALWEG_PATHS", "4"),
            ("THALWEG_PATH_SEARCH", "off"),
            ("THALWEG_FAULT_FILE", file.to_str().unwrap()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let lines = Arc::clone(&lines);
        let log = Arc::new(move |_, line: &str| lines.lock().unwrap().push(line.to_owned()));
        Session::open_with(Config::from_sources(env, None).unwrap(), log).unwrap()
    };
    let told = |words: &str| {
        lines
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains(words))
    };
    let (near, far) = (open(), open());
    let (listener, mut handle) = far.listen(0).unwrap();
    let begun = Instant::now();
    let (mut send, mut recv) = (None, None);
    while send.is_none() || recv.is_none() {
        if send.is_none() {
            send = near.connect(0, &mut handle).unwrap();
        }
        if recv.is_none() {
            recv = listener.accept().unwrap();
        }
        assert!(begun.elapsed() < DEADLINE);
    }
    let (send, recv) = (send.unwrap(), recv.unwrap());
    let mut ordinal = 0;
    let mut transfer = || {
        let data = pattern(9, ordinal, LEN);
        ordinal += 1;
        let mut buffer = vec![0xaa; LEN];
        let into = RecvBuffer {
            data: buffer.as_mut_ptr(),
            len: LEN,
            tag: 9,
            keys: MemoryKeys::default(),
        };
        // SAFETY: both buffers live, untouched, until both requests are finished below.
        let (s, r) = unsafe {
            (
                send.isend(data.as_ptr(), LEN, 9, MemoryKeys::default())
                    .unwrap()
                    .unwrap(),
                recv.irecv(&[into]).unwrap().unwrap(),
            )
        };
        let (mut sent_all, mut arrived) = (false, false);
        while !(sent_all && arrived) {
            // SAFETY: neither is asked again once it is finished.
            unsafe {
                sent_all = sent_all || s.test().unwrap().is_some();
                arrived = arrived || r.test().unwrap().is_some();
            }
            assert!(begun.elapsed() < DEADLINE, "a transfer never ends");
        }
        assert!(buffer == data, "message {ordinal} is damaged");
    };
    for _ in 0..5 {
        transfer();
    }
    write("rate 400\npath 1 cut\npath one cut\n");
    while !told("path 1 (") || !told("fenced") {
        transfer();
    }
    assert!(told("line 3: `path one cut`"));
    for _ in 0..5 {
        transfer();
    }
    lines.lock().unwrap().clear();
    write("");
    while !told("path 1 (") || !told("joined") {
        transfer();
    }
    drop((send, recv, near, far));
    std::fs::remove_file(&file).unwrap();
}
