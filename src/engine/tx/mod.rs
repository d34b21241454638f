//! The sending half of a link: messages, chunks, the choice of paths, fences and replay, and the
//! upkeep of the paths themselves (silence, redials, the search for further ways).
//!
//! A chunk that was given to a path is remembered in that path's queue until the path's count
//! says it has arrived. A path is an ordered channel, so one number, how many data frames came
//! through whole, says exactly which chunks of a fenced path arrived; the others are sent again
//! elsewhere, and only after that number has come back.

mod eager;
#[cfg(test)]
mod made;
mod message;
mod paths;
mod ports;
mod record;
mod transmit;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use self::eager::EagerEntry;
use self::message::{ConnState, Message, TxConn};
use self::paths::{Rehashes, TxPath};
pub use self::ports::PortSignals;
use self::ports::TxPort;
use self::record::Told;
use self::upkeep::{DIAL_BURST, DIAL_EARN};
use super::bitmap::SlidingBitmap;
use super::record::Record;
use super::wire::{self, Chunk, Frame, Header, Keys};
use super::{Completions, EAGER_WINDOW, EngineConfig, MemRange, Ordinals, UNHEARD};
use crate::clock::Timestamp;
use crate::control::{AnyController, Controller};
use crate::path::health::{Marks, Verdict};
use crate::path::loss::Lossy;
use crate::path::search::{self, Base, Moments};
use crate::path::select::{AnySelector, Selector, View};
use crate::units::{Bytes, Nanos};

/// What became of a submitted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// Copy the message here before the next `poll_transmit`; the send is done then.
    Copy(MemRange),
    /// It is queued; [`TxEngine::poll_completion`] tells when its buffer is free again.
    Queued,
}

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendDone {
    /// What the caller named the send by.
    pub token: u64,
    /// Bytes sent, or why they were not.
    pub result: Result<u64, SendError>,
}

/// Why a send failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// The receive buffer is too small.
    #[error("a message of {size} bytes is larger than its receive buffer of {capacity}")]
    TooLong {
        /// Bytes of the message.
        size: u64,
        /// Bytes of the buffer.
        capacity: u64,
    },
    /// The receiver closed the connection.
    #[error("the peer closed the connection with sends outstanding")]
    PeerClosed,
    /// The link failed; the link says why.
    #[error("the link failed")]
    LinkFailed,
}

/// Something for a path.
#[derive(Debug, Clone, Copy)]
pub enum Transmit {
    /// A frame without payload.
    Control {
        /// Path.
        path: u8,
        /// Frame.
        header: Header,
    },
    /// A ping, stamped with the wall clock as it leaves.
    Probe {
        /// Path.
        path: u8,
        /// Names the probe.
        id: u32,
    },
    /// A data frame: a chunk or an eager message.
    Data {
        /// Path.
        path: u8,
        /// Its header, for transports that send one.
        header: Header,
        /// The chunk, for transports that write it to memory; `None` for an eager message.
        write: Option<Write>,
        /// Its payload.
        source: MemRange,
        /// The connection it belongs to.
        conn: u32,
    },
}

/// A chunk that is written straight into the receiver's memory.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// Which one.
    pub chunk: Chunk,
    /// Where it goes: address at the receiver.
    pub addr: u64,
    /// The keys of the receiver's buffer.
    pub remote: Keys,
    /// The keys of the sender's buffer.
    pub local: Keys,
}

/// What the driver has to do for the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxAction {
    /// Dial this path. Answer with [`TxEngine::handle_path_up`] or [`TxEngine::handle_dial_failed`].
    Dial {
        /// Path.
        path: u8,
        /// Number of the new channel.
        epoch: u16,
        /// Use the local port of the channel that died, to find out whether its way is back.
        same_port: bool,
        /// An earlier channel whose fence has not been answered: the hello asks again.
        fence: Option<u16>,
        /// Give up after this long.
        deadline: Nanos,
    },
    /// Close this channel at once, with whatever it holds.
    Close {
        /// Path.
        path: u8,
        /// Its channel.
        epoch: u16,
    },
}

