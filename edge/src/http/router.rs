//! Puts the public routes together and what holds for all of them: request ids, JSON errors, CORS, deadlines, counters.
//! The order of the layers is the order in which a request meets them, outermost last.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tracing::Instrument;

use super::body::{BodyTimeout, collect};
use super::count::{HttpCounters, Route};
use super::problem::Problem;
use super::upgrade::{Upgrades, upgrade};
use crate::auth::{self, Auth, random};
use crate::clock::Clock;

/// Names a request in answers and logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A trace that a caller began elsewhere. W3C Trace Context.
const TRACE_PARENT: &str = "traceparent";
/// From the end of the body to the answer. Unit: time. Longer than any queue lets a request wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// What `GET /` says.
const PAGE: &str = include_str!("page.html");

/// What the router is made of.
#[derive(Debug)]
pub struct RouterParts {
    /// The API of accounts.
    pub auth: Arc<Auth>,
    /// The socket.
    pub upgrades: Arc<Upgrades>,
    /// Pages of other origins that may call the API.
    pub origins: Arc<[String]>,
    /// For the bodies of requests.
    pub body_timeout: Duration,
    /// Where requests are counted.
    pub counters: Arc<HttpCounters>,
    /// The process's clock.
    pub clock: Clock,
}

/// The public routes.
pub fn router(parts: RouterParts) -> Router {
    let body_timeout = Arc::new(BodyTimeout(parts.body_timeout));
    let api = Router::new()
        .nest("/api/v1/auth", auth::routes(parts.auth))
        .layer(from_fn_with_state(body_timeout, collect))
        .layer(from_fn(deadline));
    let watch = Watch { counters: parts.counters, clock: parts.clock };
    Router::new()
        .merge(api)
        .route("/", get(page))
        .route("/api/v1/socket", get(upgrade).with_state(parts.upgrades))
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(from_fn_with_state(parts.origins, cors))
        .layer(from_fn_with_state(watch, observe))
}

#[derive(Debug, Clone)]
struct Watch {
    counters: Arc<HttpCounters>,
    clock: Clock,
}

/// Names the request, counts it, and puts what holds for every answer into it.
async fn observe(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    let id = trace_id(request.headers());
    let route = Route::of(request.extensions().get::<MatchedPath>().map(MatchedPath::as_str));
    let span = tracing::info_span!("request", id, route = route.label(), method = method(request.method()));
    let started = watch.clock.now().instant;
    let _in_flight = watch.counters.begin();
    let ambiguous = request.headers().contains_key(header::TRANSFER_ENCODING)
        && request.headers().contains_key(header::CONTENT_LENGTH);
    let mut response = if ambiguous {
        // RFC 9112 section 6.1: such a message "ought to be handled as an error", lest another server see another request in it.
        let problem =
            Problem::new(StatusCode::BAD_REQUEST, "ambiguous_length", "send Content-Length or Transfer-Encoding");
        let mut response = problem.into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    } else {
        next.run(request).instrument(span.clone()).await
    };
    let status = response.status();
    watch.counters.answered(route, status.as_u16());
    let took = watch.clock.now().instant.saturating_duration_since(started);
    span.in_scope(|| {
        tracing::debug!(
            status = status.as_u16(),
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "answered"
        );
    });
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The caller's trace id if it sent one, otherwise a new one: 32 hexadecimal digits.
fn trace_id(headers: &HeaderMap) -> String {
    let parent = headers.get(TRACE_PARENT).and_then(|parent| parent.to_str().ok());
    let given = parent.and_then(|parent| parent.split('-').nth(1)).filter(|id| {
        id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && id.bytes().any(|b| b != b'0')
    });
    given.map_or_else(|| format!("{:032x}", u128::from_be_bytes(random())), str::to_owned)
}

/// A method that is not one of these is the client's invention, and not for the log.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Lets pages of allowed origins read answers, and answers their browsers' questions. No credentials: tokens are in headers.
async fn cors(State(origins): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.filter(|origin| origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()));
    let is_preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        && allowed.is_some();
    let mut response = if is_preflight {
        let mut response = StatusCode::NO_CONTENT.into_response();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    } else {
        next.run(request).await
    };
    if !origins.is_empty() {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after, x-request-id"));
    }
    response
}

/// Ends a request that a shard does not answer.
async fn deadline(request: Request, next: Next) -> Response {
    tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| {
        let detail = "no answer in time; it is not known whether this was done";
        Problem::later(StatusCode::GATEWAY_TIMEOUT, "timed_out", detail, Duration::from_secs(1)).into_response()
    })
}

async fn page() -> Response<Body> {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE)).into_response()
}
