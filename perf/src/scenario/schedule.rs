//! When who does what: arrivals at a rate, even or random, over the peers of one worker. The same seed gives the same schedule.
//! Never looks at what the server does: a schedule that waited for answers would hide the very delays it is there to show.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

use crate::fleet::{Action, Arrival, PeerId, Workload};

/// How arrivals follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// One every `1 / rate`.
    Even,
    /// A Poisson process: independent people.
    Poisson,
}

/// What one worker does of a schedule that all workers share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// This worker.
    pub(super) worker: usize,
    /// How many there are.
    pub(super) workers: usize,
}

impl Share {
    /// Whether a peer belongs to this worker.
    #[must_use]
    pub(super) const fn has(self, peer: u32) -> bool {
        peer as usize % self.workers == self.worker
    }
}

/// Arrivals at a rate until a moment; what each one does is asked of `make`.
pub(super) struct Steady<F> {
    next: Instant,
    until: Instant,
    /// Mean time between two arrivals. Unit: seconds.
    gap: f64,
    pace: Pace,
    random: ChaCha8Rng,
    index: u64,
    make: F,
}

impl<F: FnMut(u64, &mut ChaCha8Rng) -> (PeerId, Action) + Send> Steady<F> {
    /// `rate` arrivals a second from `start` on for `length`. `make` is given the number of each, from 0.
    #[must_use]
    pub(super) fn new(start: Instant, length: Duration, rate: f64, pace: Pace, seed: u64, make: F) -> Self {
        let gap = if rate > 0.0 { 1.0 / rate } else { f64::INFINITY };
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Schedules of several workers must not beat in time.
        let first = start + offset(gap.min(length.as_secs_f64()) * random.random::<f64>());
        let until = if rate > 0.0 { start + length } else { start };
        Self { next: first, until, gap, pace, random, index: 0, make }
    }
}

impl<F: FnMut(u64, &mut ChaCha8Rng) -> (PeerId, Action) + Send> Workload for Steady<F> {
    fn next(&mut self) -> Option<Arrival> {
        if self.next >= self.until {
            return None;
        }
        let at = self.next;
        let (peer, action) = (self.make)(self.index, &mut self.random);
        self.index += 1;
        self.next += offset(match self.pace {
            Pace::Even => self.gap,
            Pace::Poisson => {
                let unit: f64 = Exp1.sample(&mut self.random);
                unit * self.gap
            }
        });
        Some(Arrival { at, peer, action })
    }
}

/// The same action for each peer of a list, at a rate.
pub(super) struct Each {
    at: Instant,
    gap: f64,
    left: std::vec::IntoIter<PeerId>,
    action: fn(PeerId) -> Action,
    done: u32,
}

impl Each {
    /// `rate` peers a second in all from `start` on; those of this worker only, each at its place in the whole. Rate 0: all at once.
    #[must_use]
    pub(super) fn new(
        start: Instant,
        rate: f64,
        share: Share,
        peers: impl Iterator<Item = u32>,
        action: fn(PeerId) -> Action,
    ) -> Self {
        let mine: Vec<PeerId> = peers.filter(|peer| share.has(*peer)).map(PeerId).collect();
        let own_rate = rate / share.workers as f64;
        let gap = if own_rate > 0.0 { 1.0 / own_rate } else { 0.0 };
        Self { at: start, gap, left: mine.into_iter(), action, done: 0 }
    }
}

impl Workload for Each {
    fn next(&mut self) -> Option<Arrival> {
        let peer = self.left.next()?;
        let at = self.at + offset(self.gap * f64::from(self.done));
        self.done += 1;
        Some(Arrival { at, peer, action: (self.action)(peer) })
    }
}

/// Sizes of groups as they are in life: many small ones, few big ones.
///
/// # Source
/// Zipf's law with exponent 1; the largest is given, the k-th has `largest / k` members, never less than `smallest`.
#[must_use]
pub(super) fn zipf_sizes(groups: usize, largest: usize, smallest: usize) -> Vec<usize> {
    (1..=groups).map(|rank| (largest / rank).max(smallest)).collect()
}

/// `count` different numbers below `limit`, seeded.
pub(super) fn distinct(random: &mut impl Rng, count: usize, limit: u32) -> Vec<u32> {
    rand::seq::index::sample(random, limit as usize, count.min(limit as usize))
        .into_iter()
        .map(|index| u32::try_from(index).unwrap_or(u32::MAX))
        .collect()
}

/// Seconds as time; what is no time at all is none.
fn offset(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(peer: PeerId) -> Action {
        let _ = peer;
        Action::Connect
    }

    #[test]
    fn an_even_schedule_has_as_many_arrivals_as_its_rate_says() {
        let start = Instant::now();
        let mut steady =
            Steady::new(start, Duration::from_secs(10), 50.0, Pace::Even, 1, |_, _| (PeerId(0), Action::Connect));
        let times: Vec<Instant> = std::iter::from_fn(|| steady.next()).map(|arrival| arrival.at).collect();
        assert!((499..=500).contains(&times.len()), "{}", times.len());
        assert!(times.is_sorted());
    }

    #[test]
    fn a_random_schedule_is_the_same_for_the_same_seed() {
        let start = Instant::now();
        let times = |seed| {
            let mut steady = Steady::new(start, Duration::from_secs(20), 100.0, Pace::Poisson, seed, |_, _| {
                (PeerId(0), Action::Connect)
            });
            std::iter::from_fn(move || steady.next()).map(|arrival| arrival.at).collect::<Vec<_>>()
        };
        assert_eq!(times(7), times(7));
        assert_ne!(times(7), times(8));
        // 2000 expected, standard deviation 45.
        assert!((1800..2200).contains(&times(7).len()));
    }

    #[test]
    fn no_rate_is_no_arrival() {
        let mut steady = Steady::new(Instant::now(), Duration::from_secs(1), 0.0, Pace::Even, 1, |_, _| {
            (PeerId(0), Action::Connect)
        });
        assert!(steady.next().is_none());
    }

    #[test]
    fn each_peer_is_at_its_worker_once() {
        let start = Instant::now();
        let mut all = Vec::new();
        for worker in 0..3 {
            let mut each = Each::new(start, 100.0, Share { worker, workers: 3 }, 0..10, ping);
            while let Some(arrival) = each.next() {
                assert_eq!(arrival.peer.0 as usize % 3, worker);
                all.push(arrival.peer.0);
            }
        }
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn group_sizes_fall_as_their_rank() {
        assert_eq!(zipf_sizes(5, 100, 30), [100, 50, 33, 30, 30]);
    }
}
