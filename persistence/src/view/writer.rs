//! The view's only writer: groups what the shards hand over into one atomic commit, rows and checkpoints together, and syncs now
//! and then so that the journal can reuse its segments. Never claims more synced than is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtrb::{Consumer, Producer, PushError};
use tern_core_shard::io::{Row, Table};
use tern_protocol::{PartitionId, Position};

use crate::config::EmbeddedConfig;
use crate::embedded::Bell;
use crate::journal::segments::Synced;
use crate::sabotage::{Mechanisms, Sabotage};
use crate::status::{Status, micros};
use crate::store::{StoreRows, StoredUpTo};
use crate::view::View;
use crate::view::engine::{Batch, EngineError};

/// Longest sleep.
const IDLE_PARK: Duration = Duration::from_millis(500);
/// How long rows are gathered between two commits. Unit: time. Until then they are in the log and in memory, where they are read from: a
/// commit for each message would cost more than the message.
const GATHER: Duration = Duration::from_millis(5);
/// Shortest time between two syncs, also when the journal is out of segments.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(50);

/// The writer's ends of one shard's queues.
pub(crate) struct ViewLane {
    pub(crate) stores: Consumer<StoreRows>,
    pub(crate) stored: Producer<StoredUpTo>,
    pub(crate) bell: Bell,
}

struct Lane {
    ends: ViewLane,
    /// What to confirm, per partition the highest: bounded by the shard's partitions.
    pending: BTreeMap<PartitionId, StoredUpTo>,
}

/// What the queues held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// Less than a batch: more may come together first.
    Some,
    /// A batch, and perhaps more.
    Much,
}

/// Rows of one commit; of several for one key the last one counts.
#[derive(Default)]
struct Draft {
    rows: Vec<Row>,
    places: HashMap<(Table2, Bytes), usize>,
    size: usize,
    stores: u64,
}

/// What stood still when the disk was full.
#[derive(Debug)]
struct Broken {
    /// What could not be committed, and what it counts for. Unit: bytes.
    batch: Option<(Batch, u64)>,
    reason: String,
}

/// [`Table`] as a key of a hash map.
type Table2 = u8;

/// The view writer thread's state.
pub(crate) struct ViewWriter {
    view: View,
    status: Arc<Status>,
    synced: Arc<Synced>,
    lanes: Vec<Lane>,
    lane_first: usize,
    /// Per partition what is in the batches made so far.
    applied: Vec<u64>,
    /// Per partition what is committed.
    committed: Vec<u64>,
    /// The disk was full: until the view has been opened again, nothing is committed, synced or confirmed.
    broken: Option<Broken>,
    batch_size_max: usize,
    mechanisms: Mechanisms,
    checkpoint_interval: Duration,
    checkpoint_size: u64,
    /// Committed since the last sync. Unit: bytes.
    unsynced_size: u64,
    unsynced: bool,
    synced_at: Instant,
}

impl ViewWriter {
    pub(crate) fn new(
        view: View,
        applied: Vec<u64>,
        lanes: Vec<ViewLane>,
        config: &EmbeddedConfig,
        synced: Arc<Synced>,
        status: Arc<Status>,
    ) -> Self {
        status.applied_total.store(applied.iter().sum(), Relaxed);
        Self {
            view,
            status,
            synced,
            lanes: lanes.into_iter().map(|ends| Lane { ends, pending: BTreeMap::new() }).collect(),
            lane_first: 0,
            committed: applied.clone(),
            applied,
            broken: None,
            batch_size_max: config.view_batch_size_max,
            mechanisms: config.mechanisms(),
            checkpoint_interval: config.checkpoint_interval,
            checkpoint_size: config.checkpoint_size,
            unsynced_size: 0,
            unsynced: false,
            synced_at: Instant::now(),
        }
    }

