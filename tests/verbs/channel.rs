//! One channel, or both ends of a path: what is told, in which order, and what is written.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use thalweg::clock::Timestamp;
use thalweg::driver::rx_link::Inbound;
use thalweg::engine::wire::{Chunk, Eager, Frame, Header, Immediate, Keys, PathCount};
use thalweg::engine::{Completions, EngineConfig, MemRange, RxEngine, Sink, Violation, Write};
use thalweg::transport::verbs::channel::{Pair, Role, VerbsChannel};
use thalweg::transport::verbs::sys::{
    Completion, Done, Operation, Piece, REQUESTS_MAX, Request, status_text,
};
use thalweg::transport::verbs::{EAGER_BYTES_MAX, RECEIVES_DATA};
use thalweg::transport::{Channel, ChannelError, Receiver, Sent};
use thalweg::units::Nanos;

use super::fabric::{self, FLUSHED, Fabric, MockPair, REMOTE_ACCESS, RETRIES_EXCEEDED};

type Path = VerbsChannel<MockPair>;

const RECEIVER: Role = Role::Receiver {
    eager_bytes: EAGER_BYTES_MAX,
};
/// Receives for control frames, and messages that are in flight at once.
const CONTROL: usize = 64;
const SLOTS: usize = 64;
/// What a test calls at once.
const SOON: Duration = Duration::from_millis(100);

/// What a channel told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Frame(Frame),
    Payload(Vec<u8>),
    Written(u32, u32),
    Sent { is_data: bool },
}

/// Writes down what a channel tells.
#[derive(Debug, Default)]
struct Told {
    events: Vec<Event>,
    sent: Vec<Sent>,
    eager: Vec<u8>,
    /// The next immediate breaks the protocol.
    refuses: bool,
}

impl Told {
    fn chunks(&self) -> Vec<u32> {
        let index = |event: &Event| match event {
            Event::Written(immediate, _) => Some(Immediate::unpack(*immediate).index),
            _ => None,
        };
        self.events.iter().filter_map(index).collect()
    }

    fn frames(&self) -> Vec<Frame> {
        let frame = |event: &Event| match event {
            Event::Frame(frame) => Some(*frame),
            _ => None,
        };
        self.events.iter().filter_map(frame).collect()
    }
}

impl Receiver for Told {
    fn frame(&mut self, header: &[u8], _arrived_ns: u64) -> Result<Option<Sink>, Violation> {
        let frame = Frame::decode(header)?;
        self.events.push(Event::Frame(frame));
        let Frame::Eager(eager) = frame else {
            return Ok(None);
        };
        self.eager = vec![0; eager.payload as usize];
        Ok(Some(Sink::Place(MemRange {
            addr: self.eager.as_mut_ptr() as u64,
            len: self.eager.len() as u64,
        })))
    }

    fn payload_done(&mut self) {
        let payload = std::mem::take(&mut self.eager);
        self.events.push(Event::Payload(payload));
    }

    fn written(&mut self, immediate: u32, bytes: u32) -> Result<(), Violation> {
        if std::mem::take(&mut self.refuses) {
            return Err(Violation::Protocol("refused by the test"));
        }
        self.events.push(Event::Written(immediate, bytes));
        Ok(())
    }

    fn sent(&mut self, sent: Sent) {
        self.sent.push(sent);
        let is_data = sent.is_data;
        self.events.push(Event::Sent { is_data });
    }
}

/// Registered memory, on both sides of which nothing may be written.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    key: u32,
}

const GUARD: usize = 64;

impl Buffer {
    fn new(fabric: &Fabric, len: usize, byte: u8) -> Self {
        let bytes = vec![byte; len + 2 * GUARD];
        // Much larger registrations are usual: the key alone does not keep a write inside.
        let key = fabric.register(bytes.as_ptr(), bytes.len());
        Self { bytes, key }
    }

    fn range(&self, offset: usize, len: usize) -> MemRange {
        MemRange {
            addr: self.bytes[GUARD + offset..].as_ptr() as u64,
            len: len as u64,
        }
    }

    fn at(&self, offset: usize, len: usize) -> &[u8] {
        &self.bytes[GUARD + offset..][..len]
    }

    fn fill(&mut self, byte: u8) {
        self.bytes.fill(byte);
    }
}

struct Ends {
    fabric: Fabric,
    sender: Path,
    receiver: Path,
    told_sender: Told,
    told_receiver: Told,
}

const CHUNK: usize = 8192;

impl Ends {
    fn new() -> Self {
        Self::over(Fabric::new(7))
    }

    fn over(fabric: Fabric) -> Self {
        let (sender, receiver) = fabric.connect((Role::Sender, RECEIVER));
        let path = |pair, role| VerbsChannel::new(pair, role, (0, 0), fabric.slab()).unwrap();
        Self {
            sender: path(sender, Role::Sender),
            receiver: path(receiver, RECEIVER),
            fabric,
            told_sender: Told::default(),
            told_receiver: Told::default(),
        }
    }

    fn look(&mut self) {
        self.sender.receive(&mut [], &mut self.told_sender).unwrap();
        let told = &mut self.told_receiver;
        self.receiver.receive(&mut [], told).unwrap();
    }

    /// Everything that is under way arrives, and all of it is taken in.
    fn settle(&mut self) {
        for _ in 0..64 {
            self.fabric.settle();
            self.look();
        }
    }
}

fn write(path: &mut Path, from: &Buffer, to: &Buffer, index: u32, owner: u32) {
    let offset = index as usize * CHUNK;
    let write = Write {
        chunk: Chunk {
            slot: 3,
            generation: 5,
            index,
            chunk_bytes: CHUNK as u32,
            payload: CHUNK as u32,
            last: false,
        },
        addr: to.range(offset, CHUNK).addr,
        remote: Keys::new(&[to.key]).unwrap(),
        local: Keys::new(&[from.key]).unwrap(),
    };
    path.write(write, from.range(offset, CHUNK), owner);
}

fn ping(id: u32) -> Frame {
    Frame::Ping { id, sent_ns: 0 }
}

fn eager(payload: &[u8], ordinal: u32) -> (Header, MemRange) {
    let frame = Frame::Eager(Eager {
        conn: 1,
        tag: 0,
        ordinal,
        payload: payload.len() as u32,
    });
    let range = MemRange {
        addr: payload.as_ptr() as u64,
        len: payload.len() as u64,
    };
    (frame.encode(), range)
}

fn control(path: &mut Path, frame: Frame) {
    path.queue(frame.encode(), MemRange::default(), 0);
}

