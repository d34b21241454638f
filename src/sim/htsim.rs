//! The files of htsim, the Ultra Ethernet consortium's packet simulator, so that its users can
//! bring theirs: connection matrices (`.cm`) and topologies (`.topo`).

use std::collections::BTreeMap;

use super::generate::Part;
use super::scenario::{Place, ScenarioError};
use super::time::Picos;
use super::topology::{LinkSpec, Topology};
use super::workload::{DoneWhen, Flow, Workload};
use crate::units::Rate;

/// A file and the line that is being read.
struct Lines<'a> {
    file: &'a str,
    line: u32,
}

impl Lines<'_> {
    fn error(&self, problem: impl Into<String>) -> ScenarioError {
        ScenarioError {
            file: self.file.to_owned(),
            place: Place::Line(self.line),
            problem: problem.into(),
        }
    }

    fn number<N: std::str::FromStr>(
        &self,
        name: &str,
        text: Option<&str>,
    ) -> Result<N, ScenarioError> {
        let text = text
            .ok_or_else(|| self.error(format!("{name} has no value; the file may be truncated")))?;
        text.parse()
            .map_err(|_| self.error(format!("{name} is {text:?}, but must be a number")))
    }
}

/// Lines with something on them, without comments, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    (1u32..)
        .zip(text.lines())
        .map(|(number, line)| (number, line.split('#').next().unwrap_or("").trim()))
        .filter(|(_, line)| !line.is_empty())
}

// ---- connection matrices ----

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TriggerKind {
    OneShot,
    MultiShot,
    Barrier(usize),
}

#[derive(Debug)]
struct Trigger {
    line: u32,
    kind: TriggerKind,
    sources: Vec<(u32, DoneWhen)>,
    targets: Vec<u32>,
}

/// Adds the flows of a connection matrix to a workload.
///
/// # Errors
/// The first line that is wrong, or what is missing.
pub fn read_connections(
    file: &str,
    text: &str,
    hosts: u32,
    part: Part,
    workload: &mut Workload,
) -> Result<(), ScenarioError> {
    let mut at = Lines { file, line: 1 };
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut triggers: BTreeMap<u32, Trigger> = BTreeMap::new();
    // Which connection names which trigger, and where: a trigger may be declared after it.
    let mut named = Vec::new();
    let mut connections = 0;
    for (line, content) in lines(text) {
        at.line = line;
        let mut words = content.split_whitespace();
        let first = words.next().unwrap_or_default();
        match first.to_ascii_lowercase().as_str() {
            "nodes" => {
                let nodes = at.number("Nodes", words.next())?;
                if nodes > hosts {
                    return Err(at.error(format!(
                        "Nodes is {nodes}, but the fabric has {hosts} hosts; choose a larger fabric"
                    )));
                }
                counts.insert("Nodes", nodes);
            }
            "connections" => {
                counts.insert("Connections", at.number("Connections", words.next())?);
            }
            "triggers" => {
                counts.insert("Triggers", at.number("Triggers", words.next())?);
            }
            "failures" => {
                if at.number::<u32>("Failures", words.next())? > 0 {
                    return Err(at.error("failures in a connection matrix are not read; use [[fault]] in the scenario"));
                }
            }
            "failure" => {
                return Err(at.error(
                    "failures in a connection matrix are not read; use [[fault]] in the scenario",
                ));
            }
            "trigger" => {
                let (id, trigger) = read_trigger(&at, words)?;
                if triggers.insert(id, trigger).is_some() {
                    return Err(
                        at.error(format!("trigger id {id} is there twice; number them apart"))
                    );
                }
            }
            _ if first.contains("->") => {
                let nodes = counts.get("Nodes").copied().unwrap_or(hosts);
                let mut name = |trigger, role, flow| named.push((line, trigger, role, flow));
                read_connection(&at, first, words, nodes, part, &mut name, workload)?;
                connections += 1;
            }
            _ => {
                return Err(at.error(format!(
                    "{first:?} begins no known line; Nodes, Connections, Triggers, trigger and src->dst do"
                )));
            }
        }
    }
    for (name, found) in [
        ("Connections", connections),
        ("Triggers", triggers.len() as u32),
    ] {
        let promised = counts.get(name).copied();
        let promised = match promised {
            Some(promised) => promised,
            None if found == 0 && name == "Triggers" => 0,
            None => {
                return Err(at.error(format!(
                    "the line \"{name} n\" is missing; add it at the top"
                )));
            }
        };
        if promised != found {
            return Err(at.error(format!(
                "{name} says {promised}, but {found} follow: the file is truncated, or the number is wrong"
            )));
        }
    }
    for (line, id, role, flow) in named {
        at.line = line;
        let trigger = triggers.get_mut(&id).ok_or_else(|| {
            at.error(format!(
                "trigger {id} is not declared; add \"trigger id {id} oneshot\""
            ))
        })?;
        match role {
            None => trigger.targets.push(flow),
            Some(when) => trigger.sources.push((flow, when)),
        }
    }
    triggers
        .values()
        .try_for_each(|trigger| pull(&mut at, trigger, workload))
}

