//! The truth, built without the core: walks the durable log in order and lets each stored event be the doing of one logged command,
//! under the rules of FEATURES.md. What no command explains, or no rule allows, is a violation.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tern_core_shard::io::Logged;
use tern_protocol::client::group;
use tern_protocol::command::EnterWorld;
use tern_protocol::frame;
use tern_protocol::limit::DEDUP_WINDOW;
use tern_protocol::server::{content, event, role};
use tern_protocol::{ConversationId, ConversationKind, RequestId, UserId};

use crate::wire::{EventCopy, Op};
use crate::witness::Witness;

/// A member at the end of the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberTruth {
    pub(crate) role: u8,
    pub(crate) join: u64,
    /// Where the read cursor is: moved by requests and by own messages.
    pub(crate) read: u64,
}

/// From coming in to going out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stay {
    /// The first event that could be read.
    pub(crate) first: u64,
    /// The event with which it began.
    pub(crate) join: u64,
    /// The event with which it ended.
    pub(crate) last: Option<u64>,
}

/// A conversation at the end of the log.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) events: Vec<EventCopy>,
    pub(crate) members: BTreeMap<UserId, MemberTruth>,
    /// When each user was in it.
    pub(crate) stays: BTreeMap<UserId, Vec<Stay>>,
    pub(crate) title: Vec<u8>,
    /// Who was removed and not added since.
    removed: BTreeSet<UserId>,
    flags: u8,
    /// Events that a command was found for.
    explained: usize,
}

impl Truth {
    /// The last event.
    pub(crate) fn head(&self) -> u64 {
        self.events.len() as u64
    }

    /// The event at a place.
    pub(crate) fn at(&self, seq: u64) -> Option<&EventCopy> {
        self.events.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    /// Messages up to a place.
    pub(crate) fn visible_at(&self, seq: u64) -> u64 {
        self.at(seq).map_or(0, |event| event.visible)
    }

    /// Messages of others after what this member has read, counted one by one.
    pub(crate) fn unread(&self, user: UserId) -> Option<u64> {
        let member = self.members.get(&user)?;
        let from = member.read.max(member.join);
        let counts = |event: &&EventCopy| event.seq > from && event.kind == event::MESSAGE && event.sender != user;
        Some(self.events.iter().filter(counts).count() as u64)
    }

    /// Whether this user was ever allowed to see an event.
    pub(crate) fn may_see(&self, user: UserId, seq: u64) -> bool {
        let stays = self.stays.get(&user).into_iter().flatten();
        stays.into_iter().any(|stay| seq >= stay.first && stay.last.is_none_or(|last| seq <= last))
    }

    /// Whether this user was in when an event happened, and not by it.
    pub(crate) fn was_in(&self, user: UserId, seq: u64) -> bool {
        let stays = self.stays.get(&user).into_iter().flatten();
        stays.into_iter().any(|stay| seq > stay.join && stay.last.is_none_or(|last| seq <= last))
    }

    /// Whether a run of a client may begin after this place.
    pub(crate) fn may_begin_at(&self, user: UserId, seq: u64) -> bool {
        self.stays.get(&user).into_iter().flatten().any(|stay| stay.first.max(1) == seq)
    }

    fn enter(&mut self, user: UserId, join: u64, role: u8) {
        self.members.insert(user, MemberTruth { role, join, read: 0 });
        let first = if self.flags & group::HISTORY_FOR_ALL != 0 { 1 } else { join };
        self.stays.entry(user).or_default().push(Stay { first, join, last: None });
    }

    fn exit(&mut self, user: UserId, seq: u64) {
        self.members.remove(&user);
        if let Some(stay) = self.stays.get_mut(&user).and_then(|stays| stays.last_mut()) {
            stay.last = Some(seq);
        }
    }

    fn role_of(&self, user: UserId) -> u8 {
        self.members.get(&user).map_or(0, |member| member.role)
    }

    /// Applies one event as the doing of a command; says which rule it breaks.
    fn apply(&mut self, event: &EventCopy, op: Option<&Op>) -> Result<(), &'static str> {
        let (sender, subject) = (event.sender, event.subject);
        let rank = self.role_of(sender);
        if rank == 0 && !matches!(event.kind, event::CREATED | event::JOINED) {
            return Err("the sender is not a member");
        }
        match (event.kind, op) {
            (event::CREATED, _) => self.create(event, op),
            (event::MESSAGE, Some(Op::Send { reply_to, mentions, body, .. })) => {
                if let Some(member) = self.members.get_mut(&sender) {
                    member.read = event.seq;
                }
                let whole = event.revised != 0 || (event.body == *body && event.mentions == *mentions);
                if whole && event.target == *reply_to { Ok(()) } else { Err("it is not what was sent") }
            }
            (event::EDITED, Some(Op::Edit { target, .. })) if event.target == *target => self.revise(event, false),
            (event::RECALLED, Some(Op::Recall { target, .. })) if event.target == *target => {
                self.revise(event, rank >= role::ADMIN)
            }
            (event::JOINED, Some(Op::Join { .. })) => {
                let open = self.flags & group::OPEN != 0 && rank == 0 && subject == sender;
                let barred = self.removed.contains(&sender);
                let role = if self.members.is_empty() { role::OWNER } else { role::MEMBER };
                self.enter(sender, event.seq, role);
                if open && !barred && event.role == role { Ok(()) } else { Err("joined what is not open to them") }
            }
            (event::LEFT, Some(Op::Leave { .. })) => {
                self.exit(sender, event.seq);
                if subject == sender { Ok(()) } else { Err("left for somebody else") }
            }
            (event::ROLE, Some(Op::Leave { .. })) => {
                // An owner who leaves is succeeded.
                let others = self.members.iter().filter(|(user, _)| **user != sender);
                let next = others.min_by_key(|(user, member)| (Reverse(member.role), member.join, **user));
                let succeeds = next.is_some_and(|(user, _)| *user == subject) && event.role == role::OWNER;
                if let Some(member) = self.members.get_mut(&subject) {
                    member.role = event.role;
                }
                if rank == role::OWNER && succeeds { Ok(()) } else { Err("not the one to succeed the owner") }
            }
            (event::ADDED, Some(Op::Invite { users: named, .. } | Op::Create { members: named, .. })) => {
                let wanted = self.role_of(subject) == 0 && named.contains(&subject.raw());
                self.removed.remove(&subject);
                self.enter(subject, event.seq, role::MEMBER);
                if wanted { Ok(()) } else { Err("added who was in or not named") }
            }
            (event::KICKED, Some(Op::Kick { user, .. })) => {
                let allowed = rank >= role::ADMIN && rank > self.role_of(subject) && self.role_of(subject) > 0;
                self.exit(subject, event.seq);
                self.removed.insert(subject);
                if allowed && *user == subject { Ok(()) } else { Err("kicked without the right to") }
            }
            (event::ROLE, Some(Op::SetRole { user, .. })) => {
                // Handing over is two events: the owner steps down, then the other one steps up.
                let steps_down = subject == sender && event.role == role::ADMIN;
                let allowed = rank == role::OWNER || self.members.values().all(|member| member.role != role::OWNER);
                let known = self.role_of(subject) > 0 && (steps_down || *user == subject);
                if let Some(member) = self.members.get_mut(&subject) {
                    member.role = event.role;
                }
                if allowed && known { Ok(()) } else { Err("gave a role without the right to") }
            }
            _ => Err("no command does this"),
        }
    }

