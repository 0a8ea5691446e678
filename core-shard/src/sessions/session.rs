//! One session: how far its hello has come, what it may ask, and what waits for it. Transitions are methods of [`super::Sessions`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tern_protocol::{ConversationId, DeviceId, RejectCode, RequestId, Seq, SessionId, Timestamp, UserId};

use super::outbox::Outbox;
use super::rate::Bucket;
use crate::io::{Claims, Urgency};
use crate::message::FoundUser;
use crate::sorted_map::SortedMap;

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) phase: Phase,
    pub(crate) outbox: Outbox,
    pub(crate) bucket: Bucket,
    /// Commands that the log has and that are not answered.
    pub(crate) inflight: u32,
    /// Pages that owners were asked for and that are not here: each will be as large as a page may be.
    pub(crate) pages: u32,
    /// On the list of those with something to send.
    pub(crate) ready: Option<Urgency>,
    /// When it is looked at next whether the client takes what waits for it; `None`: nothing has waited lately.
    pub(crate) stall: Option<Timestamp>,
    /// When the client last took something, or something began to wait.
    pub(crate) taken: Timestamp,
}

/// How far it has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Nothing valid was said yet.
    Hello { deadline: Timestamp },
    /// The token is being checked.
    Verifying { deadline: Timestamp, hello: Bytes, early: Vec<Bytes> },
    /// The user's owner is being asked.
    Opening { deadline: Timestamp, hello: Bytes, early: Vec<Bytes>, claims: Claims },
    /// Everything is allowed.
    Open(Box<Open>),
    /// Told to close; what it still sends is ignored.
    Closing,
}

/// A session with a user.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) user_seq: u64,
    pub(crate) conversations: SortedMap<ConversationId, Membership>,
    /// Conversations that the owner has not answered for.
    pub(crate) syncing: u32,
    /// Directory requests that wait for `syncing` to reach 0.
    pub(crate) held: Vec<Bytes>,
    /// Live delivery is stopped.
    pub(crate) lag: Option<Lag>,
    /// Watched users; true: changed since the last ping.
    pub(crate) presence: BTreeMap<UserId, bool>,
    pub(crate) gathers: BTreeMap<u64, Gather>,
}

/// What a slow reader has not been sent.
#[derive(Debug)]
pub(crate) struct Lag {
    /// Conversations with events or receipts that were skipped.
    pub(crate) skipped: BTreeSet<ConversationId>,
}

/// The user's part in one conversation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Membership {
    /// Place in the conversation's list of sessions; `None`: the owner has not answered.
    pub(crate) place: Option<u32>,
    /// Tell the client of this conversation when the owner has answered.
    pub(crate) announce: bool,
    /// The watch whose answer counts.
    pub(crate) ticket: u64,
    /// News of coming in arrived while the owner was being asked: its answer may be older.
    pub(crate) ask_again: bool,
    /// The owner cannot read it at present: it is asked again when it can.
    pub(crate) unreadable: bool,
    /// The oldest event that the user may read.
    pub(crate) first: Seq,
    pub(crate) join: Seq,
    pub(crate) join_visible: u64,
    pub(crate) read: Seq,
    pub(crate) read_visible: u64,
    /// As far as the owner was told.
    pub(crate) delivered: Seq,
    pub(crate) role: u8,
}

/// Questions to owners under way, and the request that waits for them.
#[derive(Debug)]
pub(crate) struct Gather {
    /// Answers that are missing.
    pub(crate) remaining: usize,
    pub(crate) found: Vec<FoundUser>,
    /// Why it cannot go on: somebody does not exist, or could not be looked up.
    pub(crate) refused: Option<RejectCode>,
    /// How far the conversation of the command has come, as its owner said.
    pub(crate) heard: Seq,
    pub(crate) then: Then,
}

/// What to do when all are found.
#[derive(Debug)]
pub(crate) enum Then {
    /// Show them.
    Answer(RequestId),
    /// Append this command, if all exist.
    Append { conversation: ConversationId, request: RequestId, frame: Bytes },
}

impl Open {
    /// Whether the user is in a conversation as far as this session has heard, and nothing for it waits that was sent before.
    pub(crate) fn knows(&self, conversation: ConversationId) -> bool {
        let waits =
            |gather: &Gather| matches!(gather.then, Then::Append { conversation: other, .. } if other == conversation);
        self.conversations.contains_key(&conversation) && !self.gathers.values().any(waits)
    }
}

impl Session {
    pub(crate) fn open(&mut self) -> Option<&mut Open> {
        match &mut self.phase {
            Phase::Open(open) => Some(open),
            Phase::Hello { .. } | Phase::Verifying { .. } | Phase::Opening { .. } | Phase::Closing => None,
        }
    }

    /// Whose session it is, from the moment the owner was asked until it is told of the end.
    pub(crate) fn owner_knows(&self) -> Option<UserId> {
        match &self.phase {
            Phase::Open(open) => Some(open.user),
            Phase::Opening { claims, .. } => Some(claims.user),
            Phase::Hello { .. } | Phase::Verifying { .. } | Phase::Closing => None,
        }
    }
}
