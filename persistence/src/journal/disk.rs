//! Files of the journal: aligned buffers, direct writes, zero-filled segments. Knows nothing of what stands in them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::config::PAGE_SIZE;
use crate::journal::batch::pages;

/// Zeros written, and synced, in one piece. Unit: bytes. Small enough that a commit that comes in between waits for little.
const ZEROS_SIZE: usize = 512 * 1024;
/// How long the disk is left to the commits between two pieces, as a multiple of what a piece took. 3: it works for them three quarters of
/// the time. Measured: zeros without pauses and with one sync at the end held one commit up for 106 ms.
const REST_FACTOR: u32 = 3;
/// Longest rest between two pieces: a disk that takes longer is busy with something else. Unit: time.
const REST_MAX: Duration = Duration::from_millis(200);

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

/// How segments are opened, and what tests break.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    /// Whether the file system takes `O_DIRECT`.
    pub(crate) direct: bool,
    #[cfg(test)]
    pub(crate) faults: std::sync::Arc<Faults>,
}

/// Faults that tests arm; each holds an error number, 0 for none.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) write: std::sync::atomic::AtomicI32,
    pub(crate) sync: std::sync::atomic::AtomicI32,
    pub(crate) create: std::sync::atomic::AtomicI32,
    /// Held by a test: syncs take as long.
    pub(crate) gate: std::sync::Mutex<()>,
}

#[cfg(test)]
fn strike(fault: &std::sync::atomic::AtomicI32) -> io::Result<()> {
    match fault.load(std::sync::atomic::Ordering::SeqCst) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// How fast zeros are written, as another thread wants it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    stopped: AtomicBool,
    urgent: AtomicBool,
}

impl Pace {
    /// Writes no further piece.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Somebody waits for the segment, or does not.
    pub(crate) fn set_urgent(&self, urgent: bool) {
        self.urgent.store(urgent, Relaxed);
    }

    /// Leaves the disk to others after a piece that took so long. Returns whether to go on.
    fn rest(&self, took: Duration) -> bool {
        if !self.stopped.load(Relaxed) && !self.urgent.load(Relaxed) {
            std::thread::park_timeout((took * REST_FACTOR).min(REST_MAX));
        }
        !self.stopped.load(Relaxed)
    }
}

impl Disk {
    /// Finds out whether the file system of this directory takes direct writes; says once if it does not.
    pub(crate) fn probe(mut self, directory: &Path) -> io::Result<Self> {
        let path = directory.join("probe.new");
        File::create(&path)?;
        let mut page = PageBuffer::new(PAGE_SIZE);
        page.reset(PAGE_SIZE);
        let tried = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(&path)
            .and_then(|file| file.write_all_at(page.padded(), 0));
        std::fs::remove_file(&path)?;
        self.direct = match tried {
            Ok(()) => true,
            Err(error) if refuses_direct(&error) => {
                tracing::info!(directory = %directory.display(), "no O_DIRECT here: journal writes through the page cache");
                false
            }
            Err(error) => return Err(error),
        };
        Ok(self)
    }

    /// Opens an existing segment for writing.
    pub(crate) fn open(&self, path: &Path) -> io::Result<SegmentFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if self.direct {
            options.custom_flags(OFlags::DIRECT.bits().cast_signed());
        }
        let file = options.open(path)?;
        let size = file.metadata()?.len() / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        Ok(SegmentFile {
            file,
            path: path.into(),
            size,
            #[cfg(test)]
            disk: self.clone(),
        })
    }

    /// Makes a segment of zeros that are really on the disk: its first writes then change no metadata of the file system.
    /// When it is stopped, or fails, nothing is left behind.
    pub(crate) fn create(&self, path: &Path, size: u64, pace: &Pace) -> io::Result<SegmentFile> {
        let draft = path.with_extension("new");
        let made = self.fill(&draft, 0, size, pace).and_then(|()| {
            std::fs::rename(&draft, path)?;
            if let Some(directory) = path.parent() {
                File::open(directory)?.sync_all()?;
            }
            self.open(path)
        });
        if made.is_err() {
            std::fs::remove_file(&draft).ok();
        }
        made
    }

    /// Lengthens a segment that holds nothing needed. On failure it has its old size.
    pub(crate) fn grow(&self, path: &Path, from: u64, to: u64, pace: &Pace) -> io::Result<SegmentFile> {
        if let Err(error) = self.fill(path, from, to, pace) {
            OpenOptions::new().write(true).open(path)?.set_len(from)?;
            tracing::debug!(%error, file = %path.display(), "segment keeps its size");
        }
        self.open(path)
    }

    fn fill(&self, path: &Path, from: u64, to: u64, pace: &Pace) -> io::Result<()> {
        #[cfg(test)]
        strike(&self.faults.create)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        // All the space or none of it, before the long write.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), from, to - from) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = vec![0; ZEROS_SIZE];
        let mut at = from;
        while at < to {
            let began = Instant::now();
            let size = usize::try_from(to - at).map_or(ZEROS_SIZE, |rest| rest.min(ZEROS_SIZE));
            file.write_all_at(&zeros[..size], at)?;
            file.sync_data()?;
            at += size as u64;
            if at < to && !pace.rest(began.elapsed()) {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        file.sync_all()
    }
}

fn refuses_direct(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|raw| [Errno::INVAL, Errno::OPNOTSUPP].into_iter().any(|refusal| refusal.raw_os_error() == raw))
}

/// A segment, open for writing.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    file: File,
    pub(crate) path: PathBuf,
    /// Unit: bytes, whole pages.
    pub(crate) size: u64,
    #[cfg(test)]
    disk: Disk,
}

impl SegmentFile {
    /// Writes whole pages; not durable before [`Self::sync`].
    pub(crate) fn write(&self, pages: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        strike(&self.disk.faults.write)?;
        self.file.write_all_at(pages, offset)
    }

    /// Makes what was written durable. After an error the state of the file is unknown: never try again.
    pub(crate) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        {
            drop(self.disk.faults.gate.lock());
            strike(&self.disk.faults.sync)?;
        }
        self.file.sync_data()
    }

    /// Overwrites a range with zeros, durably.
    pub(crate) fn wipe(&self, from: u64, to: u64) -> io::Result<()> {
        let mut zeros = PageBuffer::new(ZEROS_SIZE);
        let mut at = from;
        while at < to {
            let size = usize::try_from(to - at).map_or(ZEROS_SIZE, |rest| rest.min(ZEROS_SIZE));
            zeros.reset(size);
            self.write(zeros.padded(), at)?;
            at += size as u64;
        }
        self.sync()
    }
}
