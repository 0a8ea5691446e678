//! Where every choice of a run comes from: one stream of numbers per concern, all from one seed.
//! Never reads the machine's randomness; a new concern takes a new salt, so that it does not move the choices of the others.

use std::time::Duration;

/// A stream of numbers (xoshiro256++).
///
/// # Source
/// Blackman, Vigna: Scrambled linear pseudorandom number generators (2021).
#[derive(Debug, Clone)]
pub(crate) struct Rng([u64; 4]);

impl Rng {
    /// The stream of one concern.
    pub(crate) fn stream(seed: u64, salt: &str) -> Self {
        let mut state = tern_protocol::placement::mix_bytes(salt.as_bytes()) ^ seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            tern_protocol::placement::mix64(state)
        }))
    }

    /// The next number.
    pub(crate) fn raw(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c2, d2) = (c ^ a, d ^ b);
        self.0 = [a ^ d2, b ^ c2, c2 ^ (b << 17), d2.rotate_left(45)];
        result
    }

    /// A number under `bound`; 0 when the bound is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.raw() % bound }
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// An index into something of this length.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("below a usize")
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < u64::from(per_mille)
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = self.index(from.len());
        from.get(index)
    }

    /// A span within a range of microseconds, both included.
    pub(crate) fn span(&mut self, range: (u64, u64)) -> Duration {
        Duration::from_micros(self.between(range.0, range.1))
    }
}
