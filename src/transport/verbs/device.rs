//! Which ports of RDMA devices this host has, which of them carry collectives, and by which address
//! (GID) others reach them. All of it is read from sysfs, so it needs no library and no rights, and
//! can be read again whenever the system says that something has changed.
//!
//! An Ethernet port has a table of GIDs: one for each address of its interface, in two kinds. Only
//! `RoCE v2` is routed and hashed by switches. A link-local address reaches nobody beyond the first
//! router, so it is never chosen; of the others IPv4 comes first, as in NCCL, then global IPv6, then
//! unique local ones, each with the lowest index.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

use super::counters;
use crate::config::{Family, HcaFilter};
use crate::telemetry::sources::files::{names, word};
use crate::telemetry::sources::link::rdma_speed_mbps;

/// Where Linux shows RDMA devices.
pub const SYSFS: &str = "/sys/class/infiniband";

/// A port that is slower than the fastest by more than this is there for something else, such as
/// management: traffic on it would only hold the others up.
const SLOWER_MAX: u32 = 4;

/// What runs below the queue pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// `RoCE`.
    Ethernet,
    /// Native.
    InfiniBand,
}

/// An entry of a port's table of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gid {
    /// Its place in the table: what a queue pair is told.
    pub index: u8,
    /// The address; an IPv4 address is mapped into IPv6.
    pub addr: Ipv6Addr,
    /// The network interface that it belongs to, on Ethernet.
    pub interface: Option<String>,
}

/// A port that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name of its device, such as `mlx5_0`.
    pub device: String,
    /// Its number on the device, from 1.
    pub number: u8,
    /// What is below.
    pub link_layer: LinkLayer,
    /// By which others reach it.
    pub gid: Gid,
    /// Speed in Mb/s.
    pub speed_mbps: u32,
    /// The same for all ports of an adapter.
    pub guid: u64,
    /// Real path of the device under `/sys`, where it has one.
    pub pci_path: Option<String>,
    /// Node of memory and processors that is nearest, where that is known.
    pub numa_node: Option<u32>,
    /// Why its packets take many paths through the network whatever we do, where they do.
    pub spreads: Option<&'static str>,
}

/// Why a port is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The settings say so.
    Excluded,
    /// It is not active: its state, as the system calls it.
    State(String),
    /// It has no address that others could reach.
    NoGid,
    /// What is at this place of its table, where the settings say, is no address for it.
    NotGid(u8),
    /// It is much slower than the fastest: its speed and that one's, in Mb/s.
    Slow(u32, u32),
}

/// What the drivers of a host's GPUs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuDrivers {
    /// One of them and those of adapters know each other: memory of its GPUs is registered like the
    /// host's.
    pub peer_memory: bool,
    /// They are AMD's alone.
    pub amd_only: bool,
}

/// Looks for the drivers of GPUs; `sys` is `/sys` but in tests.
#[must_use]
pub fn gpu_drivers(sys: &Path) -> GpuDrivers {
    // The folder's place depends on the kernel and on who built the driver. In it nv_mem, nv_mem_nc
    // (NVIDIA's older module), amdkfd.
    let peers = ["kernel/mm", "kernel", ""].map(|folder| sys.join(folder).join("memory_peers"));
    let is_there = |file: &Path| file.exists();
    let is_peer = |folder: &Path| {
        names(folder)
            .iter()
            .any(|client| is_there(&folder.join(client).join("version")))
    };
    GpuDrivers {
        peer_memory: is_there(&sys.join("module/nvidia_peermem/version"))
            || peers.iter().any(|folder| is_peer(folder)),
        amd_only: is_there(&sys.join("class/kfd")) && !is_there(&sys.join("module/nvidia")),
    }
}

/// What a host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Ports to use, in the order of their names.
    pub ports: Vec<Port>,
    /// The others, with the reason.
    pub left_out: Vec<(String, Reason)>,
}

/// What the user says about ports.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Which of them may be used.
    pub hca: Option<&'a HcaFilter>,
    /// Which addresses may be used.
    pub family: Family,
    /// The place of the address in each port's table; otherwise it is chosen.
    pub gid_index: Option<u8>,
}

