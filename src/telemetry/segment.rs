//! The segment: what one process records, in a file in memory that others may look into while it runs and
//! after it has ended.
//!
//! It is one fixed structure of atomics in which zeros mean "nothing": a file of the right length is a
//! segment, and holes in it cost nothing. Writing to a hole where no memory is left would end the
//! process, so what is written is reserved first; what cannot be is not recorded, and nothing else
//! changes. Readers touch only what has been reserved.
//!
//! **Who is alive** is told by a lock on the file that its process holds until it ends, however it ends: it
//! works from container to container, where numbers of processes do not. A process that it forks lets go of
//! the lock, which is one for both.
//!
//! **Files are not trusted.** A folder may be everybody's, so what is opened is a plain file of the same user
//! (root looks into all), and only what has a segment's name is ever removed.

#![allow(
    unsafe_code,
    reason = "memory is mapped, and shared with other processes"
)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use super::Role;
use super::event::Event;
use super::histogram::Histogram;
use super::schema::{
    LinkCounter, LinkGauge, MessageCounter, MessageHistogram, PathCounter, PathGauge,
    PathHistogram, fingerprint,
};
use crate::auth;
use crate::clock::{Timestamp, wall_ns};
use crate::sync::journal::{self, Journal};
use crate::sync::notice::Notice;

const MAGIC: u64 = u64::from_le_bytes(*b"THALWEG\0");
/// Of the structure below.
const LAYOUT: u64 = 4;
const PREFIX: &str = "thalweg-";
/// A file that is being made.
const UNFINISHED: &str = ".thalweg-";
/// One that is older, and that nobody holds, was left behind.
const UNFINISHED_MAX_S: u64 = 60;

/// Links that can be recorded at once.
pub const LINKS: usize = places(2048);
/// Paths that can be.
pub const PATHS: usize = places(16384);
/// Connections that can be.
pub const CONNECTIONS: usize = places(16384);
/// Devices and classes of either role that a process can ever have.
pub const TOTALS: usize = 64;
/// Events that are kept, of samples as many again.
const EVENTS: usize = places(8192);

/// Under miri a few, for it looks at all of them at each step.
const fn places(count: usize) -> usize {
    if cfg!(miri) { 8 } else { count }
}

/// Words of a label: whose place it is (0: nobody's), two numbers, and text.
pub const LABEL_WORDS: usize = 16;
const TEXT: usize = 3;

/// Whose it is.
#[repr(C, align(64))]
pub(super) struct Header {
    magic: AtomicU64,
    layout: AtomicU64,
    fingerprint: AtomicU64,
    pub(super) pid: AtomicU64,
    /// Wall clock, in ns.
    pub(super) started_wall: AtomicU64,
    /// When it last recorded, by our clock.
    pub(super) beat: AtomicU64,
    /// Places that have ever been taken.
    pub(super) links_used: AtomicU64,
    pub(super) paths_used: AtomicU64,
    pub(super) connections_used: AtomicU64,
    pub(super) totals_used: AtomicU64,
    /// Name of the program.
    pub(super) program: Notice<LABEL_WORDS>,
}

/// A link's place.
#[repr(C, align(64))]
pub(super) struct LinkPlace {
    pub(super) label: Notice<LABEL_WORDS>,
    pub(super) counters: [AtomicU64; LinkCounter::COUNT],
    pub(super) gauges: [AtomicU64; LinkGauge::COUNT],
}

/// A path's place.
#[repr(C, align(64))]
pub(super) struct PathPlace {
    pub(super) label: Notice<LABEL_WORDS>,
    pub(super) counters: [AtomicU64; PathCounter::COUNT],
    pub(super) gauges: [AtomicU64; PathGauge::COUNT],
    pub(super) histograms: [Histogram; PathHistogram::COUNT],
}

/// A connection's place. What is counted there stays when the connection is gone, and the next to have it is one
/// of the same device and class: so all places together are what these have had, at any time.
#[repr(C, align(64))]
pub(super) struct ConnectionPlace {
    pub(super) label: Notice<LABEL_WORDS>,
    /// Places of its device and its class: [`Totals`].
    pub(super) totals: AtomicU64,
    pub(super) counted: Counted,
    /// What it was when the connection that has it now began.
    pub(super) before: Counted,
}

/// What is counted of messages.
#[repr(C)]
pub(super) struct Counted {
    pub(super) counters: [AtomicU64; MessageCounter::COUNT],
    pub(super) histograms: [Histogram; MessageHistogram::COUNT],
}

