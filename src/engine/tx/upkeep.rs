//! What time makes due: fences that were not answered, dials, and the search for further ways.

use super::message::TxConn;
use super::paths::TxPath;
use super::{PathState, Probes, TxAction, TxEngine, TxEvent, index_u8};
use crate::clock::Timestamp;
use crate::engine::UNHEARD;
use crate::engine::wire::Frame;
use crate::path::search::{self, Role, Roles, Way};
use crate::units::Nanos;

/// A dial that has got nowhere for so long is given up: far below TCP's first retry (1 s).
const REDIAL_MIN: Nanos = Nanos(20_000_000);
/// Back-off between dials of one path never grows beyond this.
pub(super) const REDIAL_MAX: Nanos = Nanos(500_000_000);
/// The search probes while a way in use has a queue, or while there has been more to send than the
/// paths take for so long, queue or not.
const SATURATED_AFTER: Nanos = Nanos(50_000_000);
/// The search ends after so many candidates in a row led nowhere new: with one of four ways
/// missing, the chance of overlooking it is 0.75^24, one in a thousand.
const SEARCH_MISSES: u32 = 24;
/// An ended search is taken up again after this long.
const SEARCH_AGAIN: Nanos = Nanos(30_000_000_000);
/// A path is verified so soon after it joined, and after twice as long each time it has proved
/// that its way is its own, up to [`VERIFY_LAST`]. Its share of the link is idle meanwhile, which
/// costs more than a path too many for a second.
pub(super) const VERIFY_FIRST: Nanos = Nanos(1_000_000_000);
const VERIFY_LAST: Nanos = Nanos(25_600_000_000);
/// What has not shown its way by then goes back to work.
const VERIFY_MAX: Nanos = Nanos(40_000_000);
/// Dials that the search may make at once, and the time in which it earns one more.
pub(super) const DIAL_BURST: u32 = 48;
pub(super) const DIAL_EARN: Nanos = Nanos(250_000_000);

