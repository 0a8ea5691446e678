//! What a scenario stands on: a server, accounts on it, a fleet of clients, the meters around a measurement, and the outcome that is
//! filled from them. Never decides what is measured.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::Value;
use tern_protocol::UserId;

use super::options::Options;
use super::schedule::{Each, Share};
use crate::accounts;
use crate::child::{Server, ServerPlan};
use crate::fleet::{Account, Action, Counts, Fleet, FleetPlan, PeerId, Tally};
use crate::measure::floor::Floor;
use crate::measure::{Pace, Pressure, PressureMeter, ProcessMeter, UdpMeter, Usage};
use crate::report::{Line, Outcome, Plot, Progress, ServerUse, Wire};

/// Why a scenario has no result. A result that is not clean is a result.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Directories that this process has made, so that two in one millisecond are two.
static DIRECTORIES: AtomicU64 = AtomicU64::new(0);

/// Kept-alive HTTPS connections that register and log accounts in. Unit: connections.
const ACCOUNT_CONNECTIONS: usize = 16;
/// How long all clients may take to connect, beyond the time that their schedule takes. Unit: time.
const CONNECT_SLACK: Duration = Duration::from_secs(60);
/// How long the end of a run may take: everything acknowledged, everything delivered. Unit: time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// From the making of a schedule to its first arrival, so that every worker has it by then. Unit: time.
const LEAD: Duration = Duration::from_millis(50);

/// A server and what is known of it.
pub(super) struct Stage<'a> {
    /// What the user wants.
    pub(super) options: &'a Options,
    /// The line on the terminal.
    pub(super) progress: &'a Progress,
    server: Option<Server>,
    /// Removed at the end.
    directory: Option<PathBuf>,
    address: SocketAddr,
    name: String,
    accounts: Vec<Account>,
    prefix: String,
    /// When the present fleet was launched.
    launched: Instant,
    /// What did not come to its end.
    unsettled: RefCell<Vec<String>>,
}

/// The meters around a measurement.
#[derive(Clone)]
pub(super) struct Window {
    launched: Instant,
    start: Instant,
    counts: Counts,
    server: Option<ProcessMeter>,
    client: ProcessMeter,
    port: u16,
    udp: UdpMeter,
    pressure: PressureMeter,
}

/// What was measured between two moments.
pub(super) struct Measured {
    /// When it began. Unit: seconds since the fleet was launched.
    pub(super) began: u64,
    /// How long it was. Unit: seconds.
    pub(super) seconds: f64,
    /// Counts of the window only.
    pub(super) counts: Counts,
    /// What the server used; `None` when it runs elsewhere.
    pub(super) server: Option<ServerUse>,
    /// What this program used.
    pub(super) client: Usage,
    /// How busy the machine was.
    pub(super) pressure: Pressure,
}

impl<'a> Stage<'a> {
    /// Starts a server with these settings beside the user's, or looks at the one that runs.
    ///
    /// # Errors
    /// When there is no server, in words that say what to do.
    pub(super) fn open(
        options: &'a Options,
        progress: &'a Progress,
        settings: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        // Accounts of earlier runs are somebody else's: their conversations would be in the books.
        let prefix = format!("p{:x}", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis());
        if let Some((address, name)) = options.remote()? {
            return Ok(Self {
                options,
                progress,
                server: None,
                directory: None,
                address,
                name,
                accounts: Vec::new(),
                prefix,
                launched: Instant::now(),
                unsettled: RefCell::default(),
            });
        }
        progress.phase("starting the server");
        let parent = options.data.clone().unwrap_or_else(std::env::temp_dir);
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("tern-perf-{}-{prefix}-{number}", std::process::id()));
        let mut plan = ServerPlan::new(&super::binary::find(options)?, &directory)?;
        plan.shards = options.shards;
        plan.driver.clone_from(&options.driver);
        plan.cpus = options.server_cpus.to_vec();
        plan.settings.extend(SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        plan.settings.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        plan.settings.extend(options.settings.iter().cloned());
        let server = plan.start()?;
        Ok(Self {
            options,
            progress,
            server: Some(server),
            directory: Some(directory),
            address: plan.listen,
            name: "localhost".to_owned(),
            accounts: Vec::new(),
            prefix,
            launched: Instant::now(),
            unsettled: RefCell::default(),
        })
    }

