//! Frames as a client writes and reads them, and as the log keeps them: owned copies of what `tern_protocol` describes.
//! Never looks inside the core: whatever it cannot read is a violation of the wire format.

use bytes::Bytes;
use tern_protocol::client::{
    At, CreateGroup, EditMessage, GetDirectory, GetHistory, GetMembers, Hello, Invite, JoinGroup, Kick, LeaveGroup,
    MoveCursor, OpenDirect, Ping, RecallMessage, SendMessage, SetRole, Typing, WatchPresence,
};
use tern_protocol::frame::{self, Encode, Frame};
use tern_protocol::server::{
    Ack, DirectoryEntry, DirectoryPage, Drain, Event, Head, HistoryPage, Member, MembersPage, Pong, PresenceNotice,
    Profiles, Receipt, Reject, Reset, TypingNotice, UserEvent, Welcome,
};
use tern_protocol::{ConversationId, FrameError, RequestId, UserId};

/// An event, with all that it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventCopy {
    pub(crate) conversation: ConversationId,
    pub(crate) seq: u64,
    pub(crate) time: u64,
    pub(crate) visible: u64,
    pub(crate) sender: UserId,
    pub(crate) request: u128,
    pub(crate) target: u64,
    pub(crate) revised: u64,
    pub(crate) subject: UserId,
    pub(crate) kind: u8,
    pub(crate) content: u8,
    pub(crate) role: u8,
    pub(crate) mentions: Vec<u64>,
    pub(crate) body: Vec<u8>,
}

impl EventCopy {
    /// Reads an event frame.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, FrameError> {
        let event = frame::decode::<Event<'_>>(bytes)?;
        Ok(Self {
            conversation: ConversationId::from_raw(event.conversation.to_native()),
            seq: event.seq.to_native(),
            time: event.time.to_native(),
            visible: event.visible.to_native(),
            sender: UserId::from_raw(event.sender.to_native()),
            request: event.request.to_native(),
            target: event.target.to_native(),
            revised: event.revised.to_native(),
            subject: UserId::from_raw(event.subject.to_native()),
            kind: event.kind,
            content: event.content,
            role: event.role,
            mentions: event.mentions.iter().map(|user| user.to_native()).collect(),
            body: event.body.to_vec(),
        })
    }

    /// The same event before it was edited or recalled: all that may never change.
    pub(crate) fn unrevised(&self) -> Self {
        Self { revised: 0, content: 0, mentions: Vec::new(), body: Vec::new(), ..self.clone() }
    }
}

/// A request that ends in an ack or a reject, as the client remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Send { conversation: ConversationId, reply_to: u64, mentions: Vec<u64>, body: Vec<u8> },
    Edit { conversation: ConversationId, target: u64, body: Vec<u8> },
    Recall { conversation: ConversationId, target: u64 },
    Read { conversation: ConversationId, seq: u64, visible: u64 },
    OpenDirect { user: UserId },
    Create { flags: u8, title: Vec<u8>, members: Vec<u64> },
    Join { conversation: ConversationId },
    Leave { conversation: ConversationId },
    Invite { conversation: ConversationId, users: Vec<u64> },
    Kick { conversation: ConversationId, user: UserId },
    SetRole { conversation: ConversationId, user: UserId, role: u8 },
}

impl Op {
    /// Which conversation it is for, if it says so.
    pub(crate) fn conversation(&self) -> Option<ConversationId> {
        match self {
            Self::Send { conversation, .. }
            | Self::Edit { conversation, .. }
            | Self::Recall { conversation, .. }
            | Self::Read { conversation, .. }
            | Self::Join { conversation }
            | Self::Leave { conversation }
            | Self::Invite { conversation, .. }
            | Self::Kick { conversation, .. }
            | Self::SetRole { conversation, .. } => Some(*conversation),
            Self::OpenDirect { .. } | Self::Create { .. } => None,
        }
    }

    /// Whether it carries the position at which it was first tried.
    pub(crate) fn says_what_it_knows(&self) -> bool {
        matches!(self, Self::Send { .. } | Self::Edit { .. } | Self::Recall { .. })
    }

