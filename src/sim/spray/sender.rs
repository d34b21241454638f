//! The sending side of a flow: what to send next, whether window and credit allow it, and what
//! has become of each packet.

use std::collections::VecDeque;

use super::super::packet::{ACK_NOW, AGAIN, CONTROL, DATA, MARKED, Packet, TRIMMED_AT_LAST_HOP};
use super::super::random::{Purpose, Stream};
use super::super::time::Picos;
use super::super::workload::Flow;
use super::balance::{Balancer, Verdict};
use super::pull::Credit;
use super::window::{Parameters, Sample, Window};
use super::{ASK, DATA_PACKET, HEADER, MTU, NO_PACKET, PAYLOAD, SprayConfig};

/// What is known of a packet that has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Under way, or lost without anybody's knowing it.
    Sent,
    /// To be sent again.
    Lost,
    /// It has arrived.
    Arrived,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    sent_at: Picos,
    /// Times it was sent again.
    again: u8,
    state: State,
}

/// One flow at its sender. Bytes are bytes on the wire, headers included.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) flow: u32,
    /// Host ports of both ends.
    pub(super) from: u32,
    to: u32,
    pub(super) class: u8,
    /// It waits for its turn at the adapter.
    pub(super) is_queued: bool,
    packets: u32,
    last_bytes: u16,
    /// The next packet that has never been sent.
    next: u32,
    /// The first packet that the receiver does not report.
    unacked: u32,
    /// From `unacked` on.
    records: VecDeque<Record>,
    /// Packets to be sent again, and the first of them.
    lost: u32,
    lost_first: u32,
    in_flight: i64,
    /// Bytes that the receiver has reported.
    reported: u64,
    /// Bytes never sent.
    backlog: u64,
    window: Window,
    credit: Option<Credit>,
    balancer: Balancer,
    /// When it last asked the receiver how things stand, if there was no answer yet.
    asked_at: Option<Picos>,
}

impl Sender {
    pub(super) fn new(
        flow: u32,
        spec: &Flow,
        ports: (u32, u32),
        config: &SprayConfig,
        parameters: &Parameters,
        seed: u64,
    ) -> Self {
        let packets = spec.bytes.div_ceil(PAYLOAD).max(1);
        let last = spec.bytes - (packets - 1) * PAYLOAD + u64::from(HEADER);
        let coin = Stream::new(seed, Purpose::Flow, u64::from(flow));
        Self {
            flow,
            from: ports.0,
            to: ports.1,
            class: spec.class,
            is_queued: false,
            packets: packets as u32,
            last_bytes: last as u16,
            next: 0,
            unacked: 0,
            records: VecDeque::new(),
            lost: 0,
            lost_first: 0,
            in_flight: 0,
            reported: 0,
            backlog: (packets - 1) * MTU + last,
            window: Window::new(config.control, parameters),
            credit: config.credit.then(|| Credit::new(config.window_max())),
            balancer: Balancer::new(config.balance, config.paths, coin),
            asked_at: None,
        }
    }

    /// The flow has ended: gives the memory back that goes with packets.
    pub(super) fn retire(&mut self) {
        self.records = VecDeque::new();
        self.balancer.retire();
    }

    /// Packets of the flow.
    pub(super) fn packets(&self) -> u32 {
        self.packets
    }

    fn bytes_of(&self, seq: u32) -> u16 {
        if seq + 1 == self.packets {
            self.last_bytes
        } else {
            MTU as u16
        }
    }

    fn record(&mut self, seq: u32) -> Option<&mut Record> {
        let index = seq.checked_sub(self.unacked)?;
        self.records.get_mut(index as usize)
    }

    // ---- sending ----

    /// Whether there is something to send and window and credit allow it.
    pub(super) fn may_send(&self) -> bool {
        let seq = if self.lost > 0 {
            self.lost_first
        } else if self.next < self.packets {
            self.next
        } else {
            return false;
        };
        self.has_credit() && self.fits(self.bytes_of(seq))
    }

    fn has_credit(&self) -> bool {
        self.credit.as_ref().is_none_or(|credit| credit.bytes > 0)
    }

    fn fits(&self, bytes: u16) -> bool {
        let needed = self.in_flight + i64::from(bytes);
        self.window
            .bytes()
            .is_none_or(|window| window as i64 >= needed)
    }

