//! What the disk takes to say that something lasts: `fdatasync` of a file whose blocks are there already, as the journal writes it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fdatasync as sync};

use super::Effort;
use super::spread::{Batches, Spread};

/// Bytes written before each sync; one page.
const BLOCK_SIZE: usize = 4096;
/// Size of the file. Unit: blocks. Small enough to be zeroed in a moment, larger than what a disk's own cache reorders.
const BLOCKS: u64 = 4_096;
/// After this no further sync is begun: a slow disk answers with fewer of them.
const TIME_MAX: Duration = Duration::from_secs(4);

/// One page that begins at a page, as `O_DIRECT` demands.
#[repr(C, align(4096))]
struct Block([u8; BLOCK_SIZE]);

/// Removes the file whatever happened.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What the disk takes.
pub(super) struct Syncs {
    /// `fdatasync` after a page was written to the next place of a file full of zeros, one after the other.
    pub(super) busy: Spread,
    /// Write and `fdatasync` after [`super::PACE`] in which nothing was written.
    pub(super) rested: Spread,
    /// Whether it was written past the page cache.
    pub(super) direct: bool,
}

/// Both ways to sync.
pub(super) fn fdatasync(effort: Effort, directory: &Path) -> io::Result<Syncs> {
    let scratch = Scratch(directory.join(format!("tern-perf-floor-{}.new", std::process::id())));
    let mut zeros = File::create(&scratch.0)?;
    for _ in 0..BLOCKS {
        zeros.write_all(&[0; BLOCK_SIZE])?;
    }
    zeros.sync_all()?;
    drop(zeros);
    let block = Block([0x5a; BLOCK_SIZE]);
    let (file, direct) = open(&scratch.0, &block)?;
    let mut syncs = Batches::new()?;
    let end = Instant::now() + TIME_MAX;
    for round in 0..u64::from(effort.count(1_000)) {
        file.write_all_at(&block.0, round % BLOCKS * BLOCK_SIZE as u64)?;
        syncs.time(1, || Ok(sync(&file)?))?;
        if Instant::now() > end {
            break;
        }
    }
    let mut rested = Batches::new()?;
    for round in 0..u64::from(effort.count(500)) {
        std::thread::sleep(super::PACE);
        rested.time(1, || {
            file.write_all_at(&block.0, round % BLOCKS * BLOCK_SIZE as u64)?;
            Ok(sync(&file)?)
        })?;
        if Instant::now() > end {
            break;
        }
    }
    Ok(Syncs { busy: syncs.spread(), rested: rested.spread(), direct })
}

/// Past the page cache where the file system takes it, else through it. It is known at the first write.
fn open(path: &Path, block: &Block) -> io::Result<(File, bool)> {
    let direct = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(path)
        .and_then(|file| file.write_all_at(&block.0, 0).map(|()| file));
    match direct {
        Ok(file) => Ok((file, true)),
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Ok((OpenOptions::new().write(true).open(path)?, false))
        }
        Err(error) => Err(error),
    }
}
