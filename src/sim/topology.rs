//! Who is connected to whom: hosts with one or more ports, switches, and the links between them;
//! and which ports of a switch lead towards a host on a shortest way.

use std::collections::BTreeMap;
use std::ops::Range;

use thiserror::Error;

use super::packet::NONE;
use super::time::{ByteTime, Picos};
use crate::units::Rate;

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A port of a host, by its number among all hosts' ports.
    HostPort(u32),
    /// A switch.
    Switch(u32),
}

impl End {
    /// The number of the host port or of the switch.
    #[must_use]
    pub const fn index(self) -> u32 {
        match self {
            Self::HostPort(index) | Self::Switch(index) => index,
        }
    }

    /// Whether it belongs to a host.
    #[must_use]
    pub const fn is_host(self) -> bool {
        matches!(self, Self::HostPort(_))
    }
}

/// One direction of a link.
#[derive(Debug, Clone, Copy)]
pub struct PortSpec {
    /// Where its queue is.
    pub from: End,
    /// Where it leads.
    pub to: End,
    /// Of the transmitter.
    pub rate: Rate,
    /// Of the wire.
    pub delay: Picos,
}

#[derive(Debug, Clone, Copy)]
struct HostPort {
    host: u32,
    /// Its own transmitter.
    port: u32,
    /// The switch that it hangs on, and that switch's port to it.
    edge: u32,
    down: u32,
}

/// Rate and delay of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSpec {
    /// Of the transmitters.
    pub rate: Rate,
    /// Of the wire.
    pub delay: Picos,
}

/// Why no fabric can be built so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// A number is not what it has to be.
    #[error("{what} must be {must}, not {value}")]
    Number {
        /// Which.
        what: &'static str,
        /// What it is.
        value: u64,
        /// What it has to be.
        must: &'static str,
    },
    /// Too many for the numbers that name them.
    #[error("a fabric of {0} ports; this simulator counts up to 2^24")]
    TooLarge(u64),
}

/// A network.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    ports: Vec<PortSpec>,
    host_ports: Vec<HostPort>,
    /// First port of each host, and one more.
    hosts: Vec<u32>,
    /// Name of each switch.
    switches: Vec<String>,
    /// Switches with hosts, and the place of each switch among them.
    edges: Vec<u32>,
    edge_of: Vec<u32>,
}

