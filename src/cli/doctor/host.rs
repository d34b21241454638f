//! The host as the checks see it: files below one folder, the environment, and the few answers that
//! are not in files. All of it can be put in place of the real ones, so that each check is tested on
//! hosts that nobody has.

use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::{Config, ConfigError, HcaFilter};
use crate::telemetry::sources::dcb::{self, Dcb};
use crate::telemetry::sources::pcie::{self, Device, Gpu};
use crate::telemetry::sources::{ethtool, link, routes};
use crate::transport::verbs::device::{self, Choice, Found};

/// No file that is read whole is larger.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A driver that takes longer does not answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What the kernel is asked rather than read from. It asks drivers, and those their firmware: one that hangs
/// is an error (`ErrorKind::TimedOut`).
pub(super) trait Kernel {
    /// How an interface treats priorities.
    fn dcb(&self, interface: &str) -> io::Result<Dcb>;
    /// How many IPv4 routes have several next hops.
    fn multipath_routes(&self) -> io::Result<usize>;
    /// The bytes of payload in a packet of an RDMA port; none where it cannot be asked.
    fn rdma_mtu(&self, device: &str, port: u8) -> io::Result<Option<u32>>;
    /// The speed that an interface can have at most; none where it does not say.
    fn speed_max_mbps(&self, interface: &str) -> io::Result<Option<u64>>;
}

/// The kernel that runs.
#[derive(Debug)]
pub(super) struct Running;

impl Kernel for Running {
    fn dcb(&self, interface: &str) -> io::Result<Dcb> {
        let interface = interface.to_owned();
        within(PATIENCE, move || dcb::read(&interface))
    }

    fn multipath_routes(&self) -> io::Result<usize> {
        routes::multipath_routes()
    }

    #[cfg(feature = "verbs")]
    fn rdma_mtu(&self, device: &str, port: u8) -> io::Result<Option<u32>> {
        let device = device.to_owned();
        within(PATIENCE, move || {
            let device = crate::transport::verbs::sys::Device::open(&device).ok();
            let state = device.and_then(|device| device.port(port).ok());
            Ok(state.map(|state| state.mtu.into()))
        })
    }

    #[cfg(not(feature = "verbs"))]
    fn rdma_mtu(&self, _device: &str, _port: u8) -> io::Result<Option<u32>> {
        Ok(None)
    }

    fn speed_max_mbps(&self, interface: &str) -> io::Result<Option<u64>> {
        let interface = interface.to_owned();
        within(PATIENCE, move || ethtool::speed_max_mbps(&interface))
    }
}

/// The answer, unless it takes too long. Whoever waits for it is left behind then: nobody can end a call that
/// hangs in a driver.
fn within<T: Send + 'static>(
    patience: Duration,
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (answer, asked) = mpsc::channel();
    let name = "thalweg-doctor".to_owned();
    thread::Builder::new().name(name).spawn(move || {
        // Nobody hears what comes too late.
        let _ = answer.send(ask());
    })?;
    asked
        .recv_timeout(patience)
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// A port of an RDMA device.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) device: String,
    pub(super) number: u8,
    /// As the system calls it, such as `active`; empty if it does not say.
    pub(super) state: String,
    pub(super) is_ethernet: bool,
    pub(super) rate_mbps: Option<u64>,
    /// The network interface on it.
    pub(super) interface: Option<String>,
    /// The device on the bus; software devices have none.
    pub(super) pci: Option<Device>,
    pub(super) driver: Option<String>,
    /// Whether the settings let a job use it.
    pub(super) is_admitted: bool,
    pub(super) folder: PathBuf,
}

impl Port {
    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.device, self.number)
    }

    /// `mlx5_0:1 (eth2)`
    pub(super) fn label(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{} ({interface})", self.name()),
            None => self.name(),
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.state == "active"
    }
}

/// A route to addresses that an interface reaches without a router.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subnet {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u32,
    pub(super) interface: String,
}

