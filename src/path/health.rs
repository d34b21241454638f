//! Is a path silent? Judged by the transport's own acknowledgements, which need nothing of the
//! peer's program: a stopped process still acknowledges, a black hole does not.
//!
//! A path is *quiet* while bytes are in flight and none is acknowledged, with the receiver's
//! window open. After a small multiple of its own measured round trip it is suspect: probes go
//! out on it and on its siblings. After a larger one it is dead, provided that the peer's program
//! has answered on a sibling meanwhile; when all are quiet at once it is the peer or the whole
//! network, and nothing is fenced.
//!
//! Where the host learns of each chunk when it departed and when it arrived, there is better
//! evidence than time: a path is *overtaken* when chunks that departed later, on its siblings, have
//! arrived. A network that is slow as a whole overtakes nobody; only a path that is worse than its
//! siblings by more than queues explain is suspect, and then dead.

use crate::clock::Timestamp;
use crate::units::Nanos;

/// How many segments of a path have arrived, by what the receiver's host echoed. Both wrap around.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Segments delivered.
    pub delivered: u32,
    /// Of these, acknowledged with the word that a queue had marked something (ECN).
    pub marked: u32,
}

/// What a transport tells of a path, from the kernel or from the adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Something is in flight: sent, not acknowledged.
    pub in_flight: bool,
    /// Bytes acknowledged so far. Only its changes count: a time since the last one, as the kernel
    /// tells it in its coarse ticks, would drift against our clock and pass for news.
    pub acked: u64,
    /// The receiver's window is closed (or, over RoCE, it has posted no receives).
    pub window_closed: bool,
    /// Smoothed round trip.
    pub rtt: Nanos,
    /// Its mean deviation.
    pub rtt_var: Nanos,
    /// Smallest round trip.
    pub rtt_min: Nanos,
    /// Bytes that wait in the host for the network to take them.
    pub unsent: u64,
    /// Marks so far; `None` where queues cannot mark what this path carries.
    pub marks: Option<Marks>,
    /// Segments of this channel that the kernel has sent again. Wraps around.
    pub retransmits: u32,
}

/// Bounds of the silence timeouts.
#[derive(Debug, Clone, Copy)]
pub struct HealthConfig {
    /// Suspect no earlier. Default 20 ms: five ticks of a kernel that counts in 4 ms.
    pub suspect_min: Nanos,
    /// Dead no earlier. Default 80 ms: two probes, and the kernel's own tail-loss probe, have
    /// then gone unanswered.
    pub dead_min: Nanos,
    /// Dead at the latest. Default 2 s.
    pub dead_max: Nanos,
    /// Probes of a suspect path and its siblings are this far apart. Default 15 ms.
    pub probe_gap: Nanos,
    /// A silent path is given up only when the peer's program has answered on a sibling for this
    /// long. A program that is stopped, or has just woken up, takes nothing from any path, and its
    /// kernel drops what no longer fits: that silence is not the path's. Default 60 ms.
    pub sibling_span: Nanos,
    /// And did so no longer ago than this. Default 50 ms.
    pub sibling_lately: Nanos,
    /// A fence that is not answered is repeated, over whatever path is best by then. Default 20 ms.
    pub fence_repeat: Nanos,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            suspect_min: Nanos::from_millis(20),
            dead_min: Nanos::from_millis(80),
            dead_max: Nanos::from_secs(2),
            probe_gap: Nanos::from_millis(15),
            sibling_span: Nanos::from_millis(60),
            sibling_lately: Nanos::from_millis(50),
            fence_repeat: Nanos::from_millis(20),
        }
    }
}

/// What silence means so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing in flight, or acknowledged lately, or the receiver holds us back.
    #[default]
    Fine,
    /// Quiet for longer than it ever should be: probe it and its siblings.
    Suspect,
    /// Quiet for so long that it is dead if a sibling lives.
    Dead,
}

/// The memory that judging one path needs.
#[derive(Debug, Clone, Copy)]
pub struct Health {
    /// Since when nothing has been acknowledged although something is in flight.
    quiet_since: Option<Timestamp>,
    acked: u64,
    alive_at: Timestamp,
    heard_at: Timestamp,
}

