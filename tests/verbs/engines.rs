//! Both engines over several channels at once, driven by random operations as their two drivers
//! drive them: whatever fails, at either end or between them, no byte is wrong, none is written
//! outside its buffer or after its receive was reported done, none is lost, and every request ends.
//!
//! The time is the test's own. What a channel says of the real one is left aside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use proptest::prelude::*;
use thalweg::clock::Timestamp;
use thalweg::control::{AnyController, Delay, DelayConfig, Fixed};
use thalweg::driver::{rx_link, tx_link};
use thalweg::engine::wire::{Frame, Keys, PathCount};
use thalweg::engine::{
    Completions, EngineConfig, FenceReason, MemRange, PortSignals, RecvError, RxAction, RxEngine,
    SendError, Sink, Submitted, Transmit, TxAction, TxEngine, TxEvent, Violation,
};
use thalweg::path::select::{Adaptive, AnySelector};
use thalweg::transport::verbs::RECEIVES_DATA;
use thalweg::transport::verbs::channel::{Role, VerbsChannel};
use thalweg::transport::{Channel, ChannelError, Receiver, Sent};
use thalweg::units::{Bytes, Nanos, Rate};

use super::fabric::{Fabric, MockPair, RETRIES_EXCEEDED, Random};
use super::property;

type Path = VerbsChannel<MockPair>;

const PATHS: usize = 4;
/// Ports of the sender, for all paths in turn.
const PORTS: u8 = 2;
const EAGER_BYTES: u32 = 2000;
const RECEIVER: Role = Role::Receiver {
    eager_bytes: EAGER_BYTES,
};
/// Receives for control frames.
const CONTROL: usize = 64;
/// Between two looks at everything.
const TICK: Nanos = Nanos(250_000);
/// Drivers look at their timers no more often.
const TIMER_GAP: Nanos = Nanos(1_000_000);
/// A dial takes as long.
const DIAL: Nanos = Nanos(400_000);
/// An adapter that is not acknowledged gives up after about so long: sooner than ours are told to, so
/// that it happens in a run.
const RETRIES: Nanos = Nanos(35_000_000);
/// The largest message, and a buffer for one whose length is not known.
const MESSAGE: u32 = 400_000;
const GUARD: usize = 64;
/// Requests of each kind that are outstanding at once.
const MOST: usize = 40;

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
    /// Nothing gets through, there, back or both ways, until it is healed.
    Cut {
        path: u8,
        ways: u8,
    },
    Heal {
        path: u8,
    },
    /// The sender's queue pair fails; what it had under way may have arrived.
    FailSender {
        path: u8,
    },
    FailReceiver {
        path: u8,
    },
    /// What arrives is not acknowledged any more.
    LoseAcknowledgements {
        path: u8,
    },
    /// The next requests of an end are refused after so many.
    Refuse {
        path: u8,
        at_receiver: bool,
        accepted: u8,
    },
    Overrun {
        path: u8,
    },
    Slow {
        path: u8,
        factor: u8,
    },
    /// The socket of the path does not tell that the other end is gone.
    Deafen {
        path: u8,
    },
    FailDial,
    /// The next dial fails when the receiver has taken it in.
    LoseWelcome,
    PauseSender {
        us: u32,
    },
    PauseReceiver {
        us: u32,
    },
    /// What the adapter of a port has counted.
    Count {
        port: u8,
        lost: u8,
        congested: bool,
    },
    /// The last connection is closed at one end, and another takes its place.
    Close {
        at_receiver: bool,
    },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let size = prop_oneof![
        2 => Just(0u32),
        4 => 1u32..=EAGER_BYTES,
        6 => EAGER_BYTES + 1..30_000,
        4 => 30_000u32..=MESSAGE,
    ];
    let path = || 0..PATHS as u8;
    let operation = prop_oneof![
        12 => (0u8..3, size, 0u8..2).prop_map(|(conn, size, tag)| Operation::Send { conn, size, tag }),
        12 => (0u8..3, 0u8..2).prop_map(|(conn, tag)| Operation::Receive { conn, tag }),
        10 => (1u32..20_000).prop_map(|us| Operation::Advance { us }),
        2 => (path(), 1u8..4).prop_map(|(path, ways)| Operation::Cut { path, ways }),
        2 => path().prop_map(|path| Operation::Heal { path }),
        2 => path().prop_map(|path| Operation::FailSender { path }),
        2 => path().prop_map(|path| Operation::FailReceiver { path }),
        2 => path().prop_map(|path| Operation::LoseAcknowledgements { path }),
        2 => (path(), any::<bool>(), 0u8..4).prop_map(|(path, at_receiver, accepted)| {
            Operation::Refuse { path, at_receiver, accepted }
        }),
        1 => path().prop_map(|path| Operation::Overrun { path }),
        1 => (path(), 1u8..30).prop_map(|(path, factor)| Operation::Slow { path, factor }),
        1 => path().prop_map(|path| Operation::Deafen { path }),
        1 => Just(Operation::FailDial),
        1 => Just(Operation::LoseWelcome),
        2 => (1u32..40_000).prop_map(|us| Operation::PauseSender { us }),
        2 => (1u32..40_000).prop_map(|us| Operation::PauseReceiver { us }),
        3 => (0..PORTS, 0u8..3, any::<bool>()).prop_map(|(port, lost, congested)| {
            Operation::Count { port, lost, congested }
        }),
        1 => any::<bool>().prop_map(|at_receiver| Operation::Close { at_receiver }),
    ];
    prop::collection::vec(operation, 1..100)
}

