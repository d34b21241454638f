//! Checks of RDMA devices: whether they are there and up, by which addresses others reach them, how
//! large their packets are, how fast their links, and how they get to the memory of GPUs.

use std::collections::BTreeMap;

use super::host::{Host, PATIENCE, Port};
use super::{Finding, Outcome, count, gbps};
use crate::config::{HcaFilter, TransportKind};
use crate::telemetry::sources::pcie::Gpu;
use crate::transport::verbs::device::{self, LinkLayer, Reason};

/// Drivers of adapters that can do RDMA, and the driver that does it.
const RDMA_DRIVERS: &[(&str, &str)] = &[
    ("mlx5_core", "mlx5_ib"),
    ("mlx4_core", "mlx4_ib"),
    ("bnxt_en", "bnxt_re"),
    ("ice", "irdma"),
    ("idpf", "irdma"),
    ("ionic", "ionic_rdma"),
    ("mana", "mana_ib"),
    ("qede", "qedr"),
    ("hns3", "hns_roce_hw_v2"),
];

/// What RoCE puts around the payload of a packet at most: `iboe_get_mtu`, `linux/ib_addr.h`.
const ROCE_HEADERS_BYTES: u32 = 96;
/// The largest payload that RDMA knows.
const PAYLOAD_BYTES_MAX: u32 = 4096;

/// The kernel with which drivers learned to move memory that they have exported (DMABUF).
const DMABUF_KERNEL: (u32, u32) = (5, 12);

/// RDMA devices are there, their ports up, and of one kind.
pub(super) fn devices(host: &Host) -> Outcome {
    let transport = host.config.transport;
    if transport == TransportKind::Tcp {
        return Outcome::not_checked(
            "links go over TCP: THALWEG_TRANSPORT or NCCL_IB_DISABLE says so",
        );
    }
    if host.ports.is_empty() {
        return Outcome::Found(vec![none(host, transport)]);
    }
    let admitted = || host.ports.iter().filter(|port| port.is_admitted);
    let active = || admitted().filter(|port| port.is_active());
    let mut findings = Vec::new();
    if host.exists("dev")
        && !host
            .names("dev/infiniband")
            .iter()
            .any(|name| name.starts_with("uverbs"))
    {
        findings.push(
            Finding::problem("RDMA devices are shown, but this container may not open them.")
                .evidence(["no /dev/infiniband/uverbs*"])
                .why("Without these files no program can use RDMA, and links go over TCP.")
                .fix([
                    "outside a container: modprobe ib_uverbs",
                    "Docker: --device=/dev/infiniband; Kubernetes: an RDMA device plugin",
                ]),
        );
    }
    let down: Vec<&Port> = admitted().filter(|port| !port.is_active()).collect();
    if !down.is_empty() {
        let is_named = host.config.hca.as_ref().is_some_and(HcaFilter::names);
        let what = format!("{} not active.", are(down.len(), "RDMA port"));
        let (finding, why) = if active().next().is_none() {
            (
                Finding::problem(what),
                "No other port is left: links go over TCP.",
            )
        } else if is_named {
            let why = "The settings ask for it: the job has fewer ports than it should have.";
            (Finding::problem(what), why)
        } else {
            (
                Finding::warning(what),
                "If they should carry traffic, the job is slower than it could be.",
            )
        };
        let link = |port: &&Port| {
            let interface = port.interface.as_deref();
            interface.map(|interface| format!("ip link set dev {interface} up"))
        };
        let mut fix: Vec<String> = down.iter().filter_map(link).collect();
        fix.push("otherwise look at the cable, the transceiver and the switch's port".into());
        findings.push(
            finding
                .evidence(down.iter().map(|port| state(port)))
                .why(why)
                .fix(fix),
        );
    }
    let kinds = |is_ethernet| active().any(|port| port.is_ethernet == is_ethernet);
    if kinds(true) && kinds(false) {
        let kind = |port: &Port| {
            let kind = if port.is_ethernet {
                "RoCE"
            } else {
                "InfiniBand"
            };
            format!("{} is {kind}", port.label())
        };
        findings.push(
            Finding::problem("A job would use InfiniBand and RoCE ports together.")
                .evidence(active().map(kind))
                .why("A port of one kind does not reach a port of the other.")
                .fix([format!(
                    "export {}=... with the ports of one network",
                    host.prevailing("THALWEG_HCA", "NCCL_IB_HCA")
                )]),
        );
    }
    let mut drivers: Vec<&str> = active().filter_map(|port| port.driver.as_deref()).collect();
    drivers.sort_unstable();
    drivers.dedup();
    let drivers = if drivers.is_empty() {
        String::new()
    } else {
        format!(" ({})", drivers.join(", "))
    };
    Outcome::of(
        findings,
        format!("{}{drivers}", count(active().count(), "active port")),
    )
}

