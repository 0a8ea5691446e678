//! The load generator against the real binary: what it says of a healthy server is that nothing is lost, repeated or out of order, whatever
//! its clients do to their connections. Loopback only; every server is killed when its test ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tern_perf::accounts;
use tern_perf::child::{Server, ServerPlan};
use tern_perf::fleet::{Account, Action, Arrival, Carrier, Fleet, FleetPlan, PeerId, Request, Tally, Workload};
use tern_protocol::{ConversationId, RequestId};

/// How long anything may take that a test waits for. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two arrivals of a test's schedule.
const STEP: Duration = Duration::from_millis(2);

/// A server, accounts, and a fleet that is connected.
struct Site {
    fleet: Fleet,
    accounts: Arc<[Account]>,
    server: Option<Server>,
    plan: ServerPlan,
    _directory: tempfile::TempDir,
}

/// A schedule of a test: one thing after the other, from this moment.
#[derive(Default)]
struct Script(Vec<(u32, Action)>);

impl Script {
    fn with(mut self, peer: u32, action: Action) -> Self {
        self.0.push((peer, action));
        self
    }

    fn each(mut self, peers: impl Iterator<Item = u32>, action: &Action) -> Self {
        self.0.extend(peers.map(|peer| (peer, action.clone())));
        self
    }
}

impl Site {
    fn open(carrier: Carrier, peers: usize, workers: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let plan = ServerPlan::new(Path::new(env!("CARGO_BIN_EXE_tern")), directory.path()).unwrap();
        let server = plan.start().unwrap();
        let mut made = 0;
        let accounts = accounts::provision(plan.listen, "peer", peers, 4, |done| made = done).unwrap();
        assert_eq!((accounts.len(), made), (peers, peers));
        let accounts: Arc<[Account]> = accounts.into();
        let fleet = Fleet::launch(FleetPlan {
            carrier,
            workers,
            per_message: true,
            ..FleetPlan::new(plan.listen, Arc::clone(&accounts))
        })
        .unwrap();
        let site = Self { fleet, accounts, server: Some(server), plan, _directory: directory };
        site.run(Script::default().each(0..u32::try_from(peers).unwrap(), &Action::Connect));
        site.fleet.wait("everybody to connect", PATIENCE, |counts| counts.connected == peers as u64).unwrap();
        site.settle();
        site
    }

    fn run(&self, script: Script) {
        let begin = Instant::now() + Duration::from_millis(5);
        let all: Vec<Arrival> = (0u32..)
            .zip(script.0)
            .map(|(index, (peer, action))| Arrival { at: begin + STEP * index, peer: PeerId(peer), action })
            .collect();
        self.fleet.run(|worker, workers| {
            let own = |arrival: &&Arrival| arrival.peer.0 as usize % workers == worker;
            let part: Vec<Arrival> = all.iter().filter(own).cloned().collect();
            Box::new(part.into_iter()) as Box<dyn Workload>
        });
    }

    fn settle(&self) {
        let settled = self.fleet.settle(PATIENCE);
        assert!(settled.level, "{settled:?} {:?}", self.fleet.counts());
    }

    /// A group that peer 0 makes with everybody in it.
    fn group(&self) -> ConversationId {
        let request = RequestId::from_raw(1 << 80 | 7);
        let members: Arc<[u64]> = self.accounts.iter().skip(1).map(|account| account.user.raw()).collect();
        let make = Request::CreateGroup { request, title: "everybody".into(), members, flags: 2 };
        self.run(Script::default().with(0, Action::Request(make)));
        self.settle_with(1);
        ConversationId::group(self.accounts[0].user, request)
    }

    /// Waits for so many answered requests, and until everybody has what there is.
    fn settle_with(&self, answered: u64) {
        self.fleet.wait("answers", PATIENCE, |counts| counts.requests_acked >= answered).unwrap();
        self.settle();
    }

    fn finish(self) -> Tally {
        let Self { fleet, server, .. } = self;
        let tally = fleet.finish();
        drop(server);
        assert_clean(&tally);
        tally
    }
}

fn assert_clean(tally: &Tally) {
    let counts = &tally.counts;
    assert_eq!(
        (counts.lost, counts.duplicated, counts.reordered, counts.corrupt, counts.malformed),
        (0, 0, 0, 0, 0),
        "{counts:?}"
    );
    assert_eq!(counts.expected, counts.delivered + counts.repaired, "{counts:?}");
    assert_eq!((counts.acked, counts.sends_failed), (counts.sends_intended, 0), "{counts:?}");
}

