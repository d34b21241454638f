//! What an adapter counts at a port: congestion marks and notifications, lost and reordered
//! packets, timeouts, pauses. Completion times say that a port is slow; these figures say whether
//! congestion in the network, loss, or the other end's host makes it so.
//!
//! Each driver has its own names for the same things, so a figure lists them all. It takes the
//! first group of which the device has something: two names in one group are two kinds of the same
//! event and are added; names in different groups are the same counter in the words of different
//! drivers, of which some have old and new ones, and adding them would count twice.
//!
//! The kernel asks an adapter at most every 10 ms (`hw_counters/lifespan`): reading more often
//! gives the same again. A read of one file takes a microsecond or so then, but the first after
//! 10 ms waits for the firmware, as those of `port_xmit_wait` all do, and a sick one can take long
//! to answer. So this is for a thread that may wait.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::ethtool::Statistics;
use crate::clock::Timestamp;
use crate::engine::PortSignals;
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
    /// Packets that left, those of queue pairs alone where the driver tells them apart.
    pub sent: Option<u64>,
    /// Congestion notifications (CNP) that came; only those that slowed a queue pair down, where
    /// the others are counted apart. Packets; of a bond of mlx5 those of all its ports.
    pub cnp_handled: Option<u64>,
    /// Congestion notifications that came and changed nothing. Packets.
    pub cnp_ignored: Option<u64>,
    /// Congestion notifications sent to others, whose packets came here with a mark. Packets.
    pub cnp_sent: Option<u64>,
    /// Packets that came with a congestion mark (ECN).
    pub ecn_marked: Option<u64>,
    /// Packets that came before one that they should have followed. Where packets of a queue pair
    /// take several ways through the network that is no loss, as long as nobody has to send again.
    pub out_of_sequence: Option<u64>,
    /// Others' word that a packet of ours is missing, said or implied by an answer to a later one.
    pub sequence_naks: Option<u64>,
    /// Times that no acknowledgement came in time.
    pub timeouts: Option<u64>,
    /// What was sent again, in the unit of the driver: packets of ionic, rounds of the others. So
    /// it can only be compared with itself.
    pub retransmitted: Option<u64>,
    /// Others' word that no receive was posted for a message of ours.
    pub rnr_naks: Option<u64>,
    /// Time during which the port had something to send and could not, in ticks of the adapter.
    /// Made for the credits of native `InfiniBand`: on Ethernet the pauses say it.
    pub xmit_wait_ticks: Option<u64>,
    /// Frames that told this port to pause: the network is congested. This and the next three are
    /// of all priorities together, and change once a second.
    pub pauses_received: Option<u64>,
    /// Frames by which this port told the switch to pause: this host is too slow.
    pub pauses_sent: Option<u64>,
    /// Time during which this port was told to pause, in microseconds, added up over priorities.
    pub paused_us: Option<u64>,
    /// Time during which this port told the switch to pause, likewise.
    pub pausing_us: Option<u64>,
}

