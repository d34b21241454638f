//! What adapters do within this host for a receiving link: flushes, after which a GPU sees what has come
//! into its memory, and small messages that are brought there.
//!
//! At each port a mover does them, made aside when the first is asked for. One that fails is made anew;
//! what was under way is done again, once. Reading twice does no harm, and neither does writing the same
//! bytes twice, since the failed mover is silent before.

use std::collections::VecDeque;

use crate::clock::Timestamp;
use crate::engine::Landing;
use crate::engine::wire::Keys;
use crate::transport::verbs::{Failed, Made, Move, Mover};
use crate::units::Nanos;

/// Times that a move is begun before it counts as failed.
const TRIES: u8 = 2;
/// A silenced mover's rest needs microseconds: what takes this long is a device that is gone.
const DRAIN_MAX: Nanos = Nanos(500_000_000);
/// What a port wrote this long ago has arrived, flushed or not: nothing on a host's own bus is under way
/// for milliseconds. It is what counts where the port is gone and cannot be asked.
pub const SETTLED: Nanos = Nanos(10_000_000);

/// A request that waits for one move or more.
#[derive(Debug)]
struct Task {
    token: u64,
    left: u8,
    bytes: u64,
    error: Option<String>,
}

/// A move.
#[derive(Debug)]
struct Step {
    token: u64,
    addr: u64,
    keys: Keys,
    /// What is brought; nothing for a flush.
    data: Option<Box<[u8]>>,
    tries: u8,
    since: Timestamp,
}

impl Step {
    fn conn(&self) -> u32 {
        conn_of(self.token)
    }

    fn at(&self, place: usize) -> Move<'_> {
        let key = self.keys.as_slice().get(place).copied().unwrap_or(0);
        let addr = self.addr;
        match &self.data {
            Some(data) => Move::Bring { data, addr, key },
            None => Move::Flush { addr, key },
        }
    }
}

fn conn_of(token: u64) -> u32 {
    super::conn::untoken(token).0
}

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    Making,
    Ready(Box<dyn Mover>),
    /// It has failed at that time, and something of it may still be under way.
    Draining(Box<dyn Mover>, Timestamp),
}

#[derive(Debug, Default)]
struct Place {
    name: String,
    state: State,
    /// Is to be made, though nothing waits for it.
    wanted: bool,
    waiting: VecDeque<Step>,
    begun: VecDeque<Step>,
    /// Why it failed last.
    reason: String,
}

/// What has come of a step of [`Moves`].
#[derive(Debug, Default)]
pub struct Outcome {
    /// Places whose mover is to be made, aside; then comes [`Moves::made`].
    pub make: Vec<usize>,
    /// Requests that have ended: bytes, or why not.
    pub ended: Vec<(u64, Result<u64, String>)>,
    /// What a user may want to know.
    pub notes: Vec<String>,
}

/// All moves of a link.
#[derive(Debug)]
pub struct Moves {
    places: Vec<Place>,
    tasks: Vec<Task>,
    /// Moves that have failed for good, unless their port is gone: place and reason.
    failed: Vec<(usize, Step, String)>,
    busy: bool,
}

