//! The scenes by which the engine's control is judged, on a fabric of 128 hosts at 400 Gb/s, and
//! the bounds that it has to keep there.
//!
//! Each scene runs on a lossless fabric (pause frames) and on a lossy one (trimming), over several
//! seeds: the seed makes the workload, the switches' hashes and the source ports. Beside the
//! engine stand what it is compared with: one path for each connection, which is what ECMP gives,
//! and switches that choose the way of each packet themselves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::fabric::{Fabric, Overflow, PauseConfig, QueueConfig, Routing, SwitchConfig};
use super::generate::{self, Part};
use super::hosts::{EngineHosts, HostConfig, Ways};
use super::nic::{NicConfig, Recovery};
use super::packet::{BULK, HIGH};
use super::random::{Purpose, Stream};
use super::time::Picos;
use super::topology::{End, LinkSpec, Topology};
use super::workload::{DoneWhen, Workload};
use super::world::{Change, Ended, Endpoints, Fault, run};
use crate::path::select::{AnySelector, RoundRobin, StaticHash};
use crate::units::{Nanos, Rate};

const HOSTS: u32 = 128;
const LEAVES: u32 = 8;
const SPINES: u32 = 16;
const LINK: LinkSpec = LinkSpec {
    rate: Rate::from_mbps(400_000),
    delay: Picos::from_micros(1),
};
/// There and back in the idle fabric, with a full packet out and an acknowledgement back.
pub const BASE_RTT: Picos = Picos(8_337_000);
/// Queue of a port: one bandwidth-delay product in packets of 4150 bytes, as the Ultra Ethernet
/// simulator sets it.
const QUEUE_BYTES: u32 = 101 * 4150;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// Every host sends so many bytes to another, and receives from another.
    Permutation(u64),
    /// Eight rings of 16 hosts, an all-reduce of 16 chunks of 1 MiB.
    Rings,
    /// So many hosts send 2 MB to one.
    Incast(u32),
    /// Everybody sends 128 KiB to everybody, 8 messages in flight from each.
    AllToAll,
    /// A permutation of 16 MB while four of the links between leaves and spines go at a tenth.
    SlowLinks,
    /// A permutation of 16 MB in the middle of which a link between a leaf and a spine is cut.
    Cut,
    /// The rings in the higher class, and a permutation of bulk beside them.
    RingsAndBulk,
    /// The bulk alone.
    Bulk,
}

/// How switches deal with congestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// They pause who sends.
    Lossless,
    /// They trim what does not fit.
    Trimming,
}

/// What the hosts do.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The hosts.
    pub hosts: HostConfig,
    /// The switches choose the way of each packet.
    pub adaptive_switches: bool,
}

/// What a run showed.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Completion times of the flows, sorted, of each part.
    pub completion: Vec<Vec<Picos>>,
    /// When the last flow of each part ended.
    pub makespan: Vec<Picos>,
    /// Bytes of each part that had arrived by the end of the first part, where there are several.
    pub delivered: Vec<u64>,
    /// Longest time in which a flow made no progress.
    pub stall: Picos,
    /// Paths fenced.
    pub fences: u64,
    /// Packets trimmed.
    pub trims: u64,
    /// Packets dropped.
    pub drops: u64,
    /// Pauses: of hosts and spines by the last switch, and of anybody else.
    pub pauses: (u64, u64),
    /// Most bytes waiting at a port.
    pub backlog: u32,
    /// Did it end?
    pub finished: bool,
    /// What the fabric could do at best in this scene, where that is not the idle floor.
    pub bound: Picos,
}

impl Outcome {
    /// The worst flow of a part.
    #[must_use]
    pub fn worst(&self, part: usize) -> Picos {
        self.completion[part].last().copied().unwrap_or_default()
    }

    /// Jain's fairness index of the flows' mean rates.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn jain(&self, part: usize) -> f64 {
        let rates = self.completion[part].iter().map(|t| 1.0 / t.0 as f64);
        let (sum, squares) = rates.fold((0.0, 0.0), |(s, q), r| (s + r, q + r * r));
        sum * sum / (squares * self.completion[part].len() as f64)
    }
}

impl Setup {
    /// The engine as it is meant to be used on such a fabric.
    #[must_use]
    pub fn ours() -> Self {
        Self {
            hosts: hosts(),
            adaptive_switches: false,
        }
    }

    /// One path for each connection.
    #[must_use]
    pub fn ecmp() -> Self {
        let mut hosts = hosts();
        hosts.ways = Ways::Unknown;
        hosts.engine.paths_max = 1;
        hosts.selector = AnySelector::Hash(StaticHash);
        Self {
            hosts,
            adaptive_switches: false,
        }
    }