/// One figure, and under which names it is found.
struct Figure {
    of: fn(&mut PortCounters) -> &mut Option<u64>,
    /// The first group of which there is something, added up.
    names: &'static [&'static [&'static str]],
}

/// From sysfs. The first names are those of mlx5, and of newer drivers of bnxt. Sources: Linux,
/// `drivers/infiniband`: `hw/mlx5/counters.c`, `hw/bnxt_re/hw_counters.c`, `hw/irdma/verbs.c`,
/// `hw/mana/counters.c`, `sw/rxe/rxe_hw_counters.c`; of ionic, whose names come from its firmware,
/// `rdma_stats_hdrs` there. The optional counters of mlx5 (`cc_rx_ce_pkts` and others) are never in
/// sysfs.
const FIGURES: &[Figure] = &[
    Figure {
        of: |c| &mut c.sent,
        names: &[
            &["sent_pkts"],                // rxe
            &["tx_roce_only_pkts"],        // bnxt
            &["ip4OutPkts", "ip6OutPkts"], // irdma
            &["tx_rdma_ucast_pkts"],       // ionic
            &["port_xmit_packets"],        // the others: what the standard calls it
        ],
    },
    Figure {
        of: |c| &mut c.cnp_handled,
        names: &[
            &["rp_cnp_handled"],
            &["rx_cnp_pkts"],      // bnxt
            &["cnpHandled"],       // irdma
            &["rx_rdma_cnp_pkts"], // ionic
            &["received_cnps"],    // mana
        ],
    },
    Figure {
        of: |c| &mut c.cnp_ignored,
        names: &[&["rp_cnp_ignored"], &["cnpIgnored"]],
    },
    Figure {
        of: |c| &mut c.cnp_sent,
        names: &[
            &["np_cnp_sent"],
            &["np_cnp_pkts"],      // bnxt, newer
            &["tx_cnp_pkts"],      // bnxt
            &["cnpSent"],          // irdma
            &["tx_rdma_cnp_pkts"], // ionic
            &["sent_cnps"],        // mana, of the device
        ],
    },
    Figure {
        of: |c| &mut c.ecn_marked,
        names: &[
            &["np_ecn_marked_roce_packets"],
            &["rx_ecn_marked_pkts"], // bnxt
            &["RxECNMrkd"],          // irdma
            &["rx_rdma_ecn_pkts"],   // ionic
            &["received_ecns"],      // mana, of the device
        ],
    },
    Figure {
        of: |c| &mut c.out_of_sequence,
        names: &[
            &["out_of_sequence"],
            &["oos_drop_count"],            // bnxt
            &["Rcvd Out of order packets"], // irdma
            &["resp_rx_outouf_seq"],        // ionic: what came, or else what it answered to that
            &["resp_tx_pkt_seq_err"],
            &["responder_oos"],      // mana
            &["out_of_seq_request"], // rxe
        ],
    },
    Figure {
        of: |c| &mut c.sequence_naks,
        names: &[
            &["packet_seq_err", "implied_nak_seq_err"],
            &["seq_err_naks_rcvd", "missing_resp"], // bnxt
            &["Nak Sequence Error", "Nak Sequence Error Implied"], // irdma
            &["req_rx_pkt_seq_err", "req_rx_impl_nak_seq_err"], // ionic
            &["requester_oos_nak", "requester_implicit_nak"], // mana
            &["rcvd_seq_err"],                      // rxe
        ],
    },
    // mlx5's `roce_adp_retrans_to` is not added: whether it counts the same timeouts once more is
    // not documented.
    Figure {
        of: |c| &mut c.timeouts,
        names: &[
            &["local_ack_timeout_err"],
            &["to_retransmits"],      // bnxt
            &["RTO"],                 // irdma
            &["tx_rdma_ack_timeout"], // ionic
            &["requester_timeout"],   // mana
        ],
    },
    Figure {
        of: |c| &mut c.retransmitted,
        names: &[
            &["roce_adp_retrans"],
            &["tx_rdma_retx_pkts"],   // ionic
            &["completer_retry_err"], // rxe: after a timeout and after a NAK
        ],
    },
    Figure {
        of: |c| &mut c.rnr_naks,
        names: &[
            &["rnr_nak_retry_err"],
            &["rnr_naks_rcvd"],        // bnxt
            &["RNR received"],         // irdma
            &["req_rx_rnr_retry_err"], // ionic
            &["requester_rnr_nak"],    // mana
            &["rcvd_rnr_err"],         // rxe
        ],
    },
    Figure {
        of: |c| &mut c.xmit_wait_ticks,
        names: &[&["port_xmit_wait"]],
    },
];

/// From the interface's statistics, where `#` is the number of a priority. Sources: Linux,
/// `drivers/net/ethernet`: `mellanox/mlx5/core/en_stats.c`, `broadcom/bnxt/bnxt_ethtool.c`,
/// `intel/ice/ice_ethtool.c`, `pensando/ionic/ionic_stats.c`. A group has the frames of priorities
/// and those that pause the whole link, which are different frames.
const PAUSES: &[Figure] = &[
    Figure {
        of: |c| &mut c.pauses_received,
        names: &[
            &["rx_prio#_pause", "rx_global_pause"],
            // mlx5, which has the above only for what is switched on.
            &["rx_pause_ctrl_phy"],
            &["rx_pfc_ena_frames_pri#", "rx_pause_frames"], // bnxt
            &["rx_priority_#_xoff.nic", "link_xoff_rx.nic"], // ice, below irdma
            &["frames_rx_pripause", "frames_rx_pause"],     // ionic
        ],
    },
    Figure {
        of: |c| &mut c.pauses_sent,
        names: &[
            &["tx_prio#_pause", "tx_global_pause"],
            &["tx_pause_ctrl_phy"],
            &["tx_pfc_ena_frames_pri#", "tx_pause_frames"],
            &["tx_priority_#_xoff.nic", "link_xoff_tx.nic"],
            &["frames_tx_pripause", "frames_tx_pause"],
        ],
    },
    Figure {
        of: |c| &mut c.paused_us,
        names: &[
            &["rx_prio#_pause_duration", "rx_global_pause_duration"],
            &["pfc_pri#_rx_duration_us"],
            &["rx_pripause_#_1us_count", "rx_pause_1us_count"],
        ],
    },
    Figure {
        of: |c| &mut c.pausing_us,
        names: &[
            &["tx_prio#_pause_duration", "tx_global_pause_duration"],
            &["pfc_pri#_tx_duration_us"],
            &["tx_pripause_#_1us_count"],
        ],
    },
];

/// The counters of one port, held open.
#[derive(Debug)]
pub struct Counters {
    /// Of each of [`FIGURES`].
    files: Vec<Vec<File>>,
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
        let device = sysfs.join(device);
        let port = device.join("ports").join(port.to_string());
        // Some drivers count some things, or in some modes all, for the device as a whole.
        let folders = [
            port.join("hw_counters"),
            device.join("hw_counters"),
            port.join("counters"),
        ];
        let open = |name: &str| folders.iter().find_map(|f| File::open(f.join(name)).ok());
        Self {
            files: FIGURES.iter().map(|f| choose(f.names, open)).collect(),
            pauses: interface.map(Pauses::new),
        }
    }

