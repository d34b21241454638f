//! A window that keeps the queueing delay near a target: of the Swift family, with the median of
//! recent samples in place of the last one, so that one bad path cannot collapse the link.
//!
//! Below the target the window grows by a share of itself while it is being used. At the start it
//! doubles per round trip, until a sample shows more queue than the target: then it keeps what
//! makes just the target. Above the target, once per round trip, it shrinks by a share of the
//! excess, never by more than half, and grows by the same few bytes as just below the target. So
//! every flow has one window at which the two are equal, the same for all that see the same queue:
//! a queue that rests at the target to within a chunk, as queues of acknowledged chunks do, would
//! else leave shares as they were.
//!
//! What adapters count is a slow signal and not about this link alone, so it moves the target and not
//! the window: while the network asks a port for less, half the queue is aimed at. Marks come before
//! the queue is as long as the target; obeying them any more than that would let other links' traffic
//! starve this one.

use super::median::Median;
use super::{Controller, Sample};
use crate::clock::Timestamp;
use crate::units::{Bytes, Nanos, Rate};

/// What a packet and its acknowledgement take through three tiers of switches without a queue, about.
pub const RDMA_ROUND_TRIP: Nanos = Nanos(16_000);

/// What [`Delay`] aims at.
#[derive(Debug, Clone, Copy)]
pub struct DelayConfig {
    /// Queueing delay to hold. Default 2 ms: on kernel TCP the queue has to last while the host runs
    /// something else.
    pub target_queue: Nanos,
    /// Where a round trip without any queue is longer than that: hold so much instead. Default no; what
    /// is known of a fabric beforehand may be wrong.
    pub target_follows: bool,
    /// Added for each window that is acknowledged below the target, besides up to a 64th of it.
    /// Default 32 KiB. It is what makes flows that share a queue equal: of shares of themselves
    /// alone the larger would stay the larger.
    pub increase: Bytes,
    /// Double until the target is met for the first time. Default yes; where the start is already
    /// what the network carries, no.
    pub probe_start: bool,
    /// Never less in flight. Default 256 KiB.
    pub window_min: Bytes,
    /// Never more in flight. Default 64 MiB.
    pub window_max: Bytes,
    /// Window at the start. Default 1 MiB.
    pub window_start: Bytes,
}

impl Default for DelayConfig {
    fn default() -> Self {
        Self {
            target_queue: Nanos::from_millis(2),
            target_follows: false,
            increase: Bytes(32 << 10),
            probe_start: true,
            window_min: Bytes(256 << 10),
            window_max: Bytes(64 << 20),
            window_start: Bytes(1 << 20),
        }
    }
}

impl DelayConfig {
    /// On kernel TCP over links of this rate.
    #[must_use]
    pub fn for_tcp(line_rate: Rate) -> Self {
        let config = Self::default();
        Self {
            increase: (config.increase).max(line_rate.bytes_in(config.target_queue) / 64),
            ..config
        }
    }

    /// On a fabric whose links hold so many bytes in a round trip (`bdp`), for chunks of this
    /// length: a start is what the network carries, and it shrinks only for what is worse than its
    /// own size can make.
    #[must_use]
    pub fn for_fabric(bdp: Bytes, round_trip: Nanos, chunk: Bytes) -> Self {
        let window = Self::fabric_window(bdp).max(chunk * 4);
        Self {
            target_queue: round_trip,
            target_follows: false,
            increase: chunk,
            probe_start: false,
            window_min: chunk * 2,
            window_max: window,
            window_start: window,
        }
    }

    /// On RDMA ports that carry so much together: as on a fabric of the usual round trip, but nobody
    /// has measured it, so there is room for ten times as long a one. Each of so many ports always has
    /// one chunk to send while another is acknowledged: with fewer, one port waits while two chunks
    /// are on another.
    #[must_use]
    pub fn for_rdma(rate: Rate, chunk: Bytes, ports: u64) -> Self {
        let fabric = Self::for_fabric(rate.bytes_in(RDMA_ROUND_TRIP), RDMA_ROUND_TRIP, chunk);
        Self {
            target_follows: true,
            window_min: fabric.window_min * ports.max(1),
            window_max: (fabric.window_start * 10).max(chunk * 64),
            ..fabric
        }
    }

    /// What is in flight on a fabric at most, unless that is too few chunks.
    #[must_use]
    pub fn fabric_window(bdp: Bytes) -> Bytes {
        bdp.scale(7, 4)
    }
}

/// Of the increase, what is added however near the target is, and above it.
const ALWAYS_SHARE: u64 = 4;

