//! One group, everybody reading: how long a message takes to the first, the median and the last screen, and what each costs.

use std::time::Duration;

use serde_json::Value;

use super::options::{Options, Transport};
use super::room::Room;
use super::schedule::Steady;
use super::stage::{Failure, Stage, compare, histogram, outcome, soon};
use crate::fleet::{Action, Fleet, PeerId};
use crate::measure::Pace;
use crate::measure::floor::Floor;
use crate::report::{Outcome, Progress};

/// Members when none are asked for.
const MEMBERS: usize = 1000;
/// How long it is measured when nothing is asked for. Unit: time.
const DURATION: Duration = Duration::from_secs(10);
/// Deliveries a second that a default rate aims at: about a third of what two cores take with the receivers on them.
const DELIVERIES_PER_SECOND: f64 = 15_000.0;
/// Least messages a second of a default rate: one in ten seconds.
const RATE_MIN: f64 = 0.1;
/// Members that talk: enough that no session's own rate limit is near.
const SENDERS: u32 = 16;

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    Ok(vec![one(options, progress, options.members.unwrap_or(MEMBERS), options.offline)?])
}

/// One group of this size with this part of it offline.
///
/// # Errors
/// When there is no result.
pub fn one(options: &Options, progress: &Progress, members: usize, offline: f64) -> Result<Outcome, Failure> {
    let mut stage = Stage::open(options, progress, &[])?;
    let fleet = stage.fleet(members, |plan| plan.per_message = true)?;
    let floor = stage.floor()?;
    let idle_rss = stage.server_rss()?;
    // Rounding to whole members: a part of them is a part of a count.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part between 0 and 1 of a count")]
    let online = ((members as f64 * (1.0 - offline.clamp(0.0, 0.99))).round() as usize).max(2);
    let room = Room::open(&stage, &fleet, members, online)?;
    let per_message = online.saturating_sub(1).max(1) as f64;
    let rate = options.rate.unwrap_or((DELIVERIES_PER_SECOND / per_message).clamp(RATE_MIN, 200.0));
    if rate <= 0.0 {
        return Err("group needs a rate above 0: messages a second".into());
    }
    let length = options.duration.unwrap_or(DURATION);
    // Each message fills all cores for a moment: waiting is part of it.
    let mut window = stage.prepare(&fleet, Pace::Saturating)?;
    send(&fleet, &room, online, options, options.warm_up + length, rate);
    stage.run_for(&fleet, "warming up", options.warm_up)?;
    window.begin(&fleet)?;
    stage.run_for(&fleet, "measuring", length)?;
    stage.settle(&fleet);
    let measured = window.read(&fleet)?;
    let rss = stage.server_rss()?;
    let tally = fleet.finish();

    let title = format!("One group of {members} members, {online} of them online: from send to every screen");
    let mut outcome = outcome(&stage, ("group", &title), &tally, &measured);
    "server_cpu_us_per_recipient".clone_into(&mut outcome.headline);
    outcome.config.insert("members".to_owned(), Value::from(members));
    outcome.config.insert("online".to_owned(), Value::from(online));
    outcome.config.insert("rate".to_owned(), Value::from(rate));
    let mut first = histogram();
    let mut last = histogram();
    for message in &tally.messages {
        first.saturating_record(message.first_ns);
        last.saturating_record(message.last_ns);
    }
    outcome.latency.insert("send_to_first".to_owned(), first);
    outcome.latency.insert("send_to_last".to_owned(), last);
    if let Some(us) = measured.server_us_per(measured.counts.delivered) {
        outcome.figure("server_cpu_us_per_recipient", us, "us", "server CPU for one recipient, its ACK included");
    }
    if let Some(us) = measured.client_us_per(measured.counts.delivered) {
        outcome.figure("client_cpu_us_per_recipient", us, "us", "this program's CPU for one recipient");
    }
    if let (Some(before), Some(after)) = (idle_rss, rss) {
        let each = after.saturating_sub(before) as f64 / members as f64;
        outcome.figure(
            "server_bytes_per_member",
            each,
            "B",
            "server memory that the group and its sessions took, per member",
        );
    }
    let per_second = measured.per_second(measured.counts.delivered);
    outcome.figure("deliveries_per_second", per_second, "1/s", "deliveries in the measured time");
    let us = measured.server_us_per(measured.counts.delivered);
    let transport = options.transport;
    let what = "server CPU per recipient / the least that sending to one and receiving its ACK takes";
    compare(&mut outcome, floor.as_ref(), what, |floor| us.map(|us| us / recipient_us(floor, transport)));
    Ok(outcome)
}

/// Messages to the group from its first members in turn, at a rate.
pub(super) fn send(fleet: &Fleet, room: &Room, online: usize, options: &Options, length: Duration, rate: f64) {
    let start = soon();
    let (conversation, size) = (room.conversation, options.size);
    let senders = SENDERS.min(u32::try_from(online).unwrap_or(SENDERS)).max(1);
    fleet.run(|worker, workers| {
        // Senders are peers 0, 1, 2, ...: each worker has every `workers`-th of them.
        let count = u32::try_from(workers).unwrap_or(1);
        let worker = u32::try_from(worker).unwrap_or(0);
        let mine: Vec<u32> = (0..senders).filter(|peer| peer % count == worker).collect();
        let share = mine.len() as f64 / f64::from(senders);
        let pace = options.arrivals.pace();
        Box::new(Steady::new(start, length, rate * share, pace, options.seed + u64::from(worker), move |index, _| {
            let at = usize::try_from(index).unwrap_or(0) % mine.len().max(1);
            (PeerId(mine.get(at).copied().unwrap_or(worker)), Action::Send { conversation, size })
        }))
    });
}

/// The least that one recipient costs. Unit: microseconds.
fn recipient_us(floor: &Floor, transport: Transport) -> f64 {
    match transport {
        Transport::Quic => floor.quic_recipient_us(),
        Transport::Ws => floor.wss_recipient_us(),
        Transport::Both => f64::midpoint(floor.quic_recipient_us(), floor.wss_recipient_us()),
    }
}
