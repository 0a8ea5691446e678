//! Bodies of requests: read whole, bounded in size and time, then parsed as JSON. Never kept, never logged.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Largest body of a request. Unit: bytes. The largest sensible one is a log-in with a 1 KiB password.
pub const BODY_SIZE_MAX: usize = 16 * 1024;

/// How long a body may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyTimeout(pub Duration);

/// Middleware: replaces the body by its bytes.
pub(super) async fn collect(State(timeout): State<Arc<BodyTimeout>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let declared =
        head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > BODY_SIZE_MAX as u64) {
        return too_large().into_response();
    }
    match tokio::time::timeout(timeout.0, to_bytes(body, BODY_SIZE_MAX)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(error)) if is_length_limit(&error) => too_large().into_response(),
        Ok(Err(_)) => Problem::new(StatusCode::BAD_REQUEST, "bad_body", "the body broke off").into_response(),
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body took too long").into_response(),
    }
}

const fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is larger than 16 KiB")
}

/// Whether reading stopped at the limit rather than at a broken connection.
fn is_length_limit(error: &axum::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        // The type is `http_body_util::LengthLimitError`, which axum does not name.
        if error.to_string() == "length limit exceeded" {
            return true;
        }
        source = error.source();
    }
    false
}

/// A JSON body.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media = request.headers().get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
        let media = media.and_then(|media| media.split(';').next()).map(str::trim);
        if !media.is_some_and(|media| media.eq_ignore_ascii_case("application/json")) {
            let detail = "send the body as application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|_| too_large())?;
        // What serde says may repeat what was sent, a password included: it is not passed on.
        let detail = "the body is not JSON of the expected form: check its fields, that they are text, and that none is there twice";
        serde_json::from_slice(&bytes).map(Self).map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "bad_json", detail))
    }
}
