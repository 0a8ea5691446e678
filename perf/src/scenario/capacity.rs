//! From what people do to what a deployment needs: CPU, memory, bandwidth, disk, nodes. The costs come from a calibration, now or of an
//! earlier run; the forecast is checked against a measured run of another kind than those it was made from.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::behaviour::Behaviour;
use super::calibrate::{self, Costs, Level, Prices};
use super::groups;
use super::options::Options;
use super::stage::{Failure, outcome_of};
use crate::report::{Outcome, Progress};

/// Members up to which a server shows typing and receipts (`cluster.receipts_members_max`).
const NOTICES_MEMBERS_MAX: usize = 64;
/// How often an idle client pings (`limits.ping_interval`). Unit: per second.
const PINGS_PER_SECOND: f64 = 1.0 / 25.0;
/// Part of a node's CPU that a plan may use: the rest is for peaks and for the loss of a node.
const CPU_SHARE_MAX: f64 = 0.6;
/// Part of a node's memory that a plan may use.
const MEMORY_SHARE_MAX: f64 = 0.7;
/// New connections a second, at most.
const CONNECT_RATE: f64 = 400.0;
/// Users of the run that the forecast is checked against.
const CHECK_USERS: usize = 1500;
/// Error beyond which a forecast is called wrong. TARGETS: 25 %.
const ERROR_MAX: f64 = 0.25;
/// Nodes that a plan may come to. Unit: nodes.
const NODES_MAX: usize = 100_000;
const GIB: f64 = 1_073_741_824.0;
const SECONDS_A_DAY: f64 = 86_400.0;

/// What to plan for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Plan")]
pub struct Plan {
    /// Users that are connected at the same time
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub users: usize,
    /// Messages that one user writes in an hour
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub messages_per_user_hour: f64,
    /// Part of them that goes to groups
    #[arg(long, value_name = "PART", default_value_t = 0.5)]
    pub group_share: f64,
    /// Members of the largest group; the k-th has this divided by k, and there is one group for ten users
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub largest_group: usize,
    /// Cores of one node
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub node_cores: usize,
    /// Memory of one node in GiB
    #[arg(long, value_name = "GIB", default_value_t = 64)]
    pub node_memory: usize,
    /// Take the costs from the result folder of an earlier `capacity` or `suite` instead of measuring them
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Skip the measured run that the forecast is checked against
    #[arg(long)]
    pub unchecked: bool,
}

/// What a deployment needs.
struct Forecast {
    cores: f64,
    memory_bytes: f64,
    wire_bytes_per_second: f64,
    disk_bytes_per_day: f64,
}

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(options: &Options, plan: &Plan, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    // A storm of handshakes leaves a server with more memory than the same connections take that came one after the other.
    let options = &Options { connect_rate: options.connect_rate.min(CONNECT_RATE), ..options.clone() };
    let mut outcomes = Vec::new();
    let mut outcome = Outcome::new("capacity", "What these users need", options.transport.name());
    let costs = match &plan.from {
        Some(directory) => earlier(directory)?,
        None => {
            let calibration = calibrate::run(options, progress)?;
            outcome =
                outcome_of(options, ("capacity", "What these users need"), &calibration.tally, &calibration.measured);
            outcome.latency.extend(calibration.slices.iter().map(|(name, all)| (name.clone(), all.clone())));
            calibration.costs
        }
    };
    "nodes".clone_into(&mut outcome.headline);
    outcome.config.insert("costs".to_owned(), serde_json::to_value(&costs)?);
    let behaviour = plan.behaviour(options);
    outcome.config.insert("behaviour".to_owned(), serde_json::to_value(behaviour)?);
    costs.describe(&mut outcome);
    plan.describe(&costs, &behaviour, &mut outcome);
    if !plan.unchecked {
        outcomes.push(check(options, progress, &costs, &mut outcome)?);
    }
    outcomes.insert(0, outcome);
    Ok(outcomes)
}

/// Runs a small population and compares.
fn check(options: &Options, progress: &Progress, costs: &Costs, outcome: &mut Outcome) -> Result<Outcome, Failure> {
    let users = options.connections.unwrap_or(CHECK_USERS);
    let behaviour = Behaviour::busy(users, options);
    let measured = groups::one(options, progress, behaviour)?;
    let value = |name: &str| measured.figures.get(name).map_or(0.0, |figure| figure.value);
    let messages = value("messages_total");
    let forecast = costs.forecast(&behaviour, messages, options.shard_count()?);
    let pairs = [
        ("cpu", forecast.cores, value("server_cores"), "cores"),
        ("memory", forecast.memory_bytes, value("server_bytes_per_user") * users as f64, "B"),
    ];
    for (what, predicted, found, unit) in pairs {
        let error = predicted / found.max(1e-9) - 1.0;
        outcome.figure(
            &format!("check_{what}_predicted"),
            predicted,
            unit,
            &format!("{what} of the checked run, as forecast"),
        );
        outcome.figure(
            &format!("check_{what}_measured"),
            found,
            unit,
            &format!("{what} of the checked run, as measured"),
        );
        outcome.figure(&format!("check_{what}_error"), error * 100.0, "%", "forecast against measurement");
        if error.abs() > ERROR_MAX {
            outcome
                .notes
                .push(format!("The forecast of {what} is off by {:.0} %: do not plan with it.", error * 100.0));
        }
    }
    Ok(measured)
}

