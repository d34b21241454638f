//! What a report tells of a recording: each link's totals, and of the busiest their paths over time, from the
//! windows between snapshots. The page and its twin in JSON are both made from this.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::messages::{self, MessagesRun};
use crate::cli::ports::{self, TROUBLES, Trouble, WENT_DOWN};
use crate::cli::recording::Recording;
use crate::telemetry::Role;
use crate::telemetry::event::{Event, Verdict};
use crate::telemetry::histogram::Counts;
use crate::telemetry::reader::{Happened, Link, PathNow};
use crate::telemetry::schema::{
    LinkCounter, PathCounter, PathGauge, PathHistogram, PortCounter, PortGauge,
};
use crate::telemetry::snapshot::{PortWindow, Watched, Window, per_second};
use crate::telemetry::sources::Source;
use crate::telemetry::values::Values;
use crate::telemetry::verdict::{self, Verdicts};

/// Longer recordings have their windows merged until there are so many at most.
const WINDOWS_MAX: usize = 600;

/// What a report tells.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    /// Host that was watched.
    pub(super) host: &'a str,
    /// Of the program that recorded.
    pub(super) version: &'a str,
    /// Between two snapshots.
    pub(super) interval_ms: u64,
    /// First snapshot, in ns of the wall clock.
    pub(super) from_wall_ns: u64,
    /// Last one.
    pub(super) to_wall_ns: u64,
    pub(super) snapshots: usize,
    /// What could not be read of the recording, in a line each.
    pub(super) unreadable: &'a [String],
    /// What limited each link.
    #[serde(flatten)]
    pub(super) verdicts: Verdicts,
    pub(super) processes: Vec<Process<'a>>,
    /// Where series have their points.
    pub(super) windows: Vec<Span>,
    /// The busiest first.
    pub(super) links: Vec<LinkRun>,
    /// Of devices, classes and connections; none in recordings of releases that did not count them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) messages: Vec<MessagesRun>,
    /// The busiest first; none where the host was not recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<PortRun>,
    /// Without samples of chunks and windows.
    pub(super) events: Vec<Line<'a>>,
    /// Events that were gone before they could be recorded.
    pub(super) events_missed: u64,
}

/// A time, in ns of the wall clock.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Span {
    pub(super) from_wall_ns: u64,
    pub(super) to_wall_ns: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Process<'a> {
    pub(super) pid: u64,
    pub(super) program: &'a str,
    pub(super) started_wall_ns: u64,
    /// First and last snapshot with it.
    #[serde(flatten)]
    pub(super) seen: Span,
    /// What became of it.
    pub(super) state: State,
    pub(super) links: usize,
}

/// What a process was at the end of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Runs,
    /// It ended without closing.
    Ended,
    /// It closed, and is not there any more.
    Closed,
}

/// A link over the whole recording.
#[derive(Debug, Serialize)]
pub(super) struct LinkRun {
    pub(super) pid: u64,
    pub(super) program: String,
    pub(super) link: u64,
    pub(super) peer: String,
    pub(super) role: Role,
    /// How long it was there.
    pub(super) present_ns: u64,
    /// Payload that its paths carried.
    pub(super) carried_bytes: u64,
    pub(super) mean_bytes_per_s: u64,
    pub(super) delay_p50_ns: Option<u64>,
    pub(super) delay_p99_ns: Option<u64>,
    pub(super) fences: u64,
    pub(super) replays: u64,
    #[serde(flatten)]
    pub(super) counters: Values<LinkCounter>,
    /// Its paths have series: it is one of the busiest.
    pub(super) is_in_full: bool,
    /// What its paths carried in each window; nothing where it was not there.
    pub(super) bytes: Vec<Option<u64>>,
    pub(super) paths: Vec<PathRun>,
    #[serde(skip)]
    process: Key,
}

