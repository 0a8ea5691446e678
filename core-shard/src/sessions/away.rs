//! Conversations that their owners cannot read at present: commands for them are refused before they are logged, and members' lists
//! show that they are there and no more. Never takes such a conversation for one that the user is not in.

use tern_protocol::server::{DirectoryEntry, role};
use tern_protocol::{ConversationId, SessionId};

use super::Sessions;
use super::session::{Phase, Session};
use crate::context::Context;

impl Sessions {
    /// The owner cannot answer a watch: the list goes on without it.
    pub(super) fn on_unreadable(&mut self, cx: &mut Context, id: SessionId, conversation: ConversationId, ticket: u64) {
        if let Some(local) = self.locals.get_mut(&conversation) {
            local.asked = local.asked.saturating_sub(1);
        }
        self.drop_idle(cx, conversation);
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let Some(mine) = open.conversations.get_mut(&conversation) else { return };
        if mine.place.is_some() || mine.ticket != ticket || std::mem::replace(&mut mine.unreadable, true) {
            return;
        }
        open.syncing -= 1;
        self.away.entry(conversation).or_default().push(id);
        self.release_held(cx, id);
    }

    /// An owner cannot read a conversation any more, or can again: then whoever could not watch it asks again.
    pub(super) fn on_aside(&mut self, cx: &mut Context, conversation: ConversationId, away: bool) {
        if away {
            self.away.entry(conversation).or_default();
            return;
        }
        for id in self.away.remove(&conversation).unwrap_or_default() {
            let Some(open) = self.get(id).and_then(Session::open) else { continue };
            if open.conversations.get(&conversation).is_some_and(|mine| mine.unreadable) {
                open.conversations.remove(&conversation);
                self.subscribe(cx, id, conversation, None, true);
            }
        }
    }

    /// Where a conversation stands in a list: by its last event, those that cannot be read at the end.
    pub(super) fn list_time(&self, id: SessionId, conversation: ConversationId) -> Option<u64> {
        if self.is_unreadable(id, conversation) {
            return Some(0);
        }
        Some(self.head_time(id, conversation)?.raw())
    }

    /// Whether a session's user is in a conversation that cannot be read.
    pub(super) fn is_unreadable(&self, id: SessionId, conversation: ConversationId) -> bool {
        let session = self.slots.get(super::slot_of(id)).and_then(Option::as_deref).filter(|session| session.id == id);
        let Some(Phase::Open(open)) = session.map(|session| &session.phase) else { return false };
        open.conversations.get(&conversation).is_some_and(|mine| mine.unreadable)
    }
}

/// All that can be said of a conversation that cannot be read.
pub(super) fn entry(conversation: ConversationId) -> DirectoryEntry {
    DirectoryEntry {
        conversation: conversation.raw(),
        head: 0,
        head_visible: 0,
        head_time: 0,
        join: 0,
        join_visible: 0,
        read: 0,
        read_visible: 0,
        peer_read: 0,
        peer_delivered: 0,
        members: 0,
        role: role::UNREADABLE,
        title: Vec::new(),
        preview_seq: 0,
        preview_sender: 0,
        preview: Vec::new(),
    }
}
