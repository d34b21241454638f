//! `thalweg report`: a recording as a page of its own, to be looked at later and passed on.

mod messages;
mod page;
mod series;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use self::series::Report;
use super::recording::Recording;
use super::{Failure, print_json, say};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// A recording of `thalweg record`
    file: PathBuf,
    /// Where the page goes [default: the recording's name, with .html]
    #[arg(long, short, value_name = "FILE.html")]
    output: Option<PathBuf>,
    /// How many links are shown with all their paths: the busiest
    #[arg(long, value_name = "N", default_value_t = 16)]
    links: usize,
    /// Print what the page shows as JSON instead
    #[arg(long)]
    json: bool,
}

pub(super) fn report(args: &ReportArgs, out: &mut impl Write) -> Result<(), Failure> {
    let recording = Recording::read(&args.file).map_err(Failure::Usage)?;
    for line in &recording.lines {
        say(format_args!("{}: {line}", args.file.display()));
    }
    let report = Report::new(&recording, args.links);
    if args.json {
        return print_json(out, &report);
    }
    let output = args.output.clone().unwrap_or_else(|| page_of(&args.file));
    fs::write(&output, page::page(&report))
        .map_err(|error| Failure::Usage(format!("{}: {error}", output.display())))?;
    writeln!(out, "{}", output.display())?;
    Ok(())
}

