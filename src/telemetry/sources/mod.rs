//! What a host and its ports say of themselves beside our own timing, each from one place of the kernel.
//!
//! `rdma` and `ethtool` are what adapters count, each driver in its own words, under one table of names: the
//! transports read part of it for control, and whoever watches reads all of it. `ethtool_netlink` is what
//! drivers say in the kernel's words, `module` what transceivers do, `link` which ports there are and how they
//! are, `pressure` and `processors` what else keeps a host busy. [`Host`] reads them all, port by port, for
//! whoever watches: never the process that is watched. `dcb` and `routes` are asked before a job.
//!
//! What cannot be read is absent, which is not zero, and hides nothing else. Counters of one path over TCP are
//! in its process's own records, since only the owner of a socket may ask for them.

pub mod dcb;
pub mod ethtool;
pub mod ethtool_netlink;
mod figure;
pub(crate) mod files;
pub mod link;
pub mod module;
pub mod netlink;
#[cfg(feature = "cli")]
pub mod otlp;
pub mod pcie;
mod port;
pub mod pressure;
pub mod processors;
pub mod rdma;
pub mod routes;
pub mod switches;
#[cfg(test)]
pub(crate) mod tree;

use std::fmt;
use std::ops::{Index, IndexMut};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::figure::increase;
use self::link::Port;
use self::port::{Pace, PortReader, Together};
use super::schema::{HostCounter, HostGauge, LaneGauge, PortCounter, PortGauge, PriorityCounter};
use super::values::Values;
use crate::clock::Timestamp;
use crate::units::Nanos;

/// More ports than a host has: what goes beyond is not read, and a line says so.
const PORTS_MAX: usize = 512;
/// How often it is looked which ports there are.
const LOOK_EVERY: Nanos = Nanos::from_secs(1);
/// No adapter needs longer that is well: transceivers, on their slow bus, take up to a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the figures of a port come from: all of one source are of the same age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The RDMA device. The kernel asks it every 10 ms at most.
    Rdma,
    /// The network interface.
    Interface,
    /// The Ethernet driver, with its adapter's firmware.
    Ethernet,
    /// The transceiver.
    Module,
    /// PCIe.
    Pcie,
}

impl Source {
    /// All of them, from the fastest to the slowest.
    pub const ALL: [Self; 5] = [
        Self::Rdma,
        Self::Interface,
        Self::Ethernet,
        Self::Module,
        Self::Pcie,
    ];

    /// How often it is read at most.
    const fn every(self) -> Nanos {
        match self {
            Self::Rdma => Nanos::from_millis(10),
            Self::Interface => Nanos::from_millis(100),
            Self::Ethernet => Nanos::from_secs(1),
            Self::Module | Self::Pcie => Nanos::from_secs(10),
        }
    }
}

/// The source's name.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rdma => "rdma",
            Self::Interface => "interface",
            Self::Ethernet => "ethernet",
            Self::Module => "module",
            Self::Pcie => "pcie",
        })
    }
}

/// A time in ns for each source; None where it has told nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTimes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rdma: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ethernet: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    module: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pcie: Option<u64>,
}

impl SourceTimes {
    /// What this says of each.
    pub fn new(time: impl Fn(Source) -> Option<u64>) -> Self {
        let mut times = Self::default();
        for source in Source::ALL {
            times[source] = time(source);
        }
        times
    }
}

impl Index<Source> for SourceTimes {
    type Output = Option<u64>;

    fn index(&self, source: Source) -> &Option<u64> {
        match source {
            Source::Rdma => &self.rdma,
            Source::Interface => &self.interface,
            Source::Ethernet => &self.ethernet,
            Source::Module => &self.module,
            Source::Pcie => &self.pcie,
        }
    }
}

impl IndexMut<Source> for SourceTimes {
    fn index_mut(&mut self, source: Source) -> &mut Option<u64> {
        match source {
            Source::Rdma => &mut self.rdma,
            Source::Interface => &mut self.interface,
            Source::Ethernet => &mut self.ethernet,
            Source::Module => &mut self.module,
            Source::Pcie => &mut self.pcie,
        }
    }
}

