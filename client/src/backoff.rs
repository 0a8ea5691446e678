//! How long to wait before connecting again: exponential with full jitter, so that a crowd of clients spreads out. Sans-IO.

use std::time::Duration;

/// First ceiling.
const FIRST: Duration = Duration::from_millis(250);
/// Last ceiling.
const LAST: Duration = Duration::from_secs(30);

/// Counts failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: anywhere from zero to a ceiling that doubles with each failure.
    ///
    /// # Source
    /// Marc Brooker: Exponential Backoff And Jitter (2015), "full jitter".
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        let ceiling_us = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(random % ceiling_us.saturating_add(1))
    }

    /// It worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_last_ceiling_and_never_beyond() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u128> = (0..12)
            .map(|_| {
                let mut probe = backoff;
                let ceiling = (0..200_000).step_by(997).map(|i| probe_wait(&mut probe, i)).max();
                backoff.next(0);
                ceiling.unwrap_or_default()
            })
            .collect();
        assert!(ceilings.is_sorted(), "{ceilings:?}");
        assert!((0..1000).all(|random| backoff.next(random * 7_919_993) <= LAST));
        backoff.reset();
        assert!(backoff.next(u64::MAX) <= FIRST);
    }

    fn probe_wait(probe: &mut Backoff, random: u64) -> u128 {
        let mut once = *probe;
        once.next(random * 151).as_micros()
    }
}
