//! `GET /api/v1/socket`: checks the request, answers 101, and hands the TLS connection to a shard, which speaks WebSocket on it.
//! Knows nothing of WebSocket frames.

use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tern_protocol::ShardId;
use tern_protocol::placement::Placement;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::connection::Paced;
use super::count::HttpCounters;
use super::problem::Problem;
use crate::auth::Auth;
use crate::node::HandedSocket;

/// The sub-protocol: binary messages, each one frame.
const SUBPROTOCOL: &str = "tern.v1.rkyv";
/// The only version there is.
///
/// # Source
/// RFC 6455 section 4.1: "The value of this header field MUST be 13."
const WEBSOCKET_VERSION: &str = "13";
/// Appended to the client's key. RFC 6455 section 1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// From the answer to the hand-over. Unit: time. Only a client that does not read can make it long.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes upgraded sockets.
pub trait Sockets: Send + Sync {
    /// Gives a socket to a shard.
    ///
    /// # Errors
    /// The socket, when the shard cannot take it.
    #[expect(clippy::result_large_err, reason = "the socket goes back to its owner, who closes it")]
    fn hand_over(&self, shard: ShardId, socket: HandedSocket) -> Result<(), HandedSocket>;
}

/// What the upgrade needs.
pub struct Upgrades {
    sockets: Arc<dyn Sockets>,
    auth: Arc<Auth>,
    placement: Placement,
    origins: Arc<[String]>,
    counters: Arc<HttpCounters>,
    /// Where the next socket without a token goes.
    next: AtomicU16,
}

impl Upgrades {
    /// Upgrades for pages of these origins and of this host.
    #[must_use]
    pub fn new(
        sockets: Arc<dyn Sockets>,
        auth: Arc<Auth>,
        placement: Placement,
        origins: Arc<[String]>,
        counters: Arc<HttpCounters>,
    ) -> Self {
        Self { sockets, auth, placement, origins, counters, next: AtomicU16::new(0) }
    }

    /// The user's home when the token says who it is; otherwise one after the other.
    fn shard_for(&self, headers: &HeaderMap) -> Result<ShardId, Problem> {
        Ok(match self.auth.claims(headers)? {
            Some(claims) => self.placement.home(claims.user),
            None => ShardId::from_raw(self.next.fetch_add(1, Ordering::Relaxed) % self.placement.shards()),
        })
    }

    async fn hand_over(&self, shard: ShardId, upgrade: OnUpgrade) {
        let taken = match tokio::time::timeout(UPGRADE_TIMEOUT, upgrade).await {
            Ok(Ok(upgraded)) => {
                take_apart(upgraded).is_some_and(|socket| self.sockets.hand_over(shard, socket).is_ok())
            }
            _ => false,
        };
        HttpCounters::add(if taken { &self.counters.upgrades } else { &self.counters.upgrade_failures });
        if !taken {
            tracing::debug!(%shard, "an upgraded socket was not handed over");
        }
    }
}

/// The handler.
pub(super) async fn upgrade(State(upgrades): State<Arc<Upgrades>>, mut request: Request) -> Response {
    let accepted = match check(&request, &upgrades.origins).and_then(|key| {
        let shard = upgrades.shard_for(request.headers())?;
        let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or(Refusal::NotUpgrade)?;
        Ok((key, shard, upgrade))
    }) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal.into_response(),
    };
    let (accept, shard, upgrade) = accepted;
    // On its own task: it must outlive this answer, which it waits for.
    tokio::spawn(async move { upgrades.hand_over(shard, upgrade).await });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    response
}

/// Why a request is not upgraded.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// It does not ask for a WebSocket.
    NotUpgrade,
    /// It asks for another version.
    Version,
    /// Anything else.
    Problem(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (header, value, detail) = match self {
            Self::Problem(problem) => return problem.into_response(),
            Self::NotUpgrade => (UPGRADE, "websocket", "this path speaks WebSocket over HTTP/1.1 only"),
            Self::Version => (SEC_WEBSOCKET_VERSION, WEBSOCKET_VERSION, "this server speaks WebSocket version 13"),
        };
        let mut response = Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail).into_response();
        response.headers_mut().insert(header, HeaderValue::from_static(value));
        response
    }
}

/// Checks a request; says what `Sec-WebSocket-Accept` is to be.
///
/// # Source
/// RFC 6455 section 4.2.1. The method is the router's: only GET comes here.
fn check<B>(request: &axum::http::Request<B>, origins: &[String]) -> Result<HeaderValue, Refusal> {
    let headers = request.headers();
    let bad = |code, detail| Err(Refusal::Problem(Problem::new(StatusCode::BAD_REQUEST, code, detail)));
    if request.version() != Version::HTTP_11
        || !has_word(headers, &CONNECTION, "upgrade")
        || !has_word(headers, &UPGRADE, "websocket")
    {
        return Err(Refusal::NotUpgrade);
    }
    if only(headers, &SEC_WEBSOCKET_VERSION) != Some(WEBSOCKET_VERSION) {
        return Err(Refusal::Version);
    }
    if headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return bad("unexpected_body", "an upgrade has no body");
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY);
    let Some(key) = key.filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16)) else {
        return bad("bad_key", "Sec-WebSocket-Key must be there once, 16 bytes in base64");
    };
    if !has_word(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return bad("bad_subprotocol", "Sec-WebSocket-Protocol must offer tern.v1.rkyv");
    }
    if !is_welcome(headers, origins) {
        let detail = "pages of this origin may not connect: see http.origins in the server's configuration";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail).into());
    }
    Ok(accept(key))
}

