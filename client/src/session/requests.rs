//! Questions and commands that wait for an answer: asked again after a reconnect and after silence, until their time is over. Sans-IO.
//! Never asks twice at once: a request is queued, on the wire, or waiting for its turn.

use std::time::{Duration, Instant};

use tern_protocol::client::{
    CreateGroup, GetDirectory, GetHistory, GetMembers, GetProfiles, Invite, JoinGroup, Kick, LeaveGroup, MoveCursor,
    OpenDirect, SetRole, cursor,
};
use tern_protocol::limit::{DIRECTORY_PAGE_MAX, HISTORY_PAGE_MAX, PROFILES_MAX};
use tern_protocol::{ConversationId, RejectCode, RequestId, Seq, Timestamp, UserId, frame};

use crate::update::RequestError;
use crate::view::Role;

/// Requests of the application that wait. Unit: requests.
pub(crate) const REQUESTS_MAX: usize = 256;
/// How long a request may take, reconnects included.
const LIFETIME: Duration = Duration::from_secs(30);
/// After so long without an answer on a live connection it is asked again.
const SILENCE: Duration = Duration::from_secs(10);

/// The largest page of events, as the frame wants it.
#[expect(clippy::cast_possible_truncation, reason = "asserted below")]
pub(crate) const HISTORY_LIMIT: u16 = HISTORY_PAGE_MAX as u16;
/// The largest page of the directory, as the frame wants it.
#[expect(clippy::cast_possible_truncation, reason = "asserted below")]
const DIRECTORY_LIMIT: u16 = DIRECTORY_PAGE_MAX as u16;
const _: () = assert!(HISTORY_LIMIT as usize == HISTORY_PAGE_MAX && DIRECTORY_LIMIT as usize == DIRECTORY_PAGE_MAX);

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Query {
    History { conversation: ConversationId, anchor: u64, limit: u16, forward: bool },
    Directory { before_time: Timestamp, before: ConversationId },
    Members { conversation: ConversationId, after: u64, limit: u16 },
    Profiles { users: Vec<UserId> },
    ProfileByName { name: String },
    OpenDirect { user: UserId },
    CreateGroup { flags: u8, title: String, members: Vec<UserId> },
    Join { conversation: ConversationId },
    Leave { conversation: ConversationId },
    Invite { conversation: ConversationId, users: Vec<UserId> },
    Kick { conversation: ConversationId, user: UserId },
    SetRole { conversation: ConversationId, user: UserId, role: Role },
    MoveRead { conversation: ConversationId, seq: Seq, visible: u64 },
}

/// Who wants the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The application.
    Application,
    /// A hole in this conversation.
    Repair(ConversationId),
    /// A post that may be stored already.
    Search(RequestId),
    /// The list of conversations.
    Directory,
    /// The read cursor of this conversation.
    ReadCursor(ConversationId),
}

#[derive(Debug)]
struct Request {
    id: RequestId,
    purpose: Purpose,
    query: Query,
    expires: Instant,
    attempts: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    InFlight(Instant),
    Waiting(Instant),
}

/// All requests that wait, in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    waiting: Vec<Request>,
}

impl Requests {
    /// Takes a request.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        id: RequestId,
        purpose: Purpose,
        query: Query,
    ) -> Result<(), RequestError> {
        if purpose == Purpose::Application && self.waiting.len() >= REQUESTS_MAX {
            return Err(RequestError::TooMany);
        }
        let expires = now + LIFETIME;
        self.waiting.push(Request { id, purpose, query, expires, attempts: 0, stage: Stage::Queued });
        Ok(())
    }

    /// A new connection: what was on the wire goes again.
    pub(crate) fn on_connected(&mut self) {
        for request in &mut self.waiting {
            if matches!(request.stage, Stage::InFlight(_)) {
                request.stage = Stage::Queued;
            }
        }
    }

    /// The next frame to send.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = |stage: Stage| match stage {
            Stage::Queued => true,
            Stage::InFlight(since) => since + SILENCE <= now,
            Stage::Waiting(until) => until <= now,
        };
        let request = self.waiting.iter_mut().find(|request| due(request.stage))?;
        request.stage = Stage::InFlight(now);
        Some(request.query.encode(request.id))
    }

    /// When [`Self::poll`] or [`Self::expire`] will have something new. Nothing can be sent while not `online`.
    pub(crate) fn deadline(&self, online: bool) -> Option<Instant> {
        let each = self.waiting.iter().map(|request| match request.stage {
            _ if !online => request.expires,
            Stage::Queued => request.expires,
            Stage::InFlight(since) => request.expires.min(since + SILENCE),
            Stage::Waiting(until) => request.expires.min(until),
        });
        each.min()
    }

    /// Whether something on the wire waits for an answer.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.waiting.iter().any(|request| matches!(request.stage, Stage::InFlight(_)))
    }

    /// An answer came: who wants it? `None`: nobody (any more).
    pub(crate) fn take(&mut self, id: RequestId) -> Option<(Purpose, Query)> {
        let at = self.waiting.iter().position(|request| request.id == id)?;
        let request = self.waiting.remove(at);
        Some((request.purpose, request.query))
    }

    /// A refusal came. `Some`: it is final, and this is who must know.
    pub(crate) fn on_reject(
        &mut self,
        now: Instant,
        id: RequestId,
        code: Option<RejectCode>,
        retry_after: Duration,
    ) -> Option<(Purpose, Query)> {
        let request = self.waiting.iter_mut().find(|request| request.id == id)?;
        if code.is_some_and(RejectCode::is_retryable) {
            request.attempts += 1;
            let floor = Duration::from_millis(100).saturating_mul(1 << request.attempts.min(6));
            request.stage = Stage::Waiting(now + retry_after.max(floor));
            return None;
        }
        self.take(id)
    }

    /// Ends a request whose time is over. Call until `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<(RequestId, Purpose, Query)> {
        let id = self.waiting.iter().find(|request| request.expires <= now)?.id;
        self.take(id).map(|(purpose, query)| (id, purpose, query))
    }

    /// Ends everything: the client stops. Call until `None`.
    pub(crate) fn stop(&mut self) -> Option<(RequestId, Purpose)> {
        self.waiting.pop().map(|request| (request.id, request.purpose))
    }

    /// Whether somebody asks for this purpose already.
    pub(crate) fn has(&self, purpose: Purpose) -> bool {
        self.waiting.iter().any(|request| request.purpose == purpose)
    }

    /// How many repairs are under way. Unit: requests.
    pub(crate) fn repairs(&self) -> usize {
        self.waiting.iter().filter(|request| matches!(request.purpose, Purpose::Repair(_))).count()
    }

    /// Forgets what was asked for this purpose.
    pub(crate) fn cancel(&mut self, purpose: Purpose) {
        self.waiting.retain(|request| request.purpose != purpose);
    }
}

