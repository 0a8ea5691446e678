//! Who owns a group, and who may come back into it.

use bytes::Bytes;
use tern_core_shard::Limits;
use tern_protocol::server::{Event, MembersPage, event, role};
use tern_protocol::{ConversationId, RejectCode, RequestId, SessionId, UserId, client, frame};

use super::fast;
use super::one_shard::{OneShard, acks, rejects};

/// So many people who are online, and a group of the first one's with nobody else in it.
fn group(flags: u8, people: usize) -> (OneShard, Vec<(UserId, SessionId)>, ConversationId) {
    let mut world = OneShard::new(fast());
    let users: Vec<UserId> = (0..people).map(|number| world.user(&format!("user{number}"))).collect();
    let people: Vec<(UserId, SessionId)> = users.into_iter().map(|user| (user, world.open(user))).collect();
    world.send(people[0].1, &client::CreateGroup { request: 1, flags, title: b"G", members: &[] });
    let id = ConversationId::group(people[0].0, RequestId::from_raw(1));
    for (_, session) in &people {
        world.take(*session);
    }
    (world, people, id)
}

fn invite(world: &mut OneShard, request: u128, by: SessionId, group: ConversationId, users: &[UserId]) {
    let users: Vec<u64> = users.iter().map(|user| user.raw()).collect();
    world.send(by, &client::Invite { request, conversation: group.raw(), users: &users });
    world.take(by);
}

fn set_role(world: &mut OneShard, request: u128, by: SessionId, group: ConversationId, user: UserId, role: u8) {
    world.send(by, &client::SetRole { request, conversation: group.raw(), user: user.raw(), role });
    world.take(by);
}

