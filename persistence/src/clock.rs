//! The server's clock: wall time read once, then carried on by monotonic time, and drawn gently towards the system's clock.
//! A step of the system's clock is noticed and told, never followed at once. Never sleeps.
//!
//! Why: the log never goes back in time. If a clock that is set forward by mistake were followed, every later message would bear the wrong
//! time for ever. Bounded by [`SLEW_DIVISOR`]: this clock and real time differ by at most a tenth of the time that the mistake lasts.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tern_protocol::Timestamp;

use crate::status::micros;

/// The clock gains or loses at most this part of the time that passes. 10: a difference of an hour is made up for in ten hours.
const SLEW_DIVISOR: i64 = 10;
/// A difference from the system's clock that is told. Unit: time. NTP slews what is smaller than an eighth of it by itself.
const JUMP_MIN: Duration = Duration::from_secs(1);

/// Wall time that is the same for everything in the process: copies share one correction.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    wall: Timestamp,
    /// What is added to the time that has passed. Unit: microseconds. Lives as long as the process, so that copies are cheap.
    correction: &'static AtomicI64,
}

/// One moment: for the log, and for deadlines.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For the core and the log.
    pub timestamp: Timestamp,
    /// For deadlines.
    pub instant: Instant,
}

/// What a look at the system's clock found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noticed {
    /// The system's clock was set: it is ahead of this one by so many microseconds (behind, if negative), and is approached slowly.
    Jumped {
        /// Unit: microseconds.
        ahead_us: i64,
    },
    /// The two agree again.
    Settled,
}

impl Clock {
    /// Reads the system's clock.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(system_time())
    }

    /// Starts at a time of the caller's choice.
    #[must_use]
    pub fn start_at(wall: Timestamp) -> Self {
        Self { started: Instant::now(), wall, correction: Box::leak(Box::new(AtomicI64::new(0))) }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Moment {
        let instant = Instant::now();
        Moment { timestamp: self.at(instant), instant }
    }

    /// Goes on from `time` if it would otherwise be earlier. Returns by how much the clock was moved: the system's clock went back since
    /// something was stamped with that time.
    pub fn not_before(&self, time: Timestamp) -> Duration {
        let behind = time.since(self.now().timestamp);
        self.correction.fetch_add(signed(micros(behind)), Relaxed);
        behind
    }

    /// What the clock differs from "wall time at the start plus what has passed". Unit: microseconds.
    #[must_use]
    pub fn correction_us(&self) -> i64 {
        self.correction.load(Relaxed)
    }

    /// The same moment for the timers; the start of the process if it was earlier.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        let passed = signed(at.raw()).saturating_sub(signed(self.wall.raw())).saturating_sub(self.correction_us());
        self.started + Duration::from_micros(u64::try_from(passed).unwrap_or(0)).min(FAR)
    }

    fn at(&self, instant: Instant) -> Timestamp {
        let passed = signed(micros(instant.saturating_duration_since(self.started)));
        let passed = passed.saturating_add(self.correction_us());
        Timestamp::from_raw(self.wall.raw().saturating_add_signed(passed))
    }
}

/// A timer is never armed further away than this: instants overflow, and nobody waits a year.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Draws a clock towards the system's. One per process.
#[derive(Debug)]
pub struct ClockKeeper {
    clock: Clock,
    looked: Instant,
    /// Time since boot, sleep included, when it was looked last.
    booted: Duration,
    discipline: Discipline,
    ahead_us: i64,
}

impl ClockKeeper {
    /// The keeper of this clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, looked: Instant::now(), booted: since_boot(), discipline: Discipline::default(), ahead_us: 0 }
    }

    /// Compares and corrects; to be called about once a second. Says what is new.
    pub fn look(&mut self) -> Option<Noticed> {
        let (now, booted) = (self.clock.now(), since_boot());
        let since = now.instant.saturating_duration_since(self.looked);
        // Monotonic time stands still while the machine sleeps; that is no step of the clock.
        let asleep = booted.saturating_sub(self.booted).saturating_sub(since);
        (self.looked, self.booted) = (now.instant, booted);
        let ahead_us = signed(system_time().raw()).saturating_sub(signed(now.timestamp.raw()));
        let (correction, noticed) = self.discipline.follow(ahead_us, since, asleep);
        self.clock.correction.fetch_add(correction, Relaxed);
        self.ahead_us = ahead_us - correction;
        noticed
    }

    /// How far the system's clock was ahead of this one after the last look; negative: behind. Unit: microseconds.
    #[must_use]
    pub const fn ahead_us(&self) -> i64 {
        self.ahead_us
    }
}