impl Counted {
    /// Holds what another does.
    pub(super) fn copy(&self, other: &Self) {
        for (counter, value) in self.counters.iter().zip(&other.counters) {
            counter.store(value.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for (histogram, other) in self.histograms.iter().zip(&other.histograms) {
            histogram.copy(other);
        }
    }
}

/// The name of a device or class, with its role.
#[repr(C, align(64))]
pub(super) struct TotalPlace {
    pub(super) label: Notice<LABEL_WORDS>,
}

/// The places of the totals of a connection: of its device and of its class, where there was room for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals(pub(super) [Option<usize>; 2]);

impl Totals {
    /// As one word; 0 is none.
    pub(super) fn word(self) -> u64 {
        let place = |place: Option<usize>| place.map_or(0, |place| place as u64 + 1);
        place(self.0[0]) | place(self.0[1]) << 32
    }

    /// Of such a word.
    pub(super) fn of(word: u64) -> Self {
        let place = |word: u64| {
            usize::try_from(word & u64::from(u32::MAX))
                .ok()?
                .checked_sub(1)
        };
        Self([place(word), place(word >> 32)])
    }
}

/// Of what something is the total. As a number it is the first word of the label of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TotalOf {
    Device = 1,
    Class = 2,
}

/// The last events of a kind.
#[repr(C)]
pub(super) struct Ring<const SLOTS: usize> {
    head: journal::Head,
    slots: [journal::Slot; SLOTS],
}

impl<const SLOTS: usize> Ring<SLOTS> {
    pub(super) fn journal(&self) -> Journal<'_> {
        Journal::new(&self.head, &self.slots).expect("the number of slots is a power of two")
    }
}

/// The structure.
#[repr(C)]
pub(super) struct Segment {
    pub(super) header: Header,
    /// What is decided and goes wrong: it is rare, and what is frequent is not to push it out.
    pub(super) decisions: Ring<EVENTS>,
    /// Samples, of which each speaks for many.
    pub(super) samples: Ring<EVENTS>,
    pub(super) links: [LinkPlace; LINKS],
    pub(super) paths: [PathPlace; PATHS],
    pub(super) connections: [ConnectionPlace; CONNECTIONS],
    pub(super) totals: [TotalPlace; TOTALS],
}

impl Segment {
    /// Where such an event is kept.
    pub(super) fn ring_of(&self, event: &Event) -> &Ring<EVENTS> {
        match event {
            Event::Chunk { .. } | Event::Window { .. } => &self.samples,
            _ => &self.decisions,
        }
    }
}

/// What a link is known by: never 0, and the lowest bit is its role.
pub(super) fn link_id(owner: u64, role: Role) -> u64 {
    owner << 1 | u64::from(role == Role::Receiver)
}

/// The role of a link that is known by this.
pub(super) fn role_of(id: u64) -> Role {
    if id & 1 == 0 {
        Role::Sender
    } else {
        Role::Receiver
    }
}

/// An event as it is kept, with the place and the id of its link.
pub(super) fn event_words(
    (link, id): (usize, u64),
    path: Option<u8>,
    event: Event,
    now: Timestamp,
) -> [u64; journal::WORDS] {
    let (kind, values) = event.words();
    let path = path.map_or(0, |path| u64::from(path) + 1);
    let what = kind & 0xffff | path << 16 | (link as u64) << 32;
    let [a, b, c, d] = values;
    [now.as_nanos(), what, id, a, b, c, d]
}

/// What is kept of an event: when by our clock, the place and the id of its link, its path, and itself.
pub(super) type Kept = (Timestamp, (usize, u64), Option<u32>, Event);

/// The event again.
pub(super) fn event_of(words: [u64; journal::WORDS]) -> Kept {
    let [at, what, id, values @ ..] = words;
    let path = u32::try_from(what >> 16 & 0xffff).unwrap_or(0);
    let link = usize::try_from(what >> 32).unwrap_or(usize::MAX);
    (
        Timestamp::from_nanos(at),
        (link, id),
        path.checked_sub(1),
        Event::of(what & 0xffff, values),
    )
}

/// A label's words; of the text as much as has room.
pub(super) fn label_words(numbers: [u64; TEXT], text: &str) -> [u64; LABEL_WORDS] {
    let mut words = [0; LABEL_WORDS];
    words[..TEXT].copy_from_slice(&numbers);
    for (word, bytes) in words[TEXT..].iter_mut().zip(text.as_bytes().chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(eight);
    }
    words
}

