//! Faults on request: a channel that a table can turn into a silent black hole or slow down, so
//! that tests and the demonstration can show a failure on a machine that has only one way.
//!
//! A cut path loses nothing of what its kernel holds: as with a real black hole under TCP, that
//! arrives if the path heals before it is given up.

#![allow(unsafe_code, reason = "a socket option")]

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::tcp::TcpChannel;
use super::{Channel, ChannelError, Receiver};
use crate::clock::Timestamp;
use crate::engine::MemRange;
use crate::engine::wire::Header;
use crate::path::health::TransportStats;
use crate::units::{Bytes, Nanos, Rate};

/// Paths that a table can name.
const PATHS_MAX: u8 = 64;
/// How often the file is looked at.
pub const REREAD_GAP: Nanos = Nanos(50_000_000);
/// A fault file is a few lines; what lies behind this is not read.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// What a rate lets through at once after a pause.
const BURST: Nanos = Nanos(2_000_000);

/// Which faults are in force, for every channel of a process.
#[derive(Debug, Default)]
pub struct Faults {
    /// One bit per path.
    cut: AtomicU64,
    /// Bytes per second of each path; 0: as fast as it goes.
    rate: AtomicU64,
    /// Sockets of each path. A cut one must not report that it is readable, or whoever waits
    /// for it never sleeps.
    sockets: Mutex<Vec<(u8, Weak<TcpStream>)>>,
}

impl Faults {
    /// Whether nothing passes on this path.
    #[must_use]
    pub fn is_cut(&self, path: u8) -> bool {
        // Relaxed here and below: a fault comes when it comes, nothing else hangs on it.
        path < PATHS_MAX && self.cut.load(Ordering::Relaxed) >> path & 1 == 1
    }

    /// Cuts a path or heals it.
    pub fn set_cut(&self, path: u8, cut: bool) {
        if path < PATHS_MAX {
            let now = self.cut.load(Ordering::Relaxed);
            let bit = 1 << path;
            self.set(if cut { now | bit } else { now & !bit });
        }
    }

    /// Limits what each path takes; `None`: as fast as it goes.
    pub fn set_rate(&self, rate: Option<Rate>) {
        self.rate.store(rate.map_or(0, |r| r.0), Ordering::Relaxed);
    }

    fn rate(&self) -> Option<Rate> {
        match self.rate.load(Ordering::Relaxed) {
            0 => None,
            rate => Some(Rate(rate)),
        }
    }

    fn set(&self, cut: u64) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.cut.swap(cut, Ordering::Relaxed) ^ cut;
        sockets.retain(|(path, socket)| {
            let Some(socket) = socket.upgrade() else {
                return false;
            };
            if changed >> path & 1 == 1 {
                quieten(&socket, cut >> path & 1 == 1);
            }
            true
        });
    }

    fn watch(&self, path: u8, socket: &Arc<TcpStream>) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.retain(|(_, s)| s.strong_count() > 0);
        sockets.push((path, Arc::downgrade(socket)));
        if self.is_cut(path) {
            quieten(socket, true);
        }
    }

    /// Puts the faults of `text` in force, and no others: lines `path K cut`, `path K ok`,
    /// `rate N` (Mb/s for each path) and `#` comments; of two lines about one thing the later
    /// counts. A line that is none of these is skipped, and told with `name` and its number.
    pub fn apply(&self, text: &str, name: &str) -> Vec<String> {
        let (mut cut, mut rate) = (0u64, None);
        let mut warnings = Vec::new();
        for (line, number) in text.lines().zip(1u32..) {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            let path = |k: &str| k.parse::<u8>().ok().filter(|&k| k < PATHS_MAX);
            match words[..] {
                [] => continue,
                ["path", k, "cut"] => {
                    if let Some(k) = path(k) {
                        cut |= 1 << k;
                        continue;
                    }
                }
                ["path", k, "ok"] => {
                    if let Some(k) = path(k) {
                        cut &= !(1 << k);
                        continue;
                    }
                }
                ["rate", n] => {
                    if let Some(mbps) = n.parse::<u32>().ok().filter(|&n| n > 0) {
                        rate = Some(Rate::from_mbps(u64::from(mbps)));
                        continue;
                    }
                }
                _ => {}
            }
            warnings.push(format!(
                "{name}, line {number}: `{}` is not `path K cut`, `path K ok` (K from 0 to {}) or `rate N` (Mb/s, from 1): the line is skipped",
                line.trim().escape_debug(),
                PATHS_MAX - 1
            ));
        }
        self.set(cut);
        self.set_rate(rate);
        warnings
    }
}

/// Makes a socket report data only when there is more of it than it ever holds, or as usual.
fn quieten(socket: &TcpStream, quiet: bool) {
    let low_water: libc::c_int = if quiet { libc::c_int::MAX } else { 1 };
    let len = libc::socklen_t::try_from(size_of_val(&low_water)).unwrap_or(0);
    // SAFETY: one readable int, as this option wants it. Where the kernel refuses, a waiter
    // only wakes up too often.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const low_water).cast(),
            len,
        );
    }
}

