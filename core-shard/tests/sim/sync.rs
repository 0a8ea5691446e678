//! What a device has of its conversations: positions, repair of holes, resets, the directory, and the audit at the end.
//! Applies events in seq order only and each once; whatever contradicts that on the way is noted as a violation.

use std::collections::BTreeMap;
use std::time::Duration;

use tern_core_shard::io::Lane;
use tern_protocol::server::{DirectoryEntry, Head, event, role, user_event};
use tern_protocol::{ConversationId, UserId};

use crate::client::{Ask, Cx, Device, Link, Wake};
use crate::wire::{self, EventCopy};

/// Pages without progress after which a client is certain to be caught in a loop.
const STUCK_MAX: u32 = 30;

/// Why a client's run of events begins where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the head that the directory named.
    Head,
    /// Where the user came in.
    Join,
    /// At the head that a reset named.
    Reset,
    /// The server said that nothing before may be read.
    First,
}

/// Events applied one after the other, without a hole: `after < seq <= last`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) start: Start,
    pub(crate) after: u64,
    pub(crate) last: u64,
}

/// One conversation on one device.
#[derive(Debug)]
pub(crate) struct Chat {
    pub(crate) position: u64,
    /// Messages up to the position, if known.
    pub(crate) visible: Option<u64>,
    /// The highest seq heard of.
    pub(crate) target: u64,
    pub(crate) join: u64,
    pub(crate) repairing: bool,
    stuck: u32,
    pub(crate) segments: Vec<Segment>,
    /// What is on the screen: sender and body of each message, by seq.
    pub(crate) messages: BTreeMap<u64, (UserId, Vec<u8>)>,
}

impl Chat {
    fn begin(start: Start, position: u64, visible: Option<u64>, join: u64, target: u64) -> Self {
        Self {
            position,
            visible,
            target: target.max(position),
            join,
            repairing: false,
            stuck: 0,
            segments: vec![Segment { start, after: position, last: position }],
            messages: BTreeMap::new(),
        }
    }

    fn jump(&mut self, start: Start, position: u64, visible: Option<u64>) {
        self.position = position;
        self.visible = visible;
        self.target = self.target.max(position);
        self.segments.push(Segment { start, after: position, last: position });
    }

    /// Takes the next event; `false`: it is not the next one.
    fn apply(&mut self, event: &EventCopy) -> bool {
        if event.seq != self.position + 1 {
            return false;
        }
        self.position = event.seq;
        self.target = self.target.max(event.seq);
        self.visible = Some(event.visible);
        self.stuck = 0;
        if let Some(segment) = self.segments.last_mut() {
            segment.last = event.seq;
        }
        if event.kind == event::MESSAGE {
            self.messages.insert(event.seq, (event.sender, event.body.clone()));
        }
        true
    }
}

/// What came of one conversation on one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flow {
    /// What the hello said; `None`: nothing.
    pub(crate) offered: Option<u64>,
    /// The last event sent, or what was offered.
    pub(crate) last: u64,
    lane: Option<Lane>,
    /// A reset or a report of skipped events came: holes are announced.
    pub(crate) announced: bool,
    /// Events that did not come, from the first to the last.
    pub(crate) holes: Vec<(u64, u64)>,
}

impl Flow {
    /// Nothing came yet, after this position.
    pub(crate) fn offered(position: u64) -> Self {
        Self { offered: Some(position), last: position, ..Self::default() }
    }
}

/// A directory that is read page by page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Walk {
    pub(crate) entries: BTreeMap<ConversationId, DirectoryEntry>,
    last: Option<(u64, u128)>,
    /// The newest entry when the walk began.
    top: Option<(u64, u128)>,
    /// All was read; the beginning is read once more for what moved up past the reader.
    checking: bool,
    /// Something changed meanwhile.
    again: bool,
}

