//! Conversations of a session: events are applied once and in order, holes are found and filled, views follow the events.
//! Never asks for a page while news may still be under way: only a hole is certain.

use std::time::{Duration, Instant};

use tern_protocol::limit::PREVIEW_SIZE_MAX;
use tern_protocol::server;
use tern_protocol::{ConversationId, RejectCode, Seq, Timestamp, UserId};

use super::Session;
use super::cursors::Cursors;
use super::requests::{HISTORY_LIMIT, Purpose, Query};
use crate::sync::Track;
use crate::update::{RequestError, Update};
use crate::view::{Content, ConversationView, EventKind, EventView, HistoryView};

/// Repairs that are under way at once. Unit: requests.
const REPAIRS_MAX: usize = 8;
/// A head beyond the position is given this long to arrive by itself: its event may be on another lane than the news of it.
const HEAD_PATIENCE: Duration = Duration::from_millis(500);
/// After a repair that gave nothing.
const REPAIR_PAUSE: Duration = Duration::from_secs(2);
/// Repairs in a row that gave nothing before the rest is given up as unreadable. Unit: repairs.
const REPAIR_FAILURES_MAX: u32 = 5;
/// Events of a conversation whose place is not known wait this long for its directory entry.
const ENTRY_PATIENCE: Duration = Duration::from_secs(2);

/// One conversation.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) track: Track<EventView>,
    pub(super) view: Option<ConversationView>,
    pub(super) cursors: Cursors,
    /// The head of the directory entry that the view was made from: what came before is in it already.
    pub(super) entry_head: Seq,
    /// When to ask for what is missing.
    repair_at: Option<Instant>,
    repair_failures: u32,
}

impl Conversation {
    pub(super) fn at(position: u64) -> Self {
        Self { track: Track::at(position), ..Self::unplaced() }
    }

    pub(super) fn unplaced() -> Self {
        Self {
            track: Track::unplaced(),
            view: None,
            cursors: Cursors::default(),
            entry_head: Seq::ZERO,
            repair_at: None,
            repair_failures: 0,
        }
    }

    pub(super) fn position(&self) -> Option<u64> {
        self.track.position()
    }

    /// The last event known to exist.
    pub(super) const fn head(&self) -> u64 {
        self.track.head()
    }

    pub(super) const fn view(&self) -> Option<&ConversationView> {
        self.view.as_ref()
    }

    /// When something last happened here, for choosing the liveliest.
    pub(super) fn activity(&self) -> Timestamp {
        self.view.as_ref().map_or(Timestamp::ZERO, |view| view.head_time)
    }

    /// Whether something here is due at some time.
    fn needs_attention(&self) -> bool {
        self.repair_at.is_some() || self.cursors.deadline().is_some()
    }

    pub(super) fn on_connected(&mut self) {
        self.repair_failures = 0;
        self.cursors.on_connected();
    }

    /// Decides when to ask for what is missing, if anything is.
    fn schedule_repair(&mut self, now: Instant) {
        self.repair_at = match self.track.lacks() {
            None => None,
            Some(_) if self.track.has_hole() => Some(self.repair_at.map_or(now, |at| at.min(now))),
            Some(_) => Some(self.repair_at.unwrap_or(now + HEAD_PATIENCE)),
        };
    }

    /// Lets the view follow an event.
    fn follow(&mut self, event: &EventView, me: Option<UserId>) {
        let Some(view) = &mut self.view else { return };
        if event.seq <= self.entry_head {
            return;
        }
        if event.seq >= view.head {
            view.head = event.seq;
            view.head_visible = event.visible;
            view.head_time = event.time;
        }
        let previewed = view.preview_seq.is_some() && view.preview_seq == event.target;
        match event.kind {
            EventKind::Message => {
                if Some(event.sender) == me && event.seq > view.read {
                    view.read = event.seq;
                    view.read_visible = event.visible;
                }
                view.preview_seq = Some(event.seq);
                view.preview_sender = Some(event.sender);
                view.preview = preview(event);
            }
            EventKind::Edited if previewed && event.content != Content::Recalled => view.preview = preview(event),
            EventKind::Recalled if previewed => {
                (view.preview_seq, view.preview_sender, view.preview) = (None, None, String::new());
            }
            EventKind::Joined | EventKind::Added => view.members = view.members.saturating_add(1),
            EventKind::Left | EventKind::Kicked => view.members = view.members.saturating_sub(1),
            EventKind::Role if event.subject == me => view.role = event.role,
            EventKind::Created => view.title = event.text().into_owned(),
            EventKind::Edited | EventKind::Recalled | EventKind::Role | EventKind::Unknown(_) => {}
        }
    }
}

