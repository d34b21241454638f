//! The sending side of a link, driven.

#![allow(
    unsafe_code,
    reason = "small messages are copied out of the sender's buffer"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::conn::{Conn, LinkRef, Submission, untoken};
use super::turns::{Inner, OfKind};
use super::{Arrivals, BACKLOG_GAP, Departures, Link, SCRATCH_BYTES, Step, TIMER_GAP, Turns, ends};
use crate::auth::Key;
use crate::clock::{Timestamp, wall_ns};
use crate::engine::wire::{Frame, PathCount};
use crate::engine::{
    MemRange, SendError, Sink, Submitted, Transmit, TxAction, TxEngine, TxEvent, Violation,
};
use crate::error::{Error, ErrorKind};
use crate::sync::spsc::Consumer;
use crate::sync::{TryLock, TryLockGuard};
use crate::transport::verbs::counters::PortCounters;
use crate::transport::verbs::readings::Readings;
use crate::transport::verbs::{LinkPorts, PortEvent};
use crate::transport::{AnyChannel, Channel, ChannelError, Receiver, Sent};
use crate::units::Rate;

/// What the control plane tells a sending link.
#[derive(Debug)]
pub enum TxMail {
    /// A channel is up.
    PathUp {
        /// Path.
        path: u8,
        /// Its number.
        epoch: u16,
        /// How far the channel came whose fence is open.
        previous: Option<PathCount>,
        /// Eager messages up to this size are taken.
        eager_bytes: u32,
        /// Local and remote address.
        addrs: (SocketAddr, SocketAddr),
        /// The channel.
        channel: Box<AnyChannel>,
    },
    /// A dial came to nothing.
    DialFailed {
        /// Path.
        path: u8,
        /// The channel it would have been.
        epoch: u16,
        /// Why.
        reason: String,
        /// No other dial can succeed either, since so it is.
        over: Option<&'static str>,
    },
    /// Something has happened at one of the link's own ports.
    Port {
        /// Which of them.
        place: usize,
        /// What.
        event: PortEvent,
    },
}

/// A dial that the link asks the control plane for.
#[derive(Debug, Clone, Copy)]
pub struct DialRequest {
    /// What the engine asked for.
    pub action: TxAction,
    /// Which of the link's ports it is to leave by.
    pub port: u8,
    /// Local address and port of the channel that died, if its port is to be used again.
    pub local: Option<SocketAddr>,
    /// Where that channel led.
    pub remote: Option<SocketAddr>,
}

/// What a sending link needs from the control plane.
pub trait TxHost: Send + Sync + std::fmt::Debug {
    /// Dials a path.
    fn dial(&self, link: &Arc<TxLink>, request: DialRequest);
    /// Something happened that a user may want to know.
    fn event(&self, link: &TxLink, event: &TxEvent, addrs: &str);
}

/// The sending side of a link.
#[derive(Debug)]
pub struct TxLink {
    inner: TryLock<TxInner>,
    turns: Turns,
    was_up: AtomicBool,
    mailbox: Mutex<Vec<TxMail>>,
    host: Arc<dyn TxHost>,
    me: std::sync::Weak<TxLink>,
    /// Pairs of local and remote addresses that paths may use, the likeliest first.
    pub routes: Vec<(IpAddr, SocketAddr)>,
    /// Its path slots.
    pub paths: u8,
    /// What the link is known by to the peer.
    pub id: [u8; 16],
    /// The peer's token.
    pub key: Key,
    /// For log lines: the peer's address.
    pub name: String,
    /// Its ports, where it goes over RDMA.
    pub rdma: Option<TxRdma>,
}

#[derive(Debug)]
struct PathIo {
    channel: Option<AnyChannel>,
    epoch: u16,
    addrs: Option<(SocketAddr, SocketAddr)>,
}

