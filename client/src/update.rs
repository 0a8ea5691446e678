//! What an application is told, and what it may ask: the vocabulary between the handle and the session. Data only.

use std::time::Instant;

use tern_protocol::{CloseCode, ConversationId, RejectCode, Seq, Timestamp, UserId};

use crate::outbox::Progress;
use crate::view::{ConversationView, EventView, HistoryView, MembersView, ProfileView};
use crate::wire::LinkTransport;

/// News, in the order in which they happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// The connection's state changed.
    State(ConnectionState),
    /// The next event of its conversation: each once, in order of seq.
    Event(Box<EventView>),
    /// Events of this conversation up to `position` are left out of the stream, and go on after it: page back for them.
    Reset {
        /// Which conversation.
        conversation: ConversationId,
        /// The next event is the one after this.
        position: Seq,
    },
    /// A member's cursors moved.
    Receipt {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// Read up to here.
        read: Seq,
        /// Arrived on a device up to here.
        delivered: Seq,
    },
    /// Somebody is writing, or stopped. Forget it after 6 seconds.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// Writing or stopped.
        active: bool,
    },
    /// A watched user came or went.
    Presence {
        /// Who.
        user: UserId,
        /// Whether a device of theirs is connected.
        online: bool,
        /// When they were last seen, if they are not online and ever were.
        last_seen: Option<Timestamp>,
    },
    /// An own message, edit or recall came further.
    Send(Progress),
    /// A conversation is new, or its title, head, cursors, unread count or preview changed.
    Conversation(Box<ConversationView>),
    /// This user is no longer in a conversation.
    Removed(ConversationId),
    /// Every conversation that there was at this moment has been told.
    DirectoryLoaded,
}

/// What the connection does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// An attempt is under way.
    Connecting,
    /// Messages flow.
    Online {
        /// Over what.
        transport: LinkTransport,
    },
    /// The next attempt is at this time.
    Waiting {
        /// When.
        retry_at: Instant,
        /// What went wrong, for a person.
        why: String,
    },
    /// There will be no further attempt.
    Stopped(StopReason),
}

/// Why a client does not try again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// [`crate::Client::close`] was called, or every handle was dropped.
    Closed,
    /// The device was logged out, or its tokens are void: log in again.
    LoggedOut,
    /// The server closed the connection for a reason that trying again does not change.
    Refused(CloseCode),
    /// The server's key changed, or its certificate is not trusted; the text says what to do.
    Untrusted(String),
    /// The session file cannot be written or the system is out of something; the text says what.
    Failed(String),
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::LoggedOut => f.write_str("this device is logged out: log in again"),
            Self::Refused(code) => code.fmt(f),
            Self::Untrusted(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The server refused it.
    Rejected(RejectCode),
    /// No answer came in time; whether it was done is not known. Asking again is safe.
    TimedOut,
    /// Too many requests wait already.
    TooMany,
    /// The client was closed, or logged out.
    Stopped,
    /// A text or list is longer than the protocol carries.
    TooLarge,
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rejected(code) => code.fmt(f),
            Self::TimedOut => f.write_str("the server did not answer in time; try again"),
            Self::TooMany => f.write_str("too many requests wait already; try again in a moment"),
            Self::Stopped => f.write_str("the client is stopped"),
            Self::TooLarge => f.write_str("too long for one request"),
        }
    }
}

impl std::error::Error for RequestError {}

/// A change that the server made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Where.
    pub conversation: ConversationId,
    /// As which event.
    pub seq: Seq,
    /// When.
    pub time: Timestamp,
}

/// An answer to a request of the application.
#[derive(Debug)]
pub(crate) enum Answer {
    History(HistoryView),
    Members(MembersView),
    Profiles(Vec<ProfileView>),
    Done(Done),
}
