//! The engine against a simulated network, driven by random operations: whatever is sent,
//! dropped, cut, healed or slowed, no byte is wrong, none comes twice, none is lost, and every
//! request ends.
//!
//! The same operations run over two shapes of transport. *Stream*: ordered channels, payload
//! placed by the receiver, progress by the peer's counts (TCP). *Verbs*: payload written to the
//! credit's address by the network, a 32-bit immediate for each chunk, a bounded number of
//! receives posted on each path, completions local to the sender and reordered across paths, and
//! a fence that drains what the network still holds.
//!
//! A received buffer is checked and then used for something else at once: a replay that wrote
//! into it after its receive was reported would be seen at the end.

#![allow(unsafe_code, reason = "a transport moves bytes between addresses")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "sizes and path numbers of a test are small"
)]

#[path = "common/property.rs"]
mod property;

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use thalweg::clock::Timestamp;
use thalweg::control::{AnyController, Delay, DelayConfig, Fixed};
use thalweg::engine::wire::{Chunk, Frame, Immediate, Keys, PathCount};
use thalweg::engine::{
    Completions, EngineConfig, MemRange, PathState, RxAction, RxEngine, Sink, Submitted, Transmit,
    TxAction, TxEngine, TxEvent,
};
use thalweg::path::health::TransportStats;
use thalweg::path::select::{Adaptive, AnySelector, RoundRobin, StaticHash};
use thalweg::units::{Bytes, Nanos};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Stream,
    Verbs,
}

const PATHS: usize = 4;
const RECEIVE_DEPTH: u32 = 6;

#[derive(Debug, Clone)]
enum Operation {
    Send {
        conn: u8,
        size: u32,
        tag: u8,
    },
    Receive {
        conn: u8,
        tag: u8,
    },
    Advance {
        us: u32,
    },
    /// Everything on the path, both ways, is dropped silently from now on.
    Cut {
        path: u8,
    },
    Heal {
        path: u8,
    },
    /// Both ends see the channel fail.
    Break {
        path: u8,
    },
    /// Only the receiver sees it.
    BreakReceiver {
        path: u8,
    },
    Slow {
        path: u8,
        factor: u8,
    },
    /// The next dial fails.
    FailDial,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let size = prop_oneof![
        2 => Just(0u32),
        6 => 1u32..9000,
        4 => 9000u32..200_000,
        1 => 200_000u32..3_000_000,
    ];
    let operation = prop_oneof![
        6 => (0u8..3, size, 0u8..2).prop_map(|(conn, size, tag)| Operation::Send { conn, size, tag }),
        6 => (0u8..3, 0u8..2).prop_map(|(conn, tag)| Operation::Receive { conn, tag }),
        6 => (1u32..20_000).prop_map(|us| Operation::Advance { us }),
        2 => (0u8..4).prop_map(|path| Operation::Cut { path }),
        1 => (0u8..4).prop_map(|path| Operation::Heal { path }),
        1 => (0u8..4).prop_map(|path| Operation::Break { path }),
        1 => (0u8..4).prop_map(|path| Operation::BreakReceiver { path }),
        1 => (0u8..4, 1u8..20).prop_map(|(path, factor)| Operation::Slow { path, factor }),
        1 => Just(Operation::FailDial),
    ];
    prop::collection::vec(operation, 1..120)
}

#[derive(Debug)]
enum Forward {
    Control(Vec<u8>),
    /// Header, payload, and where the network itself writes it (verbs).
    Data(Vec<u8>, Vec<u8>, Option<(Chunk, u64)>),
}

/// One path of the simulated network.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Wire {
    epoch: u16,
    tx_up: bool,
    rx_up: bool,
    cut: bool,
    slow: u64,
    forward: VecDeque<(Timestamp, Forward)>,
    backward: VecDeque<(Timestamp, Vec<u8>)>,
    completions: VecDeque<Timestamp>,
    /// Something was lost in the cut: the sender's kernel or adapter goes on repeating it.
    forward_lost: bool,
    backward_lost: bool,
    forward_at: Timestamp,
    backward_at: Timestamp,
    posted: u32,
}

/// What the transport tells of one direction, whose last bytes arrived at `progress_at`.
fn stats(in_flight: bool, progress_at: Timestamp) -> TransportStats {
    TransportStats {
        in_flight,
        acked: progress_at.as_nanos(),
        rtt: Nanos::from_millis(1),
        rtt_var: Nanos::from_micros(200),
        rtt_min: Nanos::from_micros(200),
        ..TransportStats::default()
    }
}

#[derive(Debug)]
struct Posted {
    conn: u8,
    tag: u8,
    ordinal: u32,
    buffer: Vec<u8>,
    done: bool,
}

