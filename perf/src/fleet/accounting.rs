//! What is missing at the end: the furthest acknowledged place of each conversation, over all workers, against what each connected peer has.

use std::collections::BTreeMap;

use super::book::Book;
use super::peer::{Peer, Phase};

/// By conversation, the furthest place at which something of the fleet was acknowledged.
pub(super) type Heads = BTreeMap<u128, u64>;

/// What peers have and lack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Audit {
    pub(super) expected: u64,
    pub(super) lost: u64,
}

/// Adds another worker's heads.
pub(super) fn merge(heads: &mut Heads, other: &Heads) {
    for (conversation, seq) in other {
        let head = heads.entry(*conversation).or_default();
        *head = (*head).max(*seq);
    }
}

/// Compares every peer with the heads, and notes the result in the books.
pub(super) fn audit(peers: &[Peer], heads: &Heads, book: &mut Book) -> Audit {
    let mut audit = Audit::default();
    for peer in peers {
        audit.expected += peer.got_elsewhere;
        for track in &peer.tracks {
            let reachable = peer.phase == Phase::Open && !peer.stalled;
            let head = heads.get(&track.conversation).copied().filter(|_| reachable);
            let behind = track.position().zip(head).map_or(0, |(position, head)| head.saturating_sub(position));
            audit.lost += behind + track.given_up;
            audit.expected += track.got + behind + track.given_up;
        }
    }
    (book.counts.expected, book.counts.lost) = (audit.expected, audit.lost);
    audit
}
