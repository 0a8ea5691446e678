//! The list of conversations: read page by page, kept by user events, read again when one was missed. Sans-IO.
//! Never leaves a conversation out silently: what is gone is told as removed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_protocol::server::{self, role, user_event};
use tern_protocol::{ConversationId, FrameError, RequestId, Seq, Timestamp, frame};

use super::Session;
use super::conversations::Conversation;
use super::requests::{Purpose, Query};
use crate::update::Update;
use crate::view::ConversationView;

/// Conversations that are kept. Unit: conversations. A view and its place are under 1 KiB each.
pub(crate) const CONVERSATIONS_MAX: usize = 20_000;
/// Events since joining that are fetched when a conversation is new; of longer ones only what comes. Unit: events.
const FETCHED_SINCE_JOIN_MAX: u64 = 1024;
/// After a page that was not answered.
const PAUSE: Duration = Duration::from_secs(2);

/// What is known of the list itself.
#[derive(Debug)]
pub(super) struct Directory {
    user_seq: u64,
    /// The server's number when the list was asked for last.
    wanted_seq: u64,
    /// Whether the list was complete once: what appears later is new, and its events are wanted from joining on.
    complete_once: bool,
    loaded: bool,
    /// Seen during the loading that is under way.
    seen: BTreeSet<ConversationId>,
    loading: bool,
    /// The server forgot all positions: where each conversation begins anew is told.
    forgotten: bool,
    /// The server could not read one of the conversations when the list was read: what it is comes unasked, or with the next reading.
    partial: bool,
    /// Until then the entry of a conversation whose events came must be here.
    entry_due: Option<Instant>,
}

impl Directory {
    pub(super) fn new(resumed: Option<u64>) -> Self {
        Self {
            user_seq: resumed.unwrap_or(0),
            wanted_seq: 0,
            complete_once: resumed.is_some(),
            loaded: false,
            seen: BTreeSet::new(),
            loading: false,
            forgotten: false,
            partial: false,
            entry_due: None,
        }
    }

    pub(super) const fn user_seq(&self) -> u64 {
        self.user_seq
    }

    pub(super) const fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Whether the list must be read.
    pub(super) fn on_welcome(&mut self, user_seq: u64) -> bool {
        self.wanted_seq = user_seq;
        !self.loaded || self.partial || self.user_seq != user_seq
    }

    pub(super) fn is_behind(&mut self, user_seq: u64) -> bool {
        self.wanted_seq = user_seq;
        !self.loading && self.user_seq != user_seq
    }

    pub(super) fn forget(&mut self) {
        self.complete_once = false;
        self.loading = false;
        self.forgotten = true;
    }

    pub(super) fn expect_entry(&mut self, by: Instant) {
        if self.loaded && self.entry_due.is_none() {
            self.entry_due = Some(by);
        }
    }

    pub(super) fn entry_is_overdue(&self, now: Instant) -> bool {
        self.entry_due.is_some_and(|due| due <= now)
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.entry_due
    }
}

impl Session {
    /// Reads the list from the top, unless that is under way.
    pub(super) fn load_directory(&mut self, now: Instant) {
        self.directory.entry_due = None;
        if !self.directory.loading {
            self.directory.loading = true;
            self.directory.partial = false;
            self.directory.seen.clear();
            self.ask_directory(now, Timestamp::ZERO, ConversationId::from_raw(0));
        }
    }

    fn ask_directory(&mut self, now: Instant, before_time: Timestamp, before: ConversationId) {
        let id = self.next_id();
        // One at a time: the bound on requests does not apply to it.
        let _ = self.requests.push(now, id, Purpose::Directory, Query::Directory { before_time, before });
    }

    pub(super) fn on_directory_failed(&mut self, now: Instant) {
        self.directory.loading = false;
        self.directory.entry_due = Some(now + PAUSE);
    }

