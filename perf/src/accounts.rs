//! Accounts for a fleet: registers and logs them in over a few kept-alive HTTPS connections, each with one request at a time. An account
//! that exists is as good as a new one. Never keeps a refresh token: a run is shorter than an access token's life.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tern_protocol::UserId;
use tern_protocol::limit::ACCOUNT_NAME_SIZE_MAX;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::fleet::Account;
use crate::fleet::tls::{Pin, client_config};

/// Every account has the same one: they hold nothing.
const PASSWORD: &str = "only for measuring";
/// Everything of one request. A queue of password hashes is seconds of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Times that one request is tried: a busy server says when to come back.
const ATTEMPTS_MAX: u32 = 20;
/// Wait before another attempt where the server names none. Unit: time.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Largest answer. Unit: bytes.
const ANSWER_SIZE_MAX: usize = 64 * 1024;

/// Why there are no accounts.
#[derive(Debug)]
pub enum ProvisionError {
    /// The prefix and a number are longer than a name may be.
    PrefixTooLong(String),
    /// The server could not be reached.
    Network(io::Error),
    /// The server answered with something else than an account.
    Refused {
        /// What was asked.
        request: &'static str,
        /// HTTP status.
        status: u16,
        /// The body of the answer.
        answer: String,
    },
}

impl fmt::Display for ProvisionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PrefixTooLong(name) => {
                write!(
                    f,
                    "{name:?} is longer than the {ACCOUNT_NAME_SIZE_MAX} bytes of a name: choose a shorter prefix"
                )
            }
            Self::Network(error) => write!(f, "accounts cannot be made: {error}"),
            Self::Refused { request, status, answer } => {
                write!(f, "{request} was answered with {status}: {answer}")?;
                if *status == 429 {
                    f.write_str("; raise auth.account_attempts_burst and auth.prefix_attempts_burst of the server")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ProvisionError {}

impl From<io::Error> for ProvisionError {
    fn from(error: io::Error) -> Self {
        Self::Network(error)
    }
}

#[derive(Serialize)]
struct Credentials<'a> {
    username: &'a str,
    password: &'a str,
}

#[derive(Deserialize)]
struct Tokens {
    user_id: String,
    access_token: String,
    home: Option<Home>,
}

#[derive(Deserialize)]
struct Home {
    shard: u16,
    shards: u16,
}

/// Registers and logs in the accounts `prefix0`, `prefix1` and so on, over `connections` connections. `progress` is told how many are done.
///
/// # Errors
/// See [`ProvisionError`]; the first one ends it.
pub fn provision(
    server: SocketAddr,
    prefix: &str,
    count: usize,
    connections: usize,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Account>, ProvisionError> {
    let longest = format!("{prefix}{count}");
    if longest.len() > ACCOUNT_NAME_SIZE_MAX {
        return Err(ProvisionError::PrefixTooLong(longest));
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let mut tls = client_config(&Pin::new())?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = TlsConnector::from(Arc::new(tls));
    let names: VecDeque<(usize, String)> = (0..count).map(|index| (index, format!("{prefix}{index}"))).collect();
    let names = Arc::new(Mutex::new(names));
    let (done, mut results) = mpsc::unbounded_channel();
    for _ in 0..connections.clamp(1, count.max(1)) {
        runtime.spawn(work(Desk { server, tls: tls.clone(), sender: None }, Arc::clone(&names), done.clone()));
    }
    drop(done);
    let mut accounts: Vec<Option<Account>> = Vec::new();
    accounts.resize_with(count, || None);
    let mut made = 0;
    while let Some(result) = results.blocking_recv() {
        let (index, account) = result?;
        if let Some(place) = accounts.get_mut(index) {
            *place = Some(account);
        }
        made += 1;
        progress(made);
    }
    let accounts: Option<Vec<Account>> = accounts.into_iter().collect();
    accounts.ok_or_else(|| ProvisionError::Network(io::Error::other("a connection ended without a word")))
}

/// Makes accounts until there are no more names, or something goes wrong.
async fn work(
    mut desk: Desk,
    names: Arc<Mutex<VecDeque<(usize, String)>>>,
    done: mpsc::UnboundedSender<Result<(usize, Account), ProvisionError>>,
) {
    loop {
        let next = names.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((index, name)) = next else { return };
        let made = desk.make(&name).await;
        let failed = made.is_err();
        if done.send(made.map(|account| (index, account))).is_err() || failed {
            return;
        }
    }
}

/// One connection, made again when it ends.
struct Desk {
    server: SocketAddr,
    tls: TlsConnector,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Desk {
    async fn make(&mut self, name: &str) -> Result<Account, ProvisionError> {
        let body = serde_json::to_vec(&Credentials { username: name, password: PASSWORD }).map_err(io::Error::other)?;
        let body = Bytes::from(body);
        self.ask("register", &body, &[StatusCode::CREATED, StatusCode::CONFLICT]).await?;
        let answer = self.ask("login", &body, &[StatusCode::OK]).await?;
        let tokens: Tokens = serde_json::from_slice(&answer).map_err(io::Error::other)?;
        let user = tokens.user_id.parse().map_err(io::Error::other)?;
        Ok(Account {
            user: UserId::from_raw(user),
            token: tokens.access_token.into(),
            home: tokens.home.map(|home| (home.shard, home.shards)),
        })
    }

    /// Asks until the answer is one of those that are wanted.
    async fn ask(
        &mut self,
        request: &'static str,
        body: &Bytes,
        wanted: &[StatusCode],
    ) -> Result<Bytes, ProvisionError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let result = tokio::time::timeout(REQUEST_TIMEOUT, self.ask_once(request, body)).await;
            let pause = match result.map_err(io::Error::other).flatten() {
                Ok((status, answer, _)) if wanted.contains(&status) => return Ok(answer),
                Ok((status, answer, retry_after)) => {
                    let busy = matches!(
                        status,
                        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT
                    );
                    if !busy || attempts >= ATTEMPTS_MAX {
                        let answer = String::from_utf8_lossy(&answer).into_owned();
                        return Err(ProvisionError::Refused { request, status: status.as_u16(), answer });
                    }
                    retry_after.map_or(RETRY_PAUSE, Duration::from_secs)
                }
                // A kept-alive connection may be closed at any time: the request is safe to repeat.
                Err(error) if attempts >= ATTEMPTS_MAX => return Err(ProvisionError::Network(error)),
                Err(_) => {
                    self.sender = None;
                    RETRY_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask_once(&mut self, request: &str, body: &Bytes) -> io::Result<(StatusCode, Bytes, Option<u64>)> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            self.sender = Some(self.connect().await?);
        }
        let Some(sender) = &mut self.sender else { return Err(io::Error::other("no connection")) };
        sender.ready().await.map_err(io::Error::other)?;
        let asked = Request::post(format!("/api/v1/auth/{request}"))
            .header(HOST, self.server.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.clone()))
            .map_err(io::Error::other)?;
        let answer = sender.send_request(asked).await.map_err(io::Error::other)?;
        let status = answer.status();
        let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(answer.into_body(), ANSWER_SIZE_MAX).collect().await.map_err(io::Error::other)?;
        Ok((status, body.to_bytes(), after))
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let tcp = TcpStream::connect(self.server).await?;
        tcp.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::IpAddress(self.server.ip().into()), tcp).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Drives the connection until either side closes it; what went wrong is seen at the next request.
        tokio::spawn(connection);
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_is_too_long_is_refused_before_anything_is_asked() {
        let prefix = "a-prefix-of-thirty-one-letters-";
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let error = provision(nobody, prefix, 100, 1, |_| {}).expect_err("too long");
        assert!(error.to_string().contains("shorter prefix"), "{error}");
    }
}
