//! What a receiving link publishes of itself.

use super::{Arriving, Channel, RxEngine, RxPath};
use crate::clock::Timestamp;
use crate::engine::record::HeldUpBy;
use crate::engine::tx::PathState;
use crate::telemetry::event::{Event, FenceReason};
use crate::telemetry::schema::{LinkCounter, LinkGauge, PathCounter, PathGauge};
use crate::telemetry::{ConnectionRecorder, LinkRecorder, PathRecorder};

/// What a path counts, and where.
#[derive(Debug, Default)]
pub(super) struct PathRecord {
    recorder: Option<PathRecorder>,
    pub(super) bytes: u64,
    pub(super) fences: u64,
}

impl RxEngine {
    /// Publishes there from now on.
    pub fn record(&mut self, link: LinkRecorder, now: Timestamp) {
        for (path, number) in self.paths.iter_mut().zip(0u8..) {
            path.record.recorder = link.path(number);
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
        let recorder = self.paths.get(usize::from(path));
        if let Some(recorder) = recorder.and_then(|path| path.record.recorder.as_ref()) {
            recorder.name(ends);
        }
    }

    /// A path has no channel any more.
    pub(super) fn note_end(&mut self, path: u8, reason: FenceReason) {
        let p = &mut self.paths[usize::from(path)];
        let event = if p.count == 0 {
            Event::PathClosed {}
        } else {
            p.record.fences += 1;
            Event::PathFenced {
                reason,
                silent_ns: 0,
                frames: 0,
            }
        };
        self.record.note(Some(path), event, self.now);
    }

    fn held_up_by(&self) -> HeldUpBy {
        let has_begun = |path: &RxPath| {
            let arriving = path.arriving.as_ref();
            arriving.is_some_and(|arriving| !matches!(arriving, Arriving::Discard))
        };
        let is_partial = self.slots.iter().any(|slot| slot.cut.is_some());
        if self.announced() > 0 {
            HeldUpBy::Credit
        } else if is_partial || self.paths.iter().any(has_begun) {
            HeldUpBy::Network
        } else if self
            .granted
            .is_some_and(|granted| self.demand().1 > granted)
        {
            HeldUpBy::Grant
        } else if self.receives_pending() > 0 {
            HeldUpBy::Sender
        } else {
            HeldUpBy::User
        }
    }

    /// Messages that the sender has announced and for which no receive is posted.
    fn announced(&self) -> usize {
        self.conns.values().map(|conn| conn.wanted.len()).sum()
    }

    /// Publishes, if it is time. Timers do, while the link is driven.
    pub fn publish(&mut self, now: Timestamp) {
        if !self.record.is_on() {
            return;
        }
        let held_up_by = self.held_up_by();
        if let Some(waited) = self.record.look(held_up_by, now)
            && held_up_by == HeldUpBy::Credit
        {
            let awaited = Event::CreditAwaited {
                messages: self.announced() as u64,
                for_ns: waited.0,
            };
            self.record.note(None, awaited, now);
        }
        self.record.counters[LinkCounter::Duplicates] = self.duplicates;
        let Some(link) = self.record.publish(now) else {
            return;
        };
        let active = self.paths.iter().filter(|path| path.is_up()).count();
        link.set(LinkGauge::ActivePaths, active as u64);
        for path in &self.paths {
            let Some(recorder) = &path.record.recorder else {
                continue;
            };
            let state = match path.channel {
                Channel::None => PathState::Vacant,
                Channel::Up => PathState::Active,
                Channel::Silencing | Channel::Lost => PathState::Fenced,
            };
            recorder.count(PathCounter::ReceivedBytes, path.record.bytes);
            recorder.count(PathCounter::Fences, path.record.fences);
            recorder.set(PathGauge::State, state as u64);
            recorder.set(PathGauge::Epoch, path.epoch.into());
        }
    }
}
