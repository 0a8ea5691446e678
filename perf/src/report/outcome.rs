//! What a scenario hands over. Plain data: the scenario fills it, every writer reads it. What makes a run unclean is decided here and
//! nowhere else ([`Outcome::complaints`]).

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::{Pressure, ThreadUse, UdpDrops, Usage};

/// The latency that is the generator's own: how late it began what was due.
pub(super) const LATENESS: &str = "lateness";
/// Microseconds in a second.
const MICROS: f64 = 1e6;

/// What came of one run of one scenario. [`super::to_json`] is its form for programs.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Name on the command line: `direct`.
    pub scenario: String,
    /// The question it answers, one sentence: `How fast is a direct message on disk and on the other screen?`
    pub title: String,
    /// `quic`, `ws` or `both`.
    pub transport: String,
    /// The command that repeats it; empty: not shown.
    pub command: String,
    /// Everything that was chosen, seeds included.
    pub config: BTreeMap<String, serde_json::Value>,
    /// By name (`send_to_ack`), from the intended time on. Unit: nanoseconds.
    pub latency: BTreeMap<String, Histogram<u64>>,
    /// Events that members got, live or from history, once each.
    pub delivered: u64,
    /// Events that members had to get.
    pub expected: u64,
    /// Events that were acknowledged and that a connected member never got.
    pub lost: u64,
    /// Events that came twice.
    pub duplicated: u64,
    /// Live events that came after a later one.
    pub reordered: u64,
    /// Events whose body was not what was sent.
    pub corrupt: u64,
    /// What was refused or closed, by code. Shown; whether it was wrong is for the scenario to say in `failures`.
    pub errors: BTreeMap<String, u64>,
    /// What the scenario itself found broken, a sentence each. One makes the run unclean.
    pub failures: Vec<String>,
    /// What the server used; `None` when it runs on another machine.
    pub server: Option<ServerUse>,
    /// What the generator used.
    pub client: ClientUse,
    /// What went over the wire, as clients saw it.
    pub wire: Wire,
    /// This machine's floors by name; the name says the unit. Taken in the same run.
    pub floor: BTreeMap<String, f64>,
    /// The figure of the scenario divided by its floor.
    pub ratio_to_floor: Option<f64>,
    /// What the ratio divides by what: `server CPU per delivery / cold seal + open + send + receive`.
    pub ratio_what: String,
    /// The scenario's own figures by name.
    pub figures: BTreeMap<String, Figure>,
    /// Name of the figure that stands for the run where there is one line for it; empty: the first.
    pub headline: String,
    /// Plots of the scenario's own (memory by connections) and over time.
    pub series: Vec<Plot>,
    /// What the neighbours did.
    pub pressure: Pressure,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// What the server used during the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerUse {
    /// User and system time. Unit: seconds.
    pub cpu_seconds: f64,
    /// Memory in RAM at the end. Unit: bytes.
    pub rss_bytes: u64,
    /// The most it ever had. Unit: bytes.
    pub rss_peak_bytes: u64,
    /// Growth of its memory by the connections, divided by them. Unit: bytes.
    pub rss_bytes_per_connection: Option<f64>,
    /// Server CPU per delivered event. Unit: microseconds.
    pub cpu_us_per_delivery: Option<f64>,
    /// Times a thread went to sleep by itself.
    pub switches_voluntary: u64,
    /// Times another one took a thread's CPU.
    pub switches_involuntary: u64,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
    /// Unit: bytes.
    pub disk_read_bytes: u64,
    /// Unit: bytes.
    pub disk_written_bytes: u64,
    /// Datagrams that the kernel dropped.
    pub udp_drops: UdpDrops,
    /// CPU by name of the thread, most first.
    pub threads: Vec<ThreadUse>,
}

/// What the generator used during the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientUse {
    /// User and system time. Unit: seconds.
    pub cpu_seconds: f64,
    /// Memory in RAM at the end. Unit: bytes.
    pub rss_bytes: u64,
    /// How late it began what was due. Unit: microseconds.
    pub lateness_p99_us: f64,
    /// Why it, not the server, was the limit; `None`: it was not.
    pub bottleneck: Option<String>,
}

/// What went over the wire: sizes of UDP or TCP payloads, without IP headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// Body of one message. Unit: bytes.
    pub payload_bytes: u64,
    /// What clients received. Unit: bytes.
    pub bytes_in: u64,
    /// What clients sent. Unit: bytes.
    pub bytes_out: u64,
    /// Datagrams that clients received; 0 over TCP.
    pub datagrams_in: u64,
    /// Datagrams that clients sent; 0 over TCP.
    pub datagrams_out: u64,
}

/// A figure of the scenario's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The value.
    pub value: f64,
    /// Its unit: `1/s`, `bytes`, `us`, `%`.
    pub unit: String,
    /// What it is, for someone who has not read the scenario.
    pub what: String,
}

