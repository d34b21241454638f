//! Queue pairs in memory, for what no real adapter does when a test asks: reliable connections whose
//! every step (a piece of a payload in its place, an acknowledgement, a refusal) is taken one at a
//! time, in an order drawn from a seed, and which fail where and how the test wants.
//!
//! As on the wire, requests of a queue pair are carried out in their order; what they read is read
//! while they are, in pieces; a write needs the key of a range that holds it, and takes a receive
//! once all of it is there; a message needs a receive before its first byte. Who finds no receive
//! waits and asks again. An acknowledgement comes later than what it acknowledges, or never. A queue
//! pair that fails completes everything that it was given, and writes nothing any more.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

use thalweg::clock::Timestamp;
use thalweg::transport::verbs::Part;
use thalweg::transport::verbs::channel::{Pair, Role, Slab};
use thalweg::transport::verbs::sys::{
    Completion, Depths, Done, Operation, Piece, REQUESTS_MAX, Refused, Request, SysError,
};

/// What failed requests say, as libibverbs numbers it (`enum ibv_wc_status`).
pub const LOCAL_LENGTH: u32 = 1;
pub const LOCAL_PROTECTION: u32 = 4;
pub const FLUSHED: u32 = 5;
pub const REMOTE_INVALID_REQUEST: u32 = 9;
pub const REMOTE_ACCESS: u32 = 10;
pub const RETRIES_EXCEEDED: u32 = 12;

/// Bytes that are put in their place at once, at most.
const PIECE_MAX: u32 = 8 << 10;
/// Kind of an eager message's frame: the only message that counts as data.
const EAGER: u8 = 2;

/// `SplitMix64`, as the simulator has it: the same run from the same seed everywhere.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// A request found no receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// A chunk or an eager message.
    pub is_data: bool,
    /// Receives that control frames had taken by then and that were not posted again.
    pub taken_by_control: usize,
}

#[derive(Debug)]
struct Given {
    request: Request,
    /// What was handed over with it.
    inline: Option<Box<[u8]>>,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct State {
    peer: usize,
    role: Role,
    inline: u32,
    failed: bool,
    freed: bool,
    requests: VecDeque<Given>,
    /// Bytes of the first request that are in their place.
    placed: u32,
    waits: bool,
    /// Carried out, by the step at which the acknowledgement may come.
    unacknowledged: VecDeque<(u64, u64)>,
    /// Requests that have not been polled.
    outstanding: u32,
    receives: VecDeque<(u64, Piece)>,
    /// Their names.
    posted: BTreeSet<u64>,
    /// Receives that the peer has used, and whether for data, until they are posted again.
    taken: BTreeMap<u64, bool>,
    completions: VecDeque<(Completion, bool)>,
    slab: Option<u32>,
    silent: bool,
    acknowledgements_lost: bool,
    leaky: bool,
    slow: u32,
    overrun: bool,
    post_fails: Option<usize>,
    /// A call to post has failed: who made it cannot know what became of its requests.
    refused: bool,
    post_receive_fails: u32,
    /// It can leave from another port than it began with, and leaves from this one.
    source_port: Option<u16>,
    /// Its adapter stamps completions, by a clock that is so much ahead, in ns.
    clock: Option<i64>,
    /// Its device is gone: it does nothing any more, and says nothing of it.
    vanished: bool,
    written: u64,
}

impl State {
    fn is_dead(&self) -> bool {
        self.failed || self.freed || self.vanished
    }

    fn complete(&mut self, number: usize, id: u64, done: Done, is_request: bool) {
        let completion = Completion {
            id,
            queue_pair: u32::try_from(number).unwrap(),
            done,
            stamp: self.clock.map(|_| Timestamp::now().as_nanos()),
        };
        assert!(
            self.completions.len() < self.role.completions() as usize,
            "the completion queue of {number} overruns"
        );
        self.completions.push_back((completion, is_request));
    }

    /// Completes all that it was given: the first request says why.
    fn fail(&mut self, number: usize, status: u32) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        let unacknowledged = std::mem::take(&mut self.unacknowledged);
        let requests = std::mem::take(&mut self.requests);
        let ids = unacknowledged.into_iter().map(|(id, _)| id);
        let ids = ids.chain(requests.into_iter().map(|given| given.request.id));
        let mut status = status;
        for id in ids.collect::<Vec<_>>() {
            self.complete(number, id, Done::Failed(status), true);
            status = FLUSHED;
        }
        for (id, _) in std::mem::take(&mut self.receives) {
            self.complete(number, id, Done::Failed(FLUSHED), false);
        }
    }
}

