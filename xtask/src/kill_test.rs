//! `cargo xtask kill-test` and `shard-calls`: build the server and the clients that load it, and run what is in `perf/examples`.

use crate::shell::{cargo, run, target_directory};

/// Runs it; `words` go to the test, but for `--release`.
///
/// # Errors
/// That something does not build, or that something was lost.
pub(crate) fn all(words: &[String]) -> Result<(), String> {
    example("kill-test", words)
}

/// Runs `perf/examples/shard-calls.rs`.
///
/// # Errors
/// That something does not build, or that a shard thread made a call that may wait.
pub(crate) fn shard_calls(words: &[String]) -> Result<(), String> {
    example("shard-calls", words)
}

/// Builds the server and an example of `perf`, and runs that on this.
fn example(name: &str, words: &[String]) -> Result<(), String> {
    let release = words.iter().any(|word| word == "--release");
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    let server = [&["build", "--workspace", "--bin", "tern"], profile].concat();
    run("build the server", &mut cargo(&server))?;
    let clients = [&["build", "--workspace", "--example", name], profile].concat();
    run("build the clients", &mut cargo(&clients))?;
    let built = target_directory().join(if release { "release" } else { "debug" });
    let mut test = std::process::Command::new(built.join("examples").join(name));
    test.arg("--binary").arg(built.join("tern")).args(words.iter().filter(|word| *word != "--release"));
    run(name, &mut test)
}
