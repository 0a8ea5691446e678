//! Many lives of one data directory, each of which ends badly: killed, without power in the middle of a call, or after a sync that failed.
//! `TERN_CUTS_SEEDS` says how many seeds, `TERN_CUTS_START` from which on, `TERN_CUTS_SEED` asks for one alone.

use std::time::Duration;

use super::Counts;
use super::checker::{Checker, Violation};
use super::disk::{Death, Faults, Kind};
use super::files::SimDisk;
use super::node::Node;
use super::rng::Rng;
use super::view::ModelView;
use crate::config::EmbeddedConfig;
use crate::error::OpenError;
use crate::sabotage::Sabotage;
use crate::turns::{Now, Rest};

/// Seeds of an ordinary test run.
const SEEDS_DEFAULT: u64 = 40;
/// Lives of one seed.
const LIVES: (u64, u64) = (3, 9);
/// Lives of a seed that is about the first moments, and the calls after which each has ended: so many make a data directory, and so many
/// a journal in it.
const BEGINNING_LIVES: (u64, u64) = (2, 4);
const BEGINNING_CALLS: [u64; 2] = [14, 45];
/// Most turns of a life.
const TURNS_MAX: u64 = 400;
/// Turns in which a node without faults comes to rest. Unit: turns.
const PATIENCE: u64 = 20_000;
/// When the first life begins. Unit: microseconds since 1970.
const BEGINNING: u64 = 1_700_000_000_000_000;
/// How far the clock on the wall jumps between two lives, back or forth. Unit: microseconds.
const WALL_JUMP: u64 = 3_600_000_000;

/// What there is in a seed; everything else is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) sabotage: Option<Sabotage>,
    /// Only the first moments of a directory: lives end within their first calls.
    pub(super) beginnings: bool,
}

impl Plan {
    /// What a seed means.
    pub(super) const fn of(seed: u64) -> Self {
        Self { seed, sabotage: None, beginnings: seed.is_multiple_of(5) }
    }
}

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) violations: Vec<Violation>,
    pub(super) counts: Counts,
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// In the middle of some call of the disk, after so many.
    Death(Death, u64),
    /// Syncs and writes fail until it has given up; then the process dies.
    Failure,
    /// It is told to stop.
    Stop,
}

pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) config: EmbeddedConfig,
    rng: Rng,
    view: ModelView,
    pub(super) checker: Checker,
    pub(super) counts: Counts,
    key: u64,
    monotonic: Duration,
    wall: u64,
    command: u64,
    /// How often the view persists. Unit: times in a thousand turns of it.
    persist_chance: u32,
    beginnings: bool,
    after_kill: bool,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut rng = Rng::stream(plan.seed, "world");
        let kind = Kind { direct: rng.chance(700), old_bytes: rng.chance(500) };
        let shards = u16::try_from(rng.between(1, 3)).expect("few");
        // Three levels that nobody has made before.
        let mut config = EmbeddedConfig::new("/srv/tern/data", 4, shards);
        config.batch_size_max = 128 * 1024;
        config.first_segment_size = if rng.chance(500) { 272 * 1024 } else { 512 * 1024 };
        config.segment_size = 512 * 1024;
        config.segments_max = usize::try_from(rng.between(2, 4)).expect("few");
        config.sabotage = plan.sabotage;
        Self {
            disk: SimDisk::new(plan.seed, kind),
            checker: Checker::new(config.partitions),
            config,
            key: rng.raw(),
            persist_chance: [5, 50, 300][rng.index(3)],
            rng,
            view: ModelView::default(),
            counts: Counts::default(),
            monotonic: Duration::ZERO,
            wall: BEGINNING,
            command: 0,
            beginnings: plan.beginnings,
            after_kill: false,
        }
    }

    fn now(&mut self) -> Now {
        let step = self.rng.below(20_000);
        self.monotonic += Duration::from_micros(step);
        self.wall += step;
        Now { monotonic: self.monotonic, wall: self.wall }
    }

    /// Opens the store; `None` when it refuses, which only a fault excuses.
    pub(super) fn open(&mut self, faulty: bool) -> Option<Node> {
        let opened = Node::open(&self.config, &self.disk, &mut self.view, self.key, &mut self.checker);
        if self.disk.state().dead().is_some() {
            self.counts.one("ends_while_opening");
            return None;
        }
        match opened {
            Ok(node) => {
                self.counts.one("starts");
                self.counts.add("torn_batches", u64::from(node.report.cut.is_some()));
                self.counts.add("replayed", node.report.replayed);
                Some(node)
            }
            Err(OpenError::Io { .. }) if faulty => {
                self.counts.one("starts_refused_for_faults");
                None
            }
            Err(error) => {
                self.checker.violated("M13", error.to_string());
                None
            }
        }
    }

    /// One of those who have something to do takes a turn.
    fn turn(&mut self, node: &mut Node) {
        let now = self.now();
        match self.rng.below(10) {
            0..=1 => node.append(&mut self.rng, &mut self.command, &mut self.checker),
            2..=3 => {
                let stores = self.rng.below(60);
                node.take(stores, &mut self.checker);
            }
            4..=6 => {
                node.journal(now);
            }
            7..=8 => {
                node.preparer(now);
            }
            _ => node.view(&mut self.view, &mut self.rng, self.persist_chance),
        }
    }

    fn life(&mut self) {
        let reach =
            if self.beginnings { BEGINNING_CALLS[self.rng.index(2)] } else { [20, 200, 2_000][self.rng.index(3)] };
        let calls = self.rng.between(1, reach);
        let end = match self.rng.below(10) {
            // A start that is killed, and one whose power goes.
            _ if self.beginnings && self.counts.of("kills") == 0 => End::Death(Death::Process, calls),
            _ if self.beginnings => End::Death(Death::Power, calls),
            0..=4 => End::Death(Death::Power, calls),
            5..=6 => End::Death(Death::Process, calls),
            7..=8 => End::Failure,
            _ => End::Stop,
        };
        self.wall = self.wall + self.rng.below(2 * WALL_JUMP) - WALL_JUMP;
        let killed = std::mem::replace(&mut self.after_kill, false);
        let faulty = !self.beginnings && self.rng.chance(150);
        {
            let mut disk = self.disk.state();
            disk.start();
            disk.faults = if faulty { opening_faults() } else { Faults::default() };
            disk.faults.short_read = 100;
            if let End::Death(death, calls) = end {
                disk.end_in(death, calls);
            }
        }
        let node = self.open(faulty);
        if let Some(mut node) = node {
            self.disk.state().faults = if end == End::Failure { serving_faults() } else { Faults::default() };
            self.serve(&mut node, end);
        }
        let dead = self.disk.state().dead();
        if dead == Some(Death::Power) {
            self.counts.one("power_cuts");
            self.counts.add("kill_start_cut", u64::from(killed));
            self.view.cut(&mut self.rng);
        } else if end != End::Stop {
            self.counts.one("kills");
            self.after_kill = true;
        }
    }

    /// Turns until the life ends. What a node put out in the turn in which the power went, nobody has seen.
    fn serve(&mut self, node: &mut Node, end: End) {
        let turns = self.rng.between(1, TURNS_MAX);
        let quiet = self.rng.chance(200);
        for _ in 0..turns {
            if quiet {
                // Nothing new: what was handed out at the start has to last.
                let now = self.now();
                node.journal(now);
                node.take(5, &mut self.checker);
            } else {
                self.turn(node);
            }
            if self.disk.state().dead().is_some() || !self.checker.violations.is_empty() {
                return;
            }
        }
        match end {
            End::Stop => self.stop(node),
            // In a life that was too short for its calls.
            End::Death(death, _) => self.disk.state().die(death),
            End::Failure => self.counts.add("failed_journals", u64::from(node.status.journal_failed())),
        }
    }

    /// Tells it to stop; what is queued is written.
    pub(super) fn stop(&mut self, node: &mut Node) {
        node.status.stop();
        for _ in 0..PATIENCE {
            node.take(u64::MAX, &mut self.checker);
            let now = self.now();
            node.preparer(now);
            if node.journal(now) == Rest::Ended(Ok(())) {
                node.take(u64::MAX, &mut self.checker);
                self.counts.one("stops");
                return;
            }
        }
        self.checker.violated("M13", "a node that was told to stop goes on".to_owned());
    }

    /// Turns of everybody until all that was logged is in the view.
    pub(super) fn rest(&mut self, node: &mut Node) {
        for _ in 0..PATIENCE {
            let now = self.now();
            let idle = node.journal(now) == Rest::UntilWoken;
            node.preparer(now);
            node.take(u64::MAX, &mut self.checker);
            node.view(&mut self.view, &mut self.rng, self.persist_chance);
            if idle && node.is_caught_up() && node.is_at_rest() || !self.checker.violations.is_empty() {
                return;
            }
        }
        self.checker.violated("M13", "a node without faults does not come to rest".to_owned());
    }

    /// Serves without faults for some turns.
    pub(super) fn work(&mut self, node: &mut Node, turns: u64) {
        for _ in 0..turns {
            self.turn(node);
        }
    }

    /// All lives of a seed; at the end the node must start by itself with everything.
    pub(super) fn play(plan: Plan) -> Outcome {
        let mut world = Self::new(plan);
        let (low, high) = if plan.beginnings { BEGINNING_LIVES } else { LIVES };
        for _ in 0..world.rng.between(low, high) {
            world.life();
            if !world.checker.violations.is_empty() {
                return world.outcome();
            }
        }
        {
            let mut disk = world.disk.state();
            disk.start();
            disk.faults = Faults::default();
        }
        if let Some(mut node) = world.open(false) {
            world.rest(&mut node);
        }
        world.outcome()
    }

    fn outcome(mut self) -> Outcome {
        self.counts.add("commands", self.checker.handed_out());
        self.counts.merge(&self.disk.state().counts);
        Outcome { violations: self.checker.violations, counts: self.counts }
    }
}

