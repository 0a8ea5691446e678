//! What each thing that people do costs a server, one kind at a time on the same quiet server: the numbers that a forecast is made of.
//! Each cost is taken in several slices, so that its spread is known too.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tern_protocol::ConversationId;
use tern_protocol::limit::INVITES_MAX;

use super::options::Options;
use super::room::{Room, all, open_directs};
use super::schedule::{Pace as SchedulePace, Share, Steady};
use super::stage::{Failure, Measured, Stage, Window, histogram, soon};
use crate::fleet::{Action, Fleet, PeerId, Request, Tally};
use crate::measure::Pace;
use crate::report::Progress;

/// Clients of the calibration; the first ones are the group's members. Enough that what a server takes in steps (tables, heap pages) is spread.
const CLIENTS: usize = 2000;
/// The same in a small run.
const CLIENTS_MIN: usize = 2 * MEMBERS;
/// Members of its group: few enough that typing is shown to all, and that what a fan-out costs at its beginning and end counts as much as in
/// most groups.
const MEMBERS: usize = 20;
/// Slices of each cost. Unit: slices.
const SLICES: u32 = 4;

/// How often things are done while their prices are taken.
struct Rates {
    name: &'static str,
    /// How long each slice is: the fewer operations a second, the longer.
    slice: Duration,
    /// Messages, reads, typing notices and pings of pairs. Unit: per second.
    direct: f64,
    /// Messages and typing notices in the group. Unit: per second.
    group: f64,
    /// Connections that are lost and resumed. Unit: per second.
    resume: f64,
}

/// From so seldom that each one finds the server asleep and its caches cold, to so often that most find it at work and still less than it
/// can do.
const LEVELS: [Rates; 3] = [
    Rates { name: "still", slice: Duration::from_secs(2), direct: 60.0, group: 10.0, resume: 10.0 },
    Rates { name: "quiet", slice: Duration::from_secs(1), direct: 500.0, group: 60.0, resume: 50.0 },
    Rates { name: "busy", slice: Duration::from_secs(1), direct: 6_000.0, group: 400.0, resume: 400.0 },
];

/// CPU of what people do. Unit: microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Prices {
    /// A message: received, made durable, acknowledged.
    pub(super) message: f64,
    /// One delivery of it, with the receiver's acknowledgement.
    pub(super) delivery: f64,
    /// A read cursor that moves: durable and acknowledged.
    pub(super) read: f64,
    /// A notice of typing that comes in.
    pub(super) typing: f64,
    /// One notice (typing, receipt) that goes out.
    pub(super) notice: f64,
    /// A connection that is lost and resumed.
    pub(super) resume: f64,
    /// A ping.
    pub(super) ping: f64,
}

/// The prices of a server that is at work for this part of its time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Level {
    /// As reports name it.
    pub(super) name: String,
    /// CPU used by CPU of its shards, 0 to 1: of messages to one, which are most of what a server does.
    pub(super) utilisation: f64,
    pub(super) prices: Prices,
}

/// What a server spends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Costs {
    /// From an idle server to a busy one: what finds a shard asleep costs more than what comes while it is at work.
    pub(super) levels: Vec<Level>,
    /// An idle connection, its session included. Unit: bytes.
    pub(super) connection_bytes: f64,
    /// A user's place in a direct conversation, half of the conversation included. Unit: bytes.
    pub(super) direct_bytes: f64,
    /// A user's place in a group. Unit: bytes.
    pub(super) membership_bytes: f64,
    /// What the process keeps of each stored message: caches and tables of the store, until they are full. Unit: bytes.
    pub(super) message_bytes: f64,
    /// What the log and the view write to disk for each message. Unit: bytes.
    pub(super) disk_bytes: f64,
    /// UDP or TCP payload of one delivery, both ways. Unit: bytes.
    pub(super) wire_bytes: f64,
}

/// Costs, and what they rest on.
pub(super) struct Calibration {
    /// The medians.
    pub(super) costs: Costs,
    /// CPU per operation in each slice, by name. Unit: nanoseconds.
    pub(super) slices: Vec<(String, Histogram<u64>)>,
    /// The whole run's books.
    pub(super) tally: Tally,
    /// The whole run's meters.
    pub(super) measured: Measured,
}

