//! TIMELY (Mittal et al., SIGCOMM 2015), as patched by Zhu et al. (`CoNEXT` 2016): a rate that
//! follows the gradient of the round trip, with a fixed point that the original lacks.
//!
//! The rate is turned into a window by the last round trip, as other host stacks do that cannot
//! pace each packet.

use super::median::Median;
use super::{Controller, Sample};
use crate::clock::Timestamp;
use crate::units::{Bytes, Nanos, Rate};

/// What [`Timely`] aims at.
#[derive(Debug, Clone, Copy)]
pub struct TimelyConfig {
    /// Never less in flight.
    pub window_min: Bytes,
    /// Never more in flight.
    pub window_max: Bytes,
    /// Of the link: no faster, and the start.
    pub line_rate: Rate,
    /// Below the least round trip plus this, only ever faster.
    pub queue_low: Nanos,
    /// Above the least round trip plus this, only ever slower.
    pub queue_high: Nanos,
}

/// A rate that follows the gradient of the delay.
#[derive(Debug, Clone)]
pub struct Timely {
    config: TimelyConfig,
    rate: f64,
    gradient: f64,
    median: Median,
    previous: Option<(Timestamp, Nanos)>,
    rtt: Nanos,
}

/// Weight of a new gradient.
const GRADIENT_GAIN: f64 = 0.125;
/// Share of the line rate that is added in a round trip: 4 Gb/s of 400 in the patched version.
const INCREASE: f64 = 0.01;
/// Decrease for a unit of error in a round trip.
const DECREASE: f64 = 0.008;
/// Decrease beyond the upper threshold (TIMELY's β).
const DECREASE_HIGH: f64 = 0.8;

impl Timely {
    /// At line rate.
    #[must_use]
    pub fn new(config: TimelyConfig) -> Self {
        Self {
            config,
            rate: Bytes(config.line_rate.0).as_f64(),
            gradient: 0.0,
            median: Median::default(),
            previous: None,
            rtt: Nanos::ZERO,
        }
    }
}

impl Controller for Timely {
    fn name(&self) -> &'static str {
        "timely"
    }

    #[expect(clippy::cast_precision_loss, reason = "times of a few round trips")]
    fn on_sample(&mut self, sample: &Sample) {
        self.median.push(sample.rtt.0);
        let rtt = Nanos(self.median.get());
        self.rtt = rtt;
        let Some((at, before)) = self.previous.replace((sample.now, rtt)) else {
            return;
        };
        let base = (sample.rtt_min.0 as f64).max(1.0);
        let change = rtt.0 as f64 - before.0 as f64;
        self.gradient += GRADIENT_GAIN * (change / base - self.gradient);
        let share = (sample.now.since(at).0 as f64 / base).min(1.0);
        let line = Bytes(self.config.line_rate.0).as_f64();
        let low = base + self.config.queue_low.0 as f64;
        let high = base + self.config.queue_high.0 as f64;
        let delay = rtt.0 as f64;
        let before = self.rate;
        if delay < low {
            self.rate += line * INCREASE * share;
        } else if delay > high {
            self.rate *= 1.0 - share * DECREASE_HIGH * (1.0 - high / delay);
        } else {
            // From full increase at a falling delay to full decrease at a rising one.
            let weight = (2.0 * self.gradient + 0.5).clamp(0.0, 1.0);
            let error = (delay - low) / low;
            self.rate *= 1.0 - DECREASE * share * weight * error;
            self.rate += line * INCREASE * share * (1.0 - weight);
        }
        self.rate = self.rate.max(before / 2.0).clamp(line / 1000.0, line);
    }

    fn on_path_lost(&mut self, _now: Timestamp) {
        self.median = Median::default();
        self.previous = None;
        self.gradient = 0.0;
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate between nothing and the line's"
    )]
    fn window(&self) -> Bytes {
        if self.rtt.is_zero() {
            return self.config.window_max;
        }
        Rate(self.rate as u64)
            .bytes_in(self.rtt)
            .clamp(self.config.window_min, self.config.window_max)
    }
}
