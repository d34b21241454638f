//! What the ports of this host, and the host, say of themselves: a host that is too slow for what comes, a network that asks
//! for less, packets that are lost, a link that wears out, congestion control that is set up by halves. The
//! signatures are those of the counters together: one of them alone says little.

use super::{Cause, Finding, Subject, percent};
use crate::telemetry::schema::{HostCounter, PortCounter, PortGauge};
use crate::telemetry::snapshot::{PortWindow, Window};

/// A port that pauses its switch for this share of the time takes in less than comes.
const PAUSING_PER_MILLE: u64 = 5;
/// Of so many packets, one that was lost is too many for RDMA: go-back-N sends all again that came after it.
const LOSS_ONE_IN: u64 = 10_000;
/// Of so many packets, one notification (CNP): the network holds this port back all the time.
const NOTIFIED_ONE_IN: u64 = 10_000;
/// Ports that carried less of the busiest one's RDMA packets than this share are not compared with it.
const COMPARED_PERCENT: u64 = 5;
/// Share of a second in which the adapter waited for PCIe.
const STALLED_PPM: u64 = 100_000;

/// What is said of a port by one signature.
type Signature = fn(&PortWindow) -> Option<(Cause, u64, &'static str, Vec<String>)>;

const SIGNATURES: [Signature; 6] = [
    slow_host,
    worn_link,
    lossy,
    misconfigured,
    asked_for_less,
    below_capability,
];

/// What the ports of a window say, in the order of their names.
pub(super) fn explain(window: &Window) -> impl Iterator<Item = Finding> + '_ {
    let of_port = |port: &PortWindow| {
        let told = SIGNATURES.iter().filter_map(|signature| signature(port));
        let finding =
            |(cause, confidence, says, evidence): (Cause, u64, &str, Vec<String>)| Finding {
                subject: Subject::Port {
                    port: port.name.clone(),
                },
                cause,
                is_network: cause.is_network(),
                confidence_percent: u8::try_from(confidence.min(99)).unwrap_or(99),
                says: says.to_owned(),
                evidence,
            };
        told.map(finding).collect::<Vec<_>>()
    };
    let unequal = SETTINGS.iter().flat_map(|setting| unequal(window, setting));
    window.ports.iter().flat_map(of_port).chain(unequal)
}

/// What the host says: packets that had arrived were dropped, because the processor that takes them in was late. Linux
/// counts there too what arrives at an interface that has been taken down.
pub(super) fn host(window: &Window) -> Option<Finding> {
    let was_down = |port: &PortWindow| count(port, PortCounter::CarrierDowns) > 0;
    if window.ports.iter().any(was_down) {
        return None;
    }
    let counters = &window.host.as_ref()?.counters;
    let drops = counters[HostCounter::SoftnetDrops].unwrap_or(0);
    let taken = counters[HostCounter::SoftnetPackets].unwrap_or(0);
    let squeezes = counters[HostCounter::SoftnetSqueezes].unwrap_or(0);
    if drops == 0 || drops.saturating_mul(LOSS_ONE_IN) < taken {
        return None;
    }
    Some(Finding {
        subject: Subject::Host { host: true },
        cause: Cause::ReceiverHost,
        is_network: false,
        confidence_percent: 85,
        says: "not the network: packets that had arrived were dropped, because a processor's queue was full: spread \
               them over more processors (RSS, RPS), or raise net.core.netdev_max_backlog"
            .into(),
        evidence: vec![
            format!("packets dropped from processors' queues: {drops}, beside {taken} that were taken in"),
            format!("times that taking in was cut short: {squeezes}"),
        ],
    })
}

/// What the ports that carry the same traffic should have alike.
struct Setting {
    gauge: PortGauge,
    cause: Cause,
    says: &'static str,
    name: &'static str,
}

const SETTINGS: [Setting; 2] = [
    Setting {
        gauge: PortGauge::Mtu,
        cause: Cause::Misconfigured,
        says: "this port's MTU is smaller than that of others that carry RDMA: its packets are smaller, and there \
               are more of them; set it alike on all rails and switches",
        name: "MTU",
    },
    Setting {
        gauge: PortGauge::RdmaSpeed,
        cause: Cause::SlowPath,
        says: "this port is slower than others that carry RDMA: another link, or one that has come up at less \
               than it can",
        name: "bytes a second",
    },
];

