//! Reads a table field by field, so that every complaint can name the line and the field, and so
//! that a field nobody asked for is an error with a suggestion instead of a setting that is
//! silently ignored.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Place, ScenarioError, quoted};
use super::quantity::{self, Size};
use crate::config::nearest::nearest_named;
use crate::sim::time::Picos;
use crate::units::Rate;

/// A value of the file and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    /// As it was written.
    Float(String),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Vec<(String, Node)>),
    Other(&'static str),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }

    /// As an error message shows it.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Integer(number) => number.to_string(),
            Self::Float(text) => text.clone(),
            Self::Boolean(value) => value.to_string(),
            other => other.kind().to_owned(),
        }
    }
}

/// Parses a whole document.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, ScenarioError> {
    let lines = Lines::new(text);
    let table = DeTable::parse(text).map_err(|error| ScenarioError {
        file: file.to_owned(),
        place: Place::Line(lines.of(error.span().map_or(0, |span| span.start))),
        problem: format!(
            "not valid TOML: {}",
            error.message().trim().replace('\n', "; ")
        ),
    })?;
    Ok(Node {
        value: from_table(table.get_ref(), &lines),
        place: Place::File,
    })
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        Self(ends.map(|(at, _)| at).collect())
    }

    fn of(&self, at: usize) -> u32 {
        u32::try_from(self.0.partition_point(|&end| end < at) + 1).unwrap_or(u32::MAX)
    }
}

fn from_table(table: &DeTable<'_>, lines: &Lines) -> Value {
    let mut entries: Vec<_> = table.iter().collect();
    // In the order of the file: of several mistakes, the first is reported.
    entries.sort_by_key(|(key, _)| key.span().start);
    let entries = entries.into_iter().map(|(key, value)| {
        let mut node = from_value(value, lines);
        node.place = Place::Line(lines.of(key.span().start));
        (key.get_ref().clone().into_owned(), node)
    });
    Value::Table(entries.collect())
}

fn from_value(spanned: &Spanned<DeValue<'_>>, lines: &Lines) -> Node {
    let value = match spanned.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).map_or(
            Value::Other("an integer of more than 64 bits"),
            Value::Integer,
        ),
        DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| from_value(item, lines)).collect())
        }
        DeValue::Table(table) => from_table(table, lines),
    };
    Node {
        value,
        place: Place::Line(lines.of(spanned.span().start)),
    }
}

/// Sets a field by its path, such as `hosts.chunk`, `workload.0.size` or, by the name of a part,
/// `workload.kv.size`.
pub(super) fn set(
    file: &str,
    root: &mut Node,
    path: &str,
    text: &str,
) -> Result<(), ScenarioError> {
    let refuse = |problem: String| ScenarioError {
        file: file.to_owned(),
        place: Place::Override,
        problem,
    };
    let value = override_value(text);
    let mut node = root;
    let mut steps = path.split('.').peekable();
    while let Some(step) = steps.next() {
        let last = steps.peek().is_none();
        node = match &mut node.value {
            Value::Table(entries) => {
                let found = entries.iter().position(|(key, _)| key == step);
                let at = match found {
                    Some(at) => at,
                    None if step.is_empty() => {
                        return Err(refuse(format!("{path} names no field")));
                    }
                    None => {
                        let empty = Node {
                            value: Value::Table(Vec::new()),
                            place: Place::Override,
                        };
                        entries.push((step.to_owned(), empty));
                        entries.len() - 1
                    }
                };
                &mut entries[at].1
            }
            Value::Array(items) => {
                let index = step
                    .parse()
                    .ok()
                    .or_else(|| items.iter().position(|item| is_named(item, step)));
                let count = items.len();
                index.and_then(|index: usize| items.get_mut(index)).ok_or_else(|| {
                    refuse(format!(
                        "{path}: there is no {} here, but {count} numbered from 0; name one by its number or its name",
                        quoted(step),
                    ))
                })?
            }
            other => {
                let kind = other.kind();
                return Err(refuse(format!(
                    "{path}: what {} belongs to is {kind}, not a table",
                    quoted(step)
                )));
            }
        };
        if last {
            *node = Node {
                value: value.clone(),
                place: Place::Override,
            };
        }
    }
    Ok(())
}

fn is_named(item: &Node, name: &str) -> bool {
    let Value::Table(entries) = &item.value else {
        return false;
    };
    let text = |wanted: &str| {
        entries.iter().find_map(|(key, node)| match &node.value {
            Value::Text(text) if key == wanted => Some(text.as_str()),
            _ => None,
        })
    };
    text("name").or_else(|| text("kind")) == Some(name)
}

