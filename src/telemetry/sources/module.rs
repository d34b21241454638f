//! What a transceiver says of itself in its memory: temperature, voltage, light and current of each lane, and
//! the alarms that it has raised. Those of SFP, SFP+ and SFP28 speak SFF-8472, those of QSFP and QSFP28 SFF-8636,
//! those of QSFP-DD, OSFP and newer ones CMIS. Copper says nothing of the kind.
//!
//! Alarms are kept by most modules until they are read: whoever else reads them, as `ethtool -m` does, takes
//! them away from the next one, and so does this.

use std::io;

pub use super::ethtool_netlink::HALF_PAGE_BYTES;
use super::ethtool_netlink::{HalfPage, Socket};
use crate::telemetry::schema::{LaneGauge, PortGauge};

/// What a transceiver says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Module {
    /// Its own state.
    pub gauges: Vec<(PortGauge, u64)>,
    /// By lane and [`LaneGauge`].
    pub lanes: Vec<[Option<u64>; LaneGauge::COUNT]>,
}

/// How a module's memory is laid out, by the identifier in its first byte (SFF-8024, table 4-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// SFP, SFP+, SFP28.
    Sff8472,
    /// QSFP, QSFP+, QSFP28.
    Sff8636,
    /// QSFP-DD, OSFP, DSFP; QSFP, SFP-DD and SFP with CMIS.
    Cmis,
}

impl Layout {
    /// By a module's first byte.
    #[must_use]
    pub fn of(identifier: u8) -> Option<Self> {
        match identifier {
            0x03 => Some(Self::Sff8472),
            0x0c | 0x0d | 0x11 => Some(Self::Sff8636),
            0x18 | 0x19 | 0x1b | 0x1e..=0x20 => Some(Self::Cmis),
            _ => None,
        }
    }
}

/// Half pages of a module with CMIS, beside the lower memory.
#[derive(Debug, Clone, Copy)]
pub struct CmisPages<'a> {
    /// What it can do: the upper half of page 01h.
    pub advertising: &'a [u8],
    /// Its lanes: the upper half of page 11h.
    pub lanes: &'a [u8],
}

/// Reads the transceiver of an interface. Nothing if it says nothing that is known here.
///
/// # Errors
/// As [`Socket::module`].
pub(super) fn read(socket: &mut Socket, interface: &str) -> io::Result<Module> {
    let mut half = |address, page, is_upper| {
        let half = HalfPage {
            address,
            page,
            is_upper,
        };
        socket.module(interface, half)
    };
    // Where all have their first page; SFP has what it measures at an address of its own.
    let lower = half(0x50, 0, false)?;
    match lower.first().and_then(|&identifier| Layout::of(identifier)) {
        Some(Layout::Sff8472) if measures(&lower) => Ok(sff8472(&half(0x51, 0, false)?)),
        Some(Layout::Sff8472) | None => Ok(Module::default()),
        // Some adapters give the lower half only, which does for most.
        Some(Layout::Sff8636) => Ok(sff8636(&lower, half(0x50, 0, true).ok().as_deref())),
        Some(Layout::Cmis) if is_flat(&lower) => Ok(cmis(&lower, None)),
        Some(Layout::Cmis) => {
            let advertising = half(0x50, 1, true)?;
            let lanes = half(0x50, 0x11, true)?;
            let pages = CmisPages {
                advertising: &advertising,
                lanes: &lanes,
            };
            Ok(cmis(&lower, Some(pages)))
        }
    }
}

// Units of all: 1/256 of a degree, 100 uV, 0.1 uW, and 2 uA.
const MICROVOLTS: u64 = 100;
const NANOWATTS: u64 = 100;
const MICROAMPERES: u64 = 2;

/// Whether a module with SFF-8472 measures anything, and tells it as it stands: byte 92 of its first address says so.
/// Some old ones want to be written to first, or leave it to the host to make something of their numbers.
#[must_use]
pub fn measures(identity: &[u8]) -> bool {
    const THERE: u8 = 1 << 6;
    const CALIBRATED_OUTSIDE: u8 = 1 << 4;
    const CHANGE_ADDRESS: u8 = 1 << 2;
    let kind = identity.get(92).copied().unwrap_or(0);
    kind & (THERE | CALIBRATED_OUTSIDE | CHANGE_ADDRESS) == THERE
}

