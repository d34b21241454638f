//! How adapters and GPUs hang on PCI Express, from `/sys/bus/pci`: the speed and width of each link
//! on the way to the processor, its errors, and whether a bridge sends direct traffic between two
//! devices up to the processor first (ACS).

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

// linux/pci_regs.h
const EXTENDED_AT: usize = 0x100; // PCI_CFG_SPACE_SIZE
const ACS: u16 = 0x0d; // PCI_EXT_CAP_ID_ACS
const ACS_CONTROL_AT: usize = 6; // PCI_ACS_CTRL
const ACS_REDIRECTS: u16 = 0x04 | 0x08 | 0x10; // PCI_ACS_RR, PCI_ACS_CR, PCI_ACS_UF
/// All of a device's configuration.
const CONFIG_BYTES: usize = 4096;
/// As many capabilities as fit, each of 8 bytes at least.
const CAPABILITIES_MAX: usize = (CONFIG_BYTES - EXTENDED_AT) / 8;

const VENDOR_NVIDIA: u32 = 0x10de;
const VENDOR_AMD: u32 = 0x1002;
// linux/pci_ids.h: PCI_BASE_CLASS_DISPLAY, PCI_BASE_CLASS_BRIDGE, and 12, accelerators.
const CLASS_DISPLAY: u32 = 0x03;
const CLASS_BRIDGE: u32 = 0x06;
const CLASS_ACCELERATOR: u32 = 0x12;

/// A link's speed and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Transfers in a second on each lane, in millions.
    pub speed_mts: u32,
    /// Lanes.
    pub width: u8,
}

/// Errors that a device has reported since it was started (AER).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Errors {
    /// Those that the link mended by itself.
    pub correctable: Option<u64>,
    /// Those that lost a transaction.
    pub nonfatal: Option<u64>,
    /// Those that took the link down.
    pub fatal: Option<u64>,
}

/// Who made a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpu {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
}

/// A device or a bridge. What the system does not say is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its place on the bus, such as `0000:3b:00.0`.
    pub address: String,
    /// Where the system shows it.
    pub folder: PathBuf,
    /// Who made it.
    pub vendor: Option<u32>,
    /// Which of the maker's devices it is.
    pub model: Option<u32>,
    /// What it is: base class, class, interface.
    pub class: Option<u32>,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The link towards the processor, as it runs; a bridge's is that towards the device.
    pub link: Option<Link>,
    /// What this end of the link can do at most.
    pub link_max: Option<Link>,
    /// Node of memory and processors that is nearest.
    pub numa_node: Option<u32>,
    /// What went wrong on its link.
    pub errors: Errors,
}

/// What a bridge does with traffic between devices below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acs {
    /// It cannot do anything about it.
    Absent,
    /// So many bits of its control register are set.
    Control(u16),
}

impl Acs {
    /// Whether requests, answers, or both go up to the processor instead of straight across.
    #[must_use]
    pub fn redirects(self) -> bool {
        matches!(self, Self::Control(control) if control & ACS_REDIRECTS != 0)
    }
}

impl Link {
    /// What it carries each way, in Mb/s, before the headers of its packets: those cost another
    /// 5 to 20 %.
    #[must_use]
    pub fn rate_mbps(self) -> u64 {
        // The codes of the PCI Express Base Specification: 8b/10b, 128b/130b, FLITs of 242 in 256.
        let (payload, of) = match self.speed_mts {
            ..=5000 => (8, 10),
            5001..=32_000 => (128, 130),
            32_001.. => (242, 256),
        };
        u64::from(self.speed_mts) * u64::from(self.width) * payload / of
    }

    /// What both ends of a link can do.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        Self {
            speed_mts: self.speed_mts.min(other.speed_mts),
            width: self.width.min(other.width),
        }
    }
}

/// `32 GT/s x16`
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let speed = f64::from(self.speed_mts) / 1e3;
        write!(f, "{speed} GT/s x{}", self.width)
    }
}

