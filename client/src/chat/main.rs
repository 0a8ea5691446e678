//! `tern-chat`: the terminal client, and its commands for scripts. Parses, runs, reports.

mod args;
mod failure;
mod json;
mod profile;
mod prompt;
mod script;
mod text;
mod tui;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use args::Cli;
use failure::{Cause, Failure};
use profile::Profile;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "tern-chat: {failure}");
            failure.exit_code()
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let profile = Profile::new(cli.common)?;
    match cli.command {
        Some(command) => script::run(&profile, command).await,
        None => chat(&profile).await,
    }
}

/// The terminal client; a session that the server ended is replaced by a new one, if somebody can be asked for the password.
async fn chat(profile: &Profile) -> Result<(), Failure> {
    if !prompt::is_interactive() {
        return Err(Failure::usage("the terminal client needs a terminal; see tern-chat --help for the commands"));
    }
    loop {
        profile.ensure_login().await?;
        match tui::run(profile).await {
            Err(ended) if ended.cause == Cause::LoggedOut => {
                let _ = writeln!(std::io::stderr(), "tern-chat: {ended}");
                profile.store.save(None)?;
            }
            other => return other,
        }
    }
}