    pub(super) fn on_directory(&mut self, now: Instant, bytes: &Bytes) -> Result<(), FrameError> {
        let page = frame::decode::<server::DirectoryPage>(bytes)?;
        let request = RequestId::from_raw(page.request.to_native());
        let asked = request.raw() != 0;
        if asked && self.requests.take(request).is_none() {
            return Ok(());
        }
        let mut last = None;
        for entry in page.entries.iter() {
            let view = ConversationView::from_entry(entry);
            last = Some((view.head_time, view.conversation));
            self.directory.seen.insert(view.conversation);
            // Of one that the server cannot read the entry says nothing else: what is known of it stays.
            if entry.role == role::UNREADABLE {
                self.directory.partial = true;
            } else {
                self.on_entry(now, view);
            }
        }
        if !asked {
            return Ok(());
        }
        match last {
            Some((time, id)) if page.more != 0 && self.directory.seen.len() < CONVERSATIONS_MAX => {
                self.ask_directory(now, time, id);
            }
            Some(_) | None => self.finish_directory(),
        }
        Ok(())
    }

    fn on_entry(&mut self, now: Instant, mut entry: ConversationView) {
        let id = entry.conversation;
        let first_time = !self.directory.complete_once;
        let stated_head = entry.head;
        let conversation = self.conversations.entry(id).or_insert_with(Conversation::unplaced);
        if let Some(view) = &conversation.view {
            // The entry may be older than the events that came meanwhile.
            if view.head > entry.head {
                entry.head = view.head;
                entry.head_visible = view.head_visible;
                entry.head_time = view.head_time;
                entry.preview.clone_from(&view.preview);
                entry.preview_seq = view.preview_seq;
                entry.preview_sender = view.preview_sender;
            }
            if view.read > entry.read {
                entry.read = view.read;
                entry.read_visible = view.read_visible;
            }
            entry.peer_read = entry.peer_read.max(view.peer_read);
            entry.peer_delivered = entry.peer_delivered.max(view.peer_delivered);
        }
        let (head, join) = (entry.head.raw(), entry.join.raw());
        conversation.entry_head = stated_head;
        let since_join = join.saturating_sub(1);
        let fetch = !first_time && head.saturating_sub(since_join) <= FETCHED_SINCE_JOIN_MAX;
        let begins_anew = conversation.position().is_none() && !fetch && (!first_time || self.directory.forgotten);
        let (peer_delivered, peer_read) = (entry.peer_delivered, entry.peer_read);
        conversation.view = Some(entry);
        let mut apply = Vec::new();
        conversation.track.place(if fetch { since_join } else { head }, &mut apply);
        if begins_anew {
            let position = Seq::from_raw(conversation.position().unwrap_or(head).saturating_sub(apply.len() as u64));
            self.tell(Update::Reset { conversation: id, position });
        }
        self.apply(now, id, apply);
        self.saw_head(now, id, head, None);
        self.changed.insert(id);
        self.tell_receipt(id, peer_delivered, peer_read);
    }

    /// Everything that was not on any page is gone.
    fn finish_directory(&mut self) {
        self.directory.loading = false;
        self.directory.complete_once = true;
        self.directory.loaded = true;
        self.directory.forgotten = false;
        self.directory.user_seq = self.directory.user_seq.max(self.directory.wanted_seq);
        if self.directory.seen.len() < CONVERSATIONS_MAX {
            let seen = std::mem::take(&mut self.directory.seen);
            let gone: Vec<_> = self.conversations.keys().filter(|id| !seen.contains(id)).copied().collect();
            gone.into_iter().for_each(|id| self.remove_conversation(id));
        }
        self.tell_changed();
        self.tell(Update::DirectoryLoaded);
    }

    fn remove_conversation(&mut self, id: ConversationId) {
        self.attention.remove(&id);
        let removed = self.conversations.remove(&id);
        self.requests.cancel(Purpose::Repair(id));
        self.requests.cancel(Purpose::ReadCursor(id));
        if removed.is_some_and(|conversation| conversation.view.is_some()) {
            // What is known of its changes is told before that it is gone.
            self.changed.remove(&id);
            self.tell(Update::Removed(id));
        }
    }

    pub(super) fn on_user_event(&mut self, now: Instant, event: &server::ArchivedUserEvent) {
        let user_seq = event.user_seq.to_native();
        if user_seq <= self.directory.user_seq {
            return;
        }
        let missed = user_seq != self.directory.user_seq + 1;
        self.directory.wanted_seq = self.directory.wanted_seq.max(user_seq);
        if missed || self.directory.loading {
            self.load_directory(now);
        } else {
            self.directory.user_seq = user_seq;
        }
        let id = ConversationId::from_raw(event.conversation.to_native());
        if event.kind == user_event::CONVERSATION_REMOVED {
            self.directory.seen.remove(&id);
            self.remove_conversation(id);
        }
    }
}
