//! What was seen during the run, from three witnesses: the ranks (goodput, gaps, wrong elements), the
//! plugin's own trace (its paths and what it did to them), and the fabric's counters.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::json::{self, Value};
use crate::stage::Sample;

/// A line of rank 0.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    pub t_ms: f64,
    pub length_ms: f64,
    /// What rank 0 received; the ring sends as much.
    pub gbit_s: f64,
    pub longest_gap_ms: f64,
    pub iterations: u64,
    pub wrong: u64,
}

impl Interval {
    pub fn read(line: &Value) -> Option<Self> {
        (line.text("event") == Some("interval")).then_some(())?;
        Some(Self {
            t_ms: line.number("t_ms")?,
            length_ms: line.number("interval_ms")?,
            gbit_s: line.number("received_gbit_s")?,
            longest_gap_ms: line.number("longest_gap_ms")?,
            iterations: line.count("iterations")?,
            wrong: line.count("wrong")?,
        })
    }
}

/// What the plugin said of a path at some time.
#[derive(Clone, Debug)]
pub struct Point {
    pub t_ms: f64,
    pub bytes: u64,
    pub port: u64,
    pub state: String,
    pub rtt_us: f64,
}

/// What the plugin did.
#[derive(Clone, Debug)]
pub struct Deed {
    pub t_ms: f64,
    /// Its kind: `fence`, `join`, …
    pub kind: String,
    pub text: String,
}

/// A path of rank 0 that sends: its link and number.
pub type PathKey = (String, u64);

/// Reads the trace file of a rank as it grows.
pub struct Trace {
    file: PathBuf,
    open: Option<File>,
    unfinished: Vec<u8>,
    pub paths: BTreeMap<PathKey, Vec<Point>>,
    pub deeds: Vec<Deed>,
}

impl Deed {
    pub fn is_fence(&self) -> bool {
        self.kind == "path-fenced"
    }
}

impl Trace {
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            open: None,
            unfinished: Vec::new(),
            paths: BTreeMap::new(),
            deeds: Vec::new(),
        }
    }

    /// Takes in what has been added; a file that is not there yet is no error.
    pub fn read_more(&mut self) {
        if self.open.is_none() {
            self.open = File::open(&self.file).ok();
        }
        let Some(file) = &mut self.open else { return };
        let mut new = Vec::new();
        if file.read_to_end(&mut new).is_err() {
            return;
        }
        self.unfinished.extend_from_slice(&new);
        let Some(end) = self.unfinished.iter().rposition(|&b| b == b'\n') else {
            return;
        };
        let rest = self.unfinished.split_off(end + 1);
        let whole = std::mem::replace(&mut self.unfinished, rest);
        for line in String::from_utf8_lossy(&whole).lines() {
            if let Some(value) = json::parse(line) {
                self.take(&value);
            }
        }
    }

    fn take(&mut self, entry: &Value) -> Option<()> {
        let t_ms = entry.number("t_ms")?;
        let link = entry.text("link").unwrap_or_default();
        if let Some(event) = entry.text("event") {
            let path = entry.count("path");
            let which = path.map_or(String::new(), |p| format!(" path {p}"));
            let reason = entry
                .text("reason")
                .map_or(String::new(), |r| format!(": {r}"));
            self.deeds.push(Deed {
                t_ms,
                text: format!("{event}{which}{reason}"),
                kind: event.to_owned(),
            });
            return Some(());
        }
        if entry.text("role") != Some("tx") {
            return None;
        }
        let point = Point {
            t_ms,
            bytes: entry.count("bytes")?,
            port: entry.count("port").unwrap_or(0),
            state: entry.text("state").unwrap_or("?").to_owned(),
            rtt_us: entry.number("rtt_us").unwrap_or(0.0),
        };
        let key = (link.to_owned(), entry.count("path")?);
        self.paths.entry(key).or_default().push(point);
        Some(())
    }
}

/// A curve: time in milliseconds, and Gb/s at that time.
pub type Curve = Vec<(f64, f64)>;

