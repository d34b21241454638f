//! What a screen shows of a window: a row for each link, one for each path of a link, and one for each port.

use crate::cli::paths::bytes;
use crate::telemetry::Role;
use crate::telemetry::histogram::Counts;
use crate::telemetry::reader::{Connection, Link, Messages, PathNow, Process, Total};
use crate::telemetry::schema::{
    LINK_TIMES, LinkCounter, LinkGauge, MessageCounter, MessageHistogram, Metric, PATH_STATES,
    PathCounter, PathGauge, PathHistogram, PortCounter, PortGauge, Table, Unit,
};
use crate::telemetry::snapshot::{PortWindow, Watched, Window};
use crate::telemetry::sources::Source;
use crate::telemetry::values::Values;

/// A link of a process: the same as long as it is the same link.
pub(super) type LinkKey = (u64, u64, u64);

/// A link in a window.
#[derive(Debug, Clone)]
pub(super) struct LinkRow {
    pub(super) key: LinkKey,
    pub(super) pid: u64,
    pub(super) program: String,
    /// Its process runs.
    pub(super) is_alive: bool,
    pub(super) role: Role,
    pub(super) peer: String,
    pub(super) paths_used: u64,
    pub(super) traffic: Traffic,
    pub(super) window: u64,
    pub(super) messages: u64,
    /// What held it up most, and for so many per cent of the time; none where nothing did.
    pub(super) held_up: Option<(&'static str, u64)>,
    pub(super) paths: Vec<PathRow>,
    pub(super) connections: Vec<MessagesRow>,
}

/// A path in a window.
#[derive(Debug, Clone)]
pub(super) struct PathRow {
    pub(super) number: u32,
    pub(super) state: &'static str,
    pub(super) ends: String,
    pub(super) traffic: Traffic,
    pub(super) round_trip_ns: u64,
}

/// A port.
#[derive(Debug, Clone)]
pub(super) struct PortRow {
    /// What it did last: of a source that has not been read since the look before, what was told then.
    pub(super) now: PortWindow,
    /// What it has done while it was looked at.
    pub(super) all: PortWindow,
}

/// A line of what there is to say of a port.
#[derive(Debug)]
pub(super) struct PortLine {
    pub(super) name: String,
    /// In the last reading; empty where there is one figure only.
    pub(super) now: String,
    pub(super) all: String,
    /// It begins a group.
    pub(super) is_head: bool,
}

/// The messages of a connection, a device or a class in a window.
#[derive(Debug, Clone)]
pub(super) struct MessagesRow {
    /// Whose they are: a number on the link, or a name.
    pub(super) of: String,
    /// The device or class stands for all of this process that goes this way.
    pub(super) role: Role,
    pub(super) pid: u64,
    pub(super) program: String,
    pub(super) bytes_per_second: u64,
    pub(super) per_second: u64,
    /// Of a message, on average; none where none ended.
    pub(super) size: Option<u64>,
    /// Of what messages took.
    pub(super) p50_ns: Option<u64>,
    pub(super) p99_ns: Option<u64>,
    pub(super) failures: u64,
}

impl MessagesRow {
    /// Those of devices and classes, in the order of the snapshot.
    pub(super) fn totals(window: &Window) -> Vec<Self> {
        let of_process = |watched: &Watched| {
            let process = &watched.process;
            let named = |what, totals: &[Total]| -> Vec<_> {
                let row = |total: &Total| {
                    let of = format!("{what} {}", total.name);
                    Self::new(window, process, of, total.role, &total.messages)
                };
                totals.iter().map(row).collect()
            };
            let mut rows = named("device", &process.devices);
            rows.extend(named("class", &process.classes));
            rows
        };
        window.processes.iter().flat_map(of_process).collect()
    }

    fn new(window: &Window, process: &Process, of: String, role: Role, of_it: &Messages) -> Self {
        let counter = |counter| of_it.counters[counter];
        let messages = counter(MessageCounter::Messages);
        let time = &of_it.histograms[MessageHistogram::Time];
        Self {
            of,
            role,
            pid: process.pid,
            program: process.program.clone(),
            bytes_per_second: window.per_second(counter(MessageCounter::Bytes)),
            per_second: window.per_second(messages),
            size: counter(MessageCounter::Bytes).checked_div(messages),
            p50_ns: time.quantile(500),
            p99_ns: time.quantile(990),
            failures: counter(MessageCounter::Failures),
        }
    }
}

/// What was carried in a window.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic {
    pub(super) bytes_per_second: u64,
    /// Of chunks' delays.
    pub(super) p50_ns: Option<u64>,
    pub(super) p99_ns: Option<u64>,
    pub(super) in_flight: u64,
    /// Fences and replayed frames.
    pub(super) fences: u64,
    pub(super) replays: u64,
    /// Segments that were marked, and sent again.
    pub(super) marked: u64,
    pub(super) retransmits: u64,
}

