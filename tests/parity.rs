//! The simulator and a transport run the same engines; told the same, they must answer the same.
//!
//! A run of the simulator keeps what the engines of a link were told and what they answered, call
//! by call. A second pair of engines then runs over a transport, at the times and in the order of
//! that tape, as adapters would drive them:
//!
//! * what one end says goes into a channel: as bytes, payload and all, over loopback; over queue
//!   pairs as a message, or as a write into the other end's memory;
//! * what the other end is told is what has come out of that channel: the tape only says when it is
//!   the turn of the next frame of a path. Over loopback a chunk is placed by the address that a
//!   write carries, and told by the immediate that its header makes;
//! * completions are told for data frames that have arrived, and for no others; over queue pairs for
//!   those that the adapter has completed;
//! * what an adapter knows by itself (statistics, departures) is taken from the tape.
//!
//! Both event logs are equal to the last line, and so is every byte of every message.
//!
//! With `THALWEG_TRANSPORT=verbs` the transport is queue pairs between the devices of `lab/roce.sh`
//! (`make test-roce`), else loopback.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "memory is registered with adapters")]

use std::collections::{BTreeMap, VecDeque};
use std::iter::zip;
use std::time::{Duration, Instant};

use thalweg::config::{Family, HcaFilter, RelaxedOrdering};
use thalweg::engine::wire::{Frame, Header, Immediate, Keys};
use thalweg::engine::{
    MemRange, RxAction, RxEngine, RxTransmit, Sink, Transmit, TxAction, TxEngine, TxEvent,
    Violation, Write,
};
use thalweg::sim::fabric::{Fabric, Overflow, QueueConfig, Routing, SwitchConfig};
use thalweg::sim::hosts::{ControlClass, EngineHosts, HostConfig};
use thalweg::sim::nic::{NicConfig, Recovery};
use thalweg::sim::packet::BULK;
use thalweg::sim::tape::Entry;
use thalweg::sim::time::Picos;
use thalweg::sim::topology::{LinkSpec, Topology};
use thalweg::sim::workload::{DoneWhen, Flow, Workload};
use thalweg::sim::world::{Change, Ended, Endpoints, Fault, run};
use thalweg::transport::loopback::{self, LoopbackChannel};
use thalweg::transport::verbs::adapters::{Adapters, Registration};
use thalweg::transport::verbs::device::Choice;
use thalweg::transport::verbs::{Marking, MemoryKeys, MemoryKind};
use thalweg::transport::{AnyChannel, Channel, Receiver, Sent};
use thalweg::units::{Nanos, Rate};

const PATHS: u8 = 4;
const MESSAGE_BYTES: u64 = 700_000;
/// The simulator's buffers lie so far apart.
const BUFFER_STEP: u64 = 1 << 32;

/// Two senders into one receiver, two messages each, over two spines.
fn simulate(faults: &[Fault]) -> (HostConfig, [Vec<Entry>; 2]) {
    let link = LinkSpec {
        rate: Rate::from_mbps(100_000),
        delay: Picos::from_micros(1),
    };
    let topology = Topology::leaf_spine(2, 2, 2, link, link).unwrap();
    let mut config = HostConfig::for_fabric(link.rate, Nanos(8_500));
    config.engine.paths_max = PATHS;
    config.dial_time = Picos::from_micros(20);
    config.taped = true;
    // A loopback channel is one stream.
    config.control = ControlClass::OfData;
    let queue = QueueConfig {
        capacity: 100_000,
        control_capacity: 200_000,
        mark_low: u32::MAX,
        mark_high: u32::MAX,
        overflow: Overflow::Drop,
    };
    let switch = SwitchConfig {
        queue,
        pause: None,
        shared_buffer: None,
        routing: Routing::Hash,
    };
    let nic = NicConfig {
        mtu: 4096,
        recovery: Recovery::Selective,
        timeout: Picos::from_micros(1_000),
        dcqcn: None,
    };
    let mut workload = Workload::new(DoneWhen::Received);
    let part = workload.add_part("messages");
    for (from, start) in [(0, 0), (1, 5), (0, 20), (1, 20)] {
        workload.add(Flow {
            from,
            to: 2,
            bytes: MESSAGE_BYTES,
            start: Picos::from_micros(start),
            class: BULK,
            part,
        });
    }
    let mut fabric = Fabric::new(topology, &switch, 3);
    let mut hosts = EngineHosts::new(&fabric, &workload, config.clone(), nic, 3);
    let deadline = Picos::from_micros(100_000);
    let ended = run(&mut fabric, &mut hosts, &workload, faults, deadline);
    assert_eq!(ended, Ended::Finished, "{:?}", hosts.progress().open());
    (config, [0, 1].map(|from| hosts.tape(from, 2)))
}