fn read_trigger<'a>(
    at: &Lines<'_>,
    mut words: impl Iterator<Item = &'a str>,
) -> Result<(u32, Trigger), ScenarioError> {
    if words.next() != Some("id") {
        return Err(at.error("a trigger begins with \"trigger id n\""));
    }
    let id = at.number("trigger id", words.next())?;
    let kind = match words.next() {
        Some("oneshot") => TriggerKind::OneShot,
        Some("multishot") => TriggerKind::MultiShot,
        Some("barrier") => {
            if words.next() != Some("count") {
                return Err(at.error("a barrier needs \"count n\""));
            }
            TriggerKind::Barrier(at.number("count", words.next())?)
        }
        other => {
            return Err(at.error(format!(
                "a trigger is oneshot, multishot or barrier, not {:?}",
                other.unwrap_or("")
            )));
        }
    };
    let trigger = Trigger {
        line: at.line,
        kind,
        sources: Vec::new(),
        targets: Vec::new(),
    };
    Ok((id, trigger))
}

/// One line `src->dst …`; `name` is told of each trigger in it and, where the connection pulls it
/// rather than waits for it, when.
fn read_connection<'a>(
    at: &Lines<'_>,
    pair: &str,
    mut words: impl Iterator<Item = &'a str>,
    nodes: u32,
    part: Part,
    name: &mut dyn FnMut(u32, Option<DoneWhen>, u32),
    workload: &mut Workload,
) -> Result<(), ScenarioError> {
    let (from, to) = pair.split_once("->").unwrap_or_default();
    let (from, to): (u32, u32) = (at.number("src", Some(from))?, at.number("dst", Some(to))?);
    for host in [from, to] {
        if host >= nodes {
            return Err(at.error(format!(
                "{pair} names host {host}, but there are only {nodes}, numbered from 0"
            )));
        }
    }
    if from == to {
        return Err(at.error(format!("{pair} sends to itself; name another host")));
    }
    let index = workload.flows().len() as u32;
    let (mut start, mut bytes, mut waits) = (None, None, false);
    while let Some(key) = words.next() {
        let value = words.next();
        match key {
            "start" => start = Some(microseconds(at, value)?),
            "size" => bytes = Some(at.number::<u64>("size", value)?),
            "trigger" => {
                waits = true;
                name(at.number("trigger", value)?, None, index);
            }
            "send_done_trigger" => {
                let id = at.number(key, value)?;
                name(id, Some(DoneWhen::Acknowledged), index);
            }
            "recv_done_trigger" => {
                let id = at.number(key, value)?;
                name(id, Some(DoneWhen::Received), index);
            }
            "id" | "prio" => {
                at.number::<u32>(key, value)?;
            }
            _ => {
                return Err(at.error(format!(
                    "{key:?} is not known here; id, start, size, trigger, send_done_trigger and recv_done_trigger are"
                )));
            }
        }
    }
    let bytes = match bytes {
        Some(bytes) if bytes > 0 => bytes,
        Some(_) => return Err(at.error(format!("{pair} has size 0; it must be at least 1"))),
        None => {
            return Err(at.error(format!(
                "{pair} has no size; add \"size bytes\", or the file is truncated"
            )));
        }
    };
    let start = match (start, waits) {
        (Some(start), false) => part.start + start,
        (None, true) => Picos::ZERO,
        _ => {
            return Err(at.error(format!(
                "{pair} needs either \"start us\" or \"trigger n\", and not both"
            )));
        }
    };
    workload.add(Flow {
        from,
        to,
        bytes,
        start,
        class: part.class,
        part: part.part,
    });
    Ok(())
}