/// A path over the whole recording.
#[derive(Debug, Serialize)]
pub(super) struct PathRun {
    pub(super) path: u32,
    /// Where it led last.
    pub(super) ends: String,
    /// What it was last: see `PATH_STATES`.
    pub(super) state: u64,
    pub(super) carried_bytes: u64,
    pub(super) delay_p50_ns: Option<u64>,
    pub(super) delay_p99_ns: Option<u64>,
    pub(super) fences: u64,
    pub(super) replays: u64,
    /// What it carried in each window; nothing where it was not there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) bytes: Vec<Option<u64>>,
    #[serde(rename = "window_delay_p50_ns", skip_serializing_if = "Vec::is_empty")]
    pub(super) p50_ns: Vec<Option<u64>>,
    #[serde(rename = "window_delay_p99_ns", skip_serializing_if = "Vec::is_empty")]
    pub(super) p99_ns: Vec<Option<u64>>,
}

/// A port over the whole recording.
#[derive(Debug, Serialize)]
pub(super) struct PortRun {
    pub(super) port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) driver: Option<String>,
    /// What is known of its counters.
    pub(super) counters: Values<PortCounter, Option<u64>>,
    /// What it was like last.
    pub(super) gauges: Values<PortGauge, Option<u64>>,
    /// Whether it was up then, and how fast.
    pub(super) link: String,
    /// By its RDMA device or its interface, whichever is more; the rates likewise.
    pub(super) sent_bytes: Option<u64>,
    pub(super) received_bytes: Option<u64>,
    /// In each window; nothing where it was not there, or told nothing.
    #[serde(rename = "window_sent_bytes_per_s")]
    pub(super) sent: Vec<Option<u64>>,
    #[serde(rename = "window_received_bytes_per_s")]
    pub(super) received: Vec<Option<u64>>,
    /// What went wrong on it, and how often in each window: only what did.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) troubles: BTreeMap<&'static str, Vec<Option<u64>>>,
}

/// An event with its process.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    pub(super) pid: u64,
    pub(super) program: &'a str,
    pub(super) verdict: Verdict,
    #[serde(flatten)]
    pub(super) event: &'a Happened,
    pub(super) text: String,
    #[serde(skip)]
    process: Key,
}

/// What tells a process from all others: its number, and when it began.
pub(super) type Key = (u64, u64);

impl<'a> Report<'a> {
    /// Of a recording, with the paths of so many links at most.
    pub(super) fn new(recording: &'a Recording, in_full: usize) -> Self {
        let snapshots = &recording.snapshots;
        let mut windows = Windows::new(snapshots.len().saturating_sub(1));
        let mut messages = messages::Gathered::default();
        for pair in snapshots.windows(2) {
            let window = pair[1].since(&pair[0]);
            messages.add(&window);
            windows.add(&window);
        }
        let (spans, mut links, ports) = windows.finish();
        links.sort_by_key(|link| std::cmp::Reverse(link.carried_bytes));
        for (place, link) in links.iter_mut().enumerate() {
            link.is_in_full = place < in_full && link.carried_bytes > 0;
            if !link.is_in_full {
                link.paths.iter_mut().for_each(PathRun::forget_series);
            }
        }
        let wall = |snapshot: Option<&crate::telemetry::snapshot::Snapshot>| {
            snapshot.map_or(0, |snapshot| snapshot.wall_ns)
        };
        Self {
            host: &recording.about.host,
            version: &recording.about.version,
            interval_ms: recording.about.interval_ms,
            from_wall_ns: wall(snapshots.first()),
            to_wall_ns: wall(snapshots.last()),
            snapshots: snapshots.len(),
            unreadable: &recording.lines,
            verdicts: verdict::explain_all(snapshots),
            processes: processes(recording),
            windows: spans,
            links,
            messages: messages.finish(),
            ports,
            events: events(recording),
            events_missed: all(recording).fold(0, |sum, (_, watched)| {
                sum.saturating_add(watched.events_missed)
            }),
        }
    }
}

/// All processes of all snapshots, each with its time.
fn all(recording: &Recording) -> impl Iterator<Item = (u64, &Watched)> {
    let snapshots = recording.snapshots.iter();
    snapshots.flat_map(|snapshot| snapshot.processes.iter().map(|p| (snapshot.wall_ns, p)))
}

pub(super) fn key(watched: &Watched) -> Key {
    (watched.process.pid, watched.process.started_wall_ns)
}

