//! QUIC: sessions, steering, limits, closing.

use bytes::Bytes;
use tern_edge::node::{DriverKind, StartError};
use tern_protocol::server::{Ack, Event, Welcome};
use tern_protocol::{CloseCode, ConversationId, ShardId, frame};

use crate::client::{self, Client};
use crate::world::{self, DRIVERS, PATIENCE, World, until};

/// The world room's id as it is on the wire.
const WORLD: ConversationId = ConversationId::WORLD;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_a_session_on_another_shard_with_either_driver() {
    for &driver in DRIVERS {
        let world = World::new(2, driver).await;
        assert!(driver == DriverKind::Auto || world.node.driver() == driver);
        let (ada, bob) = (world.person("ada").await, world.person("bob").await);
        let mut ada = Client::enter(&world, ada, Some(ShardId::from_raw(0))).await;
        let mut bob = Client::enter(&world, bob, Some(ShardId::from_raw(1))).await;
        // Both are members of the world room a moment after they were registered.
        let event = say_until_seen(&mut ada, &mut bob, b"hello").await;
        assert_eq!(&frame::decode::<Event>(&event).unwrap().body[..], b"hello");
        until("counted", || world.control.sessions() == 2).await;
        drop((ada, bob));
        until("empty", || world.control.sessions() == 0).await;
        world.stop().await;
    }
}

