//! All processes of a host at one time, with what the host and its ports say, and what happened between two
//! times: what screens, reports and verdicts are made of, live or from a recording.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::reader::{Events, Happened, Link, PathNow, Process, Reader, Watcher};
use super::schema::{
    HostCounter, HostGauge, LaneGauge, PortCounter, PortGauge, PriorityCounter, Table,
};
use super::sources::switches::SwitchValue;
use super::sources::{self, HostNow, PortNow, SourceTimes};
use super::values::Values;
use crate::units::Nanos;

/// A process, with what has happened in it since the snapshot before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// What has happened in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Happened>,
    /// How many more events there were, that nobody was in time to read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub events_missed: u64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// All processes of a host at one time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When, in ns of the wall clock.
    pub wall_ns: u64,
    /// The processes.
    pub processes: Vec<Watched>,
    /// The host and its ports, if whoever watched has read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostNow>,
    /// What switches have sent, if it was received.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<SwitchValue>,
}

/// What processes did between two times: counters and histograms say what was counted in between, gauges
/// what was at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Its begin, in ns of the wall clock.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
    /// The processes that were there at its end.
    pub processes: Vec<Watched>,
    /// The ports that were there at its end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortWindow>,
    /// The host itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostWindow>,
}

/// What a port did between two times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PortWindow {
    /// As in [`PortNow`].
    pub name: String,
    /// Its network interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its RDMA device, and the number of the port there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<(String, u8)>,
    /// Its driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// By how much its counters have grown in [`Self::between_ns`] of their sources; None where that is not
    /// known, as after a reset.
    pub counters: Values<PortCounter, Option<u64>>,
    /// What it was like at the end.
    pub gauges: Values<PortGauge, Option<u64>>,
    /// By how much the counters of each priority have grown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<Values<PriorityCounter, Option<u64>>>,
    /// What each lane was like at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<Values<LaneGauge, Option<u64>>>,
    /// The time between the two readings of each source; 0 where it has been read once only.
    pub between_ns: SourceTimes,
    /// How old the figures of each source were at the end.
    pub ages_ns: SourceTimes,
}

/// What a host did between two times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostWindow {
    /// By how much its counters have grown in [`Self::between_ns`]; None where that is not known.
    pub counters: Values<HostCounter, Option<u64>>,
    /// What it was like at the end.
    pub gauges: Values<HostGauge, Option<u64>>,
    /// The time between the two readings; None where there was none before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub between_ns: Option<u64>,
    /// What should have been there at the end and could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

impl Watcher {
    /// All processes that are there now, with the events since the last snapshot, and a line for each segment that
    /// cannot be looked into.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn snapshot(&mut self) -> io::Result<(Snapshot, Vec<String>)> {
        let lines = self.look()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let watched = |reader: &mut Reader| {
            let Events { events, missed } = reader.events();
            Watched {
                process: reader.read(),
                events,
                events_missed: missed,
            }
        };
        let snapshot = Snapshot {
            wall_ns: now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0)),
            processes: self.readers().iter_mut().map(watched).collect(),
            ..Snapshot::default()
        };
        Ok((snapshot, lines))
    }
}

impl Watched {
    fn is_same_as(&self, other: &Self) -> bool {
        let key = |watched: &Self| (watched.process.pid, watched.process.started_wall_ns);
        key(self) == key(other)
    }
}

impl Snapshot {
    /// What was done since an earlier one; the events are those that belong to this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Window {
        let since = |now: &Watched| {
            let before = earlier.processes.iter().find(|then| then.is_same_as(now));
            let links = before.map_or(&[][..], |then| &then.process.links);
            let mut watched = now.clone();
            for link in &mut watched.process.links {
                if let Some(before) = links.iter().find(|before| before.id == link.id) {
                    *link = link_since(link, before);
                }
            }
            watched
        };
        let (now, before) = (self.host.as_ref(), earlier.host.as_ref());
        // Another clock: the host was started anew in between.
        let before = before.filter(|before| now.is_some_and(|now| before.at <= now.at));
        let ports = now.map_or(&[][..], |now| &now.ports).iter();
        let apart = now.zip(before).map(|(now, before)| now.at.since(before.at));
        let port = |now: &PortNow| {
            let then = before.and_then(|before| before.port(&now.name));
            port_since(now, then.zip(apart))
        };
        Window {
            from_ns: earlier.wall_ns,
            to_ns: self.wall_ns,
            processes: self.processes.iter().map(since).collect(),
            ports: ports.map(port).collect(),
            host: now.map(|now| host_since(now, before)),
        }
    }
}

