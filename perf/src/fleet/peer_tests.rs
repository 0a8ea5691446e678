//! A peer without a transport: the test is the server, and the clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use tern_protocol::client::{GetHistory, SendMessage};
use tern_protocol::frame::Encode;
use tern_protocol::limit::KNOWN_FRESH;
use tern_protocol::server::{
    Ack, DirectoryEntry, DirectoryPage, Event, Head, HistoryPage, Pong, Reject, Welcome, content, event,
};
use tern_protocol::{ConversationId, Frame as _, RejectCode, UserId};

use super::super::book::Common;
use super::super::outbox::Stage;
use super::*;

const GROUP: u128 = 77;
const SECOND: u64 = 1_000_000_000;

/// A peer that is welcomed and in one conversation, and its books.
struct Bench {
    peer: Peer,
    book: Book,
}

impl Bench {
    fn new(head: u64) -> Self {
        let common = Common {
            start: Instant::now(),
            run: 5,
            seed: 1,
            peers: HashMap::new(),
            presence: Box::new([AtomicU64::new(0)]),
        };
        let mut book = Book::new(Arc::new(common), (0, 1), false, Arc::default());
        let account = Account { user: UserId::from_raw(9), token: "token".into(), home: None };
        let mut peer = Peer::new(0, &account, true);
        assert_eq!(peer.act(Action::Connect, 0, &mut book), Some(Command::Dial));
        let mut bench = Self { peer, book };
        bench.dial();
        let page = DirectoryPage { request: bench.peer.asked[0].id, more: 0, entries: vec![entry(head)] };
        bench.take(&page);
        bench
    }

    /// Dials and is welcomed.
    fn dial(&mut self) {
        self.peer.link = Link::Quic(0);
        self.peer.on_dial(&mut self.book);
        self.take(&Welcome {
            user: 9,
            device: 1,
            session: 1,
            time: 0,
            user_seq: 0,
            home: 0,
            shards: 1,
            ping_interval: 25_000,
        });
    }

    fn take(&mut self, frame: &impl Encode) {
        self.peer.on_frame(&frame::to_vec(frame), &mut self.book);
        assert_eq!(self.peer.close, None);
    }

    fn at(&mut self, now: u64) -> Option<Command> {
        self.book.now = now;
        self.peer.on_timer(&mut self.book)
    }

    fn send(&mut self) {
        let conversation = ConversationId::from_raw(GROUP);
        assert_eq!(self.peer.act(Action::Send { conversation, size: 64 }, self.book.now, &mut self.book), None);
    }

    /// The send frames that it wrote: request and `known`.
    fn sends(&mut self) -> Vec<(u128, u64)> {
        let frames = std::mem::take(&mut self.peer.out);
        let sends = frames.iter().filter(|frame| frame.get(5) == Some(&SendMessage::KIND.0));
        sends
            .map(|bytes| {
                let send = frame::decode::<SendMessage<'_>>(bytes).expect("a send");
                (send.request.to_native(), send.known.to_native())
            })
            .collect()
    }

    /// The page requests that it wrote: request and anchor.
    fn pages(&mut self) -> Vec<(u128, u64)> {
        let frames = std::mem::take(&mut self.peer.out);
        let pages = frames.iter().filter(|frame| frame.get(5) == Some(&GetHistory::KIND.0));
        pages
            .map(|bytes| {
                let ask = frame::decode::<GetHistory>(bytes).expect("a page request");
                (ask.request.to_native(), ask.anchor.to_native())
            })
            .collect()
    }

    fn reject(&mut self, request: u128, code: RejectCode) {
        self.take(&Reject { request, code: code.raw(), retry_after: 1000 });
    }

    fn ack(&mut self, request: u128, seq: u64) {
        self.take(&Ack { request, conversation: GROUP, seq, time: 0 });
    }

    fn page(&mut self, request: u128, head: u64, events: &[Vec<u8>]) {
        self.take(&HistoryPage { request, conversation: GROUP, head, first: 1, events: &events.concat() });
    }
}

fn entry(head: u64) -> DirectoryEntry {
    DirectoryEntry {
        conversation: GROUP,
        head,
        head_visible: head,
        head_time: 0,
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
    }
}