    /// Paths at random, taken in turn.
    #[must_use]
    pub fn static_spray() -> Self {
        let mut hosts = hosts();
        hosts.ways = Ways::Unknown;
        hosts.selector = AnySelector::RoundRobin(RoundRobin::default());
        Self {
            hosts,
            adaptive_switches: false,
        }
    }

    /// The same, but the switches choose the way of each packet.
    #[must_use]
    pub fn packet_spray() -> Self {
        Self {
            adaptive_switches: true,
            ..Self::static_spray()
        }
    }
}

fn hosts() -> HostConfig {
    HostConfig::for_fabric(LINK.rate, Nanos(BASE_RTT.as_nanos()))
}

/// Runs one scene once.
///
/// # Panics
/// Never: a fabric of these sizes exists.
#[must_use]
pub fn measure(scene: Scene, loss: Loss, setup: &Setup, seed: u64) -> Outcome {
    let topology = Topology::leaf_spine(LEAVES, HOSTS / LEAVES, SPINES, LINK, LINK)
        .expect("a fabric of these sizes exists");
    let pause = PauseConfig {
        on: 2 * QUEUE_BYTES / 5,
        off: QUEUE_BYTES / 3,
        // A round trip on the wire, and a packet at either end.
        headroom: 100_000 + 3 * 4160,
    };
    let switch = SwitchConfig {
        queue: QueueConfig {
            capacity: QUEUE_BYTES,
            control_capacity: 2 * QUEUE_BYTES,
            mark_low: u32::MAX,
            mark_high: u32::MAX,
            overflow: Overflow::Trim,
        },
        pause: (loss == Loss::Lossless).then_some(pause),
        shared_buffer: None,
        routing: if setup.adaptive_switches {
            Routing::Adaptive
        } else {
            Routing::Hash
        },
    };
    let nic = NicConfig {
        mtu: 4096,
        recovery: Recovery::Selective,
        timeout: Picos::from_micros(1000),
        dcqcn: None,
    };
    let workload = workload(scene, seed);
    let play = |deadline| {
        let mut fabric = Fabric::new(topology.clone(), &switch, seed);
        let (faults, bound) = faults(scene, &fabric, &workload, seed);
        let mut hosts = EngineHosts::new(&fabric, &workload, setup.hosts.clone(), nic, seed);
        let ended = run(&mut fabric, &mut hosts, &workload, &faults, deadline);
        (fabric, hosts, ended, bound)
    };
    let (fabric, mut hosts, ended, bound) = play(Picos::from_micros(200_000));
    let mut outcome = collect(&fabric, &mut hosts, &workload);
    outcome.finished = ended == Ended::Finished;
    outcome.bound = bound;
    if outcome.makespan.len() > 1 {
        // The same again, up to the end of the first part: what has arrived by then.
        let (_, mut hosts, ..) = play(outcome.makespan[0]);
        for (index, flow) in (0u32..).zip(workload.flows()) {
            let bytes = match hosts.progress().received(index) {
                Some(_) => flow.bytes,
                None => hosts.delivered(index),
            };
            outcome.delivered[usize::from(flow.part)] += bytes;
        }
    }
    outcome
}

fn collect(fabric: &Fabric, hosts: &mut EngineHosts, workload: &Workload) -> Outcome {
    let parts = workload.parts().len();
    let mut outcome = Outcome {
        completion: vec![Vec::new(); parts],
        makespan: vec![Picos::ZERO; parts],
        delivered: vec![0; parts],
        stall: hosts.longest_stall(),
        fences: hosts.fences(),
        drops: fabric.totals().dropped,
        ..Outcome::default()
    };
    let numbered = || (0u32..).zip(workload.flows());
    for (index, flow) in numbered() {
        let part = usize::from(flow.part);
        outcome.completion[part].extend(hosts.progress().completion_time(index));
        let ended = hosts.progress().ended(index).unwrap_or_default();
        outcome.makespan[part] = outcome.makespan[part].max(ended);
    }
    for times in &mut outcome.completion {
        times.sort_unstable();
    }
    for (port, spec) in (0..).zip(fabric.topology().ports()) {
        let stats = fabric.stats(port);
        outcome.trims += stats.trims;
        outcome.backlog = outcome.backlog.max(stats.backlog_max);
        // Pauses that a leaf sends stay with its own hosts or reach its spines; those of a spine
        // spread to other leaves.
        let by_spine = matches!(spec.to, End::Switch(switch) if switch >= LEAVES);
        if by_spine {
            outcome.pauses.1 += stats.pauses;
        } else {
            outcome.pauses.0 += stats.pauses;
        }
    }
    outcome
}

