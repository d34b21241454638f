//! The network as flows see it: pipes, and the ways through them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::ACK_BYTES;
use crate::sim::fabric::switch::hash;
use crate::sim::random::{Purpose, Stream};
use crate::sim::time::{ByteTime, Picos};
use crate::sim::topology::{End, Groups, Topology};
use crate::units::Rate;

/// Ports that all carry the same, as one: those from one class of switches to another if traffic
/// is spread, else each port by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pipe {
    /// Bytes per picosecond, of all its ports.
    pub(super) capacity: f64,
    /// How many there are.
    pub(super) ports: u32,
    /// Whether what comes into it could ever be more than it takes, and what it takes more than
    /// what comes after it does.
    pub(super) binds: bool,
}

/// The state of links that faults change.
#[derive(Debug, Clone)]
pub(super) struct Links {
    /// Rate of each port.
    pub(super) rates: Vec<Rate>,
    /// By how many faults each port is down.
    pub(super) down: Vec<u32>,
}

impl Links {
    pub(super) fn new(topology: &Topology) -> Self {
        let ports = topology.ports();
        Self {
            rates: ports.iter().map(|port| port.rate).collect(),
            down: vec![0; ports.len()],
        }
    }

    fn rate(&self, port: u32) -> Rate {
        if self.down[port as usize] > 0 {
            Rate::ZERO
        } else {
            self.rates[port as usize]
        }
    }
}

/// Pipes and ways, as the links are now.
#[derive(Debug)]
pub(super) struct Network<'a> {
    topology: &'a Topology,
    groups: Cow<'a, Groups>,
    pipes: Vec<Pipe>,
    pipe_of: Vec<u32>,
    rates: Vec<Rate>,
    salts: Vec<u32>,
    /// Wherever a switch has the choice, it is between ports of one pipe.
    is_regular: bool,
}

pub(super) fn per_pico(rate: Rate) -> f64 {
    rate.0 as f64 / 1e12
}

impl<'a> Network<'a> {
    /// A network whose links are as they were built, whose ways are known.
    pub(super) fn new(
        topology: &'a Topology,
        groups: Cow<'a, Groups>,
        links: &Links,
        by_port: bool,
        seed: u64,
    ) -> Self {
        let ports = topology.ports();
        let (class_of, mut pipe_of) = if by_port {
            (
                (0..topology.switches()).collect(),
                (0..ports.len() as u32).collect(),
            )
        } else {
            classes(topology, links)
        };
        let count = pipe_of.iter().max().map_or(0, |&last| last as usize + 1);
        let mut pipes = vec![Pipe::default(); count];
        for (port, pipe) in (0u32..).zip(&mut pipe_of) {
            pipes[*pipe as usize].capacity += per_pico(links.rate(port));
            pipes[*pipe as usize].ports += 1;
        }
        find_binding(topology, &class_of, &pipe_of, &mut pipes);
        let is_one_pipe = |set: &[u32]| {
            let mut pipes = set.iter().map(|&port| pipe_of[port as usize]);
            let first = pipes.next();
            pipes.all(|pipe| Some(pipe) == first)
        };
        let is_regular = groups.sets().all(is_one_pipe);
        let salt = |index| Stream::new(seed, Purpose::Salt, index).below(1 << 31);
        Self {
            topology,
            groups,
            pipes,
            pipe_of,
            rates: (0..ports.len() as u32)
                .map(|port| links.rate(port))
                .collect(),
            salts: (0..u64::from(topology.switches())).map(salt).collect(),
            is_regular,
        }
    }

    pub(super) fn pipes(&self) -> &[Pipe] {
        &self.pipes
    }

