//! `cargo xtask bench-check`: counts the instructions of every hot path and the bytes of an idle connection, and compares them with the
//! committed baseline. Counts do not move with the machine's load; where they do move with the tools, it says so instead of judging.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::shell::{cargo, root, run, say, target_directory};

/// Most that a path may cost more than the baseline. Unit: percent.
const INSTRUCTIONS_MAX: f64 = 3.0;
/// Most that a connection may keep more than the baseline. Unit: bytes.
const BYTES_MAX: f64 = 256.0;
/// Where the baseline is, from the root.
const BASELINE: &str = "bench/baseline.json";
/// What callgrind writes before a path's name.
const NAME_PREFIX: &str = "desc: Trigger: Client Request: ";
/// Stops the C library's allocator from counting what it keeps for a thread as given out.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");

/// Stops the server's allocator from giving memory back by the clock.
const NO_PURGE: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// What was counted, and with what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Counts {
    /// What it is, for whoever opens the file.
    note: String,
    tools: Tools,
    /// Per iteration of a path.
    instructions: BTreeMap<String, Row>,
    /// Per connection.
    bytes: BTreeMap<String, Row>,
}

/// What the counts depend on beside the sources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tools {
    rustc: String,
    valgrind: String,
    /// What the measured program saw of the processor. Ciphers and hashes choose by it.
    processor: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Row {
    count: f64,
    /// What is counted once: an iteration, a connection.
    of: String,
    /// Whether ciphers and hashes are a part of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    crypto: bool,
}

/// What came of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Within,
    Better,
    Worse,
    /// Only one of the two has it.
    Unpaired,
    /// It says nothing about the sources: other tools, or another processor.
    Incomparable,
}

/// Runs it. `--save` writes the baseline; `--spread` runs twice and prints how far the two are apart; other words choose paths by a part of
/// their name.
///
/// # Errors
/// That something is missing or does not build, or what is past its limit.
pub(crate) fn all(words: &[String]) -> Result<(), String> {
    let (options, parts): (Vec<&String>, Vec<&String>) = words.iter().partition(|word| word.starts_with("--"));
    let has = |name: &str| options.iter().any(|option| *option == name);
    if let Some(unknown) = options.iter().find(|option| !["--save", "--spread"].contains(&option.as_str())) {
        return Err(format!("bench-check has no {unknown}: --save, --spread, or parts of paths' names"));
    }
    if has("--save") && !parts.is_empty() {
        return Err("a baseline is saved whole: --save takes no names".to_owned());
    }
    let programs = build()?;
    let counts = count(&programs, &parts)?;
    if has("--spread") {
        let again = count(&programs, &parts)?;
        say(&table(&counts, &again, &compare(&counts, &again, true)));
        return Ok(());
    }
    let file = root().join(BASELINE);
    if has("--save") {
        let text = serde_json::to_string_pretty(&counts).map_err(|error| error.to_string())?;
        return fs::write(&file, text + "\n").map_err(|error| format!("{}: {error}", file.display()));
    }
    let text =
        fs::read_to_string(&file).map_err(|error| format!("{}: {error}; make it with --save", file.display()))?;
    let baseline: Counts = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let verdicts = compare(&baseline, &counts, parts.is_empty());
    say(&table(&baseline, &counts, &verdicts));
    judge(&baseline.tools, &counts.tools, &verdicts)
}

/// Builds both programs as they are released. Returns where they are.
fn build() -> Result<[PathBuf; 2], String> {
    let names = ["instructions", "memory"];
    let words = ["bench", "--no-run", "--package", "tern-bench", "--bench", names[0], "--bench", names[1]];
    run("build the counted programs", &mut cargo(&words))?;
    // The same once more, for where they are: everything is built.
    let words = [&words[..], &["--message-format", "json", "--quiet"]].concat();
    let output = cargo(&words).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot start cargo: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let find = |name: &str| {
        let message =
            messages.iter().find(|message| message["target"]["name"] == name && message["executable"].is_string());
        message.and_then(|message| message["executable"].as_str()).map(PathBuf::from)
    };
    match names.map(find) {
        [Some(instructions), Some(memory)] => Ok([instructions, memory]),
        _ => Err("cargo does not say where it has built the benches".to_owned()),
    }
}

