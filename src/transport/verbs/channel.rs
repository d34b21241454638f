//! A path over verbs: one reliable queue pair, with a completion queue of its own.
//!
//! Chunks are written straight into the receiver's memory, with an immediate that says which they
//! are. Control frames and small messages are sent into receives that the other end keeps posted.
//! All of it goes through one queue pair, so it arrives in order, and how many data frames a path has
//! brought says exactly which. Each end sends in a traffic class of its own: what comes back, credits
//! and acknowledgements, need not wait behind data.
//!
//! A completion queue for each path costs a look at each, and makes the end of a path plain: what is
//! left in the queue is of this path alone, and once as much has come out as was put in, nothing of
//! the path can happen any more.
//!
//! The socket over which the two ends found each other stays open and silent: it closes when the
//! other end gives the path up or its process ends, which the adapter would notice seconds later.

#![allow(
    unsafe_code,
    reason = "adapters read and write memory that is named by address"
)]

use std::alloc::{self, Layout};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::mpsc::Sender;

use super::sys::{
    Access, Completion, Depths, Device, Done, Memory, Operation, Piece, QueuePair, REQUESTS_MAX,
    Refused, Request, SysError, status_text,
};
use super::{EAGER_BYTES_MAX, Part, RECEIVES_DATA, random_source_port};
use crate::clock::Timestamp;
use crate::engine::wire::{Chunk, Eager, Frame, HEADER_BYTES_MAX, Header, Immediate};
use crate::engine::{MemRange, Sink, Violation, Write};
use crate::path::health::TransportStats;
use crate::transport::framing;
use crate::transport::{Channel, ChannelError, Receiver, Sent};
use crate::units::Nanos;

/// And for control frames, which nobody counts: if they run out, the adapter asks again.
const RECEIVES_CONTROL: u32 = 64;
/// Messages that are on their way or wait to be acknowledged, and for which there is memory.
const SENDS: u32 = 64;
/// Messages that an end hands over with their request.
const INLINE: u32 = 128;
/// Batches of completions that are taken in before others have their turn.
const LOOKS: usize = 4;
/// How long the rest of a silenced queue pair's completions may take. Adapters need microseconds;
/// what takes this long is a device that is gone.
const DRAIN_MAX: Nanos = Nanos(500_000_000);
/// A peer that has taken all in may end at once, and its socket close before its adapter's last
/// acknowledgements are here: so long they are waited for.
const LAST_WORDS_MAX: Nanos = Nanos(50_000_000);
/// Of the time since a request was given, at most this part may have passed unseen (one in so many)
/// for its completion to tell how long it took.
const UNSEEN_PART: u64 = 4;

/// A stamp may be later than the moment at which a look began, but not by more than looks take.
const LOOK_MAX: Nanos = Nanos(10_000_000);

/// What a channel needs of a queue pair and its completion queue. Tests have others than adapters.
pub trait Pair: std::fmt::Debug {
    /// As [`QueuePair::post`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there.
    unsafe fn post(&mut self, requests: &[Request]) -> Result<(), Refused>;
    /// As [`QueuePair::post_receive`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there.
    unsafe fn post_receive(&mut self, id: u64, buffer: Piece) -> Result<(), SysError>;
    /// Takes out what has come, up to a bound.
    ///
    /// # Errors
    /// The queue has overrun, or the device is gone.
    fn poll(&mut self, taken: &mut Vec<Completion>) -> Result<(), SysError>;
    /// As [`QueuePair::time`].
    fn time(&mut self, stamp: u64, now: Timestamp) -> Option<Timestamp>;
    /// As [`QueuePair::silence`].
    ///
    /// # Errors
    /// As there.
    fn silence(&mut self) -> Result<(), SysError>;
    /// As [`QueuePair::set_source_port`].
    ///
    /// # Errors
    /// As there.
    fn set_source_port(&mut self, port: u16) -> Result<(), SysError>;
    /// Whether this is it, or its completion queue.
    fn has(&self, part: Part) -> bool;
    /// Lets [`Pair::fd`] tell of the next completion.
    ///
    /// # Errors
    /// The device is gone.
    fn arm(&mut self) -> Result<(), SysError>;
    /// The descriptor that can be read once something has come.
    fn fd(&self) -> RawFd;
    /// Bytes that are handed over with a request: their memory is free at once.
    fn inline(&self) -> u32;
}