/// How much of a difference is made up for, and what is told of it. Pure.
#[derive(Debug, Default)]
struct Discipline {
    apart: bool,
}

impl Discipline {
    /// `ahead_us`: the system's clock minus ours, after `since` awake and `asleep`. Returns the correction. Unit: microseconds.
    fn follow(&mut self, ahead_us: i64, since: Duration, asleep: Duration) -> (i64, Option<Noticed>) {
        let asleep = signed(micros(asleep)).clamp(0, ahead_us.max(0));
        let ahead_us = ahead_us - asleep;
        let most = signed(micros(since)) / SLEW_DIVISOR;
        let apart = ahead_us.unsigned_abs() >= micros(JUMP_MIN);
        let noticed = match (std::mem::replace(&mut self.apart, apart), apart) {
            (false, true) => Some(Noticed::Jumped { ahead_us }),
            (true, false) => Some(Noticed::Settled),
            (true, true) | (false, false) => None,
        };
        (asleep + ahead_us.clamp(-most, most), noticed)
    }
}

fn system_time() -> Timestamp {
    Timestamp::ZERO.after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR_US: i64 = 3_600_000_000;

    /// Runs a clock for so many seconds beside a system clock that is `ahead` of it at first. Returns what is left of the difference.
    fn approach(discipline: &mut Discipline, mut ahead: i64, seconds: usize) -> (i64, Vec<Noticed>) {
        let mut told = Vec::new();
        for _ in 0..seconds {
            let (correction, noticed) = discipline.follow(ahead, SECOND, Duration::ZERO);
            ahead -= correction;
            told.extend(noticed);
        }
        (ahead, told)
    }

    #[test]
    fn a_jump_is_told_once_and_followed_by_a_tenth_of_the_time_that_passes() {
        for ahead in [HOUR_US, -HOUR_US] {
            let mut discipline = Discipline::default();
            let (left, told) = approach(&mut discipline, ahead, 60);
            assert_eq!(left, ahead - ahead.signum() * 6_000_000, "a mistake of a minute moves the log by six seconds");
            assert_eq!(told, [Noticed::Jumped { ahead_us: ahead }]);
            let (left, told) = approach(&mut discipline, left, 36_000);
            assert_eq!((left, told), (0, vec![Noticed::Settled]));
        }
    }

    #[test]
    fn what_a_good_clock_drifts_is_followed_without_a_word() {
        let mut discipline = Discipline::default();
        assert_eq!(approach(&mut discipline, 400_000, 10), (0, Vec::new()));
        assert_eq!(approach(&mut discipline, -400_000, 10), (0, Vec::new()));
    }

    #[test]
    fn a_machine_that_slept_is_at_once_in_the_present() {
        let mut discipline = Discipline::default();
        assert_eq!(discipline.follow(HOUR_US, SECOND, Duration::from_secs(3600)), (HOUR_US, None));
        // The sleep explains no more than what the system's clock shows.
        assert_eq!(discipline.follow(0, SECOND, Duration::from_secs(3600)), (0, None));
        assert_eq!(discipline.follow(-10, SECOND, Duration::from_secs(3600)), (-10, None));
    }

    #[test]
    fn a_clock_that_was_set_back_goes_on_from_where_it_was() {
        let clock = Clock::start_at(Timestamp::from_raw(1_800_000_000_000_000));
        let later = Timestamp::from_raw(1_800_003_600_000_000);
        assert!(clock.not_before(later) > Duration::from_secs(3590));
        assert!(clock.now().timestamp >= later);
        assert_eq!(clock.not_before(Timestamp::from_raw(5)), Duration::ZERO);
    }

    #[test]
    fn copies_share_one_correction() {
        let clock = Clock::start();
        let copy = clock;
        clock.not_before(clock.now().timestamp.after(Duration::from_secs(1000)));
        assert!(copy.correction_us() > 990_000_000);
    }

    #[test]
    fn a_timestamp_and_its_instant_name_the_same_moment() {
        let clock = Clock::start();
        clock.not_before(clock.now().timestamp.after(Duration::from_secs(1000)));
        let now = clock.now();
        let off = clock.instant(now.timestamp).duration_since(now.instant - Duration::from_millis(1));
        assert!(off <= Duration::from_millis(1), "{off:?}");
        assert!(clock.instant(Timestamp::from_raw(u64::MAX)) > now.instant);
        assert_eq!(clock.instant(Timestamp::ZERO), clock.started);
    }

    #[test]
    fn a_keeper_finds_nothing_to_tell_of_a_clock_that_was_just_read() {
        assert_eq!(ClockKeeper::new(Clock::start()).look(), None);
    }
}
