//! The session half of a shard: connections from their first byte to their last, what each may ask, and what each is sent.
//! Decides nothing about conversations: it asks their owners, and passes on what they say.

mod away;
mod deliver;
mod frames;
mod gather;
mod local;
mod outbox;
mod rate;
mod ready;
mod session;

use std::collections::BTreeMap;

use bytes::Bytes;
use tern_protocol::command::CommandHead;
use tern_protocol::frame::{self, FrameError};
use tern_protocol::limit::{CLIENT_NAME_SIZE_MAX, PAGE_SIZE_MAX, POSITIONS_MAX, TOKEN_SIZE_MAX};
use tern_protocol::server::{Drain, Welcome};
use tern_protocol::{CloseCode, ConversationId, DeviceId, RejectCode, RequestId, Seq, SessionId, UserId, client};

use crate::config::Sabotage;
use crate::context::{Context, Timer};
use crate::conversation::{reject, to_bytes};
use crate::io::{AppendFailure, Claims, Ending, Lane, Output, Record, Urgency};
use crate::message::{Place, ToOwner, ToSessions};
pub(crate) use crate::owner::ASIDE_RETRY_MS;
use crate::owner::ids_of_frame;
use crate::sorted_map::SortedMap;
use local::Locals;
use outbox::Outbox;
use rate::Bucket;
use ready::ReadyList;
use session::{Membership, Open, Phase, Session};

/// Every session of this shard.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// By the low half of the session id.
    slots: Vec<Option<Box<Session>>>,
    count: usize,
    locals: Locals,
    presence: BTreeMap<UserId, deliver::Watched>,
    /// Conversations that cannot be read at present, with the sessions that want to know when they can.
    away: BTreeMap<ConversationId, Vec<SessionId>>,
    /// Sessions with something new to send.
    ready: ReadyList,
    /// The server is going away; sessions are told to come back within this many milliseconds.
    draining: Option<u32>,
    next_gather: u64,
    next_watch: u64,
}

/// Frames that may wait for a session to be opened. Unit: frames.
const EARLY_MAX: usize = 256;
/// What a command that the log refused should wait. Unit: milliseconds.
const BUSY_RETRY_MS: u32 = 100;
/// What a command should wait while the log accepts nothing. Unit: milliseconds.
const UNAVAILABLE_RETRY_MS: u32 = 2_000;

impl Sessions {
    pub(crate) fn connected(&mut self, cx: &mut Context, id: SessionId) {
        let slot = slot_of(id);
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        debug_assert!(self.slots[slot].is_none(), "the slot is free when its next session begins");
        let deadline = cx.now.after(cx.limits().hello_timeout);
        cx.wake(deadline, Timer::Hello(id));
        let session = Session {
            id,
            phase: Phase::Hello { deadline },
            outbox: Outbox::default(),
            bucket: Bucket::full(cx.now, cx.limits()),
            inflight: 0,
            pages: 0,
            ready: None,
            stall: None,
            taken: cx.now,
        };
        self.slots[slot] = Some(Box::new(session));
        self.count += 1;
        cx.counters.sessions = self.count as u64;
        if self.count > cx.limits().sessions_max {
            self.close(cx, id, CloseCode::Full);
        } else if self.draining.is_some() {
            self.close(cx, id, CloseCode::Draining);
        }
    }

    pub(crate) fn disconnected(&mut self, cx: &mut Context, id: SessionId, ending: Ending) {
        self.leave(cx, id);
        let Some(session) = self.get(id) else { return };
        if let Some(user) = session.owner_knows() {
            end_session(cx, id, user, ending);
        }
        self.slots[slot_of(id)] = None;
        self.count -= 1;
        cx.counters.sessions = self.count as u64;
    }

    /// One whole frame from a client.
    pub(crate) fn on_frame(&mut self, cx: &mut Context, id: SessionId, bytes: Bytes) {
        let Some(session) = self.get(id) else { return };
        match &mut session.phase {
            Phase::Closing => {}
            Phase::Hello { .. } => self.on_hello(cx, id, bytes),
            Phase::Verifying { early, .. } | Phase::Opening { early, .. } => {
                if early.len() >= EARLY_MAX {
                    self.close(cx, id, CloseCode::Flooding);
                } else {
                    early.push(bytes);
                }
            }
            Phase::Open(_) => self.on_open_frame(cx, id, bytes),
        }
    }

