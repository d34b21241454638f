//! The section `[fabric]`: the network and what its switches do.

use std::path::Path;

use super::Files;
use super::error::ScenarioError;
use super::quantity::Size;
use super::reader::{self, Field, Section};
use crate::sim::fabric::{Overflow, PauseConfig, QueueConfig, Routing, SwitchConfig};
use crate::sim::htsim;
use crate::sim::time::{ByteTime, Picos};
use crate::sim::topology::{End, Groups, LinkSpec, Topology, TopologyError};
use crate::units::Rate;

/// Bytes of a full packet, by which queues are measured: 4 KiB and its headers.
pub const PACKET_BYTES: u64 = 4150;
/// Bytes of an acknowledgement.
pub const ACK_BYTES: u64 = 64;

/// A network, its measures, and its switches.
#[derive(Debug, Clone)]
pub struct FabricSpec {
    /// Who is connected to whom.
    pub topology: Topology,
    /// The ways through it.
    pub groups: Groups,
    /// What all its switches do.
    pub switch: SwitchConfig,
    /// A full packet there and its acknowledgement back, between the hosts that are furthest apart
    /// in an idle network.
    pub round_trip: Picos,
    /// Packets that fill one port of a host for a round trip.
    pub bdp_packets: u64,
}

impl FabricSpec {
    /// Packets that fill all ports of a host for a round trip.
    #[must_use]
    pub fn host_bdp_packets(&self) -> u64 {
        self.bdp_packets * self.topology.host_ports_of(0).len() as u64
    }

    /// Bytes of a window: in products of delay and bandwidth of all ports of a host.
    #[must_use]
    pub fn window_bytes(&self, size: Size) -> u64 {
        in_bytes(size, self.host_bdp_packets())
    }
}

fn in_bytes(size: Size, bdp_packets: u64) -> u64 {
    match size {
        Size::Bytes(bytes) => bytes,
        Size::Packets(packets) => packets.saturating_mul(PACKET_BYTES),
        Size::Bdp(share) => share
            .times_up(bdp_packets)
            .unwrap_or(u64::MAX)
            .saturating_mul(PACKET_BYTES),
    }
}

/// Each switch knows the ways to each switch with hosts: at most so many pairs, half a gigabyte.
const PAIRS_MAX: u64 = 1 << 26;

const KINDS: [(&str, Kind); 5] = [
    ("leaf-spine", Kind::LeafSpine),
    ("fat-tree", Kind::FatTree),
    ("rail", Kind::Rail),
    ("multi-plane", Kind::MultiPlane),
    ("file", Kind::File),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    LeafSpine,
    FatTree,
    Rail,
    MultiPlane,
    File,
}

pub(super) fn read(mut section: Section<'_>, files: &Files) -> Result<FabricSpec, ScenarioError> {
    let kind_field = section.need("kind", "\"leaf-spine\"")?;
    let kind = kind_field.one_of("kind of fabric", &KINDS)?;
    let topology = if kind == Kind::File {
        read_from_file(&mut section, files)?
    } else {
        build(kind, &mut section)?
    };
    let pairs = u64::from(topology.switches()) * u64::from(topology.edges());
    if pairs > PAIRS_MAX {
        return Err(kind_field.error(&format!(
            "makes {} switches, {} of them with hosts: more than this simulator can route between; choose a smaller fabric",
            topology.switches(),
            topology.edges()
        )));
    }
    let groups = Groups::shortest(&topology, |_| true);
    let (round_trip, bdp_packets) = measure(&topology, &groups)
        .ok_or_else(|| kind_field.error("connects no host to another; add a host or a link"))?;
    let switch = read_switch(&mut section, bdp_packets)?;
    section.finish()?;
    Ok(FabricSpec {
        topology,
        groups,
        switch,
        round_trip,
        bdp_packets,
    })
}

// ---- the network ----

const COUNT_MAX: u32 = 1 << 20;
/// Ports of a host: rails or planes.
const PORTS_MAX: u32 = 64;

fn build(kind: Kind, section: &mut Section<'_>) -> Result<Topology, ScenarioError> {
    let host_link = LinkSpec {
        rate: section.need("rate", "\"400G\"")?.rate()?,
        delay: section.need("delay", "\"1us\"")?.delay()?,
    };
    let topology = match kind {
        Kind::FatTree => {
            let k = section.need("k", "16")?;
            let number = k.count(1..=COUNT_MAX)?;
            if number % 2 == 1 {
                return Err(k.must_be("even"));
            }
            Topology::fat_tree(number, host_link)
        }
        _ => build_leaves(kind, section, host_link)?,
    };
    topology.map_err(|error| section.error(format!("[fabric] is impossible: {error}")))
}