fn send(conversation: ConversationId, size: u32) -> Action {
    Action::Send { conversation, size }
}

#[test]
fn groups_and_pairs_on_both_transports_lose_nothing() {
    const PEERS: u32 = 40;
    let site = Site::open(Carrier::Both, PEERS as usize, 2);
    let group = site.group();
    let pair = |peer: u32| peer ^ 1;
    let user = |peer: u32| site.accounts[peer as usize].user;
    let open =
        |script: Script, peer: u32| script.with(peer, Action::Request(Request::OpenDirect { user: user(pair(peer)) }));
    site.run((0..PEERS).step_by(2).fold(Script::default(), open));
    site.settle_with(1 + u64::from(PEERS) / 2);
    let mut script = Script::default();
    for round in 0..5 {
        for peer in 0..PEERS {
            script = script.with(peer, send(ConversationId::direct(user(peer), user(pair(peer))), 40 + peer));
        }
        script = script.with(round, send(group, 200));
    }
    site.run(script.with(3, Action::Request(Request::Ping)).with(4, Action::Request(Request::Ping)));
    site.fleet.wait("all messages", PATIENCE, |counts| counts.acked == 5 * u64::from(PEERS + 1)).unwrap();
    site.settle();
    let tally = site.finish();
    let mut receipts: Vec<u64> = tally.messages.iter().map(|times| times.receipts).collect();
    receipts.sort_unstable();
    let (pairs, groups) = receipts.split_at(200);
    assert!(pairs.iter().all(|receipts| *receipts == 1) && groups == [39; 5], "{receipts:?}");
    assert_eq!(tally.latency["send_to_ack"].len(), 205);
    assert_eq!(tally.latency["send_to_delivery"].len(), 200 + 5 * 39);
    assert_eq!((tally.latency["connect"].len(), tally.latency["ping"].len()), (40, 2));
    assert_eq!(tally.series.iter().map(|second| second.acked).sum::<u64>(), 205);
}

#[test]
fn a_change_of_address_in_the_middle_of_traffic_costs_no_handshake_and_no_message() {
    const PEERS: u32 = 20;
    let site = Site::open(Carrier::Quic, PEERS as usize, 1);
    let group = site.group();
    let mut script = Script::default();
    for peer in 0..PEERS {
        script = script.with(peer, send(group, 120)).with((peer + 7) % PEERS, Action::Rebind);
        script = script.with((peer + 3) % PEERS, send(group, 120));
    }
    site.run(script);
    site.fleet.wait("all messages", PATIENCE, |counts| counts.acked == 2 * u64::from(PEERS)).unwrap();
    site.fleet.wait("all migrations", PATIENCE, |counts| counts.migrations == u64::from(PEERS)).unwrap();
    site.settle();
    let counts = site.finish().counts;
    assert_eq!((counts.handshakes_done, counts.lost_connections, counts.redials), (u64::from(PEERS), 0, 0));
}

fn vanish_and_come_back(carrier: Carrier) -> Tally {
    const PEERS: u32 = 20;
    let site = Site::open(carrier, PEERS as usize, 2);
    let group = site.group();
    site.run((0..10).fold(Script::default(), |script, peer| script.with(peer, send(group, 100))));
    site.fleet.wait("the first messages", PATIENCE, |counts| counts.acked == 10).unwrap();
    site.settle();
    let half = u64::from(PEERS / 2);
    site.run(Script::default().each(0..PEERS / 2, &Action::Vanish));
    site.fleet.wait("half of them to vanish", PATIENCE, |counts| counts.connected == half).unwrap();
    // Some of it is sent by those that are away: it waits for them.
    site.run((0..PEERS).fold(Script::default(), |script, peer| script.with(peer, send(group, 100))));
    site.fleet.wait("the others' messages", PATIENCE, |counts| counts.acked == 10 + half).unwrap();
    site.run(Script::default().each(0..PEERS / 2, &Action::Reconnect));
    site.fleet.wait("all messages", PATIENCE, |counts| counts.acked == 10 + u64::from(PEERS)).unwrap();
    site.settle();
    let tally = site.finish();
    assert_eq!(tally.latency["resume"].len(), half);
    assert_eq!((tally.counts.repaired, tally.counts.resets), (repaired_at_first(PEERS), 0), "{:?}", tally.counts);
    assert!(tally.counts.caught_up >= half * half, "{:?}", tally.counts);
    tally
}

