//! Whether the machine was ours while something was measured. A result taken on a busy machine is void, and says so.
//!
//! The kernel's pressure (`some` of `/proc/pressure/cpu`: the share of time in which at least one task was ready and had no CPU) does not
//! say whose tasks wait. Server and generator on two cores raise it by themselves as soon as they saturate them, which is the very thing some
//! scenarios are for. So three things are looked at, each where it says something:
//!
//! - **before** the run, in a window in which we do nothing: pressure there is others', whole. Above [`PRESSURE_MAX`] the result is void.
//! - **during** the run, the CPU that others used: what `/proc/stat` counts as user and system time, without ours (generator, server, and
//!   whoever else is named). Above [`PRESSURE_MAX`] of the machine: void. Interrupts are left out: on loopback they are our own packets.
//! - **during** the run, the time that the hypervisor kept for others (steal). Above [`PRESSURE_MAX`]: void.
//!
//! A run at a pace that leaves CPUs idle has no reason of its own to wait, so there ([`Pace::Paced`]) the plain rule holds too: pressure
//! during the run above [`PRESSURE_MAX`] is void, whoever caused it.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::machine::text;
use super::process::cpu_seconds;

/// Above this share a result is void. Unit: percent. Source: the rule for busy machines.
pub const PRESSURE_MAX: f64 = 20.0;
/// How long is looked before the run. Long enough that one timer tick of somebody (10 ms) is 0.5 %.
const QUIET_WINDOW: Duration = Duration::from_secs(2);
/// Ticks of `/proc/stat` per second (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Whether a scenario leaves the machine idle in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Offers a fixed rate that the machine carries easily: nothing of ours has to wait.
    #[default]
    Paced,
    /// Uses all CPU there is; waiting is part of it.
    Saturating,
}

/// What the neighbours did, and whether the result counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// Which rules hold.
    pub pace: Pace,
    /// Length of the run. Unit: seconds.
    pub seconds: f64,
    /// Share of a quiet window before the run in which some task waited for a CPU; `None` on a kernel without `/proc/pressure`.
    pub some_before_percent: Option<f64>,
    /// The same during the run, ours included.
    pub some_percent: Option<f64>,
    /// CPU that other processes used during the run, of the whole machine.
    pub others_percent: f64,
    /// CPU that we used during the run, of the whole machine.
    pub own_percent: f64,
    /// CPU that the hypervisor kept for others during the run, of the whole machine.
    pub steal_percent: f64,
    /// Whether the result counts for nothing.
    pub void: bool,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
}

/// One look at the machine's CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Look {
    /// `total=` of `some`. Unit: microseconds.
    pub(super) waited_us: Option<u64>,
    /// User, nice and system. Unit: ticks.
    pub(super) busy: u64,
    /// Unit: ticks.
    pub(super) steal: u64,
    /// Everything, idle included. Unit: ticks.
    pub(super) all: u64,
    /// CPU of our processes. Unit: seconds.
    pub(super) ours_seconds: f64,
}

/// Looks at the neighbours before and during a run.
#[derive(Debug, Clone)]
pub struct PressureMeter {
    pace: Pace,
    ours: Vec<u32>,
    before: Option<f64>,
    began: Instant,
    from: Look,
}

impl PressureMeter {
    /// Looks at the machine for two seconds, in which the caller's threads and the server must be idle; then the run begins. `ours` are
    /// the processes beside the calling one whose CPU is not others' (the server).
    ///
    /// # Errors
    /// When one of them has ended, or `/proc` is not mounted.
    pub fn start(pace: Pace, ours: &[u32]) -> io::Result<Self> {
        let waited = waited_us(&text("/proc/pressure/cpu"));
        let began = Instant::now();
        std::thread::sleep(QUIET_WINDOW);
        let before = percent_waited(waited, waited_us(&text("/proc/pressure/cpu")), began.elapsed());
        let ours = [&[std::process::id()], ours].concat();
        let from = Look::read(&ours)?;
        Ok(Self { pace, ours, before, began: Instant::now(), from })
    }

