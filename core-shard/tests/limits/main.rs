//! Every limit of a shard, hit; every refusal, seen; always that only its cause is affected. One shard, frame by frame.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod ahead;
mod aside;
mod cache;
mod groups;
mod news;
mod once;
mod one_shard;
mod recall;
mod removed;
mod rules;

use std::time::Duration;

use bytes::Bytes;
use one_shard::{OneShard, acks, count, hello, rejects, text, token};
use tern_core_shard::Limits;
use tern_core_shard::io::{AppendFailure, Ending, Reply, Request, ViewError};
use tern_protocol::limit::{BODY_SIZE_MAX, DEDUP_WINDOW, FRAME_SIZE_MAX, INVITES_MAX};
use tern_protocol::server::{DirectoryPage, Event, Pong, PresenceNotice, Receipt, Welcome};
use tern_protocol::{
    CloseCode, ConversationId, DeviceId, RejectCode, RequestId, SessionId, UserId, client, frame, server,
};

/// Two users who are online and have a direct conversation; nothing waits for them.
struct Pair {
    world: OneShard,
    ada: UserId,
    bob: UserId,
    ada_session: SessionId,
    bob_session: SessionId,
    direct: ConversationId,
    /// Requests that bob made to fill the conversation.
    filled: u128,
}

fn pair(limits: Limits) -> Pair {
    let mut world = OneShard::new(limits);
    let (ada, bob) = (world.user("ada"), world.user("bob"));
    let (ada_session, bob_session) = (world.open(ada), world.open(bob));
    let direct = world.direct(ada_session, ada, bob);
    world.take(ada_session);
    world.take(bob_session);
    Pair { world, ada, bob, ada_session, bob_session, direct, filled: 0 }
}

/// Limits without a rate, for tests of something else.
fn fast() -> Limits {
    Limits { frames_burst: 1_000_000, ..Limits::default() }
}

impl Pair {
    /// That the other one still chats undisturbed.
    fn bob_is_unharmed(&mut self) {
        self.world.take(self.bob_session);
        let request = 0xb0b + self.world.now.raw() as u128;
        self.world.send(self.bob_session, &text(self.direct, request, b"still here"));
        assert_eq!(acks(&self.world.take(self.bob_session)).len(), 1);
    }

    fn closed(&self, session: SessionId) -> Option<CloseCode> {
        self.world.closed.get(&session).copied()
    }
}

