//! Accepts TCP connections, with TLS or without: bounded in number, and pausing when the process is out of file descriptors.
//! Never reads a request.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::connection::{Timeouts, serve_connection};
use super::count::HttpCounters;
use crate::auth::Peer;
use crate::clock::Clock;

/// Connections that the kernel keeps until they are accepted. Unit: connections. The kernel's own limit (somaxconn) is 4096.
const BACKLOG: u32 = 1024;
/// First and longest pause after accepting failed. Unit: time. A descriptor comes free when any connection ends.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What all connections of a listener have in common.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Where requests go.
    pub router: Router,
    /// With a certificate; `None`: plain.
    pub tls: Option<Arc<ServerConfig>>,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For requests.
    pub timeouts: Timeouts,
    /// Connections at once.
    pub connections_max: usize,
    /// Where it is counted.
    pub counters: Arc<HttpCounters>,
    /// The process's clock.
    pub clock: Clock,
}

/// Why a TCP address cannot be listened on.
#[derive(Debug)]
pub struct TcpSocketError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// Listens on an address; an unspecified IPv6 address takes IPv4, too.
///
/// # Errors
/// When the operating system refuses: most likely the port is taken.
pub fn bind(address: SocketAddr) -> Result<TcpListener, TcpSocketError> {
    let listen = || {
        // SO_REUSEADDR: a restart does not wait for the last connections' TIME_WAIT. It does not let two processes listen.
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        if address.ip().is_unspecified() && address.is_ipv6() {
            socket2::SockRef::from(&socket).set_only_v6(false)?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| TcpSocketError { address, source })
}

impl Listener {
    /// Accepts until the future is dropped. Connections go on after that.
    pub async fn run(self, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(self.connections_max));
        let mut pause = PAUSE.0;
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, address)) => {
                    pause = PAUSE.0;
                    HttpCounters::add(&self.counters.accepted);
                    let connection = self.clone();
                    tokio::spawn(async move {
                        connection.counters.open.fetch_add(1, Ordering::Relaxed);
                        connection.serve(stream, Peer(address)).await;
                        connection.counters.open.fetch_sub(1, Ordering::Relaxed);
                        drop(permit);
                    });
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    HttpCounters::add(&self.counters.accept_failures);
                    if pause == PAUSE.0 {
                        // Once per episode: the pause grows until a connection is accepted.
                        tracing::warn!(%error, "cannot accept connections: pausing; raise the limit of open files (ulimit -n)");
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, peer: Peer) {
        // Answers are small: waiting to fill a segment would only delay them.
        stream.set_nodelay(true).ok();
        let cut = match &self.tls {
            None => serve_connection(stream, peer, self.router.clone(), self.timeouts, self.clock).await,
            Some(tls) => {
                let handshake = TlsAcceptor::from(Arc::clone(tls)).accept(stream);
                let Ok(Ok(stream)) = timeout(self.handshake_timeout, handshake).await else {
                    HttpCounters::add(&self.counters.handshake_failures);
                    return;
                };
                serve_connection(stream, peer, self.router.clone(), self.timeouts, self.clock).await
            }
        };
        if cut {
            HttpCounters::add(&self.counters.timeouts);
        }
    }
}

/// The connection is gone already, which says nothing of the listener.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

impl fmt::Display for TcpSocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        let kind = source.kind();
        if kind == io::ErrorKind::AddrInUse {
            return write!(f, "TCP port taken: another program serves {address}");
        }
        if kind == io::ErrorKind::PermissionDenied {
            return write!(f, "not allowed to listen on {address}: ports below 1024 need CAP_NET_BIND_SERVICE");
        }
        write!(f, "cannot listen on {address}: {source}")
    }
}

impl std::error::Error for TcpSocketError {}
