//! What this machine can do at best, without a server: the ground that every other figure stands on.

use super::options::Options;
use super::stage::Failure;
use crate::measure::floor::Floor;
use crate::measure::{Pace, PressureMeter, ProcessMeter};
use crate::report::{Outcome, Progress};

/// Runs it.
///
/// # Errors
/// When the machine does not let it be measured.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    progress.phase("measuring the floors of this machine");
    let directory = options.data.clone().unwrap_or_else(std::env::temp_dir);
    let pressure = PressureMeter::start(Pace::Saturating, &[])?;
    let meter = ProcessMeter::new(std::process::id())?;
    let before = meter.cpu_seconds()?;
    let floor = Floor::measure(&directory)?;
    let mut outcome = Outcome::new("floor", "What this machine can do at best", "none");
    outcome.client.cpu_seconds = meter.cpu_seconds()? - before;
    outcome.pressure = pressure.stop()?;
    outcome.floor = floor.figures();
    outcome.figure(
        "quic_recipient_us",
        floor.quic_recipient_us(),
        "us",
        "least CPU for one recipient over QUIC: seal, send, receive and open its ACK",
    );
    outcome.figure(
        "wss_recipient_us",
        floor.wss_recipient_us(),
        "us",
        "least CPU for one recipient over WebSocket: a TCP send",
    );
    outcome.figure(
        "durable_round_trip_us",
        floor.durable_round_trip_us(),
        "us",
        "least time of a durable message: one fdatasync and two loopback trips",
    );
    outcome.figure(
        "durable_round_trip_rested_us",
        floor.durable_round_trip_rested_us(),
        "us",
        "the same for a message that finds the machine asleep",
    );
    "quic_recipient_us".clone_into(&mut outcome.headline);
    Ok(vec![outcome])
}