/// Something a user may want to know, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxEvent {
    /// A path was fenced.
    Fenced {
        /// Path.
        path: u8,
        /// Why.
        reason: FenceReason,
        /// Data frames it held.
        outstanding: usize,
    },
    /// A path that stayed slower than its siblings leaves from another source port now.
    Rerouted {
        /// Path.
        path: u8,
    },
    /// The answer to a fence came: so many frames are sent again.
    Replayed {
        /// Path.
        path: u8,
        /// Frames to send again.
        frames: usize,
    },
    /// A path carries chunks from now on.
    Joined {
        /// Path.
        path: u8,
        /// What its probes showed, if it was probed.
        probes: Option<Probes>,
    },
    /// A candidate shares a way with an active path and is dropped.
    Collided {
        /// Path.
        path: u8,
        /// What its probes showed.
        probes: Probes,
    },
    /// A port loses packets and is left.
    Lossy {
        /// Which of the link's own.
        port: u8,
        /// What its adapter has counted.
        found: Lossy,
    },
    /// The search for further ways has ended.
    SearchEnded {
        /// Paths in use.
        active: usize,
    },
    /// The link failed.
    Failed {
        /// Why.
        reason: String,
        /// Sends that were outstanding: without any it is the end of a job, not a fault.
        sends: usize,
    },
}

/// The evidence of the search for ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probes {
    /// How long the candidate's probes waited on its way, on average.
    pub waited: Nanos,
    /// How long those on the paths in use did at the same moments.
    pub queue: Nanos,
}

/// Why a path was fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceReason {
    /// Nothing was acknowledged for so long while a sibling lived.
    Silent(Nanos),
    /// The channel reported an error or was closed.
    Broken,
    /// The receiver lost it.
    LostByPeer,
    /// It stayed slower than its siblings: another source port takes its place.
    Slow,
    /// The port that it leaves by is down, or has another address now.
    PortDown,
}

/// What state a path is in, in the order of [`PATH_STATES`](crate::telemetry::schema::PATH_STATES).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// No channel.
    Vacant,
    /// Being dialled.
    Dialing,
    /// Up, but carries no chunks: a candidate, or a reserve.
    Standby,
    /// Carries chunks.
    Active,
    /// Without a channel, and the answer to its fence has not come.
    Fenced,
}

/// A path as it is shown to people.
#[derive(Debug, Clone, Copy)]
pub struct PathInfo {
    /// State.
    pub state: PathState,
    /// Quiet for longer than it should be.
    pub suspect: bool,
    /// Payload bytes given to it, all channels together.
    pub bytes: u64,
    /// Bytes given to it and not acknowledged.
    pub outstanding: u64,
    /// Measured rate, bytes per second; 0 as long as it has none.
    pub rate: u64,
    /// Smoothed round trip.
    pub rtt: Nanos,
    /// Smallest round trip.
    pub rtt_min: Nanos,
    /// Marks of its channel so far, where queues can mark what it carries.
    pub marks: Option<Marks>,
}

/// The sending half of a link.
#[derive(Debug)]
pub struct TxEngine {
    config: EngineConfig,
    controller: AnyController,
    selector: AnySelector,
    conns: BTreeMap<u32, TxConn>,
    conn_next: u32,
    messages: Vec<Message>,
    free_messages: Vec<u32>,
    /// Connections with chunks to send, in turn.
    turns: VecDeque<u32>,
    replays: VecDeque<(u32, u32)>,
    paths: Vec<TxPath>,
    ports: Vec<TxPort>,
    views: Vec<View>,
    in_flight: u64,
    acked_since_sample: u64,
    marks_since_sample: Marks,
    ring: Box<[u8]>,
    ring_head: u64,
    ring_tail: u64,
    eager: VecDeque<EagerEntry>,
    eager_first: u64,
    eager_queue: VecDeque<u64>,
    eager_sent: u64,
    eager_consumed: u64,
    eager_path: Option<usize>,
    control: VecDeque<(Option<u8>, Header)>,
    /// Paths to probe, and the moment of the search that each probe belongs to; 0 for none.
    probes: VecDeque<(u8, u32)>,
    actions: VecDeque<TxAction>,
    done: VecDeque<SendDone>,
    events: VecDeque<TxEvent>,
    base: Base,
    /// The latest departure of anything whose arrival is known.
    newest_arrival: Timestamp,
    /// The time of the last completion or timeout.
    now: Timestamp,
    /// The least time from a chunk's departure to its completion.
    base_rtt: Base,
    /// Least time that the adapter was said to need for a byte, in units of 2^-10 ns.
    adapter_byte_time: u64,
    /// Since when there has been more to send than the paths take.
    backlog_since: Option<Timestamp>,
    moments: Moments,
    misses: u32,
    search_ended_at: Option<Timestamp>,
    rehashes: Rehashes,
    /// A path that is to have another source port, if the transport can do that.
    reroute: Option<u8>,
    dial_tokens: u32,
    dial_earned_at: Timestamp,
    last_life: Timestamp,
    /// The peer has said good-bye: what it closes is not dialled again.
    peer_leaves: bool,
    grants: Option<Grants>,
    /// A path has been up: there may be credits from before those that come up now.
    had_path: bool,
    failed: Option<String>,
    record: Record,
    told: Told,
}

