//! The view as io.rs describes it: rows are readable some time after they were stored, and survive a crash up to some point of their order.
//! Never applies half a batch: rows and checkpoint are one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;

use bytes::Bytes;
use tern_core_shard::io::{Order, Recent, Row, Table, ViewQuery, ViewReply};
use tern_protocol::stored::{
    AccountRow, ConversationRow, DirectoryRow, Entity, Part, UserRow, decode_row, encode_row, entity_key, event_key,
};
use tern_protocol::{ConversationId, PartitionId, Position, Seq, UserId};

use crate::rng::Rng;

/// Rows of one command, on their way.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// Of which partition.
    pub(crate) partition: PartitionId,
    /// Of which command.
    pub(crate) position: Position,
    /// The changes.
    pub(crate) rows: Vec<Row>,
}

/// What is stored, at one point of the order of batches.
#[derive(Debug, Clone, Default)]
struct Tables {
    rows: BTreeMap<(Table, Bytes), Bytes>,
    checkpoints: BTreeMap<PartitionId, Position>,
}

impl Tables {
    fn write(&mut self, row: Row) {
        match row.value {
            Some(value) => self.rows.insert((row.table, row.key), value),
            None => self.rows.remove(&(row.table, row.key)),
        };
    }

    fn apply(&mut self, batch: &Batch) {
        batch.rows.iter().for_each(|row| self.write(row.clone()));
        let checkpoint = self.checkpoints.entry(batch.partition).or_insert(Position::ZERO);
        *checkpoint = batch.position.max(*checkpoint);
    }
}

/// The view of one node.
#[derive(Debug)]
pub(crate) struct View {
    rng: Rng,
    queue: VecDeque<Batch>,
    current: Tables,
    /// What a crash cannot take.
    synced: Tables,
    /// Applied since then.
    unsynced: Vec<Batch>,
    /// Questions asked since the counter was last taken.
    queries: u64,
}

