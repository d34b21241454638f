//! The flow level: messages as fluids that share the links max-min fairly, for networks with too
//! many hosts for packets.
//!
//! Rates change when a flow starts or ends, and nothing else is an event. What packets add is put
//! on top by rules that are the same in every scene:
//!
//! * Bytes are those on the wire, headers of all packets included.
//! * A flow ends when its last packet has passed the links after the first, one by one, and its
//!   acknowledgement has come back.
//! * The engine ends a message before it gives much to the next that its host has begun; what
//!   packets do is fair to both.
//! * Where packets are sprayed over several ports, each port's queue is that of packets that come
//!   at random, or of chunks that come in turn.
//!
//! Queues, marks, trims, drops and pauses are not there, nor what they make senders do: a sender
//! is taken to have its share at once.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "bytes, rates and times are positive and far below 2^53"
)]

mod network;
mod share;
pub mod twin;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::packet::{HIGH, NONE};
use super::random::{Purpose, Stream, mix};
use super::time::Picos;
use super::topology::{Groups, Topology};
use super::workload::{Flow, Progress, Workload};
use super::world::{Change, Ended, Fault};
use network::{Links, Network, Pipe};
use share::{Shares, Use, picos};

/// Bytes of an acknowledgement.
const ACK_BYTES: u64 = 64;

/// Which ways the bytes of a flow take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Packets go all shortest ways, in equal parts.
    Even,
    /// Packets go all shortest ways, and where there is more room there go more.
    Room,
    /// Packets go one way, by the switches' hash of the flow.
    Single,
    /// The engine's with source ports by chance: so many paths of a link, each of which has one
    /// way by the switches' hash, and more goes by those that get on better.
    Paths(u32),
    /// The engine's with source ports that are known to lead all shortest ways: chunks of so many
    /// packets go by them in turn, and where there is more room there go more.
    Turns(u32),
}

/// What hosts do, as far as flows show it.
#[derive(Debug, Clone, Copy)]
pub struct FluidConfig {
    /// Bytes of payload of a full packet.
    pub payload: u64,
    /// Bytes of headers of each packet.
    pub header: u64,
    /// The ways.
    pub balance: Balance,
    /// What is due within so long is done together: a small part of a round trip.
    pub quantum: Picos,
    /// The seed of switches' salts, source ports and queues.
    pub seed: u64,
}

/// What came out of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// When.
    pub now: Picos,
    /// All flows.
    pub progress: Progress,
    /// Payload bytes that have left the sender of each flow that has started and not ended.
    pub delivered: BTreeMap<u32, u64>,
}

/// What is due, in the order in which it happens at one moment.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The network changes.
    Fault(u32),
    /// The last byte of a flow may have left its sender.
    Sent(u32),
    /// The receiver has all of a flow.
    Received(u32),
    /// Its sender knows.
    Known(u32),
    /// A flow starts.
    Start(u32),
}

/// A moment and what is due then, in one number that sorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due(u128);

impl Due {
    fn new(at: Picos, event: Event) -> Self {
        let (kind, index) = match event {
            Event::Fault(index) => (0, index),
            Event::Sent(index) => (1, index),
            Event::Received(index) => (2, index),
            Event::Known(index) => (3, index),
            Event::Start(index) => (4, index),
        };
        Self(u128::from(at.0) << 64 | kind << 32 | u128::from(index))
    }

    fn at(self) -> Picos {
        Picos((self.0 >> 64) as u64)
    }

    fn event(self) -> Event {
        let index = self.0 as u32;
        match (self.0 >> 32) as u32 {
            0 => Event::Fault(index),
            1 => Event::Sent(index),
            2 => Event::Received(index),
            3 => Event::Known(index),
            _ => Event::Start(index),
        }
    }
}

/// A flow that is sending.
#[derive(Debug, Default)]
struct Active {
    flow: u32,
    /// What comes after its last byte has left: the rest of the way, and the way back.
    after: (Picos, Picos),
    /// Bytes on the wire that have not been sent, as of `since`.
    left: f64,
    since: Picos,
    rate: f64,
    started: Picos,
    /// When it will have sent all; later than everything while it has no rate.
    due: Picos,
    /// When it is next looked at.
    queued: Picos,
    streams: Vec<u32>,
    /// How many its sender has begun before it without ever being done with all, up to
    /// [`RANK_MAX`]. At the sender it gets half of what the one before it gets.
    rank: i32,
}

