//! Reads a journal back: finds the segments that matter, verifies every batch, cuts a torn end, refuses a damaged middle.
//! Changes nothing on disk before everything is known to be good.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::config::PAGE_SIZE;
use crate::error::OpenError;
use crate::files::{Block, Files, How, read_range};
use crate::identity::FORMAT;
use crate::journal::batch::{HEADER_SIZE, Header, Invalid, Kind, Records, owner, owner_of_opening, read_opening};
use crate::sabotage::{Mechanisms, Sabotage};

/// Bytes looked through at once for a later batch. Unit: bytes.
const SEARCH_SIZE: usize = 1024 * 1024;

/// What the end of the journal lost: it was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub file: PathBuf,
    /// Where it was cut. Unit: bytes.
    pub offset: u64,
    /// The batch that was not whole.
    pub batch: u64,
    /// How long it was meant to be. Unit: bytes.
    pub size: u64,
}

/// What an opened journal had in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// Segments that were read.
    pub segments: usize,
    /// Batches that were verified.
    pub batches: u64,
    /// Commands that the view did not have: handed to their owners before anything new.
    pub replayed: u64,
    /// The torn end, if there was one.
    pub cut: Option<Cut>,
    /// Damaged places (file, byte) whose commands the view has: nothing is lost, but the disk should be checked.
    pub damaged: Vec<(PathBuf, u64)>,
}

/// A segment with a valid opening.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) generation: u64,
    pub(crate) end: u64,
    /// Per partition the last position in it; 0 for none.
    pub(crate) last: Vec<u64>,
    /// Where its last batch begins; 0 is the opening. Unit: bytes.
    last_batch: u64,
    file: Box<dyn Block>,
    size: u64,
    /// Another one was opened after it.
    closed: bool,
    opening: Header,
    before: Vec<u64>,
}

/// A segment without a valid opening.
type Unopened = (PathBuf, Box<dyn Block>);

/// Where a batch with commands for the owners lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    segment: usize,
    offset: u64,
}

/// Everything that the journal thread must know to go on.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// Oldest first; the last one is gone on with.
    pub(crate) live: Vec<Found>,
    /// Free for use.
    pub(crate) spare: Vec<PathBuf>,
    /// Per partition what the view has.
    pub(crate) applied: Vec<u64>,
    /// Per partition the last position.
    pub(crate) tails: Vec<u64>,
    pub(crate) time_max: u64,
    pub(crate) number_next: u64,
    pub(crate) generation_next: u64,
    pub(crate) replay: VecDeque<Place>,
    pub(crate) report: RecoveryReport,
}

/// Reads the journal of which the view has everything up to `applied` (per partition).
pub(crate) fn recover(
    files: &dyn Files,
    directory: &Path,
    applied: &[u64],
    key: u64,
    mechanisms: Mechanisms,
) -> Result<Recovered, OpenError> {
    let (mut found, unopened) = list(files, directory, key)?;
    found.sort_by_key(|segment| segment.generation);
    let start = starting_segment(&found, &unopened, directory, applied, key)?;
    let generation_next = found.last().map_or(1, |newest| newest.generation + 1);
    let live = found.split_off(start);
    let mut spare: Vec<PathBuf> = found.into_iter().map(|segment| segment.path).collect();
    spare.extend(unopened.into_iter().map(|(path, _)| path));
    spare.sort();
    let seen = live.first().map_or_else(|| applied.to_vec(), |first| first.before.clone());
    let number = live.first().map_or(1, |first| first.opening.number);
    let time_max = live.first().map_or(0, |first| first.opening.time_max);
    let mut scan = Scan {
        applied,
        key,
        mechanisms,
        seen,
        number,
        time_max,
        records_total: 0,
        first_hole: None,
        replay: VecDeque::new(),
        report: RecoveryReport::default(),
    };
    let live = scan.segments(live)?;
    if let Some(newest) = live.last().filter(|newest| newest.closed) {
        return Err(OpenError::SegmentMissing { file: newest.path.clone() });
    }
    let tails: Vec<u64> = scan.seen.iter().zip(applied).map(|(&seen, &applied)| seen.max(applied)).collect();
    if let Some((file, offset)) = scan.first_hole.clone()
        && tails.iter().sum::<u64>() < scan.records_total
    {
        let reason = "commands that the view does not have are missing";
        return Err(OpenError::Corrupted { file, offset, reason });
    }
    let behind = scan.seen.iter().zip(applied).position(|(seen, applied)| seen < applied);
    if let Some(partition) = behind.filter(|_| scan.first_hole.is_none()) {
        let of = |positions: &[u64]| positions.get(partition).copied().unwrap_or(0);
        let (found, applied) = (of(&scan.seen), of(applied));
        let partition = u16::try_from(partition).unwrap_or(u16::MAX);
        return Err(OpenError::JournalOlder { directory: directory.into(), partition, found, applied });
    }
    Ok(Recovered {
        live,
        spare,
        applied: applied.to_vec(),
        tails,
        time_max: scan.time_max,
        number_next: scan.number,
        generation_next,
        replay: scan.replay,
        report: scan.report,
    })
}

