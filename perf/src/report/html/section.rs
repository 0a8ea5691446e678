//! One scenario on the page: what it asks, whether it counts, its figures, latencies and plots, what it cost, and how to repeat it.

use std::io;

use super::parts::{Cell, badge, callout, element, escape, folded, list, table};
use crate::report::json::{PERCENTILES, micros_at};
use crate::report::{Outcome, Plot, ServerUse, plot, words};

/// The section of an outcome, under its name in the folder.
pub(super) fn section(outcome: &Outcome, name: &str) -> io::Result<String> {
    let heading = format!("{}{}", outcome.scenario, over(outcome));
    let mut text = format!(
        "<section id=\"{}\">\n<h2>{} {}</h2>\n{}",
        escape(name),
        escape(&heading),
        badge(outcome.verdict()),
        element("p", "question", &outcome.title)
    );
    text.push_str(&callout("bad", "Checks that failed", &outcome.complaints()));
    text.push_str(&callout("warn", "The machine was busy: these figures count for nothing", &outcome.pressure.reasons));
    let limits: Vec<String> = outcome.client.bottleneck.iter().cloned().collect();
    text.push_str(&callout("warn", "The generator, not the server, was the limit", &limits));
    text.push_str(&tiles(outcome));
    text.push_str(&latencies(outcome));
    text.push_str(&plots(outcome)?);
    text.push_str(&errors(outcome));
    text.push_str(&notes(outcome));
    text.push_str(&costs(outcome));
    text.push_str(&folded_parts(outcome));
    if !outcome.command.is_empty() {
        text.push_str(&format!("<h3>To repeat it</h3>\n<pre><code>{}</code></pre>\n", escape(&outcome.command)));
    }
    text.push_str("</section>\n");
    Ok(text)
}

/// ` over QUIC`, for headings.
pub(super) fn over(outcome: &Outcome) -> String {
    match outcome.transport.as_str() {
        "" | "none" => String::new(),
        "quic" => " over QUIC".to_owned(),
        "ws" => " over WebSocket".to_owned(),
        "both" => " over QUIC and WebSocket".to_owned(),
        other => format!(" over {other}"),
    }
}

/// The quantile of a latency, if there is such a latency.
pub(super) fn latency_at(outcome: &Outcome, name: &str, quantile: f64) -> String {
    let times = outcome.latency.get(name).filter(|times| !times.is_empty());
    times.map_or_else(|| words::NOTHING.to_owned(), |times| words::micros(micros_at(times, quantile)))
}

fn tiles(outcome: &Outcome) -> String {
    let mut tiles = Vec::new();
    if outcome.expected > 0 {
        let books = [
            (outcome.lost, "lost"),
            (outcome.duplicated, "repeated"),
            (outcome.reordered, "out of order"),
            (outcome.corrupt, "altered"),
        ];
        let bad: Vec<String> =
            books.iter().filter(|book| book.0 > 0).map(|(n, what)| format!("{} {what}", words::count(*n))).collect();
        let what =
            if bad.is_empty() { "none lost, repeated, out of order or altered".to_owned() } else { bad.join(", ") };
        let class = if bad.is_empty() && outcome.delivered >= outcome.expected { "good" } else { "bad" };
        let of = words::count(outcome.expected);
        tiles.push(tile(
            class,
            &words::count(outcome.delivered),
            &format!("of {of} expected events delivered; {what}"),
        ));
    }
    if let Some(us) = outcome.server.as_ref().and_then(|server| server.cpu_us_per_delivery) {
        tiles.push(tile("", &words::micros(us), "server CPU per delivered event"));
    }
    if let Some(bytes) = outcome.server.as_ref().and_then(|server| server.rss_bytes_per_connection) {
        tiles.push(tile("", &words::bytes(bytes), "server memory per connection"));
    }
    if let Some(ratio) = outcome.ratio_to_floor {
        let what = if outcome.ratio_what.is_empty() { "this machine's floor" } else { &outcome.ratio_what };
        tiles.push(tile("", &format!("{} ×", words::number(ratio)), &format!("ratio to floor: {what}")));
    }
    for (name, figure) in &outcome.figures {
        let what = if figure.what.is_empty() { words::figure_title(name) } else { figure.what.clone() };
        tiles.push(tile("", &words::quantity(figure.value, &figure.unit), &what));
    }
    if tiles.is_empty() { String::new() } else { format!("<div class=\"tiles\">\n{}</div>\n", tiles.concat()) }
}