    /// The present figures.
    #[must_use]
    pub fn read(&mut self) -> PortCounters {
        let pauses = self.pauses.as_mut();
        let mut counters = pauses.map_or_else(PortCounters::default, Pauses::read);
        for (figure, files) in FIGURES.iter().zip(&self.files) {
            *(figure.of)(&mut counters) = sum(files.iter().map(number));
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
            } else if count(self.cnp_handled) > 0 {
                CONGESTED_FOR
            } else {
                Nanos::ZERO
            },
        })
    }

    /// What has been counted since `before`. A counter that is lower than it was has been reset, or
    /// has begun again at zero, as those of mlx5 do after 32 bits: what it counted is not known
    /// then, and zero stands for it.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let (mut counted, mut before) = (*self, *before);
        for figure in FIGURES.iter().chain(PAUSES) {
            let now = (figure.of)(&mut counted);
            let before = *(figure.of)(&mut before);
            *now = now.zip(before).map(|(now, then)| now.saturating_sub(then));
        }
        counted
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
/// of sequence while nobody asks for them again ([`PortCounters::out_of_sequence`] here,
/// [`PortCounters::sequence_naks`] at the other end), and that all source ports are equally fast.
#[must_use]
pub fn multipath(device: &Path) -> Option<&'static str> {
    // The name of a device can be changed, that of its driver cannot.
    let driver = fs::read_link(device.join("device/driver")).ok()?;
    (driver.file_name()? == "efa").then_some("EFA: SRD spreads packets over many paths")
}

/// What an interface says about pauses.
#[derive(Debug)]
struct Pauses {
    interface: String,
    /// The statistics, and which of them make up each of [`PAUSES`].
    source: Option<(Statistics, Vec<Vec<usize>>)>,
    asked: Option<Timestamp>,
    latest: PortCounters,
}