struct World {
    shape: Shape,
    now: Timestamp,
    tx: TxEngine,
    rx: RxEngine,
    wires: Vec<Wire>,
    dials: Vec<(Timestamp, u8, u16, Option<u16>)>,
    fail_dials: u32,
    sent: BTreeMap<u64, (Vec<u8>, bool)>,
    received: BTreeMap<u64, Posted>,
    next_token: u64,
    conns: Vec<u32>,
    lengths: BTreeMap<(u8, u8, u32), u32>,
    send_ordinals: BTreeMap<(u8, u8), u32>,
    receive_ordinals: BTreeMap<(u8, u8), u32>,
    fences: usize,
    failure: Option<String>,
    granted: BTreeMap<(u16, u32), (u32, i32, u32)>,
}

const DELAY: Nanos = Nanos(100_000);
const GIVE_UP: Nanos = Nanos(500_000_000);
const BYTE_TIME: u64 = 16; // ns: 500 Mb/s
const BUFFER: u32 = 3_000_000;

impl World {
    fn new(shape: Shape, controller: AnyController, selector: AnySelector) -> Self {
        Self::over(PATHS as u8, shape, controller, selector)
    }

    fn over(paths: u8, shape: Shape, controller: AnyController, selector: AnySelector) -> Self {
        let now = Timestamp::from_nanos(1_000_000_000);
        let config = EngineConfig {
            paths_max: paths,
            search: false,
            rehash: shape == Shape::Verbs,
            chunk_bytes: (shape == Shape::Verbs).then_some(16_384),
            completions: if shape == Shape::Verbs {
                Completions::Local
            } else {
                Completions::Peer
            },
            receive_depth: (shape == Shape::Verbs).then_some(RECEIVE_DEPTH),
            dead_peer: Nanos::from_secs(300),
            ..EngineConfig::default()
        };
        let mut world = Self {
            shape,
            now,
            tx: TxEngine::new(config, controller, selector, now),
            rx: RxEngine::new(config, now),
            wires: (0..usize::from(paths))
                .map(|_| Wire {
                    slow: 1,
                    ..Wire::default()
                })
                .collect(),
            dials: Vec::new(),
            fail_dials: 0,
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            next_token: 1,
            conns: Vec::new(),
            lengths: BTreeMap::new(),
            send_ordinals: BTreeMap::new(),
            receive_ordinals: BTreeMap::new(),
            fences: 0,
            failure: None,
            granted: BTreeMap::new(),
        };
        world.conns = (0..3).map(|listener| world.tx.open(listener)).collect();
        for _ in 0..100 {
            world.advance(1000);
        }
        for &conn in &world.conns {
            assert_eq!(
                world.tx.opened(conn),
                Some(true),
                "connections open on a healthy network"
            );
        }
        world
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Send { conn, size, tag } => self.send(conn, size, tag),
            Operation::Receive { conn, tag } => self.receive(conn, tag),
            Operation::Advance { us } => self.advance(us),
            Operation::Cut { path } => {
                let wire = &mut self.wires[usize::from(path)];
                wire.cut = true;
                wire.forward_lost |= !(wire.forward.is_empty() && wire.completions.is_empty());
                wire.backward_lost |= !wire.backward.is_empty();
                wire.forward.clear();
                wire.backward.clear();
                wire.completions.clear();
            }
            Operation::Heal { path } => self.heal(path),
            Operation::Break { path } => {
                let epoch = self.wires[usize::from(path)].epoch;
                self.rx_lost(path);
                self.drop_tx(path);
                self.tx.handle_path_error(path, epoch, self.now);
            }
            Operation::BreakReceiver { path } => self.rx_lost(path),
            Operation::Slow { path, factor } => {
                self.wires[usize::from(path)].slow = u64::from(factor);
            }
            Operation::FailDial => self.fail_dials += 1,
        }
        self.settle();
    }

    /// A healed way carries new channels; what the old one lost stays lost (its kernel would
    /// retransmit, but a fence comes first or the data arrives late: both are covered by slowness).
    fn heal(&mut self, path: u8) {
        let wire = &mut self.wires[usize::from(path)];
        if std::mem::take(&mut wire.cut) && wire.tx_up {
            let epoch = wire.epoch;
            self.rx_lost(path);
            self.drop_tx(path);
            self.tx.handle_path_error(path, epoch, self.now);
        }
    }

    fn rx_lost(&mut self, path: u8) {
        let wire = &mut self.wires[usize::from(path)];
        if std::mem::take(&mut wire.rx_up) {
            wire.forward.clear();
            let epoch = wire.epoch;
            self.rx.handle_path_down(path, epoch);
        }
    }

    fn drop_tx(&mut self, path: u8) {
        let wire = &mut self.wires[usize::from(path)];
        wire.tx_up = false;
        wire.backward.clear();
        wire.completions.clear();
        wire.forward.clear();
    }

    fn send(&mut self, conn: u8, size: u32, tag: u8) {
        if self.sent.values().filter(|(_, done)| !done).count() >= 48 {
            return;
        }
        let ordinal = self.send_ordinals.entry((conn, tag)).or_default();
        let this = *ordinal;
        *ordinal += 1;
        self.lengths.insert((conn, tag, this), size);
        let data: Vec<u8> = (0..size as usize)
            .map(|at| property::byte_of(conn.into(), tag, this, at))
            .collect();
        let range = MemRange {
            addr: data.as_ptr() as u64,
            len: data.len() as u64,
        };
        let token = self.next_token;
        self.next_token += 1;
        let id = self.conns[usize::from(conn)];
        match self
            .tx
            .submit(id, token, i32::from(tag), range, Keys::new(&[8]).unwrap())
        {
            Submitted::Copy(target) => {
                assert_eq!(target.len, range.len);
                // SAFETY: `target` is the engine's ring, `data` is as long.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        data.as_ptr(),
                        target.addr as *mut u8,
                        data.len(),
                    );
                }
                // The caller's buffer is free at once: nothing may read it any more.
                drop(data);
            }
            Submitted::Queued => {
                self.sent.insert(token, (data, false));
            }
        }
    }

    fn receive(&mut self, conn: u8, tag: u8) {
        if self.received.values().filter(|p| !p.done).count() >= 48 {
            return;
        }
        let ordinal = self.receive_ordinals.entry((conn, tag)).or_default();
        let this = *ordinal;
        *ordinal += 1;
        // As large as needed and no larger where that is known: a byte too many would be seen.
        let capacity = self
            .lengths
            .get(&(conn, tag, this))
            .copied()
            .unwrap_or(BUFFER);
        let mut buffer = vec![0u8; capacity as usize];
        let range = MemRange {
            addr: buffer.as_mut_ptr() as u64,
            len: buffer.len() as u64,
        };
        let token = self.next_token;
        self.next_token += 1;
        self.received.insert(
            token,
            Posted {
                conn,
                tag,
                ordinal: this,
                buffer,
                done: false,
            },
        );
        let id = self.conns[usize::from(conn)];
        self.rx
            .post(id, token, i32::from(tag), range, Keys::new(&[7]).unwrap());
    }

    /// Posts a receive on the first connection that is none of those that are checked.
    fn post(&mut self, token: u64, buffer: &mut [u8]) {
        let range = MemRange {
            addr: buffer.as_mut_ptr() as u64,
            len: buffer.len() as u64,
        };
        self.rx
            .post(self.conns[0], token, 0, range, Keys::default());
    }

    fn advance(&mut self, us: u32) {
        let end = self.now + Nanos::from_micros(u64::from(us));
        while self.now < end {
            self.now = (self.now + Nanos(250_000)).min(end);
            self.step();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        for path in 0..self.wires.len() {
            self.deliver(path);
        }
        for (at, path, epoch, fence) in std::mem::take(&mut self.dials) {
            if now < at {
                self.dials.push((at, path, epoch, fence));
            } else {
                self.finish_dial(path, epoch, fence);
            }
        }
        for path in 0..self.wires.len() as u8 {
            self.give_up(path);
            let wire = &self.wires[usize::from(path)];
            if self.tx.wants_stats(path) {
                let in_flight = !wire.forward.is_empty() || wire.forward_lost;
                let stats = stats(wire.tx_up && in_flight, wire.forward_at);
                self.tx.handle_stats(path, stats, now);
            }
            if self.rx.wants_stats(path) {
                let in_flight = !wire.backward.is_empty() || wire.backward_lost;
                let stats = stats(wire.rx_up && in_flight, wire.backward_at);
                self.rx.handle_stats(path, &stats, now);
            }
        }
        self.tx.handle_timeout(now);
        self.rx.handle_timeout(now);
        self.settle();
    }

    /// What is sent to a channel that the receiver has lost is refused in the end, by a reset or
    /// after the adapter's last retry.
    fn give_up(&mut self, path: u8) {
        let wire = &self.wires[usize::from(path)];
        let overdue = |&(at, _): &(Timestamp, Forward)| self.now.since(at) >= GIVE_UP;
        if wire.tx_up && !wire.rx_up && !wire.cut && wire.forward.front().is_some_and(overdue) {
            let epoch = wire.epoch;
            self.drop_tx(path);
            self.tx.handle_path_error(path, epoch, self.now);
        }
    }

    fn finish_dial(&mut self, path: u8, epoch: u16, fence: Option<u16>) {
        let wire = &self.wires[usize::from(path)];
        if wire.cut || self.fail_dials > 0 {
            self.fail_dials = self.fail_dials.saturating_sub(1);
            self.tx.handle_dial_failed(path, epoch, self.now);
            return;
        }
        if !self.rx.admits_channel(path, epoch) {
            self.tx.handle_dial_failed(path, epoch, self.now);
            return;
        }
        self.drain(path);
        let previous = self.rx.handle_path_up(path, epoch, fence);
        let wire = &mut self.wires[usize::from(path)];
        *wire = Wire {
            epoch,
            tx_up: true,
            rx_up: true,
            slow: wire.slow,
            forward_at: self.now,
            backward_at: self.now,
            posted: RECEIVE_DEPTH,
            ..Wire::default()
        };
        self.tx.handle_path_up(path, epoch, previous, self.now);
    }

    /// What the network still holds of a channel that is made silent: over verbs the receiver's
    /// queue pair is flushed, so nothing of it arrives later.
    fn drain(&mut self, path: u8) {
        let wire = &mut self.wires[usize::from(path)];
        wire.forward.clear();
        wire.rx_up = false;
    }

    fn deliver(&mut self, path: usize) {
        let now = self.now;
        loop {
            let wire = &mut self.wires[path];
            if wire.cut || !wire.rx_up || wire.forward.front().is_none_or(|(at, _)| *at > now) {
                break;
            }
            let (_, item) = wire.forward.pop_front().unwrap();
            wire.forward_at = now;
            if matches!(item, Forward::Data(..)) && self.shape == Shape::Verbs {
                // The adapter's acknowledgement is on its way; it may get lost.
                wire.completions.push_back(now + DELAY);
            }
            self.arrive(u8::try_from(path).unwrap(), item);
        }
        loop {
            let wire = &mut self.wires[path];
            if wire.cut || !wire.tx_up || wire.backward.front().is_none_or(|(at, _)| *at > now) {
                break;
            }
            let (_, header) = wire.backward.pop_front().unwrap();
            wire.backward_at = now;
            let frame = Frame::decode(&header).unwrap();
            if let Frame::Credit(credit) = frame {
                // A repeated credit may come late, over a slower path, but never for another receive.
                let name = (credit.conn, credit.tag, credit.ordinal);
                let slot = (credit.slot, credit.generation);
                assert_eq!(
                    *self.granted.entry(slot).or_insert(name),
                    name,
                    "a generation of a slot stands for one receive"
                );
            }
            self.tx
                .handle_frame(u8::try_from(path).unwrap(), frame, &header, now)
                .unwrap();
        }
        let wire = &mut self.wires[path];
        let due = wire.completions.iter().take_while(|at| **at <= now).count();
        if due > 0 && !wire.cut && wire.tx_up {
            wire.completions.drain(..due);
            let epoch = wire.epoch;
            let count = u32::try_from(due).unwrap();
            self.tx
                .handle_completions(u8::try_from(path).unwrap(), epoch, count, Some(now), now);
        }
    }

    fn arrive(&mut self, path: u8, item: Forward) {
        match item {
            Forward::Control(header) => {
                let frame = Frame::decode(&header).unwrap();
                assert_eq!(self.rx.handle_frame(path, frame, 1).unwrap(), None);
            }
            Forward::Data(_, payload, Some((chunk, addr))) => {
                let wire = &mut self.wires[usize::from(path)];
                assert!(
                    wire.posted > 0,
                    "more chunks than receives posted on path {path}"
                );
                wire.posted -= 1;
                // SAFETY: the credit named a buffer that its owner keeps until it is told.
                unsafe {
                    std::ptr::copy_nonoverlapping(payload.as_ptr(), addr as *mut u8, payload.len());
                }
                let imm = Immediate::of(&chunk);
                let bytes = u32::try_from(payload.len()).unwrap();
                self.rx
                    .handle_immediate(path, imm.pack().unwrap(), bytes)
                    .unwrap();
                self.wires[usize::from(path)].posted += 1;
            }
            Forward::Data(header, payload, None) => {
                let frame = Frame::decode(&header).unwrap();
                let sink = self.rx.handle_frame(path, frame, 1).unwrap().unwrap();
                if let Sink::Place(range) = sink {
                    assert_eq!(range.len, payload.len() as u64);
                    // SAFETY: the engine placed it in a posted buffer or in its own pool.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            payload.as_ptr(),
                            range.addr as *mut u8,
                            payload.len(),
                        );
                    }
                }
                self.rx.handle_payload_done(path);
            }
        }
        self.settle_rx();
    }

    fn settle(&mut self) {
        self.settle_rx();
        while let Some(transmit) = self.tx.poll_transmit(self.now) {
            self.transmit(transmit);
        }
        while let Some(action) = self.tx.poll_action() {
            match action {
                TxAction::Dial {
                    path, epoch, fence, ..
                } => {
                    self.dials.push((self.now + DELAY * 2, path, epoch, fence));
                }
                TxAction::Close { path, .. } => {
                    let wire = &mut self.wires[usize::from(path)];
                    wire.tx_up = false;
                    wire.completions.clear();
                    // What it had handed to the network may still arrive, until the fence.
                }
            }
        }
        while let Some(done) = self.tx.poll_completion() {
            let (data, ended) = self.sent.get_mut(&done.token).unwrap();
            assert!(!*ended, "a send ended twice");
            assert_eq!(done.result, Ok(data.len() as u64));
            *ended = true;
            // The buffer is the caller's again.
            data.fill(0xdd);
        }
        while let Some(event) = self.tx.poll_event() {
            match event {
                TxEvent::Fenced { .. } => self.fences += 1,
                TxEvent::Failed { reason, .. } => self.failure = Some(reason),
                _ => {}
            }
        }
    }

    fn transmit(&mut self, transmit: Transmit) {
        let (path, item, bytes) = match transmit {
            Transmit::Control { path, header } => {
                (path, Forward::Control(header.as_bytes().to_vec()), 64)
            }
            Transmit::Probe { path, id } => {
                let ping = Frame::Ping {
                    id,
                    sent_ns: self.now.as_nanos(),
                }
                .encode();
                (path, Forward::Control(ping.as_bytes().to_vec()), 64)
            }
            Transmit::Data {
                path,
                header,
                write,
                source,
                ..
            } => {
                // SAFETY: a send's buffer is valid until it ends; the ring is the engine's.
                let payload = unsafe {
                    std::slice::from_raw_parts(source.addr as *const u8, source.len as usize)
                }
                .to_vec();
                let target = write.filter(|_| self.shape == Shape::Verbs).map(|write| {
                    assert_eq!(write.remote.as_slice(), [7]);
                    assert_eq!(write.local.as_slice(), [8]);
                    (write.chunk, write.addr)
                });
                let bytes = source.len + 64;
                (
                    path,
                    Forward::Data(header.as_bytes().to_vec(), payload, target),
                    bytes,
                )
            }
        };
        let wire = &mut self.wires[usize::from(path)];
        assert!(wire.tx_up, "a frame for a path that is down");
        if wire.cut {
            wire.forward_lost = true;
            return;
        }
        let after = wire.forward.back().map_or(self.now + DELAY, |(at, _)| *at);
        let at = after.max(self.now + DELAY) + Nanos(bytes * BYTE_TIME * wire.slow);
        wire.forward.push_back((at, item));
    }

    fn settle_rx(&mut self) {
        while let Some(action) = self.rx.poll_action() {
            match action {
                RxAction::Silence { path, epoch } => {
                    self.drain(path);
                    self.rx.handle_silenced(path, epoch);
                }
                RxAction::Opened { conn, .. } => self.rx.answer_open(conn, true),
                RxAction::Goodbye => {}
            }
        }
        while let Some((data, target)) = self.rx.poll_copy() {
            // SAFETY: the engine made `target` a part of a posted buffer.
            unsafe {
                std::ptr::copy_nonoverlapping(data.as_ptr(), target.addr as *mut u8, data.len());
            }
        }
        while let Some(done) = self.rx.poll_completion() {
            let posted = self.received.get_mut(&done.token).unwrap();
            assert!(!posted.done, "a receive ended twice");
            posted.done = true;
            let len = done.result.unwrap() as usize;
            let Posted {
                conn, tag, ordinal, ..
            } = *posted;
            assert_eq!(
                Some(&(len as u32)),
                self.lengths.get(&(conn, tag, ordinal)),
                "length"
            );
            for (at, &byte) in posted.buffer[..len].iter().enumerate() {
                assert_eq!(
                    byte,
                    property::byte_of(conn.into(), tag, ordinal, at),
                    "byte {at} of message {ordinal} with tag {tag} on connection {conn}"
                );
            }
            posted.buffer.fill(0xee);
        }
        while let Some(t) = self.rx.poll_ack(true).or_else(|| self.rx.poll_transmit()) {
            let wire = &mut self.wires[usize::from(t.path)];
            if wire.cut {
                wire.backward_lost = true;
            } else if wire.rx_up {
                wire.backward
                    .push_back((self.now + DELAY, t.header.as_bytes().to_vec()));
            }
        }
    }

    /// Heals one path at least, posts what is missing, and expects every request to end.
    fn finish(&mut self) {
        self.fail_dials = 0;
        if self.wires.iter().all(|wire| wire.cut) {
            self.heal(0);
        }
        for wire in &mut self.wires {
            wire.slow = 1;
        }
        for (&(conn, tag), &count) in &self.send_ordinals.clone() {
            let mut posted = self
                .receive_ordinals
                .get(&(conn, tag))
                .copied()
                .unwrap_or(0);
            while posted < count {
                self.receive_all(conn, tag);
                posted += 1;
            }
        }
        for round in 0..4000 {
            self.advance(5000);
            let sends = self.sent.values().filter(|(_, done)| !done).count();
            let receives = self
                .received
                .values()
                .filter(|p| !p.done && self.lengths.contains_key(&(p.conn, p.tag, p.ordinal)))
                .count();
            if sends + receives == 0 {
                break;
            }
            assert!(
                round < 3999,
                "{sends} sends and {receives} receives never end; {:?}",
                self.failure
            );
        }
        self.advance(100_000);
        assert_eq!(self.failure, None);
        for posted in self.received.values().filter(|p| p.done) {
            assert!(
                posted.buffer.iter().all(|&b| b == 0xee),
                "a buffer was written after its receive had been reported"
            );
        }
    }

    fn receive_all(&mut self, conn: u8, tag: u8) {
        while self.received.values().filter(|p| !p.done).count() >= 48 {
            self.advance(5000);
        }
        self.receive(conn, tag);
        self.settle();
    }
}