/// Whole or decimal microseconds.
fn microseconds(at: &Lines<'_>, text: Option<&str>) -> Result<Picos, ScenarioError> {
    let text = text.unwrap_or("");
    super::scenario::quantity::delay(&format!("{text}us")).ok_or_else(|| {
        at.error(format!(
            "start is {text:?}, but must be a number of microseconds"
        ))
    })
}

/// Turns a trigger into what waits for what.
fn pull(
    at: &mut Lines<'_>,
    trigger: &Trigger,
    workload: &mut Workload,
) -> Result<(), ScenarioError> {
    at.line = trigger.line;
    let sources = trigger.sources.len();
    match trigger.kind {
        TriggerKind::MultiShot => {
            // A trigger is pulled at one kind of moment: that of its first connection.
            let when = trigger
                .sources
                .first()
                .map_or(DoneWhen::Acknowledged, |s| s.1);
            if trigger.sources.iter().any(|source| source.1 != when) {
                return Err(at.error(
                    "a multishot trigger is pulled by send_done and by recv_done; use one of them",
                ));
            }
            let from: Vec<u32> = trigger.sources.iter().map(|source| source.0).collect();
            workload.relay(&from, when, &trigger.targets);
            return Ok(());
        }
        TriggerKind::OneShot if sources > 1 => {
            return Err(at.error(format!(
                "a oneshot trigger is pulled by {sources} connections; make it a barrier or multishot"
            )));
        }
        TriggerKind::Barrier(count) if count != sources => {
            return Err(at.error(format!(
                "a barrier counts to {count}, but {sources} connections pull it; make the two equal"
            )));
        }
        TriggerKind::OneShot | TriggerKind::Barrier(_) => {}
    }
    if sources == 0 && !trigger.targets.is_empty() {
        return Err(at.error(
            "a trigger is waited for, but no connection pulls it; add send_done_trigger to one",
        ));
    }
    for &(source, when) in &trigger.sources {
        for &target in &trigger.targets {
            workload.wait_until(source, when, target);
        }
    }
    Ok(())
}

// ---- topologies ----

#[derive(Debug, Default)]
struct Tier {
    line: u32,
    values: BTreeMap<String, (u32, u64)>,
}

impl Tier {
    fn get(&self, at: &mut Lines<'_>, key: &str) -> Result<u64, ScenarioError> {
        let Some(&(line, value)) = self.values.get(key) else {
            at.line = self.line;
            return Err(at.error(format!("this tier has no {key}; add it")));
        };
        at.line = line;
        if value == 0 {
            return Err(at.error(format!("{key} is 0, but must be at least 1")));
        }
        Ok(value)
    }

    fn or(&self, key: &str, default: u64) -> u64 {
        self.values.get(key).map_or(default, |&(_, value)| value)
    }

    fn rate(&self, at: &mut Lines<'_>) -> Result<Rate, ScenarioError> {
        let gbps = self.get(at, "downlink_speed_gbps")?;
        Ok(Rate::from_mbps(gbps.saturating_mul(1000)))
    }

    fn latency(&self) -> Picos {
        Picos::from_nanos(self.or("downlink_latency_ns", 0))
    }

    fn switch_latency(&self) -> Picos {
        Picos::from_nanos(self.or("switch_latency_ns", 0))
    }
}

const TIER_KEYS: [&str; 9] = [
    "downlink_speed_gbps",
    "radix_down",
    "radix_up",
    "downlink_latency_ns",
    "switch_latency_ns",
    "oversubscribed",
    "bundle",
    "queue_up",
    "queue_down",
];

