//! A data directory that is taken away from a running store: it is noticed, named, and nothing more is accepted.

use tern_core_shard::io::AppendFailure;
use tern_protocol::PartitionId;

use super::{PARTITIONS, Rig};
use crate::State;
use crate::conformance::world::{Place, World, record};

const P: PartitionId = PartitionId::from_raw(1);

/// Takes something away from a running store and waits until it says what.
fn notices(name: &str, take_away: impl FnOnce(&std::path::Path)) {
    let (rig, place) = (Rig::new(), Place::new("away"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.append_all(0, P, 10);
    assert_eq!(world.running().failure(), None);
    take_away(&place.0);
    let said =
        |world: &World<'_, Rig>| matches!(world.running().health().journal, State::Failed(why) if why.contains(name));
    world.wait_for("the health to name it", said);
    assert!(world.running().failure().unwrap().contains(name));
    let refused = world.ends[0].append(P, record(P, 99)).unwrap_err();
    assert_eq!(refused.1, AppendFailure::Unavailable);
    world.crash();
}

#[test]
fn a_directory_that_is_moved_away_is_noticed_and_goes_on_where_it_is_put_back() {
    let elsewhere = Place::new("elsewhere");
    let (rig, place) = (Rig::new(), Place::new("moved"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.append_all(0, P, 10);
    std::fs::rename(&place.0, &elsewhere.0).unwrap();
    world.wait_for("it to be noticed", |world| world.running().failure().is_some());
    world.crash();
    assert!(!place.0.exists(), "no new beginning where the directory was");
    std::fs::rename(&elsewhere.0, &place.0).unwrap();
    let world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    assert_eq!(world.logged.len(), 10, "everything confirmed is there");
    world.close();
}

#[test]
fn each_piece_that_is_deleted_from_a_running_store_is_named() {
    notices("identity", |directory| std::fs::remove_file(directory.join("identity")).unwrap());
    notices("journal", |directory| std::fs::remove_dir_all(directory.join("journal")).unwrap());
    notices("view", |directory| std::fs::remove_dir_all(directory.join("view")).unwrap());
}

#[test]
fn a_piece_that_is_replaced_by_a_copy_is_named() {
    notices("replaced", |directory| {
        let (identity, copy) = (directory.join("identity"), directory.join("copy"));
        std::fs::copy(&identity, &copy).unwrap();
        std::fs::rename(&copy, &identity).unwrap();
    });
}
