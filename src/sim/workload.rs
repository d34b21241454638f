//! What hosts want to send each other: flows, and which of them wait for which.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::time::Picos;

/// A message from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Sending host.
    pub from: u32,
    /// Receiving host.
    pub to: u32,
    /// Bytes.
    pub bytes: u64,
    /// Not before this time, or not before so long after the last flow it waits for.
    pub start: Picos,
    /// Traffic class.
    pub class: u8,
    /// Which part of the workload it belongs to; parts are reported apart.
    pub part: u8,
}

/// When a flow counts as done, for those that wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoneWhen {
    /// The receiver has all of it.
    Received,
    /// The sender knows that.
    Acknowledged,
}

/// What happens when a flow is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// This flow has one less to wait for.
    Flow(u32),
    /// This relay has been given one more start.
    Relay(u32),
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    earlier: u32,
    when: DoneWhen,
    next: Next,
}

/// Flows, their order, and the names of their parts.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    flows: Vec<Flow>,
    parts: Vec<String>,
    waits: Vec<Wait>,
    /// The flows of each relay, in the order in which they are started.
    relays: Vec<Vec<u32>>,
    done_when: Option<DoneWhen>,
}

impl Workload {
    /// Nothing to send yet.
    #[must_use]
    pub fn new(done_when: DoneWhen) -> Self {
        Self {
            done_when: Some(done_when),
            ..Self::default()
        }
    }

    /// Adds a part and numbers it.
    pub fn add_part(&mut self, name: &str) -> u8 {
        self.parts.push(name.to_owned());
        (self.parts.len() - 1) as u8
    }

    /// Adds a flow and numbers it.
    pub fn add(&mut self, flow: Flow) -> u32 {
        self.flows.push(flow);
        self.flows.len() as u32 - 1
    }

    /// `later` starts only when `earlier` is done.
    pub fn wait(&mut self, earlier: u32, later: u32) {
        self.wait_until(earlier, self.done_when(), later);
    }

    /// `later` starts only when `earlier` is done in this sense.
    pub fn wait_until(&mut self, earlier: u32, when: DoneWhen, later: u32) {
        self.waits.push(Wait {
            earlier,
            when,
            next: Next::Flow(later),
        });
    }

    /// The first of `earlier` to be done, whichever it is, starts the first of `later`, the second
    /// the second, and so on: so many are kept in flight.
    pub fn relay(&mut self, earlier: &[u32], when: DoneWhen, later: &[u32]) {
        let next = Next::Relay(self.relays.len() as u32);
        self.relays.push(later.to_vec());
        self.waits.extend(earlier.iter().map(|&earlier| Wait {
            earlier,
            when,
            next,
        }));
    }

    /// All flows.
    #[must_use]
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Names of the parts.
    #[must_use]
    pub fn parts(&self) -> &[String] {
        &self.parts
    }

    /// When a flow is done for those that wait for it.
    #[must_use]
    pub fn done_when(&self) -> DoneWhen {
        self.done_when.unwrap_or(DoneWhen::Received)
    }

    /// Runs the workload on a network without any contention, where each flow takes the time that
    /// `takes` says: when each ends. A flow that can never start has no end.
    pub fn ideal(&self, mut takes: impl FnMut(u32) -> Picos) -> Vec<Option<(Picos, Picos)>> {
        let mut progress = Progress::new(self);
        let mut ends = BinaryHeap::new();
        loop {
            while let Some((flow, at)) = progress.poll_start() {
                progress.start(flow, at);
                ends.push(Reverse((at + takes(flow), flow)));
            }
            let Some(Reverse((at, flow))) = ends.pop() else {
                break;
            };
            progress.receive(flow, at);
            progress.acknowledge(flow, at);
        }
        (0..self.flows.len() as u32)
            .map(|flow| progress.started(flow).zip(progress.ended(flow)))
            .collect()
    }

