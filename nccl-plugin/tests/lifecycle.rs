//! `init` and `finalize`: what NCCL does once, what it does per communicator, and what else
//! happens to a process in between. One test only, since the session belongs to the process.

#![allow(unsafe_code, reason = "the interface is C, and so is fork")]

mod common;

use common::{Net, Pair, Table, far, logged, over_rdma, use_loopback};
use nccl_net_thalweg::abi::ResultCode;
use std::ptr::{null_mut, without_provenance_mut};

/// The first words of every session's one line at start.
fn starts() -> usize {
    logged("NET/thalweg")
        .iter()
        .filter(|(level, _)| *level == 3)
        .count()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .expect("our threads")
        .count()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("our descriptors")
        .count()
}

#[test]
fn a_session_lives_from_the_first_init_to_the_last_finalize() {
    use_loopback();
    let table = Table::of_version(12);
    let uninitialised = Net {
        table,
        context: null_mut(),
    };
    assert_eq!(uninitialised.devices(), Err(ResultCode::INVALID_USAGE));
    assert_eq!(
        uninitialised.listen(0).err(),
        Some(ResultCode::INVALID_USAGE)
    );
    assert_eq!(uninitialised.finalize(), Ok(()));

    // A first round, so that what is made once and kept doesn't count below.
    Net::init(table)
        .expect("init")
        .finalize()
        .expect("finalize");
    let (threads_before, descriptors_before) = (threads(), descriptors());

    for _ in 0..3 {
        let before = starts();
        let nets: Vec<Net> = (0..5).map(|_| Net::init(table).expect("init")).collect();
        assert!(
            starts() > before,
            "a session says at its start what it found"
        );
        let lines = starts();
        assert!(nets[0].devices().expect("devices") >= 1);
        for net in &nets[1..] {
            net.finalize().expect("finalize");
        }
        // The one that is left still works, and a context may be left out.
        transfer(nets[0]);
        transfer(Net {
            table,
            context: null_mut(),
        });
        assert_eq!(
            nets[1].listen(0).err(),
            Some(ResultCode::INVALID_ARGUMENT),
            "finalised before"
        );
        // A second finalize of the same context doesn't count for another.
        nets[1].finalize().expect("finalize");
        nets[2].finalize().expect("finalize");
        transfer(nets[0]);
        assert!(starts() >= lines);
        nets[0].finalize().expect("finalize");
        assert_eq!(nets[0].devices(), Err(ResultCode::INVALID_USAGE));
        assert_eq!(nets[0].finalize(), Ok(()));
        let bogus = Net {
            table,
            context: without_provenance_mut(0xbad),
        };
        assert_eq!(bogus.finalize(), Ok(()));
    }
    common::wait_for("threads and descriptors to go", || {
        threads() <= threads_before && descriptors() <= descriptors_before
    });

    a_child_starts_anew(Net::init(table).expect("init"));
    if over_rdma() {
        a_virtual_device_is_there_for_as_long_as_nccl_knows_it(table);
    }

    // Versions up to 10 have no finalize: from now on the session stays.
    let old = Net::init(Table::of_version(10)).expect("init");
    let new = Net::init(table).expect("init");
    new.finalize().expect("finalize");
    transfer(old);
    let again = Net::init(Table::of_version(6)).expect("init");
    transfer(again);
}

fn transfer(net: Net) {
    let pair = Pair::on(net);
    let mut buffer = [0; 5];
    assert_eq!(pair.transfer(&mut [1, 2, 3, 4, 5], &mut buffer), 5);
    assert_eq!(buffer, [1, 2, 3, 4, 5]);
    pair.close();
}

/// Where NCCL keeps the library between two communicators it goes on to use what it has made; where it
/// lets go of it, it counts what there is.
fn a_virtual_device_is_there_for_as_long_as_nccl_knows_it(table: Table) {
    let first = Net::init(table).expect("init");
    let count = first.devices().expect("devices");
    let made = first.make_v_device(2, &[0, 1]).expect("makeVDevice");
    assert_eq!(made, Ok(count));
    assert_eq!(first.devices(), Ok(count + 1));
    let name = |net: Net| net.properties(count).map(|props| props.name);
    let known = name(first);
    first.finalize().expect("finalize");

    let kept = Net::init(table).expect("init");
    assert_eq!(name(kept), known);
    let pair = Pair::between(kept, count, far());
    let mut buffer = [0; 3];
    assert_eq!(pair.transfer(&mut [1, 2, 3], &mut buffer), 3);
    pair.close();
    assert_eq!(kept.devices(), Ok(count + 1));
    kept.finalize().expect("finalize");

    let anew = Net::init(table).expect("init");
    assert_eq!(anew.devices(), Ok(count));
    assert_eq!(name(anew), Err(ResultCode::INVALID_ARGUMENT));
    anew.finalize().expect("finalize");
}

/// A child finds its parent's state, whose threads it doesn't have: it must not touch them.
fn a_child_starts_anew(net: Net) {
    let (listen, handle) = net.listen(far()).expect("listen");
    // SAFETY: the child calls the plugin, which is what is tested, and leaves without a return.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // A hang must not outlive the test.
        // SAFETY: only sets a timer.
        unsafe { libc::alarm(20) };
        let inherited = net.finalize();
        let forgotten = net.devices();
        let fresh = Net::init(net.table);
        let works = fresh.is_ok_and(|net| {
            transfer(net);
            net.finalize().is_ok()
        });
        let right = inherited == Ok(()) && forgotten == Err(ResultCode::INVALID_USAGE) && works;
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!right)) };
    }
    let mut status = -1;
    // SAFETY: the pointer is valid.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    assert_eq!(status, 0, "the child failed or was killed");
    // The parent's listener is as it was.
    let pair = Pair::through(net, listen, &mut handle.clone());
    net.close_listen(listen);
    pair.close();
    transfer(net);
    net.finalize().expect("finalize");
}
