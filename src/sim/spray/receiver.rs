//! The receiving side of a flow: which packets have arrived, and when that is reported.

use std::collections::VecDeque;

use super::super::packet::{ACK_NOW, AGAIN, CONTROL, MARKED, Packet};
use super::pull::Asked;
use super::{ACK, HEADER, NO_PACKET};

/// What has arrived of one flow.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    pub(super) flow: u32,
    /// Host port of the sender.
    pub(super) to: u32,
    /// Packets of the flow.
    pub(super) packets: u32,
    /// Packets that have arrived.
    pub(super) arrived: u32,
    /// The next packet in order.
    expected: u32,
    /// Packets that have arrived beyond it.
    ahead: u32,
    /// One bit for each packet from `expected` rounded down to a multiple of 64.
    bits: VecDeque<u64>,
    /// Bytes on the wire that have arrived, each packet once.
    received: u64,
    /// Bytes since the last acknowledgement.
    unacked: u32,
    /// A packet asked for an acknowledgement: there is one as soon as no hole is left.
    owes_ack: bool,
    pub(super) asked: Asked,
    /// Grants sent: the entropy of the next one.
    pub(super) grants: u32,
}

impl Receiver {
    pub(super) fn new(flow: u32, to: u32, packets: u32) -> Self {
        Self {
            flow,
            to,
            packets,
            ..Self::default()
        }
    }

    /// Bytes of the message that have arrived.
    pub(super) fn payload(&self) -> u64 {
        self.received - u64::from(self.arrived) * u64::from(HEADER)
    }

    /// Whether this packet has arrived before.
    pub(super) fn has(&self, seq: u32) -> bool {
        if seq < self.expected {
            return true;
        }
        let bit = seq - (self.expected & !63);
        let word = self.bits.get((bit / 64) as usize).copied().unwrap_or(0);
        word & 1 << (bit % 64) != 0
    }

    /// Reads what [`Receiver::on_data`] is going to read.
    pub(super) fn glance(&self, packet: &Packet) -> u64 {
        self.received ^ u64::from(self.unacked) ^ u64::from(self.has(packet.seq))
    }

    /// Takes a packet, and says whether it is to be acknowledged now; every `ack_bytes` at the
    /// latest.
    pub(super) fn on_data(&mut self, packet: &Packet, ack_bytes: u32) -> bool {
        self.unacked += u32::from(packet.bytes);
        if self.has(packet.seq) {
            return true;
        }
        let mut now = self.arrived == 0 || packet.is(MARKED);
        self.arrived += 1;
        self.received += u64::from(packet.bytes);
        if packet.is(ACK_NOW) {
            now = true;
            self.owes_ack = true;
        }
        self.insert(packet.seq);
        if self.ahead == 0 && self.owes_ack {
            now = true;
            self.owes_ack = false;
        }
        now || self.unacked >= ack_bytes
    }

    fn insert(&mut self, seq: u32) {
        if seq == self.expected && self.ahead == 0 {
            self.expected += 1;
            if self.expected.is_multiple_of(64) {
                self.bits.pop_front();
            }
            return;
        }
        let base = self.expected & !63;
        let word = ((seq - base) / 64) as usize;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << (seq % 64);
        self.ahead += 1;
        if seq == self.expected {
            self.close();
        }
    }

    /// The next packet in order is there: goes on to the first that is not.
    fn close(&mut self) {
        while let Some(&word) = self.bits.front() {
            let ready = (!(word >> (self.expected % 64))).trailing_zeros();
            let ready = ready.min(64 - self.expected % 64);
            self.expected += ready;
            self.ahead -= ready;
            if !self.expected.is_multiple_of(64) || ready == 0 {
                return;
            }
            self.bits.pop_front();
        }
    }

