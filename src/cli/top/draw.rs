//! What the screen looks like, from 40 columns on.

use std::fmt::Write as _;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Clear, Paragraph, Row, Sparkline, Table, TableState, Wrap};

use super::app::{App, HISTORY, Sort, View};
use super::rows::{LinkRow, MessagesRow, PathRow, PortLine, PortRow, Traffic, age, short};
use crate::cli::paths::{bytes, micros};
use crate::cli::ports::{self, Trouble};
use crate::cli::wall_text;
use crate::telemetry::event::Verdict;

const KEYS: &str = "\
up down        choose a link, a path or a port
enter          its paths; of a path, its history; of a port, all it tells
esc            back
n              the host's network ports, or links again
m              messages: of a link by its connections, else by device and class
s r            sort by the next column; the other way round
/              only what contains a text: peer, program, pid, address; port
e              events, or more rows
p or space     hold the screen
left right     in a recording: a step back, or on ([ ] for ten)
";

const LINKS_HELP: &str = "
lost           fences and frames sent again over other paths
again          TCP segments that the kernel sent again
marked         TCP segments that a queue has marked (ECN)
held up by     what most of the time went into: the network (window or
               paths full), the peer (no receive posted, bytes held back,
               sender late), last acks, or this host itself";

const MESSAGES_HELP: &str = "
p50 p99        what messages took, from the time that the link took up the
               request: a receiver's wait for the sender is in it, and a
               sender's for the receive
failed         messages that ended with an error";

/// A column: its title, its width, and how important it is; 0 is always there.
struct Column<T> {
    title: &'static str,
    width: u16,
    rank: u8,
    cell: fn(&T) -> String,
    /// The column by which this sort goes.
    sort: Option<Sort>,
    /// Words at the left, as wide as they are up to 47, an IPv6 address and a port; numbers at the right.
    is_text: bool,
}

/// Of words instead of numbers.
fn text<T>(mut column: Column<T>) -> Column<T> {
    column.is_text = true;
    column
}

const fn column<T>(
    title: &'static str,
    width: u16,
    rank: u8,
    sort: Option<Sort>,
    cell: fn(&T) -> String,
) -> Column<T> {
    Column {
        title,
        width,
        rank,
        cell,
        sort,
        is_text: false,
    }
}

fn gigabits(bytes_per_second: u64) -> String {
    let megabits = bytes_per_second / 125_000;
    match megabits {
        0..100_000 => format!("{}.{:03}", megabits / 1000, megabits % 1000),
        _ => format!("{}.{}", megabits / 1000, megabits / 100 % 10),
    }
}

fn rate(bytes_per_second: Option<u64>) -> String {
    bytes_per_second.map_or_else(|| "–".into(), gigabits)
}

fn delay(nanos: Option<u64>) -> String {
    match nanos {
        None => "–".into(),
        Some(nanos @ 0..10_000_000) => micros(nanos),
        Some(nanos) => (nanos / 1000).to_string(),
    }
}

fn lost(traffic: &Traffic) -> String {
    match (traffic.fences, traffic.replays) {
        (0, 0) => "0".into(),
        (fences, replays) => format!("{fences}+{replays}"),
    }
}

/// The columns of ports.
fn ports_help() -> String {
    let mut help = String::from(
        "\n> < Gb/s       sent and received, by RDMA or the interface: what is more\n",
    );
    for Trouble { name, says, .. } in ports::TROUBLES {
        let _ = writeln!(help, "{name:<15}{says}");
    }
    help + "age            of the oldest of these figures; – is not told, and not zero"
}

