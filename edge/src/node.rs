//! The shards of one process: starts their threads, and is how the control plane speaks to them. Never touches a socket or a session
//! itself after the start, and never decides what a request means.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;
use tern_core_shard::Limits;
use tern_core_shard::io::{Claims, Reply, Request};
use tern_protocol::placement::Placement;
use tern_protocol::{CloseCode, ShardId, Timestamp};
use tokio::sync::oneshot;

pub use crate::counters::{CLOSE_CODE_COUNT, ShardCounters};
pub use crate::quic::{ALPN, UnsuitableTls};
pub use crate::runtime::DriverKind;

use crate::aside::AsideBoard;
use crate::clock::Clock;
use crate::mailbox::{Letter, Mailbox, mailbox};
use crate::quic::{BindError, Keys, SocketGroup, bind_group, server_config};
use crate::ring::{Bell, mesh};
use crate::runtime;
use crate::shard_thread::{self, Seat, Status};
use crate::store::{self, Store};

/// What a node must be told.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// How many shards there are, and what each owns.
    pub placement: Placement,
    /// Bounds of each shard.
    pub limits: Limits,
    /// A number that no other run has.
    pub run: u64,
    /// Key of stateless resets and of address tokens. The same from run to run: then a client of an earlier run is told at once that its
    /// connection is gone, and need not wait for a timeout.
    pub secret: [u8; 32],
    /// TLS sessions that all shards together remember for resumption; 0: what the TLS configuration says.
    pub tls_sessions_max: usize,
    /// Where QUIC is served. An unspecified address serves IPv4 and IPv6; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How shards wait for the kernel.
    pub driver: DriverKind,
    /// Whether shard `n` is bound to the `n`th core that this process may use.
    pub pin: bool,
    /// The process's clock.
    pub clock: Clock,
}

/// Checks access tokens. Called on shard threads: pure computation, no waiting.
pub trait TokenVerifier: Send + Sync {
    /// What the token says.
    ///
    /// # Errors
    /// `BadToken` or `ExpiredToken`: what the connection is closed with.
    fn verify(&self, token: &[u8], now: Timestamp) -> Result<Claims, CloseCode>;
}

/// A WebSocket whose upgrade was answered, taken apart: the TLS session goes on on a shard.
#[derive(Debug)]
pub struct HandedSocket {
    /// The connection, out of its runtime.
    pub tcp: TcpStream,
    /// The TLS session on it.
    pub tls: rustls::ServerConnection,
    /// Plaintext that the HTTP server has read beyond the request.
    pub read_buf: Bytes,
}

/// Why a node did not start.
#[derive(Debug)]
pub enum StartError<E> {
    /// Another program, or another server, serves this port.
    PortTaken(SocketAddr),
    /// The sockets could not be made.
    Bind(io::Error),
    /// The TLS configuration does not fit QUIC.
    Tls(UnsuitableTls),
    /// The log or the view did not open, or gave not exactly one store per shard.
    Store(E),
    /// The number of stores is not the number of shards.
    StoreCount(usize),
    /// The kernel refused the driver that was asked for; the text says what can be done about it.
    Driver(io::Error, &'static str),
    /// A thread or its bell could not be made.
    Thread(io::Error),
}

impl<E: fmt::Display> fmt::Display for StartError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTaken(address) => {
                write!(f, "UDP port taken: another program serves {address}; stop it or listen elsewhere")
            }
            Self::Bind(error) => write!(f, "cannot open the UDP sockets: {error}"),
            Self::Tls(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::StoreCount(count) => write!(f, "{count} stores were opened, which is not one per shard"),
            Self::Driver(error, advice) => write!(f, "cannot start the shards' driver: {error}; {advice}"),
            Self::Thread(error) => write!(f, "cannot start the shards: {error}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for StartError<E> {}

impl<E> From<BindError> for StartError<E> {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Taken(address) => Self::PortTaken(address),
            BindError::Io(error) => Self::Bind(error),
        }
    }
}

/// A shard has as many requests waiting as it may: nothing was done, try again soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded;

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shard has too many requests waiting")
    }
}

impl std::error::Error for Overloaded {}

