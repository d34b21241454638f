//! `thalweg sim suite`: the tables that show how good the simulator and the algorithms are, ours
//! beside the reference, with a bound in each row.

use std::io::Write;
use std::num::NonZero;

use serde::Serialize;

use super::{Failure, SuiteTable, print_json};
use crate::sim::control_suite::{self, Reach};
use crate::sim::fluid::twin;
use crate::sim::report::table::Table;
use crate::sim::spray::{golden, speed};

/// One row of a suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What it is compared with, in the unit that the name says.
    pub references: Vec<Reference>,
    /// What came out here.
    pub ours: f64,
    /// The error, or the ratio, that has a bound.
    pub ratio_or_error: f64,
    /// The bound, in words: `± 1 %`, `≤ 56`.
    pub bound: String,
    /// Whether it is held.
    pub holds: bool,
    /// Where a row holds: why its bound is wider than others'. Where it does not: why it cannot; it
    /// does not fail the suite then. The arguments are in the documentation.
    pub note: Option<String>,
}

/// A figure that stands beside ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reference {
    /// Whose.
    pub of: &'static str,
    /// `None` where it was not measured.
    pub value: Option<f64>,
}

impl Reference {
    fn new(of: &'static str, value: f64) -> Self {
        Self {
            of,
            value: (!value.is_nan()).then_some(value),
        }
    }
}

/// The rows of a suite.
fn rows(table: SuiteTable) -> Vec<Row> {
    match table {
        SuiteTable::Golden => golden::rows(golden::Subset::Full)
            .map(|row| from_golden(&row))
            .collect(),
        SuiteTable::Control => {
            let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
            control_suite::rows(CONTROL_SEEDS, threads)
                .iter()
                .map(from_control)
                .collect()
        }
        SuiteTable::Speed => speed::rows().map(|row| from_speed(&row)).collect(),
        SuiteTable::Flow => {
            let speed = twin::speed().map(|row| from_flow_speed(&row));
            let twins = twin::rows(twin::Subset::Full).map(|row| from_twin(&row));
            speed.chain(twins).collect()
        }
    }
}

/// What there is to say of a row that may miss its bound, if it does.
fn excuse(holds: bool, note: &str) -> Option<String> {
    (!holds && !note.is_empty()).then(|| note.to_owned())
}

/// Seeds of the control suite: the targets are means over at least five.
const CONTROL_SEEDS: u64 = 5;

fn from_golden(row: &golden::Row) -> Row {
    Row {
        name: format!("{}: {}", row.name, row.what),
        references: vec![Reference::new("htsim", row.theirs)],
        ours: row.ours,
        ratio_or_error: row.error,
        bound: format!("± {:.1} %", row.bound * 100.0),
        holds: row.holds,
        note: (!row.note.is_empty()).then(|| row.note.to_owned()),
    }
}

fn from_control(row: &control_suite::Row) -> Row {
    let (bound, reach) = match row.reach {
        Reach::AtMost(reach) => (format!("≤ {reach}"), reach),
        Reach::AtLeast(reach) => (format!("≥ {reach}"), reach),
    };
    Row {
        name: format!("{}: {}", row.scene, row.what),
        references: (control_suite::RIVALS.iter().zip(row.rivals))
            .map(|(of, value)| Reference::new(of, value))
            .collect(),
        ours: row.ours,
        ratio_or_error: if reach == 0.0 {
            row.ours
        } else {
            row.ours / reach
        },
        bound,
        holds: row.holds(),
        note: excuse(row.holds(), row.note),
    }
}

fn from_speed(row: &speed::Speed) -> Row {
    let memory = row.memory_mib.unwrap_or(f64::NAN);
    Row {
        name: format!("{}: million packet-hops/s", row.name),
        references: vec![Reference::new("htsim", row.theirs.unwrap_or(f64::NAN))],
        ours: row.mhops_per_second,
        ratio_or_error: row.mhops_per_second / row.theirs.unwrap_or(f64::NAN),
        bound: format!(
            "≥ {} within {} MiB (took {:.1} s, {memory:.0} MiB)",
            row.bound, row.memory_bound_mib, row.seconds
        ),
        holds: row.holds,
        note: None,
    }
}