/// Looks through a host's devices; `sysfs` is [`SYSFS`] but in tests. A device that vanishes
/// meanwhile is not there.
#[must_use]
pub fn find(sysfs: &Path, choice: &Choice<'_>) -> Found {
    let mut found = Found::default();
    for device in names(sysfs) {
        let folder = sysfs.join(&device);
        let mut numbers: Vec<u8> = names(&folder.join("ports"))
            .iter()
            .filter_map(|number| number.parse().ok())
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            match port(&folder, &device, number, choice) {
                Ok(port) => found.ports.push(port),
                Err(reason) => found.left_out.push((format!("{device}:{number}"), reason)),
            }
        }
    }
    let fastest = found.ports.iter().map(|p| p.speed_mbps).max().unwrap_or(0);
    if !choice.hca.is_some_and(HcaFilter::names) {
        let slow = |port: &Port| port.speed_mbps.saturating_mul(SLOWER_MAX) < fastest;
        for port in found.ports.extract_if(.., |port| slow(port)) {
            let reason = Reason::Slow(port.speed_mbps, fastest);
            found.left_out.push((port.name(), reason));
        }
    }
    found
}

fn port(folder: &Path, device: &str, number: u8, choice: &Choice<'_>) -> Result<Port, Reason> {
    if choice.hca.is_some_and(|hca| !hca.admits(device, number)) {
        return Err(Reason::Excluded);
    }
    let port = folder.join("ports").join(number.to_string());
    let state = word(&port.join("state")).unwrap_or_else(|| "unknown".to_owned());
    // "4: ACTIVE"
    if !state.ends_with("ACTIVE") {
        let state = state.split(": ").last().unwrap_or(&state);
        return Err(Reason::State(state.to_ascii_lowercase()));
    }
    let link_layer = match word(&port.join("link_layer")).as_deref() {
        Some("InfiniBand") => LinkLayer::InfiniBand,
        _ => LinkLayer::Ethernet,
    };
    Ok(Port {
        gid: choose(gids(&port, link_layer), link_layer, choice)
            .ok_or(choice.gid_index.map_or(Reason::NoGid, Reason::NotGid))?,
        device: device.to_owned(),
        number,
        link_layer,
        speed_mbps: word(&port.join("rate"))
            .and_then(|rate| rdma_speed_mbps(&rate))
            .unwrap_or(0),
        guid: word(&folder.join("sys_image_guid"))
            .or_else(|| word(&folder.join("node_guid")))
            .and_then(|guid| u64::from_str_radix(&guid.replace(':', ""), 16).ok())
            .unwrap_or(0),
        pci_path: fs::canonicalize(folder.join("device"))
            .ok()
            .and_then(|path| path.to_str().map(str::to_owned)),
        // -1 where there is only one node.
        numa_node: word(&folder.join("device/numa_node")).and_then(|node| node.parse().ok()),
        spreads: counters::multipath(folder),
    })
}

/// The address of a port now: as before while it is in the table, at the same place; else chosen anew.
#[must_use]
pub fn gid(sysfs: &Path, port: &Port, before: Option<&Gid>, choice: &Choice<'_>) -> Option<Gid> {
    let folder = sysfs.join(&port.device).join("ports");
    let gids = gids(&folder.join(port.number.to_string()), port.link_layer);
    match before {
        Some(before) if gids.contains(before) => Some(before.clone()),
        _ => choose(gids, port.link_layer, choice),
    }
}

/// The usable entries of a port's table. Unused ones are zero, or cannot be read.
fn gids(port: &Path, link_layer: LinkLayer) -> Vec<Gid> {
    let mut gids: Vec<Gid> = names(&port.join("gids"))
        .into_iter()
        .filter_map(|index| {
            let addr = Ipv6Addr::from_str(&word(&port.join("gids").join(&index))?).ok()?;
            let attribute = |kind: &str| word(&port.join("gid_attrs").join(kind).join(&index));
            let routed = match link_layer {
                LinkLayer::Ethernet => attribute("types")? == "RoCE v2",
                LinkLayer::InfiniBand => true,
            };
            (routed && !addr.is_unspecified()).then_some(Gid {
                index: index.parse().ok()?,
                addr,
                interface: attribute("ndevs"),
            })
        })
        .collect();
    gids.sort_by_key(|gid| gid.index);
    gids
}