impl Moves {
    /// For ports of these names.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let place = |name| Place {
            name,
            ..Place::default()
        };
        Self {
            places: names.into_iter().map(place).collect(),
            tasks: Vec::new(),
            failed: Vec::new(),
            busy: false,
        }
    }

    /// Whether [`Moves::step`] has anything to do.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Moves will be asked for: the movers are made before.
    pub fn prepare(&mut self) {
        for place in &mut self.places {
            place.wanted |= matches!(place.state, State::None);
        }
        self.busy = true;
    }

    /// Flushes memory over these places: a byte of each buffer, given by its address and keys. With none
    /// of either the request has ended.
    pub fn flush(
        &mut self,
        token: u64,
        buffers: &[(u64, Keys)],
        places: impl Iterator<Item = usize>,
        now: Timestamp,
    ) {
        let mut left = 0;
        for place in places {
            for &(addr, keys) in buffers {
                self.places[place].waiting.push_back(Step {
                    token,
                    addr,
                    keys,
                    data: None,
                    tries: 0,
                    since: now,
                });
                left += 1;
            }
        }
        self.begin(token, left, 0);
    }

    /// Brings a small message to its receive, over this place.
    pub fn bring(&mut self, landing: Landing, place: usize, now: Timestamp) {
        let Landing {
            token,
            data,
            target,
            keys,
        } = landing;
        let bytes = data.len() as u64;
        self.places[place].waiting.push_back(Step {
            token,
            addr: target.addr,
            keys,
            data: Some(data),
            tries: 0,
            since: now,
        });
        self.begin(token, 1, bytes);
    }

    fn begin(&mut self, token: u64, left: u8, bytes: u64) {
        self.tasks.push(Task {
            token,
            left,
            bytes,
            error: None,
        });
        self.busy = true;
    }

    /// A place's mover has been made, or cannot be.
    pub fn made(&mut self, place: usize, made: Made) {
        self.busy = true;
        let this = &mut self.places[place];
        match made {
            Ok(mover) => this.state = State::Ready(mover),
            Err(reason) => {
                this.state = State::None;
                let steps = this.waiting.drain(..);
                self.failed
                    .extend(steps.map(|step| (place, step, reason.clone())));
            }
        }
    }

    /// Forgets what was asked for on a connection: when this returns, nothing of it is under way.
    pub fn forget(&mut self, conn: u32) {
        self.tasks.retain(|task| conn_of(task.token) != conn);
        self.failed.retain(|(_, step, _)| step.conn() != conn);
        for place in &mut self.places {
            place.waiting.retain(|step| step.conn() != conn);
            if !place.begun.iter().any(|step| step.conn() == conn) {
                continue;
            }
            if let State::Ready(mover) | State::Draining(mover, _) = &mut place.state {
                mover.end();
            }
            place.state = State::None;
            let others = place.begun.drain(..).filter(|step| step.conn() != conn);
            place.waiting.extend(others);
        }
    }

    /// Takes in what has ended, and begins with what waits. `is_up`: whether a path goes over a place.
    pub fn step(&mut self, is_up: impl Fn(usize) -> bool, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        let mut ended = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            let failures = place.advance(index, &mut ended, &mut outcome.notes, now);
            let failures = failures.into_iter();
            self.failed
                .extend(failures.map(|step| (index, step, place.reason.clone())));
            if matches!(place.state, State::None) && (place.wanted || !place.waiting.is_empty()) {
                place.wanted = false;
                place.state = State::Making;
                outcome.make.push(index);
            }
        }
        for (place, step, reason) in std::mem::take(&mut self.failed) {
            if step.data.is_some() || is_up(place) {
                let what = match step.data {
                    Some(_) => "a small message cannot be brought to a GPU",
                    None => "what has come cannot be flushed to a GPU",
                };
                let name = &self.places[place].name;
                ended.push((step.token, Some(format!("{what} over {name}: {reason}"))));
            } else if now.since(step.since) >= SETTLED {
                ended.push((step.token, None));
            } else {
                self.failed.push((place, step, reason));
            }
        }
        for (token, error) in ended {
            if let Some(task) = self.tasks.iter_mut().find(|task| task.token == token) {
                task.left = task.left.saturating_sub(1);
                task.error = task.error.take().or(error);
            }
        }
        self.tasks.retain_mut(|task| {
            if task.left == 0 {
                let result = task.error.take().map_or(Ok(task.bytes), Err);
                outcome.ended.push((task.token, result));
            }
            task.left > 0
        });
        let is_draining = |place: &Place| matches!(place.state, State::Draining(..));
        self.busy = !self.tasks.is_empty() || self.places.iter().any(is_draining);
        outcome
    }
}