/// The host has no RDMA device.
fn none(host: &Host, transport: TransportKind) -> Finding {
    let mut adapters = BTreeMap::new();
    for device in &host.pci {
        let mut drivers = RDMA_DRIVERS.iter();
        let driver = device.driver.as_deref();
        if let Some((_, rdma)) = drivers.find(|(of, _)| Some(*of) == driver) {
            adapters.entry(*rdma).or_insert_with(Vec::new).push(device);
        }
    }
    if !adapters.is_empty() {
        let evidence = adapters.values().flatten();
        let evidence = evidence.map(|device| {
            let driver = device.driver.as_deref().unwrap_or_default();
            format!("{} has the driver {driver}", device.address)
        });
        return Finding::problem("There are adapters that can do RDMA, but no RDMA device.")
            .evidence(evidence)
            .evidence(["/sys/class/infiniband is empty"])
            .why(
                "Links go over TCP, which costs processor time and reaches a fraction of the rate.",
            )
            .fix(adapters.keys().map(|driver| format!("modprobe {driver}")))
            .fix([
                "in a container: it has to share the host's devices and network, or be given some",
            ]);
    }
    let evidence = "no device in /sys/class/infiniband";
    if transport == TransportKind::Verbs {
        return Finding::problem("THALWEG_TRANSPORT asks for RDMA, but there is no RDMA device.")
            .evidence([evidence])
            .why("Without one no link comes up.")
            .fix([
                "export THALWEG_TRANSPORT=auto",
                "or load the driver of the adapter",
            ]);
    }
    Finding::note("There is no RDMA device: links go over TCP.")
        .evidence([evidence])
        .why("That is right on hosts without RDMA adapters.")
        .fix([
            "nothing; otherwise see which adapters there are: lspci -nn | grep -i -e eth -e infini",
        ])
}

fn state(port: &Port) -> String {
    let physical = std::fs::read_to_string(port.folder.join("phys_state")).unwrap_or_default();
    let physical = physical.trim().split(": ").last().unwrap_or_default();
    let state = if port.state.is_empty() {
        "unknown"
    } else {
        &port.state
    };
    match physical {
        "" => format!("{}: {state}", port.label()),
        _ => format!("{}: {state}, physically {physical}", port.label()),
    }
}

/// Each port has an address that others reach: the one asked for, and of one family.
pub(super) fn gids(host: &Host) -> Outcome {
    let found = host.chosen();
    let ethernet = || {
        found
            .ports
            .iter()
            .filter(|port| port.link_layer == LinkLayer::Ethernet)
    };
    let mut findings = Vec::new();
    for (name, reason) in &found.left_out {
        let Some(port) = host.ports.iter().find(|port| port.name() == *name) else {
            continue;
        };
        let finding = match reason {
            Reason::NoGid => {
                let interface = port.interface.as_deref().unwrap_or("INTERFACE");
                Finding::problem(format!("{name} has no address that others reach."))
                    .why(
                        "Its table has no RoCE v2 entry beyond link-local ones, so packets could not \
                         be routed, and the port is left out.",
                    )
                    .fix([format!("ip addr add ADDRESS/PREFIX dev {interface}")])
            }
            Reason::NotGid(index) => {
                let asked = asked_by(host);
                let of_file = "take gid_index out of the file of THALWEG_CONFIG";
                Finding::problem(format!("{name} has no RoCE v2 address at index {index}."))
                    .evidence([host.shown(asked.unwrap_or("THALWEG_GID_INDEX"))])
                    .why(
                        "The port is left out; NCCL itself would fail or send RoCE v1, which no \
                         router forwards.",
                    )
                    .fix(asked.map_or(vec![of_file.into()], |variable| host.unset(&[variable])))
                    .fix(["NCCL since 2.21 and thalweg then choose for each port"])
            }
            Reason::Excluded | Reason::State(_) | Reason::Slow(..) => continue,
        };
        findings.push(finding.evidence(gid_table(port)));
    }
    let is_v4 = |port: &&device::Port| port.gid.addr.to_ipv4_mapped().is_some();
    if ethernet().any(|port| is_v4(&port)) && !ethernet().all(|port| is_v4(&port)) {
        let without = ethernet().filter(|port| !is_v4(port));
        findings.push(
            Finding::problem("Some ports have an IPv4 address, others only IPv6.")
                .evidence(ethernet().map(|port| format!("{}: GID {}", port.name(), port.gid)))
                .why(
                    "A port reaches only ports of its own family, so these ports find no way to \
                     each other.",
                )
                .fix(without.map(|port| {
                    let interface = port.gid.interface.as_deref().unwrap_or("INTERFACE");
                    format!("ip addr add ADDRESS/PREFIX dev {interface}")
                })),
        );
    }
    let is_local = |gid: &device::Gid| match gid.addr.to_ipv4_mapped() {
        Some(v4) => v4.is_link_local(),
        None => gid.addr.is_unicast_link_local(),
    };
    let local = || ethernet().filter(|port| is_local(&port.gid));
    if let (Some(_), Some(variable)) = (local().next(), asked_by(host)) {
        findings.push(
            Finding::warning("The addresses that are asked for are link-local.")
                .evidence([host.shown(variable)])
                .evidence(local().map(|port| format!("{}: GID {}", port.name(), port.gid)))
                .why("No router forwards packets to them: only hosts at the same switch are reached.")
                .fix(host.unset(&[variable])),
        );
    }
    if findings.is_empty() && ethernet().next().is_none() {
        return Outcome::not_checked("there is no RoCE port that is up");
    }
    let gids: Vec<String> = ethernet()
        .map(|port| format!("{} GID {}", port.name(), port.gid))
        .collect();
    Outcome::of(findings, gids.join("; "))
}

