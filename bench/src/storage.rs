//! Log and view as a shard meets them: its end of the queues, and the threads behind it. Whoever opens it says on which disk.

use std::fmt;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tern_core_shard::io::{Input, Order, Record, Row, Table, ViewQuery, ViewReply};
use tern_persistence::{Bell, Clock, Embedded, EmbeddedConfig, EmbeddedHandle, ShardStore, open};
use tern_protocol::command::CommandHead;
use tern_protocol::stored::event_key;
use tern_protocol::{ConversationId, PartitionId, Position, RequestId, Seq, UserId, frame};

use crate::message::event;

/// After this a bench says that the storage hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rows handed over together. Unit: rows.
const ROWS: u64 = 100;
/// More than a page has. Unit: bytes.
const PAGE_SIZE_MAX: usize = 1 << 20;

const PARTITION: PartitionId = PartitionId::from_raw(0);

/// A log and a view with one shard, which is the thread that opens them.
pub struct Storage {
    store: ShardStore,
    handle: Option<EmbeddedHandle>,
    record: Record,
    last: Position,
    ticket: u64,
    _directory: TempDir,
}

impl Storage {
    /// A new one, below `directory`. `record_size`: of each command's frame, in bytes.
    ///
    /// # Panics
    /// When the directory cannot be written to.
    #[must_use]
    pub fn open(directory: &std::path::Path, record_size: usize) -> Self {
        let directory = tempfile::tempdir_in(directory).expect("the build's own directory can be written to");
        let shard: Thread = std::thread::current();
        let bell: Bell = Arc::new(move || shard.unpark());
        let config = EmbeddedConfig::new(directory.path(), 1, 1);
        let Embedded { mut stores, handle, .. } =
            open(config, vec![bell], Clock::start()).expect("an empty directory can be opened");
        let frame = Bytes::from(vec![b'f'; record_size]);
        let record = Record { head: CommandHead { actor: 1, ..CommandHead::default() }, frame };
        let store = stores.remove(0);
        Self { store, handle: Some(handle), record, last: Position::ZERO, ticket: 0, _directory: directory }
    }

    /// Appends so many commands and waits until the last of them is durable.
    ///
    /// # Panics
    /// When that never is.
    pub fn commit(&mut self, count: usize) {
        self.log(count);
        // Commands without rows: the view only moves its checkpoint, and the journal can use its segments again.
        self.store.store(PARTITION, self.last, Vec::new());
    }

    /// Stores so many events of one conversation, 200 bytes of body each, and waits until they can be read.
    ///
    /// # Panics
    /// When that never is.
    pub fn fill(&mut self, count: u64) {
        let body = [b'a'; 200];
        for first in (1..=count).step_by(usize::try_from(ROWS).expect("a few")) {
            self.log(1);
            let row = |seq| Row {
                table: Table::Events,
                key: Bytes::copy_from_slice(&event_key(conversation(), Seq::from_raw(seq))),
                value: Some(frame::to_vec(&event(conversation(), seq, &body)).into()),
            };
            let rows = (first..=count.min(first + ROWS - 1)).map(row).collect();
            self.store.store(PARTITION, self.last, rows);
            let last = self.last;
            self.wait(|input| matches!(input, Input::Stored { position, .. } if *position == last));
        }
    }

    /// Reads the last `count` events up to `to`.
    ///
    /// # Panics
    /// When they are not there.
    pub fn page(&mut self, to: u64, count: u64) {
        self.ticket += 1;
        let query = ViewQuery::Events {
            conversation: conversation(),
            from: Seq::from_raw(to + 1 - count),
            to: Seq::from_raw(to),
            size_max: PAGE_SIZE_MAX,
            order: Order::NewestFirst,
        };
        self.store.query(self.ticket, query).expect("nothing else is asked");
        let mut read = 0;
        self.wait(|input| {
            let Input::Viewed { reply: Ok(ViewReply::Events(events)), .. } = input else { return false };
            read = events.len() as u64;
            true
        });
        assert_eq!(read, count, "all of them are stored");
    }

    fn log(&mut self, count: usize) {
        for _ in 0..count {
            self.store.append(PARTITION, self.record.clone()).expect("the queue is empty");
        }
        let (mut durable, mut last) = (0, Position::ZERO);
        self.wait(|input| {
            if let Input::Logged(logged) = input {
                durable += 1;
                last = logged.position;
            }
            durable == count
        });
        self.last = last;
    }

    fn wait(&mut self, mut is_done: impl FnMut(&Input) -> bool) {
        self.store.flush();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.store.poll() {
                Some(input) if is_done(&input) => return,
                Some(_) => {}
                None => std::thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
            }
            assert!(Instant::now() < deadline, "the storage does not answer");
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.store.flush();
            let ended = handle.shutdown();
            assert!(std::thread::panicking() || ended.is_ok(), "nothing is left to write: {ended:?}");
        }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("last", &self.last).finish_non_exhaustive()
    }
}

fn conversation() -> ConversationId {
    ConversationId::group(UserId::from_raw(1), RequestId::from_raw(1))
}
