//! The fabric: ports, wires and switches, and the loop that moves packets through them.
//!
//! A port is one direction of a link: queues by class, a transmitter, and a wire of fixed delay.
//! A packet costs one event for each hop, its arrival at the far end. When the transmitter is
//! free again is not an event of its own: a port catches up whenever somebody touches it, and
//! somebody always does before its next packet could arrive anywhere, namely the arrival of the
//! packet before. Where buffers are shared or senders are paused, others must know at once what
//! has left, and the ports of such switches get an event for that too.

mod ahead;
mod audit;
pub(in crate::sim) mod switch;

use super::events::EventQueue;
use super::packet::{CLASSES, Chain, DATA, MARKED, NONE, Packet, Pool, TRIMMED};
use super::random::{Purpose, Stream};
use super::time::{ByteTime, Picos};
use super::topology::{End, Groups, Topology};

/// Bytes of a packet whose payload was trimmed.
pub const HEADER_BYTES: u16 = 64;
/// Bytes of a pause frame.
const PAUSE_BYTES: u64 = 64;

/// What becomes of data that finds its queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It is dropped.
    Drop,
    /// Its payload is cut off, and the header goes on in the control class: that of the packet
    /// that arrives or of the last one in the queue, by a coin.
    Trim,
}

/// The queue of a port, per class of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// Bytes that fit; the packet being sent counts.
    pub capacity: u32,
    /// Bytes that fit into the control class.
    pub control_capacity: u32,
    /// Marks nothing up to this backlog, at departure; `u32::MAX`: never.
    pub mark_low: u32,
    /// Marks everything above this one; in between with a probability that grows evenly.
    pub mark_high: u32,
    /// When it is full.
    pub overflow: Overflow,
}

/// Pause frames (PFC): bytes in a switch that came over one link, per class.
#[derive(Debug, Clone, Copy)]
pub struct PauseConfig {
    /// The sender is paused above this.
    pub on: u32,
    /// And released below this.
    pub off: u32,
    /// What may still arrive after that; beyond it data is dropped.
    pub headroom: u32,
}

/// How a switch chooses among the ports that lead to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// By a hash of the packet's entropy and the switch's salt.
    Hash,
    /// The port with the least backlog, for each packet.
    Adaptive,
    /// For each packet of data one of the ports in the emptiest of four bands, at random, as of
    /// up to so long ago: what a switch can look up at line rate. Control goes by the hash.
    AdaptiveBands(Picos),
}

/// What a switch is like.
#[derive(Debug, Clone, Copy)]
pub struct SwitchConfig {
    /// Its ports' queues.
    pub queue: QueueConfig,
    /// Pauses its senders instead of dropping.
    pub pause: Option<PauseConfig>,
    /// One buffer for all ports, of so many bytes: a queue may take at most as much as is free.
    pub shared_buffer: Option<u64>,
    /// Choice of the way.
    pub routing: Routing,
}

/// What happened at a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets sent.
    pub packets: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Packets trimmed.
    pub trims: u64,
    /// Packets dropped: no room, no link, or a bit error on the wire.
    pub drops: u64,
    /// Packets marked.
    pub marks: u64,
    /// Times it was told to pause.
    pub pauses: u64,
    /// How long it was paused, all classes together.
    pub paused: Picos,
    /// Most bytes of data waiting.
    pub backlog_max: u32,
}

/// Packets of the whole fabric: each that was sent has been delivered or dropped, or is under way
/// ([`Fabric::audit`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets that hosts sent.
    pub sent: u64,
    /// Packets that hosts received, trimmed ones included.
    pub delivered: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Bytes that hosts sent.
    pub sent_bytes: u64,
    /// Bytes that hosts received.
    pub delivered_bytes: u64,
    /// Bytes of the packets dropped.
    pub dropped_bytes: u64,
    /// Bytes that were cut off packets.
    pub trimmed_bytes: u64,
    /// Hops travelled.
    pub hops: u64,
    /// Events handled.
    pub events: u64,
}