impl PortCounter {
    /// Where it comes from.
    #[must_use]
    pub const fn source(self) -> Source {
        match self as usize {
            at if at < Self::PausesReceived as usize => Source::Rdma,
            at if at < Self::SentBytes as usize => Source::Ethernet,
            _ => Source::Interface,
        }
    }
}

impl PortGauge {
    /// Where it comes from.
    #[must_use]
    pub const fn source(self) -> Source {
        match self as usize {
            at if at < Self::RdmaState as usize => Source::Interface,
            at if at < Self::PcieReadStalled as usize => Source::Rdma,
            at if at < Self::ModuleTemperature as usize => Source::Ethernet,
            at if at < Self::PcieSpeed as usize => Source::Module,
            _ => Source::Pcie,
        }
    }
}

/// A host and its ports, at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNow {
    /// When, by the host's monotonic clock.
    #[serde(rename = "at_ns")]
    pub at: Timestamp,
    /// Its ports, in the order of their names: those of RDMA devices, then other network interfaces.
    pub ports: Vec<PortNow>,
    /// The host itself.
    pub host: HostReading,
    /// What should be there and cannot be read, and what to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

/// What a host says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReading {
    /// What it counts.
    pub counters: Values<HostCounter, Option<u64>>,
    /// What it is like.
    pub gauges: Values<HostGauge, Option<u64>>,
    /// How old that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ns: Option<u64>,
}

/// A port, at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortNow {
    /// `mlx5_0:1`, or the interface where there is no RDMA device.
    pub name: String,
    /// Its network interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its RDMA device, and the number of the port there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(String, u8)>,
    /// Its driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// What it counts.
    pub counters: Values<PortCounter, Option<u64>>,
    /// What it is like.
    pub gauges: Values<PortGauge, Option<u64>>,
    /// What each of its eight priorities counts; none where the driver does not say. From [`Source::Ethernet`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<Values<PriorityCounter, Option<u64>>>,
    /// What each of its lanes is like; none where the transceiver does not say. From [`Source::Module`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<Values<LaneGauge, Option<u64>>>,
    /// How old the figures of each source are.
    pub ages_ns: SourceTimes,
}

impl HostNow {
    /// The port of this name.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<&PortNow> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// The same, told again later.
    #[must_use]
    pub fn aged(&self, now: Timestamp) -> Self {
        let by = now.since(self.at);
        let mut this = self.clone();
        this.at = now.max(self.at);
        this.host.age_ns = this.host.age_ns.map(|age| age.saturating_add(by.0));
        for port in &mut this.ports {
            port.age_by(by);
        }
        this
    }
}

impl HostReading {
    /// What a counter has counted since an earlier reading; None if that is not known.
    #[must_use]
    pub fn increase(&self, before: &Self, counter: HostCounter) -> Option<u64> {
        increase(
            before.counters[counter],
            self.counters[counter],
            processors::bits(counter),
        )
    }

    /// The time between `before` and this, which are `apart`.
    #[must_use]
    pub fn between(&self, before: &Self, apart: Nanos) -> Option<Nanos> {
        between(before.age_ns, self.age_ns, apart)
    }
}

impl PortNow {
    /// How old the figures of a source are; None if there are none.
    #[must_use]
    pub fn age(&self, source: Source) -> Option<Nanos> {
        self.ages_ns[source].map(Nanos)
    }

    /// What a counter has counted since an earlier reading of the same port; None if that is not known, as
    /// after a reset. [`Self::between`] says in what time.
    #[must_use]
    pub fn increase(&self, before: &Self, counter: PortCounter) -> Option<u64> {
        let bits = rdma::bits(self.driver.as_deref(), counter);
        increase(before.counters[counter], self.counters[counter], bits)
    }

    /// The time between the readings of a source in `before` and here, which are `apart`: zero where it has
    /// not been read since.
    #[must_use]
    pub fn between(&self, before: &Self, source: Source, apart: Nanos) -> Option<Nanos> {
        between(before.ages_ns[source], self.ages_ns[source], apart)
    }

    fn age_by(&mut self, by: Nanos) {
        let ages = self.ages_ns;
        let older = |age: u64| age.saturating_add(by.0);
        self.ages_ns = SourceTimes::new(|source| ages[source].map(older));
    }

    fn of(port: &Port) -> Self {
        let port = port.clone();
        Self {
            name: port.name,
            interface: port.interface,
            device: port.device,
            driver: port.driver,
            ..Self::default()
        }
    }

