//! Reading ahead. A large fabric does not fit into the cache, and a line that has to be fetched
//! takes longer than all that is done with it; so what the next events need is fetched for many of
//! them at once, and the processor waits for all of it together.

use std::hint::black_box;
use std::mem::offset_of;

use super::{ARRIVAL, Fabric, Hosts, KIND_SHIFT, Port};
use crate::sim::packet::{BULK, NONE};

/// For so many events at a time.
const EVENTS: usize = 32;
/// In fabrics of so many ports and more: where all is in the cache anyway it only costs time.
pub(super) const PORTS_MIN: usize = 1 << 12;

const _: () = assert!(offset_of!(Port, free_at) / 64 != offset_of!(Port, to) / 64);

impl Fabric {
    /// Reads what the next events are going to read, step by step: each step needs what the one
    /// before it has read. What is read here may still change; it is not used.
    pub(super) fn look_ahead<H: Hosts>(&mut self, hosts: &H) {
        let Some(events) = self.net.queue.glance(EVENTS) else {
            return;
        };
        // The ports that the packets are on, then those that they leave from next.
        let mut ports = [NONE; EVENTS];
        let mut count = 0;
        for event in events.filter(|event| event >> KIND_SHIFT == ARRIVAL) {
            ports[count] = event;
            count += 1;
        }
        let ports = &mut ports[..count];
        let mut sum = self.glance_at_ports(ports);
        sum ^= self.glance_at_packets(ports);
        // The route, and the host at either end.
        for &port in &*ports {
            let p = &self.ports[port as usize];
            let head = p.flight.head();
            if p.host_port != NONE {
                sum ^= hosts.glance_at_pull(p.host_port);
            }
            if head == NONE {
                continue;
            }
            let packet = self.pool.get(head);
            sum ^= if p.to_host {
                hosts.glance_at_receive(p.to, packet)
            } else {
                self.groups.glance(p.to, packet.to)
            };
        }
        for port in &mut *ports {
            let p = &self.ports[*port as usize];
            let head = p.flight.head();
            if head == NONE {
                continue;
            }
            if p.to_host {
                *port = self.topology.port_of_host_port(p.to);
                continue;
            }
            let packet = self.pool.get(head);
            let group = self.groups.towards(p.to, packet.to);
            if !group.is_empty() {
                let pick = self.switches[p.to as usize].pick(packet.entropy, group.len());
                *port = group[pick];
            }
        }
        sum ^= self.glance_at_ports(ports);
        sum ^= self.glance_at_packets(ports);
        black_box(sum);
    }

    /// Reads both lines of these ports.
    fn glance_at_ports(&self, ports: &[u32]) -> u64 {
        let read = |&port: &u32| {
            let p = &self.ports[port as usize];
            p.free_at.0 ^ u64::from(p.to)
        };
        ports.iter().map(read).fold(0, u64::wrapping_add)
    }

    /// Reads the packets that these ports are about to look at.
    fn glance_at_packets(&self, ports: &[u32]) -> u64 {
        let mut sum = 0;
        for &port in ports {
            let p = &self.ports[port as usize];
            let bulk = p.queues[usize::from(BULK)].chain;
            for place in [p.flight.head(), p.flight.tail(), bulk.head()] {
                sum ^= self.pool.glance(place);
            }
        }
        sum
    }
}