/// What only the holder of the lock touches.
#[derive(Debug)]
pub struct TxInner {
    /// The engine.
    pub engine: TxEngine,
    paths: Vec<PathIo>,
    conns: BTreeMap<u32, (Arc<Conn>, Consumer<Submission>)>,
    arrivals: Arrivals,
    /// Its channels are looked at instead of waited for.
    is_looked_at: bool,
    /// Of its own ports, when each will have sent what it was given, where the transport gives
    /// frames to an adapter.
    departures: Vec<Departures>,
    /// Of its own ports, what they had counted at the last reading, and which that was.
    counted: Vec<PortCounters>,
    readings: u64,
    scratch: Box<[u8]>,
    timer_at: Timestamp,
    backlog_at: Timestamp,
    last_refusal: Option<String>,
}

/// Takes what arrives over a path into the engine of its sender.
#[derive(Debug)]
pub struct Inbound<'a> {
    engine: &'a mut TxEngine,
    path: u8,
    epoch: u16,
    now: Timestamp,
    /// Data frames that the transport has told of and the engine has not heard of.
    data: u32,
    completed_at: Option<Timestamp>,
}

impl<'a> Inbound<'a> {
    /// Of this channel of a path.
    #[must_use]
    pub fn new(engine: &'a mut TxEngine, path: u8, epoch: u16, now: Timestamp) -> Self {
        Self {
            engine,
            path,
            epoch,
            now,
            data: 0,
            completed_at: None,
        }
    }

    /// Tells the engine of what has reached the peer's host: after every look.
    pub fn tell(&mut self) {
        let count = std::mem::take(&mut self.data);
        if count > 0 {
            let Self { path, epoch, .. } = *self;
            self.engine
                .handle_completions(path, epoch, count, self.completed_at, self.now);
        }
    }
}

impl Receiver for Inbound<'_> {
    fn frame(&mut self, header: &[u8], _arrived_ns: u64) -> Result<Option<Sink>, Violation> {
        let frame = Frame::decode(header)?;
        self.engine
            .handle_frame(self.path, frame, header, self.now)
            .map(|()| None)
    }

    fn payload_done(&mut self) {}

    fn sent(&mut self, sent: Sent) {
        if sent.is_data {
            self.data += 1;
            self.completed_at = sent.completed_at;
        } else {
            let Self { path, epoch, .. } = *self;
            self.engine
                .handle_control_arrived(path, epoch, sent.given_at, self.now);
        }
    }

    fn now(&self) -> Timestamp {
        self.now
    }
}

/// What [`TxLink::new`] needs to know.
#[derive(Debug)]
pub struct TxParams {
    /// Pairs of local and remote addresses, the likeliest first; not empty.
    pub routes: Vec<(IpAddr, SocketAddr)>,
    /// What the link is known by to the peer.
    pub id: [u8; 16],
    /// What both ends share.
    pub key: Key,
    /// For log lines.
    pub name: String,
    /// Its ports, where it goes over RDMA.
    pub rdma: Option<TxRdma>,
}

/// What a sending link over RDMA knows of its two ends.
#[derive(Debug, Clone)]
pub struct TxRdma {
    /// Its own ports.
    pub ports: LinkPorts,
    /// The peer's device.
    pub device: u8,
    /// Ports that the peer has for the link.
    pub places: u8,
    /// Its chunk size.
    pub chunk_bytes: u32,
    /// What its ports count.
    pub readings: Option<Arc<Readings>>,
}

impl TxRdma {
    fn departures(&self) -> Vec<Departures> {
        let all = self.ports.adapters.ports();
        let rate = |&port: &usize| Rate::from_mbps(all[port].speed_mbps.into());
        self.ports
            .ports
            .iter()
            .map(rate)
            .map(Departures::new)
            .collect()
    }
}

