//! Rules of the view: what is stored can be read, all or nothing, in key order, in pages.

use std::collections::BTreeMap;

use bytes::Bytes;
use tern_core_shard::io::{Order, Recent, Row, ViewQuery, ViewReply};
use tern_protocol::stored::{Entity, Part, entity_key};
use tern_protocol::{ConversationId, PartitionId, Seq, UserId};

use crate::conformance::world::{Place, World, event, record, row};
use crate::conformance::{Backend, End};

const PARTITION: PartitionId = PartitionId::from_raw(1);
const ROOM: ConversationId = ConversationId::WORLD;

fn entity<B: Backend>(
    world: &mut World<'_, B>,
    entity: Entity,
    events_max: usize,
) -> (Vec<(Bytes, Bytes)>, Vec<Bytes>) {
    match world.ask(ViewQuery::Entity { entity, recent: Recent::last(events_max) }) {
        ViewReply::Entity { rows, events } => (rows, events),
        other @ ViewReply::Events(_) => panic!("asked for an entity: {other:?}"),
    }
}

/// After `Stored`, a question sees the rows: the last value of each key, and nothing that was removed.
///
/// # Panics
/// When the backend breaks the rule.
pub fn rows_can_be_read_once_stored<B: Backend>(backend: &B) {
    let place = Place::new("stored");
    let user = Entity::User(UserId::from_raw(9));
    let prefix = entity_key(&user);
    let (main, device) = (Part::Main.key(&prefix), Part::Device(4).key(&prefix));
    let mut world = World::open_caught_up(backend, &place.0, 4, 2);
    world.append_all(0, PARTITION, 5);
    assert_eq!(entity(&mut world, user.clone(), 10), (Vec::new(), Vec::new()), "nothing is there yet");
    world.store(PARTITION, 1, vec![row(&main, Some("one")), row(&device, Some("phone")), row(&main, Some("two"))]);
    let rows = |main_value: &str| vec![(Bytes::from(main.clone()), Bytes::copy_from_slice(main_value.as_bytes()))];
    let both = [(Bytes::from(device.clone()), Bytes::from("phone")), rows("two").remove(0)];
    assert_eq!(entity(&mut world, user.clone(), 10).0, both, "in key order, the last value");
    world.store(PARTITION, 2, vec![row(&device, None), row(&main, Some("three"))]);
    assert_eq!(entity(&mut world, user.clone(), 10).0, rows("three"));
    world.store(PARTITION, 3, vec![row(&main, None), row(&main, Some("four"))]);
    assert_eq!(entity(&mut world, user.clone(), 10).0, rows("four"), "later rows of a command win");
    world.close();
    let mut world = World::open_caught_up(backend, &place.0, 4, 1);
    assert_eq!(entity(&mut world, user, 10).0, rows("four"), "also in the next run");
    world.close();
}

/// However a run ends, the view has the rows of exactly the commands that are not replayed.
///
/// # Panics
/// When the backend breaks the rule.
pub fn rows_and_checkpoint_move_together<B: Backend>(backend: &B) {
    let place = Place::new("atomic");
    let room = |partition: PartitionId| ConversationId::from_raw(u128::from(partition.raw()) + 1);
    for round in 0..4u64 {
        let mut world = World::open_caught_up(backend, &place.0, 4, 2);
        let mut first_replayed = BTreeMap::new();
        let mut last = BTreeMap::new();
        for (_, logged) in &world.logged {
            first_replayed.entry(logged.partition).or_insert(logged.position.raw());
            last.insert(logged.partition, logged.position.raw());
        }
        for raw in 0..4 {
            let partition = PartitionId::from_raw(raw);
            let events = world.events(room(partition));
            let expected = match first_replayed.get(&partition) {
                Some(first) => first - 1,
                None => round * 200,
            };
            assert_eq!(events.len() as u64, expected, "rows of {partition} up to its checkpoint, and none behind it");
        }
        for (_, logged) in std::mem::take(&mut world.logged) {
            store_event(&mut world, logged.partition, logged.position.raw(), room(logged.partition));
        }
        for raw in 0..4 {
            let partition = PartitionId::from_raw(raw);
            for actor in 0..200 {
                world.ends[0].append(partition, record(partition, actor)).expect("there is room");
            }
        }
        world.wait_for("commands to be durable", |world| world.logged.len() == 800);
        for (index, (_, logged)) in std::mem::take(&mut world.logged).into_iter().enumerate() {
            store_event(&mut world, logged.partition, logged.position.raw(), room(logged.partition));
            if index % 100 == 0 {
                world.turn();
            }
        }
        // In the middle of it.
        world.crash();
    }
}

fn store_event<B: Backend>(world: &mut World<'_, B>, partition: PartitionId, position: u64, room: ConversationId) {
    let owner = usize::from(partition.raw()) % world.ends.len();
    world.ends[owner].store(partition, tern_protocol::Position::from_raw(position), vec![event(room, position, 300)]);
}

