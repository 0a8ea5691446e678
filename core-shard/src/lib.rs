//! All chat logic of one shard: sessions, conversations, users, accounts, ordering, fan-out, limits. Entry: [`Shard::handle`].
//! Knows no socket, clock, thread, database or runtime; the simulator in `tests/` runs whole clusters of it in one thread.
#![forbid(unsafe_code)]

pub mod config;
pub mod io;
pub mod message;
mod shard;

pub use config::{Limits, Sabotage, ShardConfig};
pub use io::{Input, Output};
pub use shard::Shard;
