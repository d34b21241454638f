//! What drivers tell of a network interface in the kernel's own words, by generic netlink (family `ethtool`):
//! error correction, frames of MAC control, the quality of the signal, why a link is down, and the memory of
//! the transceiver. Only the last needs rights (`CAP_NET_ADMIN`).

use std::io::{self, ErrorKind};

use super::netlink::{self, NESTED, attribute, attributes, find, u32_at, u64_at};
use crate::telemetry::schema::{PortCounter, PortGauge};

// linux/genetlink.h
const HEADER_BYTES: usize = 4; // struct genlmsghdr
const CONTROL: u16 = 0x10; // GENL_ID_CTRL
const GET_FAMILY: u8 = 3; // CTRL_CMD_GETFAMILY
const FAMILY_ID: u16 = 1; // CTRL_ATTR_FAMILY_ID
const FAMILY_NAME: u16 = 2; // CTRL_ATTR_FAMILY_NAME

// linux/ethtool_netlink.h and ethtool_netlink_generated.h
const LINKMODES_GET: u8 = 4;
const LINKSTATE_GET: u8 = 6;
const PAUSE_GET: u8 = 21;
const FEC_GET: u8 = 29;
const MODULE_EEPROM_GET: u8 = 31;
const STATS_GET: u8 = 32;
const HEADER: u16 = 1; // ETHTOOL_A_*_HEADER of all of them but one
const STATS_HEADER: u16 = 2;
const HEADER_DEV_NAME: u16 = 2;
const HEADER_FLAGS: u16 = 3;
const COMPACT_BITSETS: u32 = 1; // ETHTOOL_FLAG_COMPACT_BITSETS
const WITH_STATISTICS: u32 = 4; // ETHTOOL_FLAG_STATS, refused where there are none

/// The longest name of an interface (`ALTIFNAMSIZ`).
const NAME_BYTES_MAX: usize = 128;
/// Half of a module's page: what one request may ask for (`ETH_MODULE_EEPROM_PAGE_LEN`).
pub const HALF_PAGE_BYTES: usize = 128;

/// Which half of which page of a transceiver's memory. The lower half is the same in all pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfPage {
    /// Of the device on the transceiver's own bus.
    pub address: u8,
    /// The page.
    pub page: u8,
    /// Its upper half.
    pub is_upper: bool,
}

/// What can be asked about an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Frames of MAC control, checksums, symbols, and lengths that no frame has.
    Statistics,
    /// Error correction.
    Fec,
    /// Pauses of the whole link.
    Pause,
    /// The signal's quality, or why there is none.
    LinkState,
    /// Lanes.
    LinkModes,
}

impl Question {
    /// All of them: of two that tell the same, the better first.
    pub const ALL: [Self; 5] = [
        Self::Statistics,
        Self::Fec,
        Self::Pause,
        Self::LinkState,
        Self::LinkModes,
    ];
}

/// What an interface has told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Counters, of which one is there once at most.
    pub counters: Vec<(PortCounter, u64)>,
    /// Its state.
    pub gauges: Vec<(PortGauge, u64)>,
}

/// Asks drivers, through the kernel.
#[derive(Debug)]
pub struct Socket {
    netlink: netlink::Socket,
    family: u16,
}

impl Socket {
    /// One for the interfaces of this network namespace.
    ///
    /// # Errors
    /// The kernel does not know the family, as before Linux 5.6.
    pub fn open() -> io::Result<Self> {
        let mut this = Self {
            netlink: netlink::Socket::open(libc::NETLINK_GENERIC)?,
            family: CONTROL,
        };
        let answer = this.ask(GET_FAMILY, &attribute(FAMILY_NAME, b"ethtool\0"))?;
        let id = find(&answer, FAMILY_ID).and_then(|id| id.first_chunk());
        this.family = u16::from_ne_bytes(*id.ok_or(ErrorKind::InvalidData)?);
        Ok(this)
    }

