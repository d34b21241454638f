//! `thalweg paths`: the paths of this host's processes, as they are now.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;

use super::watched::{Folder, Watched};
use super::{Failure, print_json};
use crate::sim::report::table::Table;
use crate::telemetry::Role;
use crate::telemetry::reader::{PathNow, Process, Reader};
use crate::telemetry::schema::{
    LinkCounter, LinkGauge, PATH_STATES, PathCounter, PathGauge, PathHistogram,
};

#[derive(Debug, Args)]
pub(super) struct PathsArgs {
    #[command(flatten)]
    folder: Folder,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub(super) fn paths(args: &PathsArgs, out: &mut impl Write) -> Result<(), Failure> {
    let mut watched = Watched::begin(&args.folder)?;
    let processes: Vec<_> = watched.readers().iter().map(Reader::read).collect();
    if args.json {
        return print_json(out, &processes);
    }
    for process in &processes {
        write!(out, "{}", text(process))?;
    }
    Ok(())
}

/// Its links, each with a table of its paths.
fn text(process: &Process) -> String {
    let state = if process.is_alive { "" } else { ", ended" };
    let mut text = format!("{} {}{state}\n", process.program, process.pid);
    for link in &process.links {
        let _ = write!(
            text,
            "\nlink {} {}: {} messages, {}",
            link.role.way(),
            link.peer,
            link.counters[LinkCounter::Messages],
            bytes(link.counters[LinkCounter::MessageBytes]),
        );
        let _ = match link.role {
            Role::Sender => writeln!(
                text,
                "; window {}, in flight {}",
                bytes(link.gauges[LinkGauge::Window]),
                bytes(link.gauges[LinkGauge::InFlight])
            ),
            Role::Receiver => writeln!(text),
        };
        let mut table = Table::new([
            "path",
            "state",
            "carried",
            "in flight",
            "Gb/s",
            "rtt us",
            "p50 us",
            "p99 us",
            "fences",
            "ends",
        ]);
        for path in &link.paths {
            table.push(row(path));
        }
        text += &table.to_text();
    }
    text.push('\n');
    text
}

fn row(path: &PathNow) -> Vec<String> {
    let gauge = |gauge: PathGauge| path.gauges[gauge];
    let delay = &path.histograms[PathHistogram::Delay];
    let quantile = |per_mille| delay.quantile(per_mille).map_or_else(|| "–".into(), micros);
    let megabits = gauge(PathGauge::Rate) / 125_000;
    vec![
        path.number.to_string(),
        state(gauge(PathGauge::State)).to_owned(),
        bytes(
            path.counters[PathCounter::SentBytes]
                .saturating_add(path.counters[PathCounter::ReceivedBytes]),
        ),
        bytes(gauge(PathGauge::Outstanding)),
        format!("{}.{:03}", megabits / 1000, megabits % 1000),
        micros(gauge(PathGauge::RoundTrip)),
        quantile(500),
        quantile(990),
        path.counters[PathCounter::Fences].to_string(),
        path.ends.clone(),
    ]
}

pub(super) fn state(number: u64) -> &'static str {
    let place = usize::try_from(number).unwrap_or(usize::MAX);
    PATH_STATES.get(place).copied().unwrap_or("?")
}

pub(super) fn micros(nanos: u64) -> String {
    format!("{}.{}", nanos / 1000, nanos / 100 % 10)
}

/// With the largest unit of which there is one at least.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (u64::BITS - bytes.leading_zeros()).saturating_sub(1) / 10;
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    match unit {
        0 => format!("{bytes} B"),
        unit => format!("{}.{} {}", tenths / 10, tenths % 10, units[unit as usize]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_largest_unit_that_fits() {
        let told = [
            0,
            1023,
            1024,
            1536,
            10 << 20,
            (5 << 30) + (1 << 29),
            u64::MAX,
        ]
        .map(bytes);
        let expected = [
            "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10.0 MiB", "5.5 GiB", "15.9 EiB",
        ];
        assert_eq!(told, expected);
    }
}
