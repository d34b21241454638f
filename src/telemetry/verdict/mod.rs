//! What limited a link in a window, with the evidence: a path, the receiver, the sender, what all paths share,
//! or this host's own work. "Not the network" is an answer like the others.
//!
//! The times that links count ([`LinkCounter`]) say who had to wait for whom; only where the network was
//! waited for are paths compared with each other. Comparing is what a library of many paths can do and a
//! counter of a port cannot: what is bad on one path and not on its siblings is that path's way, and what is
//! alike on all of them is what they have in common.
//!
//! Nothing but the window goes in, and all arithmetic is whole, so a recording gives the same answer for
//! ever.

mod others;
mod ports;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::Role;
use super::event::{Event, FenceReason};
use super::histogram::Counts;
use super::reader::{Happened, Link, PathNow};
use super::schema::{
    HostCounter, LINK_TIMES, LinkCounter, MessageHistogram, PATH_STATES, PathCounter, PathGauge,
    PathHistogram,
};
use super::snapshot::{Life, Snapshot, Watched, Window, per_second};

/// A link whose user wants nothing of it for so many per cent of the time is not held up.
const IDLE_PERCENT: u64 = 60;
/// What took fewer per cent of the time did not limit a link.
const MATTERS_PERCENT: u64 = 20;
/// A path that delivers so many per cent of what its siblings do is slow.
const SLOW_PERCENT: u64 = 65;
/// Ports that carry so many per cent of the busiest one are alike.
const SAME_PERCENT: u64 = 90;
/// Of so many segments, one that is sent again is loss that matters: TCP's throughput suffers from there on.
const LOSS_ONE_IN: u64 = 1000;
/// Fewer segments than that, sent again, are an accident.
const LOSSES: u64 = 10;
/// Of so many segments, one mark says that queues are held at the mark.
const MARK_ONE_IN: u64 = 50;
/// Paths that carried less of the link's bytes than this share are not compared: they hardly ran.
const COMPARED_PERMILLE: u64 = 5;
/// Queues that differ by no more than so many per cent may be one.
const ALIKE_PERCENT: u64 = 33;
/// Events that are shown as evidence, at most.
const EVENTS: usize = 8;
/// What a segment carries, where it is not known how many there were.
const SEGMENT_BYTES: u64 = 1448;

/// What limited a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A path loses what it is given, or fell silent.
    PathLoss,
    /// Paths share a way that others have for themselves.
    PathCollision,
    /// A path, or a port, is slower than the others.
    SlowPath,
    /// What all paths have in common is full: the fabric's core, or the port at either end.
    Shared,
    /// Several send to the receiver's port at once.
    ReceiverShared,
    /// The receiver's program has not posted its receives.
    ReceiverLate,
    /// The receiver's program, or its host, does not take in what has arrived there.
    ReceiverHost,
    /// No path to the peer is left: it, or its host, is gone.
    PeerGone,
    /// The sender's program had nothing to send.
    Sender,
    /// Messages are so small that each waits for its round trip.
    Latency,
    /// A port's link damages packets or goes down.
    WornLink,
    /// Half of congestion control, or a part of the hardware, is not as it should be.
    Misconfigured,
    /// This host's own work.
    Software,
    /// The window is smaller than what the network would take.
    Window,
}

impl Cause {
    /// Whether it is the network.
    #[must_use]
    pub fn is_network(self) -> bool {
        matches!(
            self,
            Self::PathLoss
                | Self::PathCollision
                | Self::SlowPath
                | Self::Shared
                | Self::ReceiverShared
                | Self::WornLink
        )
    }

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PathLoss => "loss on a path",
            Self::PathCollision => "paths that share a way",
            Self::SlowPath => "a slow path",
            Self::Shared => "what all paths share",
            Self::ReceiverShared => "a receiver with many senders",
            Self::ReceiverLate => "a receiver that is late",
            Self::ReceiverHost => "the receiver's host",
            Self::PeerGone => "a peer that is gone",
            Self::Sender => "a sender with nothing to send",
            Self::Latency => "messages too small to fill the network",
            Self::WornLink => "a link that wears out",
            Self::Misconfigured => "a misconfiguration",
            Self::Software => "this host's own work",
            Self::Window => "a window that is too small",
        }
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Subject {
    /// A link.
    Link {
        /// The process.
        pid: u64,
        /// Its program.
        program: String,
        /// Which way the link's data goes.
        role: Role,
        /// Its peer.
        peer: String,
    },
    /// A port of this host.
    Port {
        /// Its name.
        port: String,
    },
    /// This host.
    Host {
        /// That it is.
        host: bool,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link {
                pid,
                program,
                role,
                peer,
            } => write!(f, "{program} {pid} {} {peer}", role.way()),
            Self::Port { port } => write!(f, "port {port}"),
            Self::Host { .. } => f.write_str("this host"),
        }
    }
}

/// What limited a link or a port, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which.
    #[serde(flatten)]
    pub subject: Subject,
    /// What limited it.
    pub cause: Cause,
    /// It is the network.
    pub is_network: bool,
    /// How sure that is.
    pub confidence_percent: u8,
    /// In one line.
    pub says: String,
    /// What was seen.
    pub evidence: Vec<String>,
}

/// What limited links, and what ports and the host say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdicts {
    /// Links that send first, the busiest first; then ports; then the host.
    pub findings: Vec<Finding>,
    /// Of so many links that receive this end cannot tell what limited them.
    #[serde(rename = "untold_links")]
    pub untold: usize,
}

impl Verdicts {
    /// Whether it is the network, in one line.
    #[must_use]
    pub fn sum_up(&self) -> String {
        let says = "cannot be told from this end: look at the sender's";
        let links = match self.untold {
            1 => "1 link that receives".to_owned(),
            untold => format!("{untold} links that receive"),
        };
        let network = self.findings.iter().filter(|finding| finding.is_network);
        match (network.count(), self.untold) {
            (0, 0) if self.findings.is_empty() => {
                "no link carried anything, and none waited".into()
            }
            (0, 0) => "it is not the network".into(),
            (0, _) if self.findings.is_empty() => format!("what limited {links} {says}"),
            (0, _) => {
                format!("it is not the network in what follows; what limited {links} {says}")
            }
            (1, _) => "the network limits 1 of them".into(),
            (network, _) => format!("the network limits {network} of them"),
        }
    }
}

/// What limited the links of a window, and what its ports and the host say. Links on which nothing went, and nothing
/// waited, are left out.
#[must_use]
pub fn explain(window: &Window) -> Verdicts {
    let mut found = Found::default();
    found.add(window, |_| true);
    found.finish(window)
}

