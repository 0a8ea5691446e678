//! How long a round trip takes, and how long to wait before what is unanswered counts as lost: RFC 6298.

use std::time::Duration;

/// Shortest retransmission timeout. Unit: time. Source: Linux, `TCP_RTO_MIN`; RFC 6298 (2.4) asks for a second.
pub(super) const RTO_MIN: Duration = Duration::from_millis(200);
/// Longest retransmission timeout. Unit: time. Source: Linux, `TCP_RTO_MAX`.
pub(super) const RTO_MAX: Duration = Duration::from_secs(120);
/// Before anything was measured. Unit: time. Source: RFC 6298 (2.1).
pub(super) const RTO_INITIAL: Duration = Duration::from_secs(1);

/// What was measured.
#[derive(Debug, Clone, Copy)]
struct Measured {
    smoothed: Duration,
    variation: Duration,
    shortest: Duration,
}

/// The round-trip time of one sender.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rtt {
    measured: Option<Measured>,
}

impl Rtt {
    /// RFC 6298 (2.2) and (2.3).
    pub(super) fn sample(&mut self, took: Duration) {
        self.measured = Some(match self.measured {
            None => Measured { smoothed: took, variation: took / 2, shortest: took },
            Some(Measured { smoothed, variation, shortest }) => Measured {
                smoothed: smoothed * 7 / 8 + took / 8,
                variation: variation * 3 / 4 + smoothed.abs_diff(took) / 4,
                shortest: shortest.min(took),
            },
        });
    }

    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.measured.map(|measured| measured.smoothed)
    }

    pub(super) fn shortest(&self) -> Duration {
        self.measured.map_or(Duration::ZERO, |measured| measured.shortest)
    }

    /// The timeout after `backoff` timeouts in a row. RFC 6298 (5.5): "The host MUST set RTO <- RTO * 2 (\"back off the timer\")."
    pub(super) fn timeout(&self, backoff: u32) -> Duration {
        let base =
            self.measured.map_or(RTO_INITIAL, |measured| (measured.smoothed + 4 * measured.variation).max(RTO_MIN));
        base.saturating_mul(1_u32.checked_shl(backoff).unwrap_or(u32::MAX)).min(RTO_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_round_trip_ends_at_the_shortest_timeout() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(0), RTO_INITIAL);
        rtt.sample(Duration::from_millis(60));
        assert_eq!(rtt.timeout(0), Duration::from_millis(60 + 4 * 30).max(RTO_MIN));
        for _ in 0..50 {
            rtt.sample(Duration::from_millis(60));
        }
        assert_eq!(rtt.timeout(0), RTO_MIN);
        assert_eq!(rtt.timeout(3), RTO_MIN * 8);
        assert_eq!(rtt.timeout(40), RTO_MAX);
    }
}
