//! That floors are measured at all and are named with their units. No test asserts a time.

use super::*;

#[test]
fn every_part_is_measured_and_ordered() {
    let directory = tempfile::tempdir().unwrap();
    let floor = Floor::quick(directory.path()).unwrap();
    for (name, spread) in floor.spreads() {
        assert!(spread.p50 > 0.0 && spread.batches > 1, "{name}: {spread:?}");
        assert!(spread.p10 <= spread.p50 && spread.p50 <= spread.p90 && spread.p90 <= spread.p99, "{name}: {spread:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the file of zeros is left behind");
}

#[test]
fn figures_name_their_unit_and_sum_their_parts() {
    let spread = |p50| Spread { p10: p50, p50, p90: p50, p99: p50 * 2.0, batches: 1 };
    let floor = Floor {
        aead_seal_cold: spread(600.0),
        aead_seal_hot: spread(200.0),
        aead_open_cold: spread(700.0),
        udp_send: spread(2_000.0),
        udp_recv: spread(800.0),
        tcp_send: spread(7_000.0),
        fdatasync: spread(300_000.0),
        fdatasync_rested: spread(500_000.0),
        fdatasync_direct: true,
        ring_hop_spin: spread(100.0),
        ring_hop_eventfd: spread(5_000.0),
        udp_round_trip: spread(20_000.0),
        udp_round_trip_rested: spread(90_000.0),
    };
    let figures = floor.figures();
    assert!(figures.keys().all(|name| name.ends_with("_ns") || name.ends_with("_us")), "{figures:?}");
    let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(close(figures["quic_recipient_us"], 4.1) && close(figures["wss_recipient_us"], 7.0));
    assert!(close(figures["durable_round_trip_rested_us"], 590.0));
    assert!(close(figures["durable_round_trip_us"], 320.0) && close(figures["fdatasync_p99_us"], 600.0));
}

#[test]
fn a_disk_that_is_not_there_is_an_error() {
    assert!(Floor::quick(Path::new("/nowhere/at/all")).is_err());
}
