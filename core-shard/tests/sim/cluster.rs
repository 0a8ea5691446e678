//! The process around the shards: one turn of a shard, what its outputs do, crash and restart, and the HTTP API's requests.
//! Never calls a shard back while it is being drained.

use std::time::Duration;

use tern_core_shard::io::{AppendFailure, Claims, Input, Output, Reply, Request, ViewError, ViewQuery};
use tern_core_shard::message::{Message, ToSessions};
use tern_core_shard::{Shard, ShardConfig};
use tern_protocol::placement::mix_bytes;
use tern_protocol::stored::{Entity, entity_key, event_key};
use tern_protocol::{DeviceId, PartitionId, ShardId, Timestamp, UserId};

use crate::client::Device;
use crate::faults::{Faults, UNREADABLE_SLICE};
use crate::rng::Rng;
use crate::view::{Batch, View};
use crate::world::{Account, Event, World};

/// An HTTP request of the world.
#[derive(Debug, Clone)]
pub(crate) enum Ticket {
    Register {
        name: String,
    },
    Open {
        user: UserId,
        device: DeviceId,
    },
    Revoke {
        device: usize,
    },
    /// Of a scenario; the answer is kept under its label.
    Plain {
        label: u64,
        request: Request,
    },
}

impl World {
    /// Starts the process: new shards, the journal after the view's checkpoints, then `CaughtUp`.
    pub(crate) fn start(&mut self, run: u64) {
        self.run = run;
        self.alive = true;
        self.tickets.clear();
        self.shards = (0..self.plan.shards)
            .map(|shard| {
                Shard::new(ShardConfig {
                    shard: ShardId::from_raw(shard),
                    placement: self.placement,
                    run,
                    now: self.schedule.now(),
                    limits: self.plan.limits.clone(),
                    sabotage: self.plan.sabotage,
                })
            })
            .collect();
        let partitions: Vec<_> = (0..self.plan.partitions).map(PartitionId::from_raw).collect();
        let mut replay = Vec::new();
        for partition in partitions {
            let checkpoint = self.view.checkpoint(partition);
            self.replayed_to.insert(partition, checkpoint);
            let overlap = self.rng.faults.between(0, self.faults.replay_overlap);
            let from = self.log.before(partition, checkpoint, overlap);
            replay.push(self.log.after(partition, from).cloned().collect::<std::collections::VecDeque<_>>());
        }
        // Partitions come in any order, each of them in its own.
        while !replay.is_empty() {
            let index = self.rng.delays.index(replay.len());
            match replay[index].pop_front() {
                Some(logged) => {
                    // One after the other, as they are read.
                    let shard = Self::shard_index(self.placement.shard(logged.partition));
                    let read = self.rng.delays.span((2, 100));
                    self.logged_clock[shard] = self.logged_clock[shard].max(self.now()).after(read);
                    self.hand_over(vec![logged]);
                }
                None => drop(replay.swap_remove(index)),
            }
        }
        for shard in 0..self.shards.len() {
            let at = self.logged_clock[shard];
            self.input_at(at, shard, Input::CaughtUp);
        }
    }

    /// One input, all its outputs, and the frames that it made ready.
    pub(crate) fn turn(&mut self, index: usize, input: Input) {
        self.witness.counts.inputs += 1;
        let now = self.now();
        self.trace_input(index, &input);
        self.shards[index].handle(now, input);
        while let Some(output) = self.shards[index].poll_output() {
            self.perform(index, output);
        }
        self.serve_ready(index);
        self.retry_stalled(index);
    }

    /// What taking frames made a shard want: a slow reader that catches up is told what it was not sent.
    pub(crate) fn after_taking(&mut self, index: usize) {
        while let Some(output) = self.shards[index].poll_output() {
            self.perform(index, output);
        }
        let mut ready = Vec::new();
        self.shards[index].take_ready(&mut ready);
        for conn in ready.iter().filter_map(|(session, _)| self.sessions.get(session).copied()).collect::<Vec<_>>() {
            self.schedule.after(Duration::ZERO, Event::Pump(conn));
        }
        self.retry_stalled(index);
    }

