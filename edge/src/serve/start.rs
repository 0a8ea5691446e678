//! The order of starting: directory, keys, certificate, admin listener, ports, store and shards, catching up, public listener.
//! Each failure ends it with a sentence for the operator; what was started is stopped by being dropped.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tern_core_shard::io::Request;
use tern_persistence::{Embedded, EmbeddedHandle, OpenError};
use tern_protocol::ShardId;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use super::directory::DataDirectory;
use super::error::ServeError;
use crate::admin::{self, Phase, Status};
use crate::auth::{AccessTokens, Auth, AuthParts, Keys, Owners, ReplyFuture, TokenRules, random};
use crate::certificate::Certificates;
use crate::clock::{self, Clock, Moment};
use crate::config::{Config, DriverChoice};
use crate::http::{self, HttpCounters, Listener, RouterParts, Sockets, Timeouts, Upgrades, bind};
use crate::log::Log;
use crate::metrics::{Snapshot, Sources};
use crate::node::{Control, DriverKind, HandedSocket, Node, NodeConfig, StartError};

/// How often it is looked whether the shards have caught up. Unit: time.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(2);
/// Connections to the admin listener at once. Unit: connections. Probes and a scraper or two.
const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Free ports are looked for so often when `listen` leaves the port open: one must be free for UDP and TCP alike.
const PORT_ATTEMPTS: usize = 16;

/// Everything that runs.
pub(super) struct Running {
    pub(super) node: Node,
    pub(super) store: Arc<Mutex<Option<EmbeddedHandle>>>,
    pub(super) status: Arc<Status>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) clock: Clock,
    pub(super) http: Arc<HttpCounters>,
    /// Ends accepting when it is aborted.
    pub(super) accepting: AbortHandle,
    /// Last: nobody else may have the directory before all of the above is gone.
    pub(super) _directory: DataDirectory,
}

/// Starts everything. Returns when clients can connect.
pub(super) fn start(config: &Config, log: &Log, runtime: &Runtime) -> Result<Running, ServeError> {
    let clock = Clock::start();
    let began = clock.now();
    let process = &config.process;
    let directory = DataDirectory::take(&process.data_dir)?;
    directory.check(&process.store.directory)?;
    let keys = Keys::open(&directory.keys())?;
    let certificates = Arc::new(Certificates::open(&process.tls, &process.data_dir, began.timestamp)?);
    let rules = TokenRules {
        issuer: config.cluster.issuer.clone(),
        audience: config.cluster.audience.clone(),
        lifetime: config.cluster.access_token_lifetime,
    };
    let tokens = Arc::new(AccessTokens::new(&keys, rules));
    let clock_status = Arc::default();
    runtime.spawn(clock::keep(clock, Arc::clone(&clock_status)));
    let status = Arc::new(Status::default());
    let admin_address = start_admin(config, &status, clock, runtime)?;

    let opened = Arc::new(Mutex::new(None));
    let (node, public) = start_node(config, clock, keys.quic, &certificates, &tokens, &opened, runtime)?;
    directory.made(&process.store.directory)?;
    let control = node.control();
    let counters = Arc::new(HttpCounters::default());
    let parts = AuthParts {
        config: &process.auth,
        keys: &keys,
        tokens,
        placement: config.placement(),
        devices_max: config.cluster.devices_max,
        clock,
    };
    let auth = Arc::new(Auth::new(&parts, Arc::new(control.clone())));
    let sources = Sources {
        http: Arc::clone(&counters),
        hasher: auth.hasher(),
        certificates: Arc::clone(&certificates),
        clock: Arc::clone(&clock_status),
        log: Some(log.dropped()),
    };
    status.show(look(control.clone(), Arc::clone(&opened)), Arc::new(sources));
    runtime.block_on(catch_up(&control, &opened))?;

    let http = Arc::clone(&counters);
    let listener = listener(config, &control, auth, &certificates, counters, clock);
    let accepting = runtime.spawn(listener.run(public)).abort_handle();
    status.enter(Phase::Ready);
    let running = Running { node, store: opened, status, certificates, clock, http, accepting, _directory: directory };
    announce(config, &running, admin_address, began);
    Ok(running)
}

fn start_admin(
    config: &Config,
    status: &Arc<Status>,
    clock: Clock,
    runtime: &Runtime,
) -> Result<SocketAddr, ServeError> {
    let _context = runtime.enter();
    let wrong = |error| ServeError::Listen { key: "admin.listen", error };
    let socket = bind(config.process.admin.listen).map_err(wrong)?;
    let address = socket.local_addr().unwrap_or(config.process.admin.listen);
    let listener = Listener {
        router: admin::router(Arc::clone(status)),
        tls: None,
        handshake_timeout: config.process.http.handshake_timeout,
        timeouts: timeouts(config),
        connections_max: ADMIN_CONNECTIONS_MAX,
        counters: Arc::default(),
        clock,
    };
    runtime.spawn(listener.run(socket));
    Ok(address)
}

