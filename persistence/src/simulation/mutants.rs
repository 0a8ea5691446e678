//! Proof that the checker notices: one mechanism is switched off, and the promise that it holds must be reported as broken.
//! The same seed with the mechanism on is clean, so that it is the mechanism that was noticed.

use super::power_cuts::{Plan, World};
use crate::sabotage::Sabotage;

/// Seeds tried before a mechanism counts as unnoticed.
const SEEDS_MAX: u64 = 3_000;

fn notices(mechanism: Sabotage, promises: &[&str]) {
    notices_in(mechanism, promises, Plan::of);
}

fn notices_in(mechanism: Sabotage, promises: &[&str], plan: impl Fn(u64) -> Plan) {
    let mut found = Vec::new();
    for seed in 1..=SEEDS_MAX {
        let broken = World::play(Plan { sabotage: Some(mechanism), ..plan(seed) }).violations;
        if broken.iter().any(|violation| promises.contains(&violation.promise)) {
            let clean = World::play(plan(seed)).violations;
            assert!(clean.is_empty(), "seed {seed}, with the mechanism on: {clean:#?}");
            return;
        }
        found.extend(broken);
    }
    panic!("{SEEDS_MAX} seeds without {mechanism:?}, and {promises:?} was never reported, but {found:#?}");
}

#[test]
fn commands_handed_out_without_a_sync_are_noticed() {
    notices(Sabotage::Sync, &["M2"]);
}

#[test]
fn a_failed_sync_that_is_tried_again_and_believed_is_noticed() {
    notices(Sabotage::SyncOnce, &["M2", "M13"]);
}

#[test]
fn a_last_batch_that_is_handed_out_as_it_was_read_is_noticed() {
    notices(Sabotage::WriteAgain, &["M2"]);
}

#[test]
fn a_segment_whose_name_is_not_synced_is_noticed() {
    notices(Sabotage::SegmentName, &["M2", "M13"]);
}

#[test]
fn names_that_an_interrupted_start_left_in_the_cache_are_noticed() {
    notices_in(Sabotage::NamesAtStart, &["M2", "M13"], |seed| Plan { beginnings: true, ..Plan::of(seed) });
}

#[test]
fn a_data_directory_without_a_durable_name_is_noticed() {
    notices(Sabotage::NamesAbove, &["M2"]);
}

#[test]
fn segments_used_again_too_early_are_noticed() {
    notices(Sabotage::Covers, &["M13"]);
}

#[test]
fn an_old_batch_taken_for_the_next_one_is_noticed() {
    notices(Sabotage::BatchOrder, &["M1", "M2", "M13"]);
}

#[test]
fn log_time_that_runs_backwards_is_noticed() {
    notices(Sabotage::LogTime, &["M1"]);
}