/// What hosts do with packets. Every call carries the time at which it happens to them; for one
/// host it never goes backwards.
pub trait Hosts {
    /// A packet has arrived at this host port.
    fn receive(&mut self, port: u32, packet: &Packet, now: Picos, net: &mut Net);
    /// The transmitter of this host port is free: what it sends next, of the classes whose bit
    /// in `paused` is clear.
    fn pull(&mut self, port: u32, paused: u8, now: Picos, net: &mut Net) -> Option<Packet>;
    /// The time that the host asked for by [`Net::wake_at`] has come (or an earlier request for it).
    fn wake(&mut self, host: u32, now: Picos, net: &mut Net);
    /// Reads what [`Hosts::receive`] is going to read when this packet arrives, so that it comes
    /// into the cache. The answer is made of all that was read, and means nothing.
    fn glance_at_receive(&self, _port: u32, _packet: &Packet) -> u64 {
        0
    }
    /// The same for [`Hosts::pull`].
    fn glance_at_pull(&self, _port: u32) -> u64 {
        0
    }
}

/// A gap between packets that does not fit into a packet.
const FAR: u32 = u32::MAX;

const KIND_SHIFT: u32 = 29;
const ARRIVAL: u32 = 0;
const DEPARTURE: u32 = 1;
const WAKE: u32 = 2;
const PAUSE: u32 = 3;
const OUTSIDE: u32 = 4;
const INDEX: u32 = (1 << KIND_SHIFT) - 1;

/// What hosts may ask of the fabric.
#[derive(Debug)]
pub struct Net {
    queue: EventQueue,
    kicked: Vec<u32>,
}

impl Net {
    /// Calls [`Hosts::wake`] of this host at this time. Requests add up; none is withdrawn.
    pub fn wake_at(&mut self, host: u32, at: Picos) {
        self.queue.push(at, WAKE << KIND_SHIFT | host);
    }

    /// This host port has something to send: its transmitter is started if it is idle.
    pub fn kick(&mut self, port: u32) {
        self.kicked.push(port);
    }
}

#[derive(Debug, Clone, Copy)]
struct Queue {
    chain: Chain,
    bytes: u32,
}

/// One direction of a link: what every packet needs of it, in two cache lines. A large fabric's
/// ports do not fit into the cache, and a line that has to be fetched takes longer than all that is
/// done with it.
#[derive(Debug)]
#[repr(align(64))]
#[expect(
    clippy::struct_field_names,
    reason = "a host's port is what the topology calls it"
)]
struct Port {
    /// When the transmitter is free, if `sending`.
    free_at: Picos,
    byte_time: ByteTime,
    delay: Picos,
    coin: Stream,
    /// Packets and bytes sent.
    packets: u64,
    bytes: u64,
    sending: u32,
    /// Of the packet being sent: its bytes and class, and whether it may be marked. Nobody needs to
    /// look at the packet itself when it has left.
    sending_bytes: u16,
    sending_class: u8,
    sending_data: bool,
    /// The packet being sent (last) and those on the wire.
    flight: Chain,
    queues: [Queue; CLASSES],
    /// The switch at the far end, or the host port there.
    to: u32,
    /// The host port that it belongs to, or [`NONE`] for a switch's.
    host_port: u32,
    /// The switch it belongs to, or [`NONE`].
    switch: u32,
    /// Drops one packet of so many million on the wire.
    loss_ppm: u32,
    backlog_max: u32,
    to_host: bool,
    /// Its departures matter to others at once.
    eager: bool,
    is_down: bool,
    /// Classes that may not send, by bit.
    paused: u8,
    /// Its queue's configuration, by its place in the fabric's list.
    queue: u8,
}

const _: () = assert!(size_of::<Port>() == 128);

/// The rest of a port.
#[derive(Debug, Default)]
struct Aside {
    /// Bytes that came over this link and are still in the switch at its far end.
    inside: [u32; CLASSES],
    /// Classes that the far end has asked to pause.
    asked_to_pause: u8,
    paused_since: Picos,
    /// Its band of backlog, when somebody last looked.
    band: u8,
    band_at: Option<Picos>,
    /// But for what the port itself counts.
    stats: PortStats,
}

#[derive(Debug)]
struct Switch {
    config: SwitchConfig,
    salt: u32,
    coin: Stream,
    used: u64,
    is_down: bool,
}

/// Something happened that the fabric does not handle itself: an event from outside is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// When.
    pub at: Picos,
    /// The number it was scheduled with.
    pub event: u32,
}

