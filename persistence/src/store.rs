//! A shard's own end of the store: queues to and from the journal and the view. Lives on the shard's thread; never locks, blocks,
//! or does I/O. Memory is bounded by the limits of [`crate::EmbeddedConfig`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread::Thread;

use rtrb::{Consumer, Producer, PushError};
use tern_core_shard::io::{AppendFailure, Input, Record, Row, ViewError, ViewQuery, ViewReply};
use tern_protocol::limit::FRAME_SIZE_MAX;
use tern_protocol::placement::Placement;
use tern_protocol::{PartitionId, Position};

use crate::journal::{Append, FromJournal};
use crate::status::{Queues, Status};

/// What a hand-over of rows counts for beside keys and values. Unit: bytes.
const STORE_OVERHEAD: usize = 64;
/// What a row counts for beside key and value. Unit: bytes.
const ROW_OVERHEAD: usize = 64;

/// Rows of one command on their way to the view.
#[derive(Debug)]
pub(crate) struct StoreRows {
    pub(crate) partition: PartitionId,
    pub(crate) position: Position,
    pub(crate) rows: Vec<Row>,
    /// Unit: bytes.
    pub(crate) size: usize,
}

/// What a partition's rows have come to: everything up to the position can be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredUpTo {
    pub(crate) partition: PartitionId,
    pub(crate) position: Position,
    /// Rows handed over that this confirms. Unit: bytes.
    pub(crate) size: usize,
}

/// A question and its ticket.
pub(crate) type Question = (u64, ViewQuery);
/// An answer and its ticket.
pub(crate) type Answer = (u64, Result<ViewReply, ViewError>);

/// A shard's ends of its queues, and the threads at the other ends.
pub(crate) struct Ends {
    pub(crate) appends: Producer<Append>,
    pub(crate) journal: Consumer<FromJournal>,
    pub(crate) stores: Producer<StoreRows>,
    pub(crate) stored: Consumer<StoredUpTo>,
    pub(crate) questions: Producer<Question>,
    pub(crate) answers: Consumer<Answer>,
    pub(crate) reader_thread: Thread,
}

/// Bounds of one shard; see [`crate::EmbeddedConfig`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardLimits {
    pub(crate) placement: Placement,
    pub(crate) append_queue_size_max: usize,
    pub(crate) store_queue_size_max: usize,
    pub(crate) store_queue_len_max: usize,
    pub(crate) query_queue_len_max: usize,
}

/// What one shard's end has done and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreCounters {
    /// Commands given to the journal.
    pub appended: u64,
    /// Commands refused: a queue was full.
    pub busy: u64,
    /// Commands refused: nothing is accepted.
    pub unavailable: u64,
    /// Durable commands taken.
    pub logged: u64,
    /// Times that a durable command was held back because too many rows wait for the view.
    pub held_back: u64,
    /// Rows handed over and not in the view yet. Unit: bytes.
    pub store_queue_size: usize,
    /// Hand-overs that wait here because the queue to the view is full.
    pub store_queue_local: usize,
    /// Questions without an answer yet.
    pub queries_open: usize,
}

/// What has to be woken at the end of the turn.
#[derive(Debug, Default)]
struct Due {
    journal: bool,
    view: bool,
    reader: bool,
    popped: bool,
}

/// A shard's access to log and view.
pub struct ShardStore {
    shard: usize,
    status: Arc<Status>,
    ends: Ends,
    limits: ShardLimits,
    /// Rows that the full queue did not take, in order.
    stores_local: VecDeque<StoreRows>,
    counters: StoreCounters,
    due: Due,
    caught_up: bool,
    /// The shard takes no durable commands at present.
    paused: bool,
}

impl ShardStore {
    pub(crate) fn new(shard: usize, status: Arc<Status>, ends: Ends, limits: ShardLimits) -> Self {
        Self {
            shard,
            status,
            ends,
            limits,
            stores_local: VecDeque::new(),
            counters: StoreCounters::default(),
            due: Due::default(),
            caught_up: false,
            paused: false,
        }
    }

