//! What every backend must do, whatever it is made of. A backend's tests implement [`Backend`] and expand [`conformance_tests!`].
//! Looks only at what a shard can see; never at files, brokers or tables.

mod log;
mod view;
pub(crate) mod world;

use std::path::PathBuf;

use tern_core_shard::io::{AppendFailure, Input, Record, Row, ViewQuery};
use tern_protocol::{PartitionId, Position};

use crate::{Bell, ShardStore};

pub use log::{
    a_full_queue_says_busy_and_loses_nothing, commands_after_the_checkpoint_are_replayed_and_no_others,
    commands_come_back_in_order_at_the_owner, many_shards_append_at_once, positions_and_times_go_on_after_reopening,
};
pub use view::{
    an_entity_is_its_rows_and_its_newest_events, events_come_in_pages_from_either_end,
    rows_and_checkpoint_move_together, rows_can_be_read_once_stored, storing_twice_changes_nothing,
};

/// What to open.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Whose data: opened twice, it is the same data.
    pub directory: PathBuf,
    /// How many logs.
    pub partitions: u16,
    /// How many shards.
    pub shards: u16,
    /// How much may wait.
    pub bounds: Bounds,
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    /// As in a server.
    Default,
    /// So little that a test fills it at once; at most this many commands may be on their way.
    Small,
}

/// Commands that may be on their way with [`Bounds::Small`] before a shard that takes nothing is told to wait. Unit: commands.
pub const SMALL_MAX: usize = 4096;

/// A shard's end of a backend.
pub trait End: Send {
    /// See [`ShardStore::append`].
    ///
    /// # Errors
    /// The record, and why not.
    fn append(&mut self, partition: PartitionId, record: Record) -> Result<(), (Record, AppendFailure)>;
    /// See [`ShardStore::query`].
    ///
    /// # Errors
    /// The question, when too many wait.
    fn query(&mut self, ticket: u64, query: ViewQuery) -> Result<(), ViewQuery>;
    /// See [`ShardStore::store`].
    fn store(&mut self, partition: PartitionId, position: Position, rows: Vec<Row>);
    /// See [`ShardStore::flush`].
    fn flush(&mut self);
    /// See [`ShardStore::poll`].
    fn poll(&mut self) -> Option<Input>;
}

impl End for ShardStore {
    fn append(&mut self, partition: PartitionId, record: Record) -> Result<(), (Record, AppendFailure)> {
        Self::append(self, partition, record)
    }

    fn query(&mut self, ticket: u64, query: ViewQuery) -> Result<(), ViewQuery> {
        Self::query(self, ticket, query)
    }

    fn store(&mut self, partition: PartitionId, position: Position, rows: Vec<Row>) {
        Self::store(self, partition, position, rows);
    }

    fn flush(&mut self) {
        Self::flush(self);
    }

    fn poll(&mut self) -> Option<Input> {
        Self::poll(self)
    }
}

/// Something that keeps log and view.
pub trait Backend {
    /// A shard's end.
    type End: End + 'static;
    /// What keeps it running.
    type Running;

    /// Opens it; panics when that fails.
    fn open(&self, setup: &Setup, bells: Vec<Bell>) -> (Vec<Self::End>, Self::Running);

    /// Ends it cleanly: everything handed over is in the view.
    fn close(&self, running: Self::Running);

    /// Ends it as a crash would, as well as that can be done within a process.
    fn crash(&self, running: Self::Running);
}

/// Expands to one test per rule, for a backend given as an expression.
#[macro_export]
macro_rules! conformance_tests {
    ($backend:expr) => {
        $crate::conformance_tests!($backend;
            commands_come_back_in_order_at_the_owner,
            commands_after_the_checkpoint_are_replayed_and_no_others,
            positions_and_times_go_on_after_reopening,
            a_full_queue_says_busy_and_loses_nothing,
            many_shards_append_at_once,
            rows_can_be_read_once_stored,
            rows_and_checkpoint_move_together,
            storing_twice_changes_nothing,
            an_entity_is_its_rows_and_its_newest_events,
            events_come_in_pages_from_either_end,
        );
    };
    ($backend:expr; $($rule:ident,)*) => {
        $(
            #[test]
            fn $rule() {
                $crate::conformance::$rule(&$backend);
            }
        )*
    };
}
