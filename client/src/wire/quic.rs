//! Frames over QUIC: one control stream, delivery streams of the server, datagrams. Never decides when to connect again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, ConnectionId, IdleTimeout, RecvStream, SendStream, VarInt, ZeroRttAccepted};
use tern_protocol::limit::DELIVERY_LANE_COUNT;
use tern_protocol::tail::{PathFacts, Tail};
use tern_protocol::{CloseCode, FrameError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::dial::WireError;
use super::frames::FrameReader;
use super::link::{
    AbortOnDrop, CLOSE_TIMEOUT, Ending, INCOMING_FRAMES_MAX, Incoming, Lane, Link, LinkTransport, OUTGOING_FRAMES_MAX,
    Outgoing,
};

/// The application protocol of the TLS handshake.
pub(super) const ALPN: &[u8] = b"tern/1";
/// How long a connection may be quiet before it sends something, so that no NAT forgets it and the server does not time it out.
/// Common UDP bindings live 30 s or more (RFC 4787 asks for 120 s, REQ-5; measured ones go down to 30 s). Longer than the 25 s after which a
/// server asks for a ping by default: one sign of life is enough, and this one is for servers that ask for fewer.
pub const KEEP_ALIVE: Duration = Duration::from_secs(28);
/// Silence after which the connection counts as lost. Unit: milliseconds. The server's own limit is the same.
const IDLE_TIMEOUT_MS: u32 = 60_000;
/// Bytes of one stream that the server may send ahead of our reading. Unit: bytes. Four of the largest frames.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes of all streams together that the server may send ahead. Unit: bytes.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Received datagrams that wait to be read; the oldest are dropped beyond it. Unit: bytes.
const DATAGRAM_BUFFER_SIZE: usize = 64 * 1024;
/// Length of the first destination connection id. Unit: bytes. RFC 9000 section 7.2: "at least 8 bytes in length".
const CONNECTION_ID_SIZE: usize = 8;
/// [`DELIVERY_LANE_COUNT`], as the transport parameter wants it.
#[expect(clippy::cast_possible_truncation, reason = "asserted below")]
const LANE_COUNT: u32 = DELIVERY_LANE_COUNT as u32;
const _: () = assert!(LANE_COUNT as usize == DELIVERY_LANE_COUNT);
/// One read from a stream. Unit: bytes.
const READ_SIZE: usize = 16 * 1024;

/// Where a user's sessions are best placed, as log-in and welcome say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// The shard.
    pub shard: u16,
    /// How many shards there are; at least 1.
    pub shards: u16,
}

impl Home {
    /// First byte of a connection id that the server's packet filter sends to this shard, from a random byte.
    fn steer(self, random: u8) -> u8 {
        let shards = u8::try_from(self.shards.clamp(1, 128)).unwrap_or(128);
        let shard = u8::try_from(self.shard % u16::from(shards)).unwrap_or(0);
        // Buckets are equally likely: only multiples that fit a byte are used.
        let buckets = u8::MAX / shards;
        random % buckets.max(1) * shards + shard
    }
}

/// A QUIC connection whose first frame is sent, before any task runs on it: for callers that read and write streams themselves.
#[derive(Debug)]
pub struct QuicStart {
    /// The connection.
    pub connection: quinn::Connection,
    /// Writing half of the control stream.
    pub send: SendStream,
    /// Reading half of the control stream.
    pub receive: RecvStream,
    /// Whether the first frame travelled as 0-RTT data that the server accepted.
    pub early_data: bool,
}

/// What a client's connections have in common; `home` only where the user's home is known.
pub(super) fn client_config(
    tls: &Arc<rustls::ClientConfig>,
    home: Option<Home>,
) -> Result<quinn::ClientConfig, WireError> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(Arc::clone(tls)).map_err(|_| WireError::Crypto)?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(LANE_COUNT))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_SIZE))
        .mtu_discovery_config(None);
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    if let Some(home) = home {
        config.initial_dst_cid_provider(Arc::new(move || first_connection_id(home)));
    }
    Ok(config)
}

