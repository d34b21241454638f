//! Where the demo plays: the fabric of the lab, two hosts in network namespaces with four shaped ways
//! between them; or, where that is not permitted, loopback, with the plugin's own fault injection in
//! the place of the ways. Both can be cut and healed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::json::{self, Value};

/// The ways between the hosts, and what each carries.
pub const WAYS: usize = 4;
pub const WAY_MBPS: u32 = 500;
/// The fabric's name, so that the demo does not take away one that is in use.
const FABRIC: &str = "thw-demo";

/// A place to play.
pub enum Stage {
    Fabric(Fabric),
    Loopback(Loopback),
}

pub struct Fabric {
    script: PathBuf,
    /// Takes the fabric and the work directory away when its input ends, which it does however the demo ends.
    keeper: Option<Child>,
    samplers: Vec<Child>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

pub struct Loopback {
    faults: PathBuf,
    /// Why it is not the fabric.
    pub why: String,
}

/// Bytes that had arrived over a way at some time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub t_ms: f64,
    /// 0: at host a; 1: at host b.
    pub host: usize,
    pub way: usize,
    pub bytes: u64,
}

impl Stage {
    /// Makes the fabric, or falls back to loopback.
    pub fn make(script: Option<&Path>, work_dir: &Path) -> Result<Self, String> {
        let tried = match script {
            Some(script) => Fabric::up(script, work_dir),
            None => Err("--loopback was given".to_owned()),
        };
        match tried {
            Ok(fabric) => Ok(Self::Fabric(fabric)),
            Err(why) => {
                // What there was of a fabric took the directory away with it.
                fs::create_dir_all(work_dir).map_err(|e| format!("{}: {e}", work_dir.display()))?;
                let stage = Loopback {
                    faults: work_dir.join("faults"),
                    why,
                };
                stage.write("")?;
                Ok(Self::Loopback(stage))
            }
        }
    }

    /// A command that runs on the host of a rank.
    pub fn command(&self, rank: usize, program: &Path) -> Command {
        match self {
            Self::Fabric(fabric) => {
                let mut command = fabric.exec(rank, program);
                command.env("NCCL_SOCKET_IFNAME", "app0");
                command
            }
            Self::Loopback(stage) => {
                let mut command = Command::new(program);
                command
                    .env("NCCL_SOCKET_IFNAME", "lo")
                    .env("THALWEG_PATHS", WAYS.to_string())
                    // Every path is in use at once: on one host they all lead the same way.
                    .env("THALWEG_PATH_SEARCH", "off")
                    .env("THALWEG_FAULT_FILE", &stage.faults);
                command
            }
        }
    }

    pub fn cut(&self, way: usize) -> Result<(), String> {
        match self {
            Self::Fabric(fabric) => fabric.run(&["cut", &way.to_string()]).map(|_| ()),
            Self::Loopback(stage) => stage.write(&format!("path {way} cut\n")),
        }
    }

    pub fn heal(&self, way: usize) -> Result<(), String> {
        match self {
            Self::Fabric(fabric) => fabric.run(&["heal", &way.to_string()]).map(|_| ()),
            Self::Loopback(stage) => stage.write(&format!("path {way} ok\n")),
        }
    }

    /// Begins to watch the ways. `demo` is this program, which samples from inside the namespaces.
    pub fn watch(&mut self, demo: &Path) -> Result<(), String> {
        match self {
            Self::Fabric(fabric) => fabric.watch(demo),
            Self::Loopback(_) => Ok(()),
        }
    }

    /// What was seen on the ways so far; empty on loopback.
    pub fn samples(&self) -> Vec<Sample> {
        match self {
            Self::Fabric(fabric) => fabric
                .samples
                .lock()
                .map(|samples| samples.clone())
                .unwrap_or_default(),
            Self::Loopback(_) => Vec::new(),
        }
    }

    /// Bytes each way has carried since the fabric was made, from a to b and back, by its own
    /// counters; `None` on loopback.
    pub fn way_bytes(&self) -> Option<Vec<(u64, u64)>> {
        let Self::Fabric(fabric) = self else {
            return None;
        };
        let text = fabric.run(&["status", "--json"]).ok()?;
        let status = json::parse(text.trim())?;
        let Some(Value::List(rows)) = status.get("paths") else {
            return None;
        };
        rows.iter()
            .map(|row| Some((row.count("a_to_b_bytes")?, row.count("b_to_a_bytes")?)))
            .collect()
    }
}

