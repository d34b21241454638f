//! A connection as NCCL holds it: the core's connection, the memory that was registered on it,
//! and its outstanding requests.
//!
//! # Threads
//! NCCL's progress thread calls `isend`, `irecv` and `test`, one at a time; its service thread
//! registers and deregisters memory on the same connection meanwhile, and closes it at the end.
//! All state is behind one [`TryLock`]. The progress thread never waits for it: where the service
//! thread has it, or asks for it, a request is "not accepted yet" or "not done yet", which NCCL
//! has to reckon with anyway. The service thread does wait, for one call of the other at most.
//!
//! # Memory
//! Once memory has been deregistered NCCL frees it, on an abort even before it closes the
//! connection. So a registration is checked at each use, and where one goes while a request still
//! uses it, the connection is closed at once: from then on nobody reads or writes there.

use crate::abi::{self, ResultCode};
use crate::guard::Failure;
use crate::log;
use std::ffi::{c_int, c_void};
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use thalweg::engine::wire::Keys;
use thalweg::session::{
    MAX_RECVS, MAX_REQUESTS, MemoryKeys, MemoryKind, RecvBuffer, RecvConnection, Registrar,
    Registration, Request, SendConnection,
};
use thalweg::sync::{TryLock, TryLockGuard};

// A registration's handle holds two 32-bit numbers.
const _: () = assert!(usize::BITS == 64);
const _: () = assert!(MAX_REQUESTS == abi::MAX_REQUESTS);

/// The core's limit, and far below that of the C int in which `test` reports sizes. NCCL asks for
/// it (`maxP2pBytes`) and cuts what is larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 30;
const _: () = assert!(MESSAGE_BYTES_MAX as u64 == thalweg::engine::wire::MESSAGE_BYTES_MAX);

/// One end of a connection; what NCCL calls a send comm or a receive comm.
pub(crate) struct Comm {
    state: TryLock<State>,
    /// Service calls that wait for the state. While there are any, the data path stays out.
    waiting: AtomicU32,
    /// What the outstanding requests' pointers point to; one for each of `State::pending`.
    tokens: Box<[Token]>,
}

/// What a request's pointer points to: whose it is, and which.
struct Token {
    comm: *const Comm,
    index: usize,
}

struct State {
    end: End,
    /// Why the connection is out of use, if it was this file that put it there; the core's own
    /// errors come again from the core.
    failure: Option<Failure>,
    /// Whether the core has reported an error. What follows, such as memory that is deregistered
    /// in flight, is then a part of the clean-up.
    errored: bool,
    registrations: Registrations,
    /// Grows with use, up to one for each of `Comm::tokens`.
    pending: Vec<Option<Pending>>,
    /// Indices of the free ones in `pending`.
    free: Vec<usize>,
    /// Messages that may be outstanding.
    requests_max: usize,
    /// Flushes among what is pending.
    flushes: usize,
}

enum End {
    Send(SendConnection),
    Recv(RecvConnection),
    Closed,
}

impl End {
    fn receiving(&self) -> Result<&RecvConnection, Failure> {
        match self {
            Self::Recv(connection) => Ok(connection),
            _ => Err(Failure::argument("this comm sends")),
        }
    }
}

/// An outstanding request.
struct Pending {
    request: Request,
    count: usize,
    /// The memory it uses, by index: an entry in use isn't used again for another registration.
    registrations: [u32; MAX_RECVS],
    is_flush: bool,
}

/// In [`Pending::registrations`]: an empty message, or no message at all.
const NO_REGISTRATION: u32 = u32::MAX;

const NO_BUFFER: RecvBuffer = RecvBuffer {
    data: null_mut(),
    len: 0,
    tag: 0,
    keys: MemoryKeys {
        local: Keys::NONE,
        remote: Keys::NONE,
    },
};

/// One buffer of an `irecv`, as it comes from NCCL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) data: *mut c_void,
    pub(crate) len: usize,
    pub(crate) tag: c_int,
    pub(crate) handle: *mut c_void,
}