    /// Whether its ack names an event of its own.
    pub(crate) fn makes_an_event(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::OpenDirect { .. } | Self::Join { .. } | Self::Invite { .. })
    }

    /// The frame.
    pub(crate) fn frame(&self, request: u128, known: u64) -> Bytes {
        let raw = self.conversation().map_or(0, ConversationId::raw);
        match self {
            Self::Send { reply_to, mentions, body, .. } => bytes(&SendMessage {
                request,
                conversation: raw,
                known,
                reply_to: *reply_to,
                content: tern_protocol::server::content::TEXT,
                mentions,
                body,
            }),
            Self::Edit { target, body, .. } => {
                bytes(&EditMessage { request, conversation: raw, known, target: *target, content: 0, body })
            }
            Self::Recall { target, .. } => bytes(&RecallMessage { request, conversation: raw, known, target: *target }),
            Self::Read { seq, visible, .. } => bytes(&MoveCursor {
                request,
                conversation: raw,
                seq: *seq,
                visible: *visible,
                cursor: tern_protocol::client::cursor::READ,
            }),
            Self::OpenDirect { user } => bytes(&OpenDirect { request, user: user.raw() }),
            Self::Create { flags, title, members } => bytes(&CreateGroup { request, flags: *flags, title, members }),
            Self::Join { .. } => bytes(&JoinGroup { request, conversation: raw }),
            Self::Leave { .. } => bytes(&LeaveGroup { request, conversation: raw }),
            Self::Invite { users, .. } => bytes(&Invite { request, conversation: raw, users }),
            Self::Kick { user, .. } => bytes(&Kick { request, conversation: raw, user: user.raw() }),
            Self::SetRole { user, role, .. } => {
                bytes(&SetRole { request, conversation: raw, user: user.raw(), role: *role })
            }
        }
    }

    /// Reads a client's command from the log; `None` for what is not one.
    pub(crate) fn read(record: &[u8]) -> Option<(u128, Self)> {
        let (kind, archive) = frame::open(record).ok()?;
        let id = ConversationId::from_raw;
        macro_rules! read {
            ($frame:ty, $f:ident => $op:expr) => {{
                let $f = frame::decode_archive::<$frame>(archive).ok()?;
                Some(($f.request.to_native(), $op))
            }};
        }
        match kind {
            SendMessage::KIND => read!(SendMessage<'_>, f => Self::Send {
                conversation: id(f.conversation.to_native()),
                reply_to: f.reply_to.to_native(),
                mentions: f.mentions.iter().map(|user| user.to_native()).collect(),
                body: f.body.to_vec(),
            }),
            EditMessage::KIND => read!(EditMessage<'_>, f => Self::Edit {
                conversation: id(f.conversation.to_native()),
                target: f.target.to_native(),
                body: f.body.to_vec(),
            }),
            RecallMessage::KIND => read!(RecallMessage, f => Self::Recall {
                conversation: id(f.conversation.to_native()),
                target: f.target.to_native(),
            }),
            MoveCursor::KIND => read!(MoveCursor, f => Self::Read {
                conversation: id(f.conversation.to_native()),
                seq: f.seq.to_native(),
                visible: f.visible.to_native(),
            }),
            OpenDirect::KIND => read!(OpenDirect, f => Self::OpenDirect { user: UserId::from_raw(f.user.to_native()) }),
            CreateGroup::KIND => read!(CreateGroup<'_>, f => Self::Create {
                flags: f.flags,
                title: f.title.to_vec(),
                members: f.members.iter().map(|user| user.to_native()).collect(),
            }),
            JoinGroup::KIND => read!(JoinGroup, f => Self::Join { conversation: id(f.conversation.to_native()) }),
            LeaveGroup::KIND => read!(LeaveGroup, f => Self::Leave { conversation: id(f.conversation.to_native()) }),
            Invite::KIND => read!(Invite<'_>, f => Self::Invite {
                conversation: id(f.conversation.to_native()),
                users: f.users.iter().map(|user| user.to_native()).collect(),
            }),
            Kick::KIND => read!(Kick, f => Self::Kick {
                conversation: id(f.conversation.to_native()),
                user: UserId::from_raw(f.user.to_native()),
            }),
            SetRole::KIND => read!(SetRole, f => Self::SetRole {
                conversation: id(f.conversation.to_native()),
                user: UserId::from_raw(f.user.to_native()),
                role: f.role,
            }),
            _ => None,
        }
    }
}