/// Repeats a message until the other one sees one: membership follows registration.
async fn say_until_seen(from: &mut Client, to: &mut Client, body: &[u8]) -> Bytes {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        from.say(WORLD, body).await;
        let event = tokio::time::timeout(std::time::Duration::from_millis(200), to.expect::<Event>()).await;
        match event {
            Ok(event) if frame::decode::<Event>(&event).unwrap().body.len() == body.len() => return event,
            Ok(_) | Err(_) => assert!(tokio::time::Instant::now() < deadline, "never delivered"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_reach_the_shard_that_the_client_chose_also_from_another_port() {
    for (shards, listen) in [(2, "127.0.0.1:0"), (3, "127.0.0.1:0"), (3, "[::1]:0"), (2, "[::]:0")] {
        let world = World::on(shards, DriverKind::Auto, listen).await;
        let person = world.person("ada").await;
        let mut clients = Vec::new();
        for shard in (0..shards).map(ShardId::from_raw) {
            for number in 0..4 {
                let device = world.device(person, u64::from(shard.raw()) * 4 + number).await;
                clients.push(Client::enter(&world, device, Some(shard)).await);
            }
        }
        until("four each", || world.control.counters().iter().all(|shard| shard.sessions == 4)).await;
        for round in 0..3 {
            for (client, nonce) in clients.iter_mut().zip(100 * round + 1..) {
                client.ping(nonce).await;
                client.rebind();
            }
        }
        for client in &mut clients {
            client.ping(9_999).await;
        }
        assert_eq!(world.total(|shard| shard.strays_out + shard.strays_in + shard.strays_dropped), 0);
        assert_eq!(world.control.sessions(), clients.len());
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_frames_and_large_ones_arrive_whole_and_once() {
    for &driver in DRIVERS {
        let world = World::new(2, driver).await;
        let (ada, bob) = (world.person("ada").await, world.person("bob").await);
        let mut ada = Client::enter(&world, ada, Some(ShardId::from_raw(0))).await;
        let mut bob = Client::enter(&world, bob, Some(ShardId::from_raw(1))).await;
        say_until_seen(&mut ada, &mut bob, b"ready").await;
        // Together less than what makes the server skip live delivery (`outbox_live_max`).
        let bodies: Vec<Vec<u8>> = (0..30u8).map(|n| vec![n; 1 + usize::from(n) * 500]).collect();
        for body in &bodies {
            ada.say(WORLD, body).await;
        }
        let mut seen = Vec::new();
        while seen.len() < bodies.len() {
            let event = bob.expect::<Event>().await;
            let body = frame::decode::<Event>(&event).unwrap().body.to_vec();
            if !body.is_empty() && body != b"ready" {
                seen.push(body);
            }
        }
        assert!(seen == bodies, "in order, each once");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_with_an_impossible_length_closes_the_connection() {
    let world = World::new(1, DriverKind::Auto).await;
    for (length, code) in [(u32::MAX, CloseCode::FrameTooLarge), (1, CloseCode::Malformed)] {
        let mut client = Client::connect(&world, None).await;
        client.control.write_all(&length.to_le_bytes()).await.unwrap();
        assert_eq!(client.closed().await, u32::from(code.raw()).into());
    }
    until("counted", || world.total(|shard| shard.closes[usize::from(CloseCode::FrameTooLarge.raw())]) == 1).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_cut_off_has_no_effect() {
    let world = World::new(1, DriverKind::Auto).await;
    let mut client = Client::connect(&world, None).await;
    client.control.write_all(&[20, 0, 0, 0, 1]).await.unwrap();
    client.control.finish().unwrap();
    assert_eq!(client.closed().await, u32::from(CloseCode::Malformed.raw()).into());
    assert_eq!(world.total(|shard| shard.frames_in), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_token_is_answered_with_its_code() {
    let world = World::new(1, DriverKind::Auto).await;
    let mut client = Client::connect(&world, None).await;
    client.send(&tern_protocol::client::Hello { user_seq: 0, token: b"?", client: b"test", positions: &[] }).await;
    assert_eq!(client.closed().await, u32::from(CloseCode::BadToken.raw()).into());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_is_refused_by_tls() {
    let world = World::new(1, DriverKind::Auto).await;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client::crypto(&world, b"h3")).unwrap();
    let config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
    let endpoint = client::endpoint(&world);
    let result = endpoint.connect_with(config, world.address, "localhost").unwrap().await;
    assert!(matches!(result, Err(quinn::ConnectionError::ConnectionClosed(_))), "{result:?}");
    until("forgotten", || world.total(|shard| shard.handshakes_open) == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_data_says_hello_and_a_message_in_it_waits_for_the_handshake() {
    let world = World::new(1, DriverKind::Auto).await;
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let mut bob = Client::enter(&world, bob, None).await;
    let endpoint = client::endpoint(&world);
    let config = client::config(&world, None);
    let connect = || endpoint.connect_with(config.clone(), world.address, "localhost").unwrap();
    let mut first = Client::on(endpoint.clone(), connect().await.unwrap()).await;
    first.hello(ada).await;
    first.expect::<Welcome>().await;
    say_until_seen(&mut first, &mut bob, b"ready").await;
    first.connection.close(0u32.into(), b"");
    first.connection.closed().await;
    let Ok((connection, accepted)) = connect().into_0rtt() else { panic!("a ticket came with the first connection") };
    let mut second = Client::on(endpoint.clone(), connection).await;
    second.hello(ada).await;
    second.say(WORLD, b"early").await;
    assert!(accepted.await, "early data is accepted");
    second.expect::<Welcome>().await;
    second.expect::<Ack>().await;
    loop {
        let event = bob.expect::<Event>().await;
        if &frame::decode::<Event>(&event).unwrap().body[..] == b"early" {
            break;
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_tells_every_session_why() {
    for &driver in DRIVERS {
        let world = World::new(2, driver).await;
        let person = world.person("ada").await;
        let clients = [
            Client::enter(&world, person, Some(ShardId::from_raw(0))).await,
            Client::enter(&world, world.device(person, 1).await, Some(ShardId::from_raw(1))).await,
        ];
        world.stop().await;
        for client in clients {
            assert_eq!(client.closed().await, u32::from(CloseCode::Draining.raw()).into());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_node_refuses_new_connections() {
    let world = World::new(1, DriverKind::Auto).await;
    world.control.drain(0);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let connecting =
            client::endpoint(&world).connect_with(client::config(&world, None), world.address, "localhost");
        match connecting.unwrap().await {
            Err(quinn::ConnectionError::ConnectionClosed(_)) => break,
            other => assert!(tokio::time::Instant::now() < deadline, "{other:?}"),
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_said_so() {
    let world = World::new(1, DriverKind::Auto).await;
    let listen = world.node.local_addr();
    match world::start(world::config(1, DriverKind::Auto, &listen.to_string())) {
        Err(error @ StartError::PortTaken(_)) => assert!(error.to_string().contains("port taken")),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("two nodes on one port"),
    }
    world.stop().await;
    let again = start_when_free(&listen.to_string()).await;
    again.stop().await;
}

/// The port is free a few milliseconds after its threads have ended.
async fn start_when_free(listen: &str) -> World {
    World::on(1, DriverKind::Auto, listen).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_dropped_without_an_answer() {
    let world = World::new(2, DriverKind::Auto).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut sent = 0;
    for size in [0usize, 0, 1, 2, 6, 7, 20, 100, 1199, 1500] {
        for first in [0x00u8, 0x40, 0x80, 0xc0, 0xff] {
            socket.send_to(&vec![first; size], world.address).await.unwrap();
            sent += 1;
        }
    }
    until("received", || world.total(|shard| shard.datagrams_in) == sent).await;
    assert_eq!(world.total(|shard| shard.quic_connections), 0);
    let person = world.person("ada").await;
    Client::enter(&world, person, None).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_handshakes_proves_its_address_and_comes_in() {
    let world = World::new(1, DriverKind::Auto).await;
    let endpoint = client::endpoint(&world);
    let config = client::config(&world, None);
    let connect = || endpoint.connect_with(config.clone(), world.address, "localhost").unwrap();
    let storm: Vec<_> = (0..700).map(|_| connect()).collect();
    let mut connections = Vec::new();
    for connecting in storm {
        let mut outcome = connecting.await;
        // On a slow machine the socket overflows and a handshake takes too long: the client comes again.
        while outcome.is_err() {
            outcome = connect().await;
        }
        connections.push(outcome.unwrap());
    }
    assert!(world.total(|shard| shard.handshakes_retried) > 0);
    until("counted", || world.total(|shard| shard.handshakes_open) == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_nothing_to_do_sleeps() {
    for &driver in DRIVERS {
        let world = World::new(2, driver).await;
        let person = world.person("ada").await;
        let _client = Client::enter(&world, person, None).await;
        let (mut turns, mut quiet) = (0, 0);
        until("asleep", || {
            let now = world.total(|shard| shard.turns);
            quiet = if now == turns { quiet + 1 } else { 0 };
            turns = now;
            quiet > 20
        })
        .await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_hears_every_message_once_and_in_order() {
    const PEOPLE: usize = 24;
    const MESSAGES: usize = 20;
    for &driver in DRIVERS {
        let world = World::new(3, driver).await;
        let mut crowd = Vec::new();
        for n in 0..PEOPLE {
            let person = world.person(&format!("person{n}")).await;
            crowd.push(Client::enter(&world, person, None).await);
        }
        // Everybody must be a member before the first message that counts.
        let (first, rest) = crowd.split_first_mut().unwrap();
        for other in rest {
            say_until_seen(first, other, b"ready").await;
        }
        for n in 0..MESSAGES {
            for client in &mut crowd {
                client.say(WORLD, format!("message {n}").as_bytes()).await;
            }
        }
        let mut heard = Vec::new();
        for client in &mut crowd {
            let mut events = Vec::new();
            while events.len() < PEOPLE * MESSAGES {
                let frame = client.expect::<Event>().await;
                let event = frame::decode::<Event>(&frame).unwrap();
                if event.body.starts_with(b"message") {
                    events.push(event.seq.to_native());
                }
            }
            heard.push(events);
        }
        assert!(heard.iter().all(|events| events.is_sorted_by(|a, b| a < b)));
        assert!(heard.iter().all(|events| *events == heard[0]));
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_takes_too_long_closes_the_connection() {
    let world = World::new(1, DriverKind::Auto).await;
    let person = world.person("ada").await;
    let mut client = Client::enter(&world, person, None).await;
    client.control.write_all(&[20, 0, 0]).await.unwrap();
    assert_eq!(client.closed().await, u32::from(CloseCode::TooSlow.raw()).into());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_left_open_is_closed() {
    let world = World::new(1, DriverKind::Auto).await;
    // The first packet of a handshake, and nothing after it.
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client::crypto(&world, b"tern/1")).unwrap();
    let mut endpoint = quinn_proto::Endpoint::new(std::sync::Arc::default(), None, true, None);
    let now = tern_edge::clock::Clock::start().now().instant;
    let config = quinn_proto::ClientConfig::new(std::sync::Arc::new(crypto));
    let (_, mut connection) = endpoint.connect(now, config, world.address, "localhost").unwrap();
    let mut packet = Vec::new();
    assert!(connection.poll_transmit(now, 1, &mut packet).is_some());
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&packet, world.address).await.unwrap();
    until("begun", || world.total(|shard| shard.handshakes_open) == 1).await;
    until("timed out", || world.total(|shard| shard.handshakes_timed_out) == 1).await;
    until("forgotten", || world.total(|shard| shard.quic_connections) == 0).await;
    assert_eq!(world.total(|shard| shard.handshakes_open), 0);
    world.stop().await;
}
