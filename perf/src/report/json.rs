//! The form for programs: one object per scenario. Its field names are a promise to whoever compares runs; they are checked by
//! `tests/report.rs`.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::{Outcome, folder};
use crate::measure::Machine;

/// Nanoseconds in a microsecond.
pub(super) const NANOS_PER_MICRO: f64 = 1e3;
/// Percentiles that are named.
pub(super) const PERCENTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999), ("max", 1.0)];

/// The object of the outcome. Latencies are in microseconds.
#[must_use]
pub fn to_json(machine: &Machine, outcome: &Outcome) -> Value {
    let latency: BTreeMap<&String, Value> =
        outcome.latency.iter().map(|(name, times)| (name, latency_us(times))).collect();
    json!({
        "scenario": outcome.scenario,
        "title": outcome.title,
        "transport": outcome.transport,
        "command": outcome.command,
        "commit": machine.commit,
        "machine": machine,
        "config": outcome.config,
        "verdict": outcome.verdict(),
        "clean": outcome.is_clean(),
        "void": outcome.pressure.void,
        "complaints": outcome.complaints(),
        "latency_us": latency,
        "delivered": outcome.delivered,
        "expected": outcome.expected,
        "lost": outcome.lost,
        "duplicated": outcome.duplicated,
        "reordered": outcome.reordered,
        "corrupt": outcome.corrupt,
        "errors": outcome.errors,
        "server": outcome.server,
        "client": outcome.client,
        "wire": wire(outcome),
        "floor": outcome.floor,
        "ratio_to_floor": outcome.ratio_to_floor,
        "ratio_what": outcome.ratio_what,
        "figures": outcome.figures,
        "series": outcome.series,
        "pressure": outcome.pressure,
        "notes": outcome.notes,
    })
}

/// All outcomes of a run: the object of the only one, or one object with all of them under `outcomes`. Each has the `name` that its files
/// begin with.
#[must_use]
pub fn to_json_all(machine: &Machine, outcomes: &[Outcome]) -> Value {
    let named = outcomes.iter().zip(folder::names(outcomes)).map(|(outcome, name)| {
        let mut object = to_json(machine, outcome);
        object["name"] = Value::from(name);
        object
    });
    let mut objects: Vec<Value> = named.collect();
    if objects.len() == 1 {
        return objects.remove(0);
    }
    let verdict = outcomes.iter().map(Outcome::verdict).max();
    json!({ "commit": machine.commit, "machine": machine, "verdict": verdict, "outcomes": objects })
}

/// Percentiles, mean, deviation and count of a histogram of nanoseconds. Unit: microseconds.
fn latency_us(times: &Histogram<u64>) -> Value {
    let mut object = Map::new();
    for (name, quantile) in PERCENTILES {
        object.insert(name.to_owned(), json!(micros_at(times, quantile)));
    }
    object.insert("min".to_owned(), json!(times.min() as f64 / NANOS_PER_MICRO));
    object.insert("mean".to_owned(), json!(times.mean() / NANOS_PER_MICRO));
    object.insert("stddev".to_owned(), json!(times.stdev() / NANOS_PER_MICRO));
    object.insert("count".to_owned(), json!(times.len()));
    Value::Object(object)
}

/// The value at a quantile; the true maximum at 1. Unit: microseconds.
pub(super) fn micros_at(times: &Histogram<u64>, quantile: f64) -> f64 {
    let nanos = if quantile >= 1.0 { times.max() } else { times.value_at_quantile(quantile) };
    nanos as f64 / NANOS_PER_MICRO
}

fn wire(outcome: &Outcome) -> Value {
    let wire = &outcome.wire;
    json!({
        "payload_bytes": wire.payload_bytes,
        "bytes_in": wire.bytes_in,
        "bytes_out": wire.bytes_out,
        "datagrams_in": wire.datagrams_in,
        "datagrams_out": wire.datagrams_out,
        "bytes_per_delivery": outcome.wire_bytes_per_delivery(),
        "datagrams_per_delivery": outcome.datagrams_per_delivery(),
    })
}
