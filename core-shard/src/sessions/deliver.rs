//! What sessions are sent: events, receipts, typing, presence, and the policy for those that do not read.
//! One event costs one reference per recipient: nothing is copied or allocated for each.

use std::collections::BTreeSet;

use bytes::Bytes;
use tern_protocol::limit::{DIRECTORY_PAGE_MAX, POSITIONS_MAX};
use tern_protocol::server::{
    DirectoryEntry, DirectoryPage, Head, Pong, PresenceNotice, Receipt, Reset, TypingNotice, UserEvent, event,
    user_event,
};
use tern_protocol::{CloseCode, ConversationId, Seq, SessionId, Timestamp, UserId};

use super::local::Local;
use super::outbox::{Subject, lane_of};
use super::ready::{ReadyList, urgency_of};
use super::session::{Lag, Membership, Open, Phase, Session};
use super::{Sessions, away, watch_reader};
use crate::config::Sabotage;
use crate::context::Context;
use crate::conversation::to_bytes;
use crate::io::{Lane, Lanes, Urgency};
use crate::message::{Audience, EventHead, Missing, ToOwner, Watching};

/// A user whose presence sessions of this shard want to know.
#[derive(Debug, Default)]
pub(super) struct Watched {
    sessions: BTreeSet<SessionId>,
    /// What the owner said last.
    state: Option<(bool, Timestamp)>,
}

impl Sessions {
    /// Queues an answer or news. A session that does not even take these is closed.
    pub(super) fn push(&mut self, cx: &mut Context, id: SessionId, lane: Lane, frame: Bytes) {
        let Some((session, ready)) = self.get_disjoint(id) else { return };
        if matches!(session.phase, Phase::Closing) {
            return;
        }
        let full = session.outbox.size() + frame.len() > cx.limits().outbox_close_max;
        if full && cx.config.has(Sabotage::OutboxLimit) {
            self.close(cx, id, CloseCode::SlowReader);
            return;
        }
        session.outbox.push(lane, frame);
        mark_ready(cx, ready, session, Urgency::Prompt);
    }

    /// One event, to every subscribed session.
    pub(super) fn on_deliver(
        &mut self,
        cx: &mut Context,
        conversation: ConversationId,
        event: EventHead,
        frame: &Bytes,
    ) {
        let Some(local) = self.locals.get_mut(&conversation) else { return };
        local.advance(&event, frame);
        if event.kind == event::MESSAGE && conversation.peer_of(event.sender).is_some() {
            local.set_cursors(event.sender, event.seq, event.seq);
        }
        let lane = lane_of(conversation);
        let sessions = std::mem::take(&mut local.sessions);
        let urgency = urgency_of(sessions.len());
        let mut gone: Vec<SessionId> = Vec::new();
        let leaves = matches!(event.kind, event::LEFT | event::KICKED) && cx.config.has(Sabotage::KickUnsubscribe);
        let reads = event.kind == event::MESSAGE && cx.config.has(Sabotage::OwnSendReads);
        for id in &sessions {
            let Some(session) = self.slots.get_mut(super::slot_of(*id)).and_then(Option::as_deref_mut) else {
                continue;
            };
            push_live(cx, (&mut self.ready, urgency), session, conversation, lane, frame);
            let Phase::Open(open) = &mut session.phase else { continue };
            if (reads && open.user == event.sender) || (event.kind == event::ROLE && open.user == event.subject) {
                note_own(open, conversation, &event);
            }
            if leaves && open.user == event.subject {
                gone.push(*id);
            }
        }
        if let Some(local) = self.locals.get_mut(&conversation) {
            local.sessions = sessions;
        }
        for id in gone {
            self.unsubscribe(cx, id, conversation);
            // They may be in again by now, and the news of that may have overtaken this event: the owner knows.
            self.subscribe(cx, id, conversation, None, true);
        }
    }

    /// The owner answered a watch.
    pub(super) fn on_watching(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        conversation: ConversationId,
        ticket: u64,
        member: Option<Box<Watching>>,
    ) {
        if let Some(local) = self.locals.get_mut(&conversation) {
            local.asked = local.asked.saturating_sub(1);
        }
        self.take_membership(cx, id, conversation, ticket, member);
        self.drop_idle(cx, conversation);
    }

