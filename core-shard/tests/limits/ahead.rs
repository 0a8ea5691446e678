//! A view that is ahead: events of commands whose other rows it does not have yet, as an earlier owner may leave it. One shard that starts on it.

use tern_protocol::client::{JoinGroup, LeaveGroup, RecallMessage, group};
use tern_protocol::{ConversationId, RejectCode, RequestId, client};

use crate::one_shard::{acks, rejects, text};
use crate::{fast, pair};

/// Goal: an event beyond the head does not exist: the command that made it is applied again, and the next one does not take its place.
#[test]
fn an_event_beyond_the_head_does_not_exist() {
    for count in [1, 300] {
        let mut p = pair(fast());
        p.world.torn_view = true;
        for request in 1..=count {
            p.world.send(p.ada_session, &text(p.direct, request, b"first"));
            p.world.take(p.ada_session);
            p.world.take(p.bob_session);
        }
        p.world.restart(fast());
        let ada = p.world.open(p.ada);
        p.world.take(ada);
        p.world.send(ada, &text(p.direct, 999, b"second"));
        assert_eq!(acks(&p.world.take(ada)), [(999, u64::try_from(count).unwrap() + 2)]);
        p.world.send(ada, &text(p.direct, count, b"first"));
        assert_eq!(acks(&p.world.take(ada)), [(count, u64::try_from(count).unwrap() + 1)]);
    }
}

/// Goal: a recall beyond the head has not happened: it is applied again, to a message that is still there.
#[test]
fn a_recall_beyond_the_head_has_not_happened() {
    for between in [0, 300] {
        let mut p = pair(fast());
        p.world.send(p.ada_session, &text(p.direct, 7, b"secret"));
        for request in 0..between {
            p.world.send(p.ada_session, &text(p.direct, 100 + request, b"more"));
            p.world.take(p.ada_session);
            p.world.take(p.bob_session);
        }
        p.world.torn_view = true;
        let recall = RecallMessage { request: 9, conversation: p.direct.raw(), known: u64::MAX, target: 2 };
        p.world.send(p.ada_session, &recall);
        p.world.restart(fast());
        let ada = p.world.open(p.ada);
        p.world.take(ada);
        p.world.send(ada, &recall);
        assert_eq!(acks(&p.world.take(ada)), [(9, u64::try_from(between).unwrap() + 3)]);
    }
}

/// Goal: rows of former members are bounded: nothing is ever removed from the view, and a group is loaded whole.
#[test]
fn a_group_with_too_many_former_members_takes_only_those_who_were_in() {
    let mut p = pair(tern_core_shard::Limits { members_max: 2, ..fast() });
    p.world.send(p.ada_session, &client::CreateGroup { request: 1, flags: group::OPEN, title: b"G", members: &[] });
    let conversation = ConversationId::group(p.ada, RequestId::from_raw(1)).raw();
    let users: Vec<_> = (0..8).map(|number| p.world.user(&format!("user.{number}"))).collect();
    let mut request = 1;
    let mut come_and_go = |user| {
        request += 2;
        let session = p.world.open(user);
        p.world.take(session);
        p.world.send(session, &JoinGroup { request, conversation });
        p.world.send(session, &LeaveGroup { request: request + 1, conversation });
        rejects(&p.world.take(session)).into_iter().map(|(_, code, _)| code).collect::<Vec<_>>()
    };
    for user in &users[..7] {
        assert_eq!(come_and_go(*user), []);
    }
    assert_eq!(come_and_go(users[7]).first(), Some(&RejectCode::GroupFull));
    assert_eq!(come_and_go(users[3]), []);
    assert_eq!(p.world.shard.counters().group_full, 1);
}
