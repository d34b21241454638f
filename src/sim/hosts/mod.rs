//! Hosts that run the engine: the same code as on a real host, over simulated adapters.
//!
//! A host has two processors, one that sends and one that receives, and each does one thing at a
//! time: takes in a completion or a frame, or gives the next chunk to a path. What that takes is
//! the price of a chunk, and it bounds how small chunks can be. Connections are established and
//! the first credits given before the run begins, as they are in a running job.

mod config;
mod link;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

pub use config::{Background, ControlClass, HostConfig, Ways};
use link::{Channel, Link, Side, connect, random_port, stats, trace};

use crate::engine::admission::Admission;
use crate::engine::wire::{Frame, Header, Immediate, Keys, PathCount};
use crate::engine::{
    FenceReason, MemRange, RxAction, RxEngine, Transmit, TxAction, TxEngine, TxEvent, Write,
};
use crate::sim::fabric::{Fabric, Hosts, Net};
use crate::sim::nic::{Completion, NicConfig, NicStats, Nics, Work};
use crate::sim::packet::{CLASSES, Packet};
use crate::sim::random::{Purpose, Stream};
use crate::sim::tape::{Entry, Tape, TapedRx, TapedTx};
use crate::sim::time::{ByteTime, Picos};
use crate::sim::workload::{Flow, Progress, Workload};
use crate::sim::world::Endpoints;

/// The links of a host begin on different ways, a quarter of all of them apart, in parts of 2^32:
/// short messages to many peers load all ways evenly.
const STAGGER: u32 = 1 << 30;

/// Frames that a link sends before another has its turn: a caller gives a message away as far as
/// it goes, and what is begun is ended before the next is begun.
const TURN: u32 = 16;

#[derive(Debug, Clone, Copy)]
enum Input {
    Sent {
        work: Work,
    },
    Written {
        imm: u32,
        bytes: u32,
    },
    Frame {
        frame: Header,
    },
    /// The queue pair has been put into the error state and its completions taken out.
    Silenced,
    /// The sender wants a path; its older queue pair is silent, and its completions taken out.
    Accept {
        fence: Option<u16>,
    },
}

#[derive(Debug, Clone, Copy)]
struct Job {
    link: u32,
    path: u8,
    epoch: u16,
    input: Input,
    /// When the adapter reported it.
    at: Picos,
}

#[derive(Debug, Default)]
struct Processor {
    inbox: VecDeque<Job>,
    free_at: Picos,
    woken_at: Option<Picos>,
}

#[derive(Debug)]
struct Host {
    sender: Processor,
    receiver: Processor,
    /// Links that may have something to send, in turn, by class.
    ready: [VecDeque<u32>; CLASSES],
    /// Links with control frames to send.
    urgent: VecDeque<u32>,
    /// Everything takes so many times as long.
    slow: u64,
    /// Frames that the first of them has sent in this turn.
    turn: u32,
    /// Links that it sends on and that have something in flight.
    busy: Vec<u32>,
    /// Links that it receives on and has said something on.
    spoken: Vec<u32>,
    tick_at: Option<Picos>,
    dials: Vec<Dial>,
    admission: Admission,
    /// The link of each of its members.
    members: Vec<u32>,
    /// How many links it sends on.
    links_out: u32,
}

/// A path on its way up: first the receiver takes it, then the sender.
#[derive(Debug, Clone, Copy)]
struct Dial {
    at: Picos,
    link: u32,
    path: u8,
    epoch: u16,
    step: DialStep,
}

#[derive(Debug, Clone, Copy)]
enum DialStep {
    Accept {
        fence: Option<u16>,
    },
    Up {
        channel: Channel,
        previous: Option<PathCount>,
    },
}

/// When a host port will have sent all that it was given, by class: an urgent chunk overtakes the
/// others.
#[derive(Debug, Clone, Copy)]
struct Departures {
    free_at: [Picos; CLASSES],
    byte_time: ByteTime,
}

impl Departures {
    fn new(byte_time: ByteTime) -> Self {
        Self {
            free_at: [Picos::ZERO; CLASSES],
            byte_time,
        }
    }

    /// When a chunk that is given to the adapter now will have left.
    fn next(&mut self, class: u8, now: Picos, bytes: u64) -> Picos {
        for free_at in &mut self.free_at[usize::from(class)..] {
            *free_at = (*free_at).max(now) + self.byte_time.time(bytes);
        }
        self.free_at[usize::from(class)]
    }
}

