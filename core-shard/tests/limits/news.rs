//! What a session answers while the news that its user is in a conversation is still under way to it, and what that costs the log.

use std::collections::VecDeque;

use tern_core_shard::io::Ending;
use tern_protocol::limit::DEDUP_WINDOW;
use tern_protocol::server::UserEvent;
use tern_protocol::{ConversationId, RejectCode, RequestId, client};

use super::one_shard::{acks, count, rejects, text};
use super::{Pair, fast, pair};

#[test]
fn a_creator_sends_on_a_new_connection_before_the_directory_has_the_group() {
    let mut p = pair(fast());
    p.world.hold_emissions = Some(VecDeque::new());
    p.world.send(p.ada_session, &client::CreateGroup { request: 5, flags: 0, title: b"G", members: &[] });
    let group = ConversationId::group(p.ada, RequestId::from_raw(5));
    assert_eq!(acks(&p.world.take(p.ada_session)), [(5, 1)]);
    p.world.disconnect(p.ada_session, Ending::Lost);
    let again = p.world.open(p.ada);
    p.world.send(again, &text(group, 6, b"hello"));
    let frames = p.world.take(again);
    assert_eq!((acks(&frames), rejects(&frames)), (vec![(6, 2)], vec![]));
}

/// A group of ada's with bob in it, of which bob's session has not heard.
fn invited(p: &mut Pair) -> ConversationId {
    p.world.send(p.ada_session, &client::CreateGroup { request: 5, flags: 0, title: b"G", members: &[] });
    let group = ConversationId::group(p.ada, RequestId::from_raw(5));
    for request in 0..u128::from(DEDUP_WINDOW) + 10 {
        p.world.send(p.ada_session, &text(group, 1_000 + request, b"before bob"));
        p.world.take(p.ada_session);
    }
    p.world.hold_emissions = Some(VecDeque::new());
    p.world.send(p.ada_session, &client::Invite { request: 6, conversation: group.raw(), users: &[p.bob.raw()] });
    p.world.take(p.ada_session);
    assert_eq!(count::<UserEvent>(&p.world.take(p.bob_session)), 0);
    group
}

#[test]
fn whoever_was_just_invited_reads_and_writes_before_they_are_told() {
    let mut p = pair(fast());
    let group = invited(&mut p);
    let (conversation, cursor) = (group.raw(), client::cursor::READ);
    p.world.send(p.bob_session, &text(group, 7, b"hello"));
    p.world.send(p.bob_session, &client::MoveCursor { request: 8, conversation, seq: 268, visible: 267, cursor });
    let frames = p.world.take(p.bob_session);
    assert_eq!(rejects(&frames), []);
    assert_eq!(acks(&frames).into_iter().map(|(request, _)| request).collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn commands_keep_their_order_when_the_news_comes_between_them() {
    let mut p = pair(fast());
    let group = invited(&mut p);
    // The owner answers nothing for this group until the view has answered it.
    p.world.silent_view = true;
    let (conversation, known) = (group.raw(), u64::MAX);
    let edit = client::EditMessage { request: 9, conversation, known, target: 2, content: 0, body: b"edited" };
    p.world.send(p.ada_session, &edit);
    p.world.send(p.bob_session, &text(group, 10, b"first"));
    p.world.release();
    assert_eq!(count::<UserEvent>(&p.world.take(p.bob_session)), 1);
    p.world.send(p.bob_session, &text(group, 11, b"second"));
    p.world.answer_view();
    assert_eq!(acks(&p.world.take(p.ada_session)).len(), 1, "the edit");
    let [(10, first), (11, second)] = acks(&p.world.take(p.bob_session))[..] else { panic!("not both") };
    assert!(first < second);
}

#[test]
fn a_strangers_commands_cost_the_log_nothing_and_are_bounded() {
    let mut p = pair(fast());
    p.world.send(p.ada_session, &client::CreateGroup { request: 5, flags: 0, title: b"G", members: &[] });
    let theirs = ConversationId::group(p.ada, RequestId::from_raw(5));
    let nobodys = ConversationId::group(p.ada, RequestId::from_raw(99));
    let before = p.world.logged;
    for (request, conversation) in [(10, theirs), (11, nobodys)] {
        p.world.send(p.bob_session, &text(conversation, request, b"let me in"));
        let refused = rejects(&p.world.take(p.bob_session));
        assert_eq!(refused, [(RequestId::from_raw(request), RejectCode::NotFound, 0)], "the two are not told apart");
    }
    p.world.silent_view = true;
    for request in 100..140 {
        let unknown = ConversationId::group(p.ada, RequestId::from_raw(request));
        p.world.send(p.bob_session, &text(unknown, request, b"let me in"));
    }
    let refused = rejects(&p.world.take(p.bob_session));
    assert!(refused.len() == 8 && refused.iter().all(|(_, code, _)| *code == RejectCode::Busy), "{refused:?}");
    assert_eq!(p.world.logged, before);
}
