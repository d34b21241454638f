//! Credit from the receiver: senders say how much they want, and a pacer at each host hands out
//! just what its link can take, in turns (EQDS, NSDI 2022; receiver control of the Ultra Ethernet
//! transport). Credit is counted in quanta, cumulatively, so that a lost grant costs nothing.

use std::collections::VecDeque;

use super::super::time::Picos;
use super::MTU;
use crate::units::Rate;

/// Bytes of a quantum.
pub(super) const QUANTUM: u64 = 256;
/// Quanta of one grant: 16 KiB.
const GRANT: u64 = 64;
/// A grant of nothing takes the time of so many quanta.
const EMPTY_GRANT: u64 = 4;

/// What the sender of a flow holds.
#[derive(Debug)]
pub(super) struct Credit {
    /// Bytes that it may send; the last packet may overdraw it.
    pub(super) bytes: i64,
    /// It still sends on its own account.
    pub(super) is_speculating: bool,
    /// Quanta granted so far.
    granted: u64,
    max: u64,
}

impl Credit {
    /// A flow starts with so many bytes on its own account, and never holds more.
    pub(super) fn new(max: u64) -> Self {
        Self {
            bytes: max as i64,
            is_speculating: true,
            granted: 0,
            max,
        }
    }

    /// The receiver has been heard: what is left of the own account is void.
    pub(super) fn stop_speculating(&mut self) {
        if self.is_speculating {
            self.is_speculating = false;
            self.bytes = self.bytes.min(0);
        }
    }

    /// Grants add up to so many quanta now.
    pub(super) fn on_grant(&mut self, granted: u64) {
        let more = granted.saturating_sub(self.granted);
        self.granted += more;
        self.bytes = (self.bytes + (more * QUANTUM) as i64).min(self.max as i64);
    }

    /// What to ask for: quanta, since the start of the flow. `wanted` is what waits to be sent
    /// and `window` what the sender itself would allow; a host that sends to several asks each of
    /// them for its part.
    pub(super) fn target(
        &self,
        wanted: u64,
        window: Option<u64>,
        is_last: bool,
        senders: usize,
    ) -> u64 {
        let wanted = wanted.min(window.map_or(u64::MAX, |bytes| bytes + MTU));
        let mut bytes = wanted.min(self.max) as i64 - self.bytes;
        if self.is_speculating && !is_last {
            bytes = bytes.max(MTU as i64);
        }
        if senders > 1 {
            bytes /= senders as i64;
        }
        let bytes = bytes + (self.granted * QUANTUM) as i64;
        (bytes.max(0) as u64).div_ceil(QUANTUM)
    }
}

/// What the receiver of a flow has been asked for and has granted, in quanta.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    target: u64,
    granted: u64,
    is_active: bool,
    /// Places in the list of those who have all they asked for.
    idle: u8,
}

impl Asked {
    /// Whether a pacer still has it in one of its lists.
    pub(super) fn is_listed(&self) -> bool {
        self.is_active || self.idle > 0
    }
}

/// Access to what receivers have been asked for.
pub(super) trait Book {
    fn asked(&mut self, slot: u32) -> &mut Asked;
}

/// The pacer of one host.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    active: VecDeque<u32>,
    /// Those who have what they asked for. They get a little on account when nobody else wants
    /// anything, because what they asked for is a round trip old.
    idle: VecDeque<u32>,
    /// When it may grant again; `None`: at once.
    next_at: Option<Picos>,
}

/// A grant to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) slot: u32,
    /// Quanta since the start of the flow.
    pub(super) granted: u64,
}

impl Pacer {
    /// When it wants to grant again.
    pub(super) fn next_at(&self) -> Option<Picos> {
        self.next_at
    }

    /// A sender asks for quanta up to `target`. Returns whether the pacer has to be run now.
    pub(super) fn ask(&mut self, slot: u32, target: u64, book: &mut impl Book) -> bool {
        let asked = book.asked(slot);
        if target <= asked.target {
            return false;
        }
        asked.target = target;
        self.join(slot, book)
    }

