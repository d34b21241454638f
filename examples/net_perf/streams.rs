//! Streams of messages over connections, several outstanding on each: the engine of `sendrecv`,
//! `alltoall` and `incast`, which differ only in who is connected with whom; and `pingpong`, which
//! has one message under way at a time.
#![allow(
    unsafe_code,
    reason = "posts and tests requests on memory that it owns; each block says why it may"
)]

use std::time::Instant;

use crate::Job;
use crate::lane::{Buffer, Lanes, Pending, Watchdog};
use crate::meter::Meter;
use crate::net::{Mr, RecvSlot};
use crate::pace::Pace;
use crate::pattern;

/// A connection's memory: one slot per message that may be outstanding.
struct Slots {
    buffer: Buffer,
    mr: Mr,
    count: u64,
    size: usize,
}

impl Slots {
    fn offset(&self, message: u64) -> usize {
        usize::try_from(message % self.count).unwrap_or(0) * self.size
    }
}

/// The memory of all connections of a rank.
pub struct Memory {
    sends: Vec<Slots>,
    recvs: Vec<Slots>,
}

/// Allocates and registers memory for messages of `size` bytes, `per_lane` on each connection.
pub fn prepare(job: &Job, lanes: &Lanes, size: usize, per_lane: usize) -> Result<Memory, String> {
    let slots = |register: &dyn Fn(&Buffer) -> Result<Mr, crate::net::NetError>| {
        let bytes = size
            .checked_mul(per_lane)
            .ok_or("the size is too large: take a smaller one")?;
        let buffer = Buffer::new(bytes)?;
        let mr = register(&buffer).map_err(|e| e.to_string())?;
        Ok::<_, String>(Slots {
            buffer,
            mr,
            count: per_lane as u64,
            size,
        })
    };
    let mut memory = Memory {
        sends: Vec::new(),
        recvs: Vec::new(),
    };
    for lane in &lanes.sends {
        // SAFETY: the buffer lives in `Memory` until `release` has taken the registration back.
        memory.sends.push(slots(&|b| unsafe {
            job.net.reg_mr(&lane.comm, b.at(0, 0), b.registered_len())
        })?);
    }
    for lane in &lanes.recvs {
        // SAFETY: as above.
        memory.recvs.push(slots(&|b| unsafe {
            job.net.reg_mr(&lane.comm, b.at(0, 0), b.registered_len())
        })?);
    }
    Ok(memory)
}