fn links() -> Vec<Column<LinkRow>> {
    vec![
        text(column("peer", 21, 0, Some(Sort::Name), |l| {
            let way = match (l.is_alive, l.role.way()) {
                (false, _) => "x",
                (true, "to") => ">",
                (true, _) => "<",
            };
            format!("{way} {}", l.peer)
        })),
        column("pid", 7, 4, None, |l| l.pid.to_string()),
        text(column("program", 12, 8, None, |l| l.program.clone())),
        column("paths", 5, 3, None, |l| {
            format!("{}/{}", l.paths_used, l.paths.len())
        }),
        column("Gb/s", 7, 0, Some(Sort::Rate), |l| {
            gigabits(l.traffic.bytes_per_second)
        }),
        column("p50 us", 7, 5, None, |l| delay(l.traffic.p50_ns)),
        column("p99 us", 7, 1, Some(Sort::Delay), |l| {
            delay(l.traffic.p99_ns)
        }),
        column("msg/s", 7, 9, None, |l| l.messages.to_string()),
        column("in flight", 10, 6, None, |l| bytes(l.traffic.in_flight)),
        column("window", 10, 10, None, |l| bytes(l.window)),
        column("lost", 6, 2, Some(Sort::Lost), |l| lost(&l.traffic)),
        column("again", 6, 11, None, |l| l.traffic.retransmits.to_string()),
        column("marked", 6, 12, None, |l| l.traffic.marked.to_string()),
        text(column("held up by", 16, 2, None, |l| {
            let held_up = l.held_up.filter(|_| l.is_alive);
            let otherwise = if l.is_alive { "–" } else { "ended" };
            held_up.map_or_else(
                || otherwise.into(),
                |(what, share)| format!("{what} {share}%"),
            )
        })),
    ]
}

fn paths() -> Vec<Column<PathRow>> {
    vec![
        column("path", 4, 0, Some(Sort::Name), |p| p.number.to_string()),
        text(column("state", 7, 1, None, |p| p.state.to_owned())),
        column("Gb/s", 7, 0, Some(Sort::Rate), |p| {
            gigabits(p.traffic.bytes_per_second)
        }),
        column("p50 us", 7, 5, None, |p| delay(p.traffic.p50_ns)),
        column("p99 us", 7, 1, Some(Sort::Delay), |p| {
            delay(p.traffic.p99_ns)
        }),
        column("rtt us", 7, 8, None, |p| delay(Some(p.round_trip_ns))),
        column("in flight", 10, 6, None, |p| bytes(p.traffic.in_flight)),
        column("lost", 6, 2, Some(Sort::Lost), |p| lost(&p.traffic)),
        column("again", 6, 9, None, |p| p.traffic.retransmits.to_string()),
        column("marked", 6, 10, None, |p| p.traffic.marked.to_string()),
        text(column("ends", 43, 3, None, |p| p.ends.clone())),
    ]
}

/// The first column is of those of a link, or of devices and classes.
fn messages(of_link: bool) -> Vec<Column<MessagesRow>> {
    let mut columns: Vec<Column<MessagesRow>> = if of_link {
        vec![column(
            "connection",
            10,
            0,
            Some(Sort::Name),
            |m: &MessagesRow| m.of.clone(),
        )]
    } else {
        vec![
            text(column("all of", 12, 0, Some(Sort::Name), |m| {
                let way = if m.role.way() == "to" { ">" } else { "<" };
                format!("{way} {}", m.of)
            })),
            column("pid", 7, 4, None, |m| m.pid.to_string()),
            text(column("program", 12, 6, None, |m| m.program.clone())),
        ]
    };
    let figures: [Column<MessagesRow>; 6] = [
        column("Gb/s", 7, 0, Some(Sort::Rate), |m| {
            gigabits(m.bytes_per_second)
        }),
        column("msg/s", 7, 2, None, |m| m.per_second.to_string()),
        column("size", 10, 5, None, |m| {
            m.size.map_or_else(|| "–".into(), bytes)
        }),
        column("p50 us", 7, 3, None, |m| delay(m.p50_ns)),
        column("p99 us", 7, 1, Some(Sort::Delay), |m| delay(m.p99_ns)),
        column("failed", 6, 4, Some(Sort::Lost), |m| m.failures.to_string()),
    ];
    columns.extend(figures);
    columns
}