impl Pauses {
    fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            source: None,
            asked: None,
            latest: PortCounters::default(),
        }
    }

    fn read(&mut self) -> PortCounters {
        let now = Timestamp::now();
        if self.asked.is_none_or(|at| now.since(at) >= PAUSE_EVERY) {
            self.asked = Some(now);
            self.latest = self.ask().unwrap_or_default();
        }
        self.latest
    }

    fn ask(&mut self) -> Option<PortCounters> {
        let (mut statistics, chosen) = self.source.take().or_else(|| self.open())?;
        // Where that fails they are opened again next time: settings change what there is.
        let counters = counters(&chosen, statistics.read().ok()?);
        self.source = Some((statistics, chosen));
        Some(counters)
    }

    fn open(&self) -> Option<(Statistics, Vec<Vec<usize>>)> {
        let statistics = Statistics::open(&self.interface).ok()?;
        let chosen = choose_pauses(statistics.names());
        // Reading costs much, and there may be nothing about pauses, yet.
        let any = chosen.iter().any(|chosen| !chosen.is_empty());
        any.then_some((statistics, chosen))
    }
}

/// Which of the statistics make up each of [`PAUSES`].
fn choose_pauses(names: &[String]) -> Vec<Vec<usize>> {
    let places = |pattern: &str| -> Vec<usize> {
        let matching = names.iter().enumerate();
        let matching = matching.filter(|(_, name)| matches(pattern, name));
        matching.map(|(at, _)| at).collect()
    };
    PAUSES.iter().map(|f| choose(f.names, places)).collect()
}

fn counters(chosen: &[Vec<usize>], values: &[u64]) -> PortCounters {
    let mut counters = PortCounters::default();
    for (figure, chosen) in PAUSES.iter().zip(chosen) {
        let value = |&at: &usize| values.get(at).copied();
        *(figure.of)(&mut counters) = sum(chosen.iter().map(value));
    }
    counters
}

/// `#` is a number.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('#') else {
        return name == pattern;
    };
    let number = name
        .strip_prefix(before)
        .and_then(|n| n.strip_suffix(after));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|digit| digit.is_ascii_digit()))
}

/// What is found under the names of the first group of which there is something.
fn choose<T, F: IntoIterator<Item = T>>(names: &[&[&str]], find: impl Fn(&str) -> F) -> Vec<T> {
    let groups = names.iter();
    let mut found = groups.map(|group| group.iter().flat_map(|name| find(name)).collect());
    found
        .find(|found: &Vec<T>| !found.is_empty())
        .unwrap_or_default()
}

/// None if there is nothing, or if one of them is not known: a part of the sum would look like a
/// counter that was reset.
fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let add = |sum: Option<u64>, value: Option<u64>| Some(sum?.saturating_add(value?));
    values.reduce(add).flatten()
}