    /// Flows that wait for each other in a circle, each for the one before it and the first for
    /// the last; or one that a relay never gets to. Empty: every flow can start.
    #[must_use]
    pub fn stuck(&self) -> Vec<u32> {
        let ends = self.ideal(|_| Picos(1));
        let Some(first) = ends.iter().position(Option::is_none) else {
            return Vec::new();
        };
        let mut trail = vec![first as u32];
        loop {
            let at = trail[trail.len() - 1];
            let Some(earlier) = self.awaited(at, &ends) else {
                return vec![at];
            };
            if let Some(start) = trail.iter().position(|&flow| flow == earlier) {
                let mut circle = trail.split_off(start);
                circle.reverse();
                return circle;
            }
            trail.push(earlier);
        }
    }

    /// A flow that this one waits for and that never ends.
    fn awaited(&self, flow: u32, ends: &[Option<(Picos, Picos)>]) -> Option<u32> {
        let leads_here = |next: Next| match next {
            Next::Flow(later) => later == flow,
            Next::Relay(relay) => self.relays[relay as usize].contains(&flow),
        };
        let mut waits = self.waits.iter();
        waits
            .find(|wait| leads_here(wait.next) && ends[wait.earlier as usize].is_none())
            .map(|wait| wait.earlier)
    }
}

const NEVER: Picos = Picos::MAX;

/// How far a workload has come.
#[derive(Debug)]
pub struct Progress {
    waiting_for: Vec<u32>,
    /// What comes after each flow: where that begins in `nexts`, and one more.
    first: Vec<u32>,
    nexts: Vec<(DoneWhen, Next)>,
    /// The flows of each relay that have not been started, the next one last.
    relays: Vec<Vec<u32>>,
    started: Vec<Picos>,
    received: Vec<Picos>,
    acknowledged: Vec<Picos>,
    /// Flows that may start, and when.
    to_start: Vec<(u32, Picos)>,
    delays: Vec<Picos>,
    open: usize,
}

impl Progress {
    /// Nothing has started; the flows that wait for nothing are to.
    #[must_use]
    pub fn new(workload: &Workload) -> Self {
        let count = workload.flows.len();
        let mut waiting_for = vec![0; count];
        let mut first = vec![0u32; count + 1];
        for wait in &workload.waits {
            first[wait.earlier as usize + 1] += 1;
            if let Next::Flow(later) = wait.next {
                waiting_for[later as usize] += 1;
            }
        }
        for &flow in workload.relays.iter().flatten() {
            waiting_for[flow as usize] += 1;
        }
        for flow in 0..count {
            first[flow + 1] += first[flow];
        }
        let mut next = first.clone();
        let mut nexts = vec![(DoneWhen::Received, Next::Flow(0)); workload.waits.len()];
        for wait in &workload.waits {
            nexts[next[wait.earlier as usize] as usize] = (wait.when, wait.next);
            next[wait.earlier as usize] += 1;
        }
        let to_start = (0u32..)
            .zip(&workload.flows)
            .filter(|&(flow, _)| waiting_for[flow as usize] == 0)
            .map(|(flow, spec)| (flow, spec.start))
            .collect();
        let mut relays = workload.relays.clone();
        for flows in &mut relays {
            flows.reverse();
        }
        Self {
            waiting_for,
            first,
            nexts,
            relays,
            started: vec![NEVER; count],
            received: vec![NEVER; count],
            acknowledged: vec![NEVER; count],
            to_start,
            delays: workload.flows.iter().map(|flow| flow.start).collect(),
            open: count,
        }
    }

    /// The next flow that may start, and when.
    pub fn poll_start(&mut self) -> Option<(u32, Picos)> {
        self.to_start.pop()
    }

    /// A flow starts.
    pub fn start(&mut self, flow: u32, now: Picos) {
        self.started[flow as usize] = now;
    }

    /// The receiver of a flow has all of it.
    pub fn receive(&mut self, flow: u32, now: Picos) {
        if self.received[flow as usize] == NEVER {
            self.received[flow as usize] = now;
            self.release(flow, DoneWhen::Received, now);
        }
    }

