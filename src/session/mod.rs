//! The core's public face: sessions, listeners, connections, requests.
//!
//! A connection carries messages one way. All connections between two processes over one pair
//! of devices share a link and its paths.

#![allow(
    unsafe_code,
    reason = "buffers belong to callers that speak C; each call states what it needs of them"
)]

mod devices;
mod handle;
mod handshake;
mod rdma;
mod service;

/// What the fuzz targets, and tests that dial by hand, need of the handshake and of handles; no part of
/// the library's face.
#[doc(hidden)]
pub mod fuzzing {
    pub use super::handle::Handle;
    pub use super::handshake::{
        HELLO_BYTES, Hello, NoWelcome, Refusal, WELCOME_BYTES, Welcome, challenge, read_challenge,
    };
}

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use self::handle::Handle;
use self::service::{Pending, Service, Shared, locked};
use crate::auth::{self, Key, Token};
use crate::clock::Timestamp;
use crate::config::{
    Config, ControllerKind, PathCount, PortRange, Secret, SelectorKind, TransportKind,
};
use crate::control::{
    AnyController, Delay, DelayConfig, Fixed, Nscc, NsccConfig, Power, PowerConfig,
    RDMA_ROUND_TRIP, Timely, TimelyConfig,
};
use crate::driver::conn::{Conn, LinkRef, Slot};
use crate::driver::tx_link::{TxHost, TxParams, TxRdma};
use crate::driver::{Link, RxLink, Step, TxLink};
use crate::engine::wire::{KEYS_MAX, Keys};
use crate::engine::{Completions, EngineConfig, MemRange, TxEngine};
use crate::error::{Error, ErrorKind};
use crate::path::select::{
    Adaptive, AnySelector, LeastOutstanding, PowerOfTwo, RoundRobin, StaticHash, Weighted,
};
use crate::telemetry;
use crate::transport::verbs::adapters::{self, Adapters};
use crate::transport::verbs::device::{Choice, Port};
pub use crate::transport::verbs::{DmaBuf, GpuAccess, MemoryKeys, MemoryKind};
use crate::transport::verbs::{
    EAGER_BYTES_MAX as RDMA_EAGER_BYTES_MAX, LinkPorts, Marking, RECEIVES_DATA,
};
use crate::units::{Bytes, Rate};

/// Bytes of the handle that a listener gives to its peer by a channel of the application's own.
pub const HANDLE_BYTES: usize = 128;
/// Receives that one grouped receive may hold.
pub const MAX_RECVS: usize = 8;
/// Outstanding receive requests of a connection; a sender may have [`MAX_RECVS`] times as many.
pub const MAX_REQUESTS: usize = 32;
/// Ports that one device may consist of.
pub const DEVICE_MEMBERS_MAX: usize = KEYS_MAX;

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something went wrong, or a user should act.
    Warn,
    /// One line a user wants to see at start, or when the state of a link changes.
    Info,
    /// For those who debug the library.
    Trace,
}

/// Where log lines go. Called from any thread, never from the data path of a healthy link.
pub type LogSink = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

/// A network device as NCCL sees it.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// Unique name, e.g. `eth0`.
    pub name: String,
    /// Real path of the device under `/sys`, where it has one.
    pub pci_path: Option<String>,
    /// Same for all ports of one adapter.
    pub guid: u64,
    /// Speed in Mb/s.
    pub speed_mbps: u32,
    /// Port number, 1 for a network interface.
    pub port: u32,
    /// The devices that it consists of: itself, unless [`Session::make_virtual_device`] has made it.
    pub members: Vec<usize>,
    /// How it gets to the memory of a GPU.
    pub gpu: GpuAccess,
}

/// An open session: the control thread, the ports it listens on, and the links of this process.
/// Clones share it; it closes with the last of them.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    addrs: Vec<IpAddr>,
    rdma: Option<Arc<Adapters>>,
    /// What the devices are, in words.
    about: String,
    token: Token,
    process: [u8; 16],
    next_listener: AtomicU64,
    next_attempt: AtomicU64,
    attempts: Mutex<HashMap<u64, Attempt>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Attempt {
    connection: SendConnection,
    link: Arc<TxLink>,
    since: Timestamp,
}

/// A place where one peer after another can connect to.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    number: u64,
}

/// The sending end of a connection. Dropping it closes it, with whatever is outstanding.
#[derive(Debug)]
pub struct SendConnection(Arc<Conn>);

/// The receiving end of a connection. Dropping it closes it, with whatever is outstanding.
#[derive(Debug)]
pub struct RecvConnection(Arc<Conn>);

