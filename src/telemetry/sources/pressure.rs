//! How long work waited for processors, memory, disks and interrupts, by the kernel's own account (PSI,
//! `/proc/pressure`). A process that waits for a processor looks like a slow network to its peers. Not there
//! where the kernel was built without it or started with `psi=0`.

use std::path::Path;

use super::HostReading;
use super::files::{bytes, lines};
use crate::telemetry::schema::{HostCounter, HostGauge};

/// One line of such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// Share of the last ten seconds, in millionths.
    pub share_ppm: u64,
    /// All time, in nanoseconds.
    pub total_ns: u64,
}

/// What a file says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Some work waited.
    pub some: Option<Waits>,
    /// All work waited.
    pub full: Option<Waits>,
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`
/// (Linux, `Documentation/accounting/psi.rst`). Lines that say something else are left out.
#[must_use]
pub fn parse(text: &[u8]) -> Pressure {
    let mut pressure = Pressure::default();
    for line in lines(text) {
        let mut words = line.split_ascii_whitespace();
        let kind = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        let value = |name: &str| words.clone().find_map(|word| word.strip_prefix(name));
        *kind = value("avg10=")
            .and_then(percent_as_ppm)
            .zip(value("total=").and_then(|us| us.parse::<u64>().ok()?.checked_mul(1000)))
            .map(|(share_ppm, total_ns)| Waits {
                share_ppm,
                total_ns,
            });
    }
    pressure
}

/// `12.34`; None if it is more than everything.
fn percent_as_ppm(text: &str) -> Option<u64> {
    let (whole, hundredths) = text.split_once('.')?;
    let whole: u64 = whole.parse().ok().filter(|&whole| whole <= 100)?;
    let hundredths: u64 = (hundredths.len() == 2).then(|| hundredths.parse().ok())??;
    Some(whole * 10_000 + hundredths * 100).filter(|&ppm| ppm <= 1_000_000)
}

/// Reads all of it; `proc` is `/proc` but in tests.
pub(super) fn read(proc: &Path, host: &mut HostReading) {
    let told = |name| bytes(&proc.join("pressure").join(name)).map(|text| parse(&text));
    let resources = [
        (
            "cpu",
            Some((HostCounter::CpuPressureSome, HostGauge::CpuPressureSome)),
            (HostCounter::CpuPressureFull, HostGauge::CpuPressureFull),
        ),
        (
            "memory",
            Some((
                HostCounter::MemoryPressureSome,
                HostGauge::MemoryPressureSome,
            )),
            (
                HostCounter::MemoryPressureFull,
                HostGauge::MemoryPressureFull,
            ),
        ),
        (
            "io",
            Some((HostCounter::IoPressureSome, HostGauge::IoPressureSome)),
            (HostCounter::IoPressureFull, HostGauge::IoPressureFull),
        ),
        (
            "irq", // has no "some"
            None,
            (HostCounter::IrqPressureFull, HostGauge::IrqPressureFull),
        ),
    ];
    for (name, some, full) in resources {
        let pressure = told(name).unwrap_or_default();
        for (kind, waits) in [(some, pressure.some), (Some(full), pressure.full)] {
            if let Some((counter, gauge)) = kind {
                host.counters[counter] = waits.map(|waits| waits.total_ns);
                host.gauges[gauge] = waits.map(|waits| waits.share_ppm);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn both_lines_are_read() {
        let text = b"some avg10=3.61 avg60=10.73 avg300=5.53 total=5788134923\n\
                     full avg10=100.00 avg60=0.00 avg300=0.00 total=0\n";
        let some = Waits {
            share_ppm: 36_100,
            total_ns: 5_788_134_923_000,
        };
        let full = Waits {
            share_ppm: 1_000_000,
            total_ns: 0,
        };
        let expected = Pressure {
            some: Some(some),
            full: Some(full),
        };
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn what_is_no_pressure_is_left_out() {
        for text in [
            "",
            "some",
            "some avg10=3.61",
            "some avg10=3.6 total=1",
            "some avg10=-1.00 total=1",
            "some avg10=100.01 total=1",
            "some avg10=1.00 total=18446744073709551615",
            "any avg10=1.00 total=1",
        ] {
            assert_eq!(parse(text.as_bytes()), Pressure::default(), "{text}");
        }
        let half = parse(b"\xff\xff\nfull avg10=1.00 total=2\nsome avg10=N/A total=2\n");
        assert!(half.some.is_none() && half.full.is_some());
    }

    #[test]
    fn one_file_that_is_missing_hides_no_other() {
        let tree = Tree::new("pressure");
        tree.file("pressure/cpu", "some avg10=1.00 avg60=0 avg300=0 total=7\n");
        tree.file("pressure/irq", "full avg10=2.00 avg60=0 avg300=0 total=8\n");
        let mut host = HostReading::default();
        read(tree.path(), &mut host);
        let counter = |counter: HostCounter| host.counters[counter];
        assert_eq!(counter(HostCounter::CpuPressureSome), Some(7000));
        assert_eq!(counter(HostCounter::CpuPressureFull), None);
        assert_eq!(counter(HostCounter::MemoryPressureSome), None);
        assert_eq!(counter(HostCounter::IrqPressureFull), Some(8000));
        let share = host.gauges[HostGauge::IrqPressureFull];
        assert_eq!(share, Some(20_000));
    }

    proptest! {
        #[test]
        fn any_text_will_do(text: Vec<u8>) {
            let _ = parse(&text);
        }

        #[test]
        fn shares_are_at_most_everything(text in "(some|full) avg10=[0-9.]{0,8} total=[0-9]{0,22}") {
            let Pressure { some, full } = parse(text.as_bytes());
            prop_assert!(some.or(full).is_none_or(|waits| waits.share_ppm <= 1_000_000));
        }
    }
}
