//! `cargo xtask kill-test`: builds the server and the clients that load it, and runs `perf/examples/kill-test.rs`.

use crate::shell::{cargo, run, target_directory};

/// Runs it; `words` go to the test, but for `--release`.
///
/// # Errors
/// That something does not build, or that something was lost.
pub(crate) fn all(words: &[String]) -> Result<(), String> {
    let release = words.iter().any(|word| word == "--release");
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    let server = [&["build", "--package", "tern-edge", "--bin", "tern"], profile].concat();
    run("build the server", &mut cargo(&server))?;
    let clients = [&["build", "--package", "tern-perf", "--example", "kill-test"], profile].concat();
    run("build the clients", &mut cargo(&clients))?;
    let built = target_directory().join(if release { "release" } else { "debug" });
    let mut test = std::process::Command::new(built.join("examples/kill-test"));
    test.arg("--binary").arg(built.join("tern")).args(words.iter().filter(|word| *word != "--release"));
    run("kill test", &mut test)
}
