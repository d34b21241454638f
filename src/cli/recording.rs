//! Recordings: what was watched, kept in a file, for later.
//!
//! A line of JSON says what it is, and each further one is a [`Snapshot`]: any tool can read it, and so can
//! later releases, which pass over what they do not know. A file whose name ends in `.gz` is compressed;
//! each line is flushed on its own, so that of a recording that was cut off only the last is missing.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::telemetry::snapshot::Snapshot;

/// Of this format: lines that mean the same stay, others may come.
const FORMAT: u32 = 1;
/// A longer line is no snapshot: 512 links with 4096 paths have a tenth of it.
const LINE_MAX: u64 = 64 << 20;
/// Of all lines together. Each second of a host that is busy on eight paths has 80 KiB or so, and a day of them 7 GiB.
const TEXT_MAX: u64 = 8 << 30;
/// So much is said of lines that cannot be read; the rest is counted.
const TOLD_MAX: usize = 100;
/// Of what is wrong with a line: some of that is the line.
const TOLD_CHARS_MAX: usize = 200;

/// What is in a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// The format.
    pub(super) thalweg_recording: u32,
    /// Of the program that made it.
    pub(super) version: String,
    /// Name of the host that was watched.
    pub(super) host: String,
    /// Between two snapshots.
    pub(super) interval_ms: u64,
}

/// A recording that is being made. One that is dropped can be read too.
pub(super) enum Writer {
    /// As it is.
    Plain(File),
    /// Compressed.
    Gzip(GzEncoder<File>),
}

impl Writer {
    /// In a new file.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn create(path: &Path, interval_ms: u64) -> io::Result<Self> {
        let file = File::create(path)?;
        let is_compressed = path.extension().is_some_and(|end| end == "gz");
        let mut this = if is_compressed {
            Self::Gzip(GzEncoder::new(file, Compression::fast()))
        } else {
            Self::Plain(file)
        };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        this.line(&About {
            thalweg_recording: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            host: host.trim_end().into(),
            interval_ms,
        })?;
        Ok(this)
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        let out: &mut dyn Write = match self {
            Self::Plain(file) => file,
            Self::Gzip(encoder) => encoder,
        };
        out.write_all(&line)?;
        out.flush()
    }

    /// Adds one.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.line(snapshot)
    }

    /// There is no more.
    ///
    /// # Errors
    /// What is still to be written cannot be.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Gzip(encoder) => encoder.finish().map(|_| ()),
        }
    }
}

/// A recording that is read.
pub(super) struct Recording {
    /// What it is.
    pub(super) about: About,
    /// All that could be read.
    pub(super) snapshots: Vec<Snapshot>,
    /// What could not be, in a line each.
    pub(super) lines: Vec<String>,
}

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    /// What it is instead of a recording.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let file = File::open(path).map_err(|error| format!("{name}: {error}"))?;
        let mut input = BufReader::new(file);
        let is_compressed = input
            .fill_buf()
            .is_ok_and(|bytes| bytes.starts_with(&[0x1f, 0x8b]));
        let reading = if is_compressed {
            Self::from(&mut BufReader::new(MultiGzDecoder::new(input)))
        } else {
            Self::from(&mut input)
        };
        reading.map_err(|error| format!("{name}: {error}"))
    }

    /// Reads lines. What is damaged is told of and passed over.
    ///
    /// # Errors
    /// What it is instead of a recording.
    pub(super) fn from(input: &mut impl BufRead) -> Result<Self, String> {
        Self::bounded(input, TEXT_MAX)
    }

    fn bounded(input: &mut impl BufRead, bytes_max: u64) -> Result<Self, String> {
        let mut input = input.take(bytes_max);
        let mut line = Vec::new();
        let first = next(&mut input, &mut line);
        let about: About = first
            .map_err(|error| error.to_string())
            .and_then(|_| serde_json::from_slice(&line).map_err(|error| short(&error)))
            .map_err(|error| format!("it is no recording of `thalweg record`: {error}"))?;
        if about.thalweg_recording != FORMAT {
            return Err(format!(
                "format {} is of thalweg {}: look at it with that release",
                about.thalweg_recording, about.version
            ));
        }
        let mut this = Self {
            about,
            snapshots: Vec::new(),
            lines: Vec::new(),
        };
        let mut untold = 0_u64;
        let mut say = |line: String| {
            if this.lines.len() < TOLD_MAX {
                this.lines.push(line);
            } else {
                untold += 1;
            }
        };
        for number in 2.. {
            match next(&mut input, &mut line) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    say(format!(
                        "it is cut off or damaged at line {number}: {error}"
                    ));
                    break;
                }
            }
            match serde_json::from_slice(&line) {
                Ok(snapshot) => this.snapshots.push(snapshot),
                Err(error) => say(format!(
                    "line {number} is cut off or damaged, and is passed over: {}",
                    short(&error)
                )),
            }
        }
        if input.limit() == 0 {
            return Err(format!(
                "it has {} GiB of text or more: read a part of it, such as what `zcat FILE | head -n 10000` makes of a \
                 compressed one, and record with a longer --interval",
                bytes_max >> 30
            ));
        }
        if untold > 0 {
            this.lines
                .push(format!("so it is with {untold} more lines"));
        }
        straighten(&mut this.snapshots);
        Ok(this)
    }
}

