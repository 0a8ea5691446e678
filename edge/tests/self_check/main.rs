//! Whether the load generator sees what it is there to see: a server that pauses, loses, repeats, swaps or changes a message is made of the
//! real one and a meddler before it, and a bad network of the real one and the chaos proxy. Asserts on what must follow from what was
//! done, never on how fast the machine is.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod meddler;
mod rules;
mod stage;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use tern_perf::chaos::{Chaos, ChaosPlan, Event, Impairment, Reorder};
use tern_perf::fleet::{Carrier, Counts, FleetPlan, Proxy};

use crate::meddler::Meddler;
use crate::rules::{History, Pause, Rule};
use crate::stage::{Load, Stage};

/// Peers in the group of a check. Unit: peers.
const PEERS: u32 = 4;
/// Between two messages. Unit: time.
const INTERVAL: Duration = Duration::from_millis(4);
/// The frame at which a rule acts: by then everything goes its usual way.
const NUMBER: u64 = 40;

/// A load through a meddler, and from when to when it paused, if it did.
fn meddled(carrier: Carrier, rule: Rule) -> (Load, Option<Pause>) {
    let lost = u64::from(matches!(rule, Rule::Drop { history: History::Forged, .. }));
    let stage = Stage::new(PEERS);
    let listen = stage.server.plan().listen;
    let meddler = Meddler::start(listen, stage.directory.path(), rule);
    let plan = FleetPlan::new(listen, Arc::clone(&stage.accounts));
    let crew = stage.crew(FleetPlan { proxy: Some(meddler.proxy()), carrier, ..plan });
    let load = crew.load(INTERVAL, lost, || meddler.rules().is_done());
    let pause = meddler.rules().pause();
    (load, pause)
}

