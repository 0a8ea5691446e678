//! Why the store does not open or close. Each names the file and says what the operator can do; none is for a client.

use std::fmt;
use std::path::PathBuf;

/// Why a directory was not opened. Nothing in it was changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// A bound that cannot work.
    Config {
        /// Field of [`crate::EmbeddedConfig`].
        field: &'static str,
        /// What it must be.
        range: &'static str,
    },
    /// Another process has the directory.
    Locked {
        /// The lock file.
        file: PathBuf,
    },
    /// The operating system refused.
    Io {
        /// Which file or directory.
        file: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    Malformed {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Written by a later version of Tern.
    NewerFormat {
        /// Which file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that this build reads.
        supported: u32,
    },
    /// Written in a format that this build does not read any more.
    OlderFormat {
        /// Which file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The oldest that this build reads.
        oldest: u32,
        /// What brings it there.
        needs: &'static str,
    },
    /// The directory was made for another number of partitions.
    PartitionsDiffer {
        /// Which file says so.
        file: PathBuf,
        /// What it was made for.
        stored: u16,
        /// What is configured.
        configured: u16,
    },
    /// Commands that were acknowledged, and that the view does not have, cannot be read.
    Corrupted {
        /// Which segment.
        file: PathBuf,
        /// Where. Unit: bytes.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The view lacks commands that the journal does not have any more.
    HistoryLost {
        /// The view.
        view: PathBuf,
        /// A partition of which something is missing.
        partition: u16,
        /// What the view has of it: up to this position.
        applied: u64,
        /// What the journal starts behind.
        needed: u64,
    },
    /// The directory has had a journal and has none any more.
    JournalMissing {
        /// Where it should be.
        directory: PathBuf,
    },
    /// The newest segment of the journal is missing, or empty.
    SegmentMissing {
        /// The segment that says that another one followed.
        file: PathBuf,
    },
    /// The view has commands that the end of the journal does not.
    JournalOlder {
        /// The journal.
        directory: PathBuf,
        /// A partition of which something is missing.
        partition: u16,
        /// What the journal has of it: up to this position.
        found: u64,
        /// What the view has.
        applied: u64,
    },
    /// A table of the view is damaged.
    ViewDamaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        source: fjall::Error,
        /// Whether the journal still has every command since the beginning.
        journal: Journal,
    },
    /// The view cannot be opened.
    View {
        /// The view.
        directory: PathBuf,
        /// Whether the journal still has every command since the beginning.
        journal: Journal,
        /// Why.
        source: fjall::Error,
    },
}

/// What the journal has beside a view that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// Every command since the beginning: without the view, the next start rebuilds it.
    Whole,
    /// The latest commands only, or they cannot be read either.
    Partial,
}

