//! One peer's place in one conversation: every event once, in order, no hole unseen; and what the server did wrong, if anything.
//! Never asks for anything itself: [`Track::lacks`] says what is missing.

use super::body::Mark;

/// Events that wait behind a hole. Unit: events. More are dropped, and come again with the page that fills the hole.
const HELD_MAX: usize = 256;
/// Ranges that the live lane of one connection skipped and that may still come late. Unit: ranges. The oldest is forgotten.
const HOLES_MAX: usize = 16;

/// By which way an event came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// On a lane of the connection.
    Live,
    /// On a page of history.
    Page,
}

/// What is wrong with an event, or about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next one of the live lane, or the copy of a page.
    Fine,
    /// The live lane skipped some.
    Gap,
    /// It was skipped by the live lane and comes late.
    Reordered,
    /// The live lane had it before.
    Duplicated,
}

/// An event that can be shown: in order, for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) way: Way,
    /// What its body said, if it is ours.
    pub(super) mark: Option<Mark>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    seq: u64,
    applied: Applied,
}

/// A place in a conversation.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) conversation: u128,
    /// The last event applied; meaningless until `placed`.
    position: u64,
    placed: bool,
    /// The last event known to exist.
    head: u64,
    /// An event that this user has, and the messages up to it as the server stamped them: where a read cursor may be moved to.
    pub(super) seen: (u64, u64),
    /// Events applied.
    pub(super) got: u64,
    /// Events given up: they exist and cannot be had.
    pub(super) given_up: u64,
    /// Sorted by seq, each once.
    held: Vec<Held>,
    /// The furthest event that this connection's live lane has brought, or that it continues; `None`: the first one will say.
    live: Option<u64>,
    holes: Vec<(u64, u64)>,
    /// A page that fills a hole is asked for.
    pub(super) repairing: bool,
    pub(super) repair_failures: u8,
    /// The server has not yet said, on this connection, that it is in step here.
    pub(super) syncing: bool,
}

impl Track {
    /// It is not known yet where to begin: events wait.
    pub(super) const fn unplaced(conversation: u128) -> Self {
        Self {
            conversation,
            position: 0,
            placed: false,
            head: 0,
            seen: (0, 0),
            got: 0,
            given_up: 0,
            held: Vec::new(),
            live: None,
            holes: Vec::new(),
            repairing: false,
            repair_failures: 0,
            syncing: false,
        }
    }

    /// The last event applied, once it is known where to begin.
    pub(super) fn position(&self) -> Option<u64> {
        self.placed.then_some(self.position)
    }

    /// After which event something is missing.
    pub(super) fn lacks(&self) -> Option<u64> {
        (self.placed && self.position < self.head).then_some(self.position)
    }

    /// Whether an event waits for one before it: then the hole is real, and not just news that is under way.
    pub(super) fn has_hole(&self) -> bool {
        self.placed && !self.held.is_empty()
    }

    /// A new connection: what waited comes again, behind the position that the hello names.
    pub(super) fn on_connection(&mut self) {
        self.held.clear();
        self.holes.clear();
        self.live = self.placed.then_some(self.position);
        self.head = self.position;
        self.repairing = false;
        self.repair_failures = 0;
        self.syncing = self.placed;
    }

    /// Learns that the conversation is at least this long.
    pub(super) fn saw_head(&mut self, seq: u64) {
        self.head = self.head.max(seq);
    }

    /// An event of the live lane. `Duplicated` ones are not applied.
    pub(super) fn offer_live(&mut self, seq: u64, mark: Option<Mark>, apply: &mut impl FnMut(Applied)) -> Verdict {
        let verdict = self.judge(seq);
        if verdict != Verdict::Duplicated {
            self.offer(seq, Applied { way: Way::Live, mark }, apply);
        }
        verdict
    }