fn first_connection_id(home: Home) -> ConnectionId {
    let mut id = [0; CONNECTION_ID_SIZE];
    // Without randomness the id is guessable, which costs nothing: it is public, and the server picks the lasting one.
    let _ = getrandom::fill(&mut id);
    if let Some(first) = id.first_mut() {
        *first = home.steer(*first);
    }
    ConnectionId::new(&id)
}

/// Completes a handshake and sends the first frame, as early data when a session ticket allows it.
pub(super) async fn start(connecting: quinn::Connecting, first: &[u8]) -> Result<QuicStart, WireError> {
    let (connection, accepted) = match connecting.into_0rtt() {
        Ok((connection, accepted)) => (connection, Some(accepted)),
        Err(connecting) => (connecting.await?, None),
    };
    let (mut send, mut receive) = open_control(&connection, first).await?;
    let early_data = match accepted {
        Some(accepted) => accepted_early(accepted).await,
        None => return Ok(QuicStart { connection, send, receive, early_data: false }),
    };
    if !early_data {
        // Streams of refused early data are void: the same first frame goes out again, after the handshake.
        (send, receive) = open_control(&connection, first).await?;
    }
    Ok(QuicStart { connection, send, receive, early_data })
}

async fn accepted_early(accepted: ZeroRttAccepted) -> bool {
    accepted.await
}

async fn open_control(connection: &quinn::Connection, first: &[u8]) -> Result<(SendStream, RecvStream), WireError> {
    let (mut send, receive) = connection.open_bi().await?;
    match send.write_all(first).await {
        // Refused early data is seen by the caller, which opens the stream again.
        Ok(()) | Err(quinn::WriteError::ZeroRttRejected) => Ok((send, receive)),
        Err(quinn::WriteError::ConnectionLost(error)) => Err(error.into()),
        Err(error @ (quinn::WriteError::Stopped(_) | quinn::WriteError::ClosedStream)) => {
            Err(WireError::Refused(error.to_string()))
        }
    }
}

