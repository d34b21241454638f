//! One port of a host: each of its sources read at its own pace, and by a thread of its own where there is
//! a driver behind it. A driver that hangs keeps whoever asks it, for ever perhaps, and no call can be
//! ended from outside: so it keeps that thread, and no other port. It may hold the lock of the kernel's network
//! configuration (RTNL) meanwhile, which interfaces without a driver are read under too: they share a thread.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use super::link::{self, Port};
use super::{PortNow, Source, SourceTimes, ethtool, ethtool_netlink, module, pcie, rdma};
use crate::clock::Timestamp;
use crate::telemetry::schema::{LaneGauge, PortCounter, PortGauge};
use crate::telemetry::values::Values;
use crate::units::Nanos;

/// Between two readings of a source passes so many times what one takes: where they are slow, they are few.
const IDLE_TIMES: u64 = 50;

/// A port, who reads it, and what was told last.
#[derive(Debug)]
pub(super) struct PortReader {
    port: Port,
    last: Answer,
    reader: Reader,
}

/// What a port tells, at one time.
#[derive(Debug)]
struct Answer {
    at: Timestamp,
    told: PortNow,
    /// Why something cannot be read. It stays the same while that is so.
    line: Option<String>,
}

/// Who reads a port.
#[derive(Debug)]
enum Reader {
    /// [`Together`]: no driver of an adapter is behind it, as in the many interfaces of containers.
    Together,
    /// A thread of its own.
    Apart(Worker<Timestamp, Answer>),
}

/// A thread, which ends with its questions.
#[derive(Debug)]
struct Worker<Q, A> {
    questions: Sender<Q>,
    answers: Receiver<A>,
    state: State,
}

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It waits for a question.
    Idle,
    /// It has just been asked.
    Asked,
    /// It did not answer in time.
    Late,
}

impl PortReader {
    /// `asks_drivers`: through the kernel too, beside reading files.
    pub(super) fn new(port: Port, sys: &Path, asks_drivers: bool) -> Self {
        let device = |interface: &String| sys.join("class/net").join(interface).join("device");
        let is_adapter =
            port.device.is_some() || port.interface.iter().any(|name| device(name).exists());
        let apart = || {
            let mut sources = Sources::new(port.clone(), sys);
            let mut drivers = None;
            let open = move || {
                if asks_drivers {
                    Drivers::Kernel(ethtool_netlink::Socket::open().ok())
                } else {
                    Drivers::Nobody
                }
            };
            Worker::new(move |now| sources.read(drivers.get_or_insert_with(open), now))
        };
        Self {
            last: Answer {
                at: Timestamp::ZERO,
                told: PortNow::of(&port),
                line: None,
            },
            reader: if is_adapter {
                Reader::Apart(apart())
            } else {
                Reader::Together
            },
            port,
        }
    }

    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// Begins to read what is due.
    pub(super) fn begin(&mut self, now: Timestamp) {
        if let Reader::Apart(worker) = &mut self.reader {
            worker.begin(|| now);
        }
    }

    /// Takes in what has been read by then.
    pub(super) fn end(&mut self, until: Instant) {
        if let Reader::Apart(worker) = &mut self.reader
            && let Some(answer) = worker.end(until)
        {
            self.last = answer;
        }
    }

    /// What the port tells, with its age.
    pub(super) fn told(&self, now: Timestamp) -> PortNow {
        let mut told = self.last.told.clone();
        told.age_by(now.since(self.last.at));
        told
    }

    /// What keeps it from telling more.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let is_late = matches!(&self.reader, Reader::Apart(worker) if worker.state == State::Late);
        let late = is_late.then(|| {
            format!(
                "{}: its driver does not answer: its figures stay as old as they are until it does; dmesg \
                 may say why",
                self.port.name
            )
        });
        late.into_iter().chain(self.last.line.clone())
    }
}

/// Reads the ports that have no thread of their own, in one for all of them.
#[derive(Debug)]
pub(super) struct Together(Worker<(Timestamp, Vec<Port>), BTreeMap<Port, Answer>>);

