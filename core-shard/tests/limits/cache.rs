//! The bytes of entities in memory stay within their limit: after a restart, and beside entities that cannot be dropped.

use tern_core_shard::Limits;
use tern_protocol::placement::Placement;
use tern_protocol::{ConversationId, RequestId, SessionId, UserId, client};

use super::fast;
use super::one_shard::{OneShard, PARTITIONS, acks, text};

/// Somebody with so many groups.
fn groups(world: &mut OneShard, owner: UserId, count: u128) -> Vec<ConversationId> {
    let session = world.open(owner);
    let create = |request| {
        world.send(session, &client::CreateGroup { request, flags: 0, title: b"g", members: &[] });
        world.take(session);
        ConversationId::group(owner, RequestId::from_raw(request))
    };
    (1..=count).map(create).collect()
}

fn look_at(world: &mut OneShard, session: SessionId, conversation: ConversationId) {
    let conversation = conversation.raw();
    world.send(session, &client::GetHistory { request: 9, conversation, anchor: u64::MAX, limit: 1, direction: 0 });
    world.take(session);
}

/// The limit, and room for what one input brings.
fn assert_bounded(world: &OneShard, limits: &Limits) {
    let counters = world.shard.counters();
    let bound = limits.cache_size_max as u64 * 3 / 2;
    assert!(counters.cache_size <= bound, "{} of {bound} bytes; {counters:?}", counters.cache_size);
}

#[test]
fn the_cache_is_bounded_after_a_restart_in_partitions_without_commands() {
    let mut world = OneShard::new(fast());
    let ada = world.user("ada");
    let groups = groups(&mut world, ada, 400);
    let limits = Limits { cache_size_max: 100_000, ..fast() };
    world.restart(limits.clone());
    let session = world.open(ada);
    world.take(session);
    assert_bounded(&world, &limits);
    for id in &groups {
        look_at(&mut world, session, *id);
    }
    assert_bounded(&world, &limits);
}

#[test]
fn entities_that_the_view_does_not_have_stay_and_do_not_keep_the_others() {
    let mut world = OneShard::new(fast());
    let ada = world.user("ada");
    let groups = groups(&mut world, ada, 400);
    let placement = Placement::new(PARTITIONS, 1);
    let slow = placement.of_conversation(groups[0]);
    let (unstored, others): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|id| placement.of_conversation(*id) == slow);
    let limits = Limits { cache_size_max: 100_000, ..fast() };
    world.restart(limits.clone());
    let session = world.open(ada);
    world.take(session);
    world.lagging_view.insert(slow);
    for id in &unstored[..40] {
        world.send(session, &text(*id, 77, b"not stored yet"));
        world.take(session);
    }
    for id in &others {
        look_at(&mut world, session, *id);
    }
    assert_bounded(&world, &limits);
    // And none of them was forgotten.
    for id in &unstored[..40] {
        world.send(session, &text(*id, 78, b"the next one"));
        assert_eq!(acks(&world.take(session)), [(78, 3)]);
    }
}
