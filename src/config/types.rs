//! The types of the settings that are more than a number, and how each is written.

use super::read_regular_file;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

/// The most bytes a secret may have.
pub const SECRET_BYTES_MAX: usize = 4096;

/// How many paths a link has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathCount {
    /// As many as the fabric is found to offer.
    Auto,
    /// So many, 1 to 64.
    Fixed(u8),
}

/// An enum whose values have one name each, the same in settings, logs and documentation.
macro_rules! named {
    ($(#[$about:meta])* $kind:ident { $($(#[$doc:meta])* $value:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $kind { $($(#[$doc])* $value,)+ }

        impl $kind {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// The value's name, as it is written in a setting.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $name),+ }
            }

            pub(super) fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == text)
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// Whether what arrives over PCI may get into memory in any order.
    RelaxedOrdering {
        /// Where that is safe and of use.
        Auto = "auto",
        /// Wherever the adapter can do it.
        On = "on",
        /// Never.
        Off = "off",
    }
}

named! {
    /// Which algorithm decides how much is in flight on a link.
    ControllerKind {
        /// Follows the measured delay.
        Delay = "delay",
        /// Follows the product of delay and its change (θ-PowerTCP): for comparisons.
        Power = "power",
        /// Follows the gradient of the delay (TIMELY): for comparisons.
        Timely = "timely",
        /// Follows the network's marks and the delay (NSCC).
        Nscc = "nscc",
        /// Keeps one window, whatever happens: for comparisons.
        Fixed = "fixed",
    }
}

named! {
    /// Over what links go.
    TransportKind {
        /// Verbs where both hosts have RDMA ports, else TCP.
        Auto = "auto",
        /// RDMA.
        Verbs = "verbs",
        /// TCP.
        Tcp = "tcp",
    }
}

named! {
    /// Which algorithm chooses the path of a chunk.
    SelectorKind {
        /// What does best on the transport: [`SelectorKind::Adaptive`] on TCP,
        /// [`SelectorKind::Weighted`] on RDMA.
        Auto = "auto",
        /// The path on which the chunk is expected to be done first.
        Adaptive = "adaptive",
        /// One path after the other, unless it is more than a chunk behind.
        LeastOutstanding = "least-outstanding",
        /// The same, but slower paths less often, by their round trips.
        Weighted = "weighted",
        /// Of two paths at random the one with the shorter round trip: for comparisons.
        PowerOfTwo = "power-of-two",
        /// One path after the other: for comparisons.
        RoundRobin = "round-robin",
        /// Always the same path for a message: for comparisons.
        Hash = "hash",
    }
}

named! {
    /// Which addresses may be used.
    Family {
        /// IPv4 and IPv6.
        Any = "any",
        /// IPv4 only.
        V4 = "ipv4",
        /// IPv6 only.
        V6 = "ipv6",
    }
}

impl PathCount {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "auto" {
            return Some(Self::Auto);
        }
        number(text, 1..=64).map(Self::Fixed)
    }
}

impl fmt::Display for PathCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(paths) => write!(f, "{paths}"),
        }
    }
}

impl Family {
    /// What `NCCL_SOCKET_FAMILY` means. NCCL passes over a value it doesn't know, and so do we.
    pub(super) fn from_nccl(text: &str) -> Self {
        match text {
            "AF_INET" => Self::V4,
            "AF_INET6" => Self::V6,
            _ => Self::Any,
        }
    }
}

/// The ports to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first port; 0 lets the kernel choose, and is then the last one too.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// Any port that the kernel finds free.
    pub const ANY: Self = Self { first: 0, last: 0 };

    /// Whether the kernel chooses.
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.first == 0
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (first, last) = match text.split_once('-') {
            None if text == "0" => return Some(Self::ANY),
            None => (text, text),
            Some(range) => range,
        };
        let first = number(first.trim(), 1..=u16::MAX)?;
        let last = number(last.trim(), first..=u16::MAX)?;
        Some(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Which network interfaces may be used, written as NCCL writes it: names separated by commas,
/// each standing for all interfaces whose name begins with it; `=` in front asks for the whole
/// name, `^` in front excludes, and `^=` does both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfFilter {
    signs: Signs,
    names: Box<[Box<str>]>,
}

