//! What links have to know of what their ports count: whether packets are lost, and whether the network is
//! congested. Few figures, for they are read every 10 ms; whoever watches a host reads them all
//! (`telemetry::sources`).

use std::path::Path;

use crate::clock::Timestamp;
use crate::engine::PortSignals;
use crate::telemetry::schema::PortCounter;
use crate::telemetry::sources::{ethtool, increase, rdma};
use crate::units::Nanos;

/// How often an interface is asked about pauses. One of mlx5 asks its firmware for a whole list of
/// registers then, under the lock of all interfaces of the host; one of bnxt has new figures only
/// once a second (`BNXT_DEF_STATS_COAL_TICKS`).
const PAUSE_EVERY: Nanos = Nanos::from_secs(1);
/// A notification slows a queue pair down, and the pair is faster again only step by step: so long
/// after it, twice the time between two readings, the network is still taken for congested.
const CONGESTED_FOR: Nanos = Nanos::from_millis(20);

/// What a port has counted since the adapter started, or what it has counted in between
/// ([`PortCounters::since`]), for all processes of the host together. None: the device has no such
/// counter, or is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// [`PortCounter::RdmaSentPackets`].
    pub sent: Option<u64>,
    /// [`PortCounter::CnpsHandled`].
    pub cnps_handled: Option<u64>,
    /// [`PortCounter::SequenceNaks`].
    pub sequence_naks: Option<u64>,
    /// [`PortCounter::AckTimeouts`].
    pub timeouts: Option<u64>,
    /// [`PortCounter::PausesReceived`]: changes once a second.
    pub pauses_received: Option<u64>,
}

/// The counters of one port, held open.
#[derive(Debug)]
pub struct Counters {
    rdma: rdma::Counters,
    pauses: Option<Pauses>,
}

impl Counters {
    /// Looks for what a port counts; `sysfs` is [`SYSFS`](super::device::SYSFS) but in tests.
    /// Pauses are known to the network interface of the port, where one is given: its own, not a
    /// bond or a VLAN above it.
    ///
    /// What is not there is not counted. A device that vanishes and comes back has to be opened
    /// again.
    #[must_use]
    pub fn open(sysfs: &Path, device: &str, port: u8, interface: Option<&str>) -> Self {
        let wanted = [
            PortCounter::RdmaSentPackets,
            PortCounter::CnpsHandled,
            PortCounter::SequenceNaks,
            PortCounter::AckTimeouts,
        ];
        Self {
            rdma: rdma::Counters::open(sysfs, device, port, &wanted),
            pauses: interface.map(Pauses::new),
        }
    }

    /// The present figures.
    #[must_use]
    pub fn read(&mut self) -> PortCounters {
        let mut counters = PortCounters {
            pauses_received: self.pauses.as_mut().and_then(Pauses::read),
            ..PortCounters::default()
        };
        for (is, value) in self.rdma.read() {
            match is {
                PortCounter::RdmaSentPackets => counters.sent = value,
                PortCounter::CnpsHandled => counters.cnps_handled = value,
                PortCounter::SequenceNaks => counters.sequence_naks = value,
                PortCounter::AckTimeouts => counters.timeouts = value,
                _ => {}
            }
        }
        counters
    }
}

impl PortCounters {
    /// What a link that sends by this port has to know of it, of figures that were counted since the
    /// last reading; None if the device does not count what it sends.
    #[must_use]
    pub fn signals(&self, packet_bytes: u32) -> Option<PortSignals> {
        let count = |figure: Option<u64>| figure.unwrap_or(0);
        Some(PortSignals {
            sent: self.sent?,
            packet_bytes,
            lost: count(self.sequence_naks) + count(self.timeouts),
            congested_for: if count(self.pauses_received) > 0 {
                PAUSE_EVERY
            } else if count(self.cnps_handled) > 0 {
                CONGESTED_FOR
            } else {
                Nanos::ZERO
            },
        })
    }

    /// What has been counted since `before`. What a counter that is lower than it was has counted is not
    /// known: it has been reset, or has begun again at zero, as those of mlx5 do after 32 bits.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let since = |of: fn(&Self) -> Option<u64>| increase(of(before), of(self), u64::BITS);
        Self {
            sent: since(|c| c.sent),
            cnps_handled: since(|c| c.cnps_handled),
            sequence_naks: since(|c| c.sequence_naks),
            timeouts: since(|c| c.timeouts),
            pauses_received: since(|c| c.pauses_received),
        }
    }
}

/// Why a device needs nobody to spread its packets over the paths of the network: it does so
/// itself. None where that is not known from sysfs.
///
/// A verdict only on EFA, whose queue pairs run SRD or unreliable datagrams and nothing else
/// (`hw/efa/efa_verbs.c`; Shalev et al., "A Cloud-Optimized Transport Protocol for Elastic and
/// Scalable HPC", IEEE Micro 2020). Adaptive routing is a matter of switches, and of settings of
/// mlx5 that sysfs does not show; `roce_adp_retrans` and `roce_slow_restart` say nothing about it.
/// No mark of an MRC in sysfs is known. What shows such a network at work is that packets come out
/// of sequence while nobody asks for them again ([`PortCounter::OutOfSequencePackets`] here,
/// [`PortCounter::SequenceNaks`] at the other end), and that all source ports are equally fast.
#[must_use]
pub fn multipath(device: &Path) -> Option<&'static str> {
    (rdma::driver(device)? == "efa").then_some("EFA: SRD spreads packets over many paths")
}

