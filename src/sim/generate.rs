//! Workloads that are made, not read: what collectives and transfers ask of a network. All of it
//! is integers drawn from one stream, so a seed gives the same flows on every machine.

use super::random::Stream;
use super::time::Picos;
use super::workload::{DoneWhen, Flow, Workload};

/// What all flows of a part of a workload have in common.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Its number, see [`Workload::add_part`].
    pub part: u8,
    /// Traffic class.
    pub class: u8,
    /// Nothing of it starts earlier.
    pub start: Picos,
}

impl Part {
    fn flow(self, from: u32, to: u32, bytes: u64) -> Flow {
        Flow {
            from,
            to,
            bytes,
            start: self.start,
            class: self.class,
            part: self.part,
        }
    }

    /// A flow that waits for another starts so long after that, not at the start of its part.
    fn later(self, from: u32, to: u32, bytes: u64, pause: Picos) -> Flow {
        Flow {
            start: pause,
            ..self.flow(from, to, bytes)
        }
    }
}

/// Each host sends to one other and receives from one other; the first `pairs` of them do.
pub fn permutation(
    workload: &mut Workload,
    part: Part,
    hosts: &[u32],
    pairs: usize,
    bytes: u64,
    stream: &mut Stream,
) {
    let mut from = hosts.to_vec();
    let mut to = hosts.to_vec();
    stream.shuffle(&mut from);
    stream.shuffle(&mut to);
    // One pass: who would send to itself changes places with the next.
    for at in 0..from.len() {
        if from[at] == to[at] {
            to.swap(at, (at + 1) % from.len());
        }
    }
    for (from, to) in from.into_iter().zip(to).take(pairs) {
        workload.add(part.flow(from, to, bytes));
    }
}

/// So many of the hosts send to one, each from a random moment within `spread` of the start on.
#[expect(clippy::too_many_arguments, reason = "each is one number of the scene")]
pub fn incast(
    workload: &mut Workload,
    part: Part,
    hosts: &[u32],
    to: u32,
    senders: usize,
    bytes: u64,
    spread: Picos,
    stream: &mut Stream,
) {
    let mut from: Vec<u32> = hosts.iter().copied().filter(|&host| host != to).collect();
    stream.shuffle(&mut from);
    for from in from.into_iter().take(senders) {
        let start = part.start + Picos(scaled(stream, spread.0));
        workload.add(Flow {
            start,
            ..part.flow(from, to, bytes)
        });
    }
}

/// A random number below `bound`, or 0.
fn scaled(stream: &mut Stream, bound: u64) -> u64 {
    let product = u128::from(stream.next()) * u128::from(bound);
    u64::try_from(product >> 64).unwrap_or(0)
}

/// Consecutive groups of `size` hosts in random order, or in the order given.
#[must_use]
pub fn groups(hosts: &[u32], size: usize, shuffled: bool, stream: &mut Stream) -> Vec<Vec<u32>> {
    let mut order = hosts.to_vec();
    if shuffled {
        stream.shuffle(&mut order);
    }
    order
        .chunks_exact(size.max(1))
        .map(<[u32]>::to_vec)
        .collect()
}

/// Each of a group sends to each other. With a window, each keeps so many flows open: batches of
/// that many, where each flow of a batch that ends starts one of the next.
pub fn all_to_all(
    workload: &mut Workload,
    part: Part,
    group: &[u32],
    bytes: u64,
    window: Option<usize>,
) {
    let size = group.len();
    let others = size.saturating_sub(1);
    let window = window.unwrap_or(others).clamp(1, others.max(1));
    let (full, left) = (others / window, others % window);
    for rank in 0..size {
        // The d-th batch goes to those d, d + full, d + 2 full … ranks ahead: what different
        // ranks do at the same time meets at different receivers.
        let mut batches: Vec<Vec<usize>> = (1..=full)
            .map(|batch| (0..window).map(|c| batch + c * full).collect())
            .collect();
        if left > 0 {
            batches.push((0..left).map(|c| window * full + c + 1).collect());
        }
        let mut before: Vec<u32> = Vec::new();
        for batch in batches {
            let flows: Vec<u32> = batch
                .into_iter()
                .map(|ahead| {
                    let (from, to) = (group[rank], group[(rank + ahead) % size]);
                    workload.add(if before.is_empty() {
                        part.flow(from, to, bytes)
                    } else {
                        part.later(from, to, bytes, Picos::ZERO)
                    })
                })
                .collect();
            if !before.is_empty() {
                workload.relay(&before, DoneWhen::Acknowledged, &flows);
            }
            before = flows;
        }
    }
}