fn tile(class: &str, value: &str, what: &str) -> String {
    format!("<div class=\"tile {class}\"><b>{}</b><span>{}</span></div>\n", escape(value), escape(what))
}

fn latencies(outcome: &Outcome) -> String {
    let rows: Vec<Vec<Cell>> = outcome
        .latencies()
        .map(|(name, times)| {
            let what = words::latency_meaning(name);
            let label = format!("<b>{}</b><small>{}</small>", escape(&words::title(name)), escape(what));
            let mut row = vec![Cell::Markup(label)];
            row.extend(
                PERCENTILES.iter().map(|(_, quantile)| Cell::Number(words::micros(micros_at(times, *quantile)))),
            );
            row.push(Cell::Number(words::micros(times.mean() / 1e3)));
            row.push(Cell::Number(words::micros(times.stdev() / 1e3)));
            row.push(Cell::Number(words::count(times.len())));
            row
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["from the intended time", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean", "deviation", "count"];
    let cpu = outcome.server.as_ref().and_then(|server| server.cpu_us_per_delivery);
    let aside = cpu.map(|us| {
        let seconds = outcome.server.as_ref().map_or(0.0, |server| server.cpu_seconds);
        format!(
            "Beside the clock: the server used {} of CPU per delivery, {} s in all.",
            words::micros(us),
            words::number(seconds)
        )
    });
    let aside = aside.map_or_else(String::new, |sentence| element("p", "aside", &sentence));
    format!("<h3>Latency</h3>\n{}{aside}", table(&heads, &rows))
}

fn plots(outcome: &Outcome) -> io::Result<String> {
    let by_percentile = plot::percentiles(outcome.latencies());
    let mut figures = Vec::new();
    if !by_percentile.lines.is_empty() {
        figures.push(figure(&by_percentile, &plot::percentile_svg(&by_percentile)?));
    }
    for plot in outcome.series.iter().filter(|plot| plot.lines.iter().any(|line| !line.points.is_empty())) {
        figures.push(figure(plot, &plot::svg(plot)?));
    }
    Ok(if figures.is_empty() { String::new() } else { format!("<div class=\"plots\">\n{}</div>\n", figures.concat()) })
}

fn figure(plot: &Plot, svg: &str) -> String {
    let keys = plot.lines.iter().enumerate().map(|(index, line)| {
        let colour = index % plot::COLOURS.len();
        format!("<span><i class=\"line{colour}\"></i>{}</span>", escape(&line.name))
    });
    let key = if plot.lines.len() > 1 {
        format!("<div class=\"key\">{}</div>\n", keys.collect::<String>())
    } else {
        String::new()
    };
    // The library writes the element; what it is for stands beside it.
    let label = format!("<svg role=\"img\" aria-label=\"{}\" ", escape(&plot.title));
    let svg = svg.replacen("<svg ", &label, 1);
    format!(
        "<figure>\n<figcaption><b>{}</b><small>{}</small></figcaption>\n{key}{svg}</figure>\n",
        escape(&plot.title),
        escape(&plot.y_label)
    )
}

fn errors(outcome: &Outcome) -> String {
    if outcome.errors.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<Cell>> = outcome
        .errors
        .iter()
        .map(|(what, count)| vec![Cell::Words(what.clone()), Cell::Number(words::count(*count))])
        .collect();
    format!("<h3>Refused or closed</h3>\n<div class=\"narrow\">{}</div>\n", table(&["what", "times"], &rows))
}

fn notes(outcome: &Outcome) -> String {
    let items: String = outcome.notes.iter().map(|note| element("li", "", note)).collect();
    if items.is_empty() { items } else { format!("<h3>Notes</h3>\n<ul class=\"notes\">\n{items}</ul>\n") }
}

/// What server, generator, wire and neighbours did.
fn costs(outcome: &Outcome) -> String {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let seconds = |value: f64| format!("{} s", words::number(value));
    let percent =
        |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| format!("{} %", words::number(value)));
    let mut columns = Vec::new();
    if let Some(server) = &outcome.server {
        columns.push(column("Server", &server_pairs(server)));
    }
    let client = &outcome.client;
    let mut pairs = vec![pair("CPU", seconds(client.cpu_seconds))];
    if client.rss_bytes > 0 {
        pairs.push(pair("memory", words::bytes(client.rss_bytes as f64)));
    }
    pairs.push(pair("late at p99", words::micros(client.lateness_p99_us)));
    columns.push(column("Generator", &pairs));
    let wire = &outcome.wire;
    if wire.bytes_in + wire.bytes_out > 0 {
        let per = |value: Option<f64>| value.map_or_else(|| words::NOTHING.to_owned(), words::number);
        let mut pairs = vec![
            pair("body of a message", words::bytes(wire.payload_bytes as f64)),
            pair("to clients", words::bytes(wire.bytes_in as f64)),
            pair("from clients", words::bytes(wire.bytes_out as f64)),
            pair("bytes to clients per delivery", per(outcome.wire_bytes_per_delivery())),
        ];
        if wire.datagrams_in + wire.datagrams_out > 0 {
            pairs.push(pair(
                "datagrams in / out",
                format!("{} / {}", words::count(wire.datagrams_in), words::count(wire.datagrams_out)),
            ));
            pairs.push(pair("datagrams per delivery, both ways", per(outcome.datagrams_per_delivery())));
        }
        columns.push(column("Wire", &pairs));
    }
    let pressure = &outcome.pressure;
    let pairs = [
        pair("tasks waited for a CPU before", percent(pressure.some_before_percent)),
        pair("and during the run", percent(pressure.some_percent)),
        pair("CPU of others", percent(Some(pressure.others_percent))),
        pair("CPU of server and generator", percent(Some(pressure.own_percent))),
        pair("kept by the hypervisor", percent(Some(pressure.steal_percent))),
        pair("length of the run", seconds(pressure.seconds)),
    ];
    columns.push(column("Machine", &pairs));
    format!("<h3>What it took</h3>\n<div class=\"columns\">\n{}</div>\n", columns.concat())
}

fn column(heading: &str, pairs: &[(String, String)]) -> String {
    format!("<div><h4>{}</h4>\n{}</div>\n", escape(heading), list(pairs))
}

fn server_pairs(server: &ServerUse) -> Vec<(String, String)> {
    let drops = server.udp_drops;
    let mut pairs = vec![
        ("CPU".to_owned(), format!("{} s", words::number(server.cpu_seconds))),
        (
            "memory, most".to_owned(),
            format!("{}, {}", words::bytes(server.rss_bytes as f64), words::bytes(server.rss_peak_bytes as f64)),
        ),
        ("written to disk".to_owned(), words::bytes(server.disk_written_bytes as f64)),
        ("read from disk".to_owned(), words::bytes(server.disk_read_bytes as f64)),
        (
            "switches, own and forced".to_owned(),
            format!("{}, {}", words::count(server.switches_voluntary), words::count(server.switches_involuntary)),
        ),
        ("minor page faults".to_owned(), words::count(server.minor_faults)),
        ("datagrams dropped at its port".to_owned(), words::count(drops.server_port)),
        ("dropped on the whole machine".to_owned(), words::count(drops.receive_buffer + drops.send_buffer)),
    ];
    pairs.extend(server.threads.iter().filter(|thread| thread.cpu_seconds > 0.0).map(|thread| {
        (format!("CPU of {} × {}", thread.threads, thread.name), format!("{} s", words::number(thread.cpu_seconds)))
    }));
    pairs
}

fn folded_parts(outcome: &Outcome) -> String {
    let mut text = String::new();
    if !outcome.floor.is_empty() {
        let pairs: Vec<_> = outcome.floor.iter().map(|(name, value)| words::floor(name, *value)).collect();
        text.push_str(&folded("Floors of this machine, in the same run", &list(&pairs)));
    }
    if !outcome.config.is_empty() {
        let said = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let pairs: Vec<_> = outcome.config.iter().map(|(name, value)| (words::title(name), said(value))).collect();
        text.push_str(&folded("Everything that was chosen", &list(&pairs)));
    }
    text
}
