//! What a peer has asked for and waits for, beside its messages: what the workload wants, and what the peer needs itself (its list of
//! conversations, pages that fill a hole). Those of the workload survive the connection; the others are asked anew.

use bytes::Bytes;
use tern_protocol::client::{
    CreateGroup, GetDirectory, GetHistory, Invite, MoveCursor, OpenDirect, Typing, WatchPresence, cursor,
};
use tern_protocol::limit::{DIRECTORY_PAGE_MAX, HISTORY_PAGE_MAX, PRESENCE_WATCH_MAX};
use tern_protocol::{RejectCode, frame};

use super::book::{Book, Span};
use super::outbox::RETRY_MIN_NS;
use super::peer::{NEVER, Peer, Phase};
use super::plan::Request;

/// Requests of one peer that may wait. Unit: requests. More are counted as refused.
const ASKED_MAX: usize = 1024;
/// Times that the server may ask for another attempt.
const ATTEMPTS_MAX: u32 = 40;
/// Pages for one hole that bring nothing before the rest is given up. Unit: pages. As the SDK.
const REPAIR_FAILURES_MAX: u8 = 5;
/// After a page that brought nothing. Unit: nanoseconds. As the SDK.
const REPAIR_PAUSE_NS: u64 = 2_000_000_000;

/// What an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The workload wants it.
    Workload,
    /// The workload wants history.
    History,
    /// The workload wants a pong.
    Ping,
    /// The list of conversations.
    Directory,
    /// What is missing in this conversation.
    Repair(u128),
    /// Where a message with this number is.
    Search(u64),
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Unsent,
    Sent,
    Waiting(u64),
}

/// A request that is not answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: u128,
    pub(super) purpose: Purpose,
    /// What the workload wants, to be sent again.
    pub(super) request: Option<Request>,
    pub(super) intended: u64,
    pub(super) attempts: u32,
    pub(super) state: State,
}

impl Peer {
    /// Takes a request of the workload.
    pub(super) fn ask(&mut self, request: Request, intended: u64, book: &mut Book) {
        let (id, purpose) = match &request {
            Request::Typing { conversation, active } => {
                if self.phase == Phase::Open {
                    let typing = Typing { conversation: conversation.raw(), active: u8::from(*active) };
                    self.out_datagrams.push(Bytes::from(frame::to_vec(&typing)));
                }
                return;
            }
            Request::WatchPresence(users) => {
                self.watched = users.iter().take(PRESENCE_WATCH_MAX).map(|user| (*user, None)).collect();
                self.watched.sort_unstable_by_key(|(user, _)| *user);
                self.watched_at = book.now;
                if self.phase == Phase::Open {
                    self.out.push(Bytes::from(frame::to_vec(&WatchPresence { users })));
                }
                return;
            }
            Request::CreateGroup { request, .. } => (request.raw(), Purpose::Workload),
            Request::Invite { .. } | Request::OpenDirect { .. } | Request::Read { .. } => {
                (self.next_request(book), Purpose::Workload)
            }
            Request::History { .. } => (self.next_request(book), Purpose::History),
            Request::Ping => (u128::from(self.next_nonce()), Purpose::Ping),
        };
        if self.asked.len() >= ASKED_MAX {
            book.on_rejected("too many requests of a peer wait");
            return;
        }
        let state = State::Unsent;
        self.asked.push(Asked { id, purpose, request: Some(request), intended, attempts: 0, state });
        self.pump_asked(book);
    }

    /// Sends what is not under way.
    pub(super) fn pump_asked(&mut self, book: &mut Book) {
        if self.phase != Phase::Open {
            return;
        }
        for index in 0..self.asked.len() {
            let Some(asked) = self.asked.get_mut(index) else { return };
            match asked.state {
                State::Sent => continue,
                State::Waiting(until) if until > book.now => {
                    self.retry_at = self.retry_at.min(until);
                    continue;
                }
                State::Waiting(_) | State::Unsent => {}
            }
            asked.state = State::Sent;
            asked.attempts += 1;
            let (id, purpose, request) = (asked.id, asked.purpose, asked.request.clone());
            match (purpose, request) {
                (Purpose::Directory, _) => self.write_directory_request(id, 0, 0),
                (_, Some(request)) => self.write_request(id, &request),
                (_, None) => {}
            }
        }
    }

    fn write_request(&mut self, id: u128, request: &Request) {
        let bytes = match request {
            Request::CreateGroup { title, members, flags, .. } => {
                frame::to_vec(&CreateGroup { request: id, flags: *flags, title: title.as_bytes(), members })
            }
            Request::Invite { conversation, users } => {
                frame::to_vec(&Invite { request: id, conversation: conversation.raw(), users })
            }
            Request::OpenDirect { user } => frame::to_vec(&OpenDirect { request: id, user: user.raw() }),
            Request::Read { conversation } => {
                let (seq, visible) = self.track(conversation.raw()).map_or((0, 0), |track| track.seen);
                let conversation = conversation.raw();
                frame::to_vec(&MoveCursor { request: id, conversation, seq, visible, cursor: cursor::READ })
            }
            Request::History { conversation, limit } => frame::to_vec(&GetHistory {
                request: id,
                conversation: conversation.raw(),
                anchor: u64::MAX,
                limit: (*limit).clamp(1, u16::try_from(HISTORY_PAGE_MAX).unwrap_or(u16::MAX)),
                direction: 0,
            }),
            Request::Ping => return self.write_ping(u64::try_from(id).unwrap_or(0)),
            Request::Typing { .. } | Request::WatchPresence(_) => return,
        };
        self.out.push(Bytes::from(bytes));
    }