/// The networks of leaves and spines.
fn build_leaves(
    kind: Kind,
    section: &mut Section<'_>,
    host_link: LinkSpec,
) -> Result<Result<Topology, TopologyError>, ScenarioError> {
    let spine_link = LinkSpec {
        rate: match section.get("spine_rate") {
            Some(field) => field.rate()?,
            None => host_link.rate,
        },
        delay: match section.get("spine_delay") {
            Some(field) => field.delay()?,
            None => host_link.delay,
        },
    };
    let mut count = |name, example| section.need(name, example)?.count(1..=COUNT_MAX);
    if kind == Kind::Rail {
        let servers = count("servers", "32")?;
        let per_leaf = count("servers_per_leaf", "16")?;
        let rails = section.need("rails", "8")?.count(1..=PORTS_MAX)?;
        let down = u64::from(per_leaf) * host_link.rate.0;
        let spines = spines(section, down, spine_link.rate)?;
        return Ok(Topology::rail_optimised(
            servers, rails, per_leaf, spines, host_link, spine_link,
        ));
    }
    let leaves = count("leaves", "8")?;
    let per_leaf = count("hosts_per_leaf", "16")?;
    let planes = match kind {
        Kind::MultiPlane => Some(section.need("planes", "2")?.count(1..=PORTS_MAX)?),
        _ => None,
    };
    let down = u64::from(per_leaf) * host_link.rate.0;
    let spines = spines(section, down, spine_link.rate)?;
    Ok(match planes {
        Some(planes) => {
            Topology::multi_plane(planes, leaves, per_leaf, spines, host_link, spine_link)
        }
        None => Topology::leaf_spine(leaves, per_leaf, spines, host_link, spine_link),
    })
}

