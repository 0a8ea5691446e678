//! Which connections of a shard are looked at, and in which turn: those to which something has happened at once, those that only have
//! something to be sent a bounded number in each turn, round and round in slot order. Never visits one twice in a turn.
//!
//! A message to five thousand sessions takes a shard about a tenth of a second to send. Without the bound nothing is received in that
//! time, and everybody else's messages wait.

use std::mem;

use tern_core_shard::io::Urgency;

/// Connections that only have something to be sent and are visited in one turn. Unit: connections. As many as packets are received in
/// a turn at least, so that their acknowledgements are taken as they come.
const VISITS_PER_TURN: usize = 128;
/// Slots in one word of the set.
const WORD_BITS: usize = u64::BITS as usize;

/// Slots to visit.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    /// Those to which something has happened. Each once: the connection knows whether it is here.
    now: Vec<usize>,
    /// Those that have something to be sent: a bit each.
    later: Vec<u64>,
    /// Bits that are set in `later`.
    waiting: usize,
    /// Where the round goes on.
    cursor: usize,
}

impl Agenda {
    /// Something has happened to a connection: it is visited in this turn. `is_listed` is the connection's own note.
    pub(crate) fn mark(&mut self, slot: usize, is_listed: &mut bool) {
        if !mem::replace(is_listed, true) {
            self.now.push(slot);
        }
    }

    /// A connection has something to be sent, this soon.
    pub(crate) fn add(&mut self, slot: usize, urgency: Urgency, is_listed: &mut bool) {
        match urgency {
            Urgency::Prompt => self.mark(slot, is_listed),
            Urgency::Bulk => self.put_off(slot),
        }
    }

    /// A connection has something to be sent: it is visited when its turn in the round comes.
    pub(crate) fn put_off(&mut self, slot: usize) {
        let (word, bit) = (slot / WORD_BITS, 1 << (slot % WORD_BITS));
        if self.later.len() <= word {
            self.later.resize(word + 1, 0);
        }
        if let Some(bits) = self.later.get_mut(word) {
            self.waiting += usize::from(*bits & bit == 0);
            *bits |= bit;
        }
    }

    /// Those to which something has happened.
    pub(crate) fn now(&self) -> &[usize] {
        &self.now
    }

    /// Connections that wait for their turn in the round.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.now.is_empty() && self.waiting == 0
    }

    /// Moves the visits of this turn to `into`, which is empty, each slot once and in order: neighbours in memory were often made
    /// together, which keeps the caches and the prefetcher useful.
    pub(crate) fn take(&mut self, into: &mut Vec<usize>) {
        mem::swap(&mut self.now, into);
        for slot in &*into {
            self.clear(*slot);
        }
        for _ in 0..VISITS_PER_TURN {
            let Some(slot) = self.next_later() else { break };
            into.push(slot);
        }
        into.sort_unstable();
    }

    /// The next of the round; the round begins again at its end.
    fn next_later(&mut self) -> Option<usize> {
        if self.waiting == 0 {
            return None;
        }
        let slot = self.first_from(self.cursor).or_else(|| self.first_from(0))?;
        self.clear(slot);
        self.cursor = slot + 1;
        Some(slot)
    }

    fn clear(&mut self, slot: usize) {
        let bit = 1 << (slot % WORD_BITS);
        if let Some(bits) = self.later.get_mut(slot / WORD_BITS) {
            self.waiting -= usize::from(*bits & bit != 0);
            *bits &= !bit;
        }
    }

    /// The first slot that waits, from this one on.
    fn first_from(&self, slot: usize) -> Option<usize> {
        let first = slot / WORD_BITS;
        let mut mask = u64::MAX << (slot % WORD_BITS);
        for (word, bits) in self.later.iter().enumerate().skip(first) {
            let bits = bits & mem::replace(&mut mask, u64::MAX);
            if bits != 0 {
                return Some(word * WORD_BITS + bits.trailing_zeros() as usize);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(agenda: &mut Agenda) -> Vec<usize> {
        let mut visits = Vec::new();
        agenda.take(&mut visits);
        visits
    }

    #[test]
    fn what_happened_is_visited_at_once_and_once() {
        let mut agenda = Agenda::default();
        let mut is_listed = [false; 3];
        for slot in [2, 0, 2] {
            agenda.mark(slot, &mut is_listed[slot]);
        }
        agenda.put_off(2);
        agenda.put_off(1);
        assert_eq!(agenda.now(), [2, 0]);
        assert_eq!(take(&mut agenda), [0, 1, 2], "in order, each once");
        assert!(agenda.is_empty());
    }

    #[test]
    fn a_crowd_is_visited_in_rounds_and_newcomers_do_not_starve_it() {
        let mut agenda = Agenda::default();
        let crowd = 3 * VISITS_PER_TURN;
        (0..crowd).for_each(|slot| agenda.put_off(slot));
        (0..crowd).for_each(|slot| agenda.put_off(slot));
        assert_eq!(agenda.waiting(), crowd, "a bit each");
        for turn in 0..3 {
            let first = turn * VISITS_PER_TURN;
            assert_eq!(take(&mut agenda), (first..first + VISITS_PER_TURN).collect::<Vec<_>>());
            // Whoever was just visited has something again: it comes after those that were not.
            agenda.put_off(first);
        }
        assert_eq!(take(&mut agenda), [0, VISITS_PER_TURN, 2 * VISITS_PER_TURN]);
        assert!(agenda.is_empty());
    }

    #[test]
    fn one_that_is_prompt_does_not_wait_for_the_crowd() {
        let mut agenda = Agenda::default();
        let last = 10 * VISITS_PER_TURN;
        (0..=last).for_each(|slot| agenda.add(slot, Urgency::Bulk, &mut false));
        agenda.add(last, Urgency::Prompt, &mut false);
        let visits = take(&mut agenda);
        assert_eq!((visits.len(), visits.last()), (VISITS_PER_TURN + 1, Some(&last)));
        assert_eq!(agenda.waiting(), last - VISITS_PER_TURN, "nor is it visited twice");
    }
}
