//! What others see of a process: its segment as it is now, without touching the process.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::Role;
use super::event::Event;
use super::histogram::{Counts, Histogram};
use super::schema::{
    LinkCounter, LinkGauge, MessageCounter, MessageHistogram, PathCounter, PathGauge,
    PathHistogram, Table,
};
use super::segment::{
    self, ConnectionPlace, Counted, LABEL_WORDS, LinkPlace, Mapping, PathPlace, Segment, TotalOf,
    TotalPlace, Totals, event_of, label_text, role_of,
};
use super::values::Values;
use crate::clock::{Timestamp, wall_ns};
use crate::sync::journal::Found;

/// So many of the last events may be in the hands of their writers; one before that, of which there is
/// nothing, was dropped.
const IN_HAND: u64 = 64;

/// A process's segment, to be looked into as often as one likes.
#[derive(Debug)]
pub struct Reader {
    mapping: Mapping,
    path: PathBuf,
    /// Of each of the rings, the next event to look for; none has been looked for yet.
    next: [Option<u64>; 2],
    /// Its file was not there any more at the last look.
    is_gone: bool,
}

/// What a process recorded, at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, in its own container.
    pub pid: u64,
    /// Name of the program.
    pub program: String,
    /// It runs: if not, this is how it ended.
    #[serde(rename = "alive")]
    pub is_alive: bool,
    /// When it began, in ns of the wall clock.
    pub started_wall_ns: u64,
    /// How long ago it last recorded, in ns.
    pub age_ns: u64,
    /// Its links.
    pub links: Vec<Link>,
    /// What went over its devices, each way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Total>,
    /// What went in its classes of connections, each way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<Total>,
}

/// A link, at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The same as long as it is the same link; no other link of the process ever has it.
    pub id: u64,
    /// The peer's address.
    pub peer: String,
    /// Which way its data goes.
    pub role: Role,
    /// What it has counted.
    #[serde(flatten)]
    pub counters: Values<LinkCounter>,
    /// What it is like now.
    #[serde(flatten)]
    pub gauges: Values<LinkGauge>,
    /// Its paths, by their numbers.
    pub paths: Vec<PathNow>,
    /// Its connections, by their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<Connection>,
}

/// What is known of messages, at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// What was counted.
    #[serde(flatten)]
    pub counters: Values<MessageCounter>,
    /// What they were like.
    #[serde(flatten)]
    pub histograms: Values<MessageHistogram, Counts>,
}

impl Messages {
    /// What has come since `earlier`; what is lower than then has begun anew.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            counters: self.counters.since(&earlier.counters),
            histograms: Values::new(|of| self.histograms[of].since(&earlier.histograms[of])),
        }
    }

    /// Adds those of another time, or of another.
    pub fn add(&mut self, other: &Self) {
        for (counter, more) in other.counters.iter() {
            self.counters[counter] = self.counters[counter].saturating_add(*more);
        }
        for (histogram, more) in other.histograms.iter() {
            let both = Counts::sum_of([&self.histograms[histogram], more].into_iter());
            self.histograms[histogram] = both;
        }
    }
}

/// A connection, at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its number on its link.
    #[serde(rename = "connection")]
    pub number: u32,
    /// Its messages.
    #[serde(flatten)]
    pub messages: Messages,
}

/// All that went one way over a device, or in a class of connections, since the process began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// The device or class.
    pub name: String,
    /// Which way.
    pub role: Role,
    /// The messages.
    #[serde(flatten)]
    pub messages: Messages,
}

/// A path, at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathNow {
    /// Its number on its link.
    #[serde(rename = "path")]
    pub number: u32,
    /// Where it leads from and to; empty until it is up.
    pub ends: String,
    /// What it has counted.
    #[serde(flatten)]
    pub counters: Values<PathCounter>,
    /// What it is like now.
    #[serde(flatten)]
    pub gauges: Values<PathGauge>,
    /// What its values were.
    #[serde(flatten)]
    pub histograms: Values<PathHistogram, Counts>,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// When, in ns of the wall clock.
    pub wall_ns: u64,
    /// The link that it happened to.
    pub link: u64,
    /// Which way its data goes.
    pub role: Role,
    /// Its peer; empty where that is not known any more.
    pub peer: String,
    /// The path that it happened to, if it was one.
    pub path: Option<u32>,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What has happened since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// In the order of their times.
    pub events: Vec<Happened>,
    /// How many more there were, that later ones had taken the place of.
    pub missed: u64,
}

/// The processes of a folder, watched as they come and go.
#[derive(Debug)]
pub struct Watcher {
    folder: PathBuf,
    readers: Vec<Reader>,
    /// What could not be read, and has been said.
    unreadable: BTreeMap<PathBuf, String>,
}

