//! `kill -9` at random moments while real clients chat, again and again: nothing acknowledged may be missing, nothing shown twice.
//! `cargo xtask kill-test` builds the server and runs this. A failure prints the directory with everything in it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tern_perf::child::{Server, ServerPlan};
use tern_perf::load::{Load, LoadError, LoadPlan, Report};

/// Shortest and longest life of a server between two kills. Unit: milliseconds.
const LIFE_MS: std::ops::Range<u64> = 200..2_500;

/// What to do.
struct Plan {
    binary: PathBuf,
    directory: PathBuf,
    rounds: u32,
    clients: u32,
    shards: u16,
    driver: String,
    seed: u64,
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the result of the run is what it is for")]
async fn main() -> ExitCode {
    let outcome = match parse() {
        Ok(plan) => run(&plan).await,
        Err(why) => Err(why.into()),
    };
    match outcome {
        Ok(report) if report.verdict.is_clean() && report.failed == 0 => {
            println!("kill-test: clean");
            ExitCode::SUCCESS
        }
        Ok(_) => {
            println!("kill-test: FAILED");
            ExitCode::FAILURE
        }
        Err(why) => {
            println!("kill-test: {why}");
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Plan, String> {
    let mut plan = Plan {
        binary: PathBuf::new(),
        directory: std::env::temp_dir().join(format!("tern-kill-test-{}", std::process::id())),
        rounds: 20,
        clients: 6,
        shards: 2,
        driver: "auto".to_owned(),
        seed: 1,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word} {value}: not a number"));
        match word.as_str() {
            "--binary" => plan.binary = std::path::absolute(&value).map_err(|error| error.to_string())?,
            "--directory" => plan.directory = value.into(),
            "--rounds" => plan.rounds = u32::try_from(number()?).map_err(|error| error.to_string())?,
            "--clients" => plan.clients = u32::try_from(number()?.max(2)).map_err(|error| error.to_string())?,
            "--shards" => plan.shards = u16::try_from(number()?).map_err(|error| error.to_string())?,
            "--seed" => plan.seed = number()?,
            "--driver" => plan.driver = value,
            _ => return Err(format!("there is no option {word}")),
        }
    }
    if plan.binary.as_os_str().is_empty() { Err("--binary is needed".to_owned()) } else { Ok(plan) }
}

#[expect(clippy::print_stdout, reason = "the result of the run is what it is for")]
async fn run(plan: &Plan) -> Result<Report, LoadError> {
    let mut server_plan = ServerPlan::new(&plan.binary, &plan.directory)?;
    server_plan.shards = plan.shards;
    server_plan.driver.clone_from(&plan.driver);
    println!(
        "kill-test: {} rounds, {} clients, seed {}, in {}",
        plan.rounds,
        plan.clients,
        plan.seed,
        plan.directory.display()
    );
    let mut server = start(&server_plan).await?;
    let load = Load::start(LoadPlan {
        server: server_plan.listen.to_string(),
        directory: plan.directory.clone(),
        clients: plan.clients,
        interval: Duration::from_millis(10),
        body_size: 0,
    })
    .await?;
    let mut random = plan.seed;
    for round in 1..=plan.rounds {
        random = tern_protocol::placement::mix64(random);
        let life = LIFE_MS.start + random % (LIFE_MS.end - LIFE_MS.start);
        tokio::time::sleep(Duration::from_millis(life)).await;
        server.kill()?;
        println!("round {round}: killed after {life} ms, {} messages acknowledged so far", load.acked());
        server = start(&server_plan).await?;
    }
    tokio::time::sleep(Duration::from_millis(LIFE_MS.start)).await;
    let report = load.finish().await?;
    server.terminate()?;
    let status = tokio::task::spawn_blocking(move || server.wait(Duration::from_secs(60))).await??;
    let (verdict, volume) = (report.verdict, report.volume);
    println!("acknowledged {}, stored {}, shown on screens {}", volume.acked, volume.stored, volume.shown);
    println!(
        "acknowledged and missing {}, holes {}, duplicates {}, different {}, screens behind {}, sends that failed {}",
        verdict.acked_missing, verdict.holes, verdict.duplicates, verdict.different, verdict.behind, report.failed
    );
    if !status.success() {
        return Err(format!("the server's last end was {status}").into());
    }
    if volume.acked == 0 {
        return Err("nothing was acknowledged: nothing was tested".into());
    }
    if report.verdict.is_clean() {
        std::fs::remove_dir_all(&plan.directory)?;
    }
    Ok(report)
}

/// Starts the server without stopping the clients' own thread meanwhile.
async fn start(plan: &ServerPlan) -> Result<Server, LoadError> {
    let plan = plan.clone();
    Ok(tokio::task::spawn_blocking(move || plan.start()).await??)
}
