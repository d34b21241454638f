//! Whether the books of a fabric balance: what it counts as it goes along against what is there.

use super::super::packet::{CLASSES, Chain, NONE, Packet, Pool};
use super::Fabric;

impl Fabric {
    /// Every byte that was sent has been delivered, dropped or trimmed off, or is under way; and
    /// each queue, shared buffer and link knows how much it holds.
    ///
    /// # Panics
    /// They do not: a bug of the simulator, and its results are worth nothing.
    pub fn audit(&self) {
        let mut packets = 0;
        let mut bytes = 0;
        let mut used = vec![0; self.switches.len()];
        let mut inside = vec![[0; CLASSES]; self.ports.len()];
        let mut enter = |port: usize, class: usize, packet: &Packet| {
            let p = &self.ports[port];
            if p.eager {
                used[p.switch as usize] += u64::from(packet.bytes);
                inside[packet.ingress_or_gap as usize][class] += u32::from(packet.bytes);
            }
        };
        for (index, p) in self.ports.iter().enumerate() {
            for packet in p.flight.packets(&self.pool) {
                packets += 1;
                bytes += u64::from(packet.bytes);
            }
            let sending = (p.sending != NONE).then(|| self.pool.get(p.sending));
            for (class, queue) in p.queues.iter().enumerate() {
                let mut held = 0;
                for packet in queue.chain.packets(&self.pool) {
                    assert_eq!(
                        usize::from(packet.class),
                        class,
                        "port {index}: a stray packet"
                    );
                    packets += 1;
                    bytes += u64::from(packet.bytes);
                    held += u32::from(packet.bytes);
                    enter(index, class, packet);
                }
                if let Some(packet) = sending
                    && p.host_port == NONE
                    && usize::from(packet.class) == class
                {
                    held += u32::from(packet.bytes);
                    enter(index, class, packet);
                }
                assert_eq!(queue.bytes, held, "port {index}: bytes of class {class}");
            }
        }
        let totals = self.totals;
        assert_eq!(packets, self.in_flight(), "packets under way");
        assert_eq!(
            totals.sent,
            totals.delivered + totals.dropped + packets,
            "packets: {totals:?}"
        );
        assert_eq!(
            totals.sent_bytes,
            totals.delivered_bytes + totals.dropped_bytes + totals.trimmed_bytes + bytes,
            "bytes: {totals:?}, {bytes} under way"
        );
        for (switch, used) in self.switches.iter().zip(used) {
            assert_eq!(switch.used, used, "bytes in a shared buffer");
        }
        for (link, inside) in self.asides.iter().zip(inside) {
            assert_eq!(link.inside, inside, "bytes that came over a link");
        }
    }
}

impl Chain {
    /// Its packets, the oldest first.
    fn packets(self, pool: &Pool) -> impl Iterator<Item = &Packet> {
        let mut place = self.head();
        std::iter::from_fn(move || {
            let packet = (place != NONE).then(|| pool.get(place))?;
            place = if place == self.tail() {
                NONE
            } else {
                packet.next
            };
            Some(packet)
        })
    }
}