/// One buffer of a receive.
#[derive(Debug, Clone, Copy)]
pub struct RecvBuffer {
    /// First byte.
    pub data: *mut u8,
    /// Capacity in bytes.
    pub len: usize,
    /// Which of the sender's messages goes here.
    pub tag: i32,
    /// Of its registration; over TCP none are needed.
    pub keys: MemoryKeys,
}

/// What a finished request moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Bytes of each message of the request; only the first `count` are meaningful.
    pub sizes: [usize; MAX_RECVS],
    /// Messages in the request: 1, or the size of the grouped receive.
    pub count: usize,
}

/// An outstanding request. Valid until [`Request::test`] says it is finished or failed, or its
/// connection is dropped, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request(NonNull<Slot>);

impl Session {
    /// Opens a session with the settings of the environment. Fails only where a setting is
    /// wrong or the system refuses a thread or a socket; a host without a usable interface gives
    /// a session without devices.
    ///
    /// # Errors
    /// `InvalidUsage` for a wrong setting, `System` otherwise.
    pub fn open(log: LogSink) -> Result<Self, Error> {
        let config =
            Config::from_env().map_err(|e| Error::new(ErrorKind::InvalidUsage, e.to_string()))?;
        Self::open_with(config, log)
    }

    /// Opens a session with given settings.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_with(config: Config, log: LogSink) -> Result<Self, Error> {
        let system =
            |what: &str, e: std::io::Error| Error::new(ErrorKind::System, format!("{what}: {e}"));
        let interfaces = devices::interfaces(&config);
        if interfaces.is_empty() && config.ifname.is_some() {
            log(
                LogLevel::Warn,
                "no interface that is up has a name that THALWEG_IFNAME or NCCL_SOCKET_IFNAME admits: see `ip -brief addr`",
            );
        }
        let addrs: Vec<IpAddr> = interfaces.iter().flat_map(|i| i.addrs.clone()).collect();
        let mut listeners = Vec::new();
        for &ip in &addrs {
            match listen_at(ip, config.port) {
                Ok(listener) => listeners.push(listener),
                Err(e) if config.port != PortRange::ANY => {
                    let range = config.port;
                    return Err(system(
                        &format!(
                            "THALWEG_PORT: no port from {} to {} is free on {ip}; give more ports or another range",
                            range.first, range.last
                        ),
                        e,
                    ));
                }
                Err(e) => log(
                    LogLevel::Warn,
                    &format!("cannot listen on {ip}: {e}; it is not used"),
                ),
            }
        }
        let bound: Vec<SocketAddr> = listeners
            .iter()
            .filter_map(|l| l.local_addr().ok())
            .collect();
        let token = Token::random().map_err(|e| system("random token", e))?;
        let process = auth::nonce().map_err(|e| system("random name", e))?;
        let key = Key::derive(&token, config.secret.as_ref().map(Secret::as_bytes));
        let addrs: Vec<IpAddr> = bound.iter().map(SocketAddr::ip).collect();
        let (rdma, rdma_about) = if config.transport == TransportKind::Tcp || bound.is_empty() {
            (None, "RDMA is not asked for".into())
        } else {
            let choice = Choice {
                hca: config.hca.as_ref(),
                family: config.family,
                gid_index: config.gid_index,
            };
            let marking = Marking {
                data: config.traffic_class,
                control: config.control_traffic_class.unwrap_or(config.traffic_class),
                service_level: config.service_level,
            };
            let (relaxed, stamps) = (config.relaxed_ordering, config.nic_timestamps);
            Adapters::open(&choice, marking, relaxed, stamps)
        };
        if rdma.is_none() && config.transport == TransportKind::Verbs {
            return Err(Error::new(
                ErrorKind::InvalidUsage,
                format!("THALWEG_TRANSPORT=verbs: {rdma_about}"),
            ));
        }
        let rdma = rdma.map(Arc::new);
        let (devices, about) = match &rdma {
            Some(adapters) => {
                let gpu =
                    |port| adapters.gpu_access(&adapters.companions(port, config.ports.into()));
                (devices::describe_ports(adapters.ports(), gpu), rdma_about)
            }
            None if bound.is_empty() => (Vec::new(), String::new()),
            None => {
                let device = devices::describe(&interfaces);
                let about = device.as_ref().map_or_else(String::new, |device| {
                    let at: Vec<String> = bound.iter().map(ToString::to_string).collect();
                    format!(
                        "TCP over {} ({} Mb/s) at {}; {rdma_about}",
                        device.name,
                        device.speed_mbps,
                        at.join(", ")
                    )
                });
                (device.into_iter().collect(), about)
            }
        };
        let shared = Shared::new(config, key, bound, rdma.clone(), devices, log)
            .map_err(|e| system("session", e))?;
        let service =
            Service::new(Arc::clone(&shared), listeners).map_err(|e| system("session", e))?;
        let thread = std::thread::Builder::new()
            .name("thalweg".into())
            .spawn(move || service.run())
            .map_err(|e| system("control thread", e))?;
        Ok(Self(Arc::new(Inner {
            shared,
            addrs,
            rdma,
            about,
            token,
            process,
            next_listener: AtomicU64::new(1),
            next_attempt: AtomicU64::new(1),
            attempts: Mutex::default(),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// The devices that can be used: those of the host, which stay the same for the life of the session,
    /// and behind them those that have been made of several.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceInfo> {
        self.0.shared.all_devices()
    }

    /// Makes one device of several RDMA ports, 1 to [`DEVICE_MEMBERS_MAX`]: links at it go over these ports
    /// and no others, in this order, whatever `THALWEG_PORTS` says. Returns the new device.
    ///
    /// # Errors
    /// `InvalidUsage` over TCP, where one device is all interfaces already, or where there are too many
    /// devices; `InvalidArgument` for a wrong number of members, the same one twice, or one that is no
    /// port of the host.
    pub fn make_virtual_device(&self, members: &[usize]) -> Result<usize, Error> {
        let refused = |kind, what: &str| {
            let line = format!("a virtual device of {members:?} cannot be made: {what}");
            Err(Error::new(kind, line))
        };
        if self.0.rdma.is_none() {
            return refused(
                ErrorKind::InvalidUsage,
                "over TCP one device is all interfaces already, and links spread over them",
            );
        }
        let ports = self.0.shared.devices.len();
        let invalid = ErrorKind::InvalidArgument;
        if !(1..=DEVICE_MEMBERS_MAX).contains(&members.len()) {
            let what = format!("1 to {DEVICE_MEMBERS_MAX} devices make one");
            return refused(invalid, &what);
        }
        for (at, member) in members.iter().enumerate() {
            if members[..at].contains(member) {
                return refused(invalid, &format!("{member} is there twice"));
            }
        }
        let Some(device) = devices::join(&self.0.shared.devices, members) else {
            let what = format!("the ports of this host are 0 to {}", ports - 1);
            return refused(invalid, &what);
        };
        let mut joined = locked(&self.0.shared.virtual_devices);
        let index = ports + joined.len();
        // A handle has a byte for it.
        if u8::try_from(index).is_err() {
            return refused(ErrorKind::InvalidUsage, "there are too many devices");
        }
        let line = format!(
            "device {index} is {}: links at it use these ports",
            device.name
        );
        joined.push(device);
        drop(joined);
        self.0.shared.log(LogLevel::Info, &line);
        Ok(index)
    }

    /// One line for the log at start: devices, paths, algorithms, and why.
    #[must_use]
    pub fn summary(&self) -> String {
        let config = &self.0.shared.config;
        if self.0.shared.devices.is_empty() {
            return "no usable network interface: set THALWEG_IFNAME, or bring one up".into();
        }
        let paths = match config.paths {
            PathCount::Fixed(n) => format!("{n} paths to each peer (THALWEG_PATHS)"),
            PathCount::Auto if self.0.rdma.is_some() => {
                format!(
                    "{RDMA_PATHS} paths to each peer over up to {} ports",
                    config.ports
                )
            }
            PathCount::Auto => {
                "as many paths to each peer as lead different ways, up to 8, 1 over loopback".into()
            }
        };
        format!(
            "thalweg {}: {}; {paths}; controller {}, selector {}{}",
            env!("CARGO_PKG_VERSION"),
            self.0.about,
            config.controller,
            config.selector,
            if config.secret.is_some() {
                "; peers must know the secret"
            } else {
                ""
            },
        )
    }

    /// Starts to listen on a device and returns the handle for the peer. Never blocks.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown device.
    pub fn listen(&self, device: usize) -> Result<(Listener, [u8; HANDLE_BYTES]), Error> {
        self.check_device(device)?;
        let rdma = if self.0.rdma.is_some() {
            let ports = self.ports_at(device)?.ports;
            let small = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
            Some((small(device), small(ports.len())))
        } else {
            None
        };
        let number = self.0.next_listener.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&self.0.shared);
        let mut listeners = shared
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.insert(number, Pending::default());
        drop(listeners);
        let handle = Handle {
            listener: number,
            token: self.0.token,
            process: self.0.process,
            addrs: shared.addrs.clone(),
            rdma,
        };
        Ok((Listener { shared, number }, handle.encode()))
    }

    /// Connects to a peer's listener, without blocking: call again with the same handle buffer
    /// (it holds the state of the attempt) until a connection comes back.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown device or a damaged handle, `Remote` if the peer refuses
    /// or cannot be reached in time.
    pub fn connect(
        &self,
        device: usize,
        handle: &mut [u8; HANDLE_BYTES],
    ) -> Result<Option<SendConnection>, Error> {
        let mut number = handle::attempt(handle);
        if number == 0 {
            self.check_device(device)?;
            let attempt = self.start(device, &Handle::decode(handle)?)?;
            number = self.0.next_attempt.fetch_add(1, Ordering::Relaxed);
            handle::set_attempt(handle, number);
            self.attempts().insert(number, attempt);
        }
        let Some(attempt) = self.attempts().remove(&number) else {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "this handle has been used before: each connection needs a fresh copy",
            ));
        };
        match attempt.link.opened(attempt.connection.0.id)? {
            Some(true) => Ok(Some(attempt.connection)),
            Some(false) => Err(Error::new(
                ErrorKind::Remote,
                format!(
                    "{} has closed the listener of this handle",
                    attempt.link.name
                ),
            )),
            None => {
                let waited = Timestamp::now().since(attempt.since);
                if waited >= self.0.shared.config.connect_timeout {
                    let why = attempt
                        .link
                        .last_refusal()
                        .unwrap_or_else(|| "no answer".into());
                    return Err(Error::new(
                        ErrorKind::Remote,
                        format!(
                            "no connection to {} within {} ms (THALWEG_CONNECT_TIMEOUT_MS): {why}",
                            attempt.link.name,
                            waited.as_millis()
                        ),
                    ));
                }
                self.attempts().insert(number, attempt);
                Ok(None)
            }
        }
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Attempt>> {
        self.0
            .attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Of all devices together.
    fn line_rate(&self) -> Rate {
        let speeds = self
            .0
            .shared
            .devices
            .iter()
            .map(|d| u64::from(d.speed_mbps));
        Rate::from_mbps(speeds.sum())
    }

    fn check_device(&self, device: usize) -> Result<(), Error> {
        let count = self.0.shared.devices.len() + locked(&self.0.shared.virtual_devices).len();
        if device < count {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("device {device} does not exist: there are {count}"),
        ))
    }

    /// The RDMA ports of links at a device.
    fn ports_at(&self, device: usize) -> Result<LinkPorts, Error> {
        let ports = self.0.shared.ports_at(device);
        ports.map_err(|what| Error::new(ErrorKind::Internal, what))
    }

    /// The ports and the peer's for a link over RDMA, if both ends have any.
    fn rdma_for(&self, device: usize, handle: &Handle) -> Result<Option<TxRdma>, Error> {
        let config = &self.0.shared.config;
        let (Some(_), Some((peer_device, places))) = (&self.0.rdma, handle.rdma) else {
            if config.transport == TransportKind::Verbs {
                return Err(Error::new(
                    ErrorKind::Remote,
                    "THALWEG_TRANSPORT=verbs, but the peer has no RDMA port: its first log line says why",
                ));
            }
            return Ok(None);
        };
        let ports = self.ports_at(device)?;
        let port = &ports.adapters.ports()[ports.ports[0]];
        Ok(Some(TxRdma {
            chunk_bytes: config
                .chunk_bytes
                .unwrap_or_else(|| rdma_chunk_bytes(port))
                .max(*handshake::RDMA_CHUNKS.start()),
            readings: ports.adapters.readings(),
            ports,
            device: peer_device,
            places,
        }))
    }

    fn new_link(&self, device: usize, handle: &Handle) -> Result<Arc<TxLink>, Error> {
        let system = |e: std::io::Error| Error::new(ErrorKind::System, format!("new link: {e}"));
        let shared = &self.0.shared;
        let routes = routes(&self.0.addrs, &handle.addrs);
        if routes.is_empty() {
            return Err(Error::new(
                ErrorKind::Remote,
                format!(
                    "no address of ours ({:?}) can reach one of the peer's ({:?}): check THALWEG_IFNAME and THALWEG_FAMILY on both hosts",
                    self.0.addrs, handle.addrs
                ),
            ));
        }
        let now = Timestamp::now();
        let rdma = self.rdma_for(device, handle)?;
        let config = &shared.config;
        let (engine, delay) = match &rdma {
            Some(rdma) => {
                let all = rdma.ports.adapters.ports();
                let speeds = rdma
                    .ports
                    .ports
                    .iter()
                    .map(|&p| u64::from(all[p].speed_mbps));
                let rate = Rate::from_mbps(speeds.sum());
                let chunk = Bytes(rdma.chunk_bytes.into());
                let ports = rdma.ports.ports.len().max(rdma.places.into()) as u64;
                let own_ports = u8::try_from(rdma.ports.ports.len()).unwrap_or(1);
                let mut own = rdma.ports.ports.iter().map(|&p| &all[p]);
                let spread = own.all(|port| port.spreads.is_some());
                let paths = match config.paths {
                    PathCount::Fixed(paths) => paths,
                    PathCount::Auto if spread => own_ports,
                    PathCount::Auto => RDMA_PATHS,
                };
                (
                    EngineConfig {
                        ports: own_ports,
                        // Where adapters spread packets themselves, no path is better than another.
                        rehash: config.search && !spread,
                        ..rdma_engine_config(config, paths, rdma.chunk_bytes)
                    },
                    DelayConfig::for_rdma(rate, chunk, ports),
                )
            }
            None => (
                engine_config(config, routes[0].1.ip()),
                DelayConfig::for_tcp(self.line_rate()),
            ),
        };
        let mut engine = TxEngine::new(
            engine,
            controller(config, delay, self.line_rate()),
            selector(config.selector, rdma.is_some()),
            now,
        );
        let peer = routes[0].1.to_string();
        let name = shared.device_name(device);
        let recorder = shared.recorder.as_ref();
        if let Some(link) =
            recorder.and_then(|recorder| recorder.link(telemetry::Role::Sender, &peer, &name))
        {
            engine.record(link, Timestamp::now());
        }
        let params = TxParams {
            rdma,
            id: auth::nonce().map_err(system)?,
            key: Key::derive(
                &handle.token,
                shared.config.secret.as_ref().map(Secret::as_bytes),
            ),
            name: peer,
            routes,
        };
        let host: Arc<dyn TxHost> = Arc::clone(shared) as _;
        TxLink::new(engine, params, host).map_err(system)
    }

    fn start(&self, device: usize, handle: &Handle) -> Result<Attempt, Error> {
        let shared = &self.0.shared;
        // Over TCP all devices are one.
        let devices = handle.rdma.map(|(theirs, _)| (device, theirs));
        let peer = (handle.process, *handle.token.as_bytes(), devices);
        let mut links = shared
            .tx_links
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let usable = |link: &Arc<TxLink>| {
            link.try_inner()
                .is_none_or(|inner| inner.engine.failure().is_none())
        };
        let link = if let Some(link) = links.get(&peer).filter(|link| usable(link)) {
            Arc::clone(link)
        } else {
            let link = self.new_link(device, handle)?;
            links.insert(peer, Arc::clone(&link));
            shared.links_added.raise();
            shared.wake();
            link
        };
        let conn = link
            .open(handle.listener)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the link is closing"))?;
        Ok(Attempt {
            connection: SendConnection(conn),
            link,
            since: Timestamp::now(),
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.attempts
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.shared.stop();
        if let Some(thread) = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            let _ = thread.join();
        }
    }
}

fn listen_at(ip: IpAddr, ports: PortRange) -> std::io::Result<TcpListener> {
    let mut last = Err(std::io::ErrorKind::AddrInUse.into());
    for port in ports.first..=ports.last {
        last = TcpListener::bind((ip, port));
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Pairs of addresses that may reach each other: those of like rank first, so that with the
/// same interfaces on both hosts each is paired with its counterpart.
fn routes(local: &[IpAddr], remote: &[SocketAddr]) -> Vec<(IpAddr, SocketAddr)> {
    let fits = |l: &IpAddr, r: &SocketAddr| {
        l.is_ipv4() == r.is_ipv4() && l.is_loopback() == r.ip().is_loopback()
    };
    let mut pairs = Vec::new();
    for shift in 0..remote.len() {
        for (index, &l) in local.iter().enumerate() {
            let r = remote[(index + shift) % remote.len()];
            if fits(&l, &r) && !pairs.contains(&(l, r)) {
                pairs.push((l, r));
            }
        }
    }
    pairs.truncate(16);
    pairs
}

fn engine_config(config: &Config, remote: IpAddr) -> EngineConfig {
    EngineConfig {
        paths_max: service::paths_for(config, remote),
        search: config.search,
        eager_bytes: config.eager_bytes,
        chunk_bytes: config.chunk_bytes,
        dead_peer: config.dead_peer,
        ..EngineConfig::default()
    }
}

/// Paths of a link over RDMA, unless the settings say otherwise.
const RDMA_PATHS: u8 = 8;

/// The chunk of a link at this port: about a tenth of what is in the network, so that there is
/// something to choose a path for, but as large as an adapter in software needs it to be.
fn rdma_chunk_bytes(port: &Port) -> u32 {
    const LEAST: u64 = 16 << 10;
    const MOST: u64 = 64 << 10;
    let rate = Rate::from_mbps(port.speed_mbps.into());
    let tenth = rate.bytes_in(RDMA_ROUND_TRIP).0 / 10;
    let bytes = match port.pci_path {
        Some(_) => tenth.next_power_of_two().clamp(LEAST, MOST),
        None => MOST,
    };
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Both engines of a link over RDMA.
fn rdma_engine_config(config: &Config, paths: u8, chunk_bytes: u32) -> EngineConfig {
    EngineConfig {
        paths_max: paths,
        search: false,
        reroute: true,
        eager_bytes: config.eager_bytes.min(RDMA_EAGER_BYTES_MAX),
        chunk_bytes: Some(chunk_bytes),
        completions: Completions::Local,
        receive_depth: Some(RECEIVES_DATA),
        dead_peer: config.dead_peer,
        ..EngineConfig::default()
    }
}

/// The controller of a new link over devices of this rate: all with the bounds and the target of
/// `delay`.
fn controller(config: &Config, delay: DelayConfig, line_rate: Rate) -> AnyController {
    let DelayConfig {
        target_queue,
        window_min,
        window_max,
        window_start,
        ..
    } = delay;
    match config.controller {
        ControllerKind::Delay => AnyController::Delay(Delay::new(delay)),
        ControllerKind::Power => AnyController::Power(Power::new(PowerConfig {
            window_min,
            window_max,
            window_start,
            increase: window_min / 4,
        })),
        ControllerKind::Timely => AnyController::Timely(Timely::new(TimelyConfig {
            window_min,
            window_max,
            line_rate,
            queue_low: target_queue / 2,
            queue_high: target_queue * 4,
        })),
        ControllerKind::Nscc => AnyController::Nscc(Nscc::new(NsccConfig {
            target_queue,
            bdp: line_rate.bytes_in(target_queue),
            window_min,
            window_max,
            window_start,
        })),
        ControllerKind::Fixed => AnyController::Fixed(Fixed::new(Bytes(config.window_bytes))),
    }
}

fn selector(kind: SelectorKind, is_rdma: bool) -> AnySelector {
    match kind {
        SelectorKind::Auto if is_rdma => AnySelector::Weighted(Weighted::default()),
        SelectorKind::Auto | SelectorKind::Adaptive => AnySelector::Adaptive(Adaptive),
        SelectorKind::Weighted => AnySelector::Weighted(Weighted::default()),
        SelectorKind::LeastOutstanding => {
            AnySelector::LeastOutstanding(LeastOutstanding::default())
        }
        SelectorKind::PowerOfTwo => AnySelector::PowerOfTwo(PowerOfTwo::default()),
        SelectorKind::RoundRobin => AnySelector::RoundRobin(RoundRobin::default()),
        SelectorKind::Hash => AnySelector::Hash(StaticHash),
    }
}

impl Listener {
    /// The next peer that has connected, if any. Never blocks.
    ///
    /// # Errors
    /// `System` if the session can no longer accept.
    pub fn accept(&self) -> Result<Option<RecvConnection>, Error> {
        if let Some(conn) = self.take()? {
            return Ok(Some(conn));
        }
        self.shared.drive_receivers();
        self.take()
    }

    fn take(&self) -> Result<Option<RecvConnection>, Error> {
        let mut listeners = self
            .shared
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match listeners.get_mut(&self.number) {
            Some(pending) => Ok(pending.conns.pop_front().map(RecvConnection)),
            None => Err(Error::new(ErrorKind::System, "the session is closed")),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self
            .shared
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let pending = listeners.remove(&self.number);
        drop(listeners);
        // Peers that nobody has accepted are told so.
        drop(pending.map(|p| p.conns.into_iter().map(RecvConnection).collect::<Vec<_>>()));
    }
}

impl SendConnection {
    /// Starts to send `len` bytes. `None`: too many requests are outstanding, ask again later.
    ///
    /// # Safety
    /// `data` stays valid and unchanged until the request is finished or the connection dropped.
    /// One thread at a time per connection.
    ///
    /// # Errors
    /// `InvalidArgument` for a message that is too long.
    pub unsafe fn isend(
        &self,
        data: *const u8,
        len: usize,
        tag: i32,
        keys: MemoryKeys,
    ) -> Result<Option<Request>, Error> {
        let range = MemRange {
            addr: data as u64,
            len: len as u64,
        };
        if range.len > crate::engine::wire::MESSAGE_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a message of {len} bytes is longer than 1 GiB: cut it"),
            ));
        }
        check_keys(self.0.ports(), len, &keys.local)?;
        // SAFETY: the caller's promise.
        let slot = unsafe { self.0.start(&[(tag, range, keys.local)]) };
        Ok(slot.map(|slot| Request(NonNull::from(slot))))
    }

    /// What registers memory for messages of this connection.
    #[must_use]
    pub fn registrar(&self) -> Registrar {
        Registrar {
            ports: self.0.ports().cloned(),
            receiver: None,
        }
    }
}

/// Memory that is registered for messages of a connection, until this is dropped. Where nothing has
/// to be registered it is nothing.
#[derive(Debug, Default)]
pub struct Registration(Option<adapters::Registration>);

impl Registration {
    /// What a message needs to say of its memory.
    #[must_use]
    pub fn keys(&self) -> MemoryKeys {
        self.0
            .as_ref()
            .map_or_else(MemoryKeys::default, adapters::Registration::keys)
    }
}

/// Registers memory for the messages of a connection, and outlives it.
#[derive(Debug, Clone, Default)]
pub struct Registrar {
    ports: Option<LinkPorts>,
    /// The link that receives into what is registered.
    receiver: Option<Weak<RxLink>>,
}

impl Registrar {
    /// Registers memory, or finds that it is registered already: then it stays so until the last such
    /// registration is dropped.
    ///
    /// # Safety
    /// The memory stays mapped until the registration is dropped.
    ///
    /// # Errors
    /// `InvalidArgument`: it is not mapped, or cannot be pinned, and what to do. `InvalidUsage`: the
    /// memory of a GPU, over TCP.
    pub unsafe fn register(
        &self,
        data: *mut u8,
        len: usize,
        kind: MemoryKind,
    ) -> Result<Registration, Error> {
        let Some(ports) = &self.ports else {
            if kind.is_gpu() {
                return Err(Error::new(
                    ErrorKind::InvalidUsage,
                    "memory of a GPU on a connection over TCP, which the peer has instead of RDMA: \
                     set NCCL_NET_GDR_LEVEL=LOC on all hosts, or see the peer's first log line for \
                     why it has no RDMA port",
                ));
            }
            return Ok(Registration(None));
        };
        if len == 0 {
            // Adapters refuse to register nothing, and nobody needs a key for it.
            return Ok(Registration(None));
        }
        if kind.is_gpu()
            && let Some(link) = self.receiver.as_ref().and_then(Weak::upgrade)
        {
            link.expect_moves();
        }
        // SAFETY: the caller's promise.
        let registration = unsafe { ports.register(data, len, kind) }.map_err(|what| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("registering memory: {what}"),
            )
        })?;
        Ok(Registration(Some(registration)))
    }
}

fn check_keys(ports: Option<&LinkPorts>, len: usize, keys: &Keys) -> Result<(), Error> {
    if ports.is_none() || len == 0 || !keys.as_slice().is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("a buffer of {len} bytes that is not registered: over RDMA it has to be"),
    ))
}

