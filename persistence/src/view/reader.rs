//! Threads that answer questions. Apart from the writer, so that a write stall holds up no read. Never change anything.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use fjall::{Readable, Snapshot};
use rtrb::{Consumer, Producer};
use tern_core_shard::io::{Order, ViewError, ViewQuery, ViewReply};
use tern_protocol::stored::{Entity, entity_key, event_key};
use tern_protocol::{ConversationId, Seq};

use crate::embedded::Bell;
use crate::status::Status;
use crate::store::{Answer, Question};
use crate::view::View;

/// Longest sleep: every question also wakes the thread.
const IDLE_PARK: Duration = Duration::from_secs(1);
/// Questions of one shard answered before the next shard's turn. Unit: questions.
const TURN_LEN: usize = 64;

/// A reader's ends of one shard's queues. The answers have room for every question that the shard may have open.
pub(crate) struct ReaderLane {
    pub(crate) questions: Consumer<Question>,
    pub(crate) answers: Producer<Answer>,
    pub(crate) bell: Bell,
}

/// One reader thread's state.
pub(crate) struct Reader {
    pub(crate) view: View,
    pub(crate) status: Arc<Status>,
    pub(crate) lanes: Vec<ReaderLane>,
}

impl Reader {
    /// Answers until the store is stopped.
    pub(crate) fn run(mut self) -> Result<(), String> {
        while !self.status.is_stopped() {
            let mut answered = 0;
            for lane in &mut self.lanes {
                answered += serve(&self.view, &self.status, lane);
            }
            if answered == 0 {
                std::thread::park_timeout(IDLE_PARK);
            }
        }
        Ok(())
    }
}

/// Answers one shard's turn; returns how many.
fn serve(view: &View, status: &Status, lane: &mut ReaderLane) -> u64 {
    let mut answered = 0;
    for _ in 0..TURN_LEN {
        // Looked at before it is taken: a question is never lost because its answer had no room.
        if lane.answers.is_full() {
            break;
        }
        let Ok((ticket, query)) = lane.questions.pop() else { break };
        let reply = answer(view, &query).map_err(|error| {
            tracing::error!(%error, "reading the view failed");
            ViewError::Failed
        });
        lane.answers.push((ticket, reply)).ok();
        answered += 1;
    }
    if answered > 0 {
        status.queries.fetch_add(answered, Relaxed);
        (lane.bell)();
    }
    answered
}

fn answer(view: &View, query: &ViewQuery) -> fjall::Result<ViewReply> {
    // One moment for rows and events: what was stored together is seen together.
    let snapshot = view.database.snapshot();
    match *query {
        ViewQuery::Entity { ref entity, events_max } => {
            let rows = snapshot
                .prefix(&view.entities, entity_key(entity))
                .map(|row| row.into_inner().map(|(key, value)| (Bytes::from(key), Bytes::from(value))))
                .collect::<fjall::Result<_>>()?;
            let events = match *entity {
                Entity::Conversation(id) => newest_events(view, &snapshot, id, events_max)?,
                Entity::User(_) | Entity::Account(_) => Vec::new(),
            };
            Ok(ViewReply::Entity { rows, events })
        }
        ViewQuery::Events { conversation, from, to, size_max, order } => {
            if from > to {
                return Ok(ViewReply::Events(Vec::new()));
            }
            let range = snapshot.range(&view.events, event_key(conversation, from)..=event_key(conversation, to));
            let values = range.into_values(order);
            let mut events = take_size(values, size_max)?;
            if order == Order::NewestFirst {
                events.reverse();
            }
            Ok(ViewReply::Events(events))
        }
    }
}

fn newest_events(
    view: &View,
    snapshot: &Snapshot,
    conversation: ConversationId,
    events_max: usize,
) -> fjall::Result<Vec<Bytes>> {
    let range = event_key(conversation, Seq::ZERO)..=event_key(conversation, Seq::from_raw(u64::MAX));
    let newest = snapshot.range(&view.events, range).rev().take(events_max);
    let mut events = newest.map(|row| row.value().map(Bytes::from)).collect::<fjall::Result<Vec<_>>>()?;
    events.reverse();
    Ok(events)
}

/// Values up to `size_max` bytes, but at least one.
fn take_size(values: impl Iterator<Item = fjall::Result<Bytes>>, size_max: usize) -> fjall::Result<Vec<Bytes>> {
    let mut taken = Vec::new();
    let mut size = 0;
    for value in values {
        let value = value?;
        size += value.len();
        if size > size_max && !taken.is_empty() {
            break;
        }
        taken.push(value);
    }
    Ok(taken)
}

/// Values of a range, from the wanted end.
trait IntoValues {
    fn into_values(self, order: Order) -> Box<dyn Iterator<Item = fjall::Result<Bytes>>>;
}

impl IntoValues for fjall::Iter {
    fn into_values(self, order: Order) -> Box<dyn Iterator<Item = fjall::Result<Bytes>>> {
        let value = |row: fjall::Guard| row.value().map(Bytes::from);
        match order {
            Order::OldestFirst => Box::new(self.map(value)),
            Order::NewestFirst => Box::new(self.rev().map(value)),
        }
    }
}
