//! A whole node in one thread: shards, log, view, network and devices, driven by virtual time from one seed.
//! Never looks inside a shard: it performs outputs as io.rs documents them, and decides nothing that they do not leave open.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tern_core_shard::Shard;
use tern_core_shard::io::{Claims, Input, Lane, Logged, Reply};
use tern_protocol::placement::Placement;
use tern_protocol::{CloseCode, ConversationId, DeviceId, PartitionId, SessionId, ShardId, Timestamp, UserId};

use crate::client::{Cx, Device, Link, Wake};
use crate::cluster::Ticket;
use crate::faults::{Faults, Plan, SLICE};
use crate::log::Log;
use crate::network::{Conn, Slots};
use crate::rng::Rng;
use crate::schedule::{Schedule, Trace};
use crate::view::View;
use crate::wire::Op;
use crate::witness::Witness;

/// Steps after which a run certainly does not end by itself.
const STEPS_MAX: u64 = 20_000_000;
/// Timeouts of shards at one moment after which a timer certainly fires without end.
const TIMEOUTS_MAX: u32 = 10_000;

/// What may happen next.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something for a shard of this run of the process.
    Input { run: u64, shard: usize, input: Input },
    /// Group commit.
    Commit { run: u64 },
    /// The broken log writes what it already handed over.
    SyncEarly { run: u64 },
    /// The view applies what waits.
    Apply { run: u64 },
    /// The view looks.
    Query { run: u64, shard: usize, ticket: u64, query: tern_core_shard::io::ViewQuery },
    /// The process dies, or is told to stop.
    Crash,
    /// The process stops, having been told.
    Stop,
    /// The process starts.
    Restart,
    /// A device connects.
    Connect(usize),
    /// A frame arrives at the server.
    ToServer { conn: u64, bytes: Bytes },
    /// The server reads one frame.
    Feed(u64),
    /// A frame arrives at the client.
    ToClient { conn: u64, lane: Lane, bytes: Bytes },
    /// The transport can take frames.
    Pump(u64),
    /// The server closes.
    ServerClose { conn: u64, code: CloseCode },
    /// The server learns that the connection is gone.
    ServerGone { conn: u64, ending: tern_core_shard::io::Ending },
    /// The client learns that the connection is gone.
    ClientGone { conn: u64, code: Option<CloseCode> },
    /// A device wakes up.
    Wake { device: usize, wake: Wake },
    /// A device does something by itself.
    Act(usize),
    /// An HTTP request of the world is made (again).
    Call(Ticket),
}

/// One stream of choices per concern.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) net: Rng,
    pub(crate) faults: Rng,
    pub(crate) client: Rng,
    pub(crate) work: Rng,
    pub(crate) delays: Rng,
}

/// Where a device may prove who it is, and where it is connected.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) token: Bytes,
    pub(crate) conn: Option<u64>,
    /// Connects only when told to.
    pub(crate) held: bool,
    /// The log-out was asked for.
    pub(crate) revoked: bool,
    /// The log-out was answered, at this time.
    pub(crate) revoked_at: Option<Timestamp>,
}

/// The whole world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    /// What goes wrong at present.
    pub(crate) faults: Faults,
    pub(crate) placement: Placement,
    pub(crate) schedule: Schedule<Event>,
    pub(crate) trace: Trace,
    pub(crate) rng: Streams,
    pub(crate) run: u64,
    /// Whether the process lives.
    pub(crate) alive: bool,
    pub(crate) shards: Vec<Shard>,
    pub(crate) log: Log,
    pub(crate) view: View,
    /// Replay of this run began at or before the checkpoints that the view had.
    pub(crate) replayed_to: BTreeMap<PartitionId, tern_protocol::Position>,
    pub(crate) message_clock: BTreeMap<(usize, usize), Timestamp>,
    pub(crate) logged_clock: Vec<Timestamp>,
    pub(crate) view_clock: Vec<Timestamp>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) sessions: BTreeMap<SessionId, u64>,
    pub(crate) slots: Slots,
    pub(crate) stalled: BTreeSet<u64>,
    pub(crate) tokens: BTreeMap<Bytes, Result<Claims, CloseCode>>,
    pub(crate) tickets: BTreeMap<u64, Ticket>,
    /// Requests whose outcome was unknown: a late answer may come.
    pub(crate) late: BTreeSet<u64>,
    /// Answers to a scenario's own requests, by label.
    pub(crate) answers: BTreeMap<u64, Reply>,
    pub(crate) devices: Vec<Device>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) users: Vec<UserId>,
    /// Conversations that any client made or heard of: what strangers try their luck with.
    pub(crate) known: Vec<ConversationId>,
    pub(crate) witness: Witness,
    /// Shards to which an event went, for M9.
    pub(crate) deliveries: Vec<(Timestamp, usize, ConversationId)>,
    /// Whose connection was where, from when to when.
    pub(crate) attachments: Vec<(usize, UserId, Timestamp, Option<Timestamp>)>,
    /// Devices act by themselves until then.
    pub(crate) active_until: Timestamp,
    pub(crate) steps: u64,
    timeouts: u32,
}

