//! Log lines on their way to NCCL's logger, so that they obey `NCCL_DEBUG`, `NCCL_DEBUG_FILE` and
//! the like, and carry host, process and device as NCCL's own lines do.

use crate::abi::DebugLogger;
use std::ffi::{CString, c_int, c_ulong};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use thalweg::session::{LogLevel, LogSink};

/// `NCCL_INIT | NCCL_NET`, the subsystems whose users want to read us.
const SUBSYSTEMS: c_ulong = 1 | 16;
/// The same failure again within this time says nothing new: one dead peer ends many connections.
const REPEAT_AFTER: Duration = Duration::from_secs(5);

/// The logger of the most recent `init`. A lock and not an atomic: after [`forget_logger`] nobody
/// may be inside the logger any more, for the library it belongs to may then be unmapped.
static LOGGER: RwLock<Option<DebugLogger>> = RwLock::new(None);
static LAST_FAILURE: Mutex<Option<(String, Instant)>> = Mutex::new(None);

/// Takes over the logger that `init` was given.
pub(crate) fn set_logger(logger: Option<DebugLogger>) {
    *LOGGER.write().unwrap_or_else(PoisonError::into_inner) = logger;
}

/// Lets go of the logger; waits for lines that are being written.
pub(crate) fn forget_logger() {
    set_logger(None);
}

/// Where the core sends its lines.
pub(crate) fn sink() -> LogSink {
    Arc::new(write)
}

/// One line. Without a logger, warnings go to the standard error and the rest is dropped.
pub(crate) fn write(level: LogLevel, line: &str) {
    let logger = LOGGER.read().unwrap_or_else(PoisonError::into_inner);
    let Some(logger) = *logger else {
        if level == LogLevel::Warn {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "NET/thalweg: {line}");
        }
        return;
    };
    // What a peer or a file name brought along must not break the line.
    let line: String = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let Ok(line) = CString::new(format!("NET/thalweg: {line}")) else {
        return;
    };
    // SAFETY: NCCL's logger takes these arguments, may be called from any thread, and copies the
    // line. It cannot go away meanwhile: `forget_logger` waits for the read lock.
    unsafe {
        logger(
            nccl_level(level),
            SUBSYSTEMS,
            c"thalweg".as_ptr(),
            0,
            c"%s".as_ptr(),
            line.as_ptr(),
        );
    }
}

/// A failure that is about to be reported to NCCL: a warning, unless it was just said.
pub(crate) fn failure(line: &str) {
    let mut last = LAST_FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if let Some((text, at)) = &*last
        && text == line
        && now.duration_since(*at) < REPEAT_AFTER
    {
        return;
    }
    *last = Some((line.to_owned(), now));
    drop(last);
    write(LogLevel::Warn, line);
}

/// `ncclDebugLogLevel`.
fn nccl_level(level: LogLevel) -> c_int {
    match level {
        LogLevel::Warn => 2,
        LogLevel::Info => 3,
        LogLevel::Trace => 5,
    }
}