impl LinkRow {
    /// The links of a window, in the order of the snapshot.
    pub(super) fn of(window: &Window) -> Vec<Self> {
        let of_process = |watched: &Watched| {
            let links = watched.process.links.iter();
            let rows = links.map(|link| Self::new(window, watched, link));
            rows.collect::<Vec<_>>()
        };
        window.processes.iter().flat_map(of_process).collect()
    }

    fn new(window: &Window, watched: &Watched, link: &Link) -> Self {
        let process = &watched.process;
        let connection = |of: &Connection| {
            let name = of.number.to_string();
            MessagesRow::new(window, process, name, link.role, &of.messages)
        };
        let paths: Vec<_> = link.paths.iter().map(|p| PathRow::new(window, p)).collect();
        let delays = Counts::sum_of(
            link.paths
                .iter()
                .map(|path| &path.histograms[PathHistogram::Delay]),
        );
        let sum = |of: fn(&Traffic) -> u64| {
            let values = paths.iter().map(|path| of(&path.traffic));
            values.fold(0, u64::saturating_add)
        };
        let times = LINK_TIMES
            .iter()
            .map(|(counter, _)| link.counters[*counter]);
        let all = times.fold(0, u64::saturating_add);
        let waits = (LINK_TIMES.iter()).filter(|(counter, _)| *counter != LinkCounter::IdleTime);
        let longest = waits.max_by_key(|(counter, _)| link.counters[*counter]);
        let held_up = longest.map(|&(counter, name)| {
            let share = u128::from(link.counters[counter]) * 100 / u128::from(all.max(1));
            (name, u64::try_from(share).unwrap_or(100))
        });
        Self {
            key: (process.pid, process.started_wall_ns, link.id),
            pid: process.pid,
            program: process.program.clone(),
            is_alive: process.is_alive,
            role: link.role,
            peer: link.peer.clone(),
            paths_used: link.gauges[LinkGauge::ActivePaths],
            traffic: Traffic {
                bytes_per_second: sum(|t| t.bytes_per_second),
                p50_ns: delays.quantile(500),
                p99_ns: delays.quantile(990),
                in_flight: link.gauges[LinkGauge::InFlight],
                fences: sum(|t| t.fences),
                replays: sum(|t| t.replays),
                marked: sum(|t| t.marked),
                retransmits: sum(|t| t.retransmits),
            },
            window: link.gauges[LinkGauge::Window],
            messages: window.per_second(link.counters[LinkCounter::Messages]),
            held_up: held_up.filter(|(_, share)| *share > 0),
            paths,
            connections: link.connections.iter().map(connection).collect(),
        }
    }
}

impl PathRow {
    fn new(window: &Window, path: &PathNow) -> Self {
        let sent = path.counters[PathCounter::SentBytes];
        let carried = sent.saturating_add(path.counters[PathCounter::ReceivedBytes]);
        let delay = &path.histograms[PathHistogram::Delay];
        let state = usize::try_from(path.gauges[PathGauge::State]).unwrap_or(usize::MAX);
        Self {
            number: path.number,
            state: PATH_STATES.get(state).copied().unwrap_or("?"),
            ends: path.ends.clone(),
            traffic: Traffic {
                bytes_per_second: window.per_second(carried),
                p50_ns: delay.quantile(500),
                p99_ns: delay.quantile(990),
                in_flight: path.gauges[PathGauge::Outstanding],
                fences: path.counters[PathCounter::Fences],
                replays: path.counters[PathCounter::Replays],
                marked: path.counters[PathCounter::Marks],
                retransmits: path.counters[PathCounter::Retransmits],
            },
            round_trip_ns: path.gauges[PathGauge::RoundTrip],
        }
    }
}

impl PortRow {
    /// After what was seen of it before.
    pub(super) fn new(port: &PortWindow, before: Option<&Self>) -> Self {
        let (mut now, mut all) = (port.clone(), port.clone());
        let Some(before) = before else {
            return Self { now, all };
        };
        all.begin_with(&before.all);
        let is_old = |source| port.between_ns[source] == Some(0);
        for counter in PortCounter::ALL.iter().copied() {
            if is_old(counter.source()) {
                now.counters[counter] = before.now.counters[counter];
            }
        }
        if is_old(Source::Ethernet) {
            now.priorities.clone_from(&before.now.priorities);
        }
        for source in Source::ALL.into_iter().filter(|source| is_old(*source)) {
            now.between_ns[source] = before.now.between_ns[source];
        }
        Self { now, all }
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        let port = &self.now;
        let of = |name: &Option<String>| name.as_ref().is_some_and(|name| name.contains(text));
        port.name.contains(text) || of(&port.interface) || of(&port.driver)
    }

