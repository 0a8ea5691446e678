//! Whoever was removed from a group is told nothing more of it, by any of the ways in which heads and history reach a session.

use bytes::Bytes;
use tern_core_shard::Limits;
use tern_core_shard::io::Ending;
use tern_protocol::server::{DirectoryPage, Event, HistoryPage, MembersPage, Pong, Reset, UserEvent, user_event};
use tern_protocol::{ConversationId, RequestId, client, frame};

use super::one_shard::{count, hello, text, token};
use super::{Pair, fast, pair};

/// A group of ada and bob in which something was said.
fn group(limits: Limits) -> (Pair, ConversationId) {
    let mut p = pair(limits);
    p.world.send(p.ada_session, &client::CreateGroup { request: 5, flags: 0, title: b"G", members: &[p.bob.raw()] });
    let group = ConversationId::group(p.ada, RequestId::from_raw(5));
    p.world.send(p.ada_session, &text(group, 50, b"all of us"));
    p.world.take(p.ada_session);
    p.world.take(p.bob_session);
    (p, group)
}

/// Removes bob, and says something afterwards.
fn remove(p: &mut Pair, group: ConversationId) {
    p.world.send(p.ada_session, &client::Kick { request: 6, conversation: group.raw(), user: p.bob.raw() });
    p.world.send(p.ada_session, &text(group, 7, b"now that he is gone"));
    p.world.take(p.ada_session);
}

/// The heads of a conversation among frames.
fn heads(frames: &[Bytes], group: ConversationId) -> Vec<u64> {
    let pongs = frames.iter().filter_map(|bytes| frame::decode::<Pong<'_>>(bytes).ok());
    let heads = pongs.flat_map(|pong| pong.heads.iter());
    heads.filter(|head| head.conversation.to_native() == group.raw()).map(|head| head.seq.to_native()).collect()
}

/// The entries of a conversation among frames.
fn entries(frames: &[Bytes], group: ConversationId) -> usize {
    let pages = frames.iter().filter_map(|bytes| frame::decode::<DirectoryPage>(bytes).ok());
    let entries = pages.flat_map(|page| page.entries.iter());
    entries.filter(|entry| entry.conversation.to_native() == group.raw()).count()
}

#[test]
fn the_end_of_a_lag_does_not_tell_the_head() {
    let (mut p, group) = group(Limits { outbox_live_max: 4_000, ..fast() });
    for request in 100..140 {
        p.world.send(p.ada_session, &text(group, request, &[b'x'; 300]));
        p.world.take(p.ada_session);
    }
    assert_eq!(p.world.shard.counters().lagging, 1);
    remove(&mut p, group);
    let frames = p.world.take(p.bob_session);
    let removals = frames.iter().filter_map(|bytes| frame::decode::<UserEvent>(bytes).ok());
    assert_eq!(removals.filter(|news| news.kind == user_event::CONVERSATION_REMOVED).count(), 1);
    assert_eq!((heads(&frames, group), entries(&frames, group)), (vec![], 0));
}

#[test]
fn the_end_of_a_lag_tells_the_head_of_what_one_is_in() {
    let (mut p, group) = group(Limits { outbox_live_max: 4_000, ..fast() });
    for request in 100..140 {
        p.world.send(p.ada_session, &text(group, request, &[b'x'; 300]));
        p.world.take(p.ada_session);
    }
    let frames = p.world.take(p.bob_session);
    assert_eq!((heads(&frames, group), entries(&frames, group)), (vec![43], 1));
}

#[test]
fn a_pong_does_not_tell_the_head() {
    let (mut p, group) = group(fast());
    let positions = [client::At { conversation: group.raw(), seq: 1 }];
    let ping = |nonce| client::Ping { nonce, positions: &positions };
    p.world.send(p.bob_session, &ping(1));
    assert_eq!(heads(&p.world.take(p.bob_session), group), [3], "as long as he is in it");
    remove(&mut p, group);
    p.world.take(p.bob_session);
    p.world.send(p.bob_session, &ping(2));
    assert_eq!(heads(&p.world.take(p.bob_session), group), Vec::<u64>::new());
}

#[test]
fn neither_directory_nor_resume_tell_of_it() {
    let (mut p, group) = group(fast());
    remove(&mut p, group);
    p.world.disconnect(p.bob_session, Ending::Lost);
    let again = p.world.connect();
    let positions = [client::At { conversation: group.raw(), seq: 1 }];
    p.world.send(again, &client::Hello { positions: &positions, ..hello(&token(p.bob, 1)) });
    p.world.send(again, &client::GetDirectory { request: 8, before_time: 0, before_conversation: 0, limit: 100 });
    let frames = p.world.take(again);
    assert_eq!((count::<Event<'_>>(&frames), count::<Reset>(&frames), entries(&frames, group)), (0, 0, 0));
    assert_eq!(count::<DirectoryPage>(&frames), 1);
}

#[test]
fn neither_history_nor_members_are_shown() {
    let (mut p, group) = group(fast());
    remove(&mut p, group);
    p.world.take(p.bob_session);
    let conversation = group.raw();
    p.world.send(p.bob_session, &client::GetHistory { request: 8, conversation, anchor: 0, limit: 9, direction: 1 });
    p.world.send(p.bob_session, &client::GetMembers { request: 9, conversation, after: 0, limit: 9 });
    let frames = p.world.take(p.bob_session);
    assert_eq!((count::<HistoryPage<'_>>(&frames), count::<MembersPage<'_>>(&frames)), (0, 0));
}
