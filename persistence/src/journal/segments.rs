//! Which segment is written, which wait for the view, which are free, and the thread that makes new ones. Frees oldest first.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::config::{EmbeddedConfig, PAGE_SIZE};
use crate::journal::disk::{Disk, Pace, SegmentFile};
use crate::status::Status;

/// Time between attempts to make a segment after one failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What is in the synced view: per partition the last position. Written by the view, read when segments run out.
#[derive(Debug)]
pub(crate) struct Synced(Vec<AtomicU64>);

impl Synced {
    pub(crate) fn new(applied: &[u64]) -> Self {
        Self(applied.iter().map(|&position| AtomicU64::new(position)).collect())
    }

    pub(crate) fn publish(&self, applied: &[u64]) {
        for (to, &position) in self.0.iter().zip(applied) {
            to.store(position, Ordering::Release);
        }
    }

    /// What was published.
    #[cfg(test)]
    pub(crate) fn positions(&self) -> Vec<u64> {
        self.0.iter().map(|position| position.load(Ordering::Acquire)).collect()
    }

    fn covers(&self, last: &[u64]) -> bool {
        self.0.iter().zip(last).all(|(synced, &position)| position <= synced.load(Ordering::Acquire))
    }
}

/// A segment in use.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: SegmentFile,
    pub(crate) generation: u64,
    /// Where the next batch goes. Unit: bytes.
    pub(crate) end: u64,
    /// Per partition the last position in it; 0 for none.
    pub(crate) last: Vec<u64>,
}

/// Why there is no segment to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// One is being made.
    Preparing,
    /// All there may be are needed until the view catches up.
    View,
    /// The last attempt to make one failed.
    Space,
}

/// All segments of the journal.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(crate) current: Option<Segment>,
    /// Oldest first.
    full: VecDeque<Segment>,
    free: Vec<SegmentFile>,
    /// Made or grown by the other thread at present.
    preparing: usize,
    index_next: u32,
    retry_at: Option<Instant>,
    synced: Arc<Synced>,
    status: Arc<Status>,
    preparer: Preparer,
    directory: PathBuf,
    size: u64,
    count_max: usize,
    reserve: u64,
}

impl Segments {
    /// What recovery found.
    pub(crate) fn new(
        mut live: VecDeque<Segment>,
        free: Vec<SegmentFile>,
        index_next: u32,
        disk: Disk,
        config: &EmbeddedConfig,
        synced: Arc<Synced>,
        status: Arc<Status>,
    ) -> io::Result<Self> {
        let current = live.pop_back();
        Ok(Self {
            current,
            full: live,
            free,
            preparing: 0,
            index_next,
            retry_at: None,
            synced,
            status,
            preparer: Preparer::start(disk)?,
            directory: config.directory.join("journal"),
            size: config.segment_size / PAGE_SIZE as u64 * PAGE_SIZE as u64,
            count_max: config.segments_max,
            reserve: (config.batch_size_max + PAGE_SIZE) as u64,
        })
    }

    /// The segment that takes the next batch whatever its size, and a closing, if there is one; otherwise the caller must open a new one.
    pub(crate) fn writable(&mut self) -> Option<&mut Segment> {
        let reserve = self.reserve;
        self.current.as_mut().filter(|segment| segment.end + reserve <= segment.file.size)
    }

    /// A free segment to open next. The caller makes it the current one, writes its opening, closes the one before, and then calls
    /// [`Self::rotated`].
    pub(crate) fn take_free(&mut self, journal: &Thread) -> Result<SegmentFile, Shortage> {
        self.collect();
        if self.free.is_empty() {
            self.reclaim(journal);
        }
        if let Some(file) = self.free.pop() {
            return Ok(file);
        }
        if self.preparing > 0 {
            self.preparer.pace.set_urgent(true);
            return Err(if self.retry_at.is_some() { Shortage::Space } else { Shortage::Preparing });
        }
        if self.count() >= self.count_max {
            return Err(Shortage::View);
        }
        if self.retry_at.is_none_or(|at| Instant::now() >= at) {
            self.preparer.pace.set_urgent(true);
            self.prepare(journal);
        }
        Err(if self.retry_at.is_some() { Shortage::Space } else { Shortage::Preparing })
    }