/// Something that has come out of a channel.
enum Came {
    Frame(Vec<u8>),
    /// The immediate of a chunk, and its bytes.
    Chunk(u32, u32),
}

/// What has arrived on one channel and has not been told yet, as in an adapter's queue.
#[derive(Default)]
struct Arrived {
    came: VecDeque<Came>,
    /// Over loopback, where the payloads of the next chunks go.
    targets: VecDeque<MemRange>,
    /// Data frames whose payload is in its place.
    data: u32,
    /// Data frames that the adapter has completed.
    completed: u32,
}

impl Receiver for Arrived {
    fn frame(&mut self, header: &[u8], _: u64) -> Result<Option<Sink>, Violation> {
        let chunk = match Frame::decode(header)? {
            Frame::Chunk(chunk) => chunk,
            Frame::Padding { bytes } => return Ok(Some(Sink::Discard(bytes.into()))),
            _ => {
                self.came.push_back(Came::Frame(header.to_vec()));
                return Ok(None);
            }
        };
        let immediate = Immediate::of(&chunk).pack().unwrap();
        let target = self.targets.pop_front().unwrap();
        let bytes = u32::try_from(target.len).unwrap();
        self.came.push_back(Came::Chunk(immediate, bytes));
        Ok(Some(Sink::Place(target)))
    }

    fn payload_done(&mut self) {
        self.data += 1;
    }

    fn written(&mut self, immediate: u32, bytes: u32) -> Result<(), Violation> {
        self.came.push_back(Came::Chunk(immediate, bytes));
        self.data += 1;
        Ok(())
    }

    fn sent(&mut self, sent: Sent) {
        self.completed += u32::from(sent.is_data);
    }
}

enum Either {
    Loopback(LoopbackChannel),
    Verbs(AnyChannel),
}

impl Either {
    fn channel(&mut self) -> &mut dyn Channel {
        match self {
            Self::Loopback(channel) => channel,
            Self::Verbs(channel) => channel,
        }
    }

    /// Whether something is on its way that has not been acknowledged.
    fn is_busy(&mut self) -> bool {
        let channel = self.channel();
        channel.has_unsent() || channel.stats().in_flight
    }
}

/// One end of a path's channel. What has arrived before it was closed can still be told.
#[derive(Default)]
struct End {
    channel: Option<Either>,
    arrived: Arrived,
}

impl End {
    fn over(channel: Either) -> Self {
        Self {
            channel: Some(channel),
            arrived: Arrived::default(),
        }
    }

    fn queue(&mut self, header: Header) {
        if let Some(channel) = &mut self.channel {
            channel.channel().queue(header, MemRange::default(), 0);
        }
    }
}

#[derive(Default)]
struct Path {
    tx: End,
    rx: End,
    epoch: u16,
    /// Data frames whose completion the sender has been told.
    completed: u32,
}

impl Path {
    /// Moves what has been said from end to end, until it has.
    fn carry_until(&mut self, mut enough: impl FnMut(&mut Self) -> bool) {
        let mut scratch = [0; 4096];
        let begun = Instant::now();
        loop {
            for end in [&mut self.tx, &mut self.rx] {
                // Where the other end is gone, what is still said is lost.
                let _ = end.channel.as_mut().map(|either| either.channel().flush());
            }
            for end in [&mut self.tx, &mut self.rx] {
                let Some(either) = &mut end.channel else {
                    continue;
                };
                while either
                    .channel()
                    .receive(&mut scratch, &mut end.arrived)
                    .is_ok_and(|bytes| bytes > 0)
                {}
            }
            if enough(self) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "it does not arrive");
            std::thread::yield_now();
        }
    }

    /// Ends one side, once both have taken in what the other has said.
    fn close(&mut self, is_sender: bool) {
        if let (Some(_), Some(_)) = (&self.tx.channel, &self.rx.channel) {
            self.carry_until(|path| {
                let mut ends = [&mut path.tx, &mut path.rx];
                ends.iter_mut()
                    .all(|end| end.channel.as_mut().is_none_or(|either| !either.is_busy()))
            });
        }
        if is_sender {
            self.tx.channel = None;
        } else {
            self.rx.channel = None;
        }
    }
}