fn workload(scene: Scene, seed: u64) -> Workload {
    let hosts: Vec<u32> = (0..HOSTS).collect();
    let mut stream = Stream::new(seed, Purpose::Workload, 0);
    let mut workload = Workload::new(DoneWhen::Acknowledged);
    match scene {
        Scene::Permutation(bytes) => {
            let part = part(&mut workload, "permutation", BULK);
            permutation(&mut workload, part, &hosts, bytes, &mut stream);
        }
        Scene::SlowLinks | Scene::Cut => {
            let part = part(&mut workload, "permutation", BULK);
            permutation(&mut workload, part, &hosts, 16_000_000, &mut stream);
        }
        Scene::Rings => rings(&mut workload, BULK, &hosts, &mut stream),
        Scene::RingsAndBulk => {
            rings(&mut workload, HIGH, &hosts, &mut stream);
            bulk(&mut workload, &hosts, stream);
        }
        Scene::Bulk => bulk(&mut workload, &hosts, stream),
        Scene::Incast(senders) => {
            let part = part(&mut workload, "incast", BULK);
            let (senders, at_once) = (senders as usize, Picos::ZERO);
            generate::incast(
                &mut workload,
                part,
                &hosts,
                0,
                senders,
                2_000_000,
                at_once,
                &mut stream,
            );
        }
        Scene::AllToAll => {
            let part = part(&mut workload, "all-to-all", BULK);
            for group in generate::groups(&hosts, hosts.len(), true, &mut stream) {
                generate::all_to_all(&mut workload, part, &group, 128 << 10, Some(8));
            }
        }
    }
    workload
}

fn part(workload: &mut Workload, name: &str, class: u8) -> Part {
    Part {
        part: workload.add_part(name),
        class,
        start: Picos::ZERO,
    }
}

fn permutation(
    workload: &mut Workload,
    part: Part,
    hosts: &[u32],
    bytes: u64,
    stream: &mut Stream,
) {
    generate::permutation(workload, part, hosts, hosts.len(), bytes, stream);
}

/// 128 messages from each host to the same other one.
fn bulk(workload: &mut Workload, hosts: &[u32], stream: Stream) {
    let part = part(workload, "bulk", BULK);
    for _ in 0..128 {
        permutation(workload, part, hosts, 512_000, &mut { stream });
    }
}

fn rings(workload: &mut Workload, class: u8, hosts: &[u32], stream: &mut Stream) {
    let part = part(workload, "rings", class);
    for ring in generate::groups(hosts, 16, true, stream) {
        generate::ring_all_reduce(workload, part, &ring, 1 << 20, 2 * ring.len() - 1);
    }
}

/// What goes wrong in a scene, and what the fabric could do at best with it.
fn faults(scene: Scene, fabric: &Fabric, workload: &Workload, seed: u64) -> (Vec<Fault>, Picos) {
    let topology = fabric.topology();
    let mut uplinks: Vec<u32> = (0..)
        .zip(topology.ports())
        .filter(
            |(_, port)| matches!((port.from, port.to), (End::Switch(a), End::Switch(b)) if a < b),
        )
        .map(|(port, _)| port)
        .collect();
    Stream::new(seed, Purpose::Workload, 1).shuffle(&mut uplinks);
    match scene {
        Scene::SlowLinks => {
            let slow = &uplinks[..4];
            let rate = Rate(LINK.rate.0 / 10);
            let faults = slow
                .iter()
                .map(|&port| Fault {
                    at: Picos::ZERO,
                    change: Change::LinkRate(port, rate),
                })
                .collect();
            (faults, leaf_bound(topology, workload, slow))
        }
        Scene::Cut => {
            let fault = Fault {
                at: Picos::from_micros(100),
                change: Change::LinkDown(uplinks[0]),
            };
            (vec![fault], Picos::ZERO)
        }
        _ => (Vec::new(), Picos::ZERO),
    }
}

