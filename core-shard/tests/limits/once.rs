//! Once means once: a request is stored once, whichever of its copies arrives first, however late the other one is, and wherever it was held.

use std::collections::VecDeque;

use tern_protocol::client::{
    CreateGroup, EditMessage, GetDirectory, GetHistory, GetMembers, GetProfiles, Invite, JoinGroup, Kick, LeaveGroup,
    MoveCursor, OpenDirect, RecallMessage, SendMessage, SetRole,
};
use tern_protocol::frame::Encode;

use super::*;

/// Limits of a shard that keeps nothing in memory that the view has.
fn forgetful() -> Limits {
    Limits { cache_size_max: 1, ..fast() }
}

/// How often the message of a request was delivered in these frames.
fn deliveries(frames: &[Bytes], request: u128) -> usize {
    let events = frames.iter().filter_map(|bytes| frame::decode::<Event<'_>>(bytes).ok());
    events.filter(|event| event.request.to_native() == request).count()
}

/// How long a request is remembered beyond the window's number of events.
pub(crate) const REMEMBERED_TIME: Duration = Duration::from_secs(60);

impl Pair {
    /// Bob says so much that the requests before it are no longer among the last ones. Nobody is slow to read.
    fn bob_fills_the_window(&mut self, others: &[SessionId]) {
        for _ in 0..DEDUP_WINDOW {
            self.filled += 1;
            self.world.send(self.bob_session, &text(self.direct, 1000 + self.filled, b"more"));
            self.world.take(self.bob_session);
        }
        for session in others {
            self.world.take(*session);
        }
    }
}

#[test]
fn a_first_attempt_that_arrives_after_its_resend_is_stored_once() {
    for pause in [Duration::ZERO, REMEMBERED_TIME] {
        let mut p = pair(fast());
        let old = p.ada_session;
        // The original is in the network. The phone gives the connection up and sends it again on a new one.
        let new = p.world.open(p.ada);
        p.world.send(new, &SendMessage { known: 1, ..text(p.direct, 7, b"hello") });
        assert_eq!(acks(&p.world.take(new)), [(7, 2)]);
        p.bob_fills_the_window(&[old, new]);
        p.world.wait(pause);
        // The original comes out of the old network.
        p.world.send(old, &text(p.direct, 7, b"hello"));
        assert_eq!(deliveries(&p.world.take(p.bob_session), 7), 0, "acks {:?}", acks(&p.world.take(old)));
        assert_eq!(p.closed(old), Some(CloseCode::Replaced));
        p.bob_is_unharmed();
    }
}

#[test]
fn a_first_attempt_that_the_server_held_longer_than_its_resend_is_stored_once() {
    for pause in [Duration::ZERO, REMEMBERED_TIME] {
        let mut p = pair(fast());
        p.world.hold = Some(VecDeque::new());
        p.world.send(p.ada_session, &text(p.direct, 7, b"hello"));
        let held = p.world.hold.take();
        let new = p.world.open(p.ada);
        p.world.send(new, &SendMessage { known: 1, ..text(p.direct, 7, b"hello") });
        assert_eq!(acks(&p.world.take(new)), [(7, 2)]);
        p.bob_fills_the_window(&[new]);
        p.world.wait(pause);
        p.world.hold = held;
        p.world.release();
        assert_eq!(deliveries(&p.world.take(p.bob_session), 7), 0);
        p.bob_is_unharmed();
    }
}

#[test]
fn in_a_busy_conversation_a_resend_is_recognised_for_a_minute() {
    for limits in [fast(), forgetful()] {
        let mut p = pair(limits);
        p.world.send(p.ada_session, &text(p.direct, 7, b"hello"));
        assert_eq!(acks(&p.world.take(p.ada_session)), [(7, 2)]);
        for _ in 0..3 {
            p.bob_fills_the_window(&[p.ada_session]);
        }
        p.world.wait(REMEMBERED_TIME - Duration::from_millis(1));
        let resend = SendMessage { known: 1, ..text(p.direct, 7, b"hello") };
        p.world.send(p.ada_session, &resend);
        assert_eq!(acks(&p.world.take(p.ada_session)), [(7, 2)]);
        p.world.wait(Duration::from_millis(1));
        p.world.send(p.ada_session, &resend);
        assert_eq!(rejects(&p.world.take(p.ada_session)), [(RequestId::from_raw(7), RejectCode::CatchUpFirst, 0)]);
    }
}

#[test]
fn what_is_remembered_of_a_busy_conversation_is_bounded() {
    let mut p = pair(fast());
    p.world.send(p.ada_session, &text(p.direct, 7, b"hello"));
    p.world.take(p.ada_session);
    let resend = SendMessage { known: 1, ..text(p.direct, 7, b"hello") };
    let rounds = (0..20).take_while(|_| {
        p.bob_fills_the_window(&[p.ada_session]);
        p.world.send(p.ada_session, &resend);
        !acks(&p.world.take(p.ada_session)).is_empty()
    });
    assert_eq!(rounds.count(), 7, "2048 events are 8 windows; with the 8th the message is one too old");
}

#[test]
fn a_resend_of_somebody_who_was_out_and_in_again_is_not_stored_twice() {
    let mut p = pair(fast());
    let group = ConversationId::group(p.ada, RequestId::from_raw(5));
    let users = &[p.bob.raw()];
    p.world.send(p.ada_session, &CreateGroup { request: 5, flags: 0, title: b"G", members: users });
    p.world.take(p.bob_session);
    // Bob sends; the answer is lost.
    p.world.send(p.bob_session, &text(group, 7, b"hello"));
    p.world.take(p.bob_session);
    p.world.send(p.ada_session, &Kick { request: 6, conversation: group.raw(), user: p.bob.raw() });
    for request in 0..u128::from(DEDUP_WINDOW) {
        p.world.send(p.ada_session, &text(group, 1000 + request, b"more"));
        p.world.take(p.ada_session);
    }
    p.world.take(p.bob_session);
    p.world.wait(REMEMBERED_TIME);
    let resend = SendMessage { known: 2, ..text(group, 7, b"hello") };
    let refused = |p: &mut Pair, code| {
        p.world.send(p.bob_session, &resend);
        assert_eq!(rejects(&p.world.take(p.bob_session)), [(RequestId::from_raw(7), code, 0)]);
    };
    refused(&mut p, RejectCode::NotFound);
    p.world.send(p.ada_session, &Invite { request: 8, conversation: group.raw(), users });
    p.world.take(p.bob_session);
    refused(&mut p, RejectCode::Rejoined);
    // What he says from here on has nothing to do with it.
    p.world.send(p.bob_session, &text(group, 9, b"hello again"));
    assert_eq!(acks(&p.world.take(p.bob_session)).len(), 1);
    p.bob_is_unharmed();
}

#[test]
fn of_one_device_the_newest_connection_stays() {
    let mut p = pair(Limits::default());
    p.world.device(p.ada, 2);
    let other = p.world.open_device(p.ada, 2);
    let second = p.world.open(p.ada);
    let third = p.world.open(p.ada);
    let replaced = Some(CloseCode::Replaced);
    assert_eq!([p.ada_session, second, third, other].map(|id| p.closed(id)), [replaced, replaced, None, None]);
    p.world.take(third);
    p.world.send(third, &text(p.direct, 7, b"hello"));
    assert_eq!(acks(&p.world.take(third)), [(7, 2)]);
    p.bob_is_unharmed();
}

#[test]
fn a_session_that_ends_before_its_user_is_loaded_leaves_nobody_online() {
    let mut p = pair(forgetful());
    p.world.send(p.bob_session, &client::WatchPresence { users: &[p.ada.raw()] });
    p.world.disconnect(p.ada_session, Ending::Goodbye);
    p.world.wait(Duration::from_secs(5));
    p.world.take(p.bob_session);
    p.world.silent_view = true;
    let ada = p.world.open(p.ada);
    assert_eq!(p.world.take(ada), Vec::<Bytes>::new(), "she is not loaded");
    p.world.disconnect(ada, Ending::Goodbye);
    p.world.answer_view();
    p.world.wait(Duration::from_secs(5));
    let notices = p.world.take(p.bob_session);
    let told: Vec<u8> =
        notices.iter().filter_map(|bytes| frame::decode::<PresenceNotice>(bytes).ok()).map(|f| f.online).collect();
    assert_eq!(told.last(), Some(&0), "she has no connection: {told:?}");
}

#[test]
fn a_first_attempt_waits_until_its_conversation_is_heard_of() {
    let mut p = pair(forgetful());
    p.bob_fills_the_window(&[p.ada_session]);
    for session in [p.ada_session, p.bob_session] {
        p.world.disconnect(session, Ending::Goodbye);
    }
    p.world.wait(REMEMBERED_TIME);
    p.world.silent_view = true;
    let ada = p.world.open(p.ada);
    for request in [7, 8] {
        p.world.send(ada, &text(p.direct, request, b"good morning"));
    }
    assert_eq!(p.world.take(ada), Vec::<Bytes>::new(), "she is not loaded");
    p.world.answer_view();
    let frames = p.world.take(ada);
    assert_eq!((acks(&frames), rejects(&frames)), (vec![(7, DEDUP_WINDOW + 2), (8, DEDUP_WINDOW + 3)], vec![]));
}

/// Everything that has a request id, under the id that names nothing.
fn nameless(p: &Pair) -> Vec<Vec<u8>> {
    let (conversation, user, request, known) = (p.direct.raw(), p.bob.raw(), 0, u64::MAX);
    let users = &[user];
    fn bytes<F: Encode>(frame: F) -> Vec<u8> {
        frame::to_vec(&frame)
    }
    vec![
        bytes(text(p.direct, request, b"hello")),
        bytes(EditMessage { request, conversation, known, target: 1, content: 0, body: b"hello" }),
        bytes(RecallMessage { request, conversation, known, target: 1 }),
        bytes(MoveCursor { request, conversation, seq: 1, visible: 0, cursor: client::cursor::READ }),
        bytes(OpenDirect { request, user }),
        bytes(CreateGroup { request, flags: 0, title: b"G", members: users }),
        bytes(JoinGroup { request, conversation }),
        bytes(LeaveGroup { request, conversation }),
        bytes(Invite { request, conversation, users }),
        bytes(Kick { request, conversation, user }),
        bytes(SetRole { request, conversation, user, role: server::role::ADMIN }),
        bytes(GetHistory { request, conversation, anchor: 0, limit: 1, direction: 1 }),
        bytes(GetDirectory { request, before_time: 0, before_conversation: 0, limit: 1 }),
        bytes(GetMembers { request, conversation, after: 0, limit: 1 }),
        bytes(GetProfiles { request, users, name: b"" }),
    ]
}

#[test]
fn a_request_without_a_name_is_refused() {
    let mut p = pair(fast());
    for bytes in nameless(&p) {
        let kind = frame::open(&bytes).unwrap().0;
        p.world.raw(p.ada_session, bytes.into());
        let frames = p.world.take(p.ada_session);
        assert_eq!(rejects(&frames), [(RequestId::from_raw(0), RejectCode::Invalid, 0)], "kind {:#x}", kind.0);
        assert_eq!(frames.len(), 1, "kind {:#x}", kind.0);
    }
    assert_eq!(p.world.take(p.bob_session), Vec::<Bytes>::new());
    p.bob_is_unharmed();
}
