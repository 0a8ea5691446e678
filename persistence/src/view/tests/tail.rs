//! The end of fjall's journal: a torn one is cut, a whole one is not, and what was synced and rots is refused by name.

use tern_core_shard::io::Table;

use super::{P, PARTITIONS, config, event, journal_file, one, put, without_workers};
use crate::OpenError;
use crate::conformance::world::Place;
use crate::tests::damage;
use crate::view::engine::{Batch, Engine};
use crate::view::lsm::{Lsm, WORKERS};
use crate::view::tail::scan;

/// As large as a message may be, and nothing that a compressor makes smaller.
fn value(of: u64) -> Vec<u8> {
    let mut state = of;
    let byte = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(of);
        (state >> 56) as u8
    };
    std::iter::repeat_with(byte).take(16 * 1024).collect()
}

#[test]
fn a_lost_page_inside_one_value_costs_what_was_not_synced_and_nothing_else() {
    let place = Place::new("torn-value");
    let view = without_workers(&place.0);
    view.commit(one(1, value(1))).unwrap();
    view.persist().unwrap();
    let synced = scan(&journal_file(&place.0)).unwrap().end as usize;
    view.commit(one(2, value(2))).unwrap();
    view.commit(one(3, value(3))).unwrap();
    drop(view);
    damage(&journal_file(&place.0), |bytes| bytes[synced + 6000..synced + 6000 + 4096].fill(0));
    // What it is for: the database alone takes the torn end for an error.
    let alone = fjall::Database::builder(place.0.join("view")).worker_threads_unchecked(0).open();
    assert!(matches!(&alone, Err(fjall::Error::JournalRecovery(fjall::JournalRecoveryError::ChecksumMismatch))));
    drop(alone);
    let view = without_workers(&place.0);
    assert_eq!(view.checkpoints(PARTITIONS).unwrap(), [0, 1], "rows and checkpoint of one commit");
    assert_eq!(event(&view, 1).unwrap(), value(1));
    assert_eq!((event(&view, 2), event(&view, 3)), (None, None), "nothing behind the first commit that is not whole");
    view.commit(one(2, vec![b'd'; 10])).unwrap();
    view.persist().unwrap();
    drop(view);
    assert_eq!(event(&without_workers(&place.0), 2).unwrap(), vec![b'd'; 10], "it goes on behind the cut");
}

#[test]
fn a_whole_journal_is_read_to_its_end() {
    let place = Place::new("whole");
    let view = without_workers(&place.0);
    let before = scan(&journal_file(&place.0)).unwrap();
    for position in 1..=200 {
        // Small and large, compressible or not, several in a batch, and removals.
        let value = (0..position * 97 % 9000).map(|at| (at * position * 31) as u8).collect();
        let mut batch = one(position, value);
        batch.rows.push(put(Table::Entities, &[1, position as u8], vec![b'z'; position as usize * 60]));
        batch
            .rows
            .push(tern_core_shard::io::Row { value: None, ..put(Table::Entities, &[1, position as u8 / 2], vec![]) });
        view.commit(batch).unwrap();
    }
    drop(view);
    let after = scan(&journal_file(&place.0)).unwrap();
    let bytes = std::fs::read(journal_file(&place.0)).unwrap();
    assert!(bytes[after.end as usize..].iter().all(|&byte| byte == 0), "nothing written lies behind the end");
    assert_eq!(after.last.unwrap() - before.last.unwrap(), 200, "every batch was read");
    let view = without_workers(&place.0);
    assert_eq!(view.checkpoints(PARTITIONS).unwrap(), [0, 200]);
    assert!((1..=200).all(|position| event(&view, position).is_some()));
}

#[test]
fn a_synced_part_that_rots_under_what_the_tables_have_is_refused_by_name_again_and_again() {
    let place = Place::new("rotten");
    let view = Lsm::open(&config(&place.0), WORKERS).unwrap();
    for position in 1..=3 {
        view.commit(one(position, value(position))).unwrap();
    }
    // The events are in a table, the checkpoint is in the journal only.
    view.flush(Table::Events);
    view.persist().unwrap();
    drop(view);
    let journal = journal_file(&place.0);
    let middle = scan(&journal).unwrap().end as usize / 2;
    damage(&journal, |bytes| bytes[middle] ^= 1);
    for _ in 0..2 {
        let error = Lsm::open(&config(&place.0), WORKERS).unwrap_err();
        assert!(matches!(&error, OpenError::Malformed { file, .. } if *file == journal), "{error}");
        assert!(error.to_string().contains("restore"), "{error}");
    }
}

#[test]
fn a_synced_part_that_rots_makes_the_view_older_and_never_mixed() {
    let place = Place::new("older-view");
    let view = without_workers(&place.0);
    let mut ends = Vec::new();
    for position in 1..=3 {
        let entity = put(Table::Entities, b"entity", position.to_string().into_bytes());
        let mut batch = one(position, vec![b'a'; 100]);
        batch.rows.push(entity);
        view.commit(batch).unwrap();
        ends.push(scan(&journal_file(&place.0)).unwrap().end as usize);
    }
    view.persist().unwrap();
    drop(view);
    damage(&journal_file(&place.0), |bytes| bytes[ends[0] + 60] ^= 1);
    let view = without_workers(&place.0);
    // Whether the log still has what is missing is for the journal's recovery to say: `HistoryLost` if it does not.
    assert_eq!(view.checkpoints(PARTITIONS).unwrap(), [0, 1]);
    assert_eq!(super::rows(&view).len(), 2);
    assert_eq!(view.commit(Batch { rows: Vec::new(), applied: vec![(P, 2)] }), Ok(()));
}
