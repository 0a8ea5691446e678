//! What watches the measured part of a path: a clock, an instruction counter, or nobody. Never decides how often a path runs.

use std::time::{Duration, Instant};

/// Watches.
pub trait Meter {
    /// Does the work and counts what it costs.
    fn measure(&mut self, work: &mut dyn FnMut());
}

/// The time that the measured parts take together.
#[derive(Debug, Default)]
pub struct Stopwatch {
    /// So far.
    pub total: Duration,
}

impl Meter for Stopwatch {
    fn measure(&mut self, work: &mut dyn FnMut()) {
        let began = Instant::now();
        work();
        self.total += began.elapsed();
    }
}

/// Watches nothing: for the parts of a set-up that are a path of their own, and for warming up.
#[derive(Debug, Default, Clone, Copy)]
pub struct Nobody;

impl Meter for Nobody {
    fn measure(&mut self, work: &mut dyn FnMut()) {
        work();
    }
}