/// Takes the port for TCP and UDP, opens the store, starts the shards.
fn start_node(
    config: &Config,
    clock: Clock,
    secret: [u8; 32],
    certificates: &Certificates,
    tokens: &Arc<AccessTokens>,
    opened: &Arc<Mutex<Option<EmbeddedHandle>>>,
    runtime: &Runtime,
) -> Result<(Node, TcpListener), ServeError> {
    let _context = runtime.enter();
    let process = &config.process;
    let tls = certificates.quic(process.tls.sessions_max);
    let mut attempt = 1;
    loop {
        let public = bind(process.listen).map_err(|error| ServeError::Listen { key: "listen", error })?;
        let listen = public.local_addr().unwrap_or(process.listen);
        let node_config = NodeConfig {
            placement: config.placement(),
            limits: process.limits.clone(),
            run: u64::from_be_bytes(random()),
            secret,
            tls_sessions_max: process.tls.sessions_max,
            listen,
            driver: match process.driver {
                DriverChoice::Auto => DriverKind::Auto,
                DriverChoice::IoUring => DriverKind::IoUring,
                DriverChoice::Epoll => DriverKind::Epoll,
                DriverChoice::Glommio => DriverKind::Glommio,
            },
            pin: process.pin,
            clock,
        };
        let started = Node::start(node_config, Arc::clone(&tls), Arc::clone(tokens) as _, |bells| {
            let Embedded { stores, handle, report: _ } = tern_persistence::open(process.store.clone(), bells, clock)?;
            *opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
            Ok::<_, OpenError>(stores)
        });
        match started {
            Ok(node) => return Ok((node, public)),
            Err(StartError::PortTaken(_)) if process.listen.port() == 0 && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until the shards have applied what the store had for them.
async fn catch_up(control: &Control, opened: &Mutex<Option<EmbeddedHandle>>) -> Result<(), ServeError> {
    let mut interval = tokio::time::interval(CATCH_UP_INTERVAL);
    while !control.is_caught_up() {
        if let Some(reason) = failure(opened) {
            return Err(ServeError::StoreFailed { reason });
        }
        if let Some(why) = control.stopped() {
            return Err(ServeError::Stopped(why.to_owned()));
        }
        interval.tick().await;
    }
    Ok(())
}

/// Why the store takes nothing any more, if that is so.
pub(super) fn failure(opened: &Mutex<Option<EmbeddedHandle>>) -> Option<String> {
    opened.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(EmbeddedHandle::failure)
}

fn listener(
    config: &Config,
    control: &Control,
    auth: Arc<Auth>,
    certificates: &Certificates,
    counters: Arc<HttpCounters>,
    clock: Clock,
) -> Listener {
    let http = &config.process.http;
    let origins: Arc<[String]> = http.origins.clone().into();
    let upgrades = Upgrades::new(
        Arc::new(control.clone()),
        Arc::clone(&auth),
        config.placement(),
        Arc::clone(&origins),
        Arc::clone(&counters),
    );
    let parts = RouterParts {
        auth,
        upgrades: Arc::new(upgrades),
        origins,
        body_timeout: http.body_timeout,
        counters: Arc::clone(&counters),
        clock,
    };
    Listener {
        router: http::router(parts),
        tls: Some(certificates.tcp(config.process.tls.sessions_max)),
        handshake_timeout: http.handshake_timeout,
        timeouts: timeouts(config),
        connections_max: http.connections_max,
        counters,
        clock,
    }
}

const fn timeouts(config: &Config) -> Timeouts {
    Timeouts { header: config.process.http.header_timeout, idle: config.process.http.idle_timeout }
}

fn look(control: Control, store: Arc<Mutex<Option<EmbeddedHandle>>>) -> crate::metrics::Look {
    Box::new(move || Snapshot {
        caught_up: control.is_caught_up(),
        shards: control.counters(),
        aside: control.aside(),
        store: store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|store| (store.health(), store.counters())),
    })
}

/// The one line that says that it works, and for a person where.
fn announce(config: &Config, running: &Running, admin: SocketAddr, began: Moment) {
    let listen = running.node.local_addr();
    let took = running.clock.now().instant.saturating_duration_since(began.instant);
    let info = running.certificates.info();
    tracing::info!(
        %listen,
        %admin,
        shards = config.process.shards,
        driver = ?running.node.driver(),
        data_dir = %config.process.data_dir.display(),
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
    if config.process.auth.hash_memory < WEAK_HASH_MEMORY {
        tracing::warn!("auth.hash_memory is for load tests: stolen password hashes would be easy to break");
    }
    if !admin.ip().is_loopback() {
        tracing::warn!(%admin, "health and metrics are open to whoever reaches admin.listen");
    }
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let host = if listen.ip().is_unspecified() { "localhost".to_owned() } else { listen.ip().to_string() };
        let host = if listen.is_ipv6() && host.contains(':') { format!("[{host}]") } else { host };
        let kind = if info.is_development { " (development)" } else { "" };
        let _ = writeln!(
            terminal,
            "\n  QUIC      {host}:{port}\n  HTTPS     https://{host}:{port}\n  admin     http://{admin}\n  certificate{kind}\n    \
             SHA-256 {fingerprint}\n    key pin {pin}\n",
            port = listen.port(),
            fingerprint = info.fingerprint,
            pin = info.pin,
        );
    }
}

/// Below this a password hash is not one. Unit: bytes. OWASP's weakest setting is 7 MiB with 5 passes.
const WEAK_HASH_MEMORY: u64 = 7 * 1024 * 1024;

impl Owners for Control {
    fn request(&self, shard: ShardId, request: Request) -> ReplyFuture<'_> {
        Box::pin(Self::request(self, shard, request))
    }
}

impl Sockets for Control {
    fn hand_over(&self, shard: ShardId, socket: HandedSocket) -> Result<(), HandedSocket> {
        Self::hand_over(self, shard, socket)
    }
}
