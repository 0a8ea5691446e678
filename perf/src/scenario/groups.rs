//! A realistic hour: many groups of very different sizes, direct conversations, reads, typing, and people who lose the network.

use std::time::Duration;

use serde_json::Value;

use super::behaviour::{Behaviour, Town};
use super::options::Options;
use super::stage::{Failure, Stage, outcome};
use crate::measure::Pace;
use crate::report::{Outcome, Progress};

/// Users when none are asked for.
const USERS: usize = 1000;
/// How long it is measured when nothing is asked for. Unit: time.
const DURATION: Duration = Duration::from_secs(15);

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let users = options.connections.unwrap_or(USERS).max(20);
    Ok(vec![one(options, progress, Behaviour::busy(users, options))?])
}

/// One population.
///
/// # Errors
/// When there is no result.
pub fn one(options: &Options, progress: &Progress, behaviour: Behaviour) -> Result<Outcome, Failure> {
    let mut stage = Stage::open(options, progress, &[])?;
    let fleet = stage.fleet(behaviour.users, |_| {})?;
    let before = stage.server_rss()?;
    let town = Town::build(&stage, &fleet, behaviour, options.seed)?;
    let length = options.duration.unwrap_or(DURATION);
    let mut window = stage.prepare(&fleet, Pace::Paced)?;
    town.live(&fleet, options.warm_up + length, options.seed);
    stage.run_for(&fleet, "warming up", options.warm_up)?;
    window.begin(&fleet)?;
    stage.run_for(&fleet, "measuring", length)?;
    let measured = window.read(&fleet)?;
    let after = stage.server_rss()?;
    stage.settle(&fleet);
    let tally = fleet.finish();

    let title = format!("A busy hour of {} users in {} groups", behaviour.users, behaviour.group_sizes().len());
    let mut outcome = outcome(&stage, ("groups", &title), &tally, &measured);
    "server_cores".clone_into(&mut outcome.headline);
    outcome.config.insert("behaviour".to_owned(), serde_json::to_value(behaviour)?);
    outcome.config.insert("connections".to_owned(), Value::from(behaviour.users));
    if let Some(cores) = measured.server_cores() {
        outcome.figure("server_cores", cores, "cores", "cores of CPU that the server used");
        outcome.figure(
            "server_cpu_us_per_user_second",
            cores / behaviour.users as f64 * 1e6,
            "us",
            "server CPU for one user and one second",
        );
    }
    if let (Some(before), Some(after)) = (before, after) {
        let each = after.saturating_sub(before) as f64 / behaviour.users as f64;
        outcome.figure("server_bytes_per_user", each, "B", "server memory that each user took, conversations included");
    }
    let messages = tally.counts.acked as f64;
    outcome.figure("messages_total", messages, "", "messages acknowledged, warm-up included");
    let seconds = measured.seconds;
    outcome.figure("messages_per_second", measured.counts.acked as f64 / seconds, "1/s", "messages acknowledged");
    outcome.figure(
        "deliveries_per_second",
        measured.counts.delivered as f64 / seconds,
        "1/s",
        "events that came to a screen",
    );
    Ok(outcome)
}
