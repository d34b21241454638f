//! The one table of settings. To add a setting: a field in [`Config`] and an entry here.

use super::error::Source;
use super::types::{number, size};
use super::{
    Config, ControllerKind, Family, HcaFilter, IfFilter, PREFIX, PathCount, PortRange,
    RelaxedOrdering, Secret, SelectorKind, TransportKind,
};
use crate::units::Nanos;
use std::path::{Path, PathBuf};

/// One setting: how it is called, what it may be, what it does.
#[derive(Debug)]
pub struct Variable {
    /// The environment variable.
    pub name: &'static str,
    /// What it is if nobody sets it; none if it then has no value at all.
    pub default: Option<&'static str>,
    /// What it may be, as an error message says it.
    pub allowed: &'static str,
    /// What it does, in a sentence.
    pub help: &'static str,
    /// Whether its value must not be shown.
    pub(super) hidden: bool,
    /// Whether the configuration file may hold it.
    pub(super) in_file: bool,
    /// Takes over a value, if it is allowed.
    pub(super) apply: fn(&mut Config, &str) -> Result<(), Refusal>,
}

/// Why a value was not taken over.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is not among what is allowed.
    NotAllowed,
    /// It names a file, and that is what is wrong with the file.
    File(String),
}

impl Variable {
    /// The same setting's key in the configuration file; none if it can't stand there.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        self.in_file.then(|| self.bare_name().to_ascii_lowercase())
    }

    /// The name without what all names begin with.
    pub(super) fn bare_name(&self) -> &'static str {
        self.name.strip_prefix(PREFIX).unwrap_or(self.name)
    }

    /// What it is called where it was set.
    pub(super) fn name_in(&self, source: Source) -> String {
        match source {
            Source::Environment => self.name.to_owned(),
            Source::File => self.bare_name().to_ascii_lowercase(),
        }
    }

    /// How an error message calls it.
    pub(super) fn shown_name(&self, source: Source) -> String {
        let name = self.name_in(source);
        match source {
            Source::Environment => name,
            Source::File => format!("{name} (in the configuration file)"),
        }
    }
}

/// Every setting, in the order in which the documentation lists them.
#[must_use]
pub fn variables() -> &'static [Variable] {
    TABLE
}

fn allowed<T>(value: Option<T>) -> Result<T, Refusal> {
    value.ok_or(Refusal::NotAllowed)
}

/// What an IP header may say. That there has been congestion is for switches to say.
fn traffic_class(text: &str) -> Option<u8> {
    number(text, 0..=u8::MAX).filter(|class| class & ECN_BITS != ECN_BITS)
}

/// NCCL takes all of them: what would mean congestion counts without its ECN bits.
fn from_nccl_class(text: &str) -> Option<u8> {
    let class = number(text, 0..=u8::MAX)?;
    Some(if class & ECN_BITS == ECN_BITS {
        class & !ECN_BITS
    } else {
        class
    })
}

const ECN_BITS: u8 = 3;
const TRAFFIC_CLASSES: &str =
    "0 to 255, four times the DSCP, plus 0 to 2: 3 in its ECN bits would mean congestion";

fn millis(text: &str, range: std::ops::RangeInclusive<u64>) -> Result<Nanos, Refusal> {
    allowed(number(text, range).map(Nanos::from_millis))
}

fn path(text: &str) -> Result<PathBuf, Refusal> {
    allowed((!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text)))
}

fn switch(text: &str) -> Result<bool, Refusal> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Refusal::NotAllowed),
    }
}

/// A setting of NCCL that counts where ours is not set. NCCL passes over a value that it does not know,
/// and so do we.
pub(super) struct FromNccl {
    /// NCCL's variable.
    pub(super) name: &'static str,
    /// Ours.
    pub(super) ours: &'static str,
    /// Takes over a value, if it means something.
    pub(super) apply: fn(&mut Config, &str),
}

/// All of them.
pub(super) static FROM_NCCL: &[FromNccl] = &[
    FromNccl {
        name: "NCCL_SOCKET_IFNAME",
        ours: "THALWEG_IFNAME",
        apply: |config, text| config.ifname = IfFilter::parse(text),
    },
    FromNccl {
        name: "NCCL_SOCKET_FAMILY",
        ours: "THALWEG_FAMILY",
        apply: |config, text| config.family = Family::from_nccl(text),
    },
    FromNccl {
        name: "NCCL_IB_DISABLE",
        ours: "THALWEG_TRANSPORT",
        apply: |config, text| {
            if number(text, 1..=u8::MAX).is_some() {
                config.transport = TransportKind::Tcp;
            }
        },
    },
    FromNccl {
        name: "NCCL_IB_HCA",
        ours: "THALWEG_HCA",
        apply: |config, text| config.hca = HcaFilter::parse(text),
    },
    FromNccl {
        name: "NCCL_IB_GID_INDEX",
        ours: "THALWEG_GID_INDEX",
        apply: |config, text| config.gid_index = number(text, 0..=u8::MAX),
    },
    FromNccl {
        name: "NCCL_IB_TC",
        ours: "THALWEG_TC",
        apply: |config, text| {
            config.traffic_class = from_nccl_class(text).unwrap_or(config.traffic_class);
        },
    },
    FromNccl {
        name: "NCCL_IB_FIFO_TC",
        ours: "THALWEG_CONTROL_TC",
        apply: |config, text| config.control_traffic_class = from_nccl_class(text),
    },
    FromNccl {
        name: "NCCL_IB_SL",
        ours: "THALWEG_SL",
        apply: |config, text| {
            config.service_level = number(text, 0..=15).unwrap_or(config.service_level);
        },
    },
    FromNccl {
        name: "NCCL_IB_PCI_RELAXED_ORDERING",
        ours: "THALWEG_RELAXED_ORDERING",
        apply: |config, text| {
            config.relaxed_ordering = match text {
                "0" => RelaxedOrdering::Off,
                "1" => RelaxedOrdering::On,
                _ => RelaxedOrdering::Auto,
            };
        },
    },
];