/// What limited the links that there were between the first of these snapshots and the last, each process until the
/// last one with it, and what the ports and the host say of all that time; of fewer than two snapshots nothing.
#[must_use]
pub fn explain_all(snapshots: &[Snapshot]) -> Verdicts {
    let Some(window) = Window::over(snapshots) else {
        return Verdicts::default();
    };
    let key = |watched: &Watched| (watched.process.pid, watched.process.started_wall_ns);
    let mut last_of = BTreeMap::new();
    for (place, snapshot) in snapshots.iter().enumerate() {
        last_of.extend(snapshot.processes.iter().map(|of| (key(of), place)));
    }
    let lasts: BTreeSet<usize> = last_of.values().copied().collect();
    let mut found = Found::default();
    for last in lasts {
        if let Some(window) = Window::over(&snapshots[..=last]) {
            found.add(&window, |watched| last_of.get(&key(watched)) == Some(&last));
        }
    }
    found.finish(&window)
}

/// What is said of links.
#[derive(Default)]
struct Found {
    /// With what puts them in their order.
    links: Vec<((bool, Reverse<u64>), Finding)>,
    /// As in [`Verdicts`].
    untold: usize,
}

impl Found {
    /// What is said of the links of these processes of a window.
    fn add(&mut self, window: &Window, is_told: impl Fn(&Watched) -> bool) {
        for watched in window.processes.iter().filter(|watched| is_told(watched)) {
            for link in &watched.process.links {
                let Some(shares) = Shares::of(link).filter(|shares| is_used(link, shares)) else {
                    continue;
                };
                let bytes = link.counters[LinkCounter::MessageBytes];
                let order = (link.role == Role::Receiver, Reverse(bytes));
                match of_link(window, watched, link, &shares) {
                    Some(finding) => self.links.push((order, finding)),
                    None => self.untold += 1,
                }
            }
        }
    }

    /// And what the ports and the host say in this window.
    fn finish(self, window: &Window) -> Verdicts {
        let Self { mut links, untold } = self;
        links.sort_by_key(|(order, _)| *order);
        let links = links.into_iter().map(|(_, finding)| finding);
        let host = ports::host(window);
        Verdicts {
            findings: links.chain(ports::explain(window)).chain(host).collect(),
            untold,
        }
    }
}

/// Something went on it, or waited.
fn is_used(link: &Link, shares: &Shares) -> bool {
    let busy = 100u64.saturating_sub(shares.get(LinkCounter::IdleTime));
    link.counters[LinkCounter::MessageBytes] > 0 || busy >= MATTERS_PERCENT
}

/// The times of a link, in per cent of all.
struct Shares(Vec<(LinkCounter, u64)>);

impl Shares {
    fn of(link: &Link) -> Option<Self> {
        let all: u64 = sum(LINK_TIMES.iter().map(|&(wait, _)| link.counters[wait]));
        let share = |&(wait, _): &(LinkCounter, &str)| (wait, percent(link.counters[wait], all));
        (all > 0).then(|| Self(LINK_TIMES.iter().map(share).collect()))
    }

    fn get(&self, wait: LinkCounter) -> u64 {
        let found = self.0.iter().find(|(of, _)| *of == wait);
        found.map_or(0, |(_, share)| *share)
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shares: Vec<_> = self.0.iter().filter(|(_, share)| *share > 0).collect();
        shares.sort_by_key(|(_, share)| u64::MAX - share);
        for (at, (wait, share)) in shares.into_iter().enumerate() {
            let what = match wait {
                LinkCounter::IdleTime => "idle",
                LinkCounter::CreditTime => "no receive posted",
                LinkCounter::GrantTime => "held back by the receiver",
                LinkCounter::ReceiverTime => "arrived and not taken in",
                LinkCounter::SenderTime => "waiting for the sender",
                LinkCounter::NetworkTime => "waiting for the network",
                LinkCounter::AckTime => "waiting for last acknowledgements",
                _ => "this host's work",
            };
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{what} {share} %")?;
        }
        Ok(())
    }
}

/// Whatever a damaged recording says.
fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