impl Device {
    /// A live or resumed event.
    pub(crate) fn on_event(&mut self, cx: &mut Cx<'_>, lane: Lane, event: &EventCopy) {
        cx.witness.saw(self.user, event);
        let (id, seq) = (event.conversation, event.seq);
        let flow = self.flows.entry(id).or_insert_with(|| Flow { last: seq.saturating_sub(1), ..Flow::default() });
        if seq <= flow.last {
            let what = format!("{} device {}: {id} {seq} sent again, {:?}", self.user, self.index, flow);
            cx.witness.violation("M6", what);
        } else if seq > flow.last + 1 {
            flow.holes.push((flow.last + 1, seq - 1));
        }
        flow.last = flow.last.max(seq);
        if *flow.lane.get_or_insert(lane) != lane || !matches!(lane, Lane::Delivery(_)) {
            cx.witness.violation("M1", format!("{id} came on {lane:?} and on {:?}", flow.lane));
        }
        let Some(chat) = self.chats.get_mut(&id) else {
            let hint = self.hints.entry(id).or_insert(0);
            *hint = seq.max(*hint);
            // Its directory entry follows by itself if we are in.
            cx.wake.push((Duration::from_secs(1), Wake::Walk));
            return;
        };
        if chat.apply(event) {
            self.after_apply(id, event);
        } else if seq > chat.position {
            chat.target = chat.target.max(seq);
            self.repair(cx, id);
        }
    }

    fn after_apply(&mut self, id: ConversationId, event: &EventCopy) {
        let out = matches!(event.kind, event::LEFT | event::KICKED) && event.subject == self.user;
        if out && self.chats.get(&id).is_some_and(|chat| chat.position == event.seq) {
            self.leave_chat(id);
        }
    }

    /// Not a member any more.
    pub(crate) fn leave_chat(&mut self, id: ConversationId) {
        if let Some(chat) = self.chats.remove(&id) {
            self.past.push((id, chat));
        }
    }

    /// Asks for what follows the position, unless that is under way.
    pub(crate) fn repair(&mut self, cx: &mut Cx<'_>, id: ConversationId) {
        let Some(chat) = self.chats.get_mut(&id) else { return };
        if self.link != Link::Up || chat.repairing {
            return;
        }
        chat.repairing = true;
        cx.witness.counts.repairs += 1;
        let anchor = chat.position;
        let limit = u16::try_from(cx.rng.between(1, 256)).unwrap_or(256);
        let request = self.ask(Ask::Repair(id, anchor));
        cx.send.push(wire::history(request, id, anchor, limit, 1));
    }

    /// A page of history, for whatever it was asked.
    pub(crate) fn on_history(
        &mut self,
        cx: &mut Cx<'_>,
        request: u128,
        id: ConversationId,
        head: u64,
        first: u64,
        events: &[EventCopy],
    ) {
        let Some(ask) = self.asks.remove(&request) else {
            return cx.witness.violation("M5", format!("{} got a page for no question", self.user));
        };
        for event in events {
            cx.witness.saw(self.user, event);
        }
        let dense = events.windows(2).all(|pair| matches!(pair, [a, b] if b.seq == a.seq + 1));
        let fits = events.iter().all(|event| event.conversation == id && event.seq >= first && event.seq <= head);
        if !dense || !fits {
            let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
            cx.witness.violation("M4", format!("{id}: page of {first}..={head} has {seqs:?}"));
        }
        match ask {
            Ask::Repair(asked, anchor) if asked == id => self.on_repair(cx, (id, anchor), head, first, events),
            Ask::CatchUp(of) => self.caught_up(cx, of, (head, first), events),
            Ask::Audit(asked) if asked == id => self.on_audit(cx, id, head, first, events),
            Ask::Browse(asked, anchor, direction) if asked == id => {
                // A page begins (or ends) next to its anchor, and is empty only if nothing is there.
                let (found, expected) = if direction == 1 {
                    (events.first(), anchor.saturating_add(1).max(first))
                } else {
                    (events.last(), anchor.saturating_sub(1).min(head))
                };
                let there = (first.max(1)..=head).contains(&expected);
                if found.map(|event| event.seq) != there.then_some(expected) {
                    let found = found.map(|event| event.seq);
                    let what = format!("{id} {first}..={head}: {direction} from {anchor} yields {found:?}");
                    cx.witness.violation("M4", what);
                }
            }
            Ask::Repair(..) | Ask::Audit(_) | Ask::Browse(..) | Ask::Walk => {
                cx.witness.violation("M5", format!("{} asked {ask:?} and got {id}", self.user));
            }
        }
    }

