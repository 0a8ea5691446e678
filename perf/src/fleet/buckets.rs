//! Latencies of one second in buckets of constant ratio: small enough to keep one set for every second of a run.
//! Never for a figure that is reported alone: those come from the histograms with three digits.

/// Buckets of each doubling. 64 make a bucket 1.6 % wide.
const PER_DOUBLING: u64 = 64;
/// Doublings above the first: up to 2^40 ns, 18 minutes.
const DOUBLINGS: usize = 34;
/// All of them.
const BUCKETS: usize = (DOUBLINGS + 2) * 64;

/// Counts by bucket.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    counts: Box<[u32]>,
    total: u64,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0 }
    }
}

impl Buckets {
    /// Counts one latency. Unit: nanoseconds.
    pub(super) fn record(&mut self, nanoseconds: u64) {
        if let Some(count) = self.counts.get_mut(bucket(nanoseconds)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// Takes out what was counted, only the buckets that have something.
    pub(super) fn take(&mut self) -> Vec<(u16, u32)> {
        if self.total == 0 {
            return Vec::new();
        }
        self.total = 0;
        let indexed = (0u16..).zip(&mut self.counts);
        indexed.filter(|(_, count)| **count > 0).map(|(index, count)| (index, std::mem::take(count))).collect()
    }

    /// Adds what another one counted.
    pub(super) fn add(&mut self, counts: &[(u16, u32)]) {
        for (index, more) in counts {
            if let Some(count) = self.counts.get_mut(usize::from(*index)) {
                *count += more;
                self.total += u64::from(*more);
            }
        }
    }

    /// The upper end of the bucket in which this part of all latencies ends; 0 where nothing was counted.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank between 1 and the total"
    )]
    pub(super) fn quantile(&self, quantile: f64) -> u64 {
        let rank = (self.total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in (0u64..).zip(&self.counts) {
            seen += u64::from(*count);
            if *count > 0 && seen >= rank {
                return upper(index);
            }
        }
        0
    }
}

/// Below 64 ns one bucket each; then 64 for each doubling.
fn bucket(nanoseconds: u64) -> usize {
    let doubling = u64::from((nanoseconds | (PER_DOUBLING - 1)).ilog2() - (PER_DOUBLING - 1).ilog2());
    let index = if doubling == 0 {
        nanoseconds
    } else {
        doubling * PER_DOUBLING + ((nanoseconds >> (doubling - 1)) - PER_DOUBLING)
    };
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

fn upper(index: u64) -> u64 {
    let (doubling, place) = (index / PER_DOUBLING, index % PER_DOUBLING);
    if doubling == 0 { place } else { ((PER_DOUBLING + place + 1) << (doubling - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_it_says_within_two_percent() {
        for power in 0..39 {
            for part in 0..100u64 {
                let value = (1u64 << power) + ((1u64 << power) / 100) * part;
                let top = upper(bucket(value) as u64);
                assert!(top >= value, "{value} is above its bucket's end {top}");
                assert!(top - value <= value / 50 + 1, "{value} is far below {top}");
            }
        }
    }

    #[test]
    fn quantiles_survive_taking_and_adding() {
        let mut one = Buckets::default();
        (1..=1000u64).for_each(|n| one.record(n * 1000));
        let mut all = Buckets::default();
        all.add(&one.take());
        assert_eq!(one.quantile(0.5), 0, "taken");
        let (p50, p99) = (all.quantile(0.5), all.quantile(0.99));
        assert!((500_000..=510_000).contains(&p50) && (990_000..=1_010_000).contains(&p99), "{p50} {p99}");
    }
}
