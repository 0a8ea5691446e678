//! Directories that are not opened, each with a text that names the file and says what to do.

use tern_protocol::PartitionId;

use super::{PARTITIONS, Rig, segment_files};
use crate::conformance::world::{Place, World};
use crate::{Bell, Clock, EmbeddedConfig, OpenError, open};

const P: PartitionId = PartitionId::from_raw(1);

fn bell() -> Bell {
    std::sync::Arc::new(|| {})
}

#[test]
fn a_second_process_is_told_about_the_first() {
    let (rig, place) = (Rig::new(), Place::new("locked"));
    let world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    let error = rig.try_open(&place.0).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
    world.close();
    rig.try_open(&place.0).unwrap();
}

#[test]
fn another_number_of_partitions_is_refused() {
    let (rig, place) = (Rig::new(), Place::new("partitions"));
    rig.try_open(&place.0).unwrap();
    let error = open(rig.config(&place.0, PARTITIONS + 1, 1), vec![bell()], Clock::start()).unwrap_err();
    assert!(matches!(error, OpenError::PartitionsDiffer { stored: 4, configured: 5, .. }), "{error}");
    assert!(error.to_string().contains("set partitions = 4"), "{error}");
}

#[test]
fn data_of_a_later_version_is_refused() {
    let (rig, place) = (Rig::new(), Place::new("newer"));
    rig.try_open(&place.0).unwrap();
    let identity = place.0.join("identity");
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, text.replace("format = 2", "format = 3")).unwrap();
    let error = rig.try_open(&place.0).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 3, supported: 2, .. }), "{error}");
    std::fs::write(&identity, "").unwrap();
    let error = rig.try_open(&place.0).unwrap_err();
    assert!(matches!(error, OpenError::Malformed { .. }), "{error}");
    std::fs::remove_file(&identity).unwrap();
    let error = rig.try_open(&place.0).unwrap_err();
    assert!(error.to_string().contains("identity"), "{error}");
}

#[test]
fn a_view_without_its_journal_is_refused() {
    let (rig, place) = (Rig::new(), Place::new("no-journal"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.append_all(0, P, 3);
    world.store(P, 3, Vec::new());
    world.close();
    for file in segment_files(&place.0) {
        std::fs::remove_file(file).unwrap();
    }
    let error = rig.try_open(&place.0).unwrap_err();
    assert!(matches!(error, OpenError::JournalMissing { .. }), "{error}");
}

#[test]
fn a_view_that_lacks_what_the_journal_has_reused_is_refused() {
    let rig = Rig::tuned(|config| config.segments_max = 2);
    let place = Place::new("history");
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    for round in 1..=80 {
        world.append_all(0, P, 200);
        world.store(P, round * 200, Vec::new());
    }
    world.close();
    std::fs::remove_dir_all(place.0.join("view")).unwrap();
    for _ in 0..2 {
        let error = rig.try_open(&place.0).unwrap_err();
        assert!(matches!(error, OpenError::HistoryLost { partition: 1, applied: 0, .. }), "{error}");
    }
}

#[test]
fn settings_that_cannot_work_are_named() {
    let place = Place::new("settings");
    let mut config = EmbeddedConfig::new(&place.0, PARTITIONS, 1);
    config.batch_size_max = 1000;
    let error = open(config, vec![bell()], Clock::start()).unwrap_err();
    assert_eq!(error.to_string(), "storage setting batch_size_max must be 128 KiB to 4 MiB");
    let error = open(EmbeddedConfig::new(&place.0, PARTITIONS, 2), vec![bell()], Clock::start()).unwrap_err();
    assert!(matches!(error, OpenError::Config { field: "bells", .. }), "{error}");
    assert!(!place.0.exists(), "nothing was created");
}

#[test]
fn a_directory_that_cannot_be_created_is_named() {
    let place = Place::new("file");
    std::fs::write(&place.0, "not a directory").unwrap();
    let error = Rig::new().try_open(&place.0.join("data")).unwrap_err();
    assert!(error.to_string().contains("tern-file") && error.to_string().contains("check disk"), "{error}");
    std::fs::remove_file(&place.0).unwrap();
}