fn ports() -> Vec<Column<PortRow>> {
    vec![
        text(column("port", 8, 0, Some(Sort::Name), |p| {
            p.now.name.clone()
        })),
        text(column("interface", 9, 10, None, |p| {
            p.now.interface.clone().unwrap_or_else(|| "–".into())
        })),
        column("link", 4, 2, None, |p| ports::link(&p.now)),
        column("> Gb/s", 7, 0, Some(Sort::Rate), |p| {
            rate(ports::carried_per_s(&p.now)[0])
        }),
        column("< Gb/s", 7, 0, None, |p| {
            rate(ports::carried_per_s(&p.now)[1])
        }),
        column(ports::PAUSED.name, 6, 5, Some(Sort::Delay), |p| {
            short(ports::PAUSED.count(&p.now))
        }),
        column(ports::PAUSING.name, 7, 8, None, |p| {
            short(ports::PAUSING.count(&p.now))
        }),
        column(ports::NOTIFIED.name, 4, 6, None, |p| {
            short(ports::NOTIFIED.count(&p.now))
        }),
        column(ports::MARKED.name, 5, 9, None, |p| {
            short(ports::MARKED.count(&p.now))
        }),
        column(ports::LOST.name, 4, 1, Some(Sort::Lost), |p| {
            short(ports::LOST.count(&p.now))
        }),
        column(ports::AGAIN.name, 5, 11, None, |p| {
            short(ports::AGAIN.count(&p.now))
        }),
        column(ports::DROPPED.name, 5, 4, None, |p| {
            short(ports::DROPPED.count(&p.now))
        }),
        column(ports::DAMAGED.name, 6, 3, None, |p| {
            short(ports::DAMAGED.count(&p.now))
        }),
        column(ports::WENT_DOWN.name, 5, 12, None, |p| {
            short(ports::WENT_DOWN.count(&p.now))
        }),
        column("age", 5, 7, None, |p| {
            ports::age_ns(&p.now).map_or_else(|| "–".into(), age)
        }),
    ]
}

/// Those of the columns that have room, the important ones first.
fn fitting<T>(mut columns: Vec<Column<T>>, rows: &[&T], width: u16) -> Vec<Column<T>> {
    for column in columns.iter_mut().filter(|column| column.is_text) {
        let cells = rows.iter().map(|row| (column.cell)(row).chars().count());
        let longest = cells.max().unwrap_or(0).max(column.title.len()).min(47);
        column.width = u16::try_from(longest).unwrap_or(0);
    }
    let needed = |columns: &[Column<T>]| {
        let gaps = u16::try_from(columns.len()).unwrap_or(0).saturating_sub(1);
        columns.iter().map(|c| c.width).sum::<u16>() + gaps
    };
    while needed(&columns) > width {
        let least = columns.iter().map(|c| c.rank).max().unwrap_or(0);
        if least == 0 {
            break;
        }
        let at = columns.iter().rposition(|c| c.rank == least);
        columns.remove(at.unwrap_or(0));
    }
    columns
}

fn table<T>(app: &App, columns: Vec<Column<T>>, rows: &[&T], frame: &mut Frame, area: Rect) {
    let columns = fitting(columns, rows, area.width);
    let title = |column: &Column<T>| {
        let is_sorted = column.sort == Some(app.sort);
        let style = if is_sorted {
            Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
        } else {
            Style::new().fg(Color::DarkGray)
        };
        Cell::from(aligned(column, column.title.into())).style(style)
    };
    let row = |row: &&T| {
        let cell = |column: &Column<T>| aligned(column, (column.cell)(row));
        Row::new(columns.iter().map(cell))
    };
    // The last column takes what is left, if it is of words.
    let last = columns.len().saturating_sub(1);
    let widths = columns.iter().enumerate().map(|(at, column)| {
        if at == last && column.is_text {
            Constraint::Min(column.width)
        } else {
            Constraint::Length(column.width)
        }
    });
    let table = Table::new(rows.iter().map(row), widths)
        .header(Row::new(columns.iter().map(title)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let selected = (!rows.is_empty()).then(|| app.selected());
    let mut state = TableState::new().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut state);
}

fn aligned<T>(column: &Column<T>, text: String) -> Line<'static> {
    let line = Line::from(text);
    if column.is_text {
        line
    } else {
        line.right_aligned()
    }
}

