//! How many system calls the transport's threads of a server make: a count, which no neighbour changes. By `perf stat` on the kernel's tracepoint
//! (it stops nobody, as `strace` would), in turns of their own. Where `perf` may not or does not exist, the table goes without.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long `perf` may take to end. Unit: time.
const PATIENCE: Duration = Duration::from_secs(10);
/// From its start until it counts. Unit: time. What it misses of a turn's beginning is its share of a second.
const LEAD: Duration = Duration::from_millis(300);
/// Between two looks whether it has ended. Unit: time.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A count that is under way.
pub(crate) struct Calls {
    perf: Child,
}

impl Calls {
    /// Begins to count; `None` where that is not possible.
    pub(crate) fn begin(threads: &[String], directory: &Path) -> Option<Self> {
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ";", "-e", "raw_syscalls:sys_enter", "-t", &threads.join(","), "-o"]);
        command.arg(file(directory)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        std::fs::create_dir_all(directory).ok()?;
        let mut perf = command.spawn().ok()?;
        std::thread::sleep(LEAD);
        perf.try_wait().ok()?.is_none().then_some(Self { perf })
    }

    /// Ends it. Returns how many there were.
    pub(crate) fn end(mut self, directory: &Path) -> Option<f64> {
        kill_process(Pid::from_raw(i32::try_from(self.perf.id()).ok()?)?, Signal::INT).ok()?;
        let deadline = Instant::now() + PATIENCE;
        while self.perf.try_wait().ok()?.is_none() {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        counted(&std::fs::read_to_string(file(directory)).ok()?)
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        // It may have ended; either way it is gone.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

fn file(directory: &Path) -> std::path::PathBuf {
    directory.join("calls.csv")
}

/// The first field of the line of our event.
fn counted(report: &str) -> Option<f64> {
    report.lines().find(|line| line.contains("sys_enter"))?.split(';').next()?.parse().ok()
}
