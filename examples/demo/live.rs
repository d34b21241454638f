//! What is shown while the run goes on: on a terminal a block that is redrawn in place, one line per
//! path; elsewhere a line now and then.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use crate::record::{Interval, Point, Trace, rates, way_curve};
use crate::stage::{Sample, WAY_MBPS, WAYS};

/// Draws the present state.
pub struct Live {
    in_place: bool,
    /// Lines of the block that stands on the terminal.
    drawn: usize,
    last_line_ms: f64,
}

/// What there is to show.
pub struct View<'a> {
    pub t_ms: f64,
    pub since_start_s: f64,
    pub latest: Option<&'a Interval>,
    pub trace: &'a Trace,
    pub samples: &'a [Sample],
    pub cut_way: Option<usize>,
}

impl Live {
    pub fn new() -> Self {
        Self {
            in_place: std::io::stdout().is_terminal(),
            drawn: 0,
            last_line_ms: 0.0,
        }
    }

    /// How often it is worth calling [`Self::draw`], in milliseconds.
    pub fn period_ms(&self) -> f64 {
        if self.in_place { 200.0 } else { 2000.0 }
    }

    pub fn draw(&mut self, view: &View<'_>) {
        if view.t_ms - self.last_line_ms < self.period_ms() {
            return;
        }
        self.last_line_ms = view.t_ms;
        let lines = lines(view);
        let mut out = String::new();
        if self.in_place {
            if self.drawn > 0 {
                let _ = write!(out, "\x1b[{}A", self.drawn);
            }
            for line in &lines {
                let _ = writeln!(out, "{line}\x1b[K");
            }
            // A block that became shorter leaves nothing of the longer one.
            out.push_str("\x1b[J");
            self.drawn = lines.len();
        } else {
            for line in &lines {
                let _ = writeln!(out, "{line}");
            }
        }
        let mut stdout = std::io::stdout();
        let _ = stdout
            .write_all(out.as_bytes())
            .and_then(|()| stdout.flush());
    }

    /// Something that shall stay readable above the block.
    pub fn say(&mut self, text: &str) {
        if self.in_place && self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
        println!("{text}");
    }
}

fn lines(view: &View<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let (gbit_s, iterations, wrong) = view
        .latest
        .map_or((0.0, 0, 0), |i| (i.gbit_s, i.iterations, i.wrong));
    lines.push(format!(
        "{:5.1} s  all-reduce {gbit_s:4.2} Gb/s  {iterations} done, {wrong} wrong{}",
        view.since_start_s,
        view.cut_way
            .map_or(String::new(), |w| format!("  << way {w} is cut >>"))
    ));
    for ((_, number), points) in &view.trace.paths {
        let Some(last) = points.last() else { continue };
        let rate = recent_of_path(points);
        lines.push(format!(
            "         path {number:<2} port {:<5} {:<8} {} {rate:4.2} Gb/s  {:6.0} us",
            last.port,
            last.state,
            bar(rate),
            last.rtt_us
        ));
    }
    if view.trace.paths.is_empty() && !view.samples.is_empty() {
        for way in 0..WAYS {
            let rate = recent(view.samples, way);
            let state = if view.cut_way == Some(way) {
                "cut"
            } else {
                "up"
            };
            lines.push(format!(
                "         way {way}  {state:<4} {} {rate:4.2} Gb/s",
                bar(rate)
            ));
        }
    } else if !view.samples.is_empty() {
        let ways: Vec<String> = (0..WAYS)
            .map(|way| {
                let note = if view.cut_way == Some(way) {
                    " (cut)"
                } else {
                    ""
                };
                format!("{way}: {:.2}{note}", recent(view.samples, way))
            })
            .collect();
        lines.push(format!(
            "         ways of the fabric, Gb/s  {}",
            ways.join("   ")
        ));
    }
    lines
}

/// What a way carried towards host b during the last half second.
pub fn recent(samples: &[Sample], way: usize) -> f64 {
    let tail = &samples[samples.len().saturating_sub(2 * WAYS * 6)..];
    mean(&way_curve(tail, 1, way))
}

/// What a path sent during the last half second.
pub fn recent_of_path(points: &[Point]) -> f64 {
    let tail = &points[points.len().saturating_sub(6)..];
    mean(&rates(tail.iter().map(|p| (p.t_ms, p.bytes))))
}

fn mean(curve: &[(f64, f64)]) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "few points")]
    let count = curve.len().max(1) as f64;
    curve.iter().fold(0.0, |sum, (_, v)| sum + v) / count
}

/// A bar that is full at a way's rate.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a length between 0 and 20"
)]
fn bar(gbit_s: f64) -> String {
    const LENGTH: usize = 20;
    let share = (gbit_s / (f64::from(WAY_MBPS) * 1e-3)).clamp(0.0, 1.0);
    let full = (share * 20.0).round() as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(LENGTH - full))
}