/// Memory that a key names; where it begins is not known before it is used, for a slab.
#[derive(Debug, Clone, Copy)]
struct Region {
    addr: Option<u64>,
    bytes: u64,
}

impl Region {
    fn holds(self, addr: u64, bytes: u32) -> bool {
        self.addr
            .is_some_and(|start| addr >= start && addr + u64::from(bytes) <= start + self.bytes)
    }
}

#[derive(Debug)]
struct Inner {
    random: Random,
    step: u64,
    pairs: Vec<State>,
    live: Vec<usize>,
    regions: BTreeMap<u32, Region>,
    next_key: u32,
    waits: Vec<Wait>,
    /// Reads and writes of memory that is not registered (any more).
    strays: u32,
    /// Steps that an acknowledgement takes, at most.
    delay: u32,
    /// Looks find less than there is.
    shy: bool,
    drives: bool,
    inline: u32,
    /// Numbers of queue pairs in the order in which they were freed.
    freed: Vec<usize>,
}

thread_local! {
    /// Queue pairs that this thread has freed.
    pub static FREED: Cell<usize> = const { Cell::new(0) };
}

/// The network, its adapters and their memory.
#[derive(Debug, Clone)]
pub struct Fabric(Rc<RefCell<Inner>>);

impl Fabric {
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            random: Random(seed),
            step: 0,
            pairs: Vec::new(),
            live: Vec::new(),
            regions: BTreeMap::new(),
            next_key: 0x1000,
            waits: Vec::new(),
            strays: 0,
            delay: 8,
            shy: false,
            drives: false,
            inline: 128,
            freed: Vec::new(),
        })))
    }

    fn inner(&self) -> RefMut<'_, Inner> {
        self.0.borrow_mut()
    }

    /// Acknowledgements take so many steps at most.
    pub fn delay(&self, steps: u32) {
        self.inner().delay = steps;
    }

    /// Looks find less than there is, at random.
    pub fn is_shy(&self, shy: bool) {
        self.inner().shy = shy;
    }

    /// Queue pairs that are made from now on are handed so many bytes with a request.
    pub fn inline(&self, bytes: u32) {
        self.inner().inline = bytes;
    }

    /// Two ends of a connection.
    pub fn connect(&self, roles: (Role, Role)) -> (MockPair, MockPair) {
        let first = self.inner().pairs.len();
        self.add(&[(first, first + 1, roles.0), (first + 1, first, roles.1)]);
        (self.pair(first), self.pair(first + 1))
    }

    /// A queue pair that is connected to itself.
    pub fn connect_to_itself(&self) -> MockPair {
        let number = self.inner().pairs.len();
        self.add(&[(number, number, Role::Sender)]);
        self.pair(number)
    }

    fn pair(&self, number: usize) -> MockPair {
        MockPair {
            fabric: self.clone(),
            number,
        }
    }

    fn add(&self, pairs: &[(usize, usize, Role)]) {
        let mut inner = self.inner();
        let inline = inner.inline;
        for &(number, peer, role) in pairs {
            inner.pairs.push(State {
                peer,
                role,
                inline,
                failed: false,
                freed: false,
                requests: VecDeque::new(),
                placed: 0,
                waits: false,
                unacknowledged: VecDeque::new(),
                outstanding: 0,
                receives: VecDeque::new(),
                posted: BTreeSet::new(),
                taken: BTreeMap::new(),
                completions: VecDeque::new(),
                slab: None,
                silent: false,
                acknowledgements_lost: false,
                leaky: false,
                slow: 1,
                overrun: false,
                post_fails: None,
                refused: false,
                post_receive_fails: 0,
                source_port: None,
                clock: None,
                vanished: false,
                written: 0,
            });
            inner.live.push(number);
        }
    }

    /// Memory whose place is known from the start.
    pub fn slab_at_once(&self) -> impl FnOnce(usize) -> Result<Slab, SysError> + use<> {
        let fabric = self.clone();
        move |bytes| {
            let region = Region {
                addr: None,
                bytes: bytes as u64,
            };
            let key = fabric.region(region);
            let slab = Slab::new(bytes, key).expect("memory");
            let addr = Some(slab.start() as u64);
            fabric
                .inner()
                .regions
                .insert(key, Region { addr, ..region });
            Ok(slab)
        }
    }

    /// Registers memory; its key serves both ends.
    pub fn register(&self, addr: *const u8, bytes: usize) -> u32 {
        self.region(Region {
            addr: Some(addr as u64),
            bytes: bytes as u64,
        })
    }

    pub fn deregister(&self, key: u32) {
        assert!(self.inner().regions.remove(&key).is_some());
    }

    fn region(&self, region: Region) -> u32 {
        let mut inner = self.inner();
        // Neither in turn nor ever again.
        let key = inner.next_key + inner.random.below(64);
        inner.next_key = key + 1;
        inner.regions.insert(key, region);
        key
    }

    /// Memory for a channel's messages. Its first receive is at its start, which says where it is.
    pub fn slab(&self) -> impl FnOnce(usize) -> Result<Slab, SysError> + use<> {
        let fabric = self.clone();
        move |bytes| {
            let region = Region {
                addr: None,
                bytes: bytes as u64,
            };
            let slab = Slab::new(bytes, fabric.region(region));
            Ok(slab.expect("memory"))
        }
    }

    /// One thing happens somewhere; says whether anything could.
    pub fn step(&self) -> bool {
        let mut inner = self.inner();
        inner.step += 1;
        let count = u32::try_from(inner.live.len()).unwrap();
        if count == 0 {
            return false;
        }
        let first = inner.random.below(count);
        for turn in 0..count {
            let number = inner.live[((first + turn) % count) as usize];
            let slow = inner.pairs[number].slow;
            if slow > 1 && inner.random.below(slow) != 0 {
                continue;
            }
            let acknowledges = inner.random.below(2) == 0;
            if (acknowledges && inner.acknowledge(number))
                || inner.carry_out(number)
                || (!acknowledges && inner.acknowledge(number))
            {
                return true;
            }
        }
        false
    }

    /// Things happen whenever somebody looks: for what looks until something has happened.
    pub fn drives_itself(&self, drives: bool) {
        self.inner().drives = drives;
    }

    /// Where the memory for messages of a queue pair is.
    pub fn slab_at(&self, number: usize) -> u64 {
        let inner = self.inner();
        let key = inner.pairs[number].slab.unwrap();
        inner.regions[&key].addr.unwrap()
    }

    pub fn run(&self, steps: u32) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// Until nothing more happens by itself.
    pub fn settle(&self) {
        let mut idle = 0;
        while idle <= 64 + self.inner().delay {
            idle = if self.step() { 0 } else { idle + 1 };
        }
    }

    /// Requests that found no receive.
    pub fn waits(&self) -> Vec<Wait> {
        self.inner().waits.clone()
    }

    /// Reads and writes of memory that was not registered, or not any more.
    pub fn strays(&self) -> u32 {
        self.inner().strays
    }

    /// Queue pairs that are there.
    pub fn live(&self) -> usize {
        self.inner().live.len()
    }

    /// Those that are gone, in the order in which they went.
    pub fn freed(&self) -> Vec<usize> {
        self.inner().freed.clone()
    }
}

