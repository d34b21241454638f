//! A path over TCP: one non-blocking socket with a port pair of its own.
//!
//! Payload is sent from the user's memory and received straight into it. One `sendmsg` takes
//! many frames; one `readv` takes the rest of a payload and the beginning of what follows. What
//! is copied is the payload that shared a read with its own header: small messages, and the
//! first bytes of a chunk.
//!
//! Cubic is asked for by name: the link's own window bounds what is in flight, and the search
//! for ways needs the queue that such a window makes; a kernel controller that models the path
//! by itself (BBR) keeps that queue away and halves the use of paths that other traffic shares.

#![allow(
    unsafe_code,
    reason = "vectored reads and writes of user memory, and socket options"
)]

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use super::framing::Deframer;
use super::{Channel, ChannelError, Receiver};
use crate::engine::MemRange;
use crate::engine::wire::Header;
use crate::path::health::{Marks, TransportStats};
use crate::units::Nanos;

/// Frames that one `sendmsg` takes.
const BATCH: usize = 16;
/// Reads per call of `receive`: a bound, so that one path cannot starve the others.
const READS: usize = 8;
/// Bytes read behind the end of a payload: a few headers, so that little is copied.
const BEHIND: usize = 256;

#[derive(Debug)]
struct Queued {
    header: Header,
    payload: MemRange,
    owner: u32,
}

/// A path over TCP.
#[derive(Debug)]
pub struct TcpChannel {
    socket: TcpStream,
    queue: VecDeque<Queued>,
    /// Bytes of the first queued frame that have been sent.
    sent: u64,
    deframer: Deframer,
    /// The peer may probe this channel, and the kernel can stamp arrivals.
    probed: bool,
    /// It does so now.
    stamped: bool,
}

/// So many data frames after a probe, arrivals are no longer stamped.
const STAMPED_FRAMES: u32 = 32;

impl TcpChannel {
    /// A channel over a connected socket. `probed`: the peer will probe it, so arrivals are
    /// stamped by the kernel.
    ///
    /// # Errors
    /// The socket refuses to be non-blocking.
    pub fn new(socket: TcpStream, probed: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        // Neither is a condition: without them the path works, only less well.
        let _ = set_option(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            b"cubic",
        );
        let mut channel = Self {
            socket,
            queue: VecDeque::with_capacity(32),
            sent: 0,
            deframer: Deframer::default(),
            probed,
            stamped: false,
        };
        channel.choose_stamping();
        Ok(channel)
    }

    /// The socket, to wait for.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Closes with a reset: nothing that is queued is sent any more, no port lingers.
    pub fn abort(self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // SAFETY: `linger` is a plain C struct of initialised integers.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const linger).cast::<u8>(), size_of::<libc::linger>())
        };
        let _ = set_option(self.fd(), libc::SOL_SOCKET, libc::SO_LINGER, bytes);
    }

    /// Stamping costs a little for each read: it is on while probes come, and for a while after.
    fn choose_stamping(&mut self) {
        let wanted = self.probed && self.deframer.data_since_ping() < STAMPED_FRAMES;
        if wanted != self.stamped {
            let on = i32::from(wanted).to_ne_bytes();
            let set = set_option(self.fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &on);
            self.stamped = wanted && set.is_ok();
            self.probed &= set.is_ok();
        }
    }

    /// One read, with the kernel's stamp of the arrival where that is on.
    fn read(&self, iov: &mut [libc::iovec]) -> io::Result<(usize, u64)> {
        let mut control = [0u64; 8];
        // SAFETY: an all-zero msghdr is a valid empty one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iov.as_mut_ptr();
        message.msg_iovlen = iov.len();
        if self.stamped {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
        }
        // SAFETY: the caller's vectors name memory that may be written; `control` is ours.
        let n = unsafe { libc::recvmsg(self.fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        let stamp = if self.stamped { stamp_of(&message) } else { 0 };
        Ok((n, stamp))
    }
}

fn stamp_of(message: &libc::msghdr) -> u64 {
    // SAFETY: the kernel filled `message` in; the macros walk its control buffer.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(message);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_level == libc::SOL_SOCKET && (*cmsg).cmsg_type == libc::SCM_TIMESTAMPNS
            {
                let time: libc::timespec =
                    std::ptr::read_unaligned(libc::CMSG_DATA(cmsg).cast::<libc::timespec>());
                let (s, ns) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
                return s.wrapping_mul(1_000_000_000).wrapping_add(ns);
            }
            cmsg = libc::CMSG_NXTHDR(message, cmsg);
        }
    }
    0
}

impl Channel for TcpChannel {
    fn queue(&mut self, header: Header, payload: MemRange, owner: u32) {
        self.queue.push_back(Queued {
            header,
            payload,
            owner,
        });
    }

