//! Limits how often something may be tried: token buckets per account and per network, in bounded memory.
//! Forgets those that have been quiet longest; never forgets the newest half.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use tern_protocol::Timestamp;

/// How often.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Over time.
    pub per_minute: u32,
}

/// A network that one attacker is likely to have whole. IPv4 /24, IPv6 /56.
///
/// # Source
/// RFC 6177: end sites get a /48 to a /56; a /64 alone would let one site have 256 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix([u8; 7]);

impl Prefix {
    /// The network that an address is in. An IPv4 address that came through an IPv6 socket is an IPv4 address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                // No global IPv6 network begins with this: the two families cannot collide.
                Self([0, 0, 0, 4, a, b, c])
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, ..] = v6.octets();
                Self([a, b, c, d, e, f, g])
            }
        }
    }
}

/// Buckets of one kind.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    /// Entries per generation: at most twice this many are remembered.
    generation_max: usize,
    young: HashMap<K, Bucket>,
    old: HashMap<K, Bucket>,
}

/// `full_at`: when it will be full again. What is missing now follows from it.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Timestamp,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// Remembers at most `entries_max` keys.
    #[must_use]
    pub fn new(rate: Rate, entries_max: usize) -> Self {
        Self { rate, generation_max: (entries_max / 2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    /// Takes one attempt.
    ///
    /// # Errors
    /// When there is none left: how long until there is. Nothing was taken.
    pub fn take(&mut self, key: &K, now: Timestamp) -> Result<(), Duration> {
        let cost = Duration::from_micros(60_000_000 / u64::from(self.rate.per_minute.max(1)));
        let depth = cost * self.rate.burst;
        let known = self.young.get(key).or_else(|| self.old.get(key));
        let full_at = known.map_or(now, |bucket| bucket.full_at.clamp(now, now.after(depth))).after(cost);
        let missing = full_at.since(now);
        if missing > depth {
            return Err(missing - depth);
        }
        if self.young.len() >= self.generation_max && !self.young.contains_key(key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.clone(), Bucket { full_at });
        Ok(())
    }

    /// Keys that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether nothing was tried yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, per_minute: 6 };

    fn at(s: u64) -> Timestamp {
        Timestamp::from_raw(1_000_000_000_000_000 + s * 1_000_000)
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let mut buckets = Buckets::new(RATE, 10);
        assert!((0..3).all(|_| buckets.take(&"ada", at(0)).is_ok()));
        assert_eq!(buckets.take(&"ada", at(0)), Err(Duration::from_secs(10)));
        assert_eq!(buckets.take(&"ada", at(4)), Err(Duration::from_secs(6)));
        assert_eq!(buckets.take(&"bob", at(4)), Ok(()), "one account's attempts are not another's");
        assert_eq!(buckets.take(&"ada", at(10)), Ok(()));
        assert!(buckets.take(&"ada", at(10)).is_err());
        assert!((0..3).all(|_| buckets.take(&"ada", at(100)).is_ok()));
    }

    #[test]
    fn refused_attempts_do_not_lengthen_the_wait() {
        let mut buckets = Buckets::new(RATE, 10);
        assert_eq!((0..1_000).filter(|_| buckets.take(&"ada", at(0)).is_ok()).count(), 3);
        assert_eq!(buckets.take(&"ada", at(10)), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_the_newest_are_kept() {
        let mut buckets = Buckets::new(RATE, 100);
        for key in 0..10_000_u32 {
            assert_eq!(buckets.take(&key, at(0)), Ok(()));
            assert!(buckets.len() <= 100);
        }
        assert_eq!(buckets.take(&9_999, at(0)), Ok(()));
        assert_eq!(buckets.take(&9_999, at(0)), Ok(()));
        assert!(buckets.take(&9_999, at(0)).is_err());
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out() {
        let mut buckets = Buckets::new(RATE, 10);
        assert_eq!(buckets.take(&"ada", at(3_600)), Ok(()));
        assert_eq!(buckets.take(&"ada", at(0)), Err(Duration::from_secs(10)));
    }

    #[test]
    fn a_network_is_a_24_or_a_56() {
        let of = |text: &str| Prefix::of(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("192.0.2.255"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("::ffff:192.0.2.9"), of("192.0.2.1"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:ff::9"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:100::1"));
    }
}