impl TxLink {
    /// A link that has yet to dial.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(engine: TxEngine, params: TxParams, host: Arc<dyn TxHost>) -> io::Result<Arc<Self>> {
        let arrivals = Arrivals::new()?;
        let poll_fd = arrivals.poller.fd();
        let paths: Vec<_> = engine
            .path_infos()
            .map(|_| PathIo {
                channel: None,
                epoch: 0,
                addrs: None,
            })
            .collect();
        let count = index_u8(paths.len());
        let inner = TxInner {
            engine,
            paths,
            conns: BTreeMap::new(),
            arrivals,
            is_looked_at: params.rdma.is_some(),
            departures: params
                .rdma
                .as_ref()
                .map_or_else(Vec::new, TxRdma::departures),
            counted: params.rdma.as_ref().map_or_else(Vec::new, |rdma| {
                vec![PortCounters::default(); rdma.ports.ports.len()]
            }),
            readings: 0,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            timer_at: Timestamp::ZERO,
            backlog_at: Timestamp::ZERO,
            last_refusal: None,
        };
        Ok(Arc::new_cyclic(|me| Self {
            inner: TryLock::new(inner),
            turns: Turns::new(poll_fd, params.rdma.is_some()),
            was_up: AtomicBool::new(false),
            mailbox: Mutex::new(Vec::new()),
            host,
            me: me.clone(),
            routes: params.routes,
            paths: count,
            id: params.id,
            key: params.key,
            name: params.name,
            rdma: params.rdma,
        }))
    }

    /// Opens a connection on the link.
    pub fn open(&self, listener: u64) -> Option<Arc<Conn>> {
        let me = self.me.upgrade()?;
        let mut inner = self.inner.lock_spinning();
        let id = inner.engine.open(listener);
        let recorder = inner.engine.record_connection(id);
        let (conn, queue) = Conn::new(id, LinkRef::Tx(me), recorder);
        inner.conns.insert(id, (Arc::clone(&conn), queue));
        drop(inner);
        self.turns.leave();
        self.drive(Step::Progress);
        Some(conn)
    }

    /// Closes a connection: when this returns, none of its buffers is read any more.
    pub fn close(&self, conn: u32) {
        let mut inner = self.inner.lock_spinning();
        let now = Timestamp::now();
        inner.conns.remove(&conn);
        if inner.engine.close(conn) {
            for path in 0..inner.paths.len() {
                let io = &inner.paths[path];
                if io.channel.as_ref().is_some_and(|c| c.holds(conn)) {
                    let epoch = io.epoch;
                    inner.engine.handle_path_error(index_u8(path), epoch, now);
                }
            }
        }
        inner.step(self, Step::Submit, now);
        drop(inner);
        self.catch_up();
    }

    /// The peer's answer to a connection that was opened; an error if the link has failed.
    ///
    /// # Errors
    /// `Remote`, with the reason.
    pub fn opened(&self, conn: u32) -> Result<Option<bool>, Error> {
        self.drive(Step::Progress);
        let Some(inner) = self.inner.try_lock() else {
            return Ok(None);
        };
        let opened = match inner.engine.failure() {
            Some(reason) => Err(self.failure(reason)),
            None => Ok(inner.engine.opened(conn)),
        };
        drop(inner);
        self.catch_up();
        opened
    }

    /// Why no path is up, as far as is known.
    #[must_use]
    pub fn last_refusal(&self) -> Option<String> {
        self.inner.lock_spinning().last_refusal.clone()
    }

    fn failure(&self, reason: &str) -> Error {
        Error::new(
            ErrorKind::Remote,
            format!("link to {}: {reason}", self.name),
        )
    }

    /// The session closes: says good-bye and ends every send. Whoever still waits for one is told
    /// when it asks.
    pub fn shut(&self) {
        let mut inner = self.inner.lock_spinning();
        inner.goodbye();
        inner.engine.fail("the session has been closed".into());
        self.turns.leave();
    }

    /// Something was pushed to a connection's queue.
    pub fn submitted(&self) {
        self.turns.leave();
        self.drive(Step::Submit);
    }

    /// Whether a path has been up: the peer knows the link.
    #[must_use]
    pub fn was_up(&self) -> bool {
        self.was_up.load(Ordering::Relaxed)
    }

    /// Leaves a note for whoever drives the link next, and drives it if nobody does.
    pub fn mail(&self, mail: TxMail) {
        if matches!(mail, TxMail::PathUp { .. }) {
            self.was_up.store(true, Ordering::Relaxed);
        }
        self.mailbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(mail);
        self.turns.leave();
        self.drive(Step::Progress);
    }

    /// Something has happened at a port of this host, by its index there.
    pub fn port_event(&self, port: usize, event: PortEvent) {
        let place = |rdma: &TxRdma| rdma.ports.place_of(port);
        if let Some(place) = self.rdma.as_ref().and_then(place) {
            self.mail(TxMail::Port { place, event });
        }
    }

    /// The inside, unless somebody is driving.
    #[must_use]
    pub fn try_inner(&self) -> Option<TryLockGuard<'_, TxInner>> {
        self.inner.try_lock()
    }
}