/// Takes every cost on a server of its own.
///
/// # Errors
/// When there is no result, or when the server's CPU cannot be read because it runs elsewhere.
pub(super) fn run(options: &Options, progress: &Progress) -> Result<Calibration, Failure> {
    let mut stage = Stage::open(options, progress, &[])?;
    let count = options.connections.unwrap_or(CLIENTS).clamp(CLIENTS_MIN, CLIENTS);
    let fleet = stage.fleet(count, |_| {})?;
    let members = u32::try_from(MEMBERS)?;
    let clients = u32::try_from(count)?;
    stage.connect(&fleet, 0..1)?;
    let room = Room::make(&stage, &fleet, all(0..MEMBERS), 1)?;
    // Memory of memberships: of those that are not connected, who see nothing of the groups being filled. The first of them takes what a
    // server takes once.
    let absent = count.min(INVITES_MAX);
    let mut membership_bytes = 0.0;
    for number in 2..=3 {
        let before = rss(&stage)?;
        Room::make(&stage, &fleet, all(0..absent), number)?;
        stage.settle(&fleet);
        membership_bytes = (rss(&stage)? - before) / absent as f64;
    }
    // Memory of connections.
    let before = rss(&stage)?;
    stage.connect(&fleet, members..clients)?;
    let connection_bytes = (rss(&stage)? - before) / f64::from(clients - members);
    stage.connect(&fleet, 1..members)?;
    let pairs: Vec<(u32, u32)> = (0..clients / 2).map(|pair| (pair * 2, pair * 2 + 1)).collect();
    let before = rss(&stage)?;
    let directs = open_directs(&stage, &fleet, &pairs)?;
    let direct_bytes = (rss(&stage)? - before) / f64::from(clients);

    let mut window = stage.prepare(&fleet, Pace::Saturating)?;
    let whole = window.clone();
    window.begin(&fleet)?;
    let mut slicer = Slicer {
        stage: &stage,
        fleet: &fleet,
        window,
        slices: Vec::new(),
        seed: options.seed,
        room: room.conversation,
        directs,
        size: options.size,
        slice_max: options.duration.map_or(Duration::MAX, |length| length / SLICES),
        bytes: (0.0, 0.0),
    };
    let stored = rss(&stage)?;
    let [still, quiet, busy] = &LEVELS;
    let mut levels = vec![slicer.level(still)?, slicer.level(quiet)?];
    // Before the busy level: its queues leave the process with more memory than its messages.
    let message_bytes = (rss(&stage)? - stored).max(0.0) / fleet.tally().counts.acked.max(1) as f64;
    levels.push(slicer.level(busy)?);
    let (disk_bytes, wire_bytes) = slicer.bytes;
    let slices = slicer.slices;
    let costs = Costs {
        levels,
        connection_bytes,
        direct_bytes: direct_bytes.max(0.0),
        membership_bytes: membership_bytes.max(0.0),
        message_bytes,
        disk_bytes,
        wire_bytes,
    };
    let measured = whole.read(&fleet)?;
    stage.settle(&fleet);
    Ok(Calibration { costs, slices, tally: fleet.finish(), measured })
}

struct Slicer<'a, 'b> {
    stage: &'a Stage<'b>,
    fleet: &'a Fleet,
    window: Window,
    slices: Vec<(String, Histogram<u64>)>,
    seed: u64,
    room: ConversationId,
    /// Of each pair of clients, in their order.
    directs: Vec<ConversationId>,
    size: u32,
    /// No slice is longer.
    slice_max: Duration,
    /// Disk and wire bytes of a direct message.
    bytes: (f64, f64),
}