impl Drop for SendConnection {
    fn drop(&mut self) {
        if let LinkRef::Tx(link) = &self.0.link {
            link.close(self.0.id);
        }
    }
}

impl RecvConnection {
    /// Starts one receive into each of `buffers` (1 to [`MAX_RECVS`]). `None`: too many requests
    /// are outstanding.
    ///
    /// # Safety
    /// The buffers stay valid, and are not touched by others, until the request is finished or
    /// the connection dropped. One thread at a time per connection.
    ///
    /// # Errors
    /// `InvalidArgument` for a wrong number of buffers.
    pub unsafe fn irecv(&self, buffers: &[RecvBuffer]) -> Result<Option<Request>, Error> {
        check_count(buffers)?;
        let mut messages = [(0, MemRange::default(), Keys::default()); MAX_RECVS];
        for (message, buffer) in messages.iter_mut().zip(buffers) {
            check_keys(self.0.ports(), buffer.len, &buffer.keys.remote)?;
            *message = (
                buffer.tag,
                MemRange {
                    addr: buffer.data as u64,
                    len: buffer.len as u64,
                },
                buffer.keys.remote,
            );
        }
        // SAFETY: the caller's promise.
        let slot = unsafe { self.0.start(&messages[..buffers.len()]) };
        Ok(slot.map(|slot| Request(NonNull::from(slot))))
    }

