//! `cargo xtask swarm` and `cargo xtask power-cuts`: many seeds of a simulation, on all cores, in an optimised build. A failure names the
//! seed and its replay. Never interprets a run: the checker of the simulation says what is wrong.

use std::io::Read;
use std::process::{Child, Stdio};

use crate::shell::{cargo, root, say};

/// Seeds when nobody says how many.
const SEEDS_DEFAULT: u64 = 200;
/// From so many seeds on everything that a simulation must do has to have been done.
const SEEDS_COMPLETE: u64 = 200;
/// Seeds that one process plays before it is asked for the next ones: small enough that a crash of one loses little.
const BATCH: u64 = 50;

/// A simulation that is played from seeds.
pub(crate) struct Simulation {
    /// The command.
    name: &'static str,
    /// Where its test is: words for cargo.
    target: &'static [&'static str],
    /// The test.
    test: &'static str,
    /// How the variables begin that say which seeds.
    variables: &'static str,
    /// The crates under test: small, so that optimised they build in seconds and play five times as many seeds.
    optimised: &'static [&'static str],
    /// What must happen at least once.
    coverage: &'static [&'static str],
}

/// Whole clusters; `core-shard/tests/sim`.
pub(crate) const SWARM: Simulation = Simulation {
    name: "swarm",
    target: &["--package", "tern-core-shard", "--test", "sim"],
    test: "swarm::swarm_of_seeds_keeps_every_promise",
    variables: "TERN_SIM",
    optimised: &["tern-core-shard", "tern-protocol"],
    coverage: &[],
};

/// The journal on a simulated disk; `persistence/src/simulation`.
pub(crate) const POWER_CUTS: Simulation = Simulation {
    name: "power-cuts",
    target: &["--package", "tern-persistence", "--lib"],
    test: "simulation::power_cuts::every_life_starts_with_everything_that_was_handed_out",
    variables: "TERN_CUTS",
    optimised: &["tern-persistence", "tern-core-shard", "tern-protocol"],
    coverage: &[
        "power_cuts",
        "kills",
        "stops",
        "failed_journals",
        "kill_start_cut",
        "ends_while_opening",
        "starts_refused_for_faults",
        "cut_in_allocate",
        "cut_in_create",
        "cut_in_list",
        "cut_in_make_directory",
        "cut_in_open",
        "cut_in_read",
        "cut_in_remove",
        "cut_in_remove_all",
        "cut_in_rename",
        "cut_in_sync_all",
        "cut_in_sync_data",
        "cut_in_sync_directory",
        "cut_in_write",
        "kill_in_sync_data",
        "kill_in_sync_directory",
        "kill_in_write",
        "torn_batches",
        "torn_files",
        "names_lost",
        "lengths_lost",
        "syncs_failed",
        "directory_syncs_failed",
        "writes_failed",
        "reads_failed",
        "opens_failed",
        "lists_failed",
        "short_reads",
        "no_space",
        "old_bytes_in_new_space",
        "segments_reused",
        "replayed",
    ],
};

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
pub(crate) fn run(simulation: &Simulation, words: &[String]) -> Result<(), String> {
    let name = simulation.name;
    let wanted = read(name, words)?;
    let binary = build(simulation)?;
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
            playing.push_back((from, play(simulation, &binary, from, to - from)?));
        }
        let Some((from, child)) = playing.pop_front() else { break };
        failed.extend(finish(simulation, from, child, &mut totals)?);
    }
    say(&format!("{name}: {} seeds from {}: {}", wanted.count, wanted.start, totals.text()));
    if failed.is_empty() {
        let missing: Vec<&str> = simulation.coverage.iter().copied().filter(|what| !totals.has(what)).collect();
        return if missing.is_empty() || wanted.count < SEEDS_COMPLETE {
            Ok(())
        } else {
            Err(format!("{name}: never happened, so nothing is shown for it: {}", missing.join(", ")))
        };
    }
    let replays: Vec<String> = failed.iter().map(|seed| format!("  cargo xtask {name} --seed {seed}")).collect();
    Err(format!("{} seeds failed; to see one again:\n{}", failed.len(), replays.join("\n")))
}

fn read(name: &str, words: &[String]) -> Result<Wanted, String> {
    let mut wanted = Wanted { start: 1, count: SEEDS_DEFAULT };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse::<u64>().ok());
        let number = value.ok_or_else(|| format!("{word} needs a number"))?;
        match word.as_str() {
            "--seeds" => wanted.count = number,
            "--start" => wanted.start = number,
            "--seed" => wanted = Wanted { start: number, count: 1 },
            _ => return Err(format!("{name} knows --seeds N, --start N and --seed N, not {word:?}")),
        }
    }
    Ok(wanted)
}

/// Builds the simulation once, optimised, with the debug assertions on; returns where it is.
fn build(simulation: &Simulation) -> Result<String, String> {
    let mut command = cargo(&[&["test"], simulation.target, &["--no-run", "--message-format=json"]].concat());
    for package in simulation.optimised {
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

fn play(simulation: &Simulation, binary: &str, from: u64, count: u64) -> Result<Child, String> {
    let mut command = std::process::Command::new(binary);
    let variables = simulation.variables;
    command.args(["--exact", simulation.test, "--nocapture"]).current_dir(root());
    command
        .env(format!("{variables}_START"), from.to_string())
        .env(format!("{variables}_SEEDS"), count.to_string())
        .env_remove(format!("{variables}_SEED"));
    // Which seed it was says more than where the checker stood.
    command.env("RUST_BACKTRACE", "0");
    command.stdout(Stdio::piped());
    command.spawn().map_err(|error| format!("cannot start {binary}: {error}"))
}

/// Waits for one process, and passes on what it says of failures.
fn finish(simulation: &Simulation, from: u64, mut child: Child, totals: &mut Totals) -> Result<Vec<u64>, String> {
    let mut text = String::new();
    let read = child.stdout.take().map(|mut out| out.read_to_string(&mut text));
    let status = child.wait().map_err(|error| format!("cannot wait for the simulator: {error}"))?;
    if !matches!(read, Some(Ok(_))) {
        return Err("the simulator's output cannot be read".to_owned());
    }
    let mut failed = Vec::new();
    let (closing, replay) = (format!("{}: ", simulation.name), format!("replay: {}_SEED=", simulation.variables));
    for line in text.lines() {
        if let Some(counts) = line.strip_prefix(&closing) {
            totals.add(counts);
        } else if let Some((seed, _)) = line.strip_prefix(&replay).and_then(|rest| rest.split_once(' ')) {
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

    fn has(&self, what: &str) -> bool {
        self.0.get(what).is_some_and(|count| *count > 0)
    }

    fn text(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|(name, value)| format!("{value} {name}")).collect();
        parts.join(", ")
    }
}