fn percent(part: u64, all: u64) -> u64 {
    let percent = u128::from(part) * 100 / u128::from(all.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// Below 0.1 Gb/s in Mb/s.
fn gigabits(bytes_per_second: u64) -> String {
    if bytes_per_second < 12_500_000 {
        let tenths = bytes_per_second / 12_500;
        return format!("{}.{} Mb/s", tenths / 10, tenths % 10);
    }
    let hundredths = bytes_per_second / 1_250_000;
    format!("{}.{:02} Gb/s", hundredths / 100, hundredths % 100)
}

fn micros(nanos: u64) -> String {
    format!("{} us", nanos / 1000)
}

/// A cause, how sure it is, what is said, and what was seen beside the times.
type Told = (Cause, u64, String, Vec<String>);

fn of_link(window: &Window, watched: &Watched, link: &Link, shares: &Shares) -> Option<Finding> {
    let bytes = link.counters[LinkCounter::MessageBytes];
    let events: Vec<_> = watched
        .events
        .iter()
        .filter(|event| event.link == link.id)
        .collect();
    let life = window.life(watched, link);
    let (cause, confidence, says, mut evidence) = match link.role {
        Role::Sender => sender(window, link, &life, shares, &events),
        Role::Receiver => receiver(window, link, shares)?,
    };
    let rate = gigabits(per_second(bytes, life.length_ns()));
    let messages = link.counters[LinkCounter::Messages];
    let size = bytes.checked_div(messages).unwrap_or(0);
    evidence.insert(0, format!("{shares}"));
    evidence.insert(
        1,
        format!("{rate}, {messages} messages of {size} bytes on average"),
    );
    let connections = link.connections.iter();
    let times = connections.map(|of| &of.messages.histograms[MessageHistogram::Time]);
    let times = Counts::sum_of(times);
    if let Some((half, most)) = times.quantile(500).zip(times.quantile(990)) {
        let (half, most) = (micros(half), micros(most));
        evidence.insert(
            2,
            format!("half of the messages took up to {half}, 99 % up to {most}"),
        );
    }
    Some(Finding {
        subject: Subject::Link {
            pid: watched.process.pid,
            program: watched.process.program.clone(),
            role: link.role,
            peer: link.peer.clone(),
        },
        cause,
        is_network: cause.is_network(),
        confidence_percent: u8::try_from(confidence.min(99)).unwrap_or(99),
        says,
        evidence,
    })
}

fn receiver(window: &Window, link: &Link, shares: &Shares) -> Option<Told> {
    let waits = [
        LinkCounter::IdleTime,
        LinkCounter::CreditTime,
        LinkCounter::SenderTime,
        LinkCounter::GrantTime,
    ];
    let longest = waits.into_iter().max_by_key(|&wait| shares.get(wait))?;
    let share = shares.get(longest);
    let network = shares.get(LinkCounter::NetworkTime);
    if share < network || share < MATTERS_PERCENT {
        // While parts of messages arrive, their sender knows more, but not who else sends.
        return others::incast(window, link, network);
    }
    let (cause, says) = match longest {
        LinkCounter::CreditTime => (
            Cause::ReceiverLate,
            "this program posts its receives late: what the sender has announced waits for them",
        ),
        LinkCounter::GrantTime => (
            Cause::ReceiverShared,
            "this host holds the sender back: others send to it too",
        ),
        LinkCounter::SenderTime => (
            Cause::Sender,
            "not the network: receives are posted, and the sender has not begun",
        ),
        _ => (
            Cause::Sender,
            "not the network: nothing is asked of this link",
        ),
    };
    Some((cause, share, says.into(), Vec::new()))
}

fn sender(
    window: &Window,
    link: &Link,
    life: &Life,
    shares: &Shares,
    events: &[&Happened],
) -> Told {
    let lossy = lost_paths(link, events);
    // What a fence costs is short, and matters however much else was waited for.
    if let Some(told) = &lossy
        && told.1 >= 90
    {
        return told.clone();
    }
    let waits = [
        (LinkCounter::CreditTime, Cause::ReceiverLate),
        (LinkCounter::GrantTime, Cause::ReceiverShared),
        (LinkCounter::ReceiverTime, Cause::ReceiverHost),
        (LinkCounter::NetworkTime, Cause::Shared),
        (LinkCounter::AckTime, Cause::Latency),
        (LinkCounter::HostTime, Cause::Software),
    ];
    let idle = shares.get(LinkCounter::IdleTime);
    let longest = waits.into_iter().max_by_key(|(wait, _)| shares.get(*wait));
    let (wait, cause) = longest.unwrap_or((LinkCounter::IdleTime, Cause::Sender));
    let share = shares.get(wait);
    if idle >= IDLE_PERCENT || share < MATTERS_PERCENT {
        let says = "not the network: the program had nothing to send for most of the time";
        return (Cause::Sender, idle.max(50), says.into(), Vec::new());
    }
    let plain = |says: &str| (cause, share, says.to_owned(), Vec::new());
    match cause {
        Cause::ReceiverLate => {
            plain("not the network: the receiver's program posts its receives late")
        }
        Cause::ReceiverShared => {
            plain("the receiver holds bytes back: its port is shared among several senders")
        }
        Cause::ReceiverHost => plain(
            "not the network: what was sent has reached the receiver's host, and its program is late in taking it",
        ),
        Cause::Latency => plain(
            "not the network's bandwidth: each message waits for its round trip; more of them at once, \
             or larger ones, would fill it",
        ),
        Cause::Software => {
            let (cause, share, says, mut evidence) = plain(
                "not the network: this host's own work (calls that come late, copies, checks) took the time",
            );
            evidence.extend(processors(window));
            (cause, share, says, evidence)
        }
        _ => network(window, link, life, share, lossy, events),
    }
}

/// For how long work had to wait for a processor of this host, if that matters.
fn processors(window: &Window) -> Option<String> {
    let host = window.host.as_ref()?;
    let waited = percent(
        host.counters[HostCounter::CpuPressureSome]?,
        host.between_ns?,
    );
    (waited >= MATTERS_PERCENT).then(|| {
        format!("on this host some work waited for a processor for {waited} % of the time")
    })
}

/// The network was waited for: what of it?
fn network(
    window: &Window,
    link: &Link,
    life: &Life,
    share: u64,
    lossy: Option<Told>,
    events: &[&Happened],
) -> Told {
    if let Some(told) = lossy.or_else(|| others::half_ecn(window, link)) {
        return told;
    }
    if let Some(mut told) = unequal(link, life, share, events) {
        told.3.extend(given_up(events));
        return told;
    }
    let place = others::place(window, link);
    let whose = place
        .as_ref()
        .map_or("a port at either end or the fabric's core", |(place, _)| {
            place
        });
    let mut told = marked(link, share, whose).unwrap_or_else(|| alike(link, share, whose));
    if told.0 == Cause::Shared {
        told.3.extend(place.map(|(_, seen)| seen));
    }
    told
}

/// Paths of which there is enough to say.
fn compared(link: &Link) -> Vec<&PathNow> {
    let sent = |path: &&PathNow| path.counters[PathCounter::SentBytes];
    let all = sum(link.paths.iter().map(|path| sent(&path)));
    let least = (all / 1000).saturating_mul(COMPARED_PERMILLE).max(1);
    link.paths
        .iter()
        .filter(|path| sent(path) >= least)
        .collect()
}

/// Whether a path has a channel.
fn is_up(path: &PathNow) -> bool {
    let state = usize::try_from(path.gauges[PathGauge::State]).unwrap_or(usize::MAX);
    matches!(PATH_STATES.get(state), Some(&("standby" | "active")))
}

fn lost_paths(link: &Link, events: &[&Happened]) -> Option<Told> {
    let mut silent = BTreeSet::new();
    // Whether a path was up after what happened last.
    let mut up = BTreeMap::new();
    let mut is_port_down = true;
    // What ports say, and links, comes first: paths fall silent by it.
    let (mut lossy, mut failed, mut of_paths) = (Vec::new(), Vec::new(), Vec::new());
    for event in events {
        match event.event {
            Event::PathUp { .. } | Event::PathJoined { .. } => {
                up.extend(event.path.map(|path| (path, true)));
                continue;
            }
            Event::PortLossy { port, .. } => {
                lossy.push(format!("port {port} {}", event.event));
                continue;
            }
            // Without any, it was closed.
            Event::LinkFailed { sends: 1.. } => {
                failed.push(format!("the link {}", event.event));
                continue;
            }
            Event::PathFenced { reason, .. } => {
                up.extend(event.path.map(|path| (path, false)));
                if reason == FenceReason::Slow {
                    // It lost nothing: the sender looked for a better way.
                    continue;
                }
                is_port_down &= reason == FenceReason::PortDown;
                silent.extend(event.path);
            }
            Event::PathReplayed { .. } if event.path.is_some_and(|path| silent.contains(&path)) => {
            }
            _ => continue,
        }
        let path = event
            .path
            .map_or_else(String::new, |path| format!("path {path} "));
        of_paths.push(format!("{path}{}", event.event));
    }
    let is_left = |path: &PathNow| *up.get(&path.number).unwrap_or(&is_up(path));
    let is_none_left = !failed.is_empty()
        || !silent.is_empty() && !up.values().any(|up| *up) && !link.paths.iter().any(is_left);
    let was_there = |path: &&PathNow| is_left(path) || path.counters[PathCounter::SentBytes] > 0;
    let mut others = link.paths.iter().filter(was_there);
    let has_others = others.any(|path| !silent.contains(&path.number));
    let numbers: Vec<_> = silent.into_iter().collect();
    let is_port_down = is_port_down && !numbers.is_empty();
    let (cause, confidence, says) = if !lossy.is_empty() {
        let says = "a port loses packets: look at its cable, its transceiver and its switch port";
        (Cause::PathLoss, 95, says.into())
    } else if is_none_left && !is_port_down {
        let unless = if failed.is_empty() {
            "or no way leads to it any more"
        } else {
            "no way leads to it any more, or this program has closed the link"
        };
        let says = format!("no path to the peer was left: it or its host is gone, {unless}");
        (Cause::PeerGone, 90, says)
    } else if numbers.is_empty() {
        return retransmitting(link);
    } else {
        let (whose, who) = if numbers.len() == 1 {
            ("its", "it")
        } else {
            ("their", "one")
        };
        let what = if is_port_down {
            "left by a port that went down"
        } else {
            "fell silent or broke"
        };
        let then = if is_none_left {
            "no path was left".into()
        } else if has_others {
            format!("{whose} traffic went by the others")
        } else {
            format!("{whose} traffic waited until {who} came back: there was no other path")
        };
        (
            Cause::PathLoss,
            95,
            format!("{} {what}; {then}", numbered(&numbers)),
        )
    };
    let mut evidence = failed;
    evidence.append(&mut lossy);
    evidence.append(&mut of_paths);
    evidence.truncate(EVENTS);
    Some((cause, confidence, says, evidence))
}

/// Paths that the sender has given up because they stayed slower than others.
fn given_up(events: &[&Happened]) -> impl Iterator<Item = String> {
    let is_slow = |event: &&&Happened| {
        let reason = match event.event {
            Event::PathFenced { reason, .. } => Some(reason),
            _ => None,
        };
        reason == Some(FenceReason::Slow)
    };
    let slow = events.iter().filter(is_slow);
    let told = slow.filter_map(|event| Some(format!("path {} {}", event.path?, event.event)));
    told.take(EVENTS)
}

/// Over TCP: paths on which more is sent again than on the others, or on which that cannot come from a queue.
fn retransmitting(link: &Link) -> Option<Told> {
    let again = |path: &PathNow| path.counters[PathCounter::Retransmits];
    let segments = |path: &PathNow| path.counters[PathCounter::SentBytes] / SEGMENT_BYTES;
    let per_million = |path: &PathNow| {
        let lost = again(path);
        let lost = if lost < LOSSES { 0 } else { lost };
        lost.saturating_mul(1_000_000) / segments(path).max(1)
    };
    let paths = compared(link);
    let mut ratios: Vec<_> = paths.iter().map(|path| per_million(path)).collect();
    ratios.sort_unstable();
    let usual = *ratios.get(ratios.len().saturating_sub(1) / 2)?;
    let lossy = |path: &&&PathNow| {
        let stands_out = per_million(path) / 5 > usual || (paths.len() > 1 && usual == 0);
        per_million(path) >= 1_000_000 / LOSS_ONE_IN && stands_out
    };
    let found: Vec<_> = paths.iter().filter(lossy).collect();
    let numbers: Vec<_> = found.iter().map(|path| path.number).collect();
    if found.is_empty() || found.len() * 2 > paths.len() {
        return None;
    }
    let evidence = found.iter().map(|path| {
        format!(
            "path {} ({}): {} segments sent again, of some {}",
            path.number,
            path.ends,
            again(path),
            segments(path)
        )
    });
    let says = format!(
        "{} loses packets, and the others do not",
        numbered(&numbers)
    );
    Some((Cause::PathLoss, 85, says, evidence.collect()))
}

fn numbered(paths: &[u32]) -> String {
    let texts: Vec<_> = paths.iter().map(u32::to_string).collect();
    match &texts[..] {
        [one] => format!("path {one}"),
        _ => format!("paths {}", texts.join(", ")),
    }
}

/// Where a path leaves by: its local address without the port.
fn leaves_by(path: &PathNow) -> &str {
    let local = path.ends.split("->").next().unwrap_or_default();
    local.rsplit_once(':').map_or(local, |(address, _)| address)
}

/// How many chunks of a path were timed.
fn chunks(path: &PathNow) -> u64 {
    path.histograms[PathHistogram::Delay].count()
}

/// Whether two paths that are alike carry such different numbers of chunks now and then: the difference of two
/// counts scatters by the root of their sum, and three times that is rare.
fn is_chance(few: u64, many: u64) -> bool {
    let apart = u128::from(few.abs_diff(many));
    let all = u128::from(few) + u128::from(many);
    all > 0 && apart.saturating_mul(apart) < 9 * all
}

/// Paths that were not there, or carried nothing yet, when a tenth of the link's time had passed: what they carried says
/// nothing of what they can. One that was given up as slow and came back carried what it could before.
fn late_paths(life: &Life, events: &[&Happened]) -> BTreeSet<u32> {
    let mut came = life.paths.clone();
    let mut slow = BTreeSet::new();
    for event in events {
        let Some(path) = event.path else { continue };
        match event.event {
            Event::PathFenced {
                reason: FenceReason::Slow,
                ..
            } => {
                slow.insert(path);
            }
            Event::PathUp { .. } | Event::PathJoined { .. } if !slow.contains(&path) => {
                came.insert(path, event.wall_ns);
            }
            _ => {}
        }
    }
    let begun_ns = life.from_ns.saturating_add(life.length_ns() / 10);
    let late = came.into_iter().filter(|(_, ns)| *ns > begun_ns);
    late.map(|(path, _)| path).collect()
}

/// Paths or ports that deliver less than the others.
fn unequal(link: &Link, life: &Life, share: u64, events: &[&Happened]) -> Option<Told> {
    let late = late_paths(life, events);
    let mut paths = compared(link);
    paths.retain(|path| !late.contains(&path.number));
    // What each carried: while there is more to send than the paths take, that is what each can do.
    let rate = |path: &PathNow| {
        let bytes = path.counters[PathCounter::SentBytes];
        per_second(bytes, life.length_ns())
    };
    let best = paths.iter().max_by_key(|path| rate(path))?;
    let fastest = rate(best);
    let is_slow = |path: &PathNow| {
        percent(rate(path), fastest) <= SLOW_PERCENT && !is_chance(chunks(path), chunks(best))
    };
    let slow: Vec<_> = paths.iter().filter(|path| is_slow(path)).collect();
    if slow.is_empty() || fastest == 0 {
        return None;
    }
    // A queue that is held at its mark has as many bytes on a slow link as on a fast one, so there it takes longer: a
    // marked path that waits no longer than the fastest has got less of the same queue. Several such may also be a
    // collision.
    let queue = |path: &PathNow| path.histograms[PathHistogram::Queue].quantile(500);
    let longest = queue(best).map_or(u64::MAX, |queue| queue.saturating_mul(4) / 3);
    if let [path] = &slow[..]
        && is_marked(best)
        && is_marked(path)
        && queue(path).is_some_and(|queue| queue <= longest)
    {
        return None;
    }
    let mut ports: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for path in &paths {
        let (sum, count) = ports.entry(leaves_by(path)).or_default();
        *sum = u64::saturating_add(*sum, rate(path));
        *count += 1;
    }
    let evidence: Vec<_> = paths
        .iter()
        .map(|path| {
            let queue = queue(path);
            format!(
                "path {} ({}) carried {}, with {} in queues",
                path.number,
                path.ends,
                gigabits(rate(path)),
                queue.map_or_else(|| "unknown time".into(), micros)
            )
        })
        .collect();
    let mean = |(sum, count): &(u64, u64)| sum / count.max(&1);
    let best_port = ports.values().map(mean).max().unwrap_or(0);
    let is_slow_port = |name: &str| {
        let of = ports.get(name).map_or(0, mean);
        percent(of, best_port) <= SLOW_PERCENT
    };
    let confidence = 50 + share.min(100) / 2;
    let is_whole = |name: &str| {
        let mut of_port = paths.iter().filter(|path| leaves_by(path) == name);
        of_port.all(|path| is_slow(path))
    };
    // Addresses of both families may be one port's.
    let is_ipv6 = |name: &&str| name.starts_with('[');
    let is_one_family = ports
        .keys()
        .all(|name| is_ipv6(name) == is_ipv6(&leaves_by(slow[0])));
    // What a path lacks another of its port has got beside: the ports are full, and their paths share that.
    let least = ports.values().map(|(sum, _)| *sum).min().unwrap_or(0);
    let most = ports.values().map(|(sum, _)| *sum).max().unwrap_or(0);
    if is_one_family && ports.len() > 1 && percent(least, most) >= SAME_PERCENT {
        return None;
    }
    let is_port = |path: &&&&PathNow| {
        is_one_family && is_slow_port(leaves_by(path)) && is_whole(leaves_by(path))
    };
    if slow.iter().filter(is_port).count() == slow.len() {
        let mut names: Vec<_> = slow.iter().map(|path| leaves_by(path)).collect();
        names.dedup();
        let says = format!(
            "the paths from {} are slower than the others: a slower link, or one that is used by others",
            names.join(", ")
        );
        return Some((Cause::SlowPath, confidence, says, evidence));
    }
    let numbers: Vec<_> = slow.iter().map(|path| path.number).collect();
    // Together they carry what one of the others does: they have one way between them.
    let together = sum(slow.iter().map(|path| rate(path)));
    let is_one_port = !is_one_family
        || slow
            .iter()
            .all(|path| leaves_by(path) == leaves_by(slow[0]));
    let share_one =
        slow.len() > 1 && is_one_port && (75..=125).contains(&percent(together, fastest));
    let (cause, says) = if share_one {
        (
            Cause::PathCollision,
            format!(
                "{} carry together what another path carries alone: they share a way (an ECMP collision)",
                numbered(&numbers)
            ),
        )
    } else {
        (
            Cause::SlowPath,
            format!(
                "{} {} slower than the others: a slower link on the way, or other traffic",
                numbered(&numbers),
                if numbers.len() == 1 { "is" } else { "are" }
            ),
        )
    };
    Some((cause, confidence, says, evidence))
}

/// A path's queues are held at the mark.
fn is_marked(path: &PathNow) -> bool {
    let marks = path.counters[PathCounter::Marks];
    marks > 0 && marks.saturating_mul(MARK_ONE_IN) >= path.counters[PathCounter::Delivered]
}

/// Queues that mark on most paths.
fn marked(link: &Link, share: u64, whose: &str) -> Option<Told> {
    let paths = compared(link);
    let marked: Vec<_> = paths.iter().filter(|path| is_marked(path)).collect();
    if marked.is_empty() || marked.len() * 2 < paths.len() {
        return None;
    }
    let evidence = marked.iter().map(|path| {
        format!(
            "path {}: {} of {} segments marked",
            path.number,
            path.counters[PathCounter::Marks],
            path.counters[PathCounter::Delivered]
        )
    });
    let says = format!(
        "queues mark on most paths to this peer: {whose} is full; more paths would not help"
    );
    Some((Cause::Shared, 60 + share / 3, says, evidence.collect()))
}

/// No path differs from the others.
fn alike(link: &Link, share: u64, whose: &str) -> Told {
    let paths = compared(link);
    let describe = |path: &&PathNow| {
        let queue = path.histograms[PathHistogram::Queue].quantile(500);
        let least = path.gauges[PathGauge::RoundTripMin];
        Some((path.number, queue?, least))
    };
    let queues: Vec<_> = paths.iter().filter_map(describe).collect();
    let evidence = queues.iter().map(|(number, queue, least)| {
        format!(
            "path {number}: {} in queues, beside a round trip of {} at least",
            micros(*queue),
            micros(*least)
        )
    });
    let evidence: Vec<_> = evidence.collect();
    let is_queued = |&&(_, queue, least): &&(u32, u64, u64)| queue >= (least / 2).max(20_000);
    let long = queues.iter().filter(is_queued).count();
    if long * 2 > queues.len() {
        let mut sorted: Vec<_> = queues.iter().map(|(_, queue, _)| *queue).collect();
        sorted.sort_unstable();
        let middle = sorted[sorted.len() / 2];
        let is_alike = |queue: &u64| percent(queue.abs_diff(middle), middle) <= ALIKE_PERCENT;
        let (have, confidence) = if sorted.iter().all(is_alike) {
            ("all paths have the same queue", 40 + share / 2)
        } else if long == queues.len() {
            ("all paths have long queues", 30 + share / 3)
        } else {
            ("most paths have long queues", 30 + share / 3)
        };
        let says =
            format!("{have}: what they have in common is full, {whose}; more paths would not help");
        return (Cause::Shared, confidence, says, evidence);
    }
    let says = "queues are short on all paths, and yet the window was waited for: the controller holds back \
                more than the network asks for";
    (Cause::Window, 30 + share / 3, says.into(), evidence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::telemetry::histogram::{BUCKETS, bucket_of};
    use crate::telemetry::made;
    use crate::telemetry::schema::PortCounter;
    use crate::telemetry::sources::{HostNow, PortNow};
    use crate::telemetry::values::Values;

    pub(super) const SECOND: u64 = 1_000_000_000;

    /// A path that carried so many megabytes, its chunks in queues for so long.
    pub(super) fn path(number: u32, local: &str, megabytes: u64, queue_us: u64) -> PathNow {
        let mut path = made::path(number, &format!("{local}:1->10.0.0.9:2"));
        path.counters[PathCounter::SentBytes] = megabytes * 1_000_000;
        path.gauges[PathGauge::RoundTripMin] = 20_000;
        path.gauges[PathGauge::State] = 3;
        let queue = &mut path.histograms[PathHistogram::Queue];
        queue.buckets = vec![0; BUCKETS];
        queue.buckets[bucket_of(queue_us * 1000)] = 100;
        path
    }

    fn alike(queue_us: u64) -> Vec<PathNow> {
        (0..4)
            .map(|at| path(at, "10.0.0.1", 100, queue_us))
            .collect()
    }

    /// What is said of a sender whose time went so, in per cent.
    fn said(times: &[(LinkCounter, u64)], paths: Vec<PathNow>, events: &[Event]) -> Finding {
        let mut link = made::link(2, Role::Sender, "10.0.0.9:2", paths);
        link.counters[LinkCounter::Messages] = 100;
        link.counters[LinkCounter::MessageBytes] = 400_000_000;
        for (wait, percent) in times {
            link.counters[*wait] = percent * SECOND / 100;
        }
        let happened = |event: &Event| made::happened(1, (2, ""), Some(1), *event);
        let window = window(link, events.iter().map(happened).collect());
        let mut findings = explain(&window).findings;
        assert_eq!(findings.len(), 1);
        findings.remove(0)
    }

    pub(super) fn window(link: Link, events: Vec<Happened>) -> Window {
        let mut watched = made::watched(1, "x", 0, vec![link]);
        watched.events = events;
        made::window(SECOND, vec![watched])
    }

    #[test]
    fn who_was_waited_for_is_named() {
        for (wait, cause) in [
            (LinkCounter::IdleTime, Cause::Sender),
            (LinkCounter::CreditTime, Cause::ReceiverLate),
            (LinkCounter::GrantTime, Cause::ReceiverShared),
            (LinkCounter::ReceiverTime, Cause::ReceiverHost),
            (LinkCounter::AckTime, Cause::Latency),
            (LinkCounter::HostTime, Cause::Software),
        ] {
            let finding = said(
                &[(wait, 70), (LinkCounter::NetworkTime, 30)],
                alike(900),
                &[],
            );
            assert_eq!(finding.cause, cause);
            assert_eq!(finding.is_network, cause == Cause::ReceiverShared);
            assert_eq!(finding.confidence_percent, 70);
        }
    }

    #[test]
    fn of_the_network_it_is_said_what_of_it() {
        let network = [(LinkCounter::NetworkTime, 90), (LinkCounter::IdleTime, 10)];
        let cause = |paths: Vec<PathNow>| said(&network, paths, &[]).cause;
        assert_eq!(cause(alike(900)), Cause::Shared);
        assert_eq!(cause(alike(0)), Cause::Window);
        let mut paths = alike(900);
        paths[2] = path(2, "10.0.0.1", 20, 3000);
        assert_eq!(cause(paths), Cause::SlowPath);
        let mut paths = alike(900);
        (paths[1], paths[3]) = (path(1, "10.0.0.1", 55, 900), path(3, "10.0.0.1", 45, 900));
        let finding = said(&network, paths, &[]);
        assert_eq!(finding.cause, Cause::PathCollision);
        assert!(finding.says.starts_with("paths 1, 3 "), "{}", finding.says);
        // A whole port, though its paths together carry what one of the other's does.
        let mut paths = alike(900);
        (paths[1], paths[3]) = (path(1, "10.0.1.1", 50, 900), path(3, "10.0.1.1", 50, 900));
        let finding = said(&network, paths, &[]);
        assert_eq!(finding.cause, Cause::SlowPath);
        assert!(finding.says.contains("from 10.0.1.1"), "{}", finding.says);
        // Both ports carry the same, however their paths share that.
        let mut paths: Vec<_> = (0..4)
            .map(|at| path(at, ["10.0.0.1", "10.0.1.1"][at as usize % 2], 100, 900))
            .collect();
        (paths[0], paths[2]) = (path(0, "10.0.0.1", 140, 900), path(2, "10.0.0.1", 60, 900));
        assert_eq!(cause(paths), Cause::Shared);
        // Two ports have no way between them, so far as their paths tell.
        let mut paths: Vec<_> = (0..4)
            .map(|at| path(at, ["10.0.0.1", "10.0.1.1"][at as usize % 2], 100, 900))
            .collect();
        (paths[1], paths[2]) = (path(1, "10.0.1.1", 60, 900), path(2, "10.0.0.1", 40, 900));
        assert_eq!(cause(paths), Cause::SlowPath);
        // Of few chunks, so different numbers are chance.
        let mut paths = alike(900);
        paths[2] = path(2, "10.0.0.1", 60, 900);
        for path in &mut paths {
            let megabytes = path.counters[PathCounter::SentBytes] / 1_000_000;
            let delay = &mut path.histograms[PathHistogram::Delay];
            delay.buckets = vec![megabytes / 4];
        }
        assert_eq!(cause(paths), Cause::Shared);
        let mut paths = alike(900);
        for path in &mut paths {
            path.counters[PathCounter::Delivered] = 1000;
            path.counters[PathCounter::Marks] = 100;
        }
        let finding = said(&network, paths.clone(), &[]);
        assert_eq!(finding.cause, Cause::Shared);
        assert!(finding.says.contains("mark"), "{}", finding.says);
        // One has got less of the same queue, or has a slower one.
        paths[1].counters[PathCounter::SentBytes] /= 2;
        assert_eq!(cause(paths.clone()), Cause::Shared);
        paths[1].histograms = path(1, "", 1, 3000).histograms;
        assert_eq!(cause(paths), Cause::SlowPath);
        let mut paths = alike(900);
        paths[3].counters[PathCounter::Retransmits] = 700;
        let finding = said(&network, paths, &[]);
        assert_eq!(finding.cause, Cause::PathLoss);
        assert!(finding.says.starts_with("path 3 "), "{}", finding.says);
        // Where all lose, it is a queue that all have in common.
        let mut paths = alike(900);
        for path in &mut paths {
            path.counters[PathCounter::Retransmits] = 700;
        }
        assert_eq!(cause(paths), Cause::Shared);
    }

    #[test]
    fn queues_that_differ_are_not_the_same() {
        let network = [(LinkCounter::NetworkTime, 90), (LinkCounter::IdleTime, 10)];
        let told = |queues: [u64; 4]| {
            let paths = (0..).zip(queues);
            let paths = paths.map(|(number, queue_us)| path(number, "10.0.0.1", 100, queue_us));
            let finding = said(&network, paths.collect(), &[]);
            assert_eq!(finding.cause, Cause::Shared);
            let (have, _) = finding.says.split_once(':').unwrap();
            (have.to_owned(), finding.confidence_percent)
        };
        let (same, sure) = told([900, 900, 1100, 900]);
        assert_eq!((&*same, sure), ("all paths have the same queue", 85));
        let (long, less) = told([15_204, 6_553, 15_204, 24_117]);
        assert_eq!((&*long, less), ("all paths have long queues", 60));
        assert_eq!(told([900, 900, 0, 900]).0, "most paths have long queues");
    }

    #[test]
    fn paths_that_came_late_are_not_slow() {
        let link = |bytes: &[u64]| {
            let paths = (0..).zip(bytes);
            let paths = paths.map(|(number, bytes)| path(number, "10.0.0.1", *bytes, 900));
            let mut link = made::link(2, Role::Sender, "p", paths.collect());
            link.counters[LinkCounter::MessageBytes] = bytes.iter().sum::<u64>() * 1_000_000;
            link.counters[LinkCounter::NetworkTime] = link.counters[LinkCounter::MessageBytes];
            link
        };
        let at = |second: u64, links, events: &[(u64, Event)]| {
            let mut watched = made::watched(1, "x", 0, links);
            let happened = events
                .iter()
                .map(|(ns, event)| made::happened(*ns, (2, "p"), Some(2), *event));
            watched.events = happened.collect();
            made::snapshot(second * SECOND, vec![watched])
        };
        let said = |snapshots: &[Snapshot]| {
            let mut findings = explain_all(snapshots).findings;
            let finding = findings.remove(0);
            (finding.cause, finding.evidence[1].clone())
        };
        let of_three = |events: &[(u64, Event)]| {
            let (before, after) = (vec![link(&[0, 0, 0])], vec![link(&[500, 500, 200])]);
            said(&[at(0, before, &[]), at(10, after, events)]).0
        };
        assert_eq!(of_three(&[]), Cause::SlowPath);
        let up = |ns| (ns, Event::PathUp { epoch: 2 });
        let joined = |ns| {
            let event = Event::PathJoined {
                waited_ns: 0,
                queue_ns: 0,
            };
            (ns, event)
        };
        assert_eq!(of_three(&[up(SECOND / 2)]), Cause::SlowPath);
        assert_eq!(of_three(&[up(6 * SECOND)]), Cause::Window);
        assert_eq!(of_three(&[up(1), joined(6 * SECOND)]), Cause::Window);
        let given_up = Event::PathFenced {
            reason: FenceReason::Slow,
            silent_ns: 0,
            frames: 1,
        };
        let back = [(5 * SECOND, given_up), up(6 * SECOND)];
        assert_eq!(of_three(&back), Cause::SlowPath);
        // Of the third, no event is there any more.
        let snapshots = [
            at(0, vec![link(&[0, 0])], &[]),
            at(6, vec![link(&[300, 300, 0])], &[]),
            at(10, vec![link(&[500, 500, 200])], &[]),
        ];
        assert_eq!(said(&snapshots).0, Cause::Shared);
        // The link was there for four of ten seconds.
        let link_late = [
            at(0, Vec::new(), &[]),
            at(4, Vec::new(), &[]),
            at(6, vec![link(&[250, 250])], &[]),
            at(8, vec![link(&[500, 500])], &[]),
            at(10, Vec::new(), &[]),
        ];
        let (cause, rate) = said(&link_late);
        assert_eq!(cause, Cause::Shared);
        assert!(rate.starts_with("2.00 Gb/s, "), "{rate}");
    }

    #[test]
    fn what_was_lost_is_said_however_short_it_was() {
        let fenced = Event::PathFenced {
            reason: FenceReason::Silent,
            silent_ns: 80_000_000,
            frames: 3,
        };
        let idle = [(LinkCounter::IdleTime, 90), (LinkCounter::NetworkTime, 10)];
        let finding = said(&idle, alike(0), &[fenced]);
        assert_eq!((finding.cause, finding.is_network), (Cause::PathLoss, true));
        let slow = Event::PathFenced {
            reason: FenceReason::Slow,
            silent_ns: 0,
            frames: 3,
        };
        assert_eq!(said(&idle, alike(0), &[slow]).cause, Cause::Sender);
        let lossy = Event::PortLossy {
            port: 0,
            lost_packets: 12,
            sent_packets: 1800,
            for_ns: SECOND,
        };
        let finding = said(&idle, alike(0), &[fenced, lossy]);
        assert_eq!(finding.cause, Cause::PathLoss);
        assert!(finding.says.starts_with("a port"), "{}", finding.says);
        assert!(
            finding.evidence[2].starts_with("port 0"),
            "{:?}",
            finding.evidence
        );
    }

    #[test]
    fn a_peer_that_is_gone_is_not_a_loss_on_a_path() {
        let broken = |reason| Event::PathFenced {
            reason,
            silent_ns: 0,
            frames: 3,
        };
        let said = |count: u32, events: &[(Option<u32>, Event)]| {
            let paths = (0..count).map(|at| path(at, "10.0.0.1", 100, 900));
            let mut link = made::link(2, Role::Sender, "p", paths.collect());
            link.counters[LinkCounter::MessageBytes] = 100;
            link.counters[LinkCounter::NetworkTime] = SECOND;
            let events = events.iter();
            let happened = events.map(|(path, event)| made::happened(1, (2, "p"), *path, *event));
            let window = window(link, happened.collect());
            explain(&window).findings.remove(0)
        };
        let fenced = |path| (Some(path), broken(FenceReason::Broken));
        let up = |path| (Some(path), Event::PathUp { epoch: 2 });
        let failed = |sends| (None, Event::LinkFailed { sends });
        let gone = said(2, &[fenced(0), fenced(1)]);
        assert_eq!((gone.cause, gone.is_network), (Cause::PeerGone, false));
        assert!(
            gone.says.starts_with("no path to the peer was left"),
            "{gone:?}"
        );
        let gone = said(2, &[failed(4)]);
        assert_eq!(gone.cause, Cause::PeerGone);
        assert_eq!(gone.evidence[2], "the link failed with 4 sends under way");
        assert_eq!(said(2, &[failed(0)]).cause, Cause::Shared, "it was closed");
        let ends = |count, events: &[_], end: &str| {
            let finding = said(count, events);
            assert_eq!(finding.cause, Cause::PathLoss);
            assert!(finding.says.ends_with(end), "{finding:?}");
        };
        ends(
            2,
            &[fenced(0)],
            "path 0 fell silent or broke; its traffic went by the others",
        );
        ends(
            2,
            &[fenced(0), fenced(1), up(1)],
            "until one came back: there was no other path",
        );
        ends(
            1,
            &[fenced(0), up(0)],
            "until it came back: there was no other path",
        );
        let down = |path| (Some(path), broken(FenceReason::PortDown));
        ends(
            2,
            &[down(0), down(1)],
            "left by a port that went down; no path was left",
        );
    }

    #[test]
    fn of_a_link_that_nobody_used_nothing_is_said() {
        let mut link = made::link(2, Role::Sender, "p", Vec::new());
        assert_eq!(
            explain(&window(link.clone(), Vec::new())),
            Verdicts::default()
        );
        link.counters[LinkCounter::IdleTime] = SECOND;
        assert_eq!(explain(&window(link, Vec::new())), Verdicts::default());
    }

    #[test]
    fn what_the_senders_end_only_can_tell_is_not_called_nothing() {
        let receiver = || {
            let mut link = made::link(2, Role::Receiver, "p", Vec::new());
            link.counters[LinkCounter::MessageBytes] = 100;
            link.counters[LinkCounter::NetworkTime] = SECOND;
            link
        };
        assert_eq!(
            Verdicts::default().sum_up(),
            "no link carried anything, and none waited"
        );
        let mut window = window(receiver(), Vec::new());
        let alone = explain(&window);
        assert_eq!((alone.findings.len(), alone.untold), (0, 1));
        assert_eq!(
            alone.sum_up(),
            "what limited 1 link that receives cannot be told from this end: look at the sender's"
        );
        // And another link's verdict is not that one's.
        let mut late = receiver();
        late.counters[LinkCounter::CreditTime] = 3 * SECOND;
        let links = &mut window.processes[0].process.links;
        links.extend([late, receiver()]);
        assert_eq!(
            explain(&window).sum_up(),
            "it is not the network in what follows; what limited 2 links that receive cannot be told from \
             this end: look at the sender's"
        );
    }

    /// A host that drops what has arrived, with a port that has lost packets and, at last, its carrier.
    fn host(second: u64, drops: u64, naks: u64, carrier_downs: u64) -> HostNow {
        let mut port = PortNow {
            name: "mlx5_0:1".into(),
            ..PortNow::default()
        };
        port.counters[PortCounter::SequenceNaks] = Some(naks);
        port.counters[PortCounter::CarrierDowns] = Some(carrier_downs);
        let mut now = HostNow {
            at: Timestamp::from_nanos(second * SECOND),
            ports: vec![port],
            ..HostNow::default()
        };
        now.host.counters[HostCounter::SoftnetDrops] = Some(drops);
        now
    }

    #[test]
    fn what_closed_early_is_explained_and_ports_and_the_host_once() {
        let waited = |pid, second: u64| {
            let mut link = made::link(2, Role::Sender, "p", Vec::new());
            link.counters[LinkCounter::MessageBytes] = second * pid;
            link.counters[LinkCounter::CreditTime] = second * SECOND;
            made::watched(pid, "x", 0, vec![link])
        };
        let at = |second: u64, last_of: &[(u64, u64)], host| {
            let there = last_of.iter().filter(|(_, last)| second <= *last);
            let processes = there.map(|(pid, _)| waited(*pid, second)).collect();
            Snapshot {
                host: Some(host),
                ..made::snapshot(second * SECOND, processes)
            }
        };
        let said = |snapshots: &[Snapshot]| {
            let findings = explain_all(snapshots).findings.into_iter();
            let told = findings.map(|finding| (finding.subject.to_string(), finding.cause));
            told.collect::<Vec<_>>()
        };
        let process = |pid| (format!("x {pid} to p"), Cause::ReceiverLate);
        let port = |cause| ("port mlx5_0:1".to_owned(), cause);
        // Of the third process the first snapshot is all there is.
        let lasts = [(7, 1), (8, 2), (9, 0)];
        let all = |downs: u64| {
            let host = |second| host(second, second * 100, second, downs * (second / 4));
            let snapshots: Vec<_> = (0..5).map(|s| at(s, &lasts, host(s))).collect();
            said(&snapshots)
        };
        let its_own = ("this host".to_owned(), Cause::ReceiverHost);
        assert_eq!(
            all(0),
            [process(8), process(7), port(Cause::PathLoss), its_own]
        );
        // After both had closed an interface was taken down: what arrived there is among the drops.
        let (worn, lossy) = (port(Cause::WornLink), port(Cause::PathLoss));
        assert_eq!(all(1), [process(8), process(7), worn, lossy]);
        assert_eq!(said(&[at(0, &lasts, host(0, 0, 0, 0))]), []);
    }

    proptest! {
        #[test]
        fn whatever_a_recording_says_there_is_no_panic(
            times in prop::collection::vec(any::<u64>(), LinkCounter::COUNT),
            carried in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..5),
            is_sender: bool,
        ) {
            let role = if is_sender { Role::Sender } else { Role::Receiver };
            let mut link = made::link(2, role, "p", Vec::new());
            link.counters = Values::new(|counter: LinkCounter| times[counter as usize]);
            for (number, (sent, again, marks)) in (0..).zip(carried) {
                let mut path = path(number, "", 1, 1);
                path.counters[PathCounter::SentBytes] = sent;
                path.counters[PathCounter::Retransmits] = again;
                path.counters[PathCounter::Marks] = marks;
                path.gauges[PathGauge::RoundTripMin] = marks;
                link.paths.push(path);
            }
            for finding in explain(&window(link, Vec::new())).findings {
                prop_assert!(finding.confidence_percent <= 99);
            }
        }
    }
}
