//! The page: no script, nothing loaded from elsewhere, light or dark as the reader's system is, to be read on a
//! telephone and on paper too.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::messages::Of;
use super::series::{Line, LinkRun, PathRun, PortRun, Report, Span, State};
use crate::cli::paths::{self, state};
use crate::cli::ports::{TROUBLES, Trouble};
use crate::cli::wall_text;
use crate::sim::report::chart::{
    COLOURS, Chart, HeatMap, Hint, Line as Curve, Mark, STYLE, escaped, step_of,
};
use crate::telemetry::Role;
use crate::telemetry::event::Verdict;
use crate::telemetry::schema::{LINK_TIMES, LinkCounter, MessageCounter, MessageHistogram};
use crate::telemetry::snapshot::per_second;
use crate::telemetry::verdict::Verdicts;

/// Rows of tables and maps; the rest is told of.
const LINKS_MAX: usize = 256;
const MESSAGES_MAX: usize = 64;
const PORTS_MAX: usize = 64;
const TROUBLES_MAX: usize = 40;
/// More ports than this are drawn as a map instead of lines.
const PORT_LINES_MAX: usize = 4;
const PEERS_MAX: usize = 64;
const EVENTS_MAX: usize = 500;
const FINDINGS_MAX: usize = 32;
const UNREADABLE_MAX: usize = 20;
/// Columns of the map of peers.
const PROCESSES_MAX: usize = 16;
/// Parts of a chart that say what they are when pointed at.
const HINTS_MAX: usize = 120;

/// What times of a link are spent on, in the order of their bars, with a colour each.
const TIMES: [(LinkCounter, &str); LINK_TIMES.len()] = [
    (LinkCounter::NetworkTime, "f1"),
    (LinkCounter::AckTime, "f6"),
    (LinkCounter::CreditTime, "f3"),
    (LinkCounter::GrantTime, "f4"),
    (LinkCounter::ReceiverTime, "f5"),
    (LinkCounter::SenderTime, "f0"),
    (LinkCounter::HostTime, "f2"),
    (LinkCounter::IdleTime, "idle"),
];

const OWN_STYLE: &str = "
body{max-width:76rem}th,td{padding:.25rem .55rem}.wide svg{min-width:44rem}h3{font-size:1rem;margin:1.2rem 0 .2rem}a{color:inherit}
td.word,th.word{text-align:left}td.text{text-align:left;white-space:normal;min-width:18rem}
.bar{display:flex;width:5.5rem;height:.9rem;background:var(--u0)}.bar span{height:100%}
.key span{display:inline-block;white-space:nowrap;margin-right:1rem}.key i{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem;vertical-align:-.05rem}
.f0{background:var(--c0)}.f1{background:var(--c1)}.f2{background:var(--c2)}.f3{background:var(--c3)}.f4{background:var(--c4)}.f5{background:var(--c5)}.f6{background:var(--c6)}.idle{background:var(--line)}
.heat td{border:1px solid var(--page);text-align:right}.heat td:first-child{text-align:left;padding-right:1rem}
.u0{background:var(--u0)}.u1{background:var(--u1)}.u2{background:var(--u2)}.u3{background:var(--u3)}.u4{background:var(--u4)}.u5{background:var(--u5)}.u6{background:var(--u6)}.u7{background:var(--u7)}.u8{background:var(--u8)}
.u5,.u6,.u7,.u8{color:var(--page)}.finding{border-left:3px solid var(--c1);padding-left:.8rem;margin:.8rem 0}.finding p{color:var(--ink);margin:0}.finding ul{margin:.2rem 0;padding-left:1.2rem;color:var(--soft)}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
@media print{:root{font-size:10px}body{max-width:none;margin:0;font-size:1rem}th,td{padding:.2rem .35rem;white-space:normal}.wide{overflow:visible}.wide svg{min-width:0}td.text{min-width:0}h2,h3{break-after:avoid}svg,tr,.finding{break-inside:avoid}}
";

/// A page of a report.
pub(super) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{0} – thalweg report</title><style>{STYLE}{OWN_STYLE}</style></head>\
         <body>\n<h1>What thalweg recorded on {0}</h1>\n",
        escaped(report.host)
    );
    head(&mut page, report);
    verdicts(&mut page, &report.verdicts);
    processes(&mut page, report);
    if report.windows.is_empty() {
        page.push_str("<p>What was carried is told from two snapshots on.</p>\n");
    } else if report.links.is_empty() {
        page.push_str("<p>No process had a link.</p>\n");
        ports(&mut page, report);
    } else {
        links(&mut page, report);
        peers(&mut page, report);
        over_time(&mut page, report);
        messages(&mut page, report);
        ports(&mut page, report);
        for (place, link) in report.links.iter().enumerate() {
            if link.is_in_full {
                in_full(&mut page, report, place, link);
            }
        }
    }
    events(&mut page, report);
    page.push_str("</body></html>\n");
    page
}

