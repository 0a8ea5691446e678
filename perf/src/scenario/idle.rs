//! Connections that do nothing but stay: what memory and what CPU each takes, keep-alives included.

use std::time::Duration;

use serde_json::Value;

use super::options::Options;
use super::stage::{Failure, Stage, outcome};
use crate::measure::Pace;
use crate::report::{Line, Outcome, Plot, Progress};

/// Connections when none are asked for.
const CONNECTIONS: usize = 2000;
/// How long they idle when nothing is asked for: longer than a round of keep-alives. Unit: time.
const DURATION: Duration = Duration::from_secs(30);
/// Points of the memory plot. Unit: points.
const STEPS: usize = 5;
/// After the last connection, for the handshakes' own memory to be given back. Unit: time.
const REST: Duration = Duration::from_secs(3);

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    Ok(vec![one(options, progress, options.connections.unwrap_or(CONNECTIONS))?])
}

/// This many idle connections.
///
/// # Errors
/// When there is no result.
pub fn one(options: &Options, progress: &Progress, count: usize) -> Result<Outcome, Failure> {
    let mut stage = Stage::open(options, progress, &[])?;
    let fleet = stage.fleet(count, |_| {})?;
    let before = stage.server_rss()?;
    let kernel_before = crate::measure::kernel_tcp_bytes();
    let mut points = vec![(0.0, before.unwrap_or(0) as f64 / 1e6)];
    let mut connected = 0;
    for step in 1..=STEPS {
        let upto = count * step / STEPS;
        stage.connect(&fleet, u32::try_from(connected)?..u32::try_from(upto)?)?;
        connected = upto;
        if let Some(rss) = stage.server_rss()? {
            points.push((connected as f64, rss as f64 / 1e6));
        }
    }
    stage.run_for(&fleet, "coming to rest", REST)?;
    let after = stage.server_rss()?;
    let kernel_after = crate::measure::kernel_tcp_bytes();
    let mut window = stage.prepare(&fleet, Pace::Paced)?;
    window.begin(&fleet)?;
    let length = options.duration.unwrap_or(DURATION);
    stage.run_for(&fleet, "measuring", length)?;
    let measured = window.read(&fleet)?;
    let tally = fleet.finish();

    let title = format!("{count} idle connections: server memory and CPU of each");
    let mut outcome = outcome(&stage, ("idle", &title), &tally, &measured);
    "server_bytes_per_connection".clone_into(&mut outcome.headline);
    outcome.config.insert("connections".to_owned(), Value::from(count));
    if let (Some(before), Some(after)) = (before, after) {
        let each = after.saturating_sub(before) as f64 / count.max(1) as f64;
        outcome.figure("server_bytes_per_connection", each, "B", "server memory (RSS) per idle connection");
        if let Some(server) = &mut outcome.server {
            server.rss_bytes_per_connection = Some(each);
        }
    }
    if let (Some(before), Some(after)) = (kernel_before, kernel_after) {
        // Both ends are on this machine: half of it is the server's.
        let each = after.saturating_sub(before) as f64 / 2.0 / count.max(1) as f64;
        outcome.figure(
            "kernel_bytes_per_connection",
            each,
            "B",
            "kernel memory of TCP sockets per connection, one side (0 over QUIC)",
        );
    }
    if let Some(cores) = measured.server_cores() {
        let million = cores / count.max(1) as f64 * 1e6;
        outcome.figure(
            "cores_per_million",
            million,
            "cores",
            "server CPU that a million such connections would take, keep-alives and pings included",
        );
        let packets = (measured.counts.datagrams_in + measured.counts.datagrams_out).max(1);
        outcome.figure(
            "server_cpu_us_per_packet",
            cores * measured.seconds * 1e6 / packets as f64,
            "us",
            "server CPU by packets, received or sent",
        );
    }
    outcome.series.push(Plot {
        title: "Server memory by connections".to_owned(),
        x_label: "connections".to_owned(),
        y_label: "server RSS, MB".to_owned(),
        log_x: false,
        log_y: false,
        lines: vec![Line { name: options.transport.name().to_owned(), points }],
    });
    Ok(outcome)
}
