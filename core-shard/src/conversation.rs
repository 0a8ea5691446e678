//! One conversation: its members, its order, its recent events. `apply` turns a logged command into events, rows and an answer.
//! A pure function of (state, command, position, log time): two owners that apply the same log write the same rows, byte for byte.

mod group;
mod message;
mod window;

use std::collections::BTreeMap;

use bytes::Bytes;
use tern_protocol::command::CommandHead;
use tern_protocol::frame::{Encode, Frame, FrameError, Kind};
use tern_protocol::limit::DEDUP_WINDOW;
use tern_protocol::server::{Ack, Event, Reject, content, event, role};
use tern_protocol::stored::{self, ConversationRow, Entity, MemberRow, Part, standing};
use tern_protocol::{
    ConversationId, ConversationKind, PartitionId, Position, RejectCode, RequestId, Seq, Timestamp, UserId, client,
    command, frame,
};

use crate::config::{Sabotage, ShardConfig};
use crate::io::{Row, Table};
use crate::message::EventHead;
use crate::rules::Rules;
use window::{DEDUP_EVENTS_MAX, Done, Moment, Window};
pub(crate) use window::{REMEMBERED, Remembered};

/// The state of one conversation, as its log made it.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) id: ConversationId,
    /// Keys of its rows begin with this.
    prefix: Vec<u8>,
    /// Last command applied.
    pub(crate) position: Position,
    pub(crate) head: Seq,
    pub(crate) visible: u64,
    pub(crate) head_time: Timestamp,
    created: Timestamp,
    creator: UserId,
    flags: u8,
    pub(crate) title: Bytes,
    pub(crate) members: BTreeMap<UserId, Member>,
    /// The standing of those who are out and have a row: it is used again when they come back.
    former: BTreeMap<UserId, u8>,
    pub(crate) window: Window,
}

/// One member. All of it but `delivered` is in the log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Member {
    pub(crate) row: MemberRow,
    /// How far the member's devices have it: known from their positions, not stored.
    pub(crate) delivered: Seq,
}

/// What applying one command did.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Changes of the view, in order.
    pub(crate) rows: Vec<Row>,
    /// Events to deliver, in order.
    pub(crate) events: Vec<(EventHead, Bytes)>,
    /// Answer to whoever asked.
    pub(crate) answer: Option<Answer>,
    /// A cursor that moved.
    pub(crate) receipt: Option<UserId>,
    /// Commands for other entities, in order.
    pub(crate) emissions: Vec<Emission>,
}

/// A command that applying another one caused.
#[derive(Debug)]
pub(crate) struct Emission {
    /// Which entity it is for.
    pub(crate) to: EmissionTarget,
    /// The encoded frame.
    pub(crate) frame: Bytes,
}

/// Whose log an emission goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EmissionTarget {
    /// A user's.
    User(UserId),
    /// A conversation's.
    Conversation(ConversationId),
}

/// How a command ended, for whoever asked.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Done: the event it made, and when that was.
    Done { request: RequestId, seq: Seq, time: Timestamp, joined: bool },
    /// Not done.
    Refused { request: RequestId, code: RejectCode },
}

/// Where and when a command is applied, and under which rules.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) position: Position,
    pub(crate) time: Timestamp,
    /// The newest event of the conversation that the session's shard had heard of when it took the command.
    pub(crate) heard: Seq,
    /// The command with whose rows this one's go to the view: itself, unless it was kept.
    pub(crate) carrier: Position,
    /// Up to here the view has this partition's rows.
    pub(crate) stored: Position,
    pub(crate) rules: Rules,
    /// Which mechanisms work: nothing else of it may be read here.
    pub(crate) config: &'a ShardConfig,
}

/// Why a command is refused; `?` ends its application before anything was changed.
type Outcome = Result<(Seq, Timestamp), RejectCode>;

