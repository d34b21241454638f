//! The paths: what each one carries, how it does, and what happens when it dies.
//!
//! A path that fails is *fenced*: its channel is closed, the peer is asked how far it came, and
//! only what had not arrived by then is given to others.

use std::collections::VecDeque;

use super::message::{ConnState, TxConn};
use super::record::PathRecord;
use super::upkeep::{REDIAL_MAX, VERIFY_FIRST};
use super::{FenceReason, PathInfo, PathState, Probes, TxAction, TxEngine, TxEvent, index_u8};
use crate::clock::Timestamp;
use crate::control::{Controller, Sample};
use crate::engine::Completions;
use crate::engine::wire::{Frame, PathCount};
use crate::path::health::{Health, Marks, TransportStats, Verdict};
use crate::path::search::Candidate;
use crate::telemetry::event::Event;
use crate::telemetry::schema::PathHistogram;
use crate::units::{Bytes, Nanos};

/// Bytes of one path that may have reached the peer's host without having been taken in by its
/// program: how long that program may be busy elsewhere before the path runs dry.
pub(super) const LAG_MAX: u64 = 8 << 20;

/// A path rests when its queue is longer than so many times the usual one and a round trip.
const REST_QUEUES: u64 = 2;
/// For so many times that queue: what it could carry meanwhile is little, and a chunk that waits
/// there holds its message up.
const REST_TIMES: u64 = 8;
/// So many times as long if what is left to send would not last as long as that queue: a chunk
/// there would be the last to arrive.
const REST_AGAIN: u64 = 4;
/// A path that has to rest so many times in a row stays slow: another port takes its place.
const REHASH_AFTER: u8 = 2;

/// Ports that a link may try at once for each of its paths; then one after a second, and after twice
/// as long each time: where all ways are alike, what is slow is something else.
const REHASHES_PER_PATH: u32 = 2;
const REHASH_GAP: Nanos = Nanos(1_000_000_000);
const REHASH_GAP_MAX: Nanos = Nanos(60_000_000_000);

/// How many more paths may be given another port.
#[derive(Debug)]
pub(super) struct Rehashes {
    left: u32,
    earned_at: Timestamp,
    gap: Nanos,
}

impl Rehashes {
    pub(super) fn new(paths: u8, now: Timestamp) -> Self {
        Self {
            left: REHASHES_PER_PATH * u32::from(paths),
            earned_at: now,
            gap: REHASH_GAP,
        }
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Timestamp) -> bool {
        if self.left == 0 && now.since(self.earned_at) >= self.gap {
            self.left = 1;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        if left == 0 {
            self.gap = (self.gap * 2).min(REHASH_GAP_MAX);
            self.earned_at = now;
        }
        true
    }
}

/// A path that has been up for so long is well: when it breaks, it is dialled at once.
const STEADY: Nanos = Nanos(2_000_000_000);
/// One that breaks sooner, and again, waits: twice as long each time, as long as others are well.
const DAMPED_MIN: Nanos = Nanos(100_000_000);
const DAMPED_MAX: Nanos = Nanos(5_000_000_000);

/// Keeps a path away that comes up and breaks again and again, as routers do with routes that flap:
/// what is lost there is repaired by the others, and costs a message its silence each time.
#[derive(Debug, Default)]
pub(super) struct Damping {
    up_at: Timestamp,
    relapses: u32,
    until: Timestamp,
}

impl Damping {
    fn came_up(&mut self, now: Timestamp) {
        self.up_at = now;
    }

    fn broke(&mut self, now: Timestamp) {
        if now.since(self.up_at) >= STEADY {
            self.relapses = 0;
            return;
        }
        self.relapses += 1;
        if let Some(again) = self.relapses.checked_sub(2) {
            let wait = Nanos(DAMPED_MIN.0 << again.min(10)).min(DAMPED_MAX);
            self.until = now + wait;
        }
    }

    /// Until when it should stay away.
    pub(super) fn until(&self) -> Timestamp {
        self.until
    }

    pub(super) fn is_steady(&self, now: Timestamp) -> bool {
        self.relapses == 0 || now.since(self.up_at) >= STEADY
    }
}

/// A path that carries no chunks for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    until: Timestamp,
    longer_until: Timestamp,
    /// What the link sends while a chunk waits in such a queue.
    meanwhile: Bytes,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Cargo {
    Chunk { message: u32, index: u32 },
    Eager { id: u64 },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Outstanding {
    pub(super) cargo: Cargo,
    pub(super) bytes: u32,
    /// When the adapter will have sent it, where it tells: what our own bytes ahead of it cost is
    /// no delay of the network.
    pub(super) departs: Timestamp,
    /// It departs at once, so that the time it takes is the network's alone.
    pub(super) alone: bool,
}

/// Delivery rate of a path, measured only while it always had something to deliver.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RateMeter {
    pub(super) rate: u64,
    /// What [`byte_time`] says of it.
    pub(super) byte_time: u64,
    pub(super) busy_since: Option<Timestamp>,
    pub(super) bytes: u64,
    /// Nothing was outstanding when it began.
    pub(super) from_empty: bool,
}

/// Time to move a byte at a rate in bytes a second, in units of 2^-16 ns.
fn byte_time(rate: u64) -> u64 {
    (1_000_000_000 << 16) / rate.max(1)
}

impl RateMeter {
    const SPAN: Nanos = Nanos(4_000_000);

    fn set(&mut self, rate: u64) {
        self.rate = rate;
        self.byte_time = byte_time(rate);
    }