#[test]
fn what_was_sent_arrives_in_order_and_each_end_is_told_what_is_its_own() {
    let mut ends = Ends::new();
    let mut from = Buffer::new(&ends.fabric, 4 * CHUNK, 0);
    for (at, byte) in from.bytes.iter_mut().enumerate() {
        *byte = (at * 7 / 3) as u8;
    }
    let to = Buffer::new(&ends.fabric, 4 * CHUNK, 0xaa);
    let small = [5u8; 4000];
    write(&mut ends.sender, &from, &to, 0, 1);
    control(&mut ends.sender, ping(1));
    let (header, payload) = eager(&small, 0);
    ends.sender.send(header, payload, true);
    write(&mut ends.sender, &from, &to, 1, 1);
    assert_eq!(ends.sender.backlog(), 2 * CHUNK as u64 + 4000);
    ends.sender.flush().unwrap();
    assert!(!ends.sender.has_unsent());
    assert!(ends.sender.stats().in_flight);
    ends.fabric.delay(0);
    ends.settle();
    let immediate = |index| {
        let immediate = Immediate {
            slot: 3,
            generation: 1,
            index,
            last: false,
        };
        immediate.pack().unwrap()
    };
    let Event::Frame(arrived) = ends.told_receiver.events[2] else {
        panic!("{:?}", ends.told_receiver.events);
    };
    assert!(matches!(arrived, Frame::Eager(e) if e.payload == 4000));
    assert_eq!(
        ends.told_receiver.events,
        [
            Event::Written(immediate(0), CHUNK as u32),
            Event::Frame(ping(1)),
            Event::Frame(arrived),
            Event::Payload(small.to_vec()),
            Event::Written(immediate(1), CHUNK as u32),
        ]
    );
    let sent = [true, false, true, true].map(|is_data| Event::Sent { is_data });
    assert_eq!(ends.told_sender.events, sent, "in order");
    assert_eq!(to.at(0, 2 * CHUNK), from.at(0, 2 * CHUNK));
    assert!(to.bytes[..GUARD].iter().all(|&byte| byte == 0xaa));
    assert!(to.at(2 * CHUNK, 2 * CHUNK).iter().all(|&b| b == 0xaa));
    let stats = ends.sender.stats();
    assert_eq!((stats.in_flight, stats.acked), (false, 4));
    assert_eq!(ends.sender.backlog(), 0);
    // The other way, in the order of the receiver's own.
    for id in 0..3 {
        control(&mut ends.receiver, ping(id));
    }
    ends.receiver.flush().unwrap();
    ends.settle();
    assert_eq!(ends.told_sender.frames(), [ping(0), ping(1), ping(2)]);
    assert_eq!(ends.told_receiver.sent.len(), 3);
    assert!(ends.fabric.waits().is_empty());
}

#[test]
fn a_completion_that_may_have_waited_for_long_tells_no_time() {
    let mut ends = Ends::new();
    ends.fabric.delay(0);
    let mut completed_at = |looks: bool| {
        control(&mut ends.sender, ping(0));
        let before = Timestamp::now();
        ends.sender.flush().unwrap();
        ends.sender.pair().lose_acknowledgements(true);
        ends.fabric.settle();
        std::thread::sleep(Duration::from_millis(20));
        if looks {
            ends.look();
        }
        ends.sender.pair().lose_acknowledgements(false);
        ends.fabric.settle();
        ends.look();
        let sent = ends.told_sender.sent.pop().unwrap();
        assert!(!sent.is_data && sent.given_at >= before && sent.given_at <= Timestamp::now());
        sent.completed_at
    };
    assert_eq!(completed_at(false), None, "nobody looked for 20 ms");
    // Unless the test itself was held up between two looks.
    let told = (0..5).find_map(|_| completed_at(true)).unwrap();
    assert!(told <= Timestamp::now());
}

#[test]
fn an_adapters_stamp_tells_the_time_unless_it_cannot_be() {
    let mut ends = Ends::new();
    ends.fabric.delay(0);
    let mut completed_at = |ahead: i64| {
        ends.sender.pair().stamps(ahead);
        control(&mut ends.sender, ping(0));
        ends.sender.flush().unwrap();
        ends.fabric.settle();
        let done = Timestamp::now();
        std::thread::sleep(Duration::from_millis(20));
        ends.look();
        let sent = ends.told_sender.sent.pop().unwrap();
        (sent, done)
    };
    let (sent, done) = completed_at(0);
    let told = sent.completed_at.unwrap();
    assert!(
        sent.given_at <= told && told <= done,
        "long before the look"
    );
    for ahead in [-1_000_000_000, 1_000_000_000] {
        let (sent, _) = completed_at(ahead);
        assert_eq!(sent.completed_at, None, "{ahead}");
    }
}

#[test]
fn messages_that_go_along_with_their_request_need_no_slot() {
    for (inline, given) in [(128, 3 * SLOTS), (0, SLOTS)] {
        let fabric = Fabric::new(1);
        fabric.inline(inline);
        let mut ends = Ends::over(fabric);
        for id in 0..200 {
            control(&mut ends.sender, ping(id));
        }
        ends.sender.flush().unwrap();
        let outstanding = ends.sender.pair().outstanding() as usize;
        assert_eq!(outstanding, given, "{inline} bytes go along");
        // Each slot is used again and again, and no message is another's.
        while ends.told_receiver.events.len() < 200 {
            ends.fabric.run(3);
            ends.look();
            ends.sender.flush().unwrap();
        }
        assert_eq!(
            ends.told_receiver.frames(),
            (0..200).map(ping).collect::<Vec<_>>()
        );
    }
}

#[test]
fn slots_run_out_and_come_back() {
    let mut ends = Ends::new();
    let payloads: Vec<Vec<u8>> = (0..150u8).map(|k| vec![k; 3000]).collect();
    for (payload, ordinal) in payloads.iter().zip(0..) {
        let (header, range) = eager(payload, ordinal);
        ends.sender.send(header, range, true);
    }
    ends.sender.flush().unwrap();
    assert_eq!(ends.sender.pair().outstanding() as usize, SLOTS);
    assert!(ends.sender.has_unsent());
    // A short one behind them waits for its turn though it needs no slot.
    control(&mut ends.sender, ping(9));
    ends.sender.flush().unwrap();
    assert_eq!(ends.sender.pair().outstanding() as usize, SLOTS);
    while ends.sender.has_unsent() || ends.sender.stats().in_flight {
        ends.fabric.run(40);
        ends.look();
        ends.sender.flush().unwrap();
        assert!(ends.sender.pair().outstanding() as usize <= SLOTS);
    }
    ends.settle();
    let arrived: Vec<_> = ends.told_receiver.events.iter().collect();
    let payloads_told = arrived.iter().filter_map(|event| match event {
        Event::Payload(payload) => Some(payload),
        _ => None,
    });
    assert!(payloads_told.eq(&payloads), "whole, and in order");
    assert_eq!(arrived.last(), Some(&&Event::Frame(ping(9))));
}