/// Puts tasks on a started connection: from here on it is queues of frames.
pub(super) fn run(start: QuicStart) -> Link {
    let QuicStart { connection, send, receive, early_data } = start;
    let (incoming_tx, incoming_rx) = mpsc::channel(INCOMING_FRAMES_MAX);
    let (outgoing_tx, outgoing_rx) = mpsc::channel(OUTGOING_FRAMES_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(write(connection.clone(), send, outgoing_rx));
    tasks.spawn(read(connection.clone(), receive, incoming_tx));
    Link::new(LinkTransport::Quic, early_data, incoming_rx, outgoing_tx, tasks, Some(AbortOnDrop(connection)))
}

async fn write(connection: quinn::Connection, mut send: SendStream, mut outgoing: mpsc::Receiver<Outgoing>) {
    let mut code = CloseCode::Internal;
    let mut refused = false;
    let mut tail = Tail::default();
    while let Some(next) = next_behind_tail(&connection, &mut tail, &mut outgoing).await {
        let written = match next {
            Outgoing::Control(bytes) => send.write_chunk(bytes).await.is_ok(),
            Outgoing::Datagram(bytes) if fits(&connection, &bytes) => {
                connection.send_datagram(bytes).is_ok() || connection.close_reason().is_none()
            }
            Outgoing::Datagram(bytes) => send.write_chunk(bytes).await.is_ok(),
            Outgoing::Close(wanted) => {
                code = wanted;
                break;
            }
        };
        if !written {
            refused = true;
            break;
        }
    }
    if refused {
        // The server reads no more: it is about to close, and says why when everything before is sent.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.closed()).await;
    }
    if code == CloseCode::Goodbye && connection.close_reason().is_none() {
        // What was written before the goodbye must arrive: a close frame would discard it.
        let _ = send.finish();
        let _ = tokio::time::timeout(Duration::from_secs(1), send.stopped()).await;
    }
    // Closing what is closed already would replace the server's reason by our own.
    if connection.close_reason().is_none() {
        connection.close(VarInt::from_u32(u32::from(code.raw())), code.text().as_bytes());
    }
}

/// The next thing to write. Until there is one, an empty datagram follows what was written last where the path may have lost it.
async fn next_behind_tail(
    connection: &quinn::Connection,
    tail: &mut Tail,
    outgoing: &mut mpsc::Receiver<Outgoing>,
) -> Option<Outgoing> {
    let facts = || {
        let path = connection.stats().path;
        PathFacts { sent: path.sent_packets, lost: path.lost_packets, rtt_min: path.min_rtt, rtt: path.rtt }
    };
    let Some(after) = tail.wrote(facts) else { return outgoing.recv().await };
    match tokio::time::timeout_at(Instant::now() + after, outgoing.recv()).await {
        Ok(next) => next,
        Err(_) => {
            // quinn shows no ping. A server that takes no datagrams is none of Tern's, and its losses are found later.
            let _ = connection.send_datagram(Bytes::new());
            outgoing.recv().await
        }
    }
}

fn fits(connection: &quinn::Connection, bytes: &Bytes) -> bool {
    connection.max_datagram_size().is_some_and(|size| bytes.len() <= size)
}

/// Reads every way in until all have ended, then says how the connection ended.
async fn read(connection: quinn::Connection, control: RecvStream, incoming: mpsc::Sender<Incoming>) {
    let mut readers = JoinSet::new();
    readers.spawn(read_stream(connection.clone(), control, Lane::Control, incoming.clone()));
    readers.spawn(read_datagrams(connection.clone(), incoming.clone()));
    let mut lane = 0;
    while let Ok(stream) = connection.accept_uni().await {
        readers.spawn(read_stream(connection.clone(), stream, Lane::Delivery(lane), incoming.clone()));
        lane = lane.saturating_add(1);
    }
    let mut malformed = None;
    while let Some(ended) = readers.join_next().await {
        malformed = malformed.or(ended.ok().and_then(Result::err));
    }
    let ending = malformed.map_or_else(|| ending(connection.close_reason()), Ending::Malformed);
    let _ = incoming.send(Incoming::Closed(ending)).await;
}

async fn read_stream(
    connection: quinn::Connection,
    mut stream: RecvStream,
    lane: Lane,
    incoming: mpsc::Sender<Incoming>,
) -> Result<(), FrameError> {
    let mut frames = FrameReader::new();
    loop {
        let Ok(Some(chunk)) = stream.read_chunk(READ_SIZE, true).await else { return Ok(()) };
        frames.push(&chunk.bytes);
        loop {
            match frames.take() {
                Ok(Some(frame)) => {
                    if incoming.send(Incoming::Frame(lane, frame)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let code = CloseCode::Malformed;
                    connection.close(VarInt::from_u32(u32::from(code.raw())), code.text().as_bytes());
                    return Err(error);
                }
            }
        }
    }
}

async fn read_datagrams(connection: quinn::Connection, incoming: mpsc::Sender<Incoming>) -> Result<(), FrameError> {
    while let Ok(datagram) = connection.read_datagram().await {
        // A datagram is dropped rather than waited for: typing and presence may be lost.
        if let Err(mpsc::error::TrySendError::Closed(_)) = incoming.try_send(Incoming::Frame(Lane::Datagram, datagram))
        {
            break;
        }
    }
    Ok(())
}

fn ending(reason: Option<ConnectionError>) -> Ending {
    match reason {
        Some(ConnectionError::ApplicationClosed(close)) => {
            let raw = close.error_code.into_inner();
            match u16::try_from(raw).ok().and_then(CloseCode::from_raw) {
                Some(code) => Ending::Closed(code),
                None => Ending::ClosedUnknown(raw),
            }
        }
        Some(error) => Ending::Lost(error.to_string()),
        None => Ending::Lost("closed here".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_names_the_home_shard_whatever_the_random_byte() {
        for shards in 1..=64 {
            for shard in 0..shards {
                let home = Home { shard, shards };
                assert!((0..=255).all(|random| u16::from(home.steer(random)) % shards == shard), "{home:?}");
            }
        }
    }
}