/// What a run is like, beside its operations.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each changes one thing by itself"
)]
#[derive(Debug, Clone, Copy)]
struct Setting {
    seed: u64,
    chunk_bytes: u32,
    /// As much as the receives allow, or what the delay controller does.
    wide: bool,
    /// Adapters never give up by themselves.
    patient: bool,
    /// Looks at a queue find less than there is.
    shy: bool,
    /// Queue pairs are written through after they have failed: no adapter does that.
    leaky: bool,
}

const PLAIN: Setting = Setting {
    seed: 1,
    chunk_bytes: 4096,
    wide: true,
    patient: false,
    shy: false,
    leaky: false,
};

fn settings() -> impl Strategy<Value = Setting> {
    let chunks = prop_oneof![Just(4096u32), Just(16_384)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (any::<u64>(), chunks, flags).prop_map(|(seed, chunk_bytes, (wide, patient, shy))| Setting {
        seed,
        chunk_bytes,
        wide,
        patient,
        shy,
        leaky: false,
    })
}

/// One end of a path. The two hold the same line: whose other end is gone has it alone.
struct End {
    channel: Path,
    epoch: u16,
    line: Rc<()>,
    /// When each frame was given, of those that have not arrived.
    given: VecDeque<Timestamp>,
    stuck_since: Option<Timestamp>,
}

impl End {
    fn new(channel: Path, epoch: u16, line: Rc<()>) -> Self {
        Self {
            channel,
            epoch,
            line,
            given: VecDeque::new(),
            stuck_since: None,
        }
    }

    fn other_is_gone(&self) -> bool {
        Rc::strong_count(&self.line) == 1
    }
}

/// A dial that has been asked for, or waits for its proof.
struct Dial {
    path: u8,
    epoch: u16,
    fence: Option<u16>,
    at: Timestamp,
    gives_up_at: Timestamp,
    proving: Option<(End, Option<PathCount>)>,
}

/// What lies between the two ends of a path, whichever they are.
#[derive(Debug, Default, Clone, Copy)]
struct Way {
    cut_there: bool,
    cut_back: bool,
    deaf: bool,
    slow: u32,
}

/// A buffer of a receive, with something on both sides that nobody may write to.
struct Posted {
    conn: u32,
    tag: u8,
    ordinal: u32,
    memory: Vec<u8>,
    key: Option<u32>,
    done: bool,
}

struct Submission {
    conn: u32,
    data: Vec<u8>,
    key: Option<u32>,
    done: bool,
}

struct World {
    fabric: Fabric,
    random: Random,
    setting: Setting,
    now: Timestamp,
    tx: TxEngine,
    rx: RxEngine,
    senders: Vec<Option<End>>,
    receivers: Vec<Option<End>>,
    /// Of the receiver's last channels.
    epochs: [u16; PATHS],
    ways: Vec<Way>,
    dials: Vec<Dial>,
    fail_dials: u32,
    lose_welcomes: u32,
    sender_sleeps_until: Timestamp,
    receiver_sleeps_until: Timestamp,
    sender_looked_at: Timestamp,
    timers_at: (Timestamp, Timestamp),
    sent: BTreeMap<u64, Submission>,
    received: BTreeMap<u64, Posted>,
    /// Buffers that were taken back, whose receives never ended.
    revoked: Vec<Vec<u8>>,
    next_token: u64,
    conns: Vec<u32>,
    next_listener: u64,
    /// Closed at one end.
    closed: BTreeSet<u32>,
    lengths: BTreeMap<(u32, u8, u32), u32>,
    send_ordinals: BTreeMap<(u32, u8), u32>,
    receive_ordinals: BTreeMap<(u32, u8), u32>,
    fences: Vec<FenceReason>,
    replayed: usize,
    failure: Option<String>,
}

/// The sending driver's, in the test's time.
struct SenderInbound<'a> {
    driver: tx_link::Inbound<'a>,
    given: &'a mut VecDeque<Timestamp>,
    now: Timestamp,
    /// Somebody looked a moment ago.
    lately: bool,
}

impl Receiver for SenderInbound<'_> {
    fn frame(&mut self, header: &[u8], arrived_ns: u64) -> Result<Option<Sink>, Violation> {
        self.driver.frame(header, arrived_ns)
    }

    fn payload_done(&mut self) {
        self.driver.payload_done();
    }

    fn sent(&mut self, sent: Sent) {
        self.driver.sent(Sent {
            given_at: self.given.pop_front().expect("it was given before"),
            completed_at: self.lately.then_some(self.now),
            ..sent
        });
    }
}

/// The receiving driver's, likewise.
struct ReceiverInbound<'a>(rx_link::Inbound<'a>);

impl Receiver for ReceiverInbound<'_> {
    fn frame(&mut self, header: &[u8], _arrived_ns: u64) -> Result<Option<Sink>, Violation> {
        self.0.frame(header, 1)
    }

    fn payload_done(&mut self) {
        self.0.payload_done();
    }

    fn written(&mut self, immediate: u32, bytes: u32) -> Result<(), Violation> {
        self.0.written(immediate, bytes)
    }
}

