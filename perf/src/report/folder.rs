//! The folder of a run: everything in it can be read without this program. Writes only below the given directory; what is there under the
//! same name is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use super::hgrm::hgrm;
use super::{Outcome, Plot, html, markdown, to_json_all};
use crate::measure::Machine;

/// Writes `result.json`, a `.hgrm` per latency, a `.csv` per plot, `summary.md` and `report.html`; the path of the last.
///
/// # Errors
/// When the directory or a file cannot be written.
pub fn write_folder(directory: &Path, machine: &Machine, outcomes: &[Outcome]) -> io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let json = serde_json::to_string_pretty(&to_json_all(machine, outcomes)).map_err(io::Error::other)?;
    std::fs::write(directory.join("result.json"), json + "\n")?;
    for (outcome, name) in outcomes.iter().zip(names(outcomes)) {
        for (latency, times) in outcome.latencies() {
            std::fs::write(directory.join(format!("{name}-{}.hgrm", file_name(latency))), hgrm(times))?;
        }
        for plot in &outcome.series {
            std::fs::write(directory.join(format!("{name}-{}.csv", file_name(&plot.title))), csv(plot))?;
        }
    }
    std::fs::write(directory.join("summary.md"), markdown(machine, outcomes))?;
    let report = directory.join("report.html");
    std::fs::write(&report, html::page(machine, outcomes)?)?;
    Ok(report)
}

/// A name for each outcome that no other has: its scenario; with its transport where that is not enough; with a number where neither is.
pub(super) fn names(outcomes: &[Outcome]) -> Vec<String> {
    let short = |outcome: &Outcome| file_name(&outcome.scenario);
    let long = |outcome: &Outcome| file_name(&format!("{}-{}", outcome.scenario, outcome.transport));
    let times = |name: &dyn Fn(&Outcome) -> String| {
        let mut times = BTreeMap::new();
        for outcome in outcomes {
            *times.entry(name(outcome)).or_insert(0) += 1;
        }
        times
    };
    let (shorts, longs) = (times(&short), times(&long));
    let mut taken = BTreeSet::new();
    let unique = |outcome: &Outcome| {
        let (short, long) = (short(outcome), long(outcome));
        let first = if shorts.get(&short) == Some(&1) { short } else { long.clone() };
        let numbered = (1..).map(|number| format!("{long}-{number}"));
        let numbered = numbered.skip_while(|name| taken.contains(name));
        let first = Some(first).filter(|name| longs.get(&long) == Some(&1) && !taken.contains(name));
        let name = first.into_iter().chain(numbered).next().unwrap_or(long);
        taken.insert(name.clone());
        name
    };
    outcomes.iter().map(unique).collect()
}

/// Letters and digits of a text, the rest as `-`; `_` stays.
fn file_name(text: &str) -> String {
    let kept =
        |letter: char| if letter.is_ascii_alphanumeric() || letter == '_' { letter.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(kept).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    words.join("-")
}

/// The points of a plot: line, x, y.
fn csv(plot: &Plot) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut text = format!("line,{},{}\n", quoted(&plot.x_label), quoted(&plot.y_label));
    for line in &plot.lines {
        for (x, y) in &line.points {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{},{x},{y}", quoted(&line.name));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(scenario: &str, transport: &str) -> Outcome {
        Outcome::new(scenario, "", transport)
    }

    #[test]
    fn names_are_as_short_as_they_can_be_and_never_the_same() {
        let runs = [
            ("floor", "none"),
            ("idle", "quic"),
            ("idle", "ws"),
            ("group", "quic"),
            ("group", "quic"),
            ("slow readers/../x", "ws"),
        ];
        let outcomes: Vec<Outcome> = runs.iter().map(|(scenario, transport)| outcome(scenario, transport)).collect();
        assert_eq!(
            names(&outcomes),
            ["floor", "idle-quic", "idle-ws", "group-quic-1", "group-quic-2", "slow-readers-x"]
        );
        let hostile = [outcome("a", "b-1"), outcome("a", "b"), outcome("a", "b"), outcome("a-b", "1")];
        let named = names(&hostile);
        assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), 4, "{named:?}");
    }

    #[test]
    fn quotes_in_a_table_of_values_are_doubled() {
        let line = super::super::Line { name: "a \"b\"".to_owned(), points: vec![(1.0, 2.5)] };
        let plot = Plot { x_label: "x".to_owned(), y_label: "y, ms".to_owned(), lines: vec![line], ..Plot::default() };
        assert_eq!(csv(&plot), "line,\"x\",\"y, ms\"\n\"a \"\"b\"\"\",1,2.5\n");
    }
}
