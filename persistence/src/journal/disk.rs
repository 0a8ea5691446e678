//! Files of the journal: aligned buffers, direct writes, zero-filled segments. Knows nothing of what stands in them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::config::PAGE_SIZE;
use crate::files::{Block, Files, How};
use crate::journal::batch::pages;
use crate::sabotage::{Mechanisms, Sabotage};

/// Zeros written, and synced, in one piece. Unit: bytes. Small enough that a commit that comes in between waits for little.
const ZEROS_SIZE: usize = 512 * 1024;

/// Memory that begins at a page, as `O_DIRECT` demands; never grows.
#[derive(Debug)]
pub(crate) struct PageBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    capacity: usize,
}

impl PageBuffer {
    /// Room for this many bytes, rounded up to pages.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = pages(capacity);
        let memory = vec![0; capacity + PAGE_SIZE];
        let start = memory.as_ptr().align_offset(PAGE_SIZE);
        Self { memory, start, len: 0, capacity }
    }

    /// Forgets the content and leaves `len` bytes to be filled in later.
    pub(crate) const fn reset(&mut self, len: usize) {
        self.len = len;
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Appends; the caller has asked for [`Self::room`].
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "the caller asked for room");
        let at = self.start + self.len;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// All whole pages that hold content; what follows the content in the last one is zero.
    pub(crate) fn padded(&mut self) -> &mut [u8] {
        let (at, end) = (self.start + self.len, self.start + pages(self.len));
        self.memory[at..end].fill(0);
        &mut self.memory[self.start..end]
    }
}

/// Where segments are, and how they are written.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    files: Arc<dyn Files>,
    how: How,
    mechanisms: Mechanisms,
}

impl Disk {
    /// Finds out whether the file system of this directory takes direct writes; says once if it does not.
    pub(crate) fn probe(files: Arc<dyn Files>, directory: &Path, mechanisms: Mechanisms) -> io::Result<Self> {
        let path = directory.join("probe.new");
        files.open(&path, How::New)?;
        let mut page = PageBuffer::new(PAGE_SIZE);
        page.reset(PAGE_SIZE);
        let tried = files.open(&path, How::Direct).and_then(|file| file.write_at(page.padded(), 0));
        files.remove(&path)?;
        let how = match tried {
            Ok(()) => How::Direct,
            Err(error) if refuses_direct(&error) => {
                tracing::info!(directory = %directory.display(), "no O_DIRECT here: journal writes through the page cache");
                How::Write
            }
            Err(error) => return Err(error),
        };
        Ok(Self { files, how, mechanisms })
    }

    /// Opens an existing segment for writing.
    pub(crate) fn open(&self, path: &Path) -> io::Result<SegmentFile> {
        let file = self.files.open(path, self.how)?;
        let size = file.size()? / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        Ok(SegmentFile { file, path: path.into(), size })
    }

    /// Takes a segment away that is too small.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }
}

fn refuses_direct(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|raw| [Errno::INVAL, Errno::OPNOTSUPP].into_iter().any(|refusal| refusal.raw_os_error() == raw))
}

/// A segment that is made of zeros which are really on the disk, piece by piece: its first writes then change no metadata of the file
/// system. It has its name only when it is whole.
#[derive(Debug)]
pub(crate) struct Filling {
    disk: Disk,
    file: Box<dyn Block>,
    path: PathBuf,
    from: u64,
    at: u64,
    to: u64,
}

impl Filling {
    /// Begins a new segment (`from` is 0), or lengthens one that holds nothing needed. When that fails nothing is left behind.
    pub(crate) fn begin(disk: &Disk, path: &Path, from: u64, to: u64) -> io::Result<Self> {
        let file = match from {
            0 => disk.files.open(&draft(path), How::New)?,
            _ => disk.files.open(path, How::Write)?,
        };
        let filling = Self { disk: disk.clone(), file, path: path.into(), from, at: from, to };
        // All the space or none of it, before the long write.
        match filling.file.allocate(from, to) {
            Ok(()) => Ok(filling),
            Err(error) => {
                filling.give_up();
                Err(error)
            }
        }
    }

    /// Makes the next piece durable; returns whether there are more.
    pub(crate) fn piece(&mut self) -> io::Result<bool> {
        let size = usize::try_from(self.to - self.at).map_or(ZEROS_SIZE, |rest| rest.min(ZEROS_SIZE));
        self.file.write_at(&vec![0; size], self.at)?;
        if self.disk.mechanisms.has(Sabotage::ZerosSync) {
            self.file.sync_data()?;
        }
        self.at += size as u64;
        Ok(self.at < self.to)
    }

    /// After the last piece: gives a new segment its name, and opens it.
    pub(crate) fn finish(&self) -> io::Result<SegmentFile> {
        if self.disk.mechanisms.has(Sabotage::ZerosSync) {
            self.file.sync_all()?;
        }
        if self.from == 0 {
            self.disk.files.rename(&draft(&self.path), &self.path)?;
            if let Some(directory) = self.path.parent()
                && self.disk.mechanisms.has(Sabotage::SegmentName)
            {
                self.disk.files.sync_directory(directory)?;
            }
        }
        self.disk.open(&self.path)
    }

    /// Leaves nothing behind: a new segment is gone, one that was lengthened has its old size and can be used as it was.
    pub(crate) fn give_up(&self) -> Option<SegmentFile> {
        if self.from == 0 {
            self.disk.files.remove(&draft(&self.path)).ok();
            return None;
        }
        self.file.set_size(self.from).and_then(|()| self.disk.open(&self.path)).ok()
    }

    /// Makes a whole segment at once.
    pub(crate) fn make(disk: &Disk, path: &Path, size: u64) -> io::Result<SegmentFile> {
        let mut filling = Self::begin(disk, path, 0, size)?;
        let made = loop {
            match filling.piece() {
                Ok(true) => {}
                Ok(false) => break filling.finish(),
                Err(error) => break Err(error),
            }
        };
        if made.is_err() {
            filling.give_up();
        }
        made
    }
}

/// What a segment is called until it is whole.
fn draft(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// A segment, open for writing.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    file: Box<dyn Block>,
    pub(crate) path: PathBuf,
    /// Unit: bytes, whole pages.
    pub(crate) size: u64,
}

impl SegmentFile {
    /// Writes whole pages; not durable before [`Self::sync`].
    pub(crate) fn write(&self, pages: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(pages, offset)
    }

    /// Makes what was written durable. After an error the state of the file is unknown: never try again.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