/// The beginning of a message's text.
fn preview(event: &EventView) -> String {
    match event.content {
        Content::Text => {
            let text = event.text();
            let end = text.floor_char_boundary(PREVIEW_SIZE_MAX);
            text.get(..end).unwrap_or_default().to_owned()
        }
        Content::Opaque | Content::Recalled | Content::Unknown(_) => String::new(),
    }
}

impl Session {
    pub(super) fn on_event(&mut self, now: Instant, event: EventView) {
        let id = event.conversation;
        self.attention.insert(id);
        let conversation = self.conversations.entry(id).or_insert_with(Conversation::unplaced);
        let mut apply = Vec::new();
        conversation.track.offer(event.seq.raw(), event, &mut apply);
        conversation.schedule_repair(now);
        if conversation.position().is_none() {
            self.directory.expect_entry(now + ENTRY_PATIENCE);
        }
        self.apply(now, id, apply);
    }

    /// Applies events that are in order.
    pub(super) fn apply(&mut self, now: Instant, id: ConversationId, events: Vec<EventView>) {
        let (me, direct) = (self.me, self.is_direct(id));
        for event in events {
            if Some(event.sender) == me {
                let stored = self.outbox.on_stored(event.request, event.seq, event.time, direct);
                stored.into_iter().for_each(|progress| self.tell_progress(progress));
            }
            if let Some(conversation) = self.conversations.get_mut(&id) {
                conversation.follow(&event, me);
                if direct && Some(event.sender) != me {
                    conversation.cursors.arrived(now, event.seq, event.visible);
                }
            }
            self.changed.insert(id);
            self.tell(Update::Event(Box::new(event)));
        }
    }

    pub(super) fn saw_head(&mut self, now: Instant, id: ConversationId, seq: u64, visible: Option<u64>) {
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        self.attention.insert(id);
        conversation.track.saw_head(seq);
        conversation.schedule_repair(now);
        if let (Some(view), Some(visible)) = (&mut conversation.view, visible)
            && view.head.raw() < seq
        {
            view.head = Seq::from_raw(seq);
            view.head_visible = visible;
            self.changed.insert(id);
        }
    }

    pub(super) fn on_reset(&mut self, now: Instant, reset: &server::ArchivedReset) {
        let id = reset.conversation.to_native();
        if id == 0 {
            // Everything is forgotten: the list of conversations says where each begins anew.
            self.conversations.values_mut().for_each(|conversation| conversation.track = Track::unplaced());
            self.requests.cancel(Purpose::Directory);
            self.directory.forget();
            self.load_directory(now);
            return;
        }
        let id = ConversationId::from_raw(id);
        let (seq, visible) = (reset.seq.to_native(), reset.visible.to_native());
        let conversation = self.conversations.entry(id).or_insert_with(Conversation::unplaced);
        conversation.track.reset(seq);
        conversation.repair_at = None;
        if let Some(view) = &mut conversation.view {
            view.head = Seq::from_raw(seq);
            view.head_visible = visible;
        }
        self.requests.cancel(Purpose::Repair(id));
        self.changed.insert(id);
        self.tell(Update::Reset { conversation: id, position: Seq::from_raw(seq) });
    }

    pub(super) fn on_receipt(&mut self, receipt: &server::ArchivedReceipt) {
        let id = ConversationId::from_raw(receipt.conversation.to_native());
        let user = UserId::from_raw(receipt.user.to_native());
        let (read, delivered) = (Seq::from_raw(receipt.read.to_native()), Seq::from_raw(receipt.delivered.to_native()));
        let direct = self.is_direct(id);
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        if let Some(view) = &mut conversation.view {
            if Some(user) == self.me {
                if view.read < read {
                    view.read = read;
                    view.read_visible = receipt.read_visible.to_native();
                }
            } else if direct {
                view.peer_read = view.peer_read.max(read);
                view.peer_delivered = view.peer_delivered.max(delivered).max(read);
            }
            self.changed.insert(id);
        }
        if direct && Some(user) != self.me {
            self.tell_receipt(id, delivered, read);
        }
        self.tell(Update::Receipt { conversation: id, user, read, delivered });
    }

