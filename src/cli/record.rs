//! `thalweg record`: keeps what there is to see of this host and its processes in a file.

use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::recording::Writer;
use super::watched::{Folder, Switches, Watched};
use super::{Failure, duration};

#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// The file; compressed if its name ends in .gz
    file: PathBuf,
    #[command(flatten)]
    folder: Folder,
    /// Between two looks, such as 100ms or 1s
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    interval: Duration,
    /// Stop after so long, such as 10m [default: when interrupted]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    length: Option<Duration>,
    /// Leave out what the host and its ports say
    #[arg(long)]
    no_host: bool,
    #[command(flatten)]
    switches: Switches,
}

pub(super) fn record(args: &RecordArgs, out: &mut impl Write) -> Result<(), Failure> {
    let says = |error| Failure::Usage(format!("{}: {error}", args.file.display()));
    let interval = args.interval.max(Duration::from_millis(10));
    let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let switches = args.switches.listen()?;
    let mut watched = Watched::begin(&args.folder)?.with_switches(switches);
    if !args.no_host {
        watched = watched.with_host();
    }
    let mut file = Writer::create(&args.file, millis).map_err(says)?;
    let begun = Instant::now();
    let mut next = begun;
    let mut count = 0;
    loop {
        file.write(&watched.snapshot()?).map_err(says)?;
        count += 1;
        let is_over = |length| begun.elapsed() >= length;
        if args.length.is_some_and(is_over) {
            break;
        }
        next = (next + interval).max(Instant::now());
        let end = args.length.map_or(next, |length| begun + length);
        thread::sleep(next.min(end).saturating_duration_since(Instant::now()));
    }
    writeln!(out, "{}: {count} snapshots", args.file.display())?;
    Ok(())
}