    fn take_membership(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        conversation: ConversationId,
        ticket: u64,
        member: Option<Box<Watching>>,
    ) {
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let asked = |mine: &&mut Membership| mine.place.is_none() && mine.ticket == ticket;
        let Some(mine) = open.conversations.get_mut(&conversation).filter(asked) else { return };
        let user = open.user;
        open.syncing -= 1;
        match member {
            None => {
                let again = mine.ask_again;
                open.conversations.remove(&conversation);
                if again {
                    self.subscribe(cx, id, conversation, None, true);
                }
            }
            Some(watching) => {
                let announce = mine.announce;
                (mine.first, mine.join, mine.join_visible) = (watching.first, watching.join, watching.join_visible);
                (mine.read, mine.read_visible, mine.role) = (watching.read, watching.read_visible, watching.role);
                let local = self.locals.entry(conversation).or_default();
                local.learn(user, &watching);
                let place = u32::try_from(local.sessions.len()).unwrap_or(u32::MAX);
                local.sessions.push(id);
                if let Some(mine) =
                    self.get(id).and_then(Session::open).and_then(|open| open.conversations.get_mut(&conversation))
                {
                    mine.place = Some(place);
                }
                self.catch_up(cx, id, conversation, &watching);
                if announce {
                    self.push_entries(cx, id, &[conversation]);
                }
            }
        }
        self.release_held(cx, id);
    }

    /// Sends what the client lacks of a conversation.
    fn catch_up(&mut self, cx: &mut Context, id: SessionId, conversation: ConversationId, watching: &Watching) {
        let lane = lane_of(conversation);
        let known = match &watching.missing {
            Missing::Nothing => None,
            Missing::Events(events) => {
                for frame in events {
                    let Some((session, ready)) = self.get_disjoint(id) else { return };
                    push_live(cx, (ready, Urgency::Prompt), session, conversation, lane, frame);
                }
                Some(())
            }
            Missing::Reset => {
                let (seq, visible) = (watching.head.raw(), watching.visible);
                self.push(cx, id, lane, to_bytes(&Reset { conversation: conversation.raw(), seq, visible }));
                Some(())
            }
        };
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let mine = open.conversations.get(&conversation).copied().unwrap_or_default();
        // A client that was here before learns where its own cursor is by now: another device may have moved it.
        if known.is_some() || mine.delivered != Seq::ZERO {
            let receipt = Receipt {
                conversation: conversation.raw(),
                user: open.user.raw(),
                read: watching.read.raw(),
                read_visible: watching.read_visible,
                delivered: watching.read.raw(),
            };
            let peer = watching.peer.map(|(user, read, delivered)| Receipt {
                user: user.raw(),
                read: read.raw(),
                read_visible: 0,
                delivered: delivered.raw(),
                ..receipt
            });
            self.push(cx, id, lane, to_bytes(&receipt));
            if let Some(peer) = peer {
                self.push(cx, id, lane, to_bytes(&peer));
            }
        }
    }

    /// A member's cursors moved.
    pub(super) fn on_receipt(
        &mut self,
        cx: &mut Context,
        conversation: ConversationId,
        user: UserId,
        (read, read_visible, delivered): (Seq, u64, Seq),
        audience: Audience,
    ) {
        let Some(local) = self.locals.get_mut(&conversation) else { return };
        if conversation.peer_of(user).is_some() {
            local.set_cursors(user, read, delivered);
        }
        let frame = to_bytes(&Receipt {
            conversation: conversation.raw(),
            user: user.raw(),
            read: read.raw(),
            read_visible,
            delivered: delivered.raw(),
        });
        let lane = lane_of(conversation);
        let urgency = urgency_of(local.sessions.len());
        for id in &local.sessions {
            let Some(session) = self.slots.get_mut(super::slot_of(*id)).and_then(Option::as_deref_mut) else {
                continue;
            };
            let Phase::Open(open) = &mut session.phase else { continue };
            let own = open.user == user;
            if own && let Some(mine) = open.conversations.get_mut(&conversation) {
                (mine.read, mine.read_visible) = (read, read_visible);
            }
            if own || audience == Audience::Members {
                push_live(cx, (&mut self.ready, urgency), session, conversation, lane, &frame);
            }
        }
    }

