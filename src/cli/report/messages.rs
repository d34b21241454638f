//! What became of messages in a recording: of each device and class, and of each connection.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use super::series::{Key, key};
use crate::telemetry::Role;
use crate::telemetry::reader::{Link, Messages};
use crate::telemetry::schema::MessageCounter;
use crate::telemetry::snapshot::{Watched, Window};

/// Of what messages are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Of {
    Device,
    Class,
    Connection,
}

/// The messages of one, over the whole recording.
#[derive(Debug, Serialize)]
pub(super) struct MessagesRun {
    pub(super) pid: u64,
    pub(super) program: String,
    pub(super) of: Of,
    /// Of a device or class; of a connection its number on the link.
    pub(super) name: String,
    pub(super) role: Role,
    /// Of a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<String>,
    #[serde(flatten)]
    pub(super) messages: Messages,
}

/// What has been seen so far, by what tells one from all others: of connections the link and their number, else the
/// way and the name.
#[derive(Default)]
pub(super) struct Gathered(BTreeMap<(Key, Of, u64, String), MessagesRun>);

impl Gathered {
    pub(super) fn add(&mut self, window: &Window) {
        for watched in &window.processes {
            let process = &watched.process;
            for (of, totals) in [
                (Of::Device, &process.devices),
                (Of::Class, &process.classes),
            ] {
                for total in totals {
                    let (name, role) = (total.name.clone(), total.role);
                    self.add_to(watched, (of, name), role, None, &total.messages);
                }
            }
            for link in &process.links {
                for connection in &link.connections {
                    let whose = (Of::Connection, connection.number.to_string());
                    self.add_to(watched, whose, link.role, Some(link), &connection.messages);
                }
            }
        }
    }

    fn add_to(
        &mut self,
        watched: &Watched,
        (of, name): (Of, String),
        role: Role,
        link: Option<&Link>,
        messages: &Messages,
    ) {
        let way = link.map_or(u64::from(role == Role::Receiver), |link| link.id);
        let entry = self.0.entry((key(watched), of, way, name.clone()));
        let run = entry.or_insert_with(|| MessagesRun {
            pid: watched.process.pid,
            program: watched.process.program.clone(),
            of,
            name,
            role,
            peer: link.map(|link| link.peer.clone()),
            messages: Messages::default(),
        });
        run.messages.add(messages);
    }

    /// Devices and classes first, and of each the busiest.
    pub(super) fn finish(self) -> Vec<MessagesRun> {
        let mut runs: Vec<_> = self.0.into_values().collect();
        runs.sort_by_key(|run| {
            let bytes = run.messages.counters[MessageCounter::Bytes];
            (run.of, Reverse(bytes))
        });
        runs
    }
}
