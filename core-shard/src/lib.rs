//! All chat logic of one shard: sessions, conversations, users, accounts, ordering, fan-out, limits. Entry: [`Shard::handle`].
//! Knows no socket, clock, thread, database or runtime; the simulator in `tests/` runs whole clusters of it in one thread.
#![forbid(unsafe_code)]

mod account;
pub mod config;
mod context;
mod conversation;
mod counters;
pub mod io;
pub mod message;
mod owner;
mod rules;
mod sessions;
mod shard;
mod sorted_map;
mod user;

#[cfg(feature = "sabotage")]
pub use config::Sabotage;
pub use config::{Limits, ShardConfig};
pub use counters::Counters;
pub use io::{Input, Output};
pub use rules::LEVEL;
pub use shard::Shard;
