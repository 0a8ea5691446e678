//! The log as io.rs describes it: takes appends, makes them durable later in groups, numbers them per partition: one after the other, or (in
//! half of the seeds) by the record that a group is, with gaps. Times of a partition always grow.
//! Never reorders what it took; a crash loses some end of what was not durable and nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tern_core_shard::io::{Logged, Record};
use tern_protocol::{PartitionId, Position, Timestamp};

use crate::rng::Rng;

/// All partitions' logs, in one journal with one group commit.
#[derive(Debug)]
pub(crate) struct Log {
    rng: Rng,
    waiting: VecDeque<(PartitionId, Record)>,
    durable: BTreeMap<PartitionId, Vec<Logged>>,
    /// Handed over before it was durable (only with the broken log).
    early: Vec<Logged>,
    /// Whether a group is a record, and the number of the next one.
    record_next: Option<u64>,
}

impl Log {
    /// An empty journal.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::stream(seed, "log"),
            waiting: VecDeque::new(),
            durable: BTreeMap::new(),
            early: Vec::new(),
            record_next: Rng::stream(seed, "positions").chance(500).then_some(1),
        }
    }

    /// A journal with what another one has durable.
    pub(crate) fn copy_of(other: &Self, seed: u64) -> Self {
        Self { durable: other.durable.clone(), record_next: other.record_next, ..Self::new(seed) }
    }

    /// Takes a command. True: nothing waited before it, so a commit must be arranged.
    pub(crate) fn append(&mut self, partition: PartitionId, record: Record) -> bool {
        self.waiting.push_back((partition, record));
        self.waiting.len() == 1
    }

    /// Makes the first ones of what waits durable: all, or a random part. Returns them and whether more wait.
    pub(crate) fn commit(&mut self, now: Timestamp) -> (Vec<Logged>, bool) {
        let count = if self.rng.chance(700) { self.waiting.len() } else { 1 + self.rng.index(self.waiting.len()) };
        let taken = self.take(now, count);
        (taken, !self.waiting.is_empty())
    }

    /// The broken log: numbers what waits and hands it over, though a crash will lose it.
    pub(crate) fn hand_over_early(&mut self, now: Timestamp) -> Vec<Logged> {
        let taken = self.take(now, self.waiting.len());
        self.early.extend(taken.iter().cloned());
        taken
    }

    /// The broken log catches up.
    pub(crate) fn sync_early(&mut self) {
        self.early.clear();
    }

    /// Loses a random end of what is not durable.
    pub(crate) fn crash(&mut self, now: Timestamp) {
        let early = std::mem::take(&mut self.early);
        for lost in early.into_iter().rev() {
            if let Some(log) = self.durable.get_mut(&lost.partition) {
                log.retain(|logged| logged.position != lost.position);
            }
        }
        let kept = self.rng.index(self.waiting.len() + 1);
        self.take(now, kept);
        self.waiting.clear();
    }

    fn take(&mut self, now: Timestamp, count: usize) -> Vec<Logged> {
        let taken: Vec<_> = self.waiting.drain(..count).collect();
        if let Some(record) = &mut self.record_next {
            *record += self.rng.between(1, 3);
        }
        taken.into_iter().map(|(partition, record)| self.number(now, partition, record)).collect()
    }

    fn number(&mut self, now: Timestamp, partition: PartitionId, record: Record) -> Logged {
        let log = self.durable.entry(partition).or_default();
        let (last, time) = log.last().map_or((Position::ZERO, now), |last| {
            let next = last.time.after(Duration::from_micros(1));
            (last.position, next.max(now))
        });
        // The first of a partition in a group has index 0, the next one follows it.
        let first = self.record_next.and_then(|record| Position::in_record(record, 0)).unwrap_or(Position::ZERO);
        let logged = Logged { partition, position: last.next().max(first), time, record };
        log.push(logged.clone());
        logged
    }

    /// Durable commands of a partition after a position.
    pub(crate) fn after(&self, partition: PartitionId, position: Position) -> impl Iterator<Item = &Logged> {
        self.durable.get(&partition).into_iter().flatten().filter(move |logged| logged.position > position)
    }

    /// The place of a partition that is so many commands before this one.
    pub(crate) fn before(&self, partition: PartitionId, position: Position, count: u64) -> Position {
        let log = self.durable.get(&partition).map_or(&[][..], Vec::as_slice);
        let end = log.partition_point(|logged| logged.position <= position);
        let before = end.checked_sub(usize::try_from(count).unwrap_or(usize::MAX).saturating_add(1));
        if count == 0 { position } else { before.map_or(Position::ZERO, |index| log[index].position) }
    }

    /// Every durable command, partition by partition.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Logged> {
        self.durable.values().flatten()
    }

    /// The last durable position of each partition.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (PartitionId, Position)> {
        self.durable.iter().filter_map(|(partition, log)| Some((*partition, log.last()?.position)))
    }

    /// Whether everything taken is durable.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}
