//! A progress bar on standard error while something runs, if anybody can see it.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sim::scenario::Glimpse;

/// Drawn no more often.
const REDRAW: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

/// The bar of several runs, some of them at the same time.
#[derive(Debug)]
pub(super) struct Bar {
    visible: bool,
    jobs: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    drawn: Instant,
    /// Shares of a million of each job.
    done: Vec<u64>,
}

impl Bar {
    pub(super) fn new(jobs: usize) -> Self {
        Self {
            visible: std::io::stderr().is_terminal(),
            jobs,
            state: Mutex::new(State {
                drawn: Instant::now(),
                done: vec![0; jobs],
            }),
        }
    }

    /// A job has come so far.
    pub(super) fn show(&self, job: usize, glimpse: Glimpse) {
        if !self.visible {
            return;
        }
        let ended = (glimpse.flows - glimpse.open.min(glimpse.flows)) as u64;
        let share = ended * 1_000_000 / (glimpse.flows.max(1) as u64);
        self.update(job, share, &format!("at {}", glimpse.now));
    }

    /// A job is done.
    pub(super) fn finish(&self, job: usize) {
        if self.visible {
            self.update(job, 1_000_000, "");
        }
    }

    fn update(&self, job: usize, share: u64, note: &str) {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.done[job] = share;
        if state.drawn.elapsed() < REDRAW {
            return;
        }
        state.drawn = Instant::now();
        let all: u64 = state.done.iter().sum();
        let total = 1_000_000 * self.jobs.max(1) as u64;
        let full = usize::try_from(all * WIDTH as u64 / total)
            .unwrap_or(0)
            .min(WIDTH);
        let runs = state
            .done
            .iter()
            .filter(|&&share| share == 1_000_000)
            .count();
        let line = format!(
            "\r[{}{}] {:3} %  {runs} of {} runs  {note:<16}",
            "=".repeat(full),
            " ".repeat(WIDTH - full),
            all * 100 / total,
            self.jobs,
        );
        // What cannot be drawn is not missed.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.visible {
            let _ = write!(std::io::stderr(), "\r{:79}\r", "");
        }
    }
}