/// A ring all-reduce: each host's share goes round the ring once to be added up and once more to
/// be handed out. `steps` is 2 (G - 1) for G hosts, or 2 G - 1 as in the reference's generator.
pub fn ring_all_reduce(
    workload: &mut Workload,
    part: Part,
    ring: &[u32],
    step_bytes: u64,
    steps: usize,
) {
    let size = ring.len();
    for share in 0..size {
        let mut before = None;
        for step in 0..steps {
            let (from, to) = (ring[(share + step) % size], ring[(share + step + 1) % size]);
            before = Some(match before {
                None => workload.add(part.flow(from, to, step_bytes)),
                Some(before) => {
                    let flow = workload.add(part.later(from, to, step_bytes, Picos::ZERO));
                    workload.wait(before, flow);
                    flow
                }
            });
        }
    }
}

/// A tree all-reduce: sums go up a binary tree and the result comes down it, in slices that
/// follow each other through the tree.
pub fn tree_all_reduce(
    workload: &mut Workload,
    part: Part,
    group: &[u32],
    bytes: u64,
    slices: usize,
) {
    let size = group.len();
    let children = |node: usize| {
        [2 * node + 1, 2 * node + 2]
            .into_iter()
            .filter(move |&c| c < size)
    };
    // The flow of the slice before on each edge, up and down: an edge carries one slice at a time.
    let mut last = [vec![None; size], vec![None; size]];
    let slices = slices.max(1);
    for slice in 0..slices {
        let count = slices as u64;
        let from = bytes * slice as u64 / count;
        let slice_bytes = (bytes * (slice as u64 + 1) / count - from).max(1);
        let mut add = |edge: usize, up: bool, waits: &[u32], workload: &mut Workload| {
            let (child, parent) = (group[edge], group[(edge - 1) / 2]);
            let (from, to) = if up { (child, parent) } else { (parent, child) };
            let before: Option<u32> = last[usize::from(up)][edge];
            let flow = if waits.is_empty() && before.is_none() {
                part.flow(from, to, slice_bytes)
            } else {
                part.later(from, to, slice_bytes, Picos::ZERO)
            };
            let flow = workload.add(flow);
            for &earlier in waits.iter().chain(&before) {
                workload.wait(earlier, flow);
            }
            last[usize::from(up)][edge] = Some(flow);
            flow
        };
        let mut ups = vec![0; size];
        for node in (1..size).rev() {
            let waits: Vec<u32> = children(node).map(|child| ups[child]).collect();
            ups[node] = add(node, true, &waits, workload);
        }
        let mut downs = vec![0; size];
        for node in 1..size {
            let waits: Vec<u32> = match (node - 1) / 2 {
                0 => children(0).map(|child| ups[child]).collect(),
                parent => vec![downs[parent]],
            };
            downs[node] = add(node, false, &waits, workload);
        }
    }
}

/// Pipeline parallelism: micro-batches pass from stage to stage and their gradients come back,
/// each after the time that its computation takes.
pub fn pipeline(
    workload: &mut Workload,
    part: Part,
    stages: &[u32],
    micro_batches: usize,
    bytes: u64,
    compute: Picos,
) {
    let links = stages.len().saturating_sub(1);
    // Forward and backward on each link: one micro-batch after the other.
    let mut last: [Vec<Option<u32>>; 2] = [vec![None; links], vec![None; links]];
    for _ in 0..micro_batches {
        let mut before: Option<u32> = None;
        let forward = (0..links).map(|link| (link, stages[link], stages[link + 1], 0));
        let backward = (0..links)
            .rev()
            .map(|link| (link, stages[link + 1], stages[link], 1));
        for (link, from, to, way) in forward.chain(backward) {
            let waits: Vec<u32> = before.into_iter().chain(last[way][link]).collect();
            let flow = if waits.is_empty() {
                Flow {
                    start: part.start + compute,
                    ..part.flow(from, to, bytes)
                }
            } else {
                part.later(from, to, bytes, compute)
            };
            let flow = workload.add(flow);
            for earlier in waits {
                workload.wait(earlier, flow);
            }
            last[way][link] = Some(flow);
            before = Some(flow);
        }
    }
}

