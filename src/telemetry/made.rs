//! Processes, links and paths for tests, in which nothing has been counted: a field that a test does not care
//! about has its value here, and nowhere else.

use crate::telemetry::Role;
use crate::telemetry::event::Event;
use crate::telemetry::reader::{Happened, Link, PathNow, Process};
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
    }
}
