//! The first thing a newcomer runs (`make demo`): two hosts, four ways of 500 Mb/s between them, and a
//! checked all-reduce through the plugin's C table, while one way is cut in the middle, silently, and
//! healed later. It shows each path as it goes, a table at the end, and draws the run as a picture.

#[path = "../net_perf/clock.rs"]
mod clock;
mod json;
mod live;
mod picture;
mod record;
mod stage;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use live::{Live, View};
use picture::{Mark, MarkKind, Panel};
use record::{Curve, Interval, Trace, between, carried, rates, time_to_reach, way_curve};
use stage::{Stage, WAY_MBPS, WAYS};

const HELP: &str = "\
demo: a checked all-reduce over four ways, one of which is cut in the middle and healed later

usage: demo --plugin SO --fabric lab/fabric.sh [options]

  --plugin SO       the net plugin, by its C table
  --nccl LIBNCCL    instead of a plugin: NCCL's own Socket transport, to compare
  --fabric SCRIPT   makes the network namespaces; needs root. Without permission: loopback
  --loopback        loopback at once, with the plugin's own fault injection
  --seconds S       length of the run, 9 to 50 (21); cut after a third, healed after two thirds
  --size BYTES      of the all-reduce (16M)
  --net-perf BIN    the program that the ranks run (beside this one)
  --picture FILE    where the picture goes (demo.svg beside the plugin)
Exit status: 0 when every element was right and nothing failed.";

struct Options {
    /// What the ranks are told to load.
    load: Vec<String>,
    transport: &'static str,
    fabric: Option<PathBuf>,
    seconds: f64,
    size: String,
    net_perf: PathBuf,
    picture: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "--sample-ways") {
        stage::sample_ways();
        return ExitCode::SUCCESS;
    }
    let outcome = match parse(&arguments) {
        Ok(Some(options)) => play(&options),
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(e) => Err(e),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Option<Options>, String> {
    let (mut plugin, mut nccl, mut fabric, mut loopback) = (None, None, None, false);
    let (mut net_perf, mut picture) = (None, None);
    let (mut seconds, mut size) = (21.0, "16M".to_owned());
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "-h" | "--help" => return Ok(None),
            "--plugin" => plugin = Some(PathBuf::from(value()?)),
            "--nccl" => nccl = Some(PathBuf::from(value()?)),
            "--fabric" => fabric = Some(PathBuf::from(value()?)),
            "--loopback" => loopback = true,
            "--net-perf" => net_perf = Some(PathBuf::from(value()?)),
            "--picture" => picture = Some(PathBuf::from(value()?)),
            "--size" => size.clone_from(value()?),
            "--seconds" => {
                let text = value()?;
                seconds = text
                    .parse()
                    .ok()
                    .filter(|s| (9.0..=50.0).contains(s))
                    .ok_or_else(|| format!("--seconds {text}: 9 to 50"))?;
            }
            other => return Err(format!("unknown option {other}: see --help")),
        }
    }
    let absolute = |path: &Path| {
        path.canonicalize()
            .map_err(|e| format!("{}: {e}: build it first", path.display()))
    };
    let (load, transport, loaded) = match (plugin, nccl) {
        (Some(so), None) => {
            let so = absolute(&so)?;
            let load = vec!["--plugin".to_owned(), so.display().to_string()];
            (load, "Thalweg", so)
        }
        (None, Some(nccl)) => {
            let nccl = absolute(&nccl)?;
            let load = vec![
                "--nccl".to_owned(),
                nccl.display().to_string(),
                "--builtin".to_owned(),
                "Socket".to_owned(),
            ];
            (load, "NCCL's Socket", nccl)
        }
        _ => return Err("name the plugin: --plugin SO (see --help)".to_owned()),
    };
    if fabric.is_none() && !loopback {
        return Err("name the fabric script: --fabric lab/fabric.sh, or --loopback".to_owned());
    }
    let net_perf = match net_perf {
        Some(path) => path,
        None => env::current_exe()
            .map_err(|e| e.to_string())?
            .with_file_name("net_perf"),
    };
    Ok(Some(Options {
        load,
        transport,
        fabric: fabric.filter(|_| !loopback),
        seconds,
        size,
        net_perf: absolute(&net_perf)?,
        picture: picture.unwrap_or_else(|| loaded.with_file_name("demo.svg")),
    }))
}