/// What a file of sysfs says now; the kernel writes it anew whenever it is read from its start.
fn number(file: &File) -> Option<u64> {
    // 20 digits and the end of the line.
    let mut text = [0; 32];
    let bytes = file.read_at(&mut text, 0).ok()?;
    let text = str::from_utf8(text.get(..bytes)?).ok()?;
    // "N/A (no PMA)" where the device does not know, and all ones where ionic could not ask.
    text.trim().parse().ok().filter(|&value| value != u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    /// A port with these counters, the first of which says 1, the second 2, and so on.
    fn port(tree: &Tree, folder: &str, names: &[&str]) -> Counters {
        for (at, name) in names.iter().enumerate() {
            tree.file(&format!("nic0/{folder}/{name}"), &format!("{}\n", at + 1));
        }
        open(tree)
    }

    fn open(tree: &Tree) -> Counters {
        Counters::open(tree.path(), "nic0", 1, None)
    }

    const PORT: &str = "ports/1/hw_counters";

    #[test]
    fn mlx5() {
        let tree = Tree::new("mlx5");
        let names = [
            "rp_cnp_handled",
            "rp_cnp_ignored",
            "np_cnp_sent",
            "np_ecn_marked_roce_packets",
            "out_of_sequence",
            "packet_seq_err",
            "implied_nak_seq_err",
            "local_ack_timeout_err",
            "roce_adp_retrans",
            "roce_adp_retrans_to",
            "rnr_nak_retry_err",
        ];
        let wait = "nic0/ports/1/counters/port_xmit_wait";
        tree.file(wait, "77\n");
        let figures = PortCounters {
            cnp_handled: Some(1),
            cnp_ignored: Some(2),
            cnp_sent: Some(3),
            ecn_marked: Some(4),
            out_of_sequence: Some(5),
            sequence_naks: Some(6 + 7),
            timeouts: Some(8),
            retransmitted: Some(9),
            rnr_naks: Some(11),
            xmit_wait_ticks: Some(77),
            ..PortCounters::default()
        };
        assert_eq!(port(&tree, PORT, &names).read(), figures);
        // Another port counts for itself, and without management datagrams there is no wait.
        tree.file("nic0/ports/2/hw_counters/rp_cnp_handled", "50\n");
        let second = Counters::open(tree.path(), "nic0", 2, None).read();
        assert_eq!(
            second,
            PortCounters {
                cnp_handled: Some(50),
                ..PortCounters::default()
            }
        );
        tree.file(wait, "N/A (no PMA)\n");
        assert_eq!(open(&tree).read().xmit_wait_ticks, None);
    }

    #[test]
    fn mlx5_with_representors_counts_at_the_device() {
        let tree = Tree::new("switchdev");
        tree.file("nic0/ports/1/hw_counters/vport_out_of_sequence", "9\n");
        let names = ["np_cnp_sent", "out_of_sequence"];
        let figures = port(&tree, "hw_counters", &names).read();
        assert_eq!(
            (figures.cnp_sent, figures.out_of_sequence),
            (Some(1), Some(2))
        );
    }

    #[test]
    fn bnxt_re_in_its_old_and_new_words() {
        let expected = PortCounters {
            cnp_handled: Some(1),
            cnp_sent: Some(2),
            ecn_marked: Some(3),
            out_of_sequence: Some(4),
            sequence_naks: Some(5 + 6),
            timeouts: Some(7),
            rnr_naks: Some(8),
            ..PortCounters::default()
        };
        let old = [
            "rx_cnp_pkts",
            "tx_cnp_pkts",
            "rx_ecn_marked_pkts",
            "oos_drop_count",
            "seq_err_naks_rcvd",
            "missing_resp",
            "to_retransmits",
            "rnr_naks_rcvd",
        ];
        let new = [
            "rp_cnp_handled",
            "np_cnp_pkts",
            "np_ecn_marked_roce_packets",
            "out_of_sequence",
            "packet_seq_err",
            "implied_nak_seq_err",
            "local_ack_timeout_err",
            "rnr_nak_retry_err",
        ];
        let tree = Tree::new("bnxt-old");
        assert_eq!(port(&tree, PORT, &old).read(), expected);
        let tree = Tree::new("bnxt-new");
        assert_eq!(port(&tree, PORT, &new).read(), expected);
        // A driver that keeps the old names beside the new ones does not count twice.
        assert_eq!(port(&tree, PORT, &old).read(), expected);
    }

    #[test]
    fn irdma() {
        let tree = Tree::new("irdma");
        let names = [
            "cnpHandled",
            "cnpIgnored",
            "cnpSent",
            "RxECNMrkd",
            "Rcvd Out of order packets",
            "Nak Sequence Error",
            "Nak Sequence Error Implied",
            "RTO",
            "RNR received",
        ];
        let figures = PortCounters {
            cnp_handled: Some(1),
            cnp_ignored: Some(2),
            cnp_sent: Some(3),
            ecn_marked: Some(4),
            out_of_sequence: Some(5),
            sequence_naks: Some(6 + 7),
            timeouts: Some(8),
            rnr_naks: Some(9),
            ..PortCounters::default()
        };
        assert_eq!(port(&tree, PORT, &names).read(), figures);
    }

    #[test]
    fn ionic() {
        let tree = Tree::new("ionic");
        let names = [
            "rx_rdma_cnp_pkts",
            "tx_rdma_cnp_pkts",
            "rx_rdma_ecn_pkts",
            "resp_tx_pkt_seq_err",
            "req_rx_pkt_seq_err",
            "req_rx_impl_nak_seq_err",
            "tx_rdma_ack_timeout",
            "tx_rdma_retx_pkts",
            "req_rx_rnr_retry_err",
        ];
        let mut figures = PortCounters {
            cnp_handled: Some(1),
            cnp_sent: Some(2),
            ecn_marked: Some(3),
            out_of_sequence: Some(4),
            sequence_naks: Some(5 + 6),
            timeouts: Some(7),
            retransmitted: Some(8),
            rnr_naks: Some(9),
            ..PortCounters::default()
        };
        assert_eq!(port(&tree, PORT, &names).read(), figures);
        // What came out of sequence is known better where it is counted itself.
        let file = |name: &str, text: &str| tree.file(&format!("nic0/{PORT}/{name}"), text);
        file("resp_rx_outouf_seq", "44\n");
        figures.out_of_sequence = Some(44);
        assert_eq!(open(&tree).read(), figures);
        // All ones: the firmware did not answer.
        file("req_rx_pkt_seq_err", &format!("{}\n", u64::MAX));
        figures.sequence_naks = None;
        assert_eq!(open(&tree).read(), figures);
    }

    #[test]
    fn mana_counts_partly_at_the_device() {
        let tree = Tree::new("mana");
        tree.file("nic0/hw_counters/sent_cnps", "21\n");
        tree.file("nic0/hw_counters/received_ecns", "22\n");
        let names = [
            "received_cnps",
            "responder_oos",
            "requester_oos_nak",
            "requester_implicit_nak",
            "requester_timeout",
            "requester_rnr_nak",
        ];
        let figures = PortCounters {
            cnp_handled: Some(1),
            cnp_sent: Some(21),
            ecn_marked: Some(22),
            out_of_sequence: Some(2),
            sequence_naks: Some(3 + 4),
            timeouts: Some(5),
            rnr_naks: Some(6),
            ..PortCounters::default()
        };
        assert_eq!(port(&tree, PORT, &names).read(), figures);
    }

    #[test]
    fn rxe() {
        let tree = Tree::new("rxe");
        let names = [
            "out_of_seq_request",
            "rcvd_seq_err",
            "completer_retry_err",
            "rcvd_rnr_err",
            "send_rnr_err",
            "sent_pkts",
        ];
        let figures = PortCounters {
            out_of_sequence: Some(1),
            sequence_naks: Some(2),
            retransmitted: Some(3),
            rnr_naks: Some(4),
            sent: Some(6),
            ..PortCounters::default()
        };
        assert_eq!(port(&tree, PORT, &names).read(), figures);
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
            cnp_handled: Some(1),
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
    fn a_port_that_counts_nothing_has_no_figures() {
        let nothing = PortCounters::default();
        let tree = Tree::new("nothing");
        tree.file("nic0/ports/1/state", "4: ACTIVE\n");
        assert_eq!(open(&tree).read(), nothing);
        let mut gone = Counters::open(Path::new("/nonexistent"), "nic0", 1, Some("thalweg-none"));
        assert_eq!(gone.read(), nothing);
        assert_eq!(gone.read(), nothing);
    }

    #[test]
    fn what_is_read_is_what_is_counted_now_until_the_device_vanishes() {
        let tree = Tree::new("vanish");
        let (handled, naks) = (format!("nic0/{PORT}/rp_cnp_handled"), "packet_seq_err");
        let mut counters = port(
            &tree,
            PORT,
            &["rp_cnp_handled", naks, "implied_nak_seq_err"],
        );
        let mut read = || {
            let PortCounters {
                cnp_handled,
                sequence_naks,
                ..
            } = counters.read();
            (cnp_handled, sequence_naks)
        };
        assert_eq!(read(), (Some(1), Some(5)));
        tree.file(&handled, "4294967296\n");
        assert_eq!(read(), (Some(4_294_967_296), Some(5)));
        // One half that cannot be read any more takes the sum with it.
        tree.file(&format!("nic0/{PORT}/{naks}"), "");
        assert_eq!(read(), (Some(4_294_967_296), None));
        tree.file(&handled, "what\n");
        assert_eq!(read(), (None, None));
        // The kernel answers with an error once a device is gone; a folder does so here.
        let tree = Tree::new("unreadable");
        tree.file(&format!("nic0/{PORT}/rp_cnp_handled/folder"), "");
        tree.file(&format!("nic0/{PORT}/out_of_sequence"), "3\n");
        let figures = open(&tree).read();
        assert_eq!(
            (figures.cnp_handled, figures.out_of_sequence),
            (None, Some(3))
        );
    }

    /// All figures at one value, so that none is forgotten in the tables.
    fn all(value: Option<u64>) -> PortCounters {
        PortCounters {
            sent: value,
            cnp_handled: value,
            cnp_ignored: value,
            cnp_sent: value,
            ecn_marked: value,
            out_of_sequence: value,
            sequence_naks: value,
            timeouts: value,
            retransmitted: value,
            rnr_naks: value,
            xmit_wait_ticks: value,
            pauses_received: value,
            pauses_sent: value,
            paused_us: value,
            pausing_us: value,
        }
    }

    #[test]
    fn what_was_counted_in_between_is_never_a_huge_number() {
        let since = |now, before| all(now).since(&all(before));
        assert_eq!(since(Some(12), Some(5)), all(Some(7)));
        assert_eq!(since(Some(5), Some(5)), all(Some(0)));
        // Reset, or 32 bits and round again.
        assert_eq!(since(Some(3), Some(u64::from(u32::MAX))), all(Some(0)));
        assert_eq!(since(None, Some(5)), all(None));
        assert_eq!(since(Some(5), None), all(None));
    }

    /// What an interface with these statistics says, the first of which is 1, the second 2, ...
    fn pauses(names: &[&str]) -> [Option<u64>; 4] {
        let values: Vec<u64> = (1..).take(names.len()).collect();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let c = counters(&choose_pauses(&names), &values);
        [c.pauses_received, c.pauses_sent, c.paused_us, c.pausing_us]
    }

    #[test]
    fn pauses_are_added_over_priorities_and_counted_once() {
        let mlx5 = [
            "rx_pause_ctrl_phy",
            "tx_pause_ctrl_phy",
            "rx_prio3_pause",
            "rx_prio3_pause_duration",
            "tx_prio3_pause",
            "tx_prio3_pause_duration",
            "rx_prio3_pause_transition",
            "rx_prio10_pause",
            "rx_prio_pause",
            "rx_prio3_packets",
        ];
        assert_eq!(pauses(&mlx5), [Some(3 + 8), Some(5), Some(4), Some(6)]);
        // Neither kind of pause is switched on.
        assert_eq!(pauses(&mlx5[..2]), [Some(1), Some(2), None, None]);
        let global = [
            "rx_pause_ctrl_phy",
            "rx_global_pause",
            "rx_global_pause_duration",
            "tx_global_pause",
            "tx_global_pause_duration",
        ];
        assert_eq!(pauses(&global), [Some(2), Some(4), Some(3), Some(5)]);
        let bnxt = [
            "rx_pause_frames",
            "rx_pfc_frames",
            "rx_pfc_ena_frames_pri0",
            "rx_pfc_ena_frames_pri7",
            "tx_pause_frames",
            "tx_pfc_ena_frames_pri3",
            "pfc_pri0_rx_duration_us",
            "pfc_pri0_rx_transitions",
            "pfc_pri0_tx_duration_us",
        ];
        assert_eq!(
            pauses(&bnxt),
            [Some(1 + 3 + 4), Some(5 + 6), Some(7), Some(9)]
        );
        let ice = [
            "link_xon_rx.nic",
            "link_xoff_rx.nic",
            "link_xoff_tx.nic",
            "tx_priority_0_xon.nic",
            "tx_priority_0_xoff.nic",
            "rx_priority_0_xoff.nic",
            "rx_priority_1_xoff.nic",
        ];
        assert_eq!(pauses(&ice), [Some(2 + 6 + 7), Some(3 + 5), None, None]);
        let ionic = [
            "frames_rx_pause",
            "frames_rx_pripause",
            "frames_tx_pause",
            "frames_tx_pripause",
            "tx_pripause_0_1us_count",
            "rx_pripause_0_1us_count",
            "rx_pripause_7_1us_count",
            "rx_pause_1us_count",
        ];
        let expected = [Some(1 + 2), Some(3 + 4), Some(6 + 7 + 8), Some(5)];
        assert_eq!(pauses(&ionic), expected);
        // A virtual interface.
        assert_eq!(pauses(&["peer_ifindex", "rx_queue_0_packets"]), [None; 4]);
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