impl Place {
    /// Takes in what has ended, begins with what waits, and parts with a mover that has failed. Says
    /// which moves have failed for good.
    fn advance(
        &mut self,
        index: usize,
        ended: &mut Vec<(u64, Option<String>)>,
        notes: &mut Vec<String>,
        now: Timestamp,
    ) -> Vec<Step> {
        let (mut mover, mut failed_at) = match std::mem::take(&mut self.state) {
            State::Ready(mover) => (mover, None),
            State::Draining(mover, at) => (mover, Some(at)),
            other => {
                self.state = other;
                return Vec::new();
            }
        };
        let mut told = Vec::new();
        mover.poll(&mut told);
        let mut failure: Option<String> = None;
        for result in told {
            let Some(mut step) = self.begun.pop_front() else {
                continue;
            };
            let Err(Failed { reason, by_itself }) = result else {
                ended.push((step.token, None));
                continue;
            };
            // The first counts whatever is said of it: else a mover that fails at once would be made
            // for ever.
            let is_first = failed_at.is_none() && failure.is_none();
            step.tries += u8::from(by_itself || is_first);
            failure.get_or_insert(reason);
            self.waiting.push_back(step);
        }
        while failed_at.is_none()
            && failure.is_none()
            && let Some(step) = self.waiting.front_mut()
        {
            match mover.begin(step.at(index)) {
                Ok(true) => self.begun.extend(self.waiting.pop_front()),
                Ok(false) => break,
                Err(reason) => {
                    step.tries += 1;
                    failure = Some(reason);
                }
            }
        }
        if failed_at.is_none()
            && let Some(reason) = failure
        {
            mover.silence();
            failed_at = Some(now);
            notes.push(format!(
                "the queue pair of {} with itself failed: {reason}; it is made anew",
                self.name
            ));
            self.reason = reason;
        }
        self.state = match failed_at {
            None => State::Ready(mover),
            Some(_) if self.begun.is_empty() => State::None,
            Some(at) if now.since(at) < DRAIN_MAX => State::Draining(mover, at),
            Some(_) => {
                self.waiting.append(&mut self.begun);
                // It would wait for the device once more.
                let drop_it = std::thread::Builder::new().spawn(move || drop(mover));
                drop(drop_it);
                State::None
            }
        };
        let count = self.waiting.len();
        let all = (0..count).filter_map(|_| {
            let step = self.waiting.pop_front()?;
            if step.tries < TRIES {
                self.waiting.push_back(step);
                return None;
            }
            Some(step)
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::conn::token;
    use crate::engine::MemRange;
    use std::sync::{Arc, Mutex};

    /// What a mover does, as the test says it.
    #[derive(Debug, Default)]
    struct Script {
        /// What was begun: address, key and the first byte of what is brought.
        begun: Vec<(u64, u32, Option<u8>)>,
        ends: VecDeque<Result<(), Failed>>,
        room: Option<usize>,
        refuses: bool,
        silenced: u32,
        ended: u32,
    }

    #[derive(Debug, Default, Clone)]
    struct Scripted(Arc<Mutex<Script>>);

    impl Scripted {
        fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
            change(&mut self.0.lock().unwrap())
        }

        fn begun(&self) -> Vec<(u64, u32, Option<u8>)> {
            self.with(|script| script.begun.clone())
        }

        fn ends(&self, results: &[Result<(), Failed>]) {
            self.with(|script| script.ends.extend(results.iter().cloned()));
        }
    }

    impl Mover for Scripted {
        fn begin(&mut self, step: Move<'_>) -> Result<bool, String> {
            self.with(|script| {
                if script.refuses {
                    return Err("it refuses".into());
                }
                if script.room.is_some_and(|room| script.begun.len() >= room) {
                    return Ok(false);
                }
                script.begun.push(match step {
                    Move::Flush { addr, key } => (addr, key, None),
                    Move::Bring { data, addr, key } => (addr, key, Some(data[0])),
                });
                Ok(true)
            })
        }

        fn poll(&mut self, ended: &mut Vec<Result<(), Failed>>) {
            self.with(|script| ended.extend(script.ends.drain(..)));
        }

        fn silence(&mut self) {
            self.with(|script| script.silenced += 1);
        }

        fn end(&mut self) {
            self.with(|script| script.ended += 1);
        }
    }

    fn failed(by_itself: bool) -> Result<(), Failed> {
        let reason = "a test says so".into();
        Err(Failed { reason, by_itself })
    }

    type Ended = (u64, Result<u64, String>);

    const CONN: u32 = 3;
    const OTHER: u32 = 4;

    struct Fixture {
        moves: Moves,
        movers: Vec<Scripted>,
        now: Timestamp,
        up: Vec<bool>,
        notes: Vec<String>,
    }

    impl Fixture {
        fn new(places: usize) -> Self {
            Self {
                moves: Moves::new((0..places).map(|place| format!("port{place}"))),
                movers: vec![Scripted::default(); places],
                now: Timestamp::from_nanos(1_000_000_000),
                up: vec![true; places],
                notes: Vec::new(),
            }
        }

        fn flush(&mut self, conn: u32, addr: u64, places: &[usize]) -> u64 {
            let token = token(conn, 40, 0);
            let keys = Keys::new(&[10, 11]).unwrap().of_gpu();
            self.moves
                .flush(token, &[(addr, keys)], places.iter().copied(), self.now);
            token
        }

        fn bring(&mut self, conn: u32, byte: u8) -> u64 {
            let token = token(conn, 1, 0);
            let landing = Landing {
                token,
                data: vec![byte; 5].into_boxed_slice(),
                target: MemRange { addr: 70, len: 5 },
                keys: Keys::new(&[20, 21]).unwrap().of_gpu(),
            };
            self.moves.bring(landing, 0, self.now);
            token
        }

        /// A step; says which movers are to be made.
        fn step(&mut self) -> (Vec<usize>, Vec<Ended>) {
            let outcome = self.moves.step(|place| self.up[place], self.now);
            self.notes.extend(outcome.notes);
            (outcome.make, outcome.ended)
        }

        fn make(&mut self, place: usize) {
            self.movers[place] = Scripted::default();
            let mover = self.movers[place].clone();
            self.moves.made(place, Ok(Box::new(mover)));
        }
    }

    #[test]
    fn a_flush_is_over_when_every_port_has_answered() {
        let mut this = Fixture::new(2);
        assert!(!this.moves.is_busy());
        let token = this.flush(CONN, 500, &[0, 1]);
        assert!(this.moves.is_busy());
        assert_eq!(this.step(), (vec![0, 1], vec![]));
        assert_eq!(this.step(), (vec![], vec![]), "they are being made");
        this.make(0);
        this.make(1);
        assert_eq!(this.step().1, []);
        // Each by its own key.
        assert_eq!(this.movers[0].begun(), [(500, 10, None)]);
        assert_eq!(this.movers[1].begun(), [(500, 11, None)]);
        this.movers[1].ends(&[Ok(())]);
        assert_eq!(this.step().1, []);
        this.movers[0].ends(&[Ok(())]);
        assert_eq!(this.step().1, [(token, Ok(0))]);
        assert!(!this.moves.is_busy());
        // The movers stay.
        this.flush(CONN, 600, &[1]);
        assert_eq!(this.step().0, [0usize; 0]);
        assert_eq!(this.movers[1].begun()[1], (600, 11, None));
    }

    #[test]
    fn nothing_to_flush_over_is_over_at_once() {
        let mut this = Fixture::new(1);
        let token = this.flush(CONN, 500, &[]);
        assert_eq!(this.step(), (vec![], vec![(token, Ok(0))]));
    }

    #[test]
    fn a_small_message_is_told_once_it_is_there() {
        let mut this = Fixture::new(1);
        this.moves.prepare();
        assert_eq!(this.step().0, [0]);
        this.make(0);
        let token = this.bring(CONN, 9);
        assert_eq!(this.step().1, []);
        assert_eq!(this.movers[0].begun(), [(70, 20, Some(9))]);
        this.movers[0].ends(&[Ok(())]);
        assert_eq!(this.step().1, [(token, Ok(5))]);
    }

    #[test]
    fn what_finds_no_room_waits() {
        let mut this = Fixture::new(1);
        this.bring(CONN, 1);
        this.bring(CONN, 2);
        this.step();
        this.make(0);
        this.movers[0].with(|script| script.room = Some(1));
        this.step();
        assert_eq!(this.movers[0].begun().len(), 1);
        this.movers[0].with(|script| script.room = None);
        this.step();
        assert_eq!(this.movers[0].begun()[1], (70, 20, Some(2)));
    }

    /// What was under way is done again, by another, once the one that failed is silent.
    #[test]
    fn a_mover_that_fails_is_made_anew_and_costs_no_request() {
        let mut this = Fixture::new(1);
        let first = this.bring(CONN, 1);
        let second = this.flush(OTHER, 500, &[0]);
        this.step();
        this.make(0);
        this.step();
        this.movers[0].ends(&[failed(true)]);
        assert_eq!(
            this.step(),
            (vec![], vec![]),
            "the second is still under way"
        );
        assert_eq!(this.movers[0].with(|script| script.silenced), 1);
        assert_eq!(this.notes.len(), 1);
        assert!(this.notes[0].contains("port0 with itself failed: a test says so"));
        this.movers[0].ends(&[failed(false)]);
        assert_eq!(this.step(), (vec![0], vec![]));
        this.make(0);
        this.step();
        assert_eq!(this.movers[0].begun(), [(70, 20, Some(1)), (500, 10, None)]);
        this.movers[0].ends(&[Ok(()), Ok(())]);
        assert_eq!(this.step().1, [(first, Ok(5)), (second, Ok(0))]);
        assert_eq!(this.notes.len(), 1);
    }

    #[test]
    fn what_fails_twice_is_an_error_and_others_go_on() {
        let mut this = Fixture::new(1);
        let wrong = this.flush(CONN, 500, &[0]);
        let right = this.bring(OTHER, 7);
        this.step();
        let mut told = Vec::new();
        for _ in 0..2 {
            this.make(0);
            this.step();
            assert_eq!(this.movers[0].begun().len(), 2);
            this.movers[0].ends(&[failed(true), failed(false)]);
            told.extend(this.step().1);
        }
        let error = "what has come cannot be flushed to a GPU over port0: a test says so";
        assert_eq!(told, [(wrong, Err(error.into()))]);
        this.make(0);
        this.step();
        this.movers[0].ends(&[Ok(())]);
        assert_eq!(this.step().1, [(right, Ok(5))]);
        assert!(!this.moves.is_busy());
    }

    #[test]
    fn a_mover_that_always_fails_is_not_made_for_ever() {
        let mut this = Fixture::new(1);
        let token = this.flush(CONN, 500, &[0]);
        let mut count = 0;
        let error = loop {
            let (make, ended) = this.step();
            if let [(told, result)] = &ended[..] {
                assert_eq!(*told, token);
                break result.clone().unwrap_err();
            }
            for place in make {
                this.make(place);
                // It had failed before it was given anything.
                this.movers[place].with(|script| script.refuses = count == 1);
                count += 1;
            }
            let begun = this.movers[0].begun().len();
            this.movers[0].ends(&vec![failed(false); begun]);
            assert!(count < 10);
        };
        assert!(error.ends_with("over port0: it refuses"), "{error}");
        assert_eq!(count, 2);
    }

    #[test]
    fn a_mover_that_cannot_be_made_is_an_error_and_is_tried_again() {
        let mut this = Fixture::new(1);
        let token = this.bring(CONN, 1);
        this.step();
        this.moves.made(0, Err("port0: no room".into()));
        let error = "a small message cannot be brought to a GPU over port0: port0: no room";
        assert_eq!(this.step().1, [(token, Err(error.into()))]);
        this.flush(CONN, 500, &[0]);
        assert_eq!(this.step().0, [0]);
    }

    /// Such a port cannot be asked, and what it wrote before it went has long arrived.
    #[test]
    fn a_port_that_is_gone_holds_nothing_up() {
        let mut this = Fixture::new(2);
        let token = this.flush(CONN, 500, &[0, 1]);
        this.step();
        this.make(1);
        this.step();
        this.movers[1].ends(&[Ok(())]);
        this.up[0] = false;
        this.moves.made(0, Err("the link is down".into()));
        assert_eq!(this.step().1, [], "what it wrote may be on its way");
        this.now += SETTLED;
        assert_eq!(this.step().1, [(token, Ok(0))]);
    }

    #[test]
    fn a_connection_that_is_closed_has_nothing_under_way() {
        let mut this = Fixture::new(1);
        this.bring(CONN, 1);
        let other = this.flush(OTHER, 500, &[0]);
        this.step();
        this.make(0);
        this.step();
        this.moves.forget(CONN);
        assert_eq!(this.movers[0].with(|script| script.ended), 1);
        assert_eq!(this.step(), (vec![0], vec![]));
        this.make(0);
        this.step();
        assert_eq!(this.movers[0].begun(), [(500, 10, None)]);
        this.movers[0].ends(&[Ok(())]);
        assert_eq!(this.step().1, [(other, Ok(0))]);
        // And what only waits goes without a word.
        this.bring(CONN, 1);
        this.moves.forget(CONN);
        assert_eq!(this.step(), (vec![], vec![]));
        assert_eq!(this.movers[0].with(|script| script.ended), 0);
    }
}
