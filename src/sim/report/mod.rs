//! What a run has shown: completion times and their floor, what the fabric did, and what is stuck
//! if it did not end. As a table, as JSON, or as a page with pictures.

pub mod chart;
mod floor;
pub mod html;
mod record;
pub mod table;

use serde::Serialize;

pub use record::{Recorder, Row};

use super::fabric::Fabric;
use super::scenario::{Detail, Scenario};
use super::time::Picos;
use super::workload::{Flow, Progress, Workload};
use super::world::Ended;
use floor::Floor;
use record::to_float;

/// All runs of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// What it shows.
    pub about: String,
    /// Hosts of the fabric.
    pub hosts: u32,
    /// One run for each seed.
    pub runs: Vec<RunReport>,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// Its seed.
    pub seed: u64,
    /// How it ended: `finished`, `out of time` or `stuck`.
    pub ended: &'static str,
    /// Time at its end, picoseconds.
    pub end_ps: u64,
    /// The parts of the workload.
    pub parts: Vec<PartReport>,
    /// All of it.
    pub total: PartReport,
    /// What the fabric did; nothing is counted at the flow level.
    pub fabric: Option<FabricCounts>,
    /// What the hosts did; nothing is counted at the flow level.
    pub hosts: Option<HostCounts>,
    /// Flows that did not end, if any.
    pub stuck: Stuck,
    /// What pictures are made of, if they are wanted.
    #[serde(skip)]
    pub pictures: Option<Pictures>,
}

/// What pictures are made of.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// Completion times of all flows that ended, by part and in rising order.
    pub completion_times: Vec<Vec<Picos>>,
    /// The fabric over time; not at the flow level.
    pub recorder: Option<Recorder>,
}

/// Completion times of a part of the workload, in picoseconds.
#[derive(Debug, Clone, Serialize)]
pub struct PartReport {
    /// Its name.
    pub name: String,
    /// Flows.
    pub flows: u64,
    /// Flows that ended.
    pub finished: u64,
    /// Bytes of all flows.
    pub bytes: u64,
    /// Mean completion time, from a flow's start until its sender knew that it had arrived.
    pub mean_ps: u64,
    /// Median.
    pub p50_ps: u64,
    /// 99th percentile, by nearest rank.
    pub p99_ps: u64,
    /// Longest.
    pub max_ps: u64,
    /// From the start of the first flow to the end of the last.
    pub makespan_ps: u64,
    /// The least makespan that this network allows.
    pub floor_ps: u64,
    /// Makespan over floor.
    pub ratio: f64,
    /// Jain's index of the rates of all flows: 1 when all are equal, 1/n when one has everything.
    pub jain: f64,
}

/// What the fabric did.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct FabricCounts {
    /// Packets that hosts sent.
    pub packets: u64,
    /// Hops that packets travelled.
    pub hops: u64,
    /// Packets dropped, by full queues or by faults.
    pub drops: u64,
    /// Packets whose payload was trimmed.
    pub trims: u64,
    /// Packets marked (CE).
    pub marks: u64,
    /// Times a port was told to pause.
    pub pauses: u64,
    /// Those of them between switches: the congestion has spread.
    pub pauses_inside: u64,
    /// Time that ports spent paused, summed, picoseconds.
    pub paused_ps: u64,
    /// Most bytes that waited at a port.
    pub queue_max_bytes: u64,
}

/// What the hosts did.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct HostCounts {
    /// Data packets sent for the first time.
    pub sent: u64,
    /// Data packets sent again.
    pub sent_again: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// Congestion notifications.
    pub notifications: u64,
    /// Paths that the engine fenced, as dead.
    pub fences: u64,
    /// Paths that it gave another source port, as slow.
    pub rehashes: u64,
    /// Longest time in which a host had something to send and nothing of it was acknowledged,
    /// picoseconds, where that is known.
    pub longest_stall_ps: Option<u64>,
}

/// What did not end.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stuck {
    /// How many flows.
    pub count: u64,
    /// The first few, in words.
    pub flows: Vec<String>,
}

/// So many stuck flows are described.
const STUCK_SHOWN_MAX: usize = 8;

/// What a run leaves behind.
pub(in crate::sim) struct Remains<'a> {
    /// How it ended.
    pub(in crate::sim) ended: Ended,
    /// When.
    pub(in crate::sim) now: Picos,
    /// How far the flows have come.
    pub(in crate::sim) progress: &'a Progress,
    /// Bytes of a flow that its receiver has, where somebody keeps count of that.
    pub(in crate::sim) delivered: &'a dyn Fn(u32) -> u64,
    /// What the fabric did.
    pub(in crate::sim) fabric: Option<FabricCounts>,
    /// What the hosts did.
    pub(in crate::sim) hosts: Option<HostCounts>,
    /// The fabric over time.
    pub(in crate::sim) recorder: Option<Recorder>,
}

impl RunReport {
    /// Draws up the account of a run that is over.
    pub(in crate::sim) fn new(
        scenario: &Scenario,
        seed: u64,
        detail: Detail,
        workload: &Workload,
        remains: Remains<'_>,
    ) -> Self {
        let floor = Floor::new(
            &scenario.fabric,
            &scenario.hosts,
            workload,
            &scenario.faults,
        );
        let progress = remains.progress;
        let stuck = find_stuck(workload, progress, remains.delivered);
        let part = |name: &str, is_member: &dyn Fn(&Flow) -> bool| {
            PartReport::new(name, workload, progress, &floor, is_member)
        };
        let parts = (0u8..)
            .zip(workload.parts())
            .map(|(index, name)| part(name, &|flow| flow.part == index))
            .collect();
        let total = part("total", &|_| true);
        Self {
            seed,
            ended: match remains.ended {
                Ended::Finished => "finished",
                Ended::OutOfTime => "out of time",
                Ended::Stuck => "stuck",
            },
            end_ps: remains.now.0,
            parts,
            total,
            fabric: remains.fabric,
            hosts: remains.hosts,
            stuck,
            pictures: (detail == Detail::Pictures).then(|| Pictures {
                completion_times: completion_times(workload, progress),
                recorder: remains.recorder,
            }),
        }
    }

