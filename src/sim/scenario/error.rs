//! What can be wrong with a scenario, in one line: which file, which line, which field, what it
//! is and what it may be.

use std::fmt;

/// A scenario that cannot be run as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioError {
    /// The file, as its user named it.
    pub file: String,
    /// Where in the file.
    pub place: Place,
    /// What is wrong and what to do: it begins with the name of the field, if there is one.
    pub problem: String,
}

/// Where a value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In this line, from 1.
    Line(u32),
    /// On the command line, in place of what the file says.
    Override,
    /// Nowhere in particular.
    File,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Line(line) => write!(f, "{}:{line}: {}", self.file, self.problem),
            Place::Override => write!(
                f,
                "{} as set on the command line: {}",
                self.file, self.problem
            ),
            Place::File => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

impl std::error::Error for ScenarioError {}

/// At most so many characters of a foreign text are shown.
const SHOWN_CHARS_MAX: usize = 60;

/// A foreign text between quotes, shortened and without control characters.
pub(super) fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let shown: String = chars
        .by_ref()
        .take(SHOWN_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    let rest = if chars.next().is_some() { "…" } else { "" };
    format!("\"{shown}{rest}\"")
}
