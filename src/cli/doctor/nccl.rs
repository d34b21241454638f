//! Checks of the settings: our own, and NCCL's variables that contradict each other, name what is not
//! there, or have been left over from a search for some other fault.

use super::host::Host;
use super::{Finding, Outcome, count};
use crate::config::{HcaFilter, IfFilter, TransportKind};

/// The name of our plugin, which `NCCL_NET` is compared with.
pub(super) const PLUGIN: &str = "thalweg";

/// Our own settings are such that the library starts.
pub(super) fn settings(host: &Host) -> Outcome {
    match &host.settings {
        Ok(_) => Outcome::Well("valid".into()),
        Err(error) => Outcome::Found(vec![
            Finding::problem("A setting of thalweg is wrong.")
                .evidence([error.to_string()])
                .why("The plugin refuses to start with it, and NCCL goes on without the plugin.")
                .fix(["correct the setting, or unset it; docs/operations.md lists them all"]),
        ]),
    }
}

/// The names in a list as NCCL writes it, without its signs and what follows a colon.
fn entries(list: &str) -> Vec<&str> {
    let names = list.trim().trim_start_matches(['^', '=']).split(',');
    let names = names.map(|entry| entry.split(':').next().unwrap_or(entry).trim());
    names.filter(|name| !name.is_empty()).collect()
}

/// The entries of a list that no name answers to. A list that leaves names out may name anything.
fn unanswered<'a>(list: &'a str, names: &[String]) -> Vec<&'a str> {
    let signs = list.trim();
    if signs.starts_with('^') {
        return Vec::new();
    }
    let is_exact = signs.starts_with('=');
    let answers =
        |entry: &str, name: &String| name == entry || !is_exact && name.starts_with(entry);
    let unanswered = |entry: &&str| !names.iter().any(|name| answers(entry, name));
    entries(list).into_iter().filter(unanswered).collect()
}

/// Variables with lists of interfaces name some that are there.
pub(super) fn interface_names(host: &Host) -> Outcome {
    let names = host.names("sys/class/net");
    let variables = ["THALWEG_IFNAME", "NCCL_SOCKET_IFNAME"];
    let set: Vec<_> = variables
        .into_iter()
        .filter_map(|name| Some((name, host.var(name)?)))
        .collect();
    if set.is_empty() {
        return Outcome::not_checked("no variable names interfaces");
    }
    let mut findings = Vec::new();
    for (variable, list) in &set {
        let missing = unanswered(list, &names);
        let admits_none = IfFilter::parse(list)
            .is_none_or(|filter| !names.iter().any(|name| filter.admits(name)));
        let evidence = [
            host.shown(variable),
            format!("interfaces: {}", names.join(", ")),
        ];
        let fix = [format!(
            "export {variable}=... with interfaces of `ip -brief address`"
        )];
        if admits_none {
            findings.push(
                Finding::problem(format!("{variable} leaves no interface."))
                    .evidence(evidence)
                    .why("NCCL finds no interface for its bootstrap, and the job does not start.")
                    .fix(fix),
            );
        } else if !missing.is_empty() {
            findings.push(
                Finding::warning(format!(
                    "{variable} names what is not there: {}.",
                    missing.join(", ")
                ))
                .evidence(evidence)
                .why("The job uses fewer interfaces than it was meant to.")
                .fix(fix),
            );
        }
    }
    let shown: Vec<String> = set.iter().map(|(name, _)| host.shown(name)).collect();
    Outcome::of(findings, shown.join(", "))
}

