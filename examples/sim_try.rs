use thalweg::control::*;
use thalweg::path::select::*;
use thalweg::sim::control_suite::*;
use thalweg::sim::hosts::*;
use thalweg::sim::time::*;
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
    let seeds = arg("seeds", 2);
    if arg("suite", 0) > 0 {
        let t0 = std::time::Instant::now();
        for r in rows(seeds, 2) {
            println!(
                "{:44} {:32} ecmp {:9.2} static {:9.2} ours {:9.3} {:?} {}",
                r.scene,
                r.what,
                r.ecmp,
                r.static_spray,
                r.ours,
                r.reach,
                r.holds()
            );
        }
        println!("{:.1} s", t0.elapsed().as_secs_f64());
        return;
    }
    let mut setup = match arg("who", 0) {
        0 => Setup::ours(),
        1 => Setup::ecmp(),
        2 => Setup::static_spray(),
        _ => {
            let mut s = Setup::static_spray();
            s.adaptive_switches = true;
            s
        }
    };
    let h = &mut setup.hosts;
    h.engine.paths_max = arg("paths", u64::from(h.engine.paths_max)) as u8;
    h.engine.chunk_bytes = Some(arg("chunk", 32768) as u32);
    h.chunk_time = Picos::from_nanos(arg("cost", 567));
    h.input_time = Picos::from_nanos(arg("input", 100));
    if arg("window", 0) > 0 {
        h.controller = AnyController::Fixed(Fixed::new(Bytes(arg("window", 0))));
    }
    let w = Bytes(arg("start", 625_000));
    match arg("cc", 0) {
        4 => h.controller = AnyController::Fixed(Fixed::new(w)),
        1 => {
            h.controller = AnyController::Delay(Delay::new(DelayConfig {
                target_queue: Nanos(arg("target", 8337)),
                increase: Bytes(arg("ai", 32768)),
                probe_start: false,
                window_min: Bytes(65536),
                window_max: w,
                window_start: w,
            }))
        }
        2 => {
            h.controller = AnyController::Power(Power::new(PowerConfig {
                window_min: Bytes(65536),
                window_max: w,
                window_start: w,
                increase: Bytes(arg("ai", 8192)),
            }))
        }
        3 => {
            h.controller = AnyController::Timely(Timely::new(TimelyConfig {
                window_min: Bytes(65536),
                window_max: w,
                line_rate: Rate::from_mbps(400_000),
                queue_low: Nanos(arg("target", 8337) / 2),
                queue_high: Nanos(4 * arg("target", 8337)),
            }))
        }
        _ => {}
    }
    match arg("sel", 9) {
        0 => h.selector = AnySelector::LeastOutstanding(LeastOutstanding::default()),
        2 => h.selector = AnySelector::PowerOfTwo(PowerOfTwo::default()),
        1 => h.selector = AnySelector::RoundRobin(RoundRobin::default()),
        _ => {}
    }
    h.admission.quantum = Bytes(arg("quantum", 131072));
    h.admission.unasked_min = Bytes(arg("unasked", 32768));
    if arg("grants", 1) == 0 {
        h.engine.first_grant = None;
    }
    if arg("traced", 1) == 0 {
        h.ways = Ways::Unknown;
    }
    let all = [
        Scene::Permutation(2_000_000),
        Scene::Permutation(16_000_000),
        Scene::Rings,
        Scene::Incast(32),
        Scene::AllToAll,
        Scene::SlowLinks,
        Scene::Cut,
        Scene::RingsAndBulk,
        Scene::Bulk,
    ];
    let only = arg("scene", 99) as usize;
    for (k, &scene) in all.iter().enumerate() {
        if only < 99 && only != k {
            continue;
        }
        for loss in [Loss::Trimming, Loss::Lossless] {
            if arg("loss", 2) != 2 && (loss == Loss::Lossless) != (arg("loss", 2) == 1) {
                continue;
            }
            for seed in 1..=seeds {
                let t0 = std::time::Instant::now();
                let o = measure(scene, loss, &setup, seed);
                let c = &o.completion[0];
                println!(
                    "{scene:?} {loss:?} {seed} fin {} n {} mean {:.1} p50 {:.1} max {:.1} mk {:.1} bound {:.1} jain {:.4} stall {:.1} fences {} trims {} drops {} pauses {:?} backlog {} part2 {:?} [{:.1}s]",
                    o.finished,
                    c.len(),
                    c.iter().map(|p| p.as_micros_f64()).sum::<f64>() / c.len() as f64,
                    c[c.len() / 2].as_micros_f64(),
                    o.worst(0).as_micros_f64(),
                    o.makespan[0].as_micros_f64(),
                    o.bound.as_micros_f64(),
                    o.jain(0),
                    o.stall.as_micros_f64(),
                    o.fences,
                    o.trims,
                    o.drops,
                    o.pauses,
                    o.backlog,
                    o.delivered
                        .get(1)
                        .map(|d| (*d, o.makespan[1].as_micros_f64())),
                    t0.elapsed().as_secs_f64()
                );
            }
        }
    }
}
