//! Reports as plain text: columns that line up, numbers to the right.

use std::fmt::Write as _;

use super::record::to_float;
use super::{FabricCounts, HostCounts, PartReport, Report, RunReport};

/// A table of text. The first column is aligned to the left, the others to the right, or all to
/// the left.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    is_left: bool,
}

impl Table {
    /// Only a head.
    #[must_use]
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self {
            rows: vec![head.into_iter().map(Into::into).collect()],
            is_left: false,
        }
    }

    /// A table of words.
    #[must_use]
    pub fn left<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self {
            is_left: true,
            ..Self::new(head)
        }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The text, with a line below the head.
    #[must_use]
    pub fn to_text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                // Writing to a string does not fail.
                let _ = if column == 0 || self.is_left {
                    write!(line, "{gap}{cell:<width$}")
                } else {
                    write!(line, "{gap}{cell:>width$}")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
            if index == 0 {
                let all = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
                text.push_str(&"-".repeat(all));
                text.push('\n');
            }
        }
        text
    }
}

/// Picoseconds as microseconds with as many decimals as anybody needs.
#[must_use]
pub fn micros(picos: u64) -> String {
    let micros = to_float(picos) / 1e6;
    if picos < 10_000_000 {
        format!("{micros:.3}")
    } else if picos < 100_000_000_000 {
        format!("{micros:.1}")
    } else {
        format!("{micros:.0}")
    }
}

/// Large numbers in groups of three digits.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// The mean over runs of one of their numbers.
fn mean(runs: &[RunReport], number: impl Fn(&RunReport) -> u64) -> u64 {
    mean_known(runs, |run| Some(number(run))).unwrap_or(0)
}

/// The same, if all runs know it.
fn mean_known(runs: &[RunReport], number: impl Fn(&RunReport) -> Option<u64>) -> Option<u64> {
    let sum: Option<u128> = runs.iter().map(|run| number(run).map(u128::from)).sum();
    Some(u64::try_from(sum? / (runs.len().max(1) as u128)).unwrap_or(u64::MAX))
}

/// A number of a whole run that is compared between runs.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Its name, with its unit.
    pub name: &'static str,
    of: Number,
    kind: FigureKind,
}

type Number = fn(&RunReport) -> Option<u64>;

#[derive(Debug, Clone, Copy)]
enum FigureKind {
    /// Picoseconds, shown as microseconds.
    Time,
    Count,
    /// Parts of a million.
    Share,
}

/// The figures that sweeps and comparisons show.
pub fn figures() -> impl Iterator<Item = Figure> + Clone {
    use FigureKind::{Count, Share, Time};
    let figures: [(&'static str, Number, FigureKind); 14] = [
        ("mean µs", |run| Some(run.total.mean_ps), Time),
        ("p50 µs", |run| Some(run.total.p50_ps), Time),
        ("p99 µs", |run| Some(run.total.p99_ps), Time),
        ("max µs", |run| Some(run.total.max_ps), Time),
        ("makespan µs", |run| Some(run.total.makespan_ps), Time),
        ("ratio", |run| Some(millionths(run.total.ratio)), Share),
        ("Jain", |run| Some(millionths(run.total.jain)), Share),
        ("drops", |run| Some(run.fabric?.drops), Count),
        ("trims", |run| Some(run.fabric?.trims), Count),
        ("pauses", |run| Some(run.fabric?.pauses), Count),
        ("sent again", |run| Some(run.hosts?.sent_again), Count),
        ("fences", |run| Some(run.hosts?.fences), Count),
        ("re-hashes", |run| Some(run.hosts?.rehashes), Count),
        ("unfinished", |run| Some(run.stuck.count), Count),
    ];
    figures
        .into_iter()
        .map(|(name, of, kind)| Figure { name, of, kind })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a ratio between 0 and a few thousands"
)]
fn millionths(share: f64) -> u64 {
    (share * 1e6).round() as u64
}

impl Figure {
    /// Whether it counts something.
    #[must_use]
    pub fn is_count(&self) -> bool {
        matches!(self.kind, FigureKind::Count)
    }

    /// Its mean over runs, as text.
    #[must_use]
    pub fn of_all(&self, runs: &[RunReport]) -> String {
        let Some(mean) = mean_known(runs, self.of) else {
            return "–".to_owned();
        };
        match self.kind {
            FigureKind::Time => micros(mean),
            FigureKind::Count => grouped(mean),
            FigureKind::Share => format!("{:.3}", to_float(mean) / 1e6),
        }
    }

    /// Its mean over runs, for ratios.
    #[must_use]
    pub fn number(&self, runs: &[RunReport]) -> f64 {
        to_float(mean_known(runs, self.of).unwrap_or(0))
    }
}

/// The columns of a part, after its name.
const PART_COLUMNS: [&str; 9] = [
    "flows",
    "mean µs",
    "p50 µs",
    "p99 µs",
    "max µs",
    "makespan µs",
    "floor µs",
    "ratio",
    "Jain",
];

/// The figures of a part, averaged over all runs; times first averaged, then divided.
pub(super) fn part_row(runs: &[RunReport], of: impl Fn(&RunReport) -> &PartReport) -> Vec<String> {
    let Some(first) = runs.first() else {
        return Vec::new();
    };
    let time = |number: &dyn Fn(&PartReport) -> u64| micros(mean(runs, |run| number(of(run))));
    let average = |number: &dyn Fn(&PartReport) -> f64| {
        let sum: f64 = runs.iter().map(|run| number(of(run))).sum();
        format!("{:.3}", sum / to_float(runs.len() as u64))
    };
    let flows = grouped(of(first).flows);
    vec![
        of(first).name.clone(),
        flows,
        time(&|part| part.mean_ps),
        time(&|part| part.p50_ps),
        time(&|part| part.p99_ps),
        time(&|part| part.max_ps),
        time(&|part| part.makespan_ps),
        time(&|part| part.floor_ps),
        average(&|part| part.ratio),
        average(&|part| part.jain),
    ]
}

