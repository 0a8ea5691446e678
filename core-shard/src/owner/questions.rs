//! What sessions ask of the owner of an entity: to open, to watch, history, members, who somebody is. Nothing here changes what is logged.
//! Checks membership for each: a session's own idea of it may be old.

use bytes::Bytes;
use tern_protocol::limit::{HISTORY_PAGE_MAX, MEMBERS_PAGE_MAX, PAGE_SIZE_MAX};
use tern_protocol::server::{Event, HistoryPage, Member as WireMember, MembersPage, content, event};
use tern_protocol::stored::Entity;
use tern_protocol::{CloseCode, ConversationId, ConversationKind, Position, RejectCode, RequestId, Seq, UserId};

use super::cache::State;
use super::{Owner, bit, receipt, shards_in};
use crate::config::Sabotage;
use crate::context::Context;
use crate::conversation::{Conversation, Member, reject, to_bytes};
use crate::io::{Order, ViewError};
use crate::message::{Audience, Found, FoundUser, Missing, Place, ToOwner, ToSessions, Watching};
use crate::user::User;

/// Most bytes of events that a resume is answered with; beyond it the client pages. Unit: bytes.
const RESUME_SIZE_MAX: usize = 128 * 1024;
/// What a refused question should wait. Unit: milliseconds.
const BUSY_RETRY_MS: u32 = 200;

/// A page of history that the view is asked for.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) place: Place,
    pub(crate) request: RequestId,
    pub(crate) conversation: ConversationId,
    pub(crate) from: Seq,
    pub(crate) to: Seq,
    pub(crate) order: Order,
    user: UserId,
    anchor: u64,
    limit: u16,
    head: Seq,
    first: Seq,
    /// The last command applied when the view was asked.
    position: Position,
}

impl Owner {
    pub(super) fn answer_question(&mut self, cx: &mut Context, entity: &Entity, question: ToOwner) {
        match (self.cache.state_mut(entity), question) {
            (Some(State::User(state)), ToOwner::OpenSession { user, device, place, waited }) => {
                if state.exists() && state.has_device(device) {
                    if self.online.open(cx, user, device, place, waited) {
                        let (session, user_seq) = (place.session, state.row.user_seq);
                        let conversations = state.conversations();
                        cx.tell(place.shard, ToSessions::Opened { session, user, user_seq, conversations });
                    }
                } else {
                    cx.tell(place.shard, ToSessions::Close { session: place.session, code: CloseCode::Revoked });
                }
            }
            (Some(State::User(user)), ToOwner::FindUser { place, gather, .. }) => {
                let profile = user.exists().then(|| Box::new(found(user))).into();
                cx.tell(place.shard, ToSessions::Found { session: place.session, gather, profile });
            }
            (Some(State::Account(account)), ToOwner::FindName { place, gather, .. }) => {
                let user = account.holder().map(|(user, _)| user).into();
                cx.tell(place.shard, ToSessions::FoundName { session: place.session, gather, user });
            }
            (Some(State::Conversation(conversation)), question) => {
                let id = conversation.id;
                match conversation_question(cx, conversation, question) {
                    Next::Done => {}
                    Next::Watched(place) => *self.watchers.entry(id).or_default() |= bit(place.shard),
                    Next::Fetch(page) => self.cache.fetch_page(cx, page),
                    Next::Tell(make) => {
                        let watchers = self.watchers.get(&id).copied().unwrap_or(0);
                        shards_in(watchers).for_each(|shard| cx.tell(shard, make()));
                    }
                }
            }
            _ => debug_assert!(false, "a question goes to the entity it is about"),
        }
    }

    /// The view's part of a page is here. While it was read, events may have been rewritten, and whoever asked may have gone out: what
    /// cannot be mended from memory is asked anew.
    pub(super) fn page_loaded(&mut self, cx: &mut Context, page: &Page, events: Result<Vec<Bytes>, ViewError>) {
        let events = match events {
            Ok(events) if is_whole(page, &events) => events,
            Err(ViewError::Busy | ViewError::Failed) => {
                return cx.answer(page.place, reject(page.request, RejectCode::Busy, BUSY_RETRY_MS));
            }
            Ok(_) | Err(ViewError::Damaged) => {
                return cx.answer(page.place, reject(page.request, RejectCode::Unreadable, 0));
            }
        };
        let entity = Entity::Conversation(page.conversation);
        if let Some(State::Conversation(conversation)) = self.cache.state(&entity)
            && let Some(member) = conversation.members.get(&page.user)
            && conversation.first_readable(member) == page.first
            && let Some(events) = conversation.window.renew(page.position, events)
        {
            return answer_page(cx, page, &events);
        }
        let Page { place, user, request, conversation, anchor, limit, order, .. } = *page;
        self.on_message(cx, ToOwner::History { place, user, request, conversation, anchor, limit, order });
    }
}

