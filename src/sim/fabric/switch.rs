//! What a switch does with a packet: chooses the port that it leaves from and puts it into the
//! queue there, or drops it or cuts its payload off.

use super::{Fabric, HEADER_BYTES, Hosts, Overflow, Routing, Switch};
use crate::sim::packet::{CONTROL, DATA, NONE, TRIMMED, TRIMMED_AT_LAST_HOP};
use crate::sim::time::Picos;

/// Upper bounds of the bands of backlog, in parts of a hundred of the queue's capacity (htsim's
/// `quantized_queuesize`).
const BANDS: [u32; 3] = [5, 10, 20];

impl Switch {
    /// Which of so many ports the hash chooses.
    pub(super) fn pick(&self, entropy: u32, ports: usize) -> usize {
        (hash(entropy, self.salt) % ports as u32) as usize
    }
}

/// The hash of a switch: Bob Jenkins' mix of 1997, once. The upper half of the entropy is mixed
/// well and the lower half is not: neighbouring values spread nearly evenly over a few ports, as
/// they do with the checksums that real switches use, and senders that walk through them gain
/// from that.
pub(in crate::sim) const fn hash(entropy: u32, salt: u32) -> u32 {
    const GOLDEN: u32 = 0x9e37_79b9;
    let mut a = GOLDEN.wrapping_add(entropy >> 16);
    let mut b = GOLDEN.wrapping_add(salt);
    let mut c = entropy & 0xffff;
    let mut round = 0;
    while round < 3 {
        let by = [[13, 8, 13], [12, 16, 5], [3, 10, 15]][round];
        a = a.wrapping_sub(b).wrapping_sub(c) ^ c >> by[0];
        b = b.wrapping_sub(c).wrapping_sub(a) ^ a << by[1];
        c = c.wrapping_sub(a).wrapping_sub(b) ^ b >> by[2];
        round += 1;
    }
    c
}

impl Fabric {
    /// A packet has arrived at a switch.
    pub(super) fn forward<H: Hosts>(&mut self, switch: u32, place: u32, hosts: &mut H) {
        let packet = self.pool.get(place);
        let group = self.groups.towards(switch, packet.to);
        let s = &self.switches[switch as usize];
        let port = match (group, s.config.routing) {
            (&[], _) => {
                self.drop_packet(place, None);
                return;
            }
            (&[port], _) => port,
            (group, Routing::Hash) => group[s.pick(packet.entropy, group.len())],
            (_, Routing::Adaptive) => self.least_loaded(switch, place, hosts),
            (group, Routing::AdaptiveBands(_)) if !packet.is(DATA) || packet.is(TRIMMED) => {
                group[s.pick(packet.entropy, group.len())]
            }
            (_, Routing::AdaptiveBands(age)) => self.emptiest_band(switch, place, age, hosts),
        };
        if self.switches[switch as usize].is_down {
            self.drop_packet(place, Some(port));
            return;
        }
        self.advance(port, hosts);
        self.enqueue(port, place);
        self.begin(port, self.now, hosts);
    }

    /// The port with the least backlog of those that lead where the packet goes; ties by a coin.
    fn least_loaded<H: Hosts>(&mut self, switch: u32, place: u32, hosts: &mut H) -> u32 {
        let to = self.pool.get(place).to;
        let count = self.groups.towards(switch, to).len();
        let (mut best, mut least, mut ties) = (NONE, u32::MAX, 0);
        for k in 0..count {
            let port = self.groups.towards(switch, to)[k];
            self.advance(port, hosts);
            let p = &self.ports[port as usize];
            let backlog = p.queues.iter().map(|q| q.bytes).sum();
            ties = if backlog < least { 1 } else { ties + 1 };
            let coin = &mut self.switches[switch as usize].coin;
            if backlog < least || (backlog == least && coin.below(ties) == 0) {
                (best, least) = (port, backlog);
            }
        }
        best
    }

    /// One of the ports in the emptiest band, by a coin.
    fn emptiest_band<H: Hosts>(
        &mut self,
        switch: u32,
        place: u32,
        age: Picos,
        hosts: &mut H,
    ) -> u32 {
        let to = self.pool.get(place).to;
        let count = self.groups.towards(switch, to).len();
        let (mut best, mut least, mut ties) = (NONE, u8::MAX, 0);
        for k in 0..count {
            let port = self.groups.towards(switch, to)[k];
            let band = self.band(port, age, hosts);
            ties = if band < least { 1 } else { ties + 1 };
            let coin = &mut self.switches[switch as usize].coin;
            if band < least || (band == least && coin.below(ties) == 0) {
                (best, least) = (port, band);
            }
        }
        best
    }

