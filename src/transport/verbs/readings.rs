//! Reads what ports count, every 10 ms, on a thread of its own: an adapter may take long to answer. One
//! that does is asked less often.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::counters::{Counters, PortCounters};
use super::device::{Port, SYSFS};
use crate::engine::PortSignals;

/// The kernel asks an adapter no more often.
const READ_EVERY: Duration = Duration::from_millis(10);
/// While nothing is sent.
const QUIET_EVERY: Duration = Duration::from_millis(100);
/// Between two readings passes so many times what one takes: where they are slow, they are few.
const IDLE_TIMES: u32 = 50;

/// What all ports of a process count. They are read as long as somebody holds this.
#[derive(Debug)]
pub struct Readings {
    /// How often they have been read.
    count: AtomicU64,
    latest: Mutex<Vec<PortCounters>>,
    /// Payload bytes of a full packet of each port.
    packet_bytes: Vec<u32>,
}

impl Readings {
    /// Begins to read these ports, each with the payload bytes of its full packets.
    ///
    /// # Errors
    /// There is no thread.
    pub fn begin(ports: Vec<Port>, packet_bytes: Vec<u32>) -> std::io::Result<Arc<Self>> {
        let this = Arc::new(Self {
            count: AtomicU64::new(0),
            latest: Mutex::new(vec![PortCounters::default(); ports.len()]),
            packet_bytes,
        });
        let readings = Arc::downgrade(&this);
        std::thread::Builder::new()
            .name("thalweg-count".into())
            .spawn(move || run(&readings, &ports))?;
        Ok(this)
    }

    /// How often the ports have been read: a glance, to see whether there is something new.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// What a port has counted between two readings, of which the later is the latest and takes the
    /// place of the earlier. None if that is not known.
    #[must_use]
    pub fn signals(&self, port: usize, before: &mut PortCounters) -> Option<PortSignals> {
        let latest = *self
            .latest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(port)?;
        latest
            .since(&std::mem::replace(before, latest))
            .signals(self.packet_bytes[port])
    }

    fn publish(&self, counted: &[PortCounters]) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.copy_from_slice(counted);
        drop(latest);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

fn run(readings: &Weak<Readings>, ports: &[Port]) {
    let sysfs = Path::new(SYSFS);
    let open = |port: &Port| {
        Counters::open(
            sysfs,
            &port.device,
            port.number,
            port.gid.interface.as_deref(),
        )
    };
    let mut counters: Vec<_> = ports.iter().map(open).collect();
    let mut counted = vec![PortCounters::default(); ports.len()];
    while let Some(shared) = readings.upgrade() {
        let begun = Instant::now();
        let mut is_quiet = true;
        for ((port, counters), counted) in ports.iter().zip(&mut counters).zip(&mut counted) {
            let before = std::mem::replace(counted, counters.read());
            is_quiet &= counted.sent == before.sent;
            if counted.sent.is_none() {
                // A device that vanishes takes its files with it.
                *counters = open(port);
            }
        }
        shared.publish(&counted);
        drop(shared);
        let least = if is_quiet { QUIET_EVERY } else { READ_EVERY };
        std::thread::sleep(least.max(begun.elapsed() * IDLE_TIMES));
    }
}
