//! Quantities as people write them: `400G`, `100 Gb/s`, `1.5us`, `64 KiB`, `0.2 BDP`.
//!
//! They are read as exact decimals, never as binary fractions, so that a scenario means the same
//! on every machine.

use crate::sim::time::Picos;
use crate::units::Rate;

/// A decimal number: `digits` divided by ten to the power of `decimals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    digits: u64,
    decimals: u32,
}

/// So many decimals are read; nobody writes more.
const DECIMALS_MAX: u32 = 9;

impl Decimal {
    /// Reads a number without sign or exponent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !plain(whole) || !plain(fraction) || text.ends_with('.') {
            return None;
        }
        let decimals = u32::try_from(fraction.len()).ok()?;
        if decimals > DECIMALS_MAX {
            return None;
        }
        let digits = format!("{whole}{fraction}").parse().ok()?;
        Some(Self { digits, decimals })
    }

    /// The number times `unit`, if it is whole and fits.
    #[must_use]
    pub fn times(self, unit: u64) -> Option<u64> {
        let scale = 10u128.pow(self.decimals);
        let product = u128::from(self.digits) * u128::from(unit);
        (product % scale == 0)
            .then(|| u64::try_from(product / scale).ok())
            .flatten()
    }

    /// The number times `unit`, rounded up.
    #[must_use]
    pub fn times_up(self, unit: u64) -> Option<u64> {
        let product = u128::from(self.digits) * u128::from(unit);
        u64::try_from(product.div_ceil(10u128.pow(self.decimals))).ok()
    }
}

/// A number and what follows it, without blanks.
fn split(text: &str) -> Option<(Decimal, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    Some((Decimal::parse(&text[..end])?, text[end..].trim()))
}

/// `400G`, `100 Gb/s`, `2.5Gbps`: bits per second.
pub fn rate(text: &str) -> Option<Rate> {
    let (number, unit) = split(text)?;
    let unit = unit
        .strip_suffix("b/s")
        .or_else(|| unit.strip_suffix("bit/s"))
        .or_else(|| unit.strip_suffix("bps"))
        .unwrap_or(unit);
    let bits = match unit {
        "K" | "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return None,
    };
    Some(Rate(number.times(bits)? / 8))
}

/// `500ns`, `1.5 us`, `2ms`, `1s`, and `0`.
pub fn delay(text: &str) -> Option<Picos> {
    let (number, unit) = split(text)?;
    let picos = match unit {
        "ps" => 1,
        "ns" => 1_000,
        "us" | "µs" | "μs" => 1_000_000,
        "ms" => 1_000_000_000,
        "s" => 1_000_000_000_000,
        "" if number.digits == 0 => 1,
        _ => return None,
    };
    Some(Picos(number.times(picos)?))
}

/// Bytes, or a share of something that is known only when the fabric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many packets of the reference size.
    Packets(u64),
    /// So many bandwidth-delay products.
    Bdp(Decimal),
}

/// `2000000`, `2MB`, `64K`, `64 KiB`: bytes. K, M and G alone count by 1024, as in the settings of
/// the library; kB, MB and GB by 1000.
pub fn bytes(text: &str) -> Option<u64> {
    match size(text)? {
        Size::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// [`bytes`], or `101 packets`, or `0.2 BDP`.
pub fn size(text: &str) -> Option<Size> {
    let (number, unit) = split(text)?;
    let unit = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "packets" | "packet" => return Some(Size::Packets(number.times(1)?)),
        "BDP" | "bdp" => return Some(Size::Bdp(number)),
        _ => return None,
    };
    Some(Size::Bytes(number.times(unit)?))
}

/// `4 %`, `0.01%`: parts of a million.
pub fn share_ppm(text: &str) -> Option<u32> {
    let (number, unit) = split(text)?;
    let per_one = match unit {
        "%" => 10_000,
        "ppm" => 1,
        _ => return None,
    };
    let ppm = u32::try_from(number.times(per_one)?).ok()?;
    (ppm <= 1_000_000).then_some(ppm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, mbps) in [
            ("400G", 400_000),
            ("100 Gb/s", 100_000),
            ("2.5Gbps", 2_500),
            ("1T", 1_000_000),
            ("40 Mbit/s", 40),
        ] {
            assert_eq!(rate(text), Some(Rate::from_mbps(mbps)), "{text}");
        }
        for text in ["400", "G", "-1G", "1e3G", "400 GB/s", "400Gx", ""] {
            assert_eq!(rate(text), None, "{text}");
        }
        assert_eq!(rate("0G"), Some(Rate(0)), "the caller says why not");
    }

    #[test]
    fn delays() {
        assert_eq!(delay("1us"), Some(Picos(1_000_000)));
        assert_eq!(delay("1.5 µs"), Some(Picos(1_500_000)));
        assert_eq!(delay("0.0005ns"), None, "half a picosecond");
        assert_eq!(delay("2ms"), Some(Picos(2_000_000_000)));
        assert_eq!(delay("0"), Some(Picos::ZERO));
        assert_eq!(delay("7"), None, "of what?");
        assert_eq!(delay("1.us"), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("2MB"), Some(2_000_000));
        assert_eq!(bytes("64K"), Some(65_536));
        assert_eq!(bytes("1 MiB"), Some(1 << 20));
        assert_eq!(bytes("1.5K"), Some(1536));
        assert_eq!(bytes("419150"), Some(419_150));
        assert_eq!(bytes("0.3"), None);
        assert_eq!(bytes("1 BDP"), None);
        assert_eq!(size("101 packets"), Some(Size::Packets(101)));
        let Some(Size::Bdp(share)) = size("0.2 BDP") else {
            panic!()
        };
        assert_eq!(share.times_up(101), Some(21));
        assert_eq!(bytes("99999999999G"), None);
        assert_eq!(share_ppm("0.01%"), Some(100));
        assert_eq!(share_ppm("101%"), None);
    }
}
