//! The view's database: fjall, an LSM with atomic batches over three keyspaces. Opens it, says what it is for, and turns its errors into
//! ours. Knows which file is damaged; repairs nothing but the torn end of its journal, see [`super::tail`].

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{AbstractTree, Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use tern_core_shard::io::{Order, Table};
use tern_protocol::PartitionId;

use crate::config::EmbeddedConfig;
use crate::error::{Journal, OpenError};
use crate::files::Machine;
use crate::identity::{FORMAT, check_format, sync_directory};
use crate::sabotage::{Mechanisms, Sabotage};
use crate::view::engine::{Batch, Engine, EngineError, Moment, Rows};
use crate::view::tail;

/// Threads that flush and compact. Unit: threads.
pub(crate) const WORKERS: usize = 2;
/// Memtables that may wait to be flushed when a batch comes. Unit: memtables of one table. At 4, fjall lets a commit wait for ever if the
/// worker that should flush them has died.
const SEALED_MAX: usize = 2;
/// Files that may wait to be sorted into the others when a batch comes. Unit: files of one table. At 30 fjall lets a commit wait.
const UNSORTED_MAX: usize = 20;
/// Between two looks at memtables that are flushed.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const FORMAT_KEY: &[u8] = b"format";
const PARTITIONS_KEY: &[u8] = b"partitions";
/// In events and entities: which of them it is. Shorter than the key of any row.
const NAME_KEY: &[u8] = &[0];

/// Longest search for what a worker met, while nothing is accepted any more. Unit: time. At 1 GB/s it has seen 10 GB.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(10);

/// Whether a database must have all its keyspaces already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    There,
    ToBeMade,
}

/// The open database.
pub(crate) struct Lsm {
    database: Database,
    events: Keyspace,
    entities: Keyspace,
    meta: Keyspace,
    directory: PathBuf,
    unflushed_size_max: u64,
    mechanisms: Mechanisms,
}

impl Lsm {
    /// Opens or creates it. Without workers nothing is flushed or compacted: then its only writes are appends to one journal file.
    pub(crate) fn open(config: &EmbeddedConfig, workers: usize) -> Result<Self, OpenError> {
        let directory = config.directory.join("view");
        if !directory.try_exists().map_err(OpenError::io(&directory, "look for it"))? {
            Self::create(config, &directory)?;
        }
        Self::open_at(config, directory, workers, Parts::There)
    }

