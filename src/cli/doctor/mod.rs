//! `thalweg doctor`: looks a host over before a job starts, and says what would slow the job down or
//! end it: what, by which evidence, why it matters, and what mends it. It changes nothing.
//!
//! One table names the checks. Each looks at the [`Host`] and finds something, is content, or says
//! why it could not look; so a user sees that nothing was passed over.

mod host;
mod library;
mod limits;
mod nccl;
mod network;
mod pci;
mod qos;
mod rdma;
#[cfg(test)]
mod tests;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use self::host::{Host, Running};
use super::{Failure, print_json};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    /// Where the host's files are, such as /host in a container that has them there. The environment,
    /// and what only the kernel can say, are always those of the command itself
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// How bad it is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// A job fails, or is much slower than it need be.
    Problem,
    /// It may be, depending on the network or the job.
    Warning,
    /// Good to know.
    Note,
}

/// Something that a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    /// What is the case, in a sentence.
    what: String,
    /// What was read, a line each.
    evidence: Vec<String>,
    /// Why it matters.
    why: String,
    /// What mends it: commands, a line each, or what to do where there is none.
    fix: Vec<String>,
}

/// What a check comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Found(Vec<Finding>),
    /// Nothing to find; what was seen.
    Well(String),
    /// Nothing to look at, or no way to; why.
    NotChecked(String),
}

struct Check {
    /// Its name, which stays the same for scripts.
    name: &'static str,
    run: fn(&Host) -> Outcome,
}

/// All checks, in the order in which they are shown.
const CHECKS: &[Check] = &[
    check("rdma-devices", rdma::devices),
    check("rdma-gids", rdma::gids),
    check("mtu", rdma::mtu),
    check("link-speed", rdma::link_speed),
    check("gpu-memory", rdma::gpu_memory),
    check("pcie-link", pci::link),
    check("pcie-rate", pci::rate),
    check("pcie-errors", pci::errors),
    check("pcie-acs", pci::acs),
    check("iommu", pci::iommu),
    check("locked-memory", limits::locked_memory),
    check("open-files", limits::open_files),
    check("shared-memory", limits::shared_memory),
    check("traffic-class", qos::traffic_class),
    check("pfc", qos::pfc),
    check("roce-ecn", qos::ecn),
    check("ecmp-hash", network::ecmp_hash),
    check("reverse-path", network::reverse_path),
    check("arp", network::arp),
    check("port-range", network::port_range),
    check("tcp-buffers", network::tcp_buffers),
    check("settings", nccl::settings),
    check("interface-names", nccl::interface_names),
    check("hca-names", nccl::hca_names),
    check("nccl-net", nccl::net),
    check("nccl-ib", nccl::ib),
    check("nccl-gpu-direct", nccl::gpu_direct),
    check("nccl-leftovers", nccl::leftovers),
    check("nccl-traffic-class", nccl::traffic_classes),
    check("nccl-channels", nccl::channels),
    check("nccl-library", library::nccl),
    check("plugin-library", library::plugin),
    // The last: it tells what the others could not learn.
    check("driver-answers", rdma::driver_answers),
];

const fn check(name: &'static str, run: fn(&Host) -> Outcome) -> Check {
    Check { name, run }
}

/// What all checks have come to. This is also the form of the JSON.
#[derive(Debug, Serialize)]
struct Report {
    /// Changes when a field changes its meaning.
    version: u32,
    host: String,
    kernel: String,
    problems: usize,
    warnings: usize,
    notes: usize,
    /// The worst first, then in the order of the checks.
    findings: Vec<Found>,
    well: Vec<Passed>,
    not_checked: Vec<NotChecked>,
}

#[derive(Debug, Serialize)]
struct Found {
    check: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

#[derive(Debug, Serialize)]
struct Passed {
    check: &'static str,
    what: String,
}

#[derive(Debug, Serialize)]
struct NotChecked {
    check: &'static str,
    why: String,
}

/// Looks the host over. Not all is well if there is a problem; warnings and notes are no reason to
/// keep a job back.
pub(super) fn doctor(args: &DoctorArgs, out: &mut impl Write) -> Result<(), Failure> {
    let root = Path::new(&args.root);
    if !root.join("sys").is_dir() || !root.join("proc").is_dir() {
        return Err(Failure::Usage(format!(
            "{} has no folders sys and proc: mount the host's there, or name another place with \
             --root",
            root.display()
        )));
    }
    let report = Report::of(&Host::new(root, std::env::vars_os(), Box::new(Running)));
    if args.json {
        print_json(out, &report)?;
    } else {
        write!(out, "{}", text::text(&report, text::columns()))?;
    }
    match report.problems {
        0 => Ok(()),
        _ => Err(Failure::NotWell),
    }
}

impl Report {
    fn of(host: &Host) -> Self {
        let name = |file: &str| host.word(file).unwrap_or_else(|| "unknown".to_owned());
        let mut report = Self {
            version: 1,
            host: name("proc/sys/kernel/hostname"),
            kernel: name("proc/sys/kernel/osrelease"),
            problems: 0,
            warnings: 0,
            notes: 0,
            findings: Vec::new(),
            well: Vec::new(),
            not_checked: Vec::new(),
        };
        for Check { name: check, run } in CHECKS {
            match run(host) {
                Outcome::Found(findings) => {
                    let found = |finding| Found { check, finding };
                    report.findings.extend(findings.into_iter().map(found));
                }
                Outcome::Well(what) => report.well.push(Passed { check, what }),
                Outcome::NotChecked(why) => report.not_checked.push(NotChecked { check, why }),
            }
        }
        report.findings.sort_by_key(|found| found.finding.severity);
        let count = |severity| {
            let findings = report.findings.iter();
            findings
                .filter(|found| found.finding.severity == severity)
                .count()
        };
        (report.problems, report.warnings, report.notes) = (
            count(Severity::Problem),
            count(Severity::Warning),
            count(Severity::Note),
        );
        report
    }
}

impl Finding {
    fn new(severity: Severity, what: impl Into<String>) -> Self {
        Self {
            severity,
            what: what.into(),
            evidence: Vec::new(),
            why: String::new(),
            fix: Vec::new(),
        }
    }

    fn problem(what: impl Into<String>) -> Self {
        Self::new(Severity::Problem, what)
    }

    fn warning(what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, what)
    }

    fn note(what: impl Into<String>) -> Self {
        Self::new(Severity::Note, what)
    }

    fn evidence<S: Into<String>>(mut self, lines: impl IntoIterator<Item = S>) -> Self {
        self.evidence.extend(lines.into_iter().map(Into::into));
        self
    }

    fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    fn fix<S: Into<String>>(mut self, lines: impl IntoIterator<Item = S>) -> Self {
        self.fix.extend(lines.into_iter().map(Into::into));
        self
    }
}

impl Outcome {
    /// What was found, or that there is nothing.
    fn of(findings: Vec<Finding>, well: impl Into<String>) -> Self {
        if findings.is_empty() {
            Self::Well(well.into())
        } else {
            Self::Found(findings)
        }
    }

    fn not_checked(why: impl Into<String>) -> Self {
        Self::NotChecked(why.into())
    }
}

/// `1 port`, `2 ports`.
fn count(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}

/// Megabits as gigabits.
fn gbps(mbps: u64) -> String {
    let tenths = mbps / 100;
    match tenths % 10 {
        0 => format!("{} Gb/s", tenths / 10),
        tenth => format!("{}.{tenth} Gb/s", tenths / 10),
    }
}
