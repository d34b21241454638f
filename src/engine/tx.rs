//! The sending half of a link: messages, chunks, the choice of paths, fences and replay, and the
//! upkeep of the paths themselves (silence, redials, the search for further ways).
//!
//! A chunk that was given to a path is remembered in that path's queue until the path's count
//! says it has arrived. A path is an ordered channel, so one number, how many data frames came
//! through whole, says exactly which chunks of a fenced path arrived; the others are sent again
//! elsewhere, and only after that number has come back.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use super::bitmap::SlidingBitmap;
use super::wire::{self, Chunk, Credit, Eager, Frame, Header, PathCount, Rkeys};
use super::{Completions, EAGER_OVERHEAD, EAGER_WINDOW, EngineConfig, MemRange, Ordinals};
use crate::clock::Timestamp;
use crate::control::{AnyController, Controller, Sample};
use crate::path::health::{Health, TransportStats, Verdict};
use crate::path::search::{self, Base, Candidate, Way};
use crate::path::select::{AnySelector, Selector, View};
use crate::units::{Bytes, Nanos};

/// A fence that is not answered is repeated, over whatever path is best by then.
const FENCE_REPEAT: Nanos = Nanos(20_000_000);
/// Probes of a suspect path and its siblings are this far apart.
const SUSPECT_PROBE_GAP: Nanos = Nanos(15_000_000);
/// A silent path is given up only when the peer's program has answered on a sibling for this
/// long, and did so lately. A program that is stopped, or has just woken up, takes nothing from
/// any path, and its kernel drops what no longer fits: that silence is not the path's.
const SIBLING_SPAN: Nanos = Nanos(60_000_000);
const SIBLING_LATELY: Nanos = Nanos(50_000_000);
/// A dial that has got nowhere for so long is given up: far below TCP's first retry (1 s).
const REDIAL_MIN: Nanos = Nanos(20_000_000);
/// Back-off between dials of one path never grows beyond this.
const REDIAL_MAX: Nanos = Nanos(500_000_000);
/// The search probes once a link has had more to send than its paths take for so long, and its
/// bytes make a queue on every way in use.
const FULL_AFTER: Nanos = Nanos(2_000_000);
/// Or, queue or not, for so long.
const SATURATED_AFTER: Nanos = Nanos(50_000_000);
/// A probe that has not been answered by then will not be.
const PROBE_LOST: Nanos = Nanos(60_000_000);
/// After a path has joined, its queue needs so long to show before the next is judged.
const SETTLE: Nanos = Nanos(25_000_000);
/// The search ends after so many candidates in a row led nowhere new: with one of four ways
/// missing, the chance of overlooking it is 0.75^16, one in a hundred.
const SEARCH_MISSES: u32 = 16;
/// An ended search is taken up again after this long.
const SEARCH_AGAIN: Nanos = Nanos(30_000_000_000);
/// A path is verified so soon after the last one, for the first time and from then on.
const VERIFY_FIRST: Nanos = Nanos(100_000_000);
const VERIFY_AGAIN: Nanos = Nanos(500_000_000);
/// It is given up if it meets a queue in so many rounds in a row.
const VERIFY_ROUNDS: u8 = 2;
/// Dials that the search may make at once, and the time in which it earns one more.
const DIAL_BURST: u32 = 48;
const DIAL_EARN: Nanos = Nanos(250_000_000);
/// Bytes of one path that may have reached the peer's host without having been taken in by its
/// program: how long that program may be busy elsewhere before the path runs dry.
const LAG_MAX: u64 = 8 << 20;
/// Least and largest chunk that is chosen from a measured rate.
const CHUNK_AUTO_MIN: u64 = 32 << 10;
const CHUNK_AUTO_MAX: u64 = 1 << 20;
/// A chunk should keep its path busy for about this long.
const CHUNK_TIME: Nanos = Nanos(1_000_000);

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
    },
    /// A data frame: a chunk or an eager message.
    Data {
        /// Path.
        path: u8,
        /// Its header, for transports that send one.
        header: Header,
        /// The chunk, for transports that write it to memory; `None` for an eager message.
        chunk: Option<(Chunk, u64, Rkeys)>,
        /// Its payload.
        source: MemRange,
        /// The connection it belongs to.
        conn: u32,
    },
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
    /// The search for further ways has ended.
    SearchEnded {
        /// Paths in use.
        active: usize,
    },
    /// The link failed.
    Failed {
        /// Why.
        reason: String,
        /// Whether sends were outstanding: otherwise it is the end of a job, not a fault.
        harmful: bool,
    },
}

/// The evidence of the search for ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probes {
    /// How long the median of the candidate's probes waited on its way.
    pub waited: Nanos,
    /// The queue on the emptiest of the ways in use.
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
}

/// What state a path is in.
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
}

#[derive(Debug, Clone, Copy)]
enum Cargo {
    Chunk { message: u32, index: u32 },
    Eager { id: u64 },
}

#[derive(Debug, Clone, Copy)]
struct Outstanding {
    cargo: Cargo,
    bytes: u32,
}

/// Delivery rate of a path, measured only while it always had something to deliver.
#[derive(Debug, Clone, Copy, Default)]
struct RateMeter {
    rate: u64,
    busy_since: Option<Timestamp>,
    bytes: u64,
}

impl RateMeter {
    const SPAN: Nanos = Nanos(4_000_000);

    fn on_sent(&mut self, now: Timestamp) {
        if self.busy_since.is_none() {
            self.busy_since = Some(now);
            self.bytes = 0;
        }
    }

    fn on_delivered(&mut self, now: Timestamp, bytes: u64, still_busy: bool) {
        let Some(since) = self.busy_since else { return };
        self.bytes += bytes;
        let span = now.since(since);
        if span >= Self::SPAN {
            // A path that ran dry may have been done before its span was: it counts less.
            let weight = if still_busy { 4 } else { 16 };
            let sample = u64::try_from(u128::from(self.bytes) * 1_000_000_000 / u128::from(span.0))
                .unwrap_or(u64::MAX);
            self.rate = match self.rate {
                0 => sample,
                rate => rate - rate / weight + sample / weight,
            };
            self.busy_since = Some(now);
            self.bytes = 0;
        }
        if !still_busy {
            self.busy_since = None;
        }
    }
}

