//! Performs what shards ask for: keeps the log and the view, both embedded in this process. Entry: [`open`].
//! Knows no chat rule: what a command or a row means is the shard's business. Decides only order, time and durability.
#![forbid(unsafe_code)]

mod clock;
mod config;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod embedded;
mod error;
mod files;
mod identity;
mod journal;
mod sabotage;
#[cfg(all(test, feature = "sabotage"))]
mod simulation;
mod status;
mod store;
mod turns;
mod view;
mod watch;

pub use clock::{Clock, ClockKeeper, Moment, Noticed};
pub use config::EmbeddedConfig;
pub use embedded::{Bell, Embedded, EmbeddedHandle, open};
pub use error::{Journal, OpenError, ShutdownError};
pub use identity::name;
pub use journal::{Cut, RecoveryReport};
#[cfg(feature = "sabotage")]
pub use sabotage::Sabotage;
pub use status::{Counters, Health, State};
pub use store::{ShardStore, StoreCounters};
#[cfg(feature = "conformance")]
pub use view::crash as crash_view;

#[cfg(test)]
mod tests;