    /// A free segment that is there already.
    pub(crate) fn take_made(&mut self) -> Option<SegmentFile> {
        self.free.pop()
    }

    /// Keeps the segment before the current one for as long as it is needed, and has the next one prepared.
    pub(crate) fn rotated(&mut self, before: Option<Segment>, journal: &Thread) {
        self.full.extend(before);
        self.collect();
        self.reclaim(journal);
        self.prepare_ahead(journal);
        self.report();
    }

    /// Has the next segment made before it is needed.
    pub(crate) fn prepare_ahead(&mut self, journal: &Thread) {
        if self.free.is_empty() && self.preparing == 0 && self.count() < self.count_max {
            self.prepare(journal);
        }
    }

    /// How many there are, those being made included.
    fn count(&self) -> usize {
        self.full.len() + self.free.len() + self.preparing + usize::from(self.current.is_some())
    }

    /// Frees what the view has. A newer segment is never freed before an older one: what is left has no gap.
    fn reclaim(&mut self, journal: &Thread) {
        while self.full.front().is_some_and(|oldest| self.synced.covers(&oldest.last)) {
            let Some(Segment { file, .. }) = self.full.pop_front() else { return };
            if file.size < self.size {
                self.preparing += 1;
                let job = Job { from: file.size, to: self.size, path: file.path, journal: journal.clone() };
                self.preparer.send(job);
            } else {
                self.free.push(file);
            }
        }
        self.report();
    }

    fn prepare(&mut self, journal: &Thread) {
        self.preparing += 1;
        let path = self.directory.join(format!("{:04}.seg", self.index_next));
        self.index_next += 1;
        self.preparer.send(Job { path, from: 0, to: self.size, journal: journal.clone() });
    }

    /// Takes what the other thread finished.
    fn collect(&mut self) {
        while let Some(result) = self.preparer.poll() {
            self.preparing -= 1;
            self.preparer.pace.set_urgent(false);
            match result {
                Ok(file) => {
                    self.retry_at = None;
                    self.free.push(file);
                }
                Err(error) => {
                    if self.retry_at.is_none() {
                        tracing::warn!(%error, "cannot make another journal segment");
                    }
                    self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
                }
            }
        }
    }

    fn report(&self) {
        let used = self.full.len() + usize::from(self.current.is_some());
        self.status.segments_used.store(used as u64, Ordering::Relaxed);
        self.status.segments.store((used + self.free.len()) as u64, Ordering::Relaxed);
    }
}

/// A segment to be made (`from` is 0) or lengthened.
#[derive(Debug)]
struct Job {
    path: PathBuf,
    from: u64,
    to: u64,
    /// Woken when it is done.
    journal: Thread,
}

/// The thread that writes zeros, so that the journal never waits for that.
#[derive(Debug)]
struct Preparer {
    jobs: Option<Sender<Job>>,
    done: Receiver<io::Result<SegmentFile>>,
    pace: Arc<Pace>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    fn start(disk: Disk) -> io::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (outbox, done) = channel();
        let pace = Arc::new(Pace::default());
        let given = Arc::clone(&pace);
        let thread = std::thread::Builder::new().name("tern-journal-z".into()).spawn(move || {
            let _guard = crate::embedded::AbortOnPanic;
            for job in inbox {
                let made = if job.from == 0 {
                    disk.create(&job.path, job.to, &given)
                } else {
                    disk.grow(&job.path, job.from, job.to, &given)
                };
                if outbox.send(made).is_err() {
                    return;
                }
                job.journal.unpark();
            }
        })?;
        Ok(Self { jobs: Some(jobs), done, pace, thread: Some(thread) })
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            jobs.send(job).expect("the thread lives until this is dropped");
        }
    }

    fn poll(&self) -> Option<io::Result<SegmentFile>> {
        self.done.try_recv().ok()
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.pace.stop();
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread.join().ok();
        }
    }
}
