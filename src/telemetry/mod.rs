//! What a process measures and decides, kept where others can watch it without touching the process.
//!
//! `schema` is the one table of everything that is measured; `segment` the file in memory in which it is
//! kept; `histogram` how often there were values of which size; `event` what happens and is decided;
//! `reader` what others see.
//!
//! **Whoever holds a link publishes.** Engines count in plain numbers, under the lock of their link; with
//! the timers, every 10 ms, the numbers are copied into the segment. So the data path pays nothing for
//! counters, and only a histogram's values are put there one by one. What a reader sees is 10 ms old at most
//! while a link is driven, and a second once it is not. Messages are rarer than chunks: what becomes of them is
//! put there at once.

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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use self::event::Event;
use self::schema::{
    LinkCounter, LinkGauge, MessageCounter, MessageHistogram, PathCounter, PathGauge, PathHistogram,
};
use self::segment::{
    CONNECTIONS, ConnectionPlace, LABEL_WORDS, LINKS, LinkPlace, Mapping, PATHS, PathPlace,
    TotalOf, Totals, event_words, label_words, link_id, role_of,
};
use crate::clock::Timestamp;
use crate::units::Nanos;

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
    /// There was no place for something.
    is_full: AtomicBool,
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noting_want<T>(&self, found: Option<T>) -> Option<T> {
        if found.is_none() {
            self.is_full.store(true, Ordering::Relaxed);
        }
        found
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
        let taken = kind(&mut self.free()).take(places.len());
        let index = self.noting_want(taken)?;
        if !self.mapping.reserve(&places[index]) {
            kind(&mut self.free()).returned.push(index);
            return self.noting_want(None);
        }
        used.fetch_max(index as u64 + 1, Ordering::Relaxed);
        Some(index)
    }

    /// A place for a connection, that was nobody's or of another with these totals; as [`Self::take`].
    fn take_connection(&self, totals: Totals) -> Option<usize> {
        let mut free = self.free();
        let returned = free.connections.iter().rposition(|(_, of)| *of == totals);
        if let Some(at) = returned {
            return Some(free.connections.swap_remove(at).0);
        }
        let (segment, index) = (self.mapping.get(), free.connections_used);
        let place = segment.connections.get(index);
        let place = self.noting_want(place.filter(|place| self.mapping.reserve(*place)))?;
        free.connections_used += 1;
        place.totals.store(totals.word(), Ordering::Relaxed);
        let used = &segment.header.connections_used;
        used.store(free.connections_used as u64, Ordering::Relaxed);
        Some(index)
    }

    /// The place of the total of a device or class; as [`Self::take`].
    fn total(&self, of: TotalOf, role: Role, name: &str) -> Option<usize> {
        let mut free = self.free();
        let known = free.totals.iter().position(|(known, its_role, its_name)| {
            (*known, *its_role, its_name.as_str()) == (of, role, name)
        });
        if known.is_some() {
            return known;
        }
        let (segment, index) = (self.mapping.get(), free.totals.len());
        let place = segment.totals.get(index);
        let place = self.noting_want(place.filter(|place| self.mapping.reserve(*place)))?;
        let label = label_words([of as u64, u64::from(role == Role::Receiver), 0], name);
        place.label.write(&label, || ());
        free.totals.push((of, role, name.to_owned()));
        let used = &segment.header.totals_used;
        used.store(index as u64 + 1, Ordering::Relaxed);
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
    /// Of connections, with what they belong to, and how many have ever been taken.
    connections: Vec<(usize, Totals)>,
    connections_used: usize,
    /// Devices and classes by their places, which they keep.
    totals: Vec<(TotalOf, Role, String)>,
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
        Ok((Self::within(mapping), line))
    }

    fn within(mapping: Mapping) -> Self {
        Self(Arc::new(Shared {
            mapping,
            free: Mutex::default(),
            owners: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
        }))
    }

    /// A place for a link to or from this peer, at this device of ours. None if there is no more room, or no
    /// memory for it.
    #[must_use]
    pub fn link(&self, role: Role, peer: &str, device: &str) -> Option<LinkRecorder> {
        let shared = &self.0;
        let segment = shared.mapping.get();
        let used = &segment.header.links_used;
        let index = shared.take(|free| &mut free.links, &segment.links, used)?;
        let place = &segment.links[index];
        let id = link_id(shared.owner(), role);
        place.label.write(&label_words([id, 0, 0], peer), || {
            clear(&place.counters);
            clear(&place.gauges);
        });
        Some(LinkRecorder(Arc::new(LinkGuard {
            shared: Arc::clone(shared),
            index,
            id,
            peer: peer.to_owned(),
            device: shared.total(TotalOf::Device, role, device),
        })))
    }

    /// What cannot be watched, in a line, if there was no place for something.
    #[must_use]
    pub fn shortage(&self) -> Option<String> {
        self.0.is_full.load(Ordering::Relaxed).then(|| {
            format!(
                "telemetry has no room for more: of what comes beyond {LINKS} links, {PATHS} paths and {CONNECTIONS} \
                 connections at once, or beyond the memory of THALWEG_SHM_DIR's folder, nothing is shown or counted"
            )
        })
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
    peer: String,
    /// The place of the total of its device.
    device: Option<usize>,
}