/// Fences that the table names; the rest are counted.
const DEEDS_SHOWN: usize = 16;

/// A directory that goes away with its value.
struct WorkDir(PathBuf);

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Children that end with their value.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Everything that was seen.
struct Run {
    intervals: Vec<Interval>,
    trace: Trace,
    start_ms: f64,
    cut: Option<(f64, usize)>,
    heal_ms: Option<f64>,
    /// Of the last line of rank 0, which counts both ranks.
    wrong: Option<u64>,
    failed: bool,
}

fn play(options: &Options) -> Result<bool, String> {
    let work_dir = env::temp_dir().join(format!("thalweg-demo-{}", std::process::id()));
    fs::create_dir_all(&work_dir).map_err(|e| format!("{}: {e}", work_dir.display()))?;
    let work_dir = WorkDir(work_dir);
    let mut stage = Stage::make(options.fabric.as_deref(), &work_dir.0)?;
    match &stage {
        Stage::Fabric(_) => println!(
            "Two hosts in network namespaces, {WAYS} ways of {WAY_MBPS} Mb/s between them; \
             all-reduce of {} through {}, every element checked.",
            options.size, options.transport
        ),
        Stage::Loopback(loopback) => println!(
            "No fabric here ({}): loopback instead, {WAYS} paths of {WAY_MBPS} Mb/s, cut and \
             healed by the plugin's own fault injection. Run as root to see real ways fail.",
            loopback.why
        ),
    }
    let ways_before = stage.way_bytes();
    stage.watch(&env::current_exe().map_err(|e| e.to_string())?)?;
    let run = direct(options, &stage, &work_dir.0)?;
    let ways_after = stage.way_bytes();
    let samples = stage.samples();
    drop(stage);
    let way_bytes = ways_before.zip(ways_after).map(|(before, after)| {
        let moved = before.iter().zip(&after);
        moved
            .map(|(b, a)| (a.0.saturating_sub(b.0), a.1.saturating_sub(b.1)))
            .collect::<Vec<_>>()
    });
    print_table(options, &run, way_bytes.as_deref());
    let svg = paint(options, &run, &samples);
    fs::write(&options.picture, svg).map_err(|e| format!("{}: {e}", options.picture.display()))?;
    println!("\nPicture: {}", options.picture.display());
    Ok(!run.failed && run.wrong == Some(0))
}

