//! What was seen during a run: every answer, every version of every event, who saw it, and what was already found wrong.
//! Never judges by the end state: that is the checker's; only contradictions between two sightings are found here.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tern_core_shard::io::{Row, Table};
use tern_protocol::{ConversationId, PartitionId, Position, RejectCode, Timestamp, UserId};

use crate::wire::{EventCopy, Op};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which: `M1` to `M12` of FEATURES.md.
    pub(crate) invariant: &'static str,
    /// What was seen.
    pub(crate) what: String,
}

/// What an ack said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) conversation: ConversationId,
    pub(crate) seq: u64,
    pub(crate) time: u64,
}

/// A request that ended in a refusal.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) op: Op,
    pub(crate) code: RejectCode,
    /// When it was first made.
    pub(crate) since: Timestamp,
    /// When the refusal came.
    pub(crate) at: Timestamp,
}

/// How much happened: shows that a run met what it was meant to meet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) inputs: u64,
    pub(crate) events: u64,
    pub(crate) acks: u64,
    pub(crate) rejects: u64,
    pub(crate) retries: u64,
    pub(crate) crashes: u64,
    pub(crate) connections: u64,
    pub(crate) resets: u64,
    pub(crate) lagging: u64,
    pub(crate) slow_closes: u64,
    pub(crate) repairs: u64,
    pub(crate) catch_ups: u64,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    pub(crate) violations: Vec<Violation>,
    pub(crate) counts: Counts,
    /// First ack of each request, by sender.
    pub(crate) acks: BTreeMap<(UserId, u128), (Op, Acked)>,
    /// Requests that ended in a refusal which the client does not retry.
    pub(crate) rejects: BTreeMap<(UserId, u128), Refused>,
    /// Requests that were sent twice in one breath: the first copy may be refused and the second one, a moment later, not.
    pub(crate) doubled: BTreeSet<u128>,
    /// Questions that were refused because what they ask for cannot be read.
    pub(crate) unreadable: u64,
    /// Distinct versions of each event that any client was sent.
    pub(crate) versions: BTreeMap<(ConversationId, u64), BTreeSet<EventCopy>>,
    /// Which events each user was sent.
    pub(crate) viewers: BTreeMap<(UserId, ConversationId), BTreeSet<u64>>,
    /// Conversations of which a user was told something live.
    pub(crate) told: BTreeSet<(UserId, ConversationId)>,
    /// Each event as it was first stored.
    pub(crate) originals: BTreeMap<(ConversationId, u64), EventCopy>,
    /// Commands that were kept, or with whose rows those of kept ones were stored.
    pub(crate) carried: BTreeSet<(PartitionId, Position)>,
    /// Rows of each command, as first stored.
    pub(crate) stored: BTreeMap<(PartitionId, Position), Vec<Row>>,
    /// Most frames' bytes that waited for one session at once.
    pub(crate) waiting_size_max: usize,
}

impl Witness {
    /// Notes a broken promise. The first hundred are enough.
    pub(crate) fn violation(&mut self, invariant: &'static str, what: String) {
        if self.violations.len() < 100 {
            self.violations.push(Violation { invariant, what });
        }
    }

    /// A client was sent an event.
    pub(crate) fn saw(&mut self, user: UserId, event: &EventCopy) {
        self.counts.events += 1;
        self.viewers.entry((user, event.conversation)).or_default().insert(event.seq);
        let versions = self.versions.entry((event.conversation, event.seq)).or_default();
        if !versions.contains(event) {
            versions.insert(event.clone());
        }
    }

    /// A request was acknowledged: each time in the same words.
    pub(crate) fn acked(&mut self, user: UserId, request: u128, op: &Op, acked: Acked) {
        self.counts.acks += 1;
        match self.acks.get(&(user, request)) {
            None => {
                self.acks.insert((user, request), (op.clone(), acked));
            }
            Some((_, first)) if *first != acked && op.makes_an_event() => {
                let what = format!("{user} request {request:#x} {op:?}: acked as {first:?}, then as {acked:?}");
                self.violation("M3", what);
            }
            Some(_) => {}
        }
    }

    /// A command's rows go to the view. `repeated`: it may have been skipped as already stored.
    pub(crate) fn stored(&mut self, partition: PartitionId, position: Position, rows: &[Row], repeated: bool) {
        for row in rows.iter().filter(|row| row.table == Table::Events) {
            match row.value.as_deref().map(EventCopy::read) {
                Some(Ok(event)) => {
                    self.originals.entry((event.conversation, event.seq)).or_insert(event);
                }
                Some(Err(error)) => self.violation("M1", format!("{partition} {position}: event row: {error}")),
                None => self.violation("M1", format!("{partition} {position}: an event was removed")),
            }
        }
        // What a command did to an entity that could not be read stands with a later command; the rows are compared at the end.
        if self.carried.contains(&(partition, position)) || rows.iter().any(crate::view::is_kept) {
            self.carried.insert((partition, position));
            return;
        }
        match self.stored.get(&(partition, position)) {
            None => {
                self.stored.insert((partition, position), rows.to_vec());
            }
            Some(first) if first != rows && !(repeated && rows.is_empty()) => {
                let what = format!("{partition} {position}: two owners, two results: {}", difference(first, rows));
                self.violation("M1", what);
            }
            Some(_) => {}
        }
    }
}

/// The first row in which two results differ.
fn difference(a: &[Row], b: &[Row]) -> String {
    let at = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let show = |rows: &[Row]| {
        rows.get(at).map_or_else(
            || "nothing".to_owned(),
            |row| match row.value.as_ref().map(Bytes::as_ref).map(EventCopy::read) {
                Some(Ok(event)) => format!("{event:?}"),
                Some(Err(_)) | None => format!("{row:?}"),
            },
        )
    };
    format!("row {at} of {} and {}: {} against {}", a.len(), b.len(), show(a), show(b))
}