/// A plot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plot {
    /// Title.
    pub title: String,
    /// What goes to the right, with its unit.
    pub x_label: String,
    /// What goes up, with its unit.
    pub y_label: String,
    /// Whether x is logarithmic; then only positive values are drawn.
    pub log_x: bool,
    /// Whether y is logarithmic; then only positive values are drawn.
    pub log_y: bool,
    /// At most eight are told apart by colour.
    pub lines: Vec<Line>,
}

/// A line of a plot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Name in the legend.
    pub name: String,
    /// In ascending order of x.
    pub points: Vec<(f64, f64)>,
}

/// Whether an outcome counts. In order of gravity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every check held, and the machine was ours.
    Clean,
    /// Every check held, but tasks had to wait for a CPU: the figures count for nothing.
    Void,
    /// A check failed.
    NotClean,
}

impl Outcome {
    /// An outcome of which nothing is known yet.
    #[must_use]
    pub fn new(scenario: &str, title: &str, transport: &str) -> Self {
        Self {
            scenario: scenario.to_owned(),
            title: title.to_owned(),
            transport: transport.to_owned(),
            ..Self::default()
        }
    }

    /// Notes a figure of the scenario's own.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str, what: &str) {
        self.figures.insert(name.to_owned(), Figure { value, unit: unit.to_owned(), what: what.to_owned() });
    }

    /// Whether every check held; says nothing about the neighbours.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.complaints().is_empty()
    }

    /// What did not hold, a sentence each.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let counts = [
            (self.lost, "lost: acknowledged, and a connected member never got them"),
            (self.duplicated, "duplicated: shown to a member twice"),
            (self.reordered, "reordered: came after a later one"),
            (self.corrupt, "corrupt: the body was not what was sent"),
        ];
        let bad = counts.into_iter().filter(|(count, _)| *count > 0);
        let mut complaints: Vec<String> = bad.map(|(count, what)| format!("{count} {what}")).collect();
        if self.delivered < self.expected && self.lost == 0 {
            complaints.push(format!("{} of {} expected events were delivered", self.delivered, self.expected));
        }
        complaints.extend(self.failures.iter().cloned());
        complaints
    }

    /// Whether it counts. A failed check is one on a busy machine too.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.is_clean() {
            Verdict::NotClean
        } else if self.pressure.void {
            Verdict::Void
        } else {
            Verdict::Clean
        }
    }

    /// Latencies that something was recorded for; what the generator says of itself comes last.
    pub fn latencies(&self) -> impl Iterator<Item = (&String, &Histogram<u64>)> {
        let own = |name: &str| name == LATENESS;
        let (servers, owns) = (self.latency.iter(), self.latency.iter());
        let all = servers.filter(move |(name, _)| !own(name)).chain(owns.filter(move |(name, _)| own(name)));
        all.filter(|(_, times)| !times.is_empty())
    }

    /// The figure that stands for the run in a line: the one that `headline` names, else the first.
    #[must_use]
    pub fn headline(&self) -> Option<&Figure> {
        self.figures.get(&self.headline).or_else(|| self.figures.values().next())
    }

    /// Bytes that clients received per delivered event.
    #[must_use]
    pub fn wire_bytes_per_delivery(&self) -> Option<f64> {
        (self.delivered > 0).then(|| self.wire.bytes_in as f64 / self.delivered as f64)
    }

    /// Datagrams both ways per delivered event.
    #[must_use]
    pub fn datagrams_per_delivery(&self) -> Option<f64> {
        let datagrams = self.wire.datagrams_in + self.wire.datagrams_out;
        (self.delivered > 0 && datagrams > 0).then(|| datagrams as f64 / self.delivered as f64)
    }
}

impl ServerUse {
    /// From what the process used while it delivered `delivered` events.
    #[must_use]
    pub fn of(usage: &Usage, delivered: u64, udp_drops: UdpDrops) -> Self {
        Self {
            cpu_seconds: usage.cpu_seconds,
            rss_bytes: usage.rss_bytes,
            rss_peak_bytes: usage.rss_peak_bytes,
            rss_bytes_per_connection: None,
            cpu_us_per_delivery: (delivered > 0).then(|| usage.cpu_seconds * MICROS / delivered as f64),
            switches_voluntary: usage.switches_voluntary,
            switches_involuntary: usage.switches_involuntary,
            minor_faults: usage.minor_faults,
            disk_read_bytes: usage.disk_read_bytes,
            disk_written_bytes: usage.disk_written_bytes,
            udp_drops,
            threads: usage.threads.clone(),
        }
    }

    /// With the memory that `connections` added to `rss_before_bytes`.
    #[must_use]
    pub fn with_connections(mut self, rss_before_bytes: u64, connections: u64) -> Self {
        let grown = self.rss_bytes.saturating_sub(rss_before_bytes);
        self.rss_bytes_per_connection = (connections > 0).then(|| grown as f64 / connections as f64);
        self
    }
}

impl Verdict {
    /// In words: `CLEAN`, `VOID`, `NOT CLEAN`.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Clean => "CLEAN",
            Self::Void => "VOID",
            Self::NotClean => "NOT CLEAN",
        }
    }
}
