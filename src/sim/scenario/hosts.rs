//! The section `[hosts]`: what the hosts run, and with which settings.

use super::error::ScenarioError;
use super::fabric::FabricSpec;
use super::play::{CAN_RUN_REFERENCES, CAN_TRACE};
use super::reader::Section;
use crate::control::{AnyController, Delay, DelayConfig, Fixed};
use crate::engine::{Completions, EngineConfig};
use crate::path::health::HealthConfig;
use crate::path::select::{Adaptive, AnySelector, LeastOutstanding, RoundRobin, StaticHash};
use crate::sim::dcqcn::DcqcnConfig;
use crate::sim::hosts::HostConfig;
use crate::sim::nic::{NicConfig, PACKET_OVERHEAD, Recovery};
use crate::sim::time::Picos;
use crate::units::{Bytes, Nanos, Rate};

/// What the hosts run.
#[derive(Debug, Clone)]
pub enum HostsSpec {
    /// The library's own engine, over simulated RDMA adapters.
    Engine(Box<EngineSpec>),
    /// A transport of others, packet by packet, to compare with.
    Reference(ReferenceSpec),
}

impl HostsSpec {
    /// Payload and header bytes of a full packet on the wire.
    #[must_use]
    pub fn packet(&self) -> (u64, u64) {
        match self {
            Self::Engine(spec) => (u64::from(spec.nic.mtu), u64::from(PACKET_OVERHEAD)),
            Self::Reference(_) => (4086, 64),
        }
    }
}

/// Hosts that run the engine.
#[derive(Debug, Clone)]
pub struct EngineSpec {
    /// Host and engine.
    pub host: HostConfig,
    /// Adapter.
    pub nic: NicConfig,
    /// How source ports are chosen.
    pub ways: Ways,
}

/// How the source ports of paths are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// At random.
    Unknown,
    /// So that they lead different ways, as probes have shown.
    Traced,
}

/// Which reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReferenceSpec {
    /// What decides how much is in flight.
    pub transport: Transport,
    /// What decides which way a packet takes.
    pub balance: Balance,
    /// Entropy values a flow has.
    pub paths: u32,
    /// The window at the start, in bytes; the transport's own default if none.
    pub window: Option<u64>,
    /// Bytes received after which an acknowledgement is sent; the transport's own default if none.
    pub acknowledge_after: Option<u64>,
}

/// Congestion control of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Ultra Ethernet's sender-based control.
    Nscc,
    /// Ultra Ethernet's receiver credits.
    Rccc,
    /// Both.
    NsccRccc,
    /// A constant window.
    Constant,
    /// Swift.
    Swift,
    /// TIMELY.
    Timely,
    /// θ-PowerTCP.
    ThetaPowerTcp,
    /// DCQCN over go-back-N: what clusters run today.
    Dcqcn,
}

const TRANSPORTS: [(&str, Transport); 8] = [
    ("nscc", Transport::Nscc),
    ("rccc", Transport::Rccc),
    ("nscc+rccc", Transport::NsccRccc),
    ("constant", Transport::Constant),
    ("swift", Transport::Swift),
    ("timely", Transport::Timely),
    ("theta-powertcp", Transport::ThetaPowerTcp),
    ("dcqcn", Transport::Dcqcn),
];

/// Load balancing of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// One way for all packets of a flow.
    Single,
    /// All ways in turn, whatever happens.
    Oblivious,
    /// All ways in turn, but for those lately marked.
    Bitmap,
    /// Ways that were good are used again.
    Reps,
    /// Bitmap at first, then REPS.
    Mixed,
}

const BALANCES: [(&str, Balance); 5] = [
    ("single", Balance::Single),
    ("oblivious", Balance::Oblivious),
    ("bitmap", Balance::Bitmap),
    ("reps", Balance::Reps),
    ("mixed", Balance::Mixed),
];

#[derive(Debug, Clone, Copy)]
enum Controller {
    Delay,
    Fixed,
}

/// The controllers by the names that users choose them by. A new one has a line here and an arm
/// in [`read_controller`].
const CONTROLLERS: [(&str, Controller); 2] =
    [("delay", Controller::Delay), ("fixed", Controller::Fixed)];