    /// The next packet, which [`Sender::may_send`] allows. So many senders wait at the adapter.
    pub(super) fn send(&mut self, waiting: usize, now: Picos) -> Packet {
        let is_again = self.lost > 0;
        let seq = if is_again { self.lost_first } else { self.next };
        let bytes = self.bytes_of(seq);
        let window_packets = self.window.bytes().unwrap_or(u64::MAX) / PAYLOAD;
        let entropy = self.entropy(self.next, window_packets);
        if is_again {
            let record = &mut self.records[(seq - self.unacked) as usize];
            record.sent_at = now;
            record.again = record.again.saturating_add(1);
            record.state = State::Sent;
            self.take_lost(seq);
        } else {
            self.next += 1;
            self.backlog -= u64::from(bytes);
            self.records.push_back(Record {
                sent_at: now,
                again: 0,
                state: State::Sent,
            });
        }
        self.in_flight += i64::from(bytes);
        if let Some(credit) = &mut self.credit {
            credit.bytes -= i64::from(bytes);
        }
        let mut packet = Packet::new(self.to, bytes, self.class, DATA_PACKET);
        packet.words[0] = self.target(waiting);
        packet.flow = self.flow;
        packet.seq = seq;
        packet.entropy = entropy;
        packet.flags = DATA;
        // Who cannot go on after this wants to hear about it at once.
        let is_last = self.backlog == 0 || !self.has_credit() || !self.fits_more(bytes);
        if is_again || is_last {
            packet.flags |= ACK_NOW;
        }
        if is_again {
            packet.flags |= AGAIN;
        }
        packet
    }

    fn fits_more(&self, bytes: u16) -> bool {
        let needed = self.in_flight + i64::from(bytes);
        self.window
            .bytes()
            .is_none_or(|window| window as i64 > needed)
    }

    /// What it asks the receiver for.
    fn target(&self, waiting: usize) -> u64 {
        let Some(credit) = &self.credit else {
            return 0;
        };
        let again = u64::from(self.lost) * MTU;
        let is_last = self.backlog == 0;
        credit.target(self.backlog + again, self.window.bytes(), is_last, waiting)
    }

    /// Flow and path, for the switches to hash.
    fn entropy(&mut self, seq: u32, window_packets: u64) -> u32 {
        self.flow << 16 | u32::from(self.balancer.next(seq, window_packets))
    }

    /// A packet is no longer to be sent again.
    fn take_lost(&mut self, seq: u32) {
        self.lost -= 1;
        if seq != self.lost_first || self.lost == 0 {
            return;
        }
        let from = (seq + 1 - self.unacked) as usize;
        let next = self.records.range(from..);
        for (seq, record) in (seq + 1..).zip(next) {
            if record.state == State::Lost {
                self.lost_first = seq;
                return;
            }
        }
        debug_assert!(false, "{} lost packets are not on record", self.lost);
    }

    fn add_lost(&mut self, seq: u32) {
        self.lost_first = if self.lost == 0 {
            seq
        } else {
            self.lost_first.min(seq)
        };
        self.lost += 1;
    }

    // ---- hearing ----

    /// Reads what is going to be read when this packet is acknowledged or the next one sent.
    pub(super) fn glance(&self, seq: u32) -> u64 {
        let index = seq.wrapping_sub(self.unacked) as usize;
        let sent_at = self.records.get(index).map_or(0, |record| record.sent_at.0);
        let window = self.window.bytes().unwrap_or(0);
        sent_at ^ window ^ self.in_flight as u64 ^ u64::from(self.next)
    }

    /// An acknowledgement. Returns whether the receiver has all of the flow.
    pub(super) fn on_ack(&mut self, ack: &Packet, parameters: &Parameters, now: Picos) -> bool {
        let acked = ack.words[2].saturating_sub(self.reported);
        self.reported += acked;
        self.in_flight -= acked as i64;
        self.asked_at = None;
        let is_again = ack.is(AGAIN);
        let rtt = self
            .record(ack.seq)
            .filter(|record| record.state == State::Sent && record.again == u8::from(is_again))
            .map(|record| now.since(record.sent_at));
        self.settle(
            ack.words[1] as u32,
            (ack.words[1] >> 32) as u32,
            ack.words[0],
        );
        let verdict = if ack.is(MARKED) {
            Verdict::Marked
        } else {
            Verdict::Good
        };
        if ack.seq != NO_PACKET {
            self.balancer.learn(ack.entropy as u16, verdict, now);
        }
        let sample = Sample {
            now,
            acked,
            rtt,
            marked: ack.is(MARKED),
            in_flight: self.in_flight,
        };
        self.window.on_ack(parameters, &sample);
        if let Some(credit) = &mut self.credit {
            credit.stop_speculating();
        }
        self.unacked == self.packets
    }

