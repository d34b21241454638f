//! `thalweg sim run`: one scenario, all its seeds.

use std::io::Write;

use super::progress::Bar;
use super::work::in_parallel;
use super::{Failure, RunArgs, print_json, say};
use crate::sim::report::{Report, RunReport};
use crate::sim::scenario::{Detail, Override, Scenario, ScenarioError, Source};

pub(super) fn run(args: &RunArgs, out: &mut impl Write) -> Result<(), Failure> {
    let point = Point {
        source: &Source::open(&args.scenario)?,
        overrides: args.common.overrides()?,
    };
    let detail = match args.report {
        Some(_) => Detail::Pictures,
        None => Detail::Figures,
    };
    let reports = play_all(std::slice::from_ref(&point), detail, args.common.threads())?;
    for report in &reports {
        if let Some(path) = &args.report {
            let page = report.to_html(&point.scenario()?);
            std::fs::write(path, page).map_err(|error| {
                Failure::Usage(format!("{} cannot be written: {error}", path.display()))
            })?;
            say(format_args!("the report is in {}", path.display()));
        }
        if args.common.json {
            print_json(out, report)?;
        } else {
            write!(out, "{}", report.to_text())?;
        }
    }
    verdict(&reports)
}

/// Whether all flows of all runs ended.
pub(super) fn verdict(reports: &[Report]) -> Result<(), Failure> {
    if reports.iter().all(Report::is_finished) {
        Ok(())
    } else {
        Err(Failure::NotWell)
    }
}

/// A scenario with some fields set: what a report is about.
#[derive(Debug)]
pub(super) struct Point<'a> {
    pub(super) source: &'a Source,
    pub(super) overrides: Vec<Override>,
}

impl Point<'_> {
    fn scenario(&self) -> Result<Scenario, ScenarioError> {
        self.source.scenario(&self.overrides)
    }
}

/// Runs all seeds of all points. All are checked before the first one runs; a scenario is made
/// anew for each run, because the networks of a large sweep would not fit into memory together.
pub(super) fn play_all(
    points: &[Point<'_>],
    detail: Detail,
    threads: usize,
) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::with_capacity(points.len());
    let mut jobs = Vec::new();
    for (index, point) in points.iter().enumerate() {
        let scenario = point.scenario()?;
        jobs.extend(scenario.seeds().map(|seed| (index, seed)));
        reports.push(Report {
            scenario: scenario.name,
            about: scenario.about,
            hosts: scenario.fabric.topology.hosts(),
            runs: Vec::new(),
        });
    }
    let bar = Bar::new(jobs.len());
    let play = |job: usize| -> Result<RunReport, ScenarioError> {
        let (index, seed) = jobs[job];
        let scenario = points[index].scenario()?;
        let run = scenario.play(seed, detail, &mut |glimpse| bar.show(job, glimpse));
        bar.finish(job);
        Ok(run)
    };
    let runs = in_parallel(jobs.len(), threads, play);
    for ((index, _), run) in jobs.iter().zip(runs) {
        reports[*index].runs.push(run?);
    }
    Ok(reports)
}
