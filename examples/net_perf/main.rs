//! Measures any NCCL net plugin by its C table, or the transports that NCCL brings along, on CPUs:
//! the same loop for all, driven as NCCL's proxy threads drive it. It deliberately uses nothing of
//! the `thalweg` crate, so that a fault there cannot hide here. `net_perf --help` says how.

mod builtin;
mod clock;
mod lane;
mod launch;
mod meter;
mod net;
mod options;
mod pace;
mod pattern;
mod rendezvous;
mod ring;
mod streams;

use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lane::Lanes;
use meter::{Display, Meter};
use net::{Context, Net};
use options::{HELP, Mode, Options, Source};
use pace::{Limit, Pace};
use rendezvous::World;

/// Exit status when everything ran but a byte was wrong.
const EXIT_WRONG_DATA: u8 = 2;

/// Messages of the warm-up and of the measurement are numbered apart.
const WARMUP_BASE: u64 = 1 << 40;

/// Everything that a measurement needs.
struct Job {
    options: Options,
    net: Net,
    context: Context,
    world: World,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let options = match Options::parse(&arguments) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("net_perf: {e}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(size) = options.local
        && !options.list
    {
        let mut rest = arguments;
        if let Some(at) = rest.iter().position(|a| a == "--local") {
            rest.drain(at..at + 2);
        }
        return launch::local(size, &rest);
    }
    match work(options) {
        Ok(code) => code,
        Err(e) => {
            let rank = env::var("RANK").unwrap_or_default();
            let of = if rank.is_empty() {
                String::new()
            } else {
                format!("rank {rank}: ")
            };
            eprintln!("net_perf: {of}{e}");
            ExitCode::FAILURE
        }
    }
}

fn work(options: Options) -> Result<ExitCode, String> {
    net::set_log_level(options.log_level);
    let net = match &options.source {
        Source::Plugin { path, version } => {
            Net::plugin(path, *version).map_err(|e| e.to_string())?
        }
        Source::Builtin { nccl, which } => {
            builtin::load(nccl, *which).map_err(|e| e.to_string())?
        }
    };
    // NCCL's number of a communicator: the same for all ranks, any value.
    let context = net
        .init(options.fingerprint(), -1)
        .map_err(|e| e.to_string())?;
    let devices = net.devices().map_err(|e| e.to_string())?;
    if options.list {
        for dev in 0..devices {
            let p = net.properties(dev).map_err(|e| e.to_string())?;
            println!("{dev}: {p:?}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.dev < 0 || options.dev >= devices {
        return Err(format!(
            "{} offers {devices} devices, not number {}: see --list and --log info",
            net.name(),
            options.dev
        ));
    }
    let properties = net.properties(options.dev).map_err(|e| e.to_string())?;
    let max_recvs = usize::try_from(properties.max_recvs).unwrap_or(1);
    if options.group > max_recvs.max(1) {
        return Err(format!(
            "--group {}: {} takes at most {max_recvs} receives in a group",
            options.group,
            net.name()
        ));
    }
    let place = launch::place(&env::vars().collect())?;
    let world = World::join(&place, options.fingerprint(), options.timeout)?;
    let mut job = Job {
        options,
        net,
        context,
        world,
    };
    let (to, from) = partners(&job)?;
    let mut lanes = lane::connect(&mut job, &to, &from)?;
    if job.world.rank == 0 && !job.options.json {
        print_head(&job, &lanes, &properties.name, place.launcher);
    }
    let mut wrong = 0;
    let mut busbw = Vec::new();
    for size in job.options.sizes() {
        let row = measure(&mut job, &mut lanes, size, properties.max_p2p_bytes)?;
        wrong += row.wrong;
        busbw.push(row.busbw_gb_s);
        if job.world.rank == 0 {
            if job.options.json {
                println!("{}", row.json(&job, &lanes));
            } else {
                println!("{}", row.text(&job));
            }
        }
    }
    if job.world.rank == 0 && !job.options.json {
        #[allow(clippy::cast_precision_loss, reason = "a small count")]
        let mean = busbw.iter().sum::<f64>() / busbw.len().max(1) as f64;
        println!(
            "# average bus bandwidth {mean:.3} GB/s; wrong: {}",
            if job.options.check {
                wrong.to_string()
            } else {
                "not checked".to_owned()
            }
        );
    }
    lane::close(&job, lanes)?;
    job.world.barrier()?;
    job.net.finalize(job.context).map_err(|e| e.to_string())?;
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_WRONG_DATA)
    })
}