    fn serve_ready(&mut self, index: usize) {
        let mut ready = Vec::new();
        self.shards[index].take_ready(&mut ready);
        for (session, _) in ready {
            let waiting = self.shards[index].waiting_size(session);
            self.witness.waiting_size_max = self.witness.waiting_size_max.max(waiting);
            if let Some(conn) = self.sessions.get(&session).copied() {
                self.ready(conn);
            }
        }
    }

    fn trace_input(&mut self, shard: usize, input: &Input) {
        let now = self.now();
        match input {
            Input::Frame { bytes, .. } => self.trace.step(now, shard, "frame", bytes),
            Input::Logged(logged) => self.trace.step(now, shard, "logged", &logged.record.frame),
            Input::Viewed { ticket, .. } => self.trace.step(now, shard, "viewed", &ticket.to_le_bytes()),
            Input::Stored { position, .. } => self.trace.step(now, shard, "stored", &position.raw().to_le_bytes()),
            Input::Connected { session } => self.trace.step(now, shard, "connected", &session.raw().to_le_bytes()),
            Input::Disconnected { session, .. } => {
                self.trace.step(now, shard, "disconnected", &session.raw().to_le_bytes());
            }
            Input::Token { .. } => self.trace.step(now, shard, "token", &[]),
            Input::AppendFailed { .. } => self.trace.step(now, shard, "append failed", &[]),
            Input::CaughtUp => self.trace.step(now, shard, "caught up", &[]),
            Input::Message { from, .. } => self.trace.step(now, shard, "message", &from.raw().to_le_bytes()),
            Input::Request { ticket, .. } => self.trace.step(now, shard, "request", &ticket.to_le_bytes()),
            Input::Drain { .. } => self.trace.step(now, shard, "drain", &[]),
            Input::Timeout => self.trace.step(now, shard, "timeout", &[]),
        }
        self.trace.print(now, format_args!("    {input:?}"));
    }

    fn perform(&mut self, shard: usize, output: Output) {
        let now = self.now();
        self.trace.print(now, format_args!("    -> {output:?}"));
        match output {
            Output::VerifyToken { session, token } => {
                self.trace.step(now, shard, "verify", &token);
                let bad = Err(tern_protocol::CloseCode::BadToken);
                let verdict = self.tokens.get(&token).copied().unwrap_or(bad);
                let at = now.after(self.rng.delays.span(self.faults.query));
                self.input_at(at, shard, Input::Token { session, verdict });
            }
            Output::Close { session, code } => {
                self.trace.step(now, shard, "close", &code.raw().to_le_bytes());
                if let Some(conn) = self.sessions.get(&session).copied() {
                    self.schedule.after(Duration::ZERO, Event::ServerClose { conn, code });
                }
            }
            Output::Append { partition, record } => {
                self.trace.step(now, shard, "append", &record.frame);
                self.append(shard, partition, record);
            }
            Output::View { ticket, query } => {
                self.trace.step(now, shard, "view", &ticket.to_le_bytes());
                let at = now.after(self.rng.delays.span(self.faults.query));
                self.schedule.at(at, Event::Query { run: self.run, shard, ticket, query });
            }
            Output::Store { partition, position, rows } => {
                self.trace.step(now, shard, "store", &position.raw().to_le_bytes());
                let repeated = self.replayed_to.get(&partition).is_some_and(|to| position <= *to);
                self.witness.stored(partition, position, &rows, repeated);
                if self.view.store(Batch { partition, position, rows }) {
                    let lag = self.rng.delays.span(self.faults.view_lag);
                    self.schedule.after(lag, Event::Apply { run: self.run });
                }
            }
            Output::Message { to, message } => {
                self.trace.step(now, shard, "tell", &to.raw().to_le_bytes());
                let to = Self::shard_index(to);
                if let Message::ToSessions(ToSessions::Deliver { conversation, .. }) = &message {
                    self.deliveries.push((now, to, *conversation));
                }
                let clock = self.message_clock.entry((shard, to)).or_insert(Timestamp::ZERO);
                *clock = now.after(self.rng.delays.span(self.faults.message)).max(*clock);
                let (at, from) = (*clock, ShardId::from_raw(u16::try_from(shard).unwrap_or(0)));
                self.input_at(at, to, Input::Message { from, message });
            }
            Output::Aside { entity, change } => self.trace.print(now, format_args!("    {entity:?} is {change:?}")),
            Output::Reply { ticket, reply } => self.on_reply(ticket, reply),
            Output::Stop { partition, position, reason } => {
                self.witness.violation("M2", format!("{partition} {position}: {reason}"));
            }
        }
    }

