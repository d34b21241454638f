//! The analytic floor: what no algorithm can beat on a network, whatever it knows.
//!
//! Three bounds, of which the largest counts: the longest chain of flows that wait for each other,
//! each alone in an idle network; what a host's links have to carry in and out; and what the
//! links of a leaf to the rest of the network have to carry.

use crate::sim::scenario::{ACK_BYTES, FabricSpec, HostsSpec, host_rate, is_inside};
use crate::sim::time::{ByteTime, Picos};
use crate::sim::topology::End;
use crate::sim::workload::{Flow, Workload};
use crate::sim::world::{Change, Fault};
use crate::units::Rate;

/// The bounds of a workload on a fabric.
#[derive(Debug)]
pub(super) struct Floor<'a> {
    fabric: &'a FabricSpec,
    flows: &'a [Flow],
    /// When each flow starts and ends, each alone in an idle network.
    ideal: Vec<(Picos, Picos)>,
    /// Bytes of each on the wire.
    wire: Vec<u64>,
    /// Rates of ports as a lasting fault at the start leaves them.
    rates: Vec<Rate>,
}

impl<'a> Floor<'a> {
    pub(super) fn new(
        fabric: &'a FabricSpec,
        hosts: &HostsSpec,
        workload: &'a Workload,
        faults: &[Fault],
    ) -> Self {
        let (payload, header) = hosts.packet();
        let wire: Vec<u64> = workload
            .flows()
            .iter()
            .map(|flow| flow.bytes + flow.bytes.div_ceil(payload.max(1)).max(1) * header)
            .collect();
        let alone = |index: u32| {
            let flow = &workload.flows()[index as usize];
            let last = match flow.bytes % payload {
                0 => payload + header,
                rest => rest + header,
            };
            alone(fabric, flow, wire[index as usize], last)
        };
        let ideal = workload
            .ideal(alone)
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        Self {
            fabric,
            flows: workload.flows(),
            ideal,
            wire,
            rates: lasting_rates(fabric, faults),
        }
    }

    /// The least time from the start of the first of these flows to the end of the last.
    pub(super) fn makespan(&self, is_member: impl Fn(&Flow) -> bool) -> Picos {
        let members: Vec<usize> = (0..self.flows.len())
            .filter(|&flow| is_member(&self.flows[flow]))
            .collect();
        let Some(first) = members.iter().map(|&flow| self.ideal[flow].0).min() else {
            return Picos::ZERO;
        };
        let chains = members.iter().map(|&flow| self.ideal[flow].1).max();
        let topology = &self.fabric.topology;
        let hosts = topology.hosts() as usize;
        let mut bounds: Vec<Load> = Vec::new();
        let mut by_host = [vec![Load::default(); hosts], vec![Load::default(); hosts]];
        for &flow in &members {
            let Flow { from, to, .. } = self.flows[flow];
            by_host[0][from as usize].add(self, flow, host_rate(topology, from));
            by_host[1][to as usize].add(self, flow, host_rate(topology, to));
        }
        bounds.extend(by_host.into_iter().flatten());
        bounds.extend(self.leaves(&members));
        let loads = bounds.iter().filter_map(Load::end).max();
        chains.max(loads).unwrap_or(first).since(first)
    }

    /// What goes out of and into each leaf, where hosts have one port.
    fn leaves(&self, members: &[usize]) -> Vec<Load> {
        let topology = &self.fabric.topology;
        if (0..topology.hosts()).any(|host| topology.host_ports_of(host).len() != 1) {
            return Vec::new();
        }
        let leaf = |host: u32| {
            let port = topology.port_of_host_port(topology.host_ports_of(host).start);
            topology.ports()[port as usize].to.index() as usize
        };
        let switches = topology.switches() as usize;
        let mut out = vec![Rate::ZERO; switches];
        let mut into = vec![Rate::ZERO; switches];
        for (index, port) in topology.ports().iter().enumerate() {
            if let (End::Switch(from), End::Switch(to)) = (port.from, port.to) {
                out[from as usize] += self.rates[index];
                into[to as usize] += self.rates[index];
            }
        }
        let mut loads = [
            vec![Load::default(); switches],
            vec![Load::default(); switches],
        ];
        for &flow in members {
            let (from, to) = (leaf(self.flows[flow].from), leaf(self.flows[flow].to));
            if from != to {
                loads[0][from].add(self, flow, out[from]);
                loads[1][to].add(self, flow, into[to]);
            }
        }
        loads.into_iter().flatten().collect()
    }
}

