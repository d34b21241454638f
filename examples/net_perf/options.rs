//! The command line, in the words of nccl-tests where it has a word for the thing.

use std::path::PathBuf;
use std::time::Duration;

use crate::builtin::Builtin;
use crate::net::{MAX_GROUP, MAX_REQUESTS, VERSIONS};

pub const HELP: &str = "\
net_perf: measures any NCCL net plugin, or NCCL's own transports, the way NCCL's proxy drives them

usage: net_perf MODE (--plugin SO [--version N] | --nccl LIBNCCL --builtin Socket|IB) [options]

modes   sendrecv   every rank sends to the next and receives from the one before;
                   --oneway: each even rank sends to the odd one above it
        pingpong   pairs of ranks; time is half a round trip
        allreduce  ring of float sums, reduced on the CPU, cut into slices as NCCL does
        alltoall   every rank sends size/ranks to each rank (its own share does not travel)
        incast     every rank sends size/ranks to rank 0 at the same time

ranks   --local N         start N ranks here; else found from what torchrun, MPI or Slurm set:
                          RANK WORLD_SIZE MASTER_ADDR MASTER_PORT, OMPI_COMM_WORLD_*, PMI_*, SLURM_*
                          (MASTER_ADDR=unix:/path where all ranks share a file system)
        --timeout S       give up after S seconds without any progress (60)

what    -b BYTES -e BYTES -f FACTOR   sizes: first, last, step (1M, as first, 2); suffixes K M G
        -n N              iterations per size (20)       -w N   unmeasured ones before (5)
        --seconds S       measure for S seconds instead of -n
        --inflight K      requests outstanding per connection (8, at most 32)
        --comms C         connections per pair of ranks, or rings (1)
        --group N         sendrecv: receive in groups of N with tags (1)
        --pause MS        receivers that are late: they post one receive in MS milliseconds at most
        --nap US          sleep so long when there is nothing to do, instead of looking again at once
        --slice BYTES     allreduce: largest message (1M)
        --check           a new pattern in every iteration, every byte compared (takes time too)
        --dev D           device (0)

output  --json            one line of JSON per size          --list  devices, then stop
        --report MS       one line of JSON every MS milliseconds, from rank 0
        --log LEVEL       what the plugin logs, to stderr: none, warn (default), info, trace

Columns are nccl-tests': time is per iteration (sendrecv: per message), algbw is size/time, busbw is
algbw times 2(n-1)/n for allreduce and (n-1)/n for alltoall and incast; `cpu` is processor seconds of
all ranks per GB that arrived. time is that of the slowest rank.
Exit status: 0; 1 after an error, with one line that says which; 2 when a byte was wrong.";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    SendRecv,
    PingPong,
    AllReduce,
    AllToAll,
    Incast,
}

impl Mode {
    /// Its name on the command line and in the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::PingPong => "pingpong",
            Self::AllReduce => "allreduce",
            Self::AllToAll => "alltoall",
            Self::Incast => "incast",
        }
    }
}

/// Where the transport comes from.
#[derive(Clone, Debug)]
pub enum Source {
    Plugin { path: PathBuf, version: Option<u32> },
    Builtin { nccl: PathBuf, which: Builtin },
}

#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct Options {
    pub mode: Mode,
    pub source: Source,
    /// Ranks to start on this host.
    pub local: Option<usize>,
    pub timeout: Duration,
    pub min_bytes: usize,
    pub max_bytes: usize,
    pub factor: usize,
    pub iterations: u64,
    pub warmup: u64,
    pub seconds: Option<f64>,
    pub inflight: usize,
    pub comms: usize,
    pub group: usize,
    /// Between two receives that are posted on a connection.
    pub pause: Duration,
    /// In a turn of the loop that found nothing to do.
    pub nap: Duration,
    pub slice_bytes: usize,
    pub oneway: bool,
    pub check: bool,
    pub dev: i32,
    pub json: bool,
    pub list: bool,
    pub report: Option<Duration>,
    pub log_level: i32,
}