impl Host {
    /// Looks after its links from then on, unless it does already.
    fn begin_ticks(&mut self, own: u32, at: Picos, net: &mut Net) {
        if self.tick_at.is_none() {
            self.tick_at = Some(at);
            net.wake_at(own, at);
        }
    }

    /// The link whose turn it is: the urgent class first.
    fn next_ready(&self) -> Option<u32> {
        self.ready.iter().find_map(|queue| queue.front()).copied()
    }
}

#[derive(Debug, Clone, Copy)]
struct Owner {
    link: u32,
    path: u8,
    epoch: u16,
}

/// A fence, for the report: false alarms count.
#[derive(Debug, Clone)]
pub struct HostEvent {
    /// When.
    pub at: Picos,
    /// Sending and receiving host.
    pub link: (u32, u32),
    /// What the engine told.
    pub event: TxEvent,
}

/// All hosts of a run that run the engine.
#[derive(Debug)]
pub struct EngineHosts {
    config: HostConfig,
    nics: Nics,
    hosts: Vec<Host>,
    links: Vec<Link>,
    owners: Vec<Owner>,
    departures: Vec<Departures>,
    host_ports: Vec<Range<u32>>,
    link_of_flow: Vec<u32>,
    progress: Progress,
    events: Vec<HostEvent>,
    stall: Picos,
}

impl EngineHosts {
    /// Hosts with established links for all flows of a workload.
    #[must_use]
    pub fn new(
        fabric: &Fabric,
        workload: &Workload,
        config: HostConfig,
        nic: NicConfig,
        seed: u64,
    ) -> Self {
        let topology = fabric.topology();
        let host_ports = || (0..topology.hosts()).flat_map(|host| topology.host_ports_of(host));
        let byte_time = |port: u32| {
            ByteTime::of(topology.ports()[topology.port_of_host_port(port) as usize].rate)
        };
        let mut hosts = Self {
            nics: Nics::new(
                nic,
                host_ports().map(|port| (topology.host_of(port), byte_time(port))),
            ),
            hosts: (0..topology.hosts())
                .map(|_| Host {
                    sender: Processor::default(),
                    receiver: Processor::default(),
                    ready: Default::default(),
                    urgent: VecDeque::new(),
                    slow: 1,
                    turn: 0,
                    busy: Vec::new(),
                    spoken: Vec::new(),
                    tick_at: None,
                    dials: Vec::new(),
                    admission: Admission::new(config.admission),
                    members: Vec::new(),
                    links_out: 0,
                })
                .collect(),
            links: Vec::new(),
            owners: Vec::new(),
            departures: host_ports()
                .map(|port| Departures::new(byte_time(port)))
                .collect(),
            host_ports: (0..topology.hosts())
                .map(|host| topology.host_ports_of(host))
                .collect(),
            link_of_flow: Vec::new(),
            progress: Progress::new(workload),
            events: Vec::new(),
            stall: Picos::ZERO,
            config,
        };
        let mut most_urgent = vec![u8::MAX; hosts.hosts.len()];
        for flow in workload.flows() {
            for host in [flow.from, flow.to] {
                let known = &mut most_urgent[host as usize];
                *known = flow.class.min(*known);
            }
        }
        let mut known = BTreeMap::new();
        for (index, flow) in (0u64..).zip(workload.flows()) {
            let link = *known
                .entry((flow.from, flow.to, flow.class))
                .or_insert_with(|| {
                    let [from, to] = [flow.from, flow.to].map(|host| most_urgent[host as usize]);
                    hosts.add_link(fabric, (flow.from, flow.to, flow.class), from.min(to), seed)
                });
            hosts.link_of_flow.push(link);
            let link = &mut hosts.links[link as usize];
            let buffer = MemRange {
                addr: (index + 1) << 32,
                len: flow.bytes,
            };
            // A tag of its own: flows of a link may start in another order than they have here.
            let tag = (index as u32).cast_signed();
            link.rx.post(link.conn, index, tag, buffer, Keys::default());
        }
        for index in 0..hosts.links.len() {
            hosts.report(index as u32);
        }
        for host in 0..hosts.hosts.len() {
            while let Some((member, granted)) = hosts.hosts[host].admission.poll_grant() {
                let link = hosts.hosts[host].members[member as usize];
                hosts.links[link as usize].rx.grant(granted);
            }
        }
        for link in &mut hosts.links {
            link.shake_hands();
        }
        hosts
    }