impl IfFilter {
    /// Whether the interface called `name` may be used.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        self.signs
            .admit(name, self.names.iter().map(|entry| &**entry))
    }

    /// From `NCCL_SOCKET_IFNAME`'s syntax; none if it names nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (signs, text) = Signs::of(text);
        // NCCL's entries may carry a port after a colon (it is for InfiniBand): not part of the name.
        let names: Box<[Box<str>]> = text
            .split(',')
            .map(|entry| entry.split(':').next().unwrap_or(entry).trim())
            .filter(|name| !name.is_empty())
            .map(Box::from)
            .collect();
        (!names.is_empty()).then_some(Self { signs, names })
    }
}

/// Which ports of RDMA devices may be used: names as in [`IfFilter`], each with a port number after a
/// colon if it is for one port only (the syntax of `NCCL_IB_HCA`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HcaFilter {
    signs: Signs,
    entries: Box<[(Box<str>, Option<u8>)]>,
}

impl HcaFilter {
    /// Whether this port of the device called `name` may be used.
    #[must_use]
    pub fn admits(&self, name: &str, port: u8) -> bool {
        let of_port = |of: &Option<u8>| of.is_none_or(|of| of == port);
        let entries = self.entries.iter().filter(|(_, of)| of_port(of));
        self.signs.admit(name, entries.map(|(entry, _)| &**entry))
    }

    /// Whether what it admits has been asked for, rather than left over.
    #[must_use]
    pub fn names(&self) -> bool {
        !self.signs.excludes
    }

    /// From `NCCL_IB_HCA`'s syntax; none if it names nothing, or a port that is no number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (signs, text) = Signs::of(text);
        let entries = text.split(',').map(str::trim).filter(|e| !e.is_empty());
        let entries: Option<Box<[_]>> = entries
            .map(|entry| match entry.split_once(':') {
                Some((name, port)) => Some((Box::from(name), Some(number(port, 1..=u8::MAX)?))),
                None => Some((Box::from(entry), None)),
            })
            .collect();
        let entries = entries.filter(|entries| !entries.is_empty())?;
        Some(Self { signs, entries })
    }
}

/// What stands before a list of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signs {
    /// `^`: those named are left out.
    excludes: bool,
    /// `=`: whole names, not their beginnings.
    exact: bool,
}

impl Signs {
    /// The signs, and the list behind them.
    fn of(text: &str) -> (Self, &str) {
        let (excludes, text) = strip(text.trim(), '^');
        let (exact, text) = strip(text, '=');
        (Self { excludes, exact }, text)
    }

    /// Whether a list with these signs admits a name.
    fn admit<'a>(self, name: &str, mut entries: impl Iterator<Item = &'a str>) -> bool {
        let is_listed = entries.any(|entry| {
            if self.exact {
                name == entry
            } else {
                name.starts_with(entry)
            }
        });
        is_listed != self.excludes
    }
}

fn strip(text: &str, sign: char) -> (bool, &str) {
    text.strip_prefix(sign)
        .map_or((false, text), |rest| (true, rest))
}

impl fmt::Display for IfFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signs = match (self.signs.excludes, self.signs.exact) {
            (false, false) => "",
            (false, true) => "=",
            (true, false) => "^",
            (true, true) => "^=",
        };
        write!(f, "{signs}{}", self.names.join(","))
    }
}

/// What both ends of a link must know. Its content appears in no log.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// The content: for the proof of a handshake, and for nothing else.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn parse(content: &[u8]) -> Option<Self> {
        (1..=SECRET_BYTES_MAX)
            .contains(&content.len())
            .then(|| Self(content.into()))
    }

    /// The content of a file without the newline at its end that editors leave there; or why not.
    pub(super) fn from_file(path: &Path) -> Result<Self, String> {
        let content = read_regular_file(path, SECRET_BYTES_MAX as u64)?;
        let content = content.strip_suffix(b"\n").unwrap_or(&content);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        Self::parse(content).ok_or_else(|| "is empty".to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// A plain decimal number in `range`. Stricter than the standard parser: no sign.
pub(super) fn number<N>(text: &str, range: RangeInclusive<N>) -> Option<N>
where
    N: TryFrom<u64> + PartialOrd,
{
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = N::try_from(text.parse().ok()?).ok()?;
    range.contains(&number).then_some(number)
}

/// A number of bytes in `range`: a plain number, or one with K, M or G for its power of 1024.
pub(super) fn size<N>(text: &str, range: RangeInclusive<N>) -> Option<N>
where
    N: TryFrom<u64> + PartialOrd,
{
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let bytes = number(digits, 0..=u64::MAX)?.checked_mul(1 << shift)?;
    let bytes = N::try_from(bytes).ok()?;
    range.contains(&bytes).then_some(bytes)
}
