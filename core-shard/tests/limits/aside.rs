//! An entity that cannot be read stops nobody but those who want it: they are answered, its commands are kept, and applied when it is back.

use std::time::Duration;

use bytes::Bytes;
use tern_core_shard::Limits;
use tern_core_shard::io::{AppendFailure, AsideCause, AsideChange, Reply, Request};
use tern_protocol::server::{DirectoryPage, Event, HistoryPage, Reject, Welcome, role};
use tern_protocol::stored::Entity;
use tern_protocol::{CloseCode, ConversationId, RejectCode, RequestId, client, frame};

use super::one_shard::{OneShard, acks, count, rejects, text};
use super::{Pair, fast, pair};

/// Time in which an entity that fails to be read is set aside, or one that is aside is looked at again.
const LONG: Duration = Duration::from_secs(11);

/// A pair with a group that nobody has in memory.
struct Group {
    p: Pair,
    id: ConversationId,
}

impl Group {
    fn new(limits: Limits) -> Self {
        let mut p = pair(limits.clone());
        let create = client::CreateGroup { request: 5, flags: 0, title: b"g", members: &[p.bob.raw()] };
        p.world.send(p.ada_session, &create);
        let id = ConversationId::group(p.ada, RequestId::from_raw(5));
        p.world.restart(limits);
        Self { p, id }
    }

    fn entity(&self) -> Entity {
        Entity::Conversation(self.id)
    }

    /// Connects both again.
    fn open(&mut self) {
        let p = &mut self.p;
        (p.ada_session, p.bob_session) = (p.world.open(p.ada), p.world.open(p.bob));
    }

    /// Logs a message of ada's as if her shard had not heard that the group is set aside.
    fn log(&mut self, request: u128) {
        let (world, session) = (&mut self.p.world, self.p.ada_session);
        world.log(self.p.ada, session, &text(self.id, request, b"kept"));
    }