impl Topology {
    // ---- building ----

    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            hosts: vec![0],
            ..Self::default()
        }
    }

    /// Adds a switch and numbers it.
    pub fn add_switch(&mut self, name: String) -> u32 {
        self.switches.push(name);
        self.edge_of.push(NONE);
        self.switches.len() as u32 - 1
    }

    /// Adds a host with a port on each of these switches, and numbers it.
    pub fn add_host(&mut self, links: &[(u32, LinkSpec)]) -> u32 {
        let host = self.hosts.len() as u32 - 1;
        for &(switch, link) in links {
            let host_port = self.host_ports.len() as u32;
            let port = self.add_link(End::HostPort(host_port), End::Switch(switch), link);
            self.host_ports.push(HostPort {
                host,
                port,
                edge: switch,
                down: port + 1,
            });
            if self.edge_of[switch as usize] == NONE {
                self.edge_of[switch as usize] = self.edges.len() as u32;
                self.edges.push(switch);
            }
        }
        self.hosts.push(self.host_ports.len() as u32);
        host
    }

    /// Connects two switches, both ways; the answer is the port from `a`, that from `b` is the next.
    pub fn connect(&mut self, a: u32, b: u32, link: LinkSpec) -> u32 {
        self.add_link(End::Switch(a), End::Switch(b), link)
    }

    fn add_link(&mut self, a: End, b: End, link: LinkSpec) -> u32 {
        let port = self.ports.len() as u32;
        for (from, to) in [(a, b), (b, a)] {
            self.ports.push(PortSpec {
                from,
                to,
                rate: link.rate,
                delay: link.delay,
            });
        }
        port
    }

    /// Leaves with hosts, each leaf connected to each spine.
    ///
    /// # Errors
    /// A number of none.
    pub fn leaf_spine(
        leaves: u32,
        hosts_per_leaf: u32,
        spines: u32,
        host_link: LinkSpec,
        spine_link: LinkSpec,
    ) -> Result<Self, TopologyError> {
        at_least_one("leaves", leaves)?;
        at_least_one("hosts_per_leaf", hosts_per_leaf)?;
        at_least_one("spines", spines)?;
        fits(u64::from(leaves) * (u64::from(hosts_per_leaf) + u64::from(spines)) * 2)?;
        let mut topology = Self::new();
        let first: Vec<u32> = (0..leaves)
            .map(|leaf| topology.add_switch(format!("leaf {leaf}")))
            .collect();
        for spine in 0..spines {
            topology.add_switch(format!("spine {spine}"));
        }
        for &leaf in &first {
            for _ in 0..hosts_per_leaf {
                topology.add_host(&[(leaf, host_link)]);
            }
        }
        for &leaf in &first {
            for spine in 0..spines {
                topology.connect(leaf, leaves + spine, spine_link);
            }
        }
        Ok(topology)
    }

    /// A fat tree of three tiers of switches with `k` ports each: k³/4 hosts.
    ///
    /// # Errors
    /// `k` is odd or 0.
    pub fn fat_tree(k: u32, link: LinkSpec) -> Result<Self, TopologyError> {
        if k == 0 || k % 2 == 1 {
            return Err(TopologyError::Number {
                what: "k",
                value: u64::from(k),
                must: "even and at least 2",
            });
        }
        fits(u64::from(k).pow(3) * 3 / 2)?;
        let half = k / 2;
        let mut topology = Self::new();
        for edge in 0..k * half {
            topology.add_switch(format!("edge {edge}"));
        }
        for aggregation in 0..k * half {
            topology.add_switch(format!("aggregation {aggregation}"));
        }
        for core in 0..half * half {
            topology.add_switch(format!("core {core}"));
        }
        for host in 0..k * half * half {
            topology.add_host(&[(host / half, link)]);
        }
        for pod in 0..k {
            for edge in 0..half {
                for aggregation in 0..half {
                    topology.connect(pod * half + edge, k * half + pod * half + aggregation, link);
                }
            }
            for aggregation in 0..half {
                for core in 0..half {
                    topology.connect(
                        k * half + pod * half + aggregation,
                        2 * k * half + aggregation * half + core,
                        link,
                    );
                }
            }
        }
        Ok(topology)
    }

    /// Servers with a port on each rail: each rail has leaves of its own, and all leaves share the
    /// spines. What stays on one rail and under one leaf never meets a spine.
    ///
    /// # Errors
    /// A number of none, or servers that do not fill their leaves.
    pub fn rail_optimised(
        servers: u32,
        rails: u32,
        servers_per_leaf: u32,
        spines: u32,
        host_link: LinkSpec,
        spine_link: LinkSpec,
    ) -> Result<Self, TopologyError> {
        at_least_one("servers", servers)?;
        at_least_one("rails", rails)?;
        at_least_one("servers_per_leaf", servers_per_leaf)?;
        at_least_one("spines", spines)?;
        if !servers.is_multiple_of(servers_per_leaf) {
            return Err(TopologyError::Number {
                what: "servers",
                value: u64::from(servers),
                must: "a multiple of servers_per_leaf",
            });
        }
        let leaves = servers / servers_per_leaf;
        let links = u64::from(servers) + u64::from(leaves) * u64::from(spines);
        fits(u64::from(rails) * links * 2)?;
        let mut topology = Self::new();
        for rail in 0..rails {
            for leaf in 0..leaves {
                topology.add_switch(format!("rail {rail} leaf {leaf}"));
            }
        }
        for spine in 0..spines {
            topology.add_switch(format!("spine {spine}"));
        }
        for server in 0..servers {
            let leaf = server / servers_per_leaf;
            let links: Vec<_> = (0..rails)
                .map(|rail| (rail * leaves + leaf, host_link))
                .collect();
            topology.add_host(&links);
        }
        for leaf in 0..rails * leaves {
            for spine in 0..spines {
                topology.connect(leaf, rails * leaves + spine, spine_link);
            }
        }
        Ok(topology)
    }

    /// Planes that have nothing in common but the hosts: each host has a port on each of them, and
    /// each is a leaf-spine network.
    ///
    /// # Errors
    /// A number of none.
    pub fn multi_plane(
        planes: u32,
        leaves: u32,
        hosts_per_leaf: u32,
        spines: u32,
        host_link: LinkSpec,
        spine_link: LinkSpec,
    ) -> Result<Self, TopologyError> {
        at_least_one("planes", planes)?;
        at_least_one("leaves", leaves)?;
        at_least_one("hosts_per_leaf", hosts_per_leaf)?;
        at_least_one("spines", spines)?;
        let links = u64::from(leaves) * (u64::from(hosts_per_leaf) + u64::from(spines));
        fits(u64::from(planes).saturating_mul(links) * 2)?;
        let mut topology = Self::new();
        for plane in 0..planes {
            for leaf in 0..leaves {
                topology.add_switch(format!("plane {plane} leaf {leaf}"));
            }
            for spine in 0..spines {
                topology.add_switch(format!("plane {plane} spine {spine}"));
            }
        }
        let first = |plane: u32| plane * (leaves + spines);
        for host in 0..leaves * hosts_per_leaf {
            let links: Vec<_> = (0..planes)
                .map(|plane| (first(plane) + host / hosts_per_leaf, host_link))
                .collect();
            topology.add_host(&links);
        }
        for plane in 0..planes {
            for leaf in 0..leaves {
                for spine in 0..spines {
                    topology.connect(
                        first(plane) + leaf,
                        first(plane) + leaves + spine,
                        spine_link,
                    );
                }
            }
        }
        Ok(topology)
    }

    // ---- reading ----

    /// How an end of a link is called: `leaf 3`, `host 17`.
    #[must_use]
    pub fn end_name(&self, end: End) -> String {
        match end {
            End::HostPort(port) => format!("host {}", self.host_of(port)),
            End::Switch(switch) => self.switch_name(switch).to_owned(),
        }
    }

    /// The switches of this name; `*` stands for any number in it.
    #[must_use]
    pub fn switches_named(&self, name: &str) -> Vec<u32> {
        (0..self.switches())
            .filter(|&switch| matches(name, self.switch_name(switch)))
            .collect()
    }

    /// The links between ends of these two names (see [`Topology::switches_named`]), each by its
    /// port from the first to the second.
    #[must_use]
    pub fn links_named(&self, from: &str, to: &str) -> Vec<u32> {
        (0u32..)
            .zip(&self.ports)
            .filter(|(_, port)| {
                matches(from, &self.end_name(port.from)) && matches(to, &self.end_name(port.to))
            })
            .map(|(port, _)| port)
            .collect()
    }

    /// All ports: both directions of a link are neighbours.
    #[must_use]
    pub fn ports(&self) -> &[PortSpec] {
        &self.ports
    }

    /// The port of the other direction of its link.
    #[must_use]
    pub const fn reverse(port: u32) -> u32 {
        port ^ 1
    }

    /// Number of switches.
    #[must_use]
    pub fn switches(&self) -> u32 {
        self.switches.len() as u32
    }

    /// Number of switches that hosts hang on.
    #[must_use]
    pub fn edges(&self) -> u32 {
        self.edges.len() as u32
    }

    /// Name of a switch.
    #[must_use]
    pub fn switch_name(&self, switch: u32) -> &str {
        &self.switches[switch as usize]
    }

    /// Number of hosts.
    #[must_use]
    pub fn hosts(&self) -> u32 {
        self.hosts.len() as u32 - 1
    }

    /// The ports of a host.
    #[must_use]
    pub fn host_ports_of(&self, host: u32) -> Range<u32> {
        self.hosts[host as usize]..self.hosts[host as usize + 1]
    }

    /// The host that a host port belongs to.
    #[must_use]
    pub fn host_of(&self, host_port: u32) -> u32 {
        self.host_ports[host_port as usize].host
    }

    /// The transmitter of a host port.
    #[must_use]
    pub fn port_of_host_port(&self, host_port: u32) -> u32 {
        self.host_ports[host_port as usize].port
    }

    /// The switch's port that leads to a host port.
    #[must_use]
    pub fn last_port_to(&self, host_port: u32) -> u32 {
        self.host_ports[host_port as usize].down
    }

    /// Switches that nobody can tell apart, by a number for each class: a switch with hosts is
    /// alone in its class, and the members of a class have as many ports with the same label to
    /// each class as one another. Ports without a label do not count.
    ///
    /// What is spread evenly over the shortest ways between two switches with hosts therefore
    /// loads all members of a class alike (colour refinement makes an equitable partition).
    #[must_use]
    pub fn classes(&self, label: impl Fn(u32) -> Option<u64>) -> Vec<u32> {
        let mut links = vec![Vec::new(); self.switches.len()];
        for (port, spec) in (0u32..).zip(&self.ports) {
            if let (End::Switch(from), End::Switch(to)) = (spec.from, spec.to) {
                let labels = (label(port), label(Self::reverse(port)));
                if labels != (None, None) {
                    links[from as usize].push((labels, to));
                }
            }
        }
        let mut class_of: Vec<u32> = self
            .edge_of
            .iter()
            .map(|&edge| if edge == NONE { 0 } else { edge + 1 })
            .collect();
        let mut count = 0;
        loop {
            let mut known = BTreeMap::new();
            let next = links.iter().zip(&class_of).map(|(links, &class)| {
                let mut seen: Vec<_> = links
                    .iter()
                    .map(|&(labels, to)| (labels, class_of[to as usize]))
                    .collect();
                seen.sort_unstable();
                let new = known.len() as u32;
                *known.entry((class, seen)).or_insert(new)
            });
            let next: Vec<u32> = next.collect();
            class_of = next;
            if known.len() == count {
                return class_of;
            }
            count = known.len();
        }
    }

    /// The ports that a packet passes from one host port to another, on one of its shortest ways;
    /// `None` if there is none.
    #[must_use]
    pub fn way(&self, groups: &Groups, from: u32, to: u32) -> Option<Vec<u32>> {
        let mut ports = vec![self.port_of_host_port(from)];
        loop {
            let last = *ports.last()?;
            match self.ports[last as usize].to {
                End::HostPort(_) => return Some(ports),
                End::Switch(switch) => ports.push(*groups.towards(switch, to).first()?),
            }
        }
    }

    /// How long a packet of so many bytes takes from one host port to another in an idle network.
    #[must_use]
    pub fn idle_delay(&self, groups: &Groups, from: u32, to: u32, bytes: u64) -> Option<Picos> {
        let way = self.way(groups, from, to)?;
        Some(way.iter().fold(Picos::ZERO, |sum, &port| {
            let port = &self.ports[port as usize];
            sum + ByteTime::of(port.rate).time(bytes) + port.delay
        }))
    }
}

