//! Threads that answer questions. Apart from the writer, so that a write stall holds up no read. Never change anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rtrb::{Consumer, Producer};
use tern_core_shard::io::{Order, Recent, Table, ViewError, ViewQuery, ViewReply};
use tern_protocol::stored::{Entity, entity_key, event_key};
use tern_protocol::{ConversationId, Seq};

use crate::embedded::Bell;
use crate::status::Status;
use crate::store::{Answer, Question};
use crate::view::View;
use crate::view::engine::{Engine, EngineError, Moment, Rows};

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
        let reply = match answer(&**view, &query) {
            Ok(reply) => {
                status.view_answered();
                Ok(reply)
            }
            Err(EngineError::Failed(reason) | EngineError::Full(reason)) => {
                status.view_read_failed(&reason);
                Err(ViewError::Failed)
            }
            Err(EngineError::Damaged(place)) => {
                status.view_damaged(place);
                Err(ViewError::Damaged)
            }
        };
        lane.answers.push((ticket, reply)).ok();
        answered += 1;
    }
    if answered > 0 {
        (lane.bell)();
    }
    answered
}

/// Answers one question.
pub(super) fn answer(view: &dyn Engine, query: &ViewQuery) -> Result<ViewReply, EngineError> {
    // One moment for rows and events: what was stored together is seen together.
    let moment = view.moment();
    match *query {
        ViewQuery::Entity { ref entity, recent } => {
            let rows = moment.prefix(Table::Entities, &entity_key(entity)).collect::<Result<_, _>>()?;
            let events = match *entity {
                Entity::Conversation(id) => newest_events(&*moment, id, recent)?,
                Entity::User(_) | Entity::Account(_) | Entity::Partition(_) => Vec::new(),
            };
            Ok(ViewReply::Entity { rows, events })
        }
        ViewQuery::Events { conversation, from, to, size_max, order } => {
            if from > to {
                return Ok(ViewReply::Events(Vec::new()));
            }
            let (first, last) = (event_key(conversation, from), event_key(conversation, to));
            let mut events = take_size(moment.range(Table::Events, &first, &last, order), size_max)?;
            if order == Order::NewestFirst {
                events.reverse();
            }
            Ok(ViewReply::Events(events))
        }
    }
}

fn newest_events(moment: &dyn Moment, conversation: ConversationId, recent: Recent) -> Result<Vec<Bytes>, EngineError> {
    let (first, last) = (event_key(conversation, Seq::ZERO), event_key(conversation, Seq::from_raw(u64::MAX)));
    let newest = moment.range(Table::Events, &first, &last, Order::NewestFirst);
    recent.take(newest.map(|row| row.map(|(_, value)| value)))
}

/// Values up to `size_max` bytes, but at least one.
fn take_size(rows: Rows<'_>, size_max: usize) -> Result<Vec<Bytes>, EngineError> {
    let mut taken = Vec::new();
    let mut size = 0;
    for row in rows {
        let (_, value) = row?;
        size += value.len();
        if size > size_max && !taken.is_empty() {
            break;
        }
        taken.push(value);
    }
    Ok(taken)
}