    /// Asks about an interface.
    ///
    /// # Errors
    /// There is none of this name, or its driver does not say (`EOPNOTSUPP`; `EINVAL` of older kernels).
    pub fn about(&mut self, interface: &str, question: Question) -> io::Result<Told> {
        let (command, kind, flags) = match question {
            Question::Statistics => (STATS_GET, STATS_HEADER, 0),
            Question::Fec => (FEC_GET, HEADER, WITH_STATISTICS),
            Question::Pause => (PAUSE_GET, HEADER, WITH_STATISTICS),
            Question::LinkState => (LINKSTATE_GET, HEADER, 0),
            Question::LinkModes => (LINKMODES_GET, HEADER, 0),
        };
        let mut request = header(kind, interface, flags)?;
        if question == Question::Statistics {
            request.extend(groups());
        }
        Ok(parse(question, &self.ask(command, &request)?))
    }

    /// Reads half a page of the memory of an interface's transceiver.
    ///
    /// # Errors
    /// It has none, its driver does not say, or the caller may not ask (`ErrorKind::PermissionDenied`).
    pub fn module(&mut self, interface: &str, half: HalfPage) -> io::Result<Vec<u8>> {
        let bytes = u32::try_from(HALF_PAGE_BYTES).unwrap_or(0);
        let offset = if half.is_upper { bytes } else { 0 };
        // ETHTOOL_A_MODULE_EEPROM_*: offset, length, page, bank, address on I2C.
        let request = [
            header(HEADER, interface, 0)?,
            attribute(2, &offset.to_ne_bytes()),
            attribute(3, &bytes.to_ne_bytes()),
            attribute(4, &[half.page]),
            attribute(5, &[0]),
            attribute(6, &[half.address]),
        ];
        let answer = self.ask(MODULE_EEPROM_GET, &request.concat())?;
        let data = find(&answer, 7).ok_or(ErrorKind::InvalidData)?;
        Ok(data.to_owned())
    }

    /// Sends a request and gives the attributes of the answer.
    fn ask(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let body = [&[command, 1, 0, 0], attributes].concat();
        let answer = self.netlink.ask(self.family, &body)?;
        let attributes = answer.get(HEADER_BYTES..).ok_or(ErrorKind::InvalidData)?;
        Ok(attributes.to_owned())
    }
}

/// Which interface is meant.
fn header(kind: u16, interface: &str, flags: u32) -> io::Result<Vec<u8>> {
    if interface.len() >= NAME_BYTES_MAX || interface.contains('\0') {
        return Err(ErrorKind::InvalidInput.into());
    }
    let name = [interface.as_bytes(), b"\0"].concat();
    let flags = COMPACT_BITSETS | flags;
    let header = [
        attribute(HEADER_DEV_NAME, &name),
        attribute(HEADER_FLAGS, &flags.to_ne_bytes()),
    ];
    Ok(attribute(kind | NESTED, &header.concat()))
}

// ETHTOOL_STATS_*
const GROUP_PHY: u32 = 0;
const GROUP_MAC: u32 = 1;
const GROUP_CONTROL: u32 = 2;
const GROUP_RMON: u32 = 3;

/// Which groups of statistics are meant: a bitset without a mask (`ETHTOOL_A_STATS_GROUPS`).
fn groups() -> Vec<u8> {
    let bits = [
        attribute(1, &[]),                      // ETHTOOL_A_BITSET_NOMASK
        attribute(2, &4u32.to_ne_bytes()),      // ETHTOOL_A_BITSET_SIZE
        attribute(4, &0b1111u32.to_ne_bytes()), // ETHTOOL_A_BITSET_VALUE
    ];
    attribute(3 | NESTED, &bits.concat())
}

/// Takes the attributes of an answer apart.
#[must_use]
pub fn parse(question: Question, answer: &[u8]) -> Told {
    let mut told = Told::default();
    match question {
        Question::Statistics => statistics(answer, &mut told),
        Question::Fec => fec(answer, &mut told),
        Question::Pause => pause(answer, &mut told),
        Question::LinkState => link_state(answer, &mut told),
        Question::LinkModes => link_modes(answer, &mut told),
    }
    told
}

impl Told {
    /// ~0 is a counter that the driver has not set (`ETHTOOL_STAT_NOT_SET`).
    fn count(&mut self, counter: PortCounter, value: Option<u64>) {
        let value = value.filter(|&value| value != u64::MAX);
        if self.counters.iter().all(|(is, _)| *is != counter) {
            self.counters.extend(value.map(|value| (counter, value)));
        }
    }