/// Reads a topology of two or three tiers. Queue sizes in it are left out: the scenario has them.
///
/// # Errors
/// The first line that is wrong, or what does not fit together.
pub fn read_topology(file: &str, text: &str) -> Result<Topology, ScenarioError> {
    let mut at = Lines { file, line: 1 };
    let mut header: BTreeMap<String, (u32, u64)> = BTreeMap::new();
    let mut tiers: BTreeMap<u64, Tier> = BTreeMap::new();
    let mut current = None;
    for (line, content) in lines(text) {
        at.line = line;
        let mut words = content.split_whitespace();
        let key = words.next().unwrap_or_default().to_ascii_lowercase();
        let value: u64 = at.number(&key, words.next())?;
        if key == "tier" {
            let tier = Tier {
                line,
                ..Tier::default()
            };
            if value > 2 || tiers.insert(value, tier).is_some() {
                return Err(at.error(format!(
                    "tier {value} is not one of 0, 1 and 2, or is there twice"
                )));
            }
            current = Some(value);
        } else if let Some(tier) = current.and_then(|tier| tiers.get_mut(&tier)) {
            if !TIER_KEYS.contains(&key.as_str()) {
                return Err(at.error(format!(
                    "{key} is not known in a tier; known are {}",
                    TIER_KEYS.join(", ")
                )));
            }
            tier.values.insert(key, (line, value));
        } else if ["nodes", "tiers", "podsize"].contains(&key.as_str()) {
            header.insert(key, (line, value));
        } else {
            return Err(at.error(format!(
                "{key} is not known before the first tier; nodes, tiers and podsize are"
            )));
        }
    }
    let mut need = |key: &str| match header.get(key) {
        Some(&(line, value)) if value > 0 => {
            at.line = line;
            Ok(value)
        }
        _ => Err(at.error(format!(
            "the line \"{key} n\" is missing or 0; is the file truncated?"
        ))),
    };
    let (nodes, count) = (need("nodes")?, need("tiers")?);
    if !(2..=3).contains(&count) {
        return Err(at.error(format!("tiers is {count}, but must be 2 or 3")));
    }
    let pod = if count == 3 { need("podsize")? } else { nodes };
    for tier in 0..count {
        if !tiers.contains_key(&tier) {
            return Err(at.error(format!(
                "the block of tier {tier} is missing; is the file truncated?"
            )));
        }
    }
    let tiers: Vec<Tier> = tiers.into_values().collect();
    build(&mut at, nodes, pod, &tiers)
}

fn divide(at: &Lines<'_>, what: &str, of: u64, by: u64) -> Result<u32, ScenarioError> {
    if by == 0 || of == 0 || !of.is_multiple_of(by) {
        return Err(at.error(format!("{what}: {of} cannot be divided into {by}")));
    }
    u32::try_from(of / by).map_err(|_| at.error(format!("{what}: too many")))
}

fn build(
    at: &mut Lines<'_>,
    nodes: u64,
    pod: u64,
    tiers: &[Tier],
) -> Result<Topology, ScenarioError> {
    if nodes > 1 << 20 {
        return Err(at.error(format!("nodes is {nodes}, but must be at most {}", 1 << 20)));
    }
    // A packet passes each switch once: half of its latency goes to the link it comes by, half to
    // the one it leaves by.
    let mut links = Vec::new();
    for (index, tier) in tiers.iter().enumerate() {
        let below = index
            .checked_sub(1)
            .map_or(Picos::ZERO, |below| tiers[below].switch_latency());
        links.push(LinkSpec {
            rate: tier.rate(at)?,
            delay: tier.latency() + below / 2 + tier.switch_latency() / 2,
        });
    }
    let per_tor = tiers[0].get(at, "radix_down")?;
    let up = tiers[0].get(at, "radix_up")?;
    let tors = divide(at, "nodes over radix_down", nodes, per_tor)?;
    let oversubscribed = tiers[0].or("oversubscribed", 1);
    let (host_rate, up_rate) = (links[0].rate.0, links[1].rate.0);
    if per_tor * host_rate != up * up_rate * oversubscribed && per_tor != up * oversubscribed {
        return Err(at.error(format!(
            "oversubscribed is {oversubscribed}, but radix_down over radix_up is {per_tor} over {up}"
        )));
    }
    let bundle = tiers[1].or("bundle", 1).max(1);
    let above = divide(at, "radix_up over bundle", up, bundle)?;
    let mut topology = Topology::new();
    for tor in 0..tors {
        topology.add_switch(if tiers.len() == 2 {
            format!("leaf {tor}")
        } else {
            format!("edge {tor}")
        });
    }
    let hosts = u32::try_from(nodes).unwrap_or(u32::MAX);
    let per_tor = u32::try_from(per_tor).unwrap_or(u32::MAX);
    if tiers.len() == 2 {
        let radix = tiers[1].get(at, "radix_down")?;
        let down = divide(at, "radix_down over bundle", radix, bundle)?;
        if down != tors {
            return Err(at.error(format!(
                "a switch of tier 1 has links to {down} of tier 0, but there are {tors}"
            )));
        }
        for spine in 0..above {
            topology.add_switch(format!("spine {spine}"));
        }
        (0..hosts).for_each(|host| {
            topology.add_host(&[(host / per_tor, links[0])]);
        });
        for tor in 0..tors {
            for spine in 0..above {
                (0..bundle).for_each(|_| {
                    topology.connect(tor, tors + spine, links[1]);
                });
            }
        }
        return Ok(topology);
    }
    let pods = divide(at, "nodes over podsize", nodes, pod)?;
    let tors_per_pod = divide(at, "podsize over radix_down", pod, u64::from(per_tor))?;
    let radix = tiers[1].get(at, "radix_down")?;
    let down = divide(at, "radix_down over bundle", radix, bundle)?;
    if down != tors_per_pod {
        return Err(at.error(format!(
            "a switch of tier 1 has links to {down} of tier 0, but a pod has {tors_per_pod}"
        )));
    }
    let bundle_up = tiers[2].or("bundle", 1).max(1);
    let radix = tiers[1].get(at, "radix_up")?;
    let cores_each = divide(at, "radix_up over bundle", radix, bundle_up)?;
    let radix = tiers[2].get(at, "radix_down")?;
    let core_down = divide(at, "radix_down over bundle", radix, bundle_up)?;
    if core_down != pods {
        return Err(at.error(format!(
            "a switch of tier 2 has links to {core_down} pods, but there are {pods}"
        )));
    }
    for aggregation in 0..pods * above {
        topology.add_switch(format!("aggregation {aggregation}"));
    }
    for core in 0..above * cores_each {
        topology.add_switch(format!("core {core}"));
    }
    (0..hosts).for_each(|host| {
        topology.add_host(&[(host / per_tor, links[0])]);
    });
    for pod in 0..pods {
        for position in 0..above {
            let aggregation = tors + pod * above + position;
            for tor in 0..tors_per_pod {
                (0..bundle).for_each(|_| {
                    topology.connect(pod * tors_per_pod + tor, aggregation, links[1]);
                });
            }
            for core in 0..cores_each {
                let core = tors + pods * above + position + above * core;
                (0..bundle_up).for_each(|_| {
                    topology.connect(aggregation, core, links[2]);
                });
            }
        }
    }
    Ok(topology)
}

