//! Tests of the view on its real database: torn ends, damaged files, and power cuts under the writer and the reader.
#![expect(clippy::cast_possible_truncation, reason = "offsets in files of some megabytes")]

mod damage;
mod full;
mod map;
mod power_cuts;
mod tail;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tern_core_shard::io::{Order, Row, Table};
use tern_protocol::PartitionId;

use crate::EmbeddedConfig;
use crate::view::engine::{Batch, Engine};
use crate::view::lsm::Lsm;

const PARTITIONS: u16 = 2;
/// The partition of tests that need one.
const P: PartitionId = PartitionId::from_raw(1);

fn config(directory: &Path) -> EmbeddedConfig {
    let mut config = EmbeddedConfig::new(directory, PARTITIONS, 1);
    config.view_cache_size = 1024 * 1024;
    config
}

/// A database that writes nothing but its journal.
fn without_workers(directory: &Path) -> Lsm {
    Lsm::open(&config(directory), 0).unwrap()
}

/// The journal file that is appended to.
fn journal_file(directory: &Path) -> PathBuf {
    super::tail::newest(&directory.join("view")).unwrap().unwrap()
}

fn put(table: Table, key: &[u8], value: Vec<u8>) -> Row {
    Row { table, key: Bytes::copy_from_slice(key), value: Some(Bytes::from(value)) }
}

/// A batch with one event, which moves the checkpoint.
fn one(position: u64, value: Vec<u8>) -> Batch {
    Batch { rows: vec![put(Table::Events, &position.to_be_bytes(), value)], applied: vec![(P, position)] }
}

/// Everything in a database, as a reader sees it.
fn rows(engine: &dyn Engine) -> BTreeMap<(Table, Bytes), Bytes> {
    let moment = engine.moment();
    let mut all = BTreeMap::new();
    for table in [Table::Events, Table::Entities] {
        for order in [Order::OldestFirst, Order::NewestFirst] {
            for row in moment.range(table, &[0, 0], &[0xff; 64], order) {
                let (key, value) = row.unwrap();
                all.insert((table, key), value);
            }
        }
    }
    all
}

/// Value of the only event with this position.
fn event(engine: &dyn Engine, position: u64) -> Option<Bytes> {
    rows(engine).remove(&(Table::Events, Bytes::copy_from_slice(&position.to_be_bytes())))
}

#[test]
fn a_view_whose_making_was_interrupted_is_made_anew() {
    let place = crate::conformance::world::Place::new("half-made");
    let draft = place.0.join("view.new");
    std::fs::create_dir_all(&draft).unwrap();
    std::fs::write(draft.join("lock"), "").unwrap();
    let view = without_workers(&place.0);
    view.commit(one(1, b"a".to_vec())).unwrap();
    drop(view);
    assert!(!draft.exists());
    assert!(event(&without_workers(&place.0), 1).is_some());
}
