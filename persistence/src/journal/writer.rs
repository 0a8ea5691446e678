//! The journal thread: takes what the shards append, gives it positions and times, writes and syncs one batch, hands it to the
//! owners. Never hands out what is not durable, never syncs again after a failure.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::Thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tern_core_shard::io::{AppendFailure, Logged};
use tern_protocol::{Position, Timestamp};

use crate::config::{BATCH_SIZE_LIMIT, EmbeddedConfig, PAGE_SIZE};
use crate::error::OpenError;
use crate::journal::batch::{HEADER_SIZE, Header, Kind, owner, pages, record_frame_parts};
use crate::journal::disk::{Disk, Pace, PageBuffer, SegmentFile};
use crate::journal::lanes::{Append, JournalLane, Lanes};
use crate::journal::recover::{Recovered, RecoveryReport};
use crate::journal::segments::{Segment, Segments, Shortage, Synced};
use crate::status::{Status, Wait};

/// Longest sleep with nothing to do: every reason to wake also wakes the thread.
const IDLE_PARK: Duration = Duration::from_secs(1);
/// Longest sleep while waiting for room: a segment that could not be made is tried again.
const BLOCKED_PARK: Duration = Duration::from_millis(50);

/// A command in the batch that is being made.
struct Staged {
    source: usize,
    logged: Logged,
}

/// What a turn of the loop came to.
enum Turn {
    Progress,
    Idle,
    Blocked,
}

/// The journal thread's state.
pub(crate) struct Writer {
    status: Arc<Status>,
    lanes: Lanes,
    key: u64,
    buffer: PageBuffer,
    staged: Vec<Staged>,
    segments: Segments,
    /// Per partition the last position and time.
    tails: Vec<(u64, u64)>,
    records_total: u64,
    time_max: u64,
    number_next: u64,
    generation_next: u64,
    recovered: Option<Recovered>,
    report: RecoveryReport,
}

impl Writer {
    /// Makes the recovered journal writable, and a first segment if there is none.
    pub(crate) fn new(
        config: &EmbeddedConfig,
        key: u64,
        recovered: Recovered,
        disk: Disk,
        lanes: Vec<JournalLane>,
        synced: Arc<Synced>,
        status: Arc<Status>,
    ) -> Result<Self, OpenError> {
        let directory = config.directory.join("journal");
        let disk = disk.probe(&directory).map_err(OpenError::io(&directory, "write a file in it"))?;
        let mut live = VecDeque::new();
        for found in &recovered.live {
            let file = disk.open(&found.path).map_err(OpenError::io(&found.path, "open the segment for writing"))?;
            let (generation, end, last) = (found.generation, found.end, found.last.clone());
            live.push_back(Segment { file, generation, end, last });
        }
        if let Some(Segment { file, end, .. }) = live.back().filter(|_| recovered.wipe) {
            let to = file.size.min(end + BATCH_SIZE_LIMIT as u64);
            file.wipe(*end, to).map_err(OpenError::io(&file.path, "clear the end of the journal"))?;
        }
        let (free, index_next) = free_segments(&directory, config, &recovered, &disk, live.is_empty())?;
        let records_total = recovered.tails.iter().sum();
        status.logged_total.store(records_total, Relaxed);
        let segments = Segments::new(live, free, index_next, disk, config, synced, Arc::clone(&status))
            .map_err(OpenError::io(&directory, "start a thread"))?;
        Ok(Self {
            lanes: Lanes::new(lanes, config, Arc::clone(&status)),
            status,
            key,
            buffer: PageBuffer::new(config.batch_size_max),
            staged: Vec::new(),
            segments,
            tails: recovered.tails.iter().map(|&position| (position, recovered.time_max)).collect(),
            records_total,
            time_max: recovered.time_max,
            number_next: recovered.number_next,
            generation_next: recovered.generation_next,
            report: recovered.report.clone(),
            recovered: Some(recovered),
        })
    }

    /// Opens the first segment of a new journal, durably.
    pub(crate) fn begin(&mut self) -> Result<(), OpenError> {
        let Some(file) = self.segments.take_made() else { return Ok(()) };
        match self.begin_segment(file) {
            Ok(_) => Ok(()),
            Err((file, source)) => Err(OpenError::Io { file: file.into(), doing: "open the first segment", source }),
        }
    }

    /// What recovery found.
    pub(crate) fn report(&self) -> RecoveryReport {
        self.report.clone()
    }

