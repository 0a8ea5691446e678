//! What many batches of one operation took. The median is the figure; the rest says how far to trust it.

use std::io;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time of one operation that is told apart. Unit: nanoseconds. A disk that takes a minute to sync has other troubles.
const NANOS_MAX: u64 = 60_000_000_000;
/// Nanoseconds are recorded in tenths: a batch's mean has a fraction.
const TENTHS: f64 = 10.0;

/// The spread of one operation's time. Unit: nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// One batch in ten was faster.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// One batch in ten was slower.
    pub p90: f64,
    /// One batch in a hundred was slower.
    pub p99: f64,
    /// Batches; a batch may be a single operation.
    pub batches: u64,
}

/// Collects batches.
#[derive(Debug)]
pub(super) struct Batches(Histogram<u64>);

impl Batches {
    pub(super) fn new() -> io::Result<Self> {
        Histogram::new_with_bounds(1, NANOS_MAX, 3).map(Self).map_err(io::Error::other)
    }

    /// Times `batch`, which does `operations` of them.
    pub(super) fn time(&mut self, operations: u32, batch: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let start = Instant::now();
        batch()?;
        let nanos = start.elapsed().as_nanos() as f64;
        self.record(nanos / f64::from(operations.max(1)));
        Ok(())
    }

    /// Notes the time of one operation. Unit: nanoseconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time is positive, and saturates at a minute"
    )]
    pub(super) fn record(&mut self, nanos: f64) {
        self.0.saturating_record((nanos * TENTHS) as u64);
    }

    pub(super) fn spread(&self) -> Spread {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / TENTHS;
        Spread { p10: at(0.1), p50: at(0.5), p90: at(0.9), p99: at(0.99), batches: self.0.len() }
    }
}
