//! The flow level held against the packet level on the same scenarios, and its speed where packets
//! are too many.

use std::time::Instant;

use crate::sim::report::RunReport;
use crate::sim::scenario::{Detail, Override, Scenario};
use crate::sim::spray::speed::{forget_peak, peak_mib};

/// How far mean completion and makespan may be apart.
pub const BOUND: f64 = 0.05;

/// Which networks to compare on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subset {
    /// 128 hosts: seconds.
    Fast,
    /// 1024 hosts: minutes, nearly all of them at the packet level.
    Full,
}

/// One figure at both levels.
#[derive(Debug, Clone)]
pub struct Row {
    /// Network, hosts and workload.
    pub name: String,
    /// Which figure, with its unit.
    pub what: &'static str,
    /// At the packet level.
    pub packets: f64,
    /// At the flow level.
    pub flows: f64,
    /// How far apart they are, as a part of the packet level's.
    pub error: f64,
    /// Whether that is within [`BOUND`].
    pub holds: bool,
    /// Why it is not, if it is known not to be; else empty.
    pub note: &'static str,
}

/// A run at the flow level with many hosts.
#[derive(Debug, Clone)]
pub struct Speed {
    /// Workload.
    pub name: &'static str,
    /// Flows.
    pub flows: u64,
    /// Time on the wall, with the building of the network and the workload, in seconds.
    pub seconds: f64,
    /// What it should be at most.
    pub bound_seconds: f64,
    /// Most memory held, in MiB, if the system tells.
    pub memory_mib: Option<f64>,
    /// What it should be at most.
    pub bound_mib: f64,
    /// Whether it ended, and both are within their bounds.
    pub holds: bool,
    /// Why it may take longer; empty where it may not.
    pub note: &'static str,
}

/// A network at both sizes.
struct Network {
    name: &'static str,
    small: &'static str,
    large: &'static str,
}

const FAT_TREE: Network = Network {
    name: "fat tree 100G",
    small: "kind = \"fat-tree\"\nk = 8\nrate = \"100G\"\ndelay = \"1us\"\n",
    large: "kind = \"fat-tree\"\nk = 16\nrate = \"100G\"\ndelay = \"1us\"\n",
};
const LEAF_SPINE: Network = Network {
    name: "leaf spine 400G",
    small: "kind = \"leaf-spine\"\nleaves = 8\nhosts_per_leaf = 16\nspines = 16\nrate = \"400G\"\ndelay = \"1us\"\n",
    large: "kind = \"leaf-spine\"\nleaves = 64\nhosts_per_leaf = 16\nspines = 16\nrate = \"400G\"\ndelay = \"1us\"\n",
};

const NSCC: (&str, &str) = ("NSCC", "kind = \"reference\"\ntransport = \"nscc\"\n");
const ECMP: (&str, &str) = (
    "NSCC, one way",
    "kind = \"reference\"\ntransport = \"nscc\"\nbalance = \"single\"\n",
);
const ENGINE: (&str, &str) = ("engine", "kind = \"engine\"\n");

const PERMUTATION_2: (&str, &str) = (
    "permutation 2 MB",
    "kind = \"permutation\"\nsize = \"2MB\"\n",
);
const PERMUTATION_16: (&str, &str) = (
    "permutation 16 MB",
    "kind = \"permutation\"\nsize = \"16MB\"\n",
);
const RINGS: (&str, &str) = (
    "rings of 16, 1 MiB",
    "kind = \"ring-all-reduce\"\ngroup = 16\nsize = \"1MiB\"\n",
);
const ALL_TO_ALL_64: (&str, &str) = (
    "all-to-all of 64, 128 KiB, 8 open",
    "kind = \"all-to-all\"\ngroup = 64\nwindow = 8\nsize = \"128KiB\"\n",
);
const ALL_TO_ALL_16: (&str, &str) = (
    "all-to-all of 16, 128 KiB, 8 open",
    "kind = \"all-to-all\"\ngroup = 16\nwindow = 8\nsize = \"128KiB\"\n",
);