impl LinkGuard {
    fn place(&self) -> &LinkPlace {
        &self.shared.mapping.get().links[self.index]
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        // What has happened to it may still be read.
        let gone = label_words([0, self.id, 0], &self.peer);
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

    /// A place for a connection of the link, by its number there. None if there is no more room, or no memory
    /// for it.
    #[must_use]
    pub fn connection(&self, number: u32, class: &str) -> Option<ConnectionRecorder> {
        let shared = &self.0.shared;
        let class = shared.total(TotalOf::Class, role_of(self.0.id), class);
        let totals = Totals([self.0.device, class]);
        let index = shared.take_connection(totals)?;
        let place = &shared.mapping.get().connections[index];
        let label = label_words([shared.owner(), self.0.id, number.into()], "");
        place
            .label
            .write(&label, || place.before.copy(&place.counted));
        Some(ConnectionRecorder {
            link: Arc::clone(&self.0),
            index,
            totals,
        })
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
        label_words([self.owner, self.link.id, self.number.into()], ends)
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

/// Records the messages of a connection, until it is dropped. One thread at a time: whoever holds its link.
///
/// A message costs its connection some plain stores, and its device and class nothing: readers add up what is in
/// the places of connections, where it stays.
#[derive(Debug)]
pub struct ConnectionRecorder {
    link: Arc<LinkGuard>,
    index: usize,
    totals: Totals,
}

impl ConnectionRecorder {
    fn place(&self) -> &ConnectionPlace {
        &self.link.shared.mapping.get().connections[self.index]
    }

    fn add(&self, counter: MessageCounter, more: u64) {
        histogram::add(&self.place().counted.counters[counter as usize], more);
    }

    /// The link has taken up a request.
    pub fn requested(&self) {
        self.add(MessageCounter::Requested, 1);
    }

    /// A message of so many bytes has ended well, so long after that.
    pub fn ended(&self, bytes: u64, took: Nanos) {
        self.add(MessageCounter::Messages, 1);
        self.add(MessageCounter::Bytes, bytes);
        let histograms = &self.place().counted.histograms;
        histograms[MessageHistogram::Time as usize].observe(took.0);
        histograms[MessageHistogram::Size as usize].observe(bytes);
    }

    /// One has ended with an error.
    pub fn failed(&self) {
        self.add(MessageCounter::Failures, 1);
    }
}

impl Drop for ConnectionRecorder {
    fn drop(&mut self) {
        self.place().label.write(&FREE, || ());
        let mut free = self.link.shared.free();
        free.connections.push((self.index, self.totals));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::telemetry::reader::read;

    /// Under miri too, in memory of this process: it knows no files that are mapped.
    #[test]
    fn what_is_read_while_it_is_written_is_one_owners() {
        let recorder = Recorder::within(Mapping::private().unwrap());
        let segment = recorder.0.mapping.get();
        let rounds = if cfg!(miri) { 3 } else { 300 };
        thread::scope(|scope| {
            for device in ["eth0", "eth1"] {
                let recorder = &recorder;
                scope.spawn(move || {
                    for _ in 0..rounds {
                        let link = recorder.link(Role::Sender, device, device).unwrap();
                        let path = link.path(1).unwrap();
                        path.name(device);
                        path.observe(PathHistogram::Delay, 5);
                        let connection = link.connection(2, "bulk").unwrap();
                        for _ in 0..5 {
                            connection.requested();
                            connection.ended(7, Nanos(9));
                        }
                    }
                });
            }
            for link in (0..rounds * 5).flat_map(|_| read(segment).0) {
                assert!(["eth0", "eth1"].contains(&link.peer.as_str()), "{link:?}");
                for path in &link.paths {
                    assert!(["", link.peer.as_str()].contains(&path.ends.as_str()));
                    assert!(path.histograms[PathHistogram::Delay].count() <= 1);
                }
                for connection in &link.connections {
                    assert!(connection.messages.counters[MessageCounter::Messages] <= 5);
                }
            }
        });
        let (links, totals) = read(segment);
        assert_eq!(links, []);
        let messages = totals.map(|totals| -> Vec<_> {
            let counters = totals.into_iter().map(|total| total.messages.counters);
            counters.map(|of| of[MessageCounter::Messages]).collect()
        });
        assert_eq!(messages, [vec![rounds * 5; 2], vec![rounds * 10]]);
    }

    #[test]
    fn a_total_never_shrinks_while_connections_end() {
        let recorder = Recorder::within(Mapping::private().unwrap());
        let segment = recorder.0.mapping.get();
        let rounds = if cfg!(miri) { 3 } else { 1000 };
        let link = recorder.link(Role::Receiver, "peer", "eth0").unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 0..rounds {
                    let connection = link.connection(number, "bulk").unwrap();
                    connection.requested();
                    connection.ended(7, Nanos(9));
                }
            });
            let mut before = 0;
            while !writer.is_finished() {
                for total in read(segment).1.into_iter().flatten() {
                    let messages = total.messages.counters[MessageCounter::Messages];
                    if total.name == "bulk" {
                        assert!(messages >= before, "{messages} after {before}");
                        assert!(messages <= u64::from(rounds));
                        before = messages;
                    }
                }
            }
        });
        let [_, classes] = read(segment).1;
        let times = &classes[0].messages.histograms[MessageHistogram::Time];
        assert_eq!(
            (times.count(), times.sum),
            (rounds.into(), u64::from(rounds) * 9)
        );
    }
}
