//! The core's public face over 127.0.0.1: two sessions in one process are two endpoints. What
//! works is asked first, then everything that a careless application, a stranger at the port or
//! a dying peer can do: each must end in a clear error, in bounded time, with nothing left over.

#![allow(unsafe_code, reason = "requests name memory by address")]
#![allow(
    clippy::unwrap_used,
    clippy::similar_names,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use common::{PATIENCE, connect, until};
use thalweg::auth::Key;
use thalweg::config::Config;
use thalweg::error::{Error, ErrorKind};
use thalweg::session::fuzzing::{
    Handle, Hello, NoWelcome, Refusal, WELCOME_BYTES, Welcome, read_challenge,
};
use thalweg::session::{
    Completion, HANDLE_BYTES, Listener, LogLevel, MAX_RECVS, MAX_REQUESTS, MemoryKeys, RecvBuffer,
    RecvConnection, Request, SendConnection, Session,
};

/// Tests that count the descriptors or threads of this process run alone.
static COUNTING: RwLock<()> = RwLock::new(());

fn together() -> RwLockReadGuard<'static, ()> {
    COUNTING
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    COUNTING
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

type Lines = Arc<Mutex<Vec<(LogLevel, String)>>>;

fn try_open(settings: &[(&str, &str)]) -> (Result<Session, Error>, Lines) {
    let mut env = vec![
        ("THALWEG_IFNAME".to_owned(), "=lo".to_owned()),
        ("THALWEG_FAMILY".to_owned(), "ipv4".to_owned()),
    ];
    for &(name, value) in settings {
        env.retain(|(n, _)| n != name);
        env.push((name.to_owned(), value.to_owned()));
    }
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    let config = Config::from_sources(env, None).unwrap();
    let log =
        Arc::new(move |level, line: &str| kept.lock().unwrap().push((level, line.to_owned())));
    (Session::open_with(config, log), lines)
}

fn open(settings: &[(&str, &str)]) -> (Session, Lines) {
    let (session, lines) = try_open(settings);
    (session.unwrap(), lines)
}

fn warnings(lines: &Lines) -> Vec<String> {
    let lines = lines.lock().unwrap();
    lines
        .iter()
        .filter(|(level, _)| *level == LogLevel::Warn)
        .map(|(_, l)| l.clone())
        .collect()
}

fn warned(lines: &Lines, words: &[&str]) {
    until(&format!("a warning with {words:?}"), || {
        let found = warnings(lines)
            .iter()
            .any(|line| words.iter().all(|w| line.contains(w)));
        found.then_some(())
    });
}

fn connect_error(from: &Session, handle: &mut [u8; HANDLE_BYTES]) -> Error {
    until("a refusal", || match from.connect(0, handle) {
        Ok(None) => None,
        Ok(Some(_)) => panic!("connected"),
        Err(error) => Some(error),
    })
}

#[track_caller]
fn says(error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    assert!(!text.contains('\n'), "one line: {text:?}");
}

/// Two endpoints and one connection, from `a` to `b`.
struct Pair {
    a: Session,
    b: Session,
    listener: Listener,
    handle: [u8; HANDLE_BYTES],
    send: SendConnection,
    recv: RecvConnection,
}

impl Pair {
    fn new(settings: &[(&str, &str)]) -> Self {
        let (a, b) = (open(settings).0, open(settings).0);
        let (listener, handle) = b.listen(0).unwrap();
        let (send, recv) = connect(&a, &listener, &handle);
        Self {
            a,
            b,
            listener,
            handle,
            send,
            recv,
        }
    }
}

fn isend(send: &SendConnection, data: &[u8], tag: i32) -> Option<Request> {
    // SAFETY: every test keeps its data until the request has ended or the connection is gone.
    unsafe { send.isend(data.as_ptr(), data.len(), tag, MemoryKeys::default()) }.unwrap()
}

