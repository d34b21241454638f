//! Windows that react to delay alone, as a transport must that sees no marks: Swift (SIGCOMM
//! 2020), theta-PowerTCP (NSDI 2022) and TIMELY (SIGCOMM 2015, as patched at `CoNEXT` 2016), per
//! packet as in their papers. What our engine does per chunk is measured against them.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "windows and times are far below 2^53, and windows are never negative"
)]

use super::super::time::Picos;
use super::MTU;
use super::window::Sample;
use crate::units::Rate;

// Swift's constants as in htsim's `swift.cpp`.
const SWIFT_ADD: f64 = 1.0;
const SWIFT_BETA: f64 = 0.8;
const SWIFT_CUT_MAX: f64 = 0.5;
/// Target delay without any scaling, in round trips of the idle network.
const SWIFT_BASE: f64 = 1.5;
/// Small windows may wait longer, by up to so many times that: many flows share a queue then.
const SWIFT_RANGE: f64 = 5.0;
/// Packets of the windows between which that grows.
const SWIFT_SCALE_MIN: f64 = 0.1;
const SWIFT_SCALE_MAX: f64 = 100.0;

/// Swift: a target for the delay, additive below it, a cut in proportion above.
#[derive(Debug)]
pub(super) struct Swift {
    window: f64,
    window_max: f64,
    base: f64,
    rtt: Picos,
    decreased_at: Picos,
}

