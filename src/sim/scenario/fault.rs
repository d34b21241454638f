//! The sections `[[fault]]`: what goes wrong, where and when.

use super::error::ScenarioError;
use super::reader::{Field, Section};
use super::{Level, RunSpec};
use crate::sim::packet::{BULK, HIGH};
use crate::sim::time::Picos;
use crate::sim::topology::Topology;
use crate::sim::world::{Change, Fault};
use crate::units::Rate;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Down,
    Slow,
    Lossy,
    Flapping,
    SwitchDead,
    PauseStorm,
    SlowHost,
}

const KINDS: [(&str, Kind); 7] = [
    ("link-down", Kind::Down),
    ("link-slow", Kind::Slow),
    ("link-lossy", Kind::Lossy),
    ("link-flapping", Kind::Flapping),
    ("switch-dead", Kind::SwitchDead),
    ("pause-storm", Kind::PauseStorm),
    ("host-slow", Kind::SlowHost),
];

/// A link flaps at most so often.
const FLAPS_MAX: u64 = 10_000;

pub(super) fn read(
    mut section: Section<'_>,
    topology: &Topology,
    run: &RunSpec,
    faults: &mut Vec<Fault>,
) -> Result<(), ScenarioError> {
    let kind_field = section.need("kind", "\"link-down\"")?;
    let kind = kind_field.one_of("kind of fault", &KINDS)?;
    if run.level == Level::Flow && matches!(kind, Kind::Lossy | Kind::PauseStorm | Kind::SlowHost) {
        return Err(kind_field.error(&format!(
            "is \"{}\", which run.level = \"flow\" does not show; remove it or run.level",
            kind_field.text()?
        )));
    }
    let at = section
        .get("at")
        .map_or(Ok(Picos::ZERO), |field| field.delay())?;
    let until = section.get("until").map(|field| {
        let until = field.delay()?;
        if until <= at {
            return Err(field.error(&format!("is {until}, but must be after at, which is {at}")));
        }
        Ok(until)
    });
    let until = until.transpose()?;
    // What happens at the beginning, and what undoes it.
    let mut changes: Vec<(Change, Option<Change>)> = Vec::new();
    match kind {
        Kind::Down => {
            for port in read_links(&mut section, topology)? {
                changes.push((Change::LinkDown(port), Some(Change::LinkUp(port))));
            }
        }
        Kind::Slow => {
            let field = section.need("rate", "\"40G\" or rate = \"10%\"")?;
            let is_share = field.is_text().is_some_and(|text| text.contains('%'));
            for port in read_links(&mut section, topology)? {
                let normal = topology.ports()[port as usize].rate;
                let rate = if is_share {
                    Rate(normal.0.saturating_mul(u64::from(field.share_ppm()?)) / 1_000_000)
                } else {
                    field.rate()?
                };
                if rate.0 == 0 {
                    return Err(
                        field.must_be("above 0; for a dead link there is kind = \"link-down\"")
                    );
                }
                changes.push((
                    Change::LinkRate(port, rate),
                    Some(Change::LinkRate(port, normal)),
                ));
            }
        }
        Kind::Lossy => {
            let ppm = section.need("loss", "\"0.01%\"")?.share_ppm()?;
            for port in read_links(&mut section, topology)? {
                changes.push((Change::LinkLoss(port, ppm), Some(Change::LinkLoss(port, 0))));
            }
        }
        Kind::Flapping => {
            let end = until.unwrap_or(run.deadline);
            read_flaps(&mut section, topology, at, end, faults)?;
        }
        Kind::SwitchDead => {
            let field = section.need("switch", "\"spine 0\"")?;
            let switches = topology.switches_named(field.text()?);
            if switches.is_empty() {
                return Err(field.error(&format!(
                    "is \"{}\", but there is no such switch; there are {}",
                    field.text()?,
                    examples(topology)
                )));
            }
            for switch in switches {
                changes.push((Change::SwitchDown(switch), Some(Change::SwitchUp(switch))));
            }
        }
        Kind::PauseStorm => {
            let host = read_host(&section.need("host", "\"host 5\"")?, topology)?;
            let classes: &[u8] = match section.get("class") {
                Some(field) => {
                    field.one_of("class", &[("high", &[HIGH][..]), ("bulk", &[BULK][..])])?
                }
                None => &[HIGH, BULK],
            };
            for host_port in topology.host_ports_of(host) {
                let port = topology.last_port_to(host_port);
                for &class in classes {
                    changes.push((
                        Change::Pause(port, class),
                        Some(Change::Release(port, class)),
                    ));
                }
            }
        }
        Kind::SlowHost => {
            let host = read_host(&section.need("host", "\"host 5\"")?, topology)?;
            let times = section.need("times", "10")?.count(2..=1_000_000)?;
            changes.push((
                Change::HostSlow(host, times),
                Some(Change::HostSlow(host, 1)),
            ));
        }
    }
    for (change, undo) in changes {
        faults.push(Fault { at, change });
        if let Some((at, change)) = until.zip(undo) {
            faults.push(Fault { at, change });
        }
    }
    if let Some(field) = section.get("reroute_after") {
        if run.level == Level::Flow {
            return Err(field.error(
                "is not known to run.level = \"flow\", where the ways change at once; remove it",
            ));
        }
        let after = field.delay()?;
        for at in [Some(at), until].into_iter().flatten() {
            faults.push(Fault {
                at: at + after,
                change: Change::Reroute,
            });
        }
    }
    section.finish()
}