/// Variables with lists of RDMA devices name some that are there.
pub(super) fn hca_names(host: &Host) -> Outcome {
    let mut names: Vec<String> = host.ports.iter().map(|port| port.device.clone()).collect();
    names.dedup();
    let variables = ["THALWEG_HCA", "NCCL_IB_HCA"];
    let set: Vec<_> = variables
        .into_iter()
        .filter_map(|name| Some((name, host.var(name)?)))
        .collect();
    if set.is_empty() {
        return Outcome::not_checked("no variable names RDMA devices");
    }
    let shown_names = if names.is_empty() {
        "there are none".to_owned()
    } else {
        names.join(", ")
    };
    let mut findings = Vec::new();
    for (variable, list) in &set {
        let evidence = [host.shown(variable), format!("RDMA devices: {shown_names}")];
        let fix = [format!("export {variable}=... with devices of `rdma link`")];
        let missing = unanswered(list, &names);
        let filter = HcaFilter::parse(list);
        let admits_none = |filter: &HcaFilter| {
            !host
                .ports
                .iter()
                .any(|port| filter.admits(&port.device, port.number))
        };
        let Some(filter) = filter else {
            findings.push(
                Finding::problem(format!("{variable} cannot be understood."))
                    .evidence(evidence)
                    .why("Such a list is passed over: the job uses all devices.")
                    .fix(["write it as NAME:PORT,NAME:PORT, each port a number from 1"]),
            );
            continue;
        };
        if admits_none(&filter) {
            findings.push(
                Finding::problem(format!("{variable} leaves no RDMA port."))
                    .evidence(evidence)
                    .why("No RDMA port may be used, so links go over TCP.")
                    .fix(fix),
            );
        } else if !missing.is_empty() {
            findings.push(
                Finding::problem(format!(
                    "{variable} names what is not there: {}.",
                    missing.join(", ")
                ))
                .evidence(evidence)
                .why(
                    "The job uses fewer ports than it was meant to; a device may be missing \
                         from the host.",
                )
                .fix(fix),
            );
        }
    }
    let shown: Vec<String> = set.iter().map(|(name, _)| host.shown(name)).collect();
    Outcome::of(findings, shown.join(", "))
}

/// The plugins that NCCL is told to load; none if it is not told, an empty list if it is to load none.
pub(super) fn plugins(host: &Host) -> Option<Vec<&str>> {
    let list = host.var_or_empty("NCCL_NET_PLUGIN")?;
    let names = list.split(',').map(str::trim);
    Some(
        names
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("none"))
            .collect(),
    )
}

/// Whether a name in `NCCL_NET_PLUGIN` is ours, also as a file's.
pub(super) fn is_ours(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    file == PLUGIN || file.contains("-net-thalweg.so") || file.contains("_net_thalweg.so")
}

/// NCCL is told to load the plugin, and then not told to use another network.
pub(super) fn net(host: &Host) -> Outcome {
    let plugins = plugins(host);
    let net = host.var("NCCL_NET");
    let is_loaded = plugins
        .as_ref()
        .is_some_and(|plugins| plugins.iter().any(|name| is_ours(name)));
    let is_meant = net.is_some_and(|net| net.eq_ignore_ascii_case(PLUGIN));
    let mut evidence: Vec<String> = ["NCCL_NET_PLUGIN", "NCCL_NET", "NCCL_IB_DISABLE"]
        .into_iter()
        .filter(|name| host.var_or_empty(name).is_some())
        .map(|name| host.shown(name))
        .collect();
    if plugins.is_none() {
        evidence.push("NCCL_NET_PLUGIN is not set".into());
    }
    let is_ib = net.is_some_and(|net| net.eq_ignore_ascii_case("ib"));
    let finding = if is_loaded && net.is_some() && !is_meant {
        Finding::problem("NCCL is told to load thalweg, and to use another network.")
            .why("NCCL passes over each plugin whose name is not that of NCCL_NET.")
            .fix(host.unset(&["NCCL_NET"]))
    } else if is_meant && !is_loaded {
        Finding::problem("NCCL is told to use thalweg, but not to load it.")
            .why("NCCL finds no network of this name, and the job does not start.")
            .fix(["export NCCL_NET_PLUGIN=thalweg"])
    } else if is_ib && host.var("NCCL_IB_DISABLE") == Some("1") {
        Finding::problem("NCCL is told to use its IB transport, and that it is disabled.")
            .why("NCCL finds no network of this name, and the job does not start.")
            .fix(host.unset(&["NCCL_IB_DISABLE"]))
    } else if !is_loaded {
        Finding::note("NCCL is not told to load thalweg.")
            .why("A job that is started like this uses NCCL's own transports, or another plugin.")
            .fix(["export NCCL_NET_PLUGIN=thalweg"])
            .fix(net.map_or(Vec::new(), |_| host.unset(&["NCCL_NET"])))
    } else {
        return Outcome::Well(evidence.join(", "));
    };
    Outcome::Found(vec![finding.evidence(evidence)])
}