/// The costs of an earlier run.
fn earlier(directory: &std::path::Path) -> Result<Costs, Failure> {
    let path = directory.join("result.json");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let all: Value = serde_json::from_str(&text)?;
    find_costs(&all)
        .ok_or_else(|| format!("{}: no costs in it; make one with `tern-perf capacity`", path.display()).into())
}

fn find_costs(value: &Value) -> Option<Costs> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("costs").and_then(|costs| serde_json::from_value(costs.clone()).ok());
            own.or_else(|| fields.values().find_map(find_costs))
        }
        Value::Array(items) => items.iter().find_map(find_costs),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

impl Plan {
    fn behaviour(&self, options: &Options) -> Behaviour {
        Behaviour {
            users: self.users,
            largest_group: self.largest_group.min(self.users),
            messages_per_second: self.users as f64 * self.messages_per_user_hour / 3600.0,
            group_share: self.group_share,
            ..Behaviour::busy(self.users, options)
        }
    }

    /// As few nodes as keep CPU and memory below the part that a plan may use.
    fn nodes(&self, costs: &Costs, behaviour: &Behaviour) -> (usize, Forecast) {
        let memory = self.node_memory as f64 * GIB * MEMORY_SHARE_MAX;
        let mut nodes = 1;
        loop {
            let cores = nodes * self.node_cores;
            let forecast = costs.forecast(behaviour, 0.0, cores);
            let fits = forecast.cores <= cores as f64 * CPU_SHARE_MAX && forecast.memory_bytes <= memory * nodes as f64;
            if fits || nodes >= NODES_MAX {
                return (nodes, forecast);
            }
            nodes += 1;
        }
    }

    fn describe(&self, costs: &Costs, behaviour: &Behaviour, outcome: &mut Outcome) {
        let (nodes, forecast) = self.nodes(costs, behaviour);
        let node = format!("nodes of {} cores and {} GiB, used to 60 and 70 %", self.node_cores, self.node_memory);
        outcome.figure("nodes", nodes as f64, "", &node);
        outcome.figure("cores", forecast.cores, "cores", "CPU of all nodes together");
        outcome.figure(
            "memory_gib",
            forecast.memory_bytes / GIB,
            "GiB",
            "memory of all nodes together, the store's caches not counted",
        );
        outcome.figure(
            "bandwidth_mbit",
            forecast.wire_bytes_per_second * 8.0 / 1e6,
            "Mbit/s",
            "UDP or TCP payload of messages, both ways",
        );
        outcome.figure(
            "disk_gib_per_day",
            forecast.disk_bytes_per_day / GIB,
            "GiB/day",
            "written to disk: log, view and its compaction",
        );
        outcome.notes.push(
            "Costs are of this machine's cores; scale them by your own `tern-perf capacity`. A plan beyond one node adds the cost of the \
             shared log, which this forecast does not have."
                .to_owned(),
        );
    }
}

impl Prices {
    /// CPU of everything that a population does in a second. Unit: cores.
    fn cores(&self, behaviour: &Behaviour) -> f64 {
        let rate = behaviour.messages_per_second;
        let reads = rate * behaviour.reads_per_message;
        let typing = rate * behaviour.typing_per_message;
        let us = rate * self.message
            + rate * behaviour.deliveries_per_message() * self.delivery
            + reads * self.read
            + typing * self.typing
            + (reads + typing) * behaviour.notices_per_note(NOTICES_MEMBERS_MAX) * self.notice
            + behaviour.reconnects_per_second * self.resume
            + behaviour.users as f64 * PINGS_PER_SECOND * self.ping;
        us / 1e6
    }
}