/// SFF-8472, the lower half at the second address: monitors are bytes 96 to 105, alarms 112 and 113, warnings 116
/// and 117. There is one lane.
#[must_use]
pub fn sff8472(lower: &[u8]) -> Module {
    let Some(voltage) = word(lower, 98).filter(|&voltage| voltage > 0) else {
        return Module::default();
    };
    // Temperature, voltage, current, light out, a bit for high and one for low each; then light in.
    let flags = |at: usize| {
        let byte = |at: usize| lower.get(at).copied().unwrap_or(0);
        ones(byte(at)) + ones(byte(at + 1) & 0xc0)
    };
    let lane = lane_gauges(
        word(lower, 104),
        word(lower, 102),
        word(lower, 100).map(|bias| bias * MICROAMPERES),
    );
    Module {
        gauges: gauges(signed(lower, 96), voltage, flags(112), flags(116)),
        lanes: measured(vec![lane]),
    }
}

/// SFF-8636, the lower half of page 00h: flags are bytes 3 to 21, the module's monitors 22 to 33, those of its
/// four lanes 34 to 81. In the upper half byte 220 says whether it measures the light that it sends.
#[must_use]
pub fn sff8636(lower: &[u8], upper: Option<&[u8]>) -> Module {
    const MEASURES_SENT: u8 = 1 << 2;
    // A module that measures nothing says zero to all; none runs without a voltage.
    let Some(voltage) = word(lower, 26).filter(|&voltage| voltage > 0) else {
        return Module::default();
    };
    let flags = |at: usize| lower.get(at).copied().unwrap_or(0);
    // Bits are high alarm, low alarm, high warning, low warning: of temperature and of voltage above what is of
    // no monitor; then of light in, current, and light out, of two lanes in a byte.
    let count = |mask: u8| -> u64 {
        let own = (6..=7).map(|at| ones(flags(at) & mask & 0xf0));
        own.chain((9..=14).map(|at| ones(flags(at) & mask))).sum()
    };
    let gauges = gauges(signed(lower, 22), voltage, count(0xcc), count(0x33));
    let sent = |lane: usize| word(lower, 50 + 2 * lane);
    let kind = upper.and_then(|upper| upper.get(220 - HALF_PAGE_BYTES));
    let is_any_sent = || (0..4).any(|lane| sent(lane).is_some_and(|power| power > 0));
    let measures_sent = kind.map_or_else(is_any_sent, |kind| kind & MEASURES_SENT != 0);
    let lane = |lane: usize| {
        lane_gauges(
            word(lower, 34 + 2 * lane),
            sent(lane).filter(|_| measures_sent),
            word(lower, 42 + 2 * lane).map(|bias| bias * MICROAMPERES),
        )
    };
    let lanes: Vec<_> = (0..4).map(lane).collect();
    Module {
        gauges,
        lanes: measured(lanes),
    }
}

/// Whether a module with CMIS has the lower memory and page 00h only, as copper (byte 2, bit 7).
#[must_use]
pub fn is_flat(lower: &[u8]) -> bool {
    lower.get(2).is_none_or(|model| model & 0x80 != 0)
}

/// CMIS: the module's flags and monitors are bytes 8 to 25 of lower memory. Which monitors lanes have is byte 160
/// of page 01h; their flags are bytes 134 to 153 of page 11h, their monitors 154 to 201.
#[must_use]
pub fn cmis(lower: &[u8], pages: Option<CmisPages<'_>>) -> Module {
    let Some(voltage) = word(lower, 16).filter(|&voltage| voltage > 0) else {
        return Module::default();
    };
    let flags = lower.get(9).copied().unwrap_or(0);
    let (mut alarms, mut warnings) = (ones(flags & 0x33), ones(flags & 0xcc));
    let mut lanes = Vec::new();
    if let Some(CmisPages {
        advertising,
        lanes: page,
    }) = pages
    {
        // Both are upper halves: byte 128 is their first.
        let at = |number: usize| number - HALF_PAGE_BYTES;
        let monitors = advertising.get(at(160)).copied().unwrap_or(0);
        let has = |bit: u8| monitors & (1 << bit) != 0;
        let scale = 1 << (monitors >> 3 & 3).min(2);
        // High alarm, low alarm, high warning, low warning of light out, current, and light in; a bit for
        // each lane.
        for (first, is_there) in [(139, has(1)), (143, has(0)), (149, has(2))] {
            if is_there {
                let flags = |number: usize| ones(page.get(at(number)).copied().unwrap_or(0));
                alarms += flags(first) + flags(first + 1);
                warnings += flags(first + 2) + flags(first + 3);
            }
        }
        lanes = (0..lane_count(lower))
            .map(|lane| {
                let value = |first: usize, is_there: bool| {
                    word(page, at(first) + 2 * lane).filter(|_| is_there)
                };
                lane_gauges(
                    value(186, has(2)),
                    value(154, has(1)),
                    value(170, has(0)).map(|bias| bias * MICROAMPERES * scale),
                )
            })
            .collect();
    }
    Module {
        gauges: gauges(signed(lower, 14), voltage, alarms, warnings),
        lanes: measured(lanes),
    }
}

