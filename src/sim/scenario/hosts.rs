//! The section `[hosts]`: what the hosts run, and with which settings.

use super::error::ScenarioError;
use super::fabric::FabricSpec;
use super::play::CAN_RUN_REFERENCES;
use super::reader::Section;
use crate::control::{
    AnyController, Delay, DelayConfig, Fixed, Power, PowerConfig, Timely, TimelyConfig,
};
use crate::engine::admission::AdmissionConfig;
use crate::engine::{Completions, EngineConfig};
use crate::path::health::HealthConfig;
use crate::path::select::{
    Adaptive, AnySelector, LeastOutstanding, PowerOfTwo, RoundRobin, StaticHash,
};
use crate::sim::dcqcn::DcqcnConfig;
use crate::sim::hosts::{HostConfig, Ways};
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
    Power,
    Timely,
}

/// The controllers by the names that users choose them by. A new one has a line here and an arm
/// in [`read_controller`].
const CONTROLLERS: [(&str, Controller); 4] = [
    ("delay", Controller::Delay),
    ("fixed", Controller::Fixed),
    ("power", Controller::Power),
    ("timely", Controller::Timely),
];

#[derive(Debug, Clone, Copy)]
enum Selector {
    LeastOutstanding,
    PowerOfTwo,
    Adaptive,
    RoundRobin,
    Hash,
}

/// The selectors by name.
const SELECTORS: [(&str, Selector); 5] = [
    ("least-outstanding", Selector::LeastOutstanding),
    ("power-of-two", Selector::PowerOfTwo),
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

/// A chunk and its completion cost the host so much together that it moves 1.5 million of them a
/// second, as measured on the real engine.
const CHUNK_TIME: Picos = Picos::from_nanos(567);
/// Of which a completion takes this.
const INPUT_TIME: Picos = Picos::from_nanos(100);
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
    let controller = read_controller(section, fabric, chunk)?;
    let selector = match section.get("selector") {
        Some(field) => field.one_of("selector", &SELECTORS)?,
        None => Selector::LeastOutstanding,
    };
    let round_trip = fabric.round_trip;
    let mut time = |name, default| match section.get(name) {
        Some(field) => field.delay(),
        None => Ok(default),
    };
    let chunk_time = time("chunk_time", CHUNK_TIME)?;
    let input_time = time("input_time", INPUT_TIME)?;
    let dial_time = time("dial_time", Picos::from_micros(500))?;
    let mut above_zero = |name, default| match section.get(name) {
        Some(field) => field.time(),
        None => Ok(default),
    };
    let tick = above_zero("tick", round_trip / 2)?;
    let suspect = above_zero("suspect", round_trip * 3)?;
    let dead = above_zero("dead", round_trip * 16)?;
    let timeout = above_zero("timeout", Picos::from_micros(1_000))?;
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
    let grants = section
        .get("grants")
        .map_or(Ok(true), |field| field.boolean())?;
    let dcqcn = section
        .get("dcqcn")
        .map_or(Ok(false), |field| field.boolean())?;
    let ways = match section.get("ways") {
        Some(field) => {
            let known = [("unknown", Ways::Unknown), ("traced", Ways::Traced)];
            field.one_of("knowledge of ways", &known)?
        }
        None => Ways::Traced,
    };
    let nanos = |time: Picos| Nanos(time.as_nanos());
    let bdp = fabric.host_bdp_packets() * super::fabric::PACKET_BYTES;
    let engine = EngineConfig {
        paths_max: u8::try_from(paths).unwrap_or(64),
        search: false,
        eager_bytes: 0,
        chunk_bytes: u32::try_from(chunk).ok(),
        completions: Completions::Local,
        receive_depth: None,
        first_grant: grants.then_some(0),
        health: HealthConfig {
            suspect_min: nanos(suspect),
            dead_min: nanos(dead),
            dead_max: nanos((round_trip * 200).max(dead)),
            probe_gap: nanos(round_trip * 2),
            sibling_span: nanos(round_trip),
            sibling_lately: nanos(round_trip * 2),
            fence_repeat: nanos(round_trip * 2),
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
                Selector::PowerOfTwo => AnySelector::PowerOfTwo(PowerOfTwo::default()),
                Selector::Adaptive => AnySelector::Adaptive(Adaptive),
                Selector::RoundRobin => AnySelector::RoundRobin(RoundRobin::default()),
                Selector::Hash => AnySelector::Hash(StaticHash),
            },
            chunk_time,
            input_time,
            tick,
            admission: AdmissionConfig {
                bdp: Bytes(bdp),
                quantum: Bytes(4 * chunk),
                unasked_min: Bytes(chunk),
            },
            ways,
            dial_time,
        },
        nic: NicConfig {
            mtu,
            recovery,
            timeout,
            dcqcn: dcqcn.then(|| DcqcnConfig::paper(gbps(fabric))),
        },
    })
}

fn gbps(fabric: &FabricSpec) -> u64 {
    let Rate(bytes) = super::fabric::host_rate(&fabric.topology, 0);
    bytes * 8 / 1_000_000_000
}

fn read_controller(
    section: &mut Section<'_>,
    fabric: &FabricSpec,
    chunk: u64,
) -> Result<AnyController, ScenarioError> {
    let controller = match section.get("controller") {
        Some(field) => field.one_of("controller", &CONTROLLERS)?,
        None => Controller::Delay,
    };
    let bdp = fabric.host_bdp_packets() * super::fabric::PACKET_BYTES;
    let mut window = |name, default| match section.get(name) {
        Some(field) => match fabric.window_bytes(field.size()?) {
            0 => Err(field.must_be("above 0")),
            bytes => Ok(Bytes(bytes)),
        },
        None => Ok(Bytes(default)),
    };
    // One and a half, as the reference begins: the excess is the least queue that keeps a link
    // busy whose paths are not all alike.
    let start = window("window", bdp.saturating_mul(3).div_ceil(2))?;
    if matches!(controller, Controller::Fixed) {
        return Ok(AnyController::Fixed(Fixed::new(start)));
    }
    let window_max = window("window_max", start.0)?;
    let window_min = window("window_min", (2 * chunk).min(window_max.0))?;
    if window_min > window_max {
        return Err(section.error(format!(
            "hosts.window_min is {window_min}, above hosts.window_max {window_max}; exchange them"
        )));
    }
    let round_trip = Nanos(fabric.round_trip.as_nanos());
    Ok(match controller {
        Controller::Fixed | Controller::Delay => {
            let target_queue = match section.get("target_queue") {
                Some(field) => Nanos(field.time()?.as_nanos()),
                None => round_trip.scale(3, 4),
            };
            AnyController::Delay(Delay::new(DelayConfig {
                target_queue,
                increase: Bytes(chunk),
                probe_start: false,
                window_min,
                window_max,
                window_start: start,
            }))
        }
        Controller::Power => AnyController::Power(Power::new(PowerConfig {
            window_min,
            window_max,
            window_start: start,
            increase: Bytes(chunk),
        })),
        Controller::Timely => AnyController::Timely(Timely::new(TimelyConfig {
            window_min,
            window_max,
            line_rate: super::fabric::host_rate(&fabric.topology, 0),
            queue_low: round_trip.scale(1, 4),
            queue_high: round_trip,
        })),
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
            .map(|field| Ok(fabric.window_bytes(field.size()?)))
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