impl Together {
    pub(super) fn new(sys: &Path) -> Self {
        let sys = sys.to_owned();
        let mut known = BTreeMap::new();
        Self(Worker::new(move |(now, ports): (_, Vec<Port>)| {
            let mut before = std::mem::take(&mut known);
            let read = |port: Port| {
                let sources = before.remove(&port);
                let mut sources = sources.unwrap_or_else(|| Sources::new(port.clone(), &sys));
                let answer = sources.read(&mut Drivers::Nobody, now);
                known.insert(port.clone(), sources);
                (port, answer)
            };
            ports.into_iter().map(read).collect()
        }))
    }

    /// Begins to read what is due of those that are of here.
    pub(super) fn begin(&mut self, ports: &[PortReader], now: Timestamp) {
        self.0.begin(|| {
            let ports = ports.iter();
            let here = ports.filter(|reader| matches!(reader.reader, Reader::Together));
            (now, here.map(|reader| reader.port.clone()).collect())
        });
    }

    /// Gives them what has been read by then.
    pub(super) fn end(&mut self, ports: &mut [PortReader], until: Instant) {
        let mut answers = self.0.end(until).unwrap_or_default();
        for reader in ports {
            if let Some(answer) = answers.remove(&reader.port) {
                reader.last = answer;
            }
        }
    }

    /// What keeps them from telling more.
    pub(super) fn line(&self) -> Option<String> {
        (self.0.state == State::Late).then(|| {
            "interfaces of no adapter, such as lo: the kernel's network configuration is held by another, most likely \
             by the driver of an adapter that does not answer: their figures stay as old as they are until it is \
             let go; dmesg may say why"
                .into()
        })
    }
}

impl<Q: Send + 'static, A: Send + 'static> Worker<Q, A> {
    fn new(mut read: impl FnMut(Q) -> A + Send + 'static) -> Self {
        let (questions, asked) = channel();
        let (answer, answers) = channel();
        let read = move || {
            for question in asked {
                if answer.send(read(question)).is_err() {
                    break;
                }
            }
        };
        // Without a thread there is nobody who answers.
        let _ = thread::Builder::new()
            .name("thalweg-port".into())
            .spawn(read);
        Self {
            questions,
            answers,
            state: State::Idle,
        }
    }

    fn begin(&mut self, question: impl FnOnce() -> Q) {
        if self.state == State::Idle {
            // A thread that has ended is one that does not answer.
            let _ = self.questions.send(question());
            self.state = State::Asked;
        }
    }

    /// The answer, if it comes by then. Whoever was late before is not waited for.
    fn end(&mut self, until: Instant) -> Option<A> {
        let answer = match self.state {
            State::Idle => return None,
            State::Asked => {
                let patience = until.saturating_duration_since(Instant::now());
                self.answers.recv_timeout(patience).ok()
            }
            State::Late => self.answers.try_recv().ok(),
        };
        self.state = match answer {
            Some(_) => State::Idle,
            None => State::Late,
        };
        answer
    }
}

/// Who is asked beside the files.
#[derive(Debug)]
enum Drivers {
    /// None: these may be the files of another host.
    Nobody,
    /// This host's, with a socket for questions where the kernel has that family.
    Kernel(Option<ethtool_netlink::Socket>),
}

/// When something is due.
#[derive(Debug)]
pub(super) struct Pace {
    every: Nanos,
    due: Timestamp,
    begun: Timestamp,
}

impl Pace {
    pub(super) fn every(every: Nanos) -> Self {
        Self {
            every,
            due: Timestamp::ZERO,
            begun: Timestamp::ZERO,
        }
    }

    /// Whether it is due now; then it begins.
    pub(super) fn begins(&mut self, now: Timestamp) -> bool {
        let is_due = now >= self.due;
        if is_due {
            self.due = now + self.every;
            self.begun = Timestamp::now();
        }
        is_due
    }

