//! Sessions over RDMA: the whole way from a send to the other side's memory, while the network does
//! what networks do.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thalweg::config::Config;
use thalweg::session::{
    Listener, MemoryKind, RecvBuffer, RecvConnection, Registration, Request, SendConnection,
    Session,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) type Lines = Arc<Mutex<Vec<String>>>;

/// One end, with the ports of these devices.
fn session(hca: &str, more: &[(&str, &str)], lines: &Lines) -> Session {
    let own = [
        ("THALWEG_TRANSPORT", "verbs"),
        ("THALWEG_IFNAME", "lo"),
        ("THALWEG_HCA", hca),
    ];
    let env = own.iter().chain(more);
    let env = env.map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let lines = Arc::clone(lines);
    let begun = Instant::now();
    let log = Arc::new(move |_, line: &str| {
        println!("{:?} {line}", begun.elapsed());
        lines.lock().unwrap().push(line.to_owned());
    });
    Session::open_with(Config::from_sources(env, None).unwrap(), log).unwrap()
}

/// A connection between two sessions.
pub(crate) struct Pair {
    pub(crate) send: SendConnection,
    pub(crate) recv: RecvConnection,
    pub(crate) near: Session,
    pub(crate) far: Session,
    _listener: Listener,
    pub(crate) lines: Lines,
}

impl Pair {
    /// Over the rails whose numbers are named.
    pub(crate) fn over(rails: &[u8], more: &[(&str, &str)]) -> Self {
        Self::between(rails, more, |_| 0)
    }

    /// Between the devices that are picked of each end's.
    fn between(rails: &[u8], more: &[(&str, &str)], device: fn(&Session) -> usize) -> Self {
        let hca = |end: &str| {
            let names: Vec<_> = rails.iter().map(|rail| format!("rxe{end}{rail}")).collect();
            format!("={}", names.join(","))
        };
        let lines = Lines::default();
        let near = session(&hca("a"), more, &lines);
        let far = session(&hca("b"), more, &lines);
        let (send, recv, listener) = connect_at((&near, device(&near)), (&far, device(&far)));
        Self {
            send,
            recv,
            near,
            far,
            _listener: listener,
            lines,
        }
    }

    fn forget(&self) {
        self.lines.lock().unwrap().clear();
    }

    /// A path that leaves from this address is used.
    fn joined(&self, addr: &str) -> bool {
        let lines = self.lines.lock().unwrap();
        let from = format!("({addr}:");
        lines
            .iter()
            .any(|line| line.contains(&from) && line.contains(" joined"))
    }

    /// Rail 1 has been left, and not because it was silent for so long.
    fn nobody_waited(&self) -> bool {
        let lines = self.lines.lock().unwrap();
        let mut fences = lines
            .iter()
            .filter(|line| line.contains("(10.87.1.") && line.contains("fenced"))
            .peekable();
        fences.peek().is_some() && fences.all(|line| !line.contains("nothing acknowledged"))
    }

    pub(crate) fn told(&self, words: &str) -> bool {
        let lines = self.lines.lock().unwrap();
        lines.iter().any(|line| line.contains(words))
    }
}

pub(crate) fn connect(near: &Session, far: &Session) -> (SendConnection, RecvConnection, Listener) {
    connect_at((near, 0), (far, 0))
}

fn connect_at(
    (near, from): (&Session, usize),
    (far, to): (&Session, usize),
) -> (SendConnection, RecvConnection, Listener) {
    let (listener, mut handle) = far.listen(to).unwrap();
    let begun = Instant::now();
    let (mut send, mut recv) = (None, None);
    while send.is_none() || recv.is_none() {
        if send.is_none() {
            send = near.connect(from, &mut handle).unwrap();
        }
        if recv.is_none() {
            recv = listener.accept().unwrap();
        }
        assert!(begun.elapsed() < DEADLINE, "no connection");
        std::thread::yield_now();
    }
    (send.unwrap(), recv.unwrap(), listener)
}

