//! The RDMA ports of this process, opened: memory is registered with them, and paths begin at them.

#![allow(unsafe_code, reason = "callers name their memory by address")]

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};

use super::channel::{Grave, Role, Slab, VerbsChannel};
use super::device::{self, Choice, Gid, GpuDrivers, Port};
use super::readings::Readings;
use super::sys::{
    Access, CompletionQueue, Device, Form, Memory, PortState, QueuePair, Route, SysError,
    flow_label,
};
use super::watch::Watch;
use super::within_host::{self, WithinHost};
use super::{EAGER_BYTES_MAX, End, GpuAccess, Made, Marking, MemoryKeys, MemoryKind, News};
use crate::auth;
use crate::config::{Family, RelaxedOrdering};
use crate::engine::MemRange;
use crate::engine::wire::{Frame, KEYS_MAX, Keys};
use crate::transport::{AnyChannel, Channel};

/// The adapter sends a packet again after 4.096 µs times two to the power of this (1.1 s), and gives
/// up after seven times. Not for that does a message wait: a path that is silent while its siblings
/// are not is given up sooner than that. With 4 ms, what was only late, behind a busy core, passed for
/// lost, and ended paths that were well.
const TIMEOUT: u8 = 18;

/// As [`TIMEOUT`], where no network is between: 0.27 s.
const TIMEOUT_WITHIN_HOST: u8 = 16;
/// Bytes of a padding's header: with them a packet of its path is full.
const PADDING_HEADER: u32 = 8;

/// The opened ports.
#[derive(Debug)]
pub struct Adapters {
    ports: Vec<Port>,
    /// That of each port; ports of one device share it.
    devices: Vec<Arc<OpenDevice>>,
    /// What has become of each since.
    watch: Mutex<Watch>,
    /// By which addresses are chosen again.
    family: Family,
    gid_index: Option<u8>,
    marking: Marking,
    relaxed: RelaxedOrdering,
    stamps: bool,
    gpus: GpuDrivers,
    grave: Grave<QueuePair>,
    /// What the ports count, while a link wants to know.
    readings: Mutex<Weak<Readings>>,
}

#[derive(Debug)]
struct OpenDevice {
    device: Device,
    takes_dmabuf: bool,
    /// What is registered. It leaves with its last user: memory that is mapped anew at the same place
    /// is registered anew.
    registered: Mutex<BTreeMap<Region, Weak<Memory>>>,
}

/// Memory as a registration is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Region {
    addr: usize,
    bytes: usize,
    source: Source,
}

/// Where memory comes from: at the same address there may be other memory later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Host,
    Gpu,
    /// An exported buffer, by the number of its file, and the place in it: the number of a descriptor
    /// is soon another buffer's.
    DmaBuf(u64, u64),
}

impl Region {
    fn new(addr: usize, bytes: usize, kind: MemoryKind) -> Result<Self, String> {
        let source = match kind {
            MemoryKind::Host => Source::Host,
            MemoryKind::Gpu => Source::Gpu,
            MemoryKind::DmaBuf(buffer) => {
                let error = |error: io::Error| format!("a DMABUF of {bytes} bytes: {error}");
                Source::DmaBuf(inode(buffer.fd).map_err(error)?, buffer.offset)
            }
        };
        Ok(Self {
            addr,
            bytes,
            source,
        })
    }
}

