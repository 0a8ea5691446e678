//! When connections want to be looked at. quinn-proto moves its timers on nearly every packet, so an entry is pushed only when a
//! deadline comes earlier than the one that is armed, and re-armed when it fires. Never removes an entry before its time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Entries that are looked at in one turn. Unit: entries. Each that is due brings its connection into the caches.
pub(crate) const DEADLINES_PER_TURN: usize = 256;

/// Deadlines of slots, earliest first. An entry says only "look": the slot knows what is due.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord + Copy> Deadlines<K> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new() }
    }

    /// Sees to it that the slot is looked at no later than `at`. `armed` is the slot's own note of its earliest entry.
    pub(crate) fn arm(&mut self, slot: K, armed: &mut Option<Instant>, at: Instant) {
        if armed.is_none_or(|armed| at < armed) {
            *armed = Some(at);
            self.heap.push(Reverse((at, slot)));
        }
    }

    /// The next slot whose time has come, and the entry's time. An entry that is not the one the slot has noted is a leftover.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(K, Instant)> {
        let Reverse((at, slot)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some((slot, at))
    }

    /// The earliest time at which something may be due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_later_deadline_costs_no_entry() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::new();
        let mut armed = None;
        deadlines.arm(7, &mut armed, at(5));
        deadlines.arm(7, &mut armed, at(9));
        assert_eq!(deadlines.heap.len(), 1);
        deadlines.arm(7, &mut armed, at(2));
        assert_eq!(armed, Some(at(2)));
        assert_eq!(deadlines.pop_due(at(1)), None);
        assert_eq!(deadlines.pop_due(at(6)), Some((7, at(2))));
        assert_eq!(deadlines.pop_due(at(6)), Some((7, at(5))), "a leftover, which the slot's note tells");
        assert_eq!(deadlines.pop_due(at(6)), None);
    }
}