    /// Lets the posts know how far the other one is.
    pub(super) fn tell_receipt(&mut self, id: ConversationId, delivered: Seq, read: Seq) {
        while let Some(progress) = self.outbox.on_receipt(id, delivered, read) {
            self.tell_progress(progress);
        }
    }

    pub(super) fn ask_history(&mut self, now: Instant, purpose: Purpose, conversation: ConversationId, anchor: u64) {
        let id = self.next_id();
        let query = Query::History { conversation, anchor, limit: HISTORY_LIMIT, forward: true };
        // Internal requests are not refused: their number is bounded where they are made.
        let _ = self.requests.push(now, id, purpose, query);
    }

    pub(super) fn on_repair_page(&mut self, now: Instant, id: ConversationId, page: HistoryView) {
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        self.attention.insert(id);
        let before = conversation.position();
        let mut apply = Vec::new();
        let skipped = conversation.track.skip_unreadable(page.first.raw(), &mut apply);
        let left_out = skipped.map(|_| page.first.raw() - 1);
        for event in page.events {
            conversation.track.offer(event.seq.raw(), event, &mut apply);
        }
        conversation.track.saw_head(page.head.raw());
        conversation.repair_at = None;
        conversation.schedule_repair(now);
        if conversation.position() > before {
            conversation.repair_failures = 0;
            // There is more for certain: no reason to wait.
            conversation.repair_at = conversation.repair_at.map(|_| now);
        }
        let moved = conversation.position() > before;
        if let Some(position) = left_out {
            self.tell(Update::Reset { conversation: id, position: Seq::from_raw(position) });
        }
        self.apply(now, id, apply);
        if !moved {
            self.on_repair_failed(now, id, RequestError::TimedOut);
        }
    }

    pub(super) fn on_repair_failed(&mut self, now: Instant, id: ConversationId, error: RequestError) {
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        let Some(_) = conversation.track.lacks() else { return };
        self.attention.insert(id);
        conversation.repair_failures += 1;
        conversation.repair_at = Some(now + REPAIR_PAUSE);
        let gone = matches!(error, RequestError::Rejected(RejectCode::NotFound | RejectCode::Unreadable));
        if gone || conversation.repair_failures >= REPAIR_FAILURES_MAX {
            // A hole is never silent: what cannot be had is left out, and the application is told.
            let head = conversation.track.head();
            conversation.track.reset(head);
            conversation.repair_at = None;
            self.tell(Update::Reset { conversation: id, position: Seq::from_raw(head) });
        }
    }

    /// Asks for what is missing and due, moves cursors that are due.
    pub(super) fn pump_conversations(&mut self, now: Instant) {
        if self.directory.entry_is_overdue(now) {
            self.load_directory(now);
        }
        let conversations = &self.conversations;
        self.attention.retain(|id| conversations.get(id).is_some_and(Conversation::needs_attention));
        let due = |id: &&ConversationId| conversations.get(id).and_then(|c| c.repair_at).is_some_and(|at| at <= now);
        let repairs: Vec<_> = self.attention.iter().filter(due).copied().collect();
        for id in repairs {
            if self.requests.repairs() >= REPAIRS_MAX {
                break;
            }
            let Some(conversation) = self.conversations.get_mut(&id) else { continue };
            conversation.repair_at = None;
            let Some(anchor) = conversation.track.lacks() else { continue };
            if !self.requests.has(Purpose::Repair(id)) {
                self.ask_history(now, Purpose::Repair(id), id, anchor);
            }
        }
        self.pump_cursors(now);
    }

    pub(super) fn conversations_deadline(&self) -> Option<Instant> {
        // While all repairs are taken, the answer to one of them is what the others wait for.
        let repairing = self.requests.repairs() < REPAIRS_MAX;
        let busy = self.attention.iter().filter_map(|id| self.conversations.get(id));
        let each = busy.flat_map(|busy| [busy.repair_at.filter(|_| repairing), busy.cursors.deadline()]);
        each.chain([self.directory.deadline()]).flatten().min()
    }
}
