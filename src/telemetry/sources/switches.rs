//! What switches have sent of themselves, as it is shown and written down: apart from `otlp`, which receives
//! it, so that a recording can be read where nothing is received.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A value of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// As counters are.
    Integer(i64),
    /// Any other.
    Float(f64),
}

/// The latest of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwitchValue {
    /// Of the metric, as the sender calls it.
    pub metric: String,
    /// In the order of their keys, those of the sender included.
    pub attributes: BTreeMap<String, String>,
    /// As the sender has it.
    pub unit: String,
    /// It only grows, until it is reset.
    pub is_counter: bool,
    /// The value.
    pub value: Value,
    /// How long ago it came.
    pub age_ns: u64,
    /// When it was so, by the sender's wall clock; 0 if it does not say.
    pub observed_wall_ns: u64,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
        }
    }
}
