//! The sections `[[workload]]`: what is sent, each section a part with a name of its own.

use super::Files;
use super::error::{Place, ScenarioError};
use super::fabric::FabricSpec;
use super::hosts::HostsSpec;
use super::reader::{Field, Section};
use crate::engine::wire::{IMMEDIATE_CHUNKS_MAX, SLOTS_MAX};
use crate::sim::generate::{self, Part};
use crate::sim::htsim;
use crate::sim::packet::{BULK, HIGH};
use crate::sim::random::{Purpose, Stream};
use crate::sim::time::Picos;
use crate::sim::workload::{DoneWhen, Flow, Workload};

/// A part of the workload.
#[derive(Debug, Clone)]
pub(super) struct PartSpec {
    pub(super) name: String,
    /// Where it stands in the file, and how it is called there.
    place: Place,
    label: String,
    class: u8,
    start: Picos,
    hosts: Vec<u32>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Permutation {
        pairs: usize,
        bytes: u64,
    },
    Incast {
        to: u32,
        senders: usize,
        bytes: u64,
        spread: Picos,
    },
    /// Each group does it by itself.
    Grouped {
        group: usize,
        shuffled: bool,
        bytes: u64,
        pattern: Pattern,
    },
    Transfers {
        to: Vec<u32>,
        count: usize,
        bytes: u64,
        in_flight: usize,
    },
    /// Written out or read from a file.
    Flows {
        flows: Vec<Given>,
    },
    Connections {
        file: String,
        text: String,
    },
}

/// Who sends to whom in a group.
#[derive(Debug, Clone, Copy)]
enum Pattern {
    AllToAll {
        window: Option<usize>,
    },
    Ring {
        steps: usize,
    },
    Tree {
        slices: usize,
    },
    Pipeline {
        micro_batches: usize,
        compute: Picos,
    },
    Experts {
        layers: usize,
        skew: u32,
        compute: Picos,
    },
}

#[derive(Debug, Clone)]
struct Given {
    from: u32,
    to: u32,
    bytes: u64,
    start: Picos,
    /// Numbers of flows of this part.
    after: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
enum KindName {
    Permutation,
    Incast,
    AllToAll,
    Ring,
    Tree,
    Pipeline,
    Experts,
    Kv,
    Flows,
    Trace,
    Connections,
}

const KINDS: [(&str, KindName); 11] = [
    ("permutation", KindName::Permutation),
    ("incast", KindName::Incast),
    ("all-to-all", KindName::AllToAll),
    ("ring-all-reduce", KindName::Ring),
    ("tree-all-reduce", KindName::Tree),
    ("pipeline", KindName::Pipeline),
    ("moe", KindName::Experts),
    ("kv", KindName::Kv),
    ("flows", KindName::Flows),
    ("trace", KindName::Trace),
    ("cm", KindName::Connections),
];

pub(super) const PARTS_MAX: usize = 64;

pub(super) fn read(
    index: usize,
    mut section: Section<'_>,
    fabric: &FabricSpec,
    files: &Files,
) -> Result<PartSpec, ScenarioError> {
    let kind_field = section.need("kind", "\"permutation\"")?;
    let kind_name = kind_field.one_of("kind of workload", &KINDS)?;
    let name = match section.get("name") {
        Some(field) => field.text()?,
        None => kind_field.text()?,
    };
    let class = match section.get("class") {
        Some(field) => field.one_of("class", &[("high", HIGH), ("bulk", BULK)])?,
        None => BULK,
    };
    let start = read_delay(&mut section, "start")?;
    let all = fabric.topology.hosts();
    let hosts = match section.get("hosts") {
        Some(field) => read_hosts(&field, all)?,
        None => (0..all).collect(),
    };
    let kind = read_kind(kind_name, &mut section, fabric, &hosts, files)?;
    let count = flows(&kind, hosts.len());
    if count > FLOWS_MAX {
        return Err(kind_field.error(&format!(
            "makes {count} flows, but at most {FLOWS_MAX} fit; take fewer hosts or steps"
        )));
    }
    let place = section.place();
    section.finish()?;
    Ok(PartSpec {
        name: name.to_owned(),
        place,
        label: format!("workload[{index}]"),
        class,
        start,
        hosts,
        kind,
    })
}

/// `"0-15, 32"`, a number, or an array of them.
fn read_hosts(field: &Field<'_>, all: u32) -> Result<Vec<u32>, ScenarioError> {
    let must = "hosts such as \"0-15\", \"0-7, 16-23\" or [1, 2, 3]";
    let mut hosts = Vec::new();
    for item in field.one_or_more()? {
        let Some(text) = item.is_text() else {
            hosts.push(read_host(&item, all)?);
            continue;
        };
        for range in text.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.trim().parse::<u32>().ok();
            let Some((first, last)) = number(first).zip(number(last)).filter(|(a, b)| a <= b)
            else {
                return Err(item.must_be(must));
            };
            if last >= all {
                return Err(out_of_range(&item, u64::from(last), all));
            }
            hosts.extend(first..=last);
        }
    }
    let mut sorted = hosts.clone();
    sorted.sort_unstable();
    let twice = sorted
        .iter()
        .zip(&sorted[1.min(sorted.len())..])
        .find(|(a, b)| a == b);
    if let Some((twice, _)) = twice {
        return Err(field.error(&format!("names host {twice} twice; name each once")));
    }
    if hosts.is_empty() {
        return Err(field.must_be(must));
    }
    Ok(hosts)
}

