//! Which network interfaces can be used, and what NCCL wants to know of them.

#![allow(unsafe_code, reason = "getifaddrs is a C list")]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::DeviceInfo;
use crate::config::{Config, Family};
use crate::transport::verbs::GpuAccess;
use crate::transport::verbs::device::Port;

/// A usable interface.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Its addresses, IPv4 first.
    pub addrs: Vec<IpAddr>,
    /// Loopback.
    pub loopback: bool,
}

/// Speed of an interface that does not tell, e.g. a virtual one: what NCCL's Socket assumes.
const SPEED_UNKNOWN_MBPS: u32 = 10_000;

/// Interfaces that are up and admitted by the settings. Without a setting: all but loopback and
/// container bridges, and loopback where there is nothing else, as NCCL does.
#[must_use]
pub fn interfaces(config: &Config) -> Vec<Interface> {
    let all: Vec<Interface> = all_interfaces()
        .into_iter()
        .map(|mut interface| {
            interface.addrs.retain(|addr| match config.family {
                Family::Any => true,
                Family::V4 => addr.is_ipv4(),
                Family::V6 => addr.is_ipv6(),
            });
            interface
        })
        .filter(|interface| !interface.addrs.is_empty())
        .collect();
    if let Some(filter) = &config.ifname {
        return all.into_iter().filter(|i| filter.admits(&i.name)).collect();
    }
    let usual = |i: &&Interface| !i.loopback && !i.name.starts_with("docker");
    let chosen: Vec<Interface> = all.iter().filter(usual).cloned().collect();
    if chosen.is_empty() { all } else { chosen }
}

