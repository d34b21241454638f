//! What a sending link publishes of itself.

use super::{FenceReason, TxEngine, TxEvent, index_u8};
use crate::clock::Timestamp;
use crate::control::Controller;
use crate::engine::Completions;
use crate::engine::record::HeldUpBy;
use crate::telemetry::event::{self, Event, WindowReason};
use crate::telemetry::schema::{LinkGauge, PathCounter, PathGauge};
use crate::telemetry::{ConnectionRecorder, LinkRecorder, PathRecorder};
use crate::units::Nanos;

/// Of chunks' ways, one in so long is kept.
const CHUNK_EVERY: Nanos = Nanos(1_000_000);
/// What was last told of what is told now and then.
#[derive(Debug, Default)]
pub(super) struct Told {
    chunk_at: Timestamp,
    window: u64,
}

/// What a path counts, and where.
#[derive(Debug, Default)]
pub(super) struct PathRecord {
    pub(super) recorder: Option<PathRecorder>,
    pub(super) fences: u64,
    pub(super) replays: u64,
    /// Segments, over all channels.
    pub(super) delivered: u64,
    pub(super) marked: u64,
    pub(super) retransmits: u64,
}

impl TxEngine {
    /// Publishes there from now on.
    pub fn record(&mut self, link: LinkRecorder, now: Timestamp) {
        for (index, path) in self.paths.iter_mut().enumerate() {
            path.record.recorder = link.path(index_u8(index));
        }
        self.record.begin(link, now);
    }

    /// Where a connection publishes what becomes of its messages; none where nobody may look.
    #[must_use]
    pub fn record_connection(&self, conn: u32) -> Option<ConnectionRecorder> {
        self.record.connection(conn)
    }

    /// Where a path leads from and to, for whoever looks.
    pub fn name_path(&self, path: u8, ends: &str) {
        if let Some(recorder) = &self.paths[usize::from(path)].record.recorder {
            recorder.name(ends);
        }
    }

    /// Something has happened that a user may want to know.
    pub(super) fn tell(&mut self, event: TxEvent, now: Timestamp) {
        self.record.note(event.path(), event.recorded(), now);
        self.events.push_back(event);
    }

    /// A chunk's way was timed.
    pub(super) fn note_chunk(
        &mut self,
        index: usize,
        delay: Nanos,
        queue: Nanos,
        in_flight: u64,
        now: Timestamp,
    ) {
        if !self.record.is_on() || now.since(self.told.chunk_at) < CHUNK_EVERY {
            return;
        }
        self.told.chunk_at = now;
        let window = self.controller.window().0;
        let event = Event::Chunk {
            delay_ns: delay.0,
            queue_ns: queue.0,
            in_flight_bytes: in_flight,
            window_bytes: window,
        };
        self.record.note(Some(index_u8(index)), event, now);
        let before = self.told.window;
        if before == 0 {
            self.told.window = window;
        } else if window.abs_diff(before) > before / 8 {
            let reason = if window > before {
                WindowReason::Room
            } else if self.ports.iter().any(|port| port.is_congested(now)) {
                WindowReason::Notified
            } else {
                WindowReason::Queue
            };
            self.told.window = window;
            let event = Event::Window {
                reason,
                before_bytes: before,
                window_bytes: window,
            };
            self.record.note(None, event, now);
        }
    }

    /// Looks what holds the link up, and tells of it if it has for long.
    fn look(&mut self, now: Timestamp) {
        let held_up_by = self.held_up_by();
        let Some(waited) = self.record.look(held_up_by, now) else {
            return;
        };
        let event = match held_up_by {
            HeldUpBy::Credit => Event::CreditAwaited {
                messages: self.conns.values().map(|c| c.waiting.len() as u64).sum(),
                for_ns: waited.0,
            },
            HeldUpBy::Grant => Event::GrantHeld {
                backlog_bytes: (self.grants).map_or(0, |g| g.started.saturating_sub(g.granted)),
                for_ns: waited.0,
            },
            _ => return,
        };
        self.record.note(None, event, now);
    }

    fn held_up_by(&self) -> HeldUpBy {
        if !self.replays.is_empty() || !self.turns.is_empty() {
            let is_granted = self.grants.is_none_or(|g| g.sent < g.granted);
            if self.replays.is_empty() && !is_granted {
                HeldUpBy::Grant
            } else if self.waits_for_receiver() {
                HeldUpBy::Receiver
            } else if self.backlog_since.is_some() || !self.any_up() {
                HeldUpBy::Network
            } else {
                HeldUpBy::Host
            }
        } else if self.waits_for_receiver() {
            HeldUpBy::Receiver
        } else if self.in_flight > 0 {
            HeldUpBy::Acknowledgement
        } else if self.conns.values().any(|c| !c.waiting.is_empty()) {
            HeldUpBy::Credit
        } else {
            HeldUpBy::User
        }
    }

