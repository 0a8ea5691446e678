//! Power cuts under the view's database with its workers: records what a run asks of the system with `strace`, writes out what a power cut at any
//! moment of it may leave, and opens each of these images. `cargo xtask crash-view` builds and runs this.
//! A failure keeps the trace and names the image: the same trace and seed give the same image again.

mod disk;
mod trace;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use tern_persistence::crash_view;

use disk::{Disk, Rng};
use trace::{Call, read};

/// What a child says on its standard output, so that the trace has it in its place.
const SYNCED: &str = "synced ";

struct Plan {
    images: u64,
    commits: u64,
    seed: u64,
    /// An earlier trace, instead of a new run.
    trace: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the result of the run is what it is for")]
fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match &words[..] {
        [word, directory, commits] if word == "work" => work(Path::new(directory), commits),
        words => parse(words).and_then(|plan| run(&plan)),
    };
    match outcome {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("crash-view: {why}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<Plan, String> {
    let mut plan = Plan { images: 200, commits: 400, seed: 1, trace: None };
    for pair in words.chunks(2) {
        let [word, value] = pair else { return Err("every word needs a value".into()) };
        let number = value.parse().map_err(|_| format!("{word} needs a number"));
        match word.as_str() {
            "--images" => plan.images = number?,
            "--commits" => plan.commits = number?,
            "--seed" => plan.seed = number?,
            "--trace" => plan.trace = Some(value.into()),
            _ => return Err("it knows --images N, --commits N, --seed N and --trace DIRECTORY".into()),
        }
    }
    Ok(plan)
}

/// The recorded run.
#[expect(clippy::print_stdout, reason = "the trace must have it in its place")]
fn work(directory: &Path, commits: &str) -> Result<String, String> {
    let commits = commits.parse().map_err(|_| "work needs a number of commits")?;
    crash_view::work(directory, commits, |number| println!("{SYNCED}{number}"))?;
    Ok(String::new())
}

fn run(plan: &Plan) -> Result<String, String> {
    let began = Instant::now();
    let (kept, root) = match &plan.trace {
        Some(trace) => (trace.clone(), trace.join("data")),
        None => {
            let kept = std::env::temp_dir().join(format!("tern-crash-view-{}", std::process::id()));
            let root = kept.join("data");
            record(&kept, &root, plan.commits)?;
            (kept, root)
        }
    };
    let calls = read(&kept)?;
    let (traced, images) = (began.elapsed(), Instant::now());
    let found = replay(&calls, &root, plan).map_err(|why| {
        format!(
            "{why}\nto see it again: cargo xtask crash-view --images {} --seed {} --trace {}",
            plan.images,
            plan.seed,
            kept.display()
        )
    })?;
    if plan.trace.is_none() {
        std::fs::remove_dir_all(&kept).ok();
    }
    Ok(format!(
        "crash-view: {} images of {} calls, {found}; traced in {} ms, opened in {} ms\n",
        plan.images,
        calls.len(),
        traced.as_millis(),
        images.elapsed().as_millis()
    ))
}

fn record(kept: &Path, root: &Path, commits: u64) -> Result<(), String> {
    std::fs::create_dir_all(kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let status = Command::new("strace")
        .args(["-ff", "-qq", "-y", "-xx", "-s", "16777216", "--absolute-timestamps=format:unix,precision:ns"])
        .args(["-e", &format!("trace={}", trace::CALLS), "-o"])
        .arg(kept.join("trace"))
        .arg(own)
        .arg("work")
        .arg(root)
        .arg(commits.to_string())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("cannot start strace: {error}; install it"))?;
    if status.success() { Ok(()) } else { Err(format!("the run under strace ended with {status}")) }
}

/// Goes through the run and opens an image at each of so many moments.
fn replay(calls: &[Call], root: &Path, plan: &Plan) -> Result<String, String> {
    let mut rng = Rng::new(plan.seed);
    let mut moments: Vec<u64> = (0..plan.images).map(|_| rng.below(calls.len() as u64 + 1)).collect();
    moments.sort_unstable();
    let mut disk = Disk::new(root);
    let (mut synced, mut lost, mut torn, mut at) = (0, 0, 0, 0);
    let mut committed = 0;
    for (image, moment) in moments.iter().enumerate() {
        while at < *moment {
            let Some(call) = calls.get(usize::try_from(at).unwrap_or(usize::MAX)) else { break };
            if let Call::Say(text) = call {
                let number = text.trim().strip_prefix(SYNCED).and_then(|number| number.parse().ok());
                synced = number.unwrap_or(synced);
            } else {
                disk.take(call)?;
            }
            at += 1;
        }
        let place = image_place(plan.seed, image);
        let cut = disk.cut_power(&place, &mut rng).map_err(|error| format!("{}: {error}", place.display()))?;
        torn += u64::from(cut);
        let count = crash_view::check(&place, synced)
            .map_err(|why| format!("image {image}, after call {at}: {why}; it is in {}", place.display()))?;
        lost += u64::from(count == synced);
        committed = committed.max(count);
        std::fs::remove_dir_all(&place).map_err(|error| error.to_string())?;
    }
    Ok(format!("{torn} lost something, {lost} went back to the last sync, up to {committed} commits"))
}

fn image_place(seed: u64, image: usize) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    base.join(format!("tern-crash-view-{}-{seed}-{image}", std::process::id()))
}
