//! What shards of one node say to each other. In order per pair of shards, never lost while the node runs; never stored.
//! Session shards speak to owners with [`ToOwner`], owners answer and deliver with [`ToSessions`].

use bytes::Bytes;
use tern_protocol::{
    CloseCode, ConversationId, DeviceId, PartitionId, Position, RequestId, Seq, SessionId, ShardId, Timestamp, UserId,
};

use crate::io::{Ending, Order};

/// From one shard to another.
#[derive(Debug)]
pub enum Message {
    /// For the owner of an entity.
    ToOwner(ToOwner),
    /// For the shard that holds sessions.
    ToSessions(ToSessions),
}

/// A session, and the shard that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which shard.
    pub shard: ShardId,
    /// Which session there.
    pub session: SessionId,
}

/// To the owner of an entity.
#[derive(Debug)]
pub enum ToOwner {
    /// May this device open a session?
    OpenSession {
        /// Whose.
        user: UserId,
        /// From which device.
        device: DeviceId,
        /// The session.
        place: Place,
        /// Whether it waited for the end of its device's older session: it counts only while it still waits.
        waited: bool,
    },
    /// A session that asked to open has ended, or was told to: nothing that comes on it from here on is done.
    EndSession {
        /// Whose.
        user: UserId,
        /// The session.
        place: Place,
        /// How.
        ending: Ending,
    },
    /// This session wants a conversation's events from here on, and what it lacks.
    Watch {
        /// The session.
        place: Place,
        /// Whose.
        user: UserId,
        /// Which conversation.
        conversation: ConversationId,
        /// What the client has; `None`: it does not say.
        known: Option<Seq>,
        /// Repeated in the answer.
        ticket: u64,
    },
    /// No session of this shard wants the conversation any more.
    Unwatch {
        /// The shard.
        shard: ShardId,
        /// Which conversation.
        conversation: ConversationId,
    },
    /// A page of history.
    History {
        /// The session.
        place: Place,
        /// Whose.
        user: UserId,
        /// The request.
        request: RequestId,
        /// Which conversation.
        conversation: ConversationId,
        /// Excluded.
        anchor: u64,
        /// At most so many events.
        limit: u16,
        /// From `anchor` onwards (oldest first) or back from it (newest first).
        order: Order,
    },
    /// A page of members.
    Members {
        /// The session.
        place: Place,
        /// Whose.
        user: UserId,
        /// The request.
        request: RequestId,
        /// Which conversation.
        conversation: ConversationId,
        /// Excluded.
        after: UserId,
        /// At most so many.
        limit: u16,
    },
    /// Is this user in the conversation? Their session has not heard of it, and the news may be under way.
    FindMember {
        /// The session.
        place: Place,
        /// Repeated in the answer.
        gather: u64,
        /// Whose.
        user: UserId,
        /// Which conversation.
        conversation: ConversationId,
    },
    /// Who is this?
    FindUser {
        /// The session.
        place: Place,
        /// Repeated in the answer.
        gather: u64,
        /// Who.
        user: UserId,
    },
    /// Who has this name?
    FindName {
        /// The session.
        place: Place,
        /// Repeated in the answer.
        gather: u64,
        /// Canonical.
        name: Box<str>,
    },
    /// A member is writing.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// Or has stopped.
        active: bool,
    },
    /// A member's device has everything up to here.
    Delivered {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// Up to here.
        seq: Seq,
    },
    /// Sessions of this shard want to know whether the user is online.
    WatchPresence {
        /// Whose presence.
        user: UserId,
        /// The shard.
        shard: ShardId,
    },
    /// No session of this shard wants to know any more.
    UnwatchPresence {
        /// Whose presence.
        user: UserId,
        /// The shard.
        shard: ShardId,
    },
    /// A command that this owner's partition caused is durable in another partition.
    EmissionLogged {
        /// The causing partition.
        partition: PartitionId,
        /// The causing command.
        position: Position,
        /// Which of its emissions.
        index: u32,
    },
}