pub(super) struct Host {
    root: PathBuf,
    /// The environment, and what NCCL's configuration files add to it.
    env: BTreeMap<String, String>,
    /// Where each variable that a file sets was found.
    from_file: BTreeMap<String, String>,
    /// Our settings, or what is wrong with them.
    pub(super) settings: Result<Config, ConfigError>,
    /// Our settings; what they are without our variables if they are wrong.
    pub(super) config: Config,
    kernel: Box<dyn Kernel>,
    pub(super) ports: Vec<Port>,
    pub(super) pci: Vec<Device>,
    /// Each interface is asked once.
    dcb: RefCell<BTreeMap<String, Option<Dcb>>>,
    /// What no driver has answered, a line each.
    unanswered: RefCell<BTreeSet<String>>,
}

impl Host {
    pub(super) fn new(
        root: &Path,
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        kernel: Box<dyn Kernel>,
    ) -> Self {
        let mut vars: Vec<(OsString, OsString)> = vars.into_iter().collect();
        let mut env: BTreeMap<String, String> = vars
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?.into(), value.to_str()?.into())))
            .collect();
        let mut from_file = BTreeMap::new();
        for (file, settings) in nccl_files(root, &env) {
            for (name, value) in settings {
                if let Entry::Vacant(free) = env.entry(name.clone()) {
                    vars.push((name.clone().into(), value.clone().into()));
                    from_file.insert(name, file.clone());
                    free.insert(value);
                }
            }
        }
        let settings = Config::from_vars(vars.iter().cloned());
        // With one wrong setting of ours, those of NCCL still say how the host is meant to be used.
        vars.retain(|(name, _)| !name.to_string_lossy().starts_with("THALWEG"));
        let config = settings.clone().or_else(|_| Config::from_vars(vars));
        let mut host = Self {
            root: root.to_owned(),
            settings,
            config: config.unwrap_or_default(),
            env,
            from_file,
            kernel,
            ports: Vec::new(),
            pci: pcie::devices(&root.join("sys")),
            dcb: RefCell::default(),
            unanswered: RefCell::default(),
        };
        host.ports = ports(&host, host.config.hca.as_ref());
        host
    }

    /// A place on the host; `path` begins without a slash.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// A place that a variable names; what does not begin with a slash is where the command runs.
    pub(super) fn named(&self, path: &str) -> PathBuf {
        match path.strip_prefix('/') {
            Some(below) => self.path(below),
            None => PathBuf::from(path),
        }
    }

    /// What a file of one line says; nothing if it is empty, unreadable, or no text.
    pub(super) fn word(&self, path: impl AsRef<Path>) -> Option<String> {
        word(&self.path(path))
    }

    /// The whole of a text file.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        text(&self.path(path))
    }

    pub(super) fn number<N: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<N> {
        self.word(path)?.parse().ok()
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// Names of what is in a folder, sorted.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        names(&self.path(path))
    }

    /// A variable that is set, and not to nothing.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.env
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// A variable that is set, also to nothing.
    pub(super) fn var_or_empty(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str)
    }

    /// `NCCL_IB_HCA=mlx5`, and where it is from if that is no longer the environment.
    pub(super) fn shown(&self, name: &str) -> String {
        let Some(value) = self.env.get(name) else {
            return format!("{name} in the file of THALWEG_CONFIG");
        };
        match self.from_file.get(name) {
            Some(file) => format!("{name}={value} in {file}"),
            None => format!("{name}={value}"),
        }
    }

    /// Which of two variables to set: that of NCCL, for its own transports too, unless ours is set, or a file of ours
    /// may set it, which prevail.
    pub(super) fn prevailing<'a>(&self, ours: &'a str, of_nccl: &'a str) -> &'a str {
        let is_ours = [ours, "THALWEG_CONFIG"].map(|name| self.var(name).is_some());
        if is_ours.contains(&true) {
            ours
        } else {
            of_nccl
        }
    }

    /// What takes these variables away, wherever each is set.
    pub(super) fn unset(&self, names: &[&str]) -> Vec<String> {
        let is_set = |name: &&&str| self.env.contains_key(**name);
        let in_file = |name: &&str| self.from_file.get(*name);
        let set = || names.iter().filter(is_set);
        let in_env: Vec<&str> = set()
            .filter(|name| in_file(name).is_none())
            .copied()
            .collect();
        let mut lines = Vec::new();
        if !in_env.is_empty() {
            lines.push(format!("unset {}", in_env.join(" ")));
        }
        lines.extend(
            set().filter_map(|name| Some(format!("take {name} out of {}", in_file(name)?))),
        );
        lines
    }

    /// How an interface treats priorities; none if that is not known.
    pub(super) fn dcb(&self, interface: &str) -> Option<Dcb> {
        let mut known = self.dcb.borrow_mut();
        let ask = || {
            let dcb = self.kernel.dcb(interface);
            self.heard(interface, "how it treats priorities (DCB)", dcb)
        };
        known
            .entry(interface.to_owned())
            .or_insert_with(ask)
            .clone()
    }

    pub(super) fn multipath_routes(&self) -> io::Result<usize> {
        self.kernel.multipath_routes()
    }

    pub(super) fn rdma_mtu(&self, port: &Port) -> Option<u32> {
        let mtu = self.kernel.rdma_mtu(&port.device, port.number);
        self.heard(&port.name(), "the size of its packets", mtu)?
    }

    pub(super) fn speed_max_mbps(&self, interface: &str) -> Option<u64> {
        let speed = self.kernel.speed_max_mbps(interface);
        self.heard(interface, "how fast it can be", speed)?
    }

    /// An answer; remembers that none came.
    fn heard<T>(&self, of: &str, what: &str, answer: io::Result<T>) -> Option<T> {
        // Of netlink, which has a limit of its own, "would block".
        let is_late =
            |error: &io::Error| matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock);
        if answer.as_ref().is_err_and(is_late) {
            self.unanswered.borrow_mut().insert(format!("{of}: {what}"));
        }
        answer.ok()
    }

    /// What no driver has answered so far.
    pub(super) fn unanswered(&self) -> Vec<String> {
        self.unanswered.borrow().iter().cloned().collect()
    }

    /// Ports that carry a job's traffic over Ethernet.
    pub(super) fn roce(&self) -> impl Iterator<Item = &Port> {
        let used = |port: &&Port| port.is_ethernet && port.is_active() && port.is_admitted;
        self.ports.iter().filter(used)
    }

    /// Interfaces of those ports, each once.
    pub(super) fn roce_interfaces(&self) -> BTreeSet<&str> {
        self.roce()
            .filter_map(|port| port.interface.as_deref())
            .collect()
    }

    /// The ports as a job would choose among them.
    pub(super) fn chosen(&self) -> Found {
        let config = &self.config;
        let choice = Choice {
            hca: config.hca.as_ref(),
            family: config.family,
            gid_index: config.gid_index,
        };
        device::find(&self.path("sys/class/infiniband"), &choice)
    }

    pub(super) fn gpus(&self) -> impl Iterator<Item = (&Device, Gpu)> {
        self.pci
            .iter()
            .filter_map(|device| Some((device, device.gpu()?)))
    }

    /// Network interfaces but loopback.
    pub(super) fn interfaces(&self) -> Vec<String> {
        let mut names = self.names("sys/class/net");
        names.retain(|name| name != "lo" && self.exists(format!("sys/class/net/{name}/mtu")));
        names
    }

    /// The interfaces that a job may use over TCP, and how fast they run, in Mb/s. Virtual ones do not
    /// say that.
    pub(super) fn speeds(&self) -> BTreeMap<String, u64> {
        let filter = self.config.ifname.as_ref();
        let admitted = |name: &String| filter.is_none_or(|filter| filter.admits(name));
        let names = self.interfaces().into_iter().filter(admitted);
        // Old kernels tell an unknown speed as all ones, newer ones as -1.
        let speed = |name: &str| {
            let mbps = self.number::<u64>(format!("sys/class/net/{name}/speed"));
            mbps.filter(|mbps| (1..u64::from(u32::MAX)).contains(mbps))
        };
        names
            .filter_map(|name| Some((name.clone(), speed(&name)?)))
            .collect()
    }

    /// What interfaces reach directly, from `/proc/net/route`.
    pub(super) fn subnets(&self) -> Vec<Subnet> {
        let text = self.text("proc/net/route").unwrap_or_default();
        let mut subnets: Vec<Subnet> = text.lines().skip(1).filter_map(subnet).collect();
        subnets.sort();
        subnets.dedup();
        subnets
    }
}