fn out_of_range(field: &Field<'_>, host: u64, all: u32) -> ScenarioError {
    field.error(&format!(
        "names host {host}, but the fabric has hosts 0 to {}",
        all - 1
    ))
}

fn read_host(field: &Field<'_>, all: u32) -> Result<u32, ScenarioError> {
    let host = field.number(0..=u64::MAX)?;
    u32::try_from(host)
        .ok()
        .filter(|&host| host < all)
        .ok_or_else(|| out_of_range(field, host, all))
}

fn read_count(
    section: &mut Section<'_>,
    name: &'static str,
    default: u32,
) -> Result<usize, ScenarioError> {
    let count = section
        .get(name)
        .map_or(Ok(default), |field| field.count(1..=1 << 20))?;
    Ok(count as usize)
}

fn read_kind(
    name: KindName,
    section: &mut Section<'_>,
    fabric: &FabricSpec,
    hosts: &[u32],
    files: &Files,
) -> Result<Kind, ScenarioError> {
    let all = fabric.topology.hosts();
    let at_least_two = |section: &Section<'_>| {
        if hosts.len() < 2 {
            return Err(section.error("this workload has one host; it needs at least 2".to_owned()));
        }
        Ok(())
    };
    Ok(match name {
        KindName::Permutation => {
            at_least_two(section)?;
            let pairs = match section.get("pairs") {
                Some(field) => field.count(1..=hosts.len() as u32)? as usize,
                None => hosts.len(),
            };
            Kind::Permutation {
                pairs,
                bytes: size(section)?,
            }
        }
        KindName::Incast => {
            at_least_two(section)?;
            let to = match section.get("to") {
                Some(field) => read_host(&field, all)?,
                None => hosts[0],
            };
            let others = hosts.iter().filter(|&&host| host != to).count();
            let senders = match section.get("senders") {
                Some(field) => field.count(1..=others as u32)? as usize,
                None => others,
            };
            let spread = read_delay(section, "spread")?;
            Kind::Incast {
                to,
                senders,
                bytes: size(section)?,
                spread,
            }
        }
        KindName::AllToAll
        | KindName::Ring
        | KindName::Tree
        | KindName::Pipeline
        | KindName::Experts => read_grouped(name, section, hosts)?,
        KindName::Kv => {
            let field = section.need("to", "\"64-127\"")?;
            let to = read_hosts(&field, all)?;
            if to.len() == 1 && hosts.contains(&to[0]) {
                return Err(field.error(&format!(
                    "is host {}, which is one of the senders; name another",
                    to[0]
                )));
            }
            let count = read_count(section, "count", 1)?;
            let in_flight = read_count(section, "in_flight", 1)?;
            Kind::Transfers {
                to,
                count,
                bytes: size(section)?,
                in_flight,
            }
        }
        KindName::Flows => Kind::Flows {
            flows: read_flows(section, all)?,
        },
        KindName::Trace => {
            let (file, text) = read_file(section, files)?;
            Kind::Flows {
                flows: read_trace(&file, &text, all)?,
            }
        }
        KindName::Connections => {
            let (file, text) = read_file(section, files)?;
            // Once now, for its errors.
            let part = Part {
                part: 0,
                class: BULK,
                start: Picos::ZERO,
            };
            let mut trial = Workload::new(DoneWhen::Acknowledged);
            htsim::read_connections(&file, &text, all, part, &mut trial)?;
            Kind::Connections { file, text }
        }
    })
}

