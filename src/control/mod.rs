//! How much may be in flight on a link: one window for all its paths.
//!
//! A path sees too few samples for a window of its own, and a few bad paths must not collapse
//! the whole; so the controllers here judge the median of recent samples of all paths. How the
//! window is shared out among the paths is the selector's business (`path`).

#[cfg(test)]
mod bottleneck;
mod delay;
mod fixed;
pub(crate) mod median;
mod nscc;
mod power;
mod timely;

pub use delay::{Delay, DelayConfig, RDMA_ROUND_TRIP};
pub use fixed::Fixed;
pub use nscc::{Nscc, NsccConfig};
pub use power::{Power, PowerConfig};
pub use timely::{Timely, TimelyConfig};

use crate::clock::Timestamp;
use crate::units::{Bytes, Nanos};

/// One observation of a path.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When it was made.
    pub now: Timestamp,
    /// Round trip of the transport, without what we ourselves had queued ahead in the host.
    pub rtt: Nanos,
    /// Smallest round trip this path has shown.
    pub rtt_min: Nanos,
    /// Bytes acknowledged since the last sample of the link.
    pub acked: Bytes,
    /// Bytes in flight on the link when it was made.
    pub in_flight: Bytes,
    /// Of those acknowledged, bytes that were marked on their way (ECN); `None`: the transport
    /// does not know.
    pub marked: Option<Bytes>,
}

/// Decides how many bytes may be in flight on a link, from the samples of all its paths.
///
/// Deterministic: time comes with the samples, and nothing else goes in.
pub trait Controller {
    /// The name users choose it by.
    fn name(&self) -> &'static str;
    /// Takes one sample in.
    fn on_sample(&mut self, sample: &Sample);
    /// A path was fenced: what it carried is gone from the network.
    fn on_path_lost(&mut self, now: Timestamp);
    /// The slow signal: whether the network has asked one of the link's ports for less of late
    /// (congestion notifications, pauses), as its adapter counts it, for all links of the host
    /// together. Comes every 10 ms. Most ignore it.
    fn on_notified(&mut self, _notified: bool) {}
    /// Bytes that may be in flight on the link.
    fn window(&self) -> Bytes;
}

/// The controllers, dispatched without a heap object or a virtual call on the data path.
#[derive(Debug, Clone)]
pub enum AnyController {
    /// Keeps the queueing delay near a target.
    Delay(Delay),
    /// A constant.
    Fixed(Fixed),
    /// Follows marks and delay.
    Nscc(Nscc),
    /// Follows the power that the network sees.
    Power(Power),
    /// Follows the gradient of the delay.
    Timely(Timely),
}

impl Controller for AnyController {
    fn name(&self) -> &'static str {
        match self {
            Self::Delay(c) => c.name(),
            Self::Fixed(c) => c.name(),
            Self::Nscc(c) => c.name(),
            Self::Power(c) => c.name(),
            Self::Timely(c) => c.name(),
        }
    }

    fn on_sample(&mut self, sample: &Sample) {
        match self {
            Self::Delay(c) => c.on_sample(sample),
            Self::Fixed(c) => c.on_sample(sample),
            Self::Nscc(c) => c.on_sample(sample),
            Self::Power(c) => c.on_sample(sample),
            Self::Timely(c) => c.on_sample(sample),
        }
    }

    fn on_path_lost(&mut self, now: Timestamp) {
        match self {
            Self::Delay(c) => c.on_path_lost(now),
            Self::Fixed(c) => c.on_path_lost(now),
            Self::Nscc(c) => c.on_path_lost(now),
            Self::Power(c) => c.on_path_lost(now),
            Self::Timely(c) => c.on_path_lost(now),
        }
    }

    fn on_notified(&mut self, notified: bool) {
        match self {
            Self::Delay(c) => c.on_notified(notified),
            Self::Fixed(c) => c.on_notified(notified),
            Self::Nscc(c) => c.on_notified(notified),
            Self::Power(c) => c.on_notified(notified),
            Self::Timely(c) => c.on_notified(notified),
        }
    }

    fn window(&self) -> Bytes {
        match self {
            Self::Delay(c) => c.window(),
            Self::Fixed(c) => c.window(),
            Self::Nscc(c) => c.window(),
            Self::Power(c) => c.window(),
            Self::Timely(c) => c.window(),
        }
    }
}

