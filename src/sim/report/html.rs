//! Reports as a page of their own: no script, nothing loaded from elsewhere, light or dark as the
//! reader's system is.

use std::fmt::Write as _;

use super::chart::{Chart, HeatMap, Line, STYLE, escaped};
use super::record::to_float;
use super::table::{Figure, figures};
use super::{PartReport, Report, RunReport};
use crate::sim::scenario::{Scenario, host_rate};
use crate::sim::time::Picos;
use crate::units::Rate;

/// Points of a distribution are thinned to so many.
const POINTS_MAX: usize = 400;

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
                    colour: part,
                    points: cumulative(&times),
                    is_step: true,
                    ..Line::default()
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
            up_max: Some(1.0),
            ..Chart::default()
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
            ..Line::default()
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
            ..Chart::default()
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
            ..Chart::default()
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
            scale: (
                "share of its time that a link was busy".to_owned(),
                "0 to 100 %".to_owned(),
            ),
            rows,
            across_max: sample * to_float(samples as u64),
            sample,
        })
    }
}
