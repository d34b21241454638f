//! What is sent next, and on which path.

use super::paths::{Cargo, LAG_MAX, Outstanding};
use super::{Transmit, TxEngine, Write, index_u8};
use crate::clock::Timestamp;
use crate::control::Controller;
use crate::engine::wire::{Chunk, Frame};
use crate::engine::{Completions, MemRange};
use crate::path::select::Selector;

impl TxEngine {
    /// The next frame to send; `None` when there is none, or no path has room.
    pub fn poll_transmit(&mut self, now: Timestamp) -> Option<Transmit> {
        if let Some(control) = self.poll_control(now) {
            return Some(control);
        }
        if let Some(transmit) = self.poll_eager(now) {
            return Some(transmit);
        }
        let transmit = self.poll_chunk(now);
        let backlog = transmit.is_none() && !(self.turns.is_empty() && self.replays.is_empty());
        if backlog {
            self.backlog_since.get_or_insert(now);
        } else if transmit.is_none() {
            self.backlog_since = None;
        }
        transmit
    }

    /// Sends a control frame, on the path that is best by then.
    pub(super) fn say(&mut self, frame: Frame) {
        self.control.push_back((None, frame.encode()));
    }

    /// Whether a control frame waits to be sent: others wait for it, so it goes before any chunk
    /// of any link.
    #[must_use]
    pub fn has_control(&mut self) -> bool {
        self.say_demand();
        !(self.probes.is_empty() && self.control.is_empty())
    }

    /// Tells the receiver what is wanted beyond what it has granted, and what no longer is.
    fn say_demand(&mut self) {
        let Some(grants) = &mut self.grants else {
            return;
        };
        let now = (grants.started, grants.abandoned);
        let wants_more = grants.started > grants.granted && grants.told.0 < grants.started;
        if wants_more || grants.told.1 < grants.abandoned {
            grants.told = now;
            let (wanted, abandoned) = now;
            self.say(Frame::Demand { wanted, abandoned });
        }
    }

    pub(super) fn poll_control(&mut self, now: Timestamp) -> Option<Transmit> {
        self.say_demand();
        while let Some((path, id)) = self.probes.pop_front() {
            let p = &mut self.paths[usize::from(path)];
            if p.is_up() {
                p.watched.get_or_insert(now);
                return Some(Transmit::Probe { path, id });
            }
        }
        while let Some(&(path, header)) = self.control.front() {
            let path = match path {
                Some(path) => {
                    let p = &self.paths[usize::from(path)];
                    if !p.is_up() {
                        self.control.pop_front();
                        continue;
                    }
                    path
                }
                None => index_u8(self.control_path()?),
            };
            self.control.pop_front();
            self.paths[usize::from(path)].watched.get_or_insert(now);
            return Some(Transmit::Control { path, header });
        }
        None
    }

    pub(super) fn poll_chunk(&mut self, now: Timestamp) -> Option<Transmit> {
        let replay = self.replays.front().copied();
        let (key, chunk) = match replay {
            Some(replay) => replay,
            None => self.next_in_turn()?,
        };
        let m = &self.messages[key as usize];
        let offset = u64::from(chunk) * u64::from(m.chunk_bytes);
        let len = (m.source.len - offset).min(u64::from(m.chunk_bytes));
        let conn = m.conn;
        if let (Some(grants), None) = (&self.grants, replay)
            && grants.sent >= grants.granted
        {
            return None;
        }
        // Where the host alone decides what is in the network, the window is kept to the byte.
        if self.config.completions == Completions::Local
            && self.in_flight > 0
            && self.in_flight + len > self.controller.window().0
        {
            return None;
        }
        let index = if self.config.receive_depth.is_some() {
            let mut views = std::mem::take(&mut self.views);
            for (i, view) in views.iter_mut().enumerate() {
                view.usable &= self.receives_free(i);
            }
            let chosen = self.selector.choose(conn, len, &views);
            self.views = views;
            self.refresh_usable();
            chosen?
        } else {
            self.selector.choose(conn, len, &self.views)?
        };
        if replay.is_some() {
            self.replays.pop_front();
        } else {
            if let Some(grants) = &mut self.grants {
                grants.sent += len;
            }
            self.turn_taken(conn, key);
        }
        let payload = u32::try_from(len).unwrap_or(u32::MAX);
        let m = &mut self.messages[key as usize];
        m.in_flight += 1;
        let credit = m.credit?;
        let frame = Chunk {
            slot: credit.slot,
            generation: credit.generation,
            index: chunk,
            chunk_bytes: m.chunk_bytes,
            payload,
            last: chunk + 1 == m.chunks,
        };
        let source = MemRange {
            addr: m.source.addr + offset,
            len,
        };
        let local = m.keys;
        self.give(
            index,
            Cargo::Chunk {
                message: key,
                index: chunk,
            },
            payload,
            now,
        );
        Some(Transmit::Data {
            path: index_u8(index),
            header: Frame::Chunk(frame).encode(),
            write: Some(Write {
                chunk: frame,
                addr: credit.addr + offset,
                remote: credit.rkeys,
                local,
            }),
            source,
            conn,
        })
    }

    /// The chunk whose turn it is: connections take turns, the messages of one go in order.
    pub(super) fn next_in_turn(&mut self) -> Option<(u32, u32)> {
        for _ in 0..self.turns.len() {
            let &conn = self.turns.front()?;
            let key = self.conns.get(&conn).and_then(|c| c.ready.front()).copied();
            if let Some(key) = key {
                let m = &self.messages[key as usize];
                if m.done.admits(m.next) {
                    return Some((key, m.next));
                }
            }
            self.turns.rotate_left(1);
        }
        None
    }

    pub(super) fn turn_taken(&mut self, conn: u32, key: u32) {
        let m = &mut self.messages[key as usize];
        m.next += 1;
        let finished = m.next == m.chunks;
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if finished {
            c.ready.pop_front();
        }
        self.turns.pop_front();
        if !c.ready.is_empty() {
            self.turns.push_back(conn);
        }
    }

    pub(super) fn give(&mut self, index: usize, cargo: Cargo, bytes: u32, now: Timestamp) {
        let p = &mut self.paths[index];
        p.queue.push_back(Outstanding {
            cargo,
            bytes,
            departs: now,
            alone: true,
        });
        p.sent = p.sent.wrapping_add(1);
        p.bytes_total += u64::from(bytes);
        p.queued_bytes += u64::from(bytes);
        p.meter.on_sent(now);
        if p.queued_bytes > LAG_MAX {
            self.views[index].usable = false;
        }
        self.views[index].outstanding.0 += u64::from(bytes);
        self.in_flight += u64::from(bytes);
    }
}
