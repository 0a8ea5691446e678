//! All WebSocket connections of one worker: TCP, TLS, the upgrade, frames. Visits only sockets for which the kernel or a peer has something.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tern_protocol::CloseCode;
use tern_protocol::frame;
use tern_protocol::limit::FRAME_SIZE_MAX;
use tungstenite::client::{ClientRequestBuilder, client_with_config};
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::protocol::frame::coding::CloseCode as WsCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::book::Book;
use super::peer::{Ending, Peer};
use super::tls::Dialects;
use super::wire::Wire;

/// Sub-protocol: binary frames.
const PROTOCOL: &str = "tern.v1.rkyv";
/// Where the socket is.
const PATH: &str = "/api/v1/socket";
/// Read buffer of one socket. Unit: bytes. A chat message fits; larger frames grow it while they last.
const READ_BUFFER_SIZE: usize = 2 * 1024;
/// Connections driven in one turn. Unit: connections. As over QUIC.
const VISITS_MAX: usize = 128;
/// Messages read from one socket in one visit. Unit: messages.
const READ_BUDGET: usize = 256;

type Stream = StreamOwned<ClientConnection, Wire>;

/// How far a connection is. The variants are small: what is large is boxed by whoever holds it.
enum Stage {
    Connecting(TcpStream, ClientConnection),
    Upgrading(MidHandshake<ClientHandshake<Stream>>),
    Open(WebSocket<Stream>),
    Over,
}

/// One connection.
struct Socket {
    peer: u32,
    stage: Stage,
    is_dirty: bool,
    stalled: bool,
    /// The request, until the socket is connected.
    request: Option<ClientRequestBuilder>,
}

/// The WebSocket half of a worker.
pub(super) struct WebSockets {
    sockets: Vec<Option<Box<Socket>>>,
    free: Vec<u32>,
    /// Slots to look at in the next round, each once.
    dirty: Vec<u32>,
    /// The slots that were dirty when the last round began, and how many of them were visited.
    round: Vec<u32>,
    visited: usize,
    registry: Registry,
    /// Token of slot 0.
    base: usize,
    server: SocketAddr,
    server_name: String,
}

impl WebSockets {
    pub(super) fn new(registry: Registry, base: usize, server: SocketAddr, server_name: &str) -> Self {
        let server_name = server_name.to_owned();
        let (sockets, free, dirty, round) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { sockets, free, dirty, round, visited: 0, registry, base, server, server_name }
    }

