//! The sender control of Ultra Ethernet (NSCC), fed with samples of many packets: what to do
//! depends on whether what was acknowledged had been marked (ECN), and on whether its queueing
//! delay was above the target.
//!
//! | | below the target | above it |
//! |---|---|---|
//! | not marked | grow by what the delay leaves to the target | grow by a fixed step: the queue that made the delay has drained since |
//! | marked | nothing: one path was full, which is the selector's business | shrink, at most once per round trip |
//!
//! A sample speaks of many packets: the unmarked share of its bytes earns growth, any marked byte
//! makes it shrink. As in MNSCC (arXiv 2509.07907), the delay is the median of recent samples of
//! all paths. Where the transport knows of no marks, a delay above the target is taken for one:
//! without that the window would never shrink.

use super::median::Median;
use super::{Controller, Sample};
use crate::clock::Timestamp;
use crate::units::{Bytes, Nanos};

/// What [`Nscc`] aims at.
#[derive(Debug, Clone, Copy)]
pub struct NsccConfig {
    /// Queueing delay to hold where no mark says otherwise.
    pub target_queue: Nanos,
    /// Bytes that the link carries in a round trip: the measure of all steps.
    pub bdp: Bytes,
    /// Never less in flight.
    pub window_min: Bytes,
    /// Never more in flight.
    pub window_max: Bytes,
    /// Window at the start.
    pub window_start: Bytes,
}

// Constants of the Ultra Ethernet simulator (uec.cpp, `initNsccParams`) at its reference network of
// 100 Gb/s, 12 us and packets of 4086 bytes; there they are shares of its 150000 bytes.

/// A packet's share of the bandwidth-delay product: bytes of the product for each.
const STEP_SHARE: u64 = 37;
/// Steps that a window without any delay earns below the target.
const PROPORTIONAL: u64 = 3;
/// Steps that an unmarked window earns above it.
const FAIR: u64 = 5;
/// Of a step, for every round trip whatever happens: percent.
const ALWAYS_PERCENT: u64 = 15;
/// The network is idle where the delay is below the target's twelfth: 1 us of 12.
const IDLE_SHARE: u64 = 12;
/// A share of what is acknowledged while the network is idle: a quarter.
const FAST_SHARE: u64 = 4;
/// Of the excess, percent: how far the window shrinks, but never by more than half.
const DECREASE_PERCENT: u64 = 80;
const DECREASE_MAX_PERCENT: u64 = 50;
/// So many targets of delay, and less than this share of the largest window achieved: adapt.
const ADAPT_TARGETS: u64 = 4;
const ADAPT_SHARE: u64 = 8;

/// A window moved by marks and delay.
#[derive(Debug, Clone)]
pub struct Nscc {
    config: NsccConfig,
    window: u64,
    /// The last queueing delays of any path, ns.
    queues_ns: Median,
    shrunk_at: Timestamp,
    /// The last growth that is due every round trip.
    grown_at: Timestamp,
    /// Bytes acknowledged in a row on an idle network.
    idle_bytes: u64,
    /// Quick adaptation: bytes acknowledged since the round began.
    achieved: u64,
    round_at: Option<Timestamp>,
}

impl Nscc {
    /// A window at its start.
    #[must_use]
    pub fn new(config: NsccConfig) -> Self {
        let (least, most) = (config.window_min.0, config.window_max.0);
        Self {
            config,
            window: config.window_start.0.clamp(least, most),
            queues_ns: Median::default(),
            shrunk_at: Timestamp::ZERO,
            grown_at: Timestamp::ZERO,
            idle_bytes: 0,
            achieved: 0,
            round_at: None,
        }
    }

    fn step(&self) -> u64 {
        self.config.bdp.0 / STEP_SHARE
    }

    /// So many steps for a whole window, of which these bytes are a part.
    fn earned(&self, steps: u64, bytes: u64) -> u64 {
        Bytes(self.step() * steps)
            .scale(bytes, self.window.max(1))
            .0
    }

    fn grow(&mut self, sample: &Sample, unmarked: u64, queue: u64) {
        let target = self.config.target_queue.0.max(1);
        if queue >= target {
            self.window += self.earned(FAIR, unmarked);
        } else {
            self.idle_bytes = if queue < target / IDLE_SHARE {
                self.idle_bytes.saturating_add(unmarked)
            } else {
                0
            };
            self.window += if self.idle_bytes > self.window {
                unmarked / FAST_SHARE
            } else {
                let most = Nanos(self.earned(PROPORTIONAL, unmarked));
                most.scale(target - queue, target).0
            };
        }
        if sample.now.since(self.grown_at) >= sample.rtt {
            self.grown_at = sample.now;
            self.window += self.step() * ALWAYS_PERCENT / 100;
        }
    }

    fn shrink(&mut self, sample: &Sample, queue: u64) {
        self.has_shrunk(sample.now);
        let excess = Nanos(queue - self.config.target_queue.0);
        let cut = excess.scale(DECREASE_PERCENT, queue.max(1)).0;
        self.window -= self.window / 100 * cut.min(DECREASE_MAX_PERCENT);
    }

    fn has_shrunk(&mut self, now: Timestamp) {
        self.shrunk_at = now;
        self.idle_bytes = 0;
        self.queues_ns = Median::default();
    }

