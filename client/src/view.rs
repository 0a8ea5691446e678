//! What an application sees: events, conversations, members, profiles, as owned values. Never a wire type, never a reference into a frame.

use std::collections::BTreeMap;

use bytes::Bytes;
use tern_protocol::server::{self, content, event, role};
use tern_protocol::{ConversationId, FrameError, RequestId, Seq, Timestamp, UserId, frame};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// The conversation begins.
    Created,
    /// A message.
    Message,
    /// `target` has the new body.
    Edited,
    /// `target` was taken back.
    Recalled,
    /// `subject` joined by themselves.
    Joined,
    /// `subject` left.
    Left,
    /// `subject` was added by `sender`.
    Added,
    /// `subject` was removed by `sender`.
    Kicked,
    /// `subject` has another role.
    Role,
    /// Something that this build does not know: shown as nothing.
    Unknown(u8),
}

impl EventKind {
    const fn from_raw(raw: u8) -> Self {
        match raw {
            event::CREATED => Self::Created,
            event::MESSAGE => Self::Message,
            event::EDITED => Self::Edited,
            event::RECALLED => Self::Recalled,
            event::JOINED => Self::Joined,
            event::LEFT => Self::Left,
            event::ADDED => Self::Added,
            event::KICKED => Self::Kicked,
            event::ROLE => Self::Role,
            other => Self::Unknown(other),
        }
    }

    /// The name in JSON output and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Message => "message",
            Self::Edited => "edited",
            Self::Recalled => "recalled",
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Added => "added",
            Self::Kicked => "kicked",
            Self::Role => "role",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// What a member may do; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sends and reads.
    Member,
    /// Also removes members and recalls their messages.
    Admin,
    /// Also gives roles.
    Owner,
}

impl Role {
    pub(crate) const fn from_raw(raw: u8) -> Self {
        match raw {
            role::OWNER => Self::Owner,
            role::ADMIN => Self::Admin,
            _ => Self::Member,
        }
    }

    pub(crate) const fn raw(self) -> u8 {
        match self {
            Self::Member => role::MEMBER,
            Self::Admin => role::ADMIN,
            Self::Owner => role::OWNER,
        }
    }

    /// The name in commands and JSON output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// One event of a conversation. What is in `body` came from somebody else: sanitise it before it reaches a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventView {
    /// Where.
    pub conversation: ConversationId,
    /// Its place in the conversation.
    pub seq: Seq,
    /// When it became durable.
    pub time: Timestamp,
    /// Messages up to and including this event.
    pub visible: u64,
    /// Whose doing.
    pub sender: UserId,
    /// The sender's request id.
    pub request: RequestId,
    /// The message answered, edited or recalled.
    pub target: Option<Seq>,
    /// The event that last edited or recalled this one.
    pub revised: Option<Seq>,
    /// The user added, removed or given a role.
    pub subject: Option<UserId>,
    /// What happened.
    pub kind: EventKind,
    /// For a role change, create or add: the role given.
    pub role: Role,
    /// Users to notify.
    pub mentions: Vec<UserId>,
    /// See [`Content`].
    pub content: Content,
    /// The sender's bytes; for a creation the title.
    pub body: Bytes,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// UTF-8 text.
    Text,
    /// Bytes for the application.
    Opaque,
    /// There is no body any more: the message was taken back, or the edit was followed by another one.
    Recalled,
    /// Something that this build does not know.
    Unknown(u8),
}

impl Content {
    pub(crate) const fn from_raw(raw: u8) -> Self {
        match raw {
            content::TEXT => Self::Text,
            content::OPAQUE => Self::Opaque,
            content::RECALLED => Self::Recalled,
            other => Self::Unknown(other),
        }
    }

    pub(crate) const fn raw(self) -> u8 {
        match self {
            Self::Text => content::TEXT,
            Self::Opaque => content::OPAQUE,
            Self::Recalled => content::RECALLED,
            Self::Unknown(other) => other,
        }
    }
}

