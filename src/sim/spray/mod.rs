//! Transports that spray packets over many paths, as network adapters of the Ultra Ethernet kind
//! do in hardware: windows (NSCC, Swift, TIMELY, theta-PowerTCP), receiver credit (RCCC), and
//! their load balancers.
//!
//! They are here to be measured against. They see every packet, every mark and every trim, which
//! a library on top of RDMA verbs never does; how close the engine comes with completions alone is
//! the question that this simulator answers. The model follows the public Ultra Ethernet simulator
//! (uet-htsim), whose published results the [`golden`] rows hold it against.

#![expect(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "bytes under way and credit may be negative for a moment, and are far below 2^63"
)]

pub mod balance;
mod delay;
pub mod golden;
mod pull;
mod receiver;
mod sender;
pub mod speed;
mod twister;
pub mod window;

use std::collections::VecDeque;

use super::fabric::{
    Fabric, HEADER_BYTES, Hosts, Net, Overflow, QueueConfig, Routing, SwitchConfig,
};
use super::packet::{AGAIN, CONTROL, MARKED, NONE, Packet, TRIMMED, TRIMMED_AT_LAST_HOP};
use super::time::Picos;
use super::topology::{Groups, Topology};
use super::workload::{Flow, Progress, Workload};
use super::world::Endpoints;
use crate::units::Rate;
use balance::Balance;
use pull::{Asked, Book, Pacer, quantum_time};
use receiver::Receiver;
use sender::Sender;
use window::{Control, Parameters};

/// Bytes of a full packet on the wire.
pub const MTU: u64 = 4150;
/// Bytes of payload in it.
pub const PAYLOAD: u64 = 4086;
/// Bytes of headers, and of an acknowledgement.
const HEADER: u16 = HEADER_BYTES;

// Kinds of packets.
const DATA_PACKET: u8 = 0;
const ACK: u8 = 1;
/// A packet arrived trimmed.
const NACK: u8 = 2;
const GRANT: u8 = 3;
/// A sender that is stuck asks how things stand.
const ASK: u8 = 4;

/// The sequence number of what is about no packet.
const NO_PACKET: u32 = u32::MAX;
/// When control and data both wait at an adapter, so many control packets go for one of data
/// (uet-htsim's `UecNIC`).
const CONTROL_TURNS: u8 = 10;

/// A transport.
#[derive(Debug, Clone)]
pub struct SprayConfig {
    /// Rate of the hosts' links.
    pub rate: Rate,
    /// Longest round trip of the idle network, a full packet there and its acknowledgement back.
    pub rtt: Picos,
    /// What sets the window.
    pub control: Control,
    /// The receiver hands out credit.
    pub credit: bool,
    /// Choice of paths.
    pub balance: Balance,
    /// Paths of a flow, a power of two.
    pub paths: u16,
    /// Window that flows start with, in bytes.
    pub window_first: u64,
    /// Bytes that may arrive without being acknowledged.
    pub ack_bytes: u32,
    /// A packet that nobody has spoken of for so long is sent again.
    pub timeout: Picos,
    /// Switches trim instead of dropping.
    pub trimming: bool,
}

impl SprayConfig {
    /// NSCC over 128 paths with the mixed load balancer: the defaults of uet-htsim, for a network
    /// of this rate and longest round trip.
    #[must_use]
    pub fn new(rate: Rate, rtt: Picos) -> Self {
        let mut config = Self {
            rate,
            rtt,
            control: Control::Nscc,
            credit: false,
            balance: Balance::Mixed,
            paths: 128,
            window_first: 0,
            ack_bytes: 16384,
            timeout: Picos::ZERO,
            trimming: true,
        };
        config.window_first = config.window_max();
        config.set_queue(config.bdp_packets());
        config
    }

    /// Bytes in flight that fill the longest way.
    fn bdp(&self) -> u64 {
        let bytes = u128::from(self.rtt.0) * u128::from(self.rate.0) / 1_000_000_000_000;
        bytes as u64
    }

    fn bdp_packets(&self) -> u64 {
        self.bdp().div_ceil(MTU)
    }

