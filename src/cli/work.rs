//! Work on all cores whose result does not depend on how many there are: jobs are taken in order
//! by whoever is free, and results are put where their job stood.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The results of `jobs` jobs, in their order.
pub(super) fn in_parallel<T: Send>(
    jobs: usize,
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<T>>> = Mutex::new((0..jobs).map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(jobs) {
            scope.spawn(|| {
                loop {
                    // Only the number counts: results are handed over under the lock.
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    if job >= jobs {
                        return;
                    }
                    let result = work(job);
                    let mut done = done
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    done[job] = Some(result);
                }
            });
        }
    });
    let done = done
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_order_whatever_the_threads() {
        for threads in [1, 2, 7, 100] {
            let results = in_parallel(50, threads, |job| job * job);
            assert_eq!(results, (0..50).map(|job| job * job).collect::<Vec<_>>());
        }
        assert!(in_parallel(0, 4, |job| job).is_empty());
    }
}