/// Runs a check over each carrier.
macro_rules! each_carrier {
    ($($check:ident;)+) => {
        mod over_quic { $(#[test] fn $check() { super::$check(tern_perf::fleet::Carrier::Quic); })+ }
        mod over_websocket { $(#[test] fn $check() { super::$check(tern_perf::fleet::Carrier::WebSocket); })+ }
    };
}

each_carrier! {
    an_honest_server_is_found_honest_through_the_same_meddler;
    a_pause_is_seen_by_every_message_that_was_meant_to_leave_in_it;
    a_dropped_event_is_a_gap_that_history_repairs;
    an_event_that_history_does_not_have_either_is_lost;
    a_repeated_event_is_a_duplicate;
    two_swapped_events_are_out_of_order;
    a_changed_body_is_corrupt;
}

/// What is wrong by the counts, in the order lost, duplicated, reordered, corrupt.
const fn wrongs(counts: &Counts) -> [u64; 4] {
    [counts.lost, counts.duplicated, counts.reordered, counts.corrupt]
}

/// Everybody got everything: each message once for each peer, however it came.
fn all_arrived(load: &Load) {
    let counts = &load.tally.counts;
    assert_eq!(counts.acked, load.intended.len() as u64, "{counts:?}");
    assert_eq!(counts.delivered + counts.repaired, counts.expected, "{counts:?}");
    assert!(counts.expected >= counts.acked * u64::from(PEERS), "{counts:?}");
}

fn an_honest_server_is_found_honest_through_the_same_meddler(carrier: Carrier) {
    let (load, _) = meddled(carrier, Rule::Nothing);
    let counts = &load.tally.counts;
    assert_eq!(wrongs(counts), [0; 4], "{counts:?}");
    assert_eq!((counts.gaps, counts.resets, counts.lost_connections, counts.malformed), (0, 0, 0, 0), "{counts:?}");
    all_arrived(&load);
}

/// Goal: no coordinated omission. Whatever was meant to leave during the pause was answered after its end, so it waited at least from its
/// intended time to that end; a generator that waits for answers before it sends would show one such message for each peer.
fn a_pause_is_seen_by_every_message_that_was_meant_to_leave_in_it(carrier: Carrier) {
    let length = Duration::from_millis(100);
    let (load, pause) = meddled(carrier, Rule::Pause { ack: NUMBER, length });
    let pause = pause.expect("it has been made");
    let latency = &load.tally.latency["send_to_ack"];
    assert_eq!(latency.len(), load.intended.len() as u64, "every message counts");
    // What each of them must have waited at least, longest first.
    let meant = load.intended.iter().filter(|at| (pause.began..pause.ended).contains(*at));
    let waits: Vec<Duration> = meant.map(|at| pause.ended - *at).collect();
    assert!(waits.is_sorted_by(|a, b| a >= b));
    assert!(
        waits.len() as u128 >= length.as_nanos() / INTERVAL.as_nanos() - 1,
        "the schedule went on: {}",
        waits.len()
    );
    for (at, wait) in waits.iter().enumerate() {
        let as_long = latency.count_between(nanoseconds(*wait), u64::MAX);
        assert!(as_long > at as u64, "{as_long} messages waited {wait:?}, and {} must have", at + 1);
    }
    // So the percentiles show it: as many of the slowest as are beyond p99.9 are among those that must have waited.
    let beyond = latency.len() - (latency.len() * 999).div_ceil(1_000);
    let wait = waits.get(usize::try_from(beyond).unwrap()).expect("the pause has more messages than are beyond p99.9");
    assert!(latency.value_at_quantile(0.999) >= nanoseconds(*wait), "p99.9 hides a wait of {wait:?}");
    assert!(latency.max() >= nanoseconds(waits[0]));
    assert_eq!(wrongs(&load.tally.counts), [0; 4], "late is not wrong: {:?}", load.tally.counts);
    all_arrived(&load);
}

/// What a histogram of three digits may have rounded this down to.
fn nanoseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos()).unwrap() / 1_000 * 999
}

fn a_dropped_event_is_a_gap_that_history_repairs(carrier: Carrier) {
    let (load, _) = meddled(carrier, Rule::Drop { event: NUMBER, history: History::Honest });
    let counts = &load.tally.counts;
    assert_eq!(wrongs(counts), [0; 4], "{counts:?}");
    assert!(counts.gaps >= 1 && counts.repaired >= 1, "{counts:?}");
    all_arrived(&load);
}

fn an_event_that_history_does_not_have_either_is_lost(carrier: Carrier) {
    let (load, _) = meddled(carrier, Rule::Drop { event: NUMBER, history: History::Forged });
    let counts = &load.tally.counts;
    assert_eq!(wrongs(counts), [1, 0, 0, 0], "{counts:?}");
    assert_eq!(counts.delivered + counts.repaired + 1, counts.expected, "{counts:?}");
}

fn a_repeated_event_is_a_duplicate(carrier: Carrier) {
    let (load, _) = meddled(carrier, Rule::Repeat { event: NUMBER });
    let counts = &load.tally.counts;
    assert_eq!(wrongs(counts), [0, 1, 0, 0], "{counts:?}");
    all_arrived(&load);
}

fn two_swapped_events_are_out_of_order(carrier: Carrier) {
    let (load, _) = meddled(carrier, Rule::Swap { event: NUMBER });
    let counts = &load.tally.counts;
    assert_eq!(wrongs(counts), [0, 0, 1, 0], "{counts:?}");
    all_arrived(&load);
}

fn a_changed_body_is_corrupt(carrier: Carrier) {
    let (load, _) = meddled(carrier, Rule::Corrupt { event: NUMBER });
    let counts = &load.tally.counts;
    assert_eq!(wrongs(counts), [0, 0, 0, 1], "{counts:?}");
}

/// Goal: the chaos proxy and the real server go together: a network that loses 2 % with a round trip of 60 ms costs time and nothing else.
#[test]
fn a_lossy_network_costs_time_and_no_message() {
    let stage = Stage::new(20);
    let listen = stage.server.plan().listen;
    let chaos = Chaos::start(ChaosPlan::lossy(20_260_101, listen, 0.02, Duration::from_millis(30))).unwrap();
    let plan = FleetPlan::new(listen, Arc::clone(&stage.accounts));
    let proxy = Some(Proxy { quic: chaos.quic(), tcp: chaos.tcp() });
    let crew = stage.crew(FleetPlan { proxy, carrier: Carrier::Both, sockets: 20, ..plan });
    // On for as long as it takes that each carrier has met losses both ways.
    let met = || {
        let counters = chaos.counters();
        let all = [counters.udp_up, counters.udp_down, counters.tcp_up, counters.tcp_down];
        all.iter().all(|traffic| traffic.lost >= 20)
    };
    let load = crew.load(Duration::from_millis(10), 0, met);
    let counts = &load.tally.counts;
    assert_eq!(wrongs(counts), [0; 4], "{counts:?}");
    assert_eq!(counts.delivered + counts.repaired, counts.expected, "{counts:?}");
    let counters = chaos.stop().unwrap();
    assert_eq!((counters.refused, counters.severed), (0, 0), "the proxy itself was no bottleneck: {counters:?}");
    assert!(counters.recovery.fast_retransmits > 0, "{counters:?}");
}

/// Goal: the same of everything else that a network does. QUIC moves to the new address; WebSocket is cut, and its peers come back.
#[test]
fn a_network_that_reorders_repeats_goes_dark_and_moves_costs_no_message() {
    let stage = Stage::new(8);
    let listen = stage.server.plan().listen;
    let delay = Duration::from_millis(10);
    let reorder = Reorder { probability: 0.02, extra: delay / 2 };
    let way = Impairment { duplicate: 0.02, reorder, jitter: delay / 2, ..Impairment::lossy(0.01, delay) };
    let calm = ChaosPlan::lossy(20_260_102, listen, 0.0, delay);
    let chaos = Chaos::start(ChaosPlan { up: way, down: way, ..calm }).unwrap();
    let plan = FleetPlan::new(listen, Arc::clone(&stage.accounts));
    let proxy = Some(Proxy { quic: chaos.quic(), tcp: chaos.tcp() });
    // A socket for each peer: a NAT has one binding for each.
    let crew = stage.crew(FleetPlan { proxy, carrier: Carrier::Both, sockets: 8, ..plan });
    chaos.apply(Event::AddressChange).unwrap();
    chaos.apply(Event::Blackout(Duration::from_millis(500))).unwrap();
    // On for as long as it takes that each carrier has met all of it.
    let met = || {
        let counters = chaos.counters();
        let all = [counters.udp_up, counters.udp_down, counters.tcp_up, counters.tcp_down];
        let each = all.iter().all(|traffic| traffic.lost > 0 && traffic.duplicated > 0 && traffic.reordered > 0);
        each && counters.udp_up.blacked_out > 0 && counters.tcp_up.blacked_out > 0 && counters.tcp_flows > 4
    };
    let load = crew.load(Duration::from_millis(10), 0, met);
    let counts = &load.tally.counts;
    assert_eq!(wrongs(counts), [0; 4], "{counts:?}");
    assert_eq!(counts.delivered + counts.repaired, counts.expected, "{counts:?}");
    let counters = chaos.stop().unwrap();
    assert_eq!((counters.address_changes, counters.severed), (4, 4), "{counters:?}");
    assert!(counts.redials >= 4, "{counts:?}");
    assert!(
        counts.handshakes_done <= 4 + counters.tcp_flows,
        "only WebSocket has to come back: {counts:?} {counters:?}"
    );
}
