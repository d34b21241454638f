//! All processes of a host at one time, with what the host and its ports say, and what happened between two
//! times: what screens, reports and verdicts are made of, live or from a recording.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;

use serde::{Deserialize, Serialize};

use super::reader::{Connection, Events, Happened, Link, PathNow, Process, Reader, Total, Watcher};
use super::schema::{HostCounter, HostGauge, LaneGauge, PortCounter, PortGauge, PriorityCounter};
use super::sources::switches::SwitchValue;
use super::sources::{self, HostNow, PortNow, Source, SourceTimes};
use super::values::Values;
use crate::clock::{Timestamp, wall_ns};
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
    /// And by the host's own, which nobody sets: how far snapshots are apart is told by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
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
/// what was at its end, or when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Its begin, in ns of the wall clock.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
    /// The processes that were there at its end. [`Self::over`] several snapshots they have the links too that
    /// had closed by then.
    pub processes: Vec<Watched>,
    /// The ports that were there at its end; [`Self::over`] several snapshots also those that had gone by then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortWindow>,
    /// The host itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostWindow>,
    /// Of windows [`Self::over`] snapshots: when its links were there.
    #[serde(skip)]
    pub lives: BTreeMap<LinkKey, Life>,
}

/// What tells a link from all others: its process's number, when that began, and its own number.
pub type LinkKey = (u64, u64, u64);

/// When a link was there in a window, as far as snapshots tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// The snapshot before the first with it, or the first of all, in ns of the wall clock.
    pub from_ns: u64,
    /// The last snapshot with it.
    pub to_ns: u64,
    /// When each of its paths came: with the link, or at the first snapshot that has it.
    pub paths: BTreeMap<u32, u64>,
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
    /// known, as after a reset. [`Window::over`] several snapshots it is the sum of what is known: a reset hides
    /// no more than what was counted between two of them.
    pub counters: Values<PortCounter, Option<u64>>,
    /// What it was like at the end.
    pub gauges: Values<PortGauge, Option<u64>>,
    /// By how much the counters of each priority have grown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<Values<PriorityCounter, Option<u64>>>,
    /// What each lane was like at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<Values<LaneGauge, Option<u64>>>,
    /// [`Window::over`] snapshots: the most alarms of its transceiver in a reading, from the second on, for a
    /// transceiver keeps alarms until they are read, and but for those of a time in which the port was down.
    #[serde(skip)]
    pub alarms: Option<u64>,
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
        let watched = |reader: &mut Reader| {
            let Events { events, missed } = reader.events();
            Watched {
                process: reader.read(),
                events,
                events_missed: missed,
            }
        };
        let snapshot = Snapshot {
            wall_ns: wall_ns(),
            at: Some(Timestamp::now()),
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
            let mut watched = now.clone();
            let Some(then) = before else { return watched };
            let (process, then) = (&mut watched.process, &then.process);
            totals_since(&mut process.devices, &then.devices);
            totals_since(&mut process.classes, &then.classes);
            let links = &then.links;
            for link in &mut process.links {
                if let Some(before) = links.iter().find(|before| before.id == link.id) {
                    *link = link_since(link, before);
                }
            }
            watched
        };
        let (ports, host) = self.host_since(earlier.host.as_ref());
        Window {
            from_ns: self.wall_ns.saturating_sub(self.after_ns(earlier)),
            to_ns: self.wall_ns,
            processes: self.processes.iter().map(since).collect(),
            ports,
            host,
            lives: BTreeMap::new(),
        }
    }

    /// How long after an earlier one it was made: 0 if it was not.
    fn after_ns(&self, earlier: &Self) -> u64 {
        let (now, then) = (self.at, earlier.at);
        let by_clock = now.zip(then).filter(|(now, then)| now >= then);
        by_clock.map_or_else(
            || self.wall_ns.saturating_sub(earlier.wall_ns),
            |(now, then)| now.since(then).0,
        )
    }

    fn host_since(&self, earlier: Option<&HostNow>) -> (Vec<PortWindow>, Option<HostWindow>) {
        let Some(now) = &self.host else {
            return (Vec::new(), None);
        };
        // Another clock: the host was started anew in between.
        let before = earlier.filter(|before| before.at <= now.at);
        let apart = before.map(|before| now.at.since(before.at));
        let port = |now: &PortNow| {
            let then = before.and_then(|before| before.port(&now.name));
            port_since(now, then.zip(apart))
        };
        let ports = now.ports.iter().map(port).collect();
        (ports, Some(host_since(now, before)))
    }
}

