//! The audit at the end of a run: a device reads its directory, then every event and every member of each conversation in it.
//! Never uses what the device already has; the checker compares what it reads with the truth.

use std::collections::BTreeMap;
use std::time::Duration;

use tern_protocol::server::Member;
use tern_protocol::{ConversationId, RejectCode};

use crate::client::{Ask, Cx, Device, Wake};
use crate::wire::{self, EventCopy};

/// All that the server has for this user, read from the beginning.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Still to read, and how far each is.
    left: Vec<(ConversationId, Step)>,
    started: bool,
    pub(crate) events: BTreeMap<ConversationId, Vec<EventCopy>>,
    pub(crate) members: BTreeMap<ConversationId, Vec<Member>>,
    pub(crate) done: bool,
}

/// What is read next of a conversation.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Events after this one.
    Events(u64),
    /// Members after this user.
    Members(u64),
}

impl Device {
    /// Begins to read everything again.
    pub(crate) fn start_audit(&mut self, cx: &mut Cx<'_>) {
        self.audit = Some(Audit::default());
        self.listing = None;
        self.start_walk(cx);
        cx.wake.push((Duration::from_millis(100), Wake::Audit));
    }

    /// Asks for the next page.
    pub(crate) fn continue_audit(&mut self, cx: &mut Cx<'_>) {
        let Some(audit) = self.audit.as_mut() else { return };
        if !audit.started {
            let Some(listing) = &self.listing else {
                self.start_walk(cx);
                cx.wake.push((Duration::from_millis(100), Wake::Audit));
                return;
            };
            audit.started = true;
            audit.left = listing.entries.keys().map(|id| (*id, Step::Events(0))).collect();
        }
        if self.asks.values().any(|ask| matches!(ask, Ask::Audit(_))) {
            return;
        }
        let Some((id, step)) = audit.left.last().copied() else {
            audit.done = true;
            return;
        };
        let request = self.ask(Ask::Audit(id));
        let limit = u16::try_from(cx.rng.between(1, 200)).unwrap_or(200);
        cx.send.push(match step {
            Step::Events(anchor) => wire::history(request, id, anchor, limit, 1),
            Step::Members(after) => wire::members(request, id, after, limit),
        });
    }

    /// A page of events.
    pub(crate) fn on_audit(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConversationId,
        head: u64,
        first: u64,
        events: &[EventCopy],
    ) {
        let Some(audit) = self.audit.as_mut() else { return };
        let Some((_, step @ Step::Events(_))) = audit.left.last_mut() else { return };
        let Step::Events(anchor) = *step else { return };
        let expected = (anchor + 1).max(first);
        if head >= expected && events.first().is_none_or(|event| event.seq != expected) {
            let seqs = (events.first().map(|event| event.seq), events.last().map(|event| event.seq));
            cx.witness.violation("M4", format!("{id}: page from {expected} to head {head} holds {seqs:?}"));
        }
        let last = events.last().map_or(head, |event| event.seq);
        *step = if last >= head || events.is_empty() { Step::Members(0) } else { Step::Events(last) };
        audit.events.entry(id).or_default().extend(events.iter().cloned());
        self.continue_audit(cx);
    }

    /// A page of members, for the audit or for nothing.
    pub(crate) fn on_members(
        &mut self,
        cx: &mut Cx<'_>,
        request: u128,
        id: ConversationId,
        more: bool,
        members: &[Member],
    ) {
        let Some(ask) = self.asks.remove(&request) else {
            return cx.witness.violation("M5", format!("{} got members for no question", self.user));
        };
        let Some(audit) = self.audit.as_mut().filter(|_| ask == Ask::Audit(id)) else { return };
        let Some((_, step)) = audit.left.last_mut() else { return };
        match members.last() {
            Some(last) if more => *step = Step::Members(last.user),
            Some(_) | None => {
                audit.left.pop();
            }
        }
        audit.members.entry(id).or_default().extend_from_slice(members);
        self.continue_audit(cx);
    }

    /// A page was refused.
    pub(crate) fn refused_audit(&mut self, cx: &mut Cx<'_>, id: ConversationId, not_found: bool, pause: Duration) {
        if not_found {
            let what = format!("{} lists {id} but may not read it: {:?}", self.user, RejectCode::NotFound);
            cx.witness.violation("M12", what);
            if let Some(audit) = self.audit.as_mut() {
                audit.left.pop();
            }
        }
        cx.wake.push((pause, Wake::Audit));
    }
}
