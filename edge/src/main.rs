//! The binary `tern`: parses, validates, runs. Exit codes: 0 stopped as asked; 1 cannot start or run, and said why; 2 wrong flags;
//! 3 the store failed while it served, start it again; 130 and 143 a second SIGINT or SIGTERM.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tern_edge::cli::Args;
use tern_edge::log::Log;
use tern_edge::serve;

/// Shards free what the journal allocated and the other way round; this one does that without taking the other thread's lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|message| {
        // Not a log line: it is for whoever typed the command.
        let _ = writeln!(std::io::stderr(), "tern: {message}");
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> Result<ExitCode, String> {
    let (layers, config) = args.load().map_err(text)?;
    if args.print_config {
        let _ = write!(std::io::stdout(), "{}", layers.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    if args.check_config {
        serve::check(&config).map_err(text)?;
        let _ = writeln!(std::io::stdout(), "the configuration is good");
        return Ok(ExitCode::SUCCESS);
    }
    let log = Log::start(&config.process.log).map_err(text)?;
    let exit = serve::run(&config, &log).map_err(text)?;
    Ok(ExitCode::from(exit.code()))
}

fn text(error: impl Display) -> String {
    error.to_string()
}
