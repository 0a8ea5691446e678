//! What the user said and the server has not confirmed: kept in order, sent again under the same name until it ends. Sans-IO.
//! Never ends a post silently, and never sends one again without asking first whether the server has it when that is in doubt.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_protocol::client::{EditMessage, RecallMessage, SendMessage};
use tern_protocol::limit::KNOWN_FRESH;
use tern_protocol::{ConversationId, RejectCode, RequestId, Seq, Timestamp, UserId, frame};

use crate::pending::PendingSend;
use crate::view::Content;

/// Unconfirmed posts of all conversations. Unit: posts. At 16 KiB each this is 16 MiB.
pub(crate) const POSTS_MAX: usize = 1024;
/// Posts of one conversation that are on their way at once. Unit: posts.
/// At 100 ms round trip this is 160 posts a second, beyond any person and most rate limits.
pub(crate) const PIPELINE_MAX: usize = 16;
/// Times that the server may ask to try again later before a post counts as failed. Unit: attempts.
pub(crate) const ATTEMPTS_MAX: u32 = 40;
/// Pages that are searched for an own event before a post counts as failed. Unit: pages of `HISTORY_PAGE_MAX` events.
pub(crate) const SEARCH_PAGES_MAX: u32 = 64;
/// Failed posts that can be tried again. Unit: posts; the oldest are forgotten.
pub(crate) const FAILED_MAX: usize = 128;
/// Confirmed posts of one direct conversation whose delivery is still watched. Unit: posts; the oldest are forgotten.
pub(crate) const WATCHED_MAX: usize = 256;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostContent {
    /// A new message.
    Message {
        /// What the body is.
        content: Content,
        /// The message answered.
        reply_to: Option<Seq>,
        /// Users to notify.
        mentions: Vec<UserId>,
        /// 1 to `BODY_SIZE_MAX` bytes.
        body: Bytes,
    },
    /// Another body for an own message.
    Edit {
        /// The message.
        target: Seq,
        /// What the body is.
        content: Content,
        /// The new body.
        body: Bytes,
    },
    /// A message taken back.
    Recall {
        /// The message.
        target: Seq,
    },
}

/// How far a post has come. `Failed` and, in groups, `Sent` are where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendState {
    /// Not confirmed yet.
    Pending,
    /// Durable at the server, as this event.
    Sent(Seq),
    /// On a device of the other one (direct conversations).
    Delivered,
    /// Seen by the other one (direct conversations).
    Read,
    /// It will not be tried again by itself.
    Failed(SendError),
}

/// Why a post failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The server refused it: sending it again changes nothing.
    Rejected(RejectCode),
    /// It was never sent: the server could not be reached in time.
    Expired,
    /// It was sent and never confirmed: it may be stored. Trying again under the same request id is safe.
    Unconfirmed,
    /// Too many posts wait already.
    QueueFull,
    /// The client was closed or logged out first.
    Stopped,
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rejected(code) => code.fmt(f),
            Self::Expired => f.write_str("the server could not be reached in time"),
            Self::Unconfirmed => f.write_str("the server did not confirm it in time"),
            Self::QueueFull => f.write_str("too many messages wait to be sent"),
            Self::Stopped => f.write_str("the client was stopped first"),
        }
    }
}

impl std::error::Error for SendError {}

/// News of a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub request: RequestId,
    /// Where.
    pub conversation: ConversationId,
    /// How far it has come.
    pub state: SendState,
    /// When the event was, once it is one.
    pub time: Timestamp,
}

/// What must go to the server.
#[derive(Debug)]
pub(crate) enum Transmit {
    /// This frame.
    Frame(Vec<u8>),
    /// A request for history after this event, to look for the post with this id.
    Search(RequestId, ConversationId, u64),
}

#[derive(Debug)]
struct Post {
    request: RequestId,
    conversation: ConversationId,
    content: PostContent,
    /// The newest event known to exist when it was first tried: the event it may have become lies behind it.
    known: u64,
    copies: Copies,
    attempts: u32,
    queued: Instant,
    expires: Instant,
    stage: Stage,
}

/// How often a post was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copies {
    None,
    One,
    /// More than one, or an earlier process may have sent some.
    Several,
}

/// The search of a post that needs none: only the head of a page is wanted.
const HEAD_ONLY: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    InFlight,
    /// Until then the server does not want to see it again.
    Waiting(Instant),
    /// Looking for it in the history after this event.
    Searching {
        anchor: u64,
        pages: u32,
        asked: bool,
    },
}