/// Nothing takes longer, and in the guest everything takes long.
const DEADLINE: Duration = Duration::from_secs(60);

/// The RDMA ports of both ends, a rail's at the same place.
struct Rails {
    near: Adapters,
    far: Adapters,
}

impl Rails {
    /// If they are asked for.
    fn open() -> Option<Self> {
        if std::env::var("THALWEG_TRANSPORT").as_deref() != Ok("verbs") {
            return None;
        }
        let open = |hca: &str| {
            let hca = HcaFilter::parse(hca);
            let choice = Choice {
                hca: hca.as_ref(),
                family: Family::Any,
                gid_index: None,
            };
            let marking = Marking {
                data: 0,
                control: 0,
                service_level: 0,
            };
            let (adapters, about) = Adapters::open(&choice, marking, RelaxedOrdering::Auto, true);
            adapters.unwrap_or_else(|| panic!("{about}"))
        };
        let rails = Self {
            near: open("rxea"),
            far: open("rxeb"),
        };
        assert_eq!(rails.near.ports().len(), rails.far.ports().len());
        Some(rails)
    }

    /// Bytes that have left the near end's interfaces.
    fn sent_bytes(&self) -> u64 {
        let sent = |interface: &str| {
            let file = format!("/sys/class/net/{interface}/statistics/tx_bytes");
            let text = std::fs::read_to_string(file).unwrap();
            text.trim().parse::<u64>().unwrap()
        };
        let ports = self.near.ports().iter();
        ports
            .map(|port| sent(port.gid.interface.as_deref().unwrap()))
            .sum()
    }

    /// Both ends of a new channel of a path, which has been seen to lead somewhere.
    fn connect(&self, path: u8) -> (AnyChannel, AnyChannel) {
        let rail = usize::from(path) % self.near.ports().len();
        let mut near = self.near.sender(rail, (rail, rail)).unwrap();
        let mut far = self.far.receiver(rail, 0).unwrap();
        near.connect(&far.end(), 50_000 + u16::from(path)).unwrap();
        far.connect(&near.end(), 50_000).unwrap();
        near.ask().unwrap();
        let begun = Instant::now();
        while !near.is_answered().unwrap() {
            assert!(begun.elapsed() < DEADLINE, "nothing gets through");
            std::thread::yield_now();
        }
        let (near, mut far) = (near.into_channel(), far.into_channel());
        let mut arrived = Arrived::default();
        far.receive(&mut [], &mut arrived).unwrap();
        let Some(Came::Frame(header)) = arrived.came.pop_front() else {
            panic!("no ping")
        };
        assert!(matches!(
            Frame::decode(&header).unwrap(),
            Frame::Ping { .. }
        ));
        assert!(arrived.came.is_empty());
        (near, far)
    }
}

/// Registers memory with every port of one end.
fn register(adapters: &Adapters, memory: &mut [u8]) -> Registration {
    let all: Vec<_> = (0..adapters.ports().len()).collect();
    // SAFETY: `Replay` drops its channels first, then registrations, then memory.
    unsafe { adapters.register(&all, memory.as_mut_ptr(), memory.len(), MemoryKind::Host) }.unwrap()
}

/// The two engines of a link over a transport.
struct Replay {
    tx: TxEngine,
    rx: RxEngine,
    paths: Vec<Path>,
    rails: Option<Rails>,
    /// Sources and buffers, by their number.
    registered: [Vec<(u64, Registration)>; 2],
    sources: BTreeMap<u64, Vec<u8>>,
    buffers: BTreeMap<u64, Vec<u8>>,
}

/// No two messages are alike.
fn pattern(buffer: u64, len: u64) -> Vec<u8> {
    let byte = |at: u64| (at.wrapping_mul(0x9e37_79b9) ^ buffer.wrapping_mul(31)) >> 8;
    (0..len).map(|at| byte(at).to_le_bytes()[0]).collect()
}

/// The simulator's buffers have no memory; these have.
fn real(memory: &mut BTreeMap<u64, Vec<u8>>, range: MemRange) -> MemRange {
    let memory = memory.get_mut(&(range.addr / BUFFER_STEP)).unwrap();
    let at = usize::try_from(range.addr % BUFFER_STEP).unwrap();
    let end = at + usize::try_from(range.len).unwrap();
    MemRange {
        addr: memory[at..end].as_mut_ptr() as u64,
        len: range.len,
    }
}

