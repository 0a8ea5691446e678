//! What a process used between two looks: CPU (also per thread), memory, switches, disk. Reads `/proc/PID`; the process does not notice.
//!
//! CPU counts whole ticks (`/proc/PID/stat`, 10 ms) for the process, and nanoseconds (`schedstat`) per thread where the kernel has them.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::machine::kib;

/// Ticks of `utime` and `stime` per second. Linux fixes `USER_HZ` at 100 for every architecture Tern runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Nanoseconds in a second.
const NANOS: f64 = 1e9;

/// Looks at one process, from `new` or the last [`ProcessMeter::restart`] on.
#[derive(Debug, Clone)]
pub struct ProcessMeter {
    pid: u32,
    from: Sample,
}

/// One look at a process. Counters run from its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// User and system time. Unit: seconds.
    pub cpu_seconds: f64,
    /// Memory in RAM. Unit: bytes.
    pub rss_bytes: u64,
    /// The most it ever had in RAM. Unit: bytes.
    pub rss_peak_bytes: u64,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
    /// Bytes the process made the disk read.
    pub disk_read_bytes: u64,
    /// Bytes the process made the disk write.
    pub disk_written_bytes: u64,
    /// Its threads by id.
    pub threads: BTreeMap<u32, ThreadSample>,
}

/// One look at a thread.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThreadSample {
    /// Name.
    pub name: String,
    /// Unit: seconds.
    pub cpu_seconds: f64,
    /// Times it went to sleep by itself.
    pub switches_voluntary: u64,
    /// Times another one took its CPU.
    pub switches_involuntary: u64,
}

/// CPU of all threads of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadUse {
    /// Name; numbers at the end are cut off, so `shard-0` and `shard-1` are one line.
    pub name: String,
    /// Threads of that name.
    pub threads: u64,
    /// Unit: seconds.
    pub cpu_seconds: f64,
}

/// What a process used between two looks. Memory is as of the second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// User and system time. Unit: seconds.
    pub cpu_seconds: f64,
    /// Memory in RAM. Unit: bytes.
    pub rss_bytes: u64,
    /// The most it ever had in RAM. Unit: bytes.
    pub rss_peak_bytes: u64,
    /// Growth of the memory. Unit: bytes; negative when it gave some back.
    pub rss_growth_bytes: i64,
    /// Times a thread that still lives went to sleep by itself.
    pub switches_voluntary: u64,
    /// Times another one took the CPU of a thread that still lives.
    pub switches_involuntary: u64,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
    /// Unit: bytes.
    pub disk_read_bytes: u64,
    /// Unit: bytes.
    pub disk_written_bytes: u64,
    /// CPU by name of the thread, most first.
    pub threads: Vec<ThreadUse>,
}

impl ProcessMeter {
    /// Looks for the first time.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn new(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, from: Sample::read(pid)? })
    }

    /// The calling process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn own() -> io::Result<Self> {
        Self::new(std::process::id())
    }

    /// Begins anew, after a warm-up.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn restart(&mut self) -> io::Result<()> {
        self.from = Sample::read(self.pid)?;
        Ok(())
    }

    /// What it used so far.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn usage(&self) -> io::Result<Usage> {
        Ok(Sample::read(self.pid)?.since(&self.from))
    }

    /// Its id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// CPU since it is looked at. Unit: seconds.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        Ok(cpu_seconds(&read(self.pid, "stat")?)? - self.from.cpu_seconds)
    }

    /// Memory it has in RAM at this moment. Unit: bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn rss(&self) -> io::Result<u64> {
        Ok(kib(&read(self.pid, "status")?, "VmRSS") * 1024)
    }

    /// Switches since it is looked at: voluntary, involuntary.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn switches(&self) -> io::Result<(u64, u64)> {
        let usage = self.usage()?;
        Ok((usage.switches_voluntary, usage.switches_involuntary))
    }
}

