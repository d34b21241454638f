//! Real queue pairs, on the soft-RoCE devices of `lab/roce.sh`: `make test-roce` runs what is
//! ignored elsewhere.

#![cfg(feature = "verbs")]
#![allow(
    unsafe_code,
    reason = "memory is registered and written by the other end"
)]
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use thalweg::config::{Family, HcaFilter};
use thalweg::transport::verbs::device::{self, Choice, Found, Port};
use thalweg::transport::verbs::sys::{
    Completion, Depths, Device, Done, End, Memory, QueuePair, Route, Write, flow_label, status_text,
};

fn find(hca: &str) -> Found {
    let hca = HcaFilter::parse(hca);
    let choice = Choice {
        hca: hca.as_ref(),
        family: Family::Any,
        gid_index: None,
    };
    device::find(Path::new(device::SYSFS), &choice)
}

/// One end of a connection, with memory of its own.
struct Host {
    port: Port,
    device: Device,
    queue_pair: QueuePair,
    bytes: Box<[u8]>,
    memory: Memory,
}

impl Host {
    fn new(name: &str, bytes: usize) -> Self {
        let [port] = &find(&format!("={name}")).ports[..] else {
            panic!("{name}: {}", find(""))
        };
        let device = Device::open(name).unwrap();
        let completions = device.completion_queue(256).unwrap();
        let depths = Depths {
            send: 64,
            receive: 64,
        };
        let mut bytes = vec![0; bytes].into_boxed_slice();
        // SAFETY: dropped before the bytes are.
        let memory = unsafe { device.register(bytes.as_mut_ptr(), bytes.len()) }.unwrap();
        Self {
            queue_pair: QueuePair::new(&device, &completions, port.number, depths).unwrap(),
            port: port.clone(),
            device,
            bytes,
            memory,
        }
    }

    fn end(&self) -> End {
        let state = self.device.port(self.port.number).unwrap();
        End {
            number: self.queue_pair.number(),
            first_packet: 0xab_cdef,
            gid: self.port.gid.addr,
            lid: state.lid,
            mtu: state.mtu,
        }
    }

    fn connect(&self, to: &Self) {
        let mut end = to.end();
        end.mtu = end.mtu.min(self.end().mtu);
        let route = Route {
            port: self.port.number,
            gid_index: self.port.gid.index,
            flow_label: flow_label(50_000),
            traffic_class: 0,
            service_level: 0,
            // 4.2 ms
            timeout: 10,
        };
        self.queue_pair.connect(0xab_cdef, &end, &route).unwrap();
    }

    /// Writes all of its memory over the other's.
    fn write(&self, to: &Self, id: u64, immediate: u32) {
        let write = Write {
            id,
            local: (
                self.bytes.as_ptr() as u64,
                u32::try_from(self.bytes.len()).unwrap(),
                self.memory.local_key(),
            ),
            remote: (to.bytes.as_ptr() as u64, to.memory.remote_key()),
            immediate,
        };
        // SAFETY: the bytes stay until the host is dropped, its queue pair first.
        unsafe { self.queue_pair.post_write(&write) }.unwrap();
    }

    /// What comes next, so many of them.
    fn next<const N: usize>(&self) -> [Completion; N] {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut taken = Vec::new();
        while taken.len() < N {
            let queue = self.queue_pair.completions();
            queue.poll(|completion| taken.push(completion)).unwrap();
            assert!(Instant::now() < deadline, "{taken:?}");
            std::thread::yield_now();
        }
        taken.try_into().unwrap()
    }
}

fn pair(bytes: usize) -> (Host, Host) {
    let (near, far) = (Host::new("rxea0", bytes), Host::new("rxeb0", bytes));
    near.connect(&far);
    far.connect(&near);
    (near, far)
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn ports_are_found_with_the_address_that_can_be_routed() {
    let found = find("");
    let names: Vec<_> = found.ports.iter().map(Port::name).collect();
    assert_eq!(names, ["rxea0:1", "rxea1:1", "rxeb0:1", "rxeb1:1"]);
    let near = found.ports[0].to_string();
    assert!(near.contains("= 10.87.0.1 of ra0"), "{near}");
    assert!(found.left_out.is_empty(), "{found}");
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_write_arrives_over_the_wire_with_what_it_says() {
    let wire = || {
        let sent = fs::read_to_string("/sys/class/net/ra0/statistics/tx_bytes").unwrap();
        sent.trim().parse::<usize>().unwrap()
    };
    let (mut near, far) = pair(100_000);
    for (at, byte) in near.bytes.iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).unwrap();
    }
    far.queue_pair.post_receive(9).unwrap();
    let before = wire();
    near.write(&far, 7, 0xdead_beef);
    let [received] = far.next();
    assert_eq!(
        (received.id, received.done),
        (9, Done::Received(0xdead_beef))
    );
    assert_eq!(received.queue_pair, far.queue_pair.number());
    let [sent] = near.next();
    assert_eq!((sent.id, sent.done), (7, Done::Sent));
    assert!(near.bytes == far.bytes);
    assert!(wire() - before >= near.bytes.len());
}

/// What a fence rests on: after it nothing that was sent on a path can be counted or written.
#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_silent_queue_pair_gives_everything_back_and_takes_nothing() {
    let (mut near, far) = pair(10_000);
    near.bytes.fill(7);
    far.queue_pair.post_receive(1).unwrap();
    far.queue_pair.post_receive(2).unwrap();
    far.queue_pair.silence().unwrap();
    let flushed: [_; 2] = far.next();
    for (id, flushed) in (1..).zip(flushed) {
        let Done::Failed(status) = flushed.done else {
            panic!("{flushed:?}")
        };
        assert_eq!(flushed.id, id);
        let text = status_text(status).to_lowercase();
        assert!(text.contains("flush"), "{text}");
    }
    near.write(&far, 3, 0);
    let [failed] = near.next();
    assert!(matches!(failed.done, Done::Failed(_)), "{failed:?}");
    assert!(far.bytes.iter().all(|&byte| byte == 0));
}

/// Without the library, or without devices, it is the library that is missing.
#[test]
fn a_device_that_is_not_there_is_named() {
    let error = Device::open("no_such_device").unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("there is no RDMA device called no_such_device")
            || text.ends_with("without them there is TCP"),
        "{text}"
    );
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn memory_that_is_not_mapped_is_refused() {
    let device = Device::open("rxea0").unwrap();
    // SAFETY: it is refused, for nothing is mapped there.
    let error = unsafe { device.register(std::ptr::without_provenance_mut(4096), 4096) };
    assert_eq!(
        error.unwrap_err().to_string(),
        "ibv_reg_mr: Bad address (os error 14)"
    );
}
