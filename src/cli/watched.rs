//! The processes that a command watches, for all commands that do.

use std::io;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::Config;
use crate::telemetry::reader::{Reader, Watcher};
use crate::telemetry::snapshot::Snapshot;

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

/// The processes of a folder.
#[derive(Debug)]
pub(super) struct Watched {
    folder: PathBuf,
    watcher: Watcher,
}

impl Watched {
    /// Looks who is there, and says so where nobody is.
    pub(super) fn begin(folder: &Folder) -> Result<Self, Failure> {
        let folder = folder.path();
        let mut this = Self {
            watcher: Watcher::new(&folder),
            folder,
        };
        this.look()?;
        if this.watcher.readers().is_empty() {
            eprintln!("thalweg: no process records in {}", this.folder.display());
        }
        Ok(this)
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
        let (snapshot, lines) = self.watcher.snapshot().map_err(|error| self.says(&error))?;
        for line in lines {
            eprintln!("thalweg: {line}");
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