/// The only value of a header; `None` when there is none, or there are two.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

/// Whether a comma-separated header has a word.
fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
}

/// Programs send no origin. A page's origin must be this host's or allowed: browsers let any page open a socket anywhere.
fn is_welcome(headers: &HeaderMap, origins: &[String]) -> bool {
    if !headers.contains_key(ORIGIN) {
        return true;
    }
    let Some(origin) = only(headers, &ORIGIN) else { return false };
    let is_own = origin
        .strip_prefix("https://")
        .is_some_and(|own| only(headers, &HOST).is_some_and(|host| own.eq_ignore_ascii_case(host)));
    is_own || origins.iter().any(|allowed| allowed == origin)
}

/// RFC 6455 section 4.2.2, step 5: SHA-1 of key and suffix. A handshake check, not security.
fn accept(key: &str) -> HeaderValue {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(ACCEPT_SUFFIX);
    HeaderValue::from_str(&STANDARD.encode(context.finish())).expect("base64 is a header value")
}

/// The socket, the TLS session on it, and what the HTTP side has read too much; `None` for a connection without TLS.
fn take_apart(upgraded: Upgraded) -> Option<HandedSocket> {
    let parts = upgraded.downcast::<TokioIo<Paced<TlsStream<TcpStream>>>>().ok()?;
    let (tcp, tls) = parts.io.into_inner().into_inner().into_inner();
    let tcp: StdTcpStream = tcp.into_std().ok()?;
    Some(HandedSocket { tcp, tls, read_buf: parts.read_buf })
}

impl std::fmt::Debug for Upgrades {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrades").field("origins", &self.origins).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut HeaderMap)) -> axum::http::Request<()> {
        let mut request = axum::http::Request::get("/api/v1/socket").body(()).unwrap();
        for (name, value) in [
            (HOST, "chat.example:7443"),
            (CONNECTION, "keep-alive, Upgrade"),
            (UPGRADE, "WebSocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (SEC_WEBSOCKET_PROTOCOL, "other, tern.v1.rkyv"),
        ] {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        change(request.headers_mut());
        request
    }

    fn outcome(change: impl FnOnce(&mut HeaderMap)) -> Result<String, (u16, HeaderMap)> {
        match check(&request(change), &["https://web.example".to_owned()]) {
            Ok(accept) => Ok(accept.to_str().unwrap().to_owned()),
            Err(refusal) => {
                let response = refusal.into_response();
                Err((response.status().as_u16(), response.headers().clone()))
            }
        }
    }

    fn status(name: HeaderName, value: &'static str) -> u16 {
        let outcome = outcome(|headers| {
            headers.insert(name, HeaderValue::from_static(value));
        });
        outcome.map_or_else(|(status, _)| status, |_| 101)
    }

    /// The key and answer of RFC 6455 section 1.3.
    #[test]
    fn a_good_request_is_accepted_with_the_rfc_s_answer() {
        assert_eq!(outcome(|_| ()).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn other_versions_are_told_which_one_to_speak() {
        for version in ["7", "8", "", "13, 8"] {
            assert_eq!(status(SEC_WEBSOCKET_VERSION, version), 426, "{version}");
        }
        let (_, headers) = outcome(|headers| drop(headers.remove(SEC_WEBSOCKET_VERSION))).unwrap_err();
        assert_eq!(headers.get(SEC_WEBSOCKET_VERSION).unwrap(), "13");
    }

    #[test]
    fn a_request_that_does_not_ask_for_an_upgrade_gets_426() {
        assert_eq!(status(UPGRADE, "h2c"), 426);
        assert_eq!(status(CONNECTION, "keep-alive"), 426);
        let mut old = request(|_| ());
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(check(&old, &[]), Err(Refusal::NotUpgrade));
    }

    #[test]
    fn keys_that_are_missing_repeated_or_wrong_are_refused() {
        for key in ["", "short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSBsb25nZXI=", "!!!!"] {
            assert_eq!(status(SEC_WEBSOCKET_KEY, key), 400, "{key}");
        }
        let twice = outcome(|headers| {
            headers.append(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        });
        assert_eq!(twice.unwrap_err().0, 400);
        assert_eq!(outcome(|headers| drop(headers.remove(SEC_WEBSOCKET_KEY))).unwrap_err().0, 400);
    }

    #[test]
    fn the_subprotocol_must_be_offered_and_a_body_must_not() {
        assert_eq!(status(SEC_WEBSOCKET_PROTOCOL, "tern.v2"), 400);
        assert_eq!(outcome(|headers| drop(headers.remove(SEC_WEBSOCKET_PROTOCOL))).unwrap_err().0, 400);
        assert_eq!(status(CONTENT_LENGTH, "5"), 400);
        assert_eq!(status(TRANSFER_ENCODING, "chunked"), 400);
    }

    #[test]
    fn only_pages_of_this_host_and_of_allowed_origins_may_connect() {
        assert_eq!(status(ORIGIN, "https://chat.example:7443"), 101);
        assert_eq!(status(ORIGIN, "https://web.example"), 101);
        for origin in [
            "https://evil.example",
            "http://chat.example:7443",
            "null",
            "https://web.example.evil.example",
            "https://chat.example",
            "",
        ] {
            assert_eq!(status(ORIGIN, origin), 403, "{origin}");
        }
    }
}
