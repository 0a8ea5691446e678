//! The operator's listener: liveness, readiness, metrics. Plain HTTP on an address of its own; nothing else is served here, and
//! nothing here is served elsewhere.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tern_persistence::State as StoreState;

use crate::http::Problem;
use crate::metrics::{self, Look, Snapshot, Sources};

/// Entities that cannot be read and are named in readiness. Unit: entities. The log names all.
const NAMES_MAX: usize = 8;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Opening the store, catching up.
    Starting = 0,
    /// Serving.
    Ready = 1,
    /// Telling clients to go.
    Draining = 2,
}

/// What the admin listener shows.
#[derive(Default)]
pub struct Status {
    phase: AtomicU8,
    node: OnceLock<(Look, Arc<Sources>)>,
}

#[derive(Debug, Serialize)]
struct Readiness {
    status: &'static str,
    shards: Dependency,
    journal: Dependency,
    view: Dependency,
}

#[derive(Debug, Clone, Serialize)]
struct Dependency {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Status {
    /// Moves on.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Shows a node that runs. Only the first one counts.
    pub fn show(&self, look: Look, sources: Arc<Sources>) {
        let _ = self.node.set((look, sources));
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    fn readiness(&self) -> (StatusCode, Readiness) {
        let snapshot = self.node.get().map(|(look, _)| look());
        let (journal, view) = match snapshot.as_ref().map(|snapshot| snapshot.store.as_ref()) {
            None => (Dependency::new("starting"), Dependency::new("starting")),
            Some(None) => (Dependency::new("closed"), Dependency::new("closed")),
            Some(Some((health, _))) => (Dependency::of(&health.journal), Dependency::of(&health.view)),
        };
        let shards = match &snapshot {
            Some(Snapshot { caught_up: true, aside, .. }) if aside.is_empty() => Dependency::new("ok"),
            Some(Snapshot { caught_up: true, aside, .. }) => Dependency::unreadable(aside),
            Some(_) => Dependency::new("catching_up"),
            None => Dependency::new("starting"),
        };
        let works = |dependency: &Dependency| matches!(dependency.status, "ok" | "degraded");
        let status = match self.phase() {
            Phase::Draining => "draining",
            Phase::Starting => "starting",
            Phase::Ready if ![&shards, &journal, &view].into_iter().all(works) => "failed",
            Phase::Ready => "ready",
        };
        let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, Readiness { status, shards, journal, view })
    }
}

impl Dependency {
    const fn new(status: &'static str) -> Self {
        Self { status, reason: None }
    }

    fn unreadable(names: &[String]) -> Self {
        let shown = names.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = match names.len().saturating_sub(NAMES_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Self { status: "degraded", reason: Some(format!("cannot be read and set aside: {shown}{more}")) }
    }

    fn of(state: &StoreState) -> Self {
        match state {
            StoreState::Ok => Self::new("ok"),
            StoreState::Degraded(reason) => Self { status: "degraded", reason: Some(reason.clone()) },
            StoreState::Failed(reason) => Self { status: "failed", reason: Some(reason.clone()) },
        }
    }
}

/// The admin routes.
pub fn router(status: Arc<Status>) -> Router {
    Router::new()
        .route("/health/live", get(|| async { Json(Dependency::new("live")) }))
        .route(
            "/health/ready",
            get(|State(status): State<Arc<Status>>| async move {
                let (code, readiness) = status.readiness();
                (code, Json(readiness))
            }),
        )
        .route("/metrics", get(scrape))
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(status)
}

async fn scrape(State(status): State<Arc<Status>>) -> Response {
    let Some((look, sources)) = status.node.get() else {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "the server is starting").into_response();
    };
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::encode(sources, look())).into_response()
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Status").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::metrics::tests::{snapshot, sources};

    async fn get_from(status: &Arc<Status>, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(Arc::clone(status)).oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn running(journal: StoreState) -> Arc<Status> {
        let status = Arc::new(Status::default());
        status.show(Box::new(move || snapshot(journal.clone())), sources());
        status.enter(Phase::Ready);
        status
    }

    #[tokio::test]
    async fn readiness_follows_the_life_of_the_server() {
        let status = Arc::new(Status::default());
        assert_eq!(get_from(&status, "/health/live").await.0, 200);
        assert_eq!(get_from(&status, "/metrics").await.0, 503);
        let expected = r#"{"status":"starting","shards":{"status":"starting"},"journal":{"status":"starting"},"view":{"status":"starting"}}"#;
        assert_eq!(get_from(&status, "/health/ready").await, (503, expected.to_owned()));
        let status = running(StoreState::Ok);
        let expected =
            r#"{"status":"ready","shards":{"status":"ok"},"journal":{"status":"ok"},"view":{"status":"ok"}}"#;
        assert_eq!(get_from(&status, "/health/ready").await, (200, expected.to_owned()));
        assert_eq!(get_from(&status, "/metrics").await.0, 200);
        status.enter(Phase::Draining);
        assert_eq!(get_from(&status, "/health/ready").await.0, 503);
        assert_eq!(get_from(&status, "/health/live").await.0, 200);
    }

    #[tokio::test]
    async fn a_failed_store_is_not_ready_and_says_why_and_a_degraded_one_is() {
        let (code, text) = get_from(&running(StoreState::Failed("fdatasync failed".into())), "/health/ready").await;
        assert!(code == 503 && text.contains(r#""journal":{"status":"failed","reason":"fdatasync failed"}"#), "{text}");
        let (code, text) = get_from(&running(StoreState::Degraded("slow".into())), "/health/ready").await;
        assert!(code == 200 && text.contains(r#""status":"degraded","reason":"slow""#), "{text}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named_and_the_server_is_ready_all_the_same() {
        let status = Arc::new(Status::default());
        let aside: Vec<String> = (0..10).map(|id| format!("user_{id}")).collect();
        let look = move || Snapshot { aside: aside.clone(), ..snapshot(StoreState::Ok) };
        status.show(Box::new(look), sources());
        status.enter(Phase::Ready);
        let (code, text) = get_from(&status, "/health/ready").await;
        let named = r#""shards":{"status":"degraded","reason":"cannot be read and set aside: user_0, user_1, "#;
        assert!(code == 200 && text.contains(named) && text.contains("user_7 and 2 more"), "{text}");
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        let status = running(StoreState::Ok);
        for path in ["/", "/api/v1/auth/login", "/api/v1/socket", "/health", "/debug"] {
            assert_eq!(get_from(&status, path).await.0, 404, "{path}");
        }
    }
}