/// What is left to do outside the conversation.
enum Next {
    Done,
    Watched(Place),
    Fetch(Page),
    Tell(Box<dyn Fn() -> ToSessions>),
}

fn conversation_question(cx: &mut Context, conversation: &mut Conversation, question: ToOwner) -> Next {
    match question {
        ToOwner::Watch { place, user, known, ticket, .. } => {
            let member = conversation.members.get(&user).copied();
            let watching = member.map(|member| Box::new(watching(cx, conversation, user, &member, known)));
            let watched = watching.is_some();
            let conversation = conversation.id;
            let session = place.session;
            cx.tell(place.shard, ToSessions::Watching { session, conversation, ticket, member: watching });
            if watched { Next::Watched(place) } else { Next::Done }
        }
        ToOwner::History { place, user, request, anchor, limit, order, .. } => {
            history(cx, conversation, place, user, request, (anchor, limit, order))
        }
        ToOwner::Members { place, user, request, after, limit, .. } => {
            members(cx, conversation, place, user, request, (after, limit));
            Next::Done
        }
        ToOwner::FindMember { place, gather, user, .. } => {
            let member = conversation.members.contains_key(&user).then_some(conversation.head).into();
            cx.tell(place.shard, ToSessions::FoundMember { session: place.session, gather, member });
            Next::Done
        }
        ToOwner::Typing { user, active, .. } => {
            let few = conversation.members.len() <= cx.limits().receipts_members_max as usize;
            let id = conversation.id;
            if few && conversation.members.contains_key(&user) {
                Next::Tell(Box::new(move || ToSessions::Typing { conversation: id, user, active }))
            } else {
                Next::Done
            }
        }
        ToOwner::Delivered { user, seq, .. } => delivered(conversation, user, seq),
        ToOwner::OpenSession { .. }
        | ToOwner::EndSession { .. }
        | ToOwner::Unwatch { .. }
        | ToOwner::FindUser { .. }
        | ToOwner::FindName { .. }
        | ToOwner::WatchPresence { .. }
        | ToOwner::UnwatchPresence { .. }
        | ToOwner::EmissionLogged { .. } => Next::Done,
    }
}

/// A question to an entity that is set aside.
pub(super) fn unreadable(cx: &mut Context, question: ToOwner) {
    match question {
        ToOwner::History { place, request, .. } | ToOwner::Members { place, request, .. } => {
            cx.answer(place, reject(request, RejectCode::Unreadable, 0));
        }
        ToOwner::FindUser { place, gather, .. } => {
            cx.tell(place.shard, ToSessions::Found { session: place.session, gather, profile: Found::Unreadable });
        }
        ToOwner::FindName { place, gather, .. } => {
            cx.tell(place.shard, ToSessions::FoundName { session: place.session, gather, user: Found::Unreadable });
        }
        ToOwner::FindMember { place, gather, .. } => {
            let (session, member) = (place.session, Found::Unreadable);
            cx.tell(place.shard, ToSessions::FoundMember { session, gather, member });
        }
        ToOwner::Watch { place, conversation, ticket, .. } => {
            let session = place.session;
            cx.tell(place.shard, ToSessions::Unreadable { session, conversation, ticket });
        }
        ToOwner::OpenSession { place, .. } => {
            cx.tell(place.shard, ToSessions::Close { session: place.session, code: CloseCode::Internal });
        }
        ToOwner::EndSession { .. }
        | ToOwner::Unwatch { .. }
        | ToOwner::Typing { .. }
        | ToOwner::Delivered { .. }
        | ToOwner::WatchPresence { .. }
        | ToOwner::UnwatchPresence { .. }
        | ToOwner::EmissionLogged { .. } => {}
    }
}

