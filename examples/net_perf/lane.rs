//! Memory and connections: page-aligned buffers, and the non-blocking set-up of all connections of a
//! rank at once, polled in turn as NCCL's service thread does it.
#![allow(
    unsafe_code,
    reason = "owns memory that a plugin reads and writes behind the compiler's back"
)]

use std::alloc::{self, Layout};
use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::NonNull;
use std::thread;
use std::time::{Duration, Instant};

use crate::Job;
use crate::net::{HANDLE_BYTES, Handle, ListenComm, RecvComm, Request, SendComm};
use crate::options::Options;

/// Zeroed memory on page boundaries. It is reached through raw pointers only, since a plugin works
/// on parts of it while the program works on others.
pub struct Buffer {
    start: NonNull<u8>,
    layout: Layout,
    bytes: usize,
}

impl Buffer {
    /// Allocates; never less than one byte, so that it can be registered.
    pub fn new(bytes: usize) -> Result<Self, String> {
        const PAGE: usize = 4096;
        let layout = Layout::from_size_align(bytes.max(1), PAGE).map_err(|e| e.to_string())?;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start)
            .ok_or_else(|| format!("no memory for {bytes} bytes: take smaller sizes"))?;
        Ok(Self {
            start,
            layout,
            bytes,
        })
    }

    /// Bytes that may be registered: at least one.
    pub fn registered_len(&self) -> usize {
        self.layout.size()
    }

    /// Address of the `len` bytes at `offset`, which must lie inside.
    pub fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.bytes),
            "range outside of a buffer"
        );
        // SAFETY: inside the allocation, as just checked.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// Reads.
    ///
    /// # Safety
    /// No receive is in flight into these bytes, and nobody holds them mutably.
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        // SAFETY: `at` checked the range; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(offset, len), len) }
    }

    /// Writes.
    ///
    /// # Safety
    /// No request is in flight on these bytes, and nobody holds them.
    #[allow(
        clippy::mut_from_ref,
        reason = "disjoint parts are handed out by unsafe contract"
    )]
    pub unsafe fn bytes_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len), len) }
    }

    /// Reads floats; offset and length count floats.
    ///
    /// # Safety
    /// As [`Self::bytes`].
    pub unsafe fn floats(&self, offset: usize, len: usize) -> &[f32] {
        // SAFETY: pages are aligned for floats, every bit pattern is one; the rest as above.
        unsafe { std::slice::from_raw_parts(self.at(offset * 4, len * 4).cast(), len) }
    }

    /// Writes floats.
    ///
    /// # Safety
    /// As [`Self::bytes_mut`].
    #[allow(
        clippy::mut_from_ref,
        reason = "disjoint parts are handed out by unsafe contract"
    )]
    pub unsafe fn floats_mut(&self, offset: usize, len: usize) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset * 4, len * 4).cast(), len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// A request in flight, and when it was posted.
pub struct Pending {
    pub request: Request,
    pub since: Instant,
}

/// The sending end of a connection.
pub struct SendLane {
    pub comm: SendComm,
    pub peer: usize,
    pub channel: usize,
    /// Oldest first, as they are tested.
    pub pending: VecDeque<Pending>,
}

/// The receiving end of a connection.
pub struct RecvLane {
    pub comm: RecvComm,
    pub peer: usize,
    pub channel: usize,
    /// Oldest first, as they are tested.
    pub pending: VecDeque<Pending>,
    /// When the last receive was posted.
    pub posted: Option<Instant>,
}

/// The connections of one rank, and how long they took to make.
pub struct Lanes {
    pub sends: Vec<SendLane>,
    pub recvs: Vec<RecvLane>,
    /// Until the first connection with each peer was usable.
    pub first_ms: f64,
    /// For each further one, on average; 0 where there is none.
    pub further_ms: f64,
}

/// A connection to be made.
enum Making {
    Dialling {
        peer: usize,
        channel: usize,
        handle: Handle,
    },
    Awaiting {
        peer: usize,
        channel: usize,
        listener: ListenComm,
    },
}

/// Connects this rank with the peers that it sends to and receives from, `channels` times each:
/// first one connection with every peer, then, measured apart, all the others.
pub fn connect(job: &mut Job, to: &[usize], from: &[usize]) -> Result<Lanes, String> {
    let mut lanes = Lanes {
        sends: Vec::new(),
        recvs: Vec::new(),
        first_ms: 0.0,
        further_ms: 0.0,
    };
    let channels = job.options.comms;
    lanes.first_ms = connect_channels(job, &mut lanes, to, from, 0..1)?;
    if channels > 1 {
        let all_ms = connect_channels(job, &mut lanes, to, from, 1..channels)?;
        #[allow(clippy::cast_precision_loss, reason = "a small count")]
        let made = ((channels - 1) * (to.len() + from.len()).max(1)) as f64;
        lanes.further_ms = all_ms / made;
    }
    Ok(lanes)
}

/// Rank, channel and handle of one listener, as the ranks tell each other.
const ENTRY_BYTES: usize = 16 + HANDLE_BYTES;