impl Recovered {
    /// The last batch of the journal, with its padding, and where it stands: the one batch of which no sync may have been confirmed.
    pub(crate) fn last_batch(&self, key: u64) -> Result<Option<(u64, Bytes)>, OpenError> {
        let Some(newest) = self.live.last() else { return Ok(None) };
        Ok(Some((newest.last_batch, read_again(newest, newest.last_batch, key)?.1)))
    }

    /// Reads a batch again for its owners.
    pub(crate) fn read(&self, place: Place, key: u64) -> Result<Records, OpenError> {
        let Some(segment) = self.live.get(place.segment) else { return Ok(Records::new(Bytes::new())) };
        let (header, batch) = read_again(segment, place.offset, key)?;
        Ok(Records::new(content(batch, header)))
    }
}

fn corrupted(file: &Path, offset: u64, reason: &'static str) -> OpenError {
    OpenError::Corrupted { file: file.into(), offset, reason }
}

fn content(batch: Bytes, header: Header) -> Bytes {
    batch.slice(HEADER_SIZE..HEADER_SIZE + header.size as usize)
}

/// All segments: those with a valid opening, and the others. Removes what an interrupted creation left.
fn list(files: &dyn Files, directory: &Path, key: u64) -> Result<(Vec<Found>, Vec<Unopened>), OpenError> {
    let (mut found, mut unopened) = (Vec::new(), Vec::new());
    for path in files.list(directory).map_err(OpenError::io(directory, "list it"))? {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension == Some("new") {
            files.remove(&path).map_err(OpenError::io(&path, "remove the unfinished segment"))?;
        }
        if extension != Some("seg") {
            continue;
        }
        let file = files.open(&path, How::Read).map_err(OpenError::io(&path, "open the segment"))?;
        let size = file.size().map_err(OpenError::io(&path, "read its size"))?;
        let bytes = read_at(&*file, &path, 0, SEARCH_SIZE)?;
        match Header::check(&bytes, key) {
            Ok(opening) if opening.kind == Kind::Opening => {
                let before = read_opening(&content(Bytes::from(bytes), opening));
                let (last, end) = (vec![0; before.len()], opening.padded_size() as u64);
                let generation = opening.generation;
                let closed = false;
                found.push(Found { path, generation, end, last, last_batch: 0, file, size, closed, opening, before });
            }
            Err(Invalid::Newer(version)) => {
                return Err(OpenError::NewerFormat { file: path, found: version, supported: FORMAT });
            }
            Ok(_) | Err(_) => match owner_of_opening(&bytes) {
                Some(found) if found != owner(key) => {
                    let reason = "the opening names another data directory, or is damaged";
                    return Err(OpenError::Malformed { file: path, reason });
                }
                _ => unopened.push((path, file)),
            },
        }
    }
    Ok((found, unopened))
}

/// The newest segment before which the view has everything. Refuses when there is none, or when an opening is damaged that matters.
fn starting_segment(
    found: &[Found],
    unopened: &[Unopened],
    directory: &Path,
    applied: &[u64],
    key: u64,
) -> Result<usize, OpenError> {
    let lacks = |segment: &Found| {
        let pairs = segment.before.iter().zip(applied).enumerate();
        pairs.into_iter().find(|(_, (before, applied))| before > applied).map(|(at, (&needed, &has))| (at, needed, has))
    };
    let start = found.iter().rposition(|segment| segment.before.len() == applied.len() && lacks(segment).is_none());
    let newest_needed = start.and_then(|start| found.get(start)).map_or(0, |segment| segment.generation);
    for (path, file) in unopened {
        // A segment whose new opening was torn has only batches older than all others. A newer one has lost a good opening.
        let generation = generation_of_any_batch(path, &**file, key)?;
        if generation.is_some_and(|generation| generation > newest_needed) {
            return Err(corrupted(path, 0, "the opening of the segment"));
        }
    }
    match (start, found.first()) {
        (Some(start), _) => Ok(start),
        (None, Some(oldest)) => {
            let Some((partition, needed, applied)) = lacks(oldest) else {
                let reason = "opened for another number of partitions";
                return Err(OpenError::Malformed { file: oldest.path.clone(), reason });
            };
            let partition = u16::try_from(partition).unwrap_or(u16::MAX);
            Err(OpenError::HistoryLost { view: directory.with_file_name("view"), partition, applied, needed })
        }
        (None, None) if applied.iter().any(|&position| position > 0) => {
            Err(OpenError::JournalMissing { directory: directory.into() })
        }
        (None, None) => Ok(0),
    }
}