impl Watcher {
    /// Of this folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            readers: Vec::new(),
            unreadable: BTreeMap::new(),
        }
    }

    /// Looks who is there; tells of each segment that cannot be looked into once, in a line. A folder that is
    /// not there yet is an empty one: the first process that records makes it.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn look(&mut self) -> io::Result<Vec<String>> {
        let files = match segment::list(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            files => files?,
        };
        // What a process did last is read once more after it has closed.
        self.readers.retain_mut(|reader| {
            let is_gone = !files.contains(&reader.path);
            reader.mapping.is_whole()
                && !(is_gone && std::mem::replace(&mut reader.is_gone, is_gone))
        });
        self.unreadable.retain(|file, _| files.contains(file));
        let mut lines = Vec::new();
        for file in files {
            if self.readers.iter().any(|reader| reader.path == file) {
                continue;
            }
            match Reader::open(&file) {
                Ok(reader) => self.readers.push(reader),
                // One whose process has ended meanwhile is not missed.
                Err(_) if !file.exists() => {}
                Err(line) => {
                    if self.unreadable.insert(file, line.clone()).as_ref() != Some(&line) {
                        lines.push(line);
                    }
                }
            }
        }
        Ok(lines)
    }

    /// What to say of a folder that is not there.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let says = || {
            format!(
                "{}: there is no such folder yet: the first process that records makes it",
                self.folder.display()
            )
        };
        (!self.folder.exists()).then(says)
    }

    /// Those that can be looked into, in the order in which they were found.
    pub fn readers(&mut self) -> &mut [Reader] {
        &mut self.readers
    }
}

impl Reader {
    /// Looks into this file.
    ///
    /// # Errors
    /// What it is instead of a segment of this release.
    pub fn open(path: &Path) -> Result<Self, String> {
        let mapping =
            Mapping::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self {
            mapping,
            path: path.to_owned(),
            next: [None; 2],
            is_gone: false,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now. A link or path that comes or goes meanwhile may be missing.
    #[must_use]
    pub fn read(&self) -> Process {
        let segment = self.mapping.get();
        let header = &segment.header;
        let number = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (pid, program) = self.process();
        let (links, [devices, classes]) = read(segment);
        Process {
            pid,
            program,
            is_alive: !self.mapping.is_abandoned(),
            started_wall_ns: number(&header.started_wall),
            age_ns: (Timestamp::now().since(Timestamp::from_nanos(number(&header.beat)))).0,
            links,
            devices,
            classes,
        }
    }
}

impl Reader {
    /// Its number in its own container, and the name of its program.
    #[must_use]
    pub fn process(&self) -> (u64, String) {
        let header = &self.mapping.get().header;
        let program = header.program.read(label_text).unwrap_or_default();
        (header.pid.load(Ordering::Relaxed), program)
    }

    /// What has happened since this was last asked; at first, as far back as it is kept.
    pub fn events(&mut self) -> Events {
        let segment = self.mapping.get();
        // By the wall clock as it is set now.
        let (now, now_wall) = (Timestamp::now(), wall_ns());
        let mut found = Events::default();
        let rings = [&segment.decisions, &segment.samples];
        for (ring, next) in rings.into_iter().zip(&mut self.next) {
            let journal = ring.journal();
            let written = journal.written();
            let oldest = written.saturating_sub(journal.slots());
            let first = next.unwrap_or(oldest);
            // Those that are gone may be more than there is room for.
            found.missed += oldest.saturating_sub(first);
            *next = Some(written);
            for entry in first.max(oldest)..written {
                match journal.read(entry) {
                    Found::Entry(words) => {
                        let (at, (place, id), path, event) = event_of(words);
                        found.events.push(Happened {
                            wall_ns: now_wall.saturating_sub(now.since(at).0),
                            link: id,
                            role: role_of(id),
                            peer: peer_of(segment.links.get(place), id),
                            path,
                            event,
                        });
                    }
                    // It is being written: it is looked for again, with what comes after it.
                    Found::Nothing if written - entry <= IN_HAND => {
                        *next = Some(entry);
                        break;
                    }
                    Found::Nothing | Found::Overrun => found.missed += 1,
                }
            }
        }
        found.events.sort_by_key(|event| event.wall_ns);
        found
    }
}

/// The links that are there, in the order in which they began, without connections.
fn links_in(segment: &Segment) -> BTreeMap<u64, Link> {
    let header = &segment.header;
    let links = used(&segment.links, &header.links_used).iter();
    let mut links: BTreeMap<u64, Link> =
        links.filter_map(link).map(|link| (link.id, link)).collect();
    for place in used(&segment.paths, &header.paths_used) {
        if let Some((owner, path)) = path(place)
            && let Some(link) = links.get_mut(&owner)
        {
            link.paths.push(path);
        }
    }
    for link in links.values_mut() {
        link.paths.sort_by_key(|path| path.number);
    }
    links
}

/// All that there is: links with their paths and connections, and the totals of devices and of classes.
pub(super) fn read(segment: &Segment) -> (Vec<Link>, [Vec<Total>; 2]) {
    let header = &segment.header;
    let mut links = links_in(segment);
    let totals = used(&segment.totals, &header.totals_used).iter();
    let mut totals: Vec<_> = totals.map(total).collect();
    for place in used(&segment.connections, &header.connections_used) {
        let counted = messages(&place.counted);
        let of = Totals::of(place.totals.load(Ordering::Relaxed));
        for at in of.0.into_iter().flatten() {
            if let Some(Some((_, total))) = totals.get_mut(at) {
                total.messages.add(&counted);
            }
        }
        if let Some((owner, connection)) = connection(place)
            && let Some(link) = links.get_mut(&owner)
        {
            link.connections.push(connection);
        }
    }
    let mut links: Vec<_> = links.into_values().collect();
    for link in &mut links {
        link.connections.sort_by_key(|connection| connection.number);
    }
    let totals = |of: TotalOf| {
        let of_kind = totals.iter().flatten().filter(|(its, _)| *its == of);
        of_kind.map(|(_, total)| total.clone()).collect()
    };
    (links, [TotalOf::Device, TotalOf::Class].map(totals))
}

/// The peer of a link, as long as its place is not another's.
fn peer_of(place: Option<&LinkPlace>, id: u64) -> String {
    let peer = |label: &[u64; LABEL_WORDS]| {
        let is_its = label[0] == id || (label[0], label[1]) == (0, id);
        is_its.then(|| label_text(label))
    };
    let peer = place.and_then(|place| place.label.read(peer)).flatten();
    peer.unwrap_or_default()
}

fn numbers<T: Table>(words: &[AtomicU64]) -> Values<T> {
    Values::new(|metric: T| words[metric.place()].load(Ordering::Relaxed))
}

fn histograms<T: Table>(places: &[Histogram]) -> Values<T, Counts> {
    Values::new(|metric: T| places[metric.place()].read())
}

/// None of a place that is free, or changes hands just now.
fn link(place: &LinkPlace) -> Option<Link> {
    let link = |label: &[u64; LABEL_WORDS]| Link {
        id: label[0],
        peer: label_text(label),
        role: role_of(label[0]),
        counters: numbers(&place.counters),
        gauges: numbers(&place.gauges),
        paths: Vec::new(),
        connections: Vec::new(),
    };
    place.label.read(link).filter(|link| link.id != 0)
}

/// Those of the places that have ever been taken.
fn used<'a, T>(places: &'a [T], count: &AtomicU64) -> &'a [T] {
    let count = usize::try_from(count.load(Ordering::Relaxed));
    &places[..count.map_or(places.len(), |count| count.min(places.len()))]
}