    /// Whether nothing is in the network: the receiver's host has it all, or takes no more.
    fn waits_for_receiver(&self) -> bool {
        let mut is_any = false;
        for (index, p) in self.paths.iter().enumerate().filter(|(_, p)| p.is_active()) {
            let has_arrived = match self.config.completions {
                Completions::Peer => {
                    let stats = &p.stats;
                    stats.window_closed || !stats.in_flight && stats.unsent == 0
                }
                Completions::Local => !self.receives_free(index),
            };
            if p.queued_bytes > 0 || !self.receives_free(index) {
                if !has_arrived {
                    return false;
                }
                is_any = true;
            }
        }
        is_any
    }

    /// Publishes, if it is time. Timers do, while the link is driven.
    pub fn publish(&mut self, now: Timestamp) {
        if !self.record.is_on() {
            return;
        }
        self.look(now);
        let window = self.window();
        let base_rtt = match self.base_rtt.least() {
            i64::MAX => Nanos::ZERO,
            least => Nanos(u64::try_from(least).unwrap_or(0)),
        };
        let Some(link) = self.record.publish(now) else {
            return;
        };
        link.set(LinkGauge::Window, window.0);
        link.set(LinkGauge::InFlight, self.in_flight);
        let active = self.paths.iter().filter(|p| p.is_active()).count();
        link.set(LinkGauge::ActivePaths, active as u64);
        for (path, info) in self.paths.iter().zip(self.path_infos()) {
            let Some(recorder) = &path.record.recorder else {
                continue;
            };
            recorder.count(PathCounter::SentBytes, info.bytes);
            recorder.count(PathCounter::Delivered, path.record.delivered);
            recorder.count(PathCounter::Marks, path.record.marked);
            recorder.count(PathCounter::Retransmits, path.record.retransmits);
            recorder.count(PathCounter::Fences, path.record.fences);
            recorder.count(PathCounter::Replays, path.record.replays);
            recorder.set(PathGauge::State, info.state as u64);
            recorder.set(PathGauge::Outstanding, info.outstanding);
            recorder.set(PathGauge::Rate, info.rate);
            recorder.set(PathGauge::RoundTrip, path.round_trip().0);
            let least = if self.config.completions == Completions::Local {
                base_rtt
            } else {
                info.rtt_min
            };
            recorder.set(PathGauge::RoundTripMin, least.0);
            recorder.set(PathGauge::Epoch, path.epoch.into());
        }
    }
}

impl TxEvent {
    /// The path that it happened to, if it was one.
    #[must_use]
    pub fn path(&self) -> Option<u8> {
        match *self {
            Self::Fenced { path, .. }
            | Self::Rerouted { path }
            | Self::Replayed { path, .. }
            | Self::Joined { path, .. }
            | Self::Collided { path, .. } => Some(path),
            Self::Lossy { .. } | Self::SearchEnded { .. } | Self::Failed { .. } => None,
        }
    }

    /// As it is recorded.
    #[must_use]
    pub fn recorded(&self) -> Event {
        match *self {
            Self::Fenced {
                reason,
                outstanding,
                ..
            } => {
                let (reason, silent) = match reason {
                    FenceReason::Silent(silent) => (event::FenceReason::Silent, silent),
                    FenceReason::Broken => (event::FenceReason::Broken, Nanos::ZERO),
                    FenceReason::LostByPeer => (event::FenceReason::LostByPeer, Nanos::ZERO),
                    FenceReason::Slow => (event::FenceReason::Slow, Nanos::ZERO),
                    FenceReason::PortDown => (event::FenceReason::PortDown, Nanos::ZERO),
                };
                Event::PathFenced {
                    reason,
                    silent_ns: silent.0,
                    frames: outstanding as u64,
                }
            }
            Self::Rerouted { .. } => Event::PathRerouted {},
            Self::Replayed { frames, .. } => Event::PathReplayed {
                frames: frames as u64,
            },
            Self::Joined { probes, .. } => {
                let (waited, queue) = probes.map_or_else(Default::default, |p| (p.waited, p.queue));
                Event::PathJoined {
                    waited_ns: waited.0,
                    queue_ns: queue.0,
                }
            }
            Self::Collided { probes, .. } => Event::PathCollided {
                waited_ns: probes.waited.0,
                queue_ns: probes.queue.0,
            },
            Self::Lossy { port, found } => Event::PortLossy {
                port: port.into(),
                lost_packets: found.lost,
                sent_packets: found.sent,
                for_ns: found.away.0,
            },
            Self::SearchEnded { active } => Event::SearchEnded {
                paths: active as u64,
            },
            Self::Failed { sends, .. } => Event::LinkFailed {
                sends: sends as u64,
            },
        }
    }
}
