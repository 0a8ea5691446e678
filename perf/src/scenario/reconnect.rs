//! Everybody loses the network at once and comes back: how long until all are level again, and what the server's disk saw of it.

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
const CONNECTIONS: usize = 1000;
/// Messages to the group before the loss, a second, and for how long: something to have a position in.
const MESSAGES: (f64, Duration) = (10.0, Duration::from_secs(2));
/// How long all may take to be level again. Unit: time.
const RESUME_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs it: at `--rate` reconnects a second, or all at once.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let count = options.connections.or(options.members).unwrap_or(CONNECTIONS).max(2);
    let rate = options.rate.unwrap_or(0.0);
    let mut stage = Stage::open(options, progress, &[])?;
    let fleet = stage.fleet(count, |_| {})?;
    let room = Room::open(&stage, &fleet, count, count)?;
    group::send(&fleet, &room, count, options, MESSAGES.1, MESSAGES.0);
    stage.run_for(&fleet, "talking", MESSAGES.1)?;
    stage.settle(&fleet);

    let everybody = 0..u32::try_from(count)?;
    let mut window = stage.prepare(&fleet, Pace::Saturating)?;
    window.begin(&fleet)?;
    let start = soon();
    fleet.run(|worker, workers| {
        Box::new(Each::new(start, 0.0, Share { worker, workers }, everybody.clone(), |_| Action::Vanish))
    });
    stage.wait(&fleet, "everybody to be gone", RESUME_TIMEOUT, |counts| counts.connected == 0)?;
    let back = soon();
    fleet.run(|worker, workers| {
        Box::new(Each::new(back, rate, Share { worker, workers }, everybody.clone(), |_| Action::Reconnect))
    });
    progress.phase("coming back");
    let all = count as u64;
    stage.wait(&fleet, "everybody to be level again", RESUME_TIMEOUT, |_| {
        fleet.tally().latency.get("resume").is_some_and(|resumed| resumed.len() >= all)
    })?;
    let seconds = back.elapsed().as_secs_f64();
    let measured = window.read(&fleet)?;
    stage.settle(&fleet);
    let tally = fleet.finish();

    let title = format!("{count} clients drop and resume");
    let mut outcome = outcome(&stage, ("reconnect", &title), &tally, &measured);
    "seconds_until_all_level".clone_into(&mut outcome.headline);
    outcome.config.insert("connections".to_owned(), Value::from(count));
    outcome.config.insert("rate".to_owned(), Value::from(rate));
    outcome.figure("seconds_until_all_level", seconds, "s", "from the first reconnect until everybody has everything");
    outcome.figure("resumes_per_second", all as f64 / seconds.max(1e-9), "1/s", "clients that came back a second");
    let early = measured.counts.early_data_accepted as f64;
    outcome.figure("hellos_in_early_data", early, "", "hellos that the server took with the first packet (0-RTT)");
    if let Some(us) = measured.server_us_per(all) {
        outcome.figure("server_cpu_us_per_resume", us, "us", "server CPU for one client that comes back");
    }
    if let Some(server) = &measured.server {
        let (read, written) = (server.disk_read_bytes as f64, server.disk_written_bytes as f64);
        outcome.figure("server_disk_bytes_read", read, "B", "what the server read from its disk meanwhile");
        outcome.figure("server_disk_bytes_written_per_resume", written / all as f64, "B", "what it wrote, per client");
    }
    Ok(vec![outcome])
}