/// Rows for a position that is already in the view are confirmed and change nothing.
///
/// # Panics
/// When the backend breaks the rule.
pub fn storing_twice_changes_nothing<B: Backend>(backend: &B) {
    let place = Place::new("twice");
    let account = Entity::Account("ada".into());
    let key = entity_key(&account);
    let mut world = World::open_caught_up(backend, &place.0, 4, 2);
    world.append_all(0, PARTITION, 2);
    world.store(PARTITION, 1, vec![row(&key, Some("first"))]);
    world.store(PARTITION, 2, vec![row(&key, Some("second"))]);
    for position in [1, 2] {
        world.stored.clear();
        world.store(PARTITION, position, vec![row(&key, Some("late"))]);
        let rows = entity(&mut world, account.clone(), 0).0;
        assert_eq!(rows, [(Bytes::from(key.clone()), Bytes::from("second"))]);
    }
    world.close();
    let world = World::open_caught_up(backend, &place.0, 4, 2);
    assert!(world.logged.is_empty(), "the checkpoint did not go back");
    world.close();
}

/// An entity is all rows under its key and no other's; a conversation comes with its newest events, ascending.
///
/// # Panics
/// When the backend breaks the rule.
pub fn an_entity_is_its_rows_and_its_newest_events<B: Backend>(backend: &B) {
    let place = Place::new("entity");
    let mut world = World::open_caught_up(backend, &place.0, 4, 2);
    world.append_all(0, PARTITION, 1);
    let (room, next) = (ConversationId::from_raw(0x01ff), ConversationId::from_raw(0x0200));
    let prefix = entity_key(&Entity::Conversation(room));
    let mut rows: Vec<Row> = (1..=10).map(|seq| event(room, seq, 50)).collect();
    rows.extend([event(next, 1, 50), event(ConversationId::from_raw(0x01fe), 77, 50)]);
    let members: Vec<Vec<u8>> = (1..=300).map(|user| Part::Member(UserId::from_raw(user)).key(&prefix)).collect();
    rows.extend(members.iter().map(|key| row(key, Some("member"))));
    rows.push(row(&Part::Main.key(&prefix), Some("room")));
    rows.push(row(&Part::Main.key(&entity_key(&Entity::Conversation(next))), Some("next")));
    rows.push(row(&entity_key(&Entity::Account("bob".into())), Some("bob")));
    rows.push(row(&entity_key(&Entity::Account("bobby".into())), Some("bobby")));
    world.store(PARTITION, 1, rows);

    let (found, events) = entity(&mut world, Entity::Conversation(room), 3);
    let mut keys = vec![Part::Main.key(&prefix)];
    keys.extend(members);
    assert!(found.iter().map(|(key, _)| &key[..]).eq(keys.iter().map(|key| &key[..])), "all its rows, in key order");
    let expected: Vec<_> = (8..=10).filter_map(|seq| event(room, seq, 50).value).collect();
    assert_eq!(events, expected, "the newest, ascending");
    assert_eq!(entity(&mut world, Entity::Conversation(room), 0).1.len(), 0);
    assert_eq!(entity(&mut world, Entity::Conversation(room), 1000).1.len(), 10);
    let bob = entity(&mut world, Entity::Account("bob".into()), 5);
    assert_eq!(bob, (vec![(Bytes::from("abob\0"), Bytes::from("bob"))], Vec::new()));
    assert_eq!(entity(&mut world, Entity::Account("bo".into()), 5), (Vec::new(), Vec::new()));
    world.close();
}

/// Pages are ascending, end at the size but have at least one event, and are counted from the wanted end.
///
/// # Panics
/// When the backend breaks the rule.
pub fn events_come_in_pages_from_either_end<B: Backend>(backend: &B) {
    let place = Place::new("pages");
    let mut world = World::open_caught_up(backend, &place.0, 4, 2);
    world.append_all(0, PARTITION, 1);
    world.store(PARTITION, 1, (1..=20).map(|seq| event(ROOM, seq, 100)).collect());
    let mut page = |from, to, size_max, order| {
        let (from, to) = (Seq::from_raw(from), Seq::from_raw(to));
        let query = ViewQuery::Events { conversation: ROOM, from, to, size_max, order };
        let ViewReply::Events(events) = world.ask(query) else { panic!("asked for events") };
        let seq = |value: Bytes| {
            (1..=20).find(|&seq| event(ROOM, seq, 100).value.as_ref() == Some(&value)).expect("an event as stored")
        };
        events.into_iter().map(seq).collect::<Vec<u64>>()
    };
    assert_eq!(page(3, 6, 10_000, Order::OldestFirst), [3, 4, 5, 6]);
    assert_eq!(page(3, 6, 10_000, Order::NewestFirst), [3, 4, 5, 6]);
    assert_eq!(page(3, 20, 350, Order::OldestFirst), [3, 4, 5]);
    assert_eq!(page(3, 20, 300, Order::NewestFirst), [18, 19, 20]);
    assert_eq!(page(3, 20, 0, Order::OldestFirst), [3]);
    assert_eq!(page(3, 20, 99, Order::NewestFirst), [20]);
    assert_eq!(page(0, u64::MAX, usize::MAX, Order::OldestFirst).len(), 20);
    assert_eq!(page(21, 30, 1000, Order::OldestFirst), [0; 0]);
    assert_eq!(page(9, 8, 1000, Order::NewestFirst), [0; 0]);
    world.close();
}