    /// Serves until the store is stopped; then writes the last checkpoint, unless the store was abandoned.
    pub(crate) fn run(mut self) -> Result<(), String> {
        loop {
            let stopped = self.status.is_stopped();
            let found = if self.status.space_low() { Found::Nothing } else { self.heal_or_turn() };
            if let Some(reason) = self.status.view_failed() {
                let reason = reason.to_owned();
                self.sleep_until_stopped();
                return Err(reason);
            }
            if self.status.is_abandoned() {
                return Ok(());
            }
            if stopped && found == Found::Nothing {
                return self.broken.take().map_or_else(|| self.checkpoint(), |broken| Err(broken.reason));
            }
            self.deliver();
            if self.checkpoint_due() {
                self.checkpoint().ok();
            } else {
                match found {
                    Found::Nothing => self.fall_idle(),
                    Found::Some if !stopped => std::thread::park_timeout(GATHER),
                    Found::Some | Found::Much => {}
                }
            }
        }
    }

    /// Sleeps until there is something to do.
    fn fall_idle(&self) {
        self.status.view_bell.announce_idle();
        // What came in before the announcement rang no bell. While space is low it waits in any case.
        if self.status.space_low() || self.lanes.iter().all(|lane| lane.ends.stores.is_empty()) {
            std::thread::park_timeout(self.pause());
        }
        self.status.view_bell.stay_awake();
    }

    /// A failed view is only read from: what waits stays in the journal for the next start.
    fn sleep_until_stopped(&self) {
        while !self.status.is_stopped() {
            std::thread::park_timeout(IDLE_PARK);
        }
    }

    fn pause(&self) -> Duration {
        if self.unsynced && self.status.journal_wants_segment.load(SeqCst) {
            CHECKPOINT_PAUSE
        } else if self.unsynced {
            self.checkpoint_interval.saturating_sub(self.synced_at.elapsed()).clamp(Duration::from_millis(1), IDLE_PARK)
        } else {
            IDLE_PARK
        }
    }

    pub(super) fn heal_or_turn(&mut self) -> Found {
        if self.broken.is_some() { self.heal() } else { self.turn() }
    }

    /// Commits what is queued, up to one batch.
    pub(super) fn turn(&mut self) -> Found {
        match self.view.is_ready() {
            Ok(true) => {}
            Ok(false) => return Found::Some,
            Err(error) => return self.fail(&error, None),
        }
        let mut draft = Draft::default();
        let count = self.lanes.len();
        for turn in 0..count {
            let Some(lane) = self.lanes.get_mut((self.lane_first + turn) % count) else { continue };
            while draft.size < self.batch_size_max {
                let Ok(store) = lane.ends.stores.pop() else { break };
                let confirmed = lane.pending.entry(store.partition).or_insert(StoredUpTo {
                    partition: store.partition,
                    position: Position::ZERO,
                    size: 0,
                });
                confirmed.size += store.size;
                confirmed.position = confirmed.position.max(store.position);
                draft.stores += 1;
                let Some(applied) = self.applied.get_mut(usize::from(store.partition.raw())) else { continue };
                // Already in the view: a shard that repeats itself changes nothing.
                if store.position.raw() > *applied {
                    self.status.applied_total.fetch_add(store.position.raw() - *applied, Relaxed);
                    *applied = store.position.raw();
                    draft.size += store.size;
                    store.rows.into_iter().for_each(|row| draft.put(row));
                }
            }
        }
        self.lane_first = (self.lane_first + 1) % count.max(1);
        if draft.stores == 0 {
            return Found::Nothing;
        }
        let found = if draft.size < self.batch_size_max { Found::Some } else { Found::Much };
        let partitions = self.lanes.iter().flat_map(|lane| lane.pending.keys());
        let reached = |partition: &PartitionId| Some((*partition, *self.applied.get(usize::from(partition.raw()))?));
        let batch = Batch { rows: draft.rows, applied: partitions.filter_map(reached).collect() };
        if let Err(error) = self.commit(batch.clone(), draft.size as u64) {
            return self.fail(&error, Some((batch, draft.size as u64)));
        }
        self.deliver();
        found
    }

    fn commit(&mut self, batch: Batch, size: u64) -> Result<(), EngineError> {
        let began = Instant::now();
        let rows = batch.rows.len() as u64;
        self.view.commit(batch)?;
        self.committed.clone_from(&self.applied);
        self.unsynced = true;
        self.unsynced_size += size;
        self.status.view_commits.fetch_add(1, Relaxed);
        self.status.view_rows.fetch_add(rows, Relaxed);
        self.status.view_bytes.fetch_add(size, Relaxed);
        self.status.view_commit_us_max.fetch_max(micros(began.elapsed()), Relaxed);
        Ok(())
    }

