//! The flow level of the simulator against its packet level: mean completion and makespan within
//! the bound of each row.

use thalweg::sim::fluid::twin::{BOUND, Subset, rows};

fn check(subset: Subset) {
    let mut count = 0;
    let mut failed = Vec::new();
    for row in rows(subset) {
        count += 1;
        // Rows with a note have another bound, so that they do not drift apart further.
        let bound = if row.note.is_empty() { BOUND } else { 0.15 };
        if row.error.abs() > bound {
            failed.push(format!(
                "{}: {} is {:.2}, with packets {:.2}: {:+.2} % of at most {:.0} %",
                row.name,
                row.what,
                row.flows,
                row.packets,
                row.error * 100.0,
                bound * 100.0
            ));
        }
    }
    assert!(count > 20, "{count} rows");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "ten times slower without optimisation")]
fn levels_agree_with_128_hosts() {
    check(Subset::Fast);
}

#[test]
#[ignore = "takes minutes; thalweg sim suite flow shows the same rows"]
fn levels_agree_with_1024_hosts() {
    check(Subset::Full);
}
