//! The simulator and a transport run the same engines; told the same, they must answer the same.
//!
//! A run of the simulator keeps what the engines of a link were told and what they answered, call
//! by call. A second pair of engines then runs over the loopback transport, at the times and in the
//! order of that tape, as adapters would drive them:
//!
//! * what one end says is a frame, written to a channel as bytes, payload and all;
//! * what the other end is told is what has come out of that channel, header by header: the tape
//!   only says when it is the turn of the next frame of a path. A chunk is placed by the address
//!   that a write carries, and told by the immediate that its header makes;
//! * completions are told for data frames that have arrived, and for no others;
//! * what an adapter knows by itself (statistics, departures) is taken from the tape.
//!
//! Both event logs are equal to the last line, and so is every byte of every message.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, VecDeque};
use std::iter::zip;

use thalweg::engine::wire::{Frame, Header, Immediate, Keys};
use thalweg::engine::{
    MemRange, RxAction, RxEngine, RxTransmit, Sink, Transmit, TxAction, TxEngine, TxEvent,
    Violation,
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
use thalweg::transport::{Channel, Receiver};
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

/// What has arrived on one channel and has not been told yet, as in an adapter's queue.
#[derive(Default)]
struct Arrived {
    /// Headers, and the bytes of payload that came with each.
    frames: VecDeque<(Vec<u8>, u64)>,
    /// Where the payloads of the next chunks go.
    targets: VecDeque<MemRange>,
    data: u32,
}

impl Receiver for Arrived {
    fn frame(&mut self, header: &[u8], _: u64) -> Result<Option<Sink>, Violation> {
        let target = match Frame::decode(header)? {
            Frame::Chunk(_) => Some(self.targets.pop_front().unwrap()),
            _ => None,
        };
        let bytes = target.map_or(0, |target| target.len);
        self.frames.push_back((header.to_vec(), bytes));
        Ok(target.map(Sink::Place))
    }

    fn payload_done(&mut self) {
        self.data += 1;
    }
}

/// One end of a path's channel. What has arrived before it was closed can still be told.
#[derive(Default)]
struct End {
    channel: Option<LoopbackChannel>,
    arrived: Arrived,
}

impl End {
    fn over(channel: LoopbackChannel) -> Self {
        Self {
            channel: Some(channel),
            arrived: Arrived::default(),
        }
    }

    fn queue(&mut self, header: Header, payload: MemRange) {
        if let Some(channel) = &mut self.channel {
            channel.queue(header, payload, 0);
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
    /// Moves what has been said from end to end.
    fn carry(&mut self) {
        let mut scratch = [0; 4096];
        for end in [&mut self.tx, &mut self.rx] {
            // Where the other end is gone, what is still said is lost.
            let _ = end.channel.as_mut().map(Channel::flush);
        }
        for end in [&mut self.tx, &mut self.rx] {
            let Some(channel) = &mut end.channel else {
                continue;
            };
            while channel
                .receive(&mut scratch, &mut end.arrived)
                .is_ok_and(|bytes| bytes > 0)
            {}
        }
    }
}

/// The two engines of a link over loopback channels.
struct Replay {
    tx: TxEngine,
    rx: RxEngine,
    paths: Vec<Path>,
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
            sources: BTreeMap::new(),
            buffers: BTreeMap::new(),
        }
    }

    /// The next frame that came to the receiver (or the sender) on a path.
    fn next_frame(&mut self, path: u8, at_receiver: bool) -> (Vec<u8>, u64) {
        let path = &mut self.paths[usize::from(path)];
        path.carry();
        let end = if at_receiver {
            &mut path.rx
        } else {
            &mut path.tx
        };
        end.arrived.frames.pop_front().expect("nothing has arrived")
    }

    /// Writes what the sender says to its channel.
    fn send(&mut self, transmit: Transmit, sent_ns: u64) {
        let (path, header, payload) = match transmit {
            Transmit::Control { path, header } => (path, header, MemRange::default()),
            Transmit::Probe { path, id } => {
                let ping = Frame::Ping { id, sent_ns };
                (path, ping.encode(), MemRange::default())
            }
            Transmit::Data {
                path,
                header,
                write,
                source,
                ..
            } => {
                let write = write.expect("nothing is sent without a credit");
                let target = MemRange {
                    addr: write.addr,
                    ..source
                };
                let target = real(&mut self.buffers, target);
                let far = &mut self.paths[usize::from(path)].rx;
                far.arrived.targets.push_back(target);
                (path, header, real(&mut self.sources, source))
            }
        };
        self.paths[usize::from(path)].tx.queue(header, payload);
    }

    fn answer(&mut self, said: RxTransmit) {
        let end = &mut self.paths[usize::from(said.path)].rx;
        end.queue(said.header, MemRange::default());
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
                self.sources.insert(buffer, pattern(buffer, source.len));
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
                let (bytes, _) = self.next_frame(*path, false);
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
                let p = &mut self.paths[usize::from(path)];
                if p.epoch == epoch {
                    p.carry();
                    p.completed += count;
                    assert!(
                        p.completed <= p.rx.arrived.data,
                        "what never arrived completes"
                    );
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
                    let path = &mut self.paths[usize::from(path)];
                    path.carry();
                    path.tx.channel = None;
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
                let zeroed = vec![0; usize::try_from(buffer.len).unwrap()];
                self.buffers.insert(buffer.addr / BUFFER_STEP, zeroed);
                self.rx.post(conn, token, tag, buffer, rkeys);
            }
            Entry::RxPathUp {
                path,
                epoch,
                fence,
                answer,
            } => {
                let (near, far) = loopback::pair(1 << 20);
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
                    p.rx.channel = None;
                }
                self.rx.handle_silenced(*path, *epoch);
            }
            Entry::RxStats { path, stats, now } => self.rx.handle_stats(*path, stats, *now),
            Entry::RxFrame {
                path,
                frame,
                received_ns,
            } => {
                let (bytes, _) = self.next_frame(*path, true);
                *frame = Frame::decode(&bytes).unwrap();
                self.rx.handle_frame(*path, *frame, *received_ns).unwrap();
            }
            Entry::RxPayloadDone { path } => self.rx.handle_payload_done(*path),
            Entry::RxImmediate { path, imm, bytes } => {
                let (header, arrived) = self.next_frame(*path, true);
                let Frame::Chunk(chunk) = Frame::decode(&header).unwrap() else {
                    panic!("{told:?}: a frame without a chunk is next");
                };
                let immediate = Immediate {
                    slot: chunk.slot,
                    generation: u8::try_from(chunk.generation & 3).unwrap(),
                    index: chunk.index,
                    last: chunk.last,
                };
                *imm = immediate.pack().unwrap();
                *bytes = u32::try_from(arrived).unwrap();
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

/// Runs a link's tape over the loopback transport.
fn replay(config: &HostConfig, tape: &[Entry]) {
    let mut replay = Replay::new(config);
    let mut log: Vec<String> = Vec::new();
    for entry in tape {
        let (theirs, ours) = (format!("{entry:?}"), format!("{:?}", replay.turn(entry)));
        if theirs != ours {
            let before = log[log.len().saturating_sub(12)..]
                .join("\n")
                .replace(" 0,", "");
            panic!("after\n{before}\nthe simulator has\n{theirs}\nthe loopback\n{ours}");
        }
        log.push(ours);
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