impl Health {
    /// A path that came up at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            quiet_since: None,
            acked: 0,
            alive_at: now,
            heard_at: now,
        }
    }

    /// When it last gave a sign of life.
    #[must_use]
    pub fn alive_at(&self) -> Timestamp {
        self.alive_at
    }

    /// When the peer's program, not only its kernel or its adapter, last gave one.
    #[must_use]
    pub fn heard_at(&self) -> Timestamp {
        self.heard_at
    }

    /// Any sign of life but the transport's: a frame arrived.
    pub fn saw_life(&mut self, now: Timestamp) {
        self.alive_at = now;
        self.heard_at = now;
        self.quiet_since = None;
    }

    /// The adapter has told that something has arrived: its peer's adapter lives.
    pub fn saw_acknowledgement(&mut self, now: Timestamp) {
        self.alive_at = now;
        self.quiet_since = None;
    }

    /// Takes in what the transport tells and judges.
    pub fn observe(
        &mut self,
        now: Timestamp,
        stats: &TransportStats,
        config: &HealthConfig,
    ) -> Verdict {
        if stats.acked != self.acked {
            self.acked = stats.acked;
            self.alive_at = now;
            self.quiet_since = None;
        }
        if !stats.in_flight || stats.window_closed {
            self.quiet_since = None;
            return Verdict::Fine;
        }
        let since = *self.quiet_since.get_or_insert(now);
        let quiet = now.since(since);
        let tail = Nanos(
            stats
                .rtt
                .0
                .saturating_add(stats.rtt_var.0.saturating_mul(4)),
        );
        let dead = Nanos(tail.0.saturating_mul(6)).clamp(config.dead_min, config.dead_max);
        if quiet >= dead {
            Verdict::Dead
        } else if quiet >= Nanos(tail.0.saturating_mul(2)).clamp(config.suspect_min, dead) {
            Verdict::Suspect
        } else {
            Verdict::Fine
        }
    }

    /// What has departed so much later on siblings has arrived before what this path holds, whose
    /// chunks take up to `tail`: they may wait for each other, on a port that is slower than others.
    #[must_use]
    pub fn overtaken(by: Nanos, tail: Nanos, config: &HealthConfig) -> Verdict {
        let dead = (tail * 2).clamp(config.dead_min, config.dead_max);
        if by >= dead {
            Verdict::Dead
        } else if by >= tail.clamp(config.suspect_min, dead) {
            Verdict::Suspect
        } else {
            Verdict::Fine
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(acked: u64) -> TransportStats {
        TransportStats {
            in_flight: true,
            acked,
            rtt: Nanos::from_millis(2),
            rtt_var: Nanos::from_millis(1),
            rtt_min: Nanos::from_micros(100),
            ..TransportStats::default()
        }
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_black_hole_is_suspected_then_dead() {
        let config = HealthConfig::default();
        let mut health = Health::new(at(0));
        assert_eq!(health.observe(at(1), &stats(7), &config), Verdict::Fine);
        assert_eq!(health.observe(at(15), &stats(7), &config), Verdict::Fine);
        assert_eq!(health.observe(at(30), &stats(7), &config), Verdict::Suspect);
        assert_eq!(health.observe(at(85), &stats(7), &config), Verdict::Dead);
        assert_eq!(health.alive_at(), at(1));
        assert_eq!(
            health.observe(at(86), &stats(8), &config),
            Verdict::Fine,
            "it was late, not dead"
        );
    }

    #[test]
    fn what_is_overtaken_may_have_waited_for_chunks_of_its_own_path() {
        let config = HealthConfig::default();
        let at_ms = |by, tail| {
            let (by, tail) = (Nanos::from_millis(by), Nanos::from_millis(tail));
            Health::overtaken(by, tail, &config)
        };
        assert_eq!(at_ms(19, 0), Verdict::Fine);
        assert_eq!(at_ms(20, 0), Verdict::Suspect);
        assert_eq!(at_ms(80, 0), Verdict::Dead);
        // At 30 Mb/s, four chunks of 64 KiB take 70 ms.
        assert_eq!(at_ms(69, 70), Verdict::Fine);
        assert_eq!(at_ms(139, 70), Verdict::Suspect);
        assert_eq!(at_ms(140, 70), Verdict::Dead);
        assert_eq!(at_ms(2000, 5000), Verdict::Dead, "within bounds");
    }

    #[test]
    fn idleness_and_a_closed_window_are_not_silence() {
        let config = HealthConfig::default();
        let mut health = Health::new(at(0));
        let idle = TransportStats {
            in_flight: false,
            ..stats(7)
        };
        assert_eq!(health.observe(at(60_000), &idle, &config), Verdict::Fine);
        // What is sent after a long idle time has its full time to be acknowledged.
        assert_eq!(
            health.observe(at(60_001), &stats(7), &config),
            Verdict::Fine
        );
        let closed = TransportStats {
            window_closed: true,
            ..stats(7)
        };
        assert_eq!(health.observe(at(70_000), &closed, &config), Verdict::Fine);
    }

    #[test]
    fn a_slow_path_gets_more_time() {
        let config = HealthConfig::default();
        let slow = TransportStats {
            rtt: Nanos::from_millis(60),
            rtt_var: Nanos::from_millis(10),
            ..stats(7)
        };
        let mut health = Health::new(at(0));
        health.observe(at(1), &slow, &config);
        assert_eq!(health.observe(at(150), &slow, &config), Verdict::Fine);
        assert_eq!(health.observe(at(700), &slow, &config), Verdict::Dead);
    }
}