/// Starts the ranks, cuts, heals, and looks on until the ranks are done.
fn direct(options: &Options, stage: &Stage, work_dir: &Path) -> Result<Run, String> {
    /// Beyond the planned time: set-up, warm-up, and what a transport that stands still is given.
    const GRACE_S: f64 = 25.0;
    let (mut ranks, lines) = start_ranks(options, stage, work_dir)?;
    let began = Instant::now();
    let (cut_after_ms, heal_after_ms) = (options.seconds * 1e3 / 3.0, options.seconds * 2e3 / 3.0);
    let mut live = Live::new();
    let mut run = Run {
        intervals: Vec::new(),
        trace: Trace::new(work_dir.join("trace-0")),
        start_ms: clock::monotonic_ms(),
        cut: None,
        heal_ms: None,
        wrong: None,
        failed: false,
    };
    loop {
        for line in lines.try_iter() {
            let Some(value) = json::parse(&line) else {
                continue;
            };
            if let Some(interval) = Interval::read(&value) {
                if run.intervals.is_empty() {
                    run.start_ms = interval.t_ms - interval.length_ms;
                }
                run.intervals.push(interval);
            } else if value.text("event") == Some("result") {
                run.wrong = value.count("wrong");
            }
        }
        run.trace.read_more();
        let now_ms = clock::monotonic_ms();
        let ran_ms = now_ms - run.start_ms;
        let samples = stage.samples();
        if !run.intervals.is_empty() {
            if run.cut.is_none() && ran_ms >= cut_after_ms {
                let way = busiest(&samples, &run.trace);
                stage.cut(way)?;
                run.cut = Some((clock::monotonic_ms(), way));
                live.say(&format!(
                    "{:5.1} s  way {way} is cut, silently, in both directions",
                    ran_ms / 1e3
                ));
            }
            if let (Some((_, way)), None) = (run.cut, run.heal_ms)
                && ran_ms >= heal_after_ms
            {
                stage.heal(way)?;
                run.heal_ms = Some(clock::monotonic_ms());
                live.say(&format!("{:5.1} s  way {way} is healed", ran_ms / 1e3));
            }
            live.draw(&View {
                t_ms: now_ms,
                since_start_s: ran_ms / 1e3,
                latest: run.intervals.last(),
                trace: &run.trace,
                samples: &samples,
                cut_way: run
                    .cut
                    .filter(|_| run.heal_ms.is_none())
                    .map(|(_, way)| way),
            });
        }
        let mut alive = 0;
        for (rank, child) in ranks.0.iter_mut().enumerate() {
            match child.try_wait() {
                Ok(None) => alive += 1,
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) => {
                    if !run.failed {
                        live.say(&format!(
                            "demo: rank {rank} failed ({status}): see its line above"
                        ));
                    }
                    run.failed = true;
                }
                Err(e) => return Err(format!("lost rank {rank}: {e}")),
            }
        }
        // A failed rank cannot be waited for; a finished run has said its last line.
        if alive == 0 || run.failed {
            if run.wrong.is_none() {
                run.wrong = lines
                    .iter()
                    .filter_map(|line| json::parse(&line))
                    .find(|v| v.text("event") == Some("result"))
                    .and_then(|v| v.count("wrong"));
            }
            break;
        }
        if began.elapsed().as_secs_f64() > options.seconds + GRACE_S {
            live.say("demo: the ranks did not come to an end: stopped");
            run.failed = true;
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    run.trace.read_more();
    Ok(run)
}

/// The ranks, one per host, and the lines of rank 0.
fn start_ranks(
    options: &Options,
    stage: &Stage,
    work_dir: &Path,
) -> Result<(Ranks, mpsc::Receiver<String>), String> {
    let mut ranks = Ranks(Vec::new());
    let (sender, lines) = mpsc::channel();
    for rank in 0..2 {
        let mut command = stage.command(rank, &options.net_perf);
        command
            .arg("allreduce")
            .args(&options.load)
            .args(["-b", &options.size, "-w", "2", "--check", "--json"])
            .args(["--seconds", &options.seconds.to_string()])
            .args(["--report", "100", "--timeout", "15"])
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", "2")
            // Not through the network that is going to be cut.
            .env(
                "MASTER_ADDR",
                format!("unix:{}", work_dir.join("meet").display()),
            )
            .env("THALWEG_TRACE_FILE", work_dir.join(format!("trace-{rank}")))
            .env("THALWEG_TRACE_MS", "100")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|e| format!("cannot start rank {rank}: {e}"))?;
        let output = child.stdout.take();
        ranks.0.push(child);
        if let (0, Some(output)) = (rank, output) {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
    }
    Ok((ranks, lines))
}

/// The one whose loss is felt most: the way of the fabric that carries most, or on loopback, where
/// faults are the library's paths', the path that does.
fn busiest(samples: &[stage::Sample], trace: &Trace) -> usize {
    let mut loads: Vec<(usize, f64)> = if samples.is_empty() {
        let paths = trace.paths.iter();
        paths
            .filter_map(|((_, number), points)| {
                Some((usize::try_from(*number).ok()?, live::recent_of_path(points)))
            })
            .collect()
    } else {
        (0..WAYS)
            .map(|way| (way, live::recent(samples, way)))
            .collect()
    };
    loads.sort_by(|a, b| a.1.total_cmp(&b.1));
    loads.last().map_or(0, |&(number, _)| number)
}

/// When the run's parts begin and end: before, during and after the cut.
fn parts(run: &Run) -> [(&'static str, f64, f64); 3] {
    /// The first second belongs to the search for paths.
    const SETTLING_MS: f64 = 1000.0;
    let end = run.intervals.last().map_or(run.start_ms, |i| i.t_ms);
    let cut = run.cut.map_or(end, |(t, _)| t);
    let heal = run.heal_ms.unwrap_or(end);
    [
        ("before", run.start_ms + SETTLING_MS, cut),
        ("during", cut, heal),
        ("after", heal, end),
    ]
}

/// What so many ways carry together.
fn capacity_gbit_s(ways: usize) -> f64 {
    f64::from(WAY_MBPS) * 1e-3 * f64::from(u32::try_from(ways).unwrap_or(0))
}

fn print_table(options: &Options, run: &Run, way_bytes: Option<&[(u64, u64)]>) {
    println!(
        "\n{:<38} {:>12} {:>14}",
        options.transport, "goodput", "longest gap"
    );
    let spans = parts(run);
    for (name, from, to) in spans {
        let (gbit_s, gap_ms) = between(&run.intervals, from, to);
        let words = match name {
            "before" => "before the cut",
            "during" => "one way cut",
            _ => "after it was healed",
        };
        println!("  {words:<36} {gbit_s:>7.2} Gb/s {gap_ms:>11.0} ms");
    }
    let before = between(&run.intervals, spans[0].1, spans[0].2).0;
    let reached = |(_, from, to): (&str, f64, f64), wanted: f64| {
        time_to_reach(&run.intervals, from, to, wanted)
            .map_or("not reached".to_owned(), |ms| format!("after {ms:.0} ms"))
    };
    if run.cut.is_some() {
        let wanted = capacity_gbit_s(WAYS - 1) * 0.9;
        let what = format!("{wanted:.2} Gb/s (0.9 of {} ways) again", WAYS - 1);
        println!("  {what:<36} {:>27}", reached(spans[1], wanted));
    }
    if run.heal_ms.is_some() {
        let wanted = before * 0.9;
        let what = format!("{wanted:.2} Gb/s (0.9 of before) again");
        println!("  {what:<36} {:>27}", reached(spans[2], wanted));
    }
    let mut total_gap = 0.0_f64;
    for i in &run.intervals {
        total_gap = total_gap.max(i.longest_gap_ms);
    }
    println!(
        "  whole run: {} all-reduces, longest gap {total_gap:.0} ms, {}",
        run.intervals.last().map_or(0, |i| i.iterations),
        match run.wrong {
            Some(wrong) => format!("{wrong} wrong"),
            None => "not finished".to_owned(),
        }
    );
    if run.trace.paths.is_empty() {
        println!("\n(no line per path: this transport writes no trace)");
    } else {
        println!(
            "\n  paths of the library, rank 0 sending {:>17} {:>10}",
            "bytes", "last state"
        );
        for ((link, number), points) in &run.trace.paths {
            let Some(last) = points.last() else { continue };
            println!(
                "    {number:<2} {link:<26} port {:<5} {:>12} {:>10}",
                last.port,
                megabytes(carried(points)),
                last.state
            );
        }
        print_deeds(run);
    }
    if let Some(ways) = way_bytes {
        println!(
            "\n  ways of the fabric, by its own counters {:>14} {:>14}",
            "a to b", "b to a"
        );
        for (way, (there, back)) in ways.iter().enumerate() {
            let note = match run.cut {
                Some((_, cut)) if cut == way => "  (was cut)",
                _ => "",
            };
            println!(
                "    {way:<38} {:>12} {:>14}{note}",
                megabytes(*there),
                megabytes(*back)
            );
        }
    }
}

/// How often the plugin did what, and its fences one by one.
fn print_deeds(run: &Run) {
    let mut counts = BTreeMap::new();
    for deed in &run.trace.deeds {
        *counts.entry(deed.kind.as_str()).or_insert(0) += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(k, n)| format!("{n} {k}")).collect();
    if !counts.is_empty() {
        println!("    what rank 0 did to its paths: {}", counts.join(", "));
    }
    let fences: Vec<_> = run.trace.deeds.iter().filter(|d| d.is_fence()).collect();
    for deed in fences.iter().take(DEEDS_SHOWN) {
        println!(
            "      {:6.2} s  {}",
            (deed.t_ms - run.start_ms) / 1e3,
            deed.text
        );
    }
    let more = fences.len().saturating_sub(DEEDS_SHOWN);
    if more > 0 {
        println!("      and {more} more fences");
    }
}

#[allow(clippy::cast_precision_loss, reason = "an amount to be shown")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 * 1e-6)
}

fn paint(options: &Options, run: &Run, samples: &[stage::Sample]) -> String {
    let end_ms = run.intervals.last().map_or(run.start_ms, |i| i.t_ms);
    let shift = |curve: Curve| -> Curve {
        let start = run.start_ms;
        curve.into_iter().map(|(t, v)| (t - start, v)).collect()
    };
    let capacity_gbit_s = capacity_gbit_s(WAYS);
    let goodput: Curve = run.intervals.iter().map(|i| (i.t_ms, i.gbit_s)).collect();
    let mut panels = Vec::new();
    let mut layers = Vec::new();
    for ((_, number), points) in &run.trace.paths {
        let curve = rates(points.iter().map(|p| (p.t_ms, p.bytes)));
        layers.push((format!("path {number}"), shift(curve)));
    }
    panels.push(Panel {
        title: if layers.is_empty() {
            "What arrived at rank 0".to_owned()
        } else {
            "The library's paths, rank 0 sending (stacked), and what arrived".to_owned()
        },
        layers,
        line: Some(("all-reduce goodput".to_owned(), shift(goodput))),
        capacity_gbit_s,
    });
    if !samples.is_empty() {
        panels.push(Panel {
            title:
                "The ways of the fabric, host a to host b, by the fabric's own counters (stacked)"
                    .to_owned(),
            layers: (0..WAYS)
                .map(|way| (format!("way {way}"), shift(way_curve(samples, 1, way))))
                .collect(),
            line: None,
            capacity_gbit_s,
        });
    }
    let mut marks = Vec::new();
    if let Some((t, way)) = run.cut {
        marks.push(Mark {
            t_ms: t - run.start_ms,
            text: format!("way {way} cut"),
            kind: MarkKind::Cut,
        });
    }
    if let (Some(t), Some((_, way))) = (run.heal_ms, run.cut) {
        marks.push(Mark {
            t_ms: t - run.start_ms,
            text: format!("way {way} healed"),
            kind: MarkKind::Heal,
        });
    }
    for deed in run.trace.deeds.iter().filter(|d| d.is_fence()) {
        marks.push(Mark {
            t_ms: deed.t_ms - run.start_ms,
            text: deed.text.clone(),
            kind: MarkKind::Fence,
        });
    }
    let subtitle = format!(
        "all-reduce of {}, 2 ranks, every element checked: {}; {WAYS} ways of {WAY_MBPS} Mb/s{}",
        options.size,
        match run.wrong {
            Some(wrong) => format!("{wrong} wrong"),
            None => "not finished".to_owned(),
        },
        if samples.is_empty() {
            " (loopback)"
        } else {
            ""
        }
    );
    picture::draw(
        &format!("{}: one way lost in the middle of a run", options.transport),
        &subtitle,
        &panels,
        &marks,
        0.0,
        end_ms - run.start_ms,
    )
}
