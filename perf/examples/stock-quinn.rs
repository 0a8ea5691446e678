//! What `cargo xtask runtimes` compares shards with: quinn as its own examples use it, on tokio, a task for each connection and one for what is
//! written to it. It speaks as much of the protocol as the load generator needs and does only the transport's part of the work: no log, no
//! disk, no accounts, no memberships, no limits. So whatever it costs is less than a chat server on stock quinn would. Not a server: it
//! believes every token, which is a user id in decimal, and keeps nothing.
//!
//! One group has everybody in it; users 2n-1 and 2n have a direct conversation. It runs on one thread, with the transport parameters of
//! Tern's shards (`edge/src/quic/config.rs`), so that packets and acknowledgements are the same and only who handles them differs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use clap::Parser;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{AckFrequencyConfig, Connection, Endpoint, IdleTimeout, RecvStream, TransportConfig, VarInt};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tern_protocol::client::{GetDirectory, Hello, Ping, SendMessage};
use tern_protocol::server::{Ack, DirectoryEntry, DirectoryPage, Event, Pong, Welcome, event, role};
use tern_protocol::{ConversationId, Frame as _, UserId, frame};
use tokio::sync::mpsc;

/// Frames that may wait for one reader. A fleet reads everything; a reader that does not is dropped.
const QUEUE_MAX: usize = 16 * 1024;
/// Frames written in one call. More come in the next one.
const BATCH: usize = 64;
/// Where conversations begin: as if their first event were their creation.
const FIRST_SEQ: u64 = 1;
/// How often clients are asked to ping. Unit: milliseconds. Tern's default.
const PING_INTERVAL_MS: u32 = 25_000;

/// What stands on the command line.
#[derive(Parser)]
struct Args {
    /// UDP address to serve.
    #[arg(long)]
    listen: SocketAddr,
    /// Id of the group that everybody is in.
    #[arg(long)]
    group: u128,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Who is here, and how far each conversation is.
struct Room {
    group: u128,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    heads: BTreeMap<u128, u64>,
    readers: BTreeMap<u64, mpsc::Sender<Bytes>>,
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stderr, reason = "whoever started it reads why it does not run")]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("stock-quinn: {why}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "says when it can be reached")]
async fn run(args: &Args) -> Result<(), Failure> {
    let endpoint = Endpoint::server(server_config()?, args.listen)?;
    let room = Arc::new(Room { group: args.group, inner: Mutex::default() });
    println!("ready");
    while let Some(incoming) = endpoint.accept().await {
        let room = Arc::clone(&room);
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                // A client that leaves ends its task; there is nobody to tell.
                let _ = serve(connection, &room).await;
            }
        });
    }
    Ok(())
}

fn server_config() -> Result<quinn::ServerConfig, Failure> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    tls.alpn_protocols = vec![b"tern/1".to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// The shards' own parameters, each with its reason there.
fn transport() -> TransportConfig {
    let mut ack_frequency = AckFrequencyConfig::default();
    ack_frequency.ack_eliciting_threshold(VarInt::from_u32(10));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(60_000))))
        .stream_receive_window(VarInt::from_u32(128 * 1024))
        .receive_window(VarInt::from_u32(128 * 1024))
        .send_window(128 * 1024)
        .mtu_discovery_config(None)
        .initial_mtu(1200)
        .ack_frequency_config(Some(ack_frequency))
        .allow_spin(false);
    config
}

/// One connection, from its hello to its end.
async fn serve(connection: Connection, room: &Room) -> Result<(), Failure> {
    let (mut answers, control) = connection.accept_bi().await?;
    let mut frames = Frames { control, buffer: BytesMut::new() };
    let first = frames.next().await?.ok_or("no hello")?;
    let hello = frame::decode::<Hello<'_>>(&first)?;
    let user: u64 = std::str::from_utf8(&hello.token)?.parse()?;
    answers.write_chunk(welcome(user)).await?;

    let mut lane = connection.open_uni().await?;
    let (reader, mut waiting) = mpsc::channel(QUEUE_MAX);
    room.lock().readers.insert(user, reader);
    tokio::spawn(async move {
        let mut batch = Vec::with_capacity(BATCH);
        while waiting.recv_many(&mut batch, BATCH).await > 0 {
            if lane.write_all_chunks(&mut batch).await.is_err() {
                break;
            }
            batch.clear();
        }
    });
    while let Some(frame) = frames.next().await? {
        if let Some(answer) = room.handle(user, &frame)? {
            answers.write_chunk(answer).await?;
        }
    }
    Ok(())
}

