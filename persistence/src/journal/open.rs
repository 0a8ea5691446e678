//! Opens a journal: reads it back, makes durable what it will hand out, and has a segment for the first batch.
//! Hands out nothing, and tells nobody anything, before that is done.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::{EmbeddedConfig, PAGE_SIZE};
use crate::error::OpenError;
use crate::files::Files;
use crate::identity::{Identity, sync_directory};
use crate::journal::batch::pages;
use crate::journal::disk::{Disk, Filling, PageBuffer, SegmentFile};
use crate::journal::lanes::JournalLane;
use crate::journal::preparer::Preparer;
use crate::journal::recover::{Recovered, recover};
use crate::journal::segments::{Segment, Segments, Synced};
use crate::journal::writer::Writer;
use crate::sabotage::{Mechanisms, Sabotage};
use crate::status::Status;

/// Opens the journal of a data directory whose view has everything up to `applied`, per partition.
/// Returns what takes turns.
pub(crate) fn open(
    files: &Arc<dyn Files>,
    config: &EmbeddedConfig,
    identity: Identity,
    applied: &[u64],
    lanes: Vec<JournalLane>,
    synced: Arc<Synced>,
    status: &Arc<Status>,
) -> Result<(Writer, Preparer), OpenError> {
    let (key, mechanisms) = (identity.key, config.mechanisms());
    let directory = config.directory.join("journal");
    files.make_directory(&directory).map_err(OpenError::io(&directory, "create it"))?;
    // The names of view and journal, and of segments whose maker died before it synced them.
    sync_directory(&**files, &config.directory)?;
    if mechanisms.has(Sabotage::NamesAtStart) {
        sync_directory(&**files, &directory)?;
    }
    let recovered = recover(&**files, &directory, applied, key, mechanisms)?;
    if identity.made && recovered.live.is_empty() {
        return Err(OpenError::JournalMissing { directory });
    }
    let disk = Disk::probe(Arc::clone(files), &directory, mechanisms);
    let disk = disk.map_err(OpenError::io(&directory, "write a file in it"))?;
    let live = live_segments(&recovered, &disk, key, mechanisms)?;
    let (free, index_next) = free_segments(&directory, config, &recovered, &disk, live.is_empty())?;
    let (preparing, preparer) = Preparer::new(disk, Arc::clone(status));
    let segments = Segments::new(live, free, index_next, preparing, config, synced, Arc::clone(status));
    Ok((Writer::new(config, key, recovered, segments, lanes, Arc::clone(status)), preparer))
}

/// Segments that are needed; everything in them is durable.
fn live_segments(
    recovered: &Recovered,
    disk: &Disk,
    key: u64,
    mechanisms: Mechanisms,
) -> Result<VecDeque<Segment>, OpenError> {
    let mut live = VecDeque::new();
    for found in &recovered.live {
        let file = disk.open(&found.path).map_err(OpenError::io(&found.path, "open the segment for writing"))?;
        let (generation, end, last) = (found.generation, found.end, found.last.clone());
        live.push_back(Segment { file, generation, end, last });
    }
    if let (Some(Segment { file, .. }), Some((offset, batch))) = (live.back(), recovered.last_batch(key)?)
        && mechanisms.has(Sabotage::WriteAgain)
    {
        write_again(file, offset, &batch).map_err(OpenError::io(&file.path, "make its last batch durable"))?;
    }
    Ok(live)
}

/// Makes the last batch of the journal durable. It may have been read from a cache, after a crash before its sync or after a sync that
/// failed; then its pages count as clean, and no sync alone would write them. Every batch before it was synced before it was written.
fn write_again(file: &SegmentFile, offset: u64, batch: &[u8]) -> io::Result<()> {
    let mut pages = PageBuffer::new(batch.len());
    pages.extend(batch);
    file.write(pages.padded(), offset)?;
    file.sync()
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
            disk.remove(path).map_err(OpenError::io(path, "remove the empty segment"))?;
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
        free.push(Filling::make(disk, &path, size).map_err(OpenError::io(&path, "create the first segment"))?);
        index_next += 1;
    }
    Ok((free, index_next))
}
