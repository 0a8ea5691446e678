//! The frames that the server sends, 0x80 to 0xff. An [`Event`] is also what the store keeps: the very same bytes.
//! Never depends on who receives it, but for answers: a delivery is encoded once for all.

use rkyv::{Archive, Serialize};

use crate::frame::{Frame, Kind, Walk, frame};
use crate::slice::Slice;

/// Answers a hello: who the client is here, and what it needs to know of the server.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Welcome {
    /// The user.
    pub user: u64,
    /// The device that the token names.
    pub device: u64,
    /// This connection, for the operator's logs.
    pub session: u64,
    /// The server's clock. Unit: microseconds since 1970.
    pub time: u64,
    /// Number of the last user event. If it is not the client's, the client reads its directory again.
    pub user_seq: u64,
    /// The shard where this user's sessions are best placed, and how many there are: the first byte of the next
    /// connection's id, modulo `shards`, should be `home`.
    pub home: u16,
    /// See `home`.
    pub shards: u16,
    /// How often the client should ping. Unit: milliseconds.
    pub ping_interval: u32,
}
frame!(0x80, Welcome, []);

/// The client's position cannot be continued: forget it and page from the head. `conversation` 0: all of them.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Reset {
    /// Which conversation.
    pub conversation: u128,
    /// Its head.
    pub seq: u64,
    /// Messages up to its head.
    pub visible: u64,
}
frame!(0x81, Reset, []);

/// The request is done and durable.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Ack {
    /// Which request.
    pub request: u128,
    /// Where it happened.
    pub conversation: u128,
    /// The event it made. Create and open: always 1. Invite: the last one. Cursor: where the cursor is.
    /// A request that changed nothing (a member invited again): the head.
    pub seq: u64,
    /// When that event was. Unit: microseconds since 1970.
    pub time: u64,
}
frame!(0x82, Ack, []);

/// The request is not done.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Reject {
    /// Which request.
    pub request: u128,
    /// Why: see [`crate::code::RejectCode`].
    pub code: u16,
    /// When to try again; 0 where that cannot help. Unit: milliseconds.
    pub retry_after: u32,
}
frame!(0x83, Reject, []);

/// What happened in a conversation: one place of its total order.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Where.
    pub conversation: u128,
    /// Its place, from 1, without holes.
    pub seq: u64,
    /// When it became durable. Unit: microseconds since 1970.
    pub time: u64,
    /// Messages (kind [`event::MESSAGE`]) up to and including this event: what unread counts are made of.
    pub visible: u64,
    /// Whose doing.
    pub sender: u64,
    /// The sender's request id: how its own devices know it again.
    pub request: u128,
    /// The message answered, edited or recalled; 0 for none.
    pub target: u64,
    /// The event that last edited or recalled this one; 0 for none. The body is the newest one; an edit that was followed by another one,
    /// or by a recall, has none any more.
    pub revised: u64,
    /// The user added, removed or given a role; 0 for none.
    pub subject: u64,
    /// What happened: see [`event`].
    pub kind: u8,
    /// What the body is: see [`content`].
    pub content: u8,
    /// For a role change, add or join: the role given; for a creation: the creator's in a group. See [`role`].
    pub role: u8,
    /// Users to notify.
    #[rkyv(with = Slice)]
    pub mentions: &'a [u64],
    /// The sender's bytes, unchanged; for [`event::CREATED`]: the title.
    #[rkyv(with = Slice)]
    pub body: &'a [u8],
}
frame!(0x84, Event<'a>, [mentions, body]);

/// Values of [`Event::kind`]. A client shows unknown ones as nothing and goes on.
pub mod event {
    /// The conversation begins; always seq 1.
    pub const CREATED: u8 = 1;
    /// A message. The only kind that counts as unread.
    pub const MESSAGE: u8 = 2;
    /// A message was edited: `target`, new body.
    pub const EDITED: u8 = 3;
    /// A message was recalled: `target`.
    pub const RECALLED: u8 = 4;
    /// `subject` joined by themselves.
    pub const JOINED: u8 = 5;
    /// `subject` left.
    pub const LEFT: u8 = 6;
    /// `subject` was added by `sender`.
    pub const ADDED: u8 = 7;
    /// `subject` was removed by `sender`.
    pub const KICKED: u8 = 8;
    /// `subject` has `role` now.
    pub const ROLE: u8 = 9;
}

/// Values of `content`.
pub mod content {
    /// UTF-8 text.
    pub const TEXT: u8 = 0;
    /// Bytes that only the clients understand.
    pub const OPAQUE: u8 = 1;
    /// There is no body any more: the message was recalled, or the edit was followed by another one. Never sent by a client.
    pub const RECALLED: u8 = 255;
}

/// Values of `role`, ordered: more is more.
pub mod role {
    /// Of a directory entry: the server cannot read the conversation at present, and the entry says nothing else.
    pub const UNREADABLE: u8 = 0;
    /// May send and read.
    pub const MEMBER: u8 = 1;
    /// May also remove members and recall their messages.
    pub const ADMIN: u8 = 2;
    /// May also give roles. A group with members has exactly one after each command.
    pub const OWNER: u8 = 3;
}

/// Where a member's cursors are. Live only: the directory has the durable state.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Receipt {
    /// Where.
    pub conversation: u128,
    /// Who.
    pub user: u64,
    /// Read up to here.
    pub read: u64,
    /// `visible` at `read`; 0 where only the other one's cursor matters.
    pub read_visible: u64,
    /// Arrived on a device up to here.
    pub delivered: u64,
}
frame!(0x85, Receipt, []);