#[test]
fn receives_are_posted_again() {
    let mut ends = Ends::new();
    let all = RECEIVES_DATA as usize + CONTROL;
    assert_eq!(ends.receiver.pair().receives(), all);
    assert_eq!(ends.sender.pair().receives(), CONTROL);
    let from = Buffer::new(&ends.fabric, CHUNK, 1);
    let to = Buffer::new(&ends.fabric, CHUNK, 0);
    for round in 0..10 {
        for id in 0..CONTROL as u32 {
            control(&mut ends.sender, ping(id));
            write(&mut ends.sender, &from, &to, 0, 1);
        }
        ends.sender.flush().unwrap();
        ends.fabric.settle();
        assert_eq!(ends.receiver.pair().receives(), all - 2 * CONTROL);
        ends.settle();
        assert_eq!(ends.receiver.pair().receives(), all, "round {round}");
        assert_eq!(ends.receiver.pair().completions(), 0);
    }
    assert!(ends.fabric.waits().is_empty());
}

#[test]
fn who_finds_no_receive_waits_for_one() {
    let mut ends = Ends::new();
    for id in 0..200 {
        control(&mut ends.sender, ping(id));
    }
    ends.sender.flush().unwrap();
    ends.fabric.settle();
    ends.sender.receive(&mut [], &mut ends.told_sender).unwrap();
    ends.sender.flush().unwrap();
    ends.fabric.settle();
    assert_eq!(ends.fabric.waits().len(), 1, "nobody counts control frames");
    assert_eq!(ends.receiver.pair().receives(), 0);
    ends.settle();
    assert_eq!(ends.told_receiver.frames().len(), 200);
}

#[test]
fn more_frames_than_the_send_queue_takes_wait_in_the_channel() {
    let mut ends = Ends::new();
    let depth = Role::Sender.depths().send as usize;
    let count = 2 * depth + 17;
    let from = Buffer::new(&ends.fabric, count * CHUNK, 3);
    let to = Buffer::new(&ends.fabric, count * CHUNK, 0);
    for index in 0..count as u32 {
        write(&mut ends.sender, &from, &to, index, 1);
    }
    ends.sender.flush().unwrap();
    assert_eq!(ends.sender.pair().outstanding() as usize, depth);
    assert!(ends.sender.has_unsent());
    assert_eq!(ends.sender.backlog(), (count * CHUNK) as u64);
    while ends.sender.has_unsent() || ends.sender.stats().in_flight {
        ends.fabric.run(20);
        ends.look();
        ends.sender.flush().unwrap();
        assert!(ends.sender.pair().outstanding() as usize <= depth);
    }
    ends.settle();
    let in_order: Vec<u32> = (0..count as u32).collect();
    assert_eq!(ends.told_receiver.chunks(), in_order);
    assert_eq!(
        to.bytes[GUARD..][..count * CHUNK],
        from.bytes[GUARD..][..count * CHUNK]
    );
}

#[test]
fn a_receiver_keeps_quiet_until_something_has_come() {
    let mut ends = Ends::new();
    control(&mut ends.receiver, ping(1));
    ends.receiver.flush().unwrap();
    ends.settle();
    assert!(ends.receiver.has_unsent());
    assert_eq!(ends.receiver.pair().outstanding(), 0);
    control(&mut ends.sender, ping(2));
    ends.sender.flush().unwrap();
    ends.settle();
    ends.receiver.flush().unwrap();
    ends.settle();
    assert_eq!(ends.told_sender.frames(), [ping(1)]);
}

#[test]
fn what_arrives_while_a_path_is_proved_is_kept() {
    let mut ends = Ends::new();
    assert_eq!(ends.sender.prove(), Ok(false), "nothing was asked");
    control(&mut ends.sender, ping(1));
    ends.sender.flush().unwrap();
    ends.sender.pair().lose_acknowledgements(true);
    ends.fabric.settle();
    ends.receiver
        .receive(&mut [], &mut ends.told_receiver)
        .unwrap();
    for id in 0..20 {
        control(&mut ends.receiver, ping(id));
    }
    ends.receiver.flush().unwrap();
    ends.fabric.settle();
    assert_eq!(ends.sender.prove(), Ok(false));
    assert_eq!(ends.sender.prove(), Ok(false));
    ends.sender.pair().lose_acknowledgements(false);
    ends.fabric.settle();
    assert_eq!(ends.sender.prove(), Ok(true));
    assert_eq!(ends.sender.prove(), Ok(true));
    ends.settle();
    assert_eq!(
        ends.told_sender.frames(),
        (0..20).map(ping).collect::<Vec<_>>()
    );
    assert_eq!(
        ends.sender.pair().receives(),
        CONTROL,
        "all are posted again"
    );
    assert_eq!(
        ends.told_sender.sent.len(),
        0,
        "whoever proves it knows that it was sent"
    );
    assert_eq!(ends.told_receiver.sent.len(), 20);
}

#[test]
fn a_path_that_cannot_be_proved_says_why_and_holds_nobody_up() {
    for fails in [Fails::Retries, Fails::Overrun, Fails::Silenced] {
        let mut ends = Ends::new();
        control(&mut ends.sender, ping(1));
        ends.sender.pair().set_silent(true);
        ends.sender.flush().unwrap();
        ends.fabric.settle();
        assert_eq!(ends.sender.prove(), Ok(false));
        match fails {
            Fails::Retries => ends.sender.pair().fail(RETRIES_EXCEEDED),
            Fails::Overrun => ends.sender.pair().overrun(),
            Fails::Silenced => ends.sender.pair().fail(FLUSHED),
        }
        let why = ends.sender.prove().unwrap_err();
        match fails {
            Fails::Retries => assert_eq!(why, status_text(RETRIES_EXCEEDED)),
            Fails::Overrun => assert!(why.contains("ibv_poll_cq"), "{why}"),
            Fails::Silenced => assert_eq!(why, status_text(FLUSHED)),
        }
        let start = Instant::now();
        drop(ends.sender);
        assert!(start.elapsed() < SOON, "{fails:?}: {:?}", start.elapsed());
        assert_eq!(ends.fabric.freed(), [0]);
    }
}

