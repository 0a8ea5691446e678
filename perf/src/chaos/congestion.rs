//! How many packets may be on their way: CUBIC (RFC 9438), counted in packets as Linux does. Pure arithmetic.

use std::time::Duration;

/// Packets before anything was acknowledged. Unit: packets. Source: RFC 6928.
const INITIAL: f64 = 10.0;
/// What is left of the window after a loss. Source: RFC 9438 section 4.6, beta_cubic.
const BETA: f64 = 0.7;
/// How steeply the window grows. Unit: packets per second cubed. Source: RFC 9438 section 5.1, C.
const STEEPNESS: f64 = 0.4;
/// Growth of the window that Reno would have had. Unit: packets per round trip. Source: RFC 9438 section 4.3, alpha_cubic.
const RENO_GROWTH: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// Smallest threshold of slow start. Unit: packets. Source: RFC 5681, equation (4).
const THRESHOLD_MIN: f64 = 2.0;

/// Since the last loss.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    began: Duration,
    /// Where the window goes: where the loss was.
    origin: f64,
    /// When it is there. Unit: seconds.
    back_after: f64,
    /// What Reno would have.
    reno: f64,
}

/// The congestion window of one sender.
#[derive(Debug)]
pub(super) struct Congestion {
    window: f64,
    threshold: f64,
    /// Where the last loss was.
    peak: f64,
    epoch: Option<Epoch>,
}

impl Congestion {
    pub(super) const fn new() -> Self {
        Self { window: INITIAL, threshold: f64::INFINITY, peak: 0.0, epoch: None }
    }

    /// Whether one more may leave.
    #[expect(clippy::cast_precision_loss, reason = "packets on their way are far below 2^53")]
    pub(super) fn allows(&self, in_flight: usize) -> bool {
        (in_flight as f64) < self.window.floor().max(1.0)
    }

    /// `packets` were acknowledged while `in_flight` were on their way. A window that was not used does not grow.
    #[expect(clippy::cast_precision_loss, reason = "packets on their way are far below 2^53")]
    pub(super) fn acknowledged(&mut self, now: Duration, packets: usize, in_flight: usize, round_trip: Duration) {
        let acknowledged = packets as f64;
        if self.window < self.threshold {
            // Linux, tcp_is_cwnd_limited: in slow start up to twice what was used.
            if self.window < 2.0 * in_flight as f64 {
                self.window += acknowledged;
            }
        } else if in_flight as f64 >= self.window.floor() {
            self.avoid(now, acknowledged, round_trip);
        }
    }

    /// Packets were lost: once for each round of recovery.
    pub(super) fn lost(&mut self) {
        // Fast convergence, RFC 9438 section 4.7: who still gives way gives way a little more.
        self.peak = if self.window < self.peak { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.threshold = (self.window * BETA).max(THRESHOLD_MIN);
        self.window = self.threshold;
        self.epoch = None;
    }

    /// The retransmission timer ran out. RFC 5681 section 3.1: "cwnd MUST be set to no more than the loss window, LW, which equals 1".
    pub(super) fn timed_out(&mut self) {
        self.lost();
        self.window = 1.0;
    }

    /// Congestion avoidance: RFC 9438 sections 4.2 to 4.5.
    fn avoid(&mut self, now: Duration, acknowledged: f64, round_trip: Duration) {
        let (window, peak) = (self.window, self.peak);
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            began: now,
            origin: peak.max(window),
            back_after: ((peak - window).max(0.0) / STEEPNESS).cbrt(),
            reno: window,
        });
        let since = (now.saturating_sub(epoch.began) + round_trip).as_secs_f64();
        let cubic = STEEPNESS * (since - epoch.back_after).powi(3) + epoch.origin;
        let target = cubic.clamp(window, 1.5 * window);
        epoch.reno += RENO_GROWTH * acknowledged / window;
        self.window = (window + (target - window) / window * acknowledged).max(epoch.reno);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(60);

    /// A round in which the whole window was used.
    fn round(congestion: &mut Congestion, now: Duration) -> usize {
        let full = (0..10_000).take_while(|in_flight| congestion.allows(*in_flight)).count();
        for _ in 0..full {
            congestion.acknowledged(now, 1, full, ROUND_TRIP);
        }
        full
    }

    #[test]
    fn slow_start_doubles_and_a_loss_leaves_seven_tenths() {
        let mut congestion = Congestion::new();
        let rounds: Vec<_> = (1..=3).map(|number| round(&mut congestion, ROUND_TRIP * number)).collect();
        assert_eq!(rounds, [10, 20, 40]);
        congestion.lost();
        assert!(congestion.allows(55) && !congestion.allows(56), "{congestion:?}");
    }

    #[test]
    fn after_a_loss_it_grows_at_least_as_reno_would_and_reaches_the_old_peak() {
        let mut congestion = Congestion::new();
        congestion.lost();
        let rounds: Vec<_> = (1..=40).map(|number| round(&mut congestion, ROUND_TRIP * number)).collect();
        assert!(rounds.is_sorted());
        assert_eq!(rounds.first(), Some(&7));
        // 3 packets at 0.53 a round trip: six rounds.
        assert!(rounds.get(7).is_some_and(|full| *full >= 10), "{rounds:?}");
    }

    #[test]
    fn what_is_not_used_does_not_grow() {
        let mut congestion = Congestion::new();
        for number in 0..1_000 {
            congestion.acknowledged(ROUND_TRIP * number, 1, 1, ROUND_TRIP);
        }
        assert!(congestion.allows(9) && !congestion.allows(10));
        congestion.timed_out();
        assert!(congestion.allows(0) && !congestion.allows(1));
    }
}