/// Workloads of groups of hosts.
fn read_grouped(
    name: KindName,
    section: &mut Section<'_>,
    hosts: &[u32],
) -> Result<Kind, ScenarioError> {
    let field = match name {
        KindName::Pipeline => "stages",
        _ => "group",
    };
    let (group, shuffled) = read_group(section, field, hosts)?;
    let bytes = size(section)?;
    let pattern = match name {
        KindName::AllToAll => Pattern::AllToAll {
            window: section
                .get("window")
                .map(|field| field.count(1..=1 << 20).map(|count| count as usize))
                .transpose()?,
        },
        KindName::Ring => {
            let default = u32::try_from(2 * (group - 1)).unwrap_or(u32::MAX);
            Pattern::Ring {
                steps: read_count(section, "steps", default)?,
            }
        }
        KindName::Tree => Pattern::Tree {
            slices: read_count(section, "slices", 1)?,
        },
        KindName::Pipeline => Pattern::Pipeline {
            micro_batches: read_count(section, "micro_batches", 8)?,
            compute: read_delay(section, "compute")?,
        },
        _ => Pattern::Experts {
            layers: read_count(section, "layers", 1)?,
            skew: section
                .get("skew")
                .map_or(Ok(1), |field| field.count(1..=1000))?,
            compute: read_delay(section, "compute")?,
        },
    };
    Ok(Kind::Grouped {
        group,
        shuffled,
        bytes,
        pattern,
    })
}

fn read_delay(section: &mut Section<'_>, name: &'static str) -> Result<Picos, ScenarioError> {
    section
        .get(name)
        .map_or(Ok(Picos::ZERO), |field| field.delay())
}

fn size(section: &mut Section<'_>) -> Result<u64, ScenarioError> {
    section.need("size", "\"2MB\"")?.bytes()
}

/// The size of groups, and whether their members are drawn at random.
fn read_group(
    section: &mut Section<'_>,
    name: &'static str,
    hosts: &[u32],
) -> Result<(usize, bool), ScenarioError> {
    let count = hosts.len();
    let size = match section.get(name) {
        Some(field) => {
            let size = field.count(2..=1 << 20)? as usize;
            if !count.is_multiple_of(size) {
                return Err(field.must_be(&format!("a divisor of the {count} hosts")));
            }
            size
        }
        None if count < 2 => {
            return Err(section.error("this workload has one host; it needs at least 2".to_owned()));
        }
        None => count,
    };
    let shuffled = match section.get("placement") {
        Some(field) => field.one_of("placement", &[("random", true), ("in-order", false)])?,
        None => true,
    };
    Ok((size, shuffled))
}

fn read_file(section: &mut Section<'_>, files: &Files) -> Result<(String, String), ScenarioError> {
    let field = section.need("file", "\"workload.cm\"")?;
    let path = field.text()?;
    let text = files
        .read(path)
        .map_err(|reason| field.error(&format!("is \"{path}\", which {reason}")))?;
    Ok((path.to_owned(), text))
}

