//! The boundary of a shard: what may come in, what comes out, and the questions it asks of the log, the view and other shards.
//! Data only: whoever performs an [`Output`] decides nothing.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tern_protocol::command::CommandHead;
use tern_protocol::frame;
use tern_protocol::limit::DELIVERY_LANE_COUNT;
use tern_protocol::server::Event;
use tern_protocol::stored::Entity;
use tern_protocol::{
    CloseCode, ConversationId, DeviceId, PartitionId, Position, Seq, SessionId, ShardId, Timestamp, UserId,
};

use crate::message::Message;

/// What a shard is told. One at a time; drain [`crate::Shard::poll_output`] before the next.
#[derive(Debug)]
pub enum Input {
    /// A transport is up; its session id is new (slot in the low 32 bits, generation in the high).
    Connected {
        /// Names the session from here on.
        session: SessionId,
    },
    /// The answer to [`Output::VerifyToken`].
    Token {
        /// Which session asked.
        session: SessionId,
        /// What the token says, or why it counts for nothing.
        verdict: Result<Claims, CloseCode>,
    },
    /// One whole frame from a session, header included; not yet validated.
    Frame {
        /// Whose.
        session: SessionId,
        /// The frame. Kept without copying if it becomes a command.
        bytes: Bytes,
    },
    /// The transport is gone. Comes exactly once for each `Connected`, also after [`Output::Close`].
    Disconnected {
        /// Which session.
        session: SessionId,
        /// How it ended.
        ending: Ending,
    },
    /// A command of a partition that this shard owns is durable. In position order per partition.
    Logged(Logged),
    /// The log did not take a command that this shard appended.
    AppendFailed {
        /// For which partition.
        partition: PartitionId,
        /// The command.
        record: Record,
        /// Why.
        failure: AppendFailure,
    },
    /// Every command that was durable before this run has been handed over as `Logged`.
    CaughtUp,
    /// The answer to [`Output::View`].
    Viewed {
        /// The ticket of the question.
        ticket: u64,
        /// What the view has.
        reply: Result<ViewReply, ViewError>,
    },
    /// The rows of [`Output::Store`] up to this position can be read back.
    Stored {
        /// Of which partition.
        partition: PartitionId,
        /// Up to and including the rows of this command.
        position: Position,
    },
    /// From another shard of this node. In order per sender.
    Message {
        /// Who sent it.
        from: ShardId,
        /// What.
        message: Message,
    },
    /// From the HTTP API, for an entity that this shard owns.
    Request {
        /// Names the request in [`Output::Reply`]; unique within the run.
        ticket: u64,
        /// What is wanted.
        request: Request,
    },
    /// The server is going away: tell each session when to come back, and accept no more commands.
    Drain {
        /// Sessions are spread over this long. Unit: milliseconds.
        spread_ms: u32,
    },
    /// The time of [`crate::Shard::poll_timeout`] has come.
    Timeout,
}

/// What a valid access token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    /// Whose.
    pub user: UserId,
    /// Which device's.
    pub device: DeviceId,
    /// When it ends; the connection may outlive it.
    pub expires: Timestamp,
}

/// How a transport ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client said that it is done.
    Goodbye,
    /// Timeout, reset, error, or closed by us: the client may be back in a moment.
    Lost,
}

/// A command for a partition's log: the bytes of a frame, and who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who asked, and where the answer goes.
    pub head: CommandHead,
    /// A client's own frame, or one of `tern_protocol::command`.
    pub frame: Bytes,
}

/// A command that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// In which log.
    pub partition: PartitionId,
    /// Where in it: ordered, not dense.
    pub position: Position,
    /// When the log took it. Later positions of a partition always have a later time.
    pub time: Timestamp,
    /// What.
    pub record: Record,
}

/// Why the log did not confirm a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendFailure {
    /// The queue to the log is full: certainly not stored, try again soon.
    Busy,
    /// The log accepts nothing at present (disk full, read-only): certainly not stored.
    Unavailable,
    /// The write was not confirmed: may or may not be stored.
    Unknown,
}

/// A question to the view. The view may lag behind what was applied; it never lags behind [`Input::Stored`]. It may be ahead of what this
/// owner has applied (of its checkpoint, or of an entity's other rows), by what an earlier owner stored: whoever asks knows how far to believe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewQuery {
    /// All rows whose key begins with `stored::entity_key(entity)`; for a conversation also its last events.
    Entity {
        /// Which.
        entity: Entity,
        /// Which events.
        recent: Recent,
    },
    /// Events `from..=to` of a conversation, ascending; fewer when `size_max` bytes are reached (at least one).
    Events {
        /// Which conversation.
        conversation: ConversationId,
        /// First wanted.
        from: Seq,
        /// Last wanted.
        to: Seq,
        /// Stop after this many bytes. Unit: bytes.
        size_max: usize,
        /// From which end to stop counting: the page is ascending either way.
        order: Order,
    },
}