/// A run at the flow level.
#[derive(Debug)]
struct Fluid<'a> {
    config: &'a FluidConfig,
    workload: &'a Workload,
    network: Network<'a>,
    links: Links,
    shares: Shares,
    progress: Progress,
    active: Vec<Active>,
    free: Vec<u32>,
    /// Where each flow that is sending is kept.
    place_of: Vec<u32>,
    /// Flows that each host is sending, in the order in which they began, where that matters.
    in_turn: Vec<Vec<u32>>,
    /// The engine's link of each flow, if source ports go by it.
    link_of: Vec<u32>,
    events: BinaryHeap<Reverse<Due>>,
    now: Picos,
    /// The pipes of the stream that is being made.
    uses: Vec<(u32, f64)>,
}

/// Runs a workload to its end, or until `deadline`. `groups` are the ways of the network as it
/// was built; `watch` is told the time and how many flows have not ended, now and then.
pub fn run(
    topology: &Topology,
    groups: &Groups,
    config: &FluidConfig,
    workload: &Workload,
    faults: &[Fault],
    deadline: Picos,
    watch: &mut dyn FnMut(Picos, usize),
) -> Outcome {
    let mut fluid = Fluid::new(topology, groups, config, workload);
    for (index, fault) in (0..).zip(faults) {
        fluid.push(fault.at, Event::Fault(index));
    }
    let mut settled = 0u32;
    let mut unsettled: Option<Picos> = None;
    let ended = loop {
        while let Some((flow, at)) = fluid.progress.poll_start() {
            fluid.push(at.max(fluid.now), Event::Start(flow));
        }
        if fluid.progress.open() == 0 {
            break Ended::Finished;
        }
        let next = fluid.events.peek().map(|&Reverse(due)| due);
        let is_late = |since: Picos| next.is_none_or(|due| due.at() > since + config.quantum);
        if unsettled.is_some_and(is_late) {
            fluid.settle();
            unsettled = None;
            settled += 1;
            if settled.is_multiple_of(1 << 12) {
                watch(fluid.now, fluid.progress.open());
            }
            continue;
        }
        let Some(due) = next else {
            break Ended::Stuck;
        };
        let at = due.at();
        if at > deadline {
            break Ended::OutOfTime;
        }
        fluid.events.pop();
        fluid.now = at;
        unsettled = unsettled.or(Some(at));
        fluid.shares.advance(at);
        match due.event() {
            Event::Fault(index) => fluid.change(faults[index as usize].change),
            Event::Start(flow) => fluid.start(flow),
            Event::Sent(flow) => fluid.sent(flow),
            Event::Received(flow) => fluid.progress.receive(flow, at),
            Event::Known(flow) => fluid.progress.acknowledge(flow, at),
        }
    };
    let delivered = fluid.delivered();
    Outcome {
        ended,
        now: fluid.now,
        progress: fluid.progress,
        delivered,
    }
}

impl<'a> Fluid<'a> {
    fn new(
        topology: &'a Topology,
        groups: &'a Groups,
        config: &'a FluidConfig,
        workload: &'a Workload,
    ) -> Self {
        let links = Links::new(topology);
        let by_port = matches!(config.balance, Balance::Single | Balance::Paths(_));
        let groups = Cow::Borrowed(groups);
        let network = Network::new(topology, groups, &links, by_port, config.seed);
        Self {
            shares: shares(&network, Picos::ZERO),
            config,
            workload,
            network,
            links,
            progress: Progress::new(workload),
            active: Vec::new(),
            free: Vec::new(),
            place_of: vec![NONE; workload.flows().len()],
            in_turn: match config.balance {
                Balance::Turns(_) => vec![Vec::new(); topology.hosts() as usize],
                _ => Vec::new(),
            },
            link_of: match config.balance {
                Balance::Paths(_) => links_of(workload),
                _ => Vec::new(),
            },
            events: BinaryHeap::new(),
            now: Picos::ZERO,
            uses: Vec::new(),
        }
    }

