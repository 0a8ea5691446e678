//! What the embedded store must be told: where, for how many, and its bounds. Every bound has a unit, a default and a reason.

use std::path::PathBuf;
use std::time::Duration;

use tern_protocol::limit::{FRAME_SIZE_MAX, SHARD_COUNT_MAX};
use tern_protocol::placement::{PARTITION_COUNT_DEFAULT, PARTITION_COUNT_MAX};

use crate::sabotage::Mechanisms;
#[cfg(feature = "sabotage")]
use crate::sabotage::Sabotage;

/// What journal and view write in one piece, and the smallest segment. Unit: bytes. Of the file system and of `O_DIRECT`.
pub(crate) const PAGE_SIZE: usize = 4096;
/// Largest `batch_size_max`. Unit: bytes. Recovery reads no more for one batch, whatever its header says.
pub(crate) const BATCH_SIZE_LIMIT: usize = 4 * 1024 * 1024;
/// Smallest `batch_size_max`. Unit: bytes. The largest record must fit, and the opening of a segment.
pub(crate) const BATCH_SIZE_MIN: usize = 128 * 1024;

/// What one compaction of the view writes before it removes anything. Unit: bytes. Its tables have 64 MiB: a table of one level and the
/// ten that it overlaps in the next, or the first level and the four of the second; twice the larger, because not every choice is the best.
const COMPACTION_SIZE_MAX: u64 = 2 * 11 * 64 * 1024 * 1024;

const _: () = assert!(BATCH_SIZE_MIN >= FRAME_SIZE_MAX + 2 * PAGE_SIZE);
const _: () = assert!(BATCH_SIZE_MIN >= PARTITION_COUNT_MAX as usize * 8 + PAGE_SIZE);

/// Where the store is, whom it serves, and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Holds everything. Created when missing; locked against a second process.
    pub directory: PathBuf,
    /// Partitions of the deployment; fixed when the directory is created.
    pub partitions: u16,
    /// Shards of this process; may differ from run to run.
    pub shards: u16,
    /// Size of a journal segment. Unit: bytes; rounded down to 4096. Default 64 MiB: zero-filling one takes well under a second.
    pub segment_size: u64,
    /// Size of the very first segment. Unit: bytes. Default 4 MiB, so that an empty directory starts at once; grown when it is next free.
    pub first_segment_size: u64,
    /// Segments that the journal may have. Unit: segments, at least 2. Default 8: 512 MiB of commands that the view does not have yet.
    pub segments_max: usize,
    /// Commands that one shard may have waiting for the journal. Unit: bytes of frames and record headers. Default 8 MiB.
    pub append_queue_size_max: usize,
    /// See `append_queue_size_max`. Unit: commands. Default 16,384.
    pub append_queue_len_max: usize,
    /// Durable commands that may wait for one shard to take them; beyond it commands for this shard wait at the journal, as many as
    /// `append_queue_size_max`, and more are refused as busy. Unit: bytes. Default 8 MiB, exceeded by at most one batch.
    pub logged_queue_size_max: usize,
    /// See `logged_queue_size_max`. Unit: commands. Default 16,384.
    pub logged_queue_len_max: usize,
    /// Rows that one shard may have handed over and that are not in the view yet; beyond it the shard gets no more commands.
    /// Unit: bytes of keys and values. Default 16 MiB.
    pub store_queue_size_max: usize,
    /// Hand-overs of rows in the queue between a shard and the view; more wait at the shard. Unit: commands. Default 16,384.
    pub store_queue_len_max: usize,
    /// Questions of one shard that may be unanswered. Unit: questions. Default 4,096.
    pub query_queue_len_max: usize,
    /// Journal bytes that one write and one sync may cover. Unit: bytes, 128 KiB to 4 MiB. Default 1 MiB.
    pub batch_size_max: usize,
    /// Rows that one commit of the view may cover; exceeded by at most one command's rows. Unit: bytes. Default 2 MiB.
    pub view_batch_size_max: usize,
    /// Memory for blocks of the view. Unit: bytes. Default 256 MiB; a quarter of what the process may use is good.
    pub view_cache_size: u64,
    /// Rows that the view keeps in memory per table before it writes a file. Unit: bytes. Default 64 MiB.
    pub view_memtable_size: u64,
    /// Write-ahead files of the view. Unit: bytes, at least 64 MiB. Default 128 MiB: reading them is most of a restart's time.
    pub view_journal_size: u64,
    /// Threads that answer questions. Unit: threads. Default 2: one slow disk read does not hold up the other half of the shards.
    pub view_readers: usize,
    /// How often the view is synced, so that journal segments come free. Unit: time. Default 1 s.
    pub checkpoint_interval: Duration,
    /// Rows after which the view is synced earlier. Unit: bytes. Default 32 MiB, half a segment.
    pub checkpoint_size: u64,
    /// Free space that is left to others. Nothing more is accepted below this and what the store itself still has to write then, so that
    /// its own growth never fills the disk. Unit: bytes. Default 256 MiB.
    pub free_space_min: u64,
    /// A write to the journal that takes longer makes the health degraded. Unit: time. Default 1 s.
    pub commit_slow: Duration,
    /// Longest that [`crate::EmbeddedHandle::shutdown`] waits. Unit: time. Default 20 s.
    pub shutdown_timeout: Duration,
    /// The one mechanism that is switched off, so that a test can show that the simulation notices.
    #[cfg(feature = "sabotage")]
    pub sabotage: Option<Sabotage>,
}