    /// Whether the window has become what arrived in the last round: many more senders than before
    /// share the way, and halving once per round trip would take too long.
    fn adapt(&mut self, sample: &Sample, queue: u64) -> bool {
        let round = sample.rtt_min + self.config.target_queue;
        let began = *self.round_at.get_or_insert(sample.now);
        let elapsed = sample.now.since(began);
        if elapsed < round {
            return false;
        }
        let achieved = Bytes(self.achieved).scale(round.0, elapsed.0.max(1)).0;
        // A window in use gives a sample in every round trip: a longer time has been a rest.
        let adapts = elapsed <= round + sample.rtt * 2
            && queue > self.config.target_queue.0.saturating_mul(ADAPT_TARGETS)
            && achieved < self.config.window_max.0 / ADAPT_SHARE;
        if adapts {
            self.window = self.window.min(achieved).max(self.config.window_min.0);
            self.has_shrunk(sample.now);
        }
        self.achieved = 0;
        self.round_at = Some(sample.now);
        adapts
    }
}

impl Controller for Nscc {
    fn name(&self) -> &'static str {
        "nscc"
    }

    fn on_sample(&mut self, sample: &Sample) {
        let acked = sample.acked.0.min(self.window);
        let latest = sample.rtt.0.saturating_sub(sample.rtt_min.0);
        self.achieved += acked;
        // What left before the window last shrank speaks of the queue that it shrank for.
        if self.adapt(sample, latest) || sample.now.since(self.shrunk_at) < sample.rtt {
            return;
        }
        self.queues_ns.push(latest);
        let queue = self.queues_ns.get();
        let is_late = queue >= self.config.target_queue.0;
        let marked = match sample.marked {
            Some(marked) => marked.0.min(acked),
            None if is_late => acked,
            None => 0,
        };
        // A window that isn't used says nothing about what the network would bear.
        if sample.in_flight.0 >= self.window / 2 {
            self.grow(sample, acked - marked, queue);
        }
        if is_late && marked > 0 {
            self.shrink(sample, queue);
        }
        let (least, most) = (self.config.window_min.0, self.config.window_max.0);
        self.window = self.window.clamp(least, most);
    }

    fn on_path_lost(&mut self, _now: Timestamp) {
        // The delays of the lost path are no measure of those that stay.
        self.queues_ns = Median::default();
    }

    fn window(&self) -> Bytes {
        Bytes(self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Nanos = Nanos::from_micros(10);
    const BDP: Bytes = Bytes(370_000);

    /// A window of one bandwidth-delay product after a few round trips of so much queue, in each of
    /// which this share of the bytes was marked.
    fn after(queue: Nanos, marked_percent: Option<u64>) -> Nscc {
        let mut nscc = Nscc::new(NsccConfig {
            target_queue: Nanos::from_micros(8),
            bdp: BDP,
            window_min: Bytes(64 << 10),
            window_max: BDP * 2,
            window_start: BDP,
        });
        for trip in 1..=4 {
            let window = nscc.window();
            nscc.on_sample(&Sample {
                now: Timestamp::from_nanos(1_000_000) + (BASE + queue) * trip,
                rtt: BASE + queue,
                rtt_min: BASE,
                acked: window,
                in_flight: window,
                marked: marked_percent.map(|percent| window.scale(percent, 100)),
            });
        }
        nscc
    }

    #[test]
    fn marks_and_delay_make_four_cases() {
        let micros = Nanos::from_micros;
        let step = BDP.0 / STEP_SHARE;
        let always = 4 * (step * ALWAYS_PERCENT / 100);
        let window = |queue, marked| after(micros(queue), marked).window().0;
        let near = |value: u64, wanted: u64| value.abs_diff(wanted) <= 8;
        // Neither: half of the way to the target is left, so half of the steps.
        let grown = window(4, Some(0));
        assert!(
            near(grown, BDP.0 + 4 * PROPORTIONAL * step / 2 + always),
            "{grown}"
        );
        // Late but not marked: a step that does not depend on how late.
        let fair = BDP.0 + 4 * FAIR * step + always;
        assert!(near(window(9, Some(0)), fair) && near(window(30, Some(0)), fair));
        // Marked but not late: only what is always due.
        assert!(near(window(4, Some(100)), BDP.0 + always));
        // Both: 80 % of the excess, in each round trip.
        let shrunk = window(16, Some(100));
        assert!(shrunk < BDP.0 / 2, "{shrunk}");
        // Half marked earns half.
        assert!(near(
            window(4, Some(50)),
            BDP.0 + 4 * PROPORTIONAL * step / 4 + always
        ));
    }

    #[test]
    fn without_marks_a_delay_above_the_target_is_one() {
        let micros = Nanos::from_micros;
        assert!(after(micros(16), None).window() == after(micros(16), Some(100)).window());
        assert!(after(micros(4), None).window() == after(micros(4), Some(0)).window());
    }

    #[test]
    fn an_idle_network_is_filled_fast() {
        // A quarter more in each round trip, after a whole window without delay.
        let window = after(Nanos::ZERO, Some(0)).window();
        assert!(window > BDP.scale(3, 2), "{window:?}");
    }

    #[test]
    fn a_great_incast_leaves_what_arrives() {
        let mut nscc = after(Nanos::ZERO, Some(0));
        let mut now = Timestamp::from_nanos(10_000_000);
        // A 32nd of the link's rate from now on.
        let arrives = BDP.0 / 32;
        for trips in 1..16 {
            now += BASE;
            let in_flight = nscc.window();
            nscc.on_sample(&Sample {
                now,
                rtt: BASE * trips.min(32),
                rtt_min: BASE,
                acked: Bytes(arrives),
                in_flight,
                marked: Some(Bytes(arrives)),
            });
        }
        assert_eq!(nscc.window(), Bytes(64 << 10), "the least");
    }
}
