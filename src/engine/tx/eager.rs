//! Small messages: copied into a ring at once and sent without a credit, on one path.

use super::paths::Cargo;
use super::{Transmit, TxEngine, index_u8};
use crate::clock::Timestamp;
use crate::engine::wire::{Eager, Frame};
use crate::engine::{EAGER_OVERHEAD, EAGER_WINDOW, MemRange};

#[derive(Debug)]
pub(super) struct EagerEntry {
    pub(super) eager: Eager,
    pub(super) source: MemRange,
    pub(super) span: u64,
    pub(super) done: bool,
}

impl TxEngine {
    pub(super) fn reserve_eager(
        &mut self,
        conn: u32,
        tag: i32,
        ordinal: u32,
        len: u64,
    ) -> Option<MemRange> {
        let payload = u32::try_from(len)
            .ok()
            .filter(|&len| len <= self.config.eager_bytes)?;
        let cost = len + EAGER_OVERHEAD;
        // A peer that says more than it was sent fills this up, and gets nothing eagerly any more.
        let unconsumed = self.eager_sent.wrapping_sub(self.eager_consumed);
        if unconsumed.saturating_add(cost) > EAGER_WINDOW {
            return None;
        }
        if self.ring.is_empty() {
            self.ring = vec![0; usize::try_from(EAGER_WINDOW).unwrap_or(0)].into_boxed_slice();
        }
        // A message never wraps round the end of the ring: what is left there is skipped.
        let size = self.ring.len() as u64;
        let at = self.ring_tail % size;
        let skip = if at + len > size { size - at } else { 0 };
        let span = skip + len;
        if self.ring_tail + span - self.ring_head > size {
            return None;
        }
        let start = (self.ring_tail + skip) % size;
        self.ring_tail += span;
        self.eager_sent = self.eager_sent.wrapping_add(cost);
        let source = MemRange {
            addr: self.ring.as_mut_ptr() as u64 + start,
            len,
        };
        let id = self.eager_first + self.eager.len() as u64;
        self.eager.push_back(EagerEntry {
            eager: Eager {
                conn,
                tag,
                ordinal,
                payload,
            },
            source,
            span,
            done: false,
        });
        self.eager_queue.push_back(id);
        Some(source)
    }

    pub(super) fn eager_index(&self, id: u64) -> usize {
        usize::try_from(id - self.eager_first).unwrap_or(usize::MAX)
    }

    pub(super) fn eager_done(&mut self, id: u64) {
        let index = self.eager_index(id);
        let Some(entry) = self.eager.get_mut(index) else {
            return;
        };
        entry.done = true;
        let conn = entry.eager.conn;
        while let Some(entry) = self.eager.front().filter(|e| e.done) {
            self.ring_head += entry.span;
            self.eager.pop_front();
            self.eager_first += 1;
        }
        self.connection_drains(conn);
    }

    pub(super) fn poll_eager(&mut self, now: Timestamp) -> Option<Transmit> {
        let &id = self.eager_queue.front()?;
        // Small messages stay on one path, so that the others cost nothing, until it is slow.
        let sticky = self.eager_path.filter(|&i| {
            self.views[i].usable && self.views[i].outstanding.0 < 256 << 10 && self.receives_free(i)
        });
        let index = match sticky {
            Some(index) => index,
            None => (0..self.views.len())
                .filter(|&i| self.views[i].usable && self.receives_free(i))
                .min_by_key(|&i| self.views[i].completion_ns(64))?,
        };
        self.eager_path = Some(index);
        self.eager_queue.pop_front();
        let entry = &self.eager[self.eager_index(id)];
        let (eager, source) = (entry.eager, entry.source);
        self.give(index, Cargo::Eager { id }, eager.payload, now);
        Some(Transmit::Data {
            path: index_u8(index),
            header: Frame::Eager(eager).encode(),
            write: None,
            source,
            conn: eager.conn,
        })
    }
}
