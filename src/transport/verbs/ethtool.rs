//! What a driver counts at a network interface, as `ethtool -S` shows it: the only place where
//! adapters say how often and how long they were paused. Asked through an ioctl, for netlink has
//! only the few statistics that all drivers share. No rights are needed.

#![allow(
    unsafe_code,
    reason = "an ioctl, and memory beyond which it cannot write"
)]
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::slice;

use socket2::{Domain, Socket, Type};

// linux/ethtool.h
const GET_NAMES: u32 = 0x1b; // ETHTOOL_GSTRINGS
const GET_VALUES: u32 = 0x1d; // ETHTOOL_GSTATS
const GET_COUNT: u32 = 0x37; // ETHTOOL_GSSET_INFO
#[cfg(feature = "cli")]
const GET_LINK: u32 = 0x4c; // ETHTOOL_GLINKSETTINGS
const STATISTICS: u32 = 1; // ETH_SS_STATS
const NAME_BYTES: usize = 32; // ETH_GSTRING_LEN

// Where an answer's data begin: after the fields of `ethtool_gstrings`, `ethtool_stats` and
// `ethtool_sset_info`.
const NAMES_AT: usize = 12;
const VALUES_AT: usize = 8;
const COUNT_AT: usize = 16;

/// The largest page of any machine that Linux runs on: what begins at a multiple of it begins a
/// page.
const PAGE_BYTES: usize = 64 << 10;

/// The statistics of one interface.
#[derive(Debug)]
pub(super) struct Statistics {
    asked: Asked,
    names: Vec<String>,
    values: Vec<u64>,
}

/// An interface, and where its answers are written.
#[derive(Debug)]
struct Asked {
    socket: Socket,
    name: [libc::c_char; libc::IFNAMSIZ],
    answer: Room,
}

/// The fastest mode that an interface can have with what is plugged into it, in Mb/s; none if it
/// names none.
#[cfg(feature = "cli")]
pub(crate) fn speed_max_mbps(interface: &str) -> io::Result<Option<u64>> {
    let mut asked = Asked::new(interface)?;
    let ask = |asked: &mut Asked, words: i8| {
        let answer = asked.ask(|request| {
            request[..LINK_MODES_AT].fill(0);
            request[..4].copy_from_slice(&GET_LINK.to_ne_bytes());
            request[LINK_WORDS_AT] = words.to_ne_bytes()[0];
        })?;
        Ok::<_, io::Error>(answer.to_vec())
    };
    // The kernel first says, as a negative number, of how many words its sets of modes are.
    let answer = ask(&mut asked, 0)?;
    let words = i8::from_ne_bytes([answer[LINK_WORDS_AT]]).saturating_neg();
    let answer = ask(&mut asked, words)?;
    if words <= 0 || answer[LINK_WORDS_AT] != words.to_ne_bytes()[0] {
        return Err(ErrorKind::Unsupported.into());
    }
    // The first set is of what is supported.
    let is_supported = |mode: usize| {
        let word = number(&answer, LINK_MODES_AT + mode / 32 * 4);
        mode / 32 < usize::from(words.unsigned_abs()) && word >> (mode % 32) & 1 == 1
    };
    let speeds = LINK_MODES
        .iter()
        .filter(|(modes, _)| modes.clone().any(is_supported));
    Ok(speeds.map(|(_, speed)| *speed).max())
}

// Where `ethtool_link_settings` has the number of words in a set of modes, and where the sets begin.
#[cfg(feature = "cli")]
const LINK_WORDS_AT: usize = 15;
#[cfg(feature = "cli")]
const LINK_MODES_AT: usize = 48;

