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
    for (name, value) in floor.figures() {
        let unit = name.rsplit('_').next().unwrap_or_default().to_owned();
        outcome.figure(&name, value, &unit, "floor");
    }
    Ok(vec![outcome])
}