/// Ports of one driver that carry RDMA are rails of one job: the least of them is told of. Not more than a guess,
/// for a host may have ports for its storage too.
fn unequal(window: &Window, setting: &Setting) -> Vec<Finding> {
    let packets = |port: &PortWindow| {
        let sent = count(port, PortCounter::RdmaSentPackets);
        sent.saturating_add(count(port, PortCounter::RdmaReceivedPackets))
    };
    let busiest = window.ports.iter().map(packets).max().unwrap_or(0);
    let carries = |port: &&PortWindow| {
        packets(port) > 0 && percent(packets(port), busiest) >= COMPARED_PERCENT
    };
    let of_driver = |port: &PortWindow| {
        let others = window.ports.iter().filter(carries);
        let alike = others.filter(|other| other.driver == port.driver);
        alike
            .filter_map(|other| Some((other.gauges[setting.gauge]?, &other.name)))
            .max_by_key(|(value, _)| *value)
    };
    let told = |port: &PortWindow| {
        let ours = port.gauges[setting.gauge]?;
        let (most, whose) = of_driver(port).filter(|(most, _)| ours < *most)?;
        Some(Finding {
            subject: Subject::Port {
                port: port.name.clone(),
            },
            cause: setting.cause,
            is_network: setting.cause.is_network(),
            confidence_percent: 50,
            says: setting.says.to_owned(),
            evidence: vec![format!("{}: {ours}, and {most} of {whose}", setting.name)],
        })
    };
    window
        .ports
        .iter()
        .filter(carries)
        .filter_map(told)
        .collect()
}

fn count(port: &PortWindow, counter: PortCounter) -> u64 {
    port.counters[counter].unwrap_or(0)
}

/// Those of the counters that have grown, each with its name.
fn grown(port: &PortWindow, counters: &[(PortCounter, &str)]) -> Vec<String> {
    let told = counters
        .iter()
        .filter(|(counter, _)| count(port, *counter) > 0);
    told.map(|(counter, name)| format!("{}: {}", name, count(port, *counter)))
        .collect()
}

/// It pauses the switch, or drops what came for want of room.
fn slow_host(port: &PortWindow) -> Option<(Cause, u64, &'static str, Vec<String>)> {
    let mut evidence = grown(
        port,
        &[
            (
                PortCounter::ReceiveDiscards,
                "frames discarded for lack of room in the adapter",
            ),
            (
                PortCounter::ReceiveOutOfBuffer,
                "frames discarded for lack of the interface's buffers",
            ),
            (
                PortCounter::HostBufferDiscards,
                "frames discarded for lack of this host's buffers",
            ),
            (
                PortCounter::HostCongestionDiscards,
                "frames discarded because this host is congested",
            ),
            (
                PortCounter::HostCongestionMarks,
                "frames marked because this host is congested",
            ),
            (
                PortCounter::ReceiveMisses,
                "frames that the host did not take in time",
            ),
            (PortCounter::PcieOverflows, "frames that PCIe did not take"),
            (PortCounter::PauseStormErrors, "pause storms"),
        ],
    );
    let between = port.between_ns[PortCounter::Pausing.source()].unwrap_or(0);
    let pausing = count(port, PortCounter::Pausing);
    if percent(pausing, between).saturating_mul(10) >= PAUSING_PER_MILLE && pausing > 0 {
        evidence.push(format!(
            "the switch was told to pause for {} us",
            pausing / 1000
        ));
    } else if port.counters[PortCounter::Pausing].is_none()
        && count(port, PortCounter::PausesSent) > 0
    {
        let pauses = count(port, PortCounter::PausesSent);
        evidence.push(format!("frames that told the switch to pause: {pauses}"));
    }
    for (gauge, name) in [
        (PortGauge::PcieReadStalled, "reads"),
        (PortGauge::PcieWriteStalled, "writes"),
    ] {
        let stalled = port.gauges[gauge].unwrap_or(0);
        if stalled >= STALLED_PPM {
            evidence.push(format!(
                "{name} waited for PCIe for {} % of the time",
                stalled / 10_000
            ));
        }
    }
    (!evidence.is_empty()).then_some((
        Cause::ReceiverHost,
        85,
        "not the network: this host does not take in what comes as fast as it comes (PCIe, memory, processors)",
        evidence,
    ))
}

