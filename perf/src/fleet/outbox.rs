//! The messages of a peer that are not acknowledged yet: sent in order within their conversation, sent again under the same request id,
//! looked for in the history when the server cannot tell any more. Bodies are made anew for each attempt; nothing of them is kept.

use bytes::Bytes;
use tern_protocol::RejectCode;
use tern_protocol::client::{GetHistory, SendMessage};
use tern_protocol::frame;
use tern_protocol::limit::{HISTORY_PAGE_MAX, KNOWN_FRESH};
use tern_protocol::server::content;

use super::asks::{Asked, Purpose, State};
use super::body::{self, Mark};
use super::book::Book;
use super::peer::{Peer, Phase};
use super::verify::Track;

/// Messages of one peer that may wait. Unit: messages. More are counted as failed.
const POSTS_MAX: usize = 4096;
/// Messages of one peer that may be under way at once. Unit: messages. The server reads no further at 256.
const INFLIGHT_MAX: usize = 64;
/// Times that the server may ask for another attempt of one message.
const ATTEMPTS_MAX: u32 = 40;
/// Least wait before another attempt. Unit: nanoseconds.
pub(super) const RETRY_MIN_NS: u64 = 100_000_000;

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Queued,
    InFlight,
    /// The server does not want to see it before.
    Waiting(u64),
    /// It is looked for behind this event.
    Searching {
        anchor: u64,
        asked: bool,
    },
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Post {
    /// Lower half of the request id.
    number: u64,
    pub(super) conversation: u128,
    intended: u64,
    /// The position when it was first tried.
    known: u64,
    size: u32,
    attempts: u32,
    pub(super) stage: Stage,
    /// Its event came back before an acknowledgement: where and when.
    stored: Option<(u64, u64)>,
}

/// The request id of a message: unique in the run by its number, and among runs by the run.
fn request_of(run: u32, number: u64) -> u128 {
    u128::from(run) << 64 | u128::from(number) | 1 << 127
}

/// The number of a message of this run.
fn number_of(run: u32, request: u128) -> Option<u64> {
    let number = u64::try_from(request & u128::from(u64::MAX)).ok()?;
    (request_of(run, number) == request).then_some(number)
}

impl Peer {
    /// Takes a message.
    pub(super) fn post(&mut self, conversation: u128, size: u32, intended: u64, book: &mut Book) {
        book.counts.sends_intended += 1;
        if self.posts.len() >= POSTS_MAX {
            book.counts.sends_failed += 1;
            book.on_rejected("no room in the outbox of a peer");
            return;
        }
        let number = book.next_number();
        let (known, attempts, stage, stored) = (0, 0, Stage::Queued, None);
        self.posts.push_back(Post { number, conversation, intended, known, size, attempts, stage, stored });
        self.pump_posts(book);
    }

    /// A new connection: whatever was on its way goes again, in the same order, unless its event has come back meanwhile.
    pub(super) fn resend_posts(&mut self, book: &mut Book) {
        self.posts.retain(|post| match post.stored {
            Some((seq, at)) => {
                let now = std::mem::replace(&mut book.now, at);
                book.on_acked(post.conversation, seq, post.intended);
                book.now = now;
                false
            }
            None => true,
        });
        for post in &mut self.posts {
            match &mut post.stage {
                Stage::InFlight => post.stage = Stage::Queued,
                Stage::Searching { asked, .. } => *asked = false,
                Stage::Queued | Stage::Waiting(_) => {}
            }
        }
    }

    /// Sends what may be sent: behind a message that must wait, nothing more of its conversation.
    pub(super) fn pump_posts(&mut self, book: &mut Book) {
        if self.phase != Phase::Open || self.posts.is_empty() {
            return;
        }
        if self.hold_until > book.now {
            self.retry_at = self.retry_at.min(self.hold_until);
            return;
        }
        let mut inflight = 0;
        let mut held_up: Vec<u128> = Vec::new();
        for index in 0..self.posts.len() {
            if inflight >= INFLIGHT_MAX {
                return;
            }
            let Some(post) = self.posts.get(index) else { return };
            let conversation = post.conversation;
            match post.stage {
                Stage::InFlight => inflight += 1,
                Stage::Searching { asked: true, .. } => held_up.push(conversation),
                Stage::Waiting(until) if until > book.now => {
                    self.retry_at = self.retry_at.min(until);
                    held_up.push(conversation);
                }
                _ if held_up.contains(&conversation) => {}
                Stage::Searching { anchor, asked: false } => {
                    held_up.push(conversation);
                    self.search(index, anchor, book);
                }
                // Who is not in a conversation yet waits for its entry.
                Stage::Queued | Stage::Waiting(_) => match self.track(conversation).and_then(Track::position) {
                    Some(position) => {
                        inflight += 1;
                        self.send(index, position, book);
                    }
                    None => held_up.push(conversation),
                },
            }
        }
    }