    /// Forgets what a source has told.
    fn forget(&mut self, source: Source) {
        for counter in PortCounter::ALL {
            if counter.source() == source {
                self.counters[*counter] = None;
            }
        }
        for gauge in PortGauge::ALL {
            if gauge.source() == source {
                self.gauges[*gauge] = None;
            }
        }
        match source {
            Source::Ethernet => self.priorities.clear(),
            Source::Module => self.lanes.clear(),
            _ => {}
        }
    }
}

/// The time between two figures of these ages, of which the first was told `apart` earlier.
fn between(before_ns: Option<u64>, now_ns: Option<u64>, apart: Nanos) -> Option<Nanos> {
    let begin = apart.0.saturating_add(before_ns?);
    Some(Nanos(begin.saturating_sub(now_ns?)))
}

/// Reads a host, each source at its own pace: what is not due is told again, with its age. A reading of a
/// slow adapter or transceiver takes as long as it takes, up to a second for the latter: a program with a
/// screen has a thread for it. One that does not answer holds nobody up for longer than three seconds, and
/// that once: the rest goes on, and a line says so.
#[derive(Debug)]
pub struct Host {
    sys: PathBuf,
    proc: PathBuf,
    /// Whether drivers are asked through the kernel too: not where these may be the files of another host.
    asks_drivers: bool,
    patience: Duration,
    looked: Pace,
    ports: Vec<PortReader>,
    /// Who reads those of them that are no adapter's.
    together: Together,
    itself: HostReading,
    read_at: Timestamp,
    pace: Pace,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// This host, in this network namespace.
    #[must_use]
    pub fn new() -> Self {
        Self {
            asks_drivers: true,
            ..Self::of_files(Path::new("/sys"), Path::new("/proc"))
        }
    }

    /// What files like those under `/sys` and `/proc` say. No driver is asked: these may be those of
    /// another host.
    #[must_use]
    pub fn of_files(sys: &Path, proc: &Path) -> Self {
        Self {
            sys: sys.to_owned(),
            proc: proc.to_owned(),
            asks_drivers: false,
            patience: PATIENCE,
            looked: Pace::every(LOOK_EVERY),
            ports: Vec::new(),
            together: Together::new(sys),
            itself: HostReading::default(),
            read_at: Timestamp::ZERO,
            pace: Pace::every(Nanos::from_millis(100)),
        }
    }

    /// The present state.
    pub fn read(&mut self, now: Timestamp) -> HostNow {
        let mut lines = Vec::new();
        if self.looked.begins(now) {
            self.look();
            self.looked.ends();
        }
        if self.ports.len() > PORTS_MAX {
            lines.push(format!(
                "{} ports: those after {} are not read",
                self.ports.len(),
                self.ports[PORTS_MAX - 1].port().name
            ));
        }
        let last = self.ports.len().min(PORTS_MAX);
        let ports = &mut self.ports[..last];
        for port in &mut *ports {
            port.begin(now);
        }
        self.together.begin(ports, now);
        if self.pace.begins(now) {
            self.read_at = now;
            pressure::read(&self.proc, &mut self.itself);
            processors::read(&self.proc, &mut self.itself);
            self.pace.ends();
        }
        let until = Instant::now() + self.patience;
        for port in &mut *ports {
            port.end(until);
        }
        self.together.end(ports, until);
        lines.extend(self.together.line());
        lines.extend(ports.iter().flat_map(PortReader::lines));
        HostNow {
            at: now,
            ports: ports.iter().map(|port| port.told(now)).collect(),
            host: HostReading {
                age_ns: Some(now.since(self.read_at).0),
                ..self.itself.clone()
            },
            lines,
        }
    }