impl World {
    fn new(setting: Setting) -> Self {
        let now = Timestamp::from_nanos(1_000_000_000);
        let config = EngineConfig {
            paths_max: PATHS as u8,
            search: false,
            rehash: true,
            ports: PORTS,
            eager_bytes: EAGER_BYTES,
            chunk_bytes: Some(setting.chunk_bytes),
            completions: Completions::Local,
            receive_depth: Some(RECEIVES_DATA),
            dead_peer: Nanos::from_secs(300),
            ..EngineConfig::default()
        };
        let chunk = Bytes(setting.chunk_bytes.into());
        let controller = if setting.wide {
            AnyController::Fixed(Fixed::new(Bytes(16 << 20)))
        } else {
            let rate = Rate::from_mbps(100_000);
            AnyController::Delay(Delay::new(DelayConfig::for_rdma(rate, chunk, 1)))
        };
        let fabric = Fabric::new(setting.seed);
        fabric.is_shy(setting.shy);
        fabric.delay(20);
        let mut world = Self {
            fabric,
            random: Random(!setting.seed),
            setting,
            now,
            tx: TxEngine::new(config, controller, AnySelector::Adaptive(Adaptive), now),
            rx: RxEngine::new(config, now),
            senders: (0..PATHS).map(|_| None).collect(),
            receivers: (0..PATHS).map(|_| None).collect(),
            epochs: [0; PATHS],
            ways: vec![Way::default(); PATHS],
            dials: Vec::new(),
            fail_dials: 0,
            lose_welcomes: 0,
            sender_sleeps_until: now,
            receiver_sleeps_until: now,
            sender_looked_at: now,
            timers_at: (now, now),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            revoked: Vec::new(),
            next_token: 1,
            conns: Vec::new(),
            next_listener: 1,
            closed: BTreeSet::new(),
            lengths: BTreeMap::new(),
            send_ordinals: BTreeMap::new(),
            receive_ordinals: BTreeMap::new(),
            fences: Vec::new(),
            replayed: 0,
            failure: None,
        };
        world.conns = (0..3).map(|_| world.open()).collect();
        world.advance(100_000);
        for &conn in &world.conns {
            assert_eq!(world.tx.opened(conn), Some(true), "a healthy network");
        }
        assert_eq!(world.senders.iter().flatten().count(), PATHS);
        world
    }

