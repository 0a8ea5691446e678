//! Starts everything in order, waits for a signal, stops everything in order. Decides when, never how.

mod check;
mod directory;
mod error;
mod start;
mod stop;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::log::Log;

pub use check::{CheckError, check};
pub use error::ServeError;
pub use stop::Exit;

/// Threads of the control plane. Requests of people are few; hashing has its own.
const CONTROL_THREADS: usize = 2;
/// Blocking threads beside the hashing ones: name look-ups and files of tokio itself.
const BLOCKING_THREADS_EXTRA: usize = 4;

/// Runs the server until it is told to stop.
///
/// # Errors
/// When it cannot start. Nothing runs then.
pub fn run(config: &Config, log: &Log) -> Result<Exit, ServeError> {
    raise_open_files();
    let runtime = runtime(config)?;
    let running = start::start(config, log, &runtime)?;
    let exit = runtime.block_on(stop::wait(config, &running));
    let exit = stop::stop(running, &runtime, exit);
    // What is still open is idle or hopeless by now: sessions are gone, and requests had the time of the drain.
    runtime.shutdown_background();
    Ok(exit)
}

/// Each TCP client is a file. The soft limit is there for programs that use `select`, which this one does not.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_err() {
        tracing::debug!(limit = limit.current, "the limit of open files stays");
    }
}

fn runtime(config: &Config) -> Result<Runtime, ServeError> {
    let blocking = config.process.auth.hash_workers + BLOCKING_THREADS_EXTRA;
    let runtime = Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .max_blocking_threads(blocking)
        .thread_name("tern-control")
        .enable_all()
        .build();
    runtime.map_err(ServeError::Runtime)
}
