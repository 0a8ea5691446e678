//! Looks at the disk while the store runs: whether there is space, and whether the directory is still the one that was opened.
//! Never writes. Its thread is its own, because those that write may stand still for seconds.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::EmbeddedConfig;
use crate::error::OpenError;
use crate::status::Status;
use crate::view::View;

/// Longest time between two looks: a directory that was taken away is noticed within as much. Unit: time.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Shortest time between two looks. Unit: time.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// What a fast disk takes in a second, and more than this server writes: the nearer the floor, the sooner the next look. Unit: bytes.
const FILLED_PER_SECOND: u64 = 2 * 1024 * 1024 * 1024;

/// A file or directory as it was when the store was opened.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    fn of(path: PathBuf) -> Result<Self, OpenError> {
        let found = std::fs::metadata(&path).map_err(OpenError::io(&path, "look at it"))?;
        Ok(Self { device: found.dev(), inode: found.ino(), path })
    }

    /// What has become of it, if it is not what was opened.
    fn fault(&self) -> Option<String> {
        let what = match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => return None,
            Ok(_) => "was replaced while the server ran",
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
                "was deleted or moved while the server ran"
            }
            // A disk that does not answer says so to whoever writes.
            Err(_) => return None,
        };
        Some(format!("{}: {what}; what is written would not be found again", self.path.display()))
    }
}

/// The watching thread's state.
#[derive(Debug)]
pub(crate) struct Watch {
    config: EmbeddedConfig,
    places: Vec<Place>,
    view: View,
    status: Arc<Status>,
}

impl Watch {
    /// Remembers what the open store consists of, and looks at the space for the first time.
    pub(crate) fn new(config: &EmbeddedConfig, view: View, status: Arc<Status>) -> Result<Self, OpenError> {
        let names = ["", "lock", "identity", "journal", "view"];
        let places = names.iter().map(|name| Place::of(config.directory.join(name))).collect::<Result<_, _>>()?;
        let mut watch = Self { config: config.clone(), places, view, status };
        watch.look_at_space();
        Ok(watch)
    }

    /// Looks until the store is stopped. A failure is in the status, not in what this returns.
    pub(crate) fn run(mut self) -> Result<(), String> {
        while !self.status.is_stopped() {
            if !self.status.journal_failed()
                && let Some(fault) = self.places.iter().find_map(Place::fault)
            {
                self.status.fail_journal(fault);
            }
            let pause = self.look_at_space();
            std::thread::park_timeout(pause);
        }
        Ok(())
    }

    /// Stops taking anything before the disk is full; says when to look again.
    fn look_at_space(&mut self) -> Duration {
        let Some(free) = free_space(&self.config.directory) else { return PAUSE_MAX };
        let low = self.status.space_low();
        let floor = self.config.free_space_min.saturating_add(self.config.space_reserve(self.view.size()));
        // An eighth more to begin again, so that it does not flutter.
        let needed = if low { floor / 8 * 9 } else { floor };
        self.status.set_space_low(free < needed);
        if self.status.space_low() {
            return PAUSE_MAX;
        }
        let distance = Duration::from_millis((free - needed).saturating_mul(1000) / FILLED_PER_SECOND);
        distance.clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

/// Space left where a directory is. Unit: bytes. `None` when the system does not say.
fn free_space(directory: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(directory).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