    fn create(&mut self, event: &EventCopy, op: Option<&Op>) -> Result<(), &'static str> {
        self.title.clone_from(&event.body);
        match (event.conversation.kind(), op) {
            (Some(ConversationKind::Group(creator)), Some(Op::Create { flags, .. })) => {
                self.flags = *flags;
                self.enter(event.sender, event.seq, role::OWNER);
                if event.seq == 1 && creator == event.sender { Ok(()) } else { Err("created twice") }
            }
            (Some(ConversationKind::Direct(a, b)), Some(_)) => {
                self.enter(a, event.seq, role::MEMBER);
                if a != b {
                    self.enter(b, event.seq, role::MEMBER);
                }
                if event.seq == 1 && (event.sender == a || event.sender == b) {
                    Ok(())
                } else {
                    Err("not one of the two")
                }
            }
            (Some(ConversationKind::World), None) => {
                self.flags = group::OPEN | group::HISTORY_FOR_ALL;
                if event.seq == 1 { Ok(()) } else { Err("created twice") }
            }
            _ => Err("no command creates this"),
        }
    }

    fn revise(&self, event: &EventCopy, of_others: bool) -> Result<(), &'static str> {
        let Some(target) = self.at(event.target).filter(|target| target.seq < event.seq) else {
            return Err("the target is not there");
        };
        if target.kind != event::MESSAGE {
            return Err("the target is not a message");
        }
        if target.sender != event.sender && !of_others {
            return Err("the message is somebody else's");
        }
        let recalled_before = self
            .events
            .iter()
            .any(|other| other.kind == event::RECALLED && other.target == event.target && other.seq < event.seq);
        if recalled_before { Err("the message was recalled before") } else { Ok(()) }
    }

    fn read(&mut self, user: UserId, seq: u64, visible: u64) {
        let possible = seq <= self.explained as u64 && visible == self.visible_at(seq);
        if let Some(member) = self.members.get_mut(&user).filter(|_| possible) {
            member.read = member.read.max(seq);
        }
    }
}

