//! What one run is made of: how large, how long, and what goes wrong how often. Drawn from the seed, or written down by a scenario.
//! Never decides anything during a run: that is done by the streams of the concerns.

use std::time::Duration;

use tern_core_shard::{Limits, Sabotage};

use crate::rng::Rng;

/// Range of a delay. Unit: microseconds, both ends included.
pub(crate) type Span = (u64, u64);

/// How long the log or the view is down or up at least. Unit: microseconds.
pub(crate) const SLICE: u64 = 1_500_000;

/// How long something cannot be read at least: longer than the core tries before it sets it aside. Unit: microseconds.
pub(crate) const UNREADABLE_SLICE: u64 = 4_000_000;

/// How often things go wrong, and how long things take.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    /// Mean time between crashes of the whole process. `None`: none.
    pub(crate) crash: Option<Duration>,
    /// Appends that fail, in a thousand.
    pub(crate) append_fail: u32,
    /// Questions to the view that fail, in a thousand.
    pub(crate) view_fail: u32,
    /// Connections whose reader is slow, in a thousand.
    pub(crate) slow: u32,
    /// Client steps that lose the connection instead, in a thousand.
    pub(crate) disconnect: u32,
    /// Client frames that are sent twice, in a thousand.
    pub(crate) duplicate: u32,
    /// Datagrams that are lost, in a thousand.
    pub(crate) datagram_loss: u32,
    /// Reliable delivery of one event frame lost on the way in a thousand. No transport does that: for one scenario only.
    pub(crate) event_loss: u32,
    /// Slices of time in which the log accepts nothing, in a thousand. See [`SLICE`].
    pub(crate) log_down: u32,
    /// Slices of time in which the view neither applies nor answers, in a thousand.
    pub(crate) view_down: u32,
    /// Entities and old events that cannot be read in a slice of time, in a thousand, and as many again that are damaged: each one by
    /// itself. See [`UNREADABLE_SLICE`].
    pub(crate) unreadable: u32,
    /// Crashes that are announced: the shards are drained first. In a thousand.
    pub(crate) graceful: u32,
    /// Connections before which the app was installed anew and knows nothing, in a thousand.
    pub(crate) reinstall: u32,
    /// From losing a connection to the next one.
    pub(crate) away: Span,
    /// Replay begins up to so many positions before the view's checkpoint.
    pub(crate) replay_overlap: u64,
    /// From append to durable.
    pub(crate) log: Span,
    /// From durable to handed over.
    pub(crate) logged: Span,
    /// From `Store` to readable.
    pub(crate) view_lag: Span,
    /// Half of a question's time.
    pub(crate) query: Span,
    /// Between shards.
    pub(crate) message: Span,
    /// Between client and server, one way.
    pub(crate) net: Span,
}

impl Faults {
    /// Nothing goes wrong, and everything is quick.
    pub(crate) fn none() -> Self {
        Self {
            crash: None,
            append_fail: 0,
            view_fail: 0,
            slow: 0,
            disconnect: 0,
            duplicate: 0,
            datagram_loss: 0,
            event_loss: 0,
            log_down: 0,
            view_down: 0,
            unreadable: 0,
            graceful: 0,
            reinstall: 0,
            away: (1_000, 1_500_000),
            replay_overlap: 0,
            log: (200, 2_000),
            logged: (5, 100),
            view_lag: (500, 20_000),
            query: (20, 500),
            message: (5, 100),
            net: (500, 20_000),
        }
    }

