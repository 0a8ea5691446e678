//! Opens the store and closes it: checks, recovers, starts the threads, gives each shard its end. Decides nothing while it runs.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use rtrb::RingBuffer;
use tern_protocol::Timestamp;
use tern_protocol::placement::Placement;

use crate::clock::Clock;
use crate::config::EmbeddedConfig;
use crate::error::{Journal, OpenError, ShutdownError};
use crate::files::{Files, Lock, Machine};
use crate::identity::{Identity, lock};
use crate::journal::segments::Synced;
use crate::journal::{self, JournalLane, Preparer, RecoveryReport, Writer, recover};
use crate::sabotage::Mechanisms;
use crate::status::{Counters, Health, Status};
use crate::store::{Ends, ShardLimits, ShardStore};
use crate::turns::{Turns, Waker, drive};
use crate::view::{self, Reader, ReaderLane, ViewLane, ViewWriter};
use crate::watch::Watch;

/// Wakes a shard's thread. Called from the store's threads: cheap, and never blocks.
pub type Bell = Arc<dyn Fn() + Send + Sync>;

/// Confirmations in the queue from the view to a shard; more are merged per partition. Unit: confirmations.
const STORED_QUEUE_LEN: usize = 1024;
/// A system clock that is further behind the log is told to the operator. Unit: time.
const BEHIND_MIN: Duration = Duration::from_secs(1);
/// How long dropping the handle waits for each thread to leave its files alone. Unit: time.
const DROP_TIMEOUT: Duration = Duration::from_secs(20);

/// An open store.
#[derive(Debug)]
pub struct Embedded {
    /// One end per shard, in order.
    pub stores: Vec<ShardStore>,
    /// For whoever runs the process.
    pub handle: EmbeddedHandle,
    /// What recovery found.
    pub report: RecoveryReport,
}

/// Opens the directory, creates it if there is none, recovers what a crash left, and starts the threads. `bells`: one per shard.
/// `clock` stamps the log; it is moved forward if the log has a later time.
///
/// # Errors
/// See [`OpenError`]: each says what to do. Nothing that was acknowledged has been changed.
pub fn open(config: EmbeddedConfig, bells: Vec<Bell>, clock: Clock) -> Result<Embedded, OpenError> {
    open_on(config, bells, clock, &(Arc::new(Machine) as Arc<dyn Files>))
}

/// [`open`] on files that tests can break.
#[expect(clippy::needless_pass_by_value, reason = "the store keeps what it needs of them")]
pub(crate) fn open_on(
    config: EmbeddedConfig,
    bells: Vec<Bell>,
    clock: Clock,
    files: &Arc<dyn Files>,
) -> Result<Embedded, OpenError> {
    let fault = config.fault();
    let fault = fault.or((bells.len() != usize::from(config.shards)).then_some(("bells", "one per shard")));
    if let Some((field, range)) = fault {
        return Err(OpenError::Config { field, range });
    }
    let key = RandomState::new().hash_one(&config.directory);
    let open_view = |key| {
        let journal = config.directory.join("journal");
        view::open(&config)
            .map_err(|error| error.beside(|| journal_is_whole(&**files, &journal, config.partitions, key)))
    };
    let parts = Parts::open(&config, &bells, files, key, open_view)?;
    let Parts { lock, view, applied, status, synced, writer, preparer, lanes, halves } = parts;
    let report = writer.report();
    log_report(&report);
    go_on_from(clock, writer.last_time());
    let watch = Watch::new(&config, Arc::clone(&view), Arc::clone(&status))?;

    let start = |name, body| Running::start(name, body).map_err(OpenError::io(&config.directory, "start a thread"));
    let journal = start("tern-journal", takes_turns(writer, &status.journal, clock))?;
    let preparer = start("tern-journal-z", takes_turns(preparer, &status.preparer, clock))?;
    let view_writer = ViewWriter::new(view.clone(), applied, lanes.view, &config, synced, Arc::clone(&status));
    let view_writing = start("tern-view-w", Box::new(move || view_writer.run()))?;
    status.view_bell.belongs_to(view_writing.thread.clone());
    let watch = start("tern-watch", Box::new(move || watch.run()))?;
    let mut readers = Vec::new();
    for lanes in lanes.readers {
        let reader = Reader { view: view.clone(), status: Arc::clone(&status), lanes };
        readers.push(start("tern-view-r", Box::new(move || reader.run()))?);
    }
    let mut stores = Vec::new();
    for (shard, half) in halves.into_iter().enumerate() {
        let Some(reader) = readers.get(shard % readers.len().max(1)) else { break };
        stores.push(half.into_store(shard, &config, &status, reader.thread.clone()));
    }
    let mut threads = vec![journal, preparer, view_writing, watch];
    threads.append(&mut readers);
    let handle = EmbeddedHandle { status, threads, timeout: config.shutdown_timeout, lock: Some(lock) };
    Ok(Embedded { stores, handle, report })
}

