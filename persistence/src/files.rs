//! What the store asks of the machine's file system, and the real one. Decides nothing: what a disk may do, the simulated one does.

use std::any::Any;
use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It exists, and is only read.
    Read,
    /// It exists, and is read and written.
    Write,
    /// As [`Self::Write`], past the page cache: memory, places and sizes are whole pages.
    Direct,
    /// It is created, or emptied.
    New,
}

/// Keeps a file locked until it is dropped.
pub(crate) type Lock = Box<dyn Any + Send + Sync>;

/// A file system.
pub(crate) trait Files: Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn Block>>;
    /// What is in a directory, sorted: the order of a directory decides nothing.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
    /// Whether there is a file or directory of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Gives a file another name, in place of a file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a file's name away.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Takes a directory's name away, with everything below it; nothing happens when there is none.
    fn remove_all(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and those above it that are missing.
    fn make_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable: created, renamed, removed.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Locks a file, which is created when missing. `None`: another process has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>>;
}

/// An open file.
pub(crate) trait Block: Debug + Send + Sync {
    /// Reads some bytes, perhaps fewer than there is room for; 0 at the end of the file.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Takes all the space of a range or none of it, where the file system can; the file is then as long.
    fn allocate(&self, from: u64, to: u64) -> io::Result<()>;
    /// Cuts or lengthens the file.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Unit: bytes.
    fn size(&self) -> io::Result<u64>;
    /// Makes the content durable, and what is needed to read it. After an error nobody knows what is on the disk, and a sync that succeeds
    /// later proves nothing: only what is written again is then made durable.
    fn sync_data(&self) -> io::Result<()>;
    /// As [`Self::sync_data`], with everything that is known about the file.
    fn sync_all(&self) -> io::Result<()>;
}

/// Reads a range as far as the file goes.
pub(crate) fn read_range(file: &dyn Block, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Machine;

impl Files for Machine {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn Block>> {
        let mut options = OpenOptions::new();
        match how {
            How::Read => options.read(true),
            How::Write => options.read(true).write(true),
            How::Direct => options.read(true).write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()),
            How::New => options.create(true).truncate(true).write(true),
        };
        Ok(Box::new(options.open(path)?))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_all(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Block for File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), from, to - from) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        Self::sync_all(self)
    }
}