#[cfg(test)]
mod tests {
    use super::super::topology::Groups;
    use super::*;

    const PART: Part = Part {
        part: 0,
        class: 2,
        start: Picos::ZERO,
    };

    fn read(text: &str) -> Result<Workload, String> {
        let mut workload = Workload::new(DoneWhen::Acknowledged);
        read_connections("a.cm", text, 16, PART, &mut workload)
            .map(|()| workload)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_matrix_is_read() {
        let workload = read("Nodes 16\nConnections 2\n0->13 id 1 start 0 size 2000000\n\n13->0 start 2.5 size 7 # back\n").unwrap();
        let flows: Vec<_> = workload
            .flows()
            .iter()
            .map(|f| (f.from, f.to, f.bytes, f.start))
            .collect();
        assert_eq!(
            flows,
            [
                (0, 13, 2_000_000, Picos::ZERO),
                (13, 0, 7, Picos::from_nanos(2500))
            ]
        );
    }

    #[test]
    fn triggers_are_waits_and_relays() {
        let text = "Nodes 4\nConnections 5\nTriggers 2\n\
            0->1 id 1 start 0 size 5 send_done_trigger 1\n\
            0->2 id 2 start 0 size 5 send_done_trigger 1\n\
            0->3 id 3 trigger 1 size 5 recv_done_trigger 2\n\
            0->1 id 4 trigger 1 size 5\n\
            3->0 id 5 trigger 2 size 5\n\
            trigger id 1 multishot\ntrigger id 2 oneshot\n";
        let workload = read(text).unwrap();
        let times = workload.ideal(|flow| Picos([10, 4, 1, 1, 1][flow as usize]));
        assert_eq!(times[2].unwrap().0, Picos(4), "whichever is done first");
        assert_eq!(times[3].unwrap().0, Picos(10));
        assert_eq!(times[4].unwrap().0, Picos(5));
    }

    #[test]
    fn broken_matrices_are_refused_with_their_line() {
        for (text, expected) in [
            (
                "Nodes 16\nConnections 2\n0->13 start 0 size 5\n",
                "a.cm:3: Connections says 2, but 1 follow: the file is truncated, or the number is wrong",
            ),
            (
                "Nodes 16\nConnections 1\n0->13 start 0 size",
                "a.cm:3: size has no value; the file may be truncated",
            ),
            (
                "Nodes 16\nConnections 1\n0->13 start 0",
                "a.cm:3: 0->13 has no size; add \"size bytes\", or the file is truncated",
            ),
            (
                "Nodes 16\nConnections 1\n0->16 start 0 size 5\n",
                "a.cm:3: 0->16 names host 16, but there are only 16, numbered from 0",
            ),
            (
                "Nodes 32\nConnections 0\n",
                "a.cm:1: Nodes is 32, but the fabric has 16 hosts; choose a larger fabric",
            ),
            (
                "Nodes 2\nConnections 1\nTriggers 0\n0->1 trigger 3 size 5\n",
                "a.cm:4: trigger 3 is not declared; add \"trigger id 3 oneshot\"",
            ),
            (
                "Nodes 2\nConnections 1\n0->1 start 0 trigger 3 size 5\n",
                "a.cm:3: 0->1 needs either \"start us\" or \"trigger n\", and not both",
            ),
            (
                "Nodes 2\nConnections 1\n1->1 start 0 size 5\n",
                "a.cm:3: 1->1 sends to itself; name another host",
            ),
            (
                "Nodes 2\nConnections 1\n0->1 start 0 size 0\n",
                "a.cm:3: 0->1 has size 0; it must be at least 1",
            ),
            ("Nodes x\n", "a.cm:1: Nodes is \"x\", but must be a number"),
            (
                "0->1 start 0 size 5\n",
                "a.cm:1: the line \"Connections n\" is missing; add it at the top",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), expected);
        }
    }

