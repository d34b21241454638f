//! Messages: matched with credits, cut into chunks, ended; and the closing of connections.

use std::collections::VecDeque;

use super::{PathState, SendDone, SendError, TxEngine};
use crate::engine::bitmap::SlidingBitmap;
use crate::engine::wire::{self, Credit, Frame, Keys};
use crate::engine::{MemRange, Ordinals};
use crate::units::Nanos;

/// Least and largest chunk that is chosen from a measured rate.
const CHUNK_AUTO_MIN: u64 = 32 << 10;
const CHUNK_AUTO_MAX: u64 = 1 << 20;
/// A chunk should keep its path busy for about this long.
const CHUNK_TIME: Nanos = Nanos(1_000_000);

#[derive(Debug)]
pub(super) struct Message {
    pub(super) conn: u32,
    pub(super) token: Option<u64>,
    pub(super) tag: i32,
    pub(super) ordinal: u32,
    pub(super) source: MemRange,
    pub(super) keys: Keys,
    pub(super) credit: Option<Credit>,
    pub(super) chunk_bytes: u32,
    pub(super) chunks: u32,
    pub(super) next: u32,
    pub(super) done: SlidingBitmap,
    pub(super) done_count: u32,
    pub(super) in_flight: u32,
    pub(super) announced: bool,
    /// The peer has closed and will not have all of it: it ends with an error, but not while a path may still read
    /// its buffer.
    pub(super) unwanted: bool,
}

impl Message {
    /// Tells the receiver that it waits for a credit, and how long it is.
    pub(super) fn announcement(&self) -> Frame {
        Frame::Announce {
            conn: self.conn,
            tag: self.tag,
            ordinal: self.ordinal,
            size: self.source.len,
        }
    }