/// RDMA is not both switched off and set up.
pub(super) fn ib(host: &Host) -> Outcome {
    let is_disabled = host
        .var("NCCL_IB_DISABLE")
        .is_some_and(|value| value != "0");
    let is_socket = host
        .var("NCCL_NET")
        .is_some_and(|net| net.eq_ignore_ascii_case("socket"));
    let off = match (is_disabled, is_socket) {
        (true, _) => "NCCL_IB_DISABLE",
        (false, true) => "NCCL_NET",
        (false, false) => return Outcome::Well("RDMA is not switched off".into()),
    };
    let others = [
        "NCCL_IB_HCA",
        "NCCL_IB_GID_INDEX",
        "NCCL_IB_TC",
        "NCCL_IB_SL",
        "NCCL_IB_QPS_PER_CONNECTION",
    ];
    let others: Vec<&str> = others
        .into_iter()
        .filter(|name| host.var(name).is_some())
        .collect();
    let shown = host.shown(off);
    if host.config.transport == TransportKind::Verbs && is_disabled {
        return Outcome::Found(vec![
            Finding::note("NCCL_IB_DISABLE does not keep thalweg from RDMA.")
                .evidence([shown, host.shown("THALWEG_TRANSPORT")])
                .why("THALWEG_TRANSPORT prevails; only NCCL's own transport is switched off.")
                .fix(host.unset(&[off])),
        ]);
    }
    if !others.is_empty() {
        return Outcome::Found(vec![
            Finding::problem("RDMA is switched off, and set up all the same.")
                .evidence([shown])
                .evidence(others.iter().map(|name| host.shown(name)))
                .why(format!(
                    "With {off} everything goes over TCP, and the other variables have no effect."
                ))
                .fix(host.unset(&[off]))
                .fix(["or, if TCP is meant, the others"]),
        ]);
    }
    let active = host.ports.iter().filter(|port| port.is_active()).count();
    if active > 0 {
        return Outcome::Found(vec![
            Finding::warning("RDMA is switched off on a host that has it.")
                .evidence([shown, format!("{} up", count(active, "RDMA port"))])
                .why(
                    "Everything goes over TCP, which costs processor time and reaches a fraction \
                     of the rate.",
                )
                .fix(host.unset(&[off])),
        ]);
    }
    Outcome::Well(format!("{shown}, and there is no RDMA port that is up"))
}

