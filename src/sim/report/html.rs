//! Reports as a page of their own: no script, nothing loaded from elsewhere, light or dark as the
//! reader's system is.

use std::fmt::Write as _;

use super::chart::{Chart, HeatMap, Line, escaped};
use super::record::to_float;
use super::table::{Figure, figures};
use super::{PartReport, Report, RunReport};
use crate::sim::scenario::{Scenario, host_rate};
use crate::sim::time::Picos;
use crate::units::Rate;

/// Points of a distribution are thinned to so many.
const POINTS_MAX: usize = 400;

const STYLE: &str = "
:root{--ink:#1d2733;--soft:#5c6b7a;--line:#d8dee5;--page:#fff;--c0:#1f6fb5;--c1:#c8580a;--c2:#23845a;--c3:#7d4fb3;--c4:#b8336a;--c5:#6b6256;
--u0:#f1f4f7;--u1:#d6e6f4;--u2:#b5d3ec;--u3:#8cbbe0;--u4:#619fd1;--u5:#3c82bf;--u6:#2267a6;--u7:#144d85;--u8:#0a3462}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa8b5;--line:#35414d;--page:#12181f;--c0:#5aa9e6;--c1:#f0904c;--c2:#58b88b;--c3:#b491e0;--c4:#e87fa9;--c5:#b3a999;
--u0:#1a222b;--u1:#17324a;--u2:#1a4468;--u3:#205a89;--u4:#2d74ab;--u5:#4590c8;--u6:#6badde;--u7:#9ccbee;--u8:#d5eafa}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .3rem}p{margin:.3rem 0 .8rem;color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6rem 0}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}th:first-child,td:first-child{text-align:left;padding-left:0}th{font-weight:600;color:var(--soft)}
pre{white-space:pre-wrap;border-left:3px solid var(--c1);padding-left:.8rem}svg{width:100%;height:auto;display:block}
text{font:12px system-ui,sans-serif;fill:var(--soft)}text.small{font-size:11px}text.name{fill:var(--ink)}.middle{text-anchor:middle}.end{text-anchor:end}
.axis{stroke:var(--soft)}.grid{stroke:var(--line)}.level{stroke:var(--soft);stroke-dasharray:5 4}.line{fill:none;stroke-width:2;stroke-linejoin:round}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}
.u0{fill:var(--u0)}.u1{fill:var(--u1)}.u2{fill:var(--u2)}.u3{fill:var(--u3)}.u4{fill:var(--u4)}.u5{fill:var(--u5)}.u6{fill:var(--u6)}.u7{fill:var(--u7)}.u8{fill:var(--u8)}
.s1{stroke:var(--u1)}.s2{stroke:var(--u2)}.s3{stroke:var(--u3)}.s4{stroke:var(--u4)}.s5{stroke:var(--u5)}.s6{stroke:var(--u6)}.s7{stroke:var(--u7)}.s8{stroke:var(--u8)}
";

