//! `thalweg events`: what has happened and was decided, as far back as it is kept, and what happens now.

use std::io::Write;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::watched::{Folder, Watched};
use super::{Failure, duration, say, wall_text};
use crate::telemetry::event::{Event, Verdict};
use crate::telemetry::reader::Happened;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = kinds())]
pub(super) struct EventsArgs {
    #[command(flatten)]
    folder: Folder,
    /// Go on with what happens from now on
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    filter: Filter,
    /// Only the last so many of what is kept
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Print a line of JSON for each
    #[arg(long)]
    json: bool,
}

/// Which of them.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only of links to or from peers whose address begins so
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<String>,
    /// Only of the path with this number
    #[arg(long, value_name = "N")]
    path: Option<u32>,
    /// Only those that say this or worse
    #[arg(long, value_enum)]
    verdict: Option<Said>,
    /// Only of this kind; repeat it for several
    #[arg(long, value_name = "NAME", value_parser = kind)]
    kind: Vec<String>,
    /// Only of processes with this number
    #[arg(long, value_name = "PID")]
    pid: Option<u64>,
    /// Only what happened in the last so long, such as 500ms, 10s, 5m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    /// Samples of chunks and windows too, of which there are many
    #[arg(long)]
    samples: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Said {
    /// All
    Fine,
    /// Something is held back
    Slow,
    /// What was under way may be lost, and is sent again
    Lost,
    /// Something has ended with an error
    Failed,
}

impl Said {
    fn verdict(self) -> Verdict {
        match self {
            Self::Fine => Verdict::Fine,
            Self::Slow => Verdict::Slow,
            Self::Lost => Verdict::Lost,
            Self::Failed => Verdict::Failed,
        }
    }
}

fn kinds() -> String {
    use std::fmt::Write as _;

    let mut text = String::from("Kinds:\n");
    for (name, _, help) in Event::all() {
        let _ = writeln!(text, "  {name:<16} {help}");
    }
    text
}

fn kind(text: &str) -> Result<String, String> {
    if Event::all().any(|(name, ..)| name == text) {
        return Ok(text.to_owned());
    }
    Err("no such kind: the help lists them".into())
}

impl Filter {
    fn takes(&self, event: &Happened, pid: u64, now_ns: u64) -> bool {
        let is_sample = matches!(event.event, Event::Chunk { .. } | Event::Window { .. });
        let is_asked = self.kind.iter().any(|kind| kind == event.event.name());
        let is_late = |since: Duration| {
            let since = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            event.wall_ns >= now_ns.saturating_sub(since)
        };
        (self.peer.as_ref()).is_none_or(|peer| event.peer.starts_with(peer))
            && self.path.is_none_or(|path| event.path == Some(path))
            && (self.verdict).is_none_or(|said| event.event.verdict() >= said.verdict())
            && self.pid.is_none_or(|wanted| wanted == pid)
            && self.since.is_none_or(is_late)
            && (is_asked || self.kind.is_empty() && (!is_sample || self.samples))
    }
}

/// An event with its process.
#[derive(Debug, Serialize)]
struct Line {
    pid: u64,
    program: String,
    verdict: Verdict,
    #[serde(flatten)]
    event: Happened,
    text: String,
}

pub(super) fn events(args: &EventsArgs, out: &mut impl Write) -> Result<(), Failure> {
    let mut watched = Watched::begin(&args.folder)?;
    let mut lines = look(&mut watched, &args.filter);
    let from = args.last.map_or(0, |last| lines.len().saturating_sub(last));
    lines.drain(..from);
    loop {
        for line in &lines {
            if args.json {
                serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
                writeln!(out)?;
            } else {
                writeln!(out, "{}", text(line))?;
            }
        }
        out.flush()?;
        if !args.follow {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
        watched.look()?;
        lines = look(&mut watched, &args.filter);
    }
}

/// What has happened since the last look, in the order of time.
fn look(watched: &mut Watched, filter: &Filter) -> Vec<Line> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ns = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0));
    let mut lines = Vec::new();
    for reader in watched.readers() {
        let (pid, program) = reader.process();
        let found = reader.events();
        if found.missed > 0 {
            say(format_args!(
                "{program} {pid}: {} events were gone before they could be read",
                found.missed
            ));
        }
        let events = found.events.into_iter();
        let taken = events.filter(|event| filter.takes(event, pid, now_ns));
        lines.extend(taken.map(|event| Line {
            pid,
            program: program.clone(),
            verdict: event.event.verdict(),
            text: event.event.to_string(),
            event,
        }));
    }
    lines.sort_by_key(|line| line.event.wall_ns);
    lines
}

fn text(line: &Line) -> String {
    let event = &line.event;
    let path = event
        .path
        .map_or_else(String::new, |path| format!(" path {path}"));
    let peer = if event.peer.is_empty() {
        "?"
    } else {
        &event.peer
    };
    format!(
        "{} {:<6} {} {} {}:{path} {}",
        wall_text(event.wall_ns),
        format!("{:?}", line.verdict).to_lowercase(),
        line.pid,
        event.role.way(),
        peer,
        line.text
    )
}