/// Takes the registrations back and frees the memory.
pub fn release(job: &Job, lanes: &Lanes, memory: Memory) -> Result<(), String> {
    for (lane, slots) in lanes.sends.iter().zip(memory.sends) {
        // SAFETY: registered on this comm by `prepare`; every request has been seen done.
        unsafe { job.net.dereg_mr(&lane.comm, slots.mr) }.map_err(|e| e.to_string())?;
    }
    for (lane, slots) in lanes.recvs.iter().zip(memory.recvs) {
        // SAFETY: as above.
        unsafe { job.net.dereg_mr(&lane.comm, slots.mr) }.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Counters of one connection in one run.
#[derive(Clone, Copy, Default)]
struct Counts {
    issued: u64,
    done: u64,
}

/// Runs until `pace` ends: on every connection `group` messages per iteration, the receiver taking
/// each group with one request. `base` numbers the first message, so that no pattern comes twice.
pub fn run(
    job: &mut Job,
    lanes: &mut Lanes,
    memory: &Memory,
    mut pace: Pace,
    meter: &mut Meter,
    base: u64,
) -> Result<(), String> {
    let (group, inflight) = (job.options.group, job.options.inflight);
    let per_group = group as u64;
    let mut sends = vec![Counts::default(); lanes.sends.len()];
    let mut recvs = vec![Counts::default(); lanes.recvs.len()];
    let mut watchdog = Watchdog::new(&job.options);
    let mut now = Instant::now();
    loop {
        let started = sends
            .iter()
            .map(|c| c.issued / per_group)
            .chain(recvs.iter().map(|c| c.issued))
            .max()
            .unwrap_or(u64::MAX);
        pace.tick(now, started, &mut job.world)?;
        let until = pace.until();
        let mut progress = false;
        for (i, counts) in recvs.iter_mut().enumerate() {
            progress |= receive(job, lanes, memory, i, counts, until, now, meter, base)?;
        }
        for (i, counts) in sends.iter_mut().enumerate() {
            let room = inflight * group;
            progress |= send(
                job,
                lanes,
                memory,
                i,
                counts,
                until * per_group,
                room,
                now,
                meter,
                base,
            )?;
        }
        now = Instant::now();
        if progress {
            watchdog.fed(now);
            meter.iterations = sends
                .iter()
                .map(|c| c.done / per_group)
                .chain(recvs.iter().map(|c| c.done))
                .min()
                .unwrap_or(0);
        } else {
            watchdog.idle()?;
        }
        meter.tick(now);
        let all_done = sends.iter().all(|c| c.done >= until * per_group)
            && recvs.iter().all(|c| c.done >= until);
        if all_done && pace.is_last() {
            return Ok(());
        }
    }
}

/// Posts what may be posted on one receiving connection and tests its oldest request.
#[allow(
    clippy::too_many_arguments,
    reason = "the state of one loop, split for reading"
)]
fn receive(
    job: &Job,
    lanes: &mut Lanes,
    memory: &Memory,
    index: usize,
    counts: &mut Counts,
    until: u64,
    now: Instant,
    meter: &mut Meter,
    base: u64,
) -> Result<bool, String> {
    let (lane, slots) = (&mut lanes.recvs[index], &memory.recvs[index]);
    let group = job.options.group;
    let named = |e: crate::net::NetError| format!("from rank {}: {e}", lane.peer);
    while counts.issued < until && lane.pending.len() < job.options.inflight {
        let is_paused = |posted| now.duration_since(posted) < job.options.pause;
        if lane.posted.is_some_and(is_paused) {
            break;
        }
        let mut group_slots = [const { None }; crate::net::MAX_GROUP];
        for (tag, slot) in (0..).zip(group_slots.iter_mut().take(group)) {
            let message = counts.issued * group as u64 + tag;
            *slot = Some(RecvSlot {
                data: slots.buffer.at(slots.offset(message), slots.size),
                size: slots.size,
                tag: i32::try_from(tag).unwrap_or(0),
                mr: &slots.mr,
            });
        }
        let all: Vec<RecvSlot<'_>> = group_slots.into_iter().flatten().collect();
        // SAFETY: the slots of this group are free, since at most `inflight` groups are outstanding
        // and they are completed in order; the memory outlives the requests.
        let posted = unsafe { job.net.irecv(&lane.comm, &all) }.map_err(named)?;
        let Some(request) = posted else { break };
        lane.pending.push_back(Pending {
            request,
            since: now,
        });
        lane.posted = Some(now);
        counts.issued += 1;
    }
    let Some(oldest) = lane.pending.front() else {
        return Ok(false);
    };
    // SAFETY: not yet seen done, for then it is popped; the comm is open.
    let Some(sizes) = unsafe { job.net.test(&oldest.request) }.map_err(named)? else {
        return Ok(false);
    };
    let from = lane.peer;
    for (tag, &got) in (0..).zip(sizes.iter().take(group)) {
        let message = counts.done * group as u64 + tag;
        if usize::try_from(got) != Ok(slots.size) {
            meter.wrong += slots.size.max(1) as u64;
        } else if job.options.check {
            // SAFETY: the receive is done and the slot is not yet used again.
            let bytes = unsafe { slots.buffer.bytes(slots.offset(message), slots.size) };
            let seed = pattern::seed(from, job.world.rank, lane.channel, base + message);
            meter.wrong += pattern::wrong_bytes(bytes, seed);
        }
    }
    finish(&mut lane.pending, counts, meter, 0, slots.size * group);
    Ok(true)
}