struct Case {
    network: Network,
    hosts: (&'static str, &'static str),
    workload: (&'static str, &'static str),
    /// Why mean and makespan are not within the bound with 1024 hosts; empty where they are.
    notes: [&'static str; 2],
}

const fn case(
    network: Network,
    hosts: (&'static str, &'static str),
    workload: (&'static str, &'static str),
    notes: [&'static str; 2],
) -> Case {
    Case {
        network,
        hosts,
        workload,
        notes,
    }
}

const TIMEOUTS: &str = "packets have timeouts, flows have none";
const STEPS: &str = "steps that wait for each other; why they drift apart is not known";
const TAIL: &str = "the slowest flow: single queues get longer than the mean of all";
const PROCESSOR: &str = "the engine's processor is nearly used up, and flows have none";
const NOT_FAIR: &str = "on one way each, NSCC does not share max-min fairly";

const CASES: &[Case] = &[
    case(FAT_TREE, NSCC, PERMUTATION_2, ["", ""]),
    case(FAT_TREE, NSCC, PERMUTATION_16, ["", ""]),
    case(FAT_TREE, NSCC, RINGS, ["", ""]),
    case(FAT_TREE, NSCC, ALL_TO_ALL_64, ["", TIMEOUTS]),
    case(LEAF_SPINE, NSCC, PERMUTATION_2, ["", ""]),
    case(LEAF_SPINE, NSCC, PERMUTATION_16, ["", TAIL]),
    case(LEAF_SPINE, NSCC, RINGS, ["", STEPS]),
    case(LEAF_SPINE, NSCC, ALL_TO_ALL_16, ["", ""]),
    case(LEAF_SPINE, NSCC, ALL_TO_ALL_64, ["", ""]),
    case(LEAF_SPINE, ENGINE, PERMUTATION_2, ["", ""]),
    case(LEAF_SPINE, ENGINE, PERMUTATION_16, ["", ""]),
    case(LEAF_SPINE, ENGINE, RINGS, ["", ""]),
    case(LEAF_SPINE, ENGINE, ALL_TO_ALL_16, ["", ""]),
    case(LEAF_SPINE, ENGINE, ALL_TO_ALL_64, ["", PROCESSOR]),
    case(FAT_TREE, ECMP, PERMUTATION_2, [NOT_FAIR, NOT_FAIR]),
    case(LEAF_SPINE, ECMP, PERMUTATION_2, [NOT_FAIR, NOT_FAIR]),
];

impl Case {
    fn play(&self, subset: Subset, level: &str) -> RunReport {
        let fabric = match subset {
            Subset::Fast => self.network.small,
            Subset::Full => self.network.large,
        };
        let text = format!(
            "[fabric]\n{fabric}[hosts]\n{}[[workload]]\n{}[run]\nlevel = \"{level}\"\nstep_when = \"acknowledged\"\n",
            self.hosts.1, self.workload.1
        );
        play("twin", &text)
    }

    fn rows(&self, subset: Subset) -> [Row; 2] {
        let [packets, flows] = ["packet", "flow"].map(|level| self.play(subset, level).total);
        let hosts = match subset {
            Subset::Fast => 128,
            Subset::Full => 1024,
        };
        let row = |what, packets: u64, flows: u64, note| {
            let [packets, flows] = [packets, flows].map(micros);
            let error = flows / packets - 1.0;
            Row {
                name: format!(
                    "{} {hosts}, {}, {}",
                    self.network.name, self.hosts.0, self.workload.0
                ),
                what,
                packets,
                flows,
                error,
                holds: error.abs() <= BOUND,
                note,
            }
        };
        [
            row("mean, µs", packets.mean_ps, flows.mean_ps, self.notes[0]),
            row(
                "makespan, µs",
                packets.makespan_ps,
                flows.makespan_ps,
                self.notes[1],
            ),
        ]
    }
}

fn micros(picos: u64) -> f64 {
    picos as f64 / 1e6
}

/// Runs a scenario that is known to be good.
fn play(name: &str, text: &str) -> RunReport {
    let none: &[Override] = &[];
    let scenario = Scenario::parse(name, text, None, none).expect("a scenario of our own is good");
    scenario.play(1, Detail::Figures, &mut |_| {})
}

/// Runs the cases one after the other at both levels, each when its first row is asked for.
pub fn rows(subset: Subset) -> impl Iterator<Item = Row> {
    CASES.iter().flat_map(move |case| case.rows(subset))
}

/// 101 306 hosts: a fat tree of switches with 74 ports.
const LARGE: &str = "[fabric]\nkind = \"fat-tree\"\nk = 74\nrate = \"400G\"\ndelay = \"1us\"\n\
    [hosts]\nkind = \"reference\"\ntransport = \"nscc\"\n[run]\nlevel = \"flow\"\n[[workload]]\n";

const LARGE_WORKLOADS: [(&str, &str, &str); 3] = [
    (
        "permutation 16 MB, 101306 hosts",
        "kind = \"permutation\"\nsize = \"16MB\"\n",
        "",
    ),
    (
        "rings of 8, 1 MiB, 100000 hosts",
        "hosts = \"0-99999\"\nkind = \"ring-all-reduce\"\ngroup = 8\nsize = \"1MiB\"\n",
        "",
    ),
    (
        "all-to-all of 32, 128 KiB, 8 open, 100000 hosts",
        "hosts = \"0-99999\"\nkind = \"all-to-all\"\ngroup = 32\nwindow = 8\nsize = \"128KiB\"\n",
        "each message that starts or ends changes the rates of dozens of others",
    ),
];

/// Measures time and memory with 100 000 hosts, one workload after the other.
pub fn speed() -> impl Iterator<Item = Speed> {
    LARGE_WORKLOADS.into_iter().map(|(name, workload, note)| {
        let (bound_seconds, bound_mib) = (20.0, 1024.0);
        forget_peak();
        let start = Instant::now();
        let report = play("large", &format!("{LARGE}{workload}"));
        let seconds = start.elapsed().as_secs_f64();
        let memory_mib = peak_mib();
        let is_small = memory_mib.is_none_or(|mib| mib <= bound_mib);
        Speed {
            name,
            flows: report.total.flows,
            seconds,
            bound_seconds,
            memory_mib,
            bound_mib,
            holds: report.is_finished() && seconds <= bound_seconds && is_small,
            note,
        }
    })
}