    /// Begins a connection; its slot.
    pub(super) fn dial(&mut self, local: u32, peer: &Peer, dialects: &mut Dialects) -> io::Result<u32> {
        let config = dialects.tcp(peer.home, peer.visit)?;
        let name = ServerName::try_from(self.server_name.clone()).map_err(io::Error::other)?;
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let url = format!("wss://{}:{}{PATH}", self.server_name, self.server.port());
        let request = ClientRequestBuilder::new(url.parse().map_err(io::Error::other)?)
            .with_sub_protocol(PROTOCOL)
            .with_header("authorization", format!("Bearer {}", peer.token));
        let mut tcp = TcpStream::connect(self.server)?;
        // Frames are small and each is a message to somebody: nothing to gain by waiting.
        tcp.set_nodelay(true)?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(None);
            u32::try_from(self.sockets.len() - 1).unwrap_or(u32::MAX)
        });
        self.registry.register(&mut tcp, Token(self.base + index(slot)), Interest::READABLE | Interest::WRITABLE)?;
        let (stage, request) = (Stage::Connecting(tcp, tls), Some(request));
        let socket = Socket { peer: local, stage, is_dirty: false, stalled: peer.stalled, request };
        if let Some(place) = self.sockets.get_mut(index(slot)) {
            *place = Some(Box::new(socket));
        }
        Ok(slot)
    }

    /// Forgets a connection without a word. The kernel closes the TCP connection, as it does for a process that died.
    pub(super) fn forget(&mut self, slot: u32) {
        if self.sockets.get_mut(index(slot)).and_then(Option::take).is_some() {
            self.free.push(slot);
        }
    }

    /// Says goodbye and closes.
    pub(super) fn goodbye(&mut self, slot: u32) {
        if let Some(socket) = at(&mut self.sockets, slot)
            && let Stage::Open(web) = &mut socket.stage
        {
            let code = WsCode::Normal;
            // A close that does not get through is as good: the connection ends anyway.
            let _ = web.close(Some(CloseFrame { code, reason: CloseCode::Goodbye.text().into() }));
            let _ = web.flush();
        }
        self.forget(slot);
    }

    /// Stops or begins to read.
    pub(super) fn set_stalled(&mut self, slot: u32, stalled: bool) {
        if let Some(socket) = at(&mut self.sockets, slot) {
            socket.stalled = stalled;
        }
        self.mark(slot);
    }

    /// The kernel has something for the socket with this token.
    pub(super) fn on_event(&mut self, token: Token, readable: bool) {
        let Some(slot) = token.0.checked_sub(self.base).and_then(|slot| u32::try_from(slot).ok()) else { return };
        if let Some(socket) = at(&mut self.sockets, slot)
            && readable
        {
            match &mut socket.stage {
                Stage::Upgrading(upgrade) => upgrade.get_mut().get_mut().sock.on_readable(),
                Stage::Open(web) => web.get_mut().sock.on_readable(),
                Stage::Connecting(..) | Stage::Over => {}
            }
        }
        self.mark(slot);
    }

    /// The peer has something to write, or the socket something to do.
    pub(super) fn mark(&mut self, slot: u32) {
        if let Some(socket) = at(&mut self.sockets, slot)
            && !socket.is_dirty
        {
            socket.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Reads and writes a bounded number of the connections for which something has happened. Each is given to `after` with its peer.
    /// Returns whether some are left.
    pub(super) fn drive(
        &mut self,
        peers: &mut [Peer],
        book: &mut Book,
        mut after: impl FnMut(u32, &mut Peer, &mut Book),
    ) -> bool {
        if self.visited >= self.round.len() {
            self.round.clear();
            self.visited = 0;
            std::mem::swap(&mut self.dirty, &mut self.round);
        }
        for _ in 0..VISITS_MAX {
            let Some(slot) = self.round.get(self.visited).copied() else { break };
            self.visited += 1;
            let Some(socket) = at(&mut self.sockets, slot) else { continue };
            socket.is_dirty = false;
            let local = socket.peer;
            let Some(peer) = peers.get_mut(index(local)) else { continue };
            book.tick();
            let (more, ending) = match socket.visit(peer, book) {
                Ok(more) => (more, None),
                Err(ending) => (false, Some(ending)),
            };
            let refused = peer.close.take().map(|_| Ending::Lost);
            if let Some(ending) = ending.or(refused) {
                self.forget(slot);
                peer.on_ended(&ending, book);
            } else if more {
                self.mark(slot);
            }
            after(local, peer, book);
        }
        self.visited < self.round.len() || !self.dirty.is_empty()
    }
}

impl Socket {
    /// Goes on as far as the socket allows. Returns whether there is more to read.
    fn visit(&mut self, peer: &mut Peer, book: &mut Book) -> Result<bool, Ending> {
        if !matches!(self.stage, Stage::Open(_)) {
            self.advance(peer, book)?;
        }
        let Stage::Open(web) = &mut self.stage else { return Ok(false) };
        let result = if self.stalled { Ok(false) } else { read(web, peer, book) };
        let written = result.and_then(|more| write(web, peer).map(|()| more));
        let (bytes_in, bytes_out) = web.get_mut().sock.take_counts();
        book.counts.bytes_in += bytes_in;
        book.counts.bytes_out += bytes_out;
        written
    }

    /// The way to an open socket: TCP, TLS, upgrade, hello.
    fn advance(&mut self, peer: &mut Peer, book: &mut Book) -> Result<(), Ending> {
        let upgraded = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Connecting(tcp, tls) => {
                if let Ok(Some(_)) | Err(_) = tcp.take_error() {
                    return Err(Ending::Lost);
                }
                if tcp.peer_addr().is_err() {
                    self.stage = Stage::Connecting(tcp, tls);
                    return Ok(());
                }
                let stream = StreamOwned::new(tls, Wire::new(tcp));
                let request = self.request.take().ok_or(Ending::Lost)?;
                client_with_config(request, stream, Some(config()))
            }
            Stage::Upgrading(upgrade) => upgrade.handshake(),
            Stage::Open(_) | Stage::Over => return Err(Ending::Lost),
        };
        match upgraded {
            Ok((mut web, _response)) => {
                book.counts.handshakes_done += 1;
                let hello = web.write(Message::Binary(peer.hello()));
                self.stage = Stage::Open(web);
                hello.map_err(|error| ending_of(&error))
            }
            Err(HandshakeError::Interrupted(upgrade)) => {
                self.stage = Stage::Upgrading(upgrade);
                Ok(())
            }
            Err(HandshakeError::Failure(error)) => Err(ending_of(&error)),
        }
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_SIZE)
        .write_buffer_size(0)
        .max_message_size(Some(FRAME_SIZE_MAX))
        .max_frame_size(Some(FRAME_SIZE_MAX))
}

