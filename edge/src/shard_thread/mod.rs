//! The thread of one shard: the only loop that does I/O. Takes inputs in a fixed order with a bound on each, feeds them to the core,
//! performs what it asks for, writes, and sleeps. Decides nothing about chat and blocks only in its own sleep.

mod performer;

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use quinn_proto::{EndpointConfig, ServerConfig};
use tern_protocol::ShardId;

use crate::clock::Clock;
use crate::counters::Counters;
use crate::mailbox::Inbox;
use crate::node::{NodeConfig, TokenVerifier};
use crate::quic::PortLock;
use crate::ring::{Bell, Links};
use crate::runtime::{Chosen, Runtime};
use crate::store::Store;

pub(crate) use performer::{Parcel, Performer, Stray, Transport};

/// What a shard shows to other threads.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) counters: Counters,
    caught_up: AtomicBool,
}

impl Status {
    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    fn set_caught_up(&self) {
        self.caught_up.store(true, Ordering::Release);
    }
}

/// Everything that one shard's thread is given.
pub(crate) struct Seat<S> {
    pub(crate) shard: ShardId,
    pub(crate) config: NodeConfig,
    pub(crate) clock: Clock,
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
        let _ = (seat, report);
        let _ = Runtime::new;
    })
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
