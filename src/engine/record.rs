//! What both halves of a link publish of themselves: what they have counted, and what holds them up.

use crate::clock::Timestamp;
use crate::telemetry::event::Event;
use crate::telemetry::schema::LinkCounter;
use crate::telemetry::values::Values;
use crate::telemetry::{ConnectionRecorder, LinkRecorder};
use crate::units::Nanos;

/// All connections are those of collectives.
const CLASS: &str = "collective";
/// How often.
const PUBLISH_EVERY: Nanos = Nanos(10_000_000);
/// Nobody has driven the link for so long, a few times what its timers ask for. It was idle if it is idle by
/// now; if it was not, this host is what was late.
const UNSEEN: Nanos = Nanos(20_000_000);
/// A wait is told of once it has lasted so long, and after twice as long each time.
const WAIT_TOLD: Nanos = Nanos(10_000_000);

/// What holds a link up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum HeldUpBy {
    /// Its user wants nothing of it.
    #[default]
    User,
    /// No receive is posted for what there is to send.
    Credit,
    /// The receiver holds bytes back.
    Grant,
    /// The receiver's program does not take in what has reached its host.
    Receiver,
    /// The sender has not begun what receives are posted for.
    Sender,
    /// The window is full, or the paths are, or none is up; at the receiver: part of a message is there.
    Network,
    /// All is sent, and not acknowledged.
    Acknowledgement,
    /// Nothing but this host's own work.
    Host,
}

impl HeldUpBy {
    /// Where that time is counted.
    fn counter(self) -> LinkCounter {
        match self {
            Self::User => LinkCounter::IdleTime,
            Self::Credit => LinkCounter::CreditTime,
            Self::Grant => LinkCounter::GrantTime,
            Self::Receiver => LinkCounter::ReceiverTime,
            Self::Sender => LinkCounter::SenderTime,
            Self::Network => LinkCounter::NetworkTime,
            Self::Acknowledgement => LinkCounter::AckTime,
            Self::Host => LinkCounter::HostTime,
        }
    }
}

/// What a link counts, and where it publishes that.
#[derive(Debug, Default)]
pub(super) struct Record {
    link: Option<LinkRecorder>,
    published_at: Timestamp,
    pub(super) counters: Values<LinkCounter>,
    held_up_by: HeldUpBy,
    held_up_since: Timestamp,
    looked_at: Timestamp,
    /// At what length a wait is told of next.
    told_after: Nanos,
}

impl Record {
    /// Publishes there from now on.
    pub(super) fn begin(&mut self, link: LinkRecorder, now: Timestamp) {
        self.looked_at = now;
        self.link = Some(link);
    }

    /// Somebody may look.
    pub(super) fn is_on(&self) -> bool {
        self.link.is_some()
    }

    /// Where a connection of the link publishes.
    pub(super) fn connection(&self, number: u32) -> Option<ConnectionRecorder> {
        self.link.as_ref()?.connection(number, CLASS)
    }

    /// A message has ended well.
    pub(super) fn ended(&mut self, bytes: u64) {
        self.counters[LinkCounter::Messages] += 1;
        self.counters[LinkCounter::MessageBytes] += bytes;
    }

    /// A message has ended with an error.
    pub(super) fn failed(&mut self, now: Timestamp) {
        self.counters[LinkCounter::Failures] += 1;
        let failures = self.counters[LinkCounter::Failures];
        self.note(None, Event::MessageFailed { failures }, now);
    }

    /// Something has happened.
    pub(super) fn note(&self, path: Option<u8>, event: Event, now: Timestamp) {
        if let Some(link) = &self.link {
            link.event(path, event, now);
        }
    }

    /// What holds the link up now: counts the time since the last look. The answer is for how long it
    /// has been so, when that is to be told.
    pub(super) fn look(&mut self, held_up_by: HeldUpBy, now: Timestamp) -> Option<Nanos> {
        let passed = now.since(std::mem::replace(&mut self.looked_at, now));
        let counted = match (self.held_up_by, held_up_by) {
            (before, _) if passed <= UNSEEN => before,
            (_, HeldUpBy::User) => HeldUpBy::User,
            // For these nobody has to do anything here.
            (HeldUpBy::User | HeldUpBy::Credit | HeldUpBy::Sender, _) => self.held_up_by,
            _ => HeldUpBy::Host,
        };
        self.counters[counted.counter()] += passed.0;
        if self.held_up_by != held_up_by {
            self.held_up_by = held_up_by;
            self.held_up_since = now;
            self.told_after = WAIT_TOLD;
            return None;
        }
        let waited = now.since(self.held_up_since);
        (waited >= self.told_after).then(|| {
            self.told_after = waited * 2;
            waited
        })
    }

    /// Publishes what has been counted, if it is time; the rest is then to be published there.
    pub(super) fn publish(&mut self, now: Timestamp) -> Option<&LinkRecorder> {
        let link = self.link.as_ref()?;
        if now.since(self.published_at) < PUBLISH_EVERY {
            return None;
        }
        self.published_at = now;
        for (counter, &so_far) in self.counters.iter() {
            link.count(counter, so_far);
        }
        Some(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Nanos::from_millis(millis)
    }

    #[test]
    fn time_is_counted_for_what_held_the_link_up() {
        let mut record = Record {
            looked_at: at(1),
            ..Record::default()
        };
        let looks = [
            (2, HeldUpBy::Network),
            (3, HeldUpBy::Network),
            (4, HeldUpBy::Credit),
            // Nobody drove: whatever it was, its user has wanted nothing for long.
            (104, HeldUpBy::User),
            // Nobody drove, and now somebody does.
            (204, HeldUpBy::Host),
            (205, HeldUpBy::Network),
            // There was something to do, and nobody did it.
            (265, HeldUpBy::Network),
        ];
        for (millis, held_up_by) in looks {
            record.look(held_up_by, at(millis));
        }
        let millis = |counter| record.counters[counter] / 1_000_000;
        let counted = LinkCounter::ALL
            .iter()
            .map(|&counter| (counter, millis(counter)));
        let counted: Vec<_> = counted.filter(|(_, millis)| *millis > 0).collect();
        let expected = [
            (LinkCounter::IdleTime, 1 + 100 + 100),
            (LinkCounter::NetworkTime, 2),
            (LinkCounter::HostTime, 1 + 60),
        ];
        assert_eq!(counted, expected);
    }

    #[test]
    fn a_long_wait_is_told_of_ever_more_rarely() {
        let mut record = Record::default();
        let told: Vec<_> = (1..=100)
            .filter_map(|millis| record.look(HeldUpBy::Credit, at(millis)))
            .map(Nanos::as_millis)
            .collect();
        assert_eq!(told, [10, 20, 40, 80]);
    }
}
