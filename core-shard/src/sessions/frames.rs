//! What an open session may ask, frame by frame: checked for form and rate here, for permission by the conversation's owner.
//! A session that has not heard of a conversation refuses nothing by itself: the news may be under way, so the owner is asked before a
//! command costs a place in the log.

use bytes::Bytes;
use tern_protocol::command::CommandHead;
use tern_protocol::frame::{self, Frame, FrameError, Kind};
use tern_protocol::limit::{
    BODY_SIZE_MAX, DIRECTORY_PAGE_MAX, INVITES_MAX, KNOWN_FRESH, MENTIONS_MAX, POSITIONS_MAX, PRESENCE_WATCH_MAX,
    PROFILES_MAX, TITLE_SIZE_MAX,
};
use tern_protocol::server::{DirectoryPage, Head, Pong, content};
use tern_protocol::{
    CloseCode, ConversationId, ConversationKind, RejectCode, RequestId, Seq, SessionId, UserId, client,
};

use super::rate::Refusal;
use super::session::{Phase, Session, Then};
use super::{ASIDE_RETRY_MS, BUSY_RETRY_MS, Sessions, UNAVAILABLE_RETRY_MS, head_of};
use crate::config::Sabotage;
use crate::context::Context;
use crate::conversation::to_bytes;
use crate::io::{Lane, Order};
use crate::message::{Place, ToOwner};

/// Directory requests that may wait for a session to be complete. Unit: requests.
const HELD_MAX: usize = 8;

/// A request that is wrong in itself.
type Checked = Result<(), RejectCode>;

/// Whether a command may have been done before. The owner remembers that also of somebody who is out by now; of a first attempt by
/// somebody who is not a member there is nothing to remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    /// A resend, or a kind of command that does not say.
    Again,
}

fn attempt(known: u64) -> Attempt {
    if known == KNOWN_FRESH { Attempt::First } else { Attempt::Again }
}

impl Sessions {
    pub(super) fn on_open_frame(&mut self, cx: &mut Context, id: SessionId, bytes: Bytes) {
        let (kind, archive) = match frame::open(&bytes) {
            Ok((kind, archive)) if kind.is_client() && kind != client::Hello::KIND => (kind, archive),
            Ok((kind, _)) => return self.malformed(cx, id, FrameError::Kind(kind.0)),
            Err(error) => return self.malformed(cx, id, error),
        };
        let limits = &cx.config.limits;
        let Some(session) = self.get(id) else { return };
        if let Err(refusal) = session.bucket.take(cx.now, limits) {
            cx.counters.rate_limited += 1;
            return match refusal {
                Refusal::Flood => self.close(cx, id, CloseCode::Flooding),
                Refusal::Wait(retry_after) => match request_of(kind, archive) {
                    Ok(request) => self.reject(cx, id, request, RejectCode::RateLimited, retry_after),
                    Err(error) => self.malformed(cx, id, error),
                },
            };
        }
        if let Err(error) = self.dispatch(cx, id, kind, archive, &bytes) {
            self.malformed(cx, id, error);
        }
    }

