//! What a driver counts at a network interface, as `ethtool -S` shows it: the only place where
//! adapters say how often and how long they were paused, what they dropped, and how their link and PCIe do.
//! Asked through an ioctl, for netlink has only the few statistics that all drivers share. No rights are
//! needed. Found by patterns, since every driver has names of its own.

#![allow(
    unsafe_code,
    reason = "an ioctl, and memory beyond which it cannot write"
)]
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::slice;

use socket2::{Domain, Socket, Type};

use super::figure::{Figure, sum};
use crate::telemetry::schema::{PortCounter, PortGauge, PriorityCounter, Table, Unit};

/// Priorities of Ethernet (IEEE 802.1Q).
pub const PRIORITIES: usize = 8;

/// `#` is the number of a priority or lane. Sources: Linux,
/// `Documentation/networking/device_drivers/ethernet/mellanox/mlx5/counters.rst`, and `drivers/net/ethernet`:
/// `mellanox/mlx5/core/en_stats.c`, `broadcom/bnxt/bnxt_ethtool.c`, `intel/ice/ice_ethtool.c`,
/// `pensando/ionic/ionic_stats.c`. A group of pauses has the frames of priorities and those that pause the
/// whole link, which are different frames.
const FIGURES: &[Figure<PortCounter>] = &[
    Figure {
        is: PortCounter::PausesReceived,
        names: &[
            &["rx_prio#_pause", "rx_global_pause"],
            // mlx5, which has the above only for what is switched on.
            &["rx_pause_ctrl_phy"],
            &["rx_pfc_ena_frames_pri#", "rx_pause_frames"], // bnxt
            &["rx_priority_#_xoff.nic", "link_xoff_rx.nic"], // ice, below irdma
            &["frames_rx_pripause", "frames_rx_pause"],     // ionic
        ],
    },
    Figure {
        is: PortCounter::PausesSent,
        names: &[
            &["tx_prio#_pause", "tx_global_pause"],
            &["tx_pause_ctrl_phy"],
            &["tx_pfc_ena_frames_pri#", "tx_pause_frames"],
            &["tx_priority_#_xoff.nic", "link_xoff_tx.nic"],
            &["frames_tx_pripause", "frames_tx_pause"],
        ],
    },
    Figure {
        is: PortCounter::Paused,
        names: &[
            &["rx_prio#_pause_duration", "rx_global_pause_duration"],
            &["pfc_pri#_rx_duration_us"],
            &["rx_pripause_#_1us_count", "rx_pause_1us_count"],
        ],
    },
    Figure {
        is: PortCounter::Pausing,
        names: &[
            &["tx_prio#_pause_duration", "tx_global_pause_duration"],
            &["pfc_pri#_tx_duration_us"],
            &["tx_pripause_#_1us_count"],
        ],
    },
    Figure {
        is: PortCounter::PauseTransitions,
        names: &[
            &["rx_prio#_pause_transition", "rx_global_pause_transition"],
            &["pfc_pri#_rx_transitions"], // bnxt
        ],
    },
    Figure {
        is: PortCounter::PauseStormWarnings,
        names: &[&["tx_pause_storm_warning_events"]],
    },
    Figure {
        is: PortCounter::PauseStormErrors,
        names: &[&["tx_pause_storm_error_events"]],
    },
    Figure {
        is: PortCounter::ReceiveDiscards,
        names: &[
            &["rx_discards_phy"],
            &["rx_total_ring_discards"], // bnxt, with what was before a reset
            &["rx_total_discard_pkts"],  // bnxt before Linux 6.6
            &["rx_dropped.nic"],         // ice
            &["hw_rx_dropped"],          // ionic
        ],
    },
    Figure {
        is: PortCounter::TransmitDiscards,
        names: &[
            &["tx_discards_phy"],
            &["tx_total_ring_discards"],
            &["tx_total_discard_pkts"],
            &["tx_dropped_link_down.nic"],
            &["hw_tx_dropped"],
        ],
    },
    Figure {
        is: PortCounter::ReceiveOutOfBuffer,
        names: &[&["rx_out_of_buffer"]],
    },
    Figure {
        is: PortCounter::DeviceOutOfBuffer,
        names: &[&["dev_internal_queue_oob"], &["dev_out_of_buffer"]], // Linux, the vendor's driver
    },
    Figure {
        is: PortCounter::BufferPassedThreshold,
        names: &[
            &["rx_buffer_passed_thres_phy"],
            &["rx_buffer_passed_threshold"],
        ],
    },
    Figure {
        is: PortCounter::HostBufferDiscards,
        names: &[&["rx_prio#_buf_discard"]],
    },
    Figure {
        is: PortCounter::HostCongestionDiscards,
        names: &[&["rx_prio#_cong_discard"]],
    },
    Figure {
        is: PortCounter::HostCongestionMarks,
        names: &[&["rx_prio#_marked"]],
    },
    Figure {
        is: PortCounter::EcnMarkedFrames,
        names: &[&["rx_ecn_mark"]],
    },
    Figure {
        is: PortCounter::CrcErrors,
        names: &[
            &["rx_crc_errors_phy"],
            &["rx_fcs_err_frames"], // bnxt
            &["rx_crc_errors.nic"], // ice
            &["frames_rx_bad_fcs"], // ionic
        ],
    },
    Figure {
        is: PortCounter::UndersizeFrames,
        names: &[
            &["rx_undersize_pkts_phy"],
            &["rx_undrsz_frames"],     // bnxt
            &["rx_undersize.nic"],     // ice
            &["frames_rx_undersized"], // ionic
        ],
    },
    Figure {
        is: PortCounter::OversizeFrames,
        names: &[
            &["rx_oversize_pkts_phy"],
            &["rx_ovrsz_frames"],
            &["rx_oversize.nic"],
            &["frames_rx_oversized"],
        ],
    },
    Figure {
        is: PortCounter::Fragments,
        names: &[
            &["rx_fragments_phy"],
            &["rx_fragments.nic"],
            &["frames_rx_fragments"],
        ],
    },
    Figure {
        is: PortCounter::Jabbers,
        names: &[
            &["rx_jabbers_phy"],
            &["rx_jbr_frames"],
            &["rx_jabber.nic"],
            &["frames_rx_jabber"],
        ],
    },
    Figure {
        is: PortCounter::SymbolErrors,
        names: &[&["rx_symbol_err_phy"]],
    },
    Figure {
        is: PortCounter::PcsSymbolErrors,
        names: &[&["rx_pcs_symbol_err_phy"], &["rx_pcs_symbol_err"]],
    },
    Figure {
        is: PortCounter::FecCorrectedBits,
        names: &[&["rx_corrected_bits_phy"], &["rx_corrected_bits"]],
    },
    Figure {
        is: PortCounter::FecCorrectedBlocks,
        names: &[&["rx_fec_corrected_blocks"]],
    },
    Figure {
        is: PortCounter::FecUncorrectableBlocks,
        names: &[&["rx_fec_uncorrectable_blocks"]],
    },
    Figure {
        is: PortCounter::LaneErrors,
        names: &[&["rx_err_lane_#_phy"]],
    },
    Figure {
        is: PortCounter::LinkDowns,
        names: &[&["link_down_events_phy"], &["link_down_events"]],
    },
    Figure {
        is: PortCounter::ModuleUnplugs,
        names: &[&["module_unplug"]],
    },
    Figure {
        is: PortCounter::ModuleFaults,
        names: &[&["module_bus_stuck", "module_bad_shorted"]],
    },
    Figure {
        is: PortCounter::ModuleHighTemperatures,
        names: &[&["module_high_temp"]],
    },
    Figure {
        is: PortCounter::PcieReadStalls,
        names: &[&["outbound_pci_stalled_rd_events"]],
    },
    Figure {
        is: PortCounter::PcieWriteStalls,
        names: &[&["outbound_pci_stalled_wr_events"]],
    },
    Figure {
        is: PortCounter::PcieOverflows,
        names: &[&["outbound_pci_buffer_overflow"]],
    },
    Figure {
        is: PortCounter::PcieSignalErrors,
        names: &[&["rx_pci_signal_integrity", "tx_pci_signal_integrity"]],
    },
];

