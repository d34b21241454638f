//! What telemetry costs messages over loopback TCP with everything on, told apart from the machine's noise:
//! the recorder on at both ends, and a reader that looks at each of them once a second.
//!
//! Three pairs of sessions live in one process: without telemetry, without it once more, and with it. They take
//! turns of a tenth of a second, the third pair also turns in which the reader looks once, in random order and then
//! in the reverse order, so that whatever drifts meets all alike; threads are pinned, memory is shared. A reader
//! that looks once a second meets one turn in ten: so much do the turns with it count. What disturbs a turn only
//! ever makes it longer, so a sitting's figure is the ratio of two pairs' lower quartiles. A session may be fast or
//! slow for as long as it lives: therefore there are many sittings, each with new ones. The figure is their trimmed
//! mean; its interval comes from drawing sittings at random. The second pair without telemetry says what can be told
//! at all: its figure should be 0 within its interval.
//!
//! "One thread" drives both ends: nothing waits, so its time is all the work that both ends and their kernel do.
//! "Two threads" is what applications do: one for each end, which spin.

#![allow(
    unsafe_code,
    reason = "requests name memory by address; pinning and CPU clocks are calls into libc"
)]
#![allow(
    clippy::cast_precision_loss,
    reason = "counts of messages, and ns of a tenth of a second"
)]

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thalweg::clock::Timestamp;
use thalweg::config::Config;
use thalweg::session::{MemoryKeys, RecvBuffer, RecvConnection, Request, SendConnection, Session};
use thalweg::sim::random::{Purpose, Stream};
use thalweg::telemetry::reader::Watcher;
use thalweg::telemetry::sources::Host;

/// How long a pair of sessions has its turn: several times the 10 ms after which links publish.
const TURN: Duration = Duration::from_millis(100);
/// In such a share of turns does a reader look that does once a second.
const LOOKS: f64 = TURN.as_secs_f64();
/// What may be lost with everything on.
const BUDGET_PERCENT: f64 = 2.0;
/// Of the sittings' figures, this share of the least and of the greatest does not count.
const TRIMMED: f64 = 0.2;
/// How often sittings are drawn for an interval.
const DRAWS: usize = 2000;

const USAGE: &str = "cargo bench --bench overhead -- [--sittings N] [--rounds N] [WORD...]
N sittings (20) with new sessions of N rounds (5) each; only what has one of the words in its name";

/// What a turn is a turn of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arm {
    Off,
    OffAgain,
    On,
    /// As [`Self::On`], and the reader looks once.
    Read,
}

impl Arm {
    const ALL: [Self; 4] = [Self::Off, Self::OffAgain, Self::On, Self::Read];
    /// Those with sessions of their own.
    const PAIRS: [Self; 3] = [Self::Off, Self::OffAgain, Self::On];

