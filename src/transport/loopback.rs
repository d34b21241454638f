//! A path inside the process: two ends that share a pair of bounded byte rings. It behaves as a
//! socket does (back-pressure, frames split anywhere, a close that is seen behind the data), so
//! that tests can drive the engines over it without a system's timing.

#![allow(
    unsafe_code,
    reason = "payload is read from user memory when it is sent"
)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::framing::Deframer;
use super::{Channel, ChannelError, Receiver};
use crate::engine::MemRange;
use crate::engine::wire::Header;
use crate::path::health::TransportStats;
use crate::units::Nanos;

/// Fills of the scratch buffer per call of `receive`, as a socket channel bounds its reads.
const READS: usize = 8;
/// What it says its round trip is: there is none to measure.
const RTT: Nanos = Nanos(50_000);

/// One direction.
#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// One of the ends is gone: nothing more is written.
    closed: bool,
    written: u64,
}

type SharedRing = Arc<Mutex<Ring>>;

fn locked(ring: &SharedRing) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Queued {
    header: Header,
    payload: MemRange,
    owner: u32,
}

impl Queued {
    fn bytes(&self) -> usize {
        self.header.as_bytes().len() + usize::try_from(self.payload.len).unwrap_or(usize::MAX)
    }
}

/// One end of a path inside the process. Dropping it closes both directions.
#[derive(Debug)]
pub struct LoopbackChannel {
    out: SharedRing,
    input: SharedRing,
    queue: VecDeque<Queued>,
    /// Bytes of the first queued frame that have been sent.
    sent: usize,
    deframer: Deframer,
}

/// Two connected ends; each direction holds up to `capacity` bytes that nobody has read.
#[must_use]
pub fn pair(capacity: usize) -> (LoopbackChannel, LoopbackChannel) {
    let ring = || {
        Arc::new(Mutex::new(Ring {
            bytes: VecDeque::with_capacity(capacity),
            capacity,
            closed: false,
            written: 0,
        }))
    };
    let end = |out: &SharedRing, input: &SharedRing| LoopbackChannel {
        out: Arc::clone(out),
        input: Arc::clone(input),
        queue: VecDeque::new(),
        sent: 0,
        deframer: Deframer::default(),
    };
    let (there, back) = (ring(), ring());
    (end(&there, &back), end(&back, &there))
}

impl LoopbackChannel {
    /// Closes at once: what the other end has not read is lost.
    pub fn abort(self) {
        locked(&self.out).bytes.clear();
    }
}

impl Drop for LoopbackChannel {
    fn drop(&mut self) {
        locked(&self.out).closed = true;
        locked(&self.input).closed = true;
    }
}

impl Channel for LoopbackChannel {
    fn queue(&mut self, header: Header, payload: MemRange, owner: u32) {
        self.queue.push_back(Queued {
            header,
            payload,
            owner,
        });
    }

    fn flush(&mut self) -> Result<(), ChannelError> {
        let mut ring = locked(&self.out);
        while let Some(frame) = self.queue.front() {
            if ring.closed {
                return Err(ChannelError::Closed);
            }
            let room = ring.capacity.saturating_sub(ring.bytes.len());
            if room == 0 {
                break;
            }
            ring.written += frame.header.as_bytes().len() as u64;
            let header = frame.header.as_bytes();
            let n = if self.sent < header.len() {
                let n = room.min(header.len() - self.sent);
                ring.bytes.extend(&header[self.sent..self.sent + n]);
                n
            } else {
                let gone = self.sent - header.len();
                let n = room.min(frame.bytes() - self.sent);
                if n > 0 {
                    // SAFETY: the payload belongs to a send that has not ended, whose owner
                    // keeps it valid; `gone + n` is within its length.
                    let payload = unsafe {
                        std::slice::from_raw_parts((frame.payload.addr as *const u8).add(gone), n)
                    };
                    ring.bytes.extend(payload);
                }
                n
            };
            self.sent += n;
            if self.sent == frame.bytes() {
                self.sent = 0;
                self.queue.pop_front();
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
            let mut ring = locked(&self.input);
            let n = scratch.len().min(ring.bytes.len());
            if n == 0 {
                if ring.closed && taken == 0 {
                    return Err(ChannelError::Closed);
                }
                break;
            }
            for (to, byte) in scratch.iter_mut().zip(ring.bytes.drain(..n)) {
                *to = byte;
            }
            drop(ring);
            self.deframer.parse(&scratch[..n], 0, receiver)?;
            taken += n;
        }
        Ok(taken)
    }

    fn discard_arriving(&mut self) {
        self.deframer.discard();
    }

    fn stats(&mut self) -> TransportStats {
        // What is in the ring has reached the peer's host: acknowledged, as a kernel would.
        let ring = locked(&self.out);
        TransportStats {
            in_flight: false,
            acked: ring.written,
            window_closed: ring.bytes.len() >= ring.capacity,
            rtt: RTT,
            rtt_var: Nanos(RTT.0 / 2),
            rtt_min: RTT,
            ..TransportStats::default()
        }
    }

    fn backlog(&mut self) -> u64 {
        let queued: usize = self.queue.iter().map(Queued::bytes).sum();
        (queued - self.sent) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire::Frame;
    use crate::engine::{Sink, Violation};

    #[derive(Default)]
    struct Count(usize);

    impl Receiver for Count {
        fn frame(&mut self, header: &[u8], _: u64) -> Result<Option<Sink>, Violation> {
            Frame::decode(header)?;
            self.0 += 1;
            Ok(None)
        }

        fn payload_done(&mut self) {}
    }

    #[test]
    fn a_full_ring_holds_the_sender_back_and_a_close_is_seen_behind_the_data() {
        let (mut a, mut b) = pair(10);
        for _ in 0..5 {
            a.queue(Frame::Goodbye.encode(), MemRange::default(), 0);
        }
        let all = a.backlog();
        a.flush().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(a.backlog(), all - 10);
        assert!(a.has_unsent());
        let (mut scratch, mut count) = ([0; 3], Count::default());
        for _ in 0..100 {
            a.flush().unwrap_or_else(|e| panic!("{e}"));
            if !a.has_unsent() {
                break;
            }
            assert!(b.receive(&mut scratch, &mut count).is_ok());
        }
        drop(a);
        let mut ends = false;
        for _ in 0..100 {
            match b.receive(&mut scratch, &mut count) {
                Ok(_) => {}
                Err(ChannelError::Closed) => {
                    ends = true;
                    break;
                }
                Err(e) => panic!("{e}"),
            }
        }
        assert!(ends);
        assert_eq!(count.0, 5);
        b.queue(Frame::Goodbye.encode(), MemRange::default(), 0);
        assert!(matches!(b.flush(), Err(ChannelError::Closed)));
    }
}