/// Listens for every connection to come; gives them and what the peers must know.
fn listen_all(
    job: &Job,
    from: &[usize],
    channels: Range<usize>,
) -> Result<(Vec<Making>, Vec<u8>), String> {
    let mut making = Vec::new();
    let mut notice = Vec::new();
    for channel in channels {
        for &peer in from {
            let (listener, handle) = job
                .net
                .listen(&job.context, job.options.dev)
                .map_err(|e| e.to_string())?;
            notice.extend_from_slice(&(peer as u64).to_le_bytes());
            notice.extend_from_slice(&(channel as u64).to_le_bytes());
            notice.extend_from_slice(&handle.0);
            making.push(Making::Awaiting {
                peer,
                channel,
                listener,
            });
        }
    }
    Ok((making, notice))
}

fn connect_channels(
    job: &mut Job,
    lanes: &mut Lanes,
    to: &[usize],
    from: &[usize],
    channels: Range<usize>,
) -> Result<f64, String> {
    let me = job.world.rank;
    let (mut making, notice) = listen_all(job, from, channels.clone())?;
    let notices = job.world.exchange(&notice)?;
    for channel in channels {
        for &peer in to {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&(me as u64).to_le_bytes());
            key[8..].copy_from_slice(&(channel as u64).to_le_bytes());
            let entry = notices[peer]
                .chunks_exact(ENTRY_BYTES)
                .find(|entry| entry[..16] == key)
                .ok_or_else(|| format!("rank {peer} does not listen for rank {me}"))?;
            let mut handle = Handle([0; HANDLE_BYTES]);
            handle.0.copy_from_slice(&entry[16..]);
            making.push(Making::Dialling {
                peer,
                channel,
                handle,
            });
        }
    }
    job.world.barrier()?;
    let start = Instant::now();
    while !making.is_empty() {
        let before = making.len();
        let mut still = Vec::with_capacity(before);
        for mut one in making {
            match &mut one {
                Making::Dialling {
                    peer,
                    channel,
                    handle,
                } => {
                    let made = job.net.connect(&job.context, job.options.dev, handle);
                    if let Some(comm) = made.map_err(|e| format!("to rank {peer}: {e}"))? {
                        lanes.sends.push(SendLane {
                            comm,
                            peer: *peer,
                            channel: *channel,
                            pending: VecDeque::new(),
                        });
                        continue;
                    }
                }
                Making::Awaiting {
                    peer,
                    channel,
                    listener,
                } => {
                    let made = job.net.accept(listener);
                    if let Some(comm) = made.map_err(|e| format!("from rank {peer}: {e}"))? {
                        lanes.recvs.push(RecvLane {
                            comm,
                            peer: *peer,
                            channel: *channel,
                            pending: VecDeque::new(),
                            posted: None,
                        });
                        let Making::Awaiting { listener, .. } = one else {
                            continue;
                        };
                        job.net.close_listen(listener).map_err(|e| e.to_string())?;
                        continue;
                    }
                }
            }
            still.push(one);
        }
        making = still;
        if making.len() == before {
            if start.elapsed() > job.options.timeout {
                return Err(format!(
                    "{} connections were not made in time: is the network between the ranks open?",
                    making.len()
                ));
            }
            rest(job.options.nap);
        }
    }
    let took = start.elapsed();
    lanes.sends.sort_by_key(|l| (l.channel, l.peer));
    lanes.recvs.sort_by_key(|l| (l.channel, l.peer));
    job.world.barrier()?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Closes all; every request has been seen done.
pub fn close(job: &Job, lanes: Lanes) -> Result<(), String> {
    for lane in lanes.sends {
        job.net.close_send(lane.comm).map_err(|e| e.to_string())?;
    }
    for lane in lanes.recvs {
        job.net.close_recv(lane.comm).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Ends a run that makes no progress.
pub struct Watchdog {
    last: Instant,
    limit: Duration,
    nap: Duration,
    turns: u32,
}

impl Watchdog {
    pub fn new(options: &Options) -> Self {
        Self {
            last: Instant::now(),
            limit: options.timeout,
            nap: options.nap,
            turns: 0,
        }
    }

    /// Something was done.
    pub fn fed(&mut self, now: Instant) {
        self.last = now;
        self.turns = 0;
    }

    /// A turn without progress: lets others run, and now and then looks at the clock.
    pub fn idle(&mut self) -> Result<(), String> {
        const TURNS_PER_LOOK: u32 = 1024;
        self.turns += 1;
        if self.turns.is_multiple_of(TURNS_PER_LOOK) && self.last.elapsed() > self.limit {
            return Err(format!(
                "no request was completed for {} s: the network or a peer stands still",
                self.limit.as_secs_f64()
            ));
        }
        rest(self.nap);
        Ok(())
    }
}

/// Lets others run, for so long at least.
fn rest(nap: Duration) {
    if nap.is_zero() {
        thread::yield_now();
    } else {
        thread::sleep(nap);
    }
}
