//! A man in the middle who understands frames: takes connections with a certificate of his own, opens one of the same kind to the real
//! server for each, and passes whole frames on, but for what his rule says. Over QUIC lanes stay lanes. Never answers anything himself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tern_client::wire::{Dialer, Ending, FrameReader, Incoming, Lane, Link, LinkSender};
use tern_client::{CloseCode, ServerAddress, Trust};
use tern_perf::fleet::Proxy;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::rules::{Memory, Rule, Rules};
use crate::websocket;

/// One read from a stream. Unit: bytes.
const READ_SIZE: usize = 16 * 1024;

/// A meddler at work. Dropping it cuts all connections.
pub(crate) struct Meddler {
    quic: SocketAddr,
    tcp: SocketAddr,
    rules: Arc<Rules>,
    /// Two threads of its own: it must not wait for the test, nor the test for it.
    _runtime: tokio::runtime::Runtime,
}

impl Meddler {
    /// Stands before the server at this address, whose key it keeps in `directory`.
    pub(crate) fn start(server: SocketAddr, directory: &Path, rule: Rule) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let rules = Arc::new(Rules::new(rule));
        let trust = Trust::FirstUse(directory.join("meddler-knows"));
        let dialer = Dialer::new(ServerAddress::parse(&server.to_string()).unwrap(), &trust).unwrap();
        let tls = tls();
        let (endpoint, listener) = runtime.block_on(async {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            (quinn::Endpoint::server(quic(&tls), any).unwrap(), TcpListener::bind(any).await.unwrap())
        });
        let (quic, tcp) = (endpoint.local_addr().unwrap(), listener.local_addr().unwrap());
        let shared = (dialer.clone(), Arc::clone(&rules));
        runtime.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let (dialer, rules) = shared.clone();
                tokio::spawn(async move { serve(incoming, &dialer, server, rules).await });
            }
        });
        let shared = Arc::clone(&rules);
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, dialer, rules) = (acceptor.clone(), dialer.clone(), Arc::clone(&shared));
                tokio::spawn(async move { websocket::serve(stream, &acceptor, &dialer, server, rules).await });
            }
        });
        Self { quic, tcp, rules, _runtime: runtime }
    }

    /// Where clients find it.
    pub(crate) const fn proxy(&self) -> Proxy {
        Proxy { quic: self.quic, tcp: self.tcp }
    }

    pub(crate) const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }
}

/// One certificate for both: clients take the first one that they see for the server's.
fn tls() -> rustls::ServerConfig {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_no_client_auth();
    builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap()
}

fn quic(tls: &rustls::ServerConfig) -> quinn::ServerConfig {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![b"tern/1".to_vec()];
    quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()))
}

/// Why the client's side ends when the server's did.
pub(crate) const fn code_of(ending: &Ending) -> CloseCode {
    match ending {
        Ending::Closed(code) => *code,
        Ending::ClosedUnknown(_) | Ending::Lost(_) | Ending::Malformed(_) => CloseCode::Internal,
    }
}

/// One client, from its handshake to its end. Whatever ends one side ends the other.
async fn serve(incoming: quinn::Incoming, dialer: &Dialer, server: SocketAddr, rules: Arc<Rules>) -> Option<()> {
    let connection = incoming.await.ok()?;
    let (control, receive) = connection.accept_bi().await.ok()?;
    let mut frames = Frames { receive, reader: FrameReader::new() };
    let hello = frames.next().await?;
    let link = dialer.quic(server, None, &hello).await.ok()?;
    let datagrams = pass_datagrams(connection.clone(), link.sender().clone(), Arc::clone(&rules));
    let up = tokio::spawn(pass_up(frames, link.sender().clone(), Arc::clone(&rules)));
    let datagrams = tokio::spawn(datagrams);
    tokio::select! {
        () = pass_down(link, &connection, control, &rules) => {}
        _ = connection.closed() => {}
    }
    up.abort();
    datagrams.abort();
    Some(())
}

/// A stream as whole frames.
struct Frames {
    receive: RecvStream,
    reader: FrameReader,
}

impl Frames {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.reader.take().ok()? {
                return Some(frame);
            }
            let chunk = self.receive.read_chunk(READ_SIZE, true).await.ok()??;
            self.reader.push(&chunk.bytes);
        }
    }
}

async fn pass_up(mut frames: Frames, server: LinkSender, rules: Arc<Rules>) {
    while let Some(frame) = frames.next().await {
        rules.gate().await;
        if server.send(frame).await.is_err() {
            return;
        }
    }
}

async fn pass_datagrams(connection: Connection, server: LinkSender, rules: Arc<Rules>) {
    while let Ok(datagram) = connection.read_datagram().await {
        rules.gate().await;
        if server.send_datagram(datagram).await.is_err() {
            return;
        }
    }
}

async fn pass_down(mut server: Link, connection: &Connection, mut control: SendStream, rules: &Rules) {
    let mut lanes: BTreeMap<u8, SendStream> = BTreeMap::new();
    let mut memory = Memory::default();
    loop {
        let (lane, frame) = match server.next().await {
            Incoming::Frame(lane, frame) => (lane, frame),
            Incoming::Closed(ending) => {
                let code = code_of(&ending);
                connection.close(VarInt::from_u32(u32::from(code.raw())), code.text().as_bytes());
                return;
            }
        };
        for frame in rules.apply(&mut memory, frame) {
            rules.gate().await;
            let passed = match lane {
                Lane::Control => control.write_chunk(frame).await.is_ok(),
                Lane::Datagram => connection.send_datagram(frame).is_ok(),
                Lane::Delivery(number) => match lane_of(&mut lanes, number, connection).await {
                    Some(stream) => stream.write_chunk(frame).await.is_ok(),
                    None => false,
                },
            };
            if !passed {
                return;
            }
        }
    }
}

/// The client's stream for a lane of the server; opened in the order of their numbers, so that each keeps its own.
async fn lane_of<'a>(
    lanes: &'a mut BTreeMap<u8, SendStream>,
    number: u8,
    connection: &Connection,
) -> Option<&'a mut SendStream> {
    while !lanes.contains_key(&number) {
        let next = u8::try_from(lanes.len()).ok()?;
        lanes.insert(next, connection.open_uni().await.ok()?);
    }
    lanes.get_mut(&number)
}