    /// Whether all flows ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.stuck.count == 0
    }
}

impl PartReport {
    fn new(
        name: &str,
        workload: &Workload,
        progress: &Progress,
        floor: &Floor<'_>,
        is_member: &dyn Fn(&Flow) -> bool,
    ) -> Self {
        let members = || {
            let flows = (0u32..).zip(workload.flows());
            flows.filter(|(_, flow)| is_member(flow))
        };
        let mut times: Vec<u64> = members()
            .filter_map(|(index, _)| progress.completion_time(index))
            .map(|time| time.0)
            .collect();
        times.sort_unstable();
        let finished = times.len() as u64;
        let mean = times.iter().map(|&time| u128::from(time)).sum::<u128>();
        let mean = mean.checked_div(u128::from(finished)).unwrap_or(0);
        let first = members()
            .filter_map(|(index, _)| progress.started(index))
            .min();
        let last = members()
            .filter_map(|(index, _)| progress.ended(index))
            .max();
        let makespan = last.unwrap_or_default().since(first.unwrap_or_default());
        let floor = floor.makespan(is_member);
        let rates = members().filter_map(|(index, flow)| {
            let time = progress.completion_time(index)?;
            Some(to_float(flow.bytes) / to_float(time.0.max(1)))
        });
        let (sum, squares) = rates.fold((0.0, 0.0), |(sum, squares), rate| {
            (sum + rate, squares + rate * rate)
        });
        Self {
            name: name.to_owned(),
            flows: members().count() as u64,
            finished,
            bytes: members().map(|(_, flow)| flow.bytes).sum(),
            mean_ps: u64::try_from(mean).unwrap_or(u64::MAX),
            p50_ps: rank(&times, 50),
            p99_ps: rank(&times, 99),
            max_ps: times.last().copied().unwrap_or(0),
            makespan_ps: makespan.0,
            floor_ps: floor.0,
            ratio: ratio(makespan.0, floor.0),
            jain: if finished == 0 {
                0.0
            } else {
                sum * sum / (squares * to_float(finished))
            },
        }
    }
}

/// Of each part, in rising order.
fn completion_times(workload: &Workload, progress: &Progress) -> Vec<Vec<Picos>> {
    let mut times: Vec<Vec<Picos>> = vec![Vec::new(); workload.parts().len()];
    for (index, flow) in (0u32..).zip(workload.flows()) {
        times[usize::from(flow.part)].extend(progress.completion_time(index));
    }
    for times in &mut times {
        times.sort_unstable();
    }
    times
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 {
        0.0
    } else {
        to_float(a) / to_float(b)
    }
}

/// A percentile by nearest rank of a sorted list.
fn rank(sorted: &[u64], percent: usize) -> u64 {
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or(0)
}

impl FabricCounts {
    pub(in crate::sim) fn new(fabric: &Fabric) -> Self {
        let totals = fabric.totals();
        let mut counts = Self {
            packets: totals.sent,
            hops: totals.hops,
            drops: totals.dropped,
            ..Self::default()
        };
        for port in 0..fabric.topology().ports().len() as u32 {
            let stats = fabric.stats(port);
            counts.trims += stats.trims;
            counts.marks += stats.marks;
            counts.pauses += stats.pauses;
            if super::scenario::is_inside(fabric.topology(), port) {
                counts.pauses_inside += stats.pauses;
            }
            counts.paused_ps += stats.paused.0;
            counts.queue_max_bytes = counts.queue_max_bytes.max(u64::from(stats.backlog_max));
        }
        counts
    }
}

/// Which flows have not ended, and how far each has come.
fn find_stuck(workload: &Workload, progress: &Progress, delivered: &dyn Fn(u32) -> u64) -> Stuck {
    let open: Vec<u32> = (0..workload.flows().len() as u32)
        .filter(|&flow| progress.ended(flow).is_none())
        .collect();
    // Those that have started come first: they are what the others wait for.
    let (started, waiting): (Vec<u32>, Vec<u32>) = open
        .iter()
        .partition(|&&flow| progress.started(flow).is_some());
    let describe = |&flow: &u32| {
        let spec = &workload.flows()[flow as usize];
        let state = match (progress.started(flow), progress.received(flow)) {
            (None, _) => "has not started".to_owned(),
            (Some(_), Some(at)) => format!("arrived at {at}, but its sender was not told"),
            (Some(at), None) => {
                let bytes = delivered(flow);
                format!("started at {at}, {bytes} of {} bytes arrived", spec.bytes)
            }
        };
        let part = &workload.parts()[usize::from(spec.part)];
        format!(
            "{part}: flow {flow}, host {} -> host {}, {} bytes, {state}",
            spec.from, spec.to, spec.bytes
        )
    };
    Stuck {
        count: open.len() as u64,
        flows: started
            .iter()
            .chain(&waiting)
            .take(STUCK_SHOWN_MAX)
            .map(describe)
            .collect(),
    }
}
