//! Scenarios: a file that says what network there is, what its hosts run, what they send and what
//! goes wrong, and the run of it. Everything is checked before anything runs, and every complaint
//! names the file, the line and the field.

mod error;
mod fabric;
mod fault;
mod hosts;
mod parts;
mod play;
pub(super) mod quantity;
mod reader;
mod shipped;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use error::{Place, ScenarioError};
pub use fabric::{ACK_BYTES, FabricSpec, PACKET_BYTES};
pub(crate) use fabric::{host_rate, is_inside};
pub use hosts::{Balance, Choices, EngineSpec, HostsSpec, ReferenceSpec, Transport};
pub use play::{Detail, Glimpse};
pub use quantity::{Decimal, Size};
pub use shipped::{SHIPPED, Shipped};

use super::time::Picos;
use super::workload::{DoneWhen, Workload};
use super::world::Fault;
use parts::PartSpec;
use reader::Section;

/// A scenario is small; a trace or a matrix beside it may be larger.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Everything that a run needs, checked.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it is called: the file's name without its ending, unless it says otherwise.
    pub name: String,
    /// What it shows, in a sentence or two.
    pub about: String,
    /// The network.
    pub fabric: FabricSpec,
    /// What the hosts run.
    pub hosts: HostsSpec,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// How it is run.
    pub run: RunSpec,
    parts: Vec<PartSpec>,
}

/// How closely a run looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Packet by packet.
    Packet,
    /// Flows that share links, see [`fluid`](super::fluid).
    Flow,
}

/// The section `[run]`.
#[derive(Debug, Clone, Copy)]
pub struct RunSpec {
    /// How closely it looks.
    pub level: Level,
    /// The first seed.
    pub seed: u64,
    /// So many runs, with this seed and those that follow it.
    pub seeds: u32,
    /// A run that has not ended by then is given up and reported as stuck.
    pub deadline: Picos,
    /// The state of the fabric is looked at so often at first; less often in a long run.
    pub sample: Picos,
    /// When a step of a collective counts as done for the next one.
    pub done_when: DoneWhen,
}

/// A field that is set from the command line in place of what the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Its path: `hosts.chunk`, `workload.0.size`, `workload.kv.size`.
    pub field: String,
    /// Its value, as it would stand in the file, without quotes.
    pub value: String,
}

/// Where the files are that a scenario names.
#[derive(Debug)]
struct Files {
    folder: Option<PathBuf>,
}

impl Files {
    fn read(&self, path: &str) -> Result<String, String> {
        let Some(folder) = &self.folder else {
            return Err("cannot be read here: a shipped scenario names no files".to_owned());
        };
        read_file(&folder.join(path))
    }
}

/// The text of a file, or why not, to be read after its name.
fn read_file(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {} MiB", FILE_BYTES_MAX >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

/// The text of a scenario, from which it is made as often as need be.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: Cow<'static, str>,
    folder: Option<PathBuf>,
}

impl Source {
    /// Opens a scenario: a file, or one of those that are shipped, by its name.
    ///
    /// # Errors
    /// There is no such scenario.
    pub fn open(name: &str) -> Result<Self, ScenarioError> {
        if let Some(shipped) = SHIPPED.iter().find(|shipped| shipped.name == name) {
            return Ok(Self {
                name: name.to_owned(),
                text: Cow::Borrowed(shipped.text),
                folder: None,
            });
        }
        let path = Path::new(name);
        let text = read_file(path).map_err(|reason| ScenarioError {
            file: name.to_owned(),
            place: Place::File,
            problem: format!("{reason}; `thalweg sim list` names the shipped scenarios"),
        })?;
        Ok(Self {
            name: name.to_owned(),
            text: Cow::Owned(text),
            folder: Some(path.parent().unwrap_or(Path::new("")).to_owned()),
        })
    }

    /// The scenario, with some of its fields set from outside.
    ///
    /// # Errors
    /// The first thing that is wrong with it, with its line and field.
    pub fn scenario(&self, overrides: &[Override]) -> Result<Scenario, ScenarioError> {
        Scenario::parse(&self.name, &self.text, self.folder.clone(), overrides)
    }
}