fn count([instructions, memory]: &[PathBuf; 2], parts: &[&String]) -> Result<Counts, String> {
    let mut counts = Counts {
        note: "Written by `cargo xtask bench-check --save`; see bench/README.md.".to_owned(),
        ..Counts::default()
    };
    counts.tools.rustc = version("rustc")?;
    counts.tools.valgrind = version("valgrind")?;
    count_instructions(instructions, parts, &mut counts)?;
    if parts.is_empty() {
        count_bytes(memory, &mut counts)?;
    }
    Ok(counts)
}

fn version(program: &str) -> Result<String, String> {
    let help = if program == "valgrind" { "; install it (Debian: apt-get install valgrind)" } else { "" };
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("cannot start {program}: {error}{help}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs every path under callgrind, in one process: what is set up for a path is not counted and hardly slowed down.
fn count_instructions(program: &Path, parts: &[&String], counts: &mut Counts) -> Result<(), String> {
    let directory = target_directory().join("bench-check");
    let failed = |error| format!("{}: {error}", directory.display());
    if directory.exists() {
        fs::remove_dir_all(&directory).map_err(failed)?;
    }
    fs::create_dir_all(&directory).map_err(failed)?;
    let file = directory.join("callgrind");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--tool=callgrind", "--instr-atstart=no"]);
    valgrind.arg(format!("--callgrind-out-file={}", file.display())).arg(program).args(parts);
    valgrind.env(NO_PURGE.0, NO_PURGE.1);
    let text = output("valgrind", &mut valgrind)?;
    let totals = totals(&directory).map_err(failed)?;
    for line in text.lines() {
        if let Some(processor) = line.strip_prefix("processor ") {
            processor.clone_into(&mut counts.tools.processor);
        }
        let Some((name, iterations, crypto, of)) = parse_path(line) else { continue };
        let total = totals.get(name).copied().unwrap_or(0.0);
        if total == 0.0 {
            return Err(format!("callgrind has counted nothing of {name}: only x86-64 is supported"));
        }
        let row = Row { count: rounded(total / iterations), of: of.to_owned(), crypto };
        counts.instructions.insert(name.to_owned(), row);
    }
    if counts.instructions.is_empty() { Err("no path has such a name".to_owned()) } else { Ok(()) }
}

/// `path NAME ITERATIONS crypto|plain WHAT AN ITERATION IS`.
fn parse_path(line: &str) -> Option<(&str, f64, bool, &str)> {
    let (name, rest) = line.strip_prefix("path ")?.split_once(' ')?;
    let (iterations, rest) = rest.split_once(' ')?;
    let (kind, of) = rest.split_once(' ')?;
    Some((name, iterations.parse().ok()?, kind == "crypto", of))
}

/// Instructions of each path, from what callgrind wrote: a file each.
fn totals(directory: &Path) -> std::io::Result<BTreeMap<String, f64>> {
    let mut totals = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let bytes = fs::read(entry?.path())?;
        totals.extend(parse_totals(&String::from_utf8_lossy(&bytes)));
    }
    Ok(totals)
}

fn parse_totals(text: &str) -> Option<(String, f64)> {
    let after = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
    Some((after(NAME_PREFIX)?.to_owned(), after("totals: ")?.trim().parse().ok()?))
}

/// Two rows for each kind of connection: what Rust allocates, and what the crypto library does.
fn count_bytes(program: &Path, counts: &mut Counts) -> Result<(), String> {
    let text = output("memory", Command::new(program).env(TUNABLES.0, TUNABLES.1))?;
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, rust, c] = words[..] else { continue };
        for (part, count) in [("rust", rust), ("crypto library", c)] {
            let count = count.parse().map_err(|_| format!("not a number of bytes: {line}"))?;
            let row = Row { count, of: "a connection".to_owned(), crypto: part != "rust" };
            counts.bytes.insert(format!("{name}, {part}"), row);
        }
    }
    Ok(())
}

