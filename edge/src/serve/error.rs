//! Why the server does not start: each says what to change. None is for a client.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tern_persistence::OpenError;

use crate::auth::KeyError;
use crate::certificate::CertificateError;
use crate::http::TcpSocketError;
use crate::node::StartError;
use crate::secret_file::FileError;

/// Why the server does not start.
#[derive(Debug)]
pub enum ServeError {
    /// The data directory cannot be used.
    File(FileError),
    /// Another process has the data directory.
    DirectoryTaken {
        /// Which.
        directory: PathBuf,
        /// Who.
        pid: Option<u32>,
    },
    /// A piece of the data directory is missing, or is another one's.
    Lost {
        /// Which.
        piece: PathBuf,
        /// What it is.
        what: &'static str,
        /// The file that says that it was made.
        said_by: PathBuf,
    },
    /// The signing keys cannot be used.
    Keys(KeyError),
    /// The certificate cannot be used.
    Certificate(CertificateError),
    /// A TCP address cannot be listened on.
    Listen {
        /// The key that names it.
        key: &'static str,
        /// Why not.
        error: TcpSocketError,
    },
    /// The shards do not start, or their store does not open.
    Node(StartError<OpenError>),
    /// The store failed before everything in it was applied.
    StoreFailed {
        /// What failed.
        reason: String,
    },
    /// A partition's log has something that this build must not skip; the text says what and where.
    Stopped(String),
    /// The control plane's threads do not start.
    Runtime(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "{error} (data_dir)"),
            Self::DirectoryTaken { directory, pid } => {
                let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                let directory = directory.display();
                write!(f, "{directory}: {who} has this data directory; stop it, or give this one its own (data_dir)")
            }
            Self::Lost { piece, what, said_by } => write!(
                f,
                "{}: {what}, although {} says that it was made; nothing was changed. Put it back, or restore the whole data \
                 directory from a backup; to begin anew, use an empty one (data_dir)",
                piece.display(),
                said_by.display()
            ),
            Self::Keys(error) => error.fmt(f),
            Self::Certificate(error) => error.fmt(f),
            Self::Listen { key, error } => write!(f, "{error}; stop it or change `{key}`"),
            Self::Node(error @ (StartError::PortTaken(_) | StartError::Bind(_))) => {
                write!(f, "{error} (change `listen`)")
            }
            Self::Node(error) => error.fmt(f),
            Self::StoreFailed { reason } => {
                write!(f, "the store failed while it was read: {reason}; check the disk and start again")
            }
            Self::Stopped(why) => write!(
                f,
                "the log cannot be applied: {why}. Nothing was changed; start the build that wrote it, or a later one"
            ),
            Self::Runtime(error) => write!(f, "cannot start the control plane's threads: {error}; check ulimit -u"),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<FileError> for ServeError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<KeyError> for ServeError {
    fn from(error: KeyError) -> Self {
        Self::Keys(error)
    }
}

impl From<CertificateError> for ServeError {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error)
    }
}

impl From<StartError<OpenError>> for ServeError {
    fn from(error: StartError<OpenError>) -> Self {
        Self::Node(error)
    }
}