/// A delay-based window.
#[derive(Debug, Clone)]
pub struct Delay {
    config: DelayConfig,
    window: u64,
    /// The last queueing delays of any path, ns.
    queues_ns: Median,
    /// Doubling per round trip, until the target is met for the first time.
    starting: bool,
    shrunk_at: Timestamp,
    notified: bool,
}

impl Delay {
    /// A window at its start.
    #[must_use]
    pub fn new(config: DelayConfig) -> Self {
        Self {
            config,
            window: config
                .window_start
                .0
                .clamp(config.window_min.0, config.window_max.0),
            queues_ns: Median::default(),
            starting: config.probe_start,
            shrunk_at: Timestamp::ZERO,
            notified: false,
        }
    }
}

impl Controller for Delay {
    fn name(&self) -> &'static str {
        "delay"
    }

    fn on_sample(&mut self, sample: &Sample) {
        let mut target = self.config.target_queue.0;
        if self.config.target_follows {
            target = target.max(sample.rtt_min.0);
        }
        if self.notified {
            target /= 2;
        }
        // What left before the window was last cut speaks of the queue that it was cut for.
        if sample.now.since(self.shrunk_at) < sample.rtt {
            return;
        }
        let latest = sample.rtt.0.saturating_sub(sample.rtt_min.0);
        if self.starting && latest > target {
            // The first queue too many: what the network holds beyond it is known to a sample.
            self.starting = false;
            self.shrunk_at = sample.now;
            let kept = u128::from(self.window) * u128::from(sample.rtt_min.0 + target)
                / u128::from(sample.rtt.0.max(1));
            self.window = u64::try_from(kept)
                .unwrap_or(u64::MAX)
                .clamp(self.config.window_min.0, self.config.window_max.0);
            return;
        }
        self.queues_ns.push(latest);
        let queue = self.queues_ns.get();
        if queue <= target {
            // A window that isn't used says nothing about what the network would bear.
            if sample.in_flight.0 < self.window / 2 {
                return;
            }
            let acked = sample.acked.min(Bytes(self.window));
            self.window += if self.starting {
                acked.0
            } else {
                let added = self.config.increase.scale(acked.0, self.window.max(1));
                // Never nothing: near the target it is what makes flows equal.
                let room = (target - queue).max(target / ALWAYS_SHARE);
                ((acked / 64).scale(target - queue, target) + added.scale(room, target)).0
            };
        } else {
            self.shrunk_at = sample.now;
            self.queues_ns = Median::default();
            // beta 0.8, never more than half (Swift's values)
            let cut = Bytes(self.window).scale(queue - target, queue) * 4 / 5;
            self.window -= cut.0.min(self.window / 2);
            self.window += self.config.increase.0 / ALWAYS_SHARE;
        }
        self.window = self
            .window
            .clamp(self.config.window_min.0, self.config.window_max.0);
    }

    fn on_path_lost(&mut self, _now: Timestamp) {
        // The delays of the lost path are no measure of those that stay.
        self.queues_ns = Median::default();
    }

    fn on_notified(&mut self, notified: bool) {
        self.notified = notified;
    }

    fn window(&self) -> Bytes {
        Bytes(self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::model::round_trip;

    #[test]
    fn the_start_ends_with_the_first_queue_too_many() {
        let mut delay = Delay::new(DelayConfig::default());
        let mut now = Timestamp::from_nanos(1);
        let mut trip = || round_trip(&mut delay, 1_250_000_000, Nanos::from_micros(100), &mut now);
        let queues: Vec<_> = (0..8).map(|_| trip()).collect();
        let target = DelayConfig::default().target_queue;
        let far = target.scale(11, 10);
        let over = queues.iter().filter(|&&queue| queue > far).count();
        assert!(over <= 1, "{queues:?}");
        assert!(!delay.starting);
    }

    #[test]
    fn half_the_queue_is_held_while_the_network_asks_for_less() {
        let config = DelayConfig::default();
        let mut delay = Delay::new(config);
        let mut now = Timestamp::from_nanos(1);
        let mut settled = |notified| {
            delay.on_notified(notified);
            let mut trip =
                || round_trip(&mut delay, 1_250_000_000, Nanos::from_micros(100), &mut now);
            for _ in 0..2000 {
                trip();
            }
            (0..64).map(|_| trip().0).sum::<u64>() / 64
        };
        let (before, during, after) = (settled(false), settled(true), settled(false));
        let half = before / 2;
        assert!(
            during.abs_diff(half) < half / 8,
            "{before} {during} {after}"
        );
        assert!(
            after.abs_diff(before) < half / 8,
            "{before} {during} {after}"
        );
    }
}