    /// Which of [`Self::PAIRS`] works.
    fn pair(self) -> usize {
        match self {
            Self::Off => 0,
            Self::OffAgain => 1,
            Self::On | Self::Read => 2,
        }
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
struct Shape {
    name: &'static str,
    bytes: usize,
    in_flight: usize,
    /// Each message is answered by one, and only then comes the next.
    is_answered: bool,
    /// How many threads drive the two ends.
    threads: &'static [usize],
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "8 B, there and back",
        bytes: 8,
        in_flight: 8,
        is_answered: true,
        threads: &[1, 2],
    },
    Shape {
        name: "4 KiB",
        bytes: 4 << 10,
        in_flight: 8,
        is_answered: false,
        threads: &[1, 2],
    },
    Shape {
        name: "64 KiB",
        bytes: 64 << 10,
        in_flight: 8,
        is_answered: false,
        threads: &[1, 2],
    },
    Shape {
        name: "4 MiB",
        bytes: 4 << 20,
        in_flight: 2,
        is_answered: false,
        // Not by one thread: how fast its sessions are then differs up to threefold, for as long as they live, with
        // telemetry or without. Why is not known; a receive buffer of at most 1 MiB changes nothing.
        threads: &[2],
    },
];

fn main() {
    let Some(options) = Options::of(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    println!(
        "Growth of a message's time in %, with 95 % intervals; last of the sessions' CPU time.\n{:<36}{:>13}  {:<22}{:<22}{:<22}CPU",
        "", "off", "off again", "on", "on and read each s"
    );
    let folder = Folder::new();
    let cpus = allowed_cpus();
    let (mut looks, mut looks_cpu) = (0, Duration::ZERO);
    for shape in SHAPES {
        for &threads in shape.threads {
            let way = ["one thread", "two threads"][threads - 1];
            let name = format!("{}, {way}", shape.name);
            if !options.wants(&name) {
                continue;
            }
            // What this thread starts stays there: beside what is measured, where there is room.
            let (others, own) = cpus.split_at(cpus.len().saturating_sub(threads));
            pin(if others.is_empty() { own } else { others });
            let reader = Reader::start(&folder.0);
            let sittings: Vec<_> = (0..options.sittings)
                .map(|number| sitting(shape, own, threads, number, options.rounds, &reader))
                .collect();
            println!("{name:<36}{}", Row::of(&sittings));
            let (count, cpu) = reader.end();
            looks += count;
            looks_cpu += cpu;
        }
    }
    let each = looks_cpu.as_secs_f64() / f64::from(looks.max(1));
    println!(
        "A look at both ends and at this host: {:.0} us of CPU, so {:.3} % of a core at one in a second.",
        each * 1e6,
        each * 100.0
    );
}

/// Run by anybody but `cargo bench`, it only shows that it works, as criterion's do.
struct Options {
    sittings: usize,
    rounds: usize,
    words: Vec<String>,
}

impl Options {
    fn of(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            sittings: 2,
            rounds: 1,
            words: Vec::new(),
        };
        while let Some(arg) = args.next() {
            let mut number = || args.next()?.parse().ok().filter(|&n| n > 0);
            match arg.as_str() {
                "--bench" => (options.sittings, options.rounds) = (20, 5),
                "--sittings" => options.sittings = number()?,
                "--rounds" => options.rounds = number()?,
                word if word.starts_with('-') => return None,
                _ => options.words.push(arg),
            }
        }
        Some(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word))
    }
}

// ---- what is measured ----

/// Of one turn, for each message, in ns.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    time: f64,
    cpu: f64,
}

/// Of the turns of a sitting, by [`Arm`].
type Costs = [Vec<Cost>; 4];

/// New sessions, and as many rounds with them, on these CPUs.
fn sitting(
    shape: Shape,
    cpus: &[usize],
    threads: usize,
    number: usize,
    rounds: usize,
    reader: &Reader,
) -> Costs {
    let mut random = Stream::new(number as u64, Purpose::Workload, shape.bytes as u64);
    let mut order = Arm::PAIRS;
    random.shuffle(&mut order);
    let mut ends = order.map(|arm| (arm, connected(arm, &reader.folder)));
    ends.sort_by_key(|&(arm, _)| arm.pair());
    let (first, second): (Vec<_>, Vec<_>) = ends.into_iter().map(|(_, pair)| pair).unzip();
    let first = Side::new(first, shape, true);
    let second = Side::new(second, shape, false);
    thread::scope(|scope| {
        let (sides, peer) = if threads == 1 {
            (vec![first, second], None)
        } else {
            let (ask, asked) = channel::<Exchange>();
            let (answer, answers) = channel();
            scope.spawn(move || {
                pin(&cpus[..1]);
                let mut sides = [second];
                for exchange in asked {
                    exchange.run(&mut sides);
                    if answer.send(()).is_err() {
                        break;
                    }
                }
            });
            (vec![first], Some(Peer { ask, answers }))
        };
        let work = scope.spawn(move || {
            pin(&cpus[cpus.len() - 1..]);
            Worker { sides, peer }.rounds(rounds, &mut random, reader)
        });
        work.join().expect("the sessions work")
    })
}