fn delay() -> AnyController {
    AnyController::Delay(Delay::new(DelayConfig::default()))
}

fn run(shape: Shape, controller: AnyController, selector: AnySelector, operations: &[Operation]) {
    let mut world = World::new(shape, controller, selector);
    for operation in operations {
        world.apply(operation);
    }
    world.finish();
}

proptest! {
    #![proptest_config(property::seeded("tests/engine.seeds", 2_307))]

    #[test]
    fn nothing_is_lost_over_a_stream(operations in operations()) {
        run(Shape::Stream, delay(), AnySelector::Adaptive(Adaptive), &operations);
    }

    #[test]
    fn nothing_is_lost_over_verbs(operations in operations()) {
        run(Shape::Verbs, delay(), AnySelector::Adaptive(Adaptive), &operations);
    }

    #[test]
    fn nothing_is_lost_with_the_plain_algorithms(operations in operations(), hash in any::<bool>()) {
        let selector = if hash {
            AnySelector::Hash(StaticHash)
        } else {
            AnySelector::RoundRobin(RoundRobin::default())
        };
        run(Shape::Stream, AnyController::Fixed(Fixed::new(Bytes(1 << 20))), selector, &operations);
    }
}

fn bulk(world: &mut World, messages: u32, size: u32) {
    for k in 0..messages {
        world.apply(&Operation::Receive {
            conn: (k % 3) as u8,
            tag: 0,
        });
        world.apply(&Operation::Send {
            conn: (k % 3) as u8,
            size,
            tag: 0,
        });
    }
}

