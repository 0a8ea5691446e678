//! What must not hurt anybody but its sender: nonsense on every port, every mistake a client can make, readers that do not read.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

use bytes::Bytes;
use tern_client::wire::{Ending, Incoming, Link};
use tern_client::{CloseCode, ConversationId, Transport};
use tern_protocol::RejectCode;
use tern_protocol::client::{Ping, SendMessage};
use tern_protocol::frame::{self, Frame};
use tern_protocol::limit::KNOWN_FRESH;
use tern_protocol::server::{Event, Reject, Welcome};

use crate::site::{Mode, PATIENCE, Site, ending, hello, run, until};

/// Two honest people who talk all the time that a test lasts.
struct Honest {
    ada: tern_client::Client,
    direct: ConversationId,
    /// Keeps bob's connection.
    _bob: tern_client::Client,
}

impl Honest {
    async fn arrive(site: &Site) -> Self {
        site.register("ada").await;
        site.register("bob").await;
        let (ada, ada_events) = site.client("ada", Transport::Quic).await;
        let (bob, bob_events) = site.client("bob", Transport::WebSocket).await;
        let direct = ada.open_direct(bob.user()).await.unwrap();
        tern_perf::load::wait_until_in(&bob, direct).await.unwrap();
        // Whoever does not look at what comes in is a slow reader as well.
        for mut events in [ada_events, bob_events] {
            tokio::spawn(async move { while events.next().await.is_some() {} });
        }
        Self { ada, direct, _bob: bob }
    }

    /// That they still can.
    async fn talk(&self) {
        self.ada.send(self.direct, "still here").await.unwrap();
    }
}

pub(crate) fn garbage_harms_nobody(mode: Mode) {
    run(async {
        let site = Site::start(mode);
        let honest = Honest::arrive(&site).await;
        let rss = site.server.rss().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut random = 1;
        for size in (0..1500).chain([4_000, 9_000, 65_507]) {
            let bytes: Vec<u8> = (0..size)
                .map(|_| {
                    random = tern_protocol::placement::mix64(random);
                    random.to_le_bytes()[0]
                })
                .collect();
            // A full socket buffer only means that less garbage arrives.
            let _ = udp.send_to(&bytes, site.plan.listen);
        }
        let mut silent = TcpStream::connect(site.plan.listen).unwrap();
        let mut half = TcpStream::connect(site.plan.listen).unwrap();
        half.write_all(b"GET / HT").unwrap();
        let mut tls = site.dialer().tls(site.plan.listen).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut tls, b"GET /api/v1/socket HTTP/1.1\r\nHost: loc").await.unwrap();
        honest.talk().await;
        // Plain text where TLS belongs is refused; what is only begun is closed in time.
        half.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let _ = half.read_to_end(&mut rest);
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_to_end(&mut tls, &mut rest)).await;
        assert!(closed.is_ok(), "half a request is kept for ever");
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0, "a silent connection is kept for ever");
        honest.talk().await;
        let grown = site.server.rss().unwrap().saturating_sub(rss);
        assert!(grown < 64 * 1024 * 1024, "garbage took {grown} bytes");
    });
}

pub(crate) fn each_mistake_has_its_code(mode: Mode) {
    run(async {
        let site = Site::start(mode);
        let honest = Honest::arrive(&site).await;
        site.register("eve").await;
        let ping = frame::to_vec(&Ping { nonce: 1, positions: &[] });
        let mut forged = site.grant("eve").await.access_token;
        // Another signature: the last character of one carries spare bits, the one before does not.
        let at = forged.len() - 2;
        let other = if forged.as_bytes()[at] == b'A' { "B" } else { "A" };
        forged.replace_range(at..=at, other);
        let mut version = ping.clone();
        version[4] = 9;
        let mut kind = ping.clone();
        kind[5] = Welcome::KIND.0;
        let mut torn = ping.clone();
        let end = torn.len();
        torn[end - 6..].fill(0x7f);
        let oversized = [&u32::MAX.to_le_bytes()[..], &ping[4..]].concat();
        for transport in [Transport::Quic, Transport::WebSocket] {
            for (first, code) in [
                (ping.clone(), CloseCode::HelloExpected),
                (hello(b"not a token"), CloseCode::BadToken),
                (hello(forged.as_bytes()), CloseCode::BadToken),
                (oversized.clone(), CloseCode::FrameTooLarge),
                (version.clone(), CloseCode::UnsupportedVersion),
            ] {
                let mut link = site.raw(transport, &first).await;
                assert_eq!(ending(&mut link).await, Ending::Closed(code), "{transport:?}");
            }
            for (bytes, code) in [
                (version.clone(), CloseCode::UnsupportedVersion),
                (kind.clone(), CloseCode::UnexpectedFrame),
                (torn.clone(), CloseCode::Malformed),
                (oversized.clone(), CloseCode::FrameTooLarge),
            ] {
                let mut link = site.open("eve", transport).await;
                welcomed(&mut link).await;
                link.sender().send(bytes.into()).await.unwrap();
                assert_eq!(ending(&mut link).await, Ending::Closed(code), "{transport:?}");
                honest.talk().await;
            }
            refusals(&site, &honest, transport).await;
        }
        let mut silent = site.raw(Transport::Quic, b"").await;
        assert_eq!(ending(&mut silent).await, Ending::Closed(CloseCode::HelloExpected));
        flood(&site).await;
        honest.talk().await;
        // One line about each of them, on both transports.
        let log = site.plan.log();
        let lines = |code: CloseCode| log.matches(&format!("\"code\":\"{code:?}\"")).count();
        assert_eq!(lines(CloseCode::BadToken), 4);
        assert_eq!(lines(CloseCode::UnsupportedVersion), 4);
        assert_eq!(lines(CloseCode::FrameTooLarge), 4);
        assert_eq!(lines(CloseCode::UnexpectedFrame), 2);
        assert_eq!(lines(CloseCode::Malformed), 2);
        assert_eq!(lines(CloseCode::HelloExpected), 3);
        assert_eq!(lines(CloseCode::Flooding), 1);
    });
}

