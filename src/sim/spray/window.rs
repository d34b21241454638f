//! Windows of senders: how many bytes a flow may have under way, by packet-level algorithms that
//! are published elsewhere. They are what ours is measured against.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "windows and times are far below 2^53, and windows are never negative"
)]

use super::super::time::Picos;
use super::delay::{Swift, ThetaPower, Timely};
use super::{MTU, PAYLOAD};
use crate::units::Rate;

/// Which algorithm sets the window of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// None: the receiver's credit alone decides.
    Open,
    /// Always so many bytes.
    Constant(u64),
    /// The Ultra Ethernet transport's sender control.
    Nscc,
    /// Swift, by delay alone.
    Swift,
    /// theta-PowerTCP, by delay and its growth.
    ThetaPower,
    /// TIMELY, by the growth of the delay.
    Timely,
}

/// What an acknowledgement tells a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) now: Picos,
    /// Bytes that it newly reports.
    pub(super) acked: u64,
    /// From the sending of the packet until now, if that is known for certain.
    pub(super) rtt: Option<Picos>,
    /// The packet was marked.
    pub(super) marked: bool,
    /// Bytes under way after this.
    pub(super) in_flight: i64,
}

/// What all windows of a run share.
#[derive(Debug, Clone)]
pub(super) struct Parameters {
    /// Longest round trip of the idle network.
    rtt: Picos,
    rate: Rate,
    /// Queueing delay that NSCC aims at.
    target: Picos,
    /// Proportional increase: bytes for each picosecond below the target.
    alpha: f64,
    /// Fair increase, bytes for each window acknowledged.
    fair: f64,
    /// What the window gains each round trip in any case.
    eta: u64,
    /// Fast increase: share of the bytes acknowledged.
    fast: f64,
    /// The window that flows start with.
    first: u64,
}

// Constants of NSCC, as the Ultra Ethernet simulator sets them (uec.cpp, `initNsccParams`). Gains
// are scaled from a reference network of 100 Gb/s and 12 us.
const REFERENCE_BDP: f64 = 150_000.0;
const REFERENCE_RTT: f64 = 12e6;
const GAMMA: f64 = 0.8;
const CUT_MAX: f64 = 0.5;
const DELAY_GAIN: f64 = 0.0125;
/// Below this delay the path counts as idle.
const FAST_DELAY: Picos = Picos::from_micros(1);
/// The window is adjusted at the latest after so many packets.
const ADJUST_PACKETS: u64 = 8;

impl Parameters {
    pub(super) fn new(rate: Rate, rtt: Picos, trimming: bool, first: u64) -> Self {
        let scale = rate.0 as f64 * (rtt.0 as f64 / 1e12) / REFERENCE_BDP;
        // Without trimming a loss costs a timeout, but the queue may be longer before it.
        let target = if trimming { rtt * 3 / 4 } else { rtt };
        let b = target.0 as f64 / REFERENCE_RTT;
        let mss = PAYLOAD as f64;
        Self {
            rtt,
            rate,
            target,
            alpha: 4.0 * mss * scale * b / target.0 as f64,
            fair: 5.0 * mss * scale,
            eta: (0.15 * mss * scale) as u64,
            fast: 0.25 * scale,
            first,
        }
    }

    fn window_max(&self, rtt: Picos) -> u64 {
        let bdp = u128::from(rtt.0) * u128::from(self.rate.0) / 1_000_000_000_000;
        bdp as u64 * 3 / 2
    }
}

/// The window of one flow.
#[derive(Debug)]
pub(super) enum Window {
    Open,
    Constant(u64),
    Nscc(Nscc),
    Swift(Swift),
    ThetaPower(ThetaPower),
    Timely(Timely),
}

impl Window {
    pub(super) fn new(control: Control, parameters: &Parameters) -> Self {
        match control {
            Control::Open => Self::Open,
            Control::Constant(bytes) => Self::Constant(bytes),
            Control::Nscc => Self::Nscc(Nscc::new(parameters)),
            Control::Swift => Self::Swift(Swift::new(parameters.rtt, parameters.first)),
            Control::ThetaPower => {
                Self::ThetaPower(ThetaPower::new(parameters.rtt, parameters.first))
            }
            Control::Timely => {
                let Parameters {
                    rate, rtt, first, ..
                } = *parameters;
                Self::Timely(Timely::new(rate, rtt, first))
            }
        }
    }