/// No host can send more than its link carries, and no leaf send or receive more than its links to
/// the spines do: the time that the busiest needs for the bytes that have to cross, at the least.
fn leaf_bound(topology: &Topology, workload: &Workload, slow: &[u32]) -> Picos {
    let leaf = |host: u32| host / (HOSTS / LEAVES);
    let on_wire = |bytes: u64| bytes.div_ceil(4096) * (4096 + 64);
    // 20 ps a byte at 400 Gb/s.
    let largest = workload.flows().iter().map(|f| on_wire(f.bytes)).max();
    let mut worst = Picos(largest.unwrap_or(0) * 20);
    for which in 0..LEAVES {
        let slow_here = slow
            .iter()
            .filter(|&&port| topology.ports()[port as usize].from == End::Switch(which))
            .count() as u64;
        let tenths = u64::from(SPINES) * 10 - slow_here * 9;
        for out in [true, false] {
            let crossing: u64 = workload
                .flows()
                .iter()
                .filter(|f| leaf(f.from) != leaf(f.to))
                .filter(|f| which == if out { leaf(f.from) } else { leaf(f.to) })
                .map(|f| on_wire(f.bytes))
                .sum();
            worst = worst.max(Picos(crossing * 20 * 10 / tenths));
        }
    }
    worst + BASE_RTT
}

/// What stands beside the engine.
pub const RIVALS: [&str; 3] = ["ECMP", "static spray", "packet spray"];
const ALL: &[usize] = &[0, 1, 2];
const PACKET_SPRAY: &[usize] = &[2];

/// One line of the suite: what came out beside what has to.
#[derive(Debug, Clone)]
pub struct Row {
    /// Scene and fabric.
    pub scene: String,
    /// Which figure, with its unit.
    pub what: &'static str,
    /// The same figure of each of [`RIVALS`]; not a number where it was not measured.
    pub rivals: [f64; 3],
    /// The engine.
    pub ours: f64,
    /// What it has to reach.
    pub reach: Reach,
    /// Why it may miss that; empty where it may not.
    pub note: &'static str,
}

/// What a figure has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reach {
    /// No more than this.
    AtMost(f64),
    /// No less.
    AtLeast(f64),
}

impl Row {
    /// Whether it does.
    #[must_use]
    pub fn holds(&self) -> bool {
        match self.reach {
            Reach::AtMost(bound) => self.ours <= bound,
            Reach::AtLeast(bound) => self.ours >= bound,
        }
    }
}

/// A figure of a run.
type Figure = fn(&Outcome, &Outcome) -> f64;