#[test]
fn a_clean_run_has_no_fence() {
    for shape in [Shape::Stream, Shape::Verbs] {
        let mut world = World::new(shape, delay(), AnySelector::Adaptive(Adaptive));
        bulk(&mut world, 40, 1 << 20);
        world.finish();
        assert_eq!(world.fences, 0, "{shape:?}");
        assert_eq!(world.rx.duplicates(), 0, "{shape:?}");
    }
}

/// Whatever it is slower than, it is not another path.
#[test]
fn the_only_path_is_not_given_up_for_its_slowness() {
    let mut world = World::over(1, Shape::Verbs, delay(), AnySelector::Adaptive(Adaptive));
    bulk(&mut world, 3, 100_000);
    world.advance(100_000);
    for factor in [20, 60, 180] {
        world.apply(&Operation::Slow { path: 0, factor });
        bulk(&mut world, 3, 10_000);
        world.advance(200_000);
    }
    world.finish();
    assert_eq!(world.fences, 0);
}

/// How often a path is fenced in two seconds in which it, or each, breaks 20 ms after it has come up.
fn relapses(paths: std::ops::Range<u8>) -> (World, usize) {
    let mut world = World::new(Shape::Verbs, delay(), AnySelector::Adaptive(Adaptive));
    for _ in 0..100 {
        bulk(&mut world, 3, 50_000);
        world.advance(20_000);
        paths
            .clone()
            .for_each(|path| world.apply(&Operation::Break { path }));
    }
    let fences = world.fences;
    (world, fences)
}