/// Layers of a mixture of experts: in each, tokens go to the experts that a router chose and come
/// back. Some experts are popular: the shares of `bytes` that a host sends to the others are
/// drawn at random, `skew` times as much to the most popular as to the least.
#[expect(clippy::too_many_arguments, reason = "each is one number of the scene")]
pub fn mixture_of_experts(
    workload: &mut Workload,
    part: Part,
    group: &[u32],
    layers: usize,
    bytes: u64,
    skew: u32,
    compute: Picos,
    stream: &mut Stream,
) {
    let size = group.len();
    // What each host waits for before it goes on: all that it received.
    let mut received: Vec<Vec<u32>> = vec![Vec::new(); size];
    for _ in 0..layers {
        let weights: Vec<u64> = (0..size)
            .map(|_| 1000 + u64::from(stream.below(1000 * (skew.max(1) - 1) + 1)))
            .collect();
        // To the experts by their popularity, and the same bytes back.
        for back in [false, true] {
            let mut arriving: Vec<Vec<u32>> = vec![Vec::new(); size];
            for rank in 0..size {
                for ahead in 1..size {
                    let peer = (rank + ahead) % size;
                    let (host, expert) = if back { (peer, rank) } else { (rank, peer) };
                    let others: u64 = weights.iter().sum::<u64>() - weights[host];
                    let share = u128::from(bytes) * u128::from(weights[expert]);
                    let share = u64::try_from(share / u128::from(others.max(1))).unwrap_or(bytes);
                    let flow = if received[rank].is_empty() {
                        part.flow(group[rank], group[peer], share.max(1))
                    } else {
                        part.later(group[rank], group[peer], share.max(1), compute)
                    };
                    let flow = workload.add(flow);
                    for &earlier in &received[rank] {
                        workload.wait(earlier, flow);
                    }
                    arriving[peer].push(flow);
                }
            }
            received = arriving;
        }
    }
}

