//! The run of a scenario with one seed.

use super::{HostsSpec, Level, Scenario};
use crate::sim::fabric::Fabric;
use crate::sim::fluid;
use crate::sim::hosts::EngineHosts;
use crate::sim::report::{FabricCounts, HostCounts, Recorder, Remains, RunReport};
use crate::sim::spray::SprayHosts;
use crate::sim::time::Picos;
use crate::sim::workload::Workload;
use crate::sim::world::{Endpoints, Observer, run_observed};

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glimpse {
    /// Time in the run.
    pub now: Picos,
    /// Flows that have not ended.
    pub open: usize,
    /// All flows.
    pub flows: usize,
}

/// How much is kept of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What tables show.
    Figures,
    /// Also what pictures show: every completion time, and the fabric over time.
    Pictures,
}

/// Records the state of the fabric, if that is wanted, and lets somebody watch.
struct Watched<'a> {
    recorder: Option<Recorder>,
    next: Picos,
    interval: Picos,
    flows: usize,
    watch: &'a mut dyn FnMut(Glimpse),
}

impl Observer for Watched<'_> {
    fn next(&self) -> Picos {
        self.next
    }

    fn observe(&mut self, now: Picos, fabric: &Fabric, open: usize) {
        self.next = now + self.interval;
        if let Some(recorder) = &mut self.recorder {
            recorder.observe(now, fabric);
            self.next = recorder.next();
        }
        (self.watch)(Glimpse {
            now,
            open,
            flows: self.flows,
        });
    }
}

impl Scenario {
    /// Runs it with this seed; `watch` is told from time to time how far it has come.
    #[must_use]
    pub fn play(&self, seed: u64, detail: Detail, watch: &mut dyn FnMut(Glimpse)) -> RunReport {
        let workload = self.workload(seed);
        if self.run.level == Level::Flow {
            return self.play_flows(seed, detail, &workload, watch);
        }
        let interval = self.run.sample;
        let pictures = detail == Detail::Pictures;
        let watched = Watched {
            recorder: pictures.then(|| Recorder::new(&self.fabric.topology, interval)),
            next: interval,
            interval,
            flows: workload.flows().len(),
            watch,
        };
        let mut fabric = Fabric::new(self.fabric.topology.clone(), &self.fabric.switch, seed);
        if let HostsSpec::Reference(spec) = &self.hosts {
            spec.spray(&self.fabric).quiet_last_hop(&mut fabric);
        }
        match &self.hosts {
            HostsSpec::Engine(spec) => {
                let hosts = EngineHosts::new(&fabric, &workload, spec.host.clone(), spec.nic, seed);
                self.drive(seed, fabric, hosts, &workload, watched, |hosts| {
                    HostCounts {
                        sent: hosts.nic_stats().sent,
                        sent_again: hosts.nic_stats().again,
                        timeouts: hosts.nic_stats().timeouts,
                        notifications: hosts.nic_stats().cnps,
                        fences: hosts.fences(),
                        rehashes: hosts.rehashes(),
                        longest_stall_ps: Some(hosts.longest_stall().0),
                    }
                })
            }
            HostsSpec::Reference(spec) => {
                let config = spec.spray(&self.fabric);
                let hosts = SprayHosts::new(&fabric, &workload, config, seed);
                self.drive(seed, fabric, hosts, &workload, watched, |hosts| {
                    let stats = hosts.stats();
                    HostCounts {
                        sent: stats.sent,
                        sent_again: stats.again,
                        timeouts: stats.timeouts,
                        notifications: 0,
                        fences: 0,
                        rehashes: 0,
                        longest_stall_ps: None,
                    }
                })
            }
        }
    }

    fn drive<E: Endpoints>(
        &self,
        seed: u64,
        mut fabric: Fabric,
        mut hosts: E,
        workload: &Workload,
        mut watched: Watched<'_>,
        counts: impl FnOnce(&E) -> HostCounts,
    ) -> RunReport {
        let ended = run_observed(
            &mut fabric,
            &mut hosts,
            workload,
            &self.faults,
            self.run.deadline,
            &mut watched,
        );
        let counts = counts(&hosts);
        let delivered: Vec<u64> = (0..workload.flows().len() as u32)
            .map(|flow| hosts.delivered(flow))
            .collect();
        let detail = match watched.recorder {
            Some(_) => Detail::Pictures,
            None => Detail::Figures,
        };
        let remains = Remains {
            ended,
            now: fabric.now(),
            progress: hosts.progress(),
            delivered: &|flow| delivered[flow as usize],
            fabric: Some(FabricCounts::new(&fabric)),
            hosts: Some(counts),
            recorder: watched.recorder,
        };
        RunReport::new(self, seed, detail, workload, remains)
    }

    fn play_flows(
        &self,
        seed: u64,
        detail: Detail,
        workload: &Workload,
        watch: &mut dyn FnMut(Glimpse),
    ) -> RunReport {
        let config = self.hosts.fluid(&self.fabric, seed);
        let outcome = fluid::run(
            &self.fabric.topology,
            &self.fabric.groups,
            &config,
            workload,
            &self.faults,
            self.run.deadline,
            &mut |now, open| {
                watch(Glimpse {
                    now,
                    open,
                    flows: workload.flows().len(),
                });
            },
        );
        let remains = Remains {
            ended: outcome.ended,
            now: outcome.now,
            progress: &outcome.progress,
            delivered: &|flow| outcome.delivered.get(&flow).copied().unwrap_or(0),
            fabric: None,
            hosts: None,
            recorder: None,
        };
        RunReport::new(self, seed, detail, workload, remains)
    }
}