impl World {
    /// A node that has just started, with nobody in it.
    pub(crate) fn new(plan: Plan) -> Self {
        let log = Log::new(plan.seed);
        let mut this = Self::with_log(plan, log);
        this.start(1);
        this
    }

    /// A node that does not run yet, with this journal and an empty view.
    pub(crate) fn with_log(plan: Plan, log: Log) -> Self {
        let seed = plan.seed;
        let shards = usize::from(plan.shards);
        Self {
            faults: Faults::none(),
            placement: Placement::new(plan.partitions, plan.shards),
            schedule: Schedule::new(),
            trace: Trace::new(),
            rng: Streams {
                net: Rng::stream(seed, "net"),
                faults: Rng::stream(seed, "faults"),
                client: Rng::stream(seed, "client"),
                work: Rng::stream(seed, "work"),
                delays: Rng::stream(seed, "delays"),
            },
            run: 0,
            alive: false,
            shards: Vec::new(),
            log,
            view: View::new(seed),
            replayed_to: BTreeMap::new(),
            message_clock: BTreeMap::new(),
            logged_clock: vec![Timestamp::ZERO; shards],
            view_clock: vec![Timestamp::ZERO; shards],
            conns: BTreeMap::new(),
            sessions: BTreeMap::new(),
            slots: Slots::default(),
            stalled: BTreeSet::new(),
            tokens: BTreeMap::new(),
            tickets: BTreeMap::new(),
            late: BTreeSet::new(),
            answers: BTreeMap::new(),
            devices: Vec::new(),
            accounts: Vec::new(),
            users: Vec::new(),
            known: Vec::new(),
            witness: Witness::default(),
            deliveries: Vec::new(),
            attachments: Vec::new(),
            active_until: Timestamp::ZERO,
            steps: 0,
            timeouts: 0,
            plan,
        }
    }

    /// The present.
    pub(crate) fn now(&self) -> Timestamp {
        self.schedule.now()
    }

