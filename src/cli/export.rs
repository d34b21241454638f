//! `thalweg export`: what this host's processes record, and what it and its ports say, for Prometheus.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use clap::Args;

use super::watched::{Folder, Switches};
use super::{Failure, print_json, say};
use crate::clock::Timestamp;
use crate::export::http::{self, Page};
use crate::export::{Scrape, SharedHost, prometheus};
use crate::telemetry::sources::Host;

#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(super) struct ExportArgs {
    /// Where to answer scrapes; port 0: any that is free
    // Prometheus' exporters share 9100 to 9999 among themselves, and no number is left there.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10469")]
    listen: SocketAddr,
    #[command(flatten)]
    folder: Folder,
    /// Leave out what the host and its ports say
    #[arg(long)]
    no_host: bool,
    /// Tell of each connection too: many time series in a large job
    #[arg(long)]
    connections: bool,
    #[command(flatten)]
    switches: Switches,
    /// Print what a scrape would be answered, and end
    #[arg(long, conflicts_with = "otlp")]
    once: bool,
    /// The same as JSON, with all that ended processes left behind
    #[arg(long, conflicts_with = "otlp")]
    json: bool,
}

pub(super) fn export(args: &ExportArgs, out: &mut impl Write) -> Result<(), Failure> {
    let folder = args.folder.path();
    let host = (!args.no_host).then(|| SharedHost::new(Host::new()));
    let switches = args.switches.listen()?;
    let scrape = || -> Result<_, String> {
        let (mut scrape, mut lines) = Scrape::of(&folder)?;
        scrape.host = host.as_ref().map(SharedHost::read);
        lines.extend(scrape.host.iter().flat_map(|host| host.lines.clone()));
        if let Some(switches) = &switches {
            let (values, more) = switches.read().told(Timestamp::now());
            scrape.switches = values;
            lines.extend(more);
        }
        Ok((scrape, lines))
    };
    if args.once || args.json {
        let (scrape, lines) = scrape().map_err(Failure::Usage)?;
        for line in &lines {
            say(line);
        }
        if args.json {
            return print_json(out, &scrape);
        }
        write!(out, "{}", prometheus::text(&scrape, args.connections))?;
        return Ok(());
    }
    let refused = |error| Failure::Usage(format!("--listen {}: {error}", args.listen));
    let listener = TcpListener::bind(args.listen).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    say(format_args!(
        "metrics of {} at http://{address}/metrics",
        folder.display()
    ));
    let said = Said::default();
    let page = |path: &str| match path {
        "/metrics" => match scrape() {
            Ok((scrape, lines)) => {
                said.say(lines);
                Page {
                    status: 200,
                    content_type: prometheus::CONTENT_TYPE,
                    text: prometheus::text(&scrape, args.connections),
                }
            }
            Err(line) => {
                said.say(vec![line.clone()]);
                Page::line(500, &line)
            }
        },
        "/" => Page::line(200, "thalweg export: the metrics are at /metrics"),
        _ => Page::line(404, "there is only /metrics"),
    };
    http::serve(&listener, &page, &|line: &str| say(line))
        .map_err(|error| Failure::Usage(format!("no thread: {error}")))
}

/// Lines of the last scrape: each is said when it comes, and not again as long as it stays.
#[derive(Debug, Default)]
struct Said(Mutex<BTreeSet<String>>);

impl Said {
    fn say(&self, lines: Vec<String>) {
        for line in self.news(lines) {
            say(line);
        }
    }

    fn news(&self, lines: Vec<String>) -> Vec<String> {
        let lines = BTreeSet::from_iter(lines);
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = lines.difference(&said).cloned().collect();
        *said = lines;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_once_while_it_holds() {
        let said = Said::default();
        let news =
            |lines: &[&str]| said.news(lines.iter().map(|line| (*line).to_owned()).collect());
        assert_eq!(news(&["a"]), ["a"]);
        assert_eq!(news(&["b", "a"]), ["b"]);
        assert_eq!(news(&["b"]), [""; 0]);
        assert_eq!(news(&["a", "b"]), ["a"]);
    }
}