impl Replay {
    fn new(config: &HostConfig) -> Self {
        let start = Picos::ZERO.clock();
        Self {
            tx: TxEngine::new(
                config.engine,
                config.controller.clone(),
                config.selector.clone(),
                start,
            ),
            rx: RxEngine::new(config.engine, start),
            paths: (0..PATHS).map(|_| Path::default()).collect(),
            rails: Rails::open(),
            registered: Default::default(),
            sources: BTreeMap::new(),
            buffers: BTreeMap::new(),
        }
    }

    /// What came next to the receiver (or the sender) on a path.
    fn next(&mut self, path: u8, at_receiver: bool) -> Came {
        let mut next = None;
        self.paths[usize::from(path)].carry_until(|path| {
            let end = if at_receiver {
                &mut path.rx
            } else {
                &mut path.tx
            };
            next = end.arrived.came.pop_front();
            next.is_some() || matches!(end.channel, Some(Either::Loopback(_)) | None)
        });
        next.expect("nothing has arrived")
    }

    fn next_frame(&mut self, path: u8, at_receiver: bool) -> Vec<u8> {
        match self.next(path, at_receiver) {
            Came::Frame(header) => header,
            Came::Chunk(..) => panic!("a chunk is next"),
        }
    }

    /// What a chunk's write says of memory, in the words of the memory that there is.
    fn translated(&mut self, write: Write, source: MemRange) -> (Write, MemRange) {
        let range = MemRange {
            addr: write.addr,
            len: source.len,
        };
        let keys = |registered: &[(u64, Registration)], addr: u64| {
            let number = addr / BUFFER_STEP;
            let found = registered.iter().find(|(other, _)| *other == number);
            found.map_or_else(MemoryKeys::default, |(_, memory)| memory.keys())
        };
        let write = Write {
            addr: real(&mut self.buffers, range).addr,
            local: keys(&self.registered[0], source.addr).local,
            remote: keys(&self.registered[1], write.addr).remote,
            ..write
        };
        (write, real(&mut self.sources, source))
    }

    /// Writes what the sender says to its channel.
    fn send(&mut self, transmit: Transmit, sent_ns: u64) {
        let (path, header) = match transmit {
            Transmit::Control { path, header } => (path, header),
            Transmit::Probe { path, id } => (path, Frame::Ping { id, sent_ns }.encode()),
            Transmit::Data {
                path,
                header,
                write,
                source,
                conn,
            } => {
                let write = write.expect("nothing is sent without a credit");
                let (write, source) = self.translated(write, source);
                let Path { tx, rx, .. } = &mut self.paths[usize::from(path)];
                match &mut tx.channel {
                    Some(Either::Loopback(channel)) => {
                        rx.arrived.targets.push_back(MemRange {
                            addr: write.addr,
                            ..source
                        });
                        channel.queue(header, source, conn);
                    }
                    Some(Either::Verbs(channel)) => {
                        channel.queue_data(header, Some(write), source, conn);
                    }
                    None => {}
                }
                return;
            }
        };
        self.paths[usize::from(path)].tx.queue(header);
    }

    fn answer(&mut self, said: RxTransmit) {
        self.paths[usize::from(said.path)].rx.queue(said.header);
    }

