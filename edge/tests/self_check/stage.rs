//! A real server, a fleet that reaches it through something, and a group that all peers are in.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tern_client::auth::Auth;
use tern_client::wire::Dialer;
use tern_client::{ServerAddress, Trust};
use tern_perf::child::{Server, ServerPlan};
use tern_perf::fleet::{Account, Action, Arrival, Counts, Fleet, FleetPlan, PeerId, Request, Tally, Workload};
use tern_protocol::{ConversationId, RequestId};

/// How long anything may take that a test waits for. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Size of each message's body. Unit: bytes.
const BODY_SIZE: u32 = 200;
/// Between two looks at what a fleet has counted. Unit: time.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Messages of one steady load, whatever else happens. Unit: messages.
const MESSAGES_MAX: u64 = 50_000;
/// Messages after what was waited for has happened. Unit: messages.
const MESSAGES_AFTER: u64 = 100;

/// A server with a directory of its own, and accounts on it.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) accounts: Arc<[Account]>,
    pub(crate) directory: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new(peers: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let plan = ServerPlan::new(&PathBuf::from(env!("CARGO_BIN_EXE_tern")), directory.path()).unwrap();
        let server = plan.start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let trust = Trust::FirstUse(directory.path().join("known-servers"));
        let address = ServerAddress::parse(&plan.listen.to_string()).unwrap();
        let auth = Auth::new(Dialer::new(address, &trust).unwrap());
        let accounts = runtime.block_on(async {
            let mut accounts = Vec::new();
            for peer in 0..peers {
                let name = format!("peer{peer}");
                auth.register(&name, "correct horse", None).await.unwrap();
                let grant = auth.login(&name, "correct horse", "fleet").await.unwrap();
                let home = grant.home.map(|home| (home.shard, home.shards));
                accounts.push(Account { user: grant.user, token: grant.access_token.into(), home });
            }
            accounts
        });
        Self { server, accounts: accounts.into(), directory }
    }

    /// A fleet whose peers are all online and in one group.
    pub(crate) fn crew(&self, plan: FleetPlan) -> Crew {
        let fleet = Fleet::launch(plan).unwrap();
        let peers = self.accounts.len() as u64;
        let now = Instant::now();
        let connect = |peer| Arrival { at: now, peer, action: Action::Connect };
        run_list(&fleet, self.peers().map(connect).collect());
        until(&fleet, "all peers are in", |counts| counts.connected == peers);
        let request = RequestId::from_raw(0x5e1f_c4ec);
        let creator = self.accounts.first().unwrap().user;
        let members = self.accounts.iter().skip(1).map(|account| account.user.raw()).collect();
        let create = Request::CreateGroup { request, title: "self check".into(), members, flags: 0 };
        let action = Action::Request(create);
        run_list(&fleet, vec![Arrival { at: Instant::now(), peer: PeerId(0), action }]);
        until(&fleet, "the group is there", |counts| counts.requests_acked >= 1);
        assert!(fleet.settle(PATIENCE).level);
        Crew { fleet, group: ConversationId::group(creator, request), peers: self.peers().collect() }
    }

    fn peers(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..u32::try_from(self.accounts.len()).unwrap()).map(PeerId)
    }
}

/// A fleet in a group.
pub(crate) struct Crew {
    pub(crate) fleet: Fleet,
    group: ConversationId,
    peers: Vec<PeerId>,
}

/// What a load has done.
pub(crate) struct Load {
    /// When each message was meant to leave.
    pub(crate) intended: Vec<Instant>,
    pub(crate) tally: Tally,
}

impl Crew {
    /// One message to the group every `interval`, senders in turn, until something has happened and some more. Then it waits until nothing
    /// is outstanding and no more than `lost` events are missing anywhere.
    pub(crate) fn load(self, interval: Duration, lost: u64, happened: impl Fn() -> bool) -> Load {
        let shared = Arc::new(Shared::default());
        let (group, peers, state) = (self.group, self.peers, Arc::clone(&shared));
        let began = Instant::now();
        self.fleet.run(move |worker, _workers| {
            assert_eq!(worker, 0, "the list of intended times is one worker's");
            let (peers, shared) = (peers.clone(), Arc::clone(&state));
            Box::new(Steady { began, interval, group, peers, made: 0, left: MESSAGES_AFTER, shared })
        });
        until(&self.fleet, "what is waited for happens", |_| happened());
        *shared.ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        until(&self.fleet, "the load ends", |_| shared.has_ended.load(Ordering::SeqCst));
        let intended = std::mem::take(&mut *shared.intended.lock().unwrap_or_else(PoisonError::into_inner));
        let sent = intended.len() as u64;
        // A tally audits before it counts: an answer between the two makes it look quiet while the last message, of which the audit knew
        // nothing, is still under way. So it is audited again once it is quiet.
        until(&self.fleet, "it settles", |counts| {
            let is_quiet = counts.sends_intended == sent && counts.outstanding == 0;
            is_quiet && self.fleet.settle(Duration::ZERO).lost <= lost
        });
        Load { intended, tally: self.fleet.finish() }
    }
}

#[derive(Default)]
struct Shared {
    /// Messages that are meant to leave later than this are the last ones.
    ends: Mutex<Option<Instant>>,
    has_ended: AtomicBool,
    intended: Mutex<Vec<Instant>>,
}

/// Open loop: the times follow from the beginning alone, whatever became of the messages before.
struct Steady {
    began: Instant,
    interval: Duration,
    group: ConversationId,
    peers: Vec<PeerId>,
    made: u64,
    left: u64,
    shared: Arc<Shared>,
}

impl Workload for Steady {
    fn next(&mut self) -> Option<Arrival> {
        let number = u32::try_from(self.made).unwrap();
        let at = self.began + self.interval * number;
        if self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|ends| ends < at) {
            self.left = self.left.saturating_sub(1);
        }
        if self.left == 0 || self.made == MESSAGES_MAX {
            self.shared.has_ended.store(true, Ordering::SeqCst);
            return None;
        }
        self.made += 1;
        self.shared.intended.lock().unwrap_or_else(PoisonError::into_inner).push(at);
        let peer = self.peers[number as usize % self.peers.len()];
        Some(Arrival { at, peer, action: Action::Send { conversation: self.group, size: BODY_SIZE } })
    }
}

fn run_list(fleet: &Fleet, arrivals: Vec<Arrival>) {
    fleet.run(move |_worker, _workers| Box::new(arrivals.clone().into_iter()));
}

/// Looks at a fresh tally until it says so.
fn until(fleet: &Fleet, what: &str, done: impl Fn(&Counts) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counts = fleet.tally().counts;
        if done(&counts) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: not in time: {counts:?}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}