/// The highest generation of any valid batch in a segment without an opening.
fn generation_of_any_batch(path: &Path, file: &dyn Block, key: u64) -> Result<Option<u64>, OpenError> {
    let size = file.size().map_err(OpenError::io(path, "read its size"))?;
    let mut highest = None;
    let mut from = 0;
    while let Some((offset, header)) = search(file, path, from, size, key, &|_| true)? {
        highest = highest.max(Some(header.generation));
        from = offset + header.padded_size() as u64;
    }
    Ok(highest)
}

/// The first valid batch at or behind `from` that is wanted.
fn search(
    file: &dyn Block,
    path: &Path,
    from: u64,
    size: u64,
    key: u64,
    wanted: &dyn Fn(&Header) -> bool,
) -> Result<Option<(u64, Header)>, OpenError> {
    let mut at = from;
    while at < size {
        let chunk = read_at(file, path, at, SEARCH_SIZE)?;
        for (index, page) in chunk.chunks(PAGE_SIZE).enumerate() {
            let Some(header) = Header::peek(page).ok().filter(|header| wanted(header)) else { continue };
            let offset = at + (index * PAGE_SIZE) as u64;
            let whole = read_at(file, path, offset, header.padded_size())?;
            if Header::check(&whole, key).is_ok() {
                return Ok(Some((offset, header)));
            }
        }
        at += SEARCH_SIZE as u64;
    }
    Ok(None)
}

/// Up to `size` bytes; fewer at the end of the file.
fn read_at(file: &dyn Block, path: &Path, offset: u64, size: usize) -> Result<Vec<u8>, OpenError> {
    read_range(file, offset, size).map_err(OpenError::io(path, "read the segment"))
}

/// A batch with its padding, as far as its header can be believed.
fn read_batch(segment: &Found, offset: u64) -> Result<Bytes, OpenError> {
    let first = read_at(&*segment.file, &segment.path, offset, PAGE_SIZE)?;
    match Header::peek(&first) {
        Ok(header) if header.padded_size() > PAGE_SIZE => {
            read_at(&*segment.file, &segment.path, offset, header.padded_size()).map(Bytes::from)
        }
        Ok(_) | Err(_) => Ok(Bytes::from(first)),
    }
}

/// Reads a batch that was verified a moment ago: an error means that the disk does not keep its word.
fn read_again(segment: &Found, offset: u64, key: u64) -> Result<(Header, Bytes), OpenError> {
    let batch = read_batch(segment, offset)?;
    let header = Header::check(&batch, key).ok();
    let header = header.ok_or_else(|| corrupted(&segment.path, offset, "reads differently a second time"))?;
    Ok((header, batch))
}

/// One pass over the segments that matter.
struct Scan<'a> {
    applied: &'a [u64],
    key: u64,
    mechanisms: Mechanisms,
    /// Per partition the last position read.
    seen: Vec<u64>,
    /// The number of the next batch.
    number: u64,
    time_max: u64,
    records_total: u64,
    first_hole: Option<(PathBuf, u64)>,
    replay: VecDeque<Place>,
    report: RecoveryReport,
}

