//! `/api/v1/auth/*`: register, log in, refresh, log out, devices. Checks and translates; accounts and devices live in the shards.
//! Says nothing that tells a stranger whether an account exists, except when a name to register is taken.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{delete, get, post};
use axum::{Json as Answer, Router};
use serde::{Deserialize, Serialize};
use tern_core_shard::io::{AppendFailure, Claims, Reply, Request};
use tern_protocol::placement::Placement;
use tern_protocol::{CloseCode, DeviceId, ShardId, Timestamp, UserId};

use super::bucket::{Buckets, Prefix, Rate};
use super::key::{Keys, random};
use super::name;
use super::password::{Hasher, HasherBusy};
use super::refresh::RefreshToken;
use super::token::AccessTokens;
use crate::clock::Clock;
use crate::config::AuthConfig;
use crate::http::{Json, Problem};
use crate::node::{Overloaded, TokenVerifier};

/// The answer of a shard, later.
pub type ReplyFuture<'a> = Pin<Box<dyn Future<Output = Result<Reply, Overloaded>> + Send + 'a>>;

/// Reaches the shards that own accounts and users.
pub trait Owners: Send + Sync {
    /// Asks a shard.
    fn request(&self, shard: ShardId, request: Request) -> ReplyFuture<'_>;
}

/// The client's address, put beside each request by the listener.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Everything that the API needs.
pub struct Auth {
    owners: Arc<dyn Owners>,
    placement: Placement,
    clock: Clock,
    hasher: Arc<Hasher>,
    tokens: Arc<AccessTokens>,
    refresh_key: hmac::Key,
    devices_max: u16,
    accounts: Mutex<Buckets<Box<str>>>,
    networks: Mutex<Buckets<Prefix>>,
}

/// What [`Auth`] is made of.
#[derive(Debug)]
pub struct AuthParts<'a> {
    /// `[auth]`
    pub config: &'a AuthConfig,
    /// The data directory's keys.
    pub keys: &'a Keys,
    /// Makes and checks access tokens.
    pub tokens: Arc<AccessTokens>,
    /// Where accounts and users live.
    pub placement: Placement,
    /// Most devices a user may have.
    pub devices_max: u16,
    /// The process's clock.
    pub clock: Clock,
}

#[derive(Deserialize)]
struct RegisterBody {
    username: String,
    password: String,
    display_name: Option<String>,
}

#[derive(Serialize)]
struct Registered {
    user_id: String,
    username: Box<str>,
}

#[derive(Deserialize)]
struct LoginBody {
    username: String,
    password: String,
    device_name: Option<String>,
}

#[derive(Deserialize)]
struct RefreshBody {
    refresh_token: String,
    attempt: String,
}

#[derive(Serialize)]
struct Tokens {
    user_id: String,
    device_id: String,
    access_token: String,
    access_expires_in: u64,
    refresh_token: String,
    home: Home,
}

#[derive(Serialize)]
struct Home {
    shard: u16,
    shards: u16,
}

#[derive(Serialize)]
struct Devices {
    devices: Vec<Device>,
}

#[derive(Serialize)]
struct Device {
    device_id: String,
    name: Box<str>,
    created_at: u64,
    last_used_at: u64,
    current: bool,
}

/// The routes, below `/api/v1/auth`.
pub fn routes(auth: Arc<Auth>) -> Router {
    Router::new()
        .route("/register", post(register))
        .route("/login", post(login))
        .route("/refresh", post(refresh))
        .route("/logout", post(logout))
        .route("/devices", get(list_devices).delete(close_devices))
        .route("/devices/{device_id}", delete(close_device))
        .with_state(auth)
}

impl Auth {
    /// The API of one node.
    #[must_use]
    pub fn new(parts: &AuthParts<'_>, owners: Arc<dyn Owners>) -> Self {
        let config = parts.config;
        let account_rate =
            Rate { burst: config.account_attempts_burst, per_minute: config.account_attempts_per_minute };
        let network_rate = Rate { burst: config.prefix_attempts_burst, per_minute: config.prefix_attempts_per_minute };
        Self {
            owners,
            placement: parts.placement,
            clock: parts.clock,
            hasher: Arc::new(Hasher::new(config)),
            tokens: Arc::clone(&parts.tokens),
            refresh_key: parts.keys.refresh.clone(),
            devices_max: parts.devices_max,
            accounts: Mutex::new(Buckets::new(account_rate, config.buckets_max)),
            networks: Mutex::new(Buckets::new(network_rate, config.buckets_max)),
        }
    }

    /// The password hasher, for metrics.
    #[must_use]
    pub fn hasher(&self) -> Arc<Hasher> {
        Arc::clone(&self.hasher)
    }

