//! Answers and notices of the server that concern one request or one person: each goes to whoever asked.
//! Never touches a conversation itself: see `conversations.rs`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_protocol::server::{self, HistoryPage};
use tern_protocol::{ConversationId, FrameError, RejectCode, RequestId, Seq, Timestamp, UserId, frame};

use super::requests::{Purpose, Query};
use super::{Output, Session};
use crate::update::{Answer, Done, RequestError, Update};
use crate::view::{EventView, HistoryView, MemberView, MembersView, ProfileView, Role};

impl Session {
    pub(super) fn on_ack(&mut self, now: Instant, ack: &server::ArchivedAck) {
        let request = RequestId::from_raw(ack.request.to_native());
        let (seq, time) = (Seq::from_raw(ack.seq.to_native()), Timestamp::from_raw(ack.time.to_native()));
        let conversation = ConversationId::from_raw(ack.conversation.to_native());
        let watch = self.is_direct(conversation);
        if let Some(progress) = self.outbox.on_stored(request, seq, time, watch) {
            self.tell_progress(progress);
            // The event itself comes on its own lane; should it be lost, its place is known.
            self.saw_head(now, conversation, seq.raw(), None);
            return;
        }
        match self.requests.take(request) {
            Some((Purpose::Application, _)) => {
                let done = Done { conversation, seq, time };
                self.outputs.push_back(Output::Answer(request, Ok(Answer::Done(done))));
            }
            Some((Purpose::ReadCursor(_) | Purpose::Repair(_) | Purpose::Search(_) | Purpose::Directory, _)) | None => {
            }
        }
    }

    pub(super) fn on_reject(&mut self, now: Instant, reject: &server::ArchivedReject) {
        let request = RequestId::from_raw(reject.request.to_native());
        let code = RejectCode::from_raw(reject.code.to_native());
        let after = Duration::from_millis(u64::from(reject.retry_after.to_native()));
        if let Some(progress) = self.outbox.on_reject(now, request, code, after) {
            self.tell_progress(progress);
        }
        if let Some((purpose, query)) = self.requests.on_reject(now, request, code, after) {
            let error = RequestError::Rejected(code.unwrap_or(RejectCode::Unsupported));
            self.on_failed(now, request, purpose, &query, error, after);
        }
    }

    /// A request has ended without an answer.
    pub(super) fn on_failed(
        &mut self,
        now: Instant,
        request: RequestId,
        purpose: Purpose,
        query: &Query,
        error: RequestError,
        after: Duration,
    ) {
        match purpose {
            Purpose::Application => self.outputs.push_back(Output::Answer(request, Err(error))),
            Purpose::Repair(conversation) => self.on_repair_failed(now, conversation, error),
            Purpose::Search(post) => self.outbox.on_search_failed(now, post, after),
            Purpose::Directory => self.on_directory_failed(now),
            Purpose::ReadCursor(conversation) => self.on_cursor_failed(now, conversation, query, error),
        }
    }

    pub(super) fn on_history(&mut self, now: Instant, bytes: &Bytes) -> Result<(), FrameError> {
        let page = frame::decode::<HistoryPage<'_>>(bytes)?;
        let request = RequestId::from_raw(page.request.to_native());
        let Some((purpose, _)) = self.requests.take(request) else { return Ok(()) };
        let view = read_page(page)?;
        match purpose {
            Purpose::Application => self.outputs.push_back(Output::Answer(request, Ok(Answer::History(view)))),
            Purpose::Repair(conversation) => self.on_repair_page(now, conversation, view),
            Purpose::Search(post) => {
                let own = view.events.iter().find(|event| event.request == post && Some(event.sender) == self.me);
                let own = own.map(|event| (event.seq, event.time));
                let last = view.events.last().map(|event| event.seq.raw());
                let ends = (view.first.raw(), view.head.raw());
                let watch = self.is_direct(view.conversation);
                if let Some(progress) = self.outbox.on_search_page(post, own, last, ends, watch) {
                    self.tell_progress(progress);
                }
            }
            Purpose::Directory | Purpose::ReadCursor(_) => {}
        }
        Ok(())
    }

    pub(super) fn on_members(&mut self, page: &server::ArchivedMembersPage<'_>) {
        let request = RequestId::from_raw(page.request.to_native());
        let member = |member: &server::ArchivedMember| MemberView {
            user: UserId::from_raw(member.user.to_native()),
            join: Seq::from_raw(member.join.to_native()),
            read: Seq::from_raw(member.read.to_native()),
            role: Role::from_raw(member.role),
        };
        let members = page.members.iter().map(member).collect();
        let view = MembersView { total: page.total.to_native(), more: page.more != 0, members };
        self.answer(request, Answer::Members(view));
    }

    pub(super) fn on_profiles(&mut self, profiles: &server::ArchivedProfiles) {
        let request = RequestId::from_raw(profiles.request.to_native());
        let profile = |profile: &server::ArchivedProfile| ProfileView {
            user: UserId::from_raw(profile.user.to_native()),
            name: String::from_utf8_lossy(&profile.name).into_owned(),
            display: String::from_utf8_lossy(&profile.display).into_owned(),
        };
        let found = profiles.profiles.iter().map(profile).collect();
        self.answer(request, Answer::Profiles(found));
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        if self.requests.take(request).is_some() {
            self.outputs.push_back(Output::Answer(request, Ok(answer)));
        }
    }

    pub(super) fn on_typing(&mut self, notice: &server::ArchivedTypingNotice) {
        let user = UserId::from_raw(notice.user.to_native());
        if Some(user) != self.me {
            let conversation = ConversationId::from_raw(notice.conversation.to_native());
            self.tell(Update::Typing { conversation, user, active: notice.active != 0 });
        }
    }

    pub(super) fn on_presence(&mut self, notice: &server::ArchivedPresenceNotice) {
        let last_seen = notice.last_seen.to_native();
        self.tell(Update::Presence {
            user: UserId::from_raw(notice.user.to_native()),
            online: notice.online != 0,
            last_seen: (last_seen != 0).then(|| Timestamp::from_raw(last_seen)),
        });
    }
}

/// Reads a page's events, copying each out of the page.
fn read_page(page: &server::ArchivedHistoryPage<'_>) -> Result<HistoryView, FrameError> {
    let mut rest = page.events.as_slice();
    let mut events = Vec::new();
    while let Some(size) = frame::size(rest)? {
        let (event, tail) = rest.split_at_checked(size).ok_or(FrameError::Length(rest.len() as u64))?;
        events.push(EventView::decode(&Bytes::copy_from_slice(event))?);
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(FrameError::Length(rest.len() as u64));
    }
    Ok(HistoryView {
        conversation: ConversationId::from_raw(page.conversation.to_native()),
        head: Seq::from_raw(page.head.to_native()),
        first: Seq::from_raw(page.first.to_native()),
        events,
    })
}
