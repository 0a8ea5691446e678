//! Questions to owners that a request waits for: who somebody is, whether the users exist that a command names, and whether its sender is
//! in a conversation that the session has not heard of. Costs the log nothing; bounded for each session.

use bytes::Bytes;
use tern_protocol::limit::{DISPLAY_NAME_SIZE_MAX, PROFILES_MAX};
use tern_protocol::server::{Profile, Profiles};
use tern_protocol::{ConversationId, RejectCode, RequestId, Seq, SessionId, UserId};

use super::session::{Gather, Session, Then};
use super::{ASIDE_RETRY_MS, BUSY_RETRY_MS, Sessions};
use crate::context::Context;
use crate::conversation::to_bytes;
use crate::io::Lane;
use crate::message::{Found, FoundUser, Place, ToOwner};

/// Look-ups of one session that may be under way. Unit: look-ups.
const GATHERS_MAX: usize = 32;

impl Sessions {
    /// Looks users up, then goes on.
    pub(super) fn gather(&mut self, cx: &mut Context, id: SessionId, mut users: Vec<UserId>, then: Then) {
        users.sort_unstable();
        users.dedup();
        let Some(gather) = self.begin(cx, id, users.len(), then) else { return };
        let place = Place { shard: cx.shard(), session: id };
        if users.is_empty() {
            return self.finish(cx, id, gather);
        }
        for user in users {
            cx.ask(cx.config.placement.of_user(user), ToOwner::FindUser { place, gather, user });
        }
    }

    /// Looks one user up by name.
    pub(super) fn find_name(&mut self, cx: &mut Context, id: SessionId, name: &str, request: RequestId) {
        let Some(gather) = self.begin(cx, id, 1, Then::Answer(request)) else { return };
        let place = Place { shard: cx.shard(), session: id };
        let partition = cx.config.placement.of_account(name);
        cx.ask(partition, ToOwner::FindName { place, gather, name: name.into() });
    }

    /// Asks the owner whether the session's user may send this command, and appends it if so.
    pub(super) fn find_member(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        conversation: ConversationId,
        request: RequestId,
        frame: Bytes,
    ) {
        let Some(gather) = self.begin(cx, id, 1, Then::Append { conversation, request, frame }) else { return };
        let Some(user) = self.get(id).and_then(Session::open).map(|open| open.user) else { return };
        let place = Place { shard: cx.shard(), session: id };
        let find = ToOwner::FindMember { place, gather, user, conversation };
        cx.ask(cx.config.placement.of_conversation(conversation), find);
    }

    pub(super) fn on_found_member(&mut self, cx: &mut Context, id: SessionId, gather: u64, member: Found<Seq>) {
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let Some(state) = open.gathers.get_mut(&gather) else { return };
        state.refused = match member {
            Found::This(head) => {
                state.heard = head;
                None
            }
            Found::Nobody => Some(RejectCode::NotFound),
            Found::Busy => Some(RejectCode::Busy),
            Found::Unreadable => Some(RejectCode::Unreadable),
        };
        self.finish(cx, id, gather);
    }

    fn begin(&mut self, cx: &mut Context, id: SessionId, remaining: usize, then: Then) -> Option<u64> {
        self.next_gather += 1;
        let gather = self.next_gather;
        let open = self.get(id).and_then(Session::open)?;
        if open.gathers.len() >= GATHERS_MAX {
            let (Then::Answer(request) | Then::Append { request, .. }) = then;
            cx.counters.busy += 1;
            self.reject(cx, id, request, RejectCode::Busy, BUSY_RETRY_MS);
            return None;
        }
        open.gathers.insert(gather, Gather { remaining, found: Vec::new(), refused: None, heard: Seq::ZERO, then });
        Some(gather)
    }

    pub(super) fn on_found_name(&mut self, cx: &mut Context, id: SessionId, gather: u64, user: Found<UserId>) {
        match user {
            Found::This(user) => {
                let place = Place { shard: cx.shard(), session: id };
                cx.ask(cx.config.placement.of_user(user), ToOwner::FindUser { place, gather, user });
            }
            Found::Nobody => self.on_found(cx, id, gather, Found::Nobody),
            Found::Busy => self.on_found(cx, id, gather, Found::Busy),
            Found::Unreadable => self.on_found(cx, id, gather, Found::Unreadable),
        }
    }

    pub(super) fn on_found(&mut self, cx: &mut Context, id: SessionId, gather: u64, profile: Found<Box<FoundUser>>) {
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let Some(state) = open.gathers.get_mut(&gather) else { return };
        state.remaining = state.remaining.saturating_sub(1);
        match profile {
            Found::This(profile) if matches!(state.then, Then::Answer(_)) => state.found.push(*profile),
            Found::This(_) => {}
            Found::Nobody => state.refused = state.refused.or(Some(RejectCode::UnknownUser)),
            // Not knowing says nothing of whether they exist.
            Found::Busy => state.refused = Some(RejectCode::Busy),
            Found::Unreadable => state.refused = Some(RejectCode::Unreadable),
        }
        if state.remaining == 0 {
            self.finish(cx, id, gather);
        }
    }

    fn finish(&mut self, cx: &mut Context, id: SessionId, gather: u64) {
        let Some(state) = self.get(id).and_then(Session::open).and_then(|open| open.gathers.remove(&gather)) else {
            return;
        };
        let (Then::Answer(request) | Then::Append { request, .. }) = &state.then;
        match state.refused {
            Some(RejectCode::Busy) => {
                cx.counters.busy += 1;
                return self.reject(cx, id, *request, RejectCode::Busy, BUSY_RETRY_MS);
            }
            Some(RejectCode::Unreadable) => {
                // Of a command an earlier attempt may be stored: it is not over.
                let (code, retry_after) = match state.then {
                    Then::Answer(_) => (RejectCode::Unreadable, 0),
                    Then::Append { .. } => (RejectCode::SetAside, ASIDE_RETRY_MS),
                };
                return self.reject(cx, id, *request, code, retry_after);
            }
            Some(_) | None => {}
        }
        match state.then {
            Then::Answer(request) => {
                let mut profiles: Vec<Profile> = state
                    .found
                    .into_iter()
                    .map(|found| Profile {
                        user: found.user.raw(),
                        name: found.name.into(),
                        display: found.display.into(),
                    })
                    .collect();
                profiles.sort_unstable_by_key(|profile| profile.user);
                self.push(cx, id, Lane::Control, to_bytes(&Profiles { request: request.raw(), profiles }));
            }
            Then::Append { conversation, request, frame } => match state.refused {
                Some(code) => self.reject(cx, id, request, code, 0),
                None => self.append(cx, id, (conversation, state.heard), request, frame),
            },
        }
    }
}

const _: () = assert!(
    PROFILES_MAX * (DISPLAY_NAME_SIZE_MAX + tern_protocol::limit::ACCOUNT_NAME_SIZE_MAX + 32)
        < tern_protocol::limit::FRAME_SIZE_MAX
);