impl OfKind for TxLink {
    type Inner = TxInner;

    fn parts(&self) -> (&TryLock<TxInner>, &Turns) {
        (&self.inner, &self.turns)
    }
}

impl Inner for TxInner {
    type Link = TxLink;

    fn step(&mut self, link: &TxLink, step: Step, now: Timestamp) -> bool {
        if link.turns.take() {
            self.collect(link, now);
        }
        let timers_are_due = now >= self.timer_at;
        let step = if timers_are_due { Step::Sweep } else { step };
        let received = step != Step::Submit && self.receive(step, now);
        if timers_are_due {
            self.timer_at = now + TIMER_GAP;
            self.timers(now);
            self.take_signals(link, now);
        }
        if now.since(self.backlog_at) >= BACKLOG_GAP {
            self.backlog_at = now;
            for path in 0..self.paths.len() {
                if self.engine.wants_backlog(index_u8(path))
                    && let Some(channel) = &mut self.paths[path].channel
                {
                    self.engine
                        .handle_backlog(index_u8(path), channel.backlog(), now);
                }
            }
        }
        self.reroute(now);
        let sent = self.transmit(now);
        self.act(link);
        self.report(link, now);
        received || sent
    }

    fn channels(&mut self) -> impl Iterator<Item = &mut AnyChannel> {
        self.paths.iter_mut().filter_map(|io| io.channel.as_mut())
    }

    fn publish(&mut self, now: Timestamp) {
        self.engine.publish(now);
    }

    fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        self.engine.poll_timeout(now)
    }
}

impl TxInner {
    /// Connections, those that still close included.
    #[must_use]
    pub fn conn_count(&self) -> usize {
        self.engine.conns()
    }

    /// Local and remote address of a path's last channel.
    #[must_use]
    pub fn addrs(&self, path: usize) -> Option<(SocketAddr, SocketAddr)> {
        self.paths[path].addrs
    }

    /// Says good-bye and closes every channel.
    pub fn goodbye(&mut self) {
        super::goodbye(self.channels());
        self.paths.iter_mut().for_each(|io| io.channel = None);
    }

    fn reroute(&mut self, now: Timestamp) {
        while let Some(path) = self.engine.poll_reroute() {
            let io = &mut self.paths[usize::from(path)];
            let port = io.channel.as_mut().and_then(AnyChannel::reroute);
            if let (Some(port), Some(addrs)) = (port, &mut io.addrs) {
                addrs.0.set_port(port);
                self.engine.name_path(path, &ends(*addrs));
            }
            self.engine.handle_rerouted(path, port.is_some(), now);
        }
    }

    fn collect(&mut self, link: &TxLink, now: Timestamp) {
        let mail =
            std::mem::take(&mut *link.mailbox.lock().unwrap_or_else(PoisonError::into_inner));
        for mail in mail {
            self.handle_mail(mail, now);
        }
        let Self { conns, engine, .. } = self;
        for (&id, (conn, queue)) in conns.iter_mut() {
            while let Some(submission) = queue.pop() {
                let Submission {
                    slot,
                    sub,
                    tag,
                    range,
                    keys,
                } = submission;
                conn.taken_up(slot, now);
                match engine.submit(id, submission.token(id), tag, range, keys) {
                    Submitted::Queued => {}
                    Submitted::Copy(target) => {
                        // SAFETY: the sender keeps its buffer valid until the send has ended,
                        // and `target` is the engine's own, as long as the message.
                        unsafe {
                            std::ptr::copy_nonoverlapping(
                                range.addr as *const u8,
                                target.addr as *mut u8,
                                usize::try_from(range.len).unwrap_or(0),
                            );
                        }
                        conn.ended(slot, sub, Ok(range.len), now);
                    }
                }
            }
        }
    }

