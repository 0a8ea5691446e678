//! What a client is made from: server, user, secret, trust. Logs in, or goes on with the stored session, and starts the driver.
//! Never keeps the password.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};

use crate::auth::Auth;
use crate::client::{Client, Events};
use crate::connect::Transport;
use crate::driver::{ASKS_MAX, Driver, DriverParts, UPDATES_CHANNEL_SIZE};
use crate::random;
use crate::session::{Session, SessionConfig};
use crate::token_store::TokenStore;
use crate::tokens::{Access, TokenError, Tokens};
use crate::update::{ConnectionState, StopReason};
use crate::view::Positions;
use crate::wire::{AddressError, Dialer, ServerAddress, Trust, TrustError};

/// How long a message is tried by default.
const SEND_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Silent ping intervals after which a connection counts as dead, by default.
const MISSED_PONGS_MAX: u32 = 2;
/// How long [`ClientBuilder::connect`] tries.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a client could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The server's address cannot be understood.
    Address(AddressError),
    /// The trust's files cannot be used.
    Trust(TrustError),
    /// There is no session and no password, or the server refused them.
    Token(TokenError),
    /// No user was named.
    NoUser,
    /// The server will not have this client, or is not who it should be.
    Stopped(StopReason),
    /// No connection was made in time; the last obstacle.
    TimedOut(String),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Trust(error) => error.fmt(f),
            Self::Token(error) => error.fmt(f),
            Self::NoUser => f.write_str("no user was named"),
            Self::Stopped(reason) => reason.fmt(f),
            Self::TimedOut(why) => write!(f, "no connection: {why}"),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<TokenError> for BuildError {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

/// Collects what a client needs. Start with [`Client::builder`].
#[derive(Clone)]
pub struct ClientBuilder {
    server: String,
    user: Option<String>,
    password: Option<String>,
    device: String,
    store: TokenStore,
    trust: Trust,
    transport: Transport,
    resume: Option<Positions>,
    send_lifetime: Duration,
    missed_pongs_max: u32,
    ping_interval_max: Duration,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("server", &self.server).field("user", &self.user).finish_non_exhaustive()
    }
}

impl Client {
    /// Begins a client of this server: `host`, `host:port` or `[ipv6]:port`.
    #[must_use]
    pub fn builder(server: &str) -> ClientBuilder {
        ClientBuilder {
            server: server.to_owned(),
            user: None,
            password: None,
            device: "tern-client".to_owned(),
            store: TokenStore::memory(),
            trust: Trust::WebPki,
            transport: Transport::Auto,
            resume: None,
            send_lifetime: SEND_LIFETIME,
            missed_pongs_max: MISSED_PONGS_MAX,
            ping_interval_max: Duration::MAX,
        }
    }
}

impl ClientBuilder {
    /// Account name.
    #[must_use]
    pub fn user(mut self, name: &str) -> Self {
        self.user = Some(name.to_ascii_lowercase());
        self
    }

    /// Used only when the token store has no session that the server still knows.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// What the person calls this device, for the list of devices.
    #[must_use]
    pub fn device_name(mut self, name: &str) -> Self {
        self.device = name.to_owned();
        self
    }

    /// Where the session lives between runs. Default: memory.
    #[must_use]
    pub fn token_store(mut self, store: TokenStore) -> Self {
        self.store = store;
        self
    }

    /// What must vouch for the server. Default: [`Trust::WebPki`].
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// What may carry the connection. Default: [`Transport::Auto`].
    #[must_use]
    pub const fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Goes on where an earlier client was; empty positions mean: everything since this user joined each conversation.
    /// Without this, events come from the moment of connecting on.
    #[must_use]
    pub fn resume(mut self, positions: Positions) -> Self {
        self.resume = Some(positions);
        self
    }

    /// How long a message is tried before it counts as failed. Default: 5 minutes.
    #[must_use]
    pub const fn send_lifetime(mut self, lifetime: Duration) -> Self {
        self.send_lifetime = lifetime;
        self
    }

    /// Silent ping intervals after which the connection is made anew. Default: 2.
    #[must_use]
    pub const fn missed_pongs_max(mut self, count: u32) -> Self {
        self.missed_pongs_max = count;
        self
    }