    /// A member is writing: told to everybody else who reads fast enough.
    pub(super) fn on_typing(&mut self, cx: &mut Context, conversation: ConversationId, user: UserId, active: bool) {
        let Some(local) = self.locals.get(&conversation) else { return };
        let frame =
            to_bytes(&TypingNotice { conversation: conversation.raw(), user: user.raw(), active: u8::from(active) });
        let urgency = urgency_of(local.sessions.len());
        for id in &local.sessions {
            let Some(session) = self.slots.get_mut(super::slot_of(*id)).and_then(Option::as_deref_mut) else {
                continue;
            };
            if session.open().is_some_and(|open| open.user != user) {
                push_ephemeral(cx, (&mut self.ready, urgency), session, Subject::Typing(conversation, user), &frame);
            }
        }
    }

    /// A watched user's presence, from their owner.
    pub(super) fn on_presence(&mut self, cx: &mut Context, user: UserId, online: bool, last_seen: Timestamp) {
        let Some(watched) = self.presence.get_mut(&user) else { return };
        watched.state = Some((online, last_seen));
        let frame = presence_frame(user, online, last_seen);
        let urgency = urgency_of(watched.sessions.len());
        for id in &watched.sessions {
            let Some(session) = self.slots.get_mut(super::slot_of(*id)).and_then(Option::as_deref_mut) else {
                continue;
            };
            if let Some(dirty) = session.open().and_then(|open| open.presence.get_mut(&user)) {
                *dirty = true;
                push_ephemeral(cx, (&mut self.ready, urgency), session, Subject::Presence(user), &frame);
            }
        }
    }

    /// Replaces the users whose presence a session wants; only peers of its direct conversations count.
    pub(super) fn watch_presence(&mut self, cx: &mut Context, id: SessionId, users: Vec<UserId>) {
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let own = open.user;
        let wanted: BTreeSet<UserId> = users
            .into_iter()
            .filter(|user| open.conversations.contains_key(&ConversationId::direct(own, *user)))
            .collect();
        let before: Vec<UserId> = open.presence.keys().copied().collect();
        open.presence = wanted.iter().map(|user| (*user, true)).collect();
        let placement = cx.config.placement;
        for user in before.into_iter().filter(|user| !wanted.contains(user)) {
            let Some(watched) = self.presence.get_mut(&user) else { continue };
            watched.sessions.remove(&id);
            if watched.sessions.is_empty() {
                self.presence.remove(&user);
                cx.ask(placement.of_user(user), ToOwner::UnwatchPresence { user, shard: cx.shard() });
            }
        }
        for user in wanted {
            let watched = self.presence.entry(user).or_default();
            let first = watched.sessions.is_empty();
            watched.sessions.insert(id);
            if first {
                cx.ask(placement.of_user(user), ToOwner::WatchPresence { user, shard: cx.shard() });
            } else if let Some((online, last_seen)) = watched.state {
                self.push(cx, id, Lane::Control, presence_frame(user, online, last_seen));
            }
        }
    }

    /// Sends again, reliably, the presence that may have been lost since the last ping.
    pub(super) fn repeat_presence(&mut self, cx: &mut Context, id: SessionId) {
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let changed: Vec<UserId> = open.presence.iter().filter(|(_, dirty)| **dirty).map(|(user, _)| *user).collect();
        open.presence.values_mut().for_each(|dirty| *dirty = false);
        for user in changed {
            if let Some((online, last_seen)) = self.presence.get(&user).and_then(|watched| watched.state) {
                self.push(cx, id, Lane::Control, presence_frame(user, online, last_seen));
            }
        }
    }