    fn look(&mut self) {
        let mut before = std::mem::take(&mut self.ports);
        for port in link::find(&self.sys) {
            let known = before.iter().position(|reader| *reader.port() == port);
            let reader = known.map(|at| before.swap_remove(at));
            let new = || PortReader::new(port, &self.sys, self.asks_drivers);
            self.ports.push(reader.unwrap_or_else(new));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tree::Tree;
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO + Nanos::from_secs(100) + Nanos::from_millis(ms)
    }

    /// A host with an adapter of mlx5.
    fn host(name: &str) -> Tree {
        let tree = Tree::new(name);
        let device = "sys/class/infiniband/mlx5_0";
        tree.file(&format!("{device}/device/net/eth0/dev_port"), "0\n");
        tree.link(&format!("{device}/device/driver"), "/drivers/mlx5_core");
        tree.file(&format!("{device}/ports/1/state"), "4: ACTIVE\n");
        tree.file(
            &format!("{device}/ports/1/hw_counters/packet_seq_err"),
            "4294967290\n",
        );
        tree.file(&format!("{device}/ports/1/hw_counters/np_cnp_sent"), "5\n");
        tree.file("sys/class/net/eth0/statistics/tx_bytes", "1000\n");
        tree.file("sys/class/net/eth0/carrier", "1\n");
        tree.file("sys/class/net/lo/carrier", "1\n");
        tree.file(
            "proc/pressure/cpu",
            "some avg10=1.00 avg60=0 avg300=0 total=7\n",
        );
        tree.file("proc/net/softnet_stat", "ffffffff 00000000 00000001\n");
        tree
    }

    fn reader(tree: &Tree) -> Host {
        Host::of_files(&tree.path().join("sys"), &tree.path().join("proc"))
    }

    fn counter(now: &HostNow, port: &str, counter: PortCounter) -> Option<u64> {
        now.port(port)?.counters[counter]
    }

    #[test]
    fn a_host_tells_what_its_files_say() {
        let tree = host("sources-files");
        let now = reader(&tree).read(at(0));
        let names: Vec<_> = now.ports.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["mlx5_0:1", "lo"]);
        let port = &now.ports[0];
        assert_eq!(port.interface.as_deref(), Some("eth0"));
        assert_eq!(port.driver.as_deref(), Some("mlx5_core"));
        assert_eq!(
            counter(&now, "mlx5_0:1", PortCounter::SequenceNaks),
            Some(4_294_967_290)
        );
        assert_eq!(
            counter(&now, "mlx5_0:1", PortCounter::SentBytes),
            Some(1000)
        );
        // Absent, not zero.
        assert_eq!(counter(&now, "mlx5_0:1", PortCounter::AckTimeouts), None);
        assert_eq!(counter(&now, "lo", PortCounter::SequenceNaks), None);
        assert_eq!(port.gauges[PortGauge::RdmaState], Some(4));
        assert_eq!(now.host.counters[HostCounter::CpuPressureSome], Some(7000));
        assert_eq!(port.age(Source::Rdma), Some(Nanos::ZERO));
        assert_eq!(port.age(Source::Ethernet), None);
        assert_eq!(now.ports[1].age(Source::Rdma), None);
        assert!(now.lines.is_empty(), "{:?}", now.lines);
    }

