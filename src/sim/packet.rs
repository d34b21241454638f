//! Packets, and the arena they live in: a queue is a chain of places in it, so that a packet is
//! written once and moves through the fabric without being copied or allocated.

use super::time::Picos;

/// No packet.
pub(super) const NONE: u32 = u32::MAX;
/// Traffic classes of a link. Class 0 is for control: acknowledgements and trimmed headers; it
/// goes first and is never paused. The others follow in order.
pub const CLASSES: usize = 3;
/// The class of acknowledgements and headers.
pub const CONTROL: u8 = 0;
/// The class of urgent data.
pub const HIGH: u8 = 1;
/// The class of bulk data.
pub const BULK: u8 = 2;

/// A packet met congestion: it was marked (CE).
pub const MARKED: u8 = 1;
/// Its payload was cut off by a full queue.
pub const TRIMMED: u8 = 2;
/// It may be trimmed or marked: it carries data.
pub const DATA: u8 = 4;
/// Sent before.
pub const AGAIN: u8 = 8;
/// Its receiver acknowledges it at once.
pub const ACK_NOW: u8 = 16;
/// The queue that cut its payload off was the last before its receiver.
pub const TRIMMED_AT_LAST_HOP: u8 = 32;

/// One packet. The fabric reads size, class, destination, entropy and flags; the rest belongs to
/// the endpoints.
///
/// It is one cache line, and its way over a link touches hardly any other packet's.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Packet {
    /// When it reaches the far end of the link that it is on.
    pub(super) arrives: Picos,
    /// What the endpoints have to say.
    pub words: [u64; 3],
    /// Which conversation it belongs to.
    pub flow: u32,
    /// Its number there.
    pub seq: u32,
    /// Host port it goes to.
    pub to: u32,
    /// What switches hash on: stands for addresses and ports.
    pub entropy: u32,
    /// Bytes on the wire.
    pub bytes: u16,
    /// Traffic class.
    pub class: u8,
    /// What it is, to the endpoints.
    pub kind: u8,
    /// [`MARKED`] and the like.
    pub flags: u8,
    pub(super) next: u32,
    /// In a switch: the port that sent it there. On a wire, once the next packet is on it too: how
    /// many picoseconds later that one arrives.
    pub(super) ingress_or_gap: u32,
}

impl Packet {
    /// A packet to `to` with nothing in it.
    #[must_use]
    pub const fn new(to: u32, bytes: u16, class: u8, kind: u8) -> Self {
        Self {
            arrives: Picos::ZERO,
            words: [0; 3],
            flow: 0,
            seq: 0,
            to,
            entropy: 0,
            bytes,
            class,
            kind,
            flags: 0,
            next: NONE,
            ingress_or_gap: NONE,
        }
    }

    /// Whether any of these flags is set.
    #[must_use]
    pub const fn is(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

const _: () = assert!(size_of::<Packet>() == 64);

/// The packets that are in the fabric.
#[derive(Debug)]
pub(super) struct Pool {
    packets: Vec<Packet>,
    free: u32,
    live: u32,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self {
            packets: Vec::new(),
            free: NONE,
            live: 0,
        }
    }

    /// Packets in the fabric now.
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    pub(super) fn insert(&mut self, packet: Packet) -> u32 {
        self.live += 1;
        let place = self.free;
        if place == NONE {
            self.packets.push(packet);
            return self.packets.len() as u32 - 1;
        }
        let slot = &mut self.packets[place as usize];
        self.free = slot.next;
        *slot = packet;
        place
    }

    pub(super) fn remove(&mut self, place: u32) -> Packet {
        let free = self.free;
        let slot = &mut self.packets[place as usize];
        let packet = *slot;
        slot.next = free;
        self.free = place;
        self.live -= 1;
        packet
    }

    pub(super) fn get(&self, place: u32) -> &Packet {
        &self.packets[place as usize]
    }

    /// Reads a packet, if there is one at this place, so that it comes into the cache.
    pub(super) fn glance(&self, place: u32) -> u64 {
        let packet = self.packets.get(place as usize);
        packet.map_or(0, |packet| u64::from(packet.to))
    }

    pub(super) fn get_mut(&mut self, place: u32) -> &mut Packet {
        &mut self.packets[place as usize]
    }

    /// Exchanges two packets, each keeping the place of the other in its chain.
    pub(super) fn swap(&mut self, a: u32, b: u32) {
        let (next_a, next_b) = (self.get(a).next, self.get(b).next);
        self.packets.swap(a as usize, b as usize);
        self.get_mut(a).next = next_a;
        self.get_mut(b).next = next_b;
    }
}

/// A chain of packets in order of arrival.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    head: u32,
    tail: u32,
}

impl Chain {
    pub(super) const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
    };

    pub(super) fn is_empty(self) -> bool {
        self.head == NONE
    }

    pub(super) fn head(self) -> u32 {
        self.head
    }

    pub(super) fn tail(self) -> u32 {
        self.tail
    }

    pub(super) fn push(&mut self, pool: &mut Pool, place: u32) {
        pool.get_mut(place).next = NONE;
        if self.tail == NONE {
            self.head = place;
        } else {
            pool.get_mut(self.tail).next = place;
        }
        self.tail = place;
    }

    pub(super) fn pop(&mut self, pool: &Pool) -> u32 {
        let place = self.head;
        if place != NONE {
            self.head = pool.get(place).next;
            if self.head == NONE {
                self.tail = NONE;
            }
        }
        place
    }
}
