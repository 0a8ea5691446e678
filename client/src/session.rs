//! One user's live state across all connections: what was seen, what is missing, what is being said. Sans-IO: frames, commands and
//! time go in; frames, updates and answers come out. Never knows a socket, a token or a clock.

mod answers;
mod conversations;
mod cursors;
mod directory;
mod liveness;
mod requests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_protocol::client::{At, Hello, Ping, Typing, WatchPresence};
use tern_protocol::limit::{POSITIONS_MAX, PRESENCE_WATCH_MAX};
use tern_protocol::server::{self, HistoryPage};
use tern_protocol::{ConversationId, Frame as _, FrameError, RequestId, Seq, UserId, frame};

use crate::outbox::{Outbox, PostContent, Progress, Transmit};
use crate::pending::PendingSend;
use crate::update::{Answer, RequestError, Update};
use crate::view::{ConversationView, EventView, Positions};
use conversations::Conversation;
use directory::Directory;
use liveness::{Liveness, Verdict};
pub(crate) use requests::Query;
use requests::{Purpose, Requests};

/// A typing notice goes out at most this often. The receiver forgets one after 6 s.
const TYPING_INTERVAL: Duration = Duration::from_secs(3);
/// Conversations in which typing is remembered for throttling. Unit: conversations.
const TYPING_MAX: usize = 64;

/// What does not change while a session lives.
#[derive(Debug, Clone)]
pub(crate) struct SessionConfig {
    /// How long a post is tried.
    pub(crate) send_lifetime: Duration,
    /// Silent ping intervals after which a connection counts as dead.
    pub(crate) missed_pongs_max: u32,
    /// Pings are at least this frequent, whatever the server asks for.
    pub(crate) ping_interval_max: Duration,
    /// Random: names the session's own requests.
    pub(crate) seed: u128,
}

/// What a welcome says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Welcomed {
    pub(crate) user: UserId,
    pub(crate) user_seq: u64,
    pub(crate) ping_interval: Duration,
}

/// What the application wants.
#[derive(Debug)]
pub(crate) enum Command {
    Post {
        request: RequestId,
        conversation: ConversationId,
        content: PostContent,
    },
    /// As `Post`, of what an earlier process may have sent.
    Resume(PendingSend),
    Retry {
        request: RequestId,
    },
    Query {
        request: RequestId,
        query: Query,
    },
    MarkRead {
        conversation: ConversationId,
        seq: Seq,
        visible: u64,
    },
    Typing {
        conversation: ConversationId,
        active: bool,
    },
    WatchPresence {
        users: Vec<UserId>,
    },
}

/// What must be done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send this.
    Frame { bytes: Vec<u8>, datagram: bool },
    /// Tell the application.
    Update(Update),
    /// Answer the application's request.
    Answer(RequestId, Result<Answer, RequestError>),
    /// The connection is dead: make another one.
    Dead,
    /// The server goes away: make another one after this long.
    Drain(Duration),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    config: SessionConfig,
    me: Option<UserId>,
    online: Option<Liveness>,
    conversations: BTreeMap<ConversationId, Conversation>,
    /// Conversations whose view changed since the last output was drained.
    changed: BTreeSet<ConversationId>,
    /// Conversations in which something is due at some time.
    attention: BTreeSet<ConversationId>,
    directory: Directory,
    outbox: Outbox,
    requests: Requests,
    watched: Vec<UserId>,
    typing: BTreeMap<ConversationId, Instant>,
    /// Where the next ping's positions begin, so that all get their turn.
    ping_from: Option<ConversationId>,
    ids: u128,
    outputs: VecDeque<Output>,
}