/// What `test` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    NotYet,
    /// Done, with so many messages of these sizes.
    Done(usize, [c_int; MAX_RECVS]),
}

impl Comm {
    /// A send comm for NCCL, to be given back to [`Comm::close`].
    pub(crate) fn sending(connection: SendConnection) -> *mut c_void {
        // A sender may have a message outstanding for each slot of each of its peer's receives.
        Self::open(End::Send(connection), MAX_REQUESTS * MAX_RECVS, 0)
    }

    /// A receive comm for NCCL, to be given back to [`Comm::close`].
    pub(crate) fn receiving(connection: RecvConnection) -> *mut c_void {
        Self::open(End::Recv(connection), MAX_REQUESTS, MAX_REQUESTS)
    }

    fn open(end: End, requests: usize, flushes: usize) -> *mut c_void {
        let comm = Box::into_raw(Box::new(Self {
            state: TryLock::new(State {
                end,
                failure: None,
                errored: false,
                registrations: Registrations::default(),
                pending: Vec::new(),
                free: Vec::new(),
                requests_max: requests,
                flushes: 0,
            }),
            waiting: AtomicU32::new(0),
            tokens: Box::default(),
        }));
        let count = requests + flushes;
        let tokens = (0..count).map(|index| Token { comm, index }).collect();
        // SAFETY: just allocated, and nobody else knows it yet.
        unsafe { (*comm).tokens = tokens };
        comm.cast()
    }

    /// The comm behind a pointer from NCCL.
    ///
    /// # Safety
    /// `comm` is null or came from [`Comm::sending`] or [`Comm::receiving`], and [`Comm::close`]
    /// wasn't called on it and isn't during `'a`.
    pub(crate) unsafe fn from_raw<'a>(comm: *mut c_void) -> Result<&'a Self, Failure> {
        // SAFETY: as the caller promises.
        unsafe { comm.cast::<Self>().as_ref() }.ok_or_else(|| Failure::argument("the comm is null"))
    }

    /// Closes the connection, with whatever is still outstanding on it.
    ///
    /// # Safety
    /// As for [`Comm::from_raw`]; neither the comm nor its requests may be used any more.
    pub(crate) unsafe fn close(comm: *mut c_void) {
        if comm.is_null() {
            return;
        }
        // SAFETY: not closed before, so this is the allocation of `open`.
        let comm = unsafe { Box::from_raw(comm.cast::<Self>()) };
        // The progress thread has been stopped, but a call of it may just be on its way out.
        drop(comm.enter_waiting());
    }

    /// Registers memory; returns the handle.
    ///
    /// # Safety
    /// The memory stays mapped until it is deregistered or the comm is closed.
    pub(crate) unsafe fn register(
        &self,
        data: *mut c_void,
        len: usize,
        kind: MemoryKind,
    ) -> Result<*mut c_void, Failure> {
        if data.is_null() && len > 0 {
            return Err(Failure::argument("the memory to register is null"));
        }
        let registrar = match &self.enter_waiting().end {
            End::Send(connection) => connection.registrar(),
            End::Recv(connection) => connection.registrar(),
            End::Closed => Registrar::default(),
        };
        // Not while the progress thread is kept out: to pin memory takes milliseconds.
        // SAFETY: the caller's promise.
        let memory = unsafe { registrar.register(data.cast(), len, kind) }?;
        let region = Region {
            addr: data.addr(),
            len,
        };
        let id = self.enter_waiting().registrations.insert(region, memory)?;
        Ok(id.into_raw())
    }

    /// Forgets a registration. Afterwards its memory is neither read nor written.
    pub(crate) fn deregister(&self, handle: *mut c_void) -> Result<(), Failure> {
        let mut state = self.enter_waiting();
        let unknown =
            || Failure::argument("this memory is not registered here; was it deregistered twice?");
        let id = RegistrationId::from_raw(handle).ok_or_else(unknown)?;
        let (region, memory) = state.registrations.remove(id).ok_or_else(unknown)?;
        let users = state.users_of(id);
        if users > 0 {
            state.close_early(region, users);
        }
        drop(state);
        drop(memory); // takes long, as to register does
        Ok(())
    }