/// Percentages of the last second.
const SHARES: &[(PortGauge, &str)] = &[
    (PortGauge::PcieReadStalled, "outbound_pci_stalled_rd"),
    (PortGauge::PcieWriteStalled, "outbound_pci_stalled_wr"),
];

/// What there is of each priority.
const PRIORITY_FIGURES: &[Figure<PriorityCounter>] = &[
    Figure {
        is: PriorityCounter::SentBytes,
        names: &[&["tx_prio#_bytes"], &["tx_bytes_pri#"]], // mlx5, bnxt
    },
    Figure {
        is: PriorityCounter::ReceivedBytes,
        names: &[&["rx_prio#_bytes"], &["rx_bytes_pri#"]],
    },
    Figure {
        is: PriorityCounter::PausesReceived,
        names: &[
            &["rx_prio#_pause"],
            &["rx_pfc_ena_frames_pri#"],
            &["rx_priority_#_xoff.nic"],
            &["frames_rx_pripause#"],
        ],
    },
    Figure {
        is: PriorityCounter::PausesSent,
        names: &[
            &["tx_prio#_pause"],
            &["tx_pfc_ena_frames_pri#"],
            &["tx_priority_#_xoff.nic"],
            &["frames_tx_pripause#"],
        ],
    },
    Figure {
        is: PriorityCounter::Paused,
        names: &[
            &["rx_prio#_pause_duration"],
            &["pfc_pri#_rx_duration_us"],
            &["rx_pripause_#_1us_count"],
        ],
    },
    Figure {
        is: PriorityCounter::Pausing,
        names: &[
            &["tx_prio#_pause_duration"],
            &["pfc_pri#_tx_duration_us"],
            &["tx_pripause_#_1us_count"],
        ],
    },
    Figure {
        is: PriorityCounter::Discards,
        names: &[&["rx_prio#_discards"]],
    },
    Figure {
        is: PriorityCounter::Marks,
        names: &[&["rx_prio#_marked"]],
    },
];

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