/// To the shard that holds sessions.
#[derive(Debug)]
pub enum ToSessions {
    /// The session may open.
    Opened {
        /// Which.
        session: SessionId,
        /// Whose.
        user: UserId,
        /// Number of the user's last event.
        user_seq: u64,
        /// The conversations the user is in.
        conversations: Vec<ConversationId>,
    },
    /// The session must end.
    Close {
        /// Which.
        session: SessionId,
        /// Why.
        code: CloseCode,
    },
    /// The session is subscribed to a conversation, or is not a member.
    Watching {
        /// Which session.
        session: SessionId,
        /// Which conversation.
        conversation: ConversationId,
        /// Which of its watches is answered: it may have gone out and asked again since.
        ticket: u64,
        /// `None`: not a member.
        member: Option<Box<Watching>>,
    },
    /// The conversation of a watch cannot be read at present; [`Self::Aside`] says when it can.
    Unreadable {
        /// Which session.
        session: SessionId,
        /// Which conversation.
        conversation: ConversationId,
        /// Which of its watches is answered.
        ticket: u64,
    },
    /// A conversation is set aside: no command for it is to be logged. Or it is back.
    Aside {
        /// Which conversation.
        conversation: ConversationId,
        /// Whether it is away.
        away: bool,
    },
    /// One event, for every session here that is subscribed.
    Deliver {
        /// Where.
        conversation: ConversationId,
        /// What it says beside its bytes.
        event: EventHead,
        /// The encoded frame: the same bytes for all.
        frame: Bytes,
    },
    /// The answer to a command or question of one session.
    Answer {
        /// Which session.
        session: SessionId,
        /// The encoded frame.
        frame: Bytes,
        /// Whether a command ended that counted as in flight.
        command: bool,
        /// A conversation that the user is in by this command.
        joined: Option<ConversationId>,
    },
    /// What was found of a user.
    Found {
        /// Which session.
        session: SessionId,
        /// Which question.
        gather: u64,
        /// The user.
        profile: Found<Box<FoundUser>>,
    },
    /// What was found of a name.
    FoundName {
        /// Which session.
        session: SessionId,
        /// Which question.
        gather: u64,
        /// The user.
        user: Found<UserId>,
    },
    /// Whether the session's user is in the conversation that was asked about.
    FoundMember {
        /// Which session.
        session: SessionId,
        /// Which question.
        gather: u64,
        /// The conversation's last event, of a member.
        member: Found<Seq>,
    },
    /// A member's cursors.
    Receipt {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// Read up to here.
        read: Seq,
        /// Messages up to `read`.
        read_visible: u64,
        /// On a device up to here.
        delivered: Seq,
        /// Who is told.
        audience: Audience,
    },
    /// A member is writing.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// Or has stopped.
        active: bool,
    },
    /// A user's presence, now.
    Presence {
        /// Who.
        user: UserId,
        /// Whether there is a session.
        online: bool,
        /// When there last was; zero: unknown.
        last_seen: Timestamp,
    },
    /// A conversation came into a user's directory or went out of it.
    Directory {
        /// Which session.
        session: SessionId,
        /// Number of the user event.
        user_seq: u64,
        /// Which conversation.
        conversation: ConversationId,
        /// In or out.
        joined: bool,
    },
}

/// What became of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// This.
    This(T),
    /// There is none.
    Nobody,
    /// The owner has too much to load: it may be asked again.
    Busy,
    /// It cannot be read at present.
    Unreadable,
}

impl<T> From<Option<T>> for Found<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::Nobody, Self::This)
    }
}

/// Who is told of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every member.
    Members,
    /// The user's own devices: the conversation is too large for more.
    Own,
}

/// What a delivery says beside its bytes, so that sessions need not decode it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHead {
    /// Its place.
    pub seq: Seq,
    /// Messages up to it.
    pub visible: u64,
    /// Its time.
    pub time: Timestamp,
    /// Whose doing.
    pub sender: UserId,
    /// Whom it is about; raw 0: nobody.
    pub subject: UserId,
    /// The message it is about; zero: none.
    pub target: Seq,
    /// What: see `server::event`.
    pub kind: u8,
    /// See `server::role`.
    pub role: u8,
    /// Members after it.
    pub members: u32,
}

/// A conversation as a member's session first sees it.
#[derive(Debug, Clone)]
pub struct Watching {
    /// Last event.
    pub head: Seq,
    /// Messages up to it.
    pub visible: u64,
    /// Its time.
    pub head_time: Timestamp,
    /// Members.
    pub members: u32,
    /// Title of a group.
    pub title: Bytes,
    /// The last message, if it is in memory: its encoded frame.
    pub preview: Option<Bytes>,
    /// The oldest event that the member may read.
    pub first: Seq,
    /// The member's own state.
    pub join: Seq,
    /// Messages up to `join`.
    pub join_visible: u64,
    /// Read cursor.
    pub read: Seq,
    /// Messages up to `read`.
    pub read_visible: u64,
    /// Role.
    pub role: u8,
    /// Direct: the other's read and delivered cursors.
    pub peer: Option<(UserId, Seq, Seq)>,
    /// What the client lacks.
    pub missing: Missing,
}

/// What a client lacks of a conversation.
#[derive(Debug, Clone)]
pub enum Missing {
    /// Nothing, or it did not say what it has.
    Nothing,
    /// Exactly these events, ascending, up to the head.
    Events(Vec<Bytes>),
    /// More than memory holds, or less than it may see: it must page.
    Reset,
}

/// What everybody may know of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundUser {
    /// Who.
    pub user: UserId,
    /// Account name.
    pub name: Box<[u8]>,
    /// Display name.
    pub display: Box<[u8]>,
}
