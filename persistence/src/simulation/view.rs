//! A view as the journal sees it: how far each partition got, commit by commit, and up to where that was persisted. After a power cut it
//! has some of the commits behind the last persist, never a part of one. Keeps no rows.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::rng::Rng;
use crate::error::OpenError;
use crate::files::Files;
use crate::journal::segments::Synced;
use crate::status::Status;
use crate::store::StoredUpTo;
use crate::view::ViewLane;

/// Hand-overs of one shard in one commit.
const COMMIT_LEN: u64 = 40;

#[derive(Debug, Default)]
pub(super) struct ModelView {
    cached: Vec<u64>,
    durable: Vec<u64>,
    /// What was committed since the last persist, oldest first.
    commits: Vec<Vec<u64>>,
}

impl ModelView {
    /// Opens what is there; a new one when its directory is gone. Persists what it tells, as the real one does.
    pub(super) fn open(&mut self, files: &dyn Files, directory: &Path, partitions: u16) -> Result<Vec<u64>, OpenError> {
        let path = directory.join("view");
        if !files.exists(&path).map_err(OpenError::io(&path, "look for it"))? {
            let nothing = vec![0; usize::from(partitions)];
            *self = Self { cached: nothing.clone(), durable: nothing, commits: Vec::new() };
            files.make_directory(&path).map_err(OpenError::io(&path, "create it"))?;
        }
        self.persist();
        Ok(self.cached.clone())
    }

    fn persist(&mut self) {
        self.durable.clone_from(&self.cached);
        self.commits.clear();
    }

    /// The power went.
    pub(super) fn cut(&mut self, rng: &mut Rng) {
        let kept = rng.index(self.commits.len() + 1);
        if let Some(last) = kept.checked_sub(1).and_then(|last| self.commits.get(last)) {
            self.durable.clone_from(last);
        }
        self.cached.clone_from(&self.durable);
        self.commits.clear();
    }

    /// Commits some of what waits.
    pub(super) fn commit(&mut self, lanes: &mut [ViewLane], rng: &mut Rng) {
        for lane in lanes {
            for _ in 0..rng.below(COMMIT_LEN) {
                if lane.stored.is_full() {
                    break;
                }
                let Ok(store) = lane.stores.pop() else { break };
                let at = &mut self.cached[usize::from(store.partition.raw())];
                *at = store.position.raw().max(*at);
                let (partition, position, size) = (store.partition, store.position, store.size);
                assert!(lane.stored.push(StoredUpTo { partition, position, size }).is_ok(), "there is room");
            }
        }
        if self.commits.last().unwrap_or(&self.durable) != &self.cached {
            self.commits.push(self.cached.clone());
        }
    }

    /// Persists, and then tells the journal what it need not keep.
    pub(super) fn checkpoint(&mut self, synced: &Arc<Synced>, status: &Arc<Status>) {
        self.persist();
        synced.publish(&self.cached);
        status.journal_wants_segment.swap(false, SeqCst);
    }
}
