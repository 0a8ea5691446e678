//! Disks that fail: what was not confirmed is said to be unknown, nothing is synced twice, space that returns is used.

use std::sync::atomic::Ordering;

use rustix::io::Errno;
use tern_core_shard::io::{AppendFailure, Recent, ViewQuery, ViewReply};
use tern_protocol::PartitionId;
use tern_protocol::stored::Entity;

use super::{PARTITIONS, Rig};
use crate::State;
use crate::conformance::world::{Place, World, record};

const P: PartitionId = PartitionId::from_raw(1);

#[test]
fn after_a_failed_sync_nothing_is_confirmed_and_nothing_accepted_until_a_restart() {
    for of_write in [true, false] {
        let (rig, place) = (Rig::new(), Place::new("eio"));
        let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 2);
        world.append_all(0, P, 10);
        let fault = if of_write { &rig.faults.write } else { &rig.faults.sync };
        fault.store(Errno::IO.raw_os_error(), Ordering::SeqCst);
        for actor in 0..3 {
            world.ends[0].append(P, record(P, actor)).unwrap();
        }
        world.wait_for("the failure", |world| world.failed.len() == 3);
        assert!(world.failed.iter().any(|(_, failure)| *failure == AppendFailure::Unknown));
        assert_eq!(world.logged.len(), 10, "nothing unconfirmed was handed out");
        // The fault passes, the journal does not believe it.
        fault.store(0, Ordering::SeqCst);
        let refused = world.ends[1].append(P, record(P, 9)).unwrap_err();
        assert_eq!(refused.1, AppendFailure::Unavailable);
        assert!(matches!(world.running().health().journal, State::Failed(why) if why.contains("0001.seg")));
        let user = Entity::User(tern_protocol::UserId::from_raw(1));
        let reply = world.ask(ViewQuery::Entity { entity: user, recent: Recent::last(0) });
        assert!(matches!(reply, ViewReply::Entity { .. }), "reads go on");
        world.crash();
        let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 2);
        let replayed = world.logged.len();
        assert!(replayed >= 10, "everything confirmed is there");
        world.append_all(1, P, 5);
        world.close();
    }
}

#[test]
fn what_was_never_synced_is_made_durable_or_not_handed_out_after_a_restart() {
    let (rig, place) = (Rig::new(), Place::new("unsynced"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.append_all(0, P, 10);
    rig.faults.sync.store(Errno::IO.raw_os_error(), Ordering::SeqCst);
    world.ends[0].append(P, record(P, 0)).unwrap();
    world.wait_for("the failure", |world| world.failed.len() == 1);
    world.crash();
    let error = rig.try_open(&place.0).unwrap_err().to_string();
    assert!(error.contains("0001.seg") && error.contains("durable"), "the disk still cannot sync: {error}");
    rig.faults.sync.store(0, Ordering::SeqCst);
    assert_eq!(rig.try_open(&place.0).unwrap().replayed, 11, "written and synced again");
}

#[test]
fn a_full_disk_is_said_clearly_and_space_that_returns_is_used() {
    let (rig, place) = (Rig::new(), Place::new("enospc"));
    rig.faults.allocate.store(0, Ordering::SeqCst);
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    rig.faults.allocate.store(Errno::NOSPC.raw_os_error(), Ordering::SeqCst);
    let mut accepted = 0;
    while world.failed.is_empty() {
        if world.ends[0].append(P, record(P, accepted)).is_ok() {
            accepted += 1;
        }
        world.turn();
        assert!(accepted < 100_000, "the segments have an end");
    }
    assert!(world.failed.iter().all(|(_, failure)| *failure == AppendFailure::Unavailable), "certainly not stored");
    assert!(matches!(world.running().health().journal, State::Degraded(why) if why.contains("space")));
    world.wait_for("every answer", |world| world.logged.len() + world.failed.len() == accepted as usize);
    rig.faults.allocate.store(0, Ordering::SeqCst);
    let before = world.logged.len();
    world.wait_for("space to be noticed", |world| world.running().health().journal == State::Ok);
    world.append_all(0, P, 10);
    let positions: Vec<_> = world.logged.iter().map(|(_, logged)| logged.position.raw()).collect();
    assert!(positions.into_iter().eq(1..=before as u64 + 10), "what was refused has no position");
    world.close();
}

#[test]
fn nothing_is_accepted_while_the_disk_is_nearly_full() {
    let rig = Rig::tuned(|config| config.free_space_min = u64::MAX / 16);
    let place = Place::new("nearly");
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    let refused = world.ends[0].append(P, record(P, 0)).unwrap_err();
    assert_eq!(refused.1, AppendFailure::Unavailable);
    let health = world.running().health();
    assert!(matches!(health.journal, State::Degraded(_)) && matches!(health.view, State::Degraded(_)));
    world.crash();
}

#[test]
fn a_sync_that_takes_long_fills_the_queue_and_shows_in_the_health() {
    let rig = Rig::tuned(|config| {
        config.append_queue_size_max = 128 * 1024;
        config.commit_slow = std::time::Duration::ZERO;
    });
    let place = Place::new("slow");
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.append_all(0, P, 1);
    let gate = rig.faults.gate.lock().unwrap();
    let mut accepted = 1;
    let refused = loop {
        match world.ends[0].append(P, record(P, accepted)) {
            Ok(()) => accepted += 1,
            Err((_, failure)) => break failure,
        }
        world.turn();
        assert!(accepted < 10_000, "the queue has an end");
    };
    assert_eq!(refused, AppendFailure::Busy);
    assert_eq!(world.logged.len(), 1, "nothing is handed out before its sync is done");
    world.wait_for(
        "the health to show it",
        |world| matches!(world.running().health().journal, State::Degraded(why) if why.contains("has taken")),
    );
    drop(gate);
    world.wait_for("the rest", |world| world.logged.len() as u64 == accepted);
    assert!(world.running().counters().refused_busy > 0);
    world.close();
}