    fn handle_mail(&mut self, mail: TxMail, now: Timestamp) {
        match mail {
            TxMail::PathUp {
                path,
                epoch,
                previous,
                eager_bytes,
                addrs,
                mut channel,
            } => {
                let io = &mut self.paths[usize::from(path)];
                if let Some(old) = io.channel.take() {
                    self.arrivals.remove(&old);
                    old.abort();
                }
                if self.arrivals.add(&channel, path).is_err() {
                    channel.abort();
                    self.engine.handle_dial_failed(path, epoch, now);
                    return;
                }
                channel.arm();
                *io = PathIo {
                    channel: Some(*channel),
                    epoch,
                    addrs: Some(addrs),
                };
                self.last_refusal = None;
                self.engine.name_path(path, &ends(addrs));
                self.engine.limit_eager(eager_bytes);
                self.engine.handle_path_up(path, epoch, previous, now);
            }
            TxMail::DialFailed {
                path,
                epoch,
                reason,
                over,
            } => {
                self.engine.handle_dial_failed(path, epoch, now);
                if let Some(over) = over
                    && !self.engine.any_up()
                {
                    self.engine.fail(format!("{reason}: {over}"));
                }
                self.last_refusal = Some(reason);
            }
            TxMail::Port { place, event } => self.handle_port(place, event, now),
        }
    }

    fn handle_port(&mut self, place: usize, event: PortEvent, now: Timestamp) {
        for path in 0..self.paths.len() {
            let io = &self.paths[path];
            let (path_u8, epoch) = (index_u8(path), io.epoch);
            if usize::from(self.engine.port_of(path_u8)) != place {
                continue;
            }
            match event {
                PortEvent::Down => self.engine.handle_port_down(path_u8, epoch, now),
                PortEvent::Up => self.engine.handle_port_up(path_u8, now),
                PortEvent::Failed(part) => {
                    if io.channel.as_ref().is_some_and(|channel| channel.has(part)) {
                        self.engine.handle_path_error(path_u8, epoch, now);
                    }
                }
            }
        }
        // At once, not with the next timer.
        self.engine.handle_timeout(now);
    }

    fn receive(&mut self, step: Step, now: Timestamp) -> bool {
        if self.is_looked_at {
            let mut any = false;
            for path in self.arrivals.looks(step, self.paths.len()) {
                if self.receive_path(path, now) > 0 {
                    self.arrivals.hot = path;
                    any = true;
                }
            }
            return any;
        }
        // The path that something came over last is read at once; the others are asked about
        // by one call for all of them.
        let got = self.receive_path(self.arrivals.hot, now);
        let mut any = got > 0;
        let others =
            |(path, io): (usize, &PathIo)| path != self.arrivals.hot && io.channel.is_some();
        if !self.paths.iter().enumerate().any(others) {
            return any;
        }
        for path in self.arrivals.others(got, now) {
            if self.receive_path(path, now) > 0 {
                self.arrivals.hot = path;
                any = true;
            }
        }
        any
    }

    fn receive_path(&mut self, path: usize, now: Timestamp) -> usize {
        let Self {
            paths,
            engine,
            scratch,
            ..
        } = self;
        let epoch = paths[path].epoch;
        let Some(channel) = &mut paths[path].channel else {
            return 0;
        };
        let mut inbound = Inbound::new(engine, index_u8(path), epoch, now);
        let received = channel.receive(scratch, &mut inbound);
        inbound.tell();
        match received {
            Ok(bytes) => bytes,
            Err(error) => {
                self.broken(path, &error, now);
                0
            }
        }
    }