/// Small packets may get through where large ones do not.
#[test]
fn a_path_is_proved_by_all_that_was_asked() {
    let mut ends = Ends::new();
    control(&mut ends.sender, ping(1));
    ends.sender.flush().unwrap();
    ends.fabric.settle();
    assert_eq!(ends.sender.prove(), Ok(true));
    ends.sender.pair().set_silent(true);
    let nothing = vec![0; 1016];
    let padding = Frame::Padding { bytes: 1016 };
    ends.sender.send(
        padding.encode(),
        MemRange {
            addr: nothing.as_ptr() as u64,
            len: 1016,
        },
        false,
    );
    ends.sender.flush().unwrap();
    ends.fabric.settle();
    assert_eq!(ends.sender.prove(), Ok(false));
    assert_eq!(ends.sender.arrived(), 1);
    ends.sender.pair().set_silent(false);
    ends.fabric.settle();
    assert_eq!(ends.sender.prove(), Ok(true));
    assert_eq!(ends.sender.arrived(), 2);
}

#[test]
fn padding_counts_as_nothing() {
    let padding = Frame::Padding { bytes: 100 }.encode();
    let with = |bytes: usize| [padding.as_bytes(), &vec![1; bytes]].concat();
    let mut victim = Victim::new();
    victim.say(&with(100)).unwrap();
    victim.goes_on("padding");
    for bytes in [0, 99, 101] {
        let mut victim = Victim::new();
        let answer = victim.say(&with(bytes));
        assert!(
            matches!(answer, Err(ChannelError::Violation(_))),
            "{bytes}: {answer:?}"
        );
        victim.goes_on("padding of another length");
    }
    let mut victim = Victim::new();
    let mut long = padding.as_bytes().to_vec();
    long[4..8].copy_from_slice(&4097u32.to_le_bytes());
    let answer = victim.say(&[&long[..], &[1; 4097]].concat());
    assert!(matches!(answer, Err(ChannelError::Violation(_))));
    victim.goes_on("more padding than there may be");
}