    fn on_hello(&mut self, cx: &mut Context, id: SessionId, bytes: Bytes) {
        let hello = match frame::decode::<client::Hello<'_>>(&bytes) {
            Ok(hello) => hello,
            Err(FrameError::Kind(_)) => return self.close(cx, id, CloseCode::HelloExpected),
            Err(error) => return self.malformed(cx, id, error),
        };
        let fits = hello.token.len() <= TOKEN_SIZE_MAX
            && hello.client.len() <= CLIENT_NAME_SIZE_MAX
            && hello.positions.len() <= POSITIONS_MAX;
        if !fits {
            return self.close(cx, id, CloseCode::Malformed);
        }
        let token = bytes.slice_ref(&hello.token);
        let Some(session) = self.get(id) else { return };
        if let Phase::Hello { deadline } = session.phase {
            session.phase = Phase::Verifying { deadline, hello: bytes, early: Vec::new() };
            cx.output(Output::VerifyToken { session: id, token });
        }
    }

    /// The token was checked.
    pub(crate) fn on_token(&mut self, cx: &mut Context, id: SessionId, verdict: Result<Claims, CloseCode>) {
        let Some(session) = self.get(id) else { return };
        let claims = match verdict {
            Ok(claims) => claims,
            Err(code) => return self.close(cx, id, code),
        };
        if let Phase::Verifying { deadline, hello, early } = &mut session.phase {
            let (deadline, hello, early) = (*deadline, hello.clone(), std::mem::take(early));
            session.phase = Phase::Opening { deadline, hello, early, claims };
            let place = Place { shard: cx.shard(), session: id };
            let open = ToOwner::OpenSession { user: claims.user, device: claims.device, place, waited: false };
            cx.ask(cx.config.placement.of_user(claims.user), open);
        }
    }

    /// The owner lets the session in: greet it, and ask for what it lacks of each conversation.
    fn on_opened(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        user: UserId,
        user_seq: u64,
        conversations: Vec<ConversationId>,
    ) {
        let opening = |session: &&mut Session| matches!(session.phase, Phase::Opening { .. });
        let Some(session) = self.get(id).filter(opening) else {
            // It ended while its opening waited for the user to be loaded: the owner heard of that before there was anything to end.
            return end_session(cx, id, user, Ending::Lost);
        };
        let Phase::Opening { deadline, hello, early, claims } = &mut session.phase else { return };
        cx.cancel(*deadline, Timer::Hello(id));
        let (hello, early, claims) = (hello.clone(), std::mem::take(early), *claims);
        session.phase = Phase::Open(Box::new(Open {
            user: claims.user,
            device: claims.device,
            user_seq,
            conversations: SortedMap::with_capacity(conversations.len()),
            syncing: 0,
            held: Vec::new(),
            lag: None,
            presence: BTreeMap::new(),
            gathers: BTreeMap::new(),
        }));
        let welcome = to_bytes(&Welcome {
            user: claims.user.raw(),
            device: claims.device.raw(),
            session: id.raw(),
            time: cx.now.raw(),
            user_seq,
            home: cx.config.placement.home(claims.user).raw(),
            shards: cx.config.placement.shards(),
            ping_interval: u32::try_from(cx.limits().ping_interval.as_millis()).unwrap_or(u32::MAX),
        });
        self.push(cx, id, Lane::Control, welcome);
        let known: BTreeMap<ConversationId, Seq> = match frame::decode::<client::Hello<'_>>(&hello) {
            Ok(hello) => hello.positions.iter().map(position).collect(),
            Err(_) => BTreeMap::new(),
        };
        for conversation in conversations {
            self.subscribe(cx, id, conversation, known.get(&conversation).copied(), false);
        }
        for frame in early {
            self.on_frame(cx, id, frame);
        }
    }

    /// Begins to watch a conversation for a session.
    fn subscribe(
        &mut self,
        cx: &mut Context,
        id: SessionId,
        conversation: ConversationId,
        known: Option<Seq>,
        announce: bool,
    ) {
        let directory_max = cx.limits().directory_max;
        self.next_watch += 1;
        let ticket = self.next_watch;
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        if open.conversations.contains_key(&conversation) || open.conversations.len() >= directory_max {
            return;
        }
        open.conversations.insert(
            conversation,
            Membership { announce, ticket, delivered: known.unwrap_or(Seq::ZERO), ..Membership::default() },
        );
        open.syncing += 1;
        let user = open.user;
        self.locals.entry(conversation).or_default().asked += 1;
        let place = Place { shard: cx.shard(), session: id };
        let watch = ToOwner::Watch { place, user, conversation, known, ticket };
        cx.ask(cx.config.placement.of_conversation(conversation), watch);
    }

    /// Ends a session's subscription to a conversation.
    fn unsubscribe(&mut self, cx: &mut Context, id: SessionId, conversation: ConversationId) {
        let Some(open) = self.get(id).and_then(Session::open) else { return };
        let Some(member) = open.conversations.remove(&conversation) else { return };
        match member.place {
            Some(place) => self.drop_place(cx, conversation, place),
            // The owner has answered that it cannot read it.
            None if member.unreadable => {}
            // The owner's answer will find nobody.
            None => open.syncing -= 1,
        }
    }

    /// Takes a session out of a conversation's list, and moves the last one into its place.
    fn drop_place(&mut self, cx: &mut Context, conversation: ConversationId, place: u32) {
        let Some(local) = self.locals.get_mut(&conversation) else { return };
        local.sessions.swap_remove(place as usize);
        if let Some(moved) = local.sessions.get(place as usize).copied()
            && let Some(open) = self.get(moved).and_then(Session::open)
            && let Some(member) = open.conversations.get_mut(&conversation)
        {
            member.place = Some(place);
        }
        self.drop_idle(cx, conversation);
    }

    /// Tells the owner when nobody here watches any more.
    fn drop_idle(&mut self, cx: &mut Context, conversation: ConversationId) {
        if self.locals.get(&conversation).is_some_and(local::Local::is_idle) {
            self.locals.remove(&conversation);
            let unwatch = ToOwner::Unwatch { shard: cx.shard(), conversation };
            cx.ask(cx.config.placement.of_conversation(conversation), unwatch);
        }
    }

    /// Ends everything that a session takes part in.
    fn leave(&mut self, cx: &mut Context, id: SessionId) {
        let Some(session) = self.get(id) else { return };
        if let Some(at) = session.stall.take() {
            cx.cancel(at, Timer::SlowReader(id));
        }
        match &session.phase {
            Phase::Hello { deadline } | Phase::Verifying { deadline, .. } | Phase::Opening { deadline, .. } => {
                cx.cancel(*deadline, Timer::Hello(id));
            }
            Phase::Open(_) | Phase::Closing => {}
        }
        let Some(open) = session.open() else { return };
        let conversations: Vec<ConversationId> = open.conversations.keys().copied().collect();
        for conversation in conversations {
            self.unsubscribe(cx, id, conversation);
        }
        self.watch_presence(cx, id, Vec::new());
    }

    /// Closes a session: what waits for it is sent, then the code.
    pub(crate) fn close(&mut self, cx: &mut Context, id: SessionId, code: CloseCode) {
        let Some(session) = self.get(id) else { return };
        if matches!(session.phase, Phase::Closing) {
            return;
        }
        self.leave(cx, id);
        let Some(session) = self.get(id) else { return };
        // From here on nothing that comes on it is done: for its owner that is the end.
        if let Some(user) = session.owner_knows() {
            end_session(cx, id, user, Ending::Lost);
        }
        session.phase = Phase::Closing;
        cx.counters.closed += 1;
        cx.output(Output::Close { session: id, code });
    }

    fn malformed(&mut self, cx: &mut Context, id: SessionId, error: FrameError) {
        cx.counters.malformed += 1;
        let code = match error {
            FrameError::Length(size) if size > tern_protocol::limit::FRAME_SIZE_MAX as u64 => CloseCode::FrameTooLarge,
            FrameError::Length(_) | FrameError::Archive => CloseCode::Malformed,
            FrameError::Version(_) => CloseCode::UnsupportedVersion,
            FrameError::Kind(_) => CloseCode::UnexpectedFrame,
        };
        self.close(cx, id, code);
    }

    /// From an owner.
    pub(crate) fn on_message(&mut self, cx: &mut Context, message: ToSessions) {
        match message {
            ToSessions::Opened { session, user, user_seq, conversations } => {
                self.on_opened(cx, session, user, user_seq, conversations);
            }
            ToSessions::Close { session, code } => self.close(cx, session, code),
            ToSessions::Watching { session, conversation, ticket, member } => {
                self.on_watching(cx, session, conversation, ticket, member);
            }
            ToSessions::Unreadable { session, conversation, ticket } => {
                self.on_unreadable(cx, session, conversation, ticket);
            }
            ToSessions::Aside { conversation, away } => self.on_aside(cx, conversation, away),
            ToSessions::Deliver { conversation, event, frame } => self.on_deliver(cx, conversation, event, &frame),
            ToSessions::Answer { session, frame, command, joined } => {
                if let Some(conversation) = joined {
                    self.subscribe(cx, session, conversation, None, true);
                }
                self.answer(cx, session, frame, command);
            }
            ToSessions::Found { session, gather, profile } => {
                self.on_found(cx, session, gather, profile);
            }
            ToSessions::FoundMember { session, gather, member } => self.on_found_member(cx, session, gather, member),
            ToSessions::FoundName { session, gather, user } => self.on_found_name(cx, session, gather, user),
            ToSessions::Receipt { conversation, user, read, read_visible, delivered, audience } => {
                self.on_receipt(cx, conversation, user, (read, read_visible, delivered), audience);
            }
            ToSessions::Typing { conversation, user, active } => self.on_typing(cx, conversation, user, active),
            ToSessions::Presence { user, online, last_seen } => self.on_presence(cx, user, online, last_seen),
            ToSessions::Directory { session, user_seq, conversation, joined } => {
                self.on_directory(cx, session, user_seq, conversation, joined);
            }
        }
    }

    /// An answer to one session; a command that it ends makes room for another.
    fn answer(&mut self, cx: &mut Context, id: SessionId, frame: Bytes, command: bool) {
        if let Some(session) = self.get(id) {
            let waited = if command { &mut session.inflight } else { &mut session.pages };
            *waited = waited.saturating_sub(1);
        }
        self.push(cx, id, Lane::Control, frame);
        self.close_if_drained(cx, id);
    }

    /// The log did not take a command of a session.
    pub(crate) fn on_append_failed(&mut self, cx: &mut Context, record: &Record, failure: AppendFailure) {
        let head: &CommandHead = &record.head;
        if head.run != cx.config.run || !cx.config.has(Sabotage::AppendFailureReply) {
            return;
        }
        let ids = frame::open(&record.frame)
            .ok()
            .and_then(|(kind, archive)| ids_of_frame(UserId::from_raw(head.actor), kind, archive));
        let Some((_, request)) = ids else { return };
        let (code, retry_after) = match failure {
            AppendFailure::Busy => (RejectCode::Busy, BUSY_RETRY_MS),
            AppendFailure::Unavailable => (RejectCode::Unavailable, UNAVAILABLE_RETRY_MS),
            AppendFailure::Unknown => (RejectCode::OutcomeUnknown, BUSY_RETRY_MS),
        };
        cx.counters.rejects += 1;
        self.answer(cx, SessionId::from_raw(head.session), reject(request, code, retry_after), true);
    }

    /// The server is going away: everybody is told when to come back, each in their own slot.
    pub(crate) fn drain(&mut self, cx: &mut Context, spread_ms: u32) {
        self.draining = Some(spread_ms);
        let ids: Vec<SessionId> = self.slots.iter().flatten().map(|session| session.id).collect();
        let count = ids.len().max(1) as u64;
        for (index, id) in ids.into_iter().enumerate() {
            let slot = u64::from(spread_ms) * index as u64 / count;
            let reconnect_after = u32::try_from(slot).unwrap_or(spread_ms);
            self.push(cx, id, Lane::Control, to_bytes(&Drain { reconnect_after }));
            self.close_if_drained(cx, id);
        }
    }

    fn close_if_drained(&mut self, cx: &mut Context, id: SessionId) {
        if self.draining.is_some() && self.get(id).is_some_and(|session| session.inflight == 0) {
            self.close(cx, id, CloseCode::Draining);
        }
    }

    pub(crate) fn on_hello_timeout(&mut self, cx: &mut Context, id: SessionId) {
        let code = match self.get(id).map(|session| &session.phase) {
            Some(Phase::Hello { .. }) => CloseCode::HelloExpected,
            // It said hello; the answer is late, and that is not its fault.
            Some(Phase::Verifying { .. } | Phase::Opening { .. }) => CloseCode::Internal,
            Some(Phase::Open(_) | Phase::Closing) | None => return,
        };
        self.close(cx, id, code);
    }

    /// Looks whether a client takes what waits for it.
    pub(crate) fn on_slow_reader(&mut self, cx: &mut Context, id: SessionId) {
        let Some(session) = self.get(id) else { return };
        session.stall = None;
        if session.outbox.size() == 0 {
            return;
        }
        let patience = cx.limits().slow_reader_timeout;
        if cx.now < session.taken.after(patience) || !cx.config.has(Sabotage::OutboxLimit) {
            watch_reader(cx, session);
        } else {
            self.close(cx, id, CloseCode::SlowReader);
        }
    }

    pub(crate) fn take_ready(&mut self, into: &mut Vec<(SessionId, Urgency)>) {
        let Self { ready, slots, .. } = self;
        let take = |id| {
            let session = slots.get_mut(slot_of(id)).and_then(Option::as_deref_mut).filter(|session| session.id == id);
            session.is_some_and(|session| session.ready.take().is_some())
        };
        ready.drain(take, into);
    }

    pub(crate) fn wants_input(&self, limits: &crate::config::Limits, id: SessionId) -> bool {
        let session = self.slots.get(slot_of(id)).and_then(Option::as_ref).filter(|session| session.id == id);
        session.is_some_and(|session| match &session.phase {
            Phase::Hello { .. } => true,
            Phase::Verifying { early, .. } | Phase::Opening { early, .. } => early.len() < EARLY_MAX / 16,
            Phase::Open(_) => {
                // Whoever asks for many pages at once must not be closed for not reading them: there is room for each that is asked for.
                let pages = usize::try_from(session.pages).unwrap_or(usize::MAX).saturating_add(1);
                let size = session.outbox.size().saturating_add(pages.saturating_mul(PAGE_SIZE_MAX));
                session.outbox.size() < limits.outbox_live_max
                    && session.inflight < limits.inflight_max
                    && (session.pages == 0 || size <= limits.outbox_close_max)
            }
            Phase::Closing => false,
        })
    }

    /// Bytes that wait for a session.
    pub(crate) fn waiting_size(&self, id: SessionId) -> usize {
        let session = self.slots.get(slot_of(id)).and_then(Option::as_ref).filter(|session| session.id == id);
        session.map_or(0, |session| session.outbox.size())
    }

    fn get(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(slot_of(id))?.as_deref_mut().filter(|session| session.id == id)
    }

    /// Rejects a request of a session.
    fn reject(&mut self, cx: &mut Context, id: SessionId, request: RequestId, code: RejectCode, retry_after: u32) {
        cx.counters.rejects += 1;
        self.push(cx, id, Lane::Control, reject(request, code, retry_after));
    }
}