/// A line of `/proc/net/route`: the interface, then destination, gateway, flags, … and the mask,
/// addresses as the machine keeps them in memory. None for what a router leads to.
fn subnet(line: &str) -> Option<Subnet> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
    let mask = Ipv4Addr::from(address(7)?.to_ne_bytes());
    let subnet = Subnet {
        address: Ipv4Addr::from(address(1)?.to_ne_bytes()),
        prefix: mask.to_bits().leading_ones(),
        interface: (*words.first()?).to_owned(),
    };
    (address(2)? == 0 && subnet.prefix > 0).then_some(subnet)
}

/// The files from which NCCL takes variables that the environment does not set, the first first.
fn nccl_files(root: &Path, env: &BTreeMap<String, String>) -> Vec<(String, Vec<(String, String)>)> {
    // `initEnv` of NCCL: the user's file, then that of the host.
    let named = env.get("NCCL_CONF_FILE").filter(|file| !file.is_empty());
    let home = || Some(format!("{}/.nccl.conf", env.get("HOME")?));
    let files = named.cloned().or_else(home).into_iter();
    files
        .chain(["/etc/nccl.conf".to_owned()])
        .filter_map(|file| {
            let text = text(&root.join(file.trim_start_matches('/')))?;
            let settings = text.lines().filter_map(|line| {
                let (name, value) = line.split_once('=')?;
                let is_name = !name.is_empty() && !name.starts_with('#');
                is_name.then(|| (name.trim().to_owned(), value.trim().to_owned()))
            });
            Some((file, settings.collect()))
        })
        .collect()
}