impl EventView {
    /// Reads a whole event frame, without copying the body.
    ///
    /// # Errors
    /// When it is no valid event.
    pub fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        let event = frame::decode::<server::Event<'_>>(bytes)?;
        let seq = |raw: u64| (raw != 0).then(|| Seq::from_raw(raw));
        let subject = event.subject.to_native();
        Ok(Self {
            conversation: ConversationId::from_raw(event.conversation.to_native()),
            seq: Seq::from_raw(event.seq.to_native()),
            time: Timestamp::from_raw(event.time.to_native()),
            visible: event.visible.to_native(),
            sender: UserId::from_raw(event.sender.to_native()),
            request: RequestId::from_raw(event.request.to_native()),
            target: seq(event.target.to_native()),
            revised: seq(event.revised.to_native()),
            subject: (subject != 0).then(|| UserId::from_raw(subject)),
            kind: EventKind::from_raw(event.kind),
            role: Role::from_raw(event.role),
            mentions: event.mentions.iter().map(|user| UserId::from_raw(user.to_native())).collect(),
            content: Content::from_raw(event.content),
            body: bytes.slice_ref(event.body.as_slice()),
        })
    }

    /// The body as text; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// A conversation as its member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationView {
    /// Which.
    pub conversation: ConversationId,
    /// Group title; empty for a direct conversation.
    pub title: String,
    /// Last event known.
    pub head: Seq,
    /// Messages up to the head.
    pub head_visible: u64,
    /// When the last event was.
    pub head_time: Timestamp,
    /// The event with which this user came in.
    pub join: Seq,
    /// Messages up to `join`.
    pub join_visible: u64,
    /// This user's read cursor.
    pub read: Seq,
    /// Messages up to `read`.
    pub read_visible: u64,
    /// Direct conversations: the other one's read cursor.
    pub peer_read: Seq,
    /// Direct conversations: how far the other one's devices have it.
    pub peer_delivered: Seq,
    /// Number of members.
    pub members: u32,
    /// This user's role.
    pub role: Role,
    /// The message that the preview is of: the last one, unless it was recalled.
    pub preview_seq: Option<Seq>,
    /// Who sent it.
    pub preview_sender: Option<UserId>,
    /// The beginning of its text.
    pub preview: String,
}

impl ConversationView {
    /// Messages that this user has not read: a formula, so that all devices agree and nothing can drift.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.head_visible.saturating_sub(self.read_visible.max(self.join_visible))
    }

    pub(crate) fn from_entry(entry: &server::ArchivedDirectoryEntry) -> Self {
        let (shown, sender) = (entry.preview_seq.to_native(), entry.preview_sender.to_native());
        Self {
            conversation: ConversationId::from_raw(entry.conversation.to_native()),
            title: String::from_utf8_lossy(&entry.title).into_owned(),
            head: Seq::from_raw(entry.head.to_native()),
            head_visible: entry.head_visible.to_native(),
            head_time: Timestamp::from_raw(entry.head_time.to_native()),
            join: Seq::from_raw(entry.join.to_native()),
            join_visible: entry.join_visible.to_native(),
            read: Seq::from_raw(entry.read.to_native()),
            read_visible: entry.read_visible.to_native(),
            peer_read: Seq::from_raw(entry.peer_read.to_native()),
            peer_delivered: Seq::from_raw(entry.peer_delivered.to_native()),
            members: entry.members.to_native(),
            role: Role::from_raw(entry.role),
            preview_seq: (shown != 0).then(|| Seq::from_raw(shown)),
            preview_sender: (sender != 0).then(|| UserId::from_raw(sender)),
            preview: String::from_utf8_lossy(&entry.preview).into_owned(),
        }
    }
}

/// A page of history, ascending and without holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryView {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Its head when the page was made.
    pub head: Seq,
    /// The oldest event this user may read.
    pub first: Seq,
    /// The events.
    pub events: Vec<EventView>,
}

/// One member of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberView {
    /// Who.
    pub user: UserId,
    /// The event with which they came in.
    pub join: Seq,
    /// Read up to here.
    pub read: Seq,
    /// Their role.
    pub role: Role,
}

/// A page of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersView {
    /// How many there are in all.
    pub total: u32,
    /// Whether there are more after the last one here.
    pub more: bool,
    /// The members, by user id.
    pub members: Vec<MemberView>,
}

/// What everybody may know of a user. Both names came from that user: sanitise them before they reach a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileView {
    /// Who.
    pub user: UserId,
    /// Account name.
    pub name: String,
    /// Display name.
    pub display: String,
}

/// What a client has: give it to the next one ([`crate::ClientBuilder::resume`]) and that gets exactly what is missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    /// Number of the last user event seen.
    pub user_seq: u64,
    /// The last event applied of each conversation.
    pub conversations: BTreeMap<ConversationId, Seq>,
}