/// In the order of their begin.
fn processes(recording: &Recording) -> Vec<Process<'_>> {
    let end = recording.snapshots.last().map_or(0, |last| last.wall_ns);
    let mut found: BTreeMap<(u64, u64), Process> = BTreeMap::new();
    for (wall_ns, watched) in all(recording) {
        let process = &watched.process;
        let entry = found.entry((process.started_wall_ns, process.pid));
        let entry = entry.or_insert_with(|| Process {
            pid: process.pid,
            program: &process.program,
            started_wall_ns: process.started_wall_ns,
            seen: Span {
                from_wall_ns: wall_ns,
                to_wall_ns: wall_ns,
            },
            state: State::Closed,
            links: 0,
        });
        entry.seen.to_wall_ns = wall_ns;
        entry.links = entry.links.max(process.links.len());
        entry.state = match process.is_alive {
            _ if wall_ns < end => State::Closed,
            true => State::Runs,
            false => State::Ended,
        };
    }
    found.into_values().collect()
}

fn events(recording: &Recording) -> Vec<Line<'_>> {
    let lines = all(recording).flat_map(|(_, watched)| {
        watched.events.iter().map(|event| Line {
            pid: watched.process.pid,
            program: &watched.process.program,
            verdict: event.event.verdict(),
            text: event.event.to_string(),
            event,
            process: key(watched),
        })
    });
    let is_sample =
        |line: &Line| matches!(line.event.event, Event::Chunk { .. } | Event::Window { .. });
    let mut lines: Vec<_> = lines.filter(|line| !is_sample(line)).collect();
    lines.sort_by_key(|line| line.event.wall_ns);
    lines
}

/// Windows as they are merged.
struct Windows {
    /// So many make one.
    stride: usize,
    /// So many are in the one that is open.
    merged: usize,
    open: Option<Span>,
    spans: Vec<Span>,
    links: Vec<Gathered>,
    places: HashMap<(Key, u64), usize>,
    ports: Vec<GatheredPort>,
    port_places: HashMap<String, usize>,
}

/// A link, with what there is of it so far.
struct Gathered {
    run: LinkRun,
    open_bytes: Option<u64>,
    paths: BTreeMap<u32, GatheredPath>,
}

#[derive(Default)]
struct GatheredPort {
    open: Option<PortWindow>,
    all: PortWindow,
    carried: [Vec<Option<u64>>; 2],
    /// In so many windows, the last ones, its bytes were not read anew: the next reading speaks for them too.
    unread: usize,
    troubles: [Vec<Option<u64>>; TROUBLES.len()],
}

struct GatheredPath {
    run: PathRun,
    open_bytes: Option<u64>,
    open_delay: Counts,
    delay: Counts,
}

impl Windows {
    fn new(count: usize) -> Self {
        Self {
            stride: count.div_ceil(WINDOWS_MAX).max(1),
            merged: 0,
            open: None,
            spans: Vec::new(),
            links: Vec::new(),
            places: HashMap::new(),
            ports: Vec::new(),
            port_places: HashMap::new(),
        }
    }

