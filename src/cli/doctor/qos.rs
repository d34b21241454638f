//! Checks of how RoCE is set apart from other traffic: the class of its packets, the priority that
//! leads to, whether that priority is lossless (PFC), and whether adapters heed congestion marks on
//! it (ECN). Each must agree with the others, and be the same at all ports.

use std::collections::{BTreeMap, BTreeSet};

use super::host::{Host, Port};
use super::{Finding, Outcome};
use crate::telemetry::sources::dcb::{Dcb, PRIORITIES};

const NO_ROCE: &str = "there is no RoCE port that is up";

/// No setting of the host overrides the class that the job asks for.
pub(super) fn traffic_class(host: &Host) -> Outcome {
    let ports: Vec<(&Port, Option<u8>)> = host
        .roce()
        .map(|port| (port, overriding(host, port)))
        .collect();
    if ports.is_empty() {
        return Outcome::not_checked(NO_ROCE);
    }
    let asked = host.config.traffic_class;
    let show = |(port, class): &(&Port, Option<u8>)| match class {
        Some(class) => format!("{}: all RoCE traffic gets class {class}", port.label()),
        None => format!("{}: traffic keeps the class of its job", port.label()),
    };
    let clear = ports
        .iter()
        .filter(|(_, class)| class.is_some())
        .map(|(port, _)| format!("echo -1 > {}", tclass_file(port)));
    let mut findings = Vec::new();
    let kinds: BTreeSet<Option<u8>> = ports.iter().map(|(_, class)| *class).collect();
    let others = kinds.iter().flatten().any(|class| *class != asked);
    let variable = ["THALWEG_TC", "NCCL_IB_TC"]
        .into_iter()
        .find(|name| host.var(name).is_some());
    if kinds.len() > 1 {
        findings.push(
            Finding::problem("The host overrides the traffic class differently at its ports.")
                .evidence(ports.iter().map(show))
                .why("Packets of one job are treated differently in the network, depending on the port.")
                .fix(clear),
        );
    } else if let (true, Some(variable)) = (others, variable) {
        findings.push(
            Finding::problem("The host overrides the traffic class that the job asks for.")
                .evidence([host.shown(variable)])
                .evidence(ports.iter().map(show))
                .why("The adapter puts the host's class into each packet, whatever the job says: its priority, PFC and ECN are those of another class.")
                .fix(clear)
                .fix([format!("or unset {variable}, if the host's class is the right one")]),
        );
    } else if others {
        findings.push(
            Finding::note("The host gives all RoCE traffic a class of its own.")
                .evidence(ports.iter().map(show))
                .why("A job cannot choose another: NCCL_IB_TC and THALWEG_TC would have no effect.")
                .fix(["nothing, if that is meant"]),
        );
    }
    Outcome::of(
        findings,
        match variable {
            Some(variable) => format!("{}, and nothing overrides it", host.shown(variable)),
            None => format!("{asked}, and nothing overrides it"),
        },
    )
}

fn tclass_file(port: &Port) -> String {
    format!(
        "/sys/class/infiniband/{}/tc/{}/traffic_class",
        port.device, port.number
    )
}

/// The class that the host's administrator has set for all traffic of a port, if he has: a line
/// `Global tclass=106`, beside others for single peers.
fn overriding(host: &Host, port: &Port) -> Option<u8> {
    let text = host.text(tclass_file(port).trim_start_matches('/'))?;
    let mut lines = text.lines().map(str::trim);
    lines.find_map(|line| line.strip_prefix("Global tclass=")?.trim().parse().ok())
}

/// The class that packets of a port will have.
fn class(host: &Host, port: &Port) -> u8 {
    overriding(host, port).unwrap_or(host.config.traffic_class)
}

/// The priority of a port's packets, where that is known.
fn priority(host: &Host, port: &Port) -> Option<u8> {
    host.dcb(port.interface.as_deref()?)?
        .priority(class(host, port))
}