/// Lanes of light, by the first application that the module offers: how many one has (byte 88), and at how many
/// places one can begin (byte 89).
fn lane_count(lower: &[u8]) -> usize {
    let each = usize::from(lower.get(88).copied().unwrap_or(0) & 15);
    let places = lower.get(89).copied().unwrap_or(0).count_ones() as usize;
    match each * places {
        0 => 8,
        lanes => lanes.min(8),
    }
}

fn gauges(
    temperature: Option<i16>,
    voltage: u64,
    alarms: u64,
    warnings: u64,
) -> Vec<(PortGauge, u64)> {
    let temperature = temperature.and_then(|t| Some(u64::try_from(t).ok()? * 1000 / 256));
    let mut gauges = vec![
        (PortGauge::ModuleVoltage, voltage * MICROVOLTS),
        (PortGauge::ModuleAlarms, alarms),
        (PortGauge::ModuleWarnings, warnings),
    ];
    gauges.extend(temperature.map(|millicelsius| (PortGauge::ModuleTemperature, millicelsius)));
    gauges
}

fn lane_gauges(
    receive: Option<u64>,
    send: Option<u64>,
    bias: Option<u64>,
) -> [Option<u64>; LaneGauge::COUNT] {
    let mut lane = [None; LaneGauge::COUNT];
    lane[LaneGauge::ReceivePower as usize] = receive.map(|power| power * NANOWATTS);
    lane[LaneGauge::SendPower as usize] = send.map(|power| power * NANOWATTS);
    lane[LaneGauge::Bias as usize] = bias;
    lane
}

/// Nothing where nothing is measured: all zero on all lanes, as copper that knows its voltage.
fn measured(lanes: Vec<[Option<u64>; LaneGauge::COUNT]>) -> Vec<[Option<u64>; LaneGauge::COUNT]> {
    let is_any = lanes.iter().flatten().any(|value| value.unwrap_or(0) > 0);
    if is_any { lanes } else { Vec::new() }
}

fn ones(flags: u8) -> u64 {
    u64::from(flags.count_ones())
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = *bytes.get(at..)?.first_chunk()?;
    Some(u64::from(u16::from_be_bytes(word)))
}

