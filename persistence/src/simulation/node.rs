//! One run of the store: the real journal and the real ends of its shards, each taking its turn when the world says so.
//! The shards apply nothing: they append, take what is theirs, and hand empty rows over.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tern_core_shard::io::{Input, Record};
use tern_protocol::command::CommandHead;
use tern_protocol::{PartitionId, Position};

use super::checker::Checker;
use super::files::SimDisk;
use super::rng::Rng;
use super::view::ModelView;
use crate::Bell;
use crate::config::EmbeddedConfig;
use crate::embedded::Parts;
use crate::error::OpenError;
use crate::journal::{Preparer, RecoveryReport, Writer};
use crate::status::Status;
use crate::store::ShardStore;
use crate::turns::{Now, Rest, Turns};
use crate::view::ViewLane;

/// Most commands that a shard appends in a turn.
const APPENDS_MAX: u64 = 12;

/// A shard without logic.
struct Shard {
    store: ShardStore,
    /// What it has taken and not handed over to the view yet.
    taken: VecDeque<(PartitionId, Position)>,
    caught_up: bool,
}

pub(super) struct Node {
    shards: Vec<Shard>,
    pub(super) writer: Writer,
    preparer: Preparer,
    lanes: Vec<ViewLane>,
    pub(super) status: Arc<Status>,
    synced: Arc<crate::journal::segments::Synced>,
    pub(super) report: RecoveryReport,
    partitions: u16,
    caught_up: usize,
}

impl Node {
    pub(super) fn open(
        config: &EmbeddedConfig,
        disk: &SimDisk,
        view: &mut ModelView,
        key: u64,
        checker: &mut Checker,
    ) -> Result<Self, OpenError> {
        let bells: Vec<Bell> = (0..config.shards).map(|_| Arc::new(|| {}) as Bell).collect();
        let files = disk.files();
        let directory = &config.directory;
        let open_view = |_key| Ok(((), view.open(&*files, directory, config.partitions)?));
        let parts = Parts::open(config, &bells, &files, key, open_view)?;
        let Parts { applied, status, synced, writer, preparer, lanes, halves, .. } = parts;
        checker.opened(&applied);
        let shard = |(index, half): (usize, crate::embedded::Half)| Shard {
            store: half.into_store(index, config, &status, std::thread::current()),
            taken: VecDeque::new(),
            caught_up: false,
        };
        let shards = halves.into_iter().enumerate().map(shard).collect();
        let report = writer.report();
        let (lanes, partitions) = (lanes.view, config.partitions);
        Ok(Self { shards, writer, preparer, lanes, status, synced, report, partitions, caught_up: 0 })
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.caught_up == self.shards.len()
    }

    /// Whether every shard has handed over all that it took, and the view has it.
    pub(super) fn is_at_rest(&self) -> bool {
        let rests = |shard: &Shard| shard.taken.is_empty() && shard.store.counters().store_queue_size == 0;
        self.shards.iter().all(rests)
    }

    pub(super) fn journal(&mut self, now: Now) -> Rest {
        self.writer.turn(now)
    }

    pub(super) fn preparer(&mut self, now: Now) -> Rest {
        self.preparer.turn(now)
    }

    pub(super) fn view(&mut self, view: &mut ModelView, rng: &mut Rng, persist_chance: u32) {
        view.commit(&mut self.lanes, rng);
        let wanted = self.status.journal_wants_segment.load(std::sync::atomic::Ordering::SeqCst);
        if wanted || rng.chance(persist_chance) {
            view.checkpoint(&self.synced, &self.status);
        }
    }

    /// Some shard appends commands with numbers from `number` on.
    pub(super) fn append(&mut self, rng: &mut Rng, number: &mut u64, checker: &mut Checker) {
        let shard = rng.index(self.shards.len());
        for _ in 0..rng.below(APPENDS_MAX + 1) {
            *number += 1;
            let partition = PartitionId::from_raw(u16::try_from(rng.below(u64::from(self.partitions))).expect("few"));
            let record = record(rng, *number);
            if let Err((record, failure)) = self.shards[shard].store.append(partition, record) {
                checker.failed(&record, failure);
            }
        }
        self.shards[shard].store.flush();
    }

    /// Every shard takes what there is, and hands over the rows of at most `stores` commands.
    pub(super) fn take(&mut self, stores: u64, checker: &mut Checker) {
        for shard in &mut self.shards {
            while let Some(input) = shard.store.poll() {
                if let Input::Logged(logged) = &input {
                    checker.logged(logged);
                    shard.taken.push_back((logged.partition, logged.position));
                } else if let Input::AppendFailed { record, failure, .. } = &input {
                    checker.failed(record, *failure);
                } else if matches!(input, Input::CaughtUp) {
                    assert!(!std::mem::replace(&mut shard.caught_up, true), "caught up once");
                    self.caught_up += 1;
                    if self.caught_up == self.lanes.len() {
                        checker.caught_up();
                    }
                }
            }
            for _ in 0..stores {
                let Some((partition, position)) = shard.taken.pop_front() else { break };
                shard.store.store(partition, position, Vec::new());
            }
            shard.store.flush();
        }
    }
}

/// A command that can be told from all others: mostly small, now and then of many pages.
fn record(rng: &mut Rng, number: u64) -> Record {
    let size = match rng.below(20) {
        0 => rng.between(10_000, 60_000),
        1..=5 => rng.between(300, 9_000),
        _ => rng.below(300),
    };
    let mut frame = number.to_le_bytes().to_vec();
    while (frame.len() as u64) < size {
        frame.extend_from_slice(&rng.raw().to_le_bytes());
    }
    Record { head: CommandHead { actor: number, ..CommandHead::default() }, frame: Bytes::from(frame) }
}
