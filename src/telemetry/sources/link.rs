//! Which ports a host has, and what the kernel says of each without asking its driver's firmware for
//! statistics: state, speed, and what the network interface sent and received. From sysfs, so without rights.

use std::path::Path;

use super::PortNow;
use super::files::{names, number, word};
use super::rdma;
use crate::telemetry::schema::{PortCounter, PortGauge};

/// A port, by what it is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// `mlx5_0:1`, or the interface where there is no RDMA device.
    pub name: String,
    /// The network interface.
    pub interface: Option<String>,
    /// The RDMA device, and the number of the port there.
    pub device: Option<(String, u8)>,
    /// The driver.
    pub driver: Option<String>,
}

/// Looks for the ports of a host, in the order of their names: those of RDMA devices, then network interfaces
/// that belong to none. `sys` is `/sys` but in tests.
#[must_use]
pub fn find(sys: &Path) -> Vec<Port> {
    let (rdma, net) = (sys.join("class/infiniband"), sys.join("class/net"));
    let interfaces = names(&net);
    let mut ports = Vec::new();
    for device in names(&rdma) {
        let folder = rdma.join(&device);
        let numbers = names(&folder.join("ports"));
        for number in numbers.iter().filter_map(|number| number.parse().ok()) {
            ports.push(Port {
                name: format!("{device}:{number}"),
                interface: interface(&folder, number).filter(|name| interfaces.contains(name)),
                driver: rdma::driver(&folder),
                device: Some((device.clone(), number)),
            });
        }
    }
    for interface in interfaces {
        let is_its = |port: &Port| port.interface.as_ref() == Some(&interface);
        // What is left of a bond is a file, "bonding_masters".
        if !ports.iter().any(is_its) && net.join(&interface).is_dir() {
            ports.push(Port {
                name: interface.clone(),
                driver: rdma::driver(&net.join(&interface)),
                interface: Some(interface),
                device: None,
            });
        }
    }
    ports
}

/// The network interface of an RDMA port: its own, rather than a bond above it.
fn interface(folder: &Path, number: u8) -> Option<String> {
    let attached = folder.join(format!("ports/{number}/gid_attrs/ndevs"));
    let attached = names(&attached)
        .iter()
        .find_map(|gid| word(&attached.join(gid)));
    let net = folder.join("device/net");
    let own = names(&net);
    if attached.as_ref().is_some_and(|name| own.contains(name)) {
        return attached;
    }
    let is_at = |name: &&String| number_of(&net, name) == Some(number);
    own.iter().find(is_at).cloned().or(attached)
}

/// Which port of its device an interface is at, counted from 1.
fn number_of(net: &Path, interface: &str) -> Option<u8> {
    let port = number(&net.join(interface).join("dev_port"))?;
    u8::try_from(port).ok()?.checked_add(1)
}

/// `400 Gb/sec (4X NDR)`, the speed of an RDMA port, in Mb/s.
#[must_use]
pub fn rdma_speed_mbps(rate: &str) -> Option<u32> {
    let (whole, tenths) = match rate.split(' ').next()?.split_once('.') {
        Some((whole, tenths)) => (whole, tenths.get(..1)?.parse::<u32>().ok()?),
        None => (rate.split(' ').next()?, 0),
    };
    let whole: u32 = whole.parse().ok()?;
    whole.checked_mul(1000)?.checked_add(tenths * 100)
}

const BYTES_PER_SECOND_OF_MBPS: u64 = 125_000;

/// `4: ACTIVE`
fn state(text: &str) -> Option<u64> {
    text.split_once(':')?.0.trim().parse().ok()
}

/// What the files of an interface's folder say.
const STATISTICS: &[(PortCounter, &str)] = &[
    (PortCounter::SentBytes, "statistics/tx_bytes"),
    (PortCounter::ReceivedBytes, "statistics/rx_bytes"),
    (PortCounter::SentPackets, "statistics/tx_packets"),
    (PortCounter::ReceivedPackets, "statistics/rx_packets"),
    (PortCounter::SendErrors, "statistics/tx_errors"),
    (PortCounter::ReceiveErrors, "statistics/rx_errors"),
    (PortCounter::SendDrops, "statistics/tx_dropped"),
    (PortCounter::ReceiveDrops, "statistics/rx_dropped"),
    (PortCounter::ReceiveMisses, "statistics/rx_missed_errors"),
    (PortCounter::CarrierDowns, "carrier_down_count"),
];