impl Slicer<'_, '_> {
    /// Every price at these rates.
    fn level(&mut self, rates: &Rates) -> Result<Level, Failure> {
        let rates = &Rates { slice: rates.slice.min(self.slice_max), ..*rates };
        let (clients, members) = (0..u32::try_from(self.directs.len() * 2)?, 0..u32::try_from(MEMBERS)?);
        let (size, room) = (self.size, self.room);
        let directs: Arc<[ConversationId]> = self.directs.as_slice().into();
        let direct = |peer: u32| directs.get(peer as usize / 2).copied().unwrap_or(room);
        let say = |conversation| Action::Send { conversation, size };
        let read = |conversation| Action::Request(Request::Read { conversation });
        let typing = |conversation| Action::Request(Request::Typing { conversation, active: true });
        let acked = |measured: &Measured| measured.per_second(measured.counts.acked);

        let ping =
            self.cost(rates, "ping", rates.direct, &clients, |_| Action::Request(Request::Ping), |_| rates.direct)?;
        let one = self.cost(rates, "message to one", rates.direct, &clients, |peer| say(direct(peer)), acked)?;
        let bytes = self.bytes;
        let many = self.cost(rates, "message to all", rates.group, &members, |_| say(room), acked)?;
        let type_one =
            self.cost(rates, "typing to one", rates.direct, &clients, |peer| typing(direct(peer)), |_| rates.direct)?;
        let type_many = self.cost(rates, "typing to all", rates.group, &members, |_| typing(room), |_| rates.group)?;
        // A cursor moves only where there is something new: each read has a message before it, whose cost is known by now.
        self.schedule(rates.direct, rates.slice * SLICES, &clients, &|peer| say(direct(peer)));
        let both =
            self.cost(rates, "message and read", rates.direct, &clients, |peer| read(direct(peer)), |_| rates.direct)?;
        let resume = self.cost(rates, "resume", rates.resume, &clients, |_| Action::Reconnect, |_| rates.resume)?;
        self.bytes = bytes;

        // Two equations for two unknowns: a message to one, and a message to all of the group.
        let others = MEMBERS as f64 - 1.0;
        let delivery = ((many - one) / (others - 1.0)).max(0.0);
        let notice = ((type_many - type_one) / (others - 1.0)).max(0.0);
        let prices = Prices {
            message: (one - delivery).max(0.0),
            delivery,
            read: (both - one - notice).max(0.0),
            typing: (type_one - notice).max(0.0),
            notice,
            resume,
            ping,
        };
        let utilisation = one * rates.direct / 1e6 / self.stage.options.shard_count()? as f64;
        Ok(Level { name: rates.name.to_owned(), utilisation, prices })
    }

    /// CPU for one operation: the median over the slices. Unit: microseconds.
    fn cost(
        &mut self,
        level: &Rates,
        name: &'static str,
        rate: f64,
        peers: &Range<u32>,
        action: impl Fn(u32) -> Action,
        done: impl Fn(&Measured) -> f64,
    ) -> Result<f64, Failure> {
        let mut costs = Vec::new();
        let mut slices = histogram();
        self.schedule(rate, level.slice * SLICES, peers, &action);
        for _ in 0..SLICES {
            self.window.begin(self.fleet)?;
            self.stage.run_for(self.fleet, name, level.slice)?;
            let measured = self.window.read(self.fleet)?;
            let per_second = done(&measured).max(1e-9);
            let cores = measured.server_cores().ok_or("a forecast needs the server on this machine: use --spawn")?;
            costs.push(cores * 1e6 / per_second);
            let cost = Duration::try_from_secs_f64(cores / per_second).unwrap_or_default();
            slices.saturating_record(u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX));
            let disk = measured.server.as_ref().map_or(0, |server| server.disk_written_bytes);
            let operations = per_second * measured.seconds;
            let wire = (measured.counts.bytes_in + measured.counts.bytes_out) as f64;
            self.bytes = (disk as f64 / operations, wire / operations);
        }
        self.slices.push((format!("cost of {name}, {}", level.name), slices));
        costs.sort_by(f64::total_cmp);
        Ok(costs.get(costs.len() / 2).copied().unwrap_or_default())
    }
}

impl Slicer<'_, '_> {
    /// What each of these peers does, in turn, at a rate over all of them.
    fn schedule(&self, rate: f64, length: Duration, peers: &Range<u32>, action: &impl Fn(u32) -> Action) {
        let actions: Arc<[(PeerId, Action)]> = peers.clone().map(|peer| (PeerId(peer), action(peer))).collect();
        let start = soon();
        self.fleet.run(|worker, workers| {
            let share = Share { worker, workers };
            let mine: Vec<(PeerId, Action)> = actions.iter().filter(|(peer, _)| share.has(peer.0)).cloned().collect();
            let rate = rate * mine.len() as f64 / actions.len().max(1) as f64;
            let seed = self.seed ^ worker as u64;
            Box::new(Steady::new(start, length, rate, SchedulePace::Poisson, seed, move |index, _| {
                let at = usize::try_from(index).unwrap_or(0) % mine.len().max(1);
                mine.get(at).cloned().unwrap_or((PeerId(0), Action::Connect))
            }))
        });
    }
}

fn rss(stage: &Stage<'_>) -> Result<f64, Failure> {
    let rss = stage.server_rss()?.ok_or("a forecast needs the server on this machine: use --spawn")?;
    Ok(rss as f64)
}
