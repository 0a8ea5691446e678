//! The data directory belongs to one process: a locked file in it says which. Never touches what others keep in it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::error::ServeError;
use crate::secret_file::{self, FileError};

/// Holds the process id of the owner, and the lock.
const NAME: &str = "tern.pid";

/// The data directory, ours until this is dropped.
#[derive(Debug)]
pub(super) struct DataDirectory {
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
        Ok(Self { _lock: file })
    }
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
}
