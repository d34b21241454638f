//! `thalweg top`: what this host's links and ports do, on a screen that is drawn anew every second; `thalweg replay`:
//! the same of a recording.

mod app;
mod draw;
mod rows;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};

use self::app::{App, Asked};
use super::recording::Recording;
use super::watched::{Folder, Watched};
use super::{Failure, duration, say};
use crate::telemetry::snapshot::{Snapshot, Window};

/// Between two looks, at least.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    folder: Folder,
    /// Between two looks, such as 500ms or 2s
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    interval: Duration,
    /// Print a line of JSON for each look instead: what was done since the one before
    #[arg(long)]
    json: bool,
    /// Stop after so many looks
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// What `thalweg record` has made
    file: PathBuf,
    /// Print a line of JSON for each look instead: what was done since the one before
    #[arg(long)]
    json: bool,
}

fn needs_terminal() -> Result<(), Failure> {
    if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::Usage(
        "this is a screen and needs a terminal: use --json, or thalweg paths".into(),
    ))
}

fn print(window: &Window, out: &mut impl Write) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, window).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

pub(super) fn top(args: &TopArgs, out: &mut impl Write) -> Result<(), Failure> {
    if !args.json {
        needs_terminal()?;
    }
    let interval = args.interval.max(INTERVAL_MIN);
    let mut looks = 0;
    let mut is_over = || {
        looks += 1;
        args.count.is_some_and(|count| looks > count)
    };
    if args.json {
        let mut looks = Looks::begin(Watched::begin(&args.folder)?.with_host())?;
        while !is_over() {
            std::thread::sleep(interval);
            print(&looks.next()?, out)?;
        }
        return Ok(());
    }
    let mut looks = Looks::begin(Watched::on_screen(&args.folder))?;
    let outcome = on_terminal(|terminal| {
        let mut app = App::new();
        let mut due = Instant::now() + interval;
        loop {
            draw_on(terminal, &app, "thalweg top")?;
            if wait(&mut app, due)? == Some(Asked::Quit) {
                return Ok(());
            }
            // The host is read from when its ports are first looked at: that asks adapters' firmware, and takes
            // alarms away that transceivers have raised. Whoever looks at links only shall not do that. It is read
            // aside, for a transceiver may take a second, and at every look: each source has its own pace.
            if app.has_asked_for_ports {
                looks.watched.read_host_aside()?;
            }
            if Instant::now() >= due {
                due += interval;
                if is_over() {
                    return Ok(());
                }
                if !app.is_paused {
                    app.take(looks.next()?);
                }
            }
        }
    });
    looks.watched.say_kept();
    outcome
}

/// What is seen, window by window.
struct Looks {
    watched: Watched,
    latest: Snapshot,
}

impl Looks {
    fn begin(mut watched: Watched) -> Result<Self, Failure> {
        let latest = watched.snapshot()?;
        Ok(Self { watched, latest })
    }

    fn next(&mut self) -> Result<Window, Failure> {
        let now = self.watched.snapshot()?;
        let window = now.since(&self.latest);
        self.latest = now;
        Ok(window)
    }
}

pub(super) fn replay(args: &ReplayArgs, out: &mut impl Write) -> Result<(), Failure> {
    if !args.json {
        needs_terminal()?;
    }
    let recording = Recording::read(&args.file).map_err(Failure::Usage)?;
    for line in &recording.lines {
        say(format_args!("{}: {line}", args.file.display()));
    }
    let snapshots = &recording.snapshots;
    if snapshots.len() < 2 {
        return Err(Failure::Usage(format!(
            "{}: it has {} snapshots: two at least are needed",
            args.file.display(),
            snapshots.len()
        )));
    }
    if args.json {
        for pair in snapshots.windows(2) {
            print(&pair[1].since(&pair[0]), out)?;
        }
        return Ok(());
    }
    let interval = Duration::from_millis(recording.about.interval_ms).max(INTERVAL_MIN);
    let name = format!("{} of {}", args.file.display(), recording.about.host);
    on_terminal(|terminal| {
        let mut app = App::new();
        let mut at = show(&mut app, snapshots, None, 1);
        let mut due = Instant::now() + interval;
        loop {
            let source = format!("{name}  {at}/{}", snapshots.len() - 1);
            draw_on(terminal, &app, &source)?;
            match wait(&mut app, due)? {
                Some(Asked::Quit) => return Ok(()),
                Some(Asked::Step(step)) => {
                    app.is_paused = true;
                    at = show(
                        &mut app,
                        snapshots,
                        Some(at),
                        at.saturating_add_signed(step),
                    );
                }
                _ => {}
            }
            if Instant::now() >= due {
                due += interval;
                if !app.is_paused {
                    at = show(&mut app, snapshots, Some(at), at + 1);
                }
            }
        }
    })
}

/// Brings the screen to the window that ends with this snapshot, and says which that is.
fn show(app: &mut App, snapshots: &[Snapshot], shown: Option<usize>, to: usize) -> usize {
    let to = to.clamp(1, snapshots.len() - 1);
    // Back, or far ahead: what is seen before it is looked at anew.
    let oldest = to.saturating_sub(app::HISTORY).max(1);
    let from = match shown {
        Some(shown) if shown <= to && shown + 1 >= oldest => shown + 1,
        _ => {
            app.rewind();
            oldest
        }
    };
    for at in from..=to {
        app.take(snapshots[at].since(&snapshots[at - 1]));
    }
    to
}

fn on_terminal(
    run: impl FnOnce(&mut DefaultTerminal) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut terminal = ratatui::try_init()?;
    let outcome = run(&mut terminal);
    ratatui::try_restore()?;
    outcome
}

fn draw_on(terminal: &mut DefaultTerminal, app: &App, source: &str) -> Result<(), Failure> {
    terminal.draw(|frame| draw::draw(app, source, frame))?;
    Ok(())
}

/// Waits for a key or for the time, whichever comes first. None: nothing that changes the screen.
fn wait(app: &mut App, until: Instant) -> Result<Option<Asked>, Failure> {
    let left = until.saturating_duration_since(Instant::now());
    if !event::poll(left)? {
        return Ok(None);
    }
    match event::read()? {
        Event::Key(key) => Ok(Some(app.key(key))),
        _ => Ok(Some(Asked::Nothing)),
    }
}