    #[test]
    fn adapters_tell_their_place_on_pcie() {
        let tree = host("sources-pcie");
        for (device, speed, width) in [
            ("infiniband/mlx5_0", "16.0 GT/s PCIe", "8"),
            ("net/eth0", "16.0 GT/s PCIe", "8"),
            ("net/eth1", "2.5 GT/s PCIe", "1"),
            // A virtual function.
            ("net/eth2", "Unknown", "0"),
        ] {
            let file = |name: &str| format!("sys/class/{device}/device/{name}");
            tree.file(&file("current_link_speed"), speed);
            tree.file(&file("current_link_width"), width);
        }
        let device = "sys/class/infiniband/mlx5_0/device";
        tree.file(&format!("{device}/max_link_speed"), "32.0 GT/s PCIe\n");
        tree.file(&format!("{device}/max_link_width"), "16\n");
        // Behind a port that can do less.
        let bridge = "sys/devices/pci0000:3a/0000:3a:00.0";
        let adapter = format!("{bridge}/0000:3b:00.0");
        for (folder, state, speed, width) in [
            (bridge, "max", "16.0 GT/s PCIe", "8"),
            (&adapter, "max", "32.0 GT/s PCIe", "16"),
            (&adapter, "current", "16.0 GT/s PCIe", "8"),
        ] {
            tree.file(&format!("{folder}/{state}_link_speed"), speed);
            tree.file(&format!("{folder}/{state}_link_width"), width);
        }
        tree.file("sys/class/net/eth3/mtu", "1500\n");
        let place = "../../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0";
        tree.link("sys/class/net/eth3/device", place);
        tree.file(&format!("{bridge}/0000:3b:00.1/max_link_speed"), "Unknown");
        tree.file("sys/class/net/eth4/mtu", "1500\n");
        let place = "../../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.1";
        tree.link("sys/class/net/eth4/device", place);
        let now = reader(&tree).read(at(0));
        let gauges = |port: &str| {
            let port = now.port(port).unwrap();
            let gauges = [
                PortGauge::PcieSpeed,
                PortGauge::PcieWidth,
                PortGauge::PcieSpeedMax,
                PortGauge::PcieWidthMax,
            ];
            (
                gauges.map(|gauge| port.gauges[gauge]),
                port.age(Source::Pcie),
            )
        };
        let told = [16_000_000_000, 8, 32_000_000_000, 16].map(Some);
        assert_eq!(gauges("mlx5_0:1"), (told, Some(Nanos::ZERO)));
        let old = [Some(2_500_000_000), Some(1), None, None];
        assert_eq!(gauges("eth1"), (old, Some(Nanos::ZERO)));
        assert_eq!(gauges("eth2"), ([None; 4], None));
        assert_eq!(gauges("eth4"), ([None; 4], None));
        let full = [16_000_000_000, 8, 16_000_000_000, 8].map(Some);
        assert_eq!(gauges("eth3"), (full, Some(Nanos::ZERO)));
        assert_eq!(gauges("lo"), ([None; 4], None));
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_reading_is_written_down_and_read_again() {
        let tree = host("sources-json");
        let mut now = reader(&tree).read(at(0));
        now.ports[0].priorities = vec![Values::default(); ethtool::PRIORITIES];
        now.ports[0].priorities[3][PriorityCounter::PausesReceived] = Some(5);
        now.ports[0].lanes = vec![Values::new(|_| Some(7)); 4];
        now.lines = vec!["a line".into()];
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(now, serde_json::from_str(&text).unwrap());
        assert!(
            text.contains(r#""ages_ns":{"rdma":0,"interface":0}"#),
            "{text}"
        );
        assert!(!text.contains("null"), "{text}");
        // Of another release.
        let later = text
            .replace("sequence_naks", "later")
            .replace("\"rdma\":0", "\"tea\":0");
        let read: HostNow = serde_json::from_str(&later).unwrap();
        assert_eq!(counter(&read, "mlx5_0:1", PortCounter::SequenceNaks), None);
        assert_eq!(counter(&read, "mlx5_0:1", PortCounter::CnpsSent), Some(5));
        assert_eq!(read.ports[0].age(Source::Rdma), None);
        let aged = now.aged(at(3)).ports[0].age(Source::Interface);
        assert_eq!(aged, Some(Nanos::from_millis(3)));
    }

    #[test]
    fn each_source_has_its_pace_and_its_age() {
        let tree = host("sources-pace");
        let mut reader = reader(&tree);
        let first = reader.read(at(0));
        tree.file(
            "sys/class/infiniband/mlx5_0/ports/1/hw_counters/packet_seq_err",
            "4\n",
        );
        tree.file("sys/class/net/eth0/statistics/tx_bytes", "3000\n");
        tree.file("proc/net/softnet_stat", "00000009 00000000 00000001\n");
        // Not due yet.
        let later = reader.read(at(99));
        let (port, before) = (&later.ports[0], &first.ports[0]);
        assert_eq!(port.increase(before, PortCounter::SentBytes), Some(0));
        let between = |now: &HostNow, source| {
            let apart = now.at.since(first.at);
            now.ports[0].between(before, source, apart)
        };
        assert_eq!(between(&later, Source::Interface), Some(Nanos::ZERO));
        let age = port.age(Source::Interface);
        assert_eq!(age, Some(Nanos::from_millis(99)));
        // Due, even if reading took long.
        let later = reader.read(at(60_000));
        let port = &later.ports[0];
        assert_eq!(port.increase(before, PortCounter::SentBytes), Some(2000));
        assert_eq!(port.increase(before, PortCounter::SequenceNaks), Some(10));
        assert_eq!(port.age(Source::Rdma), Some(Nanos::ZERO));
        assert_eq!(
            between(&later, Source::Interface),
            Some(Nanos::from_secs(60))
        );
        assert_eq!(between(&later, Source::Ethernet), None);
        let packets = later
            .host
            .increase(&first.host, HostCounter::SoftnetPackets);
        assert_eq!(packets, Some(10));
        let steal = later.host.increase(&first.host, HostCounter::CpuSteal);
        assert_eq!(steal, None);
    }

    #[test]
    fn ports_come_and_go() {
        let tree = host("sources-go");
        let mut reader = reader(&tree);
        let first = reader.read(at(0));
        let folder = tree.path().join("sys/class/infiniband/mlx5_0");
        std::fs::rename(&folder, tree.path().join("away")).unwrap();
        // Files that are held open tell no more once the kernel has taken the device away; here they do.
        let later = reader.read(at(60_000));
        let names: Vec<_> = later.ports.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["eth0", "lo"]);
        std::fs::rename(tree.path().join("away"), &folder).unwrap();
        tree.file(
            "sys/class/infiniband/mlx5_0/ports/1/hw_counters/np_cnp_sent",
            "2\n",
        );
        let again = reader.read(at(120_000));
        // It has begun anew: what it counted in between is not known.
        let increase = again.ports[0].increase(&first.ports[0], PortCounter::CnpsSent);
        assert_eq!(increase, None);
    }

    #[test]
    fn garbage_hides_nothing_else() {
        let tree = host("sources-garbage");
        tree.file("sys/class/infiniband/odd one/ports/1/state", "\u{1}\n");
        tree.file(
            "sys/class/infiniband/odd one/ports/1/hw_counters/np_cnp_sent",
            "N/A\n",
        );
        tree.file(
            "sys/class/infiniband/odd one/ports/300/state",
            "4: ACTIVE\n",
        );
        tree.file("sys/class/net/eth1/statistics", "a file\n");
        tree.file("sys/class/net/eth1/carrier/folder", "");
        tree.file("proc/stat", "cpu what\n");
        let now = reader(&tree).read(at(0));
        let names: Vec<_> = now.ports.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["mlx5_0:1", "odd one:1", "eth1", "lo"]);
        assert_eq!(counter(&now, "mlx5_0:1", PortCounter::CnpsSent), Some(5));
        let odd = &now.ports[1];
        assert_eq!(odd.counters, Values::default());
        assert_eq!(odd.age(Source::Rdma), None);
        assert_eq!(now.host.counters[HostCounter::CpuUser], None);
        let empty =
            Host::of_files(Path::new("/nonexistent"), Path::new("/nonexistent")).read(at(0));
        assert_eq!(
            (empty.ports, empty.host.counters),
            (vec![], Values::default())
        );
    }