/// The text again.
pub(super) fn label_text(words: &[u64; LABEL_WORDS]) -> String {
    let bytes: Vec<u8> = words[TEXT..]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A mapped segment.
#[derive(Debug)]
pub(super) struct Mapping {
    segment: NonNull<Segment>,
    /// None where it is in this process's memory only.
    file: Option<File>,
    /// What is removed at the end, by the process that made it: not by those that it forked.
    made: Option<(PathBuf, u32)>,
}

// SAFETY: all that is reached through it is atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn map(file: Option<&File>, is_writable: bool) -> io::Result<NonNull<Segment>> {
        let protection = libc::PROT_READ | if is_writable { libc::PROT_WRITE } else { 0 };
        let (flags, fd) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            // Most of it is never touched. Miri knows no more of these flags.
            None if cfg!(miri) => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
            None => (
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
            ),
        };
        // SAFETY: a new mapping, of a file that is at least as long.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<Segment>(),
                protection,
                flags,
                fd,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// In this process's memory only.
    pub(super) fn private() -> io::Result<Self> {
        Ok(Self {
            segment: Self::map(None, true)?,
            file: None,
            made: None,
        })
    }

    /// A new one in this folder.
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            // Perhaps by a process that began at the same moment.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let random = auth::nonce()?;
        let random = u128::from_le_bytes(random) >> 64;
        let name = format!("{}-{random:016x}", std::process::id());
        let unfinished = folder.join(format!("{UNFINISHED}{name}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        let made = Self::fill(file);
        // Under its name only once it is whole and locked: until then nobody takes it for left behind.
        let path = folder.join(format!("{PREFIX}{name}"));
        let made = made.and_then(|made| fs::rename(&unfinished, &path).map(|()| made));
        match made {
            Ok(mut made) => {
                made.made = Some((path, std::process::id()));
                Ok(made)
            }
            Err(error) => {
                let _ = fs::remove_file(&unfinished);
                Err(error)
            }
        }
    }

    fn fill(file: File) -> io::Result<Self> {
        if !lock(&file, libc::LOCK_EX)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        file.set_len(size_of::<Segment>() as u64)?;
        reserve(&file, 0, offset_of!(Segment, links))?;
        let segment = Self::map(Some(&file), true)?;
        hold(&file, segment);
        let this = Self {
            segment,
            file: Some(file),
            made: None,
        };
        let header = &this.get().header;
        let program = fs::read_to_string("/proc/self/comm").unwrap_or_default();
        header
            .program
            .write(&label_words([0; TEXT], program.trim_end()), || ());
        header
            .pid
            .store(std::process::id().into(), Ordering::Relaxed);
        header.started_wall.store(wall_ns(), Ordering::Relaxed);
        header
            .beat
            .store(Timestamp::now().as_nanos(), Ordering::Relaxed);
        header.fingerprint.store(fingerprint(), Ordering::Relaxed);
        header.layout.store(LAYOUT, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok(this)
    }

    /// Of another process, to look into.
    ///
    /// # Errors
    /// What it is instead, for a line.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let says = |error: io::Error| error.to_string();
        let file = plain_file(path, OpenOptions::new().read(true)).map_err(says)?;
        let bytes = file.metadata().map_err(says)?.len();
        let head = u64::try_from(size_of::<Header>()).unwrap_or(u64::MAX);
        if bytes < head {
            return Err(format!("it has {bytes} bytes, too few for a segment"));
        }
        let word = |offset: usize| {
            let mut word = [0; 8];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut word, offset as u64)
                .map(|()| u64::from_le_bytes(word))
                .map_err(says)
        };
        if word(offset_of!(Header, magic))? != MAGIC {
            return Err("it is no segment".into());
        }
        let is_ours = word(offset_of!(Header, layout))? == LAYOUT
            && word(offset_of!(Header, fingerprint))? == fingerprint();
        if !is_ours {
            return Err(
                "another release has written it: look into it with that release's thalweg".into(),
            );
        }
        if bytes < size_of::<Segment>() as u64 {
            return Err(format!("it has {bytes} bytes: its end is missing"));
        }
        Ok(Self {
            segment: Self::map(Some(&file), false).map_err(says)?,
            file: Some(file),
            made: None,
        })
    }

    pub(super) fn get(&self) -> &Segment {
        // SAFETY: it is mapped in full, any bits are valid, and atomics may be shared.
        unsafe { self.segment.as_ref() }
    }

    /// Whether all of it is there still: what has been cut off cannot be looked into.
    pub(super) fn is_whole(&self) -> bool {
        let file = self.file.as_ref();
        let bytes = file.map(|file| file.metadata().map_or(0, |of| of.len()));
        bytes.is_none_or(|bytes| bytes >= size_of::<Segment>() as u64)
    }

    /// Whether its process has ended.
    pub(super) fn is_abandoned(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let free = lock(file, libc::LOCK_SH).unwrap_or(false);
        if free {
            // SAFETY: no memory is passed.
            unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
        }
        free
    }

    /// Makes sure that there is memory for a part of it, so that it can be written.
    pub(super) fn reserve<T>(&self, part: &T) -> bool {
        let Some(file) = &self.file else { return true };
        let offset = ptr::from_ref(part).addr() - self.segment.as_ptr().addr();
        reserve(file, offset, size_of::<T>()).is_ok()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some((path, process)) = &self.made
            && *process == std::process::id()
        {
            let _ = fs::remove_file(path);
        }
        if let Some(file) = &self.file {
            release(file);
        }
        // SAFETY: it was mapped so, and nobody holds a reference.
        unsafe { libc::munmap(self.segment.as_ptr().cast(), size_of::<Segment>()) };
    }
}

