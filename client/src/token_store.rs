//! Where the refresh token lives between runs: one file per profile, for its owner's eyes only, or memory.
//! Never lets two processes exchange the same token: the server would take the second one for a thief and log the device out.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::private_file;

/// What is remembered of a log-in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSession {
    /// Account name.
    pub user: String,
    /// Who that is.
    pub user_id: u64,
    /// Which device.
    pub device_id: u64,
    /// The token to exchange next.
    pub refresh_token: String,
    /// The exchange that is under way, or was when the process ended: it is repeated under the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
}

impl fmt::Debug for StoredSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSession").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Keeps one session. Clones share it.
#[derive(Debug, Clone)]
pub struct TokenStore {
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Memory(Arc<Mutex<Option<StoredSession>>>),
    File(PathBuf),
}

/// Keeps other processes from exchanging the same token meanwhile.
#[derive(Debug)]
pub(crate) struct StoreLock {
    _lock: Option<private_file::Lock>,
}

impl TokenStore {
    /// Forgets everything when the process ends.
    #[must_use]
    pub fn memory() -> Self {
        Self { place: Place::Memory(Arc::default()) }
    }

    /// Keeps the session in this file, mode 0600, replaced atomically.
    #[must_use]
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self { place: Place::File(path.as_ref().to_owned()) }
    }

    /// The session, if there is one.
    ///
    /// # Errors
    /// When the file exists and cannot be read or understood.
    pub fn load(&self) -> io::Result<Option<StoredSession>> {
        match &self.place {
            Place::Memory(session) => Ok(session.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            Place::File(path) => match std::fs::read(path) {
                Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{}: {error}; remove it to log in again", path.display()),
                    )
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// Replaces the session; `None` forgets it. Durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, session: Option<&StoredSession>) -> io::Result<()> {
        match (&self.place, session) {
            (Place::Memory(held), _) => {
                *held.lock().unwrap_or_else(PoisonError::into_inner) = session.cloned();
                Ok(())
            }
            (Place::File(path), Some(session)) => private_file::replace(path, &serde_json::to_vec_pretty(session)?),
            (Place::File(path), None) => private_file::remove(path),
        }
    }

    /// Waits until no other process exchanges this profile's token. Blocks.
    pub(crate) fn lock(&self) -> io::Result<StoreLock> {
        match &self.place {
            Place::Memory(_) => Ok(StoreLock { _lock: None }),
            Place::File(path) => Ok(StoreLock { _lock: Some(private_file::lock(path)?) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_by_the_next_process() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("profile/session.json");
        let store = TokenStore::file(&path);
        assert_eq!(store.load().expect("loads"), None);
        let session = StoredSession {
            user: "ada".into(),
            user_id: u64::MAX,
            device_id: 7,
            refresh_token: "secret".into(),
            attempt: Some(u128::MAX.to_string()),
        };
        store.save(Some(&session)).expect("saves");
        assert_eq!(TokenStore::file(&path).load().expect("loads"), Some(session.clone()));
        assert!(!format!("{session:?}").contains("secret"));
        store.save(None).expect("forgets");
        assert_eq!(store.load().expect("loads"), None);
    }
}