/// Ports are lossless at the same priorities, among them that of the job.
pub(super) fn pfc(host: &Host) -> Outcome {
    let known: Vec<(&Port, Dcb)> = host
        .roce()
        .filter_map(|port| Some((port, host.dcb(port.interface.as_deref()?)?)))
        .filter(|(_, dcb)| dcb.pfc.is_some())
        .collect();
    if known.is_empty() {
        return Outcome::not_checked(match host.roce().next() {
            Some(_) => "no driver of a RoCE port says how it treats priorities (DCB)",
            None => NO_ROCE,
        });
    }
    let show = |(port, dcb): &(&Port, Dcb)| {
        format!("{}: PFC on {}", port.label(), priorities(dcb.lossless()))
    };
    let sets: BTreeSet<u8> = known.iter().filter_map(|(_, dcb)| dcb.pfc).collect();
    if sets.len() > 1 {
        return Outcome::Found(vec![
            Finding::problem("The ports do not have PFC on the same priorities.")
                .evidence(known.iter().map(show))
                .why("Where it is missing, packets are dropped that other ports and the switches hold to be lossless.")
                .fix(known.iter().filter_map(|(port, _)| {
                    Some(format!("dcb pfc set dev {} prio-pfc all:off PRIORITY:on", port.interface.as_deref()?))
                })),
        ]);
    }
    if sets.contains(&0) {
        return Outcome::Found(vec![
            Finding::warning("PFC is off at all priorities.")
                .evidence(known.iter().map(show))
                .why("RoCE then goes through queues that drop packets, and an adapter that lost one sends much of a message again. That is right where the network is meant to be lossy, with adapters made for it.")
                .fix(known.iter().filter_map(|(port, _)| {
                    Some(format!("dcb pfc set dev {} prio-pfc PRIORITY:on", port.interface.as_deref()?))
                }))
                .fix(["as on the switches; PRIORITY is often 3"]),
        ]);
    }
    let by_tag = known.iter().filter(|(_, dcb)| dcb.dscp.is_empty());
    let by_tag: Vec<_> = by_tag.collect();
    let beside: Vec<_> = known
        .iter()
        .filter(|(port, dcb)| {
            let priority = dcb.priority(class(host, port));
            priority.is_some_and(|priority| dcb.lossless().all(|lossless| lossless != priority))
        })
        .collect();
    let mut findings = Vec::new();
    if !beside.is_empty() {
        let show = |(port, dcb): &&(&Port, Dcb)| {
            let class = class(host, port);
            let priority = dcb.priority(class).unwrap_or_default();
            format!(
                "{}: class {class} is DSCP {}, priority {priority}; PFC on {}",
                port.label(),
                class >> 2,
                priorities(dcb.lossless())
            )
        };
        let dscp = beside.iter().find_map(|(_, dcb)| {
            let is_lossless = |priority: &u8| dcb.lossless().any(|lossless| lossless == *priority);
            let mut fitting = dcb
                .dscp
                .iter()
                .filter(|(_, priority)| is_lossless(priority));
            // 26 is what most recipes for RoCE use.
            let usual = dcb.dscp.get(&26).filter(|priority| is_lossless(priority));
            usual
                .map(|_| 26)
                .or_else(|| fitting.next().map(|(dscp, _)| *dscp))
        });
        findings.push(
            Finding::problem("The job's packets do not have a priority with PFC.")
                .evidence(beside.iter().map(show))
                .why("PFC protects a priority that the job does not use: its packets share a queue that drops them with all other traffic.")
                .fix(match dscp {
                    Some(dscp) => format!("export NCCL_IB_TC={}", u16::from(dscp) * 4 + 2),
                    None => "map a DSCP to a priority with PFC: dcb app add dev INTERFACE dscp-prio DSCP:PRIORITY".to_owned(),
                }.lines()),
        );
    }
    if !by_tag.is_empty() {
        findings.push(
            Finding::warning("Ports go by VLAN tags, not by DSCP.")
                .evidence(by_tag.iter().map(|item| format!("{}; no DSCP in its table", show(item))))
                .why("RoCE packets without a tag have priority 0 there, whatever their traffic class, and PFC elsewhere does not protect them.")
                .fix(by_tag.iter().filter_map(|(port, _)| {
                    Some(format!("mlnx_qos -i {} --trust dscp", port.interface.as_deref()?))
                }))
                .fix(["or: dcb app add dev INTERFACE dscp-prio DSCP:PRIORITY"]),
        );
    }
    let lossless = known.first().map(|(_, dcb)| priorities(dcb.lossless()));
    Outcome::of(
        findings,
        format!(
            "on {}, where the job's packets go",
            lossless.unwrap_or_default()
        ),
    )
}

