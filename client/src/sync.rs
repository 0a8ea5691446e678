//! One conversation's place in its total order: every event once, in order, no hole unseen. Sans-IO.
//! Never asks for anything itself: [`Track::lacks`] says what is missing, the session asks.

use std::collections::BTreeMap;

/// Events of one conversation that wait behind a hole. Unit: events. More are dropped, and come again with the page that fills the hole.
pub(crate) const HELD_EVENTS_MAX: usize = 256;

/// What became of an offered event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It, and maybe some that waited for it, can be applied.
    Applied,
    /// It was applied before.
    Duplicate,
    /// It waits for what is missing before it.
    Held,
}

/// The place in one conversation. `E` is an event; only its seq is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Track<E> {
    /// The last event applied; `None` until it is known where to begin.
    position: Option<u64>,
    /// The last event that is known to exist.
    head: u64,
    held: BTreeMap<u64, E>,
}

impl<E> Track<E> {
    /// Everything up to `position` is there.
    #[must_use]
    pub(crate) const fn at(position: u64) -> Self {
        Self { position: Some(position), head: position, held: BTreeMap::new() }
    }

    /// It is not known yet where to begin: events wait.
    #[must_use]
    pub(crate) const fn unplaced() -> Self {
        Self { position: None, head: 0, held: BTreeMap::new() }
    }

    /// Takes an event; what can be applied is appended to `apply`, in order.
    pub(crate) fn offer(&mut self, seq: u64, event: E, apply: &mut Vec<E>) -> Offer {
        self.head = self.head.max(seq);
        match self.position {
            Some(position) if seq <= position => Offer::Duplicate,
            Some(position) if seq == position + 1 => {
                self.position = Some(seq);
                apply.push(event);
                self.drain(apply);
                Offer::Applied
            }
            Some(_) | None => {
                self.hold(seq, event);
                Offer::Held
            }
        }
    }

    /// Begins after `position`, or before the first event that already came, whichever is earlier.
    pub(crate) fn place(&mut self, position: u64, apply: &mut Vec<E>) {
        if self.position.is_none() {
            let before_held = self.held.keys().next().map_or(position, |first| first.saturating_sub(1));
            self.position = Some(position.min(before_held));
            self.head = self.head.max(position);
            self.drain(apply);
        }
    }

    /// Learns that the conversation is at least this long.
    pub(crate) fn saw_head(&mut self, seq: u64) {
        self.head = self.head.max(seq);
    }

    /// Goes on after `position`, forgetting what was before: the one way in which events are left out.
    pub(crate) fn reset(&mut self, position: u64) {
        *self = Self::at(position);
    }

    /// Leaves out what this user may not read: events before `first`. Says from where it jumped.
    pub(crate) fn skip_unreadable(&mut self, first: u64, apply: &mut Vec<E>) -> Option<u64> {
        let position = self.position?;
        if first <= position + 1 {
            return None;
        }
        self.position = Some(first - 1);
        self.head = self.head.max(first - 1);
        self.drain(apply);
        Some(position)
    }

    /// The last event applied.
    #[must_use]
    pub(crate) const fn position(&self) -> Option<u64> {
        self.position
    }

    /// The last event known to exist.
    #[must_use]
    pub(crate) const fn head(&self) -> u64 {
        self.head
    }

    /// After which event something is missing; `None` when nothing is.
    #[must_use]
    pub(crate) fn lacks(&self) -> Option<u64> {
        self.position.filter(|position| *position < self.head)
    }

    /// Whether an event waits for one before it: then the hole is real, and not just news that is still under way.
    #[must_use]
    pub(crate) fn has_hole(&self) -> bool {
        self.position.is_some() && !self.held.is_empty()
    }

    fn hold(&mut self, seq: u64, event: E) {
        self.held.entry(seq).or_insert(event);
        if self.held.len() > HELD_EVENTS_MAX {
            self.held.pop_last();
        }
    }

