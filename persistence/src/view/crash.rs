//! For `cargo xtask crash-view`: commits whose content their number decides, on the view's real database with its workers, and the check of
//! what a crash left of them. Never looks at files: what a crash may do is decided by whoever writes them out.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use tern_core_shard::io::{Order, Row, Table};
use tern_protocol::PartitionId;

use crate::EmbeddedConfig;
use crate::view::engine::{Batch, Engine};
use crate::view::lsm::{Lsm, WORKERS};

const P: PartitionId = PartitionId::from_raw(0);
/// So small that a run flushes and compacts many times. Unit: bytes.
const MEMTABLE_SIZE: u64 = 64 * 1024;
/// Commits between two syncs. Unit: commits.
const SYNC_EVERY: u64 = 23;
/// Keys of entities that are written again and again. Unit: keys.
const ENTITIES: u64 = 40;

fn open(directory: &Path) -> Result<Lsm, String> {
    let mut config = EmbeddedConfig::new(directory, 1, 1);
    config.view_memtable_size = MEMTABLE_SIZE;
    config.view_cache_size = 1024 * 1024;
    std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
    Lsm::open(&config, WORKERS).map_err(|error| error.to_string())
}

/// The rows and the checkpoint of one commit: new events, and an entity that comes, changes or goes.
fn batch(number: u64) -> Batch {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let fill = |size: u64| (0..size).map(|at| (mixed >> (at % 57)).to_le_bytes()[0]).collect::<Vec<u8>>();
    let key = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
    // One in sixteen is as large as a message may be.
    let size = if mixed >> 60 == 0 { 16 * 1024 } else { mixed >> 32 & 0x7ff };
    let entity = (mixed >> 48 & 3 != 0).then(|| Bytes::from(fill(mixed >> 20 & 0x1ff)));
    Batch {
        rows: vec![
            Row { table: Table::Events, key: key(number), value: Some(fill(size).into()) },
            Row { table: Table::Entities, key: key(mixed % ENTITIES), value: entity },
        ],
        applied: vec![(P, number)],
    }
}

/// Commits from 1 to `count`, each in one batch, and says each time up to which commit everything is synced.
///
/// # Errors
/// What the database refused.
pub fn work(directory: &Path, count: u64, mut synced: impl FnMut(u64)) -> Result<(), String> {
    let view = open(directory)?;
    for number in 1..=count {
        view.commit(batch(number)).map_err(|error| error.to_string())?;
        if number % SYNC_EVERY == 0 {
            view.persist().map_err(|error| error.to_string())?;
            synced(number);
        }
    }
    Ok(())
}

/// Opens what a crash left when everything up to `synced` had been synced. Returns how many commits are there.
///
/// # Errors
/// Which promise of the database does not hold.
pub fn check(directory: &Path, synced: u64) -> Result<u64, String> {
    let view = open(directory).map_err(|why| format!("it does not open: {why}"))?;
    let applied = view.checkpoints(1).map_err(|error| error.to_string())?;
    let count = applied.first().copied().unwrap_or(0);
    if count < synced {
        return Err(format!("the checkpoint is {count}, {synced} was synced"));
    }
    let mut expected = BTreeMap::new();
    for row in (1..=count).flat_map(|number| batch(number).rows) {
        match row.value {
            Some(value) => expected.insert((row.table, row.key), value),
            None => expected.remove(&(row.table, row.key)),
        };
    }
    let moment = view.moment();
    let mut found = BTreeMap::new();
    for table in [Table::Events, Table::Entities] {
        for row in moment.range(table, &[0, 0], &[0xff; 16], Order::OldestFirst) {
            let (key, value) = row.map_err(|error| format!("a row cannot be read: {error}"))?;
            found.insert((table, key), value);
        }
    }
    let differing = expected.iter().find(|(key, value)| found.get(*key) != Some(*value));
    if let Some(((table, key), _)) = differing {
        return Err(format!("{table:?} {key:?} is not as of commit {count}"));
    }
    match found.keys().find(|key| !expected.contains_key(*key)) {
        Some((table, key)) => Err(format!("{table:?} {key:?} is not of a commit up to {count}")),
        None => Ok(count),
    }
}
