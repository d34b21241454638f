//! What is fuzzed: every place where bytes of a peer, a stranger, a user or a device are taken in. Each
//! function takes arbitrary bytes and panics where a promise is broken. The fuzzer's programs and
//! the ordinary tests (`tests/corpora.rs`) share this file.

#![allow(
    unsafe_code,
    reason = "the engine names memory of its own, which is written as a driver would"
)]

use std::collections::{BTreeMap, BTreeSet};

use thalweg::auth::{Key, Role, Token};
use thalweg::clock::Timestamp;
use thalweg::config::Config;
use thalweg::control::{AnyController, Fixed};
use thalweg::engine::wire::{self, Frame, Keys, PathCount};
use thalweg::engine::{
    Completions, EngineConfig, MemRange, RxAction, RxEngine, Sink, Submitted, Transmit, TxAction,
    TxEngine, Violation,
};
use thalweg::export::http;
use thalweg::path::health::TransportStats;
use thalweg::path::select::{AnySelector, RoundRobin};
use thalweg::session::fuzzing::{
    HELLO_BYTES, Handle, Hello, WELCOME_BYTES, Welcome, challenge, read_challenge,
};
use thalweg::telemetry::schema::PortGauge;
use thalweg::telemetry::sources::{
    dcb, ethtool_netlink, link, module, netlink as sockets, otlp as switches, pcie, pressure,
    processors, routes,
};
use thalweg::transport::{ChannelError, Receiver, framing};
use thalweg::units::{Bytes, Nanos};

/// A target.
pub type Target = fn(&[u8]);

/// All targets by the names of their corpora.
pub const TARGETS: [(&str, Target); 12] = [
    ("frame", frame),
    ("receiver", receiver),
    ("sender", sender),
    ("handshake", handshake),
    ("handle", handle),
    ("config", config),
    ("request", request),
    ("netlink", netlink),
    ("transceiver", transceiver),
    ("proc", proc),
    ("otlp", otlp),
    ("host", host),
];

/// Reads operations from the input; zeros after its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A frame: its length, then its bytes, as long as a channel would collect.
    fn header(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(wire::HEADER_BYTES_MAX);
        self.take(len)
    }
}

fn padded<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let len = data.len().min(N);
    out[..len].copy_from_slice(&data[..len]);
    out
}

/// A frame's decoder: whatever decodes is what its encoding says.
pub fn frame(data: &[u8]) {
    if let Some(prefix) = data.first_chunk() {
        if let Ok(len) = wire::header_len(*prefix) {
            assert!((wire::PREFIX_BYTES..=wire::HEADER_BYTES_MAX).contains(&len));
        }
    }
    let Ok(decoded) = Frame::decode(data) else {
        return;
    };
    let entries: Vec<_> = wire::ack_entries(data).collect();
    let again = match decoded {
        Frame::Ack(ack) => {
            assert_eq!(entries.len(), (data.len() - 12) / 8);
            wire::encode_ack(ack, entries.iter().copied())
        }
        other => other.encode(),
    };
    assert!(again.as_bytes().len() <= wire::HEADER_BYTES_MAX);
    assert_eq!(Frame::decode(again.as_bytes()), Ok(decoded));
    let length = again
        .as_bytes()
        .first_chunk()
        .map(|prefix| wire::header_len(*prefix));
    assert_eq!(length, Some(Ok(again.as_bytes().len())));
    if matches!(decoded, Frame::Ack(_)) {
        let kept: Vec<_> = wire::ack_entries(again.as_bytes()).collect();
        assert_eq!(
            kept[..],
            entries[..entries.len().min(wire::ACK_ENTRIES_MAX)]
        );
    }
}

const PATHS: u8 = 4;
/// The longest message of a channel that keeps them apart.
const MESSAGE_BYTES: usize = wire::HEADER_BYTES_MAX + 4096;
/// Where buffers are said to be; nothing of the process is there.
const FAKE: u64 = 1 << 62;

fn engine_config(choice: u8) -> EngineConfig {
    EngineConfig {
        paths_max: PATHS,
        search: false,
        rehash: choice & 16 != 0,
        eager_bytes: [0, 1000, 8192, 65_536][usize::from(choice & 3)],
        chunk_bytes: (choice & 4 != 0).then_some(4096),
        completions: if choice & 8 != 0 {
            Completions::Local
        } else {
            Completions::Peer
        },
        receive_depth: (choice & 32 != 0).then_some(8),
        ..EngineConfig::default()
    }
}

