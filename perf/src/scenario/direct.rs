//! Durable messages between pairs: how many a second the server takes, and how long one takes to its acknowledgement and to the other
//! screen at a load that leaves room.

use std::time::Duration;

use serde_json::Value;
use tern_protocol::ConversationId;

use super::options::Options;
use super::room::open_directs;
use super::schedule::Steady;
use super::stage::{Failure, Stage, compare, outcome, soon};
use crate::fleet::{Action, Fleet, PeerId};
use crate::measure::Pace;
use crate::report::{Line, Outcome, Plot, Progress};

/// Clients when none are asked for; pairs of them talk.
const CONNECTIONS: usize = 400;
/// How long the latency is measured when nothing is asked for. Unit: time.
const DURATION: Duration = Duration::from_secs(10);
/// The first rate of the search. Unit: messages a second.
const SEARCH_FROM: f64 = 2_000.0;
/// From one rate of the search to the next.
const SEARCH_FACTOR: f64 = 1.35;
/// Rates that the search tries. Unit: rates. 2,000 times 1.35 to the 14th is 133,000.
const SEARCH_STEPS: usize = 15;
/// How long each rate runs. Unit: time.
const SEARCH_TIME: Duration = Duration::from_millis(2500);
/// Part of the intended rate that must be acknowledged for the server to keep up.
const KEPT_UP: f64 = 0.95;
/// Load at which latency is measured when no rate is given, as a part of saturation (TARGETS.md: 20 %).
const LATENCY_LOAD: f64 = 0.2;

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let count = (options.connections.unwrap_or(CONNECTIONS).max(2) / 2) * 2;
    let mut stage = Stage::open(options, progress, &[])?;
    let fleet = stage.fleet(count, |_| {})?;
    let floor = stage.floor()?;
    stage.connect(&fleet, 0..u32::try_from(count)?)?;
    let pairs: Vec<(u32, u32)> = (0..u32::try_from(count / 2)?).map(|pair| (pair * 2, pair * 2 + 1)).collect();
    let conversations = open_directs(&stage, &fleet, &pairs)?;
    let chat = Chat { conversations, options };

    let search = match options.rate {
        Some(rate) if rate > 0.0 => None,
        Some(_) | None => Some(chat.search(&stage, &fleet)?),
    };
    let rate = match (options.rate, &search) {
        (Some(rate), None) => rate,
        (_, Some(search)) => search.best * LATENCY_LOAD,
        (None, None) => return Err("no rate to measure at".into()),
    };
    let length = options.duration.unwrap_or(DURATION);
    let mut window = stage.prepare(&fleet, Pace::Paced)?;
    chat.send(&fleet, options.warm_up + length, rate, 1);
    stage.run_for(&fleet, "warming up", options.warm_up)?;
    window.begin(&fleet)?;
    stage.run_for(&fleet, "measuring", length)?;
    stage.settle(&fleet);
    let measured = window.read(&fleet)?;
    let tally = fleet.finish();

    let title = "Durable direct messages: how many, and how long each takes";
    let mut outcome = outcome(&stage, ("direct", title), &tally, &measured);
    let headline = if search.is_some() { "saturation_per_second" } else { "acked_per_second" };
    headline.clone_into(&mut outcome.headline);
    outcome.config.insert("connections".to_owned(), Value::from(count));
    outcome.config.insert("rate".to_owned(), Value::from(rate));
    let acked = measured.counts.acked;
    outcome.figure("acked_per_second", measured.per_second(acked), "1/s", "acknowledged in the measured time");
    if let Some(us) = measured.server_us_per(acked) {
        outcome.figure(
            "server_cpu_us_per_message",
            us,
            "us",
            "server CPU for one message at this rate, ack and delivery included",
        );
    }
    if let Some(search) = search {
        search.report(&mut outcome);
    }
    let p50 = tally.latency.get("send_to_ack").map(|histogram| histogram.value_at_quantile(0.5) as f64 / 1e3);
    let what = "send to ack, median / one fdatasync and two loopback trips";
    compare(&mut outcome, floor.as_ref(), what, |floor| Some(p50? / floor.durable_round_trip_us()));
    if let (Some(p50), Some(floor)) = (p50, &floor) {
        let rested = floor.durable_round_trip_rested_us();
        let what = "send to ack, median / the same floor on a machine that slept before: what a message finds that comes alone";
        outcome.figure("ratio_to_rested_floor", p50 / rested, "x", what);
    }
    Ok(vec![outcome])
}

pub(super) struct Chat<'a> {
    pub(super) conversations: Vec<ConversationId>,
    pub(super) options: &'a Options,
}

