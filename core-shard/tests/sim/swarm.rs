//! The swarm: many seeds, each of them a different node, other people and other faults; all promises are checked after each.
//! `TERN_SIM_SEEDS` says how many, `TERN_SIM_START` from which on, `TERN_SIM_SEED` asks for one alone.

use crate::faults::Plan;
use crate::witness::Counts;
use crate::world::World;

/// Seeds of an ordinary test run.
const SEEDS_DEFAULT: u64 = 20;

/// Violations of one seed that are printed.
const SHOWN_MAX: usize = 5;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

fn add(total: &mut Counts, one: &Counts) {
    total.inputs += one.inputs;
    total.events += one.events;
    total.acks += one.acks;
    total.rejects += one.rejects;
    total.retries += one.retries;
    total.crashes += one.crashes;
    total.connections += one.connections;
    total.resets += one.resets;
    total.lagging += one.lagging;
    total.slow_closes += one.slow_closes;
    total.repairs += one.repairs;
    total.catch_ups += one.catch_ups;
}

/// Goal: every promise M1-M12 holds in every run.
/// Method: as many seeds as were asked for; the first lines of a failure say how to see it again.
#[test]
fn swarm_of_seeds_keeps_every_promise() {
    let seeds: Vec<u64> = match number("TERN_SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let start = number("TERN_SIM_START").unwrap_or(1);
            (start..start + number("TERN_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT)).collect()
        }
    };
    let (mut total, mut failed) = (Counts::default(), Vec::new());
    for seed in &seeds {
        let played = std::panic::catch_unwind(|| World::play(Plan::swarm(*seed)));
        match played {
            Ok((world, violations)) => {
                add(&mut total, &world.witness.counts);
                if !violations.is_empty() {
                    failed.push(*seed);
                    println!("seed {seed}: {} violations", violations.len());
                    for violation in violations.iter().take(SHOWN_MAX) {
                        println!("  {}: {}", violation.invariant, violation.what);
                    }
                }
            }
            Err(_) => failed.push(*seed),
        }
    }
    println!("swarm: {} seeds, {} failed, {total:?}", seeds.len(), failed.len());
    for seed in failed.iter().take(10) {
        println!("replay: TERN_SIM_SEED={seed} cargo test -p tern-core-shard --test sim swarm -- --nocapture");
    }
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

/// Goal: a failure can be seen again.
/// Method: one seed twice, and the hash of all that went in and out of the shards; another seed for contrast.
#[test]
fn the_same_seed_is_the_same_run() {
    let hash = |seed| World::play(Plan::swarm(seed)).0.trace.hash();
    assert_eq!(hash(7), hash(7));
    assert_ne!(hash(7), hash(8));
}
