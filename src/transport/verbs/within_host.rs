//! A queue pair of a port with itself: its adapter does within this host what no processor can do to the
//! memory of a GPU.
//!
//! A read from that memory comes back only after what the same adapter has written there before, and so
//! makes it visible to the GPU; a write takes a small message there that had no credit.

#![allow(
    unsafe_code,
    reason = "adapters read and write memory that is named by address"
)]

use std::collections::VecDeque;
use std::mem::ManuallyDrop;

use super::channel::{Grave, Pair, Slab};
use super::sys::{
    Completion, Depths, Done, FLUSHED, Operation, Piece, QueuePair, Request, SysError, status_text,
};
use super::{EAGER_BYTES_MAX, Failed, Move, Mover};
use crate::clock::Timestamp;
use crate::units::Nanos;

/// Moves that are under way at once.
const MOVES: u32 = 64;
/// Small messages among them, each in memory of its own.
const STAGED: usize = 16;
const STAGE_BYTES: usize = EAGER_BYTES_MAX as usize;
/// What flushes read comes here.
const SINK_BYTES: usize = 64;
/// How long the rest of a silenced queue pair's completions may take, as for a path.
pub const DRAIN_MAX: Nanos = Nanos(500_000_000);

/// What its queue pair has to hold.
pub const DEPTHS: Depths = Depths {
    send: MOVES,
    // Nothing is received, but not every adapter knows none at all.
    receive: 1,
    inline: 0,
};

/// Does moves over a queue pair that is connected to itself.
#[derive(Debug)]
pub struct WithinHost<P: Pair = QueuePair> {
    // Both are there until it is dropped.
    pair: ManuallyDrop<P>,
    slab: ManuallyDrop<Slab>,
    grave: Option<Grave<P>>,
    /// What is under way, with the memory of those that have a message.
    begun: VecDeque<Option<u16>>,
    free: Vec<u16>,
    taken: Vec<Completion>,
    /// The completion queue has failed, and tells nothing more.
    lost: Option<String>,
}

impl<P: Pair> WithinHost<P> {
    /// Over a queue pair that was made with [`DEPTHS`].
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new(
        pair: P,
        memory: impl FnOnce(usize) -> Result<Slab, SysError>,
    ) -> Result<Self, SysError> {
        let slab = memory(STAGED * STAGE_BYTES + SINK_BYTES)?;
        Ok(Self {
            pair: ManuallyDrop::new(pair),
            slab: ManuallyDrop::new(slab),
            grave: None,
            begun: VecDeque::with_capacity(MOVES as usize),
            free: (0..u16::try_from(STAGED).unwrap_or(0)).collect(),
            taken: Vec::new(),
            lost: None,
        })
    }

    /// What is left of it goes there.
    pub fn bury_in(&mut self, grave: Grave<P>) {
        self.grave = Some(grave);
    }

    /// The queue pair.
    #[must_use]
    pub fn pair(&self) -> &P {
        &self.pair
    }

    /// As [`Mover::begin`].
    ///
    /// # Errors
    /// As there.
    pub fn begin(&mut self, step: Move<'_>) -> Result<bool, String> {
        if self.begun.len() >= MOVES as usize {
            return Ok(false);
        }
        let key = self.slab.key();
        let (request, stage) = match step {
            Move::Flush { addr, key: remote } => {
                let local = Piece {
                    addr: self.slab.at(STAGED * STAGE_BYTES) as u64,
                    bytes: 1,
                    key,
                };
                (
                    Request {
                        id: 0,
                        local,
                        operation: Operation::Get { addr, key: remote },
                    },
                    None,
                )
            }
            Move::Bring {
                data,
                addr,
                key: remote,
            } => {
                if data.len() > STAGE_BYTES {
                    return Err("a message that is too long to be small".into());
                }
                let Some(stage) = self.free.pop() else {
                    return Ok(false);
                };
                let at = self.slab.at(usize::from(stage) * STAGE_BYTES);
                // SAFETY: the stage is free, and as long as any such message.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), at, data.len()) };
                let local = Piece {
                    addr: at as u64,
                    bytes: u32::try_from(data.len()).unwrap_or(u32::MAX),
                    key,
                };
                let operation = Operation::Put { addr, key: remote };
                (
                    Request {
                        id: 0,
                        local,
                        operation,
                    },
                    Some(stage),
                )
            }
        };
        // SAFETY: the slab outlives the queue pair, and a stage is free again only once its request has
        // ended.
        if let Err(refused) = unsafe { self.pair.post(&[request]) } {
            self.free.extend(stage);
            return Err(refused.error.to_string());
        }
        self.begun.push_back(stage);
        Ok(true)
    }

    /// As [`Mover::poll`].
    pub fn poll(&mut self, ended: &mut Vec<Result<(), Failed>>) {
        if self.lost.is_none()
            && let Err(error) = self.pair.poll(&mut self.taken)
        {
            self.lost = Some(error.to_string());
        }
        for completion in self.taken.drain(..) {
            let Some(stage) = self.begun.pop_front() else {
                continue;
            };
            self.free.extend(stage);
            ended.push(match completion.done {
                Done::Failed(status) => Err(Failed {
                    reason: status_text(status),
                    by_itself: status != FLUSHED,
                }),
                Done::Sent | Done::Written(..) | Done::Received(_) => Ok(()),
            });
        }
        if let Some(reason) = &self.lost {
            ended.extend(self.begun.drain(..).map(|_| {
                Err(Failed {
                    reason: reason.clone(),
                    by_itself: true,
                })
            }));
        }
    }

    /// As [`Mover::silence`].
    pub fn silence(&mut self) {
        // Where the device is gone, it is silent.
        let _ = self.pair.silence();
    }

    /// As [`Mover::end`].
    pub fn end(&mut self) {
        self.silence();
        let deadline = Timestamp::now() + DRAIN_MAX;
        let mut ended = Vec::new();
        while !self.begun.is_empty() && Timestamp::now() < deadline {
            self.poll(&mut ended);
            std::thread::yield_now();
        }
    }
}

impl<P: Pair + Send> Mover for WithinHost<P> {
    fn begin(&mut self, step: Move<'_>) -> Result<bool, String> {
        Self::begin(self, step)
    }

    fn poll(&mut self, ended: &mut Vec<Result<(), Failed>>) {
        Self::poll(self, ended);
    }

    fn silence(&mut self) {
        Self::silence(self);
    }

    fn end(&mut self) {
        Self::end(self);
    }
}

impl<P: Pair> Drop for WithinHost<P> {
    fn drop(&mut self) {
        self.end();
        // SAFETY: neither is used below, nor taken twice.
        let (pair, slab) = unsafe {
            (
                ManuallyDrop::take(&mut self.pair),
                ManuallyDrop::take(&mut self.slab),
            )
        };
        Slab::bury(pair, slab, self.grave.as_ref());
    }
}
