//! A whole server in the caller's hand: one stepped shard with its sockets, real tokens and certificates, and a time that only moves when it
//! is told to. Panics on whatever a bench does not expect: a refusal would be quick, and wrong.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tern_core_shard::config::Limits;
use tern_core_shard::io::{Record, Reply, Request};
use tern_edge::SteppedShard;
use tern_edge::auth::{AccessTokens, Keys, TokenRules};
use tern_edge::certificate::Certificates;
use tern_edge::clock::{Clock, Moment};
use tern_edge::config::TlsConfig;
use tern_edge::node::{DriverKind, HandedSocket, NodeConfig, ShardCounters};
use tern_protocol::client::{CreateGroup, Hello, Invite, OpenDirect};
use tern_protocol::command::CommandHead;
use tern_protocol::frame::{self, Encode};
use tern_protocol::limit::INVITES_MAX;
use tern_protocol::placement::{PARTITION_COUNT_DEFAULT, Placement};
use tern_protocol::{ConversationId, DeviceId, RequestId};

use crate::fixture::Login;
use crate::log::MemoryLog;

/// The run of the server. Anything but 0, which names no run.
const RUN: u64 = 1;
/// What the server keeps for resumption by default. Unit: sessions. Source: `tls.sessions_max` in `edge/default.toml`.
const TLS_SESSIONS_MAX: usize = 65_536;
/// How far a site is ahead of the clock. Unit: time. No bench takes as long.
const AHEAD: Duration = Duration::from_secs(3600);
/// Turns after which a shard that still has something to do will always have. Unit: turns.
const TURNS_MAX: usize = 10_000;

/// One server.
pub struct Site {
    shard: SteppedShard<MemoryLog>,
    log: MemoryLog,
    placement: Placement,
    start: Moment,
    passed: Duration,
    tokens: Arc<AccessTokens>,
    tcp: Arc<rustls::ServerConfig>,
    certificate: CertificateDer<'static>,
    next_number: u64,
}

impl Site {
    /// A server without users, on a free port. `seed`: of what QUIC draws at random.
    ///
    /// # Panics
    /// When the machine has no room for it: no port, no place for temporary files.
    #[must_use]
    pub fn new(seed: u8) -> Self {
        let clock = Clock::start();
        let began = clock.now();
        // Ahead of the machine's own time, so that no deadline of the shard is ever one of the driver's.
        let start = Moment { timestamp: began.timestamp.after(AHEAD), instant: began.instant + AHEAD };
        let directory = tempfile::tempdir().expect("there is a place for temporary files");
        let tls = TlsConfig { files: None, names: Vec::new(), sessions_max: TLS_SESSIONS_MAX };
        let certificates =
            Certificates::open(&tls, directory.path(), start.timestamp).expect("a certificate can be made");
        let pem = directory.path().join("tls").join("development.crt");
        let certificate = CertificateDer::from_pem_file(pem).expect("it was just written");
        let keys = Keys::open(&directory.path().join("keys")).expect("keys can be made");
        let rules = TokenRules {
            issuer: "tern".to_owned(),
            audience: "tern".to_owned(),
            lifetime: Duration::from_secs(86_400),
        };
        let tokens = Arc::new(AccessTokens::new(&keys, rules));
        let placement = Placement::new(PARTITION_COUNT_DEFAULT, 1);
        let limits = Limits {
            frames_burst: u32::MAX,
            members_max: u32::MAX,
            cache_size_max: usize::MAX,
            world: false,
            ..Limits::default()
        };
        let config = NodeConfig {
            placement,
            limits,
            run: RUN,
            secret: [seed; 32],
            tls_sessions_max: TLS_SESSIONS_MAX,
            listen: "127.0.0.1:0".parse().expect("an address"),
            // What every machine has, valgrind's too. A turn is the same with either driver; only looking around differs.
            driver: DriverKind::Epoll,
            pin: false,
            clock,
        };
        let log = MemoryLog::new(start.timestamp);
        let quic = certificates.quic(TLS_SESSIONS_MAX);
        let verifier = Arc::clone(&tokens) as _;
        let shard = SteppedShard::new(config, &quic, verifier, log.clone(), [seed; 32]).expect("a free port");
        let tcp = certificates.tcp(TLS_SESSIONS_MAX);
        let mut this =
            Self { shard, log, placement, start, passed: Duration::ZERO, tokens, tcp, certificate, next_number: 0 };
        this.turns();
        this
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment { timestamp: self.start.timestamp.after(self.passed), instant: self.start.instant + self.passed }
    }

    /// Lets time pass. Nothing happens until the next turn.
    pub fn pass(&mut self, time: Duration) {
        self.passed += time;
        self.log.set_now(self.now().timestamp);
    }

