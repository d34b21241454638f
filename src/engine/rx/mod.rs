//! The receiving half of a link: posted buffers, credits, arriving chunks, acknowledgements.
//!
//! What arrives is checked against what was granted before an address leaves this file: a chunk
//! must name a slot whose credit has been sent, lie inside its buffer and inside its window, and
//! is counted in a bitmap. Everything sent back is cumulative or can be repeated, so whatever a
//! dying path swallows is repaired by [`RxEngine::resync`].

mod record;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thiserror::Error;

use self::record::PathRecord;
use super::bitmap::{Insert, SlidingBitmap};
use super::record::Record;
use super::wire::{self, Ack, Chunk, Credit, Eager, Frame, Header, Immediate, Keys, PathCount};
use super::{Completions, EAGER_OVERHEAD, EAGER_WINDOW, EngineConfig, MemRange, Ordinals, UNHEARD};
use crate::clock::Timestamp;
use crate::path::health::{Health, TransportStats, Verdict};
use crate::telemetry::event::{Event, FenceReason};
use crate::units::Nanos;

/// Earlier channels of a path whose counts are kept. A channel counts only if it carried
/// something, and its sender fences it before it uses the next: one would do, were it not for
/// welcomes that get lost.
const HISTORY: usize = 16;
/// Receives of a connection that were too small for their message and may be asked about again:
/// as many as a sender can have outstanding.
const REFUSED: usize = 256;

/// Connections of one link; NCCL makes a few for each channel and peer.
const CONNS_MAX: usize = 1 << 16;
/// Longer than any dial takes.
const AWAY: Nanos = Nanos(60_000_000_000);

/// Where the payload of a data frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Into this memory.
    Place(MemRange),
    /// Nowhere: so many bytes are skipped.
    Discard(u64),
}

/// How a peer broke the protocol. The path it used is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// The frame itself.
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    /// It makes no sense here and now.
    #[error("{0}")]
    Protocol(&'static str),
}

/// How one message of a receive ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecvDone {
    /// What the caller named the receive by.
    pub token: u64,
    /// Bytes received, or why none were.
    pub result: Result<u64, RecvError>,
}

/// Why a receive failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecvError {
    /// The message does not fit.
    #[error("a message of {size} bytes is larger than its receive buffer of {capacity}")]
    TooLong {
        /// Bytes of the message.
        size: u64,
        /// Bytes of the buffer.
        capacity: u64,
    },
    /// The sender closed the connection first.
    #[error("the peer closed the connection with receives outstanding")]
    PeerClosed,
    /// The link failed; the link says why.
    #[error("the link failed")]
    LinkFailed,
}

/// What the driver has to do for the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxAction {
    /// Make this channel silent (close it, or drain it to its flush), then call
    /// [`RxEngine::handle_silenced`].
    Silence {
        /// Path.
        path: u8,
        /// Its channel.
        epoch: u16,
    },
    /// The peer opened a connection to this listener: answer with [`RxEngine::answer_open`].
    Opened {
        /// Connection.
        conn: u32,
        /// Listener.
        listener: u64,
    },
    /// The peer leaves in good order: the link ends.
    Goodbye,
}

/// A small message that an adapter has to bring to its receive.
#[derive(Debug)]
pub struct Landing {
    /// What the caller named the receive by.
    pub token: u64,
    /// The message.
    pub data: Box<[u8]>,
    /// Where it goes.
    pub target: MemRange,
    /// The keys of that memory.
    pub keys: Keys,
}

/// A frame to send.
#[derive(Debug, Clone, Copy)]
pub struct RxTransmit {
    /// Path.
    pub path: u8,
    /// Frame.
    pub header: Header,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    generation: u32,
    state: SlotState,
    conn: u32,
    tag: i32,
    ordinal: u32,
    token: u64,
    buffer: MemRange,
    rkeys: Keys,
    received: SlidingBitmap,
    chunks_done: u32,
    /// Number of chunks and length, once the last chunk has been seen.
    total: Option<(u32, u64)>,
    /// What the chunks let in so far say of the message; all others must agree.
    cut: Option<Cut>,
}

/// How a message is cut, as far as is known.
#[derive(Debug, Clone, Copy)]
struct Cut {
    chunk_bytes: u32,
    highest: u32,
    last: Option<u32>,
}