    fn push(&mut self, at: Picos, event: Event) {
        self.events.push(Reverse(Due::new(at, event)));
    }

    // ---- flows ----

    fn start(&mut self, flow: u32) {
        let spec = self.workload.flows()[flow as usize];
        self.progress.start(flow, self.now);
        let place = self.free.pop().unwrap_or_else(|| {
            self.active.push(Active::default());
            self.active.len() as u32 - 1
        });
        let active = &mut self.active[place as usize];
        active.flow = flow;
        active.left = wire_bytes(self.config, spec.bytes);
        active.since = self.now;
        active.started = self.now;
        active.rate = 0.0;
        active.due = Picos::MAX;
        active.queued = Picos::MAX;
        active.rank = 0;
        if let Some(before) = self.in_turn.get_mut(spec.from as usize) {
            let last = before.last().map(|&place| self.active[place as usize].rank);
            self.active[place as usize].rank = last.map_or(0, |rank| (rank + 1).min(RANK_MAX));
            before.push(place);
        }
        self.place_of[flow as usize] = place;
        self.open_streams(place);
    }

    /// The ports of both ends of a flow or path: hosts with several use them in turn.
    fn ports(&self, spec: &Flow, number: u32) -> (u32, u32) {
        let pick = |host: u32| {
            let ports = self.network.topology().host_ports_of(host);
            ports.start + number % (ports.end - ports.start)
        };
        (pick(spec.from), pick(spec.to))
    }

    /// Gives a flow its streams through the network as it is now.
    fn open_streams(&mut self, place: u32) {
        let flow = self.active[place as usize].flow;
        let spec = self.workload.flows()[flow as usize];
        let (from, to) = match self.config.balance {
            Balance::Paths(_) | Balance::Turns(_) => self.ports(&spec, 0),
            _ => self.ports(&spec, flow),
        };
        let last = last_packet(self.config, spec.bytes);
        self.active[place as usize].after = self.network.times(from, to, last);
        match self.config.balance {
            Balance::Even | Balance::Room => self.open_spread(place, flow, &spec),
            Balance::Turns(_) => {
                let ports = self.network.topology().host_ports_of(spec.from);
                for port in 0..ports.end - ports.start {
                    self.open_spread(place, port, &spec);
                }
            }
            Balance::Single => {
                // As the reference transports draw it, so that the same seed gives the same ways.
                let mut coin = Stream::new(self.config.seed, Purpose::Flow, u64::from(flow));
                let entropy = flow << 16 | coin.below(1 << 16);
                self.open_traced(place, flow, &spec, entropy);
            }
            Balance::Paths(paths) => {
                // As the engine's hosts draw it.
                let link = u64::from(self.link_of[flow as usize]);
                let mut stream = Stream::new(self.config.seed, Purpose::Host, link);
                for path in 0..paths {
                    let drawn = [stream.next(), stream.next()];
                    self.open_traced(place, path, &spec, (mix(drawn[0]) >> 32) as u32);
                }
            }
        }
    }

    /// A stream over all shortest ways from and to the ports of this number.
    fn open_spread(&mut self, place: u32, number: u32, spec: &Flow) {
        let (from, to) = self.ports(spec, number);
        let evenly = self.config.balance == Balance::Even;
        self.network.spread(from, to, evenly, &mut self.uses);
        self.add_stream(place, spec);
    }

    /// A stream over the way of this entropy.
    fn open_traced(&mut self, place: u32, number: u32, spec: &Flow, entropy: u32) {
        let (from, to) = self.ports(spec, number);
        self.network.trace(from, to, entropy, &mut self.uses);
        self.add_stream(place, spec);
    }

    fn add_stream(&mut self, place: u32, spec: &Flow) {
        if !self.uses.is_empty() {
            let class = u8::from(spec.class != HIGH);
            // The sender's own port comes first; there, earlier messages go ahead of later ones.
            let weight = 0.5f64.powi(self.active[place as usize].rank);
            let weights = [weight].into_iter().chain(std::iter::repeat(1.0));
            let uses = self.uses.iter().zip(weights);
            let uses = uses.map(|(&(pipe, share), weight)| Use::new(pipe, share, weight));
            let stream = self.shares.add(place, class, uses);
            self.active[place as usize].streams.push(stream);
        }
    }

