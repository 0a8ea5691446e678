//! The simulated disk as the store sees it. Decides nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::disk::{Kind, State};
use crate::files::{Block, Files, How, Lock};

/// A disk that several processes use, one after the other.
#[derive(Debug, Clone)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    pub(super) fn new(seed: u64, kind: Kind) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed, kind))))
    }

    /// For the world, which decides what happens to it.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn files(&self) -> Arc<dyn Files> {
        Arc::new(self.clone())
    }
}

/// An open file of it.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
    how: How,
}

impl Files for SimDisk {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn Block>> {
        if how == How::Direct && !self.state().kind.direct {
            return Err(Errno::INVAL.into());
        }
        let file = self.state().open(path, how == How::New)?;
        Ok(Box::new(SimFile { disk: self.clone(), file, how }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.state().list(directory)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.state().exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state().remove(path)
    }

    fn remove_all(&self, path: &Path) -> io::Result<()> {
        self.state().remove_all(path)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.state().make_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.state().sync_directory(path)
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Lock>> {
        // One process at a time is the world's business.
        Ok(Some(Box::new(())))
    }
}

impl Block for SimFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.state().read(self.file, into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.state().write(self.file, bytes, offset)
    }

    fn allocate(&self, _from: u64, to: u64) -> io::Result<()> {
        self.disk.state().allocate(self.file, to)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.disk.state().set_size(self.file, size)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.file].cached.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.state().sync(self.file, self.how != How::New, "sync_data")
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.state().sync(self.file, self.how != How::New, "sync_all")
    }
}
