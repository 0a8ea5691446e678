//! The same conversations over the same bad network, once over QUIC and once over WebSocket: what loss does to each.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::direct::Chat;
use super::options::{Options, Transport};
use super::room::open_directs;
use super::stage::{Failure, Stage, outcome};
use crate::chaos::{Chaos, ChaosPlan, Event, Impairment, Reorder};
use crate::fleet::{Carrier, Proxy};
use crate::measure::Pace;
use crate::report::{Line, Outcome, Plot, Progress};

/// Clients when none are asked for: 50 conversations.
const CONNECTIONS: usize = 100;
/// Messages a second over all of them: each person writes about every second.
const RATE: f64 = 100.0;
/// How long it is measured when nothing is asked for. Unit: time.
const DURATION: Duration = Duration::from_secs(20);

/// Clients that connect in a second, at most.
const CONNECT_RATE: f64 = 100.0;
/// How much longer than elsewhere the warm-up is.
const WARM_UPS: u32 = 3;

/// The network.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Network")]
pub struct Network {
    /// Part of the packets that is lost in each direction, 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.02)]
    pub loss: f64,
    /// Round trip
    #[arg(long, value_name = "TIME", value_parser = super::options::time, default_value = "60ms")]
    pub rtt: Duration,
    /// Up to this much more in each direction
    #[arg(long, value_name = "TIME", value_parser = super::options::time, default_value = "0ms")]
    pub jitter: Duration,
    /// Part of the packets that arrives late, behind others
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    pub reorder: f64,
    /// Part of the packets that arrives twice
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    pub duplicate: f64,
    /// Nothing passes for this long, in the middle of the run
    #[arg(long, value_name = "TIME", value_parser = super::options::time, default_value = "0ms")]
    pub blackout: Duration,
    /// Every client gets another address in the middle of the run
    #[arg(long)]
    pub address_change: bool,
}

/// Runs it over both transports, or over the one that is asked for.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, network: &Network, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::new();
    // "both" is this scenario's point: one after the other, in one run, over the same dice.
    let transports = match options.transport {
        Transport::Quic => vec![Transport::Quic],
        Transport::Ws => vec![Transport::Ws],
        Transport::Both => vec![Transport::Quic, Transport::Ws],
    };
    for transport in transports {
        outcomes.push(one(options, network, progress, transport)?);
    }
    compare_transports(&mut outcomes);
    Ok(outcomes)
}

