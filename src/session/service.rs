//! The one control thread of a process: it owns what must go on when nobody calls. It listens,
//! shakes hands, dials, and drives links whose application is busy elsewhere. It sleeps
//! otherwise: a quiet link wakes it by its poller, a busy one that the application drives does
//! not concern it.

use std::collections::{BTreeSet, HashMap};
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use socket2::{Domain, Socket, Type};

use super::handshake::{
    self, CHALLENGE_BYTES, HELLO_BYTES, Hello, NoWelcome, Refusal, WELCOME_BYTES, Welcome,
};
use super::rdma::{Accepted, RdmaDial};
use super::{DeviceInfo, LogLevel, LogSink};
use crate::auth::{self, Key};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::driver::conn::{Conn, LinkRef};
use crate::driver::rx_link::{NewChannel, RxHost, RxParams};
use crate::driver::tx_link::{DialRequest, TxHost, TxMail};
use crate::driver::{Link, Poller, RxLink, Step, TxLink};
use crate::engine::wire::PathCount;
use crate::engine::{EngineConfig, RxEngine, TxAction, TxEvent};
use crate::sync::Flag;
use crate::telemetry::schema::PATH_STATES;
use crate::telemetry::{self, Recorder};
use crate::transport::AnyChannel;
use crate::transport::faulty::{FaultFile, Faults};
use crate::transport::tcp::TcpChannel;
use crate::transport::verbs::adapters::{Adapters, Unconnected};
use crate::transport::verbs::{Notice, Weight};
use crate::units::Nanos;

/// Handshakes under way at once; a stranger who opens more waits in the kernel's backlog.
const HANDSHAKES_MAX: usize = 256;
/// Handshakes begun per second, and at once.
const HANDSHAKES_PER_S: u64 = 1000;
/// A handshake that has not ended by then is dropped.
const HANDSHAKE_DEADLINE: Nanos = Nanos(3_000_000_000);
/// A link that its application has driven within this time is left to it. A caller that polls
/// comes back within microseconds; one that does not has lost its core, for a time slice of some
/// milliseconds in which its link would run dry.
const DRIVEN_LATELY: Nanos = Nanos(3_000_000);
/// How often a busy link is looked after.
const TICK: Nanos = Nanos(4_000_000);
/// How long nobody is accepted after that has failed.
const DEAF: Nanos = Nanos(100_000_000);
/// A link whose next deadline is nearer than this is busy.
const BUSY: Nanos = Nanos(5_000_000);

/// A listener, as far as the control plane knows it.
#[derive(Debug, Default)]
pub struct Pending {
    /// Connections that have not been taken by `accept`.
    pub conns: std::collections::VecDeque<Arc<Conn>>,
}

/// What the control thread is asked to do, or told.
pub(super) enum Command {
    /// Dial a path.
    Dial(Arc<TxLink>, DialRequest),
    /// Find out whether a peer is still there.
    CheckPeer(Arc<RxLink>),
    /// Our end of a path over RDMA has been made, for the dial of this key.
    Prepared(u64, Result<Unconnected, String>),
    /// It has been connected to the other.
    Connected(u64, Result<Unconnected, String>),
    /// Our end of a path that a peer dials has been made and connected.
    Accepted(Box<Accepted>),
}

/// A peer process and its token, and over RDMA our device and its: what a handle says of where it leads.
pub type PeerKey = ([u8; 16], [u8; 16], Option<(usize, u8)>);

/// What the control thread and the application's calls share. None of it is on the data path.
pub struct Shared {
    /// Settings.
    pub config: Config,
    /// Key of everybody who has one of our handles.
    pub key: Key,
    /// Where we listen.
    pub addrs: Vec<SocketAddr>,
    /// Our RDMA ports, if there are any.
    pub(super) rdma: Option<Arc<Adapters>>,
    /// The devices of this host.
    pub(super) devices: Vec<DeviceInfo>,
    /// Devices made of several; their numbers follow those of the ports.
    pub(super) virtual_devices: Mutex<Vec<DeviceInfo>>,
    /// Threads that do something aside.
    pub(super) aside: AtomicU32,
    /// Listeners by their number.
    pub listeners: Mutex<HashMap<u64, Pending>>,
    /// Sending links by peer.
    pub tx_links: Mutex<HashMap<PeerKey, Arc<TxLink>>>,
    rx_links: Mutex<HashMap<[u8; 16], Arc<RxLink>>>,
    /// A link has been added that the control thread does not watch yet.
    pub links_added: Flag,
    commands: Mutex<Vec<Command>>,
    log: LogSink,
    wake: OwnedFd,
    stopping: AtomicBool,
    trace: Option<Mutex<File>>,
    pub(super) recorder: Option<Recorder>,
    dials: AtomicU32,
    pub(super) me: Weak<Shared>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Everything that the control thread will need.
    ///
    /// # Errors
    /// No descriptor is left, or the trace file cannot be opened.
    pub fn new(
        config: Config,
        key: Key,
        addrs: Vec<SocketAddr>,
        rdma: Option<Arc<Adapters>>,
        devices: Vec<DeviceInfo>,
        log: LogSink,
    ) -> io::Result<Arc<Self>> {
        #[expect(unsafe_code, reason = "std has no eventfd")]
        // SAFETY: no memory is passed, and the descriptor is fresh and ours.
        let wake = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let trace = match &config.trace_file {
            Some(path) => {
                let file = File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|e| {
                        io::Error::new(
                            e.kind(),
                            format!("THALWEG_TRACE_FILE={}: {e}", path.display()),
                        )
                    })?;
                Some(Mutex::new(file))
            }
            None => None,
        };
        let (recorder, line) = match config.telemetry.then(|| Recorder::open(&config.shm_folder)) {
            None => (None, None),
            Some(Ok((recorder, line))) => (Some(recorder), line),
            // Nobody's traffic ends for want of being watched.
            Some(Err(error)) => {
                let line = format!(
                    "nothing is recorded: no memory for telemetry: {error}; raise this process's limit (ulimit -v)"
                );
                (None, Some(line))
            }
        };
        if let Some(line) = line {
            log(LogLevel::Warn, &line);
        }
        Ok(Arc::new_cyclic(|me| Self {
            config,
            key,
            addrs,
            rdma,
            devices,
            virtual_devices: Mutex::default(),
            aside: AtomicU32::new(0),
            listeners: Mutex::default(),
            tx_links: Mutex::default(),
            rx_links: Mutex::default(),
            links_added: Flag::new(),
            commands: Mutex::default(),
            log,
            wake,
            stopping: AtomicBool::new(false),
            trace,
            recorder,
            dials: AtomicU32::new(0),
            me: me.clone(),
        }))
    }

    /// The devices of this host, and behind them those made of several.
    pub(super) fn all_devices(&self) -> Vec<DeviceInfo> {
        let joined = locked(&self.virtual_devices);
        self.devices.iter().chain(&*joined).cloned().collect()
    }

    /// What a device is called; nothing where there is none of this number.
    pub(super) fn device_name(&self, device: usize) -> String {
        let device = self.all_devices().into_iter().nth(device);
        device.map_or_else(String::new, |device| device.name)
    }

    /// Writes a log line.
    pub fn log(&self, level: LogLevel, line: &str) {
        (self.log)(level, line);
    }

    /// Makes the control thread look at its commands.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes, as an eventfd wants them.
        #[expect(unsafe_code, reason = "an eventfd is written by a plain write")]
        let _ = unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Tells the control thread to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release); // pairs with the load in `run`
        self.wake();
    }

    pub(super) fn command(&self, command: Command) {
        let mut commands = locked(&self.commands);
        // Pairs with the store in `stop`: nobody would take it any more.
        if self.stopping.load(Ordering::Acquire) {
            return;
        }
        commands.push(command);
        drop(commands);
        self.wake();
    }

    /// Drives the receiving links: a peer's `open` may be waiting in one.
    pub fn drive_receivers(&self) {
        let links: Vec<_> = locked(&self.rx_links).values().cloned().collect();
        for link in links {
            link.drive(Step::Progress);
        }
    }

    fn trace_line(&self, line: &str) {
        if let Some(trace) = &self.trace {
            let _ = locked(trace).write_all(line.as_bytes());
        }
    }
}