impl Window {
    /// From the first of these snapshots to the last, with what has happened in between; none of fewer than
    /// two.
    #[must_use]
    pub fn over(snapshots: &[Snapshot]) -> Option<Self> {
        let [first, between @ .., last] = snapshots else {
            return None;
        };
        let mut window = last.since(first);
        for watched in &mut window.processes {
            let mut events = Vec::new();
            for earlier in between.iter().flat_map(|snapshot| &snapshot.processes) {
                if earlier.is_same_as(watched) {
                    events.extend_from_slice(&earlier.events);
                    let missed = watched.events_missed;
                    watched.events_missed = missed.saturating_add(earlier.events_missed);
                }
            }
            events.append(&mut watched.events);
            watched.events = events;
        }
        Some(window)
    }

    /// The port of this name.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<&PortWindow> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// How long it is, in ns; never 0.
    #[must_use]
    pub fn length_ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns).max(1)
    }

    /// So many in the window are how many a second?
    #[must_use]
    pub fn per_second(&self, count: u64) -> u64 {
        let per_second = u128::from(count) * 1_000_000_000 / u128::from(self.length_ns());
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }
}

/// A counter that is lower than before has begun anew.
fn counted<T: Table>(now: &Values<T>, before: &Values<T>) -> Values<T> {
    Values::new(|metric| {
        now[metric]
            .checked_sub(before[metric])
            .unwrap_or(now[metric])
    })
}

fn link_since(now: &Link, before: &Link) -> Link {
    let path_since = |path: &PathNow| {
        let mut paths = before.paths.iter();
        let before = paths.find(|before| before.number == path.number);
        before.map_or_else(
            || path.clone(),
            |before| PathNow {
                counters: counted(&path.counters, &before.counters),
                histograms: Values::new(|metric| {
                    path.histograms[metric].since(&before.histograms[metric])
                }),
                ..path.clone()
            },
        )
    };
    Link {
        counters: counted(&now.counters, &before.counters),
        paths: now.paths.iter().map(path_since).collect(),
        ..now.clone()
    }
}

/// Since a reading that was told so much earlier.
fn port_since(now: &PortNow, before: Option<(&PortNow, Nanos)>) -> PortWindow {
    let counter = |counter| now.increase(before?.0, counter);
    let of_priority = |(priority, now): (usize, &Values<PriorityCounter, Option<u64>>)| {
        let before = before.and_then(|(before, _)| before.priorities.get(priority));
        // Drivers have 64 bits for these.
        Values::new(|counter| sources::increase(before?[counter], now[counter], u64::BITS))
    };
    PortWindow {
        name: now.name.clone(),
        interface: now.interface.clone(),
        device: now.device.clone(),
        driver: now.driver.clone(),
        counters: Values::new(counter),
        gauges: now.gauges.clone(),
        priorities: now.priorities.iter().enumerate().map(of_priority).collect(),
        lanes: now.lanes.clone(),
        between_ns: SourceTimes::new(|source| {
            let (before, apart) = before?;
            Some(now.between(before, source, apart)?.0)
        }),
        ages_ns: now.ages_ns,
    }
}