fn ports(host: &Host, hca: Option<&HcaFilter>) -> Vec<Port> {
    let mut ports = Vec::new();
    for device in host.names("sys/class/infiniband") {
        let folder = host.path("sys/class/infiniband").join(&device);
        let bus = fs::canonicalize(folder.join("device")).ok();
        let pci = bus.and_then(|bus| host.pci.iter().find(|pci| pci.folder == bus));
        let driver = fs::read_link(folder.join("device/driver")).ok();
        let mut numbers: Vec<u8> = names(&folder.join("ports"))
            .iter()
            .filter_map(|number| number.parse().ok())
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            let folder = folder.join("ports").join(number.to_string());
            let state = word(&folder.join("state")).unwrap_or_default();
            ports.push(Port {
                // "4: ACTIVE"
                state: state
                    .split(": ")
                    .last()
                    .unwrap_or_default()
                    .to_ascii_lowercase(),
                is_ethernet: word(&folder.join("link_layer")).as_deref() != Some("InfiniBand"),
                rate_mbps: word(&folder.join("rate"))
                    .and_then(|rate| link::rdma_speed_mbps(&rate))
                    .map(u64::from),
                interface: interface(&folder),
                pci: pci.cloned(),
                driver: driver
                    .as_ref()
                    .and_then(|driver| Some(driver.file_name()?.to_str()?.to_owned())),
                is_admitted: hca.is_none_or(|hca| hca.admits(&device, number)),
                device: device.clone(),
                number,
                folder,
            });
        }
    }
    ports
}

/// The interface to which a port's addresses belong.
fn interface(port: &Path) -> Option<String> {
    let folder = port.join("gid_attrs/ndevs");
    // "10" comes before "2" among the names; which entry it is does not matter.
    names(&folder)
        .iter()
        .find_map(|index| word(&folder.join(index)))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

fn text(file: &Path) -> Option<String> {
    // A pipe may never end, a device neither.
    if !fs::metadata(file).ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    File::open(file)
        .ok()?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut text)
        .ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn word(file: &Path) -> Option<String> {
    let text = text(file)?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_hangs_holds_nobody_up() {
        let (end, ended) = mpsc::channel::<()>();
        let hung = within(Duration::from_millis(10), move || {
            let _ = ended.recv();
            Ok(1)
        });
        assert_eq!(hung.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(end);
        assert_eq!(within(PATIENCE, || Ok(2)).unwrap(), 2);
        let refused = within::<u8>(PATIENCE, || Err(ErrorKind::Unsupported.into()));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
