//! The receiving end of one direction of a TCP connection: what is there in order, and what it acknowledges. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges beyond the first hole that an acknowledgement has room for. Source: RFC 2018 section 3, beside timestamps.
const SACK_BLOCKS_MAX: usize = 3;

/// What one acknowledgement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ack {
    /// Everything before this is there.
    pub(super) cumulative: u64,
    /// What is there beyond the first hole; the newest first.
    pub(super) blocks: Vec<Span>,
}

/// Bytes of the stream, from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Span {
    pub(super) const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl From<Range<u64>> for Span {
    fn from(range: Range<u64>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// What has arrived. Bounded by the sender's window.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    next: u64,
    /// Start to end of what is beyond the first hole; never touching, never overlapping.
    beyond: BTreeMap<u64, u64>,
}

impl Receiver {
    /// Everything before this is there.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Takes a segment, new or not, and answers it: every segment is acknowledged at once.
    pub(super) fn segment(&mut self, segment: Span) -> Ack {
        let newest = self.insert(segment);
        if let Some(end) = self.beyond.remove(&self.next) {
            self.next = end;
        }
        let known = |start: u64| newest.is_some_and(|newest| newest.start == start);
        let others = self.beyond.iter().filter(|(start, _)| !known(**start));
        let others = others.map(|(start, end)| Span { start: *start, end: *end });
        let first = newest.filter(|newest| newest.start > self.next);
        Ack { cumulative: self.next, blocks: first.into_iter().chain(others).take(SACK_BLOCKS_MAX).collect() }
    }

    /// Joins it with what it touches; the joined range, unless nothing of it is new to keep.
    fn insert(&mut self, segment: Span) -> Option<Span> {
        let mut joined = Span { start: segment.start.max(self.next), end: segment.end };
        if joined.start >= joined.end {
            return None;
        }
        while let Some((&start, &end)) = self.beyond.range(..=joined.end).next_back() {
            if end < joined.start {
                break;
            }
            self.beyond.remove(&start);
            joined = Span { start: joined.start.min(start), end: joined.end.max(end) };
        }
        self.beyond.insert(joined.start, joined.end);
        Some(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_holds_back_what_is_behind_it_and_is_named() {
        let mut receiver = Receiver::default();
        assert_eq!(receiver.segment((0..10).into()), Ack { cumulative: 10, blocks: vec![] });
        assert_eq!(receiver.segment((20..30).into()).blocks, [(20..30).into()]);
        assert_eq!(receiver.segment((40..50).into()).blocks, [(40..50).into(), (20..30).into()]);
        assert_eq!(receiver.segment((30..40).into()).blocks, [(20..50).into()]);
        assert_eq!(receiver.segment((20..30).into()), Ack { cumulative: 10, blocks: vec![(20..50).into()] });
        assert_eq!(receiver.segment((10..20).into()), Ack { cumulative: 50, blocks: vec![] });
        assert_eq!(receiver.segment((0..10).into()), Ack { cumulative: 50, blocks: vec![] });
        assert_eq!(receiver.next(), 50);
    }

    #[test]
    fn an_acknowledgement_names_three_ranges_at_most() {
        let mut receiver = Receiver::default();
        for start in (10..200).step_by(20) {
            assert!(receiver.segment((start..start + 10).into()).blocks.len() <= SACK_BLOCKS_MAX);
        }
        assert_eq!(receiver.next(), 0);
    }
}