    /// Makes an empty one under another name, and gives it its own when all of it is durable: fjall does not open what a crash left of
    /// making one.
    fn create(config: &EmbeddedConfig, directory: &Path) -> Result<(), OpenError> {
        let draft = directory.with_extension("new");
        match std::fs::remove_dir_all(&draft) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::io(&draft, "remove the unfinished view")(error));
            }
            Ok(()) | Err(_) => {}
        }
        drop(Self::open_at(config, draft.clone(), 0, Parts::ToBeMade)?);
        sync_tree(&draft).map_err(OpenError::io(&draft, "sync the new view"))?;
        std::fs::rename(&draft, directory).map_err(OpenError::io(directory, "give the new view its name"))?;
        sync_directory(&Machine, &config.directory)
    }

    fn open_at(config: &EmbeddedConfig, directory: PathBuf, workers: usize, parts: Parts) -> Result<Self, OpenError> {
        let failed = |source| OpenError::View { directory: directory.clone(), source, journal: Journal::Partial };
        let mechanisms = config.mechanisms();
        let kept = if mechanisms.has(Sabotage::ViewTail) { tail::cut(&directory)? } else { tail::Kept::default() };
        let database = Database::builder(&directory)
            .cache_size(config.view_cache_size)
            .max_journaling_size(config.view_journal_size)
            .worker_threads_unchecked(workers)
            .open()
            .map_err(failed)?;
        if parts == Parts::There && ["events", "entities", "meta"].iter().any(|name| !database.keyspace_exists(name)) {
            // Opening it would make it anew, and empty.
            let reason = "a part of the view is missing";
            return Err(OpenError::Malformed { file: directory.join("keyspaces"), reason });
        }
        let options = || KeyspaceCreateOptions::default().max_memtable_size(config.view_memtable_size);
        let open = |name| database.keyspace(name, options).map_err(failed);
        let (events, entities, meta) = (open("events")?, open("entities")?, open("meta")?);
        let unflushed_size_max = config.unflushed_size_max();
        let lsm = Self { database, events, entities, meta, directory, unflushed_size_max, mechanisms };
        lsm.compare_with_journal(kept)?;
        lsm.check_tables()?;
        lsm.identify(config.partitions)?;
        Ok(lsm)
    }

    /// Refuses when a table has what the journal lost. A memtable is flushed only after the journal was synced, so an end that a power cut
    /// tore lies behind every table; one that lies before was damaged later, and the tables are no longer of one moment.
    fn compare_with_journal(&self, kept: tail::Kept) -> Result<(), OpenError> {
        let tables = [&self.events, &self.entities, &self.meta];
        let newest = tables.into_iter().filter_map(|keyspace| keyspace.tree.get_highest_persisted_seqno()).max();
        match (kept.last, newest) {
            (Some((file, last)), Some(newest)) if newest > last => {
                let reason = "the view's journal ends before what its tables have: a synced part of it is damaged";
                Err(OpenError::Malformed { file, reason })
            }
            _ => Ok(()),
        }
    }

    /// Reads the index and the first and last block of every table, so that a damaged one is met here and not by somebody's request.
    fn check_tables(&self) -> Result<(), OpenError> {
        for keyspace in [&self.events, &self.entities, &self.meta] {
            for table in keyspace.tree.current_version().iter_tables() {
                let mut rows = table.range(..);
                let ends = [rows.next(), rows.next_back()];
                if let Some(Err(source)) = ends.into_iter().flatten().find(Result::is_err) {
                    let (file, journal) = (table.path.to_path_buf(), Journal::Partial);
                    return Err(OpenError::ViewDamaged { file, source: source.into(), journal });
                }
            }
        }
        Ok(())
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
                for keyspace in [&self.events, &self.entities] {
                    batch.insert(keyspace, NAME_KEY, keyspace.name().as_bytes());
                }
                batch.commit().map_err(|source| OpenError::View { directory: file, source, journal: Journal::Partial })
            }
            (Some(found), Some(stored)) => {
                check_format(u32::try_from(found).unwrap_or(u32::MAX), &file)?;
                if stored == u64::from(partitions) {
                    return self.check_names();
                }
                let stored = u16::try_from(stored).unwrap_or(u16::MAX);
                Err(OpenError::PartitionsDiffer { file, stored, configured: partitions })
            }
            (Some(_), None) | (None, Some(_)) => {
                Err(OpenError::Malformed { file, reason: "the view says only half of what it is" })
            }
        }
    }

    /// Every keyspace says which it is.
    fn check_names(&self) -> Result<(), OpenError> {
        for keyspace in [&self.events, &self.entities] {
            let failed =
                |source| OpenError::View { directory: self.directory.clone(), source, journal: Journal::Partial };
            let name = keyspace.get(NAME_KEY).map_err(failed)?;
            if name.is_none_or(|name| name[..] != *keyspace.name().as_bytes()) {
                let reason = "another part of the view is in the place of this one";
                return Err(OpenError::Malformed { file: keyspace.path().into(), reason });
            }
        }
        Ok(())
    }

    /// Per partition, up to which position it has been applied; durably, because the journal reuses segments that the view has.
    pub(crate) fn checkpoints(&self, partitions: u16) -> Result<Vec<u64>, OpenError> {
        let failed = |source| OpenError::View { directory: self.directory.clone(), source, journal: Journal::Partial };
        self.database.persist(PersistMode::SyncAll).map_err(failed)?;
        let key = |raw| checkpoint_key(PartitionId::from_raw(raw));
        (0..partitions).map(|raw| Ok(self.number(&key(raw))?.unwrap_or(0))).collect()
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, OpenError> {
        let failed = |source| OpenError::View { directory: self.directory.clone(), source, journal: Journal::Partial };
        let Some(value) = self.meta.get(key).map_err(failed)? else { return Ok(None) };
        let malformed =
            |_| OpenError::Malformed { file: self.directory.clone(), reason: "a number of the view is cut" };
        <[u8; 8]>::try_from(&value[..]).map(|raw| Some(u64::from_le_bytes(raw))).map_err(malformed)
    }

    const fn keyspace(&self, table: Table) -> &Keyspace {
        match table {
            Table::Events => &self.events,
            Table::Entities => &self.entities,
        }
    }

    /// Writes a table's rows in memory into a file, as a worker would some day.
    #[cfg(test)]
    pub(crate) fn flush(&self, table: Table) {
        self.keyspace(table).rotate_memtable_and_wait().ok();
    }

    /// The files of a table.
    #[cfg(test)]
    pub(crate) fn table_files(&self, table: Table) -> Vec<PathBuf> {
        let version = self.keyspace(table).tree.current_version();
        version.iter_tables().map(|table| table.path.to_path_buf()).collect()
    }

    const fn keyspaces(&self) -> [&Keyspace; 3] {
        [&self.events, &self.entities, &self.meta]
    }

    /// A moment that keeps the database open.
    pub(super) fn moment_of(lsm: Arc<Self>) -> Box<dyn Moment> {
        Box::new(LsmMoment { snapshot: lsm.database.snapshot(), lsm })
    }

    /// Writes what is only in memory and in the journal file into tables, and waits until it is there.
    pub(super) fn flush_all(&self) -> Result<(), EngineError> {
        for keyspace in self.keyspaces() {
            keyspace.rotate_memtable().map_err(|error| self.failed(&error))?;
        }
        while self.keyspaces().into_iter().any(|keyspace| keyspace.sealed_memtable_count() > 0) {
            self.database.persist(PersistMode::Buffer).map_err(|error| self.failed(&error))?;
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.persist()
    }

    fn failed(&self, error: &fjall::Error) -> EngineError {
        let text = format!("{}: {error}", self.directory.display());
        let full = matches!(
            error,
            fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) if is_full(source)
        );
        if full { EngineError::Full(text) } else { EngineError::Failed(text) }
    }

    /// What a write failed with. A worker that met something damaged poisons the database, and does not say what it met.
    fn write_failed(&self, error: &fjall::Error) -> EngineError {
        let poisoned = matches!(error, fjall::Error::Poisoned);
        poisoned.then(|| self.find_damage()).flatten().unwrap_or_else(|| self.failed(error))
    }

    /// Reads every table until one cannot be read, or for [`SEARCH_TIME_MAX`].
    fn find_damage(&self) -> Option<EngineError> {
        let began = Instant::now();
        for keyspace in self.keyspaces() {
            for table in keyspace.tree.current_version().iter_tables() {
                let rows = table.range(..).take_while(|_| began.elapsed() < SEARCH_TIME_MAX);
                if let Some(error) = rows.filter_map(Result::err).next() {
                    let advice = "check the disk, then restore the data directory from a backup";
                    let text = format!("{}: a table of the view is damaged: {error}; {advice}", table.path.display());
                    return Some(EngineError::Damaged(text));
                }
            }
        }
        None
    }

    /// What a read of these keys failed with. Finds the damaged table by reading the same keys from each of them.
    fn read_failed(&self, table: Table, first: &[u8], last: &[u8], error: &fjall::Error) -> EngineError {
        if !is_damage(error) {
            return self.failed(error);
        }
        let keys = fjall::UserKey::from(first)..=fjall::UserKey::from(last);
        let version = self.keyspace(table).tree.current_version();
        let damaged = version.iter_tables().find(|table| table.range(keys.clone()).any(|row| row.is_err()));
        let file = damaged.map_or_else(|| self.directory.clone(), |table| table.path.to_path_buf());
        EngineError::Damaged(format!("{}: {error}", file.display()))
    }
}

