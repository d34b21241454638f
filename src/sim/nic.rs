//! What an RDMA adapter does by itself: queue pairs (RC), each a reliable ordered channel.
//!
//! The host posts messages; the adapter cuts them into packets, takes turns among the queue pairs
//! that have something to send, acknowledges, sends again what was lost and reports completions.
//! The host sees nothing else: no single packet, no mark, no trim.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::dcqcn::{Dcqcn, DcqcnConfig};
use super::fabric::Net;
use super::packet::{ACK_NOW, AGAIN, BULK, CLASSES, CONTROL, DATA, HIGH, MARKED, Packet, TRIMMED};
use super::time::{ByteTime, Picos};
use crate::engine::wire::Header;

/// Bytes of headers of a `RoCEv2` packet on the wire.
pub const PACKET_OVERHEAD: u16 = 64;
/// An acknowledgement comes at the end of a message, and after so many packets of a long one.
const ACK_EVERY: u32 = 16;

const KIND_DATA: u8 = 0;
const KIND_ACK: u8 = 1;
/// Go back to this packet, or send just this one again.
const KIND_NAK: u8 = 2;
const KIND_CNP: u8 = 3;

/// How lost packets are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// From the lost packet on: what came after it is thrown away.
    GoBackN,
    /// Just the lost packet.
    Selective,
}

/// What an adapter is like.
#[derive(Debug, Clone, Copy)]
pub struct NicConfig {
    /// Payload bytes of a packet.
    pub mtu: u16,
    /// Loss recovery.
    pub recovery: Recovery,
    /// Without progress for so long, everything unacknowledged is sent again.
    pub timeout: Picos,
    /// Rate control of each queue pair in the adapter.
    pub dcqcn: Option<DcqcnConfig>,
}

/// What the host finds in its completion queues.
#[derive(Debug, Clone, Copy)]
pub enum Completion {
    /// The oldest posted message of this queue pair has arrived.
    Sent {
        /// Queue pair.
        qp: u32,
        /// What it was.
        work: Work,
    },
    /// The peer has written so many bytes into memory.
    Written {
        /// Queue pair.
        qp: u32,
        /// Immediate.
        imm: u32,
        /// Bytes.
        bytes: u32,
    },
    /// The peer has sent a frame (an eager message's payload came with it).
    Received {
        /// Queue pair.
        qp: u32,
        /// The frame.
        frame: Header,
    },
}

/// A posted message.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Write with immediate.
    Write {
        /// Immediate.
        imm: u32,
        /// Bytes.
        bytes: u32,
    },
    /// Send of a frame, with a payload of so many bytes.
    Send {
        /// The frame.
        frame: Header,
        /// Bytes of payload.
        payload: u32,
        /// It counts among the data frames of the engine.
        is_data: bool,
        /// When it was posted, if the host is to hear of its arrival.
        signalled: Option<Picos>,
    },
}

impl Work {
    fn is_signalled(&self) -> bool {
        !matches!(
            self,
            Self::Send {
                signalled: None,
                ..
            }
        )
    }