    /// What the bearer token of a request says, if it is there: signature, issuer and time only.
    ///
    /// # Errors
    /// When there is one and it is not good.
    pub fn claims(&self, headers: &HeaderMap) -> Result<Option<Claims>, Problem> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let token =
            value.as_bytes().split_first_chunk::<7>().filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
        let (None, Some((_, token))) = (values.next(), token) else { return Err(unauthorized(CloseCode::BadToken)) };
        self.tokens.verify(token.trim_ascii(), self.now()).map(Some).map_err(unauthorized)
    }

    /// The device that makes a request: its token is good, and it was not logged out.
    async fn caller(&self, headers: &HeaderMap) -> Result<(Claims, Vec<Device>), Problem> {
        let claims = self.claims(headers)?.ok_or(unauthorized(CloseCode::BadToken))?;
        let reply = self.ask_user(claims.user, Request::ListDevices { user: claims.user }).await?;
        let Reply::Devices(devices) = reply else { return Err(unexpected()) };
        let devices: Vec<Device> = devices
            .into_iter()
            .map(|device| Device {
                device_id: device.device.raw().to_string(),
                name: device.name,
                created_at: device.created.raw() / 1000,
                last_used_at: device.used.raw() / 1000,
                current: device.device == claims.device,
            })
            .collect();
        if !devices.iter().any(|device| device.current) {
            return Err(unauthorized(CloseCode::Revoked));
        }
        Ok((claims, devices))
    }

    fn now(&self) -> Timestamp {
        self.clock.now().timestamp
    }

    async fn ask_user(&self, user: UserId, request: Request) -> Result<Reply, Problem> {
        self.ask(self.placement.home(user), request).await
    }

    async fn ask_account(&self, name: &str, request: Request) -> Result<Reply, Problem> {
        self.ask(self.placement.shard(self.placement.of_account(name)), request).await
    }

    async fn ask(&self, shard: ShardId, request: Request) -> Result<Reply, Problem> {
        match self.owners.request(shard, request).await {
            Ok(Reply::Unavailable(failure)) => Err(unavailable(failure)),
            Ok(reply) => Ok(reply),
            Err(Overloaded) => Err(Problem::busy()),
        }
    }

    fn admit_network(&self, peer: Peer) -> Result<(), Problem> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        networks.take(&Prefix::of(peer.0.ip()), self.now()).map_err(too_many)
    }

    fn admit_account(&self, name: &str) -> Result<(), Problem> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.take(&name.into(), self.now()).map_err(too_many)
    }

    fn tokens_for(&self, token: &RefreshToken) -> Tokens {
        Tokens {
            user_id: token.user.raw().to_string(),
            device_id: token.device.raw().to_string(),
            access_token: self.tokens.issue(token.user, token.device, self.now()),
            access_expires_in: self.tokens.lifetime().as_secs(),
            refresh_token: token.encode(),
            home: Home { shard: self.placement.home(token.user).raw(), shards: self.placement.shards() },
        }
    }
}

async fn register(
    State(auth): State<Arc<Auth>>,
    Extension(peer): Extension<Peer>,
    Json(body): Json<RegisterBody>,
) -> Result<(StatusCode, Answer<Registered>), Problem> {
    auth.admit_network(peer)?;
    let invalid = |code, detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail);
    let name = name::canonical(&body.username).ok_or_else(|| {
        invalid("invalid_username", "a username has 2 to 32 letters, digits, or _ - . and nothing else")
    })?;
    if !name::is_strong(&body.password, &name) {
        return Err(invalid("weak_password", "a password has 8 to 1024 bytes and is not the username"));
    }
    auth.admit_account(&name)?;
    let display = name::display(body.display_name.as_deref(), &name);
    let password = auth.hasher.hash(body.password).await?;
    let request = Request::Register { name: name.clone(), display, password };
    let reply = auth.ask_account(&name, request).await?;
    if reply == Reply::NameTaken {
        return Err(Problem::new(StatusCode::CONFLICT, "name_taken", "somebody has this username"));
    }
    let Reply::Registered { user } = reply else { return Err(unexpected()) };
    tracing::debug!(%user, "registered");
    Ok((StatusCode::CREATED, Answer(Registered { user_id: user.raw().to_string(), username: name })))
}

async fn login(
    State(auth): State<Arc<Auth>>,
    Extension(peer): Extension<Peer>,
    Json(body): Json<LoginBody>,
) -> Result<Answer<Tokens>, Problem> {
    auth.admit_network(peer)?;
    let account = match name::canonical(&body.username) {
        Some(name) if name::is_possible(&body.password) => {
            auth.admit_account(&name)?;
            let reply = auth.ask_account(&name, Request::FindAccount { name: name.clone() }).await?;
            let Reply::Account(account) = reply else { return Err(unexpected()) };
            account
        }
        _ => None,
    };
    let (user, phc) = account.unzip();
    // A user that does not exist costs a hash, too: the time of the answer says nothing.
    let is_right = auth.hasher.verify(body.password, phc).await?;
    let Some(user) = user.filter(|_| is_right) else {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "bad_credentials", "username or password is wrong"));
    };
    let device = DeviceId::from_raw(u64::from_be_bytes(random()).max(1));
    let token = RefreshToken::first(user, device);
    let request = Request::OpenDevice {
        user,
        device,
        secret: token.digest(),
        name: name::device(body.device_name.as_deref()),
        devices_max: auth.devices_max,
    };
    if auth.ask_user(user, request).await? != Reply::DeviceOpened {
        return Err(unexpected());
    }
    tracing::debug!(%user, %device, "logged in");
    Ok(Answer(auth.tokens_for(&token)))
}