/// All posts of a user.
#[derive(Debug)]
pub(crate) struct Outbox {
    lifetime: Duration,
    queues: BTreeMap<ConversationId, VecDeque<Post>>,
    count: usize,
    /// The server is busy: nothing is sent until then.
    hold_until: Option<Instant>,
    failed: VecDeque<Post>,
    watched: BTreeMap<ConversationId, VecDeque<(Seq, RequestId, bool)>>,
}

impl Outbox {
    pub(crate) const fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            queues: BTreeMap::new(),
            count: 0,
            hold_until: None,
            failed: VecDeque::new(),
            watched: BTreeMap::new(),
        }
    }

    /// Takes a post that was never sent. Its `known` is the newest event known to exist at this moment.
    pub(crate) fn push(&mut self, now: Instant, post: PendingSend) -> Progress {
        self.take(now, post, Copies::None)
    }

    /// Takes a post that an earlier process may have sent.
    pub(crate) fn resume(&mut self, now: Instant, post: PendingSend) -> Progress {
        self.take(now, post, Copies::Several)
    }

    fn take(&mut self, now: Instant, post: PendingSend, copies: Copies) -> Progress {
        let PendingSend { request, conversation, known, content } = post;
        let state = if self.count < POSTS_MAX {
            let (known, expires) = (known.raw(), now + self.lifetime);
            let (attempts, queued, stage) = (0, now, Stage::Queued);
            let post = Post { request, conversation, content, known, copies, attempts, queued, expires, stage };
            self.enqueue(post);
            SendState::Pending
        } else {
            SendState::Failed(SendError::QueueFull)
        };
        Progress { request, conversation, state, time: Timestamp::ZERO }
    }

    /// Tries a failed post again under the same name, behind what already waits.
    pub(crate) fn retry(&mut self, now: Instant, request: RequestId) -> Option<Progress> {
        let at = self.failed.iter().position(|post| post.request == request)?;
        let mut post = self.failed.remove(at)?;
        post.expires = now + self.lifetime;
        post.attempts = 0;
        post.stage = Stage::Queued;
        let progress = progress(&post, SendState::Pending);
        self.enqueue(post);
        Some(progress)
    }

    /// A new connection: whatever was on its way goes again, in the same order.
    pub(crate) fn on_connected(&mut self) {
        self.hold_until = None;
        for post in self.queues.values_mut().flatten() {
            match &mut post.stage {
                Stage::InFlight => post.stage = Stage::Queued,
                Stage::Searching { asked, .. } => *asked = false,
                Stage::Queued | Stage::Waiting(_) => {}
            }
        }
    }

    /// The next thing to send; `None` when nothing may be sent at present.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Transmit> {
        if self.hold_until.is_some_and(|until| until > now) {
            return None;
        }
        self.hold_until = None;
        self.queues.values_mut().find_map(|queue| poll_queue(now, queue))
    }

    /// When [`Self::poll`] or [`Self::expire`] will have something new. Nothing can be sent while not `online`.
    pub(crate) fn deadline(&self, online: bool) -> Option<Instant> {
        let expires = self.queues.values().flatten().map(|post| post.expires).min();
        if !online {
            return expires;
        }
        let turns = self.queues.values().filter_map(next_turn);
        let turn = turns.min().map(|turn| self.hold_until.map_or(turn, |until| until.max(turn)));
        [expires, turn].into_iter().flatten().min()
    }

    /// Whether something on the wire waits for an answer.
    pub(crate) fn awaits_answer(&self) -> bool {
        let waits = |post: &Post| matches!(post.stage, Stage::InFlight | Stage::Searching { asked: true, .. });
        self.queues.values().flatten().any(waits)
    }

    /// The server confirmed it, by an ack or by the event itself.
    pub(crate) fn on_stored(&mut self, request: RequestId, seq: Seq, time: Timestamp, watch: bool) -> Option<Progress> {
        let post = self.remove(request)?;
        if watch && matches!(post.content, PostContent::Message { .. }) {
            let watched = self.watched.entry(post.conversation).or_default();
            watched.push_back((seq, request, false));
            if watched.len() > WATCHED_MAX {
                watched.pop_front();
            }
        }
        Some(Progress { request, conversation: post.conversation, state: SendState::Sent(seq), time })
    }

    /// The server refused it. `None`: it goes on by itself, or is not ours.
    pub(crate) fn on_reject(
        &mut self,
        now: Instant,
        request: RequestId,
        code: Option<RejectCode>,
        retry_after: Duration,
    ) -> Option<Progress> {
        let post = self.find(request)?;
        match code {
            Some(RejectCode::CatchUpFirst) if post.attempts < ATTEMPTS_MAX => {
                post.attempts += 1;
                // The only copy there ever was is answered by this: it is not stored, and need not be looked for.
                let anchor = if post.copies == Copies::One { HEAD_ONLY } else { post.known };
                post.stage = Stage::Searching { anchor, pages: 0, asked: false };
                None
            }
            // Who is out by now is told so of whatever they ask: that says nothing of the attempts before.
            Some(RejectCode::NotFound) if post.copies == Copies::Several => self.fail(request, SendError::Unconfirmed),
            Some(code) if code.is_retryable() && post.attempts < ATTEMPTS_MAX => {
                post.attempts += 1;
                let until = now + retry_after.max(retry_floor(post.attempts));
                post.stage = Stage::Waiting(until);
                // These two say nothing of other conversations.
                if !matches!(code, RejectCode::OutcomeUnknown | RejectCode::SetAside) {
                    self.hold_until = self.hold_until.max(Some(until));
                }
                None
            }
            code => self.fail(request, SendError::Rejected(code.unwrap_or(RejectCode::Unsupported))),
        }
    }

    /// A page of the search for a post. `own` is the event found with that request id; the page is of a conversation of which `first` is the
    /// first event that may be read, `head` the last.
    pub(crate) fn on_search_page(
        &mut self,
        request: RequestId,
        own: Option<(Seq, Timestamp)>,
        last: Option<u64>,
        (first, head): (u64, u64),
        watch: bool,
    ) -> Option<Progress> {
        if let Some((seq, time)) = own {
            return self.on_stored(request, seq, time, watch);
        }
        let post = self.find(request)?;
        let Stage::Searching { anchor, pages, .. } = post.stage else { return None };
        match last {
            // Out and in again since: it may stand where this user may not look any more.
            _ if first > anchor.saturating_add(1) => self.fail(request, SendError::Rejected(RejectCode::Rejoined)),
            Some(last) if last < head && pages + 1 < SEARCH_PAGES_MAX => {
                post.stage = Stage::Searching { anchor: last.max(anchor), pages: pages + 1, asked: false };
                None
            }
            Some(last) if last < head => self.fail(request, SendError::Unconfirmed),
            // It is nowhere up to the head: not stored so far, and the server remembers requests from here on.
            Some(_) | None => {
                post.known = if anchor == HEAD_ONLY { head } else { head.max(anchor) };
                post.stage = Stage::Queued;
                None
            }
        }
    }

    /// The search could not be answered: ask again when something else changes.
    pub(crate) fn on_search_failed(&mut self, now: Instant, request: RequestId, retry_after: Duration) {
        if let Some(post) = self.find(request) {
            post.attempts += 1;
            post.stage = Stage::Waiting(now + retry_after.max(retry_floor(post.attempts)));
        }
    }

    /// Ends the posts whose time is over. Call until `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Progress> {
        let late = self.queues.values().flatten().find(|post| post.expires <= now)?;
        let error = if late.copies == Copies::None { SendError::Expired } else { SendError::Unconfirmed };
        let request = late.request;
        self.fail(request, error)
    }

    /// Ends everything: the client stops. Call until `None`.
    pub(crate) fn stop(&mut self) -> Option<Progress> {
        let request = self.queues.values().flatten().next()?.request;
        self.fail(request, SendError::Stopped)
    }

    /// The other one of a direct conversation has or has read everything up to here. Call until `None`.
    pub(crate) fn on_receipt(&mut self, conversation: ConversationId, delivered: Seq, read: Seq) -> Option<Progress> {
        let watched = self.watched.get_mut(&conversation)?;
        if let Some((_, request, _)) = watched.front().copied().filter(|(seq, ..)| *seq <= read) {
            watched.pop_front();
            return Some(Progress { request, conversation, state: SendState::Read, time: Timestamp::ZERO });
        }
        let entry = watched.iter_mut().find(|(seq, _, told)| !told && *seq <= delivered.max(read))?;
        entry.2 = true;
        Some(Progress { request: entry.1, conversation, state: SendState::Delivered, time: Timestamp::ZERO })
    }

    fn enqueue(&mut self, post: Post) {
        self.count += 1;
        self.queues.entry(post.conversation).or_default().push_back(post);
    }

    fn find(&mut self, request: RequestId) -> Option<&mut Post> {
        self.queues.values_mut().flatten().find(|post| post.request == request)
    }

    fn remove(&mut self, request: RequestId) -> Option<Post> {
        let conversation = self.find(request)?.conversation;
        let queue = self.queues.get_mut(&conversation)?;
        let at = queue.iter().position(|post| post.request == request)?;
        let post = queue.remove(at)?;
        if queue.is_empty() {
            self.queues.remove(&conversation);
        }
        self.count -= 1;
        Some(post)
    }

    fn fail(&mut self, request: RequestId, error: SendError) -> Option<Progress> {
        let post = self.remove(request)?;
        let progress = progress(&post, SendState::Failed(error));
        self.failed.push_back(post);
        if self.failed.len() > FAILED_MAX {
            self.failed.pop_front();
        }
        Some(progress)
    }
}

