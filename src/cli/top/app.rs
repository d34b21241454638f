//! The state of the screen: what is chosen, how it is sorted, and what was seen before.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::rows::{LinkKey, LinkRow, MessagesRow, PathRow, PortRow, Traffic};
use crate::cli::ports;
use crate::telemetry::event::Event;
use crate::telemetry::reader::Happened;
use crate::telemetry::snapshot::Window;

/// Windows that a path's history goes back.
pub(super) const HISTORY: usize = 240;
/// Events that are kept.
const EVENTS: usize = 1000;

/// What is on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// All links.
    Links,
    /// The paths of one.
    Paths(LinkKey),
    /// The history of a path.
    Path(LinkKey, u32),
    /// The messages of the connections of a link, or of all devices and classes.
    Messages(Option<LinkKey>),
    /// All ports of the host.
    Ports,
    /// What one of them tells: [`App::port`].
    Port,
}

/// By what rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Rate,
    Delay,
    Lost,
    Name,
}

impl Sort {
    /// What it is called in a view: ports have no delay, and stand by what holds them back.
    pub(super) fn name(self, view: View) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Delay if matches!(view, View::Ports | View::Port) => ports::PAUSED.name,
            Self::Delay => "p99",
            Self::Lost => "lost",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Rate => Self::Delay,
            Self::Delay => Self::Lost,
            Self::Lost => Self::Name,
            Self::Name => Self::Rate,
        }
    }
}

/// What a key asks of whoever feeds the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    Quit,
    /// So many windows on, or back.
    Step(isize),
}

/// What was seen of a path in a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) bytes_per_second: u64,
    pub(super) p99_ns: Option<u64>,
}

/// The state.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own, that a key turns"
)]
pub(super) struct App {
    pub(super) window: Option<Window>,
    links: Vec<LinkRow>,
    /// Of devices and classes.
    totals: Vec<MessagesRow>,
    /// In the order in which they are told.
    ports: Vec<PortRow>,
    history: BTreeMap<(LinkKey, u32), VecDeque<Point>>,
    /// With the number of the process.
    pub(super) events: VecDeque<(u64, LinkKey, Happened)>,
    pub(super) view: View,
    /// The port that is looked into.
    port: String,
    /// Ports have been looked at.
    pub(super) has_asked_for_ports: bool,
    /// Of each view: links, paths, ports, the lines of one, and messages.
    selected: [usize; 5],
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    pub(super) filter: String,
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    pub(super) has_help: bool,
    pub(super) has_events: bool,
}

impl App {
    pub(super) fn new() -> Self {
        Self {
            window: None,
            links: Vec::new(),
            totals: Vec::new(),
            ports: Vec::new(),
            history: BTreeMap::new(),
            events: VecDeque::new(),
            view: View::Links,
            port: String::new(),
            has_asked_for_ports: false,
            selected: [0; 5],
            sort: Sort::Rate,
            is_reversed: false,
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            has_help: false,
            has_events: true,
        }
    }

    /// Forgets what was seen, and nothing that was chosen.
    pub(super) fn rewind(&mut self) {
        self.history.clear();
        self.events.clear();
        self.ports.clear();
    }