/// Whether a name fits a pattern: word by word, where `*` stands for any word.
fn matches(pattern: &str, name: &str) -> bool {
    let mut words = name.split(' ');
    let fit = pattern.split_whitespace().all(|wanted| {
        words
            .next()
            .is_some_and(|word| wanted == "*" || wanted == word)
    });
    fit && words.next().is_none()
}

fn at_least_one(what: &'static str, value: u32) -> Result<(), TopologyError> {
    if value > 0 {
        return Ok(());
    }
    Err(TopologyError::Number {
        what,
        value: 0,
        must: "at least 1",
    })
}

fn fits(ports: u64) -> Result<(), TopologyError> {
    if ports > 1 << 24 {
        return Err(TopologyError::TooLarge(ports));
    }
    Ok(())
}

/// For each switch and each switch with hosts: the ports on a shortest way from one to the other.
///
/// Each hop of each packet looks here, at a place of its own: what it reads is kept small.
#[derive(Debug, Clone)]
pub struct Groups {
    /// By switch and edge: which of the groups of that switch.
    group: Vec<u16>,
    /// The first group of each switch.
    first: Vec<u32>,
    /// Where a group begins and ends in `ports`.
    ranges: Vec<(u32, u32)>,
    ports: Vec<u32>,
    edges: usize,
    /// The edge of each host port.
    edge_of: Vec<u32>,
    /// The last port to each host port.
    down: Vec<u32>,
}

