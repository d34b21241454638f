//! Every byte that was sent has been delivered, dropped or trimmed off, or is under way: whatever
//! the hosts run, whatever the switches do when they are full, whatever breaks. The fabric's books
//! are gone through every few microseconds of small runs that are drawn at random, and at the end
//! of every run by the simulator itself.

#![allow(clippy::unwrap_used, reason = "a test")]

use proptest::collection::vec;
use proptest::prelude::*;
use thalweg::sim::fabric::{Fabric, Overflow, PauseConfig, QueueConfig, Routing, SwitchConfig};
use thalweg::sim::hosts::{EngineHosts, HostConfig};
use thalweg::sim::nic::{NicConfig, Recovery};
use thalweg::sim::packet::{BULK, HIGH};
use thalweg::sim::spray::window::Control;
use thalweg::sim::spray::{SprayConfig, SprayHosts, longest_round_trip};
use thalweg::sim::time::Picos;
use thalweg::sim::topology::{LinkSpec, Topology};
use thalweg::sim::workload::{DoneWhen, Flow, Workload};
use thalweg::sim::world::{Change, Ended, Endpoints, Fault, Observer, run_observed};
use thalweg::units::{Nanos, Rate};

const LINK: LinkSpec = LinkSpec {
    rate: Rate::from_mbps(100_000),
    delay: Picos::from_micros(1),
};
/// Long enough for everything that fits through, short enough for what never ends.
const DEADLINE: Picos = Picos::from_micros(2_500);

#[derive(Debug, Clone, Copy)]
enum Full {
    Drops,
    Trims,
    Pauses,
    /// All ports share a buffer, and what does not fit is trimmed.
    Shares,
}

#[derive(Debug, Clone, Copy)]
enum Runs {
    Engine(Recovery),
    Spray(Control, bool),
}

#[derive(Debug, Clone)]
struct Case {
    /// Leaves, hosts of each, spines.
    shape: (u32, u32, u32),
    full: Full,
    adaptive: bool,
    runs: Runs,
    /// From, to (both modulo hosts), bytes, start in µs, urgent.
    flows: Vec<(u32, u32, u64, u64, bool)>,
    /// When in µs, what, which port or switch or host.
    faults: Vec<(u64, u8, u32)>,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let full = prop_oneof![
        Just(Full::Drops),
        Just(Full::Trims),
        Just(Full::Pauses),
        Just(Full::Shares)
    ];
    let runs = prop_oneof![
        Just(Runs::Engine(Recovery::Selective)),
        Just(Runs::Engine(Recovery::GoBackN)),
        Just(Runs::Spray(Control::Nscc, false)),
        Just(Runs::Spray(Control::Open, true)),
        Just(Runs::Spray(Control::Constant(150_000), false)),
        Just(Runs::Spray(Control::Timely, false)),
    ];
    let flow = (0u32..99, 0u32..99, 1u64..300_000, 0u64..100, any::<bool>());
    let fault = (0u64..300, 0u8..9, 0u32..99);
    (
        (1u32..4, 1u32..4, 1u32..4),
        full,
        any::<bool>(),
        runs,
        vec(flow, 1..8),
        vec(fault, 0..7),
        any::<u64>(),
    )
        .prop_map(|(shape, full, adaptive, runs, flows, faults, seed)| Case {
            shape,
            full,
            adaptive,
            runs,
            flows,
            faults,
            seed,
        })
}

/// What happens, and what mends it a while later.
fn changes(topology: &Topology, (at, kind, which): (u64, u8, u32)) -> Vec<Fault> {
    let port = which % u32::try_from(topology.ports().len()).unwrap();
    let switch = which % topology.switches();
    let host = which % topology.hosts();
    let last = topology.last_port_to(topology.host_ports_of(host).start);
    let changes = match kind {
        0 => vec![Change::LinkDown(port), Change::LinkUp(port)],
        1 => vec![Change::LinkDown(port), Change::Reroute],
        2 => vec![Change::LinkLoss(port, 20_000), Change::LinkLoss(port, 0)],
        3 => vec![Change::LinkRate(port, Rate::from_mbps(10_000))],
        4 => vec![Change::SwitchDown(switch), Change::SwitchUp(switch)],
        5 => vec![Change::SwitchDown(switch), Change::Reroute],
        6 => vec![Change::Pause(last, BULK), Change::Release(last, BULK)],
        7 => vec![Change::HostSlow(host, 20)],
        // A link that flaps.
        _ => [Change::LinkDown(port), Change::LinkUp(port)].repeat(4),
    };
    let gap = if kind == 8 { 7 } else { 60 };
    (0..)
        .zip(changes)
        .map(|(step, change)| Fault {
            at: Picos::from_micros(at + step * gap),
            change,
        })
        .collect()
}

/// Goes through the books every few microseconds.
#[derive(Default)]
struct Auditor {
    next: Picos,
    under_way: u64,
}

impl Observer for Auditor {
    fn next(&self) -> Picos {
        self.next
    }

    fn observe(&mut self, now: Picos, fabric: &Fabric, _open: usize) {
        fabric.audit();
        self.under_way = self.under_way.max(fabric.in_flight());
        self.next = now + Picos::from_micros(3);
    }
}