fn one(options: &Options, network: &Network, progress: &Progress, transport: Transport) -> Result<Outcome, Failure> {
    let count = (options.connections.unwrap_or(CONNECTIONS).max(2) / 2) * 2;
    let rate = options.rate.unwrap_or(RATE).max(0.1);
    let length = options.duration.unwrap_or(DURATION);
    // A storm of handshakes would teach every connection a round trip that is not the network's; it takes some to unlearn it.
    let options = &Options {
        transport,
        connect_rate: options.connect_rate.min(CONNECT_RATE),
        warm_up: options.warm_up * WARM_UPS,
        ..options.clone()
    };
    let mut stage = Stage::open(options, progress, &[])?;
    let chaos = Chaos::start(network.plan(options.seed, &stage))?;
    let proxy = Proxy { quic: chaos.quic(), tcp: chaos.tcp() };
    let fleet = stage.fleet(count, |plan| {
        plan.carrier = if transport == Transport::Ws { Carrier::WebSocket } else { Carrier::Quic };
        plan.proxy = Some(proxy);
        // To the proxy an address is a client: those that share one would share its line.
        plan.sockets = count.div_ceil(plan.workers);
    })?;
    stage.connect(&fleet, 0..u32::try_from(count)?)?;
    let pairs: Vec<(u32, u32)> = (0..u32::try_from(count / 2)?).map(|pair| (pair * 2, pair * 2 + 1)).collect();
    let conversations = open_directs(&stage, &fleet, &pairs)?;
    let chat = Chat { conversations, options };
    let mut window = stage.prepare(&fleet, Pace::Paced)?;
    chat.send(&fleet, options.warm_up + length, rate, 1);
    stage.run_for(&fleet, "warming up", options.warm_up)?;
    window.begin(&fleet)?;
    stage.run_for(&fleet, "measuring", length / 2)?;
    for event in network.middle() {
        chaos.apply(event)?;
    }
    stage.run_for(&fleet, "measuring", length / 2)?;
    let measured = window.read(&fleet)?;
    stage.settle(&fleet);
    let tally = fleet.finish();

    let title = format!(
        "{} conversations with {:.1} % loss and {} ms round trip",
        count / 2,
        network.loss * 100.0,
        network.rtt.as_millis()
    );
    let mut outcome = outcome(&stage, ("lossy", &title), &tally, &measured);
    outcome.config.insert("connections".to_owned(), Value::from(count));
    outcome.config.insert("rate".to_owned(), Value::from(rate));
    outcome.config.insert("network".to_owned(), Value::from(format!("{network:?}")));
    outcome.command.push_str(&format!(
        " --loss {} --rtt {}ms --jitter {}ms --reorder {} --duplicate {} --blackout {}ms",
        network.loss,
        network.rtt.as_millis(),
        network.jitter.as_millis(),
        network.reorder,
        network.duplicate,
        network.blackout.as_millis()
    ));
    let network = chaos.stop()?;
    for (way, traffic) in
        [("to the server", network.udp_up + network.tcp_up), ("to clients", network.udp_down + network.tcp_down)]
    {
        outcome.notes.push(format!(
            "{way}: {} packets, {} lost by the dice, {} in a blackout, {} twice, {} late",
            traffic.offered, traffic.lost, traffic.blacked_out, traffic.duplicated, traffic.reordered
        ));
    }
    if network.refused + network.kernel_dropped > 0 {
        outcome.failures.push(format!(
            "the proxy was the limit: it refused {} and did not read {} packets in time",
            network.refused, network.kernel_dropped
        ));
    }
    Ok(outcome)
}

/// Puts QUIC beside WebSocket.
fn compare_transports(outcomes: &mut [Outcome]) {
    let [quic, ws] = outcomes else { return };
    let p = |outcome: &Outcome, quantile: f64| {
        outcome.latency.get("send_to_delivery").map_or(0.0, |all| all.value_at_quantile(quantile) as f64 / 1e6)
    };
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p999")] {
        let (over_quic, over_ws) = (p(quic, quantile), p(ws, quantile));
        let what = format!("send to delivery, {name}: QUIC by WebSocket on the same network");
        quic.figure(&format!("quic_to_ws_{name}"), over_quic / over_ws.max(1e-9), "x", &what);
    }
    "quic_to_ws_p99".clone_into(&mut quic.headline);
    let line = |outcome: &Outcome| {
        let points = (0..=60).map(|step| {
            let rest = 10f64.powf(-f64::from(step) / 20.0);
            (1.0 / rest, p(outcome, 1.0 - rest))
        });
        Line { name: outcome.transport.clone(), points: points.collect() }
    };
    quic.series.push(Plot {
        title: "Send to delivery: QUIC and WebSocket".to_owned(),
        x_label: "1 / (1 - percentile)".to_owned(),
        y_label: "milliseconds".to_owned(),
        log_x: true,
        log_y: true,
        lines: vec![line(quic), line(ws)],
    });
}

impl Network {
    fn plan(&self, seed: u64, stage: &Stage<'_>) -> ChaosPlan {
        let way = Impairment {
            loss: self.loss,
            duplicate: self.duplicate,
            reorder: Reorder { probability: self.reorder, extra: self.rtt / 4 },
            delay: self.rtt / 2,
            jitter: self.jitter,
            ..Impairment::NONE
        };
        ChaosPlan { up: way, down: way, ..ChaosPlan::lossy(seed, stage.address(), self.loss, self.rtt / 2) }
    }

    /// What happens in the middle of the run.
    fn middle(&self) -> Vec<Event> {
        let blackout = (!self.blackout.is_zero()).then_some(Event::Blackout(self.blackout));
        let change = self.address_change.then_some(Event::AddressChange);
        blackout.into_iter().chain(change).collect()
    }
}
