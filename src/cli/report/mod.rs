//! `thalweg report`: a recording as a page of its own, to be looked at later and passed on.

mod page;
mod series;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use self::series::Report;
use super::recording::Recording;
use super::{Failure, print_json};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// A recording of `thalweg record`
    file: PathBuf,
    /// Where the page goes [default: the recording's name, with .html]
    #[arg(long, short, value_name = "FILE.html")]
    output: Option<PathBuf>,
    /// How many links are shown with all their paths: the busiest
    #[arg(long, value_name = "N", default_value_t = 16)]
    links: usize,
    /// Print what the page shows as JSON instead
    #[arg(long)]
    json: bool,
}

/// What a recording shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The link, peer, path or host that it is about.
    pub(super) subject: String,
    /// What it is.
    pub(super) what: String,
    /// What says so, in a line each.
    pub(super) evidence: Vec<String>,
    /// How sure that is.
    pub(super) confidence_percent: u8,
}

pub(super) fn report(args: &ReportArgs, out: &mut impl Write) -> Result<(), Failure> {
    let recording = Recording::read(&args.file).map_err(Failure::Usage)?;
    for line in &recording.lines {
        eprintln!("thalweg: {}: {line}", args.file.display());
    }
    let report = Report::new(&recording, &[], args.links);
    if args.json {
        return print_json(out, &report);
    }
    let output = args.output.clone().unwrap_or_else(|| page_of(&args.file));
    fs::write(&output, page::page(&report))
        .map_err(|error| Failure::Usage(format!("{}: {error}", output.display())))?;
    writeln!(out, "{}", output.display())?;
    Ok(())
}

/// `run.jsonl` and `run.jsonl.gz` become `run.html`.
fn page_of(recording: &Path) -> PathBuf {
    let is_compressed = recording.extension().is_some_and(|end| end == "gz");
    let plain = if is_compressed {
        recording.with_extension("")
    } else {
        recording.to_owned()
    };
    // What is named like a page is not written over.
    if plain.extension().is_some_and(|end| end == "html") {
        return plain.with_extension("report.html");
    }
    plain.with_extension("html")
}
