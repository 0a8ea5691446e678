//! The dice: what becomes of packet n of a flow is a function of seed, flow, direction and n, never of time or of what came before.
//! The digest of all that was rolled tells whether two runs met the same fates.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tern_protocol::placement::mix64;

use super::plan::{Direction, Impairment};

/// What a die is rolled for: each has its own stream of numbers, so that one more acknowledgement does not change the fate of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Concern {
    /// A UDP datagram.
    Datagram,
    /// A TCP segment with data, retransmissions included.
    Segment,
    /// A TCP segment without data, and those of the handshake.
    Acknowledgement,
}

/// What happens to one packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fate {
    pub(super) lost: bool,
    pub(super) duplicated: bool,
    pub(super) reordered: bool,
    /// Share of the jitter that it suffers, 0 to 1.
    pub(super) jitter: f64,
}

/// The fates of one flow's packets in one direction, one after the other.
#[derive(Debug)]
pub(super) struct Dice {
    key: [u8; 32],
    packet: u64,
    digest: u64,
}

impl Dice {
    pub(super) fn new(seed: u64, flow: u64, direction: Direction, concern: Concern) -> Self {
        let names = [seed, flow, direction as u64, concern as u64];
        let mut key = [0; 32];
        for (bytes, name) in key.chunks_exact_mut(8).zip(names) {
            bytes.copy_from_slice(&name.to_le_bytes());
        }
        Self { key, packet: 0, digest: 0 }
    }

    /// The next packet's fate. Each packet has a ChaCha stream of its own, named by its number, and draws all its numbers whether it
    /// needs them or not: a change of the impairment moves the thresholds, never the numbers.
    pub(super) fn roll(&mut self, impairment: &Impairment) -> Fate {
        let mut numbers = ChaCha8Rng::from_seed(self.key);
        numbers.set_stream(self.packet);
        let [loss, duplicate, reorder, jitter] = [(); 4].map(|()| fraction(numbers.next_u64()));
        let fate = Fate {
            lost: loss < impairment.loss,
            duplicated: duplicate < impairment.duplicate,
            reordered: reorder < impairment.reorder.probability,
            jitter,
        };
        self.note(fate);
        self.packet += 1;
        fate
    }

    /// What was rolled so far, in one number: equal fates in equal order give equal numbers.
    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    fn note(&mut self, fate: Fate) {
        let bits = u64::from(fate.lost) | u64::from(fate.duplicated) << 1 | u64::from(fate.reordered) << 2;
        self.digest = mix64(self.digest ^ mix64(self.packet << 3 | bits) ^ fate.jitter.to_bits());
    }
}

/// Evenly spread in [0, 1), from the upper 53 bits: as many as an `f64` holds exactly.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
fn fraction(number: u64) -> f64 {
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::super::plan::Reorder;
    use super::*;
    use std::time::Duration;

    const BAD: Impairment = Impairment {
        loss: 0.02,
        duplicate: 0.01,
        reorder: Reorder { probability: 0.05, extra: Duration::from_millis(5) },
        ..Impairment::NONE
    };

    fn dice(seed: u64, flow: u64) -> Dice {
        Dice::new(seed, flow, Direction::Up, Concern::Datagram)
    }

    #[test]
    fn each_fate_is_as_frequent_as_the_plan_says() {
        let mut dice = dice(1, 1);
        let mut counts = [0_i64; 3];
        for _ in 0..100_000 {
            let fate = dice.roll(&BAD);
            for (count, met) in counts.iter_mut().zip([fate.lost, fate.duplicated, fate.reordered]) {
                *count += i64::from(met);
            }
            assert!((0.0..1.0).contains(&fate.jitter));
        }
        // Five standard deviations of a binomial of 100,000: 221, 157 and 345. The seed is fixed: this holds always or never.
        for (count, (expected, bound)) in counts.into_iter().zip([(2_000, 221), (1_000, 157), (5_000, 345)]) {
            assert!((count - expected).abs() < bound, "{count} of {expected}");
        }
    }

    #[test]
    fn equal_seeds_give_equal_fates_and_nothing_else_does() {
        let digest = |mut dice: Dice, impairment: &Impairment| {
            for _ in 0..1_000 {
                dice.roll(impairment);
            }
            dice.digest()
        };
        let reference = digest(dice(7, 3), &BAD);
        assert_eq!(reference, digest(dice(7, 3), &BAD));
        assert_ne!(reference, digest(dice(8, 3), &BAD));
        assert_ne!(reference, digest(dice(7, 4), &BAD));
        assert_ne!(reference, digest(Dice::new(7, 3, Direction::Down, Concern::Datagram), &BAD));
        assert_ne!(reference, digest(Dice::new(7, 3, Direction::Up, Concern::Segment), &BAD));
        assert_ne!(reference, digest(dice(7, 3), &Impairment { loss: 0.5, ..BAD }));
    }

    #[test]
    fn a_packet_keeps_its_numbers_when_the_weather_before_it_was_another() {
        let mut calm = dice(1, 1);
        let mut stormy = dice(1, 1);
        for _ in 0..100 {
            calm.roll(&Impairment::NONE);
            stormy.roll(&Impairment { loss: 0.9, ..BAD });
        }
        assert_eq!(calm.roll(&BAD), stormy.roll(&BAD));
    }
}
