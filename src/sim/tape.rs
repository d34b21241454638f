//! What the engines of a link are told and what they answer, call by call: a run of the simulator
//! can be held against a run of the same engines over another transport.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::engine::wire::{Frame, Header, Keys, PathCount};
use crate::engine::{
    MemRange, RecvDone, RxAction, RxEngine, RxTransmit, SendDone, Sink, Transmit, TxAction,
    TxEngine, TxEvent, Violation,
};
use crate::path::health::TransportStats;

/// A call of the sending (`Tx`) or the receiving (`Rx`) engine of a link. Calls that neither
/// change the engine nor get anything out of it are left out.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the arguments and the answer of that call")]
pub enum Entry {
    TxOpen {
        listener: u64,
        conn: u32,
    },
    TxSubmit {
        conn: u32,
        token: u64,
        tag: i32,
        source: MemRange,
    },
    TxPathUp {
        path: u8,
        epoch: u16,
        previous: Option<PathCount>,
        now: Timestamp,
    },
    TxStats {
        path: u8,
        stats: TransportStats,
        now: Timestamp,
    },
    TxTimeout {
        now: Timestamp,
    },
    TxFrame {
        path: u8,
        header: Header,
        now: Timestamp,
    },
    TxControlArrived {
        path: u8,
        epoch: u16,
        departed: Timestamp,
        now: Timestamp,
    },
    TxCompletions {
        path: u8,
        epoch: u16,
        count: u32,
        completed_at: Timestamp,
        now: Timestamp,
    },
    TxDeparture {
        path: u8,
        at: Timestamp,
    },
    TxHasControl {
        answer: bool,
    },
    TxTransmit {
        now: Timestamp,
        answer: Option<Transmit>,
    },
    TxAction {
        answer: TxAction,
    },
    TxDone {
        answer: SendDone,
    },
    TxEvent {
        answer: TxEvent,
    },
    RxAnswerOpen {
        conn: u32,
        accepted: bool,
    },
    RxPost {
        conn: u32,
        token: u64,
        tag: i32,
        buffer: MemRange,
        rkeys: Keys,
    },
    RxPathUp {
        path: u8,
        epoch: u16,
        fence: Option<u16>,
        answer: Option<PathCount>,
    },
    RxSilenced {
        path: u8,
        epoch: u16,
    },
    RxStats {
        path: u8,
        stats: TransportStats,
        now: Timestamp,
    },
    RxFrame {
        path: u8,
        frame: Frame,
        received_ns: u64,
    },
    RxPayloadDone {
        path: u8,
    },
    RxImmediate {
        path: u8,
        imm: u32,
        bytes: u32,
    },
    RxGrant {
        granted: u64,
    },
    RxAck {
        late: bool,
        answer: Option<RxTransmit>,
    },
    RxTransmit {
        answer: RxTransmit,
    },
    RxAction {
        answer: RxAction,
    },
    RxDone {
        answer: RecvDone,
    },
}

/// The calls of one link's engines, in their order. Two of them share it.
#[derive(Debug, Clone, Default)]
pub struct Tape(Option<Arc<Mutex<Vec<Entry>>>>);

impl Tape {
    /// A tape that keeps what it is told, or one that does not.
    #[must_use]
    pub fn new(keeps: bool) -> Self {
        Self(keeps.then(Arc::default))
    }

    fn put(&self, entry: impl FnOnce() -> Entry) {
        if let Some(entries) = &self.0 {
            let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.push(entry());
        }
    }

    /// What it has been told so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let entries = self.0.as_ref().map(|entries| {
            let entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.clone()
        });
        entries.unwrap_or_default()
    }
}

/// A sending engine whose calls are written down.
#[derive(Debug)]
pub(super) struct TapedTx(pub(super) TxEngine, pub(super) Tape);

impl Deref for TapedTx {
    type Target = TxEngine;

    fn deref(&self) -> &TxEngine {
        &self.0
    }
}

impl TapedTx {
    pub(super) fn open(&mut self, listener: u64) -> u32 {
        let conn = self.0.open(listener);
        self.1.put(|| Entry::TxOpen { listener, conn });
        conn
    }

    pub(super) fn submit(&mut self, conn: u32, token: u64, tag: i32, source: MemRange) {
        self.0.submit(conn, token, tag, source, Keys::default());
        self.1.put(|| Entry::TxSubmit {
            conn,
            token,
            tag,
            source,
        });
    }

    pub(super) fn handle_path_up(
        &mut self,
        path: u8,
        epoch: u16,
        previous: Option<PathCount>,
        now: Timestamp,
    ) {
        self.0.handle_path_up(path, epoch, previous, now);
        self.1.put(|| Entry::TxPathUp {
            path,
            epoch,
            previous,
            now,
        });
    }

    pub(super) fn handle_stats(&mut self, path: u8, stats: TransportStats, now: Timestamp) {
        self.0.handle_stats(path, stats, now);
        self.1.put(|| Entry::TxStats { path, stats, now });
    }

    pub(super) fn handle_timeout(&mut self, now: Timestamp) {
        self.0.handle_timeout(now);
        self.1.put(|| Entry::TxTimeout { now });
    }

    pub(super) fn handle_frame(
        &mut self,
        path: u8,
        header: Header,
        now: Timestamp,
    ) -> Result<(), Violation> {
        let bytes = header.as_bytes();
        self.1.put(|| Entry::TxFrame { path, header, now });
        self.0.handle_frame(path, Frame::decode(bytes)?, bytes, now)
    }