fn signed(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(page: &mut [u8], at: usize, value: u16) {
        page[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    fn gauge(module: &Module, wanted: PortGauge) -> Option<u64> {
        let gauges = module.gauges.iter();
        gauges
            .clone()
            .find_map(|(is, value)| (*is == wanted).then_some(*value))
    }

    fn lane(receive: u64, send: u64, bias: u64) -> [Option<u64>; LaneGauge::COUNT] {
        [Some(receive), Some(send), Some(bias)]
    }

    /// 40.5 degrees, 3.3 V; the third lane is dark.
    fn qsfp28() -> Vec<u8> {
        let mut lower = vec![0; HALF_PAGE_BYTES];
        lower[0] = 0x11;
        put(&mut lower, 22, 40 * 256 + 128);
        put(&mut lower, 26, 33_000);
        for (lane, receive) in [(0, 5000), (1, 5100), (2, 0), (3, 5300)] {
            put(&mut lower, 34 + 2 * lane, receive);
            put(&mut lower, 42 + 2 * lane, 3000);
            put(&mut lower, 50 + 2 * lane, 8000);
        }
        lower[10] = 0b0101_0000; // light in of lane 3: low alarm, low warning
        lower
    }

    #[test]
    fn qsfp28_tells_light_and_alarms() {
        let module = sff8636(&qsfp28(), None);
        assert_eq!(gauge(&module, PortGauge::ModuleTemperature), Some(40_500));
        assert_eq!(gauge(&module, PortGauge::ModuleVoltage), Some(3_300_000));
        assert_eq!(gauge(&module, PortGauge::ModuleAlarms), Some(1));
        assert_eq!(gauge(&module, PortGauge::ModuleWarnings), Some(1));
        assert_eq!(
            module.lanes,
            [
                lane(500_000, 800_000, 6000),
                lane(510_000, 800_000, 6000),
                lane(0, 800_000, 6000),
                lane(530_000, 800_000, 6000),
            ]
        );
    }

    #[test]
    fn what_qsfp28_says_beside_is_no_alarm() {
        let mut lower = qsfp28();
        let counts = |lower: &[u8]| {
            let module = sff8636(lower, None);
            [PortGauge::ModuleAlarms, PortGauge::ModuleWarnings].map(|is| gauge(&module, is))
        };
        // That it has begun, and that its cooler is ready; of voltage nothing is there.
        (lower[6], lower[7]) = (0b0000_0011, 0b0000_1111);
        assert_eq!(counts(&lower), [Some(1), Some(1)]);
        // High temperature, alarm and warning; low voltage, warning.
        (lower[6], lower[7]) = (0b1010_0001, 0b0001_0000);
        assert_eq!(counts(&lower), [Some(1 + 1), Some(1 + 2)]);
    }

    #[test]
    fn light_that_qsfp28_does_not_measure_is_absent() {
        let (mut lower, mut upper) = (qsfp28(), vec![0; HALF_PAGE_BYTES]);
        let sent = |lower: &[u8], upper: &[u8]| {
            let lanes = sff8636(lower, Some(upper)).lanes;
            assert_eq!(lanes[3][LaneGauge::ReceivePower as usize], Some(530_000));
            lanes[0][LaneGauge::SendPower as usize]
        };
        assert_eq!(sent(&lower, &upper), None);
        upper[220 - 128] = 0b0000_1100;
        assert_eq!(sent(&lower, &upper), Some(800_000));
        // One lane is dark.
        put(&mut lower, 50, 0);
        assert_eq!(sent(&lower, &upper), Some(0));
        // All are; or nobody says that they are measured.
        lower[50..58].fill(0);
        assert_eq!(sent(&lower, &upper), Some(0));
        let lanes = sff8636(&lower, None).lanes;
        assert_eq!(lanes[0][LaneGauge::SendPower as usize], None);
    }

    /// 62.25 degrees, 3.28 V, four lanes of eight.
    fn qsfp_dd() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let mut lower = vec![0; HALF_PAGE_BYTES];
        lower[0] = 0x18;
        put(&mut lower, 14, 62 * 256 + 64);
        put(&mut lower, 16, 32_800);
        lower[9] = 0b0100_0001; // high temperature alarm, high voltage warning
        (lower[88], lower[89]) = (0x84, 0x01); // 8 lanes of the host, 4 of light, at one place
        let mut advertising = vec![0; HALF_PAGE_BYTES];
        advertising[160 - 128] = 0b0000_1111; // all three; currents count double
        let mut page = vec![0; HALF_PAGE_BYTES];
        for lane in 0..8 {
            put(&mut page, 154 - 128 + 2 * lane, 10_000);
            put(&mut page, 170 - 128 + 2 * lane, 20_000);
            put(&mut page, 186 - 128 + 2 * lane, 9000);
        }
        page[150 - 128] = 0b0000_1010; // light in of lanes 2 and 4: low alarm
        page[145 - 128] = 1; // current of lane 1: high warning
        (lower, advertising, page)
    }

    #[test]
    fn qsfp_dd_tells_light_and_alarms() {
        let (lower, mut advertising, page) = qsfp_dd();
        let told = |advertising: &[u8]| {
            let pages = CmisPages {
                advertising,
                lanes: &page,
            };
            cmis(&lower, Some(pages))
        };
        let module = told(&advertising);
        assert_eq!(gauge(&module, PortGauge::ModuleTemperature), Some(62_250));
        assert_eq!(gauge(&module, PortGauge::ModuleVoltage), Some(3_280_000));
        assert_eq!(gauge(&module, PortGauge::ModuleAlarms), Some(1 + 2));
        assert_eq!(gauge(&module, PortGauge::ModuleWarnings), Some(1 + 1));
        assert_eq!(module.lanes, [lane(900_000, 1_000_000, 80_000); 4]);
        // What it does not measure is absent, and raises nothing.
        advertising[160 - 128] = 0b0000_0010;
        let module = told(&advertising);
        assert_eq!(module.lanes[0], [None, Some(1_000_000), None]);
        assert_eq!(gauge(&module, PortGauge::ModuleAlarms), Some(1));
    }

    #[test]
    fn lanes_are_counted_over_all_places() {
        let (mut lower, ..) = qsfp_dd();
        for (each, places, lanes) in [
            (0x44, 0x11, 8),
            (0x11, 0xff, 8),
            (0x88, 0x11, 8),
            (0x21, 1, 1),
            (0, 0, 8),
        ] {
            (lower[88], lower[89]) = (each, places);
            assert_eq!(lane_count(&lower), lanes, "{each:#x} {places:#x}");
        }
    }

    #[test]
    fn copper_says_nothing() {
        let mut lower = vec![0; HALF_PAGE_BYTES];
        assert_eq!(sff8636(&lower, None), Module::default());
        assert_eq!(cmis(&lower, None), Module::default());
        lower[2] = 0x80;
        assert!(is_flat(&lower) && is_flat(&[]));
        // It knows its voltage, and has no light.
        put(&mut lower, 26, 33_000);
        assert!(sff8636(&lower, None).lanes.is_empty());
        assert_eq!(
            gauge(&sff8636(&lower, None), PortGauge::ModuleVoltage),
            Some(3_300_000)
        );
    }

    #[test]
    fn frost_is_not_told() {
        let mut lower = qsfp28();
        put(&mut lower, 22, 0);
        let module = sff8636(&lower, None);
        assert_eq!(gauge(&module, PortGauge::ModuleTemperature), Some(0));
        put(&mut lower, 22, (-5i16 * 256).cast_unsigned());
        let module = sff8636(&lower, None);
        assert_eq!(gauge(&module, PortGauge::ModuleTemperature), None);
        assert_eq!(gauge(&module, PortGauge::ModuleVoltage), Some(3_300_000));
    }

    /// 35 degrees, 3.31 V, half a milliwatt out and none in: both alarm and warning.
    fn sfp28() -> Vec<u8> {
        let mut lower = vec![0; HALF_PAGE_BYTES];
        put(&mut lower, 96, 35 * 256);
        put(&mut lower, 98, 33_100);
        put(&mut lower, 100, 3500);
        put(&mut lower, 102, 5000);
        (lower[113], lower[117]) = (0x40, 0x40);
        lower
    }

    #[test]
    fn sfp28_tells_light_and_alarms() {
        let mut identity = vec![0; HALF_PAGE_BYTES];
        assert!(!measures(&identity) && !measures(&[]));
        for (kind, is_told) in [(0x68, true), (0x58, false), (0x6c, false), (0x20, false)] {
            identity[92] = kind;
            assert_eq!(measures(&identity), is_told, "{kind:#x}");
        }
        let mut lower = sfp28();
        let module = sff8472(&lower);
        assert_eq!(gauge(&module, PortGauge::ModuleTemperature), Some(35_000));
        assert_eq!(gauge(&module, PortGauge::ModuleVoltage), Some(3_310_000));
        assert_eq!(gauge(&module, PortGauge::ModuleAlarms), Some(1));
        assert_eq!(gauge(&module, PortGauge::ModuleWarnings), Some(1));
        assert_eq!(module.lanes, [lane(0, 500_000, 7000)]);
        // High temperature, low light out; what is of no lane and no monitor does not count.
        (lower[112], lower[113]) = (0x81, 0x3f);
        assert_eq!(gauge(&sff8472(&lower), PortGauge::ModuleAlarms), Some(2));
        lower[98..100].fill(0);
        assert_eq!(sff8472(&lower), Module::default());
    }

    #[test]
    fn layouts_are_told_by_the_first_byte() {
        for (identifier, layout) in [
            (0x00, None),
            (0x03, Some(Layout::Sff8472)),
            (0x0d, Some(Layout::Sff8636)),
            (0x11, Some(Layout::Sff8636)),
            (0x18, Some(Layout::Cmis)),
            (0x19, Some(Layout::Cmis)),
            (0x1e, Some(Layout::Cmis)),
            (0xff, None),
        ] {
            assert_eq!(Layout::of(identifier), layout, "{identifier:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_memory_will_do(lower: Vec<u8>, advertising: Vec<u8>, lanes: Vec<u8>) {
            let pages = CmisPages { advertising: &advertising, lanes: &lanes };
            for module in [sff8472(&lower), sff8636(&lower, Some(&lanes)), cmis(&lower, Some(pages)), cmis(&lower, None)] {
                prop_assert!(module.lanes.len() <= 8);
            }
        }

        #[test]
        fn any_pages_will_do(bytes in prop::collection::vec(any::<u8>(), 3 * HALF_PAGE_BYTES)) {
            let (lower, upper) = bytes.split_at(HALF_PAGE_BYTES);
            let (advertising, lanes) = upper.split_at(HALF_PAGE_BYTES);
            let module = cmis(lower, Some(CmisPages { advertising, lanes }));
            let alarms = gauge(&module, PortGauge::ModuleAlarms).unwrap_or(0);
            prop_assert!(alarms <= 4 + 6 * 8, "{}", alarms);
            prop_assert!(gauge(&sff8636(lower, Some(upper)), PortGauge::ModuleAlarms).unwrap_or(0) <= 32);
            prop_assert!(gauge(&sff8472(lower), PortGauge::ModuleAlarms).unwrap_or(0) <= 10);
        }
    }
}