impl Session {
    pub(crate) fn new(config: SessionConfig, resume: Option<&Positions>) -> Self {
        let outbox = Outbox::new(config.send_lifetime);
        let ids = config.seed;
        let conversations = resume.iter().flat_map(|resume| &resume.conversations);
        let conversations = conversations.map(|(id, seq)| (*id, Conversation::at(seq.raw()))).collect();
        Self {
            config,
            me: None,
            online: None,
            conversations,
            changed: BTreeSet::new(),
            attention: BTreeSet::new(),
            directory: Directory::new(resume.map(|resume| resume.user_seq)),
            outbox,
            requests: Requests::default(),
            watched: Vec::new(),
            typing: BTreeMap::new(),
            ping_from: None,
            ids,
            outputs: VecDeque::new(),
        }
    }

    /// The first frame of a connection.
    pub(crate) fn hello(&self, token: &str, client: &str) -> Vec<u8> {
        let mut placed: Vec<_> =
            self.conversations.iter().filter_map(|(id, c)| Some((c.activity(), id, c.position()?))).collect();
        // The most recently active ones, where there are more than a hello may carry; pongs tell about the rest.
        placed.sort_by_key(|(activity, ..)| std::cmp::Reverse(*activity));
        let positions: Vec<At> =
            placed.into_iter().take(POSITIONS_MAX).map(|(_, id, seq)| At { conversation: id.raw(), seq }).collect();
        let hello = Hello {
            user_seq: self.directory.user_seq(),
            token: token.as_bytes(),
            client: client.as_bytes(),
            positions: &positions,
        };
        frame::to_vec(&hello)
    }

    /// A connection is up; what was not answered goes again.
    pub(crate) fn on_connected(&mut self, now: Instant, welcome: Welcomed) {
        self.me = Some(welcome.user);
        let interval = welcome.ping_interval.min(self.config.ping_interval_max);
        self.online = Some(Liveness::new(now, interval, self.config.missed_pongs_max));
        self.outbox.on_connected();
        self.requests.on_connected();
        self.typing.clear();
        for conversation in self.conversations.values_mut() {
            conversation.on_connected();
        }
        if !self.watched.is_empty() {
            self.send_watch();
        }
        if self.directory.on_welcome(welcome.user_seq) {
            self.load_directory(now);
        }
        self.pump(now);
    }

    /// The connection is gone.
    pub(crate) fn on_disconnected(&mut self) {
        self.online = None;
    }

    /// A whole frame came. An error is the server's fault and final.
    pub(crate) fn on_frame(&mut self, now: Instant, bytes: &Bytes) -> Result<(), FrameError> {
        if let Some(online) = &mut self.online {
            online.on_heard(now);
        }
        let (kind, _) = frame::open(bytes)?;
        match kind {
            server::Event::KIND => self.on_event(now, EventView::decode(bytes)?),
            server::Receipt::KIND => self.on_receipt(frame::decode::<server::Receipt>(bytes)?),
            server::Ack::KIND => self.on_ack(now, frame::decode::<server::Ack>(bytes)?),
            server::Reject::KIND => self.on_reject(now, frame::decode::<server::Reject>(bytes)?),
            HistoryPage::KIND => self.on_history(now, bytes)?,
            server::DirectoryPage::KIND => self.on_directory(now, bytes)?,
            server::UserEvent::KIND => self.on_user_event(now, frame::decode::<server::UserEvent>(bytes)?),
            server::Reset::KIND => self.on_reset(now, frame::decode::<server::Reset>(bytes)?),
            server::Pong::KIND => self.on_pong(now, frame::decode::<server::Pong<'_>>(bytes)?),
            server::MembersPage::KIND => self.on_members(frame::decode::<server::MembersPage<'_>>(bytes)?),
            server::Profiles::KIND => self.on_profiles(frame::decode::<server::Profiles>(bytes)?),
            server::TypingNotice::KIND => self.on_typing(frame::decode::<server::TypingNotice>(bytes)?),
            server::PresenceNotice::KIND => self.on_presence(frame::decode::<server::PresenceNotice>(bytes)?),
            server::Drain::KIND => {
                let after = frame::decode::<server::Drain>(bytes)?.reconnect_after.to_native();
                self.outputs.push_back(Output::Drain(Duration::from_millis(u64::from(after))));
            }
            // A newer server may say more than this build understands.
            _ => {}
        }
        self.pump(now);
        Ok(())
    }

    /// The application wants something.
    pub(crate) fn on_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Post { request, conversation, content } => {
                let progress = self.outbox.push(now, self.pending(request, conversation, content));
                self.tell_progress(progress);
            }
            Command::Resume(pending) => {
                let progress = self.outbox.resume(now, pending);
                self.tell_progress(progress);
            }
            Command::Retry { request } => {
                if let Some(progress) = self.outbox.retry(now, request) {
                    self.tell_progress(progress);
                }
            }
            Command::Query { request, query } => {
                if let Err(error) = self.requests.push(now, request, Purpose::Application, query) {
                    self.outputs.push_back(Output::Answer(request, Err(error)));
                }
            }
            Command::MarkRead { conversation, seq, visible } => self.mark_read(now, conversation, seq, visible),
            Command::Typing { conversation, active } => self.say_typing(now, conversation, active),
            Command::WatchPresence { mut users } => {
                users.truncate(PRESENCE_WATCH_MAX);
                self.watched = users;
                self.send_watch();
            }
        }
        self.pump(now);
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        while let Some(progress) = self.outbox.expire(now) {
            self.tell_progress(progress);
        }
        while let Some((request, purpose, query)) = self.requests.expire(now) {
            self.on_failed(now, request, purpose, &query, RequestError::TimedOut, Duration::from_secs(1));
        }
        self.pump(now);
    }