impl Inner {
    fn holds(&self, key: u32, addr: u64, bytes: u32) -> bool {
        bytes == 0
            || self
                .regions
                .get(&key)
                .is_some_and(|region| region.holds(addr, bytes))
    }

    /// The first request is refused, which acknowledges those before it.
    fn refuse(&mut self, number: usize, status: u32) -> bool {
        let peer = self.pairs[number].peer;
        for (_, due) in &mut self.pairs[number].unacknowledged {
            *due = 0;
        }
        self.acknowledge(number);
        self.pairs[number].fail(number, status);
        self.pairs[peer].fail(peer, FLUSHED);
        true
    }

    /// The first request goes a piece further.
    fn carry_out(&mut self, number: usize) -> bool {
        let peer = self.pairs[number].peer;
        let leaks = self.pairs[peer].leaky;
        let this = &self.pairs[number];
        if this.is_dead() || this.silent || (self.pairs[peer].is_dead() && !leaks) {
            return false;
        }
        let Some(Given { request, inline }) = this.requests.front() else {
            return false;
        };
        let (request, placed) = (*request, this.placed);
        let local = request.local;
        if inline.is_none() && !self.holds(local.key, local.addr, local.bytes) {
            self.strays += 1;
            self.pairs[number].fail(number, LOCAL_PROTECTION);
            return true;
        }
        let source = inline
            .as_ref()
            .map_or(local.addr, |bytes| bytes.as_ptr() as u64);
        let receive = self.pairs[peer].receives.front().copied();
        let target = match (request.operation, receive) {
            (
                Operation::Write { addr, key, .. }
                | Operation::Put { addr, key }
                | Operation::Get { addr, key },
                _,
            ) => {
                if !self.holds(key, addr, local.bytes) {
                    self.strays += 1;
                    return self.refuse(number, REMOTE_ACCESS);
                }
                addr
            }
            (Operation::Send, None) => return self.wait(number, &request, source),
            (Operation::Send, Some((id, buffer))) => {
                if local.bytes > buffer.bytes {
                    let to = &mut self.pairs[peer];
                    to.receives.pop_front();
                    to.complete(peer, id, Done::Failed(LOCAL_LENGTH), false);
                    return self.refuse(number, REMOTE_INVALID_REQUEST);
                }
                assert!(
                    self.holds(buffer.key, buffer.addr, buffer.bytes),
                    "a receive outside its memory"
                );
                buffer.addr
            }
        };
        let rest = local.bytes - placed;
        let piece = match self.random.below(4) {
            0 if rest > 1 => 1 + self.random.below(rest.min(PIECE_MAX)),
            _ => rest,
        };
        let (from, to) = match request.operation {
            Operation::Get { .. } => (target, source),
            _ => (source, target),
        };
        // SAFETY: both ranges are registered, or were handed over with the request, and their owners
        // keep them as long as they are: that they do is what is tested.
        unsafe {
            std::ptr::copy(
                (from + u64::from(placed)) as *const u8,
                (to + u64::from(placed)) as *mut u8,
                piece as usize,
            );
        }
        self.pairs[number].placed = placed + piece;
        self.pairs[peer].written += u64::from(piece);
        if piece < rest {
            return true;
        }
        if let Operation::Put { .. } | Operation::Get { .. } = request.operation {
            // Nobody is told.
            self.carried_out(number, request.id);
            return true;
        }
        let Some((id, _)) = receive.filter(|_| !self.pairs[peer].is_dead()) else {
            return self.wait(number, &request, source) || piece > 0;
        };
        let is_data = is_data(&request, source);
        let done = match request.operation {
            Operation::Write { immediate, .. } => Done::Written(local.bytes, immediate),
            _ => Done::Received(local.bytes),
        };
        let to = &mut self.pairs[peer];
        to.receives.pop_front();
        to.posted.remove(&id);
        to.taken.insert(id, is_data);
        to.complete(peer, id, done, false);
        self.carried_out(number, request.id);
        true
    }