/// Variables about the memory of GPUs agree.
pub(super) fn gpu_direct(host: &Host) -> Outcome {
    let mut findings = Vec::new();
    let level = host.var("NCCL_NET_GDR_LEVEL").map(str::to_ascii_uppercase);
    let is_off = level
        .as_deref()
        .is_some_and(|level| matches!(level, "LOC" | "0"));
    let wants = ["NCCL_DMABUF_ENABLE", "NCCL_NET_GDR_READ"];
    let wants: Vec<&str> = wants
        .into_iter()
        .filter(|name| host.var(name) == Some("1"))
        .collect();
    // The kinds of way of NCCL's topology, and their numbers in older versions.
    let levels = [
        "LOC", "NVL", "NVB", "C2C", "PIX", "PXB", "P2C", "PXN", "PHB", "SYS",
    ];
    let is_level = |level: &str| levels.contains(&level) || level.parse::<u8>().is_ok();
    if is_off && !wants.is_empty() {
        findings.push(
            Finding::problem(
                "Direct access to the memory of GPUs is switched off, and set up all the same.",
            )
            .evidence([host.shown("NCCL_NET_GDR_LEVEL")])
            .evidence(wants.iter().map(|name| host.shown(name)))
            .why(
                "At this level each byte goes through the host's memory, and the other \
                     variables have no effect.",
            )
            .fix(host.unset(&["NCCL_NET_GDR_LEVEL"])),
        );
    } else if level.as_deref().is_some_and(|level| !is_level(level)) {
        findings.push(
            Finding::warning("NCCL_NET_GDR_LEVEL is none of NCCL's levels.")
                .evidence([host.shown("NCCL_NET_GDR_LEVEL")])
                .why("NCCL passes over it, and uses its own default.")
                .fix([
                    format!("one of {}", levels.join(", ")),
                    "or unset NCCL_NET_GDR_LEVEL".into(),
                ]),
        );
    } else if is_off {
        findings.push(
            Finding::note("Direct access to the memory of GPUs is switched off.")
                .evidence([host.shown("NCCL_NET_GDR_LEVEL")])
                .why("Each byte goes through the host's memory, which costs latency and bandwidth.")
                .fix(host.unset(&["NCCL_NET_GDR_LEVEL"])),
        );
    }
    Outcome::of(
        findings,
        match level {
            Some(_) => host.shown("NCCL_NET_GDR_LEVEL"),
            None => "no variable speaks against it".into(),
        },
    )
}

/// NCCL's sockets to each peer, of all its threads together, are this many at most (documentation of
/// `NCCL_SOCKET_NTHREADS`).
const SOCKETS_MAX: u64 = 64;

/// Numbers in variables do not contradict each other.
pub(super) fn channels(host: &Host) -> Outcome {
    let number = |name: &str| host.var(name)?.parse::<u64>().ok();
    let mut findings = Vec::new();
    for (least, most) in [
        ("NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS"),
        ("NCCL_MIN_CTAS", "NCCL_MAX_CTAS"),
        ("NCCL_MIN_P2P_NCHANNELS", "NCCL_MAX_P2P_NCHANNELS"),
    ] {
        if number(least)
            .zip(number(most))
            .is_some_and(|(least, most)| least > most)
        {
            findings.push(
                Finding::problem(format!("{least} is more than {most}."))
                    .evidence([least, most].map(|name| host.shown(name)))
                    .why("Both cannot hold: one of them has no effect.")
                    .fix(host.unset(&[least, most])),
            );
        }
    }
    let sockets = ["NCCL_SOCKET_NTHREADS", "NCCL_NSOCKS_PERTHREAD"];
    let [threads, each] = sockets.map(|name| number(name).unwrap_or(1));
    if threads.saturating_mul(each) > SOCKETS_MAX {
        findings.push(
            Finding::warning(format!(
                "NCCL is asked for more than {SOCKETS_MAX} sockets to each peer."
            ))
            .evidence(
                sockets
                    .iter()
                    .filter(|name| host.var(name).is_some())
                    .map(|name| host.shown(name)),
            )
            .why("It takes fewer than either variable says; links of thalweg heed neither.")
            .fix(host.unset(&sockets)),
        );
    }
    Outcome::of(findings, "no number contradicts another")
}

/// No variable is left over that switches off what a job needs.
pub(super) fn leftovers(host: &Host) -> Outcome {
    let mut findings = Vec::new();
    let slow = [
        "NCCL_P2P_DISABLE",
        "NCCL_SHM_DISABLE",
        "CUDA_LAUNCH_BLOCKING",
        "NCCL_NVLS_DISABLE",
    ];
    let slow: Vec<&str> = slow
        .into_iter()
        .filter(|name| host.var(name) == Some("1"))
        .collect();
    let fixed = [
        "NCCL_ALGO",
        "NCCL_PROTO",
        "NCCL_MAX_NCHANNELS",
        "NCCL_BUFFSIZE",
    ];
    let fixed: Vec<&str> = fixed
        .into_iter()
        .filter(|name| host.var(name).is_some())
        .collect();
    for (names, finding, why) in [
        (
            slow,
            Finding::warning("Variables for debugging are set that slow a job down."),
            "They switch off NVLink, shared memory or overlap: fine for finding a fault, \
                 expensive for ever after.",
        ),
        (
            fixed,
            Finding::note("Choices that NCCL makes by itself are fixed."),
            "What was best for one size of job, or one version of NCCL, is rarely so for the next.",
        ),
    ] {
        if !names.is_empty() {
            let fix = host.unset(&names);
            findings.push(
                finding
                    .evidence(names.iter().map(|name| host.shown(name)))
                    .why(why)
                    .fix(fix),
            );
        }
    }
    Outcome::of(findings, "none")
}

