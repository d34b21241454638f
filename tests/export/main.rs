//! `thalweg export`: what a scrape is answered, what strangers are, and the dashboard; and, where
//! `make lab-tests` has fetched it, what a real Prometheus makes of all that.

#![allow(clippy::unwrap_used, reason = "a test")]

mod dashboard;
mod prometheus;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use thalweg::clock::Timestamp;
use thalweg::export::{self, Scrape};
use thalweg::telemetry::reader::Process;
use thalweg::telemetry::schema::{
    EXPORTED, LinkCounter, LinkGauge, PathCounter, PathGauge, PathHistogram, PortGauge, metrics,
};
use thalweg::telemetry::sources::switches::{SwitchValue, Value};
use thalweg::telemetry::sources::{HostNow, HostReading, PortNow, Source, SourceTimes};
use thalweg::telemetry::values::Values;
use thalweg::telemetry::{ConnectionRecorder, LinkRecorder, PathRecorder, Recorder, Role};
use thalweg::units::Nanos;

/// What has not come by then never will.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("thalweg-export-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn scrape(&self) -> Scrape {
        let (scrape, lines) = Scrape::of(&self.0).unwrap();
        assert_eq!(lines, [""; 0]);
        scrape
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A link with two paths, of which one is up, and a connection, that have recorded something else for each metric.
fn recorded(
    recorder: &Recorder,
    peer: &str,
) -> (LinkRecorder, [PathRecorder; 2], ConnectionRecorder) {
    let link = recorder.link(Role::Sender, peer, "eth0").unwrap();
    for (number, &counter) in LinkCounter::ALL.iter().enumerate() {
        link.count(counter, 1001 + number as u64);
    }
    for (number, &gauge) in LinkGauge::ALL.iter().enumerate() {
        link.set(gauge, 2001 + number as u64);
    }
    let paths = [0, 1].map(|number| link.path(number).unwrap());
    let up = &paths[1];
    up.name("10.86.0.1:40001->10.86.0.2:7000");
    for (number, &counter) in PathCounter::ALL.iter().enumerate() {
        up.count(counter, 3001 + number as u64);
    }
    for (number, &gauge) in PathGauge::ALL.iter().enumerate() {
        up.set(gauge, 4001 + number as u64);
    }
    for &histogram in PathHistogram::ALL {
        for nanos in [900, 1023, 1024, 150_000, 160_000, 3_000_000_000, 1 << 40] {
            up.observe(histogram, nanos);
        }
    }
    let connection = link.connection(5, "collective").unwrap();
    for (bytes, micros) in [(4096, 90), (1 << 20, 700)] {
        connection.requested();
        connection.ended(bytes, Nanos(micros * 1000));
    }
    connection.requested();
    connection.failed();
    (link, paths, connection)
}

/// A host with a port that says something for each metric, and one that says little.
fn host() -> HostNow {
    let mut host = HostNow::default();
    host.host.counters = Values::new(|counter| Some(5001 + counter as u64));
    host.host.gauges = Values::new(|gauge| Some(6001 + gauge as u64));
    let full = PortNow {
        name: "mlx5_0:1".into(),
        interface: Some("eth0".into()),
        device: Some(("mlx5_0".into(), 1)),
        driver: Some("mlx5_core".into()),
        counters: Values::new(|counter| Some(7001 + counter as u64)),
        gauges: Values::new(|gauge| Some(8001 + gauge as u64)),
        priorities: vec![
            Values::new(|counter| Some(9001 + counter as u64)),
            Values::default(),
            Values::new(|counter| Some(9201 + counter as u64)),
        ],
        lanes: vec![
            Values::new(|gauge| Some(10_001 + gauge as u64)),
            Values::new(|gauge| Some(10_101 + gauge as u64)),
        ],
        ages_ns: SourceTimes::new(|source| Some(1_000_000 * (source as u64 + 1))),
    };
    let mut little = PortNow {
        name: "lo".into(),
        interface: Some("lo".into()),
        ..PortNow::default()
    };
    little.gauges[PortGauge::LinkUp] = Some(0);
    little.ages_ns[Source::Interface] = Some(0);
    host.ports = vec![full, little];
    host
}

