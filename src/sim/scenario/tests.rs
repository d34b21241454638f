//! What is refused, and with which words; and that a run is the same whenever it is repeated.

use super::*;
use crate::sim::report::RunReport;

const GOOD: &str = r#"about = "a small one"

[fabric]
kind = "leaf-spine"
leaves = 2
hosts_per_leaf = 4
spines = 2
rate = "100G"
delay = "1us"

[hosts]
paths = 4
chunk = "16K"

[[workload]]
kind = "permutation"
size = "256K"
"#;

fn parse(text: &str) -> Result<Scenario, String> {
    Scenario::parse("a.toml", text, None, &[]).map_err(|error| error.to_string())
}

/// The good scenario with one thing replaced, or with something added at its end.
fn refusal(from: &str, to: &str) -> String {
    let text = if from.is_empty() {
        format!("{GOOD}{to}\n")
    } else {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replacen(from, to, 1)
    };
    parse(&text).expect_err(&text)
}

#[test]
fn a_good_one_is_read() {
    let scenario = parse(GOOD).unwrap();
    assert_eq!(
        (scenario.name.as_str(), scenario.about.as_str()),
        ("a", "a small one")
    );
    assert_eq!(scenario.fabric.topology.hosts(), 8);
    // 4 links of 1 µs and 4 packets of 332 ns there, and back with an acknowledgement.
    assert_eq!(
        scenario.fabric.round_trip,
        Picos(8_000_000 + 4 * 332_000 + 4 * 5_120)
    );
    assert_eq!(scenario.fabric.bdp_packets, 29);
    let queue = scenario.fabric.switch.queue;
    assert_eq!(
        (queue.capacity, queue.mark_low, queue.mark_high),
        (29 * 4150, 6 * 4150, 24 * 4150)
    );
}

