//! Checks of PCI Express: links that run slower or narrower than they could, too little of it for the
//! ports behind it, errors, and detours of the traffic between adapters and GPUs.

use std::collections::{BTreeMap, BTreeSet};

use super::host::Host;
use super::{Finding, Outcome, count, gbps};
use crate::telemetry::sources::pcie::{self, Device, Link};

/// The adapters of ports that a job may use, each once.
fn adapters(host: &Host) -> Vec<&Device> {
    let admitted = host.ports.iter().filter(|port| port.is_admitted);
    let mut seen = BTreeSet::new();
    admitted
        .filter_map(|port| port.pci.as_ref())
        .filter(|device| seen.insert(device.address.as_str()))
        .collect()
}

/// A link with what it runs at and what both its ends can do; `device` is the lower end.
struct Way {
    device: Device,
    now: Link,
    most: Link,
}

/// The links from a device up to the processor. Above a device are in turn the lower end of a link (a
/// port of a switch, or of the processor) and the upper end of the next (a switch).
fn ways(device: &Device) -> Vec<Way> {
    let mut chain = vec![device.clone()];
    chain.extend(pcie::above(device));
    let way = |ends: &[Device]| {
        let (lower, upper) = (ends.first()?, ends.get(1));
        Some(Way {
            now: lower.link?,
            most: pcie::most(lower, upper)?,
            device: lower.clone(),
        })
    };
    chain.chunks(2).filter_map(way).collect()
}

/// Links of adapters run as both ends can. Those of GPUs are not looked at: they slow down at rest.
pub(super) fn link(host: &Host) -> Outcome {
    let adapters = adapters(host);
    let mut slow = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for way in adapters.iter().flat_map(|adapter| ways(adapter)) {
        seen.insert(way.device.address.clone());
        if way.now.least(way.most) != way.most {
            let line = format!("{}: {} of {}", way.device.address, way.now, way.most);
            slow.insert(way.device.address, line);
        }
    }
    if seen.is_empty() {
        return Outcome::not_checked(if adapters.is_empty() {
            "there is no RDMA adapter on PCI Express"
        } else {
            "the adapters do not say how their links run, as in many virtual machines"
        });
    }
    if slow.is_empty() {
        return Outcome::Well(format!(
            "{} at full speed and width",
            count(seen.len(), "link")
        ));
    }
    let see = slow
        .keys()
        .map(|address| format!("lspci -vv -s {address} | grep -e LnkCap: -e LnkSta:"));
    Outcome::Found(vec![
        Finding::problem("A PCI Express link runs below what both its ends can do.")
            .evidence(slow.values().cloned())
            .why(
                "The adapter gets less of the host's memory than its ports carry: senders are \
                 paused, or packets dropped.",
            )
            .fix(see)
            .fix([
                "seat the card and its riser anew, look for dust; then the BIOS settings of the \
                 slot",
            ]),
    ])
}

/// Adapters have as much PCI Express as their ports carry.
pub(super) fn rate(host: &Host) -> Outcome {
    // The functions of a card share its link.
    let mut cards: BTreeMap<String, (u64, Link)> = BTreeMap::new();
    for port in host
        .ports
        .iter()
        .filter(|port| port.is_active() && port.is_admitted)
    {
        let Some((device, rate)) = port.pci.as_ref().zip(port.rate_mbps) else {
            continue;
        };
        let Some(way) = ways(device).into_iter().next() else {
            continue;
        };
        let card = device
            .address
            .rsplit_once('.')
            .map_or(&*device.address, |(card, _)| card);
        cards.entry(card.to_owned()).or_insert((0, way.most)).0 += rate;
    }
    let short: Vec<String> = cards
        .iter()
        .filter(|(_, (rate, link))| *rate > link.rate_mbps())
        .map(|(card, (rate, link))| {
            let (rate, most) = (gbps(*rate), gbps(link.rate_mbps()));
            format!("{card}: ports with {rate} behind {link}, which carries {most}")
        })
        .collect();
    if cards.is_empty() {
        return Outcome::not_checked("there is no adapter whose links and ports are known");
    }
    if short.is_empty() {
        return Outcome::Well(format!(
            "{} with enough for all ports",
            count(cards.len(), "adapter")
        ));
    }
    Outcome::Found(vec![
        Finding::warning("Ports are faster than the slot of their adapter.")
            .evidence(short)
            .why(
                "With all ports busy, the slot is the limit, and the network looks slow without \
                 being so.",
            )
            .fix([
                "move the card to a slot with more lanes or a newer generation, or use fewer of \
                 its ports",
            ]),
    ])
}