#[test]
fn a_path_that_keeps_breaking_is_left_alone_for_longer_and_longer() {
    let (mut world, fences) = relapses(3..4);
    assert!((4..10).contains(&fences), "{fences}");
    // Once it holds, it is used again.
    let state = |world: &World| world.tx.path_infos().nth(3).unwrap().state;
    for _ in 0..60 {
        world.advance(100_000);
    }
    assert_eq!(state(&world), PathState::Active);
    // And where none is well, none waits.
    let (_, fences) = relapses(0..4);
    assert!(fences > 200, "{fences}");
}

#[test]
fn a_black_hole_costs_one_fence_and_little_time() {
    for shape in [Shape::Stream, Shape::Verbs] {
        let mut world = World::new(shape, delay(), AnySelector::Adaptive(Adaptive));
        bulk(&mut world, 24, 1 << 20);
        world.advance(20_000);
        world.apply(&Operation::Cut { path: 1 });
        let cut_at = world.now;
        let unfinished = |w: &World| w.received.values().filter(|p| !p.done).count();
        assert!(unfinished(&world) > 0);
        while unfinished(&world) > 0 {
            world.advance(1000);
            assert!(
                world.now.since(cut_at) < Nanos::from_millis(600),
                "{shape:?}"
            );
        }
        assert_eq!(world.fences, 1, "{shape:?}");
        world.finish();
    }
}

