//! `thalweg record`: keeps what there is to see of this host and its processes in a file.

#![allow(unsafe_code, reason = "a handler of signals")]

use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use super::recording::Writer;
use super::watched::{Folder, Switches, Watched};
use super::{Failure, duration};

#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// The file; compressed if its name ends in .gz
    file: PathBuf,
    #[command(flatten)]
    folder: Folder,
    /// Between two looks, such as 100ms or 1s
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    interval: Duration,
    /// Stop after so long, such as 10m [default: when interrupted]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    length: Option<Duration>,
    /// Leave out what the host and its ports say
    #[arg(long)]
    no_host: bool,
    #[command(flatten)]
    switches: Switches,
}

pub(super) fn record(args: &RecordArgs, out: &mut impl Write) -> Result<(), Failure> {
    let says = |error| Failure::Usage(format!("{}: {error}", args.file.display()));
    let interval = args.interval.max(Duration::from_millis(10));
    let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let mut interruption = Interruption::listen()
        .map_err(|error| Failure::Usage(format!("no signals can be received: {error}")))?;
    let switches = args.switches.listen()?;
    let mut watched = Watched::begin(&args.folder)?.with_switches(switches);
    if !args.no_host {
        watched = watched.with_host();
    }
    let mut file = Writer::create(&args.file, millis).map_err(says)?;
    let begun = Instant::now();
    let mut next = begun;
    let mut count = 0;
    loop {
        file.write(&watched.snapshot()?).map_err(says)?;
        count += 1;
        let is_over = |length| begun.elapsed() >= length;
        if args.length.is_some_and(is_over) {
            break;
        }
        next = (next + interval).max(Instant::now());
        let end = args.length.map_or(next, |length| begun + length);
        if interruption.comes_before(next.min(end)) {
            break;
        }
    }
    file.finish().map_err(says)?;
    writeln!(out, "{}: {count} snapshots", args.file.display())?;
    Ok(())
}

/// Where the handler says that there was a signal.
static HEARD: AtomicI32 = AtomicI32::new(-1);

extern "C" fn hear(_: libc::c_int) {
    // SAFETY: the byte lives as long as the program, and a handler may write (signal-safety(7)).
    unsafe {
        libc::write(
            HEARD.load(Ordering::Relaxed),
            ptr::from_ref(&1_u8).cast(),
            1,
        )
    };
}

/// SIGINT and SIGTERM, so that what is begun can be finished. A second one ends the program, whatever it does.
struct Interruption {
    told: UnixStream,
    _tells: UnixStream,
}

impl Interruption {
    fn listen() -> io::Result<Self> {
        let (told, tells) = UnixStream::pair()?;
        HEARD.store(tells.as_raw_fd(), Ordering::Relaxed);
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: zero is a valid sigaction, whose fields the kernel reads and writes while it is called only;
            // the handler calls nothing but `write`.
            unsafe {
                let mut before: libc::sigaction = mem::zeroed();
                libc::sigaction(signal, ptr::null(), &raw mut before);
                // Of a script's job in the background, which Ctrl-C is not meant for.
                if before.sa_sigaction == libc::SIG_IGN {
                    continue;
                }
                let mut action: libc::sigaction = mem::zeroed();
                action.sa_sigaction = hear as *const () as usize;
                action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
        }
        Ok(Self {
            told,
            _tells: tells,
        })
    }

    /// Waits until then; true, and at once, if there is or was a signal.
    fn comes_before(&mut self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // None at all would be for ever.
            let patience = left.max(Duration::from_micros(1));
            let is_set = self.told.set_read_timeout(Some(patience));
            if is_set.is_ok() && self.told.read(&mut [0]).is_ok() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}