/// The first group of every switch: no port at all.
const NOWHERE: u16 = 0;
/// The host hangs on this very switch.
const HERE: u16 = u16::MAX;

impl Groups {
    /// The shortest ways over the ports that `usable` admits.
    ///
    /// Switches of one class (see [`Topology::classes`]) are equally far from everywhere, so
    /// distances are found once for a class.
    ///
    /// # Panics
    /// More than 65 534 different sets of ports at a switch.
    #[must_use]
    pub fn shortest(topology: &Topology, usable: impl Fn(u32) -> bool) -> Self {
        let edges = topology.edges.len();
        let class_of = topology.classes(|port| usable(port).then_some(0));
        let classes = class_of.iter().max().map_or(0, |&last| last as usize + 1);
        let mut members = vec![Vec::new(); classes];
        for (switch, &class) in (0u32..).zip(&class_of) {
            members[class as usize].push(switch);
        }
        // Ports between switches, by the one they leave and the class that they lead to.
        let mut out = vec![Vec::new(); topology.switches.len()];
        for (port, spec) in (0u32..).zip(&topology.ports) {
            if let (End::Switch(from), End::Switch(to)) = (spec.from, spec.to)
                && usable(port)
            {
                out[from as usize].push((port, class_of[to as usize]));
            }
        }
        let mut after = vec![Vec::new(); classes];
        let mut before = vec![Vec::new(); classes];
        for (class, members) in (0u32..).zip(&members) {
            let next: &mut Vec<u32> = &mut after[class as usize];
            next.extend(out[members[0] as usize].iter().map(|&(_, to)| to));
            next.sort_unstable();
            next.dedup();
            for &to in &*next {
                before[to as usize].push(class);
            }
        }
        let mut group = vec![NOWHERE; topology.switches.len() * edges];
        let mut ranges = vec![vec![(0, 0)]; topology.switches.len()];
        let mut ports = Vec::new();
        // What each class may choose between: the classes that come next.
        let mut known: Vec<Vec<Vec<u32>>> = vec![Vec::new(); classes];
        let mut distance = vec![u32::MAX; classes];
        let mut ring = Vec::with_capacity(classes);
        for (column, &edge) in topology.edges.iter().enumerate() {
            group[edge as usize * edges + column] = HERE;
            let edge = class_of[edge as usize];
            distance.fill(u32::MAX);
            distance[edge as usize] = 0;
            ring.clear();
            ring.push(edge);
            let mut at = 0;
            while let Some(&class) = ring.get(at) {
                at += 1;
                for &from in &before[class as usize] {
                    if distance[from as usize] == u32::MAX {
                        distance[from as usize] = distance[class as usize] + 1;
                        ring.push(from);
                    }
                }
            }
            for &class in &ring[1..] {
                let nearer = distance[class as usize] - 1;
                let is_nearer = |to: &u32| distance[*to as usize] == nearer;
                let next = || after[class as usize].iter().copied().filter(is_nearer);
                let known = &mut known[class as usize];
                let place = known
                    .iter()
                    .position(|other| other.iter().copied().eq(next()));
                let place = place.unwrap_or_else(|| {
                    known.push(next().collect());
                    for &switch in &members[class as usize] {
                        let start = ports.len() as u32;
                        let out = out[switch as usize].iter();
                        ports.extend(out.filter(|(_, to)| is_nearer(to)).map(|&(port, _)| port));
                        ranges[switch as usize].push((start, ports.len() as u32));
                    }
                    known.len() - 1
                });
                // The first group of a switch is none at all.
                let place = u16::try_from(place + 1).unwrap_or(HERE);
                assert!(
                    place != HERE,
                    "too many different sets of ports at a switch"
                );
                for &switch in &members[class as usize] {
                    group[switch as usize * edges + column] = place;
                }
            }
        }
        let mut count = 0;
        let first = ranges.iter().map(|own| {
            let first = count;
            count += own.len() as u32;
            first
        });
        let edge_of = |port: &HostPort| topology.edge_of[port.edge as usize];
        Self {
            group,
            first: first.collect(),
            ranges: ranges.concat(),
            ports,
            edges,
            edge_of: topology.host_ports.iter().map(edge_of).collect(),
            down: topology.host_ports.iter().map(|p| p.down).collect(),
        }
    }

