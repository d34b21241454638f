//! What this host's processes have recorded, and what it and its ports say, for other programs: looked for anew
//! each time it is asked for, since processes come and go. `prometheus` writes it down for scrapers, and `http`
//! hands it out.

pub mod http;
pub mod prometheus;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use serde::Serialize;

use crate::clock::Timestamp;
use crate::telemetry::reader::{Process, Reader, Watcher};
use crate::telemetry::sources::switches::SwitchValue;
use crate::telemetry::sources::{Host, HostNow};

/// What was found at one time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scrape {
    /// The exporter's release.
    pub version: &'static str,
    /// How many files there were that could not be read as segments.
    pub unreadable_segments: usize,
    /// What the others held.
    pub processes: Vec<Recorded>,
    /// The host and its ports, where they are told too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostNow>,
    /// What switches have sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<SwitchValue>,
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
    /// Looks into all segments of a folder. With a line for each that cannot be read, and for a folder that is
    /// not there yet.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn of(folder: &Path) -> Result<(Self, Vec<String>), String> {
        let mut watcher = Watcher::new(folder);
        let mut lines = watcher
            .look()
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let unreadable_segments = lines.len();
        lines.extend(watcher.missing());
        let scrape = Self {
            version: env!("CARGO_PKG_VERSION"),
            unreadable_segments,
            processes: watcher.readers().iter().map(Recorded::of).collect(),
            host: None,
            switches: Vec::new(),
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

/// A host that several scrapes may ask for at once. One of them reads it; to the others, which would have to
/// wait, the last reading is told again, with its age.
#[derive(Debug)]
pub struct SharedHost {
    host: Mutex<Host>,
    last: Mutex<Option<HostNow>>,
}

impl SharedHost {
    /// That is read so.
    #[must_use]
    pub fn new(host: Host) -> Self {
        Self {
            host: Mutex::new(host),
            last: Mutex::new(None),
        }
    }

    /// How it is now, or was a moment ago.
    pub fn read(&self) -> HostNow {
        let mut host = match self.host.try_lock() {
            Ok(host) => host,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                if let Some(last) = &*lock(&self.last) {
                    return last.aged(Timestamp::now());
                }
                // The first reading of all is worth waiting for.
                lock(&self.host)
            }
        };
        let now = host.read(Timestamp::now());
        *lock(&self.last) = Some(now.clone());
        now
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::schema::HostCounter;
    use crate::telemetry::sources::tree::Tree;
    use crate::units::Nanos;

    #[test]
    fn nobody_waits_for_anothers_reading_but_for_the_first() {
        let tree = Tree::new("export-shared");
        let packets = |text: &str| tree.file("proc/net/softnet_stat", text);
        packets("00000007 00000000 00000000\n");
        let (sys, proc) = (tree.path().join("sys"), tree.path().join("proc"));
        let shared = SharedHost::new(Host::of_files(&sys, &proc));
        let count = |now: &HostNow| now.host.counters[HostCounter::SoftnetPackets];
        let first = std::thread::scope(|scope| {
            let busy = lock(&shared.host);
            let waiting = scope.spawn(|| shared.read());
            drop(busy);
            waiting.join().unwrap()
        });
        assert_eq!(count(&first), Some(7));
        packets("00000009 00000000 00000000\n");
        let busy = lock(&shared.host);
        let again = shared.read();
        assert_eq!((count(&again), &again.ports), (Some(7), &first.ports));
        let by = again.at.since(first.at).0;
        assert!(by > 0 && again.host.age_ns == first.host.age_ns.map(|age| age + by));
        drop(busy);
        // It is due again some time.
        while count(&shared.read()) != Some(9) {
            assert!(Timestamp::now().since(first.at) < Nanos::from_secs(60));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
