//! The checks on hosts that nobody has: one that is well, one with many faults, and the first with
//! one thing after the other changed, taken away or replaced by words.
//!
//! `THALWEG_BLESS=1 cargo test --lib doctor` writes the snapshots anew: look at what has changed
//! before it is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::host::{Host, Kernel};
use super::{CHECKS, Finding, Outcome, Report, Severity, text};
use crate::telemetry::sources::dcb::Dcb;
use crate::telemetry::sources::tree::Tree;

/// What the kernel says.
#[derive(Debug, Clone, Default)]
struct Answers {
    dcb: BTreeMap<String, Dcb>,
    multipath_routes: usize,
    rdma_mtu: BTreeMap<String, u32>,
    speed_max: BTreeMap<String, u64>,
    /// Its driver does not answer.
    hung: Option<&'static str>,
}

impl Answers {
    fn answer<T>(&self, of: &str, answer: T) -> io::Result<T> {
        match self.hung {
            Some(hung) if hung == of => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(answer),
        }
    }
}

impl Kernel for Answers {
    fn dcb(&self, interface: &str) -> io::Result<Dcb> {
        let unsupported = || io::ErrorKind::Unsupported.into();
        let dcb = self.answer(interface, self.dcb.get(interface).cloned())?;
        dcb.ok_or_else(unsupported)
    }

    fn multipath_routes(&self) -> io::Result<usize> {
        Ok(self.multipath_routes)
    }

    fn rdma_mtu(&self, device: &str, _port: u8) -> io::Result<Option<u32>> {
        self.answer(device, self.rdma_mtu.get(device).copied())
    }

    fn speed_max_mbps(&self, interface: &str) -> io::Result<Option<u64>> {
        self.answer(interface, self.speed_max.get(interface).copied())
    }
}

/// A host to be looked over.
struct Patient {
    tree: Tree,
    env: BTreeMap<&'static str, String>,
    kernel: Answers,
}

const ROOT_PORT: &str = "sys/devices/pci0000:10/0000:10:01.0";

/// The configuration of a bridge with these bits of ACS control.
fn config(acs: u16) -> Vec<u8> {
    let mut config = vec![0; 4096];
    config[0x100..0x104].copy_from_slice(&(0x0d_u32 | 1 << 16).to_le_bytes());
    config[0x106..0x108].copy_from_slice(&acs.to_le_bytes());
    config
}

