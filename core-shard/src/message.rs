//! What shards of one node say to each other. In order per pair of shards, never lost while the node runs; never stored.

/// From one shard to another. Its content is the shards' own business.
#[derive(Debug)]
pub enum Message {}
