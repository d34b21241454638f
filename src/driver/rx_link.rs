//! The receiving side of a link, driven.

#![allow(
    unsafe_code,
    reason = "early small messages are copied into the receiver's buffer"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::conn::{Conn, LinkRef, Submission, token, untoken};
use super::moves::{self, Moves};
use super::turns::{Inner, OfKind};
use super::{Arrivals, Link, SCRATCH_BYTES, Step, TIMER_GAP, Turns};
use crate::clock::{Timestamp, wall_ns};
use crate::engine::wire::{Frame, Keys, PathCount};
use crate::engine::{MemRange, RecvError, RxAction, RxEngine, Sink, Violation};
use crate::error::{Error, ErrorKind};
use crate::session::MAX_RECVS;
use crate::sync::spsc::Consumer;
use crate::sync::{TryLock, TryLockGuard};
use crate::transport::verbs::{End, LinkPorts, Made, PortEvent};
use crate::transport::{AnyChannel, Channel, ChannelError, Receiver};
use crate::units::Nanos;

/// Where the peer's adapter tells it what has arrived, acknowledgements only count its receives and make
/// room for small messages; they are sent at once when either is short.
const LOCAL_ACK_GAP: Nanos = Nanos(16_000_000);

/// A channel that a peer has dialled and proved its right to.
#[derive(Debug)]
pub struct NewChannel {
    /// Path.
    pub path: u8,
    /// Its number.
    pub epoch: u16,
    /// Which of our ports it is at, where it goes over RDMA.
    pub place: u8,
    /// An earlier channel whose fence has not been answered.
    pub fence: Option<u16>,
    /// Local and remote address.
    pub addrs: (SocketAddr, SocketAddr),
    /// The channel.
    pub channel: AnyChannel,
    /// Where the peer waits for the welcome; a channel over RDMA keeps it.
    pub socket: TcpStream,
    /// Our end, where it goes over RDMA.
    pub end: Option<End>,
    /// What the peer's hello and our challenge drew, for the welcome's proof.
    pub nonces: ([u8; 16], [u8; 16]),
}

/// What a receiving link needs from the control plane.
pub trait RxHost: Send + Sync + std::fmt::Debug {
    /// The welcome for a channel, with how far the fenced one came.
    ///
    /// # Errors
    /// The channel has failed.
    fn welcome(
        &self,
        link: &RxLink,
        new: &mut NewChannel,
        previous: Option<PathCount>,
    ) -> io::Result<()>;
    /// A connection to this listener; `false` refuses it.
    fn accept(&self, listener: u64, conn: Arc<Conn>) -> bool;
    /// A path ended in a way that a user may want to know.
    fn note(&self, link: &RxLink, text: &str);
    /// All paths are gone without a word: find out whether the peer is.
    fn check_peer(&self, link: &Arc<RxLink>);
}

/// What waits for whoever drives the link next.
#[derive(Debug, Default)]
struct Mail {
    channels: Vec<NewChannel>,
    /// What has happened at which of the link's own ports.
    ports: Vec<(usize, PortEvent)>,
    flushes: Vec<Flush>,
    /// Movers that have been made, or cannot be, by their places.
    movers: Vec<(usize, Made)>,
    /// Memory of a GPU has been registered.
    expects_moves: bool,
}

/// A flush that has been asked for.
#[derive(Debug)]
struct Flush {
    conn: u32,
    slot: u16,
    count: usize,
    buffers: [(u64, Keys); MAX_RECVS],
}

/// The receiving side of a link.
#[derive(Debug)]
pub struct RxLink {
    inner: TryLock<RxInner>,
    turns: Turns,
    mailbox: Mutex<Mail>,
    failing: Mutex<Option<String>>,
    host: Arc<dyn RxHost>,
    me: std::sync::Weak<RxLink>,
    /// What the link is known by.
    pub id: [u8; 16],
    /// Where the peer itself listens: refused there, it is gone.
    pub peer: SocketAddr,
    /// For log lines: the peer's address.
    pub name: String,
    /// Our ports, where it comes over RDMA.
    pub rdma: Option<LinkPorts>,
}

#[derive(Debug)]
struct PathIo {
    channel: Option<AnyChannel>,
    epoch: u16,
    /// Which of the link's own ports it comes by.
    place: usize,
}

/// What only the holder of the lock touches.
#[derive(Debug)]
pub struct RxInner {
    engine: RxEngine,
    paths: Vec<PathIo>,
    conns: BTreeMap<u32, (Arc<Conn>, Consumer<Submission>)>,
    arrivals: Arrivals,
    moves: Moves,
    /// When the last path over a port went away, by its place.
    left_at: Vec<Timestamp>,
    /// Its channels are looked at instead of waited for, and its peer writes into our memory.
    is_looked_at: bool,
    scratch: Box<[u8]>,
    timer_at: Timestamp,
    /// When acknowledgements that are not urgent are sent, and how often.
    ack_at: Timestamp,
    ack_gap: Nanos,
    dead_peer: Nanos,
    /// Since when no path is up.
    orphan_since: Option<Timestamp>,
    checked_at: Timestamp,
    failure: Option<String>,
    gone: bool,
}