    pub(super) fn on_sent(&mut self, now: Timestamp) {
        if self.busy_since.is_none() {
            self.busy_since = Some(now);
            self.bytes = 0;
            self.from_empty = true;
        }
    }

    fn on_delivered(&mut self, now: Timestamp, bytes: u64, still_busy: bool) {
        let Some(since) = self.busy_since else { return };
        self.bytes += bytes;
        let span = now.since(since);
        if span >= Self::SPAN {
            // A path that ran dry may have been done before its span was: it counts less.
            let weight = if still_busy { 4 } else { 16 };
            let sample = self.bytes.saturating_mul(1_000_000_000) / span.0;
            self.set(match self.rate {
                0 => sample,
                rate => rate - rate / weight + sample / weight,
            });
            self.busy_since = Some(now);
            self.bytes = 0;
            self.from_empty = false;
        }
        if !still_busy {
            // Too short a time to measure by; but if all of it was sent since, the path is no
            // slower than this.
            if self.from_empty && span.0 > 0 && span < Self::SPAN {
                let least = self.bytes.saturating_mul(1_000_000_000) / span.0;
                if self.rate > 0 && least > self.rate {
                    self.set(self.rate + (least - self.rate) / 4);
                }
            }
            self.busy_since = None;
        }
    }
}

/// What completions have shown of a path's delay.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PathDelay {
    /// Smoothed round trip, and its mean deviation.
    rtt: Nanos,
    rtt_var: Nanos,
}

impl PathDelay {
    /// What a chunk takes that is late, but not lost.
    fn tail(&self) -> Nanos {
        self.rtt + self.rtt_var * 4
    }

    fn observe(&mut self, rtt: Nanos) {
        if self.rtt.is_zero() {
            self.rtt = rtt;
            self.rtt_var = rtt / 2;
        } else {
            // Gains of RFC 6298.
            let deviation = Nanos(rtt.0.abs_diff(self.rtt.0));
            self.rtt_var = self.rtt_var - self.rtt_var / 4 + deviation / 4;
            self.rtt = self.rtt - self.rtt / 8 + rtt / 8;
        }
    }
}

#[derive(Debug)]
pub(super) struct TxPath {
    /// Which of the link's ports it leaves by.
    pub(super) port: u8,
    pub(super) state: PathState,
    pub(super) epoch: u16,
    pub(super) sent: u32,
    pub(super) acked: u32,
    /// The peer's own count, where completions are local: its receive queue refills with it.
    pub(super) peer_count: u32,
    pub(super) queue: VecDeque<Outstanding>,
    /// Bytes in `queue`; the view's `outstanding` leaves out what has reached the peer's host.
    pub(super) queued_bytes: u64,
    pub(super) health: Health,
    pub(super) stats: TransportStats,
    pub(super) verdict: Verdict,
    pub(super) suspect_since: Timestamp,
    /// Since when a sibling has answered while this one was suspect.
    pub(super) sibling_since: Option<Timestamp>,
    pub(super) probed_at: Timestamp,
    /// A control frame was sent on it that may still be under way: since then.
    pub(super) watched: Option<Timestamp>,
    pub(super) meter: RateMeter,
    pub(super) delay: PathDelay,
    /// Its last chunk met a queue far longer than the others'.
    pub(super) rest: Option<Rest>,
    /// And so did those before it, chunk for chunk after a rest.
    pub(super) rests: u8,
    /// Nothing has shown yet that its channel leads anywhere.
    pub(super) unproven: bool,
    /// What the receiver has said since the channel is up has not come. Of the credits from before,
    /// it may have taken some back.
    pub(super) unheard: bool,
    pub(super) candidate: Candidate,
    /// The channel whose fence has not been answered: the queue holds what it carried.
    pub(super) open_fence: Option<u16>,
    pub(super) fence_sent_at: Timestamp,
    pub(super) dial_at: Timestamp,
    pub(super) dial_failures: u32,
    pub(super) damping: Damping,
    /// When it next has to prove that its way is its own, and how long after the last time.
    pub(super) verify_at: Timestamp,
    pub(super) verify_gap: Nanos,
    /// Since when it has been out of use to prove that.
    pub(super) verifying: Option<Timestamp>,
    /// It died of silence: the same port pair will tell when its way is back.
    pub(super) died_silent: bool,
    pub(super) bytes_total: u64,
    pub(super) record: PathRecord,
}

impl TxPath {
    pub(super) fn new(now: Timestamp, paths: usize) -> Self {
        Self {
            port: 0,
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
            watched: None,
            meter: RateMeter::default(),
            delay: PathDelay::default(),
            rest: None,
            rests: 0,
            unproven: false,
            unheard: false,
            candidate: Candidate::new(paths),
            open_fence: None,
            fence_sent_at: Timestamp::ZERO,
            dial_at: now,
            dial_failures: 0,
            damping: Damping::default(),
            verify_at: Timestamp::ZERO,
            verify_gap: VERIFY_FIRST,
            verifying: None,
            died_silent: false,
            bytes_total: 0,
            record: PathRecord::default(),
        }
    }

    /// Its smoothed round trip: by completions where they tell, else as the transport says.
    pub(super) fn round_trip(&self) -> Nanos {
        if self.delay.rtt.is_zero() {
            self.stats.rtt
        } else {
            self.delay.rtt
        }
    }

