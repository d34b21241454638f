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
    /// Bytes that the receiver of a flow has which has started and not arrived in full.
    fn delivered(&self, flow: u32) -> u64;
    /// From now on this host takes so many times as long for everything. Hosts whose own time is
    /// not counted ignore it.
    fn slow_down(&mut self, _host: u32, _times: u32) {}
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
    /// This host takes so many times as long for everything it does.
    HostSlow(u32, u32),
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

/// Somebody who looks on while a scenario runs and changes nothing.
pub trait Observer {
    /// Not called again before this time.
    fn next(&self) -> Picos;
    /// The time has come; so many flows have not ended.
    fn observe(&mut self, now: Picos, fabric: &Fabric, open: usize);
}

/// Nobody looks on.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn next(&self) -> Picos {
        Picos::MAX
    }

    fn observe(&mut self, _now: Picos, _fabric: &Fabric, _open: usize) {}
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
    run_observed(
        fabric,
        endpoints,
        workload,
        faults,
        deadline,
        &mut Unobserved,
    )
}

/// [`run`], with somebody who looks on. Looking takes no event: a run that has come to a stop is
/// seen to have, and its result is the same whoever looks.
///
/// # Panics
/// The fabric's books do not balance at the end: a bug of the simulator.
pub fn run_observed<E: Endpoints>(
    fabric: &mut Fabric,
    endpoints: &mut E,
    workload: &Workload,
    faults: &[Fault],
    deadline: Picos,
    observer: &mut impl Observer,
) -> Ended {
    let ended = play(fabric, endpoints, workload, faults, deadline, observer);
    fabric.audit();
    ended
}

fn play<E: Endpoints>(
    fabric: &mut Fabric,
    endpoints: &mut E,
    workload: &Workload,
    faults: &[Fault],
    deadline: Picos,
    observer: &mut impl Observer,
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
        let step = fabric.step(endpoints);
        while fabric.now() >= observer.next() {
            observer.observe(observer.next(), fabric, endpoints.progress().open());
        }
        match step {
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
            for port in both(port) {
                fabric.set_down(port, true, endpoints);
            }
        }
        Change::LinkUp(port) => {
            for port in both(port) {
                fabric.set_down(port, false, endpoints);
            }
        }
        Change::LinkRate(port, rate) => {
            for port in both(port) {
                fabric.set_rate(port, ByteTime::of(rate));
            }
        }
        Change::LinkLoss(port, ppm) => {
            for port in both(port) {
                fabric.set_loss(port, ppm);
            }
        }
        Change::SwitchDown(switch) => fabric.set_switch_down(switch, true, endpoints),
        Change::SwitchUp(switch) => fabric.set_switch_down(switch, false, endpoints),
        Change::Pause(port, class) => fabric.force_pause(port, class, true, endpoints),
        Change::Release(port, class) => fabric.force_pause(port, class, false, endpoints),
        Change::HostSlow(host, times) => endpoints.slow_down(host, times),
        Change::Reroute => fabric.reroute(),
    }
}