/// What may go wrong while a store is opened: then it may refuse, and must open when it has passed.
fn opening_faults() -> Faults {
    Faults { sync: 60, write: 30, read: 10, open: 20, list: 150, no_space: 100, ..Faults::default() }
}

/// What may go wrong while it serves.
fn serving_faults() -> Faults {
    Faults { sync: 60, write: 20, no_space: 200, ..Faults::default() }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// Goal: M1, M2 and M13 hold whatever ends a life, and everything that the model can do is done.
/// Method: as many seeds as were asked for; the last lines say how often what happened, and how to see a failure again.
#[test]
fn every_life_starts_with_everything_that_was_handed_out() {
    let seeds: Vec<u64> = match number("TERN_CUTS_SEED") {
        Some(seed) => vec![seed],
        None => {
            let start = number("TERN_CUTS_START").unwrap_or(1);
            (start..start + number("TERN_CUTS_SEEDS").unwrap_or(SEEDS_DEFAULT)).collect()
        }
    };
    let (mut counts, mut failed) = (Counts::default(), Vec::new());
    for seed in &seeds {
        match std::panic::catch_unwind(|| World::play(Plan::of(*seed))) {
            Ok(outcome) => {
                counts.merge(&outcome.counts);
                if let Some(Violation { promise, what }) = outcome.violations.first() {
                    println!("seed {seed}: {promise}: {what}");
                    failed.push(*seed);
                }
            }
            Err(_) => failed.push(*seed),
        }
    }
    let counts: Vec<String> = counts.0.iter().map(|(what, count)| format!("{what}: {count}")).collect();
    println!("power-cuts: {}", counts.join(", "));
    for seed in failed.iter().take(10) {
        println!("replay: TERN_CUTS_SEED={seed} cargo test -p tern-persistence --lib power_cuts -- --nocapture");
    }
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

/// Goal: a failure can be seen again.
/// Method: one seed twice, and all that was counted; another seed for contrast.
#[test]
fn the_same_seed_is_the_same_run() {
    let play = |seed| World::play(Plan::of(seed));
    assert_eq!(play(7), play(7));
    assert_ne!(play(7).counts, play(8).counts);
}
