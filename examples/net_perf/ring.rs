//! The ring all-reduce, as NCCL's proxies and kernels run it together: every rank sends slices to the
//! next and receives from the one before, first reducing (n-1 steps), then handing round what is
//! complete (n-1 steps), with several slices under way, so that step follows step without a pause.
//! The sum is formed here on the CPU, from what arrived in a staging slot and this rank's own part.
#![allow(
    unsafe_code,
    reason = "posts and tests requests on memory that it owns; each block says why it may"
)]

use std::time::Instant;

use crate::Job;
use crate::lane::{Buffer, Lanes, Pending, Watchdog};
use crate::meter::Meter;
use crate::net::{Mr, NetError, RecvSlot};
use crate::pace::Pace;
use crate::pattern;

/// Registered memory of one ring.
struct Registrations {
    send_input: Mr,
    send_output: Mr,
    recv_output: Mr,
    recv_staging: Mr,
}

/// Memory and plan of an all-reduce of one size.
pub struct Plan {
    /// This rank's contribution.
    input: Buffer,
    /// The sum over all ranks.
    output: Buffer,
    rings: Vec<Ring>,
    rank: usize,
    ranks: usize,
    inflight: usize,
    /// Fill and compare in every iteration.
    check: bool,
}

/// One ring's share of the elements, and how it is cut.
struct Ring {
    staging: Buffer,
    registrations: Registrations,
    /// First element, and how many.
    first: usize,
    count: usize,
    /// Elements of a chunk (the part that one rank completes), and of a slice (one message).
    chunk: usize,
    slice: usize,
    /// Slices per chunk, the same for all chunks, hence empty ones at the end of a short chunk.
    slices: u64,
}

/// Where a ring stands in an iteration; items are slices in the order in which they travel.
#[derive(Clone, Copy, Default)]
struct Progress {
    send_issued: u64,
    send_done: u64,
    recv_posted: u64,
    recv_done: u64,
}

/// Allocates, cuts and registers.
pub fn prepare(job: &Job, lanes: &Lanes, size: usize) -> Result<Plan, String> {
    let ranks = job.world.size;
    let elements = size / 4;
    let input = Buffer::new(elements * 4)?;
    let output = Buffer::new(elements * 4)?;
    // SAFETY: nobody else knows these buffers yet.
    pattern::fill_floats(
        unsafe { input.floats_mut(0, elements) },
        0,
        0,
        job.world.rank,
    );
    let share = round_up(elements.div_ceil(lanes.sends.len()));
    let mut rings = Vec::new();
    for (i, (to, from)) in lanes.sends.iter().zip(&lanes.recvs).enumerate() {
        let first = (i * share).min(elements);
        let count = share.min(elements - first);
        let chunk = round_up(count.div_ceil(ranks));
        let slice = (job.options.slice_bytes / 4).min(chunk.max(1));
        let staging = Buffer::new(slice * 4 * job.options.inflight)?;
        let e = |e: NetError| e.to_string();
        // SAFETY: all three buffers live in the plan until `release` has taken these back.
        let registrations = unsafe {
            let net = &job.net;
            let reg = |b: &Buffer| (b.at(0, 0), b.registered_len());
            let ((i, il), (o, ol), (s, sl)) = (reg(&input), reg(&output), reg(&staging));
            Registrations {
                send_input: net.reg_mr(&to.comm, i, il).map_err(e)?,
                send_output: net.reg_mr(&to.comm, o, ol).map_err(e)?,
                recv_output: net.reg_mr(&from.comm, o, ol).map_err(e)?,
                recv_staging: net.reg_mr(&from.comm, s, sl).map_err(e)?,
            }
        };
        rings.push(Ring {
            staging,
            registrations,
            first,
            count,
            chunk,
            slice,
            slices: chunk.div_ceil(slice).max(1) as u64,
        });
    }
    Ok(Plan {
        input,
        output,
        rings,
        rank: job.world.rank,
        ranks,
        inflight: job.options.inflight,
        check: job.options.check,
    })
}

