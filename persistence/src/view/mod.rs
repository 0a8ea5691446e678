//! The view: rows of events and entities in an LSM, and per partition how far the log has been applied. Knows no row's meaning.
//! Every batch of rows moves its partitions' checkpoints with it, or neither is there.

mod doorbell;
mod reader;
mod writer;

use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tern_protocol::PartitionId;

use crate::config::EmbeddedConfig;
use crate::error::OpenError;
use crate::identity::FORMAT;

pub(crate) use doorbell::Doorbell;
pub(crate) use reader::{Reader, ReaderLane};
pub(crate) use writer::{ViewLane, ViewWriter};

/// Threads that flush and compact. Unit: threads.
const WORKERS: usize = 2;
const FORMAT_KEY: &[u8] = b"format";
const PARTITIONS_KEY: &[u8] = b"partitions";

/// The open view.
#[derive(Clone)]
pub(crate) struct View {
    database: Database,
    events: Keyspace,
    entities: Keyspace,
    meta: Keyspace,
    directory: PathBuf,
}

impl View {
    /// Opens or creates the view, and reads how far each partition has been applied.
    pub(crate) fn open(config: &EmbeddedConfig) -> Result<(Self, Vec<u64>), OpenError> {
        let directory = config.directory.join("view");
        let failed = |source| OpenError::View { directory: directory.clone(), source };
        let database = Database::builder(&directory)
            .cache_size(config.view_cache_size)
            .max_journaling_size(config.view_journal_size)
            .worker_threads(WORKERS)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(config.view_memtable_size);
        let open = |name| database.keyspace(name, options).map_err(failed);
        let (events, entities, meta) = (open("events")?, open("entities")?, open("meta")?);
        let view = Self { database, events, entities, meta, directory };
        view.identify(config.partitions)?;
        let applied = (0..config.partitions).map(|raw| view.applied(PartitionId::from_raw(raw)));
        let applied = applied.collect::<Result<Vec<u64>, OpenError>>()?;
        Ok((view, applied))
    }

    /// Compares format and partitions with what the view was made for; writes them into a new one.
    fn identify(&self, partitions: u16) -> Result<(), OpenError> {
        let file = self.directory.clone();
        let format = self.number(FORMAT_KEY)?;
        match (format, self.number(PARTITIONS_KEY)?) {
            (None, None) => {
                let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
                batch.insert(&self.meta, FORMAT_KEY, u64::from(FORMAT).to_le_bytes());
                batch.insert(&self.meta, PARTITIONS_KEY, u64::from(partitions).to_le_bytes());
                batch.commit().map_err(|source| OpenError::View { directory: file, source })
            }
            (Some(found), _) if found > u64::from(FORMAT) => {
                let found = u32::try_from(found).unwrap_or(u32::MAX);
                Err(OpenError::NewerFormat { file, found, supported: FORMAT })
            }
            (Some(_), Some(stored)) if stored == u64::from(partitions) => Ok(()),
            (Some(_), Some(stored)) => {
                let stored = u16::try_from(stored).unwrap_or(u16::MAX);
                Err(OpenError::PartitionsDiffer { file, stored, configured: partitions })
            }
            (Some(_), None) | (None, Some(_)) => {
                Err(OpenError::Malformed { file, reason: "the view says only half of what it is" })
            }
        }
    }

    fn applied(&self, partition: PartitionId) -> Result<u64, OpenError> {
        Ok(self.number(&checkpoint_key(partition))?.unwrap_or(0))
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, OpenError> {
        let failed = |source| OpenError::View { directory: self.directory.clone(), source };
        let Some(value) = self.meta.get(key).map_err(failed)? else { return Ok(None) };
        let malformed =
            |_| OpenError::Malformed { file: self.directory.clone(), reason: "a number of the view is cut" };
        <[u8; 8]>::try_from(&value[..]).map(|raw| Some(u64::from_le_bytes(raw))).map_err(malformed)
    }

    /// Space left where the view is. Unit: bytes. `None` when the system does not say.
    fn free_space(&self) -> Option<u64> {
        free_space(&self.directory)
    }
}

fn free_space(directory: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(directory).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Where a partition's checkpoint stands in `meta`.
fn checkpoint_key(partition: PartitionId) -> [u8; 3] {
    let [high, low] = partition.raw().to_be_bytes();
    [b'p', high, low]
}
