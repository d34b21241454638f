//! What ports did, in a few numbers each: what they carried, and what went wrong under names that fit a column.
//! For the screen and for the page, so that both say the same.

use crate::telemetry::schema::{PortCounter, PortGauge};
use crate::telemetry::snapshot::{PortWindow, per_second};
use crate::telemetry::sources::Source;
use crate::telemetry::values::Values;

/// Something that goes wrong on ports, or holds them back.
#[derive(Debug)]
pub(super) struct Trouble {
    /// In a word.
    pub(super) name: &'static str,
    /// What it means.
    pub(super) says: &'static str,
    /// Where it is counted. Several of them may count the same event, so the highest is told, and never too much.
    counters: &'static [PortCounter],
}

pub(super) const PAUSED: Trouble = Trouble {
    name: "paused",
    says: "frames that told the port to pause: the network is full",
    counters: &[PortCounter::PausesReceived],
};
pub(super) const PAUSING: Trouble = Trouble {
    name: "pausing",
    says: "frames that told the switch to pause: this host is slow",
    counters: &[PortCounter::PausesSent],
};
pub(super) const NOTIFIED: Trouble = Trouble {
    name: "cnps",
    says: "congestion notifications that came for what it sent",
    counters: &[PortCounter::CnpsHandled, PortCounter::CnpsIgnored],
};
pub(super) const MARKED: Trouble = Trouble {
    name: "marks",
    says: "packets that came with a congestion mark (ECN)",
    counters: &[PortCounter::EcnMarkedPackets, PortCounter::EcnMarkedFrames],
};
pub(super) const LOST: Trouble = Trouble {
    name: "lost",
    says: "packets missed by others (NAKs), or not acknowledged",
    counters: &[PortCounter::SequenceNaks, PortCounter::AckTimeouts],
};
pub(super) const AGAIN: Trouble = Trouble {
    name: "again",
    says: "what RDMA sent again, in the adapter's unit",
    counters: &[PortCounter::Retransmitted],
};
pub(super) const DROPPED: Trouble = Trouble {
    name: "drops",
    says: "packets discarded for lack of room, coming or going",
    // Not `ReceiveDrops`: the kernel counts packets there too that nobody on this host wants.
    counters: &[
        PortCounter::RdmaDiscards,
        PortCounter::XmitDiscards,
        PortCounter::ReceiveDiscards,
        PortCounter::TransmitDiscards,
        PortCounter::ReceiveOutOfBuffer,
        PortCounter::DeviceOutOfBuffer,
        PortCounter::HostBufferDiscards,
        PortCounter::HostCongestionDiscards,
        PortCounter::PcieOverflows,
        PortCounter::SendDrops,
        PortCounter::ReceiveMisses,
    ],
};
pub(super) const DAMAGED: Trouble = Trouble {
    name: "errors",
    says: "packets damaged: FEC, symbols, checksums",
    counters: &[
        PortCounter::IcrcErrors,
        PortCounter::RdmaReceiveErrors,
        PortCounter::RdmaSymbolErrors,
        PortCounter::CrcErrors,
        PortCounter::SymbolErrors,
        PortCounter::PcsSymbolErrors,
        PortCounter::FecUncorrectableBlocks,
        PortCounter::SendErrors,
        PortCounter::ReceiveErrors,
    ],
};
pub(super) const WENT_DOWN: Trouble = Trouble {
    name: "downs",
    says: "times that the link went down",
    counters: &[
        PortCounter::RdmaLinkDowns,
        PortCounter::LinkDowns,
        PortCounter::CarrierDowns,
    ],
};

/// All of them: first what congestion does, last what damage does.
pub(super) const TROUBLES: [&Trouble; 9] = [
    &PAUSED, &PAUSING, &NOTIFIED, &MARKED, &LOST, &AGAIN, &DROPPED, &DAMAGED, &WENT_DOWN,
];

impl Trouble {
    /// How often in a window; None where the port tells nothing of it.
    pub(super) fn count(&self, port: &PortWindow) -> Option<u64> {
        self.greatest(&port.counters)
    }

    /// Likewise, by what was counted.
    pub(super) fn greatest(&self, counts: &Values<PortCounter, Option<u64>>) -> Option<u64> {
        let counts = self.counters.iter().map(|counter| counts[*counter]);
        counts.max().flatten()
    }
}

