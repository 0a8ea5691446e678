//! Files that only the server's user may read: made whole or not at all, mode 0600. Never logs what is in them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a file of the server's own cannot be used. For the operator.
#[derive(Debug)]
pub struct FileError {
    /// Which.
    pub file: PathBuf,
    /// What was tried.
    pub doing: &'static str,
    /// Why not.
    pub source: io::Error,
}

impl FileError {
    /// Makes the closure that says what was being done to which file.
    pub fn at(file: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self { file, doing, source }
    }
}

/// Makes a directory that nobody else may enter; one that is there already stays as it is.
///
/// # Errors
/// When it cannot be made.
pub fn make_directory(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::at(path, "make the directory"))
}

/// Reads a file, or makes it from `make` when there is none.
///
/// # Errors
/// When it can be neither read nor made.
pub fn read_or_make(path: &Path, make: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let bytes = make();
            write(path, &bytes)?;
            Ok(bytes)
        }
        Err(error) => Err(FileError::at(path, "read the file")(error)),
    }
}

/// Replaces a file in one step, durably.
///
/// # Errors
/// When the file system refuses; the old file is then still there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let fresh = path.with_extension("new");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    })();
    written.map_err(FileError::at(path, "write the file"))
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, doing, source } = self;
        #[expect(clippy::wildcard_enum_match_arm, reason = "only the usual refusals have their own advice")]
        let advice = match source.kind() {
            io::ErrorKind::PermissionDenied => "give the user that runs Tern access",
            io::ErrorKind::ReadOnlyFilesystem => "mount the file system writable, or set data_dir",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some disk space",
            io::ErrorKind::NotFound => "check the path",
            _ => "check path and permissions",
        };
        write!(f, "{}: cannot {doing}: {source}; {advice}", file.display())
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert_eq!(read_or_make(&path, || vec![1]).unwrap(), [1]);
        assert_eq!(read_or_make(&path, || vec![2]).unwrap(), [1]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = read_or_make(&dir.path().join("no/such/key"), || vec![3]).unwrap_err().to_string();
        assert!(text.contains("no/such/key: cannot write the file"), "{text}");
    }
}