fn irecv(recv: &RecvConnection, buffers: &mut [(&mut [u8], i32)]) -> Option<Request> {
    let buffers: Vec<RecvBuffer> = buffers
        .iter_mut()
        .map(|(data, tag)| RecvBuffer {
            data: data.as_mut_ptr(),
            len: data.len(),
            tag: *tag,
            keys: MemoryKeys::default(),
        })
        .collect();
    // SAFETY: as in `isend`.
    unsafe { recv.irecv(&buffers) }.unwrap()
}

type Outcome = Result<Completion, Error>;

/// Tests all requests in turn until each has ended.
fn outcomes(requests: &[Request]) -> Vec<Outcome> {
    let mut ended: Vec<Option<Outcome>> = vec![None; requests.len()];
    until("the end of all requests", || {
        for (request, outcome) in requests.iter().zip(&mut ended) {
            if outcome.is_none() {
                // SAFETY: the request has not ended, and its connection lives.
                *outcome = unsafe { request.test() }.transpose();
            }
        }
        ended.iter().all(Option::is_some).then_some(())
    });
    ended.into_iter().map(Option::unwrap).collect()
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(131)) as u8)
        .collect()
}

fn transfer(send: &SendConnection, recv: &RecvConnection, len: usize, seed: usize) {
    let data = pattern(len, seed);
    let mut buffer = vec![0; len + 64];
    let s = isend(send, &data, 3).unwrap();
    let r = irecv(recv, &mut [(&mut buffer, 3)]).unwrap();
    let ended = outcomes(&[s, r]);
    assert_eq!(ended[0].as_ref().unwrap().sizes[0], len);
    let received = ended[1].as_ref().unwrap();
    assert_eq!((received.count, received.sizes[0]), (1, len));
    assert!(buffer[..len] == data, "{len} bytes differ");
    assert!(
        buffer[len..].iter().all(|&b| b == 0),
        "written past the message"
    );
}

