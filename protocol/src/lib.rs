//! Every byte layout of Tern that outlives a process: ids, client and server frames, log commands, stored rows, codes, limits; and the
//! two rules that clients and servers keep alike, where an entity lives and when an empty packet follows a message.
//! Knows no clock, randomness, I/O or runtime; depends on rkyv and nothing else. `docs/wire-format.md` is the prose of it.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod client;
pub mod code;
pub mod command;
pub mod frame;
pub mod id;
pub mod limit;
pub mod placement;
pub mod server;
mod slice;
pub mod stored;
pub mod tail;

pub use code::{CloseCode, RejectCode};
pub use frame::{Frame, FrameError, Kind};
pub use id::{
    ConversationId, ConversationKind, DeviceId, PartitionId, Position, RequestId, Seq, SessionId, ShardId, Timestamp,
    UserId,
};