    fn flush(&mut self) -> Result<(), ChannelError> {
        while !self.queue.is_empty() {
            let empty = libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            };
            let mut iov = [empty; 2 * BATCH];
            let mut used = 0;
            let mut skip = self.sent;
            let mut total = 0u64;
            for frame in self.queue.iter().take(BATCH) {
                let header = frame.header.as_bytes();
                for (addr, len) in [
                    (header.as_ptr() as u64, header.len() as u64),
                    (frame.payload.addr, frame.payload.len),
                ] {
                    let gone = skip.min(len);
                    skip -= gone;
                    if len > gone {
                        iov[used] = libc::iovec {
                            iov_base: (addr + gone) as *mut libc::c_void,
                            iov_len: usize::try_from(len - gone).unwrap_or(usize::MAX),
                        };
                        total += len - gone;
                        used += 1;
                    }
                }
            }
            // SAFETY: an all-zero msghdr is a valid empty one.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = iov.as_mut_ptr();
            message.msg_iovlen = used;
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: headers live in the queue; payloads belong to sends that have not ended,
            // whose owners keep them valid (closing a connection closes such channels first).
            let n = unsafe { libc::sendmsg(self.fd(), &raw const message, flags) };
            let Ok(n) = u64::try_from(n) else {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(()),
                    io::ErrorKind::Interrupted => continue,
                    _ => Err(error.into()),
                };
            };
            self.sent += n;
            while let Some(first) = self.queue.front() {
                let size = first.header.as_bytes().len() as u64 + first.payload.len;
                if self.sent < size {
                    break;
                }
                self.sent -= size;
                self.queue.pop_front();
            }
            if n < total {
                return Ok(());
            }
        }
        Ok(())
    }

    fn has_unsent(&self) -> bool {
        !self.queue.is_empty()
    }

    fn holds(&self, owner: u32) -> bool {
        self.queue
            .iter()
            .any(|frame| frame.owner == owner && frame.payload.len > 0)
    }

    fn receive(
        &mut self,
        scratch: &mut [u8],
        receiver: &mut dyn Receiver,
    ) -> Result<usize, ChannelError> {
        let mut taken = 0;
        for _ in 0..READS {
            let behind = libc::iovec {
                iov_base: scratch.as_mut_ptr().cast(),
                iov_len: BEHIND,
            };
            let (mut iov, direct) = if let Some(range) = self.deframer.place() {
                let len = usize::try_from(range.len).unwrap_or(usize::MAX);
                let place = libc::iovec {
                    iov_base: range.addr as *mut libc::c_void,
                    iov_len: len,
                };
                ([place, behind], len)
            } else {
                // Behind a large payload: little is read ahead of the next one.
                let ahead = if self.deframer.bulk() {
                    2048
                } else {
                    scratch.len()
                };
                let whole = libc::iovec {
                    iov_len: ahead.min(scratch.len()),
                    ..behind
                };
                (
                    [
                        whole,
                        libc::iovec {
                            iov_len: 0,
                            ..behind
                        },
                    ],
                    0,
                )
            };
            let asked = iov[0].iov_len + iov[1].iov_len;
            let (n, stamp) = match self.read(&mut iov) {
                Ok((0, _)) => return Err(ChannelError::Closed),
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            taken += n;
            let placed = n.min(direct);
            if placed > 0 {
                self.deframer.advance(placed, receiver);
            }
            if n > placed {
                self.deframer
                    .parse(&scratch[..n - placed], stamp, receiver)?;
                self.choose_stamping();
            }
            if n < asked {
                break; // drained: asking again would cost a call to hear so
            }
        }
        Ok(taken)
    }

    fn discard_arriving(&mut self) {
        self.deframer.discard();
    }

    fn stats(&mut self) -> TransportStats {
        let mut info = [0u8; 256];
        let mut len = libc::socklen_t::try_from(info.len()).unwrap_or(0);
        // SAFETY: the kernel writes at most `len` bytes into `info`.
        let rc = unsafe {
            libc::getsockopt(
                self.fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if rc != 0 {
            return TransportStats::default();
        }
        // Offsets in the kernel's struct tcp_info (include/uapi/linux/tcp.h); what an older
        // kernel does not fill in stays 0.
        let field = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&info[at..at + 4]);
            u32::from_ne_bytes(bytes)
        };
        let (mss, unacked) = (field(16), field(24));
        let acked = u64::from(field(120)) | u64::from(field(124)) << 32;
        let (rtt_us, var_us, unsent, min_us) = (field(68), field(72), field(144), field(148));
        let knows_window = len >= 232;
        // TCPI_OPT_ECN: both ends agreed on it. With ECN after RFC 3168 the receiver repeats a mark
        // until the sender has answered it, so one marks all that a round trip carries.
        let has_marks = info[5] & 8 != 0 && len >= 200;
        TransportStats {
            in_flight: unacked > 0,
            acked,
            window_closed: knows_window && field(228) < mss,
            rtt: Nanos::from_micros(u64::from(rtt_us)),
            rtt_var: Nanos::from_micros(u64::from(var_us)),
            rtt_min: Nanos::from_micros(u64::from(min_us)),
            unsent: u64::from(unsent),
            marks: has_marks.then(|| Marks {
                delivered: field(192),
                marked: field(196),
            }),
            retransmits: field(100),
        }
    }

    fn backlog(&mut self) -> u64 {
        let mut kernel: libc::c_int = 0;
        // SAFETY: the kernel writes one int.
        unsafe { libc::ioctl(self.fd(), libc::TIOCOUTQ, &raw mut kernel) };
        let queued: u64 = self
            .queue
            .iter()
            .map(|f| f.header.as_bytes().len() as u64 + f.payload.len)
            .sum();
        queued - self.sent + u64::try_from(kernel).unwrap_or(0)
    }
}

fn set_option(fd: RawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: `value` is readable for `len` bytes.
    let rc = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), len) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
