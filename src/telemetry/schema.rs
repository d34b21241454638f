//! The one table of everything that is measured: name, unit, meaning and kind. The recorder's places, JSON
//! fields, Prometheus names and `docs/metrics.md` all come from it.

use std::fmt::{self, Write as _};

use super::event::Event;

/// What a metric is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, while what it counts for is there.
    Counter,
    /// It is as it is now.
    Gauge,
    /// How often there were values of which size.
    Histogram,
}

/// What a metric is told for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A link: all that goes one way between two processes.
    Link,
    /// One of its paths.
    Path,
}

/// In what a metric is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// Nanoseconds; Prometheus is told seconds.
    Nanoseconds,
    /// How many, of what the name says.
    Number,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// What it is told for.
    pub scope: Scope,
    /// What it is.
    pub kind: Kind,
    /// Its name, without scope and unit.
    pub name: &'static str,
    /// In what it is recorded.
    pub unit: Unit,
    /// What it means.
    pub help: &'static str,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "link",
            Self::Path => "path",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

impl Unit {
    /// How many of it make one of the unit that Prometheus is told.
    #[must_use]
    pub const fn per_base(self) -> u64 {
        match self {
            Self::Bytes | Self::BytesPerSecond | Self::Number => 1,
            Self::Nanoseconds => 1_000_000_000,
        }
    }
}

impl Metric {
    /// Its field in JSON: name and unit.
    #[must_use]
    pub fn field(&self) -> String {
        let unit = match self.unit {
            Unit::Bytes => "_bytes",
            Unit::BytesPerSecond => "_bytes_per_s",
            Unit::Nanoseconds => "_ns",
            Unit::Number => "",
        };
        format!("{}{unit}", self.name)
    }

    /// Its name for Prometheus, by that project's rules: base units, `_total` for counters.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let unit = match self.unit {
            Unit::Bytes => "_bytes",
            Unit::BytesPerSecond => "_bytes_per_second",
            Unit::Nanoseconds => "_seconds",
            Unit::Number => "",
        };
        let total = if self.kind == Kind::Counter {
            "_total"
        } else {
            ""
        };
        format!("thalweg_{}_{}{unit}{total}", self.scope, self.name)
    }
}

/// The metrics of one kind and scope.
pub trait Table: Copy + 'static {
    /// All of them, in the order of their places.
    const ALL: &'static [Self];
    /// Its place among them.
    fn place(self) -> usize;
    /// Its entry in the table.
    fn metric(self) -> Metric;
}