    fn append(&mut self, shard: usize, partition: PartitionId, record: tern_core_shard::io::Record) {
        let down = self.is_down("log", self.faults.log_down);
        let fails = down || self.rng.faults.chance(self.faults.append_fail);
        let failure = fails.then(|| match if down { 1 } else { self.rng.faults.below(3) } {
            0 => AppendFailure::Busy,
            1 => AppendFailure::Unavailable,
            _ => AppendFailure::Unknown,
        });
        let stored = match failure {
            None => true,
            Some(AppendFailure::Unknown) => self.rng.faults.chance(500),
            Some(AppendFailure::Busy | AppendFailure::Unavailable) => false,
        };
        if let Some(failure) = failure {
            let at = self.now().after(self.rng.faults.span((10, 200_000)));
            self.input_at(at, shard, Input::AppendFailed { partition, record: record.clone(), failure });
        }
        if stored && self.log.append(partition, record) {
            if self.plan.log_acks_early {
                let logged = self.log.hand_over_early(self.now());
                self.hand_over(logged);
                self.schedule.after(Duration::from_secs(2), Event::SyncEarly { run: self.run });
            } else {
                let delay = self.rng.delays.span(self.faults.log);
                self.schedule.after(delay, Event::Commit { run: self.run });
            }
        }
    }

    /// Group commit.
    pub(crate) fn commit(&mut self) {
        let (logged, more) = self.log.commit(self.now());
        self.hand_over(logged);
        if more {
            let delay = self.rng.delays.span(self.faults.log);
            self.schedule.after(delay, Event::Commit { run: self.run });
        }
    }

    /// The view applies what waits, and says so.
    pub(crate) fn apply(&mut self) {
        if self.is_down("view", self.faults.view_down) {
            return self.schedule.after(Duration::from_millis(300), Event::Apply { run: self.run });
        }
        let (done, more) = self.view.apply();
        for (partition, position) in done {
            let shard = Self::shard_index(self.placement.shard(partition));
            let at = self.now().after(self.rng.delays.span((5, 500))).max(self.view_clock[shard]);
            self.view_clock[shard] = at;
            self.input_at(at, shard, Input::Stored { partition, position });
        }
        if more {
            let lag = self.rng.delays.span(self.faults.view_lag);
            self.schedule.after(lag, Event::Apply { run: self.run });
        }
    }

    /// The view looks, and answers later: what it sees may be older than what it confirms before the answer arrives.
    pub(crate) fn query(&mut self, shard: usize, ticket: u64, query: &ViewQuery) {
        let down = self.is_down("view", self.faults.view_down) || self.cannot_read(query);
        let reply = if down || self.rng.faults.chance(self.faults.view_fail) {
            Err(if self.rng.faults.chance(500) { ViewError::Busy } else { ViewError::Failed })
        } else if self.is_damaged(query) {
            Ok(View::damage(self.view.answer(query)))
        } else {
            Ok(self.view.answer(query))
        };
        let at = self.now().after(self.rng.delays.span(self.faults.query));
        self.input_at(at, shard, Input::Viewed { ticket, reply });
    }

    /// Whether what is asked for is among what fails to be read at present.
    fn cannot_read(&self, query: &ViewQuery) -> bool {
        self.is_unreadable("failing rows", query)
    }

    /// Whether what is asked for is among what is not as it was written at present.
    fn is_damaged(&self, query: &ViewQuery) -> bool {
        self.is_unreadable("damaged rows", query)
    }