fn output(name: &str, command: &mut Command) -> Result<String, String> {
    say(&format!("--- {name}"));
    let output =
        command.stderr(Stdio::inherit()).output().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} failed: {command:?}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// To a tenth: more digits are noise in a committed file.
fn rounded(count: f64) -> f64 {
    (count * 10.0).round() / 10.0
}

/// Every row of either, with what came of it. `whole`: what only the baseline has is missing.
fn compare(baseline: &Counts, now: &Counts, whole: bool) -> BTreeMap<String, Verdict> {
    let same_tools = baseline.tools.rustc == now.tools.rustc && baseline.tools.valgrind == now.tools.valgrind;
    let same_processor = baseline.tools.processor == now.tools.processor;
    let mut verdicts = BTreeMap::new();
    let percent = |before: f64, after: f64| (after - before) / before * 100.0;
    let bytes = |before: f64, after: f64| after - before;
    let mut add =
        |before: &BTreeMap<String, Row>, after: &BTreeMap<String, Row>, by: &dyn Fn(f64, f64) -> f64, most| {
            for (name, row) in after {
                let verdict = match before.get(name) {
                    None => Verdict::Unpaired,
                    Some(_) if !same_tools || (row.crypto && !same_processor) => Verdict::Incomparable,
                    Some(old) if by(old.count, row.count) > most => Verdict::Worse,
                    Some(old) if by(old.count, row.count) < -most => Verdict::Better,
                    Some(_) => Verdict::Within,
                };
                verdicts.insert(name.clone(), verdict);
            }
            for name in before.keys().filter(|name| whole && !after.contains_key(*name)) {
                verdicts.insert(name.clone(), Verdict::Unpaired);
            }
        };
    add(&baseline.instructions, &now.instructions, &percent, INSTRUCTIONS_MAX);
    add(&baseline.bytes, &now.bytes, &bytes, BYTES_MAX);
    verdicts
}

/// Name, baseline, now, difference.
fn table(baseline: &Counts, now: &Counts, verdicts: &BTreeMap<String, Verdict>) -> String {
    let mut text = String::new();
    let sections =
        [("instructions", &baseline.instructions, &now.instructions), ("bytes", &baseline.bytes, &now.bytes)];
    for (unit, before, after) in sections {
        let _ = writeln!(text, "\n{unit:34} {:>12} {:>12} {:>12} {:>9}", "baseline", "now", "difference", "%");
        for (name, verdict) in verdicts {
            let (old, new) = (before.get(name), after.get(name));
            let Some(of) = new.or(old).map(|row| &row.of) else { continue };
            let number = |row: Option<&Row>| row.map_or("-".to_owned(), |row| format!("{:.1}", row.count));
            let (difference, percent) = match (old, new) {
                (Some(old), Some(new)) => {
                    let difference = new.count - old.count;
                    (format!("{difference:+.1}"), format!("{:+.2}", difference / old.count * 100.0))
                }
                _ => ("-".to_owned(), "-".to_owned()),
            };
            let mark = match verdict {
                Verdict::Within => "",
                Verdict::Better => "  better",
                Verdict::Worse => "  PAST THE LIMIT",
                Verdict::Unpaired => "  only one of the two has it",
                Verdict::Incomparable => "  not comparable",
            };
            let (old, new) = (number(old), number(new));
            let _ = writeln!(text, "{name:34} {old:>12} {new:>12} {difference:>12} {percent:>9}  {of}{mark}");
        }
    }
    text
}