    /// The sender of a flow knows that it has arrived.
    pub fn acknowledge(&mut self, flow: u32, now: Picos) {
        if self.acknowledged[flow as usize] == NEVER {
            self.acknowledged[flow as usize] = now;
            self.open -= 1;
            self.release(flow, DoneWhen::Acknowledged, now);
        }
    }

    fn release(&mut self, flow: u32, reached: DoneWhen, now: Picos) {
        let range = self.first[flow as usize] as usize..self.first[flow as usize + 1] as usize;
        for at in range {
            let (when, next) = self.nexts[at];
            if when != reached {
                continue;
            }
            let later = match next {
                Next::Flow(later) => later,
                Next::Relay(relay) => match self.relays[relay as usize].pop() {
                    Some(later) => later,
                    None => continue,
                },
            };
            self.waiting_for[later as usize] -= 1;
            if self.waiting_for[later as usize] == 0 {
                self.to_start
                    .push((later, now + self.delays[later as usize]));
            }
        }
    }

    /// Flows that have not ended.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    /// When a flow started, if it did.
    #[must_use]
    pub fn started(&self, flow: u32) -> Option<Picos> {
        Some(self.started[flow as usize]).filter(|&at| at != NEVER)
    }

    /// When its receiver had all of it.
    #[must_use]
    pub fn received(&self, flow: u32) -> Option<Picos> {
        Some(self.received[flow as usize]).filter(|&at| at != NEVER)
    }

    /// When its sender knew.
    #[must_use]
    pub fn ended(&self, flow: u32) -> Option<Picos> {
        Some(self.acknowledged[flow as usize]).filter(|&at| at != NEVER)
    }

    /// From its start until its sender knew that it had arrived.
    #[must_use]
    pub fn completion_time(&self, flow: u32) -> Option<Picos> {
        Some(self.ended(flow)?.since(self.started(flow)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(start: u64) -> Flow {
        Flow {
            from: 0,
            to: 1,
            bytes: 1,
            start: Picos(start),
            class: 2,
            part: 0,
        }
    }

    #[test]
    fn a_chain_runs_in_order_and_a_start_is_a_delay_after_what_it_waits_for() {
        let mut workload = Workload::new(DoneWhen::Acknowledged);
        let [a, b, c] = [5, 7, 0].map(|start| workload.add(flow(start)));
        workload.wait(a, b);
        workload.wait(b, c);
        let times = workload.ideal(|_| Picos(10));
        let expected = [(5, 15), (22, 32), (32, 42)];
        assert_eq!(
            times,
            expected.map(|(start, end)| Some((Picos(start), Picos(end))))
        );
        assert!(workload.stuck().is_empty());
    }

    #[test]
    fn a_relay_starts_the_next_one_whoever_is_done() {
        let mut workload = Workload::new(DoneWhen::Acknowledged);
        let flows = [0; 5].map(|start| workload.add(flow(start)));
        workload.relay(&flows[..3], DoneWhen::Acknowledged, &flows[3..]);
        // The third is done first, then the first.
        let times = workload.ideal(|flow| Picos([20, 30, 10, 5, 5][flow as usize]));
        assert_eq!(times[3], Some((Picos(10), Picos(15))));
        assert_eq!(times[4], Some((Picos(20), Picos(25))));
    }

    #[test]
    fn circles_are_found() {
        let mut workload = Workload::new(DoneWhen::Received);
        let [a, b, c, d] = [0; 4].map(|start| workload.add(flow(start)));
        workload.wait(a, b);
        workload.wait(b, c);
        workload.wait(c, b);
        workload.wait(c, d);
        let mut circle = workload.stuck();
        circle.sort_unstable();
        assert_eq!(circle, [b, c]);
        // More to start than starts: nobody starts the second.
        let mut workload = Workload::new(DoneWhen::Received);
        let [a, b, c] = [0; 3].map(|start| workload.add(flow(start)));
        workload.relay(&[a], DoneWhen::Received, &[b, c]);
        assert_eq!(workload.stuck(), [c]);
    }
}