fn host_since(now: &HostNow, before: Option<&HostNow>) -> HostWindow {
    HostWindow {
        counters: Values::new(|counter| now.host.increase(&before?.host, counter)),
        gauges: now.host.gauges.clone(),
        between_ns: before.and_then(|before| {
            let apart = now.at.since(before.at);
            Some(now.host.between(&before.host, apart)?.0)
        }),
        lines: now.lines.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::{LinkCounter, LinkGauge, PathCounter, PathHistogram};
    use super::super::sources::{HostReading, Source};
    use super::super::{Role, made};
    use super::*;
    use crate::clock::Timestamp;

    fn link(id: u64, messages: u64, window: u64, sent: u64) -> Link {
        let mut link = made::link(id, Role::Sender, "p", vec![made::path(0, "a->b")]);
        link.counters[LinkCounter::Messages] = messages;
        link.gauges[LinkGauge::Window] = window;
        link.paths[0].counters[PathCounter::SentBytes] = sent;
        let delay = &mut link.paths[0].histograms[PathHistogram::Delay];
        (delay.sum, delay.buckets) = (sent, vec![sent, 1]);
        link
    }

    fn snapshot(wall_ns: u64, started_wall_ns: u64, links: Vec<Link>) -> Snapshot {
        made::snapshot(wall_ns, vec![made::watched(7, "x", started_wall_ns, links)])
    }

    #[test]
    fn a_window_has_what_was_counted_in_between() {
        let earlier = snapshot(1_000, 1, vec![link(2, 10, 100, 5)]);
        let later = snapshot(3_000, 1, vec![link(2, 14, 50, 8), link(4, 3, 1, 1)]);
        let window = later.since(&earlier);
        let links = &window.processes[0].process.links;
        assert_eq!(links[0].counters[LinkCounter::Messages], 4);
        assert_eq!(links[0].gauges[LinkGauge::Window], 50);
        assert_eq!(links[0].paths[0].counters[PathCounter::SentBytes], 3);
        let delay = &links[0].paths[0].histograms[PathHistogram::Delay];
        assert_eq!((delay.sum, &delay.buckets[..]), (3, &[3, 0][..]));
        assert_eq!(links[1], link(4, 3, 1, 1), "it has begun meanwhile");
        assert_eq!(window.length_ns(), 2_000);
        assert_eq!(window.per_second(4), 2_000_000);
    }

    #[test]
    fn what_began_anew_counts_from_zero() {
        let earlier = snapshot(1, 1, vec![link(2, 10, 100, 5)]);
        let another_process = snapshot(2, 2, vec![link(2, 3, 100, 5)]);
        let window = another_process.since(&earlier);
        assert_eq!(window.processes[0].process.links[0], link(2, 3, 100, 5));
        let lower = snapshot(2, 1, vec![link(2, 3, 100, 5)]);
        let window = lower.since(&earlier);
        let counters = &window.processes[0].process.links[0].counters;
        assert_eq!(counters[LinkCounter::Messages], 3);
        assert_eq!(earlier.since(&later_clock(&earlier)).length_ns(), 1);
    }

    /// A port of mlx5 with a counter of 32 bits, which wraps, and one of 64.
    fn host(at_ns: u64, naks: Option<u64>, sent: u64) -> HostNow {
        let mut port = PortNow {
            name: "mlx5_0:1".into(),
            driver: Some("mlx5_core".into()),
            priorities: vec![Values::default(); 8],
            ..PortNow::default()
        };
        port.counters[PortCounter::SequenceNaks] = naks;
        port.counters[PortCounter::SentBytes] = Some(sent);
        port.gauges[PortGauge::LinkUp] = Some(1);
        port.priorities[3][PriorityCounter::PausesReceived] = Some(sent);
        port.ages_ns[Source::Rdma] = naks.map(|_| 5);
        port.ages_ns[Source::Interface] = Some(at_ns / 10);
        let mut reading = HostReading {
            age_ns: Some(20),
            ..HostReading::default()
        };
        reading.counters[HostCounter::CpuSoftirq] = Some(sent);
        HostNow {
            at: Timestamp::from_nanos(at_ns),
            ports: vec![port],
            host: reading,
            lines: Vec::new(),
        }
    }

    #[test]
    fn a_window_has_what_the_host_and_its_ports_did() {
        let of = |wall_ns, host| Snapshot {
            wall_ns,
            host,
            ..Snapshot::default()
        };
        let full = u64::from(u32::MAX);
        let earlier = of(1, Some(host(1000, Some(full), 70)));
        let window = of(2, Some(host(3000, Some(4), 100))).since(&earlier);
        let port = window.port("mlx5_0:1").unwrap();
        assert_eq!(port.counters[PortCounter::SequenceNaks], Some(5));
        assert_eq!(port.counters[PortCounter::SentBytes], Some(30));
        assert_eq!(port.counters[PortCounter::AckTimeouts], None);
        assert_eq!(port.gauges[PortGauge::LinkUp], Some(1));
        let pauses = |priority: usize| port.priorities[priority][PriorityCounter::PausesReceived];
        assert_eq!((pauses(3), pauses(2)), (Some(30), None));
        assert_eq!(port.between_ns[Source::Rdma], Some(2000));
        assert_eq!(port.between_ns[Source::Interface], Some(2000 + 100 - 300));
        assert_eq!(port.between_ns[Source::Pcie], None);
        let host_window = window.host.as_ref().unwrap();
        assert_eq!(host_window.counters[HostCounter::CpuSoftirq], Some(30));
        assert_eq!(host_window.between_ns, Some(2000));
        // A reset, a port that has come, a host that was started anew, and one that was not watched.
        for earlier in [
            of(1, Some(host(1000, Some(5), 101))),
            of(1, Some(HostNow::default())),
            of(1, Some(host(9000, Some(1), 1))),
            of(1, None),
        ] {
            let window = of(2, Some(host(3000, Some(4), 100))).since(&earlier);
            let port = window.port("mlx5_0:1").unwrap();
            assert_eq!(port.counters, Values::default());
            assert_eq!(port.gauges[PortGauge::LinkUp], Some(1));
        }
        let window = of(2, None).since(&earlier);
        assert!(window.ports.is_empty() && window.host.is_none());
    }

    fn later_clock(snapshot: &Snapshot) -> Snapshot {
        Snapshot {
            wall_ns: snapshot.wall_ns + 10,
            ..snapshot.clone()
        }
    }
}