impl Swift {
    pub(super) fn new(rtt: Picos, window_max: u64) -> Self {
        Self {
            window: window_max as f64,
            window_max: window_max as f64,
            base: rtt.0 as f64 * SWIFT_BASE,
            rtt,
            decreased_at: Picos::ZERO,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.window as u64
    }

    fn target(&self) -> f64 {
        let range = self.base * SWIFT_RANGE;
        let (min, max) = (SWIFT_SCALE_MIN.sqrt(), SWIFT_SCALE_MAX.sqrt());
        let alpha = range / (1.0 / min - 1.0 / max);
        let packets = self.window / MTU as f64;
        let more = alpha / packets.sqrt() - alpha / max;
        self.base + more.clamp(0.0, range)
    }

    pub(super) fn on_ack(&mut self, sample: &Sample) {
        let Some(rtt) = sample.rtt else { return };
        self.rtt = rtt;
        let (delay, target) = (rtt.0 as f64, self.target());
        if delay < target {
            let share = sample.acked as f64 / self.window;
            self.window += SWIFT_ADD * MTU as f64 * share;
        } else {
            self.cut(SWIFT_BETA * (delay - target) / delay, sample.now);
        }
        self.clamp();
    }

    /// A packet was lost: the largest cut.
    pub(super) fn on_loss(&mut self, now: Picos) {
        self.cut(SWIFT_CUT_MAX, now);
        self.clamp();
    }

    /// At most one cut each round trip.
    fn cut(&mut self, part: f64, now: Picos) {
        if now.since(self.decreased_at) >= self.rtt {
            self.window *= 1.0 - part.min(SWIFT_CUT_MAX);
            self.decreased_at = now;
        }
    }

    fn clamp(&mut self) {
        self.window = self.window.clamp(MTU as f64, self.window_max);
    }
}

// Constants of theta-PowerTCP as in the authors' ns-3 code.
const POWER_MARGIN: f64 = 1.05;
const POWER_GAIN: f64 = 0.7;
/// Additive increase: 150 Mb/s of a link of 25 Gb/s, as a part of the window.
const POWER_ADD: f64 = 150.0 / 25_000.0;

/// theta-PowerTCP: reacts to the delay and to how fast it grows, multiplied.
#[derive(Debug)]
pub(super) struct ThetaPower {
    window: f64,
    /// The window at the start of this round trip.
    window_before: f64,
    window_max: f64,
    base: Picos,
    power: f64,
    last: Option<(Picos, Picos)>,
    round_ends: Picos,
}

impl ThetaPower {
    pub(super) fn new(rtt: Picos, window_max: u64) -> Self {
        Self {
            window: window_max as f64,
            window_before: window_max as f64,
            window_max: window_max as f64,
            base: rtt,
            power: 1.0,
            last: None,
            round_ends: Picos::ZERO,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.window as u64
    }

    pub(super) fn on_ack(&mut self, sample: &Sample) {
        let Some(rtt) = sample.rtt else { return };
        self.base = self.base.min(rtt);
        let now = sample.now;
        let Some((before, at)) = self.last.replace((rtt, now)) else {
            return;
        };
        let base = self.base.0 as f64;
        let gap = now.since(at).0 as f64;
        if gap == 0.0 {
            return;
        }
        let growth = (rtt.0 as f64 - before.0 as f64) / gap;
        let current = (growth + 1.0).max(0.5);
        let power = current * rtt.0 as f64 / (POWER_MARGIN * base);
        let weight = gap.min(base) / base;
        self.power += weight * (power - self.power);
        let add = POWER_ADD * self.window_max;
        let next = self.window_before / self.power + add;
        self.window = POWER_GAIN * next + (1.0 - POWER_GAIN) * self.window_before;
        self.clamp();
        if now >= self.round_ends {
            self.window_before = self.window;
            self.round_ends = now + rtt;
        }
    }

    /// A packet was lost: half of the window, at most once each round trip.
    pub(super) fn on_loss(&mut self, now: Picos) {
        if now >= self.round_ends {
            self.window /= 2.0;
            self.clamp();
            self.window_before = self.window;
            self.round_ends = now + self.base;
        }
    }

    fn clamp(&mut self) {
        self.window = self.window.clamp(MTU as f64, self.window_max);
    }
}

// Constants of TIMELY as eRPC and UCCL have them; gains are parts of the rate for each round trip.
const TIMELY_GRADIENT_GAIN: f64 = 0.125;
/// Additive increase: 4 Gb/s of a link of 400 Gb/s.
const TIMELY_ADD: f64 = 0.01;
const TIMELY_CUT: f64 = 0.008;
/// Decrease above the upper threshold (TIMELY's beta).
const TIMELY_CUT_HIGH: f64 = 0.8;
/// The lower threshold, in round trips of the idle network. The published 35 µs are made for
/// deeper queues than a bandwidth-delay product; Swift's target here is the same.
const TIMELY_LOW: f64 = 1.5;
/// The upper threshold as a multiple of the lower one: 350 µs of 35, 500 of 50.
const TIMELY_HIGH: f64 = 10.0;
/// The least rate: 0.8 Gb/s of 400.
const TIMELY_RATE_MIN: f64 = 0.002;

/// TIMELY: a rate by how fast the delay grows, and how far it is above a threshold. It makes a
/// window of it by the last round trip, as UCCL does.
#[derive(Debug)]
pub(super) struct Timely {
    /// Bytes for each picosecond.
    rate: f64,
    line: f64,
    gradient: f64,
    idle: f64,
    last: Option<(Picos, Picos)>,
    window: f64,
    window_max: f64,
    decreased_at: Picos,
}

impl Timely {
    pub(super) fn new(line: Rate, rtt: Picos, window_max: u64) -> Self {
        let line = line.0 as f64 / 1e12;
        Self {
            rate: line,
            line,
            gradient: 0.0,
            idle: rtt.0 as f64,
            last: None,
            window: window_max as f64,
            window_max: window_max as f64,
            decreased_at: Picos::ZERO,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.window as u64
    }

    pub(super) fn on_ack(&mut self, sample: &Sample) {
        let Some(rtt) = sample.rtt else { return };
        let Some((before, at)) = self.last.replace((rtt, sample.now)) else {
            return;
        };
        let delay = rtt.0 as f64;
        let change = (delay - before.0 as f64) / self.idle;
        self.gradient += TIMELY_GRADIENT_GAIN * (change - self.gradient);
        let share = (sample.now.since(at).0 as f64 / self.idle).min(1.0);
        let low = TIMELY_LOW * self.idle;
        let high = TIMELY_HIGH * low;
        let add = TIMELY_ADD * self.line * share;
        if delay < low {
            self.rate += add;
        } else if delay > high {
            self.rate *= 1.0 - TIMELY_CUT_HIGH * share * (1.0 - high / delay);
        } else {
            // From full increase at a falling delay to full decrease at a rising one.
            let weight = (2.0 * self.gradient + 0.5).clamp(0.0, 1.0);
            let error = (delay - low) / low;
            self.rate *= 1.0 - TIMELY_CUT * share * weight * error;
            self.rate += add * (1.0 - weight);
        }
        self.settle(delay);
    }

    /// A packet was lost: half of the rate, at most once each round trip. TIMELY itself is made
    /// for networks that lose nothing.
    pub(super) fn on_loss(&mut self, now: Picos) {
        let delay = self.last.map_or(self.idle, |(rtt, _)| rtt.0 as f64);
        if now.since(self.decreased_at).0 as f64 >= delay {
            self.rate /= 2.0;
            self.decreased_at = now;
            self.settle(delay);
        }
    }

    fn settle(&mut self, delay: f64) {
        self.rate = self.rate.clamp(TIMELY_RATE_MIN * self.line, self.line);
        self.window = (self.rate * delay).clamp(MTU as f64, self.window_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Picos = Picos::from_micros(14);

    fn sample(now: u64, rtt: u64) -> Sample {
        Sample {
            now: Picos::from_micros(now),
            acked: MTU,
            rtt: Some(Picos::from_micros(rtt)),
            marked: false,
            in_flight: 0,
        }
    }

    #[test]
    fn swift_grows_below_its_target_and_cuts_once_a_round_trip() {
        let mut swift = Swift::new(RTT, 260_000);
        for i in 0..100 {
            swift.on_ack(&sample(200 + i, 100));
        }
        let low = swift.bytes();
        // 99 us have room for one cut: nearly the largest each time.
        assert!((60_000..200_000).contains(&low), "{low}");
        for i in 0..100 {
            swift.on_ack(&sample(400 + i, 14));
        }
        assert!(swift.bytes() > low);
        // Small windows tolerate more.
        let large = swift.target();
        swift.window = MTU as f64;
        assert!(swift.target() > 2.0 * large);
    }

    /// A queue that some windows share: how large it and each window are after so many packets.
    fn share(flows: &mut [Timely], idle: Picos, packets: u32) -> (f64, Vec<f64>) {
        let rate = 12_500.0 / 1e6;
        let mut now = 100.0 * 1e6;
        let mut rtt = idle.0 as f64;
        let mut mean = 0.0;
        for packet in 0..packets {
            let all: f64 = flows.iter().map(|flow| flow.window).sum();
            rtt += 0.05 * ((all / rate).max(idle.0 as f64) - rtt);
            now += MTU as f64 / rate;
            // Whose packet it is goes by the windows: a golden-ratio walk over their sum.
            let mut place = (f64::from(packet) * 0.618_034).fract() * all;
            let whose = flows.iter().position(|flow| {
                place -= flow.window;
                place <= 0.0
            });
            flows[whose.unwrap_or(0)].on_ack(&Sample {
                rtt: Some(Picos(rtt as u64)),
                now: Picos(now as u64),
                ..sample(0, 0)
            });
            if packet >= packets / 2 {
                mean += rtt / f64::from(packets - packets / 2);
            }
        }
        (mean, flows.iter().map(|flow| flow.window).collect())
    }

    #[test]
    fn timely_shares_a_link_fairly_and_its_queue_stays_small() {
        let line = Rate::from_mbps(100_000);
        let mut flows = [1.0, 0.1].map(|part| {
            let mut timely = Timely::new(line, RTT, 260_000);
            timely.rate *= part;
            timely.window *= part;
            timely
        });
        let (rtt, windows) = share(&mut flows, RTT, 400_000);
        let low = TIMELY_LOW * RTT.0 as f64;
        assert!((0.9 * low..2.0 * low).contains(&rtt), "{rtt}");
        let jain =
            (windows[0] + windows[1]).powi(2) / (2.0 * (windows[0].powi(2) + windows[1].powi(2)));
        assert!(jain > 0.98, "{windows:?}");
    }

    #[test]
    fn theta_power_settles_where_the_delay_is_the_idle_one() {
        // A queue that the window alone fills: delay is the window over the rate, at least idle.
        let mut power = ThetaPower::new(RTT, 260_000);
        let rate = 87_500.0 / RTT.0 as f64;
        let mut now = 100.0 * 1e6;
        let mut rtt = RTT.0 as f64;
        for _ in 0..3000 {
            rtt = (power.window / rate).max(RTT.0 as f64);
            now += MTU as f64 / rate;
            power.on_ack(&Sample {
                rtt: Some(Picos(rtt as u64)),
                now: Picos(now as u64),
                ..sample(0, 0)
            });
        }
        assert!(rtt < 1.2 * RTT.0 as f64, "{rtt}");
        assert!(power.window > 80_000.0, "{}", power.window);
    }
}