    /// The largest window: one and a half times that.
    fn window_max(&self) -> u64 {
        self.bdp() * 3 / 2
    }

    /// Sets the timeout for switches with queues of so many packets: a full queue at each hop of
    /// the longest way.
    pub fn set_queue(&mut self, packets: u64) {
        let bytes = u128::from(6 * packets * MTU);
        let drain = bytes * 1_000_000_000_000 / u128::from(self.rate.0.max(1));
        self.timeout = Picos::from_micros(15) + Picos(drain as u64);
    }

    /// Switches as uet-htsim has them: queues of so many packets (`None`: a bandwidth-delay
    /// product), marks from a fifth to four fifths of that product.
    #[must_use]
    pub fn switch(&self, queue_packets: Option<u64>, routing: Routing) -> SwitchConfig {
        let capacity = queue_packets.unwrap_or_else(|| self.bdp_packets()) * MTU;
        let share = |fifths: u64| (self.bdp_packets() * fifths).div_ceil(5) * MTU;
        SwitchConfig {
            queue: QueueConfig {
                capacity: capacity as u32,
                control_capacity: 2 * capacity as u32,
                mark_low: share(1) as u32,
                mark_high: share(4) as u32,
                overflow: if self.trimming {
                    Overflow::Trim
                } else {
                    Overflow::Drop
                },
            },
            pause: None,
            shared_buffer: None,
            routing,
        }
    }

    /// A fabric of such switches. With receiver credit the last hop does not mark: its queue is
    /// the receiver's business.
    #[must_use]
    pub fn fabric(
        &self,
        topology: Topology,
        queue_packets: Option<u64>,
        routing: Routing,
        seed: u64,
    ) -> Fabric {
        let switch = self.switch(queue_packets, routing);
        let mut fabric = Fabric::new(topology, &switch, seed);
        self.quiet_last_hop(&mut fabric);
        fabric
    }

    /// With receiver credit the last hop does not mark: its queue is the receiver's business.
    pub fn quiet_last_hop(&self, fabric: &mut Fabric) {
        if self.credit {
            for host in 0..fabric.topology().hosts() {
                for host_port in fabric.topology().host_ports_of(host) {
                    let port = fabric.topology().last_port_to(host_port);
                    let queue = QueueConfig {
                        mark_low: u32::MAX,
                        mark_high: u32::MAX,
                        ..fabric.queue(port)
                    };
                    fabric.set_queue(port, queue);
                }
            }
        }
    }
}

/// The longest round trip between the first host and any other in an idle network: a full packet
/// there, an acknowledgement back. In a regular topology that is the longest of all.
#[must_use]
pub fn longest_round_trip(topology: &Topology) -> Picos {
    let groups = Groups::shortest(topology, |_| true);
    let first = topology.host_ports_of(0).start;
    (1..topology.hosts())
        .filter_map(|host| {
            let to = topology.host_ports_of(host).start;
            let there = topology.idle_delay(&groups, first, to, MTU)?;
            let back = topology.idle_delay(&groups, to, first, u64::from(HEADER))?;
            Some(there + back)
        })
        .max()
        .unwrap_or(Picos::ZERO)
}

/// What the hosts of a run have sent and heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SprayStats {
    /// Data packets sent for the first time.
    pub sent: u64,
    /// Data packets sent again.
    pub again: u64,
    /// Acknowledgements sent.
    pub acks: u64,
    /// Trimmed packets reported.
    pub nacks: u64,
    /// Grants of credit sent.
    pub grants: u64,
    /// Packets given up after a timeout.
    pub timeouts: u64,
    /// Questions of stuck senders.
    pub asks: u64,
}

/// The adapter of one host port.
#[derive(Debug, Default)]
struct Adapter {
    control: VecDeque<Packet>,
    /// Flows that want to send, in turn.
    ready: VecDeque<u32>,
    turn: u8,
    pacer: Pacer,
    /// Flows that this port sends, for their timeouts.
    flows: Vec<u32>,
    timeout_at: Option<Picos>,
}

