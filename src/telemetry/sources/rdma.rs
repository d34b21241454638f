//! What an RDMA device counts at a port, in `hw_counters` and `counters` of sysfs: congestion marks and
//! notifications, lost and reordered packets, timeouts. Completion times say that a port is slow; these
//! figures say whether congestion in the network, loss, or the other end's host makes it so.
//!
//! The kernel asks an adapter at most every 10 ms (`hw_counters/lifespan`): reading more often gives the same
//! again. A read of one file takes a microsecond or so then, but the first after 10 ms waits for the
//! firmware, as those of `port_xmit_wait` all do, and a sick one can take long to answer. So this is for a
//! thread that may wait.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::figure::{Figure, sum};
use crate::telemetry::schema::PortCounter;

/// The first names are those of mlx5, and of newer drivers of bnxt. Sources: Linux,
/// `drivers/infiniband`: `hw/mlx5/counters.c`, `hw/bnxt_re/hw_counters.c`, `hw/irdma/verbs.c`,
/// `hw/mana/counters.c`, `sw/rxe/rxe_hw_counters.c`; of ionic, whose names come from its firmware,
/// `rdma_stats_hdrs` there. What the InfiniBand standard calls its own is from
/// `Documentation/ABI/stable/sysfs-class-infiniband`. The optional counters of mlx5 (`cc_rx_ce_pkts` and
/// others) are never in sysfs.
const FIGURES: &[Figure<PortCounter>] = &[
    Figure {
        is: PortCounter::RdmaSentPackets,
        names: &[
            &["sent_pkts"],                // rxe
            &["tx_roce_only_pkts"],        // bnxt
            &["tx_pkts"],                  // bnxt, of the statistics that its queue pairs have
            &["ip4OutPkts", "ip6OutPkts"], // irdma
            &["tx_rdma_ucast_pkts"],       // ionic
            &["tx_packets"],               // mana
            &["port_xmit_packets"],        // the others: what the standard calls it
        ],
    },
    Figure {
        is: PortCounter::RdmaReceivedPackets,
        names: &[
            &["rcvd_pkts"],
            &["rx_roce_only_pkts"],
            &["rx_pkts"],
            &["ip4InPkts", "ip6InPkts"],
            &["rx_rdma_ucast_pkts"],
            &["rx_packets"],
            &["port_rcv_packets"],
        ],
    },
    Figure {
        is: PortCounter::RdmaSentBytes,
        names: &[
            &["tx_roce_only_bytes"],           // bnxt
            &["tx_bytes"],                     // bnxt, mana
            &["ip4OutOctets", "ip6OutOctets"], // irdma
            &["tx_rdma_ucast_bytes"],          // ionic
            &[XMIT_DATA],
        ],
    },
    Figure {
        is: PortCounter::RdmaReceivedBytes,
        names: &[
            &["rx_roce_only_bytes"],
            &["rx_bytes"],
            &["ip4InOctets", "ip6InOctets"],
            &["rx_rdma_ucast_bytes"],
            &[RCV_DATA],
        ],
    },
    Figure {
        is: PortCounter::CnpsHandled,
        names: &[
            &["rp_cnp_handled"],
            &["rx_cnp_pkts"],      // bnxt
            &["cnpHandled"],       // irdma
            &["rx_rdma_cnp_pkts"], // ionic
            &["received_cnps"],    // mana
        ],
    },
    Figure {
        is: PortCounter::CnpsIgnored,
        names: &[&["rp_cnp_ignored"], &["cnpIgnored"]],
    },
    Figure {
        is: PortCounter::CnpsSent,
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
        is: PortCounter::EcnMarkedPackets,
        names: &[
            &["np_ecn_marked_roce_packets"],
            &["rx_ecn_marked_pkts"], // bnxt
            &["RxECNMrkd"],          // irdma
            &["rx_rdma_ecn_pkts"],   // ionic
            &["received_ecns"],      // mana, of the device
        ],
    },
    Figure {
        is: PortCounter::OutOfSequencePackets,
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
        is: PortCounter::SequenceNaks,
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
        is: PortCounter::AckTimeouts,
        names: &[
            &["local_ack_timeout_err"],
            &["to_retransmits"],      // bnxt
            &["RTO"],                 // irdma
            &["tx_rdma_ack_timeout"], // ionic
            &["requester_timeout"],   // mana
        ],
    },
    Figure {
        is: PortCounter::RetriesExceeded,
        names: &[
            &["req_transport_retries_exceeded"],
            &["max_retry_exceeded"],         // bnxt
            &["req_tx_retry_excd_err"],      // ionic
            &["requester_retries_exceeded"], // mana
            &["retry_exceeded_err"],         // rxe
        ],
    },
    Figure {
        is: PortCounter::Retransmitted,
        names: &[
            &["roce_adp_retrans"],
            &["tx_rdma_retx_pkts"],   // ionic
            &["completer_retry_err"], // rxe: after a timeout and after a NAK
        ],
    },
    Figure {
        is: PortCounter::RetransmittedBytes,
        names: &[&["tx_rdma_retx_bytes"]], // ionic
    },
    Figure {
        is: PortCounter::SlowRestarts,
        names: &[&["roce_slow_restart"]],
    },
    Figure {
        is: PortCounter::RnrNaksReceived,
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
        is: PortCounter::RnrNaksSent,
        names: &[
            &["RNR sent"],              // irdma
            &["resp_tx_rnr_retry_err"], // ionic
            &["responder_rnr_nak"],     // mana
            &["send_rnr_err"],          // rxe
        ],
    },
    Figure {
        is: PortCounter::RnrRetriesExceeded,
        names: &[
            &["req_rnr_retries_exceeded"],
            &["requester_rnr_nak_retries_exceeded"], // mana
            &["retry_rnr_exceeded_err"],             // rxe
        ],
    },
    Figure {
        is: PortCounter::NoReceiveBuffer,
        names: &[
            &["out_of_buffer"],
            &["rx_out_of_buffer"],  // bnxt
            &["resp_rx_outof_buf"], // ionic
        ],
    },
    Figure {
        is: PortCounter::DuplicateRequests,
        names: &[
            &["duplicate_request"],     // rxe too
            &["dup_req"],               // bnxt
            &["resp_rx_dup_request"],   // ionic
            &["responder_dup_request"], // mana
        ],
    },
    Figure {
        is: PortCounter::RequesterErrors,
        names: &[
            &["req_cqe_error"],
            // bnxt: each of them ends a request.
            &[
                "bad_resp_err",
                "local_qp_op_err",
                "local_protection_err",
                "mem_mgmt_op_err",
                "remote_invalid_req_err",
                "remote_access_err",
                "remote_op_err",
            ],
            &["req_rx_cqe_err"], // ionic
            &["send_err"],       // rxe
        ],
    },
    Figure {
        is: PortCounter::ResponderErrors,
        names: &[
            &["resp_cqe_error"],
            // bnxt: each of them ends a receive or an answer.
            &[
                "res_exceed_max",
                "res_length_mismatch",
                "res_exceeds_wqe",
                "res_opcode_err",
                "res_rx_invalid_rkey",
                "res_rx_domain_err",
                "res_rx_no_perm",
                "res_rx_range_err",
                "res_tx_invalid_rkey",
                "res_tx_domain_err",
                "res_tx_no_perm",
                "res_tx_range_err",
                "res_irrq_oflow",
                "res_unsup_opcode",
                "res_unaligned_atomic",
                "res_rem_inv_err",
                "res_mem_err",
                "res_srq_err",
                "res_cmp_err",
                "res_invalid_dup_rkey",
                "res_wqe_format_err",
                "res_cq_load_err",
                "res_srq_load_err",
                "res_tx_pci_err",
                "res_rx_pci_err",
            ],
            &["resp_rx_cqe_err"], // ionic
        ],
    },
    Figure {
        is: PortCounter::Flushed,
        names: &[
            &["req_cqe_flush_error", "resp_cqe_flush_error"],
            &["req_rx_cqe_flush", "resp_rx_cqe_flush"], // ionic
        ],
    },
    Figure {
        is: PortCounter::IcrcErrors,
        names: &[&["rx_icrc_encapsulated"], &["CRC errors"]], // mlx5, irdma
    },
    Figure {
        is: PortCounter::RdmaDiscards,
        names: &[
            &["rx_roce_discards"],               // bnxt
            &["ip4InDiscards", "ip6InDiscards"], // irdma
            &["rx_rdma_mtu_discard_pkts"],       // ionic
        ],
    },
    Figure {
        is: PortCounter::XmitWaitTicks,
        names: &[&["port_xmit_wait"]],
    },
    Figure {
        is: PortCounter::XmitDiscards,
        names: &[&["port_xmit_discards"]],
    },
    Figure {
        is: PortCounter::RdmaReceiveErrors,
        names: &[&["rx_roce_errors"], &["port_rcv_errors"]], // bnxt, the standard
    },
    Figure {
        is: PortCounter::RdmaSymbolErrors,
        names: &[&["symbol_error"]],
    },
    Figure {
        is: PortCounter::RdmaLinkDowns,
        names: &[&["link_downed"]],
    },
    Figure {
        is: PortCounter::RdmaLinkRecoveries,
        names: &[&["link_error_recovery"]],
    },
    Figure {
        is: PortCounter::RdmaLinkIntegrityErrors,
        names: &[&["local_link_integrity_errors"]],
    },
    Figure {
        is: PortCounter::RdmaBufferOverruns,
        names: &[&["excessive_buffer_overrun_errors"]],
    },
];

