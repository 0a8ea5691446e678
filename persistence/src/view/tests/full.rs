//! A disk that was full: nothing is confirmed until the view has been opened again, then everything is; a view that lost what it had
//! confirmed is not gone on with, and neither is one that failed for another reason.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};
use tern_core_shard::io::Table;
use tern_protocol::Position;

use super::map::Map;
use super::{P, PARTITIONS, config, put};
use crate::conformance::world::Place;
use crate::journal::segments::Synced;
use crate::status::Status;
use crate::store::{StoreRows, StoredUpTo};
use crate::view::engine::{Batch, Engine, EngineError, Moment};
use crate::view::{ViewLane, ViewWriter};

/// A map on a disk that can be full.
#[derive(Debug, Default)]
struct Filled {
    map: Map,
    fault: Mutex<Option<EngineError>>,
    reopened: AtomicUsize,
    /// What was committed last is gone when it is opened again.
    forgets: AtomicBool,
}

impl Filled {
    fn fault(&self) -> Result<(), EngineError> {
        self.fault.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl Engine for Filled {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        self.fault()?;
        self.map.commit(batch)
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.fault()?;
        self.map.persist()
    }

    fn moment(&self) -> Box<dyn Moment + '_> {
        self.map.moment()
    }

    fn size(&self) -> u64 {
        0
    }

    fn is_ready(&self) -> Result<bool, EngineError> {
        Ok(true)
    }

    fn reopen(&self) -> Result<Vec<u64>, EngineError> {
        self.reopened.fetch_add(1, SeqCst);
        *self.fault.lock().unwrap() = None;
        if self.forgets.load(SeqCst) {
            self.map.cut(0);
        }
        let applied = self.map.content().applied;
        Ok((0..PARTITIONS).map(|raw| applied.get(&raw).copied().unwrap_or(0)).collect())
    }
}

struct Rig {
    filled: Arc<Filled>,
    writer: ViewWriter,
    status: Arc<Status>,
    stores: Producer<StoreRows>,
    stored: Consumer<StoredUpTo>,
}

impl Rig {
    fn new() -> Self {
        let filled = Arc::<Filled>::default();
        let status = Arc::new(Status::new(1, Duration::from_secs(1)));
        let (stores, stores_out) = RingBuffer::new(64);
        let (stored_in, stored) = RingBuffer::new(64);
        let lane = ViewLane { stores: stores_out, stored: stored_in, bell: Arc::new(|| {}) };
        let applied = vec![0; usize::from(PARTITIONS)];
        let synced = Arc::new(Synced::new(&applied));
        let config = config(&Place::new("full").0);
        let view: crate::view::View = Arc::clone(&filled) as _;
        let writer = ViewWriter::new(view, applied, vec![lane], &config, synced, Arc::clone(&status));
        Self { filled, writer, status, stores, stored }
    }

    /// There is space again.
    fn empty(&self) {
        self.status.set_space_low(false);
    }

    fn hand_over(&mut self, position: u64) {
        let rows = vec![put(Table::Events, &position.to_be_bytes(), vec![1])];
        let position = Position::from_raw(position);
        self.stores.push(StoreRows { partition: P, position, rows, size: 100 }).unwrap();
    }

    /// The position up to which a turn confirms; while space is low there is none.
    fn turn(&mut self) -> Option<u64> {
        if !self.status.space_low() {
            self.writer.heal_or_turn();
            self.writer.deliver();
        }
        self.stored.pop().ok().map(|stored| stored.position.raw())
    }
}

fn full() -> EngineError {
    EngineError::Full("no space left".into())
}

#[test]
fn rows_that_met_a_full_disk_are_confirmed_once_the_view_has_been_opened_again() {
    let mut rig = Rig::new();
    rig.hand_over(1);
    assert_eq!(rig.turn(), Some(1));
    *rig.filled.fault.lock().unwrap() = Some(full());
    rig.hand_over(2);
    assert_eq!(rig.turn(), None, "nothing that is not there is confirmed");
    assert!(!rig.status.accepts() && rig.status.failure().is_none(), "it waits, and has not failed");
    assert!(matches!(rig.status.health().view, crate::State::Degraded(_)));
    rig.hand_over(3);
    assert_eq!(rig.turn(), None, "it is not opened again before there is space");
    assert_eq!(rig.filled.reopened.load(SeqCst), 0);
    rig.empty();
    assert_eq!(rig.turn(), Some(2), "what could not be committed comes first");
    assert_eq!(rig.turn(), Some(3));
    assert_eq!(rig.filled.map.content().rows.len(), 3);
    assert!(rig.status.accepts());
    assert_eq!(rig.status.counters().view_heals, 1);
}

#[test]
fn a_disk_that_is_full_again_at_once_is_tried_again() {
    let mut rig = Rig::new();
    *rig.filled.fault.lock().unwrap() = Some(full());
    rig.hand_over(1);
    assert_eq!(rig.turn(), None);
    rig.empty();
    assert_eq!(rig.turn(), Some(1));
    *rig.filled.fault.lock().unwrap() = Some(full());
    assert!(rig.writer.checkpoint().is_err(), "a sync that met a full disk frees no segment");
    assert_eq!(rig.turn(), None);
    rig.empty();
    rig.hand_over(2);
    assert_eq!(rig.turn(), None, "nothing was queued that could not be committed");
    assert_eq!(rig.turn(), Some(2));
    assert_eq!(rig.filled.reopened.load(SeqCst), 2);
}

#[test]
fn workers_that_died_while_space_was_low_are_a_full_disk_and_otherwise_a_failure() {
    for low in [true, false] {
        let mut rig = Rig::new();
        rig.status.set_space_low(low);
        rig.status.set_space_low(false);
        *rig.filled.fault.lock().unwrap() = Some(EngineError::Failed("poisoned".into()));
        rig.hand_over(1);
        assert_eq!(rig.turn(), None);
        assert_eq!(rig.status.failure().is_some(), !low);
        if low {
            rig.empty();
            assert_eq!(rig.turn(), Some(1));
        }
    }
}

#[test]
fn a_view_that_lost_what_it_had_confirmed_is_a_failure() {
    let mut rig = Rig::new();
    rig.hand_over(1);
    assert_eq!(rig.turn(), Some(1));
    rig.filled.forgets.store(true, SeqCst);
    *rig.filled.fault.lock().unwrap() = Some(full());
    rig.hand_over(2);
    assert_eq!(rig.turn(), None);
    rig.empty();
    assert_eq!(rig.turn(), None);
    assert!(rig.status.failure().unwrap().contains("lost"), "the next start replays it from the journal");
}
