//! `cargo xtask`: the project's own commands. Picks one and runs it; each is a file here.

mod bench_check;
mod ci;
mod crash_view;
mod kill_test;
mod runtimes;
mod seeds;
mod shell;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  bench-check  instructions of every hot path and bytes of an idle connection against bench/baseline.json (needs valgrind):
               --save, --spread, or parts of paths' names
  ci           everything that CI runs, in its order
  crash-view   power cuts at any moment of a run of the view's database, from a recording (needs strace): --images N, --commits N, --seed N,
               --trace DIRECTORY
  kill-test    kill -9 of a server under load: --rounds N, --clients N, --shards N, --driver D, --seed N, --release
  power-cuts   many seeds of the journal on a disk whose power goes: --seeds N, --start N, or --seed N for one
  runtimes     the same shard on each runtime, and stock quinn on tokio, in one table: --seconds N, --rounds N
  shard-calls  what shard threads ask of the kernel under load: nothing that waits (needs strace); --release
  swarm        many seeds of the simulator: --seeds N, --start N, or --seed N for one
  tidy         what no compiler checks: headers, lengths, paths and facts in documents
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    let outcome = match command.as_deref() {
        Some("bench-check") => bench_check::all(&rest),
        Some("ci") => ci::all(&rest),
        Some("crash-view") => crash_view::all(&rest),
        Some("kill-test") => kill_test::all(&rest),
        Some("power-cuts") => seeds::run(&seeds::POWER_CUTS, &rest),
        Some("runtimes") => runtimes::all(&rest),
        Some("shard-calls") => kill_test::shard_calls(&rest),
        Some("swarm") => seeds::run(&seeds::SWARM, &rest),
        Some("tidy") => tidy::run(),
        Some(other) => Err(format!("there is no command {other:?}\n\n{HELP}")),
        None => Err(HELP.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            shell::say(&why);
            ExitCode::FAILURE
        }
    }
}
