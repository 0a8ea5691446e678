//! What a path is, and the list of them. Never measures by itself.

use std::fmt;

use super::{core, frames, quic, ring, storage, websocket};
use crate::meter::{Meter, Nobody};

/// One round of a path. Measures the part that counts.
pub(super) type Round = Box<dyn FnMut(&mut dyn Meter)>;

/// A hot path.
#[derive(Clone, Copy)]
pub struct Path {
    /// Where it is, what it does, for how many.
    pub name: &'static str,
    /// What one iteration is.
    pub iteration: &'static str,
    /// Iterations in a round.
    pub count: u64,
    /// Rounds before the first that counts, so that every buffer has its size and every lazy thing is done.
    pub warm_up: u64,
    /// Rounds that a count of instructions takes.
    pub rounds: u64,
    /// Whether ciphers and hashes are a part of it: they take other instructions on another processor.
    pub has_crypto: bool,
    pub(super) set_up: fn() -> Round,
}

impl Path {
    /// Sets the path up, and warms it up.
    pub fn set_up(&self) -> impl FnMut(&mut dyn Meter) + use<> {
        let mut round = (self.set_up)();
        for _ in 0..self.warm_up {
            round(&mut Nobody);
        }
        round
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Path").field(&self.name).finish()
    }
}

/// Every path, from the innermost out.
#[must_use]
pub fn all() -> Vec<Path> {
    [&frames::PATHS[..], &core::PATHS, &ring::PATHS, &storage::PATHS, &quic::PATHS, &websocket::PATHS].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_path_has_a_name_of_its_own_and_says_what_an_iteration_is() {
        let names: BTreeSet<&str> = all().iter().map(|path| path.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(all().iter().all(|path| path.count > 0 && path.rounds > 0 && !path.iteration.is_empty()));
    }
}
