//! All processes of a host at one time, and what happened between two times: what screens, reports and
//! verdicts are made of, live or from a recording.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::reader::{Events, Happened, Link, PathNow, Process, Reader, Watcher};
use super::schema::Table;
use super::values::Values;

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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When, in ns of the wall clock.
    pub wall_ns: u64,
    /// The processes.
    pub processes: Vec<Watched>,
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
}

impl Watcher {
    /// All that is there now, with the events since the last snapshot, and a line for each segment that
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
        Window {
            from_ns: earlier.wall_ns,
            to_ns: self.wall_ns,
            processes: self.processes.iter().map(since).collect(),
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
                    watched.events_missed += earlier.events_missed;
                }
            }
            events.append(&mut watched.events);
            watched.events = events;
        }
        Some(window)
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

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::super::schema::{LinkCounter, LinkGauge, PathCounter, PathHistogram};
    use super::*;

    fn link(id: u64, messages: u64, window: u64, sent: u64) -> Link {
        let mut link = Link {
            id,
            peer: "p".into(),
            role: Role::Sender,
            counters: Values::default(),
            gauges: Values::default(),
            paths: vec![PathNow {
                number: 0,
                ends: "a->b".into(),
                counters: Values::default(),
                gauges: Values::default(),
                histograms: Values::default(),
            }],
        };
        link.counters[LinkCounter::Messages] = messages;
        link.gauges[LinkGauge::Window] = window;
        link.paths[0].counters[PathCounter::SentBytes] = sent;
        let delay = &mut link.paths[0].histograms[PathHistogram::Delay];
        (delay.sum, delay.buckets) = (sent, vec![sent, 1]);
        link
    }

    fn snapshot(wall_ns: u64, started_wall_ns: u64, links: Vec<Link>) -> Snapshot {
        let process = Process {
            pid: 7,
            program: "x".into(),
            is_alive: true,
            started_wall_ns,
            age_ns: 0,
            links,
        };
        Snapshot {
            wall_ns,
            processes: vec![Watched {
                process,
                events: Vec::new(),
                events_missed: 0,
            }],
        }
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

    fn later_clock(snapshot: &Snapshot) -> Snapshot {
        Snapshot {
            wall_ns: snapshot.wall_ns + 10,
            ..snapshot.clone()
        }
    }
}
