//! The table: for each load and server the median over the rounds with its spread, and the ratio to the baseline of the same round.

use std::fmt::Write as _;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use tern_perf::measure::{Machine, PRESSURE_MAX};

use crate::Args;
use crate::contender::{Kind, PEERS};
use crate::load::{LOADS, Sample};

const HEAD: [&str; 11] = [
    "load",
    "server",
    "CPU us per unit",
    "ratio to stock quinn",
    "transport's threads",
    "sleeps per unit",
    "system calls per unit",
    "datagrams out/in per unit",
    "delivery p50 us",
    "delivery p99 us",
    "ack p50 us",
];

/// What is printed at the end.
pub(crate) fn render(samples: &[Sample], calls: &[Option<f64>], args: &Args, machine: &Machine) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(HEAD);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (at, load) in LOADS.iter().enumerate() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            let own = select(samples, at, index);
            let baseline = select(samples, at, Kind::ALL.len() - 1);
            let ratios = own.iter().zip(&baseline).map(|(own, base)| own.cpu_us / base.cpu_us).collect();
            let column = |of: fn(&Sample) -> f64| Spread::of(own.iter().map(|sample| of(sample)).collect());
            table.add_row([
                format!("{} (unit: {})", load.name, load.unit),
                kind.name().to_owned(),
                column(|sample| sample.cpu_us).text(2),
                Spread::of(ratios).text(2),
                format!("{:.2}", column(|sample| sample.transport_us).median),
                format!("{:.2}", column(|sample| sample.sleeps).median),
                calls_of(calls, at * Kind::ALL.len() + index),
                [0, 1].map(|way| format!("{:.2}", datagrams(&own, way).median)).join("/"),
                format!("{:.0}", column(|sample| sample.delivery_us[0]).median),
                format!("{:.0}", column(|sample| sample.delivery_us[1]).median),
                format!("{:.0}", column(|sample| sample.ack_us[0]).median),
            ]);
        }
    }
    format!("{table}\n\n{}", caption(samples, args, machine))
}

fn select(samples: &[Sample], load: usize, contender: usize) -> Vec<&Sample> {
    let mut found: Vec<&Sample> =
        samples.iter().filter(|sample| (sample.load, sample.contender) == (load, contender)).collect();
    found.sort_by_key(|sample| sample.round);
    found
}

fn calls_of(calls: &[Option<f64>], at: usize) -> String {
    calls.get(at).copied().flatten().map_or_else(|| "-".to_owned(), |count| format!("{count:.2}"))
}

fn datagrams(samples: &[&Sample], way: usize) -> Spread {
    Spread::of(samples.iter().filter_map(|sample| sample.datagrams.get(way).copied()).collect())
}

/// Median, least and most.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (half, last) = (values.len() / 2, values.len().saturating_sub(1));
        let median = if values.len() % 2 == 1 { at(half) } else { f64::midpoint(at(half.saturating_sub(1)), at(half)) };
        Self { median, least: at(0), most: at(last) }
    }

    fn text(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.least, self.most)
    }
}

fn caption(samples: &[Sample], args: &Args, machine: &Machine) -> String {
    let others = Spread::of(samples.iter().map(|sample| sample.others_percent).collect());
    let mut text = format!(
        "{} rounds of {} s for each server and load, in turns; median (least-most). {PEERS} clients over QUIC, messages of 200 bytes, even \
         schedule, latency from the intended time. Servers on core {}, generator on core {}.\n",
        args.rounds, args.seconds, args.server_cpu, args.client_cpu
    );
    let _ = writeln!(
        text,
        "Stock quinn does the transport's part only: no log, no disk, no membership, no limits. The shards write every message to the log and \
         wait for the disk before they acknowledge or deliver it. So the ratio favours stock quinn, and its latency has no disk in it; the \
         shards' transport threads also do all of the chat logic. Sleeps are of \
         the whole process, system calls of the transport's threads."
    );
    let _ = write!(
        text,
        "{}, {} cores, Linux {}, commit {}, {}, {}. Others used {:.0} % ({:.0}-{:.0}) of the machine.",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.commit,
        machine.profile,
        machine.date(),
        others.median,
        others.least,
        others.most
    );
    let void = samples.iter().filter(|sample| sample.others_percent > PRESSURE_MAX).count();
    if void > 0 {
        let _ = write!(
            text,
            "\n\nThe machine was busy: in {void} of {} turns others used more than {PRESSURE_MAX:.0} % of it. Times are void, and CPU is \
             too high everywhere (cold caches). Ratios hold. Calls and datagrams are fewer than on a quiet machine wherever messages waited \
             for each other.",
            samples.len()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(spread.text(1), "2.5 (1.0-4.0)");
        assert_eq!(Spread::of(vec![5.0]).text(0), "5 (5-5)");
    }
}