/// A link that goes down at the beginning of each period.
fn read_flaps(
    section: &mut Section<'_>,
    topology: &Topology,
    at: Picos,
    end: Picos,
    faults: &mut Vec<Fault>,
) -> Result<(), ScenarioError> {
    let period = section.need("period", "\"1ms\"")?;
    let down = section.need("down", "\"100us\"")?;
    let (length, down_time) = (period.time()?, down.time()?);
    if down_time >= length {
        return Err(down.must_be("shorter than the period"));
    }
    let span = end.since(at);
    if span.0 / length.0 > FLAPS_MAX {
        return Err(period.error(&format!(
            "makes more than {FLAPS_MAX} flaps; make it longer, or set until"
        )));
    }
    for port in read_links(section, topology)? {
        for flap in 0..span.0.div_ceil(length.0) {
            let at = at + length * flap;
            faults.push(Fault {
                at,
                change: Change::LinkDown(port),
            });
            faults.push(Fault {
                at: at + down_time,
                change: Change::LinkUp(port),
            });
        }
    }
    Ok(())
}

fn read_links(section: &mut Section<'_>, topology: &Topology) -> Result<Vec<u32>, ScenarioError> {
    let field = section.need("link", "\"leaf 0 -> spine 3\"")?;
    let mut found = Vec::new();
    for item in field.one_or_more()? {
        let text = item.text()?;
        let Some((from, to)) = text.split_once("->") else {
            return Err(
                item.must_be("two names, such as \"leaf 0 -> spine 3\" or \"host 5 -> leaf *\"")
            );
        };
        let links = topology.links_named(from.trim(), to.trim());
        if links.is_empty() {
            return Err(item.error(&format!(
                "is \"{text}\", but no link joins these; there are {} and host 0 to host {}",
                examples(topology),
                topology.hosts() - 1
            )));
        }
        found.extend(links);
    }
    Ok(found)
}

/// `"host 5"`, or just its number.
fn read_host(field: &Field<'_>, topology: &Topology) -> Result<u32, ScenarioError> {
    let number = match field.is_text() {
        Some(text) => text
            .trim()
            .strip_prefix("host")
            .unwrap_or(text)
            .trim()
            .parse::<u64>()
            .ok(),
        None => Some(field.number(0..=u64::MAX)?),
    };
    let number = number.ok_or_else(|| field.must_be("a host, such as \"host 5\""))?;
    u32::try_from(number)
        .ok()
        .filter(|&host| host < topology.hosts())
        .ok_or_else(|| {
            field.error(&format!(
                "names host {number}, but the fabric has hosts 0 to {}",
                topology.hosts() - 1
            ))
        })
}

/// First and last of each kind of switch, so that their names can be copied.
fn examples(topology: &Topology) -> String {
    let mut kinds: Vec<(String, String)> = Vec::new();
    for switch in 0..topology.switches() {
        let name = topology.switch_name(switch);
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        match kinds.last_mut() {
            Some((first, last)) if first.trim_end_matches(|c: char| c.is_ascii_digit()) == kind => {
                name.clone_into(last);
            }
            _ => kinds.push((name.to_owned(), name.to_owned())),
        }
    }
    kinds.truncate(4);
    let kinds: Vec<String> = kinds
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first
            } else {
                format!("{first} to {last}")
            }
        })
        .collect();
    kinds.join(", ")
}
