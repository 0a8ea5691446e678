//! The socket's upgrade over real TLS: what arrives at the shard is the same session, with nothing lost.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use tern_protocol::UserId;

use super::super::{Listener, Timeouts, bind};
use super::World;
use crate::certificate::Certificates;
use crate::clock::Clock;
use crate::node::HandedSocket;

const PATIENCE: Duration = Duration::from_secs(20);

/// These tests are about what follows the handshake.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

type Client = rustls::StreamOwned<ClientConnection, std::net::TcpStream>;

fn client(address: std::net::SocketAddr) -> Client {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let tcp = std::net::TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    rustls::StreamOwned::new(session, tcp)
}

/// The request, and in the same TLS write the first bytes of the WebSocket.
fn request(address: std::net::SocketAddr, extra: &str, after: &str) -> String {
    format!(
        "GET /api/v1/socket HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: tern.v1.rkyv\r\n{extra}\r\n{after}"
    )
}

fn answer_of(client: &mut Client) -> String {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

/// What a shard would read first: the rest of the HTTP side's buffer, then the TLS session's, then the wire.
fn read_handed(socket: &mut HandedSocket, count: usize) -> Vec<u8> {
    let mut bytes = socket.read_buf.to_vec();
    socket.tcp.set_nonblocking(false).unwrap();
    socket.tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    while bytes.len() < count {
        let mut chunk = [0; 256];
        match socket.tls.reader().read(&mut chunk) {
            Ok(size) => bytes.extend_from_slice(&chunk[..size]),
            Err(_) => {
                socket.tls.read_tls(&mut socket.tcp).unwrap();
                socket.tls.process_new_packets().unwrap();
            }
        }
    }
    bytes
}

async fn wait_for(mut ready: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !ready() {
        assert!(tokio::time::Instant::now() < deadline, "it never came");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_goes_on_at_the_shard_with_nothing_lost() {
    let world = World::new();
    world.register("ada").await;
    let login = world.login("ada").await;
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let config = super::config();
    let certificates = Certificates::open(&config.process.tls, dir.path(), clock.now().timestamp).unwrap();
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Listener {
        router: world.router.clone(),
        tls: Some(certificates.tcp(16)),
        handshake_timeout: PATIENCE,
        timeouts: Timeouts { header: PATIENCE, idle: PATIENCE },
        connections_max: 4,
        counters: world.counters.clone(),
        clock,
    };
    tokio::spawn(listener.run(socket));

    let token = login.text("access_token").to_owned();
    let mut client = tokio::task::spawn_blocking(move || {
        let mut client = client(address);
        let bearer = format!("Authorization: Bearer {token}\r\n");
        client.write_all(request(address, &bearer, "first").as_bytes()).unwrap();
        let answer = answer_of(&mut client);
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        client.write_all(b" second").unwrap();
        client
    })
    .await
    .unwrap();

    wait_for(|| !world.sockets.0.lock().unwrap().is_empty()).await;
    let (shard, mut handed) = world.sockets.0.lock().unwrap().remove(0);
    let user = UserId::from_raw(login.text("user_id").parse().unwrap());
    assert_eq!(shard, world.placement().home(user));
    tokio::task::spawn_blocking(move || {
        assert_eq!(read_handed(&mut handed, 12), b"first second");
        handed.tls.writer().write_all(b"reply").unwrap();
        while handed.tls.wants_write() {
            handed.tls.write_tls(&mut handed.tcp).unwrap();
        }
        let mut reply = [0; 5];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"reply");
    })
    .await
    .unwrap();
    wait_for(|| world.counters.open.load(std::sync::atomic::Ordering::Relaxed) == 0).await;

    tokio::task::spawn_blocking(move || {
        for (extra, status) in
            [("Origin: https://evil.example\r\n", "403"), ("Authorization: Bearer forged\r\n", "401")]
        {
            let mut client = self::client(address);
            client.write_all(request(address, extra, "").as_bytes()).unwrap();
            let answer = answer_of(&mut client);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
    })
    .await
    .unwrap();
    assert!(world.sockets.0.lock().unwrap().is_empty());
}