impl Conversation {
    /// The state before the first command.
    pub(crate) fn empty(id: ConversationId) -> Self {
        Self {
            id,
            prefix: stored::entity_key(&Entity::Conversation(id)),
            position: Position::ZERO,
            head: Seq::ZERO,
            visible: 0,
            head_time: Timestamp::ZERO,
            created: Timestamp::ZERO,
            creator: UserId::from_raw(0),
            flags: 0,
            title: Bytes::new(),
            members: BTreeMap::new(),
            former: BTreeMap::new(),
            window: Window::default(),
        }
    }

    /// The state as the view has it, but for the events: see [`Self::remember`].
    pub(crate) fn load(id: ConversationId, rows: &[(Bytes, Bytes)]) -> Result<Self, FrameError> {
        let mut this = Self::empty(id);
        for (key, value) in rows {
            match key.strip_prefix(&this.prefix[..]).and_then(Part::parse) {
                Some(Part::Main) => {
                    let row: ConversationRow = stored::decode_row(value)?;
                    this.position = Position::from_raw(row.position);
                    this.head = Seq::from_raw(row.head);
                    this.visible = row.visible;
                    this.head_time = Timestamp::from_raw(row.head_time);
                    this.created = Timestamp::from_raw(row.created);
                    this.creator = UserId::from_raw(row.creator);
                    this.flags = row.flags;
                    this.title = row.title.into();
                }
                Some(Part::Member(user)) => {
                    let row: MemberRow = stored::decode_row(value)?;
                    match row.standing {
                        // What was read has arrived; how much more has, the devices will say.
                        standing::IN => {
                            this.members.insert(user, Member { row, delivered: Seq::from_raw(row.read) });
                        }
                        out => {
                            this.former.insert(user, out);
                        }
                    }
                }
                Some(Part::Device(_) | Part::Directory(_) | Part::Rules(_) | Part::Kept(_)) | None => {
                    return Err(FrameError::Archive);
                }
            }
        }
        Ok(this)
    }

    /// Fills the window with the newest events of the view. The view may be ahead of the main row: an event beyond the head does not exist.
    /// Gives the range to ask for if events up to the head are lacking. `believe`: without that rule.
    pub(crate) fn remember(&mut self, events: Vec<Bytes>, believe: bool) -> Result<Option<(Seq, Seq)>, FrameError> {
        self.window = Window::default();
        self.window.settle(self.position);
        let mut ahead = false;
        for frame in events {
            let event = Remembered::read(frame, self.position, self.head)?;
            if believe {
                self.head = self.head.max(event.head.seq);
            }
            if event.head.seq <= self.head {
                if self.window.last().is_some_and(|last| last.next() != event.head.seq) {
                    return Err(FrameError::Archive);
                }
                self.window.push(event);
            } else {
                ahead = true;
            }
        }
        // What is remembered by its age was chosen by the age of the view's newest event. If that one does not exist, as many as can be are asked for.
        let count = if ahead { DEDUP_EVENTS_MAX } else { DEDUP_WINDOW };
        let oldest = self.head.raw().saturating_sub(count - 1).max(1);
        let whole = self.head == Seq::ZERO || self.window.first().is_some_and(|first| first.raw() <= oldest);
        if !whole {
            return Ok(Some((Seq::from_raw(oldest), self.head)));
        }
        // Of most of them only the request counts.
        self.window.trim(Moment { head: self.head, time: self.head_time }, self.position, true);
        Ok(None)
    }

    /// Whether it was ever created.
    pub(crate) fn exists(&self) -> bool {
        self.head != Seq::ZERO
    }

    /// Memory it takes. Unit: bytes, estimated.
    pub(crate) fn size(&self) -> usize {
        512 + self.members.len() * 112 + self.former.len() * 24 + self.window.size()
    }

