//! Frames over WebSocket: one binary message is one frame, byte for byte what QUIC carries. Never decides when to connect again.

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tern_protocol::limit::FRAME_SIZE_MAX;
use tern_protocol::{CloseCode, FrameError, frame};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::address::ServerAddress;
use super::dial::WireError;
use super::link::{Ending, INCOMING_FRAMES_MAX, Incoming, Lane, Link, LinkTransport, OUTGOING_FRAMES_MAX, Outgoing};

/// An upgraded socket, before any task runs on it.
pub type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

/// The sub-protocol: binary frames.
const PROTOCOL: &str = "tern.v1.rkyv";
/// Where the socket is.
const PATH: &str = "/api/v1/socket";
/// Read buffer of one socket. Unit: bytes. tungstenite's default of 128 KiB is for one busy connection, not for ten thousand.
const READ_BUFFER_SIZE: usize = 8 * 1024;

/// Upgrades a TLS stream. The bearer token, if given, lets the server place the connection on the user's home shard.
pub(super) async fn upgrade(
    stream: TlsStream<TcpStream>,
    server: &ServerAddress,
    bearer: Option<&str>,
) -> Result<WebSocket, WireError> {
    let mut request =
        format!("wss://{server}{PATH}").into_client_request().map_err(|error| WireError::Refused(error.to_string()))?;
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", HeaderValue::from_static(PROTOCOL));
    if let Some(bearer) = bearer.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok()) {
        headers.insert("authorization", bearer);
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_SIZE)
        .write_buffer_size(0)
        .max_message_size(Some(FRAME_SIZE_MAX))
        .max_frame_size(Some(FRAME_SIZE_MAX));
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _response)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => Err(WireError::Upgrade(response.status().as_u16())),
        Err(error) => Err(WireError::Refused(error.to_string())),
    }
}

/// Puts tasks on an upgraded socket: from here on it is queues of frames.
pub(super) fn run(socket: WebSocket) -> Link {
    let (incoming_tx, incoming_rx) = mpsc::channel(INCOMING_FRAMES_MAX);
    let (outgoing_tx, outgoing_rx) = mpsc::channel(OUTGOING_FRAMES_MAX);
    let (sink, stream) = socket.split();
    let mut tasks = JoinSet::new();
    tasks.spawn(write(sink, outgoing_rx));
    tasks.spawn(read(stream, incoming_tx));
    Link::new(LinkTransport::WebSocket, false, incoming_rx, outgoing_tx, tasks, None)
}

async fn write(mut sink: SplitSink<WebSocket, Message>, mut outgoing: mpsc::Receiver<Outgoing>) {
    while let Some(next) = outgoing.recv().await {
        let written = match next {
            Outgoing::Control(bytes) | Outgoing::Datagram(bytes) => sink.send(Message::Binary(bytes)).await,
            Outgoing::Close(code) => {
                let _ = sink.send(Message::Close(Some(close_frame(code)))).await;
                break;
            }
        };
        if written.is_err() {
            break;
        }
    }
    let _ = sink.close().await;
}

fn close_frame(code: CloseCode) -> CloseFrame {
    let number =
        if code == CloseCode::Goodbye { WsCode::Normal } else { WsCode::from(CloseCode::WEBSOCKET_BASE + code.raw()) };
    CloseFrame { code: number, reason: code.text().into() }
}

async fn read(mut stream: SplitStream<WebSocket>, incoming: mpsc::Sender<Incoming>) {
    let ending = loop {
        let next = match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => match whole(&bytes) {
                Ok(()) => Incoming::Frame(Lane::Control, bytes),
                Err(error) => break Ending::Malformed(error),
            },
            Some(Ok(Message::Close(close))) => break close.map_or_else(closed_silently, |close| ending(&close)),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Text(text))) => break Ending::Malformed(FrameError::Length(text.len() as u64)),
            Some(Err(error)) => break Ending::Lost(lost(&error)),
            None => break closed_silently(),
        };
        if incoming.send(next).await.is_err() {
            // The reader is gone, and the writer may still be saying goodbye: read on so that its close is answered.
            while stream.next().await.is_some_and(|next| next.is_ok()) {}
            return;
        }
    };
    let _ = incoming.send(Incoming::Closed(ending)).await;
}

fn whole(bytes: &Bytes) -> Result<(), FrameError> {
    match frame::size(bytes)? {
        Some(size) if size == bytes.len() => Ok(()),
        Some(_) | None => Err(FrameError::Length(bytes.len() as u64)),
    }
}

fn closed_silently() -> Ending {
    Ending::Lost("the server went away".to_owned())
}

/// What happened to the socket, in words for a person: a vanished server has many names.
fn lost(error: &tungstenite::Error) -> String {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let gone =
        |io: &std::io::Error| matches!(io.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe);
    if matches!(error, tungstenite::Error::Io(io) if gone(io)) {
        "the server went away".to_owned()
    } else {
        error.to_string()
    }
}

fn ending(close: &CloseFrame) -> Ending {
    let raw = u16::from(close.code);
    match raw.checked_sub(CloseCode::WEBSOCKET_BASE).and_then(CloseCode::from_raw) {
        Some(code) => Ending::Closed(code),
        None if close.code == WsCode::Normal => Ending::Closed(CloseCode::Goodbye),
        None => Ending::ClosedUnknown(u64::from(raw)),
    }
}
