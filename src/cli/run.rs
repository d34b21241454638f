//! `thalweg sim run`: one scenario, all its seeds.

use std::io::Write;

use super::progress::Bar;
use super::work::in_parallel;
use super::{Failure, RunArgs};
use crate::sim::report::{Report, RunReport};
use crate::sim::scenario::Scenario;

pub(super) fn run(args: &RunArgs, out: &mut impl Write) -> Result<(), Failure> {
    let scenario = Scenario::load(&args.scenario, &args.common.overrides()?)?;
    let mut reports = play_all(std::slice::from_ref(&scenario), args.common.threads());
    let report = reports.remove(0);
    if let Some(path) = &args.report {
        std::fs::write(path, report.to_html(&scenario)).map_err(|error| {
            Failure::Usage(format!("{} cannot be written: {error}", path.display()))
        })?;
        eprintln!("the report is in {}", path.display());
    }
    if args.common.json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", report.to_text())?;
    }
    if report.is_finished() {
        Ok(())
    } else {
        Err(Failure::NotWell)
    }
}

/// Runs all seeds of all scenarios.
pub(super) fn play_all(scenarios: &[Scenario], threads: usize) -> Vec<Report> {
    let jobs: Vec<(usize, u64)> = scenarios
        .iter()
        .enumerate()
        .flat_map(|(index, scenario)| scenario.seeds().map(move |seed| (index, seed)))
        .collect();
    let bar = Bar::new(jobs.len());
    let runs = in_parallel(jobs.len(), threads, |job| {
        let (index, seed) = jobs[job];
        let run = scenarios[index].play(seed, &mut |glimpse| bar.show(job, glimpse));
        bar.finish(job);
        run
    });
    let mut by_scenario: Vec<Vec<RunReport>> = scenarios.iter().map(|_| Vec::new()).collect();
    for ((index, _), run) in jobs.into_iter().zip(runs) {
        by_scenario[index].push(run);
    }
    scenarios
        .iter()
        .zip(by_scenario)
        .map(|(scenario, runs)| Report {
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            hosts: scenario.fabric.topology.hosts(),
            runs,
        })
        .collect()
}
