//! `thalweg sim suite`: the tables that show how good the simulator and the algorithms are, ours
//! beside the reference, with a bound in each row.

use std::io::Write;

use serde::Serialize;

use super::{Failure, SuiteTable, print_json};
use crate::sim::report::table::Table;

/// One row of a suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What it is compared with, in the unit that the name says.
    pub reference: f64,
    /// What came out here.
    pub ours: f64,
    /// The error, or the ratio, that has a bound.
    pub ratio_or_error: f64,
    /// The bound, in words: `± 1 %`, `≤ 56`.
    pub bound: String,
    /// Whether it is held.
    pub holds: bool,
    /// Where the row cannot hold its bound: the bound that was found instead, with its argument in
    /// the documentation. A row with a note does not fail the suite.
    pub note: Option<String>,
}

/// The rows of a suite. This is where the suites are plugged in: a function that makes rows, here.
fn rows(table: SuiteTable) -> Option<Vec<Row>> {
    match table {
        SuiteTable::Golden | SuiteTable::Control | SuiteTable::Speed => None,
    }
}

pub(super) fn suite(table: SuiteTable, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let Some(rows) = rows(table) else {
        return Err(Failure::Usage(
            "this suite is not part of this build yet".to_owned(),
        ));
    };
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
    let mut table = Table::new([
        "row",
        "reference",
        "ours",
        "error or ratio",
        "bound",
        "holds",
    ]);
    for row in rows {
        let holds = match (row.holds, &row.note) {
            (true, _) => "yes".to_owned(),
            (false, Some(note)) => format!("no: {note}"),
            (false, None) => "NO".to_owned(),
        };
        table.push(vec![
            row.name.clone(),
            format!("{:.2}", row.reference),
            format!("{:.2}", row.ours),
            format!("{:.4}", row.ratio_or_error),
            row.bound.clone(),
            holds,
        ]);
    }
    let held = rows.iter().filter(|row| row.holds).count();
    let noted = rows
        .iter()
        .filter(|row| !row.holds && row.note.is_some())
        .count();
    let failed = rows.len() - held - noted;
    format!(
        "{}\n{held} of {} rows hold, {noted} have a bound of their own, {failed} do not hold\n",
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
            reference: 53.2,
            ours: 55.1,
            ratio_or_error: 1.0357,
            bound: "≤ 56".to_owned(),
            holds,
            note: note.map(str::to_owned),
        };
        let text = rows_to_text(&[row(true, None), row(false, Some("≤ 60")), row(false, None)]);
        assert!(
            text.contains("1 of 3 rows hold, 1 have a bound of their own, 1 do not hold"),
            "{text}"
        );
        assert!(text.contains("NO\n") && text.contains("no: ≤ 60"), "{text}");
    }
}