/// Removes what an interrupted first start left: nothing of it was ever acknowledged.
fn begin_again(files: &dyn Files, directory: &Path) -> Result<(), OpenError> {
    for name in ["journal", "view"] {
        let path = directory.join(name);
        files.remove_all(&path).map_err(OpenError::io(&path, "remove what an interrupted first start left"))?;
    }
    Ok(())
}

/// Whether the journal has every command since the beginning, so that it could be applied to an empty view.
fn journal_is_whole(files: &dyn Files, journal: &Path, partitions: u16, key: u64) -> Journal {
    match recover(files, journal, &vec![0; usize::from(partitions)], key, Mechanisms::default()) {
        Ok(recovered) if !recovered.live.is_empty() => Journal::Whole,
        Ok(_) | Err(_) => Journal::Partial,
    }
}

/// An open store whose threads do not run yet.
pub(crate) struct Parts<V> {
    pub(crate) lock: Lock,
    pub(crate) view: V,
    /// Per partition what the view has.
    pub(crate) applied: Vec<u64>,
    pub(crate) status: Arc<Status>,
    pub(crate) synced: Arc<Synced>,
    pub(crate) writer: Writer,
    pub(crate) preparer: Preparer,
    pub(crate) lanes: Lanes,
    pub(crate) halves: Vec<Half>,
}

impl<V> Parts<V> {
    /// Opens everything in the order in which each can rely on what was opened before. `key`: of a journal that is created; the view
    /// is told the one that holds.
    pub(crate) fn open(
        config: &EmbeddedConfig,
        bells: &[Bell],
        files: &Arc<dyn Files>,
        key: u64,
        open_view: impl FnOnce(u64) -> Result<(V, Vec<u64>), OpenError>,
    ) -> Result<Self, OpenError> {
        let lock = lock(&**files, &config.directory)?;
        let wanted = Identity { partitions: config.partitions, key, made: false };
        let mut identity = Identity::open(&**files, &config.directory, wanted, config.mechanisms())?;
        if !identity.made {
            begin_again(&**files, &config.directory)?;
        }
        let (view, applied) = open_view(identity.key)?;
        let status = Arc::new(Status::new(config.shards, config.commit_slow));
        let synced = Arc::new(Synced::new(&applied));
        let (mut lanes, halves) = lanes(config, bells);
        let of_journal = std::mem::take(&mut lanes.journal);
        let (mut writer, preparer) =
            journal::open(files, config, identity, &applied, of_journal, Arc::clone(&synced), &status)?;
        if !identity.made {
            writer.begin()?;
            identity.finish(&**files, &config.directory)?;
        }
        Ok(Self { lock, view, applied, status, synced, writer, preparer, lanes, halves })
    }
}

/// The log never goes back in time, and neither does anything else that is stamped: a token that was given out just before a restart is not
/// from the future because the system's clock was set back meanwhile.
fn go_on_from(clock: Clock, time: Timestamp) {
    let behind = clock.not_before(time);
    if behind >= BEHIND_MIN {
        let behind_s = behind.as_secs();
        tracing::warn!(
            behind_s,
            "the system's clock is behind the log: one of them is or was wrong. Time goes on from the log's, and approaches the \
             system's clock by a tenth of the time that passes"
        );
    }
}

fn log_report(report: &RecoveryReport) {
    tracing::info!(
        segments = report.segments,
        batches = report.batches,
        replayed = report.replayed,
        "journal recovered"
    );
    if let Some(cut) = &report.cut {
        let (file, offset) = (cut.file.display(), cut.offset);
        tracing::warn!(%file, offset, batch = cut.batch, size = cut.size, "cut an unfinished batch: it was never acknowledged");
    }
    for (file, offset) in &report.damaged {
        tracing::warn!(file = %file.display(), offset, "journal damaged where the view has everything: check the disk");
    }
}

/// The threads' ends of all queues.
pub(crate) struct Lanes {
    journal: Vec<JournalLane>,
    pub(crate) view: Vec<ViewLane>,
    /// Per reader thread.
    readers: Vec<Vec<ReaderLane>>,
}

/// One shard's ends, before the threads run.
pub(crate) struct Half {
    appends: rtrb::Producer<journal::Append>,
    journal: rtrb::Consumer<journal::FromJournal>,
    stores: rtrb::Producer<crate::store::StoreRows>,
    stored: rtrb::Consumer<crate::store::StoredUpTo>,
    questions: rtrb::Producer<crate::store::Question>,
    answers: rtrb::Consumer<crate::store::Answer>,
}

impl Half {
    pub(crate) fn into_store(
        self,
        shard: usize,
        config: &EmbeddedConfig,
        status: &Arc<Status>,
        reader_thread: Thread,
    ) -> ShardStore {
        let Self { appends, journal, stores, stored, questions, answers } = self;
        let ends = Ends { appends, journal, stores, stored, questions, answers, reader_thread };
        let limits = ShardLimits {
            placement: Placement::new(config.partitions, config.shards),
            append_queue_size_max: config.append_queue_size_max,
            store_queue_size_max: config.store_queue_size_max,
            store_queue_len_max: config.store_queue_len_max,
            query_queue_len_max: config.query_queue_len_max,
        };
        ShardStore::new(shard, Arc::clone(status), ends, limits)
    }
}