    fn open(&mut self) -> u32 {
        self.next_listener += 1;
        self.tx.open(self.next_listener)
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Send { conn, size, tag } => self.send(conn, size, tag),
            Operation::Receive { conn, tag } => self.receive(self.conns[usize::from(conn)], tag),
            Operation::Advance { us } => self.advance(us),
            Operation::Cut { path, ways } => {
                let way = &mut self.ways[usize::from(path)];
                way.cut_there |= ways & 1 != 0;
                way.cut_back |= ways & 2 != 0;
            }
            Operation::Heal { path } => {
                let way = &mut self.ways[usize::from(path)];
                (way.cut_there, way.cut_back, way.deaf) = (false, false, false);
            }
            Operation::FailSender { path } => {
                self.at(path, false, |pair| pair.fail(RETRIES_EXCEEDED));
            }
            Operation::FailReceiver { path } => {
                self.at(path, true, |pair| pair.fail(RETRIES_EXCEEDED));
            }
            Operation::LoseAcknowledgements { path } => {
                self.at(path, false, |pair| pair.lose_acknowledgements(true));
            }
            Operation::Refuse {
                path,
                at_receiver,
                accepted,
            } => self.at(path, at_receiver, |pair| pair.fail_post(accepted.into())),
            // A receiver's cannot overrun: what it lost, the other end would take for received.
            Operation::Overrun { path } => self.at(path, false, MockPair::overrun),
            Operation::Slow { path, factor } => {
                self.ways[usize::from(path)].slow = factor.into();
            }
            Operation::Deafen { path } => self.ways[usize::from(path)].deaf = true,
            Operation::FailDial => self.fail_dials += 1,
            Operation::LoseWelcome => self.lose_welcomes += 1,
            Operation::PauseSender { us } => {
                self.sender_sleeps_until = self.now + Nanos::from_micros(us.into());
            }
            Operation::PauseReceiver { us } => {
                self.receiver_sleeps_until = self.now + Nanos::from_micros(us.into());
            }
            Operation::Count {
                port,
                lost,
                congested,
            } => {
                let signals = PortSignals {
                    sent: 100,
                    packet_bytes: 0,
                    lost: lost.into(),
                    congested_for: Nanos::from_millis(u64::from(congested)),
                };
                self.tx.handle_signals(port, &signals, self.now);
            }
            Operation::Close { at_receiver } => self.close(at_receiver),
        }
        self.condition();
        self.fabric.run(3);
        self.drive(false);
    }

    fn at(&self, path: u8, at_receiver: bool, fault: impl FnOnce(&MockPair)) {
        let ends = if at_receiver {
            &self.receivers
        } else {
            &self.senders
        };
        if let Some(end) = &ends[usize::from(path)] {
            fault(end.channel.pair());
        }
    }

    /// Puts the queue pairs of each path under the conditions of its way.
    fn condition(&self) {
        for (path, way) in self.ways.iter().enumerate() {
            let dials = self
                .dials
                .iter()
                .filter(|dial| usize::from(dial.path) == path);
            let proving = dials.filter_map(|dial| dial.proving.as_ref().map(|(end, _)| end));
            for end in self.senders[path].iter().chain(proving) {
                end.channel.pair().set_silent(way.cut_there);
                end.channel.pair().set_slow(way.slow);
            }
            if let Some(end) = &self.receivers[path] {
                end.channel.pair().set_silent(way.cut_back);
            }
        }
    }

    // ---- the applications ----

    fn send(&mut self, conn: u8, size: u32, tag: u8) {
        if self.sent.values().filter(|sent| !sent.done).count() >= MOST {
            return;
        }
        let conn = self.conns[usize::from(conn)];
        if self.tx.opened(conn) != Some(true) {
            return; // nobody has the connection before
        }
        let ordinal = self.send_ordinals.entry((conn, tag)).or_default();
        let this = *ordinal;
        *ordinal += 1;
        self.lengths.insert((conn, tag, this), size);
        let data: Vec<u8> = (0..size as usize)
            .map(|at| property::byte_of(conn, tag, this, at))
            .collect();
        let range = MemRange {
            addr: data.as_ptr() as u64,
            len: data.len() as u64,
        };
        let key = self.fabric.register(data.as_ptr(), data.len());
        let token = self.token();
        let keys = Keys::new(&[key]).unwrap();
        match self.tx.submit(conn, token, tag.into(), range, keys) {
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
                // The caller's buffer is free at once.
                self.fabric.deregister(key);
            }
            Submitted::Queued => {
                let submission = Submission {
                    conn,
                    data,
                    key: Some(key),
                    done: false,
                };
                self.sent.insert(token, submission);
            }
        }
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn receive(&mut self, conn: u32, tag: u8) {
        let pending = self.received.values().filter(|posted| !posted.done).count();
        if pending >= MOST || !self.rx.conns().any(|known| known == conn) {
            return;
        }
        let ordinal = self.receive_ordinals.entry((conn, tag)).or_default();
        let this = *ordinal;
        *ordinal += 1;
        // As large as needed and no larger where that is known: a byte too many would be seen.
        let known = self.lengths.get(&(conn, tag, this)).copied();
        let capacity = known.unwrap_or(MESSAGE) as usize;
        let mut memory = vec![0u8; capacity + 2 * GUARD];
        let key = self.fabric.register(memory.as_ptr(), memory.len());
        let range = MemRange {
            addr: memory[GUARD..].as_mut_ptr() as u64,
            len: capacity as u64,
        };
        let token = self.token();
        let posted = Posted {
            conn,
            tag,
            ordinal: this,
            memory,
            key: Some(key),
            done: false,
        };
        self.received.insert(token, posted);
        let keys = Keys::new(&[key]).unwrap();
        self.rx.post(conn, token, tag.into(), range, keys);
    }

    /// As the drivers close: when it returns, no buffer of the connection is used any more.
    fn close(&mut self, at_receiver: bool) {
        let conn = self.conns[2];
        if self.tx.opened(conn) != Some(true) || !self.rx.conns().any(|known| known == conn) {
            return;
        }
        self.closed.insert(conn);
        if at_receiver {
            if self.rx.has_credits(conn) {
                for path in 0..PATHS {
                    if self.receivers[path].is_some() {
                        self.silence(path);
                        self.receiver_broken(path);
                    }
                }
            }
            self.rx.close(conn);
            self.drive_receiver(false);
            let of_it = |posted: &Posted| posted.conn == conn && !posted.done;
            let taken: Vec<u64> = self
                .received
                .iter()
                .filter(|(_, p)| of_it(p))
                .map(|(t, _)| *t)
                .collect();
            for token in taken {
                let mut posted = self.received.remove(&token).unwrap();
                posted.memory.fill(0xcc);
                self.release(token, posted.key);
                self.revoked.push(posted.memory);
            }
        } else {
            self.close_sender(conn);
        }
        self.conns[2] = self.open();
    }

    fn close_sender(&mut self, conn: u32) {
        if self.tx.close(conn) {
            for path in 0..PATHS {
                if let Some(end) = &self.senders[path]
                    && end.channel.holds(conn)
                {
                    let epoch = end.epoch;
                    self.tx.handle_path_error(path as u8, epoch, self.now);
                }
            }
        }
        self.drive_sender(false);
        let held = self
            .senders
            .iter()
            .flatten()
            .any(|end| end.channel.holds(conn));
        assert!(!held, "a closed connection's buffers may be read");
        let of_it = |sent: &Submission| sent.conn == conn && !sent.done;
        let taken: Vec<u64> = self
            .sent
            .iter()
            .filter(|(_, s)| of_it(s))
            .map(|(t, _)| *t)
            .collect();
        for token in taken {
            let sent = self.sent.remove(&token).unwrap();
            self.release(token, sent.key);
        }
    }

    /// Some deregister what they need no longer, and some never do.
    fn release(&self, token: u64, key: Option<u32>) {
        if let Some(key) = key.filter(|_| !token.is_multiple_of(3)) {
            self.fabric.deregister(key);
        }
    }

    // ---- time ----

    fn advance(&mut self, us: u32) {
        let end = self.now + Nanos::from_micros(us.into());
        while self.now < end {
            self.now = (self.now + TICK).min(end);
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.condition();
        let steps = self.random.below(150);
        let mut idle = 0;
        for _ in 0..steps {
            idle = if self.fabric.step() { 0 } else { idle + 1 };
            if idle > 30 {
                break;
            }
        }
        self.give_up();
        // The control plane has a thread of its own.
        self.dial();
        self.drive(true);
    }

    /// Both ends, as far as they are awake.
    fn drive(&mut self, progress: bool) {
        if self.now >= self.sender_sleeps_until {
            self.drive_sender(progress);
        }
        if self.now >= self.receiver_sleeps_until {
            self.drive_receiver(progress);
        }
    }

    /// Adapters send again for so long and no longer.
    fn give_up(&mut self) {
        if self.setting.patient {
            return;
        }
        for end in self.senders.iter_mut().chain(&mut self.receivers).flatten() {
            let pair = end.channel.pair();
            if !pair.is_stuck() {
                end.stuck_since = None;
            } else if self.now.since(*end.stuck_since.get_or_insert(self.now)) >= RETRIES {
                pair.fail(RETRIES_EXCEEDED);
            }
        }
    }

    fn dial(&mut self) {
        for mut dial in std::mem::take(&mut self.dials) {
            if self.now < dial.at {
                self.dials.push(dial);
                continue;
            }
            let outcome = match dial.proving.take() {
                None => self.begin(&dial).map(|begun| dial.proving = begun),
                Some((mut end, previous)) => match end.channel.prove() {
                    Ok(true) => {
                        self.up(&dial, end, previous);
                        continue;
                    }
                    Ok(false) if self.now < dial.gives_up_at => {
                        dial.proving = Some((end, previous));
                        Some(())
                    }
                    Ok(false) | Err(_) => None,
                },
            };
            match outcome {
                Some(()) => self.dials.push(dial),
                None => self.tx.handle_dial_failed(dial.path, dial.epoch, self.now),
            }
        }
    }

    /// The receiver takes the channel in, and the sender asks whether anything gets through.
    #[expect(clippy::option_option, reason = "the inner one is the dial's")]
    fn begin(&mut self, dial: &Dial) -> Option<Option<(End, Option<PathCount>)>> {
        let path = usize::from(dial.path);
        let way = self.ways[path];
        if way.cut_there || way.cut_back || self.fail_dials > 0 {
            self.fail_dials = self.fail_dials.saturating_sub(1);
            return None;
        }
        if !self.rx.admits_channel(dial.path, dial.epoch) {
            return None;
        }
        let (sender, receiver) = self.fabric.connect((Role::Sender, RECEIVER));
        let make = |pair, role| VerbsChannel::new(pair, role, (0, 0), self.fabric.slab());
        let line = Rc::new(());
        let sender = make(sender, Role::Sender).unwrap();
        let receiver = make(receiver, RECEIVER).unwrap();
        let mut sender = End::new(sender, dial.epoch, Rc::clone(&line));
        let receiver = End::new(receiver, dial.epoch, line);
        self.silence(path);
        let previous = self.rx.handle_path_up(dial.path, dial.epoch, dial.fence);
        if self.setting.leaky {
            receiver.channel.pair().set_leaky();
        }
        self.receivers[path] = Some(receiver);
        self.epochs[path] = dial.epoch;
        if self.lose_welcomes > 0 {
            self.lose_welcomes -= 1;
            return None;
        }
        let ping = Frame::Ping { id: 0, sent_ns: 0 }.encode();
        sender.channel.queue(ping, MemRange::default(), 0);
        sender.channel.flush().ok()?;
        Some(Some((sender, previous)))
    }

    fn up(&mut self, dial: &Dial, end: End, previous: Option<PathCount>) {
        let path = usize::from(dial.path);
        self.senders[path] = Some(end);
        self.tx.limit_eager(EAGER_BYTES);
        self.tx
            .handle_path_up(dial.path, dial.epoch, previous, self.now);
    }

    // ---- the sending driver ----

    fn drive_sender(&mut self, progress: bool) {
        if progress {
            for path in 0..PATHS {
                self.receive_sender(path);
            }
            self.sender_looked_at = self.now;
        }
        if progress && self.now >= self.timers_at.0 {
            self.timers_at.0 = self.now + TIMER_GAP;
            self.sender_timers();
        }
        for path in 0..PATHS {
            if self.tx.wants_backlog(path as u8)
                && let Some(end) = &mut self.senders[path]
            {
                let bytes = end.channel.backlog();
                self.tx.handle_backlog(path as u8, bytes, self.now);
            }
        }
        self.transmit_sender();
        self.act_sender();
        self.report_sender();
    }

    fn receive_sender(&mut self, path: usize) -> usize {
        let Some(end) = &mut self.senders[path] else {
            return 0;
        };
        let mut inbound = SenderInbound {
            driver: tx_link::Inbound::new(&mut self.tx, path as u8, end.epoch, self.now),
            given: &mut end.given,
            now: self.now,
            lately: self.now.since(self.sender_looked_at) <= TICK,
        };
        let received = end.channel.receive(&mut [], &mut inbound);
        inbound.driver.tell();
        match received {
            Ok(count) => count,
            Err(error) => {
                assert!(!matches!(error, ChannelError::Violation(_)), "{error}");
                let epoch = end.epoch;
                self.tx.handle_path_error(path as u8, epoch, self.now);
                0
            }
        }
    }

    fn sender_broken(&mut self, path: usize) {
        while self.receive_sender(path) > 0 {}
        if let Some(end) = &self.senders[path] {
            let epoch = end.epoch;
            self.tx.handle_path_error(path as u8, epoch, self.now);
        }
    }

    fn sender_timers(&mut self) {
        for path in 0..PATHS {
            let Some(end) = &mut self.senders[path] else {
                continue;
            };
            if self.tx.wants_stats(path as u8) {
                let stats = end.channel.stats();
                self.tx.handle_stats(path as u8, stats, self.now);
            }
            let way = self.ways[path];
            if end.other_is_gone() && !(way.cut_back || way.deaf) {
                self.sender_broken(path);
            }
        }
        self.tx.handle_timeout(self.now);
    }

    fn transmit_sender(&mut self) {
        while let Some(transmit) = self.tx.poll_transmit(self.now) {
            let (Transmit::Control { path, .. }
            | Transmit::Probe { path, .. }
            | Transmit::Data { path, .. }) = transmit;
            let Some(end) = &mut self.senders[usize::from(path)] else {
                continue;
            };
            end.given.push_back(self.now);
            match transmit {
                Transmit::Control { header, .. } => {
                    end.channel.queue(header, MemRange::default(), 0);
                }
                Transmit::Probe { id, .. } => {
                    let sent_ns = self.now.as_nanos();
                    let ping = Frame::Ping { id, sent_ns }.encode();
                    end.channel.queue(ping, MemRange::default(), 0);
                }
                Transmit::Data {
                    header,
                    write,
                    source,
                    conn,
                    ..
                } => {
                    match write {
                        Some(write) => end.channel.write(write, source, conn),
                        None => end.channel.send(header, source, true),
                    }
                    self.tx.handle_departure(path, self.now);
                }
            }
        }
        for path in 0..PATHS {
            if let Some(end) = &mut self.senders[path]
                && end.channel.has_unsent()
                && end.channel.flush().is_err()
            {
                self.sender_broken(path);
            }
        }
    }

    fn act_sender(&mut self) {
        while let Some(action) = self.tx.poll_action() {
            match action {
                TxAction::Dial {
                    path,
                    epoch,
                    fence,
                    deadline,
                    ..
                } => self.dials.push(Dial {
                    path,
                    epoch,
                    fence,
                    at: self.now + DIAL,
                    gives_up_at: self.now + deadline,
                    proving: None,
                }),
                TxAction::Close { path, epoch } => {
                    let end = &mut self.senders[usize::from(path)];
                    if end.as_ref().is_some_and(|end| end.epoch == epoch) {
                        *end = None;
                    }
                }
            }
        }
    }

    fn report_sender(&mut self) {
        while let Some(done) = self.tx.poll_completion() {
            let sent = self.sent.get_mut(&done.token).expect("it was submitted");
            assert!(!sent.done, "a send ended twice");
            sent.done = true;
            match done.result {
                Ok(len) => assert_eq!(len, sent.data.len() as u64),
                Err(error) => {
                    assert_eq!(error, SendError::PeerClosed);
                    assert!(self.closed.contains(&sent.conn), "nobody closed it");
                }
            }
            // The buffer is the caller's again.
            sent.data.fill(0xdd);
            let key = sent.key.take();
            self.release(done.token, key);
        }
        while let Some(event) = self.tx.poll_event() {
            match event {
                TxEvent::Fenced { reason, .. } => self.fences.push(reason),
                TxEvent::Replayed { frames, .. } => self.replayed += frames,
                TxEvent::Failed { reason, .. } => self.failure = Some(reason),
                _ => {}
            }
        }
    }

    // ---- the receiving driver ----

    fn drive_receiver(&mut self, progress: bool) {
        if progress {
            for path in 0..PATHS {
                self.receive_receiver(path);
            }
        }
        let late = progress && self.now >= self.timers_at.1;
        if late {
            self.timers_at.1 = self.now + TIMER_GAP;
            self.receiver_timers();
        }
        self.act_receiver();
        self.transmit_receiver(late);
        self.report_receiver();
    }

    fn receive_receiver(&mut self, path: usize) {
        let Some(end) = &mut self.receivers[path] else {
            return;
        };
        let mut inbound =
            ReceiverInbound(rx_link::Inbound::new(&mut self.rx, path as u8, self.now));
        if let Err(error) = end.channel.receive(&mut [], &mut inbound) {
            assert!(!matches!(error, ChannelError::Violation(_)), "{error}");
            self.receiver_broken(path);
        }
    }

    /// Takes in what has come over a path, and closes it.
    fn silence(&mut self, path: usize) {
        if let Some(mut end) = self.receivers[path].take() {
            let mut inbound =
                ReceiverInbound(rx_link::Inbound::new(&mut self.rx, path as u8, self.now));
            end.channel.silence(&mut [], &mut inbound);
            let pair = end.channel.pair();
            let all = pair.completions() == 0 || pair.was_refused();
            assert!(all, "something is left of a silent path");
        }
    }

    fn receiver_broken(&mut self, path: usize) {
        self.receivers[path] = None;
        let epoch = self.epochs[path];
        self.rx.handle_path_down(path as u8, epoch);
    }

    fn receiver_timers(&mut self) {
        for path in 0..PATHS {
            let Some(end) = &mut self.receivers[path] else {
                continue;
            };
            if self.rx.wants_stats(path as u8) {
                let stats = end.channel.stats();
                self.rx.handle_stats(path as u8, &stats, self.now);
            }
            let way = self.ways[path];
            if end.other_is_gone() && !(way.cut_there || way.deaf) {
                self.silence(path);
                self.receiver_broken(path);
            }
        }
        self.rx.handle_timeout(self.now);
    }

    fn act_receiver(&mut self) {
        while let Some(action) = self.rx.poll_action() {
            match action {
                RxAction::Silence { path, epoch } => {
                    self.silence(usize::from(path));
                    self.rx.handle_silenced(path, epoch);
                }
                RxAction::Opened { conn, .. } => {
                    let accepted = !self.closed.contains(&conn);
                    self.rx.answer_open(conn, accepted);
                }
                RxAction::Goodbye => {}
            }
        }
    }

    fn transmit_receiver(&mut self, late: bool) {
        while let Some(t) = self.rx.poll_ack(late).or_else(|| self.rx.poll_transmit()) {
            if let Some(end) = &mut self.receivers[usize::from(t.path)] {
                end.channel.queue(t.header, MemRange::default(), 0);
            }
        }
        for path in 0..PATHS {
            if let Some(end) = &mut self.receivers[path]
                && end.channel.has_unsent()
                && end.channel.flush().is_err()
            {
                self.silence(path);
                self.receiver_broken(path);
            }
        }
    }

    fn report_receiver(&mut self) {
        while let Some((data, target)) = self.rx.poll_copy() {
            // SAFETY: the engine made `target` a part of a posted buffer.
            unsafe {
                std::ptr::copy_nonoverlapping(data.as_ptr(), target.addr as *mut u8, data.len());
            }
        }
        while let Some(done) = self.rx.poll_completion() {
            let posted = self.received.get_mut(&done.token).expect("it was posted");
            assert!(!posted.done, "a receive ended twice");
            posted.done = true;
            let Posted {
                conn,
                tag,
                ordinal,
                ref memory,
                ..
            } = *posted;
            match done.result {
                Ok(len) => {
                    let len = len as usize;
                    let expected = self.lengths.get(&(conn, tag, ordinal));
                    assert_eq!(expected, Some(&(len as u32)), "length");
                    let message = &memory[GUARD..][..len];
                    let wrong = message
                        .iter()
                        .enumerate()
                        .position(|(at, &byte)| byte != property::byte_of(conn, tag, ordinal, at));
                    assert_eq!(
                        wrong, None,
                        "a byte of message {ordinal} with tag {tag} on connection {conn}"
                    );
                    let around = memory[..GUARD].iter().chain(&memory[GUARD + len..]);
                    assert!(
                        around.into_iter().all(|&byte| byte == 0),
                        "written outside its buffer"
                    );
                }
                Err(error) => {
                    assert_eq!(error, RecvError::PeerClosed);
                    assert!(self.closed.contains(&conn), "nobody closed it");
                }
            }
            // The buffer is used for something else.
            posted.memory.fill(0xee);
            let key = posted.key.take();
            self.release(done.token, key);
        }
    }

    // ---- the end ----

    fn unfinished(&self) -> (usize, usize) {
        let sends = self.sent.values().filter(|sent| !sent.done).count();
        let has_message = |posted: &&Posted| {
            let name = (posted.conn, posted.tag, posted.ordinal);
            let closed = self.closed.contains(&posted.conn);
            !posted.done && (closed || self.lengths.contains_key(&name))
        };
        (sends, self.received.values().filter(has_message).count())
    }

    /// Heals everything, posts what is missing, and expects every request to end.
    fn finish(&mut self) {
        self.fail_dials = 0;
        self.lose_welcomes = 0;
        self.ways = vec![Way::default(); PATHS];
        self.advance(50_000);
        for (&(conn, tag), &count) in &self.send_ordinals.clone() {
            let posted = |world: &Self| {
                let ordinal = world.receive_ordinals.get(&(conn, tag)).copied();
                ordinal.unwrap_or(0)
            };
            let mut rounds = 0;
            while posted(self) < count && !self.closed.contains(&conn) {
                self.receive(conn, tag);
                self.advance(1000);
                rounds += 1;
                assert!(rounds < 20_000, "no receive can be posted");
            }
        }
        self.wait(|world| world.unfinished() == (0, 0));
        // The other ends hear of it, and close too.
        for conn in self.closed.clone() {
            if self.rx.conns().any(|known| known == conn) {
                self.wait(|world| world.rx.peer_closed(conn));
                self.rx.close(conn);
            } else {
                self.close_sender(conn);
            }
        }
        self.wait(|world| world.tx.conns() == 3 && world.rx.conns().count() == 3);
        self.advance(100_000);
        assert_eq!(self.failure, None);
        let twice = self.rx.duplicates();
        assert_eq!(twice, 0, "what a path's count has told is not sent again");
        self.check_memory();
    }

    fn wait(&mut self, is_over: impl Fn(&Self) -> bool) {
        for _ in 0..600 {
            if is_over(self) {
                return;
            }
            self.advance(5000);
        }
        let (sends, receives) = self.unfinished();
        panic!(
            "{sends} sends and {receives} receives never end; {:?}",
            self.failure
        );
    }

    fn check_memory(&self) {
        for posted in self.received.values() {
            let expected = if posted.done { 0xee } else { 0 };
            assert!(
                posted.memory.iter().all(|&byte| byte == expected),
                "a buffer was written before or after its receive"
            );
        }
        for memory in &self.revoked {
            let untouched = memory.iter().all(|&byte| byte == 0xcc);
            assert!(untouched, "a buffer was written after it was taken back");
        }
        assert_eq!(self.fabric.strays(), 0, "memory was used after its time");
        for wait in self.fabric.waits() {
            assert!(
                !wait.is_data || wait.taken_by_control > CONTROL,
                "more data than receives: {wait:?}"
            );
        }
    }

    /// Everything is given back.
    fn end(mut self) {
        let fabric = self.fabric.clone();
        for submission in self.sent.values_mut() {
            submission.key = None;
        }
        drop(self);
        assert_eq!(fabric.live(), 0, "queue pairs are left");
    }
}

