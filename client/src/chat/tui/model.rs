//! Everything on the screen, and how news change it. Pure: time comes in, effects go out. Never draws and never talks to anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tern_client::{
    ConnectionState, ConversationId, ConversationKind, ConversationView, HistoryView, PostContent, ProfileView,
    RequestId, SendState, Seq, Timestamp, Update, UserId,
};

use super::commands::{Outcome, Remote};
use super::editor::Editor;
use super::lines;
use super::room::{Past, Room};
use crate::text::{clean, clean_line};

/// A notice is shown this long.
const NOTICE_LIFETIME: Duration = Duration::from_secs(8);
/// Events under which an opened conversation loads its past at once. Unit: events.
const SCREENFUL: usize = 50;
/// Users whose presence is watched. Unit: users. The SDK's limit.
const WATCHED_MAX: usize = 512;

/// What keys go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Focus {
    Input,
    List,
    Messages,
}

/// What Enter does with the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Write,
    Edit(Seq),
    Reply(Seq),
}

/// What the loop around the model must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Post { conversation: ConversationId, content: PostContent },
    Retry(RequestId),
    MarkRead { conversation: ConversationId, seq: Seq, visible: u64 },
    Typing { conversation: ConversationId, active: bool },
    Watch(Vec<UserId>),
    Profiles(Vec<UserId>),
    History { conversation: ConversationId, before: Option<Seq> },
    Remote { here: Option<ConversationId>, command: Remote },
    ReconnectNow,
    Quit,
}

/// One line for the person, for a while.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) bad: bool,
    pub(super) until: Instant,
}

/// A box over everything, until a key is pressed.
#[derive(Debug, Clone)]
pub(super) enum Overlay {
    Help,
    Members { title: String, members: Vec<(tern_client::Role, UserId)> },
}

/// Whether somebody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Presence {
    pub(super) online: bool,
    pub(super) last_seen: Option<Timestamp>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) me: UserId,
    pub(super) user: String,
    pub(super) server: String,
    pub(super) state: ConnectionState,
    pub(super) rooms: BTreeMap<ConversationId, Room>,
    pub(super) selected: Option<ConversationId>,
    pub(super) focus: Focus,
    pub(super) mode: Mode,
    pub(super) editor: Editor,
    pub(super) presence: BTreeMap<UserId, Presence>,
    pub(super) notice: Option<Notice>,
    pub(super) overlay: Option<Overlay>,
    pub(super) loaded: bool,
    /// Width and height of the message pane when it was last drawn.
    pub(super) pane: (usize, usize),
    names: BTreeMap<UserId, String>,
    asked: BTreeSet<UserId>,
    watched: Vec<UserId>,
    /// To be opened as soon as it is in the list.
    open_when_known: Option<ConversationId>,
    /// Whether the person looks at this terminal.
    looking: bool,
    pub(super) now: Instant,
    effects: Vec<Effect>,
}

impl Model {
    pub(super) fn new(me: UserId, user: &str, server: &str, now: Instant) -> Self {
        Self {
            me,
            user: user.to_owned(),
            server: server.to_owned(),
            state: ConnectionState::Connecting,
            rooms: BTreeMap::new(),
            selected: None,
            focus: Focus::Input,
            mode: Mode::Write,
            editor: Editor::default(),
            presence: BTreeMap::new(),
            notice: None,
            overlay: None,
            loaded: false,
            pane: (54, 18),
            names: BTreeMap::from([(me, user.to_owned())]),
            asked: BTreeSet::new(),
            watched: Vec::new(),
            open_when_known: None,
            looking: true,
            now,
            effects: Vec::new(),
        }
    }

