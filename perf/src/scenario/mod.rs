//! The scenarios: each answers one question about a server, from the load to the outcome. What they share is in `stage`.

mod behaviour;
mod binary;
mod calibrate;
pub mod options;
mod room;
mod schedule;
mod stage;

pub mod capacity;
pub mod connect;
pub mod direct;
pub mod floor;
pub mod group;
pub mod groups;
pub mod growth;
pub mod idle;
pub mod lossy;
pub mod migrate;
pub mod presence;
pub mod reconnect;
pub mod slow_readers;
pub mod suite;

pub use stage::Failure;