#[derive(Debug)]
struct TxPath {
    state: PathState,
    epoch: u16,
    sent: u32,
    acked: u32,
    /// The peer's own count, where completions are local: its receive queue refills with it.
    peer_count: u32,
    queue: VecDeque<Outstanding>,
    /// Bytes in `queue`; the view's `outstanding` leaves out what has reached the peer's host.
    queued_bytes: u64,
    health: Health,
    stats: TransportStats,
    verdict: Verdict,
    suspect_since: Timestamp,
    /// Since when a sibling has answered while this one was suspect.
    sibling_since: Option<Timestamp>,
    probed_at: Timestamp,
    meter: RateMeter,
    candidate: Candidate,
    /// The channel whose fence has not been answered: the queue holds what it carried.
    open_fence: Option<u16>,
    fence_sent_at: Timestamp,
    dial_at: Timestamp,
    dial_failures: u32,
    /// When it last had to prove that its way is its own.
    verified_at: Timestamp,
    /// It is out of use for a moment to prove that: rounds left in which it may fail to.
    verifying: u8,
    /// It shares a way with an active path, and shows whether that way is full.
    is_witness: bool,
    /// It died of silence: the same port pair will tell when its way is back.
    died_silent: bool,
    bytes_total: u64,
}

#[derive(Debug)]
struct Message {
    conn: u32,
    token: Option<u64>,
    tag: i32,
    ordinal: u32,
    source: MemRange,
    credit: Option<Credit>,
    chunk_bytes: u32,
    chunks: u32,
    next: u32,
    done: SlidingBitmap,
    done_count: u32,
    in_flight: u32,
    announced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnState {
    Opening,
    Open,
    Refused,
    /// The peer closed its end.
    PeerClosed,
    /// We closed our end; the close is repeated until it is answered.
    Closing,
}

#[derive(Debug)]
struct TxConn {
    state: ConnState,
    listener: u64,
    ordinals: Ordinals,
    waiting: VecDeque<u32>,
    ready: VecDeque<u32>,
    credits: VecDeque<Credit>,
    /// Messages and eager frames not yet acknowledged.
    live: u32,
    close_sent: bool,
}

#[derive(Debug)]
struct EagerEntry {
    eager: Eager,
    source: MemRange,
    span: u64,
    done: bool,
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
    views: Vec<View>,
    in_flight: u64,
    acked_since_sample: u64,
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
    probes: VecDeque<u8>,
    actions: VecDeque<TxAction>,
    done: VecDeque<SendDone>,
    events: VecDeque<TxEvent>,
    base: Base,
    backlog_since: Option<Timestamp>,
    settle_until: Timestamp,
    verified_at: Timestamp,
    misses: u32,
    unsure: u32,
    search_ended_at: Option<Timestamp>,
    dial_tokens: u32,
    dial_earned_at: Timestamp,
    last_life: Timestamp,
    /// The peer has said good-bye: what it closes is not dialled again.
    peer_leaves: bool,
    failed: Option<String>,
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
        let path = || TxPath {
            state: PathState::Vacant,
            epoch: 0,
            sent: 0,
            acked: 0,
            peer_count: 0,
            queue: VecDeque::with_capacity(64),
            queued_bytes: 0,
            health: Health::new(now),
            stats: TransportStats::default(),
            verdict: Verdict::Fine,
            suspect_since: now,
            sibling_since: None,
            probed_at: Timestamp::ZERO,
            meter: RateMeter::default(),
            candidate: Candidate::default(),
            open_fence: None,
            fence_sent_at: Timestamp::ZERO,
            dial_at: now,
            dial_failures: 0,
            verified_at: Timestamp::ZERO,
            verifying: 0,
            is_witness: false,
            died_silent: false,
            bytes_total: 0,
        };
        let view = View {
            usable: false,
            outstanding: Bytes(0),
            cap: Bytes(0),
            byte_time: 0,
            delay_ns: 0,
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
            paths: (0..config.paths_max).map(|_| path()).collect(),
            views: vec![view; usize::from(config.paths_max)],
            in_flight: 0,
            acked_since_sample: 0,
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
            backlog_since: None,
            settle_until: now,
            verified_at: now,
            misses: 0,
            unsure: 0,
            search_ended_at: None,
            dial_tokens: DIAL_BURST,
            dial_earned_at: now,
            last_life: now,
            peer_leaves: false,
            failed: None,
        }
    }

