//! `thalweg sim sweep`: one scenario for every combination of values of some of its fields.

use std::io::Write;

use serde::Serialize;

use super::run::{Point, play_all, verdict};
use super::{Failure, SweepArgs, print_json, split_setting};
use crate::sim::report::Report;
use crate::sim::report::table::{Table, figures};
use crate::sim::scenario::{Detail, Override, Source};

/// A sweep is at most so large; nobody waits for more.
const POINTS_MAX: usize = 100_000;

#[derive(Debug, Serialize)]
struct Entry<'a> {
    settings: Vec<(&'a str, &'a str)>,
    report: &'a Report,
}

pub(super) fn sweep(args: &SweepArgs, out: &mut impl Write) -> Result<(), Failure> {
    let axes = args
        .axes
        .iter()
        .map(|axis| {
            let (field, values) = split_setting("--axis", axis)?;
            let values: Vec<String> = values
                .split(',')
                .map(|value| value.trim().to_owned())
                .collect();
            if values.iter().any(String::is_empty) {
                return Err(Failure::Usage(format!(
                    "--axis {axis}: a value is empty; remove the comma"
                )));
            }
            Ok((field, values))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let points = axes.iter().try_fold(1usize, |product, (_, values)| {
        product
            .checked_mul(values.len())
            .filter(|&product| product <= POINTS_MAX)
    });
    let Some(points) = points else {
        return Err(Failure::Usage(format!(
            "the axes make more than {POINTS_MAX} combinations; take fewer values"
        )));
    };
    let common = args.common.overrides()?;
    let settings: Vec<Vec<Override>> = (0..points).map(|point| combination(&axes, point)).collect();
    let source = Source::open(&args.scenario)?;
    let points: Vec<Point<'_>> = settings
        .iter()
        .map(|settings| Point {
            source: &source,
            overrides: [common.as_slice(), settings].concat(),
        })
        .collect();
    let reports = play_all(&points, Detail::Figures, args.common.threads())?;
    if args.common.json {
        let entries: Vec<Entry<'_>> = settings
            .iter()
            .zip(&reports)
            .map(|(settings, report)| Entry {
                settings: settings
                    .iter()
                    .map(|item| (item.field.as_str(), item.value.as_str()))
                    .collect(),
                report,
            })
            .collect();
        print_json(out, &entries)?;
    } else {
        let head = axes
            .iter()
            .map(|(field, _)| field.as_str())
            .chain(figures().map(|figure| figure.name));
        let mut table = Table::new(head);
        for (settings, report) in settings.iter().zip(&reports) {
            let values = settings.iter().map(|item| item.value.clone());
            table.push(
                values
                    .chain(figures().map(|figure| figure.of_all(&report.runs)))
                    .collect(),
            );
        }
        write!(out, "{}", table.to_text())?;
        for (settings, report) in settings.iter().zip(&reports) {
            for run in report.runs.iter().filter(|run| !run.is_finished()) {
                let values: Vec<String> = settings
                    .iter()
                    .map(|item| format!("{}={}", item.field, item.value))
                    .collect();
                write!(out, "\n{}{}", values.join(" "), run.stuck_text())?;
            }
        }
    }
    verdict(&reports)
}

/// The settings of one point of the grid; the last axis changes fastest.
fn combination(axes: &[(String, Vec<String>)], mut point: usize) -> Vec<Override> {
    let mut settings: Vec<Override> = axes
        .iter()
        .rev()
        .map(|(field, values)| {
            let value = values[point % values.len()].clone();
            point /= values.len();
            Override {
                field: field.clone(),
                value,
            }
        })
        .collect();
    settings.reverse();
    settings
}
