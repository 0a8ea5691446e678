//! Every scenario of `tern-perf` once, small, against the real server: it has a result, and the result is clean. How fast is not looked at.

use tern_perf::cli;
use tern_perf::report::Outcome;

/// Runs a command line against a server of its own.
fn run(line: &str) -> Vec<Outcome> {
    let server = ["--binary", env!("CARGO_BIN_EXE_tern"), "--no-report", "--no-floor", "--warm-up", "200ms"];
    let words: Vec<&str> = ["tern-perf"].into_iter().chain(line.split(' ')).chain(server).collect();
    let outcomes = cli::outcomes(&words).unwrap_or_else(|why| panic!("{line}: {why}"));
    for outcome in &outcomes {
        assert!(outcome.is_clean(), "{line}: {:?}", outcome.complaints());
    }
    outcomes
}

fn figure(outcome: &Outcome, name: &str) -> f64 {
    outcome.figures.get(name).unwrap_or_else(|| panic!("{}: no figure {name}", outcome.scenario)).value
}

#[test]
fn connect_lets_everybody_in() {
    for transport in ["quic", "ws"] {
        let outcomes = run(&format!("connect --connections 30 --transport {transport}"));
        assert_eq!(outcomes[0].latency["connect"].len(), 30);
    }
}

#[test]
fn idle_says_what_a_connection_takes() {
    let outcomes = run("idle --connections 40 --duration 1s");
    assert!(figure(&outcomes[0], "server_bytes_per_connection") > 0.0);
    assert_eq!(outcomes[0].series[0].lines[0].points.len(), 6);
}

#[test]
fn direct_delivers_what_it_acknowledges() {
    let outcomes = run("direct --connections 10 --rate 100 --duration 2s --transport both");
    assert!(outcomes[0].latency["send_to_ack"].len() > 100);
    assert!(outcomes[0].delivered > 0);
}

#[test]
fn group_counts_each_receipt() {
    let outcomes = run("group --members 20 --rate 20 --duration 2s");
    // Everybody sees each message, its sender too; latency is of the others.
    assert!(outcomes[0].latency["send_to_delivery"].len() >= 19 * outcomes[0].latency["send_to_last"].len() - 19);
    assert_eq!(outcomes[0].delivered, outcomes[0].expected);
}

#[test]
fn group_leaves_the_offline_out() {
    let outcomes = run("group --members 20 --offline 0.5 --rate 20 --duration 1s --transport ws");
    assert_eq!(outcomes[0].config["online"], 10);
}

#[test]
fn groups_live_through_an_hour() {
    let outcomes = run("groups --connections 40 --rate 40 --duration 2s --transport both");
    assert!(figure(&outcomes[0], "messages_total") > 20.0);
}

#[test]
fn reconnect_brings_everybody_back_with_early_data() {
    let outcomes = run("reconnect --connections 20");
    assert_eq!(outcomes[0].latency["resume"].len(), 20);
    assert!((figure(&outcomes[0], "hellos_in_early_data") - 20.0).abs() < 0.5);
}

#[test]
fn migrate_needs_no_handshake() {
    let outcomes = run("migrate --connections 10 --duration 2s");
    assert!((figure(&outcomes[0], "address_changes") - 10.0).abs() < 0.5);
    assert!(figure(&outcomes[0], "new_handshakes") < 0.5);
}

#[test]
fn slow_readers_get_everything_in_the_end() {
    let outcomes = run("slow-readers --members 12 --duration 1s");
    assert_eq!(outcomes[0].delivered, outcomes[0].expected);
}

#[test]
fn lossy_compares_the_transports() {
    let outcomes = run("lossy --connections 6 --rate 30 --duration 2s --loss 0.05 --rtt 20ms --transport both");
    assert_eq!(outcomes.len(), 2);
    assert!(figure(&outcomes[0], "quic_to_ws_p50") > 0.0);
}

#[test]
fn lossy_survives_a_blackout_and_a_new_address() {
    let outcomes = run("lossy --connections 6 --rate 30 --duration 2s --rtt 20ms --blackout 300ms --address-change");
    assert_eq!(outcomes[0].delivered, outcomes[0].expected);
}

#[test]
fn presence_is_seen_by_those_who_watch() {
    let outcomes = run("presence --connections 20 --duration 2s");
    assert!(!outcomes[0].latency["presence"].is_empty());
}

#[test]
fn capacity_plans_from_costs_and_checks_itself() {
    let outcomes = run("capacity --connections 40 --rate 40 --duration 1s --users 1000");
    assert!(figure(&outcomes[0], "nodes") >= 1.0);
    assert!(figure(&outcomes[0], "delivery_us_busy") >= 0.0);
    assert!(figure(&outcomes[0], "check_cpu_measured") > 0.0);
}