/// What most entries have in common.
const PLAIN: Variable = Variable {
    name: "",
    default: None,
    allowed: "",
    help: "",
    hidden: false,
    in_file: true,
    apply: |_, _| Ok(()),
};

static TABLE: &[Variable] = &[
    Variable {
        name: super::CONFIG_FILE_VARIABLE,
        allowed: "the name of a file",
        help: "a TOML file with the same settings: keys are these names in lower case without the \
               prefix; the environment prevails",
        in_file: false,
        ..PLAIN
    },
    Variable {
        name: "THALWEG_PATHS",
        default: Some("auto"),
        allowed: "auto, or 1 to 64",
        help: "how many paths a link has; auto finds out what the fabric offers",
        apply: |config, text| {
            config.paths = allowed(PathCount::parse(text))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_CONTROLLER",
        default: Some("delay"),
        allowed: "delay, power, timely, nscc or fixed",
        help: "what decides how much is in flight on a link: the measured delay in three ways, marks \
               and delay, or a fixed window",
        apply: |config, text| {
            config.controller = allowed(ControllerKind::parse(text))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_SELECTOR",
        default: Some("auto"),
        allowed: "auto, adaptive, weighted, least-outstanding, power-of-two, round-robin or hash",
        help: "what chooses the path of a chunk: the earliest expected completion (auto on TCP), \
               turns by measured speed (auto on RDMA), the least bytes outstanding, the better of \
               two, taking turns, or a hash of the message",
        apply: |config, text| {
            config.selector = allowed(SelectorKind::parse(text))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_IFNAME",
        allowed: "names separated by commas, with ^ in front to exclude them and = for whole names",
        help: "which network interfaces may be used, by the beginning of their name; where it is \
               not set, NCCL_SOCKET_IFNAME counts",
        apply: |config, text| {
            config.ifname = Some(allowed(IfFilter::parse(text))?);
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_FAMILY",
        default: Some("any"),
        allowed: "any, ipv4 or ipv6",
        help: "which addresses may be used; where it is not set, NCCL_SOCKET_FAMILY counts",
        apply: |config, text| {
            config.family = allowed(Family::parse(text))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_TRANSPORT",
        default: Some("auto"),
        allowed: "auto, verbs or tcp",
        help: "over what links go: RDMA where both hosts have ports for it, else TCP; where it is not \
               set, NCCL_IB_DISABLE=1 means tcp",
        apply: |config, text| {
            config.transport = allowed(TransportKind::parse(text))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_HCA",
        allowed: "names separated by commas, each with :port or not, with ^ in front to exclude them and = \
                  for whole names",
        help: "which RDMA ports may be used, by the beginning of their device's name; where it is not \
               set, NCCL_IB_HCA counts",
        apply: |config, text| {
            config.hca = Some(allowed(HcaFilter::parse(text))?);
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_GID_INDEX",
        default: Some("auto"),
        allowed: "auto, or 0 to 255",
        help: "the place of the address in each RDMA port's table; where it is not set, \
               NCCL_IB_GID_INDEX counts",
        apply: |config, text| {
            config.gid_index = match text {
                "auto" => None,
                index => Some(allowed(number(index, 0..=u8::MAX))?),
            };
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_TC",
        default: Some("0"),
        allowed: TRAFFIC_CLASSES,
        help: "the IP header's traffic class of data over RoCE: four times the DSCP, and ECN; where it is \
               not set, NCCL_IB_TC counts",
        apply: |config, text| {
            config.traffic_class = allowed(traffic_class(text))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_CONTROL_TC",
        allowed: TRAFFIC_CLASSES,
        help: "the traffic class of credits and acknowledgements; where it is not set, NCCL_IB_FIFO_TC \
               counts, else that of data",
        apply: |config, text| {
            config.control_traffic_class = Some(allowed(traffic_class(text))?);
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_SL",
        default: Some("0"),
        allowed: "0 to 15",
        help: "the service level of RDMA packets; where it is not set, NCCL_IB_SL counts",
        apply: |config, text| {
            config.service_level = allowed(number(text, 0..=15))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_PORTS",
        default: Some("2"),
        allowed: "1 to 8",
        help: "over how many RDMA ports of each host a link goes at most: the device that NCCL chose and \
               those next to it on the same NUMA node",
        apply: |config, text| {
            config.ports = allowed(number(text, 1..=8))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_RELAXED_ORDERING",
        default: Some("auto"),
        allowed: "auto, on or off",
        help: "whether adapters may write what arrives in any order before they say that it is there; \
               auto: over PCI, but not into the memory of AMD's GPUs; where it is not set, \
               NCCL_IB_PCI_RELAXED_ORDERING counts",
        apply: |config, text| {
            config.relaxed_ordering = allowed(RelaxedOrdering::parse(text))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_NIC_TIMESTAMPS",
        default: Some("on"),
        allowed: "on or off",
        help: "whether an adapter's time stamps, where it has them, say when chunks arrived",
        apply: |config, text| {
            config.nic_timestamps = switch(text)?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_PORT",
        default: Some("0"),
        allowed: "0 for any port, one port, or a range such as 47000-47100",
        help: "the ports to listen on; the first free one of a range is taken",
        apply: |config, text| {
            config.port = allowed(PortRange::parse(text))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_SECRET",
        allowed: "1 to 4096 bytes",
        help: "what all processes of a job must know to be let in; other users of the host may see \
               an environment, so a file is better",
        hidden: true,
        apply: |config, text| {
            config.secret = Some(allowed(Secret::parse(text.as_bytes()))?);
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_SECRET_FILE",
        allowed: "a file of 1 to 4096 bytes",
        help: "the file that holds the secret; a newline at its end doesn't count",
        apply: |config, text| {
            let path = path(text)?;
            config.secret = Some(Secret::from_file(Path::new(&path)).map_err(Refusal::File)?);
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_DEAD_PEER_MS",
        default: Some("30000"),
        allowed: "100 to 3600000 (milliseconds)",
        help: "how long all paths to a peer may be silent before its connections fail",
        apply: |config, text| {
            config.dead_peer = millis(text, 100..=3_600_000)?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_CONNECT_TIMEOUT_MS",
        default: Some("30000"),
        allowed: "100 to 3600000 (milliseconds)",
        help: "how long to try to reach a peer for the first time",
        apply: |config, text| {
            config.connect_timeout = millis(text, 100..=3_600_000)?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_CHUNK_BYTES",
        default: Some("auto"),
        allowed: "auto, or a multiple of 128 from 4096 to 4M",
        help: "the size of the pieces into which a message is cut; auto follows what is measured",
        apply: |config, text| {
            config.chunk_bytes = match text {
                "auto" => None,
                _ => Some(allowed(
                    size(text, 4096..=4 << 20).filter(|bytes: &u32| bytes.is_multiple_of(128)),
                )?),
            };
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_EAGER_BYTES",
        default: Some("8192"),
        allowed: "0 to 64K",
        help: "messages up to this size are sent before the receiver has offered a buffer",
        apply: |config, text| {
            config.eager_bytes = allowed(size(text, 0..=64 << 10))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_WINDOW_BYTES",
        default: Some("4M"),
        allowed: "64K to 1G",
        help: "how much the fixed controller keeps in flight on a link",
        apply: |config, text| {
            config.window_bytes = allowed(size(text, 64 << 10..=1 << 30))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_IO_THREADS",
        default: Some("0"),
        allowed: "0 to 16",
        help: "how many extra threads move data beside those that call the library",
        apply: |config, text| {
            config.io_threads = allowed(number(text, 0..=16))?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_LINGER_MS",
        default: Some("1000"),
        allowed: "0 to 600000 (milliseconds)",
        help: "how long closing waits for data that the peer has not acknowledged yet",
        apply: |config, text| {
            config.linger = millis(text, 0..=600_000)?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_TELEMETRY",
        default: Some("on"),
        allowed: "on or off",
        help: "whether what is measured is kept in memory that `thalweg paths` looks into",
        apply: |config, text| {
            config.telemetry = switch(text)?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_SHM_DIR",
        default: Some("/dev/shm"),
        allowed: "the name of a folder",
        help: "where that memory is: a folder on a file system in memory; it is made if it is missing",
        apply: |config, text| {
            config.shm_folder = path(text)?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_TRACE_FILE",
        allowed: "the name of a file",
        help: "where to write what every path does, sample by sample",
        apply: |config, text| {
            config.trace_file = Some(path(text)?);
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_TRACE_MS",
        default: Some("100"),
        allowed: "1 to 60000 (milliseconds)",
        help: "how often the trace has a sample",
        apply: |config, text| {
            config.trace_interval = millis(text, 1..=60_000)?;
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_FAULT_FILE",
        allowed: "the name of a file",
        help: "a file that says which faults to inject, for tests",
        apply: |config, text| {
            config.fault_file = Some(path(text)?);
            Ok(())
        },
        ..PLAIN
    },
    Variable {
        name: "THALWEG_PATH_SEARCH",
        default: Some("on"),
        allowed: "on or off",
        help: "whether paths that turn out to share a bottleneck are made again on other ports",
        apply: |config, text| {
            config.search = switch(text)?;
            Ok(())
        },
        ..PLAIN
    },
];