    /// A host on which a file cannot be read to its end: a pipe that nobody writes to keeps whoever opens
    /// it, as a driver does that hangs.
    struct Hung {
        host: Host,
        pipe: PathBuf,
    }

    impl Hung {
        /// With what is read while it hangs.
        fn new(tree: &Tree, file: &str) -> (Self, HostNow) {
            let pipe = tree.path().join(file);
            std::fs::remove_file(&pipe).unwrap();
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            assert!(made.unwrap().success());
            let mut host = reader(tree);
            host.patience = Duration::from_millis(100);
            let now = host.read(at(0));
            assert_eq!(now.lines.len(), 1, "{:?}", now.lines);
            (Self { host, pipe }, now)
        }

        /// A second later it is not waited for again, and the line is still `said`.
        fn read_on(&mut self, said: &[String]) -> HostNow {
            let begun = Instant::now();
            self.host.patience = PATIENCE;
            let now = self.host.read(at(1000));
            assert!(begun.elapsed() < PATIENCE);
            assert_eq!(now.lines, said);
            now
        }

        /// The driver answers after all: the first reading with nothing to complain of.
        fn answered(mut self) -> HostNow {
            drop(
                std::fs::File::options()
                    .write(true)
                    .open(&self.pipe)
                    .unwrap(),
            );
            std::fs::remove_file(&self.pipe).unwrap();
            (2..100)
                .map(|s| self.host.read(at(s * 1000)))
                .inspect(|_| std::thread::sleep(Duration::from_millis(20)))
                .find(|now| now.lines.is_empty())
                .unwrap()
        }
    }

