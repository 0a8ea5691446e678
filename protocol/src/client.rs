//! The frames that a client may send, 0x01 to 0x3f. Requests carry a `request` id of the client's choice; the answer repeats it.
//! Never says who the sender is: that is the connection's.

use rkyv::{Archive, Serialize};

use crate::frame::frame;
use crate::slice::Slice;

/// "I have everything of this conversation up to here."
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Which conversation.
    pub conversation: u128,
    /// The last event applied, in order, without a hole before it.
    pub seq: u64,
}

/// The first frame of a connection.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Hello<'a> {
    /// Number of the last user event seen; 0 for none.
    pub user_seq: u64,
    /// Access token.
    #[rkyv(with = Slice)]
    pub token: &'a [u8],
    /// Name and version of the client's software, for the operator's logs.
    #[rkyv(with = Slice)]
    pub client: &'a [u8],
    /// What the client has, so that it gets exactly what it lacks. At most `POSITIONS_MAX`.
    #[rkyv(with = Slice)]
    pub positions: &'a [At],
}
frame!(0x01, Hello<'a>, [token, client, positions]);

/// A message. Answered by [`crate::server::Ack`] or [`crate::server::Reject`].
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct SendMessage<'a> {
    /// Chosen by the client; a resend carries the same.
    pub request: u128,
    /// Where to.
    pub conversation: u128,
    /// The last seq of this conversation the client had when it first tried; `KNOWN_FRESH` on a first attempt.
    pub known: u64,
    /// The message this one answers; 0 for none.
    pub reply_to: u64,
    /// What the body is: see [`crate::server::content`].
    pub content: u8,
    /// Users to notify. At most `MENTIONS_MAX`.
    #[rkyv(with = Slice)]
    pub mentions: &'a [u64],
    /// 1 to `BODY_SIZE_MAX` bytes.
    #[rkyv(with = Slice)]
    pub body: &'a [u8],
}
frame!(0x02, SendMessage<'a>, [mentions, body]);

/// Replaces the body of an own message.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct EditMessage<'a> {
    /// Chosen by the client; a resend carries the same.
    pub request: u128,
    /// Where.
    pub conversation: u128,
    /// As in [`SendMessage`].
    pub known: u64,
    /// The message.
    pub target: u64,
    /// What the body is.
    pub content: u8,
    /// The new body, 1 to `BODY_SIZE_MAX` bytes.
    #[rkyv(with = Slice)]
    pub body: &'a [u8],
}
frame!(0x03, EditMessage<'a>, [body]);

/// Takes a message back: own ones, or others' for an admin. The message's body is erased from the store; the events of earlier edits
/// keep theirs, and a client shows none of them.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct RecallMessage {
    /// Chosen by the client; a resend carries the same.
    pub request: u128,
    /// Where.
    pub conversation: u128,
    /// As in [`SendMessage`].
    pub known: u64,
    /// The message.
    pub target: u64,
}
frame!(0x04, RecallMessage, []);

/// Moves the own read or delivered cursor forward; going back is ignored.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct MoveCursor {
    /// Chosen by the client.
    pub request: u128,
    /// Where.
    pub conversation: u128,
    /// Everything up to this event.
    pub seq: u64,
    /// `visible` of that event, as the server stamped it.
    pub visible: u64,
    /// 1 delivered, 2 read (which implies delivered): see [`cursor`].
    pub cursor: u8,
}
frame!(0x05, MoveCursor, []);

/// Values of [`MoveCursor::cursor`].
pub mod cursor {
    /// Arrived on a device. Direct conversations only, elsewhere ignored; kept in memory, rebuilt from clients' positions; not
    /// acknowledged, `visible` is not looked at.
    pub const DELIVERED: u8 = 1;
    /// Seen by the user. Durable and acknowledged.
    pub const READ: u8 = 2;
}

/// "I am writing", or no more. May be dropped under load; not answered.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Typing {
    /// Where.
    pub conversation: u128,
    /// 1 writing, 0 stopped.
    pub active: u8,
}
frame!(0x06, Typing, []);