impl Fabric {
    fn up(script: &Path, work_dir: &Path) -> Result<Self, String> {
        let script = script
            .canonicalize()
            .map_err(|e| format!("{}: {e}", script.display()))?;
        let mut fabric = Self {
            script,
            keeper: None,
            samplers: Vec::new(),
            samples: Arc::default(),
        };
        // Not in the demo's process group: what ends the demo from the keyboard must not end it.
        let keeper = std::os::unix::process::CommandExt::process_group(
            Command::new("sh")
                .args(["-c", "cat >/dev/null; rm -rf \"$1\"; exec \"$0\" down"])
                .arg(&fabric.script)
                .arg(work_dir),
            0,
        )
        .env("FABRIC", FABRIC)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
        fabric.keeper = Some(keeper.map_err(|e| format!("sh: {e}"))?);
        let rates = vec![WAY_MBPS.to_string(); WAYS].join(",");
        fabric.run(&["up", "--rates", &rates])?;
        Ok(fabric)
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.script)
            .args(arguments)
            .env("FABRIC", FABRIC)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("{}: {e}", self.script.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("no word why");
        Err(format!(
            "`fabric.sh {}` failed: {last}",
            arguments.join(" ")
        ))
    }

    fn exec(&self, host: usize, program: &Path) -> Command {
        let mut command = Command::new(&self.script);
        command
            .args(["exec", ["a", "b"][host.min(1)], "--"])
            .arg(program)
            .env("FABRIC", FABRIC);
        command
    }

    fn watch(&mut self, demo: &Path) -> Result<(), String> {
        for host in 0..2 {
            let mut child = self
                .exec(host, demo)
                .arg("--sample-ways")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|e| format!("cannot watch the ways: {e}"))?;
            if let Some(output) = child.stdout.take() {
                let samples = Arc::clone(&self.samples);
                thread::spawn(move || {
                    for line in BufReader::new(output).lines().map_while(Result::ok) {
                        let mut words = line.split_ascii_whitespace();
                        let mut number = || words.next()?.parse::<f64>().ok();
                        let (Some(t_ms), Some(way), Some(bytes)) = (number(), number(), number())
                        else {
                            continue;
                        };
                        if let Ok(mut samples) = samples.lock() {
                            samples.push(Sample {
                                t_ms,
                                host,
                                way: whole(way),
                                bytes: whole(bytes) as u64,
                            });
                        }
                    }
                });
            }
            self.samplers.push(child);
        }
        Ok(())
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that this program itself wrote; saturates"
)]
fn whole(x: f64) -> usize {
    x as usize
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for child in &mut self.samplers {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

impl Loopback {
    /// Replaces the instructions at once, so that nobody reads half of them.
    fn write(&self, fault: &str) -> Result<(), String> {
        let text = format!("rate {WAY_MBPS}\n{fault}");
        let new = self.faults.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &self.faults))
            .map_err(|e| format!("{}: {e}", self.faults.display()))
    }
}

/// Inside a namespace: prints what has arrived on each way, ten times a second, until nobody reads.
pub fn sample_ways() {
    use std::fmt::Write as _;
    use std::io::Write as _;
    let mut out = std::io::stdout();
    loop {
        let devices = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
        let t_ms = crate::clock::monotonic_ms();
        let mut text = String::new();
        for line in devices.lines() {
            let Some((name, counters)) = line.split_once(':') else {
                continue;
            };
            let way = name.trim().strip_prefix("path").map(str::parse::<usize>);
            let bytes = counters.split_ascii_whitespace().next();
            if let (Some(Ok(way)), Some(bytes)) = (way, bytes) {
                let _ = writeln!(text, "{t_ms:.1} {way} {bytes}");
            }
        }
        if out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_fabric_can_be_made_it_is_loopback() {
        let dir = std::env::temp_dir().join(format!("thalweg-stage-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let stage = Stage::make(Some(Path::new("/bin/false")), &dir);
        let Ok(Stage::Loopback(loopback)) = stage else {
            panic!("a fabric, or none of either");
        };
        assert!(loopback.why.contains("failed"), "{}", loopback.why);
        let faults = fs::read_to_string(&loopback.faults).expect("the fault file");
        assert!(faults.starts_with("rate "), "{faults}");
        fs::remove_dir_all(&dir).expect("the directory");
    }
}
