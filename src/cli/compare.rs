//! `thalweg sim compare`: the figures of two scenarios side by side.

use std::io::Write;

use super::run::{Point, play_all, verdict};
use super::{CompareArgs, Failure, print_json};
use crate::sim::report::table::{Table, figures};
use crate::sim::scenario::{Detail, Source};

pub(super) fn compare(args: &CompareArgs, out: &mut impl Write) -> Result<(), Failure> {
    let overrides = args.common.overrides()?;
    let sources = [Source::open(&args.a)?, Source::open(&args.b)?];
    let points = sources.each_ref().map(|source| Point {
        source,
        overrides: overrides.clone(),
    });
    let reports = play_all(&points, Detail::Figures, args.common.threads())?;
    let [a, b] = reports.as_slice() else {
        return Err(Failure::NotWell);
    };
    if args.common.json {
        print_json(out, &reports)?;
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
    verdict(&reports)
}