/// How many spines there are: so many, or what a ratio of oversubscription makes.
fn spines(section: &mut Section<'_>, down: u64, up: Rate) -> Result<u32, ScenarioError> {
    let ratio = section.get("oversubscription");
    let spines = section.get("spines");
    match (spines, ratio) {
        (Some(spines), None) => spines.count(1..=COUNT_MAX),
        (None, Some(ratio)) => {
            let text = ratio.text()?;
            let number = |text: &str| text.trim().parse::<u64>().ok().filter(|&n| n > 0);
            let parsed = text
                .split_once(':')
                .and_then(|(a, b)| number(a).zip(number(b)));
            let Some((over, under)) = parsed else {
                return Err(ratio.must_be("a ratio such as \"2:1\""));
            };
            let (need, each) = (
                u128::from(down) * u128::from(under),
                u128::from(up.0) * u128::from(over),
            );
            if need % each != 0 {
                return Err(ratio.error(&format!(
                    "is \"{text}\", which takes {:.2} spines; choose one that takes a whole number",
                    approximate(need) / approximate(each)
                )));
            }
            u32::try_from(need / each).map_err(|_| ratio.must_be("a ratio such as \"2:1\""))
        }
        (Some(_), Some(ratio)) => Err(ratio.error("and spines are both there; remove one of them")),
        (None, None) => Err(section.error(
            "fabric.spines is missing; add spines = 16 or oversubscription = \"2:1\"".to_owned(),
        )),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure to show")]
fn approximate(number: u128) -> f64 {
    number as f64
}

fn read_from_file(section: &mut Section<'_>, files: &Files) -> Result<Topology, ScenarioError> {
    let field = section.need("file", "\"network.toml\"")?;
    let path = field.text()?;
    let text = files
        .read(path)
        .map_err(|reason| field.error(&format!("is \"{path}\", which {reason}")))?;
    let is = |extension: &str| {
        Path::new(path)
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case(extension))
    };
    if is("topo") {
        htsim::read_topology(path, &text)
    } else if is("toml") {
        read_explicit(path, &text)
    } else {
        Err(field.must_be("a file of ours (.toml) or of htsim (.topo)"))
    }
}

/// A network that names each switch, host and link.
fn read_explicit(file: &str, text: &str) -> Result<Topology, ScenarioError> {
    let root = reader::parse(file, text)?;
    let mut root = Section::root(file, &root);
    let rate = root.get("rate").map(|field| field.rate()).transpose()?;
    let delay = root.get("delay").map(|field| field.delay()).transpose()?;
    let link = |section: &mut Section<'_>| -> Result<LinkSpec, ScenarioError> {
        let own_rate = section.get("rate").map(|field| field.rate()).transpose()?;
        let own_delay = section
            .get("delay")
            .map(|field| field.delay())
            .transpose()?;
        let missing = |field: &str| {
            section.error(format!(
                "the link has no {field}; add {field} here or at the top of the file"
            ))
        };
        Ok(LinkSpec {
            rate: own_rate.or(rate).ok_or_else(|| missing("rate"))?,
            delay: own_delay.or(delay).ok_or_else(|| missing("delay"))?,
        })
    };
    let mut topology = Topology::new();
    let switch_sections = root.sections("switch")?;
    if switch_sections.is_empty() {
        return Err(
            root.error("there is no switch; add [[switch]] with name = \"leaf 0\"".to_owned())
        );
    }
    for mut section in switch_sections {
        let field = section.need("name", "\"leaf 0\"")?;
        let name = field.text()?;
        if !topology.switches_named(name).is_empty() {
            return Err(field.error(&format!(
                "is \"{name}\", which is there already; name them apart"
            )));
        }
        topology.add_switch(name.to_owned());
        section.finish()?;
    }
    let find = |topology: &Topology, field: &Field<'_>| -> Result<u32, ScenarioError> {
        let name = field.text()?;
        let found = topology.switches_named(name).first().copied();
        found.ok_or_else(|| {
            field.error(&format!(
                "is \"{name}\", but there is no such switch; add it as [[switch]]"
            ))
        })
    };
    for mut section in root.sections("host")? {
        let spec = link(&mut section)?;
        let switches = section.need("links", "[\"leaf 0\"]")?.one_or_more()?;
        let links = switches
            .iter()
            .map(|field| Ok((find(&topology, field)?, spec)))
            .collect::<Result<Vec<_>, ScenarioError>>()?;
        let count = section
            .get("count")
            .map_or(Ok(1), |field| field.count(1..=COUNT_MAX))?;
        (0..count).for_each(|_| {
            topology.add_host(&links);
        });
        section.finish()?;
    }
    for mut section in root.sections("link")? {
        let spec = link(&mut section)?;
        let between = section.need("between", "[\"leaf 0\", \"spine 0\"]")?;
        let ends = between.list()?;
        let [a, b] = ends.as_slice() else {
            return Err(between.must_be("the names of two switches"));
        };
        let (a, b) = (find(&topology, a)?, find(&topology, b)?);
        if a == b {
            return Err(between.must_be("the names of two different switches"));
        }
        topology.connect(a, b, spec);
        section.finish()?;
    }
    root.finish()?;
    Ok(topology)
}

/// Round trip and bandwidth-delay product, from the first host to the one furthest from it.
fn measure(topology: &Topology, groups: &Groups) -> Option<(Picos, u64)> {
    let first = topology.host_ports_of(0).start;
    let furthest = (1..topology.hosts())
        .flat_map(|host| topology.host_ports_of(host))
        .filter_map(|to| Some((topology.idle_delay(groups, first, to, PACKET_BYTES)?, to)))
        .max()?;
    let back = topology.idle_delay(groups, furthest.1, first, ACK_BYTES)?;
    let round_trip = furthest.0 + back;
    let rate = topology.ports()[topology.port_of_host_port(first) as usize].rate;
    let packet = ByteTime::of(rate).time(PACKET_BYTES);
    Some((round_trip, round_trip.0.div_ceil(packet.0.max(1))))
}

// ---- its switches ----