impl Window {
    /// From the first of these snapshots to the last, with what has happened in between, and with the links and
    /// ports that were there for a part of that time; none of fewer than two.
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
            let closed = closed_links(watched, first, between);
            watched.process.links.extend(closed);
        }
        (window.ports, window.host) = host_over(snapshots);
        window.lives = lives(snapshots);
        Some(window)
    }

    /// When a link was there; as long as the window where that is not known.
    #[must_use]
    pub fn life(&self, watched: &Watched, link: &Link) -> Life {
        let life = self.lives.get(&link_key(watched, link));
        life.cloned().unwrap_or_else(|| Life {
            from_ns: self.from_ns,
            to_ns: self.to_ns,
            paths: BTreeMap::new(),
        })
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
        per_second(count, self.length_ns())
    }
}

/// So many in so long are how many a second?
#[must_use]
pub fn per_second(count: u64, length_ns: u64) -> u64 {
    let per_second = u128::from(count) * 1_000_000_000 / u128::from(length_ns.max(1));
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

fn link_since(now: &Link, before: &Link) -> Link {
    let path_since = |path: &PathNow| {
        let mut paths = before.paths.iter();
        let before = paths.find(|before| before.number == path.number);
        before.map_or_else(
            || path.clone(),
            |before| PathNow {
                counters: path.counters.since(&before.counters),
                histograms: Values::new(|metric| {
                    path.histograms[metric].since(&before.histograms[metric])
                }),
                ..path.clone()
            },
        )
    };
    let connection_since = |connection: &Connection| {
        let mut connections = before.connections.iter();
        let before = connections.find(|before| before.number == connection.number);
        let mut connection = connection.clone();
        if let Some(before) = before {
            connection.messages = connection.messages.since(&before.messages);
        }
        connection
    };
    Link {
        counters: now.counters.since(&before.counters),
        paths: now.paths.iter().map(path_since).collect(),
        connections: now.connections.iter().map(connection_since).collect(),
        ..now.clone()
    }
}

impl Life {
    /// How long the link was there, in ns; never 0.
    #[must_use]
    pub fn length_ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns).max(1)
    }
}

fn link_key(watched: &Watched, link: &Link) -> LinkKey {
    let process = &watched.process;
    (process.pid, process.started_wall_ns, link.id)
}

fn lives(snapshots: &[Snapshot]) -> BTreeMap<LinkKey, Life> {
    let mut lives = BTreeMap::<_, Life>::new();
    let mut before_ns = None;
    for snapshot in snapshots {
        // By the wall clock as it was set at the end.
        let now = snapshots.last().map_or(0, |last| {
            last.wall_ns.saturating_sub(last.after_ns(snapshot))
        });
        let links = snapshot.processes.iter().flat_map(|watched| {
            let links = watched.process.links.iter();
            links.map(move |link| (link_key(watched, link), link))
        });
        for (key, link) in links {
            let (life, seen_ns) = match lives.entry(key) {
                Entry::Vacant(new) => {
                    let from_ns = before_ns.unwrap_or(now);
                    let life = Life {
                        from_ns,
                        ..Life::default()
                    };
                    (new.insert(life), from_ns)
                }
                Entry::Occupied(known) => (known.into_mut(), now),
            };
            life.to_ns = now;
            for path in &link.paths {
                life.paths.entry(path.number).or_insert(seen_ns);
            }
        }
        before_ns = Some(now);
    }
    lives
}

fn totals_since(now: &mut [Total], before: &[Total]) {
    for total in now {
        let is_its = |before: &&Total| (&before.name, before.role) == (&total.name, total.role);
        if let Some(before) = before.iter().find(is_its) {
            total.messages = total.messages.since(&before.messages);
        }
    }
}

/// The links of a process that were there after the first snapshot and are not any more, as they were last seen.
fn closed_links(now: &Watched, first: &Snapshot, between: &[Snapshot]) -> Vec<Link> {
    let links = |snapshot| {
        let snapshot: &Snapshot = snapshot;
        let mut processes = snapshot.processes.iter();
        let process = processes.find(|then| then.is_same_as(now));
        process.map_or(&[][..], |then| &then.process.links)
    };
    let is_open = |id| now.process.links.iter().any(|link| link.id == id);
    let mut closed = BTreeMap::new();
    for link in between.iter().flat_map(links) {
        if !is_open(link.id) {
            closed.insert(link.id, link);
        }
    }
    let since = |link: &Link| {
        let before = links(first).iter().find(|before| before.id == link.id);
        before.map_or_else(|| link.clone(), |before| link_since(link, before))
    };
    closed.into_values().map(since).collect()
}

