//! Rules of the log: order, owners, replay, bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tern_core_shard::io::{AppendFailure, Input, Logged};
use tern_protocol::{PartitionId, Position, Timestamp};

use crate::conformance::world::{Chime, Place, World, record};
use crate::conformance::{Backend, Bounds, End, SMALL_MAX, Setup};

const PARTITIONS: u16 = 8;

/// Per partition: positions are dense from the first one, times never go back, the owner is told.
fn check_order(logged: &[(usize, Logged)], shards: usize) -> BTreeMap<PartitionId, (Position, Timestamp)> {
    let mut last = BTreeMap::<PartitionId, (Position, Timestamp)>::new();
    for (shard, logged) in logged {
        assert_eq!(usize::from(logged.partition.raw()) % shards, *shard, "{logged:?} belongs to its owner");
        if let Some((position, time)) = last.insert(logged.partition, (logged.position, logged.time)) {
            assert_eq!(logged.position, position.next(), "positions are dense");
            assert!(logged.time >= time, "times never go back");
        }
    }
    last
}

/// Whatever shard appends, the owner of the partition gets the command, as it was appended, in position order.
///
/// # Panics
/// When the backend breaks the rule.
pub fn commands_come_back_in_order_at_the_owner<B: Backend>(backend: &B) {
    let place = Place::new("order");
    let mut world = World::open_caught_up(backend, &place.0, PARTITIONS, 3);
    for actor in 0..600u64 {
        let partition = PartitionId::from_raw(u16::try_from(actor % u64::from(PARTITIONS)).expect("a remainder"));
        let shard = usize::try_from(actor % 3).expect("a remainder");
        world.ends[shard].append(partition, record(partition, actor)).expect("there is room");
        if actor % 50 == 0 {
            world.turn();
        }
    }
    world.wait_for("all commands", |world| world.logged.len() == 600);
    let last = check_order(&world.logged, 3);
    assert!(last.values().all(|(position, _)| position.raw() == 75), "{last:?}");
    let mut actors = BTreeSet::new();
    for (_, logged) in &world.logged {
        assert_eq!(logged.record, record(logged.partition, logged.record.head.actor), "as it was appended");
        actors.insert(logged.record.head.actor);
    }
    assert_eq!(actors.len(), 600, "each once");
    assert!(world.failed.is_empty());
    world.close();
}

/// A new run gets exactly the commands whose rows are not stored, before anything new, also with another number of shards.
///
/// # Panics
/// When the backend breaks the rule.
pub fn commands_after_the_checkpoint_are_replayed_and_no_others<B: Backend>(backend: &B) {
    let place = Place::new("replay");
    let (empty, half, full) = (PartitionId::from_raw(0), PartitionId::from_raw(1), PartitionId::from_raw(2));
    let mut world = World::open_caught_up(backend, &place.0, PARTITIONS, 2);
    for partition in [empty, half, full] {
        world.append_all(0, partition, 100);
    }
    world.store(half, 40, Vec::new());
    world.store(full, 100, Vec::new());
    let before = std::mem::take(&mut world.logged);
    world.close();

    for shards in [3, 1] {
        let mut world = World::open_caught_up(backend, &place.0, PARTITIONS, shards);
        world.turn();
        check_order(&world.logged, usize::from(shards));
        let replayed: BTreeMap<_, _> =
            world.logged.iter().map(|(_, logged)| ((logged.partition, logged.position), logged)).collect();
        assert_eq!(replayed.len(), world.logged.len(), "each once");
        let expected: BTreeMap<_, _> = before
            .iter()
            .map(|(_, logged)| logged)
            .filter(|logged| logged.partition == empty || logged.partition == half && logged.position.raw() > 40)
            .map(|logged| ((logged.partition, logged.position), logged))
            .collect();
        assert_eq!(replayed, expected, "what was not stored, as it was");
        let before_caught_up: usize = world.caught_up.iter().flatten().sum();
        assert_eq!(before_caught_up, expected.len(), "all of it before CaughtUp");
        world.crash();
    }
}

/// Positions go on where they were, and times do not go back, however the run before ended.
///
/// # Panics
/// When the backend breaks the rule.
pub fn positions_and_times_go_on_after_reopening<B: Backend>(backend: &B) {
    let place = Place::new("continue");
    let (kept, stored) = (PartitionId::from_raw(3), PartitionId::from_raw(4));
    let mut last_time = Timestamp::ZERO;
    for run in 0..4u64 {
        let mut world = World::open_caught_up(backend, &place.0, PARTITIONS, 2);
        world.logged.clear();
        for partition in [kept, stored] {
            world.append_all(1, partition, 10);
        }
        let times = world.logged.iter().map(|(_, logged)| logged.time);
        assert!(times.clone().all(|time| time >= last_time), "times go on");
        last_time = times.max().expect("there are some");
        let last = check_order(&world.logged, 2);
        let position = (run + 1) * 10;
        assert!(last.values().all(|(at, _)| at.raw() == position), "positions go on: {last:?}");
        world.store(stored, position, Vec::new());
        if run % 2 == 0 { world.crash() } else { world.close() }
    }
}