/// What an interface says about pauses.
#[derive(Debug)]
struct Pauses {
    interface: String,
    source: Option<ethtool::Counters>,
    asked: Option<Timestamp>,
    latest: Option<u64>,
}

impl Pauses {
    fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            source: None,
            asked: None,
            latest: None,
        }
    }

    fn read(&mut self) -> Option<u64> {
        let now = Timestamp::now();
        if self.asked.is_none_or(|at| now.since(at) >= PAUSE_EVERY) {
            self.asked = Some(now);
            self.latest = self.ask();
        }
        self.latest
    }

    fn ask(&mut self) -> Option<u64> {
        let open = || ethtool::Counters::open_only(&self.interface, PortCounter::PausesReceived);
        let mut source = self.source.take().or_else(|| open().ok().flatten())?;
        // Where that fails it is opened again next time: settings change what there is.
        let pauses = source.read().ok()?.counters().next()?.1;
        self.source = Some(source);
        pauses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sources::tree::Tree;

    #[test]
    fn a_port_tells_what_links_have_to_know() {
        let tree = Tree::new("signals");
        let names = [
            "sent_pkts",
            "rp_cnp_handled",
            "packet_seq_err",
            "implied_nak_seq_err",
            "local_ack_timeout_err",
            "duplicate_request",
        ];
        for (at, name) in names.iter().enumerate() {
            let file = format!("nic0/ports/1/hw_counters/{name}");
            tree.file(&file, &format!("{}\n", at + 1));
        }
        let expected = PortCounters {
            sent: Some(1),
            cnps_handled: Some(2),
            sequence_naks: Some(3 + 4),
            timeouts: Some(5),
            pauses_received: None,
        };
        assert_eq!(
            Counters::open(tree.path(), "nic0", 1, None).read(),
            expected
        );
        let none = Path::new("/nonexistent");
        let mut gone = Counters::open(none, "nic0", 1, Some("thalweg-none"));
        assert_eq!(gone.read(), PortCounters::default());
        assert_eq!(gone.read(), PortCounters::default());
    }

    #[test]
    fn links_hear_of_losses_and_of_congestion() {
        let counted = PortCounters {
            sent: Some(1000),
            sequence_naks: Some(3),
            timeouts: Some(1),
            ..PortCounters::default()
        };
        let told = PortSignals {
            sent: 1000,
            packet_bytes: 4096,
            lost: 4,
            congested_for: Nanos::ZERO,
        };
        assert_eq!(counted.signals(4096), Some(told));
        let notified = PortCounters {
            cnps_handled: Some(1),
            ..counted
        };
        let held = |counted: PortCounters| counted.signals(4096).unwrap().congested_for;
        assert_eq!(held(notified), CONGESTED_FOR);
        // Pauses are news only once a second.
        let paused = PortCounters {
            pauses_received: Some(1),
            ..notified
        };
        assert_eq!(held(paused), PAUSE_EVERY);
        // Losses of an unknown number of packets say nothing.
        let blind = PortCounters {
            sent: None,
            ..counted
        };
        assert_eq!(blind.signals(4096), None);
    }

    #[test]
    fn what_was_counted_in_between_is_never_a_huge_number() {
        let all = |value| PortCounters {
            sent: value,
            cnps_handled: value,
            sequence_naks: value,
            timeouts: value,
            pauses_received: value,
        };
        let since = |now, before| all(now).since(&all(before));
        assert_eq!(since(Some(12), Some(5)), all(Some(7)));
        assert_eq!(since(Some(5), Some(5)), all(Some(0)));
        // Reset, or 32 bits and round again.
        assert_eq!(since(Some(3), Some(u64::from(u32::MAX))), all(None));
        assert_eq!(since(None, Some(5)), all(None));
        assert_eq!(since(Some(5), None), all(None));
    }

    #[test]
    fn an_adapter_of_efa_spreads_by_itself() {
        let tree = Tree::new("driver");
        for (device, driver) in [
            ("rdmap0s6", "efa"),
            ("mlx5_0", "mlx5_core"),
            ("efa_x", "efax"),
        ] {
            let driver = format!("../../../bus/pci/drivers/{driver}");
            tree.link(&format!("{device}/device/driver"), &driver);
        }
        tree.file("rxe0/ports/1/state", "4: ACTIVE\n");
        let verdict = |device: &str| multipath(&tree.path().join(device));
        assert!(verdict("rdmap0s6").is_some_and(|why| why.contains("SRD")));
        for device in ["mlx5_0", "efa_x", "rxe0", "none"] {
            assert_eq!(verdict(device), None, "{device}");
        }
    }
}