/// Where the wall clock was set meanwhile, all times become what they would have been by its last setting. Older
/// recordings do not tell: whoever's clock was set back is not shown twice.
fn straighten(snapshots: &mut [Snapshot]) {
    let is_told = snapshots.is_sorted_by(|one, next| one.at.is_some() && one.at <= next.at);
    let end = snapshots.last().map(|last| (last.wall_ns, last.at));
    let Some((end_ns, Some(end))) = end.filter(|_| is_told) else {
        snapshots.sort_by_key(|snapshot| snapshot.wall_ns);
        return;
    };
    for snapshot in snapshots {
        let at = snapshot.at.unwrap_or(end);
        let wall_ns = end_ns.saturating_sub(end.since(at).0);
        let was_ns = std::mem::replace(&mut snapshot.wall_ns, wall_ns);
        let events = snapshot.processes.iter_mut().flat_map(|of| &mut of.events);
        for event in events {
            event.wall_ns = wall_ns.saturating_add(event.wall_ns).saturating_sub(was_ns);
        }
    }
}

fn short(error: &serde_json::Error) -> String {
    error.to_string().chars().take(TOLD_CHARS_MAX).collect()
}

/// Whether there was a line. A compressed file that is still being written, or that nobody finished, ends in the
/// middle: behind a whole line that is an end as any.
fn next(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    match input.take(LINE_MAX).read_until(b'\n', line) {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof || !line.is_empty() => Err(error),
        _ => Ok(!line.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::telemetry::event::Event;
    use crate::telemetry::made;
    use crate::telemetry::sources::Host;
    use crate::telemetry::sources::switches::{SwitchValue, Value};
    use crate::units::Nanos;

    fn recording(name: &str) -> (std::path::PathBuf, Vec<u8>) {
        let path = std::env::temp_dir().join(format!("thalweg-{}-{name}", std::process::id()));
        let mut writer = Writer::create(&path, 1000).unwrap();
        for wall_ns in 1..=3 {
            let snapshot = Snapshot {
                wall_ns,
                ..Snapshot::default()
            };
            writer.write(&snapshot).unwrap();
        }
        drop(writer);
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    }

    #[test]
    fn what_was_recorded_is_read_again() {
        for name in ["plain.jsonl", "small.gz"] {
            let (path, _) = recording(name);
            let read = Recording::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert_eq!(read.about.interval_ms, 1000);
            assert_eq!(read.lines, [""; 0]);
            let walls: Vec<_> = read.snapshots.iter().map(|s| s.wall_ns).collect();
            assert_eq!(walls, [1, 2, 3]);
        }
    }

    #[test]
    fn a_host_and_its_switches_are_kept() {
        let path = std::env::temp_dir().join(format!("thalweg-{}-host.gz", std::process::id()));
        let depth = SwitchValue {
            metric: "depth".into(),
            attributes: [("port".to_owned(), "1".to_owned())].into(),
            unit: "By".into(),
            is_counter: false,
            value: Value::Float(0.25),
            age_ns: 7,
            observed_wall_ns: 9,
        };
        let snapshot = Snapshot {
            wall_ns: 1,
            host: Some(Host::new().read(Timestamp::now())),
            switches: vec![depth],
            ..Snapshot::default()
        };
        Writer::create(&path, 1000)
            .unwrap()
            .write(&snapshot)
            .unwrap();
        let read = Recording::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((&read.snapshots, &read.lines), (&vec![snapshot], &vec![]));
        assert!(
            read.snapshots[0]
                .host
                .as_ref()
                .unwrap()
                .port("lo")
                .is_some()
        );
    }

    #[test]
    fn of_a_recording_that_is_cut_off_the_rest_is_read() {
        for name in ["cut.jsonl", "cut.gz"] {
            let (path, bytes) = recording(name);
            std::fs::write(&path, &bytes[..bytes.len() - 12]).unwrap();
            let read = Recording::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert!(read.snapshots.len() >= 2, "{name}");
            assert!(
                read.snapshots.len() == 3 || read.lines.len() == 1,
                "{name}: {:?}",
                read.lines
            );
        }
    }

    #[test]
    fn a_recording_that_is_still_being_written_is_whole() {
        let path = std::env::temp_dir().join(format!("thalweg-{}-now.gz", std::process::id()));
        let mut writer = Writer::create(&path, 1000).unwrap();
        for count in 0..3 {
            let read = Recording::read(&path).unwrap();
            assert_eq!((read.snapshots.len(), read.lines), (count, vec![]));
            writer.write(&Snapshot::default()).unwrap();
        }
        writer.finish().unwrap();
        let read = Recording::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((read.snapshots.len(), read.lines), (3, vec![]));
    }

    #[test]
    fn a_clock_that_is_set_meanwhile_moves_nothing() {
        let at = |second, wall_ns| {
            let mut watched = made::watched(1, "x", 0, Vec::new());
            let event = made::happened(wall_ns - 5, (2, "p"), None, Event::PathClosed {});
            watched.events = vec![event];
            let mut snapshot = made::snapshot(wall_ns, vec![watched]);
            snapshot.at = Some(Timestamp::ZERO + Nanos::from_secs(second));
            snapshot
        };
        let second = 1_000_000_000;
        let mut snapshots = [
            at(7, 900 * second),
            at(8, 100 * second),
            at(10, 102 * second),
        ];
        straighten(&mut snapshots);
        let times = snapshots.map(|of| (of.wall_ns, of.processes[0].events[0].wall_ns));
        assert_eq!(times, [99, 100, 102].map(|s| (s * second, s * second - 5)));
        // Started anew in between, or of an older release.
        let mut snapshots = [at(7, 900 * second), at(3, 100 * second)];
        straighten(&mut snapshots);
        assert_eq!(snapshots.map(|of| of.wall_ns / second), [100, 900]);
    }

    #[test]
    fn what_is_no_recording_is_said_to_be_none() {
        let says = |text: &str| Recording::from(&mut text.as_bytes()).err().unwrap();
        for text in [
            "",
            "\n",
            "words",
            "{}",
            "[1]",
            "{\"thalweg_recording\":\"x\"}",
        ] {
            assert!(says(text).contains("no recording"), "{text}");
        }
        let later = r#"{"thalweg_recording":2,"version":"9","host":"h","interval_ms":1}"#;
        assert!(says(later).contains("thalweg 9"));
        let now = later.replace(":2,", ":1,");
        let text = format!("{now}\nwords\n{{\"wall_ns\":1,\"processes\":[],\"later\":1}}\n");
        let read = Recording::from(&mut text.as_bytes()).unwrap();
        assert_eq!((read.snapshots.len(), read.lines.len()), (1, 1));
    }

    #[test]
    fn what_is_made_with_ill_will_takes_little_memory() {
        let head = "{\"thalweg_recording\":1,\"version\":\"9\",\"host\":\"h\",\"interval_ms\":1}\n";
        let text = format!("{head}{}\"{}\"\n", "\n".repeat(1 << 16), "x".repeat(9999));
        let read = Recording::from(&mut text.as_bytes()).unwrap();
        assert_eq!(read.lines.len(), TOLD_MAX + 1);
        assert_eq!(read.lines[TOLD_MAX], "so it is with 65437 more lines");
        let long = format!("{head}\"{}\"\n", "x".repeat(9999));
        let read = Recording::from(&mut long.as_bytes()).unwrap();
        assert!(read.lines[0].len() < 400, "{:?}", read.lines);
        // As a small compressed file can be.
        let endless = Read::chain(head.as_bytes(), io::repeat(b' '));
        let error = Recording::bounded(&mut BufReader::new(endless), 1 << 20).err();
        assert!(error.unwrap().contains("GiB of text or more: read a part"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let head = b"{\"thalweg_recording\":1,\"version\":\"9\",\"host\":\"h\",\"interval_ms\":1}\n";
            let _ = Recording::from(&mut &bytes[..]);
            let _ = Recording::from(&mut &[&head[..], &bytes].concat()[..]);
        }
    }
}
