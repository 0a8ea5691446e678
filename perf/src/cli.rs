//! The command line: which scenario with which options, and what is printed and written of what came of it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::measure::Machine;
use crate::report::{self, Outcome, Progress, Verdict};
use crate::scenario::capacity::Plan;
use crate::scenario::lossy::Network;
use crate::scenario::options::Options;
use crate::scenario::{self, Failure};

/// Exit status of a run whose books do not agree.
const NOT_CLEAN: u8 = 1;
/// Exit status of a run that has no result.
const FAILED: u8 = 3;

/// Measures a Tern server: starts one or takes a running one, loads it, and checks every message
#[derive(Debug, Parser)]
#[command(
    name = "tern-perf",
    version,
    after_help = "\
Requests leave on a schedule and latency counts from the intended time. Every receiver checks order and content.
Exit status: 0 clean; 1 something was lost, repeated, reordered or altered; 2 wrong options; 3 no result.
A result taken on a busy machine says VOID."
)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Log-ins per second, handshake CPU, a storm: --connections, --rate (0: all at once)
    Connect,
    /// Memory and CPU of idle connections: --connections, --duration
    Idle,
    /// Durable direct messages: saturation, and latency at 20 % of it or at --rate
    Direct,
    /// One group: --members, --offline, --rate
    Group,
    /// A busy hour: many groups, reads, typing, reconnects: --connections, --rate
    Groups,
    /// Everybody drops and resumes: --connections, --rate (0: all at once)
    Reconnect,
    /// Everybody changes address in the middle of traffic: --connections
    Migrate,
    /// Half of a group stops reading: --members
    SlowReaders,
    /// Loss, delay, blackout on both transports: --connections, --rate
    Lossy(Network),
    /// From coming or going to those who watch: --connections, --rate
    Presence,
    /// What this machine can do at best
    Floor,
    /// From users to nodes, cores, memory, bandwidth and disk
    Capacity(Plan),
    /// group at 100 to 50,000 members and idle at 1,000 to 50,000 connections, as plots
    Growth,
    /// All of it, at sizes that two cores can do
    Suite {
        #[command(flatten)]
        network: Network,
        #[command(flatten)]
        plan: Plan,
    },
    /// Compares two result folders
    Diff {
        /// The one before
        before: PathBuf,
        /// The one after
        after: PathBuf,
    },
}

impl Scenario {
    const fn name(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Idle => "idle",
            Self::Direct => "direct",
            Self::Group => "group",
            Self::Groups => "groups",
            Self::Reconnect => "reconnect",
            Self::Migrate => "migrate",
            Self::SlowReaders => "slow-readers",
            Self::Lossy(_) => "lossy",
            Self::Presence => "presence",
            Self::Floor => "floor",
            Self::Capacity(_) => "capacity",
            Self::Growth => "growth",
            Self::Suite { .. } => "suite",
            Self::Diff { .. } => "diff",
        }
    }

    fn run(&self, options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
        match self {
            Self::Connect => scenario::connect::run(options, progress),
            Self::Idle => scenario::idle::run(options, progress),
            Self::Direct => scenario::direct::run(options, progress),
            Self::Group => scenario::group::run(options, progress),
            Self::Groups => scenario::groups::run(options, progress),
            Self::Reconnect => scenario::reconnect::run(options, progress),
            Self::Migrate => scenario::migrate::run(options, progress),
            Self::SlowReaders => scenario::slow_readers::run(options, progress),
            Self::Lossy(network) => scenario::lossy::run(options, network, progress),
            Self::Presence => scenario::presence::run(options, progress),
            Self::Floor => scenario::floor::run(options, progress),
            Self::Capacity(plan) => scenario::capacity::run(options, plan, progress),
            Self::Growth => scenario::growth::run(options, progress),
            Self::Suite { network, plan } => scenario::suite::run(options, network, plan, progress),
            Self::Diff { .. } => Ok(Vec::new()),
        }
    }
}

/// Reads the command line and does what it says.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = if let Scenario::Diff { before, after } = &cli.scenario {
        report::diff(before, after).map(|()| ExitCode::SUCCESS).map_err(Into::into)
    } else {
        measure(&cli.scenario, &cli.options)
    };
    outcome.unwrap_or_else(|why: Failure| {
        complain(&format!("tern-perf: {why}"));
        ExitCode::from(FAILED)
    })
}

/// Runs what a command line says, without printing: for tests of the scenarios themselves.
///
/// # Errors
/// When the line is wrong, or when there is no result.
pub fn outcomes(line: &[&str]) -> Result<Vec<Outcome>, Failure> {
    let cli = Cli::try_parse_from(line)?;
    cli.scenario.run(&cli.options, &Progress::new(cli.scenario.name()))
}

fn measure(scenario: &Scenario, options: &Options) -> Result<ExitCode, Failure> {
    let machine = Machine::read();
    let progress = Progress::new(scenario.name());
    let outcomes = scenario.run(options, &progress)?;
    progress.finish();
    let folder = options.out.clone().unwrap_or_else(|| PathBuf::from("perf-results").join(scenario.name()));
    let page = if options.no_report { None } else { Some(report::write_folder(&folder, &machine, &outcomes)?) };
    if options.json {
        print(&report::to_json_all(&machine, &outcomes).to_string());
    } else {
        report::print_table(&outcomes);
    }
    if let Some(page) = page {
        complain(&format!("report: {}", page.display()));
    }
    let clean = outcomes.iter().all(|outcome| outcome.verdict() != Verdict::NotClean);
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(NOT_CLEAN) })
}

#[expect(clippy::print_stdout, reason = "the result is what a command prints")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "errors and hints of a command go to stderr")]
fn complain(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::scenario::options::Transport;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_stand_behind_the_scenario() {
        let cli =
            Cli::try_parse_from(["tern-perf", "group", "--members", "50", "--transport", "ws", "--duration", "3s"])
                .expect("parses");
        assert_eq!((cli.options.members, cli.options.transport), (Some(50), Transport::Ws));
    }

    #[test]
    fn a_server_is_started_or_named() {
        assert!(Cli::try_parse_from(["tern-perf", "idle", "--spawn", "--server", "a:1"]).is_err());
        assert!(Cli::try_parse_from(["tern-perf", "idle", "--server-pid", "1"]).is_err());
    }
}
