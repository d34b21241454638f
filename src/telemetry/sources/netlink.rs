//! What drivers tell of a network interface in the kernel's own words, by generic netlink (family `ethtool`):
//! error correction, frames of MAC control, the quality of the signal, why a link is down, and the memory of
//! the transceiver. Only the last needs rights (`CAP_NET_ADMIN`).
//!
//! A few requests and answers, each about one interface: less code than it would take to use a crate that knows
//! netlink and not these messages. Answers are taken apart with the same care as anything from outside.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket as Descriptor, Type};

use crate::telemetry::schema::{PortCounter, PortGauge};

// linux/netlink.h
const HEADER_BYTES: usize = 16;
const ERROR: u16 = 2; // NLMSG_ERROR
const REQUEST: u16 = 1; // NLM_F_REQUEST
const NESTED: u16 = 1 << 15; // NLA_F_NESTED
const TYPE_MASK: u16 = !(3 << 14); // NLA_TYPE_MASK
const GENERIC: i32 = 16; // NETLINK_GENERIC

// linux/genetlink.h
const GENERIC_HEADER_BYTES: usize = 4;
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
/// The kernel answers at once, unless the driver's firmware does not.
const PATIENCE: Duration = Duration::from_secs(5);
/// Half of a module's page: what one request may ask for (`ETH_MODULE_EEPROM_PAGE_LEN`).
pub const HALF_PAGE_BYTES: usize = 128;

/// What can be asked about an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Frames of MAC control, checksums, symbols.
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

/// Asks the kernel.
#[derive(Debug)]
pub struct Socket {
    descriptor: Descriptor,
    family: u16,
    sequence: u32,
    room: Vec<u8>,
}

impl Socket {
    /// One for the interfaces of this network namespace.
    ///
    /// # Errors
    /// The kernel does not know the family, as before Linux 5.6.
    pub fn open() -> io::Result<Self> {
        let domain = Domain::from(libc::AF_NETLINK);
        let descriptor = Descriptor::new(domain, Type::RAW, Some(Protocol::from(GENERIC)))?;
        descriptor.set_read_timeout(Some(PATIENCE))?;
        let mut this = Self {
            descriptor,
            family: CONTROL,
            sequence: 0,
            room: vec![0; 64 << 10],
        };
        let mut name = Vec::new();
        attribute(&mut name, FAMILY_NAME, b"ethtool\0");
        let answer = this.ask(GET_FAMILY, &name)?;
        let id = find(&answer, FAMILY_ID).and_then(|id| id.first_chunk().copied());
        this.family = u16::from_ne_bytes(id.ok_or(ErrorKind::InvalidData)?);
        Ok(this)
    }

    /// Asks about an interface.
    ///
    /// # Errors
    /// There is none of this name, or its driver does not say (`EOPNOTSUPP`; `EINVAL` of older kernels).
    pub fn about(&mut self, interface: &str, question: Question) -> io::Result<Told> {
        let mut request = Vec::new();
        let (command, header, flags) = match question {
            Question::Statistics => (STATS_GET, STATS_HEADER, 0),
            Question::Fec => (FEC_GET, HEADER, WITH_STATISTICS),
            Question::Pause => (PAUSE_GET, HEADER, WITH_STATISTICS),
            Question::LinkState => (LINKSTATE_GET, HEADER, 0),
            Question::LinkModes => (LINKMODES_GET, HEADER, 0),
        };
        name(&mut request, header, interface, flags)?;
        if question == Question::Statistics {
            groups(&mut request);
        }
        Ok(parse(question, &self.ask(command, &request)?))
    }

    /// Reads half a page of the memory of an interface's transceiver: the lower half is the same in all pages.
    ///
    /// # Errors
    /// It has none, its driver does not say, or the caller may not ask (`ErrorKind::PermissionDenied`).
    pub fn module(&mut self, interface: &str, page: u8, is_upper: bool) -> io::Result<Vec<u8>> {
        let mut request = Vec::new();
        name(&mut request, HEADER, interface, 0)?;
        let half = u32::try_from(HALF_PAGE_BYTES).unwrap_or(0);
        let offset = if is_upper { half } else { 0 };
        // ETHTOOL_A_MODULE_EEPROM_*: offset, length, page, bank, address on I2C.
        attribute(&mut request, 2, &offset.to_ne_bytes());
        attribute(&mut request, 3, &half.to_ne_bytes());
        attribute(&mut request, 4, &[page]);
        attribute(&mut request, 5, &[0]);
        attribute(&mut request, 6, &[0x50]);
        let answer = self.ask(MODULE_EEPROM_GET, &request)?;
        let data = find(&answer, 7).ok_or(ErrorKind::InvalidData)?;
        Ok(data.to_owned())
    }

    /// Sends a request and gives the attributes of the answer.
    fn ask(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1);
        let len = HEADER_BYTES + GENERIC_HEADER_BYTES + attributes.len();
        let len = u32::try_from(len).map_err(|_| ErrorKind::InvalidInput)?;
        let mut request = Vec::new();
        request.extend_from_slice(&len.to_ne_bytes());
        request.extend_from_slice(&self.family.to_ne_bytes());
        request.extend_from_slice(&REQUEST.to_ne_bytes());
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        request.extend_from_slice(&0u32.to_ne_bytes());
        request.extend_from_slice(&[command, 1, 0, 0]);
        request.extend_from_slice(attributes);
        self.descriptor.write_all(&request)?;
        loop {
            let bytes = match self.descriptor.read(&mut self.room) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let datagram = &self.room[..bytes];
            if let Some(answer) = answer(datagram, self.family, self.sequence) {
                return answer.map(<[u8]>::to_owned);
            }
        }
    }
}