    /// The turn of the next call; what came of it here.
    #[expect(clippy::too_many_lines, reason = "a line or two for each call")]
    fn turn(&mut self, told: &Entry) -> Entry {
        let mut entry = told.clone();
        match &mut entry {
            Entry::TxOpen { listener, conn } => *conn = self.tx.open(*listener),
            &mut Entry::TxSubmit {
                conn,
                token,
                tag,
                source,
            } => {
                let buffer = source.addr / BUFFER_STEP;
                let mut bytes = pattern(buffer, source.len);
                if let Some(rails) = &self.rails {
                    let memory = register(&rails.near, &mut bytes);
                    self.registered[0].push((buffer, memory));
                }
                self.sources.insert(buffer, bytes);
                self.tx.submit(conn, token, tag, source, Keys::default());
            }
            &mut Entry::TxPathUp {
                path,
                epoch,
                previous,
                now,
            } => self.tx.handle_path_up(path, epoch, previous, now),
            &mut Entry::TxStats { path, stats, now } => self.tx.handle_stats(path, stats, now),
            Entry::TxTimeout { now } => self.tx.handle_timeout(*now),
            Entry::TxFrame { path, header, now } => {
                let bytes = self.next_frame(*path, false);
                let frame = Frame::decode(&bytes).unwrap();
                assert_eq!(bytes, header.as_bytes(), "{frame:?}");
                self.tx.handle_frame(*path, frame, &bytes, *now).unwrap();
            }
            Entry::TxControlArrived {
                path,
                epoch,
                departed,
                now,
            } => {
                self.tx
                    .handle_control_arrived(*path, *epoch, *departed, *now);
            }
            &mut Entry::TxCompletions {
                path,
                epoch,
                count,
                completed_at,
                now,
            } => {
                let is_verbs = self.rails.is_some();
                let p = &mut self.paths[usize::from(path)];
                if p.epoch == epoch {
                    p.completed += count;
                    p.carry_until(|p| {
                        !is_verbs || p.tx.channel.is_none() || p.completed <= p.tx.arrived.completed
                    });
                    let most = if is_verbs {
                        p.tx.arrived.completed
                    } else {
                        p.rx.arrived.data
                    };
                    assert!(p.completed <= most, "what never arrived completes");
                }
                self.tx
                    .handle_completions(path, epoch, count, Some(completed_at), now);
            }
            Entry::TxDeparture { path, at } => self.tx.handle_departure(*path, *at),
            Entry::TxHasControl { answer } => *answer = self.tx.has_control(),
            Entry::TxTransmit { now, answer } => {
                *answer = self.tx.poll_transmit(*now);
                if let Some(transmit) = *answer {
                    self.send(transmit, now.as_nanos());
                }
            }
            Entry::TxAction { answer } => {
                *answer = self.tx.poll_action().unwrap();
                if let TxAction::Close { path, .. } = *answer {
                    self.paths[usize::from(path)].close(true);
                }
            }
            Entry::TxDone { answer } => *answer = self.tx.poll_completion().unwrap(),
            Entry::TxEvent { answer } => *answer = self.tx.poll_event().unwrap(),
            Entry::RxAnswerOpen { conn, accepted } => self.rx.answer_open(*conn, *accepted),
            &mut Entry::RxPost {
                conn,
                token,
                tag,
                buffer,
                rkeys,
            } => {
                let mut zeroed = vec![0; usize::try_from(buffer.len).unwrap()];
                let number = buffer.addr / BUFFER_STEP;
                if let Some(rails) = &self.rails {
                    let memory = register(&rails.far, &mut zeroed);
                    self.registered[1].push((number, memory));
                }
                self.buffers.insert(number, zeroed);
                self.rx.post(conn, token, tag, buffer, rkeys);
            }
            Entry::RxPathUp {
                path,
                epoch,
                fence,
                answer,
            } => {
                let (near, far) = if let Some(rails) = &self.rails {
                    let (near, far) = rails.connect(*path);
                    (Either::Verbs(near), Either::Verbs(far))
                } else {
                    let (near, far) = loopback::pair(1 << 20);
                    (Either::Loopback(near), Either::Loopback(far))
                };
                self.paths[usize::from(*path)] = Path {
                    tx: End::over(near),
                    rx: End::over(far),
                    epoch: *epoch,
                    completed: 0,
                };
                *answer = self.rx.handle_path_up(*path, *epoch, *fence);
            }
            Entry::RxSilenced { path, epoch } => {
                let p = &mut self.paths[usize::from(*path)];
                if p.epoch == *epoch {
                    p.close(false);
                }
                self.rx.handle_silenced(*path, *epoch);
            }
            Entry::RxStats { path, stats, now } => self.rx.handle_stats(*path, stats, *now),
            Entry::RxFrame {
                path,
                frame,
                received_ns,
            } => {
                let bytes = self.next_frame(*path, true);
                *frame = Frame::decode(&bytes).unwrap();
                self.rx.handle_frame(*path, *frame, *received_ns).unwrap();
            }
            Entry::RxPayloadDone { path } => self.rx.handle_payload_done(*path),
            Entry::RxImmediate { path, imm, bytes } => {
                let Came::Chunk(immediate, arrived) = self.next(*path, true) else {
                    panic!("{told:?}: a frame without a chunk is next");
                };
                (*imm, *bytes) = (immediate, arrived);
                self.rx.handle_immediate(*path, *imm, *bytes).unwrap();
            }
            Entry::RxGrant { granted } => self.rx.grant(*granted),
            Entry::RxAck { late, answer } => {
                *answer = self.rx.poll_ack(*late);
                if let Some(said) = *answer {
                    self.answer(said);
                }
            }
            Entry::RxTransmit { answer } => {
                *answer = self.rx.poll_transmit().unwrap();
                self.answer(*answer);
            }
            Entry::RxAction { answer } => {
                *answer = self.rx.poll_action().unwrap();
                if let RxAction::Silence { path, epoch } = *answer {
                    assert_eq!(self.paths[usize::from(path)].epoch, epoch);
                }
            }
            Entry::RxDone { answer } => *answer = self.rx.poll_completion().unwrap(),
        }
        entry
    }
}

