//! Friends who come and go: how long until those who watch them see it.

use std::time::Duration;

use serde_json::Value;

use super::options::Options;
use super::room::{open_directs, run_script};
use super::schedule::Steady;
use super::stage::{Failure, Stage, outcome, soon};
use crate::fleet::{Action, Arrival, PeerId, Request};
use crate::measure::Pace;
use crate::report::{Outcome, Progress};

/// Clients when none are asked for; every second one watches its neighbour.
const CONNECTIONS: usize = 400;
/// Changes a second when no rate is given.
const RATE: f64 = 20.0;
/// How long it is measured when nothing is asked for. Unit: time.
const DURATION: Duration = Duration::from_secs(10);
/// How long a user stays away, at least; changes go round all users. Unit: time. Longer than the server's grace for lost connections.
const AWAY: Duration = Duration::from_secs(4);

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let rate = options.rate.unwrap_or(RATE).max(0.1);
    let length = options.duration.unwrap_or(DURATION);
    // Each one who goes comes back after AWAY, and only then goes again.
    let pairs = u32::try_from((options.connections.unwrap_or(CONNECTIONS) / 2).max(2))?;
    let rate = rate.min(f64::from(pairs) / (2.0 * AWAY.as_secs_f64()));
    let mut stage = Stage::open(options, progress, &[])?;
    let fleet = stage.fleet(pairs as usize * 2, |_| {})?;
    stage.connect(&fleet, 0..pairs * 2)?;
    // Those with even numbers come and go; their odd neighbours watch.
    let both: Vec<(u32, u32)> = (0..pairs).map(|pair| (pair * 2 + 1, pair * 2)).collect();
    open_directs(&stage, &fleet, &both)?;
    let watch = |pair: u32| {
        let user = stage.users(&[pair * 2]).unwrap_or_default();
        let request = Request::WatchPresence(user.iter().map(|user| user.raw()).collect());
        Arrival { at: soon(), peer: PeerId(pair * 2 + 1), action: Action::Request(request) }
    };
    run_script(&fleet, &(0..pairs).map(watch).collect::<Vec<_>>());
    stage.run_for(&fleet, "watching", options.warm_up)?;
    let mut window = stage.prepare(&fleet, Pace::Paced)?;
    window.begin(&fleet)?;
    let start = soon();
    for (offset, action) in [(Duration::ZERO, Action::Leave), (AWAY, Action::Connect)] {
        fleet.run(|worker, workers| {
            let (worker, workers) = (u32::try_from(worker).unwrap_or(0), u32::try_from(workers).unwrap_or(1));
            // The same seed: those who leave come back in the same order, AWAY later.
            let seed = options.seed ^ u64::from(worker);
            let action = action.clone();
            let movers: Vec<u32> = (0..pairs).map(|pair| pair * 2).filter(|peer| peer % workers == worker).collect();
            let rate = rate * movers.len() as f64 / f64::from(pairs);
            Box::new(Steady::new(start + offset, length, rate, options.arrivals.pace(), seed, move |index, _| {
                let at = usize::try_from(index).unwrap_or(0) % movers.len().max(1);
                (PeerId(movers.get(at).copied().unwrap_or(0)), action.clone())
            }))
        });
    }
    stage.run_for(&fleet, "measuring", length + AWAY * 2)?;
    let measured = window.read(&fleet)?;
    let tally = fleet.finish();

    let mut outcome = outcome(&stage, ("presence", "From coming or going to those who watch"), &tally, &measured);
    "presence_p99_ms".clone_into(&mut outcome.headline);
    outcome.config.insert("connections".to_owned(), Value::from(pairs * 2));
    outcome.config.insert("rate".to_owned(), Value::from(rate));
    outcome.figure("notices", measured.counts.presence_seen as f64, "", "notices that watchers received");
    if let Some(seen) = tally.latency.get("presence") {
        let p99 = seen.value_at_quantile(0.99) as f64 / 1e6;
        outcome.figure("presence_p99_ms", p99, "ms", "from coming or going to the notice, 99th percentile");
    }
    Ok(vec![outcome])
}
