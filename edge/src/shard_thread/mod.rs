//! The thread of one shard: the only loop that does I/O. Decides nothing about chat and blocks only in its own sleep.

mod closings;
mod performer;
mod stepped;
mod turn;

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use quinn_proto::{EndpointConfig, ServerConfig};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tern_core_shard::{Shard, ShardConfig};
use tern_protocol::ShardId;

use crate::aside::Note;
use crate::counters::Counters;
use crate::mailbox::Inbox;
use crate::node::{NodeConfig, TokenVerifier};
use crate::quic::{PortLock, Quic};
use crate::ring::{Bell, Links};
use crate::runtime::{Chosen, Driver, Runtime};
use crate::store::Store;
use crate::websocket::WebSockets;

pub(crate) use performer::{Parcel, Performer, Stray, Transport};
pub use stepped::SteppedShard;

/// Silence after which a client is gone, over QUIC and WebSocket alike. Unit: time. Under a minute; a client speaks, or answers a ping, twice
/// within it.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(55);

/// What a shard shows to other threads.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) counters: Counters,
    caught_up: AtomicBool,
    /// Why a partition of this shard cannot go on.
    stopped: OnceLock<String>,
    /// Where it is noted that an entity cannot be read, if anybody looks.
    pub(crate) aside: OnceLock<mpsc::SyncSender<Note>>,
}

impl Status {
    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    fn set_caught_up(&self) {
        self.caught_up.store(true, Ordering::Release);
    }

    /// Why a partition of this shard cannot go on, if one cannot.
    pub(crate) fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// The first reason is the one to tell.
    fn stop(&self, why: String) {
        self.stopped.get_or_init(|| why);
    }
}

/// Everything that one shard's thread is given.
pub(crate) struct Seat<S> {
    pub(crate) shard: ShardId,
    pub(crate) config: NodeConfig,
    pub(crate) socket: UdpSocket,
    pub(crate) lock: Arc<PortLock>,
    pub(crate) endpoint: EndpointConfig,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) store: S,
    pub(crate) verifier: Arc<dyn TokenVerifier>,
    pub(crate) links: Links<Parcel>,
    pub(crate) inbox: Inbox,
    pub(crate) bell: Arc<Bell>,
    pub(crate) status: Arc<Status>,
}

/// Starts a shard's thread. It reports once which driver it has, or why none.
pub(crate) fn spawn<S: Store>(seat: Seat<S>, report: mpsc::Sender<io::Result<Chosen>>) -> io::Result<JoinHandle<()>> {
    let name = format!("tern-shard-{}", seat.shard.raw());
    std::thread::Builder::new().name(name).spawn(move || {
        let _abort = AbortOnPanic;
        if seat.config.pin {
            pin(usize::from(seat.shard.raw()));
        }
        // The ring belongs to the thread that makes it (SINGLE_ISSUER).
        let runtime = Runtime::new(seat.config.driver);
        let outcome = match runtime {
            Ok((mut runtime, chosen)) => runtime.block_on(run(seat, chosen, report.clone())),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            // Only a node that has given up the start does not listen.
            let _ = report.send(Err(error));
        }
    })
}

/// Sets a shard up, says so, and runs it. Errors are those of the set-up.
async fn run<S: Store>(seat: Seat<S>, chosen: Chosen, report: mpsc::Sender<io::Result<Chosen>>) -> io::Result<()> {
    let lock = Arc::clone(&seat.lock);
    let (thread, driver) = set_up(seat)?;
    // The node may have given up because of another shard; it then stops this one too.
    let _ = report.send(Ok(chosen));
    drop(report);
    thread.run(driver).await;
    drop(lock);
    Ok(())
}

/// A shard that has not turned yet, and what it sleeps on. Only inside of `Runtime::block_on`.
fn set_up<S: Store>(seat: Seat<S>) -> io::Result<(turn::ShardThread<S>, Driver)> {
    let Seat { shard, config, socket, lock: _, endpoint, server, store, verifier, links, inbox, bell, status } = seat;
    let now = config.clock.now();
    let shards = (shard.raw(), config.placement.shards());
    let connections_max = config.limits.sessions_max.saturating_add(CONNECTIONS_SPARE);
    let quic = Quic::new(socket, endpoint, server, shards, connections_max, Arc::clone(&status))?;
    let driver = Driver::new(quic.socket(), &bell, now.instant)?;
    let mut core = ShardConfig::new(shard, config.placement);
    core.run = config.run;
    core.now = now.timestamp;
    core.limits = config.limits;
    let performer = Performer::new(Shard::new(core), store, verifier, links, status, now);
    Ok((turn::ShardThread::new(performer, quic, WebSockets::new(), inbox, bell, config.clock), driver))
}

/// Connections beyond the core's limit on sessions, so that the core can tell a client too many that the server is full.
const CONNECTIONS_SPARE: usize = 1024;

/// Binds the calling thread to the `n`th core that it may run on. Without as many cores it runs where it likes.
fn pin(n: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let Some(core) = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).nth(n) else { return };
    let mut one = CpuSet::new();
    one.set(core);
    if let Err(error) = sched_setaffinity(None, &one) {
        tracing::warn!(core, %error, "cannot pin a shard to its core");
    }
}

/// Ends the process when a shard panics: to crash, replay and resume is safer than to go on with a state that may be wrong.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
