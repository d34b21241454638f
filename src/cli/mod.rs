//! The `thalweg` command. Results go to standard output, everything else to standard error, and
//! the exit status says whether all is well: 0, 1 where a run did not end, a bound is not held, or the
//! host has a problem, 2 where the command or a scenario is wrong.

#![warn(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "they panic when the pipe is closed"
)]

mod compare;
mod doctor;
mod events;
mod explain;
mod export;
mod paths;
mod ports;
mod progress;
mod record;
mod recording;
mod report;
mod run;
mod suite;
mod sweep;
mod top;
mod watched;
mod work;

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::sim::report::table::Table;
use crate::sim::scenario::{Override, SHIPPED, Scenario, ScenarioError};

pub use suite::{Row, rows_to_text};

#[derive(Debug, Parser)]
#[command(
    name = "thalweg",
    version,
    about = "Adaptive congestion control for collectives"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try a network, an algorithm or a setting in the packet-level simulator
    #[command(subcommand)]
    Sim(Sim),
    /// What limits each link, and whether it is the network
    Explain(explain::ExplainArgs),
    /// What happens and is decided on this host's links
    Events(events::EventsArgs),
    /// What this host's links and ports do, on a screen
    Top(top::TopArgs),
    /// A recording, on the same screen
    Replay(top::ReplayArgs),
    /// Keep what there is to see of this host and its processes in a file
    Record(record::RecordArgs),
    /// Make a page of a recording: throughput, delay and events of each path, and the host's ports
    Report(report::ReportArgs),
    /// The paths of this host's processes, as they are now
    Paths(paths::PathsArgs),
    /// Look this host over before a job: what would slow it down or end it, and what mends that
    Doctor(doctor::DoctorArgs),
    /// Answer Prometheus with what this host and its processes say
    Export(export::ExportArgs),
}

#[derive(Debug, Subcommand)]
enum Sim {
    /// Run a scenario and show what came out
    Run(RunArgs),
    /// Run a scenario for every combination of settings
    Sweep(SweepArgs),
    /// Run two scenarios and show their figures side by side
    Compare(CompareArgs),
    /// List the scenarios that come with the program, or print one
    List(ListArgs),
    /// Check the simulator and the algorithms against their bounds
    Suite(SuiteArgs),
}