/// The file that says which faults are in force.
#[derive(Debug)]
pub struct FaultFile {
    /// The table that it fills.
    pub faults: Arc<Faults>,
    file: PathBuf,
    text: String,
    read_at: Timestamp,
    failed: bool,
}

impl FaultFile {
    /// A file that has yet to be read, by [`FaultFile::reread`].
    #[must_use]
    pub fn new(file: &Path) -> Self {
        Self {
            faults: Arc::default(),
            file: file.to_owned(),
            text: String::new(),
            read_at: Timestamp::ZERO,
            failed: false,
        }
    }

    /// When it should be looked at again.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.read_at + REREAD_GAP
    }

    /// Reads it again if that is due; returns lines for the log. A file that is not there has
    /// no faults; one that cannot be read leaves those that are in force.
    pub fn reread(&mut self, now: Timestamp) -> Vec<String> {
        if self.read_at != Timestamp::ZERO && now < self.due() {
            return Vec::new();
        }
        self.read_at = now;
        match read_text(&self.file) {
            Ok(text) => {
                self.failed = false;
                if text == self.text {
                    return Vec::new();
                }
                let warnings = self.faults.apply(&text, &self.file.display().to_string());
                self.text = text;
                warnings
            }
            Err(error) => {
                let first = !std::mem::replace(&mut self.failed, true);
                let line = || format!("THALWEG_FAULT_FILE={}: {error}", self.file.display());
                first.then(line).into_iter().collect()
            }
        }
    }
}

fn read_text(file: &Path) -> io::Result<String> {
    let file = match std::fs::File::open(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, FILE_BYTES_MAX), &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A channel under the conditions of a table.
#[derive(Debug)]
pub struct Faulty<C> {
    inner: C,
    path: u8,
    faults: Arc<Faults>,
    /// What the rate, or the cut, does not let through yet.
    waiting: VecDeque<(Header, MemRange, u32)>,
    waiting_bytes: u64,
    /// Bytes that may pass now; below zero after a frame larger than what there was.
    tokens: i64,
    earned_at: Timestamp,
    /// Something has been sent since something last came back.
    unanswered: bool,
    /// What the peer's host had acknowledged when the path was last whole.
    acked: u64,
    /// Keeps the table's reference to the socket alive.
    socket: Option<Arc<TcpStream>>,
}

impl<C: Channel> Faulty<C> {
    /// `inner`, which is path number `path`, under the conditions of `faults`.
    pub fn new(inner: C, path: u8, faults: Arc<Faults>) -> Self {
        Self {
            inner,
            path,
            faults,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            tokens: 0,
            earned_at: Timestamp::now(),
            unanswered: false,
            acked: 0,
            socket: None,
        }
    }

    /// The channel itself.
    pub fn inner(&self) -> &C {
        &self.inner
    }

    /// The channel itself, without what still waits.
    pub fn into_inner(self) -> C {
        self.inner
    }

    /// Since when the path has been cut, if it is.
    fn cut(&self) -> bool {
        self.faults.is_cut(self.path)
    }

    /// Hands over what may pass now.
    fn release(&mut self) {
        let rate = self.faults.rate();
        if let Some(rate) = rate {
            let signed = |bytes: Bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX);
            let now = Timestamp::now();
            let earned = signed(rate.bytes_in(now.since(self.earned_at)));
            // Less than a byte is not lost: it is earned the next time.
            if earned > 0 {
                self.earned_at = now;
                self.tokens = self
                    .tokens
                    .saturating_add(earned)
                    .min(signed(rate.bytes_in(BURST)).max(1));
            }
        }
        while rate.is_none() || self.tokens > 0 {
            let Some((header, payload, owner)) = self.waiting.pop_front() else {
                break;
            };
            let bytes = frame_bytes(&header, payload);
            self.waiting_bytes -= bytes;
            if rate.is_some() {
                self.tokens -= i64::try_from(bytes).unwrap_or(i64::MAX);
            }
            self.inner.queue(header, payload, owner);
        }
    }
}

impl Faulty<TcpChannel> {
    /// A socket's channel under the conditions of `faults`; whoever waits for the socket is not
    /// woken in vain while the path is cut.
    pub fn over_tcp(inner: TcpChannel, path: u8, faults: Arc<Faults>) -> Self {
        let socket = inner.socket().try_clone().ok().map(Arc::new);
        if let Some(socket) = &socket {
            faults.watch(path, socket);
        }
        Self {
            socket,
            ..Self::new(inner, path, faults)
        }
    }

    /// Closes at once, with whatever is queued or in flight.
    pub fn abort(self) {
        let Self { inner, socket, .. } = self;
        // The reset goes out when the last descriptor is closed.
        drop(socket);
        inner.abort();
    }
}

