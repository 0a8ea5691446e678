//! Every client changes its address in the middle of traffic: over QUIC the connection goes on, over WebSocket it must come back.

use std::time::Duration;

use serde_json::Value;

use super::group;
use super::options::Options;
use super::room::Room;
use super::schedule::{Each, Share};
use super::stage::{Failure, Stage, outcome, soon};
use crate::fleet::Action;
use crate::measure::Pace;
use crate::report::{Outcome, Progress};

/// Clients when none are asked for.
const CONNECTIONS: usize = 300;
/// Messages a second to the group meanwhile.
const RATE: f64 = 20.0;
/// How long there is traffic when nothing is asked for. Unit: time. The changes lie in its middle half.
const DURATION: Duration = Duration::from_secs(8);

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let count = options.connections.or(options.members).unwrap_or(CONNECTIONS).max(2);
    let rate = options.rate.unwrap_or(RATE).max(0.1);
    let length = options.duration.unwrap_or(DURATION);
    let mut stage = Stage::open(options, progress, &[])?;
    let fleet = stage.fleet(count, |_| {})?;
    let room = Room::open(&stage, &fleet, count, count)?;
    let handshakes = fleet.tally().counts.handshakes_done;
    let mut window = stage.prepare(&fleet, Pace::Saturating)?;
    window.begin(&fleet)?;
    group::send(&fleet, &room, count, options, length, rate);
    let start = soon() + length / 4;
    let everybody = 0..u32::try_from(count)?;
    let change_rate = count as f64 / (length / 2).as_secs_f64().max(0.001);
    fleet.run(|worker, workers| {
        Box::new(Each::new(start, change_rate, Share { worker, workers }, everybody.clone(), |_| Action::Rebind))
    });
    stage.run_for(&fleet, "measuring", length)?;
    stage.settle(&fleet);
    let measured = window.read(&fleet)?;
    let tally = fleet.finish();

    let title = format!("{count} clients change their address under {rate:.0} messages/s");
    let mut outcome = outcome(&stage, ("migrate", &title), &tally, &measured);
    "address_changes".clone_into(&mut outcome.headline);
    outcome.config.insert("connections".to_owned(), Value::from(count));
    outcome.config.insert("rate".to_owned(), Value::from(rate));
    outcome.figure(
        "address_changes",
        measured.counts.migrations as f64,
        "",
        "clients that went on from another address",
    );
    let again = tally.counts.handshakes_done.saturating_sub(handshakes) as f64;
    outcome.figure("new_handshakes", again, "", "handshakes that this took: none where the connection migrates");
    outcome.figure(
        "gaps",
        measured.counts.gaps as f64,
        "",
        "gaps in live delivery that a client had to fill from history",
    );
    Ok(vec![outcome])
}