    /// What must be done. Call until empty after each input.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        self.ask_names();
        std::mem::take(&mut self.effects)
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.now = now;
        if self.notice.as_ref().is_some_and(|notice| notice.until <= now) {
            self.notice = None;
        }
    }

    pub(super) fn say(&mut self, text: &str, bad: bool) {
        if !text.is_empty() {
            self.notice = Some(Notice { text: clean_line(text), bad, until: self.now + NOTICE_LIFETIME });
        }
    }

    pub(super) fn on_looking(&mut self, looking: bool) {
        self.looking = looking;
        self.mark_read();
    }

    /// News from the SDK.
    pub(super) fn on_update(&mut self, update: Update) {
        match update {
            Update::State(state) => self.state = state,
            Update::Event(event) => self.on_event(*event),
            Update::Reset { conversation, .. } => {
                if let Some(room) = self.rooms.get_mut(&conversation) {
                    room.on_reset();
                }
                if self.selected == Some(conversation) {
                    self.load_past();
                }
            }
            Update::Receipt { .. } => {}
            Update::Typing { conversation, user, active } => {
                if let Some(room) = self.rooms.get_mut(&conversation) {
                    room.on_typing(user, active, self.now);
                }
            }
            Update::Presence { user, online, last_seen } => {
                self.presence.insert(user, Presence { online, last_seen });
            }
            Update::Send(progress) => {
                if let Some(room) = self.rooms.get_mut(&progress.conversation) {
                    room.on_progress(progress.request, progress.state);
                }
                if let SendState::Failed(error) = progress.state {
                    self.say(&format!("not sent: {error} (Ctrl-R tries again)"), true);
                }
            }
            Update::Conversation(view) => self.on_conversation(*view),
            Update::Removed(conversation) => self.on_removed(conversation),
            Update::DirectoryLoaded => {
                self.loaded = true;
                if self.selected.is_none() {
                    let first = self.order().first().copied();
                    first.into_iter().for_each(|first| self.open(first));
                }
            }
            _ => {}
        }
    }

    pub(super) fn on_history(&mut self, conversation: ConversationId, page: Result<HistoryView, String>) {
        let Some(room) = self.rooms.get_mut(&conversation) else { return };
        match page {
            Ok(page) => room.on_history(page),
            Err(error) => {
                room.past = Past::Partial;
                self.say(&format!("older messages could not be loaded: {error}"), true);
            }
        }
    }

    pub(super) fn on_profiles(&mut self, profiles: Vec<ProfileView>) {
        for profile in profiles {
            let name = if profile.display.trim().is_empty() { &profile.name } else { &profile.display };
            self.names.insert(profile.user, clean_line(name));
        }
    }

    /// Names that could not be had are asked for again later.
    pub(super) fn on_no_profiles(&mut self, users: &[UserId]) {
        for user in users {
            self.asked.remove(user);
        }
    }

    pub(super) fn on_posted(&mut self, conversation: ConversationId, request: RequestId, content: &PostContent) {
        if let Some(room) = self.rooms.get_mut(&conversation) {
            room.on_posted(request, content);
            room.scroll = 0;
            room.new_from = None;
        }
    }

    pub(super) fn on_outcome(&mut self, outcome: Result<Outcome, String>) {
        match outcome {
            Ok(Outcome { notice, open, list }) => {
                self.notice = None;
                self.say(&notice, false);
                if let Some((title, members)) = list {
                    self.overlay = Some(Overlay::Members { title, members });
                }
                match open {
                    Some(open) if self.rooms.contains_key(&open) => self.open(open),
                    other => self.open_when_known = other.or(self.open_when_known),
                }
            }
            Err(error) => self.say(&error, true),
        }
    }

    fn on_event(&mut self, event: tern_client::EventView) {
        let (id, own) = (event.conversation, event.sender == self.me);
        let pane = self.pane.0;
        let Some(room) = self.rooms.get_mut(&id) else { return };
        room.on_event(event);
        if own {
            room.scroll = 0;
        } else if room.scroll > 0 {
            // What is being read stays where it is.
            let height = room.entries.values().next_back().map_or(0, |last| lines::height(last, pane));
            room.scroll += height;
        }
        if self.selected == Some(id) {
            self.mark_read();
        }
    }

    fn on_conversation(&mut self, mut view: ConversationView) {
        let id = view.conversation;
        view.title = clean_line(&view.title);
        view.preview = clean(&view.preview).replace('\n', " ");
        match self.rooms.get_mut(&id) {
            Some(room) => room.view = view,
            None => drop(self.rooms.insert(id, Room::new(view))),
        }
        self.watch();
        if self.open_when_known == Some(id) {
            self.open_when_known = None;
            self.open(id);
        } else if self.selected == Some(id) {
            self.mark_read();
        } else if self.selected.is_none() && self.loaded {
            self.open(id);
        }
    }

    fn on_removed(&mut self, id: ConversationId) {
        self.rooms.remove(&id);
        if self.selected == Some(id) {
            self.selected = None;
            self.mode = Mode::Write;
            let first = self.order().first().copied();
            first.into_iter().for_each(|first| self.open(first));
        }
    }

    /// Conversations as the list shows them: newest activity first.
    pub(super) fn order(&self) -> Vec<ConversationId> {
        let mut order: Vec<_> = self.rooms.values().map(|room| (room.view.head_time, room.view.conversation)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        order.into_iter().map(|(_, id)| id).collect()
    }

    pub(super) fn room(&self) -> Option<&Room> {
        self.selected.and_then(|id| self.rooms.get(&id))
    }

    pub(super) fn room_mut(&mut self) -> Option<&mut Room> {
        self.selected.and_then(|id| self.rooms.get_mut(&id))
    }

    /// Shows a conversation.
    pub(super) fn open(&mut self, id: ConversationId) {
        if let Some(left) = self.room_mut() {
            left.new_from = None;
            left.cursor = None;
        }
        self.selected = Some(id);
        self.mode = Mode::Write;
        if let Some(room) = self.rooms.get_mut(&id) {
            room.scroll = 0;
            room.new_from = (room.view.unread() > 0).then(|| room.view.read.max(room.view.join).next());
            if room.entries.len() < SCREENFUL && room.past == Past::Partial {
                self.load_past();
            }
        }
        self.mark_read();
    }

    /// Opens the conversation `step` places further down the list.
    pub(super) fn open_neighbour(&mut self, down: bool) {
        let order = self.order();
        let at = self.selected.and_then(|id| order.iter().position(|other| *other == id));
        let next = match (at, down) {
            (Some(at), true) => at + 1,
            (Some(at), false) => at.wrapping_sub(1),
            (None, _) => 0,
        };
        if let Some(next) = order.get(next) {
            self.open(*next);
        }
    }

    /// Asks for the page before the oldest event that is here.
    pub(super) fn load_past(&mut self) {
        let Some(room) = self.room_mut() else { return };
        if room.past == Past::Partial {
            room.past = Past::Loading;
            let before = room.entries.keys().next().copied();
            let conversation = room.view.conversation;
            self.push(Effect::History { conversation, before });
        }
    }

    /// What is visible was read.
    pub(super) fn mark_read(&mut self) {
        if !self.looking {
            return;
        }
        let Some(room) = self.room() else { return };
        let view = &room.view;
        if room.scroll == 0 && view.unread() > 0 {
            let effect =
                Effect::MarkRead { conversation: view.conversation, seq: view.head, visible: view.head_visible };
            self.push(effect);
        }
    }

    /// Watches everybody with whom there is a direct conversation, the liveliest first.
    fn watch(&mut self) {
        let peers = self.order().into_iter().filter_map(|id| id.peer_of(self.me)).filter(|peer| *peer != self.me);
        let mut peers: Vec<_> = peers.take(WATCHED_MAX).collect();
        peers.sort_unstable();
        if peers != self.watched {
            self.watched.clone_from(&peers);
            self.push(Effect::Watch(peers));
        }
    }

    /// Asks once for the names of everybody who is on the screen or in the list.
    fn ask_names(&mut self) {
        let mut wanted = BTreeSet::new();
        for room in self.rooms.values() {
            wanted.extend(room.view.conversation.peer_of(self.me));
            wanted.extend(room.view.preview_sender);
        }
        if let Some(room) = self.room() {
            let recent = room.entries.values().rev().take(300);
            wanted.extend(recent.flat_map(|entry| [Some(entry.event.sender), entry.event.subject]).flatten());
        }
        if let Some(Overlay::Members { members, .. }) = &self.overlay {
            wanted.extend(members.iter().map(|(_, user)| *user));
        }
        wanted.retain(|user| user.is_valid() && !self.names.contains_key(user) && !self.asked.contains(user));
        if !wanted.is_empty() {
            self.asked.extend(&wanted);
            self.push(Effect::Profiles(wanted.into_iter().collect()));
        }
    }

    /// The name of a user, clean; the number until it is known.
    pub(super) fn name(&self, user: UserId) -> String {
        self.names.get(&user).cloned().unwrap_or_else(|| format!("user {}", user.raw() % 100_000))
    }

    /// What a conversation is called.
    pub(super) fn title(&self, view: &ConversationView) -> String {
        match (view.conversation.kind(), view.conversation.peer_of(self.me)) {
            (_, Some(peer)) if peer == self.me => "notes to myself".to_owned(),
            (_, Some(peer)) => self.name(peer),
            (Some(ConversationKind::World), _) => "everyone".to_owned(),
            _ => view.title.clone(),
        }
    }
}
