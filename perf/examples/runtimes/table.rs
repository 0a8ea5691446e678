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

/// With fewer quiet rounds than this, all rounds count.
const QUIET_ROUNDS_MIN: usize = 3;

/// The rounds of one load that count.
struct Rounds {
    numbers: Vec<u32>,
    quiet: bool,
}

impl Rounds {
    /// Those in which the machine was ours in the turn of every server; all where that was hardly ever so.
    fn of(samples: &[Sample], load: usize) -> Self {
        let own = || samples.iter().filter(move |sample| sample.load == load);
        let last = own().map(|sample| sample.round).max().unwrap_or(0);
        let is_quiet =
            |round: &u32| own().all(|sample| sample.round != *round || sample.others_percent <= PRESSURE_MAX);
        let quiet: Vec<u32> = (0..=last).filter(is_quiet).collect();
        if quiet.len() >= QUIET_ROUNDS_MIN {
            Self { numbers: quiet, quiet: true }
        } else {
            Self { numbers: (0..=last).collect(), quiet: false }
        }
    }
}

/// What is printed at the end.
pub(crate) fn render(samples: &[Sample], calls: &[Option<f64>], args: &Args, machine: &Machine) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(HEAD);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (at, load) in LOADS.iter().enumerate() {
        let rounds = Rounds::of(samples, at);
        let which = if rounds.quiet { "quiet" } else { "busy: void" };
        let name = format!("{}; unit: {}; {} rounds, {which}", load.name, load.unit, rounds.numbers.len());
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            let own = select(samples, at, index, &rounds);
            let baseline = select(samples, at, Kind::ALL.len() - 1, &rounds);
            let ratios = own.iter().zip(&baseline).map(|(own, base)| own.cpu_us / base.cpu_us).collect();
            let column = |of: fn(&Sample) -> f64| Spread::of(own.iter().map(|sample| of(sample)).collect());
            table.add_row([
                name.clone(),
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

fn select<'a>(samples: &'a [Sample], load: usize, contender: usize, rounds: &Rounds) -> Vec<&'a Sample> {
    let is_wanted = |sample: &&Sample| {
        (sample.load, sample.contender) == (load, contender) && rounds.numbers.contains(&sample.round)
    };
    let mut found: Vec<&Sample> = samples.iter().filter(is_wanted).collect();
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
    let _ = write!(
        text,
        " A round counts if they used at most {PRESSURE_MAX:.0} % in the turn of every server. A load with fewer than {QUIET_ROUNDS_MIN} such \
         rounds shows all of them and is void: there only the ratios say something, and calls and datagrams are fewer than on a quiet \
         machine because messages wait for each other."
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, others_percent: f64) -> Sample {
        let (contender, load) = (0, 0);
        let [cpu_us, transport_us, sleeps] = [1.0; 3];
        let [datagrams, delivery_us, ack_us] = [[1.0; 2]; 3];
        Sample { contender, load, round, cpu_us, transport_us, sleeps, datagrams, delivery_us, ack_us, others_percent }
    }

    #[test]
    fn a_round_with_one_busy_turn_does_not_count_where_there_are_enough_others() {
        let mut samples: Vec<Sample> = (0..4).map(|round| sample(round, 1.0)).collect();
        samples.push(sample(2, 90.0));
        let rounds = Rounds::of(&samples, 0);
        assert!(rounds.quiet);
        assert_eq!(rounds.numbers, [0, 1, 3]);
        samples.push(sample(1, 90.0));
        let rounds = Rounds::of(&samples, 0);
        assert!(!rounds.quiet);
        assert_eq!(rounds.numbers, [0, 1, 2, 3]);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(spread.text(1), "2.5 (1.0-4.0)");
        assert_eq!(Spread::of(vec![5.0]).text(0), "5 (5-5)");
    }
}