impl Report {
    /// The page, of runs with [`Detail::Pictures`](crate::sim::scenario::Detail). Times over a run are those of the first seed; the distribution is that of all.
    #[must_use]
    pub fn to_html(&self, scenario: &Scenario) -> String {
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
            <title>{0} – thalweg sim</title><style>{STYLE}</style></head><body>\n<h1>{0}</h1><p>{1}</p>\n",
            escaped(&self.scenario),
            escaped(&self.about)
        );
        let Some(first) = self.runs.first() else {
            page.push_str("<p>no runs</p></body></html>\n");
            return page;
        };
        let runs = self.runs.len();
        let _ = writeln!(
            page,
            "<p>{} hosts, {}</p>",
            self.hosts,
            if runs == 1 {
                format!("seed {}", first.seed)
            } else {
                format!(
                    "{runs} runs with seeds from {} on; the figures are their means",
                    first.seed
                )
            }
        );
        for run in self.runs.iter().filter(|run| !run.is_finished()) {
            let _ = writeln!(page, "<pre>{}</pre>", escaped(run.stuck_text().trim()));
        }
        self.tables(&mut page);
        section(
            &mut page,
            "Completion times",
            "Of all flows: the share that had ended after so long. Steep is even; a tail to the right is what a collective waits for.",
            &self.distribution().to_svg(),
        );
        let over_time = first.over_time(scenario);
        if let Some([queue, rate]) = over_time {
            section(
                &mut page,
                "Queues",
                "Bytes of data waiting at the port of a switch where most of them wait.",
                &queue.to_svg(),
            );
            section(
                &mut page,
                "Arrivals",
                "Bits a second that reach hosts, headers and acknowledgements included, as a mean over all hosts.",
                &rate.to_svg(),
            );
        }
        if let Some(map) = first.heat_map() {
            section(
                &mut page,
                "Links",
                "Each row is a link between switches, in one direction, or all of a switch's where they are many. Even columns are good balance; a dark row beside pale ones is a collision.",
                &map.to_svg(),
            );
        }
        page.push_str("</body></html>\n");
        page
    }

    fn tables(&self, page: &mut String) {
        page.push_str("<div class=\"wide\"><table><tr><th>part</th><th>flows</th><th>mean µs</th><th>p50 µs</th><th>p99 µs</th><th>max µs</th><th>makespan µs</th><th>floor µs</th><th>ratio</th><th>Jain</th></tr>\n");
        let count = self.runs.first().map_or(0, |run| run.parts.len());
        let mut row = |of: &dyn Fn(&RunReport) -> &PartReport| {
            page.push_str("<tr>");
            for cell in super::table::part_row(&self.runs, of) {
                let _ = write!(page, "<td>{}</td>", escaped(&cell));
            }
            page.push_str("</tr>\n");
        };
        for part in 0..count {
            row(&|run| &run.parts[part]);
        }
        if count > 1 {
            row(&|run| &run.total);
        }
        page.push_str("</table></div>\n<div class=\"wide\"><table><tr><th>in the fabric</th>");
        let counts = figures().filter(Figure::is_count);
        for figure in counts.clone() {
            let _ = write!(page, "<th>{}</th>", figure.name);
        }
        page.push_str("</tr>\n<tr><td>count</td>");
        for figure in counts {
            let _ = write!(page, "<td>{}</td>", figure.of_all(&self.runs));
        }
        page.push_str("</tr></table></div>\n");
    }

    fn distribution(&self) -> Chart {
        let names = self.runs.first().map_or(&[][..], |run| &run.parts);
        let lines: Vec<Line> = names
            .iter()
            .enumerate()
            .map(|(part, report)| {
                let mut times: Vec<Picos> = self
                    .runs
                    .iter()
                    .filter_map(|run| run.pictures.as_ref())
                    .flat_map(|pictures| pictures.completion_times[part].iter().copied())
                    .collect();
                times.sort_unstable();
                Line {
                    name: report.name.clone(),
                    points: cumulative(&times),
                    is_step: true,
                }
            })
            .collect();
        let longest = self
            .runs
            .iter()
            .map(|run| run.total.max_ps)
            .max()
            .unwrap_or(0);
        let (scale, unit) = time_unit(longest);
        Chart {
            title: "distribution of completion times".to_owned(),
            across: format!("completion time, {unit}"),
            up: "share of flows".to_owned(),
            across_range: (0.0, to_float(longest) / scale),
            lines: lines
                .into_iter()
                .map(|line| Line {
                    points: line
                        .points
                        .into_iter()
                        .map(|(x, y)| (x / scale, y))
                        .collect(),
                    ..line
                })
                .collect(),
            level: None,
            up_max: Some(1.0),
        }
    }
}

fn section(page: &mut String, title: &str, about: &str, svg: &str) {
    let _ = writeln!(page, "<h2>{title}</h2><p>{about}</p>\n{svg}");
}

