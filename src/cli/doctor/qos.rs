//! Checks of how RoCE is set apart from other traffic: the class of its packets, the priority that
//! leads to, whether that priority is lossless (PFC), and whether adapters heed congestion marks on
//! it (ECN). Each must agree with the others, and be the same at all ports.

use std::collections::{BTreeMap, BTreeSet};

use super::host::{Host, Port};
use super::{Finding, Outcome, Severity};
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
                .why(
                    "Packets of one job are treated differently in the network, depending on the \
                     port.",
                )
                .fix(clear),
        );
    } else if let (true, Some(variable)) = (others, variable) {
        findings.push(
            Finding::problem("The host overrides the traffic class that the job asks for.")
                .evidence([host.shown(variable)])
                .evidence(ports.iter().map(show))
                .why(
                    "The adapter puts the host's class into each packet, whatever the job says: \
                     its priority, PFC and ECN are those of another class.",
                )
                .fix(clear)
                .fix(["or, if the host's class is the right one:"])
                .fix(host.unset(&[variable])),
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

/// The class that is set for all traffic of a port, where one is: a line `Global tclass=106`, beside
/// others for single peers.
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

/// A port and how it treats priorities.
type Lossless<'a> = (&'a Port, Dcb);

/// Ports are lossless at the same priorities, among them that of the job.
pub(super) fn pfc(host: &Host) -> Outcome {
    let known: Vec<Lossless<'_>> = host
        .roce()
        .filter_map(|port| Some((port, host.dcb(port.interface.as_deref()?)?)))
        .filter(|(_, dcb)| dcb.pfc.is_some())
        .collect();
    let Some((_, first)) = known.first() else {
        return Outcome::not_checked(match host.roce().next() {
            Some(_) => "no driver of a RoCE port says how it treats priorities (DCB)",
            None => NO_ROCE,
        });
    };
    let differs = known.iter().any(|(_, dcb)| dcb.pfc != first.pfc);
    let mut differs = differs.then(|| pfc_differs(host, &known));
    if let Some(problem) = differs.take_if(|it| it.severity == Severity::Problem) {
        return Outcome::Found(vec![problem]);
    }
    let lossless = priorities(first.lossless());
    if first.pfc == Some(0) {
        return Outcome::Found(vec![pfc_is_off(&known)]);
    }
    let findings = [pfc_elsewhere(host, &known), goes_by_tag(&known), differs];
    Outcome::of(
        findings.into_iter().flatten().collect(),
        format!("on {lossless}, where the job's packets go"),
    )
}

fn shown((port, dcb): &Lossless<'_>) -> String {
    format!("{}: PFC on {}", port.label(), priorities(dcb.lossless()))
}

/// A command for each port's interface.
fn for_each<'a>(
    ports: impl Iterator<Item = &'a Lossless<'a>>,
    command: impl Fn(&str) -> String,
) -> Vec<String> {
    let interfaces = ports.filter_map(|(port, _)| port.interface.as_deref());
    interfaces.map(command).collect()
}