/// What an interface counts, of what is wanted.
#[derive(Debug)]
pub struct Counters {
    statistics: Statistics,
    chosen: Chosen,
}

/// Which statistics make up what.
#[derive(Debug, Default)]
struct Chosen {
    counters: Vec<(PortCounter, Vec<usize>)>,
    gauges: Vec<(PortGauge, usize)>,
    priorities: Vec<(usize, PriorityCounter, Vec<usize>)>,
}

impl Counters {
    /// Learns what an interface counts; None if that is nothing known.
    ///
    /// # Errors
    /// There is no such interface, or it has no statistics.
    pub fn open(interface: &str) -> io::Result<Option<Self>> {
        Self::choose(interface, Chosen::of)
    }

    /// The same for one counter alone.
    ///
    /// # Errors
    /// As above.
    pub fn open_only(interface: &str, wanted: PortCounter) -> io::Result<Option<Self>> {
        Self::choose(interface, |names| {
            let mut counters = Chosen::of(names).counters;
            counters.retain(|(is, _)| *is == wanted);
            Chosen {
                counters,
                ..Chosen::default()
            }
        })
    }

    fn choose(interface: &str, of: impl Fn(&[String]) -> Chosen) -> io::Result<Option<Self>> {
        let statistics = Statistics::open(interface)?;
        let chosen = of(&statistics.names);
        // Reading costs much, and there may be nothing, yet.
        Ok((!chosen.is_empty()).then_some(Self { statistics, chosen }))
    }

    /// Asks the driver anew. Some ask their firmware for each group of statistics, and the kernel lets one
    /// caller at a time change or read interfaces: this takes up to milliseconds, and as long as
    /// it takes to reconfigure an interface where somebody does that.
    ///
    /// # Errors
    /// The interface is gone, or counts other things than when it was opened: then its names have to be
    /// learned again.
    pub fn read(&mut self) -> io::Result<Reading<'_>> {
        let values = self.statistics.read()?;
        Ok(Reading {
            values,
            chosen: &self.chosen,
        })
    }
}

/// What an interface has counted at one time.
#[derive(Debug)]
pub struct Reading<'a> {
    values: &'a [u64],
    chosen: &'a Chosen,
}