/// The same TLS configuration with resumable sessions of a shard's own: a table that all shards share would be a lock between them.
/// A client that comes back to its home shard finds its session there.
fn own_sessions(tls: &Arc<rustls::ServerConfig>, count: usize) -> Arc<rustls::ServerConfig> {
    if count == 0 {
        return Arc::clone(tls);
    }
    let mut own = rustls::ServerConfig::clone(tls);
    own.session_storage = rustls::server::ServerSessionMemoryCache::new(count);
    Arc::new(own)
}

/// Running shards. Dropping it stops them and waits for their threads.
#[derive(Debug)]
pub struct Node {
    control: Control,
    threads: Vec<JoinHandle<()>>,
    address: SocketAddr,
    driver: DriverKind,
}

impl Node {
    /// Binds the sockets, opens the stores and starts one thread per shard. Clients are answered once everything that was durable before
    /// has been applied: see [`Control::is_caught_up`].
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    #[expect(clippy::needless_pass_by_value, reason = "the node keeps what it is started with")]
    pub fn start<S: Store, E>(
        config: NodeConfig,
        tls: Arc<rustls::ServerConfig>,
        verifier: Arc<dyn TokenVerifier>,
        open_store: impl FnOnce(Vec<store::Bell>) -> Result<Vec<S>, E>,
    ) -> Result<Self, StartError<E>> {
        let shards = config.placement.shards();
        let keys = Keys::new(&config.secret);
        let servers = (0..shards)
            .map(|_| {
                server_config(&keys, &own_sessions(&tls, config.tls_sessions_max / usize::from(shards))).map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(StartError::Tls)?;
        let SocketGroup { sockets, address, lock } = bind_group(config.listen, shards)?;
        let bells = (0..shards)
            .map(|_| Bell::new().map(Arc::new))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Thread)?;
        let stores = open_store(bells.iter().map(store_bell).collect()).map_err(StartError::Store)?;
        if stores.len() != sockets.len() {
            return Err(StartError::StoreCount(stores.len()));
        }

        let lock = Arc::new(lock);
        let (report, reports) = mpsc::channel();
        let (notes, aside) = AsideBoard::new();
        let mut shared = Shared { mailboxes: Vec::new(), statuses: Vec::new(), aside, keys };
        let mut seats = Vec::new();
        let parts = sockets.into_iter().zip(stores).zip(bells.iter().zip(mesh(&bells))).zip((0..shards).zip(servers));
        for (((socket, store), (bell, links)), (shard, server)) in parts {
            let (mailbox, inbox) = mailbox(Arc::clone(bell));
            let status = Arc::new(Status::default());
            let _ = status.aside.set(notes.clone());
            shared.mailboxes.push(mailbox);
            shared.statuses.push(Arc::clone(&status));
            seats.push(Seat {
                shard: ShardId::from_raw(shard),
                config: config.clone(),
                socket,
                lock: Arc::clone(&lock),
                endpoint: crate::quic::endpoint_config(&shared.keys, shard, shards),
                server,
                store,
                verifier: Arc::clone(&verifier),
                links,
                inbox,
                bell: Arc::clone(bell),
                status,
            });
        }

        let mut node =
            Self { control: Control { shared: Arc::new(shared) }, threads: Vec::new(), address, driver: config.driver };
        for seat in seats {
            node.threads.push(shard_thread::spawn(seat, report.clone()).map_err(StartError::Thread)?);
        }
        drop(report);
        node.await_reports(&reports, shards)?;
        Ok(node)
    }

    /// Waits until each thread has its driver. On an error `self` is dropped, which stops those that run.
    fn await_reports<E>(
        &mut self,
        reports: &mpsc::Receiver<io::Result<runtime::Chosen>>,
        shards: u16,
    ) -> Result<(), StartError<E>> {
        for _ in 0..shards {
            let chosen = reports.recv().map_err(|_| StartError::Thread(io::Error::other("a shard's thread ended")))?;
            let chosen = chosen.map_err(|error| {
                let advice = runtime::advice(&error);
                StartError::Driver(error, advice)
            })?;
            if let Some(refused) = chosen.refused
                && self.driver != chosen.kind
            {
                let advice = runtime::advice(&refused);
                tracing::warn!(%refused, advice, "io_uring is not available: using epoll");
            }
            self.driver = chosen.kind;
        }
        Ok(())
    }

    /// How tokio tasks speak to the shards.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Where QUIC is served; the port that was taken if it was left open.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The driver in use; not [`DriverKind::Auto`].
    #[must_use]
    pub const fn driver(&self) -> DriverKind {
        self.driver
    }

    /// Waits for the threads. They end after [`Control::stop`].
    pub fn join(mut self) {
        self.join_threads();
    }

    fn join_threads(&mut self) {
        for thread in self.threads.drain(..) {
            // A shard that panics aborts the process, so there is no panic to pass on.
            let _ = thread.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.control.stop();
            self.join_threads();
        }
    }
}

/// The control plane's hold on the shards. Cheap to clone; never blocks.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mailboxes: Vec<Mailbox>,
    statuses: Vec<Arc<Status>>,
    aside: AsideBoard,
    keys: Keys,
}