/// What the receiver has allowed, and what it has been told. Bytes of chunks since the link began.
#[derive(Debug, Clone, Copy)]
struct Grants {
    granted: u64,
    /// Of messages that have been begun.
    started: u64,
    /// Given to paths for the first time.
    sent: u64,
    /// Begun, and never to be sent.
    abandoned: u64,
    /// The receiver knows of so many started and abandoned.
    told: (u64, u64),
}

impl TxEngine {
    /// A link without connections; its first path is dialled at once.
    #[must_use]
    pub fn new(
        config: EngineConfig,
        controller: AnyController,
        selector: AnySelector,
        now: Timestamp,
    ) -> Self {
        let view = View {
            usable: false,
            outstanding: Bytes(0),
            cap: Bytes(0),
            byte_time: 0,
            delay_ns: 0,
            rtt: Nanos::ZERO,
        };
        Self {
            config,
            controller,
            selector,
            conns: BTreeMap::new(),
            conn_next: 1,
            messages: Vec::new(),
            free_messages: Vec::new(),
            turns: VecDeque::new(),
            replays: VecDeque::new(),
            paths: (0..config.paths_max)
                .map(|path| TxPath {
                    port: path % config.ports.max(1),
                    ..TxPath::new(now, config.paths_max.into())
                })
                .collect(),
            ports: (0..config.ports.max(1))
                .map(|_| TxPort::default())
                .collect(),
            views: vec![view; usize::from(config.paths_max)],
            in_flight: 0,
            acked_since_sample: 0,
            marks_since_sample: Marks::default(),
            ring: Box::default(),
            ring_head: 0,
            ring_tail: 0,
            eager: VecDeque::new(),
            eager_first: 0,
            eager_queue: VecDeque::new(),
            eager_sent: 0,
            eager_consumed: 0,
            eager_path: None,
            control: VecDeque::new(),
            probes: VecDeque::new(),
            actions: VecDeque::new(),
            done: VecDeque::new(),
            events: VecDeque::new(),
            base: Base::default(),
            newest_arrival: Timestamp::ZERO,
            now,
            base_rtt: Base::default(),
            adapter_byte_time: u64::MAX >> 1,
            backlog_since: None,
            moments: Moments::new(config.paths_max.into()),
            misses: 0,
            search_ended_at: None,
            rehashes: Rehashes::new(config.paths_max, now),
            reroute: None,
            dial_tokens: DIAL_BURST,
            dial_earned_at: now,
            last_life: now,
            peer_leaves: false,
            grants: config.first_grant.map(|granted| Grants {
                granted,
                started: 0,
                sent: 0,
                abandoned: 0,
                told: (0, 0),
            }),
            had_path: false,
            failed: None,
            record: Record::default(),
            told: Told::default(),
        }
    }

    /// Opens a connection to a listener of the peer and names it.
    pub fn open(&mut self, listener: u64) -> u32 {
        let conn = self.conn_next;
        self.conn_next += 1;
        self.conns.insert(
            conn,
            TxConn {
                state: ConnState::Opening,
                listener,
                ordinals: Ordinals::default(),
                waiting: VecDeque::new(),
                ready: VecDeque::new(),
                credits: VecDeque::new(),
                receives_in_gpu: false,
                live: 0,
                close_sent: false,
            },
        );
        self.say(Frame::Open { conn, listener });
        conn
    }