fn priorities(priorities: impl Iterator<Item = u8>) -> String {
    let priorities: Vec<String> = priorities.map(|priority| priority.to_string()).collect();
    match &priorities[..] {
        [] => "no priority".into(),
        [one] => format!("priority {one}"),
        all => format!("priorities {}", all.join(", ")),
    }
}

/// On which priorities an adapter answers marks with notifications, and slows down by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ecn {
    notifies: u8,
    reacts: u8,
}

/// Adapters heed congestion marks on the priority of the job, in both roles, at all ports.
pub(super) fn ecn(host: &Host) -> Outcome {
    let mut known: BTreeMap<&str, (&Port, Ecn)> = BTreeMap::new();
    for port in host.roce() {
        let Some(interface) = port.interface.as_deref() else {
            continue;
        };
        let bits = |role: &str| {
            let file = |priority| format!("sys/class/net/{interface}/ecn/{role}/enable/{priority}");
            let is_on = |priority| Some(u8::from(host.word(file(priority))? == "1") << priority);
            let bits: Vec<u8> = (0..PRIORITIES).filter_map(is_on).collect();
            (!bits.is_empty()).then(|| bits.into_iter().fold(0, |all, bit| all | bit))
        };
        // MLNX_OFED: notification point and reaction point.
        if let (Some(notifies), Some(reacts)) = (bits("roce_np"), bits("roce_rp")) {
            known.insert(interface, (port, Ecn { notifies, reacts }));
        }
    }
    if known.is_empty() {
        return Outcome::not_checked(match host.roce().next() {
            Some(_) => "no driver shows its ECN settings in /sys/class/net/*/ecn",
            None => NO_ROCE,
        });
    }
    let set =
        |bits: u8| priorities((0..PRIORITIES).filter(move |priority| bits >> priority & 1 == 1));
    let show = |(_, (port, ecn)): (&&str, &(&Port, Ecn))| {
        format!(
            "{}: notifies on {}, slows down on {}",
            port.label(),
            set(ecn.notifies),
            set(ecn.reacts)
        )
    };
    let echo = |interface: &str, priority: &str| {
        ["np", "rp"].map(|role| {
            format!("echo 1 > /sys/class/net/{interface}/ecn/roce_{role}/enable/{priority}")
        })
    };
    let kinds: BTreeSet<Ecn> = known.values().map(|(_, ecn)| *ecn).collect();
    if kinds.len() > 1 {
        return Outcome::Found(vec![
            Finding::problem("The ports do not heed congestion marks (ECN) in the same way.")
                .evidence(known.iter().map(show))
                .why("Ports that do not slow down take the bandwidth of those that do, and fill the network's queues.")
                .fix(known.keys().flat_map(|interface| echo(interface, "PRIORITY"))),
        ]);
    }
    let off: Vec<_> = known
        .iter()
        .filter_map(|(interface, (port, ecn))| {
            // Without DSCP all packets that have no tag are of priority 0.
            let priority = priority(host, port).unwrap_or(0);
            ((ecn.notifies & ecn.reacts) >> priority & 1 == 0)
                .then_some((*interface, port, priority))
        })
        .collect();
    let Some((_, _, priority)) = off.first() else {
        return Outcome::Well(format!("heeded at {} RoCE interfaces", known.len()));
    };
    let is_lossless = off.iter().any(|(interface, _, priority)| {
        host.dcb(interface)
            .is_some_and(|dcb| dcb.lossless().any(|lossless| lossless == *priority))
    });
    let why = if is_lossless {
        "PFC is on there, so congestion is held back by pauses alone: they spread through the network, to traffic that has no part in it."
    } else {
        "Nothing slows senders down before the network drops packets."
    };
    Outcome::Found(vec![
        Finding::problem(format!("Congestion marks (ECN) are not heeded on priority {priority}, where the job's packets go."))
            .evidence(known.iter().map(show))
            .why(why)
            .fix(off.iter().flat_map(|(interface, _, priority)| echo(interface, &priority.to_string()))),
    ])
}
