//! A recalled message is gone: its text, of every version, its mentions, its preview; from memory, pages and rows, whatever the view lacks.

use bytes::Bytes;
use tern_core_shard::Limits;
use tern_core_shard::io::Request;
use tern_protocol::limit::DEDUP_WINDOW;
use tern_protocol::placement::Placement;
use tern_protocol::server::{DirectoryPage, Event, HistoryPage};
use tern_protocol::{ConversationId, RejectCode, RequestId, SessionId, client, frame};

use super::one_shard::{PARTITIONS, acks, count, rejects, text};
use super::{Pair, fast, pair};

const SECRETS: [&[u8]; 3] = [b"the first secret", b"the second secret", b"the third secret"];
const MENTIONED: u64 = 0x1234_5678_9abc_def0;

impl Pair {
    /// Ada says the first secret: event 2.
    fn say(&mut self) {
        let message = text(self.direct, 7, SECRETS[0]);
        self.world.send(self.ada_session, &client::SendMessage { mentions: &[MENTIONED], ..message });
        self.take();
    }

    fn edit(&mut self, request: u128, body: &[u8]) {
        let conversation = self.direct.raw();
        let edit = client::EditMessage { request, conversation, known: u64::MAX, target: 2, content: 0, body };
        self.world.send(self.ada_session, &edit);
        self.take();
    }

    /// More messages than are kept in memory when the view has them.
    fn bury(&mut self, requests: u128) {
        for request in requests..=requests + u128::from(DEDUP_WINDOW) {
            self.world.send(self.bob_session, &text(self.direct, request, b"more"));
            self.take();
        }
    }

    fn recall(&mut self) {
        let conversation = self.direct.raw();
        let recall = client::RecallMessage { request: 99, conversation, known: u64::MAX, target: 2 };
        self.world.send(self.ada_session, &recall);
    }

    fn recall_is_acknowledged(&mut self) {
        assert_eq!(acks(&self.world.take(self.ada_session)).len(), 1, "the recall");
        self.world.take(self.bob_session);
    }

    fn take(&mut self) {
        self.world.take(self.ada_session);
        self.world.take(self.bob_session);
    }

    fn ask_history(&mut self) {
        let conversation = self.direct.raw();
        let page = client::GetHistory { request: 90, conversation, anchor: 0, limit: 5, direction: 1 };
        self.world.send(self.bob_session, &page);
    }

    fn lag(&mut self) {
        self.world.lagging_view.insert(Placement::new(PARTITIONS, 1).of_conversation(self.direct));
    }