fn inside(range: MemRange, outer: MemRange) -> bool {
    range.addr >= outer.addr && range.addr + range.len <= outer.addr + outer.len
}

/// The memory that an engine says is its own, written as a driver would.
fn fill(range: MemRange) {
    // SAFETY: the engine keeps this memory for a small message of just this length, until it is
    // told that the payload is there or that the channel is gone.
    unsafe { std::ptr::write_bytes(range.addr as *mut u8, 0x5a, range.len as usize) };
}

/// Takes in messages as a driver does, but for payloads that go where nothing is.
struct Whole<'a> {
    rx: &'a mut RxEngine,
    posted: &'a BTreeMap<u64, (u32, MemRange)>,
    path: u8,
}

impl Receiver for Whole<'_> {
    fn frame(&mut self, header: &[u8], arrived_ns: u64) -> Result<Option<Sink>, Violation> {
        let frame = Frame::decode(header)?;
        let sink = self.rx.handle_frame(self.path, frame, arrived_ns)?;
        Ok(match sink {
            Some(Sink::Place(range)) if range.addr >= FAKE => {
                let right = self.posted.values().any(|(_, b)| inside(range, *b));
                assert!(right, "{frame:?} goes to {range:x?}");
                Some(Sink::Discard(range.len))
            }
            other => other,
        })
    }

    fn payload_done(&mut self) {
        self.rx.handle_payload_done(self.path);
    }
}