fn read_flows(section: &mut Section<'_>, all: u32) -> Result<Vec<Given>, ScenarioError> {
    let field = section.need("flows", "[{ from = 0, to = 1, size = \"2MB\" }]")?;
    let items = field.list()?;
    let count = items.len() as u32;
    let mut flows = Vec::with_capacity(items.len());
    for item in items {
        let mut flow = item.table()?;
        let from = read_host(&flow.need("from", "0")?, all)?;
        let to_field = flow.need("to", "1")?;
        let to = read_host(&to_field, all)?;
        if from == to {
            return Err(to_field.error(&format!(
                "is host {to}, which is also the sender; name another"
            )));
        }
        let bytes = size(&mut flow)?;
        let start = flow
            .get("start")
            .map_or(Ok(Picos::ZERO), |field| field.delay())?;
        let mut after = Vec::new();
        if let Some(field) = flow.get("after") {
            for item in field.one_or_more()? {
                let earlier = item.number(0..=u64::MAX)?;
                let earlier = u32::try_from(earlier).ok().filter(|&flow| flow < count);
                after.push(earlier.ok_or_else(|| {
                    item.must_be(&format!("the number of a flow, from 0 to {}", count - 1))
                })?);
            }
        }
        flow.finish()?;
        flows.push(Given {
            from,
            to,
            bytes,
            start,
            after,
        });
    }
    Ok(flows)
}