/// Hosts that speak such a transport.
#[derive(Debug)]
pub struct SprayHosts {
    config: SprayConfig,
    parameters: Parameters,
    seed: u64,
    quantum: Picos,
    progress: Progress,
    adapters: Vec<Adapter>,
    /// The first port of each host, and one more.
    host_ports: Vec<u32>,
    /// Where a flow's two ends are kept while it is open.
    slots: Vec<u32>,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    free: Vec<u32>,
    stats: SprayStats,
}

/// The receivers, as their pacers see them.
struct Receivers<'a>(&'a mut [Receiver]);

impl Book for Receivers<'_> {
    fn asked(&mut self, slot: u32) -> &mut Asked {
        &mut self.0[slot as usize].asked
    }
}

impl SprayHosts {
    /// Hosts at the ends of this fabric that are going to carry this workload.
    #[must_use]
    pub fn new(fabric: &Fabric, workload: &Workload, config: SprayConfig, seed: u64) -> Self {
        let topology = fabric.topology();
        let hosts = topology.hosts();
        let mut host_ports: Vec<u32> = (0..hosts)
            .map(|h| topology.host_ports_of(h).start)
            .collect();
        let ports = (0..hosts)
            .last()
            .map_or(0, |h| topology.host_ports_of(h).end);
        host_ports.push(ports);
        Self {
            parameters: Parameters::new(
                config.rate,
                config.rtt,
                config.trimming,
                config.window_first,
            ),
            quantum: quantum_time(config.rate),
            config,
            seed,
            progress: Progress::new(workload),
            adapters: (0..ports).map(|_| Adapter::default()).collect(),
            host_ports,
            slots: vec![NONE; workload.flows().len()],
            senders: Vec::new(),
            receivers: Vec::new(),
            free: Vec::new(),
            stats: SprayStats::default(),
        }
    }

    /// What has been sent and heard.
    #[must_use]
    pub fn stats(&self) -> SprayStats {
        self.stats
    }

    /// The host port at one end of a flow; a host with several spreads its flows over them.
    fn port_of(&self, host: u32, flow: u32) -> u32 {
        let (first, end) = (
            self.host_ports[host as usize],
            self.host_ports[host as usize + 1],
        );
        first + flow % (end - first)
    }

    fn host_of(&self, port: u32) -> u32 {
        if self.host_ports.len() == self.adapters.len() + 1 {
            return port;
        }
        self.host_ports.partition_point(|&first| first <= port) as u32 - 1
    }

