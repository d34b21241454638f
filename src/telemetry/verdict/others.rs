//! What a host's other links tell of one: which end of a full way is the full one, that several senders come
//! together at a port, that a peer does not speak ECN. A link by itself knows its own paths only.

use std::collections::BTreeMap;

use super::{
    ALIKE_PERCENT, Cause, LOSS_ONE_IN, LOSSES, SEGMENT_BYTES, Shares, Told, compared, gigabits,
    is_marked, leaves_by, percent, sum,
};
use crate::telemetry::reader::Link;
use crate::telemetry::schema::{LinkCounter, PathCounter, PathHistogram};
use crate::telemetry::snapshot::Window;

/// A link waits for the network that does so for so many per cent of the time.
const WAITS_PERCENT: u64 = 50;
/// Queues so many times as short are not those of the same place.
const SHORTER: u64 = 4;
/// Senders that are named, at most.
const NAMED: usize = 8;

/// The peer's host: its address without the port.
fn host(link: &Link) -> &str {
    let peer = link.peer.as_str();
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}

/// Whether both have a path by the same address of this host.
fn has_same_port(one: &Link, other: &Link) -> bool {
    let named = one.paths.iter().filter(|path| !path.ends.is_empty());
    let mut addresses = named.map(leaves_by);
    addresses.any(|address| other.paths.iter().any(|path| leaves_by(path) == address))
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

fn total(link: &Link, counter: PathCounter) -> u64 {
    sum(link.paths.iter().map(|path| path.counters[counter]))
}

/// How long the middle one of all round trips on a link's paths waited in queues.
fn queue(link: &Link) -> Option<u64> {
    let paths = compared(link).into_iter();
    let queues = paths.filter_map(|path| path.histograms[PathHistogram::Queue].quantile(500));
    let mut queues: Vec<_> = queues.collect();
    queues.sort_unstable();
    queues.get(queues.len() / 2).copied()
}

/// Where the queue is that all paths of a link share: links to other hosts leave by the same port and cross the
/// same core, so what none of them meets is beyond that. Only if that is clear: other queues may be as long.
pub(super) fn place(window: &Window, link: &Link) -> Option<(&'static str, String)> {
    let has_marks = |link: &Link| compared(link).iter().any(|path| is_marked(path));
    let speaks_ecn = |link: &Link| total(link, PathCounter::Delivered) > 0;
    let is_ours_marked = has_marks(link);
    let ours = queue(link)?;
    let (mut meeting, mut free) = (0, 0);
    for other in beside(window, link) {
        let Some(theirs) = queue(other) else {
            continue;
        };
        let is_marked = has_marks(other);
        let is_unmarked = is_ours_marked && !is_marked && speaks_ecn(other);
        let is_free = is_unmarked || theirs.saturating_mul(SHORTER) < ours;
        let is_alike = percent(theirs.abs_diff(ours), ours) <= ALIKE_PERCENT;
        match (is_free, is_marked == is_ours_marked && is_alike) {
            (true, _) => free += 1,
            (_, true) => meeting += 1,
            _ => return None,
        }
    }
    match (meeting, free) {
        (0, 0) => None,
        (0, _) => Some((
            "that peer's port or the way there behind the core",
            format!("links to other hosts by the same port that do not meet it: {free}"),
        )),
        (_, 0) => Some((
            "this host's port or the fabric's core",
            format!("links to other hosts by the same port that meet it too: {meeting}"),
        )),
        _ => Some((
            "the fabric's core or several ports",
            format!(
                "links to other hosts by the same port that meet it too: {meeting} of {}",
                meeting + free
            ),
        )),
    }
}

/// Over TCP: segments of this link are lost, and not one was acknowledged under ECN, while queues mark those of
/// other links. What a queue would mark it drops, if the two kernels have not agreed on ECN.
pub(super) fn half_ecn(window: &Window, link: &Link) -> Option<Told> {
    let again = total(link, PathCounter::Retransmits);
    let segments = total(link, PathCounter::SentBytes) / SEGMENT_BYTES;
    let has_losses = again >= LOSSES && again.saturating_mul(LOSS_ONE_IN) >= segments;
    if !has_losses || total(link, PathCounter::Delivered) > 0 {
        return None;
    }
    let marked = beside(window, link).find(|other| total(other, PathCounter::Marks) > 0)?;
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

#[cfg(test)]
mod tests {
    use super::super::tests::{SECOND, path, window};
    use super::super::{Finding, Subject, explain};
    use super::*;
    use crate::telemetry::reader::PathNow;
    use crate::telemetry::{Role, made};

    /// A link that waited for the network, with its one path.
    fn link(id: u64, role: Role, peer: &str, path: PathNow) -> Link {
        let mut link = made::link(id, role, &format!("{peer}:4000"), vec![path]);
        link.counters[LinkCounter::MessageBytes] = 100_000_000;
        link.counters[LinkCounter::NetworkTime] = SECOND;
        link
    }

    fn said(links: Vec<Link>) -> Vec<Finding> {
        let [first, ..] = &links[..] else {
            return Vec::new();
        };
        let mut window = window(first.clone(), Vec::new());
        window.processes[0].process.links = links;
        explain(&window).findings
    }

    fn to<'a>(findings: &'a [Finding], host: &str) -> &'a Finding {
        let is_to = |finding: &&Finding| matches!(&finding.subject, Subject::Link { peer, .. } if peer.starts_with(host));
        findings.iter().find(is_to).unwrap()
    }

    #[test]
    fn an_incast_is_several_senders_at_one_port() {
        let from = |id, peer: &str, port: &str| link(id, Role::Receiver, peer, path(0, port, 0, 0));
        assert_eq!(said(vec![from(1, "10.0.1.1", "10.0.0.9")]), []);
        let other_ports = vec![
            from(1, "10.0.1.1", "10.0.0.9"),
            from(2, "10.0.1.2", "10.0.0.8"),
        ];
        assert_eq!(said(other_ports), []);
        let one_host = vec![
            from(1, "10.0.1.1", "10.0.0.9"),
            from(2, "10.0.1.1", "10.0.0.9"),
        ];
        assert_eq!(said(one_host), []);
        let mut idle = from(3, "10.0.1.3", "10.0.0.9");
        idle.counters[LinkCounter::IdleTime] = 20 * SECOND;
        let findings = said(vec![
            from(1, "10.0.1.1", "10.0.0.9"),
            from(2, "10.0.1.2", "10.0.0.9"),
            idle,
        ]);
        let finding = to(&findings, "10.0.1.1");
        assert_eq!(finding.cause, Cause::ReceiverShared);
        assert!(finding.says.contains("2 hosts"), "{}", finding.says);
    }

    #[test]
    fn links_to_others_tell_where_the_queue_is() {
        let to_peer = |id, peer: &str, queue_us| {
            link(id, Role::Sender, peer, path(0, "10.0.0.1", 100, queue_us))
        };
        let says = |queue_us| {
            let findings = said(vec![
                to_peer(1, "10.0.1.1", 1000),
                to_peer(2, "10.0.1.2", queue_us),
            ]);
            to(&findings, "10.0.1.1").says.clone()
        };
        assert!(says(1100).contains("is full, this host's port or the fabric's core;"));
        assert!(says(100).contains("is full, that peer's port or the way there"));
        // It may be the same queue, or not.
        let unclear = says(500);
        assert!(unclear.contains("a port at either end"), "{unclear}");
        // Marked, and the other link is not: as long a queue is another one.
        let mut marked = to_peer(1, "10.0.1.1", 1000);
        let counters = &mut marked.paths[0].counters;
        counters[PathCounter::Delivered] = 1000;
        counters[PathCounter::Marks] = 100;
        let mut unmarked = to_peer(2, "10.0.1.2", 1000);
        unmarked.paths[0].counters[PathCounter::Delivered] = 1000;
        let without_ecn = said(vec![marked.clone(), to_peer(2, "10.0.1.2", 1000)]);
        let says = &to(&without_ecn, "10.0.1.1").says;
        assert!(says.contains("a port at either end"), "{says}");
        let findings = said(vec![marked, unmarked]);
        let finding = to(&findings, "10.0.1.1");
        assert!(finding.says.contains("that peer's port"), "{finding:?}");
    }

    #[test]
    fn losses_without_ecn_beside_marks_are_a_misconfiguration() {
        let mut without = link(1, Role::Sender, "10.0.1.1", path(0, "10.0.0.1", 100, 1000));
        without.paths[0].counters[PathCounter::Retransmits] = 700;
        let mut marked = link(2, Role::Sender, "10.0.1.2", path(0, "10.0.0.1", 100, 1000));
        let alone = said(vec![without.clone(), marked.clone()]);
        assert_eq!(to(&alone, "10.0.1.1").cause, Cause::Shared);
        marked.paths[0].counters[PathCounter::Delivered] = 1000;
        marked.paths[0].counters[PathCounter::Marks] = 100;
        let findings = said(vec![without.clone(), marked.clone()]);
        assert_eq!(to(&findings, "10.0.1.1").cause, Cause::Misconfigured);
        assert_eq!(to(&findings, "10.0.1.2").cause, Cause::Shared);
        // They speak ECN: it is a loss.
        without.paths[0].counters[PathCounter::Delivered] = 1000;
        let findings = said(vec![without, marked]);
        assert_eq!(to(&findings, "10.0.1.1").cause, Cause::Shared);
    }
}