impl Scan<'_> {
    fn segments(&mut self, mut live: Vec<Found>) -> Result<Vec<Found>, OpenError> {
        let count = live.len();
        for (index, segment) in live.iter_mut().enumerate() {
            if segment.opening.number > self.number {
                // Batches between the end of the segment before and this one are missing.
                let hole = (segment.path.clone(), 0);
                self.note_hole(hole);
            } else if segment.opening.number < self.number {
                return Err(corrupted(&segment.path, 0, "repeats an earlier batch"));
            }
            self.number = segment.opening.number + 1;
            self.records_total = segment.opening.records_total;
            self.time_max = self.time_max.max(segment.opening.time_max);
            self.report.segments += 1;
            self.report.batches += 1;
            self.segment(segment, index, index + 1 == count)?;
        }
        Ok(live)
    }

    fn segment(&mut self, segment: &mut Found, index: usize, newest: bool) -> Result<(), OpenError> {
        let mut offset = segment.end;
        loop {
            let batch = read_batch(segment, offset)?;
            let checked = Header::check(&batch, self.key);
            match checked {
                Ok(header) if self.is_next(&header, segment) => {
                    self.batch(segment, index, offset, &header, batch)?;
                    segment.last_batch = offset;
                    offset += header.padded_size() as u64;
                    segment.end = offset;
                    continue;
                }
                Ok(header) if header.kind == Kind::Closing && self.is_in_place(&header, segment) => {
                    segment.closed = true;
                    return Ok(());
                }
                Err(Invalid::Newer(found)) => {
                    return Err(OpenError::NewerFormat { file: segment.path.clone(), found, supported: FORMAT });
                }
                Ok(_) | Err(_) => {}
            }
            let (generation, number) = (segment.generation, self.number);
            let later = |header: &Header| header.generation == generation && header.number > number;
            let next = offset + PAGE_SIZE as u64;
            let Some((at, header)) = search(&*segment.file, &segment.path, next, segment.size, self.key, &later)?
            else {
                if newest {
                    self.cut(segment, offset, &batch);
                }
                return Ok(());
            };
            self.note_hole((segment.path.clone(), offset));
            self.number = header.number;
            offset = at;
        }
    }

    fn is_next(&self, header: &Header, segment: &Found) -> bool {
        let in_place = self.is_in_place(header, segment) || !self.mechanisms.has(Sabotage::BatchOrder);
        header.kind == Kind::Records && in_place
    }

    fn is_in_place(&self, header: &Header, segment: &Found) -> bool {
        header.generation == segment.generation && header.number == self.number
    }

    fn note_hole(&mut self, hole: (PathBuf, u64)) {
        self.report.damaged.push(hole.clone());
        self.first_hole.get_or_insert(hole);
    }

    fn batch(
        &mut self,
        segment: &mut Found,
        index: usize,
        offset: u64,
        header: &Header,
        batch: Bytes,
    ) -> Result<(), OpenError> {
        let mut fresh = 0;
        let mut count = 0;
        for record in Records::new(content(batch, *header)) {
            let wrong = |reason| corrupted(&segment.path, offset, reason);
            let logged = record.map_err(|()| wrong("a checked batch that does not parse"))?;
            let (partition, position) = (usize::from(logged.partition.raw()), logged.position.raw());
            let (Some(seen), Some(last), Some(&applied)) =
                (self.seen.get_mut(partition), segment.last.get_mut(partition), self.applied.get(partition))
            else {
                return Err(wrong("a command of a partition that does not exist"));
            };
            if position <= *seen {
                return Err(wrong("a command that repeats an earlier position"));
            }
            if position > *seen + 1 && position - 1 > applied {
                let (file, offset) = self.first_hole.take().unwrap_or_else(|| (segment.path.clone(), offset));
                let reason = "commands before this place are missing";
                return Err(OpenError::Corrupted { file, offset, reason });
            }
            (*seen, *last) = (position, position);
            count += 1;
            fresh += u64::from(position > applied);
        }
        if count != header.count {
            return Err(corrupted(&segment.path, offset, "a checked batch with another number of commands"));
        }
        if fresh > 0 {
            self.replay.push_back(Place { segment: index, offset });
        }
        self.number = header.number + 1;
        self.records_total = header.records_total;
        self.time_max = self.time_max.max(header.time_max);
        self.report.batches += 1;
        self.report.replayed += fresh;
        Ok(())
    }

    /// The end of the journal: says what was begun behind it and never finished. The bytes may stay: the next batch is written over them
    /// before there is another, and no mixture of the two passes for a batch, because its checksum is keyed.
    fn cut(&mut self, segment: &Found, offset: u64, batch: &[u8]) {
        let number = self.number;
        if Header::resembles(batch, segment.generation, number) {
            let claimed = Header::peek(batch).map_or(PAGE_SIZE, |header| header.padded_size()) as u64;
            let size = claimed.min(segment.size.saturating_sub(offset));
            self.report.cut = Some(Cut { file: segment.path.clone(), offset, batch: number, size });
        }
    }
}
