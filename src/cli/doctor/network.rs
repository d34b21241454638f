//! Checks of the kernel's own networking, over which links go without RDMA and all connections are
//! made: routes, filters, ports and buffers.

use std::collections::BTreeMap;

use super::host::{Host, Subnet};
use super::{Finding, Outcome, count, gbps};
use crate::config::TransportKind;

/// Each link has up to 8 sockets, each with a port of its own, and NCCL opens more.
const PORTS_LEAST: u32 = 10_000;
/// The queue that links over TCP aim at (`docs/architecture.md`): what is under way beside it is less.
const QUEUE_MICROS: u64 = 2000;
/// Links over TCP have so many paths at most, which share what is under way.
const PATHS: u64 = 8;
/// The source port in `fib_multipath_hash_fields` (Linux's `net/ip_fib.h`): the one that a link's paths differ by.
const HASH_SOURCE_PORT: u32 = 0x10;

/// Traffic with several routes takes all of them.
pub(super) fn ecmp_hash(host: &Host) -> Outcome {
    let Some(policy) = host.word("proc/sys/net/ipv4/fib_multipath_hash_policy") else {
        return Outcome::not_checked("the kernel routes by one way only");
    };
    let routes = match host.multipath_routes() {
        Ok(routes) => routes,
        Err(error) => {
            return Outcome::not_checked(format!("the kernel does not tell its routes: {error}"));
        }
    };
    if routes == 0 {
        return Outcome::not_checked("no route has several ways");
    }
    let setting = format!("net.ipv4.fib_multipath_hash_policy = {policy}");
    let fields = host.number::<u32>("proc/sys/net/ipv4/fib_multipath_hash_fields");
    let evidence = match (policy.as_str(), fields) {
        ("0", _) => format!("{setting}: by addresses alone"),
        ("2", _) => format!("{setting}: by addresses alone, in tunnels the inner ones"),
        ("3", None) => {
            return Outcome::not_checked("net.ipv4.fib_multipath_hash_fields cannot be read");
        }
        ("3", Some(fields)) if fields & HASH_SOURCE_PORT == 0 => {
            format!("{setting}, fib_multipath_hash_fields = {fields:#06x}: not by the source port")
        }
        ("1" | "3", _) => {
            return Outcome::Well(format!("policy {policy} for {}", count(routes, "route")));
        }
        _ => return Outcome::not_checked(format!("policy {policy} is not known")),
    };
    Outcome::Found(vec![
        Finding::problem("All connections to a host leave by the same way.")
            .evidence([
                format!("{} with several next hops", count(routes, "route")),
                evidence,
            ])
            .why(
                "A link's paths differ by their ports, so over TCP none of them would use \
                 another uplink than the first.",
            )
            .fix(["sysctl -w net.ipv4.fib_multipath_hash_policy=1"]),
    ])
}

/// Subnets that several interfaces are in.
fn shared_subnets(host: &Host) -> BTreeMap<(std::net::Ipv4Addr, u32), Vec<String>> {
    let mut subnets: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for Subnet {
        address,
        prefix,
        interface,
    } in host.subnets()
    {
        subnets
            .entry((address, prefix))
            .or_default()
            .push(interface);
    }
    subnets.retain(|_, interfaces| interfaces.len() > 1);
    subnets
}

const ONE_EACH: &str = "no subnet has several interfaces";

/// The larger of what is set for all interfaces and for this one, as the kernel takes it.
fn sysctl(host: &Host, interface: &str, name: &str) -> Option<u32> {
    let of = |interface: &str| host.number(format!("proc/sys/net/ipv4/conf/{interface}/{name}"));
    of("all").max(of(interface))
}

/// The command for a setting of an interface. A dot in its name is a slash there, as in `eth0/100`.
fn set(interface: &str, setting: &str) -> String {
    let interface = interface.replace('.', "/");
    format!("sysctl -w net.ipv4.conf.{interface}.{setting}")
}

/// Packets that come in by one of several interfaces in a subnet are not thrown away.
pub(super) fn reverse_path(host: &Host) -> Outcome {
    let shared = shared_subnets(host);
    if shared.is_empty() {
        return Outcome::not_checked(ONE_EACH);
    }
    let mut lines = Vec::new();
    let mut fix = Vec::new();
    for ((address, prefix), interfaces) in &shared {
        for interface in interfaces {
            if sysctl(host, interface, "rp_filter") == Some(1) {
                lines.push(format!(
                    "{interface}: rp_filter 1, in {address}/{prefix} with {}",
                    others(interfaces, interface)
                ));
                fix.push(set(interface, "rp_filter=2"));
            }
        }
    }
    if lines.is_empty() {
        return Outcome::Well(format!(
            "not strict in {}",
            count(shared.len(), "shared subnet")
        ));
    }
    Outcome::Found(vec![
        Finding::problem("Interfaces in one subnet drop packets that come by the other one.")
            .evidence(lines)
            .why(
                "The strict filter takes a packet only from the interface by which it would \
                 answer, which is one of them: the others seem dead to their peers.",
            )
            .fix(fix),
    ])
}

