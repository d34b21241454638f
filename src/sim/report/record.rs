//! What the fabric looked like over time, in a fixed number of samples whatever the length of
//! the run: when they are full, neighbours are joined and samples taken half as often.

use crate::sim::fabric::Fabric;
use crate::sim::scenario::is_inside;
use crate::sim::time::Picos;
use crate::sim::topology::{End, Topology};

/// Samples are joined when there are so many.
const SAMPLES_MAX: usize = 400;
/// Rows of the heat map; where there are more links, those of one switch share a row.
const ROWS_MAX: usize = 320;

/// One row of the heat map.
#[derive(Debug, Clone)]
pub struct Row {
    /// The link, or the switch whose links these are.
    pub name: String,
    ports: Vec<u32>,
    /// Bytes that it carried in each sample.
    pub bytes: Vec<u64>,
    /// Bytes that it carries in a sample when it is busy all the time.
    capacity: f64,
    seen: u64,
}

/// Records what a run looked like.
#[derive(Debug, Clone)]
pub struct Recorder {
    interval: Picos,
    next: Picos,
    /// The links between switches.
    rows: Vec<Row>,
    /// Most bytes of data waiting at any one port at the time of a sample.
    queue_max_bytes: Vec<u64>,
    /// Bytes of data waiting in all switches.
    queued_bytes: Vec<u64>,
    /// Bytes that arrived at hosts in each sample.
    arrived_bytes: Vec<u64>,
    arrived_before: u64,
    switch_ports: Vec<u32>,
    last_ports: Vec<u32>,
}

impl Recorder {
    /// Samples of `interval` at first.
    #[must_use]
    pub fn new(topology: &Topology, interval: Picos) -> Self {
        let ports = topology.ports();
        let count = ports.len() as u32;
        let mut inside: Vec<u32> = (0..count)
            .filter(|&port| is_inside(topology, port))
            .collect();
        // What leaves one switch stands together, not each link's two directions.
        inside.sort_by_key(|&port| {
            let port = &ports[port as usize];
            (port.from.index(), port.to.index())
        });
        let leaving = |switch: u32| {
            let from = move |port: &u32| ports[*port as usize].from == End::Switch(switch);
            inside.iter().copied().filter(from).collect::<Vec<u32>>()
        };
        let groups: Vec<(String, Vec<u32>)> = if inside.len() <= ROWS_MAX {
            let name = |end| topology.end_name(end);
            let one = |&port: &u32| {
                let spec = &ports[port as usize];
                (
                    format!("{} → {}", name(spec.from), name(spec.to)),
                    vec![port],
                )
            };
            inside.iter().map(one).collect()
        } else {
            // Several switches share a row where there are still too many.
            let switches = topology.switches();
            let each = (switches as usize).div_ceil(ROWS_MAX) as u32;
            let row = |first: u32| {
                let last = (first + each).min(switches) - 1;
                let mut name = topology.switch_name(first).to_owned();
                if last > first {
                    name = format!("{name} – {}", topology.switch_name(last));
                }
                (name, (first..=last).flat_map(&leaving).collect())
            };
            (0..switches)
                .step_by(each.max(1) as usize)
                .map(row)
                .collect()
        };
        let rows = groups
            .into_iter()
            .filter(|(_, group)| !group.is_empty())
            .map(|(name, group)| Row {
                capacity: group
                    .iter()
                    .map(|&port| per_pico(ports[port as usize].rate.0))
                    .sum(),
                name,
                ports: group,
                bytes: Vec::new(),
                seen: 0,
            })
            .collect();
        Self {
            interval,
            next: interval,
            rows,
            queue_max_bytes: Vec::new(),
            queued_bytes: Vec::new(),
            arrived_bytes: Vec::new(),
            arrived_before: 0,
            switch_ports: (0..count)
                .filter(|&port| !ports[port as usize].from.is_host())
                .collect(),
            last_ports: (0..count)
                .filter(|&port| ports[port as usize].to.is_host())
                .collect(),
        }
    }

    /// When the next sample is due.
    #[must_use]
    pub fn next(&self) -> Picos {
        self.next
    }

    /// Takes a sample.
    pub fn observe(&mut self, now: Picos, fabric: &Fabric) {
        let backlog = self.switch_ports.iter().map(|&port| fabric.backlog(port));
        let (most, sum) = backlog.fold((0, 0), |(most, sum), bytes| (bytes.max(most), sum + bytes));
        self.queue_max_bytes.push(most);
        self.queued_bytes.push(sum);
        let arrived: u64 = self
            .last_ports
            .iter()
            .map(|&port| fabric.stats(port).bytes)
            .sum();
        self.arrived_bytes.push(arrived - self.arrived_before);
        self.arrived_before = arrived;
        for row in &mut self.rows {
            let carried: u64 = row.ports.iter().map(|&port| fabric.stats(port).bytes).sum();
            row.bytes.push(carried - row.seen);
            row.seen = carried;
        }
        self.next = now + self.interval;
        if self.queue_max_bytes.len() >= SAMPLES_MAX {
            self.halve();
        }
    }

    fn halve(&mut self) {
        join(&mut self.queue_max_bytes, u64::max);
        join(&mut self.queued_bytes, u64::max);
        join(&mut self.arrived_bytes, |a, b| a + b);
        self.rows
            .iter_mut()
            .for_each(|row| join(&mut row.bytes, |a, b| a + b));
        self.next += self.interval;
        self.interval = self.interval * 2;
    }

    /// Length of a sample.
    #[must_use]
    pub fn interval(&self) -> Picos {
        self.interval
    }

    /// Most bytes of data waiting at any one port, by sample.
    #[must_use]
    pub fn queue_max_bytes(&self) -> &[u64] {
        &self.queue_max_bytes
    }

    /// Bytes of data waiting in all switches, by sample.
    #[must_use]
    pub fn queued_bytes(&self) -> &[u64] {
        &self.queued_bytes
    }

    /// Bits a second that arrived at hosts, by sample.
    #[must_use]
    pub fn arrived_rate(&self) -> Vec<f64> {
        let seconds = self.interval.as_micros_f64() / 1e6;
        self.arrived_bytes
            .iter()
            .map(|&bytes| to_float(bytes) * 8.0 / seconds)
            .collect()
    }

    /// The rows of the heat map: each with its share of time busy, by sample, from 0 to 1.
    #[must_use]
    pub fn utilisation(&self) -> Vec<(&str, Vec<f64>)> {
        let picos = to_float(self.interval.0);
        let rows = self.rows.iter();
        rows.map(|row| {
            let full = row.capacity * picos;
            let busy = row
                .bytes
                .iter()
                .map(|&bytes| (to_float(bytes) / full).min(1.0));
            (row.name.as_str(), busy.collect())
        })
        .collect()
    }
}

/// Joins neighbours.
fn join(values: &mut Vec<u64>, with: impl Fn(u64, u64) -> u64) {
    *values = values
        .chunks(2)
        .map(|pair| match *pair {
            [a, b] => with(a, b),
            [a] => a,
            _ => 0,
        })
        .collect();
}

fn per_pico(bytes_per_second: u64) -> f64 {
    to_float(bytes_per_second) / 1e12
}

#[expect(clippy::cast_precision_loss, reason = "a figure to show")]
pub(super) fn to_float(number: u64) -> f64 {
    number as f64
}
