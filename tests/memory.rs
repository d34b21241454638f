//! What an idle connection costs: every byte that this process has allocated, both ends
//! together, counted by its allocator. Sockets' kernel buffers are the kernel's.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::connect;
use thalweg::config::Config;
use thalweg::session::{RecvConnection, SendConnection, Session};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work; the count changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn open(paths: &str) -> Session {
    let settings = [
        ("THALWEG_IFNAME", "=lo"),
        ("THALWEG_FAMILY", "ipv4"),
        ("THALWEG_PATHS", paths),
        ("THALWEG_PATH_SEARCH", "off"),
    ];
    let env = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_sources(env, None).unwrap();
    Session::open_with(config, Arc::new(|_, _: &str| {})).unwrap()
}

/// Sends a message each way of being sent, so that whatever is made on first use exists.
fn use_once(send: &SendConnection, recv: &RecvConnection) {
    for len in [100, 200_000] {
        let data = vec![7u8; len];
        let mut buffer = vec![0u8; len];
        let into = [thalweg::session::RecvBuffer {
            data: buffer.as_mut_ptr(),
            len,
            tag: 0,
            keys: thalweg::session::MemoryKeys::default(),
        }];
        // SAFETY: both buffers live until both requests have ended, below.
        let requests = unsafe {
            [
                send.isend(
                    data.as_ptr(),
                    len,
                    0,
                    thalweg::session::MemoryKeys::default(),
                )
                .unwrap()
                .unwrap(),
                recv.irecv(&into).unwrap().unwrap(),
            ]
        };
        for request in requests {
            // SAFETY: the request has not ended, and its connection lives.
            while unsafe { request.test() }.unwrap().is_none() {
                std::thread::yield_now();
            }
        }
        assert!(buffer == data);
    }
}

/// What is allocated once nothing changes any more.
fn settled() -> usize {
    std::thread::sleep(Duration::from_millis(300));
    ALLOCATED.load(Ordering::Relaxed)
}

#[test]
fn an_idle_connection_is_small() {
    let (a, b) = (open("8"), open("8"));
    let (listener, handle) = b.listen(0).unwrap();
    let empty = settled();
    let first = connect(&a, &listener, &handle);
    use_once(&first.0, &first.1);
    let link = settled() - empty;
    let more: Vec<_> = (0..64).map(|_| connect(&a, &listener, &handle)).collect();
    for (send, recv) in &more {
        use_once(send, recv);
    }
    let further = (settled() - empty - link) / more.len();
    eprintln!(
        "8 paths: the first connection takes {} KiB at each end with its link, a further one {} KiB",
        link / 2 / 1024,
        further / 2 / 1024
    );
    assert!(link / 2 <= 128 << 10, "first: {link} bytes, both ends");
    assert!(
        further / 2 <= 32 << 10,
        "further: {further} bytes, both ends"
    );
}