/// The ends that this thread drives, and who drives the others, if there are others.
struct Worker {
    sides: Vec<Side>,
    peer: Option<Peer>,
}

/// The thread that drives the other ends: how it is asked to, and says that it is done.
struct Peer {
    ask: Sender<Exchange>,
    answers: Receiver<()>,
}

impl Worker {
    fn rounds(mut self, rounds: usize, random: &mut Stream, reader: &Reader) -> Costs {
        let messages = Arm::PAIRS.map(|arm| self.messages_of_a_turn(arm))[0];
        let cpu = || cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(reader.cpu());
        let mut costs = Costs::default();
        for _ in 0..rounds {
            let mut order = Arm::ALL;
            random.shuffle(&mut order);
            for &arm in order.iter().chain(order.iter().rev()) {
                self.warm_up(arm, messages);
                let (begin, cpu_begin) = (Instant::now(), cpu());
                if arm == Arm::Read {
                    reader.look();
                }
                self.exchange(arm, self.bytes(), messages);
                let each = |time: Duration| time.as_nanos() as f64 / messages as f64;
                costs[arm as usize].push(Cost {
                    time: each(begin.elapsed()),
                    cpu: each(cpu().saturating_sub(cpu_begin)),
                });
            }
        }
        costs
    }

    fn messages_of_a_turn(&mut self, arm: Arm) -> u64 {
        let mut messages = 8;
        loop {
            let begin = Instant::now();
            self.exchange(arm, self.bytes(), messages);
            let share = TURN.as_secs_f64() / begin.elapsed().as_secs_f64();
            if share < 4.0 {
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a positive number of messages, below 2^53"
                )]
                return (messages as f64 * share).ceil() as u64;
            }
            messages *= 2;
        }
    }

    fn bytes(&self) -> usize {
        self.sides[0].shape.bytes
    }

    /// After idle time a connection is slow at first, and a control thread still looks after its links: that
    /// leaves them to whoever drives them often, so to short messages.
    fn warm_up(&mut self, arm: Arm, messages: u64) {
        self.exchange(arm, self.bytes().min(4 << 10), 1000);
        self.exchange(arm, self.bytes(), messages / 10);
    }

    fn exchange(&mut self, arm: Arm, bytes: usize, messages: u64) {
        const GONE: &str = "the other end's thread works as long as this one";
        let exchange = Exchange {
            arm,
            bytes,
            messages,
        };
        if let Some(peer) = &self.peer {
            peer.ask.send(exchange).expect(GONE);
        }
        exchange.run(&mut self.sides);
        if let Some(peer) = &self.peer {
            peer.answers.recv().expect(GONE);
        }
    }
}

/// So many messages of so many bytes.
#[derive(Debug, Clone, Copy)]
struct Exchange {
    arm: Arm,
    bytes: usize,
    messages: u64,
}

impl Exchange {
    /// As far as these ends have a part in it.
    fn run(self, sides: &mut [Side]) {
        let mut turns: Vec<_> = sides.iter_mut().map(|side| Turn::new(side, self)).collect();
        loop {
            let mut is_over = true;
            for turn in &mut turns {
                is_over &= turn.step();
            }
            if is_over {
                break;
            }
        }
    }
}

// ---- sessions ----

/// One end of a pair of sessions.
struct End {
    send: SendConnection,
    recv: RecvConnection,
    _session: Session,
}

