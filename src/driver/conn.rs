//! One end of a connection as the application and its link see it: numbered request slots.
//!
//! # Who touches what
//! The application's thread (one at a time per connection) takes slots from `free`, pushes
//! submissions, and reads a slot once its state says that it has ended. Whoever drives the link
//! pops submissions and ends slots. A slot's fields are written by the driver before its state is
//! stored with Release, and read by the application after its state is loaded with Acquire.

#![allow(
    unsafe_code,
    reason = "the application's half is reached through a shared pointer"
)]

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Link, RxLink, Step, TxLink};
use crate::clock::Timestamp;
use crate::engine::MemRange;
use crate::engine::wire::Keys;
use crate::error::{Error, ErrorKind};
use crate::session::{Completion, MAX_RECVS, MAX_REQUESTS};
use crate::sync::spsc::{self, Consumer, Producer};
use crate::telemetry::ConnectionRecorder;
use crate::transport::verbs::LinkPorts;

/// One message of a request, on its way to the link.
#[derive(Debug, Clone, Copy)]
pub struct Submission {
    /// Request slot.
    pub slot: u16,
    /// Which message of the request.
    pub sub: u8,
    /// Tag.
    pub tag: i32,
    /// Buffer.
    pub range: MemRange,
    /// Its keys, in the order of the link's own devices.
    pub keys: Keys,
}

impl Submission {
    /// What the engine knows the message by.
    #[must_use]
    pub fn token(&self, conn: u32) -> u64 {
        token(conn, self.slot, self.sub)
    }
}

/// What the engine knows a message of this connection and slot by.
#[must_use]
pub fn token(conn: u32, slot: u16, sub: u8) -> u64 {
    u64::from(conn) << 32 | u64::from(slot) << 8 | u64::from(sub)
}

/// The connection, slot and message that a token names.
#[must_use]
pub fn untoken(token: u64) -> (u32, u16, u8) {
    let [sub, slot_low, slot_high, _, conn @ ..] = token.to_le_bytes();
    (
        u32::from_le_bytes(conn),
        u16::from_le_bytes([slot_low, slot_high]),
        sub,
    )
}

const FREE: u8 = 0;
const PENDING: u8 = 1;
const DONE: u8 = 2;
const FAILED: u8 = 3;

/// One request.
#[derive(Debug)]
pub struct Slot {
    conn: *const Conn,
    index: u16,
    state: AtomicU8,
    failed: AtomicU8,
    count: AtomicU8,
    remaining: AtomicU8,
    sizes: [AtomicU32; MAX_RECVS],
    /// When the link took it up, in ns: the driver's own.
    taken_up_at: AtomicU64,
}

/// A link of either kind.
#[derive(Debug, Clone)]
pub enum LinkRef {
    /// Of a sending end.
    Tx(Arc<TxLink>),
    /// Of a receiving end.
    Rx(Arc<RxLink>),
}

/// What is the same for both.
impl Deref for LinkRef {
    type Target = dyn Link;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Tx(link) => &**link,
            Self::Rx(link) => &**link,
        }
    }
}

#[derive(Debug)]
struct App {
    producer: Producer<Submission>,
    free: Vec<u16>,
    /// Slots from [`Conn::first_flush`] on.
    free_for_flushes: Vec<u16>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Conn {
    /// Its number on the link.
    pub id: u32,
    /// Its link.
    pub link: LinkRef,
    slots: Box<[Slot]>,
    /// Slots from here on are those of flushes, which may be as many as receives.
    first_flush: u16,
    app: UnsafeCell<App>,
    errors: Mutex<BTreeMap<u16, Error>>,
    recorder: Option<ConnectionRecorder>,
}

// SAFETY: `app` is touched only by the application's calls, which the session's contract makes
// one at a time; everything else is atomic or behind a lock. The raw pointers in the slots name
// the `Conn` that owns them.
unsafe impl Send for Conn {}
// SAFETY: as above.
unsafe impl Sync for Conn {}

impl Conn {
    /// An end with its request slots, and the queue that its link collects from.
    #[must_use]
    pub fn new(
        id: u32,
        link: LinkRef,
        recorder: Option<ConnectionRecorder>,
    ) -> (Arc<Self>, Consumer<Submission>) {
        let (messages, flushes) = match link {
            LinkRef::Tx(_) => (MAX_REQUESTS * MAX_RECVS, 0),
            LinkRef::Rx(_) => (MAX_REQUESTS, MAX_REQUESTS),
        };
        let (producer, consumer) = spsc::channel(MAX_REQUESTS * MAX_RECVS);
        let first_flush = u16::try_from(messages).unwrap_or(u16::MAX);
        let count = u16::try_from(messages + flushes).unwrap_or(u16::MAX);
        let conn = Arc::new_cyclic(|home| Self {
            id,
            link,
            slots: (0..count)
                .map(|index| Slot::new(home.as_ptr(), index))
                .collect(),
            first_flush,
            app: UnsafeCell::new(App {
                producer,
                free: (0..first_flush).rev().collect(),
                free_for_flushes: (first_flush..count).rev().collect(),
            }),
            errors: Mutex::new(BTreeMap::new()),
            recorder,
        });
        (conn, consumer)
    }

    /// Starts a request of `messages` (tag, buffer and its keys each); `None`: none is free.
    ///
    /// # Safety
    /// No other call of the application on this connection runs at the same time.
    pub unsafe fn start(&self, messages: &[(i32, MemRange, Keys)]) -> Option<&Slot> {
        // SAFETY: the caller's promise.
        let app = unsafe { &mut *self.app.get() };
        let index = app.free.pop()?;
        let slot = &self.slots[usize::from(index)];
        let count = u8::try_from(messages.len()).unwrap_or(0);
        slot.begin(count, count);
        for (sub, &(tag, range, keys)) in (0u8..).zip(messages) {
            // The queue has room for every slot's messages; its Release publishes the above.
            let _ = app.producer.push(Submission {
                slot: index,
                sub,
                tag,
                range,
                keys,
            });
        }
        match &self.link {
            LinkRef::Tx(link) => link.submitted(),
            LinkRef::Rx(link) => link.submitted(),
        }
        Some(slot)
    }