/// Modes of links by their numbers (`ETHTOOL_LINK_MODE_…_BIT`), and their speeds in Mb/s. Those below
/// 10 Gb/s carry no collectives.
#[cfg(feature = "cli")]
const LINK_MODES: &[(std::ops::RangeInclusive<usize>, u64)] = &[
    (12..=12, 10_000),
    (18..=20, 10_000),
    (21..=22, 20_000),
    (23..=26, 40_000),
    (27..=30, 56_000),
    (31..=33, 25_000),
    (34..=35, 50_000),
    (36..=39, 100_000),
    (40..=40, 50_000),
    (42..=46, 10_000),
    (52..=56, 50_000),
    (57..=61, 100_000),
    (62..=66, 200_000),
    (69..=73, 400_000),
    (75..=79, 100_000),
    (80..=84, 200_000),
    (85..=89, 400_000),
    (93..=98, 800_000),
    (103..=108, 200_000),
    (109..=114, 400_000),
    (115..=120, 800_000),
    (121..=124, 1_600_000),
];

impl Statistics {
    /// Learns what an interface counts.
    pub(super) fn open(interface: &str) -> io::Result<Self> {
        let mut asked = Asked::new(interface)?;
        let sets = 1_u64 << STATISTICS;
        let count = asked.ask(|request| {
            request[..4].copy_from_slice(&GET_COUNT.to_ne_bytes());
            request[8..16].copy_from_slice(&sets.to_ne_bytes());
        })?;
        // Sets that the driver does not have are taken out of the question.
        if count[8..16] != sets.to_ne_bytes() || number(count, COUNT_AT) == 0 {
            return Err(ErrorKind::Unsupported.into());
        }
        let count = number(count, COUNT_AT);
        let len = usize::try_from(count).unwrap_or(usize::MAX);
        asked.answer = Room::new(len.saturating_mul(NAME_BYTES).saturating_add(NAMES_AT))?;
        let names = asked.ask(|request| {
            request[..4].copy_from_slice(&GET_NAMES.to_ne_bytes());
            request[4..8].copy_from_slice(&STATISTICS.to_ne_bytes());
            request[8..12].copy_from_slice(&count.to_ne_bytes());
        })?;
        if number(names, 8) != count {
            return Err(others());
        }
        let names = names[NAMES_AT..].chunks_exact(NAME_BYTES).take(len);
        let text = |name: &[u8]| {
            let end = name.iter().position(|&byte| byte == 0);
            String::from_utf8_lossy(&name[..end.unwrap_or(NAME_BYTES)]).into_owned()
        };
        Ok(Self {
            names: names.map(text).collect(),
            values: vec![0; len],
            asked,
        })
    }

    /// What it counts, in the order of the values.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The present values. An error if the interface is gone, or counts other things than when it
    /// was opened: then its names have to be learned again.
    ///
    /// Some drivers ask their firmware for each group of statistics, and the kernel lets one
    /// caller at a time change or read interfaces: this takes up to milliseconds, and as long as
    /// it takes to reconfigure an interface where somebody does that.
    pub(super) fn read(&mut self) -> io::Result<&[u64]> {
        let count = u32::try_from(self.names.len()).map_err(|_| others())?;
        let answer = self.asked.ask(|request| {
            request[..4].copy_from_slice(&GET_VALUES.to_ne_bytes());
            request[4..8].copy_from_slice(&count.to_ne_bytes());
        })?;
        if number(answer, 4) != count {
            return Err(others());
        }
        let (values, _) = answer[VALUES_AT..].as_chunks();
        for (value, bytes) in self.values.iter_mut().zip(values) {
            *value = u64::from_ne_bytes(*bytes);
        }
        Ok(&self.values)
    }
}

