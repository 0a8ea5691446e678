//! Proves what a session promises against a small honest server behind a bad network: virtual time, no sockets, seeded steps.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tern_protocol::RejectCode;
use tern_protocol::client::{GetHistory, SendMessage};
use tern_protocol::server::{
    Ack, DirectoryEntry, DirectoryPage, Event, Head, Pong, Receipt, Reject, Reset, UserEvent, content, event, role,
};

use super::*;
use crate::outbox::{SendError, SendState};
use crate::view::Content;

const ME: UserId = UserId::from_raw(1);
const PEER: UserId = UserId::from_raw(2);
const ROOM: ConversationId = ConversationId::direct(ME, PEER);
/// As the real server's.
const DEDUP_WINDOW: usize = 256;
const _: () = assert!(DEDUP_WINDOW as u64 == tern_protocol::limit::DEDUP_WINDOW);

/// One conversation, kept as the real server keeps it.
#[derive(Default)]
struct Server {
    log: Vec<Bytes>,
    requests: Vec<(u64, u128)>,
    /// Frames on their way to the client.
    wire: VecDeque<Bytes>,
}

impl Server {
    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn append(&mut self, sender: UserId, request: u128, body: &[u8]) -> u64 {
        let seq = self.head() + 1;
        let event = Event {
            conversation: ROOM.raw(),
            seq,
            time: seq,
            visible: seq,
            sender: sender.raw(),
            request,
            target: 0,
            revised: 0,
            subject: 0,
            kind: event::MESSAGE,
            content: content::TEXT,
            role: 0,
            mentions: &[],
            body,
        };
        self.log.push(frame::to_vec(&event).into());
        self.requests.push((sender.raw(), request));
        seq
    }

    fn say<F>(&mut self, frame: &F)
    where
        F: tern_protocol::Frame + for<'a> rkyv_serialize::Serialize<frame::FrameSerializer<'a>>,
    {
        self.wire.push_back(frame::to_vec(frame).into());
    }

    /// What a real server does with a send: dedup within the window, a refusal when it cannot know.
    fn on_send(&mut self, send: &tern_protocol::client::ArchivedSendMessage<'_>) {
        let (request, known) = (send.request.to_native(), send.known.to_native());
        let oldest = self.log.len().saturating_sub(DEDUP_WINDOW);
        let mine = (ME.raw(), request);
        let found = self.requests.iter().enumerate().skip(oldest).find(|(_, other)| **other == mine);
        let seq = match found {
            Some((index, _)) => index as u64 + 1,
            None if known < oldest as u64 => {
                let code = RejectCode::CatchUpFirst.raw();
                return self.say(&Reject { request, code, retry_after: 0 });
            }
            None => {
                let seq = self.append(ME, request, send.body.as_slice());
                let event = self.log.last().expect("just appended").clone();
                self.wire.push_back(event);
                seq
            }
        };
        self.say(&Ack { request, conversation: ROOM.raw(), seq, time: seq });
    }

    fn on_history(&mut self, get: &tern_protocol::client::ArchivedGetHistory) {
        let from = usize::try_from(get.anchor.to_native()).expect("fits");
        let events = self.log.iter().skip(from).take(usize::from(get.limit.to_native())).flatten().copied();
        let events: Vec<u8> = events.collect();
        let page = HistoryPage {
            request: get.request.to_native(),
            conversation: ROOM.raw(),
            head: self.head(),
            first: 1,
            events: &events,
        };
        self.say(&page);
    }

    fn directory(&self, request: u128) -> DirectoryPage {
        let entry = DirectoryEntry {
            conversation: ROOM.raw(),
            head: self.head(),
            head_visible: self.head(),
            head_time: self.head(),
            join: 1,
            join_visible: 0,
            read: 0,
            read_visible: 0,
            peer_read: 0,
            peer_delivered: 0,
            members: 2,
            role: 1,
            title: Vec::new(),
            preview_seq: 0,
            preview_sender: 0,
            preview: Vec::new(),
        };
        DirectoryPage { request, more: 0, entries: vec![entry] }
    }