impl Report {
    /// The whole report as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = self.scenario.clone();
        if !self.about.is_empty() {
            let _ = write!(text, ": {}", self.about);
        }
        let seeds: Vec<String> = self.runs.iter().map(|run| run.seed.to_string()).collect();
        let _ = match seeds.as_slice() {
            [one] => writeln!(text, "\n{} hosts, seed {one}\n", self.hosts),
            [first, .., last] => writeln!(
                text,
                "\n{} hosts, mean of {} runs, seeds {first} to {last}\n",
                self.hosts,
                seeds.len()
            ),
            [] => writeln!(text, "\nno runs"),
        };
        let mut table = Table::new(std::iter::once("part").chain(PART_COLUMNS));
        let parts = self.runs.first().map_or(0, |run| run.parts.len());
        for part in 0..parts {
            table.push(part_row(&self.runs, |run| &run.parts[part]));
        }
        if parts != 1 {
            table.push(part_row(&self.runs, |run| &run.total));
        }
        text.push_str(&table.to_text());
        if self.runs.len() > 1 {
            let worst = self.runs.iter().map(|run| run.total.max_ps);
            if let (Some(least), Some(most)) = (worst.clone().min(), worst.max()) {
                let _ = writeln!(
                    text,
                    "worst flow over the runs: {} to {} µs",
                    micros(least),
                    micros(most)
                );
            }
        }
        text.push('\n');
        self.write_counts(&mut text);
        for run in self.runs.iter().filter(|run| !run.is_finished()) {
            text.push_str(&run.stuck_text());
        }
        text
    }

    /// What fabric and hosts did.
    fn write_counts(&self, text: &mut String) {
        let fabric: Option<Vec<FabricCounts>> = self.runs.iter().map(|run| run.fabric).collect();
        let hosts: Option<Vec<HostCounts>> = self.runs.iter().map(|run| run.hosts).collect();
        let Some((fabric, hosts)) = fabric.zip(hosts) else {
            text.push_str("flow level: no packets, so no drops, trims, marks, pauses or queues\n");
            return;
        };
        let runs = self.runs.len().max(1) as u64;
        let in_fabric = |number: &dyn Fn(&FabricCounts) -> u64| {
            fabric.iter().map(number).map(u128::from).sum::<u128>() / u128::from(runs)
        };
        let in_hosts = |number: &dyn Fn(&HostCounts) -> u64| {
            hosts.iter().map(number).map(u128::from).sum::<u128>() / u128::from(runs)
        };
        let shown = |mean: u128| grouped(u64::try_from(mean).unwrap_or(u64::MAX));
        let _ = writeln!(
            text,
            "packets {}  drops {}  trims {}  marks {}  pauses {} (between switches {}, {} µs in all)",
            shown(in_fabric(&|fabric| fabric.packets)),
            shown(in_fabric(&|fabric| fabric.drops)),
            shown(in_fabric(&|fabric| fabric.trims)),
            shown(in_fabric(&|fabric| fabric.marks)),
            shown(in_fabric(&|fabric| fabric.pauses)),
            shown(in_fabric(&|fabric| fabric.pauses_inside)),
            micros(u64::try_from(in_fabric(&|fabric| fabric.paused_ps)).unwrap_or(u64::MAX)),
        );
        let _ = writeln!(
            text,
            "sent again {}  timeouts {}  notifications {}  fences {}  re-hashes {}  longest queue {} bytes",
            shown(in_hosts(&|hosts| hosts.sent_again)),
            shown(in_hosts(&|hosts| hosts.timeouts)),
            shown(in_hosts(&|hosts| hosts.notifications)),
            shown(in_hosts(&|hosts| hosts.fences)),
            shown(in_hosts(&|hosts| hosts.rehashes)),
            shown(in_fabric(&|fabric| fabric.queue_max_bytes)),
        );
        if let Some(longest) = hosts
            .iter()
            .filter_map(|hosts| hosts.longest_stall_ps)
            .max()
        {
            let _ = writeln!(text, "longest time without progress {} µs", micros(longest));
        }
    }

    /// Whether all flows of all runs ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.runs.iter().all(RunReport::is_finished)
    }
}

impl RunReport {
    /// What is stuck, if anything is.
    #[must_use]
    pub fn stuck_text(&self) -> String {
        let mut text = String::new();
        if self.is_finished() {
            return text;
        }
        let _ = writeln!(
            text,
            "\nseed {}: {} at {} µs, {} of {} flows have not ended:",
            self.seed,
            self.ended,
            micros(self.end_ps),
            self.stuck.count,
            self.total.flows
        );
        for line in &self.stuck.flows {
            let _ = writeln!(text, "  {line}");
        }
        let more = self
            .stuck
            .count
            .saturating_sub(self.stuck.flows.len() as u64);
        if more > 0 {
            let _ = writeln!(text, "  and {more} more");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["part", "µs"]);
        table.push(vec!["ring".to_owned(), "12.5".to_owned()]);
        table.push(vec!["a long one".to_owned(), "3".to_owned()]);
        let expected = "part          µs\n----------------\nring        12.5\na long one     3\n";
        assert_eq!(table.to_text(), expected);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(micros(8_337_280), "8.337");
        assert_eq!(micros(207_600_000), "207.6");
        assert_eq!(micros(250_000_000_000), "250000");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1 234 567");
    }
}
