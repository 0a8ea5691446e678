//! The configuration as the program uses it: one struct per process, one per cluster. Built from [`Layers`], never checked again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tern_core_shard::Limits;
use tern_persistence::EmbeddedConfig;
use tern_protocol::placement::{Placement, mix_bytes};

use super::key::Value;
use super::layer::{ConfigError, Layers};

/// What a journal segment begins with. Unit: bytes. `tern_persistence` writes pages of this size.
const SEGMENT_HEAD_SIZE: u64 = 4096;

/// Everything that can be configured. Each field is a key of `default.toml`, which has its unit, range and cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// May differ from node to node.
    pub process: ProcessConfig,
    /// Must be the same on every node.
    pub cluster: ClusterConfig,
}

/// What one process may have for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// QUIC (UDP) and HTTPS (TCP).
    pub listen: SocketAddr,
    /// Journal, view, keys.
    pub data_dir: PathBuf,
    /// Shard threads; what `shards = 0` stands for is filled in.
    pub shards: u16,
    /// How shard threads wait.
    pub driver: DriverChoice,
    /// Whether each shard stays on its core.
    pub pin: bool,
    /// Over how long clients are told to come back.
    pub drain_spread: Duration,
    /// When the server stops although some are still here.
    pub drain_timeout: Duration,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[tls]`
    pub tls: TlsConfig,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[http]`
    pub http: HttpConfig,
    /// `[limits]`, with those of `[cluster]` that shards apply.
    pub limits: Limits,
    /// `[store]`
    pub store: EmbeddedConfig,
}

/// What all nodes must agree on; a fingerprint is compared when a node joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Logs that entities are spread over, for the deployment's life.
    pub partitions: u16,
    /// Whether new users enter the world room.
    pub world: bool,
    /// Members of a group.
    pub members_max: u32,
    /// Members up to which typing and receipts are shown.
    pub receipts_members_max: u32,
    /// Conversations of one user.
    pub directory_max: usize,
    /// Devices of one user.
    pub devices_max: u16,
    /// `iss` of access tokens.
    pub issuer: String,
    /// `aud` of access tokens.
    pub audience: String,
    /// How long an access token is good.
    pub access_token_lifetime: Duration,
}

/// How shard threads wait for I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where the kernel allows it.
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// epoll.
    Epoll,
    /// glommio; only in a build that has it.
    Glommio,
}

/// The listener for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Plain HTTP: health and metrics.
    pub listen: SocketAddr,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// Lines that wait for a slow writer.
    pub queue_lines_max: usize,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// JSON.
    Json,
    /// Text.
    Text,
}

/// The certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificate chain and key, PEM; `None`: a development certificate is made.
    pub files: Option<(PathBuf, PathBuf)>,
    /// More names for the development certificate.
    pub names: Vec<String>,
    /// TLS sessions remembered for resumption.
    pub sessions_max: usize,
}

/// Passwords and log-in attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Memory of one hash. Unit: bytes.
    pub hash_memory: u64,
    /// Passes over it.
    pub hash_passes: u32,
    /// Hashes at once.
    pub hash_workers: usize,
    /// Hashes that wait.
    pub hash_queue_max: usize,
    /// Attempts on one account at once.
    pub account_attempts_burst: u32,
    /// Attempts on one account.
    pub account_attempts_per_minute: u32,
    /// Attempts from one network at once.
    pub prefix_attempts_burst: u32,
    /// Attempts from one network.
    pub prefix_attempts_per_minute: u32,
    /// Accounts and networks remembered.
    pub buckets_max: usize,
}

/// The public TCP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// TCP connections that are not chat sessions.
    pub connections_max: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request to the end of its headers.
    pub header_timeout: Duration,
    /// For the body, and for the answer.
    pub body_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// Web pages that may use the API and the socket, besides those of this server.
    pub origins: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self::build(&Layers::defaults()).expect("a test builds it")
    }
}

impl Config {
    /// Reads every key.
    ///
    /// # Errors
    /// When two keys do not go together.
    pub fn build(layers: &Layers) -> Result<Self, ConfigError> {
        let cluster = ClusterConfig::build(layers);
        let mut limits = limits(layers);
        limits.members_max = cluster.members_max;
        limits.receipts_members_max = cluster.receipts_members_max;
        limits.directory_max = cluster.directory_max;
        limits.world = cluster.world;
        let data_dir = PathBuf::from(layers.text("data_dir"));
        let shards = shards(layers.count("shards"));
        let store = store(layers, EmbeddedConfig::new(data_dir.join("store"), cluster.partitions, shards));
        let process = ProcessConfig {
            listen: layers.address("listen"),
            data_dir,
            shards,
            driver: match layers.text("driver").as_str() {
                "io_uring" => DriverChoice::IoUring,
                "epoll" => DriverChoice::Epoll,
                "glommio" => DriverChoice::Glommio,
                _ => DriverChoice::Auto,
            },
            pin: layers.switch("pin"),
            drain_spread: layers.span("drain_spread"),
            drain_timeout: layers.span("drain_timeout"),
            admin: AdminConfig { listen: layers.address("admin.listen") },
            log: LogConfig {
                format: match layers.text("log.format").as_str() {
                    "json" => LogFormat::Json,
                    "text" => LogFormat::Text,
                    _ => LogFormat::Auto,
                },
                filter: layers.text("log.filter"),
                queue_lines_max: layers.count("log.queue_lines_max"),
            },
            tls: tls(layers)?,
            auth: auth(layers),
            http: http(layers),
            limits,
            store,
        };
        process.check(&cluster)?;
        Ok(Self { process, cluster })
    }

