//! What is counted while a run goes on: bytes, the longest time without a completion, latencies;
//! and the two ways in which it shows: a progress line for people, lines of JSON for programs.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::clock;

/// Latencies in nanoseconds, in buckets of at most 1/32 of their value.
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max_ns: u64,
}

const SUB_BITS: u32 = 5;

impl Histogram {
    pub fn new() -> Self {
        Self {
            buckets: vec![0; (64 - SUB_BITS as usize + 1) << SUB_BITS],
            count: 0,
            max_ns: 0,
        }
    }

    pub fn add(&mut self, value: Duration) {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[Self::bucket(ns)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    fn bucket(ns: u64) -> usize {
        if ns < 1 << SUB_BITS {
            return usize::try_from(ns).unwrap_or(0);
        }
        let shift = ns.ilog2() - SUB_BITS;
        let sub = usize::try_from(ns >> shift).unwrap_or(0) & ((1 << SUB_BITS) - 1);
        ((shift as usize + 1) << SUB_BITS) + sub
    }

    /// Middle of a bucket, in microseconds.
    #[allow(clippy::cast_precision_loss, reason = "a latency to be shown")]
    fn value_us(bucket: usize) -> f64 {
        let (high, sub) = (bucket >> SUB_BITS, (bucket & ((1 << SUB_BITS) - 1)) as f64);
        if high == 0 {
            return sub * 1e-3;
        }
        let width = (1u64 << (high - 1)) as f64;
        (f64::from(1 << SUB_BITS) + sub + 0.5) * width * 1e-3
    }

    /// The value below which `share` of all lie, in microseconds; 0 when there are none.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among counts"
    )]
    pub fn quantile_us(&self, share: f64) -> f64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return Self::value_us(i);
            }
        }
        0.0
    }

    #[allow(clippy::cast_precision_loss, reason = "a latency to be shown")]
    pub fn max_us(&self) -> f64 {
        self.max_ns as f64 * 1e-3
    }
}

/// Where and how often a running measurement shows itself.
#[derive(Clone)]
pub struct Display {
    /// A line of JSON this often.
    pub report: Option<Duration>,
    /// A line that is overwritten, on a terminal.
    pub progress: bool,
    /// What is being measured.
    pub title: String,
    /// This process's rank.
    pub rank: usize,
}

impl Display {
    /// Where a program reads along there is no line for people.
    pub fn new(rank: usize, report: Option<Duration>, json: bool, title: String) -> Self {
        Self {
            report: report.filter(|_| rank == 0),
            progress: rank == 0 && !json && report.is_none() && std::io::stderr().is_terminal(),
            title,
            rank,
        }
    }
}

/// Counts of one run.
pub struct Meter {
    display: Display,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub iterations: u64,
    /// Bytes, or elements of an all-reduce.
    pub wrong: u64,
    pub latency: Histogram,
    /// Of a ping-pong.
    pub half_round_trips: Histogram,
    pub longest_gap: Duration,
    last_completion: Instant,
    interval: Interval,
    last_progress: Instant,
    progress_bytes: u64,
    began: Instant,
}

/// Since the last line of JSON.
struct Interval {
    began: Instant,
    sent_bytes: u64,
    received_bytes: u64,
    longest_gap: Duration,
}

impl Meter {
    pub fn new(display: Display) -> Self {
        let now = Instant::now();
        Self {
            display,
            sent_bytes: 0,
            received_bytes: 0,
            iterations: 0,
            wrong: 0,
            latency: Histogram::new(),
            half_round_trips: Histogram::new(),
            longest_gap: Duration::ZERO,
            last_completion: now,
            interval: Interval {
                began: now,
                sent_bytes: 0,
                received_bytes: 0,
                longest_gap: Duration::ZERO,
            },
            last_progress: now,
            progress_bytes: 0,
            began: now,
        }
    }

    /// A request was completed.
    pub fn completed(&mut self, now: Instant, sent: usize, received: usize) {
        let gap = now.saturating_duration_since(self.last_completion);
        self.longest_gap = self.longest_gap.max(gap);
        self.interval.longest_gap = self.interval.longest_gap.max(gap);
        self.last_completion = now;
        self.sent_bytes += sent as u64;
        self.received_bytes += received as u64;
    }

    /// Shows what is due.
    pub fn tick(&mut self, now: Instant) {
        const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
        if let Some(period) = self.display.report
            && now.saturating_duration_since(self.interval.began) >= period
        {
            self.report(now);
        }
        if self.display.progress
            && now.saturating_duration_since(self.last_progress) >= PROGRESS_PERIOD
        {
            let bytes = self.sent_bytes + self.received_bytes;
            let s = now
                .saturating_duration_since(self.last_progress)
                .as_secs_f64();
            let _ = write!(
                std::io::stderr(),
                "\r{}: iteration {}, {:.2} Gb/s, {:.1} s \x1b[K",
                self.display.title,
                self.iterations,
                gigabits(bytes - self.progress_bytes, s),
                now.saturating_duration_since(self.began).as_secs_f64(),
            );
            self.last_progress = now;
            self.progress_bytes = bytes;
        }
    }

    /// One line of JSON about the time since the last one. The gap counts to the present moment: a
    /// standstill shows while it lasts.
    fn report(&mut self, now: Instant) {
        let s = now
            .saturating_duration_since(self.interval.began)
            .as_secs_f64();
        let open = now.saturating_duration_since(self.last_completion);
        let line = format!(
            "{{\"event\":\"interval\",\"t_ms\":{:.1},\"rank\":{},\"interval_ms\":{:.1},\"sent_bytes\":{},\"received_bytes\":{},\"sent_gbit_s\":{:.4},\"received_gbit_s\":{:.4},\"longest_gap_ms\":{:.2},\"iterations\":{},\"wrong\":{}}}",
            clock::monotonic_ms(),
            self.display.rank,
            s * 1e3,
            self.sent_bytes,
            self.received_bytes,
            gigabits(self.sent_bytes - self.interval.sent_bytes, s),
            gigabits(self.received_bytes - self.interval.received_bytes, s),
            self.interval.longest_gap.max(open).as_secs_f64() * 1e3,
            self.iterations,
            self.wrong,
        );
        // A reader that went away is no reason to end a measurement.
        let _ = writeln!(std::io::stdout(), "{line}");
        self.interval = Interval {
            began: now,
            sent_bytes: self.sent_bytes,
            received_bytes: self.received_bytes,
            longest_gap: Duration::ZERO,
        };
    }

    /// The last line, and the progress line wiped.
    pub fn finish(&mut self) {
        let now = Instant::now();
        if self.display.report.is_some() && now > self.interval.began {
            self.report(now);
        }
        if self.display.progress {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate to be shown")]
fn gigabits(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        bytes as f64 * 8e-9 / seconds
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut h = Histogram::new();
        assert_eq!(h.quantile_us(0.5).to_bits(), 0.0_f64.to_bits());
        for us in 1..=1000 {
            h.add(Duration::from_micros(us));
        }
        for (share, us) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let got = h.quantile_us(share);
            assert!((got - us).abs() / us < 0.04, "{share}: {got}");
        }
        assert!((h.max_us() - 1000.0).abs() < 1e-9);
    }
}
