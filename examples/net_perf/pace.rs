//! How far a run goes: a number of iterations, or a time. For a time all ranks must still stop after
//! the same iteration, although none may wait for another: rank 0 hands out iterations ahead of
//! need, and when the time is up it says that what has been handed out was the last.

use std::time::{Duration, Instant};

use crate::rendezvous::{Grant, World};

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    Iterations(u64),
    Time(Duration),
}

/// The state of a run towards its limit.
pub struct Pace {
    limit: Limit,
    grant: Grant,
    began: Instant,
    last_poll: Instant,
    /// Iterations that a rank can have under way at once.
    depth: u64,
}

impl Pace {
    pub fn new(limit: Limit, depth: usize) -> Self {
        let now = Instant::now();
        let depth = depth as u64;
        let grant = match limit {
            Limit::Iterations(n) => Grant {
                until: n,
                is_last: true,
            },
            Limit::Time(_) => Grant {
                until: depth,
                is_last: false,
            },
        };
        Self {
            limit,
            grant,
            began: now,
            last_poll: now,
            depth,
        }
    }

    /// Iterations below this may be started.
    pub fn until(&self) -> u64 {
        self.grant.until
    }

    /// Nothing will follow after [`Self::until`].
    pub fn is_last(&self) -> bool {
        self.grant.is_last
    }

    /// Hands out, or hears of, further iterations. `started` is how many this rank has begun.
    pub fn tick(&mut self, now: Instant, started: u64, world: &mut World) -> Result<(), String> {
        const POLL_PERIOD: Duration = Duration::from_millis(1);
        let Limit::Time(limit) = self.limit else {
            return Ok(());
        };
        if self.grant.is_last {
            return Ok(());
        }
        if world.rank != 0 {
            if started >= self.grant.until || now.duration_since(self.last_poll) >= POLL_PERIOD {
                self.last_poll = now;
                if let Some(grant) = world.poll_grant()? {
                    self.grant = grant;
                }
            }
            return Ok(());
        }
        let elapsed = now.duration_since(self.began);
        if elapsed >= limit {
            self.grant.is_last = true;
            return world.send_grant(self.grant);
        }
        let ahead = self.ahead(started, elapsed);
        if started + ahead / 2 > self.grant.until {
            self.grant.until = started + ahead;
            return world.send_grant(self.grant);
        }
        Ok(())
    }

    /// How many iterations to hand out in advance: what 100 ms need at the speed so far, which
    /// bounds both the overrun at the end and the chance that a rank waits for a word; but never
    /// more than have been done, since a speed seen for a moment only is no speed.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    fn ahead(&self, started: u64, elapsed: Duration) -> u64 {
        const HORIZON_S: f64 = 0.1;
        let done = started.saturating_sub(self.depth);
        let per_s = done as f64 / elapsed.as_secs_f64().max(1e-6);
        ((per_s * HORIZON_S) as u64)
            .min(done)
            .max(2 * self.depth + 2)
    }
}