fn worn_link(port: &PortWindow) -> Option<(Cause, u64, &'static str, Vec<String>)> {
    let mut evidence = grown(
        port,
        &[
            (PortCounter::LinkDowns, "times that the link went down"),
            (
                PortCounter::CarrierDowns,
                "times that the interface lost its carrier",
            ),
            (
                PortCounter::RdmaLinkDowns,
                "times that the RDMA port went down",
            ),
            (
                PortCounter::FecUncorrectableBlocks,
                "blocks that error correction could not mend",
            ),
            (PortCounter::CrcErrors, "frames with a wrong checksum"),
            (
                PortCounter::SymbolErrors,
                "frames dropped for a symbol error",
            ),
            (
                PortCounter::PcsSymbolErrors,
                "symbol errors that were not mended",
            ),
            (
                PortCounter::RdmaSymbolErrors,
                "symbol errors of the RDMA port",
            ),
            (
                PortCounter::IcrcErrors,
                "RDMA packets with a wrong checksum",
            ),
            (
                PortCounter::ModuleUnplugs,
                "times that the transceiver was taken out",
            ),
            (PortCounter::ModuleFaults, "faults of the transceiver"),
            (
                PortCounter::ModuleHighTemperatures,
                "times that the transceiver was too hot",
            ),
        ],
    );
    let alarms = port.alarms.unwrap_or(0);
    if alarms > 0 {
        evidence.push(format!("alarms of the transceiver: {alarms}"));
    }
    (!evidence.is_empty()).then_some((
        Cause::WornLink,
        90,
        "this port's link damages packets or goes down: its cable, its transceiver, the switch's port",
        evidence,
    ))
}

fn lossy(port: &PortWindow) -> Option<(Cause, u64, &'static str, Vec<String>)> {
    let lost = count(port, PortCounter::SequenceNaks)
        .saturating_add(count(port, PortCounter::AckTimeouts));
    let sent = count(port, PortCounter::RdmaSentPackets);
    if lost == 0 || lost.saturating_mul(LOSS_ONE_IN) < sent {
        return None;
    }
    let evidence = vec![format!(
        "{lost} times a packet of ours was missing, of {sent} (where switches spread packets over several \
         ways, some come in another order, and that alone is no loss)"
    )];
    Some((
        Cause::PathLoss,
        70,
        "what leaves by this port is lost on its way: a damaged link, or queues that run over",
        evidence,
    ))
}

/// Half of congestion control is not there.
fn misconfigured(port: &PortWindow) -> Option<(Cause, u64, &'static str, Vec<String>)> {
    let marked = count(port, PortCounter::EcnMarkedPackets);
    if marked > 0 && port.counters[PortCounter::CnpsSent] == Some(0) {
        return Some((
            Cause::Misconfigured,
            85,
            "packets come with a congestion mark, and nobody is notified: switch the notification point of this \
             port on for its priority (mlx5: ecn/roce_np)",
            vec![
                format!("packets with a mark: {marked}"),
                "notifications sent: 0".into(),
            ],
        ));
    }
    let ignored = count(port, PortCounter::CnpsIgnored);
    if ignored > 0 && count(port, PortCounter::CnpsHandled) == 0 {
        return Some((
            Cause::Misconfigured,
            85,
            "notifications of congestion come, and this port ignores them: switch its reaction point on (mlx5: \
             ecn/roce_rp)",
            vec![format!("notifications ignored: {ignored}")],
        ));
    }
    let paused = count(port, PortCounter::PausesReceived);
    let is_unmarked = port.counters[PortCounter::CnpsHandled] == Some(0);
    (paused > 0 && is_unmarked).then(|| {
        (
            Cause::Misconfigured,
            65,
            "the network pauses this port and never marks before it does: set the switches' ECN thresholds below \
             those of their pauses",
            vec![
                format!("frames that told this port to pause: {paused}"),
                "notifications received: 0".into(),
            ],
        )
    })
}

