//! When somebody wants to be looked at. Timers of a connection move with nearly every packet, so an entry is pushed only when a
//! deadline comes earlier than the armed one, and again when it fires too early. Never removes an entry before its time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Deadlines by slot, earliest first. An entry says only "look": the slot knows what is due.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
}

impl Deadlines {
    /// Sees to it that the slot is looked at no later than `at`. `armed` is the slot's own note of its earliest entry.
    pub(super) fn arm(&mut self, slot: u32, armed: &mut Option<Instant>, at: Instant) {
        if armed.is_none_or(|armed| at < armed) {
            *armed = Some(at);
            self.heap.push(Reverse((at, slot)));
        }
    }

    /// The next entry whose time has come. One that is not what the slot has noted is a leftover.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(u32, Instant)> {
        let Reverse((at, slot)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some((slot, at))
    }

    /// The earliest time at which something may be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_an_earlier_deadline_costs_an_entry() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        let mut armed = None;
        deadlines.arm(7, &mut armed, at(5));
        deadlines.arm(7, &mut armed, at(9));
        assert_eq!(deadlines.heap.len(), 1);
        deadlines.arm(7, &mut armed, at(2));
        assert_eq!((armed, deadlines.next()), (Some(at(2)), Some(at(2))));
        assert_eq!(deadlines.pop_due(at(1)), None);
        assert_eq!(deadlines.pop_due(at(6)), Some((7, at(2))));
        assert_eq!(deadlines.pop_due(at(6)), Some((7, at(5))), "a leftover: it is not what the slot has noted");
        assert_eq!(deadlines.pop_due(at(6)), None);
    }
}