fn number(answer: &[u8], at: usize) -> u32 {
    let bytes = answer
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

fn others() -> io::Error {
    io::Error::other("the interface counts other things than before")
}

impl Asked {
    /// With room for a page of answer.
    fn new(interface: &str) -> io::Result<Self> {
        // The last byte stays zero.
        if interface.len() >= libc::IFNAMSIZ {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut name = [0; libc::IFNAMSIZ];
        for (at, byte) in interface.bytes().enumerate() {
            name[at] = libc::c_char::from_ne_bytes([byte]);
        }
        Ok(Self {
            // Of any kind: it only leads to the interfaces of this network namespace.
            socket: Socket::new(Domain::IPV4, Type::DGRAM, None)?,
            name,
            answer: Room::new(PAGE_BYTES)?,
        })
    }

    /// Sends a request and gives the answer, which is written over it.
    fn ask(&mut self, write: impl FnOnce(&mut [u8])) -> io::Result<&[u8]> {
        write(self.answer.bytes());
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_data: self.answer.start.as_ptr().cast(),
            },
        };
        let socket = self.socket.as_raw_fd();
        // SAFETY: `request` is a valid ifreq whose name ends with a zero, and the kernel keeps no
        // pointer. It writes its answer from `ifru_data` on, which nothing else refers to now. How
        // much it writes is what the driver counts at that moment, which kernels compare with the
        // request only since commit 7b07be1ff1cb: what is more than fits meets the end of the
        // room, where the call fails.
        match unsafe { libc::ioctl(socket, libc::SIOCETHTOOL, &raw mut request) } {
            0 => Ok(self.answer.bytes()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Memory that ends with a page which nobody may touch: whoever writes on and on gets an error
/// there instead of writing over something else.
#[derive(Debug)]
struct Room {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is reached only through whoever owns it, like a boxed slice.
unsafe impl Send for Room {}

impl Room {
    /// At least so many bytes, all zero.
    fn new(bytes: usize) -> io::Result<Self> {
        let bytes = bytes
            .checked_next_multiple_of(PAGE_BYTES)
            .filter(|bytes| bytes.checked_add(PAGE_BYTES).is_some())
            .ok_or(ErrorKind::OutOfMemory)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, where the kernel likes it.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes + PAGE_BYTES,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            )
        };
        let start = match NonNull::new(start) {
            Some(_) if start == libc::MAP_FAILED => return Err(io::Error::last_os_error()),
            Some(start) => start.cast(),
            None => return Err(ErrorKind::OutOfMemory.into()),
        };
        let room = Self { start, bytes };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: these bytes are of the mapping above, which nobody else knows yet.
        match unsafe { libc::mprotect(start.as_ptr().cast(), bytes, access) } {
            0 => Ok(room),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes are mapped, readable, writable and initialised by the kernel, until
        // the room is dropped, and the borrow of the room keeps others away.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: the whole of the mapping, to which no reference is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes + PAGE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn an_interface_tells_what_it_counts_or_why_not() {
        let error = |interface: &str| Statistics::open(interface).unwrap_err();
        assert_eq!(error("thalweg-none").raw_os_error(), Some(libc::ENODEV));
        assert_eq!(error("a-name-of-16-byte").kind(), ErrorKind::InvalidInput);
        // Loopback is known everywhere, and counts nothing of its own.
        assert_eq!(error("lo").kind(), ErrorKind::Unsupported);
        // Adapters, virtual ones too, do where there are any.
        for entry in fs::read_dir("/sys/class/net").unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let Ok(mut statistics) = Statistics::open(&name) else {
                continue;
            };
            let names = statistics.names().to_vec();
            assert!(names.iter().all(|name| !name.is_empty()), "{names:?}");
            assert_eq!(statistics.read().unwrap().len(), names.len(), "{name}");
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn an_interface_tells_how_fast_it_can_be_or_why_not() {
        let error = speed_max_mbps("thalweg-none").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        // Those that have modes at all have some that are known here.
        for entry in fs::read_dir("/sys/class/net").unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let speed = speed_max_mbps(&name).ok().flatten();
            assert!(
                speed.is_none_or(|speed| (10_000..=1_600_000).contains(&speed)),
                "{name}: {speed:?}"
            );
        }
        let modes: Vec<usize> = LINK_MODES
            .iter()
            .flat_map(|(modes, _)| modes.clone())
            .collect();
        assert!(modes.is_sorted_by(|a, b| a < b), "each mode once");
    }

    #[test]
    fn nothing_is_written_beyond_the_room() {
        let mut room = Room::new(1).unwrap();
        room.bytes().fill(1);
        let zeroes = File::open("/dev/zero").unwrap();
        let start = room.start.as_ptr().cast();
        // SAFETY: what is beyond the room is not mapped for writing, as is shown here.
        let written = unsafe { libc::read(zeroes.as_raw_fd(), start, room.bytes + 1) };
        assert_eq!(usize::try_from(written).unwrap(), room.bytes);
        assert!(room.bytes().iter().all(|&byte| byte == 0));
    }
}
