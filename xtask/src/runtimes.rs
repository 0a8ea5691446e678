//! `cargo xtask runtimes`: builds the server with every runtime and the baseline, and runs `perf/examples/runtimes`, which makes the table.

use crate::shell::{cargo, run, target_directory};

/// Builds in release and runs it; `words` go to it: `--seconds N`, `--rounds N`.
///
/// # Errors
/// That something does not build, or a server was not clean.
pub(crate) fn all(words: &[String]) -> Result<(), String> {
    let server = ["build", "--release", "--package", "tern-edge", "--bin", "tern", "--features", "glommio"];
    run("build the server", &mut cargo(&server))?;
    let others = ["build", "--release", "--package", "tern-perf", "--example", "stock-quinn", "--example", "runtimes"];
    run("build the baseline and the generator", &mut cargo(&others))?;
    let built = target_directory().join("release");
    let examples = built.join("examples");
    let mut comparison = std::process::Command::new(examples.join("runtimes"));
    comparison.arg("--binary").arg(built.join("tern")).arg("--baseline").arg(examples.join("stock-quinn")).args(words);
    run("runtimes", &mut comparison)
}
