//! What the shard threads of a loaded server ask of the kernel: receiving, sending, waking others, and waiting in one place for all of it.
//! Anything else, and every wait for a lock, fails. Needs `strace`. `cargo xtask shard-calls` builds the server and runs this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use tern_perf::child::{Server, ServerPlan};
use tern_perf::load::{Load, LoadError, LoadPlan};

/// How long is looked.
const WATCHED: Duration = Duration::from_secs(3);
/// Calls that never wait, and the two that are the shard's one place to sleep (`io_uring_enter`, `epoll_wait`). Memory calls are the
/// allocator's.
const ALLOWED: [&str; 24] = [
    "io_uring_enter",
    "epoll_wait",
    "epoll_ctl",
    "poll",
    "read",
    "write",
    "recvmmsg",
    "recvmsg",
    "recvfrom",
    "sendmsg",
    "sendto",
    "sendmmsg",
    "close",
    "shutdown",
    "setsockopt",
    "fcntl",
    "dup",
    "getrandom",
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "futex",
];

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the result of the run is what it is for")]
async fn main() -> ExitCode {
    let binary = std::env::args().nth(2).unwrap_or_default();
    for driver in ["io_uring", "epoll"] {
        match watch(Path::new(&binary), driver).await {
            Ok(found) if found.iter().all(|(call, _)| is_allowed(call)) => println!("{driver}: {found:?}: ok"),
            Ok(found) => {
                let bad: Vec<_> = found.iter().filter(|(call, _)| !is_allowed(call)).collect();
                println!("{driver}: a shard thread made calls that may wait: {bad:?}");
                return ExitCode::FAILURE;
            }
            Err(why) => {
                println!("{driver}: {why}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn is_allowed(call: &str) -> bool {
    ALLOWED.contains(&call)
}

/// Loads a server and counts the calls of its shard threads.
async fn watch(binary: &Path, driver: &str) -> Result<BTreeMap<String, u64>, LoadError> {
    let directory = std::env::temp_dir().join(format!("tern-shard-calls-{}-{driver}", std::process::id()));
    let mut plan = ServerPlan::new(binary, &directory)?;
    plan.driver = driver.to_owned();
    let server = tokio::task::spawn_blocking(move || plan.start()).await??;
    let load = Load::start(LoadPlan {
        server: server.plan().listen.to_string(),
        directory: directory.clone(),
        clients: 6,
        interval: Duration::from_millis(5),
        body_size: 0,
    })
    .await?;
    let threads = shard_threads(&server)?;
    let mut found = BTreeMap::new();
    // Futexes apart: being stopped at every other call makes a thread hold the allocator's locks for longer than it ever does.
    for filter in ["trace=!futex", "trace=futex"] {
        let mut tracers = Vec::new();
        for (index, thread) in threads.iter().enumerate() {
            let file = directory.join(format!("calls-{index}"));
            let mut tracer = Command::new("strace");
            tracer.args(["-q", "-e", filter, "-p", thread, "-o"]).arg(&file).stderr(std::process::Stdio::null());
            let tracer = tracer.spawn().map_err(|error| format!("strace cannot be started: {error}"))?;
            tracers.push((tracer, file));
        }
        tokio::time::sleep(WATCHED).await;
        for (mut tracer, file) in tracers {
            tracer.kill()?;
            tracer.wait()?;
            count(&file, &mut found)?;
        }
    }
    let report = load.finish().await?;
    drop(server);
    if found.values().sum::<u64>() == 0 || report.volume.acked == 0 {
        return Err("nothing was seen: nothing was tested".into());
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(found)
}

/// Thread ids of the shards.
fn shard_threads(server: &Server) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/task", server.pid()))? {
        let path: PathBuf = entry?.path();
        if std::fs::read_to_string(path.join("comm"))?.starts_with("tern-shard") {
            found.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

/// Adds the calls of a trace; a futex that waits counts as one of its own.
fn count(file: &Path, found: &mut BTreeMap<String, u64>) -> std::io::Result<()> {
    for line in std::fs::read_to_string(file)?.lines() {
        let Some((call, rest)) = line.split_once('(') else { continue };
        let waits = call == "futex" && rest.contains("FUTEX_WAIT");
        *found.entry(if waits { "futex wait".to_owned() } else { call.to_owned() }).or_default() += 1;
    }
    Ok(())
}