impl EmbeddedConfig {
    /// The default bounds.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, partitions: u16, shards: u16) -> Self {
        Self {
            directory: directory.into(),
            partitions,
            shards,
            segment_size: 64 * 1024 * 1024,
            first_segment_size: 4 * 1024 * 1024,
            segments_max: 8,
            append_queue_size_max: 8 * 1024 * 1024,
            append_queue_len_max: 16_384,
            logged_queue_size_max: 8 * 1024 * 1024,
            logged_queue_len_max: 16_384,
            store_queue_size_max: 16 * 1024 * 1024,
            store_queue_len_max: 16_384,
            query_queue_len_max: 4_096,
            batch_size_max: 1024 * 1024,
            view_batch_size_max: 2 * 1024 * 1024,
            view_cache_size: 256 * 1024 * 1024,
            view_memtable_size: 64 * 1024 * 1024,
            view_journal_size: 128 * 1024 * 1024,
            view_readers: 2,
            checkpoint_interval: Duration::from_secs(1),
            checkpoint_size: 32 * 1024 * 1024,
            free_space_min: 256 * 1024 * 1024,
            commit_slow: Duration::from_secs(1),
            shutdown_timeout: Duration::from_secs(20),
            #[cfg(feature = "sabotage")]
            sabotage: None,
        }
    }

    pub(crate) const fn mechanisms(&self) -> Mechanisms {
        Mechanisms {
            #[cfg(feature = "sabotage")]
            off: self.sabotage,
        }
    }

    /// What the store still has to write when it stops taking anything. Unit: bytes. A segment that is being made; the rows that the view
    /// has only in memory; and a compaction's result, which stands beside what it was made of: at most all of the view.
    pub(crate) fn space_reserve(&self, view_size: u64) -> u64 {
        self.segment_size + self.unflushed_size_max() + view_size.min(COMPACTION_SIZE_MAX)
    }

    /// Rows that the view may have only in memory and in its own journal. Unit: bytes. Two tables, each with one memtable that is filled and
    /// one that is flushed; a batch more in each.
    pub(crate) const fn unflushed_size_max(&self) -> u64 {
        4 * (self.view_memtable_size + self.view_batch_size_max as u64)
    }

    /// The first bound that cannot work: its name and what it must be.
    pub(crate) fn fault(&self) -> Option<(&'static str, &'static str)> {
        let segment_min = 2 * (self.batch_size_max as u64) + PAGE_SIZE as u64;
        let rules = [
            (self.partitions > 0 && self.partitions <= PARTITION_COUNT_MAX, "partitions", "1 to 1024"),
            (self.shards > 0 && self.shards <= SHARD_COUNT_MAX, "shards", "1 to 64"),
            ((BATCH_SIZE_MIN..=BATCH_SIZE_LIMIT).contains(&self.batch_size_max), "batch_size_max", "128 KiB to 4 MiB"),
            (self.segment_size >= segment_min, "segment_size", "over twice batch_size_max"),
            (self.first_segment_size >= segment_min, "first_segment_size", "over twice batch_size_max"),
            (self.first_segment_size <= self.segment_size, "first_segment_size", "at most segment_size"),
            (self.segments_max >= 2, "segments_max", "at least 2"),
            (self.append_queue_size_max >= FRAME_SIZE_MAX * 2, "append_queue_size_max", "at least 128 KiB"),
            (self.append_queue_len_max > 0, "append_queue_len_max", "at least 1"),
            (self.logged_queue_len_max > 0, "logged_queue_len_max", "at least 1"),
            (self.store_queue_len_max > 0, "store_queue_len_max", "at least 1"),
            (self.query_queue_len_max > 0, "query_queue_len_max", "at least 1"),
            (self.view_readers > 0, "view_readers", "at least 1"),
            (self.view_journal_size >= 64 * 1024 * 1024, "view_journal_size", "at least 64 MiB"),
        ];
        rules.into_iter().find(|(holds, ..)| !holds).map(|(_, name, range)| (name, range))
    }
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self::new("tern-data", PARTITION_COUNT_DEFAULT, 1)
    }
}