fn run(setting: Setting, operations: &[Operation]) {
    let mut world = World::new(setting);
    for operation in operations {
        world.apply(operation);
    }
    world.finish();
    world.end();
}

proptest! {
    #![proptest_config(property::seeded("tests/verbs/engines.seeds", 4_791))]

    #[test]
    fn nothing_is_lost_or_written_late(setting in settings(), operations in operations()) {
        run(setting, &operations);
    }
}

fn bulk(world: &mut World, messages: u32, size: u32) {
    for k in 0..messages {
        let conn = (k % 3) as u8;
        let id = world.conns[usize::from(conn)];
        world.receive(id, 0);
        world.send(conn, size, 0);
    }
}

#[test]
fn a_clean_run_has_no_fence_and_nothing_twice() {
    for wide in [true, false] {
        let setting = Setting { wide, ..PLAIN };
        let mut world = World::new(setting);
        for _ in 0..3 {
            bulk(&mut world, 40, 300_000);
            bulk(&mut world, 40, 500);
            world.advance(50_000);
        }
        world.finish();
        assert_eq!((world.fences.len(), world.replayed), (0, 0), "{wide}");
        assert_eq!(world.rx.duplicates(), 0, "{wide}");
        assert!(world.fabric.waits().is_empty());
        for end in world.receivers.iter().flatten() {
            let all = RECEIVES_DATA as usize + CONTROL;
            assert_eq!(end.channel.pair().receives(), all, "{wide}");
        }
        world.end();
    }
}