impl TxHost for Shared {
    fn dial(&self, link: &Arc<TxLink>, request: DialRequest) {
        self.command(Command::Dial(Arc::clone(link), request));
    }

    fn event(&self, link: &TxLink, event: &TxEvent, addrs: &str) {
        let recorded = event.recorded();
        let text = match (event, event.path()) {
            (TxEvent::Failed { reason, .. }, _) => reason.clone(),
            (TxEvent::Lossy { port, .. }, _) => format!("{} {recorded}", port_name(link, *port)),
            (_, Some(path)) => format!("path {path} ({addrs}) {recorded}"),
            (_, None) => recorded.to_string(),
        };
        let level = match event {
            TxEvent::Lossy { .. } => LogLevel::Warn,
            TxEvent::Failed { sends, .. } if *sends > 0 => LogLevel::Warn,
            TxEvent::Fenced { .. } | TxEvent::Rerouted { .. } | TxEvent::Replayed { .. } => {
                LogLevel::Info
            }
            TxEvent::Joined { .. }
            | TxEvent::Collided { .. }
            | TxEvent::SearchEnded { .. }
            | TxEvent::Failed { .. } => LogLevel::Trace,
        };
        self.log(level, &format!("link to {}: {text}", link.name));
        if self.trace.is_some() {
            self.trace_line(&format!(
                "{{\"t_ms\":{:.3},\"pid\":{},\"link\":\"{}\",\"event\":\"{}\",\"reason\":\"{}\"}}\n",
                now_ms(),
                std::process::id(),
                link.name,
                recorded.name(),
                text.replace(['"', '\\'], "'"),
            ));
        }
    }
}

impl RxHost for Shared {
    fn welcome(
        &self,
        _link: &RxLink,
        new: &mut NewChannel,
        previous: Option<PathCount>,
    ) -> io::Result<()> {
        let welcome = Welcome {
            fenced_count: previous.map_or(0, |p| p.count),
            eager_bytes: self.config.eager_bytes,
            end: new.end,
        };
        let (hello, challenge) = new.nonces;
        new.socket
            .write_all(&welcome.encode(&self.key, &hello, &challenge))
    }

    fn accept(&self, listener: u64, conn: Arc<Conn>) -> bool {
        match locked(&self.listeners).get_mut(&listener) {
            Some(pending) => {
                pending.conns.push_back(conn);
                true
            }
            None => false,
        }
    }

    fn note(&self, _link: &RxLink, text: &str) {
        self.log(LogLevel::Warn, text);
    }

    fn check_peer(&self, link: &Arc<RxLink>) {
        self.command(Command::CheckPeer(Arc::clone(link)));
    }
}

fn now_ms() -> f64 {
    Nanos(Timestamp::now().as_nanos()).as_micros_f64() / 1000.0
}

// Keys of the poller: what kind of thing, and which.
const WAKE: u64 = 0;
const KIND: u64 = 1 << 56;
const LISTENER: u64 = KIND;
const OUTGOING: u64 = 2 * KIND;
const INCOMING: u64 = 3 * KIND;
const LINK: u64 = 4 * KIND;
/// A device, by the first of its ports.
const DEVICE: u64 = 5 * KIND;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DialState {
    /// Over RDMA: our queue pair is being made.
    Preparing,
    Connecting,
    Challenged,
    Welcomed,
    /// Over RDMA: the queue pairs are being connected, and then whether anything gets through.
    Proving,
}

struct Dial {
    link: Arc<TxLink>,
    path: u8,
    epoch: u16,
    fence: Option<u16>,
    remote: SocketAddr,
    socket: Option<TcpStream>,
    state: DialState,
    buffer: Vec<u8>,
    nonce: [u8; 16],
    challenge: [u8; 16],
    deadline: Timestamp,
    /// Address and port that it leaves from.
    local: (Option<IpAddr>, u16),
    rdma: Option<RdmaDial>,
}

impl Dial {
    /// How far the channel came whose fence is open.
    fn previous(&self, count: u32) -> Option<PathCount> {
        let path = self.path;
        self.fence.map(|epoch| PathCount { path, epoch, count })
    }
}