/// Whole frames of a control stream.
struct Frames {
    control: RecvStream,
    buffer: BytesMut,
}

impl Frames {
    /// The next one; `None` when the client has finished.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(size) = frame::size(&self.buffer)?
                && size <= self.buffer.len()
            {
                return Ok(Some(self.buffer.split_to(size).freeze()));
            }
            match self.control.read_chunk(usize::MAX, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None => return Ok(None),
            }
        }
    }
}

impl Room {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a frame asks for and returns what its sender is told.
    fn handle(&self, user: u64, bytes: &[u8]) -> Result<Option<Bytes>, Failure> {
        let (kind, archive) = frame::open(bytes)?;
        Ok(if kind == SendMessage::KIND {
            let message = frame::decode_archive::<SendMessage<'_>>(archive)?;
            let (request, conversation) = (message.request.to_native(), message.conversation.to_native());
            let seq = self.send(user, request, conversation, message.content, &message.body);
            Some(encode(&Ack { request, conversation, seq, time: now() }))
        } else if kind == GetDirectory::KIND {
            let request = frame::decode_archive::<GetDirectory>(archive)?.request.to_native();
            Some(encode(&DirectoryPage { request, more: 0, entries: self.directory(user) }))
        } else if kind == Ping::KIND {
            let nonce = frame::decode_archive::<Ping<'_>>(archive)?.nonce.to_native();
            Some(encode(&Pong { nonce, time: now(), user_seq: 0, heads: &[] }))
        } else {
            None
        })
    }

    /// Gives a message its place and puts it, encoded once, before each of its readers.
    fn send(&self, sender: u64, request: u128, conversation: u128, content: u8, body: &[u8]) -> u64 {
        let mut inner = self.lock();
        let head = inner.heads.entry(conversation).or_insert(FIRST_SEQ);
        *head += 1;
        let seq = *head;
        let frame = encode(&Event {
            conversation,
            seq,
            time: now(),
            visible: seq - FIRST_SEQ,
            sender,
            request,
            target: 0,
            revised: 0,
            subject: 0,
            kind: event::MESSAGE,
            content,
            role: 0,
            mentions: &[],
            body,
        });
        if conversation == self.group {
            inner.readers.retain(|_, reader| reader.try_send(frame.clone()).is_ok());
        } else {
            for user in [sender, partner(sender)] {
                if inner.readers.get(&user).is_some_and(|reader| reader.try_send(frame.clone()).is_err()) {
                    inner.readers.remove(&user);
                }
            }
        }
        seq
    }

    fn directory(&self, user: u64) -> Vec<DirectoryEntry> {
        let direct = ConversationId::direct(UserId::from_raw(user), UserId::from_raw(partner(user)));
        let inner = self.lock();
        let entry = |conversation| {
            let head = inner.heads.get(&conversation).copied().unwrap_or(FIRST_SEQ);
            DirectoryEntry {
                conversation,
                head,
                head_visible: head - FIRST_SEQ,
                head_time: now(),
                join: FIRST_SEQ,
                join_visible: 0,
                read: 0,
                read_visible: 0,
                peer_read: 0,
                peer_delivered: 0,
                members: 2,
                role: role::MEMBER,
                title: Vec::new(),
                preview_seq: 0,
                preview_sender: 0,
                preview: Vec::new(),
            }
        };
        vec![entry(self.group), entry(direct.raw())]
    }
}

/// The other one of a pair.
const fn partner(user: u64) -> u64 {
    ((user - 1) ^ 1) + 1
}

fn welcome(user: u64) -> Bytes {
    encode(&Welcome {
        user,
        device: user,
        session: user,
        time: now(),
        user_seq: 0,
        home: 0,
        shards: 1,
        ping_interval: PING_INTERVAL_MS,
    })
}

fn encode<F: frame::Encode>(frame: &F) -> Bytes {
    Bytes::from(frame::to_vec(frame))
}

/// Unit: microseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
