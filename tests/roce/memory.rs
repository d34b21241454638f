//! Registered memory. No GPU is here: the host's memory stands in for one's, registered as such, and no
//! processor can touch it while it does.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::slice;
use std::thread::sleep;
use std::time::{Duration, Instant};

use thalweg::error::Error;
use thalweg::session::{
    Completion, DmaBuf, MAX_RECVS, MemoryKind, RecvBuffer, Registrar, Registration, Request,
};
use thalweg::transport::verbs::sys::{Access, Device};

use super::sessions::{DEADLINE, Pair, link, pattern, resources};

/// What a request ends with.
fn finish(request: Request) -> Result<Completion, Error> {
    let begun = Instant::now();
    loop {
        // SAFETY: its connection is there, and it is not asked again once it has ended.
        if let Some(done) = unsafe { request.test() }? {
            return Ok(done);
        }
        assert!(begun.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
}

/// Whether a request has ended within a moment.
fn ends_by_itself(request: Request) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(100) {
        // SAFETY: as in `finish`.
        if unsafe { request.test() }.unwrap().is_some() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// Memory that no processor may touch while it is a GPU's: pages that are mapped without any right, once
/// they are registered. The adapter gets to them all the same.
struct Area {
    start: *mut u8,
    bytes: usize,
    is_gpu: bool,
    memory: Registration,
}

impl Area {
    fn new(registrar: &Registrar, bytes: usize, kind: MemoryKind) -> Self {
        let bytes = bytes.next_multiple_of(4096);
        let (rights, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: new pages, wherever there is room.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let start = start.cast::<u8>();
        // SAFETY: dropped before they are unmapped.
        let memory = unsafe { registrar.register(start, bytes, kind) }.unwrap();
        let this = Self {
            start,
            bytes,
            is_gpu: kind.is_gpu(),
            memory,
        };
        this.allow(!this.is_gpu);
        this
    }

    fn allow(&self, access: bool) {
        let rights = if access {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_NONE
        };
        // SAFETY: the area's own pages.
        let changed = unsafe { libc::mprotect(self.start.cast(), self.bytes, rights) };
        assert_eq!(changed, 0);
    }

    /// What the GPU sees and does, while nothing is under way.
    fn by_gpu<T>(&mut self, look: impl FnOnce(&mut [u8]) -> T) -> T {
        self.allow(true);
        // SAFETY: the area's own pages, and nobody else's just now.
        let outcome = look(unsafe { slice::from_raw_parts_mut(self.start, self.bytes) });
        self.allow(!self.is_gpu);
        outcome
    }

    fn fill(&mut self, data: &[u8]) {
        self.by_gpu(|bytes| bytes[..data.len()].copy_from_slice(data));
    }

    fn clear(&mut self) {
        self.by_gpu(|bytes| bytes.fill(0xaa));
    }

    /// Whether this is there, and nothing else.
    fn holds(&mut self, data: &[u8]) -> bool {
        self.by_gpu(|bytes| {
            let (message, rest) = bytes.split_at(data.len());
            message == data && rest.iter().all(|&byte| byte == 0xaa)
        })
    }

    fn buffer(&self) -> RecvBuffer {
        RecvBuffer {
            data: self.start,
            len: self.bytes,
            tag: 7,
            keys: self.memory.keys(),
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        self.memory = Registration::default();
        // SAFETY: the area's own pages, which are not registered any more.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

fn of_sender(pair: &Pair, bytes: usize, kind: MemoryKind) -> Area {
    Area::new(&pair.send.registrar(), bytes, kind)
}

fn of_receiver(pair: &Pair, bytes: usize, kind: MemoryKind) -> Area {
    Area::new(&pair.recv.registrar(), bytes, kind)
}

fn isend(pair: &Pair, from: &Area, len: usize) -> Request {
    // SAFETY: every test keeps its areas until the request has ended.
    let request = unsafe { pair.send.isend(from.start, len, 7, from.memory.keys()) };
    request.unwrap().unwrap()
}

fn irecv(pair: &Pair, into: &Area) -> Request {
    // SAFETY: as above.
    unsafe { pair.recv.irecv(&[into.buffer()]) }
        .unwrap()
        .unwrap()
}

fn buffers(of: &[&Area]) -> Vec<RecvBuffer> {
    of.iter().map(|area| area.buffer()).collect()
}

fn flush(pair: &Pair, of: &[&Area]) -> Option<Result<Completion, Error>> {
    // SAFETY: as above.
    unsafe { pair.recv.iflush(&buffers(of)) }
        .unwrap()
        .map(finish)
}

/// A message from one to the other, flushed at the end.
fn moves(pair: &Pair, from: &mut Area, into: &mut Area, len: usize) {
    let data = pattern(len, len);
    from.fill(&data);
    into.clear();
    let receive = irecv(pair, into);
    let send = isend(pair, from, len);
    let (mut received, mut is_sent) = (None, false);
    let begun = Instant::now();
    while received.is_none() || !is_sent {
        // SAFETY: none is asked again once it has ended.
        unsafe {
            received = received.or_else(|| receive.test().unwrap());
            is_sent = is_sent || send.test().unwrap().is_some();
        }
        assert!(begun.elapsed() < DEADLINE, "{len}: {:?}", pair.lines);
        std::thread::yield_now();
    }
    assert_eq!(received.unwrap().sizes[0], len);
    let flushed = flush(pair, &[into]);
    assert_eq!(flushed.is_some(), into.is_gpu);
    assert_eq!(flushed.map_or(0, |done| done.unwrap().count), 0);
    assert!(into.holds(&data), "{len}");
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn messages_go_from_and_to_gpus_without_a_processor() {
    const ROOM: usize = (1 << 20) + 64;
    let pair = Pair::over(&[0, 1], &[]);
    for (from, to) in [(0, 1), (1, 0), (1, 1), (0, 0)] {
        let kinds = [MemoryKind::Host, MemoryKind::Gpu];
        let mut from = of_sender(&pair, ROOM, kinds[from]);
        let mut into = of_receiver(&pair, ROOM, kinds[to]);
        for len in [0, 1, 8, 4096, 4097, 65_537, 1 << 20] {
            for _ in 0..3 {
                moves(&pair, &mut from, &mut into, len);
            }
        }
    }
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_small_message_that_came_first_is_brought_to_the_gpu() {
    let pair = Pair::over(&[0], &[]);
    let mut from = of_sender(&pair, 4096, MemoryKind::Host);
    let mut into = of_receiver(&pair, 8192, MemoryKind::Gpu);
    let data = pattern(1, 4096);
    from.fill(&data);
    into.clear();
    // It is sent at once: the sender knows of no GPU.
    finish(isend(&pair, &from, 4096)).unwrap();
    sleep(Duration::from_millis(50));
    assert_eq!(finish(irecv(&pair, &into)).unwrap().sizes[0], 4096);
    assert!(into.holds(&data));
    flush(&pair, &[&into]).unwrap().unwrap();
    // A message that is in a GPU is sent by nobody's hands but the adapter's.
    let mut from = of_sender(&pair, 4096, MemoryKind::Gpu);
    let data = pattern(2, 100);
    from.fill(&data);
    into.clear();
    let send = isend(&pair, &from, 100);
    assert!(!ends_by_itself(send), "nobody has a place for it");
    assert_eq!(finish(irecv(&pair, &into)).unwrap().sizes[0], 100);
    finish(send).unwrap();
    assert!(into.holds(&data));
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_grouped_receive_is_flushed_whole_and_the_host_not_at_all() {
    let pair = Pair::over(&[0, 1], &[]);
    let gpus: Vec<_> = (0..MAX_RECVS - 1)
        .map(|_| of_receiver(&pair, 5000, MemoryKind::Gpu))
        .collect();
    let host = of_receiver(&pair, 5000, MemoryKind::Host);
    let mut all: Vec<&Area> = gpus.iter().collect();
    all.push(&host);
    for _ in 0..20 {
        flush(&pair, &all).unwrap().unwrap();
    }
    assert!(flush(&pair, &[&host]).is_none());
    // Many at once.
    // SAFETY: the buffers stay until all have ended.
    let start = || unsafe { pair.recv.iflush(&buffers(&all)) };
    let requests: Vec<_> = (0..32).map(|_| start().unwrap().unwrap()).collect();
    let error = start().unwrap_err().to_string();
    assert!(error.contains("more than 32 flushes"), "{error}");
    for request in requests {
        finish(request).unwrap();
    }
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_flush_that_fails_is_one_error_and_the_next_one_works() {
    let pair = Pair::over(&[0], &[]);
    let good = of_receiver(&pair, 5000, MemoryKind::Gpu);
    flush(&pair, &[&good]).unwrap().unwrap();
    let mut wrong = of_receiver(&pair, 5000, MemoryKind::Gpu);
    let stale = buffers(&[&wrong]);
    wrong.memory = Registration::default();
    // SAFETY: nothing is registered there any more.
    let request = unsafe { pair.recv.iflush(&stale) }.unwrap().unwrap();
    let error = finish(request).unwrap_err().to_string();
    assert!(
        error.contains("what has come cannot be flushed to a GPU over rxeb0:1: "),
        "{error}"
    );
    assert!(pair.told("the queue pair of rxeb0:1 with itself failed"));
    for _ in 0..5 {
        flush(&pair, &[&good]).unwrap().unwrap();
    }
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_port_that_goes_takes_no_flush_with_it() {
    const ROOM: usize = 1 << 20;
    let pair = Pair::over(&[0, 1], &[]);
    let mut from = of_sender(&pair, ROOM, MemoryKind::Gpu);
    let mut into = of_receiver(&pair, ROOM, MemoryKind::Gpu);
    for _ in 0..4 {
        moves(&pair, &mut from, &mut into, ROOM);
    }
    link(1, false);
    for _ in 0..8 {
        moves(&pair, &mut from, &mut into, ROOM);
    }
    link(1, true);
    for _ in 0..4 {
        moves(&pair, &mut from, &mut into, ROOM);
    }
}

/// What the devices hold, once paths have come up and what earlier tests held has gone.
fn settled() -> Vec<(String, u64)> {
    let begun = Instant::now();
    let (mut held, mut since) = (resources(), Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        assert!(begun.elapsed() < DEADLINE);
        sleep(Duration::from_millis(50));
        let now = resources();
        if now != held {
            (held, since) = (now, Instant::now());
        }
    }
    held
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn memory_is_registered_once_and_until_its_last_user_has_left() {
    let before = settled();
    {
        let more = [("THALWEG_RELAXED_ORDERING", "on"), ("THALWEG_PATHS", "2")];
        let pair = Pair::over(&[0, 1], &more);
        let mut bytes = vec![0u8; 100_000];
        let registrar = pair.recv.registrar();
        let mut register = |len: usize, kind| {
            // SAFETY: dropped before the bytes are.
            unsafe { registrar.register(bytes.as_mut_ptr(), len, kind) }.unwrap()
        };
        let registrations = || resources()[2].1;
        settled();
        let none = registrations();
        let first = register(100_000, MemoryKind::Host);
        assert_eq!(registrations(), none + 2, "one for each port");
        let second = register(100_000, MemoryKind::Host);
        assert_eq!(registrations(), none + 2);
        assert_eq!(first.keys().remote, second.keys().remote);
        drop(first);
        assert_eq!(registrations(), none + 2);
        let part = register(50_000, MemoryKind::Host);
        assert_eq!(registrations(), none + 4);
        drop(second);
        assert_eq!(registrations(), none + 2);
        let third = register(100_000, MemoryKind::Host);
        assert_eq!(registrations(), none + 4);
        drop((third, part));
        assert_eq!(registrations(), none);
        // What is read by flushes is registered for that.
        let host = register(100_000, MemoryKind::Host);
        let gpu = register(100_000, MemoryKind::Gpu);
        assert_ne!(host.keys().remote.as_slice(), gpu.keys().remote.as_slice());
        let mut from = of_sender(&pair, 9000, MemoryKind::Gpu);
        let mut into = of_receiver(&pair, 9000, MemoryKind::Gpu);
        for _ in 0..4 {
            moves(&pair, &mut from, &mut into, 9000);
        }
    }
    // Queue pairs too, those with themselves among them.
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_more = |(now, before): (&(String, u64), &(String, u64))| now.1 > before.1;
    while resources().iter().zip(&before).any(is_more) {
        assert!(Instant::now() < deadline, "{:?}, {before:?}", resources());
        sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn memory_that_is_not_mapped_is_refused() {
    let device = Device::open("rxea0").unwrap();
    let register = |read_back| {
        let access = Access {
            read_back,
            ..Access::default()
        };
        // SAFETY: it is refused, for nothing is mapped there.
        let error = unsafe { device.register(ptr::without_provenance_mut(4096), 4096, access) };
        error.unwrap_err().to_string()
    };
    assert_eq!(
        register(false),
        "4096 bytes at 0x1000 cannot be registered: not all of it is mapped (ibv_reg_mr: Bad \
         address (os error 14))"
    );
    let of_gpu = register(true);
    assert!(of_gpu.contains("memory of a GPU whose driver"), "{of_gpu}");
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_device_in_software_takes_no_dmabuf_and_says_so() {
    let device = Device::open("rxea0").unwrap();
    assert!(!device.takes_dmabuf());
    let pair = Pair::over(&[0], &[]);
    for end in [&pair.near, &pair.far] {
        let gpu = end.devices()[0].gpu;
        assert!(!gpu.dmabuf && !gpu.peer_memory, "{gpu:?}");
    }
    // SAFETY: a name, and no flags.
    let fd = unsafe { libc::memfd_create(c"memory".as_ptr(), 0) };
    // SAFETY: just opened, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut bytes = vec![0u8; 4096];
    let buffer = DmaBuf {
        fd: fd.as_raw_fd(),
        offset: 0,
    };
    let kind = MemoryKind::DmaBuf(buffer);
    // SAFETY: it is refused.
    let error = unsafe {
        pair.recv
            .registrar()
            .register(bytes.as_mut_ptr(), 4096, kind)
    };
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("rxeb0:1: 4096 bytes at")
            && error.contains("the device takes no DMABUF memory (ibv_reg_dmabuf_mr: "),
        "{error}"
    );
}

/// Whether this thread may lock as much memory as it likes, whatever the limit.
fn may_lock(may: bool) {
    const CAP_IPC_LOCK: u32 = 14;
    // Version 3 of the structures, for this thread: effective, permitted and inheritable, low and high.
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0u32; 6];
    // SAFETY: as the kernel wants them.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    assert_eq!(got, 0, "{}", io::Error::last_os_error());
    if may {
        sets[0] |= 1 << CAP_IPC_LOCK;
    } else {
        sets[0] &= !(1 << CAP_IPC_LOCK);
    }
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

fn limit_of_locked_memory(new: Option<u64>) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: it is written.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    let old = limit.rlim_cur;
    if let Some(new) = new {
        limit.rlim_cur = new;
        // SAFETY: it is read.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
        assert_eq!(set, 0);
    }
    old
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_limit_that_is_too_low_is_named_with_what_raises_it() {
    let device = Device::open("rxea0").unwrap();
    let mut bytes = vec![0u8; 1 << 20];
    let old = limit_of_locked_memory(Some(64 << 10));
    may_lock(false);
    // SAFETY: dropped before the bytes are.
    let refused = unsafe { device.register(bytes.as_mut_ptr(), bytes.len(), Access::default()) };
    limit_of_locked_memory(Some(old));
    may_lock(true);
    let error = refused.unwrap_err().to_string();
    assert_eq!(
        error,
        "1048576 bytes cannot be registered: the limit of locked memory is 65536 bytes; raise it with \
         'ulimit -l unlimited', for good with 'memlock' in /etc/security/limits.conf, in containers \
         with 'docker run --ulimit memlock=-1'"
    );
    // SAFETY: as above.
    unsafe { device.register(bytes.as_mut_ptr(), bytes.len(), Access::default()) }.unwrap();
}
