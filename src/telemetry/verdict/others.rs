//! What a host's other links tell of one: which end of a full way is the full one, that several senders come
//! together at a port, that a peer does not speak ECN. A link by itself knows its own paths only.

use std::collections::BTreeMap;

use super::{
    Cause, LOSS_ONE_IN, SEGMENT_BYTES, Shares, Told, compared, gigabits, is_marked, leaves_by, sum,
};
use crate::telemetry::Role;
use crate::telemetry::reader::{Link, PathNow};
use crate::telemetry::schema::{LinkCounter, PathCounter, PathHistogram};
use crate::telemetry::snapshot::Window;

/// A link waits for the network that does so for so many per cent of the time.
const WAITS_PERCENT: u64 = 50;
/// Queues this much shorter, or more, are not those of the same place.
const SHORTER: u64 = 4;
/// Losses by so many segments are more than an accident.
const LOSSES: u64 = 10;
/// Senders that are named, at most.
const NAMED: usize = 8;

/// The peer's host: its address without the port.
fn host(link: &Link) -> &str {
    let peer = link.peer.as_str();
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}

/// Whether both have a path by the same address of this host.
fn has_same_port(one: &Link, other: &Link) -> bool {
    let addresses = |link: &Link| -> Vec<String> {
        let known = link.paths.iter().filter(|path| !path.ends.is_empty());
        known.map(|path| leaves_by(path).to_owned()).collect()
    };
    let theirs = addresses(other);
    addresses(one)
        .iter()
        .any(|address| theirs.contains(address))
}

/// The links to, or from, other hosts over a port that this link uses too.
fn beside<'a>(window: &'a Window, link: &'a Link) -> impl Iterator<Item = &'a Link> {
    let processes = window.processes.iter();
    let links = processes.flat_map(|watched| &watched.process.links);
    links.filter(move |other| {
        other.role == link.role && host(other) != host(link) && has_same_port(link, other)
    })
}

fn waits(link: &Link) -> bool {
    let shares = Shares::of(link);
    shares.is_some_and(|shares| shares.get(LinkCounter::NetworkTime) >= WAITS_PERCENT)
}

/// At a receiver: parts of messages of several senders are there, and all of them wait for more. Each may be
/// held up on a way of its own; but what they are known to have in common is this host's port.
pub(super) fn incast(window: &Window, link: &Link, share: u64) -> Option<Told> {
    let bytes = |link: &Link| link.counters[LinkCounter::MessageBytes];
    let mut senders = BTreeMap::from([(host(link), bytes(link))]);
    for other in beside(window, link).filter(|other| waits(other) && bytes(other) > 0) {
        let sent = senders.entry(host(other)).or_default();
        *sent = sent.saturating_add(bytes(other));
    }
    if !waits(link) || senders.len() < 2 {
        return None;
    }
    let all = sum(senders.values().copied());
    let mut evidence = vec![format!(
        "{} come together from {} hosts",
        gigabits(window.per_second(all)),
        senders.len()
    )];
    let each = senders.iter().take(NAMED);
    evidence
        .extend(each.map(|(host, sent)| format!("{host}: {}", gigabits(window.per_second(*sent)))));
    let says = format!(
        "an incast: {} hosts send to this port at once, and all of them wait for the network",
        senders.len()
    );
    Some((Cause::ReceiverShared, 30 + share / 3, says, evidence))
}

/// How long the middle one of all round trips on a link's paths waited in queues.
fn queue(link: &Link) -> Option<u64> {
    let paths = compared(link).into_iter();
    let queues = paths.filter_map(|path| path.histograms[PathHistogram::Queue].quantile(500));
    let mut queues: Vec<_> = queues.collect();
    queues.sort_unstable();
    queues.get(queues.len() / 2).copied()
}

/// Where the queue is that all paths of a link share: links to other hosts leave by the same port and cross
/// the same core, so what they do not meet is beyond that.
pub(super) fn place(window: &Window, link: &Link) -> Option<(&'static str, String)> {
    let has_marks = |link: &Link| compared(link).iter().any(|path| is_marked(path));
    let others: Vec<_> = beside(window, link)
        .filter(|other| !compared(other).is_empty())
        .collect();
    let ours = queue(link)?;
    let meets_it = |other: &&&Link| {
        if has_marks(link) {
            return has_marks(other);
        }
        queue(other).is_some_and(|theirs| theirs.saturating_mul(SHORTER) > ours)
    };
    let meeting = others.iter().filter(meets_it).count();
    let hosts = others.len();
    match (hosts, meeting) {
        (0, _) => None,
        (_, 0) => Some((
            "only to this peer: its port, or the way there behind the core",
            format!("links to other hosts by the same port do not meet it: {hosts}"),
        )),
        _ if meeting == hosts => Some((
            "to all peers alike: this host's port, or the fabric's core",
            format!("links to other hosts by the same port that meet it too: {meeting}"),
        )),
        _ => Some((
            "to some peers: the fabric's core, or several ports",
            format!("links to other hosts by the same port that meet it too: {meeting} of {hosts}"),
        )),
    }
}

/// Over TCP: segments of this link are lost, and not one was acknowledged under ECN, while queues mark those of
/// other links. What a queue would mark it drops, if the two kernels have not agreed on ECN.
pub(super) fn half_ecn(window: &Window, link: &Link) -> Option<Told> {
    let total = |link: &Link, counter: PathCounter| {
        let counted = |path: &PathNow| path.counters[counter];
        sum(link.paths.iter().map(counted))
    };
    let again = total(link, PathCounter::Retransmits);
    let segments = total(link, PathCounter::SentBytes) / SEGMENT_BYTES;
    let has_losses = again >= LOSSES && again.saturating_mul(LOSS_ONE_IN) >= segments;
    if !has_losses || total(link, PathCounter::Delivered) > 0 {
        return None;
    }
    let links = window.processes.iter().flat_map(|it| &it.process.links);
    let marked = links
        .filter(|other| other.role == Role::Sender && host(other) != host(link))
        .find(|other| total(other, PathCounter::Marks) > 0)?;
    let evidence = vec![
        format!("to this peer no segment under ECN, and {again} sent again, of some {segments}"),
        format!(
            "to {}: {} of {} segments marked",
            marked.peer,
            total(marked, PathCounter::Marks),
            total(marked, PathCounter::Delivered)
        ),
    ];
    let says = "queues mark on the way to others, and with this peer there is no ECN: what they would mark they \
                drop; set net.ipv4.tcp_ecn=1 on both hosts";
    Some((Cause::Misconfigured, 75, says.into(), evidence))
}
