//! What this host's processes have recorded, for other programs: looked for anew each time it is asked
//! for, since processes come and go. `prometheus` writes it down for scrapers, and `http` hands it out.

pub mod http;
pub mod prometheus;

use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;

use crate::telemetry::reader::{Process, Reader, Watcher};

/// What was found at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scrape {
    /// The exporter's release.
    pub version: &'static str,
    /// How many files there were that could not be read as segments.
    pub unreadable_segments: usize,
    /// What the others held.
    pub processes: Vec<Recorded>,
}

/// What one segment held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// What tells it from other segments of processes with the same number: such as are in other
    /// containers, or those of one process.
    pub segment: String,
    /// What it held.
    #[serde(flatten)]
    pub process: Process,
}

impl Scrape {
    /// Looks into all segments of a folder. With a line for each that cannot be read. A folder that is not
    /// there yet is an empty one: the first process makes it.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn of(folder: &Path) -> Result<(Self, Vec<String>), String> {
        let line = |error| format!("{}: {error}", folder.display());
        let mut watcher = Watcher::new(folder);
        let (processes, unreadable_segments, lines) = match watcher.look() {
            Ok(lines) => {
                let processes = watcher.readers().iter().map(Recorded::of).collect();
                (processes, lines.len(), lines)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), 0, vec![line(error)]),
            Err(error) => return Err(line(error)),
        };
        let scrape = Self {
            version: env!("CARGO_PKG_VERSION"),
            unreadable_segments,
            processes,
        };
        Ok((scrape, lines))
    }
}

impl Recorded {
    fn of(reader: &Reader) -> Self {
        let process = reader.read();
        let name = reader.path().file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let known = format!("thalweg-{}-", process.pid);
        let segment = name.strip_prefix(&known).unwrap_or(&name).to_owned();
        Self { segment, process }
    }
}