impl Cut {
    /// What is known with this chunk too, unless it belongs to another message: after the last
    /// chunk, or another last one, or of another size.
    fn with(known: Option<Self>, chunk: &Chunk) -> Option<Self> {
        let last = chunk.last.then_some(chunk.index);
        let Some(cut) = known else {
            return Some(Self {
                chunk_bytes: chunk.chunk_bytes,
                highest: chunk.index,
                last,
            });
        };
        let highest = cut.highest.max(chunk.index);
        let last = match (cut.last, last) {
            (Some(known), Some(said)) if known != said => return None,
            (known, said) => known.or(said),
        };
        let right = chunk.chunk_bytes == cut.chunk_bytes && last.is_none_or(|last| highest <= last);
        right.then_some(Self {
            highest,
            last,
            ..cut
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Free,
    /// Posted, and the peer has not been told.
    Posted,
    /// The credit has been sent at least once.
    Granted,
}

/// A data frame whose payload is arriving.
#[derive(Debug, Clone, Copy)]
enum Arriving {
    Chunk {
        slot: u16,
        generation: u32,
        chunk: Chunk,
    },
    EagerToSlot {
        slot: u16,
        generation: u32,
        cost: u64,
        len: u64,
    },
    EagerToPool {
        key: u64,
    },
    Discard,
}

/// What has become of a path's channel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Channel {
    #[default]
    None,
    Up,
    /// The sender has fenced it, and the driver has been asked to make it silent.
    Silencing,
    /// It broke on our side, and the sender may not have heard of it.
    Lost,
}

#[derive(Debug, Default)]
struct RxPath {
    epoch: u16,
    channel: Channel,
    /// When the last channel ended.
    down_at: Timestamp,
    count: u32,
    /// Counts of earlier channels that carried something, for fences that are answered late.
    history: VecDeque<(u16, u32)>,
    /// Its count has changed since it was last acknowledged.
    unacked: bool,
    /// What its count was then.
    told: u32,
    arriving: Option<Arriving>,
    /// Something was sent on it that may still be under way.
    watched: bool,
    health: Option<Health>,
    /// Whether what was sent on it has not been acknowledged for too long.
    verdict: Verdict,
    record: PathRecord,
}

impl RxPath {
    fn is_up(&self) -> bool {
        matches!(self.channel, Channel::Up | Channel::Silencing)
    }

    /// Whether the whole message of this slot is arriving here.
    fn brings(&self, slot: u16, generation: u32) -> bool {
        matches!(self.arriving, Some(Arriving::EagerToSlot { slot: s, generation: g, .. })
            if (s, g) == (slot, generation))
    }

    /// How far an earlier channel came; one that is not in the history carried nothing.
    fn count_of(&self, epoch: u16) -> u32 {
        self.history
            .iter()
            .find(|(e, _)| *e == epoch)
            .map_or(0, |&(_, count)| count)
    }
}

#[derive(Debug)]
struct RxConn {
    ordinals: Ordinals,
    posted: VecDeque<u16>,
    /// The peer has asked for credits for these.
    wanted: Vec<(i32, u32)>,
    /// Tag, ordinal and capacity of receives that were too small.
    refused: VecDeque<(i32, u32, u64)>,
    /// The last message came without a credit, so credits are held back until asked for.
    eager_mode: bool,
    peer_closed: bool,
}

#[derive(Debug)]
struct Pooled {
    conn: u32,
    eager: Eager,
    data: Box<[u8]>,
    complete: bool,
}

/// The receiving half of a link.
#[derive(Debug)]
pub struct RxEngine {
    config: EngineConfig,
    conns: BTreeMap<u32, RxConn>,
    /// Closed on our side, and the peer has not closed its own: it may not have heard of it.
    closing: BTreeSet<u32>,
    slots: Vec<Slot>,
    free_slots: Vec<u16>,
    /// Receives that found no free slot.
    waiting: VecDeque<(u32, i32, u32, u64, MemRange, Keys)>,
    paths: Vec<RxPath>,
    /// Eager messages that came before their receive.
    pool: VecDeque<(u64, Pooled)>,
    pool_next: u64,
    pool_bytes: u64,
    eager_consumed: u64,
    control: VecDeque<(Option<u8>, Header)>,
    actions: VecDeque<RxAction>,
    done: VecDeque<RecvDone>,
    copies: VecDeque<(Box<[u8]>, MemRange)>,
    landings: VecDeque<Landing>,
    ack_due: bool,
    /// The sender waits for the acknowledgement: of a chunk, or of half its eager window.
    ack_urgent: bool,
    /// What eager messages have used up since the last acknowledgement.
    eager_unacked: u64,
    /// The path that control frames go out on.
    control_path: Option<u8>,
    /// When a path was last known to be well.
    last_life: Timestamp,
    /// A frame has arrived since the last timeout.
    heard: bool,
    /// When a frame last arrived, and when the peer was last asked after.
    heard_at: Timestamp,
    asked_at: Timestamp,
    /// Bytes of chunks that have arrived, that the sender wants to send, and that it has given up,
    /// all since the link began; and what it has been granted.
    received: u64,
    wanted: u64,
    abandoned: u64,
    granted: Option<u64>,
    /// How many chunks arrived twice: not an error, but never more than replays explain.
    duplicates: u64,
    record: Record,
    /// The time of the last timeout.
    now: Timestamp,
}

impl RxEngine {
    /// A link without connections or paths.
    #[must_use]
    pub fn new(config: EngineConfig, now: Timestamp) -> Self {
        Self {
            config,
            conns: BTreeMap::new(),
            closing: BTreeSet::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            waiting: VecDeque::new(),
            paths: (0..config.paths_max).map(|_| RxPath::default()).collect(),
            pool: VecDeque::new(),
            pool_next: 0,
            pool_bytes: 0,
            eager_consumed: 0,
            control: VecDeque::new(),
            actions: VecDeque::new(),
            done: VecDeque::new(),
            copies: VecDeque::new(),
            landings: VecDeque::new(),
            ack_due: false,
            ack_urgent: false,
            eager_unacked: 0,
            control_path: None,
            last_life: now,
            heard: false,
            heard_at: now,
            asked_at: now,
            received: 0,
            wanted: 0,
            abandoned: 0,
            granted: config.first_grant,
            duplicates: 0,
            record: Record::default(),
            now,
        }
    }

    // ---- the application ----

    /// Accepts or refuses the connection that [`RxAction::Opened`] told of.
    pub fn answer_open(&mut self, conn: u32, accepted: bool) {
        if accepted {
            self.conns.entry(conn).or_insert_with(|| RxConn {
                ordinals: Ordinals::default(),
                posted: VecDeque::new(),
                wanted: Vec::new(),
                refused: VecDeque::new(),
                eager_mode: false,
                peer_closed: false,
            });
        }
        self.say(Frame::Opened { conn, accepted });
    }

    /// Posts one buffer; [`RxEngine::poll_completion`] gives `token` back when its message has
    /// arrived or the receive has failed.
    pub fn post(&mut self, conn: u32, token: u64, tag: i32, buffer: MemRange, rkeys: Keys) {
        let Some(c) = self.conns.get_mut(&conn) else {
            self.done.push_back(RecvDone {
                token,
                result: Err(RecvError::LinkFailed),
            });
            return;
        };
        let ordinal = c.ordinals.next(tag);
        if let Some(at) = self.pool.iter().position(|(_, p)| {
            p.complete && p.conn == conn && p.eager.tag == tag && p.eager.ordinal == ordinal
        }) {
            self.take_from_pool(at, token, buffer, rkeys);
        } else if c.peer_closed {
            self.done.push_back(RecvDone {
                token,
                result: Err(RecvError::PeerClosed),
            });
        } else if self.waiting.is_empty() {
            self.place(conn, tag, ordinal, token, buffer, rkeys);
        } else {
            self.waiting
                .push_back((conn, tag, ordinal, token, buffer, rkeys));
        }
    }

    /// Closes our end: its receives end without a completion, and nothing is written to their
    /// buffers once the driver has discarded what [`RxEngine::arriving_for`] named before.
    pub fn close(&mut self, conn: u32) {
        let Some(c) = self.conns.remove(&conn) else {
            return;
        };
        if !c.peer_closed {
            self.closing.insert(conn);
        }
        for slot in c.posted {
            self.free(slot);
        }
        self.waiting.retain(|w| w.0 != conn);
        let mut consumed = 0;
        self.pool.retain(|(_, p)| {
            let drop_it = p.conn == conn && p.complete;
            if drop_it {
                consumed += eager_cost(p.eager);
            }
            !drop_it
        });
        self.pool_bytes -= consumed;
        self.consume(consumed);
        self.refill_slots();
        // A credit that still waits to be sent would give away what is not ours to give any more.
        self.control.retain(|(_, header)| {
            let frame = Frame::decode(header.as_bytes());
            !matches!(frame, Ok(Frame::Credit(credit)) if credit.conn == conn)
        });
        self.say(Frame::Close { conn });
    }

    /// Paths on which a payload for this connection is arriving right now.
    pub fn arriving_for(&self, conn: u32) -> impl Iterator<Item = u8> + '_ {
        self.paths.iter().zip(0u8..).filter_map(move |(p, index)| {
            let Some(
                Arriving::Chunk {
                    slot, generation, ..
                }
                | Arriving::EagerToSlot {
                    slot, generation, ..
                },
            ) = p.arriving
            else {
                return None;
            };
            let s = &self.slots[usize::from(slot)];
            (s.conn == conn && s.generation == generation).then_some(index)
        })
    }

    /// Whether the peer may be writing into a buffer of this connection, or may begin to.
    #[must_use]
    pub fn has_credits(&self, conn: u32) -> bool {
        let granted = |slot: &u16| self.slots[usize::from(*slot)].state == SlotState::Granted;
        self.conns
            .get(&conn)
            .is_some_and(|c| c.posted.iter().any(granted))
    }

    /// Connections that exist.
    pub fn conns(&self) -> impl Iterator<Item = u32> + '_ {
        self.conns.keys().copied()
    }