/// Reads what there is of an interface. False if it is gone.
pub(super) fn read_interface(sys: &Path, interface: &str, port: &mut PortNow) -> bool {
    let folder = sys.join("class/net").join(interface);
    let told = |name: &str| number(&folder.join(name));
    for &(counter, name) in STATISTICS {
        port.counters[counter] = told(name);
    }
    // Neither can be read while the interface is switched off; -1 is an unknown speed.
    let mbps = told("speed").filter(|&mbps| mbps > 0 && mbps < u64::from(u32::MAX));
    for (gauge, value) in [
        (PortGauge::LinkUp, told("carrier")),
        (
            PortGauge::Speed,
            mbps.map(|mbps| mbps * BYTES_PER_SECOND_OF_MBPS),
        ),
        (PortGauge::Mtu, told("mtu")),
        (
            PortGauge::Temperature,
            temperature(&folder.join("device/hwmon")),
        ),
    ] {
        port.gauges[gauge] = value;
    }
    folder.is_dir()
}

/// The hottest of a device's own sensors, in thousandths of a degree; none if all are below zero.
fn temperature(hwmon: &Path) -> Option<u64> {
    let mut hottest = None;
    for sensors in names(hwmon) {
        let folder = hwmon.join(sensors);
        for name in names(&folder) {
            // temp1_input (Linux, Documentation/hwmon/sysfs-interface.rst)
            if name.starts_with("temp") && name.ends_with("_input") {
                hottest = hottest.max(number(&folder.join(name)));
            }
        }
    }
    hottest
}

