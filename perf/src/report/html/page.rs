//! The page around the scenarios: verdict, summary, machine, and how to read it.

use std::io;

use super::parts::{Cell, badge, callout, class, element, escape, folded, list, table};
use super::section;
use crate::measure::{Machine, PRESSURE_MAX};
use crate::report::plot::COLOURS;
use crate::report::{Outcome, Verdict, folder, words};

/// Colours and sizes. Told apart: light and dark, wide and narrow.
const STYLE: &str = include_str!("style.css");

/// The whole file.
///
/// # Errors
/// When a plot cannot be drawn.
pub(in crate::report) fn page(machine: &Machine, outcomes: &[Outcome]) -> io::Result<String> {
    let names = folder::names(outcomes);
    let mut body = header(machine, outcomes);
    body.push_str("<main>\n");
    if outcomes.len() > 1 {
        body.push_str(&summary(outcomes, &names));
    }
    for (outcome, name) in outcomes.iter().zip(&names) {
        body.push_str(&section::section(outcome, name)?);
    }
    body.push_str(&environment(machine));
    body.push_str("</main>\n");
    let title = format!("Tern performance: {}", escape(&what(outcomes)));
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}{}</style>\n</head>\n\
         <body>\n{body}</body>\n</html>\n",
        line_colours()
    ))
}

/// The worst verdict of all.
pub(in crate::report) fn overall(outcomes: &[Outcome]) -> Verdict {
    outcomes.iter().map(Outcome::verdict).max().unwrap_or(Verdict::Clean)
}

fn header(machine: &Machine, outcomes: &[Outcome]) -> String {
    let verdict = overall(outcomes);
    let sentence = match verdict {
        Verdict::Clean => {
            "Every message arrived where it had to, once, in order and unaltered, and the machine did nothing else."
        }
        Verdict::Void => {
            "In what is marked VOID something had to wait for a CPU: do not use its times. No check of a message failed."
        }
        Verdict::NotClean => {
            "A check failed. What is marked NOT CLEAN says which; its figures are of a server that was not right."
        }
    };
    let line = format!(
        "{} · {} × {} · Linux {} · commit {} ({} build)",
        machine.date(),
        machine.cores,
        machine.cpu,
        machine.kernel,
        machine.commit,
        machine.profile
    );
    let debug = if machine.profile == "release" {
        Vec::new()
    } else {
        vec!["Measured with a debug build of the generator, which is several times slower: use --release.".to_owned()]
    };
    format!(
        "<header class=\"{}\">\n<p class=\"brand\">Tern performance report</p>\n<h1>{} {}</h1>\n{}{}{}</header>\n{}",
        class(verdict),
        escape(&what(outcomes)),
        badge(verdict),
        element("p", "verdict", sentence),
        element("p", "stamp", &line),
        folded("How to read this report", &guide()),
        callout("warn", "Not a release build", &debug),
    )
}

fn what(outcomes: &[Outcome]) -> String {
    match outcomes {
        [one] => format!("{}{}", one.scenario, section::over(one)),
        many => format!("{} runs", many.len()),
    }
}