/// The receiving engine against a peer that knows the token and nothing else: a payload goes into
/// a buffer whose receive is outstanding, or into the engine's own memory, and nowhere else.
pub fn receiver(data: &[u8]) {
    let mut input = Input(data);
    let mut now = Timestamp::from_nanos(1_000_000_000);
    let mut rx = RxEngine::new(engine_config(input.byte()), now);
    let mut epochs = [1u16; PATHS as usize];
    let mut writing: [Option<MemRange>; PATHS as usize] = [None; PATHS as usize];
    let mut posted: BTreeMap<u64, (u32, MemRange)> = BTreeMap::new();
    let mut token = 0u64;
    for path in 0..PATHS {
        rx.handle_path_up(path, 1, None);
    }
    for conn in 1..4 {
        rx.answer_open(conn, true);
    }
    while !input.is_empty() {
        let operation = input.byte();
        let path = operation >> 4 & (PATHS - 1);
        let index = usize::from(path);
        match operation & 15 {
            0..=2 => {
                let (conn, tag) = (u32::from(input.byte() & 3), i32::from(input.byte() & 1));
                let len =
                    [0, 100, 8192, 9000, 100_000, 4096, 65_536, 1][usize::from(input.byte() & 7)];
                token += 1;
                let buffer = MemRange {
                    addr: FAKE + (token << 32),
                    len,
                };
                posted.insert(token, (conn, buffer));
                rx.post(conn, token, tag, buffer, Keys::default());
            }
            3 | 4 => {
                // The payload that was arriving is there.
                if let Some(range) = writing[index].take() {
                    if range.addr < FAKE {
                        fill(range);
                    }
                }
                rx.handle_payload_done(path);
            }
            5 => {
                writing[index] = None;
                rx.handle_path_down(path, epochs[index]);
            }
            6 => {
                let (conn, accepted) = (u32::from(input.byte() & 3), input.byte() & 1 == 1);
                rx.answer_open(conn, accepted);
            }
            7 => {
                let conn = u32::from(input.byte() & 3);
                for path in rx.arriving_for(conn).collect::<Vec<_>>() {
                    writing[usize::from(path)] = None;
                }
                rx.close(conn);
                posted.retain(|_, (c, _)| *c != conn);
            }
            8 => {
                let epoch = epochs[index].wrapping_add(u16::from(input.byte()));
                if rx.admits_channel(path, epoch) {
                    writing[index] = None;
                    let fence = (input.byte() & 1 == 1).then_some(epochs[index]);
                    rx.handle_path_up(path, epoch, fence);
                    epochs[index] = epoch;
                }
            }
            9 => {
                now += Nanos::from_millis(u64::from(input.byte()));
                let stats = TransportStats {
                    in_flight: input.byte() & 1 == 1,
                    ..TransportStats::default()
                };
                rx.handle_stats(path, &stats, now);
                rx.handle_timeout(now);
            }
            14 => {
                // A message, as channels have it that keep them apart.
                let len = usize::from(u16::from_le_bytes([input.byte(), input.byte()]));
                let message = input.take(len.min(MESSAGE_BYTES));
                if writing[index].is_some() || !rx.paths_up().any(|up| up == path) {
                    continue;
                }
                let mut whole = Whole {
                    rx: &mut rx,
                    posted: &posted,
                    path,
                };
                if let Err(violation) = framing::message(message, 1, &mut whole) {
                    assert!(matches!(violation, ChannelError::Violation(_)));
                    rx.handle_path_down(path, epochs[index]);
                }
            }
            15 => {
                // What the adapter says of a write that the peer made by itself.
                let imm = u32::from_le_bytes(std::array::from_fn(|_| input.byte()));
                let bytes = [0, 1, 4096, 5000, u32::MAX][usize::from(input.byte() % 5)];
                // Where there are writes, no payload is ever half there.
                if writing.iter().all(Option::is_none)
                    && rx.paths_up().any(|up| up == path)
                    && let Err(violation) = rx.handle_immediate(path, imm, bytes)
                {
                    assert!(!violation.to_string().is_empty());
                    rx.handle_path_down(path, epochs[index]);
                }
            }
            _ => {
                let header = input.header();
                if writing[index].is_some() || !rx.paths_up().any(|up| up == path) {
                    continue; // a channel takes one frame after the other, while it is up
                }
                let Ok(frame) = Frame::decode(header) else {
                    continue;
                };
                match rx.handle_frame(path, frame, 1) {
                    Ok(Some(Sink::Place(range))) => {
                        if range.addr >= FAKE {
                            let right = posted.values().any(|(_, buffer)| inside(range, *buffer));
                            assert!(right, "{frame:?} goes to {range:x?}");
                        } else {
                            assert!(
                                matches!(frame, Frame::Eager(e) if u64::from(e.payload) == range.len)
                            );
                            fill(range);
                        }
                        writing[index] = Some(range);
                    }
                    Ok(Some(Sink::Discard(_))) => rx.handle_payload_done(path),
                    Ok(None) => {}
                    Err(violation) => {
                        assert!(!violation.to_string().is_empty());
                        rx.handle_path_down(path, epochs[index]);
                    }
                }
            }
        }
        for _ in 0..4096 {
            match rx.poll_action() {
                Some(RxAction::Silence { path, epoch }) => {
                    writing[usize::from(path)] = None;
                    rx.handle_silenced(path, epoch);
                }
                Some(RxAction::Opened { conn, listener }) => {
                    rx.answer_open(conn, listener & 1 == 1 && rx.conns().count() < 100);
                }
                Some(_) => {}
                None => break,
            }
        }
        while let Some((data, range)) = rx.poll_copy() {
            assert_eq!(data.len() as u64, range.len);
            assert!(
                posted.values().any(|(_, buffer)| inside(range, *buffer)),
                "{range:x?}"
            );
        }
        while let Some(done) = rx.poll_completion() {
            let (_, buffer) = posted
                .remove(&done.token)
                .expect("ends once, and only what was posted");
            if let Ok(len) = done.result {
                assert!(len <= buffer.len, "{len} bytes in {buffer:x?}");
            }
            let late = writing
                .iter()
                .flatten()
                .find(|range| range.len > 0 && inside(**range, buffer));
            assert!(
                late.is_none(),
                "{late:x?} is written after its receive has ended"
            );
        }
        for _ in 0..4096 {
            let Some(transmit) = rx.poll_ack(true).or_else(|| rx.poll_transmit()) else {
                break;
            };
            let frame = Frame::decode(transmit.header.as_bytes()).expect("what is sent decodes");
            if let Frame::Credit(credit) = frame {
                let open = rx.conns().any(|conn| conn == credit.conn);
                assert!(
                    open,
                    "a credit for a buffer that was taken back: {credit:?}"
                );
            }
        }
    }
}