/// The queue and the marks of the reference fabric.
#[test]
fn the_default_queue_is_that_of_the_reference() {
    let text = GOOD
        .replace("leaves = 2", "leaves = 8")
        .replace("hosts_per_leaf = 4", "hosts_per_leaf = 16")
        .replace("100G", "400G");
    let queue = parse(&text).unwrap().fabric.switch.queue;
    assert_eq!(
        (queue.capacity, queue.mark_low, queue.mark_high),
        (419_150, 87_150, 336_150)
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn broken_values_name_line_field_and_remedy() {
    for (from, to, expected) in [
        (
            "kind = \"leaf-spine\"",
            "kind = \"leaf-spin\"",
            "a.toml:4: fabric.kind is \"leaf-spin\", which is no kind of fabric; did you mean leaf-spine? known are leaf-spine, fat-tree, rail, multi-plane, file",
        ),
        (
            "rate = \"100G\"",
            "rate = \"0G\"",
            "a.toml:8: fabric.rate is \"0G\", but must be a rate above 0 with its unit, such as \"400G\" or \"100 Gb/s\"",
        ),
        (
            "rate = \"100G\"",
            "rate = 100",
            "a.toml:8: fabric.rate is 100, but must be a rate above 0 with its unit, such as \"400G\" or \"100 Gb/s\"",
        ),
        (
            "rate = \"100G\"\n",
            "",
            "a.toml:3: fabric.rate is missing; add rate = \"400G\"",
        ),
        (
            "delay = \"1us\"",
            "delay = \"1\"",
            "a.toml:9: fabric.delay is \"1\", but must be a time with its unit, such as \"1us\" or \"2.5 ms\"",
        ),
        (
            "leaves = 2",
            "leaves = 0",
            "a.toml:5: fabric.leaves is 0, but must be an integer from 1 to 1048576",
        ),
        (
            "leaves = 2",
            "leafs = 2",
            "a.toml:3: fabric.leaves is missing; add leaves = 8",
        ),
        (
            "leaves = 2\nhosts_per_leaf = 4",
            "leaves = 4096\nhosts_per_leaf = 4096",
            "a.toml:3: [fabric] is impossible: a fabric of 33570816 ports; this simulator counts up to 2^24",
        ),
        (
            "leaves = 2",
            "leaves = 20000",
            "a.toml:4: fabric.kind makes 20002 switches, 20000 of them with hosts: more than this simulator can route between; choose a smaller fabric",
        ),
        (
            "spines = 2",
            "spines = 2\nrouting_ = \"hash\"",
            "a.toml:8: fabric.routing_ is not a field; did you mean routing?",
        ),
        (
            "spines = 2",
            "",
            "a.toml:3: fabric.spines is missing; add spines = 16 or oversubscription = \"2:1\"",
        ),
        (
            "spines = 2",
            "oversubscription = \"3:1\"",
            "a.toml:7: fabric.oversubscription is \"3:1\", which takes 1.33 spines; choose one that takes a whole number",
        ),
        (
            "spines = 2",
            "oversubscription = \"3\"",
            "a.toml:7: fabric.oversubscription is \"3\", but must be a ratio such as \"2:1\"",
        ),
        (
            "spines = 2",
            "spines = 2\nqueue = \"100\"",
            "a.toml:3: fabric.queue is 100 bytes, but must hold a packet of 4150",
        ),
        (
            "spines = 2",
            "spines = 2\nqueue = \"2 apples\"",
            "a.toml:8: fabric.queue is \"2 apples\", but must be a size, such as \"1 BDP\", \"101 packets\" or \"256 KiB\"",
        ),
        (
            "spines = 2",
            "spines = 2\necn = { low = \"2 BDP\", high = \"1 BDP\" }",
            "a.toml:8: fabric.ecn has low 240700 above high 120350 bytes; exchange them",
        ),
        (
            "spines = 2",
            "spines = 2\npause = { on = \"1K\", off = \"2K\" }",
            "a.toml:8: fabric.pause has off 2048 above on 1024 bytes; exchange them",
        ),
        (
            "spines = 2",
            "spines = 2\noverflow = \"crash\"",
            "a.toml:8: fabric.overflow is \"crash\", which is no way to treat a full queue; known are trim, drop",
        ),
        (
            "paths = 4",
            "paths = 65",
            "a.toml:12: hosts.paths is 65, but must be an integer from 1 to 64",
        ),
        (
            "chunk = \"16K\"",
            "chunk = 1000",
            "a.toml:13: hosts.chunk is 1000, but must be a multiple of 128 bytes from 1 KiB to 16 MiB",
        ),
        (
            "chunk = \"16K\"",
            "controller = \"delai\"",
            "a.toml:13: hosts.controller is \"delai\", which is no controller; did you mean delay? known are delay, fixed, nscc, power, timely",
        ),
        (
            "chunk = \"16K\"",
            "selector = \"best\"",
            "a.toml:13: hosts.selector is \"best\", which is no selector; known are least-outstanding, weighted, power-of-two, adaptive, round-robin, hash",
        ),
        (
            "chunk = \"16K\"",
            "kind = \"reference\"\ntransport = \"nsc\"",
            "a.toml:14: hosts.transport is \"nsc\", which is no transport; did you mean nscc? known are nscc, rccc, nscc+rccc, constant, swift, theta-powertcp, timely, dcqcn",
        ),
        (
            "size = \"256K\"",
            "size = 0",
            "a.toml:17: workload[0].size is 0, but must be a size above 0, such as 2000000, \"2MB\" or \"64 KiB\"",
        ),
        (
            "size = \"256K\"",
            "",
            "a.toml:15: workload[0].size is missing; add size = \"2MB\"",
        ),
        (
            "size = \"256K\"",
            "size = \"2GiB\"",
            "a.toml:15: workload[0] (permutation) has a message of 2147483648 bytes, but the engine's messages are at most 1 GiB; split it",
        ),
        (
            "chunk = \"16K\"\n\n[[workload]]\nkind = \"permutation\"\nsize = \"256K\"",
            "chunk = \"1K\"\n\n[[workload]]\nkind = \"permutation\"\nsize = \"1GiB\"",
            "a.toml:15: workload[0] (permutation) has a message of 1048576 chunks, but an immediate names at most 131072; set hosts.chunk to at least 8192",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"permutation\"\nhosts = \"0-8\"",
            "a.toml:17: workload[0].hosts names host 8, but the fabric has hosts 0 to 7",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"permutation\"\nhosts = \"0-3,2\"",
            "a.toml:17: workload[0].hosts names host 2 twice; name each once",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"permutation\"\nhosts = [9]",
            "a.toml:17: workload[0].hosts[0] names host 9, but the fabric has hosts 0 to 7",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"permutation\"\nhosts = 3",
            "a.toml:15: this workload has one host; it needs at least 2",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"permutation\"\nclass = \"urgent\"",
            "a.toml:17: workload[0].class is \"urgent\", which is no class; known are high, bulk",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"ring-all-reduce\"\ngroup = 3",
            "a.toml:17: workload[0].group is 3, but must be a divisor of the 8 hosts",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"incast\"\nsenders = 8",
            "a.toml:17: workload[0].senders is 8, but must be an integer from 1 to 7",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"kv\"\nto = 0",
            "a.toml:17: workload[0].to is host 0, which is one of the senders; name another",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"kv\"\nhosts = 0\nto = 1\ncount = 5000",
            "a.toml:15: workload[0] (kv) has more than 4096 messages from host 0 to host 1, which is what an immediate can name on one link; send fewer, larger ones",
        ),
        (
            "kind = \"permutation\"",
            "kind = \"cm\"\nfile = \"x.cm\"",
            "a.toml:17: workload[0].file is \"x.cm\", which cannot be read here: a shipped scenario names no files",
        ),
        (
            "[[workload]]\nkind = \"permutation\"\nsize = \"256K\"",
            "",
            "a.toml: there are 0 workloads, but must be 1 to 64; add [[workload]] with kind = \"permutation\"",
        ),
        (
            "[hosts]",
            "[host]",
            "a.toml:11: host is not a field; did you mean hosts?",
        ),
        (
            "about = \"a small one\"",
            "about = 'a",
            "a.toml:1: not valid TOML: invalid literal string, expected `'`",
        ),
        (
            "",
            "[run]\nseeds = 0",
            "a.toml:19: run.seeds is 0, but must be an integer from 1 to 10000",
        ),
        (
            "",
            "[run]\ndeadline = \"0\"",
            "a.toml:19: run.deadline is \"0\", but must be a time above 0 with its unit, such as \"1us\" or \"2.5 ms\"",
        ),
        (
            "",
            "[[fault]]\nkind = \"link-down\"\nlink = \"leaf 0 -> spine 2\"",
            "a.toml:20: fault[0].link is \"leaf 0 -> spine 2\", but no link joins these; there are leaf 0 to leaf 1, spine 0 to spine 1 and host 0 to host 7",
        ),
        (
            "",
            "[[fault]]\nkind = \"link-down\"\nlink = \"leaf 0\"",
            "a.toml:20: fault[0].link is \"leaf 0\", but must be two names, such as \"leaf 0 -> spine 3\" or \"host 5 -> leaf *\"",
        ),
        (
            "",
            "[[fault]]\nkind = \"link-slow\"\nlink = \"leaf 0 -> spine 0\"\nrate = \"0%\"",
            "a.toml:21: fault[0].rate is \"0%\", but must be above 0; for a dead link there is kind = \"link-down\"",
        ),
        (
            "",
            "[[fault]]\nkind = \"link-lossy\"\nlink = \"leaf 0 -> spine 0\"\nloss = \"2\"",
            "a.toml:21: fault[0].loss is \"2\", but must be a share from 0 to 100 %, such as \"0.01%\" or \"100 ppm\"",
        ),
        (
            "",
            "[[fault]]\nkind = \"switch-dead\"\nswitch = \"core 0\"",
            "a.toml:20: fault[0].switch is \"core 0\", but there is no such switch; there are leaf 0 to leaf 1, spine 0 to spine 1",
        ),
        (
            "",
            "[[fault]]\nkind = \"pause-storm\"\nhost = \"host 8\"",
            "a.toml:20: fault[0].host names host 8, but the fabric has hosts 0 to 7",
        ),
        (
            "",
            "[[fault]]\nkind = \"link-down\"\nlink = \"leaf 0 -> spine 0\"\nat = \"5us\"\nuntil = \"5us\"",
            "a.toml:22: fault[0].until is 5 µs, but must be after at, which is 5 µs",
        ),
        (
            "",
            "[[fault]]\nkind = \"link-flapping\"\nlink = \"leaf 0 -> spine 0\"\nperiod = \"1us\"\ndown = \"500ns\"",
            "a.toml:21: fault[0].period makes more than 10000 flaps; make it longer, or set until",
        ),
    ] {
        assert_eq!(refusal(from, to), expected);
    }
}

#[test]
fn a_workload_that_would_fill_the_memory_is_refused() {
    let text = GOOD
        .replace("hosts_per_leaf = 4", "hosts_per_leaf = 64")
        .replace(
            "kind = \"permutation\"",
            "kind = \"ring-all-reduce\"\nsteps = 1000000",
        );
    assert_eq!(
        parse(&text).unwrap_err(),
        "a.toml:16: workload[0].kind makes 128000000 flows, but at most 20000000 fit; take fewer hosts or steps"
    );
}

#[test]
fn references_run_beside_the_engine() {
    let text = GOOD
        .replace("paths = 4", "kind = \"reference\"\ntransport = \"nscc\"")
        .replace("chunk = \"16K\"\n", "");
    let report = parse(&text).unwrap().play(1, Detail::Figures, &mut |_| {});
    assert!(report.is_finished(), "{}", report.stuck_text());
    assert!(report.total.ratio >= 1.0, "{}", report.total.ratio);
    assert_eq!(report.hosts.unwrap().longest_stall_ps, None);
}

#[test]
fn the_flow_level_refuses_what_it_does_not_show() {
    const FLOW: &str = "[run]\nlevel = \"flow\"\n";
    for (text, expected) in [
        (
            "[run]\nlevel = \"flows\"\n",
            "a.toml:19: run.level is \"flows\", which is no level; did you mean flow? known are packet, flow",
        ),
        (
            &format!(
                "{FLOW}[[fault]]\nkind = \"link-lossy\"\nlink = \"host 1 -> *\"\nloss = \"1%\"\n"
            ),
            "a.toml:21: fault[0].kind is \"link-lossy\", which run.level = \"flow\" does not show; remove it or run.level",
        ),
        (
            &format!(
                "{FLOW}[[fault]]\nkind = \"link-down\"\nlink = \"leaf 0 -> spine 0\"\nreroute_after = \"1us\"\n"
            ),
            "a.toml:23: fault[0].reroute_after is not known to run.level = \"flow\", where the ways change at once; remove it",
        ),
    ] {
        assert_eq!(refusal("", text), expected);
    }
    let windows = GOOD.replace("paths = 4", "controller = \"fixed\"");
    assert_eq!(
        parse(&format!("{windows}{FLOW}")).unwrap_err(),
        "a.toml:12: hosts.controller is not known to run.level = \"flow\", where all senders have their fair share at once; choose another or remove run.level"
    );
}

#[test]
fn flows_share_links_and_go_round_what_is_down() {
    // All hosts of one leaf to those of the other, over two spines.
    let pair = |from| format!("{{ from = {from}, to = {}, size = \"256K\" }}", from + 4);
    let pairs = (0..4).map(pair).collect::<Vec<_>>().join(", ");
    let all = GOOD
        .replace("\"permutation\"", "\"flows\"")
        .replace("size = \"256K\"", &format!("flows = [{pairs}]"));
    let play = |extra: &str| {
        let scenario = parse(&format!("{all}{extra}")).unwrap();
        scenario.play(1, Detail::Pictures, &mut |_| {})
    };
    let packets = play("");
    let flows = play("[run]\nlevel = \"flow\"\n");
    assert!(flows.is_finished() && flows.fabric.is_none());
    let (flow_mean, packet_mean) = (flows.total.mean_ps, packets.total.mean_ps);
    assert!(
        flow_mean.abs_diff(packet_mean) < packet_mean / 5,
        "{flow_mean} {packet_mean}"
    );
    // Of the two ways between the leaves one is left.
    let cut = "[[fault]]\nkind = \"link-down\"\nlink = \"leaf 0 -> spine 0\"\nat = \"5us\"\n";
    let slow = play(&format!("{cut}[run]\nlevel = \"flow\"\n"));
    assert!(slow.is_finished());
    let (slowest, before) = (slow.total.max_ps, flows.total.max_ps);
    assert!(slowest > before * 5 / 4, "{slowest} {before}");
    // No way at all, for a while and for ever.
    let cut = cut.replace("spine 0", "spine *");
    let healed = play(&format!(
        "{cut}until = \"100us\"\n[run]\nlevel = \"flow\"\n"
    ));
    assert!(healed.is_finished() && healed.total.max_ps > 100_000_000);
    let stuck = play(&format!("{cut}[run]\nlevel = \"flow\"\n"));
    assert_eq!(stuck.ended, "stuck");
    assert!(
        stuck.stuck_text().contains("of 262144 bytes arrived"),
        "{}",
        stuck.stuck_text()
    );
}

#[test]
fn an_odd_fat_tree_is_impossible() {
    let text = "[fabric]\nkind = \"fat-tree\"\nk = 7\nrate = \"1G\"\ndelay = \"0\"\n";
    assert_eq!(
        parse(text).unwrap_err(),
        "a.toml:3: fabric.k is 7, but must be even"
    );
}

#[test]
fn circles_are_named() {
    let flows = "kind = \"flows\"\nflows = [\n{ from = 0, to = 1, size = 1, after = 2 },\n\
        { from = 1, to = 2, size = 1, after = 0 },\n{ from = 2, to = 3, size = 1, after = [1] },\n]";
    let text = GOOD.replace("kind = \"permutation\"\nsize = \"256K\"", flows);
    assert_eq!(
        parse(&text).unwrap_err(),
        "a.toml:15: workload[0] (flows) waits in a circle: flows 1 before 2 before 0 before 1; remove one of these waits"
    );
    let wrong = text.replace("after = 2", "after = 3");
    assert_eq!(
        parse(&wrong).unwrap_err(),
        "a.toml:18: workload[0].flows[0].after is 3, but must be the number of a flow, from 0 to 2"
    );
    let wrong = text.replace("from = 2, to = 3", "from = 3, to = 3");
    assert_eq!(
        parse(&wrong).unwrap_err(),
        "a.toml:20: workload[0].flows[2].to is host 3, which is also the sender; name another"
    );
}

#[test]
fn a_field_can_be_set_from_outside() {
    let set = |field: &str, value: &str| {
        let item = Override {
            field: field.to_owned(),
            value: value.to_owned(),
        };
        Scenario::parse("a.toml", GOOD, None, &[item]).map_err(|error| error.to_string())
    };
    assert_eq!(
        set("fabric.leaves", "3").unwrap().fabric.topology.hosts(),
        12
    );
    assert_eq!(
        set("workload.0.size", "1MB").unwrap().workload(1).flows()[0].bytes,
        1_000_000
    );
    assert_eq!(
        set("workload.permutation.size", "1K")
            .unwrap()
            .workload(1)
            .flows()[0]
            .bytes,
        1024
    );
    assert_eq!(set("run.seeds", "7").unwrap().seeds().count(), 7);
    for (field, value, expected) in [
        (
            "hosts.paths",
            "99",
            "a.toml as set on the command line: hosts.paths is 99, but must be an integer from 1 to 64",
        ),
        (
            "hosts.path",
            "9",
            "a.toml as set on the command line: hosts.path is not a field; did you mean paths?",
        ),
        (
            "workload.7.size",
            "9",
            "a.toml as set on the command line: workload.7.size: there is no \"7\" here, but 1 numbered from 0; name one by its number or its name",
        ),
        (
            "hosts.paths.x",
            "9",
            "a.toml as set on the command line: hosts.paths.x: what \"x\" belongs to is an integer, not a table",
        ),
        (
            "hosts..x",
            "9",
            "a.toml as set on the command line: hosts..x names no field",
        ),
    ] {
        assert_eq!(set(field, value).unwrap_err(), expected);
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let folder =
            std::env::temp_dir().join(format!("thalweg-scenario-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in files {
            std::fs::write(folder.join(file), text).unwrap();
        }
        Self(folder)
    }

    fn parse(&self, text: &str) -> Result<Scenario, String> {
        Scenario::parse("a.toml", text, Some(self.0.clone()), &[])
            .map_err(|error| error.to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const EXPLICIT: &str = r#"rate = "100G"
delay = "1us"

[[switch]]
name = "tor 0"
[[switch]]
name = "tor 1"

[[host]]
links = "tor 0"
count = 2
[[host]]
links = ["tor 1"]
rate = "50G"

[[link]]
between = ["tor 0", "tor 1"]
"#;

#[test]
fn networks_and_workloads_come_from_files() {
    let folder = Folder::new(
        "files",
        &[
            ("net.toml", EXPLICIT),
            (
                "flows.cm",
                "Nodes 3\nConnections 1\n0->2 start 1 size 5000\n",
            ),
            ("cut.cm", "Nodes 3\nConnections 2\n0->2 start 1 size 5000\n"),
            (
                "trace.csv",
                "start_us,from,to,bytes,after\n0,0,1,100,\n2.5,1,2,200,0\n",
            ),
            ("bad.csv", "start_us,from,to,bytes\n0,0,1,100\n1,0,7,100\n"),
            ("short.csv", "start_us,from,to,bytes\n0,0\n"),
        ],
    );
    let text = |workload: &str| {
        format!("[fabric]\nkind = \"file\"\nfile = \"net.toml\"\n\n[[workload]]\n{workload}\n")
    };
    let scenario = folder
        .parse(&text("kind = \"cm\"\nfile = \"flows.cm\""))
        .unwrap();
    assert_eq!(scenario.fabric.topology.hosts(), 3);
    assert_eq!(scenario.workload(1).flows()[0].start, Picos::from_micros(1));
    let scenario = folder
        .parse(&text(
            "kind = \"trace\"\nfile = \"trace.csv\"\nstart = \"1us\"",
        ))
        .unwrap();
    let starts: Vec<Picos> = scenario
        .workload(1)
        .flows()
        .iter()
        .map(|flow| flow.start)
        .collect();
    assert_eq!(
        starts,
        [Picos::from_micros(1), Picos::from_nanos(2500)],
        "a start, and a delay"
    );
    for (workload, expected) in [
        (
            "kind = \"cm\"\nfile = \"cut.cm\"",
            "cut.cm:3: Connections says 2, but 1 follow: the file is truncated, or the number is wrong",
        ),
        (
            "kind = \"trace\"\nfile = \"bad.csv\"",
            "bad.csv:3: to is 7, but the fabric has hosts 0 to 2",
        ),
        (
            "kind = \"trace\"\nfile = \"short.csv\"",
            "short.csv:2: 2 columns, but the head has 4; the file may be truncated",
        ),
        (
            "kind = \"trace\"\nfile = \"none.csv\"",
            "a.toml:7: workload[0].file is \"none.csv\", which cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(folder.parse(&text(workload)).unwrap_err(), expected);
    }
}

#[test]
fn broken_networks_are_refused_in_their_own_file() {
    for (from, to, expected) in [
        (
            "links = \"tor 0\"",
            "links = \"tor 9\"",
            "net.toml:10: host[0].links is \"tor 9\", but there is no such switch; add it as [[switch]]",
        ),
        (
            "name = \"tor 1\"",
            "name = \"tor 0\"",
            "net.toml:7: switch[1].name is \"tor 0\", which is there already; name them apart",
        ),
        (
            "rate = \"100G\"",
            "",
            "net.toml:9: the link has no rate; add rate here or at the top of the file",
        ),
        (
            "between = [\"tor 0\", \"tor 1\"]",
            "between = [\"tor 0\"]",
            "net.toml:17: link[0].between is an array, but must be the names of two switches",
        ),
        (
            "[[link]]\nbetween = [\"tor 0\", \"tor 1\"]",
            "",
            "a.toml:5: workload[0] (flows) sends from host 0 to host 2, but no way leads there from each of its ports; connect them",
        ),
    ] {
        assert!(EXPLICIT.contains(from));
        let folder = Folder::new("broken", &[("net.toml", &EXPLICIT.replacen(from, to, 1))]);
        let text = "[fabric]\nkind = \"file\"\nfile = \"net.toml\"\n\n[[workload]]\nkind = \"flows\"\nflows = [{ from = 0, to = 2, size = 5 }]\n";
        assert_eq!(folder.parse(text).unwrap_err(), expected);
    }
}

#[test]
fn every_shipped_scenario_is_good_and_says_what_it_shows() {
    for shipped in SHIPPED {
        let scenario = Scenario::load(shipped.name, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(!scenario.about.is_empty(), "{}", shipped.name);
        assert_eq!(scenario.name, shipped.name);
        assert!(
            shipped.text.starts_with("# "),
            "{} begins with what it shows",
            shipped.name
        );
    }
}

fn small(extra: &str) -> Scenario {
    parse(&format!("{GOOD}{extra}")).unwrap()
}

#[test]
fn a_run_gives_the_same_bytes_every_time() {
    let scenario = small("");
    let tell = |seed| format!("{:?}", scenario.play(seed, Detail::Pictures, &mut |_| {}));
    assert_eq!(tell(1), tell(1));
    assert_ne!(tell(1), tell(2));
}

/// Whoever looks on changes nothing.
#[test]
fn looking_does_not_disturb() {
    let often = small("[run]\nsample = \"10ns\"\n").play(1, Detail::Pictures, &mut |_| {});
    let seldom = small("[run]\nsample = \"1s\"\n").play(1, Detail::Pictures, &mut |_| {});
    let none = small("").play(1, Detail::Figures, &mut |_| {});
    for other in [&seldom, &none] {
        assert_eq!(often.total.mean_ps, other.total.mean_ps);
        assert_eq!(often.total.max_ps, other.total.max_ps);
        assert_eq!(often.fabric.unwrap().hops, other.fabric.unwrap().hops);
    }
    let samples = |report: &RunReport| {
        let pictures = report.pictures.as_ref();
        let recorder = pictures.and_then(|pictures| pictures.recorder.as_ref());
        recorder.map(|recorder| recorder.queued_bytes().len())
    };
    assert!(samples(&often) > Some(100));
    assert_eq!((samples(&seldom), samples(&none)), (Some(0), None));
}

#[test]
fn floors_are_what_they_are_by_hand() {
    let floor = |name: &str, overrides: &[(&str, &str)]| {
        let overrides: Vec<Override> = overrides
            .iter()
            .map(|(field, value)| Override {
                field: (*field).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        let scenario = Scenario::load(name, &overrides).unwrap();
        let report = scenario.play(1, Detail::Figures, &mut |_| {});
        report.total.floor_ps
    };
    // 2 MB in 489 packets with 64 bytes of headers each, at 20 ps a byte; the last of them, of
    // 1216 bytes, over three more links; four microseconds there and four back, and a header.
    let one = (2_000_000 + 489 * 64) * 20;
    let way = 3 * 1216 * 20 + 4_000_000 + 4_000_000 + 4 * 64 * 20;
    assert_eq!(floor("hello", &[]), one + way);
    // An incast takes that many times as long on its last link.
    let senders = [("workload.0.senders", "8")];
    assert_eq!(floor("incast-32", &senders), 8 * one + way);
    // Links that are slow from the start to the end count as what they are.
    let slow = floor("slow-spine-links", &[]);
    assert!(slow > floor("permutation-16mb", &[]), "{slow}");
}

#[test]
fn nothing_is_faster_than_its_floor() {
    for kind in [
        "kind = \"permutation\"",
        "kind = \"incast\"",
        "kind = \"all-to-all\"\nwindow = 2",
        "kind = \"ring-all-reduce\"\ngroup = 4",
        "kind = \"tree-all-reduce\"\nslices = 3",
        "kind = \"pipeline\"\nstages = 4\ncompute = \"3us\"",
        "kind = \"moe\"\nlayers = 2\nskew = 3",
        "kind = \"kv\"\nhosts = \"0-3\"\nto = \"4-7\"\ncount = 3",
    ] {
        let text = GOOD.replace("kind = \"permutation\"", kind);
        let report = parse(&text).unwrap().play(1, Detail::Pictures, &mut |_| {});
        assert!(report.is_finished(), "{kind}: {}", report.stuck_text());
        let ratio = report.total.ratio;
        assert!((1.0..3.0).contains(&ratio), "{kind}: {ratio}");
        assert_eq!(report.hosts.unwrap().fences, 0);
    }
}

/// A receive belongs to its flow, not to whichever of the link's flows starts first.
#[test]
fn flows_of_one_link_may_start_in_any_order() {
    let flows = "flows = [{ from = 0, to = 5, size = 1000, start = \"300us\" }, \
                 { from = 0, to = 5, size = \"1MB\" }]";
    let text = GOOD
        .replace("kind = \"permutation\"", "kind = \"flows\"")
        .replace("size = \"256K\"", flows);
    let report = parse(&text).unwrap().play(1, Detail::Figures, &mut |_| {});
    assert!(report.is_finished(), "{}", report.stuck_text());
    let total = report.total;
    // 1 MB at 100 Gb/s, and a kilobyte with hardly more than a round trip.
    assert!((80..100).contains(&(total.max_ps / 1_000_000)), "{total:?}");
    assert!(total.p50_ps < 20_000_000, "{total:?}");
}

#[test]
fn what_cannot_finish_says_what_is_stuck() {
    let scenario = small(
        "[[fault]]\nkind = \"link-down\"\nlink = \"host 3 -> leaf *\"\nat = \"5us\"\n[run]\ndeadline = \"1ms\"\n",
    );
    let report = scenario.play(1, Detail::Pictures, &mut |_| {});
    assert!(!report.is_finished());
    let text = report.stuck_text();
    assert!(text.contains("out of time at 100"), "{text}");
    assert!(text.contains("2 of 8 flows have not ended"), "{text}");
    assert!(
        text.contains("permutation: flow ") && text.contains("host 3 -> host "),
        "{text}"
    );
    // The link is cut when the first chunks are through.
    let came = text
        .lines()
        .filter_map(|line| line.split_once("started at 0 ns, "));
    let came: Vec<&str> = came.map(|(_, bytes)| bytes).collect();
    let whole = " of 262144 bytes arrived";
    assert!(came.iter().all(|bytes| bytes.ends_with(whole)), "{text}");
    assert!(came.contains(&"32768 of 262144 bytes arrived"), "{text}");
}

/// The small ones of the shipped scenarios, one with each kind of trouble.
#[test]
fn shipped_scenarios_run_to_their_end() {
    for name in ["hello", "permutation-2mb", "incast-32-pfc", "plane-lost"] {
        let scenario = Scenario::load(name, &[]).unwrap();
        let report = scenario.play(1, Detail::Figures, &mut |_| {});
        assert!(report.is_finished(), "{}", report.stuck_text());
        assert!(report.total.ratio >= 1.0, "{name}: {}", report.total.ratio);
    }
}

/// Ports at random, and a link at a tenth: whoever's path leads there dials until it has another.
#[test]
fn a_path_that_stays_slow_gets_another_port() {
    let play = |rehash: bool| {
        let hosts = format!("ways = \"unknown\"\nrehash = {rehash}\npaths = 4");
        let text = GOOD
            .replace("spines = 2", "spines = 8")
            .replace("paths = 4", &hosts)
            .replace("256K", "64MB");
        let fault = "[[fault]]\nkind = \"link-slow\"\nlink = \"leaf 0 -> spine 0\"\nrate = \"10%\"";
        let scenario = parse(&format!("{text}\n{fault}\n")).unwrap();
        let reports = [1, 2, 3].map(|seed| scenario.play(seed, Detail::Pictures, &mut |_| {}));
        let sum = |figure: fn(&RunReport) -> u64| reports.iter().map(figure).sum::<u64>();
        (
            sum(|r| r.hosts.unwrap().rehashes),
            sum(|r| r.total.makespan_ps),
        )
    };
    let (none, slower) = play(false);
    let (some, faster) = play(true);
    assert_eq!(none, 0);
    assert!(some > 0);
    assert!(faster < slower, "{faster} {slower}");
}
