//! What the store knows about itself: counters and health, kept in plain atomics. Never read to decide an order or an outcome,
//! except that a failure is told to the shards here.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::turns::Waker;
use crate::view::Doorbell;

/// Damaged places that are named: a disk that loses more has been named often enough. Unit: places.
const DAMAGES_MAX: usize = 32;

/// What helps when a table of the view is damaged.
const DAMAGE_ADVICE: &str =
    "everything else goes on; check the disk, then stop the server and restore the data directory from a backup";

/// How one part of the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Works.
    Ok,
    /// Works, or will again by itself, but something is wrong that an operator should know.
    Degraded(String),
    /// Accepts nothing in this process: what was written last may or may not be on the disk, which only a new process that reads it
    /// can know. Everything confirmed is safe.
    Failed(String),
}

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The log.
    pub journal: State,
    /// Everything that is read back.
    pub view: State,
}

/// Everything that was counted since the start, and how full the queues are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Batches written and synced.
    pub commits: u64,
    /// Commands in them.
    pub records: u64,
    /// Bytes written for them, padding included.
    pub bytes: u64,
    /// Time in write and sync, sum. Unit: microseconds.
    pub commit_us_sum: u64,
    /// Time in write and sync, longest. Unit: microseconds.
    pub commit_us_max: u64,
    /// Commands refused because a queue was full.
    pub refused_busy: u64,
    /// Commands refused because nothing is accepted.
    pub refused_unavailable: u64,
    /// Commands whose write was not confirmed.
    pub unknown: u64,
    /// Commands waiting for the journal. Unit: bytes.
    pub append_queue_size: u64,
    /// Durable commands waiting for their owners. Unit: bytes.
    pub logged_queue_size: u64,
    /// Rows handed over and not in the view yet. Unit: bytes.
    pub store_queue_size: u64,
    /// Times a shard began to take no durable commands for a while: what is for it waits, everything else goes on.
    pub shard_waits: u64,
    /// Durable commands whose rows are not in the view yet. Unit: commands.
    pub view_lag: u64,
    /// Segments that hold commands not known to be in the synced view, the current one included.
    pub segments_used: u64,
    /// Segments there are.
    pub segments: u64,
    /// Commits of the view.
    pub view_commits: u64,
    /// Rows in them.
    pub view_rows: u64,
    /// Keys and values in them. Unit: bytes.
    pub view_bytes: u64,
    /// Time in commits of the view, longest. Unit: microseconds.
    pub view_commit_us_max: u64,
    /// Times the view was synced.
    pub checkpoints: u64,
    /// Times the view was opened again after the disk was full.
    pub view_heals: u64,
    /// Questions answered.
    pub queries: u64,
    /// Questions refused because too many wait.
    pub queries_refused: u64,
    /// Questions without an answer because reading failed, and may not the next time.
    pub query_failures: u64,
    /// Questions without an answer because what they ask for is damaged.
    pub queries_damaged: u64,
}

/// Why the journal takes nothing although it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Wait {
    /// It takes what comes.
    None = 0,
    /// All segments hold commands that the view does not have yet.
    View = 1,
    /// No space for another segment, or less than `free_space_min` left.
    Space = 2,
}

/// Shared by all threads of one store.
#[derive(Debug)]
pub(crate) struct Status {
    start: Instant,
    /// Counted by the threads as they go; names as in [`Counters`].
    pub(crate) commits: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) commit_us_sum: AtomicU64,
    pub(crate) commit_us_max: AtomicU64,
    pub(crate) refused_busy: AtomicU64,
    pub(crate) refused_unavailable: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) shard_waits: AtomicU64,
    pub(crate) segments_used: AtomicU64,
    pub(crate) segments: AtomicU64,
    pub(crate) view_commits: AtomicU64,
    pub(crate) view_rows: AtomicU64,
    pub(crate) view_bytes: AtomicU64,
    pub(crate) view_commit_us_max: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    view_heals: AtomicU64,
    pub(crate) queries: AtomicU64,
    pub(crate) queries_refused: AtomicU64,
    query_failures: AtomicU64,
    queries_damaged: AtomicU64,
    /// Sum of all partitions' last positions.
    pub(crate) logged_total: AtomicU64,
    /// Sum of all partitions' applied positions.
    pub(crate) applied_total: AtomicU64,
    /// Per shard: see [`Queues`].
    pub(crate) queues: Vec<Queues>,
    /// Something waits at the journal until a shard takes its commands.
    pub(crate) journal_wants_room: AtomicBool,
    /// The journal is out of segments: a checkpoint of the view would free some.
    pub(crate) journal_wants_segment: AtomicBool,
    /// Wakes the journal.
    pub(crate) journal: Waker,
    /// Wakes what makes segments.
    pub(crate) preparer: Waker,
    /// Wakes the view's writer.
    pub(crate) view_bell: Doorbell,
    wait: AtomicU8,
    space_low: AtomicBool,
    /// Space has been low since the view was last synced.
    space_was_low: AtomicBool,
    /// The view takes nothing until it has been opened again.
    view_broken: AtomicBool,
    /// Start of the running commit, microseconds since `start`, plus 1; 0 when none runs.
    commit_started: AtomicU64,
    commit_slow: Duration,
    journal_failure: OnceLock<String>,
    view_failure: OnceLock<String>,
    /// What of the view was found damaged, each once; at most [`DAMAGES_MAX`].
    view_damages: Mutex<BTreeSet<String>>,
    /// The last question met an error that may pass.
    view_reads_fail: AtomicBool,
    stopped: AtomicBool,
    abandoned: AtomicBool,
}

