//! A log and a view for a shard that is stepped by hand: every command is durable at once, no row is kept, because nothing is ever dropped
//! from memory and asked for again. Costs next to nothing, so that what is measured is the shard. Never waits, and never refuses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tern_core_shard::io::{AppendFailure, Input, Logged, Record, Row, ViewQuery, ViewReply};
use tern_edge::store::Store;
use tern_protocol::{PartitionId, Position, Timestamp};

/// The shard's end, and the bench's: both see the same log.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    now: Timestamp,
    /// The last position of each log.
    ends: BTreeMap<PartitionId, Position>,
    queue: VecDeque<Input>,
}

impl MemoryLog {
    /// A log that has nothing to replay.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let this = Self::default();
        this.set_now(now);
        this.lock().queue.push_back(Input::CaughtUp);
        this
    }

    /// The time of every command from here on.
    pub fn set_now(&self, now: Timestamp) {
        self.lock().now = now;
    }

    /// Makes a command durable that came from elsewhere. The shard applies it in its next turn.
    pub fn log(&self, partition: PartitionId, record: Record) {
        let inner = &mut *self.lock();
        let position = inner.ends.entry(partition).or_default();
        *position = position.next();
        let logged = Logged { partition, position: *position, time: inner.now, record };
        inner.queue.push_back(Input::Logged(logged));
    }

    /// Nobody holds it and panics, and no other thread wants it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryLog {
    fn append(&mut self, partition: PartitionId, record: Record) -> Result<(), (Record, AppendFailure)> {
        self.log(partition, record);
        Ok(())
    }

    fn query(&mut self, ticket: u64, query: ViewQuery) -> Result<(), ViewQuery> {
        let ViewQuery::Entity { .. } = query else { return Err(query) };
        let reply = ViewReply::Entity { rows: Vec::new(), events: Vec::new() };
        self.lock().queue.push_back(Input::Viewed { ticket, reply: Ok(reply) });
        Ok(())
    }

    fn store(&mut self, partition: PartitionId, position: Position, _rows: Vec<Row>) {
        self.lock().queue.push_back(Input::Stored { partition, position });
    }

    fn flush(&mut self) {}

    fn pause_commands(&mut self, _paused: bool) {}

    fn poll(&mut self) -> Option<Input> {
        self.lock().queue.pop_front()
    }
}
