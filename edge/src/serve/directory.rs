//! The data directory belongs to one process: a locked file in it says which. Another file says that keys and store have been made, and
//! whose the store is: what is missing after that was lost, and is never made anew. Never touches what others keep in it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::error::ServeError;
use crate::secret_file::{self, FileError};

/// Holds the process id of the owner, and the lock.
const NAME: &str = "tern.pid";
/// Names the store that was made.
const MADE: &str = "made";
/// The signing keys.
const KEYS: &str = "keys";

/// The data directory, ours until this is dropped.
#[derive(Debug)]
pub(super) struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if there is none, and takes it.
    pub(super) fn take(path: &Path) -> Result<Self, ServeError> {
        secret_file::make_directory(path)?;
        let file_path = path.join(NAME);
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&file_path);
        let mut file = open.map_err(FileError::at(&file_path, "open the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(path, &mut file)),
            Err(TryLockError::Error(error)) => return Err(FileError::at(&file_path, "lock it")(error).into()),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(FileError::at(&file_path, "write the process id"))?;
        Ok(Self { path: path.into(), _lock: file })
    }

    /// Where the signing keys are.
    pub(super) fn keys(&self) -> PathBuf {
        self.path.join(KEYS)
    }

    /// Refuses when something that was made is not there, or is not what was made.
    pub(super) fn check(&self, store: &Path) -> Result<(), ServeError> {
        let made = self.path.join(MADE);
        let expected = match std::fs::read_to_string(&made) {
            Ok(expected) => expected,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(FileError::at(&made, "read it")(error).into()),
        };
        let lost = |piece: PathBuf, what| Err(ServeError::Lost { piece, what, said_by: made.clone() });
        if !self.keys().exists() {
            return lost(self.keys(), "missing");
        }
        match store_name(store) {
            None => lost(store.into(), "missing"),
            Some(found) if found != expected => lost(store.into(), "another data directory's"),
            Some(_) => Ok(()),
        }
    }

    /// Says durably that keys and store are there.
    pub(super) fn made(&self, store: &Path) -> Result<(), ServeError> {
        let (path, Some(name)) = (self.path.join(MADE), store_name(store)) else { return Ok(()) };
        match std::fs::read_to_string(&path) {
            Ok(found) if found == name => Ok(()),
            _ => Ok(secret_file::write(&path, name.as_bytes())?),
        }
    }
}

/// A store's name, as it stands in the file.
fn store_name(store: &Path) -> Option<String> {
    tern_persistence::name(store).map(|name| format!("store = {name:016x}\n"))
}

fn taken(path: &Path, file: &mut File) -> ServeError {
    let mut text = String::new();
    // Whoever has it may be writing its id just now.
    let _ = file.read_to_string(&mut text);
    ServeError::DirectoryTaken { directory: PathBuf::from(path), pid: text.trim().parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_directory_has_one_owner_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataDirectory::take(&path).unwrap();
        let text = DataDirectory::take(&path).unwrap_err().to_string();
        assert!(text.contains(&format!("process {}", std::process::id())) && text.contains("data_dir"), "{text}");
        drop(first);
        assert!(DataDirectory::take(&path).is_ok());
    }

    /// A directory with keys and a store that were made.
    fn made(path: &Path) -> (DataDirectory, PathBuf) {
        let (directory, store) = (DataDirectory::take(path).unwrap(), path.join("store"));
        directory.check(&store).expect("an empty directory is a beginning");
        std::fs::write(directory.keys(), "secret").unwrap();
        let config = tern_persistence::EmbeddedConfig::new(&store, 1, 1);
        drop(tern_persistence::open(config, vec![std::sync::Arc::new(|| {})], Clock::start()).unwrap());
        directory.check(&store).expect("an interrupted beginning goes on");
        directory.made(&store).unwrap();
        directory.check(&store).unwrap();
        (directory, store)
    }

    #[test]
    fn what_is_lost_is_named_and_never_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, store) = made(&dir.path().join("data"));
        std::fs::rename(directory.keys(), dir.path().join("keys")).unwrap();
        let text = directory.check(&store).unwrap_err().to_string();
        assert!(text.contains("data/keys: missing"), "{text}");
        std::fs::rename(dir.path().join("keys"), directory.keys()).unwrap();
        std::fs::rename(&store, dir.path().join("store")).unwrap();
        let text = directory.check(&store).unwrap_err().to_string();
        assert!(text.contains("data/store: missing") && text.contains("backup"), "{text}");
        let (_other, foreign) = made(&dir.path().join("other"));
        std::fs::rename(foreign, &store).unwrap();
        let text = directory.check(&store).unwrap_err().to_string();
        assert!(text.contains("another data directory's"), "{text}");
    }
}