// Those two are told in words of four bytes.
const XMIT_DATA: &str = "port_xmit_data";
const RCV_DATA: &str = "port_rcv_data";

/// Counters of mlx5 that its firmware keeps in 32 bits; the others are of 64. Sources as above
/// (`mlx5_ib_query_q_counters`), and `mlx5/core/en_stats.c` for those of the interface.
const MLX5_SHORT: &[PortCounter] = &[
    PortCounter::OutOfSequencePackets,
    PortCounter::SequenceNaks,
    PortCounter::AckTimeouts,
    PortCounter::RetriesExceeded,
    PortCounter::Retransmitted,
    PortCounter::SlowRestarts,
    PortCounter::RnrNaksReceived,
    PortCounter::RnrRetriesExceeded,
    PortCounter::NoReceiveBuffer,
    PortCounter::DuplicateRequests,
    PortCounter::RequesterErrors,
    PortCounter::ResponderErrors,
    PortCounter::Flushed,
    PortCounter::ReceiveOutOfBuffer,
    PortCounter::DeviceOutOfBuffer,
    PortCounter::LinkDowns,
    PortCounter::PcieReadStalls,
    PortCounter::PcieWriteStalls,
    PortCounter::PcieSignalErrors,
];

/// After how many bits a counter of this driver begins again at zero.
#[must_use]
pub fn bits(driver: Option<&str>, counter: PortCounter) -> u32 {
    let is_mlx5 = driver.is_some_and(|driver| driver.starts_with("mlx5_core"));
    if is_mlx5 && MLX5_SHORT.contains(&counter) {
        32
    } else {
        64
    }
}