    /// The first request is in its place, and will be acknowledged.
    fn carried_out(&mut self, number: usize, id: u64) {
        let due = self.step + u64::from(self.random.below(self.delay + 1));
        let this = &mut self.pairs[number];
        this.requests.pop_front();
        this.placed = 0;
        this.waits = false;
        this.unacknowledged.push_back((id, due));
    }

    fn wait(&mut self, number: usize, request: &Request, source: u64) -> bool {
        if !std::mem::replace(&mut self.pairs[number].waits, true) {
            let taken = &self.pairs[self.pairs[number].peer].taken;
            let taken_by_control = taken.values().filter(|&&is_data| !is_data).count();
            self.waits.push(Wait {
                is_data: is_data(request, source),
                taken_by_control,
            });
        }
        false
    }

    fn acknowledge(&mut self, number: usize) -> bool {
        let peer = self.pairs[number].peer;
        let lost = self.pairs[peer].silent;
        let now = self.step;
        let this = &mut self.pairs[number];
        if this.is_dead() || this.acknowledgements_lost || lost {
            return false;
        }
        let mut any = false;
        while this.unacknowledged.front().is_some_and(|u| u.1 <= now) {
            if let Some((id, _)) = this.unacknowledged.pop_front() {
                this.complete(number, id, Done::Sent, true);
                any = true;
            }
        }
        any
    }
}

