//! `--check-config`: whether the server would start, as far as can be said without starting it. Leaves nothing behind.

use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;

use crate::certificate::{CertificateError, Certificates};
use crate::clock::Clock;
use crate::config::Config;
use crate::log::{self, FilterError};
use crate::secret_file::FileError;

/// Why it would not start.
#[derive(Debug)]
pub enum CheckError {
    /// `log.filter`
    Filter(FilterError),
    /// `tls.certificate`, `tls.key`
    Certificate(CertificateError),
    /// `data_dir`
    Directory(FileError),
}

/// Checks what the configuration points to.
///
/// # Errors
/// The first thing that would keep the server from starting.
pub fn check(config: &Config) -> Result<(), CheckError> {
    let process = &config.process;
    log::check(&process.log).map_err(CheckError::Filter)?;
    if process.tls.files.is_some() {
        let now = Clock::start().now().timestamp;
        Certificates::open(&process.tls, &process.data_dir, now).map_err(CheckError::Certificate)?;
    }
    writable(&process.data_dir).map_err(CheckError::Directory)
}

/// Whether files can be made in a directory, or in the one in which it would be made.
fn writable(directory: &Path) -> Result<(), FileError> {
    let mut place = directory;
    while !place.exists() {
        place = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    let probe = place.join(format!(".tern-check-{}", std::process::id()));
    let made = OpenOptions::new().write(true).create_new(true).open(&probe);
    made.map_err(FileError::at(directory, "write into the data directory"))?;
    std::fs::remove_file(&probe).map_err(FileError::at(&probe, "remove the probe"))
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(error) => error.fmt(f),
            Self::Certificate(error) => error.fmt(f),
            Self::Directory(error) => write!(f, "{error} (data_dir)"),
        }
    }
}

impl std::error::Error for CheckError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(data_dir: &Path) -> Config {
        let mut config = Config::default();
        config.process.data_dir = data_dir.to_owned();
        config
    }

    #[test]
    fn a_good_configuration_passes_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        check(&config(&dir.path().join("not/yet/there"))).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_certificate_and_a_file_as_directory_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(check(&config(&file)), Err(CheckError::Directory(_))));
        let mut config = config(dir.path());
        config.process.tls.files = Some((dir.path().join("none.pem"), file));
        let text = check(&config).unwrap_err().to_string();
        assert!(text.contains("none.pem") && text.contains("tls.certificate"), "{text}");
    }
}