    /// A flow may have sent all that it has.
    fn sent(&mut self, flow: u32) {
        let place = self.place_of[flow as usize];
        if place == NONE {
            return;
        }
        let active = &mut self.active[place as usize];
        if active.queued != self.now {
            // It had been meant to be looked at earlier, and was.
            return;
        }
        if active.due > self.now {
            active.queued = active.due;
            if active.due < Picos::MAX {
                let due = active.due;
                self.push(due, Event::Sent(flow));
            }
            return;
        }
        let (onward, back) = active.after;
        let streams = std::mem::take(&mut active.streams);
        let span = picos(self.now.since(active.started));
        let spec = self.workload.flows()[flow as usize];
        let waited = self.waited(flow, &streams, span);
        let onward = onward + waited;
        for &stream in &streams {
            self.shares.remove(stream);
        }
        let mut streams = streams;
        streams.clear();
        self.active[place as usize].streams = streams;
        self.place_of[flow as usize] = NONE;
        if let Some(others) = self.in_turn.get_mut(spec.from as usize) {
            others.retain(|&other| other != place);
        }
        self.free.push(place);
        self.push(self.now + onward, Event::Received(flow));
        self.push(self.now + onward + back, Event::Known(flow));
    }

    /// How long the last packet of a flow of so many bytes that took so long waits in the queues
    /// of sprayed ports: of each of them evenly between nothing and twice the mean.
    fn waited(&mut self, flow: u32, streams: &[u32], span: f64) -> Picos {
        let spec = self.workload.flows()[flow as usize];
        let own = wire_bytes(self.config, spec.bytes);
        let mut coin = Stream::new(self.config.seed, Purpose::Queue, u64::from(flow));
        let packet = (self.config.payload + self.config.header) as f64;
        let streams_of = streams.len() as f64;
        let mut sum = 0.0;
        // What a host sends in that time is one source, however many messages it is.
        let first = self.network.topology().host_ports_of(spec.from).start;
        let whole = (own / streams_of).max(self.network.host_rate(first) * span);
        for &stream in streams {
            for (pipe, share, carried) in self.shares.carried(stream) {
                let Pipe {
                    capacity, ports, ..
                } = self.network.pipes()[pipe as usize];
                if ports < 2 || capacity <= 0.0 || span <= 0.0 {
                    continue;
                }
                let time = packet * f64::from(ports) / capacity;
                let load = carried / (capacity * span);
                let queue = match self.config.balance {
                    Balance::Turns(chunk) => {
                        let sources = carried / (whole * share);
                        f64::from(chunk) * waiting(load, bridge(sources))
                    }
                    _ => waiting(load, walk(span / time)),
                };
                sum += share * time * queue * 2.0 * coin.unit() / streams_of;
            }
        }
        Picos(sum as u64)
    }

    /// Gives all flows the rates that their streams have now.
    fn settle(&mut self) {
        let (active, events, now) = (&mut self.active, &mut self.events, self.now);
        let mut touched = Vec::new();
        self.shares.settle(|owner, by| {
            let one = &mut active[owner as usize];
            if one.since < now {
                one.left -= one.rate * picos(now.since(one.since));
                one.since = now;
            }
            one.rate += by;
            touched.push(owner);
        });
        for owner in touched {
            let one = &mut active[owner as usize];
            one.due = if one.rate > MIN_RATE {
                now + Picos((one.left.max(0.0) / one.rate).ceil() as u64)
            } else {
                Picos::MAX
            };
            if one.due < one.queued {
                one.queued = one.due;
                events.push(Reverse(Due::new(one.due, Event::Sent(one.flow))));
            }
        }
    }

    // ---- faults ----

