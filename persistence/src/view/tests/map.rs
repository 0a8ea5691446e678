//! The view's database as a map: the smallest thing that keeps what [`Engine`] promises. Loses the commits behind the last sync when told to.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

use bytes::Bytes;
use tern_core_shard::io::{Order, Table};

use crate::view::engine::{Batch, Engine, EngineError, Moment, Rows};

/// Tables of rows, and per partition the checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) rows: BTreeMap<(Table, Bytes), Bytes>,
    pub(crate) applied: BTreeMap<u16, u64>,
}

impl Content {
    pub(crate) fn put(&mut self, batch: &Batch) {
        for row in &batch.rows {
            match &row.value {
                Some(value) => self.rows.insert((row.table, row.key.clone()), value.clone()),
                None => self.rows.remove(&(row.table, row.key.clone())),
            };
        }
        self.applied.extend(batch.applied.iter().map(|(partition, applied)| (partition.raw(), *applied)));
    }
}

/// What was committed, and how much of it is on the disk.
#[derive(Debug, Default)]
pub(crate) struct Map(Mutex<(Vec<Batch>, usize)>);

impl Map {
    /// The power goes: of what was not synced the first `kept` commits are there.
    pub(crate) fn cut(&self, kept: usize) {
        let mut state = self.0.lock().unwrap();
        let keep = state.1 + kept.min(state.0.len() - state.1);
        state.0.truncate(keep);
        state.1 = keep;
    }

    pub(crate) fn unsynced(&self) -> usize {
        let state = self.0.lock().unwrap();
        state.0.len() - state.1
    }

    pub(crate) fn content(&self) -> Content {
        let mut content = Content::default();
        self.0.lock().unwrap().0.iter().for_each(|batch| content.put(batch));
        content
    }
}

impl Engine for Map {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        self.0.lock().unwrap().0.push(batch);
        Ok(())
    }

    fn persist(&self) -> Result<(), EngineError> {
        let mut state = self.0.lock().unwrap();
        state.1 = state.0.len();
        Ok(())
    }

    fn moment(&self) -> Box<dyn Moment + '_> {
        Box::new(self.content())
    }

    fn size(&self) -> u64 {
        0
    }

    fn is_ready(&self) -> Result<bool, EngineError> {
        Ok(true)
    }

    fn reopen(&self) -> Result<Vec<u64>, EngineError> {
        Err(EngineError::Failed("is not opened again here".into()))
    }
}

impl Moment for Content {
    fn prefix(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        let prefix = Bytes::copy_from_slice(prefix);
        let behind = self.rows.range((Bound::Included((table, prefix.clone())), Bound::Unbounded));
        let rows = behind.take_while(move |((of, key), _)| *of == table && key.starts_with(&prefix));
        Box::new(rows.map(|((_, key), value)| Ok((key.clone(), value.clone()))))
    }

    fn range(&self, table: Table, first: &[u8], last: &[u8], order: Order) -> Rows<'_> {
        let key = |bytes| (table, Bytes::copy_from_slice(bytes));
        let rows = self.rows.range(key(first)..=key(last));
        let row = |((_, key), value): (&(Table, Bytes), &Bytes)| Ok((key.clone(), value.clone()));
        match order {
            Order::OldestFirst => Box::new(rows.map(row)),
            Order::NewestFirst => Box::new(rows.rev().map(row)),
        }
    }
}
