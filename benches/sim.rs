//! What the simulator itself costs: an event in and out of the queue with as many scheduled as a
//! small and a large fabric have, and a whole small run.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use thalweg::sim::events::EventQueue;
use thalweg::sim::fabric::Routing;
use thalweg::sim::packet::BULK;
use thalweg::sim::random::{Purpose, Stream};
use thalweg::sim::spray::{SprayConfig, SprayHosts, longest_round_trip};
use thalweg::sim::time::Picos;
use thalweg::sim::topology::{LinkSpec, Topology};
use thalweg::sim::workload::{DoneWhen, Flow, Workload};
use thalweg::sim::world::{Ended, run};
use thalweg::units::Rate;

/// One event is taken out and another scheduled, about a wire's delay later.
fn event_queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event queue");
    group.throughput(Throughput::Elements(1));
    for scheduled in [1_000u32, 50_000] {
        let mut queue = EventQueue::new();
        let mut coin = Stream::new(1, Purpose::Port, 0);
        for event in 0..scheduled {
            queue.push(Picos(u64::from(coin.below(1_500_000))), event);
        }
        group.bench_function(format!("{scheduled} scheduled"), |bencher| {
            bencher.iter(|| {
                let (now, event) = queue.pop().expect("as many go in as come out");
                let delay = 1_000_000 + u64::from(coin.below(500_000));
                queue.push(now + Picos(delay), black_box(event));
            });
        });
    }
}

/// Sixteen hosts send 200 kB each to their neighbours, over a fat tree of three tiers.
fn small_run(criterion: &mut Criterion) {
    let link = LinkSpec {
        rate: Rate::from_mbps(100_000),
        delay: Picos::from_micros(1),
    };
    let topology = Topology::fat_tree(4, link).expect("an even number of ports");
    let config = SprayConfig::new(link.rate, longest_round_trip(&topology));
    let hosts = topology.hosts();
    let mut workload = Workload::new(DoneWhen::Received);
    let part = workload.add_part("flows");
    for from in 0..hosts {
        workload.add(Flow {
            from,
            to: (from + 5) % hosts,
            bytes: 200_000,
            start: Picos::ZERO,
            class: BULK,
            part,
        });
    }
    let simulate = || {
        let mut fabric = config.fabric(topology.clone(), None, Routing::Hash, 1);
        let mut ends = SprayHosts::new(&fabric, &workload, config.clone(), 1);
        let deadline = Picos::from_micros(10_000);
        let ended = run(&mut fabric, &mut ends, &workload, &[], deadline);
        assert_eq!(ended, Ended::Finished);
        fabric.totals().hops
    };
    let mut group = criterion.benchmark_group("fabric");
    group.throughput(Throughput::Elements(simulate()));
    group.bench_function("16 hosts, packet-hops", |bencher| bencher.iter(simulate));
}

criterion_group!(benches, event_queue, small_run);
criterion_main!(benches);