/// Takes what arrives over a path into the engine of its receiver.
#[derive(Debug)]
pub struct Inbound<'a> {
    engine: &'a mut RxEngine,
    path: u8,
    now: Timestamp,
}

impl<'a> Inbound<'a> {
    /// Of this path.
    #[must_use]
    pub fn new(engine: &'a mut RxEngine, path: u8, now: Timestamp) -> Self {
        Self { engine, path, now }
    }
}

impl Receiver for Inbound<'_> {
    fn frame(&mut self, header: &[u8], arrived_ns: u64) -> Result<Option<Sink>, Violation> {
        let frame = Frame::decode(header)?;
        let arrived_ns = if arrived_ns == 0 && matches!(frame, Frame::Ping { .. }) {
            wall_ns()
        } else {
            arrived_ns
        };
        self.engine.handle_frame(self.path, frame, arrived_ns)
    }

    fn payload_done(&mut self) {
        self.engine.handle_payload_done(self.path);
    }

    fn written(&mut self, immediate: u32, bytes: u32) -> Result<(), Violation> {
        self.engine.handle_immediate(self.path, immediate, bytes)
    }

    fn now(&self) -> Timestamp {
        self.now
    }
}

/// What [`RxLink::new`] needs to know.
#[derive(Debug, Clone)]
pub struct RxParams {
    /// What the link is known by.
    pub id: [u8; 16],
    /// Where the peer listens.
    pub peer: SocketAddr,
    /// Path slots.
    pub paths: u8,
    /// Our ports, where it comes over RDMA.
    pub rdma: Option<LinkPorts>,
    /// All paths gone for so long: the peer is dead.
    pub dead_peer: Nanos,
}

impl RxLink {
    /// A link that waits for its first channel.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(
        engine: RxEngine,
        params: &RxParams,
        host: Arc<dyn RxHost>,
    ) -> io::Result<Arc<Self>> {
        let arrivals = Arrivals::new()?;
        let poll_fd = arrivals.poller.fd();
        let now = Timestamp::now();
        let path = || PathIo {
            channel: None,
            epoch: 0,
            place: 0,
        };
        let names: Vec<String> = params.rdma.as_ref().map_or_else(Vec::new, LinkPorts::names);
        let inner = RxInner {
            engine,
            paths: (0..params.paths).map(|_| path()).collect(),
            conns: BTreeMap::new(),
            arrivals,
            left_at: vec![Timestamp::ZERO; names.len()],
            moves: Moves::new(names),
            is_looked_at: params.rdma.is_some(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            timer_at: Timestamp::ZERO,
            ack_at: Timestamp::ZERO,
            ack_gap: if params.rdma.is_some() {
                LOCAL_ACK_GAP
            } else {
                TIMER_GAP
            },
            dead_peer: params.dead_peer,
            orphan_since: Some(now),
            checked_at: now,
            failure: None,
            gone: false,
        };
        Ok(Arc::new_cyclic(|me| Self {
            inner: TryLock::new(inner),
            turns: Turns::new(poll_fd, params.rdma.is_some()),
            mailbox: Mutex::default(),
            failing: Mutex::new(None),
            host,
            me: me.clone(),
            id: params.id,
            peer: params.peer,
            name: params.peer.to_string(),
            rdma: params.rdma.clone(),
        }))
    }

    /// Closes a connection: when this returns, none of its buffers is written any more.
    pub fn close(&self, conn: u32) {
        let mut inner = self.inner.lock_spinning();
        inner.conns.remove(&conn);
        inner.moves.forget(conn);
        if inner.is_looked_at && inner.engine.has_credits(conn) {
            inner.revoke(self);
        }
        let arriving: Vec<u8> = inner.engine.arriving_for(conn).collect();
        for path in arriving {
            if let Some(channel) = &mut inner.paths[usize::from(path)].channel {
                channel.discard_arriving();
            }
        }
        inner.engine.close(conn);
        inner.step(self, Step::Submit, Timestamp::now());
        drop(inner);
        self.catch_up();
    }

    /// The session closes: says good-bye and ends every receive. Whoever still waits for one is
    /// told when it asks.
    pub fn shut(&self) {
        let mut inner = self.inner.lock_spinning();
        inner.goodbye();
        inner.fail("the session has been closed".into());
        self.turns.leave();
    }

    /// Something was pushed to a connection's queue.
    pub fn submitted(&self) {
        self.turns.leave();
        self.drive(Step::Submit);
    }

    /// Hands a new channel to whoever drives the link next, and drives it if nobody does.
    pub fn mail(&self, new: NewChannel) {
        self.leave(|mail| mail.channels.push(new));
        self.drive(Step::Progress);
    }

    /// Something has happened at a port of this host, by its index there.
    pub fn port_event(&self, port: usize, event: PortEvent) {
        if let Some(place) = self.rdma.as_ref().and_then(|ports| ports.place_of(port)) {
            self.happens(place, event);
        }
    }

    fn happens(&self, place: usize, event: PortEvent) {
        self.leave(|mail| mail.ports.push((place, event)));
        self.drive(Step::Progress);
    }

    /// Starts a flush of these buffers, as that request of a connection.
    pub fn flush(&self, conn: u32, slot: u16, buffers: &[(u64, Keys)]) {
        let mut flush = Flush {
            conn,
            slot,
            count: buffers.len().min(MAX_RECVS),
            buffers: [(0, Keys::default()); MAX_RECVS],
        };
        flush.buffers[..flush.count].copy_from_slice(&buffers[..flush.count]);
        self.leave(|mail| mail.flushes.push(flush));
        self.drive(Step::Progress);
    }

    /// Memory of a GPU has been registered: what it needs beside paths is made, aside.
    pub fn expect_moves(&self) {
        self.leave(|mail| mail.expects_moves = true);
        self.drive(Step::Submit);
    }

    /// The mover of a place has been made, or cannot be.
    fn made(&self, place: usize, made: Made) {
        self.leave(|mail| mail.movers.push((place, made)));
        self.drive(Step::Submit);
    }

    fn leave(&self, what: impl FnOnce(&mut Mail)) {
        what(&mut self.mailbox.lock().unwrap_or_else(PoisonError::into_inner));
        self.turns.leave();
    }

    /// Makes a mover on a thread of its own: its memory is pinned, and its queue pair connected.
    fn make_mover(&self, place: usize) {
        let (Some(me), Some(LinkPorts { adapters, ports })) = (self.me.upgrade(), &self.rdma)
        else {
            return;
        };
        let (adapters, port) = (Arc::clone(adapters), ports[place]);
        let spawned = std::thread::Builder::new()
            .name("thalweg-aside".into())
            .spawn(move || me.made(place, adapters.within_host(port)));
        if let Err(error) = spawned {
            let made = Err(format!("no thread: {error}"));
            self.leave(|mail| mail.movers.push((place, made)));
        }
    }

    /// The control plane has found out that the peer is gone.
    pub fn fail(&self, reason: String) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.turns.leave();
        self.drive(Step::Progress);
    }

    /// The inside, unless somebody is driving.
    #[must_use]
    pub fn try_inner(&self) -> Option<TryLockGuard<'_, RxInner>> {
        self.inner.try_lock()
    }
}