impl Sample {
    /// Looks at a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn read(pid: u32) -> io::Result<Self> {
        let (stat, status) = (read(pid, "stat")?, read(pid, "status")?);
        // Only readable for one's own processes; a server of another user keeps its disk bytes for itself.
        let (disk_read_bytes, disk_written_bytes) = disk_bytes(&read(pid, "io").unwrap_or_default());
        Ok(Self {
            cpu_seconds: cpu_seconds(&stat)?,
            rss_bytes: kib(&status, "VmRSS") * 1024,
            rss_peak_bytes: kib(&status, "VmHWM") * 1024,
            minor_faults: minor_faults(&stat),
            disk_read_bytes,
            disk_written_bytes,
            threads: threads(pid),
        })
    }

    /// What was used from `from` to this look.
    #[must_use]
    pub fn since(&self, from: &Self) -> Usage {
        let mut usage = Usage {
            cpu_seconds: (self.cpu_seconds - from.cpu_seconds).max(0.0),
            rss_bytes: self.rss_bytes,
            rss_peak_bytes: self.rss_peak_bytes,
            rss_growth_bytes: self.rss_bytes.cast_signed().saturating_sub(from.rss_bytes.cast_signed()),
            minor_faults: self.minor_faults.saturating_sub(from.minor_faults),
            disk_read_bytes: self.disk_read_bytes.saturating_sub(from.disk_read_bytes),
            disk_written_bytes: self.disk_written_bytes.saturating_sub(from.disk_written_bytes),
            ..Usage::default()
        };
        let mut by_name: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
        for (id, thread) in &self.threads {
            let before = from.threads.get(id).cloned().unwrap_or_default();
            usage.switches_voluntary += thread.switches_voluntary.saturating_sub(before.switches_voluntary);
            usage.switches_involuntary += thread.switches_involuntary.saturating_sub(before.switches_involuntary);
            let kind = by_name.entry(kind(&thread.name)).or_default();
            kind.0 += 1;
            kind.1 += (thread.cpu_seconds - before.cpu_seconds).max(0.0);
        }
        let uses = by_name.into_iter();
        usage.threads = uses
            .map(|(name, (threads, cpu_seconds))| ThreadUse { name: name.to_owned(), threads, cpu_seconds })
            .collect();
        usage.threads.sort_by(|a, b| b.cpu_seconds.total_cmp(&a.cpu_seconds));
        usage
    }
}

/// The name without the number at its end.
fn kind(name: &str) -> &str {
    let cut = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_', '.', ' ', '#', '/']);
    if cut.is_empty() { name } else { cut }
}

fn read(pid: u32, file: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}"))
}

/// The fields of a `stat` line from the third (state) on. The second, the name, may have spaces and brackets in it.
fn stat_fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

/// Fields 14 and 15 of a `stat` line (proc_pid_stat(5): utime, stime). Unit: seconds.
pub(super) fn cpu_seconds(stat: &str) -> io::Result<f64> {
    let mut fields = stat_fields(stat).skip(11).map(str::parse::<u64>);
    match (fields.next(), fields.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok((user + system) as f64 / TICKS_PER_SECOND),
        (_, _) => Err(io::Error::new(io::ErrorKind::InvalidData, "a stat line of /proc has no utime and stime")),
    }
}

/// Field 10 of a `stat` line.
pub(super) fn minor_faults(stat: &str) -> u64 {
    stat_fields(stat).nth(7).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// `read_bytes` and `write_bytes` of `/proc/PID/io`: what reached the disk, not what the page cache answered.
pub(super) fn disk_bytes(io: &str) -> (u64, u64) {
    let value = |name| super::machine::field(io, name).parse().unwrap_or(0);
    (value("read_bytes"), value("write_bytes"))
}

fn threads(pid: u32) -> BTreeMap<u32, ThreadSample> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeMap::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // A thread may end between the two reads: it is left out.
    ids.filter_map(|id| Some((id, thread(pid, id)?))).collect()
}

fn thread(pid: u32, id: u32) -> Option<ThreadSample> {
    let status = read(pid, &format!("task/{id}/status")).ok()?;
    let precise = read(pid, &format!("task/{id}/schedstat")).ok().and_then(|text| schedstat_seconds(&text));
    let cpu_seconds = match precise {
        Some(seconds) => seconds,
        None => cpu_seconds(&read(pid, &format!("task/{id}/stat")).ok()?).ok()?,
    };
    Some(thread_of(&status, cpu_seconds))
}

/// A thread from its `status`.
pub(super) fn thread_of(status: &str, cpu_seconds: f64) -> ThreadSample {
    let value = |name| super::machine::field(status, name).parse().unwrap_or(0);
    ThreadSample {
        name: super::machine::field(status, "Name").to_owned(),
        cpu_seconds,
        switches_voluntary: value("voluntary_ctxt_switches"),
        switches_involuntary: value("nonvoluntary_ctxt_switches"),
    }
}

/// First field of `schedstat`: time on a CPU in nanoseconds. A kernel without it says 0 for all.
pub(super) fn schedstat_seconds(text: &str) -> Option<f64> {
    let nanos: u64 = text.split_whitespace().next()?.parse().ok()?;
    (nanos > 0).then(|| nanos as f64 / NANOS)
}