/// The variable that asks for a place in the table; none if there is none, or a file asks.
fn asked_by(host: &Host) -> Option<&'static str> {
    let variables = ["THALWEG_GID_INDEX", "NCCL_IB_GID_INDEX"];
    variables
        .into_iter()
        .find(|variable| host.var(variable).is_some())
}

/// What is in a port's table, a line each.
fn gid_table(port: &Port) -> Vec<String> {
    let word = |kind: &str, index: u8| {
        let text = std::fs::read_to_string(port.folder.join(kind).join(index.to_string())).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let mut lines = Vec::new();
    for index in 0..=u8::MAX {
        let addr = word("gids", index).and_then(|gid| gid.parse::<std::net::Ipv6Addr>().ok());
        let kind = word("gid_attrs/types", index);
        if let (Some(addr), Some(kind)) = (addr.filter(|addr| !addr.is_unspecified()), kind) {
            let addr = std::net::IpAddr::V6(addr).to_canonical();
            lines.push(format!("{}, GID {index}: {addr}, {kind}", port.label()));
        }
    }
    if lines.is_empty() {
        lines.push(format!("{}: its table of addresses is empty", port.label()));
    }
    lines
}

/// All ports take packets of the same size, and of the largest.
pub(super) fn mtu(host: &Host) -> Outcome {
    let bytes = |interface: &str| host.number::<u32>(format!("sys/class/net/{interface}/mtu"));
    let sizes: BTreeMap<&str, u32> = host
        .roce_interfaces()
        .into_iter()
        .filter_map(|interface| Some((interface, bytes(interface)?)))
        .collect();
    let Some(&most) = sizes.values().max() else {
        return Outcome::not_checked("there is no RoCE port that is up");
    };
    let show = |(interface, mtu): (&&str, &u32)| format!("{interface}: MTU {mtu}");
    let set = |interface: &&str, mtu: u32| format!("ip link set dev {interface} mtu {mtu}");
    let mut findings = Vec::new();
    let smaller = || sizes.iter().filter(|(_, mtu)| **mtu < most);
    if smaller().next().is_some() {
        findings.push(
            Finding::problem("The ports do not have the same MTU.")
                .evidence(sizes.iter().map(show))
                .why(
                    "Pairs of ports fall back to the smaller packets, and where a switch drops \
                     the larger ones, links hang.",
                )
                .fix(smaller().map(|(interface, _)| set(interface, most))),
        );
    }
    if payload(most) < PAYLOAD_BYTES_MAX {
        findings.push(
            Finding::warning(format!("RDMA packets carry {} bytes, not {PAYLOAD_BYTES_MAX}.", payload(most)))
                .evidence(sizes.iter().map(show))
                .why(format!(
                    "Small packets cost bandwidth for headers and work in the adapter. {PAYLOAD_BYTES_MAX} bytes need an MTU \
                     of {} at least, on all hosts and switches.",
                    PAYLOAD_BYTES_MAX + ROCE_HEADERS_BYTES
                ))
                .fix(sizes.keys().map(|interface| set(interface, 9000))),
        );
    }
    let stale: Vec<(String, &str, u32)> = host
        .roce()
        .filter_map(|port| {
            let interface = port.interface.as_deref()?;
            let mtu = *sizes.get(interface)?;
            let active = host
                .rdma_mtu(port)
                .filter(|active| *active < payload(mtu))?;
            let line = format!(
                "{}: packets of {active} bytes, interface MTU {mtu}",
                port.label()
            );
            Some((line, interface, mtu))
        })
        .collect();
    if !stale.is_empty() {
        findings.push(
            Finding::warning("RDMA uses smaller packets than the interface allows.")
                .evidence(stale.iter().map(|(line, ..)| line.clone()))
                .why("The adapter has not taken over the interface's MTU, so packets stay small.")
                // The MTU that is set already changes nothing, and no driver hears of it.
                .fix(
                    stale.iter().flat_map(|(_, interface, mtu)| {
                        [mtu - 1, *mtu].map(|mtu| set(interface, mtu))
                    }),
                )
                .fix(["if that does not help, take the link down and up again"]),
        );
    }
    Outcome::of(
        findings,
        format!("{most} on {}", count(sizes.len(), "interface")),
    )
}

/// The payload of a RoCE packet on an interface with this MTU.
fn payload(mtu: u32) -> u32 {
    let sizes = [4096, 2048, 1024, 512, 256];
    let fits = |size: &u32| *size <= mtu.saturating_sub(ROCE_HEADERS_BYTES);
    sizes.into_iter().find(fits).unwrap_or(0)
}

/// Ports of one kind of adapter are equally fast, and as fast as they can be.
pub(super) fn link_speed(host: &Host) -> Outcome {
    let active = || {
        host.ports
            .iter()
            .filter(|port| port.is_active() && port.is_admitted)
    };
    let mut models: BTreeMap<(u32, u32), Vec<(&Port, u64)>> = BTreeMap::new();
    for port in active() {
        let model = port
            .pci
            .as_ref()
            .and_then(|pci| Some((pci.vendor?, pci.model?)));
        if let (Some(model), Some(rate)) = (model, port.rate_mbps) {
            models.entry(model).or_default().push((port, rate));
        }
    }
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for ports in models.values() {
        let most = ports.iter().map(|(_, rate)| *rate).max().unwrap_or(0);
        seen.push(format!("{} at {}", count(ports.len(), "port"), gbps(most)));
        let slow: Vec<_> = ports.iter().filter(|(_, rate)| *rate < most).collect();
        if slow.is_empty() {
            continue;
        }
        let rate = |(port, rate): &(&Port, u64)| format!("{}: {}", port.label(), gbps(*rate));
        let see =
            |(port, _): &&(&Port, u64)| Some(format!("ethtool {}", port.interface.as_deref()?));
        findings.push(
            Finding::problem(format!(
                "{} slower than others of the same adapter.",
                are(slow.len(), "port")
            ))
            .evidence(ports.iter().map(rate))
            .why("A collective is as fast as its slowest port.")
            .fix(slow.iter().filter_map(see))
            .fix([
                "compare speed, lanes and FEC with the switch's port; change the cable or \
                 transceiver",
            ]),
        );
    }
    // Each interface by itself: those of the ports, or all that carry TCP.
    let mut interfaces: BTreeMap<String, u64> = active()
        .filter_map(|port| Some((port.interface.clone()?, port.rate_mbps?)))
        .collect();
    if active().next().is_none() {
        interfaces = host.speeds();
        let speeds = interfaces.iter();
        seen.extend(speeds.map(|(name, speed)| format!("{name} at {}", gbps(*speed))));
    }
    let below = |(interface, now): (&String, &u64)| {
        let most = host.speed_max_mbps(interface)?;
        (*now < most).then(|| format!("{interface}: {} of {}", gbps(*now), gbps(most)))
    };
    let below: Vec<String> = interfaces.iter().filter_map(below).collect();
    if findings.is_empty() && !below.is_empty() {
        findings.push(
            Finding::warning("Links run slower than the adapter and its cable could.")
                .evidence(below)
                .why("Unless the switch has no faster ports, bandwidth is lost.")
                .fix(["compare with the switch's port: its speed, auto-negotiation and FEC"]),
        );
    }
    if findings.is_empty() && seen.is_empty() {
        return Outcome::not_checked("no adapter says how fast its links are");
    }
    Outcome::of(findings, seen.join(", "))
}

/// Adapters get to the memory of GPUs, by peer memory or by DMABUF.
pub(super) fn gpu_memory(host: &Host) -> Outcome {
    let of = |maker| host.gpus().filter(|(_, gpu)| *gpu == maker).count();
    let (nvidia, amd) = (of(Gpu::Nvidia), of(Gpu::Amd));
    if nvidia + amd == 0 {
        return Outcome::not_checked("there is no GPU");
    }
    if host.ports.is_empty() {
        return Outcome::not_checked("there is no RDMA device");
    }
    if device::gpu_drivers(&host.path("sys")).peer_memory {
        return Outcome::Well(format!("peer memory, for {}", count(nvidia + amd, "GPU")));
    }
    let release = host.word("proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel_has_dmabuf = kernel(&release).is_some_and(|kernel| kernel >= DMABUF_KERNEL);
    let is_off = host.var("NCCL_DMABUF_ENABLE") == Some("0");
    let version = host.text("proc/driver/nvidia/version").unwrap_or_default();
    let is_open = version.contains("Open Kernel Module");
    let has_driver = |driver: &str| host.exists(format!("sys/module/{driver}"));
    let is_nvidia = nvidia > 0;
    let driver_exports = if is_nvidia {
        is_open
    } else {
        has_driver("amdgpu")
    };
    if kernel_has_dmabuf && driver_exports && !is_off {
        return Outcome::Well(format!("DMABUF, for {}", count(nvidia + amd, "GPU")));
    }
    let driver = if is_nvidia { "nvidia" } else { "amdgpu" };
    let mut evidence = vec![format!("{}, kernel {release}", count(nvidia + amd, "GPU"))];
    if !has_driver(driver) {
        evidence.push(format!("the module {driver} is not loaded"));
    } else if is_nvidia {
        evidence.push("the module nvidia_peermem is not loaded".into());
        let kind = if is_open {
            "the open one: it can export"
        } else {
            "not the open one: it cannot export memory"
        };
        evidence.push(format!("the module nvidia is {kind}"));
    }
    if is_off {
        evidence.push(host.shown("NCCL_DMABUF_ENABLE"));
    }
    let mut fix = Vec::new();
    if !has_driver(driver) {
        fix.push(format!("modprobe {driver}"));
    } else if is_nvidia {
        fix.push("modprobe nvidia_peermem".into());
    }
    if is_off {
        fix.extend(host.unset(&["NCCL_DMABUF_ENABLE"]));
    }
    if !kernel_has_dmabuf {
        let (major, minor) = DMABUF_KERNEL;
        fix.push(format!(
            "or use DMABUF: Linux {major}.{minor} or later, and a GPU driver that exports memory"
        ));
    }
    Outcome::Found(vec![
        Finding::problem("Adapters cannot get to the memory of the GPUs.")
            .evidence(evidence)
            .why(
                "Each byte goes through the host's memory, which costs latency and much of the \
                 bandwidth.",
            )
            .fix(fix),
    ])
}

/// Drivers have answered whatever the checks asked them.
pub(super) fn driver_answers(host: &Host) -> Outcome {
    let unanswered = host.unanswered();
    if unanswered.is_empty() {
        return Outcome::Well("whatever was asked".into());
    }
    Outcome::Found(vec![
        Finding::problem("A driver does not answer.")
            .evidence(unanswered)
            .evidence([format!("asked for {} s", PATIENCE.as_secs())])
            .why(
                "Its firmware hangs, or its adapter is being reset: a job would hang with it, and what the \
                 checks did not hear they could not judge.",
            )
            .fix([
                "dmesg | tail -n 50",
                "devlink health show",
                "if it goes on: load the driver anew, or restart the host",
            ]),
    ])
}

/// `6.8.0-45-generic`
fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `1 port is`, `2 ports are`.
pub(super) fn are(number: usize, thing: &str) -> String {
    let verb = if number == 1 { "is" } else { "are" };
    format!("{} {verb}", count(number, thing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_those_of_the_kernel() {
        let payloads = [9000, 4192, 4191, 2144, 1500, 1119, 96, 0].map(payload);
        assert_eq!(payloads, [4096, 4096, 2048, 2048, 1024, 512, 0, 0]);
    }

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(kernel("6.8.0-45-generic"), Some((6, 8)));
        assert_eq!(kernel("5.12"), Some((5, 12)));
        assert!(kernel("5.4.0").is_some_and(|kernel| kernel < DMABUF_KERNEL));
        assert_eq!(kernel("unknown"), None);
        assert_eq!(kernel(""), None);
    }
}
