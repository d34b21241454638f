//! Every setting, read once, checked, and typed: the only reader of the environment and of the
//! configuration file. A setting that can't be right is refused here with one line that says
//! which, what it was and what it may be, because one that is silently ignored costs its user a
//! day of measurements.
//!
//! One table ([`variables`]) holds each setting's name, default, range, help and parser; the
//! defaults, the configuration file's keys, the suggestions for a misspelt name and the
//! documentation all come from it.

mod error;
pub(crate) mod nearest;
mod table;
#[cfg(test)]
mod tests;
mod types;

pub use error::ConfigError;
pub use table::{Variable, variables};
pub use types::{
    ControllerKind, Family, HcaFilter, IfFilter, PathCount, PortRange, RelaxedOrdering,
    SECRET_BYTES_MAX, Secret, SelectorKind, TransportKind,
};

use crate::units::Nanos;
use error::Source;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use table::{FROM_NCCL, Refusal};

/// What the names of all our variables begin with.
const PREFIX: &str = "THALWEG_";
/// The variable that names the configuration file.
const CONFIG_FILE_VARIABLE: &str = "THALWEG_CONFIG";
/// A configuration file is a few lines; whatever is larger than this is some other file.
const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// All settings, valid. [`variables`] explains each.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many paths a link has.
    pub paths: PathCount,
    /// Which algorithm decides how much is in flight on a link.
    pub controller: ControllerKind,
    /// Which algorithm chooses the path of a chunk.
    pub selector: SelectorKind,
    /// Which network interfaces may be used; all if none.
    pub ifname: Option<IfFilter>,
    /// Which addresses may be used.
    pub family: Family,
    /// Over what links go.
    pub transport: TransportKind,
    /// Which RDMA ports may be used; all that fit if none.
    pub hca: Option<HcaFilter>,
    /// The place of the address in each RDMA port's table; chosen if none.
    pub gid_index: Option<u8>,
    /// The IP header's traffic class of data.
    pub traffic_class: u8,
    /// And of what receivers send back; that of data if none.
    pub control_traffic_class: Option<u8>,
    /// The service level of packets.
    pub service_level: u8,
    /// Over how many RDMA ports of each host a link goes at most.
    pub ports: u8,
    /// Whether what arrives over RDMA may get into memory in any order.
    pub relaxed_ordering: RelaxedOrdering,
    /// Whether adapters' time stamps tell when chunks arrived.
    pub nic_timestamps: bool,
    /// On which ports to listen.
    pub port: PortRange,
    /// What both ends of a link must know.
    pub secret: Option<Secret>,
    /// How long a peer may be silent before its connections fail.
    pub dead_peer: Nanos,
    /// How long to try to reach a peer at first.
    pub connect_timeout: Nanos,
    /// The size of a chunk in bytes; chosen from measurement if none.
    pub chunk_bytes: Option<u32>,
    /// Messages up to so many bytes are sent without waiting for the receiver's credit.
    pub eager_bytes: u32,
    /// The window of the fixed controller, in bytes.
    pub window_bytes: u64,
    /// How many extra threads move data.
    pub io_threads: u8,
    /// How long the end of a process waits for unacknowledged data.
    pub linger: Nanos,
    /// Where to write a trace of every path.
    pub trace_file: Option<PathBuf>,
    /// Whether what is measured is kept where others can watch it.
    pub telemetry: bool,
    /// Where: a folder in memory.
    pub shm_folder: PathBuf,
    /// How often the trace has a sample.
    pub trace_interval: Nanos,
    /// Which faults to inject, for tests.
    pub fault_file: Option<PathBuf>,
    /// Whether paths that share a bottleneck are made again on other ports.
    pub search: bool,
}