/// What all commands that run something have in common.
#[derive(Debug, Args)]
struct Common {
    /// First seed [default: the scenario's]
    #[arg(long)]
    seed: Option<u64>,
    /// Number of runs, each with the next seed [default: the scenario's]
    #[arg(long)]
    seeds: Option<u32>,
    /// Set a field of the scenario, such as hosts.chunk=64K or workload.0.size=16MB
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Threads to run on [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// A scenario file, or the name of a shipped scenario
    scenario: String,
    #[command(flatten)]
    common: Common,
    /// Also write a page with pictures
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SweepArgs {
    /// A scenario file, or the name of a shipped scenario
    scenario: String,
    /// A field and the values it takes, such as hosts.paths=1,4,16; several make a grid
    #[arg(long = "axis", value_name = "FIELD=A,B,C", required = true)]
    axes: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// A scenario
    a: String,
    /// Another one
    b: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Print the text of this one, to begin one's own with
    name: Option<String>,
}

#[derive(Debug, Args)]
struct SuiteArgs {
    /// Which table
    table: SuiteTable,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SuiteTable {
    /// Packet-level references against published results
    Golden,
    /// The engine's control against its targets
    Control,
    /// Packet-hops a second
    Speed,
    /// The flow level against the packet level, and its speed with 100 000 hosts
    Flow,
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
enum Failure {
    /// A scenario or an argument is wrong: exit status 2.
    Usage(String),
    /// It ran, but not all is well; the reason has been printed: exit status 1.
    NotWell,
    /// The output could not be written.
    Output(std::io::Error),
}

impl From<ScenarioError> for Failure {
    fn from(error: ScenarioError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// A number and ms, s, m or h.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a number and ms, s, m or h, such as 10s".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a number and a unit")?;
    Ok(Duration::from_millis(number.saturating_mul(millis)))
}

/// A moment of the wall clock, in UTC.
fn wall_text(wall_ns: u64) -> String {
    let (seconds, micros) = (wall_ns / 1_000_000_000, wall_ns / 1000 % 1_000_000);
    let of_day = seconds % 86_400;
    format!(
        "{:02}:{:02}:{:02}.{micros:06}",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

fn print_json(out: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Says something on standard error. Whoever has closed that does not want to know.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "thalweg: {line}");
}

/// Runs the command that this process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help is no mistake, and goes to standard output. A closed pipe is none either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let mut out = std::io::stdout().lock();
    let result = match cli.command {
        Command::Explain(args) => explain::explain(&args, &mut out),
        Command::Events(args) => events::events(&args, &mut out),
        Command::Top(args) => top::top(&args, &mut out),
        Command::Replay(args) => top::replay(&args, &mut out),
        Command::Record(args) => record::record(&args, &mut out),
        Command::Report(args) => report::report(&args, &mut out),
        Command::Paths(args) => paths::paths(&args, &mut out),
        Command::Doctor(args) => doctor::doctor(&args, &mut out),
        Command::Export(args) => export::export(&args, &mut out),
        Command::Sim(command) => match command {
            Sim::Run(args) => run::run(&args, &mut out),
            Sim::Sweep(args) => sweep::sweep(&args, &mut out),
            Sim::Compare(args) => compare::compare(&args, &mut out),
            Sim::List(args) => list(&args, &mut out),
            Sim::Suite(args) => suite::suite(args.table, args.json, &mut out),
        },
    };
    match result.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::NotWell) => ExitCode::from(1),
        // Whoever read the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => {
            say(format_args!("the output cannot be written: {error}"));
            ExitCode::from(2)
        }
        Err(Failure::Usage(problem)) => {
            say(problem);
            ExitCode::from(2)
        }
    }
}

impl Common {
    /// What the command line sets in a scenario.
    fn overrides(&self) -> Result<Vec<Override>, Failure> {
        let mut overrides = Vec::new();
        for item in &self.set {
            let (field, value) = split_setting("--set", item)?;
            overrides.push(Override { field, value });
        }
        let mut own = |field: &str, value: Option<String>| {
            overrides.extend(value.map(|value| Override {
                field: field.to_owned(),
                value,
            }));
        };
        own("run.seed", self.seed.map(|seed| seed.to_string()));
        own("run.seeds", self.seeds.map(|seeds| seeds.to_string()));
        Ok(overrides)
    }

    fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(cores).max(1)
    }
}

/// `field=value`.
fn split_setting(option: &str, text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((field, value)) if !field.trim().is_empty() && !value.trim().is_empty() => {
            Ok((field.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(Failure::Usage(format!(
            "{option} {text}: write it as field=value, such as hosts.paths=16"
        ))),
    }
}

fn list(args: &ListArgs, out: &mut impl Write) -> Result<(), Failure> {
    if let Some(name) = &args.name {
        let Some(shipped) = SHIPPED.iter().find(|shipped| shipped.name == name) else {
            return Err(Failure::Usage(format!(
                "{name} is not a shipped scenario; `thalweg sim list` names them"
            )));
        };
        write!(out, "{}", shipped.text)?;
        return Ok(());
    }
    let mut table = Table::left(["scenario", "hosts", "what it shows"]);
    for shipped in SHIPPED {
        let scenario = Scenario::load(shipped.name, &[])?;
        table.push(vec![
            shipped.name.to_owned(),
            scenario.fabric.topology.hosts().to_string(),
            scenario.about,
        ]);
    }
    write!(out, "{}", table.to_text())?;
    Ok(())
}