fn read_switch(section: &mut Section<'_>, bdp_packets: u64) -> Result<SwitchConfig, ScenarioError> {
    let bytes = |field: Field<'_>| -> Result<u32, ScenarioError> {
        let bytes = in_bytes(field.size()?, bdp_packets);
        if bytes == 0 {
            return Err(field.must_be("above 0"));
        }
        // Sums of two of them must still fit into 32 bits.
        u32::try_from(bytes)
            .ok()
            .filter(|&bytes| bytes <= 1 << 30)
            .ok_or_else(|| field.error("is more than 1 GiB; queues are smaller"))
    };
    let bdp = |percent: u64| {
        u32::try_from((bdp_packets * percent).div_ceil(100) * PACKET_BYTES).unwrap_or(1 << 30)
    };
    let capacity = section.get("queue").map_or(Ok(bdp(100)), bytes)?;
    if u64::from(capacity) < PACKET_BYTES {
        return Err(section.error(format!(
            "fabric.queue is {capacity} bytes, but must hold a packet of {PACKET_BYTES}"
        )));
    }
    let control_capacity = section
        .get("control_queue")
        .map_or(Ok(capacity.saturating_mul(2)), bytes)?;
    let (mark_low, mark_high) = read_ecn(section, &bytes, (bdp(20), bdp(80)))?;
    let pause = read_pause(section, &bytes, [bdp(40), bdp(33), bdp(30)])?;
    let overflow = match section.get("overflow") {
        Some(field) => field.one_of(
            "way to treat a full queue",
            &[("trim", Overflow::Trim), ("drop", Overflow::Drop)],
        )?,
        None => Overflow::Trim,
    };
    let shared_buffer = section
        .get("shared_buffer")
        .map(|field| field.bytes())
        .transpose()?;
    let routing = match section.get("routing") {
        Some(field) => field.one_of(
            "routing",
            &[("hash", Routing::Hash), ("adaptive", Routing::Adaptive)],
        )?,
        None => Routing::Hash,
    };
    Ok(SwitchConfig {
        queue: QueueConfig {
            capacity,
            control_capacity,
            mark_low,
            mark_high,
            overflow,
        },
        pause,
        shared_buffer,
        routing,
    })
}

fn read_ecn(
    section: &mut Section<'_>,
    bytes: &impl Fn(Field<'_>) -> Result<u32, ScenarioError>,
    default: (u32, u32),
) -> Result<(u32, u32), ScenarioError> {
    let Some(field) = section.get("ecn") else {
        return Ok(default);
    };
    match field.is_boolean() {
        Some(true) => return Ok(default),
        Some(false) => return Ok((u32::MAX, u32::MAX)),
        None if field.is_table() => {}
        None => {
            return Err(field.must_be("true, false, or { low = \"0.2 BDP\", high = \"0.8 BDP\" }"));
        }
    }
    let mut ecn = field.clone().table()?;
    let low = bytes(ecn.need("low", "\"0.2 BDP\"")?)?;
    let high = bytes(ecn.need("high", "\"0.8 BDP\"")?)?;
    ecn.finish()?;
    if low > high {
        return Err(field.error(&format!(
            "has low {low} above high {high} bytes; exchange them"
        )));
    }
    Ok((low, high))
}

fn read_pause(
    section: &mut Section<'_>,
    bytes: &impl Fn(Field<'_>) -> Result<u32, ScenarioError>,
    [on, off, headroom]: [u32; 3],
) -> Result<Option<PauseConfig>, ScenarioError> {
    let Some(field) = section.get("pause") else {
        return Ok(None);
    };
    let mut config = PauseConfig { on, off, headroom };
    match field.is_boolean() {
        Some(true) => return Ok(Some(config)),
        Some(false) => return Ok(None),
        None if field.is_table() => {}
        None => {
            return Err(field.must_be(
                "true, false, or { on = \"0.4 BDP\", off = \"0.33 BDP\", headroom = \"0.3 BDP\" }",
            ));
        }
    }
    let mut pause = field.clone().table()?;
    for (name, value) in [
        ("on", &mut config.on),
        ("off", &mut config.off),
        ("headroom", &mut config.headroom),
    ] {
        if let Some(field) = pause.get(name) {
            *value = bytes(field)?;
        }
    }
    pause.finish()?;
    if config.off > config.on {
        return Err(field.error(&format!(
            "has off {} above on {} bytes; exchange them",
            config.off, config.on
        )));
    }
    Ok(Some(config))
}

/// The rate of all ports of a host together.
pub(crate) fn host_rate(topology: &Topology, host: u32) -> Rate {
    topology
        .host_ports_of(host)
        .map(|port| topology.ports()[topology.port_of_host_port(port) as usize].rate)
        .sum()
}

/// Whether a port leads from a switch to a switch.
pub(crate) fn is_inside(topology: &Topology, port: u32) -> bool {
    let port = &topology.ports()[port as usize];
    matches!((port.from, port.to), (End::Switch(_), End::Switch(_)))
}