    /// An event of a page. Those that came live meanwhile are no news.
    pub(super) fn offer_page(&mut self, seq: u64, mark: Option<Mark>, apply: &mut impl FnMut(Applied)) {
        self.offer(seq, Applied { way: Way::Page, mark }, apply);
    }

    /// Begins after `position`, or before the first event that already came, whichever is earlier.
    pub(super) fn place(&mut self, position: u64, apply: &mut impl FnMut(Applied)) {
        if self.placed {
            return;
        }
        self.placed = true;
        self.position = self.held.first().map_or(position, |first| position.min(first.seq - 1));
        self.head = self.head.max(position);
        self.drain(apply);
    }

    /// Goes on after `position`: what is before is not wanted.
    pub(super) fn reset(&mut self, position: u64) {
        self.placed = true;
        self.position = position;
        self.head = position;
        self.live = Some(position);
        self.held.clear();
        self.holes.clear();
        self.repairing = false;
    }

    /// Leaves out what this user may not read: events before `first`.
    pub(super) fn skip_unreadable(&mut self, first: u64, apply: &mut impl FnMut(Applied)) {
        if self.placed && first > self.position + 1 {
            self.position = first - 1;
            self.head = self.head.max(self.position);
            self.drain(apply);
        }
    }

    /// What is missing cannot be had: goes on behind it, and keeps count.
    pub(super) fn give_up(&mut self, apply: &mut impl FnMut(Applied)) {
        let next = self.held.first().map_or(self.head + 1, |held| held.seq);
        self.given_up += (next - 1).saturating_sub(self.position);
        self.position = self.position.max(next - 1);
        self.repair_failures = 0;
        self.drain(apply);
    }

    /// What the live lane of this connection has brought so far is everything up to `live`, but for the holes.
    fn judge(&mut self, seq: u64) -> Verdict {
        let live = match self.live {
            Some(live) if seq != live + 1 => live,
            continued => {
                self.live = Some(seq);
                if continued.is_none() {
                    // Where the lane begins is its own affair; but what is before it may only come late.
                    self.hole(1, seq - 1);
                }
                return Verdict::Fine;
            }
        };
        if seq > live {
            self.hole(live + 1, seq - 1);
            self.live = Some(seq);
            return Verdict::Gap;
        }
        let Some(at) = self.holes.iter().position(|(from, to)| (*from..=*to).contains(&seq)) else {
            return Verdict::Duplicated;
        };
        let (from, to) = self.holes.remove(at);
        self.hole(from, seq - 1);
        self.hole(seq + 1, to);
        Verdict::Reordered
    }

    fn hole(&mut self, from: u64, to: u64) {
        if from <= to {
            if self.holes.len() == HOLES_MAX {
                self.holes.remove(0);
            }
            self.holes.push((from, to));
        }
    }

    fn offer(&mut self, seq: u64, applied: Applied, apply: &mut impl FnMut(Applied)) {
        self.head = self.head.max(seq);
        if self.placed && seq == self.position + 1 {
            self.step(seq, applied, apply);
            if !self.held.is_empty() {
                self.drain(apply);
            }
        } else if !self.placed || seq > self.position {
            self.hold(Held { seq, applied });
        }
    }

    fn step(&mut self, seq: u64, applied: Applied, apply: &mut impl FnMut(Applied)) {
        self.position = seq;
        self.got += 1;
        apply(applied);
    }

    fn hold(&mut self, held: Held) {
        if let Err(at) = self.held.binary_search_by_key(&held.seq, |held| held.seq) {
            self.held.insert(at, held);
            self.held.truncate(HELD_MAX);
        }
    }

    fn drain(&mut self, apply: &mut impl FnMut(Applied)) {
        let mut done = 0;
        while let Some(held) = self.held.get(done).copied().filter(|held| held.seq <= self.position + 1) {
            done += 1;
            if held.seq == self.position + 1 {
                self.step(held.seq, held.applied, apply);
            }
        }
        self.held.drain(..done);
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