/// A question that cannot be taken now: whoever asked must not wait for ever.
pub(super) fn refuse(cx: &mut Context, question: ToOwner) {
    match question {
        ToOwner::History { place, request, .. } | ToOwner::Members { place, request, .. } => {
            cx.answer(place, reject(request, RejectCode::Busy, BUSY_RETRY_MS));
        }
        ToOwner::FindUser { place, gather, .. } => {
            cx.tell(place.shard, ToSessions::Found { session: place.session, gather, profile: Found::Busy });
        }
        ToOwner::FindName { place, gather, .. } => {
            cx.tell(place.shard, ToSessions::FoundName { session: place.session, gather, user: Found::Busy });
        }
        ToOwner::FindMember { place, gather, .. } => {
            cx.tell(place.shard, ToSessions::FoundMember { session: place.session, gather, member: Found::Busy });
        }
        ToOwner::OpenSession { place, .. } | ToOwner::Watch { place, .. } => {
            cx.tell(place.shard, ToSessions::Close { session: place.session, code: CloseCode::Full });
        }
        ToOwner::EndSession { .. }
        | ToOwner::Unwatch { .. }
        | ToOwner::Typing { .. }
        | ToOwner::Delivered { .. }
        | ToOwner::WatchPresence { .. }
        | ToOwner::UnwatchPresence { .. }
        | ToOwner::EmissionLogged { .. } => {}
    }
}

fn found(user: &User) -> FoundUser {
    FoundUser { user: user.id, name: user.row.name.as_slice().into(), display: user.row.display.as_slice().into() }
}

fn watching(
    cx: &mut Context,
    conversation: &Conversation,
    user: UserId,
    member: &Member,
    known: Option<Seq>,
) -> Watching {
    let first = conversation.first_readable(member);
    // Of the last message, as it is now; never of one before it, which those who have been here all along do not see either.
    let last = conversation.window.newest().find(|event| event.head.kind == event::MESSAGE);
    let preview = last.filter(|last| last.content != content::RECALLED && last.head.seq >= first);
    let peer = conversation.id.peer_of(user).and_then(|peer| {
        let cursors = conversation.members.get(&peer)?;
        Some((peer, Seq::from_raw(cursors.row.read), cursors.delivered))
    });
    Watching {
        head: conversation.head,
        visible: conversation.visible,
        head_time: conversation.head_time,
        members: u32::try_from(conversation.members.len()).unwrap_or(u32::MAX),
        title: conversation.title.clone(),
        preview: preview.map(|event| event.frame.clone()),
        first,
        join: Seq::from_raw(member.row.join),
        join_visible: member.row.join_visible,
        read: Seq::from_raw(member.row.read),
        read_visible: member.row.read_visible,
        role: member.row.role,
        peer,
        missing: missing(cx, conversation, first, known),
    }
}

/// Exactly what the client lacks, or a definite "page": never a part.
fn missing(cx: &mut Context, conversation: &Conversation, first: Seq, known: Option<Seq>) -> Missing {
    let Some(known) = known.filter(|known| *known != conversation.head) else { return Missing::Nothing };
    let from = known.next();
    let in_memory = conversation.window.first().is_some_and(|oldest| oldest <= from);
    let readable = from >= first && known < conversation.head;
    if !cx.config.has(Sabotage::ResetOnGap) {
        let oldest = conversation.window.first().unwrap_or(from);
        return Missing::Events(conversation.window.from(from.max(oldest)).map(|event| event.frame.clone()).collect());
    }
    if in_memory && readable {
        let mut size = 0;
        let events = conversation.window.from(from).inspect(|event| size += event.frame.len());
        let events: Vec<Bytes> = events.map(|event| event.frame.clone()).collect();
        if size <= RESUME_SIZE_MAX {
            cx.counters.resumes += 1;
            return Missing::Events(events);
        }
    }
    cx.counters.resets += 1;
    Missing::Reset
}

