//! What a shard must be told: who it is, and its limits. Every limit has a unit, a default and a reason.

use std::time::Duration;

use tern_protocol::placement::Placement;
use tern_protocol::{ShardId, Timestamp};

/// Everything a shard needs to know before its first input.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// This shard.
    pub shard: ShardId,
    /// Where every entity lives.
    pub placement: Placement,
    /// A number that no other run of this server has: answers to an earlier run's sessions are dropped.
    pub run: u64,
    /// The moment the shard starts.
    pub now: Timestamp,
    /// Bounds.
    pub limits: Limits,
    /// The one mechanism that is switched off, so that a test can show that the simulator notices.
    #[cfg(feature = "sabotage")]
    pub sabotage: Option<Sabotage>,
}

/// A mechanism that can be switched off in tests. Each holds one of the promises M1-M12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// M3: a resend is applied again.
    Dedup,
    /// M3: a device's older session stays open beside its newer one.
    OneSession,
    /// M1: a command at or below an entity's stored position is applied again.
    PositionSkip,
    /// M4, M7: heads of conversations that were skipped for a slow reader are not reported, and pongs carry no heads.
    GapReport,
    /// M6: a gap beyond memory is answered with the part that is in memory instead of a reset.
    ResetOnGap,
    /// M12: membership and roles are not checked when a command is applied.
    Permission,
    /// M12: a removed member's sessions stay subscribed.
    KickUnsubscribe,
    /// M11: nothing is dropped and nobody is closed for reading slowly.
    OutboxLimit,
    /// M2: rows are stored (and the checkpoint moved) before the commands that they caused are durable.
    EmissionHold,
    /// M4: recent events are dropped from memory before the view has them.
    WindowRetention,
    /// M8: an own message does not move the sender's read cursor.
    OwnSendReads,
    /// M8: read cursors may go back.
    CursorMonotone,
    /// M9: every shard is delivered to, online members or not.
    OnlineIndex,
    /// M8: late news of joining overrides newer news of leaving.
    DirectoryVersion,
    /// M5: a failed append is not told to the sender.
    AppendFailureReply,
    /// M1, M2: events that the view has beyond a conversation's head count.
    AheadEvents,
    /// M2: commands are applied under the rules of the configuration instead of those in the log.
    Rules,
    /// M2: what was kept for an entity that could not be read is forgotten when it is back.
    KeptCommands,
}

impl ShardConfig {
    /// One shard of a deployment, everything else at its default: run 0, seed 0, the beginning of time, the default limits.
    #[must_use]
    pub fn new(shard: ShardId, placement: Placement) -> Self {
        Self {
            shard,
            placement,
            run: 0,
            now: Timestamp::ZERO,
            limits: Limits::default(),
            #[cfg(feature = "sabotage")]
            sabotage: None,
        }
    }

    /// Whether a mechanism works. Always true outside tests.
    #[cfg(feature = "sabotage")]
    pub(crate) fn has(&self, mechanism: Sabotage) -> bool {
        self.sabotage != Some(mechanism)
    }

    /// Whether a mechanism works. Always true outside tests.
    #[cfg(not(feature = "sabotage"))]
    #[expect(clippy::unused_self, reason = "the same signature as with sabotage")]
    pub(crate) const fn has(&self, _mechanism: Sabotage) -> bool {
        true
    }
}

/// Bounds of one shard and of each of its sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sessions that one shard may hold. Unit: sessions.
    pub sessions_max: usize,
    /// Sessions that one user may have; the oldest is closed beyond it. Unit: sessions.
    pub user_sessions_max: usize,
    /// Time from connecting to a valid hello. Unit: time.
    pub hello_timeout: Duration,
    /// How often clients are asked to ping. Unit: time.
    pub ping_interval: Duration,
    /// Frames' bytes that may wait for one session before typing and presence are dropped for it. Unit: bytes.
    pub outbox_ephemeral_max: usize,
    /// Frames' bytes that may wait for one session before live delivery stops for it. Unit: bytes.
    pub outbox_live_max: usize,
    /// Frames' bytes that may wait for one session before it is closed. Unit: bytes.
    pub outbox_close_max: usize,
    /// How long a session may stay without taking a byte of what waits for it before it is closed. Unit: time.
    pub slow_reader_timeout: Duration,
    /// Commands of one session that may be on their way through the log. Unit: commands.
    pub inflight_max: u32,
    /// Frames that one session may send in a burst, and per second. Unit: frames.
    pub frames_burst: u32,
    /// See `frames_burst`.
    pub frames_per_second: u32,
    /// Frames refused for their rate in one second before the session is closed as flooding. Unit: frames.
    pub flood_max: u32,
    /// Members of a group. Unit: users. A rule: in force from where the log says so.
    pub members_max: u32,
    /// Members of a conversation up to which typing and others' receipts are shown. Unit: users.
    pub receipts_members_max: u32,
    /// Bytes of conversations kept in memory beyond those in use; the least recently used are dropped. Unit: bytes.
    pub cache_size_max: usize,
    /// Commands waiting for one entity to be loaded. Unit: commands.
    pub load_queue_max: usize,
    /// Entities that may be set aside at once because they cannot be read. More is not a damaged entity but a damaged store: then loads
    /// are tried until they succeed, and their commands wait. Unit: entities.
    pub aside_max: usize,
    /// Commands' bytes that are kept for one entity that is set aside; further ones wait in the log. Unit: bytes.
    pub kept_size_max: usize,
    /// Conversations of one user. Unit: conversations.
    pub directory_max: usize,
    /// How long a user with a lost connection stays online: a network switch is not a departure. Unit: time.
    pub presence_grace: Duration,
    /// How long changes of presence are collected before they are told. Unit: time.
    pub presence_coalesce: Duration,
    /// Whether new users enter the world room. A rule: in force from where the log says so.
    pub world: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 500_000,
            user_sessions_max: 16,
            hello_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(25),
            outbox_ephemeral_max: 64 * 1024,
            outbox_live_max: 512 * 1024,
            outbox_close_max: 2 * 1024 * 1024,
            slow_reader_timeout: Duration::from_secs(60),
            inflight_max: 256,
            frames_burst: 400,
            frames_per_second: 200,
            flood_max: 2_000,
            members_max: 10_000,
            receipts_members_max: 64,
            cache_size_max: 256 * 1024 * 1024,
            load_queue_max: 4_096,
            aside_max: 1_024,
            kept_size_max: 16 * 1024 * 1024,
            directory_max: 10_000,
            presence_grace: Duration::from_secs(3),
            presence_coalesce: Duration::from_millis(50),
            world: true,
        }
    }
}