    /// Whether the peer has closed its end.
    #[must_use]
    pub fn peer_closed(&self, conn: u32) -> bool {
        self.conns.get(&conn).is_none_or(|c| c.peer_closed)
    }

    /// Receives that wait for a message.
    #[must_use]
    pub fn receives_pending(&self) -> usize {
        self.conns.values().map(|c| c.posted.len()).sum::<usize>() + self.waiting.len()
    }

    /// Bytes that have arrived in whole chunks for the pending receive of this token.
    #[must_use]
    pub fn arrived(&self, token: u64) -> u64 {
        let is_its = |s: &&Slot| s.state == SlotState::Granted && s.token == token;
        let Some(s) = self.slots.iter().find(is_its) else {
            return 0;
        };
        let chunk_bytes = match s.cut {
            Some(cut) => Some(cut.chunk_bytes),
            None => self.config.chunk_bytes,
        };
        let chunk_bytes = u64::from(chunk_bytes.unwrap_or(0));
        match s.total {
            // The last chunk is there, so all that are not are full ones.
            Some((chunks, len)) => len - u64::from(chunks - s.chunks_done) * chunk_bytes,
            None => u64::from(s.chunks_done) * chunk_bytes,
        }
    }

    /// Ends every receive: the link has failed.
    pub fn fail(&mut self) {
        let Self {
            conns,
            slots,
            done,
            waiting,
            ..
        } = self;
        for conn in conns.values_mut() {
            for slot in conn.posted.drain(..) {
                let token = slots[usize::from(slot)].token;
                done.push_back(RecvDone {
                    token,
                    result: Err(RecvError::LinkFailed),
                });
            }
        }
        for (_, _, _, token, _, _) in waiting.drain(..) {
            done.push_back(RecvDone {
                token,
                result: Err(RecvError::LinkFailed),
            });
        }
        conns.clear();
        self.closing.clear();
        slots.clear();
        for p in &mut self.paths {
            p.arriving = None; // it would name a slot that is no more
        }
        self.free_slots.clear();
    }

    // ---- paths ----

    /// Whether a dialler's channel for this path is newer than what is there.
    #[must_use]
    pub fn admits_channel(&self, path: u8, epoch: u16) -> bool {
        self.paths.get(usize::from(path)).is_some_and(|p| {
            let ahead = epoch.wrapping_sub(p.epoch);
            // Of a path that has been away for so long no old dial can be under way, and its dialler may have counted
            // half round.
            let is_anew = !p.is_up() && self.now.since(p.down_at) >= AWAY;
            ahead != 0 && (ahead < 1 << 15 || is_anew)
        })
    }

    /// A channel of `path` is up; the older one must be silent by now. `fence` is the earlier
    /// channel that the hello asked about; the answer, how far it came, belongs in the welcome.
    pub fn handle_path_up(
        &mut self,
        path: u8,
        epoch: u16,
        fence: Option<u16>,
    ) -> Option<PathCount> {
        self.forget_arriving(path);
        let p = &mut self.paths[usize::from(path)];
        if p.count > 0 {
            if p.history.len() == HISTORY {
                p.history.pop_front();
            }
            p.history.push_back((p.epoch, p.count));
        }
        p.epoch = epoch;
        p.channel = Channel::Up;
        p.count = 0;
        p.told = 0;
        p.unacked = false;
        p.watched = false;
        p.health = None;
        p.verdict = Verdict::Fine;
        let up = Event::PathUp {
            epoch: epoch.into(),
        };
        self.record.note(Some(path), up, self.now);
        let p = &self.paths[usize::from(path)];
        let previous = fence.map(|epoch| PathCount {
            path,
            epoch,
            count: p.count_of(epoch),
        });
        if self.control_path.is_none_or(|p| self.is_suspect(p)) {
            self.control_path = Some(path);
        }
        // Whose buffers were taken back must be known before anything is written over this channel:
        // its sender waits for the answer to a ping, which comes behind. An earlier channel's
        // answers are none.
        self.control.retain(|(to, _)| *to != Some(path));
        let closes = self.closing.iter().map(|&conn| Frame::Close { conn });
        self.control
            .extend(closes.map(|close| (Some(path), close.encode())));
        self.resync();
        previous
    }

    /// The channel failed: whatever was arriving on it is forgotten, and the peer is told.
    pub fn handle_path_down(&mut self, path: u8, epoch: u16) {
        let p = &mut self.paths[usize::from(path)];
        if p.epoch != epoch || p.channel != Channel::Up {
            return;
        }
        p.channel = Channel::Lost;
        p.down_at = self.now;
        self.note_end(path, FenceReason::Broken);
        self.forget_arriving(path);
        self.leave_control_path(path);
        self.say(Frame::Lost { path, epoch });
    }

    /// The driver has made the channel silent, as [`RxAction::Silence`] asked.
    pub fn handle_silenced(&mut self, path: u8, epoch: u16) {
        let p = &mut self.paths[usize::from(path)];
        if p.epoch != epoch {
            return;
        }
        p.channel = Channel::None;
        p.down_at = self.now;
        let count = p.count;
        self.note_end(path, FenceReason::Sender);
        self.forget_arriving(path);
        self.leave_control_path(path);
        self.say(Frame::Fenced(PathCount { path, epoch, count }));
        self.resync();
    }

    /// Whether the transport should be asked how this path does: something was sent on it, and
    /// what was sent may be lost with it.
    #[must_use]
    pub fn wants_stats(&self, path: u8) -> bool {
        let p = &self.paths[usize::from(path)];
        p.is_up() && p.watched
    }