    fn broken(&mut self, path: usize, error: &ChannelError, now: Timestamp) {
        if let ChannelError::Violation(violation) = error {
            self.engine.fail(format!("path {path}: {violation}"));
        }
        let epoch = self.paths[path].epoch;
        self.engine.handle_path_error(index_u8(path), epoch, now);
    }

    fn timers(&mut self, now: Timestamp) {
        for path in 0..self.paths.len() {
            let Some(channel) = &mut self.paths[path].channel else {
                continue;
            };
            if self.engine.wants_stats(index_u8(path)) {
                let stats = channel.stats();
                self.engine.handle_stats(index_u8(path), stats, now);
            }
            if channel.is_abandoned() {
                // What came before is still to be taken in: a last acknowledgement, or a good-bye.
                while self.receive_path(path, now) > 0 {}
                self.broken(path, &ChannelError::Closed, now);
            }
        }
        self.engine.handle_timeout(now);
    }

    /// Tells the engine what the ports have counted, if they have been read anew.
    fn take_signals(&mut self, link: &TxLink, now: Timestamp) {
        let Some((rdma, readings)) = link
            .rdma
            .as_ref()
            .and_then(|rdma| Some((rdma, rdma.readings.as_ref()?)))
        else {
            return;
        };
        let count = readings.count();
        if count == std::mem::replace(&mut self.readings, count) {
            return;
        }
        for (place, before) in self.counted.iter_mut().enumerate() {
            if let Some(signals) = readings.signals(rdma.ports.ports[place], before) {
                self.engine.handle_signals(index_u8(place), &signals, now);
            }
        }
    }

    fn transmit(&mut self, now: Timestamp) -> bool {
        let mut touched = 0u64;
        while let Some(transmit) = self.engine.poll_transmit(now) {
            let (Transmit::Control { path, .. }
            | Transmit::Probe { path, .. }
            | Transmit::Data { path, .. }) = transmit;
            touched |= 1 << path;
            let io = &mut self.paths[usize::from(path)];
            let Some(channel) = &mut io.channel else {
                continue;
            };
            match transmit {
                Transmit::Control { header, .. } => channel.queue(header, MemRange::default(), 0),
                Transmit::Probe { id, .. } => {
                    let ping = Frame::Ping {
                        id,
                        sent_ns: wall_ns(),
                    };
                    channel.queue(ping.encode(), MemRange::default(), 0);
                }
                Transmit::Data {
                    header,
                    source,
                    conn,
                    write,
                    ..
                } => {
                    channel.queue_data(header, write, source, conn);
                    if let Some(departures) = self
                        .departures
                        .get_mut(usize::from(self.engine.port_of(path)))
                    {
                        let at = departures.next(now, source.len);
                        self.engine.handle_departure(path, at);
                    }
                }
            }
        }
        for path in 0..self.paths.len() {
            let Some(channel) = &mut self.paths[path].channel else {
                continue;
            };
            if (touched >> path & 1 == 1 || channel.has_unsent())
                && let Err(error) = channel.flush()
            {
                // What came before it broke may be a last acknowledgement, or a good-bye.
                while self.receive_path(path, now) > 0 {}
                self.broken(path, &error, now);
            }
        }
        touched != 0
    }

