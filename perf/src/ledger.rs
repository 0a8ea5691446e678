//! The books of a test run: what was acknowledged, what each screen showed, what the store has in the end, and where these disagree.
//! Holds everything in memory: a run is bounded by whoever makes it.

use std::collections::BTreeMap;

use tern_protocol::{ConversationId, Seq};

/// One screen: a client's view of all its conversations since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScreenId(pub u32);

/// What happened in a run.
#[derive(Debug, Default)]
pub struct Ledger {
    /// What was acknowledged: where, and with which content.
    acked: BTreeMap<(ConversationId, Seq), Vec<u8>>,
    /// Two acknowledgements of one place with different contents.
    conflicting: u64,
    shown: BTreeMap<(ScreenId, ConversationId), Shown>,
    /// What the store has in the end, by conversation, ascending.
    stored: BTreeMap<ConversationId, Vec<(Seq, Vec<u8>)>>,
}

#[derive(Debug, Default)]
struct Shown {
    last: Option<Seq>,
    events: BTreeMap<Seq, Vec<u8>>,
    duplicates: u64,
    holes: u64,
}

/// Where the books disagree. All zeros: nothing was lost, repeated or reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Acknowledged, but not where the acknowledgement said, or with another content.
    pub acked_missing: u64,
    /// Places without an event, in the store or on a screen.
    pub holes: u64,
    /// Events that a screen showed twice or out of order, and contents that the store has twice.
    pub duplicates: u64,
    /// Events that a screen showed and the store has otherwise.
    pub different: u64,
    /// Screens that did not get to the end of a conversation.
    pub behind: u64,
}

/// How much was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Volume {
    /// Acknowledged messages.
    pub acked: u64,
    /// Events that the store has.
    pub stored: u64,
    /// Events that screens showed.
    pub shown: u64,
}

impl Verdict {
    /// Whether the books agree.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl Ledger {
    /// A message with this content was acknowledged at this place.
    pub fn acked(&mut self, conversation: ConversationId, seq: Seq, body: &[u8]) {
        let before = self.acked.insert((conversation, seq), body.to_vec());
        self.conflicting += u64::from(before.is_some_and(|before| before != body));
    }

    /// A screen showed an event.
    pub fn shown(&mut self, screen: ScreenId, conversation: ConversationId, seq: Seq, body: &[u8]) {
        let shown = self.shown.entry((screen, conversation)).or_default();
        match shown.last {
            Some(last) if seq <= last => shown.duplicates += 1,
            Some(last) => shown.holes += seq.raw() - last.raw() - 1,
            None => {}
        }
        shown.last = shown.last.max(Some(seq));
        shown.events.insert(seq, body.to_vec());
    }

    /// A screen was told that it goes on after this place, and that what lies between must be paged.
    pub fn skipped_to(&mut self, screen: ScreenId, conversation: ConversationId, position: Seq) {
        let shown = self.shown.entry((screen, conversation)).or_default();
        shown.last = shown.last.max(Some(position));
    }

    /// The store has this event, as a client that began anew has read it.
    pub fn stored(&mut self, conversation: ConversationId, seq: Seq, body: &[u8]) {
        self.stored.entry(conversation).or_default().push((seq, body.to_vec()));
    }

    /// Whether a conversation was read from the store already.
    #[must_use]
    pub fn has_stored(&self, conversation: ConversationId) -> bool {
        self.stored.contains_key(&conversation)
    }