/// The sending engine against such a peer: what it sends is part of a message that has been
/// submitted and has not ended, or its own memory.
pub fn sender(data: &[u8]) {
    let mut input = Input(data);
    let mut now = Timestamp::from_nanos(1_000_000_000);
    let choice = input.byte();
    let config = engine_config(choice);
    let mut tx = TxEngine::new(
        config,
        AnyController::Fixed(Fixed::new(Bytes(1 << 20))),
        AnySelector::RoundRobin(RoundRobin::default()),
        now,
    );
    let conns = [tx.open(1), tx.open(2), tx.open(3)];
    let mut epochs = [0u16; PATHS as usize];
    let mut dials: Vec<(u8, u16, Option<u16>)> = Vec::new();
    let mut closed = BTreeSet::new();
    let mut submitted: BTreeMap<u64, (u32, MemRange)> = BTreeMap::new();
    let mut token = 0u64;
    while !input.is_empty() {
        let operation = input.byte();
        let path = operation >> 4 & (PATHS - 1);
        match operation & 15 {
            0..=2 => {
                let conn = conns[usize::from(input.byte()) % conns.len()];
                let tag = i32::from(input.byte() & 1);
                let len =
                    [0, 100, 8192, 9000, 100_000, 4096, 65_536, 1][usize::from(input.byte() & 7)];
                token += 1;
                let source = MemRange {
                    addr: FAKE + (token << 32),
                    len,
                };
                match tx.submit(conn, token, tag, source, Keys::default()) {
                    Submitted::Copy(target) => {
                        assert_eq!(target.len, len);
                        fill(target);
                    }
                    Submitted::Queued => {
                        submitted.insert(token, (conn, source));
                    }
                }
            }
            3 | 4 => {
                now += Nanos(u64::from(input.byte()) * 1_000_000);
                tx.handle_timeout(now);
            }
            5 => {
                let conn = conns[usize::from(input.byte()) % conns.len()];
                tx.close(conn);
                submitted.retain(|_, (c, _)| *c != conn);
                // As a driver does where chunks of the connection are queued.
                for path in 0..PATHS {
                    tx.handle_path_error(path, epochs[usize::from(path)], now);
                }
            }
            6 => tx.handle_path_error(path, epochs[usize::from(path)], now),
            7 => {
                if let Some((path, epoch, _)) = dials.pop() {
                    tx.handle_dial_failed(path, epoch, now);
                }
            }
            8 => tx.handle_backlog(path, u64::from(input.byte()) << 10, now),
            15 => {
                // What the adapter says of what was given to it.
                let (count, epoch) = (u32::from(input.byte()), epochs[usize::from(path)]);
                tx.handle_completions(path, epoch, count, (count & 1 == 1).then_some(now), now);
            }
            _ => {
                let header = input.header();
                let Ok(frame) = Frame::decode(header) else {
                    continue;
                };
                if epochs[usize::from(path)] == 0 {
                    continue; // no channel, no frame
                }
                if let Err(violation) = tx.handle_frame(path, frame, header, now) {
                    assert!(!violation.to_string().is_empty());
                    tx.handle_path_error(path, epochs[usize::from(path)], now);
                }
                if let Frame::Close { conn } = frame {
                    closed.insert(conn);
                }
            }
        }
        for _ in 0..64 {
            match tx.poll_action() {
                Some(TxAction::Dial {
                    path, epoch, fence, ..
                }) => dials.push((path, epoch, fence)),
                Some(TxAction::Close { .. }) => {}
                None => break,
            }
        }
        if operation & 15 != 7 {
            for (path, epoch, fence) in dials.drain(..) {
                epochs[usize::from(path)] = epoch;
                let count = |epoch| PathCount {
                    path,
                    epoch,
                    count: u32::from(operation >> 6),
                };
                let previous = fence.filter(|_| choice & 64 != 0).map(count);
                tx.handle_path_up(path, epoch, previous, now);
            }
        }
        for _ in 0..4096 {
            match tx.poll_transmit(now) {
                Some(Transmit::Data {
                    header,
                    source,
                    write,
                    conn,
                    ..
                }) => {
                    let frame = Frame::decode(header.as_bytes()).expect("what is sent decodes");
                    assert_eq!(write.is_some(), matches!(frame, Frame::Chunk(_)));
                    if write.is_some() {
                        let right = submitted
                            .values()
                            .any(|(_, message)| inside(source, *message));
                        assert!(right, "{frame:?} from {source:x?}");
                        let open = !closed.contains(&conn);
                        assert!(open, "{frame:?} into a buffer that was taken back");
                    } else {
                        assert!(source.addr < FAKE && source.len <= u64::from(config.eager_bytes));
                    }
                }
                Some(Transmit::Control { header, .. }) => {
                    assert!(Frame::decode(header.as_bytes()).is_ok());
                }
                Some(Transmit::Probe { .. }) => {}
                None => break,
            }
        }
        while let Some(done) = tx.poll_completion() {
            let ended = submitted
                .remove(&done.token)
                .expect("ends once, and only what was submitted");
            if let Ok(len) = done.result {
                assert_eq!(len, ended.1.len);
            }
        }
        while tx.poll_event().is_some() {}
    }
}

