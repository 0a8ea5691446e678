//! The log of all partitions in one journal: group commit over all shards into zero-filled, reused segments.
//! Never hands out a command before it is durable; never repeats a failed sync.

pub(crate) mod batch;
pub(crate) mod disk;
mod lanes;
mod open;
mod preparer;
mod recover;
pub(crate) mod segments;
mod writer;

pub(crate) use lanes::{Append, FromJournal, JournalLane};
pub(crate) use open::open;
pub(crate) use preparer::Preparer;
pub(crate) use recover::recover;
pub use recover::{Cut, RecoveryReport};
pub(crate) use writer::Writer;