/// Runs a link's tape over the transport that is asked for.
fn replay(config: &HostConfig, tape: &[Entry]) {
    let mut replay = Replay::new(config);
    let before = replay.rails.as_ref().map(Rails::sent_bytes);
    let mut log: Vec<String> = Vec::new();
    for entry in tape {
        let (theirs, ours) = (format!("{entry:?}"), format!("{:?}", replay.turn(entry)));
        if theirs != ours {
            let before = log[log.len().saturating_sub(12)..]
                .join("\n")
                .replace(" 0,", "");
            panic!("after\n{before}\nthe simulator has\n{theirs}\nthe transport\n{ours}");
        }
        log.push(ours);
    }
    if let (Some(before), Some(rails)) = (before, &replay.rails) {
        let sent = rails.sent_bytes() - before;
        assert!(sent > 2 * MESSAGE_BYTES, "{sent} bytes went over the wire");
    }
    // Nothing is left over that the tape does not have.
    assert_eq!(replay.tx.poll_action(), None);
    assert_eq!(replay.tx.poll_event(), None);
    assert_eq!(replay.tx.poll_completion(), None);
    assert_eq!(replay.rx.poll_action(), None);
    assert_eq!(replay.rx.poll_completion(), None);
    assert_eq!(replay.buffers.len(), 2);
    for (buffer, (source, arrived)) in zip(
        replay.buffers.keys(),
        zip(replay.sources.values(), replay.buffers.values()),
    ) {
        assert_eq!(source.len() as u64, MESSAGE_BYTES);
        assert!(source == arrived, "message {buffer} was garbled");
    }
}

fn count(tape: &[Entry], wanted: impl Fn(&Entry) -> bool) -> usize {
    tape.iter().filter(|entry| wanted(entry)).count()
}

#[test]
fn messages_over_several_paths_leave_the_same_log() {
    let (config, tapes) = simulate(&[]);
    for tape in &tapes {
        let mut used = [0; PATHS as usize];
        for entry in tape {
            if let Entry::RxImmediate { path, .. } = entry {
                used[usize::from(*path)] += 1;
            }
        }
        assert!(used.iter().all(|&chunks| chunks > 0), "{used:?}");
        assert_eq!(count(tape, |e| matches!(e, Entry::RxDone { .. })), 2);
        assert_eq!(count(tape, |e| matches!(e, Entry::TxDone { .. })), 2);
        assert!(count(tape, |e| matches!(e, Entry::RxGrant { .. })) > 0);
        replay(&config, tape);
    }
}

#[test]
fn a_path_that_dies_in_the_middle_leaves_the_same_log() {
    // Leaf 0 loses its link to spine 0, and the switches do not find out.
    let link = LinkSpec {
        rate: Rate::from_mbps(100_000),
        delay: Picos::from_micros(1),
    };
    let topology = Topology::leaf_spine(2, 2, 2, link, link).unwrap();
    let cut = topology.links_named("leaf 0", "spine 0")[0];
    let fault = Fault {
        at: Picos::from_micros(40),
        change: Change::LinkDown(cut),
    };
    let (config, tapes) = simulate(&[fault]);
    let (mut replayed, mut dialled) = (0, 0);
    for tape in &tapes {
        dialled += count(
            tape,
            |entry| matches!(entry, Entry::TxPathUp { epoch, .. } if *epoch > 1),
        );
        replayed += count(
            tape,
            |entry| matches!(entry, Entry::TxEvent { answer: TxEvent::Replayed { frames, .. } } if *frames > 0),
        );
        replay(&config, tape);
    }
    assert!(replayed > 0, "chunks were lost and sent again");
    assert!(dialled > 0, "and the path came up anew");
    assert!(dialled < 20, "{dialled} channels");
}

#[test]
fn a_tape_that_was_changed_is_found_out() {
    let (config, [mut tape, _]) = simulate(&[]);
    let submit = |entry: &Entry| matches!(entry, Entry::TxSubmit { .. });
    let at = tape.iter().position(submit).unwrap();
    if let Entry::TxSubmit { source, .. } = &mut tape[at] {
        source.len -= 1;
    }
    let result = std::panic::catch_unwind(|| replay(&config, &tape));
    assert!(result.is_err());
}
