//! What a message to a crowd does to everybody else on the shard: turns are bounded, and who waits for an answer is not behind thousands.

use tern_bench::QuicCrowd;

/// More than two turns send to. Unit: clients.
const CLIENTS: usize = 400;
/// What one turn may send of a message to a crowd. Unit: packets. Source: `VISITS_PER_TURN` of the shards' agenda.
const PACKETS_MAX: u64 = 128;

/// Goal: no turn is longer for a larger group, and nobody is left out.
/// Method: one turn at a time, counting packets.
#[test]
fn a_message_to_a_crowd_is_sent_in_bounded_turns() {
    let mut crowd = QuicCrowd::present(CLIENTS, 200);
    crowd.post();
    let mut sent = Vec::new();
    while sent.iter().sum::<u64>() < CLIENTS as u64 {
        sent.push(crowd.turn());
        assert!(sent.len() <= CLIENTS, "it goes on: {sent:?}");
    }
    assert!(sent.iter().all(|count| *count <= PACKETS_MAX), "bounded: {sent:?}");
    assert_eq!(crowd.turns(), 0, "once each");
}

/// Goal: a direct message that comes while a crowd is being sent to goes out in its own turn.
/// Method: the client that the crowd's message would reach last gets one after the first turn.
#[test]
fn a_direct_message_overtakes_a_crowd() {
    let mut crowd = QuicCrowd::present(CLIENTS, 200);
    let last = CLIENTS - 1;
    let direct = crowd.open_direct(last);
    crowd.post();
    assert_eq!(crowd.turn(), PACKETS_MAX);
    assert_eq!(crowd.hear(last), 0, "its turn has not come");
    crowd.post_to(direct);
    assert_eq!(crowd.turn(), PACKETS_MAX + 1);
    assert_eq!(crowd.hear(last), 2, "both");
    assert_eq!(crowd.turns(), CLIENTS as u64 - 2 * PACKETS_MAX - 1, "everybody else still gets theirs, once");
}