/// Requests that are refused while the connection stays.
async fn refusals(site: &Site, honest: &Honest, transport: Transport) {
    let mut link = site.open("eve", transport).await;
    welcomed(&mut link).await;
    let large = vec![b'x'; 17 * 1024];
    let message = SendMessage {
        request: 7,
        conversation: honest.direct.raw(),
        known: KNOWN_FRESH,
        reply_to: 0,
        content: 0,
        mentions: &[],
        body: &large,
    };
    for (body, code) in [(&large[..], RejectCode::TooLarge), (&b"hi"[..], RejectCode::NotFound)] {
        let frame = frame::to_vec(&SendMessage { body, ..message });
        link.sender().send(frame.into()).await.unwrap();
        let reject = frame_of::<Reject>(&mut link).await;
        let reject = frame::decode::<Reject>(&reject).unwrap();
        assert_eq!((reject.request.to_native(), reject.code.to_native()), (7, code.raw()));
    }
    link.close(CloseCode::Goodbye).await;
}

/// Far more frames than anybody needs: shown the door.
async fn flood(site: &Site) {
    let mut link = site.open("eve", Transport::Quic).await;
    welcomed(&mut link).await;
    let ping: Bytes = frame::to_vec(&Ping { nonce: 1, positions: &[] }).into();
    let sender = link.sender().clone();
    let pour = tokio::spawn(async move {
        for _ in 0..10_000 {
            if sender.send(ping.clone()).await.is_err() {
                break;
            }
        }
    });
    assert_eq!(ending(&mut link).await, Ending::Closed(CloseCode::Flooding));
    pour.await.unwrap();
}

pub(crate) fn a_reader_that_never_reads(mode: Mode) {
    run(async {
        let mut site = Site::start(mode);
        for (which, size) in [("EPHEMERAL", "16KiB"), ("LIVE", "64KiB"), ("CLOSE", "256KiB")] {
            site.plan = site.plan.with(&format!("TERN_LIMITS__OUTBOX_{which}_MAX"), size);
        }
        site.plan =
            site.plan.with("TERN_LIMITS__SLOW_READER_TIMEOUT", "2s").with("TERN_LIMITS__FRAMES_BURST", "100000");
        site = site.restart();
        let honest = Honest::arrive(&site).await;
        let mut links = Vec::new();
        for transport in [Transport::Quic, Transport::WebSocket] {
            // Bob's third and fourth devices are welcomed and read nothing from then on.
            let mut link = site.open("bob", transport).await;
            welcomed(&mut link).await;
            links.push(link);
        }
        // Counted at the end of the turn that welcomed the last of them, which may be after its welcome came in.
        let sessions = || site.server.metric("tern_sessions").unwrap();
        until("all four are counted", || sessions() >= 4.0).await;
        let rss = site.server.rss().unwrap();
        let body = "x".repeat(12_000);
        for _ in 0..100 {
            let handles: Vec<_> = (0..10).map(|_| honest.ada.send(honest.direct, &body)).collect();
            for handle in handles {
                handle.await.unwrap();
            }
        }
        until("the slow readers are closed", || sessions() <= 2.0).await;
        let grown = site.server.rss().unwrap().saturating_sub(rss);
        // 12 MB of messages went by: they are in the window, the view and the journal's queues, none of it per reader.
        assert!(grown < 160 * 1024 * 1024, "two slow readers took {grown} bytes");
        honest.talk().await;
        drop(links);
    });
}

/// Waits for the welcome.
async fn welcomed(link: &mut Link) {
    frame_of::<Welcome>(link).await;
}

/// The next frame of a type.
async fn frame_of<F: Frame>(link: &mut Link) -> Bytes {
    loop {
        match tokio::time::timeout(PATIENCE, link.next()).await.expect("an answer in time") {
            Incoming::Frame(_, bytes) if frame::open(&bytes).is_ok_and(|(kind, _)| kind == F::KIND) => return bytes,
            Incoming::Frame(_, bytes) => {
                let kind = frame::open(&bytes).map(|(kind, _)| kind);
                assert_ne!(kind, Ok(Event::KIND), "a stranger gets no events");
            }
            Incoming::Closed(ending) => panic!("closed instead: {ending}"),
        }
    }
}
