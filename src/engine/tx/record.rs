//! What a sending link publishes of itself.

use super::{TxEngine, index_u8};
use crate::clock::Timestamp;
use crate::telemetry::schema::{LinkCounter, LinkGauge, PathCounter, PathGauge};
use crate::telemetry::{LinkRecorder, PathRecorder};
use crate::units::Nanos;

/// How often.
const PUBLISH_EVERY: Nanos = Nanos(10_000_000);

/// What a link counts, and where it publishes that.
#[derive(Debug, Default)]
pub(super) struct Record {
    link: Option<LinkRecorder>,
    published_at: Timestamp,
    pub(super) messages: u64,
    pub(super) message_bytes: u64,
    pub(super) failures: u64,
}

impl Record {
    /// A message has.
    pub(super) fn ended(&mut self, bytes: u64) {
        self.messages += 1;
        self.message_bytes += bytes;
    }
}

/// What a path counts, and where.
#[derive(Debug, Default)]
pub(super) struct PathRecord {
    pub(super) recorder: Option<PathRecorder>,
    pub(super) fences: u64,
    pub(super) replays: u64,
}

impl TxEngine {
    /// Publishes there from now on.
    pub fn record(&mut self, link: LinkRecorder) {
        for (index, path) in self.paths.iter_mut().enumerate() {
            path.record.recorder = link.path(index_u8(index));
        }
        self.record.link = Some(link);
    }

    /// Where a path leads from and to, for whoever looks.
    pub fn name_path(&self, path: u8, ends: &str) {
        if let Some(recorder) = &self.paths[usize::from(path)].record.recorder {
            recorder.name(ends);
        }
    }

    /// Publishes, if it is time. Timers do, while the link is driven.
    pub fn publish(&mut self, now: Timestamp) {
        let Some(link) = &self.record.link else {
            return;
        };
        if now.since(self.record.published_at) < PUBLISH_EVERY {
            return;
        }
        self.record.published_at = now;
        link.count(LinkCounter::Messages, self.record.messages);
        link.count(LinkCounter::MessageBytes, self.record.message_bytes);
        link.count(LinkCounter::Failures, self.record.failures);
        link.set(LinkGauge::Window, self.window().0);
        link.set(LinkGauge::InFlight, self.in_flight);
        let active = self.paths.iter().filter(|p| p.is_active()).count();
        link.set(LinkGauge::ActivePaths, active as u64);
        for (path, info) in self.paths.iter().zip(self.path_infos()) {
            let Some(recorder) = &path.record.recorder else {
                continue;
            };
            recorder.count(PathCounter::SentBytes, info.bytes);
            recorder.count(PathCounter::Fences, path.record.fences);
            recorder.count(PathCounter::Replays, path.record.replays);
            recorder.set(PathGauge::State, info.state as u64);
            recorder.set(PathGauge::Outstanding, info.outstanding);
            recorder.set(PathGauge::Rate, info.rate);
            recorder.set(PathGauge::RoundTrip, path.round_trip().0);
            recorder.set(PathGauge::Epoch, path.epoch.into());
        }
    }
}