fn head(page: &mut String, report: &Report) {
    let (from, to) = (report.from_wall_ns, report.to_wall_ns);
    let _ = write!(
        page,
        "<p>{} {} to {}{} UTC, {}: {} snapshots, one every {}.",
        date(from),
        wall(from),
        if date(from) == date(to) {
            String::new()
        } else {
            format!("{} ", date(to))
        },
        wall(to),
        time(to.saturating_sub(from)),
        report.snapshots,
        time(report.interval_ms.saturating_mul(1_000_000)),
    );
    let taken = report.snapshots.saturating_sub(1);
    if taken > report.windows.len() && !report.windows.is_empty() {
        let _ = write!(
            page,
            " Curves have {} points, of {} or {} snapshots each.",
            report.windows.len(),
            taken / report.windows.len(),
            taken.div_ceil(report.windows.len()),
        );
    }
    let _ = writeln!(
        page,
        " Recorded by thalweg {}.</p>",
        escaped(report.version)
    );
    if !report.unreadable.is_empty() {
        let mut lines: Vec<_> = report.unreadable.iter().map(String::as_str).collect();
        let more = lines.len().saturating_sub(UNREADABLE_MAX);
        let more = format!("and {more} more; --json has them all");
        if lines.len() > UNREADABLE_MAX {
            lines.truncate(UNREADABLE_MAX);
            lines.push(&more);
        }
        let _ = writeln!(page, "<pre>{}</pre>", escaped(&lines.join("\n")));
    }
}

fn verdicts(page: &mut String, verdicts: &Verdicts) {
    if *verdicts == Verdicts::default() {
        return;
    }
    let findings = &verdicts.findings;
    let says = verdicts.sum_up();
    let (first, rest) = says.split_at(1);
    let _ = writeln!(
        page,
        "<h2>Verdicts</h2><p>{}{rest}.</p>",
        first.to_uppercase()
    );
    for finding in findings.iter().take(FINDINGS_MAX) {
        let _ = write!(
            page,
            "<div class=\"finding\"><p><strong>{}: {}</strong> ({}\u{a0}% sure)</p><p>{}</p><ul>",
            escaped(&finding.subject.to_string()),
            finding.cause.name(),
            finding.confidence_percent,
            escaped(&finding.says)
        );
        for line in &finding.evidence {
            let _ = write!(page, "<li>{}</li>", escaped(line));
        }
        page.push_str("</ul></div>\n");
    }
    if findings.len() > FINDINGS_MAX {
        let more = findings.len() - FINDINGS_MAX;
        let _ = writeln!(
            page,
            "<p>{more} more are left out; --json has them all.</p>"
        );
    }
}

fn processes(page: &mut String, report: &Report) {
    page.push_str("<h2>Processes</h2>\n");
    if report.processes.is_empty() {
        page.push_str("<p>There were none.</p>\n");
        return;
    }
    let mut table = Rows::new(
        page,
        &[
            ("process", false),
            ("links", false),
            ("began", true),
            ("seen from", true),
            ("to", true),
            ("at the end", true),
        ],
    );
    for process in &report.processes {
        let began = process.started_wall_ns;
        table.row(&[
            (format!("{} {}", process.program, process.pid), ""),
            (process.links.to_string(), ""),
            (format!("{} {}", date(began), wall(began)), "word"),
            (wall(process.seen.from_wall_ns), "word"),
            (wall(process.seen.to_wall_ns), "word"),
            (
                match process.state {
                    State::Runs => "runs",
                    State::Ended => "ended without closing",
                    State::Closed => "closed",
                }
                .to_owned(),
                "word",
            ),
        ]);
    }
    table.end();
}

fn links(page: &mut String, report: &Report) {
    let count = report.links.iter().filter(|link| link.is_in_full).count();
    let _ = writeln!(
        page,
        "<h2>Links</h2><p>The busiest first. Delay is from a chunk's departure to the word that it has arrived, over the whole \
         recording. What held a link up is a share of its time.{}</p>",
        if count < report.links.len() {
            format!(
                " The first {count} are shown with all their paths below; --links says how many."
            )
        } else {
            String::new()
        }
    );
    page.push_str("<p class=\"key\">");
    for (time, class) in TIMES {
        let name = spent_on(time);
        let _ = write!(page, "<span><i class=\"{class}\"></i>{name}</span>");
    }
    page.push_str("</p>\n");
    let mut table = Rows::new(
        page,
        &[
            ("link", false),
            ("carried", false),
            ("mean Gb/s", false),
            ("delay p50", false),
            ("p99", false),
            ("messages", false),
            ("fences", false),
            ("replays", false),
            ("held up by", true),
            ("mostly", true),
        ],
    );
    for (place, link) in report.links.iter().take(LINKS_MAX).enumerate() {
        let name = escaped(&name(link));
        let name = if link.is_in_full {
            format!("<a href=\"#link-{place}\">{name}</a>")
        } else {
            name
        };
        let waits = waits(link);
        let mostly = waits.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let mostly = mostly.map_or_else(unknown, |(of, share)| {
            format!("{}, {:.0}\u{a0}%", spent_on(TIMES[*of].0), share * 100.0)
        });
        let mut messages = link.counters[LinkCounter::Messages].to_string();
        let failures = link.counters[LinkCounter::Failures];
        if failures > 0 {
            let _ = write!(messages, ", {failures} failed");
        }
        let _ = write!(table.page, "<tr><td>{name}</td>");
        table.cells(&[
            (bytes(link.carried_bytes), ""),
            (gigabits(link.mean_bytes_per_s), ""),
            (link.delay_p50_ns.map_or_else(unknown, time), ""),
            (link.delay_p99_ns.map_or_else(unknown, time), ""),
            (messages, ""),
            (link.fences.to_string(), ""),
            (link.replays.to_string(), ""),
        ]);
        let _ = write!(
            table.page,
            "<td>{}</td><td class=\"word\">{mostly}</td></tr>",
            bar(&waits)
        );
    }
    table.end();
    more(page, report.links.len(), LINKS_MAX, "links");
}