    fn act(&mut self, link: &TxLink) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                TxAction::Close { path, epoch } => {
                    let io = &mut self.paths[usize::from(path)];
                    if io.epoch == epoch
                        && let Some(channel) = io.channel.take()
                    {
                        self.arrivals.remove(&channel);
                        channel.abort();
                    }
                }
                TxAction::Dial {
                    path, same_port, ..
                } => {
                    let last = self.paths[usize::from(path)].addrs.filter(|_| same_port);
                    if let Some(me) = link.me.upgrade() {
                        link.host.dial(
                            &me,
                            DialRequest {
                                action,
                                port: self.engine.port_of(path),
                                local: last.map(|(local, _)| local),
                                remote: last.map(|(_, remote)| remote),
                            },
                        );
                    }
                }
            }
        }
    }

    fn report(&mut self, link: &TxLink, now: Timestamp) {
        while let Some(done) = self.engine.poll_completion() {
            let (conn, slot, sub) = untoken(done.token);
            let Some((conn, _)) = self.conns.get(&conn) else {
                continue;
            };
            let result = done.result.map_err(|error| match error {
                SendError::TooLong { .. } => Error::new(
                    ErrorKind::InvalidUsage,
                    format!("send to {}: {error}", link.name),
                ),
                SendError::PeerClosed => {
                    Error::new(ErrorKind::Remote, format!("send to {}: {error}", link.name))
                }
                SendError::LinkFailed => link.failure(
                    self.engine
                        .failure()
                        .unwrap_or("it failed for an unknown reason"),
                ),
            });
            conn.ended(slot, sub, result, now);
        }
        while let Some(event) = self.engine.poll_event() {
            let path = (event.path()).and_then(|path| self.paths[usize::from(path)].addrs);
            link.host
                .event(link, &event, &path.map_or_else(String::new, ends));
        }
    }
}