    /// Compares. `is_unique` says which contents were sent only once, as messages.
    #[must_use]
    pub fn verdict(&self, is_unique: impl Fn(&[u8]) -> bool) -> Verdict {
        let mut verdict = Verdict { acked_missing: self.conflicting, ..Verdict::default() };
        let index: BTreeMap<(ConversationId, Seq), &[u8]> = self
            .stored
            .iter()
            .flat_map(|(conversation, events)| events.iter().map(move |(seq, body)| ((*conversation, *seq), &body[..])))
            .collect();
        for events in self.stored.values() {
            let mut bodies: Vec<&[u8]> =
                events.iter().map(|(_, body)| &body[..]).filter(|body| is_unique(body)).collect();
            let count = bodies.len();
            bodies.sort_unstable();
            bodies.dedup();
            verdict.duplicates += (count - bodies.len()) as u64;
            let mut expected = 1;
            for (seq, _) in events {
                verdict.holes += seq.raw().saturating_sub(expected);
                expected = seq.raw() + 1;
            }
        }
        for (place, body) in &self.acked {
            verdict.acked_missing += u64::from(index.get(place) != Some(&&body[..]));
        }
        for ((_, conversation), shown) in &self.shown {
            verdict.duplicates += shown.duplicates;
            verdict.holes += shown.holes;
            let wrong = |(seq, body): (&Seq, &Vec<u8>)| index.get(&(*conversation, *seq)) != Some(&&body[..]);
            verdict.different += shown.events.iter().filter(|event| wrong(*event)).count() as u64;
            let head = self.stored.get(conversation).and_then(|events| events.last()).map(|(seq, _)| *seq);
            verdict.behind += u64::from(shown.last < head);
        }
        verdict
    }

    /// How much was compared.
    #[must_use]
    pub fn volume(&self) -> Volume {
        Volume {
            acked: self.acked.len() as u64,
            stored: self.stored.values().map(|events| events.len() as u64).sum(),
            shown: self.shown.values().map(|shown| shown.events.len() as u64).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: ConversationId = ConversationId::WORLD;

    fn seq(raw: u64) -> Seq {
        Seq::from_raw(raw)
    }

    /// Three messages, acknowledged, stored and shown.
    fn clean() -> Ledger {
        let mut ledger = Ledger::default();
        for (at, body) in [(1, b"a"), (2, b"b"), (3, b"c")] {
            ledger.acked(ROOM, seq(at), body);
            ledger.stored(ROOM, seq(at), body);
            ledger.shown(ScreenId(1), ROOM, seq(at), body);
        }
        ledger
    }

    #[test]
    fn a_clean_run_is_clean() {
        assert!(clean().verdict(|_| true).is_clean());
        assert_eq!(clean().volume(), Volume { acked: 3, stored: 3, shown: 3 });
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_is_found() {
        let mut ledger = clean();
        ledger.acked(ROOM, seq(4), b"d");
        assert_eq!(ledger.verdict(|_| true), Verdict { acked_missing: 1, ..Verdict::default() });
    }

    #[test]
    fn what_was_acknowledged_elsewhere_or_twice_is_found() {
        let mut ledger = clean();
        ledger.acked(ROOM, seq(3), b"other");
        assert_eq!(ledger.verdict(|_| true).acked_missing, 2);
    }

    #[test]
    fn a_hole_in_the_store_or_on_a_screen_is_found() {
        let mut ledger = clean();
        ledger.stored(ROOM, seq(6), b"f");
        ledger.shown(ScreenId(1), ROOM, seq(6), b"f");
        assert_eq!(ledger.verdict(|_| true), Verdict { holes: 4, ..Verdict::default() });
    }

    #[test]
    fn a_repeat_on_a_screen_or_in_the_store_is_found() {
        let mut ledger = clean();
        ledger.shown(ScreenId(1), ROOM, seq(3), b"c");
        assert_eq!(ledger.verdict(|_| true), Verdict { duplicates: 1, ..Verdict::default() });
        ledger.stored(ROOM, seq(4), b"a");
        assert_eq!(ledger.verdict(|_| true).duplicates, 2);
    }

    #[test]
    fn a_screen_that_shows_something_else_or_stops_early_is_found() {
        let mut ledger = clean();
        ledger.shown(ScreenId(2), ROOM, seq(1), b"x");
        assert_eq!(ledger.verdict(|_| true), Verdict { different: 1, behind: 1, ..Verdict::default() });
    }

    #[test]
    fn a_reset_is_no_hole() {
        let mut ledger = clean();
        ledger.shown(ScreenId(2), ROOM, seq(1), b"a");
        ledger.skipped_to(ScreenId(2), ROOM, seq(2));
        ledger.shown(ScreenId(2), ROOM, seq(3), b"c");
        assert!(ledger.verdict(|_| true).is_clean());
    }
}