impl Costs {
    /// What a population needs of a server with so many shards. `messages`: how many are stored meanwhile, for what the process keeps of
    /// them.
    ///
    fn forecast(&self, behaviour: &Behaviour, messages: f64, shards: usize) -> Forecast {
        let users = behaviour.users as f64;
        // Each user is in a direct conversation beside the groups.
        let memory = users * (self.connection_bytes + self.direct_bytes)
            + behaviour.memberships() as f64 * self.membership_bytes
            + messages * self.message_bytes;
        let rate = behaviour.messages_per_second;
        Forecast {
            cores: self.cores(behaviour, shards.max(1) as f64),
            memory_bytes: memory,
            wire_bytes_per_second: rate * behaviour.deliveries_per_message() * self.wire_bytes,
            disk_bytes_per_day: rate * self.disk_bytes * SECONDS_A_DAY,
        }
    }

    /// What arrives at a shard that sleeps costs more than what arrives while it is at work, so the cores that a load needs depend on
    /// themselves. The more they are, the lower the prices: there is one number of cores at whose prices the load needs just that.
    fn cores(&self, behaviour: &Behaviour, shards: f64) -> f64 {
        let needed: Vec<(f64, f64)> =
            self.levels.iter().map(|level| (level.utilisation * shards, level.prices.cores(behaviour))).collect();
        let (mut low, mut high) = (0.0, needed.iter().map(|(_, cores)| *cores).fold(0.0, f64::max));
        for _ in 0..SOLVE_STEPS {
            let middle = f64::midpoint(low, high);
            if between(&needed, middle) > middle { low = middle } else { high = middle }
        }
        f64::midpoint(low, high)
    }

    fn describe(&self, outcome: &mut Outcome) {
        for Level { name: when, prices, .. } in &self.levels {
            let all = [
                ("message", prices.message, "a message: received, durable, acknowledged"),
                ("delivery", prices.delivery, "one delivery of it"),
                ("read", prices.read, "a read cursor that moves"),
                ("typing", prices.typing, "a typing notice that comes in"),
                ("notice", prices.notice, "a notice that goes out"),
                ("resume", prices.resume, "a connection that is lost and resumed"),
                ("ping", prices.ping, "a ping"),
            ];
            for (name, value, what) in all {
                outcome.figure(
                    &format!("{name}_us_{when}"),
                    value,
                    "us",
                    &format!("CPU of {what}, on a {when} server"),
                );
            }
        }
        outcome.figure("connection_bytes", self.connection_bytes, "B", "memory of an idle connection");
        outcome.figure("direct_bytes", self.direct_bytes, "B", "memory of a user's place in a direct conversation");
        outcome.figure("membership_bytes", self.membership_bytes, "B", "memory of a user's place in a group");
    }
}

/// Halvings after which a forecast is as exact as a double. Unit: steps.
const SOLVE_STEPS: usize = 60;

/// The value at `at` on the line through these points, which are in order; beyond its ends that of the end.
fn between(points: &[(f64, f64)], at: f64) -> f64 {
    for pair in points.windows(2) {
        let [(from, left), (to, right)] = *pair else { continue };
        if at <= from {
            return left;
        }
        if at < to {
            return left + (right - left) * (at - from) / (to - from);
        }
    }
    points.last().map_or(0.0, |(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_found_wherever_a_result_has_them() {
        let costs = Costs { levels: vec![level(0.1, 3.0)], ..Costs::default() };
        let result =
            serde_json::json!({ "outcomes": [{ "config": { "rate": 1 } }, { "config": { "costs": &costs } }] });
        assert_eq!(find_costs(&result), Some(costs));
        assert_eq!(find_costs(&serde_json::json!({ "outcomes": [] })), None);
    }

    #[test]
    fn a_busy_shard_is_not_woken() {
        let levels = vec![level(0.01, 100_000.0), level(0.5, 40_000.0), level(0.8, 20_000.0)];
        let costs = Costs { levels, ..Costs::default() };
        let behaviour = |rate| Behaviour {
            users: 10,
            users_per_group: 10,
            largest_group: 4,
            messages_per_second: rate,
            group_share: 0.0,
            reads_per_message: 0.0,
            typing_per_message: 0.0,
            reconnects_per_second: 0.0,
            size: 200,
        };
        let cores = |rate, shards| costs.forecast(&behaviour(rate), 0.0, shards).cores;
        assert!((cores(0.01, 1) - 0.001).abs() < 1e-9, "seldom: the price of a server that sleeps");
        assert!((cores(12.5, 1) - 0.5).abs() < 1e-9, "12.5 a second at 40 ms each is half a core, whose price that is");
        assert!((cores(45.0, 1) - 0.9).abs() < 1e-9, "often: the price of a busy one");
        let between = cores(5.0, 1);
        assert!(between > 5.0 * 0.04 && between < 5.0 * 0.1, "{between}");
        assert!(cores(12.5, 2) > 0.5, "two shards sleep more than one");
    }

    fn level(utilisation: f64, message: f64) -> Level {
        Level { name: String::new(), utilisation, prices: Prices { message, ..Prices::default() } }
    }
}