    fn drain(&mut self, apply: &mut Vec<E>) {
        while let (Some(position), Some(entry)) = (self.position, self.held.first_entry()) {
            if *entry.key() > position + 1 {
                break;
            }
            let (seq, event) = entry.remove_entry();
            if seq == position + 1 {
                self.position = Some(seq);
                apply.push(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the network does to a conversation of `LOG` events.
    #[derive(Debug, Clone)]
    enum Step {
        /// The next live event arrives.
        Live,
        /// The next live event is lost.
        Lost,
        /// An old or future event arrives out of turn.
        Stray(u64),
        /// A page after the position arrives.
        Page(u64),
        /// A page that was asked for long ago arrives.
        OldPage(u64),
        /// A pong names the head.
        Pong,
        /// The server resets to its head.
        Reset,
    }

    const LOG: u64 = 600;

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Live),
            2 => Just(Step::Lost),
            2 => (1..=LOG).prop_map(Step::Stray),
            2 => (1..64u64).prop_map(Step::Page),
            1 => (0..LOG).prop_map(Step::OldPage),
            1 => Just(Step::Pong),
            1 => Just(Step::Reset),
        ]
    }

    proptest! {
        /// Any interleaving of live events, duplicates, holes, pages and resets gives each seq once, in order; paging on gives the rest.
        #[test]
        fn every_event_is_applied_once_in_order(steps in proptest::collection::vec(step(), 0..400)) {
            let mut track = Track::at(0);
            let mut seen = Vec::new();
            let mut expected = 1;
            let mut live = 0;
            for step in steps {
                let mut apply = Vec::new();
                match step {
                    Step::Live if live < LOG => { live += 1; track.offer(live, live, &mut apply); }
                    Step::Lost if live < LOG => live += 1,
                    Step::Live | Step::Lost => {}
                    Step::Stray(seq) => if seq <= live { track.offer(seq, seq, &mut apply); },
                    Step::Page(size) => if let Some(anchor) = track.lacks() {
                        for seq in anchor + 1..=live.min(anchor + size) { track.offer(seq, seq, &mut apply); }
                    },
                    Step::OldPage(anchor) => for seq in anchor + 1..=live.min(anchor + 50) {
                        track.offer(seq, seq, &mut apply);
                    },
                    Step::Pong => track.saw_head(live),
                    Step::Reset => { track.reset(live); expected = live + 1; }
                }
                for seq in apply {
                    prop_assert_eq!(seq, expected);
                    expected += 1;
                    seen.push(seq);
                }
                prop_assert!(track.held.len() <= HELD_EVENTS_MAX);
                prop_assert_eq!(track.position(), Some(expected - 1));
            }
            track.saw_head(live);
            while let Some(anchor) = track.lacks() {
                let mut apply = Vec::new();
                for seq in anchor + 1..=live.min(anchor + 7) { track.offer(seq, seq, &mut apply); }
                for seq in apply { prop_assert_eq!(seq, expected); expected += 1; }
            }
            prop_assert_eq!(track.position(), Some(live));
        }
    }

    #[test]
    fn events_that_come_before_the_place_is_known_are_not_lost() {
        let mut track = Track::unplaced();
        let mut apply = Vec::new();
        assert_eq!(track.offer(5, 5, &mut apply), Offer::Held);
        track.place(5, &mut apply);
        assert_eq!((apply, track.position()), (vec![5], Some(5)));
    }

    #[test]
    fn what_may_not_be_read_is_skipped_and_reported() {
        let mut track = Track::at(3);
        let mut apply = Vec::new();
        track.offer(9, 9, &mut apply);
        assert_eq!(track.skip_unreadable(4, &mut apply), None);
        assert_eq!(track.skip_unreadable(9, &mut apply), Some(3));
        assert_eq!((apply, track.position(), track.lacks()), (vec![9], Some(9), None));
    }

    #[test]
    fn more_than_the_bound_behind_a_hole_is_dropped_and_asked_for_again() {
        let mut track = Track::at(0);
        let mut apply = Vec::new();
        let last = HELD_EVENTS_MAX as u64 + 50;
        for seq in 2..=last {
            track.offer(seq, seq, &mut apply);
        }
        assert_eq!(track.held.len(), HELD_EVENTS_MAX);
        track.offer(1, 1, &mut apply);
        assert_eq!(track.position(), Some(HELD_EVENTS_MAX as u64 + 1));
        assert_eq!(track.lacks(), Some(HELD_EVENTS_MAX as u64 + 1));
        assert_eq!(track.head(), last);
    }
}