/// Encodes a frame.
pub(crate) fn bytes<F: Encode>(frame: &F) -> Bytes {
    Bytes::from(frame::to_vec(frame))
}

/// The first frame of a connection.
pub(crate) fn hello(user_seq: u64, token: &[u8], positions: &[At]) -> Bytes {
    bytes(&Hello { user_seq, token, client: b"sim", positions })
}

/// A keep-alive.
pub(crate) fn ping(nonce: u64, positions: &[At]) -> Bytes {
    bytes(&Ping { nonce, positions })
}

/// A page of history.
pub(crate) fn history(request: u128, id: ConversationId, anchor: u64, limit: u16, direction: u8) -> Bytes {
    bytes(&GetHistory { request, conversation: id.raw(), anchor, limit, direction })
}

/// A page of members.
pub(crate) fn members(request: u128, id: ConversationId, after: u64, limit: u16) -> Bytes {
    bytes(&GetMembers { request, conversation: id.raw(), after, limit })
}

/// A page of the directory.
pub(crate) fn directory(request: u128, before_time: u64, before_conversation: u128, limit: u16) -> Bytes {
    bytes(&GetDirectory { request, before_time, before_conversation, limit })
}

/// A delivered cursor.
pub(crate) fn delivered(request: u128, id: ConversationId, seq: u64, visible: u64) -> Bytes {
    let cursor = tern_protocol::client::cursor::DELIVERED;
    bytes(&MoveCursor { request, conversation: id.raw(), seq, visible, cursor })
}

/// "I am writing."
pub(crate) fn typing(id: ConversationId, active: u8) -> Bytes {
    bytes(&Typing { conversation: id.raw(), active })
}

/// Whose presence is wanted.
pub(crate) fn watch(users: &[u64]) -> Bytes {
    bytes(&WatchPresence { users })
}

/// What a server may say.
#[derive(Debug)]
pub(crate) enum FromServer {
    Welcome { user: UserId, device: u64, user_seq: u64, ping_interval: u32 },
    Reset { conversation: u128, seq: u64, visible: u64 },
    Ack { request: u128, conversation: ConversationId, seq: u64, time: u64 },
    Reject { request: u128, code: u16, retry_after: u32 },
    Event(EventCopy),
    Receipt { conversation: ConversationId, read: u64, delivered: u64 },
    Typing { conversation: ConversationId, user: UserId },
    Presence { user: UserId, online: bool },
    History { request: RequestId, conversation: ConversationId, head: u64, first: u64, events: Vec<EventCopy> },
    Directory { request: u128, more: bool, entries: Vec<DirectoryEntry> },
    Members { request: u128, conversation: ConversationId, more: bool, members: Vec<Member> },
    Profiles { request: u128 },
    UserEvent { user_seq: u64, conversation: ConversationId, kind: u8 },
    Pong { nonce: u64, user_seq: u64, heads: Vec<Head> },
    Drain,
}