#[test]
fn a_port_that_loses_packets_is_left_while_another_is_well() {
    let mut world = World::new(PLAIN);
    bulk(&mut world, 40, 300_000);
    world.advance(20_000);
    let given = |world: &World| {
        let mut bytes = [0; PORTS as usize];
        for (path, info) in world.tx.path_infos().enumerate() {
            bytes[path % bytes.len()] += info.bytes;
        }
        bytes
    };
    let count = |world: &mut World, port, packet_bytes| {
        for _ in 0..4 {
            let signals = PortSignals {
                sent: 100,
                packet_bytes,
                lost: 1,
                congested_for: Nanos::ZERO,
            };
            world.tx.handle_signals(port, &signals, world.now);
        }
    };
    let share_of_second = |world: &mut World| {
        let before = given(world);
        bulk(world, 40, 300_000);
        world.advance(100_000);
        let after = given(world);
        let [first, second] = [after[0] - before[0], after[1] - before[1]];
        100 * second / (first + second)
    };
    // Most of what it sends is somebody else's.
    count(&mut world, 1, 1 << 20);
    assert!(share_of_second(&mut world) > 40);
    count(&mut world, 1, 0);
    assert_eq!(share_of_second(&mut world), 0);
    // Both do: nothing is gained by leaving one.
    count(&mut world, 0, 0);
    assert!(share_of_second(&mut world) > 40);
    world.advance(1_000_000);
    assert!(share_of_second(&mut world) > 40);
    world.finish();
    world.end();
}

