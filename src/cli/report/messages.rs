//! What became of messages in a recording: of each device and class, and of each connection.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use super::series::{Key, key};
use crate::telemetry::Role;
use crate::telemetry::reader::{Connection, Link, Messages, Total};
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

/// What has been seen so far, by what tells one from all others: of connections the link and their number.
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
                    self.add_total(watched, of, total);
                }
            }
            for link in &process.links {
                for connection in &link.connections {
                    self.add_connection(watched, link, connection);
                }
            }
        }
    }

    fn add_total(&mut self, watched: &Watched, of: Of, total: &Total) {
        let role = u64::from(total.role == Role::Receiver);
        let entry = (self.0).entry((key(watched), of, role, total.name.clone()));
        let run = entry.or_insert_with(|| MessagesRun {
            pid: watched.process.pid,
            program: watched.process.program.clone(),
            of,
            name: total.name.clone(),
            role: total.role,
            peer: None,
            messages: Messages::default(),
        });
        run.messages.add(&total.messages);
    }

    fn add_connection(&mut self, watched: &Watched, link: &Link, connection: &Connection) {
        let name = connection.number.to_string();
        let of = Of::Connection;
        let entry = (self.0).entry((key(watched), of, link.id, name.clone()));
        let run = entry.or_insert_with(|| MessagesRun {
            pid: watched.process.pid,
            program: watched.process.program.clone(),
            of,
            name,
            role: link.role,
            peer: Some(link.peer.clone()),
            messages: Messages::default(),
        });
        run.messages.add(&connection.messages);
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
