//! Prometheus' text format, version 0.0.4, which every scraper takes. All of the schema is told, so a metric
//! that is added to one of its tables needs nothing here.
//!
//! **Labels** of a process are its program, its number and its segment; of a device or class its name and the
//! role; of a link the peer, the role and the link's id, since one peer may have several; of a path or
//! connection its number there. Connections are told of only where they are asked for: there may be thousands,
//! and devices and classes have their sums. The ends of a path change
//! whenever it is dialled anew, so they are labels of one series only. Those of a port are its name, and its
//! interface, device and driver where it has them; then the number of the priority or lane. The host has none:
//! the scraper adds which it is. What a port or the host does not say is no sample, which is not zero. Series of
//! switches have the metric's name as a label, and all attributes as another: strangers choose them, and as names
//! of metrics and labels they could be taken for ours.
//!
//! **Histograms** have one bucket for each doubling from 1 us to 9 s, where the segment has eight from 1 ns
//! to half an hour. Bounds are bounds of the segment's buckets too, so no count is a guess: Prometheus'
//! include the bound itself, hence the 1 ns less.

use std::fmt::{self, Display, Write};

use super::{Recorded, Scrape};
use crate::telemetry::Role;
use crate::telemetry::histogram::{Counts, bucket_of};
use crate::telemetry::reader::{Link, Messages, PathNow, Total};
use crate::telemetry::schema::{
    BUILD_INFO, Exported, HostCounter, HostGauge, Kind, LaneGauge, LinkCounter, LinkGauge,
    MessageCounter, MessageHistogram, Metric, PATH_INFO, PORT_AGE, PROCESS_AGE, PROCESS_START,
    PROCESS_UP, PathCounter, PathGauge, PathHistogram, PortCounter, PortGauge, PriorityCounter,
    SWITCH_AGE, SWITCH_VALUE, Scope, Table, UNREADABLE_SEGMENTS, Unit,
};
use crate::telemetry::sources::switches::SwitchValue;
use crate::telemetry::sources::{HostNow, PortNow, Source};

/// What it is, for HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A process that ended longer ago is not told of.
const ENDED_MAX_NS: u64 = 3_600_000_000_000;
/// Bounds of a histogram's buckets, as powers of two.
const BOUNDS: std::ops::RangeInclusive<u32> = 10..=33;

/// All of it; each connection only where that is asked for.
#[must_use]
pub fn text(scrape: &Scrape, has_connections: bool) -> String {
    let mut text = Text(String::new());
    text.exported(
        BUILD_INFO,
        [(format!("version=\"{}\"", Escaped(scrape.version)), 1)],
    );
    let unreadable = scrape.unreadable_segments;
    text.exported(UNREADABLE_SEGMENTS, [(String::new(), unreadable)]);
    text.processes(&scrape.processes);
    text.messages(Scope::Device, &totals(&scrape.processes, Scope::Device));
    text.messages(Scope::Class, &totals(&scrape.processes, Scope::Class));
    let links = links(&scrape.processes);
    text.links(&links);
    text.paths(&parts(&links, "path", |link| {
        link.paths.iter().map(|path| (path.number, path))
    }));
    if has_connections {
        let connections = parts(&links, "connection", |link| {
            let connections = link.connections.iter();
            connections.map(|connection| (connection.number, &connection.messages))
        });
        text.messages(Scope::Connection, &connections);
    }
    if let Some(host) = &scrape.host {
        text.ports(host);
        text.host(host);
    }
    text.switches(&scrape.switches);
    text.0
}

fn labels(recorded: &Recorded) -> String {
    format!(
        "program=\"{}\",pid=\"{}\",segment=\"{}\"",
        Escaped(&recorded.process.program),
        recorded.process.pid,
        Escaped(&recorded.segment),
    )
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Sender => "sender",
        Role::Receiver => "receiver",
    }
}

/// The devices or classes of all processes that run.
fn totals(processes: &[Recorded], scope: Scope) -> Vec<(String, &Messages)> {
    let of_process = |of| {
        let of: &Recorded = of;
        let totals = match scope {
            Scope::Device => &of.process.devices,
            _ => &of.process.classes,
        };
        let with_labels = move |total| {
            let total: &Total = total;
            let (process, name) = (labels(of), Escaped(&total.name));
            let role = role(total.role);
            let labels = format!("{process},{scope}=\"{name}\",role=\"{role}\"");
            (labels, &total.messages)
        };
        totals.iter().map(with_labels)
    };
    let running = processes.iter().filter(|of| of.process.is_alive);
    running.flat_map(of_process).collect()
}

