//! Log-ins: how many a second, what a full handshake costs the server, and whether a storm lets everybody in.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::options::Options;
use super::schedule::{Each, Share};
use super::stage::{Failure, Stage, compare, outcome, soon};
use crate::fleet::Action;
use crate::measure::Pace;
use crate::report::{Outcome, Progress};

/// Clients when none are asked for.
const CONNECTIONS: usize = 2000;
/// How long a storm may take for each client, and at least. Unit: time.
const EACH: Duration = Duration::from_millis(5);
/// See [`EACH`].
const LEAST: Duration = Duration::from_secs(60);

/// Runs it: at `--rate` log-ins a second, or all at once.
///
/// # Errors
/// When there is no result, or when somebody was not let in.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let count = options.connections.unwrap_or(CONNECTIONS);
    let rate = options.rate.unwrap_or(0.0);
    let mut stage = Stage::open(options, progress, &[])?;
    let fleet = stage.fleet(count, |_| {})?;
    let floor = stage.floor()?;
    let rss = stage.server_rss()?;
    let mut window = stage.prepare(&fleet, Pace::Saturating)?;
    window.begin(&fleet)?;
    let start = soon();
    let peers = 0..u32::try_from(count)?;
    progress.phase("logging in");
    fleet.run(|worker, workers| {
        Box::new(Each::new(start, rate, Share { worker, workers }, peers.clone(), |_| Action::Connect))
    });
    let most = LEAST + EACH * u32::try_from(count)?;
    let all = count as u64;
    let mut finished = None;
    stage.wait(&fleet, "everybody to be let in", most, |counts| {
        if counts.connected >= all {
            finished.get_or_insert_with(Instant::now);
        }
        finished.is_some()
    })?;
    let seconds = finished.map_or(0.0, |at| at.saturating_duration_since(start).as_secs_f64()).max(1e-9);
    let measured = window.read(&fleet)?;
    let after = stage.server_rss()?;
    let retried = stage.server().and_then(|server| server.metric("tern_quic_handshakes_retried_total"));
    let tally = fleet.finish();

    let mut outcome = outcome(&stage, ("connect", "Log-ins: full handshake, hello, welcome"), &tally, &measured);
    "logins_per_core_second".clone_into(&mut outcome.headline);
    outcome.config.insert("connections".to_owned(), Value::from(count));
    outcome.config.insert("rate".to_owned(), Value::from(rate));
    let per_second = all as f64 / seconds;
    outcome.figure("logins_per_second", per_second, "1/s", "log-ins a second, both sides on this machine");
    if let Some(us) = measured.server_us_per(all) {
        outcome.figure(
            "server_cpu_us_per_login",
            us,
            "us",
            "server CPU for one log-in, from the first packet to the welcome",
        );
        outcome.figure("logins_per_core_second", 1e6 / us, "1/s", "log-ins that one core of the server does");
    }
    if let Some(us) = measured.client_us_per(all) {
        outcome.figure("client_cpu_us_per_login", us, "us", "this program's CPU for one log-in");
    }
    if let (Some(before), Some(after)) = (rss, after) {
        let each = after.saturating_sub(before) as f64 / count.max(1) as f64;
        outcome.figure("server_bytes_per_connection", each, "B", "server memory right after the storm, per connection");
    }
    if let Some(retried) = retried {
        outcome.figure("handshakes_retried", retried, "", "handshakes that the server answered with Retry");
    }
    compare(&mut outcome, floor.as_ref(), "", |_| None);
    Ok(vec![outcome])
}