async fn refresh(
    State(auth): State<Arc<Auth>>,
    Extension(peer): Extension<Peer>,
    Json(body): Json<RefreshBody>,
) -> Result<Answer<Tokens>, Problem> {
    auth.admit_network(peer)?;
    let refused = || {
        let detail = "the refresh token is not valid, was used before, or its device was logged out: log in again";
        Problem::new(StatusCode::UNAUTHORIZED, "bad_refresh_token", detail)
    };
    let attempt: u128 = body.attempt.parse().map_err(|_| {
        let detail = "attempt is a number that the client chooses for this exchange, as decimal text";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_attempt", detail)
    })?;
    let presented = RefreshToken::parse(&body.refresh_token).ok_or_else(refused)?;
    let successor = presented.successor(&auth.refresh_key, attempt);
    let (user, device) = (presented.user, presented.device);
    let request = Request::RotateDevice {
        user,
        device,
        generation: presented.generation,
        secret: presented.digest(),
        successor: successor.digest(),
        attempt,
    };
    let reply = auth.ask_user(user, request).await?;
    if reply == Reply::Refused {
        tracing::debug!(%user, %device, "refresh token refused");
        return Err(refused());
    }
    if reply != (Reply::Rotated { generation: successor.generation }) {
        return Err(unexpected());
    }
    Ok(Answer(auth.tokens_for(&successor)))
}

async fn logout(State(auth): State<Arc<Auth>>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let (claims, _) = auth.caller(&headers).await?;
    let request = Request::CloseDevice { user: claims.user, device: Some(claims.device) };
    auth.ask_user(claims.user, request).await?;
    tracing::debug!(user = %claims.user, device = %claims.device, "logged out");
    Ok(StatusCode::NO_CONTENT)
}

async fn list_devices(State(auth): State<Arc<Auth>>, headers: HeaderMap) -> Result<Answer<Devices>, Problem> {
    let (_, devices) = auth.caller(&headers).await?;
    Ok(Answer(Devices { devices }))
}

async fn close_devices(State(auth): State<Arc<Auth>>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let (claims, _) = auth.caller(&headers).await?;
    auth.ask_user(claims.user, Request::CloseDevice { user: claims.user, device: None }).await?;
    tracing::debug!(user = %claims.user, "logged out everywhere");
    Ok(StatusCode::NO_CONTENT)
}

async fn close_device(
    State(auth): State<Arc<Auth>>,
    Path(device): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (claims, devices) = auth.caller(&headers).await?;
    let known = devices.iter().any(|known| known.device_id == device);
    let Some(device) = device.parse().ok().filter(|_| known).map(DeviceId::from_raw) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_device", "you have no such device"));
    };
    auth.ask_user(claims.user, Request::CloseDevice { user: claims.user, device: Some(device) }).await?;
    tracing::debug!(user = %claims.user, %device, "logged out");
    Ok(StatusCode::NO_CONTENT)
}

fn unauthorized(code: CloseCode) -> Problem {
    let known = [(CloseCode::ExpiredToken, "expired_token"), (CloseCode::Revoked, "revoked")];
    let known = known.into_iter().find(|(known, _)| *known == code).map(|(code, name)| (name, code.text()));
    let (name, detail) = known.unwrap_or(("bad_token", "send a valid access token: Authorization: Bearer ..."));
    Problem::new(StatusCode::UNAUTHORIZED, name, detail)
}

fn too_many(wait: Duration) -> Problem {
    Problem::later(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many attempts: wait and try again", wait)
}

fn unavailable(failure: AppendFailure) -> Problem {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    match failure {
        AppendFailure::Busy => Problem::busy(),
        AppendFailure::Unavailable => {
            let detail = "the server cannot store anything at present; nothing was changed";
            Problem::later(status, "unavailable", detail, Duration::from_secs(5))
        }
        AppendFailure::Unknown => {
            let detail = "it is not known whether this was done; try again in the same way";
            Problem::later(status, "outcome_unknown", detail, Duration::from_secs(1))
        }
    }
}

/// A shard answered another question: ours to find.
fn unexpected() -> Problem {
    tracing::error!("a shard's answer does not fit the request");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error")
}

impl From<HasherBusy> for Problem {
    fn from(_: HasherBusy) -> Self {
        Self::busy()
    }
}

/// Says nothing of keys and accounts.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}
