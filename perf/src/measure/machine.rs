//! The machine and the build that a result belongs to. A figure without them can be compared with nothing. Says `unknown` where it does
//! not know; never guesses.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What stands where the system does not say.
const UNKNOWN: &str = "unknown";
/// The kernel's settings that decide what a socket can hold.
const SYSCTLS: [&str; 5] =
    ["net.core.rmem_max", "net.core.wmem_max", "net.core.somaxconn", "net.core.netdev_max_backlog", "fs.file-max"];

/// The machine, the system and the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs that are online.
    pub cores: u64,
    /// Whether the CPU says that it is a guest's.
    pub virtualised: bool,
    /// Memory. Unit: bytes.
    pub memory_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// What sets the clock of the CPU; `none` where the guest has no say.
    pub governor: String,
    /// Settings of the kernel by name.
    pub sysctls: BTreeMap<String, String>,
    /// Soft limit of open files.
    pub open_files: String,
    /// Compiler.
    pub rustc: String,
    /// Commit of the build, `-dirty` when files differ from it.
    pub commit: String,
    /// `release` or `debug`.
    pub profile: String,
    /// When it was read. Unit: seconds since 1970.
    pub unix_seconds: u64,
}

impl Machine {
    /// Looks at this machine.
    #[must_use]
    pub fn read() -> Self {
        let cpuinfo = text("/proc/cpuinfo");
        let sysctls = SYSCTLS.iter().map(|name| {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            ((*name).to_owned(), known(text(&path).trim()))
        });
        Self {
            cpu: known(field(&cpuinfo, "model name")),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as u64,
            virtualised: field(&cpuinfo, "flags").split(' ').any(|flag| flag == "hypervisor"),
            memory_bytes: kib(&text("/proc/meminfo"), "MemTotal") * 1024,
            kernel: known(text("/proc/sys/kernel/osrelease").trim()),
            governor: governor(),
            sysctls: sysctls.collect(),
            open_files: open_files(&text("/proc/self/limits")),
            rustc: rustc(),
            commit: commit(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }

    /// When it was read, for people: `2026-10-31 14:05 UTC`.
    #[must_use]
    pub fn date(&self) -> String {
        let (year, month, day) = civil(self.unix_seconds / 86_400);
        let (hour, minute) = (self.unix_seconds / 3_600 % 24, self.unix_seconds / 60 % 60);
        format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
    }
}

/// A file of the kernel; empty where there is none.
pub(super) fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first `name : value` line.
pub(super) fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map_or("", |(_, value)| value.trim())
}

/// The value of a `name: N kB` line. Unit: KiB.
pub(super) fn kib(text: &str, name: &str) -> u64 {
    field(text, name).trim_end_matches(" kB").parse().unwrap_or(0)
}

/// Days since 1970 as year, month, day of the Gregorian calendar.
///
/// # Source
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`, for dates after 1970.
pub(super) const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// The soft limit of open files from `/proc/self/limits`.
pub(super) fn open_files(limits: &str) -> String {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    known(line.split_whitespace().next().unwrap_or_default())
}

fn known(value: &str) -> String {
    if value.is_empty() { UNKNOWN.to_owned() } else { value.to_owned() }
}

fn governor() -> String {
    if !Path::new("/sys/devices/system/cpu/cpu0/cpufreq").exists() {
        return "none".to_owned();
    }
    known(text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim())
}

/// The commit named at build time (`TERN_COMMIT`), else that of the checkout the binary was built in.
fn commit() -> String {
    if let Some(commit) = option_env!("TERN_COMMIT") {
        return commit.to_owned();
    }
    let Some(commit) = said("git", &["rev-parse", "--short=12", "HEAD"]) else { return UNKNOWN.to_owned() };
    match said("git", &["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        Some(_) => format!("{commit}-dirty"),
        None => commit,
    }
}

/// The compiler named at build time (`TERN_RUSTC`), else the one of the checkout.
fn rustc() -> String {
    option_env!("TERN_RUSTC").map(str::to_owned).or_else(|| said("rustc", &["--version"])).unwrap_or_else(|| known(""))
}

/// What a command prints in the directory this crate was built from; `None` where either is missing.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
