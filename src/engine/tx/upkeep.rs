//! What time makes due: fences that were not answered, dials, and the search for further ways.

use super::paths::TxPath;
use super::{PathState, Probes, TxAction, TxEngine, TxEvent, index_u8};
use crate::clock::Timestamp;
use crate::engine::wire::Frame;
use crate::path::health::Verdict;
use crate::path::search::{self, Base, Candidate, Way};
use crate::units::Nanos;

/// A fence that is not answered is repeated, over whatever path is best by then.
pub(super) const FENCE_REPEAT: Nanos = Nanos(20_000_000);
/// A dial that has got nowhere for so long is given up: far below TCP's first retry (1 s).
const REDIAL_MIN: Nanos = Nanos(20_000_000);
/// Back-off between dials of one path never grows beyond this.
const REDIAL_MAX: Nanos = Nanos(500_000_000);
/// The search probes once a link has had more to send than its paths take for so long, and its
/// bytes make a queue on every way in use.
const FULL_AFTER: Nanos = Nanos(2_000_000);
/// Or, queue or not, for so long.
const SATURATED_AFTER: Nanos = Nanos(50_000_000);
/// A probe that has not been answered by then will not be.
const PROBE_LOST: Nanos = Nanos(60_000_000);
/// After a path has joined, its queue needs so long to show before the next is judged.
const SETTLE: Nanos = Nanos(25_000_000);
/// The search ends after so many candidates in a row led nowhere new: with one of four ways
/// missing, the chance of overlooking it is 0.75^16, one in a hundred.
const SEARCH_MISSES: u32 = 16;
/// An ended search is taken up again after this long.
const SEARCH_AGAIN: Nanos = Nanos(30_000_000_000);
/// A path is verified so soon after the last one, for the first time and from then on.
const VERIFY_FIRST: Nanos = Nanos(100_000_000);
const VERIFY_AGAIN: Nanos = Nanos(500_000_000);
/// It is given up if it meets a queue in so many rounds in a row.
const VERIFY_ROUNDS: u8 = 2;
/// Dials that the search may make at once, and the time in which it earns one more.
pub(super) const DIAL_BURST: u32 = 48;
const DIAL_EARN: Nanos = Nanos(250_000_000);