/// What the search for saturation found.
struct Search {
    /// Most that was acknowledged. Unit: messages a second.
    best: f64,
    /// CPU of the server for one of them then. Unit: microseconds.
    server_us: Option<f64>,
    client_us: Option<f64>,
    /// Intended rate, acknowledged rate, 99th percentile of send to ack in milliseconds.
    steps: Vec<(f64, f64, f64)>,
}

impl Chat<'_> {
    /// Messages over all pairs, each side in turn.
    pub(super) fn send(&self, fleet: &Fleet, length: Duration, rate: f64, salt: u64) {
        let start = soon();
        let pairs = self.conversations.len() as u64;
        fleet.run(|worker, workers| {
            let conversations = self.conversations.clone();
            let size = self.options.size;
            let pace = self.options.arrivals.pace();
            let seed = self.options.seed ^ (salt << 32) ^ worker as u64;
            let (worker, workers) = (worker as u64, workers as u64);
            // Message number n of a worker goes through its own peers in turn.
            let peers = pairs * 2;
            let mine = peers / workers + u64::from(worker < peers % workers);
            Box::new(Steady::new(start, length, rate * mine as f64 / peers as f64, pace, seed, move |index, _| {
                let peer = worker + index % mine.max(1) * workers;
                let pair = usize::try_from(peer / 2).unwrap_or(0);
                let conversation = conversations.get(pair).copied().unwrap_or(conversations[0]);
                (PeerId(u32::try_from(peer).unwrap_or(0)), Action::Send { conversation, size })
            }))
        });
    }

    /// Rates that grow until the server no longer keeps up.
    fn search(&self, stage: &Stage<'_>, fleet: &Fleet) -> Result<Search, Failure> {
        let mut search = Search { best: 0.0, server_us: None, client_us: None, steps: Vec::new() };
        let mut rate = SEARCH_FROM;
        let mut window = stage.prepare(fleet, Pace::Saturating)?;
        for step in 0..SEARCH_STEPS {
            window.begin(fleet)?;
            self.send(fleet, SEARCH_TIME, rate, 100 + step as u64);
            stage.run_for(fleet, "measuring", SEARCH_TIME)?;
            let measured = window.read(fleet)?;
            let acked = measured.per_second(measured.counts.acked);
            let p99 =
                fleet.tally().latency.get("send_to_ack").map_or(0.0, |all| all.value_at_quantile(0.99) as f64 / 1e6);
            search.steps.push((rate, acked, p99));
            if acked > search.best {
                search.best = acked;
                search.server_us = measured.server_us_per(measured.counts.acked);
                search.client_us = measured.client_us_per(measured.counts.acked);
            }
            let keeps_up = acked >= rate * KEPT_UP;
            stage.settle(fleet);
            if !keeps_up {
                break;
            }
            rate *= SEARCH_FACTOR;
        }
        Ok(search)
    }
}

impl Search {
    fn report(&self, outcome: &mut Outcome) {
        outcome.figure(
            "saturation_per_second",
            self.best,
            "1/s",
            "most messages that were acknowledged in a second, both sides on this machine",
        );
        if let Some(us) = self.server_us {
            outcome.figure(
                "server_cpu_us_per_message_saturated",
                us,
                "us",
                "server CPU for one message at saturation, ack and delivery included",
            );
            outcome.figure(
                "messages_per_core_second",
                1e6 / us,
                "1/s",
                "messages that one core of the server does at saturation",
            );
        }
        if let Some(us) = self.client_us {
            outcome.figure(
                "client_cpu_us_per_message_saturated",
                us,
                "us",
                "this program's CPU for one message at saturation",
            );
        }
        let line = |name: &str, value: fn(&(f64, f64, f64)) -> f64| Line {
            name: name.to_owned(),
            points: self.steps.iter().map(|step| (step.0, value(step))).collect(),
        };
        outcome.series.push(Plot {
            title: "Acknowledged by intended rate".to_owned(),
            x_label: "intended, messages/s".to_owned(),
            y_label: "acknowledged, messages/s".to_owned(),
            log_x: false,
            log_y: false,
            lines: vec![line("acknowledged", |step| step.1), line("intended", |step| step.0)],
        });
        outcome.series.push(Plot {
            title: "Send to ack by intended rate".to_owned(),
            x_label: "intended, messages/s".to_owned(),
            y_label: "99th percentile, ms".to_owned(),
            log_x: false,
            log_y: true,
            lines: vec![line("p99", |step| step.2.max(0.001))],
        });
    }
}
