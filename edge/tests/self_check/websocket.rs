//! The meddler's other half: the same over WebSocket, where all frames come in one sequence.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tern_client::CloseCode;
use tern_client::wire::{Dialer, Incoming};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::meddler::code_of;
use crate::rules::{Memory, Rules};

/// The sub-protocol: binary frames.
const PROTOCOL: HeaderValue = HeaderValue::from_static("tern.v1.rkyv");

/// One client, from its handshake to its end. Whatever ends one side ends the other.
pub(crate) async fn serve(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    dialer: &Dialer,
    server: SocketAddr,
    rules: Arc<Rules>,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let tls = acceptor.accept(stream).await.ok()?;
    let socket = tokio_tungstenite::accept_hdr_async(tls, answer).await.ok()?;
    let (mut to_client, mut from_client) = socket.split();
    let Message::Binary(hello) = from_client.next().await?.ok()? else { return None };
    let mut link = dialer.websocket(server, None, &hello).await.ok()?;
    let (to_server, up_rules) = (link.sender().clone(), Arc::clone(&rules));
    let up = async move {
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Binary(frame) = message else { continue };
            up_rules.gate().await;
            if to_server.send(frame).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut memory = Memory::default();
        loop {
            let frame = match link.next().await {
                Incoming::Frame(_, frame) => frame,
                Incoming::Closed(ending) => {
                    let _ = to_client.send(Message::Close(Some(close(code_of(&ending))))).await;
                    return;
                }
            };
            for frame in rules.apply(&mut memory, frame) {
                rules.gate().await;
                if to_client.send(Message::Binary(frame)).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
    Some(())
}

#[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
#[expect(clippy::unnecessary_wraps, reason = "the callback's type is tungstenite's")]
fn answer(_request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    response.headers_mut().insert("sec-websocket-protocol", PROTOCOL);
    Ok(response)
}

fn close(code: CloseCode) -> CloseFrame {
    CloseFrame { code: (CloseCode::WEBSOCKET_BASE + code.raw()).into(), reason: code.text().into() }
}
