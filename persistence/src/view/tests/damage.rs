//! Damaged tables: met by a read, they are named and everything else is answered; met at the start, the store does not open.

use std::path::{Path, PathBuf};

use tern_core_shard::io::{Order, Table, ViewError, ViewQuery, ViewReply};
use tern_protocol::{ConversationId, PartitionId, Seq};

use crate::conformance::world::{Place, World, event};
use crate::tests::{PARTITIONS, Rig, damage};
use crate::view::engine::{Batch, Engine, EngineError};
use crate::view::lsm::{Lsm, WORKERS};
use crate::{Journal, OpenError, State};

const P: PartitionId = PartitionId::from_raw(1);
const ROOM: ConversationId = ConversationId::WORLD;
const EVENTS: u64 = 2_000;

/// A store whose events are in one table file; returns that file.
fn store_with_a_table(rig: &Rig, directory: &Path) -> PathBuf {
    let mut world = World::open_caught_up(rig, directory, PARTITIONS, 1);
    for first in (1..=EVENTS).step_by(100) {
        world.append_all(0, P, 100);
        world.store(P, first + 99, (first..first + 100).map(|seq| event(ROOM, seq, 300)).collect());
    }
    world.close();
    let view = Lsm::open(&rig.config(directory, PARTITIONS, 1), WORKERS).unwrap();
    view.flush(Table::Events);
    view.table_files(Table::Events).remove(0)
}

fn page(seq: u64) -> ViewQuery {
    let (from, to) = (Seq::from_raw(seq), Seq::from_raw(seq + 9));
    ViewQuery::Events { conversation: ROOM, from, to, size_max: 1 << 20, order: Order::OldestFirst }
}

/// Where a row's key lies in a file.
fn place_of(bytes: &[u8], seq: u64) -> usize {
    let wanted = format!("event {seq} ");
    bytes.windows(wanted.len()).position(|window| window == wanted.as_bytes()).expect("tables are not compressed")
}

#[test]
fn a_damaged_block_is_named_once_counted_and_everything_else_is_answered() {
    let (rig, place) = (Rig::new(), Place::new("damaged-block"));
    let table = store_with_a_table(&rig, &place.0);
    damage(&table, |bytes| {
        let at = place_of(bytes, EVENTS / 2);
        bytes[at] ^= 1;
    });
    let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
    assert_eq!(world.running().health().view, State::Ok);
    for _ in 0..3 {
        assert_eq!(world.try_ask(page(EVENTS / 2)).unwrap_err(), ViewError::Damaged);
        let whole = world.ask(page(1));
        assert!(matches!(whole, ViewReply::Events(events) if events.len() == 10));
    }
    let State::Degraded(why) = world.running().health().view else { panic!("health hides it") };
    assert!(why.contains(table.to_str().unwrap()) && why.contains("restore"), "{why}");
    assert!(why.contains("and 0 other"), "the same place is one place: {why}");
    assert_eq!(world.running().counters().queries_damaged, 3);
    assert_eq!(world.running().health().journal, State::Ok, "what is new is accepted");
    world.append_all(0, P, 1);
    world.crash();
}

#[test]
fn a_store_whose_table_has_a_damaged_end_does_not_open_and_says_what_to_do() {
    for (of, journal) in
        [(Rig::new(), Journal::Whole), (Rig::tuned(|config| config.segments_max = 2), Journal::Partial)]
    {
        let place = Place::new("damaged-end");
        let table = store_with_a_table(&of, &place.0);
        if journal == Journal::Partial {
            let mut world = World::open_caught_up(&of, &place.0, PARTITIONS, 1);
            for round in 1..=80 {
                world.append_all(0, P, 200);
                world.store(P, EVENTS + round * 200, Vec::new());
            }
            world.close();
        }
        // The index lies behind the data.
        damage(&table, |bytes| {
            let last = bytes.len() - bytes.len() / 50;
            let at = place_of(bytes, EVENTS).min(last);
            bytes[at..].iter_mut().for_each(|byte| *byte ^= 0x55);
        });
        let error = of.try_open(&place.0).unwrap_err();
        let text = error.to_string();
        let (OpenError::ViewDamaged { journal: found, .. } | OpenError::View { journal: found, .. }) = &error else {
            panic!("{text}");
        };
        assert_eq!(*found, journal, "{text}");
        let advice = if journal == Journal::Whole { "move the directory `view` away" } else { "from a backup" };
        assert!(text.contains(advice), "{text}");
        if journal == Journal::Whole {
            std::fs::rename(place.0.join("view"), place.0.join("view-damaged")).unwrap();
            assert_eq!(of.try_open(&place.0).unwrap().replayed, EVENTS, "the advice helps");
        }
    }
}

#[test]
fn a_table_whose_last_block_is_damaged_is_named_at_the_start() {
    let (rig, place) = (Rig::new(), Place::new("last-block"));
    let table = store_with_a_table(&rig, &place.0);
    damage(&table, |bytes| {
        let at = place_of(bytes, EVENTS);
        bytes[at] ^= 1;
    });
    let error = rig.try_open(&place.0).unwrap_err();
    assert!(matches!(&error, OpenError::ViewDamaged { file, .. } if *file == table), "{error}");
    assert!(error.to_string().contains(table.to_str().unwrap()), "{error}");
}

#[test]
fn a_keyspace_that_is_lost_or_exchanged_is_missed() {
    for exchanged in [false, true] {
        let (rig, place) = (Rig::new(), Place::new("keyspaces"));
        let table = store_with_a_table(&rig, &place.0);
        let keyspaces = place.0.join("view/keyspaces");
        let events = table.parent().and_then(Path::parent).unwrap().to_path_buf();
        if exchanged {
            let view = Lsm::open(&rig.config(&place.0, PARTITIONS, 1), WORKERS).unwrap();
            view.flush(Table::Entities);
            let entities = view.table_files(Table::Entities).remove(0);
            drop(view);
            let entities = entities.parent().and_then(Path::parent).unwrap();
            std::fs::rename(&events, keyspaces.join("9")).unwrap();
            std::fs::rename(entities, &events).unwrap();
            std::fs::rename(keyspaces.join("9"), entities).unwrap();
        } else {
            std::fs::remove_dir_all(&events).unwrap();
        }
        for _ in 0..2 {
            let text = rig.try_open(&place.0).unwrap_err().to_string();
            assert!(text.contains("keyspaces") && text.contains("part of the view"), "exchanged: {exchanged}: {text}");
        }
    }
}

#[test]
fn a_compaction_that_meets_a_damaged_block_ends_the_view_with_the_name_of_the_file() {
    let (rig, place) = (Rig::new(), Place::new("compaction"));
    let table = store_with_a_table(&rig, &place.0);
    damage(&table, |bytes| {
        let at = place_of(bytes, EVENTS / 2);
        bytes[at] ^= 1;
    });
    let view = Lsm::open(&rig.config(&place.0, PARTITIONS, 1), WORKERS).unwrap();
    // Each table overlaps the damaged one, so that they are merged before long.
    let write = |round: u64| {
        let rows = [1, EVENTS].map(|seq| event(ROOM, seq, 300 + round as usize));
        let committed = view.commit(Batch { rows: rows.into(), applied: Vec::new() });
        if committed.is_ok() {
            view.flush(Table::Events);
        }
        committed.err()
    };
    let error = (0..1000).find_map(write).expect("the tables are merged");
    assert!(matches!(&error, EngineError::Damaged(text) if text.contains(table.to_str().unwrap())), "{error}");
}
