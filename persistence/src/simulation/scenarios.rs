//! Power cuts that are told rather than drawn, and what a commit costs.

use super::power_cuts::{Plan, World};
use crate::sabotage::Sabotage;

/// Goal: a commit changes nothing but data: no length, no metadata of the file system.
/// Method: a node that serves without faults over many segments, and the syncs that had to write metadata while it did.
fn metadata_syncs(sabotage: Option<Sabotage>) -> u64 {
    let mut world = World::new(Plan { sabotage, ..Plan::of(1) });
    world.config.first_segment_size = world.config.segment_size;
    let mut node = world.open(false).expect("an empty disk");
    let before = world.disk.state().counts.of("metadata_syncs");
    world.work(&mut node, 2_000);
    world.rest(&mut node);
    let disk = world.disk.state();
    assert!(disk.counts.of("segments_reused") > 2, "wrapped around");
    disk.counts.of("metadata_syncs") - before
}

#[test]
fn a_commit_syncs_no_metadata() {
    assert_eq!(metadata_syncs(None), 0);
}

#[test]
fn zeros_that_are_not_synced_make_commits_sync_metadata() {
    assert!(metadata_syncs(Some(Sabotage::ZerosSync)) > 0);
}