/// Every conversation, as the log made it.
pub(crate) fn build<'a>(
    log: impl Iterator<Item = &'a Logged>,
    events: impl Iterator<Item = EventCopy>,
    witness: &mut Witness,
) -> BTreeMap<ConversationId, Truth> {
    let mut truths: BTreeMap<ConversationId, Truth> = BTreeMap::new();
    for event in events {
        let truth = truths.entry(event.conversation).or_default();
        check_place(truth, &event, witness);
        truth.events.push(event);
    }
    check_requests(&truths, witness);
    for logged in log {
        let actor = UserId::from_raw(logged.record.head.actor);
        if let Ok(enter) = frame::decode::<EnterWorld>(&logged.record.frame) {
            let truth = truths.entry(ConversationId::WORLD).or_default();
            explain(truth, logged, (UserId::from_raw(0), 0), None, witness);
            let user = UserId::from_raw(enter.user.to_native());
            if truth.role_of(user) == 0 {
                let join = truth.explained as u64;
                truth.enter(user, join, role::MEMBER);
            }
        } else if let Some((request, op)) = Op::read(&logged.record.frame) {
            let id = op.conversation().unwrap_or_else(|| {
                let pair = if let Op::OpenDirect { user } = op { Some(user) } else { None };
                let made = || ConversationId::group(actor, RequestId::from_raw(request));
                pair.map_or_else(made, |user| ConversationId::direct(actor, user))
            });
            if let Some(truth) = truths.get_mut(&id) {
                explain(truth, logged, (actor, request), Some(&op), witness);
                if let Op::Read { seq, visible, .. } = op {
                    truth.read(actor, seq, visible);
                }
            }
        }
    }
    for (id, truth) in &truths {
        if truth.explained < truth.events.len() {
            let event = &truth.events[truth.explained];
            witness.violation("M1", format!("{id}: no logged command made {event:?}"));
        }
    }
    truths
}

/// Lets the next events be the doing of this command, if they are.
fn explain(truth: &mut Truth, logged: &Logged, by: (UserId, u128), op: Option<&Op>, witness: &mut Witness) {
    let mut next: VecDeque<EventCopy> = VecDeque::new();
    for event in &truth.events[truth.explained..] {
        // A resend makes events of its own only if it was not recognised: then the duplicate stands alone in a later command.
        let same = (event.sender, event.request) == by && event.time == logged.time.raw();
        if !same || next.iter().any(|done| (done.kind, done.subject) == (event.kind, event.subject)) {
            break;
        }
        next.push_back(event.clone());
    }
    for event in next {
        truth.explained += 1;
        if let Err(rule) = truth.apply(&event, op) {
            witness.violation("M12", format!("{rule}: {event:?} by {op:?}"));
        }
    }
    let owners = truth.members.values().filter(|member| member.role == role::OWNER).count();
    let group =
        truth.events.first().is_some_and(|first| matches!(first.conversation.kind(), Some(ConversationKind::Group(_))));
    if group && owners != usize::from(!truth.members.is_empty()) {
        witness.violation("M12", format!("{owners} owners of {} members after {op:?}", truth.members.len()));
    }
}

/// M1: places are dense, times do not go back, counts count messages.
fn check_place(truth: &Truth, event: &EventCopy, witness: &mut Witness) {
    let last = truth.events.last();
    let (seq, time, visible) = last.map_or((0, 0, 0), |last| (last.seq, last.time, last.visible));
    let counted = visible + u64::from(event.kind == event::MESSAGE);
    if event.seq != seq + 1 || event.time < time || event.visible != counted {
        witness.violation("M1", format!("after seq {seq}, time {time}, visible {visible} comes {event:?}"));
    }
    let erased = event.content == content::RECALLED;
    if erased && (!event.body.is_empty() || event.revised == 0) {
        witness.violation("M1", format!("recalled, but not erased: {event:?}"));
    }
}

/// M3: one request, one event (or one per user it adds). Requests that do not say how old they are, those about members, are recognised
/// among the last `DEDUP_WINDOW` events only.
fn check_requests(truths: &BTreeMap<ConversationId, Truth>, witness: &mut Witness) {
    for truth in truths.values() {
        let mut seen = BTreeMap::new();
        for event in &truth.events {
            let before = seen.insert((event.sender, event.request, event.kind, event.subject), event.seq);
            let says = matches!(event.kind, event::MESSAGE | event::EDITED | event::RECALLED);
            if before.is_some_and(|before| says || event.seq - before < DEDUP_WINDOW) {
                witness.violation("M3", format!("stored twice: {event:?}"));
            }
        }
    }
}