/// What is asked of one scene: a figure of it and, where it is compared with one, of another.
struct Question {
    scene: Scene,
    /// The scene that it is compared with, under the same seed.
    beside: Option<Scene>,
    name: &'static str,
    asked: Vec<(&'static str, Figure, Reach)>,
    /// The rivals, by their place, that are shown beside it.
    compared: &'static [usize],
    /// A figure that may be missed on the lossless fabric, and why.
    missed_lossless: Option<(&'static str, &'static str)>,
}

const MICROS: fn(Picos) -> f64 = Picos::as_micros_f64;

/// Without a fault nobody may be fenced.
const NO_FENCE: (&str, Figure, Reach) = ("fences", |o, _| count(o.fences), Reach::AtMost(0.0));

#[expect(clippy::cast_precision_loss, reason = "a figure to show")]
fn count(number: u64) -> f64 {
    number as f64
}

const BULK_SHARE: &str = "bulk of what the rings leave";

fn questions() -> Vec<Question> {
    let worst = |reach| {
        (
            "worst flow, µs",
            (|o: &Outcome, _: &Outcome| MICROS(o.worst(0))) as Figure,
            Reach::AtMost(reach),
        )
    };
    let makespan = |reach| {
        (
            "makespan, µs",
            (|o: &Outcome, _: &Outcome| MICROS(o.makespan[0])) as Figure,
            Reach::AtMost(reach),
        )
    };
    let asked = |scene, name, compared, asked: &[(&'static str, Figure, Reach)]| Question {
        scene,
        beside: None,
        name,
        asked: asked.to_vec(),
        compared,
        missed_lossless: None,
    };
    vec![
        asked(
            Scene::Permutation(2_000_000),
            "permutation 2 MB",
            ALL,
            &[worst(56.0), NO_FENCE],
        ),
        asked(
            Scene::Permutation(16_000_000),
            "permutation 16 MB",
            ALL,
            &[worst(357.0), NO_FENCE],
        ),
        asked(
            Scene::Rings,
            "8 rings of 16, 1 MiB",
            ALL,
            &[makespan(1000.0), NO_FENCE],
        ),
        asked(
            Scene::Incast(32),
            "incast 32:1, 2 MB",
            ALL,
            &[
                worst(1330.0),
                ("Jain's index", |o, _| o.jain(0), Reach::AtLeast(0.98)),
                (
                    "pauses beyond the last switch",
                    |o, _| count(o.pauses.1),
                    Reach::AtMost(0.0),
                ),
                NO_FENCE,
            ],
        ),
        asked(
            Scene::AllToAll,
            "all-to-all 128 KiB, 8 in flight",
            ALL,
            &[makespan(425.0), NO_FENCE],
        ),
        asked(
            Scene::SlowLinks,
            "4 spine links at 10 %",
            ALL,
            &[(
                "makespan over its bound",
                |o, _| MICROS(o.makespan[0]) / MICROS(o.bound),
                Reach::AtMost(1.08),
            )],
        ),
        asked(
            Scene::Cut,
            "a spine link cut",
            &[],
            &[(
                "longest stall, base RTTs",
                |o, _| MICROS(o.stall) / MICROS(BASE_RTT),
                Reach::AtMost(10.0),
            )],
        ),
        Question {
            beside: Some(Scene::Rings),
            missed_lossless: Some((
                BULK_SHARE,
                "pauses hold bulk up, and more where switches choose the way of each packet",
            )),
            ..asked(
                Scene::RingsAndBulk,
                "bulk beside the rings",
                PACKET_SPRAY,
                &[
                    (
                        "rings over alone",
                        |o, alone| MICROS(o.makespan[0]) / MICROS(alone.makespan[0]),
                        Reach::AtMost(1.05),
                    ),
                    (
                        BULK_SHARE,
                        |o, _| {
                            // 20 ps a byte, and 64 bytes of headers to 4096.
                            let carried = count(o.makespan[0].0) / 20.0 * 4096.0 / 4160.0;
                            let rest = carried * f64::from(HOSTS) - count(o.delivered[0]);
                            count(o.delivered[1]) / rest
                        },
                        Reach::AtLeast(0.9),
                    ),
                    NO_FENCE,
                ],
            )
        },
    ]
}

/// Runs all scenes, on both fabrics, over so many seeds and on so many threads; the figures are
/// means over the seeds. What comes out does not depend on the number of threads.
#[must_use]
pub fn rows(seeds: u64, threads: usize) -> Vec<Row> {
    let questions = questions();
    let rivals = [Setup::ecmp(), Setup::static_spray(), Setup::packet_spray()];
    let ours = Setup::ours();
    let mut jobs = Vec::new();
    for (q, question) in questions.iter().enumerate() {
        for loss in [Loss::Trimming, Loss::Lossless] {
            let rivals = question.compared.iter().map(|&rival| Some(rival));
            for who in rivals.chain([None]) {
                jobs.extend((1..=seeds).map(|seed| (q, loss, who, seed)));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Vec<f64>>> = jobs.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(q, loss, who, seed)) = jobs.get(at) else {
                        return;
                    };
                    let question = &questions[q];
                    let setup = who.map_or(&ours, |rival: usize| &rivals[rival]);
                    let outcome = measure(question.scene, loss, setup, seed);
                    let beside = question
                        .beside
                        .map(|scene| measure(scene, loss, setup, seed));
                    let beside = beside.as_ref().unwrap_or(&outcome);
                    let figures = question
                        .asked
                        .iter()
                        .map(|a| a.1(&outcome, beside))
                        .collect();
                    *done[at].lock().unwrap_or_else(PoisonError::into_inner) = figures;
                }
            });
        }
    });
    let mean = |q: usize, loss: Loss, who: Option<usize>, a: usize| {
        let figures = jobs
            .iter()
            .zip(&done)
            .filter(|(job, _)| (job.0, job.1, job.2) == (q, loss, who));
        let (sum, runs) = figures.fold((0.0, 0.0), |(sum, runs), (_, slot)| {
            (
                sum + slot.lock().unwrap_or_else(PoisonError::into_inner)[a],
                runs + 1.0,
            )
        });
        sum / runs
    };
    let mut rows = Vec::new();
    for (q, question) in questions.iter().enumerate() {
        for loss in [Loss::Trimming, Loss::Lossless] {
            for (a, &(what, _, reach)) in question.asked.iter().enumerate() {
                let fabric = match loss {
                    Loss::Trimming => "trimming",
                    Loss::Lossless => "lossless",
                };
                rows.push(Row {
                    scene: format!("{}, {fabric}", question.name),
                    what,
                    rivals: [0, 1, 2].map(|rival| mean(q, loss, Some(rival), a)),
                    ours: mean(q, loss, None, a),
                    reach,
                    note: match question.missed_lossless {
                        Some((missed, why)) if loss == Loss::Lossless && missed == what => why,
                        _ => "",
                    },
                });
            }
        }
    }
    rows
}
