//! The section `[hosts]`: what the hosts run, and with which settings.

use super::error::ScenarioError;
use super::fabric::FabricSpec;
use super::reader::Section;
use super::{Level, RunSpec};
use crate::control::{
    AnyController, Delay, DelayConfig, Fixed, Nscc, NsccConfig, Power, PowerConfig, Timely,
    TimelyConfig,
};
use crate::path::select::{
    Adaptive, AnySelector, LeastOutstanding, PowerOfTwo, RoundRobin, StaticHash, Weighted,
};
use crate::sim::dcqcn::DcqcnConfig;
use crate::sim::fabric::{Overflow, Routing};
use crate::sim::fluid::{self, FluidConfig};
use crate::sim::hosts::{Background, ControlClass, HostConfig, Ways};
use crate::sim::nic::{NicConfig, PACKET_OVERHEAD, Recovery};
use crate::sim::spray::window::Control;
use crate::sim::spray::{SprayConfig, balance};
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

    /// What the flow level knows of these hosts.
    #[must_use]
    pub fn fluid(&self, fabric: &FabricSpec, seed: u64) -> FluidConfig {
        let (payload, header) = self.packet();
        let is_adaptive = fabric.switch.routing != Routing::Hash;
        let balance = match self {
            _ if is_adaptive => fluid::Balance::Room,
            Self::Engine(spec) if spec.host.ways == Ways::Traced => {
                let chunk = spec.host.engine.chunk_bytes.unwrap_or(1);
                fluid::Balance::Turns(chunk.div_ceil(u32::from(spec.nic.mtu)))
            }
            Self::Engine(spec) => fluid::Balance::Paths(u32::from(spec.host.engine.paths_max)),
            Self::Reference(spec) => match spec.balance {
                Balance::Single => fluid::Balance::Single,
                Balance::Oblivious => fluid::Balance::Even,
                Balance::Bitmap | Balance::Reps | Balance::Mixed => fluid::Balance::Room,
            },
        };
        FluidConfig {
            payload,
            header,
            balance,
            quantum: fabric.round_trip / 100,
            seed,
        }
    }

    /// Refuses what decides the rates of flows and is not known at the flow level.
    fn check_for_flows(&self, section: &mut Section<'_>) -> Result<(), ScenarioError> {
        let refused = match self {
            Self::Engine(spec) if spec.nic.dcqcn.is_some() => match section.get("transport") {
                Some(field) => Some(field),
                None => section.get("dcqcn"),
            },
            Self::Engine(spec) => match spec.host.selector {
                AnySelector::RoundRobin(_) => section.get("selector"),
                AnySelector::Hash(_) if spec.host.engine.paths_max > 1 => section.get("selector"),
                _ if matches!(spec.host.controller, AnyController::Fixed(_)) => {
                    section.get("controller")
                }
                _ => None,
            },
            Self::Reference(spec) if matches!(spec.transport, Transport::Constant) => {
                section.get("transport")
            }
            Self::Reference(_) => None,
        };
        refused.map_or(Ok(()), |field| {
            Err(field.error(
                "is not known to run.level = \"flow\", where all senders have their fair share at once; choose another or remove run.level",
            ))
        })
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
    /// θ-PowerTCP.
    ThetaPowerTcp,
    /// TIMELY.
    Timely,
    /// DCQCN over go-back-N: what clusters run today.
    Dcqcn,
}

const TRANSPORTS: [(&str, Transport); 8] = [
    ("nscc", Transport::Nscc),
    ("rccc", Transport::Rccc),
    ("nscc+rccc", Transport::NsccRccc),
    ("constant", Transport::Constant),
    ("swift", Transport::Swift),
    ("theta-powertcp", Transport::ThetaPowerTcp),
    ("timely", Transport::Timely),
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
    Nscc,
    Power,
    Timely,
}

/// The controllers by the names that users choose them by. A new one has a line here and an arm
/// in [`read_controller`].
const CONTROLLERS: [(&str, Controller); 5] = [
    ("delay", Controller::Delay),
    ("fixed", Controller::Fixed),
    ("nscc", Controller::Nscc),
    ("power", Controller::Power),
    ("timely", Controller::Timely),
];