impl Reading<'_> {
    fn sum(&self, places: &[usize]) -> Option<u64> {
        sum(places.iter().map(|&at| self.values.get(at).copied()))
    }

    /// Of the port as a whole.
    pub fn counters(&self) -> impl Iterator<Item = (PortCounter, Option<u64>)> {
        self.chosen.counters.iter().map(|(is, places)| {
            let value = self.sum(places);
            (*is, in_unit(value, is.metric().unit))
        })
    }

    /// Of its present state.
    pub fn gauges(&self) -> impl Iterator<Item = (PortGauge, Option<u64>)> {
        self.chosen.gauges.iter().map(|&(is, at)| {
            let percent = self.values.get(at).filter(|&&percent| percent <= 100);
            (is, percent.map(|percent| percent * 10_000))
        })
    }

    /// Of each priority, below [`PRIORITIES`].
    pub fn priorities(&self) -> impl Iterator<Item = (usize, PriorityCounter, Option<u64>)> {
        let priorities = self.chosen.priorities.iter();
        priorities.map(|(priority, is, places)| {
            let value = self.sum(places);
            (*priority, *is, in_unit(value, is.metric().unit))
        })
    }
}

/// Drivers tell times in microseconds.
fn in_unit(value: Option<u64>, unit: Unit) -> Option<u64> {
    match unit {
        Unit::Nanoseconds => value?.checked_mul(1000),
        _ => value,
    }
}

impl Chosen {
    fn of(names: &[String]) -> Self {
        let places = |fits: &dyn Fn(&str) -> bool| -> Vec<usize> {
            let matching = names.iter().enumerate();
            let matching = matching.filter(|(_, name)| fits(name));
            matching.map(|(at, _)| at).collect()
        };
        let mut chosen = Self::default();
        for figure in FIGURES {
            let found = figure.choose(|pattern| places(&|name| numbered(pattern, name).is_some()));
            if !found.is_empty() {
                chosen.counters.push((figure.is, found));
            }
        }
        for (is, name) in SHARES {
            let at = names.iter().position(|other| other == name);
            chosen.gauges.extend(at.map(|at| (*is, at)));
        }
        for figure in PRIORITY_FIGURES {
            for priority in 0..PRIORITIES {
                let is_its = |pattern: &str, name: &str| numbered(pattern, name) == Some(priority);
                let found = figure.choose(|pattern| places(&|name| is_its(pattern, name)));
                if !found.is_empty() {
                    chosen.priorities.push((priority, figure.is, found));
                }
            }
        }
        chosen
    }

    fn is_empty(&self) -> bool {
        self.counters.is_empty() && self.gauges.is_empty() && self.priorities.is_empty()
    }
}

/// The number that stands for `#` in a pattern, if a name fits it; 0 if there is none.
fn numbered(pattern: &str, name: &str) -> Option<usize> {
    let Some((before, after)) = pattern.split_once('#') else {
        return (name == pattern).then_some(0);
    };
    let number = name.strip_prefix(before)?.strip_suffix(after)?;
    let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| number.parse().ok()).flatten()
}