    /// `most_urgent` is the first class that either of its hosts uses.
    fn add_link(
        &mut self,
        fabric: &Fabric,
        (from, to, class): (u32, u32, u8),
        most_urgent: u8,
        seed: u64,
    ) -> u32 {
        let topology = fabric.topology();
        let now = Picos::ZERO.clock();
        let index = self.links.len() as u32;
        let paths = usize::from(self.config.engine.paths_max);
        let mut stream = Stream::new(seed, Purpose::Host, u64::from(index));
        let config = &self.config;
        let selector = config.selector.clone();
        let mut engine = config.engine;
        let mut controller = config.controller.clone();
        if class > most_urgent {
            let background = &config.background;
            engine.chunk_bytes = Some(background.chunk_bytes);
            engine.health.suspect_min = engine.health.suspect_min * background.patience;
            engine.health.dead_min = engine.health.dead_min * background.patience;
            controller = background.controller.clone();
        }
        let tape = Tape::new(config.taped);
        let mut link = Link {
            from,
            to,
            class,
            tx: TapedTx(
                TxEngine::new(engine, controller, selector, now),
                tape.clone(),
            ),
            rx: TapedRx(RxEngine::new(engine, now), tape),
            conn: 0,
            member: 0,
            channels: vec![None; paths],
            taken: vec![None; paths],
            entropies: Vec::new(),
            open_flows: 0,
            moved_at: Picos::ZERO,
            is_ready: false,
            is_busy: false,
            has_spoken: false,
            host_ports: [from, to].map(|host| topology.host_ports_of(host)),
        };
        let order = Stream::new(seed, Purpose::Ways, u64::from(from));
        let links = &mut self.hosts[from as usize].links_out;
        let first = STAGGER.wrapping_mul(*links);
        *links += 1;
        let per_plane = 2 * paths.div_ceil(link.planes());
        link.entropies = (0..link.planes())
            .map(|plane| match self.config.ways {
                Ways::Unknown => (0..per_plane).map(|_| random_port(&mut stream)).collect(),
                Ways::Traced => {
                    let ends = link.ports_of_plane(plane);
                    trace(fabric, ends, per_plane, first, order, &mut stream)
                }
            })
            .collect();
        link.conn = link.tx.open(0);
        // The first path is dialled alone, the others once it is there.
        for _ in 0..2 {
            link.tx.handle_timeout(now);
            while let Some(action) = link.tx.poll_action() {
                if let TxAction::Dial { path, epoch, .. } = action {
                    let channel = connect(&mut self.nics, &mut link, path, self.config.control);
                    link.channels[usize::from(path)] = Some(channel);
                    let owner = Owner {
                        link: index,
                        path,
                        epoch,
                    };
                    self.owners.resize(channel.end(), owner);
                    link.rx.handle_path_up(path, epoch, None);
                    link.tx.handle_path_up(path, epoch, None, now);
                }
            }
        }
        link.shake_hands();
        let receiver = &mut self.hosts[to as usize];
        link.member = receiver.admission.join(class);
        receiver.members.push(index);
        self.links.push(link);
        index
    }

    /// What the adapters have done.
    #[must_use]
    pub fn nic_stats(&self) -> NicStats {
        self.nics.stats()
    }

    /// The longest time in which a link had something to send and nothing of it was acknowledged.
    #[must_use]
    pub fn longest_stall(&self) -> Picos {
        self.stall
    }

    /// What the engines of a link were told and answered, if it was kept.
    #[must_use]
    pub fn tape(&self, from: u32, to: u32) -> Vec<Entry> {
        let link = self
            .links
            .iter()
            .find(|link| (link.from, link.to) == (from, to));
        link.map(|link| link.tx.1.entries()).unwrap_or_default()
    }

    /// Paths that were fenced, as dead.
    #[must_use]
    pub fn fences(&self) -> u64 {
        self.fenced(|reason| reason != FenceReason::Slow)
    }

    /// Paths that were given another source port, as slow.
    #[must_use]
    pub fn rehashes(&self) -> u64 {
        self.fenced(|reason| reason == FenceReason::Slow)
    }

    fn fenced(&self, counts: impl Fn(FenceReason) -> bool) -> u64 {
        let is_one =
            |e: &&HostEvent| matches!(e.event, TxEvent::Fenced { reason, .. } if counts(reason));
        self.events.iter().filter(is_one).count() as u64
    }