fn summary(outcomes: &[Outcome], names: &[String]) -> String {
    let heads = [
        "scenario",
        "result",
        "delivered",
        "ack p50",
        "ack p99",
        "delivery p50",
        "delivery p99",
        "server CPU / delivery",
        "ratio to floor",
        "key figure",
    ];
    let rows: Vec<Vec<Cell>> = outcomes
        .iter()
        .zip(names)
        .map(|(outcome, name)| {
            let at = |latency: &str, quantile| Cell::Number(section::latency_at(outcome, latency, quantile));
            let cpu = outcome.server.as_ref().and_then(|server| server.cpu_us_per_delivery);
            let ratio = outcome
                .ratio_to_floor
                .map_or_else(|| words::NOTHING.to_owned(), |ratio| format!("{} ×", words::number(ratio)));
            let key = outcome.headline().map_or_else(String::new, |figure| {
                let value = words::quantity(figure.value, &figure.unit);
                format!("<b>{}</b><small>{}</small>", escape(&value), escape(&figure.what))
            });
            vec![
                Cell::Markup(format!(
                    "<a href=\"#{}\">{}{}</a><small>{}</small>",
                    escape(name),
                    escape(&outcome.scenario),
                    escape(&section::over(outcome)),
                    escape(&outcome.title)
                )),
                Cell::Markup(badge(outcome.verdict())),
                Cell::Number(words::count(outcome.delivered)),
                at("send_to_ack", 0.5),
                at("send_to_ack", 0.99),
                at("send_to_delivery", 0.5),
                at("send_to_delivery", 0.99),
                Cell::Number(cpu.map_or_else(|| words::NOTHING.to_owned(), words::micros)),
                Cell::Number(ratio),
                Cell::Markup(key),
            ]
        })
        .collect();
    format!("<section class=\"runs\">\n<h2>All runs</h2>\n{}</section>\n", table(&heads, &rows))
}

fn environment(machine: &Machine) -> String {
    let virtualised = if machine.virtualised { " (virtual)" } else { "" };
    let mut pairs = vec![
        ("CPU".to_owned(), format!("{} × {}{virtualised}", machine.cores, machine.cpu)),
        ("memory".to_owned(), words::bytes(machine.memory_bytes as f64)),
        ("kernel".to_owned(), format!("Linux {}", machine.kernel)),
        ("CPU governor".to_owned(), machine.governor.clone()),
        ("open files".to_owned(), machine.open_files.clone()),
        ("compiler".to_owned(), machine.rustc.clone()),
        ("commit".to_owned(), machine.commit.clone()),
        ("build".to_owned(), machine.profile.clone()),
        ("taken".to_owned(), machine.date()),
    ];
    pairs.extend(machine.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())));
    format!("<section>\n<h2>Machine</h2>\n<div class=\"narrow\">{}</div>\n</section>\n", list(&pairs))
}

fn guide() -> String {
    let sentences = [
        "Latency counts from the moment a request should have left, not from when it did: a server that stalls makes every request that was due \
         meanwhile late, and the figures show it."
            .to_owned(),
        "p99 is the value that 99 of 100 requests stay below; the plot by percentile gives the last of them as much room as all the others.".to_owned(),
        "CPU per delivery is what the server's process used, divided by the events that reached members. It moves less with the machine's mood than \
         any time on the clock, so compare it first."
            .to_owned(),
        "The floor is what the parts of a delivery cost on this machine when nothing else is done, measured in the same run. The ratio says how far \
         above it the server is, and can be compared between machines."
            .to_owned(),
        format!(
            "VOID: tasks of others waited for a CPU for more than {PRESSURE_MAX:.0} % of a quiet moment before the run, or others (or the hypervisor) took \
             more than {PRESSURE_MAX:.0} % of the machine during it, or tasks waited that much in a run that should leave CPUs idle."
        ),
        "NOT CLEAN: an acknowledged message never came, came twice, came out of order or altered, or a check of the scenario failed.".to_owned(),
    ];
    let items: String = sentences.iter().map(|sentence| element("li", "", sentence)).collect();
    format!("<ul class=\"guide\">\n{items}</ul>\n")
}

/// Ties the colours that plots are drawn in to the variables of the style sheet, which differ in the dark.
fn line_colours() -> String {
    let rules = COLOURS.iter().enumerate().map(|(index, (red, green, blue))| {
        format!(
            "svg [stroke=\"#{red:02X}{green:02X}{blue:02X}\"]{{stroke:var(--line{index})}}\n\
             svg [fill=\"#{red:02X}{green:02X}{blue:02X}\"]{{fill:var(--line{index})}}\n\
             .key i.line{index}{{background:var(--line{index})}}\n"
        )
    });
    rules.collect()
}