    fn on_repair(
        &mut self,
        cx: &mut Cx<'_>,
        (id, anchor): (ConversationId, u64),
        head: u64,
        first: u64,
        events: &[EventCopy],
    ) {
        let Some(chat) = self.chats.get_mut(&id) else { return };
        chat.repairing = false;
        chat.target = chat.target.max(head);
        if events.first().is_some_and(|event| event.seq > first.max(anchor + 1)) {
            let what = format!("{id}: page after {anchor} begins at {:?}, first {first}", events[0].seq);
            cx.witness.violation("M4", what);
        }
        if first > chat.position + 1 {
            chat.jump(Start::First, first - 1, None);
        }
        let before = chat.position;
        for event in events {
            let Some(chat) = self.chats.get_mut(&id) else { return };
            if chat.apply(event) {
                self.after_apply(id, event);
            }
        }
        let Some(chat) = self.chats.get_mut(&id) else {
            // Out by one of these events; perhaps in again by a later one.
            cx.wake.push((Duration::from_millis(500), Wake::Walk));
            return;
        };
        if chat.position >= chat.target {
            return;
        }
        if chat.position > before {
            return self.repair(cx, id);
        }
        chat.stuck += 1;
        if chat.stuck == STUCK_MAX {
            let what =
                format!("{} device {}: {id} stays at {} of {}", self.user, self.index, chat.position, chat.target);
            cx.witness.violation("M6", what);
        } else if chat.stuck < STUCK_MAX {
            cx.wake.push((Duration::from_millis(200), Wake::Repair(id)));
        }
    }

    /// The position is of no use: begin again at the head.
    pub(crate) fn on_reset(&mut self, cx: &mut Cx<'_>, id: u128, seq: u64, visible: u64) {
        cx.witness.counts.resets += 1;
        if id == 0 {
            for (id, chat) in std::mem::take(&mut self.chats) {
                self.past.push((id, chat));
            }
            self.flows.values_mut().for_each(|flow| flow.announced = true);
            return self.start_walk(cx);
        }
        let id = ConversationId::from_raw(id);
        self.flows.entry(id).or_default().announced = true;
        let Some(chat) = self.chats.get_mut(&id) else { return };
        if seq < chat.segments.first().map_or(0, |segment| segment.after) {
            cx.witness.violation("M2", format!("{id}: reset to {seq}, but the device began at {:?}", chat.segments[0]));
        }
        if seq > chat.position {
            chat.jump(Start::Reset, seq, Some(visible));
        }
        if chat.position < chat.target {
            self.repair(cx, id);
        }
    }

    /// Heads that differ from what was pinged, or (nonce 0) that were skipped.
    pub(crate) fn on_pong(&mut self, cx: &mut Cx<'_>, nonce: u64, user_seq: u64, heads: &[Head]) {
        if nonce == 0 {
            cx.witness.counts.lagging += 1;
        } else {
            self.pongs += 1;
        }
        for head in heads {
            let id = ConversationId::from_raw(head.conversation);
            if nonce == 0 {
                self.flows.entry(id).or_default().announced = true;
            }
            match self.chats.get_mut(&id) {
                Some(chat) if head.seq > chat.position => {
                    chat.target = chat.target.max(head.seq);
                    self.repair(cx, id);
                }
                Some(_) => {}
                None => cx.wake.push((Duration::from_millis(500), Wake::Walk)),
            }
        }
        self.on_user_seq(cx, user_seq);
    }

    fn on_user_seq(&mut self, cx: &mut Cx<'_>, user_seq: u64) {
        if user_seq > self.user_seq {
            self.user_seq = user_seq;
            self.start_walk(cx);
        }
    }

    /// Something about the own account.
    pub(crate) fn on_user_event(&mut self, cx: &mut Cx<'_>, user_seq: u64, id: ConversationId, kind: u8) {
        if user_seq > self.user_seq + 1 {
            self.start_walk(cx);
        }
        let stale = user_seq <= self.user_seq;
        self.user_seq = self.user_seq.max(user_seq);
        if kind == user_event::CONVERSATION_REMOVED && !stale {
            self.awaited.remove(&id);
            self.leave_chat(id);
        } else if kind == user_event::CONVERSATION_ADDED {
            self.awaited.insert(id);
        }
    }