/// A shard that takes nothing is told to wait before memory is spent; what was accepted is durable all the same.
///
/// # Panics
/// When the backend breaks the rule.
pub fn a_full_queue_says_busy_and_loses_nothing<B: Backend>(backend: &B) {
    let place = Place::new("busy");
    let mut world = World::open_with(backend, &place.0, PARTITIONS, 1, Bounds::Small);
    let partition = PartitionId::from_raw(5);
    let mut accepted = 0u64;
    let refused = loop {
        match world.ends[0].append(partition, record(partition, accepted)) {
            Ok(()) => accepted += 1,
            Err(refused) => break refused,
        }
        world.ends[0].flush();
        assert!(accepted < SMALL_MAX as u64, "told to wait in time");
    };
    assert_eq!(refused, (record(partition, accepted), AppendFailure::Busy), "the record comes back");
    world.wait_for("what was accepted", |world| world.logged.len() as u64 == accepted);
    check_order(&world.logged, 1);
    let accepted_before = accepted;
    while accepted < accepted_before + 10 {
        match world.ends[0].append(partition, record(partition, accepted)) {
            Ok(()) => accepted += 1,
            Err((_, failure)) => assert_eq!(failure, AppendFailure::Busy),
        }
        world.turn();
    }
    world.wait_for("the rest", |world| world.logged.len() as u64 == accepted);
    let actors = world.logged.iter().map(|(_, logged)| logged.record.head.actor);
    assert!(actors.eq(0..accepted), "each once, in the order of one shard's appends");
    world.close();
}

/// Shards on their own threads, each appending to all partitions.
///
/// # Panics
/// When the backend breaks the rule.
pub fn many_shards_append_at_once<B: Backend>(backend: &B) {
    const SHARDS: u16 = 4;
    const EACH: u64 = 3000;
    let place = Place::new("many");
    let setup = Setup { directory: place.0.clone(), partitions: PARTITIONS, shards: SHARDS, bounds: Bounds::Default };
    let chimes: Vec<Arc<Chime>> = (0..SHARDS).map(|_| Arc::default()).collect();
    let (ends, running) = backend.open(&setup, chimes.iter().map(Chime::bell).collect());
    let total = usize::try_from(EACH).expect("small") * usize::from(SHARDS);
    let taken = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = ends
        .into_iter()
        .zip(chimes)
        .enumerate()
        .map(|(shard, (end, chime))| {
            let taken = Arc::clone(&taken);
            std::thread::spawn(move || run_shard(shard, end, &chime, EACH, total, &taken))
        })
        .collect();
    let mut logged: Vec<(usize, Logged)> = Vec::new();
    for thread in threads {
        logged.extend(thread.join().expect("the shard's thread"));
    }
    let last = check_order(&logged, usize::from(SHARDS));
    assert_eq!(last.values().map(|(position, _)| position.raw()).sum::<u64>(), total as u64, "all of them");
    let distinct: BTreeSet<_> = logged.iter().map(|(_, l)| (l.record.head.device, l.record.head.actor)).collect();
    assert_eq!(distinct.len(), total, "each once");
    backend.close(running);
}

/// One shard's thread: appends its share, stores what it is told, ends when all shards together were told everything.
fn run_shard<E: End>(
    shard: usize,
    mut end: E,
    chime: &Chime,
    each: u64,
    total: usize,
    taken: &AtomicUsize,
) -> Vec<(usize, Logged)> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut logged = Vec::new();
    let mut next = 0;
    while taken.load(Ordering::SeqCst) < total {
        assert!(Instant::now() < deadline, "waited in vain for {total} commands");
        for _ in 0..64 {
            if next == each {
                break;
            }
            let partition = PartitionId::from_raw(u16::try_from(next % u64::from(PARTITIONS)).expect("a remainder"));
            let mut command = record(partition, next);
            command.head.device = shard as u64;
            match end.append(partition, command) {
                Ok(()) => next += 1,
                Err((_, failure)) => {
                    assert_eq!(failure, AppendFailure::Busy);
                    break;
                }
            }
        }
        let before = logged.len();
        while let Some(input) = end.poll() {
            if let Input::Logged(command) = input {
                end.store(command.partition, command.position, Vec::new());
                logged.push((shard, command));
            }
        }
        end.flush();
        taken.fetch_add(logged.len() - before, Ordering::SeqCst);
        if next == each {
            chime.wait();
        }
    }
    logged
}