    /// Starts to send; null if that isn't possible just now.
    ///
    /// # Safety
    /// The memory stays valid and unchanged until the request is done, or deregistered, or the comm closed.
    pub(crate) unsafe fn isend(
        &self,
        data: *mut c_void,
        len: usize,
        tag: c_int,
        handle: *mut c_void,
    ) -> Result<*mut c_void, Failure> {
        let Some(mut state) = self.enter() else {
            return Ok(null_mut());
        };
        let state = &mut *state;
        state.check_usable()?;
        let End::Send(connection) = &state.end else {
            return Err(Failure::argument("this comm receives"));
        };
        if len > MESSAGE_BYTES_MAX {
            return Err(Failure::usage(format!(
                "a message of {len} bytes is too large, send it in parts of at most {MESSAGE_BYTES_MAX}"
            )));
        }
        let mut registrations = [NO_REGISTRATION; MAX_RECVS];
        let mut keys = MemoryKeys::default();
        if len > 0 {
            let (id, room) = state.registrations.room(data.addr(), handle)?;
            keys = state.registrations.keys(id);
            if len > room {
                return Err(Failure::argument(format!(
                    "a message of {len} bytes leaves its registered memory after {room}"
                )));
            }
            registrations[0] = id.index;
        }
        if !state.has_room() {
            return Ok(null_mut());
        }
        // SAFETY: the caller's promise; `deregister` and `close` drop the connection where a
        // request still uses the memory.
        let request = unsafe { connection.isend(data.cast(), len, tag, keys) };
        let count = Some(1);
        self.accept(state, request, count, registrations)
    }

    /// Starts a receive into each of `slots`; null if that isn't possible just now.
    ///
    /// # Safety
    /// The memory stays valid, and nobody else writes there, until the request is done, or deregistered, or the comm closed.
    pub(crate) unsafe fn irecv(&self, slots: &[Slot]) -> Result<*mut c_void, Failure> {
        let Some(mut state) = self.enter() else {
            return Ok(null_mut());
        };
        let state = &mut *state;
        state.check_usable()?;
        let connection = state.end.receiving()?;
        let mut buffers = [NO_BUFFER; MAX_RECVS];
        let mut registrations = [NO_REGISTRATION; MAX_RECVS];
        for (i, slot) in slots.iter().enumerate() {
            let mut len = slot.len.min(MESSAGE_BYTES_MAX);
            let mut keys = MemoryKeys::default();
            if len > 0 {
                let (id, room) = state.registrations.room(slot.data.addr(), slot.handle)?;
                // A buffer may be announced larger than it is, if only no message is: the core
                // refuses one that is.
                len = len.min(room);
                registrations[i] = id.index;
                keys = state.registrations.keys(id);
            }
            buffers[i] = RecvBuffer {
                data: slot.data.cast(),
                len,
                tag: slot.tag,
                keys,
            };
        }
        if !state.has_room() {
            return Ok(null_mut());
        }
        // SAFETY: as in `isend`.
        let request = unsafe { connection.irecv(&buffers[..slots.len()]) };
        self.accept(state, request, Some(slots.len()), registrations)
    }

    /// Starts to make what has been received into each of `slots` visible to its GPU; null if there is
    /// nothing to wait for.
    ///
    /// # Safety
    /// The memory stays valid until the request is done, or deregistered, or the comm closed.
    pub(crate) unsafe fn iflush(&self, slots: &[Slot]) -> Result<*mut c_void, Failure> {
        // "Not just now" cannot be said here: a null request is done. The service thread has the state
        // for a moment only.
        let mut state = self.enter_waiting();
        let state = &mut *state;
        state.check_usable()?;
        let connection = state.end.receiving()?;
        let mut buffers = [NO_BUFFER; MAX_RECVS];
        let mut registrations = [NO_REGISTRATION; MAX_RECVS];
        let mut count = 0;
        for slot in slots.iter().filter(|slot| slot.len > 0) {
            let (id, _) = state.registrations.room(slot.data.addr(), slot.handle)?;
            registrations[count] = id.index;
            buffers[count] = RecvBuffer {
                data: slot.data.cast(),
                len: slot.len,
                keys: state.registrations.keys(id),
                ..NO_BUFFER
            };
            count += 1;
        }
        if count == 0 {
            return Ok(null_mut());
        }
        // SAFETY: as in `isend`.
        let request = unsafe { connection.iflush(&buffers[..count]) };
        self.accept(state, request, None, registrations)
    }