fn event_of(seq: u64, sender: u64, request: u128) -> Event<'static> {
    Event {
        conversation: GROUP,
        seq,
        time: 0,
        visible: seq,
        sender,
        request,
        target: 0,
        revised: 0,
        subject: 0,
        kind: event::MESSAGE,
        content: content::TEXT,
        role: 0,
        mentions: &[],
        body: b"text",
    }
}

#[test]
fn a_message_is_sent_once_and_acknowledged_once() {
    let mut bench = Bench::new(4);
    bench.send();
    let sends = bench.sends();
    let [(request, known)] = sends[..] else { panic!("one send: {sends:?}") };
    assert_eq!((known, bench.book.counts.outstanding), (KNOWN_FRESH, 1));
    bench.ack(request, 5);
    bench.ack(request, 5);
    assert_eq!((bench.book.counts.acked, bench.book.counts.outstanding), (1, 0));
    assert_eq!(bench.book.acked.get(&GROUP), Some(&5));
}

#[test]
fn a_busy_server_gets_the_same_message_later_with_the_position_of_the_first_attempt() {
    let mut bench = Bench::new(4);
    bench.send();
    let (request, _) = bench.sends()[0];
    bench.take(&event_of(5, 3, 1));
    bench.reject(request, RejectCode::Busy);
    bench.send();
    assert_eq!(bench.sends(), [], "neither before its time nor anything behind it");
    bench.at(SECOND);
    let sends = bench.sends();
    assert_eq!((sends.len(), sends[0], sends[1].1), (2, (request, 4), KNOWN_FRESH));
    assert_eq!((bench.book.counts.resends, bench.book.counts.rejected.values().sum::<u64>()), (1, 1));
}

#[test]
fn a_message_whose_fate_is_unknown_is_looked_for_and_found() {
    let mut bench = Bench::new(4);
    bench.send();
    let (request, _) = bench.sends()[0];
    bench.reject(request, RejectCode::CatchUpFirst);
    let (page, anchor) = bench.pages()[0];
    assert_eq!(anchor, 4);
    bench.page(page, 6, &[frame::to_vec(&event_of(5, 3, 1)), frame::to_vec(&event_of(6, 9, request))]);
    assert_eq!((bench.book.counts.acked, bench.book.acked.get(&GROUP)), (1, Some(&6)));
    assert_eq!(bench.sends(), []);
}

#[test]
fn a_message_that_is_nowhere_is_sent_again_from_the_head() {
    let mut bench = Bench::new(4);
    bench.send();
    let (request, _) = bench.sends()[0];
    bench.reject(request, RejectCode::CatchUpFirst);
    let (page, _) = bench.pages()[0];
    bench.page(page, 6, &[frame::to_vec(&event_of(5, 3, 1))]);
    let (page, anchor) = bench.pages()[0];
    assert_eq!(anchor, 5, "the page did not reach the head");
    bench.page(page, 6, &[frame::to_vec(&event_of(6, 3, 2))]);
    assert_eq!(bench.sends(), [(request, 6)]);
}

#[test]
fn what_was_under_way_goes_again_after_a_lost_connection_but_not_what_came_back() {
    let mut bench = Bench::new(4);
    bench.send();
    bench.send();
    let sends = bench.sends();
    let (first, second) = (sends[0].0, sends[1].0);
    bench.take(&event_of(5, 9, first));
    bench.peer.on_ended(&Ending::Lost, &mut bench.book);
    assert!(matches!(bench.peer.phase, Phase::Waiting(_)));
    assert_eq!(bench.at(SECOND), Some(Command::Dial));
    bench.dial();
    assert_eq!(bench.sends(), [(second, 4)]);
    assert_eq!((bench.book.counts.acked, bench.book.counts.lost_connections), (1, 1));
}

#[test]
fn an_outbox_without_room_says_so() {
    let mut bench = Bench::new(4);
    bench.peer.act(Action::Vanish, 0, &mut bench.book);
    for _ in 0..5000 {
        bench.send();
    }
    let failed = bench.book.counts.sends_failed;
    assert_eq!((failed, bench.peer.posts.len()), (5000 - 4096, 4096));
    assert_eq!(bench.book.counts.rejected.values().sum::<u64>(), failed);
    assert_eq!(bench.book.counts.outstanding, 0, "nobody could answer");
}

