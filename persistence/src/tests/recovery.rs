//! What a crash or a bad disk leaves is read back, cut, or refused; never served wrong, never silently lost.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tern_core_shard::io::Record;
use tern_protocol::{PartitionId, Timestamp};

use super::{PARTITIONS, Rig, batches, damage, segment_files};
use crate::conformance::world::{Place, World, event, record};
use crate::{Clock, OpenError};

const P: PartitionId = PartitionId::from_raw(1);

/// A journal of one segment with this many times 100 commands; returns how many commands.
fn written(rig: &Rig, place: &Place, count: u64) -> u64 {
    let mut world = World::open_caught_up(rig, &place.0, PARTITIONS, 1);
    for _ in 0..count {
        world.append_all(0, P, 100);
    }
    world.crash();
    count * 100
}

/// Opens a damaged journal: `expected` commands are there, what came after is cut; appending goes on from there, twice.
fn is_cut_at(rig: &Rig, place: &Place, expected: u64, offset: u64) {
    let report = rig.try_open(&place.0).unwrap();
    let cut = report.cut.expect("the cut is reported");
    assert_eq!(cut.offset, offset);
    assert_eq!(report.replayed, expected);
    for round in 1..=2 {
        let mut world = World::open_caught_up(rig, &place.0, PARTITIONS, 1);
        let before = expected + (round - 1) * 5;
        assert_eq!(world.logged.len() as u64, before, "nothing more, nothing less");
        world.append_all(0, P, 5);
        assert_eq!(world.logged.last().unwrap().1.position.raw(), before + 5);
        world.crash();
    }
    assert_eq!(rig.try_open(&place.0).unwrap().cut, None, "said once");
}

#[test]
fn a_torn_last_batch_is_cut_and_reported() {
    let (rig, place) = (Rig::new(), Place::new("torn"));
    let total = written(&rig, &place, 3) + 1;
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    let big = Record { frame: Bytes::from(vec![b'x'; 20_000]), ..record(P, 1) };
    world.ends[0].append(P, big).unwrap();
    world.wait_for("it to be durable", |world| world.logged.len() as u64 == total);
    world.crash();
    let segment = segment_files(&place.0).remove(0);
    let (offset, header) = *batches(&place.0, &segment).last().unwrap();
    assert!(header.padded_size() > 4096, "a batch that can be torn");
    damage(&segment, |bytes| bytes[offset as usize + 4096..offset as usize + header.padded_size()].fill(0));
    is_cut_at(&rig, &place, total - u64::from(header.count), offset);
}

#[test]
fn a_flipped_bit_anywhere_in_the_last_batch_cuts_it() {
    for at in [0, 9, 13, 17, 25, 33, 37, 60, 64, 70, 1000] {
        let (rig, place) = (Rig::new(), Place::new("flip"));
        let total = written(&rig, &place, 3);
        let segment = segment_files(&place.0).remove(0);
        let (offset, header) = *batches(&place.0, &segment).last().unwrap();
        damage(&segment, |bytes| bytes[offset as usize + at] ^= 4);
        is_cut_at(&rig, &place, total - u64::from(header.count), offset);
    }
}

#[test]
fn damage_before_valid_commands_that_are_needed_refuses_to_start() {
    let (rig, place) = (Rig::new(), Place::new("middle"));
    written(&rig, &place, 8);
    let segment = segment_files(&place.0).remove(0);
    let all = batches(&place.0, &segment);
    let (offset, _) = all[all.len() / 2];
    damage(&segment, |bytes| bytes[offset as usize + 100] ^= 1);
    let before = std::fs::read(&segment).unwrap();
    let error = rig.try_open(&place.0).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(&error, OpenError::Corrupted { file, offset: at, .. } if *file == segment && *at == offset),
        "{text}"
    );
    assert!(text.contains("0001.seg") && text.contains("backup"), "says which file and what to do: {text}");
    assert_eq!(std::fs::read(&segment).unwrap(), before, "nothing was changed");
}

