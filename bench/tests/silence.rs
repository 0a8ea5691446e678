//! How soon a QUIC peer that vanished without a word is given up, in virtual time: its user is offline soon after.

use std::time::Duration;

use tern_bench::{QuicCrowd, Site};

const ROUND_TRIP: Duration = Duration::from_millis(80);
const CLIENTS: usize = 3;
const SECOND: Duration = Duration::from_secs(1);

/// Seconds, one at a time, until the server has given everybody up.
fn seconds_until_given_up(mut site: Site) -> u32 {
    let gone = (1..=200).find(|_| {
        site.pass(SECOND);
        site.turns();
        site.counters().sessions == 0
    });
    assert_eq!(site.counters().peers_given_up, CLIENTS as u64, "each is counted");
    gone.expect("given up at all")
}

/// Goal: what is written to a phone that has lost its battery shows soon that it is gone.
/// Method: nobody hears a message, nor anything after it.
#[test]
fn a_peer_that_acknowledges_nothing_is_given_up_after_the_probes_of_its_path() {
    let mut crowd = QuicCrowd::far(CLIENTS, 200, ROUND_TRIP);
    crowd.lose_message();
    let seconds = seconds_until_given_up(crowd.leave());
    assert!((9..=12).contains(&seconds), "given up after {seconds} s");
}

/// Goal: a message that comes long after the silence began does not begin the wait again.
/// Method: 50 s of silence first.
#[test]
fn a_message_in_the_silence_does_not_prolong_it() {
    let mut crowd = QuicCrowd::far(CLIENTS, 200, ROUND_TRIP);
    crowd.pass(50 * SECOND);
    crowd.lose_message();
    let seconds = seconds_until_given_up(crowd.leave());
    assert!(seconds <= 5, "given up {seconds} s after the message, 50 s after the last word");
}

/// Goal: nobody is there for longer over QUIC than over WebSocket.
/// Method: everything is acknowledged, and then nobody says anything.
#[test]
fn a_peer_that_says_nothing_is_given_up_as_over_websocket() {
    let crowd = QuicCrowd::present(CLIENTS, 200);
    let seconds = seconds_until_given_up(crowd.leave());
    // The last word was some seconds ago: the crowd has settled.
    assert!((50..=55).contains(&seconds), "given up after {seconds} s");
}

/// Goal: a path with a long round trip has more patience.
/// Method: two seconds of round trip.
#[test]
fn a_far_peer_is_waited_for_longer() {
    let mut crowd = QuicCrowd::far(CLIENTS, 200, Duration::from_secs(2));
    crowd.lose_message();
    let seconds = seconds_until_given_up(crowd.leave());
    assert!((40..=56).contains(&seconds), "given up after {seconds} s");
}
