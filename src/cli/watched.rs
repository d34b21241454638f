//! The processes that a command watches, and their host, for all commands that do.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver as Told, SyncSender};
use std::thread;
use std::time::Duration;

use clap::Args;

use super::{Failure, say};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::telemetry::reader::{Reader, Watcher};
use crate::telemetry::snapshot::Snapshot;
use crate::telemetry::sources::otlp::Receiver;
use crate::telemetry::sources::{Host, HostNow};

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
        say(format_args!("switches may send their metrics to {address}"));
        Ok(Some(receiver))
    }
}

/// The processes of a folder, and their host.
#[derive(Debug)]
pub(super) struct Watched {
    folder: PathBuf,
    watcher: Watcher,
    /// None: it is left out.
    host: Option<HostReader>,
    switches: Option<Receiver>,
    /// What has been said of the host and of switches.
    said: BTreeSet<String>,
    /// On a screen, which lines would spoil: those that are for later.
    kept: Option<Vec<String>>,
}

#[derive(Debug)]
enum HostReader {
    /// Each snapshot waits for its reading.
    Here(Box<Host>),
    /// None does.
    Aside(Aside),
}

/// How long a snapshot waits for a reading that is made aside: most take a few milliseconds, and nobody sees these.
const PATIENCE: Duration = Duration::from_millis(20);

/// Reads a host in a thread of its own, when it is asked to, for a screen that goes on meanwhile.
#[derive(Debug)]
struct Aside {
    ask: SyncSender<()>,
    told: Told<HostNow>,
    is_reading: bool,
    latest: Option<HostNow>,
}

impl Aside {
    fn begin(mut read: impl FnMut() -> HostNow + Send + 'static) -> io::Result<Self> {
        let (ask, asked) = mpsc::sync_channel(1);
        let (tell, told) = mpsc::sync_channel(1);
        let reads = move || {
            while let Ok(()) = asked.recv() {
                if tell.send(read()).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("thalweg-host".into())
            .spawn(reads)?;
        Ok(Self {
            ask,
            told,
            is_reading: false,
            latest: None,
        })
    }

    /// As it is now if that is soon known; else as it was last, with its age. None before the first.
    fn read(&mut self) -> Option<HostNow> {
        if !self.is_reading {
            self.is_reading = self.ask.send(()).is_ok();
        }
        if let Ok(now) = self.told.recv_timeout(PATIENCE) {
            self.is_reading = false;
            self.latest = Some(now);
        }
        Some(self.latest.as_ref()?.aged(Timestamp::now()))
    }
}

impl Watched {
    /// Looks who is there, and says so where nobody is.
    pub(super) fn begin(folder: &Folder) -> Result<Self, Failure> {
        let mut this = Self::of(folder, None);
        this.look()?;
        if let Some(line) = this.watcher.missing() {
            say(line);
        } else if this.watcher.readers().is_empty() {
            say(format_args!(
                "no process records in {}",
                this.folder.display()
            ));
        }
        Ok(this)
    }

    /// For a screen: what there is to say is kept for [`Self::say_kept`].
    pub(super) fn on_screen(folder: &Folder) -> Self {
        Self::of(folder, Some(Vec::new()))
    }

    fn of(folder: &Folder, kept: Option<Vec<String>>) -> Self {
        let folder = folder.path();
        Self {
            watcher: Watcher::new(&folder),
            folder,
            host: None,
            switches: None,
            said: BTreeSet::new(),
            kept,
        }
    }

    /// With what this host says of itself and its ports in each snapshot. That may take a second, where a
    /// transceiver is asked.
    pub(super) fn with_host(mut self) -> Self {
        self.host = Some(HostReader::Here(Box::default()));
        self
    }

    /// The same from now on, if it is not so yet, and no snapshot waits for it.
    pub(super) fn read_host_aside(&mut self) -> Result<(), Failure> {
        if self.host.is_none() {
            let mut host = Host::new();
            let aside = Aside::begin(move || host.read(Timestamp::now())).map_err(|error| {
                Failure::Usage(format!("no thread to read ports with: {error}"))
            })?;
            self.host = Some(HostReader::Aside(aside));
        }
        Ok(())
    }

    /// With what is received from switches in each snapshot.
    pub(super) fn with_switches(mut self, switches: Option<Receiver>) -> Self {
        self.switches = switches;
        self
    }

    /// Looks again.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        let lines = self.watcher.look().map_err(|error| self.says(&error))?;
        self.say(lines);
        Ok(())
    }

    /// All that is there now, with what has happened since the last.
    pub(super) fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        let (mut snapshot, lines) = self.watcher.snapshot().map_err(|error| self.says(&error))?;
        self.say(lines);
        snapshot.host = match &mut self.host {
            None => None,
            Some(HostReader::Here(host)) => Some(host.read(Timestamp::now())),
            Some(HostReader::Aside(aside)) => aside.read(),
        };
        if let Some(host) = &snapshot.host {
            self.say_once(&host.lines);
        }
        if let Some(switches) = &self.switches {
            let (values, lines) = switches.read().told(Timestamp::now());
            self.say_once(&lines);
            snapshot.switches = values;
        }
        Ok(snapshot)
    }

    fn say_once(&mut self, lines: &[String]) {
        let news = lines
            .iter()
            .filter(|line| self.said.insert((*line).clone()));
        let news = news.cloned().collect();
        self.say(news);
    }

    fn say(&mut self, lines: Vec<String>) {
        match &mut self.kept {
            Some(kept) => kept.extend(lines),
            None => lines.iter().for_each(say),
        }
    }

    /// Says what was kept: the screen is gone.
    pub(super) fn say_kept(&mut self) {
        let kept = self.kept.take().unwrap_or_default();
        self.say(kept);
    }

    fn says(&self, error: &io::Error) -> Failure {
        Failure::Usage(format!("{}: {error}", self.folder.display()))
    }

    pub(super) fn readers(&mut self) -> &mut [Reader] {
        self.watcher.readers()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn nobody_waits_for_a_reading_that_takes_long() {
        let (go, may) = mpsc::channel();
        let (begins, begun) = mpsc::channel();
        let mut count = 0;
        let mut aside = Aside::begin(move || {
            count += 1;
            let _ = begins.send(());
            let _ = may.recv();
            HostNow {
                at: Timestamp::from_nanos(count),
                lines: vec![count.to_string()],
                ..HostNow::default()
            }
        })
        .unwrap();
        let mut until = |number: &str| {
            let from = Instant::now();
            loop {
                let now = aside.read();
                if now.as_ref().is_some_and(|now| now.lines == [number]) {
                    return now.unwrap().at;
                }
                assert!(from.elapsed() < Duration::from_secs(60), "{now:?}");
            }
        };
        go.send(()).unwrap();
        let first = until("1");
        // The second takes long: the first is told meanwhile, as of now.
        begun.recv().unwrap();
        assert!(until("1") >= first);
        begun.recv().unwrap();
        let before = until("1");
        assert!(until("1") > before);
        go.send(()).unwrap();
        until("2");
    }
}
