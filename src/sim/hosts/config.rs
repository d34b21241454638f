//! What hosts are like, and what they are like unless somebody says otherwise.

use crate::control::{AnyController, Delay, DelayConfig};
use crate::engine::admission::AdmissionConfig;
use crate::engine::{Completions, EngineConfig, bitmap};
use crate::path::health::HealthConfig;
use crate::path::select::{AnySelector, Weighted};
use crate::sim::time::Picos;
use crate::units::{Bytes, Nanos, Rate};

/// What a host is like.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Its links' engines; `chunk_bytes` is set, completions are local.
    pub engine: EngineConfig,
    /// What decides how much is in flight on a link, at its start.
    pub controller: AnyController,
    /// What chooses paths, at its start.
    pub selector: AnySelector,
    /// Time of the sending processor for a chunk.
    pub chunk_time: Picos,
    /// Time of either processor for a completion or a control frame.
    pub input_time: Picos,
    /// Links are looked after (silence, timers) so often while something is in flight.
    pub tick: Picos,
    /// Grants of each receiving host, if its engines ask for them.
    pub admission: AdmissionConfig,
    /// What differs for links of hosts that have others of a more urgent class.
    pub background: Background,
    /// Whether a host learns which switches a source port leads through before it uses it.
    pub ways: Ways,
    /// The class of control frames.
    pub control: ControlClass,
    /// From the wish for a path until it is there: handshake and the states of two queue pairs.
    pub dial_time: Picos,
    /// Keeps what each link's engines are told and answer: [`EngineHosts::tape`](super::EngineHosts::tape).
    pub taped: bool,
}

/// How a link behaves whose traffic goes through the gaps that a more urgent class leaves: it waits
/// for them in the network, which shows as delay and is no congestion, and what it costs the host
/// it takes from the other.
#[derive(Debug, Clone)]
pub struct Background {
    /// What decides how much is in flight, at its start.
    pub controller: AnyController,
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
    /// So many times longer than elsewhere nothing is thought of a path that is silent or overtaken:
    /// the other class may hold up one way and not its siblings.
    pub patience: u64,
}

/// Which class of the fabric control frames travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlClass {
    /// That of the data, in the same queue pair: behind it.
    OfData,
    /// Their own, ahead of all data, over a second queue pair for each path: what NCCL does where
    /// `NCCL_IB_FIFO_TC` is set.
    Own,
}

/// How source ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// At random: some ways get several paths, others none.
    Unknown,
    /// A host asks where a port leads, by probes with a small time to live that switches answer,
    /// and takes ports so that its paths share ways as little as possible.
    Traced,
}

impl HostConfig {
    /// The engine as it is meant to be used on a fabric of this link rate and idle round trip; the
    /// suite of control scenes is where these values were chosen.
    #[must_use]
    pub fn for_fabric(rate: Rate, round_trip: Nanos) -> Self {
        let bdp = rate.bytes_in(round_trip);
        // 1.5 million chunks a second, sent and completed.
        let chunk_time = Picos::from_nanos(567);
        // A tenth of what is in the network, so that there is something to choose a path for; but
        // no less than the processor sends at the link's rate, and than fills the network with the
        // chunks that one message may have in flight (whose lowest missing one is known to 64).
        let tenth = 1 << (bdp.0 / 10).max(1).ilog2();
        let sent = rate.bytes_in(Nanos(chunk_time.as_nanos())).0;
        let filling = DelayConfig::fabric_window(bdp).0 / u64::from(bitmap::WINDOW - 64);
        let least = sent.max(filling).next_power_of_two();
        let chunk = tenth.clamp(4 << 10, 32 << 10).max(least);
        let delay = DelayConfig::for_fabric(bdp, round_trip, Bytes(chunk));
        Self {
            engine: EngineConfig {
                ports: 1,
                paths_max: 16,
                search: false,
                rehash: false,
                reroute: false,
                // Small messages take the same way as large ones, and links cost less memory.
                eager_bytes: 0,
                chunk_bytes: Some(chunk as u32),
                completions: Completions::Local,
                receive_depth: None,
                first_grant: Some(0),
                health: HealthConfig {
                    suspect_min: round_trip * 3,
                    dead_min: round_trip * 16,
                    dead_max: round_trip * 200,
                    probe_gap: round_trip * 2,
                    sibling_span: round_trip,
                    sibling_lately: round_trip * 2,
                    fence_repeat: round_trip * 2,
                },
                dead_peer: Nanos::from_secs(1),
            },
            controller: AnyController::Delay(Delay::new(delay)),
            selector: AnySelector::Weighted(Weighted::default()),
            admission: AdmissionConfig {
                bdp: bdp.max(delay.window_min),
                quantum: Bytes(4 * chunk),
                unasked_min: Bytes(2 * chunk),
            },
            background: Background {
                controller: AnyController::Delay(Delay::new(DelayConfig {
                    target_queue: round_trip * 4,
                    window_max: bdp * 2,
                    window_start: bdp * 2,
                    ..delay
                })),
                chunk_bytes: (chunk + chunk / 4) as u32,
                patience: 4,
            },
            ways: Ways::Traced,
            control: ControlClass::Own,
            chunk_time,
            input_time: Picos::from_nanos(100),
            tick: Picos::from(round_trip / 2),
            dial_time: Picos::from_micros(500),
            taped: false,
        }
    }
}