/// All ports, wires and switches of a run.
#[derive(Debug)]
pub struct Fabric {
    net: Net,
    pool: Pool,
    ports: Vec<Port>,
    asides: Vec<Aside>,
    switches: Vec<Switch>,
    /// The switches' own, then those of single ports.
    queues: Vec<QueueConfig>,
    topology: Topology,
    groups: Groups,
    totals: Totals,
    now: Picos,
    /// Whether it is too large for the cache.
    looks_ahead: bool,
}

impl Fabric {
    /// An idle fabric at the start of time.
    #[must_use]
    pub fn new(topology: Topology, config: &SwitchConfig, seed: u64) -> Self {
        let groups = Groups::shortest(&topology, |_| true);
        let eager = config.pause.is_some() || config.shared_buffer.is_some();
        let ports = topology
            .ports()
            .iter()
            .enumerate()
            .map(|(index, port)| Port {
                free_at: Picos::ZERO,
                byte_time: ByteTime::of(port.rate),
                delay: port.delay,
                coin: Stream::new(seed, Purpose::Port, index as u64),
                packets: 0,
                bytes: 0,
                sending: NONE,
                sending_bytes: 0,
                sending_class: 0,
                sending_data: false,
                flight: Chain::EMPTY,
                queues: [Queue {
                    chain: Chain::EMPTY,
                    bytes: 0,
                }; CLASSES],
                to: port.to.index(),
                host_port: if port.from.is_host() {
                    port.from.index()
                } else {
                    NONE
                },
                switch: if port.from.is_host() {
                    NONE
                } else {
                    port.from.index()
                },
                loss_ppm: 0,
                backlog_max: 0,
                to_host: port.to.is_host(),
                eager: eager && !port.from.is_host(),
                is_down: false,
                paused: 0,
                queue: 0,
            })
            .collect();
        let asides = topology.ports().iter().map(|_| Aside::default()).collect();
        let looks_ahead = topology.ports().len() >= ahead::PORTS_MIN;
        let switches = (0..u64::from(topology.switches()))
            .map(|index| {
                let mut stream = Stream::new(seed, Purpose::Salt, index);
                Switch {
                    config: *config,
                    salt: stream.below(1 << 31),
                    coin: stream,
                    used: 0,
                    is_down: false,
                }
            })
            .collect();
        Self {
            net: Net {
                queue: EventQueue::new(),
                kicked: Vec::new(),
            },
            pool: Pool::new(),
            ports,
            asides,
            switches,
            queues: vec![config.queue],
            topology,
            groups,
            totals: Totals::default(),
            now: Picos::ZERO,
            looks_ahead,
        }
    }

    /// The switches that a packet of this entropy passes between two host ports: what probes
    /// with a small time to live would report, on a network that answers them. Where switches
    /// choose anew for each packet, one of many answers.
    #[must_use]
    pub fn trace(&self, from: u32, to: u32, entropy: u32) -> Vec<u32> {
        let mut switches = Vec::new();
        let mut port = self.topology.port_of_host_port(from);
        while let End::Switch(switch) = self.topology.ports()[port as usize].to {
            switches.push(switch);
            let group = self.groups.towards(switch, to);
            let Some(&next) = group.get(self.switches[switch as usize].pick(entropy, group.len()))
            else {
                break;
            };
            port = next;
        }
        switches
    }

    /// The time of the last event.
    #[must_use]
    pub fn now(&self) -> Picos {
        self.now
    }

    /// What hosts may ask for, for those who start them.
    pub fn net(&mut self) -> &mut Net {
        &mut self.net
    }