    /// Reads the whole directory; once more after that which is under way.
    pub(crate) fn start_walk(&mut self, cx: &mut Cx<'_>) {
        match &mut self.walk {
            _ if self.link != Link::Up => {}
            // What was read already may be what has changed.
            Some(walk) => walk.again = true,
            None => {
                self.walk = Some(Walk::default());
                self.next_walk(cx);
            }
        }
    }

    fn next_walk(&mut self, cx: &mut Cx<'_>) {
        let (time, id) = self.walk.as_ref().and_then(|walk| walk.last).unwrap_or((0, 0));
        let limit = u16::try_from(cx.rng.between(1, 20)).unwrap_or(20);
        let request = self.ask(Ask::Walk);
        cx.send.push(wire::directory(request, time, id, limit));
    }

    /// Entries, asked for or not.
    pub(crate) fn on_directory(&mut self, cx: &mut Cx<'_>, request: u128, more: bool, entries: &[DirectoryEntry]) {
        for entry in entries.iter().filter(|entry| entry.role != role::UNREADABLE) {
            self.on_entry(cx, entry);
            if request == 0 {
                // It names the head: what did not come before it is not missing silently.
                self.flows.entry(ConversationId::from_raw(entry.conversation)).or_default().announced = true;
            }
        }
        if request == 0 {
            return;
        }
        let known = self.asks.remove(&request) == Some(Ask::Walk);
        let Some(walk) = self.walk.as_mut().filter(|_| known) else {
            return cx.witness.violation("M5", format!("{} got a directory page for no question", self.user));
        };
        for entry in entries {
            let key = (entry.head_time, entry.conversation);
            if walk.last.is_some_and(|last| key >= last) {
                cx.witness.violation("M4", format!("{}: directory goes from {:?} to {key:?}", self.user, walk.last));
            }
            walk.last = Some(key);
            walk.top.get_or_insert(key);
            walk.entries.insert(ConversationId::from_raw(entry.conversation), entry.clone());
        }
        let met = walk.checking && walk.last <= walk.top;
        if more && !entries.is_empty() && !met {
            return self.next_walk(cx);
        }
        if !std::mem::replace(&mut walk.checking, true) && walk.top.is_some() {
            walk.last = None;
            return self.next_walk(cx);
        }
        if more && entries.is_empty() {
            cx.witness.violation("M6", format!("{}: an empty directory page promises more", self.user));
        }
        let walk = self.walk.take().unwrap_or_default();
        // An entry may have moved past the reader while it read: ask about what was not listed instead of dropping it.
        let unlisted: Vec<_> = self.chats.keys().filter(|id| !walk.entries.contains_key(id)).copied().collect();
        for id in unlisted {
            self.repair(cx, id);
        }
        let again = walk.again;
        self.listing = Some(walk);
        if again {
            self.start_walk(cx);
        }
    }

    fn on_entry(&mut self, cx: &mut Cx<'_>, entry: &DirectoryEntry) {
        let id = ConversationId::from_raw(entry.conversation);
        self.awaited.remove(&id);
        let hint = self.hints.remove(&id).unwrap_or(0).max(entry.head);
        cx.witness.told.insert((self.user, id));
        match self.chats.get_mut(&id) {
            Some(chat) => {
                if entry.join > chat.join && entry.join > chat.position + 1 {
                    chat.jump(Start::Join, entry.join - 1, None);
                }
                chat.join = entry.join;
                chat.target = chat.target.max(hint);
            }
            None => {
                let chat = if cx.rng.chance(500) {
                    Chat::begin(Start::Head, entry.head, Some(entry.head_visible), entry.join, hint)
                } else {
                    Chat::begin(Start::Join, entry.join.max(1) - 1, None, entry.join, hint)
                };
                self.chats.insert(id, chat);
            }
        }
        if self.chats.get(&id).is_some_and(|chat| chat.position < chat.target) {
            self.repair(cx, id);
        }
    }
}