    /// It has been done.
    pub(super) fn ends(&mut self) {
        let took = Timestamp::now().since(self.begun);
        let idle = Nanos(took.0.saturating_mul(IDLE_TIMES));
        if idle > self.every {
            self.due += idle;
        }
    }
}

/// The sources of one port.
#[derive(Debug)]
struct Sources {
    port: Port,
    sys: PathBuf,
    now: PortNow,
    paces: [Pace; Source::ALL.len()],
    /// When each source has told something.
    read_at: [Option<Timestamp>; Source::ALL.len()],
    rdma: Option<rdma::Counters>,
    ethtool: Option<ethtool::Counters>,
    /// What the driver answers.
    questions: Vec<ethtool_netlink::Question>,
    /// Why the transceiver cannot be read, where one may be there.
    line: Option<String>,
}

impl Sources {
    fn new(port: Port, sys: &Path) -> Self {
        Self {
            now: PortNow::of(&port),
            port,
            sys: sys.to_owned(),
            paces: Source::ALL.map(|source| Pace::every(source.every())),
            read_at: [None; Source::ALL.len()],
            rdma: None,
            ethtool: None,
            questions: ethtool_netlink::Question::ALL.to_vec(),
            line: None,
        }
    }

    /// Reads what is due, and tells everything.
    fn read(&mut self, drivers: &mut Drivers, now: Timestamp) -> Answer {
        // What takes long comes last: what is counted fast is read at the time that is told.
        for source in Source::ALL {
            if self.paces[source as usize].begins(now) {
                self.now.forget(source);
                let has_told = match source {
                    Source::Rdma => self.read_rdma(),
                    Source::Interface => self.read_interface(),
                    Source::Ethernet => self.read_ethernet(drivers),
                    Source::Module => self.read_module(drivers),
                    Source::Pcie => self.read_pcie(),
                };
                self.read_at[source as usize] = has_told.then_some(now);
                self.paces[source as usize].ends();
            }
        }
        let age = |source: Source| Some(now.since(self.read_at[source as usize]?).0);
        Answer {
            at: now,
            told: PortNow {
                ages_ns: SourceTimes::new(age),
                ..self.now.clone()
            },
            line: self.line.clone(),
        }
    }

    fn read_rdma(&mut self) -> bool {
        let Some((device, number)) = &self.port.device else {
            return false;
        };
        link::read_rdma_state(&self.sys, device, *number, &mut self.now);
        let open = || {
            let folder = self.sys.join("class/infiniband");
            rdma::Counters::open(&folder, device, *number, PortCounter::ALL)
        };
        let counters = self.rdma.get_or_insert_with(open);
        let mut is_any = false;
        for (counter, value) in counters.read() {
            self.now.counters[counter] = value;
            is_any |= value.is_some();
        }
        if !is_any {
            // A device that vanishes takes its files with it.
            self.rdma = None;
        }
        is_any || self.now.gauges[PortGauge::RdmaState].is_some()
    }

    fn read_interface(&mut self) -> bool {
        let interface = self.port.interface.as_ref();
        interface.is_some_and(|name| link::read_interface(&self.sys, name, &mut self.now))
    }

    /// The interface, if it is an adapter's: what a virtual one counts is its queues.
    fn adapter(&self) -> Option<String> {
        let interface = self.port.interface.as_ref()?;
        let device = self.sys.join("class/net").join(interface).join("device");
        device.exists().then(|| interface.clone())
    }

    fn read_ethernet(&mut self, drivers: &mut Drivers) -> bool {
        let (Drivers::Kernel(socket), Some(interface)) = (drivers, self.adapter()) else {
            return false;
        };
        let mut has_told = self.read_statistics(&interface);
        // What the driver's own statistics leave open; they know pauses of priorities apart.
        if let Some(socket) = socket {
            let now = &mut self.now;
            self.questions.retain(|&question| {
                let told = match socket.about(&interface, question) {
                    Ok(told) => told,
                    Err(error) => {
                        let errno = error.raw_os_error();
                        return !matches!(errno, Some(libc::EOPNOTSUPP | libc::EINVAL));
                    }
                };
                has_told |= !told.counters.is_empty() || !told.gauges.is_empty();
                for (counter, value) in told.counters {
                    now.counters[counter].get_or_insert(value);
                }
                for (gauge, value) in told.gauges {
                    now.gauges[gauge].get_or_insert(value);
                }
                true
            });
        }
        has_told
    }