impl Query {
    fn encode(&self, id: RequestId) -> Vec<u8> {
        let request = id.raw();
        let raw = |users: &[UserId]| users.iter().map(|user| user.raw()).collect::<Vec<_>>();
        match self {
            Self::History { conversation, anchor, limit, forward } => frame::to_vec(&GetHistory {
                request,
                conversation: conversation.raw(),
                anchor: *anchor,
                limit: *limit,
                direction: u8::from(*forward),
            }),
            Self::Directory { before_time, before } => frame::to_vec(&GetDirectory {
                request,
                before_time: before_time.raw(),
                before_conversation: before.raw(),
                limit: DIRECTORY_LIMIT,
            }),
            Self::Members { conversation, after, limit } => {
                frame::to_vec(&GetMembers { request, conversation: conversation.raw(), after: *after, limit: *limit })
            }
            Self::Profiles { users } => {
                let users: Vec<u64> = users.iter().take(PROFILES_MAX).map(|user| user.raw()).collect();
                frame::to_vec(&GetProfiles { request, users: &users, name: &[] })
            }
            Self::ProfileByName { name } => frame::to_vec(&GetProfiles { request, users: &[], name: name.as_bytes() }),
            Self::OpenDirect { user } => frame::to_vec(&OpenDirect { request, user: user.raw() }),
            Self::CreateGroup { flags, title, members } => {
                frame::to_vec(&CreateGroup { request, flags: *flags, title: title.as_bytes(), members: &raw(members) })
            }
            Self::Join { conversation } => frame::to_vec(&JoinGroup { request, conversation: conversation.raw() }),
            Self::Leave { conversation } => frame::to_vec(&LeaveGroup { request, conversation: conversation.raw() }),
            Self::Invite { conversation, users } => {
                frame::to_vec(&Invite { request, conversation: conversation.raw(), users: &raw(users) })
            }
            Self::Kick { conversation, user } => {
                frame::to_vec(&Kick { request, conversation: conversation.raw(), user: user.raw() })
            }
            Self::SetRole { conversation, user, role } => frame::to_vec(&SetRole {
                request,
                conversation: conversation.raw(),
                user: user.raw(),
                role: role.raw(),
            }),
            Self::MoveRead { conversation, seq, visible } => frame::to_vec(&MoveCursor {
                request,
                conversation: conversation.raw(),
                seq: seq.raw(),
                visible: *visible,
                cursor: cursor::READ,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(requests: &mut Requests, now: Instant, id: u128) {
        let query = Query::OpenDirect { user: UserId::from_raw(1) };
        requests.push(now, RequestId::from_raw(id), Purpose::Application, query).expect("room");
    }

    #[test]
    fn an_unanswered_request_is_asked_again_and_then_ends() {
        let start = Instant::now();
        let mut requests = Requests::default();
        ask(&mut requests, start, 1);
        let mut now = start;
        let mut asked = 0;
        while requests.expire(now).is_none() {
            asked += usize::from(requests.poll(now).is_some());
            now = requests.deadline(true).expect("one waits");
        }
        assert_eq!((asked, now), (3, start + LIFETIME));
    }

    #[test]
    fn a_busy_server_is_asked_again_when_it_said() {
        let now = Instant::now();
        let mut requests = Requests::default();
        ask(&mut requests, now, 1);
        assert!(requests.poll(now).is_some());
        let wait = Duration::from_secs(2);
        assert!(requests.on_reject(now, RequestId::from_raw(1), Some(RejectCode::Busy), wait).is_none());
        assert!(requests.poll(now).is_none());
        assert!(requests.poll(now + wait).is_some());
        let refused = requests.on_reject(now, RequestId::from_raw(1), Some(RejectCode::NotFound), Duration::ZERO);
        assert_eq!(refused.map(|refused| refused.0), Some(Purpose::Application));
    }

    #[test]
    fn the_number_of_requests_is_bounded() {
        let now = Instant::now();
        let mut requests = Requests::default();
        for id in 0..REQUESTS_MAX as u128 {
            ask(&mut requests, now, id);
        }
        let query = Query::OpenDirect { user: UserId::from_raw(1) };
        let refused = requests.push(now, RequestId::from_raw(9999), Purpose::Application, query);
        assert_eq!(refused, Err(RequestError::TooMany));
    }
}
