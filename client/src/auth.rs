//! Accounts and devices over HTTPS: register, log in, exchange the refresh token, log out. One request per connection.
//! Never keeps a token and never tries twice: see `tokens.rs`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tern_protocol::{DeviceId, UserId};

use crate::wire::{Dialer, Home, WireError};

/// Everything from the TCP handshake to the last byte of the answer. Password hashing is a second of it under load.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer that is read. Unit: bytes. A hundred devices are 10 KiB.
const RESPONSE_SIZE_MAX: usize = 256 * 1024;

/// Why the server did not do what was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum AuthError {
    /// Name or password is wrong; the server does not say which.
    BadCredentials,
    /// Somebody has the name.
    NameTaken,
    /// The request itself is not acceptable (name or password by the rules); the text says why.
    Invalid(String),
    /// The refresh or access token counts for nothing (any more): log in again.
    LoggedOut,
    /// Not now; again after this long.
    RetryLater(Duration),
    /// The server could not be reached, or stopped answering: the outcome is unknown.
    Network(WireError),
    /// The answer makes no sense.
    Unexpected(String),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCredentials => f.write_str("wrong name or password"),
            Self::NameTaken => f.write_str("this name is taken: choose another one"),
            Self::Invalid(why) => f.write_str(why),
            Self::LoggedOut => f.write_str("this device is logged out: log in again"),
            Self::RetryLater(after) => write!(f, "the server asks to try again in {} s", after.as_secs().max(1)),
            Self::Network(error) => error.fmt(f),
            Self::Unexpected(what) => write!(f, "unexpected answer of the server: {what}"),
        }
    }
}

impl std::error::Error for AuthError {}

impl From<WireError> for AuthError {
    fn from(error: WireError) -> Self {
        Self::Network(error)
    }
}

/// What a log-in or an exchange gives.
#[derive(Clone)]
pub struct Grant {
    /// Who.
    pub user: UserId,
    /// This device.
    pub device: DeviceId,
    /// For hello frames and bearer headers.
    pub access_token: String,
    /// How long the access token is good.
    pub access_expires_in: Duration,
    /// For the next exchange; the one before is void.
    pub refresh_token: String,
    /// Where the user's sessions are best placed.
    pub home: Option<Home>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("user", &self.user).field("device", &self.device).finish_non_exhaustive()
    }
}

/// One of the user's logged-in devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Which.
    pub device: DeviceId,
    /// What the person called it.
    pub name: String,
    /// When it logged in. Unit: milliseconds since 1970.
    pub created_at: u64,
    /// When its token was last exchanged. Unit: milliseconds since 1970.
    pub last_used_at: u64,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// The auth API of one server.
#[derive(Debug, Clone)]
pub struct Auth {
    dialer: Dialer,
}

impl Auth {
    /// The auth API behind this dialer.
    #[must_use]
    pub const fn new(dialer: Dialer) -> Self {
        Self { dialer }
    }

    /// Makes an account. `display` is the name that others see; the account name if `None`.
    ///
    /// # Errors
    /// [`AuthError::NameTaken`], [`AuthError::Invalid`], and those of any request.
    pub async fn register(&self, user: &str, password: &str, display: Option<&str>) -> Result<UserId, AuthError> {
        let body = RegisterBody { username: user, password, display_name: display };
        let answer = self.call(Method::POST, "register", None, Some(json(&body)?)).await?;
        let registered: Registered = parse(&answer)?;
        Ok(UserId::from_raw(number(&registered.user_id)?))
    }

    /// Logs a new device in.
    ///
    /// # Errors
    /// [`AuthError::BadCredentials`], [`AuthError::RetryLater`], and those of any request.
    pub async fn login(&self, user: &str, password: &str, device: &str) -> Result<Grant, AuthError> {
        let body = LoginBody { username: user, password, device_name: device };
        self.call(Method::POST, "login", None, Some(json(&body)?)).await.and_then(|answer| grant(&answer))
    }

    /// Exchanges a refresh token for its successor. The same `attempt` may be repeated when the answer was lost.
    ///
    /// # Errors
    /// [`AuthError::LoggedOut`] when the token is void, and those of any request.
    pub async fn refresh(&self, refresh_token: &str, attempt: u128) -> Result<Grant, AuthError> {
        let attempt = attempt.to_string();
        let body = RefreshBody { refresh_token, attempt: &attempt };
        self.call(Method::POST, "refresh", None, Some(json(&body)?)).await.and_then(|answer| grant(&answer))
    }

