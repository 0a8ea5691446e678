//! WebSocket: a TLS session that begins on one thread and goes on on a shard.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tern_edge::node::{DriverKind, HandedSocket};
use tern_protocol::client::{Hello, Ping};
use tern_protocol::frame::{self, Frame};
use tern_protocol::limit::FRAME_SIZE_MAX;
use tern_protocol::server::{Pong, Welcome};
use tern_protocol::{CloseCode, ShardId};
use tungstenite::protocol::frame::coding::CloseCode as WsCode;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Error, Message, WebSocket};

use crate::client;
use crate::world::{DRIVERS, PATIENCE, Person, World, until};

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// What the client sends together with the request that is upgraded.
enum Early {
    Nothing,
    /// It is found in the HTTP server's buffer.
    Buffered(Vec<u8>),
}

/// A client's socket whose server side was given to a shard.
fn upgrade(world: &World, shard: ShardId, early: Early) -> WebSocket<Stream> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(client::crypto(world, b"http/1.1"));
    let server_config = Arc::clone(&world.tls);
    let accept = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(server_config).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).unwrap();
        }
        // The request that a real server would answer with 101.
        let mut request = [0; 8];
        while tls.reader().read(&mut request).is_err() {
            tls.complete_io(&mut tcp).unwrap();
        }
        tls.writer().write_all(b"101").unwrap();
        tls.complete_io(&mut tcp).unwrap();
        (tcp, tls)
    });
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let tls = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(tls, tcp);
    stream.write_all(b"upgrade!").unwrap();
    stream.flush().unwrap();
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).unwrap();
    let (tcp, tls) = accept.join().unwrap();
    let read_buf = match early {
        Early::Nothing => Bytes::new(),
        Early::Buffered(bytes) => bytes.into(),
    };
    world.control.hand_over(shard, HandedSocket { tcp, tls, read_buf }).unwrap();
    WebSocket::from_raw_socket(stream, Role::Client, None)
}

fn hello(person: Person) -> Message {
    let token = person.token();
    Message::Binary(frame::to_vec(&Hello { user_seq: 0, token: &token, client: b"test", positions: &[] }).into())
}

/// The next frame of a kind; others are passed over.
fn expect<F: Frame>(socket: &mut WebSocket<Stream>) -> Bytes {
    loop {
        let message = socket.read().unwrap();
        assert!(!message.is_close(), "{message} before {:?}", F::KIND);
        if let Message::Binary(bytes) = message
            && frame::open(&bytes).unwrap().0 == F::KIND
        {
            return bytes;
        }
    }
}

/// The code that the server closes with.
fn closed(socket: &mut WebSocket<Stream>) -> u16 {
    let mut code = None;
    loop {
        match socket.read() {
            Ok(Message::Close(close)) => code = close.map(|close| close.code.into()),
            Ok(_) => {}
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => return code.expect("a code"),
            Err(error) => panic!("{error} after {code:?}"),
        }
    }
}