#[test]
fn a_slow_path_gets_its_share() {
    let mut world = World::new(Shape::Stream, delay(), AnySelector::Adaptive(Adaptive));
    world.apply(&Operation::Slow { path: 3, factor: 5 });
    for _ in 0..6 {
        bulk(&mut world, 24, 1 << 20);
        world.advance(200_000);
    }
    world.finish();
    let bytes: Vec<u64> = world.tx.path_infos().map(|p| p.bytes).collect();
    let fast = bytes[..3].iter().sum::<u64>() / 3;
    let share = bytes[3] as f64 / fast as f64;
    assert!(
        (0.1..0.35).contains(&share),
        "a fifth of the speed got {share:.2} of the bytes: {bytes:?}"
    );
    assert_eq!(world.fences, 0);
}

#[test]
fn a_message_that_does_not_fit_fails_at_both_ends() {
    let mut world = World::new(Shape::Stream, delay(), AnySelector::Adaptive(Adaptive));
    let mut small = vec![0u8; 1000];
    world.post(900, &mut small);
    let large = vec![1u8; 50_000];
    let range = MemRange {
        addr: large.as_ptr() as u64,
        len: 50_000,
    };
    assert_eq!(
        world
            .tx
            .submit(world.conns[0], 901, 0, range, Keys::default()),
        Submitted::Queued
    );
    let mut received = None;
    for _ in 0..40 {
        while let Some(t) = world.tx.poll_transmit(world.now) {
            world.transmit(t);
        }
        world.now += Nanos(250_000);
        for path in 0..PATHS {
            let wire = &mut world.wires[path];
            while let Some((_, item)) = wire.forward.pop_front() {
                if let Forward::Control(header) = item {
                    let frame = Frame::decode(&header).unwrap();
                    world.rx.handle_frame(path as u8, frame, 1).unwrap();
                    break;
                }
            }
        }
        received = received.or_else(|| world.rx.poll_completion());
    }
    let error = received.unwrap().result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a message of 50000 bytes is larger than its receive buffer of 1000"
    );
}

