//! How costs grow: one group at ever more members, online and mostly offline, and ever more idle connections. Ends in plots whose lines
//! should be flat.

use super::options::Options;
use super::stage::Failure;
use super::{group, idle};
use crate::report::{Line, Outcome, Plot, Progress};

/// Sizes of the group. Unit: members. `--members` cuts the list.
const MEMBERS: [usize; 4] = [100, 1_000, 10_000, 50_000];
/// Idle connections. Unit: connections. `--connections` cuts the list.
const CONNECTIONS: [usize; 3] = [1_000, 10_000, 50_000];
/// Part of the members that is offline in the second half.
const OFFLINE: f64 = 0.9;

/// Runs it.
///
/// # Errors
/// When one of the runs has no result.
pub fn run(options: &Options, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::new();
    let mut plots = Plots::default();
    for members in MEMBERS.into_iter().filter(|members| *members <= options.members.unwrap_or(usize::MAX)) {
        for offline in [0.0, OFFLINE] {
            progress.say(&format!("group of {members}, {:.0} % offline", offline * 100.0));
            let outcome = group::one(options, progress, members, offline)?;
            plots.group(members, offline, &outcome);
            outcomes.push(outcome);
        }
    }
    for count in CONNECTIONS.into_iter().filter(|count| *count <= options.connections.unwrap_or(usize::MAX)) {
        progress.say(&format!("{count} idle connections"));
        let outcome = idle::one(options, progress, count)?;
        plots.idle(count, &outcome);
        outcomes.push(outcome);
    }
    let mut summary = Outcome::new("growth", "How costs grow with members and connections", options.transport.name());
    if let Some(last) = outcomes.last() {
        summary.pressure = last.pressure.clone();
    }
    summary.series = plots.draw();
    outcomes.insert(0, summary);
    Ok(outcomes)
}

/// A figure by size, for everybody online and for most offline.
type Pair = [Vec<(f64, f64)>; 2];

#[derive(Default)]
struct Plots {
    cpu: Pair,
    memory: Pair,
    last: Pair,
    idle_bytes: Vec<(f64, f64)>,
    idle_cores: Vec<(f64, f64)>,
}

impl Plots {
    fn group(&mut self, members: usize, offline: f64, outcome: &Outcome) {
        let which = usize::from(offline > 0.0);
        let figure = |name: &str| outcome.figures.get(name).map(|figure| (members as f64, figure.value));
        let put = |pair: &mut Pair, point: Option<(f64, f64)>| {
            if let (Some(line), Some(point)) = (pair.get_mut(which), point) {
                line.push(point);
            }
        };
        put(&mut self.cpu, figure("server_cpu_us_per_recipient"));
        put(&mut self.memory, figure("server_bytes_per_member"));
        let last =
            outcome.latency.get("send_to_last").map(|all| (members as f64, all.value_at_quantile(0.5) as f64 / 1e6));
        put(&mut self.last, last);
    }

    fn idle(&mut self, count: usize, outcome: &Outcome) {
        let figure = |name: &str| outcome.figures.get(name).map(|figure| (count as f64, figure.value));
        self.idle_bytes.extend(figure("server_bytes_per_connection"));
        self.idle_cores.extend(figure("cores_per_million"));
    }

    fn draw(self) -> Vec<Plot> {
        let groups = [
            ("Server CPU for one recipient by members", "microseconds", self.cpu, false),
            ("Server memory by member of the group", "bytes", self.memory, false),
            ("Send to the last screen by members (median)", "milliseconds", self.last, true),
        ];
        let mut plots: Vec<Plot> = groups
            .into_iter()
            .map(|(title, y_label, [online, offline], log_y)| {
                let lines = vec![
                    Line { name: "everybody online".to_owned(), points: online },
                    Line { name: "90 % offline".to_owned(), points: offline },
                ];
                plot(title, "members", y_label, log_y, lines)
            })
            .collect();
        let line = |points| vec![Line { name: "idle".to_owned(), points }];
        let bytes = ("Server memory for one idle connection", "bytes", self.idle_bytes);
        let cores = ("Server CPU of a million idle connections", "cores", self.idle_cores);
        for (title, y_label, points) in [bytes, cores] {
            plots.push(plot(title, "connections", y_label, false, line(points)));
        }
        plots
    }
}

fn plot(title: &str, x_label: &str, y_label: &str, log_y: bool, lines: Vec<Line>) -> Plot {
    let (title, x_label, y_label) = (title.to_owned(), x_label.to_owned(), y_label.to_owned());
    Plot { title, x_label, y_label, log_x: true, log_y, lines }
}