/// KV-cache transfers: each of `from` sends `count` blocks to hosts of `to`, one after the other,
/// so that `in_flight` of them are under way.
#[expect(clippy::too_many_arguments, reason = "each is one number of the scene")]
pub fn transfers(
    workload: &mut Workload,
    part: Part,
    from: &[u32],
    to: &[u32],
    count: usize,
    bytes: u64,
    in_flight: usize,
    stream: &mut Stream,
) {
    for &host in from {
        let mut flows: Vec<u32> = Vec::with_capacity(count);
        for at in 0..count {
            let mut peer = to[stream.below(u32::try_from(to.len()).unwrap_or(u32::MAX)) as usize];
            if peer == host {
                let next = to.iter().position(|&other| other == peer).unwrap_or(0) + 1;
                peer = to[next % to.len()];
            }
            let flow = if at < in_flight.max(1) {
                part.flow(host, peer, bytes)
            } else {
                part.later(host, peer, bytes, Picos::ZERO)
            };
            flows.push(workload.add(flow));
        }
        let (_, later) = flows.split_at(in_flight.max(1).min(count));
        if !later.is_empty() {
            workload.relay(&flows, DoneWhen::Acknowledged, later);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::random::Purpose;
    use super::*;

    const PART: Part = Part {
        part: 0,
        class: 2,
        start: Picos(7),
    };

    fn stream(seed: u64) -> Stream {
        Stream::new(seed, Purpose::Workload, 0)
    }

    fn counts(workload: &Workload, hosts: u32) -> (Vec<u32>, Vec<u32>) {
        let mut sent = vec![0; hosts as usize];
        let mut received = vec![0; hosts as usize];
        for flow in workload.flows() {
            assert_ne!(flow.from, flow.to);
            sent[flow.from as usize] += 1;
            received[flow.to as usize] += 1;
        }
        (sent, received)
    }

    proptest! {
        #[test]
        fn a_permutation_is_one(seed: u64, hosts in 2u32..200) {
            let all: Vec<u32> = (0..hosts).collect();
            let mut workload = Workload::default();
            permutation(&mut workload, PART, &all, all.len(), 1, &mut stream(seed));
            let (sent, received) = counts(&workload, hosts);
            prop_assert!(sent.iter().chain(&received).all(|&n| n == 1));
        }

        #[test]
        fn an_incast_comes_from_different_hosts(seed: u64, hosts in 3u32..100) {
            let all: Vec<u32> = (0..hosts).collect();
            let mut workload = Workload::default();
            incast(&mut workload, PART, &all, 1, 2, 5, Picos(100), &mut stream(seed));
            let (sent, received) = counts(&workload, hosts);
            prop_assert_eq!(received[1], 2);
            prop_assert!(sent.iter().all(|&n| n <= 1));
            prop_assert!(workload.flows().iter().all(|f| (7..107).contains(&f.start.0)));
        }

        /// Whatever the window, each pair meets once and nobody waits for ever.
        #[test]
        fn all_meet_all(size in 1usize..20, window in 1usize..25) {
            let group: Vec<u32> = (0..size as u32).collect();
            let mut workload = Workload::new(DoneWhen::Acknowledged);
            all_to_all(&mut workload, PART, &group, 9, Some(window));
            let mut pairs: Vec<_> = workload.flows().iter().map(|f| (f.from, f.to)).collect();
            pairs.sort_unstable();
            pairs.dedup();
            prop_assert_eq!(pairs.len(), size * (size - 1));
            prop_assert_eq!(workload.flows().len(), pairs.len());
            prop_assert_eq!(workload.stuck(), Vec::<u32>::new());
            // With flows of one length, so many of each rank are open at any time.
            let times = workload.ideal(|_| Picos(10));
            for (_, start) in times.iter().flatten().map(|t| (0, t.0)) {
                let open = (0..workload.flows().len())
                    .filter(|&f| workload.flows()[f].from == 0)
                    .filter(|&f| times[f].is_some_and(|(from, to)| from <= start && start < to))
                    .count();
                prop_assert!(open <= window);
            }
        }

        #[test]
        fn transfers_keep_so_many_in_flight(seed: u64, count in 1usize..20, window in 1usize..8) {
            let mut workload = Workload::new(DoneWhen::Acknowledged);
            transfers(&mut workload, PART, &[0], &[0, 1, 2], count, 3, window, &mut stream(seed));
            prop_assert_eq!(workload.flows().len(), count);
            let times = workload.ideal(|_| Picos(10));
            let last = times.iter().map(|t| t.unwrap().1.0).max().unwrap();
            prop_assert_eq!(last, 7 + 10 * count.div_ceil(window) as u64);
            counts(&workload, 3);
        }

        #[test]
        fn a_tree_reaches_everybody(size in 2usize..40, slices in 1usize..5) {
            let group: Vec<u32> = (0..size as u32).collect();
            let mut workload = Workload::new(DoneWhen::Received);
            tree_all_reduce(&mut workload, PART, &group, 1000, slices);
            let (_, received) = counts(&workload, size as u32);
            // From each child, and from the parent.
            for (node, &n) in received.iter().enumerate() {
                let children = [2 * node + 1, 2 * node + 2].iter().filter(|&&c| c < size).count();
                prop_assert_eq!(n as usize, slices * (children + usize::from(node > 0)));
            }
            prop_assert_eq!(workload.stuck(), Vec::<u32>::new());
            let up: u64 = workload.flows().iter().filter(|f| f.from > f.to).map(|f| f.bytes).sum();
            prop_assert_eq!(up, 1000 * (size as u64 - 1));
        }

        #[test]
        fn experts_get_what_was_sent(seed: u64, size in 2usize..9, skew in 1u32..8) {
            let group: Vec<u32> = (0..size as u32).collect();
            let mut workload = Workload::new(DoneWhen::Received);
            mixture_of_experts(&mut workload, PART, &group, 2, 1 << 20, skew, Picos(5), &mut stream(seed));
            prop_assert_eq!(workload.flows().len(), 2 * 2 * size * (size - 1));
            let sent: u64 = workload.flows()[..size * (size - 1)]
                .iter().filter(|f| f.from == 0).map(|f| f.bytes).sum();
            prop_assert!(sent <= 1 << 20 && sent + size as u64 >= 1 << 20);
            prop_assert_eq!(workload.stuck(), Vec::<u32>::new());
        }
    }

    #[test]
    fn a_ring_takes_its_steps_in_turn() {
        let mut workload = Workload::new(DoneWhen::Received);
        ring_all_reduce(&mut workload, PART, &[4, 2, 9], 100, 5);
        assert_eq!(workload.flows().len(), 15);
        let times = workload.ideal(|_| Picos(10));
        assert_eq!(times[4], Some((Picos(47), Picos(57))));
        let chain: Vec<_> = workload.flows()[..5]
            .iter()
            .map(|f| (f.from, f.to))
            .collect();
        assert_eq!(chain, [(4, 2), (2, 9), (9, 4), (4, 2), (2, 9)]);
    }

    #[test]
    fn a_pipeline_fills_and_drains() {
        let mut workload = Workload::new(DoneWhen::Received);
        pipeline(&mut workload, PART, &[0, 1, 2], 4, 100, Picos(5));
        // Two links, both ways, four micro-batches.
        assert_eq!(workload.flows().len(), 16);
        let times = workload.ideal(|_| Picos(10));
        // The first comes back after four hops; each of the others is one hop behind.
        let ends: Vec<u64> = (0..4).map(|m| times[4 * m + 3].unwrap().1.0).collect();
        assert_eq!(ends, [67, 82, 97, 112]);
    }

    #[test]
    fn groups_are_whole_and_distinct() {
        let hosts: Vec<u32> = (0..10).collect();
        let parts = groups(&hosts, 4, true, &mut stream(1));
        assert_eq!(parts.len(), 2);
        let mut all = parts.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 8);
        assert_eq!(groups(&hosts, 5, false, &mut stream(1))[1], [5, 6, 7, 8, 9]);
    }
}
