//! A shard that takes nothing, because what it needs is not in memory yet: everybody else goes on, and what is for it waits, bounded.

use std::time::Duration;

use tern_core_shard::io::AppendFailure;
use tern_protocol::PartitionId;

use super::{PARTITIONS, Rig};
use crate::State;
use crate::conformance::world::{Place, World, record};

const OF_0: PartitionId = PartitionId::from_raw(0);
const OF_1: PartitionId = PartitionId::from_raw(1);

fn small() -> Rig {
    Rig::tuned(|config| {
        config.append_queue_size_max = 128 * 1024;
        config.logged_queue_size_max = 64 * 1024;
        config.commit_slow = Duration::ZERO;
        // Nothing is stored here: a disk that syncs at once makes thousands of small batches.
        config.segments_max = 64;
    })
}

/// The actors of a partition's commands, in the order in which they were handed out.
fn actors(world: &World<'_, Rig>, partition: PartitionId) -> Vec<u64> {
    let of = world.logged.iter().filter(|(_, logged)| logged.partition == partition);
    of.map(|(_, logged)| logged.record.head.actor).collect()
}

/// Appends one command; what refuses it, once the shard's own queue is empty.
fn append(world: &mut World<'_, Rig>, partition: PartitionId, actor: u64) -> Result<(), AppendFailure> {
    if world.ends[1].append(partition, record(partition, actor)).is_ok() {
        world.turn();
        return Ok(());
    }
    world.wait_for("the journal to take what is queued", |world| world.running().counters().append_queue_size == 0);
    world.ends[1].append(partition, record(partition, actor)).map_err(|(_, failure)| failure)
}

/// Appends for a shard that takes nothing until more is refused; returns how many were accepted.
fn fill(world: &mut World<'_, Rig>, partition: PartitionId) -> u64 {
    let mut accepted = 0;
    let refused = loop {
        match append(world, partition, accepted) {
            Ok(()) => accepted += 1,
            Err(failure) => break failure,
        }
        assert!(accepted < 10_000, "what waits for a shard is bounded");
    };
    assert_eq!(refused, AppendFailure::Busy);
    accepted
}

/// Appends one command for the shard that takes everything. It may be refused while that shard has more than it has taken: its queue is
/// small here, and the journal is fast.
fn append_for_other(world: &mut World<'_, Rig>, actor: u64) {
    for _ in 0..100_000 {
        if append(world, OF_1, actor).is_ok() {
            return;
        }
        world.wait_for("the other shard to take what it has", |world| actors(world, OF_1).len() as u64 == actor);
        std::thread::yield_now();
    }
    panic!("a shard that has taken everything has room");
}

#[test]
fn a_shard_that_takes_nothing_holds_up_nobody_else() {
    let (rig, place) = (small(), Place::new("waits"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 2);
    world.ends[0].pause_commands(true);
    let accepted = fill(&mut world, OF_0);
    // Many times what any queue holds.
    for actor in 0..4_000 {
        append_for_other(&mut world, actor);
    }
    world.wait_for("the other shard's commands", |world| actors(world, OF_1).len() == 4_000);
    assert!(actors(&world, OF_0).is_empty(), "the shard was never asked to take anything");
    let refused = world.ends[1].append(OF_0, record(OF_0, accepted)).unwrap_err();
    assert_eq!(refused.1, AppendFailure::Busy, "still");
    world.ends[0].pause_commands(false);
    world.wait_for("what had been accepted", |world| actors(world, OF_0).len() as u64 == accepted);
    assert!(actors(&world, OF_0).into_iter().eq(0..accepted), "each once, in order");
    assert!(world.failed.is_empty(), "nothing that was accepted is refused afterwards");
    world.close();
}

#[test]
fn a_shard_that_takes_nothing_is_named_in_the_health_and_counted() {
    let (rig, place) = (small(), Place::new("named"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 2);
    assert_eq!(world.running().health().journal, State::Ok);
    world.ends[0].pause_commands(true);
    fill(&mut world, OF_0);
    let said = |world: &World<'_, Rig>| matches!(world.running().health().journal, State::Degraded(why) if why.contains("shard 0"));
    world.wait_for("the health to say it", said);
    assert_eq!(world.running().counters().shard_waits, 1);
    world.ends[0].pause_commands(false);
    world.wait_for("the health to be good again", |world| world.running().health().journal == State::Ok);
    world.close();
}

#[test]
fn what_waits_for_a_shard_is_replayed_only_as_far_as_it_was_durable() {
    let (rig, place) = (small(), Place::new("waits-crash"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 2);
    world.ends[0].pause_commands(true);
    let accepted = fill(&mut world, OF_0);
    world.crash();
    let world = World::open_caught_up(&rig, &place.0, PARTITIONS, 2);
    let replayed = actors(&world, OF_0);
    assert!(replayed.len() as u64 <= accepted && replayed.iter().copied().eq(0..replayed.len() as u64));
    world.crash();
}

/// Seven shards append at once for one that takes nothing: more than what has room was on its way when they were told.
#[test]
fn what_was_on_its_way_and_has_no_room_is_answered_as_busy() {
    let (rig, place) = (small(), Place::new("waits-many"));
    let mut world = World::open_caught_up(&rig, &place.0, 8, 8);
    world.ends[0].pause_commands(true);
    let gate = rig.faults.gate.lock().unwrap();
    let mut accepted = 0u64;
    for source in 1..8 {
        while world.ends[source].append(OF_0, record(OF_0, accepted)).is_ok() {
            accepted += 1;
        }
        world.ends[source].flush();
    }
    drop(gate);
    world.wait_for("refusals", |world| !world.failed.is_empty());
    assert!(world.failed.iter().all(|(_, failure)| *failure == AppendFailure::Busy));
    world.ends[0].pause_commands(false);
    let answered = |world: &World<'_, Rig>| actors(world, OF_0).len() + world.failed.len();
    world.wait_for("every answer", |world| answered(world) as u64 == accepted);
    world.close();
}