    /// Pings at least this often, whatever the server asks for. Default: the server's rhythm. Costs the server a few microseconds each.
    #[must_use]
    pub const fn ping_interval_max(mut self, interval: Duration) -> Self {
        self.ping_interval_max = interval;
        self
    }

    /// Logs in and returns when the first connection is up.
    ///
    /// # Errors
    /// See [`BuildError`]; [`BuildError::TimedOut`] after 30 seconds.
    pub async fn connect(self) -> Result<(Client, Events), BuildError> {
        let (client, events) = self.start().await?;
        let mut why = "the server does not answer".to_owned();
        let settled = client.wait_for(|state| match state {
            ConnectionState::Online { .. } | ConnectionState::Stopped(_) => true,
            ConnectionState::Waiting { why: obstacle, .. } => {
                why.clone_from(obstacle);
                false
            }
            ConnectionState::Connecting => false,
        });
        let settled = tokio::time::timeout(CONNECT_TIMEOUT, settled).await;
        match settled {
            Ok(Some(ConnectionState::Online { .. })) => Ok((client, events)),
            Ok(Some(ConnectionState::Stopped(reason))) => Err(BuildError::Stopped(reason)),
            Ok(Some(ConnectionState::Connecting | ConnectionState::Waiting { .. }) | None) | Err(_) => {
                client.close().await;
                Err(BuildError::TimedOut(why))
            }
        }
    }

    /// Logs in if need be and returns at once; the connection is made in the background. Needs the network only to log in.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn start(self) -> Result<(Client, Events), BuildError> {
        let server = ServerAddress::parse(&self.server).map_err(BuildError::Address)?;
        let dialer = Dialer::new(server, &self.trust).map_err(BuildError::Trust)?;
        let mut tokens = Tokens::new(Auth::new(dialer.clone()), self.store.clone());
        let (user, device) = self.identify(&mut tokens).await?;
        let tokens = Arc::new(Mutex::new(tokens));
        let config = SessionConfig {
            send_lifetime: self.send_lifetime,
            missed_pongs_max: self.missed_pongs_max,
            ping_interval_max: self.ping_interval_max,
            seed: random::u128(),
        };
        let (asks_tx, asks) = mpsc::channel(ASKS_MAX);
        let (updates, updates_rx) = mpsc::channel(UPDATES_CHANNEL_SIZE);
        let (state, state_rx) = watch::channel(ConnectionState::Connecting);
        let session = Session::new(config, self.resume.as_ref());
        let parts = DriverParts {
            session,
            dialer,
            tokens: Arc::clone(&tokens),
            transport: self.transport,
            asks,
            updates,
            state,
        };
        tokio::spawn(Driver::new(parts).run());
        Ok((Client::new(user, device, asks_tx, state_rx, tokens), Events::new(updates_rx)))
    }

    /// The stored session's identity, or a new log-in's.
    async fn identify(
        &self,
        tokens: &mut Tokens,
    ) -> Result<(tern_protocol::UserId, tern_protocol::DeviceId), BuildError> {
        let identity = |access: Access| (access.user, access.device);
        let stored = self.store.load().map_err(TokenError::Store)?;
        let stored = stored.filter(|stored| self.user.as_ref().is_none_or(|user| *user == stored.user));
        match (stored, &self.user, &self.password) {
            // With a password at hand a void session is noticed and replaced here; without one the driver finds out.
            (Some(stored), user, Some(password)) => match tokens.access().await {
                Ok(access) => Ok(identity(access)),
                Err(TokenError::LoggedOut) => {
                    let user = user.as_ref().unwrap_or(&stored.user);
                    Ok(identity(tokens.login(user, password, &self.device).await?))
                }
                Err(other) => Err(other.into()),
            },
            (Some(stored), _, None) => {
                let user = tern_protocol::UserId::from_raw(stored.user_id);
                Ok((user, tern_protocol::DeviceId::from_raw(stored.device_id)))
            }
            (None, Some(user), Some(password)) => Ok(identity(tokens.login(user, password, &self.device).await?)),
            (None, Some(_), None) => Err(TokenError::LoggedOut.into()),
            (None, None, _) => Err(BuildError::NoUser),
        }
    }
}