fn play<E: Endpoints>(
    mut fabric: Fabric,
    mut hosts: E,
    workload: &Workload,
    faults: &[Fault],
) -> (Ended, Auditor) {
    let mut auditor = Auditor::default();
    let ended = run_observed(
        &mut fabric,
        &mut hosts,
        workload,
        faults,
        DEADLINE,
        &mut auditor,
    );
    let mut arrived = 0;
    for (index, flow) in (0..).zip(workload.flows()) {
        let progress = hosts.progress();
        if progress.received(index).or(progress.ended(index)).is_some() {
            arrived += flow.bytes;
        } else if progress.started(index).is_some() {
            let bytes = hosts.delivered(index);
            assert!(bytes < flow.bytes, "{bytes} of {} bytes", flow.bytes);
            arrived += bytes;
        }
    }
    let delivered = fabric.totals().delivered_bytes;
    assert!(arrived <= delivered, "{arrived} bytes of {delivered}");
    (ended, auditor)
}

fn check(case: &Case) -> (Ended, Auditor) {
    let (leaves, hosts, spines) = case.shape;
    let topology = Topology::leaf_spine(leaves, hosts.max(2), spines, LINK, LINK).unwrap();
    let mut workload = Workload::new(DoneWhen::Received);
    let part = workload.add_part("flows");
    for &(from, to, bytes, start, urgent) in &case.flows {
        let (from, to) = (from % topology.hosts(), to % topology.hosts());
        workload.add(Flow {
            from,
            to: if to == from {
                (to + 1) % topology.hosts()
            } else {
                to
            },
            bytes,
            start: Picos::from_micros(start),
            class: if urgent { HIGH } else { BULK },
            part,
        });
    }
    let mut faults: Vec<Fault> = case
        .faults
        .iter()
        .flat_map(|&fault| changes(&topology, fault))
        .collect();
    faults.sort_by_key(|fault| fault.at);
    let (overflow, pause, shared_buffer) = match case.full {
        Full::Drops => (Overflow::Drop, None, None),
        Full::Trims => (Overflow::Trim, None, None),
        Full::Pauses => {
            let pause = PauseConfig {
                on: 40_000,
                off: 30_000,
                headroom: 60_000,
            };
            (Overflow::Drop, Some(pause), None)
        }
        Full::Shares => (Overflow::Trim, None, Some(120_000)),
    };
    let switch = SwitchConfig {
        queue: QueueConfig {
            capacity: 60_000,
            control_capacity: 4_000,
            mark_low: 20_000,
            mark_high: 50_000,
            overflow,
        },
        pause,
        shared_buffer,
        routing: if case.adaptive {
            Routing::Adaptive
        } else {
            Routing::Hash
        },
    };
    let rtt = longest_round_trip(&topology);
    let fabric = Fabric::new(topology, &switch, case.seed);
    match case.runs {
        Runs::Engine(recovery) => {
            let mut config = HostConfig::for_fabric(LINK.rate, Nanos(rtt.as_nanos()));
            config.engine.paths_max = 4;
            config.engine.dead_peer = Nanos::from_secs(1);
            config.dial_time = Picos::from_micros(20);
            let nic = NicConfig {
                mtu: 4096,
                recovery,
                timeout: Picos::from_micros(100),
                dcqcn: None,
            };
            let hosts = EngineHosts::new(&fabric, &workload, config, nic, case.seed);
            play(fabric, hosts, &workload, &faults)
        }
        Runs::Spray(control, credit) => {
            let mut config = SprayConfig::new(LINK.rate, rtt);
            config.control = control;
            config.credit = credit;
            config.paths = 16;
            config.trimming = overflow == Overflow::Trim;
            let hosts = SprayHosts::new(&fabric, &workload, config, case.seed);
            play(fabric, hosts, &workload, &faults)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn no_byte_is_lost_without_being_counted(case in cases()) {
        check(&case);
    }
}

/// The random runs are not all idle: here is one of which it is known what happens.
#[test]
fn an_incast_over_a_flapping_lossy_link_ends_and_its_bytes_add_up() {
    let case = Case {
        shape: (2, 3, 2),
        full: Full::Trims,
        adaptive: false,
        runs: Runs::Spray(Control::Constant(150_000), false),
        flows: (1..6).map(|from| (from, 0, 250_000, 0, false)).collect(),
        faults: vec![(5, 8, 12), (5, 2, 3)],
        seed: 1,
    };
    let (ended, auditor) = check(&case);
    assert_eq!(ended, Ended::Finished);
    assert!(auditor.under_way > 20, "{}", auditor.under_way);
}

/// A sender asked how things stand, its link went down before the answer could come, and by then it
/// had packets to send again: it must neither wait for the answer nor ask without end.
#[test]
fn a_sender_cut_off_from_the_answer_to_its_question_lets_time_go_on() {
    let case = Case {
        shape: (2, 2, 1),
        full: Full::Shares,
        adaptive: true,
        runs: Runs::Spray(Control::Timely, false),
        flows: vec![
            (24, 74, 82_716, 6, false),
            (11, 64, 97_943, 68, true),
            (84, 47, 266_581, 57, true),
            (33, 48, 279_978, 80, false),
            (48, 54, 40_959, 50, false),
            (5, 61, 128_935, 0, true),
            (39, 71, 157_649, 21, true),
        ],
        faults: vec![
            (277, 1, 62),
            (107, 6, 65),
            (40, 0, 24),
            (59, 7, 16),
            (15, 3, 75),
            (167, 4, 65),
        ],
        seed: 13_375_204_436_365_860_323,
    };
    assert_ne!(check(&case).0, Ended::Finished);
}