    /// Where the server listens.
    #[must_use]
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server, if it was started here.
    #[must_use]
    pub(super) const fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Where the server's data is, if it was started here: floors of the disk are measured on the same one.
    #[must_use]
    pub(super) fn directory(&self) -> &Path {
        self.directory.as_deref().unwrap_or_else(|| Path::new("."))
    }

    /// The first `count` accounts; those that do not exist yet are made.
    ///
    /// # Errors
    /// When the server does not let them in.
    pub(super) fn accounts(&mut self, count: usize) -> Result<Arc<[Account]>, Failure> {
        if self.accounts.len() < count {
            self.progress.phase_of("registering accounts", count as u64);
            let progress = self.progress;
            let done = |done: usize| progress.done(done as u64);
            self.accounts = accounts::provision(self.address, &self.prefix, count, ACCOUNT_CONNECTIONS, done)?;
        }
        Ok(self.accounts.iter().take(count).cloned().collect())
    }

    /// The users of these peers.
    ///
    /// # Errors
    /// When there are fewer accounts.
    pub(super) fn users(&self, peers: &[u32]) -> Result<Vec<UserId>, Failure> {
        let user = |peer: &u32| self.accounts.get(*peer as usize).map(|account| account.user);
        let users: Option<_> = peers.iter().map(user).collect();
        users.ok_or_else(|| "a conversation has more members than there are accounts".into())
    }

    /// A fleet of `count` clients that are not connected yet.
    ///
    /// # Errors
    /// When accounts, sockets or threads are not to be had.
    pub(super) fn fleet(&mut self, count: usize, adjust: impl FnOnce(&mut FleetPlan)) -> Result<Fleet, Failure> {
        let accounts = self.accounts(count)?;
        let mut plan = FleetPlan {
            server_name: self.name.clone(),
            carrier: self.options.transport.carrier(),
            workers: self.options.workers.max(1),
            cpus: self.options.client_cpus.to_vec(),
            sockets: self.options.sockets.max(2),
            seed: self.options.seed,
            ..FleetPlan::new(self.address, accounts)
        };
        adjust(&mut plan);
        self.launched = Instant::now();
        Ok(Fleet::launch(plan)?)
    }

    /// Connects these clients at the rate of the options and waits until all are in.
    ///
    /// # Errors
    /// When they are not in time.
    pub(super) fn connect(&self, fleet: &Fleet, peers: impl Iterator<Item = u32> + Clone) -> Result<(), Failure> {
        let count = peers.clone().count();
        self.progress.phase("connecting");
        let rate = self.options.connect_rate;
        let target = fleet.tally().counts.connected + count as u64;
        let start = soon();
        fleet
            .run(|worker, workers| Box::new(Each::new(start, rate, Share { worker, workers }, peers.clone(), connect)));
        let expected = if rate > 0.0 { Duration::try_from_secs_f64(count as f64 / rate)? } else { Duration::ZERO };
        self.wait(fleet, "clients to connect", expected * 4 + CONNECT_SLACK, |counts| counts.connected >= target)
    }

    /// Waits, with the counts on the progress line.
    ///
    /// # Errors
    /// When it takes too long.
    pub(super) fn wait(
        &self,
        fleet: &Fleet,
        what: &str,
        most: Duration,
        mut done: impl FnMut(&Counts) -> bool,
    ) -> Result<(), Failure> {
        let progress = self.progress;
        fleet.wait(what, most, |counts| {
            progress.update(counts.connected, counts.delivered);
            done(counts)
        })?;
        Ok(())
    }