/// Draws it all; `source` is what is shown: this host, or a recording and where in it.
pub(super) fn draw(app: &App, source: &str, frame: &mut Frame) {
    let area = frame.area();
    let events = match (app.has_events, area.height, app.view) {
        (_, _, View::Port) => 0,
        (true, 16.., _) => area.height / 3,
        _ => 0,
    };
    let [head, body, below, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(events),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(heading(app, source)), head);
    match app.view {
        View::Links => {
            let rows = app.links_shown();
            table(app, links(), &rows, frame, body);
            if rows.is_empty() {
                nothing(app, frame, body);
            }
        }
        View::Paths(_) => table(app, paths(), &app.paths_shown(), frame, body),
        View::Path(..) => history(app, frame, body),
        View::Messages(link) => {
            let rows = app.messages_shown();
            table(app, messages(link.is_some()), &rows, frame, body);
            if rows.is_empty() {
                nothing(app, frame, body);
            }
        }
        View::Ports => {
            let rows = app.ports_shown();
            table(app, ports(), &rows, frame, body);
            if rows.is_empty() {
                nothing(app, frame, body);
            }
        }
        View::Port => port(app, frame, body),
    }
    if events > 0 {
        happened(app, frame, below);
    }
    let keys = match area.width {
        _ if app.is_typing => format!("/{}_   enter: keep  esc: all", app.filter),
        77.. => {
            "q end  enter in  esc out  n ports  s sort  / filter  e events  p hold  ? help".into()
        }
        _ => "q end  enter in  esc out  n ports  ?".into(),
    };
    frame.render_widget(
        Paragraph::new(keys).style(Style::new().fg(Color::DarkGray)),
        foot,
    );
    if app.has_help {
        let of_columns = match app.view {
            View::Ports | View::Port => ports_help(),
            View::Messages(_) => MESSAGES_HELP.into(),
            View::Links | View::Paths(_) | View::Path(..) => LINKS_HELP.into(),
        };
        frame.render_widget(Clear, body.union(below));
        frame.render_widget(
            Paragraph::new(KEYS.to_owned() + &of_columns),
            body.union(below),
        );
    }
}

fn nothing(app: &App, frame: &mut Frame, area: Rect) {
    let [_, line] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let Some(window) = &app.window else {
        frame.render_widget(Paragraph::new("looking …"), line);
        return;
    };
    let is_of_ports = app.view == View::Ports;
    let says = if is_of_ports && window.host.is_none() {
        "nothing is known of this host's ports yet; a recording with --no-host has none"
    } else if is_of_ports && app.filter.is_empty() {
        "this host has no port"
    } else if matches!(app.view, View::Messages(Some(_))) {
        "no connection of this link is open"
    } else if app.filter.is_empty() {
        "no process has a link: is THALWEG_TELEMETRY off, or the folder another?"
    } else {
        "nothing contains that: esc shows all"
    };
    let text = Paragraph::new(says).wrap(Wrap { trim: true });
    frame.render_widget(text, line);
}

fn heading(app: &App, source: &str) -> Vec<Line<'static>> {
    let Some(window) = &app.window else {
        return vec![Line::from(source.to_owned())];
    };
    let held = if app.is_paused { "  HELD" } else { "" };
    let links = app.links_shown();
    let rate = links.iter().filter(|link| link.role.way() == "to");
    let rate = rate.map(|link| link.traffic.bytes_per_second).sum();
    let first = format!("{source}  {}{held}", &wall_text(window.to_ns)[..10]);
    let filter = match app.filter.as_str() {
        "" => String::new(),
        filter => format!("  with \"{filter}\""),
    };
    let sort = app.sort.name(app.view);
    let second = match (app.view, app.link()) {
        (View::Ports, _) => {
            let ports = app.ports_shown().len();
            format!("{ports} ports of this host{filter}, by {sort}")
        }
        (View::Messages(None), _) => {
            format!("messages of all devices and classes{filter}, by {sort}")
        }
        (View::Port, _) => app.port().map_or_else(String::new, about),
        (View::Links, _) | (_, None) => {
            format!(
                "{} processes, {} links{filter}, sending {} Gb/s, by {}",
                window.processes.len(),
                links.len(),
                gigabits(rate),
                sort,
            )
        }
        (view, Some(link)) => {
            let path = match view {
                View::Path(_, number) => format!(", path {number}"),
                View::Messages(_) => ", by connection".into(),
                _ => String::new(),
            };
            format!(
                "{} {} {} {}{path}: {} Gb/s",
                link.program,
                link.pid,
                link.role.way(),
                link.peer,
                gigabits(link.traffic.bytes_per_second),
            )
        }
    };
    vec![
        Line::from(first).style(Style::new().add_modifier(Modifier::BOLD)),
        Line::from(second),
    ]
}

/// What a port is.
fn about(port: &PortRow) -> String {
    let port = &port.now;
    let names = [
        Some(&port.name),
        port.interface.as_ref(),
        port.driver.as_ref(),
    ];
    let mut names: Vec<_> = names.into_iter().flatten().map(String::as_str).collect();
    names.dedup();
    let [sent, received] = ports::carried_per_s(port).map(rate);
    let link = ports::link(port);
    format!("{}: {link}, > {sent} < {received} Gb/s", names.join(" "))
}