    fn open(&mut self, sender: Sender, receiver: Receiver) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.senders[slot as usize] = sender;
            self.receivers[slot as usize] = receiver;
            return slot;
        }
        self.senders.push(sender);
        self.receivers.push(receiver);
        self.senders.len() as u32 - 1
    }

    /// The sender knows that everything has arrived.
    fn finish(&mut self, slot: u32, now: Picos) {
        let sender = &self.senders[slot as usize];
        let flow = sender.flow;
        self.progress.acknowledge(flow, now);
        self.slots[flow as usize] = NONE;
        let flows = &mut self.adapters[sender.from as usize].flows;
        if let Some(place) = flows.iter().position(|&other| other == slot) {
            flows.swap_remove(place);
        }
        self.release(slot);
    }

    /// Gives the slot of a flow that has ended back, once neither the adapter nor the pacer has it
    /// in a list.
    fn release(&mut self, slot: u32) {
        let sender = &mut self.senders[slot as usize];
        let receiver = &self.receivers[slot as usize];
        if !sender.is_queued && !receiver.asked.is_listed() {
            sender.retire();
            self.free.push(slot);
        }
    }

    fn release_if_over(&mut self, slot: u32) {
        if self.slots[self.senders[slot as usize].flow as usize] != slot {
            self.release(slot);
        }
    }

    /// Puts a flow in line at the adapter if it has something to send.
    fn offer(&mut self, slot: u32, net: &mut Net) {
        let sender = &mut self.senders[slot as usize];
        if sender.is_queued || !sender.may_send() {
            return;
        }
        sender.is_queued = true;
        let port = sender.from;
        self.adapters[port as usize].ready.push_back(slot);
        net.kick(port);
    }

    fn reply(&mut self, port: u32, packet: Packet, net: &mut Net) {
        self.adapters[port as usize].control.push_back(packet);
        net.kick(port);
    }

    // ---- the receiving side ----

    fn on_data(&mut self, port: u32, slot: u32, packet: &Packet, now: Picos, net: &mut Net) {
        self.on_target(port, slot, packet.words[0], now, net);
        let receiver = &mut self.receivers[slot as usize];
        let answer = if packet.is(TRIMMED) && !receiver.has(packet.seq) {
            let mut nack = receiver.header(packet, NACK);
            nack.flags = packet.flags & (MARKED | TRIMMED_AT_LAST_HOP);
            self.stats.nacks += 1;
            if self.config.credit {
                self.join(port, slot, now, net);
            }
            Some(nack)
        } else if packet.is(TRIMMED) || receiver.on_data(packet, self.config.ack_bytes) {
            self.stats.acks += 1;
            Some(receiver.ack(packet))
        } else {
            None
        };
        let receiver = &self.receivers[slot as usize];
        if receiver.arrived == receiver.packets {
            self.progress.receive(receiver.flow, now);
        }
        if let Some(answer) = answer {
            self.reply(port, answer, net);
        }
    }

    fn on_ask(&mut self, port: u32, slot: u32, packet: &Packet, now: Picos, net: &mut Net) {
        self.on_target(port, slot, packet.words[0], now, net);
        if self.config.credit {
            self.join(port, slot, now, net);
        }
        let answer = self.receivers[slot as usize].answer(packet);
        self.stats.acks += 1;
        self.reply(port, answer, net);
    }

    /// A sender has said how much it wants.
    fn on_target(&mut self, port: u32, slot: u32, target: u64, now: Picos, net: &mut Net) {
        if !self.config.credit {
            return;
        }
        let pacer = &mut self.adapters[port as usize].pacer;
        if pacer.ask(slot, target, &mut Receivers(&mut self.receivers)) {
            self.grant(port, now, net);
        }
    }

    fn join(&mut self, port: u32, slot: u32, now: Picos, net: &mut Net) {
        let pacer = &mut self.adapters[port as usize].pacer;
        if pacer.join(slot, &mut Receivers(&mut self.receivers)) {
            self.grant(port, now, net);
        }
    }

    /// The pacer of a port makes its next grant.
    fn grant(&mut self, port: u32, now: Picos, net: &mut Net) {
        let account = self.config.window_max();
        let pacer = &mut self.adapters[port as usize].pacer;
        let mut book = Receivers(&mut self.receivers);
        let Some(grant) = pacer.run(now, self.quantum, account, &mut book) else {
            return;
        };
        if let Some(at) = pacer.next_at() {
            let host = self.host_of(port);
            net.wake_at(host, at);
        }
        let receiver = &mut self.receivers[grant.slot as usize];
        receiver.grants += 1;
        let mut packet = Packet::new(receiver.to, HEADER, CONTROL, GRANT);
        packet.flow = receiver.flow;
        packet.seq = NO_PACKET;
        packet.entropy = (receiver.flow << 16) | (receiver.grants % 128);
        packet.words[0] = grant.granted;
        self.stats.grants += 1;
        self.release_if_over(grant.slot);
        self.reply(port, packet, net);
    }

    // ---- the sending side ----

    fn on_feedback(&mut self, slot: u32, packet: &Packet, now: Picos, net: &mut Net) {
        let sender = &mut self.senders[slot as usize];
        match packet.kind {
            ACK => {
                if sender.on_ack(packet, &self.parameters, now) {
                    self.finish(slot, now);
                    return;
                }
            }
            NACK => sender.on_trim(packet, &self.parameters, now),
            _ => sender.on_grant(packet),
        }
        self.offer(slot, net);
    }

    /// The next data packet of a port: flows take turns, packet by packet.
    fn pull_data(&mut self, port: u32, paused: u8, now: Picos) -> Option<Packet> {
        for _ in 0..self.adapters[port as usize].ready.len() {
            let adapter = &mut self.adapters[port as usize];
            let slot = adapter.ready.pop_front()?;
            let sender = &mut self.senders[slot as usize];
            if paused & 1 << sender.class != 0 {
                adapter.ready.push_back(slot);
                continue;
            }
            if !sender.may_send() {
                sender.is_queued = false;
                self.release_if_over(slot);
                continue;
            }
            let packet = sender.send(adapter.ready.len(), now);
            if packet.is(AGAIN) {
                self.stats.again += 1;
            } else {
                self.stats.sent += 1;
            }
            sender.is_queued = sender.may_send();
            if sender.is_queued {
                adapter.ready.push_back(slot);
            }
            return Some(packet);
        }
        None
    }

    /// Looks at all flows of a port for what has not been heard of.
    fn check_timeouts(&mut self, port: u32, now: Picos, net: &mut Net) {
        let timeout = self.config.timeout;
        let mut earliest: Option<Picos> = None;
        for index in 0..self.adapters[port as usize].flows.len() {
            let slot = self.adapters[port as usize].flows[index];
            let sender = &mut self.senders[slot as usize];
            if sender.deadline(timeout).is_some_and(|at| at <= now) {
                let (given_up, ask) = sender.on_timeout(&self.config, now);
                self.stats.timeouts += given_up;
                if let Some(ask) = ask {
                    self.stats.asks += 1;
                    self.reply(port, ask, net);
                }
                self.offer(slot, net);
            }
            let deadline = self.senders[slot as usize].deadline(timeout);
            // What waits for its turn is on no clock, but will be when it is sent.
            let deadline = deadline.unwrap_or(now + timeout);
            earliest = Some(earliest.map_or(deadline, |at| at.min(deadline)));
        }
        self.adapters[port as usize].timeout_at = earliest;
        if let Some(at) = earliest {
            net.wake_at(self.host_of(port), at);
        }
    }
}

