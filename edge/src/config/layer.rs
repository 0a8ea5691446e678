//! Lays the sources of configuration over each other and remembers who said what. Knows keys and ranges, not what they mean.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::key::{KEYS, Key, Value};

/// The compiled-in configuration: complete, every key with its meaning, unit, range and cost.
pub(super) const DEFAULT_TOML: &str = include_str!("../../default.toml");
/// What every environment variable of ours begins with.
const PREFIX: &str = "TERN_";
/// Names the configuration file; not a key of it.
const FILE_VARIABLE: &str = "TERN_CONFIG";

/// Who set a key. Later ones win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `default.toml`, compiled in.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command line flag.
    Flag(&'static str),
}

/// A key that was given on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The flag, for messages.
    pub name: &'static str,
    /// The key it sets.
    pub key: String,
    /// The value as it was typed.
    pub value: String,
}

/// Why the configuration cannot be used. All of it is for the operator.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML.
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and what.
        error: Box<toml::de::Error>,
    },
    /// There is no such key.
    Unknown {
        /// The key as it was written.
        key: String,
        /// Where it was written.
        source: Source,
        /// The key that is spelled most like it.
        nearest: &'static str,
    },
    /// The value is of the wrong kind or out of range.
    OutOfRange {
        /// Which key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What may be.
        range: String,
        /// Where it was given.
        source: Source,
    },
    /// Two keys do not go together.
    Conflict {
        /// What and why.
        reason: &'static str,
    },
}

/// Every key's value and source.
#[derive(Debug, Clone)]
pub struct Layers {
    values: BTreeMap<&'static str, (Value, Source)>,
}

impl Layers {
    /// The compiled-in configuration alone.
    #[must_use]
    pub fn defaults() -> Self {
        let mut layers = Self { values: BTreeMap::new() };
        let table = DEFAULT_TOML.parse().expect("a test parses default.toml");
        layers.add_table(&table, &Source::Default).expect("a test checks every key of default.toml");
        layers
    }

    /// Lays a file's keys over what is here.
    ///
    /// # Errors
    /// When the file cannot be read, or one of its keys or values is wrong.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        let table =
            text.parse().map_err(|error| ConfigError::Syntax { path: path.to_owned(), error: Box::new(error) })?;
        self.add_table(&table, &Source::File(path.to_owned()))
    }

    /// Lays `TERN_*` variables over what is here: sections are separated from keys by two underscores.
    ///
    /// # Errors
    /// When a variable names no key, or its value is wrong.
    pub fn add_environment(&mut self, vars: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (name, text) in vars {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if name == FILE_VARIABLE || is_service_link(rest, &text) {
                continue;
            }
            let path = rest.to_ascii_lowercase().replace("__", ".");
            self.add_word(&path, &text, Source::Environment(name))?;
        }
        Ok(())
    }

    /// Lays command line flags over what is here.
    ///
    /// # Errors
    /// When a value is wrong.
    pub fn add_flags(&mut self, flags: impl IntoIterator<Item = Flag>) -> Result<(), ConfigError> {
        flags.into_iter().try_for_each(|flag| self.add_word(&flag.key, &flag.value, Source::Flag(flag.name)))
    }

    /// The effective configuration as a file that says the same, with the source of each value that is not the default.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::from("# The effective configuration. Values without a comment are the defaults.\n");
        let mut section = "";
        for Key { path, .. } in KEYS {
            let (of, name) = path.rsplit_once('.').unwrap_or(("", path));
            if of != section {
                text += &format!("\n[{of}]\n");
                section = of;
            }
            let (value, source) = self.of(path);
            let comment = if *source == Source::Default { String::new() } else { format!("  # {source}") };
            text += &format!("{name} = {value}{comment}\n");
        }
        text
    }

    /// The value of a key.
    pub(super) fn value(&self, path: &'static str) -> &Value {
        &self.of(path).0
    }

    fn of(&self, path: &'static str) -> &(Value, Source) {
        self.values.get(path).expect("default.toml has every key: a test says so")
    }

    fn add_table(&mut self, table: &toml::Table, source: &Source) -> Result<(), ConfigError> {
        let mut leaves = Vec::new();
        flatten("", table, &mut leaves);
        for (path, value) in leaves {
            let key = find(&path, source)?;
            let parsed = key.kind.parse(value).ok_or_else(|| out_of_range(key, &value.to_string(), source))?;
            self.values.insert(key.path, (parsed, source.clone()));
        }
        Ok(())
    }

    fn add_word(&mut self, path: &str, text: &str, source: Source) -> Result<(), ConfigError> {
        let key = find(path, &source)?;
        let parsed = key.kind.parse_word(text).ok_or_else(|| out_of_range(key, text, &source))?;
        self.values.insert(key.path, (parsed, source));
        Ok(())
    }
}

/// Dotted paths of everything in a table that is not a table. An empty section stands for itself, so that its name is checked.
fn flatten<'a>(prefix: &str, table: &'a toml::Table, into: &mut Vec<(String, &'a toml::Value)>) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value.as_table().filter(|_| prefix.is_empty() && is_section(&path)) {
            Some(inner) => flatten(&path, inner, into),
            None => into.push((path, value)),
        }
    }
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.path.split_once('.').is_some_and(|(section, _)| section == name))
}

fn find(path: &str, source: &Source) -> Result<&'static Key, ConfigError> {
    KEYS.iter().find(|key| key.path == path).ok_or_else(|| {
        let sections = KEYS.iter().filter_map(|key| key.path.split_once('.').map(|(section, _)| section));
        let known = KEYS.iter().map(|key| key.path).chain(sections);
        let nearest = known.min_by_key(|known| distance(path, known)).unwrap_or_default();
        ConfigError::Unknown { key: path.to_owned(), source: source.clone(), nearest }
    })
}

fn out_of_range(key: &Key, value: &str, source: &Source) -> ConfigError {
    ConfigError::OutOfRange {
        key: key.path,
        value: value.to_owned(),
        range: key.kind.to_string(),
        source: source.clone(),
    }
}

/// Kubernetes puts `TERN_SERVICE_HOST`, `TERN_PORT_7443_TCP` and the like into every pod beside a service named `tern`.
fn is_service_link(rest: &str, value: &str) -> bool {
    let is_address = ["tcp://", "udp://"].iter().any(|scheme| value.starts_with(scheme));
    let rest = format!("_{rest}");
    rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || (rest.ends_with("_PORT") && is_address)
        || rest.split("_PORT_").nth(1).is_some_and(|tail| tail.contains("_TCP") || tail.contains("_UDP"))
}

/// Edits that turn one word into the other (Levenshtein). Words are keys: short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(from != to)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "{name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::Syntax { path, error } => write!(f, "{} is not TOML: {error}", path.display()),
            Self::Unknown { key, source, nearest } => {
                write!(f, "unknown key `{key}` in {source}; did you mean `{nearest}`?")
            }
            Self::OutOfRange { key, value, range, source } => {
                write!(f, "`{key}` cannot be {value} (in {source}); it takes {range}")
            }
            Self::Conflict { reason } => f.write_str(reason),
        }
    }
}

impl std::error::Error for ConfigError {}