    fn add(&mut self, window: &Window) {
        for watched in &window.processes {
            for link in &watched.process.links {
                let next = self.links.len();
                let place = self.places.entry((key(watched), link.id)).or_insert(next);
                if *place == next {
                    self.links.push(Gathered::new(watched, link));
                }
                self.links[*place].add(link, window.length_ns());
            }
        }
        for port in &window.ports {
            let next = self.ports.len();
            let place = self.port_places.entry(port.name.clone()).or_insert(next);
            if *place == next {
                self.ports.push(GatheredPort::default());
            }
            self.ports[*place].add(port);
        }
        let open = self.open.get_or_insert(Span {
            from_wall_ns: window.from_ns,
            to_wall_ns: window.to_ns,
        });
        open.to_wall_ns = window.to_ns;
        self.merged += 1;
        // One without length would have an endless rate: it goes with the next.
        if self.merged >= self.stride && open.to_wall_ns > open.from_wall_ns {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(span) = self.open.take() {
            for link in &mut self.links {
                link.close(self.spans.len());
            }
            for port in &mut self.ports {
                port.close(self.spans.len());
            }
            self.spans.push(span);
        }
        self.merged = 0;
    }

    fn finish(mut self) -> (Vec<Span>, Vec<LinkRun>, Vec<PortRun>) {
        self.close();
        let ports = self.ports.into_iter().map(GatheredPort::finish);
        let mut ports: Vec<_> = ports.collect();
        ports.sort_by_key(|port| std::cmp::Reverse(port.carried_bytes()));
        (
            self.spans,
            self.links.into_iter().map(Gathered::finish).collect(),
            ports,
        )
    }
}

impl Gathered {
    fn new(watched: &Watched, link: &Link) -> Self {
        Self {
            run: LinkRun {
                pid: watched.process.pid,
                program: watched.process.program.clone(),
                link: link.id,
                peer: link.peer.clone(),
                role: link.role,
                present_ns: 0,
                carried_bytes: 0,
                mean_bytes_per_s: 0,
                delay_p50_ns: None,
                delay_p99_ns: None,
                fences: 0,
                replays: 0,
                counters: Values::default(),
                is_in_full: false,
                bytes: Vec::new(),
                paths: Vec::new(),
                process: key(watched),
            },
            open_bytes: None,
            paths: BTreeMap::new(),
        }
    }

    fn add(&mut self, link: &Link, length_ns: u64) {
        let run = &mut self.run;
        run.present_ns = run.present_ns.saturating_add(length_ns);
        for (metric, count) in link.counters.iter() {
            run.counters[metric] = run.counters[metric].saturating_add(*count);
        }
        let open_bytes = self.open_bytes.get_or_insert(0);
        for path in &link.paths {
            let bytes = carried(path, link.role);
            *open_bytes = open_bytes.saturating_add(bytes);
            let entry = self.paths.entry(path.number);
            let entry = entry.or_insert_with(|| GatheredPath::new(path.number));
            entry.add(path, bytes);
        }
    }

    fn close(&mut self, place: usize) {
        let bytes = self.open_bytes.take();
        push_at(&mut self.run.bytes, place, bytes);
        let run = &mut self.run;
        run.carried_bytes = run.carried_bytes.saturating_add(bytes.unwrap_or(0));
        for path in self.paths.values_mut() {
            path.close(place);
        }
    }

    fn finish(mut self) -> LinkRun {
        let delay = Counts::sum_of(self.paths.values().map(|path| &path.delay));
        for path in self.paths.into_values() {
            let path = path.finish();
            self.run.fences = self.run.fences.saturating_add(path.fences);
            self.run.replays = self.run.replays.saturating_add(path.replays);
            self.run.paths.push(path);
        }
        let run = &mut self.run;
        run.delay_p50_ns = delay.quantile(500);
        run.delay_p99_ns = delay.quantile(990);
        run.mean_bytes_per_s = per_second(run.carried_bytes, run.present_ns);
        self.run
    }
}

impl GatheredPath {
    fn new(path: u32) -> Self {
        Self {
            run: PathRun {
                path,
                ends: String::new(),
                state: 0,
                carried_bytes: 0,
                delay_p50_ns: None,
                delay_p99_ns: None,
                fences: 0,
                replays: 0,
                bytes: Vec::new(),
                p50_ns: Vec::new(),
                p99_ns: Vec::new(),
            },
            open_bytes: None,
            open_delay: Counts::default(),
            delay: Counts::default(),
        }
    }

    fn add(&mut self, path: &PathNow, bytes: u64) {
        let run = &mut self.run;
        if !path.ends.is_empty() {
            run.ends.clone_from(&path.ends);
        }
        run.state = path.gauges[PathGauge::State];
        run.carried_bytes = run.carried_bytes.saturating_add(bytes);
        let more = |of, sum: u64| sum.saturating_add(path.counters[of]);
        run.fences = more(PathCounter::Fences, run.fences);
        run.replays = more(PathCounter::Replays, run.replays);
        let open = self.open_bytes.get_or_insert(0);
        *open = open.saturating_add(bytes);
        let delay = [&self.open_delay, &path.histograms[PathHistogram::Delay]];
        self.open_delay = Counts::sum_of(delay.into_iter());
    }