impl Pair for QueuePair {
    unsafe fn post(&mut self, requests: &[Request]) -> Result<(), Refused> {
        // SAFETY: the caller's promise.
        unsafe { Self::post(self, requests) }
    }

    unsafe fn post_receive(&mut self, id: u64, buffer: Piece) -> Result<(), SysError> {
        // SAFETY: the caller's promise.
        unsafe { Self::post_receive(self, id, buffer) }
    }

    fn poll(&mut self, taken: &mut Vec<Completion>) -> Result<(), SysError> {
        self.completions()
            .poll(|completion| taken.push(completion))
            .map(|_| ())
    }

    fn time(&mut self, stamp: u64, now: Timestamp) -> Option<Timestamp> {
        Self::time(self, stamp, now)
    }

    fn silence(&mut self) -> Result<(), SysError> {
        Self::silence(self)
    }

    fn set_source_port(&mut self, port: u16) -> Result<(), SysError> {
        Self::set_source_port(self, port)
    }

    fn has(&self, part: Part) -> bool {
        match part {
            Part::QueuePair(number) => self.number() == number,
            Part::CompletionQueue(number) => self.completions().number() == number,
        }
    }

    fn arm(&mut self) -> Result<(), SysError> {
        self.completions().arm()
    }

    fn fd(&self) -> RawFd {
        self.completions().fd()
    }

    fn inline(&self) -> u32 {
        Self::inline(self)
    }
}

/// Which end of a path a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It sends data.
    Sender,
    /// It receives data: messages of up to so many bytes come without a credit.
    Receiver {
        /// Bytes.
        eager_bytes: u32,
    },
}

impl Role {
    fn receives(self) -> u32 {
        match self {
            Self::Sender => RECEIVES_CONTROL,
            Self::Receiver { .. } => RECEIVES_DATA + RECEIVES_CONTROL,
        }
    }

    /// What its queue pair has to hold.
    #[must_use]
    pub fn depths(self) -> Depths {
        Depths {
            send: match self {
                Self::Sender => RECEIVES_DATA + SENDS,
                Self::Receiver { .. } => SENDS,
            },
            receive: self.receives(),
            inline: INLINE,
        }
    }

    /// Completions that may wait at once.
    #[must_use]
    pub fn completions(self) -> u32 {
        let depths = self.depths();
        depths.send + depths.receive
    }
}

/// Memory for messages, registered where there is an adapter.
#[derive(Debug)]
pub struct Slab {
    start: NonNull<u8>,
    layout: Layout,
    key: u32,
    memory: Option<Memory>,
}

// SAFETY: it is plain memory, reached through its owner only.
unsafe impl Send for Slab {}

impl Slab {
    /// Memory that no adapter knows, under this key.
    ///
    /// # Errors
    /// There is none left.
    pub fn new(bytes: usize, key: u32) -> io::Result<Self> {
        let layout = Layout::from_size_align(bytes.max(1), 4096)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: its size is not zero.
        let start = NonNull::new(unsafe { alloc::alloc_zeroed(layout) })
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self {
            start,
            layout,
            key,
            memory: None,
        })
    }

    /// Memory that the device's adapter may read and write.
    ///
    /// # Errors
    /// It cannot be had, or not be pinned.
    pub fn registered(device: &Device, bytes: usize) -> Result<Self, SysError> {
        let mut slab = Self::new(bytes, 0).map_err(|error| SysError::Call {
            call: "memory for messages",
            error,
        })?;
        // SAFETY: the registration is dropped by `Drop` before the memory is freed.
        let memory = unsafe {
            // In strict order: what is gained by another is not worth a thought for small messages.
            let access = Access::default();
            device.register(slab.start.as_ptr(), slab.layout.size(), access)
        }?;
        slab.key = memory.local_key();
        slab.memory = Some(memory);
        Ok(slab)
    }

    /// Where it begins.
    #[must_use]
    pub fn start(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// By which our own requests name it.
    pub(super) fn key(&self) -> u32 {
        self.key
    }

    /// Frees a queue pair that is silent and then the memory that it used: in the grave, where there is
    /// one.
    pub(super) fn bury<P>(pair: P, slab: Self, grave: Option<&Grave<P>>) {
        let remains = Remains {
            _pair: pair,
            _slab: slab,
        };
        if let Some(grave) = grave {
            // Where nobody digs any more, they are freed here.
            let _ = grave.send(remains);
        }
    }

    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.layout.size(), "inside the slab");
        // SAFETY: callers compute offsets within the slab.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.memory = None;
        // SAFETY: it was allocated with this layout, and nobody knows of it any more.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[derive(Debug)]