    /// What the engines told.
    #[must_use]
    pub fn events(&self) -> &[HostEvent] {
        &self.events
    }

    fn make_ready(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        let host = &mut self.hosts[link.from as usize];
        if !link.is_ready {
            link.is_ready = true;
            host.ready[usize::from(link.class)].push_back(index);
        }
        if link.tx.has_control() {
            host.urgent.push_back(index);
        }
    }

    /// Sorts what the adapters report into the inboxes of the processors.
    fn collect(&mut self, now: Picos) {
        while let Some((host, completion)) = self.nics.poll_completion() {
            let (qp, input) = match completion {
                Completion::Sent { qp, work } => (qp, Input::Sent { work }),
                Completion::Written { qp, imm, bytes } => (qp, Input::Written { imm, bytes }),
                Completion::Received { qp, frame } => (qp, Input::Frame { frame }),
            };
            let Owner { link, path, epoch } = self.owners[qp as usize];
            let job = Job {
                link,
                path,
                epoch,
                input,
                at: now,
            };
            // The even end of a queue pair is the sender's.
            let host = &mut self.hosts[host as usize];
            if qp % 2 == 0 {
                host.sender.inbox.push_back(job);
            } else if !matches!(input, Input::Sent { .. }) {
                host.receiver.inbox.push_back(job);
            }
        }
    }

    // ---- the sending processor ----

    fn run_sender(&mut self, host: u32, now: Picos, net: &mut Net) {
        while self.hosts[host as usize].sender.free_at <= now {
            let Some(cost) = self.send_step(host, now, net) else {
                return;
            };
            let host = &mut self.hosts[host as usize];
            host.sender.free_at = now + cost * host.slow;
        }
        wake(host, &mut self.hosts[host as usize].sender, net);
    }

    /// Does the next thing that there is to do, and says how long it takes.
    fn send_step(&mut self, host: u32, now: Picos, net: &mut Net) -> Option<Picos> {
        let at = host as usize;
        if let Some(job) = self.hosts[at].sender.inbox.pop_front() {
            self.sender_input(job, now, net);
            return Some(self.config.input_time);
        }
        while let Some(&index) = self.hosts[at].urgent.front() {
            if self.links[index as usize].tx.has_control()
                && let Some(cost) = self.send_next(index, now, net)
            {
                return Some(cost);
            }
            self.hosts[at].urgent.pop_front();
        }
        while let Some(index) = self.hosts[at].next_ready() {
            let cost = self.send_next(index, now, net);
            let link = &mut self.links[index as usize];
            let host = &mut self.hosts[at];
            host.turn += 1;
            if cost.is_none() {
                host.turn = 0;
                host.ready[usize::from(link.class)].pop_front();
                link.is_ready = false;
            } else if host.turn >= TURN {
                host.turn = 0;
                host.ready[usize::from(link.class)].rotate_left(1);
            }
            if cost.is_some() {
                return cost;
            }
        }
        None
    }

    fn sender_input(&mut self, job: Job, now: Picos, net: &mut Net) {
        let link = &mut self.links[job.link as usize];
        let clock = now.clock();
        match job.input {
            Input::Sent { work } => {
                let is_data = match work {
                    Work::Write { .. } => true,
                    Work::Send {
                        is_data, signalled, ..
                    } => {
                        if let Some(posted) = signalled {
                            let posted = posted.clock();
                            link.tx
                                .handle_control_arrived(job.path, job.epoch, posted, clock);
                        }
                        is_data
                    }
                };
                if is_data {
                    self.stall = self.stall.max(now.since(link.moved_at));
                    link.moved_at = now;
                    let at = job.at.clock();
                    link.tx
                        .handle_completions(job.path, job.epoch, 1, at, clock);
                }
            }
            Input::Frame { frame } => {
                link.tx
                    .handle_frame(job.path, frame, clock)
                    .expect("our own peer");
                // A message that waits for its receiver goes on before another begins.
                let grant = matches!(Frame::decode(frame.as_bytes()), Ok(Frame::Grant { .. }));
                if grant && !link.is_ready {
                    link.is_ready = true;
                    let host = &mut self.hosts[link.from as usize];
                    host.turn = 0;
                    host.ready[usize::from(link.class)].push_front(job.link);
                }
            }
            Input::Written { .. } | Input::Silenced | Input::Accept { .. } => {}
        }
        while let Some(done) = link.tx.poll_completion() {
            assert!(done.result.is_ok(), "{done:?}: {:?}", link.tx.failure());
            self.progress.acknowledge(done.token as u32, now);
            link.open_flows -= 1;
        }
        self.after_tx(job.link, now, net);
    }

