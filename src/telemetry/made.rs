//! Processes, links and paths for tests, in which nothing has been counted: a field that a test does not care
//! about has its value here, and nowhere else.

use std::collections::BTreeMap;

use crate::telemetry::Role;
use crate::telemetry::event::Event;
use crate::telemetry::histogram::{BUCKETS, bucket_of};
use crate::telemetry::reader::{Connection, Happened, Link, Messages, PathNow, Process, Total};
use crate::telemetry::schema::{MessageCounter, MessageHistogram};
use crate::telemetry::snapshot::{Snapshot, Watched, Window};
use crate::telemetry::values::Values;

/// A path, from and to these ends.
pub fn path(number: u32, ends: &str) -> PathNow {
    PathNow {
        number,
        ends: ends.into(),
        counters: Values::default(),
        gauges: Values::default(),
        histograms: Values::default(),
    }
}

/// A link, over these paths.
pub fn link(id: u64, role: Role, peer: &str, paths: Vec<PathNow>) -> Link {
    Link {
        id,
        peer: peer.into(),
        role,
        counters: Values::default(),
        gauges: Values::default(),
        paths,
        connections: Vec::new(),
    }
}

/// Messages of this size, that all took so long, and one more that is under way.
pub fn messages(count: u64, bytes: u64, took_ns: u64) -> Messages {
    let mut messages = Messages::default();
    messages.counters[MessageCounter::Requested] = count + 1;
    messages.counters[MessageCounter::Messages] = count;
    messages.counters[MessageCounter::Bytes] = count * bytes;
    for (histogram, value) in [
        (MessageHistogram::Time, took_ns),
        (MessageHistogram::Size, bytes),
    ] {
        let counts = &mut messages.histograms[histogram];
        counts.sum = count * value;
        counts.buckets = vec![0; BUCKETS];
        counts.buckets[bucket_of(value)] = count;
    }
    messages
}

/// A connection with these messages.
pub fn connection(number: u32, messages: Messages) -> Connection {
    Connection { number, messages }
}

/// What was sent in all by a device or in a class.
pub fn total(name: &str, messages: Messages) -> Total {
    Total {
        name: name.into(),
        role: Role::Sender,
        messages,
    }
}

/// What has happened to a link that sends, or to a path of it.
pub fn happened(
    wall_ns: u64,
    (link, peer): (u64, &str),
    path: Option<u32>,
    event: Event,
) -> Happened {
    Happened {
        wall_ns,
        link,
        role: Role::Sender,
        peer: peer.into(),
        path,
        event,
    }
}

/// A process that runs, in which nothing has happened.
pub fn watched(pid: u64, program: &str, started_wall_ns: u64, links: Vec<Link>) -> Watched {
    let process = Process {
        pid,
        program: program.into(),
        is_alive: true,
        started_wall_ns,
        age_ns: 0,
        links,
        devices: Vec::new(),
        classes: Vec::new(),
    };
    Watched {
        process,
        events: Vec::new(),
        events_missed: 0,
    }
}

/// These processes, and no host.
pub fn snapshot(wall_ns: u64, processes: Vec<Watched>) -> Snapshot {
    Snapshot {
        wall_ns,
        processes,
        ..Snapshot::default()
    }
}

/// What these processes did in so long, and no host.
pub fn window(length_ns: u64, processes: Vec<Watched>) -> Window {
    Window {
        from_ns: 0,
        to_ns: length_ns,
        processes,
        ports: Vec::new(),
        host: None,
        lives: BTreeMap::new(),
    }
}