fn slot_of(id: SessionId) -> usize {
    usize::try_from(id.raw() & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

fn position(at: &client::ArchivedAt) -> (ConversationId, Seq) {
    (ConversationId::from_raw(at.conversation.to_native()), Seq::from_raw(at.seq.to_native()))
}

/// Names the device of a session in the commands it appends.
fn head_of(cx: &Context, session: SessionId, user: UserId, device: DeviceId) -> CommandHead {
    CommandHead {
        actor: user.raw(),
        device: device.raw(),
        session: session.raw(),
        run: cx.config.run,
        shard: cx.shard().raw(),
        ..CommandHead::default()
    }
}

/// Tells the user's owner that nothing more will be done for a session.
fn end_session(cx: &mut Context, session: SessionId, user: UserId, ending: Ending) {
    let place = Place { shard: cx.shard(), session };
    cx.ask(cx.config.placement.of_user(user), ToOwner::EndSession { user, place, ending });
}

/// Looks again when the client will have had its time to take something.
fn watch_reader(cx: &mut Context, session: &mut Session) {
    let patience = cx.limits().slow_reader_timeout;
    let due = session.taken.after(patience);
    let at = if due > cx.now { due } else { cx.now.after(patience) };
    cx.wake(at, Timer::SlowReader(session.id));
    session.stall = Some(at);
}