#[test]
fn a_sender_counts_the_receives_of_a_peer_that_sleeps() {
    let mut world = World::new(PLAIN);
    bulk(&mut world, 16, MESSAGE);
    world.advance(2000);
    world.apply(&Operation::PauseReceiver { us: 200_000 });
    world.advance(60_000);
    for end in world.receivers.iter().flatten() {
        let left = end.channel.pair().receives();
        assert!(left <= CONTROL && left > CONTROL / 2, "{left} are left");
    }
    assert!(world.fabric.waits().is_empty());
    world.finish();
    world.end();
}

#[test]
fn what_arrived_without_its_sender_knowing_is_not_sent_again() {
    for seed in 0..8 {
        let mut world = World::new(Setting { seed, ..PLAIN });
        bulk(&mut world, 12, MESSAGE);
        world.advance(3000);
        world.apply(&Operation::LoseAcknowledgements { path: 1 });
        world.advance(4000);
        let unknown = |world: &World| {
            let end = world.senders[1].as_ref().unwrap();
            end.given.len()
        };
        let given = unknown(&world);
        assert!(given > 20, "{given}");
        world.apply(&Operation::FailSender { path: 1 });
        world.finish();
        assert_eq!(world.fences.len(), 1);
        assert!(world.replayed < given, "{} of {given}", world.replayed);
        world.end();
    }
}