/// The three messages of a handshake. A proof can't be guessed: some are mended here, so that
/// what lies behind them is reached too.
pub fn handshake(data: &[u8]) {
    let mut input = Input(data);
    let key = Key::derive(&Token::from_bytes([1; 16]), None);
    let (ours, theirs) = ([9; 16], [3; 16]);
    let choice = input.byte();
    match choice >> 1 & 3 {
        0 => {
            if let Ok(nonce) = read_challenge(&padded(input.0)) {
                assert_eq!(read_challenge(&challenge(&nonce)), Ok(nonce));
            }
        }
        1 => {
            let mut bytes: [u8; HELLO_BYTES] = padded(input.0);
            let mend = choice & 1 == 1;
            if mend {
                let nonce = padded(&bytes[8..24]);
                let (said, proof) = bytes.split_at_mut(HELLO_BYTES - 16);
                proof.copy_from_slice(&key.prove(Role::Dialler, &ours, &nonce, said));
            }
            if let Ok(hello) = Hello::decode(&bytes, &key, &ours) {
                assert!(mend, "a proof was guessed");
                assert!(
                    (1..=64).contains(&hello.paths) && hello.path < hello.paths && hello.epoch != 0
                );
                // An immediate can name every chunk of every message.
                let chunks = (8 << 10)..=wire::CHUNK_BYTES_MAX;
                let right = hello.rdma.is_none_or(|r| chunks.contains(&r.chunk_bytes));
                assert!(right, "{hello:?}");
                assert_eq!(
                    Hello::decode(&hello.encode(&key, &ours), &key, &ours),
                    Ok(hello)
                );
            }
        }
        _ => {
            let mut bytes: [u8; WELCOME_BYTES] = padded(input.0);
            let mend = choice & 1 == 1;
            if mend {
                let (said, proof) = bytes.split_at_mut(WELCOME_BYTES - 16);
                proof.copy_from_slice(&key.prove(Role::Listener, &theirs, &ours, said));
            }
            match Welcome::decode(&bytes, &key, &theirs, &ours) {
                Ok(welcome) => {
                    assert!(mend, "a proof was guessed");
                    let again = welcome.encode(&key, &theirs, &ours);
                    assert_eq!(Welcome::decode(&again, &key, &theirs, &ours), Ok(welcome));
                }
                Err(why) => assert!(!why.advice().is_empty()),
            }
        }
    }
}

