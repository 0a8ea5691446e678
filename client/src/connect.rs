//! One attempt to connect: QUIC and WebSocket race, QUIC with a head start, and the first that is welcomed wins.
//! Never tries a second time and never waits between attempts: that is the driver's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tern_protocol::server::Welcome;
use tern_protocol::{CloseCode, Frame as _, UserId, frame};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::session::Welcomed;
use crate::update::StopReason;
use crate::wire::{Dialer, Ending, Home, Incoming, Link, LinkTransport, WireError};

/// How much earlier QUIC starts than WebSocket. A round trip across the world is 300 ms; where QUIC works it wins.
const HEAD_START: Duration = Duration::from_millis(250);
/// Between attempts at two addresses of one name.
///
/// # Source
/// RFC 8305 section 5: "a recommended value of 250 milliseconds" between connection attempts.
const ADDRESS_DELAY: Duration = Duration::from_millis(250);
/// From the first packet to the welcome.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(12);
/// Frames that may come before the welcome, which travels on another stream. Unit: frames.
const EARLY_FRAMES_MAX: usize = 4096;

/// What may carry the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Whatever works; QUIC where it does.
    #[default]
    Auto,
    /// QUIC alone.
    Quic,
    /// WebSocket alone.
    WebSocket,
}

/// What one attempt needs.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) dialer: Dialer,
    pub(crate) transport: Transport,
    /// What was welcomed the last time.
    pub(crate) favourite: Option<LinkTransport>,
    pub(crate) home: Option<Home>,
    pub(crate) token: String,
    pub(crate) hello: Bytes,
}

/// A connection that was welcomed.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) link: Link,
    pub(crate) welcome: Welcomed,
    pub(crate) home: Home,
    /// What came before the welcome, in order of arrival.
    pub(crate) early: Vec<Bytes>,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum ConnectFailure {
    /// The server closed it and said why.
    Closed(CloseCode),
    /// Trying again does not help.
    Stop(StopReason),
    /// Trying again may help.
    Network(String),
}

impl ConnectFailure {
    /// Which of two failures says more about what to do.
    fn rank(&self) -> u8 {
        match self {
            Self::Network(_) => 0,
            Self::Closed(_) => 1,
            Self::Stop(_) => 2,
        }
    }
}

/// Races the ways to the server.
pub(crate) async fn race(attempt: Attempt) -> Result<Connected, ConnectFailure> {
    let addresses = attempt.dialer.resolve().await.map_err(|error| failure(&error))?;
    let attempt = Arc::new(attempt);
    let hurry = Arc::new(Notify::new());
    let mut racers = JoinSet::new();
    for (delay, transport, address) in starts(attempt.transport, attempt.favourite, &addresses) {
        let (attempt, hurry) = (Arc::clone(&attempt), Arc::clone(&hurry));
        racers.spawn(async move {
            // A failure elsewhere ends the wait: there is nothing to wait for.
            let _ = tokio::time::timeout(delay, hurry.notified()).await;
            let one = connect(&attempt, transport, address);
            let timeout = || ConnectFailure::Network(format!("no answer from {address} over {transport}"));
            tokio::time::timeout(ATTEMPT_TIMEOUT, one).await.unwrap_or_else(|_| Err(timeout()))
        });
    }
    let mut worst: Option<ConnectFailure> = None;
    while let Some(ended) = racers.join_next().await {
        match ended {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(failed)) => {
                if worst.as_ref().is_none_or(|worst| worst.rank() < failed.rank()) {
                    worst = Some(failed);
                }
                hurry.notify_waiters();
            }
            Err(_aborted) => {}
        }
    }
    Err(worst.unwrap_or_else(|| ConnectFailure::Network("no address to connect to".to_owned())))
}

/// Who starts when.
fn starts(
    transport: Transport,
    favourite: Option<LinkTransport>,
    addresses: &[SocketAddr],
) -> Vec<(Duration, LinkTransport, SocketAddr)> {
    // Where only WebSocket got through the last time nobody waits for QUIC, which still may win.
    let head_start = if favourite == Some(LinkTransport::WebSocket) { Duration::ZERO } else { HEAD_START };
    let mut starts = Vec::new();
    for (delay, address) in (0..).map(|nth| ADDRESS_DELAY * nth).zip(addresses) {
        if transport != Transport::WebSocket {
            starts.push((delay, LinkTransport::Quic, *address));
        }
        match transport {
            Transport::Auto => starts.push((delay + head_start, LinkTransport::WebSocket, *address)),
            Transport::WebSocket => starts.push((delay, LinkTransport::WebSocket, *address)),
            Transport::Quic => {}
        }
    }
    starts
}

