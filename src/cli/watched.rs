//! The processes that a command watches, and their host, for all commands that do.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::telemetry::reader::{Reader, Watcher};
use crate::telemetry::snapshot::Snapshot;
use crate::telemetry::sources::Host;

/// Where they record.
#[derive(Debug, Args)]
pub(super) struct Folder {
    /// Where the processes record [default: `THALWEG_SHM_DIR`, else /dev/shm]
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl Folder {
    pub(super) fn path(&self) -> PathBuf {
        let set = || std::env::var_os("THALWEG_SHM_DIR").map(PathBuf::from);
        let folder = self.folder.clone().or_else(set);
        folder.unwrap_or_else(|| Config::default().shm_folder)
    }
}

/// The processes of a folder, and their host.
#[derive(Debug)]
pub(super) struct Watched {
    folder: PathBuf,
    watcher: Watcher,
    /// None: it is left out.
    host: Option<Host>,
    /// What has been said of the host.
    said: BTreeSet<String>,
}

impl Watched {
    /// Looks who is there, and says so where nobody is.
    pub(super) fn begin(folder: &Folder) -> Result<Self, Failure> {
        let folder = folder.path();
        let mut this = Self {
            watcher: Watcher::new(&folder),
            folder,
            host: None,
            said: BTreeSet::new(),
        };
        this.look()?;
        if this.watcher.readers().is_empty() {
            eprintln!("thalweg: no process records in {}", this.folder.display());
        }
        Ok(this)
    }

    /// With what this host says of itself and its ports in each snapshot. That may take a second, where a
    /// transceiver is asked.
    pub(super) fn with_host(mut self) -> Self {
        self.host = Some(Host::new());
        self
    }

    /// Looks again.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        let lines = self.watcher.look();
        let lines =
            lines.map_err(|error| Failure::Usage(format!("{}: {error}", self.folder.display())))?;
        for line in lines {
            eprintln!("thalweg: {line}");
        }
        Ok(())
    }

    /// All that is there now, with what has happened since the last.
    pub(super) fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        let (mut snapshot, lines) = self.watcher.snapshot().map_err(|error| self.says(&error))?;
        for line in lines {
            eprintln!("thalweg: {line}");
        }
        if let Some(host) = &mut self.host {
            let now = host.read(Timestamp::now());
            for line in &now.lines {
                if self.said.insert(line.clone()) {
                    eprintln!("thalweg: {line}");
                }
            }
            snapshot.host = Some(now);
        }
        Ok(snapshot)
    }

    fn says(&self, error: &io::Error) -> Failure {
        Failure::Usage(format!("{}: {error}", self.folder.display()))
    }

    pub(super) fn readers(&mut self) -> &mut [Reader] {
        self.watcher.readers()
    }
}