    /// Bytes that may be under way; `None`: any number.
    pub(super) fn bytes(&self) -> Option<u64> {
        match self {
            Self::Open => None,
            Self::Constant(bytes) => Some(*bytes),
            Self::Nscc(nscc) => Some(nscc.window),
            Self::Swift(swift) => Some(swift.bytes()),
            Self::ThetaPower(power) => Some(power.bytes()),
            Self::Timely(timely) => Some(timely.bytes()),
        }
    }

    pub(super) fn on_ack(&mut self, parameters: &Parameters, sample: &Sample) {
        match self {
            Self::Open | Self::Constant(_) => {}
            Self::Nscc(nscc) => nscc.on_ack(parameters, sample),
            Self::Swift(swift) => swift.on_ack(sample),
            Self::ThetaPower(power) => power.on_ack(sample),
            Self::Timely(timely) => timely.on_ack(sample),
        }
    }

    /// A packet of so many bytes was trimmed. With `keep` the window stays as it is: the
    /// receiver's credit takes care of what was trimmed at the last hop.
    pub(super) fn on_trim(&mut self, parameters: &Parameters, sample: &Sample, keep: bool) {
        match self {
            Self::Open | Self::Constant(_) => {}
            Self::Nscc(nscc) => nscc.on_trim(parameters, sample, keep),
            Self::Swift(swift) => swift.on_loss(sample.now),
            Self::ThetaPower(power) => power.on_loss(sample.now),
            Self::Timely(timely) => timely.on_loss(sample.now),
        }
    }

    /// Nothing was heard of a packet of so many bytes.
    pub(super) fn on_timeout(&mut self, bytes: u64, now: Picos) {
        match self {
            Self::Open | Self::Constant(_) => {}
            Self::Nscc(nscc) => nscc.window = nscc.window.saturating_sub(bytes).max(MTU),
            Self::Swift(swift) => swift.on_loss(now),
            Self::ThetaPower(power) => power.on_loss(now),
            Self::Timely(timely) => timely.on_loss(now),
        }
    }
}

/// Network-signalled congestion control: reacts to whether a packet was marked and to whether its
/// delay was above the target, in four combinations.
#[derive(Debug)]
pub(super) struct Nscc {
    window: u64,
    window_max: u64,
    base_rtt: Picos,
    delay_average: Picos,
    /// Increase that has been earned, times the window.
    increase: u64,
    /// Bytes acknowledged since the last adjustment.
    received: u64,
    adjusted_at: Picos,
    decreased_at: Picos,
    /// Bytes acknowledged without delay in a row.
    idle_bytes: u64,
    is_fast: bool,
    // Quick adaptation: after losses the window becomes what has really arrived in a round.
    achieved: u64,
    round_ends: Option<Picos>,
    lost: bool,
    /// Bytes sent before that are not listened to, and how many of them have come back.
    ignore: u64,
    ignored: u64,
}

impl Nscc {
    fn new(parameters: &Parameters) -> Self {
        Self {
            window: parameters.first,
            window_max: parameters.window_max(parameters.rtt),
            base_rtt: parameters.rtt,
            delay_average: Picos::ZERO,
            increase: 0,
            received: 0,
            adjusted_at: Picos::ZERO,
            decreased_at: Picos::ZERO,
            idle_bytes: 0,
            is_fast: false,
            achieved: 0,
            round_ends: None,
            lost: false,
            ignore: 0,
            ignored: 0,
        }
    }