/// Two series of a switch that calls things as it likes.
fn switches() -> Vec<SwitchValue> {
    let attributes = [("host", "leaf1"), ("a,b", "c=\\\"d\n")];
    let owned = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let octets = SwitchValue {
        metric: "octets".into(),
        attributes: owned.into(),
        unit: "By".into(),
        is_counter: true,
        value: Value::Integer(-9_007_199_254_740_993),
        age_ns: 1_500_000_000,
        observed_wall_ns: 1,
    };
    let depth = SwitchValue {
        metric: "queue\"depth".into(),
        attributes: std::collections::BTreeMap::new(),
        value: Value::Float(0.5),
        ..octets.clone()
    };
    vec![octets, depth]
}

/// `thalweg export`, running until it is dropped.
struct Exporter {
    child: Child,
    address: SocketAddr,
    /// Lines that it prints, but for that with its address.
    lines: Receiver<String>,
}

impl Exporter {
    fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    fn start_with(folder: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_thalweg"))
            .args(["export", "--listen", "127.0.0.1:0", "--folder"])
            .arg(folder)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = Vec::new();
        let address = loop {
            let line = lines.next().unwrap().unwrap();
            match line.split_once("http://") {
                Some((_, address)) => break address.to_owned(),
                None => before.push(line),
            }
        };
        let address = address.strip_suffix("/metrics").unwrap().parse().unwrap();
        let (said, lines_out) = mpsc::channel();
        for line in before {
            said.send(line).unwrap();
        }
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        Self {
            child,
            address,
            lines: lines_out,
        }
    }

    /// What these bytes are answered.
    fn answer(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Status, headers and text of a page.
    fn get(&self, path: &str) -> (u16, String, String) {
        let answer = self.answer(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), text.to_owned())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn once(folder: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thalweg"))
        .args(["export", "--folder"])
        .arg(folder)
        .args(more)
        .output()
        .unwrap()
}

/// The same whoever runs it, and when.
fn steady(mut scrape: Scrape) -> Scrape {
    for (number, recorded) in (1..).zip(&mut scrape.processes) {
        recorded.segment = format!("{number:016x}");
        recorded.process.pid = 4240 + number;
        "train".clone_into(&mut recorded.process.program);
        recorded.process.started_wall_ns = 1_700_000_000_250_000_000;
        recorded.process.age_ns = 7_000_000;
    }
    scrape.version = "0.1.0";
    scrape.host = Some(host());
    scrape.switches = switches();
    scrape
}

/// All names, kinds, labels and meanings. `THALWEG_BLESS=1 cargo test --test export` writes it anew: look
/// at what has changed, since dashboards and alerts of others go by it.
#[test]
fn what_is_told_is_what_was_told() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let _kept = recorded(&recorder, "10.86.0.2:7000");
    let now = export::prometheus::text(&steady(folder.scrape()), true);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/export.txt");
    if std::env::var_os("THALWEG_BLESS").is_some() {
        fs::write(&path, &now).unwrap();
        return;
    }
    let before = fs::read_to_string(&path).unwrap();
    let changed = |(before, now): &(&str, &str)| before != now;
    let first = before.lines().zip(now.lines()).find(changed);
    assert!(before == now, "{}: {first:?}", path.display());
}

#[test]
fn all_of_the_schema_is_told() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let _kept = recorded(&recorder, "peer");
    let mut scrape = folder.scrape();
    scrape.host = Some(host());
    scrape.switches = switches();
    let text = export::prometheus::text(&scrape, true);
    let told = metrics().map(|metric| (metric.prometheus(), metric.kind.to_string()));
    let exported = EXPORTED.map(|metric| (metric.name.to_owned(), "gauge".to_owned()));
    for (name, kind) in told.chain(exported) {
        let line = format!("# TYPE {name} {kind}\n");
        assert_eq!(text.matches(&line).count(), 1, "{line}");
        let is_sample = |line: &&str| line.strip_prefix(&name).is_some_and(is_value);
        assert!(text.lines().any(|line| is_sample(&line)), "{name}");
    }
    for line in text.lines() {
        assert_eq!(
            text.lines().filter(|other| *other == line).count(),
            1,
            "{line}"
        );
    }
}

