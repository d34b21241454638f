//! What others see of a process: its segment as it is now, without touching the process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::Role;
use super::histogram::Counts;
use super::schema::{LinkCounter, LinkGauge, PathCounter, PathGauge, PathHistogram, Table};
use super::segment::{self, LABEL_WORDS, LINKS, LinkPlace, Mapping, PATHS, PathPlace, label_text};
use super::values::Values;
use crate::clock::Timestamp;

/// A process's segment, to be looked into as often as one likes.
#[derive(Debug)]
pub struct Reader {
    mapping: Mapping,
    path: PathBuf,
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

/// The segments in a folder: those that can be looked into, and of the others a line each.
///
/// # Errors
/// The folder cannot be read.
pub fn find(folder: &Path) -> io::Result<(Vec<Reader>, Vec<String>)> {
    let (mut readers, mut lines) = (Vec::new(), Vec::new());
    for path in segment::list(folder)? {
        match Reader::open(&path) {
            Ok(reader) => readers.push(reader),
            // One whose process has ended meanwhile is not missed.
            Err(line) if path.exists() => lines.push(line),
            Err(_) => {}
        }
    }
    Ok((readers, lines))
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
        let used =
            |word: &AtomicU64, most| usize::try_from(number(word)).map_or(most, |n| n.min(most));
        let mut links: Vec<_> = segment.links[..used(&header.links_used, LINKS)]
            .iter()
            .enumerate()
            .filter_map(|(index, place)| Some((index, link(place)?)))
            .collect();
        for place in &segment.paths[..used(&header.paths_used, PATHS)] {
            let Some((owner, path)) = path(place) else {
                continue;
            };
            if let Some((_, link)) = links.iter_mut().find(|(index, _)| *index == owner) {
                link.paths.push(path);
            }
        }
        let mut links: Vec<_> = links.into_iter().map(|(_, link)| link).collect();
        for link in &mut links {
            link.paths.sort_by_key(|path| path.number);
        }
        Process {
            pid: number(&header.pid),
            program: header.program.read(label_text).unwrap_or_default(),
            is_alive: !self.mapping.is_abandoned(),
            started_wall_ns: number(&header.started_wall),
            age_ns: (Timestamp::now().since(Timestamp::from_nanos(number(&header.beat)))).0,
            links,
        }
    }
}

fn numbers<T: Table>(words: &[AtomicU64]) -> Values<T> {
    Values::new(|metric: T| words[metric.place()].load(Ordering::Relaxed))
}

/// None of a place that is free, or changes hands just now.
fn link(place: &LinkPlace) -> Option<Link> {
    let link = |label: &[u64; LABEL_WORDS]| Link {
        id: label[0],
        peer: label_text(label),
        role: if label[1] == 0 {
            Role::Sender
        } else {
            Role::Receiver
        },
        counters: numbers(&place.counters),
        gauges: numbers(&place.gauges),
        paths: Vec::new(),
    };
    place.label.read(link).filter(|link| link.id != 0)
}

/// With the place of its link. None as for a link.
fn path(place: &PathPlace) -> Option<(usize, PathNow)> {
    let path = |label: &[u64; LABEL_WORDS]| {
        let link = usize::try_from(label[1] & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let path = PathNow {
            number: u32::try_from(label[1] >> 32).unwrap_or(u32::MAX),
            ends: label_text(label),
            counters: numbers(&place.counters),
            gauges: numbers(&place.gauges),
            histograms: Values::new(|metric: PathHistogram| {
                place.histograms[metric.place()].read()
            }),
        };
        (label[0] != 0).then_some((link, path))
    };
    place.label.read(path).flatten()
}