/// Adds an attribute.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("requests are short");
    to.extend_from_slice(&len.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Adds which interface is meant.
fn name(to: &mut Vec<u8>, kind: u16, interface: &str, flags: u32) -> io::Result<()> {
    if interface.len() >= NAME_BYTES_MAX || interface.contains('\0') {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut header = Vec::new();
    attribute(
        &mut header,
        HEADER_DEV_NAME,
        &[interface.as_bytes(), b"\0"].concat(),
    );
    let flags = COMPACT_BITSETS | flags;
    attribute(&mut header, HEADER_FLAGS, &flags.to_ne_bytes());
    attribute(to, kind | NESTED, &header);
    Ok(())
}

// ETHTOOL_STATS_*
const GROUP_PHY: u32 = 0;
const GROUP_MAC: u32 = 1;
const GROUP_CONTROL: u32 = 2;

/// Adds which groups of statistics are meant: a bitset without a mask (`ETHTOOL_A_STATS_GROUPS`).
fn groups(to: &mut Vec<u8>) {
    let mut bits = Vec::new();
    attribute(&mut bits, 1, &[]); // ETHTOOL_A_BITSET_NOMASK
    attribute(&mut bits, 2, &3u32.to_ne_bytes()); // ETHTOOL_A_BITSET_SIZE
    attribute(&mut bits, 4, &0b111u32.to_ne_bytes()); // ETHTOOL_A_BITSET_VALUE
    attribute(to, 3 | NESTED, &bits);
}

/// The attributes of the answer in a datagram; none if it is not there.
///
/// # Errors
/// What the kernel answered instead.
pub fn answer(datagram: &[u8], family: u16, sequence: u32) -> Option<io::Result<&[u8]>> {
    let mut rest = datagram;
    while let Some(len) = u32_at(rest, 0) {
        let len = usize::try_from(len).ok()?;
        let message = rest.get(..len).filter(|_| len >= HEADER_BYTES)?;
        let body = &message[HEADER_BYTES..];
        if u32_at(message, 8)? == sequence {
            let kind = u16_at(message, 4)?;
            if kind == ERROR {
                let errno = i32::from_ne_bytes(*body.first_chunk()?);
                // Zero would be the acknowledgement that was not asked for.
                let errno = errno.checked_neg().filter(|&errno| errno > 0)?;
                return Some(Err(io::Error::from_raw_os_error(errno)));
            }
            if kind == family {
                return body.get(GENERIC_HEADER_BYTES..).map(Ok);
            }
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// The attributes in these bytes, with their values. What does not fit in ends them.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
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

/// Numbers within the groups are those of clause 30 of IEEE 802.3, by the order of `ETHTOOL_A_STATS_ETH_*`.
/// Frames of MAC control are pauses, of the whole link and of priorities.
const STATISTICS: &[(u32, u16, PortCounter)] = &[
    (GROUP_PHY, 0, PortCounter::SymbolErrors), // aSymbolErrorDuringCarrier
    (GROUP_MAC, 4, PortCounter::CrcErrors),    // aFrameCheckSequenceErrors
    (GROUP_CONTROL, 0, PortCounter::PausesSent), // aMACControlFramesTransmitted
    (GROUP_CONTROL, 1, PortCounter::PausesReceived), // aMACControlFramesReceived
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

    use super::*;

    fn one(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        attribute(&mut bytes, kind, value);
        bytes
    }

    fn number(kind: u16, value: u64) -> Vec<u8> {
        one(kind, &value.to_ne_bytes())
    }

    fn all(parts: &[Vec<u8>]) -> Vec<u8> {
        parts.concat()
    }

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        bytes
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
            group(99, &[number(0, 10)]),
        ]);
        let told = parse(Question::Statistics, &answer);
        let expected = [
            (PortCounter::SymbolErrors, 7),
            (PortCounter::CrcErrors, 8),
            (PortCounter::PausesReceived, 9),
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
    fn answers_are_told_from_others() {
        let right = message(30, 5, &[1, 1, 0, 0, 4, 0, 7, 0]);
        let datagram = [
            message(30, 4, &[0; 8]),
            message(31, 5, &[0; 8]),
            right.clone(),
        ]
        .concat();
        let attributes = answer(&datagram, 30, 5).unwrap().unwrap();
        assert_eq!(attributes, [4, 0, 7, 0]);
        assert!(answer(&datagram, 30, 6).is_none());
        assert!(answer(&right[..right.len() - 1], 30, 5).is_none());
        let refused = message(ERROR, 5, &(-libc::EOPNOTSUPP).to_ne_bytes());
        let error = answer(&refused, 30, 5).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        let odd = message(ERROR, 5, &i32::MIN.to_ne_bytes());
        assert!(answer(&odd, 30, 5).is_none());
    }

    #[test]
    fn names_are_checked_before_they_are_sent() {
        let refused = |interface: &str| name(&mut Vec::new(), HEADER, interface, 0).is_err();
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
        // Loopback has no transceiver; whoever may not ask is told so first.
        let error = socket.module("lo", 0, false).unwrap_err().raw_os_error();
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
        fn any_bytes_will_do(bytes: Vec<u8>, family: u16, sequence: u32) {
            let _ = answer(&bytes, family, sequence);
            for question in Question::ALL {
                let _ = parse(question, &bytes);
            }
        }

        #[test]
        fn attributes_are_read_back(values in prop::collection::vec((0u16..1 << 14, prop::collection::vec(any::<u8>(), 0..20)), 0..8)) {
            let bytes = all(&values.iter().map(|(kind, value)| one(*kind, value)).collect::<Vec<_>>());
            let read: Vec<_> = attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, values);
        }
    }
}
