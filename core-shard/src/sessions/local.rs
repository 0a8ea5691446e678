//! The index from a conversation to the sessions of this shard that are subscribed to it, and what they all need to know of it.
//! Kept in step by the owner's messages, which come in order; delivering costs one look-up here, whatever the group's size.

use std::collections::BTreeMap;

use bytes::Bytes;
use tern_protocol::frame;
use tern_protocol::limit::PREVIEW_SIZE_MAX;
use tern_protocol::server::{DirectoryEntry, Event, content, event};
use tern_protocol::{ConversationId, Seq, SessionId, Timestamp, UserId};

use super::session::Membership;
use crate::message::{EventHead, Watching};

/// Conversations with sessions here.
pub(crate) type Locals = BTreeMap<ConversationId, Local>;

/// One conversation as this shard knows it.
#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) head: Seq,
    pub(crate) visible: u64,
    pub(crate) head_time: Timestamp,
    members: u32,
    title: Bytes,
    /// The last message's place and frame.
    preview: Option<(Seq, Bytes)>,
    /// Direct conversations: each one's read and delivered cursors.
    cursors: Vec<(UserId, Seq, Seq)>,
    /// Who is subscribed, in no order; a membership knows its own place here.
    pub(crate) sessions: Vec<SessionId>,
    /// Watches that the owner has not answered: until then it must not be told that nobody watches.
    pub(crate) asked: u32,
}

impl Local {
    /// Whether nobody here cares any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.sessions.is_empty() && self.asked == 0
    }

    /// What the owner says of the conversation, to a user of this shard.
    pub(crate) fn learn(&mut self, user: UserId, watching: &Watching) {
        self.head = watching.head;
        self.visible = watching.visible;
        self.head_time = watching.head_time;
        self.members = watching.members;
        self.title = watching.title.clone();
        let preview = watching.preview.as_ref().and_then(|frame| Some((seq_of(frame)?, frame.clone())));
        self.preview = preview.or(self.preview.take());
        if let Some((peer, read, delivered)) = watching.peer {
            self.set_cursors(peer, read, delivered);
            self.set_cursors(user, watching.read, Seq::ZERO);
        }
    }

    /// One more event.
    pub(crate) fn advance(&mut self, event: &EventHead, frame: &Bytes) {
        self.head = event.seq;
        self.visible = event.visible;
        self.head_time = event.time;
        self.members = event.members;
        match event.kind {
            event::MESSAGE => self.preview = Some((event.seq, frame.clone())),
            event::EDITED if self.preview.as_ref().is_some_and(|(seq, _)| *seq == event.target) => {
                self.preview = Some((event.target, frame.clone()));
            }
            event::RECALLED if self.preview.as_ref().is_some_and(|(seq, _)| *seq == event.target) => {
                self.preview = None;
            }
            _ => {}
        }
    }

    /// A direct conversation's cursors moved.
    pub(crate) fn set_cursors(&mut self, user: UserId, read: Seq, delivered: Seq) {
        if let Some((_, old_read, old_delivered)) = self.cursors.iter_mut().find(|(other, ..)| *other == user) {
            *old_read = (*old_read).max(read);
            *old_delivered = (*old_delivered).max(delivered);
        } else if self.cursors.len() < 2 {
            self.cursors.push((user, read, delivered));
        }
    }

    /// The conversation as this member sees it.
    pub(crate) fn entry(&self, id: ConversationId, user: UserId, member: &Membership) -> DirectoryEntry {
        let peer = id.peer_of(user);
        let cursors = self.cursors.iter().find(|(other, ..)| Some(*other) == peer);
        // The others here may have been in it for longer than this one.
        let readable = self.preview.as_ref().filter(|(seq, _)| *seq >= member.first);
        let preview_seq = readable.map_or(0, |(seq, _)| seq.raw());
        let (preview_sender, preview) = readable.and_then(|(_, frame)| preview(frame)).unwrap_or_default();
        DirectoryEntry {
            conversation: id.raw(),
            head: self.head.raw(),
            head_visible: self.visible,
            head_time: self.head_time.raw(),
            join: member.join.raw(),
            join_visible: member.join_visible,
            read: member.read.raw(),
            read_visible: member.read_visible,
            peer_read: cursors.map_or(0, |(_, read, _)| read.raw()),
            peer_delivered: cursors.map_or(0, |(_, _, delivered)| delivered.raw()),
            members: self.members,
            role: member.role,
            title: self.title.to_vec(),
            preview_seq,
            preview_sender,
            preview,
        }
    }
}

fn seq_of(bytes: &Bytes) -> Option<Seq> {
    Some(Seq::from_raw(frame::decode::<Event<'_>>(bytes).ok()?.seq.to_native()))
}

/// Sender and beginning of a message's text, cut between characters.
fn preview(bytes: &Bytes) -> Option<(u64, Vec<u8>)> {
    let event = frame::decode::<Event<'_>>(bytes).ok()?;
    if event.content != content::TEXT {
        return Some((event.sender.to_native(), Vec::new()));
    }
    let text = std::str::from_utf8(&event.body).ok()?;
    let cut = (0..=PREVIEW_SIZE_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at))?;
    Some((event.sender.to_native(), text.as_bytes().get(..cut)?.to_vec()))
}