    /// Takes turns until nothing is left to do at present. This is what is measured.
    ///
    /// # Panics
    /// When there is no end to it.
    pub fn turns(&mut self) {
        let now = self.now();
        let rest = (0..TURNS_MAX).find(|_| !self.shard.step(now));
        assert!(rest.is_some(), "the shard never rests");
    }

    /// Takes one turn. Returns whether something is left to do.
    pub fn turn(&mut self) -> bool {
        self.shard.step(self.now())
    }

    /// The shard's numbers.
    #[must_use]
    pub fn counters(&self) -> ShardCounters {
        self.shard.counters()
    }

    /// Where QUIC is served.
    #[must_use]
    pub const fn address(&self) -> std::net::SocketAddr {
        self.shard.local_addr()
    }

    /// How WebSockets are encrypted.
    #[must_use]
    pub const fn tcp_tls(&self) -> &Arc<rustls::ServerConfig> {
        &self.tcp
    }

    /// A client's TLS configuration that trusts this server.
    ///
    /// # Panics
    /// Never: the certificate is the server's own.
    #[must_use]
    pub fn client_tls(&self, alpn: &[u8]) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let provider = Arc::new(tern_client::wire::crypto_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    /// Gives an upgraded socket to the shard.
    ///
    /// # Panics
    /// When too many wait.
    pub fn hand_over(&mut self, socket: HandedSocket) {
        assert!(self.shard.hand_over(socket).is_ok(), "the mailbox has room");
    }

    /// Registers a user and logs a device in.
    ///
    /// # Panics
    /// When the shard refuses.
    pub fn register(&mut self) -> Login {
        let number = self.number();
        let name: Box<str> = format!("user{number}").into();
        let register = Request::Register { name: name.clone(), display: name, password: "$argon2id$".into() };
        let Reply::Registered { user } = self.ask(register) else { panic!("the name is free") };
        let device = DeviceId::from_raw(number);
        let open = Request::OpenDevice { user, device, secret: [7; 32], name: "bench".into(), devices_max: 4 };
        assert_eq!(self.ask(open), Reply::DeviceOpened, "the user is registered");
        Login { user, device }
    }

    /// Registers as many users as that.
    pub fn register_many(&mut self, count: usize) -> Vec<Login> {
        (0..count).map(|_| self.register()).collect()
    }

    /// The first frame of a client.
    #[must_use]
    pub fn hello(&self, login: Login) -> Vec<u8> {
        let token = self.tokens.issue(login.user, login.device, self.now().timestamp);
        frame::to_vec(&Hello { user_seq: 0, token: token.as_bytes(), client: b"bench", positions: &[] })
    }

    /// Makes a group of somebody who is connected elsewhere and others.
    pub fn create_group(&mut self, owner: Login, members: &[Login]) -> ConversationId {
        let request = u128::from(self.number());
        let users: Vec<u64> = members.iter().map(|login| login.user.raw()).collect();
        let mut chunks = users.chunks(INVITES_MAX);
        let first = chunks.next().unwrap_or_default();
        let conversation = ConversationId::group(owner.user, RequestId::from_raw(request));
        self.log(owner, conversation, &CreateGroup { request, flags: 0, title: b"bench", members: first });
        for users in chunks {
            let request = u128::from(self.number());
            self.log(owner, conversation, &Invite { request, conversation: conversation.raw(), users });
        }
        self.turns();
        conversation
    }

    /// Opens the direct conversation of two users, of whom the first is connected elsewhere.
    pub fn open_direct(&mut self, owner: Login, peer: Login) -> ConversationId {
        let request = u128::from(self.number());
        let conversation = ConversationId::direct(owner.user, peer.user);
        self.log(owner, conversation, &OpenDirect { request, user: peer.user.raw() });
        self.turns();
        conversation
    }

    /// Makes a message durable whose sender is connected elsewhere. Applied and delivered in the next turn.
    pub fn post(&mut self, sender: Login, conversation: ConversationId, body: &[u8]) {
        let request = u128::from(self.number());
        self.log(sender, conversation, &crate::message::send(conversation, request, body));
    }

    fn log<F: Encode>(&self, actor: Login, conversation: ConversationId, command: &F) {
        let (actor, device) = (actor.user.raw(), actor.device.raw());
        // As a shard that has heard of everything so far.
        let head = CommandHead { actor, device, run: RUN, heard: u64::MAX, ..CommandHead::default() };
        let frame = frame::to_vec(command).into();
        self.log.log(self.placement.of_conversation(conversation), Record { head, frame });
    }

    fn ask(&mut self, request: Request) -> Reply {
        self.shard.ask(request, self.now()).expect("log and view answer at once, so the shard does")
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("address", &self.address()).field("passed", &self.passed).finish_non_exhaustive()
    }
}
