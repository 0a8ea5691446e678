//! A small server that speaks the protocol on loopback, over QUIC and WebSocket, and can be told to misbehave.
//! It keeps one conversation and no accounts: what the SDK does on real sockets is proven against it, not what a server does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tern_client::wire::FrameReader;
use tern_client::{CloseCode, ConversationId, UserId};
use tern_protocol::client::{GetDirectory, GetHistory, Hello, Ping, SendMessage};
use tern_protocol::server::{Ack, DirectoryEntry, DirectoryPage, Event, HistoryPage, Pong, Welcome, content, event};
use tern_protocol::{Frame as _, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

pub(crate) const ME: UserId = UserId::from_raw(1);
pub(crate) const PEER: UserId = UserId::from_raw(2);
pub(crate) const ROOM: ConversationId = ConversationId::direct(ME, PEER);

/// What the server is told to do wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Acks that are stored and then not sent.
    pub(crate) acks_swallowed: AtomicU32,
    /// Live events that are stored and then not sent.
    pub(crate) events_swallowed: AtomicU32,
    /// Hellos that are answered with `ExpiredToken`.
    pub(crate) tokens_expired: AtomicU32,
}

fn take(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

#[derive(Default)]
struct Log {
    events: Vec<Bytes>,
    requests: BTreeMap<u128, u64>,
}

pub(crate) struct Fake {
    log: Mutex<Log>,
    live: broadcast::Sender<Bytes>,
    closed: broadcast::Sender<CloseCode>,
    pub(crate) faults: Faults,
    pub(crate) refreshes: AtomicU64,
    /// Hellos seen over QUIC and over WebSocket.
    pub(crate) hellos: [AtomicU64; 2],
    pub(crate) address: SocketAddr,
    pub(crate) certificate: PathBuf,
    _dir: tempfile::TempDir,
}

impl Fake {
    /// Starts a server. `quic`: whether anything answers on UDP.
    pub(crate) async fn start(quic: bool) -> Arc<Self> {
        let dir = tempfile::tempdir().expect("temp dir");
        let key =
            rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).expect("certificate");
        let certificate = dir.path().join("cert.pem");
        std::fs::write(&certificate, key.cert.pem()).expect("writes");
        let chain = vec![key.cert.der().clone()];
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .expect("key fits");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let fake = Arc::new(Self {
            log: Mutex::default(),
            live: broadcast::channel(1024).0,
            closed: broadcast::channel(16).0,
            faults: Faults::default(),
            refreshes: AtomicU64::new(0),
            hellos: Default::default(),
            address,
            certificate,
            _dir: dir,
        });
        let acceptor = TlsAcceptor::from(Arc::new(tls.clone()));
        tokio::spawn(Arc::clone(&fake).accept_tcp(listener, acceptor));
        if quic {
            tls.alpn_protocols = vec![b"tern/1".to_vec()];
            tls.max_early_data_size = u32::MAX;
            let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).expect("suite");
            let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
            let endpoint = quinn::Endpoint::server(config, address).expect("binds");
            tokio::spawn(Arc::clone(&fake).accept_quic(endpoint));
        }
        fake
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The other user says something.
    pub(crate) fn peer_says(&self, body: &str) -> u64 {
        self.append(PEER, 0, body.as_bytes())
    }

    /// Bodies of all messages, in order.
    pub(crate) fn bodies(&self) -> Vec<String> {
        let log = self.log();
        let text = |bytes: &Bytes| {
            let event = frame::decode::<Event<'_>>(bytes).expect("own event");
            String::from_utf8_lossy(event.body.as_slice()).into_owned()
        };
        log.events.iter().map(text).collect()
    }

    /// Closes every connection.
    pub(crate) fn close_all(&self, code: CloseCode) {
        let _ = self.closed.send(code);
    }

    fn append(&self, sender: UserId, request: u128, body: &[u8]) -> u64 {
        let mut log = self.log();
        let seq = log.events.len() as u64 + 1;
        let event = Event {
            conversation: ROOM.raw(),
            seq,
            time: seq,
            visible: seq,
            sender: sender.raw(),
            request,
            target: 0,
            revised: 0,
            subject: 0,
            kind: event::MESSAGE,
            content: content::TEXT,
            role: 0,
            mentions: &[],
            body,
        };
        let bytes = Bytes::from(frame::to_vec(&event));
        log.events.push(bytes.clone());
        if !take(&self.faults.events_swallowed) {
            let _ = self.live.send(bytes);
        }
        seq
    }

    /// The answers to one frame, or why the connection ends.
    fn answer(&self, bytes: &[u8]) -> Result<Vec<Bytes>, CloseCode> {
        let (kind, _) = frame::open(bytes).map_err(|_| CloseCode::Malformed)?;
        let mut out = Vec::new();
        match kind {
            Hello::KIND => {
                if take(&self.faults.tokens_expired) {
                    return Err(CloseCode::ExpiredToken);
                }
                let hello = frame::decode::<Hello<'_>>(bytes).map_err(|_| CloseCode::Malformed)?;
                let welcome = Welcome {
                    user: ME.raw(),
                    device: 5,
                    session: 6,
                    time: 7,
                    user_seq: 1,
                    home: 1,
                    shards: 2,
                    ping_interval: 1000,
                };
                out.push(frame::to_vec(&welcome).into());
                let at = hello.positions.iter().find(|at| at.conversation.to_native() == ROOM.raw());
                if let Some(at) = at {
                    let from = usize::try_from(at.seq.to_native()).expect("fits");
                    out.extend(self.log().events.iter().skip(from).cloned());
                }
            }
            SendMessage::KIND => {
                let send = frame::decode::<SendMessage<'_>>(bytes).map_err(|_| CloseCode::Malformed)?;
                let request = send.request.to_native();
                let known = self.log().requests.get(&request).copied();
                let seq = known.unwrap_or_else(|| self.append(ME, request, send.body.as_slice()));
                self.log().requests.insert(request, seq);
                if !take(&self.faults.acks_swallowed) {
                    let ack = Ack { request, conversation: ROOM.raw(), seq, time: seq };
                    out.push(frame::to_vec(&ack).into());
                }
            }
            GetHistory::KIND => {
                let get = frame::decode::<GetHistory>(bytes).map_err(|_| CloseCode::Malformed)?;
                let log = self.log();
                let from = usize::try_from(get.anchor.to_native()).unwrap_or(0);
                let events: Vec<u8> = log.events.iter().skip(from).take(50).flatten().copied().collect();
                let head = log.events.len() as u64;
                let (request, conversation) = (get.request.to_native(), ROOM.raw());
                let page = HistoryPage { request, conversation, head, first: 1, events: &events };
                out.push(frame::to_vec(&page).into());
            }
            GetDirectory::KIND => {
                let get = frame::decode::<GetDirectory>(bytes).map_err(|_| CloseCode::Malformed)?;
                let head = self.log().events.len() as u64;
                let entry = entry(head);
                let page = DirectoryPage { request: get.request.to_native(), more: 0, entries: vec![entry] };
                out.push(frame::to_vec(&page).into());
            }
            Ping::KIND => {
                let ping = frame::decode::<Ping<'_>>(bytes).map_err(|_| CloseCode::Malformed)?;
                let seq = self.log().events.len() as u64;
                let head = tern_protocol::server::Head { conversation: ROOM.raw(), seq, visible: seq };
                let pong = Pong { nonce: ping.nonce.to_native(), time: 0, user_seq: 1, heads: &[head] };
                out.push(frame::to_vec(&pong).into());
            }
            _ => {}
        }
        Ok(out)
    }

    async fn accept_quic(self: Arc<Self>, endpoint: quinn::Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let fake = Arc::clone(&self);
            tokio::spawn(async move {
                let connection = match incoming.accept().expect("accepts").into_0rtt() {
                    Ok((connection, _)) => connection,
                    Err(connecting) => connecting.await.expect("handshake"),
                };
                let code = fake.serve_quic(&connection).await.unwrap_or(CloseCode::Goodbye);
                connection.close(u32::from(code.raw()).into(), b"");
            });
        }
    }

    async fn serve_quic(&self, connection: &quinn::Connection) -> Option<CloseCode> {
        let (mut send, mut receive) = connection.accept_bi().await.ok()?;
        let mut lane = connection.open_uni().await.ok()?;
        let (mut live, mut closed) = (self.live.subscribe(), self.closed.subscribe());
        let mut frames = FrameReader::new();
        self.hellos[0].fetch_add(1, Ordering::Relaxed);
        loop {
            tokio::select! {
                chunk = receive.read_chunk(4096, true) => {
                    frames.push(&chunk.ok()??.bytes);
                    while let Some(frame) = frames.take().ok()? {
                        match self.answer(&frame) {
                            Ok(answers) => for bytes in answers { send.write_chunk(bytes).await.ok()?; },
                            Err(code) => return Some(code),
                        }
                    }
                }
                event = live.recv() => lane.write_chunk(event.ok()?).await.ok()?,
                code = closed.recv() => return code.ok(),
            }
        }
    }

    async fn accept_tcp(self: Arc<Self>, listener: TcpListener, acceptor: TlsAcceptor) {
        while let Ok((tcp, _)) = listener.accept().await {
            let (fake, acceptor) = (Arc::clone(&self), acceptor.clone());
            tokio::spawn(async move {
                if let Ok(tls) = acceptor.accept(tcp).await {
                    fake.serve_http(tls).await;
                }
            });
        }
    }

    /// Reads one request's head: an auth call is answered, an upgrade becomes a socket.
    async fn serve_http(&self, mut tls: tokio_rustls::server::TlsStream<TcpStream>) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tls.read_u8().await.ok()?);
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        if text.starts_with("get /api/v1/socket") {
            let (reader, writer) = tokio::io::split(tls);
            let rewound = tokio::io::join(std::io::Cursor::new(head).chain(reader), writer);
            return self.serve_socket(rewound).await;
        }
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        tls.read_exact(&mut body).await.ok()?;
        if text.contains("/refresh") {
            self.refreshes.fetch_add(1, Ordering::Relaxed);
        }
        let grant = r#"{"user_id":"1","device_id":"5","access_token":"access","access_expires_in":900,
            "refresh_token":"refresh","home":{"shard":1,"shards":2}}"#;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{grant}", grant.len());
        tls.write_all(answer.as_bytes()).await.ok()?;
        tls.shutdown().await.ok()
    }

    async fn serve_socket(&self, io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> Option<()> {
        #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
        let protocol = |request: &Request, mut response: Response| {
            let wanted = request.headers().get("sec-websocket-protocol").cloned();
            response.headers_mut().insert("sec-websocket-protocol", wanted.expect("the client names its protocol"));
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(io, protocol).await.ok()?;
        let (mut live, mut closed) = (self.live.subscribe(), self.closed.subscribe());
        self.hellos[1].fetch_add(1, Ordering::Relaxed);
        loop {
            let code = tokio::select! {
                message = socket.next() => match message?.ok()? {
                    Message::Binary(bytes) => match self.answer(&bytes) {
                        Ok(answers) => {
                            for bytes in answers { socket.send(Message::Binary(bytes)).await.ok()?; }
                            continue;
                        }
                        Err(code) => code,
                    },
                    _ => continue,
                },
                event = live.recv() => {
                    socket.send(Message::Binary(event.ok()?)).await.ok()?;
                    continue;
                }
                code = closed.recv() => code.ok()?,
            };
            let close = tokio_tungstenite::tungstenite::protocol::CloseFrame {
                code: (CloseCode::WEBSOCKET_BASE + code.raw()).into(),
                reason: "".into(),
            };
            return socket.close(Some(close)).await.ok();
        }
    }
}

fn entry(head: u64) -> DirectoryEntry {
    DirectoryEntry {
        conversation: ROOM.raw(),
        head,
        head_visible: head,
        head_time: head,
        join: 1,
        join_visible: 0,
        read: 0,
        read_visible: 0,
        peer_read: 0,
        peer_delivered: 0,
        members: 2,
        role: 1,
        title: Vec::new(),
        preview_seq: 0,
        preview_sender: 0,
        preview: Vec::new(),
    }
}
