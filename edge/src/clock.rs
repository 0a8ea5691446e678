//! The only file of this crate that reads a clock. Wall time is read once, at the start; from there on time is monotonic, so that
//! a step of the system's clock never moves a deadline. Never sleeps and never decides anything.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tern_protocol::Timestamp;

/// Wall time at the start of the process plus what has passed since.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    wall: Timestamp,
}

/// One moment in both of the forms that are needed: for the core, and for quinn-proto and the timers.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For the core and the log.
    pub timestamp: Timestamp,
    /// For quinn-proto and the runtime.
    pub instant: Instant,
}

impl Clock {
    /// Reads the wall clock once.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { started: Instant::now(), wall: Timestamp::ZERO.after(wall) }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Moment {
        let instant = Instant::now();
        Moment { timestamp: self.wall.after(instant.saturating_duration_since(self.started)), instant }
    }

    /// The same moment for the timers; the start of the process if it was earlier.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.started + at.since(self.wall).min(FAR)
    }
}

/// How long it is until then; nothing if it was earlier. For timers that know only that.
#[cfg(feature = "glommio")]
pub(crate) fn until(then: Instant) -> Duration {
    then.saturating_duration_since(Instant::now())
}

/// A timer is never armed further away than this: instants overflow, and nobody waits a year.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_and_its_instant_name_the_same_moment() {
        let clock = Clock::start();
        let now = clock.now();
        let off = clock.instant(now.timestamp).duration_since(now.instant - Duration::from_millis(1));
        assert!(off <= Duration::from_millis(1), "{off:?}");
        assert!(clock.instant(Timestamp::from_raw(u64::MAX)) > now.instant);
    }
}