#[test]
fn a_message_is_acknowledged_to_its_sender_and_delivered_to_both() {
    let mut p = pair(Limits::default());
    p.world.send(p.ada_session, &text(p.direct, 7, b"hello"));
    let frames = p.world.take(p.ada_session);
    assert_eq!(acks(&frames), [(7, 2)]);
    assert_eq!(count::<Event<'_>>(&frames), 1);
    assert_eq!(count::<Event<'_>>(&p.world.take(p.bob_session)), 1);
}

#[test]
fn a_resend_gets_the_same_answer_and_nothing_is_delivered() {
    let mut p = pair(Limits::default());
    for _ in 0..2 {
        p.world.send(p.ada_session, &text(p.direct, 7, b"hello"));
    }
    assert_eq!(acks(&p.world.take(p.ada_session)), [(7, 2), (7, 2)]);
    assert_eq!(count::<Event<'_>>(&p.world.take(p.bob_session)), 1);
}

#[test]
fn the_same_request_id_for_something_else_is_a_conflict() {
    let mut p = pair(Limits::default());
    p.world.send(p.ada_session, &text(p.direct, 7, b"hello"));
    p.world.send(p.ada_session, &text(p.direct, 7, b"goodbye"));
    assert_eq!(rejects(&p.world.take(p.ada_session)), [(RequestId::from_raw(7), RejectCode::Conflict, 0)]);
    p.bob_is_unharmed();
}

#[test]
fn a_resend_older_than_the_window_must_catch_up_first() {
    let mut p = pair(fast());
    p.world.send(p.ada_session, &text(p.direct, 7, b"hello"));
    for request in 0..u128::from(DEDUP_WINDOW) {
        p.world.send(p.bob_session, &text(p.direct, 1000 + request, b"more"));
        p.world.take(p.bob_session);
    }
    p.world.take(p.ada_session);
    p.world.wait(once::REMEMBERED_TIME);
    p.world.send(p.ada_session, &client::SendMessage { known: 1, ..text(p.direct, 7, b"hello") });
    assert_eq!(rejects(&p.world.take(p.ada_session)), [(RequestId::from_raw(7), RejectCode::CatchUpFirst, 0)]);
}

#[test]
fn frames_before_hello_close_only_their_connection() {
    let mut p = pair(Limits::default());
    let stranger = p.world.connect();
    p.world.send(stranger, &text(p.direct, 1, b"let me in"));
    assert_eq!(p.closed(stranger), Some(CloseCode::HelloExpected));
    assert_eq!(p.world.take(p.bob_session), Vec::<Bytes>::new());
    p.bob_is_unharmed();
}

#[test]
fn expired_forged_and_revoked_tokens_are_told_apart() {
    let mut p = pair(Limits::default());
    let revoked = token(p.ada, 99);
    for (token, code) in
        [(&b"expired"[..], CloseCode::ExpiredToken), (b"forged", CloseCode::BadToken), (&revoked, CloseCode::Revoked)]
    {
        let session = p.world.connect();
        p.world.send(session, &hello(token));
        assert_eq!(p.closed(session), Some(code));
        assert_eq!(count::<Welcome>(&p.world.take(session)), 0);
    }
    p.bob_is_unharmed();
}

#[test]
fn who_connects_and_says_nothing_is_closed_in_time() {
    let mut p = pair(Limits::default());
    let silent = p.world.connect();
    p.world.wait(Limits::default().hello_timeout - Duration::from_millis(1));
    assert_eq!(p.closed(silent), None);
    p.world.wait(Duration::from_millis(2));
    assert_eq!(p.closed(silent), Some(CloseCode::HelloExpected));
    p.bob_is_unharmed();
}

#[test]
fn malformed_frames_close_only_their_connection() {
    let good = frame::to_vec(&text(ConversationId::WORLD, 1, b"x"));
    let mut version = good.clone();
    version[4] = 9;
    let mut kind = good.clone();
    kind[5] = 0x84;
    let mut archive = good.clone();
    let end = archive.len();
    archive[end - 8..].copy_from_slice(&[0x7f; 8]);
    let huge = vec![0xff; FRAME_SIZE_MAX + 1];
    for (bytes, code) in [
        (good[..good.len() - 1].to_vec(), CloseCode::Malformed),
        (version, CloseCode::UnsupportedVersion),
        (kind, CloseCode::UnexpectedFrame),
        (archive, CloseCode::Malformed),
        (huge, CloseCode::FrameTooLarge),
    ] {
        let mut p = pair(Limits::default());
        p.world.raw(p.ada_session, bytes.into());
        assert_eq!(p.closed(p.ada_session), Some(code));
        p.bob_is_unharmed();
    }
}

#[test]
fn a_body_over_the_limit_is_refused_and_the_connection_stays() {
    let mut p = pair(Limits::default());
    p.world.send(p.ada_session, &text(p.direct, 7, &[b'x'; 17 * 1024]));
    p.world.send(p.ada_session, &text(p.direct, 8, &[b'x'; BODY_SIZE_MAX]));
    let frames = p.world.take(p.ada_session);
    assert_eq!(rejects(&frames), [(RequestId::from_raw(7), RejectCode::TooLarge, 0)]);
    assert_eq!(acks(&frames), [(8, 2)]);
}

#[test]
fn empty_and_non_text_bodies_are_refused() {
    let mut p = pair(Limits::default());
    p.world.send(p.ada_session, &text(p.direct, 1, b""));
    p.world.send(p.ada_session, &text(p.direct, 2, b"\xff\xfe"));
    p.world.send(p.ada_session, &client::SendMessage { content: 255, ..text(p.direct, 3, b"x") });
    let codes: Vec<RejectCode> = rejects(&p.world.take(p.ada_session)).into_iter().map(|(_, code, _)| code).collect();
    assert_eq!(codes, [RejectCode::Invalid; 3]);
}

#[test]
fn a_foreign_conversation_looks_like_one_that_does_not_exist() {
    let mut p = pair(Limits::default());
    let eve = p.world.user("eve");
    let session = p.world.open(eve);
    p.world.take(session);
    let nowhere = ConversationId::direct(UserId::from_raw(1), UserId::from_raw(2));
    for (request, conversation) in [(1, p.direct), (2, nowhere)] {
        p.world.send(session, &text(conversation, request, b"hi"));
        let conversation = conversation.raw();
        let request = request + 10;
        p.world.send(session, &client::GetHistory { request, conversation, anchor: 0, limit: 10, direction: 1 });
        p.world.send(session, &client::GetMembers { request: request + 10, conversation, after: 0, limit: 10 });
        p.world.send(session, &client::Typing { conversation, active: 1 });
    }
    let refused: Vec<RejectCode> = rejects(&p.world.take(session)).into_iter().map(|(_, code, _)| code).collect();
    assert_eq!(refused, [RejectCode::NotFound; 6]);
    assert_eq!(p.world.take(p.bob_session), Vec::<Bytes>::new());
}

#[test]
fn a_page_that_the_view_cannot_read_ends_with_a_code_that_says_whether_to_ask_again() {
    let mut p = pair(fast());
    for request in 0..2 * u128::from(DEDUP_WINDOW) {
        p.world.send(p.ada_session, &text(p.direct, 1000 + request, b"x"));
    }
    p.world.take(p.ada_session);
    let conversation = p.direct.raw();
    for (error, expected) in [
        (ViewError::Busy, (RejectCode::Busy, 200)),
        (ViewError::Failed, (RejectCode::Busy, 200)),
        (ViewError::Damaged, (RejectCode::Unreadable, 0)),
    ] {
        p.world.broken_view = Some(error);
        let page = client::GetHistory { request: 7, conversation, anchor: 0, limit: 10, direction: 1 };
        p.world.send(p.ada_session, &page);
        let refused = rejects(&p.world.take(p.ada_session));
        assert_eq!(refused, [(RequestId::from_raw(7), expected.0, expected.1)], "{error:?}");
    }
    assert!(!RejectCode::Unreadable.is_retryable() && RejectCode::Busy.is_retryable());
    p.bob_is_unharmed();
}

#[test]
fn who_was_kicked_can_neither_send_nor_hear() {
    let mut p = pair(Limits::default());
    let group = ConversationId::group(p.ada, RequestId::from_raw(50));
    p.world.send(p.ada_session, &client::CreateGroup { request: 50, flags: 0, title: b"G", members: &[p.bob.raw()] });
    p.world.send(p.ada_session, &client::Kick { request: 51, conversation: group.raw(), user: p.bob.raw() });
    p.world.take(p.bob_session);
    p.world.send(p.bob_session, &text(group, 7, b"wait"));
    p.world.send(p.ada_session, &text(group, 52, b"he is gone"));
    let frames = p.world.take(p.bob_session);
    assert_eq!(rejects(&frames), [(RequestId::from_raw(7), RejectCode::NotFound, 0)]);
    assert_eq!(count::<Event<'_>>(&frames), 0);
}

#[test]
fn ten_thousand_frames_a_second_are_answered_and_then_the_door_is_shown() {
    let mut p = pair(Limits::default());
    let mut answered = 0;
    for nonce in 0..10_000 {
        p.world.send(p.ada_session, &client::Ping { nonce, positions: &[] });
        answered += count::<Pong<'_>>(&p.world.take(p.ada_session));
    }
    // One frame of the burst opened the conversation.
    assert_eq!(answered, Limits::default().frames_burst as usize - 1);
    assert_eq!(p.closed(p.ada_session), Some(CloseCode::Flooding));
    assert!(p.world.shard.counters().rate_limited > 0);
    p.bob_is_unharmed();
}

#[test]
fn a_message_over_the_rate_is_told_when_to_try_again() {
    let mut p = pair(Limits { frames_burst: 3, frames_per_second: 10, ..Limits::default() });
    for request in 1..5 {
        p.world.send(p.ada_session, &text(p.direct, request, b"x"));
    }
    let refused = rejects(&p.world.take(p.ada_session));
    let [(_, RejectCode::RateLimited, retry_after), ..] = refused[..] else { panic!("{refused:?}") };
    p.world.wait(Duration::from_millis(u64::from(retry_after)));
    p.world.send(p.ada_session, &text(p.direct, 4, b"x"));
    assert_eq!(acks(&p.world.take(p.ada_session)).len(), 1);
}

#[test]
fn a_reader_that_never_reads_is_skipped_then_closed_and_its_memory_is_bounded() {
    let limits = Limits { outbox_live_max: 8 * 1024, outbox_close_max: 32 * 1024, ..fast() };
    let mut p = pair(limits.clone());
    for request in 1..=200 {
        p.world.send(p.ada_session, &text(p.direct, request, &[b'x'; 500]));
        p.world.take(p.ada_session);
        assert!(p.world.shard.waiting_size(p.bob_session) <= limits.outbox_close_max);
    }
    assert_eq!(p.world.shard.counters().lagging, 1);
    assert!(p.world.shard.counters().skipped > 100);
    p.world.wait(limits.slow_reader_timeout + Duration::from_secs(1));
    assert_eq!(p.closed(p.bob_session), Some(CloseCode::SlowReader));
}

#[test]
fn a_slow_reader_that_catches_up_is_told_the_head() {
    let limits = Limits { outbox_live_max: 8 * 1024, outbox_close_max: 32 * 1024, ..fast() };
    let mut p = pair(limits.clone());
    for request in 1..=100 {
        p.world.send(p.ada_session, &text(p.direct, request, &[b'x'; 500]));
        p.world.take(p.ada_session);
    }
    let frames = p.world.take(p.bob_session);
    let pong = frames.iter().find_map(|bytes| frame::decode::<Pong<'_>>(bytes).ok()).expect("an unasked pong");
    assert_eq!((pong.nonce.to_native(), pong.heads[0].seq.to_native()), (0, 101));
    p.world.wait(limits.slow_reader_timeout + Duration::from_secs(1));
    assert_eq!(p.closed(p.bob_session), None);
}

#[test]
fn answers_that_nobody_reads_close_the_session() {
    let limits = Limits { outbox_live_max: 2 * 1024, outbox_close_max: 4 * 1024, ..fast() };
    let mut p = pair(limits);
    for nonce in 0..1_000 {
        p.world.send(p.ada_session, &client::Ping { nonce, positions: &[] });
    }
    assert!(!p.world.shard.wants_input(p.ada_session));
    assert_eq!(p.closed(p.ada_session), Some(CloseCode::SlowReader));
}

#[test]
fn commands_in_flight_are_bounded_and_reading_stops_before() {
    let mut p = pair(Limits { inflight_max: 4, ..Limits::default() });
    p.world.hold = Some(std::collections::VecDeque::new());
    for request in 1..=10 {
        p.world.send(p.ada_session, &text(p.direct, request, b"x"));
        assert_eq!(p.world.shard.wants_input(p.ada_session), request < 4);
    }
    assert_eq!(
        rejects(&p.world.take(p.ada_session)).iter().filter(|(_, code, _)| *code == RejectCode::Busy).count(),
        2
    );
    p.world.release();
    assert_eq!(acks(&p.world.take(p.ada_session)).len(), 8);
    assert!(p.world.shard.wants_input(p.ada_session));
}

#[test]
fn a_log_that_refuses_is_told_to_the_sender_with_what_to_do() {
    for (failure, code) in [
        (AppendFailure::Busy, RejectCode::Busy),
        (AppendFailure::Unavailable, RejectCode::Unavailable),
        (AppendFailure::Unknown, RejectCode::OutcomeUnknown),
    ] {
        let mut p = pair(Limits::default());
        p.world.refuse = Some(failure);
        p.world.send(p.ada_session, &text(p.direct, 7, b"x"));
        let refused = rejects(&p.world.take(p.ada_session));
        assert!(matches!(refused[..], [(_, other, retry)] if other == code && retry > 0), "{refused:?}");
        p.world.refuse = None;
        p.world.send(p.ada_session, &text(p.direct, 7, b"x"));
        assert_eq!(acks(&p.world.take(p.ada_session)), [(7, 2)]);
    }
}

#[test]
fn a_user_has_so_many_sessions_and_the_oldest_goes() {
    let mut p = pair(Limits { user_sessions_max: 2, ..Limits::default() });
    let [second, third] = [2, 3].map(|device| {
        p.world.device(p.ada, device);
        p.world.open_device(p.ada, device)
    });
    assert_eq!(p.closed(p.ada_session), Some(CloseCode::TooManySessions));
    assert_eq!((p.closed(second), p.closed(third)), (None, None));
}

#[test]
fn a_full_shard_takes_no_more_connections() {
    let mut p = pair(Limits { sessions_max: 2, ..Limits::default() });
    let third = p.world.connect();
    assert_eq!(p.closed(third), Some(CloseCode::Full));
    p.world.disconnect(third, Ending::Lost);
    p.world.disconnect(p.ada_session, Ending::Lost);
    let fourth = p.world.connect();
    assert_eq!(p.closed(fourth), None);
    p.bob_is_unharmed();
}

#[test]
fn a_full_group_takes_no_more_members() {
    let mut p = pair(Limits { members_max: 2, ..Limits::default() });
    let eve = p.world.user("eve");
    let members = [p.bob.raw(), eve.raw()];
    p.world.send(p.ada_session, &client::CreateGroup { request: 50, flags: 0, title: b"G", members: &members });
    p.world.send(p.ada_session, &client::CreateGroup { request: 51, flags: 0, title: b"G", members: &members[..1] });
    let group = ConversationId::group(p.ada, RequestId::from_raw(51)).raw();
    p.world.send(p.ada_session, &client::Invite { request: 52, conversation: group, users: &[eve.raw()] });
    let refused: Vec<_> =
        rejects(&p.world.take(p.ada_session)).into_iter().map(|(id, code, _)| (id.raw(), code)).collect();
    assert_eq!(refused, [(50, RejectCode::GroupFull), (52, RejectCode::GroupFull)]);
}

#[test]
fn lists_over_their_limit_are_refused() {
    let mut p = pair(Limits::default());
    let many = vec![p.bob.raw(); INVITES_MAX + 1];
    p.world.send(p.ada_session, &client::CreateGroup { request: 1, flags: 0, title: b"G", members: &many });
    p.world.send(p.ada_session, &client::CreateGroup { request: 2, flags: 0, title: &[b'x'; 200], members: &[] });
    p.world.send(p.ada_session, &client::SendMessage { mentions: &many[..65], ..text(p.direct, 3, b"x") });
    p.world.send(p.ada_session, &client::GetProfiles { request: 4, users: &many[..129], name: b"" });
    let codes: Vec<RejectCode> = rejects(&p.world.take(p.ada_session)).into_iter().map(|(_, code, _)| code).collect();
    assert_eq!(codes, [RejectCode::TooLarge; 4]);
}

#[test]
fn nobody_invites_users_who_do_not_exist() {
    let mut p = pair(Limits::default());
    p.world.send(p.ada_session, &client::CreateGroup { request: 1, flags: 0, title: b"G", members: &[424_242] });
    p.world.send(p.ada_session, &client::OpenDirect { request: 2, user: 424_242 });
    p.world.send(p.ada_session, &client::OpenDirect { request: 3, user: 0 });
    let codes: Vec<RejectCode> = rejects(&p.world.take(p.ada_session)).into_iter().map(|(_, code, _)| code).collect();
    assert_eq!(codes, [RejectCode::UnknownUser; 3]);
}

#[test]
fn cursors_neither_go_back_nor_beyond_the_head() {
    let mut p = pair(Limits::default());
    for request in 1..=3 {
        p.world.send(p.bob_session, &text(p.direct, request, b"x"));
    }
    p.world.take(p.ada_session);
    let cursor = |request, seq, visible| client::MoveCursor {
        request,
        conversation: p.direct.raw(),
        seq,
        visible,
        cursor: client::cursor::READ,
    };
    let (beyond, lying, right, back) = (cursor(1, 99, 3), cursor(2, 3, 3), cursor(3, 4, 3), cursor(4, 2, 1));
    for frame in [beyond, lying, right, back] {
        p.world.send(p.ada_session, &frame);
    }
    let frames = p.world.take(p.ada_session);
    let codes: Vec<RejectCode> = rejects(&frames).into_iter().map(|(_, code, _)| code).collect();
    assert_eq!(codes, [RejectCode::BadCursor; 2]);
    assert_eq!(acks(&frames), [(3, 4), (4, 4)]);
    assert_eq!(count::<Receipt>(&frames), 1);
}

#[test]
fn a_member_can_neither_promote_themselves_nor_remove_the_owner() {
    let mut p = pair(Limits::default());
    let group = ConversationId::group(p.ada, RequestId::from_raw(50)).raw();
    p.world.send(p.ada_session, &client::CreateGroup { request: 50, flags: 0, title: b"G", members: &[p.bob.raw()] });
    p.world.send(p.bob_session, &client::SetRole { request: 1, conversation: group, user: p.ada.raw(), role: 1 });
    p.world.send(p.bob_session, &client::SetRole { request: 2, conversation: group, user: p.bob.raw(), role: 3 });
    p.world.send(p.bob_session, &client::Kick { request: 3, conversation: group, user: p.ada.raw() });
    let bob: Vec<RejectCode> = rejects(&p.world.take(p.bob_session)).into_iter().map(|(_, code, _)| code).collect();
    assert_eq!(bob, [RejectCode::Forbidden, RejectCode::Invalid, RejectCode::Forbidden]);
}

#[test]
fn logging_a_device_out_closes_its_connection() {
    let mut p = pair(Limits::default());
    let close = Request::CloseDevice { user: p.ada, device: Some(DeviceId::from_raw(1)) };
    assert_eq!(p.world.request(close), Some(Reply::Closed { count: 1 }));
    assert_eq!(p.closed(p.ada_session), Some(CloseCode::Revoked));
    p.bob_is_unharmed();
}

#[test]
fn a_reused_refresh_token_logs_its_device_out_but_a_repeated_attempt_does_not() {
    let mut p = pair(Limits::default());
    let rotate = |generation, secret, attempt| Request::RotateDevice {
        user: p.ada,
        device: DeviceId::from_raw(1),
        generation,
        secret,
        successor: [2; 32],
        attempt,
    };
    let (first, again, stolen) = (rotate(1, [0; 32], 5), rotate(1, [0; 32], 5), rotate(1, [0; 32], 6));
    assert_eq!(p.world.request(first), Some(Reply::Rotated { generation: 2 }));
    assert_eq!(p.world.request(again), Some(Reply::Rotated { generation: 2 }));
    assert_eq!(p.closed(p.ada_session), None);
    assert_eq!(p.world.request(stolen), Some(Reply::Refused));
    assert_eq!(p.closed(p.ada_session), Some(CloseCode::Revoked));
}

#[test]
fn a_name_is_taken_once() {
    let mut p = pair(Limits::default());
    let again = Request::Register { name: "ada".into(), display: "Eve".into(), password: "x".into() };
    assert_eq!(p.world.request(again), Some(Reply::NameTaken));
}

#[test]
fn questions_that_wait_for_a_load_are_bounded_and_the_rest_are_told() {
    let mut p = pair(Limits { load_queue_max: 4, ..fast() });
    p.world.silent_view = true;
    for name in 0..10 {
        let request = Request::FindAccount { name: "nobody".into() };
        let busy = p.world.request(request) == Some(Reply::Unavailable(AppendFailure::Busy));
        assert_eq!(busy, name >= 4, "question {name}");
    }
    p.bob_is_unharmed();
}

#[test]
fn entities_beyond_the_cache_are_dropped_and_come_back_as_they_were() {
    let mut p = pair(Limits { cache_size_max: 1, ..fast() });
    p.world.send(p.ada_session, &text(p.direct, 7, b"hello"));
    p.world.take(p.ada_session);
    assert!(p.world.shard.counters().evictions > 0);
    p.world.send(p.ada_session, &text(p.direct, 7, b"hello"));
    assert_eq!(acks(&p.world.take(p.ada_session)), [(7, 2)]);
    p.bob_is_unharmed();
}

#[test]
fn presence_is_for_those_who_have_a_conversation_and_a_short_absence_is_none() {
    let mut p = pair(Limits::default());
    let eve = p.world.user("eve");
    let stranger = p.world.open(eve);
    p.world.take(stranger);
    p.world.send(stranger, &client::WatchPresence { users: &[p.bob.raw()] });
    p.world.send(p.ada_session, &client::WatchPresence { users: &[p.bob.raw()] });
    assert_eq!(count::<PresenceNotice>(&p.world.take(p.ada_session)), 1);
    p.world.disconnect(p.bob_session, Ending::Lost);
    p.world.wait(Duration::from_secs(1));
    p.bob_session = p.world.open(p.bob);
    p.world.wait(Duration::from_secs(10));
    assert_eq!(count::<PresenceNotice>(&p.world.take(p.ada_session)), 0);
    p.world.disconnect(p.bob_session, Ending::Goodbye);
    p.world.wait(Duration::from_millis(100));
    assert_eq!(count::<PresenceNotice>(&p.world.take(p.ada_session)), 1);
    assert_eq!(p.world.take(stranger), Vec::<Bytes>::new());
}

#[test]
fn a_draining_server_answers_what_it_took_and_takes_no_more() {
    let mut p = pair(Limits::default());
    p.world.hold = Some(std::collections::VecDeque::new());
    p.world.send(p.ada_session, &text(p.direct, 7, b"last words"));
    p.world.input(tern_core_shard::Input::Drain { spread_ms: 1000 });
    assert_eq!(p.closed(p.bob_session), Some(CloseCode::Draining));
    assert_eq!(p.closed(p.ada_session), None);
    p.world.send(p.ada_session, &text(p.direct, 8, b"too late"));
    p.world.release();
    let frames = p.world.take(p.ada_session);
    assert_eq!(acks(&frames), [(7, 2)]);
    assert_eq!(count::<server::Drain>(&frames), 1);
    assert_eq!(rejects(&frames)[0].1, RejectCode::Unavailable);
    assert_eq!(p.closed(p.ada_session), Some(CloseCode::Draining));
    let late = p.world.connect();
    assert_eq!(p.closed(late), Some(CloseCode::Draining));
}

#[test]
fn a_session_serves_so_many_conversations_and_no_more() {
    let mut world = OneShard::new(Limits { directory_max: 2, ..fast() });
    let ada = world.user("ada");
    let session = world.open(ada);
    for request in 1..=4 {
        world.send(session, &client::CreateGroup { request, flags: 0, title: b"G", members: &[] });
    }
    world.take(session);
    world.send(session, &client::GetDirectory { request: 8, before_time: 0, before_conversation: 0, limit: 100 });
    let frames = world.take(session);
    let page = frames.iter().find_map(|bytes| frame::decode::<DirectoryPage>(bytes).ok()).unwrap();
    assert_eq!(page.entries.len(), 2);
}

#[test]
fn look_ups_under_way_are_bounded() {
    let mut p = pair(fast());
    p.world.silent_view = true;
    for number in 0..40u64 {
        let ask = client::GetProfiles { request: u128::from(number) + 1, users: &[1_000_000 + number], name: b"" };
        p.world.send(p.ada_session, &ask);
    }
    let refused = rejects(&p.world.take(p.ada_session));
    assert_eq!(refused.len(), 8);
    assert!(refused.iter().all(|(_, code, retry)| *code == RejectCode::Busy && *retry > 0), "{refused:?}");
    p.bob_is_unharmed();
}

#[test]
fn cursors_in_a_large_group_are_told_to_ones_own_devices_only() {
    for (members_max, told) in [(2, 0), (3, 1)] {
        let mut p = pair(Limits { receipts_members_max: members_max, ..fast() });
        let eve = p.world.user("eve");
        let members = [p.bob.raw(), eve.raw()];
        p.world.send(p.ada_session, &client::CreateGroup { request: 50, flags: 0, title: b"G", members: &members });
        let group = ConversationId::group(p.ada, RequestId::from_raw(50));
        p.world.device(p.bob, 2);
        let other = p.world.open_device(p.bob, 2);
        p.world.send(p.ada_session, &text(group, 51, b"hello"));
        for session in [p.ada_session, p.bob_session, other] {
            p.world.take(session);
        }
        let (conversation, cursor) = (group.raw(), client::cursor::READ);
        p.world.send(p.bob_session, &client::MoveCursor { request: 52, conversation, seq: 4, visible: 1, cursor });
        assert_eq!(count::<Receipt>(&p.world.take(other)), 1);
        assert_eq!(count::<Receipt>(&p.world.take(p.ada_session)), told, "{members_max}");
    }
}
