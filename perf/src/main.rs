//! `tern-perf`: measures a Tern server from outside. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tern_perf::cli::run()
}