/// The newest events of a conversation: a number of them, and before those the ones that are nearly as young as the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    /// So many, whatever their age. Unit: events.
    pub count: usize,
    /// And those that are less than this older than the newest. Unit: log time.
    pub span: Duration,
    /// But no more than so many. Unit: events.
    pub count_max: usize,
}

impl Recent {
    /// So many, whatever their age.
    #[must_use]
    pub const fn last(count: usize) -> Self {
        Self { count, span: Duration::ZERO, count_max: count }
    }

    /// Takes them from a conversation's event frames, which come newest first. Returns them ascending.
    ///
    /// # Errors
    /// The first one of the frames.
    pub fn take<E>(self, newest_first: impl Iterator<Item = Result<Bytes, E>>) -> Result<Vec<Bytes>, E> {
        let mut taken: Vec<Bytes> = Vec::new();
        for frame in newest_first.take(self.count_max) {
            let frame = frame?;
            let young = || Some(time_of(&frame)?.after(self.span) > time_of(taken.first()?)?);
            if taken.len() >= self.count && young() != Some(true) {
                break;
            }
            taken.push(frame);
        }
        taken.reverse();
        Ok(taken)
    }
}

fn time_of(event: &Bytes) -> Option<Timestamp> {
    let event = frame::decode::<Event<'_>>(event).ok()?;
    Some(Timestamp::from_raw(event.time.to_native()))
}

/// Which end of a range is wanted when not all of it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Keep the first ones.
    OldestFirst,
    /// Keep the last ones.
    NewestFirst,
}

/// The view's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewReply {
    /// Rows with whole keys, in key order (none: the entity does not exist), and events, ascending.
    Entity {
        /// Key and value.
        rows: Vec<(Bytes, Bytes)>,
        /// Event frames.
        events: Vec<Bytes>,
    },
    /// Event frames, ascending.
    Events(Vec<Bytes>),
}

/// Why the view has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewError {
    /// Too many questions wait.
    Busy,
    /// The store failed to read, and may not the next time. The operator's log has the cause.
    Failed,
    /// What was asked for is damaged where it is stored: asking again gives the same. The operator's log names the place.
    Damaged,
}

/// Where a row lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Keys of `stored::event_key`; values are event frames.
    Events,
    /// Keys of `stored::Part::key`.
    Entities,
}

/// One change to the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where.
    pub table: Table,
    /// The whole key.
    pub key: Bytes,
    /// The new value; `None` removes the row.
    pub value: Option<Bytes>,
}

/// What a shard wants done.
#[derive(Debug)]
pub enum Output {
    /// Check a token's signature, issuer and time; answer with [`Input::Token`].
    VerifyToken {
        /// For which session.
        session: SessionId,
        /// The token as the client sent it.
        token: Bytes,
    },
    /// Send what waits for the session, then close it with this code. [`Input::Disconnected`] follows.
    Close {
        /// Which session.
        session: SessionId,
        /// Why.
        code: CloseCode,
    },
    /// Append to a partition's log. Answered by `Logged` at the partition's owner, or `AppendFailed` here.
    Append {
        /// Which log.
        partition: PartitionId,
        /// What.
        record: Record,
    },
    /// Ask the view. Answered by [`Input::Viewed`].
    View {
        /// Repeated in the answer.
        ticket: u64,
        /// What.
        query: ViewQuery,
    },
    /// Write rows, and in the same batch the partition's checkpoint: everything up to `position` is in the view. Answered by [`Input::Stored`].
    Store {
        /// Of which partition.
        partition: PartitionId,
        /// The command whose rows these are; the ones before it came before.
        position: Position,
        /// The changes; later ones win. May be empty: the checkpoint moves all the same.
        rows: Vec<Row>,
    },
    /// For another shard of this node. Must arrive, in order.
    Message {
        /// Whom to.
        to: ShardId,
        /// What.
        message: Message,
    },
    /// For the operator: an entity cannot be read any more, or is back. At most once for each change.
    Aside {
        /// Which.
        entity: Entity,
        /// What happened.
        change: AsideChange,
    },
    /// The answer to [`Input::Request`].
    Reply {
        /// Which request.
        ticket: u64,
        /// The answer.
        reply: Reply,
    },
    /// Nothing more of this partition is applied or stored: give it up, or end the process, and say why.
    Stop {
        /// Which partition.
        partition: PartitionId,
        /// The command that stands in the way, or the last one before it.
        position: Position,
        /// Why.
        reason: StopReason,
    },
}