/// A connection handle, as an application may hand it on damaged.
pub fn handle(data: &[u8]) {
    match Handle::decode(&padded(data)) {
        Ok(handle) => {
            assert!(!handle.addrs.is_empty());
            let again = Handle::decode(&handle.encode()).expect("what was decoded can be encoded");
            assert_eq!(again.addrs, handle.addrs);
            assert_eq!(
                (again.listener, again.process),
                (handle.listener, handle.process)
            );
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

/// Settings: the text of a configuration file, a zero byte, then variables, one on each line.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (file, env) = text.split_once('\0').unwrap_or((&text, ""));
    let env = env.lines().filter_map(|line| line.split_once('='));
    let env: Vec<(String, String)> = env.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    match Config::from_sources(env, Some(file)) {
        Ok(config) => {
            assert!(config.eager_bytes <= 64 << 10);
            assert!(
                config
                    .chunk_bytes
                    .is_none_or(|b| b.is_multiple_of(128) && b >= 4096)
            );
            assert!(config.port.first <= config.port.last);
        }
        Err(error) => {
            let line = error.to_string();
            assert!(
                !line.is_empty() && !line.contains('\n'),
                "one line: {line:?}"
            );
        }
    }
}

/// What a stranger sends to `thalweg export`, in two pieces where it can be told: what is refused stays
/// refused whatever follows, and the answer is a line.
pub fn request(data: &[u8]) {
    let whole = http::request(data);
    match &whole {
        Ok(Some(request)) => {
            assert!(!request.path.contains(['?', ' ', '\n']));
        }
        Ok(None) => {}
        Err(page) => {
            assert!(matches!(page.status, 400 | 405));
            assert_eq!(page.text.lines().count(), 1);
        }
    }
    let half = http::request(&data[..data.len() / 2]);
    assert!(
        half == Ok(None) || half == whole,
        "{half:?}, then {whole:?}"
    );
}

/// An answer of the kernel about an interface: what it is about, then a datagram.
pub fn netlink(data: &[u8]) {
    let mut input = Input(data);
    let questions = ethtool_netlink::Question::ALL;
    let question = questions[usize::from(input.byte()) % questions.len()];
    let sequence = u32::from(input.byte());
    let mut messages = sockets::messages(input.0);
    let ours = messages.find(|message| message.sequence == sequence);
    // Attributes alone: what is in a datagram is seldom come by.
    let attributes = ours.map_or(input.0, |message| message.body.get(4..).unwrap_or_default());
    let told = ethtool_netlink::parse(question, attributes);
    for (at, (counter, value)) in told.counters.iter().enumerate() {
        assert!(*value != u64::MAX, "{counter:?} has not been set");
        let again = told.counters[..at].iter().any(|(is, _)| is == counter);
        assert!(!again, "{counter:?} is there twice");
    }
}

/// The memory of a transceiver: its lower half, then the halves of pages 01h and 11h; of an SFP the lower half at
/// its second address, of a QSFP the upper half.
pub fn transceiver(data: &[u8]) {
    let mut input = Input(data);
    let lower = input.take(module::HALF_PAGE_BYTES);
    let pages = module::CmisPages {
        advertising: input.take(module::HALF_PAGE_BYTES),
        lanes: input.take(module::HALF_PAGE_BYTES),
    };
    let layout = lower.first().and_then(|&first| module::Layout::of(first));
    let told = match layout {
        Some(module::Layout::Sff8472) if module::measures(lower) => {
            module::sff8472(pages.advertising)
        }
        Some(module::Layout::Sff8636) => module::sff8636(lower, Some(pages.advertising)),
        _ if module::is_flat(lower) => module::cmis(lower, None),
        _ => module::cmis(lower, Some(pages)),
    };
    assert!(told.lanes.len() <= 8);
    for (gauge, value) in told.gauges {
        let most = match gauge {
            PortGauge::ModuleTemperature => 128_000,
            PortGauge::ModuleVoltage => 6_553_500,
            _ => 4 + 6 * 8,
        };
        assert!(value <= most, "{gauge:?} is {value}");
    }
}

/// Small files of the kernel.
pub fn proc(data: &[u8]) {
    let pressure::Pressure { some, full } = pressure::parse(data);
    for waits in some.into_iter().chain(full) {
        assert!(waits.share_ppm <= 1_000_000);
        assert!(waits.total_ns.is_multiple_of(1000));
    }
    let times = processors::parse_times(data);
    assert!(times.processors != Some(0));
    let _ = processors::parse_softirqs(data);
    let lines = data.split(|&byte| byte == b'\n').count() as u64;
    let softnet = processors::parse_softnet(data).unwrap_or_default();
    assert!(softnet.packets <= lines * u64::from(u32::MAX));
    let _ = link::rdma_speed_mbps(&String::from_utf8_lossy(data));
}

/// Metrics that anybody may send: two messages, the first of a length that comes before it.
pub fn otlp(data: &[u8]) {
    let mut input = Input(data);
    let len = usize::from(u16::from_le_bytes([input.byte(), input.byte()]));
    let mut received = switches::Received::default();
    let mut refused = 0;
    for (at, message) in [input.take(len), input.0].into_iter().enumerate() {
        refused += received
            .take_bytes(message, Timestamp::from_nanos(at as u64))
            .unwrap_or(0);
    }
    assert_eq!(received.refused, refused);
    for name in received.series.keys() {
        assert!(name.attributes.len() <= 64);
    }
    assert!(received.series.len() <= data.len());
}

/// What the kernel says of a host: priorities, routes, messages of netlink, a device's configuration on PCI Express.
pub fn host(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else {
        return;
    };
    match kind {
        0 => {
            if let Some(dcb) = dcb::parse(data) {
                assert!(dcb.lossless().all(|priority| priority < dcb::PRIORITIES));
                for class in 0..=u8::MAX {
                    let priority = dcb.priority(class);
                    assert!(priority.is_none_or(|priority| priority < dcb::PRIORITIES));
                }
            }
        }
        1 => assert!(routes::next_hops(data) <= data.len() / 8),
        2 => {
            for message in sockets::messages(data) {
                let bytes: usize = sockets::attributes(message.body)
                    .map(|(_, a)| a.len())
                    .sum();
                assert!(bytes <= data.len());
            }
        }
        _ => {
            let _ = pcie::acs(data);
            // As the capabilities of a whole configuration.
            let mut config = vec![0; 4096];
            for (byte, value) in config[0x100..].iter_mut().zip(data) {
                *byte = *value;
            }
            let _ = pcie::acs(&config);
        }
    }
}