impl Config {
    /// The settings of this process: its environment, and the configuration file that
    /// `THALWEG_CONFIG` names, if it does. The environment prevails.
    ///
    /// # Errors
    /// The first setting that is unknown or wrong.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_vars(std::env::vars_os())
    }

    /// The settings in these variables, and in the configuration file that they name.
    ///
    /// # Errors
    /// The first setting that is unknown or wrong.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut env = Vec::new();
        let mut file = None;
        for (name, value) in vars {
            let name = name.to_string_lossy();
            if !is_ours(&name) && !FROM_NCCL.iter().any(|taken| taken.name == name) {
                continue;
            }
            let Ok(value) = value.into_string() else {
                return Err(ConfigError::not_text(&name));
            };
            if name == CONFIG_FILE_VARIABLE {
                file = Some(read_config_file(&value)?);
            }
            env.push((name.into_owned(), value));
        }
        Self::from_sources(env, file.as_deref())
    }

    /// The settings in `env` and in the text of a configuration file; `env` prevails. Variables
    /// that are not ours are passed over, as is `THALWEG_CONFIG`: the text is what it names.
    ///
    /// # Errors
    /// The first setting that is unknown or wrong.
    pub fn from_sources(
        env: impl IntoIterator<Item = (String, String)>,
        toml: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut set = Vec::new();
        let mut note = |variable: &Variable| set.push(variable.name);

        config.apply_file(toml.unwrap_or(""), &mut note)?;

        // Sorted, so that of several mistakes the same one is reported each time.
        let mut env: Vec<(String, String)> = env.into_iter().collect();
        env.sort();
        refuse_two_secrets(
            Source::Environment,
            env.iter().map(|(name, _)| name.as_str()),
        )?;
        for (name, value) in env.iter().filter(|(name, _)| is_ours(name)) {
            let Some(variable) = variables().iter().find(|variable| variable.name == name) else {
                return Err(ConfigError::unknown(Source::Environment, name));
            };
            config.apply(variable, Source::Environment, value)?;
            note(variable);
        }

        for (name, value) in &env {
            let taken = FROM_NCCL.iter().find(|taken| taken.name == name);
            if let Some(taken) = taken.filter(|taken| !set.contains(&taken.ours)) {
                (taken.apply)(&mut config, value);
            }
        }
        Ok(config)
    }

    fn apply_file(
        &mut self,
        text: &str,
        note: &mut impl FnMut(&Variable),
    ) -> Result<(), ConfigError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error| ConfigError::from_toml(text, &error))?;
        refuse_two_secrets(Source::File, table.keys().map(String::as_str))?;
        for (key, value) in &table {
            let Some(variable) = variables()
                .iter()
                .find(|variable| variable.key().as_ref() == Some(key))
            else {
                return Err(ConfigError::unknown(Source::File, key));
            };
            let value = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(switch) => if *switch { "on" } else { "off" }.to_owned(),
                other => return Err(ConfigError::wrong_type(variable, other.type_str())),
            };
            self.apply(variable, Source::File, &value)?;
            note(variable);
        }
        Ok(())
    }

    fn apply(
        &mut self,
        variable: &'static Variable,
        source: Source,
        value: &str,
    ) -> Result<(), ConfigError> {
        // Blanks around a value are never meant, except in a secret.
        let text = if variable.hidden { value } else { value.trim() };
        (variable.apply)(self, text).map_err(|refusal| match refusal {
            Refusal::NotAllowed => ConfigError::value(variable, source, value),
            Refusal::File(reason) => ConfigError::file(variable.shown_name(source), value, reason),
        })
    }

    /// What is known before the table has filled in the defaults; none of it survives.
    fn blank() -> Self {
        Self {
            paths: PathCount::Auto,
            controller: ControllerKind::Delay,
            selector: SelectorKind::Auto,
            ifname: None,
            family: Family::Any,
            transport: TransportKind::Auto,
            hca: None,
            gid_index: None,
            traffic_class: 0,
            control_traffic_class: None,
            service_level: 0,
            ports: 0,
            relaxed_ordering: RelaxedOrdering::Auto,
            nic_timestamps: false,
            port: PortRange::ANY,
            secret: None,
            dead_peer: Nanos::ZERO,
            connect_timeout: Nanos::ZERO,
            chunk_bytes: None,
            eager_bytes: 0,
            window_bytes: 0,
            io_threads: 0,
            linger: Nanos::ZERO,
            trace_file: None,
            telemetry: false,
            shm_folder: PathBuf::new(),
            trace_interval: Nanos::ZERO,
            fault_file: None,
            search: false,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self::blank();
        for variable in variables() {
            if let Some(default) = variable.default {
                let result = (variable.apply)(&mut config, default);
                debug_assert!(
                    result.is_ok(),
                    "{}'s own default is not allowed",
                    variable.name
                );
            }
        }
        config
    }
}

/// Whether a variable is meant for us: also when its case is wrong, which gets a suggestion.
fn is_ours(name: &str) -> bool {
    name.get(..PREFIX.len())
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

/// A secret and a file with a secret in one source: nobody can say which of them was meant.
fn refuse_two_secrets<'a>(
    source: Source,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), ConfigError> {
    let secrets = names
        .filter(|name| match source {
            Source::Environment => matches!(*name, "THALWEG_SECRET" | "THALWEG_SECRET_FILE"),
            Source::File => matches!(*name, "secret" | "secret_file"),
        })
        .count();
    if secrets > 1 {
        Err(ConfigError::TwoSecrets {
            place: source.place(),
        })
    } else {
        Ok(())
    }
}

fn read_config_file(path: &str) -> Result<String, ConfigError> {
    let refuse = |reason: String| ConfigError::file(CONFIG_FILE_VARIABLE.to_owned(), path, reason);
    let bytes = read_regular_file(Path::new(path), CONFIG_FILE_BYTES_MAX).map_err(refuse)?;
    String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8 text".to_owned()))
}

/// The content of a file of at most `bytes_max`, or why not, to be read after the file's name. A
/// pipe or a device is refused: opening or reading one may never end.
fn read_regular_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut content = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    // One byte more than allowed is enough to see that it is too large, however large it is.
    file.take(bytes_max + 1)
        .read_to_end(&mut content)
        .map_err(cannot)?;
    if content.len() as u64 > bytes_max {
        return Err(format!("is larger than {bytes_max} bytes"));
    }
    Ok(content)
}