/// With the id of its link. None as for a link.
fn path(place: &PathPlace) -> Option<(u64, PathNow)> {
    let path = |label: &[u64; LABEL_WORDS]| {
        let path = PathNow {
            number: u32::try_from(label[2]).unwrap_or(u32::MAX),
            ends: label_text(label),
            counters: numbers(&place.counters),
            gauges: numbers(&place.gauges),
            histograms: histograms(&place.histograms),
        };
        (label[0] != 0).then_some((label[1], path))
    };
    place.label.read(path).flatten()
}

/// With the id of its link. None as for a link.
fn connection(place: &ConnectionPlace) -> Option<(u64, Connection)> {
    let connection = |label: &[u64; LABEL_WORDS]| {
        let number = u32::try_from(label[2]).unwrap_or(u32::MAX);
        let messages = messages(&place.counted).since(&messages(&place.before));
        (label[0] != 0).then_some((label[1], Connection { number, messages }))
    };
    place.label.read(connection).flatten()
}

/// Of which nothing is counted yet. None of a place that is being taken.
fn total(place: &TotalPlace) -> Option<(TotalOf, Total)> {
    let total = |label: &[u64; LABEL_WORDS]| {
        let of = [TotalOf::Device, TotalOf::Class];
        let of = of.into_iter().find(|of| *of as u64 == label[0])?;
        let total = Total {
            name: label_text(label),
            role: role_of(label[1]),
            messages: Messages::default(),
        };
        Some((of, total))
    };
    place.label.read(total).flatten()
}

fn messages(counted: &Counted) -> Messages {
    Messages {
        counters: numbers(&counted.counters),
        histograms: histograms(&counted.histograms),
    }
}
