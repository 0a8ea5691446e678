//! When an empty packet follows a message over QUIC, so that a message that was lost is missed soon. Both ends of a connection keep this
//! rule for what they send. Knows no clock: times and counts are inputs.
//!
//! QUIC notices a loss when a later packet is acknowledged (RFC 9002 section 6.1). Behind a chat message there is often none: it is missed
//! only when the probe timeout has passed (a round trip, its variation and the peer's delay) *and* the probe has been answered, two to three
//! round trips later. An empty packet an eighth of a round trip behind it is acknowledged after 9/8 of one, and 9/8 is the age at which RFC
//! 9002 section 6.1.2 counts what is missing as lost.

use core::time::Duration;

/// Shortest round trip for which this is worth a packet. Unit: time. Below it the probe timeout is short too. It is the path's shortest that
/// counts: a receiver that is slow to acknowledge makes every round trip look long.
pub const TAIL_RTT_MIN: Duration = Duration::from_millis(20);
/// A path is expected to lose packets until it has carried so many without a loss. Unit: packets.
/// At 2 % of loss 200 packets pass in a row once in 57 times (0.98^200); a phone sends them in some minutes of chat.
pub const TAIL_CLEAN_PACKETS: u64 = 200;
/// Writes between two looks at the path. Unit: writes. Looking costs a copy of all of QUIC's statistics; in between a write costs a comparison.
const LOOK_INTERVAL: u8 = 16;
/// Added to an eighth of the round trip, so that the acknowledgement finds the message old enough. Unit: time. RFC 9002 calls it granularity.
const GRANULARITY: Duration = Duration::from_millis(1);

/// What QUIC knows of the path that packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathFacts {
    /// Packets sent so far.
    pub sent: u64,
    /// Of them known to be lost.
    pub lost: u64,
    /// The shortest round trip that was ever seen.
    pub rtt_min: Duration,
    /// The round trip as it is now.
    pub rtt: Duration,
}

/// What one end of a connection remembers of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    /// Packets that were known to be lost at the last look.
    lost: u64,
    /// Packets that had been sent when the last loss was seen; at first 0.
    sent_at_loss: u64,
    writes: u8,
    /// After what time the empty packet follows, as of the last look.
    delay: Option<Duration>,
}

impl Tail {
    /// Something was written. Returns after what time an empty packet should follow if nothing else has; `None`: none need.
    #[must_use]
    pub fn wrote(&mut self, facts: impl FnOnce() -> PathFacts) -> Option<Duration> {
        if self.writes == 0 {
            self.look(&facts());
        }
        self.writes = (self.writes + 1) % LOOK_INTERVAL;
        self.delay
    }

    fn look(&mut self, facts: &PathFacts) {
        if facts.lost != self.lost {
            self.lost = facts.lost;
            self.sent_at_loss = facts.sent;
        }
        let is_clean = facts.sent.saturating_sub(self.sent_at_loss) >= TAIL_CLEAN_PACKETS;
        let is_needed = !is_clean && facts.rtt_min >= TAIL_RTT_MIN;
        self.delay = is_needed.then(|| facts.rtt / 8 + GRANULARITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(80);

    /// A full round of writes with these counts; what the last one said.
    fn round(tail: &mut Tail, sent: u64, lost: u64) -> Option<Duration> {
        (0..LOOK_INTERVAL).map(|_| tail.wrote(|| PathFacts { sent, lost, rtt_min: RTT, rtt: RTT })).last().flatten()
    }

    #[test]
    fn a_message_is_followed_until_the_path_has_proved_clean_and_again_after_a_loss() {
        let mut tail = Tail::default();
        assert_eq!(round(&mut tail, 3, 0), Some(Duration::from_millis(11)), "nothing is known yet");
        assert!(round(&mut tail, TAIL_CLEAN_PACKETS - 1, 0).is_some());
        assert_eq!(round(&mut tail, TAIL_CLEAN_PACKETS, 0), None);
        assert!(round(&mut tail, 1_000, 1).is_some(), "one was lost");
        assert!(round(&mut tail, 1_000 + TAIL_CLEAN_PACKETS - 1, 1).is_some());
        assert_eq!(round(&mut tail, 1_000 + TAIL_CLEAN_PACKETS, 1), None);
    }

    #[test]
    fn a_short_path_needs_none_also_when_its_receiver_is_slow() {
        let mut tail = Tail::default();
        let near = TAIL_RTT_MIN - Duration::from_nanos(1);
        assert_eq!(tail.wrote(|| PathFacts { sent: 1, lost: 1, rtt_min: near, rtt: RTT }), None);
        assert_eq!(tail.wrote(|| unreachable!("not at every write")), None);
    }
}