/// The ranks that this one sends to, and those that it receives from.
fn partners(job: &Job) -> Result<(Vec<usize>, Vec<usize>), String> {
    let (me, n) = (job.world.rank, job.world.size);
    if n < 2 {
        return Err("at least two ranks are needed".to_owned());
    }
    let pairs = job.options.mode == Mode::PingPong || job.options.oneway;
    if pairs && !n.is_multiple_of(2) {
        return Err(format!("{n} ranks do not make pairs: start an even number"));
    }
    let others = || (0..n).filter(|&r| r != me).collect::<Vec<_>>();
    let (next, before) = ((me + 1) % n, (me + n - 1) % n);
    Ok(match job.options.mode {
        Mode::SendRecv if job.options.oneway && me.is_multiple_of(2) => (vec![me + 1], vec![]),
        Mode::SendRecv if job.options.oneway => (vec![], vec![me - 1]),
        Mode::SendRecv | Mode::AllReduce => (vec![next], vec![before]),
        Mode::PingPong => (vec![me ^ 1], vec![me ^ 1]),
        Mode::AllToAll => (others(), others()),
        Mode::Incast if me == 0 => (vec![], others()),
        Mode::Incast => (vec![0], vec![]),
    })
}

/// The result of one size.
struct Row {
    size: usize,
    iterations: u64,
    time_us: f64,
    algbw_gb_s: f64,
    busbw_gb_s: f64,
    wrong: u64,
    cpu_s_per_gb: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    longest_gap_ms: f64,
    seconds: f64,
}

/// The memory of whichever mode it is.
enum Memory {
    Streams(streams::Memory),
    Ring(ring::Plan),
}

fn measure(
    job: &mut Job,
    lanes: &mut Lanes,
    size: usize,
    max_message: usize,
) -> Result<Row, String> {
    let (mode, n) = (job.options.mode, job.world.size);
    let message = match mode {
        Mode::AllToAll | Mode::Incast => size / n,
        Mode::AllReduce => job.options.slice_bytes.min(size),
        Mode::SendRecv | Mode::PingPong => size,
    };
    if message > max_message {
        return Err(format!(
            "a message of {message} bytes is above the device's largest, {max_message}: take a smaller -e"
        ));
    }
    let depth = match mode {
        Mode::PingPong | Mode::AllReduce => 1,
        _ => job.options.inflight,
    };
    let memory = if mode == Mode::AllReduce {
        Memory::Ring(ring::prepare(job, lanes, size)?)
    } else {
        let per_lane = depth * job.options.group;
        Memory::Streams(streams::prepare(job, lanes, message, per_lane)?)
    };
    let mut display = Display::new(
        job.world.rank,
        job.options.report,
        job.options.json,
        format!("{} {} {size} B", job.net.name(), mode.name()),
    );
    let mut run = |job: &mut Job, limit, display: Display, base| {
        let mut meter = Meter::new(display);
        let pace = Pace::new(limit, depth);
        match &memory {
            Memory::Ring(plan) => ring::run(job, lanes, plan, pace, &mut meter, base)?,
            Memory::Streams(m) if mode == Mode::PingPong => {
                streams::ping_pong(job, lanes, m, pace, &mut meter, base)?;
            }
            Memory::Streams(m) => streams::run(job, lanes, m, pace, &mut meter, base)?,
        }
        Ok::<_, String>(meter)
    };
    let report = display.report.take();
    let quiet = Display {
        progress: false,
        ..display.clone()
    };
    job.world.barrier()?;
    let warm = run(
        job,
        Limit::Iterations(job.options.warmup),
        quiet,
        WARMUP_BASE,
    )?;
    display.report = report;
    job.world.barrier()?;
    let limit = match job.options.seconds {
        Some(s) => Limit::Time(Duration::from_secs_f64(s)),
        None => Limit::Iterations(job.options.iterations),
    };
    let (began, cpu) = (Instant::now(), clock::cpu_s());
    let mut meter = run(job, limit, display, 0)?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), clock::cpu_s() - cpu);
    meter.finish();
    let row = summarise(job, &meter, size, seconds, cpu, warm.wrong)?;
    match memory {
        Memory::Ring(plan) => ring::release(job, lanes, plan)?,
        Memory::Streams(m) => streams::release(job, lanes, m)?,
    }
    Ok(row)
}

