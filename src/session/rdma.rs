//! Paths over RDMA on their way up. What may wait, for memory to be pinned or for the other host's
//! hardware address, is done aside, on threads of their own: the control thread never waits.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::handshake::{Hello, RdmaHello, Welcome};
use super::service::{Command, Shared, locked};
use crate::driver::tx_link::{DialRequest, TxRdma};
use crate::transport::AnyChannel;
use crate::transport::verbs::adapters::{Adapters, Unconnected};
use crate::transport::verbs::{End, LinkPorts, random_source_port};

/// Things done aside at once. A port that is gone holds each of its paths up for a second or more.
const ASIDE_MAX: u32 = 64;

/// The UDP port of `RoCE` v2.
const ROCE_PORT: u16 = 4791;

/// What a dial over RDMA has beside one over TCP.
#[derive(Debug)]
pub(super) struct RdmaDial {
    /// Our end, unless something is done to it aside.
    end: Option<Unconnected>,
    /// Which of the link's own ports it is at.
    place: usize,
    /// Which of the peer's.
    remote_place: u8,
    source_port: u16,
    local: SocketAddr,
    remote: SocketAddr,
    welcome: Option<Welcome>,
}

impl RdmaDial {
    /// A dial of this path. It takes the way that the last one took if there is one, else any.
    pub(super) fn new(rdma: &TxRdma, path: u8, request: &DialRequest) -> Self {
        let unknown = SocketAddr::from(([0; 4], ROCE_PORT));
        Self {
            end: None,
            place: request.port.into(),
            remote_place: path % rdma.places,
            source_port: request
                .local
                .map_or_else(random_source_port, |last| last.port()),
            local: unknown,
            remote: unknown,
            welcome: None,
        }
    }

    /// Makes our end, aside.
    pub(super) fn prepare(&self, shared: &Shared, rdma: &TxRdma, key: u64) -> Result<(), String> {
        let LinkPorts { adapters, ports } = rdma.ports.clone();
        let (port, places) = (ports[self.place], (self.place, self.remote_place.into()));
        shared.aside(move || Command::Prepared(key, adapters.sender(port, places)))
    }

    /// What was done aside is over.
    pub(super) fn give_back(&mut self, end: Unconnected) {
        self.local = SocketAddr::new(end.end().gid.to_canonical(), self.source_port);
        self.end = Some(end);
    }

    /// What the hello says of it.
    pub(super) fn hello(&self, rdma: &TxRdma) -> Option<RdmaHello> {
        Some(RdmaHello {
            device: rdma.device,
            place: self.remote_place,
            chunk_bytes: rdma.chunk_bytes,
            end: self.end.as_ref()?.end(),
        })
    }

    /// Connects our end to the one that the welcome names, aside, and asks whether anything gets
    /// through.
    pub(super) fn connect(
        &mut self,
        shared: &Shared,
        welcome: Welcome,
        key: u64,
    ) -> Result<(), String> {
        let to = welcome.end.ok_or("the peer answers over TCP")?;
        self.welcome = Some(welcome);
        self.remote = SocketAddr::new(to.gid.to_canonical(), ROCE_PORT);
        let mut end = self.end.take().ok_or("its queue pair is gone")?;
        let source_port = self.source_port;
        shared.aside(move || {
            let asked = end.connect(&to, source_port).and_then(|()| end.ask());
            Command::Connected(key, asked.map(|()| end))
        })
    }

    /// A line for the log, if the two ends take packets of different sizes.
    pub(super) fn mismatch(&self, welcome: &Welcome) -> Option<String> {
        let (own, to) = (self.end.as_ref()?.end(), welcome.end?);
        (own.mtu != to.mtu).then(|| {
            format!(
                "the port {} takes packets with {} bytes and {} with {}: {} are used; the same MTU on \
                 all hosts and switches is faster",
                own.gid.to_canonical(),
                own.mtu,
                to.gid.to_canonical(),
                to.mtu,
                own.mtu.min(to.mtu),
            )
        })
    }