    fn on_ack(&mut self, parameters: &Parameters, sample: &Sample) {
        self.achieved += sample.acked;
        self.received += sample.acked;
        self.ignored += sample.acked;
        let delay = match sample.rtt {
            Some(rtt) => {
                self.lower_base(parameters, rtt);
                let delay = rtt.since(self.base_rtt);
                self.average(parameters, delay, sample.marked);
                delay
            }
            None => self.delay_average,
        };
        if self.quick_adapt(parameters, sample, delay, false) {
            return;
        }
        let late = delay >= parameters.target;
        match (sample.marked, late) {
            (false, true) => self.increase += (parameters.fair * sample.acked as f64) as u64,
            (false, false) => self.increase_below_target(parameters, sample.acked, delay),
            (true, true) => self.decrease(parameters, sample.now),
            // The path was full, not the bottleneck: the load balancer's business.
            (true, false) => {}
        }
        self.clamp();
        if self.received > ADJUST_PACKETS * MTU
            || sample.now.since(self.adjusted_at) > parameters.rtt
        {
            self.window += self.increase / self.window;
            if sample.now.since(self.adjusted_at) >= parameters.rtt {
                self.window += parameters.eta;
                self.adjusted_at = sample.now;
            }
            (self.increase, self.received) = (0, 0);
        }
        self.clamp();
    }

    fn on_trim(&mut self, parameters: &Parameters, sample: &Sample, keep: bool) {
        if let Some(rtt) = sample.rtt {
            self.lower_base(parameters, rtt);
        }
        self.ignored += sample.acked;
        self.average(parameters, parameters.rtt, true);
        self.lost = true;
        if !self.quick_adapt(parameters, sample, Picos::ZERO, true) && !keep {
            self.window = self.window.saturating_sub(sample.acked);
            self.clamp();
        }
    }

    fn lower_base(&mut self, parameters: &Parameters, rtt: Picos) {
        if rtt < self.base_rtt {
            self.base_rtt = rtt;
            self.window_max = parameters.window_max(rtt);
        }
    }

    fn average(&mut self, parameters: &Parameters, delay: Picos, marked: bool) {
        // A long delay without a mark is old: the queue that caused it has drained since.
        let delay = if delay > parameters.target && !marked {
            self.base_rtt.0 as f64 * 0.25
        } else {
            delay.0 as f64
        };
        let average = DELAY_GAIN * delay + (1.0 - DELAY_GAIN) * self.delay_average.0 as f64;
        self.delay_average = Picos(average as u64);
    }

    fn clamp(&mut self) {
        self.window = self.window.min(self.window_max).max(MTU);
    }

    fn increase_below_target(&mut self, parameters: &Parameters, acked: u64, delay: Picos) {
        if delay < FAST_DELAY {
            self.idle_bytes += acked;
            if self.idle_bytes > self.window || self.is_fast {
                self.window += (acked as f64 * parameters.fast) as u64;
                self.is_fast = true;
                return;
            }
        } else {
            self.idle_bytes = 0;
        }
        self.is_fast = false;
        let room = parameters.target.since(delay).0 as f64;
        self.increase += (parameters.alpha * acked as f64 * room) as u64;
    }

    fn decrease(&mut self, parameters: &Parameters, now: Picos) {
        self.is_fast = false;
        self.idle_bytes = 0;
        let (average, target) = (self.delay_average, parameters.target);
        if average > target && now.since(self.decreased_at) > self.base_rtt {
            let above = average.since(target).0 as f64 / average.0 as f64;
            let keep = (1.0 - GAMMA * above).max(CUT_MAX);
            self.window = ((self.window as f64 * keep) as u64).max(MTU);
            self.decreased_at = now;
        }
    }

    /// Whether the window has been set by what arrived, or this feedback is too old to count.
    fn quick_adapt(
        &mut self,
        parameters: &Parameters,
        sample: &Sample,
        delay: Picos,
        lost: bool,
    ) -> bool {
        if self.ignored < self.ignore && (sample.marked || lost) {
            return true;
        }
        let round = self.base_rtt + parameters.target;
        let Some(ends) = self.round_ends else {
            self.round_ends = Some(sample.now + round);
            self.achieved = 0;
            return false;
        };
        if sample.now <= ends {
            return false;
        }
        let is_bad = self.lost || lost || delay > parameters.target * 4;
        let adapts = is_bad && self.achieved < self.window_max / 8;
        if adapts {
            self.window = self.achieved.max(MTU);
            self.ignore = u64::try_from(sample.in_flight).unwrap_or(0);
            self.ignored = 0;
            self.lost = false;
            (self.increase, self.received) = (0, 0);
        }
        self.achieved = 0;
        self.round_ends = Some(sample.now + round);
        adapts
    }
}
