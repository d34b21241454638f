//! Does a port lose packets? Told by what its adapter counts, for all links of the host together.
//!
//! Reliable queue pairs repair losses, so a lossy port looks like a slow one, and chunks that are hit
//! hold their messages up. Congestion that loses packets does so for a moment, or at all ports alike;
//! a bad cable or a dirty lens loses them steadily, at one. A link leaves such a port as long as it
//! has another, and tries it again: after a second, and after twice as long each time that this was
//! no use.

use crate::clock::Timestamp;
use crate::units::Nanos;

/// A port is lossy that loses one packet in so many: of chunks of 16 packets, every sixteenth is hit.
const LOSSY: u64 = 256;
/// Not upon less than so many losses, in as many readings: what comes in one burst is congestion.
const READINGS: u32 = 3;
/// What was sent before the last so many packets is forgotten, about.
const MEMORY: u64 = 4096;
/// How long a port is left, the first time and at most.
const AWAY_MIN: Nanos = Nanos::from_secs(1);
const AWAY_MAX: Nanos = Nanos::from_secs(60);

/// The losses of one port.
#[derive(Debug)]
pub struct Loss {
    sent: u64,
    lost: u64,
    /// Readings with losses among them.
    readings: u32,
    away_until: Timestamp,
    away: Nanos,
}

/// A port was found lossy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lossy {
    /// Packets lost of late.
    pub lost: u64,
    /// Of so many.
    pub sent: u64,
    /// How long it is left for.
    pub away: Nanos,
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            sent: 0,
            lost: 0,
            readings: 0,
            away_until: Timestamp::ZERO,
            away: AWAY_MIN,
        }
    }
}

impl Loss {
    /// Takes in how many packets the port has sent since the last reading, and how many of what it
    /// sent were lost. Says when that makes it one to leave.
    pub fn observe(&mut self, sent: u64, lost: u64, now: Timestamp) -> Option<Lossy> {
        if self.is_away(now) {
            return None;
        }
        self.sent += sent;
        self.lost += lost;
        self.readings += u32::from(lost > 0);
        if self.readings >= READINGS && self.lost.saturating_mul(LOSSY) >= self.sent {
            let found = Lossy {
                lost: self.lost,
                sent: self.sent,
                away: self.away,
            };
            *self = Self {
                away_until: now + self.away,
                away: (self.away * 2).min(AWAY_MAX),
                ..Self::default()
            };
            return Some(found);
        }
        if self.sent > MEMORY {
            self.sent /= 2;
            self.lost /= 2;
            self.readings = self
                .readings
                .min(u32::try_from(self.lost).unwrap_or(READINGS));
            if self.lost == 0 && now.since(self.away_until) >= self.away {
                // It has been well for longer than it was last left.
                self.away = AWAY_MIN;
            }
        }
        None
    }

    /// Whether it is left just now.
    #[must_use]
    pub fn is_away(&self, now: Timestamp) -> bool {
        now < self.away_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ_EVERY: Nanos = Nanos::from_millis(10);

    /// Reads a port until it is found lossy, at most so often.
    fn read(
        loss: &mut Loss,
        now: &mut Timestamp,
        times: u32,
        counted: impl Fn(u32) -> (u64, u64),
    ) -> Option<Lossy> {
        (0..times).find_map(|at| {
            *now += READ_EVERY;
            let (sent, missing) = counted(at);
            loss.observe(sent, missing, *now)
        })
    }

    #[test]
    fn steady_loss_is_left_for_longer_each_time() {
        let (mut loss, mut now) = (Loss::default(), Timestamp::from_nanos(1));
        let mut away = Vec::new();
        for _ in 0..9 {
            let one_percent = |at| (100, u64::from(at % 2 == 0));
            let found = read(&mut loss, &mut now, 10, one_percent).expect("it loses 1 %");
            assert!(loss.is_away(now));
            away.push(found.away.as_millis() / 1000);
            now += found.away;
            assert!(!loss.is_away(now));
        }
        assert_eq!(away, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        // Well for longer than that, it begins anew.
        assert_eq!(read(&mut loss, &mut now, 13_000, |_| (1000, 0)), None);
        let found = read(&mut loss, &mut now, 100, |_| (100, 1)).expect("it loses 1 %");
        assert_eq!(found.away, AWAY_MIN);
    }

    #[test]
    fn a_burst_is_no_reason() {
        let (mut loss, mut now) = (Loss::default(), Timestamp::from_nanos(1));
        let bursts = |at| (10_000, if at % 100 < 2 { 500 } else { 0 });
        assert_eq!(read(&mut loss, &mut now, 1000, bursts), None);
    }

    #[test]
    fn a_packet_now_and_then_is_no_reason() {
        let (mut loss, mut now) = (Loss::default(), Timestamp::from_nanos(1));
        let rarely = |at| (1000, u64::from(at % 3 == 0));
        assert_eq!(read(&mut loss, &mut now, 10_000, rarely), None);
    }

    #[test]
    fn few_packets_tell_as_much() {
        let (mut loss, mut now) = (Loss::default(), Timestamp::from_nanos(1));
        let slow = |at| (3, u64::from(at % 30 == 29));
        let found = read(&mut loss, &mut now, 200, slow);
        assert_eq!(found.map(|found| (found.lost, found.sent)), Some((3, 270)));
    }
}
