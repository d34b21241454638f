//! How fast the simulator is: packet-hops a second on one thread, and memory, against uet-htsim's
//! on the same machine. A packet-hop is one packet's way over one link, its queue included.

#![expect(clippy::cast_precision_loss, reason = "hops are far below 2^53")]

use std::fs;
use std::time::Instant;

use super::golden::{self, Case};

/// One run.
#[derive(Debug, Clone)]
pub struct Speed {
    /// Network, workload, transport and load balancer.
    pub name: String,
    /// Packet-hops.
    pub hops: u64,
    /// Time on the wall, the building of the network included, in seconds.
    pub seconds: f64,
    /// Millions of packet-hops a second.
    pub mhops_per_second: f64,
    /// What it should be at least.
    pub bound: f64,
    /// What uet-htsim reaches on the same kind of machine, if that was measured.
    pub theirs: Option<f64>,
    /// Most memory that the process has held while it ran, in MiB, if the system tells.
    pub memory_mib: Option<f64>,
    /// What it should be at most.
    pub memory_bound_mib: f64,
    /// Whether both are within their bounds.
    pub holds: bool,
}

/// Measures the cases one after the other.
pub fn rows() -> impl Iterator<Item = Speed> {
    golden::SPEED_CASES.iter().map(measure)
}

/// A case, the speed and the memory that it is to keep to, and what the reference reaches.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpeedCase {
    pub(super) case: Case,
    pub(super) bound: f64,
    pub(super) memory_bound_mib: f64,
    pub(super) theirs: Option<f64>,
}

fn measure(speed: &SpeedCase) -> Speed {
    forget_peak();
    let start = Instant::now();
    let hops = speed.case.hops(1);
    let seconds = start.elapsed().as_secs_f64();
    let mhops_per_second = hops as f64 / seconds / 1e6;
    let memory_mib = peak_mib();
    let is_small = memory_mib.is_none_or(|mib| mib <= speed.memory_bound_mib);
    Speed {
        name: speed.case.name(),
        hops,
        seconds,
        mhops_per_second,
        bound: speed.bound,
        theirs: speed.theirs,
        memory_mib,
        memory_bound_mib: speed.memory_bound_mib,
        holds: mhops_per_second >= speed.bound && is_small,
    }
}

/// Lets the system count the most memory anew, where it can.
pub(in crate::sim) fn forget_peak() {
    // Without it the figure is that of the largest run so far: too high, never too low.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

pub(in crate::sim) fn peak_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