impl Options {
    /// Reads the arguments; `Ok(None)` asks for the help text.
    #[allow(clippy::too_many_lines, reason = "one line per option")]
    pub fn parse(arguments: &[String]) -> Result<Option<Self>, String> {
        let mut mode = None;
        let (mut plugin, mut nccl, mut which, mut version) = (None, None, None, None);
        let mut max_bytes = None;
        let mut o = Self {
            mode: Mode::SendRecv,
            source: Source::Plugin {
                path: PathBuf::new(),
                version: None,
            },
            local: None,
            timeout: Duration::from_secs(60),
            min_bytes: 1 << 20,
            max_bytes: 0,
            factor: 2,
            iterations: 20,
            warmup: 5,
            seconds: None,
            inflight: 8,
            comms: 1,
            group: 1,
            pause: Duration::ZERO,
            nap: Duration::ZERO,
            slice_bytes: 1 << 20,
            oneway: false,
            check: false,
            dev: 0,
            json: false,
            list: false,
            report: None,
            log_level: 2,
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || {
                rest.next()
                    .ok_or_else(|| format!("{name} needs a value: see --help"))
            };
            match name.as_str() {
                "-h" | "--help" => return Ok(None),
                "--mode" => mode = Some(parse_mode(value()?)?),
                "--plugin" => plugin = Some(PathBuf::from(value()?)),
                "--version" => {
                    let v: u32 = number(name, value()?)?;
                    if !VERSIONS.contains(&v) {
                        return Err(format!("--version {v}: 6 to 12 are known"));
                    }
                    version = Some(v);
                }
                "--nccl" => nccl = Some(PathBuf::from(value()?)),
                "--builtin" => which = Some(parse_builtin(value()?)?),
                "--local" => o.local = Some(number(name, value()?)?),
                "--timeout" => o.timeout = duration(name, value()?, 1.0)?,
                "-b" | "--minbytes" => o.min_bytes = bytes(name, value()?)?,
                "-e" | "--maxbytes" => max_bytes = Some(bytes(name, value()?)?),
                "-f" | "--stepfactor" => o.factor = number(name, value()?)?,
                "-n" | "--iters" => o.iterations = number(name, value()?)?,
                "-w" | "--warmup_iters" => o.warmup = number(name, value()?)?,
                "--seconds" => o.seconds = Some(duration(name, value()?, 1.0)?.as_secs_f64()),
                "--inflight" => o.inflight = number(name, value()?)?,
                "--comms" => o.comms = number(name, value()?)?,
                "--group" => o.group = number(name, value()?)?,
                "--pause" => o.pause = duration(name, value()?, 1e-3)?,
                "--nap" => o.nap = duration(name, value()?, 1e-6)?,
                "--slice" => o.slice_bytes = bytes(name, value()?)?,
                "--oneway" => o.oneway = true,
                "-c" | "--check" => o.check = true,
                "--dev" => o.dev = number(name, value()?)?,
                "--json" => o.json = true,
                "--list" => o.list = true,
                "--report" => o.report = Some(duration(name, value()?, 1e-3)?),
                "--log" => {
                    o.log_level = match value()?.as_str() {
                        "none" => 0,
                        "warn" => 2,
                        "info" => 3,
                        "trace" => 5,
                        other => return Err(format!("--log {other}: none, warn, info or trace")),
                    };
                }
                other if !other.starts_with('-') && mode.is_none() => {
                    mode = Some(parse_mode(other)?);
                }
                other => return Err(format!("unknown option {other}: see --help")),
            }
        }
        o.source = match (plugin, nccl) {
            (Some(path), None) => Source::Plugin { path, version },
            (None, Some(nccl)) => Source::Builtin {
                nccl,
                which: which.unwrap_or(Builtin::Socket),
            },
            _ => {
                return Err(
                    "name either --plugin SO or --nccl LIBNCCL --builtin Socket|IB".to_owned(),
                );
            }
        };
        o.mode = match mode {
            Some(mode) => mode,
            None if o.list => Mode::SendRecv,
            None => {
                return Err(
                    "name a mode: sendrecv, pingpong, allreduce, alltoall or incast".to_owned(),
                );
            }
        };
        o.max_bytes = max_bytes.unwrap_or(o.min_bytes);
        o.check_values()?;
        Ok(Some(o))
    }

