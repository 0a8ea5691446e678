//! The results for people at a terminal, and the same as Markdown.

use std::io::{self, Write};

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use comfy_table::{Cell, CellAlignment, Table, TableStyle};

use super::json::{PERCENTILES, micros_at};
use super::{Outcome, words};
use crate::measure::Machine;

/// Of so many outcomes the details are printed too; of more, the report has them.
const DETAILED_MAX: usize = 3;
/// Columns of the summary; all after the third are numbers.
const HEADS: [&str; 9] = [
    "scenario",
    "transport",
    "result",
    "delivered",
    "lost/rep/ord/alt",
    "ack p50, p99",
    "delivery p50, p99",
    "CPU/delivery",
    "floor",
];

/// Prints the outcomes on stdout. A closed pipe is nobody's error.
pub fn print_table(outcomes: &[Outcome]) {
    let _ = io::stdout().lock().write_all(text(outcomes).as_bytes());
}

/// What [`print_table`] prints.
#[must_use]
pub fn text(outcomes: &[Outcome]) -> String {
    let mut text = format!("{}\n", summary(outcomes, UTF8_FULL_CONDENSED));
    for outcome in outcomes {
        text.push_str(&remarks(outcome));
        if outcomes.len() <= DETAILED_MAX {
            text.push_str(&details(outcome));
        }
    }
    text
}

/// The summary as Markdown, with the machine it belongs to.
#[must_use]
pub fn markdown(machine: &Machine, outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{} cores of {}, Linux {}, commit {} ({}), {}\n\n{}\n",
        machine.cores,
        machine.cpu,
        machine.kernel,
        machine.commit,
        machine.profile,
        machine.date(),
        summary(outcomes, ASCII_MARKDOWN)
    );
    for outcome in outcomes {
        let figures = outcome.figures.iter().map(|(name, figure)| {
            format!(
                "- {}: {} ({})\n",
                words::figure_title(name),
                words::quantity(figure.value, &figure.unit),
                figure.what
            )
        });
        let figures: String = figures.collect();
        if !figures.is_empty() || !outcome.complaints().is_empty() || outcome.pressure.void {
            text.push_str(&format!(
                "\n## {} {}: {}\n\n{}\n\n",
                outcome.scenario,
                outcome.transport,
                outcome.verdict().words(),
                outcome.title
            ));
            for remark in outcome.complaints().iter().chain(&outcome.pressure.reasons) {
                text.push_str(&format!("- **{remark}**\n"));
            }
            text.push_str(&figures);
        }
    }
    text
}

fn summary(outcomes: &[Outcome], style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style).set_header(HEADS);
    for outcome in outcomes {
        let cpu = outcome.server.as_ref().and_then(|server| server.cpu_us_per_delivery);
        let ratio = outcome.ratio_to_floor.map(|ratio| format!("{} x", words::number(ratio)));
        let broken = [outcome.lost, outcome.duplicated, outcome.reordered, outcome.corrupt];
        let numbers = [
            words::count(outcome.delivered),
            broken.map(words::count).join(" / "),
            pair(outcome, "send_to_ack"),
            pair(outcome, "send_to_delivery"),
            cpu.map_or_else(|| words::NOTHING.to_owned(), words::micros),
            ratio.unwrap_or_else(|| words::NOTHING.to_owned()),
        ];
        let mut row =
            vec![Cell::new(&outcome.scenario), Cell::new(&outcome.transport), Cell::new(outcome.verdict().words())];
        row.extend(numbers.iter().map(|number| Cell::new(number).set_alignment(CellAlignment::Right)));
        table.add_row(row);
    }
    table
}

fn pair(outcome: &Outcome, name: &str) -> String {
    let times = outcome.latency.get(name).filter(|times| !times.is_empty());
    times.map_or_else(
        || words::NOTHING.to_owned(),
        |times| format!("{}, {}", words::micros(micros_at(times, 0.5)), words::micros(micros_at(times, 0.99))),
    )
}

/// What must not be overlooked, a line each.
fn remarks(outcome: &Outcome) -> String {
    let name = format!("{} {}", outcome.scenario, outcome.transport);
    let complaints = outcome.complaints().into_iter().map(|complaint| format!("{name}: NOT CLEAN: {complaint}\n"));
    let void = outcome.pressure.reasons.iter().map(|reason| format!("{name}: VOID: {reason}\n"));
    let limits = outcome.client.bottleneck.iter().map(|why| format!("{name}: the generator was the limit: {why}\n"));
    complaints.chain(void).chain(limits).collect()
}

fn details(outcome: &Outcome) -> String {
    let mut text = format!("\n{}: {}\n", outcome.scenario, outcome.title);
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["latency", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean", "count"]);
    for (name, times) in outcome.latencies() {
        let mut row = vec![Cell::new(words::title(name))];
        let values = PERCENTILES.iter().map(|(_, quantile)| words::micros(micros_at(times, *quantile)));
        let values = values.chain([words::micros(times.mean() / 1e3), words::count(times.len())]);
        row.extend(values.map(|value| Cell::new(value).set_alignment(CellAlignment::Right)));
        table.add_row(row);
    }
    if table.row_count() > 0 {
        text.push_str(&format!("{table}\n"));
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["figure", "value", "what it is"]);
    if let Some(server) = &outcome.server {
        let use_of = format!("{} s, {}", words::number(server.cpu_seconds), words::bytes(server.rss_bytes as f64));
        table.add_row(figure("server", &use_of, "CPU and memory"));
        if let Some(bytes) = server.rss_bytes_per_connection {
            table.add_row(figure("per connection", &words::bytes(bytes), "server memory"));
        }
    }
    table.add_row(figure("generator", &format!("{} s", words::number(outcome.client.cpu_seconds)), "CPU"));
    for (name, value) in &outcome.figures {
        table.add_row(figure(&words::figure_title(name), &words::quantity(value.value, &value.unit), &value.what));
    }
    if let Some(ratio) = outcome.ratio_to_floor {
        table.add_row(figure("ratio to floor", &format!("{} x", words::number(ratio)), &outcome.ratio_what));
    }
    for (what, count) in &outcome.errors {
        table.add_row(figure(what, &words::count(*count), "refused or closed"));
    }
    text.push_str(&format!("{table}\n"));
    for note in &outcome.notes {
        text.push_str(&format!("- {note}\n"));
    }
    text
}

fn figure(name: &str, value: &str, what: &str) -> Vec<Cell> {
    vec![Cell::new(name), Cell::new(value).set_alignment(CellAlignment::Right), Cell::new(what)]
}