    /// Begins the run anew, after a warm-up; the window before the run is kept.
    ///
    /// # Errors
    /// When one of the processes has ended.
    pub fn restart(&mut self) -> io::Result<()> {
        self.from = Look::read(&self.ours)?;
        self.began = Instant::now();
        Ok(())
    }

    /// What there was so far.
    ///
    /// # Errors
    /// When one of the processes has ended.
    pub fn stop(&self) -> io::Result<Pressure> {
        let to = Look::read(&self.ours)?;
        Ok(Pressure::judge(self.pace, self.before, &self.from, &to, self.began.elapsed()))
    }
}

impl Look {
    fn read(ours: &[u32]) -> io::Result<Self> {
        let mut ours_seconds = 0.0;
        for pid in ours {
            ours_seconds += cpu_seconds(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
        }
        Self::parse(&text("/proc/pressure/cpu"), &text("/proc/stat"), ours_seconds)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/stat has no line of the whole machine"))
    }

    /// From the texts of `/proc/pressure/cpu` and `/proc/stat`.
    pub(super) fn parse(pressure: &str, stat: &str, ours_seconds: f64) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // proc_stat(5): user nice system idle iowait irq softirq steal; guest time is in user already.
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
        let [user, nice, system, _idle, _iowait, _irq, _softirq, steal] = ticks.as_slice() else { return None };
        let all = ticks.iter().sum();
        Some(Self { waited_us: waited_us(pressure), busy: user + nice + system, steal: *steal, all, ours_seconds })
    }
}

impl Pressure {
    pub(super) fn judge(pace: Pace, before: Option<f64>, from: &Look, to: &Look, length: Duration) -> Self {
        let all = to.all.saturating_sub(from.all).max(1) as f64;
        let busy = to.busy.saturating_sub(from.busy) as f64;
        let own = ((to.ours_seconds - from.ours_seconds) * TICKS_PER_SECOND).max(0.0);
        let mut pressure = Self {
            pace,
            seconds: length.as_secs_f64(),
            some_before_percent: before,
            some_percent: percent_waited(from.waited_us, to.waited_us, length),
            others_percent: (busy - own).max(0.0) / all * 100.0,
            own_percent: own / all * 100.0,
            steal_percent: to.steal.saturating_sub(from.steal) as f64 / all * 100.0,
            void: false,
            reasons: Vec::new(),
        };
        pressure.reasons = pressure.find_reasons();
        pressure.void = !pressure.reasons.is_empty();
        pressure
    }

    fn find_reasons(&self) -> Vec<String> {
        let during = match self.pace {
            Pace::Paced => self.some_percent,
            Pace::Saturating => None,
        };
        let looks = [
            (self.some_before_percent, "of the time tasks of others waited for a CPU before the run began"),
            (during, "of the time some task waited for a CPU during a run that leaves CPUs idle"),
            (Some(self.others_percent), "of the machine's CPU went to other processes during the run"),
            (Some(self.steal_percent), "of the machine's CPU was kept by the hypervisor during the run"),
        ];
        let above =
            looks.into_iter().filter_map(|(percent, what)| Some((percent.filter(|p| *p > PRESSURE_MAX)?, what)));
        above.map(|(percent, what)| format!("{percent:.0} % {what} (limit {PRESSURE_MAX:.0} %)")).collect()
    }
}

/// `total=` of the `some` line. Unit: microseconds.
pub(super) fn waited_us(pressure: &str) -> Option<u64> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

pub(super) fn percent_waited(from: Option<u64>, to: Option<u64>, length: Duration) -> Option<f64> {
    let waited = to?.saturating_sub(from?) as f64;
    Some(waited / (length.as_secs_f64() * 1e6).max(1.0) * 100.0)
}
