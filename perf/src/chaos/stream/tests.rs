//! The TCP model in virtual time: what a loss costs, whom it holds back, and that the same seed is the same run.

use super::super::plan::{Event, Impairment, Reorder};
use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);
/// One way. A round trip is twice that.
const DELAY: Duration = Duration::from_millis(30);

fn ms(count: u32) -> Duration {
    MILLISECOND * count
}

/// What a run gave.
struct Run {
    /// When each message was whole at the other end.
    delivered: Vec<Duration>,
    counters: Counters,
    digest: u64,
    ended: bool,
    failed: bool,
}

/// Sends messages (time, size) upwards, lets events happen at their times, and takes what arrives at once.
fn run(seed: u64, line: Impairment, messages: &[(Duration, u64)], events: &[(Duration, Event)]) -> Run {
    let mut weather = Weather::new(line, line);
    let mut counters = Counters::default();
    let mut stream = Stream::open(seed, 0, Duration::ZERO, &weather, &mut counters);
    let mut ends = Vec::new();
    let mut end = 0;
    for (_, size) in messages {
        end += size;
        ends.push(end);
    }
    let (mut messages, mut events) = (messages.iter().peekable(), events.iter().peekable());
    let (mut delivered, mut taken, mut is_finished) = (Vec::new(), 0, false);
    // More steps than any of these needs: an endless run fails instead of hanging.
    for _ in 0..200_000 {
        let message_at = messages.peek().map(|(at, _)| *at);
        let event_at = events.peek().map(|(at, _)| *at);
        let Some(now) = [message_at, event_at, stream.next_at()].into_iter().flatten().min() else { break };
        if let Some((at, event)) = events.next_if(|(at, _)| *at <= now) {
            weather.happen(*at, *event);
        }
        stream.advance(now, &weather, &mut counters);
        if stream.has_failed() {
            break;
        }
        if let Some((_, size)) = messages.next_if(|(at, _)| *at <= now) {
            stream.write(Direction::Up, *size);
        } else if messages.peek().is_none() && !is_finished {
            is_finished = true;
            stream.finish(Direction::Up);
        }
        stream.advance(now, &weather, &mut counters);
        let ready = stream.ready(Direction::Up);
        stream.take(Direction::Up, ready);
        taken += ready;
        while ends.get(delivered.len()).is_some_and(|end| *end <= taken) {
            delivered.push(now);
        }
    }
    let (ended, failed) = (stream.has_ended(Direction::Up), stream.has_failed());
    Run { delivered, counters, digest: stream.digest(), ended, failed }
}

/// One message of 200 bytes every `interval`, from the 100th millisecond on: the handshake is over by then.
fn chat(count: u32, interval: Duration) -> Vec<(Duration, u64)> {
    (0..count).map(|message| (ms(100) + interval * message, 200)).collect()
}

/// Takes exactly the message that is sent at this time.
fn take_out(at: Duration) -> [(Duration, Event); 1] {
    [(at - MILLISECOND, Event::Blackout(2 * MILLISECOND))]
}

fn clean() -> Impairment {
    Impairment::lossy(0.0, DELAY)
}

#[test]
fn without_losses_each_message_takes_one_way_and_the_first_a_round_trip_more() {
    let run = run(1, clean(), &[(ms(0), 200), (ms(200), 200), (ms(201), 3_000)], &[]);
    assert_eq!(run.delivered, [ms(90), ms(230), ms(231)]);
    assert!(run.ended);
    assert_eq!(run.counters.recovery, crate::chaos::Recovery::default());
}

#[test]
fn a_loss_holds_back_everything_behind_it() {
    let messages = chat(30, ms(10));
    let run = run(1, clean(), &messages, &take_out(ms(150)));
    let took: Vec<_> = run.delivered.iter().zip(&messages).map(|(at, (sent, _))| *at - *sent).collect();
    // The sixth message is lost. The acknowledgement of the seventh comes 70 ms after it was sent; a quarter of a round trip of patience
    // makes that 75; the repair takes 30 more.
    let repaired = ms(75) + DELAY;
    let expected = (0_u32..30).map(|message| match message {
        0..5 => DELAY,
        5.. => (repaired.saturating_sub(ms(10) * (message - 5))).max(DELAY),
    });
    assert_eq!(took, expected.collect::<Vec<_>>());
    assert_eq!((run.counters.recovery.fast_retransmits, run.counters.recovery.timeouts), (1, 0));
}

