//! The plugin in the lab: the real NCCL on CPUs, and fabrics of several paths that are broken
//! under traffic. What decides here is that every byte is right and every error is told; speed
//! is measured by `make bench`, never here.
//!
//! Needs `make lab-tools` (NCCL's library, the lab's C programs); the fabrics need root. What is
//! missing is said, and the test counts as skipped; with `LAB_REQUIRED=1` it fails.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fabric;
mod nccl;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// The project's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// A folder in which the plugin has the name that NCCL looks for.
fn plugin_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("libnccl_net_thalweg.so"))
        .find(|path| path.exists())
        .expect("libnccl_net_thalweg.so beside the test");
    let folder = std::env::temp_dir().join(format!("thalweg-lab-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let link = folder.join("libnccl-net-thalweg.so");
    let _ = std::os::unix::fs::symlink(library, link);
    folder
}

fn missing(what: &str) -> bool {
    assert!(std::env::var_os("LAB_REQUIRED").is_none(), "{what}");
    println!("SKIPPED: {what}");
    eprintln!("SKIPPED: {what}");
    true
}

/// A program of the lab, built by `make lab-tools`.
fn lab_tool(name: &str) -> Option<PathBuf> {
    let path = root().join("target/lab").join(name);
    if path.exists() {
        return Some(path);
    }
    missing(&format!(
        "{} is not built: run `make lab-tools`",
        path.display()
    ));
    None
}

/// NCCL's library, fetched by `make lab-tools`.
fn nccl_library() -> Option<PathBuf> {
    let path = root().join("target/nccl/2.30.7/libnccl.so.2");
    if path.exists() {
        return Some(path);
    }
    missing(&format!(
        "{} is not there: run `make lab-tools`",
        path.display()
    ));
    None
}

/// A child that does not outlive the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    /// Reads what it prints until a line is `wanted`.
    fn until(&mut self, wanted: impl Fn(&str) -> bool) {
        use std::io::Read as _;
        let out = self.0.stdout.as_mut().unwrap();
        let (mut line, mut byte) = (Vec::new(), [0]);
        // Byte by byte: what is buffered here would be missing at the end.
        while out.read(&mut byte).unwrap() == 1 {
            if byte != *b"\n" {
                line.extend(byte);
            } else if wanted(&String::from_utf8_lossy(&line)) {
                return;
            } else {
                line.clear();
            }
        }
        panic!("ended before:\n{}", text_of(&mut self.0));
    }

    /// Waits for its end, within bounds.
    fn finish(mut self, within: Duration) -> (ExitStatus, String) {
        let end = Instant::now() + within;
        loop {
            if self.0.try_wait().unwrap().is_some() {
                break;
            }
            if Instant::now() > end {
                let _ = self.0.kill();
                let text = text_of(&mut self.0);
                panic!("still running after {within:?}:\n{text}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = self.0.wait().unwrap();
        (status, text_of(&mut self.0))
    }

    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text_of(child: &mut Child) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        let _ = out.read_to_string(&mut text);
    }
    if let Some(mut err) = child.stderr.take() {
        let _ = err.read_to_string(&mut text);
    }
    text
}

fn succeeded(output: &Output, what: &str) -> String {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{what}: {}\n{text}", output.status);
    text
}
