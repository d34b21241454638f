//! How the ranks meet and agree: a star of streams around rank 0, over TCP or, where all ranks share
//! a file system, over a Unix socket (which also reaches from one network namespace into another, and
//! is not disturbed when the network under test is). It carries connection handles, barriers,
//! results, and the word how far a timed run goes. Everything has a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::launch::Place;

const MAGIC: &[u8; 8] = b"netperf1";
/// A frame longer than this is not ours.
const FRAME_LIMIT_BYTES: usize = 256 << 20;
/// Magic, rank, size, fingerprint.
const HELLO_BYTES: usize = 8 + 8 + 8 + 8;
const GRANT_BYTES: usize = 9;

/// A stream of either kind.
trait Stream: Read + Write {
    fn nonblocking(&self, on: bool) -> io::Result<()>;
    fn timeout(&self, t: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn nonblocking(&self, on: bool) -> io::Result<()> {
        self.set_nonblocking(on)
    }
    fn timeout(&self, t: Duration) -> io::Result<()> {
        self.set_nodelay(true)?;
        self.set_write_timeout(Some(t))?;
        self.set_read_timeout(Some(t))
    }
}

impl Stream for UnixStream {
    fn nonblocking(&self, on: bool) -> io::Result<()> {
        self.set_nonblocking(on)
    }
    fn timeout(&self, t: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(t))?;
        self.set_read_timeout(Some(t))
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(l) => Box::new(l.accept()?.0),
            Self::Unix(l) => Box::new(l.accept()?.0),
        })
    }
}

/// How far a timed run may go: iterations below the number, and whether that is the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Iterations that may be started.
    pub until: u64,
    /// No further grant will come.
    pub is_last: bool,
}

/// The ranks, once they have met.
pub struct World {
    /// Number of this process.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// On rank 0 the streams of ranks 1, 2, …; elsewhere the one to rank 0.
    streams: Vec<Box<dyn Stream>>,
    /// A grant of which only a part has arrived.
    partial: Vec<u8>,
}

impl World {
    /// Meets the others. `fingerprint` is a digest of what all ranks must have been told alike.
    pub fn join(place: &Place, fingerprint: u64, timeout: Duration) -> Result<Self, String> {
        let deadline = Instant::now() + timeout;
        let mut world = Self {
            rank: place.rank,
            size: place.size,
            streams: Vec::new(),
            partial: Vec::new(),
        };
        if place.rank == 0 {
            world.gather_ranks(&place.meeting, fingerprint, deadline)?;
        } else {
            world.report_to_root(&place.meeting, fingerprint, deadline)?;
        }
        for stream in &world.streams {
            stream.timeout(timeout).map_err(|e| e.to_string())?;
        }
        Ok(world)
    }