fn port_of(handle: &[u8; HANDLE_BYTES]) -> SocketAddr {
    assert_eq!(handle[48], 4, "an IPv4 address comes first");
    ([127, 0, 0, 1], u16::from_le_bytes([handle[49], handle[50]])).into()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Control threads: those of the test runner come and go.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
    tasks
        .filter(|task| name(task.as_ref().unwrap()).is_ok_and(|n| n == "thalweg\n"))
        .count()
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ticks (10 ms) that the control threads of this process have run for.
fn control_ticks() -> u64 {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else {
            continue;
        };
        let (name, rest) = stat.rsplit_once(')').unwrap();
        if name.ends_with("(thalweg") {
            let fields: Vec<&str> = rest.split_whitespace().collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    ticks
}

// ---- what works ----

#[test]
fn messages_of_all_sizes_go_both_ways() {
    let _gate = together();
    let pair = Pair::new(&[]);
    let (back_listener, back_handle) = pair.a.listen(0).unwrap();
    let (back_send, back_recv) = connect(&pair.b, &back_listener, &back_handle);
    for (seed, len) in [0, 1, 127, 4096, 8192, 8193, 65_536, 1_000_001, 0, 20 << 20]
        .into_iter()
        .enumerate()
    {
        transfer(&pair.send, &pair.recv, len, seed);
        transfer(&back_send, &back_recv, len, seed + 100);
    }
}

#[test]
fn a_group_fills_its_buffers_by_tag() {
    let _gate = together();
    let pair = Pair::new(&[]);
    let sizes = [0, 5, 9000, 300_000, 8192, 1, 70_000, 12];
    let data: Vec<Vec<u8>> = sizes.iter().map(|&len| pattern(len, len)).collect();
    let mut buffers = vec![vec![0u8; 400_000]; sizes.len()];
    let mut group: Vec<(&mut [u8], i32)> =
        buffers.iter_mut().map(Vec::as_mut_slice).zip(0..).collect();
    let r = irecv(&pair.recv, &mut group).unwrap();
    let mut requests: Vec<Request> = (0..8)
        .zip(&data)
        .rev()
        .map(|(tag, data)| isend(&pair.send, data, tag).unwrap())
        .collect();
    requests.push(r);
    let ended = outcomes(&requests);
    let received = ended[8].as_ref().unwrap();
    assert_eq!(received.count, MAX_RECVS);
    assert_eq!(received.sizes, sizes);
    for (buffer, data) in buffers.iter().zip(&data) {
        assert!(buffer[..data.len()] == **data);
    }
}

#[test]
fn a_wrong_number_of_buffers_is_refused() {
    let _gate = together();
    let pair = Pair::new(&[]);
    // SAFETY: no buffer is named, or the call fails.
    let none = unsafe { pair.recv.irecv(&[]) }.unwrap_err();
    says(&none, ErrorKind::InvalidArgument, &["0 buffers"]);
    let buffer = RecvBuffer {
        data: std::ptr::null_mut(),
        len: 0,
        tag: 0,
        keys: MemoryKeys::default(),
    };
    // SAFETY: as above.
    let many = unsafe { pair.recv.irecv(&[buffer; MAX_RECVS + 1]) }.unwrap_err();
    says(&many, ErrorKind::InvalidArgument, &["9 buffers", "8"]);
    // SAFETY: the call fails before the memory is looked at.
    let long = unsafe {
        pair.send
            .isend([0u8].as_ptr(), (1 << 30) + 1, 0, MemoryKeys::default())
    }
    .unwrap_err();
    says(&long, ErrorKind::InvalidArgument, &["1 GiB"]);
    transfer(&pair.send, &pair.recv, 100, 1);
}

#[test]
fn one_request_too_many_is_put_off() {
    let _gate = together();
    let pair = Pair::new(&[]);
    let data = pattern(100_000, 1);
    let mut buffers = vec![vec![0u8; 100_000]; MAX_REQUESTS * MAX_RECVS];
    let sends: Vec<Request> = (0..MAX_REQUESTS * MAX_RECVS)
        .map(|n| isend(&pair.send, &data, 0).unwrap_or_else(|| panic!("send {n}")))
        .collect();
    assert!(isend(&pair.send, &data, 0).is_none(), "the 257th send");
    for (round, buffers) in buffers.chunks_mut(MAX_REQUESTS).enumerate() {
        let receives: Vec<Request> = buffers
            .iter_mut()
            .map(|buffer| irecv(&pair.recv, &mut [(buffer, 0)]).unwrap())
            .collect();
        let mut extra = vec![0u8; 10];
        if round == 0 {
            assert!(
                irecv(&pair.recv, &mut [(&mut extra, 0)]).is_none(),
                "the 33rd receive"
            );
        }
        let own = &sends[round * MAX_REQUESTS..(round + 1) * MAX_REQUESTS];
        let all: Vec<Request> = receives.iter().chain(own).copied().collect();
        assert!(outcomes(&all).iter().all(Result::is_ok));
    }
    assert!(buffers.iter().all(|b| *b == data));
    transfer(&pair.send, &pair.recv, 100, 1);
}

// ---- strangers ----

#[test]
fn garbage_at_the_port_is_refused_with_a_line() {
    let _gate = together();
    let (a, b) = (open(&[]).0, open(&[]));
    let (listener, handle) = b.0.listen(0).unwrap();
    let mut stranger = TcpStream::connect(port_of(&handle)).unwrap();
    stranger.write_all(&[0x47; 4096]).unwrap();
    warned(
        &b.1,
        &[
            "refused a connection from 127.0.0.1",
            "does not speak the protocol",
        ],
    );
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    // The socket is closed with bytes unread, so the stranger may see a reset.
    let _ = stranger.read_to_end(&mut answer);
    assert_eq!(answer.len(), 24, "only the challenge");
    // Anything may come in any number: one line a second at most.
    for len in [0, 1, 23, 111, 112, 113, 5000] {
        let mut stranger = TcpStream::connect(port_of(&handle)).unwrap();
        let _ = stranger.write_all(&pattern(len, len));
        let _ = stranger.shutdown(Shutdown::Write);
    }
    let (send, recv) = connect(&a, &listener, &handle);
    transfer(&send, &recv, 100_000, 1);
    assert!(warnings(&b.1).len() <= 3, "{:?}", warnings(&b.1));
}

#[test]
fn another_version_of_the_greeting_is_told_so() {
    let _gate = together();
    let b = open(&[]);
    let (_listener, handle) = b.0.listen(0).unwrap();
    let mut stranger = TcpStream::connect(port_of(&handle)).unwrap();
    let mut hello = [0u8; 112];
    hello[..6].copy_from_slice(b"THWG\x02\x07");
    stranger.write_all(&hello).unwrap();
    warned(&b.1, &["another version", "install the same release"]);
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    assert_eq!(answer.len(), 24 + 64, "a challenge and a refusal");
    assert_eq!(answer[24..30], *b"THWG\x03\x01");
}

#[test]
fn a_link_that_was_given_up_is_not_taken_for_a_new_one() {
    let _gate = together();
    let b = open(&[]);
    let (_listener, handle) = b.0.listen(0).unwrap();
    let key = Key::derive(&Handle::decode(&handle).unwrap().token, None);
    let answer = |epoch, is_known| {
        let mut socket = TcpStream::connect(port_of(&handle)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut challenge = [0; 24];
        socket.read_exact(&mut challenge).unwrap();
        let challenge = read_challenge(&challenge).unwrap();
        let hello = Hello {
            nonce: [1; 16],
            link: [2; 16],
            path: 0,
            paths: 1,
            epoch,
            fence: None,
            is_known,
            port: 1,
            rdma: None,
        };
        socket.write_all(&hello.encode(&key, &challenge)).unwrap();
        let mut welcome = [0; WELCOME_BYTES];
        socket.read_exact(&mut welcome).unwrap();
        (
            Welcome::decode(&welcome, &key, &[1; 16], &challenge),
            socket,
        )
    };
    let (refused, _) = answer(1, true);
    assert_eq!(refused, Err(NoWelcome::Refused(Refusal::NoLink)));
    warned(&b.1, &["127.0.0.1", "its link was given up here"]);
    let (welcome, _first) = answer(2, false);
    welcome.unwrap();
    let (welcome, _second) = answer(3, true);
    welcome.unwrap();
}

#[test]
fn half_a_hello_and_silence_is_closed_and_delays_nobody() {
    let _gate = together();
    let (a, b) = (open(&[]).0, open(&[]));
    let (listener, handle) = b.0.listen(0).unwrap();
    let mut stranger = TcpStream::connect(port_of(&handle)).unwrap();
    stranger.write_all(b"THWG\x02\x01 and no more").unwrap();
    let start = Instant::now();
    let (send, recv) = connect(&a, &listener, &handle);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "a real peer waited {:?}",
        start.elapsed()
    );
    transfer(&send, &recv, 100_000, 1);
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    let closed = start.elapsed();
    assert!(
        closed > Duration::from_secs(2) && closed < Duration::from_secs(6),
        "{closed:?}"
    );
    warned(&b.1, &["127.0.0.1", "no greeting in time"]);
}

#[test]
fn a_flood_of_half_open_connections_is_bounded() {
    let _gate = alone();
    let (a, b) = (open(&[]).0, open(&[]));
    let (listener, handle) = b.0.listen(0).unwrap();
    drop(connect(&a, &listener, &handle));
    let before = descriptors();
    let (ticks, start) = (control_ticks(), Instant::now());
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(TcpStream::connect(port_of(&handle)).unwrap());
    }
    std::thread::sleep(Duration::from_millis(500));
    let held = descriptors() - before - strangers.len();
    assert!((200..=256).contains(&held), "{held} handshakes at once");
    // A session of its own: the other has a path to the peer already.
    let (c, _) = open(&[]);
    let (send, recv) = connect(&c, &listener, &handle);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "a real peer waited {:?}",
        start.elapsed()
    );
    transfer(&send, &recv, 100_000, 1);
    let busy = control_ticks() - ticks;
    let ms = start.elapsed().as_millis();
    assert!(
        u128::from(busy) * 10 < ms / 2,
        "control threads ran {busy} ticks in {ms} ms"
    );
    drop((send, recv, c, strangers));
    until("all descriptors back", || {
        (descriptors() <= before).then_some(())
    });
}