/// The statistics of one interface.
#[derive(Debug)]
struct Statistics {
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
    fn open(interface: &str) -> io::Result<Self> {
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

    /// The present values, in the order of the names.
    fn read(&mut self) -> io::Result<&[u64]> {
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

    use proptest::prelude::*;

    use super::super::Source;
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
            let names = statistics.names.clone();
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

    /// What an interface with these statistics says, the first of which is 1, the second 2, ...
    fn reading(names: &[&str], look: impl FnOnce(&Reading<'_>)) {
        let values: Vec<u64> = (1..).take(names.len()).collect();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let chosen = Chosen::of(&names);
        look(&Reading {
            values: &values,
            chosen: &chosen,
        });
    }

    fn counted(names: &[&str], counters: &[PortCounter]) -> Vec<Option<u64>> {
        let mut told = Vec::new();
        reading(names, |reading| {
            let value = |&wanted| reading.counters().find(|(is, _)| *is == wanted);
            told = counters.iter().map(|is| value(is)?.1).collect();
        });
        told
    }

    fn pauses(names: &[&str]) -> [Option<u64>; 4] {
        let counters = [
            PortCounter::PausesReceived,
            PortCounter::PausesSent,
            PortCounter::Paused,
            PortCounter::Pausing,
        ];
        counted(names, &counters).try_into().unwrap()
    }

    const US: u64 = 1000;

    #[test]
    fn pauses_are_added_over_priorities_and_counted_once() {
        let mlx5 = [
            "rx_pause_ctrl_phy",
            "tx_pause_ctrl_phy",
            "rx_prio3_pause",
            "rx_prio3_pause_duration",
            "tx_prio3_pause",
            "tx_prio3_pause_duration",
            "rx_prio3_pause_transition",
            "rx_prio10_pause",
            "rx_prio_pause",
            "rx_prio3_packets",
        ];
        assert_eq!(
            pauses(&mlx5),
            [Some(3 + 8), Some(5), Some(4 * US), Some(6 * US)]
        );
        // Neither kind of pause is switched on.
        assert_eq!(pauses(&mlx5[..2]), [Some(1), Some(2), None, None]);
        let global = [
            "rx_pause_ctrl_phy",
            "rx_global_pause",
            "rx_global_pause_duration",
            "tx_global_pause",
            "tx_global_pause_duration",
        ];
        assert_eq!(
            pauses(&global),
            [Some(2), Some(4), Some(3 * US), Some(5 * US)]
        );
        let bnxt = [
            "rx_pause_frames",
            "rx_pfc_frames",
            "rx_pfc_ena_frames_pri0",
            "rx_pfc_ena_frames_pri7",
            "tx_pause_frames",
            "tx_pfc_ena_frames_pri3",
            "pfc_pri0_rx_duration_us",
            "pfc_pri0_rx_transitions",
            "pfc_pri0_tx_duration_us",
        ];
        assert_eq!(
            pauses(&bnxt),
            [Some(1 + 3 + 4), Some(5 + 6), Some(7 * US), Some(9 * US)]
        );
        let ice = [
            "link_xon_rx.nic",
            "link_xoff_rx.nic",
            "link_xoff_tx.nic",
            "tx_priority_0_xon.nic",
            "tx_priority_0_xoff.nic",
            "rx_priority_0_xoff.nic",
            "rx_priority_1_xoff.nic",
        ];
        assert_eq!(pauses(&ice), [Some(2 + 6 + 7), Some(3 + 5), None, None]);
        let ionic = [
            "frames_rx_pause",
            "frames_rx_pripause",
            "frames_tx_pause",
            "frames_tx_pripause",
            "tx_pripause_0_1us_count",
            "rx_pripause_0_1us_count",
            "rx_pripause_7_1us_count",
            "rx_pause_1us_count",
        ];
        assert_eq!(
            pauses(&ionic),
            [
                Some(1 + 2),
                Some(3 + 4),
                Some((6 + 7 + 8) * US),
                Some(5 * US)
            ]
        );
        // A virtual interface.
        assert_eq!(pauses(&["peer_ifindex", "rx_queue_0_packets"]), [None; 4]);
    }

    #[test]
    fn every_figure_of_the_driver_has_names() {
        let figures: Vec<_> = FIGURES.iter().map(|figure| figure.is).collect();
        let all = PortCounter::ALL.iter().copied();
        let driver: Vec<_> = all.filter(|c| c.source() == Source::Ethernet).collect();
        assert_eq!(figures, driver);
        let priorities: Vec<_> = PRIORITY_FIGURES.iter().map(|figure| figure.is).collect();
        assert_eq!(priorities, PriorityCounter::ALL);
    }

    #[test]
    fn drops_links_and_pcie() {
        let mlx5 = [
            "rx_discards_phy",
            "tx_discards_phy",
            "rx_out_of_buffer",
            "rx_buffer_passed_thres_phy",
            "rx_symbol_err_phy",
            "rx_pcs_symbol_err_phy",
            "rx_corrected_bits_phy",
            "rx_err_lane_0_phy",
            "rx_err_lane_3_phy",
            "link_down_events_phy",
            "module_bus_stuck",
            "module_bad_shorted",
            "outbound_pci_stalled_rd_events",
            "rx_pci_signal_integrity",
            "tx_pci_signal_integrity",
            "rx_prio3_marked",
            "rx_prio4_marked",
            "rx_undersize_pkts_phy",
            "rx_oversize_pkts_phy",
            "rx_fragments_phy",
            "rx_jabbers_phy",
        ];
        let counters = [
            PortCounter::ReceiveDiscards,
            PortCounter::TransmitDiscards,
            PortCounter::ReceiveOutOfBuffer,
            PortCounter::BufferPassedThreshold,
            PortCounter::SymbolErrors,
            PortCounter::PcsSymbolErrors,
            PortCounter::FecCorrectedBits,
            PortCounter::LaneErrors,
            PortCounter::LinkDowns,
            PortCounter::ModuleFaults,
            PortCounter::PcieReadStalls,
            PortCounter::PcieSignalErrors,
            PortCounter::HostCongestionMarks,
            PortCounter::UndersizeFrames,
            PortCounter::OversizeFrames,
            PortCounter::Fragments,
            PortCounter::Jabbers,
        ];
        let told: Vec<_> = [
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8 + 9,
            10,
            11 + 12,
            13,
            14 + 15,
            16 + 17,
            18,
            19,
            20,
            21,
        ]
        .into_iter()
        .map(Some)
        .collect();
        assert_eq!(counted(&mlx5, &counters), told);
        let bnxt = [
            "rx_total_discard_pkts",
            "tx_total_discard_pkts",
            "rx_buffer_passed_threshold",
            "rx_pcs_symbol_err",
            "rx_corrected_bits",
            "rx_fec_corrected_blocks",
            "rx_fec_uncorrectable_blocks",
            "link_down_events",
            "rx_fcs_err_frames",
        ];
        let counters = [
            PortCounter::ReceiveDiscards,
            PortCounter::TransmitDiscards,
            PortCounter::BufferPassedThreshold,
            PortCounter::PcsSymbolErrors,
            PortCounter::FecCorrectedBits,
            PortCounter::FecCorrectedBlocks,
            PortCounter::FecUncorrectableBlocks,
            PortCounter::LinkDowns,
            PortCounter::CrcErrors,
        ];
        let told: Vec<_> = (1..=9).map(Some).collect();
        assert_eq!(counted(&bnxt, &counters), told);
    }

    #[test]
    fn what_was_renamed_is_counted_once() {
        let (receive, transmit) = (PortCounter::ReceiveDiscards, PortCounter::TransmitDiscards);
        for (old, new, counter) in [
            ("rx_total_discard_pkts", "rx_total_ring_discards", receive),
            ("tx_total_discard_pkts", "tx_total_ring_discards", transmit),
            (
                "dev_out_of_buffer",
                "dev_internal_queue_oob",
                PortCounter::DeviceOutOfBuffer,
            ),
        ] {
            assert_eq!(counted(&[new], &[counter]), [Some(1)]);
            assert_eq!(counted(&[old], &[counter]), [Some(1)]);
            assert_eq!(counted(&[old, new], &[counter]), [Some(2)]);
        }
    }

    #[test]
    fn priorities_are_told_apart() {
        let names = [
            "rx_prio3_pause",
            "rx_prio4_pause",
            "rx_prio3_pause_duration",
            "rx_prio3_discards",
            "tx_prio3_bytes",
            "rx_prio8_pause",
        ];
        reading(&names, |reading| {
            let told: Vec<_> = reading.priorities().collect();
            let expected = [
                (3, PriorityCounter::SentBytes, Some(5)),
                (3, PriorityCounter::PausesReceived, Some(1)),
                (4, PriorityCounter::PausesReceived, Some(2)),
                (3, PriorityCounter::Paused, Some(3 * US)),
                (3, PriorityCounter::Discards, Some(4)),
            ];
            assert_eq!(told, expected);
        });
    }

    #[test]
    fn shares_are_of_a_second() {
        let names = ["outbound_pci_stalled_wr".to_owned()];
        let chosen = Chosen::of(&names);
        let told = |percent| {
            let values = [percent];
            let reading = Reading {
                values: &values,
                chosen: &chosen,
            };
            reading.gauges().collect::<Vec<_>>()
        };
        let stalled = |ppm| vec![(PortGauge::PcieWriteStalled, ppm)];
        assert_eq!(told(37), stalled(Some(370_000)));
        assert_eq!(told(1000), stalled(None));
    }

    proptest! {
        #[test]
        fn any_names_will_do(names in prop::collection::vec("[a-z_]{0,3}(rx|tx)_prio[0-9]{0,30}_pause", 0..20)) {
            let chosen = Chosen::of(&names);
            let values = vec![u64::MAX; names.len() / 2];
            let reading = Reading { values: &values, chosen: &chosen };
            prop_assert!(reading.counters().all(|(_, value)| value.is_none_or(|value| value > 0)));
            let _ = reading.priorities().count();
        }
    }
}