/// A pair of sessions, with a connection each way.
fn connected(arm: Arm, folder: &Path) -> (End, End) {
    let open = || {
        let telemetry = if arm == Arm::On { "on" } else { "off" };
        let settings = [
            ("THALWEG_IFNAME", "=lo"),
            ("THALWEG_FAMILY", "ipv4"),
            ("THALWEG_TRANSPORT", "tcp"),
            ("THALWEG_TELEMETRY", telemetry),
            ("THALWEG_SHM_DIR", folder.to_str().expect("we named it")),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_sources(settings.to_vec(), None).expect("valid settings");
        Session::open_with(config, Arc::new(|_, _| ())).expect("loopback is there")
    };
    let (one, other) = (open(), open());
    let (to_other, from_one) = connect(&one, &other);
    let (to_one, from_other) = connect(&other, &one);
    let one = End {
        send: to_other,
        recv: from_other,
        _session: one,
    };
    let other = End {
        send: to_one,
        recv: from_one,
        _session: other,
    };
    (one, other)
}

fn connect(from: &Session, to: &Session) -> (SendConnection, RecvConnection) {
    let (listener, mut handle) = to.listen(0).expect("loopback is there");
    let (mut send, mut recv) = (None, None);
    loop {
        if send.is_none() {
            send = from.connect(0, &mut handle).expect("the peer is there");
        }
        if recv.is_none() {
            recv = listener.accept().expect("the session is open");
        }
        match (send, recv) {
            (Some(send), Some(recv)) => return (send, recv),
            not_yet => (send, recv) = not_yet,
        }
        thread::yield_now();
    }
}

/// The same ends of all pairs of sessions. They share memory: how fast a copy is depends on where it is.
struct Side {
    /// By [`Arm::pair`].
    ends: Vec<End>,
    shape: Shape,
    is_first: bool,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Side {
    fn new(ends: Vec<End>, shape: Shape, is_first: bool) -> Self {
        Self {
            ends,
            shape,
            is_first,
            sent: vec![1; shape.bytes * shape.in_flight],
            received: vec![2; shape.bytes * shape.in_flight],
        }
    }
}

/// One end's part in an exchange.
struct Turn<'a> {
    side: &'a mut Side,
    exchange: Exchange,
    sends: Lane,
    recvs: Lane,
}

impl<'a> Turn<'a> {
    fn new(side: &'a mut Side, exchange: Exchange) -> Self {
        let lane = |has_part| Lane {
            messages: if has_part { exchange.messages } else { 0 },
            bytes: exchange.bytes,
            in_flight: side.shape.in_flight,
            posted: 0,
            pending: VecDeque::new(),
        };
        let is_answered = side.shape.is_answered;
        Self {
            sends: lane(side.is_first || is_answered),
            recvs: lane(!side.is_first || is_answered),
            side,
            exchange,
        }
    }

    /// Posts what may be posted and looks after the oldest requests. The answer is whether all is done.
    fn step(&mut self) -> bool {
        let Self {
            side, sends, recvs, ..
        } = self;
        let end = &side.ends[self.exchange.arm.pair()];
        while let Some(range) = recvs.next() {
            let data = &mut side.received[range];
            let buffer = RecvBuffer {
                data: data.as_mut_ptr(),
                len: data.len(),
                tag: 0,
                keys: MemoryKeys::default(),
            };
            // SAFETY: nobody else touches this memory, which lives in the side, until the exchange is over; no
            // more are pending than there are places, and they end in order.
            let posted = unsafe { end.recv.irecv(&[buffer]) };
            recvs.post(posted.expect("a valid receive"));
        }
        recvs.test();
        while let Some(range) = sends.next() {
            let answered = recvs.done() + u64::from(side.is_first);
            if side.shape.is_answered && sends.posted == answered {
                break;
            }
            let data = &side.sent[range];
            // SAFETY: as above.
            let posted = unsafe {
                end.send
                    .isend(data.as_ptr(), data.len(), 0, MemoryKeys::default())
            };
            sends.post(posted.expect("a valid send"));
        }
        sends.test();
        sends.is_over() && recvs.is_over()
    }
}

/// Requests in the order in which they were posted.
struct Lane {
    messages: u64,
    bytes: usize,
    in_flight: usize,
    posted: u64,
    pending: VecDeque<Request>,
}

impl Lane {
    fn done(&self) -> u64 {
        self.posted - self.pending.len() as u64
    }

    fn is_over(&self) -> bool {
        self.done() == self.messages
    }

    /// The memory of the next message, if one may be posted.
    fn next(&self) -> Option<Range<usize>> {
        let place = usize::try_from(self.posted % self.in_flight as u64).unwrap_or(0);
        let may = self.posted < self.messages && self.pending.len() < self.in_flight;
        may.then_some(place * self.bytes..(place + 1) * self.bytes)
    }

    fn post(&mut self, request: Option<Request>) {
        let request = request.expect("fewer are pending than a connection may have");
        self.pending.push_back(request);
        self.posted += 1;
    }

    fn test(&mut self) {
        if let Some(oldest) = self.pending.front() {
            // SAFETY: it has not ended, for then it is taken away; its connection lives in the side.
            let ended = unsafe { oldest.test() }.expect("the peer is well");
            if let Some(completion) = ended {
                assert_eq!(completion.sizes[0], self.bytes);
                self.pending.pop_front();
            }
        }
    }
}

// ---- the reader ----

/// A thread that does what `thalweg record` does once a second, whenever it is asked to. Its CPU time is told apart.
struct Reader {
    folder: PathBuf,
    ask: Sender<()>,
    cpu_ns: Arc<AtomicU64>,
    thread: JoinHandle<u32>,
}

impl Reader {
    fn start(folder: &Path) -> Self {
        let (ask, asked) = channel();
        let cpu_ns = Arc::new(AtomicU64::new(0));
        let (mut watcher, mut host) = (Watcher::new(folder), Host::new());
        let used = Arc::clone(&cpu_ns);
        let thread = thread::spawn(move || {
            let mut looks = 0;
            for () in asked {
                let (mut snapshot, lines) = watcher.snapshot().expect("the folder is there");
                assert_eq!(lines, [""; 0]);
                // Those of the last sitting have ended; what they said last is still told, once.
                let processes = snapshot.processes.iter().map(|end| &end.process);
                let alive = processes.filter(|process| process.is_alive);
                let recorded: Vec<_> = alive.map(|process| process.links.len()).collect();
                assert!(
                    recorded.len() == 2 && !recorded.contains(&0),
                    "links of each end: {recorded:?}"
                );
                snapshot.host = Some(host.read(Timestamp::now()));
                serde_json::to_writer(std::io::sink(), &snapshot).expect("a sink takes all");
                looks += 1;
                let cpu = cpu_time(libc::CLOCK_THREAD_CPUTIME_ID).as_nanos();
                used.store(u64::try_from(cpu).unwrap_or(0), Ordering::Relaxed);
            }
            looks
        });
        Self {
            folder: folder.to_owned(),
            ask,
            cpu_ns,
            thread,
        }
    }

    fn look(&self) {
        self.ask
            .send(())
            .expect("the reader looks until it is ended");
    }

    /// Up to its last look.
    fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed))
    }

    /// How often it looked, and its CPU time.
    fn end(self) -> (u32, Duration) {
        drop(self.ask);
        let looks = self.thread.join().expect("it found what it looked for");
        (
            looks,
            Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed)),
        )
    }
}

