//! Fabrics of four paths between two hosts, broken under traffic. Each test has a fabric of its
//! own, named after its process, and takes it down.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::nccl::nccl_cpu;
use crate::{Running, lab_tool, missing, plugin_folder, root, succeeded};

/// Two cores carry one fabric at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Fabric {
    name: String,
    _turn: MutexGuard<'static, ()>,
}

impl Fabric {
    fn up(rates: &str) -> Option<Self> {
        Self::made_of(&["--rates", rates])
    }

    fn made_of(shape: &[&str]) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let user = Command::new("id").arg("-u").output().unwrap();
        if user.stdout != b"0\n" {
            missing("network namespaces need root");
            return None;
        }
        let fabric = Self {
            name: format!("thwl{}", std::process::id() % 100_000),
            _turn: turn,
        };
        let up = fabric.script(&[&["up"], shape].concat()).output().unwrap();
        if !up.status.success() {
            missing(&format!(
                "no fabric here: {}",
                String::from_utf8_lossy(&up.stderr).trim()
            ));
            return None;
        }
        Some(fabric)
    }

    fn script(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(root().join("lab/fabric.sh"));
        command.env("FABRIC", &self.name).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let what = format!("fabric.sh {arguments:?}");
        succeeded(&self.script(arguments).output().unwrap(), &what)
            .trim()
            .to_owned()
    }

    /// Bytes that each way has carried from a to b.
    fn carried(&self) -> Vec<u64> {
        let status = self.run(&["status", "--json"]);
        let counts = status.split("\"a_to_b_bytes\": ").skip(1);
        counts
            .map(|rest| rest.split(',').next().unwrap().parse().unwrap())
            .collect()
    }

    /// `command`, run on a host.
    fn on(&self, host: &str, command: &Command) -> Command {
        let mut on = Command::new("ip");
        on.args(["netns", "exec", &format!("{}-{host}", self.name)])
            .arg(command.get_program());
        on.args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                on.env(name, value);
            }
        }
        on.env("NCCL_SOCKET_IFNAME", "app0");
        on
    }

    /// `peer_bench` from `a` to `b`, checking every byte.
    fn transfer(&self, arguments: &[&str]) -> Option<(Running, Running)> {
        self.transfer_from("a", 0, arguments)
    }

    fn transfer_from(
        &self,
        host: &str,
        nth: u16,
        arguments: &[&str],
    ) -> Option<(Running, Running)> {
        self.transfer_with(&[], host, nth, arguments)
    }

    /// The same with settings for both ends.
    fn transfer_with(
        &self,
        settings: &[(&str, &std::ffi::OsStr)],
        host: &str,
        nth: u16,
        arguments: &[&str],
    ) -> Option<(Running, Running)> {
        let mut bench = Command::new(lab_tool("peer_bench")?);
        let to = self.run(&["addr", "b"]);
        bench
            .arg("--plugin")
            .arg(plugin_folder().join("libnccl-net-thalweg.so"));
        let port = (29_500 + nth).to_string();
        bench.args(["--addr", &to, "--port", &port]);
        bench.env("PEER_BENCH_LOG", "3");
        bench.envs(settings.iter().copied());
        let mut server = self.on("b", &bench);
        server.arg("--server");
        let server = Running::start(&mut server);
        let mut client = self.on(host, &bench);
        client.args(["--client", "--verify"]).args(arguments);
        Some((server, Running::start(&mut client)))
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        let _ = self.script(&["down"]).output();
    }
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The run ended well: the client's line, with every byte checked.
fn ends_well((server, client): (Running, Running)) -> String {
    let (status, text) = client.finish(Duration::from_secs(60));
    let (server_status, server_text) = server.finish(Duration::from_secs(10));
    assert!(
        status.success(),
        "client: {status}\n{text}\nserver:\n{server_text}"
    );
    assert!(
        server_status.success(),
        "server: {server_status}\n{server_text}"
    );
    assert!(text.contains("corrupt=0"), "{text}");
    text
}

/// Routers that mark one packet of fifty, as a switch's queue would.
const MARKING: &str = "add table ip queue_marks
add chain ip queue_marks forward { type filter hook forward priority 0; }
add rule ip queue_marks forward ip ecn { ect0, ect1 } numgen inc mod 50 == 0 ip ecn set ce
";

