//! A link between two hosts: its engines, and the queue pairs of its paths.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::config::ControlClass;
use crate::engine::wire::Frame;
use crate::engine::{RxAction, Transmit};
use crate::path::health::TransportStats;
use crate::sim::fabric::Fabric;
use crate::sim::nic::Nics;
use crate::sim::packet::CONTROL;
use crate::sim::random::{Stream, mix};
use crate::sim::tape::{TapedRx, TapedTx};
use crate::sim::time::Picos;

/// Ports that a host traces for each that it takes: of 16 equal ways, one in 300 links then misses
/// one.
const TRACES_PER_PATH: usize = 4;

/// The queue pairs of a path: one for its data and, where control frames have a class of their
/// own, another for those. Each is named by the sender's end; the receiver's is the next number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channel {
    pub(super) data: u32,
    pub(super) control: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Sender,
    Receiver,
}

impl Channel {
    /// Beyond the last of its queue pairs, which are the newest there are.
    pub(super) fn end(self) -> usize {
        self.control as usize + 2
    }

    /// Its queue pairs at one side.
    fn ends(self, side: Side) -> impl Iterator<Item = u32> {
        let control = (self.control != self.data).then_some(self.control);
        let ends = std::iter::once(self.data).chain(control);
        ends.map(move |qp| qp + u32::from(matches!(side, Side::Receiver)))
    }

    pub(super) fn kill(self, nics: &mut Nics, side: Side) {
        for qp in self.ends(side) {
            nics.kill(qp);
        }
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) class: u8,
    pub(super) tx: TapedTx,
    pub(super) rx: TapedRx,
    pub(super) conn: u32,
    /// Its name in the receiver's admission.
    pub(super) member: u32,
    /// Those of each path that the sender has.
    pub(super) channels: Vec<Option<Channel>>,
    /// And those that the receiver has.
    pub(super) taken: Vec<Option<Channel>>,
    /// What source ports hash to, there and back, for each pair of host ports: the next to be used
    /// is the first. Twice as many as there are paths, for those that are dialled anew.
    pub(super) entropies: Vec<VecDeque<[u32; 2]>>,
    /// Flows that have started and not ended, and when one of them last got on.
    pub(super) open_flows: u32,
    pub(super) moved_at: Picos,
    pub(super) is_ready: bool,
    pub(super) is_busy: bool,
    pub(super) has_spoken: bool,
    /// Host ports at its two ends.
    pub(super) host_ports: [Range<u32>; 2],
}

/// The queue pairs of a path, with a source port of their own.
pub(super) fn connect(
    nics: &mut Nics,
    link: &mut Link,
    path: u8,
    control: ControlClass,
) -> Channel {
    let plane = usize::from(path) % link.planes();
    let [from, to] = link.ports_of_plane(plane);
    let entropies = link.entropies[plane][0];
    link.entropies[plane].rotate_left(1);
    let mut qp = |class| nics.connect(from, to, entropies, class);
    let data = qp(link.class);
    let control = match control {
        ControlClass::OfData => data,
        ControlClass::Own => qp(CONTROL),
    };
    let channel = Channel { data, control };
    link.taken[usize::from(path)] = Some(channel);
    channel
}

/// What the adapter tells of a path.
pub(super) fn stats(channel: Option<Channel>, nics: &Nics, side: Side) -> TransportStats {
    let mut stats = TransportStats::default();
    for qp in channel.iter().flat_map(|channel| channel.ends(side)) {
        stats.in_flight |= nics.is_busy(qp);
        stats.acked += nics.completed(qp);
    }
    stats
}

impl Link {
    /// Pairs of host ports that its paths use in turn.
    pub(super) fn planes(&self) -> usize {
        let [from, to] = &self.host_ports;
        from.len().max(to.len())
    }

    pub(super) fn ports_of_plane(&self, plane: usize) -> [u32; 2] {
        let pick = |ports: &Range<u32>| ports.start + (plane % ports.len()) as u32;
        [pick(&self.host_ports[0]), pick(&self.host_ports[1])]
    }

    /// Passes frames to and fro until nobody has anything to say: what was said before the run.
    pub(super) fn shake_hands(&mut self) {
        let now = Picos::ZERO.clock();
        loop {
            let mut quiet = true;
            while let Some(transmit) = self.tx.poll_transmit(now) {
                quiet = false;
                let sent_ns = now.as_nanos();
                let (path, frame) = match transmit {
                    Transmit::Control { path, header } => {
                        let frame = Frame::decode(header.as_bytes()).expect("our own encoding");
                        (path, frame)
                    }
                    Transmit::Probe { path, id } => (path, Frame::Ping { id, sent_ns }),
                    Transmit::Data { .. } => unreachable!("nothing has been submitted"),
                };
                // What took no time says nothing of delays: it has no time of arrival.
                self.rx.handle_frame(path, frame, 0).expect("our own peer");
            }
            while let Some(action) = self.rx.poll_action() {
                if let RxAction::Opened { conn, .. } = action {
                    self.rx.answer_open(conn, true);
                }
            }
            while let Some(frame) = self.rx.poll_ack(true).or_else(|| self.rx.poll_transmit()) {
                quiet = false;
                self.tx
                    .handle_frame(frame.path, frame.header, now)
                    .expect("our own peer");
            }
            if quiet {
                break;
            }
        }
        // All of it has arrived.
        for path in 0..self.channels.len() as u8 {
            self.tx.handle_stats(path, TransportStats::default(), now);
            self.rx.handle_stats(path, &TransportStats::default(), now);
        }
    }
}

/// So many source ports from one host port to another, found by tracing: they take the ways that
/// lead there in turn, in the sender's own `order`, beginning at `first` (in parts of 2^32 of all
/// ways).
pub(super) fn trace(
    fabric: &Fabric,
    [from, to]: [u32; 2],
    wanted: usize,
    first: u32,
    mut order: Stream,
    stream: &mut Stream,
) -> VecDeque<[u32; 2]> {
    let mut ways: BTreeMap<Vec<u32>, Vec<u32>> = BTreeMap::new();
    for _ in 0..TRACES_PER_PATH * wanted {
        let entropy = random_port(stream)[0];
        ways.entry(fabric.trace(from, to, entropy))
            .or_default()
            .push(entropy);
    }
    let mut ways: Vec<Vec<u32>> = ways.into_values().collect();
    order.shuffle(&mut ways);
    let rotation = (first as usize * ways.len()) >> 32;
    ways.rotate_left(rotation);
    let rounds = (0..wanted).flat_map(|round| ways.iter().filter_map(move |way| way.get(round)));
    rounds
        .take(wanted)
        .map(|&entropy| [entropy, random_port(stream)[1]])
        .collect()
}

pub(super) fn random_port(stream: &mut Stream) -> [u32; 2] {
    [stream.next(), stream.next()].map(|port| (mix(port) >> 32) as u32)
}
