//! One HTTP/1.1 connection: hyper, with deadlines for headers and for being idle that hyper does not have apart.
//! Never looks into a request.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::auth::Peer;
use crate::clock::Clock;

/// Most bytes of a request's line and headers. Unit: bytes. hyper answers 431 beyond it; it also bounds what a connection buffers.
const HEADERS_SIZE_MAX: usize = 32 * 1024;
/// Most headers of a request. Unit: headers. Browsers send about 20.
const HEADERS_MAX: usize = 64;

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From a request's first byte to the end of its headers; also from the connection to the first request.
    pub header: Duration,
    /// Without a request.
    pub idle: Duration,
}

/// Where a connection is between two requests.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Waiting for a request's first byte.
    Idle(Instant),
    /// Waiting for the end of its headers.
    Headers(Instant),
    /// A handler has it, and its own deadlines.
    Handled,
}

/// The phase, shared by the stream, the service and the watch.
struct Pace {
    phase: Mutex<Phase>,
    changed: Notify,
    clock: Clock,
}

impl Pace {
    fn enter(&self, phase: impl FnOnce(Instant) -> Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase(self.clock.now().instant);
        self.changed.notify_one();
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first bytes of a request came.
    fn received(&self) {
        if matches!(self.phase(), Phase::Idle(_)) {
            self.enter(Phase::Headers);
        }
    }

    /// Returns when a deadline has passed.
    async fn watch(&self, timeouts: Timeouts) {
        loop {
            let deadline = match self.phase() {
                Phase::Idle(since) => Some(since + timeouts.idle),
                Phase::Headers(since) => Some(since + timeouts.header),
                Phase::Handled => None,
            };
            match deadline {
                Some(deadline) if deadline <= self.clock.now().instant => return,
                Some(deadline) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(deadline.into()) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }
}

/// A stream that tells when a request begins. What the upgrade takes apart.
pub struct Paced<S> {
    stream: S,
    pace: Arc<Pace>,
}

impl<S> Paced<S> {
    /// The stream inside.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S> std::fmt::Debug for Paced<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paced").finish_non_exhaustive()
    }
}

/// Serves one connection until it ends. `true`: it was cut for being slow or idle.
pub async fn serve_connection<S>(stream: S, peer: Peer, router: Router, timeouts: Timeouts, clock: Clock) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pace = Arc::new(Pace { phase: Mutex::new(Phase::Headers(clock.now().instant)), changed: Notify::new(), clock });
    let stream = Paced { stream, pace: Arc::clone(&pace) };
    let in_service = Arc::clone(&pace);
    let service = service_fn(move |mut request: Request<Incoming>| {
        in_service.enter(|_| Phase::Handled);
        request.extensions_mut().insert(peer);
        let answer = hyper::service::Service::call(&TowerToHyperService::new(router.clone()), request);
        let pace = Arc::clone(&in_service);
        async move {
            let response = answer.await;
            pace.enter(Phase::Idle);
            response
        }
    });
    let connection = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADERS_SIZE_MAX)
        // `Pace` has both deadlines.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        // A peer that breaks HTTP or goes away is its own affair.
        _ = connection => false,
        () = pace.watch(timeouts) => true,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.pace.received();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