fn index_u8(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{AnyController, Fixed};
    use crate::engine::{Completions, EngineConfig, FenceReason};
    use crate::path::select::{AnySelector, RoundRobin};
    use crate::transport::scripted::Scripted;
    use crate::transport::verbs::Part;
    use crate::units::{Bytes, Nanos};

    /// A session that writes down what it is asked and told.
    #[derive(Debug, Default)]
    struct Host {
        dials: Mutex<Vec<(u8, u16)>>,
        events: Mutex<Vec<(TxEvent, String)>>,
    }

    impl TxHost for Host {
        fn dial(&self, _link: &Arc<TxLink>, request: DialRequest) {
            if let TxAction::Dial { path, epoch, .. } = request.action {
                self.dials.lock().unwrap().push((path, epoch));
            }
        }

        fn event(&self, _link: &TxLink, event: &TxEvent, addrs: &str) {
            let event = (event.clone(), addrs.to_owned());
            self.events.lock().unwrap().push(event);
        }
    }

    struct Fixture {
        host: Arc<Host>,
        link: Arc<TxLink>,
    }

    impl Fixture {
        /// With a connection and two paths, each at a port of its own.
        fn new(channels: [Scripted; 2]) -> Self {
            let config = EngineConfig {
                paths_max: 2,
                ports: 2,
                search: false,
                rehash: true,
                reroute: true,
                chunk_bytes: Some(8192),
                completions: Completions::Local,
                receive_depth: Some(16),
                ..EngineConfig::default()
            };
            let host = Arc::new(Host::default());
            let params = TxParams {
                routes: Vec::new(),
                id: [0; 16],
                key: Key::derive(&crate::auth::Token::random().unwrap(), None),
                name: "peer".into(),
                rdma: None,
            };
            let engine = TxEngine::new(
                config,
                AnyController::Fixed(Fixed::new(Bytes(1 << 20))),
                AnySelector::RoundRobin(RoundRobin::default()),
                Timestamp::now(),
            );
            let link = TxLink::new(engine, params, Arc::<Host>::clone(&host)).unwrap();
            link.open(1).unwrap();
            for (path, channel) in (0..).zip(channels) {
                link.drive(Step::Submit);
                link.inner
                    .lock_spinning()
                    .engine
                    .handle_timeout(Timestamp::now());
                link.drive(Step::Submit);
                let dialled = std::mem::take(&mut *host.dials.lock().unwrap());
                assert_eq!(dialled, [(path, 1)]);
                let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
                link.mail(TxMail::PathUp {
                    path,
                    epoch: 1,
                    previous: None,
                    eager_bytes: 0,
                    addrs: (addr(50_000), addr(4791)),
                    channel: Box::new(AnyChannel::Scripted(Box::new(channel))),
                });
            }
            host.events.lock().unwrap().clear();
            Self { host, link }
        }

        fn happens(&self, place: usize, event: PortEvent) {
            self.link.mail(TxMail::Port { place, event });
        }

        /// The paths that have been fenced, and why.
        fn fenced(&self) -> Vec<(u8, FenceReason)> {
            let events = std::mem::take(&mut *self.host.events.lock().unwrap());
            let fenced = |(event, _)| match event {
                TxEvent::Fenced { path, reason, .. } => Some((path, reason)),
                _ => None,
            };
            events.into_iter().filter_map(fenced).collect()
        }
    }

    #[test]
    fn what_an_adapter_says_has_failed_is_fenced_at_once() {
        let part = Part::QueuePair(5);
        let link = Fixture::new([
            Scripted::default(),
            Scripted {
                part: Some(part),
                ..Scripted::default()
            },
        ]);
        link.happens(1, PortEvent::Up);
        link.happens(1, PortEvent::Failed(Part::CompletionQueue(5)));
        link.happens(0, PortEvent::Failed(part));
        assert_eq!(link.fenced(), []);
        link.happens(1, PortEvent::Failed(part));
        assert_eq!(link.fenced(), [(1, FenceReason::Broken)]);
        link.happens(0, PortEvent::Down);
        assert_eq!(link.fenced(), [(0, FenceReason::PortDown)]);
        link.host.dials.lock().unwrap().clear();
        link.happens(0, PortEvent::Up);
        assert_eq!(*link.host.dials.lock().unwrap(), [(0, 2)]);
    }

    #[test]
    fn a_caller_who_only_submits_takes_in_what_arrives() {
        let link = Fixture::new([Scripted::default(), Scripted::default()]);
        let arrives = Scripted {
            arriving: vec![Frame::Goodbye.encode()],
            ..Scripted::default()
        };
        let mut inner = link.link.inner.lock_spinning();
        inner.is_looked_at = true;
        inner.paths[1].channel = Some(AnyChannel::Scripted(Box::new(arrives)));
        let is_heard = |inner: &TxInner| {
            let channel = inner.paths[1].channel.as_ref();
            matches!(channel, Some(AnyChannel::Scripted(channel)) if channel.arriving.is_empty())
        };
        let due = inner.timer_at;
        inner.step(&link.link, Step::Submit, due - Nanos(1));
        assert!(!is_heard(&inner), "not at every submission");
        inner.step(&link.link, Step::Submit, due);
        assert!(is_heard(&inner));
    }

    #[test]
    fn what_no_other_dial_can_change_ends_the_link_once_no_path_is_up() {
        let link = Fixture::new([Scripted::default(), Scripted::default()]);
        assert!(link.link.was_up());
        let fails = |path, epoch| {
            link.link.mail(TxMail::DialFailed {
                path,
                epoch,
                reason: "connecting to peer: it has given the link up".into(),
                over: Some("nothing can be told of"),
            });
            let inner = link.link.inner.lock_spinning();
            inner.engine.failure().map(str::to_owned)
        };
        link.happens(0, PortEvent::Down);
        assert_eq!(fails(0, 2), None, "another path is up");
        link.happens(1, PortEvent::Down);
        let failure = fails(0, 2).unwrap();
        let says = "it has given the link up: nothing can be told of";
        assert!(failure.ends_with(says), "{failure}");
    }

    #[test]
    fn a_path_that_leaves_from_another_port_is_named_by_it() {
        for (reroutes_to, expected) in [(Some(60_000), "127.0.0.1:60000->"), (None, "")] {
            let slow = Scripted {
                reroutes_to,
                ..Scripted::default()
            };
            let link = Fixture::new([Scripted::default(), slow]);
            let mut inner = link.link.inner.lock_spinning();
            inner.engine.want_reroute(1);
            inner.step(&link.link, Step::Submit, Timestamp::now());
            drop(inner);
            let events = link.host.events.lock().unwrap().clone();
            let rerouted = events
                .iter()
                .find(|(event, _)| *event == TxEvent::Rerouted { path: 1 });
            match rerouted {
                Some((_, addrs)) => assert!(addrs.starts_with(expected) && !expected.is_empty()),
                None => assert_eq!(link.fenced(), [(1, FenceReason::Slow)]),
            }
        }
    }
}