    /// Nothing of it is sent any more that is not under way.
    pub(super) fn is_given_up(&self) -> bool {
        self.token.is_none() || self.unwanted
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnState {
    Opening,
    Open,
    Refused,
    /// The peer closed its end.
    PeerClosed,
    /// We closed our end; the close is repeated until it is answered.
    Closing,
}

#[derive(Debug)]
pub(super) struct TxConn {
    pub(super) state: ConnState,
    pub(super) listener: u64,
    pub(super) ordinals: Ordinals,
    pub(super) waiting: VecDeque<u32>,
    pub(super) ready: VecDeque<u32>,
    pub(super) credits: VecDeque<Credit>,
    /// The last credit was for memory of a GPU: what comes next will have one too.
    pub(super) receives_in_gpu: bool,
    /// Messages and eager frames not yet acknowledged.
    pub(super) live: u32,
    pub(super) close_sent: bool,
}

impl TxConn {
    /// Something is expected of the peer.
    pub(super) fn waits(&self) -> bool {
        self.live > 0 || matches!(self.state, ConnState::Opening | ConnState::Closing)
    }
}

impl TxEngine {
    pub(super) fn start(&mut self, key: u32, credit: Credit) {
        let len = self.messages[key as usize].source.len;
        if len > credit.capacity {
            // Our own send fails here; the receiver's receive fails when it hears the size.
            let m = &mut self.messages[key as usize];
            let (conn, announcement) = (m.conn, m.announcement());
            if let Some(token) = m.token.take() {
                let error = SendError::TooLong {
                    size: len,
                    capacity: credit.capacity,
                };
                self.done.push_back(SendDone {
                    token,
                    result: Err(error),
                });
            }
            self.say(announcement);
            self.free_messages.push(key);
            self.connection_drains(conn);
            return;
        }
        let chunk_bytes = self.chunk_bytes_for(len);
        if let Some(grants) = &mut self.grants {
            grants.started += len;
        }
        let m = &mut self.messages[key as usize];
        m.credit = Some(credit);
        m.chunk_bytes = chunk_bytes;
        m.chunks = u32::try_from(len.div_ceil(u64::from(chunk_bytes)).max(1)).unwrap_or(u32::MAX);
        let conn = m.conn;
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if c.ready.is_empty() {
            self.turns.push_back(conn);
        }
        c.ready.push_back(key);
    }

    /// The cutting of a message, frozen when it starts: coarse enough that a chunk keeps its
    /// path busy for a while, fine enough that all paths get some of it.
    pub(super) fn chunk_bytes_for(&self, len: u64) -> u32 {
        let auto = || {
            let active = self.paths.iter().filter(|p| p.state == PathState::Active);
            let (count, fastest) =
                active.fold((0u64, 0u64), |(n, rate), p| (n + 1, rate.max(p.meter.rate)));
            let by_rate = match fastest {
                0 => CHUNK_AUTO_MIN * 2,
                rate => (rate / (1_000_000_000 / CHUNK_TIME.0) * 3 / 4).next_power_of_two(),
            };
            let share = len.div_ceil(count.max(1)).max(CHUNK_AUTO_MIN / 2);
            by_rate.clamp(CHUNK_AUTO_MIN, CHUNK_AUTO_MAX).min(share)
        };
        let bytes = self.config.chunk_bytes.map_or_else(auto, u64::from);
        let aligned = bytes.next_multiple_of(u64::from(wire::CHUNK_ALIGN));
        let bounded = aligned.clamp(
            u64::from(wire::CHUNK_BYTES_MIN),
            u64::from(wire::CHUNK_BYTES_MAX),
        );
        u32::try_from(bounded).unwrap_or(wire::CHUNK_BYTES_MAX)
    }

    /// What has not been given to a path of a message that has begun never will be.
    pub(super) fn abandon(&mut self, key: u32) {
        let m = &self.messages[key as usize];
        let given = u64::from(m.next) * u64::from(m.chunk_bytes);
        if let (Some(grants), Some(_)) = (&mut self.grants, m.credit) {
            grants.abandoned += m.source.len.saturating_sub(given);
        }
    }

    /// A chunk that was to be sent again never will be.
    pub(super) fn abandon_chunk(&mut self, key: u32, chunk: u32) {
        let m = &self.messages[key as usize];
        let offset = u64::from(chunk) * u64::from(m.chunk_bytes);
        if let Some(grants) = &mut self.grants {
            grants.abandoned += (m.source.len - offset).min(u64::from(m.chunk_bytes));
        }
    }

    /// Forgets the replays of messages that nobody waits for any more.
    pub(super) fn drop_replays(&mut self) {
        for _ in 0..self.replays.len() {
            let Some((key, chunk)) = self.replays.pop_front() else {
                return;
            };
            if self.messages[key as usize].is_given_up() {
                self.abandon_chunk(key, chunk);
            } else {
                self.replays.push_back((key, chunk));
            }
        }
    }

    pub(super) fn message_done(&mut self, key: u32) {
        let m = &mut self.messages[key as usize];
        let conn = m.conn;
        if let Some(token) = m.token.take() {
            let result = if m.unwanted {
                Err(SendError::PeerClosed)
            } else {
                Ok(m.source.len)
            };
            self.done.push_back(SendDone { token, result });
        }
        self.free_messages.push(key);
        self.connection_drains(conn);
    }

    /// One message or eager frame of the connection is over.
    pub(super) fn connection_drains(&mut self, conn: u32) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.live = c.live.saturating_sub(1);
        }
        self.close_if_drained(conn);
    }