    fn check_values(&self) -> Result<(), String> {
        if self.max_bytes < self.min_bytes {
            return Err("-e is below -b".to_owned());
        }
        if self.factor < 2 && self.max_bytes > self.min_bytes {
            return Err("-f must be 2 or more".to_owned());
        }
        if self.inflight == 0 || self.inflight > MAX_REQUESTS {
            return Err(format!("--inflight is 1 to {MAX_REQUESTS}"));
        }
        if self.comms == 0 || self.comms > 1024 {
            return Err("--comms is 1 to 1024".to_owned());
        }
        if self.group == 0 || self.group > MAX_GROUP {
            return Err(format!("--group is 1 to {MAX_GROUP}"));
        }
        if self.group > 1 && self.mode != Mode::SendRecv {
            return Err("--group works with sendrecv only".to_owned());
        }
        if self.oneway && self.mode != Mode::SendRecv {
            return Err("--oneway works with sendrecv only".to_owned());
        }
        if self.slice_bytes < 4 || !self.slice_bytes.is_multiple_of(4) {
            return Err("--slice is a multiple of 4 bytes".to_owned());
        }
        if self.iterations == 0 {
            return Err("-n is at least 1".to_owned());
        }
        if self.local.is_some_and(|n| n == 0 || n > 256) {
            return Err("--local is 1 to 256".to_owned());
        }
        Ok(())
    }

    /// The sizes to measure, in bytes.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = Vec::new();
        let mut size = self.min_bytes;
        while size <= self.max_bytes {
            sizes.push(size);
            if size == 0 {
                size = 1; // a factor alone would never leave zero
                continue;
            }
            match size.checked_mul(self.factor) {
                Some(next) if next > size => size = next,
                _ => break,
            }
        }
        sizes
    }

    /// A digest of everything that all ranks must have been told alike.
    pub fn fingerprint(&self) -> u64 {
        let text = format!(
            "{:?} {} {} {} {} {} {:?} {} {} {} {} {} {}",
            self.mode,
            self.min_bytes,
            self.max_bytes,
            self.factor,
            self.iterations,
            self.warmup,
            self.seconds,
            self.inflight,
            self.comms,
            self.group,
            self.slice_bytes,
            self.oneway,
            self.check
        );
        // FNV-1a, 64 bits.
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    let all = [
        Mode::SendRecv,
        Mode::PingPong,
        Mode::AllReduce,
        Mode::AllToAll,
        Mode::Incast,
    ];
    all.into_iter().find(|m| m.name() == text).ok_or_else(|| {
        format!("unknown mode {text}: sendrecv, pingpong, allreduce, alltoall or incast")
    })
}

fn parse_builtin(text: &str) -> Result<Builtin, String> {
    match text.to_ascii_lowercase().as_str() {
        "socket" => Ok(Builtin::Socket),
        "ib" => Ok(Builtin::Ib),
        _ => Err(format!("--builtin {text}: Socket or IB")),
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{name} {text}: not a number in range"))
}

fn duration(name: &str, text: &str, unit_s: f64) -> Result<Duration, String> {
    let n: f64 = number(name, text)?;
    Duration::try_from_secs_f64(n * unit_s)
        .ok()
        .filter(|d| !d.is_zero() && d.as_secs() < 1_000_000)
        .ok_or_else(|| format!("{name} {text}: not a length of time"))
}

fn bytes(name: &str, text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let n: usize = number(name, digits)?;
    n.checked_mul(1 << shift)
        .ok_or_else(|| format!("{name} {text}: too large"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&arguments)
    }

    #[test]
    fn sizes_and_suffixes() {
        let o = parse("sendrecv --plugin x.so -b 1K -e 8K -f 2")
            .unwrap()
            .unwrap();
        assert_eq!(o.sizes(), [1024, 2048, 4096, 8192]);
        let o = parse("sendrecv --plugin x.so -b 0 -e 2").unwrap().unwrap();
        assert_eq!(o.sizes(), [0, 1, 2]);
    }

    #[test]
    fn mistakes() {
        for (line, says) in [
            ("sendrecv", "--plugin"),
            ("--plugin x.so", "mode"),
            ("sendrecv --plugin x.so --inflight 33", "--inflight"),
            ("sendrecv --plugin x.so -b 2M -e 1M", "-e"),
            ("incast --plugin x.so --group 2", "--group"),
            ("sendrecv --plugin x.so --version 5", "--version"),
            ("sendrecv --plugin x.so --sconds 5", "--sconds"),
            ("sendrecv --plugin x.so -n", "value"),
        ] {
            let said = parse(line).unwrap_err();
            assert!(said.contains(says), "{line}: {said}");
        }
    }
}
