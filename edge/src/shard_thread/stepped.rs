//! One shard without its thread: the same loop, sockets and bounds, but every turn is taken by hand, on the caller's thread and at the
//! caller's time. For measuring what a turn costs; the server never makes one. Never sleeps longer than it takes to look around.

use std::future::{self, Future};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::{fmt, io};

use tern_core_shard::io::{Reply, Request};
use tern_protocol::ShardId;
use tokio::sync::oneshot;

use super::turn::ShardThread;
use super::{Seat, Status, set_up};
use crate::clock::Moment;
use crate::mailbox::{Letter, Mailbox, mailbox};
use crate::node::{HandedSocket, NodeConfig, ShardCounters, TokenVerifier};
use crate::quic::{Keys, PortLock, SocketGroup, bind_group, endpoint_config, server_config};
use crate::ring::{Bell, mesh};
use crate::runtime::{Driver, Runtime};
use crate::store::Store;

/// Turns in which a request that needs nothing from outside is answered. Unit: turns.
const ANSWER_TURNS_MAX: usize = 64;

/// One shard that owns everything, without a thread.
pub struct SteppedShard<S> {
    // Before the runtime: its sockets belong to it.
    thread: ShardThread<S>,
    driver: Driver,
    runtime: Runtime,
    mailbox: Mailbox,
    bell: Arc<Bell>,
    status: Arc<Status>,
    address: SocketAddr,
    _lock: Arc<PortLock>,
}

impl<S: Store> SteppedShard<S> {
    /// Binds the socket and sets the shard up. `seed`: of all that quinn-proto draws at random, so that two runs do the same.
    ///
    /// # Errors
    /// What the kernel refused; a TLS configuration that does not fit QUIC; a configuration of more than one shard.
    pub fn new(
        config: NodeConfig,
        tls: &rustls::ServerConfig,
        verifier: Arc<dyn TokenVerifier>,
        store: S,
        seed: [u8; 32],
    ) -> io::Result<Self> {
        if config.placement.shards() != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "one shard can be stepped, not several"));
        }
        let keys = Keys::new(&config.secret);
        let server = Arc::new(server_config(&keys, tls).map_err(io::Error::other)?);
        let mut endpoint = endpoint_config(&keys, 0, 1);
        endpoint.rng_seed(Some(seed));
        let group = bind_group(config.listen, 1).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let SocketGroup { sockets, address, lock } = group;
        let bell = Arc::new(Bell::new()?);
        let ends = sockets.into_iter().zip(mesh(&[Arc::clone(&bell)])).next();
        let (socket, links) = ends.ok_or_else(|| io::Error::other("no socket for the shard"))?;
        let (mailbox, inbox) = mailbox(Arc::clone(&bell));
        let status = Arc::new(Status::default());
        let lock = Arc::new(lock);
        let (mut runtime, _) = Runtime::new(config.driver)?;
        let seat = Seat {
            shard: ShardId::from_raw(0),
            config,
            socket,
            lock: Arc::clone(&lock),
            endpoint,
            server,
            store,
            verifier,
            links,
            inbox,
            bell: Arc::clone(&bell),
            status: Arc::clone(&status),
        };
        let (thread, driver) = runtime.block_on(async { set_up(seat) })?;
        Ok(Self { thread, driver, runtime, mailbox, bell, status, address, _lock: lock })
    }

    /// Looks for what has come in on any socket, and takes one turn. Returns whether something is left for the next one.
    pub fn step(&mut self, now: Moment) -> bool {
        let Self { thread, driver, runtime, bell, .. } = self;
        runtime.block_on(async {
            look_around(thread, driver, bell).await;
            thread.expect_packets();
            thread.turn(now, driver)
        })
    }

    /// Has a request of the control plane answered. `None`: it was not, in a number of turns that is more than enough.
    pub fn ask(&mut self, request: Request, now: Moment) -> Option<Reply> {
        let (reply, mut answer) = oneshot::channel();
        self.mailbox.post(Letter::Request { request, reply }).ok()?;
        for _ in 0..ANSWER_TURNS_MAX {
            self.step(now);
            if let Ok(reply) = answer.try_recv() {
                return Some(reply);
            }
        }
        None
    }

    /// Gives an upgraded WebSocket to the shard.
    ///
    /// # Errors
    /// The socket, when too many wait to be taken over.
    #[expect(clippy::result_large_err, reason = "the socket goes back to its owner, who closes it")]
    pub fn hand_over(&mut self, socket: HandedSocket) -> Result<(), HandedSocket> {
        match self.mailbox.post(Letter::Socket(Box::new(socket))) {
            Ok(()) => Ok(()),
            Err(Letter::Socket(socket)) => Err(*socket),
            Err(Letter::Request { .. }) => unreachable!("the letter that was posted comes back"),
        }
    }

    /// Where QUIC is served.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The shard's numbers, as of the end of the last turn.
    pub fn counters(&self) -> ShardCounters {
        self.status.counters.snapshot()
    }
}

/// Sleeps, and is woken at once. The bell rings only after the shard sleeps: a driver that finds it rung need not ask the kernel for more.
async fn look_around<S: Store>(thread: &mut ShardThread<S>, driver: &mut Driver, bell: &Bell) {
    let mut sleep = pin!(thread.sleep(false, driver));
    let mut is_rung = false;
    future::poll_fn(|cx| {
        let woken = sleep.as_mut().poll(cx);
        if woken.is_pending() && !std::mem::replace(&mut is_rung, true) {
            bell.ring_always();
        }
        woken
    })
    .await;
}

impl<S> fmt::Debug for SteppedShard<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteppedShard").field("address", &self.address).finish_non_exhaustive()
    }
}