/// A problem, unless all ports have PFC on the priority of the job's packets.
fn pfc_differs(host: &Host, known: &[Lossless<'_>]) -> Finding {
    let what = "The ports do not have PFC on the same priorities.";
    // The priority of the job's packets, if some port has PFC there.
    let of_job = known.iter().find_map(|(port, dcb)| {
        let priority = dcb.priority(class(host, port))?;
        dcb.lossless().find(|lossless| *lossless == priority)
    });
    let lacks = |dcb: &Dcb| dcb.lossless().all(|lossless| Some(lossless) != of_job);
    let lacking = || known.iter().filter(|(_, dcb)| lacks(dcb));
    let evidence = known.iter().map(shown);
    if lacking().next().is_none() {
        return Finding::note(what)
            .evidence(evidence)
            .why("A job whose priority some ports lack would lose packets there; this one's is at all.")
            .fix(["nothing, if no job uses another; otherwise the same at all, as on the switches"]);
    }
    let wanted = of_job.map_or("PRIORITY".to_owned(), |priority| priority.to_string());
    Finding::problem(what)
        .evidence(evidence)
        .why(
            "Where it is missing, packets are dropped that other ports and the switches hold to be \
             lossless.",
        )
        .fix(for_each(lacking(), |interface| turn_on(interface, &wanted)))
        .fix(of_job.is_none().then_some(AS_ON_SWITCHES))
}

/// Lets a port have PFC on a priority; the others stay as they are.
fn turn_on(interface: &str, priority: &str) -> String {
    format!("dcb pfc set dev {interface} prio-pfc {priority}:on")
}

const AS_ON_SWITCHES: &str = "as on the switches; PRIORITY is often 3";

fn pfc_is_off(known: &[Lossless<'_>]) -> Finding {
    Finding::warning("PFC is off at all priorities.")
        .evidence(known.iter().map(shown))
        .why(
            "RoCE then goes through queues that drop packets, and an adapter that lost one sends \
             much of a message again. That is right where the network is meant to be lossy, with \
             adapters made for it.",
        )
        .fix(for_each(known.iter(), |interface| {
            turn_on(interface, "PRIORITY")
        }))
        .fix([AS_ON_SWITCHES])
}

/// The job's packets have a priority without PFC, where there is one with it.
fn pfc_elsewhere(host: &Host, known: &[Lossless<'_>]) -> Option<Finding> {
    let is_elsewhere = |(port, dcb): &&Lossless<'_>| {
        let priority = dcb.priority(class(host, port));
        priority.is_some_and(|priority| dcb.lossless().all(|lossless| lossless != priority))
    };
    let elsewhere: Vec<&Lossless<'_>> = known.iter().filter(is_elsewhere).collect();
    let (_, first) = elsewhere.first()?;
    let evidence = elsewhere.iter().map(|(port, dcb)| {
        let class = class(host, port);
        let (dscp, priority) = (class >> 2, dcb.priority(class).unwrap_or_default());
        let lossless = priorities(dcb.lossless());
        let port = port.label();
        format!("{port}: class {class} is DSCP {dscp}, priority {priority}; PFC on {lossless}")
    });
    let is_lossless = |priority: &u8| first.lossless().any(|lossless| lossless == *priority);
    let mut fitting = first
        .dscp
        .iter()
        .filter(|(_, priority)| is_lossless(priority));
    // 26 is what most recipes for RoCE use.
    let usual = first.dscp.get(&26).filter(|priority| is_lossless(priority));
    let dscp = usual
        .map(|_| 26)
        .or_else(|| fitting.next().map(|(dscp, _)| *dscp));
    let fix = match dscp.map(|dscp| dscp * 4 + 2) {
        Some(class) => {
            let overridden = elsewhere
                .iter()
                .filter(|(port, _)| overriding(host, port).is_some());
            let set = |(port, _): &&Lossless<'_>| format!("echo {class} > {}", tclass_file(port));
            let mut fix: Vec<String> = overridden.map(set).collect();
            if fix.len() < elsewhere.len() {
                let variable = host.prevailing("THALWEG_TC", "NCCL_IB_TC");
                fix.push(format!("export {variable}={class}"));
            }
            fix
        }
        None => vec!["dcb app add dev INTERFACE dscp-prio DSCP:PRIORITY, with PFC there".into()],
    };
    Some(
        Finding::problem("The job's packets do not have a priority with PFC.")
            .evidence(evidence)
            .why(
                "PFC protects a priority that the job does not use: its packets share a queue that \
                 drops them with all other traffic.",
            )
            .fix(fix),
    )
}

fn goes_by_tag(known: &[Lossless<'_>]) -> Option<Finding> {
    let by_tag = || known.iter().filter(|(_, dcb)| dcb.dscp.is_empty());
    by_tag().next()?;
    Some(
        Finding::warning("Ports go by VLAN tags, not by DSCP.")
            .evidence(by_tag().map(|port| format!("{}; no DSCP in its table", shown(port))))
            .why(
                "RoCE packets without a tag have priority 0 there, whatever their traffic class, \
                 and PFC elsewhere does not protect them.",
            )
            .fix(for_each(by_tag(), |interface| {
                format!("mlnx_qos -i {interface} --trust dscp")
            }))
            .fix(["or: dcb app add dev INTERFACE dscp-prio DSCP:PRIORITY"]),
    )
}

/// `no priority`, `priority 3`, `priorities 0-2, 5`.
fn priorities(priorities: impl Iterator<Item = u8>) -> String {
    let mut runs: Vec<(u8, u8)> = Vec::new();
    let mut count = 0;
    for priority in priorities {
        count += 1;
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == priority => *last = priority,
            _ => runs.push((priority, priority)),
        }
    }
    let run = |(first, last): &(u8, u8)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    let runs: Vec<String> = runs.iter().map(run).collect();
    match count {
        0 => "no priority".into(),
        1 => format!("priority {}", runs.join("")),
        _ => format!("priorities {}", runs.join(", ")),
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
    let kinds: BTreeSet<Ecn> = known.values().map(|(_, ecn)| *ecn).collect();
    if kinds.len() > 1 {
        // What any port heeds, all should.
        let all = kinds
            .iter()
            .fold(0, |all, ecn| all | ecn.notifies | ecn.reacts);
        let fix = known.iter().flat_map(|(interface, (_, ecn))| {
            let roles = [("np", ecn.notifies), ("rp", ecn.reacts)];
            roles.into_iter().flat_map(move |(role, bits)| {
                let missing = move |priority: &u8| all & !bits & (1 << priority) != 0;
                let missing = (0..PRIORITIES).filter(missing);
                missing.map(move |priority| enable(interface, role, priority))
            })
        });
        let differ = "The ports do not heed congestion marks (ECN) in the same way.";
        return Outcome::Found(vec![
            Finding::problem(differ)
                .evidence(known.iter().map(show))
                .why(
                    "Ports that do not slow down take the bandwidth of those that do, and fill the \
                     network's queues.",
                )
                .fix(fix),
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
        "PFC is on there, so congestion is held back by pauses alone: they spread through \
             the network, to traffic that has no part in it."
    } else {
        "Nothing slows senders down before the network drops packets."
    };
    Outcome::Found(vec![
        Finding::problem(format!(
            "Congestion marks (ECN) are not heeded on priority {priority}, where the job's \
             packets go."
        ))
        .evidence(known.iter().map(show))
        .why(why)
        .fix(off.iter().flat_map(|(interface, _, priority)| {
            ["np", "rp"].map(|role| enable(interface, role, *priority))
        })),
    ])
}

/// Lets an adapter heed marks, in a role.
fn enable(interface: &str, role: &str, priority: u8) -> String {
    format!("echo 1 > /sys/class/net/{interface}/ecn/roce_{role}/enable/{priority}")
}