#[derive(Debug, Clone, Copy)]
enum Selector {
    LeastOutstanding,
    Adaptive,
    RoundRobin,
    Hash,
}

/// The selectors by name.
const SELECTORS: [(&str, Selector); 4] = [
    ("least-outstanding", Selector::LeastOutstanding),
    ("adaptive", Selector::Adaptive),
    ("round-robin", Selector::RoundRobin),
    ("hash", Selector::Hash),
];

pub(super) fn read(
    mut section: Section<'_>,
    fabric: &FabricSpec,
    deadline: Picos,
) -> Result<HostsSpec, ScenarioError> {
    let is_engine = match section.get("kind") {
        Some(field) => field.one_of("kind of host", &[("engine", true), ("reference", false)])?,
        None => true,
    };
    let spec = if is_engine {
        HostsSpec::Engine(Box::new(read_engine(&mut section, fabric, deadline)?))
    } else {
        let spec = HostsSpec::Reference(read_reference(&mut section, fabric)?);
        if !CAN_RUN_REFERENCES {
            return Err(section.error(
                "hosts.kind is \"reference\", which this build has no transports for; use \"engine\"".to_owned(),
            ));
        }
        spec
    };
    section.finish()?;
    Ok(spec)
}

/// A chunk costs the host no less: 1.5 million of them a second for each 400 Gb/s.
const CHUNK_TIME: Picos = Picos::from_nanos(667);
/// Chunks are whole lines of this many bytes.
const CHUNK_STEP: u64 = 128;

fn read_engine(
    section: &mut Section<'_>,
    fabric: &FabricSpec,
    deadline: Picos,
) -> Result<EngineSpec, ScenarioError> {
    let chunk = match section.get("chunk") {
        Some(field) => {
            let bytes = field.bytes()?;
            if !(1024..=16 << 20).contains(&bytes) || bytes % CHUNK_STEP != 0 {
                return Err(field.must_be("a multiple of 128 bytes from 1 KiB to 16 MiB"));
            }
            bytes
        }
        None => 32 << 10,
    };
    let paths = section
        .get("paths")
        .map_or(Ok(16), |field| field.count(1..=64))?;
    let controller = read_controller(section, fabric)?;
    let selector = match section.get("selector") {
        Some(field) => field.one_of("selector", &SELECTORS)?,
        None => Selector::LeastOutstanding,
    };
    let mut time = |name, default| match section.get(name) {
        Some(field) => field.delay(),
        None => Ok(default),
    };
    let chunk_time = time("chunk_time", CHUNK_TIME)?;
    let input_time = time("input_time", Picos::ZERO)?;
    let dial_time = time("dial_time", Picos::from_micros(500))?;
    let mut above_zero = |name, default| match section.get(name) {
        Some(field) => field.time(),
        None => Ok(default),
    };
    let tick = above_zero("tick", Picos::from_micros(10))?;
    let suspect = above_zero("suspect", Picos::from_micros(10_000))?;
    let dead = above_zero("dead", Picos::from_micros(80_000))?;
    let timeout = above_zero("timeout", Picos::from_micros(2_000))?;
    let mtu = match section.get("mtu") {
        Some(field) => u16::try_from(field.number(256..=9000)?).unwrap_or(9000),
        None => 4096,
    };
    let recovery = match section.get("recovery") {
        Some(field) => field.one_of(
            "loss recovery",
            &[
                ("selective", Recovery::Selective),
                ("go-back-n", Recovery::GoBackN),
            ],
        )?,
        None => Recovery::Selective,
    };
    let dcqcn = section
        .get("dcqcn")
        .map_or(Ok(false), |field| field.boolean())?;
    let ways = match section.get("ways") {
        Some(field) => {
            let known = [("unknown", Ways::Unknown), ("traced", Ways::Traced)];
            let ways = field.one_of("knowledge of ways", &known)?;
            if ways == Ways::Traced && !CAN_TRACE {
                return Err(field.error(
                    "is \"traced\", which the hosts of this build cannot do; use \"unknown\"",
                ));
            }
            ways
        }
        None => Ways::Unknown,
    };
    let engine = EngineConfig {
        paths_max: u8::try_from(paths).unwrap_or(64),
        search: false,
        eager_bytes: 0,
        chunk_bytes: u32::try_from(chunk).ok(),
        completions: Completions::Local,
        receive_depth: None,
        health: HealthConfig {
            suspect_min: Nanos(suspect.as_nanos()),
            dead_min: Nanos(dead.as_nanos()),
            ..HealthConfig::default()
        },
        // No peer dies in a scenario: what cannot go on is reported as stuck at the deadline.
        dead_peer: Nanos(deadline.as_nanos()) + Nanos::from_secs(1),
    };
    Ok(EngineSpec {
        host: HostConfig {
            engine,
            controller,
            selector: match selector {
                Selector::LeastOutstanding => {
                    AnySelector::LeastOutstanding(LeastOutstanding::default())
                }
                Selector::Adaptive => AnySelector::Adaptive(Adaptive),
                Selector::RoundRobin => AnySelector::RoundRobin(RoundRobin::default()),
                Selector::Hash => AnySelector::Hash(StaticHash),
            },
            chunk_time,
            input_time,
            tick,
            dial_time,
        },
        nic: NicConfig {
            mtu,
            recovery,
            timeout,
            dcqcn: dcqcn.then(|| DcqcnConfig::paper(gbps(fabric))),
        },
        ways,
    })
}