    /// Reads what [`Groups::towards`] reads first, so that it comes into the cache.
    pub(super) fn glance(&self, switch: u32, to: u32) -> u64 {
        let column = self.edge_of[to as usize] as usize;
        let group = self.group[switch as usize * self.edges + column];
        u64::from(group) ^ u64::from(self.first[switch as usize])
    }

    /// All sets of ports between which a switch has the choice on some way.
    pub fn sets(&self) -> impl Iterator<Item = &[u32]> {
        let some = self.ranges.iter().filter(|(start, end)| start < end);
        some.map(|&(start, end)| &self.ports[start as usize..end as usize])
    }

    /// The ports of `switch` that lead to this host port.
    #[must_use]
    #[inline]
    pub fn towards(&self, switch: u32, to: u32) -> &[u32] {
        let column = self.edge_of[to as usize] as usize;
        let group = self.group[switch as usize * self.edges + column];
        if group == HERE {
            return std::slice::from_ref(&self.down[to as usize]);
        }
        let place = self.first[switch as usize] as usize + usize::from(group);
        let (start, end) = self.ranges[place];
        &self.ports[start as usize..end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkSpec = LinkSpec {
        rate: Rate::from_mbps(100_000),
        delay: Picos::from_micros(1),
    };

    #[test]
    fn a_fat_tree_has_all_its_ways() {
        let topology = Topology::fat_tree(8, LINK).unwrap();
        assert_eq!((topology.hosts(), topology.switches()), (128, 80));
        assert_eq!(topology.ports().len(), 3 * 128 * 2);
        let groups = Groups::shortest(&topology, |_| true);
        // To another pod: four ways up from the edge, four from there on, one way down.
        let way = topology.way(&groups, 0, 127).unwrap();
        assert_eq!(way.len(), 6);
        assert_eq!(groups.towards(0, 127).len(), 4);
        assert_eq!(groups.towards(32, 127).len(), 4);
        assert_eq!(groups.towards(64, 127).len(), 1);
        assert_eq!(topology.way(&groups, 0, 3).unwrap().len(), 2);
        assert_eq!(topology.way(&groups, 0, 7).unwrap().len(), 4);
        let there = topology.idle_delay(&groups, 0, 127, 4150).unwrap();
        assert_eq!(there, Picos(6_000_000 + 6 * 332_000));
    }

    #[test]
    fn rails_meet_at_the_spines_only() {
        let topology = Topology::rail_optimised(8, 4, 4, 2, LINK, LINK).unwrap();
        assert_eq!((topology.hosts(), topology.switches()), (8, 4 * 2 + 2));
        assert_eq!(topology.host_ports_of(3).len(), 4);
        let groups = Groups::shortest(&topology, |_| true);
        // The same rail under one leaf; the same rail, other leaf; another rail.
        for (to, hops) in [(4, 2), (4 * 4, 4), (5, 4)] {
            assert_eq!(topology.way(&groups, 0, to).unwrap().len(), hops, "{to}");
        }
        let error = Topology::rail_optimised(9, 4, 4, 2, LINK, LINK).unwrap_err();
        assert_eq!(
            error.to_string(),
            "servers must be a multiple of servers_per_leaf, not 9"
        );
    }

    #[test]
    fn planes_have_nothing_in_common() {
        let topology = Topology::multi_plane(2, 2, 2, 3, LINK, LINK).unwrap();
        assert_eq!((topology.hosts(), topology.switches()), (4, 10));
        let groups = Groups::shortest(&topology, |_| true);
        assert_eq!(topology.way(&groups, 0, 6).unwrap().len(), 4);
        assert_eq!(topology.way(&groups, 1, 7).unwrap().len(), 4);
        assert_eq!(topology.way(&groups, 0, 7), None, "the other plane");
    }

    #[test]
    fn links_have_names() {
        let topology = Topology::leaf_spine(2, 2, 3, LINK, LINK).unwrap();
        let link = topology.links_named("leaf 1", "spine 2");
        assert_eq!(link.len(), 1);
        let port = topology.ports()[link[0] as usize];
        assert_eq!(topology.end_name(port.from), "leaf 1");
        assert_eq!(topology.end_name(port.to), "spine 2");
        assert_eq!(topology.links_named("leaf *", "spine 0").len(), 2);
        assert_eq!(
            topology.links_named("host 3", "*").len(),
            0,
            "one word only"
        );
        assert_eq!(topology.links_named("host 3", "leaf *").len(), 1);
        assert_eq!(topology.switches_named("spine *").len(), 3);
        assert!(topology.switches_named("spine 3").is_empty());
    }

    #[test]
    fn ways_lead_round_what_is_down() {
        let topology = Topology::leaf_spine(2, 2, 3, LINK, LINK).unwrap();
        let all = Groups::shortest(&topology, |_| true);
        assert_eq!(all.towards(0, 3).len(), 3);
        let dead = all.towards(0, 3)[1];
        let rest = Groups::shortest(&topology, |port| port != dead);
        assert_eq!(rest.towards(0, 3).len(), 2);
        // The far side of a spine without a link to the leaf is no way either.
        let spine = topology.ports()[dead as usize].to.index();
        let far = all.towards(spine, 3)[0];
        let rest = Groups::shortest(&topology, |port| port != far);
        assert!(!rest.towards(0, 3).contains(&dead));
        assert_eq!(rest.towards(0, 3).len(), 2);
        let none = Groups::shortest(&topology, |_| false);
        assert_eq!(topology.way(&none, 0, 3), None);
    }

    #[test]
    fn impossible_networks_are_refused() {
        let error = Topology::fat_tree(7, LINK).unwrap_err().to_string();
        assert_eq!(error, "k must be even and at least 2, not 7");
        let error = Topology::leaf_spine(0, 1, 1, LINK, LINK).unwrap_err();
        assert_eq!(error.to_string(), "leaves must be at least 1, not 0");
        assert!(Topology::fat_tree(1000, LINK).is_err());
    }
}
