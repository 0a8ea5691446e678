//! The real files with faults that a test arms. Never changes what is on the disk by itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use crate::files::{Block, Files, How, Lock, Machine};

/// Each holds an error number, 0 for none.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) write: AtomicI32,
    pub(super) sync: AtomicI32,
    pub(super) allocate: AtomicI32,
    /// Held by a test: syncs take as long.
    pub(super) gate: Mutex<()>,
}

fn strike(fault: &AtomicI32) -> io::Result<()> {
    match fault.load(Ordering::SeqCst) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// Files that can be broken.
#[derive(Debug, Clone, Default)]
pub(super) struct Broken(pub(super) Arc<Faults>);

/// A file of [`Broken`]. Writes and syncs of files that are being made always work.
#[derive(Debug)]
struct BrokenFile {
    file: Box<dyn Block>,
    faults: Arc<Faults>,
    made: bool,
}

impl Files for Broken {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn Block>> {
        let file = Machine.open(path, how)?;
        let probe = path.ends_with("probe.new");
        Ok(Box::new(BrokenFile { file, faults: Arc::clone(&self.0), made: probe || how == How::New }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        Machine.list(directory)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Machine.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Machine.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Machine.remove(path)
    }

    fn remove_all(&self, path: &Path) -> io::Result<()> {
        Machine.remove_all(path)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        Machine.make_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        Machine.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        Machine.lock(path)
    }
}

impl Block for BrokenFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.made {
            strike(&self.faults.write)?;
        }
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        strike(&self.faults.allocate)?;
        self.file.allocate(from, to)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_size(size)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.made {
            drop(self.faults.gate.lock());
            strike(&self.faults.sync)?;
        }
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