fn frame_bytes(header: &Header, payload: MemRange) -> u64 {
    header.as_bytes().len() as u64 + payload.len
}

impl<C: Channel> Channel for Faulty<C> {
    fn queue(&mut self, header: Header, payload: MemRange, owner: u32) {
        self.waiting_bytes += frame_bytes(&header, payload);
        self.waiting.push_back((header, payload, owner));
    }

    fn flush(&mut self) -> Result<(), ChannelError> {
        if self.has_unsent() {
            self.unanswered = true;
        }
        if self.cut() {
            return Ok(());
        }
        self.release();
        self.inner.flush()
    }

    fn has_unsent(&self) -> bool {
        !self.waiting.is_empty() || self.inner.has_unsent()
    }

    fn holds(&self, owner: u32) -> bool {
        self.inner.holds(owner)
            || self
                .waiting
                .iter()
                .any(|&(_, payload, o)| o == owner && payload.len > 0)
    }

    fn receive(
        &mut self,
        scratch: &mut [u8],
        receiver: &mut dyn Receiver,
    ) -> Result<usize, ChannelError> {
        if self.cut() {
            return Ok(0);
        }
        let taken = self.inner.receive(scratch, receiver)?;
        if taken > 0 {
            self.unanswered = false;
        }
        Ok(taken)
    }

    fn discard_arriving(&mut self) {
        self.inner.discard_arriving();
    }

    fn stats(&mut self) -> TransportStats {
        let stats = self.inner.stats();
        let stats = TransportStats {
            unsent: stats.unsent + self.waiting_bytes,
            ..stats
        };
        if !self.cut() {
            self.acked = stats.acked;
            return stats;
        }
        TransportStats {
            // Our kernel and the peer's still acknowledge to each other what a black hole would
            // have swallowed; whether the peer has answered is what counts.
            in_flight: stats.in_flight || self.unanswered || self.has_unsent(),
            acked: self.acked,
            window_closed: false,
            ..stats
        }
    }

    fn backlog(&mut self) -> u64 {
        self.waiting_bytes + self.inner.backlog()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Poller;

    #[test]
    fn whoever_waits_for_a_cut_socket_sleeps_until_it_heals() {
        let connect = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            Ok::<_, io::Error>((near, TcpChannel::new(listener.accept()?.0, false)?))
        };
        let (mut near, far) = connect().unwrap_or_else(|e| panic!("{e}"));
        let poller = Poller::new().unwrap_or_else(|e| panic!("{e}"));
        poller.add(far.fd(), 1).unwrap_or_else(|e| panic!("{e}"));
        let faults = Arc::new(Faults::default());
        let _far = Faulty::over_tcp(far, 5, Arc::clone(&faults));
        let ready = |wait_ms| {
            let mut any = false;
            poller.wait(wait_ms, |_| any = true);
            any
        };
        faults.set_cut(5, true);
        io::Write::write_all(&mut near, &[1; 10_000]).unwrap_or_else(|e| panic!("{e}"));
        assert!(!ready(20));
        faults.set_cut(5, false);
        assert!(ready(1000));
    }

    #[test]
    fn a_file_is_read_line_by_line_and_a_wrong_line_is_told_with_its_number() {
        let faults = Faults::default();
        let text = "# ways\npath 1 cut\n\npath 3 cut # both\nroad 1 cut\npath 64 cut\nrate -5\nrate 800\npath 3 ok\n";
        let warnings = faults.apply(text, "faults");
        let at = |n: usize| format!("faults, line {n}: ");
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        for (warning, line) in warnings.iter().zip([5, 6, 7]) {
            assert!(warning.starts_with(&at(line)), "{warning}");
        }
        assert!(faults.is_cut(1));
        assert!(!faults.is_cut(3));
        assert_eq!(faults.rate(), Some(Rate::from_mbps(800)));
        assert!(faults.apply("", "faults").is_empty());
        assert!(!faults.is_cut(1));
        assert_eq!(faults.rate(), None);
    }

    #[test]
    fn the_file_is_looked_at_again_after_a_while() {
        let file = std::env::temp_dir().join(format!("thalweg-faults-{}", std::process::id()));
        let at = |ms| Timestamp::from_nanos(1_000_000_000) + Nanos::from_millis(ms);
        let mut faults = FaultFile::new(&file);
        assert!(faults.reread(at(0)).is_empty(), "no file, no faults");
        std::fs::write(&file, "path 2 cut\nnonsense\n").unwrap_or_else(|e| panic!("{e}"));
        assert!(faults.reread(at(10)).is_empty());
        assert!(!faults.faults.is_cut(2), "too early");
        assert_eq!(faults.reread(at(50)).len(), 1);
        assert!(faults.faults.is_cut(2));
        assert!(faults.reread(at(100)).is_empty(), "told once");
        std::fs::remove_file(&file).unwrap_or_else(|e| panic!("{e}"));
        assert!(faults.reread(at(150)).is_empty());
        assert!(!faults.faults.is_cut(2));
    }
}