impl OfKind for RxLink {
    type Inner = RxInner;

    fn parts(&self) -> (&TryLock<RxInner>, &Turns) {
        (&self.inner, &self.turns)
    }
}

impl Inner for RxInner {
    type Link = RxLink;

    fn step(&mut self, link: &RxLink, step: Step, now: Timestamp) -> bool {
        if link.turns.take() {
            self.collect(link, now);
        }
        let timers_are_due = now >= self.timer_at;
        let step = if timers_are_due { Step::Sweep } else { step };
        let received = step != Step::Submit && self.receive(link, step, now);
        if timers_are_due {
            self.timer_at = now + TIMER_GAP;
            self.timers(link, now);
        }
        self.act(link);
        if self.moves.is_busy() {
            self.do_moves(link, now);
        }
        let late = now >= self.ack_at;
        if late {
            self.ack_at = now + self.ack_gap;
        }
        let sent = self.transmit(link, late, now);
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
        let unsent = |p: &PathIo| p.channel.as_ref().is_some_and(Channel::has_unsent);
        if self.paths.iter().any(unsent) {
            return Some(now + Nanos::from_millis(5));
        }
        if self.moves.is_busy() {
            return Some(now + Nanos::from_millis(1));
        }
        let orphaned = self.orphan_since.is_some() && !self.conns.is_empty();
        let due = self.engine.poll_timeout(now);
        let check = orphaned.then(|| now + Nanos::from_millis(20));
        due.into_iter().chain(check).min()
    }
}