/// The members and their roles, as one of them is told.
fn roles(world: &mut OneShard, asker: SessionId, group: ConversationId) -> Vec<(u64, u8)> {
    world.take(asker);
    world.send(asker, &client::GetMembers { request: 72, conversation: group.raw(), after: 0, limit: 100 });
    let frames = world.take(asker);
    let page = frames.iter().find_map(|bytes| frame::decode::<MembersPage<'_>>(bytes).ok()).expect("a page of members");
    page.members.iter().map(|member| (member.user.to_native(), member.role)).collect()
}

/// Kind, subject and role of the events among frames.
fn changes(frames: &[Bytes]) -> Vec<(u8, u64, u8)> {
    let events = frames.iter().filter_map(|bytes| frame::decode::<Event<'_>>(bytes).ok());
    events.map(|event| (event.kind, event.subject.to_native(), event.role)).collect()
}

#[test]
fn an_owner_who_leaves_is_succeeded_by_the_longest_standing_admin() {
    let (mut world, people, group) = group(0, 4);
    let [(_, ada), (bob, bob_session), (cyd, _), (dan, _)] = people[..] else { unreachable!() };
    invite(&mut world, 21, ada, group, &[bob]);
    invite(&mut world, 22, ada, group, &[dan]);
    invite(&mut world, 23, ada, group, &[cyd]);
    set_role(&mut world, 24, ada, group, cyd, role::ADMIN);
    set_role(&mut world, 25, ada, group, dan, role::ADMIN);
    world.take(bob_session);
    world.send(ada, &client::LeaveGroup { request: 80, conversation: group.raw() });
    let told = changes(&world.take(bob_session));
    assert_eq!(told, [(event::ROLE, dan.raw(), role::OWNER), (event::LEFT, people[0].0.raw(), 0)]);
    let mut expected = [(bob.raw(), role::MEMBER), (cyd.raw(), role::ADMIN), (dan.raw(), role::OWNER)];
    expected.sort_unstable();
    assert_eq!(roles(&mut world, bob_session, group), expected);
}

#[test]
fn without_an_admin_the_longest_standing_member_succeeds() {
    let (mut world, people, group) = group(0, 3);
    let [(_, ada), (bob, _), (cyd, cyd_session)] = people[..] else { unreachable!() };
    invite(&mut world, 26, ada, group, &[cyd]);
    invite(&mut world, 27, ada, group, &[bob]);
    world.send(ada, &client::LeaveGroup { request: 80, conversation: group.raw() });
    assert!(roles(&mut world, cyd_session, group).contains(&(cyd.raw(), role::OWNER)));
}

#[test]
fn requests_that_make_two_events_are_answered_with_the_second_also_after_a_restart() {
    let (mut world, people, group) = group(0, 3);
    let [(_, ada), (bob, bob_session), (cyd, _)] = people[..] else { unreachable!() };
    invite(&mut world, 28, ada, group, &[bob, cyd]);
    world.take(bob_session);
    let hand_over = client::SetRole { request: 80, conversation: group.raw(), user: bob.raw(), role: role::OWNER };
    let leave = client::LeaveGroup { request: 81, conversation: group.raw() };
    world.send(ada, &hand_over);
    world.send(bob_session, &leave);
    let first = (acks(&world.take(ada)), acks(&world.take(bob_session)));
    assert_eq!(first, (vec![(80, 5)], vec![(81, 7)]));
    world.restart(Limits::default());
    let (ada, bob_session) = (world.open(people[0].0), world.open(bob));
    world.send(ada, &hand_over);
    world.send(bob_session, &leave);
    assert_eq!((acks(&world.take(ada)), acks(&world.take(bob_session))), first);
}

#[test]
fn whoever_joins_a_group_that_everybody_left_owns_it() {
    let (mut world, people, group) = group(client::group::OPEN, 2);
    let [(_, ada), (bob, bob_session)] = people[..] else { unreachable!() };
    world.send(ada, &client::LeaveGroup { request: 80, conversation: group.raw() });
    world.send(bob_session, &client::JoinGroup { request: 81, conversation: group.raw() });
    assert_eq!(roles(&mut world, bob_session, group), [(bob.raw(), role::OWNER)]);
}

#[test]
fn nobody_removes_the_owner() {
    let (mut world, people, group) = group(0, 2);
    let [(ada, ada_session), (bob, bob_session)] = people[..] else { unreachable!() };
    invite(&mut world, 29, ada_session, group, &[bob]);
    set_role(&mut world, 30, ada_session, group, bob, role::ADMIN);
    world.take(bob_session);
    world.send(bob_session, &client::Kick { request: 80, conversation: group.raw(), user: ada.raw() });
    assert_eq!(rejects(&world.take(bob_session)), [(RequestId::from_raw(80), RejectCode::Forbidden, 0)]);
}

#[test]
fn who_was_removed_from_an_open_group_comes_back_by_invitation_only() {
    let (mut world, people, group) = group(client::group::OPEN, 2);
    let [(ada, ada_session), (bob, bob_session)] = people[..] else { unreachable!() };
    let join = |request| client::JoinGroup { request, conversation: group.raw() };
    world.send(bob_session, &join(80));
    world.send(bob_session, &client::LeaveGroup { request: 81, conversation: group.raw() });
    world.send(bob_session, &join(82));
    assert_eq!(acks(&world.take(bob_session)), [(80, 2), (81, 3), (82, 4)], "who left comes back as they like");
    world.send(ada_session, &client::Kick { request: 83, conversation: group.raw(), user: bob.raw() });
    world.take(bob_session);
    let refused = |request| vec![(RequestId::from_raw(request), RejectCode::NotFound, 0)];
    world.send(bob_session, &join(84));
    assert_eq!(rejects(&world.take(bob_session)), refused(84));
    world.restart(fast());
    let (ada_session, bob_session) = (world.open(ada), world.open(bob));
    world.take(bob_session);
    world.send(bob_session, &join(85));
    assert_eq!(rejects(&world.take(bob_session)), refused(85), "after a restart");
    invite(&mut world, 31, ada_session, group, &[bob]);
    assert_eq!(roles(&mut world, bob_session, group).len(), 2);
    world.send(bob_session, &client::LeaveGroup { request: 86, conversation: group.raw() });
    world.send(bob_session, &join(87));
    assert_eq!(acks(&world.take(bob_session)).len(), 2, "the invitation lifted it");
}