enum Waiting {
    Message {
        header: Header,
        payload: MemRange,
        is_data: bool,
    },
    Write {
        write: Write,
        source: MemRange,
        owner: u32,
    },
}

/// A request that has not been completed.
#[derive(Debug, Clone, Copy)]
struct Posted {
    is_data: bool,
    owner: u32,
    bytes: u32,
    given_at: Timestamp,
    slot: Option<u16>,
}

/// A queue pair that is silent, and the memory that it used, in the order in which they are freed.
#[derive(Debug)]
pub struct Remains<P> {
    _pair: P,
    _slab: Slab,
}

/// Where the remains of channels are freed.
pub type Grave<P> = Sender<Remains<P>>;

/// Of a request's name: it is one of ours to send, not a receive.
const IS_SEND: u64 = 1 << 63;

/// A path over verbs.
#[derive(Debug)]
pub struct VerbsChannel<P: Pair = QueuePair> {
    // Both are there until the channel is dropped.
    pair: ManuallyDrop<P>,
    slab: ManuallyDrop<Slab>,
    grave: Option<Grave<P>>,
    /// Bytes of a receive's buffer; those of the receives come first in the slab.
    receive_bytes: usize,
    send_bytes: usize,
    role: Role,
    /// The place of its two devices' keys among those of a buffer.
    key_places: (usize, usize),
    waiting: VecDeque<Waiting>,
    posted: VecDeque<Posted>,
    free_slots: Vec<u16>,
    /// Receives that have not been completed.
    receives: u32,
    completed: u64,
    taken: Vec<Completion>,
    /// Empty between two uses: kept for its memory.
    requests: Vec<Request>,
    looked_at: Timestamp,
    /// A receiver's end keeps quiet until the first message has come: the other end may not be
    /// ready, and would answer only when it is asked again.
    may_send: bool,
    /// Silenced, and why if it was not asked for.
    over: bool,
    failure: Option<String>,
    /// The completion queue has failed, and tells nothing more.
    lost: bool,
    lifeline: Option<TcpStream>,
    /// When it was seen closed.
    abandoned_at: Option<Timestamp>,
}

/// Whether the other end has closed a socket that nobody writes to.
fn is_closed(socket: &mut TcpStream) -> bool {
    match socket.read(&mut [0; 16]) {
        // What somebody does write changes nothing.
        Ok(count) => count == 0,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
        ),
    }
}

impl<P: Pair> VerbsChannel<P> {
    /// A channel over a queue pair that has been made with the role's [`Role::depths`]; its receives
    /// are posted here. `key_places`: which of a buffer's keys are those of the local device and of the
    /// remote one.
    ///
    /// # Errors
    /// The memory cannot be had, or the receives not be posted.
    pub fn new(
        pair: P,
        role: Role,
        key_places: (usize, usize),
        memory: impl FnOnce(usize) -> Result<Slab, SysError>,
    ) -> Result<Self, SysError> {
        let eager = |bytes: u32| HEADER_BYTES_MAX + bytes as usize;
        let (receive_bytes, send_bytes) = match role {
            // What is sent eagerly is within what the receiver says in its welcome.
            Role::Sender => (HEADER_BYTES_MAX, eager(EAGER_BYTES_MAX)),
            Role::Receiver { eager_bytes } => (eager(eager_bytes), HEADER_BYTES_MAX),
        };
        let receives = role.receives();
        let slab = memory(receives as usize * receive_bytes + SENDS as usize * send_bytes)?;
        let mut channel = Self {
            pair: ManuallyDrop::new(pair),
            slab: ManuallyDrop::new(slab),
            grave: None,
            receive_bytes,
            send_bytes,
            role,
            key_places,
            waiting: VecDeque::with_capacity(64),
            posted: VecDeque::with_capacity(role.depths().send as usize),
            free_slots: (0..u16::try_from(SENDS).unwrap_or(0)).rev().collect(),
            receives: 0,
            completed: 0,
            taken: Vec::with_capacity(REQUESTS_MAX),
            requests: Vec::with_capacity(REQUESTS_MAX),
            looked_at: Timestamp::now(),
            may_send: role == Role::Sender,
            over: false,
            failure: None,
            lost: false,
            lifeline: None,
            abandoned_at: None,
        };
        for slot in 0..receives {
            channel.post_receive(u64::from(slot))?;
        }
        Ok(channel)
    }