/// A folder in memory that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = PathBuf::from(format!("/dev/shm/thalweg-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("there is /dev/shm, and nothing of this name in it");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// ---- statistics ----

/// Growth in %, and between which limits it is in 95 of 100 cases.
#[derive(Debug, Clone, Copy)]
struct Growth {
    percent: f64,
    least: f64,
    most: f64,
}

impl Growth {
    /// Of turns of these arms, in these shares, against [`Arm::Off`].
    fn of(sittings: &[Costs], arms: &[(Arm, f64)], cost: fn(&Cost) -> f64) -> Self {
        let growth = |costs: &Costs| {
            let of = |arm| lower_quartile(costs[arm as usize].iter().map(cost).collect());
            let mixed: f64 = arms.iter().map(|&(arm, share)| share * of(arm)).sum();
            (mixed / of(Arm::Off) - 1.0) * 100.0
        };
        let growths: Vec<f64> = sittings.iter().map(growth).collect();
        let mut random = Stream::new(0, Purpose::Workload, 0);
        let bound = u32::try_from(growths.len()).unwrap_or(u32::MAX);
        let mut draw = || {
            let drawn = (0..bound).map(|_| growths[random.below(bound) as usize]);
            trimmed_mean(drawn.collect())
        };
        let mut draws: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
        draws.sort_by(f64::total_cmp);
        Self {
            percent: trimmed_mean(growths),
            least: draws[DRAWS / 40],
            most: draws[DRAWS - 1 - DRAWS / 40],
        }
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            percent,
            least,
            most,
        } = self;
        f.pad(&format!("{percent:+.2} [{least:+.2}, {most:+.2}]"))
    }
}

