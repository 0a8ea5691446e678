//! Runs commands at the root of the project and says what runs.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
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

/// Runs a test command to its end, passes on what it prints, and closes with one line that counts all of its tests.
///
/// # Errors
/// That it could not be started, that it failed, or that it ran no test.
#[expect(clippy::print_stdout, reason = "the closing line of a test run belongs beside the runner's own")]
pub(crate) fn run_tests(name: &str, command: &mut Command) -> Result<(), String> {
    say(&format!("--- {name}"));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: cannot start {:?}: {error}", command.get_program()))?;
    let mut counts = [0, 0];
    for line in child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line.map_err(|error| format!("{name}: {error}"))?;
        for (count, what) in counts.iter_mut().zip([" passed;", " failed;"]) {
            *count += counted(&line, what);
        }
        println!("{line}");
    }
    let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
    let [passed, failed] = counts;
    println!("{passed} passed, {failed} failed");
    if status.success() && passed > 0 { Ok(()) } else { Err(format!("{name} failed: {command:?}")) }
}

/// The number before a word in one of cargo's closing lines.
fn counted(line: &str, what: &str) -> u64 {
    let closing = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(what));
    closing.and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let line =
            "test result: FAILED. 37 passed; 9 failed; 0 ignored; 0 measured; 0 filtered out; finished in 76.13s";
        assert_eq!((counted(line, " passed;"), counted(line, " failed;")), (37, 9));
        assert_eq!(counted("test passed; 5", " passed;"), 0);
    }
}
