//! Members of a group that stop reading: what the server keeps for them, and what the others feel of it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::Value;

use super::group;
use super::options::Options;
use super::room::Room;
use super::schedule::{Each, Share};
use super::stage::{Failure, Stage, outcome, soon};
use crate::fleet::Action;
use crate::measure::Pace;
use crate::report::{Outcome, Progress};

/// Members when none are asked for; half of them stop.
const MEMBERS: usize = 400;
/// Messages a second to the group.
const RATE: f64 = 30.0;
/// How long each half of the run is when nothing is asked for. Unit: time.
const DURATION: Duration = Duration::from_secs(8);

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let count = options.members.or(options.connections).unwrap_or(MEMBERS).max(4);
    let rate = options.rate.unwrap_or(RATE).max(0.1);
    let length = options.duration.unwrap_or(DURATION);
    let mut stage = Stage::open(options, progress, &[])?;
    let fleet = stage.fleet(count, |_| {})?;
    let room = Room::open(&stage, &fleet, count, count)?;

    let mut window = stage.prepare(&fleet, Pace::Saturating)?;
    group::send(&fleet, &room, count / 2, options, options.warm_up + length, rate);
    stage.run_for(&fleet, "warming up", options.warm_up)?;
    fleet.mark();
    stage.run_for(&fleet, "everybody reading", length)?;
    stage.settle(&fleet);
    let before = p99_ms(fleet.tally().latency.get("send_to_delivery"));
    let rss_before = stage.server_rss()?;

    // The second half of the members stops; the first half talks and reads.
    let slow = u32::try_from(count / 2)?..u32::try_from(count)?;
    let start = soon();
    fleet.run(|worker, workers| {
        Box::new(Each::new(start, 0.0, Share { worker, workers }, slow.clone(), |_| Action::Stall))
    });
    group::send(&fleet, &room, count / 2, options, length, rate);
    window.begin(&fleet)?;
    stage.run_for(&fleet, "measuring", length)?;
    let during = p99_ms(fleet.tally().latency.get("send_to_delivery"));
    let rss_during = stage.server_rss()?;
    let measured = window.read(&fleet)?;

    let again = soon();
    fleet.run(|worker, workers| {
        Box::new(Each::new(again, 0.0, Share { worker, workers }, slow.clone(), |_| Action::Resume))
    });
    stage.settle(&fleet);
    let tally = fleet.finish();

    let title = format!("{} of {count} members stop reading and come back", count - count / 2);
    let mut outcome = outcome(&stage, ("slow-readers", &title), &tally, &measured);
    "p99_ratio".clone_into(&mut outcome.headline);
    outcome.config.insert("members".to_owned(), Value::from(count));
    outcome.config.insert("rate".to_owned(), Value::from(rate));
    outcome.figure("p99_ms_before", before, "ms", "send to delivery, 99th percentile, everybody reading");
    outcome.figure("p99_ms_during", during, "ms", "the same for those who read, while the others do not");
    outcome.figure("p99_ratio", during / before.max(1e-6), "x", "during by before: 1 is no effect");
    if let (Some(before), Some(during)) = (rss_before, rss_during) {
        let each = during.saturating_sub(before) as f64 / (count - count / 2) as f64;
        outcome.figure("server_bytes_per_slow_reader", each, "B", "server memory that each of them took");
    }
    Ok(vec![outcome])
}

fn p99_ms(histogram: Option<&Histogram<u64>>) -> f64 {
    histogram.map_or(0.0, |all| all.value_at_quantile(0.99) as f64 / 1e6)
}