impl Hosts for SprayHosts {
    fn receive(&mut self, port: u32, packet: &Packet, now: Picos, net: &mut Net) {
        let slot = self.slots[packet.flow as usize];
        if slot == NONE {
            return; // a straggler of a flow that has ended
        }
        match packet.kind {
            DATA_PACKET => self.on_data(port, slot, packet, now, net),
            ASK => self.on_ask(port, slot, packet, now, net),
            _ => self.on_feedback(slot, packet, now, net),
        }
    }

    fn pull(&mut self, port: u32, paused: u8, now: Picos, _: &mut Net) -> Option<Packet> {
        let adapter = &mut self.adapters[port as usize];
        if !adapter.control.is_empty() {
            if adapter.ready.is_empty() {
                return adapter.control.pop_front();
            }
            adapter.turn = (adapter.turn + 1) % (CONTROL_TURNS + 1);
            if adapter.turn != 0 {
                return adapter.control.pop_front();
            }
        }
        self.pull_data(port, paused, now)
            .or_else(|| self.adapters[port as usize].control.pop_front())
    }

    fn wake(&mut self, host: u32, now: Picos, net: &mut Net) {
        let (first, end) = (
            self.host_ports[host as usize],
            self.host_ports[host as usize + 1],
        );
        for port in first..end {
            let adapter = &self.adapters[port as usize];
            let grants = adapter.pacer.next_at().is_some_and(|at| at <= now);
            let checks = adapter.timeout_at.is_some_and(|at| at <= now);
            if grants {
                self.grant(port, now, net);
            }
            if checks {
                self.check_timeouts(port, now, net);
            }
        }
    }

    fn glance_at_receive(&self, port: u32, packet: &Packet) -> u64 {
        let slot = self.slots[packet.flow as usize];
        let flow = match packet.kind {
            _ if slot == NONE => 0,
            DATA_PACKET | ASK => self.receivers[slot as usize].glance(packet),
            _ => self.senders[slot as usize].glance(packet.seq),
        };
        flow ^ self.glance_at_pull(port)
    }

    fn glance_at_pull(&self, port: u32) -> u64 {
        let adapter = &self.adapters[port as usize];
        let control = adapter.control.front().map_or(0, |packet| packet.flow);
        let ready = adapter.ready.front().map_or(0, |&slot| {
            let sender = &self.senders[slot as usize];
            sender.glance(NO_PACKET)
        });
        ready ^ u64::from(control) ^ u64::from(adapter.turn)
    }
}

