//! The view: rows of events and entities in an LSM, and per partition how far the log has been applied. Knows no row's meaning.
//! Every batch of rows moves its partitions' checkpoints with it, or neither is there.

#[cfg(feature = "conformance")]
pub mod crash;
mod door;
mod doorbell;
mod engine;
mod lsm;
mod reader;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use crate::config::EmbeddedConfig;
use crate::error::OpenError;

pub(crate) use doorbell::Doorbell;
pub(crate) use engine::View;
pub(crate) use reader::{Reader, ReaderLane};
pub(crate) use writer::{ViewLane, ViewWriter};

/// Opens or creates the view, and reads how far each partition has been applied.
pub(crate) fn open(config: &EmbeddedConfig) -> Result<(View, Vec<u64>), OpenError> {
    let (door, applied) = door::Door::open(config)?;
    Ok((Arc::new(door), applied))
}