macro_rules! table {
    ($(
        $(#[$about:meta])*
        $table:ident: $kind:ident of $scope:ident {
            $( #[doc = $help:literal] $metric:ident = $name:literal in $unit:ident, )*
        }
    )*) => {
        $(
            $(#[$about])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum $table {
                $( #[doc = $help] $metric, )*
            }

            impl $table {
                /// All of them, in the order of their places.
                pub const ALL: &'static [Self] = &[ $( Self::$metric, )* ];
                /// How many there are.
                pub const COUNT: usize = Self::ALL.len();

            }

            impl Table for $table {
                const ALL: &'static [Self] = Self::ALL;

                fn place(self) -> usize {
                    self as usize
                }

                fn metric(self) -> Metric {
                    match self {
                        $( Self::$metric => Metric {
                            scope: Scope::$scope,
                            kind: Kind::$kind,
                            name: $name,
                            unit: Unit::$unit,
                            help: $help.trim_ascii(),
                        }, )*
                    }
                }
            }
        )*

        /// The table.
        pub fn metrics() -> impl Iterator<Item = Metric> {
            let all = std::iter::empty();
            $( let all = all.chain($table::ALL.iter().map(|metric| metric.metric())); )*
            all
        }
    };
}

table! {
    /// What a link counts.
    LinkCounter: Counter of Link {
        /// Messages that have ended well: at the sender acknowledged, at the receiver whole in their place.
        Messages = "messages" in Number,
        /// Payload of messages that have ended well.
        MessageBytes = "message" in Bytes,
        /// Messages that ended with an error.
        Failures = "failures" in Number,
        /// Chunks that a receiver got twice, for they were sent again over another path.
        Duplicates = "duplicates" in Number,
        /// Time in which the user of the link had nothing under way on it.
        IdleTime = "idle" in Nanoseconds,
        /// Time in which messages waited for receives that had not been posted.
        CreditTime = "credit_wait" in Nanoseconds,
        /// Time in which the receiver held back what was announced to it.
        GrantTime = "grant_wait" in Nanoseconds,
        /// At a receiver, time in which receives were posted and their messages not begun.
        SenderTime = "sender_wait" in Nanoseconds,
        /// Time in which the window or the paths were full, or no path was up; at a receiver, in which a part of a message was there.
        NetworkTime = "network_wait" in Nanoseconds,
        /// Time in which all was sent, and not all of it acknowledged.
        AckTime = "ack_wait" in Nanoseconds,
        /// Time in which something could be sent: what this host itself needed.
        HostTime = "host" in Nanoseconds,
    }

    /// What a link is like now.
    LinkGauge: Gauge of Link {
        /// The controller's answer: how much may be in flight.
        Window = "window" in Bytes,
        /// How much is in flight: given to paths and not acknowledged.
        InFlight = "in_flight" in Bytes,
        /// Paths that carry data.
        ActivePaths = "active_paths" in Number,
    }

    /// What a path counts.
    PathCounter: Counter of Path {
        /// Payload that was given to it, what was sent again included.
        SentBytes = "sent" in Bytes,
        /// Payload that came over it and was not there yet.
        ReceivedBytes = "received" in Bytes,
        /// Over TCP: segments that the peer's kernel has acknowledged, where both kernels agreed on ECN.
        Delivered = "delivered_segments" in Number,
        /// Over TCP: of these, segments acknowledged with a congestion mark (ECN).
        Marks = "marked_segments" in Number,
        /// Over TCP: segments that the kernel sent again.
        Retransmits = "retransmitted_segments" in Number,
        /// Times that it was given up and made silent.
        Fences = "fences" in Number,
        /// Frames that were outstanding when it was given up, and were given to others.
        Replays = "replays" in Number,
    }

    /// What a path is like now.
    PathGauge: Gauge of Path {
        /// 0 vacant, 1 dialing, 2 standby: up and not used, 3 active: used, 4 fenced: not yet known how far it came.
        State = "state" in Number,
        /// Payload that was given to it and is not acknowledged.
        Outstanding = "outstanding" in Bytes,
        /// What it delivered while it had something to deliver.
        Rate = "rate" in BytesPerSecond,
        /// Round trip, smoothed.
        RoundTrip = "round_trip" in Nanoseconds,
        /// The channel's number: how often it has been dialled.
        Epoch = "epoch" in Number,
    }

    /// What a path's values were.
    PathHistogram: Histogram of Path {
        /// From a chunk's departure to the word that it has arrived: over TCP the receiver's own, with the time that both hosts needed.
        Delay = "delay" in Nanoseconds,
    }
}

/// A gauge that Prometheus is told beside the table, of processes or of the exporter itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// Whether a process runs.
pub const PROCESS_UP: Exported = Exported {
    name: "thalweg_process_up",
    help: "1: the process runs; 0: it ended without closing, which is told for an hour, or until another of its user begins.",
};
/// When it last recorded.
pub const PROCESS_AGE: Exported = Exported {
    name: "thalweg_process_age_seconds",
    help: "How long ago it last recorded: some seconds at most, unless it has ended or is stopped.",
};
/// When it began.
pub const PROCESS_START: Exported = Exported {
    name: "thalweg_process_start_time_seconds",
    help: "When it began to record, in seconds since 1970.",
};
/// Which ends a path has.
pub const PATH_INFO: Exported = Exported {
    name: "thalweg_path_info",
    help: "1; the labels local and remote are the ends of the path, as long as it has these.",
};
/// Which release the exporter is.
pub const BUILD_INFO: Exported = Exported {
    name: "thalweg_build_info",
    help: "1; the label is the release of the exporter.",
};
/// What the exporter could not read.
pub const UNREADABLE_SEGMENTS: Exported = Exported {
    name: "thalweg_export_unreadable_segments",
    help: "Files that may not be read or that another release has written: their processes are missing here.",
};

/// All gauges beside the table.
pub const EXPORTED: [Exported; 6] = [
    PROCESS_UP,
    PROCESS_AGE,
    PROCESS_START,
    PATH_INFO,
    BUILD_INFO,
    UNREADABLE_SEGMENTS,
];

/// The states of a path, by [`PathGauge::State`].
pub const PATH_STATES: [&str; 5] = ["vacant", "dialing", "standby", "active", "fenced"];

/// A number that differs between tables that differ, for whoever reads what another release has recorded.
#[must_use]
pub fn fingerprint() -> u64 {
    // FNV-1a: the same on every machine and in every release.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |text: &str| {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for metric in metrics() {
        add(&metric.prometheus());
        add(&metric.kind.to_string());
    }
    add(Event::TABLE);
    hash
}

/// `docs/metrics.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics and events\n\nMade from the tables in `src/telemetry/schema.rs` and `event.rs`; a test says if they differ.\n\n\
         | Prometheus | JSON | kind | meaning |\n|---|---|---|---|\n",
    );
    for metric in metrics() {
        let _ = writeln!(
            text,
            "| `{}` | {} `{}` | {} | {} |",
            metric.prometheus(),
            metric.scope,
            metric.field(),
            metric.kind,
            metric.help
        );
    }
    text += "\nPrometheus is told these gauges besides (`docs/operations.md` has the labels):\n\n\
             | Prometheus | meaning |\n|---|---|\n";
    for metric in EXPORTED {
        let _ = writeln!(text, "| `{}` | {} |", metric.name, metric.help);
    }
    text += "\n## Events\n\n| name | says | meaning |\n|---|---|---|\n";
    for (name, verdict, help) in Event::all() {
        let verdict = format!("{verdict:?}").to_lowercase();
        let _ = writeln!(text, "| `{name}` | {verdict} | {help} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn names_are_told_apart_and_well_formed() {
        let mut seen = BTreeSet::new();
        for metric in metrics() {
            let name = metric.prometheus();
            let is_allowed = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(is_allowed), "{name}");
            assert!(seen.insert(name.clone()), "{name} is there twice");
            assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
        }
    }

    #[test]
    fn prometheus_is_told_base_units() {
        assert_eq!(
            PathCounter::SentBytes.metric().prometheus(),
            "thalweg_path_sent_bytes_total"
        );
        assert_eq!(
            PathHistogram::Delay.metric().prometheus(),
            "thalweg_path_delay_seconds"
        );
        assert_eq!(PathHistogram::Delay.metric().field(), "delay_ns");
    }

    /// `THALWEG_BLESS=1` writes it.
    #[test]
    fn the_documentation_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("THALWEG_BLESS").is_some() {
            fs::write(path, document()).unwrap();
        }
        assert!(
            fs::read_to_string(path).is_ok_and(|text| text == document()),
            "run THALWEG_BLESS=1 cargo test --lib telemetry"
        );
    }
}