    pub(super) fn topology(&self) -> &'a Topology {
        self.topology
    }

    /// The ports of a switch that lead to a host port, or nothing.
    fn towards(&self, switch: u32, to: u32) -> &[u32] {
        self.groups.towards(switch, to)
    }

    fn next(&self, port: u32) -> End {
        self.topology.ports()[port as usize].to
    }

    /// How long a packet of so many bytes takes between two host ports in an idle network from when
    /// the first transmitter has sent it, and how long an acknowledgement takes back: zero if there
    /// is no way.
    pub(super) fn times(&self, from: u32, to: u32, bytes: u64) -> (Picos, Picos) {
        let first = self.topology.port_of_host_port(from);
        let mut port = first;
        let (mut there, mut back) = (Picos::ZERO, Picos::ZERO);
        loop {
            let delay = self.topology.ports()[port as usize].delay;
            let time = ByteTime::of(self.rates[port as usize]);
            if port != first {
                there += time.time(bytes);
            }
            there += delay;
            // Both directions of a link are alike.
            back += delay + time.time(ACK_BYTES);
            let End::Switch(switch) = self.next(port) else {
                return (there, back);
            };
            match self.towards(switch, to).first() {
                Some(&next) => port = next,
                None => return (Picos::ZERO, Picos::ZERO),
            }
        }
    }

    /// The pipes of what has this entropy; nothing if there is no way.
    pub(super) fn trace(&self, from: u32, to: u32, entropy: u32, way: &mut Vec<(u32, f64)>) {
        way.clear();
        let mut port = self.topology.port_of_host_port(from);
        loop {
            way.push((self.pipe_of[port as usize], 1.0));
            let End::Switch(switch) = self.next(port) else {
                return;
            };
            let group = self.towards(switch, to);
            if group.is_empty() {
                way.clear();
                return;
            }
            let place = hash(entropy, self.salts[switch as usize]) % group.len() as u32;
            port = group[place as usize];
        }
    }

    /// The pipes of what is spread over all shortest ways, each with the share that goes through
    /// it: in equal parts, or by the room that is behind each port. Nothing if there is no way.
    pub(super) fn spread(&self, from: u32, to: u32, evenly: bool, uses: &mut Vec<(u32, f64)>) {
        uses.clear();
        let first = self.topology.port_of_host_port(from);
        uses.push((self.pipe_of[first as usize], 1.0));
        if self.is_regular {
            let mut end = self.next(first);
            while let End::Switch(switch) = end {
                let Some(&port) = self.towards(switch, to).first() else {
                    uses.clear();
                    return;
                };
                uses.push((self.pipe_of[port as usize], 1.0));
                end = self.next(port);
            }
            return;
        }
        let mut front: Vec<(End, f64)> = vec![(self.next(first), 1.0)];
        let mut next: Vec<(u32, End, f64)> = Vec::new();
        while let [(End::Switch(_), _), ..] = front[..] {
            next.clear();
            for &(end, part) in &front {
                let group = self.towards(end.index(), to);
                let weigh = |port: u32| if evenly { 1.0 } else { self.room(port, to) };
                let weights: Vec<f64> = group.iter().map(|&port| weigh(port)).collect();
                let sum: f64 = weights.iter().sum();
                if sum <= 0.0 {
                    uses.clear();
                    return;
                }
                for (&port, weight) in group.iter().zip(weights) {
                    let (pipe, part) = (self.pipe_of[port as usize], part * weight / sum);
                    match next.iter_mut().find(|(other, ..)| *other == pipe) {
                        Some((.., sum)) => *sum += part,
                        None => next.push((pipe, self.next(port), part)),
                    }
                }
            }
            front.clear();
            for &(pipe, end, part) in &next {
                uses.push((pipe, part));
                // One member of a class stands for all of them.
                match front.iter_mut().find(|(other, _)| *other == end) {
                    Some((_, sum)) => *sum += part,
                    None => front.push((end, part)),
                }
            }
        }
    }

    /// Of a host port, in bytes per picosecond.
    pub(super) fn host_rate(&self, host_port: u32) -> f64 {
        per_pico(self.rates[self.topology.port_of_host_port(host_port) as usize])
    }

    /// What can go to a host port through a port and what is behind it.
    fn room(&self, port: u32, to: u32) -> f64 {
        let own = per_pico(self.rates[port as usize]);
        match self.next(port) {
            End::HostPort(_) => own,
            End::Switch(switch) => {
                let behind = self.towards(switch, to).iter();
                own.min(behind.map(|&port| self.room(port, to)).sum())
            }
        }
    }
}