    /// Carries out what the sending engine asks for.
    fn after_tx(&mut self, index: u32, now: Picos, net: &mut Net) {
        let link = &mut self.links[index as usize];
        while let Some(action) = link.tx.poll_action() {
            match action {
                TxAction::Dial {
                    path, epoch, fence, ..
                } => {
                    let at = now + self.config.dial_time / 2;
                    self.hosts[link.to as usize].dials.push(Dial {
                        at,
                        link: index,
                        path,
                        epoch,
                        step: DialStep::Accept { fence },
                    });
                    net.wake_at(link.to, at);
                }
                TxAction::Close { path, .. } => {
                    if let Some(channel) = link.channels[usize::from(path)].take() {
                        channel.kill(&mut self.nics, Side::Sender);
                    }
                }
            }
        }
        while let Some(event) = link.tx.poll_event() {
            self.events.push(HostEvent {
                at: now,
                link: (link.from, link.to),
                event,
            });
        }
        self.make_ready(index);
    }

    /// Gives the next frame of a link to its path; says what that took.
    fn send_next(&mut self, index: u32, now: Picos, net: &mut Net) -> Option<Picos> {
        let link = &mut self.links[index as usize];
        let (path, work, cost) = match link.tx.poll_transmit(now.clock())? {
            Transmit::Control { path, header } => {
                let work = Work::Send {
                    frame: header,
                    payload: 0,
                    is_data: false,
                    signalled: None,
                };
                (path, work, self.config.input_time)
            }
            Transmit::Probe { path, id } => {
                let sent_ns = now.clock().as_nanos();
                let work = Work::Send {
                    frame: Frame::Ping { id, sent_ns }.encode(),
                    payload: 0,
                    is_data: false,
                    signalled: Some(now),
                };
                (path, work, self.config.input_time)
            }
            Transmit::Data {
                path,
                write: Some(Write { chunk, .. }),
                ..
            } => {
                let immediate = Immediate::of(&chunk);
                let work = Work::Write {
                    imm: immediate.pack().expect("scenarios are checked to fit"),
                    bytes: chunk.payload,
                };
                (path, work, self.config.chunk_time)
            }
            Transmit::Data {
                path,
                header,
                source,
                ..
            } => {
                let work = Work::Send {
                    frame: header,
                    payload: source.len as u32,
                    is_data: true,
                    signalled: Some(now),
                };
                (path, work, self.config.chunk_time)
            }
        };
        let channel = link.channels[usize::from(path)]?;
        let (qp, departing) = match work {
            Work::Write { bytes, .. } => (channel.data, Some(bytes)),
            Work::Send {
                is_data: true,
                payload,
                ..
            } => (channel.data, Some(payload)),
            Work::Send { .. } => (channel.control, None),
        };
        if let Some(bytes) = departing {
            let departure = &mut self.departures[self.nics.host_port(qp) as usize];
            let at = departure.next(link.class, now, u64::from(bytes));
            link.tx.handle_departure(path, at.clock());
        }
        if !link.is_busy {
            link.is_busy = true;
            let host = &mut self.hosts[link.from as usize];
            host.busy.push(index);
            host.begin_ticks(link.from, now + self.config.tick, net);
        }
        self.nics.post(qp, work, now, net);
        Some(cost)
    }