    pub(super) fn close_if_drained(&mut self, conn: u32) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if c.state == ConnState::Closing && c.live == 0 && !c.close_sent {
            c.close_sent = true;
            self.say(Frame::Close { conn });
        }
    }

    pub(super) fn handle_credit(&mut self, credit: Credit) {
        let Some(c) = self.conns.get_mut(&credit.conn) else {
            return;
        };
        if c.state == ConnState::Closing {
            return;
        }
        c.receives_in_gpu = credit.rkeys.is_gpu();
        let name = (credit.tag, credit.ordinal);
        let messages = &self.messages;
        let waiting = c.waiting.iter().position(|&key| {
            let m = &messages[key as usize];
            (m.tag, m.ordinal) == name
        });
        if let Some(key) = waiting.and_then(|at| c.waiting.remove(at)) {
            self.start(key, credit);
            return;
        }
        // Repeated credits are normal after a fence: keep only what names a message to come.
        let next = c
            .ordinals
            .0
            .iter()
            .find(|(tag, _)| *tag == credit.tag)
            .map_or(0, |&(_, n)| n);
        let to_come = credit.ordinal.wrapping_sub(next) < 1 << 31;
        let known = c.credits.iter().any(|k| (k.tag, k.ordinal) == name);
        if to_come && !known && c.credits.len() < 1024 {
            c.credits.push_back(credit);
        }
    }

    pub(super) fn handle_close(&mut self, conn: u32) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if c.state == ConnState::Closing {
            if c.live == 0 {
                self.conns.remove(&conn);
            }
            return;
        }
        c.state = ConnState::PeerClosed;
        c.waiting.clear();
        c.ready.clear();
        self.turns.retain(|&turn| turn != conn);
        for key in 0..self.messages.len() {
            let m = &mut self.messages[key];
            // What has been sent whole may have arrived before the close: its
            // acknowledgements are still under way, on other paths.
            let key_u32 = u32::try_from(key).unwrap_or(u32::MAX);
            let is_missing = self.replays.iter().any(|&(other, _)| other == key_u32);
            let sent_whole = m.credit.is_some() && m.next == m.chunks && !is_missing;
            if m.conn != conn || sent_whole {
                continue;
            }
            if !m.is_given_up() {
                m.unwanted = true;
                let idle = m.in_flight == 0;
                self.abandon(key_u32);
                if idle {
                    self.message_done(key_u32);
                }
            }
        }
        self.drop_replays();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::engine::EngineConfig;
    use crate::engine::tx::FenceReason;
    use crate::engine::tx::made::{self, CONN, NOW, acknowledge};
    use crate::path::select::{AnySelector, RoundRobin};

    const BYTES: u64 = 64 << 10;

    /// A link with a path, and a part of a message under way on it.
    fn begun() -> (TxEngine, Timestamp) {
        let config = EngineConfig {
            paths_max: 1,
            search: false,
            chunk_bytes: Some(8192),
            ..EngineConfig::default()
        };
        let selector = AnySelector::RoundRobin(RoundRobin::default());
        let mut engine = made::engine(config, selector, BYTES / 2);
        let credit = Credit {
            conn: CONN,
            tag: 0,
            ordinal: 0,
            slot: 0,
            generation: 0,
            capacity: BYTES,
            addr: 0,
            rkeys: Keys::default(),
        };
        engine
            .handle_frame(0, Frame::Credit(credit), &[], NOW)
            .unwrap();
        let range = MemRange {
            addr: 1 << 20,
            len: BYTES,
        };
        engine.submit(CONN, 7, 0, range, Keys::default());
        while engine.poll_transmit(NOW).is_some() {}
        assert_eq!(engine.messages[0].in_flight, 3);
        let close = Frame::Close { conn: CONN };
        // It is said again.
        for _ in 0..2 {
            engine.handle_frame(0, close, &[], NOW).unwrap();
        }
        while engine.poll_transmit(NOW).is_some() {}
        assert_eq!(engine.messages[0].in_flight, 3, "no more of it is sent");
        (engine, NOW)
    }

    fn ended(engine: &mut TxEngine) -> bool {
        let done = engine.poll_completion();
        if let Some(done) = &done {
            assert_eq!((done.token, &done.result), (7, &Err(SendError::PeerClosed)));
        }
        done.is_some()
    }

    #[test]
    fn a_send_whose_peer_has_closed_ends_when_no_path_reads_its_buffer_any_more() {
        let (mut engine, _) = begun();
        for (count, is_over) in [(2, false), (3, true)] {
            acknowledge(&mut engine, 0, 1, count);
            assert_eq!(ended(&mut engine), is_over);
        }
        // Or it has been closed.
        let (mut engine, now) = begun();
        engine.fence(0, 1, FenceReason::Broken, now);
        assert!(!ended(&mut engine), "how far it came is not known yet");
        engine.settle_fence(0, 1, 2, now);
        assert!(ended(&mut engine));
        assert!(engine.replays.is_empty());
    }
}