impl View {
    /// An empty one.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::stream(seed, "view"),
            queue: VecDeque::new(),
            current: Tables::default(),
            synced: Tables::default(),
            unsynced: Vec::new(),
            queries: 0,
        }
    }

    /// Takes a batch. True: nothing waited before it, so an application must be arranged.
    pub(crate) fn store(&mut self, batch: Batch) -> bool {
        self.queue.push_back(batch);
        self.queue.len() == 1
    }

    /// Applies the first batches that wait: all, or a random part. Returns what can be read back, and whether more wait.
    pub(crate) fn apply(&mut self) -> (Vec<(PartitionId, Position)>, bool) {
        let count = if self.rng.chance(500) { self.queue.len() } else { 1 + self.rng.index(self.queue.len()) };
        let batches: Vec<_> = self.queue.drain(..count).collect();
        let mut done = Vec::new();
        for batch in batches {
            self.current.apply(&batch);
            match done.last_mut() {
                Some((partition, position)) if *partition == batch.partition => *position = batch.position,
                _ => done.push((batch.partition, batch.position)),
            }
            self.unsynced.push(batch);
        }
        if self.rng.chance(200) {
            self.sync();
        }
        (done, !self.queue.is_empty())
    }

    fn sync(&mut self) {
        for batch in self.unsynced.drain(..) {
            self.synced.apply(&batch);
        }
    }

    /// Keeps what is synced and a random beginning of the rest; `ahead`: and the events of some of what follows, as an owner leaves it whose
    /// tables are written apart.
    pub(crate) fn crash(&mut self, ahead: bool) {
        let kept = self.rng.index(self.unsynced.len() + 1);
        let mut lost = self.unsynced.split_off(kept);
        self.sync();
        if ahead {
            lost.extend(self.queue.drain(..));
            lost.truncate(self.rng.index(lost.len() + 1));
            for row in lost.into_iter().flat_map(|batch| batch.rows).filter(|row| row.table == Table::Events) {
                self.synced.write(row);
            }
        }
        self.current = self.synced.clone();
        self.queue.clear();
    }

    /// The last command of a partition whose rows are here.
    pub(crate) fn checkpoint(&self, partition: PartitionId) -> Position {
        self.current.checkpoints.get(&partition).copied().unwrap_or(Position::ZERO)
    }

    /// Answers a question.
    pub(crate) fn answer(&mut self, query: &ViewQuery) -> ViewReply {
        self.queries += 1;
        match query {
            ViewQuery::Entity { entity, recent } => self.entity(entity, *recent),
            ViewQuery::Events { conversation, from, to, size_max, order } => {
                ViewReply::Events(self.events(*conversation, *from, *to, *size_max, *order))
            }
        }
    }

    /// An answer with something in it that makes no sense.
    pub(crate) fn damage(reply: ViewReply) -> ViewReply {
        let cut = |bytes: Bytes| bytes.slice(..bytes.len() / 2);
        match reply {
            ViewReply::Entity { mut rows, events } => {
                if let Some((_, value)) = rows.last_mut() {
                    *value = cut(std::mem::take(value));
                }
                ViewReply::Entity { rows, events }
            }
            ViewReply::Events(events) => ViewReply::Events(events.into_iter().map(cut).collect()),
        }
    }

    /// Everything readable, without the positions of the commands that came last: a replay emits again what changes nothing.
    pub(crate) fn state(&self) -> Vec<(&Bytes, Bytes)> {
        let unplaced = |key: &Bytes, value: &Bytes| match key.first() {
            Some(b'c') => Some(encode_row(&ConversationRow { position: 0, ..decode_row(value).ok()? })),
            Some(b'u') => Some(encode_row(&UserRow { position: 0, ..decode_row(value).ok()? })),
            _ => Some(encode_row(&AccountRow { position: 0, ..decode_row(value).ok()? })),
        };
        let state = |((table, key), value): (&(Table, Bytes), &Bytes)| {
            let main = *table == Table::Entities && key.last() == Some(&b'm');
            unplaced(key, value).filter(|_| main).map_or_else(|| value.clone(), Bytes::from)
        };
        self.current.rows.iter().map(|row| (&row.0.1, state(row))).collect()
    }

    /// Questions since the last call.
    pub(crate) fn take_queries(&mut self) -> u64 {
        std::mem::take(&mut self.queries)
    }

    fn entity(&self, entity: &Entity, recent: Recent) -> ViewReply {
        let prefix = Bytes::from(entity_key(entity));
        let rows = self
            .current
            .rows
            .range((Table::Entities, prefix.clone())..)
            .take_while(|((table, key), _)| *table == Table::Entities && key.starts_with(&prefix))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        let events = match entity {
            Entity::Conversation(id) => {
                let newest = self.range(*id, Seq::ZERO, Seq::from_raw(u64::MAX)).rev().cloned();
                recent.take(newest.map(Ok::<_, Infallible>)).expect("it cannot fail")
            }
            Entity::User(_) | Entity::Account(_) | Entity::Partition(_) => Vec::new(),
        };
        ViewReply::Entity { rows, events }
    }

    fn events(&self, id: ConversationId, from: Seq, to: Seq, size_max: usize, order: Order) -> Vec<Bytes> {
        if from > to {
            return Vec::new();
        }
        let mut size = 0;
        let mut fits = |event: &&Bytes| {
            let first = size == 0;
            size += event.len();
            first || size <= size_max
        };
        match order {
            Order::OldestFirst => self.range(id, from, to).take_while(&mut fits).cloned().collect(),
            Order::NewestFirst => {
                let mut events: Vec<_> = self.range(id, from, to).rev().take_while(&mut fits).cloned().collect();
                events.reverse();
                events
            }
        }
    }

    fn range(&self, id: ConversationId, from: Seq, to: Seq) -> impl DoubleEndedIterator<Item = &Bytes> {
        let from = (Table::Events, Bytes::copy_from_slice(&event_key(id, from)));
        let to = (Table::Events, Bytes::copy_from_slice(&event_key(id, to)));
        self.current.rows.range(from..=to).map(|(_, event)| event)
    }

    /// The conversations that a user's stored directory has.
    pub(crate) fn directory_of(&self, user: UserId) -> BTreeSet<ConversationId> {
        let prefix = entity_key(&Entity::User(user));
        let ViewReply::Entity { rows, .. } = self.entity(&Entity::User(user), Recent::last(0)) else {
            return BTreeSet::new();
        };
        let joined = rows.iter().filter_map(|(key, value)| match Part::parse(key.strip_prefix(&prefix[..])?) {
            Some(Part::Directory(id)) => {
                let row: DirectoryRow = decode_row(value).expect("only valid rows were stored");
                (row.joined == 1).then_some(id)
            }
            _ => None,
        });
        joined.collect()
    }

    /// Every event row, in order of conversation and seq.
    pub(crate) fn all_events(&self) -> impl Iterator<Item = &Bytes> {
        self.current.rows.iter().filter(|((table, _), _)| *table == Table::Events).map(|(_, event)| event)
    }

    /// Whether everything stored is readable.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Whether a row is a command that was kept for an entity that could not be read.
pub(crate) fn is_kept(row: &Row) -> bool {
    let size = match row.key.first() {
        Some(b'c') => size_of::<u128>() + 1,
        Some(b'u') => size_of::<u64>() + 1,
        _ => row.key.iter().position(|byte| *byte == 0).map_or(0, |end| end + 1),
    };
    let part = row.key.get(size..).and_then(Part::parse);
    row.table == Table::Entities && matches!(part, Some(Part::Kept(_)))
}