impl TxEngine {
    /// Does what time has made due: fences that were not answered, dials, the search.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.now = now;
        self.publish(now);
        if self.failed.is_some() {
            return;
        }
        let any_up = self.any_up();
        for index in 0..self.paths.len() {
            let p = &mut self.paths[index];
            let Some(epoch) = p.open_fence.filter(|_| any_up) else {
                continue;
            };
            if now.since(p.fence_sent_at) >= self.config.health.fence_repeat {
                p.fence_sent_at = now;
                let fence = Frame::Fence {
                    path: index_u8(index),
                    epoch,
                };
                self.say(fence);
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
        self.ask_after(now);
        self.step_dials(now);
        if self.config.search {
            self.step_search(now);
        }
    }

    /// Pings the paths that have long been silent while something is expected of the peer.
    fn ask_after(&mut self, now: Timestamp) {
        let unheard =
            |p: &TxPath| p.is_up() && now.since(p.health.heard_at().max(p.probed_at)) >= UNHEARD;
        if !self.paths.iter().any(unheard) {
            return;
        }
        let waits = self.conns.values().any(TxConn::waits);
        for index in 0..self.paths.len() {
            let p = &self.paths[index];
            if unheard(p) && (waits || !p.queue.is_empty()) {
                self.probe(index, now);
            }
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

    fn step_dials(&mut self, now: Timestamp) {
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
        let steady = |p: &TxPath| p.is_active() && p.damping.is_steady(now);
        let any_steady = self.paths.iter().any(steady);
        let was_up = self
            .paths
            .iter()
            .any(|p| p.epoch != 0 && p.state != PathState::Dialing);
        for index in 0..self.paths.len() {
            let p = &self.paths[index];
            let damped = any_steady && now < p.damping.until();
            if p.state != PathState::Vacant || now < p.dial_at || damped {
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
            if !self.may_dial(p) {
                continue;
            }
            if self.takes_token(p) {
                self.dial_tokens -= 1;
            }
            let p = &mut self.paths[index];
            // Its port pair tells when its way is back, and a new one would soon be given up for sharing another way. If
            // most paths died, every other try takes a new port instead: the others must be found first.
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

    /// Searching is bounded by what dials it has earned; what leaves by fixed ports, or comes back, is not.
    fn takes_token(&self, path: &TxPath) -> bool {
        self.config.search && self.any_up() && !path.died_silent
    }

    /// Whether there is a dial left for this path, if it needs one.
    pub(super) fn may_dial(&self, path: &TxPath) -> bool {
        !self.takes_token(path) || self.dial_tokens > 0
    }

    pub(super) fn reopen_search(&mut self) {
        self.misses = 0;
        self.search_ended_at = None;
    }

    fn step_search(&mut self, now: Timestamp) {
        if self
            .search_ended_at
            .is_some_and(|ended| now.since(ended) >= SEARCH_AGAIN)
        {
            self.reopen_search();
        }
        // Nothing shows where nobody waits: it goes back to work.
        let is_overdue = |p: &TxPath| {
            let since = p.verifying.filter(|_| p.is_well());
            since.is_some_and(|since| now.since(since) >= VERIFY_MAX * 2)
        };
        for index in 0..self.paths.len() {
            if is_overdue(&self.paths[index]) {
                let p = &mut self.paths[index];
                p.verify_at = now + p.verify_gap;
                self.activate(index, None, now);
            }
        }
        if self.paths.iter().any(|p| p.is_active() && !p.is_well()) {
            return; // what waits for a silent path says nothing about the others
        }
        let saturated = |at: Timestamp| now.since(at) >= SATURATED_AFTER;
        if !self.queue_shows() && !self.backlog_since.is_some_and(saturated) {
            return;
        }
        self.judge(now);
        self.verify_one(now);
        if !self.paths.iter().any(TxPath::is_on_trial) {
            return;
        }
        if let Some(id) = self.moments.begin(now) {
            for index in 0..self.paths.len() {
                let p = &mut self.paths[index];
                if p.is_active() || p.is_on_trial() {
                    p.probed_at = now;
                    self.probes.push_back((index_u8(index), id));
                }
            }
        }
    }

    /// Whether our own bytes make a queue on some way, so that there is something to see.
    fn queue_shows(&self) -> bool {
        self.paths.iter().zip(&self.views).any(|(p, view)| {
            let queue = view.completion_ns(0).saturating_sub(view.delay_ns);
            p.is_active() && queue >= search::QUEUE_CLEAR.0
        })
    }

    /// Admits the candidates that lead elsewhere, and gives those up that do not.
    fn judge(&mut self, now: Timestamp) {
        for index in 0..self.paths.len() {
            let p = &self.paths[index];
            if !p.is_on_trial() {
                continue;
            }
            let used = (0..self.paths.len()).filter(|&i| self.paths[i].is_active());
            let way = p.candidate.way(used);
            let (waited, queue) = p.candidate.evidence();
            let evidence = Probes { waited, queue };
            let overdue = p
                .verifying
                .is_some_and(|since| now.since(since) >= VERIFY_MAX);
            match way {
                Way::New => {
                    let p = &mut self.paths[index];
                    if p.verifying.is_some() {
                        p.verify_gap = (p.verify_gap * 2).min(VERIFY_LAST);
                    } else {
                        self.misses = 0;
                    }
                    p.verify_at = now + p.verify_gap;
                    self.activate(index, Some(evidence), now);
                }
                Way::Shared => {
                    let p = &mut self.paths[index];
                    let epoch = p.epoch;
                    let was_in_use = p.vacate();
                    p.died_silent = false;
                    p.dial_at = now;
                    self.actions.push_back(TxAction::Close {
                        path: index_u8(index),
                        epoch,
                    });
                    if was_in_use {
                        // The way that it had may be nobody's now.
                        self.reopen_search();
                    }
                    self.missed(index, evidence, now);
                    // What was under way there is lost with it.
                    self.resync();
                }
                Way::Unknown if overdue => {
                    let p = &mut self.paths[index];
                    p.verify_at = now + p.verify_gap;
                    self.activate(index, Some(evidence), now);
                }
                Way::Unknown => {}
            }
        }
    }

    fn missed(&mut self, index: usize, probes: Probes, now: Timestamp) {
        let path = index_u8(index);
        self.tell(TxEvent::Collided { path, probes }, now);
        self.misses += 1;
        if self.misses >= SEARCH_MISSES && self.search_ended_at.is_none() {
            self.search_ended_at = Some(now);
            let active = self.paths.iter().filter(|p| p.is_active()).count();
            self.tell(TxEvent::SearchEnded { active }, now);
        }
    }

    /// Takes one active path at a time out of use for a moment, when it is due, and lets it prove
    /// like any candidate that its way is empty then: what was wrongly admitted, or has come to
    /// share a way since, does not stay.
    fn verify_one(&mut self, now: Timestamp) {
        let verifying = self.paths.iter().any(|p| p.verifying.is_some());
        if verifying || self.paths.iter().filter(|p| p.is_active()).count() < 2 {
            return;
        }
        let due = (0..self.paths.len())
            .filter(|&i| self.paths[i].is_active())
            .min_by_key(|&i| self.paths[i].verify_at);
        let Some(index) = due.filter(|&i| self.paths[i].verify_at <= now) else {
            return;
        };
        let p = &mut self.paths[index];
        p.state = PathState::Standby;
        p.verifying = Some(now);
        p.candidate.reset(&self.moments);
        self.refresh_views();
    }
}

impl Roles for Vec<TxPath> {
    fn role(&mut self, path: usize) -> Role<'_> {
        let p = &mut self[path];
        match p.state {
            PathState::Active => Role::Used,
            PathState::Standby => Role::Candidate(&mut p.candidate),
            PathState::Vacant | PathState::Dialing | PathState::Fenced => Role::Neither,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineConfig;
    use crate::engine::tx::FenceReason;
    use crate::engine::tx::made::{self, NOW, dials};
    use crate::path::select::{Adaptive, AnySelector};

    /// A link that searches no more, with two paths in use: the second has just begun to prove its way.
    fn verifying() -> (TxEngine, Timestamp) {
        let config = EngineConfig {
            paths_max: 2,
            search: true,
            ..EngineConfig::default()
        };
        let mut engine = made::engine(config, AnySelector::Adaptive(Adaptive), 1 << 20);
        engine.activate(1, None, NOW);
        engine.search_ended_at = Some(NOW);
        let now = NOW + VERIFY_FIRST;
        engine.paths[0].verify_at = now + Nanos(1);
        engine.verify_one(now);
        assert!(engine.paths[1].verifying.is_some());
        while engine.poll_event().is_some() {}
        (engine, now)
    }

    #[test]
    fn a_path_that_dies_while_it_proves_its_way_is_missed_like_any_in_use() {
        let (mut engine, now) = verifying();
        let lost = Frame::Lost { path: 1, epoch: 1 };
        engine.handle_frame(0, lost, &[], now).unwrap();
        let fenced = TxEvent::Fenced {
            path: 1,
            reason: FenceReason::LostByPeer,
            outstanding: 0,
        };
        assert_eq!(engine.poll_event(), Some(fenced));
        assert_eq!(dials(&mut engine), [(1, 2)], "the search goes on");
        engine.verify_one(now + VERIFY_LAST);
        assert!(engine.paths.iter().all(|p| p.verifying.is_none()), "alone");
        engine.handle_path_up(1, 2, None, now);
        engine.activate(1, None, now);
        engine.verify_one(now + VERIFY_LAST);
        assert!(engine.paths[0].verifying.is_some());
    }

    #[test]
    fn the_search_goes_on_when_a_path_has_come_to_share_its_way() {
        let (mut engine, mut now) = verifying();
        for _ in 0..3 {
            now += search::PROBE_GAP;
            let id = engine.moments.begin(now).unwrap();
            let waited = search::QUEUE_CLEAR;
            engine.moments.answer(id, 1, waited, &mut engine.paths);
        }
        engine.judge(now);
        let collided = engine.poll_event();
        assert!(matches!(collided, Some(TxEvent::Collided { path: 1, .. })));
        engine.handle_timeout(now);
        assert_eq!(dials(&mut engine), [(1, 2)]);
    }

    #[test]
    fn a_clock_that_is_set_speaks_against_no_path() {
        for set_by in [100_000_000, -100_000_000] {
            let (mut engine, mut now) = verifying();
            let mut clock = 0;
            for moment in 0..8 {
                now += search::PROBE_GAP;
                let id = engine.moments.begin(now).unwrap();
                if moment == 2 {
                    clock = set_by;
                }
                for path in 0..2 {
                    let sent_ns = now.as_nanos();
                    let received_ns = (sent_ns + 50_000).saturating_add_signed(clock);
                    let pong = Frame::Pong {
                        id,
                        sent_ns,
                        received_ns,
                    };
                    let heard_at = now + Nanos::from_micros(100);
                    engine.handle_frame(path, pong, &[], heard_at).unwrap();
                }
            }
            engine.judge(now);
            assert_eq!(engine.poll_event(), None, "{set_by}");
        }
    }

    #[test]
    fn a_path_that_can_prove_nothing_goes_back_to_work() {
        let (mut engine, now) = verifying();
        engine.handle_timeout(now + VERIFY_MAX);
        assert!(!engine.paths[1].is_active());
        engine.handle_timeout(now + VERIFY_MAX * 2);
        assert!(engine.paths[1].is_active() && engine.paths[1].verifying.is_none());
    }

    #[test]
    fn a_way_that_died_is_waited_for_by_its_own_port() {
        let (mut engine, mut now) = verifying();
        engine.paths[1].died_silent = true;
        engine.fence(1, 1, FenceReason::Silent(Nanos(1)), now);
        let mut dials = 0;
        for _ in 0..40 {
            now += REDIAL_MAX;
            engine.handle_timeout(now);
            while let Some(action) = engine.poll_action() {
                if let TxAction::Dial {
                    epoch, same_port, ..
                } = action
                {
                    assert!(same_port);
                    dials += 1;
                    engine.handle_dial_failed(1, epoch, now);
                }
            }
        }
        assert!(dials > 10, "{dials}");
    }

    #[test]
    fn without_a_path_fences_do_not_pile_up() {
        let (mut engine, mut now) = verifying();
        for path in 0..2 {
            engine.handle_port_down(path, 1, now);
        }
        while engine.poll_transmit(now).is_some() {}
        let before = engine.control.len();
        for _ in 0..100 {
            now += engine.config.health.fence_repeat;
            engine.handle_timeout(now);
        }
        assert_eq!(engine.control.len(), before);
        assert!(engine.poll_timeout(now) > Some(now), "nobody is kept awake");
    }

    #[test]
    fn a_search_without_dials_left_keeps_nobody_awake() {
        let (mut engine, now) = verifying();
        engine.handle_path_error(1, 1, now);
        engine.dial_tokens = 0;
        while engine.poll_action().is_some() {}
        engine.paths[1].state = PathState::Vacant;
        engine.paths[1].open_fence = None;
        engine.dial_earned_at = now;
        for p in &mut engine.paths {
            p.watched = None;
            p.damping = crate::engine::tx::paths::Damping::default();
        }
        engine.conns.clear();
        engine.control.clear();
        assert_eq!(engine.poll_timeout(now), Some(now + DIAL_EARN));
        engine.peer_leaves = true;
        assert_eq!(engine.poll_timeout(now), None);
    }

    #[test]
    fn what_leaves_by_fixed_ports_is_dialled_however_often() {
        let (mut engine, now) = verifying();
        engine.config.search = false;
        engine.dial_tokens = 0;
        engine.handle_path_error(1, 1, now);
        assert_eq!(dials(&mut engine), [(1, 2)]);
    }
}
