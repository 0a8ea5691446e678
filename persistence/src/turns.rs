//! Threads of the store as sequences of turns. What takes turns never sleeps and never reads a clock: one driver does both for all, and a
//! simulation is another driver.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::clock::Clock;

/// Longest sleep: every reason to go on also wakes the thread, and this covers a wake-up that came to nothing. Unit: time.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What the clocks say at the beginning of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Since some moment of this run; never goes back.
    pub(crate) monotonic: Duration,
    /// What people call the time. Unit: microseconds since 1970.
    pub(crate) wall: u64,
}

/// What comes after a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The next turn, at once.
    Again,
    /// The next turn after this long, or when it is woken.
    AtMost(Duration),
    /// The next turn when it is woken.
    UntilWoken,
    /// Nothing more.
    Ended(Result<(), String>),
}

/// What a thread of the store does when it is its turn.
pub(crate) trait Turns: Send {
    /// Does some work, bounded by a named limit.
    fn turn(&mut self, now: Now) -> Rest;
}

/// Wakes what takes turns. Can be given away before its thread runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waker(Arc<OnceLock<Thread>>);

impl Waker {
    /// There is something new: what it is must be in place before.
    pub(crate) fn wake(&self) {
        // Either this sees the thread, or the thread, which has not looked yet, sees what is new.
        fence(Ordering::SeqCst);
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }

    fn belongs_to(&self, thread: Thread) {
        self.0.set(thread).ok();
        fence(Ordering::SeqCst);
    }
}

/// Takes turns on this thread until they end, and says how they ended.
pub(crate) fn drive(turns: &mut dyn Turns, waker: &Waker, clock: Clock) -> Result<(), String> {
    waker.belongs_to(std::thread::current());
    let start = Instant::now();
    loop {
        let now = clock.now();
        let monotonic = now.instant.saturating_duration_since(start);
        match turns.turn(Now { monotonic, wall: now.timestamp.raw() }) {
            Rest::Again => {}
            Rest::AtMost(pause) => std::thread::park_timeout(pause.min(SLEEP_MAX)),
            Rest::UntilWoken => std::thread::park_timeout(SLEEP_MAX),
            Rest::Ended(result) => return result,
        }
    }
}