fn asked_for_less(port: &PortWindow) -> Option<(Cause, u64, &'static str, Vec<String>)> {
    let handled = count(port, PortCounter::CnpsHandled);
    let sent = count(port, PortCounter::RdmaSentPackets);
    (handled > 0 && handled.saturating_mul(NOTIFIED_ONE_IN) >= sent).then(|| {
        (
            Cause::Shared,
            60,
            "the network asks this port for less: queues on its ways are long, in the fabric's core or at a receiver",
            vec![format!("notifications that slowed queue pairs down: {handled}, for {sent} packets")],
        )
    })
}

fn below_capability(port: &PortWindow) -> Option<(Cause, u64, &'static str, Vec<String>)> {
    let gauge = |gauge| port.gauges[gauge];
    let is_below = |now: PortGauge, most: PortGauge| {
        gauge(now).zip(gauge(most)).filter(|(now, most)| now < most)
    };
    let mut evidence = Vec::new();
    if let Some((now, most)) = is_below(PortGauge::PcieWidth, PortGauge::PcieWidthMax) {
        evidence.push(format!("{now} PCIe lanes of {most}"));
    }
    if let Some((now, most)) = is_below(PortGauge::PcieSpeed, PortGauge::PcieSpeedMax) {
        let giga = |transfers: u64| transfers / 1_000_000_000;
        evidence.push(format!("PCIe at {} GT/s of {}", giga(now), giga(most)));
    }
    (!evidence.is_empty()).then_some((
        Cause::Misconfigured,
        50,
        "this adapter's PCIe link is below what both its ends can do: its seat, its riser, or power saving (thalweg \
         doctor)",
        evidence,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::made;
    use crate::telemetry::snapshot::HostWindow;
    use crate::telemetry::sources::SourceTimes;

    fn port(counters: &[(PortCounter, u64)], gauges: &[(PortGauge, u64)]) -> Window {
        let mut port = PortWindow {
            name: "mlx5_0:1".into(),
            between_ns: SourceTimes::new(|_| Some(1_000_000_000)),
            ..PortWindow::default()
        };
        for (counter, value) in counters {
            port.counters[*counter] = Some(*value);
        }
        for (gauge, value) in gauges {
            port.gauges[*gauge] = Some(*value);
        }
        Window {
            ports: vec![port],
            ..made::window(1_000_000_000, Vec::new())
        }
    }

    #[test]
    fn rails_are_compared_with_each_other() {
        let rail = |name: &str, packets, mtu, speed| {
            let counters = [(PortCounter::RdmaSentPackets, packets)];
            let gauges = [(PortGauge::Mtu, mtu), (PortGauge::RdmaSpeed, speed)];
            let mut port = port(&counters, &gauges).ports.remove(0);
            port.name = name.into();
            port
        };
        let said = |other: PortWindow| {
            let mut window = port(&[], &[]);
            window.ports = vec![rail("mlx5_0:1", 1000, 9000, 50), other];
            let findings = explain(&window);
            let told = findings.map(|finding| (finding.subject.to_string(), finding.cause));
            told.collect::<Vec<_>>()
        };
        let second = || "port mlx5_1:1".to_owned();
        assert_eq!(said(rail("mlx5_1:1", 900, 9000, 50)), []);
        assert_eq!(
            said(rail("mlx5_1:1", 900, 1500, 50)),
            [(second(), Cause::Misconfigured)]
        );
        assert_eq!(
            said(rail("mlx5_1:1", 900, 9000, 25)),
            [(second(), Cause::SlowPath)]
        );
        // Another use, or another adapter.
        assert_eq!(said(rail("mlx5_1:1", 10, 1500, 25)), []);
        let mut other = rail("bnxt_re0:1", 900, 1500, 25);
        other.driver = Some("bnxt_en".into());
        assert_eq!(said(other), []);
    }

    #[test]
    fn a_host_that_drops_what_has_arrived_is_named() {
        let said = |drops| {
            let mut window = port(&[], &[]);
            let mut host = HostWindow::default();
            host.counters[HostCounter::SoftnetPackets] = Some(1_000_000);
            host.counters[HostCounter::SoftnetDrops] = Some(drops);
            window.host = Some(host);
            super::host(&window).map(|finding| finding.cause)
        };
        assert_eq!(said(0), None);
        assert_eq!(said(99), None);
        assert_eq!(said(100), Some(Cause::ReceiverHost));
        let mut window = port(&[(PortCounter::CarrierDowns, 1)], &[]);
        let mut host = HostWindow::default();
        host.counters[HostCounter::SoftnetDrops] = Some(100);
        window.host = Some(host);
        assert_eq!(super::host(&window), None);
    }

    fn causes(counters: &[(PortCounter, u64)], gauges: &[(PortGauge, u64)]) -> Vec<Cause> {
        let window = port(counters, gauges);
        explain(&window).map(|finding| finding.cause).collect()
    }

    #[test]
    fn each_signature_is_told_apart() {
        use PortCounter as C;
        assert_eq!(causes(&[], &[]), [], "nothing is known");
        let well = [
            (C::RdmaSentPackets, 1_000_000),
            (C::SequenceNaks, 3),
            (C::CnpsHandled, 2),
            (C::CnpsSent, 5),
            (C::EcnMarkedPackets, 40),
            (C::Pausing, 1_000),
            (C::PausesSent, 2),
        ];
        assert_eq!(causes(&well, &[]), []);
        let host = [(C::ReceiveDiscards, 1)];
        assert_eq!(causes(&host, &[]), [Cause::ReceiverHost]);
        assert_eq!(
            causes(&[(C::Pausing, 20_000_000)], &[]),
            [Cause::ReceiverHost]
        );
        assert_eq!(causes(&[(C::PausesSent, 2)], &[]), [Cause::ReceiverHost]);
        let stalled = [(PortGauge::PcieReadStalled, 300_000)];
        assert_eq!(causes(&[], &stalled), [Cause::ReceiverHost]);
        assert_eq!(causes(&[(C::ReceiveMisses, 1)], &[]), [Cause::ReceiverHost]);
        assert_eq!(causes(&[(C::LinkDowns, 1)], &[]), [Cause::WornLink]);
        assert_eq!(causes(&[(C::CarrierDowns, 1)], &[]), [Cause::WornLink]);
        // They may be old.
        assert_eq!(causes(&[], &[(PortGauge::ModuleAlarms, 1)]), []);
        let mut alarmed = port(&[], &[]);
        alarmed.ports[0].alarms = Some(1);
        let told: Vec<_> = explain(&alarmed).map(|finding| finding.cause).collect();
        assert_eq!(told, [Cause::WornLink]);
        let lossy = [(C::RdmaSentPackets, 10_000), (C::AckTimeouts, 3)];
        assert_eq!(causes(&lossy, &[]), [Cause::PathLoss]);
        let unanswered = [(C::EcnMarkedPackets, 40), (C::CnpsSent, 0)];
        assert_eq!(causes(&unanswered, &[]), [Cause::Misconfigured]);
        assert_eq!(causes(&[(C::CnpsIgnored, 4)], &[]), [Cause::Misconfigured]);
        let unmarked = [(C::PausesReceived, 4), (C::CnpsHandled, 0)];
        assert_eq!(causes(&unmarked, &[]), [Cause::Misconfigured]);
        let congested = [(C::RdmaSentPackets, 10_000), (C::CnpsHandled, 40)];
        assert_eq!(causes(&congested, &[]), [Cause::Shared]);
        let narrow = [(PortGauge::PcieWidth, 8), (PortGauge::PcieWidthMax, 16)];
        assert_eq!(causes(&[], &narrow), [Cause::Misconfigured]);
    }
}