#[test]
fn no_more_than_a_window_of_messages_is_under_way() {
    let mut bench = Bench::new(4);
    (0..100).for_each(|_| bench.send());
    let sends = bench.sends();
    assert_eq!(sends.len(), 64);
    bench.ack(sends[0].0, 5);
    assert_eq!(bench.sends().len(), 1);
}

#[test]
fn a_message_into_an_unknown_conversation_waits_for_its_entry() {
    let mut bench = Bench::new(4);
    let conversation = ConversationId::from_raw(GROUP + 1);
    bench.peer.act(Action::Send { conversation, size: 64 }, 0, &mut bench.book);
    assert_eq!(bench.sends(), []);
    let mut new = entry(1);
    new.conversation += 1;
    bench.take(&DirectoryPage { request: 0, more: 0, entries: vec![new] });
    assert_eq!(bench.sends().len(), 1);
    assert_eq!(bench.peer.posts[0].stage, Stage::InFlight);
}

#[test]
fn silence_for_two_intervals_ends_the_connection() {
    let mut bench = Bench::new(4);
    bench.at(25 * SECOND);
    bench.at(50 * SECOND);
    assert_eq!(bench.peer.close, None);
    bench.at(75 * SECOND);
    assert!(bench.peer.close.is_some());
}

#[test]
fn an_answered_ping_keeps_the_connection() {
    let mut bench = Bench::new(4);
    for round in 1..10 {
        bench.at(25 * SECOND * round);
        let (nonce, _) = bench.peer.pinged.expect("it pings");
        bench.take(&Pong { nonce, time: 0, user_seq: 0, heads: &[] });
    }
    assert_eq!((bench.peer.close, bench.book.counts.pongs), (None, 9));
}

#[test]
fn a_head_beyond_the_position_is_fetched_if_it_does_not_come_by_itself() {
    let mut bench = Bench::new(4);
    let heads = [Head { conversation: GROUP, seq: 5, visible: 5 }];
    bench.take(&Pong { nonce: 0, time: 0, user_seq: 0, heads: &heads });
    assert_eq!(bench.pages(), [], "it may be under way");
    bench.at(SECOND);
    let (page, anchor) = bench.pages()[0];
    assert_eq!(anchor, 4);
    bench.page(page, 5, &[frame::to_vec(&event_of(5, 3, 1))]);
    assert_eq!((bench.book.counts.repaired, bench.book.counts.gaps), (1, 0));
}

#[test]
fn what_no_page_brings_is_given_up_and_stays_lost() {
    let mut bench = Bench::new(4);
    bench.take(&event_of(5, 3, 1));
    bench.take(&event_of(7, 3, 2));
    assert_eq!(bench.book.counts.gaps, 1);
    for round in 0..5 {
        bench.at(round * 3 * SECOND);
        let (page, _) = bench.pages()[0];
        bench.page(page, 7, &[]);
    }
    let track = &bench.peer.tracks[0];
    assert_eq!((track.given_up, track.got, track.position()), (1, 2, Some(7)));
    bench.book.acked.insert(GROUP, 7);
    let heads = bench.book.acked.clone();
    let audit = super::super::accounting::audit(std::slice::from_ref(&bench.peer), &heads, &mut bench.book);
    assert_eq!((audit.lost, audit.expected), (1, 3));
}

#[test]
fn a_frame_that_does_not_decode_ends_the_connection() {
    let mut bench = Bench::new(4);
    bench.peer.on_frame(&[9, 0, 0, 0, 1, 0x84, 1, 2, 3, 4, 5, 6, 7], &mut bench.book);
    assert!(bench.peer.close.is_some());
    assert_eq!(bench.book.counts.malformed, 1);
}

#[test]
fn an_altered_body_is_corrupt_and_keeps_its_place() {
    let mut bench = Bench::new(4);
    let event =
        Event { content: content::OPAQUE, body: b"not what the fleet wrote, and 40 bytes..", ..event_of(5, 3, 1) };
    bench.take(&event);
    assert_eq!((bench.book.counts.corrupt, bench.book.counts.delivered), (1, 1));
}