#[test]
fn marks_of_the_network_reach_the_controller() {
    let Some(fabric) = Fabric::up("500,500") else {
        return;
    };
    if Command::new("nft").arg("--version").output().is_err() {
        missing("nft is not installed: install the package nftables");
        return;
    }
    let folder = plugin_folder();
    let rules = folder.join("marking.nft");
    std::fs::write(&rules, MARKING).unwrap();
    for router in ["r0", "r1"] {
        let mut nft = Command::new("nft");
        nft.arg("-f").arg(&rules);
        succeeded(&fabric.on(router, &nft).output().unwrap(), "nft");
    }
    // The most marks that the trace saw, if any, and the largest window, with this setting.
    let run = |ecn: &str| {
        for host in ["a", "b"] {
            let mut set = Command::new("sh");
            set.args(["-c", &format!("echo {ecn} >/proc/sys/net/ipv4/tcp_ecn")]);
            succeeded(&fabric.on(host, &set).output().unwrap(), "tcp_ecn");
        }
        let trace = folder.join(format!("trace-ecn-{ecn}"));
        let settings = [
            ("THALWEG_CONTROLLER", std::ffi::OsStr::new("nscc")),
            ("THALWEG_PATHS", "2".as_ref()),
            ("THALWEG_FAMILY", "ipv4".as_ref()), // the rules are
            ("THALWEG_TRACE_FILE", trace.as_os_str()),
            ("THALWEG_TRACE_MS", "20".as_ref()),
        ];
        let arguments = ["--size", "1M", "--seconds", "3"];
        ends_well(fabric.transfer_with(&settings, "a", 0, &arguments)?);
        let trace = std::fs::read_to_string(trace).unwrap();
        let most = |name: &str| {
            let values = trace.lines().filter_map(|line| {
                let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
                rest.split([',', '}']).next()?.parse::<u64>().ok()
            });
            values.max()
        };
        Some((most("marked"), most("window").unwrap()))
    };
    let Some((without, _)) = run("0") else { return };
    assert_eq!(without, None, "nobody agreed on ECN");
    let (marked, window) = run("1").unwrap();
    assert!(marked > Some(100), "marked {marked:?}");
    assert!(window < 64 << 20, "the controller's largest window");
}

#[test]
fn unequal_paths_carry_what_they_can() {
    let Some(fabric) = Fabric::up("500,500,250,100") else {
        return;
    };
    let Some(run) = fabric.transfer(&["--size", "1M", "--seconds", "4"]) else {
        return;
    };
    ends_well(run);
    let bytes = fabric.carried();
    assert_eq!(bytes.len(), 4, "{bytes:?}");
    assert!(
        bytes[3] < bytes[2] && bytes[2] < bytes[0].min(bytes[1]),
        "{bytes:?}"
    );
    assert!(
        bytes[3] > 1 << 20,
        "the slowest way was not used: {bytes:?}"
    );
}

#[test]
fn a_silent_black_hole_is_survived_and_the_path_comes_back() {
    let Some(fabric) = Fabric::up("500,500,500,500") else {
        return;
    };
    let Some(run) = fabric.transfer(&["--size", "1M", "--seconds", "14"]) else {
        return;
    };
    sleep_ms(2000);
    fabric.run(&["cut", "1"]);
    // Many dials.
    sleep_ms(6500);
    let cut = fabric.carried()[1];
    fabric.run(&["heal", "1"]);
    sleep_ms(3000);
    let healed = fabric.carried()[1];
    let text = ends_well(run);
    assert!(!text.contains("failed"), "{text}");
    // A third of what it can carry in that time would be 62 MB.
    assert!(healed - cut > 20_000_000, "{cut} {healed}");
}

#[test]
fn a_flapping_path_and_a_lost_link_are_survived() {
    let Some(fabric) = Fabric::up("500,500,500,500") else {
        return;
    };
    let Some(run) = fabric.transfer(&["--size", "256K", "--seconds", "12"]) else {
        return;
    };
    for _ in 0..3 {
        sleep_ms(1000);
        fabric.run(&["cut", "2"]);
        sleep_ms(1000);
        fabric.run(&["heal", "2"]);
    }
    fabric.run(&["linkdown", "0"]);
    sleep_ms(1500);
    fabric.run(&["linkup", "0"]);
    ends_well(run);
}

#[test]
fn all_paths_cut_for_a_while_are_survived() {
    let Some(fabric) = Fabric::up("500,500") else {
        return;
    };
    let Some(run) = fabric.transfer(&["--size", "1M", "--seconds", "8"]) else {
        return;
    };
    sleep_ms(1500);
    fabric.run(&["cut", "0"]);
    fabric.run(&["cut", "1"]);
    sleep_ms(2000);
    fabric.run(&["heal", "0"]);
    fabric.run(&["heal", "1"]);
    ends_well(run);
}