#[test]
fn three_segments_behind_a_loss_prove_it_without_patience() {
    let messages = [(ms(100), 200), (ms(200), 200), (ms(202), 200), (ms(203), 200), (ms(204), 200)];
    let run = run(1, clean(), &messages, &take_out(ms(200)));
    // The third acknowledgement behind the hole: 204 + 60; the repair: 30.
    assert_eq!(run.delivered, [ms(130), ms(294), ms(294), ms(294), ms(294)]);
    assert_eq!(run.counters.recovery.fast_retransmits, 1);
}

#[test]
fn a_loss_with_nothing_behind_it_waits_for_the_timer_and_the_timer_doubles() {
    let messages = chat(60, ms(100));
    let last = messages.last().map(|(at, _)| *at).expect("there are some");
    let one = run(1, clean(), &messages, &take_out(last));
    assert_eq!(one.delivered.last(), Some(&(last + ms(200) + DELAY)));
    assert_eq!(one.counters.recovery.timeouts, 1);
    // Dark for a second: sent again after 200, 600 and 1,400 ms.
    let three = run(1, clean(), &messages, &[(last - MILLISECOND, Event::Blackout(ms(1_000)))]);
    assert_eq!(three.delivered.last(), Some(&(last + ms(1_400) + DELAY)));
    assert_eq!(three.counters.recovery.timeouts, 3);
}

#[test]
fn a_lost_tail_of_several_segments_is_probed_after_two_round_trips() {
    let mut messages = chat(60, ms(100));
    messages.extend([(ms(6_200), 200), (ms(6_201), 200)]);
    let run = run(1, clean(), &messages, &[(ms(6_199), Event::Blackout(ms(50)))]);
    // The probe is the last segment again: its acknowledgement proves the loss of the one before.
    let probe = ms(6_201) + 4 * DELAY + ms(2);
    assert_eq!(run.counters.recovery.probes, 1);
    assert_eq!(run.counters.recovery.timeouts, 0);
    assert_eq!(run.delivered.last(), Some(&(probe + 3 * DELAY)));
}

#[test]
fn everything_arrives_in_order_whatever_the_network_does() {
    let reorder = Reorder { probability: 0.05, extra: ms(5) };
    let bad = Impairment { loss: 0.1, duplicate: 0.05, reorder, jitter: ms(10), ..clean() };
    let mut met = Traffic::default();
    for seed in 0..20 {
        let messages = chat(300, ms(7));
        let run = run(seed, bad, &messages, &[(ms(500), Event::Blackout(ms(700)))]);
        assert_eq!(run.delivered.len(), messages.len(), "seed {seed}");
        assert!(run.delivered.is_sorted() && run.ended && !run.failed, "seed {seed}");
        let up = run.counters.tcp_up;
        assert_eq!(up.offered, up.arrived + up.lost + up.blacked_out + up.queue_dropped, "seed {seed}");
        met.lost += up.lost;
        met.duplicated += up.duplicated;
        met.reordered += up.reordered;
        met.blacked_out += up.blacked_out;
    }
    assert!(met.lost > 0 && met.duplicated > 0 && met.reordered > 0 && met.blacked_out > 0, "{met:?}");
}

#[test]
fn a_bulk_transfer_obeys_the_bottleneck_and_its_own_window() {
    // 1 MB over 1 MB/s with a queue of two round trips: not faster than the line, not much slower.
    let line = Impairment { bandwidth: Some(1_000_000), queue_max: 120_000, ..clean() };
    let transfer = run(1, line, &[(ms(0), 1_000_000)], &[]);
    let took = transfer.delivered.last().copied().expect("it arrives");
    assert!(took > ms(1_000) && took < ms(2_500), "{took:?} {:?}", transfer.counters);
    // Without a bottleneck slow start doubles 10 packets each round trip: 691 packets need seven, and one is the handshake's.
    let free = run(1, clean(), &[(ms(0), 1_000_000)], &[]);
    assert_eq!(free.delivered, [ms(60 + 6 * 60 + 30)]);
    // At 2 % loss the window is what CUBIC leaves of it.
    let lossy = run(1, Impairment::lossy(0.02, DELAY), &[(ms(0), 1_000_000)], &[]);
    let took = lossy.delivered.last().copied().expect("it arrives");
    assert!(took > ms(1_000) && took < ms(10_000), "{took:?} {:?}", lossy.counters);
}