    fn send(&mut self, index: usize, position: u64, book: &mut Book) {
        let Some(post) = self.posts.get_mut(index) else { return };
        let known = if post.attempts == 0 {
            post.known = position;
            KNOWN_FRESH
        } else {
            book.counts.resends += 1;
            post.known
        };
        post.attempts += 1;
        post.stage = Stage::InFlight;
        let mark = Mark { run: book.common.run, peer: self.id, number: post.number, intended: post.intended };
        let mut body = Vec::new();
        let size = usize::try_from(post.size).unwrap_or(usize::MAX).min(tern_protocol::limit::BODY_SIZE_MAX);
        body::write(mark, post.conversation, size, book.common.seed, &mut body);
        book.counts.sends_made += 1;
        book.counts.payload_out += body.len() as u64;
        let mut out = Vec::with_capacity(body.len() + 128);
        let send = SendMessage {
            request: request_of(mark.run, post.number),
            conversation: post.conversation,
            known,
            reply_to: 0,
            content: content::OPAQUE,
            mentions: &[],
            body: &body,
        };
        frame::encode(&send, &mut out);
        self.out.push(Bytes::from(out));
    }

    /// The server confirmed it. Returns whether it was one of these.
    pub(super) fn on_ack_of_post(&mut self, request: u128, seq: u64, book: &mut Book) -> bool {
        let Some(number) = number_of(book.common.run, request) else { return false };
        if let Some(post) = self.take_post(number) {
            book.on_acked(post.conversation, seq, post.intended);
        }
        true
    }

    /// Its own event came: as good as the acknowledgement, which is still waited for while it can come.
    pub(super) fn on_own_event(&mut self, request: u128, seq: u64, book: &mut Book) {
        let Some(number) = number_of(book.common.run, request) else { return };
        let Some(post) = self.posts.iter_mut().find(|post| post.number == number) else { return };
        if post.stage == Stage::InFlight {
            post.stored = Some((seq, book.now));
        } else if let Some(post) = self.take_post(number) {
            book.on_acked(post.conversation, seq, post.intended);
        }
    }

    /// The server refused it. Returns whether it was one of these.
    pub(super) fn on_reject_of_post(
        &mut self,
        request: u128,
        code: Option<RejectCode>,
        retry_after: u64,
        book: &mut Book,
    ) -> bool {
        let Some(number) = number_of(book.common.run, request) else { return false };
        let Some(post) = self.posts.iter_mut().find(|post| post.number == number) else { return true };
        match code {
            Some(RejectCode::CatchUpFirst) if post.attempts < ATTEMPTS_MAX => {
                post.stage = Stage::Searching { anchor: post.known, asked: false };
            }
            Some(code) if code.is_retryable() && post.attempts < ATTEMPTS_MAX => {
                let until = book.now + retry_after.max(RETRY_MIN_NS);
                post.stage = Stage::Waiting(until);
                if code != RejectCode::OutcomeUnknown {
                    self.hold_until = self.hold_until.max(until);
                }
            }
            Some(_) | None => {
                book.counts.sends_failed += 1;
                self.take_post(number);
            }
        }
        self.pump(book);
        true
    }

    fn search(&mut self, index: usize, anchor: u64, book: &mut Book) {
        let id = self.next_request(book);
        let Some(post) = self.posts.get_mut(index) else { return };
        post.stage = Stage::Searching { anchor, asked: true };
        let (conversation, number) = (post.conversation, post.number);
        let limit = u16::try_from(HISTORY_PAGE_MAX).unwrap_or(u16::MAX);
        let ask = GetHistory { request: id, conversation, anchor, limit, direction: 1 };
        self.out.push(Bytes::from(frame::to_vec(&ask)));
        let purpose = Purpose::Search(number);
        self.asked.push(Asked { id, purpose, request: None, intended: book.now, attempts: 1, state: State::Sent });
    }

    /// A page of a search: `last` is its last event, `head` the conversation's, `found` where the message is.
    pub(super) fn on_search_page(
        &mut self,
        number: u64,
        found: Option<u64>,
        last: Option<u64>,
        head: u64,
        book: &mut Book,
    ) {
        let Some(post) = self.posts.iter_mut().find(|post| post.number == number) else { return };
        let Stage::Searching { anchor, .. } = post.stage else { return };
        match (found, last) {
            (Some(seq), _) => {
                let (conversation, intended) = (post.conversation, post.intended);
                self.take_post(number);
                book.on_acked(conversation, seq, intended);
            }
            (None, Some(last)) if last < head => {
                post.stage = Stage::Searching { anchor: last.max(anchor), asked: false };
            }
            // It is nowhere: it was not stored, and the server remembers requests from here on.
            (None, _) => {
                post.known = head.max(anchor);
                post.stage = Stage::Queued;
            }
        }
        self.pump(book);
    }

    /// A search had no answer: later again.
    pub(super) fn on_search_failed(&mut self, number: u64, book: &Book) {
        if let Some(post) = self.posts.iter_mut().find(|post| post.number == number) {
            let Stage::Searching { anchor, .. } = post.stage else { return };
            post.stage = Stage::Searching { anchor, asked: false };
            self.retry_at = self.retry_at.min(book.now + RETRY_MIN_NS);
            self.hold_until = self.hold_until.max(book.now + RETRY_MIN_NS);
        }
    }

    /// The request id that a searched message has.
    pub(super) fn search_request(number: u64, book: &Book) -> u128 {
        request_of(book.common.run, number)
    }

    fn take_post(&mut self, number: u64) -> Option<Post> {
        // Acknowledgements come in order within a conversation: nearly always the first.
        let index = self.posts.iter().position(|post| post.number == number)?;
        self.posts.remove(index)
    }
}