/// The class of each switch and the pipe of each port, where traffic is spread.
fn classes(topology: &Topology, links: &Links) -> (Vec<u32>, Vec<u32>) {
    let mut labels = BTreeMap::new();
    let label_of: Vec<u64> = (0u32..)
        .zip(topology.ports())
        .map(|(port, spec)| {
            let new = labels.len() as u64;
            *labels.entry((links.rate(port), spec.delay)).or_insert(new)
        })
        .collect();
    let is_up = |port: u32| links.down[port as usize] == 0;
    let class_of = topology.classes(|port| is_up(port).then(|| label_of[port as usize]));
    let mut known = BTreeMap::new();
    let pipe_of = (0usize..)
        .zip(topology.ports())
        .map(|(port, spec)| {
            let end = |end| match end {
                End::Switch(switch) => (0, class_of[switch as usize]),
                End::HostPort(host_port) => (1, host_port),
            };
            let new = known.len() as u32;
            let key = (end(spec.from), end(spec.to), label_of[port]);
            *known.entry(key).or_insert(new)
        })
        .collect();
    (class_of, pipe_of)
}

/// Finds the pipes that can be the tightest of what goes through them.
///
/// A pipe cannot be if all that comes into the switches where it begins, other than from where it
/// leads, fits into it. Nor can it be if all that leaves the switches at its end, other than back,
/// takes no more than it does; there, what cannot be the tightest by the first rule takes anything,
/// as this pipe may be the reason.
fn find_binding(topology: &Topology, class_of: &[u32], pipe_of: &[u32], pipes: &mut [Pipe]) {
    let classes = class_of.iter().max().map_or(0, |&last| last as usize + 1);
    let mut ends = vec![(None, None); pipes.len()];
    let class = |end| match end {
        End::Switch(switch) => Some(class_of[switch as usize] as usize),
        End::HostPort(_) => None,
    };
    for (port, spec) in topology.ports().iter().enumerate() {
        ends[pipe_of[port] as usize] = (class(spec.from), class(spec.to));
    }
    let mut into = vec![0.0; classes];
    // From class to class, whatever the rate of the ports.
    let mut between: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for (pipe, &(from, to)) in pipes.iter().zip(&ends) {
        if let Some(to) = to {
            into[to] += pipe.capacity;
        }
        if let (Some(from), Some(to)) = (from, to) {
            *between.entry((from, to)).or_default() += pipe.capacity;
        }
    }
    let mut to_hosts = vec![0.0; classes];
    let mut onward: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for (pipe, &(from, to)) in pipes.iter_mut().zip(&ends) {
        let Some(from) = from else {
            pipe.binds = true;
            continue;
        };
        let back = to.and_then(|to| between.get(&(to, from)));
        pipe.binds = to.is_none() || exceeds(into[from] - back.unwrap_or(&0.0), pipe);
        let most = if pipe.binds {
            pipe.capacity
        } else {
            f64::INFINITY
        };
        match to {
            Some(to) => *onward.entry((from, to)).or_default() += most,
            None => to_hosts[from] += most,
        }
    }
    for (pipe, &(from, to)) in pipes.iter_mut().zip(&ends) {
        if let (Some(from), Some(to), true) = (from, to, pipe.binds) {
            let others = onward.range((to, 0)..(to + 1, 0));
            let others = others.filter(|&(&(_, next), _)| next != from);
            let on = to_hosts[to] + others.map(|(_, most)| most).sum::<f64>();
            pipe.binds = exceeds(on, pipe);
        }
    }
}