    /// How it is built.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Counts of the whole fabric.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Packets under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        u64::from(self.pool.live())
    }

    /// What happened at a port.
    #[must_use]
    pub fn stats(&self, port: u32) -> PortStats {
        let p = &self.ports[port as usize];
        PortStats {
            packets: p.packets,
            bytes: p.bytes,
            backlog_max: p.backlog_max,
            ..self.asides[port as usize].stats
        }
    }

    /// Bytes of data waiting at a port; as of the last time somebody touched it.
    #[must_use]
    pub fn backlog(&self, port: u32) -> u64 {
        let queues = &self.ports[port as usize].queues[1..];
        queues.iter().map(|q| u64::from(q.bytes)).sum()
    }

    /// Lets [`Fabric::step`] stop at this time, with this number (below 2^29).
    pub fn schedule(&mut self, at: Picos, event: u32) {
        let at = at.max(self.now);
        self.net.queue.push(at, OUTSIDE << KIND_SHIFT | event);
    }

    /// The queue of a port.
    #[must_use]
    pub fn queue(&self, port: u32) -> QueueConfig {
        self.queues[usize::from(self.ports[port as usize].queue)]
    }

    /// Gives one port of a switch a queue that is not like the others.
    ///
    /// # Panics
    /// More than 256 kinds of queues.
    pub fn set_queue(&mut self, port: u32, config: QueueConfig) {
        let known = self.queues.iter().position(|&other| other == config);
        let place = known.unwrap_or_else(|| {
            self.queues.push(config);
            self.queues.len() - 1
        });
        let place = u8::try_from(place).expect("a run has a handful of kinds of queues");
        self.ports[port as usize].queue = place;
    }

    /// Changes the rate of a port, from its next packet on.
    pub fn set_rate(&mut self, port: u32, byte_time: ByteTime) {
        self.ports[port as usize].byte_time = byte_time;
    }

    /// Loses so many of a million packets on the wire of a port.
    pub fn set_loss(&mut self, port: u32, ppm: u32) {
        self.ports[port as usize].loss_ppm = ppm;
    }

    /// Cuts or mends one direction of a link. What it carries when it is cut is lost.
    pub fn set_down<H: Hosts>(&mut self, port: u32, down: bool, hosts: &mut H) {
        self.advance(port, hosts);
        self.ports[port as usize].is_down = down;
        if down {
            self.drop_all(port);
        } else {
            self.begin(port, self.now, hosts);
        }
    }

    /// Ends or revives a switch: everything in it is lost, and nothing gets through.
    pub fn set_switch_down<H: Hosts>(&mut self, switch: u32, down: bool, hosts: &mut H) {
        self.switches[switch as usize].is_down = down;
        for port in 0..self.ports.len() as u32 {
            if self.ports[port as usize].switch == switch {
                self.set_down(port, down, hosts);
            }
        }
    }

    /// Pauses or releases a class of a port from outside: a broken receiver that sends pause
    /// frames without end.
    pub fn force_pause<H: Hosts>(&mut self, port: u32, class: u8, pause: bool, hosts: &mut H) {
        self.handle_pause(port, class, pause, hosts);
    }

    /// Finds the ways anew, without the ports and switches that are down.
    pub fn reroute(&mut self) {
        let (ports, switches) = (&self.ports, &self.switches);
        self.groups = Groups::shortest(&self.topology, |port| {
            let p = &ports[port as usize];
            let ends_up = p.to_host || !switches[p.to as usize].is_down;
            !p.is_down && ends_up
        });
    }

    /// Handles the next event. The answer is an event from outside that is due, if it is one;
    /// `None`: nothing is left.
    pub fn step<H: Hosts>(&mut self, hosts: &mut H) -> Option<Option<Due>> {
        let (at, event) = self.net.queue.pop()?;
        debug_assert!(at >= self.now, "time goes backwards");
        self.now = at;
        self.totals.events += 1;
        if self.looks_ahead {
            self.look_ahead(hosts);
        }
        let index = event & INDEX;
        match event >> KIND_SHIFT {
            ARRIVAL => self.arrival(index, hosts),
            DEPARTURE => self.advance(index, hosts),
            WAKE => {
                self.advance_host(index, hosts);
                hosts.wake(index, at, &mut self.net);
                self.start_kicked(hosts);
            }
            PAUSE => {
                let class = (index / 2 % 4) as u8;
                self.handle_pause(index / 8, class, index % 2 == 1, hosts);
            }
            _ => return Some(Some(Due { at, event: index })),
        }
        Some(None)
    }

    /// Starts the transmitters that hosts have asked for.
    pub fn start_kicked<H: Hosts>(&mut self, hosts: &mut H) {
        while let Some(host_port) = self.net.kicked.pop() {
            let port = self.topology.port_of_host_port(host_port);
            self.advance(port, hosts);
            self.begin(port, self.now, hosts);
        }
    }

    /// Calls something of a host from outside: catches up first, starts what it asks for then.
    pub fn with_host<H: Hosts>(
        &mut self,
        host: u32,
        hosts: &mut H,
        call: impl FnOnce(&mut H, Picos, &mut Net),
    ) {
        self.advance_host(host, hosts);
        call(hosts, self.now, &mut self.net);
        self.start_kicked(hosts);
    }

    fn advance_host<H: Hosts>(&mut self, host: u32, hosts: &mut H) {
        for host_port in self.topology.host_ports_of(host) {
            let port = self.topology.port_of_host_port(host_port);
            self.advance(port, hosts);
        }
    }

    // ---- one port ----

    /// Catches up with what the port has sent by now.
    fn advance<H: Hosts>(&mut self, port: u32, hosts: &mut H) {
        loop {
            let p = &self.ports[port as usize];
            if p.sending == NONE || p.free_at > self.now {
                return;
            }
            let at = p.free_at;
            self.complete(port);
            self.begin(port, at, hosts);
        }
    }

    /// The packet being sent has left: it is marked by what stays behind.
    fn complete(&mut self, port: u32) {
        let at = port as usize;
        let p = &mut self.ports[at];
        let place = std::mem::replace(&mut p.sending, NONE);
        let bytes = u32::from(p.sending_bytes);
        p.packets += 1;
        p.bytes += u64::from(bytes);
        if p.switch == NONE {
            return;
        }
        let class = usize::from(p.sending_class);
        let queue = &mut p.queues[class];
        queue.bytes -= bytes;
        if p.sending_data {
            let config = &self.queues[usize::from(p.queue)];
            let mark = if queue.bytes <= config.mark_low {
                false
            } else if queue.bytes > config.mark_high {
                true
            } else {
                let above = u64::from(queue.bytes - config.mark_low);
                p.coin
                    .chance(above, u64::from(config.mark_high - config.mark_low))
            };
            if mark {
                self.pool.get_mut(place).flags |= MARKED;
                self.asides[at].stats.marks += 1;
            }
        }
        if p.eager {
            self.switches[p.switch as usize].used -= u64::from(bytes);
            let ingress = self.pool.get(place).ingress_or_gap;
            self.leave(ingress, class, bytes);
        }
    }

    /// Bytes that came in over `ingress` have left the switch.
    fn leave(&mut self, ingress: u32, class: usize, bytes: u32) {
        let link = &mut self.asides[ingress as usize];
        link.inside[class] -= bytes;
        let switch = self.ports[ingress as usize].to;
        let Some(pause) = self.switches[switch as usize].config.pause else {
            return;
        };
        let asked = link.asked_to_pause & 1 << class != 0;
        if asked && link.inside[class] < pause.off {
            link.asked_to_pause &= !(1 << class);
            self.send_pause(ingress, class, false);
        }
    }

    /// Starts to send, if the port is idle and may.
    fn begin<H: Hosts>(&mut self, port: u32, at: Picos, hosts: &mut H) {
        let p = &mut self.ports[port as usize];
        if p.sending != NONE || p.is_down {
            return;
        }
        let place = if p.host_port == NONE {
            let paused = p.paused;
            let ready =
                |&class: &usize| !p.queues[class].chain.is_empty() && paused & 1 << class == 0;
            let Some(class) = (0..CLASSES).find(ready) else {
                return;
            };
            p.queues[class].chain.pop(&self.pool)
        } else {
            let Some(packet) = hosts.pull(p.host_port, p.paused, at, &mut self.net) else {
                return;
            };
            self.totals.sent += 1;
            self.totals.sent_bytes += u64::from(packet.bytes);
            self.pool.insert(packet)
        };
        let last_arrives = p.free_at + p.delay;
        let packet = self.pool.get_mut(place);
        p.sending = place;
        p.sending_bytes = packet.bytes;
        p.sending_class = packet.class;
        p.sending_data = packet.is(DATA) && !packet.is(TRIMMED);
        p.free_at = at + p.byte_time.time(u64::from(packet.bytes));
        let arrives = p.free_at + p.delay;
        packet.arrives = arrives;
        if p.flight.is_empty() {
            self.net.queue.push(arrives, ARRIVAL << KIND_SHIFT | port);
        } else {
            let gap = u32::try_from(arrives.since(last_arrives).0).unwrap_or(FAR);
            self.pool.get_mut(p.flight.tail()).ingress_or_gap = gap;
        }
        p.flight.push(&mut self.pool, place);
        if p.eager {
            self.net
                .queue
                .push(p.free_at, DEPARTURE << KIND_SHIFT | port);
        }
    }

    /// The first packet on the wire of this port arrives.
    fn arrival<H: Hosts>(&mut self, port: u32, hosts: &mut H) {
        self.advance(port, hosts);
        let p = &mut self.ports[port as usize];
        let place = p.flight.head();
        if place == NONE || self.pool.get(place).arrives != self.now {
            return; // what was announced was lost when the link was cut
        }
        p.flight.pop(&self.pool);
        if !p.flight.is_empty() {
            let arrives = match self.pool.get(place).ingress_or_gap {
                FAR => self.pool.get(p.flight.head()).arrives,
                gap => self.now + Picos(u64::from(gap)),
            };
            self.net.queue.push(arrives, ARRIVAL << KIND_SHIFT | port);
        }
        self.totals.hops += 1;
        if p.loss_ppm > 0 && p.coin.chance(u64::from(p.loss_ppm), 1_000_000) {
            self.drop_packet(place, Some(port));
            return;
        }
        if p.to_host {
            let host_port = p.to;
            let packet = self.pool.remove(place);
            self.totals.delivered += 1;
            self.totals.delivered_bytes += u64::from(packet.bytes);
            self.advance_host(self.topology.host_of(host_port), hosts);
            hosts.receive(host_port, &packet, self.now, &mut self.net);
            self.start_kicked(hosts);
        } else {
            let switch = p.to;
            self.pool.get_mut(place).ingress_or_gap = port;
            self.forward(switch, place, hosts);
        }
    }

    fn drop_packet(&mut self, place: u32, port: Option<u32>) {
        let packet = self.pool.remove(place);
        self.totals.dropped += 1;
        self.totals.dropped_bytes += u64::from(packet.bytes);
        if let Some(port) = port {
            self.asides[port as usize].stats.drops += 1;
        }
    }

    /// Loses everything in the queues and on the wire of a port.
    fn drop_all(&mut self, port: u32) {
        if self.ports[port as usize].sending != NONE {
            self.complete(port);
        }
        loop {
            let p = &mut self.ports[port as usize];
            let place = p.flight.pop(&self.pool);
            if place == NONE {
                break;
            }
            self.drop_packet(place, Some(port));
        }
        for class in 0..CLASSES {
            loop {
                let p = &mut self.ports[port as usize];
                let place = p.queues[class].chain.pop(&self.pool);
                if place == NONE {
                    break;
                }
                let packet = self.pool.get(place);
                let (bytes, ingress) = (u32::from(packet.bytes), packet.ingress_or_gap);
                p.queues[class].bytes -= bytes;
                if p.eager {
                    self.switches[p.switch as usize].used -= u64::from(bytes);
                    self.leave(ingress, class, bytes);
                }
                self.drop_packet(place, Some(port));
            }
        }
    }

    // ---- pauses ----

    /// The far end of this link asks its sender to pause or to go on: the frame travels back.
    fn send_pause(&mut self, port: u32, class: usize, pause: bool) {
        let p = &self.ports[port as usize];
        let at = self.now + p.byte_time.time(PAUSE_BYTES) + p.delay;
        let event = port * 8 + class as u32 * 2 + u32::from(pause);
        self.net.queue.push(at, PAUSE << KIND_SHIFT | event);
    }

    fn handle_pause<H: Hosts>(&mut self, port: u32, class: u8, pause: bool, hosts: &mut H) {
        self.advance(port, hosts);
        let p = &mut self.ports[port as usize];
        let bit = 1 << class;
        let was = p.paused;
        p.paused = if pause { was | bit } else { was & !bit };
        let aside = &mut self.asides[port as usize];
        if was == 0 && p.paused != 0 {
            aside.stats.pauses += 1;
            aside.paused_since = self.now;
        } else if was != 0 && p.paused == 0 {
            aside.stats.paused += self.now.since(aside.paused_since);
        }
        self.begin(port, self.now, hosts);
    }
}