    /// Replays, then serves until the store is stopped. A failure is in the status, not in what this returns.
    pub(crate) fn run(mut self) -> Result<(), String> {
        let journal = std::thread::current();
        let replayed = self.recovered.take().is_none_or(|recovered| self.replay(&recovered));
        if !replayed {
            return Ok(());
        }
        if self.segments.writable().is_some() {
            self.segments.prepare_ahead(&journal);
        }
        while !self.status.is_stopped() {
            match self.turn(&journal) {
                Turn::Progress => {}
                Turn::Idle => std::thread::park_timeout(IDLE_PARK),
                Turn::Blocked => std::thread::park_timeout(BLOCKED_PARK),
            }
        }
        self.finish(&journal);
        Ok(())
    }

    /// Hands the owners what the view does not have; returns whether to go on.
    fn replay(&mut self, recovered: &Recovered) -> bool {
        for &place in &recovered.replay {
            let records = match recovered.read(place, self.key) {
                Ok(records) => records,
                Err(error) => {
                    self.status.fail_journal(error.to_string());
                    return true;
                }
            };
            for logged in records.flatten() {
                let applied = recovered.applied.get(usize::from(logged.partition.raw())).copied().unwrap_or(0);
                if logged.position.raw() > applied {
                    self.lanes.hand_out(logged);
                }
            }
            // Nobody is served before everybody has caught up, so here all may wait for one.
            while !self.lanes.deliver() {
                if self.status.is_stopped() {
                    return false;
                }
                std::thread::park_timeout(BLOCKED_PARK);
            }
        }
        self.lanes.caught_up();
        true
    }

    fn turn(&mut self, journal: &Thread) -> Turn {
        let all_take = self.lanes.deliver();
        if self.status.journal_failed() || self.status.view_failed().is_some() {
            return self.refuse_all();
        }
        if self.segments.writable().is_none() {
            match self.open_segment(journal) {
                Ok(()) if self.status.journal_failed() => return self.refuse_all(),
                Ok(()) => self.status.set_wait(Wait::None),
                Err(Shortage::Preparing) => return Turn::Blocked,
                Err(Shortage::View) => {
                    self.status.want_segment();
                    return Turn::Blocked;
                }
                Err(Shortage::Space) => {
                    self.status.set_wait(Wait::Space);
                    self.refuse_all();
                    return Turn::Blocked;
                }
            }
        }
        self.fill();
        if self.staged.is_empty() {
            return if all_take { Turn::Idle } else { Turn::Blocked };
        }
        self.commit();
        self.lanes.deliver();
        Turn::Progress
    }

