//! What hosts want to send each other: flows, and which of them wait for which.

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

/// Flows, their order, and the names of their parts.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    flows: Vec<Flow>,
    parts: Vec<String>,
    /// Pairs of a flow and one that waits for it.
    waits: Vec<(u32, u32)>,
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
        self.waits.push((earlier, later));
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
}

const NEVER: Picos = Picos::MAX;

/// How far a workload has come.
#[derive(Debug)]
pub struct Progress {
    waiting_for: Vec<u32>,
    /// The flows that wait for each flow: where they begin in `dependents`, and one more.
    first: Vec<u32>,
    dependents: Vec<u32>,
    started: Vec<Picos>,
    received: Vec<Picos>,
    acknowledged: Vec<Picos>,
    done_when: DoneWhen,
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
        for &(earlier, later) in &workload.waits {
            waiting_for[later as usize] += 1;
            first[earlier as usize + 1] += 1;
        }
        for flow in 0..count {
            first[flow + 1] += first[flow];
        }
        let mut next = first.clone();
        let mut dependents = vec![0; workload.waits.len()];
        for &(earlier, later) in &workload.waits {
            dependents[next[earlier as usize] as usize] = later;
            next[earlier as usize] += 1;
        }
        let to_start = (0u32..)
            .zip(&workload.flows)
            .filter(|&(flow, _)| waiting_for[flow as usize] == 0)
            .map(|(flow, spec)| (flow, spec.start))
            .collect();
        Self {
            waiting_for,
            first,
            dependents,
            started: vec![NEVER; count],
            received: vec![NEVER; count],
            acknowledged: vec![NEVER; count],
            done_when: workload.done_when(),
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
        if reached != self.done_when {
            return;
        }
        let range = self.first[flow as usize] as usize..self.first[flow as usize + 1] as usize;
        for &later in &self.dependents[range] {
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