    fn close(&mut self, place: usize) {
        push_at(&mut self.run.bytes, place, self.open_bytes.take());
        let delay = std::mem::take(&mut self.open_delay);
        push_at(&mut self.run.p50_ns, place, delay.quantile(500));
        push_at(&mut self.run.p99_ns, place, delay.quantile(990));
        self.delay = Counts::sum_of([&self.delay, &delay].into_iter());
    }

    fn finish(mut self) -> PathRun {
        self.run.delay_p50_ns = self.delay.quantile(500);
        self.run.delay_p99_ns = self.delay.quantile(990);
        self.run
    }
}

impl GatheredPort {
    fn add(&mut self, port: &PortWindow) {
        let mut port = port.clone();
        if let Some(open) = &self.open {
            port.begin_with(open);
        }
        self.open = Some(port);
    }

    fn close(&mut self, place: usize) {
        let Some(mut now) = self.open.take() else {
            self.unread = 0;
            return;
        };
        let rates = ports::carried_per_s(&now);
        for (series, rate) in self.carried.iter_mut().zip(rates) {
            push_at(series, place, rate);
            if rate.is_some() {
                series[place - self.unread.min(place)..].fill(rate);
            }
        }
        let is_unread = |source| now.between_ns[source] == Some(0);
        self.unread = match rates {
            [None, None] if is_unread(Source::Rdma) || is_unread(Source::Interface) => {
                self.unread + 1
            }
            _ => 0,
        };
        let went_down = ports::is_up(&self.all) == Some(true) && ports::is_up(&now) == Some(false);
        for (series, trouble) in self.troubles.iter_mut().zip(TROUBLES) {
            let mut count = trouble.count(&now);
            if went_down && trouble.name == WENT_DOWN.name {
                count = count.max(Some(1));
            }
            push_at(series, place, count);
        }
        now.begin_with(&self.all);
        self.all = now;
    }

    fn finish(self) -> PortRun {
        let all = self.all;
        let [sent_bytes, received_bytes] = ports::carried(&all);
        let [sent, received] = self.carried;
        let troubles = TROUBLES
            .iter()
            .map(|trouble| trouble.name)
            .zip(self.troubles);
        PortRun {
            link: ports::link(&all),
            sent_bytes,
            received_bytes,
            sent,
            received,
            troubles: troubles
                .filter(|(_, series)| series.iter().flatten().any(|count| *count > 0))
                .collect(),
            port: all.name,
            interface: all.interface,
            driver: all.driver,
            counters: all.counters,
            gauges: all.gauges,
        }
    }
}

impl PortRun {
    /// How often something went wrong in all; None where the port tells nothing of it.
    pub(super) fn total(&self, trouble: &Trouble) -> Option<u64> {
        let known = trouble.greatest(&self.counters);
        let told = self.troubles.get(trouble.name);
        let sum = told.map(|series| {
            series
                .iter()
                .flatten()
                .fold(0, |sum, count| u64::saturating_add(sum, *count))
        });
        known.max(sum)
    }

    pub(super) fn carried_bytes(&self) -> u64 {
        let [sent, received] =
            [self.sent_bytes, self.received_bytes].map(Option::unwrap_or_default);
        sent.saturating_add(received)
    }
}

impl LinkRun {
    /// Whether something happened to it.
    pub(super) fn is_of(&self, line: &Line) -> bool {
        self.process == line.process && self.link == line.event.link
    }
}

impl PathRun {
    fn forget_series(&mut self) {
        self.bytes = Vec::new();
        self.p50_ns = Vec::new();
        self.p99_ns = Vec::new();
    }
}

/// Payload that went over it, either way.
fn carried(path: &PathNow, role: Role) -> u64 {
    path.counters[match role {
        Role::Sender => PathCounter::SentBytes,
        Role::Receiver => PathCounter::ReceivedBytes,
    }]
}

/// For what has begun late, nothing stands for the windows before.
fn push_at(series: &mut Vec<Option<u64>>, place: usize, value: Option<u64>) {
    series.resize(place, None);
    series.push(value);
}