/// Brings the ranks' counts together: the slowest rank's time, everyone's errors and CPU time, the
/// worst latencies.
#[allow(clippy::cast_precision_loss, reason = "counts and sizes to be shown")]
fn summarise(
    job: &mut Job,
    meter: &Meter,
    size: usize,
    seconds: f64,
    cpu_s: f64,
    warmup_wrong: u64,
) -> Result<Row, String> {
    let latency = if job.options.mode == Mode::PingPong {
        &meter.half_round_trips
    } else {
        &meter.latency
    };
    let mine = [
        seconds,
        cpu_s,
        (meter.wrong + warmup_wrong) as f64,
        meter.received_bytes as f64,
        latency.quantile_us(0.5),
        latency.quantile_us(0.99),
        latency.max_us(),
        meter.longest_gap.as_secs_f64() * 1e3,
    ];
    let packed: Vec<u8> = mine.iter().flat_map(|x| x.to_le_bytes()).collect();
    let all: Vec<Vec<f64>> = job
        .world
        .exchange(&packed)?
        .iter()
        .map(|part| {
            part.as_chunks::<8>()
                .0
                .iter()
                .map(|x| f64::from_le_bytes(*x))
                .collect()
        })
        .collect();
    let column = |i: usize| {
        all.iter()
            .map(move |row: &Vec<f64>| row.get(i).copied().unwrap_or(0.0))
    };
    let max = |i: usize| column(i).fold(0.0, f64::max);
    let sum = |i: usize| column(i).sum::<f64>();
    let n = job.world.size as f64;
    let seconds = max(0);
    // What nccl-tests calls an iteration: one message, or one collective operation.
    let operations = match job.options.mode {
        Mode::SendRecv => meter.iterations * (job.options.comms * job.options.group) as u64,
        Mode::AllToAll | Mode::Incast => meter.iterations * job.options.comms as u64,
        Mode::PingPong => meter.iterations * 2,
        Mode::AllReduce => meter.iterations,
    };
    let time_s = seconds / operations.max(1) as f64;
    let algbw_gb_s = size as f64 / time_s * 1e-9;
    let factor = match job.options.mode {
        Mode::SendRecv | Mode::PingPong => 1.0,
        Mode::AllReduce => 2.0 * (n - 1.0) / n,
        Mode::AllToAll | Mode::Incast => (n - 1.0) / n,
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a sum of counts"
    )]
    let wrong = sum(2) as u64;
    Ok(Row {
        size,
        iterations: meter.iterations,
        time_us: time_s * 1e6,
        algbw_gb_s,
        busbw_gb_s: algbw_gb_s * factor,
        wrong,
        cpu_s_per_gb: if sum(3) > 0.0 {
            sum(1) / (sum(3) * 1e-9)
        } else {
            0.0
        },
        p50_us: max(4),
        p99_us: max(5),
        max_us: max(6),
        longest_gap_ms: max(7),
        seconds,
    })
}

/// Type and reduction, as nccl-tests names them.
fn kind(mode: Mode) -> (&'static str, &'static str, usize) {
    if mode == Mode::AllReduce {
        ("float", "sum", 4)
    } else {
        ("uint8", "none", 1)
    }
}

