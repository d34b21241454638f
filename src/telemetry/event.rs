//! What happens, and is decided, on links and their paths: one table of events, each with its evidence.
//! Log lines, `thalweg events`, recordings and `docs/metrics.md` all take their words from here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Numbers that an event has at most.
pub(super) const VALUES: usize = 4;

/// What an event says of the link or path that it happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Fine,
    /// It is held back.
    Slow,
    /// What was under way may be lost, and is sent again.
    Lost,
    /// It has ended with an error.
    Failed,
}

/// What fits into a word of memory.
trait Word {
    fn word(self) -> u64;
    fn of(word: u64) -> Self;
}

impl Word for u64 {
    fn word(self) -> u64 {
        self
    }

    fn of(word: u64) -> Self {
        word
    }
}

macro_rules! choices {
    ($( $(#[$about:meta])* $name:ident { $( #[doc = $help:literal] $choice:ident = $text:literal, )* } )*) => {
        $(
            $(#[$about])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(rename_all = "snake_case")]
            pub enum $name {
                $( #[doc = $help] $choice, )*
                /// One that this release does not know.
                #[serde(other)]
                Unknown,
            }

            impl Word for $name {
                fn word(self) -> u64 {
                    self as u64
                }

                fn of(word: u64) -> Self {
                    let all = [ $( Self::$choice, )* ];
                    let place = usize::try_from(word).unwrap_or(usize::MAX);
                    all.get(place).copied().unwrap_or(Self::Unknown)
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(match self {
                        $( Self::$choice => $text, )*
                        Self::Unknown => "for a reason that this release does not know",
                    })
                }
            }
        )*
    };
}

choices! {
    /// Why a path was fenced.
    FenceReason {
        /// Nothing was acknowledged while a sibling lived.
        Silent = "nothing acknowledged",
        /// The channel reported an error or was closed.
        Broken = "its connection broke",
        /// The sender gave it up.
        Sender = "the sender gave it up",
        /// The receiver lost it.
        LostByPeer = "the receiver lost its connection",
        /// It stayed slower than its siblings: another source port takes its place.
        Slow = "it stayed slower than the others",
        /// The port that it leaves by is down, or has another address now.
        PortDown = "its port is down or has another address",
    }

    /// Why the controller has changed the window.
    WindowReason {
        /// Chunks meet less of a queue than they may.
        Room = "there is room",
        /// They meet more.
        Queue = "queues are longer than wanted",
        /// The network has asked for less: marks, notifications, pauses.
        Notified = "the network asks for less",
    }
}

macro_rules! events {
    ($(
        #[doc = $help:literal]
        $name:ident = $text:literal is $verdict:ident { $( #[doc = $about:literal] $field:ident: $kind:ty, )* }
    )*) => {
        /// What has happened, with its evidence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "event")]
        pub enum Event {
            $(
                #[doc = $help]
                #[serde(rename = $text)]
                $name { $( #[doc = $about] $field: $kind, )* },
            )*
            /// One that this release does not know.
            #[serde(other)]
            Unknown,
        }

        #[derive(Clone, Copy)]
        enum Kind { $( $name, )* }

        impl Event {
            /// Its name, as it is asked for.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $( Self::$name { .. } => $text, )*
                    Self::Unknown => "unknown",
                }
            }

            /// What it says.
            #[must_use]
            pub fn verdict(&self) -> Verdict {
                match self {
                    $( Self::$name { .. } => Verdict::$verdict, )*
                    Self::Unknown => Verdict::Fine,
                }
            }

            /// All names, each with what it says and means.
            pub fn all() -> impl Iterator<Item = (&'static str, Verdict, &'static str)> {
                [ $( ($text, Verdict::$verdict, $help.trim_ascii()), )* ].into_iter()
            }

            /// What there is, and in which order: it differs between tables that differ.
            pub(super) const TABLE: &'static str =
                stringify!($( $name { $( $field: $kind, )* } )*);

            pub(super) fn words(self) -> (u64, [u64; VALUES]) {
                let mut words = [0; VALUES];
                let mut put = |given: &[u64]| words[..given.len()].copy_from_slice(given);
                let kind = match self {
                    $( Self::$name { $( $field, )* } => {
                        put(&[ $( Word::word($field), )* ]);
                        Kind::$name as u64
                    } )*
                    Self::Unknown => u64::MAX,
                };
                (kind, words)
            }

            pub(super) fn of(kind: u64, words: [u64; VALUES]) -> Self {
                let mut words = words.into_iter();
                let mut next = || words.next().unwrap_or(0);
                $(
                    if kind == Kind::$name as u64 {
                        return Self::$name { $( $field: Word::of(next()), )* };
                    }
                )*
                let _ = next();
                Self::Unknown
            }
        }
    };
}

events! {
    /// The way of a chunk was timed: one each millisecond is kept.
    Chunk = "chunk" is Fine {
        /// From its departure to the word that it has arrived.
        delay_ns: u64,
        /// Of which it waited in queues.
        queue_ns: u64,
        /// What was in flight on the link when it left.
        in_flight_bytes: u64,
        /// What may be.
        window_bytes: u64,
    }
    /// The controller has changed the window, by an eighth at least since this was last said.
    Window = "window" is Fine {
        /// Why.
        reason: WindowReason,
        /// What it was.
        before_bytes: u64,
        /// What it is.
        window_bytes: u64,
    }
    /// A channel is up: its path can be used.
    PathUp = "path-up" is Fine {
        /// Its number: how often the path has been dialled.
        epoch: u64,
    }
    /// A path carries chunks from now on; zeros where it was not probed.
    PathJoined = "path-joined" is Fine {
        /// How long its probes waited.
        waited_ns: u64,
        /// How long those of the paths in use did at the same moments.
        queue_ns: u64,
    }
    /// A candidate was probed and shares a way with a path in use: it is dropped.
    PathCollided = "path-collided" is Slow {
        /// How long its probes waited.
        waited_ns: u64,
        /// How long those of the paths in use did at the same moments.
        queue_ns: u64,
    }
    /// A path is left out for a while: a chunk met a queue there far above what its siblings' do.
    PathRests = "path-rests" is Slow {
        /// That queue.
        queue_ns: u64,
        /// What is usual at its port.
        usual_ns: u64,
        /// For so long.
        for_ns: u64,
    }
    /// What was sent on a path is not acknowledged for too long: its siblings are asked.
    PathSuspect = "path-suspect" is Slow {
        /// For so long.
        silent_ns: u64,
    }
    /// A path stayed slower than its siblings: it leaves from another source port now.
    PathRerouted = "path-rerouted" is Slow {}
    /// A path was given up and made silent.
    PathFenced = "path-fenced" is Lost {
        /// Why.
        reason: FenceReason,
        /// For so long it had been silent, where that is why.
        silent_ns: u64,
        /// Frames that were under way on it.
        frames: u64,
    }
    /// The sender has closed a path that had carried nothing: it leads nowhere new, or the link ends.
    PathClosed = "path-closed" is Fine {}
    /// The receiver has said how far a fenced path came: the rest goes by other paths.
    PathReplayed = "path-replayed" is Lost {
        /// Frames that are sent again.
        frames: u64,
    }
    /// A port loses packets and is left for a while.
    PortLossy = "port-lossy" is Lost {
        /// Which of the link's own.
        port: u64,
        /// Packets that were lost.
        lost_packets: u64,
        /// Of so many.
        sent_packets: u64,
        /// For so long.
        for_ns: u64,
    }
    /// The search for further ways through the network has ended.
    SearchEnded = "search-ended" is Fine {
        /// Paths in use.
        paths: u64,
    }
    /// The receiver holds back what the sender has announced: others are served first.
    GrantHeld = "grant-held" is Slow {
        /// What is announced and not granted.
        backlog_bytes: u64,
        /// For so long already.
        for_ns: u64,
    }
    /// Messages wait for receives that have not been posted.
    CreditAwaited = "credit-awaited" is Slow {
        /// So many.
        messages: u64,
        /// For so long already.
        for_ns: u64,
    }
    /// A message has ended with an error.
    MessageFailed = "message-failed" is Failed {
        /// So many since the link began.
        failures: u64,
    }
    /// The link has ended.
    LinkFailed = "link-failed" is Failed {
        /// Sends that ended with an error for it.
        sends: u64,
    }
}

/// Milliseconds, and below ten of them microseconds.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..10_000_000 => write!(f, "{} us", self.0 / 1000),
            nanos => write!(f, "{} ms", nanos / 1_000_000),
        }
    }
}

impl fmt::Display for Event {
    #[rustfmt::skip]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Chunk { delay_ns, queue_ns, in_flight_bytes, window_bytes } => write!(
                f,
                "a chunk took {}, {} of it in queues; {in_flight_bytes} of {window_bytes} bytes in flight",
                Time(delay_ns), Time(queue_ns),
            ),
            Self::Window { reason, before_bytes, window_bytes } => write!(
                f, "window {before_bytes} -> {window_bytes} bytes: {reason}",
            ),
            Self::PathUp { epoch } => write!(f, "is up, channel {epoch}"),
            Self::PathJoined { waited_ns: 0, queue_ns: 0 } => f.write_str("joined"),
            Self::PathJoined { waited_ns, queue_ns } => write!(
                f, "joined: {}", Probes(waited_ns, queue_ns),
            ),
            Self::PathCollided { waited_ns, queue_ns } => write!(
                f, "shares a way with another path: dropped: {}", Probes(waited_ns, queue_ns),
            ),
            Self::PathRests { queue_ns, usual_ns, for_ns } => write!(
                f, "rests for {}: a chunk waited {} where {} is usual",
                Time(for_ns), Time(queue_ns), Time(usual_ns),
            ),
            Self::PathSuspect { silent_ns } => write!(
                f, "is suspect: nothing acknowledged for {}", Time(silent_ns),
            ),
            Self::PathRerouted {} => f.write_str(
                "stayed slower than the others: it leaves from another port now",
            ),
            Self::PathFenced { reason: FenceReason::Silent, silent_ns, frames } => write!(
                f,
                "fenced: nothing acknowledged for {} while another path lived; {frames} frames outstanding",
                Time(silent_ns),
            ),
            Self::PathFenced { reason, frames, .. } => write!(
                f, "fenced: {reason}; {frames} frames outstanding",
            ),
            Self::PathClosed {} => f.write_str("closed, with nothing carried"),
            Self::PathReplayed { frames } => write!(
                f, "fence answered, {frames} frames go by other paths",
            ),
            Self::PortLossy { lost_packets, sent_packets, for_ns, .. } => write!(
                f,
                "loses packets ({lost_packets} of the last {sent_packets}): the other ports carry its \
                 traffic, {} ms",
                for_ns / 1_000_000,
            ),
            Self::SearchEnded { paths } => write!(f, "no further way found: {paths} paths in use"),
            Self::GrantHeld { backlog_bytes, for_ns } => write!(
                f, "the receiver has held {backlog_bytes} bytes back for {}", Time(for_ns),
            ),
            Self::CreditAwaited { messages, for_ns } => write!(
                f, "{messages} messages have waited for a receive for {}", Time(for_ns),
            ),
            Self::MessageFailed { failures } => write!(f, "a message failed, {failures} in all"),
            Self::LinkFailed { sends } => write!(f, "failed with {sends} sends under way"),
            Self::Unknown => f.write_str("something that this release does not know"),
        }
    }
}

struct Probes(u64, u64);

impl fmt::Display for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |nanos| nanos / 1000;
        write!(
            f,
            "probes waited {} us while those in use waited {} us",
            us(self.0),
            us(self.1)
        )
    }
}