impl RxInner {
    /// Whether the link is over: the peer said good-bye or failed, and no connection is left.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        let abandoned = self
            .orphan_since
            .is_some_and(|since| now.since(since) >= self.dead_peer);
        self.conns.is_empty() && (self.gone || self.failure.is_some() || abandoned)
    }

    /// Says good-bye and closes every channel.
    pub fn goodbye(&mut self) {
        self.acknowledge();
        super::goodbye(self.channels());
        self.paths.iter_mut().for_each(|io| io.channel = None);
    }

    fn collect(&mut self, link: &RxLink, now: Timestamp) {
        if let Some(reason) = link
            .failing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            && self.orphan_since.is_some()
        {
            self.fail(reason);
        }
        let mail =
            std::mem::take(&mut *link.mailbox.lock().unwrap_or_else(PoisonError::into_inner));
        for new in mail.channels {
            self.install(link, new);
        }
        for (place, event) in mail.ports {
            self.handle_port(link, place, event);
        }
        for (place, made) in mail.movers {
            self.moves.made(place, made);
        }
        if mail.expects_moves {
            self.moves.prepare();
        }
        for flush in mail.flushes {
            self.flush(&flush);
        }
        let Self { conns, engine, .. } = self;
        for (&id, (conn, queue)) in conns.iter_mut() {
            while let Some(s) = queue.pop() {
                conn.taken_up(s.slot, now);
                engine.post(id, s.token(id), s.tag, s.range, s.keys);
            }
        }
    }

    /// Flushes over each port that a path goes over, or went over so shortly ago that what it wrote may
    /// still be on its way.
    fn flush(&mut self, flush: &Flush) {
        if !self.conns.contains_key(&flush.conn) {
            return;
        }
        let now = Timestamp::now();
        let places = self.left_at.iter().enumerate().filter(|(place, left_at)| {
            is_up(&self.paths, *place) || now.since(**left_at) < moves::SETTLED
        });
        let places = places.map(|(place, _)| place);
        let token = token(flush.conn, flush.slot, 0);
        self.moves
            .flush(token, &flush.buffers[..flush.count], places, now);
    }

    fn do_moves(&mut self, link: &RxLink, now: Timestamp) {
        let Self { moves, paths, .. } = self;
        let outcome = moves.step(|place| is_up(paths, place), now);
        for place in outcome.make {
            link.make_mover(place);
        }
        for note in outcome.notes {
            link.host.note(link, &note);
        }
        for (token, result) in outcome.ended {
            let (conn, slot, sub) = untoken(token);
            if let Some((conn, _)) = self.conns.get(&conn) {
                let error = |what| {
                    let text = format!("receive from {}: {what}", link.name);
                    Error::new(ErrorKind::System, text)
                };
                conn.ended(slot, sub, result.map_err(error), now);
            }
        }
    }

    /// The sender hears at once of what is lost, and dials what comes back.
    fn handle_port(&mut self, link: &RxLink, place: usize, event: PortEvent) {
        for path in 0..self.paths.len() {
            let io = &self.paths[path];
            let is_lost = io.place == place
                && io.channel.as_ref().is_some_and(|channel| match event {
                    PortEvent::Down => true,
                    PortEvent::Up => false,
                    PortEvent::Failed(part) => channel.has(part),
                });
            if is_lost {
                self.broken(link, path, &ChannelError::Closed, Timestamp::now());
            }
        }
    }

    fn install(&mut self, link: &RxLink, mut new: NewChannel) {
        let index = usize::from(new.path);
        // Whoever has not heard that its credits are void must not come back.
        let is_void = self.failure.is_some();
        let is_known = index < self.paths.len();
        if is_void || !is_known || !self.engine.admits_channel(new.path, new.epoch) {
            new.channel.abort();
            return;
        }
        // The older channel must be silent before its count is told.
        self.silence(index);
        let previous = self.engine.handle_path_up(new.path, new.epoch, new.fence);
        self.engine.name_path(new.path, &super::ends(new.addrs));
        let is_welcome = link.host.welcome(link, &mut new, previous).is_ok();
        new.channel.keep(new.socket);
        if !is_welcome || self.arrivals.add(&new.channel, new.path).is_err() {
            self.engine.handle_path_down(new.path, new.epoch);
            return;
        }
        new.channel.arm();
        self.paths[index] = PathIo {
            channel: Some(new.channel),
            epoch: new.epoch,
            place: usize::from(new.place),
        };
        self.orphan_since = None;
    }

    /// Queues the acknowledgements of all that has arrived.
    fn acknowledge(&mut self) {
        while let Some(ack) = self.engine.poll_ack(true) {
            if let Some(channel) = &mut self.paths[usize::from(ack.path)].channel {
                channel.queue(ack.header, MemRange::default(), 0);
            }
        }
    }

    /// Whoever has a credit may write at any moment, until every path is silent.
    fn revoke(&mut self, link: &RxLink) {
        let now = Timestamp::now();
        // The process may end next: nobody else can say then what has arrived.
        self.acknowledge();
        for channel in self.paths.iter_mut().filter_map(|io| io.channel.as_mut()) {
            let _ = channel.flush();
        }
        let until = now + super::GOODBYE_MAX;
        for (path, io) in self.paths.iter_mut().enumerate() {
            // What arrives meanwhile counts: the peer's adapter tells it.
            let mut inbound = Inbound::new(&mut self.engine, index_u8(path), now);
            if let Some(channel) = &mut io.channel {
                channel.settle(until, Some(&mut inbound));
            }
        }
        for path in 0..self.paths.len() {
            if self.paths[path].channel.is_some() {
                self.broken(link, path, &ChannelError::Closed, now);
            }
        }
    }

    fn drop_channel(&mut self, index: usize) {
        if let Some(channel) = self.paths[index].channel.take() {
            self.arrivals.remove(&channel);
            channel.abort();
            if let Some(left_at) = self.left_at.get_mut(self.paths[index].place) {
                *left_at = Timestamp::now();
            }
        }
    }

    fn receive(&mut self, link: &RxLink, step: Step, now: Timestamp) -> bool {
        if self.is_looked_at {
            let mut any = false;
            for path in self.arrivals.looks(step, self.paths.len()) {
                if self.receive_path(link, path, now) > 0 {
                    self.arrivals.hot = path;
                    any = true;
                }
            }
            return any;
        }
        let got = self.receive_path(link, self.arrivals.hot, now);
        let mut any = got > 0;
        let others =
            |(path, io): (usize, &PathIo)| path != self.arrivals.hot && io.channel.is_some();
        if !self.paths.iter().enumerate().any(others) {
            return any;
        }
        for path in self.arrivals.others(got, now) {
            if self.receive_path(link, path, now) > 0 {
                self.arrivals.hot = path;
                any = true;
            }
        }
        any
    }

    fn receive_path(&mut self, link: &RxLink, path: usize, now: Timestamp) -> usize {
        let Self {
            paths,
            engine,
            scratch,
            ..
        } = self;
        let Some(channel) = &mut paths[path].channel else {
            return 0;
        };
        let mut inbound = Inbound::new(engine, index_u8(path), now);
        match channel.receive(scratch, &mut inbound) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.broken(link, path, &error, now);
                0
            }
        }
    }

    /// Takes in what has come over a path, and closes it: nothing is written by it any more.
    fn silence(&mut self, path: usize) {
        let Self {
            paths,
            engine,
            scratch,
            ..
        } = self;
        if let Some(channel) = &mut paths[path].channel {
            let mut inbound = Inbound::new(engine, index_u8(path), Timestamp::now());
            channel.silence(scratch, &mut inbound);
        }
        self.drop_channel(path);
    }

    fn broken(&mut self, link: &RxLink, path: usize, error: &ChannelError, now: Timestamp) {
        let mut is_trusted = true;
        if let ChannelError::Violation(violation) = error {
            is_trusted = self.is_looked_at;
            link.host.note(
                link,
                &format!(
                    "path {path} from {} closed: {violation}; the peer runs another version or \
                     something else writes to this port",
                    link.name
                ),
            );
        }
        if is_trusted {
            // What came before counts, whatever came after: the peer's adapter has told it of that, or a last message or
            // a good-bye lies in the socket.
            self.silence(path);
        }
        self.drop_channel(path);
        self.engine
            .handle_path_down(index_u8(path), self.paths[path].epoch);
        if self.paths.iter().all(|p| p.channel.is_none()) {
            self.orphan_since.get_or_insert(now);
            if self.gone {
                self.fail("the peer closed the link".into());
            }
        }
    }

    fn fail(&mut self, reason: String) {
        if self.failure.is_some() {
            return;
        }
        // The peer could still write where it was given credits, and what has arrived in part would go on to: not
        // after the receives have ended.
        for path in 0..self.paths.len() {
            self.silence(path);
        }
        self.failure = Some(reason);
        self.engine.fail();
    }

    fn timers(&mut self, link: &RxLink, now: Timestamp) {
        for path in 0..self.paths.len() {
            let Some(channel) = &mut self.paths[path].channel else {
                continue;
            };
            if self.engine.wants_stats(index_u8(path)) {
                let stats = channel.stats();
                self.engine.handle_stats(index_u8(path), &stats, now);
            }
            if channel.is_abandoned() {
                self.broken(link, path, &ChannelError::Closed, now);
            }
        }
        self.engine.handle_timeout(now);
        if self.conns.is_empty() || self.failure.is_some() {
            return;
        }
        let silent = now.since(self.engine.last_life());
        if silent >= self.dead_peer {
            let ms = silent.as_millis();
            self.fail(format!(
                "no path has been acknowledged for {ms} ms (limit: THALWEG_DEAD_PEER_MS)"
            ));
        } else if self.orphan_since.is_some()
            && now.since(self.checked_at) >= Nanos::from_millis(100)
        {
            self.checked_at = now;
            if let Some(me) = link.me.upgrade() {
                link.host.check_peer(&me);
            }
        }
    }

    fn act(&mut self, link: &RxLink) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                RxAction::Silence { path, epoch } => {
                    // What has reached this host need not be sent again.
                    self.silence(usize::from(path));
                    self.engine.handle_silenced(path, epoch);
                }
                RxAction::Opened { conn, listener } => {
                    if self.conns.contains_key(&conn) {
                        continue; // said twice before it was answered
                    }
                    let Some(me) = link.me.upgrade() else {
                        continue;
                    };
                    let recorder = self.engine.record_connection(conn);
                    let (end, queue) = Conn::new(conn, LinkRef::Rx(me), recorder);
                    let accepted = link.host.accept(listener, Arc::clone(&end));
                    if accepted {
                        self.conns.insert(conn, (end, queue));
                    }
                    self.engine.answer_open(conn, accepted);
                }
                RxAction::Goodbye => {
                    // Data may still be under way on other paths: the link ends with the last.
                    self.gone = true;
                }
            }
        }
    }

    fn transmit(&mut self, link: &RxLink, late: bool, now: Timestamp) -> bool {
        let mut touched = 0u64;
        while let Some(t) = self
            .engine
            .poll_ack(late)
            .or_else(|| self.engine.poll_transmit())
        {
            touched |= 1 << t.path;
            if let Some(channel) = &mut self.paths[usize::from(t.path)].channel {
                channel.queue(t.header, MemRange::default(), 0);
            }
        }
        for path in 0..self.paths.len() {
            let Some(channel) = &mut self.paths[path].channel else {
                continue;
            };
            if (touched >> path & 1 == 1 || channel.has_unsent())
                && let Err(error) = channel.flush()
            {
                self.broken(link, path, &error, now);
            }
        }
        touched != 0
    }

    fn report(&mut self, link: &RxLink, now: Timestamp) {
        while let Some((data, target)) = self.engine.poll_copy() {
            // SAFETY: the engine made `target` a part of a posted buffer, which its owner keeps
            // valid until the receive ends, and that is told only below.
            unsafe {
                std::ptr::copy_nonoverlapping(data.as_ptr(), target.addr as *mut u8, data.len());
            }
        }
        while let Some(landing) = self.engine.poll_landing() {
            let place = (0..self.left_at.len()).find(|&place| is_up(&self.paths, place));
            self.moves
                .bring(landing, place.unwrap_or(0), Timestamp::now());
        }
        while let Some(done) = self.engine.poll_completion() {
            let (conn, slot, sub) = untoken(done.token);
            let Some((conn, _)) = self.conns.get(&conn) else {
                continue;
            };
            let result = done.result.map_err(|error| match error {
                RecvError::TooLong { .. } => Error::new(
                    ErrorKind::InvalidUsage,
                    format!("receive from {}: {error}", link.name),
                ),
                RecvError::PeerClosed => Error::new(
                    ErrorKind::Remote,
                    format!("receive from {}: {error}", link.name),
                ),
                RecvError::LinkFailed => Error::new(
                    ErrorKind::Remote,
                    format!(
                        "link from {}: {}",
                        link.name,
                        self.failure
                            .as_deref()
                            .unwrap_or("it failed for an unknown reason")
                    ),
                ),
            });
            conn.ended(slot, sub, result, now);
        }
    }
}