    fn read_statistics(&mut self, interface: &str) -> bool {
        let open = || ethtool::Counters::open(interface).ok().flatten();
        let Some(mut counters) = self.ethtool.take().or_else(open) else {
            return false;
        };
        // Where that fails it is opened again next time: settings change what there is.
        let Ok(reading) = counters.read() else {
            return false;
        };
        for (counter, value) in reading.counters() {
            self.now.counters[counter] = value;
        }
        for (gauge, value) in reading.gauges() {
            self.now.gauges[gauge] = value;
        }
        let priorities = &mut self.now.priorities;
        for (priority, counter, value) in reading.priorities() {
            priorities.resize_with(ethtool::PRIORITIES, Values::default);
            priorities[priority][counter] = value;
        }
        self.ethtool = Some(counters);
        true
    }

    fn read_pcie(&mut self) -> bool {
        let folder = match (&self.port.device, &self.port.interface) {
            (Some((device, _)), _) => self.sys.join("class/infiniband").join(device),
            (None, Some(interface)) => self.sys.join("class/net").join(interface),
            (None, None) => return false,
        };
        // As the bridges above it are found around its own place.
        let Ok(folder) = fs::canonicalize(folder.join("device")) else {
            return false;
        };
        let device = pcie::Device::read(&folder);
        let both = pcie::most(&device, pcie::upper_end(&device).as_ref());
        // Virtual functions say nothing of theirs.
        let most = device.link_max.and(both);
        for (link, speed, width) in [
            (device.link, PortGauge::PcieSpeed, PortGauge::PcieWidth),
            (most, PortGauge::PcieSpeedMax, PortGauge::PcieWidthMax),
        ] {
            self.now.gauges[speed] = link.map(|link| u64::from(link.speed_mts) * 1_000_000);
            self.now.gauges[width] = link.map(|link| u64::from(link.width));
        }
        device.link.is_some() || most.is_some()
    }

    fn read_module(&mut self, drivers: &mut Drivers) -> bool {
        self.line = None;
        let (Drivers::Kernel(Some(socket)), Some(interface)) = (drivers, self.adapter()) else {
            return false;
        };
        match module::read(socket, &interface) {
            Ok(module) => {
                for &(gauge, value) in &module.gauges {
                    self.now.gauges[gauge] = Some(value);
                }
                let lanes = module.lanes.iter();
                let by_gauge = |lane: &[_; LaneGauge::COUNT]| Values::new(|g| lane[g as usize]);
                self.now.lanes = lanes.map(by_gauge).collect();
                !module.gauges.is_empty()
            }
            Err(error) => {
                if error.kind() == ErrorKind::PermissionDenied {
                    self.line = Some(format!(
                        "{interface}: its transceiver cannot be read without CAP_NET_ADMIN: run as root to \
                         see its temperature and light"
                    ));
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO + Nanos::from_secs(100) + Nanos::from_millis(ms)
    }

    #[test]
    fn one_that_takes_long_is_asked_less_often() {
        let mut pace = Pace::every(Nanos::from_millis(10));
        assert!(pace.begins(at(0)));
        pace.begun = Timestamp::ZERO; // as if it had begun when the clock did
        pace.ends();
        assert!(!pace.begins(at(60_000)));
        let mut pace = Pace::every(Nanos::from_secs(10));
        assert!(pace.begins(at(0)));
        pace.ends();
        assert!(!pace.begins(at(9_999)));
        assert!(pace.begins(at(10_000)));
    }
}
