//! What the benches share: one shard driven through its public interface, and a clock that runs only while the measured part does.
//! Never reaches into a crate's insides: what is measured is what the server runs.
#![forbid(unsafe_code)]

mod fixture;
mod message;
mod room;
mod stopwatch;

pub use fixture::{Fixture, Login};
pub use message::{event, send};
pub use room::Room;
pub use stopwatch::measure;