    pub(super) fn handle_control_arrived(
        &mut self,
        path: u8,
        epoch: u16,
        departed: Timestamp,
        now: Timestamp,
    ) {
        self.0.handle_control_arrived(path, epoch, departed, now);
        self.1.put(|| Entry::TxControlArrived {
            path,
            epoch,
            departed,
            now,
        });
    }

    pub(super) fn handle_completions(
        &mut self,
        path: u8,
        epoch: u16,
        count: u32,
        completed_at: Timestamp,
        now: Timestamp,
    ) {
        self.0
            .handle_completions(path, epoch, count, Some(completed_at), now);
        self.1.put(|| Entry::TxCompletions {
            path,
            epoch,
            count,
            completed_at,
            now,
        });
    }

    pub(super) fn handle_departure(&mut self, path: u8, at: Timestamp) {
        self.0.handle_departure(path, at);
        self.1.put(|| Entry::TxDeparture { path, at });
    }

    pub(super) fn has_control(&mut self) -> bool {
        let answer = self.0.has_control();
        self.1.put(|| Entry::TxHasControl { answer });
        answer
    }

    pub(super) fn poll_transmit(&mut self, now: Timestamp) -> Option<Transmit> {
        let answer = self.0.poll_transmit(now);
        self.1.put(|| Entry::TxTransmit { now, answer });
        answer
    }

    pub(super) fn poll_action(&mut self) -> Option<TxAction> {
        let answer = self.0.poll_action()?;
        self.1.put(|| Entry::TxAction { answer });
        Some(answer)
    }

    pub(super) fn poll_completion(&mut self) -> Option<SendDone> {
        let answer = self.0.poll_completion()?;
        self.1.put(|| Entry::TxDone { answer });
        Some(answer)
    }

    pub(super) fn poll_event(&mut self) -> Option<TxEvent> {
        let answer = self.0.poll_event()?;
        self.1.put(|| Entry::TxEvent {
            answer: answer.clone(),
        });
        Some(answer)
    }
}

/// A receiving engine whose calls are written down.
#[derive(Debug)]
pub(super) struct TapedRx(pub(super) RxEngine, pub(super) Tape);

impl Deref for TapedRx {
    type Target = RxEngine;

    fn deref(&self) -> &RxEngine {
        &self.0
    }
}

impl TapedRx {
    pub(super) fn answer_open(&mut self, conn: u32, accepted: bool) {
        self.0.answer_open(conn, accepted);
        self.1.put(|| Entry::RxAnswerOpen { conn, accepted });
    }

    pub(super) fn post(&mut self, conn: u32, token: u64, tag: i32, buffer: MemRange, rkeys: Keys) {
        self.0.post(conn, token, tag, buffer, rkeys);
        self.1.put(|| Entry::RxPost {
            conn,
            token,
            tag,
            buffer,
            rkeys,
        });
    }

    pub(super) fn handle_path_up(
        &mut self,
        path: u8,
        epoch: u16,
        fence: Option<u16>,
    ) -> Option<PathCount> {
        let answer = self.0.handle_path_up(path, epoch, fence);
        self.1.put(|| Entry::RxPathUp {
            path,
            epoch,
            fence,
            answer,
        });
        answer
    }

    pub(super) fn handle_silenced(&mut self, path: u8, epoch: u16) {
        self.0.handle_silenced(path, epoch);
        self.1.put(|| Entry::RxSilenced { path, epoch });
    }

    pub(super) fn handle_stats(&mut self, path: u8, stats: &TransportStats, now: Timestamp) {
        self.0.handle_stats(path, stats, now);
        self.1.put(|| Entry::RxStats {
            path,
            stats: *stats,
            now,
        });
    }

    pub(super) fn handle_frame(
        &mut self,
        path: u8,
        frame: Frame,
        received_ns: u64,
    ) -> Result<Option<Sink>, Violation> {
        self.1.put(|| Entry::RxFrame {
            path,
            frame,
            received_ns,
        });
        self.0.handle_frame(path, frame, received_ns)
    }

    pub(super) fn handle_payload_done(&mut self, path: u8) {
        self.0.handle_payload_done(path);
        self.1.put(|| Entry::RxPayloadDone { path });
    }

    pub(super) fn handle_immediate(
        &mut self,
        path: u8,
        imm: u32,
        bytes: u32,
    ) -> Result<(), Violation> {
        self.1.put(|| Entry::RxImmediate { path, imm, bytes });
        self.0.handle_immediate(path, imm, bytes)
    }

    pub(super) fn grant(&mut self, granted: u64) {
        self.0.grant(granted);
        self.1.put(|| Entry::RxGrant { granted });
    }

    pub(super) fn poll_ack(&mut self, late: bool) -> Option<RxTransmit> {
        let answer = self.0.poll_ack(late);
        self.1.put(|| Entry::RxAck { late, answer });
        answer
    }

    pub(super) fn poll_transmit(&mut self) -> Option<RxTransmit> {
        let answer = self.0.poll_transmit()?;
        self.1.put(|| Entry::RxTransmit { answer });
        Some(answer)
    }

    pub(super) fn poll_action(&mut self) -> Option<RxAction> {
        let answer = self.0.poll_action()?;
        self.1.put(|| Entry::RxAction { answer });
        Some(answer)
    }

    pub(super) fn poll_completion(&mut self) -> Option<RecvDone> {
        let answer = self.0.poll_completion()?;
        self.1.put(|| Entry::RxDone { answer });
        Some(answer)
    }
}
