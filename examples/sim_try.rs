use thalweg::control::*;
use thalweg::engine::*;
use thalweg::path::health::HealthConfig;
use thalweg::path::select::*;
use thalweg::sim::fabric::*;
use thalweg::sim::hosts::*;
use thalweg::sim::nic::*;
use thalweg::sim::packet::*;
use thalweg::sim::random::*;
use thalweg::sim::time::*;
use thalweg::sim::topology::*;
use thalweg::sim::workload::*;
use thalweg::sim::world::*;
use thalweg::units::*;

fn arg(name: &str, default: u64) -> u64 {
    std::env::args()
        .find_map(|a| {
            a.strip_prefix(&format!("{name}="))
                .map(|v| v.parse().unwrap())
        })
        .unwrap_or(default)
}

fn main() {
    let seeds = arg("seeds", 3);
    let bytes = arg("bytes", 2_000_000);
    let paths = arg("paths", 16);
    let chunk = arg("chunk", 32768);
    let window = arg("window", 625_000);
    let link = LinkSpec {
        rate: Rate::from_mbps(400_000),
        delay: Picos::from_micros(1),
    };
    for seed in 1..=seeds {
        let topology = Topology::leaf_spine(8, 16, 16, link, link).unwrap();
        let pfc = arg("pfc", 0) == 1;
        let switch = SwitchConfig {
            queue: QueueConfig {
                capacity: 419_150,
                control_capacity: 2 * 419_150,
                mark_low: u32::MAX,
                mark_high: u32::MAX,
                overflow: Overflow::Trim,
            },
            pause: pfc.then_some(PauseConfig {
                on: 200_000,
                off: 180_000,
                headroom: 200_000,
            }),
            shared_buffer: None,
            routing: if arg("ar", 0) == 1 {
                Routing::Adaptive
            } else {
                Routing::Hash
            },
        };
        let mut fabric = Fabric::new(topology, &switch, seed);
        let mut w = Workload::new(DoneWhen::Received);
        let part = w.add_part("perm");
        let mut s = Stream::new(seed, Purpose::Workload, 0);
        let incast = arg("incast", 0) as u32;
        if incast > 0 {
            let mut order: Vec<u32> = (1..128).collect();
            s.shuffle(&mut order);
            for i in 0..incast {
                w.add(Flow {
                    from: order[i as usize],
                    to: 0,
                    bytes,
                    start: Picos(0),
                    class: BULK,
                    part,
                });
            }
        } else if arg("ring", 0) > 0 {
            let mut order: Vec<u32> = (0..128).collect();
            s.shuffle(&mut order);
            for g in 0..8 {
                let m = &order[g * 16..(g + 1) * 16];
                let mut prev: Vec<u32> = Vec::new();
                for step in 0..31 {
                    let cur: Vec<u32> = (0..16)
                        .map(|i| {
                            w.add(Flow {
                                from: m[i],
                                to: m[(i + 1) % 16],
                                bytes: 1 << 20,
                                start: Picos(0),
                                class: BULK,
                                part,
                            })
                        })
                        .collect();
                    if step > 0 {
                        for i in 0..16 {
                            w.wait(prev[(i + 15) % 16], cur[i]);
                        }
                    }
                    prev = cur;
                }
            }
        } else {
            let mut to: Vec<u32> = (0..128).collect();
            loop {
                s.shuffle(&mut to);
                if to.iter().enumerate().all(|(i, &t)| i as u32 != t) {
                    break;
                }
            }
            for i in 0..128u32 {
                w.add(Flow {
                    from: i,
                    to: to[i as usize],
                    bytes,
                    start: Picos(0),
                    class: BULK,
                    part,
                });
            }
        }
        let engine = EngineConfig {
            paths_max: paths as u8,
            search: false,
            eager_bytes: 0,
            chunk_bytes: Some(chunk as u32),
            completions: Completions::Local,
            receive_depth: None,
            health: HealthConfig {
                suspect_min: Nanos::from_micros(arg("suspect", 10_000)),
                dead_min: Nanos::from_micros(80_000),
                ..HealthConfig::default()
            },
            dead_peer: Nanos::from_secs(1),
        };
        let hc = HostConfig {
            engine,
            controller: AnyController::Fixed(Fixed::new(Bytes(window))),
            selector: match arg("sel", 0) {
                0 => AnySelector::LeastOutstanding(LeastOutstanding::default()),
                1 => AnySelector::RoundRobin(RoundRobin::default()),
                _ => AnySelector::Hash(StaticHash),
            },
            chunk_time: Picos::from_nanos(arg("cost", 667)),
            input_time: Picos::from_nanos(arg("input", 0)),
            tick: Picos::from_micros(10),
            dial_time: Picos::from_micros(500),
        };
        let nic = NicConfig {
            mtu: 4096,
            recovery: Recovery::Selective,
            timeout: Picos::from_micros(2000),
            dcqcn: None,
        };
        let mut hosts = EngineHosts::new(&fabric, &w, hc, nic, seed);
        let t0 = std::time::Instant::now();
        let ended = run(
            &mut fabric,
            &mut hosts,
            &w,
            &[],
            Picos::from_micros(100_000),
        );
        let wall = t0.elapsed().as_secs_f64();
        let mut fct: Vec<f64> = (0..w.flows().len() as u32)
            .filter_map(|f| hosts.progress().completion_time(f))
            .map(|p| p.as_micros_f64())
            .collect();
        fct.sort_by(f64::total_cmp);
        let n = fct.len();
        let tot = fabric.totals();
        let makespan = (0..w.flows().len() as u32)
            .filter_map(|f| hosts.progress().ended(f))
            .max()
            .unwrap_or(Picos(0));
        let (mut trims, mut pauses, mut backlog) = (0, 0, 0);
        for p in 0..fabric.topology().ports().len() as u32 {
            let s = fabric.stats(p);
            trims += s.trims;
            pauses += s.pauses;
            backlog = backlog.max(s.backlog_max);
        }
        println!(
            "seed {seed} {ended:?} n {n} mean {:.1} p50 {:.1} max {:.1} min {:.1} makespan {:.1} trims {trims} pauses {pauses} backlog {backlog} drops {} nic {:?} hops {} {:.2} Mhops/s events {}",
            fct.iter().sum::<f64>() / n as f64,
            fct[n / 2],
            fct[n - 1],
            fct[0],
            makespan.as_micros_f64(),
            tot.dropped,
            hosts.nic_stats(),
            tot.hops,
            tot.hops as f64 / wall / 1e6,
            hosts.events().len()
        );
        assert_eq!(tot.sent, tot.delivered + tot.dropped + fabric.in_flight());
    }
}