#[test]
fn a_dead_peer_ends_every_request() {
    let mut world = World::new(Shape::Stream, delay(), AnySelector::Adaptive(Adaptive));
    bulk(&mut world, 6, 1 << 20);
    for path in 0..PATHS as u8 {
        world.apply(&Operation::Cut { path });
    }
    let mut ended = 0;
    for _ in 0..320_000 {
        world.now += Nanos::from_millis(1);
        for path in 0..PATHS as u8 {
            if world.tx.wants_stats(path) {
                let stats = stats(true, world.wires[0].forward_at);
                world.tx.handle_stats(path, stats, world.now);
            }
        }
        world.tx.handle_timeout(world.now);
        while world.tx.poll_transmit(world.now).is_some() {}
        while let Some(TxAction::Dial { path, epoch, .. }) = world.tx.poll_action() {
            world.tx.handle_dial_failed(path, epoch, world.now);
        }
        while let Some(done) = world.tx.poll_completion() {
            assert!(done.result.is_err());
            ended += 1;
        }
        if world.tx.failure().is_some() {
            break;
        }
    }
    assert_eq!(ended, 6);
    assert!(world.tx.failure().unwrap().contains("THALWEG_DEAD_PEER_MS"));
}

#[test]
fn a_peer_that_breaks_the_rules_gets_nowhere() {
    let mut world = World::new(Shape::Stream, delay(), AnySelector::Adaptive(Adaptive));
    let mut buffer = vec![0u8; 100_000];
    world.post(900, &mut buffer);
    let good = Chunk {
        slot: 0,
        generation: 0,
        index: 0,
        chunk_bytes: 65_536,
        payload: 65_536,
        last: false,
    };
    let refused = [
        Chunk { slot: 9, ..good },
        Chunk {
            generation: 5,
            ..good
        },
        Chunk { index: 1, ..good }, // 131 072 bytes into a buffer of 100 000
        Chunk {
            index: 40_000,
            ..good
        }, // far outside
        Chunk {
            index: u32::MAX,
            ..good
        },
    ];
    for chunk in refused {
        assert!(
            world.rx.handle_frame(0, Frame::Chunk(chunk), 1).is_err(),
            "{chunk:?}"
        );
    }
    let sink = world.rx.handle_frame(0, Frame::Chunk(good), 1).unwrap();
    assert_eq!(
        sink,
        Some(Sink::Place(MemRange {
            addr: buffer.as_ptr() as u64,
            len: 65_536
        }))
    );
    // The same chunk on another path while it is still arriving: skipped, not written.
    let again = world.rx.handle_frame(1, Frame::Chunk(good), 1).unwrap();
    assert_eq!(again, Some(Sink::Discard(65_536)));
    world.rx.handle_payload_done(0);
    world.rx.handle_payload_done(1);
    assert_eq!(world.rx.duplicates(), 1);
    assert!(
        world.rx.poll_completion().is_none(),
        "a duplicate completes nothing"
    );
    for frame in [
        Frame::Fenced(PathCount {
            path: 0,
            epoch: 1,
            count: 0,
        }),
        Frame::Opened {
            conn: 1,
            accepted: true,
        },
        Frame::Fence {
            path: 200,
            epoch: 1,
        },
    ] {
        assert!(world.rx.handle_frame(0, frame, 1).is_err(), "{frame:?}");
    }
}

