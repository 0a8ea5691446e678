//! `cargo xtask swarm`: many seeds of the simulator, on all cores, in an optimised build. A failure names the seed and its replay.
//! Never interprets a run: the checker in `core-shard/tests/sim` says what is wrong.

use std::io::Read;
use std::process::{Child, Stdio};

use crate::shell::{cargo, root, say};

/// Seeds when nobody says how many.
const SEEDS_DEFAULT: u64 = 200;
/// Seeds that one process plays before it is asked for the next ones: small enough that a crash of one loses little.
const BATCH: u64 = 50;

/// What was asked for.
struct Wanted {
    /// The first seed.
    start: u64,
    /// How many.
    count: u64,
}

/// Plays the seeds.
///
/// # Errors
/// Which seeds failed, and how to see each again.
pub(crate) fn run(words: &[String]) -> Result<(), String> {
    let wanted = read(words)?;
    let binary = build()?;
    let end = wanted.start.saturating_add(wanted.count);
    let mut batches =
        (wanted.start..end).step_by(usize::try_from(BATCH).unwrap_or(1)).map(|from| (from, end.min(from + BATCH)));
    let processes = std::thread::available_parallelism().map_or(1, usize::from);
    let mut playing: std::collections::VecDeque<(u64, Child)> = std::collections::VecDeque::new();
    let (mut failed, mut totals) = (Vec::new(), Totals::default());
    loop {
        while playing.len() < processes
            && let Some((from, to)) = batches.next()
        {
            playing.push_back((from, play(&binary, from, to - from)?));
        }
        let Some((from, child)) = playing.pop_front() else { break };
        failed.extend(finish(from, child, &mut totals)?);
    }
    say(&format!("swarm: {} seeds from {}: {}", wanted.count, wanted.start, totals.text()));
    if failed.is_empty() {
        return Ok(());
    }
    let replays: Vec<String> = failed.iter().map(|seed| format!("  cargo xtask swarm --seed {seed}")).collect();
    Err(format!("{} seeds failed; to see one again:\n{}", failed.len(), replays.join("\n")))
}

fn read(words: &[String]) -> Result<Wanted, String> {
    let mut wanted = Wanted { start: 1, count: SEEDS_DEFAULT };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse::<u64>().ok());
        let number = value.ok_or_else(|| format!("{word} needs a number"))?;
        match word.as_str() {
            "--seeds" => wanted.count = number,
            "--start" => wanted.start = number,
            "--seed" => wanted = Wanted { start: number, count: 1 },
            _ => return Err(format!("swarm knows --seeds N, --start N and --seed N, not {word:?}")),
        }
    }
    Ok(wanted)
}

/// Builds the simulator once, optimised, with the debug assertions on; returns where it is.
fn build() -> Result<String, String> {
    let mut command =
        cargo(&["test", "--package", "tern-core-shard", "--test", "sim", "--no-run", "--message-format=json"]);
    // The crates under test are small: optimised they build in seconds and play five times as many seeds.
    for package in ["tern-core-shard", "tern-protocol"] {
        command.arg(format!("--config=profile.test.package.{package}.opt-level=2"));
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err("the simulator does not build".to_owned());
    }
    // One JSON object a line; the test binary's is the last that names an executable.
    let lines = String::from_utf8_lossy(&output.stdout);
    let key = "\"executable\":\"";
    let named = |line: &str| Some(line.split_once(key)?.1.split_once('"')?.0.to_owned());
    lines.lines().rev().find_map(named).ok_or_else(|| "cargo names no test binary".to_owned())
}

fn play(binary: &str, from: u64, count: u64) -> Result<Child, String> {
    let mut command = std::process::Command::new(binary);
    command.args(["--exact", "swarm::swarm_of_seeds_keeps_every_promise", "--nocapture"]).current_dir(root());
    command
        .env("TERN_SIM_START", from.to_string())
        .env("TERN_SIM_SEEDS", count.to_string())
        .env_remove("TERN_SIM_SEED");
    // Which seed it was says more than where the checker stood.
    command.env("RUST_BACKTRACE", "0");
    command.stdout(Stdio::piped());
    command.spawn().map_err(|error| format!("cannot start {binary}: {error}"))
}

/// Waits for one process, and passes on what it says of failures.
fn finish(from: u64, mut child: Child, totals: &mut Totals) -> Result<Vec<u64>, String> {
    let mut text = String::new();
    let read = child.stdout.take().map(|mut out| out.read_to_string(&mut text));
    let status = child.wait().map_err(|error| format!("cannot wait for the simulator: {error}"))?;
    if !matches!(read, Some(Ok(_))) {
        return Err("the simulator's output cannot be read".to_owned());
    }
    let mut failed = Vec::new();
    for line in text.lines() {
        if let Some(counts) = line.strip_prefix("swarm: ") {
            totals.add(counts);
        } else if let Some((seed, _)) =
            line.strip_prefix("replay: TERN_SIM_SEED=").and_then(|rest| rest.split_once(' '))
        {
            failed.extend(seed.parse::<u64>());
        } else if line.starts_with("seed ") || line.starts_with("  ") {
            say(line);
        }
    }
    if !status.success() && failed.is_empty() {
        return Err(format!("the simulator died in seeds {from} to {}: {status}", from + BATCH - 1));
    }
    Ok(failed)
}

/// Sums of the numbers that the processes report, by name.
#[derive(Default)]
struct Totals(std::collections::BTreeMap<String, u64>);

impl Totals {
    /// Adds `name: number` pairs, wherever they stand in a line.
    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split([' ', ',', '{', '}']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            if let [name, value] = pair
                && let (Some(name), Ok(value)) = (name.strip_suffix(':'), value.parse::<u64>())
            {
                *self.0.entry(name.to_owned()).or_default() += value;
            }
        }
    }

    fn text(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|(name, value)| format!("{value} {name}")).collect();
        parts.join(", ")
    }
}