/// With their labels. What a process left behind that has ended is not as it is now.
fn links(processes: &[Recorded]) -> Vec<(String, &Link)> {
    let running = processes.iter().filter(|of| of.process.is_alive);
    let links = running.flat_map(|of| of.process.links.iter().map(move |link| (of, link)));
    let with_labels = links.map(|(of, link)| {
        let (process, peer) = (labels(of), Escaped(&link.peer));
        let (role, id) = (role(link.role), link.id);
        let labels = format!("{process},peer=\"{peer}\",role=\"{role}\",link=\"{id}\"");
        (labels, link)
    });
    with_labels.collect()
}

fn port_labels(port: &PortNow) -> String {
    let mut labels = format!("port=\"{}\"", Escaped(&port.name));
    let device = port.device.as_ref().map(|(device, _)| device);
    for (label, value) in [
        ("interface", port.interface.as_ref()),
        ("device", device),
        ("driver", port.driver.as_ref()),
    ] {
        if let Some(value) = value {
            // A string takes everything.
            let _ = write!(labels, ",{label}=\"{}\"", Escaped(value));
        }
    }
    labels
}

/// The parts of each link or port with their labels, by their numbers.
fn parts<'a, S, P, I: Iterator<Item = (u32, &'a P)>>(
    wholes: &[(String, &'a S)],
    label: &str,
    of: impl Fn(&'a S) -> I,
) -> Vec<(String, &'a P)> {
    let mut all = Vec::new();
    for (labels, whole) in wholes {
        let with_labels = |(number, part)| (format!("{labels},{label}=\"{number}\""), part);
        all.extend(of(whole).map(with_labels));
    }
    all
}

/// `host=leaf1,port=1`, so that different attributes are different labels.
fn switch_labels(of: &SwitchValue) -> String {
    let mut attributes = String::new();
    for (key, value) in &of.attributes {
        if !attributes.is_empty() {
            attributes.push(',');
        }
        for (text, end) in [(key, "="), (value, "")] {
            for c in text.chars() {
                if matches!(c, ',' | '=' | '\\') {
                    attributes.push('\\');
                }
                attributes.push(c);
            }
            attributes += end;
        }
    }
    let (metric, attributes) = (Escaped(&of.metric), Escaped(&attributes));
    format!("metric=\"{metric}\",attributes=\"{attributes}\"")
}

/// The text so far. A family without samples is left out.
struct Text(String);

impl Text {
    fn processes(&mut self, processes: &[Recorded]) {
        let is_told = |of: &&Recorded| of.process.is_alive || of.process.age_ns <= ENDED_MAX_NS;
        let told: Vec<_> = processes.iter().filter(is_told).collect();
        let up = |of: &&Recorded| (labels(of), u8::from(of.process.is_alive));
        let age = |of: &&Recorded| (labels(of), InBase(of.process.age_ns, Unit::Nanoseconds));
        let start = |of: &&Recorded| {
            (
                labels(of),
                InBase(of.process.started_wall_ns, Unit::Nanoseconds),
            )
        };
        self.exported(PROCESS_UP, told.iter().map(up));
        self.exported(PROCESS_AGE, told.iter().map(age));
        self.exported(PROCESS_START, told.iter().map(start));
    }

    fn messages(&mut self, scope: Scope, of: &[(String, &Messages)]) {
        for &counter in MessageCounter::ALL {
            self.number(counter.metric().of(scope), of, |of| {
                Some(of.counters[counter])
            });
        }
        for &histogram in MessageHistogram::ALL {
            self.histogram(histogram.metric().of(scope), of, |of| {
                &of.histograms[histogram]
            });
        }
    }

    fn links(&mut self, links: &[(String, &Link)]) {
        self.numbers::<LinkCounter, _>(links, |link, of| Some(link.counters[of]));
        self.numbers::<LinkGauge, _>(links, |link, of| Some(link.gauges[of]));
    }

    fn paths(&mut self, paths: &[(String, &PathNow)]) {
        self.numbers::<PathCounter, _>(paths, |path, of| Some(path.counters[of]));
        self.numbers::<PathGauge, _>(paths, |path, of| Some(path.gauges[of]));
        for &about in PathHistogram::ALL {
            self.histogram(about.metric(), paths, |path| &path.histograms[about]);
        }
        let ends = |(labels, path): &(String, &PathNow)| {
            let (local, remote) = path.ends.split_once("->")?;
            let (local, remote) = (Escaped(local), Escaped(remote));
            Some((format!("{labels},local=\"{local}\",remote=\"{remote}\""), 1))
        };
        self.exported(PATH_INFO, paths.iter().filter_map(ends));
    }

    fn ports(&mut self, host: &HostNow) {
        let with_labels = |port| (port_labels(port), port);
        let ports: Vec<_> = host.ports.iter().map(with_labels).collect();
        self.numbers::<PortCounter, _>(&ports, |port, of| port.counters[of]);
        self.numbers::<PortGauge, _>(&ports, |port, of| port.gauges[of]);
        let priorities = parts(&ports, "priority", |port| (0..).zip(&port.priorities));
        self.numbers::<PriorityCounter, _>(&priorities, |priority, of| priority[of]);
        let lanes = parts(&ports, "lane", |port| (0..).zip(&port.lanes));
        self.numbers::<LaneGauge, _>(&lanes, |lane, of| lane[of]);
        let ages = ports.iter().flat_map(|(labels, port)| {
            let age = move |source: Source| {
                let age = InBase(port.ages_ns[source]?, Unit::Nanoseconds);
                Some((format!("{labels},source=\"{source}\""), age))
            };
            Source::ALL.into_iter().filter_map(age)
        });
        self.exported(PORT_AGE, ages);
    }

    fn host(&mut self, host: &HostNow) {
        let host = [(String::new(), &host.host)];
        self.numbers::<HostCounter, _>(&host, |host, of| host.counters[of]);
        self.numbers::<HostGauge, _>(&host, |host, of| host.gauges[of]);
    }

    fn switches(&mut self, switches: &[SwitchValue]) {
        let with_labels: Vec<_> = switches.iter().map(|of| (switch_labels(of), of)).collect();
        let values = with_labels
            .iter()
            .map(|(labels, of)| (labels.clone(), of.value));
        self.exported(SWITCH_VALUE, values);
        let ages = with_labels
            .iter()
            .map(|(labels, of)| (labels.clone(), InBase(of.age_ns, Unit::Nanoseconds)));
        self.exported(SWITCH_AGE, ages);
    }

    /// The counters or gauges of one table.
    fn numbers<T: Table, S>(&mut self, of: &[(String, &S)], value: impl Fn(&S, T) -> Option<u64>) {
        for &about in T::ALL {
            self.number(about.metric(), of, |of| value(of, about));
        }
    }

    fn number<S>(
        &mut self,
        metric: Metric,
        of: &[(String, &S)],
        value: impl Fn(&S) -> Option<u64>,
    ) {
        let name = metric.prometheus();
        let told = |(labels, of): &'_ (String, &S)| Some((labels.clone(), value(of)?));
        let mut samples = of.iter().filter_map(told).peekable();
        if samples.peek().is_some() {
            self.head(&name, metric.kind, metric.help);
        }
        for (labels, value) in samples {
            self.sample(&name, &labels, InBase(value, metric.unit));
        }
    }

    fn histogram<S>(
        &mut self,
        metric: Metric,
        of: &[(String, &S)],
        counts: impl Fn(&S) -> &Counts,
    ) {
        let name = metric.prometheus();
        if !of.is_empty() {
            self.head(&name, metric.kind, metric.help);
        }
        let bucket = format!("{name}_bucket");
        let bounds = bounds(metric.unit);
        for (labels, of) in of {
            let counts = counts(of);
            let (mut below, mut seen) = (0, 0u64);
            for (end, le) in &bounds {
                let here = counts.buckets.get(below..*end).unwrap_or_default();
                seen = here
                    .iter()
                    .fold(seen, |sum, count| sum.wrapping_add(*count));
                below = *end;
                self.sample(&bucket, &format!("{labels},le=\"{le}\""), seen);
            }
            let count = counts.count();
            self.sample(&bucket, &format!("{labels},le=\"+Inf\""), count);
            let sum = InBase(counts.sum, metric.unit);
            self.sample(&format!("{name}_sum"), labels, sum);
            self.sample(&format!("{name}_count"), labels, count);
        }
    }

    fn exported<V: Display>(
        &mut self,
        metric: Exported,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_some() {
            self.head(metric.name, Kind::Gauge, metric.help);
        }
        for (labels, value) in samples {
            self.sample(metric.name, &labels, value);
        }
    }

    fn head(&mut self, name: &str, kind: Kind, help: &str) {
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        match labels {
            "" => self.push(format_args!("{name} {value}\n")),
            labels => self.push(format_args!("{name}{{{labels}}} {value}\n")),
        }
    }

    fn push(&mut self, what: fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = self.0.write_fmt(what);
    }
}

/// Where a histogram's buckets end: before which of the segment's, and as a label.
fn bounds(unit: Unit) -> Vec<(usize, String)> {
    let bound = |power| {
        let end = 1u64 << power;
        (
            bucket_of(end),
            canonical(&InBase(end - 1, unit).to_string()),
        )
    };
    BOUNDS.map(bound).collect()
}

/// As Prometheus writes a number down itself, so that it is the same label for releases that write bounds
/// anew and for those that do not: below 0.0001 with an exponent of two digits.
fn canonical(number: &str) -> String {
    let fraction = number.strip_prefix("0.").unwrap_or_default();
    let digits = fraction.trim_start_matches('0');
    let exponent = fraction.len() - digits.len() + 1;
    if digits.is_empty() || exponent < 5 {
        return number.to_owned();
    }
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    format!("{first}{point}{rest}e-{exponent:02}")
}

/// A value in the unit that Prometheus is told, to the last digit.
struct InBase(u64, Unit);

impl Display for InBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value, unit) = self;
        let (whole, rest) = (value / unit.per_base(), value % unit.per_base());
        if rest == 0 {
            return write!(f, "{whole}");
        }
        // Units differ by powers of ten.
        let digits = unit.per_base().ilog10() as usize;
        let fraction = format!("{rest:0digits$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

/// A label's value.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str(r"\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str(r"\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::histogram::{BUCKETS, least_of};

    #[test]
    fn seconds_are_exact() {
        let seconds = |nanos| InBase(nanos, Unit::Nanoseconds).to_string();
        let told = [0, 1, 1_500_000_000, 20_000_000_000, u64::MAX].map(seconds);
        let expected = ["0", "0.000000001", "1.5", "20", "18446744073.709551615"];
        assert_eq!(told, expected);
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(Escaped("a\"b\\c\nd").to_string(), r#"a\"b\\c\nd"#);
    }

    #[test]
    fn bounds_are_written_as_prometheus_does() {
        let told = [
            "0.000001023",
            "0.00001",
            "0.0001",
            "0.000131071",
            "1.5",
            "0",
        ]
        .map(canonical);
        let expected = ["1.023e-06", "1e-05", "0.0001", "0.000131071", "1.5", "0"];
        assert_eq!(told, expected);
    }

    #[test]
    fn bounds_are_where_buckets_of_the_segment_end() {
        for (power, (end, _)) in BOUNDS.zip(bounds(Unit::Nanoseconds)) {
            assert_eq!(least_of(end), 1 << power);
        }
    }

    proptest! {
        #[test]
        fn a_histograms_counts_are_exact(
            values in prop::collection::vec((0u32..42).prop_flat_map(|bits| 0u64..1 << bits), 0..99),
        ) {
            let mut counts = Counts { sum: values.iter().sum(), buckets: vec![0; BUCKETS] };
            for &value in &values {
                counts.buckets[bucket_of(value)] += 1;
            }
            let mut text = Text(String::new());
            let metric = PathHistogram::Delay.metric();
            text.histogram(metric, &[(String::from("a=\"b\""), &counts)], |counts| counts);
            for line in text.0.lines().filter(|line| line.contains("_bucket")) {
                let (_, rest) = line.split_once("le=\"").unwrap();
                let (le, count) = rest.split_once("\"} ").unwrap();
                let le: f64 = le.parse().unwrap();
                let seconds = |nanos| InBase(nanos, Unit::Nanoseconds).to_string();
                let below = |nanos: &u64| seconds(*nanos).parse::<f64>().unwrap() <= le;
                let expected = values.iter().copied().filter(below).count();
                prop_assert_eq!(count.parse(), Ok(expected), "{}", line);
            }
        }
    }
}