    /// That nothing of it is in the answer that bob has waited for.
    fn page_tells_nothing(&mut self) {
        let frames = self.world.take(self.bob_session);
        assert_eq!(count::<HistoryPage<'_>>(&frames), 1);
        assert_eq!(traces(&frames.concat()), 0);
    }

    /// That nothing of it is in any page, resume or row.
    fn nothing_is_left(&mut self) {
        let again = self.world.connect();
        let (positions, token) = ([client::At { conversation: self.direct.raw(), seq: 1 }], super::token(self.bob, 1));
        self.world.send(again, &client::Hello { positions: &positions, ..super::hello(&token) });
        for anchor in (0..600).step_by(5) {
            let conversation = self.direct.raw();
            let page = client::GetHistory { request: 90, conversation, anchor, limit: 5, direction: 1 };
            self.world.send(again, &page);
        }
        assert_eq!(traces(&self.world.take(again).concat()), 0, "told");
        let stored = SECRETS.iter().any(|secret| self.world.stores(secret));
        assert!(!stored && !self.world.stores(&MENTIONED.to_le_bytes()), "stored");
    }
}

/// How many of the secrets and mentions are in these bytes.
fn traces(bytes: &[u8]) -> usize {
    let mentioned = MENTIONED.to_le_bytes();
    let all = SECRETS.into_iter().chain([&mentioned[..]]);
    all.filter(|secret| bytes.windows(secret.len()).any(|part| part == *secret)).count()
}

#[test]
fn a_recall_erases_every_version_in_memory() {
    let mut p = pair(fast());
    p.say();
    p.edit(8, SECRETS[1]);
    p.edit(9, SECRETS[2]);
    p.recall();
    p.recall_is_acknowledged();
    p.nothing_is_left();
}

#[test]
fn a_recall_erases_every_version_that_only_the_view_has() {
    let mut p = pair(fast());
    p.say();
    p.edit(8, SECRETS[1]);
    p.bury(1_000);
    p.edit(9, SECRETS[2]);
    p.bury(2_000);
    p.recall();
    p.recall_is_acknowledged();
    p.nothing_is_left();
}

#[test]
fn an_edit_takes_the_body_of_the_edit_before() {
    let mut p = pair(fast());
    p.say();
    p.edit(8, SECRETS[1]);
    p.edit(9, SECRETS[2]);
    let stored = SECRETS.map(|secret| p.world.stores(secret));
    assert_eq!(stored, [false, false, true]);
    p.ask_history();
    let frames = p.world.take(p.bob_session);
    let page = frames.iter().find_map(|bytes| frame::decode::<HistoryPage<'_>>(bytes).ok()).expect("a page");
    let shown: Vec<(u64, u64, Vec<u8>)> =
        events(&page.events).map(|event| (event.0, event.1, event.2)).filter(|(seq, ..)| *seq > 1).collect();
    assert_eq!(shown, [(2, 4, SECRETS[2].to_vec()), (3, 4, vec![]), (4, 0, SECRETS[2].to_vec())]);
}

/// Place, last change and body of each event of a page.
fn events(page: &[u8]) -> impl Iterator<Item = (u64, u64, Vec<u8>)> {
    let mut rest = page;
    std::iter::from_fn(move || {
        let size = frame::size(rest).ok()??;
        let (event, more) = rest.split_at(size);
        rest = more;
        let event = frame::decode::<Event<'_>>(event).expect("an event");
        Some((event.seq.to_native(), event.revised.to_native(), event.body.to_vec()))
    })
}

#[test]
fn a_page_shows_a_recall_that_the_view_does_not_have() {
    let mut p = pair(fast());
    p.say();
    p.edit(8, SECRETS[1]);
    p.bury(1_000);
    p.lag();
    p.recall();
    p.recall_is_acknowledged();
    p.ask_history();
    p.page_tells_nothing();
    p.world.catch_view_up();
    p.nothing_is_left();
}

#[test]
fn a_page_that_was_read_before_a_recall_and_is_answered_after_it_shows_it() {
    let mut p = pair(fast());
    p.say();
    p.bury(1_000);
    p.lag();
    p.edit(8, SECRETS[1]);
    p.world.silent_view = true;
    p.ask_history();
    p.recall();
    p.recall_is_acknowledged();
    // By the time of the answer the view has the recall, and memory has left it to the view.
    p.world.catch_view_up();
    p.world.send(p.ada_session, &text(p.direct, 500, b"something else"));
    p.take();
    p.world.answer_view();
    p.page_tells_nothing();
    p.nothing_is_left();
}

#[test]
fn a_conversation_of_which_a_page_is_read_stays_in_a_full_cache() {
    let mut p = pair(Limits { cache_size_max: 1, ..fast() });
    p.say();
    p.bury(1_000);
    p.world.silent_view = true;
    p.ask_history();
    let loads = p.world.shard.counters().loads;
    // What waits for the view is in the cache's way: everything else goes.
    p.world.request(Request::FindAccount { name: "nobody".into() });
    p.world.answer_view();
    assert_eq!(count::<HistoryPage<'_>>(&p.world.take(p.bob_session)), 1);
    assert_eq!(p.world.shard.counters().loads, loads + 1, "of the name alone");
}

#[test]
fn a_page_that_is_read_while_its_reader_is_removed_is_not_answered() {
    let mut p = pair(fast());
    p.world.send(p.ada_session, &client::CreateGroup { request: 5, flags: 0, title: b"G", members: &[p.bob.raw()] });
    p.direct = ConversationId::group(p.ada, RequestId::from_raw(5));
    p.bury(1_000);
    p.world.silent_view = true;
    p.ask_history();
    let kick = client::Kick { request: 6, conversation: p.direct.raw(), user: p.bob.raw() };
    p.world.send(p.ada_session, &kick);
    p.take();
    p.world.answer_view();
    assert_eq!(rejects(&p.world.take(p.bob_session)), [(RequestId::from_raw(90), RejectCode::NotFound, 0)]);
}

/// Place, sender and text of the preview in somebody's directory.
fn preview(p: &mut Pair, session: SessionId) -> (u64, u64, Vec<u8>) {
    p.world.take(session);
    p.world.send(session, &client::GetDirectory { request: 91, before_time: 0, before_conversation: 0, limit: 100 });
    let frames: Vec<Bytes> = p.world.take(session);
    let page = frames.iter().find_map(|bytes| frame::decode::<DirectoryPage>(bytes).ok()).expect("a directory");
    let direct = p.direct.raw();
    let entry = page.entries.iter().find(|entry| entry.conversation.to_native() == direct).expect("the entry");
    (entry.preview_seq.to_native(), entry.preview_sender.to_native(), entry.preview.to_vec())
}

#[test]
fn the_preview_is_the_same_for_old_and_new_sessions_and_none_of_a_recalled_message() {
    let mut p = pair(fast());
    p.world.device(p.bob, 2);
    p.world.send(p.bob_session, &text(p.direct, 6, b"before"));
    let conversation = p.direct.raw();
    let recall = |request, target| client::RecallMessage { request, conversation, known: u64::MAX, target };
    let both = |p: &mut Pair| {
        let again = p.world.connect();
        p.world.send(again, &super::hello(&super::token(p.bob, 2)));
        let (live, fresh) = (preview(p, p.bob_session), preview(p, again));
        assert_eq!(live, fresh);
        live
    };
    assert_eq!(both(&mut p), (2, p.bob.raw(), b"before".to_vec()));
    p.world.send(p.ada_session, &text(p.direct, 7, SECRETS[0]));
    let edit =
        client::EditMessage { request: 8, conversation, known: u64::MAX, target: 3, content: 0, body: SECRETS[1] };
    p.world.send(p.ada_session, &edit);
    assert_eq!(both(&mut p), (3, p.ada.raw(), SECRETS[1].to_vec()));
    p.world.send(p.ada_session, &recall(9, 3));
    assert_eq!(both(&mut p), (0, 0, vec![]));
    p.world.send(p.ada_session, &text(p.direct, 10, b"after"));
    assert_eq!(both(&mut p), (6, p.ada.raw(), b"after".to_vec()));
}