    /// Looks after the links that have something in flight.
    fn tick(&mut self, host: u32, now: Picos, net: &mut Net) {
        let clock = now.clock();
        let busy = std::mem::take(&mut self.hosts[host as usize].busy);
        let mut still = Vec::with_capacity(busy.len());
        for index in busy {
            let link = &mut self.links[index as usize];
            let mut in_flight = false;
            for path in 0..link.channels.len() as u8 {
                if !link.tx.wants_stats(path) {
                    continue;
                }
                let channel = link.channels[usize::from(path)];
                let stats = stats(channel, &self.nics, Side::Sender);
                in_flight |= stats.in_flight;
                link.tx.handle_stats(path, stats, clock);
            }
            link.tx.handle_timeout(clock);
            let waits = link.tx.poll_timeout(clock).is_some();
            if in_flight || waits {
                still.push(index);
            } else {
                link.is_busy = false;
            }
            self.after_tx(index, now, net);
        }
        for index in std::mem::take(&mut self.hosts[host as usize].spoken) {
            let link = &mut self.links[index as usize];
            link.has_spoken = false;
            for path in 0..link.taken.len() as u8 {
                if !link.rx.wants_stats(path) {
                    continue;
                }
                let stats = stats(link.taken[usize::from(path)], &self.nics, Side::Receiver);
                link.rx.handle_stats(path, &stats, clock);
            }
            let watches = link.rx.poll_timeout(clock).is_some();
            self.after_rx(index, now, net);
            let link = &mut self.links[index as usize];
            if watches && !link.has_spoken {
                link.has_spoken = true;
                self.hosts[host as usize].spoken.push(index);
            }
        }
        let host_state = &mut self.hosts[host as usize];
        host_state.busy.append(&mut still);
        let any = !(host_state.busy.is_empty() && host_state.spoken.is_empty());
        host_state.tick_at = any.then(|| now + self.config.tick);
        if let Some(at) = host_state.tick_at {
            net.wake_at(host, at);
        }
    }

    // ---- the receiving processor ----

    fn run_receiver(&mut self, host: u32, now: Picos, net: &mut Net) {
        while self.hosts[host as usize].receiver.free_at <= now {
            let Some(job) = self.hosts[host as usize].receiver.inbox.pop_front() else {
                return;
            };
            self.receiver_input(job, now, net);
            let host = &mut self.hosts[host as usize];
            host.receiver.free_at = now + self.config.input_time * host.slow;
        }
        wake(host, &mut self.hosts[host as usize].receiver, net);
    }

    fn receiver_input(&mut self, job: Job, now: Picos, net: &mut Net) {
        let link = &mut self.links[job.link as usize];
        match job.input {
            Input::Written { imm, bytes } => link
                .rx
                .handle_immediate(job.path, imm, bytes)
                .expect("our own peer"),
            Input::Frame { frame } => {
                let decoded = Frame::decode(frame.as_bytes()).expect("our own encoding");
                let received_ns = now.clock().as_nanos();
                let sink = link
                    .rx
                    .handle_frame(job.path, decoded, received_ns)
                    .expect("our own peer");
                if sink.is_some() {
                    link.rx.handle_payload_done(job.path);
                }
            }
            Input::Silenced => link.rx.handle_silenced(job.path, job.epoch),
            Input::Accept { fence } => {
                let channel = connect(&mut self.nics, link, job.path, self.config.control);
                let previous = link.rx.handle_path_up(job.path, job.epoch, fence);
                let at = now + self.config.dial_time / 2;
                self.hosts[link.from as usize].dials.push(Dial {
                    at,
                    link: job.link,
                    path: job.path,
                    epoch: job.epoch,
                    step: DialStep::Up { channel, previous },
                });
                net.wake_at(link.from, at);
                let owner = Owner {
                    link: job.link,
                    path: job.path,
                    epoch: job.epoch,
                };
                self.owners.resize(channel.end(), owner);
            }
            Input::Sent { .. } => {}
        }
        while let Some(done) = link.rx.poll_completion() {
            assert!(done.result.is_ok(), "{done:?}");
            self.progress.receive(done.token as u32, now);
        }
        self.after_rx(job.link, now, net);
    }

    /// Tells the receiver's admission how far a link has come.
    fn report(&mut self, index: u32) {
        let link = &self.links[index as usize];
        let (received, wanted) = link.rx.demand();
        let expects = link.rx.receives_pending() > 0;
        let admission = &mut self.hosts[link.to as usize].admission;
        admission.update(link.member, received, wanted, expects);
    }

    /// Gives what may be given, and sends what the receiving engine has to say.
    fn after_rx(&mut self, index: u32, now: Picos, net: &mut Net) {
        if self.config.engine.first_grant.is_some() {
            self.report(index);
            let host = self.links[index as usize].to as usize;
            while let Some((member, granted)) = self.hosts[host].admission.poll_grant() {
                let other = self.hosts[host].members[member as usize];
                self.links[other as usize].rx.grant(granted);
                if other != index {
                    self.say_rx(other, now, net);
                }
            }
        }
        self.say_rx(index, now, net);
    }