    fn on_frame(&mut self, bytes: &[u8]) {
        let (kind, _) = frame::open(bytes).expect("the client sends frames");
        match kind {
            SendMessage::KIND => self.on_send(frame::decode::<SendMessage<'_>>(bytes).expect("valid")),
            GetHistory::KIND => self.on_history(frame::decode::<GetHistory>(bytes).expect("valid")),
            tern_protocol::client::GetDirectory::KIND => {
                let get = frame::decode::<tern_protocol::client::GetDirectory>(bytes).expect("valid");
                let page = self.directory(get.request.to_native());
                self.say(&page);
            }
            Ping::KIND => {
                let ping = frame::decode::<Ping<'_>>(bytes).expect("valid");
                let at = ping.positions.iter().find(|at| at.conversation.to_native() == ROOM.raw());
                let lags = at.is_some_and(|at| at.seq.to_native() != self.head());
                let head = Head { conversation: ROOM.raw(), seq: self.head(), visible: self.head() };
                let heads = if lags { vec![head] } else { Vec::new() };
                self.say(&Pong { nonce: ping.nonce.to_native(), time: 0, user_seq: 1, heads: &heads });
            }
            _ => {}
        }
    }
}

mod rkyv_serialize {
    //! The trait under which frames are encoded.
    pub(super) use rkyv::Serialize;
}

fn text(number: u128) -> PostContent {
    let body = Bytes::from(number.to_string());
    PostContent::Message { content: Content::Text, reply_to: None, mentions: Vec::new(), body }
}

struct World {
    server: Server,
    session: Session,
    now: Instant,
    online: bool,
    seen: Vec<u64>,
    ends: BTreeMap<RequestId, SendState>,
}

impl World {
    fn new() -> Self {
        let config = SessionConfig {
            send_lifetime: Duration::from_secs(3600),
            missed_pongs_max: 2,
            ping_interval_max: Duration::MAX,
            seed: 1 << 100,
        };
        let resume = Positions { user_seq: 1, conversations: [(ROOM, Seq::ZERO)].into() };
        let session = Session::new(config, Some(&resume));
        let (seen, ends) = (Vec::new(), BTreeMap::new());
        Self { server: Server::default(), session, now: Instant::now(), online: false, seen, ends }
    }

    fn connect(&mut self) {
        self.online = true;
        self.server.wire.clear();
        let position = self.session.positions().conversations.get(&ROOM).map_or(0, |seq| seq.raw());
        // As the real server: what memory still has is sent, for more than that the client is told to begin anew.
        let missing = self.server.log.iter().skip(usize::try_from(position).expect("fits")).cloned();
        self.server.wire.extend(missing);
        let welcome = Welcomed { user: ME, user_seq: 1, ping_interval: Duration::from_secs(30) };
        self.session.on_connected(self.now, welcome);
        self.drain();
    }

    fn disconnect(&mut self) {
        self.online = false;
        self.session.on_disconnected();
        self.server.wire.clear();
        self.drain();
    }

    fn deliver(&mut self) {
        if let Some(bytes) = self.server.wire.pop_front() {
            self.session.on_frame(self.now, &bytes).expect("valid");
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Frame { bytes, .. } if self.online => self.server.on_frame(&bytes),
                Output::Update(Update::Event(event)) => self.seen.push(event.seq.raw()),
                Output::Update(Update::Send(progress)) => drop(self.ends.insert(progress.request, progress.state)),
                Output::Dead => {
                    self.online = false;
                    self.session.on_disconnected();
                    self.server.wire.clear();
                }
                Output::Frame { .. } | Output::Update(_) | Output::Answer(..) | Output::Drain(_) => {}
            }
        }
    }

    fn send(&mut self, number: u128) {
        let (request, content) = (RequestId::from_raw(number), text(number));
        let command = Command::Post { request, conversation: ROOM, content };
        self.session.on_command(self.now, command);
        self.drain();
    }

    fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.session.on_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            if !self.online {
                self.connect();
            }
            while !self.server.wire.is_empty() {
                self.deliver();
            }
            self.wait(Duration::from_secs(1));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    PeerSays { lost: bool },
    PeerSaysMuch,
    Send,
    Deliver,
    Lose,
    Repeat,
    Swap,
    Disconnect,
    Connect,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|lost| Step::PeerSays { lost }),
        1 => Just(Step::PeerSaysMuch),
        4 => Just(Step::Send),
        8 => Just(Step::Deliver),
        1 => Just(Step::Lose),
        1 => Just(Step::Repeat),
        1 => Just(Step::Swap),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        2 => (1..40_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever the network does: each event is seen once and in order, each message is stored once, and every send ends.
    #[test]
    fn a_bad_network_costs_nothing_but_time(steps in proptest::collection::vec(step(), 0..200)) {
        let mut world = World::new();
        let mut sent = 0;
        for step in steps {
            match step {
                Step::PeerSays { lost } => {
                    world.server.append(PEER, 0, b"hi");
                    if world.online && !lost {
                        let event = world.server.log.last().expect("just appended").clone();
                        world.server.wire.push_back(event);
                    }
                }
                Step::PeerSaysMuch => for _ in 0..300 { world.server.append(PEER, 0, b"much"); },
                Step::Send => { sent += 1; world.send(sent); }
                Step::Deliver => world.deliver(),
                Step::Lose => drop(world.server.wire.pop_front()),
                Step::Repeat => if let Some(first) = world.server.wire.front().cloned() {
                    world.server.wire.push_back(first);
                },
                Step::Swap => if world.server.wire.len() > 1 { world.server.wire.swap(0, 1); },
                Step::Disconnect => if world.online { world.disconnect(); },
                Step::Connect => if !world.online { world.connect(); },
                Step::Wait(ms) => world.wait(Duration::from_millis(ms)),
            }
        }
        world.settle();
        let all: Vec<u64> = (1..=world.server.head()).collect();
        prop_assert_eq!(&world.seen, &all);
        for number in 1..=sent {
            let stored = world.server.requests.iter().filter(|(_, request)| *request == number).count();
            prop_assert_eq!(stored, 1, "message {} is stored {} times", number, stored);
            let end = world.ends.get(&RequestId::from_raw(number));
            prop_assert!(matches!(end, Some(SendState::Sent(_) | SendState::Delivered)), "{:?}", end);
        }
    }
}

/// The process dies before or after the server stored what was sent; the next one knows what was kept, and much has been said meanwhile.
#[test]
fn a_send_that_outlives_its_process_is_stored_once() {
    for (stored, meanwhile) in [(true, 0), (false, 0), (true, 300), (false, 300)] {
        let mut world = settled();
        let request = RequestId::from_raw(7);
        let kept = world.session.pending(request, ROOM, text(7)).to_bytes();
        if stored {
            world
                .session
                .on_command(world.now, Command::Resume(PendingSend::from_bytes(&kept).expect("its own bytes")));
            world.drain();
        }
        for _ in 0..meanwhile {
            world.server.append(PEER, 0, b"much");
        }
        let next = World::new();
        let mut world = World { server: world.server, ..next };
        world.session.on_command(world.now, Command::Resume(PendingSend::from_bytes(&kept).expect("its own bytes")));
        world.settle();
        let copies = world.server.requests.iter().filter(|(_, other)| *other == request.raw()).count();
        assert_eq!(copies, 1, "stored by the first process: {stored}, then {meanwhile} events");
        assert!(matches!(world.ends.get(&request), Some(SendState::Sent(_) | SendState::Delivered)));
    }
}

fn updates(session: &mut Session) -> Vec<Update> {
    std::iter::from_fn(|| session.poll_output())
        .filter_map(|output| match output {
            Output::Update(update) => Some(update),
            Output::Frame { .. } | Output::Answer(..) | Output::Dead | Output::Drain(_) => None,
        })
        .collect()
}