impl FromServer {
    /// Reads any server frame.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, FrameError> {
        let (kind, archive) = frame::open(bytes)?;
        let id = ConversationId::from_raw;
        Ok(match kind {
            Event::KIND => Self::Event(EventCopy::read(bytes)?),
            Welcome::KIND => {
                let f = frame::decode_archive::<Welcome>(archive)?;
                Self::Welcome {
                    user: UserId::from_raw(f.user.to_native()),
                    device: f.device.to_native(),
                    user_seq: f.user_seq.to_native(),
                    ping_interval: f.ping_interval.to_native(),
                }
            }
            Reset::KIND => {
                let f = frame::decode_archive::<Reset>(archive)?;
                let (conversation, seq) = (f.conversation.to_native(), f.seq.to_native());
                Self::Reset { conversation, seq, visible: f.visible.to_native() }
            }
            Ack::KIND => {
                let f = frame::decode_archive::<Ack>(archive)?;
                let (conversation, seq) = (id(f.conversation.to_native()), f.seq.to_native());
                Self::Ack { request: f.request.to_native(), conversation, seq, time: f.time.to_native() }
            }
            Reject::KIND => {
                let f = frame::decode_archive::<Reject>(archive)?;
                let (code, retry_after) = (f.code.to_native(), f.retry_after.to_native());
                Self::Reject { request: f.request.to_native(), code, retry_after }
            }
            Receipt::KIND => {
                let f = frame::decode_archive::<Receipt>(archive)?;
                let (read, delivered) = (f.read.to_native(), f.delivered.to_native());
                Self::Receipt { conversation: id(f.conversation.to_native()), read, delivered }
            }
            TypingNotice::KIND => {
                let f = frame::decode_archive::<TypingNotice>(archive)?;
                let user = UserId::from_raw(f.user.to_native());
                Self::Typing { conversation: id(f.conversation.to_native()), user }
            }
            PresenceNotice::KIND => {
                let f = frame::decode_archive::<PresenceNotice>(archive)?;
                Self::Presence { user: UserId::from_raw(f.user.to_native()), online: f.online == 1 }
            }
            HistoryPage::KIND => {
                let f = frame::decode_archive::<HistoryPage<'_>>(archive)?;
                Self::History {
                    request: RequestId::from_raw(f.request.to_native()),
                    conversation: id(f.conversation.to_native()),
                    head: f.head.to_native(),
                    first: f.first.to_native(),
                    events: read_events(&f.events)?,
                }
            }
            DirectoryPage::KIND => {
                let f = frame::decode_archive::<DirectoryPage>(archive)?;
                let entries = f.entries.iter().map(read_entry).collect();
                Self::Directory { request: f.request.to_native(), more: f.more == 1, entries }
            }
            MembersPage::KIND => {
                let f = frame::decode_archive::<MembersPage<'_>>(archive)?;
                let (request, conversation) = (f.request.to_native(), id(f.conversation.to_native()));
                let members = f.members.iter().map(|member| Member {
                    user: member.user.to_native(),
                    join: member.join.to_native(),
                    read: member.read.to_native(),
                    role: member.role,
                });
                Self::Members { request, conversation, more: f.more == 1, members: members.collect() }
            }
            Profiles::KIND => {
                Self::Profiles { request: frame::decode_archive::<Profiles>(archive)?.request.to_native() }
            }
            UserEvent::KIND => {
                let f = frame::decode_archive::<UserEvent>(archive)?;
                let (user_seq, conversation) = (f.user_seq.to_native(), id(f.conversation.to_native()));
                Self::UserEvent { user_seq, conversation, kind: f.kind }
            }
            Pong::KIND => {
                let f = frame::decode_archive::<Pong<'_>>(archive)?;
                let heads = f.heads.iter().map(|head| Head {
                    conversation: head.conversation.to_native(),
                    seq: head.seq.to_native(),
                    visible: head.visible.to_native(),
                });
                let (nonce, user_seq) = (f.nonce.to_native(), f.user_seq.to_native());
                Self::Pong { nonce, user_seq, heads: heads.collect() }
            }
            Drain::KIND => {
                frame::decode_archive::<Drain>(archive)?;
                Self::Drain
            }
            unknown => return Err(FrameError::Kind(unknown.0)),
        })
    }
}

fn read_events(mut rest: &[u8]) -> Result<Vec<EventCopy>, FrameError> {
    let mut events = Vec::new();
    while !rest.is_empty() {
        let size = frame::size(rest)?.ok_or(FrameError::Length(0))?;
        let (event, after) = rest.split_at_checked(size).ok_or(FrameError::Length(0))?;
        events.push(EventCopy::read(event)?);
        rest = after;
    }
    Ok(events)
}

fn read_entry(entry: &tern_protocol::server::ArchivedDirectoryEntry) -> DirectoryEntry {
    DirectoryEntry {
        conversation: entry.conversation.to_native(),
        head: entry.head.to_native(),
        head_visible: entry.head_visible.to_native(),
        head_time: entry.head_time.to_native(),
        join: entry.join.to_native(),
        join_visible: entry.join_visible.to_native(),
        read: entry.read.to_native(),
        read_visible: entry.read_visible.to_native(),
        peer_read: entry.peer_read.to_native(),
        peer_delivered: entry.peer_delivered.to_native(),
        members: entry.members.to_native(),
        role: entry.role,
        title: entry.title.to_vec(),
        preview_seq: entry.preview_seq.to_native(),
        preview_sender: entry.preview_sender.to_native(),
        preview: entry.preview.to_vec(),
    }
}