    /// The database takes nothing more. After a full disk that passes; after anything else nobody knows what is on the disk.
    fn fail(&mut self, error: &EngineError, batch: Option<(Batch, u64)>) -> Found {
        if matches!(error, EngineError::Full(_)) || self.status.was_space_low() {
            let reason = error.to_string();
            self.status.break_view(&reason);
            self.broken = Some(Broken { batch, reason });
        } else {
            self.status.fail_view(error.to_string());
        }
        Found::Nothing
    }

    /// Opens the view again now that the disk has space, and goes on where it was.
    fn heal(&mut self) -> Found {
        let Some(Broken { batch, .. }) = self.broken.take() else { return Found::Nothing };
        let applied = match self.view.reopen() {
            Ok(applied) => applied,
            Err(error) if matches!(error, EngineError::Full(_)) || self.status.space_low() => {
                return self.fail(&error, batch);
            }
            Err(error) => {
                self.status.fail_view(error.to_string());
                return Found::Nothing;
            }
        };
        if applied.iter().zip(&self.committed).any(|(applied, committed)| applied < committed) {
            self.status.fail_view("rows that were confirmed were lost when the disk was full".into());
            return Found::Nothing;
        }
        self.status.heal_view();
        if let Some((batch, size)) = batch
            && let Err(error) = self.commit(batch.clone(), size)
        {
            return self.fail(&error, Some((batch, size)));
        }
        self.deliver();
        Found::Some
    }

    /// Confirms to the shards what is committed.
    pub(super) fn deliver(&mut self) {
        // What could not be committed waits among what is to be confirmed.
        if self.broken.is_some() || self.status.view_failed().is_some() {
            return;
        }
        for lane in &mut self.lanes {
            let mut ring = false;
            while let Some((partition, stored)) = lane.pending.pop_first() {
                if let Err(PushError::Full(stored)) = lane.ends.stored.push(stored) {
                    lane.pending.insert(partition, stored);
                    break;
                }
                ring = true;
            }
            if ring {
                (lane.ends.bell)();
            }
        }
    }

    fn checkpoint_due(&self) -> bool {
        let age = self.synced_at.elapsed();
        let wanted = self.status.journal_wants_segment.load(SeqCst) && age >= CHECKPOINT_PAUSE;
        let due = age >= self.checkpoint_interval || self.unsynced_size >= self.checkpoint_size || wanted;
        self.unsynced && due && self.broken.is_none()
    }

    /// What the view has. After a commit that failed, `applied` says more.
    fn reached(&self) -> &[u64] {
        if self.mechanisms.has(Sabotage::ViewFailure) { &self.committed } else { &self.applied }
    }

    /// Syncs, and then tells the journal what it need not keep.
    pub(super) fn checkpoint(&mut self) -> Result<(), String> {
        if !self.mechanisms.has(Sabotage::ViewOrder) {
            self.synced.publish(self.reached());
        }
        if self.unsynced
            && self.mechanisms.has(Sabotage::ViewSync)
            && let Err(error) = self.view.persist()
        {
            let reason = error.to_string();
            self.fail(&error, None);
            return Err(reason);
        }
        self.status.forget_space_low();
        self.unsynced = false;
        self.unsynced_size = 0;
        self.synced_at = Instant::now();
        self.synced.publish(self.reached());
        self.status.checkpoints.fetch_add(1, Relaxed);
        if self.status.journal_wants_segment.swap(false, SeqCst) {
            self.status.journal.wake();
        }
        Ok(())
    }
}

impl Draft {
    fn put(&mut self, row: Row) {
        let table = match row.table {
            Table::Events => 0,
            Table::Entities => 1,
        };
        match self.places.get(&(table, row.key.clone())).and_then(|&place| self.rows.get_mut(place)) {
            Some(earlier) => earlier.value = row.value,
            None => {
                self.places.insert((table, row.key.clone()), self.rows.len());
                self.rows.push(row);
            }
        }
    }
}
