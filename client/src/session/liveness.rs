//! Is the other side still there? Pings in the server's rhythm, an early one when an answer is overdue. Sans-IO.
//! Never closes anything: it says so, the client connects again.

use std::time::{Duration, Instant};

/// An answer that is overdue for so long makes the client ask whether anybody is there.
const OVERDUE: Duration = Duration::from_secs(3);
/// And without a sign of life for so long after that question the connection counts as dead.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
/// The rhythm is never faster or slower than this, whatever the server says.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// See [`INTERVAL_MIN`].
const INTERVAL_MAX: Duration = Duration::from_secs(120);

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Alive,
    /// Send a ping with this nonce.
    Ping(u64),
    /// Connect again.
    Dead,
}

/// Watches one connection.
#[derive(Debug)]
pub(crate) struct Liveness {
    interval: Duration,
    missed_max: u32,
    heard: Instant,
    pinged: Option<(Instant, Duration)>,
    next_ping: Instant,
    /// Since when an answer is awaited.
    awaiting: Option<Instant>,
    nonce: u64,
}

impl Liveness {
    pub(crate) fn new(now: Instant, interval: Duration, missed_max: u32) -> Self {
        let interval = interval.clamp(INTERVAL_MIN, INTERVAL_MAX);
        Self {
            interval,
            missed_max: missed_max.max(1),
            heard: now,
            pinged: None,
            next_ping: now + interval,
            awaiting: None,
            nonce: 0,
        }
    }

    /// Something came.
    pub(crate) fn on_heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
        self.awaiting = self.awaiting.map(|_| now);
    }

    /// Whether something on the wire waits for an answer.
    pub(crate) fn set_awaiting(&mut self, now: Instant, awaiting: bool) {
        self.awaiting = awaiting.then(|| self.awaiting.unwrap_or(now));
    }

    /// What to do at this moment.
    pub(crate) fn poll(&mut self, now: Instant) -> Verdict {
        if self.pinged.is_some_and(|(at, patience)| at + patience <= now) {
            return Verdict::Dead;
        }
        let overdue = self.awaiting.is_some_and(|since| since + OVERDUE <= now);
        let probing = self.pinged.is_some_and(|(_, patience)| patience <= PROBE_TIMEOUT);
        if overdue && !probing {
            self.pinged = Some((now, PROBE_TIMEOUT.min(self.patience())));
        } else if self.next_ping <= now {
            let since = self.pinged.unwrap_or((now, self.patience()));
            self.pinged = Some(since);
        } else {
            return Verdict::Alive;
        }
        self.next_ping = now + self.interval;
        self.nonce += 1;
        Verdict::Ping(self.nonce)
    }

    /// When [`Self::poll`] will say something new.
    pub(crate) fn deadline(&self) -> Instant {
        let dead = self.pinged.map(|(at, patience)| at + patience);
        let probing = self.pinged.is_some_and(|(_, patience)| patience <= PROBE_TIMEOUT);
        let overdue = self.awaiting.filter(|_| !probing).map(|since| since + OVERDUE);
        [dead, overdue].into_iter().flatten().fold(self.next_ping, Instant::min)
    }

    fn patience(&self) -> Duration {
        self.interval.saturating_mul(self.missed_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    #[test]
    fn two_silent_intervals_after_a_ping_are_the_end() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, INTERVAL, 2);
        let mut now = start;
        let mut pings = 0;
        loop {
            now = liveness.deadline().max(now);
            match liveness.poll(now) {
                Verdict::Ping(_) => pings += 1,
                Verdict::Dead => break,
                Verdict::Alive => {}
            }
        }
        assert_eq!(now - start, INTERVAL * 3);
        assert_eq!(pings, 2);
    }

    #[test]
    fn a_quiet_connection_that_answers_lives() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, INTERVAL, 2);
        for round in 1..100 {
            assert!(matches!(liveness.poll(start + INTERVAL * round), Verdict::Ping(_)));
            liveness.on_heard(start + INTERVAL * round);
        }
    }

    #[test]
    fn an_overdue_answer_is_noticed_in_seconds() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, INTERVAL, 2);
        liveness.set_awaiting(start, true);
        assert_eq!(liveness.deadline(), start + OVERDUE);
        assert!(matches!(liveness.poll(start + OVERDUE), Verdict::Ping(_)));
        assert_eq!(liveness.poll(start + OVERDUE), Verdict::Alive);
        assert_eq!(liveness.deadline(), start + OVERDUE + PROBE_TIMEOUT);
        assert_eq!(liveness.poll(start + OVERDUE + PROBE_TIMEOUT), Verdict::Dead);
    }

    #[test]
    fn a_slow_answer_from_a_server_that_lives_is_waited_for() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, INTERVAL, 2);
        liveness.set_awaiting(start, true);
        assert!(matches!(liveness.poll(start + OVERDUE), Verdict::Ping(_)));
        liveness.on_heard(start + OVERDUE);
        assert_eq!(liveness.poll(start + OVERDUE + PROBE_TIMEOUT / 2), Verdict::Alive);
    }
}