/// Somebody is writing. Live only; datagram where there are datagrams. A client forgets it after 6 seconds.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct TypingNotice {
    /// Where.
    pub conversation: u128,
    /// Who.
    pub user: u64,
    /// 1 writing, 0 stopped.
    pub active: u8,
}
frame!(0x86, TypingNotice, []);

/// A watched user's state. Live only; datagram where there are datagrams.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct PresenceNotice {
    /// Who.
    pub user: u64,
    /// When last seen; 0 while online or never. Unit: microseconds since 1970.
    pub last_seen: u64,
    /// 1 online, 0 not.
    pub online: u8,
}
frame!(0x87, PresenceNotice, []);

/// Events of a conversation, ascending, without holes between them.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct HistoryPage<'a> {
    /// Which request.
    pub request: u128,
    /// Which conversation.
    pub conversation: u128,
    /// Its head when the page was made.
    pub head: u64,
    /// The oldest event this user may read.
    pub first: u64,
    /// Whole event frames, headers included, end to end.
    #[rkyv(with = Slice)]
    pub events: &'a [u8],
}
frame!(0x88, HistoryPage<'a>, [events]);

/// One conversation as its member sees it. `unread = head_visible - max(read_visible, join_visible)`.
#[derive(Archive, Serialize, Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Which conversation.
    pub conversation: u128,
    /// Last event.
    pub head: u64,
    /// Messages up to the head.
    pub head_visible: u64,
    /// Time of the last event. Unit: microseconds since 1970.
    pub head_time: u64,
    /// The event with which this user came in.
    pub join: u64,
    /// Messages up to `join`.
    pub join_visible: u64,
    /// This user's read cursor.
    pub read: u64,
    /// Messages up to `read`.
    pub read_visible: u64,
    /// Direct: the other one's read cursor. Groups: 0.
    pub peer_read: u64,
    /// Direct: how far the other one's devices have it. Groups: 0.
    pub peer_delivered: u64,
    /// Number of members.
    pub members: u32,
    /// This user's role.
    pub role: u8,
    /// Group title.
    pub title: Vec<u8>,
    /// The last message: its place, its sender, and the beginning of its text (at most `PREVIEW_SIZE_MAX`). 0 if it was recalled, may not
    /// be read, or is not at hand.
    pub preview_seq: u64,
    /// See `preview_seq`.
    pub preview_sender: u64,
    /// See `preview_seq`.
    pub preview: Vec<u8>,
}