    /// Where every entity lives.
    #[must_use]
    pub const fn placement(&self) -> Placement {
        Placement::new(self.cluster.partitions, self.process.shards)
    }
}

impl ProcessConfig {
    fn check(&self, cluster: &ClusterConfig) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let conflict = |reason| Err(ConfigError::Conflict { reason });
        if limits.outbox_ephemeral_max >= limits.outbox_live_max || limits.outbox_live_max >= limits.outbox_close_max {
            return conflict(
                "limits.outbox_ephemeral_max must be below limits.outbox_live_max, and that below limits.outbox_close_max: \
                 a slow reader first loses typing, then live delivery, then the connection",
            );
        }
        if self.driver == DriverChoice::Glommio && !cfg!(feature = "glommio") {
            return conflict(
                "driver = \"glommio\" is not in this build; to compare runtimes, build one that has it: \
                 cargo build --release -p tern-edge --features glommio",
            );
        }
        let store = &self.store;
        if store.first_segment_size > store.segment_size
            || store.first_segment_size < 2 * store.batch_size_max as u64 + SEGMENT_HEAD_SIZE
        {
            return conflict(
                "store.first_segment_size must be over twice store.batch_size_max and at most store.segment_size",
            );
        }
        if self.shards > cluster.partitions {
            return conflict(
                "shards must not exceed cluster.partitions: a shard without a partition would own nothing",
            );
        }
        if self.listen.port() != 0 && self.listen.port() == self.admin.listen.port() {
            return conflict("admin.listen must have another port than listen: it is not encrypted");
        }
        if self.drain_spread > self.drain_timeout {
            return conflict("drain_spread must not exceed drain_timeout: clients would be cut before their slot");
        }
        Ok(())
    }
}

impl ClusterConfig {
    fn build(layers: &Layers) -> Self {
        Self {
            partitions: layers.count("cluster.partitions"),
            world: layers.switch("cluster.world"),
            members_max: layers.count("cluster.members_max"),
            receipts_members_max: layers.count("cluster.receipts_members_max"),
            directory_max: layers.count("cluster.directory_max"),
            devices_max: layers.count("cluster.devices_max"),
            issuer: layers.text("cluster.issuer"),
            audience: layers.text("cluster.audience"),
            access_token_lifetime: layers.span("cluster.access_token_lifetime"),
        }
    }

    /// A number that two nodes have in common when they agree.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        mix_bytes(format!("{self:?}").as_bytes())
    }
}

fn limits(layers: &Layers) -> Limits {
    Limits {
        sessions_max: layers.count("limits.sessions_max"),
        user_sessions_max: layers.count("limits.user_sessions_max"),
        hello_timeout: layers.span("limits.hello_timeout"),
        ping_interval: layers.span("limits.ping_interval"),
        outbox_ephemeral_max: layers.size("limits.outbox_ephemeral_max"),
        outbox_live_max: layers.size("limits.outbox_live_max"),
        outbox_close_max: layers.size("limits.outbox_close_max"),
        slow_reader_timeout: layers.span("limits.slow_reader_timeout"),
        inflight_max: layers.count("limits.inflight_max"),
        frames_burst: layers.count("limits.frames_burst"),
        frames_per_second: layers.count("limits.frames_per_second"),
        flood_max: layers.count("limits.flood_max"),
        cache_size_max: layers.size("limits.cache_size_max"),
        load_queue_max: layers.count("limits.load_queue_max"),
        aside_max: layers.count("limits.aside_max"),
        kept_size_max: layers.size("limits.kept_size_max"),
        presence_grace: layers.span("limits.presence_grace"),
        presence_coalesce: layers.span("limits.presence_coalesce"),
        ..Limits::default()
    }
}

