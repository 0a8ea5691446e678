//! Pieces that are missing, emptied, older than they should be, or another directory's: each is refused by name, never begun anew.
//! A first start that was interrupted is no such thing.

use std::path::{Path, PathBuf};

use tern_protocol::PartitionId;

use super::{PARTITIONS, Rig, batches, segment_files};
use crate::OpenError;
use crate::conformance::world::{Place, World, record};

const P: PartitionId = PartitionId::from_raw(1);

/// A journal of some segments, of which the view has the first commands.
fn written(rig: &Rig, place: &Place) -> u64 {
    let mut world = World::open_caught_up(rig, &place.0, PARTITIONS, 1);
    for _ in 0..400 {
        world.append_all(0, P, 10);
    }
    world.store(P, 40, Vec::new());
    let count = world.logged.len() as u64;
    world.crash();
    count
}

/// Oldest first.
fn by_age(place: &Place) -> Vec<PathBuf> {
    let mut files = segment_files(&place.0);
    files.retain(|file| !batches(&place.0, file).is_empty());
    files.sort_by_key(|file| batches(&place.0, file)[0].1.generation);
    files
}

#[track_caller]
fn refused(rig: &Rig, place: &Place, name: &str) -> OpenError {
    for _ in 0..2 {
        let text = rig.try_open(&place.0).unwrap_err().to_string();
        assert!(text.contains(name), "{name} is not in: {text}");
    }
    rig.try_open(&place.0).unwrap_err()
}

#[test]
fn a_newest_segment_that_is_missing_or_empty_is_missed() {
    let take_aways: [fn(&Path); 3] = [
        |file| std::fs::remove_file(file).unwrap(),
        |file| std::fs::write(file, "").unwrap(),
        |file| std::fs::write(file, vec![0; 512 * 1024]).unwrap(),
    ];
    for take_away in take_aways {
        let (rig, place) = (Rig::new(), Place::new("newest"));
        let count = written(&rig, &place);
        let files = by_age(&place);
        let [.., before, newest] = &files[..] else { panic!("several segments: {files:?}") };
        let kept = std::fs::read(newest).unwrap();
        take_away(newest);
        let name = before.file_name().unwrap().to_string_lossy().into_owned();
        let error = refused(&rig, &place, &name);
        assert!(matches!(error, OpenError::SegmentMissing { .. }), "{error}");
        std::fs::write(newest, kept).unwrap();
        let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
        world.append_all(0, P, 1);
        assert_eq!(world.logged.last().unwrap().1.position.raw(), count + 1, "put back, it goes on");
        world.close();
    }
}

#[test]
fn a_journal_without_segments_is_missed_also_while_the_view_has_nothing() {
    let (rig, place) = (Rig::new(), Place::new("no-segments"));
    World::open_caught_up(&rig, &place.0, PARTITIONS, 1).crash();
    std::fs::remove_dir_all(place.0.join("journal")).unwrap();
    let error = refused(&rig, &place, "journal");
    assert!(matches!(error, OpenError::JournalMissing { .. }), "{error}");
}

#[test]
fn a_segment_of_another_directory_is_refused_and_not_overwritten() {
    let (rig, place, other) = (Rig::new(), Place::new("mine"), Place::new("theirs"));
    written(&rig, &place);
    written(&rig, &other);
    let foreign = by_age(&other).remove(0);
    let to = place.0.join("journal/0077.seg");
    std::fs::copy(&foreign, &to).unwrap();
    let error = refused(&rig, &place, "0077.seg");
    assert!(matches!(error, OpenError::Malformed { .. }), "{error}");
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&foreign).unwrap(), "nothing was changed");
    std::fs::remove_file(&to).unwrap();
    rig.try_open(&place.0).unwrap();
}

#[test]
fn a_journal_that_is_older_than_its_view_is_refused() {
    let (rig, place) = (Rig::new(), Place::new("older"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.append_all(0, P, 100);
    world.crash();
    let segment = segment_files(&place.0).remove(0);
    let older = std::fs::read(&segment).unwrap();
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.append_all(0, P, 50);
    world.store(P, 150, Vec::new());
    world.close();
    let newer = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, older).unwrap();
    let error = refused(&rig, &place, "journal");
    assert!(matches!(error, OpenError::JournalOlder { partition: 1, found: 100, applied: 150, .. }), "{error}");
    std::fs::write(&segment, newer).unwrap();
    rig.try_open(&place.0).unwrap();
}

#[test]
fn a_first_start_that_was_interrupted_is_begun_again() {
    let (rig, place) = (Rig::new(), Place::new("interrupted"));
    World::open_caught_up(&rig, &place.0, PARTITIONS, 1).close();
    let identity = place.0.join("identity");
    let unmade = std::fs::read_to_string(&identity).unwrap().replace("made = true", "made = false");
    for piece in ["journal", "view", "view/version", "view/keyspaces/0", "view/keyspaces/1", "nothing"] {
        std::fs::write(&identity, &unmade).unwrap();
        let path = place.0.join(piece);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).ok();
        }
        let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
        world.append_all(0, P, 1);
        assert_eq!(world.logged[0].1.position.raw(), 1, "without {piece}");
        world.close();
        assert!(std::fs::read_to_string(&identity).unwrap().contains("made = true"));
        assert!(rig.try_open(&place.0).unwrap().batches >= 2, "and kept from then on");
    }
}

/// The closing is durable before anything of the next segment is handed out.
#[test]
fn every_segment_but_the_newest_says_that_another_one_followed() {
    let (rig, place) = (Rig::new(), Place::new("closings"));
    written(&rig, &place);
    let mut files = by_age(&place);
    assert!(files.len() > 2);
    files.pop();
    for file in files {
        let (_, last) = *batches(&place.0, &file).last().unwrap();
        assert_eq!(last.kind, crate::journal::batch::Kind::Closing, "{}", file.display());
    }
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.ends[0].append(P, record(P, 1)).unwrap();
    world.close();
}