impl Patient {
    fn new(name: &str) -> Self {
        let tree = Tree::new(&format!("doctor-{name}"));
        for (file, text) in [
            ("proc/sys/kernel/hostname", "node-17\n"),
            ("proc/sys/kernel/osrelease", "6.8.0-45-generic\n"),
            (
                "proc/net/route",
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n",
            ),
            (
                "proc/self/status",
                "Name:\tthalweg\nCapEff:\t0000000000000000\n",
            ),
            ("proc/sys/net/ipv4/fib_multipath_hash_policy", "1\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
            ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
            ("sys/class/net/lo/mtu", "65536\n"),
            ("dev/infiniband/uverbs0", ""),
        ] {
            tree.file(file, text);
        }
        let patient = Self {
            tree,
            env: BTreeMap::new(),
            kernel: Answers::default(),
        };
        patient.limits("unlimited", "1048576");
        patient.shm("size=528000000k");
        patient
    }

    /// All is well with two adapters, each below a switch that a GPU hangs on too.
    fn well(name: &str) -> Self {
        let mut patient = Self::new(name);
        for number in 0..2 {
            patient.adapter(number);
            patient.gpu(number);
        }
        patient.tree.file("sys/module/nvidia/version", "570.86\n");
        patient
            .tree
            .file("sys/module/nvidia_peermem/version", "570.86\n");
        patient.library("usr/lib/libnccl.so.2", b"..NCCL version 2.30.7+cuda13.0\0");
        let version = env!("CARGO_PKG_VERSION");
        let plugin = format!("\0ncclNetPlugin_v6\0ncclNetPlugin_v12\0thalweg {version}: over");
        patient.library("usr/lib/libnccl-net-thalweg.so", plugin.as_bytes());
        patient.env.insert("NCCL_NET_PLUGIN", "thalweg".into());
        patient.env.insert("NCCL_IB_HCA", "=mlx5_0,mlx5_1".into());
        patient.env.insert("NCCL_SOCKET_IFNAME", "eth".into());
        patient.env.insert("NCCL_IB_TC", "106".into());
        patient
    }

    /// `mlx5_N` with `ethN`, a port of 400 Gb/s.
    fn adapter(&mut self, number: u8) {
        let bus = 0x20 + 0x10 * u32::from(number);
        let up = format!("{ROOT_PORT}/0000:{bus:02x}:00.0");
        let down = format!("{up}/0000:{:02x}:00.0", bus + 1);
        let card = format!("{down}/0000:{:02x}:00.0", bus + 2);
        self.pci(ROOT_PORT, "0x8086", "0x060400", "32.0 GT/s PCIe");
        self.pci(&up, "0x1000", "0x060400", "32.0 GT/s PCIe");
        self.pci(&down, "0x1000", "0x060400", "32.0 GT/s PCIe");
        self.pci(&card, "0x15b3", "0x020000", "32.0 GT/s PCIe");
        self.tree
            .link(&format!("{card}/driver"), "../../drivers/mlx5_core");
        self.tree
            .file(&format!("{card}/iommu_group/type"), "identity\n");

        let device = format!("sys/class/infiniband/mlx5_{number}");
        let folder = format!("../../../../{card}");
        self.tree.link(&format!("{device}/device"), &folder);
        let port = format!("{device}/ports/1");
        let v4 = format!("0000:0000:0000:0000:0000:ffff:0a00:{:02x}01", number + 1);
        for (index, addr, kind) in [
            (0, "fe80:0000:0000:0000:0000:0000:0000:0001", "IB/RoCE v1"),
            (1, "fe80:0000:0000:0000:0000:0000:0000:0001", "RoCE v2"),
            (2, &v4, "IB/RoCE v1"),
            (3, &v4, "RoCE v2"),
        ] {
            self.tree.file(&format!("{port}/gids/{index}"), addr);
            self.tree
                .file(&format!("{port}/gid_attrs/types/{index}"), kind);
            self.tree.file(
                &format!("{port}/gid_attrs/ndevs/{index}"),
                &format!("eth{number}\n"),
            );
        }
        for (file, text) in [
            ("state", "4: ACTIVE\n"),
            ("phys_state", "5: LinkUp\n"),
            ("link_layer", "Ethernet\n"),
            ("rate", "400 Gb/sec (4X NDR)\n"),
        ] {
            self.tree.file(&format!("{port}/{file}"), text);
        }
        self.tree.file(&format!("{device}/tc/1/traffic_class"), "");
        let interface = format!("sys/class/net/eth{number}");
        self.tree.file(&format!("{interface}/mtu"), "9000\n");
        self.tree.file(&format!("{interface}/speed"), "400000\n");
        for role in ["roce_np", "roce_rp"] {
            for priority in 0..8 {
                self.tree
                    .file(&format!("{interface}/ecn/{role}/enable/{priority}"), "1\n");
            }
        }
        let dcb = Dcb {
            pfc: Some(1 << 3),
            classes: None,
            dscp: (0..64).map(|dscp| (dscp, dscp / 8)).collect(),
        };
        self.kernel.dcb.insert(format!("eth{number}"), dcb);
        self.kernel.rdma_mtu.insert(format!("mlx5_{number}"), 4096);
        self.subnet(
            &format!("eth{number}"),
            &format!("00{:02X}000A", number + 1),
        );
    }

    /// An NVIDIA GPU below the switch of the adapter.
    fn gpu(&self, number: u8) {
        let bus = 0x20 + 0x10 * u32::from(number);
        let down = format!("{ROOT_PORT}/0000:{bus:02x}:00.0/0000:{:02x}:01.0", bus + 1);
        let gpu = format!("{down}/0000:{:02x}:00.0", bus + 3);
        self.pci(&down, "0x1000", "0x060400", "32.0 GT/s PCIe");
        // At rest.
        self.pci(&gpu, "0x10de", "0x030200", "2.5 GT/s PCIe");
        self.tree
            .file(&format!("{gpu}/iommu_group/type"), "identity\n");
    }

    fn pci(&self, folder: &str, vendor: &str, class: &str, speed: &str) {
        for (file, text) in [
            ("vendor", vendor),
            ("device", "0x1021"),
            ("class", class),
            ("current_link_speed", speed),
            ("current_link_width", "16"),
            ("max_link_speed", "32.0 GT/s PCIe"),
            ("max_link_width", "16"),
            ("numa_node", "0"),
            ("aer_dev_correctable", "RxErr 0\nTOTAL_ERR_COR 0\n"),
            ("aer_dev_nonfatal", "Undefined 0\nTOTAL_ERR_NONFATAL 0\n"),
            ("aer_dev_fatal", "Undefined 0\nTOTAL_ERR_FATAL 0\n"),
        ] {
            self.tree.file(&format!("{folder}/{file}"), text);
        }
        self.bytes(&format!("{folder}/config"), &config(0));
        let address = folder.rsplit('/').next().unwrap();
        let entry = self.tree.path().join("sys/bus/pci/devices").join(address);
        if !entry.exists() {
            let target = format!("../../../../{folder}");
            self.tree
                .link(&format!("sys/bus/pci/devices/{address}"), &target);
        }
    }

    fn bytes(&self, path: &str, bytes: &[u8]) {
        self.tree.file(path, "");
        fs::write(self.tree.path().join(path), bytes).unwrap();
    }

    fn library(&self, path: &str, bytes: &[u8]) {
        self.bytes(path, bytes);
    }

    fn limits(&self, locked: &str, files: &str) {
        let text = format!(
            "Limit                     Soft Limit           Hard Limit           Units\n\
             Max locked memory         {locked:<20} {locked:<20} bytes\n\
             Max open files            {files:<20} {files:<20} files\n"
        );
        self.tree.file("proc/self/limits", &text);
    }

    fn shm(&self, options: &str) {
        let text =
            format!("proc /proc proc rw 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,{options} 0 0\n");
        self.tree.file("proc/self/mounts", &text);
    }

    /// A route to what an interface reaches; the address as the kernel prints it, of /24.
    fn subnet(&self, interface: &str, address: &str) {
        let file = self.tree.path().join("proc/net/route");
        let mut text = fs::read_to_string(file).unwrap();
        writeln!(
            text,
            "{interface}\t{address}\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"
        )
        .unwrap();
        self.tree.file("proc/net/route", &text);
    }

    fn sysctl(&self, interface: &str, name: &str, value: u32) {
        self.tree.file(
            &format!("proc/sys/net/ipv4/conf/{interface}/{name}"),
            &value.to_string(),
        );
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.env.insert(name, value.to_owned());
    }

    fn remove(&self, path: &str) {
        let path = self.tree.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    fn host(&self) -> Host {
        let env = self.env.iter();
        let env = env.map(|(name, value)| (OsString::from(*name), OsString::from(value)));
        Host::new(self.tree.path(), env, Box::new(self.kernel.clone()))
    }

    fn report(&self) -> Report {
        Report::of(&self.host())
    }

    fn outcome(&self, name: &str) -> Outcome {
        let check = CHECKS.iter().find(|check| check.name == name).expect(name);
        (check.run)(&self.host())
    }

    /// The one finding of a check.
    fn finding(&self, name: &str) -> Finding {
        match self.outcome(name) {
            Outcome::Found(findings) if findings.len() == 1 => findings[0].clone(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// What a check that found one thing says, with all of its parts.
    fn found(&self, name: &str, severity: Severity, parts: &[&str]) {
        let finding = self.finding(name);
        assert_eq!(finding.severity, severity, "{finding:?}");
        let text = format!("{finding:?}");
        for part in parts {
            assert!(text.contains(part), "no {part} in {finding:?}");
        }
    }

    fn is_well(&self, name: &str) {
        let outcome = self.outcome(name);
        assert!(matches!(outcome, Outcome::Well(_)), "{name}: {outcome:?}");
    }

    fn not_checked(&self, name: &str, reason: &str) {
        match self.outcome(name) {
            Outcome::NotChecked(why) if why.contains(reason) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

const PROBLEM: Severity = Severity::Problem;
const WARNING: Severity = Severity::Warning;
const NOTE: Severity = Severity::Note;

/// Many faults at once.
fn ill() -> Patient {
    let mut patient = Patient::well("ill");
    let second = "sys/class/infiniband/mlx5_1/ports/1";
    patient.tree.file("sys/class/net/eth1/mtu", "1500\n");
    patient
        .tree
        .file(&format!("{second}/rate"), "200 Gb/sec (2X NDR)\n");
    let card = format!("{ROOT_PORT}/0000:20:00.0/0000:21:00.0/0000:22:00.0");
    patient
        .tree
        .file(&format!("{card}/current_link_width"), "8\n");
    patient.tree.file(
        &format!("{card}/aer_dev_nonfatal"),
        "TOTAL_ERR_NONFATAL 7\n",
    );
    let bridge = format!("{ROOT_PORT}/0000:20:00.0/0000:21:01.0/config");
    patient.bytes(&bridge, &config(0x1d));
    patient
        .tree
        .file(&format!("{card}/iommu_group/type"), "DMA-FQ\n");
    patient.remove("sys/module/nvidia_peermem");
    patient.limits("65536", "1024");
    patient.shm("size=65536k");
    patient.tree.file(
        "sys/class/infiniband/mlx5_0/tc/1/traffic_class",
        "Global tclass=160\n",
    );
    patient.kernel.dcb.get_mut("eth1").unwrap().pfc = Some(1 << 4);
    patient
        .tree
        .file("sys/class/net/eth1/ecn/roce_rp/enable/3", "0\n");
    patient
        .tree
        .file("proc/sys/net/ipv4/fib_multipath_hash_policy", "0\n");
    patient.kernel.multipath_routes = 2;
    patient.subnet("eth2", "0001000A");
    patient.sysctl("all", "rp_filter", 1);
    for name in ["arp_ignore", "arp_announce"] {
        patient.sysctl("all", name, 0);
    }
    patient
        .tree
        .file("proc/sys/net/ipv4/ip_local_port_range", "60000\t60999\n");
    patient.adapter(2);
    let third = "sys/class/infiniband/mlx5_2/ports/1";
    patient.tree.file(&format!("{third}/state"), "1: DOWN\n");
    patient
        .tree
        .file(&format!("{third}/phys_state"), "3: Disabled\n");
    patient.set("NCCL_IB_FIFO_TC", "107");
    patient.set("THALWEG_PATH", "16");
    patient.set("NCCL_NET", "IB");
    patient.set("NCCL_IB_HCA", "mlx5_0,mlx5_1,mlx5_2,mlx5_9");
    patient.set("NCCL_NET_GDR_LEVEL", "LOC");
    patient.set("NCCL_DMABUF_ENABLE", "1");
    patient.set("NCCL_P2P_DISABLE", "1");
    patient.set("NCCL_MIN_CTAS", "32");
    patient.set("NCCL_MAX_CTAS", "8");
    patient.kernel.hung = Some("mlx5_1");
    patient
        .tree
        .file("etc/nccl.conf", "# ours\nNCCL_ALGO=Ring\nNCCL_NET=Socket\n");
    patient.library("usr/lib64/libnccl.so.2.12.12", b"");
    patient
        .tree
        .link("usr/lib64/libnccl.so.2", "libnccl.so.2.12.12");
    patient
}

fn snapshot(name: &str, now: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let path = folder.join(name);
    if std::env::var_os("THALWEG_BLESS").is_some() {
        fs::write(&path, now).unwrap();
        return;
    }
    let before = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        before == now,
        "{} changed; THALWEG_BLESS=1 writes it. It is now:\n{now}",
        path.display()
    );
}

fn snapshots(name: &str, patient: &Patient) {
    let report = patient.report();
    snapshot(&format!("doctor-{name}-80.txt"), &text::text(&report, 80));
    snapshot(&format!("doctor-{name}-40.txt"), &text::text(&report, 40));
    let json = serde_json::to_string_pretty(&report).unwrap() + "\n";
    snapshot(&format!("doctor-{name}.json"), &json);
}

#[test]
fn a_host_that_is_well_looks_as_before() {
    let patient = Patient::well("well");
    assert_eq!(
        patient.report().findings.len(),
        0,
        "{:?}",
        patient.report().findings
    );
    snapshots("well", &patient);
}

#[test]
fn a_host_that_is_ill_looks_as_before() {
    snapshots("ill", &ill());
}

#[test]
fn a_bare_host_has_no_problem() {
    let patient = Patient::new("bare");
    let report = patient.report();
    assert_eq!(
        (report.problems, report.warnings),
        (0, 0),
        "{:?}",
        report.findings
    );
    patient.found("rdma-devices", NOTE, &["links go over TCP"]);
}

#[test]
fn each_check_has_a_name_of_its_own_and_is_documented() {
    let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CHECKS.len());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let docs = fs::read_to_string(path).unwrap();
    for name in names {
        assert!(
            docs.contains(&format!("`{name}`")),
            "{name} is not in docs/operations.md"
        );
    }
}

#[test]
fn findings_say_everything_and_the_worst_comes_first() {
    let report = ill().report();
    let severities: Vec<_> = report
        .findings
        .iter()
        .map(|found| found.finding.severity)
        .collect();
    assert!(severities.is_sorted());
    for found in &report.findings {
        let Finding {
            what,
            evidence,
            why,
            fix,
            ..
        } = &found.finding;
        let is_sentence = |text: &str| text.ends_with('.') && !text.contains('\n');
        assert!(is_sentence(what) && is_sentence(why), "{found:?}");
        assert!(!evidence.is_empty() && !fix.is_empty(), "{found:?}");
    }
    let count = report.findings.len();
    assert_eq!(count, report.problems + report.warnings + report.notes);
    let checks: BTreeSet<_> = report.findings.iter().map(|found| found.check).collect();
    assert_eq!(
        checks.len() + report.well.len() + report.not_checked.len(),
        CHECKS.len()
    );
    // Each fault is seen, but for what TCP alone would show.
    let unseen: Vec<_> = CHECKS
        .iter()
        .map(|c| c.name)
        .filter(|name| !checks.contains(name))
        .collect();
    assert_eq!(
        unseen,
        [
            "rdma-gids",
            "pcie-rate",
            "tcp-buffers",
            "interface-names",
            "nccl-ib"
        ]
    );
}

fn files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            self::files(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// A file that vanishes, is empty, has words or bytes in it where a number was, or numbers that
/// cannot be, ends nothing, and each check still comes to something.
#[test]
fn whatever_is_in_a_file_the_rest_goes_on() {
    let patient = Patient::well("damaged");
    let mut all = Vec::new();
    files(patient.tree.path(), &mut all);
    assert!(all.len() > 100, "{}", all.len());
    for file in all {
        let before = fs::read(&file).unwrap();
        for damage in [
            None,
            Some(&b""[..]),
            Some(b"none of that\n"),
            Some(b"\xff\0-1 18446744073709551616: ="),
            Some(b"4294967295"),
        ] {
            match damage {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let report = patient.report();
            let checks: BTreeSet<_> = report.findings.iter().map(|found| found.check).collect();
            let seen = checks.len() + report.well.len() + report.not_checked.len();
            assert_eq!(seen, CHECKS.len(), "{}", file.display());
            let _ = text::text(&report, 20);
        }
        fs::write(&file, before).unwrap();
    }
}

#[test]
fn rdma_devices_are_there_and_up() {
    let state = "sys/class/infiniband/mlx5_1/ports/1/state";
    let mut patient = Patient::well("devices");
    patient.is_well("rdma-devices");
    patient.tree.file(state, "1: DOWN\n");
    patient.found(
        "rdma-devices",
        PROBLEM,
        &[
            "1 RDMA port is not",
            "mlx5_1:1 (eth1): down",
            "ip link set dev eth1 up",
        ],
    );
    patient.env.remove("NCCL_IB_HCA");
    patient.found("rdma-devices", WARNING, &["mlx5_1:1"]);
    patient.set("NCCL_IB_HCA", "^mlx5_1");
    patient.is_well("rdma-devices");
    patient.set("NCCL_IB_DISABLE", "1");
    patient.not_checked("rdma-devices", "TCP");

    let mut patient = Patient::well("devices-down");
    for port in [state, "sys/class/infiniband/mlx5_0/ports/1/state"] {
        patient.tree.file(port, "words");
    }
    patient.found(
        "rdma-devices",
        PROBLEM,
        &["2 RDMA ports are not", "words", "over TCP"],
    );
    patient.not_checked("mtu", "no RoCE port");
    patient.remove("sys/class/infiniband");
    // The adapters are there, but nobody has loaded the driver.
    patient.found(
        "rdma-devices",
        PROBLEM,
        &["modprobe mlx5_ib", "0000:22:00.0"],
    );
    patient.remove("sys/bus");
    patient.set("THALWEG_TRANSPORT", "verbs");
    patient.found("rdma-devices", PROBLEM, &["THALWEG_TRANSPORT"]);
}

#[test]
fn rdma_devices_may_be_opened_and_are_of_one_kind() {
    let patient = Patient::well("uverbs");
    patient.remove("dev/infiniband");
    patient.found("rdma-devices", PROBLEM, &["--device=/dev/infiniband"]);
    let patient = Patient::well("kinds");
    patient.tree.file(
        "sys/class/infiniband/mlx5_1/ports/1/link_layer",
        "InfiniBand\n",
    );
    patient.found(
        "rdma-devices",
        PROBLEM,
        &["mlx5_1:1 (eth1) is InfiniBand", "export NCCL_IB_HCA="],
    );
    let mut patient = patient;
    patient.set("THALWEG_HCA", "mlx5");
    patient.found("rdma-devices", PROBLEM, &["export THALWEG_HCA="]);
}

#[test]
fn addresses_are_such_that_others_reach_them() {
    let mut patient = Patient::well("gids");
    patient.is_well("rdma-gids");
    patient.set("NCCL_IB_GID_INDEX", "2");
    let Outcome::Found(findings) = patient.outcome("rdma-gids") else {
        panic!()
    };
    assert_eq!(findings.len(), 2, "one for each port");
    let text = format!("{findings:?}");
    for part in [
        "NCCL_IB_GID_INDEX=2",
        "GID 2: 10.0.1.1, IB/RoCE v1",
        "GID 3: 10.0.1.1, RoCE v2",
        "unset NCCL_IB_GID_INDEX",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    patient.env.remove("NCCL_IB_GID_INDEX");
    let file = patient.tree.path().join("thalweg.toml");
    fs::write(&file, "gid_index = 2\n").unwrap();
    patient.set("THALWEG_CONFIG", file.to_str().unwrap());
    let text = format!("{:?}", patient.outcome("rdma-gids"));
    assert!(text.contains("take gid_index out of the file"), "{text}");
    patient.env.remove("THALWEG_CONFIG");
    patient.set("NCCL_IB_GID_INDEX", "1");
    patient.found(
        "rdma-gids",
        WARNING,
        &[
            "link-local",
            "mlx5_1:1: GID 1 = fe80::1",
            "unset NCCL_IB_GID_INDEX",
        ],
    );
    patient.set("NCCL_IB_GID_INDEX", "3");
    patient.is_well("rdma-gids");
    patient.env.remove("NCCL_IB_GID_INDEX");
    let gids = "sys/class/infiniband/mlx5_1/ports/1/gids";
    patient.tree.file(
        &format!("{gids}/3"),
        "2001:0db8:0000:0000:0000:0000:0000:0001",
    );
    patient.found(
        "rdma-gids",
        PROBLEM,
        &[
            "only IPv6",
            "2001:db8::1",
            "ip addr add ADDRESS/PREFIX dev eth1",
        ],
    );
    patient.remove(&format!("{gids}/3"));
    patient.found(
        "rdma-gids",
        PROBLEM,
        &["mlx5_1:1 has no address", "link-local"],
    );
}

#[test]
fn packets_are_equally_large() {
    let mut patient = Patient::well("mtu");
    patient.is_well("mtu");
    patient.tree.file("sys/class/net/eth1/mtu", "4200\n");
    patient.found(
        "mtu",
        PROBLEM,
        &["eth1: MTU 4200", "ip link set dev eth1 mtu 9000"],
    );
    patient.tree.file("sys/class/net/eth0/mtu", "1500\n");
    patient.tree.file("sys/class/net/eth1/mtu", "1500\n");
    patient.found("mtu", WARNING, &["1024 bytes", "4192"]);
    patient.tree.file("sys/class/net/eth0/mtu", "9000\n");
    patient.tree.file("sys/class/net/eth1/mtu", "9000\n");
    patient.kernel.rdma_mtu.insert("mlx5_0".into(), 1024);
    patient.found(
        "mtu",
        WARNING,
        &[
            "mlx5_0:1 (eth0): packets of 1024 bytes",
            "eth0 mtu 8999\", \"ip link set dev eth0 mtu 9000",
        ],
    );
    // Where verbs cannot be asked, that is no finding.
    patient.kernel.rdma_mtu.clear();
    patient.is_well("mtu");
}

#[test]
fn ports_are_equally_fast() {
    let mut patient = Patient::well("speed");
    patient.is_well("link-speed");
    let rate = "sys/class/infiniband/mlx5_0/ports/1/rate";
    patient.tree.file(rate, "100 Gb/sec (1X NDR)\n");
    patient.found(
        "link-speed",
        PROBLEM,
        &[
            "mlx5_0:1 (eth0): 100 Gb/s",
            "mlx5_1:1 (eth1): 400 Gb/s",
            "ethtool eth0",
        ],
    );
    patient.tree.file(rate, "fast");
    patient.is_well("link-speed");
    // Alone of its kind, or slow like all others: only the adapter knows better.
    patient.kernel.speed_max.insert("eth1".into(), 400_000);
    patient.is_well("link-speed");
    patient.kernel.speed_max.insert("eth1".into(), 800_000);
    patient.found("link-speed", WARNING, &["eth1: 400 Gb/s of 800 Gb/s"]);
    patient.kernel.speed_max.clear();
    // Another adapter may be slower.
    patient.tree.file(rate, "100 Gb/sec (4X EDR)\n");
    let card = format!("{ROOT_PORT}/0000:20:00.0/0000:21:00.0/0000:22:00.0/device");
    patient.tree.file(&card, "0x1017");
    patient.is_well("link-speed");
    // Without RDMA the interfaces count.
    let mut patient = Patient::new("speed-tcp");
    patient.not_checked("link-speed", "how fast");
    for number in 0..2 {
        patient
            .tree
            .file(&format!("sys/class/net/eth{number}/mtu"), "9000\n");
        patient
            .tree
            .file(&format!("sys/class/net/eth{number}/speed"), "10000\n");
    }
    patient.is_well("link-speed");
    patient.kernel.speed_max.insert("eth1".into(), 25_000);
    patient.found("link-speed", WARNING, &["eth1: 10 Gb/s of 25 Gb/s"]);
    patient.set("NCCL_SOCKET_IFNAME", "=eth0");
    patient.is_well("link-speed");
}

#[test]
fn adapters_get_to_the_memory_of_gpus() {
    let mut patient = Patient::well("gpu");
    patient.is_well("gpu-memory");
    patient.remove("sys/module/nvidia_peermem");
    patient.found(
        "gpu-memory",
        PROBLEM,
        &["modprobe nvidia_peermem", "not the open one"],
    );
    let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86\n";
    patient.tree.file("proc/driver/nvidia/version", open);
    patient.is_well("gpu-memory");
    patient.set("NCCL_DMABUF_ENABLE", "0");
    patient.found(
        "gpu-memory",
        PROBLEM,
        &["NCCL_DMABUF_ENABLE=0", "unset NCCL_DMABUF_ENABLE"],
    );
    patient.env.remove("NCCL_DMABUF_ENABLE");
    patient
        .tree
        .file("proc/sys/kernel/osrelease", "5.4.0-100-generic\n");
    patient.found("gpu-memory", PROBLEM, &["5.12"]);
    patient.remove("sys/module/nvidia");
    patient.found("gpu-memory", PROBLEM, &["modprobe nvidia"]);
    patient.not_checked_without("gpu-memory", "sys/bus", "no GPU");
}

impl Patient {
    fn not_checked_without(&self, name: &str, path: &str, reason: &str) {
        self.remove(path);
        self.not_checked(name, reason);
    }
}

#[test]
fn links_on_pci_express_are_as_fast_as_both_ends() {
    let patient = Patient::well("pcie");
    let switch = format!("{ROOT_PORT}/0000:20:00.0");
    let card = format!("{switch}/0000:21:00.0/0000:22:00.0");
    patient.is_well("pcie-link");
    patient
        .tree
        .file(&format!("{card}/current_link_speed"), "8.0 GT/s PCIe");
    patient.found(
        "pcie-link",
        PROBLEM,
        &[
            "0000:22:00.0: 8 GT/s x16 of 32 GT/s x16",
            "lspci -vv -s 0000:22:00.0",
        ],
    );
    // An older card in a newer slot is no fault, nor is its slot.
    patient
        .tree
        .file(&format!("{card}/max_link_speed"), "8.0 GT/s PCIe");
    patient.tree.file(
        &format!("{switch}/0000:21:00.0/current_link_speed"),
        "8.0 GT/s PCIe",
    );
    patient.is_well("pcie-link");
    patient
        .tree
        .file(&format!("{switch}/current_link_width"), "4");
    patient.found(
        "pcie-link",
        PROBLEM,
        &["0000:20:00.0: 32 GT/s x4 of 32 GT/s x16"],
    );
    // Both cards' ways lead over other switches.
    for file in ["current_link_speed", "current_link_width"] {
        for folder in [&card, &switch] {
            patient.tree.file(&format!("{folder}/{file}"), "Unknown");
        }
    }
    patient.is_well("pcie-link");
    patient.remove("sys/class/infiniband");
    patient.not_checked("pcie-link", "no RDMA adapter");
}

#[test]
fn slots_have_enough_for_their_ports() {
    let patient = Patient::well("rate");
    patient.is_well("pcie-rate");
    let slot = format!("{ROOT_PORT}/0000:20:00.0/0000:21:00.0");
    patient.tree.file(&format!("{slot}/max_link_width"), "8");
    patient.found(
        "pcie-rate",
        WARNING,
        &["0000:22:00: ports with 400 Gb/s behind 32 GT/s x8", "252"],
    );
}

#[test]
fn lost_transactions_are_seen() {
    let patient = Patient::well("aer");
    patient.is_well("pcie-errors");
    patient
        .tree
        .file(&format!("{ROOT_PORT}/aer_dev_fatal"), "TOTAL_ERR_FATAL 2\n");
    patient.found(
        "pcie-errors",
        WARNING,
        &["0000:10:01.0: 2 fatal, 0 nonfatal, 0 correctable"],
    );
    patient.tree.file(
        &format!("{ROOT_PORT}/aer_dev_fatal"),
        "TOTAL_ERR_FATAL many\n",
    );
    patient.is_well("pcie-errors");
}

#[test]
fn detours_between_adapters_and_gpus_are_seen() {
    let patient = Patient::well("acs");
    patient.is_well("pcie-acs");
    // What is above both of them has no part in it.
    patient.bytes(&format!("{ROOT_PORT}/config"), &config(0x1d));
    patient.is_well("pcie-acs");
    let bridge = format!("{ROOT_PORT}/0000:20:00.0/0000:21:00.0/config");
    patient.bytes(&bridge, &config(0x1d));
    patient.found(
        "pcie-acs",
        PROBLEM,
        &[
            "0000:21:00.0: ACS control 0x001d",
            "setpci -s 0000:21:00.0 ECAP_ACS+6.w=0",
        ],
    );
    patient.bytes(&bridge, &config(0)[..64]);
    patient.not_checked("pcie-acs", "root");
    patient.remove(&bridge);
    patient.not_checked("pcie-acs", "1 bridge");
}

#[test]
fn translation_by_the_iommu_is_seen() {
    let patient = Patient::well("iommu");
    patient.is_well("iommu");
    let kind = format!("{ROOT_PORT}/0000:20:00.0/0000:21:01.0/0000:23:00.0/iommu_group/type");
    patient.tree.file(&kind, "DMA\n");
    patient.found("iommu", WARNING, &["0000:23:00.0: DMA", "iommu=pt"]);
    patient.tree.file(&kind, "?\n");
    patient.is_well("iommu");
}

#[test]
fn limits_are_large_enough() {
    let patient = Patient::well("limits");
    patient.is_well("locked-memory");
    patient.limits("65536", "1048576");
    patient.found("locked-memory", PROBLEM, &["64 KiB", "memlock unlimited"]);
    patient.limits("34359738368", "1024");
    patient.found("locked-memory", WARNING, &["32 GiB"]);
    patient.found("open-files", WARNING, &["1024", "* - nofile 65536"]);
    let can_raise = |hard: &str| {
        let text = format!("Max open files            1024                 {hard}  files\n");
        patient.tree.file("proc/self/limits", &text);
        let fix = patient.finding("open-files").fix;
        fix.into_iter().find(|line| line.starts_with("ulimit"))
    };
    assert_eq!(can_raise("1024"), None);
    assert_eq!(can_raise("20000").as_deref(), Some("ulimit -Sn 20000"));
    assert_eq!(can_raise("524288").as_deref(), Some("ulimit -Sn 65536"));
    assert_eq!(can_raise("unlimited").as_deref(), Some("ulimit -Sn 65536"));
    patient.limits("34359738368", "1024");
    patient
        .tree
        .file("proc/self/status", "CapEff:\t000001ffffffffff\n");
    patient.is_well("locked-memory");
    let map = |text: &str| patient.tree.file("proc/self/uid_map", text);
    map("         0          0 4294967295\n");
    patient.is_well("locked-memory");
    map("         0       1000          1\n");
    patient.found("locked-memory", WARNING, &["of a user namespace"]);
    map("");
    patient.is_well("locked-memory");
    patient
        .tree
        .file("proc/self/limits", "Max locked memory  a lot  of it\n");
    patient.not_checked("locked-memory", "limits");
    patient.not_checked("open-files", "limits");
}

#[test]
fn shared_memory_is_large_enough() {
    let patient = Patient::well("shm");
    patient.is_well("shared-memory");
    patient.shm("size=65536k");
    patient.found("shared-memory", PROBLEM, &["64 MiB", "--shm-size"]);
    patient.shm("inode64");
    patient.is_well("shared-memory");
    patient.tree.file("proc/self/mounts", "");
    patient.not_checked("shared-memory", "not mounted");
}

#[test]
fn nothing_overrides_the_traffic_class() {
    let mut patient = Patient::well("class");
    let file = |number: u8| format!("sys/class/infiniband/mlx5_{number}/tc/1/traffic_class");
    patient.is_well("traffic-class");
    patient.tree.file(&file(0), "Global tclass=160\n");
    patient.found(
        "traffic-class",
        PROBLEM,
        &[
            "differently",
            "mlx5_0:1 (eth0): all RoCE traffic gets class 160",
        ],
    );
    patient
        .tree
        .file(&file(1), "Global tclass=160\ntclass=8 dst_ip=10.0.0.0/24\n");
    patient.found(
        "traffic-class",
        PROBLEM,
        &[
            "NCCL_IB_TC=106",
            "echo -1 > /sys/class/infiniband/mlx5_0/tc/1/traffic_class",
        ],
    );
    // The other port's class is the job's to choose.
    patient.set("NCCL_IB_TC", "0");
    patient.tree.file(&file(1), "");
    patient.found(
        "pfc",
        PROBLEM,
        &["mlx5_0/tc/1/traffic_class\", \"export NCCL_IB_TC=106"],
    );
    patient.set("NCCL_IB_TC", "106");
    patient.tree.file(&file(1), "Global tclass=160\n");
    // Class 160 is DSCP 40, and that another priority, which is not lossless.
    patient.found(
        "pfc",
        PROBLEM,
        &[
            "class 160 is DSCP 40, priority 5",
            "echo 106 > /sys/class/infiniband/mlx5_1/tc/1/traffic_class",
        ],
    );
    patient.env.remove("NCCL_IB_TC");
    patient.found("traffic-class", NOTE, &["class of its own"]);
    patient.set("THALWEG_TC", "160");
    patient.is_well("traffic-class");
    patient.env.remove("THALWEG_TC");
    patient.tree.file(&file(0), "Global tclass=none");
    patient.tree.file(&file(1), "");
    patient.is_well("traffic-class");
}

#[test]
fn the_job_has_a_lossless_priority() {
    let mut patient = Patient::well("pfc");
    patient.is_well("pfc");
    patient.env.remove("NCCL_IB_TC");
    patient.found(
        "pfc",
        PROBLEM,
        &[
            "class 0 is DSCP 0, priority 0; PFC on priority 3",
            "export NCCL_IB_TC=106",
        ],
    );
    // The one that prevails.
    patient.set("THALWEG_TC", "0");
    patient.set("NCCL_IB_TC", "106");
    patient.found("pfc", PROBLEM, &["class 0", "export THALWEG_TC=106"]);
    patient.env.remove("THALWEG_TC");
    patient.tree.file("thalweg.toml", "tc = 0\n");
    let file = patient.tree.path().join("thalweg.toml");
    patient.set("THALWEG_CONFIG", file.to_str().unwrap());
    patient.found("pfc", PROBLEM, &["class 0", "export THALWEG_TC=106"]);
    patient.env.remove("THALWEG_CONFIG");
    // The job's priority is turned on where it is missing; no other is touched.
    for (of_eth0, of_eth1, fix) in [
        (0b1_0000, 0b1000, "[\"dcb pfc set dev eth0 prio-pfc 3:on\"]"),
        (
            0b1_1000,
            0b10000,
            "[\"dcb pfc set dev eth1 prio-pfc 3:on\"]",
        ),
        (0b1000, 0, "[\"dcb pfc set dev eth1 prio-pfc 3:on\"]"),
        (0b1_0000, 0b10_0000, "eth0 prio-pfc PRIORITY:on\", \"dcb"),
    ] {
        for (interface, bits) in [("eth0", of_eth0), ("eth1", of_eth1)] {
            patient.kernel.dcb.get_mut(interface).unwrap().pfc = Some(bits);
        }
        patient.found("pfc", PROBLEM, &["on the same priorities", fix]);
        assert!(!format!("{:?}", patient.finding("pfc")).contains(":off"));
    }
    // It is on at all ports: another that is not is none of the job's.
    patient.kernel.dcb.get_mut("eth0").unwrap().pfc = Some(0b1_1000);
    patient.kernel.dcb.get_mut("eth1").unwrap().pfc = Some(0b1000);
    patient.found(
        "pfc",
        NOTE,
        &[
            "mlx5_0:1 (eth0): PFC on priorities 3-4",
            "as on the switches",
        ],
    );
    for dcb in patient.kernel.dcb.values_mut() {
        dcb.pfc = Some(0);
    }
    patient.found("pfc", WARNING, &["off at all priorities", "no priority"]);
    for dcb in patient.kernel.dcb.values_mut() {
        (dcb.pfc, dcb.dscp) = (Some(1 << 3), BTreeMap::new());
    }
    patient.found(
        "pfc",
        WARNING,
        &["VLAN tags", "mlnx_qos -i eth1 --trust dscp"],
    );
    patient.kernel.dcb.clear();
    patient.not_checked("pfc", "DCB");
}

#[test]
fn congestion_marks_are_heeded() {
    let patient = Patient::well("ecn");
    let file = |number: u8, role: &str| format!("sys/class/net/eth{number}/ecn/{role}/enable/3");
    patient.is_well("roce-ecn");
    patient.tree.file(&file(0, "roce_rp"), "0\n");
    patient.found(
        "roce-ecn",
        PROBLEM,
        &[
            "in the same way",
            "mlx5_0:1 (eth0)",
            "slows down on priorities 0-2, 4-7",
        ],
    );
    patient.tree.file(&file(1, "roce_rp"), "0\n");
    patient.found(
        "roce-ecn",
        PROBLEM,
        &[
            "priority 3",
            "PFC is on there",
            "echo 1 > /sys/class/net/eth1/ecn/roce_rp/enable/3",
        ],
    );
    // The other priorities are not the job's.
    patient.tree.file(&file(0, "roce_rp"), "1\n");
    patient.tree.file(&file(1, "roce_rp"), "1\n");
    for number in 0..2 {
        patient.tree.file(
            &format!("sys/class/net/eth{number}/ecn/roce_np/enable/5"),
            "0\n",
        );
    }
    patient.is_well("roce-ecn");
    for number in 0..2 {
        patient.remove(&format!("sys/class/net/eth{number}/ecn"));
    }
    patient.not_checked("roce-ecn", "/sys/class/net/*/ecn");
}

#[test]
fn all_routes_are_taken() {
    let mut patient = Patient::new("ecmp");
    patient.not_checked("ecmp-hash", "no route");
    patient.kernel.multipath_routes = 1;
    patient.is_well("ecmp-hash");
    let policy = "proc/sys/net/ipv4/fib_multipath_hash_policy";
    patient.tree.file(policy, "0\n");
    patient.found(
        "ecmp-hash",
        PROBLEM,
        &["1 route with", "fib_multipath_hash_policy=1"],
    );
    patient.tree.file(policy, "2\n");
    patient.found("ecmp-hash", PROBLEM, &["= 2: by addresses alone"]);
    patient.tree.file(policy, "3\n");
    patient.not_checked("ecmp-hash", "hash_fields cannot be read");
    let fields = "proc/sys/net/ipv4/fib_multipath_hash_fields";
    // Addresses, protocol and the destination's port, and the ports of what is in tunnels.
    patient.tree.file(fields, "3111\n");
    patient.found(
        "ecmp-hash",
        PROBLEM,
        &[
            "= 0x0c27: not by the source port",
            "fib_multipath_hash_policy=1",
        ],
    );
    for with_port in ["16\n", "55\n"] {
        patient.tree.file(fields, with_port);
        patient.is_well("ecmp-hash");
    }
    patient.tree.file(policy, "4\n");
    patient.not_checked("ecmp-hash", "policy 4 is not known");
    patient.not_checked_without("ecmp-hash", policy, "one way");
}

#[test]
fn interfaces_in_one_subnet_are_set_apart() {
    let patient = Patient::new("subnet");
    patient.subnet("eth0", "0001000A");
    patient.sysctl("all", "rp_filter", 1);
    patient.not_checked("reverse-path", "no subnet");
    patient.not_checked("arp", "no subnet");
    patient.subnet("eth1", "0001000A");
    patient.sysctl("eth1", "rp_filter", 2);
    patient.found(
        "reverse-path",
        PROBLEM,
        &[
            "eth0: rp_filter 1, in 10.0.1.0/24 with eth1",
            "net.ipv4.conf.eth0.rp_filter=2",
        ],
    );
    patient.sysctl("all", "rp_filter", 0);
    patient.is_well("reverse-path");
    for name in ["arp_ignore", "arp_announce"] {
        patient.sysctl("all", name, 0);
    }
    patient.sysctl("eth0", "arp_ignore", 2);
    patient.sysctl("eth0", "arp_announce", 0);
    // What is strict already stays.
    let fix = patient.finding("arp").fix;
    let fix: Vec<&str> = fix.iter().map(|line| &line[10..]).collect();
    assert_eq!(
        fix,
        [
            "net.ipv4.conf.eth0.arp_announce=2",
            "net.ipv4.conf.eth1.arp_ignore=1",
            "net.ipv4.conf.eth1.arp_announce=2",
        ]
    );
    patient.sysctl("eth0", "arp_announce", 2);
    patient.found(
        "arp",
        WARNING,
        &[
            "eth1: arp_ignore 0, arp_announce 0",
            "net.ipv4.conf.eth1.arp_ignore=1",
        ],
    );
    // As `sysctl` wants the names of VLANs.
    patient.subnet("eth1.100", "0002000A");
    patient.subnet("eth2", "0002000A");
    patient.sysctl("eth1.100", "rp_filter", 1);
    patient.found(
        "reverse-path",
        PROBLEM,
        &[
            "eth1.100: rp_filter 1",
            "sysctl -w net.ipv4.conf.eth1/100.rp_filter=2",
        ],
    );
    patient.found(
        "arp",
        WARNING,
        &["sysctl -w net.ipv4.conf.eth1/100.arp_announce=2"],
    );
}

#[test]
fn tcp_has_ports_and_buffers() {
    let patient = Patient::new("tcp");
    patient.is_well("port-range");
    patient
        .tree
        .file("proc/sys/net/ipv4/ip_local_port_range", "60000 60999\n");
    patient.found("port-range", WARNING, &["1000 ports"]);
    patient
        .tree
        .file("proc/sys/net/ipv4/ip_local_port_range", "60999 60000\n");
    patient.not_checked("port-range", "cannot be read");
    patient
        .tree
        .file("proc/sys/net/ipv4/ip_local_port_range", "0 4294967295\n");
    patient.not_checked("port-range", "cannot be read");
    patient.not_checked("tcp-buffers", "how fast");
    patient.tree.file("sys/class/net/eth0/mtu", "9000\n");
    for unknown in ["-1\n", "4294967295\n", "0\n"] {
        patient.tree.file("sys/class/net/eth0/speed", unknown);
        patient.not_checked("tcp-buffers", "how fast");
    }
    patient.tree.file("sys/class/net/eth0/speed", "25000\n");
    patient.is_well("tcp-buffers");
    patient.tree.file("sys/class/net/eth0/speed", "100000\n");
    patient.found(
        "tcp-buffers",
        WARNING,
        &[
            "100 Gb/s",
            "tcp_wmem: at most 4194304",
            "4096 16384 8388608",
        ],
    );
    Patient::well("tcp-rdma").not_checked("tcp-buffers", "RDMA");
}

#[test]
fn settings_and_names_are_valid() {
    let mut patient = Patient::well("settings");
    for name in ["settings", "interface-names", "hca-names"] {
        patient.is_well(name);
    }
    patient.set("THALWEG_PATH", "8");
    patient.found("settings", PROBLEM, &["did you mean THALWEG_PATHS"]);
    patient.set("NCCL_SOCKET_IFNAME", "=eth0,ib0");
    patient.found(
        "interface-names",
        WARNING,
        &["is not there: ib0", "interfaces: eth0, eth1, lo"],
    );
    patient.set("NCCL_SOCKET_IFNAME", "ens");
    patient.found("interface-names", PROBLEM, &["leaves no interface"]);
    patient.set("NCCL_IB_HCA", "mlx5_0,mlx5_7");
    patient.found("hca-names", PROBLEM, &["is not there: mlx5_7"]);
    patient.set("NCCL_IB_HCA", "bnxt");
    patient.found(
        "hca-names",
        PROBLEM,
        &["leaves no RDMA port", "mlx5_0, mlx5_1"],
    );
    patient.set("NCCL_IB_HCA", "mlx5_0:one");
    patient.found("hca-names", PROBLEM, &["cannot be understood"]);
    patient.env.remove("NCCL_IB_HCA");
    patient.env.remove("NCCL_SOCKET_IFNAME");
    patient.not_checked("hca-names", "no variable");
    patient.not_checked("interface-names", "no variable");
}

#[test]
fn nccls_files_count_where_the_environment_says_nothing() {
    let mut patient = Patient::well("conf");
    patient.tree.file(
        "etc/nccl.conf",
        "#NCCL_NET=IB\nNCCL_PROTO=Simple\nNCCL_IB_TC=0\nno setting\n=\n",
    );
    patient.found(
        "nccl-leftovers",
        NOTE,
        &["NCCL_PROTO=Simple in /etc/nccl.conf"],
    );
    patient.is_well("pfc");
    patient.env.remove("NCCL_IB_TC");
    patient.found("pfc", PROBLEM, &["class 0"]);
    // The user's file comes first.
    patient.tree.file("home/u/.nccl.conf", "NCCL_IB_TC=104\n");
    patient.set("HOME", "/home/u");
    patient.is_well("pfc");
    // Ours can be there too.
    patient
        .tree
        .file("home/u/.nccl.conf", "THALWEG_PATHS=many\n");
    patient.found("settings", PROBLEM, &["THALWEG_PATHS"]);
}

#[test]
fn nccl_is_told_to_use_what_it_is_told_to_load() {
    let mut patient = Patient::well("net");
    patient.is_well("nccl-net");
    patient.set("NCCL_NET", "Thalweg");
    patient.is_well("nccl-net");
    patient.set("NCCL_NET", "IB");
    patient.found("nccl-net", PROBLEM, &["another network", "unset NCCL_NET"]);
    patient.set("NCCL_NET_PLUGIN", "None");
    patient.found(
        "nccl-net",
        NOTE,
        &["NCCL_NET_PLUGIN=None", "thalweg\", \"unset NCCL_NET\""],
    );
    patient.set("NCCL_NET", "thalweg");
    patient.found("nccl-net", PROBLEM, &["but not to load it"]);
    patient.env.remove("NCCL_NET_PLUGIN");
    patient.set("NCCL_NET", "IB");
    patient.set("NCCL_IB_DISABLE", "1");
    patient.found("nccl-net", PROBLEM, &["that it is disabled"]);
}

#[test]
fn variables_do_not_contradict_each_other() {
    let mut patient = Patient::well("contradict");
    patient.is_well("nccl-ib");
    patient.is_well("nccl-gpu-direct");
    patient.is_well("nccl-leftovers");
    patient.set("NCCL_IB_DISABLE", "1");
    patient.found(
        "nccl-ib",
        PROBLEM,
        &["NCCL_IB_HCA==mlx5_0,mlx5_1", "unset NCCL_IB_DISABLE"],
    );
    patient.set("THALWEG_TRANSPORT", "verbs");
    patient.found("nccl-ib", NOTE, &["prevails"]);
    patient.env.remove("THALWEG_TRANSPORT");
    patient.env.remove("NCCL_IB_HCA");
    patient.env.remove("NCCL_IB_TC");
    patient.found("nccl-ib", WARNING, &["2 RDMA ports up"]);
    patient.env.remove("NCCL_IB_DISABLE");
    patient.set("NCCL_NET", "socket");
    patient.found("nccl-ib", WARNING, &["NCCL_NET=socket", "unset NCCL_NET"]);
    patient.set("NCCL_IB_GID_INDEX", "3");
    patient.found("nccl-ib", PROBLEM, &["With NCCL_NET everything"]);
    patient.set("NCCL_NET_GDR_LEVEL", "loc");
    patient.found("nccl-gpu-direct", NOTE, &["NCCL_NET_GDR_LEVEL=loc"]);
    patient.set("NCCL_DMABUF_ENABLE", "1");
    patient.found("nccl-gpu-direct", PROBLEM, &["NCCL_DMABUF_ENABLE=1"]);
    patient.set("NCCL_NET_GDR_LEVEL", "NEAR");
    patient.found("nccl-gpu-direct", WARNING, &["PIX"]);
    patient.set("NCCL_NET_GDR_LEVEL", "PHB");
    patient.is_well("nccl-gpu-direct");
}

#[test]
fn numbers_in_variables_do_not_contradict_each_other() {
    let mut patient = Patient::well("numbers");
    patient.set("NCCL_MIN_NCHANNELS", "8");
    patient.set("NCCL_MAX_NCHANNELS", "8");
    patient.set("NCCL_SOCKET_NTHREADS", "8");
    patient.set("NCCL_NSOCKS_PERTHREAD", "8");
    patient.is_well("nccl-channels");
    patient.set("NCCL_MIN_NCHANNELS", "16");
    patient.found(
        "nccl-channels",
        PROBLEM,
        &[
            "NCCL_MIN_NCHANNELS=16",
            "unset NCCL_MIN_NCHANNELS NCCL_MAX_NCHANNELS",
        ],
    );
    patient.set("NCCL_MAX_NCHANNELS", "many");
    patient.is_well("nccl-channels");
    patient.set("NCCL_NSOCKS_PERTHREAD", "18446744073709551615");
    patient.found("nccl-channels", WARNING, &["more than 64 sockets"]);
}

#[test]
fn drivers_that_do_not_answer_are_named_and_hide_no_others() {
    let mut patient = Patient::well("hung");
    patient.is_well("driver-answers");
    patient.kernel.hung = Some("eth1");
    let report = patient.report();
    let found: Vec<_> = report.findings.iter().map(|found| found.check).collect();
    assert_eq!(found, ["driver-answers"], "{:?}", report.findings);
    let evidence = report.findings[0].finding.evidence.join("\n");
    for line in ["eth1: how it treats priorities", "eth1: how fast it can be"] {
        assert!(evidence.contains(line), "{evidence}");
    }
    patient.kernel.hung = Some("mlx5_0");
    let report = patient.report();
    assert!(report.findings[0].finding.evidence[0].starts_with("mlx5_0:1: the size"));
}

#[test]
fn traffic_classes_of_variables_make_sense() {
    let mut patient = Patient::well("classes");
    patient.set("NCCL_IB_TC", "300");
    patient.found("nccl-traffic-class", PROBLEM, &["no traffic class"]);
    patient.set("NCCL_IB_TC", "107");
    patient.found(
        "nccl-traffic-class",
        PROBLEM,
        &["met congestion", "export NCCL_IB_TC=106"],
    );
    patient.set("NCCL_IB_TC", "106");
    patient.set("THALWEG_TC", "104");
    patient.found(
        "nccl-traffic-class",
        WARNING,
        &["different traffic classes"],
    );
}

#[test]
fn libraries_are_found_as_the_loader_does() {
    let mut patient = Patient::well("libraries");
    patient.is_well("nccl-library");
    patient.is_well("plugin-library");
    patient.tree.file(
        "home/u/.venv/lib/python3.12/site-packages/nvidia/nccl/lib/libnccl.so.2",
        "NCCL version 2.27.3+cuda12.9\n",
    );
    patient.set("VIRTUAL_ENV", "/home/u/.venv");
    patient.found(
        "nccl-library",
        WARNING,
        &["NCCL 2.30.7", "/home/u/.venv/lib/python3.12", "NCCL 2.27.3"],
    );
    patient.env.remove("VIRTUAL_ENV");
    patient.library("usr/lib/libnccl.so.2", b"NCCL version 2.11.4+cuda11.4");
    patient.found("nccl-library", PROBLEM, &["too old", "2.11.4"]);
    patient.library("usr/lib/libnccl.so.2", b"words");
    patient.is_well("nccl-library");
    patient.remove("usr/lib/libnccl.so.2");
    patient.not_checked("nccl-library", "libnccl.so.2");
    patient.is_well("plugin-library");
}

#[test]
fn the_plugin_fits_this_command_and_nccl() {
    let mut patient = Patient::well("plugin");
    let file = "usr/lib/libnccl-net-thalweg.so";
    patient.library(file, b"\0ncclNetPlugin_v6\0thalweg 0.0.9: over");
    patient.found(
        "plugin-library",
        WARNING,
        &["/usr/lib/libnccl-net-thalweg.so: 0.0.9"],
    );
    patient.library(file, b"\0ncclNetPlugin_v4\0");
    patient.found(
        "plugin-library",
        PROBLEM,
        &["no table that NCCL 2.30 knows", "v4", "v6 to v12"],
    );
    patient.library(file, b"words");
    patient.found("plugin-library", PROBLEM, &["make install"]);
    patient.remove(file);
    patient.found(
        "plugin-library",
        PROBLEM,
        &["does not find it", "LD_LIBRARY_PATH: it is not set"],
    );
    // Where the user says that it is, or by its whole name.
    patient.library(
        "opt/thalweg/libnccl-net-thalweg.so",
        b"\0ncclNetPlugin_v12\0",
    );
    patient.set("LD_LIBRARY_PATH", "/opt/none::/opt/thalweg");
    patient.is_well("plugin-library");
    patient.env.remove("LD_LIBRARY_PATH");
    patient.set("NCCL_NET_PLUGIN", "/opt/thalweg/libnccl-net-thalweg.so");
    patient.is_well("plugin-library");
    patient.remove("opt/thalweg/libnccl-net-thalweg.so");
    let fix = patient.finding("plugin-library").fix;
    assert_eq!(
        fix,
        ["name the file: export NCCL_NET_PLUGIN=/FOLDER/libnccl-net-thalweg.so"]
    );
    patient.set("NCCL_NET_PLUGIN", "ofi");
    patient.not_checked("plugin-library", "another plugin");
    patient.env.remove("NCCL_NET_PLUGIN");
    patient.not_checked("plugin-library", "not where the loader looks");
}

#[test]
fn lists_of_plugins_need_a_newer_nccl() {
    let mut patient = Patient::well("lists");
    patient.set("NCCL_NET_PLUGIN", "thalweg,none");
    patient.is_well("plugin-library");
    patient.library("usr/lib/libnccl.so.2", b"NCCL version 2.26.2+cuda12.2");
    patient.found(
        "plugin-library",
        PROBLEM,
        &["takes a list", "export NCCL_NET_PLUGIN=thalweg"],
    );
}