impl Device {
    /// Reads a device; `folder` is where the system shows it. What is missing or odd is none.
    #[must_use]
    pub fn read(folder: &Path) -> Self {
        let word = |name: &str| word(&folder.join(name));
        let number = |name: &str| {
            let text = word(name)?;
            u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
        };
        let total = |name: &str, of: &str| total(&word(name)?, of);
        let link = |speed: &str, width: &str| link(&word(speed)?, &word(width)?);
        let driver = fs::read_link(folder.join("driver")).ok();
        Self {
            address: name(folder).unwrap_or_default(),
            folder: folder.to_owned(),
            vendor: number("vendor"),
            model: number("device"),
            class: number("class"),
            driver: driver.and_then(|driver| name(&driver)),
            link: link("current_link_speed", "current_link_width"),
            link_max: link("max_link_speed", "max_link_width"),
            // -1 where there is only one node.
            numa_node: word("numa_node").and_then(|node| node.parse().ok()),
            errors: Errors {
                correctable: total("aer_dev_correctable", "TOTAL_ERR_COR"),
                nonfatal: total("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL"),
                fatal: total("aer_dev_fatal", "TOTAL_ERR_FATAL"),
            },
        }
    }

    /// Whose GPU this is, if it is one.
    #[must_use]
    pub fn gpu(&self) -> Option<Gpu> {
        let class = self.class? >> 16;
        match self.vendor? {
            VENDOR_NVIDIA if class == CLASS_DISPLAY => Some(Gpu::Nvidia),
            VENDOR_AMD if class == CLASS_DISPLAY || class == CLASS_ACCELERATOR => Some(Gpu::Amd),
            _ => None,
        }
    }

    /// Whether others hang on it.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.class.is_some_and(|class| class >> 16 == CLASS_BRIDGE)
    }

    /// How it treats traffic between devices; none if that cannot be read, which takes root.
    #[must_use]
    pub fn acs(&self) -> Option<Acs> {
        let file = File::open(self.folder.join("config")).ok()?;
        let mut config = Vec::new();
        file.take(CONFIG_BYTES as u64)
            .read_to_end(&mut config)
            .ok()?;
        acs(&config)
    }
}

/// All devices and bridges, by their addresses; `sys` is `/sys` but in tests.
#[must_use]
pub fn devices(sys: &Path) -> Vec<Device> {
    let entries = fs::read_dir(sys.join("bus/pci/devices"));
    let mut folders: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::canonicalize(entry.path()).ok())
        .collect();
    folders.sort_unstable();
    folders.iter().map(|folder| Device::read(folder)).collect()
}

/// The bridges above a device, the nearest first. Their folders are around its own.
#[must_use]
pub fn above(device: &Device) -> Vec<Device> {
    folders_above(device).map(Device::read).collect()
}

/// The other end of a device's link.
#[must_use]
pub fn upper_end(device: &Device) -> Option<Device> {
    folders_above(device).next().map(Device::read)
}

fn folders_above(device: &Device) -> impl Iterator<Item = &Path> {
    let around = device.folder.ancestors().skip(1);
    around.take_while(|folder| name(folder).is_some_and(|name| is_address(&name)))
}

/// What both ends of a link can do at most, or the one that says so.
#[must_use]
pub fn most(lower: &Device, upper: Option<&Device>) -> Option<Link> {
    let ends = [lower.link_max, upper.and_then(|upper| upper.link_max)];
    ends.into_iter().flatten().reduce(Link::least)
}

/// The ACS capability in a device's configuration; none if the bytes end before it could be there,
/// as they do for everybody but root.
#[must_use]
pub fn acs(config: &[u8]) -> Option<Acs> {
    let mut at = EXTENDED_AT;
    for _ in 0..CAPABILITIES_MAX {
        let header = config
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .map(|header| u32::from_le_bytes(*header))?;
        // A device without extended capabilities, or none at all any more.
        if header == 0 || header == u32::MAX {
            return Some(Acs::Absent);
        }
        let [low, high, ..] = header.to_le_bytes();
        if u16::from_le_bytes([low, high]) == ACS {
            let control = config.get(at + ACS_CONTROL_AT..)?.first_chunk()?;
            return Some(Acs::Control(u16::from_le_bytes(*control)));
        }
        at = (header >> 20) as usize & !3;
        if at < EXTENDED_AT {
            return Some(Acs::Absent);
        }
    }
    // Capabilities that go round in a circle.
    Some(Acs::Absent)
}

