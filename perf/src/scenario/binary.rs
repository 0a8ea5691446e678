//! Finds the server to measure. Run by cargo, it is built first: a result of yesterday's server is worse than none.

use std::path::PathBuf;
use std::process::Command;

use super::options::Options;
use super::stage::Failure;

/// The `tern` that `--spawn` starts.
///
/// # Errors
/// When there is none, with the command that makes one.
pub(super) fn find(options: &Options) -> Result<PathBuf, Failure> {
    if let Some(binary) = &options.binary {
        return Ok(std::path::absolute(binary)?);
    }
    let own = std::env::current_exe()?;
    let directory = own.parent().ok_or("this program is in no directory")?;
    let binary = directory.join("tern");
    // Set by `cargo run` only.
    if let (Some(cargo), Some(_)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "tern-edge", "--bin", "tern"]);
        if directory.ends_with("release") {
            build.arg("--release");
        }
        if !build.status()?.success() {
            return Err("the server does not build: cargo build --release says why".into());
        }
    }
    if binary.is_file() {
        return Ok(binary);
    }
    let why = format!(
        "there is no server at {}: build it with `cargo build --release`, or name one with --binary",
        binary.display()
    );
    Err(why.into())
}