    fn is_unreadable(&self, how: &str, query: &ViewQuery) -> bool {
        if self.faults.unreadable == 0 {
            return false;
        }
        let what = match query {
            // Without its rules nothing of a partition goes on, and the process ends.
            ViewQuery::Entity { entity: Entity::Partition(_), .. } => return false,
            ViewQuery::Entity { entity, .. } => entity_key(entity),
            ViewQuery::Events { conversation, from, .. } => event_key(*conversation, *from).to_vec(),
        };
        let slice = self.now().raw() / UNREADABLE_SLICE;
        Rng::stream(self.plan.seed ^ mix_bytes(&what) ^ slice, how).chance(self.faults.unreadable)
    }

    /// The process dies if the plan still wants that.
    pub(crate) fn crash_by_plan(&mut self) {
        let Some(mean) = self.faults.crash else { return };
        if self.is_up() && self.rng.faults.chance(self.faults.graceful) {
            for shard in 0..self.shards.len() {
                self.turn(shard, Input::Drain { spread_ms: 500 });
            }
            self.schedule.after(Duration::from_millis(1_500), Event::Stop);
        } else if self.alive {
            self.crash();
        }
        let mean = u64::try_from(mean.as_micros()).unwrap_or(1);
        let next = self.rng.faults.span((mean / 2, mean * 3 / 2));
        self.schedule.after(next, Event::Crash);
    }

    /// The process dies: all that is not durable is lost, up to any point of it.
    pub(crate) fn crash(&mut self) {
        let now = self.now();
        self.trace.print(now, format_args!("crash"));
        self.witness.counts.crashes += 1;
        self.alive = false;
        self.shards.clear();
        self.log.crash(now);
        self.view.crash(self.plan.ahead);
        self.logged_clock.fill(now);
        self.lose_connections();
        let asked: Vec<_> = std::mem::take(&mut self.tickets).into_values().collect();
        for ticket in asked.into_iter().filter(|ticket| !matches!(ticket, Ticket::Plain { .. })) {
            self.schedule.after(Duration::from_secs(1), Event::Call(ticket));
        }
        let pause = self.rng.faults.span((1_000, 1_000_000));
        self.schedule.after(pause, Event::Restart);
    }

    /// The process is started again.
    pub(crate) fn restart(&mut self) {
        if !self.alive {
            if self.plan.relimit {
                let limits = &mut self.plan.limits;
                limits.members_max = u32::try_from(self.rng.faults.between(2, 6)).unwrap_or(2);
                limits.world = self.rng.faults.chance(500);
            }
            self.start(self.run + 1);
        }
    }

    /// Whether connections are accepted: the process lives and has read its journal.
    pub(crate) fn is_up(&self) -> bool {
        self.alive && self.shards.iter().all(Shard::is_caught_up)
    }

    /// Makes an HTTP request.
    pub(crate) fn call(&mut self, ticket: Ticket) {
        if !self.is_up() {
            self.schedule.after(Duration::from_millis(200), Event::Call(ticket));
            return;
        }
        let number = self.rng.work.raw();
        let (shard, request) = match &ticket {
            Ticket::Register { name } => {
                let (display, password) = (name.as_str().into(), "phc".into());
                let shard = self.placement.shard(self.placement.of_account(name));
                (shard, Request::Register { name: name.as_str().into(), display, password })
            }
            Ticket::Open { user, device } => {
                let (name, secret) = ("sim".into(), [7; 32]);
                let request = Request::OpenDevice { user: *user, device: *device, secret, name, devices_max: 64 };
                (self.placement.home(*user), request)
            }
            Ticket::Plain { request, .. } => (self.owner_of(request), request.clone()),
            Ticket::Revoke { device } => {
                self.accounts[*device].revoked = true;
                let device = &self.devices[*device];
                let request = Request::CloseDevice { user: device.user, device: Some(device.device) };
                (self.placement.home(device.user), request)
            }
        };
        self.tickets.insert(number, ticket);
        self.turn(Self::shard_index(shard), Input::Request { ticket: number, request });
    }