    fn set(&mut self, gauge: PortGauge, value: Option<u64>) {
        if self.gauges.iter().all(|(is, _)| *is != gauge) {
            self.gauges.extend(value.map(|value| (gauge, value)));
        }
    }
}

/// Numbers within the groups are those of clause 30 of IEEE 802.3 and of RFC 2819, by the order of
/// `ETHTOOL_A_STATS_*`. Frames of MAC control are pauses, of the whole link and of priorities.
const STATISTICS: &[(u32, u16, PortCounter)] = &[
    (GROUP_PHY, 0, PortCounter::SymbolErrors), // aSymbolErrorDuringCarrier
    (GROUP_MAC, 4, PortCounter::CrcErrors),    // aFrameCheckSequenceErrors
    (GROUP_CONTROL, 0, PortCounter::PausesSent), // aMACControlFramesTransmitted
    (GROUP_CONTROL, 1, PortCounter::PausesReceived), // aMACControlFramesReceived
    (GROUP_RMON, 0, PortCounter::UndersizeFrames), // etherStatsUndersizePkts
    (GROUP_RMON, 1, PortCounter::OversizeFrames), // etherStatsOversizePkts
    (GROUP_RMON, 2, PortCounter::Fragments),   // etherStatsFragments
    (GROUP_RMON, 3, PortCounter::Jabbers),     // etherStatsJabbers
];

fn statistics(answer: &[u8], told: &mut Told) {
    // ETHTOOL_A_STATS_GRP; in it ETHTOOL_A_STATS_GRP_ID and any number of ETHTOOL_A_STATS_GRP_STAT.
    for (_, group) in attributes(answer).filter(|(kind, _)| *kind == 4) {
        let id = find(group, 2).and_then(|id| u32_at(id, 0));
        for (_, numbers) in attributes(group).filter(|(kind, _)| *kind == 4) {
            for (number, value) in attributes(numbers) {
                for &(of, at, counter) in STATISTICS {
                    if Some(of) == id && at == number {
                        told.count(counter, u64_at(value, 0));
                    }
                }
            }
        }
    }
}

fn fec(answer: &[u8], told: &mut Told) {
    // ETHTOOL_A_FEC_STATS; each has the sum, then the lanes.
    let statistics = find(answer, 5).unwrap_or_default();
    for (kind, counter) in [
        (2, PortCounter::FecCorrectedBlocks),
        (3, PortCounter::FecUncorrectableBlocks),
        (4, PortCounter::FecCorrectedBits),
    ] {
        told.count(
            counter,
            find(statistics, kind).and_then(|sum| u64_at(sum, 0)),
        );
    }
}

fn pause(answer: &[u8], told: &mut Told) {
    let is_on = |kind| find(answer, kind)?.first().map(|&on| u64::from(on != 0));
    told.set(PortGauge::PauseReceiveEnabled, is_on(3));
    told.set(PortGauge::PauseSendEnabled, is_on(4));
    let statistics = find(answer, 5).unwrap_or_default(); // ETHTOOL_A_PAUSE_STATS
    let value = |kind| find(statistics, kind).and_then(|value| u64_at(value, 0));
    told.count(PortCounter::PausesSent, value(2));
    told.count(PortCounter::PausesReceived, value(3));
}

fn link_state(answer: &[u8], told: &mut Told) {
    let number = |kind| {
        find(answer, kind)
            .and_then(|value| u32_at(value, 0))
            .map(u64::from)
    };
    told.set(PortGauge::SignalQuality, number(3));
    told.set(PortGauge::SignalQualityMax, number(4));
    let reason = find(answer, 5).and_then(|reason| reason.first());
    told.set(
        PortGauge::DownReason,
        reason.map(|&reason| u64::from(reason)),
    );
}

