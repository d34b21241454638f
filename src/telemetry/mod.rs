//! What a process measures and decides, kept where others can watch it without touching the process.
//!
//! `schema` is the one table of everything that is measured; `segment` the file in memory in which it is
//! kept; `histogram` how often there were values of which size; `event` what happens and is decided;
//! `reader` what others see.
//!
//! **Whoever holds a link publishes.** Engines count in plain numbers, under the lock of their link; with
//! the timers, every 10 ms, the numbers are copied into the segment. So the data path pays nothing for
//! counters, and only a histogram's values are put there one by one. What a reader sees is 10 ms old at most
//! while a link is driven, and a second once it is not.

pub mod event;
pub mod histogram;
#[cfg(test)]
pub(crate) mod made;
pub mod reader;
pub mod schema;
mod segment;
pub mod snapshot;
pub mod sources;
pub mod values;
pub mod verdict;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use self::event::Event;
use self::schema::{LinkCounter, LinkGauge, PathCounter, PathGauge, PathHistogram};
use self::segment::{
    LABEL_WORDS, LinkPlace, Mapping, PathPlace, event_words, label_words, link_id,
};
use crate::clock::Timestamp;

/// Which way a link's data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// This process sends.
    Sender,
    /// It receives.
    Receiver,
}

impl Role {
    /// To or from the peer.
    #[must_use]
    pub const fn way(self) -> &'static str {
        match self {
            Self::Sender => "to",
            Self::Receiver => "from",
        }
    }
}

/// Records what a process measures.
#[derive(Debug)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    mapping: Mapping,
    free: Mutex<Free>,
    /// How many owners places have had: a reader tells by it whether a place is still the same one's.
    owners: AtomicU64,
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that nobody has had. Never 0.
    fn owner(&self) -> u64 {
        self.owners.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes one of these places, for which there is memory then. None if there is no more room, or no
    /// memory. `used`: how many have ever been taken.
    fn take<T>(
        &self,
        kind: fn(&mut Free) -> &mut Places,
        places: &[T],
        used: &AtomicU64,
    ) -> Option<usize> {
        let index = kind(&mut self.free()).take(places.len())?;
        if !self.mapping.reserve(&places[index]) {
            kind(&mut self.free()).returned.push(index);
            return None;
        }
        used.fetch_max(index as u64 + 1, Ordering::Relaxed);
        Some(index)
    }
}

/// The label of a place that is nobody's.
const FREE: [u64; LABEL_WORDS] = [0; LABEL_WORDS];

/// Places that nobody has.
#[derive(Debug, Default)]
struct Free {
    links: Places,
    paths: Places,
}

#[derive(Debug, Default)]
struct Places {
    returned: Vec<usize>,
    /// Those from here on have never been taken.
    next: usize,
}

impl Places {
    fn take(&mut self, places: usize) -> Option<usize> {
        self.returned.pop().or_else(|| {
            let place = self.next;
            (place < places).then(|| {
                self.next += 1;
                place
            })
        })
    }
}

impl Recorder {
    /// Records into a new segment in this folder. If that cannot be, into memory of this process, and the
    /// line says why.
    ///
    /// # Errors
    /// There is no memory.
    pub fn open(folder: &Path) -> io::Result<(Self, Option<String>)> {
        segment::clean(folder);
        let (mapping, line) = match Mapping::create(folder) {
            Ok(mapping) => (mapping, None),
            Err(error) => (Mapping::private()?, Some(segment::advice(folder, &error))),
        };
        let shared = Shared {
            mapping,
            free: Mutex::default(),
            owners: AtomicU64::new(0),
        };
        Ok((Self(Arc::new(shared)), line))
    }

    /// A place for a link. None if there is no more room, or no memory for it.
    #[must_use]
    pub fn link(&self, role: Role, name: &str) -> Option<LinkRecorder> {
        let shared = &self.0;
        let segment = shared.mapping.get();
        let used = &segment.header.links_used;
        let index = shared.take(|free| &mut free.links, &segment.links, used)?;
        let place = &segment.links[index];
        let id = link_id(shared.owner(), role);
        place.label.write(&label_words(id, 0, name), || {
            clear(&place.counters);
            clear(&place.gauges);
        });
        Some(LinkRecorder(Arc::new(LinkGuard {
            shared: Arc::clone(shared),
            index,
            id,
            name: name.to_owned(),
        })))
    }