impl TxEngine {
    /// Does what time has made due: fences that were not answered, dials, the search.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.failed.is_some() {
            return;
        }
        for index in 0..self.paths.len() {
            let p = &mut self.paths[index];
            let Some(epoch) = p.open_fence else { continue };
            if now.since(p.fence_sent_at) >= FENCE_REPEAT {
                p.fence_sent_at = now;
                let fence = Frame::Fence {
                    path: index_u8(index),
                    epoch,
                };
                self.control.push_back((None, fence.encode()));
            }
        }
        let alive = self.paths.iter().any(TxPath::is_well);
        if alive || self.conns.is_empty() {
            self.last_life = now;
        } else if now.since(self.last_life) >= self.config.dead_peer {
            let silent = now.since(self.last_life).as_millis();
            self.fail(format!(
                "no path has been acknowledged for {silent} ms (limit: THALWEG_DEAD_PEER_MS)"
            ));
            return;
        }
        self.step_dials(now);
        if self.config.search {
            self.step_search(now);
        }
    }

    /// The dial that [`TxAction::Dial`] asked for came to nothing.
    pub fn handle_dial_failed(&mut self, path: u8, epoch: u16, now: Timestamp) {
        let p = &mut self.paths[usize::from(path)];
        if p.epoch != epoch || p.state != PathState::Dialing {
            return;
        }
        p.state = PathState::Vacant;
        p.dial_failures += 1;
        let wait = Nanos(REDIAL_MIN.0 << p.dial_failures.min(5)).min(REDIAL_MAX);
        p.dial_at = now + wait;
    }

    pub(super) fn step_dials(&mut self, now: Timestamp) {
        if self.peer_leaves {
            return;
        }
        while now.since(self.dial_earned_at) >= DIAL_EARN {
            let late = now.since(self.dial_earned_at).0 / DIAL_EARN.0;
            self.dial_earned_at += Nanos(DIAL_EARN.0 * late);
            let earned = u32::try_from(late).unwrap_or(DIAL_BURST);
            self.dial_tokens = self.dial_tokens.saturating_add(earned).min(DIAL_BURST);
        }
        let any_up = self.any_up();
        let any_dialing = self.paths.iter().any(|p| p.state == PathState::Dialing);
        let returning = self.paths.iter().filter(|p| p.died_silent).count();
        let few_returning = 2 * returning <= self.paths.len();
        let was_up = self
            .paths
            .iter()
            .any(|p| p.epoch != 0 && p.state != PathState::Dialing);
        for index in 0..self.paths.len() {
            let p = &self.paths[index];
            if p.state != PathState::Vacant || now < p.dial_at {
                continue;
            }
            if !any_up && (any_dialing || index > 0) && !was_up {
                continue; // the very first path comes alone
            }
            let returning = p.died_silent;
            let ended = self.search_ended_at.is_some();
            if any_up && self.config.search && ended && !returning {
                continue;
            }
            if any_up && !returning {
                if self.dial_tokens == 0 {
                    continue;
                }
                self.dial_tokens -= 1;
            }
            let p = &mut self.paths[index];
            // Its port pair tells when its way is back. If most paths died, every other try takes
            // a new port instead: the others must be found first.
            let same_port = returning && (few_returning || p.dial_failures.is_multiple_of(2));
            p.epoch = p.epoch.wrapping_add(1).max(1);
            p.state = PathState::Dialing;
            let deadline = if any_up {
                Nanos(200_000_000)
            } else {
                Nanos(1_000_000_000)
            };
            p.dial_at = now + deadline;
            self.actions.push_back(TxAction::Dial {
                path: index_u8(index),
                epoch: p.epoch,
                same_port,
                fence: p.open_fence,
                deadline,
            });
            if !any_up && !was_up {
                break;
            }
        }
    }

    pub(super) fn reopen_search(&mut self) {
        self.misses = 0;
        self.search_ended_at = None;
    }

    pub(super) fn step_search(&mut self, now: Timestamp) {
        if let Some(ended) = self.search_ended_at {
            if now.since(ended) < SEARCH_AGAIN {
                if self.paths.iter().all(|p| p.state != PathState::Standby) {
                    return;
                }
            } else {
                self.reopen_search();
            }
        }
        let Some(backlog_since) = self.backlog_since else {
            return;
        };
        if now < self.settle_until {
            return;
        }
        // The queue that our own bytes make, this moment, on the emptiest of the ways in use.
        let queue = self
            .paths
            .iter()
            .zip(&self.views)
            .filter(|(p, _)| p.is_active() && p.verdict == Verdict::Fine)
            .map(|(_, view)| Nanos(view.completion_ns(0).saturating_sub(view.delay_ns)))
            .min()
            .unwrap_or_default();
        // Traffic that comes in bursts fills the ways only now and then; a network on which our
        // bytes make no queue that could be seen is given up on after a while.
        let backlog = now.since(backlog_since);
        let full = backlog >= FULL_AFTER && queue >= search::QUEUE_MIN * 4;
        if !full && backlog < SATURATED_AFTER {
            return;
        }
        let mut judged = true;
        for index in 0..self.paths.len() {
            let p = &mut self.paths[index];
            if p.state != PathState::Standby || p.verdict != Verdict::Fine {
                continue;
            }
            let since = now.since(p.candidate.sent_at);
            if p.candidate.answered >= search::PROBES
                || (p.candidate.sent >= search::PROBES && since >= PROBE_LOST)
            {
                continue;
            }
            judged = false;
            // What a path that is being verified still carries would pass for another's queue.
            let drained = p.queue.is_empty();
            if drained && p.candidate.sent < search::PROBES && since >= search::PROBE_GAP {
                p.candidate.sent += 1;
                p.candidate.sent_at = now;
                self.probe(index, now);
            }
        }
        if judged {
            self.judge_round(queue, now);
            self.verify_one(now);
        }
    }

    /// Every candidate has been probed over the same few milliseconds: judges them together.
    pub(super) fn judge_round(&mut self, queue: Nanos, now: Timestamp) {
        let probed =
            |p: &TxPath| p.state == PathState::Standby && p.candidate.answered >= search::PROBES;
        let waited = |p: &TxPath, base: &Base| p.candidate.waited(base);
        let round: Vec<(usize, Nanos)> = (0..self.paths.len())
            .filter(|&i| probed(&self.paths[i]))
            .map(|i| (i, waited(&self.paths[i], &self.base)))
            .collect();
        let verdict = search::judge(round.iter().map(|&(_, waited)| waited), queue, self.unsure);
        self.unsure = if verdict == search::Round::Unsure {
            self.unsure + 1
        } else {
            0
        };
        let mut joined = false;
        let mut witness = false;
        for &(index, delay) in &round {
            let evidence = Probes {
                waited: delay,
                queue,
            };
            let p = &mut self.paths[index];
            match verdict.way(delay) {
                // One at a time: two that lead elsewhere may lead to the same elsewhere.
                Way::New if !joined => {
                    joined = true;
                    self.misses = 0;
                    self.activate(index, Some(evidence));
                }
                // One round may have met a straggler: a path in use is not given up for that.
                Way::Shared if p.verifying > 1 => p.verifying -= 1,
                Way::Shared if !witness => {
                    p.verifying = 0;
                    // It stays, to tell in later rounds whether the ways in use are full.
                    witness = true;
                    if !std::mem::replace(&mut p.is_witness, true) {
                        self.missed(index, evidence, now);
                    }
                }
                Way::Shared => {
                    let epoch = p.epoch;
                    p.state = PathState::Vacant;
                    p.died_silent = false;
                    p.dial_at = now;
                    self.actions.push_back(TxAction::Close {
                        path: index_u8(index),
                        epoch,
                    });
                    self.missed(index, evidence, now);
                }
                // A path that was only being verified goes back to work for want of evidence.
                Way::Unknown if p.verifying > 0 => self.activate(index, Some(evidence)),
                Way::New | Way::Unknown => {}
            }
        }
        if joined {
            self.settle_until = now + SETTLE;
        }
        for p in &mut self.paths {
            p.candidate = Candidate::default();
        }
    }

    pub(super) fn missed(&mut self, index: usize, probes: Probes, now: Timestamp) {
        self.events.push_back(TxEvent::Collided {
            path: index_u8(index),
            probes,
        });
        self.misses += 1;
        if self.misses >= SEARCH_MISSES && self.search_ended_at.is_none() {
            self.search_ended_at = Some(now);
            let active = self.paths.iter().filter(|p| p.is_active()).count();
            self.events.push_back(TxEvent::SearchEnded { active });
        }
    }

    /// Takes one active path at a time out of use for a moment, longest unverified first, and
    /// lets it prove like any candidate that its way is empty then: what was wrongly admitted,
    /// or has come to share a way since, does not stay.
    pub(super) fn verify_one(&mut self, now: Timestamp) {
        let active = |p: &TxPath| p.is_active() && p.verdict == Verdict::Fine;
        let verifying = self
            .paths
            .iter()
            .any(|p| p.state == PathState::Standby && p.verifying > 0);

        if verifying || self.paths.iter().filter(|p| active(p)).count() < 2 {
            return;
        }
        let oldest = (0..self.paths.len())
            .filter(|&i| active(&self.paths[i]))
            .min_by_key(|&i| self.paths[i].verified_at);
        let Some(index) = oldest else { return };
        let p = &mut self.paths[index];
        let gap = if p.verified_at == Timestamp::ZERO {
            VERIFY_FIRST
        } else {
            VERIFY_AGAIN
        };
        if now.since(self.verified_at) < gap {
            return;
        }
        self.verified_at = now;
        p.verified_at = now;
        p.state = PathState::Standby;
        p.verifying = VERIFY_ROUNDS;
        p.candidate = Candidate::default();
        self.refresh_views();
    }
}