    /// A conversation came into the user's directory or went out of it.
    pub(super) fn on_directory(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        user_seq: u64,
        conversation: ConversationId,
        joined: bool,
    ) {
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        open.user_seq = user_seq;
        let kind = if joined { user_event::CONVERSATION_ADDED } else { user_event::CONVERSATION_REMOVED };
        self.push(cx, id, Lane::Control, to_bytes(&UserEvent { user_seq, conversation: conversation.raw(), kind }));
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        if joined {
            match open.conversations.get_mut(&conversation) {
                Some(mine) => mine.ask_again = mine.place.is_none(),
                None => self.subscribe(cx, id, conversation, None, true),
            }
        } else if cx.config.has(Sabotage::KickUnsubscribe) {
            self.unsubscribe(cx, id, conversation);
            // It may have been the last one that the directory waited for.
            self.release_held(cx, id);
        }
    }

    /// Sends directory entries unasked.
    pub(super) fn push_entries(&mut self, cx: &mut Context, id: SessionId, conversations: &[ConversationId]) {
        for some in conversations.chunks(DIRECTORY_PAGE_MAX) {
            let entries = self.entries(id, some);
            if !entries.is_empty() {
                self.push(cx, id, Lane::Control, to_bytes(&DirectoryPage { request: 0, more: 0, entries }));
            }
        }
    }

    pub(super) fn entries(&mut self, id: SessionId, conversations: &[ConversationId]) -> Vec<DirectoryEntry> {
        let Some(user) = self.get(id).and_then(Session::open).map(|open| open.user) else { return Vec::new() };
        let entry = |conversation: &ConversationId| {
            if self.is_unreadable(id, *conversation) {
                return Some(away::entry(*conversation));
            }
            let (mine, local) = self.shared(id, *conversation)?;
            Some(local.entry(*conversation, user, mine))
        };
        conversations.iter().filter_map(entry).collect()
    }

    /// The lanes on which frames wait.
    pub(crate) fn waiting(&self, id: SessionId) -> Lanes {
        let session = self.slots.get(super::slot_of(id)).and_then(Option::as_deref).filter(|session| session.id == id);
        session.map_or_else(Lanes::default, |session| session.outbox.lanes())
    }

    /// Takes the next frame on a lane. A slow reader that has caught up is told what it was not sent.
    pub(crate) fn pop_frame(&mut self, cx: &mut Context, id: SessionId, lane: Lane) -> Option<Bytes> {
        let (resume_at, now) = (cx.limits().outbox_live_max / 2, cx.now);
        let session = self.get(id)?;
        let frame = session.outbox.pop(lane);
        if frame.is_some() {
            session.taken = now;
        }
        let low = session.outbox.size() <= resume_at;
        if low && session.open().is_some_and(|open| open.lag.is_some()) {
            self.end_lag(cx, id);
            return frame.or_else(|| self.get(id)?.outbox.pop(lane));
        }
        frame
    }

    /// Live delivery goes on for a session that has caught up.
    #[cold]
    fn end_lag(&mut self, cx: &mut Context, id: SessionId) {
        let Some(lag) = self.get(id).and_then(Session::open).and_then(|open| open.lag.take()) else { return };
        self.report_skipped(cx, id, lag.skipped.into_iter().collect());
    }

    fn report_skipped(&mut self, cx: &mut Context, id: SessionId, skipped: Vec<ConversationId>) {
        if !cx.config.has(Sabotage::GapReport) {
            return;
        }
        let user_seq = self.get(id).and_then(Session::open).map_or(0, |open| open.user_seq);
        for some in skipped.chunks(POSITIONS_MAX) {
            let heads: Vec<Head> = some.iter().filter_map(|conversation| self.head(id, *conversation)).collect();
            let pong = Pong { nonce: 0, time: cx.now.raw(), user_seq, heads: &heads };
            self.push(cx, id, Lane::Control, to_bytes(&pong));
        }
        // Receipts were skipped too: the entries carry the cursors.
        self.push_entries(cx, id, &skipped);
    }