fn ping(socket: &mut WebSocket<Stream>, nonce: u64) {
    socket.send(Message::Binary(frame::to_vec(&Ping { nonce, positions: &[] }).into())).unwrap();
    let pong = expect::<Pong>(socket);
    assert_eq!(frame::decode::<Pong>(&pong).unwrap().nonce.to_native(), nonce);
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handed_over_session_goes_on_with_either_driver() {
    for &driver in DRIVERS {
        let world = World::new(2, driver).await;
        let person = world.person("ada").await;
        for shard in [0, 1].map(ShardId::from_raw) {
            let mut socket = upgrade(&world, shard, Early::Nothing);
            blocking(move || {
                socket.send(hello(person)).unwrap();
                expect::<Welcome>(&mut socket);
                for nonce in 1..200 {
                    ping(&mut socket, nonce);
                }
                socket.send(Message::Ping(Bytes::from_static(b"beat"))).unwrap();
                assert_eq!(socket.read().unwrap(), Message::Pong(Bytes::from_static(b"beat")));
                socket.close(None).unwrap();
                while socket.read().is_ok() {}
            })
            .await;
        }
        until("closed", || world.total(|shard| shard.websocket_connections) == 0).await;
        assert_eq!(world.control.sessions(), 0);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_http_server_read_ahead_comes_first() {
    let world = World::new(1, DriverKind::Auto).await;
    let person = world.person("ada").await;
    let token = person.token();
    let hello = frame::to_vec(&Hello { user_seq: 0, token: &token, client: b"test", positions: &[] });
    let ping_frame = frame::to_vec(&Ping { nonce: 5, positions: &[] });
    let bytes = [masked(&hello), masked(&ping_frame)].concat();
    // The last bytes of the second frame come through the socket.
    let (buffered, rest) = bytes.split_at(bytes.len() - 7);
    let mut socket = upgrade(&world, ShardId::from_raw(0), Early::Buffered(buffered.to_vec()));
    socket.get_mut().write_all(rest).unwrap();
    blocking(move || {
        expect::<Welcome>(&mut socket);
        let pong = expect::<Pong>(&mut socket);
        assert_eq!(frame::decode::<Pong>(&pong).unwrap().nonce.to_native(), 5);
    })
    .await;
    world.stop().await;
}

/// A frame whose mask changes nothing.
fn masked(content: &[u8]) -> Vec<u8> {
    let size = u16::try_from(content.len()).unwrap();
    let mut out = if size < 126 { vec![0x82, 0x80 | u8::try_from(size).unwrap()] } else { vec![0x82, 0xfe] };
    if size >= 126 {
        out.extend_from_slice(&size.to_be_bytes());
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(content);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_offence_has_its_close_code() {
    let world = World::new(1, DriverKind::Auto).await;
    let offences: Vec<(Vec<u8>, u16)> = vec![
        (vec![0x82, 0x01, 0x00], 1002),
        ([&[0x81, 0x81, 0, 0, 0, 0], &b"x"[..]].concat(), 1003),
        ([&[0x82, 0xff][..], &(FRAME_SIZE_MAX as u64 + 1).to_be_bytes()].concat(), 1009),
        (masked(b"not a frame at all"), CloseCode::WEBSOCKET_BASE + CloseCode::FrameTooLarge.raw()),
        (masked(&[6, 0, 0, 0, 1]), CloseCode::WEBSOCKET_BASE + CloseCode::Malformed.raw()),
        ([0x89, 0x80, 0, 0, 0, 0].repeat(40), 1008),
    ];
    for (bytes, code) in offences {
        let mut socket = upgrade(&world, ShardId::from_raw(0), Early::Nothing);
        socket.get_mut().write_all(&bytes).unwrap();
        assert_eq!(blocking(move || closed(&mut socket)).await, code);
    }
    until("closed", || world.total(|shard| shard.websocket_connections) == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_vanishes_is_forgotten() {
    for &driver in DRIVERS {
        let world = World::new(1, driver).await;
        let sockets: Vec<_> = (0..20).map(|_| upgrade(&world, ShardId::from_raw(0), Early::Nothing)).collect();
        until("open", || world.total(|shard| shard.websocket_connections) == 20).await;
        drop(sockets);
        until("closed", || world.total(|shard| shard.websocket_connections) == 0).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_tells_a_websocket_why() {
    for &driver in DRIVERS {
        let world = World::new(1, driver).await;
        let person = world.person("ada").await;
        let mut socket = upgrade(&world, ShardId::from_raw(0), Early::Nothing);
        let mut socket = blocking(move || {
            socket.send(hello(person)).unwrap();
            expect::<Welcome>(&mut socket);
            socket
        })
        .await;
        world.stop().await;
        let code = blocking(move || closed(&mut socket)).await;
        assert_eq!(code, CloseCode::WEBSOCKET_BASE + CloseCode::Draining.raw());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_does_not_stop_the_others() {
    for &driver in DRIVERS {
        let world = World::new(1, driver).await;
        let person = world.person("ada").await;
        let other = world.device(person, 1).await;
        let mut deaf = upgrade(&world, ShardId::from_raw(0), Early::Nothing);
        deaf.get_mut().sock.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut well = upgrade(&world, ShardId::from_raw(0), Early::Nothing);
        let deaf = blocking(move || {
            deaf.send(hello(other)).unwrap();
            // Until both directions are full: its answers are not read, so it is not read from.
            for nonce in 1..100_000 {
                let ping = frame::to_vec(&Ping { nonce, positions: &[] });
                if deaf.send(Message::Binary(ping.into())).is_err() {
                    break;
                }
            }
            deaf
        })
        .await;
        blocking(move || {
            well.send(hello(person)).unwrap();
            expect::<Welcome>(&mut well);
            ping(&mut well, 1);
            well.close(Some(CloseFrame { code: WsCode::Normal, reason: "".into() })).unwrap();
            while well.read().is_ok() {}
        })
        .await;
        drop(deaf);
        until("closed", || world.total(|shard| shard.websocket_connections) == 0).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_takes_too_long_closes_the_socket_whatever_is_pinged_meanwhile() {
    let world = World::new(1, DriverKind::Auto).await;
    let person = world.person("ada").await;
    let mut socket = upgrade(&world, ShardId::from_raw(0), Early::Nothing);
    let code = blocking(move || {
        socket.send(hello(person)).unwrap();
        expect::<Welcome>(&mut socket);
        // The first fragment of a message, and a ping.
        socket.get_mut().write_all(&[0x02, 0x81, 0, 0, 0, 0, 9, 0x89, 0x80, 0, 0, 0, 0]).unwrap();
        closed(&mut socket)
    })
    .await;
    assert_eq!(code, CloseCode::WEBSOCKET_BASE + CloseCode::TooSlow.raw());
    world.stop().await;
}
