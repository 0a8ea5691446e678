//! Which segment is written, which wait for the view, which are free. Frees oldest first; has new ones made before they are needed.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{EmbeddedConfig, PAGE_SIZE};
use crate::journal::disk::SegmentFile;
use crate::journal::preparer::{Job, Preparing};
use crate::sabotage::{Mechanisms, Sabotage};
use crate::status::Status;
use crate::turns::Now;

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
    /// Made or lengthened at present.
    awaited: usize,
    index_next: u32,
    /// The last attempt to make one failed; when to try again, on the clock of the turns.
    retry_at: Option<Duration>,
    synced: Arc<Synced>,
    status: Arc<Status>,
    preparing: Preparing,
    directory: PathBuf,
    size: u64,
    count_max: usize,
    reserve: u64,
    mechanisms: Mechanisms,
}

impl Segments {
    /// What recovery found.
    pub(crate) fn new(
        mut live: VecDeque<Segment>,
        free: Vec<SegmentFile>,
        index_next: u32,
        preparing: Preparing,
        config: &EmbeddedConfig,
        synced: Arc<Synced>,
        status: Arc<Status>,
    ) -> Self {
        let current = live.pop_back();
        Self {
            current,
            full: live,
            free,
            awaited: 0,
            index_next,
            retry_at: None,
            synced,
            status,
            preparing,
            directory: config.directory.join("journal"),
            size: config.segment_size / PAGE_SIZE as u64 * PAGE_SIZE as u64,
            count_max: config.segments_max,
            reserve: (config.batch_size_max + PAGE_SIZE) as u64,
            mechanisms: config.mechanisms(),
        }
    }

    /// The segment that takes the next batch whatever its size, and a closing, if there is one; otherwise the caller must open a new one.
    pub(crate) fn writable(&mut self) -> Option<&mut Segment> {
        let reserve = self.reserve;
        self.current.as_mut().filter(|segment| segment.end + reserve <= segment.file.size)
    }

    /// A free segment to open next. The caller makes it the current one, writes its opening, closes the one before, and then calls
    /// [`Self::rotated`].
    pub(crate) fn take_free(&mut self, now: Now) -> Result<SegmentFile, Shortage> {
        self.collect(now);
        if self.free.is_empty() {
            self.reclaim();
        }
        if let Some(file) = self.free.pop() {
            return Ok(file);
        }
        if self.awaited > 0 {
            self.preparing.set_urgent(true);
            return Err(if self.retry_at.is_some() { Shortage::Space } else { Shortage::Preparing });
        }
        if self.count() >= self.count_max {
            return Err(Shortage::View);
        }
        if self.retry_at.is_none_or(|at| now.monotonic >= at) {
            self.preparing.set_urgent(true);
            self.prepare();
        }
        Err(if self.retry_at.is_some() { Shortage::Space } else { Shortage::Preparing })
    }

    /// A free segment that is there already.
    pub(crate) fn take_made(&mut self) -> Option<SegmentFile> {
        self.free.pop()
    }

    /// Keeps the segment before the current one for as long as it is needed, and has the next one prepared.
    pub(crate) fn rotated(&mut self, before: Option<Segment>, now: Now) {
        self.full.extend(before);
        self.collect(now);
        self.reclaim();
        self.prepare_ahead();
        self.report();
    }

    /// Has the next segment made before it is needed.
    pub(crate) fn prepare_ahead(&mut self) {
        if self.free.is_empty() && self.awaited == 0 && self.count() < self.count_max {
            self.prepare();
        }
    }

    /// How many there are, those being made included.
    fn count(&self) -> usize {
        self.full.len() + self.free.len() + self.awaited + usize::from(self.current.is_some())
    }

    /// Frees what the view has. A newer segment is never freed before an older one: what is left has no gap.
    fn reclaim(&mut self) {
        let covered = |oldest: &Segment| self.synced.covers(&oldest.last) || !self.mechanisms.has(Sabotage::Covers);
        while self.full.front().is_some_and(covered) {
            let Some(Segment { file, .. }) = self.full.pop_front() else { return };
            if file.size < self.size {
                self.awaited += 1;
                self.preparing.send(Job { from: file.size, to: self.size, path: file.path });
            } else {
                self.free.push(file);
            }
        }
        self.report();
    }

    fn prepare(&mut self) {
        self.awaited += 1;
        let path = self.directory.join(format!("{:04}.seg", self.index_next));
        self.index_next += 1;
        self.preparing.send(Job { path, from: 0, to: self.size });
    }

    /// Takes what was finished.
    fn collect(&mut self, now: Now) {
        while let Some(result) = self.preparing.poll() {
            self.awaited -= 1;
            self.preparing.set_urgent(false);
            match result {
                Ok(file) => {
                    self.retry_at = None;
                    self.free.push(file);
                }
                Err(error) => {
                    if self.retry_at.is_none() {
                        tracing::warn!(%error, "cannot make another journal segment");
                    }
                    self.retry_at = Some(now.monotonic + RETRY_INTERVAL);
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