/// Bytes that have to pass one place.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    bytes: u64,
    rate: Rate,
    /// When the first of them can come.
    from: Option<Picos>,
    /// The least that comes after the last of them: its way on, and the acknowledgement.
    after: Option<Picos>,
}

impl Load {
    fn add(&mut self, floor: &Floor<'_>, flow: usize, rate: Rate) {
        let (start, end) = floor.ideal[flow];
        // A flow alone takes the rate of its hosts, whatever this place could do.
        let Flow { from, to, .. } = floor.flows[flow];
        let topology = &floor.fabric.topology;
        let alone = host_rate(topology, from).min(host_rate(topology, to));
        let own = ByteTime::of(alone).time(floor.wire[flow]);
        let after = end.since(start).since(own);
        self.bytes += floor.wire[flow];
        self.rate = rate;
        self.from = Some(self.from.map_or(start, |from| from.min(start)));
        self.after = Some(self.after.map_or(after, |least| least.min(after)));
    }

    fn end(&self) -> Option<Picos> {
        // Through many links at once there is no one link's byte time: bytes over the sum of rates.
        let picos = u128::from(self.bytes) * 1_000_000_000_000 / u128::from(self.rate.0.max(1));
        Some(self.from? + Picos(u64::try_from(picos).unwrap_or(u64::MAX)) + self.after?)
    }
}

/// How long a flow takes that is alone: its bytes at the rate of its hosts, the last packet over
/// the other links, and the acknowledgement back.
fn alone(fabric: &FabricSpec, flow: &Flow, wire: u64, last: u64) -> Picos {
    let topology = &fabric.topology;
    let rate = host_rate(topology, flow.from).min(host_rate(topology, flow.to));
    let ports = [flow.from, flow.to].map(|host| topology.host_ports_of(host).start);
    let way = topology
        .way(&fabric.groups, ports[0], ports[1])
        .unwrap_or_default();
    let onward = way.iter().skip(1).fold(Picos::ZERO, |sum, &port| {
        sum + ByteTime::of(topology.ports()[port as usize].rate).time(last)
    });
    let delay = way.iter().fold(Picos::ZERO, |sum, &port| {
        sum + topology.ports()[port as usize].delay
    });
    let back = topology
        .idle_delay(&fabric.groups, ports[1], ports[0], ACK_BYTES)
        .unwrap_or_default();
    ByteTime::of(rate).time(wire) + onward + delay + back
}

/// The rates of all ports, as faults that begin with the run and do not end leave them.
fn lasting_rates(fabric: &FabricSpec, faults: &[Fault]) -> Vec<Rate> {
    let ports = fabric.topology.ports();
    let mut rates: Vec<Rate> = ports.iter().map(|port| port.rate).collect();
    let both = |port: u32| [port as usize, (port ^ 1) as usize];
    for fault in faults.iter().filter(|fault| fault.at == Picos::ZERO) {
        let undone = |undo: &dyn Fn(Change) -> bool| {
            faults
                .iter()
                .any(|other| other.at > fault.at && undo(other.change))
        };
        match fault.change {
            Change::LinkRate(port, rate)
                if is_inside(&fabric.topology, port)
                    && !undone(&|change| matches!(change, Change::LinkRate(p, _) if p == port)) =>
            {
                for port in both(port) {
                    rates[port] = rate;
                }
            }
            Change::LinkDown(port)
                if is_inside(&fabric.topology, port)
                    && !undone(&|change| matches!(change, Change::LinkUp(p) if p == port)) =>
            {
                for port in both(port) {
                    rates[port] = Rate::ZERO;
                }
            }
            _ => {}
        }
    }
    rates
}
