//! How soon a message that the network has lost is sent again, in virtual time: a lone one on a path with a long round trip.

use std::time::Duration;

use tern_bench::QuicCrowd;

const ROUND_TRIP: Duration = Duration::from_millis(80);
const CLIENTS: usize = 3;

/// Goal: a lone message that was lost is on the screen two and a half one-way trips after it was missed, not a probe timeout later.
/// Method: the packets of one message are dropped, then each side is driven only at the moments at which packets arrive.
#[test]
fn a_lone_message_that_was_lost_is_missed_after_nine_eighths_of_a_round_trip() {
    let mut crowd = QuicCrowd::far(CLIENTS, 200, ROUND_TRIP);
    crowd.lose_message();
    let follows = ROUND_TRIP / 8 + Duration::from_millis(1);
    crowd.pass(follows);
    assert_eq!(crowd.pass_to_clients(ROUND_TRIP / 2), 0, "an empty packet, which shows the gap");
    crowd.pass(ROUND_TRIP / 2);
    assert_eq!(crowd.pass_to_clients(ROUND_TRIP / 2), CLIENTS as u64, "the message again");
}