/// A page of the own conversations, newest activity first. `request` 0: unasked, the entries that are new or changed.
#[derive(Archive, Serialize, Debug, Clone)]
pub struct DirectoryPage {
    /// Which request.
    pub request: u128,
    /// 1: there are more below the last entry.
    pub more: u8,
    /// The entries.
    pub entries: Vec<DirectoryEntry>,
}

impl Frame for DirectoryPage {
    const KIND: Kind = Kind(0x89);
    fn walk(archived: &Self::Archived, walk: &mut Walk) {
        for entry in archived.entries.as_slice() {
            walk.part(&entry.title);
            walk.part(&entry.preview);
        }
        walk.part(&archived.entries);
    }
}

/// One member of a conversation.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: u64,
    /// The event with which they came in.
    pub join: u64,
    /// Read up to here.
    pub read: u64,
    /// See [`role`].
    pub role: u8,
}

/// A page of a conversation's members, by user id.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct MembersPage<'a> {
    /// Which request.
    pub request: u128,
    /// Which conversation.
    pub conversation: u128,
    /// How many there are in all.
    pub total: u32,
    /// 1: there are more after the last one here.
    pub more: u8,
    /// The members.
    #[rkyv(with = Slice)]
    pub members: &'a [Member],
}
frame!(0x8a, MembersPage<'a>, [members]);

/// What everybody may know of a user.
#[derive(Archive, Serialize, Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Who.
    pub user: u64,
    /// The account name.
    pub name: Vec<u8>,
    /// The display name.
    pub display: Vec<u8>,
}

/// The users found; those that do not exist are left out.
#[derive(Archive, Serialize, Debug, Clone)]
pub struct Profiles {
    /// Which request.
    pub request: u128,
    /// The users found.
    pub profiles: Vec<Profile>,
}

impl Frame for Profiles {
    const KIND: Kind = Kind(0x8b);
    fn walk(archived: &Self::Archived, walk: &mut Walk) {
        for profile in archived.profiles.as_slice() {
            walk.part(&profile.name);
            walk.part(&profile.display);
        }
        walk.part(&archived.profiles);
    }
}

/// Something about the own account that all of a user's devices must learn.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct UserEvent {
    /// Its number, from 1. A client that misses one reads its directory again.
    pub user_seq: u64,
    /// Which conversation; 0 for none.
    pub conversation: u128,
    /// What: see [`user_event`].
    pub kind: u8,
}
frame!(0x8c, UserEvent, []);

/// Values of [`UserEvent::kind`].
pub mod user_event {
    /// This user is in a conversation. Its directory entry follows unasked.
    pub const CONVERSATION_ADDED: u8 = 1;
    /// This user is no longer in a conversation.
    pub const CONVERSATION_REMOVED: u8 = 2;
}

/// Where a conversation's end is.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which conversation.
    pub conversation: u128,
    /// Its last event.
    pub seq: u64,
    /// Messages up to it.
    pub visible: u64,
}

/// Answers a ping; with nonce 0, unasked: live delivery was stopped for a slow reader and goes on now, from these heads.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Pong<'a> {
    /// The ping's.
    pub nonce: u64,
    /// The server's clock. Unit: microseconds since 1970.
    pub time: u64,
    /// Number of the last user event.
    pub user_seq: u64,
    /// The conversations whose head is not the position that the ping gave.
    #[rkyv(with = Slice)]
    pub heads: &'a [Head],
}
frame!(0x8d, Pong<'a>, [heads]);

/// The server is going away. Everything sent before it was accepted is still answered.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Drain {
    /// When to connect again: this client's own slot, so that not all come at once. Unit: milliseconds.
    pub reconnect_after: u32,
}
frame!(0x8e, Drain, []);
