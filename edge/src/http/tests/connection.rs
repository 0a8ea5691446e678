//! Connections that are slow, greedy or ambiguous.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::{Listener, Timeouts, bind};
use super::World;
use crate::clock::Clock;

/// Long enough that only a connection that is never closed takes it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    world: World,
    address: std::net::SocketAddr,
    _accepting: tokio::task::JoinHandle<()>,
}

fn serve(timeouts: Timeouts, connections_max: usize) -> Server {
    let mut config = super::config();
    config.process.http.body_timeout = Duration::from_millis(200);
    let world = World::with(&config);
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Listener {
        router: world.router.clone(),
        tls: None,
        handshake_timeout: Duration::from_secs(5),
        timeouts,
        connections_max,
        counters: world.counters.clone(),
        clock: Clock::start(),
    };
    Server { world, address, _accepting: tokio::spawn(listener.run(socket)) }
}

const PATIENT: Timeouts = Timeouts { header: PATIENCE, idle: PATIENCE };

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Everything that the server says to these bytes until it closes.
    async fn until_closed(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        read_to_end(&mut stream).await
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn headers_that_do_not_end_and_silence_are_cut() {
    let short = Duration::from_millis(100);
    let server = serve(Timeouts { header: short, idle: PATIENCE }, 16);
    assert_eq!(server.until_closed(b"").await, "");
    assert_eq!(server.until_closed(b"GET / HTTP/1.1\r\nHost: x\r\n").await, "");
    // After an answer, the first byte of the next request starts the clock again.
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.read_u8().await.unwrap();
    stream.write_all(b"GET").await.unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("TTP/1.1 200"));
    let idle = serve(Timeouts { header: PATIENCE, idle: short }, 16);
    let answer = idle.until_closed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(idle.world.counters.timeouts.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_body_that_does_not_come_gets_408() {
    let server = serve(PATIENT, 16);
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n";
    for rest in ["Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"] {
        let answer = server.until_closed(format!("{head}{rest}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("too_slow"), "{answer}");
    }
}

#[tokio::test]
async fn bodies_beyond_the_limit_get_413_however_they_are_sent() {
    let server = serve(PATIENT, 16);
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let declared = server.until_closed(format!("{head}Content-Length: 9999999999\r\n\r\n").as_bytes()).await;
    assert!(declared.starts_with("HTTP/1.1 413"), "{declared}");
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let endless =
        server.until_closed(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}").as_bytes()).await;
    assert!(endless.starts_with("HTTP/1.1 413"), "{endless}");
}

#[tokio::test]
async fn requests_that_two_servers_would_read_differently_are_refused() {
    let server = serve(PATIENT, 16);
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\n";
    for rest in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
        "Content-Length: +5\r\n\r\n{}   ",
        "Content-Length: 5, 5\r\n\r\n{}   ",
        "X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "Transfer-Encoding: identity\r\n\r\n",
    ] {
        let answer = server.until_closed(format!("{head}{rest}").as_bytes()).await;
        // Never taken for two requests: refused, or (RFC 9112 section 6.1) read as chunked and the connection closed.
        assert!(answer.starts_with("HTTP/1.1 4"), "{rest:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{rest:?}: {answer}");
    }
}

#[tokio::test]
async fn headers_beyond_the_limit_get_431() {
    let server = serve(PATIENT, 16);
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: a\r\n".repeat(1000));
    for request in [large, many] {
        let answer = server.until_closed(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn beyond_the_connection_limit_others_wait_until_one_ends() {
    let server = serve(PATIENT, 1);
    let mut first = server.connect().await;
    first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = server.connect().await;
    second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let accepted = || server.world.counters.accepted.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(accepted(), 1);
    drop(first);
    assert!(read_to_end(&mut second).await.starts_with("HTTP/1.1 200"));
    assert_eq!(accepted(), 2);
}