    /// What is left of it goes there: to free a queue pair may take seconds, while something of it
    /// waits for a host that does not answer.
    pub fn bury_in(&mut self, grave: Grave<P>) {
        self.grave = Some(grave);
    }

    /// Keeps the socket over which the ends found each other.
    pub fn keep(&mut self, lifeline: TcpStream) {
        self.lifeline = Some(lifeline);
    }

    /// The descriptors to wait for, after [`VerbsChannel::arm`].
    #[must_use]
    pub fn fds(&self) -> [Option<RawFd>; 2] {
        let lifeline = self.lifeline.as_ref().map(AsRawFd::as_raw_fd);
        [Some(self.pair.fd()), lifeline]
    }

    /// Lets the descriptor tell of what comes next; what has come already is for
    /// [`Channel::receive`].
    pub fn arm(&mut self) {
        // A device that is gone fails the next request.
        let _ = self.pair.arm();
    }

    /// The queue pair.
    #[must_use]
    pub fn pair(&self) -> &P {
        &self.pair
    }

    /// Sends from another source port from now on: another way through the fabric. Says which, if the
    /// adapter can do that.
    pub fn reroute(&mut self) -> Option<u16> {
        let port = random_source_port();
        self.pair.set_source_port(port).is_ok().then_some(port)
    }