#[cfg(test)]
mod model {
    //! One harness for every controller: whatever comes in, the window stays within its bounds.

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Operation {
        Sample {
            wait_us: u32,
            rtt_us: u32,
            min_us: u32,
            acked: u32,
            in_flight: u32,
            marked: Option<u32>,
        },
        PathLost {
            wait_us: u32,
        },
        Notified(bool),
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let sample = (
            0u32..100_000,
            0u32..10_000_000,
            0u32..100_000,
            any::<u32>(),
            any::<u32>(),
            any::<Option<u32>>(),
        )
            .prop_map(|(wait_us, rtt_us, min_us, acked, in_flight, marked)| {
                Operation::Sample {
                    wait_us,
                    rtt_us,
                    min_us,
                    acked,
                    in_flight,
                    marked,
                }
            });
        let lost = (0u32..100_000).prop_map(|wait_us| Operation::PathLost { wait_us });
        prop::collection::vec(
            prop_oneof![
                9 => sample,
                1 => lost,
                1 => any::<bool>().prop_map(Operation::Notified),
            ],
            1..400,
        )
    }

    fn run(mut controller: AnyController, bounds: (Bytes, Bytes), operations: &[Operation]) {
        let mut now = Timestamp::from_nanos(1);
        for operation in operations {
            match *operation {
                Operation::Sample {
                    wait_us,
                    rtt_us,
                    min_us,
                    acked,
                    in_flight,
                    marked,
                } => {
                    now += Nanos::from_micros(u64::from(wait_us));
                    controller.on_sample(&Sample {
                        now,
                        rtt: Nanos::from_micros(u64::from(rtt_us)),
                        rtt_min: Nanos::from_micros(u64::from(min_us)),
                        acked: Bytes(u64::from(acked)),
                        in_flight: Bytes(u64::from(in_flight)),
                        marked: marked.map(|bytes| Bytes(u64::from(bytes))),
                    });
                }
                Operation::PathLost { wait_us } => {
                    now += Nanos::from_micros(u64::from(wait_us));
                    controller.on_path_lost(now);
                }
                Operation::Notified(notified) => controller.on_notified(notified),
            }
            let window = controller.window();
            assert!(
                window >= bounds.0 && window <= bounds.1,
                "{window:?} outside {bounds:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn windows_stay_within_bounds(operations in operations()) {
            let config = DelayConfig::default();
            run(
                AnyController::Delay(Delay::new(config)),
                (config.window_min, config.window_max),
                &operations,
            );
            let (window_min, window_max) = (config.window_min, config.window_max);
            let power = PowerConfig {
                window_min,
                window_max,
                window_start: config.window_start,
                increase: Bytes(32 << 10),
            };
            run(AnyController::Power(Power::new(power)), (window_min, window_max), &operations);
            let timely = TimelyConfig {
                window_min,
                window_max,
                line_rate: crate::units::Rate::from_mbps(400_000),
                queue_low: Nanos::from_micros(4),
                queue_high: Nanos::from_micros(32),
            };
            run(AnyController::Timely(Timely::new(timely)), (window_min, window_max), &operations);
            let nscc = NsccConfig {
                target_queue: config.target_queue,
                bdp: Bytes(25 << 20),
                window_min,
                window_max,
                window_start: config.window_start,
            };
            run(AnyController::Nscc(Nscc::new(nscc)), (window_min, window_max), &operations);
            let constant = Bytes(1 << 20);
            run(AnyController::Fixed(Fixed::new(constant)), (constant, constant), &operations);
        }
    }

    /// One round trip over a bottleneck of so many bytes a second that is always kept full, with
    /// the sample that it gives: the queue it met.
    pub(super) fn round_trip(
        controller: &mut impl Controller,
        rate: u64,
        base: Nanos,
        now: &mut Timestamp,
    ) -> Nanos {
        let window = controller.window();
        let carry = u128::from(window.0) * 1_000_000_000 / u128::from(rate);
        let rtt = Nanos(u64::try_from(carry).unwrap()).max(base);
        *now += rtt;
        controller.on_sample(&Sample {
            now: *now,
            rtt,
            rtt_min: base,
            acked: window,
            in_flight: window,
            marked: None,
        });
        rtt - base
    }

    /// A link with one queue: the window settles where the queueing delay is near the target.
    #[test]
    fn delay_settles_at_its_target() {
        let config = DelayConfig::default();
        for (rate, base) in [
            (62_500_000u64, 200u64),
            (250_000_000, 100),
            (12_500_000_000, 20),
        ] {
            let mut controller = Delay::new(config);
            let mut now = Timestamp::from_nanos(1);
            let mut queue = Nanos(0);
            for _ in 0..4000 {
                queue = round_trip(&mut controller, rate, Nanos::from_micros(base), &mut now);
            }
            let target = config.target_queue.0;
            let at_floor = controller.window() == config.window_min;
            let at_ceiling = controller.window() == config.window_max;
            assert!(
                at_floor || at_ceiling || (queue.0 > target / 3 && queue.0 < target * 2),
                "queue {queue:?} for a target of {target} ns at {rate} B/s"
            );
        }
    }
}