fn all_interfaces() -> Vec<Interface> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` receives a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: the list's entries are valid until it is freed.
        let ifa = unsafe { &*entry };
        entry = ifa.ifa_next;
        let flags = i32::try_from(ifa.ifa_flags).unwrap_or(0);
        if flags & libc::IFF_UP == 0 || ifa.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: `ifa_name` is a C string, `ifa_addr` a socket address whose family says which.
        let (name, addr) = unsafe {
            let name = CStr::from_ptr(ifa.ifa_name).to_string_lossy().into_owned();
            let addr = match i32::from((*ifa.ifa_addr).sa_family) {
                libc::AF_INET => {
                    let v4 = std::ptr::read_unaligned(ifa.ifa_addr.cast::<libc::sockaddr_in>());
                    IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)))
                }
                libc::AF_INET6 => {
                    let v6 = std::ptr::read_unaligned(ifa.ifa_addr.cast::<libc::sockaddr_in6>());
                    IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr))
                }
                _ => continue,
            };
            (name, addr)
        };
        // A link-local address means nothing without its interface's number at the other end.
        if matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            continue;
        }
        let interface = found.entry(name.clone()).or_insert_with(|| Interface {
            name,
            addrs: Vec::new(),
            loopback: flags & libc::IFF_LOOPBACK != 0,
        });
        interface.addrs.push(addr);
        interface.addrs.sort_by_key(IpAddr::is_ipv6);
    }
    // SAFETY: `list` came from getifaddrs.
    unsafe { libc::freeifaddrs(list) };
    found.into_values().collect()
}

/// The device that NCCL sees: all usable interfaces as one. Links spread over them by
/// themselves, so showing them one by one would only make NCCL stripe a second time.
#[must_use]
pub fn describe(interfaces: &[Interface]) -> Option<DeviceInfo> {
    let first = interfaces.first()?;
    let names: Vec<&str> = interfaces.iter().map(|i| i.name.as_str()).collect();
    let name = names.join("+");
    let guid = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Some(DeviceInfo {
        pci_path: pci_path(&first.name),
        guid,
        speed_mbps: interfaces
            .iter()
            .map(|i| speed_mbps(&i.name))
            .fold(0, u32::saturating_add),
        port: 1,
        gpu: GpuAccess::default(),
        name,
        members: vec![0],
    })
}

/// The devices that NCCL sees where there is RDMA: each port for itself, since it matters which is near
/// a GPU. A device's only port goes by the device's name, as NCCL calls it: `NCCL_NET_FORCE_MERGE` names
/// ports so, and takes what is behind a colon for something else.
#[must_use]
pub fn describe_ports(ports: &[Port], gpu: impl Fn(usize) -> GpuAccess) -> Vec<DeviceInfo> {
    let of_device = |port: &Port| ports.iter().filter(|p| p.device == port.device).count();
    let device = |(index, port): (usize, &Port)| DeviceInfo {
        name: match of_device(port) {
            1 => port.device.clone(),
            _ => port.name(),
        },
        pci_path: port.pci_path.clone(),
        guid: port.guid,
        speed_mbps: port.speed_mbps,
        port: port.number.into(),
        members: vec![index],
        gpu: gpu(index),
    };
    ports.iter().enumerate().map(device).collect()
}

/// Several devices as one. Where it is, and which adapter, is told by the first: NCCL looks for the
/// place of the others by itself.
#[must_use]
pub fn join(devices: &[DeviceInfo], members: &[usize]) -> Option<DeviceInfo> {
    let all: Vec<&DeviceInfo> = members
        .iter()
        .map(|&member| devices.get(member))
        .collect::<Option<_>>()?;
    let names: Vec<&str> = all.iter().map(|device| device.name.as_str()).collect();
    Some(DeviceInfo {
        name: names.join("+"),
        speed_mbps: all
            .iter()
            .map(|device| device.speed_mbps)
            .fold(0, u32::saturating_add),
        members: members.to_vec(),
        gpu: GpuAccess {
            peer_memory: all.iter().all(|device| device.gpu.peer_memory),
            dmabuf: all.iter().all(|device| device.gpu.dmabuf),
        },
        ..(*all.first()?).clone()
    })
}

fn speed_mbps(name: &str) -> u32 {
    fs::read_to_string(Path::new("/sys/class/net").join(name).join("speed"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|&speed: &u32| speed > 0)
        .unwrap_or(SPEED_UNKNOWN_MBPS)
}

fn pci_path(name: &str) -> Option<String> {
    let device = fs::canonicalize(Path::new("/sys/class/net").join(name).join("device")).ok()?;
    device.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::transport::verbs::device::{Gid, LinkLayer};

    fn port(device: &str, number: u8, speed_mbps: u32) -> Port {
        Port {
            device: device.to_owned(),
            number,
            link_layer: LinkLayer::Ethernet,
            gid: Gid {
                index: 3,
                addr: Ipv6Addr::LOCALHOST,
                interface: None,
            },
            speed_mbps,
            guid: u64::from(number),
            pci_path: Some(format!("/sys/devices/{device}")),
            numa_node: None,
            spreads: None,
        }
    }

    #[test]
    fn ports_go_by_names_that_nccl_can_tell_apart() {
        let ports = [
            port("mlx5_0", 1, 100_000),
            port("mlx5_1", 1, 100_000),
            port("mlx5_1", 2, 100_000),
        ];
        let devices = describe_ports(&ports, |_| GpuAccess::default());
        let names: Vec<_> = devices.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["mlx5_0", "mlx5_1:1", "mlx5_1:2"]);
        let members: Vec<_> = devices.iter().map(|d| d.members.clone()).collect();
        assert_eq!(members, [[0], [1], [2]]);
    }

    #[test]
    fn several_devices_are_one_with_the_speed_of_all() {
        let ports = [
            port("mlx5_0", 1, 400_000),
            port("mlx5_1", 1, 400_000),
            port("mlx5_2", 1, 200_000),
        ];
        let devices = describe_ports(&ports, |_| GpuAccess::default());
        let joined = join(&devices, &[2, 0]).unwrap();
        assert_eq!(joined.name, "mlx5_2+mlx5_0");
        assert_eq!(joined.speed_mbps, 600_000);
        assert_eq!(joined.members, [2, 0]);
        assert_eq!(joined.pci_path.as_deref(), Some("/sys/devices/mlx5_2"));
        assert!(join(&devices, &[0, 3]).is_none());
        assert!(join(&devices, &[]).is_none());
    }
}