    /// The oldest event that this member may read.
    pub(crate) fn first_readable(&self, member: &Member) -> Seq {
        if self.flags & client::group::HISTORY_FOR_ALL != 0 {
            Seq::from_raw(1)
        } else {
            Seq::from_raw(member.row.join.max(1))
        }
    }

    /// The event that this command edits or recalls, if there is one at that place.
    pub(crate) fn target(&self, bytes: &[u8]) -> Option<Seq> {
        self.revises(bytes).map(|(_, target)| target)
    }

    /// The event outside memory that this command cannot be applied without: its message, then the edit of it whose body it takes away.
    pub(crate) fn needs(&self, time: Timestamp, head: &CommandHead, bytes: &[u8]) -> Option<Seq> {
        let (request, target) = self.revises(bytes)?;
        let now = Moment { head: self.head, time };
        let known = self.window.answered(now, UserId::from_raw(head.actor), request).is_some();
        if known {
            return None;
        }
        let Some(message) = self.window.at(target) else { return Some(target) };
        let edit = self.last_edit(message).filter(|_| message.content != content::RECALLED);
        edit.filter(|edit| self.window.at(*edit).is_none())
    }

    /// The request of an edit or recall and the place that it is about.
    fn revises(&self, bytes: &[u8]) -> Option<(RequestId, Seq)> {
        let (request, target) = match frame::open(bytes).ok()? {
            (Kind(0x03), archive) => {
                let edit = frame::decode_archive::<client::EditMessage<'_>>(archive).ok()?;
                (edit.request.to_native(), edit.target.to_native())
            }
            (Kind(0x04), archive) => {
                let recall = frame::decode_archive::<client::RecallMessage>(archive).ok()?;
                (recall.request.to_native(), recall.target.to_native())
            }
            _ => return None,
        };
        let target = Seq::from_raw(target);
        (target != Seq::ZERO && target <= self.head).then_some((RequestId::from_raw(request), target))
    }

    /// Takes in an event that [`Self::needs`] asked for, until the next command is applied.
    pub(crate) fn fetched(&mut self, event: Remembered) {
        self.window.replace(event);
    }

    /// Applies one command. What [`Self::needs`] asks for is here.
    pub(crate) fn apply(&mut self, at: At<'_>, head: &CommandHead, bytes: &[u8]) -> Effects {
        let mut effects = Effects::default();
        if at.position <= self.position && at.config.has(Sabotage::PositionSkip) {
            return effects;
        }
        self.position = at.position;
        let actor = UserId::from_raw(head.actor);
        // A frame that does not decode was refused before it was logged; one of a newer build's kinds changes nothing.
        if let Ok((kind, archive)) = frame::open(bytes) {
            effects.answer = self.dispatch(at, actor, kind, archive, &mut effects);
        }
        // What was refused for a conversation that nobody made leaves nothing behind.
        if self.exists() {
            effects.rows.push(self.main_row());
        }
        self.window.trim(self.moment(at), at.stored, at.config.has(Sabotage::WindowRetention));
        effects
    }

