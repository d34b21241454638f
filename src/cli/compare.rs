//! `thalweg sim compare`: the figures of two scenarios side by side.

use std::io::Write;

use super::run::play_all;
use super::{CompareArgs, Failure};
use crate::sim::report::Report;
use crate::sim::report::table::{Table, figures};
use crate::sim::scenario::Scenario;

pub(super) fn compare(args: &CompareArgs, out: &mut impl Write) -> Result<(), Failure> {
    let overrides = args.common.overrides()?;
    let scenarios = [
        Scenario::load(&args.a, &overrides)?,
        Scenario::load(&args.b, &overrides)?,
    ];
    let reports = play_all(&scenarios, args.common.threads());
    let [a, b] = reports.as_slice() else {
        return Err(Failure::NotWell);
    };
    if args.common.json {
        serde_json::to_writer_pretty(&mut *out, &reports)?;
        writeln!(out)?;
    } else {
        let mut table = Table::new(["", a.scenario.as_str(), b.scenario.as_str(), "B / A"]);
        for figure in figures() {
            let numbers = [a, b].map(|report| figure.number(&report.runs));
            let ratio = if numbers[0] == 0.0 {
                "–".to_owned()
            } else {
                format!("{:.3}", numbers[1] / numbers[0])
            };
            table.push(vec![
                figure.name.to_owned(),
                figure.of_all(&a.runs),
                figure.of_all(&b.runs),
                ratio,
            ]);
        }
        write!(out, "{}", table.to_text())?;
        for run in reports.iter().flat_map(|report| &report.runs) {
            write!(out, "{}", run.stuck_text())?;
        }
    }
    if reports.iter().all(Report::is_finished) {
        Ok(())
    } else {
        Err(Failure::NotWell)
    }
}