    fn say_rx(&mut self, index: u32, now: Picos, net: &mut Net) {
        let link = &mut self.links[index as usize];
        while let Some(action) = link.rx.poll_action() {
            if let RxAction::Silence { path, epoch } = action {
                if let Some(channel) = link.taken[usize::from(path)].take() {
                    channel.kill(&mut self.nics, Side::Receiver);
                }
                let host = &mut self.hosts[link.to as usize].receiver;
                host.inbox.push_back(Job {
                    link: index,
                    path,
                    epoch,
                    input: Input::Silenced,
                    at: now,
                });
            }
        }
        while let Some(frame) = link.rx.poll_ack(false).or_else(|| link.rx.poll_transmit()) {
            let Some(channel) = link.taken[usize::from(frame.path)] else {
                continue;
            };
            let work = Work::Send {
                frame: frame.header,
                payload: 0,
                is_data: false,
                signalled: None,
            };
            self.nics.post(channel.control + 1, work, now, net);
            if !link.has_spoken {
                link.has_spoken = true;
                let host = &mut self.hosts[link.to as usize];
                host.spoken.push(index);
                host.begin_ticks(link.to, now + self.config.tick, net);
            }
        }
    }

    // ---- dials ----

    fn finish_dials(&mut self, host: u32, now: Picos, net: &mut Net) {
        let dials = std::mem::take(&mut self.hosts[host as usize].dials);
        for dial in dials {
            let Dial {
                link: index,
                path,
                epoch,
                ..
            } = dial;
            if dial.at > now {
                self.hosts[host as usize].dials.push(dial);
                continue;
            }
            let link = &mut self.links[index as usize];
            match dial.step {
                DialStep::Accept { fence } => {
                    if let Some(channel) = link.taken[usize::from(path)].take() {
                        channel.kill(&mut self.nics, Side::Receiver);
                    }
                    self.hosts[host as usize].receiver.inbox.push_back(Job {
                        link: index,
                        path,
                        epoch,
                        input: Input::Accept { fence },
                        at: now,
                    });
                }
                DialStep::Up { channel, previous } => {
                    link.channels[usize::from(path)] = Some(channel);
                    link.tx.handle_path_up(path, epoch, previous, now.clock());
                    self.after_tx(index, now, net);
                }
            }
        }
    }
}

fn wake(host: u32, processor: &mut Processor, net: &mut Net) {
    if processor.woken_at != Some(processor.free_at) {
        processor.woken_at = Some(processor.free_at);
        net.wake_at(host, processor.free_at);
    }
}

impl Endpoints for EngineHosts {
    fn slow_down(&mut self, host: u32, times: u32) {
        self.hosts[host as usize].slow = u64::from(times);
    }

    fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    fn delivered(&self, flow: u32) -> u64 {
        let link = &self.links[self.link_of_flow[flow as usize] as usize];
        link.rx.arrived(u64::from(flow))
    }

    fn start(&mut self, flow: u32, spec: &Flow, now: Picos, net: &mut Net) {
        let index = self.link_of_flow[flow as usize];
        let link = &mut self.links[index as usize];
        let source = MemRange {
            addr: u64::from(flow + 1) << 32,
            len: spec.bytes,
        };
        link.tx
            .submit(link.conn, u64::from(flow), flow.cast_signed(), source);
        if link.open_flows == 0 {
            link.moved_at = now;
        }
        link.open_flows += 1;
        self.make_ready(index);
        self.run_sender(spec.from, now, net);
    }
}

impl Hosts for EngineHosts {
    fn receive(&mut self, _port: u32, packet: &Packet, now: Picos, net: &mut Net) {
        self.nics.receive(packet, now, net);
        self.collect(now);
        let host = self.nics.host_of(packet.to);
        self.run_receiver(host, now, net);
        self.run_sender(host, now, net);
    }

    fn pull(&mut self, port: u32, paused: u8, now: Picos, net: &mut Net) -> Option<Packet> {
        self.nics.pull(port, paused, now, net)
    }

    fn wake(&mut self, host: u32, now: Picos, net: &mut Net) {
        for host_port in self.host_ports[host as usize].clone() {
            self.nics.wake(host_port, now, net);
        }
        self.finish_dials(host, now, net);
        let state = &mut self.hosts[host as usize];
        for processor in [&mut state.sender, &mut state.receiver] {
            if processor.woken_at.is_some_and(|at| at <= now) {
                processor.woken_at = None;
            }
        }
        if state.tick_at.is_some_and(|at| at <= now) {
            self.tick(host, now, net);
        }
        self.run_receiver(host, now, net);
        self.run_sender(host, now, net);
    }
}