/// In order: behind a post that must wait or be looked for, nothing more of its conversation is sent.
fn poll_queue(now: Instant, queue: &mut VecDeque<Post>) -> Option<Transmit> {
    for (index, post) in queue.iter_mut().enumerate() {
        match post.stage {
            Stage::InFlight if index + 1 < PIPELINE_MAX => {}
            Stage::InFlight => return None,
            Stage::Waiting(until) if until > now => return None,
            Stage::Queued | Stage::Waiting(_) => {
                post.stage = Stage::InFlight;
                return Some(Transmit::Frame(encode(post)));
            }
            Stage::Searching { asked: true, .. } => return None,
            Stage::Searching { anchor, pages, asked: false } => {
                post.stage = Stage::Searching { anchor, pages, asked: true };
                return Some(Transmit::Search(post.request, post.conversation, anchor));
            }
        }
    }
    None
}

/// When [`poll_queue`] will go on by itself: the wait of the post that holds the others up.
fn next_turn(queue: &VecDeque<Post>) -> Option<Instant> {
    let held_up = queue.iter().take(PIPELINE_MAX).find(|post| post.stage != Stage::InFlight)?;
    match held_up.stage {
        Stage::Waiting(until) => Some(until),
        // It goes out as soon as the server is no longer busy.
        Stage::Queued | Stage::Searching { asked: false, .. } => Some(held_up.queued),
        Stage::InFlight | Stage::Searching { asked: true, .. } => None,
    }
}

