//! People chat: the same order for all over both transports, across a change of address, a restart, several devices.

use std::collections::BTreeMap;

use tern_client::{
    Client, ConnectionState, ConversationId, EventKind, Events, GroupOptions, Seq, StopReason, Transport, Update,
};

use crate::site::{Mode, Site, next, run, until};

/// A group of three: ada and bob on QUIC, eve on WebSocket.
struct Three {
    site: Site,
    clients: Vec<(Client, Events)>,
    group: ConversationId,
}

async fn three(mode: Mode) -> Three {
    let site = Site::start(mode);
    let mut clients = Vec::new();
    for (name, transport) in [("ada", Transport::Quic), ("bob", Transport::Quic), ("eve", Transport::WebSocket)] {
        site.register(name).await;
        clients.push(site.client(name, transport).await);
    }
    let others = [clients[1].0.user(), clients[2].0.user()];
    let options = GroupOptions { open: false, history_for_all: true };
    let group = clients[0].0.create_group("Three", &others, options).await.unwrap();
    for (client, _) in &clients {
        tern_perf::load::wait_until_in(client, group).await.unwrap();
    }
    Three { site, clients, group }
}

/// What a screen shows of a conversation, up to a place.
async fn screen(events: &mut Events, conversation: ConversationId, to: Seq) -> BTreeMap<Seq, (u64, Vec<u8>)> {
    let mut shown = BTreeMap::new();
    while shown.keys().next_back() != Some(&to) {
        let event = next(events, |update| {
            assert!(!matches!(update, Update::Reset { .. }), "nothing here is long enough for a reset");
            if let Update::Event(event) = update { (event.conversation == conversation).then_some(event) } else { None }
        });
        let event = event.await;
        let before = shown.insert(event.seq, (event.sender.raw(), event.body.to_vec()));
        assert_eq!(before, None, "{} was shown twice", event.seq);
    }
    shown
}

/// Messages of all three at once; returns the last place.
async fn everybody_talks(three: &Three, rounds: u32) -> Seq {
    let mut last = Seq::ZERO;
    for round in 0..rounds {
        let handles: Vec<_> = three
            .clients
            .iter()
            .enumerate()
            .map(|(who, (client, _))| client.send(three.group, &format!("{who} says {round}")))
            .collect();
        for handle in handles {
            last = last.max(handle.await.unwrap().seq);
        }
    }
    last
}

async fn screens_agree(three: &mut Three, last: Seq) {
    let mut screens = Vec::new();
    for (_, events) in &mut three.clients {
        screens.push(screen(events, three.group, last).await);
    }
    let dense: Vec<Seq> = (1..=last.raw()).map(Seq::from_raw).collect();
    for shown in &screens {
        let places: Vec<Seq> = shown.keys().copied().collect();
        assert!(dense.ends_with(&places) && dense.len() - places.len() <= 3, "{places:?}");
    }
    let [first, others @ ..] = &screens[..] else { return };
    for other in others {
        let common = other.iter().all(|(seq, event)| first.get(seq).is_none_or(|mine| mine == event));
        assert!(common, "the screens differ");
    }
}

pub(crate) fn everybody_sees_the_same(mode: Mode) {
    run(async {
        let mut three = three(mode).await;
        let last = everybody_talks(&three, 20).await;
        // Created, two added, and sixty messages: no place is empty, none is used twice.
        assert_eq!(last, Seq::from_raw(63));
        screens_agree(&mut three, last).await;
    });
}

pub(crate) fn a_change_of_address_is_no_reconnect(mode: Mode) {
    run(async {
        let mut three = three(mode).await;
        let handshakes = three.site.server.metric("tern_handshakes_finished_total");
        let strays = three.site.server.metric("tern_strays_received_total");
        for _ in 0..4 {
            everybody_talks(&three, 3).await;
            three.clients[0].0.rebind().await.unwrap();
        }
        let last = everybody_talks(&three, 3).await;
        assert!(matches!(three.clients[0].0.state(), ConnectionState::Online { .. }));
        assert_eq!(three.site.server.metric("tern_handshakes_finished_total"), handshakes, "it connected anew");
        assert_eq!(three.site.server.metric("tern_strays_received_total"), strays, "packets went to another shard");
        screens_agree(&mut three, last).await;
        while let Some(update) = three.clients[0].1.try_next() {
            assert!(!matches!(update, Update::State(_)), "{update:?}");
        }
    });
}

pub(crate) fn a_restart_loses_nothing(mode: Mode) {
    run(async {
        let mut three = three(mode).await;
        let before = everybody_talks(&three, 5).await;
        three.site = three.site.restart();
        let last = everybody_talks(&three, 5).await;
        assert_eq!(last.raw(), before.raw() + 15);
        screens_agree(&mut three, last).await;
    });
}

pub(crate) fn unread_agrees(mode: Mode) {
    run(async {
        let three = three(mode).await;
        let (phone, _phone_events) = three.site.client("bob", Transport::WebSocket).await;
        let laptop = &three.clients[1].0;
        let mut last = None;
        for text in ["one", "two", "three"] {
            last = Some(three.clients[0].0.send(three.group, text).await.unwrap().seq);
        }
        let last = last.unwrap();
        for device in [laptop, &phone] {
            unread_becomes(device, three.group, 3).await;
        }
        let history = phone.history(three.group, tern_client::Page::Newest, 1).await.unwrap();
        let newest = history.events.last().unwrap();
        assert_eq!((newest.seq, newest.kind), (last, EventKind::Message));
        phone.mark_read(three.group, last, newest.visible);
        for device in [laptop, &phone] {
            unread_becomes(device, three.group, 0).await;
        }
        // Somebody who comes back only now agrees as well.
        let (tablet, _tablet_events) = three.site.client("bob", Transport::Quic).await;
        unread_becomes(&tablet, three.group, 0).await;
    });
}

async fn unread_becomes(client: &Client, conversation: ConversationId, count: u64) {
    let deadline = std::time::Instant::now() + crate::site::PATIENCE;
    loop {
        let directory = client.directory().await.unwrap();
        let unread = directory
            .iter()
            .find(|entry| entry.conversation == conversation)
            .map(tern_client::ConversationView::unread);
        if unread == Some(count) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "unread is {unread:?} and should be {count}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub(crate) fn logging_out_closes(mode: Mode) {
    run(async {
        let three = three(mode).await;
        let (phone, _events) = three.site.client("bob", Transport::Quic).await;
        let grant = three.site.grant("bob").await;
        three.site.auth().logout_device(&grant.access_token, Some(phone.device())).await.unwrap();
        let stopped = |state: &ConnectionState| matches!(state, ConnectionState::Stopped(StopReason::LoggedOut));
        let waiting = tokio::time::timeout(crate::site::PATIENCE, phone.wait_for(stopped));
        assert!(waiting.await.is_ok(), "the logged-out device stays connected");
        assert!(matches!(three.clients[1].0.state(), ConnectionState::Online { .. }));
        let open = three.site.server.metric("tern_sessions");
        until("the session is gone", || three.site.server.metric("tern_sessions") <= open).await;
    });
}