// ---- wrong settings, wrong handles ----

#[test]
fn another_secret_is_refused_on_both_sides() {
    let _gate = together();
    let quick = ("THALWEG_CONNECT_TIMEOUT_MS", "1500");
    let a = open(&[("THALWEG_SECRET", "sesame one"), quick]);
    let b = open(&[("THALWEG_SECRET", "sesame two")]);
    let (listener, handle) = b.0.listen(0).unwrap();
    let error = connect_error(&a.0, &mut handle.clone());
    says(&error, ErrorKind::Remote, &["THALWEG_SECRET", "127.0.0.1"]);
    warned(
        &b.1,
        &["refused a connection from 127.0.0.1", "THALWEG_SECRET"],
    );
    assert!(listener.accept().unwrap().is_none());
    for (_, line) in a.1.lock().unwrap().iter().chain(b.1.lock().unwrap().iter()) {
        assert!(!line.contains("sesame"), "{line}");
    }
    let c = open(&[("THALWEG_SECRET", "sesame two")]);
    let (send, recv) = connect(&c.0, &listener, &handle);
    transfer(&send, &recv, 10_000, 1);
}

#[test]
fn a_damaged_handle_is_refused() {
    let _gate = together();
    let (a, b) = (
        open(&[("THALWEG_CONNECT_TIMEOUT_MS", "1000")]).0,
        open(&[]).0,
    );
    let (listener, handle) = b.listen(0).unwrap();
    let bent = |at: usize, value: u8| {
        let mut handle = handle;
        handle[at] = value;
        handle
    };
    let magic = a.connect(0, &mut bent(0, 0)).unwrap_err();
    says(
        &magic,
        ErrorKind::InvalidArgument,
        &["not one of thalweg's", "net plugin"],
    );
    let version = a.connect(0, &mut bent(4, 9)).unwrap_err();
    says(
        &version,
        ErrorKind::InvalidUsage,
        &["protocol version 9.", "same release"],
    );
    for (at, value) in [(6, 0), (6, 99), (48, 5)] {
        let error = a.connect(0, &mut bent(at, value)).unwrap_err();
        says(
            &error,
            ErrorKind::InvalidArgument,
            &["not one of thalweg's"],
        );
    }
    let mut zeros = [0; HANDLE_BYTES];
    says(
        &a.connect(0, &mut zeros).unwrap_err(),
        ErrorKind::InvalidArgument,
        &["thalweg"],
    );
    let device = a.connect(7, &mut handle.clone()).unwrap_err();
    says(
        &device,
        ErrorKind::InvalidArgument,
        &["device 7 does not exist"],
    );
    says(
        &a.listen(1).unwrap_err(),
        ErrorKind::InvalidArgument,
        &["device 1"],
    );
    let token = connect_error(&a, &mut bent(20, !handle[20]));
    says(&token, ErrorKind::Remote, &["token or secret do not match"]);
    let (c, _) = open(&[]);
    let (send, recv) = connect(&c, &listener, &handle);
    transfer(&send, &recv, 100, 1);
}