/// The driver of a device, by its folder under `/sys/class`: the name of a device can be changed, that of
/// its driver cannot.
#[must_use]
pub fn driver(folder: &Path) -> Option<String> {
    let driver = fs::read_link(folder.join("device/driver")).ok()?;
    driver.file_name()?.to_str().map(str::to_owned)
}

/// The counters of one port, held open.
#[derive(Debug)]
pub struct Counters(Vec<(PortCounter, Vec<Word>)>);

/// A file, and of how many units it counts.
#[derive(Debug)]
struct Word {
    file: File,
    of: u64,
}

impl Counters {
    /// Looks for those of the wanted ones that a port has; `sysfs` is `/sys/class/infiniband` but in tests.
    ///
    /// What is not there is not counted. A device that vanishes and comes back has to be opened again.
    #[must_use]
    pub fn open(sysfs: &Path, device: &str, port: u8, wanted: &[PortCounter]) -> Self {
        let device = sysfs.join(device);
        let port = device.join("ports").join(port.to_string());
        // Some drivers count some things, or in some modes all, for the device as a whole.
        let folders = [
            port.join("hw_counters"),
            device.join("hw_counters"),
            port.join("counters"),
        ];
        let open = |name: &str| {
            let file = folders.iter().find_map(|f| File::open(f.join(name)).ok())?;
            let of = if [XMIT_DATA, RCV_DATA].contains(&name) {
                4
            } else {
                1
            };
            Some(Word { file, of })
        };
        let wanted = FIGURES
            .iter()
            .filter(|figure| wanted.contains(&figure.is))
            .map(|figure| (figure.is, figure.choose(open)))
            .filter(|(_, words)| !words.is_empty());
        Self(wanted.collect())
    }

