//! Runs commands at the root of the project and says what runs.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// The root of the project.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Tells the person who runs this.
#[expect(clippy::print_stderr, reason = "a command for people: this is its voice")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// `cargo` with these words, at the root.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).current_dir(root());
    command
}

/// Runs a command to its end.
///
/// # Errors
/// That it could not be started, or that it failed.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<(), String> {
    say(&format!("--- {name}"));
    let start = Instant::now();
    let status =
        command.status().map_err(|error| format!("{name}: cannot start {:?}: {error}", command.get_program()))?;
    say(&format!("--- {name}: {} in {} s", if status.success() { "ok" } else { "FAILED" }, start.elapsed().as_secs()));
    if status.success() { Ok(()) } else { Err(format!("{name} failed: {command:?}")) }
}