pub(crate) fn pattern(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// A registered buffer.
struct Buffer {
    bytes: Vec<u8>,
    memory: Registration,
}

impl Buffer {
    fn of_sender(pair: &Pair, bytes: Vec<u8>) -> Self {
        let mut bytes = bytes;
        // SAFETY: the registration goes with the bytes, before them in every function here.
        let memory = unsafe {
            pair.send
                .registrar()
                .register(bytes.as_mut_ptr(), bytes.len(), MemoryKind::Host)
        };
        let memory = memory.unwrap();
        Self { bytes, memory }
    }

    fn of_receiver(pair: &Pair, len: usize) -> Self {
        let mut bytes = vec![0xaa; len];
        // SAFETY: as above.
        let memory = unsafe {
            pair.recv
                .registrar()
                .register(bytes.as_mut_ptr(), len, MemoryKind::Host)
        };
        let memory = memory.unwrap();
        Self { bytes, memory }
    }
}

fn isend(pair: &Pair, from: &Buffer, len: usize) -> Option<Request> {
    // SAFETY: every test keeps its buffers until the request has ended or the connection is gone.
    unsafe {
        pair.send
            .isend(from.bytes.as_ptr(), len, 7, from.memory.keys())
    }
    .unwrap()
}

fn irecv(pair: &Pair, into: &mut Buffer) -> Option<Request> {
    let buffer = RecvBuffer {
        data: into.bytes.as_mut_ptr(),
        len: into.bytes.len(),
        tag: 7,
        keys: into.memory.keys(),
    };
    // SAFETY: as above.
    unsafe { pair.recv.irecv(&[buffer]) }.unwrap()
}

/// Moves messages of `len` bytes, `depth` at a time, until `enough` says so; every byte is looked at.
/// Says how many there were, and the longest time between two.
fn transfer(
    pair: &Pair,
    len: usize,
    depth: usize,
    mut enough: impl FnMut(usize) -> bool,
) -> (usize, Duration) {
    let room = len.max(1);
    let mut sources: Vec<_> = (0..depth)
        .map(|_| Buffer::of_sender(pair, vec![0; room]))
        .collect();
    let mut targets: Vec<_> = (0..depth)
        .map(|_| Buffer::of_receiver(pair, room + 64))
        .collect();
    let mut sends: Vec<Option<Request>> = vec![None; depth];
    let mut receives: Vec<Option<Request>> = vec![None; depth];
    let (mut sent, mut posted, mut arrived) = (0, 0, 0);
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    let mut stopping = false;
    loop {
        stopping |= enough(arrived);
        if stopping && arrived == posted && sends.iter().all(Option::is_none) {
            return (arrived, gap);
        }
        for at in 0..depth {
            // What is asked for is sent: no receive is left over at the end.
            if !stopping && receives[at].is_none() && posted % depth == at && posted < sent + depth
            {
                targets[at].bytes.fill(0xaa);
                receives[at] = irecv(pair, &mut targets[at]);
                posted += usize::from(receives[at].is_some());
            }
            if sends[at].is_none() && sent % depth == at && sent < posted {
                let data = pattern(sent, len);
                sources[at].bytes[..len].copy_from_slice(&data);
                sends[at] = isend(pair, &sources[at], len);
                sent += usize::from(sends[at].is_some());
            }
            // SAFETY: none is asked again once it is finished.
            if sends[at].is_some_and(|send| unsafe { send.test() }.unwrap().is_some()) {
                sends[at] = None;
                // Whatever was sent has been read: it may change.
                sources[at].bytes.fill(0x55);
            }
        }
        let next = arrived % depth;
        // SAFETY: as above.
        if let Some(done) = receives[next].and_then(|r| unsafe { r.test() }.unwrap()) {
            receives[next] = None;
            assert_eq!(done.sizes[0], len);
            let (message, rest) = targets[next].bytes.split_at(len);
            assert!(
                message == pattern(arrived, len),
                "message {arrived} is damaged"
            );
            assert!(
                rest.iter().all(|&byte| byte == 0xaa),
                "written beyond message {arrived}"
            );
            arrived += 1;
            gap = gap.max(last.elapsed());
            last = Instant::now();
        }
        assert!(
            last.elapsed() < DEADLINE,
            "nothing comes after {arrived} messages"
        );
    }
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status();
    assert!(status.unwrap().success(), "ip {words}");
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn messages_of_all_sizes_arrive_whole() {
    let pair = Pair::over(&[0], &[]);
    assert!(
        pair.near.summary().contains("rxea0:1 (RoCE"),
        "{}",
        pair.near.summary()
    );
    for len in [0, 1, 8, 4096, 4097, 65_536, 65_537, 1 << 20, (3 << 20) + 5] {
        let (count, _) = transfer(&pair, len, 4, |arrived| arrived >= 12);
        assert!(count >= 12, "{len}");
    }
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn small_messages_alone_make_no_path_look_silent() {
    let pair = Pair::over(&[0], &[]);
    // One at a time, each done when it is submitted: nobody ever waits at the sending end.
    transfer(&pair, 8, 1, |arrived| arrived >= 3000);
    assert!(!pair.told("fenced"));
}

/// Puts a rail's link into this state, and its route back, which goes with the link.
pub(crate) fn link(rail: u8, up: bool) {
    let state = if up { "up" } else { "down" };
    ip(&format!("link set ra{rail} {state}"));
    if up {
        let (near, far) = (format!("10.87.{rail}.1"), format!("10.87.{rail}.2"));
        let table = 100 + 2 * u16::from(rail);
        ip(&format!(
            "route replace {far}/32 dev ra{rail} src {near} table {table}"
        ));
    }
}

/// What netem does on both ends of a rail; nothing any more if it has no words.
fn netem(rail: u8, words: &str) {
    for end in ["ra", "rb"] {
        let doing = match words {
            "" => format!("qdisc del dev {end}{rail} root"),
            words => format!("qdisc replace dev {end}{rail} root netem {words}"),
        };
        let status = Command::new("tc").args(doing.split(' ')).status();
        assert!(status.unwrap().success(), "tc {doing}");
    }
}

/// Packets that a rail's near end has dropped.
fn dropped(rail: u8) -> u64 {
    let output = Command::new("tc")
        .args(["-s", "qdisc", "show", "dev", &format!("ra{rail}")])
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let after = text.split("dropped ").nth(1).unwrap_or("0");
    after.split([',', ' ']).next().unwrap().parse().unwrap()
}

/// Moves messages while this happens elsewhere: the transfer would pause while a command runs.
fn break_during(pair: &Pair, break_it: impl Fn() + Send) -> (usize, Duration) {
    let mut break_it = Some(break_it);
    std::thread::scope(|scope| {
        transfer(pair, 1 << 20, 4, |arrived| {
            if arrived == 10
                && let Some(break_it) = break_it.take()
            {
                scope.spawn(break_it);
            }
            arrived >= 60
        })
    })
}

/// Breaks one of two rails in the middle of a transfer and heals it: no error, every byte right, a
/// short gap, and the rail is used again.
fn survives(pair: &Pair, break_it: impl Fn() + Send, heal_it: impl Fn()) {
    transfer(pair, 1 << 20, 4, |arrived| arrived >= 20);
    let (_, gap) = break_during(pair, break_it);
    println!("longest gap {gap:?}");
    assert!(pair.told("fenced"), "{:?}", pair.lines);
    assert!(gap < GAP_MAX, "{gap:?}: {:?}", pair.lines);
    pair.forget();
    heal_it();
    let healed = Instant::now();
    transfer(pair, 1 << 20, 4, |_| pair.joined("10.87.1.1"));
    println!("used again after {:?}", healed.elapsed());
}

/// What an outage may cost: the issue of this transport names it.
const GAP_MAX: Duration = Duration::from_millis(500);

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_link_that_goes_down_costs_nothing_but_its_bandwidth() {
    let pair = Pair::over(&[0, 1], &[]);
    transfer(&pair, 1 << 20, 4, |arrived| arrived >= 20);
    pair.forget();
    let (_, gap) = break_during(&pair, || link(1, false));
    println!("longest gap {gap:?}");
    assert!(gap < GAP_MAX, "{gap:?}: {:?}", pair.lines);
    for port in ["rxea1:1: its link is down", "rxeb1:1: its link is down"] {
        assert!(pair.told(port), "{port}: {:?}", pair.lines);
    }
    assert!(pair.nobody_waited(), "{:?}", pair.lines);
    pair.forget();
    link(1, true);
    let healed = Instant::now();
    transfer(&pair, 1 << 20, 4, |_| pair.joined("10.87.1.1"));
    println!("used again after {:?}", healed.elapsed());
    assert!(pair.told("rxea1:1: its link is up"), "{:?}", pair.lines);
}

/// As NCCL does where it is to see two ports as one: nothing but the device says that there are two.
#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_device_made_of_two_ports_survives_the_loss_of_one() {
    let one_port = [("THALWEG_PORTS", "1")];
    let both = |session: &Session| session.make_virtual_device(&[0, 1]).unwrap();
    let pair = Pair::between(&[0, 1], &one_port, both);
    assert!(pair.told("device 2 is rxea0+rxea1: "), "{:?}", pair.lines);
    survives(&pair, || link(1, false), || link(1, true));
}

/// A handle that names a device or a port which is not there: one error, with advice, and a line that
/// says what was asked for where it was asked.
#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_device_that_the_peer_does_not_have_is_one_error() {
    const DEVICE: usize = 118;
    const PORTS: usize = 119;
    let brief = [("THALWEG_CONNECT_TIMEOUT_MS", "3000")];
    let pair = Pair::over(&[0], &brief);
    let wrong = [
        (DEVICE, 7, "RDMA device 7 is asked for, but there are 1"),
        (PORTS, 8, "of device 0, which has 1"),
    ];
    for (at, number, line) in wrong {
        let (listener, mut handle) = pair.far.listen(0).unwrap();
        handle[at] = number;
        // A link of its own: the process has another name.
        handle[32] ^= number;
        let begun = Instant::now();
        if at == PORTS {
            // Its first path is right, so there is a connection; the others are refused.
            let (mut send, mut recv) = (None, None);
            while send.is_none() || !pair.told(line) {
                if send.is_none() {
                    send = pair.near.connect(0, &mut handle).unwrap();
                }
                recv = recv.or(listener.accept().unwrap());
                assert!(begun.elapsed() < DEADLINE, "{:?}", pair.lines);
                std::thread::yield_now();
            }
            continue;
        }
        let error = loop {
            match pair.near.connect(0, &mut handle) {
                Ok(None) => assert!(begun.elapsed() < DEADLINE, "{:?}", pair.lines),
                Ok(Some(_)) => panic!("connected to a device that is not there"),
                Err(error) => break error.to_string(),
            }
            std::thread::yield_now();
        };
        assert!(error.contains("its log says why"), "{error}");
        assert!(pair.told(line), "{:?}", pair.lines);
    }
    transfer(&pair, 300_000, 4, |arrived| arrived >= 8);
}

/// Gives rail 1's near end this address, and its routes.
fn near_end(addr: &str, bits: u8) {
    ip(&format!("address add {addr}/{bits} dev ra1"));
    ip(&format!(
        "route replace 10.87.1.2/32 dev ra1 src {addr} table 102"
    ));
    ip(&format!(
        "route replace {addr}/32 dev rb1 src 10.87.1.2 table 103"
    ));
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn paths_follow_the_address_of_their_port() {
    let pair = Pair::over(&[0, 1], &[]);
    transfer(&pair, 1 << 20, 4, |_| pair.joined("10.87.1.1"));
    pair.forget();
    let (_, gap) = break_during(&pair, || ip("address del 10.87.1.1/24 dev ra1"));
    println!("longest gap {gap:?}");
    assert!(gap < GAP_MAX, "{gap:?}: {:?}", pair.lines);
    let gone = "10.87.1.1 of ra1, is gone, and there is no other";
    // soft-RoCE fails what is sent from there before it says that the address is gone.
    transfer(&pair, 1 << 20, 4, |_| pair.told(gone));
    pair.forget();
    ip("rule add pref 10 from 10.87.1.9 to 10.87.1.2 iif lo lookup 102");
    ip("rule add pref 11 from 10.87.1.2 to 10.87.1.9 iif lo lookup 103");
    near_end("10.87.1.9", 24);
    transfer(&pair, 1 << 20, 4, |_| pair.joined("10.87.1.9"));
    let again = "it has an address again, GID";
    assert!(pair.told(again), "{:?}", pair.lines);
    // Another one beside it is no reason to move.
    pair.forget();
    // In one subnet it would go with the first.
    near_end("10.87.1.1", 25);
    transfer(&pair, 1 << 20, 4, |arrived| arrived >= 10);
    assert!(!pair.told("its port is down"), "{:?}", pair.lines);
    let (_, gap) = break_during(&pair, || ip("address del 10.87.1.9/24 dev ra1"));
    println!("longest gap {gap:?}");
    assert!(gap < GAP_MAX, "{gap:?}: {:?}", pair.lines);
    transfer(&pair, 1 << 20, 4, |_| pair.joined("10.87.1.1"));
    assert!(pair.told("its paths are made anew"), "{:?}", pair.lines);
}

fn mtu(interface: &str, bytes: u32) {
    ip(&format!("link set {interface} mtu {bytes}"));
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn packets_are_as_large_as_both_ends_and_the_way_take_them() {
    mtu("ra1", 9000);
    let pair = Pair::over(&[1], &[]);
    transfer(&pair, 300_000, 4, |arrived| arrived >= 8);
    let unequal =
        "the port 10.87.1.1 takes packets with 4096 bytes and 10.87.1.2 with 1024: 1024 are used";
    assert!(pair.told(unequal), "{:?}", pair.lines);
    drop(pair);
    mtu("rb1", 9000);
    // It drops what is larger.
    let tc = |words: &str| {
        let status = Command::new("tc").args(words.split(' ')).status();
        assert!(status.unwrap().success(), "tc {words}");
    };
    // Not at the root: soft-RoCE is told of what is dropped there, and tries again without end.
    tc("qdisc replace dev ra1 root handle 1: netem delay 1ms");
    tc("qdisc add dev ra1 parent 1:1 tbf rate 1gbit burst 2000 limit 1000000");
    let pair = Pair::over(&[0, 1], &[]);
    let complaint = "rxea1:1: small packets get through, but none with 4096 bytes";
    transfer(&pair, 300_000, 4, |arrived| {
        arrived >= 8 && pair.told(complaint)
    });
    assert!(!pair.joined("10.87.1.1"), "{:?}", pair.lines);
    assert!(dropped(1) > 0);
    tc("qdisc del dev ra1 root");
    transfer(&pair, 300_000, 4, |_| pair.joined("10.87.1.1"));
    let lines = pair.lines.lock().unwrap().clone();
    let complaints = lines.iter().filter(|line| line.contains(complaint));
    assert_eq!(complaints.count(), 1, "{lines:?}");
    drop(pair);
    mtu("ra1", 1500);
    mtu("rb1", 1500);
}

/// What is asked for and is not there, or cannot be, is said in one line.
#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn what_cannot_be_used_is_said_at_the_start() {
    let refusal = |more: (&str, &str)| {
        let env = [
            ("THALWEG_TRANSPORT", "verbs"),
            ("THALWEG_IFNAME", "lo"),
            more,
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_sources(env, None).map_err(|error| error.to_string());
        config.map_or_else(
            |error| error,
            |config| {
                let opened = Session::open_with(config, Arc::new(|_, _: &str| {}));
                opened.unwrap_err().to_string()
            },
        )
    };
    let line = refusal(("THALWEG_HCA", "=mlx5_7"));
    assert!(
        line.contains("rxea0:1 (excluded by the settings)"),
        "{line}"
    );
    let line = refusal(("THALWEG_GID_INDEX", "77"));
    assert!(line.contains("at 77 of its table is no RoCE v2"), "{line}");
    let line = refusal(("THALWEG_FAMILY", "ipv6"));
    assert!(line.contains("it has no RoCE v2 address"), "{line}");
    let line = refusal(("THALWEG_TC", "27"));
    assert!(line.contains("THALWEG_TC"), "{line}");
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_black_hole_is_gone_around_in_a_fraction_of_a_second() {
    survives(
        &Pair::over(&[0, 1], &[]),
        || netem(1, "loss 100%"),
        || {
            assert!(dropped(1) > 0, "nothing went there");
            netem(1, "");
        },
    );
}

/// Packets that a rail's near end has sent.
fn sent(rail: u8) -> u64 {
    let file = format!("/sys/class/net/ra{rail}/statistics/tx_packets");
    std::fs::read_to_string(file)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_port_that_loses_packets_is_left() {
    let pair = Pair::over(&[0, 1], &[]);
    netem(1, "loss 1%");
    // Tried again after a second, it is left for two: long enough to look.
    let told = || pair.told("rxea1:1 loses packets") && pair.told("traffic, 2000 ms");
    let begun = Instant::now();
    transfer(&pair, 256 << 10, 8, |_| {
        told() || begun.elapsed() > DEADLINE
    });
    assert!(told(), "{:?}", pair.lines);
    let before = [sent(0), sent(1)];
    let left_at = Instant::now();
    transfer(&pair, 256 << 10, 8, |_| {
        left_at.elapsed() > Duration::from_millis(700)
    });
    let packets = [sent(0) - before[0], sent(1) - before[1]];
    netem(1, "");
    assert!(packets[0] > 10 * packets[1], "{packets:?}");
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn lost_and_reordered_packets_damage_nothing() {
    let pair = Pair::over(&[0, 1], &[]);
    netem(1, "delay 2ms 1ms loss 1%");
    let (count, _) = transfer(&pair, 300_000, 8, |arrived| {
        arrived >= 400 || (arrived >= 40 && dropped(1) > 20)
    });
    assert!(dropped(1) > 0, "{count} messages, and nothing lost");
    netem(1, "");
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn the_end_of_a_peer_is_an_error_and_soon() {
    let pair = Pair::over(&[0], &[]);
    transfer(&pair, 1 << 20, 2, |arrived| arrived >= 4);
    let Pair {
        send,
        recv,
        near,
        far,
        _listener: listener,
        lines,
    } = pair;
    let mut bytes = vec![1u8; 1 << 20];
    // SAFETY: dropped before the bytes are.
    let memory = unsafe {
        send.registrar()
            .register(bytes.as_mut_ptr(), bytes.len(), MemoryKind::Host)
    };
    let memory = memory.unwrap();
    // SAFETY: the bytes live until the request has ended.
    let request = unsafe { send.isend(bytes.as_ptr(), bytes.len(), 7, memory.keys()) };
    let request = request.unwrap().unwrap();
    drop((recv, listener, far));
    let begun = Instant::now();
    let error = loop {
        // SAFETY: the connection lives, and the request is not asked again once it has ended.
        match unsafe { request.test() } {
            Ok(None) => assert!(begun.elapsed() < DEADLINE, "{lines:?}"),
            Ok(Some(done)) => panic!("nobody received it: {done:?}"),
            Err(error) => break error,
        }
        std::thread::yield_now();
    };
    assert!(begun.elapsed() < Duration::from_secs(5), "{error}");
    drop((send, memory, near));
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn nothing_is_written_once_a_receive_has_been_closed() {
    let pair = Pair::over(&[0, 1], &[]);
    let len = 4 << 20;
    let mut target = Buffer::of_receiver(&pair, len);
    let source = Buffer::of_sender(&pair, vec![0x11; len]);
    let receive = irecv(&pair, &mut target).unwrap();
    let send = isend(&pair, &source, len).unwrap();
    // In the middle of the message: its first bytes are there.
    let begun = Instant::now();
    let first = target.bytes.as_ptr();
    // SAFETY: the buffer is there; the adapter writes behind the compiler's back.
    while unsafe { first.read_volatile() } == 0xaa {
        // SAFETY: neither has ended, since the message has hardly begun.
        unsafe {
            assert_eq!(send.test().unwrap(), None);
            assert_eq!(receive.test().unwrap(), None);
        }
        assert!(begun.elapsed() < DEADLINE);
    }
    let Pair {
        send: sending,
        recv,
        near,
        far,
        _listener: listener,
        lines,
    } = pair;
    drop(recv);
    let memory = target.memory;
    let mut bytes = target.bytes;
    bytes.fill(0xbb);
    // The registration is still there: what keeps the peer from writing is the close alone.
    let until = Instant::now() + Duration::from_secs(1);
    let mut ended = false;
    while Instant::now() < until {
        // SAFETY: it is not asked again once it has ended.
        ended = ended || unsafe { send.test() }.is_err();
        std::thread::yield_now();
    }
    assert!(bytes.iter().all(|&byte| byte == 0xbb), "{lines:?}");
    assert!(ended, "the send fails: {lines:?}");
    drop(memory);
    // The link lives on.
    let (send, recv, second) = connect(&near, &far);
    let pair = Pair {
        send,
        recv,
        near,
        far,
        _listener: second,
        lines,
    };
    transfer(&pair, 300_000, 4, |arrived| arrived >= 8);
    drop((sending, listener));
}

/// Queue pairs, completion queues and registrations that the devices hold.
pub(crate) fn resources() -> Vec<(String, u64)> {
    let output = Command::new("rdma").args(["resource", "show"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let mut sums = Vec::new();
    for kind in ["qp", "cq", "mr"] {
        let words: Vec<_> = text.split_whitespace().collect();
        let of_kind = words.windows(2).filter(|pair| pair[0] == kind);
        let sum = of_kind.map(|pair| pair[1].parse::<u64>().unwrap()).sum();
        sums.push((kind.to_owned(), sum));
    }
    sums
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn connections_and_sessions_leave_nothing_behind() {
    let before = resources();
    for round in 0..4 {
        let pair = Pair::over(&[0, 1], &[]);
        transfer(&pair, 100_000, 4, |arrived| arrived >= 8);
        let held = resources();
        for _ in 0..250 {
            drop(connect(&pair.near, &pair.far));
        }
        transfer(&pair, 100_000, 4, |arrived| arrived >= 8);
        assert_eq!(resources(), held, "round {round}");
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    // Those of earlier tests may have been on their way out.
    while resources()
        .iter()
        .zip(&before)
        .any(|(now, before)| now.1 > before.1)
    {
        assert!(Instant::now() < deadline, "{:?}, {before:?}", resources());
        std::thread::sleep(Duration::from_millis(50));
    }
}