    /// The packets that have arrived from `base` on, one bit each.
    fn bitmap(&self, base: u32) -> u64 {
        let start = self.expected & !63;
        let word = |index: u32| self.bits.get(index as usize).copied().unwrap_or(0);
        let Some(ahead) = base.checked_sub(start) else {
            // What lies before the first word has arrived, but nobody needs to be told.
            return word(0).checked_shl(start - base).unwrap_or(0);
        };
        let (index, shift) = (ahead / 64, ahead % 64);
        if shift == 0 {
            return word(index);
        }
        word(index) >> shift | word(index + 1) << (64 - shift)
    }

    /// The acknowledgement of a packet.
    pub(super) fn ack(&mut self, packet: &Packet) -> Packet {
        self.unacked = 0;
        let base = if packet.is(MARKED | ACK_NOW) {
            packet.seq
        } else {
            (self.expected + 1).max(packet.seq.saturating_sub(63))
        };
        let mut ack = self.header(packet, ACK);
        ack.flags = packet.flags & (MARKED | AGAIN);
        ack.words[0] = if self.ahead == 0 {
            0
        } else {
            self.bitmap(base)
        };
        ack.words[1] = u64::from(base) << 32 | u64::from(self.expected);
        ack.words[2] = self.received;
        ack
    }

    /// The answer to a sender that asks how things stand.
    pub(super) fn answer(&mut self, packet: &Packet) -> Packet {
        let mut ack = self.ack(packet);
        ack.seq = NO_PACKET;
        ack.words[0] = 0;
        ack
    }

    /// A control packet back to the sender, on the path of a packet of its.
    pub(super) fn header(&self, packet: &Packet, kind: u8) -> Packet {
        let mut header = Packet::new(self.to, HEADER, CONTROL, kind);
        header.flow = self.flow;
        header.seq = packet.seq;
        header.entropy = packet.entropy;
        header
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::packet::{BULK, DATA};
    use super::*;

    fn data(seq: u32, flags: u8) -> Packet {
        let mut packet = Packet::new(0, 4150, BULK, super::super::DATA_PACKET);
        packet.seq = seq;
        packet.flags = DATA | flags;
        packet
    }

    #[test]
    fn acknowledges_every_fourth_and_what_asks_for_it() {
        let mut receiver = Receiver::new(0, 0, 100);
        let mut acks = Vec::new();
        for seq in 0..10 {
            let packet = data(seq, if seq == 6 { ACK_NOW } else { 0 });
            if receiver.on_data(&packet, 16384) {
                receiver.ack(&packet);
                acks.push(seq);
            }
        }
        // The first, four later, the one that asks; then three more are not yet enough.
        assert_eq!(acks, [0, 4, 6]);
        assert!(receiver.on_data(&data(3, 0), 16384), "a duplicate");
        assert!(receiver.on_data(&data(10, MARKED), 16384));
    }

    proptest! {
        /// Like a plain set, whatever the order of arrival.
        #[test]
        fn knows_what_has_arrived(order in Just((0u32..300).collect::<Vec<_>>()).prop_shuffle(), until in 1usize..300) {
            let mut receiver = Receiver::new(0, 0, 300);
            let mut seen = [false; 400];
            for &seq in &order[..until] {
                receiver.on_data(&data(seq, 0), 1 << 20);
                seen[seq as usize] = true;
            }
            let expected = (0u32..400).find(|&seq| !seen[seq as usize]).unwrap();
            let ack = receiver.ack(&data(order[until - 1], 0));
            prop_assert_eq!(ack.words[1] as u32, expected);
            prop_assert_eq!(ack.words[2], until as u64 * 4150);
            let base = (ack.words[1] >> 32) as u32;
            for bit in 0..64 {
                let seq = base + bit;
                if seq >= expected {
                    let says = ack.words[0] & 1 << bit != 0;
                    prop_assert_eq!(says, seen[seq as usize], "packet {}", seq);
                }
            }
            for seq in 0..300 {
                prop_assert_eq!(receiver.has(seq), seen[seq as usize]);
            }
        }
    }
}