    /// Where a conversation's end is, if this session is in it as far as the owner has said.
    pub(super) fn head(&self, id: SessionId, conversation: ConversationId) -> Option<Head> {
        let (_, local) = self.shared(id, conversation)?;
        Some(Head { conversation: conversation.raw(), seq: local.head.raw(), visible: local.visible })
    }

    /// When the last event of a conversation was, under the same condition.
    pub(super) fn head_time(&self, id: SessionId, conversation: ConversationId) -> Option<Timestamp> {
        Some(self.shared(id, conversation)?.1.head_time)
    }

    /// What this shard knows of a conversation, and a session's own part in it: the one way from a session to it. Nothing for a session
    /// that is not in it, whatever it was before, and nothing until the owner has said that it is.
    fn shared(&self, id: SessionId, conversation: ConversationId) -> Option<(&Membership, &Local)> {
        let session = self.slots.get(super::slot_of(id))?.as_deref().filter(|session| session.id == id)?;
        let Phase::Open(open) = &session.phase else { return None };
        let mine = open.conversations.get(&conversation).filter(|mine| mine.place.is_some())?;
        Some((mine, self.locals.get(&conversation)?))
    }

    fn get_disjoint(&mut self, id: SessionId) -> Option<(&mut Session, &mut ReadyList)> {
        let session = self.slots.get_mut(super::slot_of(id))?.as_deref_mut().filter(|session| session.id == id)?;
        Some((session, &mut self.ready))
    }
}

/// Queues something that the client can find again by itself: skipped, and remembered as skipped, for a slow reader.
fn push_live(
    cx: &mut Context,
    (ready, urgency): (&mut ReadyList, Urgency),
    session: &mut Session,
    conversation: ConversationId,
    lane: Lane,
    frame: &Bytes,
) {
    let full =
        session.outbox.size() + frame.len() > cx.limits().outbox_live_max && cx.config.has(Sabotage::OutboxLimit);
    let Phase::Open(open) = &mut session.phase else { return };
    if full && open.lag.is_none() {
        cx.counters.lagging += 1;
        open.lag = Some(Lag { skipped: BTreeSet::new() });
    }
    if let Some(lag) = &mut open.lag {
        cx.counters.skipped += 1;
        lag.skipped.insert(conversation);
        // The transport is asked again even if nothing waits: that is how the lag ends.
        mark_ready(cx, ready, session, urgency);
        return;
    }
    cx.counters.deliveries += 1;
    session.outbox.push(lane, frame.clone());
    mark_ready(cx, ready, session, urgency);
}

/// Queues something that may be lost: dropped for a slow reader.
fn push_ephemeral(
    cx: &mut Context,
    (ready, urgency): (&mut ReadyList, Urgency),
    session: &mut Session,
    subject: Subject,
    frame: &Bytes,
) {
    let slow =
        session.outbox.size() + frame.len() > cx.limits().outbox_ephemeral_max && cx.config.has(Sabotage::OutboxLimit);
    if slow || session.outbox.push_ephemeral(subject, frame.clone()) {
        cx.counters.ephemeral_dropped += 1;
    }
    mark_ready(cx, ready, session, urgency);
}

/// Something waits for the session: the transport is told, and it is watched that the client takes it.
fn mark_ready(cx: &mut Context, ready: &mut ReadyList, session: &mut Session, urgency: Urgency) {
    if session.stall.is_none() {
        session.taken = cx.now;
        watch_reader(cx, session);
    }
    ready.add(session, urgency);
}

/// An event about the session's own user: their message moves their cursor, a role is theirs now.
fn note_own(open: &mut Open, conversation: ConversationId, event: &EventHead) {
    let Some(mine) = open.conversations.get_mut(&conversation) else { return };
    if event.kind == event::ROLE {
        mine.role = event.role;
    } else {
        mine.read = event.seq;
        mine.read_visible = event.visible;
    }
}

fn presence_frame(user: UserId, online: bool, last_seen: Timestamp) -> Bytes {
    let last_seen = if online { 0 } else { last_seen.raw() };
    to_bytes(&PresenceNotice { user: user.raw(), last_seen, online: u8::from(online) })
}