/// Picoseconds in a unit that makes readable numbers of a time, and its name.
fn time_unit(picos: u64) -> (f64, &'static str) {
    match picos {
        0..10_000_000_000 => (1e6, "µs"),
        10_000_000_000..10_000_000_000_000 => (1e9, "ms"),
        _ => (1e12, "s"),
    }
}

/// The share of a sorted list that is at most so long, in picoseconds.
fn cumulative(sorted: &[Picos]) -> Vec<(f64, f64)> {
    let count = sorted.len();
    let Some(first) = sorted.first() else {
        return Vec::new();
    };
    let mut points = vec![(to_float(first.0), 0.0)];
    let stride = count.div_ceil(POINTS_MAX);
    let places = (0..count).step_by(stride).chain([count - 1]);
    points.extend(places.map(|place| {
        let share = to_float(place as u64 + 1) / to_float(count as u64);
        (to_float(sorted[place].0), share)
    }));
    points
}

impl RunReport {
    /// Queue and rate over time; none for a run too short to be sampled.
    fn over_time(&self, scenario: &Scenario) -> Option<[Chart; 2]> {
        let recorder = self.pictures.as_ref()?.recorder.as_ref()?;
        let samples = recorder.queue_max_bytes().len();
        if samples < 2 {
            return None;
        }
        let (scale, unit) = time_unit(self.end_ps);
        let interval = to_float(recorder.interval().0) / scale;
        let end = interval * to_float(samples as u64);
        let topology = &scenario.fabric.topology;
        let hosts = to_float(u64::from(topology.hosts()));
        let line = |name: &str, values: Vec<f64>, is_step: bool| Line {
            name: name.to_owned(),
            points: (1u64..)
                .zip(values)
                .map(|(index, value)| (to_float(index) * interval, value))
                .collect(),
            is_step,
        };
        let kilobytes = |bytes: &[u64]| bytes.iter().map(|&bytes| to_float(bytes) / 1e3).collect();
        let across = format!("time, {unit}");
        let capacity = scenario.fabric.switch.pause.is_none()
            && scenario.fabric.switch.shared_buffer.is_none();
        let queue = Chart {
            title: "longest queue over time".to_owned(),
            across: across.clone(),
            up: "longest queue, kB".to_owned(),
            lines: vec![line(
                "longest queue",
                kilobytes(recorder.queue_max_bytes()),
                false,
            )],
            level: capacity.then(|| {
                let bytes = u64::from(scenario.fabric.switch.queue.capacity);
                (
                    to_float(bytes) / 1e3,
                    format!("one class is full at {} kB", bytes / 1000),
                )
            }),
            across_range: (0.0, end),
            up_max: None,
        };
        let Rate(bytes) = host_rate(topology, 0);
        let rates = recorder
            .arrived_rate()
            .into_iter()
            .map(|rate| rate / hosts / 1e9);
        let rate = Chart {
            title: "rate of arrivals over time".to_owned(),
            across,
            up: "Gb/s a host".to_owned(),
            lines: vec![line("mean over all hosts", rates.collect(), false)],
            level: Some((
                to_float(bytes) * 8.0 / 1e9,
                format!("a host's links: {}", Rate(bytes)),
            )),
            across_range: (0.0, end),
            up_max: None,
        };
        Some([queue, rate])
    }

    fn heat_map(&self) -> Option<HeatMap<'_>> {
        let recorder = self.pictures.as_ref()?.recorder.as_ref()?;
        let rows = recorder.utilisation();
        let samples = rows.first().map_or(0, |row| row.1.len());
        if samples < 2 {
            return None;
        }
        let (scale, unit) = time_unit(self.end_ps);
        let sample = to_float(recorder.interval().0) / scale;
        Some(HeatMap {
            title: "share of time that links were busy, over time".to_owned(),
            across: format!("time, {unit}"),
            rows,
            across_max: sample * to_float(samples as u64),
            sample,
        })
    }
}