fn spent_on(time: LinkCounter) -> &'static str {
    let mut names = LINK_TIMES.iter();
    names
        .find(|(of, _)| *of == time)
        .map_or("", |(_, name)| name)
}

/// Shares of a link's time, by places in [`TIMES`].
fn waits(link: &LinkRun) -> Vec<(usize, f64)> {
    let times = TIMES.map(|(counter, _)| float(link.counters[counter]));
    let all: f64 = times.iter().sum();
    let shares = times.iter().enumerate();
    let shares = shares.map(|(place, time)| (place, time / all));
    shares.filter(|(_, share)| *share > 0.0).collect()
}

fn bar(waits: &[(usize, f64)]) -> String {
    let mut bar = String::from("<div class=\"bar\">");
    for &(of, share) in waits {
        let (time, class) = TIMES[of];
        let name = spent_on(time);
        let percent = share * 100.0;
        let _ = write!(
            bar,
            "<span class=\"{class}\" style=\"width:{percent:.2}%\" title=\"{name}: {percent:.1} %\"></span>"
        );
    }
    bar.push_str("</div>");
    bar
}

/// Between a process and a peer.
#[derive(Default)]
struct Between {
    /// To the peer and from it.
    carried: [u64; 2],
    /// The worst of its links.
    p99_ns: Option<u64>,
}