#[test]
fn all_paths_cut_for_good_end_in_one_clear_error() {
    let Some(fabric) = Fabric::up("500,500") else {
        return;
    };
    let Some(tool) = lab_tool("peer_bench") else {
        return;
    };
    let to = fabric.run(&["addr", "b"]);
    let mut bench = Command::new(tool);
    bench
        .arg("--plugin")
        .arg(plugin_folder().join("libnccl-net-thalweg.so"))
        .args(["--addr", &to])
        .env("PEER_BENCH_LOG", "2")
        .env("THALWEG_DEAD_PEER_MS", "1500");
    let mut server = fabric.on("b", &bench);
    let server = Running::start(server.arg("--server"));
    let mut client = fabric.on("a", &bench);
    let client = Running::start(client.args(["--client", "--size", "1M", "--seconds", "20"]));
    sleep_ms(2000);
    fabric.run(&["cut", "0"]);
    fabric.run(&["cut", "1"]);
    for end in [client, server] {
        let (status, text) = end.finish(Duration::from_secs(15));
        assert_eq!(status.code(), Some(1), "{text}");
        assert!(text.contains("THALWEG_DEAD_PEER_MS"), "{text}");
        assert!(text.contains("returned 6"), "a remote error:\n{text}");
    }
}

#[test]
fn a_killed_peer_is_told_at_once() {
    let Some(fabric) = Fabric::up("500,500") else {
        return;
    };
    let Some((server, client)) = fabric.transfer(&["--size", "1M", "--seconds", "30"]) else {
        return;
    };
    sleep_ms(2000);
    server.signal("-KILL");
    let (status, text) = client.finish(Duration::from_secs(5));
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("the peer process is gone"), "{text}");
}

#[test]
fn a_stopped_peer_is_not_a_dead_path() {
    let Some(fabric) = Fabric::up("500,500,500,500") else {
        return;
    };
    let Some((server, client)) = fabric.transfer(&["--size", "1M", "--seconds", "9"]) else {
        return;
    };
    sleep_ms(2000);
    server.signal("-STOP");
    sleep_ms(5000);
    server.signal("-CONT");
    let text = ends_well((server, client));
    assert!(!text.contains("fenced"), "{text}");
}

#[test]
fn sixteen_senders_to_one_receiver_fence_nothing() {
    let Some(fabric) = Fabric::made_of(&["--senders", "16", "--rate", "1000"]) else {
        return;
    };
    let arguments = ["--size", "256K", "--inflight", "8", "--seconds", "5"];
    let start = |k: u16| fabric.transfer_from(&format!("s{k}"), k, &arguments);
    let Some(pairs) = (0..16).map(start).collect::<Option<Vec<_>>>() else {
        return;
    };
    for pair in pairs {
        let text = ends_well(pair);
        // (peer_bench leaves without closing its connections: that breaks them, in the end.)
        assert!(!text.contains("nothing acknowledged"), "{text}");
    }
}

#[test]
fn the_real_nccl_survives_a_cut_path() {
    let Some(fabric) = Fabric::up("500,500,500,500") else {
        return;
    };
    let Some(nccl) = nccl_cpu() else { return };
    let id = std::env::temp_dir().join(format!("thalweg-cut-{}", std::process::id()));
    let _ = std::fs::remove_file(&id);
    let rank = |host: &str, rank: &str| {
        let mut command = fabric.on(host, &nccl);
        command
            .args([
                "--rank", rank, "--ranks", "2", "-b", "4M", "-e", "4M", "-n", "150",
            ])
            .args(["--check-all", "--id-file"])
            .arg(&id);
        Running::start(&mut command)
    };
    let ranks = [rank("a", "0"), rank("b", "1")];
    sleep_ms(2500);
    fabric.run(&["cut", "3"]);
    sleep_ms(2000);
    fabric.run(&["heal", "3"]);
    let [first, second] = ranks;
    let (status, text) = first.finish(Duration::from_secs(100));
    assert!(status.success(), "{status}\n{text}");
    let row = text
        .lines()
        .find(|l| l.trim_start().starts_with("4194304"))
        .expect(&text);
    assert_eq!(row.split_whitespace().last(), Some("0"), "{text}");
    let (status, text) = second.finish(Duration::from_secs(20));
    assert!(status.success(), "{text}");
    let _ = std::fs::remove_file(&id);
}