/// What the table means.
fn judge(baseline: &Tools, now: &Tools, verdicts: &BTreeMap<String, Verdict>) -> Result<(), String> {
    let with = |verdict: Verdict| {
        let names: Vec<&str> = verdicts.iter().filter(|(_, v)| **v == verdict).map(|(name, _)| name.as_str()).collect();
        if names.is_empty() { None } else { Some(names.join(", ")) }
    };
    if let Some(names) = with(Verdict::Incomparable) {
        say(&format!(
            "not judged, because the tools are not the baseline's: {names}\n  baseline: {baseline:?}\n  now:      {now:?}\n\
             compare two commits with the same tools: bench-check --save on the one, bench-check on the other"
        ));
    }
    if let Some(names) = with(Verdict::Better) {
        say(&format!(
            "better than the baseline: {names}\nkeep it: cargo xtask bench-check --save, and commit {BASELINE}"
        ));
    }
    let mut wrong = Vec::new();
    if let Some(names) = with(Verdict::Worse) {
        wrong.push(format!("past +{INSTRUCTIONS_MAX} % instructions or +{BYTES_MAX} B a connection: {names}"));
    }
    if let Some(names) = with(Verdict::Unpaired) {
        wrong.push(format!("in only one of baseline and benches: {names}"));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "bench-check: {}\nif that is meant, save a new baseline with --save and say why in the commit",
        wrong.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(instructions: f64, bytes: f64) -> Counts {
        let row = |count| Row { count, of: "a thing".to_owned(), crypto: false };
        Counts {
            instructions: BTreeMap::from([("path".to_owned(), row(instructions))]),
            bytes: BTreeMap::from([("connection".to_owned(), row(bytes))]),
            ..Counts::default()
        }
    }

    fn outcome(baseline: &Counts, now: &Counts) -> Result<(), String> {
        judge(&baseline.tools, &now.tools, &compare(baseline, now, true))
    }

    #[test]
    fn what_is_past_a_limit_fails_and_what_is_within_does_not() {
        let baseline = counts(1_000.0, 20_000.0);
        assert_eq!(outcome(&baseline, &counts(1_030.0, 20_256.0)), Ok(()));
        assert_eq!(outcome(&baseline, &counts(500.0, 10_000.0)), Ok(()), "better is no failure");
        assert!(outcome(&baseline, &counts(1_050.0, 20_000.0)).is_err_and(|why| why.contains("path")));
        assert!(outcome(&baseline, &counts(1_000.0, 20_300.0)).is_err_and(|why| why.contains("connection")));
    }

    #[test]
    fn a_path_without_a_baseline_and_a_baseline_without_a_path_fail() {
        let baseline = counts(1_000.0, 20_000.0);
        let mut more = baseline.clone();
        more.instructions.insert("another".to_owned(), Row::default());
        assert!(outcome(&baseline, &more).is_err_and(|why| why.contains("another")));
        assert!(outcome(&more, &baseline).is_err_and(|why| why.contains("another")));
        assert_eq!(compare(&more, &baseline, false).len(), 2, "chosen paths are compared alone");
    }

    #[test]
    fn another_compiler_is_told_and_not_judged_and_another_processor_only_where_it_counts() {
        let baseline = counts(1_000.0, 20_000.0);
        let mut now = counts(2_000.0, 20_000.0);
        now.tools.rustc = "another".to_owned();
        assert_eq!(outcome(&baseline, &now), Ok(()));
        now.tools = Tools { processor: "another".to_owned(), ..Tools::default() };
        assert!(outcome(&baseline, &now).is_err(), "it encrypts nothing");
        now.instructions.values_mut().for_each(|row| row.crypto = true);
        assert_eq!(outcome(&baseline, &now), Ok(()));
    }

    #[test]
    fn the_difference_is_printed() {
        let (baseline, now) = (counts(1_000.0, 20_000.0), counts(1_050.0, 20_000.0));
        let table = table(&baseline, &now, &compare(&baseline, &now, true));
        let line = table.lines().find(|line| line.starts_with("path")).unwrap_or_default();
        assert!(["1000.0", "1050.0", "+50.0", "+5.00", "PAST"].iter().all(|part| line.contains(part)), "{table}");
    }

    #[test]
    fn what_callgrind_and_the_bench_write_is_understood() {
        let file =
            "version: 1\ndesc: Trigger: Client Request: core/dedup\nevents: Ir\nfn=(1) main\n1 5\ntotals: 1234\n";
        assert_eq!(parse_totals(file), Some(("core/dedup".to_owned(), 1_234.0)));
        assert_eq!(parse_totals("desc: Trigger: Program termination\ntotals: 5\n"), None);
        assert_eq!(parse_path("path core/dedup 256 plain a resend"), Some(("core/dedup", 256.0, false, "a resend")));
        assert_eq!(parse_path("processor x86_64,aes"), None);
    }
}