    const LEAF_SPINE: &str = "# four to one\nNodes 1024\nTiers 2\nPodsize 1024\nTier 0\nDownlink_speed_Gbps 100\n\
        Radix_Down 32\nRadix_Up 8\nDownlink_Latency_ns 1000\nOversubscribed 4\nSwitch_Latency_ns 200\n\
        Tier 1\nDownlink_speed_Gbps 100\nRadix_Down 32\nDownlink_Latency_ns 1000\nSwitch_Latency_ns 400\n";

    #[test]
    fn two_tiers() {
        let topology = read_topology("a.topo", LEAF_SPINE).unwrap();
        assert_eq!((topology.hosts(), topology.switches()), (1024, 40));
        let groups = Groups::shortest(&topology, |_| true);
        let idle = |to| topology.idle_delay(&groups, 0, to, 0).unwrap();
        // Two links and a leaf; four links, two leaves and a spine.
        assert_eq!(idle(1), Picos::from_nanos(2200));
        assert_eq!(idle(1023), Picos::from_nanos(4800));
    }

    #[test]
    fn three_tiers() {
        let text = "Nodes 16\nTiers 3\nPodsize 4\nTier 0\nDownlink_speed_Gbps 100\nRadix_Down 2\nRadix_Up 2\n\
            Downlink_Latency_ns 1000\nTier 1\nDownlink_speed_Gbps 100\nRadix_Down 2\nRadix_Up 2\n\
            Downlink_Latency_ns 1000\nTier 2\nDownlink_speed_Gbps 100\nRadix_Down 4\nDownlink_Latency_ns 1000\n";
        let topology = read_topology("a.topo", text).unwrap();
        assert_eq!((topology.hosts(), topology.switches()), (16, 8 + 8 + 4));
        let groups = Groups::shortest(&topology, |_| true);
        assert_eq!(topology.way(&groups, 0, 15).unwrap().len(), 6);
        assert_eq!(topology.way(&groups, 0, 3).unwrap().len(), 4);
    }

    #[test]
    fn broken_topologies_are_refused_with_their_line() {
        for (from, to, expected) in [
            (
                "Radix_Up 8",
                "Radix_Up",
                "a.topo:8: radix_up has no value; the file may be truncated",
            ),
            (
                "Radix_Up 8",
                "Radix_Up 4",
                "a.topo:8: oversubscribed is 4, but radix_down over radix_up is 32 over 4",
            ),
            (
                "Nodes 1024",
                "Nodes 1000",
                "a.topo:8: nodes over radix_down: 1000 cannot be divided into 32",
            ),
            (
                "Tiers 2",
                "Tiers 4",
                "a.topo:3: tiers is 4, but must be 2 or 3",
            ),
            ("Speed", "", ""),
        ] {
            if expected.is_empty() {
                continue;
            }
            let error = read_topology("a.topo", &LEAF_SPINE.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let cut = LEAF_SPINE.split("Tier 1").next().unwrap();
        let error = read_topology("a.topo", cut).unwrap_err().to_string();
        assert_eq!(
            error,
            "a.topo:3: the block of tier 1 is missing; is the file truncated?"
        );
    }
}