    fn history(&mut self) -> Vec<(u64, u128)> {
        let get = client::GetHistory { request: 9, conversation: self.id.raw(), anchor: 0, limit: 100, direction: 1 };
        self.p.world.send(self.p.ada_session, &get);
        let frames = self.p.world.take(self.p.ada_session);
        let page = frames.iter().find_map(|bytes| frame::decode::<HistoryPage<'_>>(bytes).ok()).unwrap();
        events(&page.events).iter().map(|event| (event.0, event.1)).collect()
    }
}

fn events(mut bytes: &[u8]) -> Vec<(u64, u128, u64)> {
    let mut found = Vec::new();
    while let Ok(Some(size)) = frame::size(bytes) {
        let event = frame::decode::<Event<'_>>(&bytes[..size]).unwrap();
        found.push((event.seq.to_native(), event.request.to_native(), event.time.to_native()));
        bytes = &bytes[size..];
    }
    found
}

fn codes(frames: &[Bytes]) -> Vec<RejectCode> {
    rejects(frames).into_iter().map(|(_, code, _)| code).collect()
}

#[test]
fn one_unreadable_conversation_does_not_stop_the_others() {
    let mut world = OneShard::new(Limits { load_queue_max: 64, ..fast() });
    let (ada, bob) = (world.user("ada"), world.user("bob"));
    let (ada_session, bob_session) = (world.open(ada), world.open(bob));
    let chat = world.direct(ada_session, ada, bob);
    let ghost = ConversationId::group(bob, RequestId::from_raw(99));
    world.failing.insert(Entity::Conversation(ghost));
    for request in 0..100u128 {
        world.send(ada_session, &client::JoinGroup { request: 1000 + request, conversation: ghost.raw() });
    }
    world.wait(LONG);
    assert!(world.shard.wants_commands(), "{:?}", world.shard.counters());
    let told = codes(&world.take(ada_session));
    assert_eq!(told, vec![RejectCode::OutcomeUnknown; 100], "each request ends");
    world.send(bob_session, &text(chat, 7, b"hello"));
    assert_eq!(acks(&world.take(bob_session)), [(7, 2)]);
    assert_eq!(world.aside, [(Entity::Conversation(ghost), AsideChange::Away(AsideCause::Failing))], "said once");
}

#[test]
fn what_was_kept_is_applied_first_at_its_own_place_and_time() {
    let mut group = Group::new(fast());
    group.p.world.damaged.insert(group.entity());
    group.open();
    group.p.world.take(group.p.ada_session);
    let sent_at = group.p.world.now;
    for request in 10..13 {
        group.log(request);
    }
    assert_eq!(codes(&group.p.world.take(group.p.ada_session)), [RejectCode::OutcomeUnknown; 3]);
    assert_eq!((group.p.world.shard.counters().kept, group.p.world.shard.counters().aside), (3, 1));
    group.p.world.damaged.clear();
    group.p.world.wait(LONG);
    assert_eq!(group.p.world.shard.counters().aside, 0);
    assert_eq!(group.p.world.aside.last(), Some(&(group.entity(), AsideChange::Back)));
    group.p.world.send(group.p.ada_session, &text(group.id, 13, b"after"));
    assert_eq!(acks(&group.p.world.take(group.p.ada_session)), [(13, 6)]);
    assert_eq!(group.history(), [(1, 5), (2, 5), (3, 10), (4, 11), (5, 12), (6, 13)]);
    let kept_at = sent_at.raw();
    let get = client::GetHistory { request: 9, conversation: group.id.raw(), anchor: 0, limit: 100, direction: 1 };
    group.p.world.send(group.p.ada_session, &get);
    let frames = group.p.world.take(group.p.ada_session);
    let page = frames.iter().find_map(|bytes| frame::decode::<HistoryPage<'_>>(bytes).ok()).unwrap();
    assert!(events(&page.events)[2..5].iter().all(|(.., time)| *time == kept_at), "not the time at which it came back");
}

#[test]
fn a_resend_of_what_was_kept_is_recognised() {
    let mut group = Group::new(fast());
    group.p.world.damaged.insert(group.entity());
    group.open();
    group.log(10);
    group.log(10);
    group.p.world.damaged.clear();
    group.p.world.wait(LONG);
    group.p.world.take(group.p.ada_session);
    group.p.world.send(group.p.ada_session, &client::SendMessage { known: 2, ..text(group.id, 10, b"kept") });
    assert_eq!(acks(&group.p.world.take(group.p.ada_session)), [(10, 3)]);
    assert_eq!(group.history(), [(1, 5), (2, 5), (3, 10)]);
}

#[test]
fn what_was_kept_outlives_a_restart_and_leaves_no_rows_behind() {
    let mut group = Group::new(fast());
    group.p.world.damaged.insert(group.entity());
    group.open();
    group.log(10);
    group.log(11);
    let rows = group.p.world.row_count();
    group.p.world.damaged.clear();
    group.p.world.restart(fast());
    group.open();
    assert_eq!(group.history(), [(1, 5), (2, 5), (3, 10), (4, 11)]);
    let awaited = 2; // The partition's own note of whom each kept command is for.
    assert_eq!(group.p.world.row_count(), rows - awaited, "two kept commands became two events");
    group.p.world.restart(fast());
    group.open();
    assert_eq!(group.history(), [(1, 5), (2, 5), (3, 10), (4, 11)]);
}

/// Goal: what was acknowledged is applied after a restart also if nobody ever asks for its entity.
/// Method: a restart without a session.
#[test]
fn what_was_kept_is_applied_after_a_restart_although_nobody_asks() {
    let mut group = Group::new(fast());
    group.p.world.damaged.insert(group.entity());
    group.open();
    group.log(10);
    let rows = group.p.world.row_count();
    group.p.world.damaged.clear();
    group.p.world.restart(fast());
    assert_eq!(group.p.world.shard.counters().events, 1, "applied");
    assert_eq!(group.p.world.row_count(), rows - 1, "the kept command became an event, and nothing is left of it");
}

#[test]
fn commands_for_what_is_set_aside_are_refused_before_they_are_logged() {
    let mut group = Group::new(fast());
    group.p.world.damaged.insert(group.entity());
    group.open();
    group.p.world.take(group.p.ada_session);
    for request in 0..50 {
        group.p.world.send(group.p.ada_session, &text(group.id, 100 + request, b"no"));
    }
    let told = rejects(&group.p.world.take(group.p.ada_session));
    assert!(told.iter().all(|(_, code, retry)| *code == RejectCode::SetAside && *retry > 0), "{told:?}");
    assert_eq!((told.len(), group.p.world.shard.counters().kept), (50, 0));
    group.p.bob_is_unharmed();
}

#[test]
fn members_see_that_it_is_there_and_are_told_when_it_is_back() {
    let mut group = Group::new(fast());
    group.p.world.damaged.insert(group.entity());
    group.open();
    let frames = group.p.world.take(group.p.bob_session);
    assert_eq!(count::<Welcome>(&frames), 1, "the rest of the list is not held up");
    let ask = client::GetDirectory { request: 3, before_time: 0, before_conversation: 0, limit: 50 };
    group.p.world.send(group.p.bob_session, &ask);
    assert!(entries(&group.p.world.take(group.p.bob_session)).contains(&(group.id.raw(), role::UNREADABLE)));
    group.p.world.damaged.clear();
    group.p.world.wait(LONG);
    assert_eq!(entries(&group.p.world.take(group.p.bob_session)), [(group.id.raw(), role::MEMBER)]);
    group.p.world.send(group.p.ada_session, &text(group.id, 10, b"hello again"));
    assert_eq!(count::<Event<'_>>(&group.p.world.take(group.p.bob_session)), 1);
}

fn entries(frames: &[Bytes]) -> Vec<(u128, u8)> {
    let pages = frames.iter().filter_map(|bytes| frame::decode::<DirectoryPage>(bytes).ok());
    let of = |page: &tern_protocol::server::ArchivedDirectoryPage| -> Vec<(u128, u8)> {
        page.entries.iter().map(|entry| (entry.conversation.to_native(), entry.role)).collect()
    };
    pages.flat_map(of).collect()
}

#[test]
fn an_edit_of_an_unreadable_event_waits_and_questions_are_still_answered() {
    let mut p = pair(fast());
    for request in 0..300 {
        p.world.send(p.ada_session, &text(p.direct, 100 + request, b"more"));
        p.world.take(p.ada_session);
    }
    p.world.take(p.bob_session);
    p.world.failing_events = true;
    let edit = |request| client::EditMessage {
        request,
        conversation: p.direct.raw(),
        known: u64::MAX,
        target: 2,
        content: 0,
        body: b"edited",
    };
    p.world.send(p.ada_session, &edit(900));
    p.world.wait(LONG);
    assert_eq!(codes(&p.world.take(p.ada_session)), [RejectCode::OutcomeUnknown]);
    let entity = Entity::Conversation(p.direct);
    assert_eq!(p.world.aside, [(entity, AsideChange::Away(AsideCause::Event))]);
    let members = client::GetMembers { request: 9, conversation: p.direct.raw(), after: 0, limit: 10 };
    p.world.send(p.bob_session, &members);
    assert_eq!(codes(&p.world.take(p.bob_session)), []);
    p.world.failing_events = false;
    p.world.wait(LONG);
    p.world.send(p.bob_session, &text(p.direct, 901, b"still here"));
    assert_eq!(acks(&p.world.take(p.bob_session)), [(901, 303)], "behind the edit");
}

#[test]
fn nobody_is_answered_from_a_state_older_than_what_was_shown_before_a_restart() {
    let mut p = pair(fast());
    for request in 0..300 {
        p.world.send(p.ada_session, &text(p.direct, 100 + request, b"more"));
        p.world.take(p.ada_session);
    }
    p.world.wait(6 * LONG);
    p.world.torn_view = true;
    let conversation = p.direct.raw();
    let edit = client::EditMessage { request: 900, conversation, known: u64::MAX, target: 2, content: 0, body: b"new" };
    p.world.send(p.ada_session, &edit);
    p.world.send(p.ada_session, &text(p.direct, 901, b"shown"));
    assert_eq!(acks(&p.world.take(p.ada_session)), [(900, 302), (901, 303)]);
    for seq in [302, 303] {
        p.world.lose_event(p.direct, seq);
    }
    p.world.failing_events = true;
    p.world.restart(fast());
    p.world.wait(LONG);
    assert_eq!(p.world.aside, [(Entity::Conversation(p.direct), AsideChange::Away(AsideCause::Event))]);
    p.bob_session = p.world.open(p.bob);
    assert_eq!(ask_twice(&mut p), [RejectCode::Unreadable; 2], "the commands before the restart are kept");
    p.world.wait(LONG);
    assert_eq!(ask_twice(&mut p), [RejectCode::Unreadable; 2], "its rows were read again, the event was not");
    p.world.failing_events = false;
    p.world.wait(LONG);
    assert_eq!(ask_twice(&mut p), []);
    p.world.send(p.bob_session, &text(p.direct, 902, b"after"));
    assert_eq!(acks(&p.world.take(p.bob_session)), [(902, 304)]);
}

/// What bob is refused who asks for the members and for history.
fn ask_twice(p: &mut Pair) -> Vec<RejectCode> {
    p.world.take(p.bob_session);
    let conversation = p.direct.raw();
    p.world.send(p.bob_session, &client::GetMembers { request: 8, conversation, after: 0, limit: 10 });
    p.world.send(p.bob_session, &client::GetHistory { request: 9, conversation, anchor: 400, limit: 5, direction: 0 });
    codes(&p.world.take(p.bob_session))
}

#[test]
fn a_user_who_cannot_be_read_is_refused_and_nobody_else() {
    let mut p = pair(fast());
    p.world.restart(fast());
    p.world.damaged.insert(Entity::User(p.bob));
    let bob = p.world.open(p.bob);
    assert_eq!(p.closed(bob), Some(CloseCode::Internal));
    let devices = p.world.request(Request::ListDevices { user: p.bob });
    assert_eq!(devices, Some(Reply::Unavailable(AppendFailure::Unavailable)));
    let ada = p.world.open(p.ada);
    p.world.take(ada);
    p.world.send(ada, &client::GetProfiles { request: 4, users: &[p.bob.raw()], name: b"" });
    p.world.send(ada, &text(p.direct, 7, b"hello"));
    let frames = p.world.take(ada);
    assert_eq!((codes(&frames), acks(&frames)), (vec![RejectCode::Unreadable], vec![(7, 2)]));
    p.world.damaged.clear();
    p.world.wait(LONG);
    let bob = p.world.open(p.bob);
    assert_eq!(p.closed(bob), None);
}

#[test]
fn an_entity_that_has_its_fill_of_kept_commands_makes_the_rest_wait_and_loses_none() {
    let limits = Limits { kept_size_max: 1, ..fast() };
    let mut group = Group::new(limits);
    group.p.world.damaged.insert(group.entity());
    group.open();
    for request in 10..13 {
        group.log(request);
    }
    let counters = group.p.world.shard.counters();
    assert_eq!((counters.kept, counters.kept_full, counters.waiting), (1, 2, 2));
    group.p.world.damaged.clear();
    group.p.world.wait(LONG);
    assert_eq!(group.history(), [(1, 5), (2, 5), (3, 10), (4, 11), (5, 12)]);
    assert_eq!(group.p.world.shard.counters().waiting, 0);
}

#[test]
fn more_unreadable_entities_than_may_be_set_aside_wait() {
    let mut world = OneShard::new(Limits { aside_max: 2, ..fast() });
    for name in ["a", "b", "c"] {
        world.damaged.insert(Entity::Account(name.into()));
        let reply = world.request(Request::FindAccount { name: name.into() });
        let expected = (name != "c").then_some(Reply::Unavailable(AppendFailure::Unavailable));
        assert_eq!(reply, expected, "{name}");
    }
    world.damaged.clear();
    world.wait(LONG);
    assert_eq!(world.shard.counters().aside, 0);
    assert_eq!(world.request(Request::FindAccount { name: "c".into() }), Some(Reply::Account(None)));
}

/// A page that makes no sense is not passed on.
#[test]
fn a_page_with_a_hole_is_refused_and_not_shown() {
    let mut p = pair(fast());
    for request in 0..300 {
        p.world.send(p.ada_session, &text(p.direct, 100 + request, b"more"));
        p.world.take(p.ada_session);
    }
    p.world.take(p.bob_session);
    p.world.lose_event(p.direct, 5);
    let get = client::GetHistory { request: 9, conversation: p.direct.raw(), anchor: 0, limit: 10, direction: 1 };
    p.world.send(p.bob_session, &get);
    let frames = p.world.take(p.bob_session);
    assert_eq!(codes(&frames), [RejectCode::Unreadable]);
    assert_eq!(count::<Reject>(&frames), 1);
}
