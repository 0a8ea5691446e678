//! The same shard on each runtime, and stock quinn on tokio, side by side: one table. `cargo xtask runtimes` builds all of it and runs this.
//!
//! Every server runs on one core and the one generator that loads them all on another. They are loaded in turns (A B C D, A B C D, ...), so
//! that what the machine does beside it is in all of them alike; the ratio is taken within a turn. Never compares across runs.

mod calls;
mod contender;
mod load;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tern_perf::measure::{Machine, Pace, PressureMeter};

use contender::{Contender, Kind};
use load::{LOADS, Sample};

/// What stands on the command line.
#[derive(Parser)]
struct Args {
    /// The server, built with the feature `glommio`.
    #[arg(long)]
    binary: PathBuf,
    /// The baseline.
    #[arg(long)]
    baseline: PathBuf,
    /// How long each server has each load in each round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How often.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Core of the servers.
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// Core of the generator.
    #[arg(long, default_value_t = 1)]
    client_cpu: usize,
}

/// Why there is no table.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[expect(clippy::print_stderr, reason = "whoever started it reads why there is no table")]
fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("runtimes: {why}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the table is what it is for")]
fn run(args: &Args) -> Result<(), Failure> {
    if args.seconds == 0 || args.rounds == 0 {
        return Err("--seconds and --rounds must be at least 1".into());
    }
    let mut contenders = Vec::new();
    for kind in Kind::ALL {
        contenders.push(Contender::start(kind, args)?);
    }
    let pids: Vec<u32> = contenders.iter().map(Contender::pid).collect();
    let mut pressure = PressureMeter::start(Pace::Saturating, &pids)?;
    let mut samples: Vec<Sample> = Vec::new();
    for round in 0..args.rounds {
        for (at, load) in LOADS.iter().enumerate() {
            for (index, contender) in contenders.iter().enumerate() {
                pressure.restart()?;
                let mut sample = load.run(contender, Duration::from_secs(args.seconds))?;
                (sample.contender, sample.load, sample.round) = (index, at, round);
                sample.others_percent = pressure.stop()?.others_percent;
                samples.push(sample);
            }
        }
    }
    let mut calls = Vec::new();
    for load in &LOADS {
        for contender in &contenders {
            calls.push(load.count_calls(contender)?);
        }
    }
    println!("{}", table::render(&samples, &calls, args, &Machine::read()));
    Ok(())
}