/// The number of a descriptor's file: no two that are open have the same, of one kind.
fn inode(fd: RawFd) -> io::Result<u64> {
    // SAFETY: plain numbers, of which zeros are valid.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is written.
    match unsafe { libc::fstat(fd, &raw mut stat) } {
        0 => Ok(stat.st_ino),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Memory that is registered with the devices of some ports, until nobody holds this.
#[derive(Debug)]
pub struct Registration {
    keys: MemoryKeys,
    _memory: Vec<Arc<Memory>>,
}

impl Registration {
    /// Its keys, in the order of the ports.
    #[must_use]
    pub fn keys(&self) -> MemoryKeys {
        self.keys
    }
}

impl OpenDevice {
    /// # Safety
    /// As for [`Device::register`].
    unsafe fn register(
        &self,
        addr: *mut u8,
        region: Region,
        kind: MemoryKind,
        access: Access,
    ) -> Result<Arc<Memory>, SysError> {
        let mut registered = self
            .registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = registered.get(&region).and_then(Weak::upgrade) {
            return Ok(memory);
        }
        registered.retain(|_, memory| memory.strong_count() > 0);
        let memory = match kind {
            // SAFETY: the caller's promise.
            MemoryKind::Host | MemoryKind::Gpu => unsafe {
                self.device.register(addr, region.bytes, access)
            },
            MemoryKind::DmaBuf(buffer) => {
                self.device
                    .register_dmabuf(region.addr, region.bytes, buffer, access)
            }
        };
        let memory = Arc::new(memory?);
        registered.insert(region, Arc::downgrade(&memory));
        Ok(memory)
    }
}

impl Adapters {
    /// Opens the ports that a host has and the settings admit; none if there are none. The line says
    /// what was chosen and why. `stamps`: the time stamps of adapters that have them are used.
    #[must_use]
    pub fn open(
        choice: &Choice<'_>,
        marking: Marking,
        relaxed: RelaxedOrdering,
        stamps: bool,
    ) -> (Option<Self>, String) {
        let mut found = device::find(Path::new(device::SYSFS), choice);
        let mut opened: BTreeMap<String, Arc<OpenDevice>> = BTreeMap::new();
        let mut devices = Vec::new();
        let mut failed = String::new();
        found.ports.retain(|port| {
            if let Some(device) = opened.get(&port.device) {
                devices.push(Arc::clone(device));
                return true;
            }
            match Device::open(&port.device) {
                Ok(device) => {
                    let device = Arc::new(OpenDevice {
                        takes_dmabuf: device.takes_dmabuf(),
                        device,
                        registered: Mutex::default(),
                    });
                    opened.insert(port.device.clone(), Arc::clone(&device));
                    devices.push(device);
                    true
                }
                Err(error) => {
                    failed = format!("; not {}: {error}", port.name());
                    false
                }
            }
        });
        let line = format!("{found}{failed}");
        if devices.is_empty() {
            return (None, line);
        }
        let (grave, remains) = mpsc::channel();
        // It ends with the last that could send something there.
        let digger = std::thread::Builder::new()
            .name("thalweg-grave".into())
            .spawn(move || remains.into_iter().for_each(drop));
        if let Err(error) = digger {
            return (None, format!("{line}; no thread: {error}"));
        }
        let this = Self {
            watch: Mutex::new(Watch::new(&found.ports)),
            ports: found.ports,
            devices,
            family: choice.family,
            gid_index: choice.gid_index,
            marking,
            relaxed,
            stamps,
            gpus: device::gpu_drivers(Path::new("/sys")),
            grave,
            readings: Mutex::default(),
        };
        (Some(this), line)
    }

    /// The ports.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The descriptors that can be read when [`Adapters::news`] of this port has something to tell,
    /// one for each device.
    #[must_use]
    pub fn news_fds(&self) -> Vec<(usize, RawFd)> {
        let is_first = |at: usize| {
            let device = |port: &Port| port.device == self.ports[at].device;
            self.ports.iter().position(device) == Some(at)
        };
        let first = (0..self.ports.len()).filter(|&at| is_first(at));
        first
            .map(|at| (at, self.devices[at].device.events_fd()))
            .collect()
    }

    /// What has happened to the device of this port. Never waits.
    pub fn news(&self, port: usize) -> News {
        let choice = Choice {
            hca: None,
            family: self.family,
            gid_index: self.gid_index,
        };
        let gid = |port: &Port, before: Option<&Gid>| {
            device::gid(Path::new(device::SYSFS), port, before, &choice)
        };
        let mut news = News::default();
        let mut watch = self.watch();
        let name = &self.ports[port].device;
        while !news.is_over
            && let Some(event) = self.devices[port].device.event()
        {
            watch.handle(&self.ports, name, event, gid, &mut news);
        }
        news
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ports that a link at `port` uses, that one first: those after it in turn, of the same NUMA
    /// node. With the same ports on both hosts, each is paired with its counterpart.
    #[must_use]
    pub fn companions(&self, port: usize, most: usize) -> Vec<usize> {
        let count = self.ports.len();
        let node = self.ports[port].numa_node;
        (0..count)
            .map(|turn| (port + turn) % count)
            .filter(|&other| self.ports[other].numa_node == node)
            .take(most.min(KEYS_MAX))
            .collect()
    }

    /// Of a path: what it is told is stamped where the device can do that.
    fn completion_queue(
        &self,
        device: &Device,
        entries: u32,
    ) -> Result<Arc<CompletionQueue>, SysError> {
        let stamped = (self.stamps && device.has_stamps())
            .then(|| device.completion_queue(Form::Stamped, entries).ok())
            .flatten();
        stamped.map_or_else(|| device.completion_queue(Form::Plain, entries), Ok)
    }

    /// What the ports count: read as long as somebody holds it. None if there is no thread to do that.
    #[must_use]
    pub fn readings(&self) -> Option<Arc<Readings>> {
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(readings) = readings.upgrade() {
            return Some(readings);
        }
        let mtu = |(port, device): (&Port, &Arc<OpenDevice>)| {
            let state = device.device.port(port.number);
            state.map_or(0, |state| u32::from(state.mtu))
        };
        let packet_bytes = self.ports.iter().zip(&self.devices).map(mtu).collect();
        let begun = Readings::begin(self.ports.clone(), packet_bytes).ok()?;
        *readings = Arc::downgrade(&begun);
        Some(begun)
    }

    /// Registers memory with the devices of these ports.
    ///
    /// # Errors
    /// It is not mapped, or cannot be pinned.
    ///
    /// # Safety
    /// The memory stays mapped until the registration is dropped.
    pub unsafe fn register(
        &self,
        ports: &[usize],
        addr: *mut u8,
        bytes: usize,
        kind: MemoryKind,
    ) -> Result<Registration, String> {
        let region = Region::new(addr.addr(), bytes, kind)?;
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        let mut memories = Vec::new();
        for &port in ports {
            if self.watch().is_gone(port) {
                // Nothing goes by it any more: no key is asked for.
                local.push(0);
                remote.push(0);
                continue;
            }
            let access = self.access(port, kind);
            // SAFETY: the caller's promise.
            let memory = unsafe { self.devices[port].register(addr, region, kind, access) }
                .map_err(|error| format!("{}: {error}", self.ports[port].name()))?;
            local.push(memory.local_key());
            remote.push(memory.remote_key());
            memories.push(memory);
        }
        let keys = |keys: &[u32]| match Keys::new(keys).unwrap_or_default() {
            keys if kind.is_gpu() => keys.of_gpu(),
            keys => keys,
        };
        Ok(Registration {
            keys: MemoryKeys {
                local: keys(&local),
                remote: keys(&remote),
            },
            _memory: memories,
        })
    }

    /// How memory is got to over a port.
    ///
    /// Relaxed order is for writes that come over PCI. Nothing here looks at memory before the
    /// completion that says it is there, and no completion overtakes what was written before; chunks
    /// that are written twice are the same bytes, and the first path is drained before. With AMD's
    /// GPUs a flush would need a write in strict order before its read: there it takes being asked for.
    fn access(&self, port: usize, kind: MemoryKind) -> Access {
        let is_pci = self.ports[port].pci_path.is_some();
        Access {
            read_back: kind.is_gpu(),
            relaxed: match self.relaxed {
                RelaxedOrdering::On => true,
                RelaxedOrdering::Off => false,
                RelaxedOrdering::Auto => is_pci && !(kind.is_gpu() && self.gpus.amd_only),
            },
        }
    }

    /// How links over these ports get to the memory of a GPU; adapters in software do not.
    #[must_use]
    pub fn gpu_access(&self, ports: &[usize]) -> GpuAccess {
        let all = |has: &dyn Fn(usize) -> bool| ports.iter().all(|&port| has(port));
        let is_pci = all(&|port| self.ports[port].pci_path.is_some());
        GpuAccess {
            peer_memory: is_pci && self.gpus.peer_memory,
            dmabuf: is_pci && all(&|port| self.devices[port].takes_dmabuf),
        }
    }

    /// What does moves within this host, at this port.
    ///
    /// # Errors
    /// The device has no room, or is gone.
    pub fn within_host(&self, index: usize) -> Made {
        let port = &self.ports[index];
        let device = &self.devices[index].device;
        let gid = self.watch().gid(index);
        let gid = gid.map_err(|why| format!("{}: {why}", port.name()))?;
        let make = || -> Result<WithinHost, SysError> {
            let state = device.port(port.number)?;
            let depths = within_host::DEPTHS;
            let completions = device.completion_queue(Form::Plain, depths.send + depths.receive)?;
            let pair = QueuePair::within_host(device, &completions, port.number, depths)?;
            let end = end_of(&pair, &gid, state);
            let route = Route {
                port: port.number,
                gid_index: gid.index,
                flow_label: 0,
                traffic_class: self.marking.data,
                service_level: self.marking.service_level,
                timeout: TIMEOUT_WITHIN_HOST,
            };
            pair.connect(end.first_packet, &end, &route)?;
            let mut mover = WithinHost::new(pair, |bytes| Slab::registered(device, bytes))?;
            mover.bury_in(self.grave.clone());
            Ok(mover)
        };
        match make() {
            Ok(mover) => Ok(Box::new(mover)),
            Err(error) => Err(format!("{}: {error}", port.name())),
        }
    }

    /// The sending end of a path at this port. `places`: those of its own port and of the other end's
    /// among the keys of a buffer.
    ///
    /// # Errors
    /// The device has no room, or is gone.
    pub fn sender(&self, port: usize, places: (usize, usize)) -> Result<Unconnected, String> {
        self.unconnected(port, Role::Sender, places)
    }

    /// The receiving end of a path at this port.
    ///
    /// # Errors
    /// As for [`Adapters::sender`].
    pub fn receiver(&self, port: usize, eager_bytes: u32) -> Result<Unconnected, String> {
        self.unconnected(port, Role::Receiver { eager_bytes }, (0, 0))
    }

    fn unconnected(
        &self,
        index: usize,
        role: Role,
        places: (usize, usize),
    ) -> Result<Unconnected, String> {
        let port = &self.ports[index];
        let name = port.name();
        let device = &self.devices[index].device;
        let gid = self.watch().gid(index);
        let gid = gid.map_err(|why| format!("{name}: {why}"))?;
        let state = device.port(port.number);
        let state = state.map_err(|error| format!("{name}: {error}"))?;
        if !state.is_active {
            return Err(format!("{name}: its link is down"));
        }
        let role = match role {
            Role::Sender => role,
            // Whether packets of the largest size get through is asked with one of them.
            Role::Receiver { eager_bytes } => Role::Receiver {
                eager_bytes: eager_bytes.max(state.mtu.into()).min(EAGER_BYTES_MAX),
            },
        };
        let make = || -> Result<(VerbsChannel, End), SysError> {
            let completions = self.completion_queue(device, role.completions())?;
            let pair = QueuePair::new(device, &completions, port.number, role.depths())?;
            let end = end_of(&pair, &gid, state);
            let slab = |bytes| Slab::registered(device, bytes);
            let mut channel = VerbsChannel::new(pair, role, places, slab)?;
            channel.bury_in(self.grave.clone());
            Ok((channel, end))
        };
        let (channel, end) = make().map_err(|error| format!("{name}: {error}"))?;
        Ok(Unconnected {
            channel: Box::new(channel),
            end,
            route: Route {
                port: port.number,
                gid_index: gid.index,
                flow_label: 0,
                traffic_class: match role {
                    Role::Sender => self.marking.data,
                    Role::Receiver { .. } => self.marking.control,
                },
                service_level: self.marking.service_level,
                timeout: TIMEOUT,
            },
            name,
            mtu: state.mtu,
        })
    }
}

/// What the other end has to know of a queue pair at a port with this address.
fn end_of(pair: &QueuePair, gid: &Gid, state: PortState) -> End {
    End {
        number: pair.number(),
        first_packet: random() & 0xff_ffff,
        gid: gid.addr,
        lid: state.lid,
        mtu: state.mtu,
    }
}

/// Nobody has to guess it: the secret part of a path is proved elsewhere.
fn random() -> u32 {
    let bytes = auth::nonce().unwrap_or([0x5a; 16]);
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// One end of a path that has yet to find the other.
#[derive(Debug)]
pub struct Unconnected {
    channel: Box<VerbsChannel>,
    end: End,
    route: Route,
    name: String,
    /// Bytes of payload in a packet of the path.
    mtu: u16,
}

impl Unconnected {
    /// What the other end has to know.
    #[must_use]
    pub fn end(&self) -> End {
        self.end
    }

    /// Connects it. The source port, from 49152 up, decides the way through the fabric.
    ///
    /// # Errors
    /// The adapter refuses, for instance because its address has changed.
    pub fn connect(&mut self, to: &End, source_port: u16) -> Result<(), String> {
        self.route.flow_label = flow_label(source_port);
        self.mtu = to.mtu.min(self.end.mtu).max(256);
        let to = End {
            mtu: self.mtu,
            ..*to
        };
        self.channel
            .pair()
            .connect(self.end.first_packet, &to, &self.route)
            .map_err(|error| format!("{} to {}: {error}", self.name, to.gid))
    }

    /// Asks whether anything gets through, and then whether packets of the largest size do.
    ///
    /// # Errors
    /// The adapter has failed.
    pub fn ask(&mut self) -> Result<(), String> {
        static NOTHING: [u8; EAGER_BYTES_MAX as usize] = [0; EAGER_BYTES_MAX as usize];
        let ping = Frame::Ping { id: 0, sent_ns: 0 };
        self.channel.send(ping.encode(), MemRange::default(), false);
        let bytes = u32::from(self.mtu).saturating_sub(PADDING_HEADER);
        let nothing = MemRange {
            addr: NOTHING.as_ptr() as u64,
            len: bytes.into(),
        };
        let padding = Frame::Padding { bytes };
        self.channel.send(padding.encode(), nothing, false);
        self.channel.flush().map_err(|error| error.to_string())
    }

    /// Whether all of it has reached the other end.
    ///
    /// # Errors
    /// The adapter has given up.
    pub fn is_answered(&mut self) -> Result<bool, String> {
        self.channel.prove()
    }

    /// What a user can do about it, if it has not, after a time in which it should have.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let Self { name, mtu, .. } = self;
        (self.channel.arrived() > 0).then(|| {
            format!(
                "{name}: small packets get through, but none with {mtu} bytes: an interface or a switch \
                 on the way has a smaller MTU"
            )
        })
    }

    /// The path.
    #[must_use]
    pub fn into_channel(self) -> AnyChannel {
        AnyChannel::Verbs(self.channel)
    }
}
