//! Why the server stops, and the order of stopping: accept nothing, tell clients when to come back, wait for them, stop the shards,
//! close the store. A second signal ends the process at once: nothing acknowledged is lost by that either.

use std::sync::PoisonError;
use std::time::Duration;

use tern_persistence::EmbeddedHandle;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, interval, sleep, timeout_at};

use super::start::{Running, failure};
use crate::admin::Phase;
use crate::config::Config;

/// How often certificate files are looked at. Unit: time.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is looked whether sessions are left. Unit: time.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// How often it is looked whether the store still works. Unit: time. Meanwhile clients are told that nothing is accepted.
const STORE_INTERVAL: Duration = Duration::from_millis(250);

/// A second signal this soon is the first one again: `timeout` and terminals signal the process and then its group. Unit: time.
const SECOND_SIGNAL_AFTER: Duration = Duration::from_millis(500);

/// How the server ended: the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: as asked.
    Clean,
    /// 1: as asked, but the last checkpoint was not written; the next start replays more.
    Unclean,
    /// 3: the store failed. What it wrote last may or may not be on the disk, and only a new process that reads the disk can know:
    /// the supervisor's part is to start one.
    StoreFailed,
}

/// Why it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was told to.
    Asked,
    /// It cannot go on.
    StoreFailed,
}

impl Exit {
    /// For the operating system.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Unclean => 1,
            Self::StoreFailed => 3,
        }
    }
}

/// What may be asked for from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Stop(i32),
    Reload,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop(SignalKind::interrupt().as_raw_value()),
            _ = self.terminate.recv() => Asked::Stop(SignalKind::terminate().as_raw_value()),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}

/// Serves until a signal or a failure of the store, then drains.
pub(super) async fn wait(config: &Config, running: &Running) -> std::io::Result<Cause> {
    let mut signals = Signals::listen()?;
    let mut look = interval(CERTIFICATE_INTERVAL);
    let mut look_at_store = interval(STORE_INTERVAL);
    let sessions = || running.node.control().sessions();
    let cause = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop(signal) => {
                    tracing::info!(signal, sessions = sessions(), "stopping: clients are told when to come back");
                    break Cause::Asked;
                }
                Asked::Reload => reload(running),
            },
            _ = look_at_store.tick() => {
                let stopped = || running.node.control().stopped().map(str::to_owned);
                if let Some(reason) = failure(&running.store).or_else(stopped) {
                    tracing::error!(
                        %reason,
                        sessions = sessions(),
                        "the store failed: clients are told when to come back, then this process ends with status 3 and must be \
                         started again; nothing acknowledged is lost"
                    );
                    break Cause::StoreFailed;
                }
            }
            _ = look.tick() => {
                if running.certificates.is_stale(running.clock.now().timestamp) {
                    reload(running);
                }
            }
        }
    };
    tokio::spawn(end_on_second(signals));
    drain(config, running).await;
    Ok(cause)
}

async fn end_on_second(mut signals: Signals) {
    let first = Instant::now();
    loop {
        let asked = signals.next().await;
        if let Asked::Stop(signal) = asked
            && first.elapsed() >= SECOND_SIGNAL_AFTER
        {
            tracing::warn!(signal, "second signal: ending at once");
            // The log's writer has a moment: `exit` runs no destructors.
            sleep(DRAIN_INTERVAL).await;
            std::process::exit(128 + signal);
        }
    }
}

fn reload(running: &Running) {
    match running.certificates.reload(running.clock.now().timestamp) {
        Ok(info) => tracing::info!(fingerprint = info.fingerprint, "certificate read again"),
        Err(error) => tracing::error!(%error, "the certificate in use stays"),
    }
}

async fn drain(config: &Config, running: &Running) {
    running.status.enter(Phase::Draining);
    running.accepting.abort();
    let control = running.node.control();
    let deadline = Instant::now() + config.process.drain_timeout;
    control.drain(u32::try_from(config.process.drain_spread.as_millis()).unwrap_or(u32::MAX));
    let gone = async {
        let mut look = interval(DRAIN_INTERVAL);
        while control.sessions() > 0 || running.http.in_flight() > 0 {
            look.tick().await;
        }
    };
    if timeout_at(deadline, gone).await.is_err() {
        tracing::warn!(sessions = control.sessions(), "clients are still here after drain_timeout: cutting them off");
    }
}

/// Ends shards and store. Blocks for as long as they take.
pub(super) fn stop(running: Running, _runtime: &Runtime, waited: std::io::Result<Cause>) -> Exit {
    let cause = waited.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot listen for signals: stopping");
        Cause::Asked
    });
    let Running { node, store, _directory, .. } = running;
    node.control().stop();
    node.join();
    let handle = store.lock().unwrap_or_else(PoisonError::into_inner).take();
    let closed = handle.map_or(Ok(()), EmbeddedHandle::shutdown);
    match closed {
        _ if cause == Cause::StoreFailed => {
            tracing::error!(
                "stopped: the store had failed; the next start reads the disk and goes on with what is there"
            );
            Exit::StoreFailed
        }
        Ok(()) => {
            tracing::info!("stopped");
            Exit::Clean
        }
        Err(error) => {
            tracing::error!(%error, "stopped, not cleanly; nothing acknowledged is lost");
            Exit::Unclean
        }
    }
}