/// Reads the state of an RDMA port.
pub(super) fn read_rdma_state(sys: &Path, device: &str, number: u8, port: &mut PortNow) {
    let folder = sys.join(format!("class/infiniband/{device}/ports/{number}"));
    let told = |name: &str| word(&folder.join(name));
    let mbps = told("rate").and_then(|rate| rdma_speed_mbps(&rate));
    port.gauges[PortGauge::RdmaState] = told("state").and_then(|text| state(&text));
    port.gauges[PortGauge::RdmaSpeed] = mbps.map(|mbps| u64::from(mbps) * BYTES_PER_SECOND_OF_MBPS);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Source;
    use super::super::tree::Tree;
    use super::*;

    fn port(name: &str, interface: Option<&str>, device: Option<(&str, u8)>, driver: &str) -> Port {
        Port {
            name: name.into(),
            interface: interface.map(Into::into),
            device: device.map(|(device, number)| (device.into(), number)),
            driver: (!driver.is_empty()).then(|| driver.into()),
        }
    }

    #[test]
    fn rdma_ports_have_their_own_interfaces() {
        let tree = Tree::new("link-find");
        for (interface, device) in [("eth0", "0"), ("eth1", "1"), ("eth2", "2"), ("bond0", "")] {
            tree.file(&format!("class/net/{interface}/mtu"), "1500\n");
            if !device.is_empty() {
                let folder = format!("class/infiniband/mlx5_{device}");
                tree.file(&format!("{folder}/device/net/{interface}/dev_port"), "0\n");
                tree.link(&format!("{folder}/device/driver"), "/drivers/mlx5_core");
                tree.file(&format!("{folder}/ports/1/state"), "4: ACTIVE\n");
            }
        }
        // A representor beside the interface, and a bond above another.
        tree.file("class/infiniband/mlx5_0/device/net/aaa/dev_port", "0\n");
        tree.file(
            "class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs/0",
            "eth0\n",
        );
        tree.file(
            "class/infiniband/mlx5_1/ports/1/gid_attrs/ndevs/0",
            "bond0\n",
        );
        // Without a PCI device.
        tree.file("class/net/ra0/mtu", "1500\n");
        tree.file("class/infiniband/rxea0/ports/1/gid_attrs/ndevs/0", "\n");
        tree.file("class/infiniband/rxea0/ports/1/gid_attrs/ndevs/1", "ra0\n");
        // In another container, and no number.
        tree.file("class/infiniband/rxea1/ports/1/gid_attrs/ndevs/1", "far0\n");
        tree.file("class/infiniband/rxea1/ports/x/state", "");
        tree.file("class/net/bonding_masters", "bond0\n");
        tree.link("class/net/lo/device/driver", "/drivers/none");
        assert_eq!(
            find(tree.path()),
            [
                port("mlx5_0:1", Some("eth0"), Some(("mlx5_0", 1)), "mlx5_core"),
                port("mlx5_1:1", Some("eth1"), Some(("mlx5_1", 1)), "mlx5_core"),
                port("mlx5_2:1", Some("eth2"), Some(("mlx5_2", 1)), "mlx5_core"),
                port("rxea0:1", Some("ra0"), Some(("rxea0", 1)), ""),
                port("rxea1:1", None, Some(("rxea1", 1)), ""),
                port("bond0", Some("bond0"), None, ""),
                port("lo", Some("lo"), None, "none"),
            ]
        );
        assert_eq!(find(Path::new("/nonexistent")), []);
    }

    #[test]
    fn every_figure_of_the_interface_has_a_file() {
        let figures: Vec<_> = STATISTICS.iter().map(|(is, _)| *is).collect();
        let all = PortCounter::ALL.iter().copied();
        let interface: Vec<_> = all.filter(|c| c.source() == Source::Interface).collect();
        assert_eq!(figures, interface);
    }

    #[test]
    fn an_interface_is_described() {
        let tree = Tree::new("link-interface");
        let file = |name: &str, text: &str| tree.file(&format!("class/net/eth0/{name}"), text);
        file("speed", "100000\n");
        file("carrier", "1\n");
        file("mtu", "9000\n");
        file("statistics/tx_bytes", "77\n");
        file("statistics/rx_missed_errors", "what\n");
        file("carrier_down_count", "3\n");
        file("device/hwmon/hwmon3/temp1_input", "61000\n");
        file("device/hwmon/hwmon3/temp2_input", "-5000\n");
        file("device/hwmon/hwmon3/temp1_crit", "105000\n");
        file("device/hwmon/hwmon4/temp1_input", "N/A\n");
        let mut port = PortNow::default();
        assert!(read_interface(tree.path(), "eth0", &mut port));
        let gauge = |gauge: PortGauge| port.gauges[gauge];
        assert_eq!(gauge(PortGauge::Speed), Some(12_500_000_000));
        assert_eq!(gauge(PortGauge::LinkUp), Some(1));
        assert_eq!(gauge(PortGauge::Mtu), Some(9000));
        assert_eq!(gauge(PortGauge::Temperature), Some(61_000));
        file("device/hwmon/hwmon3/temp1_input", "-40000\n");
        let hwmon = tree.path().join("class/net/eth0/device/hwmon");
        assert_eq!(temperature(&hwmon), None);
        let counter = |counter: PortCounter| port.counters[counter];
        assert_eq!(counter(PortCounter::SentBytes), Some(77));
        assert_eq!(counter(PortCounter::CarrierDowns), Some(3));
        assert_eq!(counter(PortCounter::ReceiveMisses), None);
        for unknown in ["-1\n", "0\n", "4294967295\n"] {
            file("speed", unknown);
            assert!(read_interface(tree.path(), "eth0", &mut port));
            assert_eq!(port.gauges[PortGauge::Speed], None, "{unknown}");
        }
        assert!(!read_interface(tree.path(), "eth1", &mut port));
        assert_eq!(port.counters[PortCounter::SentBytes], None);
    }

    #[test]
    fn speeds_of_rdma_ports_are_read() {
        for (rate, mbps) in [
            ("400 Gb/sec (4X NDR)", Some(400_000)),
            ("2.5 Gb/sec (1X SDR)", Some(2500)),
            ("100", Some(100_000)),
            ("", None),
            ("fast", None),
            ("99999999 Gb/sec", None),
            ("4294967.9 Gb/sec", None),
            ("1.é", None),
        ] {
            assert_eq!(rdma_speed_mbps(rate), mbps, "{rate}");
        }
        let tree = Tree::new("link-rdma");
        tree.file("class/infiniband/nic0/ports/2/state", "4: ACTIVE\n");
        tree.file("class/infiniband/nic0/ports/2/rate", "400 Gb/sec\n");
        let mut port = PortNow::default();
        read_rdma_state(tree.path(), "nic0", 2, &mut port);
        let gauge = |gauge: PortGauge| port.gauges[gauge];
        assert_eq!(gauge(PortGauge::RdmaState), Some(4));
        assert_eq!(gauge(PortGauge::RdmaSpeed), Some(50_000_000_000));
    }

    proptest! {
        #[test]
        fn any_text_will_do(text: String) {
            let _ = rdma_speed_mbps(&text);
            let _ = state(&text);
        }
    }
}