/// A table with a head: `start_us,from,to,bytes`, in any order, and `after` if flows wait for
/// others (by their number from 0, several with blanks between them).
fn read_trace(file: &str, text: &str, all: u32) -> Result<Vec<Given>, ScenarioError> {
    let mut lines = (1u32..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let error = |line: u32, problem: String| ScenarioError {
        file: file.to_owned(),
        place: Place::Line(line),
        problem,
    };
    let (head_line, head) = lines.next().ok_or_else(|| {
        error(
            1,
            "the file is empty; it begins with start_us,from,to,bytes".to_owned(),
        )
    })?;
    let names: Vec<&str> = head.split(',').map(str::trim).collect();
    let column = |name: &str| names.iter().position(|&other| other == name);
    let need = |name: &str| {
        column(name).ok_or_else(|| {
            error(
                head_line,
                format!(
                    "the column {name} is missing; there are {}",
                    names.join(", ")
                ),
            )
        })
    };
    let columns = [
        need("start_us")?,
        need("from")?,
        need("to")?,
        need("bytes")?,
    ];
    let after_column = column("after");
    let mut flows = Vec::new();
    for (line, row) in lines {
        let cells: Vec<&str> = row.split(',').map(str::trim).collect();
        let cell = |at: usize| {
            cells.get(at).copied().ok_or_else(|| {
                error(
                    line,
                    format!(
                        "{} columns, but the head has {}; the file may be truncated",
                        cells.len(),
                        names.len()
                    ),
                )
            })
        };
        let number = |at: usize| -> Result<u64, ScenarioError> {
            let text = cell(at)?;
            text.parse().map_err(|_| {
                error(
                    line,
                    format!("{} is {text:?}, but must be a number", names[at]),
                )
            })
        };
        let host = |at: usize| -> Result<u32, ScenarioError> {
            let host = number(at)?;
            u32::try_from(host)
                .ok()
                .filter(|&host| host < all)
                .ok_or_else(|| {
                    error(
                        line,
                        format!(
                            "{} is {host}, but the fabric has hosts 0 to {}",
                            names[at],
                            all - 1
                        ),
                    )
                })
        };
        let start_text = cell(columns[0])?;
        let start = super::quantity::delay(&format!("{start_text}us")).ok_or_else(|| {
            error(
                line,
                format!("start_us is {start_text:?}, but must be a number"),
            )
        })?;
        let (from, to) = (host(columns[1])?, host(columns[2])?);
        if from == to {
            return Err(error(
                line,
                format!("host {from} sends to itself; name another"),
            ));
        }
        let bytes = number(columns[3])?;
        if bytes == 0 {
            return Err(error(line, "bytes is 0, but must be at least 1".to_owned()));
        }
        let mut after = Vec::new();
        if let Some(at) = after_column {
            for word in cell(at)?.split_whitespace() {
                after.push(word.parse().map_err(|_| {
                    error(
                        line,
                        format!("after is {word:?}, but must be the number of a flow"),
                    )
                })?);
            }
        }
        flows.push((
            line,
            Given {
                from,
                to,
                bytes,
                start,
                after,
            },
        ));
    }
    let count = flows.len() as u32;
    for (line, flow) in &flows {
        if let Some(missing) = flow.after.iter().find(|&&flow| flow >= count) {
            return Err(error(
                *line,
                format!("after names flow {missing}, but there are {count}, numbered from 0"),
            ));
        }
    }
    Ok(flows.into_iter().map(|(_, flow)| flow).collect())
}

/// A workload has at most so many flows; more would fill the memory.
const FLOWS_MAX: u128 = 20_000_000;

/// Flows of a kind of workload among so many hosts; at most so many, where that depends on chance.
fn flows(kind: &Kind, hosts: usize) -> u128 {
    let product = |numbers: &[usize]| {
        let wide = numbers.iter().map(|&number| number as u128);
        wide.fold(1u128, u128::saturating_mul)
    };
    match *kind {
        Kind::Permutation { pairs, .. } => pairs as u128,
        Kind::Incast { senders, .. } => senders as u128,
        Kind::Grouped { group, pattern, .. } => match pattern {
            Pattern::AllToAll { .. } => product(&[hosts, group - 1]),
            Pattern::Ring { steps } => product(&[hosts, steps]),
            Pattern::Tree { slices } => product(&[hosts, slices, 2]),
            Pattern::Pipeline { micro_batches, .. } => product(&[hosts, micro_batches, 2]),
            Pattern::Experts { layers, .. } => product(&[hosts, group - 1, layers, 2]),
        },
        Kind::Transfers { count, .. } => product(&[hosts, count]),
        // Already in memory.
        Kind::Flows { .. } | Kind::Connections { .. } => 0,
    }
}

impl Pattern {
    fn generate(
        self,
        workload: &mut Workload,
        part: Part,
        group: &[u32],
        bytes: u64,
        stream: &mut Stream,
    ) {
        match self {
            Self::AllToAll { window } => generate::all_to_all(workload, part, group, bytes, window),
            Self::Ring { steps } => generate::ring_all_reduce(workload, part, group, bytes, steps),
            Self::Tree { slices } => {
                generate::tree_all_reduce(workload, part, group, bytes, slices);
            }
            Self::Pipeline {
                micro_batches,
                compute,
            } => generate::pipeline(workload, part, group, micro_batches, bytes, compute),
            Self::Experts {
                layers,
                skew,
                compute,
            } => generate::mixture_of_experts(
                workload, part, group, layers, bytes, skew, compute, stream,
            ),
        }
    }
}

impl PartSpec {
    /// Adds its flows.
    pub(super) fn generate(&self, index: usize, seed: u64, all: u32, workload: &mut Workload) {
        let part = Part {
            part: workload.add_part(&self.name),
            class: self.class,
            start: self.start,
        };
        let stream = &mut Stream::new(seed, Purpose::Workload, index as u64);
        let hosts = &self.hosts;
        match &self.kind {
            &Kind::Permutation { pairs, bytes } => {
                generate::permutation(workload, part, hosts, pairs, bytes, stream);
            }
            &Kind::Incast {
                to,
                senders,
                bytes,
                spread,
            } => {
                generate::incast(workload, part, hosts, to, senders, bytes, spread, stream);
            }
            &Kind::Grouped {
                group,
                shuffled,
                bytes,
                pattern,
            } => {
                for group in &generate::groups(hosts, group, shuffled, stream) {
                    pattern.generate(workload, part, group, bytes, stream);
                }
            }
            Kind::Transfers {
                to,
                count,
                bytes,
                in_flight,
            } => {
                generate::transfers(
                    workload, part, hosts, to, *count, *bytes, *in_flight, stream,
                );
            }
            Kind::Flows { flows } => {
                let first = workload.flows().len() as u32;
                for flow in flows {
                    let waits = !flow.after.is_empty();
                    workload.add(Flow {
                        from: flow.from,
                        to: flow.to,
                        bytes: flow.bytes,
                        start: if waits {
                            flow.start
                        } else {
                            part.start + flow.start
                        },
                        class: part.class,
                        part: part.part,
                    });
                }
                for (later, flow) in (first..).zip(flows) {
                    for earlier in &flow.after {
                        workload.wait(first + earlier, later);
                    }
                }
            }
            Kind::Connections { file, text } => {
                // It has been read before without an error.
                let result = htsim::read_connections(file, text, all, part, workload);
                debug_assert!(result.is_ok(), "{result:?}");
            }
        }
    }

    fn error(&self, file: &str, problem: &str) -> ScenarioError {
        ScenarioError {
            file: file.to_owned(),
            place: self.place,
            problem: format!("{} ({}) {problem}", self.label, self.name),
        }
    }
}

/// What no single section shows: circles, missing ways, and more than an immediate can name.
pub(super) fn check(
    file: &str,
    parts: &[PartSpec],
    workload: &Workload,
    fabric: &FabricSpec,
    hosts: &HostsSpec,
) -> Result<(), ScenarioError> {
    let spec_of = |flow: u32| &parts[usize::from(workload.flows()[flow as usize].part)];
    let first_of = |part: u8| {
        let mut flows = workload.flows().iter();
        flows.position(|flow| flow.part == part).unwrap_or(0) as u32
    };
    if let Some(&flow) = workload.stuck().first() {
        let circle = workload.stuck();
        let part = workload.flows()[flow as usize].part;
        let names: Vec<String> = circle
            .iter()
            .chain(circle.first())
            .take(9)
            .map(|flow| (flow - first_of(part)).to_string())
            .collect();
        let problem = if circle.len() == 1 {
            format!(
                "has a flow, {}, that nothing ever starts; let something trigger it",
                names[0]
            )
        } else {
            format!(
                "waits in a circle: flows {}; remove one of these waits",
                names.join(" before ")
            )
        };
        return Err(spec_of(flow).error(file, &problem));
    }
    let topology = &fabric.topology;
    let mut per_link: std::collections::BTreeMap<(u32, u32, u8), usize> =
        std::collections::BTreeMap::new();
    for (index, flow) in (0u32..).zip(workload.flows()) {
        let (from, to) = (
            topology.host_ports_of(flow.from),
            topology.host_ports_of(flow.to),
        );
        if from.len() != to.len()
            || from
                .clone()
                .zip(to.clone())
                .any(|(from, to)| topology.way(&fabric.groups, from, to).is_none())
        {
            return Err(spec_of(index).error(file, &format!(
                "sends from host {} to host {}, but no way leads there from each of its ports; connect them",
                flow.from, flow.to
            )));
        }
        if let HostsSpec::Engine(engine) = hosts {
            let chunk = u64::from(engine.host.engine.chunk_bytes.unwrap_or(1));
            if flow.bytes > 1 << 30 {
                return Err(spec_of(index).error(file, &format!(
                    "has a message of {} bytes, but the engine's messages are at most 1 GiB; split it", flow.bytes
                )));
            }
            if flow.bytes.div_ceil(chunk) > u64::from(IMMEDIATE_CHUNKS_MAX) {
                return Err(spec_of(index).error(file, &format!(
                    "has a message of {} chunks, but an immediate names at most {IMMEDIATE_CHUNKS_MAX}; set hosts.chunk to at least {}",
                    flow.bytes.div_ceil(chunk),
                    flow.bytes.div_ceil(u64::from(IMMEDIATE_CHUNKS_MAX)).div_ceil(128) * 128,
                )));
            }
            let messages = per_link
                .entry((flow.from, flow.to, flow.class))
                .or_default();
            *messages += 1;
            if *messages > SLOTS_MAX {
                return Err(spec_of(index).error(file, &format!(
                    "has more than {SLOTS_MAX} messages from host {} to host {}, which is what an immediate can name on one link; send fewer, larger ones",
                    flow.from, flow.to
                )));
            }
        }
    }
    Ok(())
}