/// Rates between counter readings; a counter that falls has begun anew.
pub fn rates(readings: impl Iterator<Item = (f64, u64)>) -> Curve {
    let mut curve = Curve::new();
    let mut before: Option<(f64, u64)> = None;
    for (t_ms, bytes) in readings {
        if let Some((t0, b0)) = before {
            if t_ms - t0 < 1.0 {
                continue;
            }
            let moved = bytes.checked_sub(b0).unwrap_or(bytes);
            curve.push((t_ms, gbit_s(moved, t_ms - t0)));
        }
        before = Some((t_ms, bytes));
    }
    curve
}

#[allow(clippy::cast_precision_loss, reason = "a rate to be shown")]
pub fn gbit_s(bytes: u64, ms: f64) -> f64 {
    bytes as f64 * 8e-6 / ms
}

/// Bytes that a path has carried in all, also when it was made anew in between.
pub fn carried(points: &[Point]) -> u64 {
    let mut sum = 0;
    let mut before = 0;
    for point in points {
        sum += point.bytes.checked_sub(before).unwrap_or(point.bytes);
        before = point.bytes;
    }
    sum
}

/// What a way carried towards a host over time.
pub fn way_curve(samples: &[Sample], host: usize, way: usize) -> Curve {
    rates(
        samples
            .iter()
            .filter(|s| s.host == host && s.way == way)
            .map(|s| (s.t_ms, s.bytes)),
    )
}

/// Goodput and longest gap between two times, in Gb/s and milliseconds.
pub fn between(intervals: &[Interval], from_ms: f64, to_ms: f64) -> (f64, f64) {
    let (mut moved, mut ms, mut gap) = (0.0, 0.0, 0.0_f64);
    for i in intervals {
        let begin = i.t_ms - i.length_ms;
        let share = (i.t_ms.min(to_ms) - begin.max(from_ms)).max(0.0);
        moved += i.gbit_s * share;
        ms += share;
        // A gap is told at its end, so an interval counts where it ends.
        if i.t_ms > from_ms && i.t_ms <= to_ms {
            // One that began before belongs here with its part only.
            gap = gap.max(i.longest_gap_ms.min(i.t_ms - from_ms));
        }
    }
    (if ms > 0.0 { moved / ms } else { 0.0 }, gap)
}

/// Milliseconds after `from_ms` until the goodput over half a second, which must end before `to_ms`,
/// is at least `wanted`.
pub fn time_to_reach(
    intervals: &[Interval],
    from_ms: f64,
    to_ms: f64,
    wanted_gbit_s: f64,
) -> Option<f64> {
    const WINDOW_MS: f64 = 500.0;
    intervals
        .iter()
        .filter(|i| i.t_ms - WINDOW_MS >= from_ms && i.t_ms <= to_ms)
        .find(|i| between(intervals, i.t_ms - WINDOW_MS, i.t_ms).0 >= wanted_gbit_s)
        .map(|i| i.t_ms - WINDOW_MS - from_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(gbit_s: f64, t_ms: f64) -> Interval {
        Interval {
            t_ms,
            length_ms: 100.0,
            gbit_s,
            longest_gap_ms: gbit_s,
            iterations: 0,
            wrong: 0,
        }
    }

    #[test]
    fn windows_and_recovery() {
        let line: Vec<Interval> = (1..=30)
            .map(|i| {
                steady(
                    if (11..=20).contains(&i) { 1.0 } else { 2.0 },
                    f64::from(i) * 100.0,
                )
            })
            .collect();
        assert!((between(&line, 0.0, 1000.0).0 - 2.0).abs() < 1e-9);
        assert!((between(&line, 950.0, 2050.0).0 - 12.0 / 11.0).abs() < 1e-9);
        assert!((between(&line, 1000.0, 2000.0).1 - 1.0).abs() < 1e-9);
        assert_eq!(time_to_reach(&line, 2000.0, 3000.0, 1.9), Some(0.0));
        assert_eq!(time_to_reach(&line, 1000.0, 3000.0, 1.9), Some(1000.0));
        assert_eq!(time_to_reach(&line, 1000.0, 2000.0, 1.9), None);
    }

    #[test]
    fn counters_that_begin_anew() {
        let curve = rates([(0.0, 0), (100.0, 1_000_000), (200.0, 500_000)].into_iter());
        assert!((curve[0].1 - 0.08).abs() < 1e-9 && (curve[1].1 - 0.04).abs() < 1e-9);
    }
}