fn override_value(text: &str) -> Value {
    match text {
        "true" => Value::Boolean(true),
        "false" => Value::Boolean(false),
        _ => text
            .parse()
            .map_or_else(|_| Value::Text(text.to_owned()), Value::Integer),
    }
}

/// A table that is being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    file: &'a str,
    /// How its fields are named: `fabric`, `workload[2]`, or nothing at the top.
    name: String,
    place: Place,
    entries: &'a [(String, Node)],
    /// What has been asked for, which is what there is.
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn root(file: &'a str, node: &'a Node) -> Self {
        Self {
            file,
            name: String::new(),
            place: Place::File,
            entries: match &node.value {
                Value::Table(entries) => entries,
                _ => &[],
            },
            known: Vec::new(),
        }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    fn full_name(&self, field: &str) -> String {
        if self.name.is_empty() {
            return field.to_owned();
        }
        format!("{}.{field}", self.name)
    }

    /// A field, if it is there.
    pub(super) fn get(&mut self, field: &'static str) -> Option<Field<'a>> {
        self.known.push(field);
        let (_, node) = self.entries.iter().find(|(key, _)| key == field)?;
        Some(Field {
            file: self.file,
            name: self.full_name(field),
            node,
        })
    }

    /// A field that has to be there.
    pub(super) fn need(
        &mut self,
        field: &'static str,
        example: &str,
    ) -> Result<Field<'a>, ScenarioError> {
        let name = self.full_name(field);
        self.get(field)
            .ok_or_else(|| self.error(format!("{name} is missing; add {field} = {example}")))
    }

    /// A table in this one; an empty one if it is not there.
    pub(super) fn section(&mut self, field: &'static str) -> Result<Self, ScenarioError> {
        match self.get(field) {
            Some(field) => field.table(),
            None => Ok(Self {
                file: self.file,
                name: self.full_name(field),
                place: Place::File,
                entries: &[],
                known: Vec::new(),
            }),
        }
    }

    /// The tables of an array of tables, numbered.
    pub(super) fn sections(&mut self, field: &'static str) -> Result<Vec<Self>, ScenarioError> {
        let Some(field) = self.get(field) else {
            return Ok(Vec::new());
        };
        field.list()?.into_iter().map(Field::table).collect()
    }

    /// A complaint about the section as a whole.
    pub(super) fn error(&self, problem: String) -> ScenarioError {
        ScenarioError {
            file: self.file.to_owned(),
            place: self.place,
            problem,
        }
    }

    /// Nothing else may be here.
    pub(super) fn finish(self) -> Result<(), ScenarioError> {
        let Some((key, node)) = self
            .entries
            .iter()
            .find(|(key, _)| !self.known.contains(&key.as_str()))
        else {
            return Ok(());
        };
        let name = self.full_name(&quoted(key).replace('"', ""));
        let known = self.known.iter().map(|known| (*known, *known));
        let hint = nearest_named(key, known).map_or_else(
            || format!("known here are {}", self.known.join(", ")),
            |known| format!("did you mean {known}?"),
        );
        Err(ScenarioError {
            file: self.file.to_owned(),
            place: node.place,
            problem: format!("{name} is not a field; {hint}"),
        })
    }
}

/// A field that is being read.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    file: &'a str,
    name: String,
    node: &'a Node,
}

impl<'a> Field<'a> {
    /// A complaint: `name` is so and so.
    pub(super) fn error(&self, problem: &str) -> ScenarioError {
        ScenarioError {
            file: self.file.to_owned(),
            place: self.node.place,
            problem: format!("{} {problem}", self.name),
        }
    }

    /// It is this, but must be that.
    pub(super) fn must_be(&self, must: &str) -> ScenarioError {
        self.error(&format!(
            "is {}, but must be {must}",
            self.node.value.shown()
        ))
    }