impl Endpoints for SprayHosts {
    fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    fn delivered(&self, flow: u32) -> u64 {
        let slot = self.slots[flow as usize];
        let receiver = (slot != NONE).then(|| &self.receivers[slot as usize]);
        receiver.map_or(0, Receiver::payload)
    }

    fn start(&mut self, flow: u32, spec: &Flow, now: Picos, net: &mut Net) {
        let ports = (self.port_of(spec.from, flow), self.port_of(spec.to, flow));
        let sender = Sender::new(flow, spec, ports, &self.config, &self.parameters, self.seed);
        let receiver = Receiver::new(flow, ports.0, sender.packets());
        let slot = self.open(sender, receiver);
        self.slots[flow as usize] = slot;
        let timeout_at = now + self.config.timeout;
        let adapter = &mut self.adapters[ports.0 as usize];
        adapter.flows.push(slot);
        if adapter.timeout_at.is_none() {
            adapter.timeout_at = Some(timeout_at);
            net.wake_at(spec.from, timeout_at);
        }
        self.offer(slot, net);
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::BULK;
    use super::super::topology::LinkSpec;
    use super::super::workload::DoneWhen;
    use super::super::world::{Ended, run};
    use super::*;

    /// All but one of 16 hosts send 2 MB to that one. When each had it, in order of time, packets
    /// trimmed, and slots left in use.
    fn incast(control: Control, balance: Balance, trimming: bool) -> (Vec<Picos>, u64, usize) {
        let link = LinkSpec {
            rate: Rate::from_mbps(100_000),
            delay: Picos::from_micros(1),
        };
        let topology = Topology::fat_tree(4, link).unwrap();
        let mut config = SprayConfig::new(link.rate, longest_round_trip(&topology));
        config.control = control;
        config.balance = balance;
        config.trimming = trimming;
        let mut workload = Workload::new(DoneWhen::Received);
        let part = workload.add_part("flows");
        for from in 1..16 {
            workload.add(Flow {
                from,
                to: 0,
                bytes: 2_000_000,
                start: Picos::ZERO,
                class: BULK,
                part,
            });
        }
        let mut fabric = config.fabric(topology, None, Routing::Hash, 1);
        let mut hosts = SprayHosts::new(&fabric, &workload, config, 1);
        let deadline = Picos::from_micros(100_000);
        let ended = run(&mut fabric, &mut hosts, &workload, &[], deadline);
        assert_eq!(ended, Ended::Finished, "{control:?} {balance:?}");
        assert_eq!(trimming, hosts.stats.nacks > 0);
        let mut ends: Vec<Picos> = (0..15).filter_map(|f| hosts.progress.ended(f)).collect();
        ends.sort_unstable();
        let used = hosts.senders.len() - hosts.free.len();
        (ends, hosts.stats.nacks, used)
    }

    #[test]
    fn every_window_fills_the_last_link_and_gives_its_memory_back() {
        // All bytes with their headers at 80 ps, and the shortest way there and back.
        let ideal = 15.0 * (2_000_000.0 + 490.0 * 64.0) * 80e-6 + 4.0;
        let constant = incast(Control::Constant(262_926), Balance::Mixed, true).1;
        for control in [
            Control::Nscc,
            Control::Swift,
            Control::ThetaPower,
            Control::Timely,
        ] {
            let (ends, trims, used) = incast(control, Balance::Mixed, true);
            let last = ends[14].as_micros_f64();
            assert!((ideal..ideal * 1.1).contains(&last), "{control:?}: {last}");
            assert!(trims * 4 < constant, "{control:?}: {trims} of {constant}");
            assert_eq!(used, 0, "{control:?}");
        }
    }

    #[test]
    fn every_balancer_recovers_from_losses_by_timeouts_alone() {
        for balance in [
            Balance::Oblivious,
            Balance::Bitmap,
            Balance::Reps,
            Balance::RepsLegacy,
            Balance::Mixed,
        ] {
            let (ends, _, used) = incast(Control::Nscc, balance, false);
            assert_eq!((ends.len(), used), (15, 0), "{balance:?}");
        }
    }
}
