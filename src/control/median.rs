//! The median of recent samples of all paths: a few bad paths do not move it.

const SAMPLES: usize = 16;

/// The last few samples.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Median {
    samples: [u64; SAMPLES],
    filled: usize,
    next: usize,
}

impl Median {
    /// Adds a sample; the oldest is forgotten.
    pub(crate) fn push(&mut self, sample: u64) {
        self.samples[self.next] = sample;
        self.next = (self.next + 1) % SAMPLES;
        self.filled = (self.filled + 1).min(SAMPLES);
    }

    /// The upper median of what there is; 0 of nothing.
    pub(crate) fn get(&self) -> u64 {
        let mut recent = self.samples;
        let recent = &mut recent[..self.filled];
        recent.sort_unstable();
        recent.get(recent.len() / 2).copied().unwrap_or(0)
    }
}