    pub(super) fn text(&self) -> Result<&'a str, ScenarioError> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.must_be("a string")),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, ScenarioError> {
        match self.node.value {
            Value::Boolean(value) => Ok(value),
            _ => Err(self.must_be("true or false")),
        }
    }

    pub(super) fn is_boolean(&self) -> Option<bool> {
        match self.node.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.node.value, Value::Table(_))
    }

    pub(super) fn is_text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn number(&self, range: RangeInclusive<u64>) -> Result<u64, ScenarioError> {
        let wrong = || {
            let (least, most) = range.clone().into_inner();
            if most == u64::MAX {
                self.must_be(&format!("an integer of at least {least}"))
            } else {
                self.must_be(&format!("an integer from {least} to {most}"))
            }
        };
        match self.node.value {
            Value::Integer(number) => u64::try_from(number)
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }

    pub(super) fn count(&self, range: RangeInclusive<u32>) -> Result<u32, ScenarioError> {
        let (least, most) = range.into_inner();
        let number = self.number(u64::from(least)..=u64::from(most))?;
        Ok(u32::try_from(number).unwrap_or(most))
    }

    fn written(&self) -> Option<String> {
        match &self.node.value {
            Value::Text(text) | Value::Float(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn quantity<T>(
        &self,
        read: impl Fn(&str) -> Option<T>,
        must: &str,
    ) -> Result<T, ScenarioError> {
        self.written()
            .and_then(|text| read(&text))
            .ok_or_else(|| self.must_be(must))
    }

    /// A rate above 0.
    pub(super) fn rate(&self) -> Result<Rate, ScenarioError> {
        let must = "a rate above 0 with its unit, such as \"400G\" or \"100 Gb/s\"";
        self.quantity(|text| quantity::rate(text).filter(|rate| rate.0 > 0), must)
    }

    pub(super) fn delay(&self) -> Result<Picos, ScenarioError> {
        self.quantity(
            quantity::delay,
            "a time with its unit, such as \"1us\" or \"2.5 ms\"",
        )
    }

    /// A time above 0.
    pub(super) fn time(&self) -> Result<Picos, ScenarioError> {
        self.quantity(
            |text| quantity::delay(text).filter(|time| time.0 > 0),
            "a time above 0 with its unit, such as \"1us\" or \"2.5 ms\"",
        )
    }

    /// So many bytes, at least 1.
    pub(super) fn bytes(&self) -> Result<u64, ScenarioError> {
        self.quantity(
            |text| quantity::bytes(text).filter(|&bytes| bytes > 0),
            "a size above 0, such as 2000000, \"2MB\" or \"64 KiB\"",
        )
    }

    pub(super) fn size(&self) -> Result<Size, ScenarioError> {
        self.quantity(
            quantity::size,
            "a size, such as \"1 BDP\", \"101 packets\" or \"256 KiB\"",
        )
    }

    pub(super) fn share_ppm(&self) -> Result<u32, ScenarioError> {
        self.quantity(
            quantity::share_ppm,
            "a share from 0 to 100 %, such as \"0.01%\" or \"100 ppm\"",
        )
    }

    /// One of these names.
    pub(super) fn one_of<T: Copy>(
        &self,
        what: &str,
        known: &[(&'static str, T)],
    ) -> Result<T, ScenarioError> {
        let text = self.text()?;
        if let Some(&(_, value)) = known.iter().find(|(name, _)| *name == text) {
            return Ok(value);
        }
        let names: Vec<&str> = known.iter().map(|&(name, _)| name).collect();
        let hint = nearest_named(text, names.iter().map(|name| (*name, *name)))
            .map(|name| format!("did you mean {name}? "))
            .unwrap_or_default();
        Err(self.error(&format!(
            "is {}, which is no {what}; {hint}known are {}",
            quoted(text),
            names.join(", ")
        )))
    }

    /// The items of an array.
    pub(super) fn list(&self) -> Result<Vec<Self>, ScenarioError> {
        match &self.node.value {
            Value::Array(items) => Ok((0usize..)
                .zip(items)
                .map(|(index, node)| Self {
                    file: self.file,
                    name: format!("{}[{index}]", self.name),
                    node,
                })
                .collect()),
            _ => Err(self.must_be("an array")),
        }
    }

    /// The items of an array, or the one that stands there without brackets.
    pub(super) fn one_or_more(&self) -> Result<Vec<Self>, ScenarioError> {
        match &self.node.value {
            Value::Array(_) => self.list(),
            _ => Ok(vec![self.clone()]),
        }
    }

    pub(super) fn table(self) -> Result<Section<'a>, ScenarioError> {
        match &self.node.value {
            Value::Table(entries) => Ok(Section {
                file: self.file,
                name: self.name,
                place: self.node.place,
                entries,
                known: Vec::new(),
            }),
            _ => Err(self.must_be("a table")),
        }
    }
}
