//! A run: a workload over endpoints over a fabric, with what goes wrong on the way.

use super::fabric::{Fabric, Hosts, Net};
use super::time::{ByteTime, Picos};
use super::topology::Topology;
use super::workload::{Flow, Progress, Workload};
use crate::units::Rate;

/// Hosts that carry flows.
pub trait Endpoints: Hosts {
    /// How far the workload has come.
    fn progress(&mut self) -> &mut Progress;
    /// A flow starts at its sending host.
    fn start(&mut self, flow: u32, spec: &Flow, now: Picos, net: &mut Net);
}

/// Something that happens to the fabric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// Both directions of this port's link are cut.
    LinkDown(u32),
    /// And mended.
    LinkUp(u32),
    /// Both directions of this port's link go at this rate.
    LinkRate(u32, Rate),
    /// The wire of this port's link loses so many of a million packets, both ways.
    LinkLoss(u32, u32),
    /// A switch ends.
    SwitchDown(u32),
    /// And is back.
    SwitchUp(u32),
    /// The far end of a port holds a class up with pause frames.
    Pause(u32, u8),
    /// And lets it go.
    Release(u32, u8),
    /// The switches have found the ways that are left.
    Reroute,
}

/// A change and its time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// When.
    pub at: Picos,
    /// What.
    pub change: Change,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All flows have been acknowledged.
    Finished,
    /// Not all, by the time it had.
    OutOfTime,
    /// Nothing is left that could happen, and some flows have not ended.
    Stuck,
}

const FAULT: u32 = 1 << 28;

/// Runs a workload to its end, or until `deadline`.
pub fn run<E: Endpoints>(
    fabric: &mut Fabric,
    endpoints: &mut E,
    workload: &Workload,
    faults: &[Fault],
    deadline: Picos,
) -> Ended {
    for (index, fault) in (0..).zip(faults) {
        fabric.schedule(fault.at, FAULT | index);
    }
    loop {
        while let Some((flow, at)) = endpoints.progress().poll_start() {
            fabric.schedule(at, flow);
        }
        if endpoints.progress().open() == 0 {
            return Ended::Finished;
        }
        match fabric.step(endpoints) {
            None => return Ended::Stuck,
            Some(_) if fabric.now() > deadline => return Ended::OutOfTime,
            Some(None) => {}
            Some(Some(due)) if due.event & FAULT != 0 => {
                let fault = &faults[(due.event & !FAULT) as usize];
                apply(fabric, endpoints, fault.change);
            }
            Some(Some(due)) => {
                let spec = &workload.flows()[due.event as usize];
                fabric.with_host(spec.from, endpoints, |endpoints, now, net| {
                    endpoints.progress().start(due.event, now);
                    endpoints.start(due.event, spec, now, net);
                });
            }
        }
    }
}

fn apply<E: Endpoints>(fabric: &mut Fabric, endpoints: &mut E, change: Change) {
    let both = |port| [port, Topology::reverse(port)];
    match change {
        Change::LinkDown(port) => {
            both(port)
                .into_iter()
                .for_each(|port| fabric.set_down(port, true, endpoints));
        }
        Change::LinkUp(port) => {
            both(port)
                .into_iter()
                .for_each(|port| fabric.set_down(port, false, endpoints));
        }
        Change::LinkRate(port, rate) => {
            both(port)
                .into_iter()
                .for_each(|port| fabric.set_rate(port, ByteTime::of(rate)));
        }
        Change::LinkLoss(port, ppm) => {
            both(port)
                .into_iter()
                .for_each(|port| fabric.set_loss(port, ppm));
        }
        Change::SwitchDown(switch) => fabric.set_switch_down(switch, true, endpoints),
        Change::SwitchUp(switch) => fabric.set_switch_down(switch, false, endpoints),
        Change::Pause(port, class) => fabric.force_pause(port, class, true, endpoints),
        Change::Release(port, class) => fabric.force_pause(port, class, false, endpoints),
        Change::Reroute => fabric.reroute(),
    }
}
