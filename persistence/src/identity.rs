//! Who the directory belongs to: the lock, and the file that says format, partitions and checksum key, and whether everything that belongs to
//! it has been made. Written twice: when the creation begins, and when it is done. From then on nothing that is missing is made anew.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::journal::batch::owner;

/// The newest format of the directory that this build reads, and the one it writes.
pub(crate) const FORMAT: u32 = 1;
const NAME: &str = "identity";

/// What is fixed when a directory is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// How many logs.
    pub(crate) partitions: u16,
    /// Seed of the journal's checksums. Random: no client can put bytes into a message that pass for a batch of the journal.
    pub(crate) key: u64,
    /// Journal and view have been made. Until then nothing was acknowledged, and an interrupted creation is begun again.
    pub(crate) made: bool,
}

/// The name of the store in a directory: the same for its whole life, and no other store's. `None` when there is none that can be read.
#[must_use]
pub fn name(directory: &Path) -> Option<u64> {
    let path = directory.join(NAME);
    let identity = Identity::parse(&std::fs::read_to_string(&path).ok()?, &path).ok()?;
    Some(owner(identity.key))
}

/// Takes the directory for this process until the file is dropped.
pub(crate) fn lock(directory: &Path) -> Result<File, OpenError> {
    std::fs::create_dir_all(directory).map_err(OpenError::io(directory, "create the data directory"))?;
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(OpenError::io(&path, "open the lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { file: path }),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { file: path, doing: "lock it", source }),
    }
}

impl Identity {
    /// Reads the directory's identity and compares; makes one for an empty directory.
    pub(crate) fn open(directory: &Path, partitions: u16) -> Result<Self, OpenError> {
        let path = directory.join(NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::create(directory, partitions),
            Err(source) => return Err(OpenError::Io { file: path, doing: "read it", source }),
        };
        let found = Self::parse(&text, &path)?;
        if found.partitions != partitions {
            return Err(OpenError::PartitionsDiffer { file: path, stored: found.partitions, configured: partitions });
        }
        Ok(found)
    }

    fn create(directory: &Path, partitions: u16) -> Result<Self, OpenError> {
        for name in ["journal", "view"] {
            if directory.join(name).exists() {
                let file = directory.join(NAME);
                return Err(OpenError::Malformed { file, reason: "missing, although the directory has data" });
            }
        }
        // The hasher's keys come from the operating system's randomness.
        let begun = Self { partitions, key: RandomState::new().hash_one(directory), made: false };
        begun.write(directory)?;
        Ok(begun)
    }

    /// Says durably that journal and view are there.
    pub(crate) fn finish(&mut self, directory: &Path) -> Result<(), OpenError> {
        self.made = true;
        self.write(directory)
    }

    fn write(&self, directory: &Path) -> Result<(), OpenError> {
        let mut text = String::from("# Belongs to the data in this directory. Never edit or copy it alone.\n");
        let Self { partitions, key, made } = self;
        let text_of = format_args!("format = {FORMAT}\npartitions = {partitions}\nkey = {key:016x}\nmade = {made}\n");
        text.write_fmt(text_of).expect("a String takes all");
        let draft = directory.join("identity.new");
        let place = directory.join(NAME);
        let mut file = File::create(&draft).map_err(OpenError::io(&draft, "create it"))?;
        file.write_all(text.as_bytes()).map_err(OpenError::io(&draft, "write it"))?;
        file.sync_all().map_err(OpenError::io(&draft, "sync it"))?;
        std::fs::rename(&draft, &place).map_err(OpenError::io(&place, "move it into place"))?;
        sync_directory(directory)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, OpenError> {
        let malformed = |reason| OpenError::Malformed { file: PathBuf::from(path), reason };
        let field = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, v)| v.trim())
        };
        let format: u32 =
            field("format").and_then(|raw| raw.parse().ok()).ok_or_else(|| malformed("says no format"))?;
        if format > FORMAT {
            return Err(OpenError::NewerFormat { file: path.into(), found: format, supported: FORMAT });
        }
        let partitions = field("partitions").and_then(|raw| raw.parse().ok());
        let key = field("key").and_then(|raw| u64::from_str_radix(raw, 16).ok());
        Ok(Self {
            partitions: partitions.ok_or_else(|| malformed("says no partitions"))?,
            key: key.ok_or_else(|| malformed("says no key"))?,
            made: field("made")
                .and_then(|raw| raw.parse().ok())
                .ok_or_else(|| malformed("does not say whether it was made"))?,
        })
    }
}

/// Makes a created or renamed file's name durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), OpenError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(OpenError::io(directory, "sync the directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_an_identity_is_refused_with_its_reason() {
        let parse = |text| Identity::parse(text, Path::new("identity"));
        let good = "format = 1\npartitions = 64\nkey = 00000000000000ff\nmade = true\n";
        assert_eq!(parse(good).unwrap(), Identity { partitions: 64, key: 255, made: true });
        assert!(matches!(parse(""), Err(OpenError::Malformed { .. })));
        assert!(matches!(parse("format = 1\npartitions = x\nkey = 1"), Err(OpenError::Malformed { .. })));
        assert!(matches!(parse("format = 2\nanything"), Err(OpenError::NewerFormat { found: 2, supported: 1, .. })));
    }
}