/// Interfaces in one subnet answer for their own addresses only.
pub(super) fn arp(host: &Host) -> Outcome {
    let shared = shared_subnets(host);
    if shared.is_empty() {
        return Outcome::not_checked(ONE_EACH);
    }
    let mut lines = Vec::new();
    let mut fix = Vec::new();
    for ((address, prefix), interfaces) in &shared {
        for interface in interfaces {
            let value = |name| sysctl(host, interface, name);
            let (Some(ignore), Some(announce)) = (value("arp_ignore"), value("arp_announce"))
            else {
                continue;
            };
            if ignore == 0 || announce < 2 {
                lines.push(format!(
                    "{interface}: arp_ignore {ignore}, arp_announce {announce}, in \
                         {address}/{prefix} with {}",
                    others(interfaces, interface)
                ));
                fix.extend((ignore == 0).then(|| set(interface, "arp_ignore=1")));
                fix.extend((announce < 2).then(|| set(interface, "arp_announce=2")));
            }
        }
    }
    if lines.is_empty() {
        return Outcome::Well(format!(
            "set apart in {}",
            count(shared.len(), "shared subnet")
        ));
    }
    Outcome::Found(vec![
        Finding::warning("Interfaces in one subnet answer for each other's addresses.")
            .evidence(lines)
            .why(
                "Traffic meant for one port arrives at another: one is overloaded, and RoCE \
                 packets find no queue pair there.",
            )
            .fix(fix),
    ])
}

fn others(interfaces: &[String], but: &str) -> String {
    let others = interfaces.iter().filter(|interface| *interface != but);
    others.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// There are enough ports for connections.
pub(super) fn port_range(host: &Host) -> Outcome {
    let range = host.word("proc/sys/net/ipv4/ip_local_port_range");
    let ports = range.as_deref().and_then(|range| {
        let mut numbers = range.split_whitespace().map(str::parse::<u32>);
        let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some((first, last, last.checked_sub(first)?.checked_add(1)?))
    });
    let Some((first, last, ports)) = ports else {
        return Outcome::not_checked("net.ipv4.ip_local_port_range cannot be read");
    };
    if ports >= PORTS_LEAST {
        return Outcome::Well(format!("{first} to {last}"));
    }
    Outcome::Found(vec![
        Finding::warning(format!(
            "There are only {ports} ports for outgoing connections."
        ))
        .evidence([format!("net.ipv4.ip_local_port_range = {first} {last}")])
        .why(
            "Each path over TCP takes one, and NCCL more; when they run out, connections \
                 fail. Few ports are also few ways through the network.",
        )
        .fix(["sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\""]),
    ])
}

/// TCP may keep as much under way as a link needs.
pub(super) fn tcp_buffers(host: &Host) -> Outcome {
    let config = &host.config;
    let has_rdma = host
        .ports
        .iter()
        .any(|port| port.is_admitted && port.is_active());
    if has_rdma && config.transport != TransportKind::Tcp {
        return Outcome::not_checked("links go over RDMA");
    }
    let fastest = host.speeds().into_iter().max_by_key(|(_, speed)| *speed);
    let Some((interface, mbps)) = fastest else {
        return Outcome::not_checked("no interface says how fast it is");
    };
    // A receiver offers half of its buffer.
    let needed = mbps.saturating_mul(QUEUE_MICROS) / 8 / PATHS * 2;
    // The least, the first and the most.
    let sizes = |name: &str| {
        let text = host.word(format!("proc/sys/net/ipv4/{name}"))?;
        let sizes: Vec<u64> = text.split_whitespace().flat_map(str::parse).collect();
        <[u64; 3]>::try_from(sizes).ok()
    };
    let small: Vec<(&str, [u64; 3])> = ["tcp_rmem", "tcp_wmem"]
        .into_iter()
        .filter_map(|name| Some((name, sizes(name)?)))
        .filter(|(_, [.., most])| *most < needed)
        .collect();
    if small.is_empty() {
        return Outcome::Well(format!("enough for {interface} at {}", gbps(mbps)));
    }
    let bytes = needed.next_power_of_two();
    Outcome::Found(vec![
        Finding::warning(format!("TCP's buffers are small for {}.", gbps(mbps)))
            .evidence(
                small
                    .iter()
                    .map(|(name, [.., most])| format!("net.ipv4.{name}: at most {most} bytes")),
            )
            .evidence([format!(
                "{interface} needs about {needed} for each of {PATHS} paths"
            )])
            .why("What may be under way at once is limited by these buffers, and with it the rate.")
            .fix(small.iter().map(|(name, [least, first, _])| {
                format!("sysctl -w net.ipv4.{name}=\"{least} {first} {bytes}\"")
            })),
    ])
}