/// Who is put into a new group fetches what happened since: the adding of everybody who was added later.
fn repaired_at_first(peers: u32) -> u64 {
    (1..=u64::from(peers)).sum()
}

#[test]
fn who_vanishes_and_comes_back_continues_with_early_data() {
    let counts = vanish_and_come_back(Carrier::Quic).counts;
    assert_eq!((counts.early_data_accepted, counts.handshakes_done), (10, 30));
}

#[test]
fn who_vanishes_and_comes_back_over_websocket_continues() {
    assert_eq!(vanish_and_come_back(Carrier::WebSocket).counts.early_data_accepted, 0);
}

/// `messages` of 16 KiB are more than the server, and the kernel on the way, keep for one reader.
fn stall(carrier: Carrier, messages: u32) {
    let site = Site::open(carrier, 4, 1);
    let group = site.group();
    site.run(Script::default().with(3, Action::Stall));
    let script = (0..messages).fold(Script::default(), |script, index| script.with(index % 2, send(group, 16 * 1024)));
    site.run(script);
    let messages = u64::from(messages);
    site.fleet.wait("all messages", PATIENCE, |counts| counts.acked == messages).unwrap();
    let before = site.fleet.tally().counts;
    assert!(before.delivered < 4 * messages, "one of them reads nothing: {before:?}");
    site.run(Script::default().with(3, Action::Resume));
    site.fleet
        .wait("it to have everything", PATIENCE, |counts| counts.delivered + counts.repaired >= 4 * messages + 10)
        .unwrap();
    site.settle();
    let counts = site.finish().counts;
    assert!(counts.repaired > before.repaired, "it fetches what it was not sent: {counts:?}");
    assert_eq!((counts.lost_connections, counts.handshakes_done), (0, 4));
}

#[test]
fn a_stalled_reader_has_everything_after_it_reads_again() {
    stall(Carrier::Quic, 240);
}

#[test]
fn a_stalled_reader_on_websocket_has_everything_after_it_reads_again() {
    stall(Carrier::WebSocket, 1000);
}

#[test]
fn a_killed_server_loses_nothing_that_it_acknowledged() {
    const PEERS: u32 = 12;
    const MESSAGES: u32 = 400;
    let mut site = Site::open(Carrier::Both, PEERS as usize, 1);
    let group = site.group();
    let script = (0..MESSAGES).fold(Script::default(), |script, index| script.with(index % PEERS, send(group, 64)));
    site.run(script);
    site.fleet.wait("some messages", PATIENCE, |counts| counts.acked > 50).unwrap();
    site.server.take().unwrap().kill().unwrap();
    site.server = Some(site.plan.start().unwrap());
    site.fleet.wait("all messages", PATIENCE, |counts| counts.acked == u64::from(MESSAGES)).unwrap();
    site.settle();
    let counts = site.finish().counts;
    assert!(counts.redials >= u64::from(PEERS), "{counts:?}");
}

#[test]
fn presence_typing_receipts_and_history_are_seen() {
    let site = Site::open(Carrier::Quic, 3, 1);
    let users: Vec<_> = site.accounts.iter().map(|account| account.user).collect();
    let direct = ConversationId::direct(users[0], users[1]);
    site.run(Script::default().with(0, Action::Request(Request::OpenDirect { user: users[1] })));
    site.settle_with(1);
    let watch = Request::WatchPresence([users[1].raw()].into());
    let typing = Request::Typing { conversation: direct, active: true };
    let mut script = Script::default().with(0, Action::Request(watch)).with(1, Action::Request(typing));
    script = script.with(1, send(direct, 64));
    site.run(script);
    site.fleet.wait("notices", PATIENCE, |c| c.presence_seen >= 1 && c.typing_seen == 1 && c.acked == 1).unwrap();
    site.settle();
    let read = Action::Request(Request::Read { conversation: direct });
    let history = Action::Request(Request::History { conversation: direct, limit: 10 });
    site.run(Script::default().with(0, read).with(0, history));
    site.fleet.wait("a receipt", PATIENCE, |c| c.requests_acked == 3 && c.receipts_seen >= 1).unwrap();
    site.run(Script::default().with(1, Action::Leave));
    site.fleet.wait("who left to be seen as offline", PATIENCE, |counts| counts.presence_seen >= 2).unwrap();
    let tally = site.finish();
    assert_eq!((tally.latency["presence"].len(), tally.latency["history"].len()), (1, 1));
    assert_eq!(tally.latency["request"].len(), 2);
}