    #[test]
    fn a_driver_that_hangs_hides_no_other_port() {
        let tree = host("sources-hung");
        let file = "sys/class/infiniband/mlx5_0/ports/1/hw_counters/np_cnp_sent";
        let (mut hung, now) = Hung::new(&tree, file);
        assert!(now.lines[0].starts_with("mlx5_0:1: its driver does not answer"));
        assert_eq!(now.ports[0].age(Source::Interface), None);
        assert_eq!(now.port("lo").unwrap().gauges[PortGauge::LinkUp], Some(1));
        let later = hung.read_on(&now.lines);
        let age = later.port("lo").unwrap().age(Source::Interface);
        assert_eq!(age, Some(Nanos::ZERO));
        let naks = counter(&hung.answered(), "mlx5_0:1", PortCounter::SequenceNaks);
        assert_eq!(naks, Some(4_294_967_290));
    }

    /// Where a driver hangs that holds the lock under which the link of all interfaces is read.
    #[test]
    fn interfaces_that_cannot_be_read_hide_no_adapter() {
        let tree = host("sources-held");
        tree.file("sys/class/net/veth0/carrier", "1\n");
        let (mut hung, now) = Hung::new(&tree, "sys/class/net/lo/carrier");
        let line = &now.lines[0];
        assert!(line.starts_with("interfaces of no adapter") && !line.contains("its driver"));
        assert_eq!(now.ports[0].gauges[PortGauge::LinkUp], Some(1));
        for interface in ["lo", "veth0"] {
            let port = now.port(interface).unwrap();
            assert_eq!(port.age(Source::Interface), None, "{interface}");
        }
        hung.read_on(&now.lines);
        let answered = hung.answered();
        let veth = answered.port("veth0").unwrap();
        assert_eq!(veth.gauges[PortGauge::LinkUp], Some(1));
    }

    #[test]
    fn every_figure_has_its_source() {
        use PortCounter as C;
        use PortGauge as G;
        for (counter, source) in [
            (C::RdmaSentPackets, Source::Rdma),
            (C::RdmaBufferOverruns, Source::Rdma),
            (C::PausesReceived, Source::Ethernet),
            (C::PcieSignalErrors, Source::Ethernet),
            (C::SentBytes, Source::Interface),
            (C::CarrierDowns, Source::Interface),
        ] {
            assert_eq!(counter.source(), source, "{counter:?}");
        }
        for (gauge, source) in [
            (G::LinkUp, Source::Interface),
            (G::Temperature, Source::Interface),
            (G::RdmaState, Source::Rdma),
            (G::RdmaSpeed, Source::Rdma),
            (G::PcieReadStalled, Source::Ethernet),
            (G::PauseSendEnabled, Source::Ethernet),
            (G::ModuleTemperature, Source::Module),
            (G::ModuleWarnings, Source::Module),
            (G::PcieSpeed, Source::Pcie),
            (G::PcieWidthMax, Source::Pcie),
        ] {
            assert_eq!(gauge.source(), source, "{gauge:?}");
        }
        for (at, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(source as usize, at);
        }
    }

    /// Whatever machine this is.
    #[test]
    fn this_host_is_read() {
        let mut host = Host::new();
        let now = host.read(Timestamp::now());
        let lo = now.port("lo").unwrap();
        assert!(lo.counters[PortCounter::SentBytes].is_some());
        assert_eq!(lo.age(Source::Interface), Some(Nanos::ZERO));
        assert_eq!(lo.age(Source::Ethernet), None);
        assert!(now.host.counters[HostCounter::CpuIdle] > Some(0));
        assert!(now.host.gauges[HostGauge::Processors] > Some(0));
        let has_pressure = Path::new("/proc/pressure/cpu").exists();
        let pressure = now.host.counters[HostCounter::CpuPressureSome];
        assert_eq!(pressure.is_some(), has_pressure);
        // Every interface with a link that is up has a port.
        for interface in files::names(Path::new("/sys/class/net")) {
            let is_its = |port: &&PortNow| port.interface.as_deref() == Some(&interface);
            let is_folder = Path::new("/sys/class/net").join(&interface).is_dir();
            assert_eq!(
                now.ports.iter().any(|port| is_its(&port)),
                is_folder,
                "{interface}"
            );
        }
    }
}