/// Why a partition cannot go on. Whoever skipped what it says would lose commands that were acknowledged. For the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A command of a kind that this build does not know.
    UnknownKind(u8),
    /// A command in an envelope that this build does not know.
    FrameVersion(u8),
    /// Rules of a level that this build does not know.
    Level {
        /// What the log asks for.
        needed: u16,
        /// The highest that this build has.
        known: u16,
    },
    /// The view has the partition's rules, and they cannot be read.
    RulesUnreadable,
    /// The log has come to [`Position::END`]: user ids would repeat.
    PositionsUsedUp,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKind(kind) => write!(f, "a command of kind {kind:#04x}, which this build does not know"),
            Self::FrameVersion(version) => {
                write!(f, "a command of frame version {version}, which this build does not know")
            }
            Self::Level { needed, known } => {
                write!(f, "rules of level {needed}; this build knows levels up to {known}")
            }
            Self::PositionsUsedUp => f.write_str("a position at which user ids would repeat"),
            Self::RulesUnreadable => f.write_str("the stored rules cannot be read"),
        }
    }
}

/// What happened to an entity that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsideChange {
    /// It is set aside: its commands are kept, and everything else goes on.
    Away(AsideCause),
    /// It can be read again, and what was kept for it is applied.
    Back,
}

/// Why an entity was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsideCause {
    /// The view has it, in a form that does not make sense.
    Damaged,
    /// The view failed to read it again and again.
    Failing,
    /// A command needs an old event that cannot be read. Questions are still answered.
    Event,
}

/// One of the ways by which frames reach a client. Order holds within each, not between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Answers and news: the bidirectional stream that the client opened.
    Control,
    /// Events: stream `0..DELIVERY_LANE_COUNT`; a conversation is always on the same one.
    Delivery(u8),
    /// Typing and presence: may be lost.
    Datagram,
}

/// How soon what was queued for a session wants to be sent. A transport that has more to send than one turn holds sends what is prompt first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it: an answer, or news for few.
    Prompt,
    /// One of the many that get the same.
    Bulk,
}

/// A set of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lanes(u8);

impl Lanes {
    /// With one more.
    pub(crate) const fn add(&mut self, lane: Lane) {
        self.0 |= Self::bit(lane);
    }

    /// Whether this one is among them.
    #[must_use]
    pub const fn has(self, lane: Lane) -> bool {
        self.0 & Self::bit(lane) != 0
    }

    const fn bit(lane: Lane) -> u8 {
        match lane {
            Lane::Control => 1,
            Lane::Datagram => 2,
            Lane::Delivery(index) => 4 << index,
        }
    }
}

const _: () = assert!(DELIVERY_LANE_COUNT <= 6, "a bit for each lane");

/// What the HTTP API asks of the owner of an entity.
#[derive(Debug, Clone)]
pub enum Request {
    /// Take an account name. To the owner of the name.
    Register {
        /// Canonical.
        name: Box<str>,
        /// For people.
        display: Box<str>,
        /// PHC string.
        password: Box<str>,
    },
    /// Who has this name? To the owner of the name.
    FindAccount {
        /// Canonical.
        name: Box<str>,
    },
    /// Log a device in. To the owner of the user.
    OpenDevice {
        /// Who.
        user: UserId,
        /// Random.
        device: DeviceId,
        /// SHA-256 of the refresh token's secret.
        secret: [u8; 32],
        /// What the person calls it.
        name: Box<str>,
        /// Most devices this user may have.
        devices_max: u16,
    },
    /// Exchange a refresh token. To the owner of the user.
    RotateDevice {
        /// Who.
        user: UserId,
        /// Which.
        device: DeviceId,
        /// Of the presented token.
        generation: u32,
        /// SHA-256 of the presented secret.
        secret: [u8; 32],
        /// SHA-256 of the successor's.
        successor: [u8; 32],
        /// The client's name for this exchange.
        attempt: u128,
    },
    /// Log out. To the owner of the user.
    CloseDevice {
        /// Who.
        user: UserId,
        /// Which; `None` for all.
        device: Option<DeviceId>,
    },
    /// Which devices are logged in? To the owner of the user. Also how a token's session is checked.
    ListDevices {
        /// Who.
        user: UserId,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The name is theirs.
    Registered {
        /// The new user.
        user: UserId,
    },
    /// Somebody has the name.
    NameTaken,
    /// Who has the name, and their password's PHC string; `None`: nobody.
    Account(Option<(UserId, Box<str>)>),
    /// The device is logged in.
    DeviceOpened,
    /// The refresh token was exchanged; the successor has this generation.
    Rotated {
        /// From 1.
        generation: u32,
    },
    /// The token is not (or no longer) good; a reused one logged its device out.
    Refused,
    /// So many devices were logged out.
    Closed {
        /// How many.
        count: u32,
    },
    /// The devices, oldest first; none if there is no such user.
    Devices(Vec<DeviceInfo>),
    /// Not now: nothing was changed, unless the failure is [`AppendFailure::Unknown`]; then another reply may follow or have come.
    Unavailable(AppendFailure),
}

/// A logged-in device, as its owner may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Which.
    pub device: DeviceId,
    /// What the person calls it.
    pub name: Box<str>,
    /// When it logged in.
    pub created: Timestamp,
    /// When its token was last exchanged.
    pub used: Timestamp,
}