    /// An answer came: what it is for.
    pub(super) fn take_asked(&mut self, id: u128) -> Option<Asked> {
        let index = self.asked.iter().position(|asked| asked.id == id)?;
        Some(self.asked.remove(index))
    }

    /// An Ack that is not of a message.
    pub(super) fn on_ack_of_request(&mut self, id: u128, conversation: u128, seq: u64, book: &mut Book) {
        let Some(asked) = self.take_asked(id) else { return };
        book.counts.requests_acked += 1;
        book.record(Span::Request, asked.intended);
        if !matches!(asked.request, Some(Request::Read { .. })) {
            book.on_head(conversation, seq);
        }
    }

    /// A Reject that is not of a message.
    pub(super) fn on_reject_of_request(
        &mut self,
        id: u128,
        code: Option<RejectCode>,
        retry_after: u64,
        book: &mut Book,
    ) {
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == id) else { return };
        let again = code.is_some_and(RejectCode::is_retryable) && asked.attempts < ATTEMPTS_MAX;
        let own = asked.request.is_some() || asked.purpose == Purpose::Directory;
        if again && own {
            asked.state = State::Waiting(book.now + retry_after.max(RETRY_MIN_NS));
        } else if let Some(asked) = self.take_asked(id) {
            match asked.purpose {
                Purpose::Repair(conversation) => self.on_repair_failed(conversation, book),
                Purpose::Search(number) => self.on_search_failed(number, book),
                Purpose::Workload | Purpose::History | Purpose::Ping | Purpose::Directory => {}
            }
        }
        self.pump(book);
    }

    /// The connection is gone: what the peer needs itself it will ask anew, what the workload wants it sends again.
    pub(super) fn forget_inner_asks(&mut self) {
        self.asked.retain_mut(|asked| {
            asked.state = State::Unsent;
            asked.request.is_some()
        });
    }

    /// Reads the list of conversations from the top, unless that is under way.
    pub(super) fn read_directory(&mut self, book: &mut Book) {
        self.entry_due = NEVER;
        if self.asked.iter().any(|asked| asked.purpose == Purpose::Directory) {
            return;
        }
        let id = self.next_request(book);
        self.asked.push(Asked {
            id,
            purpose: Purpose::Directory,
            request: None,
            intended: book.now,
            attempts: 0,
            state: State::Unsent,
        });
        self.pump_asked(book);
        self.count_outstanding(book);
    }

    /// The next page of the list, under the same entry of what is asked.
    pub(super) fn continue_directory(&mut self, before_time: u64, before_conversation: u128, book: &mut Book) {
        let id = self.next_request(book);
        let (purpose, intended) = (Purpose::Directory, book.now);
        self.asked.push(Asked { id, purpose, request: None, intended, attempts: 1, state: State::Sent });
        self.write_directory_request(id, before_time, before_conversation);
    }

    fn write_directory_request(&mut self, request: u128, before_time: u64, before_conversation: u128) {
        let limit = u16::try_from(DIRECTORY_PAGE_MAX).unwrap_or(u16::MAX);
        let ask = GetDirectory { request, before_time, before_conversation, limit };
        self.out.push(Bytes::from(frame::to_vec(&ask)));
    }

    /// Asks for what is missing in one conversation, unless that is under way.
    pub(super) fn repair(&mut self, conversation: u128, book: &mut Book) {
        let id = self.next_request(book);
        let Some(track) = self.track_mut(conversation) else { return };
        let Some(anchor) = track.lacks().filter(|_| !track.repairing) else { return };
        track.repairing = true;
        let limit = u16::try_from(HISTORY_PAGE_MAX).unwrap_or(u16::MAX);
        let ask = GetHistory { request: id, conversation, anchor, limit, direction: 1 };
        self.out.push(Bytes::from(frame::to_vec(&ask)));
        let (purpose, intended) = (Purpose::Repair(conversation), book.now);
        self.asked.push(Asked { id, purpose, request: None, intended, attempts: 1, state: State::Sent });
        self.count_outstanding(book);
    }

    /// Asks for everything that is missing.
    pub(super) fn repair_all(&mut self, book: &mut Book) {
        let lacking = |track: &super::verify::Track| track.lacks().is_some() && !track.repairing;
        let all: Vec<u128> =
            self.tracks.iter().filter(|track| lacking(track)).map(|track| track.conversation).collect();
        for conversation in all {
            self.repair(conversation, book);
        }
    }

    /// A page for a hole brought nothing, or did not come.
    pub(super) fn on_repair_failed(&mut self, conversation: u128, book: &mut Book) {
        let (me, since) = (self.id, self.since);
        let Some(track) = self.track_mut(conversation) else { return };
        track.repairing = false;
        track.repair_failures += 1;
        if track.repair_failures >= REPAIR_FAILURES_MAX {
            track.give_up(&mut |applied| book.on_applied(applied, me, since));
        }
        if track.lacks().is_some() {
            self.repair_at = self.repair_at.min(book.now + REPAIR_PAUSE_NS);
        }
    }
}
