//! DCQCN, the rate control that RoCE adapters do by themselves: a queue pair that is told of
//! congestion slows down at once and comes back in steps (Zhu et al., SIGCOMM 2015).
//!
//! Nothing here needs an event of its own: what its timers would have done is made up for when
//! the queue pair next sends or is next told.

use super::time::{ByteTime, Picos};

/// Parameters; the defaults are the paper's, but for the notification gap, which is an adapter's.
#[derive(Debug, Clone, Copy)]
pub struct DcqcnConfig {
    /// A receiver notifies the sender of a queue pair no more often.
    pub notify_gap: Picos,
    /// Without a notification for so long, the estimate of congestion falls.
    pub alpha_gap: Picos,
    /// The rate rises a step after so long.
    pub rise_gap: Picos,
    /// Or after so many bytes.
    pub rise_bytes: u64,
    /// Steps of fast recovery.
    pub recovery_steps: u32,
    /// What an additive step adds, in parts of 2^16 of the line rate.
    pub add_share: u64,
    /// And a hyper step.
    pub hyper_share: u64,
    /// Weight of a new observation, as a power of two below 1.
    pub gain_shift: u32,
}

impl DcqcnConfig {
    /// The paper's parameters for a link of so many Gb/s, of which 40 Mb/s is a step.
    #[must_use]
    pub const fn paper(gbps: u64) -> Self {
        let gbps = if gbps == 0 { 1 } else { gbps };
        Self {
            notify_gap: Picos::from_micros(50),
            alpha_gap: Picos::from_micros(55),
            rise_gap: Picos::from_micros(55),
            rise_bytes: 10 << 20,
            recovery_steps: 5,
            add_share: (40 << 16) / (gbps * 1000),
            hyper_share: (400 << 16) / (gbps * 1000),
            gain_shift: 8,
        }
    }
}

/// Full rate, or complete congestion.
const ONE: u64 = 1 << 16;
/// The least rate: a thousandth of the link.
const RATE_MIN: u64 = ONE / 1024;

/// The state of one queue pair. Rates are parts of 2^16 of the line rate.
#[derive(Debug, Clone)]
pub struct Dcqcn {
    config: DcqcnConfig,
    rate: u64,
    target: u64,
    alpha: u64,
    alpha_at: Picos,
    rise_at: Picos,
    time_steps: u32,
    byte_steps: u32,
    bytes: u64,
    free_at: Picos,
    limited: bool,
}

impl Dcqcn {
    /// At line rate.
    #[must_use]
    pub const fn new(config: DcqcnConfig) -> Self {
        Self {
            config,
            rate: ONE,
            target: ONE,
            alpha: ONE,
            alpha_at: Picos::ZERO,
            rise_at: Picos::ZERO,
            time_steps: 0,
            byte_steps: 0,
            bytes: 0,
            free_at: Picos::ZERO,
            limited: false,
        }
    }

    /// Its rate, as a share of 2^16 of the line rate.
    #[must_use]
    pub const fn rate(&self) -> u64 {
        self.rate
    }

    /// When it may send next.
    pub fn free_at(&mut self, now: Picos) -> Picos {
        self.catch_up(now);
        self.free_at
    }

    /// A packet of so many bytes leaves.
    pub fn sent(&mut self, now: Picos, bytes: u64, line: Option<ByteTime>) {
        if !self.limited {
            return;
        }
        let wire = line.map_or(Picos::ZERO, |line| line.time(bytes));
        self.free_at = self.free_at.max(now) + Picos(wire.0 * ONE / self.rate);
        self.bytes += bytes;
        while self.bytes >= self.config.rise_bytes {
            self.bytes -= self.config.rise_bytes;
            self.byte_steps += 1;
            self.rise();
        }
    }

    /// A notification has come.
    pub fn notified(&mut self, now: Picos) {
        self.catch_up(now);
        self.limited = true;
        let gain = ONE >> self.config.gain_shift;
        self.target = self.rate;
        self.rate = (self.rate - self.rate * self.alpha / (2 * ONE)).max(RATE_MIN);
        self.alpha += (ONE - self.alpha) * gain / ONE;
        self.alpha_at = now;
        self.rise_at = now;
        self.time_steps = 0;
        self.byte_steps = 0;
        self.bytes = 0;
    }

    fn catch_up(&mut self, now: Picos) {
        if !self.limited {
            return;
        }
        let gain = ONE >> self.config.gain_shift;
        while now.since(self.alpha_at) >= self.config.alpha_gap && self.alpha > gain {
            self.alpha_at += self.config.alpha_gap;
            self.alpha -= (self.alpha * gain / ONE).max(1);
        }
        while now.since(self.rise_at) >= self.config.rise_gap && self.limited {
            self.rise_at += self.config.rise_gap;
            self.time_steps += 1;
            self.rise();
        }
    }

    fn rise(&mut self) {
        let steps = self.config.recovery_steps;
        if self.time_steps.max(self.byte_steps) > steps {
            let add = if self.time_steps.min(self.byte_steps) > steps {
                self.config.hyper_share
            } else {
                self.config.add_share
            };
            self.target = (self.target + add.max(1)).min(ONE);
        }
        self.rate = u64::midpoint(self.rate, self.target);
        if self.target == ONE && self.rate >= ONE - 1 {
            self.rate = ONE;
            self.limited = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_at_first_and_comes_back() {
        let mut rate = Dcqcn::new(DcqcnConfig::paper(100));
        let mut now = Picos::from_micros(100);
        assert_eq!(rate.free_at(now), Picos::ZERO);
        rate.notified(now);
        assert_eq!(rate.rate(), ONE / 2);
        now += Picos::from_micros(55 * 5);
        rate.free_at(now);
        assert!(rate.rate() > ONE * 95 / 100, "{}", rate.rate());
        now += Picos::from_micros(55 * 2000);
        rate.free_at(now);
        assert_eq!(rate.rate(), ONE);
    }

    #[test]
    fn it_spaces_its_packets() {
        let mut rate = Dcqcn::new(DcqcnConfig::paper(100));
        let now = Picos::from_micros(100);
        rate.notified(now);
        let line = ByteTime::of(crate::units::Rate::from_mbps(100_000));
        rate.sent(now, 4150, Some(line));
        assert_eq!(rate.free_at(now), now + Picos::from_nanos(664));
        for _ in 0..100 {
            rate.notified(now);
        }
        assert_eq!(rate.rate(), RATE_MIN);
    }
}