async fn connect(
    attempt: &Attempt,
    transport: LinkTransport,
    address: SocketAddr,
) -> Result<Connected, ConnectFailure> {
    let dialer = &attempt.dialer;
    let link = match transport {
        LinkTransport::Quic => dialer.quic(address, attempt.home, &attempt.hello).await,
        LinkTransport::WebSocket => dialer.websocket(address, Some(&attempt.token), &attempt.hello).await,
    };
    welcomed(link.map_err(|error| failure(&error))?).await
}

async fn welcomed(mut link: Link) -> Result<Connected, ConnectFailure> {
    let mut early = Vec::new();
    loop {
        let bytes = match link.next().await {
            Incoming::Frame(_, bytes) => bytes,
            Incoming::Closed(Ending::Closed(code)) => return Err(ConnectFailure::Closed(code)),
            Incoming::Closed(ending) => return Err(ConnectFailure::Network(ending.to_string())),
        };
        let nonsense = |error: tern_protocol::FrameError| ConnectFailure::Network(error.to_string());
        let (kind, _) = frame::open(&bytes).map_err(nonsense)?;
        if kind != Welcome::KIND {
            early.push(bytes);
            if early.len() > EARLY_FRAMES_MAX {
                return Err(ConnectFailure::Network("the server talks without a welcome".to_owned()));
            }
            continue;
        }
        let welcome = frame::decode::<Welcome>(&bytes).map_err(nonsense)?;
        let home = Home { shard: welcome.home.to_native(), shards: welcome.shards.to_native().max(1) };
        let welcome = Welcomed {
            user: UserId::from_raw(welcome.user.to_native()),
            user_seq: welcome.user_seq.to_native(),
            ping_interval: Duration::from_millis(u64::from(welcome.ping_interval.to_native())),
        };
        return Ok(Connected { link, welcome, home, early });
    }
}

/// Sorts a failure by whether trying again can help.
fn failure(error: &WireError) -> ConnectFailure {
    if is_untrusted(error) {
        return ConnectFailure::Stop(StopReason::Untrusted(error.to_string()));
    }
    if matches!(error, WireError::Crypto) {
        return ConnectFailure::Stop(StopReason::Failed(error.to_string()));
    }
    let code = match error {
        // The bearer token of the upgrade is refused before any hello.
        WireError::Upgrade(401) => Some(CloseCode::ExpiredToken),
        WireError::Quic(quinn::ConnectionError::ApplicationClosed(close)) => {
            u16::try_from(close.error_code.into_inner()).ok().and_then(CloseCode::from_raw)
        }
        WireError::Resolve(_)
        | WireError::Io(_)
        | WireError::Quic(_)
        | WireError::Crypto
        | WireError::KeyChanged(_)
        | WireError::Upgrade(_)
        | WireError::Refused(_) => None,
    };
    code.map_or_else(|| ConnectFailure::Network(error.to_string()), ConnectFailure::Closed)
}

/// Whether it is the certificate that is wrong.
pub(crate) fn is_untrusted(error: &WireError) -> bool {
    match error {
        WireError::KeyChanged(_) => true,
        WireError::Resolve(_) | WireError::Crypto | WireError::Upgrade(_) | WireError::Refused(_) => false,
        WireError::Io(error) => {
            let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
        }
        // RFC 9001 section 4.8: 0x0100 and the TLS alert. 42 to 49 are what a certificate can be refused for (RFC 8446 section 6).
        WireError::Quic(quinn::ConnectionError::TransportError(error)) => {
            (0x0100 + 42..=0x0100 + 49).contains(&u64::from(error.code))
        }
        WireError::Quic(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quic_has_a_head_start_unless_it_failed_the_last_time() {
        let addresses = ["127.0.0.1:1".parse().expect("address")];
        let delays = |transport, favourite| {
            starts(transport, favourite, &addresses)
                .into_iter()
                .map(|(delay, over, _)| (over, delay))
                .collect::<Vec<_>>()
        };
        let (quic, socket) = (LinkTransport::Quic, LinkTransport::WebSocket);
        assert_eq!(delays(Transport::Auto, None), [(quic, Duration::ZERO), (socket, HEAD_START)]);
        assert_eq!(delays(Transport::Auto, Some(socket)), [(quic, Duration::ZERO), (socket, Duration::ZERO)]);
        assert_eq!(delays(Transport::Quic, None), [(quic, Duration::ZERO)]);
        assert_eq!(delays(Transport::WebSocket, None), [(socket, Duration::ZERO)]);
    }
}