fn encode(post: &mut Post) -> Vec<u8> {
    let (known, copies) = match post.copies {
        Copies::None => (KNOWN_FRESH, Copies::One),
        Copies::One | Copies::Several => (post.known, Copies::Several),
    };
    post.copies = copies;
    post.content.encode(post.request, post.conversation, known)
}

impl PostContent {
    /// The frame that says it.
    pub(crate) fn encode(&self, request: RequestId, conversation: ConversationId, known: u64) -> Vec<u8> {
        let (request, conversation) = (request.raw(), conversation.raw());
        match self {
            Self::Message { content, reply_to, mentions, body } => {
                let mentions: Vec<u64> = mentions.iter().map(|user| user.raw()).collect();
                let (reply_to, content, mentions) = (reply_to.map_or(0, Seq::raw), content.raw(), &mentions[..]);
                frame::to_vec(&SendMessage { request, conversation, known, reply_to, content, mentions, body })
            }
            Self::Edit { target, content, body } => {
                let (target, content) = (target.raw(), content.raw());
                frame::to_vec(&EditMessage { request, conversation, known, target, content, body })
            }
            Self::Recall { target } => {
                frame::to_vec(&RecallMessage { request, conversation, known, target: target.raw() })
            }
        }
    }
}

/// The least wait before an attempt, in case the server named none: 100 ms doubling to 5 s.
fn retry_floor(attempts: u32) -> Duration {
    Duration::from_millis(100).saturating_mul(1 << attempts.min(8)).min(Duration::from_secs(5))
}

const fn progress(post: &Post, state: SendState) -> Progress {
    Progress { request: post.request, conversation: post.conversation, state, time: Timestamp::ZERO }
}

#[cfg(test)]
mod tests;
