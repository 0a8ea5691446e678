//! What changed between two result folders, as ratios. Says when a comparison means little: another machine, other choices, a void run.

use std::io::{self, Write};
use std::path::Path;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};
use serde_json::Value;

use super::words;

/// Ratios that are nearer to one than this are not marked. Two runs on a shared machine differ by as much without any cause.
const NOISE: f64 = 0.10;
/// What is compared of each latency.
const QUANTILES: [&str; 4] = ["p50", "p99", "p999", "max"];
/// What is compared of the server.
const SERVER: [(&str, &str); 3] =
    [("cpu_us_per_delivery", "us"), ("rss_bytes_per_connection", "bytes"), ("rss_bytes", "bytes")];

/// One value that both folders have.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Name of the outcome, as its files are named.
    pub outcome: String,
    /// Of the value.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// In the first folder.
    pub before: f64,
    /// In the second folder.
    pub after: f64,
    /// Whether one of the two is void or not clean.
    pub doubtful: bool,
}

impl Change {
    /// After by before.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.after / self.before
    }
}

/// Prints what changed from one folder to the other.
///
/// # Errors
/// When one of them has no `result.json`, or the terminal is gone.
pub fn diff(before: &Path, after: &Path) -> io::Result<()> {
    let (first, second) = (load(before)?, load(after)?);
    let mut out = io::stdout().lock();
    for warning in warnings(&first, &second) {
        writeln!(out, "{warning}")?;
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["outcome", "value", "before", "after", "after/before", ""]);
    for change in changes(&first, &second) {
        let ratio = change.ratio();
        let mark = if change.doubtful {
            "void or not clean"
        } else if (ratio - 1.0).abs() > NOISE {
            "changed"
        } else {
            ""
        };
        let numbers = [
            words::quantity(change.before, &change.unit),
            words::quantity(change.after, &change.unit),
            words::number(ratio),
        ];
        let mut row = vec![Cell::new(&change.outcome), Cell::new(&change.name)];
        row.extend(numbers.iter().map(|number| Cell::new(number).set_alignment(CellAlignment::Right)));
        row.push(Cell::new(mark));
        table.add_row(row);
    }
    writeln!(out, "{table}")
}

/// Every value that both results have, in the order of the first.
#[must_use]
pub fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let seconds = outcomes(after);
    let pairs = outcomes(before).into_iter().filter_map(|first| {
        let second = seconds.iter().find(|second| second["name"] == first["name"])?;
        Some((first, *second))
    });
    pairs.flat_map(|(first, second)| changes_of(first, second)).collect()
}

fn changes_of(first: &Value, second: &Value) -> Vec<Change> {
    let mut values: Vec<(String, String, [&str; 3])> = Vec::new();
    for latency in keys(&first["latency_us"]) {
        for quantile in QUANTILES {
            values.push((
                format!("{} {quantile}", words::title(latency)),
                "us".to_owned(),
                ["latency_us", latency, quantile],
            ));
        }
    }
    for (name, unit) in SERVER {
        values.push((format!("server {}", words::title(name)), unit.to_owned(), ["server", name, ""]));
    }
    for name in keys(&first["figures"]) {
        let unit = first["figures"][name]["unit"].as_str().unwrap_or_default();
        values.push((words::title(name), unit.to_owned(), ["figures", name, "value"]));
    }
    values.push(("ratio to floor".to_owned(), String::new(), ["ratio_to_floor", "", ""]));
    let doubtful = first["verdict"] != "clean" || second["verdict"] != "clean";
    let outcome = first["name"].as_str().unwrap_or_default();
    let found = values.into_iter().filter_map(|(name, unit, path)| {
        let (before, after) = (at(first, path)?, at(second, path)?);
        let comparable = before != 0.0 && before.is_finite() && after.is_finite();
        comparable.then(|| Change { outcome: outcome.to_owned(), name, unit, before, after, doubtful })
    });
    found.collect()
}

/// Why the two should not be compared, a sentence each.
fn warnings(before: &Value, after: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, what) in [("cpu", "CPUs"), ("cores", "numbers of cores"), ("kernel", "kernels"), ("profile", "builds")] {
        let (first, second) = (&before["machine"][key], &after["machine"][key]);
        if first != second {
            warnings.push(format!("different {what}: {first} and {second}"));
        }
    }
    let seconds = outcomes(after);
    for first in outcomes(before) {
        let name = first["name"].as_str().unwrap_or_default();
        let Some(second) = seconds.iter().find(|second| second["name"] == first["name"]) else {
            warnings.push(format!("{name}: only in the first"));
            continue;
        };
        for key in keys(&first["config"]) {
            if first["config"][key] != second["config"][key] {
                warnings
                    .push(format!("{name}: different {key}: {} and {}", first["config"][key], second["config"][key]));
            }
        }
    }
    warnings
}

/// One outcome, or all of a folder that has several.
fn outcomes(result: &Value) -> Vec<&Value> {
    result["outcomes"].as_array().map_or_else(|| vec![result], |all| all.iter().collect())
}

fn keys(object: &Value) -> impl Iterator<Item = &str> {
    object.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str))
}

fn at(value: &Value, path: [&str; 3]) -> Option<f64> {
    path.iter().filter(|key| !key.is_empty()).try_fold(value, |value, key| value.get(key))?.as_f64()
}

fn load(folder: &Path) -> io::Result<Value> {
    let path = if folder.is_dir() { folder.join("result.json") } else { folder.to_owned() };
    let explained = |error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}: name the folder that a run wrote", path.display()))
    };
    let text = std::fs::read_to_string(&path).map_err(explained)?;
    serde_json::from_str(&text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}