#[test]
fn a_handle_serves_once() {
    let _gate = together();
    let pair = Pair::new(&[]);
    let mut handle = pair.handle;
    let (mut send, mut recv) = (None, None);
    until("a connection", || {
        if send.is_none() {
            send = pair.a.connect(0, &mut handle).unwrap();
        }
        recv = recv.take().or_else(|| pair.listener.accept().unwrap());
        (send.is_some() && recv.is_some()).then_some(())
    });
    let again = pair.a.connect(0, &mut handle).unwrap_err();
    says(
        &again,
        ErrorKind::InvalidArgument,
        &["used before", "fresh copy"],
    );
    transfer(&send.unwrap(), &recv.unwrap(), 100, 1);
}

#[test]
fn a_handle_of_a_closed_listener_is_refused() {
    let _gate = together();
    let pair = Pair::new(&[]);
    let (listener, mut handle) = pair.b.listen(0).unwrap();
    drop(listener);
    let error = connect_error(&pair.a, &mut handle);
    says(
        &error,
        ErrorKind::Remote,
        &["closed the listener", "127.0.0.1"],
    );
    transfer(&pair.send, &pair.recv, 100, 1);
    // Also on a link that has no connection yet.
    let (c, _) = open(&[]);
    let (listener, mut handle) = pair.b.listen(0).unwrap();
    drop(listener);
    says(
        &connect_error(&c, &mut handle),
        ErrorKind::Remote,
        &["closed the listener"],
    );
}