impl Engine for Lsm {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let mut writes = self.database.batch().durability(Some(PersistMode::Buffer));
        for row in batch.rows {
            let keyspace = self.keyspace(row.table);
            match row.value {
                Some(value) => writes.insert(keyspace, row.key, value),
                None => writes.remove(keyspace, row.key),
            }
        }
        if !self.mechanisms.has(Sabotage::ViewBatch) {
            writes.commit().map_err(|error| self.write_failed(&error))?;
            writes = self.database.batch().durability(Some(PersistMode::Buffer));
        }
        for (partition, applied) in batch.applied {
            writes.insert(&self.meta, checkpoint_key(partition), applied.to_le_bytes());
        }
        writes.commit().map_err(|error| self.write_failed(&error))
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.database.persist(PersistMode::SyncData).map_err(|error| self.write_failed(&error))
    }

    fn moment(&self) -> Box<dyn Moment + '_> {
        Box::new(LsmMoment { lsm: self, snapshot: self.database.snapshot() })
    }

    fn size(&self) -> u64 {
        self.keyspaces().into_iter().map(Keyspace::disk_space).sum()
    }

    fn is_ready(&self) -> Result<bool, EngineError> {
        let behind = |keyspace: &Keyspace| {
            keyspace.sealed_memtable_count() > SEALED_MAX || keyspace.l0_table_count() > UNSORTED_MAX
        };
        if self.database.write_buffer_size() <= self.unflushed_size_max && !self.keyspaces().into_iter().any(behind) {
            return Ok(true);
        }
        // Says whether its workers have died.
        self.database.persist(PersistMode::Buffer).map_err(|error| self.write_failed(&error))?;
        Ok(false)
    }

    fn reopen(&self) -> Result<Vec<u64>, EngineError> {
        Err(EngineError::Failed("an open database is not opened again".into()))
    }
}