struct Handshake {
    socket: TcpStream,
    remote: SocketAddr,
    challenge: [u8; 16],
    buffer: Vec<u8>,
    deadline: Timestamp,
}

struct Watched {
    link: LinkRef,
    armed: bool,
    drove_at: Timestamp,
    /// The earliest deadline that the link has named since it was driven: later ones may be counted from later.
    due_at: Option<Timestamp>,
    idle_since: Option<Timestamp>,
}

/// The control thread's own.
pub struct Service {
    shared: Arc<Shared>,
    poller: Poller,
    listeners: Vec<TcpListener>,
    /// Listeners that are not watched: there is no room for what waits at them.
    deaf: Vec<usize>,
    outgoing: HashMap<u64, Dial>,
    incoming: HashMap<u64, Handshake>,
    checks: Vec<(TcpStream, Arc<RxLink>, Timestamp)>,
    watched: HashMap<u64, Watched>,
    next_key: u64,
    handshake_tokens: u64,
    tokens_at: Timestamp,
    traced_at: Timestamp,
    refused_at: Timestamp,
    /// Nothing can be accepted until then: there were no descriptors.
    deaf_until: Timestamp,
    /// Lines that need be said only once.
    said: BTreeSet<String>,
    /// Only where a fault file is set: other channels are what they are.
    fault_file: Option<FaultFile>,
}

