//! `thalweg explain`: what limited each link, live or in a recording, and whether it was the network.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::recording::Recording;
use super::watched::{Folder, Watched};
use super::{Failure, duration, print_json, say, wall_text};
use crate::telemetry::snapshot::Snapshot;
use crate::telemetry::verdict::{self, Verdicts};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// What `thalweg record` has made [default: what happens on this host now]
    file: Option<PathBuf>,
    #[command(flatten)]
    folder: Folder,
    /// How long to look, such as 5s; of a recording its last so long
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    length: Option<Duration>,
    /// Of a recording: leave out its last so long
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "file")]
    until: Option<Duration>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// How long to look, unless it is said.
const LENGTH: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Explained {
    from_ns: u64,
    to_ns: u64,
    #[serde(flatten)]
    verdicts: Verdicts,
}

pub(super) fn explain(args: &ExplainArgs, out: &mut impl Write) -> Result<(), Failure> {
    let (recording, live);
    let snapshots = if let Some(file) = &args.file {
        recording = Recording::read(file).map_err(Failure::Usage)?;
        for line in &recording.lines {
            say(format_args!("{}: {line}", file.display()));
        }
        let asked = asked(&recording.snapshots, args.length, args.until);
        let few = || format!("{}: two snapshots at least are needed", file.display());
        asked.ok_or_else(|| Failure::Usage(few()))?
    } else {
        let mut watched = Watched::begin(&args.folder)?.with_host();
        let before = watched.snapshot()?;
        thread::sleep(args.length.unwrap_or(LENGTH));
        live = [before, watched.snapshot()?];
        &live[..]
    };
    let wall = |snapshot: Option<&Snapshot>| snapshot.map_or(0, |snapshot| snapshot.wall_ns);
    let explained = Explained {
        from_ns: wall(snapshots.first()),
        to_ns: wall(snapshots.last()),
        verdicts: verdict::explain_all(snapshots),
    };
    if args.json {
        return print_json(out, &explained);
    }
    write!(out, "{}", text(&explained))?;
    Ok(())
}

/// The snapshots of a recording that are asked for; none if they are fewer than two.
fn asked(
    snapshots: &[Snapshot],
    length: Option<Duration>,
    until: Option<Duration>,
) -> Option<&[Snapshot]> {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let end = snapshots
        .last()?
        .wall_ns
        .saturating_sub(until.map_or(0, nanos));
    let begin = length.map_or(0, |length| end.saturating_sub(nanos(length)));
    let last = snapshots
        .iter()
        .rposition(|snapshot| snapshot.wall_ns <= end)?;
    let first = snapshots
        .iter()
        .rposition(|snapshot| snapshot.wall_ns <= begin);
    let first = first.unwrap_or(0);
    (first < last).then(|| &snapshots[first..=last])
}

fn text(explained: &Explained) -> String {
    let (from, to) = (explained.from_ns, explained.to_ns);
    let seconds = to.saturating_sub(from) / 100_000_000;
    let mut text = format!(
        "{} to {} UTC, {}.{} s\n",
        &wall_text(from)[..10],
        &wall_text(to)[..10],
        seconds / 10,
        seconds % 10
    );
    let _ = writeln!(text, "{}", explained.verdicts.sum_up());
    for finding in &explained.verdicts.findings {
        let _ = writeln!(
            text,
            "\n{}: {} ({} %)\n  {}",
            finding.subject,
            finding.cause.name(),
            finding.confidence_percent,
            finding.says
        );
        for line in &finding.evidence {
            let _ = writeln!(text, "  - {line}");
        }
    }
    text
}