    fn dispatch(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        kind: Kind,
        archive: &[u8],
        bytes: &Bytes,
    ) -> Result<(), FrameError> {
        match kind {
            client::SendMessage::KIND => {
                let f = frame::decode_archive::<client::SendMessage<'_>>(archive)?;
                let checked = check_body(f.content, &f.body).and_then(|()| at_most(f.mentions.len(), MENTIONS_MAX));
                let ids = (f.conversation.to_native(), f.request.to_native());
                self.command(cx, id, ids, checked, attempt(f.known.to_native()), bytes);
            }
            client::EditMessage::KIND => {
                let f = frame::decode_archive::<client::EditMessage<'_>>(archive)?;
                let checked = check_body(f.content, &f.body);
                let ids = (f.conversation.to_native(), f.request.to_native());
                self.command(cx, id, ids, checked, attempt(f.known.to_native()), bytes);
            }
            client::RecallMessage::KIND => {
                let f = frame::decode_archive::<client::RecallMessage>(archive)?;
                let ids = (f.conversation.to_native(), f.request.to_native());
                self.command(cx, id, ids, Ok(()), attempt(f.known.to_native()), bytes);
            }
            client::MoveCursor::KIND => {
                self.cursor(cx, id, frame::decode_archive::<client::MoveCursor>(archive)?, bytes);
            }
            client::LeaveGroup::KIND => {
                let f = frame::decode_archive::<client::LeaveGroup>(archive)?;
                self.command(
                    cx,
                    id,
                    (f.conversation.to_native(), f.request.to_native()),
                    Ok(()),
                    Attempt::Again,
                    bytes,
                );
            }
            client::Kick::KIND => {
                let f = frame::decode_archive::<client::Kick>(archive)?;
                self.command(
                    cx,
                    id,
                    (f.conversation.to_native(), f.request.to_native()),
                    Ok(()),
                    Attempt::Again,
                    bytes,
                );
            }
            client::SetRole::KIND => {
                let f = frame::decode_archive::<client::SetRole>(archive)?;
                self.command(
                    cx,
                    id,
                    (f.conversation.to_native(), f.request.to_native()),
                    Ok(()),
                    Attempt::Again,
                    bytes,
                );
            }
            client::JoinGroup::KIND => self.join(cx, id, frame::decode_archive::<client::JoinGroup>(archive)?, bytes),
            client::Invite::KIND => self.invite(cx, id, frame::decode_archive::<client::Invite<'_>>(archive)?, bytes),
            client::OpenDirect::KIND => {
                self.open_direct(cx, id, frame::decode_archive::<client::OpenDirect>(archive)?, bytes);
            }
            client::CreateGroup::KIND => {
                self.create_group(cx, id, frame::decode_archive::<client::CreateGroup<'_>>(archive)?, bytes);
            }
            client::Typing::KIND => self.typing(cx, id, frame::decode_archive::<client::Typing>(archive)?),
            client::WatchPresence::KIND => {
                let f = frame::decode_archive::<client::WatchPresence<'_>>(archive)?;
                let users =
                    f.users.iter().take(PRESENCE_WATCH_MAX).map(|user| UserId::from_raw(user.to_native())).collect();
                self.watch_presence(cx, id, users);
            }
            client::GetHistory::KIND => self.history(cx, id, frame::decode_archive::<client::GetHistory>(archive)?),
            client::GetMembers::KIND => self.members(cx, id, frame::decode_archive::<client::GetMembers>(archive)?),
            client::GetProfiles::KIND => {
                self.profiles(cx, id, frame::decode_archive::<client::GetProfiles<'_>>(archive)?);
            }
            client::GetDirectory::KIND => {
                frame::decode_archive::<client::GetDirectory>(archive)?;
                self.directory(cx, id, bytes);
            }
            client::Ping::KIND => self.ping(cx, id, frame::decode_archive::<client::Ping<'_>>(archive)?),
            _ => self.reject(cx, id, RequestId::from_raw(0), RejectCode::Unsupported, 0),
        }
        Ok(())
    }

    /// A command for a conversation of which the sender must be a member, or have been one when it was first tried. Keeps the order of
    /// those for one conversation.
    fn command(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        (conversation, request): (u128, u128),
        checked: Checked,
        attempt: Attempt,
        bytes: &Bytes,
    ) {
        let conversation = ConversationId::from_raw(conversation);
        let request = RequestId::from_raw(request);
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let member = open.knows(conversation) || !cx.config.has(Sabotage::Permission);
        let first = attempt == Attempt::First;
        let heard = if first { self.heard(conversation) } else { Seq::ZERO };
        match named(request).and(checked) {
            Err(code) => self.reject(cx, id, request, code, 0),
            Ok(()) if first && (!member || heard == Seq::ZERO) => {
                self.find_member(cx, id, conversation, request, bytes.clone());
            }
            Ok(()) => self.append(cx, id, (conversation, heard), request, bytes.clone()),
        }
    }

    /// The newest event of a conversation that this shard has heard of.
    fn heard(&self, conversation: ConversationId) -> Seq {
        self.locals.get(&conversation).map_or(Seq::ZERO, |local| local.head)
    }

    /// Sends a command to the log of its conversation. Of a first attempt it says how far the conversation had come, as this shard has
    /// heard: that is its age.
    pub(super) fn append(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        (conversation, heard): (ConversationId, Seq),
        request: RequestId,
        frame: Bytes,
    ) {
        if self.draining.is_some() {
            return self.reject(cx, id, request, RejectCode::Unavailable, UNAVAILABLE_RETRY_MS);
        }
        if self.away.contains_key(&conversation) {
            return self.reject(cx, id, request, RejectCode::SetAside, ASIDE_RETRY_MS);
        }
        let inflight_max = cx.limits().inflight_max;
        let Some(session) = self.get(id) else { return };
        // Twice the limit at which reading stops: what was read already is still taken.
        if session.inflight >= inflight_max.saturating_mul(2) {
            cx.counters.busy += 1;
            return self.reject(cx, id, request, RejectCode::Busy, BUSY_RETRY_MS);
        }
        let Phase::Open(open) = &session.phase else { return };
        let head = CommandHead { heard: heard.raw(), ..head_of(cx, id, open.user, open.device) };
        session.inflight += 1;
        cx.append(cx.config.placement.of_conversation(conversation), head, frame);
    }

    fn cursor(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedMoveCursor, bytes: &Bytes) {
        let ids = (f.conversation.to_native(), f.request.to_native());
        match f.cursor {
            client::cursor::READ => self.command(cx, id, ids, Ok(()), Attempt::First, bytes),
            client::cursor::DELIVERED => {
                self.delivered(cx, id, ConversationId::from_raw(ids.0), Seq::from_raw(f.seq.to_native()));
            }
            _ => self.command(cx, id, ids, Err(RejectCode::Invalid), Attempt::First, bytes),
        }
    }

    /// Tells the owner of a direct conversation how far this user's devices have it, if that is news.
    fn delivered(&mut self, cx: &mut Context, id: SessionId, conversation: ConversationId, seq: Seq) {
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let user = open.user;
        if conversation.peer_of(user).is_none() {
            return;
        }
        let Some(mine) = open.conversations.get_mut(&conversation).filter(|mine| mine.delivered < seq) else { return };
        mine.delivered = seq;
        cx.ask(cx.config.placement.of_conversation(conversation), ToOwner::Delivered { conversation, user, seq });
    }

    fn join(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedJoinGroup, bytes: &Bytes) {
        let conversation = ConversationId::from_raw(f.conversation.to_native());
        let request = RequestId::from_raw(f.request.to_native());
        let group = matches!(conversation.kind(), Some(ConversationKind::Group(_)));
        match named(request) {
            Err(code) => self.reject(cx, id, request, code, 0),
            Ok(()) if !group => self.reject(cx, id, request, RejectCode::NotFound, 0),
            Ok(()) => self.append(cx, id, (conversation, Seq::ZERO), request, bytes.clone()),
        }
    }

    fn invite(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedInvite<'_>, bytes: &Bytes) {
        let conversation = ConversationId::from_raw(f.conversation.to_native());
        let request = RequestId::from_raw(f.request.to_native());
        let users: Vec<UserId> = f.users.iter().map(|user| UserId::from_raw(user.to_native())).collect();
        let checked = if users.is_empty() { Err(RejectCode::Invalid) } else { at_most(users.len(), INVITES_MAX) };
        match named(request).and(checked) {
            Err(code) => self.reject(cx, id, request, code, 0),
            Ok(()) => self.gather(cx, id, users, Then::Append { conversation, request, frame: bytes.clone() }),
        }
    }

    fn open_direct(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedOpenDirect, bytes: &Bytes) {
        let peer = UserId::from_raw(f.user.to_native());
        let request = RequestId::from_raw(f.request.to_native());
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let conversation = ConversationId::direct(open.user, peer);
        match named(request) {
            Err(code) => self.reject(cx, id, request, code, 0),
            Ok(()) if !peer.is_valid() => self.reject(cx, id, request, RejectCode::UnknownUser, 0),
            Ok(()) => self.gather(cx, id, vec![peer], Then::Append { conversation, request, frame: bytes.clone() }),
        }
    }

    fn create_group(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedCreateGroup<'_>, bytes: &Bytes) {
        let request = RequestId::from_raw(f.request.to_native());
        let users: Vec<UserId> = f.members.iter().map(|user| UserId::from_raw(user.to_native())).collect();
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let conversation = ConversationId::group(open.user, request);
        let titled = !f.title.is_empty() && std::str::from_utf8(&f.title).is_ok();
        let checked = at_most(f.title.len(), TITLE_SIZE_MAX).and_then(|()| at_most(users.len(), INVITES_MAX));
        match named(request).and(checked) {
            Err(code) => self.reject(cx, id, request, code, 0),
            Ok(()) if !titled || f.flags & !client::group::ALL != 0 => {
                self.reject(cx, id, request, RejectCode::Invalid, 0);
            }
            Ok(()) => self.gather(cx, id, users, Then::Append { conversation, request, frame: bytes.clone() }),
        }
    }

    fn typing(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedTyping) {
        let conversation = ConversationId::from_raw(f.conversation.to_native());
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let user = open.user;
        if open.conversations.get(&conversation).is_some_and(|mine| mine.place.is_some()) {
            let typing = ToOwner::Typing { conversation, user, active: f.active != 0 };
            cx.ask(cx.config.placement.of_conversation(conversation), typing);
        }
    }

    /// Counts a page that an owner is asked for; says for whom.
    fn ask_for_page(&mut self, cx: &mut Context, id: SessionId, request: RequestId) -> Option<UserId> {
        if let Err(code) = named(request) {
            self.reject(cx, id, request, code, 0);
            return None;
        }
        let session = self.get(id)?;
        session.pages += 1;
        session.open().map(|open| open.user)
    }

    fn history(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedGetHistory) {
        let conversation = ConversationId::from_raw(f.conversation.to_native());
        let request = RequestId::from_raw(f.request.to_native());
        let Some(user) = self.ask_for_page(cx, id, request) else { return };
        let history = ToOwner::History {
            place: Place { shard: cx.shard(), session: id },
            user,
            request,
            conversation,
            anchor: f.anchor.to_native(),
            limit: f.limit.to_native(),
            order: if f.direction == 0 { Order::NewestFirst } else { Order::OldestFirst },
        };
        cx.ask(cx.config.placement.of_conversation(conversation), history);
    }

    fn members(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedGetMembers) {
        let conversation = ConversationId::from_raw(f.conversation.to_native());
        let request = RequestId::from_raw(f.request.to_native());
        let Some(user) = self.ask_for_page(cx, id, request) else { return };
        let members = ToOwner::Members {
            place: Place { shard: cx.shard(), session: id },
            user,
            request,
            conversation,
            after: UserId::from_raw(f.after.to_native()),
            limit: f.limit.to_native(),
        };
        cx.ask(cx.config.placement.of_conversation(conversation), members);
    }

    fn profiles(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedGetProfiles<'_>) {
        let request = RequestId::from_raw(f.request.to_native());
        if let Err(code) = named(request).and(at_most(f.users.len(), PROFILES_MAX)) {
            return self.reject(cx, id, request, code, 0);
        }
        match std::str::from_utf8(&f.name) {
            Ok("") => {
                let users = f.users.iter().map(|user| UserId::from_raw(user.to_native())).collect();
                self.gather(cx, id, users, Then::Answer(request));
            }
            Ok(name) if name.len() <= tern_protocol::limit::ACCOUNT_NAME_SIZE_MAX => {
                self.find_name(cx, id, name, request);
            }
            Ok(_) | Err(_) => self.reject(cx, id, request, RejectCode::Invalid, 0),
        }
    }

    /// A page of the directory; waits until every conversation's owner has answered, so that no entry is missing or old.
    fn directory(&mut self, cx: &mut Context, id: SessionId, bytes: &Bytes) {
        let Ok(f) = frame::decode::<client::GetDirectory>(bytes) else { return };
        let request = RequestId::from_raw(f.request.to_native());
        if let Err(code) = named(request) {
            return self.reject(cx, id, request, code, 0);
        }
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        if open.syncing > 0 {
            if open.held.len() < HELD_MAX {
                open.held.push(bytes.clone());
            } else {
                self.reject(cx, id, request, RejectCode::Busy, BUSY_RETRY_MS);
            }
            return;
        }
        let before = (f.before_time.to_native(), f.before_conversation.to_native());
        let limit = usize::from(f.limit.to_native()).clamp(1, DIRECTORY_PAGE_MAX);
        let ids: Vec<ConversationId> = open.conversations.keys().copied().collect();
        let mut order: Vec<(u64, u128)> = ids
            .iter()
            .filter_map(|conversation| Some((self.list_time(id, *conversation)?, conversation.raw())))
            .filter(|key| before == (0, 0) || *key < before)
            .collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let more = u8::from(order.len() > limit);
        let page: Vec<ConversationId> =
            order.into_iter().take(limit).map(|(_, id)| ConversationId::from_raw(id)).collect();
        let entries = self.entries(id, &page);
        self.push(cx, id, Lane::Control, to_bytes(&DirectoryPage { request: request.raw(), more, entries }));
    }

    /// Answers the directory requests that waited.
    pub(super) fn release_held(&mut self, cx: &mut Context, id: SessionId) {
        let Some(open) = self.get(id).and_then(Session::open).filter(|open| open.syncing == 0) else { return };
        for bytes in std::mem::take(&mut open.held) {
            self.directory(cx, id, &bytes);
        }
    }

    /// Says which of the client's positions are behind, so that a lost last event is found.
    fn ping(&mut self, cx: &mut Context, id: SessionId, f: &client::ArchivedPing<'_>) {
        if f.positions.len() > POSITIONS_MAX {
            return self.close(cx, id, CloseCode::Malformed);
        }
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let user_seq = open.user_seq;
        let mut heads: Vec<Head> = Vec::new();
        for (conversation, seq) in f.positions.iter().map(super::position) {
            self.delivered(cx, id, conversation, seq);
            heads.extend(self.head(id, conversation).filter(|head| head.seq != seq.raw()));
        }
        if !cx.config.has(Sabotage::GapReport) {
            heads.clear();
        }
        let pong = to_bytes(&Pong { nonce: f.nonce.to_native(), time: cx.now.raw(), user_seq, heads: &heads });
        self.push(cx, id, Lane::Control, pong);
        self.repeat_presence(cx, id);
    }
}

/// Zero names no request: what is sent again under it could not be recognised, and no answer could be told from news.
fn named(request: RequestId) -> Checked {
    if request.raw() == 0 { Err(RejectCode::Invalid) } else { Ok(()) }
}

fn check_body(kind: u8, body: &[u8]) -> Checked {
    at_most(body.len(), BODY_SIZE_MAX)?;
    match kind {
        _ if body.is_empty() => Err(RejectCode::Invalid),
        content::TEXT if std::str::from_utf8(body).is_err() => Err(RejectCode::Invalid),
        content::TEXT | content::OPAQUE => Ok(()),
        _ => Err(RejectCode::Invalid),
    }
}

fn at_most(count: usize, most: usize) -> Checked {
    if count <= most { Ok(()) } else { Err(RejectCode::TooLarge) }
}

/// The id of a request that is refused before it is looked at; zero for frames that have none.
fn request_of(kind: Kind, archive: &[u8]) -> Result<RequestId, FrameError> {
    let raw = match kind {
        client::GetHistory::KIND => frame::decode_archive::<client::GetHistory>(archive)?.request.to_native(),
        client::GetDirectory::KIND => frame::decode_archive::<client::GetDirectory>(archive)?.request.to_native(),
        client::GetMembers::KIND => frame::decode_archive::<client::GetMembers>(archive)?.request.to_native(),
        client::GetProfiles::KIND => frame::decode_archive::<client::GetProfiles<'_>>(archive)?.request.to_native(),
        _ => {
            let ids = crate::owner::ids_of_frame(UserId::from_raw(0), kind, archive);
            ids.map_or(0, |(_, request)| request.raw())
        }
    };
    Ok(RequestId::from_raw(raw))
}