    /// Whether the peer has accepted (`Some(true)`) or refused the connection.
    #[must_use]
    pub fn opened(&self, conn: u32) -> Option<bool> {
        match self.conns.get(&conn).map(|c| c.state) {
            Some(ConnState::Opening) => None,
            Some(ConnState::Open) => Some(true),
            _ => Some(false),
        }
    }

    /// Submits one message; for [`Submitted::Queued`], `token` comes back when it has ended.
    pub fn submit(
        &mut self,
        conn: u32,
        token: u64,
        tag: i32,
        source: MemRange,
        keys: Keys,
    ) -> Submitted {
        let dead = self.failed.is_some();
        let refuse = match self.conns.get(&conn).map(|c| c.state) {
            Some(ConnState::Opening | ConnState::Open) if !dead => None,
            Some(ConnState::PeerClosed) if !dead => Some(SendError::PeerClosed),
            _ => Some(SendError::LinkFailed),
        };
        if let Some(error) = refuse {
            self.done.push_back(SendDone {
                token,
                result: Err(error),
            });
            return Submitted::Queued;
        }
        let Some(c) = self.conns.get_mut(&conn) else {
            return Submitted::Queued;
        };
        let ordinal = c.ordinals.next(tag);
        c.live += 1;
        // Small messages pass through the memory of both hosts, by the hands of their processors.
        let by_credit = source.len > 0 && (keys.is_gpu() || c.receives_in_gpu);
        if !by_credit && let Some(target) = self.reserve_eager(conn, tag, ordinal, source.len) {
            let Some(c) = self.conns.get_mut(&conn) else {
                return Submitted::Queued;
            };
            c.credits
                .retain(|credit| (credit.tag, credit.ordinal) != (tag, ordinal));
            self.record.ended(source.len);
            return Submitted::Copy(target);
        }
        let message = Message {
            conn,
            token: Some(token),
            tag,
            ordinal,
            source,
            keys,
            credit: None,
            chunk_bytes: 0,
            chunks: 0,
            next: 0,
            done: SlidingBitmap::default(),
            done_count: 0,
            in_flight: 0,
            announced: false,
            unwanted: false,
        };
        let key = if let Some(key) = self.free_messages.pop() {
            self.messages[key as usize] = message;
            key
        } else {
            self.messages.push(message);
            u32::try_from(self.messages.len() - 1).unwrap_or(u32::MAX)
        };
        let Some(c) = self.conns.get_mut(&conn) else {
            return Submitted::Queued;
        };
        let credit = c
            .credits
            .iter()
            .position(|k| (k.tag, k.ordinal) == (tag, ordinal));
        if let Some(credit) = credit.and_then(|at| c.credits.remove(at)) {
            self.start(key, credit);
        } else {
            c.waiting.push_back(key);
            let m = &mut self.messages[key as usize];
            m.announced = true;
            let announcement = m.announcement();
            self.say(announcement);
        }
        Submitted::Queued
    }

    /// Closes our end. Sends that have not ended never will; their buffers are not read again
    /// once the driver has closed the channels on which [`TxEngine::close`] says they are.
    /// The answer is whether such chunks are in flight.
    pub fn close(&mut self, conn: u32) -> bool {
        let Some(c) = self.conns.get_mut(&conn) else {
            return false;
        };
        let peer_closed = matches!(c.state, ConnState::PeerClosed | ConnState::Refused);
        c.state = ConnState::Closing;
        c.credits.clear();
        let mut in_flight = false;
        let idle: Vec<u32> = c.waiting.drain(..).chain(c.ready.drain(..)).collect();
        let mut live = c.live;
        for key in idle {
            self.abandon(key);
            let m = &mut self.messages[key as usize];
            m.token = None;
            if m.in_flight == 0 {
                self.free_messages.push(key);
                live -= 1;
            } else {
                in_flight = true;
            }
        }
        for (key, m) in (0..).zip(&mut self.messages) {
            if m.conn == conn && m.token.take().is_some() {
                in_flight |= m.in_flight > 0;
                if m.in_flight == 0 {
                    // All of its chunks wait for a replay.
                    live -= 1;
                    self.free_messages.push(key);
                }
            }
        }
        self.drop_replays();
        self.turns.retain(|&turn| turn != conn);
        if let Some(c) = self.conns.get_mut(&conn) {
            c.live = live;
        }
        if self.failed.is_some() {
            // Nobody will answer.
            self.conns.remove(&conn);
        } else if peer_closed && live == 0 {
            // Said for the peer, which need not repeat itself.
            self.say(Frame::Close { conn });
            self.conns.remove(&conn);
        } else {
            self.close_if_drained(conn);
        }
        in_flight
    }

