//! Opens connections to one server: resolves its name, binds the UDP socket once, keeps session tickets for 0-RTT.
//! Never chooses between transports and never tries twice: that is the session's.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::ServerAddress;
use super::link::Link;
use super::quic::{self, Home, QuicStart};
use super::trust::{KeyChanged, Tls, Trust, TrustError};
use super::websocket::{self, WebSocket};

/// Addresses of one name that are tried. Unit: addresses.
pub(crate) const ADDRESSES_MAX: usize = 4;

/// How long [`Dialer::finish`] waits: a lost closing packet costs the server an idle timeout, no more.
const FINISH_TIMEOUT: Duration = Duration::from_millis(300);

/// Why a connection could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum WireError {
    /// The name has no address, or could not be looked up.
    Resolve(String),
    /// The network or the operating system.
    Io(io::Error),
    /// The QUIC handshake failed, or the connection ended.
    Quic(quinn::ConnectionError),
    /// The TLS configuration cannot be used, or the host is no valid TLS name.
    Crypto,
    /// The server's key is not the one that was seen before.
    KeyChanged(KeyChanged),
    /// The server answered the WebSocket upgrade with this HTTP status.
    Upgrade(u16),
    /// The other side speaks something else.
    Refused(String),
}

impl WireError {
    /// Whether it is the server's certificate or key that is wrong: trying again does not help, and must not be silent.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        crate::connect::is_untrusted(self)
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(host) => write!(f, "cannot find {host}: check the name and your network"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Quic(error) => write!(f, "QUIC: {error}"),
            Self::Crypto => f.write_str("TLS cannot be set up for this server name"),
            Self::KeyChanged(changed) => changed.fmt(f),
            Self::Upgrade(status) => write!(f, "the server answered the WebSocket upgrade with HTTP {status}"),
            Self::Refused(why) => write!(f, "the server does not speak Tern: {why}"),
        }
    }
}

impl std::error::Error for WireError {}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<quinn::ConnectionError> for WireError {
    fn from(error: quinn::ConnectionError) -> Self {
        Self::Quic(error)
    }
}

/// Opens connections to one server. Cheap to clone: clones share the UDP socket and the session tickets.
#[derive(Debug, Clone)]
pub struct Dialer {
    server: ServerAddress,
    tls: Tls,
    endpoint: Arc<OnceLock<quinn::Endpoint>>,
}

impl Dialer {
    /// A dialer for one server.
    ///
    /// # Errors
    /// When the trust's files cannot be read.
    pub fn new(server: ServerAddress, trust: &Trust) -> Result<Self, TrustError> {
        let tls = Tls::new(trust, &server)?;
        Ok(Self { server, tls, endpoint: Arc::new(OnceLock::new()) })
    }

    /// The server.
    #[must_use]
    pub const fn server(&self) -> &ServerAddress {
        &self.server
    }

    /// The addresses of the server's name, at most four, families alternating so that a broken one costs one attempt.
    ///
    /// # Errors
    /// [`WireError::Resolve`].
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, WireError> {
        let host = self.server.host();
        let found = tokio::net::lookup_host((host, self.server.port()))
            .await
            .map_err(|_| WireError::Resolve(host.to_owned()))?;
        let (mut six, mut four): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv6);
        six.reverse();
        four.reverse();
        let mut addresses = Vec::new();
        while addresses.len() < ADDRESSES_MAX && (!six.is_empty() || !four.is_empty()) {
            addresses.extend(six.pop());
            addresses.extend(four.pop());
        }
        if addresses.is_empty() { Err(WireError::Resolve(host.to_owned())) } else { Ok(addresses) }
    }

    /// Opens a QUIC connection, sends `first` on the control stream and leaves the rest to the caller.
    ///
    /// # Errors
    /// See [`WireError`].
    pub async fn quic_start(
        &self,
        address: SocketAddr,
        home: Option<Home>,
        first: &[u8],
    ) -> Result<QuicStart, WireError> {
        let config = quic::client_config(&self.tls.quic, home)?;
        let connecting = self
            .endpoint()?
            .connect_with(config, address, self.server.host())
            .map_err(|error| WireError::Refused(error.to_string()))?;
        quic::start(connecting, first).await.map_err(|error| self.explain(error))
    }

    /// Opens a QUIC connection whose first frame is `first`.
    ///
    /// # Errors
    /// See [`WireError`].
    pub async fn quic(&self, address: SocketAddr, home: Option<Home>, first: &[u8]) -> Result<Link, WireError> {
        Ok(quic::run(self.quic_start(address, home, first).await?))
    }

    /// Opens a TLS connection for HTTP/1.1.
    ///
    /// # Errors
    /// See [`WireError`].
    pub async fn tls(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>, WireError> {
        let name = ServerName::try_from(self.server.host().to_owned()).map_err(|_| WireError::Crypto)?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls.tcp));
        connector.connect(name, tcp).await.map_err(|error| self.explain(error.into()))
    }

    /// Opens a WebSocket and leaves the rest to the caller.
    ///
    /// # Errors
    /// See [`WireError`].
    pub async fn websocket_start(&self, address: SocketAddr, bearer: Option<&str>) -> Result<WebSocket, WireError> {
        websocket::upgrade(self.tls(address).await?, &self.server, bearer).await
    }

    /// Opens a WebSocket whose first frame is `first`.
    ///
    /// # Errors
    /// See [`WireError`].
    pub async fn websocket(&self, address: SocketAddr, bearer: Option<&str>, first: &[u8]) -> Result<Link, WireError> {
        let link = websocket::run(self.websocket_start(address, bearer).await?);
        let sent = link.sender().send(bytes::Bytes::copy_from_slice(first)).await;
        sent.map_err(|closed| WireError::Refused(closed.to_string()))?;
        Ok(link)
    }

    /// Moves the QUIC connections to a fresh UDP socket, as a change of network does.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub fn rebind(&self) -> io::Result<()> {
        match self.endpoint.get() {
            Some(endpoint) => endpoint.rebind(bind_udp()?),
            None => Ok(()),
        }
    }

    /// Gives the closing packets of QUIC connections a moment to leave, before the process ends.
    pub async fn finish(&self) {
        if let Some(endpoint) = self.endpoint.get() {
            let _ = tokio::time::timeout(FINISH_TIMEOUT, endpoint.wait_idle()).await;
        }
    }

    fn endpoint(&self) -> Result<&quinn::Endpoint, WireError> {
        if let Some(endpoint) = self.endpoint.get() {
            return Ok(endpoint);
        }
        let endpoint = quinn::Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())
            .or_else(|_| quinn::Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()))?;
        Ok(self.endpoint.get_or_init(|| endpoint))
    }

    /// A handshake that failed over a changed key says so instead of "certificate unknown".
    fn explain(&self, error: WireError) -> WireError {
        self.tls.changed().map_or(error, WireError::KeyChanged)
    }
}

/// A socket for both families where the machine has both.
fn bind_udp() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
}