fn link_modes(answer: &[u8], told: &mut Told) {
    let lanes = find(answer, 9).and_then(|lanes| u32_at(lanes, 0));
    told.set(
        PortGauge::Lanes,
        lanes.filter(|&lanes| lanes > 0).map(u64::from),
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::attribute as one;
    use super::*;

    fn number(kind: u16, value: u64) -> Vec<u8> {
        attribute(kind, &value.to_ne_bytes())
    }

    fn all(parts: &[Vec<u8>]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn statistics_are_told_by_group() {
        let group = |id: u32, numbers: &[Vec<u8>]| {
            let numbers: Vec<Vec<u8>> = numbers.iter().map(|n| one(4 | NESTED, n)).collect();
            let id = one(2, &id.to_ne_bytes());
            one(4 | NESTED, &[id, all(&numbers)].concat())
        };
        let answer = all(&[
            one(2 | NESTED, b"header"),
            group(GROUP_PHY, &[number(0, 7)]),
            group(GROUP_MAC, &[number(3, 1000), number(4, 8)]),
            group(GROUP_CONTROL, &[number(0, u64::MAX), number(1, 9)]),
            group(
                GROUP_RMON,
                &[number(0, 1), number(1, 2), number(2, 3), number(3, 4)],
            ),
            group(99, &[number(0, 10)]),
        ]);
        let told = parse(Question::Statistics, &answer);
        let expected = [
            (PortCounter::SymbolErrors, 7),
            (PortCounter::CrcErrors, 8),
            (PortCounter::PausesReceived, 9),
            (PortCounter::UndersizeFrames, 1),
            (PortCounter::OversizeFrames, 2),
            (PortCounter::Fragments, 3),
            (PortCounter::Jabbers, 4),
        ];
        assert_eq!(told.counters, expected);
    }

    #[test]
    fn error_correction_is_told_as_a_sum_and_by_lane() {
        let lanes = |sum: u64| [sum.to_ne_bytes(), 1u64.to_ne_bytes()].concat();
        let statistics = all(&[one(2, &lanes(5)), one(3, &lanes(6)), one(4, &[])]);
        let told = parse(Question::Fec, &one(5 | NESTED, &statistics));
        let expected = [
            (PortCounter::FecCorrectedBlocks, 5),
            (PortCounter::FecUncorrectableBlocks, 6),
        ];
        assert_eq!(told.counters, expected);
        assert_eq!(parse(Question::Fec, &[]), Told::default());
    }

    #[test]
    fn pauses_links_and_lanes() {
        let statistics = all(&[number(2, 11), number(3, 12)]);
        let answer = all(&[one(3, &[1]), one(4, &[0]), one(5 | NESTED, &statistics)]);
        let told = parse(Question::Pause, &answer);
        assert_eq!(
            told.gauges,
            [
                (PortGauge::PauseReceiveEnabled, 1),
                (PortGauge::PauseSendEnabled, 0)
            ]
        );
        let pauses = [
            (PortCounter::PausesSent, 11),
            (PortCounter::PausesReceived, 12),
        ];
        assert_eq!(told.counters, pauses);
        let answer = all(&[one(2, &[0]), one(5, &[4])]);
        let told = parse(Question::LinkState, &answer);
        assert_eq!(told.gauges, [(PortGauge::DownReason, 4)]);
        let lanes = |lanes: u32| parse(Question::LinkModes, &one(9, &lanes.to_ne_bytes())).gauges;
        assert_eq!(lanes(8), [(PortGauge::Lanes, 8)]);
        assert_eq!(lanes(0), []);
    }

    #[test]
    fn names_are_checked_before_they_are_sent() {
        let refused = |interface: &str| header(HEADER, interface, 0).is_err();
        assert!(refused("a\0b") && refused(&"a".repeat(128)));
        assert!(!refused("eth0"));
    }

    /// Loopback is everywhere, and has a link.
    #[test]
    fn this_kernel_is_asked() {
        // The kernel may be without it, as some in containers.
        let Ok(mut socket) = Socket::open() else {
            return;
        };
        assert!(socket.about("lo", Question::LinkState).is_ok());
        let none = socket
            .about("thalweg-none", Question::LinkState)
            .unwrap_err();
        assert_eq!(none.raw_os_error(), Some(libc::ENODEV));
        let half = HalfPage {
            address: 0x50,
            page: 0,
            is_upper: false,
        };
        // Loopback has no transceiver; whoever may not ask is told so first.
        let error = socket.module("lo", half).unwrap_err().raw_os_error();
        assert!(
            [Some(libc::EOPNOTSUPP), Some(libc::EPERM)].contains(&error),
            "{error:?}"
        );
        for question in Question::ALL {
            match socket.about("lo", question) {
                Ok(told) => assert_eq!(told.counters, [], "{question:?}"),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP)),
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes: Vec<u8>) {
            for question in Question::ALL {
                let _ = parse(question, &bytes);
            }
        }
    }
}
