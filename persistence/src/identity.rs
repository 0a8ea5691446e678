//! Who the directory belongs to: the lock, and the file that says format, partitions and checksum key, and whether everything that belongs to
//! it has been made. Written twice: when the creation begins, and when it is done. From then on nothing that is missing is made anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::files::{Files, How, Lock, read_range};
use crate::journal::batch::owner;
use crate::sabotage::{Mechanisms, Sabotage};

/// The newest format of a store that this build reads, and the one it writes: one number for identity, journal and view. Rows and commands
/// have versions of their own; this one changes with what lies under them.
pub(crate) const FORMAT: u32 = 2;
/// The oldest format that this build reads. Raised together with [`OLDEST_NEEDS`].
pub(crate) const OLDEST: u32 = 2;
/// What brings an older store here. For the operator.
pub(crate) const OLDEST_NEEDS: &str = "no release wrote that one: use an empty data_dir";
const NAME: &str = "identity";
/// Most of the file that is read; it is written with less than a tenth. Unit: bytes.
const SIZE_MAX: usize = 4096;

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

/// Takes the directory for this process until the lock is dropped.
pub(crate) fn lock(files: &dyn Files, directory: &Path) -> Result<Lock, OpenError> {
    files.make_directory(directory).map_err(OpenError::io(directory, "create the data directory"))?;
    let path = directory.join("lock");
    let lock = files.lock(&path).map_err(OpenError::io(&path, "lock it"))?;
    lock.ok_or(OpenError::Locked { file: path })
}

impl Identity {
    /// Reads the directory's identity and compares it with the wanted one, all but the key; an empty directory becomes the wanted one.
    pub(crate) fn open(
        files: &dyn Files,
        directory: &Path,
        wanted: Self,
        mechanisms: Mechanisms,
    ) -> Result<Self, OpenError> {
        let path = directory.join(NAME);
        if !files.exists(&path).map_err(OpenError::io(&path, "look for it"))? {
            return Self::create(files, directory, wanted, mechanisms);
        }
        let file = files.open(&path, How::Read).map_err(OpenError::io(&path, "open it"))?;
        let text = read_range(&*file, 0, SIZE_MAX).map_err(OpenError::io(&path, "read it"))?;
        let text = String::from_utf8_lossy(&text);
        let found = Self::parse(&text, &path)?;
        // Whoever made it may have died before its name was durable, and data without an identity is refused.
        if mechanisms.has(Sabotage::NamesAtStart) {
            sync_directory(files, directory)?;
        }
        if found.partitions != wanted.partitions {
            return Err(OpenError::PartitionsDiffer {
                file: path,
                stored: found.partitions,
                configured: wanted.partitions,
            });
        }
        Ok(found)
    }

    fn create(files: &dyn Files, directory: &Path, wanted: Self, mechanisms: Mechanisms) -> Result<Self, OpenError> {
        for name in ["journal", "view"] {
            let data = directory.join(name);
            if files.exists(&data).map_err(OpenError::io(&data, "look for it"))? {
                let file = directory.join(NAME);
                return Err(OpenError::Malformed { file, reason: "missing, although the directory has data" });
            }
        }
        if mechanisms.has(Sabotage::NamesAbove) {
            sync_above(files, directory)?;
        }
        let begun = Self { made: false, ..wanted };
        begun.write(files, directory)?;
        Ok(begun)
    }

    /// Says durably that journal and view are there.
    pub(crate) fn finish(&mut self, files: &dyn Files, directory: &Path) -> Result<(), OpenError> {
        self.made = true;
        self.write(files, directory)
    }

    fn write(&self, files: &dyn Files, directory: &Path) -> Result<(), OpenError> {
        let mut text = String::from("# Belongs to the data in this directory. Never edit or copy it alone.\n");
        let Self { partitions, key, made } = self;
        let text_of = format_args!("format = {FORMAT}\npartitions = {partitions}\nkey = {key:016x}\nmade = {made}\n");
        text.write_fmt(text_of).expect("a String takes all");
        let draft = directory.join("identity.new");
        let place = directory.join(NAME);
        let file = files.open(&draft, How::New).map_err(OpenError::io(&draft, "create it"))?;
        file.write_at(text.as_bytes(), 0).map_err(OpenError::io(&draft, "write it"))?;
        file.sync_all().map_err(OpenError::io(&draft, "sync it"))?;
        files.rename(&draft, &place).map_err(OpenError::io(&place, "move it into place"))?;
        sync_directory(files, directory)
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
        check_format(format, path)?;
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

/// Makes the directory's own name durable, and those above it. Which of them this start or an interrupted one has created is not
/// known, so it is done for all until there is an identity; one that must not be read was made by somebody else.
fn sync_above(files: &dyn Files, directory: &Path) -> Result<(), OpenError> {
    for above in directory.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match sync_directory(files, above) {
            Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {}
            done => done?,
        }
    }
    Ok(())
}

/// Refuses what this build does not read, by name.
pub(crate) fn check_format(found: u32, file: &Path) -> Result<(), OpenError> {
    let file = || PathBuf::from(file);
    if found > FORMAT {
        return Err(OpenError::NewerFormat { file: file(), found, supported: FORMAT });
    }
    if found < OLDEST {
        return Err(OpenError::OlderFormat { file: file(), found, oldest: OLDEST, needs: OLDEST_NEEDS });
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(files: &dyn Files, directory: &Path) -> Result<(), OpenError> {
    files.sync_directory(directory).map_err(OpenError::io(directory, "sync the directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_an_identity_is_refused_with_its_reason() {
        let parse = |text| Identity::parse(text, Path::new("identity"));
        let good = "format = 2\npartitions = 64\nkey = 00000000000000ff\nmade = true\n";
        assert_eq!(parse(good).unwrap(), Identity { partitions: 64, key: 255, made: true });
        assert!(matches!(parse(""), Err(OpenError::Malformed { .. })));
        assert!(matches!(parse("format = 2\npartitions = x\nkey = 1"), Err(OpenError::Malformed { .. })));
        assert!(matches!(parse("format = 3\nanything"), Err(OpenError::NewerFormat { found: 3, supported: 2, .. })));
        assert!(matches!(parse("format = 1\nanything"), Err(OpenError::OlderFormat { found: 1, oldest: 2, .. })));
    }
}