/// Posts what may be posted on one sending connection and tests its oldest request.
#[allow(
    clippy::too_many_arguments,
    reason = "the state of one loop, split for reading"
)]
fn send(
    job: &Job,
    lanes: &mut Lanes,
    memory: &Memory,
    index: usize,
    counts: &mut Counts,
    until: u64,
    room: usize,
    now: Instant,
    meter: &mut Meter,
    base: u64,
) -> Result<bool, String> {
    let (lane, slots) = (&mut lanes.sends[index], &memory.sends[index]);
    let group = job.options.group as u64;
    let named = |e: crate::net::NetError| format!("to rank {}: {e}", lane.peer);
    while counts.issued < until && lane.pending.len() < room {
        // The tags of a group come in falling order, so that the receiver has to look at them.
        let tag = group - 1 - counts.issued % group;
        let message = counts.issued - counts.issued % group + tag;
        let offset = slots.offset(counts.issued);
        if job.options.check {
            let seed = pattern::seed(job.world.rank, lane.peer, lane.channel, base + message);
            // SAFETY: the slot is free: see below.
            pattern::fill(unsafe { slots.buffer.bytes_mut(offset, slots.size) }, seed);
        }
        let data = slots.buffer.at(offset, slots.size);
        // SAFETY: the slot is free, since at most as many messages are outstanding as there are
        // slots and they are completed in order; the memory outlives the requests.
        let posted = unsafe {
            let tag = i32::try_from(tag).unwrap_or(0);
            job.net.isend(&lane.comm, data, slots.size, tag, &slots.mr)
        };
        let Some(request) = posted.map_err(named)? else {
            break;
        };
        lane.pending.push_back(Pending {
            request,
            since: now,
        });
        counts.issued += 1;
    }
    let Some(oldest) = lane.pending.front() else {
        return Ok(false);
    };
    // SAFETY: not yet seen done, for then it is popped; the comm is open.
    if unsafe { job.net.test(&oldest.request) }
        .map_err(named)?
        .is_none()
    {
        return Ok(false);
    }
    finish(&mut lane.pending, counts, meter, slots.size, 0);
    Ok(true)
}

/// Books the oldest request as done.
fn finish(
    pending: &mut std::collections::VecDeque<Pending>,
    counts: &mut Counts,
    meter: &mut Meter,
    sent: usize,
    received: usize,
) {
    let now = Instant::now();
    if let Some(done) = pending.pop_front() {
        meter.latency.add(now.duration_since(done.since));
    }
    counts.done += 1;
    meter.completed(now, sent, received);
}

/// One message there and one back, again and again; the receive is posted before it is needed.
pub fn ping_pong(
    job: &mut Job,
    lanes: &mut Lanes,
    memory: &Memory,
    mut pace: Pace,
    meter: &mut Meter,
    base: u64,
) -> Result<(), String> {
    let begins = job.world.rank.is_multiple_of(2);
    let mut sent = Counts::default();
    let mut received = Counts::default();
    let mut watchdog = Watchdog::new(&job.options);
    let mut round = 0;
    let mut started = Instant::now();
    loop {
        pace.tick(started, round, &mut job.world)?;
        if round >= pace.until() {
            if pace.is_last() {
                return Ok(());
            }
            watchdog.idle()?;
            started = Instant::now();
            continue;
        }
        for leg in 0..2 {
            let sends = begins == (leg == 0);
            loop {
                let done = if sends {
                    send(
                        job,
                        lanes,
                        memory,
                        0,
                        &mut sent,
                        round + 1,
                        1,
                        started,
                        meter,
                        base,
                    )?
                } else {
                    receive(
                        job,
                        lanes,
                        memory,
                        0,
                        &mut received,
                        round + 1,
                        started,
                        meter,
                        base,
                    )?
                };
                if done {
                    break;
                }
                // The answer's receive stands ready before the answer can come.
                if sends && received.issued == round {
                    receive(
                        job,
                        lanes,
                        memory,
                        0,
                        &mut received,
                        round + 1,
                        started,
                        meter,
                        base,
                    )?;
                }
                watchdog.idle()?;
            }
        }
        round += 1;
        let now = Instant::now();
        watchdog.fed(now);
        if round == 1 {
            // The first round contains the other rank's start.
            meter.latency = crate::meter::Histogram::new();
        } else if begins {
            meter.half_round_trips.add(now.duration_since(started) / 2);
        }
        started = now;
        meter.iterations = round;
        meter.tick(now);
    }
}