    /// The next window.
    pub(super) fn take(&mut self, window: Window) {
        self.links = LinkRow::of(&window);
        self.totals = MessagesRow::totals(&window);
        let before = std::mem::take(&mut self.ports);
        let before: BTreeMap<_, _> = before.iter().map(|port| (&port.now.name, port)).collect();
        let ports = window.ports.iter();
        self.ports = ports
            .map(|port| PortRow::new(port, before.get(&port.name).copied()))
            .collect();
        // Of what is gone, nothing is kept.
        let links = &self.links;
        self.history
            .retain(|(key, _), _| links.iter().any(|link| link.key == *key));
        for link in links {
            for path in &link.paths {
                let points = self.history.entry((link.key, path.number)).or_default();
                if points.len() == HISTORY {
                    points.pop_front();
                }
                points.push_back(Point {
                    bytes_per_second: path.traffic.bytes_per_second,
                    p99_ns: path.traffic.p99_ns,
                });
            }
        }
        let mut events: Vec<_> = window
            .processes
            .iter()
            .flat_map(|watched| {
                let process = &watched.process;
                watched.events.iter().map(|event| {
                    let key = (process.pid, process.started_wall_ns, event.link);
                    (process.pid, key, event.clone())
                })
            })
            .filter(|(.., happened)| {
                !matches!(happened.event, Event::Chunk { .. } | Event::Window { .. })
            })
            .collect();
        events.sort_by_key(|(.., event)| event.wall_ns);
        self.events.extend(events);
        let surplus = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..surplus);
        self.window = Some(window);
        self.leave_what_is_gone();
    }

    /// The link of the view, if it is one's.
    pub(super) fn link(&self) -> Option<&LinkRow> {
        let key = match self.view {
            View::Links | View::Messages(None) | View::Ports | View::Port => return None,
            View::Paths(key) | View::Path(key, _) | View::Messages(Some(key)) => key,
        };
        self.links.iter().find(|link| link.key == key)
    }

    pub(super) fn path(&self) -> Option<&PathRow> {
        let View::Path(_, number) = self.view else {
            return None;
        };
        let paths = &self.link()?.paths;
        paths.iter().find(|path| path.number == number)
    }

    /// What was seen of the path of the view.
    pub(super) fn points(&self) -> Option<&VecDeque<Point>> {
        let View::Path(key, number) = self.view else {
            return None;
        };
        self.history.get(&(key, number))
    }

    fn leave_what_is_gone(&mut self) {
        match self.view {
            View::Paths(_) | View::Path(..) | View::Messages(Some(_)) if self.link().is_none() => {
                self.view = View::Links;
            }
            View::Port if self.port().is_none() => self.view = View::Ports,
            _ => {}
        }
        let rows = self.rows();
        let selected = self.selected_mut();
        *selected = (*selected).min(rows.saturating_sub(1));
    }

    /// Events of what is on the screen, the latest first.
    pub(super) fn events_shown(&self) -> impl Iterator<Item = &(u64, LinkKey, Happened)> {
        self.events
            .iter()
            .rev()
            .filter(|(_, key, event)| match self.view {
                View::Links | View::Messages(None) | View::Ports | View::Port => true,
                View::Paths(link) | View::Messages(Some(link)) => *key == link,
                View::Path(link, path) => *key == link && event.path.is_none_or(|p| p == path),
            })
    }

    /// The links that the filter takes, sorted.
    pub(super) fn links_shown(&self) -> Vec<&LinkRow> {
        let is_shown = |link: &&LinkRow| {
            let pid = link.pid.to_string();
            let texts = [&link.peer, &link.program, &pid];
            let of_path = |path: &PathRow| path.ends.contains(&self.filter);
            texts.iter().any(|text| text.contains(&self.filter)) || link.paths.iter().any(of_path)
        };
        let mut links: Vec<_> = self.links.iter().filter(is_shown).collect();
        links.sort_by(|a, b| {
            let by_name = || (&a.peer, a.pid, a.key).cmp(&(&b.peer, b.pid, b.key));
            self.ordered(&a.traffic, &b.traffic).then_with(by_name)
        });
        if self.is_reversed {
            links.reverse();
        }
        links
    }

    /// The paths of the link of the view, sorted.
    pub(super) fn paths_shown(&self) -> Vec<&PathRow> {
        let Some(link) = self.link() else {
            return Vec::new();
        };
        let mut paths: Vec<_> = link.paths.iter().collect();
        paths.sort_by(|a, b| {
            let by_number = || a.number.cmp(&b.number);
            self.ordered(&a.traffic, &b.traffic).then_with(by_number)
        });
        if self.is_reversed {
            paths.reverse();
        }
        paths
    }

    /// The messages of the view, sorted: of devices and classes those that the filter takes.
    pub(super) fn messages_shown(&self) -> Vec<&MessagesRow> {
        let mut rows: Vec<_> = if let Some(link) = self.link() {
            link.connections.iter().collect()
        } else {
            let is_shown = |row: &&MessagesRow| {
                let pid = row.pid.to_string();
                let texts = [&row.of, &row.program, &pid];
                texts.iter().any(|text| text.contains(&self.filter))
            };
            self.totals.iter().filter(is_shown).collect()
        };
        rows.sort_by(|a, b| match self.sort {
            Sort::Rate => b.bytes_per_second.cmp(&a.bytes_per_second),
            Sort::Delay => b.p99_ns.cmp(&a.p99_ns),
            Sort::Lost => b.failures.cmp(&a.failures),
            Sort::Name => Ordering::Equal,
        });
        if self.is_reversed {
            rows.reverse();
        }
        rows
    }

    /// The ports that the filter takes, sorted.
    pub(super) fn ports_shown(&self) -> Vec<&PortRow> {
        let ports = self.ports.iter();
        let mut ports: Vec<_> = ports.filter(|port| port.contains(&self.filter)).collect();
        let rate = |port: &PortRow| {
            let [sent, received] = ports::carried_per_s(&port.now).map(|rate| rate.unwrap_or(0));
            sent.saturating_add(received)
        };
        let count = |port: &PortRow, of: &ports::Trouble| of.count(&port.now);
        let lost = |port: &PortRow| {
            let of = [&ports::LOST, &ports::DAMAGED, &ports::DROPPED];
            of.map(|trouble| count(port, trouble))
        };
        ports.sort_by(|a, b| match self.sort {
            Sort::Rate => rate(b).cmp(&rate(a)),
            Sort::Delay => count(b, &ports::PAUSED).cmp(&count(a, &ports::PAUSED)),
            Sort::Lost => lost(b).cmp(&lost(a)),
            Sort::Name => Ordering::Equal,
        });
        if self.is_reversed {
            ports.reverse();
        }
        ports
    }

    /// The port of the view, if it is one's.
    pub(super) fn port(&self) -> Option<&PortRow> {
        let mut ports = self.ports.iter();
        ports.find(|port| self.view == View::Port && port.now.name == self.port)
    }

    fn ordered(&self, a: &Traffic, b: &Traffic) -> Ordering {
        let lost = |t: &Traffic| (t.fences, t.replays, t.retransmits);
        match self.sort {
            Sort::Rate => b.bytes_per_second.cmp(&a.bytes_per_second),
            Sort::Delay => b.p99_ns.cmp(&a.p99_ns),
            Sort::Lost => lost(b).cmp(&lost(a)),
            Sort::Name => Ordering::Equal,
        }
    }

    fn rows(&self) -> usize {
        match self.view {
            View::Links => self.links_shown().len(),
            View::Paths(_) => self.paths_shown().len(),
            View::Path(..) => 0,
            View::Messages(_) => self.messages_shown().len(),
            View::Ports => self.ports_shown().len(),
            View::Port => self.port().map_or(0, |port| port.lines().len()),
        }
    }

    fn place(&self) -> usize {
        match self.view {
            View::Links => 0,
            View::Paths(_) | View::Path(..) => 1,
            View::Ports => 2,
            View::Port => 3,
            View::Messages(_) => 4,
        }
    }

    pub(super) fn selected(&self) -> usize {
        self.selected[self.place()]
    }

    fn selected_mut(&mut self) -> &mut usize {
        &mut self.selected[self.place()]
    }

    fn select(&mut self, to: impl FnOnce(usize) -> usize) {
        let last = self.rows().saturating_sub(1);
        let selected = self.selected_mut();
        *selected = to(*selected).min(last);
    }

    fn enter(&mut self) {
        match self.view {
            View::Links => {
                let key = self.links_shown().get(self.selected()).map(|link| link.key);
                if let Some(key) = key {
                    self.view = View::Paths(key);
                    *self.selected_mut() = 0;
                }
            }
            View::Paths(key) => {
                let number = self.paths_shown().get(self.selected()).map(|p| p.number);
                if let Some(number) = number {
                    self.view = View::Path(key, number);
                }
            }
            View::Ports => {
                let ports = self.ports_shown();
                let name = ports.get(self.selected()).map(|port| port.now.name.clone());
                if let Some(name) = name {
                    self.port = name;
                    self.view = View::Port;
                    *self.selected_mut() = 0;
                }
            }
            View::Path(..) | View::Messages(_) | View::Port => {}
        }
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Asked {
        if key.kind == KeyEventKind::Release {
            return Asked::Nothing;
        }
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if has_control && key.code == KeyCode::Char('c') {
            return Asked::Quit;
        }
        if self.is_typing {
            match key.code {
                KeyCode::Enter => self.is_typing = false,
                KeyCode::Esc => {
                    self.is_typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => {
                    self.filter.pop();
                }
                KeyCode::Char(c) => self.filter.push(c),
                _ => {}
            }
            self.select(|at| at);
            return Asked::Nothing;
        }
        if self.has_help {
            self.has_help = false;
            return Asked::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Asked::Quit,
            KeyCode::Char('?' | 'h') => self.has_help = true,
            KeyCode::Char('e') => self.has_events = !self.has_events,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Char('n') => {
                self.has_asked_for_ports = true;
                self.view = match self.view {
                    View::Ports | View::Port => View::Links,
                    _ => View::Ports,
                };
            }
            KeyCode::Char('m') => {
                self.view = match self.view {
                    View::Messages(None) => View::Links,
                    View::Messages(Some(key)) => View::Paths(key),
                    View::Paths(key) | View::Path(key, _) => View::Messages(Some(key)),
                    View::Links | View::Ports | View::Port => View::Messages(None),
                };
                self.select(|at| at);
            }
            KeyCode::Char('/') => {
                self.view = match self.view {
                    View::Ports | View::Port => View::Ports,
                    View::Messages(None) => View::Messages(None),
                    _ => View::Links,
                };
                self.is_typing = true;
            }
            KeyCode::Up | KeyCode::Char('k') => self.select(|at| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|at| at + 1),
            KeyCode::PageUp => self.select(|at| at.saturating_sub(10)),
            KeyCode::PageDown => self.select(|at| at + 10),
            KeyCode::Home => self.select(|_| 0),
            KeyCode::End => self.select(|_| usize::MAX),
            KeyCode::Enter => self.enter(),
            KeyCode::Esc | KeyCode::Backspace => {
                self.view = match self.view {
                    View::Path(key, _) | View::Messages(Some(key)) => View::Paths(key),
                    View::Links | View::Paths(_) | View::Messages(None) => View::Links,
                    View::Ports | View::Port => View::Ports,
                }
            }
            KeyCode::Left => return Asked::Step(-1),
            KeyCode::Right => return Asked::Step(1),
            KeyCode::Char('[') => return Asked::Step(-10),
            KeyCode::Char(']') => return Asked::Step(10),
            _ => {}
        }
        Asked::Nothing
    }
}