/// Goal: the model is neither a slow nor a fast TCP. RFC 9438 section 4.3: the average window at a loss rate p is sqrt(3 / (2 p)) packets.
#[test]
fn a_long_transfer_under_loss_is_as_fast_as_the_formula_says() {
    for (seed, loss) in [(1, 0.01), (2, 0.02), (3, 0.04)] {
        let line = Impairment::lossy(loss, DELAY);
        let mut weather = Weather::new(line, line);
        // Acknowledgements arrive: the formula knows no other loss.
        weather.happen(Duration::ZERO, Event::Change { up: line, down: clean() });
        let mut counters = Counters::default();
        let mut stream = Stream::open(seed, 0, Duration::ZERO, &weather, &mut counters);
        // The first ten million bytes are those of slow start, which the formula does not know.
        let (mut now, mut taken, mut settled_at) = (Duration::ZERO, 0, None);
        while taken < 30_000_000 {
            stream.write(Direction::Up, stream.room(Direction::Up));
            stream.advance(now, &weather, &mut counters);
            let ready = stream.ready(Direction::Up);
            stream.take(Direction::Up, ready);
            taken += ready;
            if taken > 10_000_000 {
                settled_at.get_or_insert(now);
            }
            now = stream.next_at().expect("it goes on");
        }
        let took = now - settled_at.expect("it got there");
        let window = 20_000_000.0 / 1_448.0 / (took.as_secs_f64() / (2 * DELAY).as_secs_f64());
        let formula = (1.5 / loss).sqrt();
        assert!((0.8..1.2).contains(&(window / formula)), "{loss}: {window:.1} packets, {formula:.1} by the formula");
    }
}

#[test]
fn a_closed_window_stops_the_sender_and_taking_opens_it() {
    let weather = Weather::new(clean(), clean());
    let mut counters = Counters::default();
    let mut stream = Stream::open(1, 0, Duration::ZERO, &weather, &mut counters);
    let drain = |stream: &mut Stream, counters: &mut Counters| {
        while let Some(at) = stream.next_at() {
            stream.advance(at, &weather, counters);
        }
    };
    stream.write(Direction::Down, 2 * WINDOW_SIZE);
    assert_eq!(stream.room(Direction::Down), 0);
    drain(&mut stream, &mut counters);
    assert_eq!(stream.ready(Direction::Down), WINDOW_SIZE);
    stream.take(Direction::Down, WINDOW_SIZE);
    stream.advance(ms(60_000), &weather, &mut counters);
    drain(&mut stream, &mut counters);
    assert_eq!(stream.ready(Direction::Down), WINDOW_SIZE);
    assert_eq!(stream.room(Direction::Down), SEND_BUFFER_SIZE);
}

#[test]
fn a_network_that_carries_nothing_fails_the_handshake() {
    let run = run(1, Impairment { loss: 1.0, ..clean() }, &chat(3, ms(1)), &[]);
    assert!(run.failed && run.delivered.is_empty());
    assert_eq!(run.counters.recovery.syn_retransmits, u64::from(SYNS_MAX));
}

#[test]
fn equal_seeds_replay_and_different_ones_do_not() {
    let bad = Impairment { loss: 0.05, duplicate: 0.01, jitter: ms(3), ..clean() };
    let messages = chat(200, ms(7));
    let [first, again, other] = [3, 3, 4].map(|seed| run(seed, bad, &messages, &[]));
    assert_eq!((first.digest, &first.delivered), (again.digest, &again.delivered));
    assert_eq!(first.counters, again.counters);
    assert_ne!((first.digest, &first.delivered), (other.digest, &other.delivered));
}