    /// Connections that exist, those that still say good-bye included.
    #[must_use]
    pub fn conns(&self) -> usize {
        self.conns.len()
    }

    /// Why the link failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// The receiver takes eager messages only up to this size.
    pub fn limit_eager(&mut self, bytes: u32) {
        self.config.eager_bytes = self.config.eager_bytes.min(bytes);
    }

    /// Ends the link: every send fails.
    pub fn fail(&mut self, reason: String) {
        if self.failed.is_some() {
            return;
        }
        self.settle_by_word();
        let mut sends = 0;
        for m in &mut self.messages {
            if let Some(token) = m.token.take() {
                sends += 1;
                self.done.push_back(SendDone {
                    token,
                    result: Err(SendError::LinkFailed),
                });
            }
        }
        self.replays.clear();
        self.turns.clear();
        for c in self.conns.values_mut() {
            c.waiting.clear();
            c.ready.clear();
            if c.state == ConnState::Opening {
                c.state = ConnState::Refused;
            }
        }
        self.conns.retain(|_, c| c.state != ConnState::Closing);
        for index in 0..self.paths.len() {
            if self.paths[index].is_up() {
                self.actions.push_back(TxAction::Close {
                    path: index_u8(index),
                    epoch: self.paths[index].epoch,
                });
            }
            self.paths[index].state = PathState::Vacant;
            self.views[index].usable = false;
        }
        let failed = TxEvent::Failed {
            reason: reason.clone(),
            sends,
        };
        self.tell(failed, self.now);
        self.failed = Some(reason);
    }

