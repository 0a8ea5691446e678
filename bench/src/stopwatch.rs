//! Times a step that needs something new each time, without timing how that is made.
//! Never decides how often: the bench harness says.

use std::time::{Duration, Instant};

/// Steps between two looks at the clock. Unit: steps.
/// Large enough that reading the clock (about 25 ns) disappears; small enough that what they leave behind stays under every limit of a session.
const BATCH: u64 = 64;

/// The time that `count` steps take. What each step needs is made by `make`, and what it leaves is cleared by `tidy`, outside the clock.
pub fn measure<S, T>(
    count: u64,
    state: &mut S,
    mut make: impl FnMut(&mut S) -> T,
    mut step: impl FnMut(&mut S, T),
    mut tidy: impl FnMut(&mut S),
) -> Duration {
    let mut total = Duration::ZERO;
    let mut ready = Vec::new();
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        ready.extend((0..batch).map(|_| make(state)));
        let began = Instant::now();
        for input in ready.drain(..) {
            step(state, input);
        }
        total += began.elapsed();
        tidy(state);
        left -= batch;
    }
    total
}