    /// Everything that waits ends: the client stops for good.
    pub(crate) fn stop(&mut self) {
        self.online = None;
        while let Some(progress) = self.outbox.stop() {
            self.tell_progress(progress);
        }
        while let Some((request, purpose)) = self.requests.stop() {
            if purpose == Purpose::Application {
                self.outputs.push_back(Output::Answer(request, Err(RequestError::Stopped)));
            }
        }
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        self.tell_changed();
        self.outputs.pop_front()
    }

    /// When to call [`Self::on_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let connected = self.online.is_some();
        let always = [self.outbox.deadline(connected), self.requests.deadline(connected)];
        let online = self.online.as_ref().map(Liveness::deadline);
        let repairs = self.online.as_ref().and_then(|_| self.conversations_deadline());
        always.into_iter().chain([online, repairs]).flatten().min()
    }

    /// Whether the server still owes an answer.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.online.is_some() && (self.outbox.awaits_answer() || self.requests.awaits_answer())
    }

    /// What a later session needs to go on from here.
    pub(crate) fn positions(&self) -> Positions {
        let placed = self.conversations.iter().filter_map(|(id, c)| Some((*id, Seq::from_raw(c.position()?))));
        Positions { user_seq: self.directory.user_seq(), conversations: placed.collect() }
    }

    /// A post that was never sent: what it may become stands behind what is known of its conversation at this moment.
    pub(crate) fn pending(
        &self,
        request: RequestId,
        conversation: ConversationId,
        content: PostContent,
    ) -> PendingSend {
        let known = self.conversations.get(&conversation).map_or(0, Conversation::head);
        PendingSend { request, conversation, known: Seq::from_raw(known), content }
    }

    /// The conversations, newest activity first; `None` until they are known.
    pub(crate) fn directory(&self) -> Option<Vec<ConversationView>> {
        if !self.directory.is_loaded() {
            return None;
        }
        let mut views: Vec<_> = self.conversations.values().filter_map(Conversation::view).cloned().collect();
        views.sort_by_key(|view| std::cmp::Reverse((view.head_time, view.conversation)));
        Some(views)
    }

    /// Sends whatever may be sent by now.
    fn pump(&mut self, now: Instant) {
        if self.online.is_none() {
            return;
        }
        self.pump_conversations(now);
        while let Some(transmit) = self.outbox.poll(now) {
            match transmit {
                Transmit::Frame(bytes) => self.send(bytes),
                Transmit::Search(post, conversation, anchor) => {
                    self.ask_history(now, Purpose::Search(post), conversation, anchor);
                }
            }
        }
        while let Some(bytes) = self.requests.poll(now) {
            self.send(bytes);
        }
        let awaiting = self.outbox.awaits_answer() || self.requests.awaits_answer();
        let Some(online) = &mut self.online else { return };
        online.set_awaiting(now, awaiting);
        match online.poll(now) {
            Verdict::Alive => {}
            Verdict::Ping(nonce) => self.send_ping(nonce),
            Verdict::Dead => {
                self.online = None;
                self.outputs.push_back(Output::Dead);
            }
        }
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Frame { bytes, datagram: false });
    }

    fn send_ping(&mut self, nonce: u64) {
        let after = self.ping_from.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rest = self.conversations.range((after, std::ops::Bound::Unbounded));
        let placed = rest.filter_map(|(id, c)| Some((*id, c.position()?))).take(POSITIONS_MAX);
        let positions: Vec<At> = placed.map(|(id, seq)| At { conversation: id.raw(), seq }).collect();
        let last = positions.last().map(|at| ConversationId::from_raw(at.conversation));
        self.ping_from = last.filter(|_| positions.len() == POSITIONS_MAX);
        self.send(frame::to_vec(&Ping { nonce, positions: &positions }));
    }

    fn send_watch(&mut self) {
        if self.online.is_some() {
            let users: Vec<u64> = self.watched.iter().map(|user| user.raw()).collect();
            self.send(frame::to_vec(&WatchPresence { users: &users }));
        }
    }

    fn say_typing(&mut self, now: Instant, conversation: ConversationId, active: bool) {
        let last = self.typing.get(&conversation);
        let wanted = if active { last.is_none_or(|at| *at + TYPING_INTERVAL <= now) } else { last.is_some() };
        if self.online.is_none() || !wanted {
            return;
        }
        if active {
            if self.typing.len() >= TYPING_MAX {
                self.typing.retain(|_, at| *at + TYPING_INTERVAL > now);
            }
            if self.typing.len() < TYPING_MAX {
                self.typing.insert(conversation, now);
            }
        } else {
            self.typing.remove(&conversation);
        }
        let bytes = frame::to_vec(&Typing { conversation: conversation.raw(), active: u8::from(active) });
        self.outputs.push_back(Output::Frame { bytes, datagram: true });
    }

    fn tell(&mut self, update: Update) {
        self.outputs.push_back(Output::Update(update));
    }

    /// Tells each conversation that changed, once however often it did.
    fn tell_changed(&mut self) {
        while let Some(changed) = self.changed.pop_first() {
            if let Some(view) = self.conversations.get(&changed).and_then(Conversation::view) {
                self.outputs.push_back(Output::Update(Update::Conversation(Box::new(view.clone()))));
            }
        }
    }

    fn tell_progress(&mut self, progress: Progress) {
        self.tell(Update::Send(progress));
    }

    fn next_id(&mut self) -> RequestId {
        self.ids = self.ids.wrapping_add(1).max(1);
        RequestId::from_raw(self.ids)
    }

    fn is_direct(&self, conversation: ConversationId) -> bool {
        self.me.is_some_and(|me| conversation.peer_of(me).is_some_and(|peer| peer != me))
    }

    fn on_pong(&mut self, now: Instant, pong: &server::ArchivedPong<'_>) {
        for head in pong.heads.iter() {
            let conversation = ConversationId::from_raw(head.conversation.to_native());
            self.saw_head(now, conversation, head.seq.to_native(), Some(head.visible.to_native()));
        }
        if self.directory.is_behind(pong.user_seq.to_native()) {
            self.load_directory(now);
        }
    }
}

#[cfg(test)]
mod tests;