/// What the host and its ports did between each two readings, added up: what was reset or had gone in between is
/// not known of that time, and of the rest it is.
fn host_over(snapshots: &[Snapshot]) -> (Vec<PortWindow>, Option<HostWindow>) {
    let (mut ports, mut host) = (Vec::<PortWindow>::new(), None::<HostWindow>);
    let (mut read, mut earlier) = (None, None);
    let mut alarms = BTreeMap::<&str, Alarms>::new();
    for now in snapshots {
        if let Some(host) = &now.host {
            for port in &host.ports {
                alarms.entry(&port.name).or_default().add(host.at, port);
            }
        }
        let passed = earlier.replace(now).map_or(0, |then| now.after_ns(then));
        let (found, found_host) = now.host_since(read);
        let mut gone = std::mem::replace(&mut ports, found);
        for port in &mut ports {
            if let Some(at) = gone.iter().position(|earlier| earlier.name == port.name) {
                port.begin_with(&gone.remove(at));
            }
        }
        for port in &mut gone {
            let ages = port.ages_ns;
            port.ages_ns = SourceTimes::new(|source| Some(ages[source]?.saturating_add(passed)));
        }
        ports.extend(gone);
        if let Some(mut now) = found_host {
            if let Some(earlier) = &host {
                now.counters = Values::new(|of| added(earlier.counters[of], now.counters[of]));
                now.between_ns = added(earlier.between_ns, now.between_ns);
            }
            host = Some(now);
        }
        read = now.host.as_ref().or(read);
    }
    for port in &mut ports {
        port.alarms = alarms.get(&*port.name).and_then(|alarms| alarms.most);
    }
    (ports, host)
}

/// Alarms of a transceiver, as [`PortWindow::alarms`] has them.
#[derive(Default)]
struct Alarms {
    most: Option<u64>,
    read_at: Option<Timestamp>,
    /// At some time since then.
    was_down: bool,
}

impl Alarms {
    fn add(&mut self, now: Timestamp, port: &PortNow) {
        // Of an interface that was taken down nothing is known.
        let is_down = port.interface.is_some() && port.gauges[PortGauge::LinkUp] != Some(1);
        self.was_down |= is_down;
        let read_at = port.age(Source::Module).map(|age| now - age);
        if read_at.is_none() || read_at == self.read_at {
            return;
        }
        // An earlier one is by the clock of another start of the host.
        if self.read_at < read_at && self.read_at.is_some() && !self.was_down {
            self.most = self.most.max(port.gauges[PortGauge::ModuleAlarms]);
        }
        (self.read_at, self.was_down) = (read_at, is_down);
    }
}

/// What is known of two numbers, added up.
fn added(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    let both = one.zip(other);
    both.map_or(one.or(other), |(one, other)| {
        Some(one.saturating_add(other))
    })
}