fn is_data(request: &Request, source: u64) -> bool {
    match request.operation {
        Operation::Write { .. } => true,
        Operation::Put { .. } | Operation::Get { .. } => false,
        // SAFETY: the message is there as long as its request is.
        Operation::Send => request.local.bytes > 0 && unsafe { *(source as *const u8) } == EAGER,
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct MockPair {
    fabric: Fabric,
    number: usize,
}

impl MockPair {
    fn state(&self) -> RefMut<'_, State> {
        let number = self.number;
        RefMut::map(self.fabric.inner(), |inner| &mut inner.pairs[number])
    }

    pub fn number(&self) -> usize {
        self.number
    }

    /// The first request that has not been acknowledged fails so, and what follows is given up.
    pub fn fail(&self, status: u32) {
        self.state().fail(self.number, status);
    }

    /// Nothing that it sends arrives.
    pub fn set_silent(&self, silent: bool) {
        self.state().silent = silent;
    }

    /// What it is acknowledged gets lost.
    pub fn lose_acknowledgements(&self, lost: bool) {
        self.state().acknowledgements_lost = lost;
    }

    /// What arrives is written even after it has failed or is gone: no adapter does that.
    pub fn set_leaky(&self) {
        self.state().leaky = true;
    }

    /// It does something once in so many turns.
    pub fn set_slow(&self, factor: u32) {
        self.state().slow = factor.max(1);
    }

    /// Its device is taken out: nothing of it happens any more, and nothing is told.
    pub fn vanish(&self) {
        self.state().vanished = true;
    }

    /// It can leave from another port than this one.
    pub fn leaves_from(&self, port: u16) {
        self.state().source_port = Some(port);
    }

    /// Its adapter stamps completions from now on, by a clock that seems to be so much ahead, in ns.
    pub fn stamps(&self, ahead: i64) {
        self.state().clock = Some(ahead);
    }

    pub fn source_port(&self) -> Option<u16> {
        self.state().source_port
    }

    /// Its completion queue has overrun: what is in it cannot be had any more.
    pub fn overrun(&self) {
        let mut state = self.state();
        state.overrun = true;
        state.completions.clear();
    }

    /// The next call to post fails after so many requests of it.
    pub fn fail_post(&self, accepted: usize) {
        self.state().post_fails = Some(accepted);
    }

    /// So many receives are refused.
    pub fn fail_post_receive(&self, count: u32) {
        self.state().post_receive_fails = count;
    }

    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// Receives that are posted.
    pub fn receives(&self) -> usize {
        self.state().receives.len()
    }

    /// Requests that were given and have not been polled.
    pub fn outstanding(&self) -> u32 {
        self.state().outstanding
    }

    /// Completions that wait to be polled.
    pub fn completions(&self) -> usize {
        self.state().completions.len()
    }

    /// Whether a call to post has failed.
    pub fn was_refused(&self) -> bool {
        self.state().refused
    }

    /// Bytes that the peer has put in their place here.
    pub fn written(&self) -> u64 {
        self.state().written
    }

    /// Whether something of it has not been acknowledged and never will be.
    pub fn is_stuck(&self) -> bool {
        let inner = self.fabric.inner();
        let this = &inner.pairs[self.number];
        let peer = &inner.pairs[this.peer];
        let waits = !this.requests.is_empty() && (this.silent || peer.is_dead());
        let unheard =
            !this.unacknowledged.is_empty() && (this.acknowledgements_lost || peer.silent);
        !this.failed && (waits || unheard)
    }
}

fn refusal(call: &'static str, code: i32) -> SysError {
    let error = io::Error::from_raw_os_error(code);
    SysError::Call { call, error }
}

const ENOMEM: i32 = 12;
const EIO: i32 = 5;
const EOPNOTSUPP: i32 = 95;

impl Pair for MockPair {
    unsafe fn post(&mut self, requests: &[Request]) -> Result<(), Refused> {
        assert!(requests.len() <= REQUESTS_MAX, "handed over in parts");
        let number = self.number;
        let mut state = self.state();
        let mut accepted = state.post_fails.take().unwrap_or(usize::MAX);
        for (taken, request) in requests.iter().enumerate() {
            let refused = |code| Refused {
                taken,
                error: refusal("ibv_post_send", code),
            };
            if accepted == 0 {
                state.refused = true;
                return Err(refused(EIO));
            }
            accepted = accepted.saturating_sub(1);
            if state.outstanding >= state.role.depths().send {
                return Err(refused(ENOMEM));
            }
            state.outstanding += 1;
            if state.failed {
                state.complete(number, request.id, Done::Failed(FLUSHED), true);
                continue;
            }
            let local = request.local;
            let goes_along =
                matches!(request.operation, Operation::Send) && local.bytes <= state.inline;
            let inline = goes_along.then(|| {
                // SAFETY: the caller's promise.
                unsafe { std::slice::from_raw_parts(local.addr as *const u8, local.bytes as usize) }
                    .into()
            });
            state.requests.push_back(Given {
                request: *request,
                inline,
            });
        }
        Ok(())
    }

    unsafe fn post_receive(&mut self, id: u64, buffer: Piece) -> Result<(), SysError> {
        let number = self.number;
        let mut inner = self.fabric.inner();
        if let Some(region) = inner.regions.get_mut(&buffer.key) {
            region.addr.get_or_insert(buffer.addr);
        }
        let state = &mut inner.pairs[number];
        if state.post_receive_fails > 0 {
            state.post_receive_fails -= 1;
            return Err(refusal("ibv_post_recv", EIO));
        }
        state.slab.get_or_insert(buffer.key);
        let Depths { receive, .. } = state.role.depths();
        if state.receives.len() >= receive as usize {
            return Err(refusal("ibv_post_recv", ENOMEM));
        }
        assert!(state.posted.insert(id), "receive {id} is posted twice");
        state.taken.remove(&id);
        if state.failed {
            state.complete(number, id, Done::Failed(FLUSHED), false);
        } else {
            state.receives.push_back((id, buffer));
        }
        Ok(())
    }

    fn poll(&mut self, taken: &mut Vec<Completion>) -> Result<(), SysError> {
        let drives = self.fabric.inner().drives;
        if drives {
            self.fabric.run(4);
        }
        let mut inner = self.fabric.inner();
        let shy = inner.shy;
        let count = inner.pairs[self.number].completions.len().min(16);
        let count = if shy {
            inner.random.below(u32::try_from(count).unwrap() + 1) as usize
        } else {
            count
        };
        let state = &mut inner.pairs[self.number];
        if state.overrun {
            return Err(refusal("ibv_poll_cq", EIO));
        }
        for (completion, is_request) in state.completions.drain(..count) {
            state.outstanding -= u32::from(is_request);
            taken.push(completion);
        }
        Ok(())
    }

    fn time(&mut self, stamp: u64, _now: Timestamp) -> Option<Timestamp> {
        let ahead = self.state().clock?;
        Some(Timestamp::from_nanos(stamp.checked_add_signed(ahead)?))
    }

    fn silence(&mut self) -> Result<(), SysError> {
        if self.state().vanished {
            return Err(refusal("ibv_modify_qp", EIO));
        }
        self.fail(FLUSHED);
        Ok(())
    }

    fn set_source_port(&mut self, port: u16) -> Result<(), SysError> {
        let mut state = self.state();
        if state.source_port.is_none() {
            return Err(refusal("mlx5dv_modify_qp_udp_sport", EOPNOTSUPP));
        }
        state.source_port = Some(port);
        Ok(())
    }

    fn has(&self, part: Part) -> bool {
        part == Part::QueuePair(u32::try_from(self.number).unwrap())
    }

    fn arm(&mut self) -> Result<(), SysError> {
        Ok(())
    }

    fn fd(&self) -> RawFd {
        -1
    }

    fn inline(&self) -> u32 {
        self.state().inline
    }
}

impl Drop for MockPair {
    fn drop(&mut self) {
        let number = self.number;
        let mut inner = self.fabric.inner();
        inner.live.retain(|&live| live != number);
        inner.freed.push(number);
        FREED.set(FREED.get() + 1);
        let state = &mut inner.pairs[number];
        state.freed = true;
        let State {
            failed,
            vanished,
            outstanding,
            slab,
            ..
        } = *state;
        let knows = !(state.overrun || state.refused || vanished);
        if let Some(key) = slab {
            inner.regions.remove(&key);
        }
        drop(inner);
        if !std::thread::panicking() {
            assert!(failed || vanished, "{number} is freed before it is silent");
            assert!(
                outstanding == 0 || !knows,
                "{number} is freed with {outstanding} requests whose end nobody has seen"
            );
        }
    }
}