    fn bytes(&self) -> u32 {
        match self {
            Self::Write { bytes, .. } => *bytes,
            Self::Send { frame, payload, .. } => frame.as_bytes().len() as u32 + payload,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Posted {
    work: Work,
    first: u32,
    end: u32,
}

/// One end of a queue pair; the other end is its neighbour in the table.
#[derive(Debug)]
struct Qp {
    host_port: u32,
    entropy: u32,
    class: u8,
    dead: bool,
    // sending
    posted: VecDeque<Posted>,
    /// Messages that the receiver has not taken out yet, oldest first.
    delivered: VecDeque<Work>,
    /// Messages that have been acknowledged.
    completed: u64,
    una: u32,
    next: u32,
    /// Beyond the highest packet ever sent.
    sent_to: u32,
    end: u32,
    again: VecDeque<u32>,
    queued: bool,
    timer_armed: bool,
    progress_at: Picos,
    /// How many timeouts in a row.
    timeouts: u32,
    rate: Option<Dcqcn>,
    // receiving
    expected: u32,
    /// From `expected` on: has this packet arrived, and does a message end with it?
    arrived: VecDeque<Option<bool>>,
    nak_for: Option<u32>,
    unacked: u32,
    cnp_at: Picos,
}

/// The adapter of one host port.
#[derive(Debug, Default)]
struct Nic {
    control: VecDeque<Packet>,
    ready: [VecDeque<u32>; CLASSES],
    /// When a queue pair may send again, or has to be looked at for a timeout.
    timers: BinaryHeap<Reverse<(Picos, u32, bool)>>,
    woken_at: Option<Picos>,
    byte_time: Option<ByteTime>,
    host: u32,
}

/// What the adapters of a run have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NicStats {
    /// Data packets sent for the first time.
    pub sent: u64,
    /// Data packets sent again.
    pub again: u64,
    /// Timeouts.
    pub timeouts: u64,
    /// Congestion notifications sent.
    pub cnps: u64,
}

/// All adapters of a run.
#[derive(Debug)]
pub struct Nics {
    config: NicConfig,
    adapters: Vec<Nic>,
    qps: Vec<Qp>,
    completions: VecDeque<(u32, Completion)>,
    stats: NicStats,
}

impl Nics {
    /// One adapter for each host port: its host and the byte time of its link.
    #[must_use]
    pub fn new(config: NicConfig, ports: impl Iterator<Item = (u32, ByteTime)>) -> Self {
        Self {
            config,
            adapters: ports
                .map(|(host, byte_time)| Nic {
                    host,
                    byte_time: Some(byte_time),
                    ..Nic::default()
                })
                .collect(),
            qps: Vec::new(),
            completions: VecDeque::new(),
            stats: NicStats::default(),
        }
    }

    /// Connects two host ports by a queue pair. The answer is the end at `a`; that at `b` is the
    /// next number. The entropies are those of the two directions.
    pub fn connect(&mut self, a: u32, b: u32, entropies: [u32; 2], class: u8) -> u32 {
        let qp = self.qps.len() as u32;
        for (host_port, entropy) in [a, b].into_iter().zip(entropies) {
            self.qps.push(Qp {
                host_port,
                entropy,
                class,
                dead: false,
                posted: VecDeque::new(),
                delivered: VecDeque::new(),
                completed: 0,
                una: 0,
                next: 0,
                sent_to: 0,
                end: 0,
                again: VecDeque::new(),
                queued: false,
                timer_armed: false,
                progress_at: Picos::ZERO,
                timeouts: 0,
                rate: self.config.dcqcn.map(Dcqcn::new),
                expected: 0,
                arrived: VecDeque::new(),
                nak_for: None,
                unacked: 0,
                cnp_at: Picos::ZERO,
            });
        }
        qp
    }

    /// The host that a host port belongs to.
    #[must_use]
    pub fn host_of(&self, host_port: u32) -> u32 {
        self.adapters[host_port as usize].host
    }

    /// Whether this end has sent something that is not acknowledged.
    #[must_use]
    pub fn is_busy(&self, qp: u32) -> bool {
        !self.qps[qp as usize].posted.is_empty()
    }

    /// Messages of this end that have been acknowledged.
    #[must_use]
    pub fn completed(&self, qp: u32) -> u64 {
        self.qps[qp as usize].completed
    }

    /// The host port of this end.
    #[must_use]
    pub fn host_port(&self, qp: u32) -> u32 {
        self.qps[qp as usize].host_port
    }

    /// What the adapters have done.
    #[must_use]
    pub fn stats(&self) -> NicStats {
        self.stats
    }

    /// The next completion, with the host that finds it.
    pub fn poll_completion(&mut self) -> Option<(u32, Completion)> {
        self.completions.pop_front()
    }

    /// Posts a message.
    pub fn post(&mut self, qp: u32, work: Work, now: Picos, net: &mut Net) {
        let mtu = u32::from(self.config.mtu);
        let q = &mut self.qps[qp as usize];
        if q.dead {
            return;
        }
        if q.posted.is_empty() {
            q.progress_at = now;
        }
        let first = q.end;
        q.end += work.bytes().div_ceil(mtu).max(1);
        q.posted.push_back(Posted {
            work,
            first,
            end: q.end,
        });
        q.delivered.push_back(work);
        self.make_ready(qp);
        net.kick(self.qps[qp as usize].host_port);
        self.arm_timeout(qp, net);
    }

    /// Puts this end into the error state: it sends nothing, takes nothing, completes nothing.
    pub fn kill(&mut self, qp: u32) {
        let q = &mut self.qps[qp as usize];
        q.dead = true;
        q.posted.clear();
        q.again.clear();
        q.next = q.end;
    }

    fn make_ready(&mut self, qp: u32) {
        let q = &mut self.qps[qp as usize];
        if !q.queued && !q.dead && (q.next < q.end || !q.again.is_empty()) {
            q.queued = true;
            self.adapters[q.host_port as usize].ready[usize::from(q.class)].push_back(qp);
        }
    }

    fn arm_timeout(&mut self, qp: u32, net: &mut Net) {
        let q = &mut self.qps[qp as usize];
        if q.timer_armed || q.posted.is_empty() {
            return;
        }
        q.timer_armed = true;
        let at = q.progress_at + self.config.timeout * (1 << q.timeouts.min(6));
        self.arm(qp, at, true, net);
    }

    fn arm(&mut self, qp: u32, at: Picos, timeout: bool, net: &mut Net) {
        let nic = &mut self.adapters[self.qps[qp as usize].host_port as usize];
        nic.timers.push(Reverse((at, qp, timeout)));
        if nic.woken_at.is_none_or(|earlier| at < earlier) {
            nic.woken_at = Some(at);
            net.wake_at(nic.host, at);
        }
    }

    /// Does what is due at this host port.
    pub fn wake(&mut self, host_port: u32, now: Picos, net: &mut Net) {
        let due = |nic: &Nic| nic.timers.peek().is_some_and(|t| t.0.0 <= now);
        if !due(&self.adapters[host_port as usize]) {
            return;
        }
        while due(&self.adapters[host_port as usize]) {
            let Some(Reverse((_, qp, timeout))) = self.adapters[host_port as usize].timers.pop()
            else {
                break;
            };
            if timeout {
                self.look_for_timeout(qp, now, net);
            } else {
                self.qps[qp as usize].queued = false;
                self.make_ready(qp);
                net.kick(host_port);
            }
        }
        let nic = &mut self.adapters[host_port as usize];
        nic.woken_at = nic.timers.peek().map(|t| t.0.0);
        if let Some(at) = nic.woken_at {
            net.wake_at(nic.host, at);
        }
    }

    fn look_for_timeout(&mut self, qp: u32, now: Picos, net: &mut Net) {
        let q = &mut self.qps[qp as usize];
        q.timer_armed = false;
        if q.dead || q.posted.is_empty() {
            return;
        }
        let due = q.progress_at + self.config.timeout * (1 << q.timeouts.min(6));
        if due <= now && q.next == q.una {
            // Nothing is in flight: its port is down or paused. The time starts anew, or this timer
            // would be due again at once, for ever.
            q.progress_at = now;
        } else if due <= now {
            q.timeouts += 1;
            q.progress_at = now;
            q.next = q.una;
            q.again.clear();
            self.stats.timeouts += 1;
            self.make_ready(qp);
            net.kick(self.qps[qp as usize].host_port);
        }
        self.arm_timeout(qp, net);
    }

    /// The next packet of a host port: control first, then the queue pairs in turn.
    pub fn pull(
        &mut self,
        host_port: u32,
        paused: u8,
        now: Picos,
        net: &mut Net,
    ) -> Option<Packet> {
        if let Some(packet) = self.adapters[host_port as usize].control.pop_front() {
            return Some(packet);
        }
        for class in [CONTROL, HIGH, BULK] {
            if paused & 1 << class != 0 {
                continue;
            }
            while let Some(qp) =
                self.adapters[host_port as usize].ready[usize::from(class)].pop_front()
            {
                let q = &mut self.qps[qp as usize];
                if q.dead {
                    q.queued = false;
                    continue;
                }
                if let Some(rate) = &mut q.rate {
                    let free_at = rate.free_at(now);
                    if free_at > now {
                        // Stays marked as queued: its timer brings it back.
                        self.arm(qp, free_at, false, net);
                        continue;
                    }
                }
                q.queued = false;
                if let Some(packet) = self.packet_of(qp, now) {
                    self.make_ready(qp);
                    return Some(packet);
                }
            }
        }
        None
    }

    fn packet_of(&mut self, qp: u32, now: Picos) -> Option<Packet> {
        let mtu = u32::from(self.config.mtu);
        let q = &mut self.qps[qp as usize];
        let again = loop {
            match q.again.pop_front() {
                Some(seq) if seq < q.una => {}
                other => break other,
            }
        };
        let seq = match again {
            Some(seq) => seq,
            None if q.next < q.end => {
                q.next += 1;
                q.next - 1
            }
            None => return None,
        };
        let at = q.posted.partition_point(|p| p.end <= seq);
        let message = q.posted.get(at)?;
        let bytes = message.work.bytes();
        let payload = (bytes - (seq - message.first) * mtu).min(mtu);
        let to = self.qps[(qp ^ 1) as usize].host_port;
        let q = &mut self.qps[qp as usize];
        let message = q.posted.get(at)?;
        let wire = payload as u16 + PACKET_OVERHEAD;
        let mut packet = Packet::new(to, wire, q.class, KIND_DATA);
        packet.flow = qp ^ 1;
        packet.seq = seq;
        packet.entropy = q.entropy;
        packet.flags = DATA;
        if seq + 1 == message.end {
            packet.flags |= ACK_NOW;
        }
        if seq < q.sent_to {
            packet.flags |= AGAIN;
            self.stats.again += 1;
        } else {
            q.sent_to = seq + 1;
            self.stats.sent += 1;
        }
        if let Some(rate) = &mut q.rate {
            let nic = &self.adapters[q.host_port as usize];
            rate.sent(now, u64::from(wire), nic.byte_time);
        }
        Some(packet)
    }

    /// Takes a packet in.
    pub fn receive(&mut self, packet: &Packet, now: Picos, net: &mut Net) {
        let qp = packet.flow;
        if self.qps[qp as usize].dead {
            return;
        }
        match packet.kind {
            KIND_DATA => self.receive_data(qp, packet, now, net),
            KIND_ACK => self.acknowledged(qp, packet.seq, now, net),
            KIND_NAK => self.refused(qp, packet.seq, net),
            _ => {
                let q = &mut self.qps[qp as usize];
                if let Some(rate) = &mut q.rate {
                    rate.notified(now);
                }
            }
        }
    }

    fn receive_data(&mut self, qp: u32, packet: &Packet, now: Picos, net: &mut Net) {
        let recovery = self.config.recovery;
        if packet.is(MARKED)
            && let Some(config) = self.config.dcqcn
            && now.since(self.qps[qp as usize].cnp_at) >= config.notify_gap
        {
            self.qps[qp as usize].cnp_at = now;
            self.stats.cnps += 1;
            self.answer(qp, KIND_CNP, 0, net);
        }
        let q = &mut self.qps[qp as usize];
        let seq = packet.seq;
        if seq < q.expected {
            self.ack(qp, net); // sent again needlessly
            return;
        }
        if packet.is(TRIMMED) {
            if recovery == Recovery::Selective || q.nak_for.is_none_or(|known| seq < known) {
                q.nak_for = Some(seq);
                self.answer(qp, KIND_NAK, seq, net);
            }
            return;
        }
        let ahead = (seq - q.expected) as usize;
        if recovery == Recovery::GoBackN && ahead > 0 {
            if q.nak_for.is_none() {
                q.nak_for = Some(q.expected);
                let expected = q.expected;
                self.answer(qp, KIND_NAK, expected, net);
            }
            return;
        }
        if ahead >= q.arrived.len() {
            q.arrived.resize(ahead + 1, None);
        }
        q.arrived[ahead] = Some(packet.is(ACK_NOW));
        q.unacked += 1;
        let mut ended = 0;
        while let Some(&Some(ends)) = q.arrived.front() {
            q.arrived.pop_front();
            q.expected += 1;
            ended += u32::from(ends);
        }
        if recovery == Recovery::GoBackN && q.nak_for.is_some_and(|seq| seq < q.expected) {
            q.nak_for = None;
        }
        for _ in 0..ended {
            self.deliver(qp);
        }
        if ended > 0 || self.qps[qp as usize].unacked >= ACK_EVERY {
            self.ack(qp, net);
        }
    }

    /// A whole message has arrived in order.
    fn deliver(&mut self, qp: u32) {
        let Some(work) = self.qps[(qp ^ 1) as usize].delivered.pop_front() else {
            return;
        };
        let completion = match work {
            Work::Write { imm, bytes } => Completion::Written { qp, imm, bytes },
            Work::Send { frame, .. } => Completion::Received { qp, frame },
        };
        let host = self.adapters[self.qps[qp as usize].host_port as usize].host;
        self.completions.push_back((host, completion));
    }

    fn ack(&mut self, qp: u32, net: &mut Net) {
        let q = &mut self.qps[qp as usize];
        q.unacked = 0;
        let expected = q.expected;
        self.answer(qp, KIND_ACK, expected, net);
    }

    fn answer(&mut self, qp: u32, kind: u8, seq: u32, net: &mut Net) {
        let to = self.qps[(qp ^ 1) as usize].host_port;
        let q = &self.qps[qp as usize];
        let mut packet = Packet::new(to, PACKET_OVERHEAD, CONTROL, kind);
        packet.flow = qp ^ 1;
        packet.seq = seq;
        packet.entropy = q.entropy;
        self.adapters[q.host_port as usize]
            .control
            .push_back(packet);
        net.kick(q.host_port);
    }

    fn acknowledged(&mut self, qp: u32, seq: u32, now: Picos, net: &mut Net) {
        let host = self.adapters[self.qps[qp as usize].host_port as usize].host;
        let q = &mut self.qps[qp as usize];
        if seq <= q.una {
            return;
        }
        q.una = seq;
        q.next = q.next.max(seq);
        q.progress_at = now;
        q.timeouts = 0;
        while let Some(done) = q.posted.front().filter(|p| p.end <= seq) {
            let work = done.work;
            q.posted.pop_front();
            q.completed += 1;
            if work.is_signalled() {
                self.completions
                    .push_back((host, Completion::Sent { qp, work }));
            }
        }
        self.arm_timeout(qp, net);
    }

    fn refused(&mut self, qp: u32, seq: u32, net: &mut Net) {
        let q = &mut self.qps[qp as usize];
        if seq < q.una {
            return;
        }
        match self.config.recovery {
            Recovery::GoBackN => q.next = q.next.min(seq),
            Recovery::Selective => q.again.push_back(seq),
        }
        self.make_ready(qp);
        net.kick(self.qps[qp as usize].host_port);
    }
}