impl PortWindow {
    /// Adds what it did in a window before this one.
    pub fn begin_with(&mut self, earlier: &Self) {
        let now = std::mem::take(&mut self.counters);
        self.counters = Values::new(|of| added(earlier.counters[of], now[of]));
        let count = self.priorities.len().max(earlier.priorities.len());
        self.priorities.resize_with(count, Values::default);
        for (now, earlier) in self.priorities.iter_mut().zip(&earlier.priorities) {
            *now = Values::new(|of| added(earlier[of], now[of]));
        }
        let between = self.between_ns;
        self.between_ns =
            SourceTimes::new(|source| added(earlier.between_ns[source], between[source]));
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
        alarms: None,
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
    use super::super::sources::HostReading;
    use super::super::{Role, made};
    use super::*;

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
    fn a_wall_clock_that_is_set_changes_no_rate() {
        let at = |seconds| Some(Timestamp::ZERO + Nanos::from_secs(seconds));
        let mut earlier = snapshot(9_000_000_000, 1, Vec::new());
        let mut later = snapshot(4_000_000_000, 1, Vec::new());
        (earlier.at, later.at) = (at(1), at(3));
        let window = later.since(&earlier);
        let expected = (2_000_000_000, 4_000_000_000);
        assert_eq!((window.from_ns, window.to_ns), expected);
        for snapshot in [&mut earlier, &mut later] {
            let watched = made::watched(7, "x", 1, vec![link(2, 1, 1, 1)]);
            snapshot.processes = vec![watched];
        }
        let window = Window::over(&[earlier.clone(), later.clone()]).unwrap();
        let watched = &window.processes[0];
        let life = window.life(watched, &watched.process.links[0]);
        assert_eq!((life.from_ns, life.to_ns), expected);
        // The host was started anew in between.
        (earlier.at, later.at) = (at(3), at(1));
        later.wall_ns = 10_000_000_000;
        assert_eq!(later.since(&earlier).length_ns(), 1_000_000_000);
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

    #[test]
    fn over_many_snapshots_a_reset_hides_only_what_was_counted_around_it() {
        let of = |(second, host): (u64, Option<HostNow>)| Snapshot {
            wall_ns: second * 1_000_000,
            host,
            ..Snapshot::default()
        };
        let told = |second: u64, naks, sent| Some(host(second * 1_000_000, Some(naks), sent));
        let snapshots = [
            of((1, told(1, 10, 100))),
            of((2, told(2, 13, 150))),
            // Its driver has been loaded anew.
            of((3, told(3, 1, 20))),
            of((4, None)),
            of((5, told(5, 6, 220))),
            // And now the port has gone.
            of((
                6,
                Some(HostNow {
                    at: Timestamp::from_nanos(6_000_000),
                    ..HostNow::default()
                }),
            )),
            of((8, None)),
        ];
        let over = |snapshots: &[Snapshot]| Window::over(snapshots).unwrap();
        let port = |window: &Window| window.port("mlx5_0:1").unwrap().clone();
        let counters = |port: &PortWindow| {
            let pauses = port.priorities[3][PriorityCounter::PausesReceived];
            let naks = port.counters[PortCounter::SequenceNaks];
            (naks, port.counters[PortCounter::SentBytes], pauses)
        };
        let sums = (Some(3 + 5), Some(50 + 200), Some(50 + 200));
        for (end, passed) in [(5, 0), (6, 1_000_000), (7, 3_000_000)] {
            let window = over(&snapshots[..end]);
            let port = port(&window);
            assert_eq!(counters(&port), sums);
            assert_eq!(port.counters[PortCounter::AckTimeouts], None);
            assert_eq!(port.gauges[PortGauge::LinkUp], Some(1));
            assert_eq!(port.ages_ns[Source::Rdma], Some(5 + passed));
            assert_eq!(port.between_ns[Source::Rdma], Some(4_000_000));
            let host = window.host.unwrap();
            assert_eq!(host.counters[HostCounter::CpuSoftirq], Some(250));
        }
        let pair = &snapshots[..2];
        assert_eq!(over(pair), pair[1].since(&pair[0]));
        let gone = over(&snapshots[4..6]);
        assert_eq!(port(&gone).counters, Values::default());
    }

    #[test]
    fn alarms_count_from_the_second_reading_on_while_the_port_is_up() {
        let said = |readings: &[(u64, u64, bool)]| {
            let of = |(second, (alarms, read, is_up)): (u64, &(u64, u64, bool))| {
                let at_ns = second * 1_000_000_000;
                let mut host = host(at_ns, None, 0);
                let port = &mut host.ports[0];
                port.gauges[PortGauge::ModuleAlarms] = Some(*alarms);
                port.interface = Some("eth0".into());
                port.gauges[PortGauge::LinkUp] = is_up.then_some(1);
                port.ages_ns[Source::Module] = Some(at_ns - read * 1_000_000_000);
                Snapshot {
                    wall_ns: at_ns,
                    host: Some(host),
                    ..Snapshot::default()
                }
            };
            let snapshots: Vec<_> = (1..).zip(readings).map(of).collect();
            let window = Window::over(&snapshots).unwrap();
            window.port("mlx5_0:1").unwrap().alarms
        };
        // The first one's are old; told again, they are no younger.
        assert_eq!(said(&[(4, 1, true), (4, 1, true)]), None);
        assert_eq!(said(&[(4, 1, true), (4, 1, true), (0, 3, true)]), Some(0));
        // It was there, and has gone.
        assert_eq!(said(&[(0, 1, true), (2, 2, true), (0, 3, true)]), Some(2));
        // Without light there are alarms, up to the reading after it has come back.
        let down = [(0, 1, true), (4, 2, false), (4, 3, true), (0, 4, true)];
        assert_eq!(said(&down), Some(0));
        let between = [(0, 1, true), (0, 1, false), (0, 1, true), (4, 4, true)];
        assert_eq!(said(&between), None);
    }

    #[test]
    fn over_many_snapshots_a_link_that_closed_has_what_it_did() {
        let carried = |id, messages| link(id, messages, 100, messages);
        let snapshots = [
            snapshot(1, 1, vec![carried(2, 10), carried(4, 5), carried(8, 3)]),
            snapshot(2, 1, vec![carried(2, 12), carried(4, 9), carried(6, 7)]),
            snapshot(3, 1, vec![carried(2, 13), carried(6, 8)]),
            snapshot(4, 1, vec![carried(2, 20)]),
        ];
        let window = Window::over(&snapshots).unwrap();
        let links = window.processes[0].process.links.iter();
        let did: Vec<_> = links
            .map(|link| {
                let sent = link.paths[0].counters[PathCounter::SentBytes];
                (link.id, link.counters[LinkCounter::Messages], sent)
            })
            .collect();
        // Of the last, which had gone by the second snapshot, nothing is known.
        assert_eq!(did, [(2, 10, 10), (4, 4, 4), (6, 8, 8)]);
    }

    fn later_clock(snapshot: &Snapshot) -> Snapshot {
        Snapshot {
            wall_ns: snapshot.wall_ns + 10,
            ..snapshot.clone()
        }
    }
}