    /// All that it counts and has seen, and all that it is like, by where that comes from.
    pub(super) fn lines(&self) -> Vec<PortLine> {
        let mut lines = Vec::new();
        for source in Source::ALL {
            let Some(age_ns) = self.now.ages_ns[source] else {
                continue;
            };
            lines.push(PortLine::head(format!("{source}, {} old", age(age_ns))));
            let of_source = |counter: PortCounter| counter.source() == source;
            counted(
                &mut lines,
                "",
                &self.now.counters,
                &self.all.counters,
                of_source,
            );
            for (gauge, value) in self.now.gauges.iter() {
                if let (Some(value), true) = (*value, gauge.source() == source) {
                    lines.push(PortLine::gauge(
                        "",
                        gauge.metric(),
                        port_gauge(gauge, value),
                    ));
                }
            }
            if source == Source::Ethernet {
                let priorities = self.now.priorities.iter().zip(&self.all.priorities);
                for (number, (now, all)) in priorities.enumerate() {
                    counted(&mut lines, &format!("priority {number} "), now, all, |_| {
                        true
                    });
                }
            }
            if source == Source::Module {
                for (number, lane) in self.now.lanes.iter().enumerate() {
                    for (gauge, value) in lane.iter() {
                        if let Some(value) = *value {
                            let (lane, metric) = (format!("lane {number} "), gauge.metric());
                            let told = told(value, metric.unit);
                            lines.push(PortLine::gauge(&lane, metric, told));
                        }
                    }
                }
            }
        }
        lines
    }
}

impl PortLine {
    fn head(name: String) -> Self {
        Self {
            name,
            now: "now".into(),
            all: "in all".into(),
            is_head: true,
        }
    }

    fn gauge(of: &str, metric: Metric, told: String) -> Self {
        Self {
            name: format!("{of}{}", words(metric)),
            now: String::new(),
            all: told,
            is_head: false,
        }
    }
}

/// Those of the counters that have grown.
fn counted<T: Table>(
    lines: &mut Vec<PortLine>,
    of: &str,
    now: &Values<T, Option<u64>>,
    all: &Values<T, Option<u64>>,
    is_of: impl Fn(T) -> bool,
) {
    for (counter, sum) in all.iter().filter(|(counter, _)| is_of(*counter)) {
        let metric = counter.metric();
        let text =
            |count: Option<u64>| count.map_or("–".into(), |count| told(count, metric.unit));
        if sum.is_some_and(|sum| sum > 0) {
            lines.push(PortLine {
                name: format!("{of}{}", words(metric)),
                now: text(now[counter]),
                all: text(*sum),
                is_head: false,
            });
        }
    }
}

fn words(metric: Metric) -> String {
    metric.name.replace('_', " ")
}

fn port_gauge(gauge: PortGauge, value: u64) -> String {
    let named = match (gauge, value) {
        // Nobody knows an MTU in KiB.
        (PortGauge::Mtu, bytes) => return format!("{bytes} B"),
        (PortGauge::LinkUp, 0) => "no",
        (PortGauge::LinkUp, 1) => "yes",
        // As its help has them.
        (PortGauge::RdmaState, 1) => "down",
        (PortGauge::RdmaState, 2) => "initializing",
        (PortGauge::RdmaState, 3) => "armed",
        (PortGauge::RdmaState, 4) => "active",
        (PortGauge::RdmaState, 5) => "active deferred",
        _ => return told(value, gauge.metric().unit),
    };
    named.to_owned()
}

/// A figure with its unit.
fn told(value: u64, unit: Unit) -> String {
    let scaled = |one: u64, decimals: usize, unit: &str| {
        let whole = value / one;
        // As many digits as are wanted, none of them rounded up into the next unit.
        let part = format!(
            "{:09}",
            u128::from(value % one) * 1_000_000_000 / u128::from(one)
        );
        let point = if decimals == 0 { "" } else { "." };
        format!("{whole}{point}{} {unit}", &part[..decimals])
    };
    match unit {
        Unit::Number => value.to_string(),
        Unit::Bytes => bytes(value),
        Unit::BytesPerSecond => scaled(125_000_000, 3, "Gb/s"),
        Unit::Nanoseconds if value >= 1_000_000_000 => scaled(1_000_000_000, 3, "s"),
        Unit::Nanoseconds => scaled(1_000_000, 3, "ms"),
        Unit::PartsPerMillion => scaled(10_000, 2, "%"),
        Unit::Millicelsius => scaled(1000, 1, "°C"),
        Unit::Microvolts => scaled(1_000_000, 3, "V"),
        Unit::Microamperes => scaled(1000, 2, "mA"),
        Unit::Nanowatts => scaled(1_000_000, 4, "mW"),
        Unit::TransfersPerSecond => scaled(1_000_000_000, 1, "GT/s"),
    }
}

/// How long ago, in five characters.
pub(super) fn age(nanos: u64) -> String {
    let (millis, seconds) = (nanos / 1_000_000, nanos / 1_000_000_000);
    match seconds {
        0 => format!("{millis}ms"),
        1..10 => format!("{seconds}.{}s", millis / 100 % 10),
        10..600 => format!("{seconds}s"),
        600..36_000 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

/// A count in four characters.
pub(super) fn short(count: Option<u64>) -> String {
    let Some(count) = count else {
        return "–".into();
    };
    let mut scaled = count;
    let mut unit = 0;
    let units = ["", "k", "M", "G", "T", "P", "E"];
    while scaled >= if unit == 0 { 10_000 } else { 1000 } {
        scaled /= 1000;
        unit += 1;
    }
    format!("{scaled}{}", units[unit])
}
