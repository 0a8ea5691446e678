//! Segments are reused, never too early; when all are needed, shards are told to wait.

use tern_core_shard::io::AppendFailure;
use tern_protocol::PartitionId;

use super::{PARTITIONS, Rig, batches, segment_files};
use crate::State;
use crate::conformance::world::{Place, World, record};

const P: PartitionId = PartitionId::from_raw(1);

#[test]
fn segments_are_reused_many_times_and_the_rest_is_replayed_exactly() {
    let rig = Rig::tuned(|config| config.segments_max = 3);
    let place = Place::new("wraps");
    let mut last = 0;
    for _ in 0..3 {
        let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
        let replayed: Vec<_> = world.logged.iter().map(|(_, logged)| logged.position.raw()).collect();
        let expected: Vec<u64> = (last + 1 - 7.min(last)..=last).collect();
        assert_eq!(replayed, expected, "what was not stored, once, in order");
        for _ in 0..120 {
            world.append_all(0, P, 237);
            last += 237;
            world.store(P, last - 7, Vec::new());
        }
        world.crash();
    }
    let files = segment_files(&place.0);
    assert!(files.len() <= 3, "{files:?}");
    let generation = files.iter().flat_map(|file| batches(&place.0, file)).map(|(_, header)| header.generation).max();
    assert!(generation.unwrap() > 12, "wrapped around: {generation:?}");
}

#[test]
fn shards_are_told_to_wait_while_every_segment_is_needed() {
    let rig = Rig::tuned(|config| {
        config.segments_max = 2;
        config.append_queue_size_max = 128 * 1024;
    });
    let place = Place::new("needed");
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    let mut accepted = 0;
    let degraded = |world: &World<'_, Rig>| matches!(&world.running().health().journal, State::Degraded(why) if why.contains("every segment"));
    // Until the journal says that it has no room and the queue to it is full too.
    let mut busy = false;
    while !(busy && degraded(&world)) {
        match world.ends[0].append(P, record(P, accepted)) {
            Ok(()) => accepted += 1,
            Err((_, failure)) => {
                assert_eq!(failure, AppendFailure::Busy);
                busy = true;
            }
        }
        world.turn();
        assert!(accepted < 50_000, "told to wait in time");
    }
    let stuck = world.logged.len() as u64;
    assert!(stuck < accepted);
    world.store(P, stuck, Vec::new());
    world.wait_for("the rest", |world| world.logged.len() as u64 == accepted);
    assert_eq!(world.running().health().journal, State::Ok);
    world.close();
}

#[test]
fn a_shard_gets_nothing_new_while_too_many_of_its_rows_wait() {
    let rig = Rig::tuned(|config| config.store_queue_size_max = 0);
    let place = Place::new("held");
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    for actor in 0..20 {
        world.ends[0].append(P, record(P, actor)).unwrap();
    }
    for position in 1..=20 {
        world.wait_for("the next command", |world| world.logged.len() >= position);
        let taken = world.logged.len() as u64;
        world.ends[0].store(P, tern_protocol::Position::from_raw(taken), Vec::new());
        assert!(world.ends[0].counters().store_queue_size > 0);
        // Whatever comes before the confirmation, it is no command.
        while world.ends[0].counters().store_queue_size > 0 {
            let before = world.logged.len();
            world.poll_once(0);
            assert!(world.logged.len() == before, "held back");
            world.ends[0].flush();
        }
        if taken == 20 {
            break;
        }
    }
    world.close();
}
