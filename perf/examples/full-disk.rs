//! A server on a disk that becomes full under load, by its own growth and by somebody else's at once: nothing acknowledged may be missing,
//! and it must go on by itself when there is space. Needs root, for the disk is a file that is mounted.
//! `cargo run -p tern-perf --example full-disk -- --binary target/release/tern --rounds 10`; with `--kind growth` or `at-once` only one.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use tern_perf::child::{Server, ServerPlan};
use tern_perf::load::{Load, LoadError, LoadPlan};

/// What the server has of the disk. Unit: bytes.
const DISK_SIZE: u64 = 1_300 * 1024 * 1024;
/// What a file takes of it that is removed when space is to come back after growth. Unit: bytes.
const BALLAST_SIZE: u64 = 1_500 * 1024 * 1024;
/// How long a disk stays full while clients go on trying.
const FULL: Duration = Duration::from_secs(8);
/// Longest time until the server is full by itself, and until it goes on.
const PATIENCE: Duration = Duration::from_secs(900);
/// Messages after which it counts as going on. Unit: messages.
const GOES_ON: u64 = 100;

/// How the disk becomes full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// By what the server itself writes.
    Growth,
    /// By a file of somebody else, at once and to the last byte.
    AtOnce,
}

struct Plan {
    binary: PathBuf,
    directory: PathBuf,
    rounds: u32,
    kinds: Vec<Kind>,
}

/// A file with a file system, mounted.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn make(directory: &Path) -> Result<Self, LoadError> {
        let disk = Self { image: directory.join("disk.img"), mount: directory.join("disk") };
        std::fs::create_dir_all(&disk.mount)?;
        std::fs::File::create(&disk.image)?.set_len(DISK_SIZE + BALLAST_SIZE)?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&disk.image)])?;
        run("mount", &["-o", "loop", &text(&disk.image), &text(&disk.mount)])?;
        let ballast = std::fs::File::create(disk.mount.join("ballast"))?;
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, BALLAST_SIZE)?;
        Ok(disk)
    }

    fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.mount).map_or(0, |found| found.f_bavail * found.f_frsize)
    }

    fn fill(&self) -> Result<(), LoadError> {
        let file = std::fs::File::create(self.mount.join("filler"))?;
        let mut at = 0;
        while self.free() > 0 {
            let size = self.free();
            if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), at, size).is_err() {
                // What metadata needs is not there to be had: the rest in small pieces.
                let piece = 4096;
                if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), at, piece).is_err() {
                    break;
                }
                at += piece;
            } else {
                at += size;
            }
        }
        Ok(())
    }

    /// Space comes back.
    fn empty(&self) -> Result<(), LoadError> {
        for name in ["filler", "ballast"] {
            match std::fs::remove_file(self.mount.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &[&text(&self.mount)]);
        let _ = std::fs::remove_file(&self.image);
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn run(program: &str, words: &[&str]) -> Result<(), LoadError> {
    let output = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the result of the run is what it is for")]
async fn main() -> ExitCode {
    let mut failed = 0;
    let plan = match parse() {
        Ok(plan) => plan,
        Err(why) => {
            println!("full-disk: {why}");
            return ExitCode::FAILURE;
        }
    };
    for round in 1..=plan.rounds {
        for kind in plan.kinds.iter().copied() {
            let directory = plan.directory.join(format!("{kind:?}-{round}"));
            match play(&plan.binary, &directory, kind).await {
                Ok(line) => println!("{kind:?} {round}: {line}"),
                Err(why) => {
                    failed += 1;
                    println!("{kind:?} {round}: FAILED: {why} (see {})", directory.display());
                }
            }
        }
    }
    println!("full-disk: {}", if failed == 0 { "clean" } else { "FAILED" });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse() -> Result<Plan, String> {
    let directory = std::env::temp_dir().join(format!("tern-full-disk-{}", std::process::id()));
    let mut plan = Plan { binary: PathBuf::new(), directory, rounds: 1, kinds: vec![Kind::Growth, Kind::AtOnce] };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--binary" => plan.binary = std::path::absolute(&value).map_err(|error| error.to_string())?,
            "--directory" => plan.directory = value.into(),
            "--kind" if value == "growth" => plan.kinds = vec![Kind::Growth],
            "--kind" if value == "at-once" => plan.kinds = vec![Kind::AtOnce],
            "--rounds" => plan.rounds = value.parse().map_err(|_| format!("{word} {value}: not a number"))?,
            _ => return Err(format!("there is no option {word}")),
        }
    }
    if plan.binary.as_os_str().is_empty() { Err("--binary is needed".to_owned()) } else { Ok(plan) }
}

/// One server on one disk that becomes full once.
async fn play(binary: &Path, directory: &Path, kind: Kind) -> Result<String, LoadError> {
    std::fs::create_dir_all(directory)?;
    let disk = Disk::make(directory)?;
    let data = disk.mount.join("data");
    let plan = ServerPlan::new(binary, directory)?.with("TERN_DATA_DIR", &text(&data));
    let started = plan.clone();
    let server = tokio::task::spawn_blocking(move || started.start()).await??;
    let load = Load::start(LoadPlan {
        server: plan.listen.to_string(),
        directory: directory.to_owned(),
        clients: 4,
        interval: Duration::from_millis(10),
        body_size: 15 * 1024,
    })
    .await?;
    let least = become_full(&disk, &server, &load, kind).await?;
    let before = load.acked();
    disk.empty()?;
    let space_at = Instant::now();
    until("it to go on", &server, || load.acked() > before + GOES_ON).await?;
    let took = space_at.elapsed();
    let heals = server.metric("tern_view_heals_total").unwrap_or(0.0);
    let report = load.finish().await?;
    server.terminate()?;
    let status = tokio::task::spawn_blocking(move || server.wait(Duration::from_secs(60))).await??;
    if !report.verdict.is_clean() {
        return Err(format!("{:?}", report.verdict).into());
    }
    if !status.success() {
        return Err(format!("the server's end was {status}").into());
    }
    Ok(format!(
        "acknowledged {}, all there; least space {} MiB; went on {} ms after space came, view opened again {heals} times, refused {}",
        report.volume.acked,
        least >> 20,
        took.as_millis(),
        report.failed
    ))
}

/// Waits until the server takes nothing because there is no space, and as long again. Returns the least space that was seen.
async fn become_full(disk: &Disk, server: &Server, load: &Load, kind: Kind) -> Result<u64, LoadError> {
    until("a load", server, || load.acked() > 5 * GOES_ON).await?;
    if kind == Kind::AtOnce {
        disk.fill()?;
    }
    until("the disk to be full", server, || {
        server.admin_get("/health/ready").is_ok_and(|answer| answer.contains("disk"))
    })
    .await?;
    let mut least = disk.free();
    let end = Instant::now() + FULL;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
        least = least.min(disk.free());
    }
    Ok(least)
}

async fn until(what: &str, server: &Server, mut holds: impl FnMut() -> bool) -> Result<(), LoadError> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return Err(format!("waited in vain for {what}").into());
        }
        if server.rss().unwrap_or(0) == 0 {
            return Err(format!("the server ended while waiting for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
