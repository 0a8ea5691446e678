//! The only file of this crate that names a clock: the store's, which stamps the log, so that tokens, deadlines and messages agree on
//! what time it is. Keeps it near the system's clock and says when that one was set. Never decides anything.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;
#[cfg(feature = "glommio")]
use std::time::Instant;

pub use tern_persistence::{Clock, Moment};
use tern_persistence::{ClockKeeper, Noticed};

/// How often the system's clock is looked at. Unit: time.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the operator sees of the clock.
#[derive(Debug, Default)]
pub struct ClockStatus {
    /// Times the system's clock was set while the server ran.
    pub jumps: AtomicU64,
    /// How far the system's clock is ahead of the server's; negative: behind. Unit: microseconds.
    pub ahead_us: AtomicI64,
}

/// How long it is until then; nothing if it was earlier. For timers that know only that.
#[cfg(feature = "glommio")]
pub(crate) fn until(then: Instant) -> Duration {
    then.saturating_duration_since(Instant::now())
}

/// Keeps the clock for as long as the process lives.
pub(crate) async fn keep(clock: Clock, status: Arc<ClockStatus>) {
    let mut keeper = ClockKeeper::new(clock);
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let noticed = keeper.look();
        status.ahead_us.store(keeper.ahead_us(), Relaxed);
        match noticed {
            None => {}
            Some(Noticed::Jumped { ahead_us }) => {
                status.jumps.fetch_add(1, Relaxed);
                let ahead_s = ahead_us / 1_000_000;
                tracing::warn!(
                    ahead_s,
                    "the system's clock was set; messages are stamped by the old time, which approaches the new one by a tenth of the \
                     time that passes. If the new time is right, a restart takes it at once (but never goes back behind the log)"
                );
            }
            Some(Noticed::Settled) => tracing::info!("the server's time agrees with the system's clock again"),
        }
    }
}