/// What follows the name of a family in a sample.
fn is_value(rest: &str) -> bool {
    let rest = rest.strip_prefix("_bucket").unwrap_or(rest);
    rest.starts_with(['{', ' '])
}

#[test]
fn connections_are_told_of_where_they_are_asked_for() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let _kept = recorded(&recorder, "peer");
    let told = |more: &[&str]| String::from_utf8(once(&folder.0, more).stdout).unwrap();
    let (without, with) = (told(&["--once"]), told(&["--once", "--connections"]));
    assert!(!without.contains("thalweg_connection"), "{without}");
    for (text, scope) in [(&without, "device=\"eth0\""), (&with, "connection=\"5\"")] {
        let name = if scope.starts_with('d') {
            "device"
        } else {
            "connection"
        };
        let samples = text.lines().filter(|line| {
            line.starts_with(&format!("thalweg_{name}_messages_total{{"))
                && line.contains(scope)
                && line.ends_with("} 2")
        });
        assert_eq!(samples.count(), 1, "{text}");
    }
}

#[test]
fn what_a_port_does_not_say_is_no_sample() {
    let folder = Folder::new();
    let mut scrape = folder.scrape();
    let mut all = host();
    all.ports.remove(0);
    all.host = HostReading::default();
    all.ports[0].name = "a\"b".into();
    scrape.host = Some(all);
    let text = export::prometheus::text(&scrape, true);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<_> = lines.filter(|line| line.contains("port")).collect();
    let expected = [
        "thalweg_export_unreadable_segments 0",
        r#"thalweg_port_link_up{port="a\"b",interface="lo"} 0"#,
        r#"thalweg_port_age_seconds{port="a\"b",interface="lo",source="interface"} 0"#,
    ];
    assert_eq!(lines, expected);
    assert!(!text.contains("thalweg_host"), "{text}");
}

#[test]
fn this_hosts_ports_are_told_unless_they_are_left_out() {
    let folder = Folder::new();
    let told = |more: &[&str]| String::from_utf8(once(&folder.0, more).stdout).unwrap();
    let text = told(&["--once"]);
    assert!(
        text.contains("thalweg_port_link_up{port=\"lo\",interface=\"lo\"} "),
        "{text}"
    );
    assert!(text.contains("\nthalweg_host_processors "), "{text}");
    let text = told(&["--once", "--no-host"]);
    assert!(
        text.contains("thalweg_build_info") && !text.contains("thalweg_port"),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&told(&["--json"])).unwrap();
    let host: HostNow = serde_json::from_value(json["host"].clone()).unwrap();
    assert!(host.port("lo").is_some(), "{json}");
}