    /// Whether the port has none of them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What there is, with its present values; None if one cannot be read, as after the device has gone.
    pub fn read(&self) -> impl Iterator<Item = (PortCounter, Option<u64>)> {
        let read = |words: &[Word]| sum(words.iter().map(Word::read));
        self.0.iter().map(move |(is, words)| (*is, read(words)))
    }
}

impl Word {
    fn read(&self) -> Option<u64> {
        // 20 digits and the end of the line. The kernel writes it anew whenever it is read from its start.
        let mut text = [0; 32];
        let bytes = self.file.read_at(&mut text, 0).ok()?;
        number(text.get(..bytes)?)?.checked_mul(self.of)
    }
}

/// What a counter's file says. "N/A (no PMA)" where the device does not know, and all ones where ionic could
/// not ask its firmware.
fn number(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    text.trim().parse().ok().filter(|&value| value != u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::Source;
    use super::super::tree::Tree;
    use super::*;
    use crate::telemetry::schema::Table;

    const PORT: &str = "ports/1/hw_counters";

    /// What there is and can be read.
    fn read(counters: &Counters) -> BTreeMap<String, u64> {
        let known = |(is, value): (PortCounter, Option<u64>)| Some((is.metric().field(), value?));
        counters.read().filter_map(known).collect()
    }

    fn map(figures: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let owned = figures
            .iter()
            .map(|&(name, value)| (name.to_owned(), value));
        owned.collect()
    }

    /// Puts counters there, the first of which says 1, the second 2, and so on.
    fn put(tree: &Tree, folder: &str, names: &[&str]) {
        for (at, name) in names.iter().enumerate() {
            tree.file(&format!("nic0/{folder}/{name}"), &format!("{}\n", at + 1));
        }
    }

    fn open(tree: &Tree) -> Counters {
        Counters::open(tree.path(), "nic0", 1, PortCounter::ALL)
    }

    /// Of a driver with these counters, those figures.
    fn driver_has(names: &[&str], figures: &[(&str, u64)]) {
        let tree = Tree::new(&format!("rdma-{}", names[0].replace(' ', "-")));
        put(&tree, PORT, names);
        assert_eq!(read(&open(&tree)), map(figures));
    }

    #[test]
    fn mlx5() {
        let tree = Tree::new("rdma-mlx5");
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
            "req_transport_retries_exceeded",
            "out_of_buffer",
            "duplicate_request",
            "req_cqe_error",
            "resp_cqe_error",
            "req_cqe_flush_error",
            "resp_cqe_flush_error",
            "rx_icrc_encapsulated",
            "roce_slow_restart",
            "req_rnr_retries_exceeded",
            "lifespan",
        ];
        put(&tree, PORT, &names);
        let standard = [
            "port_xmit_data",
            "port_rcv_data",
            "port_xmit_packets",
            "port_rcv_packets",
            "port_xmit_wait",
            "port_xmit_discards",
            "port_rcv_errors",
            "link_downed",
            "symbol_error",
            "link_error_recovery",
            "local_link_integrity_errors",
            "excessive_buffer_overrun_errors",
        ];
        put(&tree, "ports/1/counters", &standard);
        let figures = [
            ("rdma_sent_bytes", 4),
            ("rdma_received_bytes", 8),
            ("rdma_sent_packets", 3),
            ("rdma_received_packets", 4),
            ("xmit_wait_ticks", 5),
            ("xmit_discards", 6),
            ("rdma_receive_errors", 7),
            ("rdma_link_downs", 8),
            ("rdma_symbol_errors", 9),
            ("rdma_link_recoveries", 10),
            ("rdma_link_integrity_errors", 11),
            ("rdma_buffer_overruns", 12),
            ("cnps_handled", 1),
            ("cnps_ignored", 2),
            ("cnps_sent", 3),
            ("ecn_marked_packets", 4),
            ("out_of_sequence_packets", 5),
            ("sequence_naks", 6 + 7),
            ("ack_timeouts", 8),
            ("retransmitted", 9),
            ("rnr_naks_received", 11),
            ("retries_exceeded", 12),
            ("no_receive_buffer", 13),
            ("duplicate_requests", 14),
            ("requester_errors", 15),
            ("responder_errors", 16),
            ("flushed", 17 + 18),
            ("icrc_errors", 19),
            ("slow_restarts", 20),
            ("rnr_retries_exceeded", 21),
        ];
        assert_eq!(read(&open(&tree)), map(&figures));
        // Another port counts for itself, and without management datagrams there is no wait.
        tree.file("nic0/ports/2/hw_counters/rp_cnp_handled", "50\n");
        let second = Counters::open(tree.path(), "nic0", 2, PortCounter::ALL);
        assert_eq!(read(&second), map(&[("cnps_handled", 50)]));
        tree.file("nic0/ports/1/counters/port_xmit_wait", "N/A (no PMA)\n");
        assert!(!read(&open(&tree)).contains_key("xmit_wait_ticks"));
    }

    #[test]
    fn every_figure_of_the_device_has_names() {
        let figures: Vec<_> = FIGURES.iter().map(|figure| figure.is).collect();
        let all = PortCounter::ALL.iter().copied();
        let device: Vec<_> = all.filter(|c| c.source() == Source::Rdma).collect();
        assert_eq!(figures, device);
    }

    #[test]
    fn only_what_is_wanted_is_read() {
        let tree = Tree::new("rdma-wanted");
        put(&tree, PORT, &["rp_cnp_handled", "out_of_sequence"]);
        let wanted = [PortCounter::CnpsHandled, PortCounter::RnrNaksSent];
        let counters = Counters::open(tree.path(), "nic0", 1, &wanted);
        assert_eq!(read(&counters), map(&[("cnps_handled", 1)]));
    }

    #[test]
    fn mlx5_with_representors_counts_at_the_device() {
        let tree = Tree::new("rdma-switchdev");
        tree.file("nic0/ports/1/hw_counters/vport_out_of_sequence", "9\n");
        put(&tree, "hw_counters", &["np_cnp_sent", "out_of_sequence"]);
        let figures = [("cnps_sent", 1), ("out_of_sequence_packets", 2)];
        assert_eq!(read(&open(&tree)), map(&figures));
    }

    #[test]
    fn bnxt_re_in_its_old_and_new_words() {
        let figures = map(&[
            ("cnps_handled", 1),
            ("cnps_sent", 2),
            ("ecn_marked_packets", 3),
            ("out_of_sequence_packets", 4),
            ("sequence_naks", 5 + 6),
            ("ack_timeouts", 7),
            ("rnr_naks_received", 8),
        ]);
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
        let tree = Tree::new("rdma-bnxt-old");
        put(&tree, PORT, &old);
        assert_eq!(read(&open(&tree)), figures);
        let tree = Tree::new("rdma-bnxt-new");
        put(&tree, PORT, &new);
        assert_eq!(read(&open(&tree)), figures);
        // A driver that keeps the old names beside the new ones does not count twice.
        put(&tree, PORT, &old);
        assert_eq!(read(&open(&tree)), figures);
    }

    #[test]
    fn bnxt_re_has_no_standard_counters() {
        driver_has(
            &[
                "tx_pkts",
                "rx_pkts",
                "tx_bytes",
                "rx_bytes",
                "max_retry_exceeded",
                "rx_out_of_buffer",
                "dup_req",
                "bad_resp_err",
                "local_qp_op_err",
                "remote_access_err",
                "rx_roce_discards",
                "active_qps",
                "rx_roce_errors",
                "res_rx_invalid_rkey",
                "res_cmp_err",
            ],
            &[
                ("rdma_sent_packets", 1),
                ("rdma_received_packets", 2),
                ("rdma_sent_bytes", 3),
                ("rdma_received_bytes", 4),
                ("retries_exceeded", 5),
                ("no_receive_buffer", 6),
                ("duplicate_requests", 7),
                ("requester_errors", 8 + 9 + 10),
                ("rdma_discards", 11),
                ("rdma_receive_errors", 13),
                ("responder_errors", 14 + 15),
            ],
        );
    }

    #[test]
    fn irdma() {
        driver_has(
            &[
                "cnpHandled",
                "cnpIgnored",
                "cnpSent",
                "RxECNMrkd",
                "Rcvd Out of order packets",
                "Nak Sequence Error",
                "Nak Sequence Error Implied",
                "RTO",
                "RNR received",
                "RNR sent",
                "ip4OutPkts",
                "ip6OutPkts",
                "ip4InOctets",
                "CRC errors",
                "ip4InDiscards",
                "ip6InDiscards",
            ],
            &[
                ("cnps_handled", 1),
                ("cnps_ignored", 2),
                ("cnps_sent", 3),
                ("ecn_marked_packets", 4),
                ("out_of_sequence_packets", 5),
                ("sequence_naks", 6 + 7),
                ("ack_timeouts", 8),
                ("rnr_naks_received", 9),
                ("rnr_naks_sent", 10),
                ("rdma_sent_packets", 11 + 12),
                ("rdma_received_bytes", 13),
                ("icrc_errors", 14),
                ("rdma_discards", 15 + 16),
            ],
        );
    }

    #[test]
    fn ionic() {
        let tree = Tree::new("rdma-ionic");
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
            "tx_rdma_retx_bytes",
            "req_tx_retry_excd_err",
            "resp_rx_outof_buf",
            "resp_rx_dup_request",
            "req_rx_cqe_err",
            "resp_rx_cqe_err",
            "tx_rdma_ucast_bytes",
            "rx_rdma_ucast_pkts",
        ];
        put(&tree, PORT, &names);
        let mut figures = map(&[
            ("cnps_handled", 1),
            ("cnps_sent", 2),
            ("ecn_marked_packets", 3),
            ("out_of_sequence_packets", 4),
            ("sequence_naks", 5 + 6),
            ("ack_timeouts", 7),
            ("retransmitted", 8),
            ("retransmitted_bytes", 10),
            ("rnr_naks_received", 9),
            ("retries_exceeded", 11),
            ("no_receive_buffer", 12),
            ("duplicate_requests", 13),
            ("requester_errors", 14),
            ("responder_errors", 15),
            ("rdma_sent_bytes", 16),
            ("rdma_received_packets", 17),
        ]);
        assert_eq!(read(&open(&tree)), figures);
        // What came out of sequence is known better where it is counted itself.
        let file = |name: &str, text: &str| tree.file(&format!("nic0/{PORT}/{name}"), text);
        file("resp_rx_outouf_seq", "44\n");
        figures.insert("out_of_sequence_packets".to_owned(), 44);
        assert_eq!(read(&open(&tree)), figures);
        // All ones: the firmware did not answer.
        file("req_rx_pkt_seq_err", &format!("{}\n", u64::MAX));
        figures.remove("sequence_naks");
        assert_eq!(read(&open(&tree)), figures);
    }

    #[test]
    fn mana_counts_partly_at_the_device() {
        let tree = Tree::new("rdma-mana");
        tree.file("nic0/hw_counters/sent_cnps", "21\n");
        tree.file("nic0/hw_counters/received_ecns", "22\n");
        let names = [
            "received_cnps",
            "responder_oos",
            "requester_oos_nak",
            "requester_implicit_nak",
            "requester_timeout",
            "requester_rnr_nak",
            "responder_rnr_nak",
            "tx_packets",
        ];
        put(&tree, PORT, &names);
        let figures = [
            ("cnps_handled", 1),
            ("cnps_sent", 21),
            ("ecn_marked_packets", 22),
            ("out_of_sequence_packets", 2),
            ("sequence_naks", 3 + 4),
            ("ack_timeouts", 5),
            ("rnr_naks_received", 6),
            ("rnr_naks_sent", 7),
            ("rdma_sent_packets", 8),
        ];
        assert_eq!(read(&open(&tree)), map(&figures));
    }

    #[test]
    fn rxe() {
        driver_has(
            &[
                "out_of_seq_request",
                "rcvd_seq_err",
                "completer_retry_err",
                "rcvd_rnr_err",
                "send_rnr_err",
                "sent_pkts",
                "rcvd_pkts",
                "duplicate_request",
                "retry_exceeded_err",
                "retry_rnr_exceeded_err",
                "send_err",
                "link_downed",
            ],
            &[
                ("out_of_sequence_packets", 1),
                ("sequence_naks", 2),
                ("retransmitted", 3),
                ("rnr_naks_received", 4),
                ("rnr_naks_sent", 5),
                ("rdma_sent_packets", 6),
                ("rdma_received_packets", 7),
                ("duplicate_requests", 8),
                ("retries_exceeded", 9),
                ("rnr_retries_exceeded", 10),
                ("requester_errors", 11),
                ("rdma_link_downs", 12),
            ],
        );
    }

    #[test]
    fn a_port_that_counts_nothing_has_no_figures() {
        let tree = Tree::new("rdma-nothing");
        tree.file("nic0/ports/1/state", "4: ACTIVE\n");
        assert!(open(&tree).is_empty());
        assert!(Counters::open(Path::new("/nonexistent"), "nic0", 1, PortCounter::ALL).is_empty());
    }

    #[test]
    fn what_is_read_is_what_is_counted_now_until_the_device_vanishes() {
        let tree = Tree::new("rdma-vanish");
        let (handled, naks) = (format!("nic0/{PORT}/rp_cnp_handled"), "packet_seq_err");
        put(
            &tree,
            PORT,
            &["rp_cnp_handled", naks, "implied_nak_seq_err"],
        );
        let counters = open(&tree);
        let now = || {
            let figures = read(&counters);
            let figure = |name| figures.get(name).copied();
            (figure("cnps_handled"), figure("sequence_naks"))
        };
        assert_eq!(now(), (Some(1), Some(5)));
        tree.file(&handled, "4294967296\n");
        assert_eq!(now(), (Some(4_294_967_296), Some(5)));
        // One half that cannot be read any more takes the sum with it.
        tree.file(&format!("nic0/{PORT}/{naks}"), "");
        assert_eq!(now(), (Some(4_294_967_296), None));
        tree.file(&handled, "what\n");
        assert_eq!(now(), (None, None));
        // The kernel answers with an error once a device is gone; a folder does so here.
        let tree = Tree::new("rdma-unreadable");
        tree.file(&format!("nic0/{PORT}/rp_cnp_handled/folder"), "");
        tree.file(&format!("nic0/{PORT}/out_of_sequence"), "3\n");
        let figures = map(&[("out_of_sequence_packets", 3)]);
        assert_eq!(read(&open(&tree)), figures);
    }

    #[test]
    fn some_counters_of_mlx5_are_short() {
        let naks = PortCounter::SequenceNaks;
        assert_eq!(bits(Some("mlx5_core"), naks), 32);
        assert_eq!(bits(Some("mlx5_core.sf"), naks), 32);
        assert_eq!(bits(Some("mlx5_core"), PortCounter::LinkDowns), 32);
        assert_eq!(bits(Some("mlx5_core"), PortCounter::CnpsHandled), 64);
        assert_eq!(bits(Some("bnxt_en"), naks), 64);
        assert_eq!(bits(None, naks), 64);
    }

    proptest! {
        #[test]
        fn any_text_is_a_number_or_none(text: Vec<u8>) {
            let _ = number(&text);
        }

        #[test]
        fn a_number_is_read_back(value in 0..u64::MAX) {
            prop_assert_eq!(number(format!("{value}\n").as_bytes()), Some(value));
        }
    }
}