    /// What the transport tells of a path. Call every few milliseconds for those that
    /// [`RxEngine::wants_stats`] names: data that still comes over a path does not tell whether
    /// anything gets back.
    ///
    /// What went out on a silent path is said again on one that is not. Where it is the only one,
    /// control frames stay on it: a late frame is better than none, and a path that nothing comes
    /// over would never be chosen again.
    pub fn handle_stats(&mut self, path: u8, stats: &TransportStats, now: Timestamp) {
        let p = &mut self.paths[usize::from(path)];
        if !p.is_up() {
            return;
        }
        p.watched = stats.in_flight;
        let health = p.health.get_or_insert_with(|| Health::new(now));
        let verdict = health.observe(now, stats, &self.config.health);
        let was = std::mem::replace(&mut p.verdict, verdict);
        if was == verdict {
            return;
        }
        let Some(well) = self.paths_up().find(|&p| !self.is_suspect(p)) else {
            return;
        };
        if self.control_path.is_none_or(|p| self.is_suspect(p)) {
            self.control_path = Some(well);
        }
        if !self.paths_up().any(|p| self.is_suspect(p)) {
            return;
        }
        // An adapter sends a lost frame again by itself, and a path may just wait behind urgent
        // traffic: until it is as good as dead, only what holds the sender up is said again.
        let patient = self.config.completions == Completions::Local && verdict != Verdict::Dead;
        if patient {
            self.say_grant();
        } else {
            self.resync();
        }
    }

    /// Says again what the sender may send.
    fn say_grant(&mut self) {
        if let Some(granted) = self.granted {
            self.say(Frame::Grant { granted });
        }
    }