fn lower_quartile(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 4]
}

fn trimmed_mean(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length"
    )]
    let trimmed = (values.len() as f64 * TRIMMED) as usize;
    let rest = &values[trimmed..values.len() - trimmed];
    rest.iter().sum::<f64>() / rest.len() as f64
}

/// What is said of all sittings.
struct Row {
    /// Of a message without telemetry.
    time_ns: f64,
    off_again: Growth,
    on: Growth,
    /// On, and read once a second: time and CPU time.
    read: [Growth; 2],
}

impl Row {
    fn of(sittings: &[Costs]) -> Self {
        let time = |cost: &Cost| cost.time;
        let read = [(Arm::On, 1.0 - LOOKS), (Arm::Read, LOOKS)];
        let times = sittings.iter().flat_map(|costs| &costs[Arm::Off as usize]);
        Self {
            time_ns: lower_quartile(times.map(time).collect()),
            off_again: Growth::of(sittings, &[(Arm::OffAgain, 1.0)], time),
            on: Growth::of(sittings, &[(Arm::On, 1.0)], time),
            read: [
                Growth::of(sittings, &read, time),
                Growth::of(sittings, &read, |cost| cost.cpu),
            ],
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { off_again, on, .. } = self;
        let [time, cpu] = self.read;
        let noise = off_again.most.max(-off_again.least);
        // Time grows by a little more than throughput shrinks.
        let verdict = if noise > BUDGET_PERCENT {
            "cannot be told: too noisy"
        } else if time.most <= BUDGET_PERCENT {
            "at most 2 %"
        } else if time.least > BUDGET_PERCENT {
            "MORE than 2 %"
        } else {
            "cannot be told: take more sittings"
        };
        write!(
            f,
            "{:>10.2} us  {off_again:<22}{on:<22}{time:<22}{cpu:<22}{verdict}",
            self.time_ns / 1000.0
        )
    }
}

// ---- the system ----

fn cpu_time(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one valid out pointer.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let number = |part: i64| u64::try_from(part).unwrap_or(0);
    Duration::from_secs(number(time.tv_sec)) + Duration::from_nanos(number(time.tv_nsec))
}

/// The CPUs that this thread may run on, at least one.
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: a set is plain bits, and the kernel writes no more of them than there are.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        set
    };
    let all = 0..libc::CPU_SETSIZE.unsigned_abs() as usize;
    // SAFETY: below the size of a set.
    let allowed: Vec<_> = all
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect();
    assert!(!allowed.is_empty(), "this thread runs");
    allowed
}

/// Keeps this thread, and those that it starts from now on, on these CPUs.
fn pin(cpus: &[usize]) {
    // SAFETY: a set is plain bits, and the CPUs are ones that `allowed_cpus` has found in one.
    let rc = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &cpu in cpus {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}