/// Takes a bounded number of messages. Returns whether there is more.
fn read(web: &mut WebSocket<Stream>, peer: &mut Peer, book: &mut Book) -> Result<bool, Ending> {
    for _ in 0..READ_BUDGET {
        match web.read() {
            Ok(Message::Binary(bytes)) => {
                if frame::size(&bytes) != Ok(Some(bytes.len())) {
                    book.counts.malformed += 1;
                    return Err(Ending::Lost);
                }
                peer.on_frame(&bytes, book);
            }
            Ok(Message::Close(close)) => return Err(close.map_or(Ending::Lost, |close| closed_with(&close))),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            Ok(Message::Text(_)) => {
                book.counts.malformed += 1;
                return Err(Ending::Lost);
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(ending_of(&error)),
        }
    }
    Ok(true)
}

/// Writes what the peer has, as far as the socket takes it; tungstenite keeps the rest.
fn write(web: &mut WebSocket<Stream>, peer: &mut Peer) -> Result<(), Ending> {
    let frames = peer.out.drain(..).chain(peer.out_datagrams.drain(..));
    for bytes in frames {
        would_block_is_fine(web.write(Message::Binary(bytes)))?;
    }
    would_block_is_fine(web.flush())
}

fn would_block_is_fine(result: tungstenite::Result<()>) -> Result<(), Ending> {
    match result {
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(ending_of(&error)),
        Ok(()) => Ok(()),
    }
}

fn closed_with(close: &CloseFrame) -> Ending {
    let raw = u16::from(close.code);
    match raw.checked_sub(CloseCode::WEBSOCKET_BASE).and_then(CloseCode::from_raw) {
        Some(code) => Ending::Closed(Ok(code)),
        None if close.code == WsCode::Normal => Ending::Closed(Ok(CloseCode::Goodbye)),
        None => Ending::Closed(Err(format!("WebSocket close code {raw}"))),
    }
}

fn ending_of(error: &Error) -> Ending {
    let Error::Http(response) = error else { return Ending::Lost };
    Ending::Closed(Err(format!("HTTP status {}", response.status().as_u16())))
}

/// A slot as an index.
fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}

fn at(sockets: &mut [Option<Box<Socket>>], slot: u32) -> Option<&mut Socket> {
    sockets.get_mut(index(slot))?.as_deref_mut()
}