impl Service {
    /// The thread's state.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(shared: Arc<Shared>, listeners: Vec<TcpListener>) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(shared.wake.as_raw_fd(), WAKE)?;
        for (index, listener) in listeners.iter().enumerate() {
            listener.set_nonblocking(true)?;
            poller.add_once(listener.as_raw_fd(), LISTENER + index as u64)?;
        }
        let devices = shared.rdma.as_ref().map(|rdma| rdma.news_fds());
        for (port, fd) in devices.into_iter().flatten() {
            poller.add(fd, DEVICE + port as u64)?;
        }
        let fault_file = shared.config.fault_file.as_deref().map(FaultFile::new);
        Ok(Self {
            shared,
            poller,
            listeners,
            deaf: Vec::new(),
            outgoing: HashMap::new(),
            incoming: HashMap::new(),
            checks: Vec::new(),
            watched: HashMap::new(),
            next_key: 1,
            handshake_tokens: HANDSHAKES_PER_S,
            tokens_at: Timestamp::now(),
            traced_at: Timestamp::ZERO,
            refused_at: Timestamp::ZERO,
            deaf_until: Timestamp::ZERO,
            said: BTreeSet::new(),
            fault_file,
        })
    }

    /// Runs until the session closes.
    pub fn run(mut self) {
        let mut ready = Vec::new();
        // Pairs with the store in `Shared::stop`.
        while !self.shared.stopping.load(Ordering::Acquire) {
            if let Some(recorder) = &self.shared.recorder {
                recorder.beat(Timestamp::now());
                if let Some(line) = recorder.shortage() {
                    self.warn_once(line);
                }
            }
            let wait_ms = self.look_after_links();
            ready.clear();
            self.poller.wait(wait_ms, |key| ready.push(key));
            for &key in &ready {
                self.handle_ready(key);
            }
            self.handle_commands();
            self.prove_dials();
            self.handle_deadlines();
            self.listen_again();
        }
        let tx: Vec<_> = locked(&self.shared.tx_links).drain().collect();
        for (_, link) in &tx {
            link.shut();
        }
        let rx: Vec<_> = locked(&self.shared.rx_links).drain().collect();
        for (_, link) in &rx {
            link.shut();
        }
        // Links hold the session and these hold links: left here, none of them would ever go.
        let commands = std::mem::take(&mut *locked(&self.shared.commands));
        drop(commands);
    }

    fn handle_ready(&mut self, key: u64) {
        match key & !(KIND - 1) {
            _ if key == WAKE => {
                let mut count = [0u8; 8];
                #[expect(unsafe_code, reason = "an eventfd is read by a plain read")]
                // SAFETY: eight writable bytes, as an eventfd wants them.
                let _ = unsafe {
                    libc::read(self.shared.wake.as_raw_fd(), count.as_mut_ptr().cast(), 8)
                };
            }
            LISTENER => self.accept(usize::try_from(key - LISTENER).unwrap_or(0)),
            OUTGOING => self.step_dial(key),
            INCOMING => self.step_handshake(key),
            LINK => {
                if let Some(watched) = self.watched.get_mut(&key) {
                    watched.armed = false;
                    watched.drive();
                }
            }
            DEVICE => self.hear_of_device(usize::try_from(key - DEVICE).unwrap_or(0)),
            _ => {}
        }
    }

    /// Takes in what a device tells, and passes it on to the links that use its ports.
    fn hear_of_device(&self, port: usize) {
        let Some(rdma) = &self.shared.rdma else {
            return;
        };
        let news = rdma.news(port);
        for Notice { weight, text } in &news.notices {
            let level = match weight {
                Weight::Bad => LogLevel::Warn,
                Weight::Good => LogLevel::Info,
                Weight::Detail => LogLevel::Trace,
            };
            self.shared.log(level, text);
        }
        if news.is_over {
            // Its descriptor would be ready for ever.
            let fds = rdma.news_fds().into_iter();
            fds.filter(|&(first, _)| first == port)
                .for_each(|(_, fd)| self.poller.remove(fd));
        }
        if news.events.is_empty() {
            return;
        }
        let tx: Vec<_> = locked(&self.shared.tx_links).values().cloned().collect();
        let rx: Vec<_> = locked(&self.shared.rx_links).values().cloned().collect();
        for (port, event) in news.events {
            for link in &tx {
                link.port_event(port, event);
            }
            for link in &rx {
                link.port_event(port, event);
            }
        }
    }

    /// Says it, unless it has been said.
    fn warn_once(&mut self, line: String) {
        if !self.said.contains(&line) {
            self.shared.log(LogLevel::Warn, &line);
            self.said.insert(line);
        }
    }

    // ---- links ----

    /// Drives links that need it and that nobody else drives, and returns how long to sleep.
    fn look_after_links(&mut self) -> i32 {
        let now = Timestamp::now();
        self.find_new_links();
        let linger = self.shared.config.linger;
        let mut wake_at = now + Nanos::from_secs(1);
        let mut over = Vec::new();
        #[expect(
            clippy::iter_over_hash_type,
            reason = "links are independent of each other"
        )]
        for (&key, watched) in &mut self.watched {
            let by_app = watched.driven_at() != watched.drove_at
                && now.since(watched.driven_at()) < DRIVEN_LATELY;
            if by_app {
                watched.due_at = None;
                wake_at = wake_at.min(now + TICK);
                continue;
            }
            // What came last would not be seen while nobody drives.
            watched.link.publish(now);
            let due = watched.link.due(now);
            watched.due_at = due.map(|due| watched.due_at.map_or(due, |before| before.min(due)));
            if watched.due_at.is_some_and(|due| due <= now + BUSY) {
                watched.due_at = None;
                watched.drive();
                wake_at = wake_at.min(now + TICK);
            }
            wake_at = watched.due_at.map_or(wake_at, |due| due.min(wake_at));
            if !watched.armed {
                watched.armed =
                    watched.link.arm() && self.poller.rearm(watched.poll_fd(), key).is_ok();
                if !watched.armed {
                    wake_at = wake_at.min(now + TICK);
                }
            }
            if watched.is_over(now, linger) {
                over.push(key);
            } else if watched.idle_since.is_some() {
                wake_at = wake_at.min(now + linger);
            }
        }
        for key in over {
            self.retire(key);
        }
        self.trace(now, &mut wake_at);
        // Whoever came while we looked into a link has gone on, and counts on us.
        #[expect(
            clippy::iter_over_hash_type,
            reason = "links are independent of each other"
        )]
        for watched in self.watched.values_mut() {
            if watched.link.turns().is_dirty() {
                watched.drive();
                wake_at = wake_at.min(now + TICK);
            }
        }
        self.read_faults(now, &mut wake_at);
        if !self.outgoing.is_empty()
            || !self.incoming.is_empty()
            || !self.checks.is_empty()
            || !self.deaf.is_empty()
        {
            wake_at = wake_at.min(now + Nanos::from_millis(10));
        }
        let proving = |dial: &Dial| dial.state == DialState::Proving;
        if self.outgoing.values().any(proving) {
            wake_at = wake_at.min(now + Nanos::from_millis(1));
        }
        i32::try_from(wake_at.since(now).0.div_ceil(1_000_000)).unwrap_or(1000)
    }

    fn find_new_links(&mut self) {
        if !self.shared.links_added.take() {
            return;
        }
        let tx: Vec<LinkRef> = locked(&self.shared.tx_links)
            .values()
            .cloned()
            .map(LinkRef::Tx)
            .collect();
        let rx: Vec<LinkRef> = locked(&self.shared.rx_links)
            .values()
            .cloned()
            .map(LinkRef::Rx)
            .collect();
        for link in tx.into_iter().chain(rx) {
            let poll_fd = link.turns().poll_fd();
            if self.watched.values().any(|w| w.poll_fd() == poll_fd) {
                continue;
            }
            let key = LINK + self.next_key;
            self.next_key += 1;
            // It is armed where it is looked after, which comes next.
            let _ = self.poller.add_once(poll_fd, key);
            let watched = Watched {
                link,
                armed: false,
                drove_at: Timestamp::ZERO,
                due_at: None,
                idle_since: None,
            };
            self.watched.insert(key, watched);
        }
    }

    fn retire(&mut self, key: u64) {
        let Some(watched) = self.watched.remove(&key) else {
            return;
        };
        self.poller.remove(watched.poll_fd());
        match &watched.link {
            LinkRef::Tx(link) => {
                let mut links = locked(&self.shared.tx_links);
                // A connection may have been opened on it a moment ago.
                let over = link.try_inner().filter(|inner| inner.conn_count() == 0);
                if let Some(mut inner) = over {
                    links.retain(|_, l| !Arc::ptr_eq(l, link));
                    inner.goodbye();
                } else {
                    self.shared.links_added.raise();
                }
            }
            LinkRef::Rx(link) => {
                locked(&self.shared.rx_links).remove(&link.id);
            }
        }
    }

    fn read_faults(&mut self, now: Timestamp, wake_at: &mut Timestamp) {
        let Some(file) = &mut self.fault_file else {
            return;
        };
        for warning in file.reread(now) {
            self.shared.log(LogLevel::Warn, &warning);
        }
        *wake_at = (*wake_at).min(file.due());
    }

    fn faults(&self) -> Option<&Arc<Faults>> {
        self.fault_file.as_ref().map(|file| &file.faults)
    }

    fn is_cut(&self, path: u8) -> bool {
        self.faults().is_some_and(|faults| faults.is_cut(path))
    }

    fn trace(&mut self, now: Timestamp, wake_at: &mut Timestamp) {
        let interval = self.shared.config.trace_interval;
        if self.shared.trace.is_none() {
            return;
        }
        *wake_at = (*wake_at).min(self.traced_at + interval);
        if now.since(self.traced_at) < interval {
            return;
        }
        self.traced_at = now;
        *wake_at = (*wake_at).min(now + interval);
        let mut lines = String::new();
        #[expect(clippy::iter_over_hash_type, reason = "each line names its link")]
        for watched in self.watched.values() {
            let LinkRef::Tx(link) = &watched.link else {
                continue;
            };
            let Some(inner) = link.try_inner() else {
                continue;
            };
            for (path, info) in inner.engine.path_infos().enumerate() {
                let Some((local, _)) = inner.addrs(path) else {
                    continue;
                };
                let state = if info.suspect {
                    "suspect"
                } else {
                    PATH_STATES[info.state as usize]
                };
                let marked = info
                    .marks
                    .map_or_else(|| "null".to_owned(), |marks| marks.marked.to_string());
                let _ = writeln!(
                    lines,
                    "{{\"t_ms\":{:.3},\"pid\":{},\"link\":\"{}\",\"role\":\"tx\",\"path\":{path},\"port\":{},\"state\":\"{state}\",\"bytes\":{},\"outstanding\":{},\"rtt_us\":{},\"rtt_min_us\":{},\"rate_mbps\":{},\"marked\":{marked},\"window\":{}}}",
                    now_ms(),
                    std::process::id(),
                    link.name,
                    local.port(),
                    info.bytes,
                    info.outstanding,
                    info.rtt.0 / 1000,
                    info.rtt_min.0 / 1000,
                    info.rate * 8 / 1_000_000,
                    inner.engine.window().0,
                );
            }
        }
        self.shared.trace_line(&lines);
    }

    // ---- commands ----

    fn handle_commands(&mut self) {
        let commands = std::mem::take(&mut *locked(&self.shared.commands));
        for command in commands {
            match command {
                Command::Dial(link, request) => self.dial(link, request),
                Command::CheckPeer(link) => self.check_peer(link),
                Command::Prepared(key, end) | Command::Connected(key, end) => {
                    self.go_on_with_dial(key, end);
                }
                Command::Accepted(accepted) => self.accepted(*accepted),
            }
        }
    }

    fn handle_deadlines(&mut self) {
        let now = Timestamp::now();
        let late: Vec<u64> = self
            .outgoing
            .iter()
            .filter(|(_, d)| now >= d.deadline)
            .map(|(&k, _)| k)
            .collect();
        for key in late {
            let dial = self.outgoing.get(&key);
            let advice = dial.and_then(|d| d.rdma.as_ref()?.advice());
            let what = match dial.map(|d| d.state) {
                Some(DialState::Connecting) => "no answer",
                Some(DialState::Proving) => "nothing gets through over RDMA",
                _ => "connected, but no greeting came",
            };
            self.dial_failed(key, advice.as_deref().unwrap_or(what), None);
            if let Some(line) = advice {
                self.warn_once(line);
            }
        }
        let late: Vec<u64> = self
            .incoming
            .iter()
            .filter(|(_, h)| now >= h.deadline)
            .map(|(&k, _)| k)
            .collect();
        for key in late {
            if let Some(handshake) = self.incoming.remove(&key) {
                self.poller.remove(handshake.socket.as_raw_fd());
                self.refused(handshake.remote, "sent no greeting in time");
            }
        }
        self.checks
            .retain_mut(|(socket, link, deadline)| match socket.take_error() {
                Ok(Some(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    link.fail(format!(
                        "{} refuses connections: the peer process is gone",
                        link.peer
                    ));
                    false
                }
                Ok(None) => now < *deadline && socket.peer_addr().is_err(),
                _ => false,
            });
    }

    // ---- dialling ----

    fn dial(&mut self, link: Arc<TxLink>, request: DialRequest) {
        let TxAction::Dial {
            path,
            epoch,
            fence,
            deadline,
            ..
        } = request.action
        else {
            return;
        };
        let turn = self.shared.dials.fetch_add(1, Ordering::Relaxed) as usize;
        let over_tcp = link.rdma.is_none();
        let route = if let Some(remote) = request.remote.filter(|_| over_tcp) {
            (request.local.map(|l| l.ip()), remote)
        } else {
            let turn = if epoch == 1 { usize::from(path) } else { turn };
            let (local, remote) = link.routes[turn % link.routes.len()];
            (Some(local), remote)
        };
        let local_port = request
            .local
            .filter(|_| over_tcp)
            .map_or(0, |local| local.port());
        let key = OUTGOING + self.next_key;
        self.next_key += 1;
        let mut dial = Dial {
            link,
            path,
            epoch,
            fence,
            local: (route.0, local_port),
            remote: route.1,
            socket: None,
            state: DialState::Preparing,
            buffer: Vec::new(),
            nonce: [0; 16],
            challenge: [0; 16],
            deadline: Timestamp::now() + deadline,
            rdma: None,
        };
        if self.is_cut(path) {
            // As into a black hole: nothing comes back until the deadline.
            self.outgoing.insert(key, dial);
            return;
        }
        let Some(link) = &dial.link.rdma else {
            self.outgoing.insert(key, dial);
            return self.connect_dial(key);
        };
        let rdma = RdmaDial::new(link, path, &request);
        let begun = rdma.prepare(&self.shared, link, key);
        dial.rdma = Some(rdma);
        self.outgoing.insert(key, dial);
        if let Err(error) = begun {
            self.dial_failed(key, &error, None);
        }
    }

    /// What was done aside for a dial is over.
    fn go_on_with_dial(&mut self, key: u64, end: Result<Unconnected, String>) {
        let Some(Dial {
            rdma: Some(rdma),
            state,
            ..
        }) = self.outgoing.get_mut(&key)
        else {
            return; // given up meanwhile
        };
        match end {
            Ok(end) => {
                rdma.give_back(end);
                if *state == DialState::Preparing {
                    self.connect_dial(key);
                }
            }
            Err(error) => self.dial_failed(key, &error, None),
        }
    }

    /// Begins to connect to the peer's listener.
    fn connect_dial(&mut self, key: u64) {
        let Some(dial) = self.outgoing.get_mut(&key) else {
            return;
        };
        dial.state = DialState::Connecting;
        let (local, local_port) = dial.local;
        let outcome = connect(local, local_port, dial.remote).and_then(|socket| {
            self.poller
                .add_writable(socket.as_raw_fd(), key)
                .map(|()| socket)
        });
        match outcome {
            Ok(socket) => dial.socket = Some(socket),
            Err(error) => {
                self.dial_failed(key, &error.to_string(), is_gone(&error));
            }
        }
    }

    /// `over`: what that says of the peer, if no other dial can succeed either.
    fn dial_failed(&mut self, key: u64, what: &str, over: Option<&'static str>) {
        let Some(dial) = self.outgoing.remove(&key) else {
            return;
        };
        if let Some(socket) = &dial.socket {
            self.poller.remove(socket.as_raw_fd());
        }
        let reason = format!("connecting to {}: {what}", dial.remote);
        dial.link.mail(TxMail::DialFailed {
            path: dial.path,
            epoch: dial.epoch,
            reason,
            over,
        });
    }

    fn step_dial(&mut self, key: u64) {
        let Some(dial) = self.outgoing.get_mut(&key) else {
            return;
        };
        let Some(socket) = dial.socket.as_mut() else {
            return;
        };
        if dial.state == DialState::Connecting {
            match socket.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => {
                    self.dial_failed(key, &error.to_string(), is_gone(&error));
                    return;
                }
            }
            let _ = socket.set_nodelay(true);
            let _ = self.poller.change_to_readable(socket.as_raw_fd(), key);
            dial.state = DialState::Challenged;
            return;
        }
        let want = match dial.state {
            DialState::Welcomed => WELCOME_BYTES,
            DialState::Proving => 1,
            DialState::Preparing | DialState::Connecting | DialState::Challenged => CHALLENGE_BYTES,
        };
        match collect(socket, &mut dial.buffer, want) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let what = format!("the greeting broke off ({error})");
                self.dial_failed(key, &what, None);
                return;
            }
        }
        let buffer = std::mem::take(&mut dial.buffer);
        match dial.state {
            DialState::Preparing | DialState::Connecting => {}
            DialState::Challenged => {
                let read = buffer
                    .first_chunk()
                    .ok_or("short")
                    .and_then(handshake::read_challenge);
                let (challenge, nonce) = match (read, auth::nonce()) {
                    (Ok(challenge), Ok(nonce)) => (challenge, nonce),
                    (Err(what), _) => return self.dial_failed(key, what, None),
                    (_, Err(error)) => return self.dial_failed(key, &error.to_string(), None),
                };
                dial.challenge = challenge;
                dial.nonce = nonce;
                let hello = Hello {
                    nonce,
                    link: dial.link.id,
                    path: dial.path,
                    paths: dial.link.paths,
                    epoch: dial.epoch,
                    fence: dial.fence,
                    is_known: dial.link.was_up(),
                    port: listening_port(&self.shared.addrs, socket),
                    rdma: dial
                        .rdma
                        .as_ref()
                        .zip(dial.link.rdma.as_ref())
                        .and_then(|(dial, link)| dial.hello(link)),
                };
                let bytes = hello.encode(&dial.link.key, &challenge);
                dial.state = DialState::Welcomed;
                if let Err(error) = socket.write_all(&bytes) {
                    self.dial_failed(key, &error.to_string(), None);
                }
            }
            DialState::Welcomed => {
                let read = buffer
                    .first_chunk()
                    .ok_or(NoWelcome::Other("short"))
                    .and_then(|b| Welcome::decode(b, &dial.link.key, &dial.nonce, &dial.challenge));
                match read {
                    Ok(welcome) => self.welcomed(key, welcome),
                    Err(why) => {
                        let is_over = why == NoWelcome::Refused(Refusal::NoLink);
                        let over = is_over
                            .then_some("whether what was under way has arrived is not known");
                        self.dial_failed(key, why.advice(), over);
                    }
                }
            }
            // Nobody writes there; that it closes is seen below.
            DialState::Proving => self.dial_failed(key, "the peer gave up", None),
        }
    }

    /// Looks whether what was asked has got through.
    fn prove_dials(&mut self) {
        let mut ended = Vec::new();
        #[expect(
            clippy::iter_over_hash_type,
            reason = "dials are independent of each other"
        )]
        for (&key, dial) in &mut self.outgoing {
            if let (DialState::Proving, Some(rdma)) = (dial.state, &mut dial.rdma) {
                match rdma.is_proven() {
                    Ok(false) => {}
                    Ok(true) => ended.push((key, None)),
                    Err(error) => ended.push((key, Some(error))),
                }
            }
        }
        for (key, error) in ended {
            match error {
                None => self.proved(key),
                Some(error) => self.dial_failed(key, &error, None),
            }
        }
    }

    fn proved(&mut self, key: u64) {
        let Some(mut dial) = self.outgoing.remove(&key) else {
            return;
        };
        let (Some(rdma), Some(socket)) = (dial.rdma.take(), dial.socket.take()) else {
            return;
        };
        self.poller.remove(socket.as_raw_fd());
        let Some((channel, welcome, addrs)) = rdma.finish(socket) else {
            return;
        };
        dial.link.mail(TxMail::PathUp {
            path: dial.path,
            epoch: dial.epoch,
            previous: dial.previous(welcome.fenced_count),
            eager_bytes: welcome.eager_bytes,
            addrs,
            channel: Box::new(channel),
        });
    }

    fn welcomed(&mut self, key: u64, welcome: Welcome) {
        let Some(Dial {
            rdma: Some(rdma),
            state,
            ..
        }) = self.outgoing.get_mut(&key)
        else {
            return self.dialled(key, welcome);
        };
        *state = DialState::Proving;
        let mismatch = rdma.mismatch(&welcome);
        if let Err(error) = rdma.connect(&self.shared, welcome, key) {
            self.dial_failed(key, &error, None);
        }
        if let Some(line) = mismatch {
            self.warn_once(line);
        }
    }

    fn dialled(&mut self, key: u64, welcome: Welcome) {
        let Some(mut dial) = self.outgoing.remove(&key) else {
            return;
        };
        let Some(socket) = dial.socket.take() else {
            return;
        };
        self.poller.remove(socket.as_raw_fd());
        let previous = dial.previous(welcome.fenced_count);
        let Dial {
            link,
            path,
            epoch,
            remote,
            ..
        } = dial;
        if self.is_cut(path) {
            let reason = format!("connecting to {remote}: the path is cut by THALWEG_FAULT_FILE");
            link.mail(TxMail::DialFailed {
                path,
                epoch,
                reason,
                over: None,
            });
            return;
        }
        let local = socket.local_addr().unwrap_or(remote);
        match TcpChannel::new(socket, false) {
            Ok(channel) => link.mail(TxMail::PathUp {
                path,
                epoch,
                previous,
                eager_bytes: welcome.eager_bytes,
                addrs: (local, remote),
                channel: Box::new(AnyChannel::over_tcp(channel, path, self.faults())),
            }),
            Err(error) => {
                let reason = format!("connecting to {remote}: {error}");
                link.mail(TxMail::DialFailed {
                    path,
                    epoch,
                    reason,
                    over: None,
                });
            }
        }
    }

    fn check_peer(&mut self, link: Arc<RxLink>) {
        if self.checks.len() < 64 && !self.checks.iter().any(|(_, l, _)| Arc::ptr_eq(l, &link)) {
            match connect(None, 0, link.peer) {
                Ok(socket) => {
                    let deadline = Timestamp::now() + Nanos::from_secs(1);
                    self.checks.push((socket, link, deadline));
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    link.fail(format!(
                        "{} refuses connections: the peer process is gone",
                        link.peer
                    ));
                }
                Err(_) => {}
            }
        }
    }

    // ---- listening ----

    /// Watches the listeners again that were left alone for want of room: to be told of a full
    /// backlog over and over would keep a core busy for as long as a flood lasts.
    fn listen_again(&mut self) {
        let now = Timestamp::now();
        self.earn_tokens(now);
        let is_full = self.handshake_tokens == 0 || self.incoming.len() >= HANDSHAKES_MAX;
        if is_full || now < self.deaf_until {
            return;
        }
        let Self {
            deaf,
            poller,
            listeners,
            ..
        } = self;
        deaf.retain(|&index| {
            poller
                .rearm(listeners[index].as_raw_fd(), LISTENER + index as u64)
                .is_err()
        });
    }

    fn earn_tokens(&mut self, now: Timestamp) {
        let earned = now.since(self.tokens_at).0.saturating_mul(HANDSHAKES_PER_S) / 1_000_000_000;
        if earned > 0 {
            self.tokens_at = now;
            self.handshake_tokens = (self.handshake_tokens + earned).min(HANDSHAKES_PER_S);
        }
    }

    fn accept(&mut self, index: usize) {
        let now = Timestamp::now();
        self.earn_tokens(now);
        self.deaf.push(index); // until `listen_again`, at the end of this round
        while self.handshake_tokens > 0 && self.incoming.len() < HANDSHAKES_MAX {
            let (socket, remote) = match self.listeners[index].accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    self.warn_seldom(format_args!(
                        "accepting a connection: {e}; raise the limit of open files (ulimit -n)"
                    ));
                    self.deaf_until = now + DEAF;
                    return;
                }
            };
            self.handshake_tokens -= 1;
            let Ok(challenge) = auth::nonce() else {
                continue;
            };
            let key = INCOMING + self.next_key;
            self.next_key += 1;
            let mut socket = socket;
            let begun = socket.set_nonblocking(true).is_ok()
                && socket.set_nodelay(true).is_ok()
                && socket.write_all(&handshake::challenge(&challenge)).is_ok()
                && self.poller.add(socket.as_raw_fd(), key).is_ok();
            if begun {
                let deadline = now + HANDSHAKE_DEADLINE;
                let buffer = Vec::with_capacity(HELLO_BYTES);
                let handshake = Handshake {
                    socket,
                    remote,
                    challenge,
                    buffer,
                    deadline,
                };
                self.incoming.insert(key, handshake);
            }
        }
    }

    fn step_handshake(&mut self, key: u64) {
        let Some(handshake) = self.incoming.get_mut(&key) else {
            return;
        };
        match collect(&mut handshake.socket, &mut handshake.buffer, HELLO_BYTES) {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => {
                // A port scan, or a check whether we are alive: not worth a line.
                if let Some(handshake) = self.incoming.remove(&key) {
                    self.poller.remove(handshake.socket.as_raw_fd());
                }
                return;
            }
        }
        let Some(mut handshake) = self.incoming.remove(&key) else {
            return;
        };
        self.poller.remove(handshake.socket.as_raw_fd());
        let Some(bytes) = handshake.buffer.first_chunk() else {
            return;
        };
        match Hello::decode(bytes, &self.shared.key, &handshake.challenge) {
            Ok(hello) => self.admit(handshake, &hello),
            Err(None) => self.refused(handshake.remote, "does not speak the protocol"),
            Err(Some(refusal)) => {
                let _ = handshake.socket.write_all(&handshake::refuse(refusal));
                let what = match refusal {
                    // Never the answer to a hello's form.
                    Refusal::NoRdma | Refusal::NoLink => "wants what there is not",
                    Refusal::Version => {
                        "speaks another version of the protocol: install the same release on all hosts"
                    }
                    Refusal::Proof => {
                        "has another token or secret: is it of another job, or THALWEG_SECRET not the same on all hosts?"
                    }
                };
                self.refused(handshake.remote, what);
            }
        }
    }

    fn refused(&mut self, remote: SocketAddr, what: &str) {
        self.warn_seldom(format_args!(
            "refused a connection from {remote}: it {what}"
        ));
    }

    /// One line a second at most, of whoever dials: strangers do not get to fill the log, and peers try again and again.
    fn warn_seldom(&mut self, line: impl Display) {
        let now = Timestamp::now();
        if now.since(self.refused_at) >= Nanos::from_secs(1) {
            self.refused_at = now;
            self.shared.log(LogLevel::Warn, &line.to_string());
        }
    }

    fn admit(&mut self, handshake: Handshake, hello: &Hello) {
        let Handshake {
            socket,
            remote,
            challenge,
            ..
        } = handshake;
        if self.is_cut(hello.path) {
            return;
        }
        if hello.is_known && !locked(&self.shared.rx_links).contains_key(&hello.link) {
            let mut socket = socket;
            let _ = socket.write_all(&handshake::refuse(Refusal::NoLink));
            let what = "its link was given up here";
            return self.not_accepted(remote, what);
        }
        let accepted = |socket, made| Accepted {
            hello: *hello,
            socket,
            remote,
            challenge,
            made,
        };
        let Some(rdma) = hello.rdma else {
            let channel = socket
                .try_clone()
                .and_then(|socket| TcpChannel::new(socket, true));
            let made = channel
                .map(|channel| AnyChannel::over_tcp(channel, hello.path, self.faults()))
                .map_err(|error| error.to_string());
            return self.accepted(accepted(socket, made.map(|channel| (channel, None))));
        };
        let begun = match self.shared.port_of(&rdma) {
            Ok(port) => {
                let waiting = accepted(socket, Err("it was given up".into()));
                self.shared.accept_aside(port, rdma, waiting)
            }
            Err(error) => {
                let mut socket = socket;
                let _ = socket.write_all(&handshake::refuse(Refusal::NoRdma));
                Err(error)
            }
        };
        if let Err(error) = begun {
            self.not_accepted(remote, &error);
        }
    }

    fn not_accepted(&mut self, remote: SocketAddr, error: &str) {
        self.warn_seldom(format_args!(
            "a path from {remote} cannot be accepted: {error}"
        ));
    }

    /// A channel that a peer has dialled is there: it becomes a path of its link.
    fn accepted(&mut self, accepted: Accepted) {
        let Accepted {
            hello,
            mut socket,
            remote,
            challenge,
            made,
        } = accepted;
        let link = || {
            let existing = locked(&self.shared.rx_links).get(&hello.link).cloned();
            let new = || self.new_receiving_link(remote, &hello);
            let link = existing.map_or_else(new, Ok);
            link.map_err(|error| error.to_string())
        };
        match made.and_then(|made| Ok((made, link()?))) {
            Ok(((channel, end), link)) => link.mail(NewChannel {
                path: hello.path,
                epoch: hello.epoch,
                addrs: (socket.local_addr().unwrap_or(remote), remote),
                place: hello.rdma.map_or(0, |rdma| rdma.place),
                fence: hello.fence,
                channel,
                socket,
                end,
                nonces: (hello.nonce, challenge),
            }),
            Err(error) => {
                if hello.rdma.is_some() {
                    let _ = socket.write_all(&handshake::refuse(Refusal::NoRdma));
                }
                self.not_accepted(remote, &error);
            }
        }
    }

    fn new_receiving_link(&self, remote: SocketAddr, hello: &Hello) -> io::Result<Arc<RxLink>> {
        let config = &self.shared.config;
        let engine = match &hello.rdma {
            Some(rdma) => super::rdma_engine_config(config, hello.paths, rdma.chunk_bytes),
            None => EngineConfig {
                paths_max: hello.paths,
                eager_bytes: config.eager_bytes,
                dead_peer: config.dead_peer,
                ..EngineConfig::default()
            },
        };
        let rdma = match &hello.rdma {
            Some(rdma) => Some(
                self.shared
                    .ports_at(rdma.device.into())
                    .map_err(io::Error::other)?,
            ),
            None => None,
        };
        let params = RxParams {
            id: hello.link,
            peer: SocketAddr::new(remote.ip(), hello.port),
            paths: hello.paths,
            rdma,
            dead_peer: config.dead_peer,
        };
        let host = self
            .shared
            .me
            .upgrade()
            .ok_or(io::ErrorKind::NotConnected)?;
        let now = Timestamp::now();
        let mut engine = RxEngine::new(engine, now);
        let recorder = self.shared.recorder.as_ref();
        // Over TCP all devices are one.
        let device = hello.rdma.map_or(0, |rdma| rdma.device.into());
        let device = self.shared.device_name(device);
        let peer = params.peer.to_string();
        if let Some(link) =
            recorder.and_then(|recorder| recorder.link(telemetry::Role::Receiver, &peer, &device))
        {
            engine.record(link, now);
        }
        let link = RxLink::new(engine, &params, host)?;
        locked(&self.shared.rx_links).insert(hello.link, Arc::clone(&link));
        self.shared.links_added.raise();
        Ok(link)
    }
}

