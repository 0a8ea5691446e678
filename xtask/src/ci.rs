//! Exactly what CI runs, in its order: cheap checks first, the README's test command last.

use crate::shell::{cargo, run, run_tests};
use crate::tidy;

/// Seeds of the simulator in each run.
const SWARM_SEEDS: &str = "200";
/// Images of power cuts in each run; by hand it opens 10,000.
const CRASH_IMAGES: &str = "200";
/// Seeds of power cuts in each run; by hand it does 100,000.
const POWER_CUT_SEEDS: &str = "400";
/// Rounds of the kill test in each run; by hand it does 20 and more.
const KILL_ROUNDS: &str = "4";

/// What `bench/Cargo.toml` names.
const BENCHES: [&str; 5] = ["instructions", "journal", "memory", "paths", "ring"];

/// Tests of the shards on glommio: what every driver must do, stock clients on the loopback, and the real binary with two shards.
const GLOMMIO_TESTS: [&str; 5] = ["--", "runtime::", "quic::", "websocket::", "glommio_two_shards::"];

/// Runs all of it.
///
/// # Errors
/// The first part that failed.
pub(crate) fn all(_words: &[String]) -> Result<(), String> {
    run("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    run("clippy", &mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // Always the whole workspace: one package alone has other features of its dependencies, which are then compiled once more.
    let glommio = ["--workspace", "--features", "tern-edge/glommio"];
    let lints = [&["clippy"], &glommio[..], &["--all-targets", "--", "-D", "warnings"]].concat();
    run("clippy, with glommio", &mut cargo(&lints))?;
    let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    run("documents", docs.env("RUSTDOCFLAGS", "-D warnings"))?;
    run("swarm", &mut cargo(&["xtask", "swarm", "--seeds", SWARM_SEEDS]))?;
    run("crash view", &mut cargo(&["xtask", "crash-view", "--images", CRASH_IMAGES]))?;
    run("power cuts", &mut cargo(&["xtask", "power-cuts", "--seeds", POWER_CUT_SEEDS]))?;
    run("kill test", &mut cargo(&["xtask", "kill-test", "--rounds", KILL_ROUNDS]))?;
    let benches: Vec<&str> = BENCHES.iter().flat_map(|name| ["--bench", *name]).collect();
    run("benches, once", &mut cargo(&[&["test", "--workspace"], &benches[..]].concat()))?;
    let tests = [&["test", "--lib", "--test", "shards", "--test", "process"], &glommio[..], &GLOMMIO_TESTS].concat();
    run("tests, with glommio", &mut cargo(&tests))?;
    run("bench check", &mut cargo(&["xtask", "bench-check"]))?;
    run_tests("tests", &mut cargo(&["test", "--workspace"]))
}