fn print_head(job: &Job, lanes: &Lanes, device: &str, launcher: &str) {
    let o = &job.options;
    println!(
        "# net_perf {}{}: {} v{}, device {} ({device}), {} ranks ({launcher}), {} connections, {} in flight{}",
        o.mode.name(),
        if o.oneway { " one way" } else { "" },
        job.net.name(),
        job.net.version(),
        o.dev,
        job.world.size,
        o.comms,
        o.inflight,
        if o.group > 1 {
            format!(", groups of {}", o.group)
        } else {
            String::new()
        },
    );
    println!(
        "# first connection {:.2} ms{}",
        lanes.first_ms,
        if o.comms > 1 {
            format!(", each further one {:.2} ms", lanes.further_ms)
        } else {
            String::new()
        }
    );
    println!(
        "# {:>12} {:>12} {:>7} {:>6} {:>11} {:>8} {:>8} {:>7} {:>7} {:>9} {:>9} {:>9}",
        "size",
        "count",
        "type",
        "redop",
        "time",
        "algbw",
        "busbw",
        "#wrong",
        "cpu",
        "p50",
        "p99",
        "max"
    );
    println!(
        "# {:>12} {:>12} {:>7} {:>6} {:>11} {:>8} {:>8} {:>7} {:>7} {:>9} {:>9} {:>9}",
        "(B)",
        "(elements)",
        "",
        "",
        "(us)",
        "(GB/s)",
        "(GB/s)",
        "",
        "(s/GB)",
        "(us)",
        "(us)",
        "(us)"
    );
}

impl Row {
    fn text(&self, job: &Job) -> String {
        let (kind, op, element) = kind(job.options.mode);
        format!(
            "  {:>12} {:>12} {kind:>7} {op:>6} {:>11.2} {:>8.3} {:>8.3} {:>7} {:>7.2} {:>9.1} {:>9.1} {:>9.1}",
            self.size,
            self.size / element,
            self.time_us,
            self.algbw_gb_s,
            self.busbw_gb_s,
            if job.options.check {
                self.wrong.to_string()
            } else {
                "N/A".to_owned()
            },
            self.cpu_s_per_gb,
            self.p50_us,
            self.p99_us,
            self.max_us,
        )
    }

    fn json(&self, job: &Job, lanes: &Lanes) -> String {
        let o = &job.options;
        let (kind, op, element) = kind(o.mode);
        format!(
            "{{\"event\":\"result\",\"mode\":\"{}\",\"oneway\":{},\"transport\":\"{}\",\"table\":{},\"ranks\":{},\"comms\":{},\"inflight\":{},\"group\":{},\"size\":{},\"count\":{},\"type\":\"{kind}\",\"redop\":\"{op}\",\"iterations\":{},\"seconds\":{:.6},\"time_us\":{:.3},\"algbw_gb_s\":{:.6},\"busbw_gb_s\":{:.6},\"busbw_gbit_s\":{:.6},\"wrong\":{},\"cpu_s_per_gb\":{:.4},\"p50_us\":{:.2},\"p99_us\":{:.2},\"max_us\":{:.2},\"longest_gap_ms\":{:.3},\"setup_first_ms\":{:.3},\"setup_further_ms\":{:.3}}}",
            o.mode.name(),
            o.oneway,
            job.net.name().replace(['"', '\\'], "_"),
            job.net.version(),
            job.world.size,
            o.comms,
            o.inflight,
            o.group,
            self.size,
            self.size / element,
            self.iterations,
            self.seconds,
            self.time_us,
            self.algbw_gb_s,
            self.busbw_gb_s,
            self.busbw_gb_s * 8.0,
            if o.check {
                self.wrong.to_string()
            } else {
                "null".to_owned()
            },
            self.cpu_s_per_gb,
            self.p50_us,
            self.p99_us,
            self.max_us,
            self.longest_gap_ms,
            lanes.first_ms,
            lanes.further_ms,
        )
    }
}
