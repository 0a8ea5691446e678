//! The journal thread: takes what the shards append, gives it positions and times, writes and syncs one batch, hands it to the
//! owners. Never hands out what is not durable, never syncs again after a failure.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tern_core_shard::io::{AppendFailure, Logged};
use tern_protocol::{Position, Timestamp};

use crate::config::EmbeddedConfig;
use crate::error::OpenError;
use crate::journal::batch::{HEADER_SIZE, Header, Kind, owner, pages, record_frame_parts};
use crate::journal::disk::{PageBuffer, SegmentFile};
use crate::journal::lanes::{Append, JournalLane, Lanes};
use crate::journal::recover::{Recovered, RecoveryReport};
use crate::journal::segments::{Segment, Segments, Shortage};
use crate::sabotage::{Mechanisms, Sabotage};
use crate::status::{Status, Wait};
use crate::turns::{Now, Rest, Turns};

/// Nothing goes on before there is room, a segment or space. The longest sleep: a segment that could not be made is tried again.
const BLOCKED: Rest = Rest::AtMost(Duration::from_millis(50));

/// A command in the batch that is being made.
struct Staged {
    source: usize,
    logged: Logged,
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
    /// What is still to be handed out of what was recovered.
    replaying: Option<Recovered>,
    report: RecoveryReport,
    mechanisms: Mechanisms,
}

impl Writer {
    /// Ready to replay what was recovered, and then to go on in these segments.
    pub(crate) fn new(
        config: &EmbeddedConfig,
        key: u64,
        recovered: Recovered,
        segments: Segments,
        lanes: Vec<JournalLane>,
        status: Arc<Status>,
    ) -> Self {
        let records_total = recovered.tails.iter().sum();
        status.logged_total.store(records_total, Relaxed);
        Self {
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
            replaying: Some(recovered),
            mechanisms: config.mechanisms(),
        }
    }

    /// Opens the first segment of a new journal, durably.
    pub(crate) fn begin(&mut self) -> Result<(), OpenError> {
        let Some(file) = self.segments.take_made() else { return Ok(()) };
        match self.begin_segment(file) {
            Ok(_) => Ok(()),
            Err((file, source)) => Err(OpenError::Io { file: file.into(), doing: "open the first segment", source }),
        }
    }

    /// The latest time that a command of the log has.
    pub(crate) const fn last_time(&self) -> Timestamp {
        Timestamp::from_raw(self.time_max)
    }

    /// What recovery found.
    pub(crate) fn report(&self) -> RecoveryReport {
        self.report.clone()
    }

    /// Hands the owners the next batch of what the view does not have.
    fn replay(&mut self, mut recovered: Recovered) -> Rest {
        // Nobody is served before everybody has caught up, so here all may wait for one.
        if !self.lanes.deliver() {
            self.replaying = Some(recovered);
            return BLOCKED;
        }
        let Some(place) = recovered.replay.pop_front() else {
            self.lanes.caught_up();
            if self.segments.writable().is_some() {
                self.segments.prepare_ahead();
            }
            return Rest::Again;
        };
        match recovered.read(place, self.key) {
            Ok(records) => {
                for logged in records.flatten() {
                    let applied = recovered.applied.get(usize::from(logged.partition.raw())).copied().unwrap_or(0);
                    if logged.position.raw() > applied {
                        self.lanes.hand_out(logged);
                    }
                }
                self.replaying = Some(recovered);
            }
            Err(error) => self.status.fail_journal(error.to_string()),
        }
        Rest::Again
    }

    /// Makes one batch durable, if there is anything and room for it.
    fn serve(&mut self, now: Now) -> Rest {
        let all_take = self.lanes.deliver();
        if self.status.journal_failed() || self.status.view_failed().is_some() {
            return self.refuse_all();
        }
        if self.segments.writable().is_none() {
            match self.open_segment(now) {
                Ok(()) if self.status.journal_failed() => return self.refuse_all(),
                Ok(()) => self.status.set_wait(Wait::None),
                Err(Shortage::Preparing) => return BLOCKED,
                Err(Shortage::View) => {
                    self.status.want_segment();
                    return BLOCKED;
                }
                Err(Shortage::Space) => {
                    self.status.set_wait(Wait::Space);
                    self.refuse_all();
                    return BLOCKED;
                }
            }
        }
        self.fill(now);
        if self.staged.is_empty() {
            return if all_take { Rest::UntilWoken } else { BLOCKED };
        }
        self.commit();
        self.lanes.deliver();
        Rest::Again
    }

    /// Moves appended commands into the batch, as many as fit.
    fn fill(&mut self, now: Now) {
        self.buffer.reset(HEADER_SIZE);
        self.lanes.begin_batch();
        while let Some((source, Append { partition, record })) = self.lanes.next(self.buffer.room()) {
            let Some((last, time)) = self.tails.get_mut(usize::from(partition.raw())) else { continue };
            *last += 1;
            *time = if self.mechanisms.has(Sabotage::LogTime) { now.wall.max(*time + 1) } else { now.wall };
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
        let done = segment.file.write(batch, segment.end).and_then(|()| sync(&segment.file, self.mechanisms));
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
    fn open_segment(&mut self, now: Now) -> Result<(), Shortage> {
        let file = self.segments.take_free(now)?;
        match self.begin_segment(file) {
            Ok(before) => self.segments.rotated(before, now),
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
    fn refuse_all(&mut self) -> Rest {
        if self.lanes.refuse_all() > 0 { Rest::Again } else { Rest::UntilWoken }
    }

    /// The last batches: nothing new is appended. What is not handed out is replayed at the next start.
    fn finish(&mut self, now: Now) {
        while !self.status.is_abandoned() && !self.status.journal_failed() {
            if self.segments.writable().is_none() && self.open_segment(now).is_err() {
                self.refuse_all();
                return;
            }
            self.fill(now);
            if self.staged.is_empty() {
                break;
            }
            self.commit();
        }
        self.lanes.deliver();
    }
}

/// Makes a batch durable. After an error nobody knows what is on the disk: it is never asked again.
fn sync(file: &SegmentFile, mechanisms: Mechanisms) -> io::Result<()> {
    if !mechanisms.has(Sabotage::Sync) {
        return Ok(());
    }
    let synced = file.sync();
    if mechanisms.has(Sabotage::SyncOnce) { synced } else { synced.or_else(|_| file.sync()) }
}

impl Turns for Writer {
    /// Replays, then serves until the store is stopped. A failure is in the status, not in how this ends.
    fn turn(&mut self, now: Now) -> Rest {
        if let Some(recovered) = self.replaying.take() {
            return if self.status.is_stopped() { Rest::Ended(Ok(())) } else { self.replay(recovered) };
        }
        if self.status.is_stopped() {
            self.finish(now);
            return Rest::Ended(Ok(()));
        }
        self.serve(now)
    }
}