    /// Lets the load run for a while, with the counts on the progress line.
    ///
    /// # Errors
    /// Never in itself; the fleet may have ended.
    pub(super) fn run_for(&self, fleet: &Fleet, phase: &'static str, length: Duration) -> Result<(), Failure> {
        self.progress.phase(phase);
        let until = Instant::now() + length;
        self.wait(fleet, phase, length + SETTLE_TIMEOUT, |_| Instant::now() >= until)
    }

    /// Waits until everything that was sent has arrived, and says what has not.
    pub(super) fn settle(&self, fleet: &Fleet) {
        self.progress.phase("waiting for the last messages");
        let settled = fleet.settle(SETTLE_TIMEOUT);
        if !settled.level {
            let what = format!(
                "after {} s {} requests had no answer and {} events had not arrived",
                settled.waited.as_secs(),
                settled.outstanding,
                settled.lost
            );
            self.unsettled.borrow_mut().push(what);
        }
    }

    /// Looks at the quiet machine for two seconds and sets the meters up; nothing may be going on. [`Window::begin`] begins.
    ///
    /// # Errors
    /// When the server has ended.
    pub(super) fn prepare(&self, fleet: &Fleet, pace: Pace) -> Result<Window, Failure> {
        self.progress.phase("looking at the quiet machine");
        let server = self.server_pid().map(ProcessMeter::new).transpose()?;
        let ours: Vec<u32> = self.server_pid().into_iter().collect();
        Ok(Window {
            launched: self.launched,
            pressure: PressureMeter::start(pace, &ours)?,
            start: Instant::now(),
            counts: fleet.tally().counts,
            server,
            client: ProcessMeter::own()?,
            port: self.address.port(),
            udp: UdpMeter::start(Some(self.address.port())),
        })
    }