fn history(
    cx: &mut Context,
    conversation: &Conversation,
    place: Place,
    user: UserId,
    request: RequestId,
    (anchor, limit, order): (u64, u16, Order),
) -> Next {
    let Some(member) = conversation.members.get(&user) else {
        cx.answer(place, reject(request, RejectCode::NotFound, 0));
        return Next::Done;
    };
    let first = conversation.first_readable(member);
    let head = conversation.head;
    let wanted = limit;
    let limit = u64::from(limit).clamp(1, HISTORY_PAGE_MAX as u64);
    let (mut from, mut to) = match order {
        Order::OldestFirst => {
            let from = anchor.saturating_add(1).max(first.raw());
            (from, from.saturating_add(limit - 1).min(head.raw()))
        }
        Order::NewestFirst => {
            let to = anchor.saturating_sub(1).min(head.raw());
            (to.saturating_sub(limit - 1).max(first.raw()), to)
        }
    };
    let oldest = conversation.window.first().map_or(u64::MAX, Seq::raw);
    // A range that lies in both the view and memory is cut to the part that is next to the anchor: the client goes on from there.
    if from < oldest && to >= oldest {
        match order {
            Order::OldestFirst => to = oldest - 1,
            Order::NewestFirst => from = oldest,
        }
    }
    let page = Page {
        place,
        request,
        conversation: conversation.id,
        from: Seq::from_raw(from),
        to: Seq::from_raw(to),
        order,
        user,
        anchor,
        limit: wanted,
        head,
        first,
        position: conversation.position,
    };
    if from > to {
        answer_page(cx, &page, &[]);
        return Next::Done;
    }
    if from < oldest {
        return Next::Fetch(page);
    }
    let count = usize::try_from(to - from + 1).unwrap_or(usize::MAX);
    let events: Vec<Bytes> = conversation.window.from(page.from).take(count).map(|event| event.frame.clone()).collect();
    answer_page(cx, &page, &events);
    Next::Done
}

/// Whether these are events of the page, one after the other from the end that is wanted, and each of them makes sense.
fn is_whole(page: &Page, events: &[Bytes]) -> bool {
    let count = events.len() as u64;
    let first = match page.order {
        Order::OldestFirst => page.from.raw(),
        Order::NewestFirst => (page.to.raw() + 1).saturating_sub(count),
    };
    count > 0
        && events.iter().zip(first..).all(|(bytes, seq)| {
            let event = tern_protocol::frame::decode::<Event<'_>>(bytes);
            event.is_ok_and(|event| {
                event.seq.to_native() == seq && event.conversation.to_native() == page.conversation.raw()
            })
        })
}

/// Sends a page with as many of the events as fit, counted from the anchor.
fn answer_page(cx: &mut Context, page: &Page, events: &[Bytes]) {
    let mut size = 0;
    let mut fits = |event: &&Bytes| {
        size += event.len();
        size <= PAGE_SIZE_MAX || size == event.len()
    };
    let chosen = match page.order {
        Order::OldestFirst => &events[..events.iter().take_while(&mut fits).count()],
        Order::NewestFirst => &events[events.len() - events.iter().rev().take_while(&mut fits).count()..],
    };
    let bytes = chosen.concat();
    let frame = to_bytes(&HistoryPage {
        request: page.request.raw(),
        conversation: page.conversation.raw(),
        head: page.head.raw(),
        first: page.first.raw(),
        events: &bytes,
    });
    cx.answer(page.place, frame);
}

fn members(
    cx: &mut Context,
    conversation: &Conversation,
    place: Place,
    user: UserId,
    request: RequestId,
    (after, limit): (UserId, u16),
) {
    if !conversation.members.contains_key(&user) {
        cx.answer(place, reject(request, RejectCode::NotFound, 0));
        return;
    }
    let limit = usize::from(limit).clamp(1, MEMBERS_PAGE_MAX);
    let from = UserId::from_raw(after.raw().saturating_add(1));
    let mut rest = conversation.members.range(from..);
    let page: Vec<WireMember> = rest
        .by_ref()
        .take(limit)
        .map(|(user, member)| WireMember {
            user: user.raw(),
            join: member.row.join,
            read: member.row.read,
            role: member.row.role,
        })
        .collect();
    let frame = to_bytes(&MembersPage {
        request: request.raw(),
        conversation: conversation.id.raw(),
        total: u32::try_from(conversation.members.len()).unwrap_or(u32::MAX),
        more: u8::from(rest.next().is_some()),
        members: &page,
    });
    cx.answer(place, frame);
}

/// Moves a delivered cursor: kept in memory only, told to the other one of a direct conversation.
fn delivered(conversation: &mut Conversation, user: UserId, seq: Seq) -> Next {
    let head = conversation.head;
    let direct = matches!(conversation.id.kind(), Some(ConversationKind::Direct(..)));
    let Some(member) = conversation.members.get_mut(&user) else { return Next::Done };
    let seq = seq.min(head);
    if !direct || seq <= member.delivered {
        return Next::Done;
    }
    member.delivered = seq;
    let Some(ToSessions::Receipt { conversation, user, read, read_visible, delivered, audience }) =
        receipt(conversation, user, Audience::Members)
    else {
        return Next::Done;
    };
    Next::Tell(Box::new(move || ToSessions::Receipt { conversation, user, read, read_visible, delivered, audience }))
}