/// Opens what is a plain file and this user's, or anybody's for root; without waiting for anybody.
fn plain_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = options.custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    // SAFETY: no memory is passed.
    let user = unsafe { libc::geteuid() };
    if !metadata.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    if user != 0 && metadata.uid() != user {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(file)
}

/// A segment that this process records in. Its lock is the file's as long as anybody has it open, or mapped.
struct Held {
    fd: AtomicI32,
    segment: AtomicPtr<Segment>,
}

const NONE: i32 = -1;
static HELD: [Held; 64] = [const {
    Held {
        fd: AtomicI32::new(NONE),
        segment: AtomicPtr::new(ptr::null_mut()),
    }
}; 64];

/// The lock on this file ends with this process, though one that it forked should live on: that one records no more.
fn hold(file: &File, segment: NonNull<Segment>) {
    /// Called in the new process, where only what may be called in a signal handler may be.
    unsafe extern "C" fn let_go() {
        // SAFETY: the path ends with 0.
        let nothing = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        for held in &HELD {
            let fd = held.fd.load(Ordering::Relaxed);
            let segment = held.segment.load(Ordering::Relaxed);
            if fd != NONE && nothing >= 0 && !segment.is_null() {
                let flags =
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                // SAFETY: in the mapping's place comes memory of the same length that is ours alone. The descriptor's
                // number stays taken, for somebody here may close it yet.
                unsafe {
                    libc::mmap(
                        segment.cast(),
                        size_of::<Segment>(),
                        protection,
                        flags,
                        -1,
                        0,
                    );
                    libc::dup3(nothing, fd, libc::O_CLOEXEC);
                }
            }
        }
    }
    static ONCE: Once = Once::new();
    // SAFETY: it may be called at any time after a fork.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(let_go));
    });
    let (relaxed, fd) = (Ordering::Relaxed, file.as_raw_fd());
    for held in &HELD {
        if held.fd.compare_exchange(NONE, fd, relaxed, relaxed).is_ok() {
            held.segment.store(segment.as_ptr(), relaxed);
            break;
        }
    }
}

/// Nobody has to let go of it any more.
fn release(file: &File) {
    let fd = file.as_raw_fd();
    if let Some(held) = HELD
        .iter()
        .find(|held| held.fd.load(Ordering::Relaxed) == fd)
    {
        held.segment.store(ptr::null_mut(), Ordering::Relaxed);
        held.fd.store(NONE, Ordering::Relaxed);
    }
}

/// Whether the file can be locked so.
fn lock(file: &File, operation: i32) -> io::Result<bool> {
    // SAFETY: no memory is passed.
    if unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(false),
        _ => Err(error),
    }
}

fn reserve(file: &File, offset: usize, bytes: usize) -> io::Result<()> {
    let number = |n: usize| libc::off_t::try_from(n).unwrap_or(libc::off_t::MAX);
    // SAFETY: no memory is passed.
    let code = unsafe { libc::posix_fallocate(file.as_raw_fd(), number(offset), number(bytes)) };
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The segments in a folder, of processes that run and of such that have ended.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found)
}

/// Whether a segment is called so: by its process and a random number.
fn is_name(name: &str, prefix: &str) -> bool {
    let parts = name
        .strip_prefix(prefix)
        .and_then(|name| name.split_once('-'));
    parts.is_some_and(|(process, random)| {
        process.parse::<u32>().is_ok()
            && random.len() == 16
            && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Removes what processes of this user have left behind that did not end by themselves.
pub(super) fn clean(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let is_old = || {
            let age = entry
                .metadata()
                .and_then(|m| m.modified())
                .ok()?
                .elapsed()
                .ok()?;
            Some(age.as_secs() >= UNFINISHED_MAX_S)
        };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_candidate =
            is_name(&name, PREFIX) || is_name(&name, UNFINISHED) && is_old() == Some(true);
        if is_candidate
            && let Ok(file) = plain_file(&entry.path(), OpenOptions::new().write(true))
            && matches!(lock(&file, libc::LOCK_EX), Ok(true))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a folder can hold segments, for a line that says why not.
pub(super) fn advice(folder: &Path, error: &io::Error) -> String {
    let folder = folder.display();
    format!(
        "telemetry stays in this process: {folder}: {error}; name a folder in memory with \
         THALWEG_SHM_DIR"
    )
}