    /// Process id of the server, if it runs here.
    #[must_use]
    pub(super) fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid).or(self.options.server_pid)
    }

    /// Memory of the server, if it runs here. Unit: bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn server_rss(&self) -> Result<Option<u64>, Failure> {
        Ok(self.server_pid().map(ProcessMeter::new).transpose()?.map(|meter| meter.rss()).transpose()?)
    }

    /// The floors of this machine, measured now: in the same run as what they are compared with.
    ///
    /// # Errors
    /// When the machine does not let them be measured.
    pub(super) fn floor(&self) -> Result<Option<Floor>, Failure> {
        if self.options.no_floor {
            return Ok(None);
        }
        self.progress.phase("measuring the floors of this machine");
        Ok(Some(Floor::quick(self.directory())?))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        drop(self.server.take());
        if let Some(directory) = &self.directory {
            // Its own folder in the temporary directory; what cannot be removed is the system's to remove.
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// Settings of a server that is to be measured: no room of everybody, and limits that a load generator may reach and people do not.
const SETTINGS: &[(&str, &str)] = &[
    ("TERN_CLUSTER__WORLD", "false"),
    ("TERN_CLUSTER__MEMBERS_MAX", "100000"),
    ("TERN_CLUSTER__ACCESS_TOKEN_LIFETIME", "1d"),
    ("TERN_AUTH__HASH_QUEUE_MAX", "10000"),
    ("TERN_LIMITS__FRAMES_PER_SECOND", "1000000"),
    ("TERN_LIMITS__FRAMES_BURST", "1000000"),
    ("TERN_LIMITS__INFLIGHT_MAX", "100000"),
    ("TERN_LOG__FILTER", "warn"),
];

impl Window {
    /// Everything counts from here on.
    ///
    /// # Errors
    /// When the server has ended.
    pub(super) fn begin(&mut self, fleet: &Fleet) -> Result<(), Failure> {
        fleet.mark();
        self.counts = fleet.tally().counts;
        if let Some(server) = &mut self.server {
            server.restart()?;
        }
        self.client.restart()?;
        self.udp = UdpMeter::start(Some(self.port));
        self.pressure.restart()?;
        self.start = Instant::now();
        Ok(())
    }

    /// What there was since it began. It goes on.
    ///
    /// # Errors
    /// When the server has ended.
    pub(super) fn read(&self, fleet: &Fleet) -> Result<Measured, Failure> {
        let counts = fleet.tally().counts.since(&self.counts);
        let drops = self.udp.drops();
        let server = match &self.server {
            Some(meter) => Some(ServerUse::of(&meter.usage()?, counts.delivered, drops)),
            None => None,
        };
        let seconds = self.start.elapsed().as_secs_f64();
        let began = self.start.duration_since(self.launched).as_secs();
        Ok(Measured { began, seconds, counts, server, client: self.client.usage()?, pressure: self.pressure.stop()? })
    }
}

impl Measured {
    /// CPU of the server for one of `count` things. Unit: microseconds.
    #[must_use]
    pub(super) fn server_us_per(&self, count: u64) -> Option<f64> {
        self.server.as_ref().filter(|_| count > 0).map(|server| server.cpu_seconds * 1e6 / count as f64)
    }

    /// CPU of this program for one of `count` things. Unit: microseconds.
    #[must_use]
    pub(super) fn client_us_per(&self, count: u64) -> Option<f64> {
        (count > 0).then(|| self.client.cpu_seconds * 1e6 / count as f64)
    }

    /// Cores that the server used.
    #[must_use]
    pub(super) fn server_cores(&self) -> Option<f64> {
        self.server.as_ref().map(|server| server.cpu_seconds / self.seconds.max(1e-9))
    }

    /// `count` by the length of the window. Unit: per second.
    #[must_use]
    pub(super) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds.max(1e-9)
    }
}

/// Fills what every outcome has: from the whole run's tally whether it is clean, from the window what it cost.
#[must_use]
pub(super) fn outcome(stage: &Stage<'_>, names: (&str, &str), tally: &Tally, measured: &Measured) -> Outcome {
    let mut outcome = outcome_of(stage.options, names, tally, measured);
    outcome.failures.append(&mut stage.unsettled.borrow_mut());
    outcome
}

/// The same without a stage.
#[must_use]
pub(super) fn outcome_of(
    options: &Options,
    (scenario, title): (&str, &str),
    tally: &Tally,
    measured: &Measured,
) -> Outcome {
    let counts = &tally.counts;
    let mut outcome = Outcome::new(scenario, title, options.transport.name());
    outcome.command = options.command(scenario);
    outcome.latency = tally.latency.iter().map(|(name, histogram)| ((*name).to_owned(), histogram.clone())).collect();
    (outcome.delivered, outcome.expected) = (counts.delivered + counts.repaired, counts.expected);
    (outcome.lost, outcome.duplicated) = (counts.lost, counts.duplicated);
    (outcome.reordered, outcome.corrupt) = (counts.reordered, counts.corrupt);
    let errors = [("rejected", &counts.rejected), ("closed by the server", &counts.closed_by_server)];
    for (what, whys) in errors {
        outcome.errors.extend(whys.iter().map(|(why, count)| (format!("{what}: {why}"), *count)));
    }
    let others = [
        ("connections lost", counts.lost_connections),
        ("messages given up", counts.sends_failed),
        ("frames that do not decode", counts.malformed),
    ];
    outcome
        .errors
        .extend(others.into_iter().filter(|(_, count)| *count > 0).map(|(what, count)| (what.to_owned(), count)));
    if counts.malformed > 0 {
        outcome.failures.push(format!("{} frames of the server do not decode", counts.malformed));
    }
    // People who stop reading are closed, and bad networks lose connections: there it is no fault.
    if !matches!(scenario, "slow-readers" | "lossy") {
        outcome.failures.extend(outcome.errors.iter().map(|(what, count)| format!("{what}: {count} times")));
    }
    outcome.server.clone_from(&measured.server);
    outcome.client.cpu_seconds = measured.client.cpu_seconds;
    outcome.client.rss_bytes = measured.client.rss_bytes;
    outcome.client.lateness_p99_us =
        tally.latency.get("lateness").map_or(0.0, |late| late.value_at_quantile(0.99) as f64 / 1e3);
    outcome.client.bottleneck = bottleneck(options, outcome.client.lateness_p99_us, measured);
    outcome.wire = Wire {
        payload_bytes: u64::from(options.size),
        bytes_in: measured.counts.bytes_in,
        bytes_out: measured.counts.bytes_out,
        datagrams_in: measured.counts.datagrams_in,
        datagrams_out: measured.counts.datagrams_out,
    };
    outcome.pressure = measured.pressure.clone();
    outcome.series.extend(over_time(tally, measured.began));
    let config = [
        ("payload_bytes", Value::from(options.size)),
        ("seed", Value::from(options.seed)),
        ("workers", Value::from(options.workers)),
        ("shards", Value::from(options.shards)),
        ("driver", Value::from(options.driver.clone())),
        ("server_cpus", Value::from(options.server_cpus.to_vec())),
        ("client_cpus", Value::from(options.client_cpus.to_vec())),
        ("measured_seconds", Value::from(measured.seconds)),
    ];
    outcome.config.extend(config.map(|(key, value)| (key.to_owned(), value)));
    outcome
}

/// Deliveries and their latency in each second of the run.
fn over_time(tally: &Tally, began: u64) -> Vec<Plot> {
    let series: Vec<_> = tally.series.iter().filter(|second| second.second >= began).collect();
    let with = |value: fn(&crate::fleet::Second) -> f64| -> Vec<(f64, f64)> {
        (0u32..).zip(&series).map(|(second, all)| (f64::from(second), value(all))).collect()
    };
    if series.len() < 3 || series.iter().all(|second| second.delivered == 0) {
        return Vec::new();
    }
    let plot = |title: &str, y_label: &str, lines| Plot {
        title: title.to_owned(),
        x_label: "seconds".to_owned(),
        y_label: y_label.to_owned(),
        log_x: false,
        log_y: false,
        lines,
    };
    let line = |name: &str, points| Line { name: name.to_owned(), points };
    vec![
        plot("Deliveries over time", "per second", vec![line("delivered", with(|second| second.delivered as f64))]),
        plot(
            "Send to delivery over time",
            "milliseconds",
            vec![
                line("p50", with(|second| second.p50_ns as f64 / 1e6)),
                line("p99", with(|second| second.p99_ns as f64 / 1e6)),
            ],
        ),
    ]
}

/// Puts the floors into an outcome, and how far above one of them it is.
pub(super) fn compare(
    outcome: &mut Outcome,
    floor: Option<&Floor>,
    what: &str,
    ratio: impl FnOnce(&Floor) -> Option<f64>,
) {
    if let Some(floor) = floor {
        outcome.floor = floor.figures();
        outcome.ratio_to_floor = ratio(floor);
        what.clone_into(&mut outcome.ratio_what);
    }
}

/// Whether this program, not the server, was what held things up.
fn bottleneck(options: &Options, late_us: f64, measured: &Measured) -> Option<String> {
    let idle = measured.counts.idle_ns as f64 / 1e9 / (measured.seconds * options.workers.max(1) as f64).max(1e-9);
    if idle < IDLE_MIN {
        return Some(format!("the generator's threads slept only {:.1} % of the time", idle * 100.0));
    }
    (late_us > LATE_MAX_US).then(|| format!("the generator was {:.0} ms late at its 99th percentile", late_us / 1e3))
}

/// Part of its time that a generator's thread must sleep for it not to be the limit.
const IDLE_MIN: f64 = 0.03;
/// How late the generator may be. Unit: microseconds.
const LATE_MAX_US: f64 = 50_000.0;

/// The first moment at which a new schedule may begin.
#[must_use]
pub(super) fn soon() -> Instant {
    Instant::now() + LEAD
}

/// An empty histogram: up to ten minutes at three digits. Unit: nanoseconds.
///
/// # Panics
/// Never: the library accepts these bounds.
#[must_use]
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("constant bounds")
}

const fn connect(_: PeerId) -> Action {
    Action::Connect
}