#[test]
fn a_suspect_path_still_carries_control_frames_if_it_is_the_only_one() {
    let config = EngineConfig {
        paths_max: 1,
        ..EngineConfig::default()
    };
    let start = Timestamp::from_nanos(1_000_000_000);
    let mut rx = RxEngine::new(config, start);
    rx.handle_path_up(0, 1, None);
    rx.answer_open(1, true);
    let opened = rx.poll_transmit();
    assert!(opened.is_some() && rx.wants_stats(0));
    for ms in [0, 50] {
        let now = start + Nanos::from_millis(ms);
        rx.handle_stats(0, &stats(true, start), now);
    }
    let mut buffer = vec![0u8; 100_000];
    let range = MemRange {
        addr: buffer.as_mut_ptr() as u64,
        len: 100_000,
    };
    rx.post(1, 1, 0, range, Keys::default());
    let mut frames = Vec::new();
    while let Some(t) = rx.poll_transmit() {
        frames.push(Frame::decode(t.header.as_bytes()).unwrap());
    }
    assert!(
        frames.iter().any(|f| matches!(f, Frame::Credit(_))),
        "no credit goes out: {frames:?}"
    );
}

/// Nothing of its own is under way when the network dies: only by asking can a receiver find out
/// that nobody is there.
#[test]
fn a_receiver_asks_after_a_silent_peer_and_knows_how_long_it_has_been_alone() {
    let start = Timestamp::from_nanos(1_000_000_000);
    let mut rx = RxEngine::new(EngineConfig::default(), start);
    rx.handle_path_up(0, 1, None);
    rx.handle_path_up(1, 1, None);
    rx.answer_open(1, true);
    let mut buffer = vec![0u8; 100_000];
    let range = MemRange {
        addr: buffer.as_mut_ptr() as u64,
        len: 100_000,
    };
    rx.post(1, 1, 0, range, Keys::default());
    let mut pings = 0;
    for ms in 0..1000 {
        let now = start + Nanos::from_millis(ms);
        let dead = ms >= 100;
        for path in 0..2 {
            if rx.wants_stats(path) {
                rx.handle_stats(
                    path,
                    &stats(dead, start + Nanos(u64::from(!dead) * ms)),
                    now,
                );
            }
        }
        rx.handle_timeout(now);
        while let Some(t) = rx.poll_ack(true).or_else(|| rx.poll_transmit()) {
            let frame = Frame::decode(t.header.as_bytes()).unwrap();
            pings += usize::from(matches!(frame, Frame::Ping { .. }));
        }
    }
    assert!((4..=8).contains(&pings), "{pings} pings on two paths");
    let alone = (start + Nanos::from_millis(999)).since(rx.last_life());
    assert!(
        (600..=800).contains(&alone.as_millis()),
        "asked at 250 ms, suspect 20 ms later: {alone:?}"
    );
}