fn choose(gids: Vec<Gid>, link_layer: LinkLayer, choice: &Choice<'_>) -> Option<Gid> {
    if let Some(index) = choice.gid_index {
        return gids.into_iter().find(|gid| gid.index == index);
    }
    if link_layer == LinkLayer::InfiniBand {
        // The first is that of the subnet, by which every port of it is reached.
        return gids.into_iter().next();
    }
    let rank = |gid: &Gid| {
        let Gid { addr, .. } = gid;
        match addr.to_ipv4_mapped() {
            Some(v4) if v4.is_link_local() || v4.is_loopback() => None,
            Some(_) => (choice.family != Family::V6).then_some(0),
            None if addr.is_unicast_link_local() || choice.family == Family::V4 => None,
            None if addr.is_unique_local() => Some(2),
            None => Some(1),
        }
    };
    let ranked = gids.into_iter().filter_map(|gid| Some((rank(&gid)?, gid)));
    let best = ranked.min_by_key(|(rank, gid)| (*rank, gid.index));
    best.map(|(_, gid)| gid)
}

impl Port {
    /// `mlx5_0:1`
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.device, self.number)
    }
}

/// `3 = 10.87.0.1 of eth7`
impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} = {}",
            self.index,
            IpAddr::V6(self.addr).to_canonical()
        )?;
        match &self.interface {
            Some(interface) => write!(f, " of {interface}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.link_layer {
            LinkLayer::Ethernet => "RoCE",
            LinkLayer::InfiniBand => "InfiniBand",
        };
        let speed = f64::from(self.speed_mbps) / 1e3;
        write!(f, "{} ({kind}, {speed} Gb/s, GID {}", self.name(), self.gid)?;
        if let Some(node) = self.numa_node {
            write!(f, ", NUMA node {node}")?;
        }
        if let Some(why) = self.spreads {
            write!(f, ", {why}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excluded => f.write_str("excluded by the settings"),
            Self::State(state) => write!(f, "its link is {state}"),
            Self::NoGid => f.write_str(
                "it has no RoCE v2 address that can be routed: give its interface one, and see \
                 THALWEG_FAMILY",
            ),
            Self::NotGid(index) => write!(
                f,
                "THALWEG_GID_INDEX: at {index} of its table is no RoCE v2 address"
            ),
            Self::Slow(speed, fastest) => {
                let gbps = |mbps: u32| f64::from(mbps) / 1e3;
                let (speed, fastest) = (gbps(*speed), gbps(*fastest));
                write!(f, "{speed} Gb/s beside {fastest}: name it to use it")
            }
        }
    }
}