    /// Messages of this end's that have reached the other.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.completed
    }

    /// Whether all that this end has asked has reached the other. What arrives meanwhile is kept for
    /// [`Channel::receive`].
    ///
    /// # Errors
    /// The adapter has given up, and why.
    pub fn prove(&mut self) -> Result<bool, String> {
        let mut taken = Vec::new();
        self.pair
            .poll(&mut taken)
            .map_err(|error| error.to_string())?;
        for completion in taken {
            match completion.done {
                // Kept as well: what has ended is counted when the channel ends.
                Done::Failed(status) => {
                    self.failure.get_or_insert_with(|| status_text(status));
                    self.taken.push(completion);
                }
                Done::Sent => {
                    self.completed += 1;
                    let slot = self.posted.pop_front().and_then(|posted| posted.slot);
                    self.free_slots.extend(slot);
                }
                Done::Received(_) | Done::Written(..) => self.taken.push(completion),
            }
        }
        match &self.failure {
            Some(reason) => Err(reason.clone()),
            None => Ok(self.completed > 0 && self.posted.is_empty()),
        }
    }

    /// Queues a chunk.
    pub fn write(&mut self, write: Write, source: MemRange, owner: u32) {
        self.waiting.push_back(Waiting::Write {
            write,
            source,
            owner,
        });
    }

    /// Queues a message; `is_data` if it counts as a data frame.
    pub fn send(&mut self, header: Header, payload: MemRange, is_data: bool) {
        self.waiting.push_back(Waiting::Message {
            header,
            payload,
            is_data,
        });
    }

    /// Whether the other end has given the path up, and what it took in before has been heard of.
    pub fn is_abandoned(&mut self) -> bool {
        if self.abandoned_at.is_none() && self.lifeline.as_mut().is_some_and(is_closed) {
            self.abandoned_at = Some(Timestamp::now());
        }
        self.abandoned_at.is_some_and(|at| {
            self.posted.is_empty() || Timestamp::now().since(at) >= LAST_WORDS_MAX
        })
    }

    fn post_receive(&mut self, id: u64) -> Result<(), SysError> {
        let slot = usize::try_from(id).unwrap_or(usize::MAX);
        let buffer = Piece {
            addr: self.slab.at(slot * self.receive_bytes) as u64,
            bytes: u32::try_from(self.receive_bytes).unwrap_or(0),
            key: self.slab.key,
        };
        // SAFETY: the slab outlives the queue pair, and each slot is in one receive at a time.
        unsafe { self.pair.post_receive(id, buffer) }?;
        self.receives += 1;
        Ok(())
    }

    fn send_slot(&self, slot: u16) -> *mut u8 {
        let sends = self.role.receives() as usize * self.receive_bytes;
        self.slab.at(sends + usize::from(slot) * self.send_bytes)
    }

    /// The next request to hand over, if there is room for it.
    fn next(&mut self, given_at: Timestamp) -> Option<(Request, Posted)> {
        if self.posted.len() >= self.role.depths().send as usize {
            return None;
        }
        match self.waiting.front()? {
            Waiting::Write {
                write,
                source,
                owner,
            } => {
                let (local, remote) = self.key_places;
                let key = |keys: &[u32], place: usize| keys.get(place).copied().unwrap_or(0);
                let bytes = u32::try_from(source.len).unwrap_or(u32::MAX);
                let request = Request {
                    id: IS_SEND,
                    local: Piece {
                        addr: source.addr,
                        bytes,
                        key: key(write.local.as_slice(), local),
                    },
                    operation: Operation::Write {
                        addr: write.addr,
                        key: key(write.remote.as_slice(), remote),
                        // The engine cuts no message into more chunks than fit, and the receiver
                        // has no more slots.
                        immediate: Immediate::of(&write.chunk).pack().unwrap_or(u32::MAX),
                    },
                };
                let posted = Posted {
                    is_data: true,
                    owner: *owner,
                    bytes,
                    given_at,
                    slot: None,
                };
                self.waiting.pop_front();
                Some((request, posted))
            }
            &Waiting::Message {
                header,
                payload,
                is_data,
            } => {
                let slot = self.free_slots.pop()?;
                let at = self.send_slot(slot);
                let head = header.as_bytes();
                let len = usize::try_from(payload.len).unwrap_or(0);
                debug_assert!(
                    head.len() + len <= self.send_bytes,
                    "a message fits its slot"
                );
                // SAFETY: the slot is free and large enough; the payload of a small message is the
                // engine's own.
                unsafe {
                    std::ptr::copy_nonoverlapping(head.as_ptr(), at, head.len());
                    if len > 0 {
                        std::ptr::copy_nonoverlapping(
                            payload.addr as *const u8,
                            at.add(head.len()),
                            len,
                        );
                    }
                }
                let bytes = u32::try_from(head.len() + len).unwrap_or(u32::MAX);
                let request = Request {
                    id: IS_SEND,
                    local: Piece {
                        addr: at as u64,
                        bytes,
                        key: self.slab.key,
                    },
                    operation: Operation::Send,
                };
                let posted = Posted {
                    is_data,
                    owner: 0,
                    bytes: if is_data { bytes } else { 0 },
                    given_at,
                    slot: Some(slot),
                };
                self.waiting.pop_front();
                Some((request, posted))
            }
        }
    }

    fn take(
        &mut self,
        completion: Completion,
        now: Timestamp,
        unseen: Nanos,
        receiver: &mut dyn Receiver,
    ) -> Result<(), ChannelError> {
        let is_send = completion.id & IS_SEND != 0;
        if is_send {
            let Some(posted) = self.posted.pop_front() else {
                return Ok(());
            };
            self.free_slots.extend(posted.slot);
            if completion.done == Done::Sent {
                self.completed += 1;
                receiver.sent(Sent {
                    is_data: posted.is_data,
                    given_at: posted.given_at,
                    completed_at: self.completed_at(posted.given_at, completion.stamp, now, unseen),
                });
            }
        } else {
            self.receives = self.receives.saturating_sub(1);
        }
        match completion.done {
            Done::Sent => return Ok(()),
            Done::Failed(status) => {
                self.failure.get_or_insert_with(|| status_text(status));
                return Ok(());
            }
            Done::Written(bytes, immediate) => receiver.written(immediate, bytes)?,
            Done::Received(bytes) => {
                let slot = usize::try_from(completion.id).unwrap_or(usize::MAX);
                let bytes = (bytes as usize).min(self.receive_bytes);
                // SAFETY: the receive is done, so its buffer is ours until it is posted again.
                let message = unsafe {
                    std::slice::from_raw_parts(self.slab.at(slot * self.receive_bytes), bytes)
                };
                framing::message(message, 0, receiver)?;
            }
        }
        self.may_send = true;
        if !self.over && self.failure.is_none() {
            // Without it the sender would count a receive too many.
            if let Err(error) = self.post_receive(completion.id) {
                self.failure = Some(error.to_string());
            }
        }
        Ok(())
    }

    /// When a request was carried out: by the adapter's stamp, unless that cannot be. Else it is now, if
    /// somebody was looking.
    fn completed_at(
        &mut self,
        given_at: Timestamp,
        stamp: Option<u64>,
        now: Timestamp,
        unseen: Nanos,
    ) -> Option<Timestamp> {
        let by_adapter = stamp
            .and_then(|stamp| self.pair.time(stamp, now))
            .filter(|&at| given_at <= at && at <= now + LOOK_MAX)
            .map(|at| at.min(now));
        let was_seen = unseen.0 <= now.since(given_at).0 / UNSEEN_PART;
        by_adapter.or_else(|| was_seen.then_some(now))
    }

    /// Takes in a batch; says how much that was.
    fn look(&mut self, receiver: &mut dyn Receiver) -> Result<usize, ChannelError> {
        let now = receiver.now();
        let unseen = now.since(self.looked_at);
        self.looked_at = now;
        let mut taken = std::mem::take(&mut self.taken);
        if let Err(error) = self.pair.poll(&mut taken) {
            self.failure.get_or_insert_with(|| error.to_string());
            self.lost = true;
        }
        let count = taken.len();
        let mut outcome = Ok(());
        for completion in taken.drain(..) {
            let one = self.take(completion, now, unseen, receiver);
            outcome = outcome.and(one);
        }
        self.taken = taken;
        outcome.map(|()| count)
    }

    /// Makes the queue pair silent and takes in what it has still to tell, all of it.
    fn end(&mut self, receiver: &mut dyn Receiver) -> Result<(), ChannelError> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        // A device that is gone tells nothing more, and is not waited for.
        let drain = match self.pair.silence() {
            Ok(()) => DRAIN_MAX,
            Err(_) => Nanos::ZERO,
        };
        let deadline = Timestamp::now() + drain;
        let mut outcome = Ok(());
        while !self.lost && (self.receives > 0 || !self.posted.is_empty()) {
            match self.look(receiver) {
                Ok(0) if Timestamp::now() >= deadline => break,
                Ok(0) => std::thread::yield_now(),
                Ok(_) => {}
                // What follows may be right, and whoever asked wants nothing to follow later.
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    fn failed(&mut self, receiver: &mut dyn Receiver) -> Result<(), ChannelError> {
        let Some(reason) = self.failure.clone() else {
            return Ok(());
        };
        self.end(receiver)?;
        Err(ChannelError::Adapter(reason))
    }
}

impl<P: Pair> Drop for VerbsChannel<P> {
    fn drop(&mut self) {
        let _ = self.end(&mut Nobody);
        // SAFETY: neither is used below, nor taken twice.
        let (pair, slab) = unsafe {
            (
                ManuallyDrop::take(&mut self.pair),
                ManuallyDrop::take(&mut self.slab),
            )
        };
        Slab::bury(pair, slab, self.grave.as_ref());
    }
}

/// Takes in what a channel has to tell when nobody wants to know it any more.
struct Nobody;

impl Receiver for Nobody {
    fn frame(&mut self, header: &[u8], _arrived_ns: u64) -> Result<Option<Sink>, Violation> {
        Ok(match Frame::decode(header)? {
            Frame::Eager(Eager { payload, .. }) | Frame::Chunk(Chunk { payload, .. }) => {
                Some(Sink::Discard(payload.into()))
            }
            Frame::Padding { bytes } => Some(Sink::Discard(bytes.into())),
            _ => None,
        })
    }

    fn payload_done(&mut self) {}

    fn written(&mut self, _immediate: u32, _bytes: u32) -> Result<(), Violation> {
        Ok(())
    }
}

impl<P: Pair> Channel for VerbsChannel<P> {
    fn queue(&mut self, header: Header, payload: MemRange, _owner: u32) {
        self.send(header, payload, false);
    }

    fn flush(&mut self) -> Result<(), ChannelError> {
        if self.over {
            return Err(ChannelError::Closed);
        }
        if !self.may_send || self.waiting.is_empty() {
            return Ok(());
        }
        let given_at = Timestamp::now();
        let inline = self.pair.inline();
        let mut requests = std::mem::take(&mut self.requests);
        let outcome = loop {
            requests.clear();
            while requests.len() < REQUESTS_MAX
                && let Some((request, posted)) = self.next(given_at)
            {
                requests.push(request);
                self.posted.push_back(posted);
            }
            let count = requests.len();
            if count == 0 {
                break Ok(());
            }
            // SAFETY: chunks belong to sends that have not ended, whose owners keep them valid
            // (closing a connection ends such channels first); slots stay until they are completed.
            if let Err(Refused { taken, error }) = unsafe { self.pair.post(&requests) } {
                // The others will not be completed.
                self.posted.truncate(self.posted.len() - count + taken);
                self.failure.get_or_insert_with(|| error.to_string());
                break Err(ChannelError::Adapter(error.to_string()));
            }
            // What went along with its request has left its slot.
            let from = self.posted.len() - count;
            for (posted, request) in self.posted.range_mut(from..).zip(&requests) {
                if request.local.bytes <= inline {
                    self.free_slots.extend(posted.slot.take());
                }
            }
        };
        self.requests = requests;
        outcome
    }

    fn has_unsent(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn holds(&self, owner: u32) -> bool {
        let waits = |w: &Waiting| matches!(w, Waiting::Write { owner: o, .. } if *o == owner);
        self.waiting.iter().any(waits) || self.posted.iter().any(|p| p.owner == owner)
    }

    fn receive(
        &mut self,
        _scratch: &mut [u8],
        receiver: &mut dyn Receiver,
    ) -> Result<usize, ChannelError> {
        if self.over {
            return Err(ChannelError::Closed);
        }
        let mut moved = 0;
        for _ in 0..LOOKS {
            let count = self.look(receiver)?;
            moved += count;
            if count < REQUESTS_MAX {
                break;
            }
        }
        self.failed(receiver).map(|()| moved)
    }

    fn silence(&mut self, _scratch: &mut [u8], receiver: &mut dyn Receiver) {
        // What breaks the protocol now breaks nothing more.
        let _ = self.end(receiver);
    }

    fn settle(&mut self, until: Timestamp, receiver: Option<&mut dyn Receiver>) {
        let mut nobody = Nobody;
        let receiver = receiver.unwrap_or(&mut nobody);
        while !(self.over || self.waiting.is_empty() && self.posted.is_empty())
            && Timestamp::now() < until
        {
            if self.flush().is_err() || self.receive(&mut [], receiver).is_err() {
                return;
            }
            std::thread::yield_now();
        }
    }

    fn discard_arriving(&mut self) {}

    fn stats(&mut self) -> TransportStats {
        TransportStats {
            in_flight: !self.posted.is_empty(),
            acked: self.completed,
            ..TransportStats::default()
        }
    }

    fn backlog(&mut self) -> u64 {
        let waiting = self.waiting.iter().map(|waiting| match waiting {
            Waiting::Message { payload, .. } => payload.len,
            Waiting::Write { source, .. } => source.len,
        });
        let posted = self.posted.iter().map(|posted| u64::from(posted.bytes));
        waiting.chain(posted).sum()
    }
}
