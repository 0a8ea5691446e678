//! The SDK on real sockets, against a small server that misbehaves on demand. No sleeps: each wait is for a condition, with a deadline.
#![expect(clippy::wildcard_enum_match_arm, reason = "tests look for one thing among many")]

mod fake;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fake::{Fake, ROOM};
use tern_client::wire::{Dialer, Incoming, ServerAddress};
use tern_client::{
    BuildError, Client, ClientBuilder, CloseCode, ConnectionState, Events, LinkTransport, Positions, Seq, StopReason,
    TokenStore, Transport, Trust, Update,
};
use tern_protocol::client::{Hello, Ping};
use tern_protocol::frame;
use tern_protocol::server::Welcome;

const PATIENCE: Duration = Duration::from_secs(20);

fn builder(fake: &Fake) -> ClientBuilder {
    Client::builder(&fake.address.to_string())
        .user("ada")
        .password("correct horse")
        .trust(Trust::Ca(fake.certificate.clone()))
        .resume(Positions { user_seq: 1, conversations: [(ROOM, Seq::ZERO)].into() })
}

async fn next_matching<T>(events: &mut Events, mut wanted: impl FnMut(&Update) -> Option<T>) -> T {
    let search = async {
        loop {
            let update = events.next().await.expect("the client lives");
            if let Some(found) = wanted(&update) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("in time")
}

/// Reads events until this one.
async fn seqs_until(events: &mut Events, last: u64) -> Vec<u64> {
    let mut seqs = Vec::new();
    next_matching(events, |update| match update {
        Update::Event(event) => {
            seqs.push(event.seq.raw());
            (event.seq.raw() == last).then_some(())
        }
        _ => None,
    })
    .await;
    seqs
}

fn online(update: &Update) -> Option<LinkTransport> {
    match update {
        Update::State(ConnectionState::Online { transport }) => Some(*transport),
        _ => None,
    }
}

async fn round_trip(transport: Transport) -> Arc<Fake> {
    let fake = Fake::start(true).await;
    fake.peer_says("before");
    let (client, mut events) = builder(&fake).transport(transport).connect().await.expect("connects");
    let sent = tokio::time::timeout(PATIENCE, client.send(ROOM, "hello")).await.expect("in time").expect("stored");
    assert_eq!(sent.seq.raw(), 2);
    fake.peer_says("after");
    assert_eq!(seqs_until(&mut events, 3).await, [1, 2, 3]);
    assert_eq!(client.positions().await.expect("lives").conversations.get(&ROOM), Some(&Seq::from_raw(3)));
    client.close().await;
    assert_eq!(client.state(), ConnectionState::Stopped(StopReason::Closed));
    fake
}

#[tokio::test]
async fn a_message_goes_round_over_quic() {
    let fake = round_trip(Transport::Quic).await;
    assert_eq!(fake.hellos[1].load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_message_goes_round_over_websocket() {
    let fake = round_trip(Transport::WebSocket).await;
    assert_eq!(fake.hellos[0].load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn where_udp_does_not_pass_websocket_carries_the_connection() {
    let fake = Fake::start(false).await;
    let (client, mut events) = builder(&fake).connect().await.expect("connects");
    assert_eq!(next_matching(&mut events, online).await, LinkTransport::WebSocket);
    client.close().await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_nothing_is_missed() {
    for transport in [Transport::Quic, Transport::WebSocket] {
        let fake = Fake::start(true).await;
        let (client, mut events) = builder(&fake).transport(transport).connect().await.expect("connects");
        next_matching(&mut events, online).await;
        for round in 0..3 {
            // Stored, but the client does not learn it: it must ask again, under the same name.
            fake.faults.acks_swallowed.store(1, Ordering::Relaxed);
            fake.faults.events_swallowed.store(1, Ordering::Relaxed);
            let sending = client.send(ROOM, &format!("message {round}"));
            wait_until(|| fake.bodies().len() == round * 2 + 1).await;
            fake.close_all(CloseCode::Draining);
            fake.peer_says("meanwhile");
            let sent = tokio::time::timeout(PATIENCE, sending).await.expect("in time").expect("stored");
            assert_eq!(sent.seq.raw(), round as u64 * 2 + 1);
        }
        assert_eq!(seqs_until(&mut events, 6).await, [1, 2, 3, 4, 5, 6]);
        assert_eq!(fake.bodies().iter().filter(|body| body.starts_with("message")).count(), 3);
        client.close().await;
    }
}

#[tokio::test]
async fn early_data_carries_the_hello_of_the_next_connection() {
    let fake = Fake::start(true).await;
    let (client, mut events) = builder(&fake).transport(Transport::Quic).connect().await.expect("connects");
    next_matching(&mut events, online).await;
    for _ in 0..3 {
        fake.close_all(CloseCode::Draining);
        next_matching(&mut events, online).await;
    }
    client.send(ROOM, "still here").await.expect("stored");
    client.close().await;
}

/// Below the SDK: the second connection of a dialer sends its hello before the handshake ends.
#[tokio::test]
async fn a_session_ticket_makes_the_hello_early_data() {
    let fake = Fake::start(true).await;
    let server = ServerAddress::parse(&fake.address.to_string()).expect("an address");
    let dialer = Dialer::new(server, &Trust::Ca(fake.certificate.clone())).expect("reads the certificate");
    let hello = frame::to_vec(&Hello { user_seq: 0, token: b"access", client: b"test", positions: &[] });
    for early in [false, true] {
        let mut link = dialer.quic(fake.address, None, &hello).await.expect("connects");
        assert_eq!(link.used_early_data(), early);
        let first = tokio::time::timeout(PATIENCE, link.next()).await.expect("in time");
        let Incoming::Frame(_, bytes) = first else { panic!("{first:?}") };
        assert!(frame::decode::<Welcome>(&bytes).is_ok());
        // The ticket comes with the handshake's end, which the answer may overtake.
        link.sender().send(frame::to_vec(&Ping { nonce: 1, positions: &[] }).into()).await.expect("open");
        tokio::time::timeout(PATIENCE, link.next()).await.expect("in time");
        link.close(CloseCode::Goodbye).await;
    }
}

#[tokio::test]
async fn a_last_message_that_was_lost_is_found_by_the_next_ping() {
    let fake = Fake::start(true).await;
    let (client, mut events) = builder(&fake).transport(Transport::Quic).connect().await.expect("connects");
    next_matching(&mut events, online).await;
    fake.faults.events_swallowed.store(1, Ordering::Relaxed);
    fake.peer_says("lost on the way");
    assert_eq!(seqs_until(&mut events, 1).await, [1]);
    client.close().await;
}

#[tokio::test]
async fn a_change_of_network_does_not_end_the_connection() {
    let fake = Fake::start(true).await;
    let (client, mut events) = builder(&fake).transport(Transport::Quic).connect().await.expect("connects");
    next_matching(&mut events, online).await;
    for round in 1..=5 {
        client.rebind().await.expect("binds");
        client.send(ROOM, "moved").await.expect("stored");
        assert_eq!(seqs_until(&mut events, round).await, [round]);
    }
    assert_eq!(fake.hellos[0].load(Ordering::Relaxed), 1);
    client.close().await;
}

#[tokio::test]
async fn an_expired_token_is_exchanged_once_and_the_connection_made() {
    let fake = Fake::start(true).await;
    fake.faults.tokens_expired.store(1, Ordering::Relaxed);
    let (client, _events) = builder(&fake).transport(Transport::Quic).connect().await.expect("connects");
    assert_eq!(fake.refreshes.load(Ordering::Relaxed), 1);
    client.close().await;
}

#[tokio::test]
async fn a_session_is_taken_up_again_without_the_password() {
    let fake = Fake::start(true).await;
    let dir = tempfile::tempdir().expect("temp dir");
    let store = TokenStore::file(dir.path().join("session.json"));
    let (client, _events) = builder(&fake).token_store(store.clone()).connect().await.expect("connects");
    client.close().await;
    let trust = Trust::Ca(fake.certificate.clone());
    let again = Client::builder(&fake.address.to_string()).user("ada").token_store(store).trust(trust);
    let (client, _events) = again.connect().await.expect("connects");
    assert_eq!(client.user(), fake::ME);
    assert_eq!(fake.refreshes.load(Ordering::Relaxed), 1);
    client.close().await;
}

#[tokio::test]
async fn a_revoked_device_stops_and_says_so() {
    let fake = Fake::start(true).await;
    let (client, mut events) = builder(&fake).connect().await.expect("connects");
    next_matching(&mut events, online).await;
    fake.close_all(CloseCode::Revoked);
    let reason = next_matching(&mut events, |update| match update {
        Update::State(ConnectionState::Stopped(reason)) => Some(reason.clone()),
        _ => None,
    })
    .await;
    assert_eq!(reason, StopReason::LoggedOut);
    assert!(client.send(ROOM, "too late").await.is_err());
}

#[tokio::test]
async fn a_changed_key_is_refused_and_the_error_says_what_to_do() {
    let dir = tempfile::tempdir().expect("temp dir");
    let pins = dir.path().join("known_servers");
    let trust = Trust::FirstUse(pins.clone());
    let first = Fake::start(true).await;
    let (client, _events) = builder(&first).trust(trust.clone()).connect().await.expect("trusts the first key");
    client.close().await;
    let second = Fake::start(true).await;
    let text = std::fs::read_to_string(&pins).expect("pinned");
    std::fs::write(&pins, text.replace(&first.address.to_string(), &second.address.to_string())).expect("writes");
    let refused = builder(&second).trust(trust).connect().await.map(|_| ());
    let Err(BuildError::Token(error)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("has changed"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_nobody_is_refused() {
    let fake = Fake::start(true).await;
    let refused = builder(&fake).trust(Trust::WebPki).connect().await.map(|_| ());
    assert!(matches!(refused, Err(BuildError::Token(_))), "{refused:?}");
}

async fn wait_until(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.expect("in time");
}

#[tokio::test]
async fn two_clients_of_one_device_do_not_fight_for_ever() {
    let fake = Fake::start(true).await;
    let (client, mut events) = builder(&fake).transport(Transport::Quic).connect().await.expect("connects");
    let mut welcomed = 0;
    let reason = next_matching(&mut events, |update| match update {
        Update::State(ConnectionState::Online { .. }) => {
            welcomed += 1;
            fake.close_all(CloseCode::Replaced);
            None
        }
        Update::State(ConnectionState::Stopped(reason)) => Some(reason.clone()),
        _ => None,
    })
    .await;
    assert_eq!(reason, StopReason::Refused(CloseCode::Replaced));
    // A connection whose close is lost counts as lost, so there may be more than the first and the three that took its place back.
    assert!(welcomed >= 4, "{welcomed} connections");
    client.close().await;
}