#[test]
fn a_device_that_is_gone_is_not_waited_for() {
    let mut ends = Ends::new();
    let from = Buffer::new(&ends.fabric, CHUNK, 1);
    let to = Buffer::new(&ends.fabric, CHUNK, 0);
    write(&mut ends.sender, &from, &to, 0, 1);
    control(&mut ends.sender, ping(1));
    ends.sender.flush().unwrap();
    ends.fabric.settle();
    // What has come is still taken in.
    ends.receiver.pair().vanish();
    ends.sender.pair().vanish();
    let start = Instant::now();
    ends.receiver.silence(&mut [], &mut ends.told_receiver);
    ends.sender.silence(&mut [], &mut ends.told_sender);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(ends.told_receiver.chunks(), [0]);
    assert_eq!(ends.told_receiver.frames(), [ping(1)]);
    assert!(
        ends.told_sender
            .events
            .contains(&Event::Sent { is_data: true })
    );
    drop((ends.sender, ends.receiver));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_path_takes_another_port_where_the_adapter_can_do_that() {
    let mut ends = Ends::new();
    assert_eq!(ends.sender.reroute(), None);
    ends.sender.pair().leaves_from(1);
    let port = ends.sender.reroute().unwrap();
    assert_eq!(ends.sender.pair().source_port(), Some(port));
    assert!(port >= 0xc000, "{port}");
    // Nothing else changes.
    control(&mut ends.sender, ping(1));
    ends.sender.flush().unwrap();
    ends.settle();
    assert_eq!(ends.told_receiver.frames(), [ping(1)]);
}

#[derive(Debug, Clone, Copy)]
enum Fails {
    Retries,
    Overrun,
    Silenced,
}

#[test]
fn silence_takes_in_what_was_there_and_nothing_is_written_afterwards() {
    for seed in 0..40 {
        let fabric = Fabric::new(seed);
        fabric.is_shy(true);
        let mut ends = Ends::over(fabric);
        let from = Buffer::new(&ends.fabric, 12 * CHUNK, 0x77);
        let mut to = Buffer::new(&ends.fabric, 12 * CHUNK, 0);
        for index in 0..12 {
            write(&mut ends.sender, &from, &to, index, 1);
            control(&mut ends.sender, ping(index));
        }
        ends.sender.flush().unwrap();
        ends.fabric.run(seed as u32);
        let placed = ends.receiver.pair().written();
        ends.receiver.silence(&mut [], &mut ends.told_receiver);
        assert!(ends.receiver.pair().has_failed());
        let Told { events, .. } = &ends.told_receiver;
        let whole = ends.told_receiver.chunks().len();
        let messages = ends.told_receiver.frames().len();
        assert!(whole == messages || whole == messages + 1, "{events:?}");
        assert_eq!(ends.receiver.pair().completions(), 0);
        for index in 0..whole {
            assert!(to.at(index * CHUNK, CHUNK).iter().all(|&b| b == 0x77));
        }
        // The buffer is used for something else.
        to.fill(0xee);
        ends.fabric.settle();
        assert_eq!(ends.receiver.pair().written(), placed);
        assert!(to.bytes.iter().all(|&byte| byte == 0xee), "seed {seed}");
        // It is over, and stays so.
        let told = ends.told_receiver.events.len();
        let mut again = Told::default();
        ends.receiver.silence(&mut [], &mut again);
        let receive = ends.receiver.receive(&mut [], &mut again);
        assert!(matches!(receive, Err(ChannelError::Closed)));
        assert!(matches!(ends.receiver.flush(), Err(ChannelError::Closed)));
        assert_eq!(
            (again.events.len(), ends.told_receiver.events.len()),
            (0, told)
        );
    }
}

#[test]
fn a_write_after_silence_would_be_seen() {
    let mut ends = Ends::new();
    let from = Buffer::new(&ends.fabric, 12 * CHUNK, 0x77);
    let mut to = Buffer::new(&ends.fabric, 12 * CHUNK, 0);
    for index in 0..12 {
        write(&mut ends.sender, &from, &to, index, 1);
    }
    ends.sender.flush().unwrap();
    ends.fabric.run(5);
    ends.receiver.pair().set_leaky();
    ends.receiver.silence(&mut [], &mut ends.told_receiver);
    to.fill(0xee);
    ends.fabric.settle();
    assert!(to.bytes.contains(&0x77), "the queue pair in memory leaks");
}

#[test]
fn what_breaks_the_protocol_does_not_cut_silence_short() {
    let mut ends = Ends::new();
    ends.fabric.is_shy(true);
    let from = Buffer::new(&ends.fabric, 40 * CHUNK, 0x77);
    let to = Buffer::new(&ends.fabric, 40 * CHUNK, 0);
    for index in 0..40 {
        write(&mut ends.sender, &from, &to, index, 1);
    }
    ends.sender.flush().unwrap();
    ends.fabric.settle();
    ends.told_receiver.refuses = true;
    ends.receiver.silence(&mut [], &mut ends.told_receiver);
    let rest: Vec<u32> = (1..40).collect();
    assert_eq!(ends.told_receiver.chunks(), rest);
    assert_eq!(
        ends.receiver.pair().completions(),
        0,
        "all has been taken in"
    );
}

#[test]
fn a_failure_is_told_once_after_what_came_before_it() {
    for seed in 0..20 {
        let fabric = Fabric::new(seed);
        let mut ends = Ends::over(fabric);
        let from = Buffer::new(&ends.fabric, 100 * CHUNK, 1);
        let to = Buffer::new(&ends.fabric, 100 * CHUNK, 0);
        for index in 0..100 {
            write(&mut ends.sender, &from, &to, index, 1);
        }
        control(&mut ends.sender, ping(1));
        ends.sender.flush().unwrap();
        ends.fabric.run(4 * seed as u32);
        // Some have been carried out and acknowledged, some carried out: the sender cannot know.
        ends.sender.pair().lose_acknowledgements(true);
        ends.fabric.run(9);
        ends.sender.pair().fail(RETRIES_EXCEEDED);
        ends.fabric.settle();
        let told = &mut ends.told_sender;
        let Err(ChannelError::Adapter(why)) = ends.sender.receive(&mut [], told) else {
            panic!("it has failed");
        };
        assert_eq!(
            why,
            status_text(RETRIES_EXCEEDED),
            "not that of what it took along"
        );
        let sent = told.events.len();
        assert!(told.sent.iter().all(|sent| sent.is_data));
        let again = ends.sender.receive(&mut [], told);
        assert!(matches!(again, Err(ChannelError::Closed)), "{again:?}");
        assert_eq!(told.events.len(), sent);
        assert_eq!(ends.sender.pair().outstanding(), 0);
        // What arrived without the sender's knowledge is there at the other end.
        ends.receiver.silence(&mut [], &mut ends.told_receiver);
        let count = ends.told_receiver.chunks();
        assert!(count.len() >= sent, "{} of {sent}", count.len());
        assert_eq!(count, (0..count.len() as u32).collect::<Vec<_>>());
    }
}

#[test]
fn a_receiver_that_fails_has_taken_in_what_came_before() {
    let mut ends = Ends::new();
    let from = Buffer::new(&ends.fabric, 100 * CHUNK, 1);
    let to = Buffer::new(&ends.fabric, 100 * CHUNK, 0);
    for index in 0..100 {
        write(&mut ends.sender, &from, &to, index, 1);
    }
    ends.sender.flush().unwrap();
    ends.fabric.settle();
    ends.receiver.pair().fail(LOCAL_CATASTROPHE);
    let told = &mut ends.told_receiver;
    let failed = loop {
        // A look takes in so much and no more.
        if let Err(failed) = ends.receiver.receive(&mut [], told) {
            break failed;
        }
    };
    assert!(matches!(failed, ChannelError::Adapter(_)), "{failed:?}");
    assert_eq!(told.chunks(), (0..100).collect::<Vec<_>>());
    assert_eq!(ends.receiver.pair().completions(), 0);
}

/// It has no request that could say so: its receives are given up.
const LOCAL_CATASTROPHE: u32 = FLUSHED;

#[test]
fn a_queue_that_has_overrun_ends_the_path_at_once() {
    let mut ends = Ends::new();
    for end in [&mut ends.sender, &mut ends.receiver] {
        end.pair().overrun();
        let mut told = Told::default();
        let start = Instant::now();
        let Err(ChannelError::Adapter(why)) = end.receive(&mut [], &mut told) else {
            panic!("the queue has overrun");
        };
        assert!(why.contains("ibv_poll_cq"), "{why}");
        assert!(end.pair().has_failed(), "it is silent");
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        assert!(matches!(end.flush(), Err(ChannelError::Closed)));
    }
}

#[test]
fn requests_that_are_refused_end_the_path() {
    for accepted in [0, 1, 7] {
        let mut ends = Ends::new();
        let from = Buffer::new(&ends.fabric, 30 * CHUNK, 1);
        let to = Buffer::new(&ends.fabric, 30 * CHUNK, 0);
        for index in 0..5 {
            write(&mut ends.sender, &from, &to, index, 1);
        }
        ends.sender.flush().unwrap();
        ends.fabric.settle();
        for index in 5..15 {
            write(&mut ends.sender, &from, &to, index, 2);
        }
        ends.sender.pair().fail_post(accepted);
        let Err(ChannelError::Adapter(why)) = ends.sender.flush() else {
            panic!("{accepted}: it was refused");
        };
        assert!(why.contains("ibv_post_send"), "{why}");
        let start = Instant::now();
        let told = &mut ends.told_sender;
        let Err(ChannelError::Adapter(again)) = ends.sender.receive(&mut [], told) else {
            panic!("{accepted}: it has failed");
        };
        assert_eq!(again, why);
        assert_eq!(told.sent.len(), 5, "what went before is told");
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        assert!(!ends.sender.holds(2), "its buffer is not read any more");
    }
}

#[test]
fn a_receive_that_cannot_be_posted_fails_the_making_of_a_path() {
    let fabric = Fabric::new(1);
    let (pair, mut other) = fabric.connect((Role::Sender, RECEIVER));
    pair.fail_post_receive(1);
    let start = Instant::now();
    let made = VerbsChannel::new(pair, Role::Sender, (0, 0), fabric.slab());
    let error = made.unwrap_err().to_string();
    assert!(error.contains("ibv_post_recv"), "{error}");
    assert!(start.elapsed() < SOON);
    assert_eq!(fabric.freed(), [0]);
    other.silence().unwrap();
}

#[test]
fn a_write_without_the_key_of_its_place_fails_both_ends() {
    let mut ends = Ends::new();
    let from = Buffer::new(&ends.fabric, 3 * CHUNK, 1);
    let to = Buffer::new(&ends.fabric, 2 * CHUNK, 0);
    for index in 0..3 {
        // The third begins inside and ends outside.
        write(&mut ends.sender, &from, &to, index, 1);
    }
    ends.sender.flush().unwrap();
    ends.fabric.settle();
    let told = &mut ends.told_sender;
    let Err(ChannelError::Adapter(why)) = ends.sender.receive(&mut [], told) else {
        panic!("it has failed");
    };
    assert_eq!(why, status_text(REMOTE_ACCESS));
    assert_eq!(told.sent.len(), 2);
    let failed = ends.receiver.receive(&mut [], &mut ends.told_receiver);
    assert!(matches!(failed, Err(ChannelError::Adapter(_))));
    assert_eq!(ends.told_receiver.chunks(), [0, 1]);
}

#[test]
fn each_end_uses_the_keys_of_its_own_port() {
    let fabric = Fabric::new(3);
    let (sender, receiver) = fabric.connect((Role::Sender, RECEIVER));
    let mut sender = VerbsChannel::new(sender, Role::Sender, (1, 2), fabric.slab()).unwrap();
    let mut receiver = VerbsChannel::new(receiver, RECEIVER, (0, 0), fabric.slab()).unwrap();
    let from = Buffer::new(&fabric, CHUNK, 9);
    let to = Buffer::new(&fabric, CHUNK, 0);
    let mut told = Told::default();
    let chunk = Chunk {
        slot: 0,
        generation: 0,
        index: 0,
        chunk_bytes: CHUNK as u32,
        payload: CHUNK as u32,
        last: true,
    };
    let good = Write {
        chunk,
        addr: to.range(0, CHUNK).addr,
        remote: Keys::new(&[1, 2, to.key]).unwrap(),
        local: Keys::new(&[3, from.key]).unwrap(),
    };
    sender.write(good, from.range(0, CHUNK), 1);
    sender.flush().unwrap();
    fabric.settle();
    receiver.receive(&mut [], &mut told).unwrap();
    assert_eq!(told.chunks(), [0]);
    assert_eq!(to.at(0, CHUNK), from.at(0, CHUNK));
    // A peer that names fewer keys than it has ports gets nothing written.
    let few = Write {
        remote: Keys::new(&[1, 2]).unwrap(),
        ..good
    };
    sender.write(few, from.range(0, CHUNK), 1);
    sender.flush().unwrap();
    fabric.settle();
    let failed = sender.receive(&mut [], &mut told);
    assert!(matches!(failed, Err(ChannelError::Adapter(why)) if why == status_text(REMOTE_ACCESS)));
}

#[test]
fn a_channel_holds_a_buffer_until_nothing_reads_it() {
    let mut ends = Ends::new();
    let count = Role::Sender.depths().send + 5;
    let from = Buffer::new(&ends.fabric, count as usize * CHUNK, 1);
    let to = Buffer::new(&ends.fabric, count as usize * CHUNK, 0);
    assert!(!ends.sender.holds(1));
    for index in 0..count {
        let owner = if index < 5 { 1 } else { 2 };
        write(&mut ends.sender, &from, &to, index, owner);
    }
    assert!(ends.sender.holds(1) && ends.sender.holds(2), "they wait");
    ends.sender.flush().unwrap();
    assert!(ends.sender.holds(1) && ends.sender.holds(2) && !ends.sender.holds(3));
    // What has arrived is held until that is known: it may be read again before.
    ends.sender.pair().lose_acknowledgements(true);
    ends.fabric.settle();
    ends.look();
    assert!(ends.sender.holds(1));
    ends.sender.pair().lose_acknowledgements(false);
    ends.fabric.settle();
    ends.sender.receive(&mut [], &mut ends.told_sender).unwrap();
    assert!(!ends.sender.holds(1) && ends.sender.holds(2));
    // A small message is the engine's own, and held for nobody.
    control(&mut ends.sender, ping(1));
    assert!(!ends.sender.holds(3));
    let mut nobody = Told::default();
    ends.sender.silence(&mut [], &mut nobody);
    assert!(
        ends.sender.has_unsent() && ends.sender.holds(2),
        "those never given"
    );
    ends.sender.pair().set_silent(true);
}

#[test]
fn settling_ends_when_all_has_arrived_or_the_time_is_up() {
    let mut ends = Ends::new();
    ends.fabric.drives_itself(true);
    // More than are given at once, but not more than there are receives.
    let count = Role::Sender.depths().send;
    for _ in 0..count {
        control(&mut ends.sender, Frame::Goodbye);
    }
    let start = Instant::now();
    ends.sender
        .settle(Timestamp::now() + Nanos::from_secs(20), None);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(!ends.sender.has_unsent() && !ends.sender.stats().in_flight);
    // Nothing is acknowledged any more.
    ends.sender.pair().lose_acknowledgements(true);
    control(&mut ends.sender, Frame::Goodbye);
    let start = Instant::now();
    ends.sender
        .settle(Timestamp::now() + Nanos::from_millis(30), None);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(30) && took < Duration::from_secs(5));
    // It fails meanwhile, or has done so before.
    ends.sender.pair().fail(RETRIES_EXCEEDED);
    for _ in 0..2 {
        let start = Instant::now();
        ends.sender
            .settle(Timestamp::now() + Nanos::from_secs(20), None);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_goodbye_gets_through_while_messages_come() {
    let mut ends = Ends::new();
    let small = [0x5a; 3000];
    for ordinal in 0..40 {
        let (header, payload) = eager(&small, ordinal);
        ends.sender.send(header, payload, true);
    }
    ends.sender.flush().unwrap();
    control(&mut ends.sender, ping(0));
    ends.fabric.run(60);
    ends.receiver
        .receive(&mut [], &mut ends.told_receiver)
        .unwrap();
    assert!(
        ends.told_receiver.events.len() < 80,
        "some are still under way"
    );
    control(&mut ends.receiver, Frame::Goodbye);
    ends.receiver.flush().unwrap();
    ends.fabric.drives_itself(true);
    ends.receiver
        .settle(Timestamp::now() + Nanos::from_secs(20), None);
    assert!(!ends.receiver.stats().in_flight, "it is there");
    ends.sender.receive(&mut [], &mut ends.told_sender).unwrap();
    assert_eq!(ends.told_sender.frames(), [Frame::Goodbye]);
}

#[test]
fn a_path_is_abandoned_when_its_socket_closes() {
    let mut ends = Ends::new();
    assert!(!ends.sender.is_abandoned(), "it has none");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    ends.sender.keep(ours);
    assert!(ends.sender.fds()[1].is_some());
    assert!(!ends.sender.is_abandoned());
    std::io::Write::write_all(&mut theirs, b"nobody should").unwrap();
    for _ in 0..100 {
        assert!(!ends.sender.is_abandoned(), "it was only written to");
    }
    drop(theirs);
    let start = Instant::now();
    while !ends.sender.is_abandoned() {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert!(ends.sender.is_abandoned(), "and stays so");
}

thread_local! {
    /// The memory that a test looks after, and how many queue pairs were gone when it was freed.
    static WATCHED: Cell<usize> = const { Cell::new(0) };
    static FREED_AFTER: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Watching;

// SAFETY: the system's allocator does the work; what is written down changes nothing of it.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if WATCHED.get() == memory as usize {
            FREED_AFTER.set(Some(fabric::FREED.get()));
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static WATCHING: Watching = Watching;

/// Who takes the remains of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grave {
    None,
    Dug,
    /// Nobody digs any more.
    Closed,
}

#[test]
fn a_path_that_is_dropped_is_silent_and_its_memory_goes_last() {
    for grave in [Grave::None, Grave::Dug, Grave::Closed] {
        let mut ends = Ends::new();
        for id in 0..100 {
            control(&mut ends.sender, ping(id));
        }
        ends.sender.flush().unwrap();
        ends.fabric.run(50);
        let (bury, remains) = mpsc::channel();
        let remains = (grave != Grave::Closed).then_some(remains);
        if grave != Grave::None {
            ends.sender.bury_in(bury);
        }
        let slab = ends.fabric.slab_at(ends.sender.pair().number());
        let before = fabric::FREED.get();
        FREED_AFTER.set(None);
        WATCHED.set(usize::try_from(slab).unwrap());
        assert!(!ends.sender.pair().has_failed());
        // That it is silent when it is freed, and all of it has been seen, is checked there.
        drop(ends.sender);
        if let (Grave::Dug, Some(remains)) = (grave, remains) {
            assert_eq!((fabric::FREED.get(), FREED_AFTER.get()), (before, None));
            drop(remains.try_recv().unwrap());
        }
        assert_eq!(
            FREED_AFTER.get(),
            Some(before + 1),
            "{grave:?}: the queue pair first"
        );
        WATCHED.set(0);
    }
}

/// A receiving end with its engine, and a peer that does what it likes.
struct Victim {
    fabric: Fabric,
    peer: MockPair,
    path: Path,
    engine: RxEngine,
    large: Buffer,
    small: Buffer,
}

const LARGE: usize = 3 * CHUNK + 100;

impl Victim {
    fn new() -> Self {
        let fabric = Fabric::new(11);
        let (mut peer, receiver) = fabric.connect((Role::Sender, RECEIVER));
        let path = VerbsChannel::new(receiver, RECEIVER, (0, 0), fabric.slab()).unwrap();
        let config = EngineConfig {
            paths_max: 2,
            search: false,
            eager_bytes: EAGER_BYTES_MAX,
            chunk_bytes: Some(CHUNK as u32),
            completions: Completions::Local,
            receive_depth: Some(RECEIVES_DATA),
            ..EngineConfig::default()
        };
        let mut engine = RxEngine::new(config, Timestamp::from_nanos(1));
        engine.handle_path_up(0, 1, None);
        engine.handle_path_up(1, 1, None);
        engine.answer_open(1, true);
        let large = Buffer::new(&fabric, LARGE, 0xaa);
        let small = Buffer::new(&fabric, 1000, 0xaa);
        engine.post(1, 1, 0, large.range(0, LARGE), Keys::default());
        engine.post(1, 2, 1, small.range(0, 1000), Keys::default());
        while engine.poll_transmit().is_some() {}
        let nothing = Piece::default();
        for id in 0..64 {
            // SAFETY: it is never written.
            unsafe { peer.post_receive(id, nothing) }.unwrap();
        }
        Self {
            fabric,
            peer,
            path,
            engine,
            large,
            small,
        }
    }

    fn give(&mut self, bytes: &[u8], operation: Operation) {
        let key = self.fabric.register(bytes.as_ptr(), bytes.len());
        let request = Request {
            id: 1 << 63,
            local: Piece {
                addr: bytes.as_ptr() as u64,
                bytes: bytes.len() as u32,
                key,
            },
            operation,
        };
        // SAFETY: it is done before the bytes are gone.
        unsafe { self.peer.post(&[request]) }.unwrap();
        self.fabric.settle();
        self.fabric.deregister(key);
    }

    /// A message of the peer, and what the channel says to it.
    fn say(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.give(bytes, Operation::Send);
        self.look()
    }

    /// A write of so many bytes at the start of the large buffer, with this immediate.
    fn write(&mut self, bytes: usize, immediate: u32) -> Result<(), ChannelError> {
        let addr = self.large.range(0, LARGE).addr;
        let key = self.large.key;
        self.give(
            &vec![0xaa; bytes],
            Operation::Write {
                addr,
                key,
                immediate,
            },
        );
        self.look()
    }

    fn look(&mut self) -> Result<(), ChannelError> {
        let mut inbound = Inbound::new(&mut self.engine, 0, Timestamp::now());
        self.path.receive(&mut [], &mut inbound).map(|_| ())
    }

    /// The path that it came over is closed; over the other one all goes on.
    fn goes_on(mut self, what: &str) {
        self.path.silence(
            &mut [],
            &mut Inbound::new(&mut self.engine, 0, Timestamp::now()),
        );
        assert_eq!(self.path.pair().completions(), 0, "{what}");
        drop(self.path);
        self.engine.handle_path_down(0, 1);
        for buffer in [&self.large, &self.small] {
            let untouched = buffer.bytes.iter().all(|&byte| byte == 0xaa);
            assert!(untouched, "{what}: a buffer was written");
        }
        assert_eq!(self.engine.poll_completion(), None, "{what}");
        assert_eq!(self.engine.receives_pending(), 2, "{what}");
        let range = self.large.range(0, LARGE);
        for index in 0..4 {
            let last = index == 3;
            let immediate = Immediate {
                slot: 0,
                generation: 0,
                index,
                last,
            };
            let bytes = if last { 100 } else { CHUNK as u32 };
            self.engine
                .handle_immediate(1, immediate.pack().unwrap(), bytes)
                .unwrap();
        }
        let done = self.engine.poll_completion().unwrap();
        assert_eq!((done.token, done.result), (1, Ok(range.len)), "{what}");
        self.peer.silence().unwrap();
        drain(&mut self.peer);
    }
}

#[test]
fn a_message_that_is_no_frame_closes_its_path_and_nothing_else() {
    let ping = ping(7).encode().as_bytes().to_vec();
    let small = [0x33; 100];
    let (header, _) = eager(&small, 0);
    // For the receive with tag 1.
    let header = {
        let mut header = header.as_bytes().to_vec();
        header[8] = 1;
        header
    };
    let with = |payload: &[u8]| [&header[..], payload].concat();
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("no byte".into(), Vec::new()),
        (
            "a header longer than any".into(),
            vec![12, 0, 200, 0, 1, 2, 3, 4],
        ),
        ("a header shorter than its prefix".into(), vec![12, 0, 3, 0]),
        ("an unknown kind".into(), vec![200, 0, 4, 0]),
        ("zeros".into(), vec![0; 64]),
        ("a payload that is too short".into(), with(&small[..99])),
        ("no payload".into(), with(&[])),
        ("a payload that is too long".into(), with(&[0x33; 101])),
        (
            "a payload and a frame".into(),
            with(&[&small[..], &ping[..]].concat()),
        ),
        ("two frames".into(), [&ping[..], &ping[..]].concat()),
        ("a frame and a byte".into(), [&ping[..], &[0]].concat()),
        (
            "a frame that only a receiver sends".into(),
            Frame::Lost { path: 0, epoch: 1 }
                .encode()
                .as_bytes()
                .to_vec(),
        ),
        (
            "a fence for a path that cannot exist".into(),
            Frame::Fence { path: 9, epoch: 1 }
                .encode()
                .as_bytes()
                .to_vec(),
        ),
    ];
    for len in 1..ping.len() {
        cases.push((format!("{len} bytes of a header"), ping[..len].to_vec()));
    }
    for len in 1..header.len() {
        cases.push((
            format!("{len} bytes of an eager header"),
            header[..len].to_vec(),
        ));
    }
    let mut random = fabric::Random(5);
    for round in 0..200 {
        let len = 1 + random.below(200) as usize;
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let decodes = bytes.len() >= 4 && Frame::decode(&bytes).is_ok();
        assert!(!decodes, "garbage {round} is none");
        cases.push((format!("garbage {round}"), bytes));
    }
    for (what, message) in cases {
        let mut victim = Victim::new();
        let answer = victim.say(&message);
        assert!(
            matches!(answer, Err(ChannelError::Violation(_))),
            "{what}: {answer:?}"
        );
        victim.goes_on(&what);
    }
}

#[test]
fn an_immediate_that_names_nothing_closes_its_path_and_nothing_else() {
    let good = Immediate {
        slot: 0,
        generation: 0,
        index: 0,
        last: false,
    };
    let cases = [
        ("a slot never granted", Immediate { slot: 9, ..good }, CHUNK),
        ("the largest slot", Immediate { slot: 4095, ..good }, CHUNK),
        ("beyond the window", Immediate { index: 300, ..good }, CHUNK),
        ("beyond the end", Immediate { index: 4, ..good }, 1),
        ("over the end", Immediate { index: 3, ..good }, 101),
        (
            "longer than a chunk",
            Immediate { index: 1, ..good },
            CHUNK * 3,
        ),
    ];
    for (what, immediate, bytes) in cases {
        let mut victim = Victim::new();
        let answer = victim.write(bytes, immediate.pack().unwrap());
        assert!(
            matches!(answer, Err(ChannelError::Violation(_))),
            "{what}: {answer:?}"
        );
        victim.goes_on(what);
    }
    // One for a use of the slot that is over says nothing, and breaks nothing.
    let mut victim = Victim::new();
    let late = Immediate {
        generation: 3,
        ..good
    };
    victim.write(CHUNK, late.pack().unwrap()).unwrap();
    // Slot 1 is posted, but was never granted.
    let not_granted = Immediate { slot: 1, ..good };
    victim.write(100, not_granted.pack().unwrap()).unwrap();
    victim.goes_on("a late one");
}

#[test]
fn a_message_in_place_of_a_chunk_is_as_long_as_it_says() {
    let chunk = Frame::Chunk(Chunk {
        slot: 0,
        generation: 0,
        index: 0,
        chunk_bytes: CHUNK as u32,
        payload: CHUNK as u32,
        last: false,
    });
    for sent in [0, 1, 4000] {
        let mut victim = Victim::new();
        let message = [chunk.encode().as_bytes(), &vec![7; sent]].concat();
        let answer = victim.say(&message);
        assert!(matches!(answer, Err(ChannelError::Violation(_))));
        victim.goes_on("a chunk of another length");
    }
}

#[test]
fn a_message_longer_than_its_receive_fails_both_ends() {
    let mut victim = Victim::new();
    let long = vec![1; EAGER_BYTES_MAX as usize + 81];
    let answer = victim.say(&long);
    assert!(
        matches!(answer, Err(ChannelError::Adapter(_))),
        "{answer:?}"
    );
    assert!(victim.peer.has_failed());
    victim.goes_on("a long message");
}

#[test]
fn batches_are_handed_over_in_parts() {
    // Both loops, of requests and of completions, go round more than once.
    let mut ends = Ends::new();
    let count = 5 * REQUESTS_MAX as u32 + 3;
    for id in 0..count {
        control(&mut ends.sender, ping(id));
    }
    ends.sender.flush().unwrap();
    ends.fabric.settle();
    let told = &mut ends.told_receiver;
    let first = ends.receiver.receive(&mut [], told).unwrap();
    assert_eq!(first, 4 * REQUESTS_MAX, "others have their turn");
    assert_eq!(ends.receiver.receive(&mut [], told).unwrap(), 16 + 3);
    assert_eq!(ends.receiver.receive(&mut [], told).unwrap(), 0);
}

/// What a sender's end makes of the credits and counts that come back is the engine's: here only that
/// they do.
#[test]
fn a_fence_is_answered_over_another_path() {
    let mut victim = Victim::new();
    victim.write(CHUNK, 0).unwrap();
    victim.path.silence(
        &mut [],
        &mut Inbound::new(&mut victim.engine, 0, Timestamp::now()),
    );
    victim.engine.handle_silenced(0, 1);
    let mut answers = Vec::new();
    while let Some(transmit) = victim.engine.poll_transmit() {
        assert_eq!(transmit.path, 1);
        answers.push(Frame::decode(transmit.header.as_bytes()).unwrap());
    }
    let count = PathCount {
        path: 0,
        epoch: 1,
        count: 1,
    };
    assert!(answers.contains(&Frame::Fenced(count)), "{answers:?}");
    victim.peer.silence().unwrap();
    drain(&mut victim.peer);
}

fn drain(pair: &mut MockPair) {
    let mut completions = Vec::new();
    while pair.completions() > 0 {
        pair.poll(&mut completions).unwrap();
    }
    let failed = |c: &Completion| matches!(c.done, Done::Failed(_) | Done::Sent);
    assert!(completions.iter().all(failed));
}
