//! Simulation of whole nodes in one thread: named scenarios, the swarm of seeds, and proof that the checker notices what it must.
//! A failure prints the seed and the one command that replays it: `TERN_SIM_SEED=n cargo test -p tern-core-shard --test sim swarm`.

mod accounts;
mod audit;
mod checker;
mod client;
mod cluster;
mod faults;
mod found;
mod limits;
mod log;
mod model;
mod network;
mod once;
mod rng;
mod run;
mod sabotage;
mod scenarios;
mod schedule;
mod script;
mod swarm;
mod sync;
mod view;
mod wire;
mod witness;
mod workload;
mod world;