/// What waits between one shard and the threads. Unit: bytes.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    /// From the shard to the journal.
    pub(crate) append: AtomicUsize,
    /// From the journal to the shard.
    pub(crate) logged: AtomicUsize,
    /// From the shard to the view, until stored.
    pub(crate) store: AtomicUsize,
    /// So much waits at the journal until the shard takes its durable commands that no more may be appended for it.
    pub(crate) refuses: AtomicBool,
    /// Since when the shard takes none, microseconds since the start, plus 1; 0 while it does.
    full_since: AtomicU64,
}

impl Status {
    pub(crate) fn new(shards: u16, commit_slow: Duration) -> Self {
        Self {
            start: Instant::now(),
            commits: AtomicU64::new(0),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            commit_us_sum: AtomicU64::new(0),
            commit_us_max: AtomicU64::new(0),
            refused_busy: AtomicU64::new(0),
            refused_unavailable: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            shard_waits: AtomicU64::new(0),
            segments_used: AtomicU64::new(0),
            segments: AtomicU64::new(0),
            view_commits: AtomicU64::new(0),
            view_rows: AtomicU64::new(0),
            view_bytes: AtomicU64::new(0),
            view_commit_us_max: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            view_heals: AtomicU64::new(0),
            queries: AtomicU64::new(0),
            queries_refused: AtomicU64::new(0),
            query_failures: AtomicU64::new(0),
            queries_damaged: AtomicU64::new(0),
            logged_total: AtomicU64::new(0),
            applied_total: AtomicU64::new(0),
            queues: (0..shards).map(|_| Queues::default()).collect(),
            journal_wants_room: AtomicBool::new(false),
            journal_wants_segment: AtomicBool::new(false),
            journal: Waker::default(),
            preparer: Waker::default(),
            view_bell: Doorbell::default(),
            wait: AtomicU8::new(Wait::None as u8),
            space_low: AtomicBool::new(false),
            space_was_low: AtomicBool::new(false),
            view_broken: AtomicBool::new(false),
            commit_started: AtomicU64::new(0),
            commit_slow,
            journal_failure: OnceLock::new(),
            view_failure: OnceLock::new(),
            view_damages: Mutex::default(),
            view_reads_fail: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Whether appends are taken at all.
    pub(crate) fn accepts(&self) -> bool {
        !self.stopped.load(Acquire)
            && !self.space_low.load(Relaxed)
            && !self.view_broken.load(Relaxed)
            && self.journal_failure.get().is_none()
            && self.view_failure.get().is_none()
    }

    /// From here on nothing more is taken. The threads look at it.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Release);
    }

    /// Like [`Self::stop`], and what is queued is left: the next start replays it.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Release);
        self.stop();
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Acquire)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Acquire)
    }

    /// The journal takes nothing any more. Said once.
    pub(crate) fn fail_journal(&self, reason: String) {
        tracing::error!(%reason, "journal failed: nothing more is accepted until a restart");
        self.journal_failure.set(reason).ok();
    }

    /// The view takes nothing any more, hence neither does the journal. Said once.
    pub(crate) fn fail_view(&self, reason: String) {
        tracing::error!(%reason, "view failed: nothing more is accepted until a restart; what is confirmed is in the journal");
        self.view_failure.set(reason).ok();
    }

    pub(crate) fn failure(&self) -> Option<String> {
        let journal = self.journal_failure.get().map(|reason| format!("journal: {reason}"));
        journal.or_else(|| self.view_failure.get().map(|reason| format!("view: {reason}")))
    }

    /// A question was answered.
    pub(crate) fn view_answered(&self) {
        self.queries.fetch_add(1, Relaxed);
        if self.view_reads_fail.load(Relaxed) && self.view_reads_fail.swap(false, Relaxed) {
            tracing::info!("the view can be read again");
        }
    }

    /// A question has no answer, and may have one the next time. Said at the 1st, 2nd, 4th, 8th time, and so on.
    pub(crate) fn view_read_failed(&self, reason: &str) {
        let failures = self.query_failures.fetch_add(1, Relaxed) + 1;
        self.view_reads_fail.store(true, Relaxed);
        if failures.is_power_of_two() {
            tracing::error!(%reason, failures, "reading the view failed");
        }
    }

    /// A question has no answer because something is damaged. Each damaged place is said once.
    pub(crate) fn view_damaged(&self, place: String) {
        self.queries_damaged.fetch_add(1, Relaxed);
        let mut damages = self.view_damages.lock().unwrap_or_else(PoisonError::into_inner);
        if damages.len() < DAMAGES_MAX && !damages.contains(&place) {
            tracing::error!(%place, advice = DAMAGE_ADVICE, "the view is damaged: what lies there cannot be read");
            damages.insert(place);
        }
    }

    pub(crate) fn journal_failed(&self) -> bool {
        self.journal_failure.get().is_some()
    }

    pub(crate) fn view_failed(&self) -> Option<&str> {
        self.view_failure.get().map(String::as_str)
    }

    /// Says why the journal waits; a change is logged.
    pub(crate) fn set_wait(&self, wait: Wait) {
        if self.wait.swap(wait as u8, Relaxed) == wait as u8 {
            return;
        }
        match wait {
            Wait::None => tracing::info!("journal goes on"),
            Wait::View => tracing::warn!("journal waits: every segment holds commands that the view does not have yet"),
            Wait::Space => tracing::warn!("journal waits: no disk space for another segment"),
        }
    }

    /// A shard begins or ceases to take durable commands.
    pub(crate) fn set_taking(&self, queues: &Queues, takes: bool) {
        if !takes {
            self.shard_waits.fetch_add(1, Relaxed);
        }
        let since = if takes { 0 } else { micros(self.start.elapsed()) + 1 };
        queues.full_since.store(since, Relaxed);
    }

    /// The first shard that has taken no durable commands for so long that an operator should know, and for how long.
    fn shard_that_waits(&self) -> Option<(usize, Duration)> {
        let now = micros(self.start.elapsed());
        let waits = self.queues.iter().enumerate().filter_map(|(shard, queues)| {
            let since = queues.full_since.load(Relaxed).checked_sub(1)?;
            Some((shard, Duration::from_micros(now.saturating_sub(since))))
        });
        waits.into_iter().find(|(_, span)| *span > self.commit_slow)
    }

    /// Asks the view to sync, so that segments come free.
    pub(crate) fn want_segment(&self) {
        self.set_wait(Wait::View);
        if !self.journal_wants_segment.swap(true, SeqCst) {
            self.view_bell.wake();
        }
    }

    /// Says whether the disk is nearly full; a change is logged.
    pub(crate) fn set_space_low(&self, low: bool) {
        self.space_was_low.fetch_or(low, Relaxed);
        if self.space_low.swap(low, Relaxed) != low {
            if low {
                tracing::warn!("disk nearly full: nothing more is accepted until there is space");
            } else {
                tracing::info!("disk has space again");
                self.view_bell.wake();
            }
        }
    }

    pub(crate) fn space_low(&self) -> bool {
        self.space_low.load(Relaxed)
    }

    /// Whether the disk may have been full when something failed.
    pub(crate) fn was_space_low(&self) -> bool {
        self.space_was_low.load(Relaxed)
    }

    /// The view works: what fails from here on has another reason, unless space is low again.
    pub(crate) fn forget_space_low(&self) {
        self.space_was_low.store(self.space_low(), Relaxed);
    }

    /// The disk was full: the view takes nothing until it has been opened again.
    pub(crate) fn break_view(&self, reason: &str) {
        tracing::error!(%reason, "the disk was full: nothing is accepted until there is space and the view has been opened again");
        self.view_broken.store(true, Relaxed);
        // Until whoever watches the space says otherwise.
        self.set_space_low(true);
    }

    /// The view was opened again, and has everything that it had confirmed.
    pub(crate) fn heal_view(&self) {
        tracing::info!("the view has been opened again and goes on");
        self.view_broken.store(false, Relaxed);
        self.view_heals.fetch_add(1, Relaxed);
    }

    /// A write to the journal begins.
    pub(crate) fn commit_begins(&self) {
        self.commit_started.store(micros(self.start.elapsed()) + 1, Relaxed);
    }

    /// The write and its sync are done: `records` commands in `size` bytes.
    pub(crate) fn commit_ends(&self, records: u64, size: u64) {
        let began = self.commit_started.swap(0, Relaxed).saturating_sub(1);
        let took = micros(self.start.elapsed()).saturating_sub(began);
        self.commits.fetch_add(1, Relaxed);
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(size, Relaxed);
        self.commit_us_sum.fetch_add(took, Relaxed);
        self.commit_us_max.fetch_max(took, Relaxed);
        if took > micros(self.commit_slow) {
            tracing::warn!(took_us = took, "slow write to the journal");
        }
    }

    pub(crate) fn health(&self) -> Health {
        Health { journal: self.journal_state(), view: self.view_state() }
    }

    fn journal_state(&self) -> State {
        if let Some(reason) = self.journal_failure.get() {
            return State::Failed(reason.clone());
        }
        if self.space_low() {
            return State::Degraded("disk nearly full: nothing is accepted until there is space".into());
        }
        let began = self.commit_started.load(Relaxed);
        let running = micros(self.start.elapsed()).saturating_sub(began.saturating_sub(1));
        if began != 0 && running > micros(self.commit_slow) {
            return State::Degraded(format!("a write has taken {} ms so far", running / 1000));
        }
        match self.wait.load(Relaxed) {
            1 => State::Degraded("every segment holds commands that the view does not have yet".into()),
            2 => State::Degraded("no disk space for another segment".into()),
            _ => self.shard_that_waits().map_or(State::Ok, |(shard, span)| {
                let span = span.as_millis();
                State::Degraded(format!(
                    "shard {shard} has taken no commands for {span} ms: those for it are refused as busy"
                ))
            }),
        }
    }

    fn view_state(&self) -> State {
        if let Some(reason) = self.view_failure.get() {
            return State::Failed(reason.clone());
        }
        if self.space_low() {
            return State::Degraded("disk nearly full: rows wait until there is space".into());
        }
        if self.view_broken.load(Relaxed) {
            return State::Degraded("the disk was full: the view is being opened again".into());
        }
        let damages = self.view_damages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = damages.first() {
            let others = damages.len() - 1;
            return State::Degraded(format!("damaged: {first}, and {others} other places; {DAMAGE_ADVICE}"));
        }
        if self.view_reads_fail.load(Relaxed) {
            return State::Degraded("reading the view fails: its log has the cause".into());
        }
        State::Ok
    }

    pub(crate) fn counters(&self) -> Counters {
        let sum =
            |of: fn(&Queues) -> &AtomicUsize| self.queues.iter().map(|queue| of(queue).load(Relaxed) as u64).sum();
        Counters {
            commits: self.commits.load(Relaxed),
            records: self.records.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            commit_us_sum: self.commit_us_sum.load(Relaxed),
            commit_us_max: self.commit_us_max.load(Relaxed),
            refused_busy: self.refused_busy.load(Relaxed),
            refused_unavailable: self.refused_unavailable.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
            append_queue_size: sum(|queue| &queue.append),
            logged_queue_size: sum(|queue| &queue.logged),
            store_queue_size: sum(|queue| &queue.store),
            shard_waits: self.shard_waits.load(Relaxed),
            view_lag: self.logged_total.load(Relaxed).saturating_sub(self.applied_total.load(Relaxed)),
            segments_used: self.segments_used.load(Relaxed),
            segments: self.segments.load(Relaxed),
            view_commits: self.view_commits.load(Relaxed),
            view_rows: self.view_rows.load(Relaxed),
            view_bytes: self.view_bytes.load(Relaxed),
            view_commit_us_max: self.view_commit_us_max.load(Relaxed),
            checkpoints: self.checkpoints.load(Relaxed),
            view_heals: self.view_heals.load(Relaxed),
            queries: self.queries.load(Relaxed),
            queries_refused: self.queries_refused.load(Relaxed),
            query_failures: self.query_failures.load(Relaxed),
            queries_damaged: self.queries_damaged.load(Relaxed),
        }
    }
}

/// A span in the unit of all counters.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