fn settled() -> World {
    let mut world = World::new();
    world.server.append(PEER, 0, b"one");
    world.settle();
    updates(&mut world.session);
    world
}

fn unread(world: &World) -> u64 {
    world.session.directory().expect("loaded").iter().map(ConversationView::unread).sum()
}

#[test]
fn unread_is_a_formula_over_head_cursor_and_own_messages() {
    let mut world = settled();
    world.server.append(PEER, 0, b"two");
    let event = world.server.log.last().expect("appended").clone();
    world.session.on_frame(world.now, &event).expect("valid");
    assert_eq!(unread(&world), 2);
    world.session.on_command(world.now, Command::MarkRead { conversation: ROOM, seq: Seq::from_raw(1), visible: 1 });
    assert_eq!(unread(&world), 1);
    world.send(7);
    world.settle();
    assert_eq!(unread(&world), 0, "an own message is read, and what was before it");
    let receipt = Receipt { conversation: ROOM.raw(), user: ME.raw(), read: 1, read_visible: 1, delivered: 1 };
    world.session.on_frame(world.now, &frame::to_vec(&receipt).into()).expect("valid");
    assert_eq!(unread(&world), 0, "a cursor never goes back");
}

/// A change of event 1, at the head.
fn change(seq: u64, kind: u8, content: u8, revised: u64, body: &[u8]) -> Bytes {
    let event = Event {
        conversation: ROOM.raw(),
        seq,
        time: seq,
        visible: 1,
        sender: PEER.raw(),
        request: 0,
        target: 1,
        revised,
        subject: 0,
        kind,
        content,
        role: 0,
        mentions: &[],
        body,
    };
    frame::to_vec(&event).into()
}

#[test]
fn the_preview_of_a_directory_entry_follows_edits_and_is_gone_with_a_recall() {
    let mut world = settled();
    let mut page = world.server.directory(0);
    (page.entries[0].preview_seq, page.entries[0].preview_sender) = (1, PEER.raw());
    page.entries[0].preview = b"one".to_vec();
    let overtaken = change(2, event::EDITED, content::RECALLED, 3, b"");
    let edited = change(3, event::EDITED, content::TEXT, 0, b"two");
    let recalled = change(4, event::RECALLED, 0, 0, b"");
    let preview = |world: &World| {
        let list = world.session.directory().expect("loaded");
        (list[0].preview_seq, list[0].preview_sender, list[0].preview.clone())
    };
    let of_first = |text: &str| (Some(Seq::from_raw(1)), Some(PEER), text.to_owned());
    for (frame, shown) in [
        (frame::to_vec(&page).into(), of_first("one")),
        (overtaken, of_first("one")),
        (edited, of_first("two")),
        (recalled, (None, None, String::new())),
    ] {
        world.session.on_frame(world.now, &frame).expect("valid");
        assert_eq!(preview(&world), shown);
    }
}

#[test]
fn a_reset_is_told_and_what_follows_is_applied_from_there() {
    let mut world = settled();
    for _ in 0..50 {
        world.server.append(PEER, 0, b"x");
    }
    let reset = Reset { conversation: ROOM.raw(), seq: 51, visible: 51 };
    world.session.on_frame(world.now, &frame::to_vec(&reset).into()).expect("valid");
    world.server.append(PEER, 0, b"y");
    let event = world.server.log.last().expect("appended").clone();
    world.session.on_frame(world.now, &event).expect("valid");
    let told = updates(&mut world.session);
    assert!(told.contains(&Update::Reset { conversation: ROOM, position: Seq::from_raw(51) }));
    let seqs: Vec<u64> =
        told.iter().filter_map(|u| if let Update::Event(event) = u { Some(event.seq.raw()) } else { None }).collect();
    assert_eq!(seqs, [52]);
}

