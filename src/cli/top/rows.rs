//! What a screen shows of a window: a row for each link, and one for each path of a link.

use crate::telemetry::Role;
use crate::telemetry::histogram::Counts;
use crate::telemetry::reader::{Link, PathNow};
use crate::telemetry::schema::{
    LINK_TIMES, LinkCounter, LinkGauge, PATH_STATES, PathCounter, PathGauge, PathHistogram,
};
use crate::telemetry::snapshot::{Watched, Window};

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