impl Scenario {
    /// Reads a scenario: a file, or one of those that are shipped, by its name.
    ///
    /// # Errors
    /// The first thing that is wrong with it, with its line and field.
    pub fn load(name: &str, overrides: &[Override]) -> Result<Self, ScenarioError> {
        Source::open(name)?.scenario(overrides)
    }

    /// Reads the text of a scenario; files that it names are looked for in `folder`.
    ///
    /// # Errors
    /// The first thing that is wrong with it, with its line and field.
    pub fn parse(
        file: &str,
        text: &str,
        folder: Option<PathBuf>,
        overrides: &[Override],
    ) -> Result<Self, ScenarioError> {
        let files = Files { folder };
        let mut node = reader::parse(file, text)?;
        for item in overrides {
            reader::set(file, &mut node, &item.field, &item.value)?;
        }
        let mut root = Section::root(file, &node);
        let name = match root.get("name") {
            Some(field) => field.text()?.to_owned(),
            None => Path::new(file).file_stem().map_or_else(
                || file.to_owned(),
                |stem| stem.to_string_lossy().into_owned(),
            ),
        };
        let about = match root.get("about") {
            Some(field) => field.text()?.trim().to_owned(),
            None => String::new(),
        };
        let run = read_run(root.section("run")?)?;
        let fabric = fabric::read(root.section("fabric")?, &files)?;
        let hosts = hosts::read(root.section("hosts")?, &fabric, &run)?;
        let sections = root.sections("workload")?;
        if sections.is_empty() || sections.len() > parts::PARTS_MAX {
            return Err(root.error(format!(
                "there are {} workloads, but must be 1 to {}; add [[workload]] with kind = \"permutation\"",
                sections.len(),
                parts::PARTS_MAX
            )));
        }
        let parts = (0..)
            .zip(sections)
            .map(|(index, section)| parts::read(index, section, &fabric, &files))
            .collect::<Result<Vec<_>, _>>()?;
        let mut faults = Vec::new();
        for section in root.sections("fault")? {
            fault::read(section, &fabric.topology, &run, &mut faults)?;
        }
        root.finish()?;
        let scenario = Self {
            name,
            about,
            fabric,
            hosts,
            faults,
            run,
            parts,
        };
        let workload = scenario.workload(scenario.run.seed);
        parts::check(
            file,
            &scenario.parts,
            &workload,
            &scenario.fabric,
            &scenario.hosts,
        )?;
        Ok(scenario)
    }

    /// The flows of a run.
    #[must_use]
    pub fn workload(&self, seed: u64) -> Workload {
        let mut workload = Workload::new(self.run.done_when);
        for (index, part) in self.parts.iter().enumerate() {
            part.generate(index, seed, self.fabric.topology.hosts(), &mut workload);
        }
        workload
    }

    /// The seeds of its runs.
    pub fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.run.seed;
        (0..u64::from(self.run.seeds)).map(move |step| first.wrapping_add(step))
    }
}

fn read_run(mut section: Section<'_>) -> Result<RunSpec, ScenarioError> {
    let level = match section.get("level") {
        Some(field) => {
            let known = [("packet", Level::Packet), ("flow", Level::Flow)];
            field.one_of("level", &known)?
        }
        None => Level::Packet,
    };
    let seed = section
        .get("seed")
        .map_or(Ok(1), |field| field.number(0..=u64::MAX))?;
    let seeds = section
        .get("seeds")
        .map_or(Ok(1), |field| field.count(1..=10_000))?;
    let deadline = section
        .get("deadline")
        .map_or(Ok(Picos::from_micros(1_000_000)), |field| field.time())?;
    let sample = section
        .get("sample")
        .map_or(Ok(Picos::from_micros(1)), |field| field.time())?;
    let done_when = match section.get("step_when") {
        Some(field) => field.one_of(
            "moment",
            &[
                ("received", DoneWhen::Received),
                ("acknowledged", DoneWhen::Acknowledged),
            ],
        )?,
        None => DoneWhen::Received,
    };
    section.finish()?;
    Ok(RunSpec {
        level,
        seed,
        seeds,
        deadline,
        sample,
        done_when,
    })
}