    /// Starts to make what has been received into these buffers visible to a GPU that they are memory
    /// of. `None`: none of them is, so there is nothing to wait for.
    ///
    /// The GPU may otherwise see that a message has come before it sees the message: the adapter's word
    /// of it goes to the host's memory, its bytes go to the GPU's.
    ///
    /// # Safety
    /// The buffers are not freed until the request is finished or the connection dropped. One thread at
    /// a time per connection.
    ///
    /// # Errors
    /// `InvalidArgument` for a wrong number of buffers, `InvalidUsage` if more than [`MAX_REQUESTS`] are
    /// outstanding.
    pub unsafe fn iflush(&self, buffers: &[RecvBuffer]) -> Result<Option<Request>, Error> {
        check_count(buffers)?;
        let mut flushed = [(0, Keys::default()); MAX_RECVS];
        let mut count = 0;
        for RecvBuffer {
            data, len, keys, ..
        } in buffers
        {
            // One byte of each registration is enough: it is memory of one GPU.
            let is_new = !flushed[..count]
                .iter()
                .any(|(_, other)| *other == keys.remote);
            if keys.remote.is_gpu() && *len > 0 && is_new {
                flushed[count] = (*data as u64, keys.remote);
                count += 1;
            }
        }
        if count == 0 {
            return Ok(None);
        }
        // SAFETY: the caller's promise.
        let slot = unsafe { self.0.start_flush(&flushed[..count]) }.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidUsage,
                format!("more than {MAX_REQUESTS} flushes of a connection at once"),
            )
        })?;
        Ok(Some(Request(NonNull::from(slot))))
    }

    /// What registers memory for messages of this connection.
    #[must_use]
    pub fn registrar(&self) -> Registrar {
        Registrar {
            ports: self.0.ports().cloned(),
            receiver: match &self.0.link {
                LinkRef::Rx(link) => Some(Arc::downgrade(link)),
                LinkRef::Tx(_) => None,
            },
        }
    }
}

