//! Everything once, at sizes that two cores can do: the first thing to run on a new machine.

use std::time::Duration;

use super::capacity::{self, Plan};
use super::lossy::{self, Network};
use super::options::{Options, Transport};
use super::stage::Failure;
use super::{connect, direct, floor, group, groups, idle, migrate, presence, reconnect, slow_readers};
use crate::report::{Outcome, Progress};

/// How long each measurement is. Unit: time.
const SHORT: Duration = Duration::from_secs(6);
/// How long idle connections idle: longer than a round of keep-alives. Unit: time.
const IDLE: Duration = Duration::from_secs(26);

/// Runs all of it; one that has no result ends the suite.
///
/// # Errors
/// Which one, and why.
pub fn run(options: &Options, network: &Network, plan: &Plan, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let base = Options { duration: Some(SHORT), rate: None, ..options.clone() };
    let with = |transport, connections: usize| Options { transport, connections: Some(connections), ..base.clone() };
    let room =
        |transport, members: usize, offline| Options { members: Some(members), offline, ..with(transport, members) };
    let (quic, ws) = (Transport::Quic, Transport::Ws);
    let mut outcomes = Vec::new();
    let mut part = |name: &str, run: &dyn Fn() -> Result<Vec<Outcome>, Failure>| -> Result<(), Failure> {
        progress.say(name);
        outcomes.extend(run().map_err(|why| format!("{name}: {why}"))?);
        Ok(())
    };
    part("floor", &|| floor::run(&base, progress))?;
    part("connect, QUIC", &|| connect::run(&with(quic, 2000), progress))?;
    part("connect, WebSocket", &|| connect::run(&with(ws, 1000), progress))?;
    for (name, transport) in [("idle, QUIC", quic), ("idle, WebSocket", ws)] {
        part(name, &|| idle::run(&Options { duration: Some(IDLE), ..with(transport, 2000) }, progress))?;
    }
    part("direct, QUIC", &|| direct::run(&with(quic, 400), progress))?;
    part("direct, WebSocket", &|| direct::run(&with(ws, 400), progress))?;
    part("group of 100, QUIC", &|| group::run(&room(quic, 100, 0.0), progress))?;
    part("group of 1,000, QUIC", &|| group::run(&room(quic, 1000, 0.0), progress))?;
    part("group of 1,000, WebSocket", &|| group::run(&room(ws, 1000, 0.0), progress))?;
    part("group of 1,000, 90 % offline", &|| group::run(&room(quic, 1000, 0.9), progress))?;
    part("group of 5,000, QUIC", &|| group::run(&room(quic, 5000, 0.0), progress))?;
    part("groups", &|| groups::run(&with(Transport::Both, 600), progress))?;
    part("reconnect", &|| reconnect::run(&with(quic, 1000), progress))?;
    part("migrate", &|| migrate::run(&with(quic, 300), progress))?;
    part("slow readers", &|| slow_readers::run(&with(quic, 300), progress))?;
    part("lossy", &|| {
        let lossy = Options { duration: Some(SHORT * 2), ..with(Transport::Both, 100) };
        lossy::run(&lossy, network, progress)
    })?;
    part("presence", &|| presence::run(&with(quic, 400), progress))?;
    part("capacity", &|| capacity::run(&with(quic, 1500), plan, progress))?;
    Ok(outcomes)
}