/// Bytes a second that a port sent, and received: by its RDMA device or by its network interface, whichever is more,
/// since some interfaces count what RDMA carries and others do not. None where it is not known.
pub(super) fn carried_per_s(port: &PortWindow) -> [Option<u64>; 2] {
    let rate = |counter: PortCounter| {
        let between = port.between_ns[counter.source()].filter(|between| *between > 0)?;
        Some(per_second(port.counters[counter]?, between))
    };
    let most = |rdma, interface| rate(rdma).max(rate(interface));
    [
        most(PortCounter::RdmaSentBytes, PortCounter::SentBytes),
        most(PortCounter::RdmaReceivedBytes, PortCounter::ReceivedBytes),
    ]
}

/// Bytes that it sent, and received, likewise.
pub(super) fn carried(port: &PortWindow) -> [Option<u64>; 2] {
    let most = |rdma: PortCounter, interface: PortCounter| {
        port.counters[rdma].max(port.counters[interface])
    };
    [
        most(PortCounter::RdmaSentBytes, PortCounter::SentBytes),
        most(PortCounter::RdmaReceivedBytes, PortCounter::ReceivedBytes),
    ]
}

/// Whether its link is up; None where that is not known.
pub(super) fn is_up(port: &PortWindow) -> Option<bool> {
    // States of RDMA ports from 4 on are active ones.
    let rdma = port.gauges[PortGauge::RdmaState].map(|state| state >= 4);
    let interface = port.gauges[PortGauge::LinkUp].map(|up| up > 0);
    // RDMA needs both.
    rdma.into_iter().chain(interface).min()
}

/// Whether it is up, and how fast, as `400G`.
pub(super) fn link(port: &PortWindow) -> String {
    let speed = [PortGauge::RdmaSpeed, PortGauge::Speed].map(|speed| port.gauges[speed]);
    let megabits = speed.into_iter().flatten().max().unwrap_or(0) / 125_000;
    match (is_up(port), megabits) {
        (Some(false), _) => "down".into(),
        (_, 1000..) => format!("{}G", megabits / 1000),
        (_, 1..) => format!("{megabits}M"),
        (Some(true), _) => "up".into(),
        (None, _) => "–".into(),
    }
}

/// How old what it counts is: the oldest of what tells anything of it.
pub(super) fn age_ns(port: &PortWindow) -> Option<u64> {
    // What a transceiver or PCIe is like changes slowly, and is asked for rarely.
    let counting = [Source::Rdma, Source::Interface, Source::Ethernet];
    counting.iter().filter_map(|of| port.ages_ns[*of]).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sources::SourceTimes;

    #[test]
    fn what_several_count_is_told_once_and_what_nobody_counts_is_not_zero() {
        let mut port = PortWindow::default();
        assert!(
            TROUBLES
                .iter()
                .all(|trouble| trouble.count(&port).is_none())
        );
        port.counters[PortCounter::LinkDowns] = Some(2);
        port.counters[PortCounter::CarrierDowns] = Some(3);
        assert_eq!(WENT_DOWN.count(&port), Some(3));
        port.counters[PortCounter::AckTimeouts] = Some(0);
        assert_eq!(LOST.count(&port), Some(0));
    }

    #[test]
    fn rates_are_those_of_their_own_source() {
        let mut port = PortWindow::default();
        port.counters[PortCounter::RdmaSentBytes] = Some(500);
        port.counters[PortCounter::SentBytes] = Some(600);
        port.counters[PortCounter::ReceivedBytes] = Some(70);
        assert_eq!(carried_per_s(&port), [None; 2]);
        let second = 1_000_000_000;
        port.between_ns = SourceTimes::new(|source| match source {
            Source::Rdma => Some(second / 2),
            Source::Interface => Some(second),
            _ => None,
        });
        assert_eq!(carried_per_s(&port), [Some(1000), Some(70)]);
        assert_eq!(carried(&port), [Some(600), Some(70)]);
    }

    #[test]
    fn a_link_is_up_if_all_that_tell_of_it_say_so() {
        let mut port = PortWindow::default();
        assert_eq!(link(&port), "–");
        port.gauges[PortGauge::LinkUp] = Some(1);
        assert_eq!(link(&port), "up");
        port.gauges[PortGauge::Speed] = Some(50_000_000_000);
        assert_eq!(link(&port), "400G");
        port.gauges[PortGauge::RdmaState] = Some(1);
        assert_eq!(link(&port), "down");
    }
}
