//! One shard: the owner of some partitions and the holder of some sessions. Takes one input, yields outputs, names its next deadline.
//! Routes and nothing else: what an input means is decided in `owner` and `sessions`.

use bytes::Bytes;
use tern_protocol::{SessionId, Timestamp};

use crate::config::ShardConfig;
use crate::context::{Context, Timer};
use crate::counters::Counters;
use crate::io::{AppendFailure, Input, Lane, Lanes, Output, Record, Reply, Urgency};
use crate::message::Message;
use crate::owner::Owner;
use crate::sessions::Sessions;

/// The state machine of one core.
#[derive(Debug)]
pub struct Shard {
    cx: Context,
    owner: Owner,
    sessions: Sessions,
}

impl Shard {
    /// A shard without sessions whose entities are all still in the view.
    #[must_use]
    pub fn new(config: ShardConfig) -> Self {
        let cx = Context::new(config);
        Self { owner: Owner::new(&cx), sessions: Sessions::default(), cx }
    }

    /// Takes one input. Drain [`Self::poll_output`] before the next one.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        debug_assert!(self.cx.outputs.is_empty(), "drain poll_output before the next input");
        let cx = &mut self.cx;
        cx.now = cx.now.max(now);
        match input {
            Input::Connected { session } => self.sessions.connected(cx, session),
            Input::Token { session, verdict } => self.sessions.on_token(cx, session, verdict),
            Input::Frame { session, bytes } => self.sessions.on_frame(cx, session, bytes),
            Input::Disconnected { session, ending } => self.sessions.disconnected(cx, session, ending),
            Input::Logged(logged) => self.owner.on_logged(cx, logged),
            Input::AppendFailed { partition, record, failure } => self.append_failed(partition, record, failure),
            Input::CaughtUp => self.owner.on_caught_up(cx),
            Input::Viewed { ticket, reply } => self.owner.on_viewed(cx, ticket, reply),
            Input::Stored { partition, position } => self.owner.on_stored(cx, partition, position),
            Input::Message { from: _, message } => self.route(message),
            Input::Request { ticket, request } => self.owner.on_request(cx, ticket, request),
            Input::Drain { spread_ms } => self.sessions.drain(cx, spread_ms),
            Input::Timeout => {}
        }
        while let Some(timer) = self.cx.due() {
            self.fire(timer);
        }
        self.settle();
    }

    /// The next thing to perform.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.cx.outputs.pop_front()
    }

    /// When to call with [`Input::Timeout`]; `None`: only new input matters.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.cx.next_due()
    }

    /// Moves the sessions for which frames were queued since the last call to `into`, each once, those first that want them soon.
    pub fn take_ready(&mut self, into: &mut Vec<(SessionId, Urgency)>) {
        self.sessions.take_ready(into);
    }

    /// The lanes on which frames wait for this session: the others need not be asked.
    #[must_use]
    pub fn waiting(&self, session: SessionId) -> Lanes {
        self.sessions.waiting(session)
    }

    /// Takes the next frame for a session on one lane. The caller asks only when the transport can take it.
    /// May cause outputs and make sessions ready: drain [`Self::poll_output`] before the next input, and look at [`Self::take_ready`] again.
    pub fn pop_frame(&mut self, session: SessionId, lane: Lane) -> Option<Bytes> {
        let frame = self.sessions.pop_frame(&mut self.cx, session, lane);
        self.settle();
        frame
    }

    /// Whether to read more from this session now; `false`: it must first take what waits for it or be answered.
    #[must_use]
    pub fn wants_input(&self, session: SessionId) -> bool {
        self.sessions.wants_input(self.cx.limits(), session)
    }

    /// Whether to take more durable commands now; `false`: too many wait for entities that are being loaded.
    #[must_use]
    pub fn wants_commands(&self) -> bool {
        self.cx.counters.waiting < self.cx.limits().load_queue_max as u64
    }

    /// Bytes of frames that wait for a session. Unit: bytes.
    #[must_use]
    pub fn waiting_size(&self, session: SessionId) -> usize {
        self.sessions.waiting_size(session)
    }

    /// Whether everything that was durable before this run has been applied, and the rules in force are the configured ones.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.owner.is_caught_up(&self.cx)
    }

    /// What this shard has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.cx.counters
    }

    fn route(&mut self, message: Message) {
        match message {
            Message::ToOwner(message) => self.owner.on_message(&mut self.cx, message),
            Message::ToSessions(message) => self.sessions.on_message(&mut self.cx, message),
        }
    }

    /// Handles what this shard has said to itself, until there is nothing left.
    fn settle(&mut self) {
        while let Some(message) = self.cx.local.pop_front() {
            self.route(message);
        }
    }

    fn append_failed(&mut self, partition: tern_protocol::PartitionId, record: Record, failure: AppendFailure) {
        let cx = &mut self.cx;
        let head = &record.head;
        if head.cause_position != 0 {
            self.owner.emission_failed(cx, partition, record);
        } else if head.actor != 0 {
            self.sessions.on_append_failed(cx, &record, failure);
        } else if head.session != 0 {
            cx.output(Output::Reply { ticket: head.session, reply: Reply::Unavailable(failure) });
        } else {
            self.owner.own_refused(cx, partition, record);
        }
    }

    fn fire(&mut self, timer: Timer) {
        let cx = &mut self.cx;
        match timer {
            Timer::Hello(session) => self.sessions.on_hello_timeout(cx, session),
            Timer::SlowReader(session) => self.sessions.on_slow_reader(cx, session),
            Timer::PresenceGrace(user) => self.owner.on_grace_over(cx, user),
            Timer::PresenceFlush => self.owner.flush_presence(cx),
            Timer::RetryEmissions => self.owner.retry_emissions(cx),
            Timer::RetryLoads => self.owner.retry_loads(cx),
            Timer::RetryRules => self.owner.retry_rules(cx),
            Timer::RetryAside => self.owner.retry_aside(cx),
        }
    }
}