/// Makes all queues.
fn lanes(config: &EmbeddedConfig, bells: &[Bell]) -> (Lanes, Vec<Half>) {
    let readers = config.view_readers.min(bells.len());
    let mut lanes =
        Lanes { journal: Vec::new(), view: Vec::new(), readers: (0..readers).map(|_| Vec::new()).collect() };
    let mut halves = Vec::new();
    for (shard, bell) in bells.iter().enumerate() {
        let (appends, appends_out) = RingBuffer::new(config.append_queue_len_max);
        let (journal_in, journal) = RingBuffer::new(config.logged_queue_len_max);
        let (stores, stores_out) = RingBuffer::new(config.store_queue_len_max);
        let (stored_in, stored) = RingBuffer::new(STORED_QUEUE_LEN);
        let (questions, questions_out) = RingBuffer::new(config.query_queue_len_max);
        let (answers_in, answers) = RingBuffer::new(config.query_queue_len_max);
        lanes.journal.push(JournalLane { appends: appends_out, out: journal_in, bell: Arc::clone(bell) });
        lanes.view.push(ViewLane { stores: stores_out, stored: stored_in, bell: Arc::clone(bell) });
        if let Some(reader) = lanes.readers.get_mut(shard % readers.max(1)) {
            reader.push(ReaderLane { questions: questions_out, answers: answers_in, bell: Arc::clone(bell) });
        }
        halves.push(Half { appends, journal, stores, stored, questions, answers });
    }
    (lanes, halves)
}

/// What a thread does, and what it says at its end.
type Body = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// The body of a thread that takes turns.
fn takes_turns(mut turns: impl Turns + 'static, waker: &Waker, clock: Clock) -> Body {
    let waker = waker.clone();
    Box::new(move || drive(&mut turns, &waker, clock))
}

/// A thread of the store.
#[derive(Debug)]
struct Running {
    name: &'static str,
    thread: Thread,
    handle: JoinHandle<()>,
    ended: Receiver<Result<(), String>>,
}

impl Running {
    fn start(name: &'static str, body: Body) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let handle = std::thread::Builder::new().name(name.into()).spawn(move || {
            let _guard = AbortOnPanic;
            end.send(body()).ok();
        })?;
        Ok(Self { name, thread: handle.thread().clone(), handle, ended })
    }

    fn join(self, until: Instant) -> Result<(), ShutdownError> {
        self.thread.unpark();
        match self.ended.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(result) => {
                self.handle.join().ok();
                result.map_err(|reason| ShutdownError::Checkpoint { reason })
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(ShutdownError::TimedOut { thread: self.name })
            }
        }
    }
}

/// A panic on a thread of the store ends the process: a crash and a replay are better than to go on wrong.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            tracing::error!(thread = thread.name(), "panic on a thread of the store: aborting");
            std::process::abort();
        }
    }
}

/// For whoever runs the process: health, counters, shutdown. Dropping it stops the threads without a last checkpoint.
#[derive(Debug)]
pub struct EmbeddedHandle {
    status: Arc<Status>,
    threads: Vec<Running>,
    timeout: Duration,
    lock: Option<Lock>,
}

impl EmbeddedHandle {
    /// How journal and view are.
    #[must_use]
    pub fn health(&self) -> Health {
        self.status.health()
    }

    /// Why nothing more is accepted until the store is opened again by a new process, if that is so.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.status.failure()
    }

    /// Everything that was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.status.counters()
    }

    /// Takes nothing more, writes what is queued, syncs the view, ends the threads. Takes at most `shutdown_timeout`.
    ///
    /// # Errors
    /// When that did not succeed in time. Nothing acknowledged is lost: the next start replays it.
    pub fn shutdown(mut self) -> Result<(), ShutdownError> {
        self.status.stop();
        self.join(self.timeout)
    }

    fn join(&mut self, timeout: Duration) -> Result<(), ShutdownError> {
        let until = Instant::now() + timeout;
        for thread in &self.threads {
            thread.thread.unpark();
        }
        let mut result = Ok(());
        for thread in std::mem::take(&mut self.threads) {
            let joined = thread.join(until);
            if matches!(joined, Err(ShutdownError::TimedOut { .. })) {
                // The thread still writes: nobody else may have the directory before the process is gone.
                std::mem::forget(self.lock.take());
            }
            result = result.and(joined);
        }
        result
    }
}

impl Drop for EmbeddedHandle {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.status.abandon();
            self.join(DROP_TIMEOUT).ok();
        }
        // Only here: the threads have let go of the files.
        drop(self.lock.take());
    }
}