/// Whoever closes has its buffers back, whatever was on its way to them.
#[test]
fn a_buffer_that_was_taken_back_is_not_written_by_a_replay() {
    let mut under_way = 0;
    for seed in 0..60 {
        let wide = seed % 2 == 0;
        let mut world = World::new(Setting {
            seed,
            wide,
            ..PLAIN
        });
        for _ in 0..8 {
            world.receive(world.conns[2], 0);
            world.send(2, 8000, 0);
            world.receive(world.conns[0], 0);
            world.send(0, 8000, 0);
        }
        world.advance(250 * (seed as u32 % 8));
        world.apply(&Operation::Close { at_receiver: true });
        under_way += usize::from(!world.revoked.is_empty());
        world.finish();
        world.end();
    }
    assert!(under_way > 20, "{under_way}");
}

/// The word that a connection was closed may be lost with the path that it went over.
#[test]
fn a_close_that_was_lost_is_said_again() {
    for at_receiver in [true, false] {
        let mut world = World::new(PLAIN);
        world.send(2, 8000, 0);
        world.advance(1000);
        for path in 0..PATHS as u8 {
            world.apply(&Operation::Cut { path, ways: 3 });
        }
        world.apply(&Operation::Close { at_receiver });
        world.advance(30_000);
        // That the send ends, and both ends forget the connection, is checked there.
        world.finish();
        world.end();
    }
}

#[test]
fn a_write_after_silence_would_be_seen() {
    let seen = (0..20).filter(|&seed| {
        let setting = Setting {
            seed,
            leaky: true,
            ..PLAIN
        };
        let operations = [
            Operation::Advance { us: 1500 },
            Operation::Close { at_receiver: true },
            Operation::FailReceiver { path: 0 },
            Operation::PauseSender { us: 3000 },
            Operation::Advance { us: 5000 },
        ];
        let run = || {
            let mut world = World::new(setting);
            bulk(&mut world, 24, 60_000);
            for operation in &operations {
                world.apply(operation);
            }
            world.finish();
        };
        catch_unwind(AssertUnwindSafe(run)).is_err()
    });
    assert!(seen.count() > 10);
}
