//! The view's database, which can be closed and opened again while the store runs: fjall takes nothing more after the disk was full once.
//! Never opens it again by itself, and never while anybody reads from it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tern_core_shard::io::{Order, Table};

use crate::config::EmbeddedConfig;
use crate::error::OpenError;
use crate::view::engine::{Batch, Engine, EngineError, Moment, Rows};
use crate::view::lsm::{Lsm, WORKERS, is_full};

/// Between two looks whether somebody still reads.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// The database, or nothing after it could not be opened again.
#[derive(Debug)]
pub(super) struct Door {
    config: EmbeddedConfig,
    lsm: RwLock<Option<Arc<Lsm>>>,
}

impl Door {
    /// Opens or creates the database.
    pub(super) fn open(config: &EmbeddedConfig) -> Result<(Self, Vec<u64>), OpenError> {
        let (lsm, applied) = open(config)?;
        Ok((Self { config: config.clone(), lsm: RwLock::new(Some(Arc::new(lsm))) }, applied))
    }

    fn lsm(&self) -> RwLockReadGuard<'_, Option<Arc<Lsm>>> {
        self.lsm.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, ask: impl FnOnce(&Lsm) -> Result<T, EngineError>) -> Result<T, EngineError> {
        self.lsm().as_ref().map_or_else(|| Err(closed()), |lsm| ask(lsm))
    }
}

fn open(config: &EmbeddedConfig) -> Result<(Lsm, Vec<u64>), OpenError> {
    let lsm = Lsm::open(config, WORKERS)?;
    let applied = lsm.checkpoints(config.partitions)?;
    Ok((lsm, applied))
}

/// Why it does not open again.
#[expect(clippy::wildcard_enum_match_arm, reason = "a full disk shows in these two")]
fn refused(error: &OpenError) -> EngineError {
    let full = match error {
        OpenError::Io { source, .. } => is_full(source),
        OpenError::View { source: fjall::Error::Io(source), .. }
        | OpenError::View { source: fjall::Error::Storage(fjall::LsmError::Io(source)), .. } => is_full(source),
        _ => false,
    };
    if full { EngineError::Full(error.to_string()) } else { EngineError::Failed(error.to_string()) }
}

fn closed() -> EngineError {
    EngineError::Failed("the view is closed".into())
}

impl Engine for Door {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        self.with(|lsm| lsm.commit(batch))
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.with(Engine::persist)
    }

    fn moment(&self) -> Box<dyn Moment + '_> {
        self.lsm().as_ref().map_or_else(|| Box::new(Closed) as Box<dyn Moment>, |lsm| Lsm::moment_of(Arc::clone(lsm)))
    }

    fn size(&self) -> u64 {
        // Whoever asks must not wait until it is open again.
        self.lsm.try_read().ok().and_then(|lsm| lsm.as_ref().map(|lsm| lsm.size())).unwrap_or(0)
    }

    fn is_ready(&self) -> Result<bool, EngineError> {
        self.with(Engine::is_ready)
    }

    fn reopen(&self) -> Result<Vec<u64>, EngineError> {
        let mut place = self.lsm.write().unwrap_or_else(PoisonError::into_inner);
        let mut shared = place.take();
        while let Some(lsm) = shared {
            shared = Arc::try_unwrap(lsm).err();
            if shared.is_some() {
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
        let (lsm, applied) = open(&self.config).map_err(|error| refused(&error))?;
        lsm.flush_all()?;
        *place = Some(Arc::new(lsm));
        Ok(applied)
    }
}

/// A moment of nothing.
struct Closed;

impl Moment for Closed {
    fn prefix(&self, _: Table, _: &[u8]) -> Rows<'_> {
        Box::new(std::iter::once(Err(closed())))
    }

    fn range(&self, _: Table, _: &[u8], _: &[u8], _: Order) -> Rows<'_> {
        Box::new(std::iter::once(Err(closed())))
    }
}