/// Replaces the set of users whose presence this session wants. Answered by their state now, then by each change.
/// Only users with whom there is a direct conversation are shown; others are ignored.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct WatchPresence<'a> {
    /// At most `PRESENCE_WATCH_MAX`.
    #[rkyv(with = Slice)]
    pub users: &'a [u64],
}
frame!(0x07, WatchPresence<'a>, [users]);

/// Asks for a page of a conversation's events. Answered by [`crate::server::HistoryPage`].
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct GetHistory {
    /// Chosen by the client.
    pub request: u128,
    /// Which conversation.
    pub conversation: u128,
    /// Events after (direction 1) or before (direction 0) this one, itself excluded. Before `u64::MAX`: from the head.
    pub anchor: u64,
    /// 1 to `HISTORY_PAGE_MAX` events.
    pub limit: u16,
    /// 0 before, 1 after. The page is in ascending order either way.
    pub direction: u8,
}
frame!(0x08, GetHistory, []);

/// Asks for a page of the own conversations, newest activity first. Answered by [`crate::server::DirectoryPage`].
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct GetDirectory {
    /// Chosen by the client.
    pub request: u128,
    /// Continue below this activity time; 0 for the first page.
    pub before_time: u64,
    /// Continue below this conversation among those of the same time.
    pub before_conversation: u128,
    /// 1 to `DIRECTORY_PAGE_MAX` entries.
    pub limit: u16,
}
frame!(0x09, GetDirectory, []);

/// Asks for a page of a conversation's members, by user id. Answered by [`crate::server::MembersPage`].
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct GetMembers {
    /// Chosen by the client.
    pub request: u128,
    /// Which conversation.
    pub conversation: u128,
    /// Continue after this user; 0 for the first page.
    pub after: u64,
    /// 1 to `MEMBERS_PAGE_MAX` members.
    pub limit: u16,
}
frame!(0x0a, GetMembers, []);

/// Looks users up, by id or by one account name. Answered by [`crate::server::Profiles`].
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct GetProfiles<'a> {
    /// Chosen by the client.
    pub request: u128,
    /// At most `PROFILES_MAX` ids.
    #[rkyv(with = Slice)]
    pub users: &'a [u64],
    /// One account name, or empty.
    #[rkyv(with = Slice)]
    pub name: &'a [u8],
}
frame!(0x0b, GetProfiles<'a>, [users, name]);

/// Opens the direct conversation with a user; if it exists, says where. Answered by an ack.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct OpenDirect {
    /// Chosen by the client.
    pub request: u128,
    /// The other one.
    pub user: u64,
}
frame!(0x0c, OpenDirect, []);

/// Makes a group, the caller its owner. The same request makes the same group once. Answered by an ack with its id.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct CreateGroup<'a> {
    /// Chosen by the client; the group's id follows from it.
    pub request: u128,
    /// See [`group`].
    pub flags: u8,
    /// 1 to `TITLE_SIZE_MAX` bytes of UTF-8.
    #[rkyv(with = Slice)]
    pub title: &'a [u8],
    /// Who else is in from the start. At most `INVITES_MAX`.
    #[rkyv(with = Slice)]
    pub members: &'a [u64],
}
frame!(0x0d, CreateGroup<'a>, [title, members]);

/// Bits of [`CreateGroup::flags`].
pub mod group {
    /// Anyone who knows the id may join.
    pub const OPEN: u8 = 1;
    /// Members may read what was said before they joined.
    pub const HISTORY_FOR_ALL: u8 = 2;
    /// Every bit that means something.
    pub const ALL: u8 = OPEN | HISTORY_FOR_ALL;
}

/// Joins an open group.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct JoinGroup {
    /// Chosen by the client; a resend carries the same.
    pub request: u128,
    /// Which group.
    pub conversation: u128,
}
frame!(0x0e, JoinGroup, []);

/// Leaves a group.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct LeaveGroup {
    /// Chosen by the client; a resend carries the same.
    pub request: u128,
    /// Which group.
    pub conversation: u128,
}
frame!(0x0f, LeaveGroup, []);

/// Adds users to a group; any member may, users already in are skipped. One event per user added.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Invite<'a> {
    /// Chosen by the client; a resend carries the same.
    pub request: u128,
    /// Which group.
    pub conversation: u128,
    /// 1 to `INVITES_MAX` users.
    #[rkyv(with = Slice)]
    pub users: &'a [u64],
}
frame!(0x10, Invite<'a>, [users]);

/// Removes a member of lower role.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Kick {
    /// Chosen by the client; a resend carries the same.
    pub request: u128,
    /// Which group.
    pub conversation: u128,
    /// Who.
    pub user: u64,
}
frame!(0x11, Kick, []);

/// Gives a member another role; only an owner may. Giving `OWNER` hands the group over: the caller becomes admin.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct SetRole {
    /// Chosen by the client; a resend carries the same.
    pub request: u128,
    /// Which group.
    pub conversation: u128,
    /// Who.
    pub user: u64,
    /// See [`crate::server::role`].
    pub role: u8,
}
frame!(0x12, SetRole, []);

/// Keep-alive. Answered by [`crate::server::Pong`] with the heads that differ from these positions.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Ping<'a> {
    /// Repeated in the answer.
    pub nonce: u64,
    /// What the client has; also moves the delivered cursors. At most `POSITIONS_MAX`.
    #[rkyv(with = Slice)]
    pub positions: &'a [At],
}
frame!(0x13, Ping<'a>, [positions]);