    /// The process is well: said now and then.
    pub fn beat(&self, now: Timestamp) {
        let beat = &self.0.mapping.get().header.beat;
        beat.store(now.as_nanos(), Ordering::Relaxed);
    }
}

fn clear(numbers: &[AtomicU64]) {
    for number in numbers {
        number.store(0, Ordering::Relaxed);
    }
}

/// Records a link, until it and its paths' recorders are dropped.
#[derive(Debug)]
pub struct LinkRecorder(Arc<LinkGuard>);

#[derive(Debug)]
struct LinkGuard {
    shared: Arc<Shared>,
    index: usize,
    id: u64,
    name: String,
}

impl LinkGuard {
    fn place(&self) -> &LinkPlace {
        &self.shared.mapping.get().links[self.index]
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        // What has happened to it may still be read.
        let gone = label_words(0, self.id, &self.name);
        self.place().label.write(&gone, || ());
        self.shared.free().links.returned.push(self.index);
    }
}

impl LinkRecorder {
    /// A place for a path of the link, by its number there. None if there is no more room, or no memory
    /// for it.
    #[must_use]
    pub fn path(&self, number: u8) -> Option<PathRecorder> {
        let shared = &self.0.shared;
        let segment = shared.mapping.get();
        let used = &segment.header.paths_used;
        let index = shared.take(|free| &mut free.paths, &segment.paths, used)?;
        let this = PathRecorder {
            link: Arc::clone(&self.0),
            index,
            owner: shared.owner(),
            number,
        };
        let place = this.place();
        place.label.write(&this.label(""), || {
            clear(&place.counters);
            clear(&place.gauges);
            for histogram in &place.histograms {
                histogram.clear();
            }
        });
        Some(this)
    }

    /// Something has happened to it, or to a path of it.
    pub fn event(&self, path: Option<u8>, event: Event, now: Timestamp) {
        let link = &self.0;
        let segment = link.shared.mapping.get();
        let entry = event_words((link.index, link.id), path, event, now);
        segment.ring_of(&event).journal().write(&entry);
    }

    /// What it has counted so far.
    pub fn count(&self, counter: LinkCounter, so_far: u64) {
        self.0.place().counters[counter as usize].store(so_far, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn set(&self, gauge: LinkGauge, value: u64) {
        self.0.place().gauges[gauge as usize].store(value, Ordering::Relaxed);
    }
}

/// Records a path, until it is dropped.
#[derive(Debug)]
pub struct PathRecorder {
    link: Arc<LinkGuard>,
    index: usize,
    owner: u64,
    number: u8,
}

impl PathRecorder {
    fn place(&self) -> &PathPlace {
        &self.link.shared.mapping.get().paths[self.index]
    }

    fn label(&self, ends: &str) -> [u64; LABEL_WORDS] {
        let place = self.link.index as u64 | u64::from(self.number) << 32;
        label_words(self.owner, place, ends)
    }

    /// Where it leads from and to.
    pub fn name(&self, ends: &str) {
        self.place().label.write(&self.label(ends), || ());
    }

    /// What it has counted so far.
    pub fn count(&self, counter: PathCounter, so_far: u64) {
        self.place().counters[counter as usize].store(so_far, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn set(&self, gauge: PathGauge, value: u64) {
        self.place().gauges[gauge as usize].store(value, Ordering::Relaxed);
    }

    /// A value of which it is counted how large it was.
    pub fn observe(&self, histogram: PathHistogram, value: u64) {
        self.place().histograms[histogram as usize].observe(value);
    }
}

impl Drop for PathRecorder {
    fn drop(&mut self) {
        self.place().label.write(&FREE, || ());
        self.link.shared.free().paths.returned.push(self.index);
    }
}