/// All that a port tells, from the chosen line on.
fn port(app: &App, frame: &mut Frame, area: Rect) {
    let Some(port) = app.port() else {
        return;
    };
    // Where there is room, counters have two figures.
    let (now, all) = match area.width {
        60.. => (16, 16),
        _ => (0, 13),
    };
    let width = usize::from(area.width).saturating_sub(now + all).min(40);
    let line = |line: PortLine| {
        let name: String = line.name.chars().take(width).collect();
        let now = if now > 0 {
            format!("{:>now$}", line.now)
        } else {
            String::new()
        };
        let style = if line.is_head {
            Style::new().add_modifier(Modifier::BOLD)
        } else {
            Style::new()
        };
        Line::from(format!("{name:<width$}{now}{:>all$}", line.all)).style(style)
    };
    let lines: Vec<_> = port
        .lines()
        .into_iter()
        .skip(app.selected())
        .map(line)
        .collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn history(app: &App, frame: &mut Frame, area: Rect) {
    let (Some(path), Some(points)) = (app.path(), app.points()) else {
        return;
    };
    let traffic = &path.traffic;
    let [facts, rates, delays] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ])
    .areas(area);
    let text = vec![
        Line::from(path.ends.clone()),
        Line::from(format!(
            "{}, round trip {} us, {} in flight",
            path.state,
            delay(Some(path.round_trip_ns)),
            bytes(traffic.in_flight)
        )),
        Line::from(format!(
            "in the last look: lost {}, sent again {}, marked {}",
            lost(traffic),
            traffic.retransmits,
            traffic.marked
        )),
    ];
    frame.render_widget(Paragraph::new(text), facts);
    let most = points.iter().map(|p| p.bytes_per_second).max().unwrap_or(0);
    let title = format!(
        "Gb/s: {} now, {} at most",
        gigabits(traffic.bytes_per_second),
        gigabits(most)
    );
    let values: Vec<_> = points.iter().map(|point| point.bytes_per_second).collect();
    line(&title, &values, frame, rates);
    let most = points.iter().filter_map(|point| point.p99_ns).max();
    let title = format!(
        "p99 us: {} now, {} at most",
        delay(traffic.p99_ns),
        delay(most)
    );
    let values: Vec<_> = points
        .iter()
        .map(|point| point.p99_ns.unwrap_or(0))
        .collect();
    line(&title, &values, frame, delays);
}

/// The latest at the right.
fn line(title: &str, values: &[u64], frame: &mut Frame, area: Rect) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    frame.render_widget(Paragraph::new(title.to_owned()), head);
    let room = usize::from(body.width).min(HISTORY);
    let from = values.len().saturating_sub(room);
    let shown = &values[from..];
    let blank = room - shown.len();
    let padded: Vec<u64> = std::iter::repeat_n(0, blank)
        .chain(shown.iter().copied())
        .collect();
    frame.render_widget(Sparkline::default().data(&padded), body);
}

fn happened(app: &App, frame: &mut Frame, area: Rect) {
    let room = usize::from(area.height.saturating_sub(1));
    let grey = Style::new().fg(Color::DarkGray);
    let mut lines = Vec::new();
    // What the host cannot be asked for belongs to its ports.
    let unread = app.window.iter().flat_map(|window| &window.host);
    let unread = unread.flat_map(|host| &host.lines);
    if app.view == View::Ports {
        lines.extend(unread.map(|line| Line::from(line.clone()).style(Color::Yellow)));
        lines.truncate(room / 2);
    }
    lines.push(Line::from("events").style(grey));
    lines.extend(app.events_shown().take(room).map(|(pid, _, event)| {
        let path = event
            .path
            .map_or_else(String::new, |p| format!(" path {p}"));
        let whose = match app.view {
            View::Links | View::Ports | View::Messages(None) => {
                format!("{pid} {} {}{path}", event.role.way(), event.peer)
            }
            _ => path.trim_start().to_owned(),
        };
        let whose = if whose.is_empty() {
            "link".into()
        } else {
            whose
        };
        let text = format!(
            "{} {whose}: {}",
            &wall_text(event.wall_ns)[..12],
            event.event
        );
        let colour = match event.event.verdict() {
            Verdict::Fine => Color::Reset,
            Verdict::Slow => Color::Yellow,
            Verdict::Lost => Color::Magenta,
            Verdict::Failed => Color::Red,
        };
        Line::from(text).style(Style::new().fg(colour))
    }));
    let wrap = Wrap { trim: false };
    frame.render_widget(Paragraph::new(lines).wrap(wrap), area);
}