    /// Everything before `expected` has arrived, and what the bitmap from `base` on says.
    fn settle(&mut self, expected: u32, base: u32, bitmap: u64) {
        let done = expected.saturating_sub(self.unacked) as usize;
        for index in 0..done.min(self.records.len()) {
            if self.records[index].state == State::Lost {
                self.found(self.unacked + index as u32);
            }
        }
        self.records.drain(..done.min(self.records.len()));
        self.unacked = self.unacked.max(expected);
        let mut rest = bitmap;
        while rest != 0 {
            let seq = base + rest.trailing_zeros();
            rest &= rest - 1;
            let Some(record) = self.record(seq) else {
                continue;
            };
            let was = std::mem::replace(&mut record.state, State::Arrived);
            if was == State::Lost {
                self.found(seq);
            }
        }
    }

    /// A packet that was thought lost has arrived after all: it was taken off the bytes under way
    /// twice.
    fn found(&mut self, seq: u32) {
        self.in_flight += i64::from(self.bytes_of(seq));
        self.take_lost(seq);
    }

    /// A packet arrived without its payload.
    pub(super) fn on_trim(&mut self, nack: &Packet, parameters: &Parameters, now: Picos) {
        let in_flight = self.in_flight;
        let Some(record) = self.record(nack.seq).filter(|r| r.state == State::Sent) else {
            return;
        };
        record.state = State::Lost;
        let rtt = now.since(record.sent_at);
        let bytes = self.bytes_of(nack.seq);
        let at_last_hop = nack.is(TRIMMED_AT_LAST_HOP);
        let sample = Sample {
            now,
            acked: u64::from(bytes),
            rtt: Some(rtt),
            marked: true,
            in_flight,
        };
        let keep = at_last_hop && self.credit.is_some();
        self.window.on_trim(parameters, &sample, keep);
        self.in_flight -= i64::from(bytes);
        if let Some(credit) = &mut self.credit {
            credit.stop_speculating();
        }
        self.add_lost(nack.seq);
        // No other path would have avoided the last hop.
        let verdict = match (at_last_hop, nack.is(MARKED)) {
            (false, _) => Verdict::Trimmed,
            (true, true) => Verdict::Marked,
            (true, false) => Verdict::Good,
        };
        self.balancer.learn(nack.entropy as u16, verdict, now);
    }

    /// The receiver grants credit.
    pub(super) fn on_grant(&mut self, grant: &Packet) {
        if let Some(credit) = &mut self.credit {
            credit.stop_speculating();
            credit.on_grant(grant.words[0]);
        }
    }

    // ---- time ----

    /// When something has to have been heard.
    pub(super) fn deadline(&self, timeout: Picos) -> Option<Picos> {
        let sent = self.records.iter().filter(|r| r.state == State::Sent);
        let oldest = sent.map(|record| record.sent_at).chain(self.asked_at).min();
        oldest.map(|at| at + timeout)
    }

    /// Gives up what was sent `timeout` ago and was not heard of. The answer is a question to the
    /// receiver, if the sender cannot send by itself.
    pub(super) fn on_timeout(&mut self, config: &SprayConfig, now: Picos) -> (u64, Option<Packet>) {
        let old = |at: Picos| at + config.timeout <= now;
        let mut given_up = 0;
        let mut asks = self.asked_at.is_some_and(old);
        if asks {
            // That question is over, whether it is asked again or the sender gets on without.
            self.asked_at = None;
        }
        for index in 0..self.records.len() {
            let record = &mut self.records[index];
            if record.state != State::Sent || !old(record.sent_at) {
                continue;
            }
            record.state = State::Lost;
            given_up += 1;
            let seq = self.unacked + index as u32;
            let bytes = self.bytes_of(seq);
            self.in_flight -= i64::from(bytes);
            self.window.on_timeout(u64::from(bytes), now);
            self.balancer.learn(0, Verdict::TimedOut, now);
            // A sender without credit that knows of other losses gets on by itself: when all it
            // has sent is given up, nothing is under way, and it may send.
            asks |= self.lost == 0 || self.credit.is_some();
            self.add_lost(seq);
        }
        let asked_lately = self.asked_at.is_some_and(|at| now.since(at) < config.rtt);
        if !asks || asked_lately || self.may_send() {
            return (given_up, None);
        }
        if let Some(credit) = &mut self.credit {
            credit.stop_speculating();
        }
        self.asked_at = Some(now);
        let mut ask = Packet::new(self.to, HEADER, CONTROL, ASK);
        ask.flow = self.flow;
        ask.seq = NO_PACKET;
        ask.entropy = self.entropy(self.next, 0);
        ask.words[0] = self.target(1);
        (given_up, Some(ask))
    }
}