fn peers(page: &mut String, report: &Report) {
    let mut cells: BTreeMap<(&str, (u64, &str)), Between> = BTreeMap::new();
    let mut peers: BTreeMap<&str, u64> = BTreeMap::new();
    let mut columns: BTreeMap<(u64, &str), u64> = BTreeMap::new();
    for link in &report.links {
        let column = (link.pid, link.program.as_str());
        let cell = cells.entry((&link.peer, column)).or_default();
        let way = &mut cell.carried[usize::from(link.role == Role::Receiver)];
        *way = way.saturating_add(link.carried_bytes);
        cell.p99_ns = cell.p99_ns.max(link.delay_p99_ns);
        let add = |sum: &mut u64| *sum = sum.saturating_add(link.carried_bytes);
        add(peers.entry(&link.peer).or_default());
        add(columns.entry(column).or_default());
    }
    let (all_peers, all_columns) = (peers.len(), columns.len());
    let peers = busiest(peers, PEERS_MAX);
    let columns = busiest(columns, PROCESSES_MAX);
    page.push_str(
        "<h2>Peers</h2><p>What went between each process of this host and each peer, and the worst delay p99 there; \
         the stronger the colour, the more. A row or column unlike the others is where to look.</p>\n",
    );
    let most = |of: &dyn Fn(&Between) -> u64| cells.values().map(of).max().unwrap_or(0);
    let carried = |cell: &Between| cell.carried[0].saturating_add(cell.carried[1]);
    let delay = |cell: &Between| cell.p99_ns.unwrap_or(0);
    let (most_carried, most_delay) = (most(&carried), most(&delay));
    let maps: [(&str, CellOf); 2] = [
        ("carried", &|cell| {
            let title = format!(
                "to {}, from {}",
                bytes(cell.carried[0]),
                bytes(cell.carried[1])
            );
            Some((
                bytes(carried(cell)),
                share(carried(cell), most_carried),
                title,
            ))
        }),
        ("delay p99", &|cell| {
            let p99 = cell.p99_ns?;
            Some((time(p99), share(p99, most_delay), String::new()))
        }),
    ];
    for (what, cell) in maps {
        if cells.values().all(|found| cell(found).is_none()) {
            continue;
        }
        let _ = write!(
            page,
            "<h3>{what}</h3><div class=\"wide\"><table class=\"heat\"><tr><th>peer</th>"
        );
        for (pid, program) in &columns {
            let _ = write!(page, "<th>{} {pid}</th>", escaped(program));
        }
        page.push_str("</tr>\n");
        for peer in &peers {
            let _ = write!(page, "<tr><td>{}</td>", escaped(shown(peer)));
            for column in &columns {
                match cells.get(&(*peer, *column)).and_then(cell) {
                    Some((text, share, title)) => {
                        let _ = write!(
                            page,
                            "<td class=\"u{}\" title=\"{title}\">{text}</td>",
                            step_of(share)
                        );
                    }
                    None => page.push_str("<td></td>"),
                }
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</table></div>\n");
    }
    more(page, all_peers, PEERS_MAX, "peers");
    more(page, all_columns, PROCESSES_MAX, "processes");
}

/// Text, share of the most, and what more there is to say.
type Cell = (String, f64, String);
type CellOf<'a> = &'a dyn Fn(&Between) -> Option<Cell>;

/// So many of those with most, in their own order.
fn busiest<T: Ord + Copy>(all: BTreeMap<T, u64>, most: usize) -> Vec<T> {
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    all.truncate(most);
    let mut all: Vec<_> = all.into_iter().map(|(of, _)| of).collect();
    all.sort_unstable();
    all
}

/// All links over time, as a map.
fn over_time(page: &mut String, report: &Report) {
    let links: Vec<_> = report.links.iter().take(PEERS_MAX).collect();
    let axis = Axis::of(report);
    let rates = links
        .iter()
        .map(|link| samples(report, |window| rate(&report.windows, &link.bytes, window)));
    let rates: Vec<_> = rates.collect();
    let highest = rates.iter().flatten().copied().fold(0.0, f64::max);
    if highest == 0.0 || links.len() < 2 {
        return;
    }
    let names: Vec<_> = links.iter().map(|link| name(link)).collect();
    let shares = rates.iter().map(|rates| {
        let shares = rates.iter().map(|rate| rate / highest);
        shares.collect()
    });
    let map = HeatMap {
        title: "throughput of each link over time".to_owned(),
        across: axis.title.clone(),
        scale: (
            "throughput of a link".to_owned(),
            format!("0 to {highest:.3} Gb/s"),
        ),
        rows: names.iter().map(String::as_str).zip(shares).collect(),
        across_max: axis.end,
        sample: axis.end / float(report.windows.len() as u64),
    };
    let _ = writeln!(
        page,
        "<h2>Links over time</h2><p>What each link carried, the busiest first.</p>\n<div class=\"wide\">{}</div>",
        map.to_svg()
    );
    more(page, report.links.len(), PEERS_MAX, "links");
}

/// What holds in each window, for a map: it has samples of one length, windows may have several.
fn samples(report: &Report, value: impl Fn(usize) -> Option<f64>) -> Vec<f64> {
    let count = report.windows.len();
    let length = (report.to_wall_ns - report.from_wall_ns) / count as u64;
    let mut window = 0;
    let sample = |sample: u64| {
        let middle = report.from_wall_ns + length * sample + length / 2;
        while window + 1 < count && report.windows[window].to_wall_ns <= middle {
            window += 1;
        }
        value(window).unwrap_or(f64::NAN)
    };
    (0..count as u64).map(sample).collect()
}

/// The host's ports: what they carried, and what went wrong on them.
fn ports(page: &mut String, report: &Report) {
    if report.ports.is_empty() {
        return;
    }
    let is_told = |trouble: &&Trouble| report.ports.iter().any(|p| p.total(trouble).is_some());
    let told: Vec<_> = TROUBLES.into_iter().filter(is_told).collect();
    page.push_str(
        "<h2>Ports</h2><p>This host's, for all programs together, the busiest first. Sent and received is by RDMA or by the network \
         interface, whichever is more. What a port does not tell is –, which is not zero.</p>\n<p>",
    );
    for (at, trouble) in told.iter().enumerate() {
        let (name, says) = (trouble.name, trouble.says);
        let before = if at == 0 { "" } else { "; " };
        let _ = write!(page, "{before}<strong>{name}</strong>: {says}");
    }
    page.push_str("</p>\n");
    port_table(page, report, &told);
    more(page, report.ports.len(), PORTS_MAX, "ports");
    // Beside a port of 400 Gb/s, a loopback device is no more than a line at zero.
    let busiest = report.ports.first().map_or(0, PortRun::carried_bytes);
    let carried = |port: &&PortRun| port.carried_bytes() > busiest / 1000;
    let drawn: Vec<_> = report.ports.iter().filter(carried).collect();
    if drawn.len() > PORT_LINES_MAX {
        port_map(page, report, &drawn);
    } else {
        for (title, of) in PORT_WAYS {
            port_chart(page, report, title, &drawn, of);
        }
    }
    port_troubles(page, report);
}

fn port_table(page: &mut String, report: &Report, told: &[&Trouble]) {
    let mut head = vec![
        ("port", false),
        ("interface", true),
        ("link", false),
        ("sent", false),
        ("received", false),
    ];
    head.extend(told.iter().map(|trouble| (trouble.name, false)));
    let mut table = Rows::new(page, &head);
    for port in report.ports.iter().take(PORTS_MAX) {
        let mut cells = vec![
            (port.port.clone(), ""),
            (port.interface.clone().unwrap_or_else(unknown), "word"),
            (port.link.clone(), ""),
            (port.sent_bytes.map_or_else(unknown, bytes), ""),
            (port.received_bytes.map_or_else(unknown, bytes), ""),
        ];
        for trouble in told {
            let count = port.total(trouble);
            cells.push((count.map_or_else(unknown, |count| count.to_string()), ""));
        }
        table.row(&cells);
    }
    table.end();
}

/// Bytes a second of a port in each window, one way.
type Way = (&'static str, fn(&PortRun) -> &[Option<u64>]);
const PORT_WAYS: [Way; 2] = [
    ("sent", |port| &port.sent),
    ("received", |port| &port.received),
];

/// Gb/s.
fn port_rate(port: &PortRun, of: fn(&PortRun) -> &[Option<u64>], window: usize) -> Option<f64> {
    let rate = of(port).get(window).copied().flatten()?;
    Some(float(rate) * 8.0 / 1e9)
}

/// What these few ports carried one way, as lines.
fn port_chart(
    page: &mut String,
    report: &Report,
    title: &str,
    drawn: &[&PortRun],
    of: fn(&PortRun) -> &[Option<u64>],
) {
    let (axis, windows) = (Axis::of(report), &report.windows);
    let lines = drawn.iter().enumerate().map(|(colour, port)| {
        curve(&axis, windows, &port.port, colour, |window| {
            port_rate(port, of, window)
        })
    });
    let mut lines: Vec<_> = lines.collect();
    lines.retain(|line| line.points.iter().any(|point| !point.1.is_nan()));
    if lines.is_empty() {
        return;
    }
    let chart = Chart {
        title: format!("what each port {title} over time"),
        across: axis.title.clone(),
        up: "Gb/s".to_owned(),
        lines,
        across_range: (0.0, axis.end),
        hints: hints(&axis, report, |group| {
            let of_port = |port: &&PortRun| {
                let rates = group
                    .clone()
                    .filter_map(|window| port_rate(port, of, window));
                let most = rates.reduce(f64::max);
                let most = most.map_or_else(unknown, |most| format!("{most:.3} Gb/s"));
                format!("{}: {most}", port.port)
            };
            drawn.iter().map(of_port).collect()
        }),
        ..Chart::default()
    };
    // One line alone has no legend.
    let says = match &chart.lines[..] {
        [one] => format!("<p>{}</p>", escaped(&one.name)),
        _ => String::new(),
    };
    let _ = writeln!(
        page,
        "<h3>Ports: {title}</h3>{says}<div class=\"wide\">{}</div>",
        chart.to_svg()
    );
}

/// What these ports carried, as a map: so many lines could not be told apart.
fn port_map(page: &mut String, report: &Report, drawn: &[&PortRun]) {
    let axis = Axis::of(report);
    let shown = drawn.iter().take(PEERS_MAX / PORT_WAYS.len());
    let rows = shown.flat_map(|port| {
        PORT_WAYS.map(|(title, of)| {
            let rates = samples(report, |window| port_rate(port, of, window));
            (format!("{} {title}", port.port), rates)
        })
    });
    let rows: Vec<_> = rows.collect();
    let highest = rows.iter().flat_map(|(_, rates)| rates.iter().copied());
    let highest = highest.fold(0.0, f64::max);
    let shares = |rates: &Vec<f64>| rates.iter().map(|rate| rate / highest).collect();
    let map = HeatMap {
        title: "what each port carried over time".to_owned(),
        across: axis.title.clone(),
        scale: (
            "sent and received".to_owned(),
            format!("0 to {highest:.3} Gb/s"),
        ),
        rows: rows
            .iter()
            .map(|(name, rates)| (name.as_str(), shares(rates)))
            .collect(),
        across_max: axis.end,
        sample: axis.end / float(report.windows.len() as u64),
    };
    let _ = writeln!(
        page,
        "<h3>Ports: sent and received</h3><p>The busiest first.</p><div class=\"wide\">{}</div>",
        map.to_svg()
    );
}

/// What went wrong on them, as a map.
fn port_troubles(page: &mut String, report: &Report) {
    let places = 0..report.ports.len();
    let of_port = |port: usize| (0..TROUBLES.len()).map(move |trouble| (port, trouble));
    let series = |&(port, trouble): &(usize, usize)| {
        let troubles = &report.ports[port].troubles;
        troubles.get(TROUBLES[trouble].name)
    };
    let happened = |row: &(usize, usize)| series(row).is_some();
    let mut rows: Vec<_> = places.flat_map(of_port).filter(happened).collect();
    if rows.is_empty() {
        page.push_str("<p>Nothing of this happened on any of them.</p>\n");
        return;
    }
    let left_out = rows.len().saturating_sub(TROUBLES_MAX);
    // Congestion comes first among them, damage last.
    rows.sort_by_key(|(_, trouble)| std::cmp::Reverse(*trouble));
    rows.truncate(TROUBLES_MAX);
    rows.sort_unstable();
    let row = |row: &(usize, usize)| {
        let per_second = |window: usize| {
            let span = report.windows.get(window)?;
            let length = span.to_wall_ns.saturating_sub(span.from_wall_ns);
            let count = series(row)?.get(window).copied().flatten()?;
            Some(float(count) / float(length.max(1)))
        };
        let rates = samples(report, per_second);
        let most = rates.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let shares = rates.iter().map(|rate| rate / most);
        let name = format!("{} {}", report.ports[row.0].port, TROUBLES[row.1].name);
        (name, shares.collect::<Vec<_>>())
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    let axis = Axis::of(report);
    let map = HeatMap {
        title: "what went wrong on each port over time".to_owned(),
        across: axis.title.clone(),
        scale: (
            "how often".to_owned(),
            "never to the most of its row".to_owned(),
        ),
        rows: rows
            .iter()
            .map(|(name, shares)| (name.as_str(), shares.clone()))
            .collect(),
        across_max: axis.end,
        sample: axis.end / float(report.windows.len() as u64),
    };
    let _ = writeln!(
        page,
        "<h3>Ports: what went wrong</h3><p>Each row by itself: the stronger the colour, the more often. Sources that are read \
         rarely tell of several windows in one.</p>\n<div class=\"wide\">{}</div>",
        map.to_svg()
    );
    if left_out > 0 {
        let _ = writeln!(
            page,
            "<p>{left_out} more rows are left out, those of congestion first; --json has them all.</p>"
        );
    }
}

/// The axis of time.
struct Axis {
    from_ns: u64,
    unit_ns: f64,
    end: f64,
    title: String,
}

impl Axis {
    fn of(report: &Report) -> Self {
        let length = report.to_wall_ns.saturating_sub(report.from_wall_ns);
        let (unit_ns, unit) = match length / 1_000_000_000 {
            0..600 => (1e9, "s"),
            600..36_000 => (60e9, "min"),
            _ => (3600e9, "h"),
        };
        Self {
            from_ns: report.from_wall_ns,
            unit_ns,
            end: float(length) / unit_ns,
            title: format!("{unit} since {} UTC", wall(report.from_wall_ns)),
        }
    }

    fn at(&self, wall_ns: u64) -> f64 {
        float(wall_ns.saturating_sub(self.from_ns)) / self.unit_ns
    }
}

fn in_full(page: &mut String, report: &Report, place: usize, link: &LinkRun) {
    let _ = writeln!(
        page,
        "<h2 id=\"link-{place}\">{}</h2>",
        escaped(&name(link))
    );
    let carrying: Vec<&PathRun> = drawn(link);
    let axis = Axis::of(report);
    let marks: Vec<Mark> = report
        .events
        .iter()
        .filter(|line| link.is_of(line) && line.event.wall_ns >= report.from_wall_ns)
        .map(|line| Mark {
            at: axis.at(line.event.wall_ns),
            level: level(line.verdict),
            name: mark_text(report, line),
        })
        .collect();
    let windows = &report.windows;
    let others = link.paths.iter().filter(|path| {
        path.carried_bytes > 0 && !carrying.iter().any(|drawn| drawn.path == path.path)
    });
    let others: Vec<&PathRun> = others.collect();
    let mut sums = carrying
        .iter()
        .map(|path| (format!("path {}", path.path), path.bytes.clone()))
        .collect::<Vec<_>>();
    if !others.is_empty() {
        let sum = (0..windows.len()).map(|window| {
            let carried = others
                .iter()
                .filter_map(|path| path.bytes.get(window).copied()?);
            Some(carried.fold(0u64, u64::saturating_add))
        });
        sums.push((format!("{} others", others.len()), sum.collect()));
    }
    let throughput = Chart {
        title: "throughput of each path over time".to_owned(),
        across: axis.title.clone(),
        up: "Gb/s".to_owned(),
        lines: sums
            .iter()
            .enumerate()
            .map(|(colour, (name, bytes))| {
                curve(&axis, windows, name, colour, |window| {
                    // All bands have the same points.
                    rate(windows, bytes, window).or(Some(0.0))
                })
            })
            .collect(),
        is_stacked: true,
        across_range: (0.0, axis.end),
        marks,
        hints: hints(&axis, report, |group| {
            let length = group_length(windows, group.clone());
            let mut all = 0u64;
            let lines = sums.iter().map(|(name, bytes)| {
                let carried = group.clone().filter_map(|window| bytes[window]);
                let carried = carried.fold(0u64, u64::saturating_add);
                all = all.saturating_add(carried);
                format!("{name}: {} Gb/s", gigabits(per_second(carried, length)))
            });
            let lines: Vec<_> = lines.collect();
            let all = format!("all: {} Gb/s", gigabits(per_second(all, length)));
            [&lines[..], &[all]].concat()
        }),
        ..Chart::default()
    };
    let mut delays = Vec::new();
    for (colour, path) in carrying.iter().enumerate() {
        let of = |series: &[Option<u64>], window: usize| {
            series.get(window).copied().flatten().map(float)
        };
        let name = format!("path {}", path.path);
        delays.push(Curve {
            is_dashed: true,
            ..curve(&axis, windows, &format!("{name}, p50"), colour, |window| {
                of(&path.p50_ns, window)
            })
        });
        delays.push(curve(&axis, windows, &name, colour, |window| {
            of(&path.p99_ns, window)
        }));
    }
    delays.retain(|line| line.points.iter().any(|point| !point.1.is_nan()));
    path_table(page, link);
    let _ = writeln!(
        page,
        "<h3>Throughput</h3><p>Payload that the paths carried, what was sent again included. Vertical lines are events: \
         <span class=\"m0\">fine</span>, <span class=\"m1\">slow</span>, <span class=\"m2\">lost</span>, <span class=\"m3\">failed</span>.</p>\
         <div class=\"wide\">{}</div>",
        throughput.to_svg()
    );
    if delays.is_empty() {
        return;
    }
    let delay = Chart {
        title: "delay of each path over time".to_owned(),
        across: axis.title.clone(),
        up: "delay".to_owned(),
        lines: delays,
        is_stacked: false,
        up_logarithmic: Some(time_tick),
        hints: hints(&axis, report, |group| {
            let worst = |series: &[Option<u64>]| {
                let values = group.clone().filter_map(|window| series[window]);
                values.max().map_or_else(unknown, time)
            };
            let lines = carrying.iter().map(|path| {
                let (p50, p99) = (worst(&path.p50_ns), worst(&path.p99_ns));
                format!("path {}: p50 {p50}, p99 {p99}", path.path)
            });
            lines.collect()
        }),
        ..throughput
    };
    let _ = writeln!(
        page,
        "<h3>Delay</h3><p>p99, and dashed p50, of the chunks of each path; none where there were no chunks. The axis is \
         logarithmic.</p><div class=\"wide\">{}</div>",
        delay.to_svg()
    );
}

/// The paths that are drawn each on its own: those that carried most, in the order of their numbers.
fn drawn(link: &LinkRun) -> Vec<&PathRun> {
    let mut paths: Vec<_> = link
        .paths
        .iter()
        .filter(|path| path.carried_bytes > 0)
        .collect();
    if paths.len() > COLOURS {
        // The last colour is for the others.
        paths.sort_by_key(|path| std::cmp::Reverse(path.carried_bytes));
        paths.truncate(COLOURS - 1);
        paths.sort_by_key(|path| path.path);
    }
    paths
}

/// What holds in each window, as a line of steps.
fn curve(
    axis: &Axis,
    windows: &[Span],
    name: &str,
    colour: usize,
    value: impl Fn(usize) -> Option<f64>,
) -> Curve {
    let mut points = Vec::with_capacity(windows.len() + 1);
    for (window, span) in windows.iter().enumerate() {
        let now = value(window);
        points.push((axis.at(span.from_wall_ns), now.unwrap_or(f64::NAN)));
        // Each holds until the next: a line that ends has to say where.
        let is_last = window + 1 == windows.len() || value(window + 1).is_none();
        if let (Some(now), true) = (now, is_last) {
            points.push((axis.at(span.to_wall_ns), now));
        }
    }
    Curve {
        name: name.to_owned(),
        colour,
        points,
        is_step: true,
        is_dashed: false,
    }
}

/// Gb/s in a window; none where it was not there.
fn rate(windows: &[Span], bytes: &[Option<u64>], window: usize) -> Option<f64> {
    let span = windows.get(window)?;
    let length = span.to_wall_ns.saturating_sub(span.from_wall_ns);
    let bytes = bytes.get(window).copied()??;
    Some(float(per_second(bytes, length)) * 8.0 / 1e9)
}

fn group_length(windows: &[Span], group: std::ops::Range<usize>) -> u64 {
    let lengths = windows[group].iter();
    lengths
        .map(|span| span.to_wall_ns.saturating_sub(span.from_wall_ns))
        .sum()
}

fn hints(
    axis: &Axis,
    report: &Report,
    says: impl Fn(std::ops::Range<usize>) -> Vec<String>,
) -> Vec<Hint> {
    let windows = &report.windows;
    let each = windows.len().div_ceil(HINTS_MAX).max(1);
    let groups = (0..windows.len()).step_by(each);
    let hint = |first: usize| {
        let last = (first + each).min(windows.len()) - 1;
        let (from, to) = (windows[first].from_wall_ns, windows[last].to_wall_ns);
        let mut lines = vec![format!("{}, +{}", wall(from), since(report, from))];
        lines.extend(says(first..last + 1));
        Hint {
            range: (axis.at(from), axis.at(to)),
            text: lines.join("\n"),
        }
    };
    groups.map(hint).collect()
}

fn messages(page: &mut String, report: &Report) {
    if report.messages.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Messages</h2><p>Of each device and class, then of each connection, the busiest first. What a message took is from the \
         time that its link took up the request to its end: a receiver's wait for the sender is in it, and a sender's for the \
         receive.</p>\n",
    );
    let mut table = Rows::new(
        page,
        &[
            ("messages of", false),
            ("process", true),
            ("carried", false),
            ("messages", false),
            ("mean size", false),
            ("took p50", false),
            ("p99", false),
        ],
    );
    for run in report.messages.iter().take(MESSAGES_MAX) {
        let whose = match run.of {
            Of::Device => "device",
            Of::Class => "class",
            Of::Connection => "connection",
        };
        let way = match (&run.peer, run.role) {
            (Some(peer), role) => format!("{} {}", role.way(), shown(peer)),
            (None, Role::Sender) => "sent".into(),
            (None, Role::Receiver) => "received".into(),
        };
        let counter = |counter| run.messages.counters[counter];
        let (count, failed) = (
            counter(MessageCounter::Messages),
            counter(MessageCounter::Failures),
        );
        let mut ended = count.to_string();
        if failed > 0 {
            let _ = write!(ended, ", {failed} failed");
        }
        let carried = counter(MessageCounter::Bytes);
        let took = &run.messages.histograms[MessageHistogram::Time];
        table.row(&[
            (format!("{whose} {} {way}", run.name), ""),
            (format!("{} {}", run.program, run.pid), "word"),
            (bytes(carried), ""),
            (ended, ""),
            (carried.checked_div(count).map_or_else(unknown, bytes), ""),
            (took.quantile(500).map_or_else(unknown, time), ""),
            (took.quantile(990).map_or_else(unknown, time), ""),
        ]);
    }
    table.end();
    more(page, report.messages.len(), MESSAGES_MAX, "connections");
}

fn path_table(page: &mut String, link: &LinkRun) {
    let mut table = Rows::new(
        page,
        &[
            ("path", false),
            ("carried", false),
            ("share", false),
            ("delay p50", false),
            ("p99", false),
            ("fences", false),
            ("replays", false),
            ("at the end", true),
            ("from and to", true),
        ],
    );
    for path in &link.paths {
        let part = share(path.carried_bytes, link.carried_bytes);
        table.row(&[
            (path.path.to_string(), ""),
            (bytes(path.carried_bytes), ""),
            (format!("{:.1} %", part * 100.0), ""),
            (path.delay_p50_ns.map_or_else(unknown, time), ""),
            (path.delay_p99_ns.map_or_else(unknown, time), ""),
            (path.fences.to_string(), ""),
            (path.replays.to_string(), ""),
            (state(path.state).to_owned(), "word"),
            (path.ends.clone(), "word"),
        ]);
    }
    table.end();
}

fn events(page: &mut String, report: &Report) {
    page.push_str("<h2>Events</h2>\n");
    if report.events_missed > 0 {
        let _ = writeln!(
            page,
            "<p>{} more were gone before they could be recorded: a shorter interval keeps them.</p>",
            report.events_missed
        );
    }
    if report.events.is_empty() {
        page.push_str("<p>There were none.</p>\n");
        return;
    }
    let mut shown: Vec<&Line> = report.events.iter().collect();
    // What is worst is kept, and of that what came first.
    shown.sort_by_key(|line| std::cmp::Reverse(line.verdict));
    shown.truncate(EVENTS_MAX);
    shown.sort_by_key(|line| line.event.wall_ns);
    page.push_str("<p>Times are in UTC, and since the recording began.</p>\n");
    let mut table = Rows::new(
        page,
        &[
            ("time", true),
            ("since", false),
            ("verdict", true),
            ("link", true),
            ("path", false),
            ("what happened", true),
        ],
    );
    for line in &shown {
        let event = line.event;
        let link = report.links.iter().find(|link| link.is_of(line));
        let link = link.map_or_else(
            || {
                let (way, peer) = (event.role.way(), self::shown(&event.peer));
                format!("{} {} {way} {peer}", line.program, line.pid)
            },
            name,
        );
        let level = ["word m0", "word m1", "word m2", "word m3"][level(line.verdict)];
        table.row(&[
            (wall(event.wall_ns), ""),
            (since(report, event.wall_ns), ""),
            (format!("{:?}", line.verdict).to_lowercase(), level),
            (link, "word"),
            (
                event.path.map_or_else(String::new, |path| path.to_string()),
                "",
            ),
            (line.text.clone(), "text"),
        ]);
    }
    table.end();
    let left_out = report.events.len() - shown.len();
    if left_out > 0 {
        let _ = writeln!(
            page,
            "<p>{left_out} more are left out, the harmless first; --json has them all.</p>"
        );
    }
}

fn mark_text(report: &Report, line: &Line) -> String {
    let path = line.event.path;
    let path = path.map_or_else(String::new, |path| format!(" path {path}"));
    let since = since(report, line.event.wall_ns);
    format!("+{since}:{path} {}", line.text)
}

/// A table that is written row by row. The first column and words stand to the left, numbers to the right.
struct Rows<'a> {
    page: &'a mut String,
}

impl<'a> Rows<'a> {
    fn new(page: &'a mut String, head: &[(&str, bool)]) -> Self {
        page.push_str("<div class=\"wide\"><table><tr>");
        for (name, is_word) in head {
            let class = if *is_word { " class=\"word\"" } else { "" };
            let _ = write!(page, "<th{class}>{name}</th>");
        }
        page.push_str("</tr>\n");
        Self { page }
    }

    fn row(&mut self, cells: &[(String, &str)]) {
        self.page.push_str("<tr>");
        self.cells(cells);
        self.page.push_str("</tr>\n");
    }

    fn cells(&mut self, cells: &[(String, &str)]) {
        for (text, class) in cells {
            let text = escaped(text);
            let _ = if class.is_empty() {
                write!(self.page, "<td>{text}</td>")
            } else {
                write!(self.page, "<td class=\"{class}\">{text}</td>")
            };
        }
    }

    fn end(self) {
        self.page.push_str("</table></div>\n");
    }
}

/// Says that there are more than are shown.
fn more(page: &mut String, count: usize, most: usize, what: &str) {
    if count > most {
        let _ = writeln!(
            page,
            "<p>{} {what} that carried less are left out; --json has them all.</p>",
            count - most
        );
    }
}

fn name(link: &LinkRun) -> String {
    let peer = shown(&link.peer);
    format!("{} {} {} {peer}", link.program, link.pid, link.role.way())
}

fn shown(peer: &str) -> &str {
    if peer.is_empty() { "?" } else { peer }
}

fn level(verdict: Verdict) -> usize {
    match verdict {
        Verdict::Fine => 0,
        Verdict::Slow => 1,
        Verdict::Lost => 2,
        Verdict::Failed => 3,
    }
}

fn unknown() -> String {
    "–".to_owned()
}

/// What stays on one line.
fn together(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

fn bytes(bytes: u64) -> String {
    together(&paths::bytes(bytes))
}

/// A time that is read at a glance: three digits and their unit.
fn time(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => return together(&format!("{nanos} ns")),
        1_000..1_000_000 => (float(nanos) / 1e3, "µs"),
        1_000_000..1_000_000_000 => (float(nanos) / 1e6, "ms"),
        1_000_000_000..600_000_000_000 => (float(nanos) / 1e9, "s"),
        _ => (float(nanos) / 60e9, "min"),
    };
    let decimals = if value < 9.995 {
        2
    } else {
        usize::from(value < 99.95)
    };
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    together(&format!("{text} {unit}"))
}

fn time_tick(nanos: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a value of a histogram, which has less than 2^41"
    )]
    let nanos = nanos.round() as u64;
    time(nanos)
}

/// Seconds since the recording began; before it they are negative.
fn since(report: &Report, wall_ns: u64) -> String {
    let begin = report.from_wall_ns;
    let sign = if wall_ns < begin { "-" } else { "" };
    let millis = wall_ns.abs_diff(begin) / 1_000_000;
    format!("{sign}{}.{:03} s", millis / 1000, millis % 1000)
}

fn gigabits(bytes_per_s: u64) -> String {
    format!("{:.3}", float(bytes_per_s) * 8.0 / 1e9)
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 {
        0.0
    } else {
        float(part) / float(of)
    }
}

#[expect(clippy::cast_precision_loss, reason = "to be drawn")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Time of the day, to milliseconds.
fn wall(wall_ns: u64) -> String {
    let mut text = wall_text(wall_ns);
    text.truncate(text.len() - 3);
    text
}

/// The day of a moment in UTC.
fn date(wall_ns: u64) -> String {
    // Years of 366 days at most are counted off: there are few since 1970.
    let mut days = wall_ns / 86_400_000_000_000;
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}