impl Journal {
    const fn advice(self) -> &'static str {
        match self {
            Self::Whole => {
                "Check disk and permissions. The journal still has every command: move the directory `view` away, and the next start \
                 rebuilds it"
            }
            Self::Partial => "Check disk and permissions, then restore the data directory from a backup",
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { field, range } => write!(f, "storage setting {field} must be {range}"),
            Self::Locked { file } => write!(
                f,
                "{}: another process has this data directory; stop it, or give this one its own directory",
                file.display()
            ),
            Self::Io { file, doing, source } => {
                write!(f, "{}: cannot {doing}: {source}; {}", file.display(), advice(source))
            }
            Self::Malformed { file, reason } => {
                write!(f, "{}: {reason}; restore the data directory from a backup, or use an empty one", file.display())
            }
            Self::NewerFormat { file, found, supported } => write!(
                f,
                "{}: written in format {found} by a later version of Tern, this one reads up to {supported}; \
                 start the later version again, or restore a backup made before the upgrade",
                file.display()
            ),
            Self::OlderFormat { file, found, oldest, needs } => {
                write!(f, "{}: written in format {found}, this build reads {oldest} and later; {needs}", file.display())
            }
            Self::PartitionsDiffer { file, stored, configured } => write!(
                f,
                "{}: this data has {stored} partitions but {configured} are configured; the number is fixed for \
                 the life of the data: set partitions = {stored}",
                file.display()
            ),
            Self::Corrupted { file, offset, reason } => write!(
                f,
                "{}: damaged at byte {offset}: {reason}. Valid commands follow, so acknowledged messages would be lost \
                 or applied out of order if it were skipped; nothing was changed. Check the disk, then restore this data \
                 directory from a backup",
                file.display()
            ),
            Self::HistoryLost { view, partition, applied, needed } => write!(
                f,
                "{}: the view has partition {partition} up to position {applied}, but the journal starts after {needed}: \
                 what lies between is gone (was the view deleted, or an older one put back?); nothing was changed. \
                 Restore view and journal from the same backup",
                view.display()
            ),
            Self::JournalMissing { directory } => write!(
                f,
                "{}: no journal, although this directory has had one: acknowledged messages may be missing; nothing was \
                 changed. Restore view and journal from the same backup",
                directory.display()
            ),
            Self::SegmentMissing { file } => write!(
                f,
                "{}: says that another segment followed, and that is missing or empty: acknowledged messages may be missing, \
                 and their places would be given to others; nothing was changed. Put the segment back, or restore view and \
                 journal from the same backup",
                file.display()
            ),
            Self::JournalOlder { directory, partition, found, applied } => write!(
                f,
                "{}: ends at position {found} of partition {partition}, but the view has it up to {applied}: this journal is \
                 older than the view (was an older one put back, or does the disk lose syncs?); nothing was changed. Restore \
                 view and journal from the same backup",
                directory.display()
            ),
            Self::ViewDamaged { file, source, journal } => write!(
                f,
                "{}: a table of the view is damaged: {source}; nothing was changed. {}",
                file.display(),
                journal.advice()
            ),
            Self::View { directory, source, journal } => {
                write!(f, "{}: the view does not open: {source}. {}", directory.display(), journal.advice())
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::View { source, .. } | Self::ViewDamaged { source, .. } => Some(source),
            Self::Config { .. }
            | Self::Locked { .. }
            | Self::Malformed { .. }
            | Self::NewerFormat { .. }
            | Self::OlderFormat { .. }
            | Self::PartitionsDiffer { .. }
            | Self::Corrupted { .. }
            | Self::HistoryLost { .. }
            | Self::JournalMissing { .. }
            | Self::SegmentMissing { .. }
            | Self::JournalOlder { .. } => None,
        }
    }
}

impl OpenError {
    /// Adds to an error of the view what the journal has, which decides what helps.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are not about the view")]
    pub(crate) fn beside(self, found: impl FnOnce() -> Journal) -> Self {
        match self {
            Self::View { directory, source, .. } => Self::View { directory, source, journal: found() },
            Self::ViewDamaged { file, source, .. } => Self::ViewDamaged { file, source, journal: found() },
            other => other,
        }
    }

    /// Makes the closure that says what was being done to which file.
    pub(crate) fn io(file: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { file, doing, source }
    }
}

/// What helps against the usual refusals of an operating system.
#[expect(clippy::wildcard_enum_match_arm, reason = "only the usual ones have their own advice")]
fn advice(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match source.kind() {
        ErrorKind::PermissionDenied => "give the user that runs Tern read and write access",
        ErrorKind::ReadOnlyFilesystem => "mount the file system writable",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some disk space",
        _ if source.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            "raise the limit of open files (ulimit -n)"
        }
        _ => "check disk, path and permissions",
    }
}

/// Why a shutdown was not clean. Nothing acknowledged is lost: the next start replays what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShutdownError {
    /// A thread was still writing when the time was over.
    TimedOut {
        /// Which.
        thread: &'static str,
    },
    /// The last checkpoint was not written.
    Checkpoint {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { thread } => write!(f, "thread {thread} did not finish in time; the next start replays"),
            Self::Checkpoint { reason } => write!(f, "last checkpoint not written: {reason}; the next start replays"),
        }
    }
}

impl std::error::Error for ShutdownError {}