    /// A receiver wants a turn, asked or not. Returns whether the pacer has to be run now.
    pub(super) fn join(&mut self, slot: u32, book: &mut impl Book) -> bool {
        let asked = book.asked(slot);
        if !asked.is_active {
            asked.is_active = true;
            self.active.push_back(slot);
        }
        self.next_at.is_none()
    }

    /// Makes the next grant, and says when the one after may be made.
    pub(super) fn run(
        &mut self,
        now: Picos,
        quantum_time: Picos,
        account_max: u64,
        book: &mut impl Book,
    ) -> Option<Grant> {
        let (slot, quanta) = if let Some(slot) = self.active.pop_front() {
            let asked = book.asked(slot);
            let granted = (asked.granted + GRANT).min(asked.target).max(asked.granted);
            let quanta = granted - asked.granted;
            asked.granted = granted;
            if asked.target > granted {
                self.active.push_back(slot);
            } else {
                asked.is_active = false;
                asked.idle += 1;
                self.idle.push_back(slot);
            }
            (slot, quanta)
        } else if let Some(slot) = self.idle.pop_front() {
            let asked = book.asked(slot);
            asked.granted += GRANT;
            let on_account = asked.granted.saturating_sub(asked.target);
            if on_account > 0 && on_account < account_max / QUANTUM {
                self.idle.push_back(slot);
            } else {
                asked.idle -= 1;
            }
            (slot, GRANT)
        } else {
            self.next_at = None;
            return None;
        };
        let quanta = if quanta == 0 { EMPTY_GRANT } else { quanta };
        self.next_at = Some(now + quantum_time * quanta);
        let granted = book.asked(slot).granted;
        Some(Grant { slot, granted })
    }
}

/// How long a quantum takes: at 0.99 of the rate, so that the queue before the receiver drains.
pub(super) fn quantum_time(rate: Rate) -> Picos {
    let picos = u128::from(8 * QUANTUM) * 1_000_000_000_000 * 100;
    Picos((picos / (u128::from(rate.0.max(1)) * 8 * 99)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Two([Asked; 2]);

    impl Book for Two {
        fn asked(&mut self, slot: u32) -> &mut Asked {
            &mut self.0[slot as usize]
        }
    }

    #[test]
    fn senders_take_turns_at_nearly_the_line_rate() {
        let rate = Rate::from_mbps(100_000);
        let quantum = quantum_time(rate);
        assert_eq!(quantum, Picos(20_686));
        let (mut pacer, mut book) = (Pacer::default(), Two::default());
        assert!(pacer.ask(0, 200, &mut book));
        let first = pacer.run(Picos::ZERO, quantum, 0, &mut book).unwrap();
        assert_eq!((first.slot, first.granted), (0, 64));
        assert!(!pacer.ask(1, 100, &mut book), "the pacer is under way");
        let mut grants = Vec::new();
        let mut now = Picos::ZERO;
        while let Some(at) = pacer.next_at() {
            now = at;
            if let Some(grant) = pacer.run(now, quantum, 0, &mut book) {
                grants.push((grant.slot, grant.granted));
            }
        }
        let expected = [(0, 128), (1, 64), (0, 192), (1, 100), (0, 200)];
        assert_eq!(grants[..5], expected);
        // Both get one grant on account when all have what they asked for.
        assert_eq!(grants[5..], [(1, 164), (0, 264)]);
        assert_eq!(now, quantum * (300 + 2 * 64));
        assert!(!book.0.iter().any(Asked::is_listed));
    }

    #[test]
    fn credit_on_own_account_ends_when_the_receiver_is_heard() {
        let mut credit = Credit::new(1_000_000);
        credit.bytes -= 400_000;
        credit.stop_speculating();
        assert_eq!(credit.bytes, 0);
        credit.on_grant(64);
        credit.on_grant(32);
        assert_eq!(credit.bytes, 64 * 256);
        // Overdrawn, it asks for what it owes too.
        credit.bytes = -100;
        assert_eq!(credit.target(1000, None, false, 1), 64 + 5);
        assert_eq!(credit.target(1000, None, false, 2), 64 + 3);
    }
}