#[derive(Debug, Clone, Copy)]
enum Selector {
    LeastOutstanding,
    Weighted,
    PowerOfTwo,
    Adaptive,
    RoundRobin,
    Hash,
}

/// The selectors by name.
const SELECTORS: [(&str, Selector); 6] = [
    ("least-outstanding", Selector::LeastOutstanding),
    ("weighted", Selector::Weighted),
    ("power-of-two", Selector::PowerOfTwo),
    ("adaptive", Selector::Adaptive),
    ("round-robin", Selector::RoundRobin),
    ("hash", Selector::Hash),
];

/// The names by which algorithms are chosen, each list in the order in which it is shown.
#[derive(Debug, Clone)]
pub struct Choices {
    /// Controllers of the engine.
    pub controllers: Vec<&'static str>,
    /// Selectors of the engine.
    pub selectors: Vec<&'static str>,
    /// Reference transports.
    pub transports: Vec<&'static str>,
    /// Load balancers of the reference transports.
    pub balances: Vec<&'static str>,
}

impl Choices {
    /// All that there are.
    #[must_use]
    pub fn all() -> Self {
        fn names<T>(known: &[(&'static str, T)]) -> Vec<&'static str> {
            known.iter().map(|&(name, _)| name).collect()
        }
        Self {
            controllers: names(&CONTROLLERS),
            selectors: names(&SELECTORS),
            transports: names(&TRANSPORTS),
            balances: names(&BALANCES),
        }
    }
}

pub(super) fn read(
    mut section: Section<'_>,
    fabric: &FabricSpec,
    run: &RunSpec,
) -> Result<HostsSpec, ScenarioError> {
    let is_engine = match section.get("kind") {
        Some(field) => field.one_of("kind of host", &[("engine", true), ("reference", false)])?,
        None => true,
    };
    let spec = if is_engine {
        HostsSpec::Engine(Box::new(read_engine(&mut section, fabric, run.deadline)?))
    } else {
        let reference = read_reference(&mut section, fabric)?;
        if reference.transport == Transport::Dcqcn {
            HostsSpec::Engine(Box::new(today(fabric, run.deadline)))
        } else {
            HostsSpec::Reference(reference)
        }
    };
    if run.level == Level::Flow {
        spec.check_for_flows(&mut section)?;
    }
    section.finish()?;
    Ok(spec)
}

/// Chunks are whole lines of this many bytes.
const CHUNK_STEP: u64 = 128;

fn read_engine(
    section: &mut Section<'_>,
    fabric: &FabricSpec,
    deadline: Picos,
) -> Result<EngineSpec, ScenarioError> {
    let rate = super::fabric::host_rate(&fabric.topology, 0);
    let mut host = HostConfig::for_fabric(rate, Nanos(fabric.round_trip.as_nanos()));
    let chunk = match section.get("chunk") {
        Some(field) => {
            let bytes = field.bytes()?;
            if !(1024..=16 << 20).contains(&bytes) || bytes % CHUNK_STEP != 0 {
                return Err(field.must_be("a multiple of 128 bytes from 1 KiB to 16 MiB"));
            }
            bytes
        }
        None => u64::from(host.engine.chunk_bytes.unwrap_or(32 << 10)),
    };
    let paths = section
        .get("paths")
        .map_or(Ok(16), |field| field.count(1..=64))?;
    // Whoever says how much is in flight, or how large a chunk is, says it for all classes.
    let for_all = [
        "chunk",
        "controller",
        "window",
        "window_min",
        "window_max",
        "target_queue",
    ];
    let for_all = for_all.iter().any(|name| section.get(name).is_some());
    host.controller = read_controller(section, fabric, chunk)?;
    if for_all {
        host.background = Background {
            controller: host.controller.clone(),
            chunk_bytes: u32::try_from(chunk).unwrap_or(u32::MAX),
            ..host.background
        };
    }
    let selector = match section.get("selector") {
        Some(field) => field.one_of("selector", &SELECTORS)?,
        None => Selector::Weighted,
    };
    let mut time = |name, default| match section.get(name) {
        Some(field) => field.delay(),
        None => Ok(default),
    };
    let chunk_time = time("chunk_time", host.chunk_time)?;
    let input_time = time("input_time", host.input_time)?;
    let dial_time = time("dial_time", host.dial_time)?;
    let mut above_zero = |name, default| match section.get(name) {
        Some(field) => field.time(),
        None => Ok(default),
    };
    let tick = above_zero("tick", host.tick)?;
    let suspect = above_zero("suspect", Picos::from(host.engine.health.suspect_min))?;
    let dead = above_zero("dead", Picos::from(host.engine.health.dead_min))?;
    // Eight times what a chunk takes behind three others, and never less than adapters wait.
    let behind = rate.time_for(Bytes(4 * chunk));
    let patience = (fabric.round_trip + Picos::from(behind)) * 8;
    let timeout = above_zero("timeout", patience.max(Picos::from_micros(1_000)))?;
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
            field.one_of("knowledge of ways", &known)?
        }
        None => host.ways,
    };
    // What peers do, and choices that are meant to be static, stay as they are.
    let is_ours = matches!(selector, Selector::Weighted | Selector::LeastOutstanding);
    let rehash = section
        .get("rehash")
        .map_or(Ok(ways == Ways::Unknown && is_ours), |field| {
            field.boolean()
        })?;
    let control = match section.get("control_class") {
        Some(field) => {
            let known = [
                ("own", ControlClass::Own),
                ("of-data", ControlClass::OfData),
            ];
            field.one_of("class of control frames", &known)?
        }
        None => host.control,
    };
    let grants = section
        .get("grants")
        .map_or(Ok(true), |field| field.boolean())?;
    host.engine.rehash = rehash;
    host.engine.paths_max = u8::try_from(paths).unwrap_or(64);
    host.engine.chunk_bytes = u32::try_from(chunk).ok();
    host.engine.first_grant = grants.then_some(0);
    host.engine.health.suspect_min = Nanos(suspect.as_nanos());
    host.engine.health.dead_min = Nanos(dead.as_nanos());
    // No peer dies in a scenario: what cannot go on is reported as stuck at the deadline.
    host.engine.dead_peer = Nanos(deadline.as_nanos()) + Nanos::from_secs(1);
    host.admission.quantum = Bytes(4 * chunk);
    host.admission.unasked_min = Bytes(2 * chunk);
    host.selector = match selector {
        Selector::LeastOutstanding => AnySelector::LeastOutstanding(LeastOutstanding::default()),
        Selector::Weighted => AnySelector::Weighted(Weighted::default()),
        Selector::PowerOfTwo => AnySelector::PowerOfTwo(PowerOfTwo::default()),
        Selector::Adaptive => AnySelector::Adaptive(Adaptive),
        Selector::RoundRobin => AnySelector::RoundRobin(RoundRobin::default()),
        Selector::Hash => AnySelector::Hash(StaticHash),
    };
    host.chunk_time = chunk_time;
    host.input_time = input_time;
    host.tick = tick;
    host.dial_time = dial_time;
    host.ways = ways;
    host.control = control;
    Ok(EngineSpec {
        host,
        nic: NicConfig {
            mtu,
            recovery,
            timeout,
            dcqcn: dcqcn.then(|| DcqcnConfig::paper(gbps(fabric))),
        },
    })
}

/// What clusters run today: one queue pair for each connection, of which the adapter itself
/// controls the rate, and go-back-N. The host only hands the message over.
fn today(fabric: &FabricSpec, deadline: Picos) -> EngineSpec {
    let rate = super::fabric::host_rate(&fabric.topology, 0);
    let mut host = HostConfig::for_fabric(rate, Nanos(fabric.round_trip.as_nanos()));
    host.engine.paths_max = 1;
    host.engine.chunk_bytes = Some(4 << 20);
    host.engine.first_grant = None;
    host.engine.dead_peer = Nanos(deadline.as_nanos()) + Nanos::from_secs(1);
    host.controller = AnyController::Fixed(Fixed::new(Bytes::from_mib(1024)));
    host.background = Background {
        controller: host.controller.clone(),
        chunk_bytes: 4 << 20,
        ..host.background
    };
    host.selector = AnySelector::Hash(StaticHash);
    host.ways = Ways::Unknown;
    EngineSpec {
        host,
        nic: NicConfig {
            mtu: 4096,
            recovery: Recovery::GoBackN,
            timeout: Picos::from_micros(2_000),
            dcqcn: Some(DcqcnConfig::paper(gbps(fabric))),
        },
    }
}

impl ReferenceSpec {
    /// The transport on this fabric.
    #[must_use]
    pub fn spray(&self, fabric: &FabricSpec) -> SprayConfig {
        let rate = super::fabric::host_rate(&fabric.topology, 0);
        let mut config = SprayConfig::new(rate, fabric.round_trip);
        let queue = u64::from(fabric.switch.queue.capacity);
        config.set_queue(queue.div_ceil(super::fabric::PACKET_BYTES));
        config.trimming = fabric.switch.queue.overflow == Overflow::Trim;
        config.control = match self.transport {
            Transport::Rccc => Control::Open,
            Transport::Swift => Control::Swift,
            Transport::ThetaPowerTcp => Control::ThetaPower,
            Transport::Timely => Control::Timely,
            Transport::Constant => Control::Constant(self.window.unwrap_or(config.window_first)),
            Transport::Nscc | Transport::NsccRccc | Transport::Dcqcn => Control::Nscc,
        };
        config.credit = matches!(self.transport, Transport::Rccc | Transport::NsccRccc);
        config.balance = match self.balance {
            Balance::Single | Balance::Oblivious => balance::Balance::Oblivious,
            Balance::Bitmap => balance::Balance::Bitmap,
            Balance::Reps => balance::Balance::Reps,
            Balance::Mixed => balance::Balance::Mixed,
        };
        config.paths = match self.balance {
            Balance::Single => 1,
            _ => u16::try_from(self.paths.next_power_of_two()).unwrap_or(1 << 15),
        };
        config.window_first = self.window.unwrap_or(config.window_first);
        if let Some(bytes) = self.acknowledge_after {
            config.ack_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
        config
    }
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
    let mut window = |name, default: u64| match section.get(name) {
        Some(field) => {
            let bytes = fabric.window_bytes(field.size()?);
            if bytes == 0 {
                return Err(field.must_be("above 0"));
            }
            Ok(Bytes(bytes))
        }
        None => Ok(Bytes(default)),
    };
    let bdp = fabric
        .host_bdp_packets()
        .saturating_mul(super::fabric::PACKET_BYTES);
    let round_trip = Nanos(fabric.round_trip.as_nanos());
    let defaults = DelayConfig::for_fabric(Bytes(bdp), round_trip, Bytes(chunk));
    let start = window("window", defaults.window_start.0)?;
    if matches!(controller, Controller::Fixed) {
        return Ok(AnyController::Fixed(Fixed::new(start)));
    }
    let window_min = window("window_min", defaults.window_min.0.min(start.0))?;
    let window_max = window("window_max", start.0)?;
    if window_min > window_max {
        return Err(section.error(format!(
            "hosts.window_min is {window_min}, above hosts.window_max {window_max}; exchange them"
        )));
    }
    let target_queue = match section.get("target_queue") {
        Some(field) => Nanos(field.time()?.as_nanos()),
        None => defaults.target_queue,
    };
    Ok(match controller {
        Controller::Nscc => AnyController::Nscc(Nscc::new(NsccConfig {
            target_queue,
            bdp: Bytes(bdp),
            window_min,
            window_max,
            window_start: start,
        })),
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
            queue_low: target_queue / 2,
            queue_high: target_queue * 4,
        })),
        Controller::Delay | Controller::Fixed => AnyController::Delay(Delay::new(DelayConfig {
            target_queue,
            window_min,
            window_max,
            window_start: start,
            ..defaults
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