fn tls(layers: &Layers) -> Result<TlsConfig, ConfigError> {
    let (certificate, key) = (layers.text("tls.certificate"), layers.text("tls.key"));
    let files = match (certificate.is_empty(), key.is_empty()) {
        (true, true) => None,
        (false, false) => Some((certificate.into(), key.into())),
        _ => return Err(ConfigError::Conflict { reason: "tls.certificate and tls.key go together: set both or none" }),
    };
    Ok(TlsConfig { files, names: layers.list("tls.names"), sessions_max: layers.count("tls.sessions_max") })
}

fn auth(layers: &Layers) -> AuthConfig {
    AuthConfig {
        hash_memory: layers.size("auth.hash_memory"),
        hash_passes: layers.count("auth.hash_passes"),
        hash_workers: layers.count("auth.hash_workers"),
        hash_queue_max: layers.count("auth.hash_queue_max"),
        account_attempts_burst: layers.count("auth.account_attempts_burst"),
        account_attempts_per_minute: layers.count("auth.account_attempts_per_minute"),
        prefix_attempts_burst: layers.count("auth.prefix_attempts_burst"),
        prefix_attempts_per_minute: layers.count("auth.prefix_attempts_per_minute"),
        buckets_max: layers.count("auth.buckets_max"),
    }
}

fn http(layers: &Layers) -> HttpConfig {
    HttpConfig {
        connections_max: layers.count("http.connections_max"),
        handshake_timeout: layers.span("http.handshake_timeout"),
        header_timeout: layers.span("http.header_timeout"),
        body_timeout: layers.span("http.body_timeout"),
        idle_timeout: layers.span("http.idle_timeout"),
        origins: layers.list("http.origins"),
    }
}

fn store(layers: &Layers, place: EmbeddedConfig) -> EmbeddedConfig {
    EmbeddedConfig {
        segment_size: layers.size("store.segment_size"),
        first_segment_size: layers.size("store.first_segment_size"),
        segments_max: layers.count("store.segments_max"),
        append_queue_size_max: layers.size("store.append_queue_size_max"),
        append_queue_len_max: layers.count("store.append_queue_len_max"),
        logged_queue_size_max: layers.size("store.logged_queue_size_max"),
        logged_queue_len_max: layers.count("store.logged_queue_len_max"),
        store_queue_size_max: layers.size("store.store_queue_size_max"),
        store_queue_len_max: layers.count("store.store_queue_len_max"),
        query_queue_len_max: layers.count("store.query_queue_len_max"),
        batch_size_max: layers.size("store.batch_size_max"),
        view_batch_size_max: layers.size("store.view_batch_size_max"),
        view_cache_size: layers.size("store.view_cache_size"),
        view_memtable_size: layers.size("store.view_memtable_size"),
        view_journal_size: layers.size("store.view_journal_size"),
        view_readers: layers.count("store.view_readers"),
        checkpoint_interval: layers.span("store.checkpoint_interval"),
        checkpoint_size: layers.size("store.checkpoint_size"),
        free_space_min: layers.size("store.free_space_min"),
        commit_slow: layers.span("store.commit_slow"),
        shutdown_timeout: layers.span("store.shutdown_timeout"),
        ..place
    }
}

/// 0 stands for one shard per core that this process may use.
fn shards(wanted: u16) -> u16 {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    match wanted {
        0 => u16::try_from(cores()).unwrap_or(u16::MAX).min(tern_protocol::limit::SHARD_COUNT_MAX),
        wanted => wanted,
    }
}

/// Typed access; a key of another kind is a mistake in this file, which building the defaults in a test finds.
impl Layers {
    fn count<T: TryFrom<u64>>(&self, path: &'static str) -> T {
        let Value::Count(n) = self.value(path) else { wrong_kind(path) };
        T::try_from(*n).unwrap_or_else(|_| wrong_kind(path))
    }

    fn size<T: TryFrom<u64>>(&self, path: &'static str) -> T {
        let Value::Size(size) = self.value(path) else { wrong_kind(path) };
        T::try_from(*size).unwrap_or_else(|_| wrong_kind(path))
    }

    fn span(&self, path: &'static str) -> Duration {
        let Value::Span(span) = self.value(path) else { wrong_kind(path) };
        *span
    }

    fn switch(&self, path: &'static str) -> bool {
        let Value::Switch(on) = self.value(path) else { wrong_kind(path) };
        *on
    }

    fn text(&self, path: &'static str) -> String {
        let Value::Text(text) = self.value(path) else { wrong_kind(path) };
        text.clone()
    }

    fn address(&self, path: &'static str) -> SocketAddr {
        let Value::Address(address) = self.value(path) else { wrong_kind(path) };
        *address
    }

    fn list(&self, path: &'static str) -> Vec<String> {
        let Value::List(words) = self.value(path) else { wrong_kind(path) };
        words.clone()
    }
}

fn wrong_kind(path: &str) -> ! {
    unreachable!("`{path}` is read as another kind, or as a narrower number, than config/key.rs says")
}

#[cfg(test)]
mod tests;