/// What a failed connection says of the peer.
fn is_gone(error: &io::Error) -> Option<&'static str> {
    let refused = error.kind() == io::ErrorKind::ConnectionRefused;
    refused.then_some("the peer process is gone")
}

impl Watched {
    fn poll_fd(&self) -> i32 {
        self.link.turns().poll_fd()
    }

    fn driven_at(&self) -> Timestamp {
        self.link.turns().driven_at()
    }

    fn drive(&mut self) {
        self.link.drive(Step::Sweep);
        self.drove_at = self.driven_at();
    }

    fn is_over(&mut self, now: Timestamp, linger: Nanos) -> bool {
        let idle = match &self.link {
            LinkRef::Tx(link) => link.try_inner().is_some_and(|i| i.conn_count() == 0),
            LinkRef::Rx(link) => return link.try_inner().is_some_and(|i| i.is_over(now)),
        };
        if !idle {
            self.idle_since = None;
            return false;
        }
        now.since(*self.idle_since.get_or_insert(now)) >= linger
    }
}

/// Path slots of a link: one over loopback, where there is only one way.
#[must_use]
pub fn paths_for(config: &Config, remote: IpAddr) -> u8 {
    match config.paths {
        crate::config::PathCount::Fixed(paths) => paths,
        crate::config::PathCount::Auto if remote.is_loopback() => 1,
        crate::config::PathCount::Auto => 8,
    }
}