    fn draw(rng: &mut Rng) -> Self {
        let slow_log = rng.chance(250);
        Self {
            crash: rng.chance(650).then(|| Duration::from_millis(rng.between(2_000, 15_000))),
            append_fail: if rng.chance(500) { u32::try_from(rng.between(5, 150)).unwrap_or(5) } else { 0 },
            view_fail: if rng.chance(300) { u32::try_from(rng.between(5, 100)).unwrap_or(5) } else { 0 },
            slow: if rng.chance(500) { u32::try_from(rng.between(50, 400)).unwrap_or(50) } else { 0 },
            disconnect: if rng.chance(800) { u32::try_from(rng.between(5, 80)).unwrap_or(5) } else { 0 },
            duplicate: if rng.chance(500) { u32::try_from(rng.between(5, 150)).unwrap_or(5) } else { 0 },
            datagram_loss: if rng.chance(500) { 200 } else { 0 },
            event_loss: 0,
            log_down: if rng.chance(200) { 150 } else { 0 },
            view_down: if rng.chance(200) { 200 } else { 0 },
            unreadable: if rng.chance(200) { u32::try_from(rng.between(20, 300)).unwrap_or(20) } else { 0 },
            graceful: if rng.chance(300) { 500 } else { 0 },
            reinstall: if rng.chance(300) { 100 } else { 0 },
            away: if rng.chance(250) { (1_000, 15_000_000) } else { (1_000, 1_500_000) },
            replay_overlap: if rng.chance(300) { rng.between(1, 40) } else { 0 },
            log: if slow_log { (1_000, 300_000) } else { (200, 3_000) },
            logged: if rng.chance(200) { (5, 50_000) } else { (5, 200) },
            view_lag: if rng.chance(400) { (1_000, 3_000_000) } else { (500, 30_000) },
            query: if rng.chance(300) { (100, 400_000) } else { (20, 2_000) },
            message: if rng.chance(300) { (5, 100_000) } else { (5, 200) },
            net: if rng.chance(300) { (1_000, 400_000) } else { (500, 40_000) },
        }
    }
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where all choices come from.
    pub(crate) seed: u64,
    /// Shards of the node.
    pub(crate) shards: u16,
    /// Partitions of the deployment.
    pub(crate) partitions: u16,
    /// Registered users.
    pub(crate) users: usize,
    /// Most devices of one user.
    pub(crate) devices_max: u64,
    /// How long clients act at random. Zero: only what a scenario does.
    pub(crate) active: Duration,
    /// Mean time between two acts of one device. Unit: microseconds.
    pub(crate) pace: u64,
    /// Most is said in one conversation: gaps grow beyond what memory holds.
    pub(crate) hot: bool,
    /// Bounds of the shards.
    pub(crate) limits: Limits,
    /// Each restart is one with other rules.
    pub(crate) relimit: bool,
    /// A crash leaves events in the view that are beyond their conversation's head.
    pub(crate) ahead: bool,
    /// What goes wrong while clients act.
    pub(crate) faults: Faults,
    /// A mechanism of the core that is switched off.
    pub(crate) sabotage: Option<Sabotage>,
    /// A broken log: it hands commands over before they are durable.
    pub(crate) log_acks_early: bool,
}

impl Plan {
    /// A calm run for a scenario: two shards, nothing goes wrong, nobody acts by themselves.
    pub(crate) fn calm(seed: u64) -> Self {
        Self {
            seed,
            shards: 2,
            partitions: 16,
            users: 0,
            devices_max: 1,
            active: Duration::ZERO,
            pace: 1_000_000,
            hot: false,
            limits: Limits { world: false, ping_interval: Duration::from_secs(5), ..Limits::default() },
            relimit: false,
            ahead: false,
            faults: Faults::none(),
            sabotage: None,
            log_acks_early: false,
        }
    }

    /// One of the swarm: everything is drawn from the seed.
    pub(crate) fn swarm(seed: u64) -> Self {
        let mut rng = Rng::stream(seed, "plan");
        let shards = [1, 2, 2, 4].get(rng.index(4)).copied().unwrap_or(1);
        let partitions = [4, 16, 64].get(rng.index(3)).copied().unwrap_or(64);
        let mut faults = Faults::draw(&mut rng);
        let hot = rng.chance(60);
        if hot {
            (faults.away, faults.disconnect) = ((1_000, 12_000_000), 10);
        }
        let devices_max = rng.between(1, 3);
        Self {
            seed,
            shards,
            partitions,
            users: usize::try_from(rng.between(3, 9)).unwrap_or(3),
            devices_max,
            active: Duration::from_secs(if hot { 15 } else { rng.between(10, 40) }),
            pace: if hot { 60_000 } else { rng.between(150_000, 1_500_000) },
            hot,
            limits: draw_limits(&mut rng, devices_max),
            relimit: rng.chance(300),
            ahead: rng.chance(300),
            faults,
            sabotage: None,
            log_acks_early: false,
        }
    }

    /// The same run with another fault mix.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// Tiny bounds in half of the seeds, so that each of them is met.
fn draw_limits(rng: &mut Rng, devices_max: u64) -> Limits {
    let mut limits = Limits {
        ping_interval: Duration::from_secs(rng.between(2, 8)),
        world: rng.chance(400),
        presence_grace: Duration::from_millis(rng.between(500, 3_000)),
        ..Limits::default()
    };
    if rng.chance(500) {
        limits.cache_size_max = usize::try_from(rng.between(1, 20_000)).unwrap_or(1);
    }
    if rng.chance(400) {
        limits.outbox_ephemeral_max = 2 * 1024;
        limits.outbox_live_max = 8 * 1024;
        limits.outbox_close_max = 64 * 1024;
        limits.slow_reader_timeout = Duration::from_secs(rng.between(3, 30));
    }
    if rng.chance(300) {
        limits.load_queue_max = usize::try_from(rng.between(2, 16)).unwrap_or(2);
    }
    if rng.chance(200) {
        limits.inflight_max = u32::try_from(rng.between(1, 4)).unwrap_or(1);
    }
    if rng.chance(200) {
        limits.members_max = u32::try_from(rng.between(3, 6)).unwrap_or(3);
    }
    if rng.chance(200) {
        limits.user_sessions_max = usize::try_from(devices_max).unwrap_or(1);
    }
    if rng.chance(200) {
        limits.receipts_members_max = 3;
    }
    limits
}
