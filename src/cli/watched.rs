//! The processes that a command watches, and their host, for all commands that do.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::telemetry::reader::{Reader, Watcher};
use crate::telemetry::snapshot::Snapshot;
use crate::telemetry::sources::Host;
use crate::telemetry::sources::otlp::Receiver;

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

/// What switches send.
#[derive(Debug, Args)]
pub(super) struct Switches {
    /// Receive what switches send of themselves, by OTLP over gRPC, at this address, such as 127.0.0.1:4317;
    /// whoever reaches it may send
    #[arg(long, value_name = "ADDR:PORT")]
    otlp: Option<SocketAddr>,
}

impl Switches {
    /// Listens, if that is asked for.
    pub(super) fn listen(&self) -> Result<Option<Receiver>, Failure> {
        let Some(address) = self.otlp else {
            return Ok(None);
        };
        let receiver = Receiver::listen(address)
            .map_err(|error| Failure::Usage(format!("--otlp {address}: {error}")))?;
        let address = receiver.address();
        eprintln!("thalweg: switches may send their metrics to {address}");
        Ok(Some(receiver))
    }
}

/// The processes of a folder, and their host.
#[derive(Debug)]
pub(super) struct Watched {
    folder: PathBuf,
    watcher: Watcher,
    /// None: it is left out.
    host: Option<Host>,
    switches: Option<Receiver>,
    /// What has been said of the host and of switches.
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
            switches: None,
            said: BTreeSet::new(),
        };
        this.look()?;
        if let Some(line) = this.watcher.missing() {
            eprintln!("thalweg: {line}");
        } else if this.watcher.readers().is_empty() {
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

    /// With what is received from switches in each snapshot.
    pub(super) fn with_switches(mut self, switches: Option<Receiver>) -> Self {
        self.switches = switches;
        self
    }

    /// Looks again.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        let lines = self.watcher.look().map_err(|error| self.says(&error))?;
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
            self.say_once(&now.lines);
            snapshot.host = Some(now);
        }
        if let Some(switches) = &self.switches {
            let (values, lines) = switches.read().told(Timestamp::now());
            self.say_once(&lines);
            snapshot.switches = values;
        }
        Ok(snapshot)
    }

    fn say_once(&mut self, lines: &[String]) {
        for line in lines {
            if self.said.insert(line.clone()) {
                eprintln!("thalweg: {line}");
            }
        }
    }

    fn says(&self, error: &io::Error) -> Failure {
        Failure::Usage(format!("{}: {error}", self.folder.display()))
    }

    pub(super) fn readers(&mut self) -> &mut [Reader] {
        self.watcher.readers()
    }
}
