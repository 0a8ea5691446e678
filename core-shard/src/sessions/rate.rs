//! A token bucket: how fast one session may ask. Time is an input.

use tern_protocol::Timestamp;

use crate::config::Limits;

/// How much a session may still ask at this moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// Millionths of a frame.
    credit: u64,
    updated: Timestamp,
    /// Frames refused since `window`.
    refused: u32,
    window: Timestamp,
}

/// Why a frame is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Come back in so many milliseconds.
    Wait(u32),
    /// No well-behaved client does this.
    Flood,
}

impl Bucket {
    pub(crate) fn full(now: Timestamp, limits: &Limits) -> Self {
        Self { credit: u64::from(limits.frames_burst) * 1_000_000, updated: now, refused: 0, window: now }
    }

    /// Takes one frame's worth.
    pub(crate) fn take(&mut self, now: Timestamp, limits: &Limits) -> Result<(), Refusal> {
        let rate = u64::from(limits.frames_per_second.max(1));
        let elapsed_us = u64::try_from(now.since(self.updated).as_micros()).unwrap_or(u64::MAX);
        let most = u64::from(limits.frames_burst.max(1)) * 1_000_000;
        self.credit = self.credit.saturating_add(elapsed_us.saturating_mul(rate)).min(most);
        self.updated = now;
        if let Some(rest) = self.credit.checked_sub(1_000_000) {
            self.credit = rest;
            return Ok(());
        }
        if now.since(self.window).as_secs() >= 1 {
            self.window = now;
            self.refused = 0;
        }
        self.refused += 1;
        if self.refused > limits.flood_max {
            return Err(Refusal::Flood);
        }
        let missing_us = (1_000_000 - self.credit).div_ceil(rate);
        Err(Refusal::Wait(u32::try_from(missing_us.div_ceil(1000)).unwrap_or(u32::MAX).max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_then_the_rate_and_then_the_door() {
        let limits = Limits { frames_burst: 2, frames_per_second: 10, flood_max: 1, ..Limits::default() };
        let start = Timestamp::from_raw(1_000_000);
        let mut bucket = Bucket::full(start, &limits);
        assert_eq!(bucket.take(start, &limits), Ok(()));
        assert_eq!(bucket.take(start, &limits), Ok(()));
        assert_eq!(bucket.take(start, &limits), Err(Refusal::Wait(100)));
        assert_eq!(bucket.take(start, &limits), Err(Refusal::Flood));
        let later = start.after(std::time::Duration::from_millis(100));
        assert_eq!(bucket.take(later, &limits), Ok(()));
    }
}