/// Takes the registrations back and frees the memory.
pub fn release(job: &Job, lanes: &Lanes, plan: Plan) -> Result<(), String> {
    for (ring, (to, from)) in plan
        .rings
        .into_iter()
        .zip(lanes.sends.iter().zip(&lanes.recvs))
    {
        let r = ring.registrations;
        // SAFETY: registered on these comms by `prepare`; every request has been seen done.
        unsafe {
            let net = &job.net;
            net.dereg_mr(&to.comm, r.send_input)
                .and_then(|()| net.dereg_mr(&to.comm, r.send_output))
                .and_then(|()| net.dereg_mr(&from.comm, r.recv_output))
                .and_then(|()| net.dereg_mr(&from.comm, r.recv_staging))
                .map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// Cuts at multiples of 128 bytes, as NCCL does, unless that would leave ranks without work.
fn round_up(elements: usize) -> usize {
    const LINE: usize = 32;
    if elements < LINE {
        elements
    } else {
        elements.next_multiple_of(LINE)
    }
}

impl Ring {
    /// Elements of slice `slice` of chunk `chunk`: first one and how many.
    fn range(&self, chunk: usize, slice: u64) -> (usize, usize) {
        let slice = usize::try_from(slice).unwrap_or(0);
        let begin = chunk * self.chunk + slice * self.slice;
        let end = (begin + self.slice)
            .min((chunk + 1) * self.chunk)
            .min(self.count);
        (
            self.first + begin.min(self.count),
            end.saturating_sub(begin),
        )
    }
}

/// Runs all-reduces until `pace` ends. `base` numbers the first, so that no pattern comes twice.
pub fn run(
    job: &mut Job,
    lanes: &mut Lanes,
    plan: &Plan,
    mut pace: Pace,
    meter: &mut Meter,
    base: u64,
) -> Result<(), String> {
    let mut watchdog = Watchdog::new(&job.options);
    let mut iteration = 0;
    let mut progress = vec![Progress::default(); plan.rings.len()];
    loop {
        let started = Instant::now();
        let mut now = started;
        // The word to go on may have to be waited for; the word to stop as well.
        loop {
            pace.tick(now, iteration, &mut job.world)?;
            if iteration < pace.until() {
                break;
            }
            if pace.is_last() {
                return Ok(());
            }
            watchdog.idle()?;
            now = Instant::now();
        }
        progress.fill(Progress::default());
        let number = if plan.check { base + iteration } else { 0 };
        loop {
            let mut moved = false;
            let mut complete = true;
            for (i, p) in progress.iter_mut().enumerate() {
                let turn = Turn {
                    job,
                    plan,
                    ring: &plan.rings[i],
                    number,
                    now,
                };
                moved |= turn.receive(lanes, i, p, meter)?;
                moved |= turn.send(lanes, i, p, meter)?;
                let items = turn.items();
                complete &= p.send_done == items && p.recv_done == items;
            }
            now = Instant::now();
            meter.tick(now);
            if complete {
                break;
            }
            if moved {
                watchdog.fed(now);
            } else {
                watchdog.idle()?;
            }
            // Keeps rank 0 handing out, and the others listening, inside a long iteration.
            pace.tick(now, iteration + 1, &mut job.world)?;
        }
        iteration += 1;
        meter.iterations = iteration;
        meter.latency.add(now.duration_since(started));
    }
}

/// What one turn on one ring needs to know.
struct Turn<'a> {
    job: &'a Job,
    plan: &'a Plan,
    ring: &'a Ring,
    number: u64,
    now: Instant,
}

impl Turn<'_> {
    /// Items of one half: the reducing or the handing round.
    fn half(&self) -> u64 {
        (self.plan.ranks as u64 - 1) * self.ring.slices
    }

    fn items(&self) -> u64 {
        2 * self.half()
    }

    /// The chunk that item `item` carries when this rank sends it; what it receives is always the
    /// chunk before.
    fn chunk(&self, item: u64, back: usize) -> usize {
        let n = self.plan.ranks;
        let handing_round = usize::from(item >= self.half());
        let step = usize::try_from(item % self.half() / self.ring.slices).unwrap_or(0);
        (self.plan.rank + handing_round + 2 * n - step - back) % n
    }

    fn receive(
        &self,
        lanes: &mut Lanes,
        index: usize,
        p: &mut Progress,
        meter: &mut Meter,
    ) -> Result<bool, String> {
        let (ring, lane) = (self.ring, &mut lanes.recvs[index]);
        let named = |e: NetError| format!("from rank {}: {e}", lane.peer);
        let (half, items) = (self.half(), self.items());
        while p.recv_posted < items && lane.pending.len() < self.plan.inflight {
            let item = p.recv_posted;
            // A chunk's place in the output may still be being sent from, for the reduction: what
            // comes back into it waits until that send is done.
            if item >= half && p.send_done <= item - half {
                break;
            }
            let (first, count) = ring.range(self.chunk(item, 1), item % ring.slices);
            let (data, mr) = if item < half {
                let at = self.staging(item);
                (
                    ring.staging.at(at * 4, count * 4),
                    &ring.registrations.recv_staging,
                )
            } else {
                (
                    self.plan.output.at(first * 4, count * 4),
                    &ring.registrations.recv_output,
                )
            };
            let slot = RecvSlot {
                data,
                size: count * 4,
                tag: 0,
                mr,
            };
            // SAFETY: a staging slot is free again when `inflight` later items are done, which are
            // done in order; a place in the output is free as said above, and written once per
            // iteration. The memory outlives the requests.
            let posted = unsafe { self.job.net.irecv(&lane.comm, &[slot]) }.map_err(named)?;
            let Some(request) = posted else { break };
            lane.pending.push_back(Pending {
                request,
                since: self.now,
            });
            p.recv_posted += 1;
        }
        let Some(oldest) = lane.pending.front() else {
            return Ok(false);
        };
        // SAFETY: not yet seen done, for then it is popped; the comm is open.
        let Some(sizes) = unsafe { self.job.net.test(&oldest.request) }.map_err(named)? else {
            return Ok(false);
        };
        lane.pending.pop_front();
        let item = p.recv_done;
        let (first, count) = ring.range(self.chunk(item, 1), item % ring.slices);
        meter.completed(Instant::now(), 0, count * 4);
        if usize::try_from(sizes[0]) != Ok(count * 4) {
            meter.wrong += count.max(1) as u64;
        }
        if item < half {
            self.reduce(item, first, count);
        }
        let is_sum = item >= half - ring.slices;
        if self.plan.check && is_sum {
            // SAFETY: the receive into these elements, or their reduction, is done; they may be
            // being sent, which only reads.
            let sums = unsafe { self.plan.output.floats(first, count) };
            meter.wrong += pattern::wrong_sums(sums, first, self.number, self.plan.ranks);
        }
        p.recv_done += 1;
        Ok(true)
    }

    /// First element of an item's staging slot.
    fn staging(&self, item: u64) -> usize {
        usize::try_from(item % self.plan.inflight as u64).unwrap_or(0) * self.ring.slice
    }

    /// Output = what came + this rank's own.
    fn reduce(&self, item: u64, first: usize, count: usize) {
        if self.plan.check {
            self.renew_input(first, count);
        }
        // SAFETY: the receive into the staging slot is done and its next one is not posted; the
        // input is only read; this place of the output is not sent before this is done, and not
        // received into before that send is done.
        let (came, own, sum) = unsafe {
            (
                self.ring.staging.floats(self.staging(item), count),
                self.plan.input.floats(first, count),
                self.plan.output.floats_mut(first, count),
            )
        };
        for ((sum, came), own) in sum.iter_mut().zip(came).zip(own) {
            *sum = came + own;
        }
    }

    /// This iteration's contribution, written just before it is needed, while messages are under way.
    fn renew_input(&self, first: usize, count: usize) {
        // SAFETY: only the first step sends from the input, and from this rank's own chunk only,
        // which is renewed before that send and never reduced into; all sends of the iteration
        // before are done.
        let own = unsafe { self.plan.input.floats_mut(first, count) };
        pattern::fill_floats(own, first, self.number, self.plan.rank);
    }

    fn send(
        &self,
        lanes: &mut Lanes,
        index: usize,
        p: &mut Progress,
        meter: &mut Meter,
    ) -> Result<bool, String> {
        let (ring, lane) = (self.ring, &mut lanes.sends[index]);
        let named = |e: NetError| format!("to rank {}: {e}", lane.peer);
        while p.send_issued < self.items() && lane.pending.len() < self.plan.inflight {
            let item = p.send_issued;
            let is_own = item < ring.slices;
            // What is passed on must have come first.
            if !is_own && p.recv_done <= item - ring.slices {
                break;
            }
            let (first, count) = ring.range(self.chunk(item, 0), item % ring.slices);
            let (from, mr) = if is_own {
                (&self.plan.input, &ring.registrations.send_input)
            } else {
                (&self.plan.output, &ring.registrations.send_output)
            };
            if is_own && self.plan.check {
                self.renew_input(first, count);
            }
            let data = from.at(first * 4, count * 4);
            // SAFETY: these elements are complete and not written again in this iteration before
            // this send is done (see `receive`); the memory outlives the request.
            let posted = unsafe { self.job.net.isend(&lane.comm, data, count * 4, 0, mr) };
            let Some(request) = posted.map_err(named)? else {
                break;
            };
            lane.pending.push_back(Pending {
                request,
                since: self.now,
            });
            p.send_issued += 1;
        }
        let Some(oldest) = lane.pending.front() else {
            return Ok(false);
        };
        // SAFETY: not yet seen done, for then it is popped; the comm is open.
        if unsafe { self.job.net.test(&oldest.request) }
            .map_err(named)?
            .is_none()
        {
            return Ok(false);
        }
        lane.pending.pop_front();
        let item = p.send_done;
        let (_, count) = ring.range(self.chunk(item, 0), item % ring.slices);
        meter.completed(Instant::now(), count * 4, 0);
        p.send_done += 1;
        Ok(true)
    }
}