    /// It has a channel.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, PathState::Active | PathState::Standby)
    }

    /// It carries chunks.
    pub(super) fn is_active(&self) -> bool {
        self.state == PathState::Active
    }

    /// It is a candidate that can be judged: what a path that was in use until now still carries
    /// would pass for another's queue.
    pub(super) fn is_on_trial(&self) -> bool {
        self.state == PathState::Standby && self.is_well() && self.queue.is_empty()
    }

    /// Its channel is closed. Says whether it was in use: what only proves its way is.
    pub(super) fn vacate(&mut self) -> bool {
        let was_in_use = self.verifying.take().is_some() || self.is_active();
        self.state = PathState::Vacant;
        self.verdict = Verdict::Fine;
        self.watched = None;
        was_in_use
    }

    /// It has a channel that is not suspect.
    pub(super) fn is_well(&self) -> bool {
        self.is_up() && self.verdict == Verdict::Fine
    }
}

impl TxEngine {
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
        let local = self.config.completions == Completions::Local;
        let is_first = !std::mem::replace(&mut self.had_path, true);
        let p = &mut self.paths[index];
        p.state = PathState::Standby;
        p.sent = 0;
        p.acked = 0;
        p.peer_count = 0;
        p.health = Health::new(now);
        p.stats = TransportStats::default();
        p.watched = None;
        p.verdict = Verdict::Fine;
        p.meter = RateMeter::default();
        p.delay = PathDelay::default();
        p.rest = None;
        p.rests = 0;
        p.unproven = local;
        // Where the receiver discards what it does not want, it need not be waited for.
        p.unheard = local && !is_first;
        p.candidate.reset(&self.moments);
        p.verify_at = now + VERIFY_FIRST;
        p.verify_gap = VERIFY_FIRST;
        p.verifying = None;
        p.dial_failures = 0;
        p.damping.came_up(now);
        let up = Event::PathUp {
            epoch: epoch.into(),
        };
        self.record.note(Some(path), up, now);
        self.probe(index, now);
        let none_active = !self.paths.iter().any(TxPath::is_active);
        if none_active || !self.config.search {
            self.activate(index, None, now);
        }
        self.resync();
        self.refresh_views();
    }

    /// The channel failed.
    pub fn handle_path_error(&mut self, path: u8, epoch: u16, now: Timestamp) {
        self.fence(usize::from(path), epoch, FenceReason::Broken, now);
    }

    /// The port that this channel leaves by is down, or has another address now: nobody has to wait
    /// for its silence.
    pub fn handle_port_down(&mut self, path: u8, epoch: u16, now: Timestamp) {
        let index = usize::from(path);
        self.paths[index].died_silent = false;
        self.fence(index, epoch, FenceReason::PortDown, now);
    }

    /// The port that this path leaves by can be used: if it has no channel, it is dialled at once.
    pub fn handle_port_up(&mut self, path: u8, now: Timestamp) {
        let p = &mut self.paths[usize::from(path)];
        p.dial_failures = 0;
        if p.state == PathState::Vacant {
            p.dial_at = now;
            self.dial_tokens = self.dial_tokens.max(self.config.paths_max.into());
        }
    }

    /// What the transport tells of a path. Call every few milliseconds for each path that has
    /// something in flight.
    pub fn handle_stats(&mut self, path: u8, stats: TransportStats, now: Timestamp) {
        let index = usize::from(path);
        let config = self.config.health;
        let p = &mut self.paths[index];
        if !p.is_up() {
            return;
        }
        let was = p.verdict;
        let progressed = p.stats.acked != stats.acked;
        if let Some(marks) = stats.marks {
            let before = p.stats.marks.unwrap_or_default();
            let since = &mut self.marks_since_sample;
            let delivered = marks.delivered.wrapping_sub(before.delivered);
            since.delivered = since.delivered.saturating_add(delivered);
            let marked = marks.marked.wrapping_sub(before.marked);
            since.marked = since.marked.saturating_add(marked);
            p.record.delivered += u64::from(delivered);
            p.record.marked += u64::from(marked);
        }
        let retransmits = stats.retransmits.wrapping_sub(p.stats.retransmits);
        p.record.retransmits += u64::from(retransmits);
        p.stats = stats;
        if self.config.completions == Completions::Local {
            if progressed || !stats.in_flight {
                p.watched = stats.in_flight.then_some(now);
                p.unproven = false;
            }
            return self.judge_overtaken(index, now);
        }
        if progressed && let Some(recorder) = &p.record.recorder {
            let queue = stats.rtt - stats.rtt_min;
            recorder.observe(PathHistogram::Queue, queue.0);
        }
        p.verdict = p.health.observe(now, &p.stats, &config);
        if !stats.in_flight {
            p.watched = None;
        }
        self.last_life = self.last_life.max(p.health.alive_at());
        let active = p.state == PathState::Active;
        match (was, p.verdict) {
            (_, Verdict::Fine) => {
                if was != Verdict::Fine {
                    self.refresh_views();
                }
                if active && self.acked_since_sample > 0 {
                    let acked = Bytes(std::mem::take(&mut self.acked_since_sample));
                    let Marks { delivered, marked } = std::mem::take(&mut self.marks_since_sample);
                    let marked = stats.marks.map(|_| {
                        acked
                            .scale(marked.into(), delivered.max(1).into())
                            .min(acked)
                    });
                    let in_flight = self.views.iter().map(|v| v.outstanding).sum();
                    // What the transport itself holds back waits as well, unseen by its round
                    // trips.
                    let held = u128::from(stats.unsent) * u128::from(self.views[index].byte_time);
                    let held = Nanos(u64::try_from(held >> 16).unwrap_or(u64::MAX >> 1));
                    self.controller.on_sample(&Sample {
                        now,
                        rtt: stats.rtt + held,
                        rtt_min: stats.rtt_min,
                        acked,
                        in_flight,
                        marked,
                    });
                }
            }
            (Verdict::Fine, _) => {
                self.note_suspect(index, now);
                self.paths[index].suspect_since = now;
                self.paths[index].sibling_since = None;
                self.reopen_search();
                self.probe_all(now);
                self.refresh_views();
                self.resync();
            }
            (_, verdict) if self.sibling_lives(index, now) && verdict == Verdict::Dead => {
                let quiet = now.since(self.paths[index].health.alive_at());
                let epoch = self.paths[index].epoch;
                self.paths[index].died_silent = true;
                self.fence(index, epoch, FenceReason::Silent(quiet), now);
            }
            _ => {
                if now.since(self.paths[index].probed_at) >= config.probe_gap {
                    self.probe_all(now);
                }
            }
        }
    }

    /// Judges a path by what departed later on its siblings and has arrived, where completions
    /// tell. While nothing else is under way that could show it, a sibling is probed.
    fn judge_overtaken(&mut self, index: usize, now: Timestamp) {
        let config = self.config.health;
        let newest = self.newest_arrival;
        let p = &mut self.paths[index];
        let was = p.verdict;
        let chunk = p.queue.front().map(|oldest| oldest.departs);
        let held = chunk.into_iter().chain(p.watched).min();
        p.verdict = held.map_or(Verdict::Fine, |departed| {
            Health::overtaken(newest.since(departed), p.delay.tail(), &config)
        });
        let verdict = p.verdict;
        if let Some(departed) = held
            && now.since(departed) >= config.suspect_min
            && now.since(newest) >= config.probe_gap
        {
            self.probe_sibling(index, now);
        }
        if verdict == Verdict::Dead {
            let quiet = held.map_or(Nanos::ZERO, |departed| now.since(departed));
            let p = &mut self.paths[index];
            let epoch = p.epoch;
            p.died_silent = true;
            self.fence(index, epoch, FenceReason::Silent(quiet), now);
        } else if was != verdict {
            if verdict != Verdict::Fine {
                self.note_suspect(index, now);
            }
            self.refresh_views();
        }
    }

    fn note_suspect(&self, index: usize, now: Timestamp) {
        let p = &self.paths[index];
        let since = p.queue.front().map_or(p.health.alive_at(), |oldest| {
            oldest.departs.max(p.health.alive_at())
        });
        let suspect = Event::PathSuspect {
            silent_ns: now.since(since).0,
        };
        self.record.note(Some(index_u8(index)), suspect, now);
    }

    /// Asks after the path that has been idle for longest of those that hold nothing.
    fn probe_sibling(&mut self, index: usize, now: Timestamp) {
        let gap = self.config.health.probe_gap;
        if self.paths.iter().any(|p| now.since(p.probed_at) < gap) {
            return;
        }
        let idle = (0..self.paths.len())
            .filter(|&i| i != index && self.paths[i].is_well())
            .min_by_key(|&i| (self.paths[i].queue.len(), self.paths[i].probed_at));
        if let Some(idle) = idle {
            self.probe(idle, now);
        }
    }

    /// The adapter has told that a control frame given to this channel at `departed` has arrived.
    pub fn handle_control_arrived(
        &mut self,
        path: u8,
        epoch: u16,
        departed: Timestamp,
        now: Timestamp,
    ) {
        self.newest_arrival = self.newest_arrival.max(departed);
        self.last_life = now;
        let p = &mut self.paths[usize::from(path)];
        if p.epoch == epoch && p.unproven {
            p.unproven = false;
            self.refresh_views();
        }
    }

    /// Whether the peer's program goes on answering on another path while this one is suspect.
    pub(super) fn sibling_lives(&mut self, index: usize, now: Timestamp) -> bool {
        let heard = self
            .paths
            .iter()
            .enumerate()
            .filter(|&(other, p)| other != index && p.is_well())
            .map(|(_, p)| p.health.heard_at())
            .max();
        let p = &mut self.paths[index];
        let Some(heard) = heard.filter(|&at| at > p.suspect_since) else {
            return false;
        };
        let since = *p.sibling_since.get_or_insert(now);
        let config = &self.config.health;
        now.since(since) >= config.sibling_span && now.since(heard) <= config.sibling_lately
    }

    pub(super) fn activate(&mut self, index: usize, probes: Option<Probes>, now: Timestamp) {
        let p = &mut self.paths[index];
        if p.state == PathState::Standby {
            p.state = PathState::Active;
            p.died_silent = false;
            if p.verifying.take().is_none() {
                let path = index_u8(index);
                self.tell(TxEvent::Joined { path, probes }, now);
            }
            for p in &mut self.paths {
                p.candidate.forget(index);
            }
            self.refresh_views();
        }
    }

    pub(super) fn probe(&mut self, index: usize, now: Timestamp) {
        self.paths[index].probed_at = now;
        self.probes.push_back((index_u8(index), 0));
    }

    pub(super) fn probe_all(&mut self, now: Timestamp) {
        let gap = self.config.health.probe_gap;
        for index in 0..self.paths.len() {
            let p = &self.paths[index];
            if p.is_up() && now.since(p.probed_at) >= gap {
                self.probe(index, now);
            }
        }
    }

    pub(super) fn fence(&mut self, index: usize, epoch: u16, reason: FenceReason, now: Timestamp) {
        let path = index_u8(index);
        let p = &mut self.paths[index];
        if p.epoch != epoch || !p.is_up() {
            return;
        }
        let was_in_use = p.vacate();
        let outstanding = p.queue.len();
        self.actions.push_back(TxAction::Close { path, epoch });
        if self.peer_leaves {
            self.views[index].usable = false;
            if !self.any_up() {
                self.fail("the peer closed the link".into());
            }
            return;
        }
        p.record.fences += 1;
        p.open_fence = Some(epoch);
        p.fence_sent_at = Timestamp::ZERO;
        // The port says when it is back: until then nothing is to be hoped for.
        let wait = reason == FenceReason::PortDown;
        p.dial_at = if wait { now + REDIAL_MAX } else { now };
        p.dial_failures = 0;
        if reason != FenceReason::Slow {
            p.damping.broke(now);
        }
        if was_in_use || outstanding > 0 {
            // Once every connection is closed, the end of the peer is no fault of a path.
            let matters = |c: &TxConn| matches!(c.state, ConnState::Opening | ConnState::Open);
            if outstanding > 0 || self.conns.values().any(matters) {
                let fenced = TxEvent::Fenced {
                    path,
                    reason,
                    outstanding,
                };
                self.tell(fenced, now);
            }
            self.controller.on_path_lost(now);
            self.reopen_search();
            if !self.paths.iter().any(TxPath::is_active) {
                let reserve = (0..self.paths.len())
                    .filter(|&i| self.paths[i].state == PathState::Standby)
                    .max_by_key(|&i| {
                        (
                            self.paths[i].verdict == Verdict::Fine,
                            self.paths[i].health.alive_at(),
                        )
                    });
                if let Some(reserve) = reserve {
                    self.activate(reserve, None, now);
                }
            }
        }
        self.refresh_views();
        self.handle_timeout(now);
    }

    /// The peer has said how far a fenced channel came: what did not arrive is sent again.
    pub(super) fn settle_fence(&mut self, index: usize, epoch: u16, count: u32, now: Timestamp) {
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
                    let state = self.conns.get(&m.conn).map(|c| c.state);
                    // The peer's buffer is not ours to write any more.
                    m.unwanted |= state == Some(ConnState::PeerClosed);
                    if m.is_given_up() {
                        let over = m.in_flight == 0;
                        self.abandon_chunk(message, chunk);
                        if over {
                            self.message_done(message);
                            continue;
                        }
                    } else {
                        self.replays.push_back((message, chunk));
                    }
                }
            }
            frames += 1;
        }
        self.paths[index].record.replays += frames as u64;
        self.views[index].outstanding = Bytes(0);
        let path = index_u8(index);
        self.tell(TxEvent::Replayed { path, frames }, now);
        self.resync();
    }

    /// Says again what a lost path may have swallowed.
    pub(super) fn resync(&mut self) {
        let mut say = |frame: Frame| self.control.push_back((None, frame.encode()));
        for (&conn, c) in &self.conns {
            match c.state {
                ConnState::Opening => say(Frame::Open {
                    conn,
                    listener: c.listener,
                }),
                ConnState::Closing if c.close_sent => say(Frame::Close { conn }),
                _ => {}
            }
            for &key in &c.waiting {
                say(self.messages[key as usize].announcement());
            }
        }
        for p in &mut self.paths {
            p.fence_sent_at = Timestamp::ZERO;
        }
        if let Some(grants) = &mut self.grants {
            grants.told = (0, 0);
        }
    }

    /// What the peer has acknowledged has arrived, although the adapter has not told: it does so no
    /// more once the peer is gone.
    pub(super) fn settle_by_word(&mut self) {
        if self.config.completions == Completions::Peer {
            return;
        }
        for index in 0..self.paths.len() {
            let p = &self.paths[index];
            let arrived = p.peer_count.wrapping_sub(p.acked) as usize;
            if arrived <= p.queue.len() {
                self.acknowledge(index, arrived, self.now);
            }
        }
    }

    pub(super) fn acknowledge(&mut self, index: usize, frames: usize, now: Timestamp) {
        let mut bytes = 0;
        let mut departed = None;
        for _ in 0..frames {
            let Some(item) = self.paths[index].queue.pop_front() else {
                break;
            };
            departed = Some(item.departs);
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
                    if m.done_count == m.chunks || (m.is_given_up() && m.in_flight == 0) {
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
        // Where completions tell of arrivals, they are timed by the adapter.
        if let Some(departed) = departed
            && self.config.completions == Completions::Peer
        {
            let delay = now.since(departed);
            let p = &self.paths[index];
            let queue = delay - p.stats.rtt_min;
            if let Some(recorder) = &p.record.recorder {
                recorder.observe(PathHistogram::Delay, delay.0);
            }
            self.note_chunk(index, delay, queue, self.in_flight + bytes, now);
        }
    }

    /// No more than `bytes` of the path are still under way.
    pub(super) fn deliver(&mut self, index: usize, bytes: u64, now: Timestamp) {
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

    /// The adapter will have sent the data frame that was last given to this path by `at`, as far
    /// as its rate and what it was given before tell.
    pub fn handle_departure(&mut self, path: u8, at: Timestamp) {
        if let Some(last) = self.paths[usize::from(path)].queue.back_mut() {
            let wait = at.since(last.departs);
            let byte_time = (wait.0 << 10) / u64::from(last.bytes.max(1));
            self.adapter_byte_time = self.adapter_byte_time.min(byte_time);
            last.departs = at;
            // At most one chunk ahead. An adapter that serves its queue pairs in turn sends others
            // sooner than what it was given before tells, and their round trips look too short.
            last.alone = byte_time <= 2 * self.adapter_byte_time;
        }
    }

    /// A verbs transport's own completions: `count` more data frames of this channel are done, the
    /// last of them since `completed_at`. How long it then waited for the host to look is no delay of
    /// the network: `None` where that cannot be told from one.
    pub fn handle_completions(
        &mut self,
        path: u8,
        epoch: u16,
        count: u32,
        completed_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        self.now = now;
        let index = usize::from(path);
        let p = &mut self.paths[index];
        if p.epoch != epoch {
            return;
        }
        let last = (count as usize).min(p.queue.len()).checked_sub(1);
        let departed = last.map(|last| (p.queue[last].departs, p.queue[last].alone));
        let in_flight = Bytes(self.in_flight);
        self.acknowledge(index, count as usize, now);
        if let Some((departed, alone)) = departed {
            self.newest_arrival = self.newest_arrival.max(departed);
            self.last_life = now;
            let p = &mut self.paths[index];
            p.health.saw_acknowledgement(now);
            p.unproven = false;
            if let Some(completed_at) = completed_at {
                let rtt = completed_at.since(departed);
                self.sample(index, rtt, alone, in_flight, now);
            }
        }
        self.refresh_views();
        self.rehash(index, now);
    }

    /// Gives up a path that stays slow, one at a time: what it is slower than has to be there.
    fn rehash(&mut self, index: usize, now: Timestamp) {
        let p = &self.paths[index];
        if !self.config.rehash || p.rests < REHASH_AFTER || !p.queue.is_empty() {
            return;
        }
        let (epoch, port) = (p.epoch, p.port);
        // Where all ways of a port are slow, it is the port: another way there is no better. Whether the
        // only one of a port is cannot be told, so it is tried.
        let is_only = self.paths.iter().filter(|p| p.port == port).count() == 1;
        let mut others = self.paths.iter().filter(|p| is_only || p.port == port);
        let has_faster = others.any(|p| p.rest.is_none());
        let all_active = self.paths.iter().all(TxPath::is_active);
        if self.dial_tokens > 0 && has_faster && all_active && self.rehashes.take(now) {
            if self.config.reroute {
                self.reroute = Some(index_u8(index));
            } else {
                self.give_up_slow(index, epoch, now);
            }
        }
    }

    fn give_up_slow(&mut self, index: usize, epoch: u16, now: Timestamp) {
        self.paths[index].died_silent = false;
        self.fence(index, epoch, FenceReason::Slow, now);
    }

    /// A path that stays slow, and whose channel is to leave from another source port. Answer with
    /// [`TxEngine::handle_rerouted`].
    pub fn poll_reroute(&mut self) -> Option<u8> {
        self.reroute.take()
    }

    /// As if this path had stayed slow, for tests of drivers.
    #[cfg(test)]
    pub(crate) fn want_reroute(&mut self, path: u8) {
        self.reroute = Some(path);
    }

    /// The channel leaves from another port now; or the transport cannot do that, and another channel
    /// takes its place.
    pub fn handle_rerouted(&mut self, path: u8, done: bool, now: Timestamp) {
        let index = usize::from(path);
        let p = &mut self.paths[index];
        if !p.is_active() {
            return;
        }
        if !done {
            let epoch = p.epoch;
            return self.give_up_slow(index, epoch, now);
        }
        // What was measured was another way.
        p.meter = RateMeter::default();
        p.delay = PathDelay::default();
        p.rest = None;
        p.rests = 0;
        self.tell(TxEvent::Rerouted { path }, now);
        self.refresh_views();
    }

    /// A chunk took so long from its departure until its completion.
    fn sample(&mut self, index: usize, rtt: Nanos, alone: bool, in_flight: Bytes, now: Timestamp) {
        let queue = if alone {
            self.base_rtt.observe(now, rtt.0.cast_signed())
        } else {
            self.base_rtt.excess(rtt.0.cast_signed())
        };
        let p = &mut self.paths[index];
        p.delay.observe(rtt);
        if let Some(recorder) = &p.record.recorder {
            recorder.observe(PathHistogram::Delay, rtt.0);
            recorder.observe(PathHistogram::Queue, queue.0);
        }
        let recent_queues = &mut self.ports[usize::from(p.port)].recent_queues;
        let usual = recent_queues.get();
        let idle = rtt - queue;
        let was_over = p.rest.is_none_or(|rest| now >= rest.until);
        p.rest = (queue.0 > REST_QUEUES * usual + idle.0).then(|| Rest {
            until: now + queue * REST_TIMES,
            longer_until: now + queue * (REST_TIMES * REST_AGAIN),
            meanwhile: self.controller.window().scale(queue.0, idle.0 + usual),
        });
        // What was given to it before it began to rest says nothing new.
        p.rests = match p.rest {
            Some(_) => p.rests.saturating_add(u8::from(was_over)),
            None => 0,
        };
        recent_queues.push(queue.0);
        let is_fine = p.verdict == Verdict::Fine;
        if let Some(rest) = p.rest.filter(|_| was_over) {
            let rests = Event::PathRests {
                queue_ns: queue.0,
                usual_ns: usual,
                for_ns: rest.until.since(now).0,
            };
            self.record.note(Some(index_u8(index)), rests, now);
        }
        self.note_chunk(index, rtt, queue, in_flight.0, now);
        if is_fine {
            self.controller.on_sample(&Sample {
                now,
                rtt,
                rtt_min: rtt - queue,
                acked: Bytes(std::mem::take(&mut self.acked_since_sample)),
                in_flight,
                // An adapter's completions tell of no marks.
                marked: None,
            });
        }
    }

    /// Whether the peer has a receive posted on this path for one more data frame.
    pub(super) fn receives_free(&self, index: usize) -> bool {
        let p = &self.paths[index];
        self.config
            .receive_depth
            .is_none_or(|depth| p.sent.wrapping_sub(p.peer_count) < depth)
    }

    pub(super) fn refresh_usable(&mut self) {
        for (p, view) in self.paths.iter().zip(&mut self.views) {
            view.usable = p.state == PathState::Active
                && p.verdict == Verdict::Fine
                && p.queued_bytes <= LAG_MAX
                && !p.unheard;
        }
        if self.config.completions == Completions::Local {
            self.rest_slow_paths();
        }
    }

    /// Leaves out the paths of ports that lose packets, unless there are no others; of the rest, those
    /// that rest and those that have shown nothing yet, unless all do.
    fn rest_slow_paths(&mut self) {
        let now = self.now;
        let left = self.grants.map(|g| Bytes(g.started.saturating_sub(g.sent)));
        let rests = |p: &TxPath| {
            let rest = p.rest.is_some_and(|rest| {
                let short = left.is_some_and(|left| left < rest.meanwhile);
                now < if short { rest.longer_until } else { rest.until }
            });
            rest || p.unproven
        };
        // A bit for each path.
        let (mut usable, mut lossy, mut resting) = (0u64, 0u64, 0u64);
        for (index, (p, view)) in self.paths.iter().zip(&self.views).enumerate() {
            usable |= u64::from(view.usable) << index;
            lossy |= u64::from(self.ports[usize::from(p.port)].is_left(now)) << index;
            resting |= u64::from(rests(p)) << index;
        }
        for out in [lossy, resting] {
            if usable & !out != 0 {
                usable &= !out;
            }
        }
        for (index, view) in self.views.iter_mut().enumerate() {
            view.usable = usable >> index & 1 == 1;
        }
    }

    /// Shares the link's window out among its paths, by their measured rates.
    pub(super) fn refresh_views(&mut self) {
        self.refresh_usable();
        let (mut sum, mut count, mut active) = (0u64, 0u64, 0u64);
        for p in self.paths.iter().filter(|p| p.is_active()) {
            sum += p.meter.rate;
            count += u64::from(p.meter.rate > 0);
            active += 1;
        }
        // A path that has not shown its rate yet is taken for an average one.
        let assumed = sum.checked_div(count).unwrap_or(1_000_000_000).max(1);
        let total = sum + assumed * (active - count);
        let window = u128::from(self.controller.window().0);
        let per_rate = (window << 32) / u128::from(total.max(1));
        let chunk = u64::from(self.chunk_bytes_for(u64::MAX >> 1));
        let local = self.config.completions == Completions::Local;
        for (p, view) in self.paths.iter().zip(&mut self.views) {
            if !p.is_active() {
                continue;
            }
            let (rate, byte_time) = match p.meter.rate {
                0 => (assumed, byte_time(assumed)),
                rate => (rate, p.meter.byte_time),
            };
            let share = (per_rate * u128::from(rate)) >> 32;
            view.cap = Bytes(u64::try_from(share).unwrap_or(u64::MAX).max(2 * chunk));
            if local && p.delay.rtt.is_zero() {
                // Nothing is known of it: one chunk finds out.
                view.cap = Bytes(chunk);
            }
            view.byte_time = byte_time;
            view.delay_ns = p.stats.rtt_min.0;
            view.rtt = if local { p.delay.rtt } else { p.stats.rtt };
        }
    }

    /// The best path for a frame that any path may carry.
    pub(super) fn control_path(&self) -> Option<usize> {
        let up = TxPath::is_up;
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

    /// Whether the transport should be asked how this path does.
    #[must_use]
    pub fn wants_stats(&self, path: u8) -> bool {
        let p = &self.paths[usize::from(path)];
        p.is_up() && (!p.queue.is_empty() || p.watched.is_some() || p.verdict != Verdict::Fine)
    }

    /// Whether any path is up.
    #[must_use]
    pub fn any_up(&self) -> bool {
        self.paths.iter().any(TxPath::is_up)
    }

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
            marks: p.stats.marks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineConfig;
    use crate::engine::tx::made::{self, NOW, acknowledge, dials};
    use crate::engine::tx::ports::TxPort;
    use crate::path::select::{AnySelector, RoundRobin};

    /// A link with a connection and two paths that are up.
    fn link(reroute: bool) -> (TxEngine, Timestamp) {
        let config = EngineConfig {
            paths_max: 2,
            search: false,
            rehash: true,
            reroute,
            completions: Completions::Local,
            chunk_bytes: Some(8192),
            receive_depth: Some(16),
            ..EngineConfig::default()
        };
        let selector = AnySelector::RoundRobin(RoundRobin::default());
        let mut engine = made::engine(config, selector, 1 << 20);
        assert!(engine.paths.iter().all(TxPath::is_active));
        while engine.poll_event().is_some() {}
        (engine, NOW)
    }

    #[test]
    fn a_path_whose_port_is_down_is_fenced_at_once_and_dialled_when_it_is_up() {
        let (mut engine, now) = link(false);
        let epoch = engine.paths[1].epoch;
        engine.handle_port_down(1, epoch, now);
        let fenced = TxEvent::Fenced {
            path: 1,
            reason: FenceReason::PortDown,
            outstanding: 0,
        };
        assert_eq!(engine.poll_event(), Some(fenced));
        assert_eq!(engine.paths[1].open_fence, Some(epoch));
        // Said again, or of an older channel, it changes nothing.
        engine.handle_port_down(1, epoch, now);
        engine.handle_port_down(0, engine.paths[0].epoch.wrapping_sub(1), now);
        assert_eq!(engine.poll_event(), None);
        assert!(engine.paths[0].is_active());
        // Nobody dials what is down over and over; but if nothing says that it is up, it is tried.
        let soon = now + Nanos::from_millis(100);
        engine.handle_timeout(soon);
        assert_eq!(dials(&mut engine), []);
        engine.handle_port_up(1, soon);
        engine.handle_timeout(soon);
        assert_eq!(dials(&mut engine), [(1, epoch + 1)]);
        engine.handle_dial_failed(1, epoch + 1, soon);
        engine.handle_timeout(soon + REDIAL_MAX);
        assert_eq!(dials(&mut engine), [(1, epoch + 2)]);
    }

    #[test]
    fn what_is_down_is_tried_again_without_a_word() {
        let (mut engine, now) = link(false);
        let epoch = engine.paths[1].epoch;
        engine.handle_port_down(1, epoch, now);
        engine.handle_timeout(now + REDIAL_MAX);
        assert_eq!(dials(&mut engine), [(1, epoch + 1)]);
    }

    #[test]
    fn a_port_that_is_up_is_dialled_even_when_no_dial_was_left() {
        let (mut engine, now) = link(false);
        let epoch = engine.paths[1].epoch;
        engine.handle_port_down(1, epoch, now);
        engine.dial_tokens = 0;
        engine.handle_port_up(1, now);
        engine.handle_timeout(now);
        assert_eq!(dials(&mut engine), [(1, epoch + 1)]);
    }

    #[test]
    fn an_acknowledgement_that_was_overtaken_takes_nothing_back() {
        let (mut engine, _) = link(false);
        engine.paths[1].sent = 24;
        let mut hear = |count| {
            let epoch = engine.paths[1].epoch;
            acknowledge(&mut engine, 1, epoch, count);
            (engine.paths[1].peer_count, engine.receives_free(1))
        };
        assert_eq!(hear(8), (8, false));
        assert_eq!(hear(24), (24, true));
        assert_eq!(hear(8), (24, true));
        assert_eq!(hear(25), (24, true), "more than was sent");
    }

    /// As if chunk after chunk had met a long queue there.
    fn slow(engine: &mut TxEngine, index: usize, now: Timestamp) {
        let path = &mut engine.paths[index];
        path.rests = REHASH_AFTER;
        path.rest = Some(Rest {
            until: now,
            longer_until: now,
            meanwhile: Bytes(0),
        });
        engine.rehash(index, now);
    }

    #[test]
    fn a_path_is_slow_beside_those_of_its_own_port() {
        let (mut engine, now) = link(true);
        // The ways of the second port, were there more paths at each.
        let took = [Nanos::from_micros(10), Nanos::from_micros(90)];
        let rests = |engine: &mut TxEngine| {
            for index in [0, 0, 1].repeat(20) {
                engine.sample(index, took[index], index == 0, Bytes(0), now);
            }
            engine.paths[1].rest.is_some()
        };
        assert!(rests(&mut engine), "a detour");
        let (mut engine, _) = link(true);
        engine.paths[1].port = 1;
        engine.ports.resize_with(2, TxPort::default);
        assert!(!rests(&mut engine), "a slower port");
    }

    #[test]
    fn a_port_that_is_slow_as_a_whole_is_left_as_it_is() {
        let (mut engine, now) = link(true);
        slow(&mut engine, 0, now);
        assert_eq!(engine.poll_reroute(), Some(0));
        slow(&mut engine, 1, now);
        assert_eq!(engine.poll_reroute(), None, "both rest");
        engine.paths[0].port = 1;
        slow(&mut engine, 1, now);
        assert_eq!(engine.poll_reroute(), None);
        engine.paths[0].rest = None;
        slow(&mut engine, 1, now);
        assert_eq!(engine.poll_reroute(), Some(1), "the only one of its port");
    }

    #[test]
    fn a_slow_path_gets_another_port_without_a_fence_where_that_can_be() {
        let (mut engine, now) = link(true);
        slow(&mut engine, 1, now);
        assert_eq!(engine.poll_event(), None, "nothing is given up yet");
        assert_eq!(engine.poll_reroute(), Some(1));
        assert_eq!(engine.poll_reroute(), None);
        engine.handle_rerouted(1, true, now);
        assert_eq!(engine.poll_event(), Some(TxEvent::Rerouted { path: 1 }));
        assert!(engine.paths[1].is_active() && engine.paths[1].rest.is_none());
        // Elsewhere another channel takes its place.
        slow(&mut engine, 1, now);
        assert_eq!(engine.poll_reroute(), Some(1));
        engine.handle_rerouted(1, false, now);
        let fenced = |event| {
            matches!(
                event,
                Some(TxEvent::Fenced {
                    path: 1,
                    reason: FenceReason::Slow,
                    ..
                })
            )
        };
        assert!(fenced(engine.poll_event()));
        // As where nobody asks at all.
        let (mut engine, now) = link(false);
        slow(&mut engine, 1, now);
        assert_eq!(engine.poll_reroute(), None);
        assert!(fenced(engine.poll_event()));
    }
}
