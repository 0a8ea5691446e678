//! What the view asks of the database under it: batches that are stored whole or not at all, syncs, and moments to read from.
//! Knows no row's meaning. Everything that the view promises after a crash rests on the four sentences of [`Engine`].

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tern_core_shard::io::{Order, Row, Table};
use tern_protocol::PartitionId;

/// Rows, and how far their partitions' logs have been applied with them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub(crate) rows: Vec<Row>,
    /// Per partition the last position; a partition that is not named keeps its checkpoint.
    pub(crate) applied: Vec<(PartitionId, u64)>,
}

/// A database of two tables and the checkpoints.
///
/// After any crash, power cuts included: it opens; its rows are those of a prefix of the batches; the prefix holds every batch before the
/// last successful [`Self::persist`]; rows and checkpoints are those of one batch.
pub(crate) trait Engine: fmt::Debug + Send + Sync {
    /// Stores a batch: every later moment sees it. After an error nothing more may be committed: it may be there or not.
    fn commit(&self, batch: Batch) -> Result<(), EngineError>;

    /// Makes everything that was committed durable. After an error the state of the files is unknown: never try again.
    fn persist(&self) -> Result<(), EngineError>;

    /// The database as it is at this moment.
    fn moment(&self) -> Box<dyn Moment + '_>;

    /// What its tables take on the disk. Unit: bytes.
    fn size(&self) -> u64;

    /// Whether it takes a batch without waiting for its own work to catch up. An error when that work has ended.
    fn is_ready(&self) -> Result<bool, EngineError>;

    /// Closes it and opens it again, and makes everything that it then has durable, from memory: no sync that failed is believed. Returns
    /// the checkpoints. Moments wait meanwhile.
    fn reopen(&self) -> Result<Vec<u64>, EngineError>;
}

/// The open view, shared by its threads.
pub(crate) type View = Arc<dyn Engine>;

/// Keys and values of a range.
pub(crate) type Rows<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + 'a>;

/// One moment: what was committed together is seen together.
pub(crate) trait Moment {
    /// Rows whose keys begin like this, ascending.
    fn prefix(&self, table: Table, prefix: &[u8]) -> Rows<'_>;

    /// Rows with keys from the first to the last, both included, from the wanted end.
    fn range(&self, table: Table, first: &[u8], last: &[u8], order: Order) -> Rows<'_>;
}

/// Why the database did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EngineError {
    /// It may do it the next time.
    Failed(String),
    /// The disk is full.
    Full(String),
    /// What is stored is damaged: the same again gives the same. The text names the file where that is known.
    Damaged(String),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) | Self::Full(text) | Self::Damaged(text) => f.write_str(text),
        }
    }
}
