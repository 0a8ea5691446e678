//! A log and a view in memory, shared by the shards of one test. Everything is durable at once.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tern_core_shard::io::{AppendFailure, Input, Logged, Order, Record, Row, Table, ViewQuery, ViewReply};
use tern_edge::clock::Clock;
use tern_edge::store::{Bell, Store};
use tern_protocol::placement::Placement;
use tern_protocol::stored::{Entity, entity_key, event_key};
use tern_protocol::{ConversationId, PartitionId, Position, Seq};

/// One shard's access to the tables.
pub(crate) struct MemoryStore {
    shard: usize,
    placement: Placement,
    clock: Clock,
    tables: Arc<Mutex<Tables>>,
    bells: Arc<Vec<Bell>>,
    /// Shards for which something was queued since the last flush.
    rung: Vec<bool>,
    paused: bool,
}

#[derive(Default)]
struct Tables {
    positions: BTreeMap<PartitionId, u64>,
    rows: BTreeMap<(Table, Bytes), Bytes>,
    queues: Vec<VecDeque<Input>>,
}

/// A store for each shard, all with nothing in them.
pub(crate) fn open(placement: Placement, bells: Vec<Bell>) -> Vec<MemoryStore> {
    let shards = bells.len();
    let queues = (0..shards).map(|_| VecDeque::from([Input::CaughtUp])).collect();
    let tables = Arc::new(Mutex::new(Tables { queues, ..Tables::default() }));
    let bells = Arc::new(bells);
    let clock = Clock::start();
    let store = |shard| MemoryStore {
        shard,
        placement,
        clock,
        tables: Arc::clone(&tables),
        bells: Arc::clone(&bells),
        rung: vec![false; shards],
        paused: false,
    };
    (0..shards).map(store).collect()
}

impl Store for MemoryStore {
    fn append(&mut self, partition: PartitionId, record: Record) -> Result<(), (Record, AppendFailure)> {
        let owner = usize::from(self.placement.shard(partition).raw());
        let time = self.clock.now().timestamp;
        let mut tables = self.tables.lock().unwrap();
        let position = tables.positions.entry(partition).or_default();
        *position += 1;
        let position = Position::from_raw(*position);
        tables.queues[owner].push_back(Input::Logged(Logged { partition, position, time, record }));
        self.rung[owner] = true;
        Ok(())
    }

    fn query(&mut self, ticket: u64, query: ViewQuery) -> Result<(), ViewQuery> {
        let mut tables = self.tables.lock().unwrap();
        let reply = Ok(tables.answer(query));
        tables.queues[self.shard].push_back(Input::Viewed { ticket, reply });
        self.rung[self.shard] = true;
        Ok(())
    }

    fn store(&mut self, partition: PartitionId, position: Position, rows: Vec<Row>) {
        let mut tables = self.tables.lock().unwrap();
        for Row { table, key, value } in rows {
            match value {
                Some(value) => tables.rows.insert((table, key), value),
                None => tables.rows.remove(&(table, key)),
            };
        }
        tables.queues[self.shard].push_back(Input::Stored { partition, position });
        self.rung[self.shard] = true;
    }

    fn flush(&mut self) {
        for (bell, rung) in self.bells.iter().zip(&mut self.rung) {
            if std::mem::take(rung) {
                bell();
            }
        }
    }

    fn pause_commands(&mut self, paused: bool) {
        self.paused = paused;
    }

    fn poll(&mut self) -> Option<Input> {
        let queue = &mut self.tables.lock().unwrap().queues[self.shard];
        let taken = |input: &Input| !self.paused || !matches!(input, Input::Logged(_));
        queue.iter().position(taken).and_then(|index| queue.remove(index))
    }
}

impl Tables {
    fn answer(&self, query: ViewQuery) -> ViewReply {
        match query {
            ViewQuery::Entity { entity, recent } => {
                let prefix = entity_key(&entity);
                let rows = self.rows.range((Table::Entities, Bytes::from(prefix.clone()))..);
                let rows = rows.map(|((_, key), value)| (key.clone(), value.clone()));
                let rows = rows.take_while(|(key, _)| key.starts_with(&prefix)).collect();
                let events = match entity {
                    Entity::Conversation(id) => self.events(id, Seq::ZERO, Seq::from_raw(u64::MAX)),
                    Entity::User(_) | Entity::Account(_) | Entity::Partition(_) => Vec::new(),
                };
                let events = recent.take(events.into_iter().rev().map(Ok::<_, Infallible>));
                ViewReply::Entity { rows, events: events.expect("it cannot fail") }
            }
            ViewQuery::Events { conversation, from, to, size_max, order } => {
                let mut events = self.events(conversation, from, to);
                let mut size = 0;
                let mut fits = |event: &Bytes| {
                    let first = size == 0;
                    size += event.len();
                    first || size <= size_max
                };
                match order {
                    Order::OldestFirst => {
                        let count = events.iter().take_while(|event| fits(event)).count();
                        events.truncate(count);
                    }
                    Order::NewestFirst => {
                        let count = events.iter().rev().take_while(|event| fits(event)).count();
                        events = events.split_off(events.len() - count);
                    }
                }
                ViewReply::Events(events)
            }
        }
    }

    fn events(&self, conversation: ConversationId, from: Seq, to: Seq) -> Vec<Bytes> {
        let key = |seq| (Table::Events, Bytes::copy_from_slice(&event_key(conversation, seq)));
        self.rows.range(key(from)..=key(to)).map(|(_, event)| event.clone()).collect()
    }
}