    /// What a user can do about it, if it is not proven in time and that is known.
    pub(super) fn advice(&self) -> Option<String> {
        self.end.as_ref().and_then(Unconnected::advice)
    }

    /// Whether something has got through.
    pub(super) fn is_proven(&mut self) -> Result<bool, String> {
        self.end
            .as_mut()
            .map_or(Ok(false), Unconnected::is_answered)
    }

    /// The path, with what the welcome said and its two addresses.
    pub(super) fn finish(
        self,
        socket: TcpStream,
    ) -> Option<(AnyChannel, Welcome, (SocketAddr, SocketAddr))> {
        let mut channel = self.end?.into_channel();
        channel.keep(socket);
        Some((channel, self.welcome?, (self.local, self.remote)))
    }
}

/// A path over RDMA that a peer has dialled, with our end connected to it.
pub(super) struct Accepted {
    pub(super) hello: Hello,
    pub(super) socket: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) challenge: [u8; 16],
    pub(super) made: Result<(AnyChannel, Option<End>), String>,
}

impl Shared {
    /// Does something on a thread of its own. What came of it is a command for the control thread.
    pub(super) fn aside(
        &self,
        job: impl FnOnce() -> Command + Send + 'static,
    ) -> Result<(), String> {
        let me = self.me.upgrade().ok_or("the session is closed")?;
        if me.aside.fetch_add(1, Ordering::Relaxed) >= ASIDE_MAX {
            me.aside.fetch_sub(1, Ordering::Relaxed);
            return Err("too many paths are on their way up".into());
        }
        let spawned = std::thread::Builder::new()
            .name("thalweg-aside".into())
            .spawn({
                let me = Arc::clone(&me);
                move || {
                    let command = job();
                    me.aside.fetch_sub(1, Ordering::Relaxed);
                    me.command(command);
                }
            });
        spawned.map(|_| ()).map_err(|error| {
            me.aside.fetch_sub(1, Ordering::Relaxed);
            format!("no thread: {error}")
        })
    }

    /// The port of ours that a hello names.
    pub(super) fn port_of(&self, rdma: &RdmaHello) -> Result<(Arc<Adapters>, usize), String> {
        let LinkPorts { adapters, ports } = self.ports_at(rdma.device.into())?;
        let &port = ports.get(usize::from(rdma.place)).ok_or_else(|| {
            format!(
                "the peer asks for RDMA port {} of device {}, which has {}",
                rdma.place,
                rdma.device,
                ports.len()
            )
        })?;
        Ok((adapters, port))
    }

    /// Makes our end of a path that a peer has dialled and connects it, aside.
    pub(super) fn accept_aside(
        &self,
        (adapters, port): (Arc<Adapters>, usize),
        rdma: RdmaHello,
        mut accepted: Accepted,
    ) -> Result<(), String> {
        let eager_bytes = self.config.eager_bytes;
        self.aside(move || {
            accepted.made = adapters.receiver(port, eager_bytes).and_then(|mut end| {
                end.connect(&rdma.end, random_source_port())?;
                let own = end.end();
                Ok((end.into_channel(), Some(own)))
            });
            Command::Accepted(Box::new(accepted))
        })
    }

    /// The ports of links at this device of ours: those that a virtual device names, else the device's
    /// own and the next ones.
    pub(super) fn ports_at(&self, device: usize) -> Result<LinkPorts, String> {
        let adapters = self.rdma.as_ref().ok_or("there is no RDMA here")?;
        let count = adapters.ports().len();
        let ports = match device.checked_sub(count) {
            None => adapters.companions(device, self.config.ports.into()),
            Some(beyond) => {
                let joined = locked(&self.virtual_devices);
                let all = count + joined.len();
                let device = joined.get(beyond).ok_or_else(|| {
                    format!("RDMA device {device} is asked for, but there are {all}")
                })?;
                device.members.clone()
            }
        };
        Ok(LinkPorts {
            adapters: Arc::clone(adapters),
            ports,
        })
    }
}
