//! The bounds that both sides of the wire must know. Bounds of one process (queues, rates) are configuration, not here.

/// Largest frame, header included. Unit: bytes.
/// 64 KiB at 10 Mbit/s holds an uplink for 52 ms, which still feels immediate to a typist behind it.
pub const FRAME_SIZE_MAX: usize = 64 * 1024;
/// `[u32 length][u8 version][u8 kind]`. Unit: bytes.
pub const FRAME_HEADER_SIZE: usize = 6;
/// The version this build speaks.
pub const FRAME_VERSION: u8 = 1;
/// Largest message body. Unit: bytes. Bigger things are files.
pub const BODY_SIZE_MAX: usize = 16 * 1024;
/// Users that one message may mention by name. Unit: users.
pub const MENTIONS_MAX: usize = 64;
/// Users that one create or invite may add. Unit: users. 1024 ids are 8 KiB of frame.
pub const INVITES_MAX: usize = 1024;
/// Longest group title. Unit: bytes of UTF-8.
pub const TITLE_SIZE_MAX: usize = 128;
/// Longest display name. Unit: bytes of UTF-8.
pub const DISPLAY_NAME_SIZE_MAX: usize = 64;
/// Shortest and longest account name. Unit: bytes; ASCII letters, digits, `_`, `-`, `.`.
pub const ACCOUNT_NAME_SIZE_MIN: usize = 2;
/// See [`ACCOUNT_NAME_SIZE_MIN`].
pub const ACCOUNT_NAME_SIZE_MAX: usize = 32;
/// Longest access token in a hello. Unit: bytes.
pub const TOKEN_SIZE_MAX: usize = 2048;
/// Longest name a client gives of its own software or device. Unit: bytes.
pub const CLIENT_NAME_SIZE_MAX: usize = 128;
/// Positions that one hello or ping may carry. Unit: conversations. 24 B each: 1024 are 24 KiB, under half a frame.
pub const POSITIONS_MAX: usize = 1024;
/// Events that one history page may carry; a page also ends at [`PAGE_SIZE_MAX`]. Unit: events.
pub const HISTORY_PAGE_MAX: usize = 256;
/// Entries that one directory page may carry. Unit: entries.
pub const DIRECTORY_PAGE_MAX: usize = 100;
/// Members that one page may carry. Unit: members.
pub const MEMBERS_PAGE_MAX: usize = 512;
/// Events' bytes that one page may carry. Unit: bytes. Leaves room in the frame for the largest event and the page's own fields.
pub const PAGE_SIZE_MAX: usize = 40 * 1024;
/// Message preview inside a directory entry. Unit: bytes.
pub const PREVIEW_SIZE_MAX: usize = 160;
/// Profiles that one look-up may ask for. Unit: users.
pub const PROFILES_MAX: usize = 128;
/// Users whose presence one session may watch. Unit: users.
pub const PRESENCE_WATCH_MAX: usize = 512;
/// Shards of one node: online members are kept as one bit per shard in a `u64`.
pub const SHARD_COUNT_MAX: u16 = 64;
/// Server-to-client streams of one QUIC connection that carry events. Unit: streams.
/// A conversation always uses the same one: loss on one does not delay the others; three are enough to make that likely.
pub const DELIVERY_LANE_COUNT: usize = 3;
/// Events of a conversation in which a request id is remembered at least, newest first. Unit: events.
/// A resend that is older than what is remembered is refused with `CatchUpFirst`: the client must look for its own event before it may resend.
pub const DEDUP_WINDOW: u64 = 256;
/// `known` of a send that is its first attempt. Unit: none.
pub const KNOWN_FRESH: u64 = u64::MAX;

const _: () = assert!(FRAME_SIZE_MAX > PAGE_SIZE_MAX + BODY_SIZE_MAX + 1024 + FRAME_HEADER_SIZE);
const _: () = assert!(FRAME_SIZE_MAX > POSITIONS_MAX * 24 + TOKEN_SIZE_MAX + 1024);
const _: () = assert!(FRAME_SIZE_MAX > INVITES_MAX * 8 + TITLE_SIZE_MAX + 1024);