    fn dispatch(&mut self, at: At<'_>, actor: UserId, kind: Kind, archive: &[u8], out: &mut Effects) -> Option<Answer> {
        let mut joined = false;
        let (request, outcome) = match kind {
            client::SendMessage::KIND => {
                let f = frame::decode_archive::<client::SendMessage<'_>>(archive).ok()?;
                (f.request.to_native(), self.send(at, actor, f, out))
            }
            client::EditMessage::KIND => {
                let f = frame::decode_archive::<client::EditMessage<'_>>(archive).ok()?;
                (f.request.to_native(), self.edit(at, actor, f, out))
            }
            client::RecallMessage::KIND => {
                let f = frame::decode_archive::<client::RecallMessage>(archive).ok()?;
                (f.request.to_native(), self.recall(at, actor, f, out))
            }
            client::MoveCursor::KIND => {
                let f = frame::decode_archive::<client::MoveCursor>(archive).ok()?;
                (f.request.to_native(), self.move_cursor(at, actor, f, out))
            }
            client::OpenDirect::KIND => {
                let f = frame::decode_archive::<client::OpenDirect>(archive).ok()?;
                joined = true;
                (f.request.to_native(), self.open_direct(at, actor, f, out))
            }
            client::CreateGroup::KIND => {
                let f = frame::decode_archive::<client::CreateGroup<'_>>(archive).ok()?;
                joined = true;
                (f.request.to_native(), self.create_group(at, actor, f, out))
            }
            client::JoinGroup::KIND => {
                let f = frame::decode_archive::<client::JoinGroup>(archive).ok()?;
                joined = true;
                (f.request.to_native(), self.join(at, actor, f, out))
            }
            client::LeaveGroup::KIND => {
                let f = frame::decode_archive::<client::LeaveGroup>(archive).ok()?;
                (f.request.to_native(), self.leave(at, actor, f, out))
            }
            client::Invite::KIND => {
                let f = frame::decode_archive::<client::Invite<'_>>(archive).ok()?;
                (f.request.to_native(), self.invite(at, actor, f, out))
            }
            client::Kick::KIND => {
                let f = frame::decode_archive::<client::Kick>(archive).ok()?;
                (f.request.to_native(), self.kick(at, actor, f, out))
            }
            client::SetRole::KIND => {
                let f = frame::decode_archive::<client::SetRole>(archive).ok()?;
                (f.request.to_native(), self.set_role(at, actor, f, out))
            }
            command::EnterWorld::KIND => {
                let f = frame::decode_archive::<command::EnterWorld>(archive).ok()?;
                self.enter_world(at, UserId::from_raw(f.user.to_native()), out);
                return None;
            }
            _ => return None,
        };
        let request = RequestId::from_raw(request);
        Some(match outcome {
            Ok((seq, time)) => Answer::Done { request, seq, time, joined },
            Err(code) => Answer::Refused { request, code },
        })
    }

    /// What this request did before, if it is remembered.
    fn answered(&self, at: At<'_>, actor: UserId, request: RequestId) -> Option<Done> {
        self.window.answered(self.moment(at), actor, request)
    }

    fn moment(&self, at: At<'_>) -> Moment {
        Moment { head: self.head, time: at.time }
    }

    /// The member who asks, or the one refusal that tells a stranger nothing.
    fn member(&self, at: At<'_>, user: UserId) -> Result<MemberRow, RejectCode> {
        match self.members.get(&user) {
            Some(member) => Ok(member.row),
            None if !at.config.has(Sabotage::Permission) && self.exists() => {
                Ok(MemberRow { role: role::OWNER, ..Default::default() })
            }
            None => Err(RejectCode::NotFound),
        }
    }

    /// Gives an event its place: the only way by which a conversation grows.
    fn append(
        &mut self,
        at: At<'_>,
        actor: UserId,
        request: RequestId,
        new: NewEvent<'_>,
        out: &mut Effects,
    ) -> Outcome {
        self.head = self.head.next();
        self.visible += u64::from(new.kind == event::MESSAGE);
        self.head_time = at.time;
        let encoded = Bytes::from(frame::to_vec(&Event {
            conversation: self.id.raw(),
            seq: self.head.raw(),
            time: at.time.raw(),
            visible: self.visible,
            sender: actor.raw(),
            request: request.raw(),
            target: new.target.raw(),
            revised: 0,
            subject: new.subject.raw(),
            kind: new.kind,
            content: new.content,
            role: new.role,
            mentions: new.mentions,
            body: new.body,
        }));
        let head = EventHead {
            seq: self.head,
            visible: self.visible,
            time: at.time,
            sender: actor,
            subject: new.subject,
            target: new.target,
            kind: new.kind,
            role: new.role,
            members: u32::try_from(self.members.len()).unwrap_or(u32::MAX),
        };
        self.window.push(Remembered {
            frame: encoded.clone(),
            position: at.carrier,
            head,
            request,
            revised: Seq::ZERO,
            content: new.content,
            fingerprint: Some(new.fingerprint),
        });
        out.rows.push(event_row(self.id, self.head, encoded.clone()));
        out.events.push((head, encoded));
        Ok((self.head, at.time))
    }