#[test]
fn damage_to_commands_that_the_view_has_is_reported_and_skipped() {
    let (rig, place) = (Rig::new(), Place::new("covered"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    for _ in 0..6 {
        world.append_all(0, P, 30);
    }
    world.store(P, 180, Vec::new());
    world.append_all(0, P, 7);
    world.close();
    let segment = segment_files(&place.0).remove(0);
    let (offset, _) = batches(&place.0, &segment)[3];
    damage(&segment, |bytes| bytes[offset as usize..offset as usize + 4096].fill(0));
    let report = rig.try_open(&place.0).unwrap();
    assert_eq!(report.damaged, [(segment, offset)]);
    assert_eq!(report.replayed, 7);
}

#[test]
fn damage_to_the_last_commands_of_one_partition_is_not_hidden_by_another() {
    let (rig, place) = (Rig::new(), Place::new("hidden"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.append_all(0, P, 10);
    world.append_all(0, PartitionId::from_raw(2), 1);
    world.append_all(0, P, 10);
    world.crash();
    let segment = segment_files(&place.0).remove(0);
    let alone = batches(&place.0, &segment).into_iter().rev().find(|(_, header)| header.count == 1).unwrap();
    // The only batch with a command of partition 2: no later position shows that it is missing.
    damage(&segment, |bytes| bytes[alone.0 as usize + 80] ^= 1);
    let error = rig.try_open(&place.0).unwrap_err();
    assert!(matches!(error, OpenError::Corrupted { offset, .. } if offset == alone.0), "{error}");
}

#[test]
fn a_damaged_opening_of_the_newest_segment_is_not_taken_for_a_free_segment() {
    let (rig, place) = (Rig::new(), Place::new("opening"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    for _ in 0..60 {
        world.append_all(0, P, 30);
    }
    world.crash();
    let newest = segment_files(&place.0)
        .into_iter()
        .max_by_key(|path| batches(&place.0, path).iter().map(|(_, header)| header.generation).max())
        .unwrap();
    damage(&newest, |bytes| bytes[75] ^= 1);
    let error = rig.try_open(&place.0).unwrap_err();
    assert!(matches!(&error, OpenError::Corrupted { file, offset: 0, .. } if *file == newest), "{error}");
}

/// Copies page by page from the end: like a crash, it has nothing newer without what is older.
fn copy_backwards(from: &Path, to: &Path) {
    let (from, to) = (File::open(from).unwrap(), File::create(to).unwrap());
    let mut page = [0; 4096];
    for page_index in (0..from.metadata().unwrap().len() / 4096).rev() {
        let at = page_index * 4096;
        from.read_exact_at(&mut page, at).unwrap();
        to.write_all_at(&page, at).unwrap();
    }
}

#[test]
fn a_copy_of_the_journal_at_any_moment_has_everything_that_was_handed_out() {
    let (rig, place, copies) =
        (Rig::tuned(|config| config.segments_max = 64), Place::new("copied"), Place::new("copies"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 2);
    let durable = AtomicU64::new(0);
    let taken = std::thread::scope(|scope| {
        let copier = scope.spawn(|| {
            let mut taken = Vec::new();
            while taken.len() < 6 {
                let promised = durable.load(Ordering::SeqCst);
                let to = copies.0.join(taken.len().to_string());
                std::fs::create_dir_all(to.join("journal")).unwrap();
                std::fs::copy(place.0.join("identity"), to.join("identity")).unwrap();
                // Newest first: when a segment's beginning is in the copy, the one before it was complete.
                for file in segment_files(&place.0).into_iter().rev() {
                    if file.extension().is_some_and(|extension| extension == "seg") {
                        copy_backwards(&file, &to.join("journal").join(file.file_name().unwrap()));
                    }
                }
                taken.push((to, promised));
            }
            taken
        });
        let mut accepted = 0;
        while !copier.is_finished() {
            for _ in 0..40 {
                let partition = PartitionId::from_raw((accepted % 4) as u16);
                // Not more than the segments hold, should the copies take long.
                if accepted < 20_000 && world.ends[0].append(partition, record(partition, accepted)).is_ok() {
                    accepted += 1;
                }
            }
            world.turn();
            durable.store(world.logged.len() as u64, Ordering::SeqCst);
        }
        world.wait_for("the rest", |world| world.logged.len() as u64 == accepted);
        copier.join().unwrap()
    });
    let order: Vec<_> = world.logged.iter().map(|(_, l)| (l.partition, l.position)).collect();
    world.crash();
    for (copy, promised) in taken {
        // A segment that was empty when it was copied and in use before the copy was done: such a copy is refused, not served.
        if let Err(error) = rig.try_open(&copy) {
            assert!(matches!(error, OpenError::SegmentMissing { .. }), "{error}");
            continue;
        }
        let world = World::open_caught_up(&rig, &copy, PARTITIONS, 2);
        let there: BTreeSet<_> = world.logged.iter().map(|(_, l)| (l.partition, l.position)).collect();
        let missing = order[..promised as usize].iter().find(|handed_out| !there.contains(handed_out));
        assert_eq!(missing, None, "of {promised} handed out");
        world.crash();
    }
}

#[test]
fn a_lost_view_is_rebuilt_while_the_journal_has_everything() {
    let (rig, place) = (Rig::new(), Place::new("rebuild"));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    world.append_all(0, P, 20);
    world.store(P, 20, vec![event(tern_protocol::ConversationId::WORLD, 1, 10)]);
    world.close();
    std::fs::remove_dir_all(place.0.join("view")).unwrap();
    assert_eq!(rig.try_open(&place.0).unwrap().replayed, 20);
}

/// Tokens, deadlines and messages are stamped by the same clock: what was given out before the restart is not from the future after it.
#[test]
fn a_clock_set_back_at_a_restart_goes_on_from_the_time_of_the_log() {
    let hour_us = 3_600_000_000;
    let noon = Timestamp::from_raw(1_800_000_000_000_000);
    let (mut rig, place) = (Rig::new(), Place::new("set-back"));
    rig.clock = Clock::start_at(noon);
    written(&rig, &place, 1);
    rig.clock = Clock::start_at(Timestamp::from_raw(noon.raw() - hour_us));
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    let before = world.logged.iter().map(|(_, logged)| logged.time).max().unwrap();
    assert!(before >= noon, "stamped by the clock that the store was given");
    assert!(rig.clock.now().timestamp >= before, "the process's clock went on, not only the log's");
    world.append_all(0, P, 1);
    let after = world.logged.last().unwrap().1.time;
    assert!(after > before && after.since(before) < Duration::from_secs(60), "{before:?} {after:?}");
    world.crash();
}
