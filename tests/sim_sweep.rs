//! The engine with its defaults over round trips of 5 µs to 10 ms, links of 1 to 800 Gb/s, 1 to 64
//! paths and short and long buffers: a permutation of messages that last a few round trips. What
//! it makes of the network must not fall off a cliff from one point to the next.

use std::collections::BTreeMap;

use thalweg::sim::scenario::{Detail, Override, Source};

const ROUND_TRIPS_US: [u64; 4] = [5, 50, 500, 10_000];
const RATES_GBPS: [u64; 5] = [1, 10, 100, 400, 800];
const PATHS: [u64; 4] = [1, 4, 16, 64];
/// Of a port, in hundredths of a bandwidth-delay product; never less than 64 packets.
const BUFFERS: [u64; 3] = [25, 100, 400];
const AXES: [usize; 4] = [
    ROUND_TRIPS_US.len(),
    RATES_GBPS.len(),
    PATHS.len(),
    BUFFERS.len(),
];

/// Indices into the axes above.
type Point = [usize; 4];

fn words([rtt, rate, paths, buffer]: Point) -> String {
    format!(
        "{} us, {} Gb/s, {} paths, buffer of {} % of a BDP",
        ROUND_TRIPS_US[rtt], RATES_GBPS[rate], PATHS[paths], BUFFERS[buffer]
    )
}

fn bdp([rtt, rate, ..]: Point) -> u64 {
    RATES_GBPS[rate] * ROUND_TRIPS_US[rtt] * 125
}

/// Floor over makespan, the mean of two seeds.
fn efficiency(point: Point) -> f64 {
    let [rtt, rate, paths, buffer] = point;
    let source = Source::open("sweep").expect("it is shipped");
    let bdp = bdp(point);
    // Four round trips at the link's rate: of fewer, the one that grants take would be too much.
    let size = (4 * bdp).max(1_000_000);
    let set = |field: &str, value: String| Override {
        field: field.to_owned(),
        value,
    };
    let settings = [
        set("fabric.rate", format!("{}G", RATES_GBPS[rate])),
        set("fabric.delay", format!("{}ns", ROUND_TRIPS_US[rtt] * 125)),
        set(
            "fabric.queue",
            (bdp * BUFFERS[buffer] / 100).max(64 * 4150).to_string(),
        ),
        set("hosts.paths", PATHS[paths].to_string()),
        set("workload.0.size", size.to_string()),
        set("run.deadline", "10s".to_owned()),
    ];
    let scenario = source.scenario(&settings).expect("every point is allowed");
    let ratio = |seed| {
        let run = scenario.play(seed, Detail::Figures, &mut |_| {});
        assert!(run.is_finished(), "{}: {:?}", words(point), run.stuck);
        assert_eq!(
            run.hosts.as_ref().map(|hosts| hosts.fences),
            Some(0),
            "{}",
            words(point)
        );
        run.total.ratio
    };
    2.0 / (ratio(1) + ratio(2))
}

fn points() -> impl Iterator<Item = Point> {
    (0..AXES.iter().product()).map(|mut number: usize| {
        AXES.map(|values| {
            let index = number % values;
            number /= values;
            index
        })
    })
}

/// At least, for each number of paths: one of them shares its way with others by chance.
const EFFICIENCY_MIN: [f64; PATHS.len()] = [0.15, 0.5, 0.7, 0.7];
/// Of the neighbour's.
const CLIFF: f64 = 0.75;

/// Runs all points whose bandwidth-delay product is in this range, and says what is wrong.
fn sweep(bdps: std::ops::Range<u64>) {
    let found: BTreeMap<Point, f64> = points()
        .filter(|&point| bdps.contains(&bdp(point)))
        .map(|point| (point, efficiency(point)))
        .collect();
    let mut wrong = Vec::new();
    for (&point, &here) in &found {
        println!("{here:.3} {}", words(point));
        if here < EFFICIENCY_MIN[point[2]] {
            wrong.push(format!("{here:.3} at {}", words(point)));
        }
        for axis in 0..AXES.len() {
            let mut next = point;
            next[axis] += 1;
            let Some(&there) = found.get(&next) else {
                continue;
            };
            // More paths and longer buffers may help as much as they can.
            let may_rise = axis >= 2;
            if there < CLIFF * here || (here < CLIFF * there && !may_rise) {
                let (from, to) = (words(point), words(next));
                wrong.push(format!("from {here:.3} at {from} to {there:.3} at {to}"));
            }
        }
    }
    assert!(found.len() >= 60, "{}", found.len());
    assert!(
        wrong.is_empty(),
        "{} cliffs:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn no_cliff_where_little_is_in_flight() {
    sweep(0..700_000);
}

/// Up to a product of 25 MB: 400 Gb/s at 500 µs.
#[test]
#[ignore = "takes minutes; `make twin` runs it"]
fn no_cliff_where_much_is_in_flight() {
    sweep(600_000..26_000_000);
}