/// One line: what was chosen, and what was not and why.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ports.is_empty() && self.left_out.is_empty() {
            f.write_str("there is no RDMA device (see `rdma link`)")?;
        } else if self.ports.is_empty() {
            f.write_str("no RDMA port can be used")?;
        } else {
            f.write_str("RDMA ports: ")?;
        }
        for (at, port) in self.ports.iter().enumerate() {
            write!(f, "{}{port}", if at > 0 { ", " } else { "" })?;
        }
        for (at, (name, reason)) in self.left_out.iter().enumerate() {
            let before = if at > 0 { ", " } else { "; not " };
            write!(f, "{before}{name} ({reason})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sources::tree::Tree;

    impl Tree {
        fn gid(&self, port: &str, index: u8, addr: &str, kind: &str) {
            self.file(&format!("{port}/gids/{index}"), &format!("{addr}\n"));
            self.file(
                &format!("{port}/gid_attrs/types/{index}"),
                &format!("{kind}\n"),
            );
            self.file(&format!("{port}/gid_attrs/ndevs/{index}"), "eth7\n");
        }

        /// A port as an adapter shows it: link-local and IPv4, each in both kinds.
        fn port(&self, device: &str, number: u8, rate: &str, v4: &str) -> String {
            self.file(&format!("{device}/sys_image_guid"), "0438:35ff:febd:16eb\n");
            self.file(&format!("{device}/device/numa_node"), "1\n");
            let port = format!("{device}/ports/{number}");
            self.file(&format!("{port}/state"), "4: ACTIVE\n");
            self.file(&format!("{port}/link_layer"), "Ethernet\n");
            self.file(&format!("{port}/rate"), &format!("{rate}\n"));
            let local = "fe80:0000:0000:0000:0438:35ff:febd:16eb";
            self.gid(&port, 0, local, "IB/RoCE v1");
            self.gid(&port, 1, local, "RoCE v2");
            self.gid(&port, 2, v4, "IB/RoCE v1");
            self.gid(&port, 3, v4, "RoCE v2");
            self.gid(&port, 4, "0000:0000:0000:0000:0000:0000:0000:0000", "");
            port
        }

        fn find(&self, hca: &str, family: Family, gid_index: Option<u8>) -> Found {
            let hca = HcaFilter::parse(hca);
            let choice = Choice {
                hca: hca.as_ref(),
                family,
                gid_index,
            };
            find(self.path(), &choice)
        }
    }

    const V4: &str = "0000:0000:0000:0000:0000:ffff:0a57:0001";

    #[test]
    fn a_port_is_described() {
        let tree = Tree::new("port");
        tree.port("mlx5_0", 1, "400 Gb/sec (4X NDR)", V4);
        let found = tree.find("", Family::Any, None);
        let [port] = &found.ports[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            (port.gid.index, port.speed_mbps, port.numa_node, port.guid),
            (3, 400_000, Some(1), 0x0438_35ff_febd_16eb)
        );
        assert_eq!(
            found.to_string(),
            "RDMA ports: mlx5_0:1 (RoCE, 400 Gb/s, GID 3 = 10.87.0.1 of eth7, NUMA node 1)"
        );
    }

    #[test]
    fn an_adapter_that_spreads_packets_says_so() {
        let tree = Tree::new("spreads");
        tree.port("mlx5_0", 1, "400 Gb/sec (4X NDR)", V4);
        tree.port("rdmap0s6", 1, "400 Gb/sec (4X NDR)", V4);
        tree.link("rdmap0s6/device/driver", "../../../bus/pci/drivers/efa");
        let found = tree.find("", Family::Any, None);
        let spread: Vec<_> = found.ports.iter().map(|p| p.spreads.is_some()).collect();
        assert_eq!(spread, [false, true]);
        assert!(found.to_string().contains("SRD spreads packets"), "{found}");
    }

    #[test]
    fn the_address_is_one_that_others_reach() {
        let tree = Tree::new("gid");
        let port = tree.port("mlx5_0", 1, "100 Gb/sec (4X EDR)", V4);
        tree.gid(
            &port,
            5,
            "fd00:0000:0000:0000:0000:0000:0000:0001",
            "RoCE v2",
        );
        tree.gid(
            &port,
            6,
            "2001:0db8:0000:0000:0000:0000:0000:0001",
            "RoCE v2",
        );
        tree.gid(&port, 10, V4, "RoCE v2");
        let index = |family, wanted| {
            let found = tree.find("", family, wanted);
            found.ports.first().map(|port| port.gid.index)
        };
        assert_eq!(index(Family::Any, None), Some(3));
        assert_eq!(index(Family::V6, None), Some(6));
        assert_eq!(index(Family::Any, Some(10)), Some(10));
        // Not RoCE v2, not there.
        assert_eq!(index(Family::Any, Some(2)), None);
        assert_eq!(index(Family::Any, Some(40)), None);
        assert_eq!(
            tree.find("", Family::Any, Some(2)).to_string(),
            "no RDMA port can be used; not mlx5_0:1 (THALWEG_GID_INDEX: at 2 of its table is no \
             RoCE v2 address)"
        );
    }

    #[test]
    fn an_address_is_kept_while_it_is_there_and_chosen_anew_when_it_is_not() {
        let tree = Tree::new("anew");
        let folder = tree.port("mlx5_0", 1, "100 Gb/sec (4X EDR)", V4);
        let found = tree.find("", Family::Any, None);
        let port = &found.ports[0];
        let choice = Choice {
            hca: None,
            family: Family::Any,
            gid_index: None,
        };
        let now = |before: Option<&Gid>| gid(tree.path(), port, before, &choice);
        let index = |before: Option<&Gid>| now(before).map(|gid| gid.index);
        let first = port.gid.clone();
        let other = "0000:0000:0000:0000:0000:ffff:0a57:0009";
        tree.gid(&folder, 2, other, "RoCE v2");
        assert_eq!(index(None), Some(2), "the first that fits");
        assert_eq!(
            now(Some(&first)),
            Some(first.clone()),
            "which is no reason to move"
        );
        // Another address in its place is not the same.
        tree.gid(&folder, 3, other, "RoCE v2");
        assert_eq!(index(Some(&first)), Some(2));
        let none = "0000:0000:0000:0000:0000:0000:0000:0000";
        tree.gid(&folder, 2, none, "");
        tree.gid(&folder, 3, none, "");
        assert_eq!(now(Some(&first)), None);
        // It comes back elsewhere.
        tree.gid(&folder, 9, V4, "RoCE v2");
        assert_eq!(index(None), Some(9));
    }

    #[test]
    fn only_link_local_is_not_enough() {
        let tree = Tree::new("local");
        tree.port(
            "rxe0",
            1,
            "2.5 Gb/sec (1X SDR)",
            "0000:0000:0000:0000:0000:ffff:a9fe:0102",
        );
        let found = tree.find("", Family::Any, None);
        assert_eq!(
            found.to_string(),
            "no RDMA port can be used; not rxe0:1 (it has no RoCE v2 address that can be routed: \
             give its interface one, and see THALWEG_FAMILY)"
        );
    }

    #[test]
    fn management_ports_and_those_that_are_down_are_left_out() {
        let tree = Tree::new("slow");
        tree.port("mlx5_0", 1, "400 Gb/sec (4X NDR)", V4);
        tree.port("mlx5_1", 1, "100 Gb/sec (4X EDR)", V4);
        tree.port("mlx5_2", 1, "25 Gb/sec (1X EDR)", V4);
        let down = tree.port("mlx5_3", 2, "400 Gb/sec (4X NDR)", V4);
        tree.file(&format!("{down}/state"), "1: DOWN\n");
        let found = tree.find("", Family::Any, None);
        let names: Vec<_> = found.ports.iter().map(Port::name).collect();
        assert_eq!(names, ["mlx5_0:1", "mlx5_1:1"]);
        let left: Vec<_> = found
            .left_out
            .iter()
            .map(|(name, reason)| format!("{name}: {reason}"))
            .collect();
        assert_eq!(
            left,
            [
                "mlx5_3:2: its link is down",
                "mlx5_2:1: 25 Gb/s beside 400: name it to use it"
            ]
        );
        // Whoever names it gets it.
        let asked = tree.find("mlx5_0,mlx5_2:1", Family::Any, None);
        let names: Vec<_> = asked.ports.iter().map(Port::name).collect();
        assert_eq!(names, ["mlx5_0:1", "mlx5_2:1"]);
        assert!(tree.find("^mlx5", Family::Any, None).ports.is_empty());
    }

    #[test]
    fn a_host_without_devices_has_none() {
        let choice = Choice {
            hca: None,
            family: Family::Any,
            gid_index: None,
        };
        let found = find(Path::new("/nonexistent"), &choice);
        assert_eq!(found, Found::default());
        assert_eq!(
            found.to_string(),
            "there is no RDMA device (see `rdma link`)"
        );
    }

    #[test]
    fn drivers_of_gpus_are_found_wherever_they_are() {
        for file in [
            "module/nvidia_peermem/version",
            "kernel/mm/memory_peers/nv_mem/version",
            "kernel/mm/memory_peers/amdkfd/version",
            "kernel/memory_peers/amdkfd/version",
            "memory_peers/amdkfd/version",
        ] {
            let tree = Tree::new("peers");
            assert_eq!(gpu_drivers(tree.path()), GpuDrivers::default());
            // The folder of a client that has left.
            tree.file("kernel/mm/memory_peers/version", "1\n");
            assert_eq!(gpu_drivers(tree.path()), GpuDrivers::default());
            tree.file(file, "1\n");
            assert!(gpu_drivers(tree.path()).peer_memory, "{file}");
        }
        let tree = Tree::new("amd");
        tree.file("class/kfd/dev", "1\n");
        assert!(gpu_drivers(tree.path()).amd_only);
        tree.file("module/nvidia/version", "1\n");
        assert!(!gpu_drivers(tree.path()).amd_only);
    }
}
