//! One server of the comparison with its clients, ready to be loaded: a Tern with one shard, or the baseline. Dropping it ends it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tern_perf::accounts;
use tern_perf::child::{Server, ServerPlan, free_address, pin_thread};
use tern_perf::fleet::{Account, Action, Arrival, Fleet, FleetPlan, PeerId, Request};
use tern_protocol::{ConversationId, RequestId, UserId};

use crate::{Args, Failure};

/// Clients of each server: the first one writes into the group of all, and 2n and 2n+1 talk to each other.
pub(crate) const PEERS: u32 = 100;
/// How long setting up may take, each step. Unit: time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections that make accounts.
const ACCOUNT_CONNECTIONS: usize = 4;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Tern with this `driver`.
    Tern(&'static str),
    /// `stock-quinn`.
    Baseline,
}

impl Kind {
    /// All of them, the baseline last.
    pub(crate) const ALL: [Self; 4] =
        [Self::Tern("io_uring"), Self::Tern("epoll"), Self::Tern("glommio"), Self::Baseline];

    /// As the table says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tern("io_uring") => "shard, monoio io_uring",
            Self::Tern("epoll") => "shard, monoio epoll",
            Self::Tern(_) => "shard, glommio",
            Self::Baseline => "stock quinn, tokio",
        }
    }
}

/// A running server with connected clients.
pub(crate) struct Contender {
    pub(crate) fleet: Fleet,
    /// Everybody is in it.
    pub(crate) group: ConversationId,
    /// Of each pair.
    pub(crate) directs: Vec<ConversationId>,
    /// Its own folder.
    pub(crate) directory: PathBuf,
    process: Process,
}

enum Process {
    Tern(Server),
    Baseline(Child),
}

impl Contender {
    /// Starts it on its core, connects everybody, makes the conversations.
    pub(crate) fn start(kind: Kind, args: &Args) -> Result<Self, Failure> {
        let name = format!("tern-runtimes-{}-{}", std::process::id(), kind.name().replace([' ', ','], "-"));
        let directory = std::env::temp_dir().join(name);
        match kind {
            Kind::Tern(driver) => Self::start_tern(driver, directory, args),
            Kind::Baseline => Self::start_baseline(directory, args),
        }
    }

    fn start_tern(driver: &str, directory: PathBuf, args: &Args) -> Result<Self, Failure> {
        let mut plan = ServerPlan::new(&args.binary, &directory)?
            .with("TERN_CLUSTER__WORLD", "false")
            .with("TERN_LIMITS__FRAMES_PER_SECOND", "1000000")
            .with("TERN_LIMITS__FRAMES_BURST", "1000000")
            .with("TERN_LOG__FILTER", "warn");
        (plan.driver, plan.shards, plan.cpus) = (driver.to_owned(), 1, vec![args.server_cpu]);
        let server = plan.start()?;
        let accounts = accounts::provision(plan.listen, "r", PEERS as usize, ACCOUNT_CONNECTIONS, |_| {})?;
        let users: Vec<UserId> = accounts.iter().map(|account| account.user).collect();
        let [first, others @ ..] = &users[..] else { return Err("a comparison needs clients".into()) };
        let fleet = launch(plan.listen, accounts.into(), args)?;

        let request = RequestId::from_raw(1);
        let members = others.iter().map(|user| user.raw()).collect();
        let create = Request::CreateGroup { request, title: "all".into(), members, flags: 0 };
        let mut arrivals = vec![now(0, Action::Request(create))];
        let mut directs = Vec::new();
        for (peer, pair) in (0..).step_by(2).zip(users.chunks_exact(2)) {
            if let [one, other] = pair {
                directs.push(ConversationId::direct(*one, *other));
                arrivals.push(now(peer, Action::Request(Request::OpenDirect { user: *other })));
            }
        }
        let asked = arrivals.len() as u64;
        fleet.run(|_, _| Box::new(arrivals.clone().into_iter()));
        fleet.wait("the conversations", PATIENCE, |counts| counts.requests_acked >= asked)?;
        let group = ConversationId::group(*first, request);
        Ok(Self { fleet, group, directs, process: Process::Tern(server), directory })
    }

    fn start_baseline(directory: PathBuf, args: &Args) -> Result<Self, Failure> {
        let address = free_address()?;
        let users: Vec<UserId> = (1..=u64::from(PEERS)).map(UserId::from_raw).collect();
        let group = ConversationId::group(UserId::from_raw(1), RequestId::from_raw(1));
        let mut command = Command::new(&args.baseline);
        command.args(["--listen", &address.to_string(), "--group", &group.raw().to_string()]);
        // The child inherits the core.
        pin_thread(&[args.server_cpu])?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        pin_thread(&[args.client_cpu])?;
        let mut process = Process::Baseline(child?);
        process.wait_ready()?;
        let token = |user: &UserId| Account { user: *user, token: user.raw().to_string().into(), home: None };
        let fleet = launch(address, users.iter().map(token).collect(), args)?;
        let direct = |pair: &[UserId]| Some(ConversationId::direct(*pair.first()?, *pair.last()?));
        let directs = users.chunks_exact(2).filter_map(direct).collect();
        Ok(Self { fleet, group, directs, process, directory })
    }

    /// Whether a thread of this name does the transport's work.
    pub(crate) fn is_transport(&self, thread: &str) -> bool {
        matches!(self.process, Process::Baseline(_)) || thread.starts_with("tern-shard")
    }

    /// Ids of those threads.
    pub(crate) fn transport_threads(&self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
        let own = paths.filter(|path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|name| self.is_transport(name.trim_end()))
        });
        own.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        match &self.process {
            Process::Tern(server) => server.pid(),
            Process::Baseline(child) => child.id(),
        }
    }
}

impl Process {
    fn wait_ready(&mut self) -> Result<(), Failure> {
        let Self::Baseline(child) = self else { return Ok(()) };
        let output = child.stdout.take().ok_or("the baseline has no output")?;
        let said = BufReader::new(output).lines().next().transpose()?;
        if said.as_deref() == Some("ready") { Ok(()) } else { Err("the baseline does not start: see above".into()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Baseline(child) = self {
            // It may have ended by itself; either way it is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Its own folder in the temporary directory: what cannot be removed is the system's to remove.
fn remove(directory: &Path) {
    let _ = std::fs::remove_dir_all(directory);
}

/// A fleet on its core, with everybody connected.
fn launch(server: std::net::SocketAddr, accounts: Arc<[Account]>, args: &Args) -> Result<Fleet, Failure> {
    let plan = FleetPlan { cpus: vec![args.client_cpu], ..FleetPlan::new(server, accounts) };
    let fleet = Fleet::launch(plan)?;
    let everybody: Vec<Arrival> = (0..PEERS).map(|peer| now(peer, Action::Connect)).collect();
    fleet.run(|_, _| Box::new(everybody.clone().into_iter()));
    fleet.wait("the clients to connect", PATIENCE, |counts| counts.connected >= u64::from(PEERS))?;
    Ok(fleet)
}

fn now(peer: u32, action: Action) -> Arrival {
    Arrival { at: Instant::now(), peer: PeerId(peer), action }
}
