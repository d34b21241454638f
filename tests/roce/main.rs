//! Real queue pairs, on the soft-RoCE devices of `lab/roce.sh`: `make test-roce` runs what is
//! ignored elsewhere.

#![cfg(feature = "verbs")]
#![allow(
    unsafe_code,
    reason = "memory is registered and written by the other end"
)]
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod memory;
mod sessions;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use thalweg::clock::Timestamp;
use thalweg::config::{Family, HcaFilter};
use thalweg::telemetry::schema::{PortCounter, PortGauge};
use thalweg::telemetry::sources::{self, rdma::Counters};
use thalweg::transport::verbs::End;
use thalweg::transport::verbs::device::{self, Choice, Found, Port};
use thalweg::transport::verbs::sys::{
    Access, Completion, Depths, Device, DeviceEvent, Done, Form, Memory, Operation, Piece,
    QueuePair, Request, Route, flow_label, status_text,
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
    memory: Memory,
    bytes: Box<[u8]>,
}

impl Host {
    fn new(name: &str, bytes: usize, form: Form) -> Self {
        let [port] = &find(&format!("={name}")).ports[..] else {
            panic!("{name}: {}", find(""))
        };
        let device = Device::open(name).unwrap();
        let completions = device.completion_queue(form, 256).unwrap();
        let depths = Depths {
            send: 64,
            receive: 64,
            inline: 128,
        };
        let mut bytes = vec![0; bytes].into_boxed_slice();
        // SAFETY: dropped before the bytes are.
        let memory = unsafe { device.register(bytes.as_mut_ptr(), bytes.len(), Access::default()) };
        let memory = memory.unwrap();
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

    /// Bytes of its memory from an offset on.
    fn piece(&self, from: usize, bytes: usize) -> Piece {
        Piece {
            addr: self.bytes[from..from + bytes].as_ptr() as u64,
            bytes: u32::try_from(bytes).unwrap(),
            key: self.memory.local_key(),
        }
    }

    fn receive(&self, id: u64, buffer: Piece) {
        // SAFETY: the bytes stay until the host is dropped, its queue pair first.
        unsafe { self.queue_pair.post_receive(id, buffer) }.unwrap();
    }

    fn post(&self, requests: &[Request]) {
        // SAFETY: as above.
        unsafe { self.queue_pair.post(requests) }.unwrap();
    }

    /// Writes part of its memory over the same part of the other's.
    fn write(&self, to: &Self, id: u64, (from, bytes): (usize, usize), immediate: u32) -> Request {
        Request {
            id,
            local: self.piece(from, bytes),
            operation: Operation::Write {
                addr: to.piece(from, bytes).addr,
                key: to.memory.remote_key(),
                immediate,
            },
        }
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

/// Those that soft-RoCE has: it stamps nothing.
const FORMS: [Form; 2] = [Form::Plain, Form::Extended];

fn pair(bytes: usize, form: Form) -> (Host, Host) {
    let near = Host::new("rxea0", bytes, form);
    let far = Host::new("rxeb0", bytes, form);
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
fn writes_arrive_over_the_wire_in_order_with_what_they_say() {
    for form in FORMS {
        let wire = || {
            let sent = fs::read_to_string("/sys/class/net/ra0/statistics/tx_bytes").unwrap();
            sent.trim().parse::<usize>().unwrap()
        };
        let (mut near, far) = pair(100_000, form);
        for (at, byte) in near.bytes.iter_mut().enumerate() {
            *byte = u8::try_from(at % 251).unwrap();
        }
        for id in 0..3 {
            far.receive(id, Piece::default());
        }
        let before = wire();
        let parts = [(0usize, 40_000), (40_000, 60_000), (0, 0)];
        let requests = parts.map(|part| {
            near.write(
                &far,
                part.1 as u64,
                part,
                0xdead_0000 + u32::try_from(part.0).unwrap(),
            )
        });
        near.post(&requests);
        let received = far.next::<3>().map(|c| (c.id, c.queue_pair, c.done));
        let number = far.queue_pair.number();
        let said = [
            (40_000, 0xdead_0000),
            (60_000, 0xdead_9c40),
            (0, 0xdead_0000),
        ];
        assert_eq!(
            received,
            [0, 1, 2].map(|id| (id as u64, number, Done::Written(said[id].0, said[id].1)))
        );
        let sent = near.next::<3>().map(|c| (c.id, c.done));
        assert_eq!(sent, [40_000, 60_000, 0].map(|id| (id, Done::Sent)));
        assert!(near.bytes == far.bytes);
        assert!(wire() - before >= near.bytes.len());
    }
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn messages_go_into_the_receives_in_turn() {
    for form in FORMS {
        let (mut near, far) = pair(8192, form);
        near.bytes[..100].fill(1);
        near.bytes[100..4000].fill(2);
        far.receive(1, far.piece(0, 4096));
        far.receive(2, far.piece(4096, 4096));
        // One that is handed over with its request, and one that is not.
        for (id, piece) in [(1, near.piece(0, 100)), (2, near.piece(100, 3900))] {
            near.post(&[Request {
                id,
                local: piece,
                operation: Operation::Send,
            }]);
        }
        let received = far.next::<2>().map(|c| (c.id, c.done));
        assert_eq!(
            received,
            [(1, Done::Received(100)), (2, Done::Received(3900))]
        );
        assert!(far.bytes[..100].iter().all(|&byte| byte == 1));
        assert!(far.bytes[4096..4096 + 3900].iter().all(|&byte| byte == 2));
    }
}

/// What a fence rests on: after it nothing that was sent on a path can be counted or written.
#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_silent_queue_pair_gives_everything_back_and_takes_nothing() {
    for form in FORMS {
        let (mut near, far) = pair(10_000, form);
        near.bytes.fill(7);
        far.receive(1, Piece::default());
        far.receive(2, Piece::default());
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
        near.post(&[near.write(&far, 3, (0, 10_000), 0)]);
        let [failed] = near.next();
        assert!(matches!(failed.done, Done::Failed(_)), "{failed:?}");
        assert!(far.bytes.iter().all(|&byte| byte == 0));
    }
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
fn a_device_without_a_clock_has_no_stamps() {
    let device = Device::open("rxea0").unwrap();
    assert!(!device.has_stamps());
    let error = device.completion_queue(Form::Stamped, 16).unwrap_err();
    assert!(error.to_string().contains("ibv_create_cq"), "{error}");
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_device_tells_of_links_and_addresses() {
    let device = Device::open("rxea1").unwrap();
    let happens = |command: &str, expected: DeviceEvent| {
        while device.event().is_some() {}
        let words: Vec<_> = command.split(' ').collect();
        assert!(Command::new("ip").args(words).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut told = Vec::new();
        while !told.contains(&expected) {
            told.extend(device.event());
            assert!(Instant::now() < deadline, "{command}: {told:?}");
            std::thread::yield_now();
        }
    };
    assert_eq!(device.event(), None);
    happens(
        "address add 10.87.9.1/24 dev ra1",
        DeviceEvent::AddressesChanged(1),
    );
    happens(
        "address del 10.87.9.1/24 dev ra1",
        DeviceEvent::AddressesChanged(1),
    );
    happens("link set ra1 down", DeviceEvent::PortDown(1));
    let found = find("=rxea1").to_string();
    assert!(found.contains("rxea1:1 (its link is down)"), "{found}");
    happens("link set ra1 up", DeviceEvent::PortUp(1));
}

#[test]
#[ignore = "needs the devices of lab/roce.sh: make test-roce"]
fn a_device_counts_until_it_is_gone() {
    let deadline = Instant::now() + Duration::from_secs(20);
    let sysfs = Path::new(device::SYSFS);
    let counters = Counters::open(sysfs, "rxea0", 1, PortCounter::ALL);
    let count = |counters: &Counters, wanted: PortCounter| {
        let value = counters.read().find(|(is, _)| *is == wanted);
        value.and_then(|(_, value)| value)
    };
    let naks = count(&counters, PortCounter::SequenceNaks);
    let rnr = count(&counters, PortCounter::RnrNaksReceived);
    let sent = count(&counters, PortCounter::RdmaSentPackets);
    let (near, far) = pair(100, Form::Plain);
    // There is no receive for it, yet.
    near.post(&[near.write(&far, 1, (0, 100), 2)]);
    while count(&counters, PortCounter::RnrNaksReceived) == rnr {
        assert!(Instant::now() < deadline, "{rnr:?}");
    }
    assert!(rnr.is_some() && count(&counters, PortCounter::Retransmitted).is_some());
    assert!(count(&counters, PortCounter::RdmaSentPackets) > sent);
    assert_eq!(count(&counters, PortCounter::SequenceNaks), naks);
    assert_eq!(count(&counters, PortCounter::CnpsHandled), None);
    far.receive(2, Piece::default());
    assert_eq!(near.next().map(|c: Completion| c.done), [Done::Sent]);

    // Whoever watches the host sees the same.
    let now = sources::Host::new().read(Timestamp::now());
    let port = now.port("rxea0:1").unwrap();
    assert_eq!(port.interface.as_deref(), Some("ra0"));
    assert!(port.counters[PortCounter::RdmaSentPackets] > sent);
    assert!(port.counters[PortCounter::SentBytes] > Some(0));
    assert_eq!(port.gauges[PortGauge::RdmaState], Some(4));
    assert_eq!(port.gauges[PortGauge::LinkUp], Some(1));
    assert!(now.port("ra0").is_none() && now.port("lo").is_some());

    let open = || Counters::open(sysfs, "rxeb1", 1, PortCounter::ALL);
    let counters = open();
    assert!(count(&counters, PortCounter::SequenceNaks).is_some());
    let rdma = |command: &str| {
        let words: Vec<_> = command.split(' ').collect();
        assert!(Command::new("rdma").args(words).status().unwrap().success());
    };
    rdma("link delete rxeb1");
    assert!(counters.read().all(|(_, value)| value.is_none()));
    rdma("link add rxeb1 type rxe netdev rb1");
    assert!(counters.read().all(|(_, value)| value.is_none()));
    assert_eq!(count(&open(), PortCounter::SequenceNaks), Some(0));
    while find("=rxeb1").ports.is_empty() {
        assert!(Instant::now() < deadline, "{}", find("=rxeb1"));
    }
}