    /// Does what time has made due: asks after a peer that receives wait for.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.now = now;
        self.publish(now);
        if std::mem::take(&mut self.heard) {
            self.heard_at = now;
        }
        if self
            .paths
            .iter()
            .any(|p| p.is_up() && p.verdict == Verdict::Fine)
        {
            self.last_life = now;
        }
        let asked = self.heard_at.max(self.asked_at);
        if self.receives_pending() > 0 && now.since(asked) >= UNHEARD {
            self.asked_at = now;
            let ping = Frame::Ping { id: 0, sent_ns: 0 }.encode();
            let paths = self.paths.iter().zip(0..).filter(|(p, _)| p.is_up());
            self.control
                .extend(paths.map(|(_, path)| (Some(path), ping)));
        }
    }

    /// When somebody should call [`RxEngine::handle_timeout`] at the latest, if ever.
    #[must_use]
    pub fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        if self.has_output() {
            Some(now + Nanos::from_millis(5))
        } else if self.paths.iter().any(|p| p.is_up() && p.watched) {
            Some(now + self.config.health.suspect_min)
        } else {
            (self.receives_pending() > 0).then(|| now + UNHEARD)
        }
    }

    /// What the link has received, and what its sender wants to send in all: bytes since the link
    /// began, for the device's [`Admission`](super::admission::Admission).
    #[must_use]
    pub fn demand(&self) -> (u64, u64) {
        (self.received, self.wanted.saturating_sub(self.abandoned))
    }

    /// The sender may send so many bytes since the link began.
    pub fn grant(&mut self, granted: u64) {
        if self.granted.is_some_and(|before| before < granted) {
            self.granted = Some(granted);
            self.say(Frame::Grant { granted });
        }
    }

    /// When a path was last known to be well, as of the last [`RxEngine::handle_timeout`].
    #[must_use]
    pub fn last_life(&self) -> Timestamp {
        self.last_life
    }

    fn is_suspect(&self, path: u8) -> bool {
        self.paths[usize::from(path)].verdict != Verdict::Fine
    }

    /// Data came over this path: what is sent back goes there too, unless it gets lost there.
    fn lead_control_to(&mut self, path: u8) {
        if !self.is_suspect(path) || self.control_path.is_none_or(|p| self.is_suspect(p)) {
            self.control_path = Some(path);
        }
    }

    /// Paths that are up.
    pub fn paths_up(&self) -> impl Iterator<Item = u8> + '_ {
        self.paths
            .iter()
            .zip(0u8..)
            .filter(|(p, _)| p.is_up())
            .map(|(_, index)| index)
    }

    /// Says again everything that a lost path may have swallowed.
    fn resync(&mut self) {
        for (p, path) in self.paths.iter_mut().zip(0..) {
            p.unacked |= p.is_up();
            if p.channel == Channel::Lost {
                let epoch = p.epoch;
                self.control
                    .push_back((None, Frame::Lost { path, epoch }.encode()));
            }
        }
        self.ack_due = true;
        self.ack_urgent = true;
        self.say_grant();
        let Self {
            conns,
            closing,
            slots,
            control,
            ..
        } = self;
        let closes = closing.iter().map(|&conn| Frame::Close { conn }.encode());
        control.extend(closes.map(|close| (None, close)));
        for (&conn, c) in conns.iter() {
            control.push_back((
                None,
                Frame::Opened {
                    conn,
                    accepted: true,
                }
                .encode(),
            ));
            for &slot in &c.posted {
                let s = &slots[usize::from(slot)];
                if s.state == SlotState::Granted {
                    control.push_back((None, Frame::Credit(s.credit(slot)).encode()));
                }
            }
        }
    }

    fn leave_control_path(&mut self, path: u8) {
        if self.control_path == Some(path) {
            let others = self.paths_up().filter(|&other| other != path);
            self.control_path = others.min_by_key(|&other| self.is_suspect(other));
        }
    }

    fn forget_arriving(&mut self, path: u8) {
        if let Some(Arriving::EagerToPool { key }) = self.paths[usize::from(path)].arriving.take()
            && let Some(at) = self.pool.iter().position(|(k, _)| *k == key)
            && let Some((_, pooled)) = self.pool.remove(at)
        {
            self.pool_bytes -= eager_cost(pooled.eager);
        }
    }

    // ---- frames ----

    /// Takes a frame in. For a data frame the answer says where its payload goes; the driver
    /// calls [`RxEngine::handle_payload_done`] once all of it is there.
    ///
    /// # Errors
    /// How the peer broke the protocol: close this path.
    pub fn handle_frame(
        &mut self,
        path: u8,
        frame: Frame,
        received_ns: u64,
    ) -> Result<Option<Sink>, Violation> {
        self.heard = true;
        match frame {
            Frame::Chunk(chunk) => return self.handle_chunk(path, chunk).map(Some),
            Frame::Eager(eager) => return self.handle_eager(path, eager).map(Some),
            Frame::Announce {
                conn,
                tag,
                ordinal,
                size,
            } => {
                self.handle_announce(conn, tag, ordinal, size)?;
            }
            Frame::Open { conn, listener } => {
                if self.conns.contains_key(&conn) {
                    self.say(Frame::Opened {
                        conn,
                        accepted: true,
                    });
                } else if self.closing.contains(&conn) {
                    self.say(Frame::Close { conn });
                } else if self.conns.len() + self.closing.len() + self.actions.len() >= CONNS_MAX {
                    return Err(Violation::Protocol("more connections than a link can have"));
                } else {
                    self.actions.push_back(RxAction::Opened { conn, listener });
                }
            }
            Frame::Close { conn } => self.handle_close(conn)?,
            Frame::Fence {
                path: fenced,
                epoch,
            } => self.handle_fence(fenced, epoch)?,
            Frame::Ping { id, sent_ns } => {
                let pong = Frame::Pong {
                    id,
                    sent_ns,
                    received_ns,
                };
                self.control.push_back((Some(path), pong.encode()));
            }
            Frame::Pong { .. } => {}
            Frame::Demand { wanted, abandoned } => {
                self.wanted = self.wanted.max(wanted);
                self.abandoned = self.abandoned.max(abandoned);
            }
            // It counts as nothing: what it shows is that it has come.
            Frame::Padding { bytes } => return Ok(Some(Sink::Discard(bytes.into()))),
            Frame::Goodbye => self.actions.push_back(RxAction::Goodbye),
            Frame::Ack(_)
            | Frame::Credit(_)
            | Frame::Opened { .. }
            | Frame::Fenced(_)
            | Frame::Grant { .. }
            | Frame::Lost { .. } => {
                return Err(Violation::Protocol("a frame that only a receiver sends"));
            }
        }
        Ok(None)
    }

    fn handle_chunk(&mut self, path: u8, chunk: Chunk) -> Result<Sink, Violation> {
        let slot = self
            .slots
            .get(usize::from(chunk.slot))
            .ok_or(Violation::Protocol(
                "a chunk for a slot that was never granted",
            ))?;
        let live = slot.state != SlotState::Free && slot.generation == chunk.generation;
        if !live {
            // A use of the slot that is over: the connection was closed meanwhile.
            if slot.generation.wrapping_sub(chunk.generation) > 1 << 31 {
                return Err(Violation::Protocol(
                    "a chunk for a credit that was never given",
                ));
            }
            self.paths[usize::from(path)].arriving = Some(Arriving::Discard);
            return Ok(Sink::Discard(u64::from(chunk.payload)));
        }
        if slot.state != SlotState::Granted {
            return Err(Violation::Protocol(
                "a chunk for a credit that was never given",
            ));
        }
        let cut = slot.cut_with(&chunk)?;
        if self
            .paths
            .iter()
            .any(|p| p.brings(chunk.slot, chunk.generation))
        {
            return Err(Violation::Protocol("a message that comes twice"));
        }
        let arriving_elsewhere = self.paths.iter().any(|p| {
            matches!(p.arriving, Some(Arriving::Chunk { slot, generation, chunk: other })
                if slot == chunk.slot && generation == chunk.generation && other.index == chunk.index)
        });
        if slot.received.contains(chunk.index) || arriving_elsewhere {
            self.duplicates += 1;
            self.paths[usize::from(path)].arriving = Some(Arriving::Discard);
            return Ok(Sink::Discard(u64::from(chunk.payload)));
        }
        let target = MemRange {
            addr: slot.buffer.addr + chunk.offset(),
            len: u64::from(chunk.payload),
        };
        self.slots[usize::from(chunk.slot)].cut = Some(cut);
        self.paths[usize::from(path)].arriving = Some(Arriving::Chunk {
            slot: chunk.slot,
            generation: chunk.generation,
            chunk,
        });
        Ok(Sink::Place(target))
    }

    fn handle_eager(&mut self, path: u8, eager: Eager) -> Result<Sink, Violation> {
        let len = u64::from(eager.payload);
        if eager.payload > self.config.eager_bytes {
            return Err(Violation::Protocol(
                "an eager message longer than was agreed",
            ));
        }
        let cost = eager_cost(eager);
        let Some(conn) = self.conns.get_mut(&eager.conn) else {
            // Closed on our side while this was under way.
            self.paths[usize::from(path)].arriving = Some(Arriving::Discard);
            self.consume(cost);
            return Ok(Sink::Discard(len));
        };
        let slots = &self.slots;
        let posted = conn.posted.iter().copied().find(|&slot| {
            let s = &slots[usize::from(slot)];
            s.tag == eager.tag && s.ordinal == eager.ordinal
        });
        if let Some(slot) = posted {
            let s = &self.slots[usize::from(slot)];
            if s.cut.is_some() || self.paths.iter().any(|p| p.brings(slot, s.generation)) {
                return Err(Violation::Protocol("a message that comes twice"));
            }
            if s.rkeys.is_gpu() && len > 0 {
                // No processor can place it there: it waits in the pool until an adapter does.
                return self.pool_eager(path, eager);
            }
            conn.eager_mode = s.buffer.len > u64::from(self.config.eager_bytes);
            let generation = s.generation;
            if len > s.buffer.len {
                let error = RecvError::TooLong {
                    size: len,
                    capacity: s.buffer.len,
                };
                self.finish(slot, Err(error));
                self.consume(cost);
                self.paths[usize::from(path)].arriving = Some(Arriving::Discard);
                return Ok(Sink::Discard(len));
            }
            let addr = s.buffer.addr;
            self.paths[usize::from(path)].arriving = Some(Arriving::EagerToSlot {
                slot,
                generation,
                cost,
                len,
            });
            return Ok(Sink::Place(MemRange { addr, len }));
        }
        self.pool_eager(path, eager)
    }

    /// Keeps a small message for its receive.
    fn pool_eager(&mut self, path: u8, eager: Eager) -> Result<Sink, Violation> {
        let (len, cost) = (u64::from(eager.payload), eager_cost(eager));
        if self.pool_bytes + cost > EAGER_WINDOW {
            return Err(Violation::Protocol("more eager bytes than were granted"));
        }
        self.pool_bytes += cost;
        let key = self.pool_next;
        self.pool_next += 1;
        let mut data = vec![0u8; eager.payload as usize].into_boxed_slice();
        let addr = data.as_mut_ptr() as u64;
        self.pool.push_back((
            key,
            Pooled {
                conn: eager.conn,
                eager,
                data,
                complete: false,
            },
        ));
        self.paths[usize::from(path)].arriving = Some(Arriving::EagerToPool { key });
        Ok(Sink::Place(MemRange { addr, len }))
    }

    /// All of the payload that was arriving on `path` is in its place.
    pub fn handle_payload_done(&mut self, path: u8) {
        let p = &mut self.paths[usize::from(path)];
        let Some(arriving) = p.arriving.take() else {
            return;
        };
        p.count = p.count.wrapping_add(1);
        p.unacked = true;
        self.ack_due = true;
        self.lead_control_to(path);
        match arriving {
            Arriving::Discard => {}
            Arriving::Chunk {
                slot,
                generation,
                chunk,
            } => {
                self.ack_urgent = true;
                self.paths[usize::from(path)].record.bytes += u64::from(chunk.payload);
                let s = &self.slots[usize::from(slot)];
                self.received += u64::from(chunk.payload);
                if s.generation == generation && s.state == SlotState::Granted {
                    let end = u64::from(chunk.index) * u64::from(chunk.chunk_bytes)
                        + u64::from(chunk.payload);
                    self.count_chunk(slot, chunk.index, chunk.last.then_some(end));
                }
            }
            Arriving::EagerToSlot {
                slot,
                generation,
                cost,
                len,
            } => {
                self.consume(cost);
                self.paths[usize::from(path)].record.bytes += len;
                let s = &self.slots[usize::from(slot)];
                if s.generation == generation && s.state != SlotState::Free {
                    self.finish(slot, Ok(len));
                }
            }
            Arriving::EagerToPool { key } => {
                if let Some(at) = self.pool.iter().position(|(k, _)| *k == key) {
                    self.pool[at].1.complete = true;
                    let bytes = self.pool[at].1.data.len() as u64;
                    self.paths[usize::from(path)].record.bytes += bytes;
                    self.match_pooled(at);
                }
            }
        }
    }

    /// A verbs transport's completion: the adapter has written the chunk already.
    ///
    /// # Errors
    /// How the peer broke the protocol: close this path.
    pub fn handle_immediate(&mut self, path: u8, imm: u32, bytes: u32) -> Result<(), Violation> {
        let imm = Immediate::unpack(imm);
        let chunk_bytes = self.config.chunk_bytes.ok_or(Violation::Protocol(
            "an immediate on a link without a chunk size",
        ))?;
        let p = &mut self.paths[usize::from(path)];
        p.count = p.count.wrapping_add(1);
        p.unacked = true;
        self.ack_due = true;
        // The sender's adapter tells it; only what it needs to know of posted receives is urgent.
        let unheard = p.count.wrapping_sub(p.told);
        self.ack_urgent |= (self.config.receive_depth).is_some_and(|depth| unheard >= depth / 4);
        self.heard = true;
        self.lead_control_to(path);
        let slot = self
            .slots
            .get(usize::from(imm.slot))
            .ok_or(Violation::Protocol(
                "a chunk for a slot that was never granted",
            ))?;
        if slot.state != SlotState::Granted || (slot.generation & 3) as u8 != imm.generation {
            return Ok(()); // a use of the slot that is over
        }
        if bytes > chunk_bytes || (bytes < chunk_bytes && !imm.last) {
            return Err(Violation::Protocol("a chunk of another length than all"));
        }
        let chunk = Chunk {
            slot: imm.slot,
            generation: slot.generation,
            index: imm.index,
            chunk_bytes,
            payload: bytes,
            last: imm.last,
        };
        let cut = slot.cut_with(&chunk)?;
        if slot.received.contains(imm.index) {
            self.duplicates += 1;
            return Ok(());
        }
        self.slots[usize::from(imm.slot)].cut = Some(cut);
        self.received += u64::from(bytes);
        self.paths[usize::from(path)].record.bytes += u64::from(bytes);
        self.count_chunk(imm.slot, imm.index, imm.last.then_some(chunk.end()));
        Ok(())
    }

    fn count_chunk(&mut self, slot: u16, index: u32, ends_at: Option<u64>) {
        let s = &mut self.slots[usize::from(slot)];
        if s.received.insert(index) != Insert::New {
            self.duplicates += 1;
            return;
        }
        s.chunks_done += 1;
        if let Some(len) = ends_at {
            s.total = Some((index + 1, len));
        }
        if let Some((chunks, len)) = s.total
            && s.chunks_done == chunks
        {
            let conn = s.conn;
            self.finish(slot, Ok(len));
            if let Some(conn) = self.conns.get_mut(&conn) {
                conn.eager_mode = false;
            }
        }
    }

    fn handle_announce(
        &mut self,
        conn: u32,
        tag: i32,
        ordinal: u32,
        size: u64,
    ) -> Result<(), Violation> {
        let Some(c) = self.conns.get_mut(&conn) else {
            return Ok(());
        };
        c.eager_mode = false;
        let slots = &self.slots;
        let posted = c.posted.iter().copied().find(|&slot| {
            let s = &slots[usize::from(slot)];
            s.tag == tag && s.ordinal == ordinal
        });
        match posted {
            Some(slot) => {
                let s = &self.slots[usize::from(slot)];
                let capacity = s.buffer.len;
                if size > capacity {
                    if s.cut.is_some() || self.paths.iter().any(|p| p.brings(slot, s.generation)) {
                        return Err(Violation::Protocol(
                            "the announcement of a message that is arriving",
                        ));
                    }
                    // By a credit that is too small the sender learns it, whether it has one or not.
                    if c.refused.len() == REFUSED {
                        c.refused.pop_front();
                    }
                    c.refused.push_back((tag, ordinal, capacity));
                    self.control
                        .push_back((None, Frame::Credit(s.credit(slot)).encode()));
                    self.finish(slot, Err(RecvError::TooLong { size, capacity }));
                } else {
                    self.give_credit(slot);
                }
            }
            None if c.wanted.contains(&(tag, ordinal)) => {}
            None if c.refused.iter().any(|r| (r.0, r.1) == (tag, ordinal)) => {
                // The credit may have been lost with its path. It names no slot: none is needed.
                let capacity = c
                    .refused
                    .iter()
                    .find(|r| (r.0, r.1) == (tag, ordinal))
                    .map_or(0, |r| r.2);
                let credit = Credit {
                    conn,
                    tag,
                    ordinal,
                    slot: 0,
                    generation: 0,
                    capacity,
                    addr: 0,
                    rkeys: Keys::default(),
                };
                self.say(Frame::Credit(credit));
                return Ok(());
            }
            // Its message has come meanwhile, over a path that is faster than the announcement's.
            None if c.ordinals.has_given(tag, ordinal) => {}
            None if c.wanted.len() < 512 => c.wanted.push((tag, ordinal)),
            None => return Err(Violation::Protocol("more announcements than messages")),
        }
        // What was held back while messages came eagerly may be needed next.
        let held: Vec<u16> = self.conns[&conn].posted.iter().copied().collect();
        for slot in held {
            let s = &self.slots[usize::from(slot)];
            if s.state == SlotState::Posted && s.buffer.len > u64::from(self.config.eager_bytes) {
                self.give_credit(slot);
            }
        }
        Ok(())
    }

    fn handle_close(&mut self, conn: u32) -> Result<(), Violation> {
        if self.arriving_for(conn).next().is_some() {
            // A sender says it only once all that it sent has arrived or been fenced.
            return Err(Violation::Protocol(
                "a close while a message of the connection is arriving",
            ));
        }
        self.closing.remove(&conn);
        if let Some(c) = self.conns.get_mut(&conn) {
            c.peer_closed = true;
            let posted: Vec<u16> = c.posted.iter().copied().collect();
            for slot in posted {
                self.finish(slot, Err(RecvError::PeerClosed));
            }
        }
        // Also for a connection that is gone: the peer repeats itself until it hears this.
        self.say(Frame::Close { conn });
        Ok(())
    }

    fn handle_fence(&mut self, path: u8, epoch: u16) -> Result<(), Violation> {
        let Some(p) = self.paths.get_mut(usize::from(path)) else {
            return Err(Violation::Protocol("a fence for a path that cannot exist"));
        };
        if p.epoch == epoch {
            match p.channel {
                Channel::Up => {
                    p.channel = Channel::Silencing;
                    self.actions.push_back(RxAction::Silence { path, epoch });
                }
                Channel::Silencing => {}
                Channel::None | Channel::Lost => self.handle_silenced(path, epoch),
            }
        } else if p.epoch.wrapping_sub(epoch) < 1 << 15 {
            let answer = Frame::Fenced(PathCount {
                path,
                epoch,
                count: p.count_of(epoch),
            });
            self.say(answer);
        } else {
            return Err(Violation::Protocol("a fence for a channel that never was"));
        }
        Ok(())
    }

    // ---- slots ----

    fn place(
        &mut self,
        conn: u32,
        tag: i32,
        ordinal: u32,
        token: u64,
        buffer: MemRange,
        rkeys: Keys,
    ) {
        let index = match self.free_slots.pop() {
            Some(index) => index,
            None if self.slots.len() < wire::SLOTS_MAX => {
                self.slots.push(Slot {
                    generation: 0,
                    state: SlotState::Free,
                    conn,
                    tag,
                    ordinal,
                    token,
                    buffer,
                    rkeys,
                    received: SlidingBitmap::default(),
                    chunks_done: 0,
                    total: None,
                    cut: None,
                });
                u16::try_from(self.slots.len() - 1).unwrap_or(u16::MAX)
            }
            None => {
                self.waiting
                    .push_back((conn, tag, ordinal, token, buffer, rkeys));
                return;
            }
        };
        let s = &mut self.slots[usize::from(index)];
        *s = Slot {
            generation: s.generation,
            state: SlotState::Posted,
            conn,
            tag,
            ordinal,
            token,
            buffer,
            rkeys,
            received: SlidingBitmap::default(),
            chunks_done: 0,
            total: None,
            cut: None,
        };
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        c.posted.push_back(index);
        let wanted = c.wanted.iter().position(|&w| w == (tag, ordinal));
        if let Some(at) = wanted {
            c.wanted.swap_remove(at);
        }
        let may_be_large = buffer.len > u64::from(self.config.eager_bytes);
        // With a credit in hand the sender spares a small message the way through this host's memory.
        if wanted.is_some() || rkeys.is_gpu() || (may_be_large && !c.eager_mode) {
            self.give_credit(index);
        }
    }

    fn give_credit(&mut self, slot: u16) {
        let s = &mut self.slots[usize::from(slot)];
        s.state = SlotState::Granted;
        let credit = s.credit(slot);
        self.say(Frame::Credit(credit));
    }

    fn finish(&mut self, slot: u16, result: Result<u64, RecvError>) {
        let s = &self.slots[usize::from(slot)];
        self.done.push_back(RecvDone {
            token: s.token,
            result,
        });
        if let Some(c) = self.conns.get_mut(&s.conn) {
            if c.posted.front() == Some(&slot) {
                c.posted.pop_front();
            } else {
                c.posted.retain(|&p| p != slot);
            }
        }
        self.free(slot);
        self.refill_slots();
    }

    fn free(&mut self, slot: u16) {
        let s = &mut self.slots[usize::from(slot)];
        s.state = SlotState::Free;
        s.generation = s.generation.wrapping_add(1);
        self.free_slots.push(slot);
    }

    fn refill_slots(&mut self) {
        while !self.free_slots.is_empty() {
            let Some((conn, tag, ordinal, token, buffer, rkeys)) = self.waiting.pop_front() else {
                return;
            };
            self.place(conn, tag, ordinal, token, buffer, rkeys);
        }
    }

    fn take_from_pool(&mut self, at: usize, token: u64, buffer: MemRange, rkeys: Keys) {
        let Some((_, pooled)) = self.pool.remove(at) else {
            return;
        };
        let cost = eager_cost(pooled.eager);
        let size = u64::from(pooled.eager.payload);
        self.pool_bytes -= cost;
        let target = MemRange {
            len: size,
            ..buffer
        };
        let result = if size > buffer.len {
            Some(Err(RecvError::TooLong {
                size,
                capacity: buffer.len,
            }))
        } else if rkeys.is_gpu() && size > 0 {
            self.landings.push_back(Landing {
                token,
                data: pooled.data,
                target,
                keys: rkeys,
            });
            None
        } else {
            self.copies.push_back((pooled.data, target));
            Some(Ok(size))
        };
        if let Some(conn) = self.conns.get_mut(&pooled.conn) {
            conn.eager_mode = buffer.len > u64::from(self.config.eager_bytes);
        }
        self.consume(cost);
        self.done
            .extend(result.map(|result| RecvDone { token, result }));
    }

    /// Nobody wants it.
    fn discard_pooled(&mut self, at: usize) {
        if let Some((_, pooled)) = self.pool.remove(at) {
            self.pool_bytes -= eager_cost(pooled.eager);
            self.consume(eager_cost(pooled.eager));
        }
    }

    /// A receive may have been posted while its message was still arriving.
    fn match_pooled(&mut self, at: usize) {
        let (conn, eager) = (self.pool[at].1.conn, self.pool[at].1.eager);
        let Some(c) = self.conns.get_mut(&conn) else {
            self.discard_pooled(at);
            return;
        };
        let slots = &self.slots;
        let found = c.posted.iter().position(|&slot| {
            let s = &slots[usize::from(slot)];
            s.tag == eager.tag && s.ordinal == eager.ordinal
        });
        let is_arriving = |&at: &usize| {
            let (slot, s) = (c.posted[at], &slots[usize::from(c.posted[at])]);
            s.cut.is_some() || self.paths.iter().any(|p| p.brings(slot, s.generation))
        };
        if found.as_ref().is_some_and(is_arriving) {
            // The peer sends it once more, and that may be on its way into the buffer.
            self.discard_pooled(at);
            return;
        }
        if let Some(slot) = found.and_then(|i| c.posted.remove(i)) {
            let s = self.slots[usize::from(slot)];
            self.free(slot);
            self.take_from_pool(at, s.token, s.buffer, s.rkeys);
            self.refill_slots();
        }
    }

    fn consume(&mut self, cost: u64) {
        if cost > 0 {
            self.eager_consumed = self.eager_consumed.wrapping_add(cost);
            self.ack_due = true;
            self.eager_unacked += cost;
            self.ack_urgent |= self.eager_unacked >= EAGER_WINDOW / 4;
        }
    }

    // ---- outputs ----

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<RxAction> {
        self.actions.pop_front()
    }

    /// The next finished or failed receive. Copies must be carried out first.
    pub fn poll_completion(&mut self) -> Option<RecvDone> {
        let done = self.done.pop_front()?;
        match done.result {
            Ok(bytes) => self.record.ended(bytes),
            Err(_) => self.record.failed(self.now),
        }
        Some(done)
    }

    /// Bytes of an early eager message to copy to where they belong, before completions are told.
    pub fn poll_copy(&mut self) -> Option<(Box<[u8]>, MemRange)> {
        self.copies.pop_front()
    }

    /// A small message for the memory of a GPU: only an adapter can take it there. The engine is done
    /// with its receive, which ends once the bytes are in their place.
    pub fn poll_landing(&mut self) -> Option<Landing> {
        self.landings.pop_front()
    }

    /// Whether anything waits to be sent.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.ack_due || !self.control.is_empty()
    }

    /// Sends a control frame, on the path that is best by then.
    fn say(&mut self, frame: Frame) {
        self.control.push_back((None, frame.encode()));
    }

    /// The next control frame; acknowledgements come from [`RxEngine::poll_ack`].
    pub fn poll_transmit(&mut self) -> Option<RxTransmit> {
        while let Some(&(path, header)) = self.control.front() {
            let path = match path {
                Some(path) if self.paths[usize::from(path)].is_up() => path,
                Some(_) => {
                    self.control.pop_front();
                    continue;
                }
                None => self
                    .control_path
                    .filter(|&p| self.paths[usize::from(p)].is_up())?,
            };
            self.control.pop_front();
            self.paths[usize::from(path)].watched = true;
            return Some(RxTransmit { path, header });
        }
        None
    }

    /// The next acknowledgement, if anything is new. `late` asks also for those that nobody
    /// waits for: small messages are acknowledged together, about once a millisecond.
    pub fn poll_ack(&mut self, late: bool) -> Option<RxTransmit> {
        if !self.ack_due || !(late || self.ack_urgent) {
            return None;
        }
        let path = self
            .control_path
            .filter(|&p| self.paths[usize::from(p)].is_up())?;
        let eager_consumed = self.eager_consumed;
        let entries = self
            .paths
            .iter_mut()
            .zip(0u8..)
            .filter(|(p, _)| p.unacked)
            .map(|(p, path)| {
                p.unacked = false;
                p.told = p.count;
                PathCount {
                    path,
                    epoch: p.epoch,
                    count: p.count,
                }
            });
        let header = wire::encode_ack(Ack { eager_consumed }, entries);
        self.ack_due = self.paths.iter().any(|p| p.unacked);
        self.ack_urgent = self.ack_due;
        self.eager_unacked = 0;
        self.paths[usize::from(path)].watched = true;
        Some(RxTransmit { path, header })
    }

    /// Chunks that arrived more than once.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }
}