fn gbps(fabric: &FabricSpec) -> u64 {
    let Rate(bytes) = super::fabric::host_rate(&fabric.topology, 0);
    bytes * 8 / 1_000_000_000
}

fn read_controller(
    section: &mut Section<'_>,
    fabric: &FabricSpec,
) -> Result<AnyController, ScenarioError> {
    let controller = match section.get("controller") {
        Some(field) => field.one_of("controller", &CONTROLLERS)?,
        None => Controller::Fixed,
    };
    let mut window = |name, packets: u64| match section.get(name) {
        Some(field) => {
            let bytes = fabric.bytes(field.size()?);
            if bytes == 0 {
                return Err(field.must_be("above 0"));
            }
            Ok(Bytes(bytes))
        }
        None => Ok(Bytes(packets * super::fabric::PACKET_BYTES)),
    };
    let start = window("window", fabric.bdp_packets.saturating_mul(3).div_ceil(2))?;
    Ok(match controller {
        Controller::Fixed => AnyController::Fixed(Fixed::new(start)),
        Controller::Delay => {
            let window_min = window("window_min", 16)?;
            let window_max = window("window_max", fabric.bdp_packets.saturating_mul(4))?;
            let target_queue = match section.get("target_queue") {
                Some(field) => Nanos(field.time()?.as_nanos()),
                None => Nanos((fabric.round_trip / 2).as_nanos()),
            };
            if window_min > window_max {
                return Err(section.error(format!(
                    "hosts.window_min is {window_min}, above hosts.window_max {window_max}; exchange them"
                )));
            }
            AnyController::Delay(Delay::new(DelayConfig {
                target_queue,
                window_min,
                window_max,
                window_start: start,
            }))
        }
    })
}

fn read_reference(
    section: &mut Section<'_>,
    fabric: &FabricSpec,
) -> Result<ReferenceSpec, ScenarioError> {
    let transport = section
        .need("transport", "\"nscc\"")?
        .one_of("transport", &TRANSPORTS)?;
    let balance = match section.get("balance") {
        Some(field) => field.one_of("load balancer", &BALANCES)?,
        None => Balance::Mixed,
    };
    let paths = section
        .get("paths")
        .map_or(Ok(128), |field| field.count(1..=65_536))?;
    let mut size = |name| {
        let field = section.get(name);
        field
            .map(|field| Ok(fabric.bytes(field.size()?)))
            .transpose()
    };
    Ok(ReferenceSpec {
        transport,
        balance,
        paths,
        window: size("window")?,
        acknowledge_after: size("acknowledge_after")?,
    })
}