    /// Puts a member's state into the rows.
    fn write_member(&self, user: UserId, row: &MemberRow, out: &mut Effects) {
        let key = Part::Member(user).key(&self.prefix).into();
        out.rows.push(Row { table: Table::Entities, key, value: Some(stored::encode_row(row).into()) });
    }

    fn main_row(&self) -> Row {
        let row = ConversationRow {
            position: self.position.raw(),
            head: self.head.raw(),
            visible: self.visible,
            head_time: self.head_time.raw(),
            created: self.created.raw(),
            creator: self.creator.raw(),
            members: u32::try_from(self.members.len()).unwrap_or(u32::MAX),
            flags: self.flags,
            title: self.title.to_vec(),
        };
        let key = Part::Main.key(&self.prefix).into();
        Row { table: Table::Entities, key, value: Some(stored::encode_row(&row).into()) }
    }

    fn is_group(&self) -> bool {
        matches!(self.id.kind(), Some(ConversationKind::Group(_)))
    }
}

/// What makes one event differ from another.
struct NewEvent<'a> {
    kind: u8,
    content: u8,
    role: u8,
    target: Seq,
    subject: UserId,
    mentions: &'a [u64],
    body: &'a [u8],
    /// Tells a resend from another request with the same id.
    fingerprint: u64,
}

impl NewEvent<'_> {
    const EMPTY: Self = Self {
        kind: 0,
        content: 0,
        role: 0,
        target: Seq::ZERO,
        subject: UserId::from_raw(0),
        mentions: &[],
        body: &[],
        fingerprint: 0,
    };
}

impl Effects {
    /// Tells a user's log that they are in, or out.
    fn set_directory(&mut self, at: At<'_>, conversation: ConversationId, user: UserId, joined: bool) {
        self.emissions.push(Emission {
            to: EmissionTarget::User(user),
            frame: to_bytes(&command::SetDirectory {
                conversation: conversation.raw(),
                user: user.raw(),
                version: at.position.raw(),
                joined: u8::from(joined),
            }),
        });
    }
}

impl Answer {
    /// Whether a group had no room.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Refused { code: RejectCode::GroupFull, .. })
    }

    /// The frame for the session that asked.
    pub(crate) fn frame(&self, conversation: ConversationId) -> Bytes {
        match *self {
            Self::Done { request, seq, time, .. } => to_bytes(&Ack {
                request: request.raw(),
                conversation: conversation.raw(),
                seq: seq.raw(),
                time: time.raw(),
            }),
            Self::Refused { request, code } => reject(request, code, 0),
        }
    }
}

/// An encoded refusal. `retry_after` in milliseconds.
pub(crate) fn reject(request: RequestId, code: RejectCode, retry_after: u32) -> Bytes {
    to_bytes(&Reject { request: request.raw(), code: code.raw(), retry_after })
}

/// An encoded frame that can be shared.
pub(crate) fn to_bytes<F: Encode>(frame: &F) -> Bytes {
    frame::to_vec(frame).into()
}

fn event_row(conversation: ConversationId, seq: Seq, frame: Bytes) -> Row {
    let key = Bytes::copy_from_slice(&stored::event_key(conversation, seq));
    Row { table: Table::Events, key, value: Some(frame) }
}

/// The partition of an emission.
impl EmissionTarget {
    /// Which log it goes to.
    pub(crate) fn partition(self, placement: tern_protocol::placement::Placement) -> PartitionId {
        match self {
            Self::User(user) => placement.of_user(user),
            Self::Conversation(id) => placement.of_conversation(id),
        }
    }
}