    /// `count`: messages of the request, of which a flush has none.
    fn accept(
        &self,
        state: &mut State,
        request: Result<Option<Request>, thalweg::error::Error>,
        count: Option<usize>,
        registrations: [u32; MAX_RECVS],
    ) -> Result<*mut c_void, Failure> {
        let Some(request) = request.inspect_err(|_| state.errored = true)? else {
            return Ok(null_mut());
        };
        let index = state.free.pop().unwrap_or_else(|| {
            state.pending.push(None);
            state.pending.len() - 1
        });
        let is_flush = count.is_none();
        state.flushes += usize::from(is_flush);
        state.pending[index] = Some(Pending {
            request,
            count: count.unwrap_or(0),
            registrations,
            is_flush,
        });
        Ok(std::ptr::from_ref(&self.tokens[index]).cast_mut().cast())
    }

    /// Moves the connection forward and says whether a request is done.
    ///
    /// # Safety
    /// `request` came from [`Comm::isend`] or [`Comm::irecv`] of a comm that isn't closed.
    pub(crate) unsafe fn test(request: NonNull<c_void>) -> Result<Progress, Failure> {
        // SAFETY: a request's pointer points to a token, which lives as long as its comm.
        let token = unsafe { request.cast::<Token>().as_ref() };
        // SAFETY: a token's comm is the one it is a part of.
        let comm = unsafe { &*token.comm };
        let Some(mut state) = comm.enter() else {
            return Ok(Progress::NotYet);
        };
        let state = &mut *state;
        state.check_usable()?;
        let Some(Some(pending)) = state.pending.get(token.index) else {
            return Err(Failure::argument(
                "the request is not outstanding; was it reported done before?",
            ));
        };
        let (count, is_flush) = (pending.count, pending.is_flush);
        // SAFETY: the request is outstanding, its connection lives, and we have the state.
        let result = unsafe { pending.request.test() };
        let done = match result {
            Ok(None) => return Ok(Progress::NotYet),
            Ok(Some(completion)) => Ok(completion),
            Err(error) => Err(error),
        };
        state.pending[token.index] = None;
        state.free.push(token.index);
        state.flushes -= usize::from(is_flush);
        let completion = done.inspect_err(|_| state.errored = true)?;
        let mut sizes = [0; MAX_RECVS];
        for (size, bytes) in sizes.iter_mut().zip(completion.sizes).take(count) {
            *size = c_int::try_from(bytes).map_err(|_| {
                Failure::internal(format!("a message of {bytes} bytes was received"))
            })?;
        }
        Ok(Progress::Done(count, sizes))
    }

    /// The state, for the data path; none while the service thread has it or waits for it.
    fn enter(&self) -> Option<Turn<'_>> {
        // Relaxed: a hint. Who misses it is out again after one call.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.state.try_lock().map(|state| Turn { state })
    }

    /// The state, for calls beside the data path.
    fn enter_waiting(&self) -> Turn<'_> {
        // Relaxed: see `enter`. A thread that tests without a pause would else leave us no gap.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock_spinning();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Turn { state }
    }
}

/// The right to use a comm's state. A panic while it is held puts the connection out of use.
struct Turn<'a> {
    state: TryLockGuard<'a, State>,
}

impl Deref for Turn<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.state.failure = Some(Failure::internal(
                "the connection is out of use since an internal error; restart the job",
            ));
        }
    }
}

