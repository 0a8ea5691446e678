//! Virtual time: what happens next, and a hash of everything that happened. Ties are broken by who was scheduled first.
//! Never goes back, never sleeps.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use tern_protocol::Timestamp;
use tern_protocol::placement::mix64;

/// When a simulated run begins. Unit: microseconds since 1970.
const EPOCH: u64 = 1_700_000_000_000_000;

/// What is still to happen, in order.
#[derive(Debug)]
pub(crate) struct Schedule<E> {
    now: Timestamp,
    next: u64,
    waiting: BTreeMap<Reverse<(Timestamp, u64)>, E>,
}

impl<E> Schedule<E> {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { now: Timestamp::from_raw(EPOCH), next: 0, waiting: BTreeMap::new() }
    }

    /// The present.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Puts something at a moment, or at once if the moment has passed.
    pub(crate) fn at(&mut self, when: Timestamp, event: E) {
        self.next += 1;
        self.waiting.insert(Reverse((when.max(self.now), self.next)), event);
    }

    /// Puts something a while from here.
    pub(crate) fn after(&mut self, span: Duration, event: E) {
        self.at(self.now.after(span), event);
    }

    /// When the next thing happens.
    pub(crate) fn peek(&self) -> Option<Timestamp> {
        self.waiting.last_key_value().map(|(Reverse((when, _)), _)| *when)
    }

    /// Moves time to the next thing and takes it.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let (Reverse((when, _)), event) = self.waiting.pop_last()?;
        self.now = self.now.max(when);
        Some(event)
    }

    /// Moves time, to a moment before the next thing.
    pub(crate) fn advance(&mut self, to: Timestamp) {
        self.now = self.now.max(to);
    }
}

/// Hash of all that went in and out of the shards: equal for equal runs. Prints each step when asked to.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    printing: bool,
}

impl Trace {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { hash: 0, printing: std::env::var_os("TERN_SIM_TRACE").is_some() }
    }

    /// Adds one step.
    pub(crate) fn step(&mut self, now: Timestamp, shard: usize, what: &str, bytes: &[u8]) {
        let parts = [now.raw(), shard as u64, tern_protocol::placement::mix_bytes(what.as_bytes())];
        for part in parts.into_iter().chain([tern_protocol::placement::mix_bytes(bytes)]) {
            self.hash = mix64(self.hash ^ part);
        }
        if self.printing {
            self.print(now, format_args!("shard {shard}: {what} [{}]", bytes.len()));
        }
    }

    /// Says something that only a reader of the trace wants to know.
    #[expect(clippy::print_stderr, reason = "asked for with TERN_SIM_TRACE")]
    pub(crate) fn print(&self, now: Timestamp, what: std::fmt::Arguments<'_>) {
        if self.printing {
            eprintln!("{:>12.6} {what}", Duration::from_micros(now.raw() - EPOCH).as_secs_f64());
        }
    }

    /// The hash so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}