fn check_count(buffers: &[RecvBuffer]) -> Result<(), Error> {
    if (1..=MAX_RECVS).contains(&buffers.len()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "a receive of {} buffers: 1 to {MAX_RECVS} are possible",
            buffers.len()
        ),
    ))
}

impl Drop for RecvConnection {
    fn drop(&mut self) {
        if let LinkRef::Rx(link) = &self.0.link {
            link.close(self.0.id);
            link.drive(Step::Submit);
        }
    }
}

impl Request {
    /// The request as an opaque pointer for C; never null, never the value 1.
    #[must_use]
    pub fn into_raw(self) -> *mut std::ffi::c_void {
        self.0.as_ptr().cast()
    }

    /// The request behind an opaque pointer.
    ///
    /// # Safety
    /// `raw` came from [`Request::into_raw`] and the request has neither been reported finished
    /// nor its connection dropped.
    #[must_use]
    pub unsafe fn from_raw(raw: NonNull<std::ffi::c_void>) -> Self {
        Self(raw.cast())
    }

    /// Moves the link forward and says whether the request is finished. The request is gone once
    /// this has returned a completion or an error.
    ///
    /// # Safety
    /// As for [`Request::from_raw`]; one thread at a time per connection.
    ///
    /// # Errors
    /// What ended the request: `Remote` for a dead peer, `InvalidUsage` for a message larger
    /// than its buffer.
    pub unsafe fn test(self) -> Result<Option<Completion>, Error> {
        // SAFETY: the caller's promise keeps the connection, and so its slots, alive.
        unsafe { self.0.as_ref().test() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Controller;
    use crate::path::select::Selector;

    #[test]
    fn every_algorithm_goes_by_the_name_it_is_chosen_by() {
        let mut config = Config::default();
        let rate = Rate::from_mbps(10_000);
        for &kind in ControllerKind::ALL {
            config.controller = kind;
            let controller = controller(&config, DelayConfig::for_tcp(rate), rate);
            assert_eq!(controller.name(), kind.name());
        }
        for &kind in SelectorKind::ALL {
            if kind != SelectorKind::Auto {
                assert_eq!(selector(kind, false).name(), kind.name());
            }
        }
        assert_eq!(selector(SelectorKind::Auto, false).name(), "adaptive");
        assert_eq!(selector(SelectorKind::Auto, true).name(), "weighted");
    }
}