/// `16.0 GT/s PCIe` and `16`. None for the `Unknown` of virtual functions, and their 0 or 255 lanes.
fn link(speed: &str, width: &str) -> Option<Link> {
    let (whole, tenths) = match speed.split(' ').next()?.split_once('.') {
        Some((whole, tenths)) => (whole, tenths.get(..1)?.parse::<u32>().ok()?),
        None => (speed.split(' ').next()?, 0),
    };
    let whole: u32 = whole.parse().ok()?;
    let width = width.parse().ok()?;
    (whole > 0 && (1..=32).contains(&width)).then_some(Link {
        speed_mts: whole.checked_mul(1000)?.checked_add(tenths * 100)?,
        width,
    })
}

/// The number after a name, in the lines of an AER file.
fn total(text: &str, of: &str) -> Option<u64> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(of)?.trim().parse().ok())
}

/// `0000:3b:00.0`; the domain may have more digits.
fn is_address(name: &str) -> bool {
    let is_hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let mut parts = name.split([':', '.']);
    let (domain, bus) = (parts.next(), parts.next());
    let (slot, function) = (parts.next(), parts.next());
    domain.is_some_and(|domain| is_hex(domain, 4..=8))
        && bus.is_some_and(|bus| is_hex(bus, 2..=2))
        && slot.is_some_and(|slot| is_hex(slot, 2..=2))
        && function.is_some_and(|function| is_hex(function, 1..=1))
        && parts.next().is_none()
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// What a short file says; nothing if it is empty.
fn word(file: &Path) -> Option<String> {
    let mut text = Vec::new();
    let file = File::open(file).ok()?;
    file.take(CONFIG_BYTES as u64).read_to_end(&mut text).ok()?;
    let text = String::from_utf8(text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn a_device_and_the_bridges_above_it() {
        let tree = Tree::new("pcie");
        let port = "devices/pci0000:3a/0000:3a:00.0";
        let device = format!("{port}/0000:3b:00.0");
        tree.file(&format!("{port}/class"), "0x060400\n");
        tree.file(&format!("{device}/vendor"), "0x15b3\n");
        tree.file(&format!("{device}/device"), "0x1021\n");
        tree.file(&format!("{device}/class"), "0x020000\n");
        tree.file(&format!("{device}/current_link_speed"), "16.0 GT/s PCIe\n");
        tree.file(&format!("{device}/current_link_width"), "8\n");
        tree.file(&format!("{device}/max_link_speed"), "32.0 GT/s PCIe\n");
        tree.file(&format!("{device}/max_link_width"), "16\n");
        tree.file(&format!("{device}/numa_node"), "-1\n");
        let errors = "RxErr 3\nBadTLP 0\nTOTAL_ERR_COR 3\n";
        tree.file(&format!("{device}/aer_dev_correctable"), errors);
        tree.file(&format!("{device}/aer_dev_fatal"), "many\n");
        tree.link(&format!("{device}/driver"), "../../drivers/mlx5_core");
        for (at, folder) in [("0000:3a:00.0", port), ("0000:3b:00.0", &device)] {
            tree.link(
                &format!("bus/pci/devices/{at}"),
                &format!("../../../{folder}"),
            );
        }
        let devices = devices(tree.path());
        let [bridge, nic] = &devices[..] else {
            panic!("{devices:?}")
        };
        assert!(bridge.is_bridge() && !nic.is_bridge());
        assert_eq!((nic.vendor, nic.model), (Some(0x15b3), Some(0x1021)));
        assert_eq!(nic.driver.as_deref(), Some("mlx5_core"));
        assert_eq!(nic.link.unwrap().to_string(), "16 GT/s x8");
        assert_eq!(nic.link_max.unwrap().to_string(), "32 GT/s x16");
        assert_eq!((nic.numa_node, nic.gpu()), (None, None));
        assert_eq!((nic.errors.correctable, nic.errors.fatal), (Some(3), None));
        assert_eq!(above(nic).first(), Some(bridge));
        assert_eq!(upper_end(nic).as_ref(), Some(bridge));
        assert_eq!((above(bridge), upper_end(bridge)), (vec![], None));
        assert_eq!(nic.acs(), None, "there is no configuration");
    }

    #[test]
    fn gpus_are_known_by_maker_and_class() {
        let tree = Tree::new("pcie-gpu");
        let gpu = |vendor: &str, class: &str| {
            tree.file("vendor", vendor);
            tree.file("class", class);
            Device::read(tree.path()).gpu()
        };
        assert_eq!(gpu("0x10de", "0x030200"), Some(Gpu::Nvidia));
        assert_eq!(gpu("0x1002", "0x120000"), Some(Gpu::Amd));
        // An NVSwitch, an audio function, words.
        assert_eq!(gpu("0x10de", "0x068000"), None);
        assert_eq!(gpu("0x1002", "0x040300"), None);
        assert_eq!(gpu("AMD", "display"), None);
    }

    #[test]
    fn a_link_that_is_not_known_is_not_slow() {
        assert_eq!(link("Unknown", "0"), None);
        assert_eq!(link("Unknown speed", "255"), None);
        assert_eq!(link("8.0 GT/s PCIe", "255"), None);
        assert_eq!(link("", ""), None);
        assert_eq!(link("4294967295 GT/s", "16"), None);
        let old = link("2.5 GT/s PCIe", "4").unwrap();
        assert_eq!(
            (old.to_string().as_str(), old.rate_mbps()),
            ("2.5 GT/s x4", 8000)
        );
        assert_eq!(link("16.0 GT/s PCIe", "16").unwrap().rate_mbps(), 252_061);
        assert_eq!(link("64.0 GT/s PCIe", "16").unwrap().rate_mbps(), 968_000);
    }

    /// A configuration with these capabilities one after the other, at these places.
    fn config(capabilities: &[(u16, usize)]) -> Vec<u8> {
        let mut config = vec![0; CONFIG_BYTES];
        for (at, (id, place)) in capabilities.iter().enumerate() {
            let next = capabilities.get(at + 1).map_or(0, |next| next.1);
            let next = u32::try_from(next).unwrap();
            let header = u32::from(*id) | 1 << 16 | next << 20;
            config[*place..place + 4].copy_from_slice(&header.to_le_bytes());
        }
        config
    }

    #[test]
    fn acs_is_found_among_the_capabilities() {
        let mut with = config(&[(1, 0x100), (ACS, 0x148), (0x19, 0x200)]);
        assert_eq!(acs(&with), Some(Acs::Control(0)));
        with[0x148 + ACS_CONTROL_AT] = 0x1d;
        assert_eq!(acs(&with), Some(Acs::Control(0x1d)));
        assert!(Acs::Control(0x1d).redirects());
        // Source validation alone turns nothing away from its way.
        assert!(!Acs::Control(0x01).redirects() && !Acs::Absent.redirects());
        assert_eq!(
            acs(&config(&[(1, 0x100), (0x19, 0x200)])),
            Some(Acs::Absent)
        );
        assert_eq!(acs(&config(&[])), Some(Acs::Absent));
        // What others than root may read, and a list that leads to itself.
        assert_eq!(acs(&with[..64]), None);
        assert_eq!(acs(&with[..0x148 + 6]), None);
        assert_eq!(acs(&config(&[(1, 0x100), (2, 0x100)])), Some(Acs::Absent));
    }

    #[test]
    fn addresses_are_told_from_other_folders() {
        assert!(is_address("0000:3b:00.0") && is_address("10000:e1:00.1"));
        for other in ["pci0000:3a", "0000:3b:00", "0000:3b:00.0.1", "virtio2", ""] {
            assert!(!is_address(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_configuration_is_read(config in prop::collection::vec(any::<u8>(), 0..700)) {
            let _ = acs(&config);
        }

        #[test]
        fn any_text_is_read(speed in ".*", width in ".*") {
            let _ = link(&speed, &width);
            let _ = total(&speed, "TOTAL_ERR_COR");
            let _ = is_address(&speed);
        }
    }
}
