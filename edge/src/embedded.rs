//! Connects a shard thread to the embedded store. Passes calls on and adds nothing.

use tern_core_shard::io::{AppendFailure, Input, Record, Row, ViewQuery};
use tern_persistence::ShardStore;
use tern_protocol::{PartitionId, Position};

use crate::store::Store;

impl Store for ShardStore {
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

    fn pause_commands(&mut self, paused: bool) {
        Self::pause_commands(self, paused);
    }

    fn poll(&mut self) -> Option<Input> {
        Self::poll(self)
    }
}