fn from_twin(row: &twin::Row) -> Row {
    Row {
        name: format!("{}: {}", row.name, row.what),
        references: vec![Reference::new("packets", row.packets)],
        ours: row.flows,
        ratio_or_error: row.error,
        bound: format!("± {:.0} %", twin::BOUND * 100.0),
        holds: row.holds,
        note: excuse(row.holds, row.note),
    }
}

fn from_flow_speed(row: &twin::Speed) -> Row {
    let memory = row.memory_mib.unwrap_or(f64::NAN);
    Row {
        name: format!("{}: seconds for {} flows", row.name, row.flows),
        references: vec![Reference::new("packets", f64::NAN)],
        ours: row.seconds,
        ratio_or_error: row.seconds / row.bound_seconds,
        bound: format!(
            "≤ {} within {} MiB (took {memory:.0} MiB)",
            row.bound_seconds, row.bound_mib
        ),
        holds: row.holds,
        note: excuse(row.holds, row.note),
    }
}

pub(super) fn suite(table: SuiteTable, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let rows = rows(table);
    if json {
        print_json(out, &rows)?;
    } else {
        write!(out, "{}", rows_to_text(&rows))?;
    }
    if rows.iter().all(|row| row.holds || row.note.is_some()) {
        Ok(())
    } else {
        Err(Failure::NotWell)
    }
}

/// The rows as a table, and how many of them hold.
#[must_use]
pub fn rows_to_text(rows: &[Row]) -> String {
    let references = rows.first().map_or(&[][..], |row| &row.references);
    let columns = references.iter().map(|reference| reference.of);
    let mut table = Table::new(["row"].into_iter().chain(columns).chain([
        "ours",
        "error or ratio",
        "bound",
        "holds",
    ]));
    for row in rows {
        let holds = match (row.holds, &row.note) {
            (true, None) => "yes".to_owned(),
            (true, Some(note)) => format!("yes: {note}"),
            (false, Some(note)) => format!("no: {note}"),
            (false, None) => "NO".to_owned(),
        };
        let mut cells = vec![row.name.clone()];
        cells.extend(row.references.iter().map(|reference| {
            let value = reference.value.map(|value| format!("{value:.2}"));
            value.unwrap_or_else(|| "–".to_owned())
        }));
        cells.extend([
            format!("{:.2}", row.ours),
            format!("{:.4}", row.ratio_or_error),
            row.bound.clone(),
            holds,
        ]);
        table.push(cells);
    }
    let count = |holds, is_noted| {
        let counts = |row: &&Row| row.holds == holds && row.note.is_some() == is_noted;
        rows.iter().filter(counts).count()
    };
    let (wide, noted, failed) = (count(true, true), count(false, true), count(false, false));
    let held = count(true, false) + wide;
    let wider = match wide {
        0 => String::new(),
        _ => format!(" ({wide} of them by a wider bound)"),
    };
    format!(
        "{}\n{held} of {} rows hold{wider}, {noted} have a bound of their own, {failed} do not hold\n",
        table.to_text(),
        rows.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_hold_are_seen() {
        let row = |holds, note: Option<&str>| Row {
            name: "permutation 2 MB, µs".to_owned(),
            references: vec![
                Reference::new("ECMP", 53.2),
                Reference::new("spray", f64::NAN),
            ],
            ours: 55.1,
            ratio_or_error: 1.0357,
            bound: "≤ 56".to_owned(),
            holds,
            note: note.map(str::to_owned),
        };
        let rows = [
            row(true, None),
            row(true, Some("one seed")),
            row(false, Some("≤ 60")),
            row(false, None),
        ];
        let text = rows_to_text(&rows);
        assert!(
            text.contains(
                "2 of 4 rows hold (1 of them by a wider bound), 1 have a bound of their own, 1 do not hold"
            ),
            "{text}"
        );
        assert!(text.contains("yes: one seed\n"), "{text}");
        let text = rows_to_text(&rows[2..]);
        assert!(text.contains("0 of 2 rows hold, 1 have"), "{text}");
        let text = rows_to_text(&rows);
        let head = text.lines().next().unwrap_or_default();
        assert!(head.contains("ECMP  spray"), "{text}");
        assert!(text.contains("53.20      –"), "{text}");
        assert!(text.contains("NO\n") && text.contains("no: ≤ 60"), "{text}");
    }
}