    fn gather_ranks(
        &mut self,
        at: &str,
        fingerprint: u64,
        deadline: Instant,
    ) -> Result<(), String> {
        let cannot = |e: io::Error| match e.kind() {
            ErrorKind::AddrInUse => format!("{at} is in use: choose another MASTER_PORT"),
            _ => format!("cannot wait for the other ranks at {at}: {e}"),
        };
        let listener = if let Some(path) = at.strip_prefix("unix:") {
            let _ = std::fs::remove_file(path);
            let l = UnixListener::bind(path).map_err(cannot)?;
            l.set_nonblocking(true).map_err(cannot)?;
            Listener::Unix(l)
        } else {
            let addresses: Vec<_> = at.to_socket_addrs().map_err(cannot)?.collect();
            let l = match TcpListener::bind(&addresses[..]) {
                // A name by which others know this host need not be an address of it.
                Err(e) if e.kind() == ErrorKind::AddrNotAvailable => {
                    let port = addresses.first().map_or(0, std::net::SocketAddr::port);
                    TcpListener::bind(("::", port))
                        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
                }
                other => other,
            }
            .map_err(cannot)?;
            l.set_nonblocking(true).map_err(cannot)?;
            Listener::Tcp(l)
        };
        let mut met: Vec<Option<Box<dyn Stream>>> = (1..self.size).map(|_| None).collect();
        while met.iter().any(Option::is_none) {
            let mut stream = match listener.accept() {
                Ok(stream) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if Instant::now() > deadline {
                        let missing: Vec<String> = met
                            .iter()
                            .enumerate()
                            .filter(|(_, s)| s.is_none())
                            .map(|(i, _)| (i + 1).to_string())
                            .take(16)
                            .collect();
                        return Err(format!(
                            "rank {} did not come to {at} in time: see what stopped it there, or raise --timeout",
                            missing.join(", ")
                        ));
                    }
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Err(e) => return Err(cannot(e)),
            };
            // A stranger that connects and says nothing must not hold up the others for long.
            let hello = stream
                .nonblocking(false)
                .and_then(|()| stream.timeout(Duration::from_secs(2)))
                .and_then(|()| {
                    let mut hello = [0; HELLO_BYTES];
                    stream.read_exact(&mut hello)?;
                    Ok(hello)
                });
            let Ok(hello) = hello else { continue };
            if hello[..8] != *MAGIC {
                continue;
            }
            let rank = usize::try_from(word(&hello, 8)).unwrap_or(usize::MAX);
            let answer = if word(&hello, 16) != self.size as u64 {
                "the ranks disagree about their number: stop what was left of an earlier run, or choose another MASTER_PORT"
            } else if word(&hello, 24) != fingerprint {
                "the ranks were started with different options: give all the same"
            } else if rank == 0 || rank >= self.size || met[rank - 1].is_some() {
                "two processes claim the same rank"
            } else {
                ""
            };
            send(&mut *stream, answer.as_bytes())
                .map_err(|e| format!("rank {rank} left at the rendezvous: {e}"))?;
            if !answer.is_empty() {
                return Err(answer.to_owned());
            }
            met[rank - 1] = Some(stream);
        }
        self.streams = met.into_iter().flatten().collect();
        if let Some(path) = at.strip_prefix("unix:") {
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    fn report_to_root(
        &mut self,
        at: &str,
        fingerprint: u64,
        deadline: Instant,
    ) -> Result<(), String> {
        let mut stream: Box<dyn Stream> = loop {
            let tried: io::Result<Box<dyn Stream>> = if let Some(path) = at.strip_prefix("unix:") {
                UnixStream::connect(path).map(|s| Box::new(s) as Box<dyn Stream>)
            } else {
                at.to_socket_addrs()
                    .and_then(|addresses| dial(addresses, deadline))
                    .map(|s| Box::new(s) as Box<dyn Stream>)
            };
            match tried {
                Ok(stream) => break stream,
                Err(e) if Instant::now() > deadline => {
                    return Err(format!(
                        "rank 0 is not at {at} ({e}): check MASTER_ADDR and MASTER_PORT, and that rank 0 runs"
                    ));
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut hello = Vec::with_capacity(HELLO_BYTES);
        hello.extend_from_slice(MAGIC);
        for n in [self.rank as u64, self.size as u64, fingerprint] {
            hello.extend_from_slice(&n.to_le_bytes());
        }
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
        let answer = stream
            .timeout(left)
            .and_then(|()| stream.write_all(&hello))
            .and_then(|()| receive(&mut *stream))
            .map_err(|e| format!("rank 0 at {at} gave no answer: {e}"))?;
        if !answer.is_empty() {
            return Err(String::from_utf8_lossy(&answer).into_owned());
        }
        self.streams = vec![stream];
        Ok(())
    }

    /// Gives every rank what every rank has brought, in the order of the ranks.
    pub fn exchange(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut all = vec![mine.to_vec()];
        if self.rank == 0 {
            for (i, stream) in self.streams.iter_mut().enumerate() {
                all.push(receive(&mut **stream).map_err(|e| lost(i + 1, &e))?);
            }
            let mut packed = Vec::new();
            for part in &all {
                packed.extend_from_slice(&(part.len() as u64).to_le_bytes());
                packed.extend_from_slice(part);
            }
            for (i, stream) in self.streams.iter_mut().enumerate() {
                send(&mut **stream, &packed).map_err(|e| lost(i + 1, &e))?;
            }
            return Ok(all);
        }
        let root = &mut *self.streams[0];
        send(root, mine).map_err(|e| lost(0, &e))?;
        let packed = receive(root).map_err(|e| lost(0, &e))?;
        all.clear();
        let mut rest = &packed[..];
        while rest.len() >= 8 {
            let n = usize::try_from(word(rest, 0)).unwrap_or(usize::MAX);
            let part = rest[8..].get(..n).ok_or("rank 0 sent a broken frame")?;
            all.push(part.to_vec());
            rest = &rest[8 + n..];
        }
        if all.len() == self.size {
            Ok(all)
        } else {
            Err("rank 0 sent a broken frame".to_owned())
        }
    }

    /// Waits for all.
    pub fn barrier(&mut self) -> Result<(), String> {
        self.exchange(&[]).map(|_| ())
    }

    /// Rank 0 tells all the others how far to go.
    pub fn send_grant(&mut self, grant: Grant) -> Result<(), String> {
        let mut frame = [0; GRANT_BYTES];
        frame[..8].copy_from_slice(&grant.until.to_le_bytes());
        frame[8] = u8::from(grant.is_last);
        for (i, stream) in self.streams.iter_mut().enumerate() {
            stream.write_all(&frame).map_err(|e| lost(i + 1, &e))?;
        }
        Ok(())
    }

    /// What rank 0 has last said, if anything new; does not wait.
    pub fn poll_grant(&mut self) -> Result<Option<Grant>, String> {
        let root = &mut self.streams[0];
        root.nonblocking(true).map_err(|e| lost(0, &e))?;
        let mut newest = None;
        let outcome = loop {
            let mut frame = [0; GRANT_BYTES];
            match root.read(&mut frame[..GRANT_BYTES - self.partial.len()]) {
                Ok(0) => break Err(lost(0, &ErrorKind::UnexpectedEof.into())),
                Ok(n) => {
                    self.partial.extend_from_slice(&frame[..n]);
                    if self.partial.len() == GRANT_BYTES {
                        let is_last = self.partial[8] != 0;
                        newest = Some(Grant {
                            until: word(&self.partial, 0),
                            is_last,
                        });
                        self.partial.clear();
                        if is_last {
                            break Ok(()); // what follows belongs to the next exchange
                        }
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(e) => break Err(lost(0, &e)),
            }
        };
        root.nonblocking(false).map_err(|e| lost(0, &e))?;
        outcome.map(|()| newest)
    }
}

fn lost(rank: usize, e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!(
                "rank {rank} said nothing for too long: see what it waits for, or raise --timeout"
            )
        }
        _ => format!("rank {rank} left: see its own last line"),
    }
}

fn dial(
    addresses: impl Iterator<Item = std::net::SocketAddr>,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = left.clamp(Duration::from_millis(100), Duration::from_secs(3));
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn send(stream: &mut dyn Stream, bytes: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(8 + bytes.len());
    frame.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    frame.extend_from_slice(bytes);
    stream.write_all(&frame)
}

fn receive(stream: &mut dyn Stream) -> io::Result<Vec<u8>> {
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let n = usize::try_from(u64::from_le_bytes(head)).unwrap_or(usize::MAX);
    if n > FRAME_LIMIT_BYTES {
        return Err(io::Error::new(ErrorKind::InvalidData, "frame too long"));
    }
    let mut bytes = vec![0; n];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The little-endian word at `offset`; the caller has checked that it is there.
fn word(bytes: &[u8], offset: usize) -> u64 {
    bytes[offset..offset + 8]
        .iter()
        .rev()
        .fold(0, |n, &b| n << 8 | u64::from(b))
}
