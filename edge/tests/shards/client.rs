//! A stock quinn client that speaks frames.

use std::net::UdpSocket;
use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionId, Endpoint, RecvStream, SendStream, VarInt};
use tern_protocol::client::{Hello, Ping, SendMessage};
use tern_protocol::frame::{self, Encode, Frame};
use tern_protocol::limit::KNOWN_FRESH;
use tern_protocol::server::{Pong, Welcome};
use tern_protocol::{ConversationId, ShardId};
use tokio::sync::mpsc;

use crate::world::{PATIENCE, Person, World};

/// One connection.
pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: quinn::Connection,
    pub(crate) control: SendStream,
    frames: mpsc::UnboundedReceiver<Bytes>,
    request: u128,
}

/// Trusts the world's certificate and speaks its protocol.
pub(crate) fn crypto(world: &World, alpn: &[u8]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_early_data = true;
    config
}

/// A configuration whose first connection id names `shard`, or anybody.
pub(crate) fn config(world: &World, shard: Option<ShardId>) -> quinn::ClientConfig {
    let crypto = QuicClientConfig::try_from(crypto(world, b"tern/1")).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    if let Some(shard) = shard {
        let shards = world.placement.shards();
        config.initial_dst_cid_provider(Arc::new(move || {
            let mut id = [0; 8];
            getrandom::fill(&mut id).unwrap();
            let multiple = u16::from(id[0]) % (255 / shards);
            id[0] = u8::try_from(multiple * shards + shard.raw()).unwrap();
            ConnectionId::new(&id)
        }));
    }
    config
}

pub(crate) fn endpoint(world: &World) -> Endpoint {
    let local = if world.address.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    Endpoint::client(local.parse().unwrap()).unwrap()
}

impl Client {
    /// Connects to a shard, or to any; says nothing yet.
    pub(crate) async fn connect(world: &World, shard: Option<ShardId>) -> Self {
        let endpoint = endpoint(world);
        let connecting = endpoint.connect_with(config(world, shard), world.address, "localhost").unwrap();
        let connection = tokio::time::timeout(PATIENCE, connecting).await.unwrap().unwrap();
        Self::on(endpoint, connection).await
    }

    /// Opens the control stream and gathers whatever comes.
    pub(crate) async fn on(endpoint: Endpoint, connection: quinn::Connection) -> Self {
        let (control, answers) = connection.open_bi().await.unwrap();
        let (sender, frames) = mpsc::unbounded_channel();
        tokio::spawn(gather(answers, sender.clone()));
        let lanes = (connection.clone(), sender.clone());
        tokio::spawn(async move {
            while let Ok(lane) = lanes.0.accept_uni().await {
                tokio::spawn(gather(lane, lanes.1.clone()));
            }
        });
        let datagrams = connection.clone();
        tokio::spawn(async move {
            while let Ok(datagram) = datagrams.read_datagram().await {
                let _ = sender.send(datagram);
            }
        });
        // Request ids are a user's own: two of its connections must not share them.
        let mut start = [0; 8];
        getrandom::fill(&mut start).unwrap();
        Self { endpoint, connection, control, frames, request: u64::from_le_bytes(start).into() }
    }

    /// Connects and says hello.
    pub(crate) async fn enter(world: &World, person: Person, shard: Option<ShardId>) -> Self {
        let mut client = Self::connect(world, shard).await;
        client.hello(person).await;
        client.expect::<Welcome>().await;
        client
    }

    pub(crate) async fn hello(&mut self, person: Person) {
        let token = person.token();
        self.send(&Hello { user_seq: 0, token: &token, client: b"test", positions: &[] }).await;
    }

    pub(crate) async fn send<F: Encode>(&mut self, frame: &F) {
        self.control.write_all(&frame::to_vec(frame)).await.unwrap();
    }

    /// Sends a message and returns its request id.
    pub(crate) async fn say(&mut self, conversation: ConversationId, body: &[u8]) -> u128 {
        self.request += 1;
        let request = self.request;
        self.send(&SendMessage {
            request,
            conversation: conversation.raw(),
            known: KNOWN_FRESH,
            reply_to: 0,
            content: 1,
            mentions: &[],
            body,
        })
        .await;
        request
    }

    /// Asks for a sign of life and waits for it.
    pub(crate) async fn ping(&mut self, nonce: u64) {
        self.send(&Ping { nonce, positions: &[] }).await;
        loop {
            let frame = self.expect::<Pong>().await;
            if frame::decode::<Pong>(&frame).unwrap().nonce.to_native() == nonce {
                return;
            }
        }
    }

    /// The next frame of a kind; others are passed over.
    pub(crate) async fn expect<F: Frame>(&mut self) -> Bytes {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.frames.recv()).await;
            let next =
                next.unwrap_or_else(|_| panic!("{:?} never came; {:?}", F::KIND, self.connection.close_reason()));
            let frame =
                next.unwrap_or_else(|| panic!("closed before {:?}: {:?}", F::KIND, self.connection.close_reason()));
            if frame::open(&frame).unwrap().0 == F::KIND {
                return frame;
            }
        }
    }

    /// Waits for the server to close, and returns its code.
    pub(crate) async fn closed(&self) -> VarInt {
        let error = tokio::time::timeout(PATIENCE, self.connection.closed()).await.expect("the server closes");
        let quinn::ConnectionError::ApplicationClosed(close) = error else { panic!("closed by {error}") };
        close.error_code
    }

    /// Moves to another port, as a NAT gateway that has forgotten would.
    pub(crate) fn rebind(&self) {
        let local = self.endpoint.local_addr().unwrap();
        self.endpoint.rebind(UdpSocket::bind((local.ip(), 0)).unwrap()).unwrap();
    }
}

async fn gather(mut stream: RecvStream, frames: mpsc::UnboundedSender<Bytes>) {
    loop {
        let mut frame = vec![0; 4];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        let size = frame::size(&frame).unwrap().unwrap();
        frame.resize(size, 0);
        if stream.read_exact(&mut frame[4..]).await.is_err() || frames.send(frame.into()).is_err() {
            return;
        }
    }
}