    /// Does the next thing at or before `limit`; `false`: there is none.
    fn step(&mut self, limit: Timestamp) -> bool {
        let timeout = self
            .shards
            .iter()
            .enumerate()
            .filter_map(|(index, shard)| Some((shard.poll_timeout()?.max(self.now()), index)))
            .min()
            .filter(|(at, _)| *at <= limit);
        let next = self.schedule.peek().filter(|at| *at <= limit);
        match (timeout, next) {
            (Some((at, shard)), next) if next.is_none_or(|next| at <= next) => {
                self.timeouts = if at == self.now() { self.timeouts + 1 } else { 0 };
                assert!(self.timeouts < TIMEOUTS_MAX, "seed {}: shard {shard} has a timer without end", self.plan.seed);
                self.schedule.advance(at);
                self.turn(shard, Input::Timeout);
            }
            (_, Some(_)) => {
                self.timeouts = 0;
                if let Some(event) = self.schedule.pop() {
                    self.dispatch(event);
                }
            }
            (_, None) => return false,
        }
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "seed {}: more steps than any run takes", self.plan.seed);
        true
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let limit = self.now().after(span);
        while self.step(limit) {}
        self.schedule.advance(limit);
    }

    /// Lets time pass until something holds; `false`: it did not come to hold within `span`.
    pub(crate) fn run_until(&mut self, span: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let limit = self.now().after(span);
        loop {
            if holds(self) {
                return true;
            }
            if !self.step(limit) {
                self.schedule.advance(limit);
                return holds(self);
            }
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Input { run, shard, input } if run == self.run && self.alive => self.turn(shard, input),
            Event::Commit { run } if run == self.run && self.alive => self.commit(),
            Event::SyncEarly { run } if run == self.run => self.log.sync_early(),
            Event::Apply { run } if run == self.run && self.alive => self.apply(),
            Event::Query { run, shard, ticket, query } if run == self.run && self.alive => {
                self.query(shard, ticket, &query);
            }
            // Of a process that is no more.
            Event::Input { .. }
            | Event::Commit { .. }
            | Event::SyncEarly { .. }
            | Event::Apply { .. }
            | Event::Query { .. } => {}
            Event::Crash => self.crash_by_plan(),
            Event::Stop if self.alive => self.crash(),
            Event::Stop => {}
            Event::Restart => self.restart(),
            Event::Connect(device) => self.connect(device),
            Event::ToServer { conn, bytes } => self.arrive_at_server(conn, bytes),
            Event::Feed(conn) => self.feed(conn),
            Event::ToClient { conn, lane, bytes } => self.arrive_at_client(conn, lane, &bytes),
            Event::Pump(conn) => self.pump(conn),
            Event::ServerClose { conn, code } => self.server_close(conn, code),
            Event::ServerGone { conn, ending } => self.server_gone(conn, ending),
            Event::ClientGone { conn, code } => self.client_gone(conn, code),
            Event::Wake { device, wake } => self.with_device(device, |device, cx| device.wake(cx, wake)),
            Event::Act(device) => self.act(device),
            Event::Call(ticket) => self.call(ticket),
        }
    }

    /// Lets a device do something, then sends and schedules what it wants.
    pub(crate) fn with_device<R>(&mut self, index: usize, act: impl FnOnce(&mut Device, &mut Cx<'_>) -> R) -> R {
        let mut cx = Cx {
            now: self.schedule.now(),
            rng: &mut self.rng.client,
            witness: &mut self.witness,
            send: Vec::new(),
            wake: Vec::new(),
        };
        let result = act(&mut self.devices[index], &mut cx);
        let Cx { send, wake, .. } = cx;
        for bytes in send {
            self.client_sends(index, bytes);
        }
        for (span, wake) in wake {
            self.schedule.after(span, Event::Wake { device: index, wake });
        }
        result
    }

    /// A device makes a request. For scenarios.
    pub(crate) fn submit(&mut self, device: usize, op: Op) -> u128 {
        self.with_device(device, |device, cx| device.submit(cx, op))
    }

    /// Registers a user, logs its first device in and connects it. For scenarios and the beginning of a run.
    pub(crate) fn join(&mut self, name: &str) -> usize {
        let before = self.users.len();
        self.schedule.after(Duration::ZERO, Event::Call(Ticket::Register { name: name.to_owned() }));
        assert!(
            self.run_until(Duration::from_secs(30), |world| world.users.len() > before),
            "{name} is not registered"
        );
        self.log_in(self.users[before])
    }

    /// Logs one more device of a user in, and connects it.
    pub(crate) fn log_in(&mut self, user: UserId) -> usize {
        let index = self.devices.len();
        let device = DeviceId::from_raw(0x0d00_0000 + index as u64 + 1);
        self.schedule.after(Duration::ZERO, Event::Call(Ticket::Open { user, device }));
        let opened = self.run_until(Duration::from_secs(30), |world| world.devices.len() > index);
        assert!(opened, "{user} is not logged in");
        self.schedule.after(Duration::ZERO, Event::Connect(index));
        self.run_until(Duration::from_secs(10), |world| world.devices[index].link == Link::Up);
        index
    }

    /// Puts an input to a shard of this run on the way.
    pub(crate) fn input_at(&mut self, at: Timestamp, shard: usize, input: Input) {
        self.schedule.at(at, Event::Input { run: self.run, shard, input });
    }

    /// Hands durable commands to their owners, in order.
    pub(crate) fn hand_over(&mut self, logged: Vec<Logged>) {
        for logged in logged {
            let shard = usize::from(self.placement.shard(logged.partition).raw());
            let at = self.now().after(self.rng.delays.span(self.faults.logged)).max(self.logged_clock[shard]);
            self.logged_clock[shard] = at;
            self.input_at(at, shard, Input::Logged(logged));
        }
    }

    /// Whether this slice of time is one of those in which something is down.
    pub(crate) fn is_down(&self, what: &str, per_mille: u32) -> bool {
        let slice = self.now().raw() / SLICE;
        per_mille > 0 && Rng::stream(self.plan.seed ^ slice, what).chance(per_mille)
    }

    /// The shard of this number.
    pub(crate) fn shard_index(id: ShardId) -> usize {
        usize::from(id.raw())
    }
}