    /// Takes a frame in; `header` is its whole header, for the entries of an acknowledgement.
    ///
    /// # Errors
    /// How the peer broke the protocol: close this path.
    pub fn handle_frame(
        &mut self,
        path: u8,
        frame: Frame,
        header: &[u8],
        now: Timestamp,
    ) -> Result<(), super::Violation> {
        let violation = |text| Err(super::Violation::Protocol(text));
        self.paths[usize::from(path)].health.saw_life(now);
        self.last_life = now;
        match frame {
            Frame::Ack(ack) => {
                let ahead = ack.eager_consumed.wrapping_sub(self.eager_consumed);
                if ahead <= EAGER_WINDOW {
                    self.eager_consumed = ack.eager_consumed;
                }
                for entry in wire::ack_entries(header) {
                    let Some(p) = self.paths.get_mut(usize::from(entry.path)) else {
                        return violation("an acknowledgement for a path that cannot exist");
                    };
                    if p.epoch != entry.epoch {
                        continue;
                    }
                    if self.config.completions == Completions::Local {
                        // One that was overtaken on another path says less than is known.
                        let ahead = entry.count.wrapping_sub(p.peer_count);
                        if ahead <= p.sent.wrapping_sub(p.peer_count) {
                            p.peer_count = entry.count;
                        }
                        continue;
                    }
                    if !p.is_up() {
                        continue;
                    }
                    let arrived = entry.count.wrapping_sub(p.acked);
                    if arrived > 1 << 31 {
                        continue; // an older one, overtaken on another path
                    }
                    if arrived as usize > p.queue.len() {
                        return violation("an acknowledgement for more than was sent");
                    }
                    if arrived > 0 {
                        p.health.saw_life(now);
                    }
                    self.acknowledge(usize::from(entry.path), arrived as usize, now);
                }
                self.refresh_views();
            }
            Frame::Credit(credit) => self.handle_credit(credit),
            Frame::Opened { conn, accepted } => {
                if let Some(c) = self
                    .conns
                    .get_mut(&conn)
                    .filter(|c| c.state == ConnState::Opening)
                {
                    c.state = if accepted {
                        ConnState::Open
                    } else {
                        ConnState::Refused
                    };
                }
            }
            Frame::Close { conn } => self.handle_close(conn),
            Frame::Fenced(count) => {
                if usize::from(count.path) >= self.paths.len() {
                    return violation("an answer to a fence of a path that cannot exist");
                }
                self.settle_fence(usize::from(count.path), count.epoch, count.count, now);
                self.handle_timeout(now);
            }
            Frame::Lost { path, epoch } => {
                if usize::from(path) >= self.paths.len() {
                    return violation("the loss of a path that cannot exist");
                }
                self.fence(usize::from(path), epoch, FenceReason::LostByPeer, now);
            }
            Frame::Ping { id, sent_ns } => {
                let pong = Frame::Pong {
                    id,
                    sent_ns,
                    received_ns: 0,
                };
                self.control.push_back((Some(path), pong.encode()));
            }
            Frame::Pong {
                sent_ns,
                received_ns,
                id,
            } => {
                let p = &mut self.paths[usize::from(path)];
                let probed_at = p.probed_at;
                if std::mem::take(&mut p.unheard) {
                    self.refresh_views();
                }
                self.newest_arrival = self.newest_arrival.max(probed_at);
                if sent_ns != 0 && received_ns != 0 {
                    let owd = received_ns.wrapping_sub(sent_ns).cast_signed();
                    let waited = self.base.observe(now, owd);
                    let begun_at = self.moments.begun_at(id);
                    if begun_at.is_some_and(|at| waited > now.since(at) + search::LOOKED_LATE) {
                        // No probe waits for longer than its round trip takes: a clock was set.
                        self.base.restart(now, owd);
                    } else {
                        self.moments
                            .answer(id, usize::from(path), waited, &mut self.paths);
                    }
                }
            }
            // Acknowledgements may still be under way on other paths: the link ends with the last.
            Frame::Goodbye => {
                self.peer_leaves = true;
                self.settle_by_word();
            }
            Frame::Grant { granted } => {
                if let Some(grants) = &mut self.grants {
                    grants.granted = grants.granted.max(granted);
                }
            }
            Frame::Chunk(_)
            | Frame::Eager(_)
            | Frame::Announce { .. }
            | Frame::Open { .. }
            | Frame::Demand { .. }
            | Frame::Padding { .. }
            | Frame::Fence { .. } => return violation("a frame that only a sender sends"),
        }
        Ok(())
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<TxAction> {
        self.actions.pop_front()
    }

    /// The next send that has ended.
    pub fn poll_completion(&mut self) -> Option<SendDone> {
        let done = self.done.pop_front()?;
        match &done.result {
            Ok(bytes) => self.record.ended(*bytes),
            Err(_) => self.record.failed(self.now),
        }
        Some(done)
    }

    /// The next event worth telling.
    pub fn poll_event(&mut self) -> Option<TxEvent> {
        self.events.pop_front()
    }

    /// When somebody should call [`TxEngine::handle_timeout`] at the latest, if ever.
    #[must_use]
    pub fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        if self.failed.is_some() {
            return None;
        }
        let soon = now + Nanos::from_millis(5);
        let unfinished = self.in_flight > 0
            || !self.control.is_empty()
            || self
                .conns
                .values()
                .any(|c| c.live > 0 || c.state == ConnState::Opening);
        let mut due = unfinished.then_some(soon);
        if !unfinished && self.conns.values().any(TxConn::waits) {
            due = Some(now + UNHEARD);
        }
        let mut by = |at: Timestamp| due = Some(due.map_or(at, |d| d.min(at)));
        let any_up = self.any_up();
        for p in &self.paths {
            // Without a path nobody can be asked.
            if any_up && p.open_fence.is_some() {
                by(p.fence_sent_at + self.config.health.fence_repeat);
            }
            if p.verdict != Verdict::Fine || p.watched.is_some() {
                by(soon);
            }
            let wanted = self.search_ended_at.is_none() || p.died_silent || !self.config.search;
            if p.state == PathState::Vacant && wanted && !self.peer_leaves {
                let soonest = if self.may_dial(p) {
                    now + Nanos::from_millis(1)
                } else {
                    self.dial_earned_at + DIAL_EARN
                };
                by(p.dial_at.max(p.damping.until()).max(soonest));
            }
        }
        due
    }

    /// Name of the controller and of the selector in use.
    #[must_use]
    pub fn algorithms(&self) -> (&'static str, &'static str) {
        (self.controller.name(), self.selector.name())
    }

    /// Bytes that the controller allows in flight.
    #[must_use]
    pub fn window(&self) -> Bytes {
        self.controller.window()
    }
}

fn index_u8(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}