    // ---- the application ----

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
                live: 0,
                close_sent: false,
            },
        );
        self.control
            .push_back((None, Frame::Open { conn, listener }.encode()));
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
    pub fn submit(&mut self, conn: u32, token: u64, tag: i32, source: MemRange) -> Submitted {
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
        if let Some(target) = self.reserve_eager(conn, tag, ordinal, source.len) {
            let Some(c) = self.conns.get_mut(&conn) else {
                return Submitted::Queued;
            };
            c.credits
                .retain(|credit| (credit.tag, credit.ordinal) != (tag, ordinal));
            return Submitted::Copy(target);
        }
        let message = Message {
            conn,
            token: Some(token),
            tag,
            ordinal,
            source,
            credit: None,
            chunk_bytes: 0,
            chunks: 0,
            next: 0,
            done: SlidingBitmap::default(),
            done_count: 0,
            in_flight: 0,
            announced: false,
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
            self.messages[key as usize].announced = true;
            let size = source.len;
            self.control.push_back((
                None,
                Frame::Announce {
                    conn,
                    tag,
                    ordinal,
                    size,
                }
                .encode(),
            ));
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
        c.live -= u32::try_from(idle.len()).unwrap_or(0);
        for key in idle {
            self.messages[key as usize].token = None;
            if self.messages[key as usize].in_flight == 0 {
                self.free_messages.push(key);
            } else {
                in_flight = true;
                c.live += 1;
            }
        }
        for (key, m) in self.messages.iter_mut().enumerate() {
            if m.conn == conn && m.token.is_some() {
                m.token = None;
                in_flight |= m.in_flight > 0;
                if m.in_flight == 0 {
                    // All of its chunks wait for a replay.
                    c.live -= 1;
                    self.free_messages
                        .push(u32::try_from(key).unwrap_or(u32::MAX));
                }
            }
        }
        let messages = &self.messages;
        self.replays
            .retain(|&(key, _)| messages[key as usize].token.is_some());
        self.turns.retain(|&turn| turn != conn);
        if peer_closed && c.live == 0 {
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
        let mut harmful = false;
        for m in &mut self.messages {
            if let Some(token) = m.token.take() {
                harmful = true;
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
        for index in 0..self.paths.len() {
            if matches!(
                self.paths[index].state,
                PathState::Active | PathState::Standby
            ) {
                self.actions.push_back(TxAction::Close {
                    path: index_u8(index),
                    epoch: self.paths[index].epoch,
                });
            }
            self.paths[index].state = PathState::Vacant;
            self.views[index].usable = false;
        }
        self.events.push_back(TxEvent::Failed {
            reason: reason.clone(),
            harmful,
        });
        self.failed = Some(reason);
    }

    // ---- messages ----

    fn reserve_eager(&mut self, conn: u32, tag: i32, ordinal: u32, len: u64) -> Option<MemRange> {
        let payload = u32::try_from(len)
            .ok()
            .filter(|&len| len <= self.config.eager_bytes)?;
        let cost = len + EAGER_OVERHEAD;
        if self.eager_sent.wrapping_sub(self.eager_consumed) + cost > EAGER_WINDOW {
            return None;
        }
        if self.ring.is_empty() {
            self.ring = vec![0; usize::try_from(EAGER_WINDOW).unwrap_or(0)].into_boxed_slice();
        }
        // A message never wraps round the end of the ring: what is left there is skipped.
        let size = self.ring.len() as u64;
        let at = self.ring_tail % size;
        let skip = if at + len > size { size - at } else { 0 };
        let span = skip + len;
        if self.ring_tail + span - self.ring_head > size {
            return None;
        }
        let start = (self.ring_tail + skip) % size;
        self.ring_tail += span;
        self.eager_sent = self.eager_sent.wrapping_add(cost);
        let source = MemRange {
            addr: self.ring.as_mut_ptr() as u64 + start,
            len,
        };
        let id = self.eager_first + self.eager.len() as u64;
        self.eager.push_back(EagerEntry {
            eager: Eager {
                conn,
                tag,
                ordinal,
                payload,
            },
            source,
            span,
            done: false,
        });
        self.eager_queue.push_back(id);
        Some(source)
    }

    fn start(&mut self, key: u32, credit: Credit) {
        let len = self.messages[key as usize].source.len;
        if len > credit.capacity {
            // Our own send fails here; the receiver's receive fails when it hears the size.
            let m = &mut self.messages[key as usize];
            let (conn, tag, ordinal) = (m.conn, m.tag, m.ordinal);
            if let Some(token) = m.token.take() {
                let error = SendError::TooLong {
                    size: len,
                    capacity: credit.capacity,
                };
                self.done.push_back(SendDone {
                    token,
                    result: Err(error),
                });
            }
            self.control.push_back((
                None,
                Frame::Announce {
                    conn,
                    tag,
                    ordinal,
                    size: len,
                }
                .encode(),
            ));
            self.free_messages.push(key);
            self.connection_drains(conn);
            return;
        }
        let chunk_bytes = self.chunk_bytes_for(len);
        let m = &mut self.messages[key as usize];
        m.credit = Some(credit);
        m.chunk_bytes = chunk_bytes;
        m.chunks = u32::try_from(len.div_ceil(u64::from(chunk_bytes)).max(1)).unwrap_or(u32::MAX);
        let conn = m.conn;
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if c.ready.is_empty() {
            self.turns.push_back(conn);
        }
        c.ready.push_back(key);
    }

    /// The cutting of a message, frozen when it starts: coarse enough that a chunk keeps its
    /// path busy for a while, fine enough that all paths get some of it.
    fn chunk_bytes_for(&self, len: u64) -> u32 {
        let auto = || {
            let active = self.paths.iter().filter(|p| p.state == PathState::Active);
            let (count, fastest) =
                active.fold((0u64, 0u64), |(n, rate), p| (n + 1, rate.max(p.meter.rate)));
            let by_rate = match fastest {
                0 => CHUNK_AUTO_MIN * 2,
                rate => (rate / (1_000_000_000 / CHUNK_TIME.0) * 3 / 4).next_power_of_two(),
            };
            let share = len.div_ceil(count.max(1)).max(CHUNK_AUTO_MIN / 2);
            by_rate.clamp(CHUNK_AUTO_MIN, CHUNK_AUTO_MAX).min(share)
        };
        let bytes = self.config.chunk_bytes.map_or_else(auto, u64::from);
        let aligned = bytes.next_multiple_of(u64::from(wire::CHUNK_ALIGN));
        let bounded = aligned.clamp(
            u64::from(wire::CHUNK_BYTES_MIN),
            u64::from(wire::CHUNK_BYTES_MAX),
        );
        u32::try_from(bounded).unwrap_or(wire::CHUNK_BYTES_MAX)
    }

    fn message_done(&mut self, key: u32) {
        let m = &mut self.messages[key as usize];
        let conn = m.conn;
        if let Some(token) = m.token.take() {
            self.done.push_back(SendDone {
                token,
                result: Ok(m.source.len),
            });
        }
        self.free_messages.push(key);
        self.connection_drains(conn);
    }

    /// One message or eager frame of the connection is over.
    fn connection_drains(&mut self, conn: u32) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.live = c.live.saturating_sub(1);
        }
        self.close_if_drained(conn);
    }

    fn close_if_drained(&mut self, conn: u32) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if c.state == ConnState::Closing && c.live == 0 && !c.close_sent {
            c.close_sent = true;
            self.control
                .push_back((None, Frame::Close { conn }.encode()));
        }
    }

    // ---- paths ----

    /// A channel of `path` is up. `previous`: how far the channel before it came.
    pub fn handle_path_up(
        &mut self,
        path: u8,
        epoch: u16,
        previous: Option<PathCount>,
        now: Timestamp,
    ) {
        let index = usize::from(path);
        if self.failed.is_some() || self.paths[index].epoch != epoch {
            self.actions.push_back(TxAction::Close { path, epoch });
            return;
        }
        if let Some(count) = previous {
            self.settle_fence(index, count.epoch, count.count, now);
        }
        self.last_life = now;
        let p = &mut self.paths[index];
        p.state = PathState::Standby;
        p.sent = 0;
        p.acked = 0;
        p.peer_count = 0;
        p.health = Health::new(now);
        p.stats = TransportStats::default();
        p.verdict = Verdict::Fine;
        p.meter = RateMeter::default();
        p.candidate = Candidate::default();
        p.verified_at = Timestamp::ZERO;
        p.verifying = 0;
        p.is_witness = false;
        p.dial_failures = 0;
        self.probe(index, now);
        let none_active = !self.paths.iter().any(|p| p.state == PathState::Active);
        if none_active || !self.config.search {
            self.activate(index, None);
        }
        self.resync();
        self.refresh_views();
    }

    /// The dial that [`TxAction::Dial`] asked for came to nothing.
    pub fn handle_dial_failed(&mut self, path: u8, epoch: u16, now: Timestamp) {
        let p = &mut self.paths[usize::from(path)];
        if p.epoch != epoch || p.state != PathState::Dialing {
            return;
        }
        p.state = PathState::Vacant;
        p.dial_failures += 1;
        let wait = Nanos(REDIAL_MIN.0 << p.dial_failures.min(5)).min(REDIAL_MAX);
        p.dial_at = now + wait;
    }

    /// The channel failed.
    pub fn handle_path_error(&mut self, path: u8, epoch: u16, now: Timestamp) {
        self.fence(usize::from(path), epoch, FenceReason::Broken, now);
    }

    /// What the transport tells of a path. Call every few milliseconds for each path that has
    /// something in flight.
    pub fn handle_stats(&mut self, path: u8, stats: TransportStats, now: Timestamp) {
        let index = usize::from(path);
        let config = self.config.health;
        let p = &mut self.paths[index];
        if !matches!(p.state, PathState::Active | PathState::Standby) {
            return;
        }
        let was = p.verdict;
        p.stats = stats;
        p.verdict = p.health.observe(now, &stats, &config);
        self.last_life = self.last_life.max(p.health.alive_at());
        let active = p.state == PathState::Active;
        match (was, p.verdict) {
            (_, Verdict::Fine) => {
                if was != Verdict::Fine {
                    self.refresh_views();
                }
                if active && self.acked_since_sample > 0 {
                    let acked = Bytes(std::mem::take(&mut self.acked_since_sample));
                    let in_flight = self.views.iter().map(|v| v.outstanding).sum();
                    self.controller.on_sample(&Sample {
                        now,
                        rtt: stats.rtt,
                        rtt_min: stats.rtt_min,
                        acked,
                        in_flight,
                    });
                }
            }
            (Verdict::Fine, _) => {
                self.paths[index].suspect_since = now;
                self.paths[index].sibling_since = None;
                self.reopen_search();
                self.probe_all(now);
                self.refresh_views();
            }
            (_, verdict) if self.sibling_lives(index, now) && verdict == Verdict::Dead => {
                let quiet = now.since(self.paths[index].health.alive_at());
                let epoch = self.paths[index].epoch;
                self.paths[index].died_silent = true;
                self.fence(index, epoch, FenceReason::Silent(quiet), now);
            }
            _ => {
                if now.since(self.paths[index].probed_at) >= SUSPECT_PROBE_GAP {
                    self.probe_all(now);
                }
            }
        }
    }

    /// Whether the peer's program goes on answering on another path while this one is suspect.
    fn sibling_lives(&mut self, index: usize, now: Timestamp) -> bool {
        let heard = self
            .paths
            .iter()
            .enumerate()
            .filter(|&(other, p)| {
                other != index
                    && matches!(p.state, PathState::Active | PathState::Standby)
                    && p.verdict == Verdict::Fine
            })
            .map(|(_, p)| p.health.heard_at())
            .max();
        let p = &mut self.paths[index];
        let Some(heard) = heard.filter(|&at| at > p.suspect_since) else {
            return false;
        };
        let since = *p.sibling_since.get_or_insert(now);
        now.since(since) >= SIBLING_SPAN && now.since(heard) <= SIBLING_LATELY
    }

    fn activate(&mut self, index: usize, probes: Option<Probes>) {
        let p = &mut self.paths[index];
        if p.state == PathState::Standby {
            p.state = PathState::Active;
            p.died_silent = false;
            p.is_witness = false;
            if std::mem::take(&mut p.verifying) == 0 {
                self.events.push_back(TxEvent::Joined {
                    path: index_u8(index),
                    probes,
                });
            }
            self.refresh_views();
        }
    }

    fn probe(&mut self, index: usize, now: Timestamp) {
        self.paths[index].probed_at = now;
        self.probes.push_back(index_u8(index));
    }

    fn probe_all(&mut self, now: Timestamp) {
        for index in 0..self.paths.len() {
            let p = &self.paths[index];
            if matches!(p.state, PathState::Active | PathState::Standby)
                && now.since(p.probed_at) >= SUSPECT_PROBE_GAP
            {
                self.probe(index, now);
            }
        }
    }

    fn fence(&mut self, index: usize, epoch: u16, reason: FenceReason, now: Timestamp) {
        let path = index_u8(index);
        let p = &mut self.paths[index];
        if p.epoch != epoch || !matches!(p.state, PathState::Active | PathState::Standby) {
            return;
        }
        let was_active = p.state == PathState::Active;
        self.actions.push_back(TxAction::Close { path, epoch });
        if self.peer_leaves {
            p.state = PathState::Vacant;
            self.views[index].usable = false;
            if !self.any_up() {
                self.fail("the peer closed the link".into());
            }
            return;
        }
        p.state = PathState::Vacant;
        p.open_fence = Some(epoch);
        p.fence_sent_at = Timestamp::ZERO;
        p.dial_at = now;
        p.dial_failures = 0;
        if was_active {
            let outstanding = p.queue.len();
            self.events.push_back(TxEvent::Fenced {
                path,
                reason,
                outstanding,
            });
            self.controller.on_path_lost(now);
            self.reopen_search();
            if !self.paths.iter().any(|p| p.state == PathState::Active) {
                let reserve = (0..self.paths.len())
                    .filter(|&i| self.paths[i].state == PathState::Standby)
                    .max_by_key(|&i| {
                        (
                            self.paths[i].verdict == Verdict::Fine,
                            self.paths[i].health.alive_at(),
                        )
                    });
                if let Some(reserve) = reserve {
                    self.activate(reserve, None);
                }
            }
        }
        self.refresh_views();
        self.handle_timeout(now);
    }

    /// The peer has said how far a fenced channel came: what did not arrive is sent again.
    fn settle_fence(&mut self, index: usize, epoch: u16, count: u32, now: Timestamp) {
        let p = &mut self.paths[index];
        if p.open_fence != Some(epoch) {
            return; // answered before
        }
        p.open_fence = None;
        let arrived = count.wrapping_sub(p.acked) as usize;
        if arrived > p.queue.len() {
            self.fail(format!(
                "the peer acknowledged more than path {index} was given"
            ));
            return;
        }
        self.acknowledge(index, arrived, now);
        let mut frames = 0;
        self.paths[index].queued_bytes = 0;
        while let Some(item) = self.paths[index].queue.pop_front() {
            self.in_flight -= u64::from(item.bytes);
            match item.cargo {
                Cargo::Eager { id } => self.eager_queue.push_back(id),
                Cargo::Chunk {
                    message,
                    index: chunk,
                } => {
                    let m = &mut self.messages[message as usize];
                    m.in_flight -= 1;
                    if m.token.is_some() {
                        self.replays.push_back((message, chunk));
                    } else if m.in_flight == 0 {
                        self.message_done(message);
                        continue;
                    }
                }
            }
            frames += 1;
        }
        self.views[index].outstanding = Bytes(0);
        self.events.push_back(TxEvent::Replayed {
            path: index_u8(index),
            frames,
        });
        self.resync();
    }

    /// Says again what a lost path may have swallowed.
    fn resync(&mut self) {
        for (&conn, c) in &self.conns {
            match c.state {
                ConnState::Opening => {
                    let open = Frame::Open {
                        conn,
                        listener: c.listener,
                    };
                    self.control.push_back((None, open.encode()));
                }
                ConnState::Closing if c.close_sent => {
                    self.control
                        .push_back((None, Frame::Close { conn }.encode()));
                }
                _ => {}
            }
            for &key in &c.waiting {
                let m = &self.messages[key as usize];
                let announce = Frame::Announce {
                    conn,
                    tag: m.tag,
                    ordinal: m.ordinal,
                    size: m.source.len,
                };
                self.control.push_back((None, announce.encode()));
            }
        }
        for p in &mut self.paths {
            p.fence_sent_at = Timestamp::ZERO;
        }
    }

    fn acknowledge(&mut self, index: usize, frames: usize, now: Timestamp) {
        let mut bytes = 0;
        for _ in 0..frames {
            let Some(item) = self.paths[index].queue.pop_front() else {
                break;
            };
            self.paths[index].acked = self.paths[index].acked.wrapping_add(1);
            bytes += u64::from(item.bytes);
            match item.cargo {
                Cargo::Eager { id } => self.eager_done(id),
                Cargo::Chunk {
                    message,
                    index: chunk,
                } => {
                    let m = &mut self.messages[message as usize];
                    m.in_flight -= 1;
                    m.done.insert(chunk);
                    m.done_count += 1;
                    if m.done_count == m.chunks || (m.token.is_none() && m.in_flight == 0) {
                        self.message_done(message);
                    }
                }
            }
        }
        self.in_flight -= bytes;
        self.acked_since_sample += bytes;
        let p = &mut self.paths[index];
        p.queued_bytes -= bytes;
        let queued = p.queued_bytes;
        self.deliver(index, queued, now);
    }

    /// No more than `bytes` of the path are still under way.
    fn deliver(&mut self, index: usize, bytes: u64, now: Timestamp) {
        let outstanding = &mut self.views[index].outstanding.0;
        if bytes < *outstanding {
            let delivered = *outstanding - bytes;
            *outstanding = bytes;
            self.paths[index]
                .meter
                .on_delivered(now, delivered, bytes > 0);
        }
    }

    /// Whether the transport should be asked what has reached the peer's host: more could be
    /// sent if something has.
    #[must_use]
    pub fn wants_backlog(&self, path: u8) -> bool {
        let view = &self.views[usize::from(path)];
        self.backlog_since.is_some() && view.usable && view.outstanding.0 > 0
    }

    /// The transport still holds `bytes` of this path, unsent or unacknowledged by the peer's
    /// host. The peer's program may be behind; the network is free for more.
    pub fn handle_backlog(&mut self, path: u8, bytes: u64, now: Timestamp) {
        let index = usize::from(path);
        if self.paths[index].state == PathState::Active {
            self.deliver(index, bytes, now);
        }
    }

    fn eager_index(&self, id: u64) -> usize {
        usize::try_from(id - self.eager_first).unwrap_or(usize::MAX)
    }

    fn eager_done(&mut self, id: u64) {
        let index = self.eager_index(id);
        let Some(entry) = self.eager.get_mut(index) else {
            return;
        };
        entry.done = true;
        let conn = entry.eager.conn;
        while let Some(entry) = self.eager.front().filter(|e| e.done) {
            self.ring_head += entry.span;
            self.eager.pop_front();
            self.eager_first += 1;
        }
        self.connection_drains(conn);
    }

    /// A verbs transport's own completions: `count` more data frames of this channel are done.
    pub fn handle_completions(&mut self, path: u8, epoch: u16, count: u32, now: Timestamp) {
        let index = usize::from(path);
        if self.paths[index].epoch == epoch {
            self.acknowledge(index, count as usize, now);
            self.refresh_views();
        }
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
                    let up = matches!(p.state, PathState::Active | PathState::Standby);
                    if p.epoch != entry.epoch || !up {
                        continue;
                    }
                    if self.config.completions == Completions::Local {
                        p.peer_count = entry.count;
                        continue;
                    }
                    let arrived = entry.count.wrapping_sub(p.acked);
                    if arrived > 1 << 31 {
                        continue; // an older one, overtaken on another path
                    }
                    if arrived as usize > p.queue.len() {
                        return violation("an acknowledgement for more than was sent");
                    }
                    p.health.saw_life(now);
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
                ..
            } => {
                if sent_ns != 0 && received_ns != 0 {
                    let owd = received_ns.wrapping_sub(sent_ns).cast_signed();
                    self.base.observe(now, owd);
                    self.paths[usize::from(path)].candidate.answer(owd);
                }
            }
            // Acknowledgements may still be under way on other paths: the link ends with the last.
            Frame::Goodbye => self.peer_leaves = true,
            Frame::Chunk(_)
            | Frame::Eager(_)
            | Frame::Announce { .. }
            | Frame::Open { .. }
            | Frame::Fence { .. } => return violation("a frame that only a sender sends"),
        }
        Ok(())
    }

    fn handle_credit(&mut self, credit: Credit) {
        let Some(c) = self.conns.get_mut(&credit.conn) else {
            return;
        };
        if c.state == ConnState::Closing {
            return;
        }
        let name = (credit.tag, credit.ordinal);
        let messages = &self.messages;
        let waiting = c.waiting.iter().position(|&key| {
            let m = &messages[key as usize];
            (m.tag, m.ordinal) == name
        });
        if let Some(key) = waiting.and_then(|at| c.waiting.remove(at)) {
            self.start(key, credit);
            return;
        }
        // Repeated credits are normal after a fence: keep only what names a message to come.
        let next = c
            .ordinals
            .0
            .iter()
            .find(|(tag, _)| *tag == credit.tag)
            .map_or(0, |&(_, n)| n);
        let to_come = credit.ordinal.wrapping_sub(next) < 1 << 31;
        let known = c.credits.iter().any(|k| (k.tag, k.ordinal) == name);
        if to_come && !known && c.credits.len() < 1024 {
            c.credits.push_back(credit);
        }
    }

    fn handle_close(&mut self, conn: u32) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if c.state == ConnState::Closing {
            if c.live == 0 {
                self.conns.remove(&conn);
            }
            return;
        }
        c.state = ConnState::PeerClosed;
        c.waiting.clear();
        c.ready.clear();
        self.turns.retain(|&turn| turn != conn);
        for key in 0..self.messages.len() {
            let m = &mut self.messages[key];
            // What has been sent whole may have arrived before the close: its
            // acknowledgements are still under way, on other paths.
            let sent_whole = m.credit.is_some() && m.next == m.chunks;
            if m.conn != conn || sent_whole {
                continue;
            }
            if let Some(token) = m.token.take() {
                let result = Err(SendError::PeerClosed);
                self.done.push_back(SendDone { token, result });
                if m.in_flight == 0 {
                    self.free_messages
                        .push(u32::try_from(key).unwrap_or(u32::MAX));
                    self.connection_drains(conn);
                }
            }
        }
        let messages = &self.messages;
        self.replays
            .retain(|&(key, _)| messages[key as usize].token.is_some());
    }

    // ---- time ----

    /// Does what time has made due: fences that were not answered, dials, the search.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.failed.is_some() {
            return;
        }
        for index in 0..self.paths.len() {
            let p = &mut self.paths[index];
            let Some(epoch) = p.open_fence else { continue };
            if now.since(p.fence_sent_at) >= FENCE_REPEAT {
                p.fence_sent_at = now;
                let fence = Frame::Fence {
                    path: index_u8(index),
                    epoch,
                };
                self.control.push_back((None, fence.encode()));
            }
        }
        let alive = self.paths.iter().any(|p| {
            matches!(p.state, PathState::Active | PathState::Standby) && p.verdict == Verdict::Fine
        });
        if alive || self.conns.is_empty() {
            self.last_life = now;
        } else if now.since(self.last_life) >= self.config.dead_peer {
            let silent = now.since(self.last_life).as_millis();
            self.fail(format!(
                "no path has been acknowledged for {silent} ms (limit: THALWEG_DEAD_PEER_MS)"
            ));
            return;
        }
        self.step_dials(now);
        if self.config.search {
            self.step_search(now);
        }
    }

    fn step_dials(&mut self, now: Timestamp) {
        if self.peer_leaves {
            return;
        }
        while now.since(self.dial_earned_at) >= DIAL_EARN {
            let late = now.since(self.dial_earned_at).0 / DIAL_EARN.0;
            self.dial_earned_at += Nanos(DIAL_EARN.0 * late);
            let earned = u32::try_from(late).unwrap_or(DIAL_BURST);
            self.dial_tokens = self.dial_tokens.saturating_add(earned).min(DIAL_BURST);
        }
        let any_up = self
            .paths
            .iter()
            .any(|p| matches!(p.state, PathState::Active | PathState::Standby));
        let any_dialing = self.paths.iter().any(|p| p.state == PathState::Dialing);
        let returning = self.paths.iter().filter(|p| p.died_silent).count();
        let few_returning = 2 * returning <= self.paths.len();
        let was_up = self
            .paths
            .iter()
            .any(|p| p.epoch != 0 && p.state != PathState::Dialing);
        for index in 0..self.paths.len() {
            let p = &self.paths[index];
            if p.state != PathState::Vacant || now < p.dial_at {
                continue;
            }
            if !any_up && (any_dialing || index > 0) && !was_up {
                continue; // the very first path comes alone
            }
            let returning = p.died_silent;
            let ended = self.search_ended_at.is_some();
            if any_up && self.config.search && ended && !returning {
                continue;
            }
            if any_up && !returning {
                if self.dial_tokens == 0 {
                    continue;
                }
                self.dial_tokens -= 1;
            }
            let p = &mut self.paths[index];
            // Its port pair tells when its way is back. If most paths died, every other try takes
            // a new port instead: the others must be found first.
            let same_port = returning && (few_returning || p.dial_failures.is_multiple_of(2));
            p.epoch = p.epoch.wrapping_add(1).max(1);
            p.state = PathState::Dialing;
            let deadline = if any_up {
                Nanos(200_000_000)
            } else {
                Nanos(1_000_000_000)
            };
            p.dial_at = now + deadline;
            self.actions.push_back(TxAction::Dial {
                path: index_u8(index),
                epoch: p.epoch,
                same_port,
                fence: p.open_fence,
                deadline,
            });
            if !any_up && !was_up {
                break;
            }
        }
    }

    fn reopen_search(&mut self) {
        self.misses = 0;
        self.search_ended_at = None;
    }

    fn step_search(&mut self, now: Timestamp) {
        if let Some(ended) = self.search_ended_at {
            if now.since(ended) < SEARCH_AGAIN {
                if self.paths.iter().all(|p| p.state != PathState::Standby) {
                    return;
                }
            } else {
                self.reopen_search();
            }
        }
        let Some(backlog_since) = self.backlog_since else {
            return;
        };
        if now < self.settle_until {
            return;
        }
        // The queue that our own bytes make, this moment, on the emptiest of the ways in use.
        let queue = self
            .paths
            .iter()
            .zip(&self.views)
            .filter(|(p, _)| p.state == PathState::Active && p.verdict == Verdict::Fine)
            .map(|(_, view)| Nanos(view.completion_ns(0).saturating_sub(view.delay_ns)))
            .min()
            .unwrap_or_default();
        // Traffic that comes in bursts fills the ways only now and then; a network on which our
        // bytes make no queue that could be seen is given up on after a while.
        let backlog = now.since(backlog_since);
        let full = backlog >= FULL_AFTER && queue >= search::QUEUE_MIN * 4;
        if !full && backlog < SATURATED_AFTER {
            return;
        }
        let mut judged = true;
        for index in 0..self.paths.len() {
            let p = &mut self.paths[index];
            if p.state != PathState::Standby || p.verdict != Verdict::Fine {
                continue;
            }
            let since = now.since(p.candidate.sent_at);
            if p.candidate.answered >= search::PROBES
                || (p.candidate.sent >= search::PROBES && since >= PROBE_LOST)
            {
                continue;
            }
            judged = false;
            // What a path that is being verified still carries would pass for another's queue.
            let drained = p.queue.is_empty();
            if drained && p.candidate.sent < search::PROBES && since >= search::PROBE_GAP {
                p.candidate.sent += 1;
                p.candidate.sent_at = now;
                self.probe(index, now);
            }
        }
        if judged {
            self.judge_round(queue, now);
            self.verify_one(now);
        }
    }

    /// Every candidate has been probed over the same few milliseconds: judges them together.
    fn judge_round(&mut self, queue: Nanos, now: Timestamp) {
        let probed =
            |p: &TxPath| p.state == PathState::Standby && p.candidate.answered >= search::PROBES;
        let waited = |p: &TxPath, base: &Base| p.candidate.waited(base);
        let round: Vec<(usize, Nanos)> = (0..self.paths.len())
            .filter(|&i| probed(&self.paths[i]))
            .map(|i| (i, waited(&self.paths[i], &self.base)))
            .collect();
        let verdict = search::judge(round.iter().map(|&(_, waited)| waited), queue, self.unsure);
        self.unsure = if verdict == search::Round::Unsure {
            self.unsure + 1
        } else {
            0
        };
        let mut joined = false;
        let mut witness = false;
        for &(index, delay) in &round {
            let evidence = Probes {
                waited: delay,
                queue,
            };
            let p = &mut self.paths[index];
            match verdict.way(delay) {
                // One at a time: two that lead elsewhere may lead to the same elsewhere.
                Way::New if !joined => {
                    joined = true;
                    self.misses = 0;
                    self.activate(index, Some(evidence));
                }
                // One round may have met a straggler: a path in use is not given up for that.
                Way::Shared if p.verifying > 1 => p.verifying -= 1,
                Way::Shared if !witness => {
                    p.verifying = 0;
                    // It stays, to tell in later rounds whether the ways in use are full.
                    witness = true;
                    if !std::mem::replace(&mut p.is_witness, true) {
                        self.missed(index, evidence, now);
                    }
                }
                Way::Shared => {
                    let epoch = p.epoch;
                    p.state = PathState::Vacant;
                    p.died_silent = false;
                    p.dial_at = now;
                    self.actions.push_back(TxAction::Close {
                        path: index_u8(index),
                        epoch,
                    });
                    self.missed(index, evidence, now);
                }
                // A path that was only being verified goes back to work for want of evidence.
                Way::Unknown if p.verifying > 0 => self.activate(index, Some(evidence)),
                Way::New | Way::Unknown => {}
            }
        }
        if joined {
            self.settle_until = now + SETTLE;
        }
        for p in &mut self.paths {
            p.candidate = Candidate::default();
        }
    }

    fn missed(&mut self, index: usize, probes: Probes, now: Timestamp) {
        self.events.push_back(TxEvent::Collided {
            path: index_u8(index),
            probes,
        });
        self.misses += 1;
        if self.misses >= SEARCH_MISSES && self.search_ended_at.is_none() {
            self.search_ended_at = Some(now);
            let active = self
                .paths
                .iter()
                .filter(|p| p.state == PathState::Active)
                .count();
            self.events.push_back(TxEvent::SearchEnded { active });
        }
    }

    /// Takes one active path at a time out of use for a moment, longest unverified first, and
    /// lets it prove like any candidate that its way is empty then: what was wrongly admitted,
    /// or has come to share a way since, does not stay.
    fn verify_one(&mut self, now: Timestamp) {
        let active = |p: &TxPath| p.state == PathState::Active && p.verdict == Verdict::Fine;
        let verifying = self
            .paths
            .iter()
            .any(|p| p.state == PathState::Standby && p.verifying > 0);

        if verifying || self.paths.iter().filter(|p| active(p)).count() < 2 {
            return;
        }
        let oldest = (0..self.paths.len())
            .filter(|&i| active(&self.paths[i]))
            .min_by_key(|&i| self.paths[i].verified_at);
        let Some(index) = oldest else { return };
        let p = &mut self.paths[index];
        let gap = if p.verified_at == Timestamp::ZERO {
            VERIFY_FIRST
        } else {
            VERIFY_AGAIN
        };
        if now.since(self.verified_at) < gap {
            return;
        }
        self.verified_at = now;
        p.verified_at = now;
        p.state = PathState::Standby;
        p.verifying = VERIFY_ROUNDS;
        p.candidate = Candidate::default();
        self.refresh_views();
    }

    // ---- outputs ----

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<TxAction> {
        self.actions.pop_front()
    }

    /// The next send that has ended.
    pub fn poll_completion(&mut self) -> Option<SendDone> {
        self.done.pop_front()
    }

    /// The next event worth telling.
    pub fn poll_event(&mut self) -> Option<TxEvent> {
        self.events.pop_front()
    }

    /// The next frame to send; `None` when there is none, or no path has room.
    pub fn poll_transmit(&mut self, now: Timestamp) -> Option<Transmit> {
        if let Some(control) = self.poll_control() {
            return Some(control);
        }
        if let Some(transmit) = self.poll_eager(now) {
            return Some(transmit);
        }
        let transmit = self.poll_chunk(now);
        let backlog = transmit.is_none() && !(self.turns.is_empty() && self.replays.is_empty());
        if backlog {
            self.backlog_since.get_or_insert(now);
        } else if transmit.is_none() {
            self.backlog_since = None;
        }
        transmit
    }

    fn poll_control(&mut self) -> Option<Transmit> {
        while let Some(path) = self.probes.pop_front() {
            let p = &self.paths[usize::from(path)];
            if matches!(p.state, PathState::Active | PathState::Standby) {
                return Some(Transmit::Probe { path });
            }
        }
        while let Some(&(path, header)) = self.control.front() {
            let path = match path {
                Some(path) => {
                    let p = &self.paths[usize::from(path)];
                    if !matches!(p.state, PathState::Active | PathState::Standby) {
                        self.control.pop_front();
                        continue;
                    }
                    path
                }
                None => index_u8(self.control_path()?),
            };
            self.control.pop_front();
            return Some(Transmit::Control { path, header });
        }
        None
    }

    /// The best path for a frame that any path may carry.
    fn control_path(&self) -> Option<usize> {
        let up = |p: &TxPath| matches!(p.state, PathState::Active | PathState::Standby);
        (0..self.paths.len())
            .filter(|&i| up(&self.paths[i]))
            .min_by_key(|&i| {
                let p = &self.paths[i];
                (
                    p.verdict != Verdict::Fine,
                    self.views[i].completion_ns(64),
                    i,
                )
            })
    }

    fn poll_eager(&mut self, now: Timestamp) -> Option<Transmit> {
        let &id = self.eager_queue.front()?;
        // Small messages stay on one path, so that the others cost nothing, until it is slow.
        let sticky = self.eager_path.filter(|&i| {
            self.views[i].usable && self.views[i].outstanding.0 < 256 << 10 && self.receives_free(i)
        });
        let index = match sticky {
            Some(index) => index,
            None => (0..self.views.len())
                .filter(|&i| self.views[i].usable && self.receives_free(i))
                .min_by_key(|&i| self.views[i].completion_ns(64))?,
        };
        self.eager_path = Some(index);
        self.eager_queue.pop_front();
        let entry = &self.eager[self.eager_index(id)];
        let (eager, source) = (entry.eager, entry.source);
        self.give(index, Cargo::Eager { id }, eager.payload, now);
        Some(Transmit::Data {
            path: index_u8(index),
            header: Frame::Eager(eager).encode(),
            chunk: None,
            source,
            conn: eager.conn,
        })
    }

    fn poll_chunk(&mut self, now: Timestamp) -> Option<Transmit> {
        let replay = self.replays.front().copied();
        let (key, chunk) = match replay {
            Some(replay) => replay,
            None => self.next_in_turn()?,
        };
        let m = &self.messages[key as usize];
        let offset = u64::from(chunk) * u64::from(m.chunk_bytes);
        let len = (m.source.len - offset).min(u64::from(m.chunk_bytes));
        let conn = m.conn;
        let index = if self.config.receive_depth.is_some() {
            let mut views = std::mem::take(&mut self.views);
            for (i, view) in views.iter_mut().enumerate() {
                view.usable &= self.receives_free(i);
            }
            let chosen = self.selector.choose(conn, len, &views);
            self.views = views;
            self.refresh_usable();
            chosen?
        } else {
            self.selector.choose(conn, len, &self.views)?
        };
        if replay.is_some() {
            self.replays.pop_front();
        } else {
            self.turn_taken(conn, key);
        }
        let payload = u32::try_from(len).unwrap_or(u32::MAX);
        let m = &mut self.messages[key as usize];
        m.in_flight += 1;
        let credit = m.credit?;
        let frame = Chunk {
            slot: credit.slot,
            generation: credit.generation,
            index: chunk,
            chunk_bytes: m.chunk_bytes,
            payload,
            last: chunk + 1 == m.chunks,
        };
        let source = MemRange {
            addr: m.source.addr + offset,
            len,
        };
        self.give(
            index,
            Cargo::Chunk {
                message: key,
                index: chunk,
            },
            payload,
            now,
        );
        Some(Transmit::Data {
            path: index_u8(index),
            header: Frame::Chunk(frame).encode(),
            chunk: Some((frame, credit.addr + offset, credit.rkeys)),
            source,
            conn,
        })
    }

    /// The chunk whose turn it is: connections take turns, the messages of one go in order.
    fn next_in_turn(&mut self) -> Option<(u32, u32)> {
        for _ in 0..self.turns.len() {
            let &conn = self.turns.front()?;
            let key = self.conns.get(&conn).and_then(|c| c.ready.front()).copied();
            if let Some(key) = key {
                let m = &self.messages[key as usize];
                if m.done.admits(m.next) {
                    return Some((key, m.next));
                }
            }
            self.turns.rotate_left(1);
        }
        None
    }

    fn turn_taken(&mut self, conn: u32, key: u32) {
        let m = &mut self.messages[key as usize];
        m.next += 1;
        let finished = m.next == m.chunks;
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if finished {
            c.ready.pop_front();
        }
        self.turns.pop_front();
        if !c.ready.is_empty() {
            self.turns.push_back(conn);
        }
    }

    fn give(&mut self, index: usize, cargo: Cargo, bytes: u32, now: Timestamp) {
        let p = &mut self.paths[index];
        p.queue.push_back(Outstanding { cargo, bytes });
        p.sent = p.sent.wrapping_add(1);
        p.bytes_total += u64::from(bytes);
        p.queued_bytes += u64::from(bytes);
        p.meter.on_sent(now);
        if p.queued_bytes > LAG_MAX {
            self.views[index].usable = false;
        }
        self.views[index].outstanding.0 += u64::from(bytes);
        self.in_flight += u64::from(bytes);
    }

    /// Whether the peer has a receive posted on this path for one more data frame.
    fn receives_free(&self, index: usize) -> bool {
        let p = &self.paths[index];
        self.config
            .receive_depth
            .is_none_or(|depth| p.sent.wrapping_sub(p.peer_count) < depth)
    }

    fn refresh_usable(&mut self) {
        for (p, view) in self.paths.iter().zip(&mut self.views) {
            view.usable = p.state == PathState::Active
                && p.verdict == Verdict::Fine
                && p.queued_bytes <= LAG_MAX;
        }
    }

    /// Shares the link's window out among its paths, by their measured rates.
    fn refresh_views(&mut self) {
        self.refresh_usable();
        let measured =
            |p: &TxPath| (p.state == PathState::Active && p.meter.rate > 0).then_some(p.meter.rate);
        let (sum, count) = self
            .paths
            .iter()
            .filter_map(measured)
            .fold((0u64, 0u64), |(sum, n), rate| (sum + rate, n + 1));
        // A path that has not shown its rate yet is taken for an average one.
        let assumed = sum.checked_div(count).unwrap_or(1_000_000_000).max(1);
        let active = self
            .paths
            .iter()
            .filter(|p| p.state == PathState::Active)
            .count() as u64;
        let total = sum + assumed * active.saturating_sub(count);
        let window = self.controller.window().0;
        let chunk = u64::from(self.chunk_bytes_for(u64::MAX >> 1));
        for (p, view) in self.paths.iter().zip(&mut self.views) {
            if p.state != PathState::Active {
                continue;
            }
            let rate = if p.meter.rate > 0 {
                p.meter.rate
            } else {
                assumed
            };
            let share = u128::from(window) * u128::from(rate) / u128::from(total.max(1));
            view.cap = Bytes(u64::try_from(share).unwrap_or(u64::MAX).max(2 * chunk));
            view.byte_time = (1_000_000_000 << 16) / rate;
            view.delay_ns = p.stats.rtt_min.0;
        }
    }

    // ---- for people ----

    /// The state of each path.
    pub fn path_infos(&self) -> impl Iterator<Item = PathInfo> + '_ {
        self.paths.iter().map(|p| PathInfo {
            state: match p.state {
                PathState::Vacant if p.open_fence.is_some() => PathState::Fenced,
                state => state,
            },
            suspect: p.verdict != Verdict::Fine,
            bytes: p.bytes_total,
            outstanding: p.queued_bytes,
            rate: p.meter.rate,
            rtt: p.stats.rtt,
            rtt_min: p.stats.rtt_min,
        })
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
        let mut by = |at: Timestamp| due = Some(due.map_or(at, |d| d.min(at)));
        for p in &self.paths {
            if p.open_fence.is_some() {
                by(p.fence_sent_at + FENCE_REPEAT);
            }
            if p.verdict != Verdict::Fine {
                by(soon);
            }
            let wanted = self.search_ended_at.is_none() || p.died_silent || !self.config.search;
            if p.state == PathState::Vacant && wanted {
                by(p.dial_at.max(now + Nanos::from_millis(1)));
            }
        }
        due
    }

    /// Whether the transport should be asked how this path does.
    #[must_use]
    pub fn wants_stats(&self, path: u8, now: Timestamp) -> bool {
        let p = &self.paths[usize::from(path)];
        matches!(p.state, PathState::Active | PathState::Standby)
            && (!p.queue.is_empty()
                || p.verdict != Verdict::Fine
                || now.since(p.probed_at) < Nanos::from_millis(300))
    }

    /// Whether any path is up.
    #[must_use]
    pub fn any_up(&self) -> bool {
        self.paths
            .iter()
            .any(|p| matches!(p.state, PathState::Active | PathState::Standby))
    }

    /// Name of the controller and of the selector in use.
    #[must_use]
    pub fn algorithms(&self) -> (&'static str, &'static str) {
        (self.controller.name(), self.selector.name())
    }
}

fn index_u8(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}