impl Slot {
    /// What is known of how its message is cut, with this chunk too.
    fn cut_with(&self, chunk: &Chunk) -> Result<Cut, Violation> {
        if chunk.end() > self.buffer.len {
            return Err(Violation::Protocol("a chunk beyond the end of its buffer"));
        }
        if !self.received.admits(chunk.index) {
            return Err(Violation::Protocol(
                "a chunk beyond the window of its message",
            ));
        }
        Cut::with(self.cut, chunk).ok_or(Violation::Protocol(
            "a chunk that does not fit those before it",
        ))
    }

    fn credit(&self, slot: u16) -> Credit {
        Credit {
            conn: self.conn,
            tag: self.tag,
            ordinal: self.ordinal,
            slot,
            generation: self.generation,
            capacity: self.buffer.len,
            addr: self.buffer.addr,
            rkeys: self.rkeys,
        }
    }
}

fn eager_cost(eager: Eager) -> u64 {
    u64::from(eager.payload) + EAGER_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: u32 = 1;

    /// An engine with a connection and a path.
    fn engine() -> RxEngine {
        let mut engine = RxEngine::new(EngineConfig::default(), Timestamp::now());
        engine.handle_path_up(0, 1, None);
        let open = Frame::Open {
            conn: CONN,
            listener: 1,
        };
        engine.handle_frame(0, open, 0).unwrap();
        engine.answer_open(CONN, true);
        engine
    }

    fn announce(engine: &mut RxEngine, ordinal: u32) -> Result<Option<Sink>, Violation> {
        let announce = Frame::Announce {
            conn: CONN,
            tag: 7,
            ordinal,
            size: 0,
        };
        engine.handle_frame(0, announce, 0)
    }

    #[test]
    fn a_dialler_that_has_counted_half_round_is_let_in_once_a_path_has_been_away_for_long() {
        let mut engine = engine();
        let far = 1 + (1 << 15);
        assert!(engine.admits_channel(0, 2) && !engine.admits_channel(0, far));
        engine.now = Timestamp::now();
        engine.handle_path_down(0, 1);
        assert!(!engine.admits_channel(0, far), "it may be an old one");
        engine.now += AWAY;
        assert!(engine.admits_channel(0, far) && !engine.admits_channel(0, 1));
    }

    #[test]
    fn announcements_of_messages_that_have_come_are_forgotten() {
        let mut engine = engine();
        // More than may be announced at once, each after its message: that went another way.
        for ordinal in 0..2000 {
            engine.post(
                CONN,
                ordinal.into(),
                7,
                MemRange::default(),
                Keys::default(),
            );
            let eager = Frame::Eager(Eager {
                conn: CONN,
                tag: 7,
                ordinal,
                payload: 0,
            });
            engine.handle_frame(0, eager, 0).unwrap();
            engine.handle_payload_done(0);
            let done = engine.poll_completion().unwrap();
            assert_eq!((done.token, done.result), (ordinal.into(), Ok(0)));
            announce(&mut engine, ordinal).unwrap();
        }
        assert_eq!(engine.conns[&CONN].wanted, []);
        // What is announced before its receive is posted is remembered, once.
        for _ in 0..2 {
            announce(&mut engine, 2000).unwrap();
            announce(&mut engine, 2001).unwrap();
        }
        assert_eq!(engine.conns[&CONN].wanted, [(7, 2000), (7, 2001)]);
    }

    #[test]
    fn what_has_been_counted_wraps_around() {
        let mut ordinals = Ordinals(vec![(7, 3)]);
        assert!(ordinals.has_given(7, 2) && ordinals.has_given(7, 0));
        assert!(ordinals.has_given(7, u32::MAX), "before it wrapped around");
        assert!(!ordinals.has_given(7, 3) && !ordinals.has_given(8, 0));
        ordinals.0[0].1 = u32::MAX;
        assert_eq!(ordinals.next(7), u32::MAX);
        assert!(ordinals.has_given(7, u32::MAX) && !ordinals.has_given(7, 0));
    }
}