    /// A link changes: flows go on by the ways that are left, at once.
    fn change(&mut self, change: Change) {
        let both = |port: u32| [port as usize, Topology::reverse(port) as usize];
        match change {
            Change::LinkDown(port) => both(port).map(|port| self.links.down[port] += 1),
            Change::LinkUp(port) => both(port).map(|port| self.links.down[port] -= 1),
            Change::LinkRate(port, rate) => both(port).map(|port| {
                self.links.rates[port] = rate;
            }),
            Change::SwitchDown(switch) | Change::SwitchUp(switch) => {
                for (port, spec) in self.network.topology().ports().iter().enumerate() {
                    let end = super::topology::End::Switch(switch);
                    if spec.from == end || spec.to == end {
                        match change {
                            Change::SwitchDown(_) => self.links.down[port] += 1,
                            _ => self.links.down[port] -= 1,
                        }
                    }
                }
                [(), ()]
            }
            // Scenarios with others are refused.
            _ => return,
        };
        let topology = self.network.topology();
        let groups = Groups::shortest(topology, |port| self.links.down[port as usize] == 0);
        let by_port = matches!(self.config.balance, Balance::Single | Balance::Paths(_));
        let groups = Cow::Owned(groups);
        self.network = Network::new(topology, groups, &self.links, by_port, self.config.seed);
        self.shares = shares(&self.network, self.now);
        for place in 0..self.active.len() {
            let active = &mut self.active[place];
            if self.place_of[active.flow as usize] != place as u32 {
                continue;
            }
            active.left -= active.rate * picos(self.now.since(active.since));
            active.since = self.now;
            active.rate = 0.0;
            active.due = Picos::MAX;
            active.streams.clear();
            self.open_streams(place as u32);
        }
    }

    /// Payload that open flows have sent.
    fn delivered(&self) -> BTreeMap<u32, u64> {
        let flows = self
            .active
            .iter()
            .enumerate()
            .filter(|&(place, active)| self.place_of[active.flow as usize] == place as u32);
        flows
            .map(|(_, active)| {
                let bytes = self.workload.flows()[active.flow as usize].bytes;
                let left = active.left - active.rate * picos(self.now.since(active.since));
                let whole = wire_bytes(self.config, bytes);
                let sent = (1.0 - left.max(0.0) / whole) * bytes as f64;
                (active.flow, sent as u64)
            })
            .collect()
    }
}

/// The mean queue of a port under a load from 0 to 1, in packets: that of random arrivals and
/// packets of one length, `load / 2 (1 - load)` (Pollaczek and Khinchine), but at most `most`, as
/// far as it can have come near full load.
fn waiting(load: f64, most: f64) -> f64 {
    let idle = (1.0 - load).max(0.0) * 2.0;
    if idle * most <= load {
        most
    } else {
        load / idle
    }
}

/// The mean queue of a full port after so many packets that came at random: a random walk that
/// cannot go below nothing, `sqrt(2 n / pi)`.
fn walk(packets: f64) -> f64 {
    (packets * std::f64::consts::FRAC_2_PI).sqrt()
}

/// The mean queue of a full port at which so many sources each have one packet in every round, at
/// a moment of their own: the most that a Brownian bridge goes above its ends,
/// `sqrt(pi n / 8)`.
fn bridge(sources: f64) -> f64 {
    (sources * std::f64::consts::PI / 8.0).sqrt()
}

/// Halves that a number can hold.
const RANK_MAX: i32 = 900;

/// Rates below this, a byte a second, are none.
const MIN_RATE: f64 = 1e-12;

fn shares(network: &Network<'_>, now: Picos) -> Shares {
    let pipes = network
        .pipes()
        .iter()
        .map(|pipe| (pipe.capacity, pipe.binds));
    Shares::new(pipes, now)
}

fn wire_bytes(config: &FluidConfig, bytes: u64) -> f64 {
    (bytes + bytes.div_ceil(config.payload).max(1) * config.header) as f64
}

/// Bytes of the last packet of a message on the wire.
fn last_packet(config: &FluidConfig, bytes: u64) -> u64 {
    let last = match bytes % config.payload {
        0 if bytes > 0 => config.payload,
        rest => rest,
    };
    last + config.header
}

/// The engine has a link for each pair of hosts and class, numbered as they first occur.
fn links_of(workload: &Workload) -> Vec<u32> {
    let mut known = BTreeMap::new();
    let number = |flow: &Flow| {
        let new = known.len() as u32;
        *known.entry((flow.from, flow.to, flow.class)).or_insert(new)
    };
    workload.flows().iter().map(number).collect()
}