/// `run.jsonl` and `run.jsonl.gz` become `run.html`.
fn page_of(recording: &Path) -> PathBuf {
    let is_compressed = recording.extension().is_some_and(|end| end == "gz");
    let plain = if is_compressed {
        recording.with_extension("")
    } else {
        recording.to_owned()
    };
    // What is named like a page is not written over.
    if plain.extension().is_some_and(|end| end == "html") {
        return plain.with_extension("report.html");
    }
    plain.with_extension("html")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::recording::About;
    use crate::clock::Timestamp;
    use crate::telemetry::event::Event;
    use crate::telemetry::schema::{
        LinkCounter, PathCounter, PathHistogram, PortCounter, PortGauge,
    };
    use crate::telemetry::snapshot::Snapshot;
    use crate::telemetry::sources::{HostNow, PortNow, Source};
    use crate::telemetry::values::Values;
    use crate::telemetry::verdict::Cause;
    use crate::telemetry::{Role, made};

    const SECOND: u64 = 1_000_000_000;
    /// 2024-02-29, 23:59:58 UTC.
    const BEGIN: u64 = 1_709_251_198 * SECOND;

    fn recording(snapshots: Vec<Snapshot>) -> Recording {
        Recording {
            about: About {
                thalweg_recording: 1,
                version: "0.1.0".into(),
                host: "h".into(),
                interval_ms: 1000,
            },
            snapshots,
            lines: Vec::new(),
        }
    }

    /// A process with one link, of so many paths, that have carried so much each.
    fn snapshot(wall_ns: u64, paths: u32, bytes: u64) -> Snapshot {
        let path = |number| {
            let mut path = made::path(number, "");
            path.counters = Values::new(|_| bytes);
            path.counters[PathCounter::Fences] = 0;
            path.histograms[PathHistogram::Delay].buckets = vec![0, 0, bytes];
            path
        };
        let mut link = made::link(2, Role::Sender, "p", (0..paths).map(path).collect());
        link.counters = Values::new(|_: LinkCounter| bytes);
        made::snapshot(wall_ns, vec![made::watched(7, "x", 1, vec![link])])
    }

    fn seconds(count: u64) -> Vec<Snapshot> {
        let at = |second| snapshot(BEGIN + second * SECOND, 2, second * 100);
        (0..count).map(at).collect()
    }

    #[test]
    fn a_page_is_named_like_its_recording() {
        let named = |name: &str| page_of(Path::new(name)).display().to_string();
        assert_eq!(named("a/run.jsonl"), "a/run.html");
        assert_eq!(named("run.jsonl.gz"), "run.html");
        assert_eq!(named("run.gz"), "run.html");
        assert_eq!(named("run"), "run.html");
        assert_eq!(named("run.html"), "run.report.html");
    }

    #[test]
    fn windows_of_long_recordings_are_merged_and_none_is_dropped() {
        let recording = recording(seconds(1301));
        let report = Report::new(&recording, 16);
        assert_eq!(
            report.windows.len(),
            434,
            "three in each, and one left over"
        );
        let link = &report.links[0];
        assert_eq!(link.carried_bytes, 2 * 1300 * 100);
        let sum = |series: &[Option<u64>]| series.iter().flatten().sum::<u64>();
        assert_eq!(sum(&link.bytes), link.carried_bytes);
        assert_eq!(sum(&link.paths[1].bytes), 1300 * 100);
        assert_eq!(link.paths[1].bytes[0], Some(300));
        assert_eq!(link.mean_bytes_per_s, 200);
        assert_eq!(link.paths[0].p50_ns[7], Some(2));
        let page = page::page(&report);
        assert!(page.contains("434 points, of 2 or 3 snapshots each"));
        assert!(
            page.contains("2024-02-29 23:59:58.000 to 2024-03-01 00:21:38.000 UTC, 21.7\u{a0}min")
        );
    }

    #[test]
    fn a_window_without_length_goes_with_the_next() {
        let mut snapshots = seconds(3);
        snapshots[1].wall_ns = BEGIN;
        let recording = recording(snapshots);
        let report = Report::new(&recording, 16);
        assert_eq!(report.windows.len(), 1);
        assert_eq!(report.links[0].bytes, [Some(400)]);
    }

    #[test]
    fn where_a_link_was_not_there_there_is_nothing() {
        let mut snapshots = seconds(5);
        for absent in [0, 1, 4] {
            snapshots[absent].processes.clear();
        }
        let recording = recording(snapshots);
        let report = Report::new(&recording, 16);
        let link = &report.links[0];
        assert_eq!(link.bytes, [None, Some(400), Some(200), None]);
        assert_eq!(link.paths[0].p99_ns, [None, Some(2), Some(2), None]);
        assert_eq!(link.present_ns, 2 * SECOND);
        assert!(page::page(&report).contains("<td class=\"word\">closed</td>"));
    }

    /// A port that has sent so much, as was read at some time.
    fn host(at_ns: u64, age_ns: u64, sent: u64, is_up: bool) -> HostNow {
        let mut port = PortNow {
            name: "eth0".into(),
            ..PortNow::default()
        };
        port.counters[PortCounter::SentBytes] = Some(sent);
        port.counters[PortCounter::ReceiveMisses] = Some(sent / 1000);
        port.gauges[PortGauge::LinkUp] = Some(u64::from(is_up));
        port.ages_ns[Source::Interface] = Some(age_ns);
        HostNow {
            at: Timestamp::from_nanos(at_ns),
            ports: vec![port],
            ..HostNow::default()
        }
    }

    #[test]
    fn what_ports_did_is_told_for_the_time_in_which_it_was_read() {
        let mut snapshots = seconds(7);
        // Read every other second; then the port goes, and comes again with its link down.
        for (second, age, sent, is_up) in [
            (0, 0, 0, true),
            (1, 1, 0, true),
            (2, 0, 4000, true),
            (3, 0, 5000, true),
            (5, 0, 100, false),
            (6, 0, 900, false),
        ] {
            let at = usize::try_from(second).unwrap();
            snapshots[at].host = Some(host((second + 9) * SECOND, age * SECOND, sent, is_up));
        }
        snapshots[4].host = Some(HostNow::default());
        snapshots[4].host.as_mut().unwrap().at = Timestamp::from_nanos(13 * SECOND);
        let recording = recording(snapshots);
        let report = Report::new(&recording, 16);
        let port = &report.ports[0];
        // The first reading says nothing, nor does the first after it was away.
        let sent = [Some(2000), Some(2000), Some(1000), None, None, Some(800)];
        assert_eq!(port.sent, sent);
        assert_eq!(port.sent_bytes, Some(5800));
        assert_eq!((port.received_bytes, port.link.as_str()), (None, "down"));
        assert_eq!(
            port.troubles["drops"],
            [Some(0), Some(4), Some(1), None, None, Some(0)]
        );
        assert_eq!(
            port.troubles["downs"],
            [None, None, None, None, Some(1), None]
        );
        assert_eq!(port.troubles.len(), 2);
        let page = page::page(&report);
        assert!(page.contains("<h2>Ports</h2>") && page.contains(">eth0 downs</text>"));
        assert!(page.contains("Ports: sent</h3>") && !page.contains("Ports: received</h3>"));
    }

    #[test]
    fn more_ports_than_lines_are_a_map() {
        let mut snapshots = seconds(3);
        for (second, snapshot) in (0..).zip(&mut snapshots) {
            let mut now = host((second + 9) * SECOND, 0, second * 4000, true);
            let port = now.ports.remove(0);
            now.ports.extend((0..6).map(|number| {
                let mut port = port.clone();
                port.name = format!("eth{number}");
                if number == 5 {
                    port.counters[PortCounter::SentBytes] = Some(second);
                }
                port
            }));
            snapshot.host = Some(now);
        }
        let recording = recording(snapshots);
        let page = page::page(&Report::new(&recording, 16));
        assert!(
            page.contains("Ports: sent and received</h3>") && !page.contains("Ports: sent</h3>")
        );
        assert!(page.contains(">eth4 sent</text>"));
        assert!(!page.contains(">eth5 sent</text>"), "next to nothing");
    }

    #[test]
    fn of_many_troubles_the_grave_are_shown() {
        let mut snapshots = seconds(3);
        for (second, snapshot) in (0..).zip(&mut snapshots) {
            let mut now = host((second + 9) * SECOND, 0, second * 4000, second < 2);
            let port = now.ports.remove(0);
            now.ports.extend((0..30).map(|number| {
                let mut port = port.clone();
                port.name = format!("eth{number}");
                port
            }));
            snapshot.host = Some(now);
        }
        let recording = recording(snapshots);
        let page = page::page(&Report::new(&recording, 16));
        let rows = |name: &str| page.matches(&format!(" {name}</text>")).count();
        assert_eq!((rows("downs"), rows("drops")), (30, 10));
        assert!(page.contains("20 more rows are left out"));
    }

    #[test]
    fn windows_of_ports_are_merged_too() {
        let mut snapshots = seconds(1301);
        for (second, snapshot) in (0..).zip(&mut snapshots) {
            snapshot.host = Some(host((second + 9) * SECOND, 0, second * 100, true));
        }
        let recording = recording(snapshots);
        let report = Report::new(&recording, 16);
        let port = &report.ports[0];
        assert_eq!((port.sent.len(), port.sent_bytes), (434, Some(130_000)));
        assert!(port.sent.iter().all(|rate| *rate == Some(100)));
        let drops = port.troubles["drops"].iter().flatten().sum::<u64>();
        assert_eq!(drops, 130);
    }

    #[test]
    fn only_the_busiest_links_have_their_paths_over_time() {
        let recording = recording(seconds(3));
        let report = Report::new(&recording, 0);
        assert!(report.links[0].paths[0].bytes.is_empty());
        let page = page::page(&report);
        assert!(page.contains("The first 0 are shown") && !page.contains("id=\"link-"));
    }

    #[test]
    fn more_paths_than_colours_are_summed_up() {
        let at = |second| snapshot(BEGIN + second * SECOND, 12, second * 1_000_000);
        let recording = recording((0..4).map(at).collect());
        let page = page::page(&Report::new(&recording, 16));
        assert!(page.contains("5 others: 0.040 Gb/s"));
        assert_eq!(page.matches("class=\"band ").count(), 8);
    }

    #[test]
    fn of_many_events_the_harmless_are_left_out() {
        let mut snapshots = seconds(2);
        let happened =
            |number: u64, event| made::happened(BEGIN + number * 1000, (2, "p"), Some(1), event);
        let events = &mut snapshots[1].processes[0].events;
        events.extend((0..600).map(|number| happened(number, Event::PathUp { epoch: 4711 })));
        events.push(happened(700, Event::PathReplayed { frames: 4712 }));
        let recording = recording(snapshots);
        let report = Report::new(&recording, 16);
        assert_eq!(report.events.len(), 601);
        let page = page::page(&report);
        let table = &page[page.find("<h2>Events").unwrap()..];
        assert!(table.contains("4712"));
        assert_eq!(table.matches("4711").count(), 499);
        assert!(table.contains("101 more are left out"));
        assert!(
            page.matches("class=\"mark").count() < 20,
            "near ones are one"
        );
    }

    #[test]
    fn what_limited_a_link_that_closed_is_told_too() {
        let mut snapshots = seconds(9);
        for (second, snapshot) in (0..).zip(&mut snapshots) {
            let counters = &mut snapshot.processes[0].process.links[0].counters;
            *counters = Values::default();
            counters[LinkCounter::CreditTime] = second * SECOND;
        }
        snapshots[8].processes.clear();
        let mut recording = recording(snapshots);
        let report = Report::new(&recording, 16);
        assert_eq!(report.verdicts.findings.len(), 1);
        assert_eq!(report.verdicts.findings[0].cause, Cause::ReceiverLate);
        let page = page::page(&report);
        assert!(page.contains("<h2>Verdicts</h2><p>It is not the network.</p>"));
        assert!(page.contains("<strong>x 7 to p: a receiver that is late</strong>"));
        recording.snapshots.truncate(1);
        assert!(!page::page(&Report::new(&recording, 16)).contains("Verdicts"));
    }

    #[test]
    fn recordings_of_next_to_nothing_have_a_page() {
        for (snapshots, says) in [
            (Vec::new(), "There were none."),
            (seconds(1), "from two snapshots on"),
            (vec![Snapshot::default(); 2], "No process had a link."),
        ] {
            let recording = recording(snapshots);
            let page = page::page(&Report::new(&recording, 16));
            assert!(page.contains(says) && page.ends_with("</body></html>\n"));
        }
    }

    #[test]
    fn of_much_that_cannot_be_read_some_is_told() {
        let mut recording = recording(seconds(2));
        recording.lines = (0..50).map(|number| format!("line <{number}>")).collect();
        let page = page::page(&Report::new(&recording, 16));
        assert!(page.contains("line &lt;19&gt;\nand 30 more") && !page.contains("&lt;20&gt;"));
    }

    proptest! {
        #[test]
        fn any_numbers_have_a_page(
            // 1 TiB: verdicts multiply, and go by what can have been carried.
            numbers in prop::collection::vec(
                (prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..11u32, any::<u64>()),
                0..6,
            ),
        ) {
            let snapshots = numbers.into_iter().map(|(wall, paths, bytes)| Snapshot {
                host: Some(host(wall, u64::from(paths), bytes, paths > 0)),
                ..snapshot(wall, paths, bytes)
            });
            let mut snapshots: Vec<_> = snapshots.collect();
            snapshots.sort_by_key(|snapshot| snapshot.wall_ns);
            let recording = recording(snapshots);
            let page = page::page(&Report::new(&recording, 16));
            prop_assert!(!page.contains("NaN") && !page.contains("inf\""), "{}", page);
        }
    }
}
