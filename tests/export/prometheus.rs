//! A real Prometheus: it scrapes the exporter, its parser takes every line, and what it stores is what was
//! recorded. `make lab-tests` fetches it (`lab/prometheus.sh`); where it is missing this counts as skipped,
//! with `LAB_REQUIRED=1` as failed.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use thalweg::clock::Timestamp;
use thalweg::telemetry::Recorder;

use super::{Exporter, Folder, PATIENCE, dashboard, once, recorded};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// One of its programs.
fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new(ROOT).join("target/prometheus/usr/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    let what = format!("{} is not there: run lab/prometheus.sh", path.display());
    assert!(std::env::var_os("LAB_REQUIRED").is_none(), "{what}");
    eprintln!("SKIPPED: {what}");
    None
}

/// The example of a configuration, for an exporter at another address, and more often.
fn configuration(address: SocketAddr) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join("lab/prometheus.yml")).unwrap();
    let here = text.replace("127.0.0.1:10469", &address.to_string());
    let often = here.replace("scrape_interval: 15s", "scrape_interval: 250ms");
    assert!(often.contains("250ms") && often.contains(&address.to_string()));
    often
}

struct Prometheus {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Prometheus {
    fn start(program: &Path, folder: &Path, exporter: SocketAddr) -> Self {
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration(exporter)).unwrap();
        // It does not say which port it got, had it been asked for any.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let log = folder.join("log");
        let mut config = std::ffi::OsString::from("--config.file=");
        config.push(&file);
        let mut storage = std::ffi::OsString::from("--storage.tsdb.path=");
        storage.push(folder.join("data"));
        let child = Command::new(program)
            .args([config, storage])
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            address,
            log,
        }
    }

    fn get(&self, target: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // 1.0: the answer is not cut into chunks.
        write!(stream, "GET {target} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, json) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(json).ok()
    }

    fn query(&self, expression: &str) -> Value {
        let byte = |byte: u8| format!("%{byte:02X}");
        let encoded: String = expression.bytes().map(byte).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}"));
        answer.unwrap_or_default()
    }

    /// The value of the one series that an expression has.
    fn value(&self, expression: &str) -> f64 {
        let answer = self.query(expression);
        let result = answer["data"]["result"].as_array();
        let result = result.unwrap_or_else(|| panic!("{expression}: {answer}"));
        assert_eq!(result.len(), 1, "{expression}: {answer}");
        result[0]["value"][1].as_str().unwrap().parse().unwrap()
    }

    /// Waits until an expression has a series.
    fn until(&self, expression: &str) {
        let start = Instant::now();
        loop {
            let answer = self.query(expression);
            let result = answer["data"]["result"].as_array();
            if result.is_some_and(|result| !result.is_empty()) {
                return;
            }
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            assert!(
                start.elapsed() < PATIENCE,
                "{expression}: {answer}\n{}",
                log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs Prometheus: make lab-tests"]
#[expect(clippy::float_cmp, reason = "what is stored is what was recorded")]
fn it_stores_what_was_recorded() {
    let Some(program) = program("prometheus") else {
        return;
    };
    let folder = Folder::new();
    let (segments, own) = (folder.0.join("segments"), folder.0.join("prometheus"));
    fs::create_dir(&own).unwrap();
    let (recorder, _) = Recorder::open(&segments).unwrap();
    let (link, paths, connection) = recorded(&recorder, "a \"peer\\");
    recorder.beat(Timestamp::now());
    let exporter = Exporter::start(&segments);
    let prometheus = Prometheus::start(&program, &own, exporter.address);
    prometheus.until("up == 1");

    let pid = std::process::id();
    let of = format!(r#"pid="{pid}",peer="a \"peer\\",role="sender""#);
    let value = |expression: String| prometheus.value(&expression);
    assert_eq!(
        value(format!("thalweg_link_messages_total{{{of}}}")),
        1001.0
    );
    assert_eq!(value(format!("thalweg_link_window_bytes{{{of}}}")), 2001.0);
    let path = format!(r#"{of},path="1""#);
    assert_eq!(
        value(format!("thalweg_path_sent_bytes_total{{{path}}}")),
        3001.0
    );
    assert_eq!(
        value(format!("thalweg_path_round_trip_seconds{{{path}}}")),
        4004e-9
    );
    assert_eq!(
        value(format!("thalweg_path_delay_seconds_count{{{path}}}")),
        7.0
    );
    assert_eq!(value(format!("thalweg_process_up{{pid=\"{pid}\"}}")), 1.0);
    // Of seven values the fourth is 150 us: in the bucket from 131 to 262 us.
    let half = value(format!(
        "histogram_quantile(0.5, thalweg_path_delay_seconds_bucket{{{path}}})"
    ));
    assert!((131e-6..262e-6).contains(&half), "{half}");
    let ends = prometheus.query(&format!("thalweg_path_info{{{path}}}"));
    let ends = &ends["data"]["result"][0]["metric"];
    assert_eq!(
        (&ends["local"], &ends["remote"]),
        (&"10.86.0.1:40001".into(), &"10.86.0.2:7000".into())
    );
    // It knows of each metric what it means.
    let metadata = prometheus.get("/api/v1/metadata").unwrap();
    let delay = &metadata["data"]["thalweg_path_delay_seconds"][0];
    assert_eq!(delay["type"], "histogram");
    assert!(
        delay["help"]
            .as_str()
            .unwrap()
            .starts_with("From a chunk's departure")
    );
    // None was refused as a duplicate or out of order.
    let log = fs::read_to_string(&prometheus.log).unwrap();
    assert!(!log.contains("Error on ingesting"), "{log}");

    // All that the dashboard asks for can be asked for, and has an answer.
    prometheus.until("rate(thalweg_link_messages_total[10s])");
    for expression in dashboard::expressions(&dashboard::load()) {
        let expression = expression
            .replace("$__rate_interval", "10s")
            .replace("$instance", ".*")
            .replace("$process", ".*")
            .replace("$peer", ".*");
        let answer = prometheus.query(&expression);
        let result = answer["data"]["result"].as_array();
        // This host may have no port that counts such things.
        let is_here = !expression.contains("thalweg_port_");
        assert!(
            result.is_some_and(|result| !(is_here && result.is_empty())),
            "{expression}: {answer}"
        );
    }

    // A link that is gone is gone at once.
    drop((link, paths, connection));
    prometheus.until("absent(thalweg_link_messages_total) and on() thalweg_process_up == 1");
}

#[test]
#[ignore = "needs Prometheus: make lab-tests"]
fn its_checks_complain_of_nothing() {
    let Some(program) = program("promtool") else {
        return;
    };
    let folder = Folder::new();
    let (recorder, _) = Recorder::open(&folder.0).unwrap();
    let _kept = recorded(&recorder, "10.86.0.2:7000");
    let live = once(&folder.0, &["--once"]).stdout;
    assert!(!live.is_empty());
    // Of adapters that are not here too.
    let full = fs::read(Path::new(ROOT).join("tests/snapshots/export.txt")).unwrap();
    for text in [live, full] {
        let mut check = Command::new(&program)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        check.stdin.take().unwrap().write_all(&text).unwrap();
        let output = check.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
    let file = Path::new(ROOT).join("lab/prometheus.yml");
    let config = Command::new(&program)
        .args(["check", "config"])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        config.status.success(),
        "{}",
        String::from_utf8_lossy(&config.stderr)
    );
}