    fn owner_of(&self, request: &Request) -> ShardId {
        match request {
            Request::Register { name, .. } | Request::FindAccount { name } => {
                self.placement.shard(self.placement.of_account(name))
            }
            Request::OpenDevice { user, .. }
            | Request::RotateDevice { user, .. }
            | Request::CloseDevice { user, .. }
            | Request::ListDevices { user } => self.placement.home(*user),
        }
    }

    fn on_reply(&mut self, number: u64, reply: Reply) {
        if self.late.remove(&number) {
            return;
        }
        let Some(ticket) = self.tickets.remove(&number) else {
            // The log gave up on what it had stored: the answer was given by then.
            if reply == Reply::Unavailable(AppendFailure::Unknown) {
                return;
            }
            return self.witness.violation("M5", format!("a reply to no request: {reply:?}"));
        };
        match (ticket, reply) {
            (Ticket::Register { .. }, Reply::Registered { user }) => self.users.push(user),
            (Ticket::Open { user, device }, Reply::DeviceOpened) => {
                let index = self.devices.len();
                let token = bytes::Bytes::from(format!("token of {device}"));
                let claims = Claims { user, device, expires: self.now().after(Duration::from_secs(86_400)) };
                self.tokens.insert(token.clone(), Ok(claims));
                self.devices.push(Device::new(index, user, device));
                self.schedule.after(Duration::ZERO, Event::Connect(index));
                self.schedule.after(Duration::from_millis(500), Event::Act(index));
                self.accounts.push(Account { token, conn: None, held: false, revoked: false, revoked_at: None });
            }
            (Ticket::Plain { label, .. }, reply) => {
                self.answers.insert(label, reply);
            }
            (Ticket::Revoke { device }, Reply::Closed { .. }) => {
                self.accounts[device].revoked_at = Some(self.now());
            }
            (ticket, Reply::Unavailable(failure)) => {
                if failure == AppendFailure::Unknown {
                    self.late.insert(number);
                }
                self.schedule.after(Duration::from_millis(300), Event::Call(ticket));
            }
            (ticket, reply) => self.witness.violation("M5", format!("{ticket:?} was answered {reply:?}")),
        }
    }

    /// The same journal through other shards with other delays and an empty view: what they store must be what these stored.
    pub(crate) fn replay_elsewhere(&mut self) {
        let seed = self.plan.seed ^ 0x5eed;
        let plan = self.plan.clone().with(|plan| plan.seed = seed);
        let mut other = Self::with_log(plan, crate::log::Log::copy_of(&self.log, seed));
        other.schedule.advance(self.now());
        other.witness.stored = std::mem::take(&mut self.witness.stored);
        other.witness.carried = std::mem::take(&mut self.witness.carried);
        let mut delays = Faults::none();
        let mut rng = Rng::stream(seed, "elsewhere");
        delays.view_lag = if rng.chance(500) { (10, 1_000) } else { (10_000, 2_000_000) };
        delays.query = if rng.chance(500) { (10, 100) } else { (1_000, 300_000) };
        delays.message = (5, 50_000);
        other.faults = delays;
        other.start(self.run + 1_000);
        let quiet = other.run_until(Duration::from_secs(600), |world| world.is_up() && world.is_stored());
        if !quiet {
            self.witness.violation("M6", "a new owner with an empty view does not finish its replay".to_owned());
        }
        let (own, theirs) = (self.view.state(), other.view.state());
        if let Some((own, theirs)) = own.iter().zip(&theirs).find(|(own, theirs)| own != theirs).filter(|_| quiet) {
            self.witness.violation("M1", format!("two owners, two views: {own:?} against {theirs:?}"));
        } else if quiet && own.len() != theirs.len() {
            self.witness.violation("M1", format!("two owners, {} rows against {}", own.len(), theirs.len()));
        }
        self.witness.violations.append(&mut other.witness.violations);
        self.witness.stored = other.witness.stored;
    }

    /// Whether all that is durable is in the view.
    pub(crate) fn is_stored(&self) -> bool {
        self.log.is_idle()
            && self.view.is_idle()
            && self.log.ends().all(|(partition, end)| self.view.checkpoint(partition) == end)
    }
}
