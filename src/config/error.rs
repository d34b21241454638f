//! What can be wrong with a setting, each in one line: which, what it was, what it may be.

use super::nearest::nearest;
use super::{PREFIX, Variable, is_ours, variables};
use crate::error::{Error, ErrorKind};

/// Where a setting was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Environment,
    File,
}

impl Source {
    pub(super) fn place(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::File => "configuration file",
        }
    }
}

/// Of a value or name that is wrong, so much is shown; it might be a whole file.
const SHOWN_CHARS_MAX: usize = 80;

/// A setting that can't be right. Each message is one line, safe to write into a log: what comes
/// from outside is shortened and its control characters are escaped, and no secret appears.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No setting has this name.
    #[error("unknown setting {name} in the {place}{}", hint(.suggestion.as_deref()))]
    Unknown {
        /// The name, escaped.
        name: String,
        /// Where it was found.
        place: &'static str,
        /// The name that was probably meant.
        suggestion: Option<String>,
    },
    /// The value is not allowed.
    #[error("{name} is {value}, but must be {allowed}")]
    Value {
        /// The setting.
        name: String,
        /// Its value, escaped.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The setting names a file that can't be used.
    #[error("the file {path} named by {name} {reason}")]
    File {
        /// The setting.
        name: String,
        /// The file, escaped.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The secret is given twice.
    #[error("the {place} sets both the secret and a file with the secret; remove one of them")]
    TwoSecrets {
        /// Where both were found.
        place: &'static str,
    },
    /// The value is not text.
    #[error("{name} is not UTF-8 text; set it again or unset it")]
    NotText {
        /// The setting, escaped.
        name: String,
    },
    /// The configuration file is not TOML.
    #[error("line {line} of the configuration file is not valid TOML: {reason}")]
    Toml {
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
}

fn hint(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(
        || "; docs/operations.md lists them all".to_owned(),
        |name| format!("; did you mean {name}?"),
    )
}

/// At most [`SHOWN_CHARS_MAX`] characters of a foreign text, without control characters.
fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars
        .by_ref()
        .take(SHOWN_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

impl ConfigError {
    pub(super) fn unknown(source: Source, name: &str) -> Self {
        // All names have the prefix in common, so only the rest is compared; in the file nobody
        // should write it, but somebody will.
        let bare = if is_ours(name) {
            &name[PREFIX.len()..]
        } else {
            name
        };
        let candidates = variables().iter().filter(|variable| match source {
            Source::Environment => true,
            Source::File => variable.in_file,
        });
        let suggestion = nearest(bare, candidates).map(|variable| variable.name_in(source));
        Self::Unknown {
            name: shown(name),
            place: source.place(),
            suggestion,
        }
    }

    pub(super) fn value(variable: &'static Variable, source: Source, value: &str) -> Self {
        let value = match value.trim() {
            "" => "empty".to_owned(),
            _ if variable.hidden => format!("{} bytes long", value.len()),
            value => quoted(value),
        };
        Self::Value {
            name: variable.shown_name(source),
            value,
            allowed: variable.allowed,
        }
    }

    pub(super) fn wrong_type(variable: &'static Variable, kind: &str) -> Self {
        let name = variable.shown_name(Source::File);
        Self::Value {
            name,
            value: format!("a TOML {kind}"),
            allowed: variable.allowed,
        }
    }

    pub(super) fn file(name: String, path: &str, reason: String) -> Self {
        Self::File {
            name,
            path: shown(path),
            reason,
        }
    }

    pub(super) fn not_text(name: &str) -> Self {
        Self::NotText { name: shown(name) }
    }

    pub(super) fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..start).unwrap_or("");
        let line = 1 + before.matches('\n').count();
        Self::Toml {
            line,
            reason: shown(&error.message().replace('\n', "; ")),
        }
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorKind::InvalidUsage, error.to_string())
    }
}
