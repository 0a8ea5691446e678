//! One shard: takes inputs, yields outputs.

use bytes::Bytes;
use tern_protocol::{SessionId, Timestamp};

use crate::config::ShardConfig;
use crate::io::{Input, Lane, Output};

/// The state machine of one core.
#[derive(Debug)]
pub struct Shard {}

impl Shard {
    /// A shard without sessions whose entities are all still in the view.
    #[must_use]
    pub fn new(_config: ShardConfig) -> Self {
        Self {}
    }

    /// Takes one input. Drain [`Self::poll_output`] before the next one.
    pub fn handle(&mut self, _now: Timestamp, _input: Input) {}

    /// The next thing to perform.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When to call with [`Input::Timeout`]; `None`: only new input matters.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        None
    }

    /// Moves the sessions for which frames were queued since the last call to `into`, each once.
    pub fn take_ready(&mut self, _into: &mut Vec<SessionId>) {}

    /// Takes the next frame for a session on one lane. The caller asks only when the transport can take it.
    pub fn pop_frame(&mut self, _session: SessionId, _lane: Lane) -> Option<Bytes> {
        None
    }

    /// Whether to read more from this session now; `false`: it must first take what waits for it or be answered.
    #[must_use]
    pub fn wants_input(&self, _session: SessionId) -> bool {
        true
    }

    /// Whether everything that was durable before this run has been applied.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        false
    }
}
