//! What a shard counts. Plain numbers that only grow, but for the gauges at the end; read by whoever shows metrics.

/// Numbers of one shard since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Commands applied.
    pub commands: u64,
    /// Events that commands made.
    pub events: u64,
    /// Events put into sessions' outboxes.
    pub deliveries: u64,
    /// Requests refused.
    pub rejects: u64,
    /// Requests refused for their rate.
    pub rate_limited: u64,
    /// Requests refused because a queue was full.
    pub busy: u64,
    /// Users not taken into a group: it has as many members, or as many rows of former ones, as it may.
    pub group_full: u64,
    /// Resumes answered from memory.
    pub resumes: u64,
    /// Resumes answered with a reset.
    pub resets: u64,
    /// Sessions for which live delivery was stopped.
    pub lagging: u64,
    /// Events not put into the outbox of a lagging session.
    pub skipped: u64,
    /// Typing and presence frames dropped for slow readers.
    pub ephemeral_dropped: u64,
    /// Sessions closed by the server.
    pub closed: u64,
    /// Frames that were not valid.
    pub malformed: u64,
    /// Entities loaded from the view.
    pub loads: u64,
    /// Loads that failed and were tried again.
    pub load_failures: u64,
    /// Entities that were set aside because they could not be read.
    pub set_aside: u64,
    /// Commands kept for entities that were set aside.
    pub kept: u64,
    /// Commands that waited in the log instead, because an entity had its fill of kept ones.
    pub kept_full: u64,
    /// Entities dropped from memory.
    pub evictions: u64,
    /// Appends of emitted commands that were tried again.
    pub emission_retries: u64,
    /// Gauge: sessions.
    pub sessions: u64,
    /// Gauge: bytes of entities in memory.
    pub cache_size: u64,
    /// Gauge: entities that are set aside.
    pub aside: u64,
    /// Gauge: commands logged but not applied.
    pub waiting: u64,
}