#[test]
fn a_handle_of_a_closed_session_is_refused() {
    let _gate = together();
    let (a, b) = (open(&[]).0, open(&[]).0);
    let (listener, mut handle) = b.listen(0).unwrap();
    drop((listener, b));
    let start = Instant::now();
    says(
        &connect_error(&a, &mut handle),
        ErrorKind::Remote,
        &["127.0.0.1", "gone"],
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let _gate = together();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (session, _) = try_open(&[("THALWEG_PORT", &port)]);
    says(
        &session.unwrap_err(),
        ErrorKind::System,
        &["THALWEG_PORT", &port, "127.0.0.1"],
    );
}

#[test]
fn an_interface_that_does_not_exist_leaves_no_device_and_one_line() {
    let _gate = together();
    let (session, lines) = open(&[("THALWEG_IFNAME", "=nosuchif0")]);
    assert!(session.devices().is_empty());
    let warned = warnings(&lines);
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("THALWEG_IFNAME"), "{warned:?}");
    assert!(session.summary().contains("no usable network interface"));
    says(
        &session.listen(0).unwrap_err(),
        ErrorKind::InvalidArgument,
        &["device 0", "there are 0"],
    );
}

// ---- messages that do not fit ----

#[test]
fn a_message_larger_than_its_buffer_fails_at_both_ends() {
    let _gate = together();
    let pair = Pair::new(&[]);
    // Buffers that are granted at once and at the sender's word; messages with and without
    // credit; the receive first, and the send first.
    for (message, buffer) in [
        (300_000, 100_000),
        (300_000, 4096),
        (300_000, 0),
        (5000, 1000),
        (8192, 0),
        (8193, 8192),
    ] {
        for receive_first in [true, false] {
            let data = pattern(message, 1);
            let mut target = vec![0u8; buffer];
            let (s, r);
            if receive_first {
                r = irecv(&pair.recv, &mut [(&mut target, 0)]).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                s = isend(&pair.send, &data, 0).unwrap();
            } else {
                s = isend(&pair.send, &data, 0).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                r = irecv(&pair.recv, &mut [(&mut target, 0)]).unwrap();
            }
            let case = format!("{message} bytes into {buffer}, receive first: {receive_first}");
            eprintln!("{case}");
            let ended = outcomes(&[s, r]);
            let sizes = [message.to_string(), buffer.to_string()];
            let words = ["larger than its receive buffer", &sizes[0], &sizes[1]];
            says(
                ended[1].as_ref().expect_err(&case),
                ErrorKind::InvalidUsage,
                &words,
            );
            match &ended[0] {
                // A small message is on its way before anybody knows its buffer.
                Ok(_) => assert!(message <= 8192, "{case}"),
                Err(error) => says(error, ErrorKind::InvalidUsage, &words),
            }
            // The connection goes on with the next message.
            transfer(&pair.send, &pair.recv, 50_000, 2);
            transfer(&pair.send, &pair.recv, 10, 3);
        }
    }
}

// ---- ends that go ----