/// Whether a path goes over the port of this place.
fn is_up(paths: &[PathIo], place: usize) -> bool {
    paths
        .iter()
        .any(|io| io.place == place && io.channel.is_some())
}

fn index_u8(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire::Immediate;
    use crate::engine::{Completions, EngineConfig};
    use crate::transport::scripted::Scripted;
    use crate::transport::verbs::{Failed, Move, Mover, Part};
    use crate::units::Nanos;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU32, Ordering};

    const CONN: u32 = 7;
    const CHUNK: u32 = 8192;

    /// A session that takes every connection and writes down the welcomes.
    #[derive(Debug, Default)]
    struct Host {
        welcomes: Mutex<Vec<Option<PathCount>>>,
        accepted: Mutex<Vec<Arc<Conn>>>,
        notes: AtomicU32,
    }

    impl RxHost for Host {
        fn welcome(
            &self,
            _link: &RxLink,
            _new: &mut NewChannel,
            previous: Option<PathCount>,
        ) -> io::Result<()> {
            self.welcomes.lock().unwrap().push(previous);
            Ok(())
        }

        fn accept(&self, _listener: u64, conn: Arc<Conn>) -> bool {
            self.accepted.lock().unwrap().push(conn);
            true
        }

        fn note(&self, _link: &RxLink, _text: &str) {
            self.notes.fetch_add(1, Ordering::Relaxed);
        }

        fn check_peer(&self, _link: &Arc<RxLink>) {}
    }

    struct Fixture {
        host: Arc<Host>,
        link: Arc<RxLink>,
        buffer: Box<[u8]>,
    }

    impl Fixture {
        /// With a connection, and a receive whose credit has been sent.
        fn new(dead_peer: Nanos) -> Self {
            let config = EngineConfig {
                paths_max: 2,
                search: false,
                chunk_bytes: Some(CHUNK),
                completions: Completions::Local,
                receive_depth: Some(16),
                ..EngineConfig::default()
            };
            let host = Arc::new(Host::default());
            let params = RxParams {
                id: [0; 16],
                peer: SocketAddr::from(([127, 0, 0, 1], 1)),
                paths: 2,
                rdma: None,
                dead_peer,
            };
            let engine = RxEngine::new(config, Timestamp::now());
            let link = RxLink::new(engine, &params, Arc::<Host>::clone(&host)).unwrap();
            // As if it had adapters: none of them is asked for anything here.
            link.inner.lock_spinning().is_looked_at = true;
            let open = Frame::Open {
                conn: CONN,
                listener: 1,
            };
            let mut this = Self {
                host,
                link,
                buffer: vec![0; 1 << 16].into_boxed_slice(),
            };
            this.up(
                0,
                1,
                None,
                Scripted {
                    arriving: vec![open.encode()],
                    ..Scripted::default()
                },
            );
            this.link.drive(Step::Progress);
            let range = MemRange {
                addr: this.buffer.as_mut_ptr() as u64,
                len: this.buffer.len() as u64,
            };
            let mut inner = this.link.inner.lock_spinning();
            inner.engine.post(CONN, 1, 0, range, Keys::default());
            inner.step(&this.link, Step::Submit, Timestamp::now());
            assert!(inner.engine.has_credits(CONN));
            drop(inner);
            this
        }

        fn up(&self, path: u8, epoch: u16, fence: Option<u16>, channel: Scripted) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            self.link.mail(NewChannel {
                path,
                epoch,
                addrs: (socket.local_addr().unwrap(), socket.peer_addr().unwrap()),
                place: path,
                fence,
                channel: AnyChannel::Scripted(Box::new(channel)),
                socket,
                end: None,
                nonces: ([0; 16], [0; 16]),
            });
        }

        fn with(&self, path: usize, change: impl FnOnce(&mut Scripted)) {
            let mut inner = self.link.inner.lock_spinning();
            if let Some(AnyChannel::Scripted(channel)) = &mut inner.paths[path].channel {
                change(channel);
            }
        }

        fn paths_up(&self) -> usize {
            let inner = self.link.inner.lock_spinning();
            inner.paths.iter().filter(|p| p.channel.is_some()).count()
        }
    }

    fn chunk(index: u32, last: bool) -> u32 {
        let immediate = Immediate {
            slot: 0,
            generation: 0,
            index,
            last,
        };
        immediate.pack().unwrap()
    }

    /// The peer's adapter tells it that a write has arrived, whatever becomes of our end: what is not
    /// counted would never be sent again.
    #[test]
    fn what_came_before_a_path_broke_is_counted() {
        let ping = Frame::Ping { id: 1, sent_ns: 1 };
        let wrong = Frame::Lost { path: 0, epoch: 1 };
        for (is_looked_at, refuses, arrives, count) in [
            (true, true, ping, 1),
            (true, false, wrong, 1),
            (false, true, ping, 1),
            // Nothing more is taken from whoever breaks the rules, where that has not been told of it.
            (false, false, wrong, 0),
        ] {
            let link = Fixture::new(Nanos::from_secs(30));
            link.link.inner.lock_spinning().is_looked_at = is_looked_at;
            link.with(0, |channel| {
                channel.left = vec![(chunk(0, false), CHUNK)];
                channel.refuses = refuses;
                channel.arriving = vec![arrives.encode()];
            });
            link.link.drive(Step::Progress);
            assert_eq!(link.paths_up(), 0);
            let breaks_rules = link.host.notes.load(Ordering::Relaxed) == 1;
            assert_eq!(breaks_rules, !refuses);
            link.up(0, 2, Some(1), Scripted::default());
            let count = PathCount {
                path: 0,
                epoch: 1,
                count,
            };
            assert_eq!(*link.host.welcomes.lock().unwrap(), [None, Some(count)]);
        }
    }

    /// Does at once what it is asked for, in this process: a byte of a flush is counted.
    #[derive(Debug, Default, Clone)]
    struct Instant(Arc<Mutex<(u32, usize)>>);

    impl Mover for Instant {
        fn begin(&mut self, step: Move<'_>) -> Result<bool, String> {
            let mut done = self.0.lock().unwrap();
            done.1 += 1;
            match step {
                Move::Flush { .. } => done.0 += 1,
                // SAFETY: the buffer of the fixture, which is there as long as its link.
                Move::Bring { data, addr, .. } => unsafe {
                    std::ptr::copy_nonoverlapping(data.as_ptr(), addr as *mut u8, data.len());
                },
            }
            Ok(true)
        }

        fn poll(&mut self, ended: &mut Vec<Result<(), Failed>>) {
            let count = std::mem::take(&mut self.0.lock().unwrap().1);
            ended.extend((0..count).map(|_| Ok(())));
        }

        fn silence(&mut self) {}

        fn end(&mut self) {}
    }

    impl Fixture {
        /// With ports, whose movers have been made.
        fn with_movers(&self, places: usize) -> Vec<Instant> {
            // Each its own: clones of one would count together.
            let movers: Vec<_> = (0..places).map(|_| Instant::default()).collect();
            let mut inner = self.link.inner.lock_spinning();
            inner.moves = Moves::new((0..places).map(|place| format!("port{place}")));
            inner.left_at = vec![Timestamp::ZERO; places];
            for (place, mover) in movers.iter().enumerate() {
                inner.moves.made(place, Ok(Box::new(mover.clone())));
            }
            movers
        }

        fn request(&self) -> Arc<Conn> {
            Arc::clone(&self.host.accepted.lock().unwrap()[0])
        }
    }

    #[test]
    fn a_flush_goes_over_the_ports_that_have_paths_or_had_some_just_now() {
        let link = Fixture::new(Nanos::from_secs(30));
        let movers = link.with_movers(3);
        link.up(1, 1, None, Scripted::default());
        let conn = link.request();
        let keys = Keys::new(&[1, 2, 3]).unwrap().of_gpu();
        let flush = || {
            // SAFETY: one at a time, and the connection is there.
            let slot = unsafe { conn.start_flush(&[(5, keys)]) }.unwrap();
            // SAFETY: as above.
            let done = (0..9)
                .find_map(|_| unsafe { slot.test() }.unwrap())
                .unwrap();
            assert_eq!(done.count, 0);
            let flushed = |mover: &Instant| mover.0.lock().unwrap().0;
            movers.iter().map(flushed).collect::<Vec<_>>()
        };
        assert_eq!(flush(), [1, 1, 0]);
        link.with(1, |channel| {
            channel.arriving = vec![Frame::Lost { path: 0, epoch: 1 }.encode()];
        });
        link.link.drive(Step::Sweep);
        assert_eq!(link.paths_up(), 1);
        assert_eq!(flush(), [2, 2, 0], "what it wrote may be on its way");
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(flush(), [3, 2, 0]);
    }

    #[test]
    fn so_many_flushes_at_once_and_each_is_given_back() {
        let link = Fixture::new(Nanos::from_secs(30));
        let conn = link.request();
        {
            let mut inner = link.link.inner.lock_spinning();
            inner.moves = Moves::new(["port0".to_owned()]);
            inner.left_at = vec![Timestamp::ZERO];
        }
        let keys = Keys::new(&[1]).unwrap().of_gpu();
        // SAFETY: one at a time, and the connection is there.
        let start = || unsafe { conn.start_flush(&[(5, keys)]) };
        let slots: Vec<_> = std::iter::from_fn(start).collect();
        assert_eq!(slots.len(), crate::session::MAX_REQUESTS);
        let mover = Instant::default();
        link.link.made(0, Ok(Box::new(mover.clone())));
        for slot in slots {
            // SAFETY: as above.
            let done = (0..99).find_map(|_| unsafe { slot.test() }.unwrap());
            assert!(done.is_some());
        }
        assert_eq!(mover.0.lock().unwrap().0, 32);
        assert!(start().is_some());
    }

    #[test]
    fn a_small_message_is_brought_to_a_gpu_before_it_is_told() {
        let mut link = Fixture::new(Nanos::from_secs(30));
        let movers = link.with_movers(1);
        let data = [7u8; 16];
        {
            let mut inner = link.link.inner.lock_spinning();
            let target = MemRange {
                addr: link.buffer.as_mut_ptr() as u64,
                len: 64,
            };
            let keys = Keys::new(&[1]).unwrap().of_gpu();
            inner.engine.post(CONN, 2, 5, target, keys);
            let eager = crate::engine::wire::Eager {
                conn: CONN,
                tag: 5,
                ordinal: 0,
                payload: 16,
            };
            let sink = inner
                .engine
                .handle_frame(0, Frame::Eager(eager), 0)
                .unwrap();
            let Some(Sink::Place(place)) = sink else {
                panic!("{sink:?}")
            };
            assert_ne!(place.addr, target.addr);
            // SAFETY: the engine's own memory for it.
            unsafe {
                std::ptr::copy_nonoverlapping(data.as_ptr(), place.addr as *mut u8, 16);
            }
            inner.engine.handle_payload_done(0);
        }
        for _ in 0..3 {
            link.link.drive(Step::Progress);
        }
        assert_eq!(link.buffer[..17], [&data[..], &[0]].concat());
        assert_eq!(movers[0].0.lock().unwrap().0, 0);
        let inner = link.link.inner.lock_spinning();
        assert!(!inner.moves.is_busy());
    }

    /// An adapter says what has become of a port or of one queue pair: the sender hears of it over
    /// another path, and what had come is counted.
    #[test]
    fn what_an_adapter_says_has_failed_is_lost_at_once() {
        let link = Fixture::new(Nanos::from_secs(30));
        let part = Part::QueuePair(77);
        link.up(1, 1, None, Scripted::default());
        link.with(0, |channel| channel.part = Some(part));
        let happens = |place, event| link.link.happens(place, event);
        happens(0, PortEvent::Up);
        happens(0, PortEvent::Failed(Part::CompletionQueue(77)));
        happens(1, PortEvent::Failed(part));
        assert_eq!(link.paths_up(), 2);
        link.with(0, |channel| channel.left = vec![(chunk(0, false), CHUNK)]);
        happens(0, PortEvent::Failed(part));
        assert_eq!(link.paths_up(), 1);
        link.up(0, 2, Some(1), Scripted::default());
        let count = PathCount {
            path: 0,
            epoch: 1,
            count: 1,
        };
        let last = link.host.welcomes.lock().unwrap().pop();
        assert_eq!(last, Some(Some(count)));
        happens(1, PortEvent::Down);
        assert_eq!(link.paths_up(), 1);
        happens(0, PortEvent::Down);
        assert_eq!(link.paths_up(), 0);
    }

    /// A receive that is closed has the paths say their last words; what comes while they do is counted
    /// like what came before.
    #[test]
    fn what_comes_during_last_words_is_counted() {
        let link = Fixture::new(Nanos::from_secs(30));
        link.with(0, |channel| {
            channel.meanwhile = vec![(chunk(0, false), CHUNK)];
            channel.left = vec![(chunk(1, true), 10)];
        });
        link.link.close(CONN);
        assert_eq!(link.paths_up(), 0);
        link.up(0, 2, Some(1), Scripted::default());
        let count = PathCount {
            path: 0,
            epoch: 1,
            count: 2,
        };
        assert_eq!(*link.host.welcomes.lock().unwrap(), [None, Some(count)]);
    }

    /// The receive has ended, so its buffer may be used for something else.
    #[test]
    fn a_link_that_has_failed_is_silent_before_its_receives_end_and_stays_so() {
        for is_looked_at in [true, false] {
            let link = Fixture::new(Nanos::from_millis(1));
            link.up(1, 1, None, Scripted::default());
            link.with(0, |channel| {
                channel.left = vec![(chunk(0, false), CHUNK), (chunk(1, true), 10)];
            });
            assert_eq!(link.paths_up(), 2);
            let mut inner = link.link.inner.lock_spinning();
            inner.is_looked_at = is_looked_at;
            inner.fail("a test says so".into());
            // What had come is received, and nothing more can come.
            let done = inner.engine.poll_completion().unwrap();
            assert_eq!(done.result, Ok(u64::from(CHUNK) + 10));
            assert!(inner.engine.poll_completion().is_none());
            drop(inner);
            assert_eq!(link.paths_up(), 0);
            link.up(0, 2, Some(1), Scripted::default());
            assert_eq!(link.paths_up(), 0, "the peer may still have credits");
            assert_eq!(link.host.welcomes.lock().unwrap().len(), 2);
        }
    }
}