#[test]
fn what_switches_send_is_told_where_that_is_asked_for() {
    let folder = Folder::new();
    let exporter = Exporter::start_with(&folder.0, &["--otlp", "127.0.0.1:0"]);
    let line = exporter.lines.recv_timeout(PATIENCE).unwrap();
    let (_, address) = line.rsplit_once(' ').unwrap();
    let text = |text: &str| AnyValue {
        value: Some(any_value::Value::StringValue(text.into())),
    };
    let point = NumberDataPoint {
        attributes: vec![KeyValue {
            key: "port".into(),
            value: Some(text("Ethernet0")),
            ..KeyValue::default()
        }],
        value: Some(number_data_point::Value::AsInt(11)),
        ..NumberDataPoint::default()
    };
    let data = metric::Data::Gauge(Gauge {
        data_points: vec![point],
    });
    let metric = Metric {
        name: "depth".into(),
        data: Some(data),
        ..Metric::default()
    };
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics {
                metrics: vec![metric],
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        let client = MetricsServiceClient::connect(format!("http://{address}")).await;
        client.unwrap().export(request).await.unwrap();
    });
    let (_, _, text) = exporter.get("/metrics");
    let labels = r#"{metric="depth",attributes="client.address=127.0.0.1,port=Ethernet0"}"#;
    assert!(
        text.contains(&format!("\nthalweg_switch_value{labels} 11\n")),
        "{text}"
    );
    assert!(
        text.contains(&format!("\nthalweg_switch_age_seconds{labels} ")),
        "{text}"
    );
    let taken = once(&folder.0, &["--listen", "127.0.0.1:0", "--otlp", address]);
    let says = String::from_utf8(taken.stderr).unwrap();
    assert!(says.contains("Address already in use"), "{says}");
}

#[test]
fn whatever_a_peer_is_called_stays_in_its_label() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let _kept = recorded(&recorder, "a\"} 1\nb\\");
    let text = export::prometheus::text(&folder.scrape(), true);
    assert!(text.contains(r#"peer="a\"} 1\nb\\","#), "{text}");
}

#[test]
fn of_a_process_that_has_ended_is_told_for_an_hour_that_it_has() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let _kept = recorded(&recorder, "peer");
    let mut scrape = folder.scrape();
    scrape.processes[0].process.is_alive = false;
    let mut told = |age_s: u64| {
        scrape.processes[0].process.age_ns = age_s * 1_000_000_000;
        let text = export::prometheus::text(&scrape, true);
        let lines = text.lines().filter(|line| line.contains("pid="));
        let values = lines.map(|line| line.split([' ', '{']).next().unwrap().to_owned());
        (text.contains("} 0\n"), values.collect::<Vec<_>>())
    };
    let process = ["up", "age_seconds", "start_time_seconds"];
    let process = process.map(|name| format!("thalweg_process_{name}"));
    assert_eq!(told(3600), (true, process.to_vec()));
    assert_eq!(told(3601), (false, Vec::new()));
}