    /// Stops handing out durable commands, or goes on: a shard pauses while too many of them wait for an answer of the view.
    pub const fn pause_commands(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Queues a command for a partition's log. Answered by `Logged` at the owner, or `AppendFailed` here.
    ///
    /// # Errors
    /// The record, and why it is certainly not stored: [`AppendFailure::Busy`] when this shard's queue is full, by bytes or by count, or
    /// when the partition's owner takes nothing at present; [`AppendFailure::Unavailable`] when nothing is accepted, or for what no log takes (no such partition, a frame over the limit).
    pub fn append(&mut self, partition: PartitionId, record: Record) -> Result<(), (Record, AppendFailure)> {
        let possible = partition.raw() < self.limits.placement.partitions() && record.frame.len() <= FRAME_SIZE_MAX;
        debug_assert!(possible, "the shard checks partition and frame");
        if !possible || !self.status.accepts() {
            self.counters.unavailable += 1;
            self.status.refused_unavailable.fetch_add(1, Relaxed);
            return Err((record, AppendFailure::Unavailable));
        }
        let emitted = record.head.cause_position != 0;
        let owner = usize::from(self.limits.placement.shard(partition).raw());
        // What a durable command caused goes on: rows and checkpoint wait for it.
        if !emitted && self.status.queues.get(owner).is_some_and(|queues| queues.refuses.load(Relaxed)) {
            return Err((record, self.busy()));
        }
        let size = Append::size(&record);
        let queued = self.queues().map_or(0, |queues| queues.append.load(Relaxed));
        let share = if emitted { 2 } else { 1 };
        if queued + size > self.limits.append_queue_size_max * share {
            return Err((record, self.busy()));
        }
        // Counted first: the journal may take it, and count it off, before this returns.
        if let Some(queues) = self.queues() {
            queues.append.fetch_add(size, Relaxed);
        }
        match self.ends.appends.push(Append { partition, record }) {
            Ok(()) => {
                self.counters.appended += 1;
                self.due.journal = true;
                Ok(())
            }
            Err(PushError::Full(Append { record, .. })) => {
                if let Some(queues) = self.queues() {
                    queues.append.fetch_sub(size, Relaxed);
                }
                Err((record, self.busy()))
            }
        }
    }

    /// Asks the view. Answered by `Viewed` with the same ticket.
    ///
    /// # Errors
    /// The question, when `query_queue_len_max` of this shard have no answer yet.
    pub fn query(&mut self, ticket: u64, query: ViewQuery) -> Result<(), ViewQuery> {
        if self.counters.queries_open >= self.limits.query_queue_len_max {
            self.status.queries_refused.fetch_add(1, Relaxed);
            return Err(query);
        }
        match self.ends.questions.push((ticket, query)) {
            Ok(()) => {
                self.counters.queries_open += 1;
                self.due.reader = true;
                Ok(())
            }
            Err(PushError::Full((_, query))) => {
                self.status.queries_refused.fetch_add(1, Relaxed);
                Err(query)
            }
        }
    }

    /// Hands the rows of a command to the view, in position order per partition. Never refused; [`Self::poll`] holds back new
    /// commands while too much waits. Answered by `Stored`, which may stand for several.
    pub fn store(&mut self, partition: PartitionId, position: Position, rows: Vec<Row>) {
        let row_size = |row: &Row| row.key.len() + row.value.as_ref().map_or(0, bytes::Bytes::len) + ROW_OVERHEAD;
        let size = rows.iter().map(row_size).sum::<usize>() + STORE_OVERHEAD;
        self.counters.store_queue_size += size;
        self.publish_store_size();
        self.due.view = true;
        let store = StoreRows { partition, position, rows, size };
        if self.stores_local.is_empty() {
            if let Err(PushError::Full(store)) = self.ends.stores.push(store) {
                self.stores_local.push_back(store);
            }
        } else {
            self.stores_local.push_back(store);
        }
    }

    /// Moves what waits here into the queues and wakes the threads that have something to do. Once per turn.
    pub fn flush(&mut self) {
        while let Some(store) = self.stores_local.pop_front() {
            if let Err(PushError::Full(store)) = self.ends.stores.push(store) {
                self.stores_local.push_front(store);
                break;
            }
            self.due.view = true;
        }
        let due = std::mem::take(&mut self.due);
        let room = due.popped && self.status.journal_wants_room.swap(false, SeqCst);
        if due.journal || room {
            self.status.journal.wake();
        }
        if due.view {
            self.status.view_bell.rows_wait(self.view_is_behind());
        }
        if due.reader {
            self.ends.reader_thread.unpark();
        }
    }

    /// The next thing that log or view say to this shard. Durable commands wait while `store_queue_size_max` is exceeded.
    pub fn poll(&mut self) -> Option<Input> {
        if let Ok(StoredUpTo { partition, position, size }) = self.ends.stored.pop() {
            self.counters.store_queue_size = self.counters.store_queue_size.saturating_sub(size);
            self.publish_store_size();
            return Some(Input::Stored { partition, position });
        }
        if let Ok((ticket, reply)) = self.ends.answers.pop() {
            self.counters.queries_open = self.counters.queries_open.saturating_sub(1);
            return Some(Input::Viewed { ticket, reply });
        }
        if self.paused || self.holds_back() {
            if !self.ends.journal.is_empty() {
                self.counters.held_back += 1;
            }
            return None;
        }
        let next = self.ends.journal.pop().ok()?;
        self.due.popped = true;
        Some(match next {
            FromJournal::Logged(logged) => {
                self.counters.logged += 1;
                if let Some(queues) = self.queues() {
                    queues.logged.fetch_sub(Append::size(&logged.record), SeqCst);
                }
                Input::Logged(logged)
            }
            FromJournal::Failed(partition, record, failure) => Input::AppendFailed { partition, record, failure },
            FromJournal::CaughtUp => {
                self.caught_up = true;
                Input::CaughtUp
            }
        })
    }

    /// What this end has done and holds.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        StoreCounters { store_queue_local: self.stores_local.len(), ..self.counters }
    }

    /// Whether durable commands must wait for the view. When the view has failed there is nothing to wait for: what the journal
    /// still holds for this shard is bounded, and its senders get their answers.
    fn holds_back(&self) -> bool {
        self.counters.store_queue_size > self.limits.store_queue_size_max
            && !(self.caught_up && self.status.view_failed().is_some())
    }

    /// Whether so many rows wait that the view should not gather more before it writes: half of what may wait.
    fn view_is_behind(&self) -> bool {
        self.counters.store_queue_size > self.limits.store_queue_size_max / 2
            || self.ends.stores.slots() < self.limits.store_queue_len_max / 2
    }

    fn busy(&mut self) -> AppendFailure {
        self.counters.busy += 1;
        self.status.refused_busy.fetch_add(1, Relaxed);
        // The journal may be asleep with the queue full of what this very turn appended.
        self.due.journal = true;
        AppendFailure::Busy
    }

    fn publish_store_size(&self) {
        if let Some(queues) = self.queues() {
            queues.store.store(self.counters.store_queue_size, Relaxed);
        }
    }

    fn queues(&self) -> Option<&Queues> {
        self.status.queues.get(self.shard)
    }
}

impl std::fmt::Debug for ShardStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardStore")
            .field("shard", &self.shard)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}