/// Whether so much is more than a pipe takes; sums of the same rates in another order are not.
fn exceeds(most: f64, pipe: &Pipe) -> bool {
    most > pipe.capacity * (1.0 + 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::topology::LinkSpec;

    const LINK: LinkSpec = LinkSpec {
        rate: Rate::from_mbps(100_000),
        delay: Picos::from_micros(1),
    };

    fn network(topology: &Topology, links: &Links) -> Network<'static> {
        // Leaked: a test's network lives as long as the test.
        let topology = Box::leak(Box::new(topology.clone()));
        let groups = Groups::shortest(topology, |port| links.down[port as usize] == 0);
        Network::new(topology, Cow::Owned(groups), links, false, 1)
    }

    #[test]
    fn the_tiers_of_a_fat_tree_are_pipes_that_never_bind() {
        let topology = Topology::fat_tree(8, LINK).unwrap();
        let network = network(&topology, &Links::new(&topology));
        let mut uses = Vec::new();
        network.spread(0, 127, true, &mut uses);
        let ports: Vec<u32> = uses
            .iter()
            .map(|&(pipe, _)| network.pipes()[pipe as usize].ports)
            .collect();
        assert_eq!(ports, [1, 4, 16, 16, 4, 1]);
        assert!(uses.iter().all(|&(_, share)| (share - 1.0).abs() < 1e-12));
        let binding = uses
            .iter()
            .filter(|&&(pipe, _)| network.pipes()[pipe as usize].binds);
        assert_eq!(binding.count(), 2, "the links of the two hosts");
        let groups = Groups::shortest(&topology, |_| true);
        let idle = |bytes| topology.idle_delay(&groups, 0, 127, bytes).unwrap();
        let own = ByteTime::of(LINK.rate).time(4150);
        assert_eq!(network.times(0, 127, 4150), (idle(4150) - own, idle(64)));
        // Fewer spines than hosts of a leaf: its links to them bind.
        let narrow = Topology::leaf_spine(4, 4, 2, LINK, LINK).unwrap();
        let network = self::network(&narrow, &Links::new(&narrow));
        network.spread(0, 15, true, &mut uses);
        let binds: Vec<bool> = uses
            .iter()
            .map(|&(pipe, _)| network.pipes()[pipe as usize].binds)
            .collect();
        assert_eq!(binds, [true; 4]);
    }

    #[test]
    fn slow_links_get_less_where_somebody_looks() {
        let topology = Topology::leaf_spine(2, 4, 4, LINK, LINK).unwrap();
        let mut links = Links::new(&topology);
        let slow = topology.links_named("leaf 0", "spine 2")[0];
        links.rates[slow as usize] = Rate::from_mbps(10_000);
        let network = network(&topology, &links);
        let mut uses = Vec::new();
        let share_of = |uses: &[(u32, f64)]| {
            let pipe = network.pipe_of[slow as usize];
            uses.iter()
                .find(|&&(other, _)| other == pipe)
                .map(|&(_, share)| share)
        };
        network.spread(0, 7, true, &mut uses);
        assert_eq!(share_of(&uses), Some(0.25));
        network.spread(0, 7, false, &mut uses);
        assert!(
            (share_of(&uses).unwrap() - 0.1 / 3.1).abs() < 1e-12,
            "{uses:?}"
        );
        assert_eq!(
            uses.len(),
            6,
            "a host's link, two kinds of spines there and back, a host's link"
        );
        links.down[slow as usize] = 1;
        let network = self::network(&topology, &links);
        network.spread(0, 7, true, &mut uses);
        assert_eq!(uses.len(), 4);
        assert!(
            !uses
                .iter()
                .any(|&(pipe, _)| pipe == network.pipe_of[slow as usize])
        );
    }
}