#[test]
fn read_cursors_are_moved_at_most_twice_a_second() {
    let mut world = settled();
    for _ in 0..20 {
        world.server.append(PEER, 0, b"x");
    }
    world.settle();
    let mut moves = 0;
    for seq in 2..=21 {
        let command = Command::MarkRead { conversation: ROOM, seq: Seq::from_raw(seq), visible: seq };
        world.session.on_command(world.now, command);
        while let Some(output) = world.session.poll_output() {
            if let Output::Frame { bytes, .. } = output
                && let Ok(moved) = frame::decode::<tern_protocol::client::MoveCursor>(&bytes)
            {
                moves += 1;
                let ack = Ack { request: moved.request.to_native(), conversation: ROOM.raw(), seq, time: 0 };
                world.session.on_frame(world.now, &frame::to_vec(&ack).into()).expect("valid");
            }
        }
        world.now += Duration::from_millis(100);
        world.session.on_timeout(world.now);
    }
    assert!((4..=6).contains(&moves), "{moves} moves in two seconds");
}

#[test]
fn typing_is_said_at_most_every_three_seconds() {
    let mut world = settled();
    let mut said = 0;
    for _ in 0..60 {
        world.session.on_command(world.now, Command::Typing { conversation: ROOM, active: true });
        while let Some(output) = world.session.poll_output() {
            said += usize::from(matches!(output, Output::Frame { datagram: true, .. }));
        }
        world.now += Duration::from_millis(100);
    }
    assert_eq!(said, 2);
}

#[test]
fn a_conversation_that_appears_is_followed_from_joining_on() {
    let mut world = settled();
    let other = ConversationId::direct(ME, UserId::from_raw(3));
    let mut page = world.server.directory(0);
    for entry in &mut page.entries {
        entry.conversation = other.raw();
        entry.head = 2;
    }
    let added = UserEvent { user_seq: 2, conversation: other.raw(), kind: 1 };
    world.session.on_frame(world.now, &frame::to_vec(&added).into()).expect("valid");
    world.session.on_frame(world.now, &frame::to_vec(&page).into()).expect("valid");
    assert_eq!(world.session.positions().conversations.get(&other), Some(&Seq::ZERO));
    assert_eq!(world.session.positions().user_seq, 2);
}

#[test]
fn an_entry_that_the_server_cannot_read_changes_nothing() {
    let mut world = settled();
    let before = world.session.positions();
    let mut page = world.server.directory(0);
    for entry in &mut page.entries {
        (entry.role, entry.head, entry.head_visible, entry.join) = (role::UNREADABLE, 0, 0, 0);
    }
    while world.session.poll_output().is_some() {}
    world.session.on_frame(world.now, &frame::to_vec(&page).into()).expect("valid");
    let told = std::iter::from_fn(|| world.session.poll_output());
    assert_eq!(told.filter(|output| matches!(output, Output::Update(_))).count(), 0);
    assert_eq!(world.session.positions().conversations, before.conversations);
}

#[test]
fn stopping_ends_every_send_and_request() {
    let mut world = World::new();
    world.send(5);
    let query = Query::OpenDirect { user: PEER };
    world.session.on_command(world.now, Command::Query { request: RequestId::from_raw(6), query });
    world.session.stop();
    let outputs: Vec<_> = std::iter::from_fn(|| world.session.poll_output()).collect();
    let failed = |output: &Output| matches!(output, Output::Update(Update::Send(p)) if p.state == SendState::Failed(SendError::Stopped));
    assert!(outputs.iter().any(failed));
    assert!(outputs.iter().any(|output| matches!(output, Output::Answer(_, Err(RequestError::Stopped)))));
}

#[test]
fn bytes_that_are_no_frame_are_an_error_and_unknown_kinds_are_not() {
    let mut world = settled();
    let unknown = Bytes::from_static(&[2, 0, 0, 0, 1, 0xff]);
    assert!(world.session.on_frame(world.now, &unknown).is_ok());
    let mut broken = frame::to_vec(&Pong { nonce: 0, time: 0, user_seq: 1, heads: &[] });
    broken.pop();
    assert!(world.session.on_frame(world.now, &broken.into()).is_err());
}