    /// Moves appended commands into the batch, as many as fit.
    fn fill(&mut self) {
        self.buffer.reset(HEADER_SIZE);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, crate::status::micros);
        self.lanes.begin_batch();
        while let Some((source, Append { partition, record })) = self.lanes.next(self.buffer.room()) {
            let Some((last, time)) = self.tails.get_mut(usize::from(partition.raw())) else { continue };
            *last += 1;
            *time = wall.max(*time + 1);
            self.time_max = self.time_max.max(*time);
            let (position, time) = (Position::from_raw(*last), Timestamp::from_raw(*time));
            let (prefix, head) = record_frame_parts(partition, position, time, &record);
            self.buffer.extend(&prefix);
            self.buffer.extend(&record.frame);
            self.buffer.extend(&head);
            self.staged.push(Staged { source, logged: Logged { partition, position, time, record } });
        }
    }

    /// One write, one sync; then, and only then, the commands are handed out.
    fn commit(&mut self) {
        let count = self.staged.len() as u64;
        let size = self.buffer.len() - HEADER_SIZE;
        self.status.commit_begins();
        let done = self.write(Kind::Records, size);
        self.status.commit_ends(count, pages(HEADER_SIZE + size) as u64);
        let staged = std::mem::take(&mut self.staged);
        match done {
            Ok(()) => {
                for Staged { logged, .. } in staged {
                    self.lanes.hand_out(logged);
                }
                self.status.logged_total.store(self.records_total, Relaxed);
            }
            Err((file, error)) => {
                self.status.fail_journal(format!("{file}: {error}"));
                self.status.unknown.fetch_add(count, Relaxed);
                for Staged { source, logged } in staged {
                    self.lanes.fail(source, logged.partition, logged.record, AppendFailure::Unknown);
                }
            }
        }
    }

    /// Writes what is in the buffer to the current segment.
    fn write(&mut self, kind: Kind, size: usize) -> Result<(), (String, io::Error)> {
        let Some(segment) = self.segments.current.as_mut() else {
            return Err(("journal".into(), io::ErrorKind::NotFound.into()));
        };
        let count = self.staged.len();
        let header = Header {
            kind,
            generation: segment.generation,
            number: self.number_next,
            size: u32::try_from(size).expect("BATCH_SIZE_LIMIT is less"),
            count: u32::try_from(count).expect("each takes bytes of the batch"),
            records_total: self.records_total + count as u64,
            time_max: self.time_max,
        };
        let batch = self.buffer.padded();
        header.seal(batch, self.key);
        let done = segment.file.write(batch, segment.end).and_then(|()| segment.file.sync());
        done.map_err(|error| (segment.file.path.display().to_string(), error))?;
        segment.end += batch.len() as u64;
        for Staged { logged, .. } in &self.staged {
            if let Some(last) = segment.last.get_mut(usize::from(logged.partition.raw())) {
                *last = logged.position.raw();
            }
        }
        self.number_next += 1;
        self.records_total = header.records_total;
        Ok(())
    }

    /// Goes on in a free segment: its opening is durable before any batch.
    fn open_segment(&mut self, journal: &Thread) -> Result<(), Shortage> {
        let file = self.segments.take_free(journal)?;
        match self.begin_segment(file) {
            Ok(before) => self.segments.rotated(before, journal),
            Err((file, error)) => self.status.fail_journal(format!("{file}: {error}")),
        }
        Ok(())
    }

    /// Makes a free segment the current one, and closes the one before, which it returns.
    fn begin_segment(&mut self, file: SegmentFile) -> Result<Option<Segment>, (String, io::Error)> {
        let last = vec![0; self.tails.len()];
        let segment = Segment { file, generation: self.generation_next, end: 0, last };
        self.generation_next += 1;
        let before = self.segments.current.replace(segment);
        self.buffer.reset(HEADER_SIZE);
        self.buffer.extend(&owner(self.key).to_le_bytes());
        for (position, _) in &self.tails {
            self.buffer.extend(&position.to_le_bytes());
        }
        let size = self.buffer.len() - HEADER_SIZE;
        self.write(Kind::Opening, size)?;
        if let Some(before) = &before {
            self.close(before)?;
        }
        Ok(before)
    }

    /// Says in a segment that another one follows: without that, nobody would miss the newest one. Durable before anything is handed out
    /// from the newest one.
    fn close(&mut self, segment: &Segment) -> Result<(), (String, io::Error)> {
        self.buffer.reset(HEADER_SIZE);
        let header = Header {
            kind: Kind::Closing,
            generation: segment.generation,
            number: self.number_next - 1,
            size: 0,
            count: 0,
            records_total: self.records_total,
            time_max: self.time_max,
        };
        let page = self.buffer.padded();
        header.seal(page, self.key);
        let done = segment.file.write(page, segment.end).and_then(|()| segment.file.sync());
        done.map_err(|error| (segment.file.path.display().to_string(), error))
    }

    /// Answers what is queued: certainly not stored.
    fn refuse_all(&mut self) -> Turn {
        if self.lanes.refuse_all() > 0 { Turn::Progress } else { Turn::Idle }
    }

    /// The last batches: nothing new is appended. What is not handed out is replayed at the next start.
    fn finish(&mut self, journal: &Thread) {
        while !self.status.is_abandoned() && !self.status.journal_failed() {
            if self.segments.writable().is_none() && self.open_segment(journal).is_err() {
                self.refuse_all();
                return;
            }
            self.fill();
            if self.staged.is_empty() {
                break;
            }
            self.commit();
        }
        self.lanes.deliver();
    }
}

/// Segments that hold nothing needed; on an empty directory the first one, small so that it takes no time.
fn free_segments(
    directory: &Path,
    config: &EmbeddedConfig,
    recovered: &Recovered,
    disk: &Disk,
    needs_first: bool,
) -> Result<(Vec<SegmentFile>, u32), OpenError> {
    let mut free = Vec::new();
    let size_min = (2 * config.batch_size_max + PAGE_SIZE) as u64;
    for path in &recovered.spare {
        let file = disk.open(path).map_err(OpenError::io(path, "open the segment for writing"))?;
        if file.size < size_min {
            std::fs::remove_file(path).map_err(OpenError::io(path, "remove the empty segment"))?;
        } else {
            free.push(file);
        }
    }
    let paths = recovered.live.iter().map(|found| &found.path).chain(&recovered.spare);
    let index_of = |path: &std::path::PathBuf| path.file_stem()?.to_str()?.parse::<u32>().ok();
    let mut index_next = paths.filter_map(index_of).max().map_or(1, |index| index + 1);
    if needs_first && free.is_empty() {
        let path = directory.join(format!("{index_next:04}.seg"));
        let size = pages(usize::try_from(config.first_segment_size).unwrap_or(0)) as u64;
        let pace = Pace::default();
        pace.set_urgent(true);
        free.push(disk.create(&path, size, &pace).map_err(OpenError::io(&path, "create the first segment"))?);
        index_next += 1;
    }
    Ok((free, index_next))
}