impl State {
    fn check_usable(&self) -> Result<(), Failure> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(failure.clone()),
        }
    }

    fn has_room(&self) -> bool {
        let outstanding = self.pending.len() - self.free.len() - self.flushes;
        outstanding < self.requests_max
    }

    /// How many outstanding requests use a registration.
    fn users_of(&self, id: RegistrationId) -> usize {
        self.pending
            .iter()
            .flatten()
            .filter(|pending| pending.registrations.contains(&id.index))
            .count()
    }

    /// Ends the connection because memory in use was deregistered.
    fn close_early(&mut self, region: Region, users: usize) {
        // Also where a panic left it half done: the memory is about to go.
        self.end = End::Closed;
        if self.failure.is_some() {
            return;
        }
        let failure = Failure {
            code: ResultCode::INVALID_USAGE,
            line: format!(
                "{} bytes at {:#x} were deregistered while {users} request(s) used them, so the \
                 connection was closed; test requests until they are done first",
                region.len, region.addr
            ),
        };
        // After an error NCCL cleans up in this order; it knows what happened.
        if !self.errored {
            log::failure(&format!("deregMr: {}", failure.line));
        }
        self.failure = Some(failure);
    }
}

/// The memory that is registered on a connection.
#[derive(Default)]
struct Registrations {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

struct Entry {
    /// Goes up each time the entry is used again, so that an old handle fits no more.
    generation: u32,
    region: Option<Region>,
    memory: Registration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    addr: usize,
    len: usize,
}

/// A registration. What NCCL gets is these numbers in the form of a pointer, never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RegistrationId {
    index: u32,
    generation: u32,
}

impl RegistrationId {
    fn into_raw(self) -> *mut c_void {
        // One more than the index, so that no handle is null.
        without_provenance_mut((self.generation as usize) << 32 | (self.index as usize + 1))
    }

    fn from_raw(handle: *mut c_void) -> Option<Self> {
        let low = u32::try_from(handle.addr() & 0xffff_ffff).ok()?;
        Some(Self {
            index: low.checked_sub(1)?,
            generation: u32::try_from(handle.addr() >> 32).ok()?,
        })
    }
}

