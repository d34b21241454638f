//! A queue pair with itself: flushes read, small messages are brought, and what fails is told.

use std::sync::mpsc;

use thalweg::transport::verbs::within_host::WithinHost;
use thalweg::transport::verbs::{EAGER_BYTES_MAX, Failed, Move};

use super::fabric::{Fabric, MockPair, RETRIES_EXCEEDED};

/// Memory that stands in for a GPU's.
struct Gpu {
    fabric: Fabric,
    bytes: Vec<u8>,
    key: u32,
}

impl Gpu {
    fn new(fabric: &Fabric) -> Self {
        let bytes = vec![0xee; 64 << 10];
        Self {
            key: fabric.register(bytes.as_ptr(), bytes.len()),
            fabric: fabric.clone(),
            bytes,
        }
    }

    fn at(&self, offset: usize) -> u64 {
        self.bytes[offset..].as_ptr() as u64
    }

    fn flush(&self) -> Move<'static> {
        Move::Flush {
            addr: self.at(5),
            key: self.key,
        }
    }

    fn bring<'a>(&self, data: &'a [u8], offset: usize) -> Move<'a> {
        Move::Bring {
            data,
            addr: self.at(offset),
            key: self.key,
        }
    }

    fn settled(&self, mover: &mut WithinHost<MockPair>) -> Vec<Result<(), Failed>> {
        self.fabric.settle();
        let mut ended = Vec::new();
        for _ in 0..64 {
            mover.poll(&mut ended);
        }
        ended
    }
}

fn mover(fabric: &Fabric) -> WithinHost<MockPair> {
    WithinHost::new(fabric.connect_to_itself(), fabric.slab_at_once()).unwrap()
}

#[test]
fn what_is_brought_is_there_and_what_is_flushed_stays() {
    let fabric = Fabric::new(1);
    let gpu = Gpu::new(&fabric);
    let mut mover = mover(&fabric);
    let long = vec![7; EAGER_BYTES_MAX as usize];
    assert_eq!(mover.begin(gpu.bring(&long, 100)), Ok(true));
    assert_eq!(mover.begin(gpu.flush()), Ok(true));
    assert_eq!(mover.begin(gpu.bring(&[1, 2, 3], 40_000)), Ok(true));
    let mut ended = Vec::new();
    mover.poll(&mut ended);
    assert_eq!(ended, [], "nothing has been carried out");
    assert_eq!(gpu.settled(&mut mover), [const { Ok(()) }; 3]);
    assert!(gpu.bytes[100..100 + long.len()] == long[..]);
    assert_eq!(gpu.bytes[40_000..40_003], [1, 2, 3]);
    let touched = gpu.bytes.iter().filter(|&&byte| byte != 0xee).count();
    assert_eq!(touched, long.len() + 3);
    assert_eq!(fabric.strays(), 0);
}

#[test]
fn there_is_room_for_so_many_and_no_more_and_then_again() {
    let fabric = Fabric::new(2);
    let gpu = Gpu::new(&fabric);
    let mut mover = mover(&fabric);
    for _ in 0..3 {
        let mut messages = 0u8;
        while mover
            .begin(gpu.bring(&[messages], usize::from(messages)))
            .unwrap()
        {
            messages += 1;
        }
        assert_eq!(messages, 16);
        let mut flushes = 0;
        while mover.begin(gpu.flush()).unwrap() {
            flushes += 1;
        }
        assert_eq!(flushes, 64 - 16);
        assert_eq!(gpu.settled(&mut mover).len(), 64);
        assert!((0..16).all(|at| gpu.bytes[at] == at as u8));
    }
    let long = vec![0; EAGER_BYTES_MAX as usize + 1];
    assert!(mover.begin(gpu.bring(&long, 0)).is_err());
}

#[test]
fn the_first_that_fails_says_why_and_the_others_were_given_up() {
    let fabric = Fabric::new(3);
    let gpu = Gpu::new(&fabric);
    let mut mover = mover(&fabric);
    assert_eq!(mover.begin(gpu.bring(&[1], 0)), Ok(true));
    assert_eq!(gpu.settled(&mut mover), [Ok(())]);
    for _ in 0..3 {
        assert_eq!(mover.begin(gpu.flush()), Ok(true));
    }
    mover.pair().fail(RETRIES_EXCEEDED);
    let by_itself = |ended: &Vec<Result<(), Failed>>| {
        let of = |end: &Result<(), Failed>| end.as_ref().unwrap_err().by_itself;
        ended.iter().map(of).collect::<Vec<_>>()
    };
    let ended = gpu.settled(&mut mover);
    assert_eq!(by_itself(&ended), [true, false, false]);
    assert!(!ended[0].as_ref().unwrap_err().reason.is_empty());
    // What comes afterwards ends as well.
    assert_eq!(mover.begin(gpu.flush()), Ok(true));
    assert_eq!(by_itself(&gpu.settled(&mut mover)), [false]);
}

#[test]
fn memory_that_is_not_registered_any_more_is_not_touched() {
    let fabric = Fabric::new(4);
    let gpu = Gpu::new(&fabric);
    let mut mover = mover(&fabric);
    fabric.deregister(gpu.key);
    assert_eq!(mover.begin(gpu.bring(&[1], 0)), Ok(true));
    let ended = gpu.settled(&mut mover);
    assert!(ended[0].as_ref().is_err_and(|failed| failed.by_itself));
    assert_eq!(gpu.bytes[0], 0xee);
}

#[test]
fn a_queue_that_is_lost_ends_everything() {
    let fabric = Fabric::new(5);
    let gpu = Gpu::new(&fabric);
    let mut mover = mover(&fabric);
    assert_eq!(mover.begin(gpu.flush()), Ok(true));
    assert_eq!(mover.begin(gpu.flush()), Ok(true));
    mover.pair().overrun();
    assert_eq!(gpu.settled(&mut mover).len(), 2);
}

/// The pair asserts itself that it is silent, and that the end of all has been seen.
#[test]
fn it_ends_with_whatever_is_under_way_and_its_memory_after_it() {
    for seed in 0..20 {
        let fabric = Fabric::new(seed);
        let gpu = Gpu::new(&fabric);
        let mut mover = mover(&fabric);
        let (grave, remains) = mpsc::channel();
        mover.bury_in(grave);
        for at in 0..10 {
            assert_eq!(mover.begin(gpu.bring(&[9; 2000], at * 2000)), Ok(true));
        }
        fabric.run(seed as u32);
        drop(mover);
        let there = gpu.bytes.clone();
        assert_eq!(fabric.live(), 1, "it lies in its grave");
        fabric.settle();
        assert!(gpu.bytes == there, "written after its end");
        drop(remains.try_recv().unwrap());
        assert_eq!(fabric.live(), 0);
    }
}