    /// The band of a port's backlog as of up to `age` ago.
    fn band<H: Hosts>(&mut self, port: u32, age: Picos, hosts: &mut H) -> u8 {
        let aside = &self.asides[port as usize];
        if aside.band_at.is_some_and(|at| self.now.since(at) <= age) {
            return aside.band;
        }
        self.advance(port, hosts);
        let p = &self.ports[port as usize];
        let backlog: u64 = p.queues.iter().map(|q| u64::from(q.bytes)).sum();
        let capacity = u64::from(self.queues[usize::from(p.queue)].capacity);
        let below = |&bound: &u32| backlog * 100 < capacity * u64::from(bound);
        let band = BANDS.iter().position(below).unwrap_or(BANDS.len()) as u8;
        let aside = &mut self.asides[port as usize];
        (aside.band, aside.band_at) = (band, Some(self.now));
        band
    }

    /// Puts a packet into the queue of a switch's port, or does what is done when it is full.
    fn enqueue(&mut self, port: u32, place: u32) {
        let p = &mut self.ports[port as usize];
        if p.is_down {
            self.drop_packet(place, Some(port));
            return;
        }
        let packet = self.pool.get(place);
        if !packet.is(DATA) || packet.is(TRIMMED) {
            self.enqueue_control(port, place);
            return;
        }
        let (class, bytes, ingress) = (
            usize::from(packet.class),
            packet.bytes,
            packet.ingress_or_gap,
        );
        let bytes = u32::from(bytes);
        let switch = &self.switches[p.switch as usize];
        let (config, own) = (&switch.config, &self.queues[usize::from(p.queue)]);
        let backlog = p.queues[class].bytes;
        let fits = match config.shared_buffer {
            None => backlog + bytes <= own.capacity,
            Some(total) => u64::from(backlog + bytes) <= total.saturating_sub(switch.used),
        };
        if let Some(pause) = config.pause {
            let link = &mut self.asides[ingress as usize];
            let inside = link.inside[class] + bytes;
            if inside > pause.on + pause.headroom {
                self.drop_packet(place, Some(port));
                return;
            }
            if inside > pause.on && link.asked_to_pause & 1 << class == 0 {
                link.asked_to_pause |= 1 << class;
                self.send_pause(ingress, class, true);
            }
        } else if !fits {
            match own.overflow {
                Overflow::Drop => self.drop_packet(place, Some(port)),
                Overflow::Trim => self.trim(port, place),
            }
            return;
        }
        self.admit(port, place);
    }

    fn admit(&mut self, port: u32, place: u32) {
        let p = &mut self.ports[port as usize];
        let packet = self.pool.get(place);
        let (class, bytes, ingress) = (
            usize::from(packet.class),
            packet.bytes,
            packet.ingress_or_gap,
        );
        let bytes = u32::from(bytes);
        p.queues[class].bytes += bytes;
        p.queues[class].chain.push(&mut self.pool, place);
        if class != usize::from(CONTROL) {
            p.backlog_max = p.backlog_max.max(p.queues[class].bytes);
        }
        if p.eager {
            self.switches[p.switch as usize].used += u64::from(bytes);
            self.asides[ingress as usize].inside[class] += bytes;
        }
    }

    fn enqueue_control(&mut self, port: u32, place: u32) {
        let p = &self.ports[port as usize];
        self.pool.get_mut(place).class = CONTROL;
        let bytes = u32::from(self.pool.get(place).bytes);
        let capacity = self.queues[usize::from(p.queue)].control_capacity;
        if p.queues[usize::from(CONTROL)].bytes + bytes > capacity {
            self.drop_packet(place, Some(port));
        } else {
            self.admit(port, place);
        }
    }

    /// Cuts the payload off this packet or off the last one in the queue, which it then follows.
    fn trim(&mut self, port: u32, place: u32) {
        let p = &mut self.ports[port as usize];
        let class = usize::from(self.pool.get(place).class);
        let last = p.queues[class].chain.tail();
        self.asides[port as usize].stats.trims += 1;
        if last != NONE && p.coin.chance(1, 2) {
            // The two exchange their places: the one that arrived now waits at the end.
            let (old, new) = (self.pool.get(last).bytes, self.pool.get(place).bytes);
            p.queues[class].bytes -= u32::from(old);
            p.queues[class].bytes += u32::from(new);
            self.pool.swap(last, place);
            if p.eager {
                let (old_in, new_in) = (
                    self.pool.get(place).ingress_or_gap,
                    self.pool.get(last).ingress_or_gap,
                );
                let used = &mut self.switches[p.switch as usize].used;
                *used = *used + u64::from(new) - u64::from(old);
                self.asides[new_in as usize].inside[class] += u32::from(new);
                self.leave(old_in, class, u32::from(old));
            }
        }
        let packet = self.pool.get_mut(place);
        packet.flags |= TRIMMED;
        if self.ports[port as usize].to_host {
            packet.flags |= TRIMMED_AT_LAST_HOP;
        }
        self.totals.trimmed_bytes += u64::from(packet.bytes - HEADER_BYTES);
        packet.bytes = HEADER_BYTES;
        self.enqueue_control(port, place);
    }
}