/// The classes of traffic in variables make sense.
pub(super) fn traffic_classes(host: &Host) -> Outcome {
    let variables = ["THALWEG_TC", "NCCL_IB_TC", "NCCL_IB_FIFO_TC"];
    let set: Vec<&str> = variables
        .into_iter()
        .filter(|name| host.var(name).is_some())
        .collect();
    if set.is_empty() {
        return Outcome::not_checked("no variable asks for a traffic class");
    }
    let mut findings = Vec::new();
    let class = |name: &str| host.var(name)?.parse::<u8>().ok();
    for name in ["NCCL_IB_TC", "NCCL_IB_FIFO_TC"] {
        if host.var(name).is_some() && class(name).is_none() {
            findings.push(
                Finding::problem(format!("{name} is no traffic class."))
                    .evidence([host.shown(name)])
                    .why("It is passed over, and packets have class 0.")
                    .fix([format!(
                        "export {name}=... from 0 to 255: four times the DSCP, plus 2 for ECN"
                    )]),
            );
        } else if class(name).is_some_and(|class| class & 3 == 3) {
            findings.push(
                Finding::problem(format!(
                    "{name} marks each packet as having met congestion."
                ))
                .evidence([host.shown(name)])
                .why(
                    "The lowest two bits are for ECN, and 3 is the mark itself: senders slow \
                         down for nothing.",
                )
                .fix([format!(
                    "export {name}={}",
                    class(name).unwrap_or_default() & !1
                )]),
            );
        }
    }
    let (theirs, ours) = (class("NCCL_IB_TC"), class("THALWEG_TC"));
    if theirs.is_some() && ours.is_some() && theirs != ours {
        findings.push(
            Finding::warning("NCCL and thalweg are given different traffic classes.")
                .evidence(["NCCL_IB_TC", "THALWEG_TC"].map(|name| host.shown(name)))
                .why(
                    "THALWEG_TC prevails in thalweg; what NCCL's own transport sends, in another \
                     job or on another host, is treated differently.",
                )
                .fix(host.unset(&["THALWEG_TC"]))
                .fix(["NCCL_IB_TC then counts for both"]),
        );
    }
    let shown: Vec<String> = set.iter().map(|name| host.shown(name)).collect();
    Outcome::of(findings, shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_nccl_does() {
        let names = ["mlx5_0", "mlx5_1", "bnxt_re0"].map(String::from);
        assert_eq!(unanswered("mlx5", &names), [""; 0]);
        assert_eq!(unanswered("=mlx5_0:1,mlx5_9", &names), ["mlx5_9"]);
        assert_eq!(unanswered("mlx5_0, irdma", &names), ["irdma"]);
        assert_eq!(unanswered("=mlx5", &names), ["mlx5"]);
        assert_eq!(unanswered("^docker,lo", &names), [""; 0]);
        assert_eq!(unanswered("", &names), [""; 0]);
    }

    #[test]
    fn our_plugin_has_several_names() {
        for ours in [
            "thalweg",
            "libnccl-net-thalweg.so",
            "/opt/lib/librccl-net-thalweg.so",
            "target/release/libnccl_net_thalweg.so",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in [
            "",
            "ofi",
            "libnccl-net.so",
            "thalweg2",
            "/thalweg/libnccl-net-ofi.so",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