/// No adapter and no bridge above one has lost anything.
pub(super) fn errors(host: &Host) -> Outcome {
    let mut lines = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for adapter in adapters(host) {
        for device in std::iter::once(adapter.clone()).chain(pcie::above(adapter)) {
            let errors = device.errors;
            if errors.fatal.is_some() || errors.nonfatal.is_some() {
                seen.insert(device.address.clone());
            }
            let counts = [("fatal", errors.fatal), ("nonfatal", errors.nonfatal)];
            let mut counts = counts
                .into_iter()
                .filter_map(|(kind, count)| Some((kind, count?)));
            if counts.clone().any(|(_, count)| count > 0) {
                let all = counts
                    .by_ref()
                    .chain(errors.correctable.map(|count| ("correctable", count)));
                let all: Vec<String> = all.map(|(kind, count)| format!("{count} {kind}")).collect();
                lines.insert(
                    device.address.clone(),
                    format!("{}: {}", device.address, all.join(", ")),
                );
            }
        }
    }
    if seen.is_empty() {
        return Outcome::not_checked("no adapter counts its errors on PCI Express (AER)");
    }
    if lines.is_empty() {
        return Outcome::Well(format!("none at {}", count(seen.len(), "device")));
    }
    let see = lines
        .keys()
        .map(|address| format!("dmesg | grep -e AER | grep {address}"));
    Outcome::Found(vec![
        Finding::warning("Transactions have been lost on PCI Express since the host was started.")
            .evidence(lines.values().cloned())
            .why(
                "Each loss can end a job. They come from a card, riser or slot that is about to \
                 fail.",
            )
            .fix(see)
            .fix(["seat the card anew; if the count grows again, change it"]),
    ])
}

/// No bridge sends the traffic between an adapter and a GPU up to the processor.
pub(super) fn acs(host: &Host) -> Outcome {
    let adapters = adapters(host);
    let mut between = BTreeMap::new();
    for (gpu, _) in host.gpus() {
        for adapter in &adapters {
            let (above_adapter, above_gpu) = (pcie::above(adapter), pcie::above(gpu));
            let is_in = |bridges: &[Device], bridge: &Device| {
                bridges.iter().any(|other| other.folder == bridge.folder)
            };
            // Without a switch that both hang on, the way leads over the processor in any case.
            if !above_gpu.iter().any(|bridge| is_in(&above_adapter, bridge)) {
                continue;
            }
            // From there on they share the way up, which direct traffic does not take.
            let apart = above_adapter
                .iter()
                .filter(|bridge| !is_in(&above_gpu, bridge))
                .chain(
                    above_gpu
                        .iter()
                        .filter(|bridge| !is_in(&above_adapter, bridge)),
                );
            for bridge in apart {
                between.insert(bridge.address.clone(), bridge.clone());
            }
        }
    }
    if between.is_empty() {
        return Outcome::not_checked("no GPU shares a PCI Express switch with an RDMA adapter");
    }
    let read: Vec<_> = between
        .values()
        .map(|bridge| (bridge, bridge.acs()))
        .collect();
    let on: Vec<&Device> = read
        .iter()
        .filter(|(_, acs)| acs.is_some_and(pcie::Acs::redirects))
        .map(|(bridge, _)| *bridge)
        .collect();
    if !on.is_empty() {
        return Outcome::Found(vec![
            Finding::problem("Traffic between adapters and GPUs takes the detour over the processor (ACS).")
                .evidence(on.iter().map(|bridge| {
                    let acs = bridge.acs();
                    let Some(pcie::Acs::Control(control)) = acs else {
                        return bridge.address.clone();
                    };
                    format!("{}: ACS control {control:#06x}, which redirects", bridge.address)
                }))
                .why(
                    "The root complex forwards it with a fraction of the bandwidth of the switch. \
                     Virtual machines with address translation (ATS), and adapters with Data Direct, \
                     want ACS as their maker says: leave it there.",
                )
                .fix(on.iter().map(|bridge| format!("setpci -s {} ECAP_ACS+6.w=0", bridge.address)))
                .fix(["that holds until the next start; for good, switch ACS off in the BIOS"]),
        ]);
    }
    match read.iter().filter(|(_, acs)| acs.is_none()).count() {
        0 => Outcome::Well(format!("no detour at {}", count(read.len(), "bridge"))),
        unread => Outcome::not_checked(format!(
            "the configuration of {} can only be read by root: run it as root",
            count(unread, "bridge")
        )),
    }
}

/// Adapters and GPUs reach memory without translation by the IOMMU.
pub(super) fn iommu(host: &Host) -> Outcome {
    let gpus: Vec<&Device> = host.gpus().map(|(gpu, _)| gpu).collect();
    let devices: Vec<&Device> = adapters(host).into_iter().chain(gpus).collect();
    if devices.is_empty() {
        return Outcome::not_checked("there is no RDMA adapter and no GPU on PCI Express");
    }
    let kind =
        |device: &Device| std::fs::read_to_string(device.folder.join("iommu_group/type")).ok();
    let kinds = devices
        .iter()
        .filter_map(|device| Some((device, kind(device)?)));
    let kinds: Vec<_> = kinds.collect();
    let translated = kinds.iter().filter(|(_, kind)| kind.starts_with("DMA"));
    let translated: Vec<String> = translated
        .map(|(device, kind)| format!("{}: {}", device.address, kind.trim()))
        .collect();
    if translated.is_empty() {
        return Outcome::Well(match kinds.len() {
            0 => "no IOMMU is in use".into(),
            devices => format!("{} without translation", count(devices, "device")),
        });
    }
    Outcome::Found(vec![
        Finding::warning("The IOMMU translates the addresses of adapters or GPUs.")
            .evidence(translated)
            .why(
                "Direct traffic between adapter and GPU is sent over the processor, or fails, \
                 and each access costs a look-up.",
            )
            .fix([
                "boot with iommu=pt on the kernel's command line, or switch the IOMMU off in the \
                 BIOS",
            ]),
    ])
}