#[test]
fn requests_fail_when_the_receiving_session_goes() {
    let _gate = together();
    let Pair {
        a,
        b,
        listener,
        handle: _,
        send,
        recv,
    } = Pair::new(&[]);
    let data = pattern(1 << 20, 1);
    let sends: Vec<Request> = (0..8).map(|_| isend(&send, &data, 0).unwrap()).collect();
    let start = Instant::now();
    drop((b, listener));
    for outcome in outcomes(&sends) {
        says(&outcome.unwrap_err(), ErrorKind::Remote, &["127.0.0.1"]);
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    drop((recv, send, a));
}

#[test]
fn requests_fail_when_the_sending_session_goes() {
    let _gate = together();
    let Pair {
        a,
        b,
        listener,
        handle: _,
        send,
        recv,
    } = Pair::new(&[]);
    let mut buffers = vec![vec![0u8; 1 << 20]; 8];
    let receives: Vec<Request> = buffers
        .iter_mut()
        .map(|buffer| irecv(&recv, &mut [(buffer, 0)]).unwrap())
        .collect();
    let start = Instant::now();
    drop(a);
    for outcome in outcomes(&receives) {
        says(&outcome.unwrap_err(), ErrorKind::Remote, &["127.0.0.1"]);
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    drop((recv, send, b, listener));
}

#[test]
fn requests_fail_when_their_own_session_goes() {
    let _gate = together();
    let Pair {
        a,
        b,
        listener,
        handle: _,
        send,
        recv,
    } = Pair::new(&[]);
    let data = pattern(1 << 20, 1);
    let s = isend(&send, &data, 0).unwrap();
    drop(a);
    let start = Instant::now();
    says(
        outcomes(&[s])[0].as_ref().unwrap_err(),
        ErrorKind::Remote,
        &["127.0.0.1"],
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    drop((send, recv, b, listener));

    let Pair {
        a,
        b,
        listener,
        handle: _,
        send,
        recv,
    } = Pair::new(&[]);
    let mut buffer = vec![0u8; 1 << 20];
    let r = irecv(&recv, &mut [(&mut buffer, 0)]).unwrap();
    drop((b, listener));
    let start = Instant::now();
    says(
        outcomes(&[r])[0].as_ref().unwrap_err(),
        ErrorKind::Remote,
        &["127.0.0.1"],
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    drop((recv, send, a));
}

#[test]
fn requests_fail_when_the_other_end_closes() {
    let _gate = together();
    let Pair {
        a,
        b,
        listener,
        handle,
        send,
        recv,
    } = Pair::new(&[]);
    let data = pattern(1 << 20, 1);
    let s = isend(&send, &data, 0).unwrap();
    drop(recv);
    says(
        outcomes(&[s])[0].as_ref().unwrap_err(),
        ErrorKind::Remote,
        &["closed", "127.0.0.1"],
    );
    drop(send);
    let (send, recv) = connect(&a, &listener, &handle);
    let mut buffer = vec![0u8; 1 << 20];
    let r = irecv(&recv, &mut [(&mut buffer, 0)]).unwrap();
    drop(send);
    says(
        outcomes(&[r])[0].as_ref().unwrap_err(),
        ErrorKind::Remote,
        &["closed", "127.0.0.1"],
    );
    drop((recv, b));
}

#[test]
fn buffers_are_left_alone_after_a_close() {
    let _gate = together();
    let pair = Pair::new(&[]);
    for round in 0..60 {
        let (send, recv) = connect(&pair.a, &pair.listener, &pair.handle);
        let mut data = vec![vec![1u8; 2 << 20]; 4];
        let mut buffers = vec![vec![0u8; 2 << 20]; 4];
        let sends: Vec<Request> = data.iter().map(|d| isend(&send, d, 0).unwrap()).collect();
        let receives: Vec<Request> = buffers
            .iter_mut()
            .map(|b| irecv(&recv, &mut [(b, 0)]).unwrap())
            .collect();
        // Each round stops at another point of the transfer.
        for _ in 0..round * 7 {
            // SAFETY: both connections live; requests that have ended only give an error.
            unsafe {
                let _ = sends[round % 4].test();
                let _ = receives[round % 4].test();
            }
        }
        if round % 2 == 0 {
            drop(recv);
            for b in &mut buffers {
                b.fill(0xaa);
            }
            std::thread::sleep(Duration::from_millis(5));
            drop(send);
            for d in &mut data {
                d.fill(0xbb);
            }
        } else {
            drop(send);
            // What has not been sent by now would arrive as this.
            for d in &mut data {
                d.fill(0xbb);
            }
            std::thread::sleep(Duration::from_millis(5));
            let late = buffers.iter().any(|b| b.contains(&0xbb));
            assert!(!late, "round {round}: read after the close");
            drop(recv);
            for b in &mut buffers {
                b.fill(0xaa);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
        assert!(
            buffers.iter().flatten().all(|&b| b == 0xaa),
            "round {round}: written after close"
        );
    }
    transfer(&pair.send, &pair.recv, 3 << 20, 1);
}

#[test]
fn everything_may_be_dropped_in_any_order() {
    let _gate = alone();
    let settled = descriptors();
    let tasks = threads();
    for order in 0..24usize {
        let Pair {
            a,
            b,
            listener,
            handle: _,
            send,
            recv,
        } = Pair::new(&[]);
        let data = vec![1u8; 1 << 20];
        let mut buffer = vec![0u8; 1 << 20];
        let _ = isend(&send, &data, 0).unwrap();
        let _ = irecv(&recv, &mut [(&mut buffer, 0)]).unwrap();
        let mut parts: Vec<Box<dyn std::any::Any>> = vec![
            Box::new((a, ())),
            Box::new((b, listener)),
            Box::new(send),
            Box::new(recv),
        ];
        let mut pick = order;
        for left in (1..=4).rev() {
            drop(parts.remove(pick % left));
            pick /= left;
        }
    }
    assert_eq!(threads(), tasks, "threads left");
    assert_eq!(descriptors(), settled, "descriptors left");
}

#[test]
fn listeners_and_connections_that_nobody_uses_do_no_harm() {
    let _gate = together();
    let pair = Pair::new(&[]);
    // Accepted and never used.
    let unused: Vec<_> = (0..20)
        .map(|_| connect(&pair.a, &pair.listener, &pair.handle))
        .collect();
    transfer(&pair.send, &pair.recv, 100_000, 1);
    drop(unused);
    // Connected and never accepted: the peer's requests end when the listener does.
    let (idle, handle) = pair.b.listen(0).unwrap();
    let mut own = handle;
    let send = until("a connection", || pair.a.connect(0, &mut own).unwrap());
    let data = pattern(1 << 20, 1);
    let s = isend(&send, &data, 0).unwrap();
    drop(idle);
    says(
        outcomes(&[s])[0].as_ref().unwrap_err(),
        ErrorKind::Remote,
        &["closed"],
    );
    // Never connected at all.
    drop(pair.b.listen(0).unwrap());
    transfer(&pair.send, &pair.recv, 100_000, 2);
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let _gate = alone();
    let pair = Pair::new(&[]);
    let round = |n: usize| {
        let (listener, handle) = pair.b.listen(0).unwrap();
        let (send, recv) = connect(&pair.a, &listener, &handle);
        transfer(
            &send,
            &recv,
            if n.is_multiple_of(10) { 100_000 } else { 100 },
            n,
        );
        if n.is_multiple_of(2) {
            drop(recv);
            drop(send);
        } else {
            drop(send);
            drop(recv);
        }
    };
    (0..50).for_each(round);
    let before = (descriptors(), threads());
    let resident = resident_kib();
    (0..1000).for_each(round);
    assert_eq!((descriptors(), threads()), before);
    let growth = resident_kib().saturating_sub(resident);
    eprintln!("1000 connections: resident memory grew by {growth} KiB");
    assert!(growth < 8 << 10, "grew by {growth} KiB");
}

#[test]
fn sessions_one_after_the_other_leave_nothing_behind() {
    let _gate = alone();
    let round = |n: usize| {
        let pair = Pair::new(&[]);
        transfer(&pair.send, &pair.recv, 100_000, n);
        let Pair {
            a,
            b,
            listener,
            send,
            recv,
            ..
        } = pair;
        if n.is_multiple_of(2) {
            drop((a, b, listener, send, recv));
        } else {
            drop((recv, send, listener, b, a));
        }
    };
    (0..10).for_each(round);
    let before = (descriptors(), threads());
    let resident = resident_kib();
    (0..100).for_each(round);
    assert_eq!((descriptors(), threads()), before);
    let growth = resident_kib().saturating_sub(resident);
    eprintln!("100 pairs of sessions: resident memory grew by {growth} KiB");
    assert!(growth < 16 << 10, "grew by {growth} KiB");
}