impl Registrations {
    fn insert(&mut self, region: Region, memory: Registration) -> Result<RegistrationId, Failure> {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.region = Some(region);
            entry.memory = memory;
            return Ok(RegistrationId {
                index,
                generation: entry.generation,
            });
        }
        let index = u32::try_from(self.entries.len())
            .ok()
            .filter(|&index| index < u32::MAX)
            .ok_or_else(|| Failure::usage("too much memory is registered on one connection"))?;
        self.entries.push(Entry {
            generation: 0,
            region: Some(region),
            memory,
        });
        Ok(RegistrationId {
            index,
            generation: 0,
        })
    }

    /// What a message in this registered memory says of it.
    fn keys(&self, id: RegistrationId) -> MemoryKeys {
        let entry = self.entries.get(id.index as usize);
        entry.map_or_else(MemoryKeys::default, |entry| entry.memory.keys())
    }

    fn remove(&mut self, id: RegistrationId) -> Option<(Region, Registration)> {
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.generation != id.generation {
            return None;
        }
        let region = entry.region.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.index);
        Some((region, std::mem::take(&mut entry.memory)))
    }

    /// The registration behind a handle, and how many bytes of it there are from `addr` on.
    fn room(&self, addr: usize, handle: *mut c_void) -> Result<(RegistrationId, usize), Failure> {
        let id = RegistrationId::from_raw(handle);
        let region = id.and_then(|id| {
            let entry = self.entries.get(id.index as usize)?;
            entry.region.filter(|_| entry.generation == id.generation)
        });
        let (Some(id), Some(region)) = (id, region) else {
            return Err(Failure::argument(
                "the memory handle is not valid on this connection; call regMr first",
            ));
        };
        // Wraps to something huge where `addr` is in front of the region.
        let offset = addr.wrapping_sub(region.addr);
        let room = region.len.checked_sub(offset).ok_or_else(|| {
            Failure::argument(format!(
                "the buffer at {addr:#x} is not in the {} bytes at {:#x} that were registered",
                region.len, region.addr
            ))
        })?;
        Ok((id, room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(addr: usize, len: usize) -> Region {
        Region { addr, len }
    }

    fn insert(all: &mut Registrations, region: Region) -> Result<RegistrationId, Failure> {
        all.insert(region, Registration::default())
    }

    fn removed(removed: Option<(Region, Registration)>) -> Option<Region> {
        removed.map(|(region, _)| region)
    }

    #[test]
    fn a_panic_puts_the_connection_out_of_use() {
        let raw = Comm::open(End::Closed, 4, 0);
        // SAFETY: just opened; closed below.
        let comm = unsafe { Comm::from_raw(raw) }.expect("a comm");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _turn = comm.enter();
            panic!("expected by the test");
        }));
        assert!(panicked.is_err());
        // SAFETY: the connection is closed, so nothing is read.
        let sent = unsafe { comm.isend(null_mut(), 0, 0, null_mut()) };
        assert_eq!(
            sent.map_err(|failure| failure.code),
            Err(ResultCode::INTERNAL_ERROR)
        );
        // It still cleans up.
        // SAFETY: the comm is there.
        let handle = unsafe { comm.register(raw, 8, MemoryKind::Host) }.expect("a handle");
        assert_eq!(comm.deregister(handle), Ok(()));
        // SAFETY: not used afterwards.
        unsafe { Comm::close(raw) };
    }

    #[test]
    fn the_data_path_passes_by_while_the_service_thread_waits() {
        let raw = Comm::open(End::Closed, 4, 0);
        // SAFETY: just opened; closed below.
        let comm = unsafe { Comm::from_raw(raw) }.expect("a comm");
        comm.waiting.store(1, Ordering::Relaxed);
        // SAFETY: the connection is closed, so nothing is read.
        let sent = unsafe { comm.isend(null_mut(), 0, 0, null_mut()) };
        assert_eq!(sent, Ok(null_mut()));
        comm.waiting.store(0, Ordering::Relaxed);
        assert!(comm.enter().is_some());
        let turn = comm.enter();
        assert!(comm.enter().is_none());
        drop(turn);
        // SAFETY: not used afterwards.
        unsafe { Comm::close(raw) };
    }

    #[test]
    fn a_handle_survives_its_way_through_c() {
        for id in [(0, 0), (7, 1), (u32::MAX - 1, u32::MAX)] {
            let id = RegistrationId {
                index: id.0,
                generation: id.1,
            };
            assert!(!id.into_raw().is_null());
            assert_eq!(RegistrationId::from_raw(id.into_raw()), Some(id));
        }
        assert_eq!(RegistrationId::from_raw(null_mut()), None);
    }

    #[test]
    fn an_old_handle_fits_no_more() {
        let mut all = Registrations::default();
        let first = insert(&mut all, region(0x1000, 16)).expect("there is room");
        assert_eq!(removed(all.remove(first)), Some(region(0x1000, 16)));
        assert!(all.remove(first).is_none());
        let second = insert(&mut all, region(0x2000, 16)).expect("there is room");
        assert_eq!(first.index, second.index);
        assert!(all.room(0x1000, first.into_raw()).is_err());
        assert!(all.remove(first).is_none());
        assert_eq!(all.room(0x2000, second.into_raw()), Ok((second, 16)));
        assert_eq!(removed(all.remove(second)), Some(region(0x2000, 16)));
    }

    #[test]
    fn a_buffer_must_lie_in_what_was_registered() {
        let mut all = Registrations::default();
        let _other = insert(&mut all, region(0x9000, 4096)).expect("there is room");
        let handle = all
            .insert(region(0x1000, 256), Registration::default())
            .expect("there is room")
            .into_raw();
        let room = |addr| all.room(addr, handle).ok().map(|(_, room)| room);
        assert_eq!(room(0x1000), Some(256));
        assert_eq!(room(0x10ff), Some(1));
        assert_eq!(room(0x1100), Some(0));
        assert_eq!(room(0x1101), None);
        assert_eq!(room(0xfff), None);
        assert_eq!(room(0), None);
        assert_eq!(room(usize::MAX), None);
        for garbage in [0, 1 << 32, 99, usize::MAX] {
            assert!(all.room(0x1000, without_provenance_mut(garbage)).is_err());
        }
    }
}
