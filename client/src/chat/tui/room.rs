//! One conversation as the screen knows it: a stretch of events without holes, what is being sent, who is writing. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tern_client::{
    Content, ConversationView, EventKind, EventView, HistoryView, PostContent, RequestId, SendState, Seq, UserId,
};

use crate::text::clean;

/// Events of one conversation that are kept. Unit: events. The oldest go first, and are loaded again by scrolling up.
const EVENTS_MAX: usize = 5000;
/// A typing notice is forgotten after this long.
///
/// # Source
/// `tern_protocol::server::TypingNotice`.
const TYPING_LIFETIME: Duration = Duration::from_secs(6);

/// One event, ready to be drawn: its text is clean.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) event: EventView,
    pub(super) text: String,
    pub(super) edited: bool,
    pub(super) recalled: bool,
}

/// A message that is not an event yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) request: RequestId,
    pub(super) text: String,
    pub(super) state: SendState,
}

/// How much of the past is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// There may be more.
    Partial,
    /// A page is on its way.
    Loading,
    /// From the first readable event on.
    Complete,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) view: ConversationView,
    pub(super) entries: BTreeMap<Seq, Entry>,
    pub(super) pending: Vec<Pending>,
    pub(super) past: Past,
    /// Lines below the bottom of the pane; 0: the newest is visible.
    pub(super) scroll: usize,
    /// The message under the cursor of the message pane.
    pub(super) cursor: Option<Seq>,
    /// Where the unread messages began when the conversation was opened.
    pub(super) new_from: Option<Seq>,
    typing: BTreeMap<UserId, Instant>,
}

impl Room {
    pub(super) const fn new(view: ConversationView) -> Self {
        Self {
            view,
            entries: BTreeMap::new(),
            pending: Vec::new(),
            past: Past::Partial,
            scroll: 0,
            cursor: None,
            new_from: None,
            typing: BTreeMap::new(),
        }
    }

    /// The next event of the stream.
    pub(super) fn on_event(&mut self, event: EventView) {
        self.typing.remove(&event.sender);
        self.pending.retain(|pending| pending.request != event.request);
        self.insert(event);
        while self.entries.len() > EVENTS_MAX {
            self.entries.pop_first();
            self.past = Past::Partial;
        }
    }

    /// A page of the past.
    pub(super) fn on_history(&mut self, page: HistoryView) {
        let reached = page.events.first().is_none_or(|oldest| oldest.seq <= page.first);
        for event in page.events {
            if !self.entries.contains_key(&event.seq) {
                self.insert(event);
            }
        }
        self.past = if reached { Past::Complete } else { Past::Partial };
    }

    /// The stream goes on somewhere else: what is here does not join it.
    pub(super) fn on_reset(&mut self) {
        self.entries.clear();
        self.past = Past::Partial;
        self.scroll = 0;
        self.cursor = None;
    }

    pub(super) fn on_posted(&mut self, request: RequestId, content: &PostContent) {
        if let PostContent::Message { body, .. } = content {
            let text = clean(&String::from_utf8_lossy(body));
            self.pending.push(Pending { request, text, state: SendState::Pending });
        }
    }

    pub(super) fn on_progress(&mut self, request: RequestId, state: SendState) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.request == request) {
            pending.state = state;
        }
        if let SendState::Sent(seq) = state
            && self.entries.contains_key(&seq)
        {
            self.pending.retain(|pending| pending.request != request);
        }
    }

    pub(super) fn on_typing(&mut self, user: UserId, active: bool, now: Instant) {
        if active {
            self.typing.insert(user, now + TYPING_LIFETIME);
        } else {
            self.typing.remove(&user);
        }
    }

    /// Who is writing at this moment.
    pub(super) fn typing(&self, now: Instant) -> impl Iterator<Item = UserId> {
        self.typing.iter().filter(move |(_, until)| **until > now).map(|(user, _)| *user)
    }

    /// The last post that failed.
    pub(super) fn last_failed(&self) -> Option<&Pending> {
        self.pending.iter().rev().find(|pending| matches!(pending.state, SendState::Failed(_)))
    }

    /// The newest message by, or not by, this user that can still be answered or changed.
    pub(super) fn last_message(&self, user: UserId, own: bool) -> Option<&Entry> {
        let wanted = |entry: &&Entry| is_live_message(entry) && (entry.event.sender == user) == own;
        self.entries.values().rev().find(wanted)
    }

    /// The message under the cursor.
    pub(super) fn chosen(&self) -> Option<&Entry> {
        self.cursor.and_then(|seq| self.entries.get(&seq))
    }

    /// Moves the cursor to the next message above or below; `false` at the end.
    pub(super) fn move_cursor(&mut self, up: bool) -> bool {
        let is_message = |entry: &&Entry| entry.event.kind == EventKind::Message;
        let next = match (self.cursor, up) {
            (None, true) => self.entries.values().rev().find(is_message),
            (None, false) => None,
            (Some(at), true) => self.entries.range(..at).map(|(_, entry)| entry).rev().find(is_message),
            (Some(at), false) => self.entries.range(at.next()..).map(|(_, entry)| entry).find(is_message),
        };
        let next = next.map(|entry| entry.event.seq);
        let moved = next.is_some();
        self.cursor = if moved { next } else { self.cursor.filter(|_| up) };
        moved
    }

    fn insert(&mut self, event: EventView) {
        if event.kind == EventKind::Recalled {
            let edits = self.entries.values_mut().filter(|entry| entry.event.kind == EventKind::Edited);
            edits.filter(|edit| edit.event.target == event.target).for_each(Entry::erase);
        }
        if let (EventKind::Edited | EventKind::Recalled, Some(target)) = (event.kind, event.target)
            && let Some(entry) = self.entries.get_mut(&target)
            && entry.event.revised.is_none_or(|revised| revised < event.seq)
            && !(event.kind == EventKind::Edited && event.content == Content::Recalled)
        {
            entry.event.revised = Some(event.seq);
            if event.kind == EventKind::Recalled {
                entry.erase();
            } else {
                entry.edited = true;
                entry.text = clean(&event.text());
                entry.event.body = event.body.clone();
            }
        }
        let recalled = event.content == Content::Recalled;
        let text = match event.content {
            Content::Text => clean(&event.text()),
            Content::Recalled => String::new(),
            Content::Opaque | Content::Unknown(_) => format!("[{} bytes for another app]", event.body.len()),
        };
        let edited = event.revised.is_some() && !recalled;
        self.entries.insert(event.seq, Entry { event, text, edited, recalled });
    }
}

impl Entry {
    /// Forgets what was said.
    fn erase(&mut self) {
        self.recalled = true;
        self.text = String::new();
        self.event.body = bytes::Bytes::new();
        self.event.mentions = Vec::new();
        self.event.content = Content::Recalled;
    }
}

/// Whether an entry is a message that was not taken back.
pub(super) fn is_live_message(entry: &Entry) -> bool {
    entry.event.kind == EventKind::Message && !entry.recalled
}