    /// Starts a flush of these buffers, each by the address of a byte and its keys; `None`: too many
    /// are outstanding, or there is nothing to flush over.
    ///
    /// # Safety
    /// As for [`Conn::start`].
    pub unsafe fn start_flush(&self, buffers: &[(u64, Keys)]) -> Option<&Slot> {
        let LinkRef::Rx(link) = &self.link else {
            return None;
        };
        // SAFETY: the caller's promise.
        let index = unsafe { &mut *self.app.get() }.free_for_flushes.pop()?;
        let slot = &self.slots[usize::from(index)];
        // Nothing is moved, and one word of it comes.
        slot.begin(0, 1);
        link.flush(self.id, index, buffers);
        Some(slot)
    }

    /// Called by the link: it has taken up a message of a request.
    pub fn taken_up(&self, slot: u16, now: Timestamp) {
        if let (Some(recorder), Some(s)) = (&self.recorder, self.slots.get(usize::from(slot))) {
            s.taken_up_at.store(now.as_nanos(), Ordering::Relaxed);
            recorder.requested();
        }
    }

    /// Called by the link: one message of a request has ended, or its flush.
    pub fn ended(&self, slot: u16, sub: u8, result: Result<u64, Error>, now: Timestamp) {
        let Some(s) = self.slots.get(usize::from(slot)) else {
            return;
        };
        if let Some(recorder) = &self.recorder
            && slot < self.first_flush
        {
            let taken_up = Timestamp::from_nanos(s.taken_up_at.load(Ordering::Relaxed));
            match result {
                Ok(bytes) => recorder.ended(bytes, now.since(taken_up)),
                Err(_) => recorder.failed(),
            }
        }
        match result {
            Ok(bytes) => {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                s.sizes[usize::from(sub)].store(bytes, Ordering::Relaxed);
            }
            Err(error) => {
                s.failed.store(1, Ordering::Relaxed);
                let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
                errors.entry(slot).or_insert(error);
            }
        }
        // Only the holder of the link's lock gets here, so this needs no read-modify-write.
        let remaining = s.remaining.load(Ordering::Relaxed).saturating_sub(1);
        s.remaining.store(remaining, Ordering::Relaxed);
        if remaining == 0 {
            let state = if s.failed.load(Ordering::Relaxed) == 0 {
                DONE
            } else {
                FAILED
            };
            s.state.store(state, Ordering::Release); // pairs with the load in `Slot::test`
        }
    }

    /// Our ports, where its link goes over RDMA.
    #[must_use]
    pub fn ports(&self) -> Option<&LinkPorts> {
        match &self.link {
            LinkRef::Tx(link) => link.rdma.as_ref().map(|rdma| &rdma.ports),
            LinkRef::Rx(link) => link.rdma.as_ref(),
        }
    }
}

impl Slot {
    fn new(conn: *const Conn, index: u16) -> Self {
        Self {
            conn,
            index,
            state: AtomicU8::new(FREE),
            failed: AtomicU8::new(0),
            count: AtomicU8::new(0),
            remaining: AtomicU8::new(0),
            sizes: std::array::from_fn(|_| AtomicU32::new(0)),
            taken_up_at: AtomicU64::new(0),
        }
    }

    /// A request of so many messages, of whose end it will hear so many times.
    fn begin(&self, count: u8, remaining: u8) {
        self.count.store(count, Ordering::Relaxed);
        self.remaining.store(remaining, Ordering::Relaxed);
        self.failed.store(0, Ordering::Relaxed);
        self.state.store(PENDING, Ordering::Relaxed);
    }

    /// Whether the request has ended; drives the link if it has not.
    ///
    /// # Safety
    /// The connection lives, and no other call of the application on it runs at the same time.
    ///
    /// # Errors
    /// What ended the request; it is gone then, as after a completion.
    pub unsafe fn test(&self) -> Result<Option<Completion>, Error> {
        // SAFETY: slots live inside their connection.
        let conn = unsafe { &*self.conn };
        let mut state = self.state.load(Ordering::Acquire); // pairs with the store in `ended`
        if state == PENDING {
            conn.link.drive(Step::Progress);
            state = self.state.load(Ordering::Acquire); // as above
        }
        match state {
            PENDING => return Ok(None),
            DONE | FAILED => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "test of a request that has ended: its handle is no longer valid",
                ));
            }
        }
        let error = (state == FAILED).then(|| {
            let mut errors = conn.errors.lock().unwrap_or_else(PoisonError::into_inner);
            errors.remove(&self.index)
        });
        let count = usize::from(self.count.load(Ordering::Relaxed));
        let mut completion = Completion {
            sizes: [0; MAX_RECVS],
            count,
        };
        for (size, stored) in completion.sizes.iter_mut().zip(&self.sizes[..count]) {
            *size = stored.load(Ordering::Relaxed) as usize;
        }
        self.state.store(FREE, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        let app = unsafe { &mut *conn.app.get() };
        if self.index < conn.first_flush {
            app.free.push(self.index);
        } else {
            app.free_for_flushes.push(self.index);
        }
        match error {
            None => Ok(Some(completion)),
            Some(error) => Err(error.unwrap_or_else(|| {
                Error::new(ErrorKind::Internal, "a request failed without a reason")
            })),
        }
    }
}
