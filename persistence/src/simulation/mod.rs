//! The journal, its recovery and the identity on a simulated disk whose power can go inside any call. Real code, one thread, one seed.
//! The view is a model here: how far it got, and how much of that it had persisted.

mod checker;
mod disk;
mod files;
mod mutants;
mod node;
mod power_cuts;
mod rng;
mod scenarios;
mod view;

use std::collections::BTreeMap;

/// How often what happened, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn add(&mut self, what: impl Into<String>, count: u64) {
        *self.0.entry(what.into()).or_default() += count;
    }

    fn one(&mut self, what: impl Into<String>) {
        self.add(what, 1);
    }

    fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    fn merge(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            self.add(what.clone(), *count);
        }
    }
}