impl Control {
    /// Asks the owner of an entity. The caller bounds how long it waits; dropping the future forgets the answer, not the request.
    ///
    /// # Errors
    /// [`Overloaded`] when too many requests wait, there is no such shard, or it has stopped.
    pub async fn request(&self, shard: ShardId, request: Request) -> Result<Reply, Overloaded> {
        let (reply, answer) = oneshot::channel();
        let mailbox = self.shared.mailboxes.get(usize::from(shard.raw())).ok_or(Overloaded)?;
        mailbox.post(Letter::Request { request, reply }).map_err(|_| Overloaded)?;
        answer.await.map_err(|_| Overloaded)
    }

    /// Gives an upgraded WebSocket to a shard, which closes it when it ends.
    ///
    /// # Errors
    /// The socket, when too much waits or there is no such shard.
    #[expect(clippy::result_large_err, reason = "the socket goes back to its owner, who closes it")]
    pub fn hand_over(&self, shard: ShardId, socket: HandedSocket) -> Result<(), HandedSocket> {
        let Some(mailbox) = self.shared.mailboxes.get(usize::from(shard.raw())) else { return Err(socket) };
        match mailbox.post(Letter::Socket(Box::new(socket))) {
            Ok(()) => Ok(()),
            Err(Letter::Socket(socket)) => Err(*socket),
            Err(Letter::Request { .. }) => unreachable!("the letter that was posted comes back"),
        }
    }

    /// The entities that are set aside because they cannot be read.
    #[must_use]
    pub fn aside(&self) -> Vec<String> {
        self.shared.aside.names()
    }

    /// Tells every session to come back elsewhere within `spread_ms`, and refuses new ones.
    pub fn drain(&self, spread_ms: u32) {
        for mailbox in &self.shared.mailboxes {
            mailbox.order_drain(spread_ms);
        }
    }

    /// Closes every session and ends the threads. [`Node::join`] waits for that.
    pub fn stop(&self) {
        for mailbox in &self.shared.mailboxes {
            mailbox.order_stop();
        }
    }

    /// Uses another certificate for connections from here on.
    ///
    /// # Errors
    /// [`UnsuitableTls`]: the one in use stays.
    #[expect(clippy::needless_pass_by_value, reason = "the same form as at the start")]
    pub fn set_tls(&self, tls: Arc<rustls::ServerConfig>) -> Result<(), UnsuitableTls> {
        let server = Arc::new(server_config(&self.shared.keys, &tls)?);
        for mailbox in &self.shared.mailboxes {
            mailbox.order_tls(Arc::clone(&server));
        }
        Ok(())
    }

    /// Whether every shard has applied everything that was durable before this run: clients are answered from then on.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.shared.statuses.iter().all(|status| status.is_caught_up())
    }

    /// Why a partition cannot go on: the log has something that this build must not skip.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.shared.statuses.iter().find_map(|status| status.stopped())
    }

    /// Every shard's numbers, in shard order.
    #[must_use]
    pub fn counters(&self) -> Vec<ShardCounters> {
        self.shared.statuses.iter().map(|status| status.counters.snapshot()).collect()
    }

    /// Live sessions of all shards.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.counters().iter().map(|shard| usize::try_from(shard.sessions).unwrap_or(usize::MAX)).sum()
    }
}

fn store_bell(bell: &Arc<Bell>) -> store::Bell {
    let bell = Arc::clone(bell);
    Arc::new(move || bell.ring())
}
