//! One running node with users, and what its clients need to reach it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tern_core_shard::Limits;
use tern_core_shard::io::{Claims, Reply, Request};
use tern_edge::clock::Clock;
use tern_edge::node::{Control, DriverKind, Node, NodeConfig, ShardCounters, StartError, TokenVerifier};
use tern_protocol::placement::Placement;
use tern_protocol::{CloseCode, DeviceId, ShardId, Timestamp, UserId};

use crate::store;

/// Only a failure takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(2);

/// A node and its certificate.
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) control: Control,
    pub(crate) placement: Placement,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) certificate: CertificateDer<'static>,
}

/// Somebody who can say hello.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Person {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
}

impl Person {
    pub(crate) fn token(self) -> Vec<u8> {
        [self.user.raw().to_le_bytes(), self.device.raw().to_le_bytes()].concat()
    }
}

/// Tokens of these tests say who they are for and are not signed.
struct Tokens;

impl TokenVerifier for Tokens {
    fn verify(&self, token: &[u8], now: Timestamp) -> Result<Claims, CloseCode> {
        let (user, device) = token.split_first_chunk::<8>().ok_or(CloseCode::BadToken)?;
        let device = device.first_chunk::<8>().ok_or(CloseCode::BadToken)?;
        Ok(Claims {
            user: UserId::from_raw(u64::from_le_bytes(*user)),
            device: DeviceId::from_raw(u64::from_le_bytes(*device)),
            expires: now.after(Duration::from_secs(600)),
        })
    }
}

/// A self-signed certificate for `localhost`, and a configuration that takes early data.
fn tls() -> (Arc<rustls::ServerConfig>, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.max_early_data_size = u32::MAX;
    (Arc::new(config), certificate)
}

pub(crate) fn config(shards: u16, driver: DriverKind, listen: &str) -> NodeConfig {
    NodeConfig {
        placement: Placement::new(16, shards),
        limits: Limits::default(),
        run: 7,
        secret: [5; 32],
        tls_sessions_max: 64,
        listen: listen.parse().unwrap(),
        driver,
        pin: false,
        clock: Clock::start(),
    }
}

pub(crate) fn start(config: NodeConfig) -> Result<World, StartError<String>> {
    let (tls, certificate) = tls();
    let placement = config.placement;
    let node = Node::start(config, Arc::clone(&tls), Arc::new(Tokens), |bells| Ok(store::open(placement, bells)))?;
    let control = node.control();
    let port = node.local_addr().port();
    let host =
        if node.local_addr().ip().is_unspecified() { "127.0.0.1".parse().unwrap() } else { node.local_addr().ip() };
    Ok(World { node, control, placement, address: SocketAddr::new(host, port), tls, certificate })
}

impl World {
    /// A node with `shards` shards on a free port.
    pub(crate) async fn new(shards: u16, driver: DriverKind) -> Self {
        Self::on(shards, driver, "127.0.0.1:0").await
    }

    pub(crate) async fn on(shards: u16, driver: DriverKind, listen: &str) -> Self {
        let world = start(config(shards, driver, listen)).unwrap();
        until("caught up", || world.control.is_caught_up()).await;
        world
    }

    /// Registers somebody and logs a device in.
    pub(crate) async fn person(&self, name: &str) -> Person {
        let owner = self.placement.shard(self.placement.of_account(name));
        let register = Request::Register { name: name.into(), display: name.into(), password: "x".into() };
        let Reply::Registered { user } = self.ask(owner, register).await else { panic!("{name} is not registered") };
        self.log_in(user, DeviceId::from_raw(user.raw() ^ 0x5555)).await
    }

    /// Logs another device of somebody in.
    pub(crate) async fn device(&self, person: Person, number: u64) -> Person {
        self.log_in(person.user, DeviceId::from_raw(person.device.raw() + number)).await
    }

    async fn log_in(&self, user: UserId, device: DeviceId) -> Person {
        let open = || Request::OpenDevice { user, device, secret: [1; 32], name: "test".into(), devices_max: 16 };
        // The user's own log learns of the registration a moment later.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let reply = self.ask(self.placement.home(user), open()).await;
            if reply == Reply::DeviceOpened {
                return Person { user, device };
            }
            assert!(tokio::time::Instant::now() < deadline, "{reply:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn ask(&self, shard: ShardId, request: Request) -> Reply {
        tokio::time::timeout(PATIENCE, self.control.request(shard, request)).await.unwrap().unwrap()
    }

    /// The sum of one number over all shards.
    pub(crate) fn total(&self, number: impl Fn(&ShardCounters) -> u64) -> u64 {
        self.control.counters().iter().map(number).sum()
    }

    /// Stops the node; its threads must end by themselves.
    pub(crate) async fn stop(self) {
        self.control.stop();
        let node = self.node;
        tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(|| node.join())).await.unwrap().unwrap();
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// All drivers of this build: everything that a client can see must be the same with each. The first is epoll too where io_uring is
/// forbidden.
pub(crate) const DRIVERS: &[DriverKind] = &[
    DriverKind::Auto,
    DriverKind::Epoll,
    #[cfg(feature = "glommio")]
    DriverKind::Glommio,
];
