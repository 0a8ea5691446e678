//! `cargo xtask crash-view`: builds and runs `persistence/examples/crash-view`, which needs `strace`.

use crate::shell::{cargo, run, target_directory};

/// Runs it; `words` go to the example.
///
/// # Errors
/// That it does not build, or which image of a power cut does not open as it should.
pub(crate) fn all(words: &[String]) -> Result<(), String> {
    run("build crash-view", &mut cargo(&["build", "--workspace", "--example", "crash-view"]))?;
    let mut test = std::process::Command::new(target_directory().join("debug/examples/crash-view"));
    run("crash-view", test.args(words))
}
