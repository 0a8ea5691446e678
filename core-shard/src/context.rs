//! What every part of a shard shares while one input is handled: the time, the configuration, what comes out, and when to wake.
//! Never decides anything.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use tern_protocol::command::CommandHead;
use tern_protocol::{PartitionId, SessionId, ShardId, Timestamp, UserId};

use crate::config::{Limits, ShardConfig};
use crate::counters::Counters;
use crate::io::{Output, Record};
use crate::message::{Message, Place, ToOwner, ToSessions};

/// Shared by the owner half and the session half of a shard.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: ShardConfig,
    pub(crate) now: Timestamp,
    pub(crate) outputs: VecDeque<Output>,
    /// Messages to this very shard: handled before the input ends.
    pub(crate) local: VecDeque<Message>,
    pub(crate) counters: Counters,
    timers: BTreeSet<(Timestamp, Timer)>,
}

/// Why a shard wants to wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// No valid hello came.
    Hello(SessionId),
    /// Live delivery has been stopped for too long.
    SlowReader(SessionId),
    /// The grace of a user without a session is over.
    PresenceGrace(UserId),
    /// Collected changes of presence are told.
    PresenceFlush,
    /// Emissions that the log refused are tried again.
    RetryEmissions,
    /// Loads that the view refused are tried again.
    RetryLoads,
    /// Rules that the log refused are set again.
    RetryRules,
    /// Entities that were set aside are looked at again.
    RetryAside,
}

impl Context {
    pub(crate) fn new(config: ShardConfig) -> Self {
        Self {
            now: config.now,
            config,
            outputs: VecDeque::new(),
            local: VecDeque::new(),
            counters: Counters::default(),
            timers: BTreeSet::new(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.config.shard
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Sends to a shard, which may be this one.
    pub(crate) fn send(&mut self, to: ShardId, message: Message) {
        if to == self.config.shard {
            self.local.push_back(message);
        } else {
            self.outputs.push_back(Output::Message { to, message });
        }
    }

    /// Sends to the shard that owns a partition.
    pub(crate) fn ask(&mut self, partition: PartitionId, message: ToOwner) {
        self.send(self.config.placement.shard(partition), Message::ToOwner(message));
    }

    /// Sends to a shard with sessions.
    pub(crate) fn tell(&mut self, shard: ShardId, message: ToSessions) {
        self.send(shard, Message::ToSessions(message));
    }

    /// Answers a session, wherever it is.
    pub(crate) fn answer(&mut self, to: Place, frame: Bytes) {
        self.tell(to.shard, ToSessions::Answer { session: to.session, frame, command: false, joined: None });
    }

    /// Appends a command.
    pub(crate) fn append(&mut self, partition: PartitionId, head: CommandHead, frame: Bytes) {
        self.output(Output::Append { partition, record: Record { head, frame } });
    }

    /// Wakes at `at`, unless [`Self::cancel`] comes first.
    pub(crate) fn wake(&mut self, at: Timestamp, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// Takes a wake-up back.
    pub(crate) fn cancel(&mut self, at: Timestamp, timer: Timer) {
        self.timers.remove(&(at, timer));
    }

    /// The next timer that is due.
    pub(crate) fn due(&mut self) -> Option<Timer> {
        let first = *self.timers.first()?;
        if first.0 > self.now {
            return None;
        }
        self.timers.remove(&first);
        Some(first.1)
    }

    /// When the next timer is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }
}