    /// Logs the device of this access token out.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn logout(&self, access_token: &str) -> Result<(), AuthError> {
        self.call(Method::POST, "logout", Some(access_token), None).await.map(drop)
    }

    /// The user's devices.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn devices(&self, access_token: &str) -> Result<Vec<Device>, AuthError> {
        let answer = self.call(Method::GET, "devices", Some(access_token), None).await?;
        let list: DeviceList = parse(&answer)?;
        let device = |entry: DeviceEntry| {
            Ok(Device {
                device: DeviceId::from_raw(number(&entry.device_id)?),
                name: entry.name,
                created_at: entry.created_at,
                last_used_at: entry.last_used_at,
                current: entry.current,
            })
        };
        list.devices.into_iter().map(device).collect()
    }

    /// Logs one device out, or all of them.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn logout_device(&self, access_token: &str, device: Option<DeviceId>) -> Result<(), AuthError> {
        let path = device.map_or_else(|| "devices".to_owned(), |device| format!("devices/{}", device.raw()));
        self.call(Method::DELETE, &path, Some(access_token), None).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        bearer: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, AuthError> {
        let timeout = || AuthError::Network(WireError::Io(std::io::ErrorKind::TimedOut.into()));
        let exchange = self.exchange(method, path, bearer, body);
        let (status, retry_after, answer) =
            tokio::time::timeout(REQUEST_TIMEOUT, exchange).await.map_err(|_| timeout())??;
        if status.is_success() { Ok(answer) } else { Err(refusal(status, retry_after, &answer)) }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        bearer: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Option<u64>, Bytes), AuthError> {
        let broken = |error: hyper::Error| WireError::Io(std::io::Error::other(error));
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/auth/{path}"))
            .header(HOST, self.dialer.server().to_string());
        if let Some(bearer) = bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|_| AuthError::Invalid("the token contains characters that no token has".to_owned()))?;
        let driver = tokio::spawn(connection);
        let answered = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let body = Limited::new(response.into_body(), RESPONSE_SIZE_MAX).collect().await;
            let body = body.map_err(|error| WireError::Refused(error.to_string()))?.to_bytes();
            Ok((status, retry_after, body))
        };
        let result = answered.await;
        driver.abort();
        result
    }

    /// The first address that answers.
    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, WireError> {
        let mut failed = None;
        for address in self.dialer.resolve().await? {
            match self.dialer.tls(address).await {
                Ok(stream) => return Ok(stream),
                Err(error @ WireError::KeyChanged(_)) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| WireError::Resolve(self.dialer.server().host().to_owned())))
    }
}

fn refusal(status: StatusCode, retry_after: Option<u64>, body: &[u8]) -> AuthError {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let text = if problem.detail.is_empty() { problem.title } else { problem.detail };
    match (status.as_u16(), problem.code.as_str()) {
        (_, "bad_credentials") => AuthError::BadCredentials,
        (_, "name_taken") => AuthError::NameTaken,
        (401, _) => AuthError::LoggedOut,
        (429 | 503, _) => AuthError::RetryLater(Duration::from_secs(retry_after.unwrap_or(1))),
        (400 | 422, _) if !text.is_empty() => AuthError::Invalid(text),
        (status, code) => AuthError::Unexpected(format!("HTTP {status} {code} {text}").trim_end().to_owned()),
    }
}

fn grant(answer: &[u8]) -> Result<Grant, AuthError> {
    let body: GrantBody = parse(answer)?;
    Ok(Grant {
        user: UserId::from_raw(number(&body.user_id)?),
        device: DeviceId::from_raw(number(&body.device_id)?),
        access_token: body.access_token,
        access_expires_in: Duration::from_secs(body.access_expires_in),
        refresh_token: body.refresh_token,
        home: body.home.map(|home| Home { shard: home.shard, shards: home.shards }),
    })
}

fn json(body: &impl Serialize) -> Result<Vec<u8>, AuthError> {
    serde_json::to_vec(body).map_err(|error| AuthError::Unexpected(error.to_string()))
}

fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, AuthError> {
    serde_json::from_slice(answer).map_err(|error| AuthError::Unexpected(error.to_string()))
}

/// Ids are decimal strings in JSON: JavaScript has no 64-bit integers.
fn number(text: &str) -> Result<u64, AuthError> {
    text.parse().map_err(|_| AuthError::Unexpected(format!("{text:?} is no id")))
}

#[derive(Serialize)]
struct RegisterBody<'a> {
    username: &'a str,
    password: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<&'a str>,
}

#[derive(Serialize)]
struct LoginBody<'a> {
    username: &'a str,
    password: &'a str,
    device_name: &'a str,
}

#[derive(Serialize)]
struct RefreshBody<'a> {
    refresh_token: &'a str,
    attempt: &'a str,
}

#[derive(Deserialize)]
struct Registered {
    user_id: String,
}

#[derive(Deserialize)]
struct GrantBody {
    user_id: String,
    device_id: String,
    access_token: String,
    access_expires_in: u64,
    refresh_token: String,
    home: Option<HomeBody>,
}

#[derive(Deserialize)]
struct HomeBody {
    shard: u16,
    shards: u16,
}

#[derive(Deserialize)]
struct DeviceList {
    devices: Vec<DeviceEntry>,
}

#[derive(Deserialize)]
struct DeviceEntry {
    device_id: String,
    name: String,
    created_at: u64,
    last_used_at: u64,
    current: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    code: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_who_must_act() {
        let body = br#"{"type":"about:blank","title":"x","status":401,"detail":"d","code":"bad_credentials"}"#;
        assert!(matches!(refusal(StatusCode::UNAUTHORIZED, None, body), AuthError::BadCredentials));
        assert!(matches!(refusal(StatusCode::UNAUTHORIZED, None, b"{}"), AuthError::LoggedOut));
        let later = refusal(StatusCode::SERVICE_UNAVAILABLE, Some(7), b"not json");
        assert!(matches!(later, AuthError::RetryLater(after) if after == Duration::from_secs(7)));
        let body = br#"{"detail":"at least 8 characters","code":"weak_password"}"#;
        let weak = refusal(StatusCode::UNPROCESSABLE_ENTITY, None, body);
        assert_eq!(weak.to_string(), "at least 8 characters");
    }
}