/// One of the link's own RDMA ports, for people.
fn port_name(link: &TxLink, place: u8) -> String {
    let name = link.rdma.as_ref().and_then(|rdma| {
        let port = rdma.ports.ports.get(usize::from(place))?;
        Some(rdma.ports.adapters.ports().get(*port)?.name())
    });
    name.unwrap_or_else(|| format!("port {place}"))
}

/// The port on which we listen at the address that this socket uses.
fn listening_port(addrs: &[SocketAddr], socket: &TcpStream) -> u16 {
    let local = socket.local_addr().map(|a| a.ip()).ok();
    addrs
        .iter()
        .find(|a| Some(a.ip()) == local)
        .or(addrs.first())
        .map_or(0, SocketAddr::port)
}

/// Reads until `want` bytes are there.
fn collect(socket: &mut TcpStream, buffer: &mut Vec<u8>, want: usize) -> io::Result<bool> {
    let mut bytes = [0u8; HELLO_BYTES];
    while buffer.len() < want {
        match socket.read(&mut bytes[..want - buffer.len()]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer.extend_from_slice(&bytes[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Begins to connect, without waiting.
fn connect(local: Option<IpAddr>, port: u16, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(local) = local {
        if port != 0 {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SocketAddr::new(local, port).into())?;
    }
    match socket.connect(&remote.into()) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(e) => return Err(e),
    }
    Ok(socket.into())
}