#[test]
fn a_scrape_is_answered_over_http() {
    let folder = Folder::new();
    let exporter = Exporter::start(&folder.0);
    let (status, head, text) = exporter.get("/metrics");
    assert_eq!(status, 200);
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", text.len())));
    assert!(!text.contains("thalweg_process_up"), "{text}");
    // Processes are found that have come meanwhile.
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let _kept = recorded(&recorder, "10.86.0.2:7000");
    let (_, _, text) = exporter.get("/metrics?with=this");
    let sample = text
        .lines()
        .find(|line| line.starts_with("thalweg_link_messages_total{"));
    assert!(sample.unwrap().ends_with("} 1001"), "{sample:?}");
    let (status, head, text) = exporter.get("/nothing");
    assert_eq!((status, text.lines().count()), (404, 1), "{head}");
    let (status, _, text) = exporter.get("/");
    assert!(status == 200 && text.contains("/metrics") && text.lines().count() == 1);
    let answer = exporter.answer(b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"));
}

#[test]
fn strangers_harm_nobody() {
    let folder = Folder::new();
    let exporter = Exporter::start(&folder.0);
    let answer = exporter.answer(b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
    assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\n"));
    // More than is read: what is left does not cost the sender the answer.
    let garbage = vec![0xa5; 60 << 10];
    assert!(
        exporter
            .answer(&garbage)
            .starts_with("HTTP/1.1 400 Bad Request\r\n")
    );
    let endless = format!("GET /{}", "x".repeat(20 << 10));
    assert!(
        exporter
            .answer(endless.as_bytes())
            .starts_with("HTTP/1.1 400 ")
    );
    // Some that say nothing, or half, and one that has gone before it is answered.
    let half = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(exporter.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let _waiting = [
        half(b""),
        half(b"GET /metr"),
        half(b"GET /metrics HTTP/1.1\r\n"),
    ];
    half(b"GET /met").shutdown(Shutdown::Both).unwrap();
    assert_eq!(exporter.get("/metrics").0, 200);
    // Also where they take all threads: in time.
    let _more: Vec<_> = (0..8).map(|_| half(b"GET")).collect();
    assert_eq!(exporter.get("/metrics").0, 200);
}

#[test]
fn files_that_cannot_be_read_are_counted_and_said_once() {
    let folder = Folder::new();
    let (_recorder, _) = Recorder::open(&folder.0).unwrap();
    fs::write(folder.0.join("thalweg-1-words"), "words").unwrap();
    // As one that is gone once it is opened: its process has ended just now.
    std::os::unix::fs::symlink("nowhere", folder.0.join("thalweg-3-gone")).unwrap();
    let exporter = Exporter::start(&folder.0);
    for _ in 0..3 {
        let (_, _, text) = exporter.get("/metrics");
        assert!(
            text.contains("\nthalweg_export_unreadable_segments 1\n"),
            "{text}"
        );
        assert_eq!(text.matches("thalweg_process_up{").count(), 1);
    }
    let line = exporter.lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("thalweg-1-words: it has 5 bytes"), "{line}");
    fs::remove_file(folder.0.join("thalweg-1-words")).unwrap();
    fs::write(folder.0.join("thalweg-2-other"), "").unwrap();
    exporter.get("/metrics");
    let line = exporter.lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("thalweg-2-other"), "said once: {line}");
}

#[test]
fn a_folder_is_waited_for_and_one_that_cannot_be_read_is_an_error_of_the_scrape() {
    let folder = Folder::new();
    let later = folder.0.join("later");
    let exporter = Exporter::start(&later);
    assert_eq!(exporter.get("/metrics").0, 200);
    fs::write(&later, "a file").unwrap();
    let (status, _, text) = exporter.get("/metrics");
    assert!(
        status == 500 && text.contains("later: Not a directory"),
        "{text}"
    );
    fs::remove_file(&later).unwrap();
    let (_recorder, _) = Recorder::open(&later).unwrap();
    assert!(exporter.get("/metrics").2.contains("thalweg_process_up{"));
}

#[test]
fn once_prints_what_a_scrape_is_answered() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    recorder.beat(Timestamp::now());
    let _kept = recorded(&recorder, "10.86.0.2:7000");
    let exporter = Exporter::start(&folder.0);
    let without_age = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("thalweg_process_age"))
            .filter(|line| !line.contains("thalweg_port") && !line.contains("thalweg_host"));
        lines.map(str::to_owned).collect()
    };
    let output = once(&folder.0, &["--once"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(without_age(&text), without_age(&exporter.get("/metrics").2));
}

#[test]
fn json_is_what_readers_see() {
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let _kept = recorded(&recorder, "10.86.0.2:7000");
    let output = once(&folder.0, &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["unreadable_segments"], 0);
    let seen = folder.scrape().processes.remove(0);
    assert_eq!(json["processes"][0]["segment"], *seen.segment);
    let mut process: Process = serde_json::from_value(json["processes"][0].clone()).unwrap();
    process.age_ns = seen.process.age_ns;
    assert_eq!(process, seen.process);
}

#[test]
fn what_cannot_be_done_is_a_line() {
    let folder = Folder::new();
    let exporter = Exporter::start(&folder.0);
    let taken = exporter.address.to_string();
    let file = folder.0.join("file");
    fs::write(&file, "").unwrap();
    for (output, says) in [
        (
            once(&folder.0, &["--listen", &taken]),
            "Address already in use",
        ),
        (
            once(&folder.0, &["--listen", "nowhere"]),
            "invalid socket address",
        ),
        (once(&file, &["--once"]), "Not a directory"),
    ] {
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(says), "{text}");
    }
}