impl std::fmt::Debug for Lsm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lsm").field("directory", &self.directory).finish_non_exhaustive()
    }
}

struct LsmMoment<L> {
    lsm: L,
    snapshot: Snapshot,
}

impl<L: Deref<Target = Lsm>> Moment for LsmMoment<L> {
    fn prefix(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        let rows = self.snapshot.prefix(self.lsm.keyspace(table), prefix);
        // No key is longer than the longest prefix and this.
        let (first, last) = (prefix.to_vec(), [prefix, &[0xff; 64]].concat());
        Box::new(rows.map(move |row| self.row(table, &first, &last, row)))
    }

    fn range(&self, table: Table, first: &[u8], last: &[u8], order: Order) -> Rows<'_> {
        let rows = self.snapshot.range(self.lsm.keyspace(table), first..=last);
        let (first, last) = (first.to_vec(), last.to_vec());
        let read = move |row| self.row(table, &first, &last, row);
        match order {
            Order::OldestFirst => Box::new(rows.map(read)),
            Order::NewestFirst => Box::new(rows.rev().map(read)),
        }
    }
}

impl<L: Deref<Target = Lsm>> LsmMoment<L> {
    fn row(&self, table: Table, first: &[u8], last: &[u8], row: Guard) -> Result<(Bytes, Bytes), EngineError> {
        match row.into_inner() {
            Ok((key, value)) => Ok((key.into(), value.into())),
            Err(error) => Err(self.lsm.read_failed(table, first, last, &error)),
        }
    }
}

/// Makes a directory durable with everything in it.
fn sync_tree(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()
}

pub(super) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Whether asking again will give the same. What is read with a wrong checksum or a wrong form stays so; a bad sector (`EIO`) has been
/// tried often enough by the drive and the kernel; a system that is out of memory or of files may recover.
#[expect(clippy::wildcard_enum_match_arm, reason = "everything else that a read can meet is a wrong checksum or form")]
fn is_damage(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
            source.kind() == std::io::ErrorKind::UnexpectedEof
                || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        }
        fjall::Error::Poisoned | fjall::Error::KeyspaceDeleted | fjall::Error::Locked => false,
        _ => true,
    }
}

/// Where a partition's checkpoint stands in `meta`.
fn checkpoint_key(partition: PartitionId) -> [u8; 3] {
    let [high, low] = partition.raw().to_be_bytes();
    [b'p', high, low]
}
